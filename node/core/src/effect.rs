//! The contract with the world around a peer: everything that can happen to it, and everything that it asks for.
//!
//! Effects are executed in their order. What is saved by `SaveAcceptedEpoch`, `SaveCurrentEpoch`, `SaveConfig`,
//! `SaveNextConfig`, `ForgetNextConfig` and `HistoryWhole` is on stable storage before the next effect is begun. `Append`, `Truncate` and `SaveSnapshot` are
//! handed to the log's writer, which works on them in order and reports `Flushed`, `Truncated` and `SnapshotSaved` in
//! the same order.

use std::sync::Arc;

use crate::proto::data::SessionTimeout;
use crate::proto::election::{Notification, PeerState};
use crate::proto::quorum::{ForwardedRequest, Packet, Proposal};
use crate::quorum::config::QuorumConfig;
use crate::zxid::{Epoch, ServerId, SessionId, Zxid};

/// One connection of the quorum port, on this server. A number is used once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LinkId(u64);

impl LinkId {
    const DIALLED: u64 = 1 << 63;

    /// A connection that the shell accepted; it counts them.
    #[must_use]
    pub fn accepted(n: u64) -> Self {
        Self(n & !Self::DIALLED)
    }

    /// A connection that the peer asked for.
    #[must_use]
    pub fn dialled(n: u64) -> Self {
        Self(n | Self::DIALLED)
    }

    /// Whether the peer asked for it.
    #[must_use]
    pub fn is_dialled(self) -> bool {
        self.0 & Self::DIALLED != 0
    }
}

/// Everything that can happen to a peer.
#[derive(Clone, Debug)]
pub enum Input {
    /// The deadline that the peer named has come.
    Tick,
    /// A vote arrived.
    Notification {
        /// The sender.
        from: ServerId,
        /// Its vote.
        notification: Notification,
    },
    /// The election connection to a server came up, broke, or could not be opened.
    ElectionLink {
        /// The other side.
        peer: ServerId,
        /// Whether messages can be sent.
        up: bool,
    },
    /// A quorum connection is open: on a learner the one that it dialled, on others one that was accepted.
    LinkUp(LinkId),
    /// A quorum connection ended, or could not be opened.
    LinkDown(LinkId),
    /// A packet arrived.
    Packet {
        /// The connection.
        link: LinkId,
        /// The packet.
        packet: Packet,
    },
    /// The snapshot after a SNAP packet has arrived whole, signature and all. Nothing was done with it yet.
    SnapshotReceived {
        /// The connection.
        link: LinkId,
        /// The zxid of the SNAP packet.
        zxid: Zxid,
    },
    /// The snapshot of `Effect::SaveSnapshot` is on stable storage.
    SnapshotSaved(Zxid),
    /// Every appended proposal up to this one is on stable storage.
    Flushed(Zxid),
    /// The log was cut, and the tree is at this. If the log could not give what was asked for it is less, or more: then
    /// nothing was cut, and the tree is at the end of the log.
    Truncated(Zxid),
    /// A leader's new transaction, with the zxid that `Peer::next_zxid` named.
    Propose(Proposal),
    /// What a learner's client wants from the leader.
    Forward(Forward),
    /// What the leader's session tracker and request pipeline answer to a learner.
    Answer {
        /// The learner's connection.
        link: LinkId,
        /// The answer.
        answer: Answer,
    },
    /// The sessions that were active, asked for by `Effect::AskTouched`.
    Touched {
        /// From the effect.
        link: LinkId,
        /// From the effect.
        zxid: Zxid,
        /// The sessions with their time-outs.
        sessions: Vec<SessionTimeout>,
    },
    /// This server is about to stop: a leader hands over.
    Resign,
    /// The disk takes nothing, because it is full or hangs; or it works again. A leader hands over if the others have
    /// a quorum without it. A server that has not all of its history on disk takes part in nothing meanwhile.
    DiskBlocked(bool),
    /// More waits for the disk than the memory is for: a learner leaves its leader.
    DiskOverrun,
}

/// What a learner sends on behalf of its clients.
#[derive(Clone, Debug)]
pub enum Forward {
    /// A write or a sync.
    Request(ForwardedRequest),
    /// A client moved here with its session.
    Revalidate(SessionTimeout),
}

/// What a leader answers to a learner.
#[derive(Clone, Debug)]
pub enum Answer {
    /// The learner's oldest sync is done.
    Sync,
    /// Whether a session lives.
    Revalidated {
        /// The session.
        session: SessionId,
        /// Whether it does.
        valid: bool,
    },
}

