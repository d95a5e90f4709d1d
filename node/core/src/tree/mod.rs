//! The replicated tree of znodes: what transactions change and reads look at.
//!
//! It does not know that there are other servers, and it holds no sessions; only which nodes go with which session.
//! [`apply`](DataTree::apply) is the one way in for a transaction. A snapshot is taken in chunks, between which the tree
//! may change: each node is written as it was at the beginning (`snapshot`).

mod acls;
mod apply;
mod digest;
mod image;
mod index;
mod owner;
mod quota;
mod slab;
mod snapshot;
mod znode;

pub use acls::AclList;
pub use apply::{Applied, Change, ChangeKind};
pub use digest::DIGEST_VERSION;
pub use image::{ImageError, ImageReader, Progress, Restored};
pub use owner::{CONTAINER_OWNER, Owner, TTL_MS_MAX};
pub use quota::{Quota, StatsTrack};
pub use snapshot::SnapshotId;

use std::collections::BTreeSet;

use bytes::Bytes;

use crate::path;
use crate::proto::data::{Acl, Id, Stat, StatPersisted, perms};
use crate::zxid::{SessionId, Zxid};
use acls::AclCache;
use quota::QuotaPaths;
use snapshot::Snapshots;
use znode::{NodeId, Znodes};

/// What configuration says about the tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TreeOptions {
    /// Keep the digest (`digest.enabled`).
    pub digest: bool,
    /// Owners may be times to live (`extendedTypesEnabled`).
    pub extended_types: bool,
    /// Every check passes (`skipACL`).
    pub skip_acl: bool,
}

impl Default for TreeOptions {
    fn default() -> Self {
        Self {
            digest: true,
            extended_types: false,
            skip_acl: false,
        }
    }
}

/// The tree.
#[derive(Debug)]
pub struct DataTree {
    nodes: Znodes,
    acls: AclCache,
    /// Ephemeral nodes by their session.
    ephemerals: BTreeSet<(SessionId, NodeId)>,
    /// Containers and nodes with a time to live.
    expiring: BTreeSet<NodeId>,
    quotas: QuotaPaths,
    digest: i64,
    /// Characters of all paths and bytes of all data.
    data_size: i64,
    snapshots: Snapshots,
    options: TreeOptions,
}

impl DataTree {
    /// A new server's tree: the root and the server's own nodes.
    #[must_use]
    pub fn new(options: TreeOptions) -> Self {
        let mut tree = Self::bare(options);
        let stat = StatPersisted::default();
        let zookeeper = tree.attach_open(NodeId::ROOT, "zookeeper", &stat);
        tree.attach_open(zookeeper, "quota", &stat);
        tree.attach_config(zookeeper);
        tree.digest = tree.computed_digest();
        tree
    }

    /// The root alone, not counted in the digest.
    fn bare(options: TreeOptions) -> Self {
        Self {
            nodes: Znodes::new(),
            acls: AclCache::new(),
            ephemerals: BTreeSet::new(),
            expiring: BTreeSet::new(),
            quotas: QuotaPaths::default(),
            digest: 0,
            data_size: 1,
            snapshots: Snapshots::default(),
            options,
        }
    }

    fn attach_open(&mut self, parent: NodeId, name: &str, stat: &StatPersisted) -> NodeId {
        self.acls.add_use(acls::AclId::OPEN);
        self.attach(parent, name, Some(b""), acls::AclId::OPEN, stat)
    }

    fn attach_config(&mut self, zookeeper: NodeId) -> NodeId {
        let read = Acl {
            perms: perms::READ,
            ..Acl::open()
        };
        let acl = self.acls.intern(&[read]);
        let stat = StatPersisted {
            aversion: -1,
            ..StatPersisted::default()
        };
        self.attach(zookeeper, "config", Some(b""), acl, &stat)
    }

    /// Links a new node and lists it wherever its owner demands. Stat, digest and quota of others are the caller's.
    fn attach(
        &mut self,
        parent: NodeId,
        name: &str,
        data: Option<&[u8]>,
        acl: acls::AclId,
        stat: &StatPersisted,
    ) -> NodeId {
        let id = self.nodes.insert(parent, name.as_bytes(), data, acl, stat);
        self.snapshots.created(id);
        let path_len = self.nodes.path_len(parent) + 1 + name.chars().count();
        self.data_size += (path_len + data.unwrap_or_default().len()) as i64;
        self.list_owner(id);
        id
    }

