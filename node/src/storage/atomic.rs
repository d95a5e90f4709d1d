//! Replacing a file so that a crash leaves either the old or the new content, never a part.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use super::StorageError;

/// Replaces `path` by a file with `content`: a temporary file beside it is written and flushed, renamed over it, and the
/// directory is flushed.
pub(crate) fn replace(path: &Path, content: &[u8]) -> Result<(), StorageError> {
    let tmp = tmp_path(path);
    let mut file = File::create(&tmp).map_err(StorageError::io("create", &tmp))?;
    file.write_all(content)
        .map_err(StorageError::io("write", &tmp))?;
    file.sync_all().map_err(StorageError::io("flush", &tmp))?;
    drop(file);
    publish(&tmp, path)
}

/// Gives the flushed file `tmp` its final name, for good.
pub(crate) fn publish(tmp: &Path, path: &Path) -> Result<(), StorageError> {
    fs::rename(tmp, path).map_err(StorageError::io("rename to", path))?;
    sync_dir(parent(path))
}

/// Flushes a directory: names of files that were created, renamed or removed in it survive a crash.
pub(crate) fn sync_dir(dir: &Path) -> Result<(), StorageError> {
    File::open(dir)
        .and_then(|dir| dir.sync_all())
        .map_err(StorageError::io("flush the directory", dir))
}

/// Removes a file; that it is already gone is no error. The caller flushes the directory.
pub(crate) fn remove(path: &Path) -> Result<(), StorageError> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(StorageError::io("remove", path)(e))
        }
        _ => Ok(()),
    }
}

/// `<path>.tmp`, as Apache names it.
pub(crate) fn tmp_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".tmp");
    PathBuf::from(name)
}

/// The directory of a file; of a bare name the current one.
pub(crate) fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    }
}
