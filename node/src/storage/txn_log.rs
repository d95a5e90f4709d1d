//! The transaction log as it is written: append, flush, roll, truncate.
//!
//! A process never appends to a file that an earlier one wrote: the first append after [`TxnLog::open`] or
//! [`TxnLog::roll`] starts a new file, named after its first transaction. After any failed write or flush the log refuses
//! everything: what the disk holds is then unknown, and a flush that is repeated may succeed without having written
//! anything. Only where there is no room ([`StorageError::is_full`]) the same may be asked again: nothing was done, or
//! nothing that may not be done twice.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use node_core::zxid::Zxid;

use super::dirs::{self, DataFile, LOG};
use super::ends::{self, End};
use super::files::{Dir, DiskFile, Open};
use super::log_file::{FILE_HEADER, LogFileReader, Next, file_header, put_record};
use super::marks::Marks;
use super::{StorageError, snapshot};

/// How the log is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogOptions {
    /// Space that is reserved ahead of the end of a file, in bytes; 0 for none (`preAllocSize`).
    pub preallocate_bytes: u64,
    /// Whether an append is flushed to the disk before it counts (`forceSync`).
    pub force_sync: bool,
    /// The size at which a new file is started; `None` for no bound (`txnLogSizeLimitInKb`).
    pub roll_at_bytes: Option<u64>,
}

impl Default for LogOptions {
    fn default() -> Self {
        Self {
            preallocate_bytes: 64 * 1024 * 1024,
            force_sync: true,
            roll_at_bytes: None,
        }
    }
}

/// What a flush did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flush {
    /// Everything up to this transaction is on stable storage.
    pub through: Zxid,
    /// How many transactions the flush was for.
    pub transactions: u64,
    /// How many bytes were written.
    pub bytes: u64,
    /// How long the disk took to flush; zero with `forceSync=no`.
    pub sync_time: Duration,
}

/// The transaction log of a directory, opened for writing.
#[derive(Debug)]
pub struct TxnLog {
    dir: Dir,
    options: LogOptions,
    file: Option<OpenFile>,
    /// Records that wait for the next flush, and what they are.
    buffer: Vec<u8>,
    waiting: u64,
    first_waiting: Zxid,
    last: Zxid,
    /// The last one on stable storage.
    flushed: Zxid,
    failed: bool,
    marks: Option<Marks>,
    /// Files that are no longer written, which is to be noted before the next one begins: that needs room, too.
    ended: Vec<End>,
}

/// Where a log is cut off.
struct CutPoint {
    /// The place of the file among the log files.
    file: usize,
    /// Its new length.
    end: u64,
    /// The last transaction that stays in it.
    last: Zxid,
}

#[derive(Debug)]
struct OpenFile {
    file: Box<dyn DiskFile>,
    path: PathBuf,
    /// The transaction of its name.
    first: Zxid,
    /// Where the next record goes.
    position: u64,
    /// The size with the reserved space.
    size: u64,
    /// Whether the file's name is already on stable storage.
    published: bool,
}

impl TxnLog {
    /// Opens the log in `dir`: finds its end, cuts off what a crash left behind it, and fails if the newest file is damaged.
    pub fn open(dir: &Dir, options: LogOptions) -> Result<Self, StorageError> {
        let mut log = Self {
            dir: dir.clone(),
            options,
            file: None,
            buffer: Vec::new(),
            waiting: 0,
            first_waiting: Zxid::ZERO,
            last: Zxid::ZERO,
            flushed: Zxid::ZERO,
            failed: false,
            marks: None,
            ended: Vec::new(),
        };
        log.last = log.cut_end()?;
        log.flushed = log.last;
        Ok(log)
    }

    /// From now on what was flushed is noted in `marks`, and where each file ends.
    pub fn with_marks(mut self, marks: Marks) -> Result<Self, StorageError> {
        if let Some(newest) = dirs::log_files(&self.dir)?.last() {
            let (first, last) = (newest.zxid, self.last);
            self.ended.push(End { first, last });
        }
        // Opening the log has flushed it.
        marks.flushed(self.last);
        marks.flush()?;
        self.marks = Some(marks);
        Ok(self)
    }

