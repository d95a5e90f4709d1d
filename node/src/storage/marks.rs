//! What is known to have been on stable storage, in a small file of our own beside the log: how far the log was flushed, and
//! both epochs. Apache's formats cannot tell a log that ends from one whose end is lost; this can.
//!
//! The file never says more than what is true: a mark is written after the flush that it speaks of. It may say less, since
//! the log's mark is not flushed by itself while the log grows. It has two places that are written in turn, each smaller
//! than a sector, so an interrupted write leaves the other one. Apache's server does not know the file and leaves it alone.

use std::path::PathBuf;
use std::sync::Arc;

use node_core::zxid::{Epoch, Zxid};
use parking_lot::Mutex;

use super::StorageError;
use super::epoch::Epochs;
use super::files::{Dir, DiskFile, Open};

/// The name of the file, in the log's directory.
pub const FILE: &str = "zookeeper-node.marks";

/// The bytes between the two places.
const PLACE: u64 = 512;
const MAGIC: u64 = u64::from_be_bytes(*b"ZKMARKS1");
const FIELDS: usize = 7;
const BYTES: usize = (FIELDS + 1) * 8;

/// What is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Known {
    /// The log, or a snapshot, held everything up to this.
    pub flushed: Zxid,
    /// The epochs that were saved.
    pub accepted: Epoch,
    /// See `accepted`.
    pub current: Epoch,
    /// A recovery from a snapshot before this one would miss transactions: the history was replaced by that snapshot.
    pub base: Zxid,
    /// The snapshot that is about to take the place of everything else, if one is.
    pub installing: Option<Zxid>,
}

impl Known {
    /// The epochs alone.
    #[must_use]
    pub fn epochs(self) -> Epochs {
        Epochs {
            accepted: self.accepted,
            current: self.current,
        }
    }
}

/// The file, opened for writing. Clones share it.
#[derive(Clone, Debug)]
pub struct Marks(Arc<Mutex<Inner>>);

#[derive(Debug)]
struct Inner {
    file: Box<dyn DiskFile>,
    path: PathBuf,
    known: Known,
    /// What was written last.
    written: Known,
    turn: u64,
}

/// What the file in `dir` says; `None` when there is none, an error when neither place is whole.
pub fn read(dir: &Dir) -> Result<Option<Known>, StorageError> {
    let path = dir.join(FILE);
    let Some(content) = dir.content(&path)? else {
        return Ok(None);
    };
    let newest = places(&content)
        .into_iter()
        .flatten()
        .max_by_key(|(turn, _)| *turn);
    match newest {
        Some((_, known)) => Ok(Some(known)),
        None => Err(StorageError::MarksDamaged { path }),
    }
}

/// Both places, where they are whole.
fn places(content: &[u8]) -> [Option<(u64, Known)>; 2] {
    let place = |at: usize| content.get(at..at + BYTES).and_then(decode);
    [0, usize::try_from(PLACE).unwrap_or(usize::MAX)].map(place)
}

fn decode(bytes: &[u8]) -> Option<(u64, Known)> {
    let mut fields = bytes
        .chunks_exact(8)
        .map(|chunk| chunk.try_into().map_or(0, u64::from_be_bytes));
    let (magic, turn) = (fields.next()?, fields.next()?);
    let (flushed, accepted, current) = (fields.next()?, fields.next()?, fields.next()?);
    let (base, installing) = (fields.next()?, fields.next()?.cast_signed());
    let whole = magic == MAGIC && fields.next()? == sum(&bytes[..BYTES - 8]);
    let known = Known {
        flushed: Zxid(flushed.cast_signed()),
        accepted: Epoch(accepted.cast_signed()),
        current: Epoch(current.cast_signed()),
        base: Zxid(base.cast_signed()),
        installing: (installing >= 0).then_some(Zxid(installing)),
    };
    whole.then_some((turn, known))
}

fn encode(turn: u64, known: Known) -> Vec<u8> {
    let fields: [u64; FIELDS] = [
        MAGIC,
        turn,
        known.flushed.0.cast_unsigned(),
        known.accepted.0.cast_unsigned(),
        known.current.0.cast_unsigned(),
        known.base.0.cast_unsigned(),
        known.installing.map_or(-1, |zxid| zxid.0).cast_unsigned(),
    ];
    let mut bytes: Vec<u8> = fields
        .iter()
        .flat_map(|field| field.to_be_bytes())
        .collect();
    bytes.extend(sum(&bytes).to_be_bytes());
    bytes
}

