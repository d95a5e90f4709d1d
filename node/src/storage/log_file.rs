//! The format of one log file: a header, then records, then nothing or zeros (protocol reference §5.2).
//!
//! Reading one tells the end of the log from damage. Where a record is broken, one of three things happened:
//! - a crash cut off a batch before it was flushed: the file is short there, or still has zeros that were never
//!   overwritten, and no whole record follows. Nothing in it was acknowledged, so this is the end of the log;
//! - bytes rotted or a block was lost within what was flushed: a whole record follows, or everything of the record is there
//!   and only wrong. This is damage, and never taken for the end;
//! - nothing but zeros follow: the pre-allocated rest of the file.

use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use bytes::{BufMut, Bytes};
use node_core::zxid::Zxid;

use super::StorageError;
use super::files::{Dir, Stream};
use crate::limits;

/// "ZKLG".
const MAGIC: u32 = 0x5a4b_4c47;
const VERSION: i32 = 2;

/// The bytes of the file's header.
pub(crate) const FILE_HEADER: usize = 16;
/// The bytes before a record's entry: checksum and length.
const RECORD_HEADER: usize = 12;
/// The byte after a record's entry.
const END_OF_RECORD: u8 = b'B';
/// What a record adds to its entry.
pub(crate) const RECORD_OVERHEAD: usize = RECORD_HEADER + 1;
/// A transaction's header: session, cxid, zxid, time, type.
const TXN_HEADER: usize = 32;
/// The unit in which a disk writes all or nothing.
const SECTOR: u64 = 512;

/// The header of a new log file.
pub(crate) fn file_header() -> [u8; FILE_HEADER] {
    let mut header = [0; FILE_HEADER];
    let mut out = &mut header[..];
    out.put_u32(MAGIC);
    out.put_i32(VERSION);
    out.put_i64(0);
    header
}

/// Appends the record of `txn` (header, body, digest) to `out`.
pub(crate) fn put_record(txn: &[u8], out: &mut Vec<u8>) {
    out.reserve(txn.len() + RECORD_OVERHEAD);
    out.put_i64(i64::from(checksum(txn)));
    out.put_i32(
        i32::try_from(txn.len()).expect("a transaction is shorter than 2 GiB: frames are limited"),
    );
    out.put_slice(txn);
    out.put_u8(END_OF_RECORD);
}

fn checksum(entry: &[u8]) -> u32 {
    simd_adler32::adler32(&entry)
}

/// The zxid in a transaction's header; `None` when it is too short to have one.
#[must_use]
pub fn zxid_of(txn: &[u8]) -> Option<Zxid> {
    let header = txn.first_chunk::<TXN_HEADER>()?;
    header[12..]
        .first_chunk()
        .map(|zxid| Zxid(i64::from_be_bytes(*zxid)))
}

/// A whole record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogRecord {
    /// The transaction's id.
    pub zxid: Zxid,
    /// Header, body and digest, as they were appended.
    pub txn: Bytes,
    /// The offset of the first byte after the record.
    pub end: u64,
}

/// How a log file ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// With its last whole record, zeros following or not.
    Clean,
    /// With the remains of a batch that was never flushed.
    Torn {
        /// What is wrong with the first record of it.
        what: String,
    },
}

static ZEROS: [u8; limits::SNAPSHOT_CHUNK_BYTES] = [0; limits::SNAPSHOT_CHUNK_BYTES];

/// What follows in a log file.
pub(crate) enum Next {
    Record(LogRecord),
    End(Ending),
}

/// Reads one log file from its beginning.
pub(crate) struct LogFileReader {
    path: PathBuf,
    input: BufReader<Stream>,
    /// Where the next record begins.
    position: u64,
    len: u64,
    last: Zxid,
    /// A header that was cut off: there can be no record.
    headless: bool,
}