    fn list_owner(&mut self, id: NodeId) {
        match self.owner_of(id) {
            Owner::Nobody => {}
            Owner::Session(session) => drop(self.ephemerals.insert((session, id))),
            Owner::Container | Owner::Ttl(_) => drop(self.expiring.insert(id)),
        }
    }

    fn unlist_owner(&mut self, id: NodeId) {
        match self.owner_of(id) {
            Owner::Nobody => {}
            Owner::Session(session) => drop(self.ephemerals.remove(&(session, id))),
            Owner::Container | Owner::Ttl(_) => drop(self.expiring.remove(&id)),
        }
    }

    fn owner_of(&self, id: NodeId) -> Owner {
        Owner::decode(self.nodes.owner(id), self.options.extended_types)
    }

    /// What configuration says about the tree.
    #[must_use]
    pub fn options(&self) -> TreeOptions {
        self.options
    }

    /// The node at `path`.
    #[must_use]
    pub fn get(&self, path: &str) -> Option<Node<'_>> {
        self.get_bytes(path.as_bytes())
    }

    /// The node at a path that is still the bytes of a request.
    #[must_use]
    pub fn get_bytes(&self, path: &[u8]) -> Option<Node<'_>> {
        self.nodes.find(path).map(|id| Node { tree: self, id })
    }

    /// How many nodes there are, as ZooKeeper counts them: it knows the root by two names.
    #[must_use]
    pub fn node_count(&self) -> usize {
        self.nodes.len() + 1
    }

    /// ZooKeeper's estimate of the memory in use: characters of paths and bytes of data.
    #[must_use]
    pub fn approximate_data_size(&self) -> i64 {
        self.data_size
    }

    /// The digest, if it is kept.
    #[must_use]
    pub fn digest(&self) -> Option<i64> {
        self.options.digest.then_some(self.digest)
    }

    /// The paths of a session's ephemeral nodes, sorted.
    #[must_use]
    pub fn ephemerals(&self, session: SessionId) -> Vec<String> {
        let nodes = self
            .ephemerals
            .range((session, NodeId::ROOT)..=(session, NodeId::NONE));
        let mut paths: Vec<String> = nodes.map(|(_, id)| self.path_of(*id)).collect();
        paths.sort_unstable();
        paths
    }

    /// How many ephemeral nodes there are.
    #[must_use]
    pub fn ephemeral_count(&self) -> usize {
        self.ephemerals.len()
    }

    /// The sessions that own ephemeral nodes.
    pub fn ephemeral_owners(&self) -> impl Iterator<Item = SessionId> {
        let first = self.ephemerals.first().map(|(session, _)| *session);
        std::iter::successors(first, |session| {
            let mut later = self.ephemerals.range((*session, NodeId::NONE)..);
            later.next().map(|(session, _)| *session)
        })
    }

    /// The containers and nodes with a time to live that may go by now (§2.5). `never_used_ms` is how long a container
    /// may wait for its first child, 0 for ever.
    #[must_use]
    pub fn expired(&self, now: i64, never_used_ms: i64) -> Vec<String> {
        let is_due = |id: NodeId| {
            let stat = self.nodes.stat(id);
            let age = now.saturating_sub(stat.mtime);
            self.nodes.num_children(id) == 0
                && match self.owner_of(id) {
                    Owner::Container => {
                        stat.cversion > 0 || (never_used_ms > 0 && age > never_used_ms)
                    }
                    Owner::Ttl(ttl) => ttl != 0 && age > ttl,
                    Owner::Nobody | Owner::Session(_) => false,
                }
        };
        self.expiring
            .iter()
            .filter(|id| is_due(**id))
            .map(|id| self.path_of(*id))
            .collect()
    }

    fn path_of(&self, id: NodeId) -> String {
        if id == NodeId::ROOT {
            return "/".to_owned();
        }
        let mut path = Vec::with_capacity(self.nodes.path_len(id));
        self.nodes.write_path(id, &mut path);
        String::from_utf8(path).expect("names come from strings")
    }

    /// Shows a configuration in the node for it; not a transaction, so it is in nobody's log. Version and time are what
    /// ZooKeeper puts there.
    pub fn set_config(&mut self, text: &str, version: Zxid, time: i64) {
        let id = match self.nodes.find(path::CONFIG.as_bytes()) {
            Some(id) => id,
            None => {
                let zookeeper = self.nodes.find(path::ZOOKEEPER.as_bytes());
                self.attach_config(zookeeper.expect("the server's own node cannot be deleted"))
            }
        };
        self.before_change(id);
        let before = self.nodes.data(id).unwrap_or_default().len() as i64;
        self.data_size += text.len() as i64 - before;
        self.nodes.set_data(id, Some(text.as_bytes()));
        self.nodes.set_modified(id, -1, version, time);
    }

    /// Writes the node into the snapshots that still lack it, as it is before a change.
    fn before_change(&mut self, id: NodeId) {
        self.snapshots.before_change(&self.nodes, &self.acls, id);
    }

    fn digest_of(&self, id: NodeId, path: &str) -> i64 {
        if !self.options.digest {
            return 0;
        }
        let path = if id == NodeId::ROOT { "" } else { path };
        digest::node_digest(path, self.nodes.data(id), &self.nodes.stat(id))
    }

    /// The digest of all nodes, counted from nothing.
    fn computed_digest(&self) -> i64 {
        let walk = std::iter::successors(Some(NodeId::ROOT), |id| {
            self.nodes.next_below(NodeId::ROOT, *id)
        });
        walk.fold(0i64, |sum, id| {
            sum.wrapping_add(self.digest_of(id, &self.path_of(id)))
        })
    }
}