/// Everything that a peer can ask of the world.
#[derive(Clone, Debug)]
pub enum Effect {
    /// Send a vote. Only the newest one to a server matters.
    Notify {
        /// To whom.
        to: ServerId,
        /// The vote.
        notification: Notification,
    },
    /// Connect to the leader's quorum port.
    Dial {
        /// Whom to call.
        leader: ServerId,
        /// What the connection is to be called.
        link: LinkId,
    },
    /// Close a connection when all that was sent before is written.
    CloseLink(LinkId),
    /// Send a packet.
    Send {
        /// The connection.
        link: LinkId,
        /// The packet.
        packet: Packet,
    },
    /// Send SNAP, the tree as it is now, and the signature. What is sent later on this connection queues behind it.
    SendSnapshot {
        /// The connection.
        link: LinkId,
        /// The last transaction that was committed to the tree.
        zxid: Zxid,
    },
    /// The snapshot that was received on this connection is the tree from now on.
    InstallSnapshot {
        /// The connection.
        link: LinkId,
        /// Its zxid.
        zxid: Zxid,
    },
    /// Write the tree, which is at this zxid, as a snapshot, and begin a new log after it: nothing that is in the log
    /// before may come back.
    SaveSnapshot(Zxid),
    /// Append to the log.
    Append(Proposal),
    /// Forget everything after this zxid: cut the log, drop newer snapshots, reload the tree if it was further. Without a
    /// disk the tree becomes empty, and `Input::Truncated` says so.
    Truncate(Zxid),
    /// Remember the epoch that was agreed to.
    SaveAcceptedEpoch(Epoch),
    /// Remember the epoch that the history belongs to.
    SaveCurrentEpoch(Epoch),
    /// This is the configuration now.
    SaveConfig(Arc<QuorumConfig>),
    /// This configuration was proposed.
    SaveNextConfig(Arc<QuorumConfig>),
    /// The configuration that was proposed will never be committed.
    ForgetNextConfig,
    /// The history can be trusted (again), and is on stable storage: this server votes from now on, after a restart too.
    HistoryWhole,
    /// Why this server does not vote, in words for the log.
    NotVoting(String),
    /// Apply to the tree.
    Commit(Proposal),
    /// The role or its phase changed.
    RoleChanged(RoleInfo),
    /// Start to answer clients, and to take snapshots: the whole history of the leader was committed.
    Serve {
        /// Whether the leader writes into the history when a client moves with its session.
        records_moves: bool,
    },
    /// There is no leader to be in step with any more.
    StopServing,
    /// On the leader: a learner's client wants something.
    LearnerRequest {
        /// The learner's connection.
        link: LinkId,
        /// What it wants.
        request: ForwardedRequest,
    },
    /// On the leader: a client moved to a learner.
    LearnerRevalidate {
        /// The learner's connection.
        link: LinkId,
        /// The session.
        session: SessionTimeout,
    },
    /// On the leader: sessions of a learner that were active.
    LearnerTouched {
        /// The learner's connection.
        link: LinkId,
        /// The sessions.
        sessions: Vec<SessionTimeout>,
    },
    /// On a learner: the leader's answer about a session.
    Revalidated {
        /// The session.
        session: SessionId,
        /// Whether it lives.
        valid: bool,
    },
    /// On a learner: the oldest sync is done.
    SyncReply,
    /// On a learner: the leader wants to know which sessions were active. Answered by `Input::Touched`.
    AskTouched {
        /// To be given back.
        link: LinkId,
        /// To be given back.
        zxid: Zxid,
    },
    /// Something that cannot be has happened: the process ends with this line.
    Halt(String),
}

impl Effect {
    /// Whether everything committed before must be in the replica when this is executed.
    #[must_use]
    pub fn needs_settled_replica(&self) -> bool {
        matches!(
            self,
            Self::SendSnapshot { .. }
                | Self::InstallSnapshot { .. }
                | Self::SaveSnapshot(_)
                | Self::Truncate(_)
        )
    }
}

/// What a peer became.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoleInfo {
    /// Its role.
    pub state: PeerState,
    /// The epoch of its history.
    pub epoch: Epoch,
    /// Whom it follows; itself when it leads.
    pub leader: Option<ServerId>,
    /// Why, in words for the log.
    pub why: String,
}

/// Why a role ends.
#[derive(Debug)]
pub(crate) enum Leave {
    /// Look for a leader.
    Look(String),
    /// Look for a leader, and let others go first.
    Resign(String),
    /// Nothing can be trusted any more.
    Halt(String),
}

impl Leave {
    pub(crate) fn look(why: impl Into<String>) -> Self {
        Self::Look(why.into())
    }
}
