//! What a server starts from: its files if they are whole, or else the knowledge that it has to learn everything anew.
//!
//! Damage is never repaired by guessing. Where others have a good copy, the damaged files are set aside and the server
//! takes part without a vote until a leader has given it everything; where nobody else can have one, it does not start.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use node_core::proto::quorum::Proposal;
use node_core::proto::txn::TxnEntry;
use node_core::replica::Replica;
use node_core::standing::Standing;
use node_core::tree::{ImageReader, TreeOptions};
use node_core::zxid::Zxid;

use crate::storage::dirs::{self, DataDirs};
use crate::storage::doubt::{self, Doubt};
use crate::storage::epoch::EpochFiles;
use crate::storage::files::FileSystem;
use crate::storage::marks::{self, Known, Marks};
use crate::storage::recovery::{self, Start};
use crate::storage::snapshot::{Fed, SnapshotBody, SnapshotTrailer, SnapshotWriter};
use crate::storage::{ConsumerError, StorageError, ends, snapshot, txn_log};

/// The file with which a person says that an empty server is a new one. Apache's `zkServer-initialize.sh` makes it.
pub const INITIALIZE: &str = "initialize";

/// How the files are opened.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// `dataDir`.
    pub data_dir: PathBuf,
    /// `dataLogDir`.
    pub data_log_dir: PathBuf,
    /// Whether missing directories are created.
    pub autocreate: bool,
    /// Whether a log without a snapshot is trusted to begin with the first transaction.
    pub trust_empty_snapshot: bool,
    /// Whether an empty directory is a new server's (`db.autocreate`); `None` to find out from the others.
    pub trust_empty: Option<bool>,
    /// Whether other servers vote: they can have a good copy.
    pub others: bool,
    /// Transactions at the end of the log that are kept in memory.
    pub recent: usize,
    /// What a tree is built with.
    pub tree: TreeOptions,
}

/// What a server starts from, and the files that it goes on with.
#[derive(Debug)]
pub struct Opened {
    /// The directories, locked.
    pub dirs: DataDirs,
    /// The epochs, noted in `marks`.
    pub epochs: EpochFiles,
    /// What is known to be on stable storage.
    pub marks: Marks,
    /// Tree and sessions, with the whole log replayed.
    pub replica: Replica,
    /// The end of the log.
    pub recent: VecDeque<Proposal>,
    /// Whether that is all that there ever was.
    pub standing: Standing,
}

/// Tree and sessions as the files give them.
#[derive(Debug)]
pub struct Recovered {
    /// Tree and sessions, with the whole log replayed.
    pub replica: Replica,
    /// The end of the log.
    pub recent: VecDeque<Proposal>,
}

/// Opens the files of a server. An error when they are damaged and no other server can have a good copy.
pub fn open(files: &Arc<dyn FileSystem>, options: &StoreOptions) -> Result<Opened, StorageError> {
    let dirs = DataDirs::open_on(
        files.clone(),
        &options.data_dir,
        &options.data_log_dir,
        options.autocreate,
    )?;
    let doubt = doubt::read(&dirs)?;
    if doubt.is_none() && !doubt::is_empty(&dirs)? {
        match load(&dirs, options) {
            Ok((recovered, epochs, marks)) => {
                let Recovered { replica, recent } = recovered;
                return Ok(Opened {
                    dirs,
                    epochs,
                    marks,
                    replica,
                    recent,
                    standing: Standing::Whole,
                });
            }
            Err(error) if options.others && error.is_repairable() => {
                tracing::error!(
                    %error,
                    "this server's data is damaged: the files are kept under names that begin with {}, and everything is asked from the leader; until then it does not vote",
                    doubt::ASIDE
                );
                doubt::set_aside(&dirs, &error.to_string())?;
            }
            Err(error) if error.is_repairable() => {
                let damage = Box::new(error);
                return Err(StorageError::NoOtherCopy { damage });
            }
            Err(error) => return Err(error),
        }
    }
    begin(dirs, options)
}

