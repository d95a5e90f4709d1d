//! The files `acceptedEpoch` and `currentEpoch`: the newest epoch that this server promised to take part in, and the one
//! whose history it holds. Both are on stable storage before a call returns: in the marks, which are one flush and need no
//! room. These files, which Apache's servers read, show it at once and are flushed a moment later.

use std::path::Path;

use node_core::zxid::{Epoch, Zxid};

use super::StorageError;
use super::files::{Dir, Open};
use super::marks::Marks;

const ACCEPTED: &str = "acceptedEpoch";
const CURRENT: &str = "currentEpoch";

/// The epochs of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Epochs {
    /// The newest epoch in which it promised not to follow an older leader.
    pub accepted: Epoch,
    /// The epoch of the leader whose history it last took over.
    pub current: Epoch,
}

/// The epoch files of a directory.
#[derive(Debug)]
pub struct EpochFiles {
    dir: Dir,
    epochs: Epochs,
    marks: Option<Marks>,
    /// The files that still say less than the marks.
    behind: Vec<&'static str>,
}

impl EpochFiles {
    /// Reads the files and checks them against the last transaction of the log, and against what is known to have been saved;
    /// a missing file is created with its epoch.
    ///
    /// What is known is saved before the files are, so it is never too small unless another program wrote here. More in the
    /// files is believed only if the log bears it out: a `currentEpoch` that is too great could win an election with a
    /// history that lacks something, and with such an `acceptedEpoch` no leader is ever followed.
    pub fn open(dir: &Dir, last: Zxid, known: Option<&Marks>) -> Result<Self, StorageError> {
        let of_log = last.epoch();
        let found = |name: &str| match read(dir, &dir.join(name)) {
            // What cannot be read is known all the same.
            Err(StorageError::EpochFile { .. }) if known.is_some() => Ok(None),
            found => found,
        };
        let saved = known.map(|marks| marks.known().epochs());
        let (accepted, current) = (found(ACCEPTED)?, found(CURRENT)?);
        let (promised, lowest) = (saved.map(|s| s.accepted), saved.map(|s| s.current));
        for (name, found, saved) in [(ACCEPTED, accepted, promised), (CURRENT, current, lowest)] {
            if let (Some(found), Some(saved)) = (found, saved)
                && found > saved.max(of_log)
            {
                let what = format!(
                    "{name} is {found}, but {saved} was saved, and the log is of epoch {of_log}"
                );
                return Err(mismatch(dir, what));
            }
        }
        let mut wanted = current.max(lowest).unwrap_or(of_log);
        let promised = accepted.max(promised);
        if of_log > wanted {
            // Apache writes `.tmp`, then logs, then renames: a crash in between leaves the right value there. This server
            // saves an epoch after its history: a crash in between leaves transactions of an epoch that was promised and
            // has not begun here.
            let unfinished = read(dir, &dir.join("currentEpoch.tmp")).ok().flatten();
            let has_begun = unfinished.filter(|epoch| *epoch >= of_log);
            let is_promised = promised.is_some_and(|epoch| epoch >= of_log);
            wanted = has_begun
                .or(Some(wanted).filter(|_| is_promised))
                .ok_or_else(|| {
                    let what =
                        format!("the log is of epoch {of_log}, but currentEpoch is {wanted}");
                    mismatch(dir, what)
                })?;
        }
        let promised = promised.unwrap_or(wanted);
        if promised < wanted {
            return Err(mismatch(
                dir,
                format!("acceptedEpoch {promised} is smaller than currentEpoch {wanted}"),
            ));
        }
        let mut files = Self {
            dir: dir.clone(),
            epochs: Epochs {
                accepted: promised,
                current: wanted,
            },
            marks: known.cloned(),
            behind: Vec::new(),
        };
        if current != Some(wanted) {
            files.write(CURRENT)?;
        }
        if accepted != Some(promised) {
            files.write(ACCEPTED)?;
        }
        Ok(files)
    }

    /// From now on what is saved is noted in `marks` first, beginning with what is saved now.
    pub fn with_marks(mut self, marks: &Marks) -> Result<Self, StorageError> {
        marks.epochs(self.epochs)?;
        self.marks = Some(marks.clone());
        Ok(self)
    }

    /// The saved epochs.
    #[must_use]
    pub fn epochs(&self) -> Epochs {
        self.epochs
    }

    /// Saves the accepted epoch. It never goes back.
    pub fn save_accepted(&mut self, epoch: Epoch) -> Result<(), StorageError> {
        let current = self.epochs.current;
        let accepted = epoch;
        self.save(ACCEPTED, Epochs { accepted, current })
    }

    /// Saves the current epoch. It never goes back.
    pub fn save_current(&mut self, epoch: Epoch) -> Result<(), StorageError> {
        let accepted = self.epochs.accepted;
        let current = epoch;
        self.save(CURRENT, Epochs { accepted, current })
    }

    fn save(&mut self, name: &'static str, epochs: Epochs) -> Result<(), StorageError> {
        let (saved, new) = (of(self.epochs, name), of(epochs, name));
        if new < saved {
            return Err(StorageError::EpochBackwards {
                path: self.dir.join(name),
                saved,
                new,
            });
        }
        if new == saved {
            return Ok(());
        }
        let Some(marks) = &self.marks else {
            self.epochs = epochs;
            return self.write(name);
        };
        marks.epochs(epochs)?;
        self.epochs = epochs;
        self.show(name)
    }