/// A znode in its tree.
#[derive(Clone, Copy)]
pub struct Node<'a> {
    tree: &'a DataTree,
    id: NodeId,
}

impl<'a> Node<'a> {
    /// The data; null and empty differ.
    #[must_use]
    pub fn data(&self) -> Option<&'a [u8]> {
        self.tree.nodes.data(self.id)
    }

    /// A copy of the data.
    #[must_use]
    pub fn data_bytes(&self) -> Option<Bytes> {
        self.data().map(Bytes::copy_from_slice)
    }

    /// The stat as clients see it.
    #[must_use]
    pub fn stat(&self) -> Stat {
        self.tree.nodes.client_stat(self.id, |owner| {
            match Owner::decode(owner, self.tree.options.extended_types) {
                Owner::Session(session) => session.0,
                Owner::Nobody | Owner::Container | Owner::Ttl(_) => 0,
            }
        })
    }

    /// The stat as snapshots hold it.
    #[must_use]
    pub fn persisted(&self) -> StatPersisted {
        self.tree.nodes.stat(self.id)
    }

    /// Why the node will go by itself, if it will.
    #[must_use]
    pub fn owner(&self) -> Owner {
        self.tree.owner_of(self.id)
    }

    /// The ACL.
    #[must_use]
    pub fn acl(&self) -> &'a AclList {
        self.tree.acls.list(self.tree.nodes.acl(self.id))
    }

    /// Whether a caller with `ids` has one of the permissions `wanted`.
    #[must_use]
    pub fn permits(&self, wanted: i32, ids: &[Id]) -> bool {
        self.tree.options.skip_acl
            || self
                .tree
                .acls
                .permits(self.tree.nodes.acl(self.id), wanted, ids)
    }

    /// How many children it has.
    #[must_use]
    pub fn num_children(&self) -> usize {
        self.tree.nodes.num_children(self.id)
    }

    /// The names of its children, in no particular order.
    pub fn children(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        let nodes = &self.tree.nodes;
        nodes
            .children(self.id)
            .map(|id| std::str::from_utf8(nodes.name(id)).expect("names come from strings"))
    }

    /// How many nodes there are below it.
    #[must_use]
    pub fn descendant_count(&self) -> usize {
        let nodes = &self.tree.nodes;
        if self.id == NodeId::ROOT {
            return nodes.len() - 1;
        }
        let walk = std::iter::successors(Some(self.id), |id| nodes.next_below(self.id, *id));
        walk.count() - 1
    }

    /// The whole path.
    #[must_use]
    pub fn path(&self) -> String {
        self.tree.path_of(self.id)
    }
}

impl std::fmt::Debug for Node<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Node")
            .field("path", &self.path())
            .field("stat", &self.persisted())
            .finish()
    }
}