/// Begins with nothing.
fn begin(dirs: DataDirs, options: &StoreOptions) -> Result<Opened, StorageError> {
    let mut doubt = doubt::read(&dirs)?;
    if doubt == Some(Doubt::SettingAside) {
        doubt::set_aside(
            &dirs,
            "the files were damaged when this server was started before",
        )?;
        doubt = Some(Doubt::Lost);
    }
    doubt::clear(&dirs)?;
    let initialize: Vec<PathBuf> = [&options.data_dir, &options.data_log_dir]
        .map(|dir| dir.join(INITIALIZE))
        .into_iter()
        .filter(|path| dirs.log_dir().files().open_read(path).is_ok())
        .collect();
    let is_new = !initialize.is_empty()
        || doubt.is_none() && (options.trust_empty == Some(true) || !options.others)
        || doubt == Some(Doubt::Empty) && !options.others;
    let mut replica = Replica::new(options.tree);
    let standing = if is_new {
        save(&dirs, &mut replica, false)?;
        Standing::Whole
    } else {
        let doubt = match doubt {
            Some(doubt) => doubt,
            None if options.trust_empty == Some(false) => Doubt::Lost,
            None => Doubt::Empty,
        };
        doubt::write(
            &dirs,
            doubt,
            "The directories were empty, or their files damaged.",
        )?;
        doubt.standing()
    };
    let marks = Marks::create(dirs.log_dir(), Known::default())?;
    let epochs = EpochFiles::open(dirs.snap_dir(), Zxid::ZERO, Some(&marks))?.with_marks(&marks)?;
    if is_new {
        doubt::remove(&dirs)?;
        for path in initialize {
            dirs.log_dir().remove(&path)?;
        }
    }
    Ok(Opened {
        dirs,
        epochs,
        marks,
        replica,
        recent: VecDeque::new(),
        standing,
    })
}

/// Loads what is there, and checks it against what is known to have been there.
fn load(
    dirs: &DataDirs,
    options: &StoreOptions,
) -> Result<(Recovered, EpochFiles, Marks), StorageError> {
    let known = marks::read(dirs.log_dir())?;
    if let Some(zxid) = known.and_then(|known| known.installing) {
        txn_log::finish_install(dirs.log_dir(), dirs.snap_dir(), zxid)?;
    }
    snapshot::remove_new(dirs.snap_dir())?;
    let recovered = recover(dirs, known, options)?;
    let last = recovered.replica.last_zxid();
    let marks = Marks::create(
        dirs.log_dir(),
        Known {
            // What else was read need not be on stable storage before the log is opened for writing.
            installing: None,
            base: known
                .and_then(|known| known.installing)
                .or(known.map(|known| known.base))
                .unwrap_or_default(),
            ..known.unwrap_or_default()
        },
    )?;
    let epochs = EpochFiles::open(dirs.snap_dir(), last, known.map(|_| &marks))?;
    let epochs = epochs.with_marks(&marks)?;
    Ok((recovered, epochs, marks))
}

/// Reads the newest snapshot and the log after it. Less than what is known to have been there is damage.
pub fn recover(
    dirs: &DataDirs,
    known: Option<Known>,
    options: &StoreOptions,
) -> Result<Recovered, StorageError> {
    let fresh = || Body(Some(ImageReader::new(options.tree)));
    let start = recovery::load(dirs, options.trust_empty_snapshot, fresh)?;
    let from = start.zxid();
    if let Some(known) = known.filter(|known| known.base > from) {
        return Err(StorageError::SnapshotLost {
            dir: dirs.snap_dir().path().to_owned(),
            found: from,
            lost: known.base,
        });
    }
    let mut replica = match start {
        // A server that was ever started has at least the snapshot of an empty tree.
        Start::Empty if known.is_some() => {
            return Err(StorageError::SnapshotMissing {
                snap_dir: dirs.snap_dir().path().to_owned(),
                log_dir: dirs.log_dir().path().to_owned(),
            });
        }
        Start::Empty | Start::LogOnly => Replica::new(options.tree),
        Start::Snapshot(loaded) => restore(loaded.body, &loaded.file.path, from)?,
    };
    ends::check_files(dirs.log_dir(), from)?;
    let (mut recent, mut bytes) = (VecDeque::new(), 0);
    let replayed = recovery::replay(dirs.log_dir(), from, |zxid, data: Bytes| {
        let entry = TxnEntry::decode(data.clone())?;
        replica.apply(&entry.header, &entry.txn);
        bytes += data.len();
        recent.push_back(Proposal { zxid, data });
        while recent.len() > options.recent || bytes > crate::limits::COMMITTED_LOG_BYTES {
            let Some(oldest) = recent.pop_front() else {
                break;
            };
            bytes -= oldest.data.len();
        }
        Ok(())
    })?;
    if let Some(known) = known.filter(|known| known.flushed > replayed.last) {
        return Err(StorageError::LogShort {
            dir: dirs.log_dir().path().to_owned(),
            last: replayed.last,
            flushed: known.flushed,
        });
    }
    Ok(Recovered { replica, recent })
}

