//! What a client asks for: every request as one closed enum, with its bytes (protocol reference §1.5).

use bytes::{Bytes, BytesMut};

use super::{OpCode, put2};
use crate::jute::{DecodeError, Jute, Reader};
use crate::proto::data::Acl;
use crate::proto::multi;
use crate::record;
use crate::zxid::Zxid;

/// `create` and its relatives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreateRequest {
    /// `Create`, `Create2`, `CreateContainer` or `CreateTtl`.
    pub op: OpCode,
    /// As the client wrote it; a sequence number may follow.
    pub path: String,
    /// May be null.
    pub data: Option<Bytes>,
    /// Not yet fixed up.
    pub acl: Vec<Acl>,
    /// The create mode, see [`CreateMode`].
    pub flags: i32,
    /// ms for `CreateTtl`, else −1.
    pub ttl: i64,
}

/// The kinds of nodes, as `flags` of a create.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CreateMode {
    /// Stays.
    Persistent,
    /// Goes with its session.
    Ephemeral,
    /// Gets a number.
    PersistentSequential,
    /// Gets a number and goes with its session.
    EphemeralSequential,
    /// Goes when its last child has gone.
    Container,
    /// Goes when it was not changed for a time.
    PersistentTtl,
    /// Gets a number, and goes when it was not changed for a time.
    PersistentSequentialTtl,
}

impl CreateMode {
    /// The mode with this number.
    #[must_use]
    pub fn from_flags(flags: i32) -> Option<Self> {
        Some(match flags {
            0 => Self::Persistent,
            1 => Self::Ephemeral,
            2 => Self::PersistentSequential,
            3 => Self::EphemeralSequential,
            4 => Self::Container,
            5 => Self::PersistentTtl,
            6 => Self::PersistentSequentialTtl,
            _ => return None,
        })
    }

    /// Whether the name gets a number.
    #[must_use]
    pub fn is_sequential(self) -> bool {
        matches!(
            self,
            Self::PersistentSequential | Self::EphemeralSequential | Self::PersistentSequentialTtl
        )
    }

    /// Whether the node goes with its session.
    #[must_use]
    pub fn is_ephemeral(self) -> bool {
        matches!(self, Self::Ephemeral | Self::EphemeralSequential)
    }

    /// Whether the node has a time to live.
    #[must_use]
    pub fn is_ttl(self) -> bool {
        matches!(self, Self::PersistentTtl | Self::PersistentSequentialTtl)
    }
}

record! {
    /// The watches of a client that comes back (`setWatches`).
    #[derive(Clone, Debug, Default, PartialEq, Eq)]
    pub struct SetWatches {
        /// What the client has seen.
        pub relative_zxid: Zxid,
        /// From `getData`, or `exists` of a node that was there.
        pub data: Vec<String>,
        /// From `exists` of a node that was not there.
        pub exist: Vec<String>,
        /// From `getChildren`.
        pub child: Vec<String>,
    }
}

/// A request, decoded. Reads and writes; see [`OpCode::is_write`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(
    missing_docs,
    reason = "the fields are those of the request records in the protocol reference"
)]
pub enum Request {
    Create(CreateRequest),
    Delete {
        path: String,
        version: i32,
    },
    DeleteContainer {
        path: String,
    },
    Exists {
        path: String,
        watch: bool,
    },
    GetData {
        path: String,
        watch: bool,
    },
    SetData {
        path: String,
        data: Option<Bytes>,
        version: i32,
    },
    GetAcl {
        path: String,
    },
    SetAcl {
        path: String,
        acl: Vec<Acl>,
        version: i32,
    },
    GetChildren {
        path: String,
        watch: bool,
    },
    GetChildren2 {
        path: String,
        watch: bool,
    },
    Sync {
        path: String,
    },
    Ping,
    Check {
        path: String,
        version: i32,
    },
    Multi(Vec<Self>),
    MultiRead(Vec<Self>),
    Reconfig {
        joining: Option<String>,
        leaving: Option<String>,
        new_members: Option<String>,
        from_config: i64,
    },
    CheckWatches {
        path: String,
        watcher_type: i32,
    },
    RemoveWatches {
        path: String,
        watcher_type: i32,
    },
    Auth {
        scheme: String,
        auth: Bytes,
    },
    SetWatches(SetWatches),
    SetWatches2 {
        watches: SetWatches,
        persistent: Vec<String>,
        recursive: Vec<String>,
    },
    Sasl {
        token: Option<Bytes>,
    },
    GetEphemerals {
        prefix: Option<String>,
    },
    GetAllChildrenNumber {
        path: String,
    },
    AddWatch {
        path: String,
        mode: i32,
    },
    WhoAmI,
    CreateSession {
        timeout_ms: i32,
    },
    CloseSession,
}

