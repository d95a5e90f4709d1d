//! Snapshot files (protocol reference §5.5): a header, a body, and seals over everything before them.
//!
//! The body (sessions, ACLs and nodes, up to and with the terminating path "/") is made and parsed by others, in pieces:
//! a snapshot is never in memory as a whole. A snapshot gets its name when it is wholly on the disk, so a crash leaves no
//! half of one.

use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use bytes::{Buf, BufMut};
use node_core::zxid::Zxid;
use simd_adler32::Adler32;

use super::dirs::{self, DataFile, SNAPSHOT};
use super::files::{Dir, Open, Stream, tmp_path};
use super::{ConsumerError, StorageError};
use crate::limits;

/// "ZKSN", version 2, database −1.
const HEADER: [u8; 16] = *b"ZKSN\0\0\0\x02\xff\xff\xff\xff\xff\xff\xff\xff";
/// The path that ends the nodes and every seal.
const END_PATH: [u8; 5] = *b"\0\0\0\x01/";
/// Checksum and end path.
const SEAL: usize = 8 + END_PATH.len();
/// Zxid, version and digest of the tree.
const DIGEST: usize = 8 + 4 + 8;
/// The zxid of the last transaction in the tree.
const LAST_ZXID: usize = 8;
/// The version of the digest's algorithm.
const DIGEST_VERSION: i32 = 2;

/// What a snapshot says about itself after its body.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SnapshotTrailer {
    /// The tree's digest (algorithm version 2) and the transaction after which it holds.
    pub digest: Option<(Zxid, i64)>,
    /// The last transaction that the tree holds.
    pub last_zxid: Option<Zxid>,
}

/// Writes one snapshot. Unless [`finish`](Self::finish) is reached it never gets its name.
pub struct SnapshotWriter {
    dir: Dir,
    path: PathBuf,
    tmp: PathBuf,
    out: BufWriter<Stream>,
    sum: Adler32,
    bytes: u64,
    finished: bool,
}

impl SnapshotWriter {
    /// Begins the snapshot of `dir` that is named after `zxid`.
    pub fn create(dir: &Dir, zxid: Zxid) -> Result<Self, StorageError> {
        Self::create_as(dir, dirs::data_path(dir, SNAPSHOT, zxid))
    }

    /// Begins a snapshot that counts only when it is installed: then it takes the place of the whole history.
    pub fn create_new(dir: &Dir, zxid: Zxid) -> Result<Self, StorageError> {
        Self::create_as(dir, new_path(dir, zxid))
    }

    fn create_as(dir: &Dir, path: PathBuf) -> Result<Self, StorageError> {
        let tmp = tmp_path(&path);
        let file = Stream::new(dir.write(&tmp, Open::Empty)?);
        let out = BufWriter::with_capacity(limits::SNAPSHOT_CHUNK_BYTES, file);
        let mut writer = Self {
            dir: dir.clone(),
            path,
            tmp,
            out,
            sum: Adler32::new(),
            bytes: 0,
            finished: false,
        };
        writer.write(&HEADER)?;
        Ok(writer)
    }

    /// Adds a piece of the body; the last one ends with the end path "/".
    pub fn write(&mut self, piece: &[u8]) -> Result<(), StorageError> {
        self.sum.write(piece);
        self.bytes += piece.len() as u64;
        self.out
            .write_all(piece)
            .map_err(StorageError::io("write", &self.tmp))
    }

    /// Seals the snapshot, flushes it and gives it its name. Gives its path and length.
    pub fn finish(mut self, trailer: SnapshotTrailer) -> Result<(PathBuf, u64), StorageError> {
        self.seal()?;
        if let Some((zxid, digest)) = trailer.digest {
            let mut part = Vec::with_capacity(DIGEST);
            part.put_i64(zxid.0);
            part.put_i32(DIGEST_VERSION);
            part.put_i64(digest);
            self.write(&part)?;
            self.seal()?;
        }
        if let Some(zxid) = trailer.last_zxid {
            self.write(&zxid.0.to_be_bytes())?;
            self.seal()?;
        }
        self.out
            .flush()
            .map_err(StorageError::io("write", &self.tmp))?;
        self.out
            .get_ref()
            .file()
            .sync_all()
            .map_err(StorageError::flush(&self.tmp))?;
        self.dir.publish(&self.tmp, &self.path)?;
        self.finished = true;
        Ok((self.path.clone(), self.bytes))
    }

    fn seal(&mut self) -> Result<(), StorageError> {
        let mut seal = Vec::with_capacity(SEAL);
        seal.put_i64(i64::from(self.sum.finish()));
        seal.put_slice(&END_PATH);
        self.write(&seal)
    }
}

impl Drop for SnapshotWriter {
    fn drop(&mut self) {
        if !self.finished {
            // It has no name yet, so nothing will ever read it; the next snapshot overwrites it.
            let _ = self.dir.remove(&self.tmp);
        }
    }
}

