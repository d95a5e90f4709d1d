//! The client port: handshake, requests, replies and watch events (protocol reference §1.3–1.8).

use bytes::{BufMut, Bytes, BytesMut};

use super::code::ErrorCode;
use super::data::{Acl, Id, Stat};
use super::multi::{self, MultiResult};
use crate::jute::{DecodeError, Jute, Reader};
use crate::record;
use crate::zxid::{SessionId, Zxid};

/// `xid` of a watch event.
pub const NOTIFICATION_XID: i32 = -1;
/// `xid` of a ping and of its answer.
pub const PING_XID: i32 = -2;

/// Declares the operations with their numbers.
macro_rules! op_codes {
    ($($(#[$doc:meta])* $name:ident = $value:literal,)*) => {
        /// The number of an operation on the wire and in the log.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(i32)]
        pub enum OpCode { $($(#[$doc])* $name = $value,)* }

        impl OpCode {
            /// The operation with this number.
            #[must_use]
            pub fn from_number(number: i32) -> Option<Self> {
                match number { $($value => Some(Self::$name),)* _ => None }
            }
        }
    };
}

op_codes! {
    /// A failed transaction (log only).
    Error = -1,
    /// A session begins (internal).
    CreateSession = -10,
    /// A session ends.
    CloseSession = -11,
    /// Create a node; the answer is its path.
    Create = 1,
    /// Delete a node.
    Delete = 2,
    /// Ask for a node's stat.
    Exists = 3,
    /// Read a node.
    GetData = 4,
    /// Write a node.
    SetData = 5,
    /// Read an ACL.
    GetAcl = 6,
    /// Write an ACL.
    SetAcl = 7,
    /// List children.
    GetChildren = 8,
    /// Wait for what the leader has committed.
    Sync = 9,
    /// Keep the session alive.
    Ping = 11,
    /// List children, with the stat.
    GetChildren2 = 12,
    /// Check a version (in a multi only).
    Check = 13,
    /// All or nothing.
    Multi = 14,
    /// Create a node; the answer has its stat too.
    Create2 = 15,
    /// Change the ensemble's configuration.
    Reconfig = 16,
    /// Is there such a watch?
    CheckWatches = 17,
    /// Drop a watch.
    RemoveWatches = 18,
    /// Create a container.
    CreateContainer = 19,
    /// Delete an empty container (internal).
    DeleteContainer = 20,
    /// Create a node that expires.
    CreateTtl = 21,
    /// Several reads.
    MultiRead = 22,
    /// Authenticate.
    Auth = 100,
    /// Register watches again after a reconnect.
    SetWatches = 101,
    /// A SASL token.
    Sasl = 102,
    /// The session's ephemeral nodes.
    GetEphemerals = 103,
    /// Count descendants.
    GetAllChildrenNumber = 104,
    /// As `SetWatches`, with persistent ones.
    SetWatches2 = 105,
    /// Register a persistent watch.
    AddWatch = 106,
    /// The caller's identities.
    WhoAmI = 107,
}

impl OpCode {
    /// Whether the operation goes through the leader.
    #[must_use]
    pub fn is_write(self) -> bool {
        use OpCode::*;
        matches!(
            self,
            Create
                | Create2
                | CreateContainer
                | CreateTtl
                | Delete
                | DeleteContainer
                | SetData
                | SetAcl
                | Check
                | Multi
                | Reconfig
                | Sync
                | CreateSession
                | CloseSession
        )
    }

    /// Whether a client may send it as a request of its own (§1.5, "Which types are accepted").
    #[must_use]
    pub fn is_client_request(self) -> bool {
        !matches!(
            self,
            Self::Error | Self::CreateSession | Self::DeleteContainer | Self::Check
        )
    }
}

/// First frame of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectRequest {
    /// 0.
    pub protocol_version: i32,
    /// The newest zxid that the client has seen.
    pub last_zxid_seen: Zxid,
    /// What the client asks for, in ms.
    pub timeout_ms: i32,
    /// 0 for a new session.
    pub session: SessionId,
    /// 16 bytes.
    pub password: Option<Bytes>,
    /// Absent from old clients.
    pub read_only: Option<bool>,
}

impl ConnectRequest {
    /// Decodes the frame.
    pub fn decode(frame: Bytes) -> Result<Self, DecodeError> {
        let mut input = Reader::new(frame);
        let request = Self {
            protocol_version: input.read()?,
            last_zxid_seen: input.read()?,
            timeout_ms: input.read()?,
            session: input.read()?,
            password: input.read()?,
            read_only: if input.left() == 0 {
                None
            } else {
                Some(input.read()?)
            },
        };
        Ok(request)
    }

    /// Appends the payload, without a length.
    pub fn encode(&self, out: &mut BytesMut) {
        self.protocol_version.write(out);
        self.last_zxid_seen.write(out);
        self.timeout_ms.write(out);
        self.session.write(out);
        self.password.write(out);
        if let Some(read_only) = self.read_only {
            read_only.write(out);
        }
    }
}

/// The answer to [`ConnectRequest`]; it has no reply header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectResponse {
    /// 0.
    pub protocol_version: i32,
    /// Negotiated; 0 says that the session is no more.
    pub timeout_ms: i32,
    /// The session.
    pub session: SessionId,
    /// 16 bytes.
    pub password: Bytes,
    /// Only sent to clients that sent it.
    pub read_only: Option<bool>,
}

impl ConnectResponse {
    /// What a client hears whose session has expired, or whose password is wrong.
    #[must_use]
    pub fn expired(read_only: Option<bool>) -> Self {
        let password = Bytes::from_static(&[0; 16]);
        Self {
            protocol_version: 0,
            timeout_ms: 0,
            session: SessionId(0),
            password,
            read_only,
        }
    }

    /// Appends the payload, without a length.
    pub fn encode(&self, out: &mut BytesMut) {
        self.protocol_version.write(out);
        self.timeout_ms.write(out);
        self.session.write(out);
        self.password.write(out);
        if let Some(read_only) = self.read_only {
            read_only.write(out);
        }
    }

    /// Decodes the frame.
    pub fn decode(frame: Bytes) -> Result<Self, DecodeError> {
        let mut input = Reader::new(frame);
        let response = Self {
            protocol_version: input.read()?,
            timeout_ms: input.read()?,
            session: input.read()?,
            password: input.read()?,
            read_only: if input.left() == 0 {
                None
            } else {
                Some(input.read()?)
            },
        };
        Ok(response)
    }
}

record! {
    /// In front of every request.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct RequestHeader {
        /// Chosen by the client, echoed in the reply.
        pub xid: i32,
        /// The number of the operation.
        pub op: i32,
    }
}

record! {
    /// In front of every reply and watch event.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct ReplyHeader {
        /// The request's, or one of the special ones.
        pub xid: i32,
        /// The last zxid applied when the reply was made.
        pub zxid: Zxid,
        /// [`ErrorCode`].
        pub err: i32,
    }
}

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

fn put2<A: Jute, B: Jute>(a: &A, b: &B, out: &mut BytesMut) {
    a.write(out);
    b.write(out);
}

record! {
    /// An identity of the caller, as `whoAmI` shows it.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct ClientInfo {
        /// The scheme.
        pub scheme: String,
        /// The user's name within it.
        pub user: String,
    }
}

