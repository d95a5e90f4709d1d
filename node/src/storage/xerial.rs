//! The stream format of snappy-java ("xerial"), in which Apache writes `.snappy` snapshots: a header, then blocks of a
//! length and a raw snappy block. Reading only.

use std::io::{self, Read};

/// What a stream begins with.
pub(crate) const MAGIC: [u8; 8] = *b"\x82SNAPPY\0";
/// The magic bytes, a version and the oldest compatible version.
const HEADER: usize = 16;
/// The most bytes of a compressed block that are believed. Writers use blocks of 32 KiB.
const BLOCK_MAX: usize = 64 * 1024 * 1024;

/// Decompresses a stream.
pub(crate) struct XerialReader<R> {
    input: R,
    header_read: bool,
    block: Vec<u8>,
    position: usize,
}

impl<R: Read> XerialReader<R> {
    pub(crate) fn new(input: R) -> Self {
        Self {
            input,
            header_read: false,
            block: Vec::new(),
            position: 0,
        }
    }

    /// Reads and decompresses the next block; false at the end of the stream.
    fn next_block(&mut self) -> io::Result<bool> {
        if !self.header_read {
            let mut header = [0; HEADER];
            self.input.read_exact(&mut header)?;
            if header[..8] != MAGIC {
                return Err(invalid("not a snappy stream"));
            }
            self.header_read = true;
        }
        let mut length = Vec::with_capacity(4);
        self.input.by_ref().take(4).read_to_end(&mut length)?;
        if length.is_empty() {
            return Ok(false);
        }
        let length = length
            .first_chunk()
            .map(|length| u32::from_be_bytes(*length) as usize);
        let Some(length) = length.filter(|length| *length <= BLOCK_MAX) else {
            return Err(invalid("the length of a snappy block is wrong"));
        };
        let mut compressed = Vec::new();
        self.input
            .by_ref()
            .take(length as u64)
            .read_to_end(&mut compressed)?;
        if compressed.len() < length
            || snap::raw::decompress_len(&compressed).map_err(invalid)? > BLOCK_MAX
        {
            return Err(invalid("a snappy block is cut off or too long"));
        }
        self.block = snap::raw::Decoder::new()
            .decompress_vec(&compressed)
            .map_err(invalid)?;
        self.position = 0;
        Ok(true)
    }
}

impl<R: Read> Read for XerialReader<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while self.position == self.block.len() {
            if !self.next_block()? {
                return Ok(0);
            }
        }
        let n = out.len().min(self.block.len() - self.position);
        out[..n].copy_from_slice(&self.block[self.position..self.position + n]);
        self.position += n;
        Ok(n)
    }
}

fn invalid(what: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}
