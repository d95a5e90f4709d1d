//! One znode, packed, and the links between them.
//!
//! A znode that never had a child, an owner or a second ACL (nearly all are such) takes one slot and one allocation for
//! name and data; the rest of its stat is implied. The others have a second slot, [`Extra`].

use crate::proto::data::{Stat, StatPersisted};
use crate::zxid::Zxid;

use super::acls::AclId;
use super::index::NameIndex;
use super::slab::Slab;

/// A znode's slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct NodeId(pub(super) u32);

impl NodeId {
    pub(super) const ROOT: Self = Self(0);
    pub(super) const NONE: Self = Self(u32::MAX);
    /// The parent of a free slot.
    const VACANT: Self = Self(u32::MAX - 1);

    pub(super) fn some(self) -> Option<Self> {
        (self != Self::NONE).then_some(self)
    }
}

const NO_EXTRA: u32 = u32::MAX;

#[derive(Debug)]
struct Znode {
    parent: NodeId,
    next: NodeId,
    prev: NodeId,
    extra: u32,
    acl: AclId,
    version: i32,
    czxid: i64,
    mzxid: i64,
    ctime: i64,
    mtime: i64,
    payload: Payload,
}

/// What only parents, owned nodes and nodes with a changed ACL need.
#[derive(Clone, Copy, Debug)]
struct Extra {
    first_child: NodeId,
    num_children: u32,
    cversion: i32,
    aversion: i32,
    owner: i64,
    pzxid: i64,
}

/// Name and data in one allocation: the name's length and whether the data is null (a number of one to five bytes),
/// the name, the data.
#[derive(Debug)]
struct Payload(Box<[u8]>);

impl Payload {
    fn new(name: &[u8], data: Option<&[u8]>) -> Self {
        let bytes = data.unwrap_or_default();
        let mut header = (name.len() as u64) << 1 | u64::from(data.is_none());
        let header_len = (64 - (header | 1).leading_zeros() as usize).div_ceil(7);
        let mut payload = Vec::with_capacity(header_len + name.len() + bytes.len());
        while header >= 0x80 {
            payload.push(header as u8 | 0x80);
            header >>= 7;
        }
        payload.push(header as u8);
        payload.extend_from_slice(name);
        payload.extend_from_slice(bytes);
        Self(payload.into_boxed_slice())
    }

    /// The header's value, and where the name begins.
    fn header(&self) -> (usize, usize) {
        let mut value = 0;
        for (at, byte) in self.0.iter().enumerate() {
            value |= usize::from(byte & 0x7f) << (7 * at);
            if byte & 0x80 == 0 {
                return (value, at + 1);
            }
        }
        (0, 0)
    }

    fn name(&self) -> &[u8] {
        let (header, at) = self.header();
        &self.0[at..at + (header >> 1)]
    }

    fn data(&self) -> Option<&[u8]> {
        let (header, at) = self.header();
        (header & 1 == 0).then(|| &self.0[at + (header >> 1)..])
    }

    fn set_data(&mut self, data: Option<&[u8]>) {
        let (header, at) = self.header();
        let start = at + (header >> 1);
        match data {
            Some(data) if header & 1 == 0 && self.0.len() - start == data.len() => {
                self.0[start..].copy_from_slice(data);
            }
            _ => *self = Self::new(&self.0[at..start], data),
        }
    }
}

/// All znodes of a tree.
#[derive(Debug)]
pub(super) struct Znodes {
    slots: Slab<Znode>,
    extras: Slab<Extra>,
    index: NameIndex,
    count: usize,
}

impl Znodes {
    /// The root, with nothing in it.
    pub(super) fn new() -> Self {
        let mut nodes = Self {
            slots: Slab::new(),
            extras: Slab::new(),
            index: NameIndex::new(),
            count: 1,
        };
        let stat = StatPersisted::default();
        let root = nodes.new_slot(NodeId::NONE, b"", Some(b""), AclId::OPEN, &stat);
        assert_eq!(root, NodeId::ROOT, "the first slot is the root's");
        nodes
    }

    pub(super) fn len(&self) -> usize {
        self.count
    }

    /// One more than the largest slot in use.
    pub(super) fn end(&self) -> u32 {
        self.slots.end()
    }

    pub(super) fn is_vacant(&self, id: NodeId) -> bool {
        self.node(id).parent == NodeId::VACANT
    }

    fn node(&self, id: NodeId) -> &Znode {
        self.slots.get(id.0)
    }

    fn node_mut(&mut self, id: NodeId) -> &mut Znode {
        self.slots.get_mut(id.0)
    }

    fn extra(&self, id: NodeId) -> Extra {
        let node = self.node(id);
        if node.extra == NO_EXTRA {
            return Extra {
                first_child: NodeId::NONE,
                num_children: 0,
                cversion: 0,
                aversion: 0,
                owner: 0,
                pzxid: node.czxid,
            };
        }
        *self.extras.get(node.extra)
    }