impl From<&Id> for ClientInfo {
    fn from(id: &Id) -> Self {
        let user = match id.scheme.as_str() {
            "digest" => id.id.split(':').next().unwrap_or_default().to_owned(),
            "ip" | "x509" | "sasl" => id.id.clone(),
            _ => String::new(),
        };
        Self {
            scheme: id.scheme.clone(),
            user,
        }
    }
}

/// The body of a successful reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Response {
    /// Nothing but the header (delete, ping, auth, setWatches, …).
    Empty,
    /// `create`.
    Path(String),
    /// `create2` and its relatives.
    PathStat(String, Stat),
    /// `exists`, `setData`, `setACL`.
    Stat(Stat),
    /// `getData`, `reconfig`.
    Data(Option<Bytes>, Stat),
    /// `getACL`.
    Acl(Vec<Acl>, Stat),
    /// `getChildren`, `getEphemerals`.
    Names(Vec<String>),
    /// `getChildren2`.
    NamesStat(Vec<String>, Stat),
    /// `getAllChildrenNumber`.
    Number(i32),
    /// `multi`, `multiRead`.
    Multi(Vec<MultiResult>),
    /// `addWatch` answers with a code even where all is well.
    Code(ErrorCode),
    /// `whoAmI`.
    Clients(Vec<ClientInfo>),
    /// `sasl`.
    Token(Option<Bytes>),
}