impl LogFileReader {
    pub(crate) fn open(dir: &Dir, path: &Path) -> Result<Self, StorageError> {
        let file = dir.read(path)?;
        let len = file
            .file()
            .length()
            .map_err(StorageError::io("read", path))?;
        let mut reader = Self {
            path: path.to_owned(),
            input: BufReader::with_capacity(256 * 1024, file),
            position: FILE_HEADER as u64,
            len,
            last: Zxid::ZERO,
            headless: false,
        };
        let mut header = [0; FILE_HEADER];
        let header = reader.read_up_to(&mut header)?;
        // A crash right after the file was created leaves none or a part of its header.
        let written = header
            .iter()
            .rposition(|byte| *byte != 0)
            .map_or(0, |last| last + 1);
        reader.headless = header.len() < FILE_HEADER
            || (written < 4 && file_header().starts_with(&header[..written]));
        if reader.headless {
            reader.position = 0;
        } else if header[..4] != MAGIC.to_be_bytes() {
            return Err(reader.damaged(
                0,
                "the file does not begin with the log's magic number ZKLG",
            ));
        }
        Ok(reader)
    }

    /// The offset after the last whole record; 0 in a file without a header.
    pub(crate) fn position(&self) -> u64 {
        self.position
    }

    /// The length of the file.
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// The last record that was read.
    pub(crate) fn last(&self) -> Zxid {
        self.last
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The error for a broken record at `offset`.
    pub(crate) fn damaged(&self, offset: u64, what: impl Into<String>) -> StorageError {
        StorageError::LogDamaged {
            path: self.path.clone(),
            offset,
            what: what.into(),
            last: self.last,
        }
    }

    /// Reads the next record, or says how the file ends. After the end, don't call it again.
    pub(crate) fn next_record(&mut self) -> Result<Next, StorageError> {
        if self.headless {
            return self.ending("the file's header was never written".to_owned(), None);
        }
        let mut header = [0; RECORD_HEADER];
        let header = self.read_up_to(&mut header)?;
        if header.is_empty() {
            return Ok(Next::End(Ending::Clean));
        }
        let Some((sum, len)) = split_header(header) else {
            return self.ending("the record's header is cut off".to_owned(), None);
        };
        let left = self
            .len
            .saturating_sub(self.position + RECORD_HEADER as u64);
        let Some(len) = usize::try_from(len).ok().filter(|len| *len > 0) else {
            return self.ending(format!("the length of a record is {len}"), None);
        };
        if len as u64 + 1 > left {
            return self.ending(
                format!("a record of {len} bytes does not fit into the {left} bytes left"),
                None,
            );
        }
        let mut entry = vec![0; len + 1];
        self.input
            .read_exact(&mut entry)
            .map_err(StorageError::io("read", &self.path))?;
        let end = self.position + (RECORD_OVERHEAD + len) as u64;
        let end_byte = entry.pop().expect("one byte more than the entry was read");
        let found = u64::from(checksum(&entry));
        if found != sum.cast_unsigned() {
            let what =
                format!("the checksum of a record is {found:#x}, but it was written as {sum:#x}");
            return self.ending(what, Some((end, end_byte)));
        }
        if end_byte != END_OF_RECORD {
            let what = format!("a record ends with the byte {end_byte:#04x} instead of 'B'");
            return self.ending(what, Some((end, end_byte)));
        }
        let Some(zxid) = zxid_of(&entry) else {
            return Err(self.damaged(
                self.position,
                format!("a record of {len} bytes is too short for a transaction"),
            ));
        };
        self.last = zxid;
        self.position = end;
        Ok(Next::Record(LogRecord {
            zxid,
            txn: Bytes::from(entry),
            end,
        }))
    }

    /// Decides what a broken record at the current position is; `extent` is where it ends and its last byte, if its
    /// length can be believed.
    fn ending(&mut self, what: String, extent: Option<(u64, u8)>) -> Result<Next, StorageError> {
        let start = self.position;
        let Some(tail) = self.tail(start)? else {
            return Err(self.damaged(
                start,
                format!("{what}, and more data follows than a crash can leave behind"),
            ));
        };
        if tail.is_empty() {
            return Ok(Next::End(Ending::Clean));
        }
        if let Some((at, zxid)) = find_record(&tail) {
            let at = start + at as u64;
            return Err(self.damaged(
                start,
                format!("{what}, but the whole record {zxid} follows at byte {at}"),
            ));
        }
        if let Some((end, end_byte)) = extent
            && end_byte != 0
            && !has_unwritten_sector(&tail, start, end)
        {
            return Err(self.damaged(
                start,
                format!("{what}, though every block of the record was written"),
            ));
        }
        Ok(Next::End(Ending::Torn { what }))
    }

    /// What follows `start`, without the zeros at the end; `None` when it is more than a torn batch can have.
    fn tail(&mut self, start: u64) -> Result<Option<Vec<u8>>, StorageError> {
        let mut tail = Vec::new();
        let mut chunk = vec![0; limits::SNAPSHOT_CHUNK_BYTES];
        let mut offset: usize = 0;
        self.input
            .seek(SeekFrom::Start(start))
            .map_err(StorageError::io("read", &self.path))?;
        loop {
            let n = self
                .input
                .read(&mut chunk)
                .map_err(StorageError::io("read", &self.path))?;
            if n == 0 {
                return Ok(Some(tail));
            }
            // Compared as a whole, because there are 64 MiB of them after a crash and each start reads them.
            if chunk[..n] == ZEROS[..n] {
                offset = offset.saturating_add(n);
                continue;
            }
            if let Some(last) = chunk[..n].iter().rposition(|byte| *byte != 0) {
                if offset + last >= limits::TORN_TAIL_BYTES {
                    return Ok(None);
                }
                tail.resize(offset, 0);
                tail.extend_from_slice(&chunk[..=last]);
            }
            offset = offset.saturating_add(n);
        }
    }

    /// Reads until `out` is full or the file ends; gives what was read.
    fn read_up_to<'a>(&mut self, out: &'a mut [u8]) -> Result<&'a [u8], StorageError> {
        let mut filled = 0;
        while filled < out.len() {
            match self.input.read(&mut out[filled..]) {
                Ok(0) => break,
                Ok(n) => filled += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(StorageError::io("read", &self.path)(e)),
            }
        }
        Ok(&out[..filled])
    }
}

