//! What is replicated: the tree and the sessions, at the last transaction that was applied.
//!
//! Commits, recovery and synchronization all go through [`Replica::apply`], in the order of their zxids.

use std::collections::{BTreeMap, BTreeSet};

use crate::proto::data::SessionTimeout;
use crate::proto::txn::{Txn, TxnHeader};
use crate::tree::{Applied, Change, DataTree, Restored, SnapshotId, TreeOptions};
use crate::zxid::{SessionId, Zxid};

/// Tree and sessions at one zxid.
#[derive(Debug)]
pub struct Replica {
    tree: DataTree,
    sessions: BTreeMap<SessionId, i32>,
    last_zxid: Zxid,
}

impl Replica {
    /// A new server's replica.
    #[must_use]
    pub fn new(options: TreeOptions) -> Self {
        Self {
            tree: DataTree::new(options),
            sessions: BTreeMap::new(),
            last_zxid: Zxid::ZERO,
        }
    }

    /// What a snapshot holds, taken at `zxid`.
    #[must_use]
    pub fn restored(restored: Restored, zxid: Zxid) -> Self {
        let Restored { tree, sessions } = restored;
        let sessions = sessions
            .into_iter()
            .map(|entry| (entry.session, entry.timeout_ms))
            .collect();
        Self {
            tree,
            sessions,
            last_zxid: zxid,
        }
    }

    /// The tree.
    #[must_use]
    pub fn tree(&self) -> &DataTree {
        &self.tree
    }

    /// The last transaction that was applied.
    #[must_use]
    pub fn last_zxid(&self) -> Zxid {
        self.last_zxid
    }

    /// The global sessions and their time-outs in ms.
    #[must_use]
    pub fn sessions(&self) -> &BTreeMap<SessionId, i32> {
        &self.sessions
    }

    /// Applies a transaction.
    pub fn apply(&mut self, header: &TxnHeader, txn: &Txn) -> Applied {
        match txn {
            Txn::CreateSession { timeout_ms } => {
                self.sessions.insert(header.session, *timeout_ms);
            }
            Txn::CloseSession { .. } => {
                self.sessions.remove(&header.session);
            }
            _ => {}
        }
        let applied = self.tree.apply(header, txn);
        self.last_zxid = self.last_zxid.max(header.zxid);
        applied
    }

    /// Deletes the ephemeral nodes of sessions that do not exist, as a leader does when it starts (§2.10).
    pub fn end_dead_sessions(&mut self) -> Vec<Change> {
        let owners: BTreeSet<SessionId> = self.tree.ephemeral_owners().collect();
        let mut changes = Vec::new();
        for session in owners
            .iter()
            .filter(|session| !self.sessions.contains_key(session))
        {
            self.tree
                .end_session(*session, self.last_zxid, &[], &mut changes);
        }
        changes
    }

    /// Shows the ensemble's configuration in its node.
    pub fn set_config(&mut self, text: &str, version: Zxid, time: i64) {
        self.tree.set_config(text, version, time);
    }

    /// Begins a snapshot of what is there now; see [`DataTree::begin_snapshot`].
    pub fn begin_snapshot(&mut self) -> SnapshotId {
        let sessions = self.sessions.iter();
        self.tree
            .begin_snapshot(sessions.map(|(session, timeout_ms)| SessionTimeout {
                session: *session,
                timeout_ms: *timeout_ms,
            }))
    }

    /// See [`DataTree::snapshot_chunk`].
    pub fn snapshot_chunk(&mut self, id: SnapshotId, nodes_max: usize, out: &mut Vec<u8>) -> bool {
        self.tree.snapshot_chunk(id, nodes_max, out)
    }

    /// See [`DataTree::snapshot_pending`].
    #[must_use]
    pub fn snapshot_pending(&self, id: SnapshotId) -> usize {
        self.tree.snapshot_pending(id)
    }

    /// See [`DataTree::end_snapshot`].
    pub fn end_snapshot(&mut self, id: SnapshotId) {
        self.tree.end_snapshot(id);
    }
}
