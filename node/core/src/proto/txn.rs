//! Transactions, as the log, PROPOSAL and INFORM carry them (protocol reference §5.3).

use bytes::{Bytes, BytesMut};

use super::client::OpCode;
use super::data::Acl;
use crate::jute::{DecodeError, Jute, Reader};
use crate::record;
use crate::zxid::{SessionId, Zxid};

record! {
    /// In front of every transaction.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct TxnHeader {
        /// The session that asked for it, 0 for the server itself.
        pub session: SessionId,
        /// The `xid` of the client's request.
        pub cxid: i32,
        /// Its place in the order.
        pub zxid: Zxid,
        /// The leader's wall clock, ms since 1970.
        pub time: i64,
        /// The number of the operation.
        pub op: i32,
    }
}

record! {
    /// What the leader expects the tree's digest to be after the transaction.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct TxnDigest {
        /// 2.
        pub version: i32,
        /// The digest (§2.13).
        pub tree: i64,
    }
}

/// Which of the four creating operations it is. It decides the record's layout and the node's kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CreateOp {
    /// `create`.
    Create,
    /// `create2`.
    Create2,
    /// `createContainer`.
    Container,
    /// `createTTL`, with the time in ms.
    Ttl(i64),
}

/// A node comes into being.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreateTxn {
    /// The operation.
    pub op: CreateOp,
    /// With the sequence number, if it has one.
    pub path: String,
    /// May be null.
    pub data: Option<Bytes>,
    /// Fixed up.
    pub acl: Vec<Acl>,
    /// Whether the header's session owns it.
    pub ephemeral: bool,
    /// The parent's new count of creations; −1 in old logs means one more.
    pub parent_cversion: i32,
}

/// A transaction: a change that was checked, with everything that is needed to repeat it anywhere.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(
    missing_docs,
    reason = "the fields are those of the transaction records in the protocol reference"
)]
pub enum Txn {
    CreateSession {
        timeout_ms: i32,
    },
    CloseSession {
        paths: Option<Vec<String>>,
    },
    Create(CreateTxn),
    Delete {
        path: String,
    },
    DeleteContainer {
        path: String,
    },
    SetData {
        path: String,
        data: Option<Bytes>,
        version: i32,
    },
    Reconfig {
        path: String,
        data: Option<Bytes>,
        version: i32,
    },
    SetAcl {
        path: String,
        acl: Vec<Acl>,
        version: i32,
    },
    Check {
        path: String,
        version: i32,
    },
    Multi(Vec<Self>),
    Error {
        code: i32,
    },
}

impl Txn {
    /// The number of the operation.
    #[must_use]
    pub fn op(&self) -> OpCode {
        match self {
            Self::CreateSession { .. } => OpCode::CreateSession,
            Self::CloseSession { .. } => OpCode::CloseSession,
            Self::Create(create) => match create.op {
                CreateOp::Create => OpCode::Create,
                CreateOp::Create2 => OpCode::Create2,
                CreateOp::Container => OpCode::CreateContainer,
                CreateOp::Ttl(_) => OpCode::CreateTtl,
            },
            Self::Delete { .. } => OpCode::Delete,
            Self::DeleteContainer { .. } => OpCode::DeleteContainer,
            Self::SetData { .. } => OpCode::SetData,
            Self::Reconfig { .. } => OpCode::Reconfig,
            Self::SetAcl { .. } => OpCode::SetAcl,
            Self::Check { .. } => OpCode::Check,
            Self::Multi(_) => OpCode::Multi,
            Self::Error { .. } => OpCode::Error,
        }
    }

    /// Reads the body of a transaction with the number `op`.
    pub fn read(op: i32, input: &mut Reader) -> Result<Self, DecodeError> {
        let unsupported = DecodeError::Value {
            what: "the type of a transaction",
            value: op.into(),
        };
        Ok(match OpCode::from_number(op).ok_or(unsupported.clone())? {
            OpCode::CreateSession => Self::CreateSession {
                timeout_ms: input.read()?,
            },
            OpCode::CloseSession => Self::CloseSession {
                paths: if input.left() == 0 {
                    None
                } else {
                    Some(input.read()?)
                },
            },
            op @ (OpCode::Create
            | OpCode::Create2
            | OpCode::CreateContainer
            | OpCode::CreateTtl) => Self::Create(read_create(op, input)?),
            OpCode::Delete => Self::Delete {
                path: input.read()?,
            },
            OpCode::DeleteContainer => Self::DeleteContainer {
                path: input.read()?,
            },
            OpCode::SetData => Self::SetData {
                path: input.read()?,
                data: input.read()?,
                version: input.read()?,
            },
            OpCode::Reconfig => Self::Reconfig {
                path: input.read()?,
                data: input.read()?,
                version: input.read()?,
            },
            OpCode::SetAcl => Self::SetAcl {
                path: input.read()?,
                acl: input.read()?,
                version: input.read()?,
            },
            OpCode::Check => Self::Check {
                path: input.read()?,
                version: input.read()?,
            },
            OpCode::Multi => Self::Multi(read_multi(input)?),
            OpCode::Error => Self::Error {
                code: input.read()?,
            },
            _ => return Err(unsupported),
        })
    }

