//! Reading the transaction log over its files.

use std::collections::VecDeque;
use std::path::Path;

use node_core::zxid::Zxid;

use super::dirs::DataFile;
use super::ends::{self, End};
use super::files::Dir;
use super::log_file::{Ending, LogFileReader, LogRecord, Next};
use super::{StorageError, dirs};

/// The records of a log with a zxid not below a given one, in their order.
pub struct LogReader {
    dir: Dir,
    from: Zxid,
    files: VecDeque<DataFile>,
    ends: Vec<End>,
    current: Option<LogFileReader>,
    /// The first transaction of its name.
    first: Zxid,
    last: Zxid,
    /// The file and the torn end of it, for a file that another one follows.
    unfinished: Option<(LogFileReader, String)>,
    failed: bool,
}

impl LogReader {
    /// Reads the log in `dir` from `from` on, beginning with the newest file that can hold it.
    pub fn open(dir: &Dir, from: Zxid) -> Result<Self, StorageError> {
        let files = dirs::log_files(dir)?;
        let first = files
            .iter()
            .rposition(|file| file.zxid <= from)
            .unwrap_or(0);
        let files = files.into_iter().skip(first).collect();
        Ok(Self {
            dir: dir.clone(),
            from,
            files,
            ends: ends::read(dir)?,
            current: None,
            first: Zxid::ZERO,
            last: Zxid::ZERO,
            unfinished: None,
            failed: false,
        })
    }

    /// The file of the record that was read last, or that is read next.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        self.current.as_ref().map(LogFileReader::path)
    }

    /// The last zxid that was read in any of the files, also below `from`; zero before the first.
    #[must_use]
    pub fn last(&self) -> Zxid {
        self.last
    }

    fn next_record(&mut self) -> Result<Option<LogRecord>, StorageError> {
        loop {
            let file = match &mut self.current {
                Some(file) => file,
                None => match self.files.pop_front() {
                    Some(DataFile { zxid, path }) => {
                        self.first = zxid;
                        self.current.insert(LogFileReader::open(&self.dir, &path)?)
                    }
                    None => return self.finish(),
                },
            };
            match file.next_record()? {
                Next::Record(record) => {
                    self.accept_unfinished(record.zxid)?;
                    if record.zxid > self.last {
                        self.last = record.zxid;
                        if record.zxid >= self.from {
                            return Ok(Some(record));
                        }
                    } else {
                        tracing::warn!(
                            zxid = %record.zxid, last = %self.last, file = %self.current_path(),
                            "the transaction log goes back; the record is taken for a repetition and skipped"
                        );
                    }
                }
                Next::End(ending) => {
                    let file = self.current.take().expect("the file was just read");
                    let end = self.ends.iter().find(|end| end.first == self.first);
                    if let Some(end) = end.filter(|end| end.last > file.last()) {
                        let what = format!("the file ended with {} when it was closed", end.last);
                        return Err(file.damaged(file.position(), what));
                    }
                    if let Ending::Torn { what } = ending {
                        // Two torn files in a row: the first must be judged by what comes next all the same.
                        self.unfinished.get_or_insert((file, what));
                    }
                }
            }
        }
    }

    /// A torn end in a file that others follow is harmless only if they go on where it ends. Our own log never has
    /// one, since it is cut before a new file begins; Apache's may.
    fn accept_unfinished(&mut self, next: Zxid) -> Result<(), StorageError> {
        let Some((file, what)) = self.unfinished.take() else {
            return Ok(());
        };
        if !next.follows(self.last) {
            return Err(file.damaged(
                file.position(),
                format!("{what}, and the next file goes on with {next}"),
            ));
        }
        tracing::warn!(
            file = %file.path().display(), offset = file.position(), what,
            "an older log file ends with a batch that was cut off by a crash; nothing is missing, the next file goes on"
        );
        Ok(())
    }

    fn finish(&mut self) -> Result<Option<LogRecord>, StorageError> {
        if let Some((file, what)) = self.unfinished.take() {
            tracing::warn!(
                file = %file.path().display(), offset = file.position(), what, last = %self.last,
                "the transaction log ends with a batch that was cut off by a crash before it was flushed; it is ignored"
            );
        }
        Ok(None)
    }

    fn current_path(&self) -> std::path::Display<'_> {
        self.path().unwrap_or(Path::new("")).display()
    }
}

impl Iterator for LogReader {
    type Item = Result<LogRecord, StorageError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let next = self.next_record().transpose();
        self.failed = !matches!(next, Some(Ok(_)));
        next
    }
}