impl Request {
    /// Decodes the body of a request. Bytes after the record are ignored, as Apache does.
    pub fn decode(op: OpCode, body: Bytes) -> Result<Self, DecodeError> {
        Self::read(op, &mut Reader::new(body))
    }

    /// Reads the body of a request from the front of `input`.
    pub fn read(op: OpCode, input: &mut Reader) -> Result<Self, DecodeError> {
        Ok(match op {
            OpCode::Create | OpCode::Create2 | OpCode::CreateContainer | OpCode::CreateTtl => {
                Self::Create(CreateRequest {
                    op,
                    path: input.read()?,
                    data: input.read()?,
                    acl: input.read()?,
                    flags: input.read()?,
                    ttl: if op == OpCode::CreateTtl {
                        input.read()?
                    } else {
                        -1
                    },
                })
            }
            OpCode::Delete => Self::Delete {
                path: input.read()?,
                version: input.read()?,
            },
            OpCode::DeleteContainer => Self::DeleteContainer {
                path: input.read()?,
            },
            OpCode::Exists => Self::Exists {
                path: input.read()?,
                watch: input.read()?,
            },
            OpCode::GetData => Self::GetData {
                path: input.read()?,
                watch: input.read()?,
            },
            OpCode::SetData => Self::SetData {
                path: input.read()?,
                data: input.read()?,
                version: input.read()?,
            },
            OpCode::GetAcl => Self::GetAcl {
                path: input.read()?,
            },
            OpCode::SetAcl => Self::SetAcl {
                path: input.read()?,
                acl: input.read()?,
                version: input.read()?,
            },
            OpCode::GetChildren => Self::GetChildren {
                path: input.read()?,
                watch: input.read()?,
            },
            OpCode::GetChildren2 => Self::GetChildren2 {
                path: input.read()?,
                watch: input.read()?,
            },
            OpCode::Sync => Self::Sync {
                path: input.read()?,
            },
            OpCode::Ping => Self::Ping,
            OpCode::Check => Self::Check {
                path: input.read()?,
                version: input.read()?,
            },
            OpCode::Multi => Self::Multi(multi::read_ops(input, multi::Kind::Write)?),
            OpCode::MultiRead => Self::MultiRead(multi::read_ops(input, multi::Kind::Read)?),
            OpCode::Reconfig => Self::Reconfig {
                joining: input.read()?,
                leaving: input.read()?,
                new_members: input.read()?,
                from_config: input.read()?,
            },
            OpCode::CheckWatches => Self::CheckWatches {
                path: input.read()?,
                watcher_type: input.read()?,
            },
            OpCode::RemoveWatches => Self::RemoveWatches {
                path: input.read()?,
                watcher_type: input.read()?,
            },
            OpCode::Auth => {
                let _type: i32 = input.read()?;
                Self::Auth {
                    scheme: input.read()?,
                    auth: input.read()?,
                }
            }
            OpCode::SetWatches => Self::SetWatches(input.read()?),
            OpCode::SetWatches2 => Self::SetWatches2 {
                watches: input.read()?,
                persistent: input.read()?,
                recursive: input.read()?,
            },
            OpCode::Sasl => Self::Sasl {
                token: input.read()?,
            },
            OpCode::GetEphemerals => Self::GetEphemerals {
                prefix: input.read()?,
            },
            OpCode::GetAllChildrenNumber => Self::GetAllChildrenNumber {
                path: input.read()?,
            },
            OpCode::AddWatch => Self::AddWatch {
                path: input.read()?,
                mode: input.read()?,
            },
            OpCode::WhoAmI => Self::WhoAmI,
            OpCode::CreateSession => Self::CreateSession {
                timeout_ms: input.read()?,
            },
            OpCode::CloseSession => Self::CloseSession,
            OpCode::Error => {
                return Err(DecodeError::Value {
                    what: "the operation",
                    value: -1,
                });
            }
        })
    }