    /// Appends the body.
    pub fn encode(&self, out: &mut BytesMut) {
        match self {
            Self::CreateSession { timeout_ms } => timeout_ms.write(out),
            Self::CloseSession { paths } => {
                if let Some(paths) = paths {
                    paths.write(out);
                }
            }
            Self::Create(create) => {
                create.path.write(out);
                create.data.write(out);
                create.acl.write(out);
                if matches!(create.op, CreateOp::Create | CreateOp::Create2) {
                    create.ephemeral.write(out);
                }
                create.parent_cversion.write(out);
                if let CreateOp::Ttl(ttl) = create.op {
                    ttl.write(out);
                }
            }
            Self::Delete { path } | Self::DeleteContainer { path } => path.write(out),
            Self::SetData {
                path,
                data,
                version,
            }
            | Self::Reconfig {
                path,
                data,
                version,
            } => {
                path.write(out);
                data.write(out);
                version.write(out);
            }
            Self::SetAcl { path, acl, version } => {
                path.write(out);
                acl.write(out);
                version.write(out);
            }
            Self::Check { path, version } => {
                path.write(out);
                version.write(out);
            }
            Self::Multi(txns) => {
                i32::try_from(txns.len())
                    .expect("a multi fits a frame")
                    .write(out);
                for txn in txns {
                    (txn.op() as i32).write(out);
                    let mut body = BytesMut::new();
                    txn.encode(&mut body);
                    body.freeze().write(out);
                }
            }
            Self::Error { code } => code.write(out),
        }
    }
}

fn read_create(op: OpCode, input: &mut Reader) -> Result<CreateTxn, DecodeError> {
    let (path, data, acl) = (input.read()?, input.read()?, input.read()?);
    let ephemeral = if matches!(op, OpCode::Create | OpCode::Create2) {
        input.read()?
    } else {
        false
    };
    // Logs from before 3.4 end here.
    let parent_cversion = if input.left() == 0 { -1 } else { input.read()? };
    let op = match op {
        OpCode::Create2 => CreateOp::Create2,
        OpCode::CreateContainer => CreateOp::Container,
        OpCode::CreateTtl => CreateOp::Ttl(input.read()?),
        _ => CreateOp::Create,
    };
    Ok(CreateTxn {
        op,
        path,
        data,
        acl,
        ephemeral,
        parent_cversion,
    })
}

fn read_multi(input: &mut Reader) -> Result<Vec<Txn>, DecodeError> {
    let count: i32 = input.read()?;
    let mut txns = Vec::new();
    for _ in 0..count {
        let op: i32 = input.read()?;
        let body: Bytes = input.read()?;
        if op == OpCode::Multi as i32 {
            return Err(DecodeError::Value {
                what: "the type of a transaction in a multi",
                value: op.into(),
            });
        }
        txns.push(Txn::read(op, &mut Reader::new(body))?);
    }
    Ok(txns)
}

/// A closeSession may come without its list of paths. A digest of 12 bytes begins with its version 2; a list of that
/// length that begins with the count 2 would hold two empty paths, which do not exist.
fn only_a_digest_is_left(input: &Reader) -> bool {
    input.left() == TxnDigest::MIN_LEN && input.clone().read() == Ok(2i32)
}

/// A log entry: also what PROPOSAL and INFORM carry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TxnEntry {
    /// Who, when, which.
    pub header: TxnHeader,
    /// What.
    pub txn: Txn,
    /// Present when the leader computes digests.
    pub digest: Option<TxnDigest>,
}

impl TxnEntry {
    /// Decodes an entry.
    pub fn decode(bytes: Bytes) -> Result<Self, DecodeError> {
        let mut input = Reader::new(bytes);
        let header: TxnHeader = input.read()?;
        let txn = if header.op == OpCode::CloseSession as i32 && only_a_digest_is_left(&input) {
            Txn::CloseSession { paths: None }
        } else {
            Txn::read(header.op, &mut input)?
        };
        let digest = if input.left() >= TxnDigest::MIN_LEN {
            Some(input.read()?)
        } else {
            None
        };
        Ok(Self {
            header,
            txn,
            digest,
        })
    }

    /// A transaction as this server's leader proposes it at `time` (ms since 1970): without a digest.
    #[must_use]
    pub fn new(session: SessionId, cxid: i32, zxid: Zxid, time: i64, txn: Txn) -> Self {
        let header = TxnHeader {
            session,
            cxid,
            zxid,
            time,
            op: txn.op() as i32,
        };
        Self {
            header,
            txn,
            digest: None,
        }
    }

    /// The entry's bytes.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(256);
        self.header.write(&mut out);
        self.txn.encode(&mut out);
        if let Some(digest) = &self.digest {
            digest.write(&mut out);
        }
        out.freeze()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_close_session_without_a_body_keeps_its_digest() {
        for paths in [
            None,
            Some(vec![]),
            Some(vec!["/abc".to_owned()]),
            Some(vec!["/a".to_owned(); 2]),
        ] {
            for digest in [
                None,
                Some(TxnDigest {
                    version: 2,
                    tree: -5,
                }),
            ] {
                let header = TxnHeader {
                    session: SessionId(1),
                    cxid: 2,
                    zxid: Zxid(3),
                    time: 4,
                    op: OpCode::CloseSession as i32,
                };
                let entry = TxnEntry {
                    header,
                    txn: Txn::CloseSession {
                        paths: paths.clone(),
                    },
                    digest,
                };
                assert_eq!(TxnEntry::decode(entry.encode()), Ok(entry));
            }
        }
    }
}
