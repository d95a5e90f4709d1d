//! The jute record codec (protocol reference §1.1): big-endian, no tags, no padding.
//!
//! A record lists its fields once, with [`record!`](crate::record); reading and writing follow from their types.
//! Every length is checked against what is left of the input before anything is allocated.

use bytes::{BufMut, Bytes, BytesMut};

/// Why bytes could not be decoded. The bytes came from the network or a file: never a reason to panic.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The input ended within a field.
    #[error("the record ends early: {wanted} more bytes were expected, {left} are left")]
    Short {
        /// Bytes that the field needs.
        wanted: usize,
        /// Bytes that are left.
        left: usize,
    },
    /// A length that cannot be.
    #[error("Unreasonable length = {0}")]
    Length(i32),
    /// A string that is not UTF-8.
    #[error("a string is not UTF-8")]
    Utf8,
    /// A value outside of what the field allows.
    #[error("{what} has the impossible value {value}")]
    Value {
        /// The field.
        what: &'static str,
        /// What was read.
        value: i64,
    },
    /// Bytes after the end of the record.
    #[error("{0} bytes follow the end of the record")]
    Trailing(usize),
}

/// Reads records from a buffer. Strings and buffers that are read share the memory of the input.
#[derive(Clone, Debug)]
pub struct Reader {
    input: Bytes,
}

impl Reader {
    /// Reads from `input`.
    pub fn new(input: impl Into<Bytes>) -> Self {
        Self {
            input: input.into(),
        }
    }

    /// How many bytes are left.
    #[must_use]
    pub fn left(&self) -> usize {
        self.input.len()
    }

    /// Takes all that is left.
    pub fn rest(&mut self) -> Bytes {
        std::mem::take(&mut self.input)
    }

    /// Takes `n` bytes.
    pub fn take(&mut self, n: usize) -> Result<Bytes, DecodeError> {
        if self.input.len() < n {
            return Err(DecodeError::Short {
                wanted: n,
                left: self.input.len(),
            });
        }
        Ok(self.input.split_to(n))
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let Some(bytes) = self.input.first_chunk::<N>().copied() else {
            return Err(DecodeError::Short {
                wanted: N,
                left: self.input.len(),
            });
        };
        bytes::Buf::advance(&mut self.input, N);
        Ok(bytes)
    }

    /// Reads one value.
    pub fn read<T: Jute>(&mut self) -> Result<T, DecodeError> {
        T::read(self)
    }

    /// An error if anything is left.
    pub fn end(&self) -> Result<(), DecodeError> {
        if self.input.is_empty() {
            Ok(())
        } else {
            Err(DecodeError::Trailing(self.input.len()))
        }
    }
}

/// A value with a jute encoding.
pub trait Jute: Sized {
    /// The fewest bytes that a value takes: bounds how many elements a vector of a given size can have.
    const MIN_LEN: usize;
    /// Reads the value from the front of `input`.
    fn read(input: &mut Reader) -> Result<Self, DecodeError>;
    /// Appends the value to `out`.
    fn write(&self, out: &mut BytesMut);
}

/// The value's bytes.
pub fn encode<T: Jute>(value: &T) -> Bytes {
    let mut out = BytesMut::new();
    value.write(&mut out);
    out.freeze()
}

/// Decodes a value that must fill `input` wholly.
pub fn decode<T: Jute>(input: impl Into<Bytes>) -> Result<T, DecodeError> {
    let mut reader = Reader::new(input);
    let value = reader.read()?;
    reader.end()?;
    Ok(value)
}

impl Jute for bool {
    const MIN_LEN: usize = 1;
    fn read(input: &mut Reader) -> Result<Self, DecodeError> {
        Ok(input.array::<1>()? != [0])
    }
    fn write(&self, out: &mut BytesMut) {
        out.put_u8(u8::from(*self));
    }
}

impl Jute for i32 {
    const MIN_LEN: usize = 4;
    fn read(input: &mut Reader) -> Result<Self, DecodeError> {
        input.array().map(Self::from_be_bytes)
    }
    fn write(&self, out: &mut BytesMut) {
        out.put_i32(*self);
    }
}

impl Jute for i64 {
    const MIN_LEN: usize = 8;
    fn read(input: &mut Reader) -> Result<Self, DecodeError> {
        input.array().map(Self::from_be_bytes)
    }
    fn write(&self, out: &mut BytesMut) {
        out.put_i64(*self);
    }
}

/// A length field: `None` for −1, which means null.
fn read_len(input: &mut Reader) -> Result<Option<usize>, DecodeError> {
    let len: i32 = input.read()?;
    if len == -1 {
        return Ok(None);
    }
    usize::try_from(len)
        .map(Some)
        .map_err(|_| DecodeError::Length(len))
}

/// Writes a length. Lengths are bounded by the frame limit long before `i32::MAX`.
fn write_len(len: usize, out: &mut BytesMut) {
    out.put_i32(i32::try_from(len).expect("a field is shorter than 2 GiB: frames are limited"));
}