/// Where a snapshot lies that is to be installed.
pub(crate) fn new_path(dir: &Dir, zxid: Zxid) -> PathBuf {
    let mut path = dirs::data_path(dir, SNAPSHOT, zxid).into_os_string();
    path.push(".new");
    PathBuf::from(path)
}

/// Removes snapshots that were to be installed and never were.
pub(crate) fn remove_new(dir: &Dir) -> Result<(), StorageError> {
    for name in dir.names()? {
        if name.starts_with(SNAPSHOT) && name.ends_with(".new") {
            dir.remove(&dir.join(name))?;
        }
    }
    Ok(())
}

/// How far a body's parser came with the bytes that it was fed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fed {
    /// It took all of them and wants more.
    More,
    /// It took this many, up to and with the end path "/": the body is complete.
    Done(usize),
}

/// What takes a snapshot's body.
pub trait SnapshotBody {
    /// Takes the next bytes of the body. It keeps what it needs of a record that is not complete yet.
    fn feed(&mut self, bytes: &[u8]) -> Result<Fed, ConsumerError>;
}

/// A snapshot that was loaded.
#[derive(Debug)]
pub struct Loaded<B> {
    /// What the body made of it.
    pub body: B,
    /// The file.
    pub file: DataFile,
    /// What followed the body.
    pub trailer: SnapshotTrailer,
}

/// Loads the newest snapshot that is whole, trying older ones when it isn't. `None` when there is none at all.
pub fn load_newest<B: SnapshotBody>(
    dir: &Dir,
    mut fresh: impl FnMut() -> B,
) -> Result<Option<Loaded<B>>, StorageError> {
    let mut newest = None;
    let mut count = 0;
    for file in dirs::snapshot_files(dir)?
        .into_iter()
        .rev()
        .take(limits::SNAPSHOT_CANDIDATES)
    {
        let mut body = fresh();
        let read = check_plausible(dir, &file.path).and_then(|()| read(dir, &file.path, &mut body));
        match read {
            Ok(trailer) => {
                return Ok(Some(Loaded {
                    body,
                    file,
                    trailer,
                }));
            }
            Err(error) => {
                tracing::error!(%error, "a snapshot cannot be loaded; trying the one before it");
                count += 1;
                newest.get_or_insert(Box::new(error));
            }
        }
    }
    match newest {
        Some(newest) => Err(StorageError::NoSnapshotLoads {
            dir: dir.path().to_owned(),
            count,
            newest,
        }),
        None => Ok(None),
    }
}

/// Reads one snapshot into `body` and checks every seal.
pub fn read(
    dir: &Dir,
    path: &Path,
    body: &mut impl SnapshotBody,
) -> Result<SnapshotTrailer, StorageError> {
    let file = dir.read(path)?;
    let input: Box<dyn Read> = match path.extension().and_then(|extension| extension.to_str()) {
        Some("gz") => Box::new(flate2::read::MultiGzDecoder::new(file)),
        Some("snappy") => Box::new(super::xerial::XerialReader::new(file)),
        _ => Box::new(file),
    };
    let mut reader = SealedReader {
        path,
        input,
        chunk: Vec::new(),
        sum: Adler32::new(),
        ended: false,
    };
    reader.header()?;
    reader.body(body)?;
    reader.seal("body")?;
    reader.trailer()
}

struct SealedReader<'a> {
    path: &'a Path,
    input: Box<dyn Read>,
    /// What was read but not taken yet.
    chunk: Vec<u8>,
    sum: Adler32,
    ended: bool,
}

