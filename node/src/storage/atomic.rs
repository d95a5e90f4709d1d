//! The few things that others than storage do with files of this machine, done so that a crash does no harm.

use std::path::Path;

use super::StorageError;
use super::files::{Dir, FileSystem, Lock, RealFiles, parent};

/// Replaces `path` by a file with `content`: a temporary file beside it is written and flushed, renamed over it, and the
/// directory is flushed.
pub(crate) fn replace_file(path: &Path, content: &[u8]) -> Result<(), StorageError> {
    Dir::real(parent(path)).replace(path, content)
}

/// Flushes a directory: names of files that were created, renamed or removed in it survive a crash.
pub(crate) fn sync_dir(dir: &Path) -> Result<(), StorageError> {
    Dir::real(dir).sync()
}

/// Locks a directory; the lock ends with the value (and with the process, however it ends).
pub(crate) fn lock_dir(dir: &Path) -> Result<Lock, StorageError> {
    RealFiles.lock(&dir.join(super::dirs::LOCK_FILE))
}
