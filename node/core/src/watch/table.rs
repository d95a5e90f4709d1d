//! The table of watches: who watches what, found from either side.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher, Hasher};

use foldhash::fast::FixedState;
use hashbrown::HashTable;

use super::{
    CHILD_TABLE, ConnectionId, DATA_PERSISTENT, DATA_TABLE, RECURSIVE, WatchCounts, WatchKind,
    WatcherType,
};

/// A connection's slot and its modes at a path.
#[derive(Clone, Copy, Debug)]
pub(super) struct Watcher {
    pub(super) connection: u32,
    pub(super) modes: u8,
}

/// A watched path. Vacant when nobody watches it.
#[derive(Debug, Default)]
pub(super) struct Watched {
    path: Box<str>,
    /// Sorted by connection.
    pub(super) watchers: Vec<Watcher>,
}

/// A connection and the paths that it watches.
#[derive(Debug)]
pub(super) struct Watching {
    pub(super) id: ConnectionId,
    pub(super) paths: BTreeSet<u32>,
}

/// All watches of this server.
#[derive(Debug, Default)]
pub struct WatchTable {
    pub(super) watched: Vec<Watched>,
    free_watched: Vec<u32>,
    pub(super) by_path: HashTable<u32>,
    pub(super) connections: Vec<Watching>,
    pub(super) free_connections: Vec<u32>,
    pub(super) by_id: BTreeMap<ConnectionId, u32>,
    /// Pairs with a recursive mode: without any, no ancestor is looked up.
    pub(super) recursive: usize,
    pub(super) data: usize,
    pub(super) child: usize,
    /// Connections that a trigger may have left without watches.
    pub(super) idle: Vec<u32>,
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

    pub(super) fn find(&self, path: &str) -> Option<u32> {
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

    pub(super) fn count(&mut self, before: u8, after: u8) {
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

    pub(super) fn forget_path_if_unwatched(&mut self, at: u32) {
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