struct Body(Option<ImageReader>);

impl SnapshotBody for Body {
    fn feed(&mut self, bytes: &[u8]) -> Result<Fed, ConsumerError> {
        let reader = self
            .0
            .as_mut()
            .ok_or("the snapshot goes on after its end")?;
        let progress = reader.feed(bytes)?;
        Ok(if progress.done {
            Fed::Done(progress.consumed)
        } else {
            Fed::More
        })
    }
}

fn restore(body: Body, path: &Path, zxid: Zxid) -> Result<Replica, StorageError> {
    let invalid = |what: String| StorageError::SnapshotInvalid {
        path: path.to_owned(),
        what,
    };
    let reader = body.0.ok_or_else(|| invalid("it has no tree".into()))?;
    let restored = reader
        .finish()
        .map_err(|error| invalid(error.to_string()))?;
    Ok(Replica::restored(restored, zxid))
}

/// What a snapshot of a tree with this digest says about itself.
#[must_use]
pub fn trailer(zxid: Zxid, digest: Option<i64>, with_last_zxid: bool) -> SnapshotTrailer {
    SnapshotTrailer {
        // Apache writes a digest of 0 for the tree before the first transaction.
        digest: digest.map(|digest| (zxid, if zxid == Zxid::ZERO { 0 } else { digest })),
        last_zxid: with_last_zxid.then_some(zxid),
    }
}

/// Writes a replica that nobody changes meanwhile as a snapshot: under its name, or beside it, to be
/// [installed](txn_log::TxnLog::install).
pub fn save(dirs: &DataDirs, replica: &mut Replica, to_install: bool) -> Result<(), StorageError> {
    let (zxid, digest) = (replica.last_zxid(), replica.tree().digest());
    let mut file = match to_install {
        true => SnapshotWriter::create_new(dirs.snap_dir(), zxid)?,
        false => SnapshotWriter::create(dirs.snap_dir(), zxid)?,
    };
    let id = replica.begin_snapshot();
    let mut piece = Vec::new();
    let written = loop {
        let done = replica.snapshot_chunk(id, 256, &mut piece);
        if let Err(error) = file.write(&piece) {
            break Err(error);
        }
        piece.clear();
        if done {
            break file.finish(trailer(zxid, digest, true)).map(|_| ());
        }
    };
    replica.end_snapshot(id);
    written
}

/// The history is whole and on stable storage: the server votes after a restart, too.
pub fn trust(dirs: &DataDirs, tree: TreeOptions) -> Result<(), StorageError> {
    if dirs::snapshot_files(dirs.snap_dir())?.is_empty() {
        // No leader's snapshot came: the log begins with the first transaction. Alone it would not be trusted.
        save(dirs, &mut Replica::new(tree), false)?;
    }
    doubt::remove(dirs)
}

/// Empties the directories of a server that kept nothing so far and begins to. Until the first snapshot is installed they
/// count for nothing.
pub fn empty(dirs: &DataDirs) -> Result<(Marks, EpochFiles), StorageError> {
    doubt::write(
        dirs,
        Doubt::Lost,
        "This server has only begun to keep its data.",
    )?;
    doubt::clear(dirs)?;
    let marks = Marks::create(dirs.log_dir(), Known::default())?;
    let epochs = EpochFiles::open(dirs.snap_dir(), Zxid::ZERO, Some(&marks))?.with_marks(&marks)?;
    Ok((marks, epochs))
}

/// The zxids of the snapshots, oldest first.
pub fn snapshots(dirs: &DataDirs) -> Result<Vec<Zxid>, StorageError> {
    let files = dirs::snapshot_files(dirs.snap_dir())?;
    Ok(files.into_iter().map(|file| file.zxid).collect())
}
