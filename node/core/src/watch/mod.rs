//! Who waits for which change (protocol reference §2.8).
//!
//! A path that is watched is stored once, with a small sorted vector of watchers; a watcher is a connection's slot and
//! its modes in the two tables, *data* and *child*. Each connection knows its paths, so that its end costs no search.

mod table;
mod trigger;

pub use table::WatchTable;

use crate::proto::client::EventType;

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::data::Acl;
    use crate::tree::{AclList, Change, ChangeKind};

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
