//! Who waits for which change (protocol reference §2.8).
//!
//! A path that is watched is stored once, with a small sorted vector of watchers; a watcher is a connection's slot and
//! its modes in the two tables, *data* and *child*. Each connection knows its paths, so that its end costs no search.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher, Hasher};

use foldhash::fast::FixedState;
use hashbrown::HashTable;

use crate::path;
use crate::proto::client::{EventType, SetWatches};
use crate::proto::data::Acl;
use crate::tree::{Change, ChangeKind, DataTree};

/// A client's connection to this server. Watches belong to it and go with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(pub u64);

/// How long a watch lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WatchKind {
    /// Until it fires: set by `exists` and `getData`.
    Data,
    /// Until it fires: set by `getChildren`.
    Child,
    /// For ever, at one path.
    Persistent,
    /// For ever, at a path and everything below; never tells of children.
    Recursive,
}

/// Which watches `checkWatches` and `removeWatches` are about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WatcherType {
    /// [`WatchKind::Child`].
    Children,
    /// [`WatchKind::Data`].
    Data,
    /// All of them.
    Any,
    /// [`WatchKind::Persistent`].
    Persistent,
    /// [`WatchKind::Recursive`].
    Recursive,
}

impl WatcherType {
    /// The type with this number.
    #[must_use]
    pub fn from_number(number: i32) -> Option<Self> {
        Some(match number {
            1 => Self::Children,
            2 => Self::Data,
            3 => Self::Any,
            4 => Self::Persistent,
            5 => Self::Recursive,
            _ => return None,
        })
    }

    fn modes(self) -> u8 {
        match self {
            Self::Children => CHILD,
            Self::Data => DATA,
            Self::Any => DATA_TABLE | CHILD_TABLE,
            Self::Persistent => DATA_PERSISTENT | CHILD_PERSISTENT,
            Self::Recursive => RECURSIVE,
        }
    }
}

/// An event and the connections that hear of it; to be encoded once for all of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fired {
    /// What happened.
    pub event: EventType,
    /// Where.
    pub path: String,
    /// Who hears of it.
    pub connections: Vec<ConnectionId>,
}

/// How many there are, for `wchs` and metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WatchCounts {
    /// Connections with a watch in the data table.
    pub connections: usize,
    /// Paths that the data table watches.
    pub paths: usize,
    /// Pairs of connection and path in the data table.
    pub data: usize,
    /// The same in the child table.
    pub child: usize,
}

const DATA: u8 = 1;
const DATA_PERSISTENT: u8 = 2;
const RECURSIVE: u8 = 4;
const CHILD: u8 = 8;
const CHILD_PERSISTENT: u8 = 16;
const DATA_TABLE: u8 = DATA | DATA_PERSISTENT | RECURSIVE;
const CHILD_TABLE: u8 = CHILD | CHILD_PERSISTENT;

