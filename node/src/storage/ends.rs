//! Where each log file ended that is no longer written, in a small file of our own beside the log.
//!
//! Within an epoch zxids are counted, so a missing transaction leaves a gap. At the end of an epoch it does not: whether the
//! transaction before the next epoch's first one is missing, or a whole file, only this list tells.

use node_core::zxid::Zxid;

use super::StorageError;
use super::dirs::{self, LOG};
use super::files::Dir;

/// The name of the file, in the log's directory.
pub const FILE: &str = "zookeeper-node.ends";

/// One log file: its first transaction, as in its name, and its last one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    /// Of the name.
    pub first: Zxid,
    /// The last one that was flushed.
    pub last: Zxid,
}

/// What is known, oldest first. An error when there is a list that cannot be read.
pub fn read(dir: &Dir) -> Result<Vec<End>, StorageError> {
    let path = dir.join(FILE);
    let Some(content) = dir.content(&path)? else {
        return Ok(Vec::new());
    };
    let text = String::from_utf8_lossy(&content);
    let whole = text.trim_end().rsplit_once('\n');
    match whole.filter(|(lines, sum)| *sum == seal(lines)) {
        Some((lines, _)) => Ok(lines.lines().filter_map(parse).collect()),
        None => Err(StorageError::MarksDamaged { path }),
    }
}

fn parse(line: &str) -> Option<End> {
    let (first, last) = line.split_once(' ')?;
    let zxid = |hex| i64::from_str_radix(hex, 16).ok().map(Zxid);
    Some(End {
        first: zxid(first)?,
        last: zxid(last)?,
    })
}

fn seal(lines: &str) -> String {
    format!("sum {:016x}", super::marks::sum(lines.as_bytes()))
}

/// Writes the list anew, for good, with what `change` makes of it.
fn rewrite(dir: &Dir, change: impl FnOnce(&mut Vec<End>)) -> Result<(), StorageError> {
    let old = read(dir)?;
    let mut ends = old.clone();
    change(&mut ends);
    if ends == old {
        return Ok(());
    }
    let lines: Vec<String> = ends
        .iter()
        .map(|end| format!("{:x} {:x}", end.first.0, end.last.0))
        .collect();
    let lines = format!("first last\n{}", lines.join("\n"));
    let text = format!("{lines}\n{}\n", seal(&lines));
    dir.replace(&dir.join(FILE), text.as_bytes())
}

/// These files are no longer written; of two ends of the same file the later one counts. Files that are gone by then are
/// forgotten: who removed one knew why.
pub(crate) fn add(dir: &Dir, ended: &[End]) -> Result<(), StorageError> {
    if ended.is_empty() {
        return Ok(());
    }
    let there = dirs::log_files(dir)?;
    rewrite(dir, |ends| {
        for end in ended {
            ends.retain(|old| old.first != end.first);
            ends.push(*end);
        }
        ends.retain(|end| there.iter().any(|file| file.zxid == end.first));
        ends.sort_by_key(|end| end.first);
    })
}

/// What follows `to` is about to be removed.
pub(crate) fn cut(dir: &Dir, to: Zxid) -> Result<(), StorageError> {
    rewrite(dir, |ends| ends.retain(|end| end.last <= to))
}

/// Whether a file is missing that holds transactions after `from`.
pub(crate) fn check_files(dir: &Dir, from: Zxid) -> Result<(), StorageError> {
    let there = dirs::log_files(dir)?;
    let lost = read(dir)?
        .into_iter()
        .find(|end| end.last > from && !there.iter().any(|file| file.zxid == end.first));
    match lost {
        Some(End { first, last }) => Err(StorageError::LogFileMissing {
            path: dirs::data_path(dir, LOG, first),
            first,
            last,
        }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::files::FileSystem;
    use super::super::simulated::SimDisk;
    use super::*;

    /// (The simulator found it: a log that had lost the end of an epoch, and this list with it, counted as whole.)
    #[test]
    fn a_list_that_cannot_be_read_is_damage_and_none_is_none() {
        let disk = SimDisk::new();
        let dir = disk.dir("/d");
        disk.create_dir_all(dir.path()).unwrap();
        assert_eq!(read(&dir).unwrap(), []);
        let end = End {
            first: Zxid(0x1_0000_0001),
            last: Zxid(0x1_0000_0009),
        };
        rewrite(&dir, |ends| ends.push(end)).unwrap();
        assert_eq!(read(&dir).unwrap(), [end]);
        let len = disk.content(&dir.join(FILE)).unwrap().len();
        for at in 0..len {
            for cut in [false, true] {
                let copy = disk.duplicate();
                copy.rot(&dir.join(FILE), |bytes| match cut {
                    true => bytes.truncate(at),
                    false => bytes[at] ^= 1,
                });
                let read = read(&copy.dir("/d"));
                // The last byte ends a line: without it nothing is missing.
                assert!(read.is_err() || at + 1 == len, "at {at}, cut: {cut}");
            }
        }
    }
}