impl SealedReader<'_> {
    fn invalid(&self, what: impl Into<String>) -> StorageError {
        StorageError::SnapshotInvalid {
            path: self.path.to_owned(),
            what: what.into(),
        }
    }

    /// Reads on until `wanted` bytes are there or the file ends.
    fn fill(&mut self, wanted: usize) -> Result<(), StorageError> {
        while self.chunk.len() < wanted && !self.ended {
            let chunk = limits::SNAPSHOT_CHUNK_BYTES as u64;
            let read = (&mut self.input).take(chunk).read_to_end(&mut self.chunk);
            match read {
                Ok(n) => self.ended = n == 0,
                // What a decompressor says about wrong bytes is a fault of the file, not of the disk.
                Err(e) if e.raw_os_error().is_none() => {
                    return Err(self.invalid(format!("it is cut off or broken: {e}")));
                }
                Err(e) => return Err(StorageError::io("read", self.path)(e)),
            }
        }
        Ok(())
    }

    /// Takes `n` bytes into the checksum.
    fn take(&mut self, n: usize) -> Result<Vec<u8>, StorageError> {
        self.fill(n)?;
        if self.chunk.len() < n {
            return Err(self.invalid("it ends too early"));
        }
        let rest = self.chunk.split_off(n);
        let taken = std::mem::replace(&mut self.chunk, rest);
        self.sum.write(&taken);
        Ok(taken)
    }

    fn header(&mut self) -> Result<(), StorageError> {
        let header = self.take(HEADER.len())?;
        if header[..4] != HEADER[..4] {
            return Err(self.invalid("it does not begin with the magic number ZKSN"));
        }
        Ok(())
    }

    fn body(&mut self, body: &mut impl SnapshotBody) -> Result<(), StorageError> {
        loop {
            self.fill(1)?;
            if self.chunk.is_empty() {
                return Err(self.invalid("it ends within its body"));
            }
            let fed = body
                .feed(&self.chunk)
                .map_err(|e| self.invalid(e.to_string()))?;
            let taken = match fed {
                Fed::More => self.chunk.len(),
                Fed::Done(taken) => taken.min(self.chunk.len()),
            };
            self.sum.write(&self.chunk[..taken]);
            self.chunk.drain(..taken);
            if let Fed::Done(_) = fed {
                return Ok(());
            }
        }
    }

    /// Checks a seal over everything before it.
    fn seal(&mut self, part: &str) -> Result<(), StorageError> {
        let sum = i64::from(self.sum.finish());
        let seal = self.take(SEAL)?;
        let mut fields = &seal[..];
        let sealed = fields.get_i64();
        if sealed != sum {
            return Err(self.invalid(format!(
                "the checksum of its {part} is {sum:#x}, but it was sealed as {sealed:#x}"
            )));
        }
        if fields != END_PATH {
            return Err(self.invalid(format!("the seal of its {part} is broken")));
        }
        Ok(())
    }

    /// Reads what follows the body. Older servers write less; the length tells what is there.
    fn trailer(&mut self) -> Result<SnapshotTrailer, StorageError> {
        const BOTH: usize = DIGEST + SEAL + LAST_ZXID + SEAL;
        self.fill(BOTH)?;
        let mut trailer = SnapshotTrailer::default();
        if self.chunk.len() >= DIGEST + SEAL {
            let part = self.take(DIGEST)?;
            let mut fields = &part[..];
            let (zxid, version, digest) =
                (Zxid(fields.get_i64()), fields.get_i32(), fields.get_i64());
            self.seal("digest")?;
            trailer.digest = (version == DIGEST_VERSION).then_some((zxid, digest));
        }
        if self.chunk.len() >= LAST_ZXID + SEAL {
            let part = self.take(LAST_ZXID)?;
            self.seal("last zxid")?;
            trailer.last_zxid = Some(Zxid((&part[..]).get_i64()));
        }
        Ok(trailer)
    }
}

/// Whether a file can be a whole snapshot, as far as a glance at its beginning and its end tells (Apache's own check).
fn check_plausible(dir: &Dir, path: &Path) -> Result<(), StorageError> {
    let glance = || -> io::Result<(Vec<u8>, Vec<u8>)> {
        let mut file = Stream::new(dir.files().open_read(path)?);
        let len = file.file().length()?;
        let (mut head, mut tail) = (Vec::new(), Vec::new());
        (&mut file).take(10).read_to_end(&mut head)?;
        file.seek(SeekFrom::Start(len.saturating_sub(END_PATH.len() as u64)))?;
        file.read_to_end(&mut tail)?;
        Ok((head, tail))
    };
    let (head, tail) = glance().map_err(StorageError::io("read", path))?;
    let plausible = match path.extension().and_then(|extension| extension.to_str()) {
        Some("gz") => head.starts_with(&[0x1f, 0x8b]),
        Some("snappy") => head.starts_with(&super::xerial::MAGIC),
        _ => head.len() == 10 && tail == END_PATH,
    };
    if plausible {
        return Ok(());
    }
    let what = if head.is_empty() {
        "it is empty"
    } else {
        "it is not complete: its writer was interrupted"
    };
    Err(StorageError::SnapshotInvalid {
        path: path.to_owned(),
        what: what.to_owned(),
    })
}

/// The newest `keep` snapshots that look whole, newest first.
pub(crate) fn plausible(dir: &Dir, keep: usize) -> Result<Vec<DataFile>, StorageError> {
    let files = dirs::snapshot_files(dir)?.into_iter().rev();
    Ok(files
        .filter(|file| check_plausible(dir, &file.path).is_ok())
        .take(keep)
        .collect())
}

/// The zxid of the newest snapshot not above `to` that looks whole.
pub(crate) fn newest_plausible(dir: &Dir, to: Zxid) -> Result<Option<Zxid>, StorageError> {
    let files = dirs::snapshot_files(dir)?.into_iter().rev();
    Ok(files
        .filter(|file| file.zxid <= to && check_plausible(dir, &file.path).is_ok())
        .map(|file| file.zxid)
        .next())
}

/// Removes every snapshot above `to`, for good.
pub(crate) fn remove_newer(dir: &Dir, to: Zxid) -> Result<(), StorageError> {
    let newer: Vec<_> = dirs::snapshot_files(dir)?
        .into_iter()
        .filter(|file| file.zxid > to)
        .collect();
    for file in &newer {
        tracing::warn!(file = %file.path.display(), %to, "removing a snapshot that is newer than the truncated log");
        dir.remove(&file.path)?;
    }
    if newer.is_empty() { Ok(()) } else { dir.sync() }
}