fn split_header(header: &[u8]) -> Option<(i64, i32)> {
    let sum = header.first_chunk().map(|sum| i64::from_be_bytes(*sum))?;
    let len = header
        .get(8..)?
        .first_chunk()
        .map(|len| i32::from_be_bytes(*len))?;
    Some((sum, len))
}

/// The first whole record in `bytes`, wherever it begins.
fn find_record(bytes: &[u8]) -> Option<(usize, Zxid)> {
    (1..bytes.len()).find_map(|at| {
        let (sum, len) = split_header(&bytes[at..])?;
        // Checksums are zero-extended, which rules out nearly every wrong place at once.
        let len = usize::try_from(len)
            .ok()
            .filter(|len| *len >= TXN_HEADER && sum > 0 && sum <= i64::from(u32::MAX))?;
        let entry = bytes.get(at + RECORD_HEADER..at + RECORD_HEADER + len)?;
        let whole = bytes.get(at + RECORD_HEADER + len) == Some(&END_OF_RECORD)
            && i64::from(checksum(entry)) == sum;
        whole
            .then(|| zxid_of(entry))
            .flatten()
            .map(|zxid| (at, zxid))
    })
}

/// Whether a sector, or the part of one that the record from `start` to `end` covers, still has only zeros, as before it
/// was written.
fn has_unwritten_sector(tail: &[u8], start: u64, end: u64) -> bool {
    let mut from = start;
    while from < end {
        let to = ((from / SECTOR + 1) * SECTOR).min(end);
        let piece = |offset: u64| {
            tail.len()
                .min(usize::try_from(offset - start).unwrap_or(usize::MAX))
        };
        if tail[piece(from)..piece(to)].iter().all(|byte| *byte == 0) {
            return true;
        }
        from = to;
    }
    false
}
