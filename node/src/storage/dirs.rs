//! The directories of a server: where they are, that they exist, and that no other process uses them.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use node_core::zxid::Zxid;

use super::StorageError;
use super::files::{Dir, FileSystem, Lock, RealFiles, parent};

/// The directory below `dataDir` and `dataLogDir` that names the version of the file formats.
const VERSION_DIR: &str = "version-2";

/// The file in a data directory that its owner holds locked.
pub(crate) const LOCK_FILE: &str = ".zookeeper-node.lock";

/// The directories of one server. As long as this value lives no other process of this program can open them.
#[derive(Debug)]
pub struct DataDirs {
    data_dir: PathBuf,
    snap_dir: Dir,
    log_dir: Dir,
    _locks: Vec<Lock>,
}

impl DataDirs {
    /// Creates the directories as needed (if `autocreate`), checks them, and locks them.
    pub fn open(
        data_dir: &Path,
        data_log_dir: &Path,
        autocreate: bool,
    ) -> Result<Self, StorageError> {
        Self::open_on(Arc::new(RealFiles), data_dir, data_log_dir, autocreate)
    }

    /// The same on any file system.
    pub fn open_on(
        files: Arc<dyn FileSystem>,
        data_dir: &Path,
        data_log_dir: &Path,
        autocreate: bool,
    ) -> Result<Self, StorageError> {
        let snap_dir = Dir::new(files.clone(), data_dir.join(VERSION_DIR));
        let log_dir = Dir::new(files.clone(), data_log_dir.join(VERSION_DIR));
        for dir in [snap_dir.path(), log_dir.path()] {
            if !files.is_dir(dir) {
                if !autocreate {
                    return Err(StorageError::DirectoryMissing {
                        path: dir.to_owned(),
                    });
                }
                files
                    .create_dir_all(dir)
                    .map_err(StorageError::io("create the directory", dir))?;
                let data_dir = parent(dir);
                Dir::new(files.clone(), data_dir).sync()?;
                Dir::new(files.clone(), parent(data_dir)).sync()?;
            }
        }
        let lock = |dir: &Path| files.lock(&dir.join(LOCK_FILE));
        let mut locks = vec![lock(data_dir)?];
        if !same_dir(files.as_ref(), data_dir, data_log_dir) {
            locks.push(lock(data_log_dir)?);
            refuse_strays(&snap_dir, LOG)?;
            refuse_strays(&log_dir, SNAPSHOT)?;
        }
        remove_unfinished(&snap_dir)?;
        Ok(Self {
            data_dir: data_dir.to_owned(),
            snap_dir,
            log_dir,
            _locks: locks,
        })
    }

    /// `dataDir`: `myid` lies here.
    #[must_use]
    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// Where snapshots and epoch files are.
    #[must_use]
    pub fn snap_dir(&self) -> &Dir {
        &self.snap_dir
    }

    /// Where the transaction log is.
    #[must_use]
    pub fn log_dir(&self) -> &Dir {
        &self.log_dir
    }
}

fn same_dir(files: &dyn FileSystem, a: &Path, b: &Path) -> bool {
    match (files.canonical(a), files.canonical(b)) {
        (Ok(a), Ok(b)) => a == b,
        _ => a == b,
    }
}

/// Removes snapshots that a crash interrupted. The epoch files' temporary ones stay: they may count.
fn remove_unfinished(snap_dir: &Dir) -> Result<(), StorageError> {
    for name in snap_dir.names()? {
        if name.starts_with(SNAPSHOT) && name.ends_with(".tmp") {
            snap_dir.remove(&snap_dir.join(name))?;
        }
    }
    Ok(())
}

fn refuse_strays(dir: &Dir, prefix: &'static str) -> Result<(), StorageError> {
    match list(dir, prefix)?.pop() {
        Some(file) => Err(StorageError::WrongDirectory { path: file.path }),
        None => Ok(()),
    }
}

/// The prefix of log files' names.
pub(crate) const LOG: &str = "log.";

/// The prefix of snapshots' names.
pub(crate) const SNAPSHOT: &str = "snapshot.";

