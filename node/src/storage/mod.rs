//! The files of one server, in Apache's formats: transaction log, snapshots, epochs.
//!
//! What is promised: nothing that [`log_writer`] reported as flushed is lost by a crash, and nothing that was damaged is
//! read as if it were whole. What is not done here: no decision of the protocol, and no parsing of a transaction beyond its
//! zxid, nor of a snapshot's tree.
//!
//! ```text
//! dataDir/version-2/snapshot.<zxid>  acceptedEpoch  currentEpoch     [snapshot] [epoch]
//! dataLogDir/version-2/log.<zxid>                                    [txn_log] [log_reader] [log_file]
//! our own, which Apache leaves alone: zookeeper-node.marks [marks]  .ends [ends]  .not-voting [doubt]
//! ```

use std::io;
use std::path::{Path, PathBuf};

use node_core::zxid::{Epoch, Zxid};
use rustix::io::Errno;

pub mod dirs;
pub mod doubt;
pub mod ends;
pub mod epoch;
pub mod files;
pub mod log_file;
pub mod log_reader;
pub mod log_writer;
pub mod marks;
pub mod recovery;
pub mod retention;
pub mod simulated;
pub mod snapshot;
pub mod txn_log;

mod atomic;
mod xerial;

pub(crate) use atomic::{lock_dir, replace_file, sync_dir};

/// Any error of a consumer that storage feeds: a snapshot's parser, or what replays transactions.
pub type ConsumerError = Box<dyn std::error::Error + Send + Sync>;

/// What can go wrong with the files of a server. Every variant names the file.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// The operating system refused.
    #[error("cannot {act} {}: {source}", path.display())]
    Io {
        /// What was tried, as in "cannot … FILE".
        act: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A directory is missing and may not be created.
    #[error("{} does not exist, and datadir.autocreate=false forbids to create it", path.display())]
    DirectoryMissing {
        /// The directory.
        path: PathBuf,
    },
    /// Another process has the directory.
    #[error("{} belongs to another running server (its lock file {} is held){}", dir.display(), lock.display(), by(.holder))]
    Locked {
        /// The data directory.
        dir: PathBuf,
        /// The lock file.
        lock: PathBuf,
        /// What the holder wrote into the lock file.
        holder: String,
    },
    /// Snapshots in the log's directory, or logs in the snapshots' directory.
    #[error("{} is in the wrong directory: dataLogDir holds only log files and dataDir only snapshots when they differ; move it, or use one directory for both", path.display())]
    WrongDirectory {
        /// The file that should not be there.
        path: PathBuf,
    },
    /// Bytes of the log are not what was written, and it cannot be the unflushed end of the log.
    #[error("the transaction log is damaged: {} at byte {offset}: {what} (the last whole record before is {last}); this server must not start with a shortened history", path.display())]
    LogDamaged {
        /// The log file.
        path: PathBuf,
        /// Where the broken record begins.
        offset: u64,
        /// What is wrong there.
        what: String,
        /// The last whole record before it.
        last: Zxid,
    },
    /// The log ends before what was flushed.
    #[error("the transaction log in {} ends with {last}, but everything up to {flushed} was flushed: its end is lost", dir.display())]
    LogShort {
        /// The log's directory.
        dir: PathBuf,
        /// The last transaction that is there.
        last: Zxid,
        /// The last one that was.
        flushed: Zxid,
    },
    /// A file that tells what was on stable storage exists, but tells nothing.
    #[error(
        "{} is damaged: nobody can tell whether the log is whole without it; if you know that it is, remove that file", path.display()
    )]
    MarksDamaged {
        /// The file.
        path: PathBuf,
    },
    /// A log file is gone.
    #[error("the log file {} is missing: it held the transactions {first} to {last}", path.display())]
    LogFileMissing {
        /// Where it should be.
        path: PathBuf,
        /// Its first transaction.
        first: Zxid,
        /// Its last one.
        last: Zxid,
    },
    /// The snapshot that replaced the history is gone; older ones do not lead to what followed.
    #[error("no snapshot in {} from {lost} on can be loaded, only {found}; between them the log was never kept", dir.display())]
    SnapshotLost {
        /// The snapshots' directory.
        dir: PathBuf,
        /// The newest that loads, or zero.
        found: Zxid,
        /// The oldest that suffices.
        lost: Zxid,
    },
    /// The log does not continue where the snapshot, or an earlier part of the log, ends.
    #[error("transactions are missing: after {after} comes {next} in {}; the log files between were removed or lost", path.display())]
    LogGap {
        /// The last zxid that is there.
        after: Zxid,
        /// The next one that is there.
        next: Zxid,
        /// The log file in which it is.
        path: PathBuf,
    },
    /// The zxid to truncate to is in no log file and in no snapshot.
    #[error("cannot truncate the log in {} to {to}: it holds no such transaction", dir.display())]
    TruncateTarget {
        /// The log's directory.
        dir: PathBuf,
        /// The wanted last zxid.
        to: Zxid,
    },
    /// A snapshot that cannot be used.
    #[error("the snapshot {} is not usable: {what}", path.display())]
    SnapshotInvalid {
        /// The snapshot.
        path: PathBuf,
        /// Why.
        what: String,
    },
    /// There are snapshots, but none of them loads.
    #[error("none of the {count} snapshots in {} can be loaded; the newest: {newest}", dir.display())]
    NoSnapshotLoads {
        /// The directory.
        dir: PathBuf,
        /// How many were tried.
        count: usize,
        /// What is wrong with the newest one.
        newest: Box<Self>,
    },
    /// A log without the snapshot that it starts from.
    #[error("{} holds transactions but there is no snapshot in {}; if the log is known to begin with the first transaction, set snapshot.trust.empty=true once", log_dir.display(), snap_dir.display())]
    SnapshotMissing {
        /// Where the snapshots should be.
        snap_dir: PathBuf,
        /// Where the log is.
        log_dir: PathBuf,
    },
    /// An epoch file that does not hold a number.
    #[error("{} must hold an epoch (a whole number), but holds {found:?}", path.display())]
    EpochFile {
        /// The file.
        path: PathBuf,
        /// What is in it.
        found: String,
    },
    /// The epoch files and the log contradict each other.
    #[error("the epochs in {} contradict each other: {what}", dir.display())]
    EpochMismatch {
        /// The directory.
        dir: PathBuf,
        /// The contradiction.
        what: String,
    },
    /// A new epoch is smaller than the saved one.
    #[error("{} holds epoch {saved}; it cannot go back to {new}", path.display())]
    EpochBackwards {
        /// The file.
        path: PathBuf,
        /// What it holds.
        saved: Epoch,
        /// What was to be written.
        new: Epoch,
    },
    /// What storage fed refused it.
    #[error("{}: transaction {zxid} cannot be replayed: {source}", path.display())]
    Replay {
        /// The log file.
        path: PathBuf,
        /// The transaction.
        zxid: Zxid,
        /// Why.
        source: ConsumerError,
    },
    /// The server's own record of the membership is gone.
    #[error("the membership that {} recorded is lost: {what}; this server must not start with an older one: restore the file, or empty this server's directories so that it joins anew", path.display())]
    MembershipLost {
        /// The file that recorded it, or that names the file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// Data is damaged, and there is nobody else who could have it.
    #[error(
        "{damage}; no other server votes, so none has a good copy: restore the file from a backup, or empty the data directories to begin anew without the data"
    )]
    NoOtherCopy {
        /// What is damaged.
        damage: Box<Self>,
    },
    /// There is no room. It was no flush that failed, so it may be tried again when there is.
    #[error("cannot {act} {}: the disk is full", path.display())]
    Full {
        /// What was tried.
        act: &'static str,
        /// The file.
        path: PathBuf,
    },
    /// The log was used after a failed write.
    #[error("the transaction log failed before; nothing more is written to it")]
    LogFailed,
}