/// FNV-1a.
pub(crate) fn sum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |sum, byte| {
        (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

impl Marks {
    /// Opens the file: this is known now, and on stable storage. A whole file is written in its places, because
    /// for a new one there may be no room.
    pub fn create(dir: &Dir, known: Known) -> Result<Self, StorageError> {
        let path = dir.join(FILE);
        let mut content = encode(1, known);
        content.resize(usize::try_from(PLACE).unwrap_or(BYTES), 0);
        content.extend(encode(2, known));
        let old = places(&dir.content(&path)?.unwrap_or_default());
        if let [Some((a, _)), Some((b, _))] = old {
            let marks = Self(Arc::new(Mutex::new(Inner {
                file: dir.write(&path, Open::Existing)?,
                path,
                known,
                written: known,
                turn: a.max(b) + 1,
            })));
            marks.flush()?;
            return Ok(marks);
        }
        dir.replace(&path, &content)?;
        Ok(Self(Arc::new(Mutex::new(Inner {
            file: dir.write(&path, Open::Existing)?,
            path,
            known,
            written: known,
            turn: 3,
        }))))
    }

    /// What is known.
    #[must_use]
    pub fn known(&self) -> Known {
        self.0.lock().known
    }

    /// The log is on stable storage up to `zxid`. Nothing is written before [`write`](Self::write).
    pub fn flushed(&self, zxid: Zxid) {
        let mut inner = self.0.lock();
        inner.known.flushed = inner.known.flushed.max(zxid);
    }

    /// Writes what is known, without a flush: it reaches the disk when the system likes.
    pub fn write(&self) -> Result<(), StorageError> {
        self.0.lock().write()
    }

    /// The epochs that are about to be saved. They are on stable storage here afterwards.
    pub fn epochs(&self, epochs: Epochs) -> Result<(), StorageError> {
        let mut inner = self.0.lock();
        inner.known.accepted = epochs.accepted;
        inner.known.current = epochs.current;
        inner.flush()
    }

    /// What follows `zxid` is about to be removed. That is known on stable storage afterwards.
    pub fn cut(&self, zxid: Zxid) -> Result<(), StorageError> {
        let mut inner = self.0.lock();
        inner.known.flushed = inner.known.flushed.min(zxid);
        inner.known.base = inner.known.base.min(zxid);
        inner.flush()
    }

    /// The snapshot of `zxid` is about to take the place of everything else: the point from which on a restart goes on with
    /// that. It is on stable storage.
    pub fn begin_install(&self, zxid: Zxid) -> Result<(), StorageError> {
        let mut inner = self.0.lock();
        inner.known.flushed = zxid;
        inner.known.installing = Some(zxid);
        inner.flush()
    }

    /// It has.
    pub fn installed(&self, zxid: Zxid) -> Result<(), StorageError> {
        let mut inner = self.0.lock();
        inner.known.base = zxid;
        inner.known.installing = None;
        inner.flush()
    }

    /// Writes and flushes what is known.
    pub fn flush(&self) -> Result<(), StorageError> {
        self.0.lock().flush()
    }
}

impl Inner {
    fn write(&mut self) -> Result<(), StorageError> {
        if self.written == self.known {
            return Ok(());
        }
        self.put()
    }

    fn put(&mut self) -> Result<(), StorageError> {
        let at = self.turn % 2 * PLACE;
        self.file
            .write_at(&encode(self.turn, self.known), at)
            .map_err(StorageError::io("write", &self.path))?;
        self.turn += 1;
        self.written = self.known;
        Ok(())
    }

    /// Writes both places, so that none is left that says what is no longer true.
    fn flush(&mut self) -> Result<(), StorageError> {
        self.put()?;
        self.put()?;
        self.file
            .sync_data()
            .map_err(StorageError::flush(&self.path))
    }
}

#[cfg(test)]
mod tests {
    use super::super::files::FileSystem;
    use super::super::simulated::{Keep, SimDisk};
    use super::*;

    #[test]
    fn a_mark_is_never_more_than_what_was_said_nor_torn() {
        for seed in 0..300 {
            let disk = SimDisk::new();
            let dir = disk.dir("/d");
            disk.create_dir_all(dir.path()).unwrap();
            assert_eq!(read(&dir).unwrap(), None);
            let marks = Marks::create(&dir, Known::default()).unwrap();
            for zxid in 1..20 {
                marks.flushed(Zxid(zxid));
                marks.write().unwrap();
            }
            disk.crash(Keep::Some(seed));
            let found = read(&dir).unwrap().unwrap();
            assert!((0..20).contains(&found.flushed.0), "{found:?}");
        }
    }

    #[test]
    fn a_rotten_place_leaves_the_other_and_two_are_damage() {
        let disk = SimDisk::new();
        let dir = disk.dir("/d");
        disk.create_dir_all(dir.path()).unwrap();
        let marks = Marks::create(&dir, Known::default()).unwrap();
        marks
            .epochs(Epochs {
                accepted: Epoch(4),
                current: Epoch(3),
            })
            .unwrap();
        marks.flushed(Zxid(9));
        marks.flush().unwrap();
        marks.cut(Zxid(7)).unwrap();
        let known = Known {
            flushed: Zxid(7),
            accepted: Epoch(4),
            current: Epoch(3),
            ..Known::default()
        };
        assert_eq!(read(&dir).unwrap(), Some(known));
        disk.rot(&dir.join(FILE), |bytes| bytes[PLACE as usize + 20] ^= 1);
        assert_eq!(read(&dir).unwrap(), Some(known));
        disk.rot(&dir.join(FILE), |bytes| bytes[20] ^= 1);
        let damage = read(&dir).unwrap_err();
        assert!(
            matches!(damage, StorageError::MarksDamaged { .. }),
            "{damage}"
        );
    }
}