    /// The number of the operation.
    #[must_use]
    pub fn op(&self) -> OpCode {
        match self {
            Self::Create(create) => create.op,
            Self::Delete { .. } => OpCode::Delete,
            Self::DeleteContainer { .. } => OpCode::DeleteContainer,
            Self::Exists { .. } => OpCode::Exists,
            Self::GetData { .. } => OpCode::GetData,
            Self::SetData { .. } => OpCode::SetData,
            Self::GetAcl { .. } => OpCode::GetAcl,
            Self::SetAcl { .. } => OpCode::SetAcl,
            Self::GetChildren { .. } => OpCode::GetChildren,
            Self::GetChildren2 { .. } => OpCode::GetChildren2,
            Self::Sync { .. } => OpCode::Sync,
            Self::Ping => OpCode::Ping,
            Self::Check { .. } => OpCode::Check,
            Self::Multi(_) => OpCode::Multi,
            Self::MultiRead(_) => OpCode::MultiRead,
            Self::Reconfig { .. } => OpCode::Reconfig,
            Self::CheckWatches { .. } => OpCode::CheckWatches,
            Self::RemoveWatches { .. } => OpCode::RemoveWatches,
            Self::Auth { .. } => OpCode::Auth,
            Self::SetWatches(_) => OpCode::SetWatches,
            Self::SetWatches2 { .. } => OpCode::SetWatches2,
            Self::Sasl { .. } => OpCode::Sasl,
            Self::GetEphemerals { .. } => OpCode::GetEphemerals,
            Self::GetAllChildrenNumber { .. } => OpCode::GetAllChildrenNumber,
            Self::AddWatch { .. } => OpCode::AddWatch,
            Self::WhoAmI => OpCode::WhoAmI,
            Self::CreateSession { .. } => OpCode::CreateSession,
            Self::CloseSession => OpCode::CloseSession,
        }
    }

    /// Appends the body, as a client sends it.
    pub fn encode(&self, out: &mut BytesMut) {
        match self {
            Self::Create(create) => {
                create.path.write(out);
                create.data.write(out);
                create.acl.write(out);
                create.flags.write(out);
                if create.op == OpCode::CreateTtl {
                    create.ttl.write(out);
                }
            }
            Self::Delete { path, version } | Self::Check { path, version } => {
                put2(path, version, out)
            }
            Self::CheckWatches { path, watcher_type }
            | Self::RemoveWatches { path, watcher_type } => {
                put2(path, watcher_type, out);
            }
            Self::AddWatch { path, mode } => put2(path, mode, out),
            Self::Exists { path, watch }
            | Self::GetData { path, watch }
            | Self::GetChildren { path, watch }
            | Self::GetChildren2 { path, watch } => put2(path, watch, out),
            Self::SetData {
                path,
                data,
                version,
            } => {
                put2(path, data, out);
                version.write(out);
            }
            Self::SetAcl { path, acl, version } => {
                put2(path, acl, out);
                version.write(out);
            }
            Self::DeleteContainer { path }
            | Self::GetAcl { path }
            | Self::Sync { path }
            | Self::GetAllChildrenNumber { path } => path.write(out),
            Self::Multi(ops) | Self::MultiRead(ops) => multi::write_ops(ops, out),
            Self::Reconfig {
                joining,
                leaving,
                new_members,
                from_config,
            } => {
                put2(joining, leaving, out);
                put2(new_members, from_config, out);
            }
            Self::Auth { scheme, auth } => {
                0i32.write(out);
                put2(scheme, auth, out);
            }
            Self::SetWatches(watches) => watches.write(out),
            Self::SetWatches2 {
                watches,
                persistent,
                recursive,
            } => {
                watches.write(out);
                put2(persistent, recursive, out);
            }
            Self::Sasl { token } => token.write(out),
            Self::GetEphemerals { prefix } => prefix.write(out),
            Self::CreateSession { timeout_ms } => timeout_ms.write(out),
            Self::Ping | Self::WhoAmI | Self::CloseSession => {}
        }
    }
}