/// The clause that names the holder of a lock.
fn by(holder: &str) -> String {
    let holder = holder.trim();
    if holder.is_empty() {
        String::new()
    } else {
        format!(" by process {holder}")
    }
}

impl StorageError {
    /// Whether what was stored is not there any more, or cannot be trusted: another start does not help, only another
    /// disk or a copy from the other servers does. What the system refuses for another reason (no space, no permission)
    /// is no damage.
    #[must_use]
    pub fn is_damage(&self) -> bool {
        match self {
            Self::LogDamaged { .. }
            | Self::LogShort { .. }
            | Self::LogFileMissing { .. }
            | Self::MarksDamaged { .. }
            | Self::SnapshotLost { .. }
            | Self::LogGap { .. }
            | Self::SnapshotInvalid { .. }
            | Self::NoSnapshotLoads { .. }
            | Self::SnapshotMissing { .. }
            | Self::EpochFile { .. }
            | Self::EpochMismatch { .. }
            | Self::Replay { .. }
            | Self::MembershipLost { .. } => true,
            Self::NoOtherCopy { damage } => damage.is_damage(),
            Self::Io { source, .. } => {
                let broken = [Errno::IO, Errno::UCLEAN].map(Errno::raw_os_error);
                source
                    .raw_os_error()
                    .is_some_and(|code| broken.contains(&code))
            }
            Self::DirectoryMissing { .. }
            | Self::Locked { .. }
            | Self::WrongDirectory { .. }
            | Self::TruncateTarget { .. }
            | Self::EpochBackwards { .. }
            | Self::Full { .. }
            | Self::LogFailed => false,
        }
    }

    /// Whether all that is missing is room.
    #[must_use]
    pub fn is_full(&self) -> bool {
        matches!(self, Self::Full { .. })
    }

    /// Whether everything would be well with a copy from the other servers: the files are damaged, not the disk.
    #[must_use]
    pub fn is_repairable(&self) -> bool {
        self.is_damage() && !matches!(self, Self::Io { .. } | Self::MembershipLost { .. })
    }

    /// Makes an error of the operating system say what was tried with which file.
    pub(crate) fn io(act: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::Full { act, path },
            _ => Self::Io { act, path, source },
        }
    }

    /// The same for a flush. One that fails is never repeated, for want of room neither: it may succeed then without
    /// having written anything.
    pub(crate) fn flush(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let (act, path) = ("flush", path.to_owned());
        move |source| Self::Io { act, path, source }
    }
}