impl WatchKind {
    fn modes(self) -> u8 {
        match self {
            Self::Data => DATA,
            Self::Child => CHILD,
            Self::Persistent => DATA_PERSISTENT | CHILD_PERSISTENT,
            Self::Recursive => RECURSIVE,
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Watcher {
    connection: u32,
    modes: u8,
}

/// A watched path. Vacant when nobody watches it.
#[derive(Debug, Default)]
struct Watched {
    path: Box<str>,
    /// Sorted by connection.
    watchers: Vec<Watcher>,
}

#[derive(Debug)]
struct Watching {
    id: ConnectionId,
    paths: BTreeSet<u32>,
}

/// All watches of this server.
#[derive(Debug, Default)]
pub struct WatchTable {
    watched: Vec<Watched>,
    free_watched: Vec<u32>,
    by_path: HashTable<u32>,
    connections: Vec<Watching>,
    free_connections: Vec<u32>,
    by_id: BTreeMap<ConnectionId, u32>,
    /// Pairs with a recursive mode: without any, no ancestor is looked up.
    recursive: usize,
    data: usize,
    child: usize,
    /// Connections that a trigger may have left without watches.
    idle: Vec<u32>,
}

fn hash(path: &str) -> u64 {
    let mut hasher = FixedState::with_seed(0x7761_7463).build_hasher();
    hasher.write(path.as_bytes());
    hasher.finish()
}

impl WatchTable {
    /// No watches.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Registers a watch. Kinds at the same path coexist.
    pub fn add(&mut self, connection: ConnectionId, path: &str, kind: WatchKind) {
        let at = self.watch_path(path);
        let slot = self.connection_slot(connection);
        let watchers = &mut self.watched[at as usize].watchers;
        let (before, after) =
            match watchers.binary_search_by_key(&slot, |watcher| watcher.connection) {
                Ok(found) => {
                    let watcher = &mut watchers[found];
                    let before = watcher.modes;
                    watcher.modes |= kind.modes();
                    (before, watcher.modes)
                }
                Err(place) => {
                    let modes = kind.modes();
                    watchers.insert(
                        place,
                        Watcher {
                            connection: slot,
                            modes,
                        },
                    );
                    self.connections[slot as usize].paths.insert(at);
                    (0, modes)
                }
            };
        self.count(before, after);
    }

    fn watch_path(&mut self, path: &str) -> u32 {
        if let Some(at) = self.find(path) {
            return at;
        }
        let watched = Watched {
            path: path.into(),
            watchers: Vec::new(),
        };
        let at = match self.free_watched.pop() {
            Some(at) => {
                self.watched[at as usize] = watched;
                at
            }
            None => {
                self.watched.push(watched);
                (self.watched.len() - 1) as u32
            }
        };
        let watched = &self.watched;
        self.by_path
            .insert_unique(hash(path), at, |at| hash(&watched[*at as usize].path));
        at
    }

    fn find(&self, path: &str) -> Option<u32> {
        self.by_path
            .find(hash(path), |at| *self.watched[*at as usize].path == *path)
            .copied()
    }

    fn connection_slot(&mut self, id: ConnectionId) -> u32 {
        if let Some(slot) = self.by_id.get(&id) {
            return *slot;
        }
        let watching = Watching {
            id,
            paths: BTreeSet::new(),
        };
        let slot = match self.free_connections.pop() {
            Some(slot) => {
                self.connections[slot as usize] = watching;
                slot
            }
            None => {
                self.connections.push(watching);
                (self.connections.len() - 1) as u32
            }
        };
        self.by_id.insert(id, slot);
        slot
    }

    fn count(&mut self, before: u8, after: u8) {
        let step = |count: &mut usize, modes: u8| match (before & modes != 0, after & modes != 0) {
            (false, true) => *count += 1,
            (true, false) => *count -= 1,
            _ => {}
        };
        step(&mut self.data, DATA_TABLE);
        step(&mut self.child, CHILD_TABLE);
        step(&mut self.recursive, RECURSIVE);
    }

    /// Takes modes from a connection at a path; true if it had one of them.
    fn take_modes(&mut self, at: u32, slot: u32, modes: u8) -> bool {
        let watchers = &mut self.watched[at as usize].watchers;
        let found = watchers.binary_search_by_key(&slot, |watcher| watcher.connection);
        let Ok(place) = found else { return false };
        let before = watchers[place].modes;
        let after = before & !modes;
        watchers[place].modes = after;
        if after == 0 {
            watchers.remove(place);
            self.forget_pair(at, slot);
        }
        self.count(before, after);
        before != after
    }

    /// After the last mode of a pair has gone: both sides forget it, and vanish if nothing else is left of them.
    fn forget_pair(&mut self, at: u32, slot: u32) {
        let watching = &mut self.connections[slot as usize];
        watching.paths.remove(&at);
        if watching.paths.is_empty() {
            self.by_id.remove(&watching.id);
            self.free_connections.push(slot);
        }
        self.forget_path_if_unwatched(at);
    }

    fn forget_path_if_unwatched(&mut self, at: u32) {
        let watched = &self.watched[at as usize];
        if !watched.watchers.is_empty() {
            return;
        }
        if let Ok(entry) = self
            .by_path
            .find_entry(hash(&watched.path), |other| *other == at)
        {
            entry.remove();
            self.watched[at as usize] = Watched::default();
            self.free_watched.push(at);
        }
    }

    /// Forgets everything about a connection that has closed.
    pub fn remove_connection(&mut self, id: ConnectionId) {
        let Some(slot) = self.by_id.get(&id).copied() else {
            return;
        };
        let paths = std::mem::take(&mut self.connections[slot as usize].paths);
        for at in paths {
            let watchers = &mut self.watched[at as usize].watchers;
            if let Ok(place) = watchers.binary_search_by_key(&slot, |watcher| watcher.connection) {
                let watcher = watchers.remove(place);
                self.count(watcher.modes, 0);
            }
            self.forget_path_if_unwatched(at);
        }
        self.by_id.remove(&id);
        self.free_connections.push(slot);
    }

    /// Whether a connection has such a watch (`checkWatches`).
    #[must_use]
    pub fn has(&self, connection: ConnectionId, path: &str, watcher_type: WatcherType) -> bool {
        let modes = match watcher_type {
            WatcherType::Persistent => DATA_PERSISTENT,
            other => other.modes(),
        };
        let (Some(at), Some(slot)) = (self.find(path), self.by_id.get(&connection)) else {
            return false;
        };
        let watchers = &self.watched[at as usize].watchers;
        let found = watchers.binary_search_by_key(slot, |watcher| watcher.connection);
        found.is_ok_and(|place| watchers[place].modes & modes != 0)
    }

    /// Removes a connection's watches of a type; false if there was none (`removeWatches`).
    pub fn remove(&mut self, connection: ConnectionId, path: &str, kind: WatcherType) -> bool {
        match (self.find(path), self.by_id.get(&connection).copied()) {
            (Some(at), Some(slot)) => self.take_modes(at, slot, kind.modes()),
            _ => false,
        }
    }

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

    /// The counts. Walks all watched paths.
    #[must_use]
    pub fn counts(&self) -> WatchCounts {
        let in_data = |watched: &&Watched| {
            watched
                .watchers
                .iter()
                .any(|watcher| watcher.modes & DATA_TABLE != 0)
        };
        WatchCounts {
            connections: self.by_connection().len(),
            paths: self.watched.iter().filter(in_data).count(),
            data: self.data,
            child: self.child,
        }
    }

    /// Pairs of connection and path in both tables: `watch_count`. At once.
    #[must_use]
    pub fn watch_count(&self) -> usize {
        self.data + self.child
    }

    /// The data table by path (`wchp`).
    #[must_use]
    pub fn by_path(&self) -> BTreeMap<&str, Vec<ConnectionId>> {
        let mut paths: BTreeMap<&str, Vec<ConnectionId>> = BTreeMap::new();
        for (path, id) in self.data_pairs() {
            paths.entry(path).or_default().push(id);
        }
        paths
    }

    /// The data table by connection (`wchc`).
    #[must_use]
    pub fn by_connection(&self) -> BTreeMap<ConnectionId, Vec<&str>> {
        let mut connections: BTreeMap<ConnectionId, Vec<&str>> = BTreeMap::new();
        for (path, id) in self.data_pairs() {
            connections.entry(id).or_default().push(path);
        }
        connections
    }

    fn data_pairs(&self) -> impl Iterator<Item = (&str, ConnectionId)> {
        self.watched.iter().flat_map(|watched| {
            let data = watched
                .watchers
                .iter()
                .filter(|watcher| watcher.modes & DATA_TABLE != 0);
            data.map(|watcher| {
                (
                    &*watched.path,
                    self.connections[watcher.connection as usize].id,
                )
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::AclList;

    const A: ConnectionId = ConnectionId(1);
    const B: ConnectionId = ConnectionId(2);

    fn change(kind: ChangeKind, path: &str) -> Change {
        let acl: AclList = [Acl::open()].into();
        Change {
            kind,
            path: path.to_owned(),
            parent_acl: acl.clone(),
            acl,
        }
    }

    /// What a change sets off, one line an event.
    fn check(table: &mut WatchTable, kind: ChangeKind, path: &str) -> Vec<String> {
        let mut fired = Vec::new();
        table.trigger(&[change(kind, path)], |_, _| true, &mut fired);
        let line = |fired: &Fired| {
            let ids: Vec<u64> = fired.connections.iter().map(|id| id.0).collect();
            format!("{:?} {} {ids:?}", fired.event, fired.path)
        };
        fired.iter().map(line).collect()
    }

    #[test]
    fn a_standard_watch_fires_once() {
        let mut table = WatchTable::new();
        table.add(A, "/a", WatchKind::Data);
        table.add(B, "/a", WatchKind::Data);
        assert_eq!(
            check(&mut table, ChangeKind::DataChanged, "/a"),
            ["NodeDataChanged /a [1, 2]"]
        );
        assert!(check(&mut table, ChangeKind::DataChanged, "/a").is_empty());
        assert_eq!(table.counts(), WatchCounts::default());
        assert!(table.by_id.is_empty() && table.by_path.is_empty());
    }

    #[test]
    fn a_deletion_is_told_once_to_a_connection_and_then_to_the_parents_watchers() {
        let mut table = WatchTable::new();
        table.add(A, "/a/b", WatchKind::Data);
        table.add(A, "/a/b", WatchKind::Child);
        table.add(B, "/a/b", WatchKind::Child);
        table.add(B, "/a", WatchKind::Child);
        let expected = [
            "NodeDeleted /a/b [1]",
            "NodeDeleted /a/b [2]",
            "NodeChildrenChanged /a [2]",
        ];
        assert_eq!(check(&mut table, ChangeKind::Deleted, "/a/b"), expected);
        assert_eq!(table.watch_count(), 0);
    }

    #[test]
    fn a_persistent_watch_hears_of_everything_at_its_path() {
        let mut table = WatchTable::new();
        table.add(A, "/a", WatchKind::Persistent);
        for _ in 0..2 {
            assert_eq!(
                check(&mut table, ChangeKind::Created, "/a"),
                ["NodeCreated /a [1]"]
            );
            assert_eq!(
                check(&mut table, ChangeKind::Created, "/a/b"),
                ["NodeChildrenChanged /a [1]"]
            );
            assert_eq!(
                check(&mut table, ChangeKind::Deleted, "/a"),
                ["NodeDeleted /a [1]"]
            );
        }
    }

    #[test]
    fn a_recursive_watch_hears_of_all_below_but_never_of_children() {
        let mut table = WatchTable::new();
        table.add(A, "/", WatchKind::Recursive);
        table.add(A, "/a", WatchKind::Recursive);
        table.add(A, "/a/b", WatchKind::Data);
        assert_eq!(
            check(&mut table, ChangeKind::DataChanged, "/a/b"),
            ["NodeDataChanged /a/b [1]"]
        );
        assert_eq!(
            check(&mut table, ChangeKind::Created, "/x/y"),
            ["NodeCreated /x/y [1]"]
        );
        assert_eq!(
            check(&mut table, ChangeKind::Deleted, "/ab"),
            ["NodeDeleted /ab [1]"]
        );
        assert_eq!(
            check(&mut table, ChangeKind::DataChanged, "/"),
            ["NodeDataChanged / [1]"]
        );
    }

    #[test]
    fn a_watch_that_the_acl_silences_is_used_up() {
        let mut table = WatchTable::new();
        table.add(A, "/a", WatchKind::Data);
        let mut fired = Vec::new();
        table.trigger(
            &[change(ChangeKind::Created, "/a")],
            |_, _| false,
            &mut fired,
        );
        assert!(fired.is_empty());
        assert_eq!(table.watch_count(), 0);
    }

    #[test]
    fn removal_is_by_type_and_needs_something_to_remove() {
        let mut table = WatchTable::new();
        table.add(A, "/a", WatchKind::Data);
        table.add(A, "/a", WatchKind::Persistent);
        table.add(A, "/a", WatchKind::Recursive);
        assert!(!table.has(A, "/a", WatcherType::Children));
        assert!(!table.remove(A, "/a", WatcherType::Children));
        assert!(table.has(A, "/a", WatcherType::Persistent));
        assert!(table.remove(A, "/a", WatcherType::Persistent));
        assert!(!table.has(A, "/a", WatcherType::Persistent));
        assert_eq!((table.data, table.child, table.recursive), (1, 0, 1));
        assert!(table.remove(A, "/a", WatcherType::Any));
        assert!(!table.remove(A, "/a", WatcherType::Any));
    }

    #[test]
    fn a_closed_connection_leaves_nothing_behind() {
        let mut table = WatchTable::new();
        for path in ["/a", "/b", "/c"] {
            table.add(A, path, WatchKind::Persistent);
            table.add(B, path, WatchKind::Child);
        }
        table.remove_connection(A);
        assert_eq!(
            table.counts(),
            WatchCounts {
                child: 3,
                ..WatchCounts::default()
            }
        );
        table.remove_connection(B);
        assert_eq!(table.watch_count(), 0);
        assert!(table.by_path.is_empty());
        table.add(B, "/d", WatchKind::Data);
        assert_eq!(table.by_path().keys().collect::<Vec<_>>(), [&"/d"]);
        assert_eq!(table.by_connection()[&B], ["/d"]);
    }
}