    /// Writes down how far the log was flushed, without a flush of its own.
    pub fn mark(&self) -> Result<(), StorageError> {
        self.marks
            .as_ref()
            .map_or(Ok(()), |marks| may_lag(marks.write()))
    }

    /// Ends the log as long as nothing waits: what is known of it is on stable storage.
    pub fn close(&mut self) -> Result<(), StorageError> {
        self.close_file();
        self.marks
            .as_ref()
            .map_or(Ok(()), |marks| may_lag(marks.flush()))
    }

    /// The last transaction in the log, waiting ones included; zero when the log is empty.
    #[must_use]
    pub fn last(&self) -> Zxid {
        self.last
    }

    /// Bytes that wait for a flush.
    #[must_use]
    pub fn waiting_bytes(&self) -> usize {
        self.buffer.len()
    }

    /// Adds a transaction (header, body, digest) to what the next flush writes. It isn't on the disk before that.
    pub fn append(&mut self, zxid: Zxid, txn: &[u8]) {
        if zxid <= self.last {
            tracing::warn!(%zxid, last = %self.last, "a transaction is appended to the log out of order");
        }
        if self.waiting == 0 {
            self.first_waiting = zxid;
        }
        put_record(txn, &mut self.buffer);
        self.waiting += 1;
        self.last = zxid;
    }

    /// Writes what waits with one call and flushes it. `None` when nothing waited.
    pub fn flush(&mut self) -> Result<Option<Flush>, StorageError> {
        if self.failed {
            return Err(StorageError::LogFailed);
        }
        if self.waiting == 0 {
            return Ok(None);
        }
        let flushed = self.write();
        self.failed = flushed.as_ref().is_err_and(|error| !error.is_full());
        flushed.map(Some)
    }

    /// Flushes what waits; the next append starts a new file.
    pub fn roll(&mut self) -> Result<Option<Flush>, StorageError> {
        let flushed = self.flush()?;
        self.close_file();
        Ok(flushed)
    }

    /// Removes every transaction after `to`, and every snapshot that holds such: a restart must not bring them back.
    /// `to` must be a transaction of the log or the point of a snapshot.
    pub fn truncate(&mut self, to: Zxid, snap_dir: &Dir) -> Result<(), StorageError> {
        self.roll()?;
        let result = self.truncate_files(to, snap_dir);
        let refused = |e: &StorageError| matches!(e, StorageError::TruncateTarget { .. });
        self.failed = result.as_ref().is_err_and(|e| !refused(e) && !e.is_full());
        self.last = result?;
        self.flushed = self.last;
        Ok(())
    }

    /// Lets the snapshot of `at` that waits for it take the place of everything: log and other snapshots. Until then a
    /// restart goes on with the old, from then on with the new.
    pub fn install(&mut self, at: Zxid, snap_dir: &Dir) -> Result<(), StorageError> {
        self.roll()?;
        let installed = self.switch(at, snap_dir);
        self.failed = installed.as_ref().is_err_and(|error| !error.is_full());
        installed?;
        self.ended.clear();
        (self.last, self.flushed) = (at, at);
        Ok(())
    }

    fn switch(&self, at: Zxid, snap_dir: &Dir) -> Result<(), StorageError> {
        if let Some(marks) = &self.marks {
            marks.begin_install(at)?;
        }
        finish_install(&self.dir, snap_dir, at)?;
        self.marks
            .as_ref()
            .map_or(Ok(()), |marks| marks.installed(at))
    }

