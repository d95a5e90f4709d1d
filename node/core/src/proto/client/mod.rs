//! The client port: handshake, requests, replies and watch events (protocol reference §1.3–1.8).

mod connect;
mod request;

use bytes::{BufMut, Bytes, BytesMut};

use super::code::ErrorCode;
use super::data::{Acl, Id, Stat};
use super::multi::{self, MultiResult};
use crate::jute::{DecodeError, Jute, Reader};
use crate::record;
use crate::zxid::Zxid;
pub use connect::{ConnectRequest, ConnectResponse};
pub use request::{CreateMode, CreateRequest, Request, SetWatches};

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
