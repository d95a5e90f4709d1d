//! Snapshots that are consistent at one zxid while the tree goes on changing.
//!
//! A snapshot keeps one bit per slot: written or not. Slots are written in their order, each after its ancestors. A node
//! that is about to change or go and is not written yet is written first, as it was; a node that is created after the
//! beginning counts as written. So nothing is copied but what changes meanwhile, and several snapshots may be under way.

use bytes::BufMut;

use super::DataTree;
use super::acls::AclCache;
use super::znode::{NodeId, Znodes};
use crate::proto::data::SessionTimeout;
use crate::zxid::Zxid;

/// Names a snapshot that is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SnapshotId(u64);

/// A chunk ends when it has this many bytes, however few nodes they are.
const CHUNK_BYTES: usize = 1 << 20;

/// The snapshots under way.
#[derive(Debug, Default)]
pub(super) struct Snapshots {
    active: Vec<Snapshot>,
    next: u64,
}

#[derive(Debug)]
struct Snapshot {
    id: SnapshotId,
    /// Everything below was visited.
    cursor: u32,
    /// The end of the slots when it began.
    end: u32,
    written: Vec<u64>,
    /// Written but not yet handed out.
    pending: Vec<u8>,
}

impl Snapshot {
    fn is_written(&self, id: NodeId) -> bool {
        id.0 >= self.end || self.written[id.0 as usize / 64] >> (id.0 % 64) & 1 == 1
    }

    fn mark(&mut self, id: NodeId) {
        if id.0 < self.end {
            self.written[id.0 as usize / 64] |= 1 << (id.0 % 64);
        }
    }

    /// Writes a node and those of its ancestors that were not written yet, from the top.
    fn write(&mut self, nodes: &Znodes, acls: &AclCache, id: NodeId) {
        let missing = |id: &NodeId| nodes.parent(*id).filter(|parent| !self.is_written(*parent));
        let top_down: Vec<NodeId> =
            std::iter::successors(nodes.parent(id).filter(|p| !self.is_written(*p)), missing)
                .collect();
        for ancestor in top_down.into_iter().rev() {
            self.mark(ancestor);
            write_node(nodes, acls, ancestor, &mut self.pending);
        }
        self.mark(id);
        write_node(nodes, acls, id, &mut self.pending);
    }

    /// The next slot that is in use and not written.
    fn next(&mut self, nodes: &Znodes) -> Option<NodeId> {
        while self.cursor < self.end {
            let ahead = !self.written[self.cursor as usize / 64] >> (self.cursor % 64);
            if ahead == 0 {
                self.cursor = (self.cursor / 64 + 1) * 64;
                continue;
            }
            self.cursor += ahead.trailing_zeros();
            if self.cursor >= self.end {
                return None;
            }
            let id = NodeId(self.cursor);
            self.cursor += 1;
            if !nodes.is_vacant(id) {
                return Some(id);
            }
        }
        None
    }
}

impl Snapshots {
    pub(super) fn created(&mut self, id: NodeId) {
        for snapshot in &mut self.active {
            snapshot.mark(id);
        }
    }

    pub(super) fn before_change(&mut self, nodes: &Znodes, acls: &AclCache, id: NodeId) {
        for snapshot in &mut self.active {
            if !snapshot.is_written(id) {
                snapshot.write(nodes, acls, id);
            }
        }
    }
}

fn write_node(nodes: &Znodes, acls: &AclCache, id: NodeId, out: &mut Vec<u8>) {
    let data = nodes.data(id);
    out.put_i32(nodes.path_len(id) as i32);
    nodes.write_path(id, out);
    out.put_i32(data.map_or(-1, |data| data.len() as i32));
    out.put_slice(data.unwrap_or_default());
    out.put_i64(acls.number(nodes.acl(id)));
    let stat = nodes.stat(id);
    for Zxid(zxid) in [stat.czxid, stat.mzxid] {
        out.put_i64(zxid);
    }
    for time in [stat.ctime, stat.mtime] {
        out.put_i64(time);
    }
    for version in [stat.version, stat.cversion, stat.aversion] {
        out.put_i32(version);
    }
    out.put_i64(stat.ephemeral_owner);
    out.put_i64(stat.pzxid.0);
}

fn write_text(text: &str, out: &mut Vec<u8>) {
    out.put_i32(text.len() as i32);
    out.put_slice(text.as_bytes());
}

fn write_acls(acls: &AclCache, out: &mut Vec<u8>) {
    let numbered = acls.numbered();
    out.put_i32(numbered.len() as i32);
    for (number, list) in numbered {
        out.put_i64(number);
        out.put_i32(list.len() as i32);
        for entry in list.iter() {
            out.put_i32(entry.perms);
            write_text(&entry.id.scheme, out);
            write_text(&entry.id.id, out);
        }
    }
}

impl DataTree {
    /// Begins a snapshot of the tree as it is now. `sessions` go in front of it. End it with
    /// [`end_snapshot`](Self::end_snapshot), finished or not.
    pub fn begin_snapshot(
        &mut self,
        sessions: impl ExactSizeIterator<Item = SessionTimeout>,
    ) -> SnapshotId {
        let mut pending = Vec::new();
        pending.put_i32(sessions.len() as i32);
        for SessionTimeout {
            session,
            timeout_ms,
        } in sessions
        {
            pending.put_i64(session.0);
            pending.put_i32(timeout_ms);
        }
        write_acls(&self.acls, &mut pending);
        let id = SnapshotId(self.snapshots.next);
        self.snapshots.next += 1;
        let end = self.nodes.end();
        let written = vec![0; (end as usize).div_ceil(64)];
        self.snapshots.active.push(Snapshot {
            id,
            cursor: 0,
            end,
            written,
            pending,
        });
        id
    }

    /// Appends the next part of a snapshot to `out`: at most `nodes_max` nodes besides those that had to be written
    /// early. True when it was the last part.
    pub fn snapshot_chunk(&mut self, id: SnapshotId, nodes_max: usize, out: &mut Vec<u8>) -> bool {
        let active = &mut self.snapshots.active;
        let snapshot = active.iter_mut().find(|snapshot| snapshot.id == id);
        let snapshot = snapshot.expect("a snapshot is asked for between its beginning and end");
        for _ in 0..nodes_max {
            if snapshot.pending.len() >= CHUNK_BYTES {
                break;
            }
            let Some(node) = snapshot.next(&self.nodes) else {
                write_text("/", &mut snapshot.pending);
                out.append(&mut snapshot.pending);
                return true;
            };
            snapshot.write(&self.nodes, &self.acls, node);
        }
        out.append(&mut snapshot.pending);
        false
    }

    /// Bytes that a snapshot holds because their nodes have changed or gone since it began. They are handed out with the
    /// next chunk; who takes chunks too slowly can see it here, and give up.
    #[must_use]
    pub fn snapshot_pending(&self, id: SnapshotId) -> usize {
        let active = self.snapshots.active.iter();
        active
            .filter(|snapshot| snapshot.id == id)
            .map(|snapshot| snapshot.pending.len())
            .sum()
    }

    /// Forgets a snapshot.
    pub fn end_snapshot(&mut self, id: SnapshotId) {
        self.snapshots.active.retain(|snapshot| snapshot.id != id);
    }
}
