//! The tree as it will be when everything that is proposed has been applied.

use std::collections::VecDeque;
use std::sync::Arc;

use foldhash::fast::FixedState;
use hashbrown::HashMap;

use crate::proto::data::StatPersisted;
use crate::tree::{AclList, DataTree};
use crate::zxid::Zxid;

/// What a check needs to know of a node.
#[derive(Clone, Debug)]
pub struct Node {
    /// Persisted form: `cversion` counts creations.
    pub stat: StatPersisted,
    /// Direct children.
    pub children: usize,
    /// Bytes of data.
    pub data_len: usize,
    /// Its access control list.
    pub acl: AclList,
}

#[derive(Clone, Debug)]
struct Change {
    zxid: Zxid,
    node: Option<Node>,
}

/// Changes that are proposed and not yet applied, by path.
#[derive(Debug, Default)]
pub struct Overlay {
    changes: HashMap<Arc<str>, Change, FixedState>,
    /// Every change in its order, to forget them when they have been applied.
    order: VecDeque<(Zxid, Arc<str>)>,
    /// What the changes of the running multi replaced, to take them back.
    undo: Option<Vec<(Arc<str>, Option<Change>)>>,
}

impl Overlay {
    /// The node at `path` once every proposal has been applied.
    #[must_use]
    pub fn get(&self, tree: &DataTree, path: &str) -> Option<Node> {
        if let Some(change) = self.changes.get(path) {
            return change.node.clone();
        }
        let node = tree.get(path)?;
        Some(Node {
            stat: node.persisted(),
            children: node.num_children(),
            data_len: node.data().map_or(0, <[u8]>::len),
            acl: node.acl().clone(),
        })
    }

    /// Notes what a proposal makes of the node at `path`; `None` deletes it.
    pub fn put(&mut self, zxid: Zxid, path: &str, node: Option<Node>) {
        let path: Arc<str> = path.into();
        let old = self.changes.insert(path.clone(), Change { zxid, node });
        self.order.push_back((zxid, path.clone()));
        if let Some(undo) = &mut self.undo {
            undo.push((path, old));
        }
    }

    /// From here on changes can be taken back.
    pub fn begin(&mut self) {
        self.undo = Some(Vec::new());
    }

    /// Keeps the changes since [`begin`](Self::begin).
    pub fn keep(&mut self) {
        self.undo = None;
    }

    /// Takes back the changes since [`begin`](Self::begin).
    pub fn take_back(&mut self) {
        for (path, old) in self.undo.take().into_iter().flatten().rev() {
            self.order.pop_back();
            match old {
                Some(change) => self.changes.insert(path, change),
                None => self.changes.remove(&path),
            };
        }
    }

    /// Forgets the changes that the tree has by now.
    pub fn forget_applied(&mut self, applied: Zxid) {
        while let Some((zxid, path)) = self.order.front() {
            if *zxid > applied {
                return;
            }
            if self
                .changes
                .get(path)
                .is_some_and(|change| change.zxid <= applied)
            {
                self.changes.remove(path);
            }
            self.order.pop_front();
        }
    }

    /// The paths that are under way, each once per change, oldest first.
    pub fn paths(&self) -> impl Iterator<Item = &str> {
        self.order.iter().map(|(_, path)| &**path)
    }

    /// How many changes are under way.
    #[must_use]
    pub fn len(&self) -> usize {
        self.order.len()
    }

    /// Whether nothing is under way.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }
}
