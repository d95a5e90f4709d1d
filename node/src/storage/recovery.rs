//! Starting from what is on the disk (protocol reference §5.6): the newest whole snapshot, then the log after it.
//!
//! The two steps are apart because the snapshot's parser becomes the tree that the log is replayed into:
//! [`load`], then [`replay`].

use bytes::Bytes;
use node_core::zxid::Zxid;

use super::dirs::DataDirs;
use super::files::Dir;
use super::log_reader::LogReader;
use super::snapshot::{self, Loaded, SnapshotBody};
use super::{ConsumerError, StorageError};

/// What a server starts from.
#[derive(Debug)]
pub enum Start<B> {
    /// A snapshot; the log goes on after its zxid.
    Snapshot(Loaded<B>),
    /// Neither a snapshot nor a log: a new server.
    Empty,
    /// A log without a snapshot, trusted to begin with the first transaction (`snapshot.trust.empty`).
    LogOnly,
}

impl<B> Start<B> {
    /// The zxid from which the log is replayed: what comes after it isn't in the tree yet.
    #[must_use]
    pub fn zxid(&self) -> Zxid {
        match self {
            Self::Snapshot(loaded) => loaded.file.zxid,
            Self::Empty | Self::LogOnly => Zxid::ZERO,
        }
    }
}

/// Loads the newest whole snapshot into a `fresh` body. A log without any snapshot is an error unless `trust_empty`.
pub fn load<B: SnapshotBody>(
    dirs: &DataDirs,
    trust_empty: bool,
    fresh: impl FnMut() -> B,
) -> Result<Start<B>, StorageError> {
    if let Some(loaded) = snapshot::load_newest(dirs.snap_dir(), fresh)? {
        return Ok(Start::Snapshot(loaded));
    }
    match LogReader::open(dirs.log_dir(), Zxid::ZERO)?
        .next()
        .transpose()?
    {
        None => Ok(Start::Empty),
        Some(_) if trust_empty => Ok(Start::LogOnly),
        Some(_) => Err(StorageError::SnapshotMissing {
            snap_dir: dirs.snap_dir().path().to_owned(),
            log_dir: dirs.log_dir().path().to_owned(),
        }),
    }
}

/// What was replayed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Replayed {
    /// The last transaction: of the log, or the snapshot's own when the log holds no later one.
    pub last: Zxid,
    /// How many transactions.
    pub count: u64,
}

/// Feeds every transaction after `after` to `apply`, in order and without a gap. A gap is an error: transactions that were
/// acknowledged would be missing.
pub fn replay(
    log_dir: &Dir,
    after: Zxid,
    mut apply: impl FnMut(Zxid, Bytes) -> Result<(), ConsumerError>,
) -> Result<Replayed, StorageError> {
    let mut log = LogReader::open(log_dir, Zxid(after.0.saturating_add(1)))?;
    let mut replayed = Replayed {
        last: after,
        count: 0,
    };
    while let Some(record) = log.next() {
        let record = record?;
        let path = || log.path().unwrap_or(log_dir.path()).to_owned();
        if !record.zxid.follows(replayed.last) {
            return Err(StorageError::LogGap {
                after: replayed.last,
                next: record.zxid,
                path: path(),
            });
        }
        apply(record.zxid, record.txn).map_err(|source| StorageError::Replay {
            path: path(),
            zxid: record.zxid,
            source,
        })?;
        replayed = Replayed {
            last: record.zxid,
            count: replayed.count + 1,
        };
    }
    Ok(replayed)
}
