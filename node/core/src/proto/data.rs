//! The records that requests, transactions and snapshots share (protocol reference §1.5).

use crate::record;
use crate::zxid::{SessionId, Zxid};

/// Permission bits of an ACL entry.
pub mod perms {
    /// Read data and list children.
    pub const READ: i32 = 1;
    /// Set data.
    pub const WRITE: i32 = 2;
    /// Create children.
    pub const CREATE: i32 = 4;
    /// Delete children.
    pub const DELETE: i32 = 8;
    /// Set the ACL.
    pub const ADMIN: i32 = 16;
    /// All of them.
    pub const ALL: i32 = 31;
}

record! {
    /// Who a caller is: an authentication scheme and a name within it.
    #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
    pub struct Id {
        /// `world`, `ip`, `digest`, `auth`, `super`, …
        pub scheme: String,
        /// The name, as the scheme writes it.
        pub id: String,
    }
}

record! {
    /// One entry of an access control list.
    #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
    pub struct Acl {
        /// Bits of [`perms`].
        pub perms: i32,
        /// Whom they are given to.
        pub id: Id,
    }
}

impl Acl {
    /// Everything to everyone.
    #[must_use]
    pub fn open() -> Self {
        Self {
            perms: perms::ALL,
            id: Id {
                scheme: "world".into(),
                id: "anyone".into(),
            },
        }
    }
}

record! {
    /// What a client sees of a znode besides its data.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct Stat {
        /// The transaction that created the node.
        pub czxid: Zxid,
        /// The transaction that last set its data.
        pub mzxid: Zxid,
        /// When it was created, in ms since 1970 by the leader's clock.
        pub ctime: i64,
        /// When its data was last set.
        pub mtime: i64,
        /// Changes of the data.
        pub version: i32,
        /// Changes of the children: creations and deletions.
        pub cversion: i32,
        /// Changes of the ACL.
        pub aversion: i32,
        /// The session that owns an ephemeral node, else 0.
        pub ephemeral_owner: i64,
        /// Bytes of data.
        pub data_length: i32,
        /// Direct children.
        pub num_children: i32,
        /// The transaction that last created or deleted a child.
        pub pzxid: Zxid,
    }
}

record! {
    /// A node's stat as a snapshot stores it. `cversion` counts creations only.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct StatPersisted {
        /// See [`Stat::czxid`].
        pub czxid: Zxid,
        /// See [`Stat::mzxid`].
        pub mzxid: Zxid,
        /// See [`Stat::ctime`].
        pub ctime: i64,
        /// See [`Stat::mtime`].
        pub mtime: i64,
        /// See [`Stat::version`].
        pub version: i32,
        /// Children ever created.
        pub cversion: i32,
        /// See [`Stat::aversion`].
        pub aversion: i32,
        /// The owner, or an encoded kind (container, TTL).
        pub ephemeral_owner: i64,
        /// See [`Stat::pzxid`].
        pub pzxid: Zxid,
    }
}

record! {
    /// A session and its negotiated time-out, as the snapshot and PING carry it.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct SessionTimeout {
        /// The session.
        pub session: SessionId,
        /// Milliseconds.
        pub timeout_ms: i32,
    }
}