    /// The marks have it for good. The file says so too, as long as the system runs; it is [flushed](flush_shown) later: an
    /// election does not wait for that. Where there is no room it is behind.
    fn show(&mut self, name: &'static str) -> Result<(), StorageError> {
        self.behind.retain(|behind| *behind != name);
        let epoch = of(self.epochs, name).to_string();
        match self.dir.show(&self.dir.join(name), epoch.as_bytes()) {
            Err(error) if error.is_full() => {
                self.behind.push(name);
                Ok(())
            }
            shown => shown,
        }
    }

    /// Writes a file. Where there is no room it is enough that the marks have it: a start reads both.
    fn write(&mut self, name: &'static str) -> Result<(), StorageError> {
        self.behind.retain(|behind| *behind != name);
        let epoch = of(self.epochs, name);
        let path = self.dir.join(name);
        match self.dir.replace(&path, epoch.to_string().as_bytes()) {
            Err(error) if error.is_full() && self.marks.is_some() => {
                self.behind.push(name);
                Ok(())
            }
            written => written,
        }
    }

    /// Whether there was no room for one of the files.
    #[must_use]
    pub fn is_behind(&self) -> bool {
        !self.behind.is_empty()
    }

    /// Writes the files for which there was no room.
    pub fn catch_up(&mut self) -> Result<(), StorageError> {
        for name in self.behind.clone() {
            self.write(name)?;
        }
        Ok(())
    }
}

/// Flushes the epoch files of a directory as they are: so far the marks alone have them for good.
pub fn flush_shown(dir: &Dir) -> Result<(), StorageError> {
    for name in [ACCEPTED, CURRENT] {
        let path = dir.join(name);
        let file = dir.write(&path, Open::Existing)?;
        file.sync_all().map_err(StorageError::flush(&path))?;
    }
    dir.sync()
}

fn of(epochs: Epochs, name: &str) -> Epoch {
    match name {
        ACCEPTED => epochs.accepted,
        _ => epochs.current,
    }
}

fn mismatch(dir: &Dir, what: String) -> StorageError {
    StorageError::EpochMismatch {
        dir: dir.path().to_owned(),
        what,
    }
}

fn read(dir: &Dir, path: &Path) -> Result<Option<Epoch>, StorageError> {
    let Some(content) = dir.content(path)? else {
        return Ok(None);
    };
    let text = String::from_utf8_lossy(&content);
    let line = text.lines().next().unwrap_or("").trim();
    let epoch = line
        .parse()
        .ok()
        .filter(|epoch| *epoch >= 0)
        .map(|epoch| Some(Epoch(epoch)));
    epoch.ok_or_else(|| StorageError::EpochFile {
        path: path.to_owned(),
        found: line.chars().take(40).collect(),
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn epochs(files: &[(&str, &str)], last: i64) -> Result<(i64, i64), String> {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            fs::write(dir.path().join(name), text).unwrap();
        }
        let opened = EpochFiles::open(&Dir::real(dir.path()), Zxid(last), None)
            .map_err(|e| e.to_string().replace(dir.path().to_str().unwrap(), "D"))?;
        Ok((opened.epochs().accepted.0, opened.epochs().current.0))
    }

    #[test]
    fn epochs_agree_with_each_other_and_with_the_log() {
        let e2 = 0x2_0000_0005;
        let text = |result: Result<(i64, i64), String>| match result {
            Ok((accepted, current)) => format!("accepted {accepted}, current {current}"),
            Err(e) => e,
        };
        assert_eq!(text(epochs(&[], 0)), "accepted 0, current 0");
        assert_eq!(text(epochs(&[], e2)), "accepted 2, current 2");
        assert_eq!(
            text(epochs(
                &[("acceptedEpoch", "5"), ("currentEpoch", "3\n")],
                e2
            )),
            "accepted 5, current 3"
        );
        assert_eq!(
            text(epochs(&[("acceptedEpoch", "1"), ("currentEpoch", "1")], e2)),
            "the epochs in D contradict each other: the log is of epoch 2, but currentEpoch is 1"
        );
        assert_eq!(
            text(epochs(
                &[
                    ("acceptedEpoch", "2"),
                    ("currentEpoch", "1"),
                    ("currentEpoch.tmp", "2")
                ],
                e2
            )),
            "accepted 2, current 2"
        );
        assert_eq!(
            text(epochs(&[("acceptedEpoch", "1"), ("currentEpoch", "2")], 0)),
            "the epochs in D contradict each other: acceptedEpoch 1 is smaller than currentEpoch 2"
        );
        assert_eq!(
            text(epochs(&[("currentEpoch", "two")], 0)),
            "D/currentEpoch must hold an epoch (a whole number), but holds \"two\""
        );
    }

    #[test]
    fn a_saved_epoch_never_goes_back() {
        let dir = tempfile::tempdir().unwrap();
        let mut files = EpochFiles::open(&Dir::real(dir.path()), Zxid::ZERO, None).unwrap();
        files.save_accepted(Epoch(4)).unwrap();
        files.save_current(Epoch(4)).unwrap();
        assert!(matches!(
            files.save_accepted(Epoch(3)),
            Err(StorageError::EpochBackwards { .. })
        ));
        assert_eq!(
            EpochFiles::open(&Dir::real(dir.path()), Zxid::ZERO, None)
                .unwrap()
                .epochs(),
            files.epochs()
        );
        assert_eq!(fs::read(dir.path().join("acceptedEpoch")).unwrap(), b"4");
    }
}