impl Response {
    /// Appends the body.
    pub fn encode(&self, out: &mut BytesMut) {
        match self {
            Self::Empty => {}
            Self::Path(path) => path.write(out),
            Self::PathStat(path, stat) => put2(path, stat, out),
            Self::Stat(stat) => stat.write(out),
            Self::Data(data, stat) => put2(data, stat, out),
            Self::Acl(acl, stat) => put2(acl, stat, out),
            Self::Names(names) => names.write(out),
            Self::NamesStat(names, stat) => put2(names, stat, out),
            Self::Number(number) => number.write(out),
            Self::Multi(results) => multi::write_results(results, out),
            Self::Code(code) => code.0.write(out),
            Self::Clients(clients) => clients.write(out),
            Self::Token(token) => token.write(out),
        }
    }

    /// Decodes the body of a successful reply to `op`.
    pub fn decode(op: OpCode, body: Bytes) -> Result<Self, DecodeError> {
        let mut input = Reader::new(body);
        let response = match op {
            OpCode::Create | OpCode::Sync => Self::Path(input.read()?),
            OpCode::Create2 | OpCode::CreateContainer | OpCode::CreateTtl => {
                Self::PathStat(input.read()?, input.read()?)
            }
            OpCode::Exists | OpCode::SetData | OpCode::SetAcl => Self::Stat(input.read()?),
            OpCode::GetData | OpCode::Reconfig => Self::Data(input.read()?, input.read()?),
            OpCode::GetAcl => Self::Acl(input.read()?, input.read()?),
            OpCode::GetChildren | OpCode::GetEphemerals => Self::Names(input.read()?),
            OpCode::GetChildren2 => Self::NamesStat(input.read()?, input.read()?),
            OpCode::GetAllChildrenNumber => Self::Number(input.read()?),
            OpCode::Multi | OpCode::MultiRead => Self::Multi(multi::read_results(&mut input)?),
            OpCode::AddWatch => Self::Code(ErrorCode(input.read()?)),
            OpCode::WhoAmI => Self::Clients(input.read()?),
            OpCode::Sasl => Self::Token(input.read()?),
            _ => Self::Empty,
        };
        input.end()?;
        Ok(response)
    }
}

/// Appends a whole reply frame: length, header, and the body if there is one.
pub fn write_reply(header: ReplyHeader, body: Option<&Response>, out: &mut BytesMut) {
    write_frame(out, |out| {
        header.write(out);
        if let Some(body) = body {
            body.encode(out);
        }
    });
}

/// Appends a frame: the length of what `fill` appends, and that.
pub fn write_frame(out: &mut BytesMut, fill: impl FnOnce(&mut BytesMut)) {
    let start = out.len();
    out.put_i32(0);
    fill(out);
    let len = u32::try_from(out.len() - start - 4).expect("a frame is shorter than 4 GiB");
    out[start..start + 4].copy_from_slice(&len.to_be_bytes());
}

/// What a watch event tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(i32)]
pub enum EventType {
    /// The node was created.
    NodeCreated = 1,
    /// The node was deleted.
    NodeDeleted = 2,
    /// Its data was set.
    NodeDataChanged = 3,
    /// A child came or went.
    NodeChildrenChanged = 4,
}

/// The only state that a server reports in an event: SyncConnected.
pub const STATE_SYNC_CONNECTED: i32 = 3;

/// Appends a watch event's whole frame. `zxid` is the transaction's, or −1 for what a client missed (§1.8).
pub fn write_event(zxid: Zxid, event: EventType, path: &str, out: &mut BytesMut) {
    write_frame(out, |out| {
        ReplyHeader {
            xid: NOTIFICATION_XID,
            zxid,
            err: 0,
        }
        .write(out);
        (event as i32).write(out);
        STATE_SYNC_CONNECTED.write(out);
        out.put_i32(i32::try_from(path.len()).expect("a path is shorter than a frame"));
        out.put_slice(path.as_bytes());
    });
}
