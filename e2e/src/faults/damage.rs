//! Damage to the files of a member that does not run.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

/// Header of a log file.
const HEADER: usize = 16;
/// Checksum and length in front of each record.
const PREFIX: usize = 12;
const BLOCK: usize = 4096;
/// Records that a log must have to be damaged in its middle.
const LOG: usize = 200;

/// What is done to a member's files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Damage {
    /// One bit of a transaction in the middle of the log.
    LogBit,
    /// The length of a record in the middle of the log.
    LogLength,
    /// A block of zeros in the middle of the log.
    LogBlock,
    /// One bit in the middle of the newest snapshot.
    Snapshot,
    /// One bit in the middle of every snapshot.
    AllSnapshots,
    /// `currentEpoch` holds zeros, as after a power cut.
    Epoch,
    /// Everything but `myid` is gone.
    Wipe,
}

impl Damage {
    /// All kinds.
    pub const ALL: [Self; 7] = [
        Self::LogBit,
        Self::LogLength,
        Self::LogBlock,
        Self::Snapshot,
        Self::AllSnapshots,
        Self::Epoch,
        Self::Wipe,
    ];

    /// Damages the files in `data`; says what was done.
    pub fn strike(self, data: &Path) -> Result<String> {
        let files = data.join("version-2");
        match self {
            Self::LogBit => {
                let (path, start, len) = middle_record(&files)?;
                flip(&path, start + PREFIX + len / 2)
            }
            Self::LogLength => {
                let (path, start, _) = middle_record(&files)?;
                let file = File::options().write(true).open(&path)?;
                file.write_all_at(&[0, 0, 0, 0], start as u64 + 8)?;
                file.sync_all()?;
                Ok(format!("{}: length at {start} is 0", name(&path)))
            }
            Self::LogBlock => {
                let (path, start, _) = middle_record(&files)?;
                let at = start.next_multiple_of(BLOCK);
                let file = File::options().write(true).open(&path)?;
                file.write_all_at(&[0; BLOCK], at as u64)?;
                file.sync_all()?;
                Ok(format!(
                    "{}: zeros from {at} to {}",
                    name(&path),
                    at + BLOCK
                ))
            }
            Self::Snapshot => {
                let snapshots = newest(&files, "snapshot.")?;
                let path = snapshots.last().context("there is a snapshot")?;
                flip(path, fs::metadata(path)?.len() as usize / 2)
            }
            Self::AllSnapshots => {
                let snapshots = newest(&files, "snapshot.")?;
                for path in &snapshots {
                    flip(path, fs::metadata(path)?.len() as usize / 2)?;
                }
                Ok(format!("a bit in each of {} snapshots", snapshots.len()))
            }
            Self::Epoch => {
                fs::write(files.join("currentEpoch"), [0; 4])?;
                Ok("currentEpoch is four zeros".to_owned())
            }
            Self::Wipe => {
                for entry in fs::read_dir(data)? {
                    let path = entry?.path();
                    if path.is_dir() {
                        fs::remove_dir_all(&path)?;
                    } else if !path.ends_with("myid") {
                        fs::remove_file(&path)?;
                    }
                }
                Ok("everything but myid is gone".to_owned())
            }
        }
    }
}

fn name(path: &Path) -> String {
    path.file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

/// Files with this prefix, by the zxid in their names.
fn newest(files: &Path, prefix: &str) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(files)? {
        let path = entry?.path();
        let number = name(&path);
        let number = number
            .strip_prefix(prefix)
            .map(|hex| i64::from_str_radix(hex, 16));
        if let Some(Ok(number)) = number {
            found.push((number, path));
        }
    }
    found.sort();
    Ok(found.into_iter().map(|(_, path)| path).collect())
}

/// The record in the middle of the newest log that is worth it: file, where it begins, how long its transaction is. What is
/// older than a snapshot nobody may ever read.
fn middle_record(files: &Path) -> Result<(PathBuf, usize, usize)> {
    for path in newest(files, "log.")?.into_iter().rev() {
        let records = records(&fs::read(&path)?);
        if records.len() >= LOG {
            let (start, len) = records[records.len() / 2];
            return Ok((path, start, len));
        }
    }
    bail!("no log has {LOG} records")
}

/// Where each record begins, and the length of its transaction.
fn records(bytes: &[u8]) -> Vec<(usize, usize)> {
    let (mut at, mut found) = (HEADER, Vec::new());
    while let Some(head) = bytes.get(at..at + PREFIX) {
        let len = i32::from_be_bytes([head[8], head[9], head[10], head[11]]);
        let Some(len) = usize::try_from(len).ok().filter(|len| *len > 0) else {
            break;
        };
        found.push((at, len));
        at += PREFIX + len + 1;
    }
    found
}

fn flip(path: &Path, at: usize) -> Result<String> {
    let mut file = File::options().read(true).write(true).open(path)?;
    let len = file.metadata()?.len();
    if at as u64 >= len {
        bail!("{} has {len} bytes, not {at}", path.display());
    }
    let mut byte = [0];
    file.seek(SeekFrom::Start(at as u64))?;
    file.read_exact(&mut byte)?;
    file.seek(SeekFrom::Start(at as u64))?;
    file.write_all(&[byte[0] ^ 0x10])?;
    file.sync_all()?;
    ensure!(file.metadata()?.len() == len, "the file has grown");
    Ok(format!("{}: a bit at {at}", name(path)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_found_up_to_the_reserved_space() {
        let mut log = vec![0; HEADER];
        for len in [5u32, 7] {
            log.extend([0; 8]);
            log.extend(len.to_be_bytes());
            log.extend(vec![1; len as usize + 1]);
        }
        log.extend([0; 100]);
        assert_eq!(records(&log), [(16, 5), (34, 7)]);
    }
}
