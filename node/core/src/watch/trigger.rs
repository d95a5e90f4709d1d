//! What sets watches off: a transaction's changes, or what a client that comes back has missed.

use super::{
    CHILD, CHILD_TABLE, ConnectionId, DATA, DATA_TABLE, Fired, RECURSIVE, WatchKind, WatchTable,
};
use crate::path;
use crate::proto::client::{EventType, SetWatches};
use crate::proto::data::Acl;
use crate::tree::{Change, ChangeKind, DataTree};

impl WatchTable {
    /// Appends to `fired` what a transaction's changes set off, in order. `may_read` says whether a connection may read
    /// what has this ACL; a watch that it keeps from firing is used up all the same.
    pub fn trigger(
        &mut self,
        changes: &[Change],
        mut may_read: impl FnMut(ConnectionId, &[Acl]) -> bool,
        fired: &mut Vec<Fired>,
    ) {
        if self.by_id.is_empty() {
            return;
        }
        for Change {
            kind,
            path,
            acl,
            parent_acl,
        } in changes
        {
            match kind {
                ChangeKind::Created => {
                    let heard = self.take(path, DATA_TABLE);
                    self.fire(
                        EventType::NodeCreated,
                        path,
                        heard,
                        acl,
                        &mut may_read,
                        fired,
                    );
                    self.fire_parent(path, parent_acl, &mut may_read, fired);
                }
                ChangeKind::DataChanged => {
                    let heard = self.take(path, DATA_TABLE);
                    self.fire(
                        EventType::NodeDataChanged,
                        path,
                        heard,
                        acl,
                        &mut may_read,
                        fired,
                    );
                }
                ChangeKind::Deleted => {
                    let heard = self.take(path, DATA_TABLE);
                    let mut child = self.take(path, CHILD_TABLE);
                    child.retain(|slot| heard.binary_search(slot).is_err());
                    self.fire(
                        EventType::NodeDeleted,
                        path,
                        heard,
                        acl,
                        &mut may_read,
                        fired,
                    );
                    self.fire(
                        EventType::NodeDeleted,
                        path,
                        child,
                        acl,
                        &mut may_read,
                        fired,
                    );
                    self.fire_parent(path, parent_acl, &mut may_read, fired);
                }
            }
        }
        self.release_idle();
    }

    fn fire_parent(
        &mut self,
        path: &str,
        acl: &[Acl],
        may_read: &mut impl FnMut(ConnectionId, &[Acl]) -> bool,
        fired: &mut Vec<Fired>,
    ) {
        let parent = path::parent(path);
        let heard = self.take(parent, CHILD_TABLE);
        self.fire(
            EventType::NodeChildrenChanged,
            parent,
            heard,
            acl,
            may_read,
            fired,
        );
    }

    fn fire(
        &self,
        event: EventType,
        path: &str,
        heard: Vec<u32>,
        acl: &[Acl],
        may_read: &mut impl FnMut(ConnectionId, &[Acl]) -> bool,
        fired: &mut Vec<Fired>,
    ) {
        let ids = heard
            .into_iter()
            .map(|slot| self.connections[slot as usize].id);
        let connections: Vec<_> = ids.filter(|id| may_read(*id, acl)).collect();
        if !connections.is_empty() {
            fired.push(Fired {
                event,
                path: path.to_owned(),
                connections,
            });
        }
    }

    /// The connections that a trigger in a table reaches, sorted; their one-time watches there are used up. Connections
    /// that have nothing left stay until [`release_idle`](Self::release_idle).
    fn take(&mut self, path: &str, table: u8) -> Vec<u32> {
        let mut heard = Vec::new();
        if let Some(at) = self.find(path) {
            let mut watchers = std::mem::take(&mut self.watched[at as usize].watchers);
            watchers.retain_mut(|watcher| {
                let before = watcher.modes;
                if before & table != 0 {
                    heard.push(watcher.connection);
                }
                watcher.modes &= !(table & (DATA | CHILD));
                self.count(before, watcher.modes);
                if watcher.modes == 0 {
                    let watching = &mut self.connections[watcher.connection as usize];
                    watching.paths.remove(&at);
                    if watching.paths.is_empty() {
                        self.idle.push(watcher.connection);
                    }
                }
                watcher.modes != 0
            });
            self.watched[at as usize].watchers = watchers;
            self.forget_path_if_unwatched(at);
        }
        if table == DATA_TABLE && self.recursive > 0 && path != "/" {
            for above in path::ancestors(path::parent(path)) {
                let Some(at) = self.find(above) else { continue };
                let watchers = self.watched[at as usize].watchers.iter();
                let recursive = watchers.filter(|watcher| watcher.modes & RECURSIVE != 0);
                heard.extend(recursive.map(|watcher| watcher.connection));
            }
            heard.sort_unstable();
            heard.dedup();
        }
        heard
    }

    /// Frees the slots of connections that have no watch left.
    fn release_idle(&mut self) {
        for slot in std::mem::take(&mut self.idle) {
            self.by_id.remove(&self.connections[slot as usize].id);
            self.free_connections.push(slot);
        }
    }

    /// Registers what a client that comes back had registered, or tells what it has missed (`setWatches2`).
    pub fn set_watches(
        &mut self,
        tree: &DataTree,
        connection: ConnectionId,
        watches: &SetWatches,
        persistent: &[String],
        recursive: &[String],
    ) -> Vec<(EventType, String)> {
        let since = watches.relative_zxid;
        let mut missed = Vec::new();
        for path in &watches.data {
            match tree.get(path).map(|node| node.persisted().mzxid) {
                None => missed.push((EventType::NodeDeleted, path.clone())),
                Some(mzxid) if mzxid > since => {
                    missed.push((EventType::NodeDataChanged, path.clone()))
                }
                Some(_) => self.add(connection, path, WatchKind::Data),
            }
        }
        for path in &watches.exist {
            match tree.get(path) {
                Some(_) => missed.push((EventType::NodeCreated, path.clone())),
                None => self.add(connection, path, WatchKind::Data),
            }
        }
        for path in &watches.child {
            match tree.get(path).map(|node| node.persisted().pzxid) {
                None => missed.push((EventType::NodeDeleted, path.clone())),
                Some(pzxid) if pzxid > since => {
                    missed.push((EventType::NodeChildrenChanged, path.clone()));
                }
                Some(_) => self.add(connection, path, WatchKind::Child),
            }
        }
        for path in persistent {
            self.add(connection, path, WatchKind::Persistent);
        }
        for path in recursive {
            self.add(connection, path, WatchKind::Recursive);
        }
        missed
    }
}