    fn truncate_files(&mut self, to: Zxid, snap_dir: &Dir) -> Result<Zxid, StorageError> {
        let files = dirs::log_files(&self.dir)?;
        let cut = self.cut_point(to, &files)?;
        let snapshot = snapshot::newest_plausible(snap_dir, to)?;
        let exact = cut.as_ref().is_some_and(|cut| cut.last == to) || snapshot == Some(to);
        // Without an older snapshot the removal of the newer ones would leave a log that starts from nothing.
        if !exact || (snapshot.is_none() && !dirs::snapshot_files(snap_dir)?.is_empty()) {
            return Err(StorageError::TruncateTarget {
                dir: self.dir.path().to_owned(),
                to,
            });
        }
        if let Some(marks) = &self.marks {
            marks.cut(to)?;
            ends::cut(&self.dir, to)?;
            self.ended.retain(|end| end.last <= to);
        }
        snapshot::remove_newer(snap_dir, to)?;
        let keep = cut.as_ref().map_or(0, |cut| cut.file + 1);
        // The newest goes first: a crash on the way leaves a log without a hole.
        for file in files[keep..].iter().rev() {
            self.dir.remove(&file.path)?;
            self.dir.sync()?;
        }
        if let Some(cut) = &cut {
            cut_file(&self.dir, &files[cut.file].path, cut.end)?;
            if self.marks.is_some() {
                let (first, last) = (files[cut.file].zxid, cut.last);
                self.ended.push(End { first, last });
            }
        }
        Ok(to)
    }

    /// Where the log must end so that `to` is its last transaction, or the last one below if it isn't in the log.
    fn cut_point(&self, to: Zxid, files: &[DataFile]) -> Result<Option<CutPoint>, StorageError> {
        let Some(file) = files.iter().rposition(|file| file.zxid <= to) else {
            return Ok(None);
        };
        let mut reader = LogFileReader::open(&self.dir, &files[file].path)?;
        let mut cut = None;
        while let Next::Record(record) = reader.next_record()? {
            if record.zxid > to {
                break;
            }
            cut = Some(CutPoint {
                file,
                end: record.end,
                last: record.zxid,
            });
        }
        Ok(cut)
    }

    fn write(&mut self) -> Result<Flush, StorageError> {
        let needed = self.buffer.len() as u64;
        let full = |open: &OpenFile| {
            self.options
                .roll_at_bytes
                .is_some_and(|limit| open.position >= limit)
        };
        if self.file.as_ref().is_some_and(full) {
            self.close_file();
        }
        if self.file.is_none() {
            ends::add(&self.dir, &self.ended)?;
            self.ended.clear();
        }
        let open = match &mut self.file {
            Some(open) => open,
            None => self
                .file
                .insert(OpenFile::create(&self.dir, self.first_waiting)?),
        };
        open.reserve(needed, self.options.preallocate_bytes);
        open.file
            .write_at(&self.buffer, open.position)
            .map_err(StorageError::io("write", &open.path))?;
        let is_first = !open.published;
        let sync_time = if self.options.force_sync {
            open.sync(&self.dir)?
        } else {
            Duration::ZERO
        };
        open.position += needed;
        if self.options.force_sync {
            self.flushed = self.last;
            if let Some(marks) = &self.marks {
                marks.flushed(self.last);
            }
        }
        let flush = Flush {
            through: self.last,
            transactions: self.waiting,
            bytes: needed,
            sync_time,
        };
        self.buffer.clear();
        self.buffer.shrink_to(crate::limits::LOG_BATCH_BYTES);
        self.waiting = 0;
        // Once for each file: that it is there is known for good.
        if let Some(marks) = self
            .marks
            .as_ref()
            .filter(|_| is_first && self.options.force_sync)
        {
            may_lag(marks.flush())?;
        }
        Ok(flush)
    }

    /// Ends the current file and gives its reserved space back. Whether that survives a crash doesn't matter: zeros are
    /// no records.
    fn close_file(&mut self) {
        let Some(open) = self.file.take() else {
            return;
        };
        if let Err(e) = open.file.set_len(open.position) {
            tracing::warn!(file = %open.path.display(), error = %e, "cannot give back a log file's reserved space");
        }
        if self.marks.is_some() && self.options.force_sync {
            let (first, last) = (open.first, self.flushed);
            self.ended.push(End { first, last });
        }
    }

