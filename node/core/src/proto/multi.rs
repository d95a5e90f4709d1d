//! The encoding of `multi` and `multiRead` (protocol reference §1.7).

use bytes::{Bytes, BytesMut};

use super::client::{CreateMode, OpCode, Request};
use super::code::ErrorCode;
use super::data::Stat;
use crate::jute::{DecodeError, Jute, Reader};
use crate::record;

record! {
    /// In front of each operation and result.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct MultiHeader {
        /// The number of the operation; −1 for an error and at the end.
        pub op: i32,
        /// Only at the end.
        pub done: bool,
        /// The error code of a result, else −1.
        pub err: i32,
    }
}

const END: MultiHeader = MultiHeader {
    op: -1,
    done: true,
    err: -1,
};

/// Which operations may stand in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `multiRead`.
    Read,
    /// `multi`.
    Write,
}

impl Kind {
    fn admits(self, op: OpCode) -> bool {
        use OpCode::*;
        match self {
            Self::Read => matches!(op, GetData | GetChildren),
            Self::Write => {
                matches!(
                    op,
                    Create | Create2 | CreateContainer | CreateTtl | Delete | SetData | Check
                )
            }
        }
    }
}

/// Reads the operations up to the closing header.
pub fn read_ops(input: &mut Reader, kind: Kind) -> Result<Vec<Request>, DecodeError> {
    let mut ops = Vec::new();
    loop {
        let header: MultiHeader = input.read()?;
        if header.done {
            return Ok(ops);
        }
        let op = OpCode::from_number(header.op)
            .filter(|op| kind.admits(*op))
            .ok_or(DecodeError::Value {
                what: "the type of an operation in a multi",
                value: header.op.into(),
            })?;
        let mut request = Request::read(op, input)?;
        if let Request::Create(create) = &mut request {
            let mode = CreateMode::from_flags(create.flags).ok_or(DecodeError::Value {
                what: "the flags of a create in a multi",
                value: create.flags.into(),
            })?;
            if mode == CreateMode::Container {
                create.op = OpCode::CreateContainer;
            } else if mode.is_ttl() {
                create.op = OpCode::CreateTtl;
            }
        }
        ops.push(request);
    }
}

/// Appends the operations and the closing header.
pub fn write_ops(ops: &[Request], out: &mut BytesMut) {
    for op in ops {
        MultiHeader {
            op: op.op() as i32,
            done: false,
            err: -1,
        }
        .write(out);
        op.encode(out);
    }
    END.write(out);
}

/// The result of one operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MultiResult {
    /// `create`.
    Create(String),
    /// `create2`, `createContainer`, `createTTL`.
    Create2(String, Stat),
    /// `delete`.
    Delete,
    /// `setData`.
    SetData(Stat),
    /// `check`.
    Check,
    /// `getData`.
    GetData(Option<Bytes>, Stat),
    /// `getChildren`.
    GetChildren(Vec<String>),
    /// It failed, or one before it did.
    Error(ErrorCode),
}

/// Appends the results and the closing header.
pub fn write_results(results: &[MultiResult], out: &mut BytesMut) {
    let header = |op: OpCode, out: &mut BytesMut| {
        MultiHeader {
            op: op as i32,
            done: false,
            err: 0,
        }
        .write(out)
    };
    for result in results {
        match result {
            MultiResult::Create(path) => {
                header(OpCode::Create, out);
                path.write(out);
            }
            MultiResult::Create2(path, stat) => {
                header(OpCode::Create2, out);
                path.write(out);
                stat.write(out);
            }
            MultiResult::Delete => header(OpCode::Delete, out),
            MultiResult::SetData(stat) => {
                header(OpCode::SetData, out);
                stat.write(out);
            }
            MultiResult::Check => header(OpCode::Check, out),
            MultiResult::GetData(data, stat) => {
                header(OpCode::GetData, out);
                data.write(out);
                stat.write(out);
            }
            MultiResult::GetChildren(names) => {
                header(OpCode::GetChildren, out);
                names.write(out);
            }
            MultiResult::Error(code) => {
                MultiHeader {
                    op: OpCode::Error as i32,
                    done: false,
                    err: code.0,
                }
                .write(out);
                code.0.write(out);
            }
        }
    }
    END.write(out);
}

/// Reads the results up to the closing header.
pub fn read_results(input: &mut Reader) -> Result<Vec<MultiResult>, DecodeError> {
    let mut results = Vec::new();
    loop {
        let header: MultiHeader = input.read()?;
        if header.done {
            return Ok(results);
        }
        results.push(match OpCode::from_number(header.op) {
            Some(OpCode::Create) => MultiResult::Create(input.read()?),
            Some(OpCode::Create2) => MultiResult::Create2(input.read()?, input.read()?),
            Some(OpCode::Delete) => MultiResult::Delete,
            Some(OpCode::SetData) => MultiResult::SetData(input.read()?),
            Some(OpCode::Check) => MultiResult::Check,
            Some(OpCode::GetData) => MultiResult::GetData(input.read()?, input.read()?),
            Some(OpCode::GetChildren) => MultiResult::GetChildren(input.read()?),
            Some(OpCode::Error) => MultiResult::Error(ErrorCode(input.read()?)),
            _ => {
                return Err(DecodeError::Value {
                    what: "the type of a result in a multi",
                    value: header.op.into(),
                });
            }
        });
    }
}
