//! The tree as it will be when everything that is proposed has been applied.

use std::collections::VecDeque;
use std::sync::Arc;

use foldhash::fast::FixedState;
use hashbrown::HashMap;

use crate::proto::data::{Acl, StatPersisted};
use crate::tree::{AclId, DataTree};
use crate::zxid::Zxid;

/// A node's access control list: one of the tree's, or one that is on its way there.
#[derive(Clone, Debug)]
enum NodeAcl {
    InTree(AclId),
    Proposed(Arc<[Acl]>),
}

/// What a check needs to know of a node.
#[derive(Clone, Debug)]
pub struct Node {
    /// Persisted form: `cversion` counts creations.
    pub stat: StatPersisted,
    /// Direct children.
    pub children: usize,
    /// Bytes of data.
    pub data_len: usize,
    acl: NodeAcl,
}

impl Node {
    /// A node that is about to be created.
    #[must_use]
    pub fn proposed(stat: StatPersisted, data_len: usize, acl: &[Acl]) -> Self {
        Self { stat, children: 0, data_len, acl: NodeAcl::Proposed(acl.into()) }
    }

    /// Gives the node another list.
    pub fn set_acl(&mut self, acl: &[Acl]) {
        self.acl = NodeAcl::Proposed(acl.into());
    }

    /// The node's list.
    #[must_use]
    pub fn acl<'a>(&'a self, tree: &'a DataTree) -> &'a [Acl] {
        match &self.acl {
            NodeAcl::InTree(id) => tree.acl(*id),
            NodeAcl::Proposed(acl) => acl,
        }
    }
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
        let view = tree.view(path)?;
        Some(Node {
            stat: view.stat,
            children: view.children,
            data_len: view.data_len,
            acl: NodeAcl::InTree(view.acl),
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
            if self.changes.get(path).is_some_and(|change| change.zxid <= applied) {
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