    fn extra_mut(&mut self, id: NodeId) -> &mut Extra {
        if self.node(id).extra == NO_EXTRA {
            let implied = self.extra(id);
            self.node_mut(id).extra = self.extras.insert(implied);
        }
        let extra = self.node(id).extra;
        self.extras.get_mut(extra)
    }

    fn new_slot(
        &mut self,
        parent: NodeId,
        name: &[u8],
        data: Option<&[u8]>,
        acl: AclId,
        stat: &StatPersisted,
    ) -> NodeId {
        let id = NodeId(self.slots.insert(Znode {
            parent,
            next: NodeId::NONE,
            prev: NodeId::NONE,
            extra: NO_EXTRA,
            acl,
            version: 0,
            czxid: 0,
            mzxid: 0,
            ctime: 0,
            mtime: 0,
            payload: Payload::new(name, data),
        }));
        self.set_stat(id, stat);
        id
    }

    /// Adds a child. The name must be free.
    pub(super) fn insert(
        &mut self,
        parent: NodeId,
        name: &[u8],
        data: Option<&[u8]>,
        acl: AclId,
        stat: &StatPersisted,
    ) -> NodeId {
        let id = self.new_slot(parent, name, data, acl, stat);
        let hash = self.index.hash(parent, name);
        let slots = &self.slots;
        self.index.insert(hash, id, |index, other| {
            let node = slots.get(other.0);
            index.hash(node.parent, node.payload.name())
        });
        let family = self.extra_mut(parent);
        let next = std::mem::replace(&mut family.first_child, id);
        family.num_children += 1;
        self.node_mut(id).next = next;
        if let Some(next) = next.some() {
            self.node_mut(next).prev = id;
        }
        self.count += 1;
        id
    }

    /// Removes a node without children. Its ACL's use must be given back by the caller.
    pub(super) fn remove(&mut self, id: NodeId) {
        let node = self.node(id);
        let (parent, next, prev, extra) = (node.parent, node.next, node.prev, node.extra);
        let hash = self.index.hash(parent, node.payload.name());
        self.index.remove(hash, id);
        match prev.some() {
            Some(prev) => self.node_mut(prev).next = next,
            None => self.extra_mut(parent).first_child = next,
        }
        if let Some(next) = next.some() {
            self.node_mut(next).prev = prev;
        }
        self.extra_mut(parent).num_children -= 1;
        if extra != NO_EXTRA {
            let implied = *self.extras.get(extra);
            self.extras.remove(extra, implied);
        }
        let vacant = Znode {
            parent: NodeId::VACANT,
            next: NodeId::NONE,
            prev: NodeId::NONE,
            extra: NO_EXTRA,
            acl: AclId::OPEN,
            version: 0,
            czxid: 0,
            mzxid: 0,
            ctime: 0,
            mtime: 0,
            payload: Payload(Box::default()),
        };
        self.slots.remove(id.0, vacant);
        self.count -= 1;
    }

    pub(super) fn child(&self, parent: NodeId, name: &[u8]) -> Option<NodeId> {
        self.index.find(self.index.hash(parent, name), |id| {
            let node = self.node(*id);
            node.parent == parent && node.payload.name() == name
        })
    }

    /// The node at a path. The root is both `/` and the empty path; a path that is not well formed names no node.
    pub(super) fn find(&self, path: &[u8]) -> Option<NodeId> {
        let Some((b'/', mut rest)) = path.split_first() else {
            return path.is_empty().then_some(NodeId::ROOT);
        };
        let mut id = NodeId::ROOT;
        if rest.is_empty() {
            return Some(id);
        }
        loop {
            match rest.iter().position(|byte| *byte == b'/') {
                None => return self.child(id, rest),
                Some(at) => {
                    id = self.child(id, &rest[..at])?;
                    rest = &rest[at + 1..];
                }
            }
        }
    }

    pub(super) fn parent(&self, id: NodeId) -> Option<NodeId> {
        self.node(id).parent.some()
    }

    pub(super) fn name(&self, id: NodeId) -> &[u8] {
        self.node(id).payload.name()
    }

    pub(super) fn data(&self, id: NodeId) -> Option<&[u8]> {
        self.node(id).payload.data()
    }

    pub(super) fn set_data(&mut self, id: NodeId, data: Option<&[u8]>) {
        self.node_mut(id).payload.set_data(data);
    }

    pub(super) fn set_modified(&mut self, id: NodeId, version: i32, zxid: Zxid, time: i64) {
        let node = self.node_mut(id);
        (node.version, node.mzxid, node.mtime) = (version, zxid.0, time);
    }

    pub(super) fn acl(&self, id: NodeId) -> AclId {
        self.node(id).acl
    }