/// A log file or a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataFile {
    /// The zxid in its name: of a log file's first transaction, or the one at which a snapshot began.
    pub zxid: Zxid,
    /// Where it is.
    pub path: PathBuf,
}

/// The log files of a directory, oldest first.
pub fn log_files(dir: &Dir) -> Result<Vec<DataFile>, StorageError> {
    list(dir, LOG)
}

/// The snapshots of a directory, oldest first, compressed ones too.
pub fn snapshot_files(dir: &Dir) -> Result<Vec<DataFile>, StorageError> {
    list(dir, SNAPSHOT)
}

fn list(dir: &Dir, prefix: &'static str) -> Result<Vec<DataFile>, StorageError> {
    let mut files = Vec::new();
    for name in dir.names()? {
        if let Some(zxid) = zxid_of(&name, prefix) {
            let path = dir.join(name);
            files.push(DataFile { zxid, path });
        }
    }
    files.sort_by(|a, b| (a.zxid, &a.path).cmp(&(b.zxid, &b.path)));
    Ok(files)
}

/// The zxid in a file's name: `log.1f`, `snapshot.1f`, `snapshot.1f.gz`.
fn zxid_of(name: &str, prefix: &str) -> Option<Zxid> {
    let rest = name.strip_prefix(prefix)?;
    let hex = match prefix {
        SNAPSHOT => rest
            .strip_suffix(".gz")
            .or_else(|| rest.strip_suffix(".snappy"))
            .unwrap_or(rest),
        _ => rest,
    };
    u64::from_str_radix(hex, 16)
        .ok()
        .filter(|_| !hex.starts_with('+'))
        .map(|zxid| Zxid(zxid.cast_signed()))
}

/// The path of a log file or snapshot, as Apache names it.
pub(crate) fn data_path(dir: &Dir, prefix: &str, zxid: Zxid) -> PathBuf {
    dir.join(format!("{prefix}{:x}", zxid.0))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn file_names_hold_their_zxid_in_hex() {
        assert_eq!(zxid_of("log.100000001", LOG), Some(Zxid(0x1_0000_0001)));
        assert_eq!(zxid_of("snapshot.43.gz", SNAPSHOT), Some(Zxid(0x43)));
        assert_eq!(zxid_of("snapshot.43.snappy", SNAPSHOT), Some(Zxid(0x43)));
        for name in ["log.", "log.1.tmp", "log.+1", "catalog.1", "snapshot.1.zip"] {
            assert_eq!(
                zxid_of(name, LOG).or_else(|| zxid_of(name, SNAPSHOT)),
                None,
                "{name}"
            );
        }
    }

    #[test]
    fn two_processes_never_share_a_data_directory() {
        let dir = tempfile::tempdir().unwrap();
        let open = || DataDirs::open(dir.path(), dir.path(), true);
        let first = open().unwrap();
        let message = open().unwrap_err().to_string();
        assert!(
            message.contains("belongs to another running server"),
            "{message}"
        );
        assert!(
            message.ends_with(&format!("by process {}", std::process::id())),
            "{message}"
        );
        drop(first);
        open().unwrap();
    }

    #[test]
    fn a_missing_directory_is_only_created_when_allowed() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("a/b");
        let error = DataDirs::open(&data, &data, false).unwrap_err();
        assert!(
            error.to_string().contains("datadir.autocreate=false"),
            "{error}"
        );
        DataDirs::open(&data, &data, true).unwrap();
        assert!(data.join("version-2").is_dir());
    }

    #[test]
    fn snapshots_in_a_separate_log_directory_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (data, log) = (dir.path().join("data"), dir.path().join("log"));
        drop(DataDirs::open(&data, &log, true).unwrap());
        fs::write(data.join("version-2/snapshot.5.tmp"), b"").unwrap();
        drop(DataDirs::open(&data, &log, true).unwrap());
        assert!(
            !data.join("version-2/snapshot.5.tmp").exists(),
            "an unfinished snapshot is removed"
        );
        fs::write(log.join("version-2/snapshot.5"), b"").unwrap();
        let error = DataDirs::open(&data, &log, true).unwrap_err();
        assert!(
            error
                .to_string()
                .contains("snapshot.5 is in the wrong directory"),
            "{error}"
        );
    }
}
