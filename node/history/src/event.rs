//! What clients do and see.

/// Something that the observer noted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A client is about to ask for something.
    Invoke {
        /// A number that only this request has.
        op: u64,
        /// Its session.
        session: i64,
        /// What it asks for.
        call: Call,
    },
    /// The answer has arrived. A request without one has an outcome that nobody knows.
    Return {
        /// The request.
        op: u64,
        /// From the answer's header.
        zxid: i64,
        /// What was answered.
        result: Result<Reply, Refusal>,
    },
    /// A watch has fired.
    Fired {
        /// Whose.
        session: i64,
        /// For which path.
        path: String,
    },
    /// A session's connection has ended.
    Disconnected {
        /// Whose.
        session: i64,
        /// Whether its client forgets its watches then; else it sets them again before it asks for anything else.
        forgets_watches: bool,
    },
    /// A session has begun, or was accepted by a server again.
    Connected {
        /// Whose.
        session: i64,
    },
    /// A server has said that a session is no more.
    Expired {
        /// Whose.
        session: i64,
    },
}

/// What a client asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Call {
    /// One change, or several that happen together.
    Write(Vec<Change>),
    /// A node's value.
    Get {
        /// Which node.
        path: String,
        /// Whether the next change to it is to be told. (Where there is no node no watch is set: this is `getData`.)
        watch: bool,
    },
    /// Something that changes no node of the history and shows none (`sync`, lists).
    Other,
    /// The end of the session.
    Close,
}

/// A change to a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A new node.
    Create {
        /// Its path; for a sequential one what its number is put to.
        path: String,
        /// No other change has this value.
        value: u64,
        /// Whether it goes with its session.
        ephemeral: bool,
        /// Whether a number is put to its path.
        sequential: bool,
    },
    /// Another value.
    Set {
        /// Which node.
        path: String,
        /// No other change has this value.
        value: u64,
        /// The version that it must have.
        version: Option<i32>,
    },
    /// The end of a node.
    Delete {
        /// Which node.
        path: String,
        /// The version that it must have.
        version: Option<i32>,
    },
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// A write's: of each change.
    Written(Vec<Done>),
    /// A read's.
    Node(NodeState),
    /// A read's where there is no node.
    Absent,
    /// Any other.
    Done,
}

/// The answer to one change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Done {
    /// This node was created.
    Created(String),
    /// The node has this version now.
    Set(i32),
    /// The node was deleted.
    Deleted,
}

/// A node as a read shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeState {
    /// Its value.
    pub value: u64,
    /// How often it was set.
    pub version: i32,
    /// When it was created.
    pub czxid: i64,
    /// When it was created or set last.
    pub mzxid: i64,
    /// The session that it goes with, or 0.
    pub owner: i64,
}

/// Why a request was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The node is not there.
    NoNode,
    /// The node is there already.
    NodeExists,
    /// The node has another version.
    BadVersion,
    /// Anything else; nothing follows from it but that nothing was changed.
    Other,
}
