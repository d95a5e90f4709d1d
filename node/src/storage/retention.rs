//! Removing snapshots and log files that no recovery needs any more (protocol reference §5.7).

use std::path::PathBuf;

use node_core::zxid::Zxid;

use super::dirs::{self, DataDirs};
use super::{StorageError, snapshot};

/// The fewest snapshots that are kept, whatever was asked for: the newest may turn out to be broken.
pub const SNAPSHOTS_MIN: usize = 3;

/// Keeps the newest `keep` snapshots that look whole, and every log file that a recovery from the oldest of them can need.
/// Gives what was removed.
pub fn purge(dirs: &DataDirs, keep: usize) -> Result<Vec<PathBuf>, StorageError> {
    let keep = keep.max(SNAPSHOTS_MIN);
    let kept = snapshot::plausible(dirs.snap_dir(), keep)?;
    let Some(oldest) = kept.last().filter(|_| kept.len() == keep) else {
        return Ok(Vec::new());
    };
    let mut removed = Vec::new();
    // Snapshots go first: a crash in between never leaves one without its log.
    for file in dirs::snapshot_files(dirs.snap_dir())? {
        if file.zxid < oldest.zxid {
            dirs.snap_dir().remove(&file.path)?;
            removed.push(file.path);
        }
    }
    dirs.snap_dir().sync()?;
    for path in unneeded_logs(dirs, oldest.zxid)? {
        dirs.log_dir().remove(&path)?;
        removed.push(path);
    }
    dirs.log_dir().sync()?;
    Ok(removed)
}

/// The log files that end before the transaction after `zxid`.
fn unneeded_logs(dirs: &DataDirs, zxid: Zxid) -> Result<Vec<PathBuf>, StorageError> {
    let logs = dirs::log_files(dirs.log_dir())?;
    let first_needed = logs.iter().rposition(|file| file.zxid <= zxid).unwrap_or(0);
    Ok(logs
        .into_iter()
        .take(first_needed)
        .map(|file| file.path)
        .collect())
}
