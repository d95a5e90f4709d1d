//! The operating system's files, as far as storage needs them: the one seam between the formats and the disk.
//!
//! The server uses [`RealFiles`]; tests use [`SimDisk`](super::simulated::SimDisk), which keeps apart what a crash leaves
//! and what a process sees. The seam is crossed once for each group of records that is flushed together, never for each
//! record.

use std::fmt::Debug;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{FallocateFlags, fallocate};

use super::StorageError;

/// How a file is opened for writing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Open {
    /// It must not be there yet.
    New,
    /// It is created, or emptied.
    Empty,
    /// It must be there, and keeps what it holds.
    Existing,
}

/// A file that is open. Nothing is on stable storage before one of the two syncs.
pub trait DiskFile: Debug + Send + Sync {
    /// Reads from an offset; how many bytes, 0 at the end.
    fn read_at(&self, out: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Writes all of `bytes` at an offset.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// The length in bytes.
    fn length(&self) -> io::Result<u64>;
    /// Shortens or, with zeros, lengthens the file.
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// Reserves space for the bytes `from..to`, which become zeros where there are none; the file is at least `to` long.
    fn reserve(&self, from: u64, to: u64) -> io::Result<()>;
    /// The content, and what is needed to find it, is on stable storage afterwards.
    fn sync_data(&self) -> io::Result<()>;
    /// The same with all metadata.
    fn sync_all(&self) -> io::Result<()>;
}

/// A file system.
pub trait FileSystem: Debug + Send + Sync {
    /// Opens a file for reading.
    fn open_read(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;
    /// Opens a file for writing.
    fn open_write(&self, path: &Path, how: Open) -> io::Result<Box<dyn DiskFile>>;
    /// Gives a file another name in the same directory; a file that had it is gone.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// The names in a directory, in no order.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;
    /// The names in a directory are on stable storage afterwards.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
    /// Whether there is a directory of this name.
    fn is_dir(&self, path: &Path) -> bool;
    /// Makes a directory and those above it.
    fn create_dir_all(&self, path: &Path) -> io::Result<()>;
    /// Bytes that can still be written in a directory.
    fn free_bytes(&self, dir: &Path) -> io::Result<u64>;
    /// The one name of a path.
    fn canonical(&self, path: &Path) -> io::Result<PathBuf>;
    /// Keeps other processes out of a directory, by a file in it.
    fn lock(&self, path: &Path) -> Result<Lock, StorageError>;
}

/// A lock that is held; it ends with this value, and with the process, however that ends.
#[derive(Debug)]
pub struct Lock(#[expect(dead_code, reason = "the lock is held by the open file")] Option<File>);

impl Lock {
    /// Of a disk that no other process can reach.
    pub(crate) fn private() -> Self {
        Self(None)
    }
}

/// A directory of a file system.
#[derive(Clone, Debug)]
pub struct Dir {
    files: Arc<dyn FileSystem>,
    path: PathBuf,
}

impl Dir {
    /// A directory of any file system.
    #[must_use]
    pub fn new(files: Arc<dyn FileSystem>, path: impl Into<PathBuf>) -> Self {
        Self {
            files,
            path: path.into(),
        }
    }

    /// A directory of this machine.
    #[must_use]
    pub fn real(path: impl Into<PathBuf>) -> Self {
        Self::new(Arc::new(RealFiles), path)
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file system that it is in.
    #[must_use]
    pub fn files(&self) -> &Arc<dyn FileSystem> {
        &self.files
    }

    /// The path of a file in it.
    #[must_use]
    pub fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.path.join(name)
    }

    /// Opens a file for reading from its beginning.
    pub(crate) fn read(&self, path: &Path) -> Result<Stream, StorageError> {
        let file = self.files.open_read(path);
        file.map(Stream::new)
            .map_err(StorageError::io("open", path))
    }

    /// The content of a small file; `None` when there is none.
    pub(crate) fn content(&self, path: &Path) -> Result<Option<Vec<u8>>, StorageError> {
        let file = match self.files.open_read(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file.map_err(StorageError::io("open", path))?,
        };
        let mut content = Vec::new();
        Stream::new(file)
            .read_to_end(&mut content)
            .map_err(StorageError::io("read", path))?;
        Ok(Some(content))
    }

    /// Opens a file for writing.
    pub(crate) fn write(&self, path: &Path, how: Open) -> Result<Box<dyn DiskFile>, StorageError> {
        let act = match how {
            Open::New | Open::Empty => "create",
            Open::Existing => "open",
        };
        self.files
            .open_write(path, how)
            .map_err(StorageError::io(act, path))
    }

    /// The names of the files in it.
    pub(crate) fn names(&self) -> Result<Vec<String>, StorageError> {
        self.files
            .list(&self.path)
            .map_err(StorageError::io("list", &self.path))
    }

    /// Names of files that were created, renamed or removed in it survive a crash afterwards.
    pub(crate) fn sync(&self) -> Result<(), StorageError> {
        self.files
            .sync_dir(&self.path)
            .map_err(StorageError::flush(&self.path))
    }

    /// Removes a file; that it is already gone is no error. The caller flushes the directory.
    pub(crate) fn remove(&self, path: &Path) -> Result<(), StorageError> {
        match self.files.remove(path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                Err(StorageError::io("remove", path)(e))
            }
            _ => Ok(()),
        }
    }

    /// Gives the flushed file `from` the name `to`, for good.
    pub(crate) fn publish(&self, from: &Path, to: &Path) -> Result<(), StorageError> {
        self.files
            .rename(from, to)
            .map_err(StorageError::io("rename to", to))?;
        self.sync()
    }

    /// Replaces a file of this directory for those who read it while the system runs: after a power failure it may be the
    /// old one, or empty.
    pub(crate) fn show(&self, path: &Path, content: &[u8]) -> Result<(), StorageError> {
        let tmp = tmp_path(path);
        let file = self.write(&tmp, Open::Empty)?;
        file.write_at(content, 0)
            .map_err(StorageError::io("write", &tmp))?;
        drop(file);
        self.files
            .rename(&tmp, path)
            .map_err(StorageError::io("rename to", path))
    }

    /// Replaces a file of this directory so that a crash leaves either the old or the new content, never a part.
    pub(crate) fn replace(&self, path: &Path, content: &[u8]) -> Result<(), StorageError> {
        let tmp = tmp_path(path);
        let file = self.write(&tmp, Open::Empty)?;
        file.write_at(content, 0)
            .map_err(StorageError::io("write", &tmp))?;
        file.sync_all().map_err(StorageError::flush(&tmp))?;
        drop(file);
        self.publish(&tmp, path)
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

/// A file that is read or written from one end to the other.
#[derive(Debug)]
pub(crate) struct Stream {
    file: Box<dyn DiskFile>,
    position: u64,
}

impl Stream {
    pub(crate) fn new(file: Box<dyn DiskFile>) -> Self {
        Self { file, position: 0 }
    }

    pub(crate) fn file(&self) -> &dyn DiskFile {
        self.file.as_ref()
    }
}

impl Read for Stream {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let n = self.file.read_at(out, self.position)?;
        self.position += n as u64;
        Ok(n)
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write_at(bytes, self.position)?;
        self.position += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Seek for Stream {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let base = match to {
            SeekFrom::Start(at) => {
                self.position = at;
                return Ok(at);
            }
            SeekFrom::End(by) => (self.file.length()?, by),
            SeekFrom::Current(by) => (self.position, by),
        };
        self.position = base
            .0
            .checked_add_signed(base.1)
            .ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.position)
    }
}

/// The files of this machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealFiles;

impl DiskFile for File {
    fn read_at(&self, out: &mut [u8], offset: u64) -> io::Result<usize> {
        FileExt::read_at(self, out, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.write_all_at(bytes, offset)
    }

    fn length(&self) -> io::Result<u64> {
        self.metadata().map(|data| data.len())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        Self::set_len(self, len)
    }

    fn reserve(&self, from: u64, to: u64) -> io::Result<()> {
        match fallocate(self, FallocateFlags::empty(), from, to - from) {
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => Self::set_len(self, to),
            other => other.map_err(Into::into),
        }
    }

    fn sync_data(&self) -> io::Result<()> {
        Self::sync_data(self)
    }

    fn sync_all(&self) -> io::Result<()> {
        Self::sync_all(self)
    }
}

impl FileSystem for RealFiles {
    fn open_read(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(File::open(path)?))
    }

    fn open_write(&self, path: &Path, how: Open) -> io::Result<Box<dyn DiskFile>> {
        let mut options = OpenOptions::new();
        options.write(true);
        match how {
            Open::New => options.create_new(true),
            Open::Empty => options.create(true).truncate(true),
            Open::Existing => &mut options,
        };
        Ok(Box::new(options.open(path)?))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let names = fs::read_dir(dir)?.map(|entry| entry.map(|entry| entry.file_name()));
        // What is not UTF-8 is no file of ours.
        names
            .filter_map(|name| name.map(|name| name.into_string().ok()).transpose())
            .collect()
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        File::open(dir).and_then(|dir| dir.sync_all())
    }

    fn is_dir(&self, path: &Path) -> bool {
        path.is_dir()
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        fs::create_dir_all(path)
    }

    fn free_bytes(&self, dir: &Path) -> io::Result<u64> {
        let stat = rustix::fs::statvfs(dir)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    fn canonical(&self, path: &Path) -> io::Result<PathBuf> {
        path.canonicalize()
    }

    fn lock(&self, path: &Path) -> Result<Lock, StorageError> {
        let mut file = OpenOptions::new()
            .create(true)
            .read(true)
            .write(true)
            .truncate(false)
            .open(path)
            .map_err(StorageError::io("create", path))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                // Who holds it only makes the message better.
                let _ = file.read_to_string(&mut holder);
                return Err(StorageError::Locked {
                    dir: parent(path).to_owned(),
                    lock: path.to_owned(),
                    holder,
                });
            }
            Err(TryLockError::Error(e)) => return Err(StorageError::io("lock", path)(e)),
        }
        let written = file
            .set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| writeln!(file, "{}", std::process::id()))
            .map_err(StorageError::io("write", path));
        match written {
            // Who holds it only makes a message better: a server starts on a full disk, too.
            Err(error) if !error.is_full() => Err(error),
            _ => Ok(Lock(Some(file))),
        }
    }
}