/// A buffer that may be null: null and empty are different, and a znode may hold either.
impl Jute for Option<Bytes> {
    const MIN_LEN: usize = 4;
    fn read(input: &mut Reader) -> Result<Self, DecodeError> {
        let Some(len) = read_len(input)? else {
            return Ok(None);
        };
        input.take(len).map(Some)
    }
    fn write(&self, out: &mut BytesMut) {
        match self {
            None => out.put_i32(-1),
            Some(bytes) => {
                write_len(bytes.len(), out);
                out.put_slice(bytes);
            }
        }
    }
}

/// A buffer that is not null; null is read as empty.
impl Jute for Bytes {
    const MIN_LEN: usize = 4;
    fn read(input: &mut Reader) -> Result<Self, DecodeError> {
        Ok(input.read::<Option<Self>>()?.unwrap_or_default())
    }
    fn write(&self, out: &mut BytesMut) {
        write_len(self.len(), out);
        out.put_slice(self);
    }
}

/// A string that may be null.
impl Jute for Option<String> {
    const MIN_LEN: usize = 4;
    fn read(input: &mut Reader) -> Result<Self, DecodeError> {
        let Some(bytes) = input.read::<Option<Bytes>>()? else {
            return Ok(None);
        };
        let text = std::str::from_utf8(&bytes).map_err(|_| DecodeError::Utf8)?;
        Ok(Some(text.to_owned()))
    }
    fn write(&self, out: &mut BytesMut) {
        match self {
            None => out.put_i32(-1),
            Some(text) => text.write(out),
        }
    }
}

/// A string that is not null; null is read as empty.
impl Jute for String {
    const MIN_LEN: usize = 4;
    fn read(input: &mut Reader) -> Result<Self, DecodeError> {
        Ok(input.read::<Option<Self>>()?.unwrap_or_default())
    }
    fn write(&self, out: &mut BytesMut) {
        write_len(self.len(), out);
        out.put_slice(self.as_bytes());
    }
}

/// A vector that may be null.
impl<T: Jute> Jute for Option<Vec<T>> {
    const MIN_LEN: usize = 4;
    fn read(input: &mut Reader) -> Result<Self, DecodeError> {
        let Some(count) = read_len(input)? else {
            return Ok(None);
        };
        if count.saturating_mul(T::MIN_LEN) > input.left() {
            return Err(DecodeError::Short {
                wanted: count.saturating_mul(T::MIN_LEN),
                left: input.left(),
            });
        }
        (0..count)
            .map(|_| input.read())
            .collect::<Result<_, _>>()
            .map(Some)
    }
    fn write(&self, out: &mut BytesMut) {
        match self {
            None => out.put_i32(-1),
            Some(items) => items.write(out),
        }
    }
}

/// A vector that is not null; null is read as empty.
impl<T: Jute> Jute for Vec<T> {
    const MIN_LEN: usize = 4;
    fn read(input: &mut Reader) -> Result<Self, DecodeError> {
        Ok(input.read::<Option<Self>>()?.unwrap_or_default())
    }
    fn write(&self, out: &mut BytesMut) {
        write_len(self.len(), out);
        for item in self {
            item.write(out);
        }
    }
}

/// Declares a struct whose fields are encoded in their order.
#[macro_export]
macro_rules! record {
    ($(#[$meta:meta])* pub struct $name:ident { $($(#[$field_meta:meta])* pub $field:ident: $type:ty,)* }) => {
        $(#[$meta])*
        pub struct $name { $($(#[$field_meta])* pub $field: $type,)* }

        impl $crate::jute::Jute for $name {
            const MIN_LEN: usize = 0 $(+ <$type as $crate::jute::Jute>::MIN_LEN)*;
            fn read(input: &mut $crate::jute::Reader) -> Result<Self, $crate::jute::DecodeError> {
                Ok(Self { $($field: input.read()?,)* })
            }
            fn write(&self, out: &mut ::bytes::BytesMut) {
                $($crate::jute::Jute::write(&self.$field, out);)*
            }
        }
    };
}

/// Gives the newtype of a number the number's encoding.
macro_rules! newtype {
    ($($name:path => $inner:ty;)*) => {
        $(impl Jute for $name {
            const MIN_LEN: usize = <$inner as Jute>::MIN_LEN;
            fn read(input: &mut Reader) -> Result<Self, DecodeError> {
                input.read().map(Self)
            }
            fn write(&self, out: &mut BytesMut) {
                self.0.write(out);
            }
        })*
    };
}

newtype! {
    crate::zxid::Zxid => i64;
    crate::zxid::SessionId => i64;
    crate::zxid::ServerId => i64;
    crate::zxid::Epoch => i64;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn null_and_empty_buffers_differ() {
        for value in [None, Some(Bytes::new()), Some(Bytes::from_static(b"ab"))] {
            assert_eq!(decode::<Option<Bytes>>(encode(&value)), Ok(value));
        }
    }

    #[test]
    fn a_vector_never_allocates_more_than_its_input_could_hold() {
        let bytes = [0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 1];
        assert!(matches!(
            decode::<Vec<i64>>(bytes.to_vec()),
            Err(DecodeError::Short { .. })
        ));
    }

    #[test]
    fn negative_lengths_are_refused() {
        assert_eq!(
            decode::<Option<Bytes>>(vec![0xff, 0xff, 0xff, 0xfe]),
            Err(DecodeError::Length(-2))
        );
    }
}