    /// Returns the one that was there.
    pub(super) fn set_acl(&mut self, id: NodeId, acl: AclId) -> AclId {
        std::mem::replace(&mut self.node_mut(id).acl, acl)
    }

    pub(super) fn set_aversion(&mut self, id: NodeId, aversion: i32) {
        self.extra_mut(id).aversion = aversion;
    }

    pub(super) fn set_children_version(&mut self, id: NodeId, cversion: i32, pzxid: Zxid) {
        let extra = self.extra_mut(id);
        (extra.cversion, extra.pzxid) = (cversion, pzxid.0);
    }

    pub(super) fn set_pzxid(&mut self, id: NodeId, pzxid: Zxid) {
        self.extra_mut(id).pzxid = pzxid.0;
    }

    pub(super) fn first_child(&self, id: NodeId) -> Option<NodeId> {
        self.extra(id).first_child.some()
    }

    pub(super) fn num_children(&self, id: NodeId) -> usize {
        self.extra(id).num_children as usize
    }

    pub(super) fn children(&self, id: NodeId) -> impl Iterator<Item = NodeId> {
        std::iter::successors(self.first_child(id), |id| self.node(*id).next.some())
    }

    /// The node after `id` in a walk over everything below `top`, parents first.
    pub(super) fn next_below(&self, top: NodeId, mut id: NodeId) -> Option<NodeId> {
        if let Some(child) = self.first_child(id) {
            return Some(child);
        }
        while id != top {
            if let Some(next) = self.node(id).next.some() {
                return Some(next);
            }
            id = self.node(id).parent;
        }
        None
    }

    pub(super) fn owner(&self, id: NodeId) -> i64 {
        let extra = self.node(id).extra;
        if extra == NO_EXTRA {
            0
        } else {
            self.extras.get(extra).owner
        }
    }

    pub(super) fn stat(&self, id: NodeId) -> StatPersisted {
        let (node, extra) = (self.node(id), self.extra(id));
        StatPersisted {
            czxid: Zxid(node.czxid),
            mzxid: Zxid(node.mzxid),
            ctime: node.ctime,
            mtime: node.mtime,
            version: node.version,
            cversion: extra.cversion,
            aversion: extra.aversion,
            ephemeral_owner: extra.owner,
            pzxid: Zxid(extra.pzxid),
        }
    }

    /// The stat as clients see it; `owner` is the session if the node is ephemeral.
    pub(super) fn client_stat(&self, id: NodeId, owner: impl FnOnce(i64) -> i64) -> Stat {
        let (node, extra) = (self.node(id), self.extra(id));
        let num_children = extra.num_children as i32;
        Stat {
            czxid: Zxid(node.czxid),
            mzxid: Zxid(node.mzxid),
            ctime: node.ctime,
            mtime: node.mtime,
            version: node.version,
            cversion: extra.cversion.wrapping_mul(2).wrapping_sub(num_children),
            aversion: extra.aversion,
            ephemeral_owner: owner(extra.owner),
            data_length: node.payload.data().unwrap_or_default().len() as i32,
            num_children,
            pzxid: Zxid(extra.pzxid),
        }
    }

    pub(super) fn set_stat(&mut self, id: NodeId, stat: &StatPersisted) {
        let node = self.node_mut(id);
        node.czxid = stat.czxid.0;
        node.mzxid = stat.mzxid.0;
        node.ctime = stat.ctime;
        node.mtime = stat.mtime;
        node.version = stat.version;
        let is_plain = stat.cversion == 0
            && stat.aversion == 0
            && stat.ephemeral_owner == 0
            && stat.pzxid == stat.czxid;
        if is_plain && node.extra == NO_EXTRA {
            return;
        }
        let extra = self.extra_mut(id);
        extra.cversion = stat.cversion;
        extra.aversion = stat.aversion;
        extra.owner = stat.ephemeral_owner;
        extra.pzxid = stat.pzxid.0;
    }

    /// Bytes of the node's path; 0 for the root.
    pub(super) fn path_len(&self, id: NodeId) -> usize {
        let ancestors = std::iter::successors(Some(id), |id| self.parent(*id));
        ancestors
            .take_while(|id| *id != NodeId::ROOT)
            .map(|id| 1 + self.name(id).len())
            .sum()
    }

    /// Appends the node's path, nothing for the root.
    pub(super) fn write_path(&self, id: NodeId, out: &mut Vec<u8>) {
        let start = out.len();
        let mut end = start + self.path_len(id);
        out.resize(end, b'/');
        let mut id = id;
        while id != NodeId::ROOT {
            let name = self.name(id);
            out[end - name.len()..end].copy_from_slice(name);
            end -= name.len() + 1;
            id = self.node(id).parent;
        }
        debug_assert_eq!(start, end, "the path was measured");
    }
}