    /// Cuts the newest file after its last whole record, and removes files without any. Gives the last record's zxid.
    fn cut_end(&self) -> Result<Zxid, StorageError> {
        for file in dirs::log_files(&self.dir)?.iter().rev() {
            let mut reader = LogFileReader::open(&self.dir, &file.path)?;
            let ending = loop {
                if let Next::End(ending) = reader.next_record()? {
                    break ending;
                }
            };
            if reader.last() == Zxid::ZERO {
                tracing::info!(file = %file.path.display(), "removing a log file without any whole record");
                self.dir.remove(&file.path)?;
                self.dir.sync()?;
                continue;
            }
            if reader.position() < reader.len() {
                tracing::info!(
                    file = %file.path.display(), from = reader.len(), to = reader.position(), ?ending,
                    last = %reader.last(), "cutting the log after its last whole record"
                );
            }
            // What an earlier process wrote and never flushed is read here too, and counts from now on.
            cut_file(&self.dir, &file.path, reader.position())?;
            self.dir.sync()?;
            return Ok(reader.last());
        }
        Ok(Zxid::ZERO)
    }
}

/// Carries out, or goes on with, what [`TxnLog::install`] began.
pub fn finish_install(log_dir: &Dir, snap_dir: &Dir, at: Zxid) -> Result<(), StorageError> {
    let new = snapshot::new_path(snap_dir, at);
    let path = dirs::data_path(snap_dir, dirs::SNAPSHOT, at);
    let waits = snap_dir.files().open_read(&new).is_ok();
    ends::cut(log_dir, Zxid(-1))?;
    for file in dirs::log_files(log_dir)?.iter().rev() {
        log_dir.remove(&file.path)?;
    }
    log_dir.sync()?;
    for file in dirs::snapshot_files(snap_dir)? {
        if waits || file.zxid != at {
            snap_dir.remove(&file.path)?;
        }
    }
    if waits {
        snap_dir.publish(&new, &path)?;
    }
    snap_dir.sync()
}

fn cut_file(dir: &Dir, path: &Path, len: u64) -> Result<(), StorageError> {
    let file = dir.write(path, Open::Existing)?;
    file.set_len(len)
        .map_err(StorageError::io("shorten", path))?;
    file.sync_all().map_err(StorageError::flush(path))
}

/// A mark may say less than what is true, so it can wait for room.
fn may_lag(marked: Result<(), StorageError>) -> Result<(), StorageError> {
    match marked {
        Err(error) if error.is_full() => Ok(()),
        other => other,
    }
}

impl OpenFile {
    fn create(dir: &Dir, first: Zxid) -> Result<Self, StorageError> {
        let path = dirs::data_path(dir, LOG, first);
        // A file of that name would hold this transaction already: never overwrite it.
        let file = dir.write(&path, Open::New)?;
        if let Err(e) = file.write_at(&file_header(), 0) {
            dir.remove(&path)?;
            return Err(StorageError::io("write", &path)(e));
        }
        let header = FILE_HEADER as u64;
        Ok(Self {
            file,
            path,
            first,
            position: header,
            size: header,
            published: false,
        })
    }

    /// Reserves space for `needed` more bytes. That it fails is no harm: the write itself tells whether there is room.
    fn reserve(&mut self, needed: u64, step: u64) {
        let Some(size) = padded_size(self.position + needed, self.size, step) else {
            return;
        };
        match self.file.reserve(self.size, size) {
            Ok(()) => self.size = size,
            Err(e) if e.kind() == ErrorKind::StorageFull => {}
            Err(e) => {
                tracing::warn!(file = %self.path.display(), error = %e, "cannot reserve space for the log")
            }
        }
    }

    /// Flushes the file, and after its first write its name too.
    fn sync(&mut self, dir: &Dir) -> Result<Duration, StorageError> {
        let begin = Instant::now();
        self.file
            .sync_data()
            .map_err(StorageError::flush(&self.path))?;
        if !self.published {
            dir.sync()?;
            self.published = true;
        }
        Ok(begin.elapsed())
    }
}

/// The new size of a file that is written up to `end`, or `None` when the reserved space still suffices. As Apache does
/// it: by whole steps, while there is still room for a small record.
fn padded_size(end: u64, size: u64, step: u64) -> Option<u64> {
    const SPARE: u64 = 4096;
    if step == 0 || end + SPARE < size {
        return None;
    }
    Some(size + ((end + SPARE - size) / step + 1) * step)
}
