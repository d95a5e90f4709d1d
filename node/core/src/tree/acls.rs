//! Every distinct ACL once, counted by its uses, with the numbers that snapshots know them by (protocol reference §5.5).

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::acl;
use crate::proto::data::{Acl, Id};

/// An ACL that is shared by the nodes that have it.
pub type AclList = Arc<[Acl]>;

/// An ACL's slot in the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct AclId(u32);

impl AclId {
    /// The open ACL of the built-in nodes: number −1 in snapshots, never counted.
    pub(super) const OPEN: Self = Self(0);
}

/// The number of the open ACL in a snapshot.
const OPEN_NUMBER: i64 = -1;

#[derive(Debug)]
struct Entry {
    number: i64,
    uses: u64,
    /// What everyone may do: answers most checks at once.
    world_perms: i32,
    list: AclList,
}

#[derive(Debug)]
pub(super) struct AclCache {
    entries: Vec<Entry>,
    free: Vec<u32>,
    by_list: BTreeMap<AclList, AclId>,
    last_number: i64,
}

impl AclCache {
    pub(super) fn new() -> Self {
        let list: AclList = Arc::new([Acl::open()]);
        let world_perms = acl::world_perms(&list);
        let open = Entry {
            number: OPEN_NUMBER,
            uses: 0,
            world_perms,
            list,
        };
        Self {
            entries: vec![open],
            free: Vec::new(),
            by_list: BTreeMap::new(),
            last_number: 0,
        }
    }

    fn entry(&self, id: AclId) -> &Entry {
        &self.entries[id.0 as usize]
    }

    pub(super) fn list(&self, id: AclId) -> &AclList {
        &self.entry(id).list
    }

    pub(super) fn number(&self, id: AclId) -> i64 {
        self.entry(id).number
    }

    pub(super) fn permits(&self, id: AclId, wanted: i32, ids: &[Id]) -> bool {
        let entry = self.entry(id);
        entry.world_perms & wanted != 0 || acl::permits(&entry.list, wanted, ids)
    }

    /// The slot of a list, used once more.
    pub(super) fn intern(&mut self, list: &[Acl]) -> AclId {
        if let Some(id) = self.by_list.get(list).copied() {
            self.add_use(id);
            return id;
        }
        self.last_number += 1;
        let list: AclList = list.into();
        let id = self.insert(self.last_number, Arc::clone(&list));
        self.by_list.insert(list, id);
        self.add_use(id);
        id
    }

    fn insert(&mut self, number: i64, list: AclList) -> AclId {
        let entry = Entry {
            number,
            uses: 0,
            world_perms: acl::world_perms(&list),
            list,
        };
        match self.free.pop() {
            Some(slot) => {
                self.entries[slot as usize] = entry;
                AclId(slot)
            }
            None => {
                self.entries.push(entry);
                AclId((self.entries.len() - 1) as u32)
            }
        }
    }

    pub(super) fn add_use(&mut self, id: AclId) {
        self.entries[id.0 as usize].uses += 1;
    }

    /// Gives a use back; the last one frees the slot. The open ACL stays.
    pub(super) fn release(&mut self, id: AclId) {
        let entry = &mut self.entries[id.0 as usize];
        entry.uses -= 1;
        if entry.uses == 0 && id != AclId::OPEN {
            self.forget(id);
        }
    }

    fn forget(&mut self, id: AclId) {
        let list = Arc::clone(self.list(id));
        if self.by_list.get(&list) == Some(&id) {
            self.by_list.remove(&list);
        }
        self.entries[id.0 as usize].number = 0;
        self.free.push(id.0);
    }

    /// The ACLs in use, by number: what a snapshot lists.
    pub(super) fn numbered(&self) -> Vec<(i64, &AclList)> {
        let used = self
            .entries
            .iter()
            .filter(|entry| entry.number > 0 && entry.uses > 0);
        let mut numbered: Vec<_> = used.map(|entry| (entry.number, &entry.list)).collect();
        numbered.sort_unstable_by_key(|(number, _)| *number);
        numbered
    }
}

/// Builds the cache from a snapshot.
#[derive(Debug)]
pub(super) struct AclLoader {
    cache: AclCache,
    by_number: BTreeMap<i64, AclId>,
}

impl AclLoader {
    pub(super) fn new() -> Self {
        let by_number = BTreeMap::from([(OPEN_NUMBER, AclId::OPEN)]);
        Self {
            cache: AclCache::new(),
            by_number,
        }
    }

    /// Takes an entry of the snapshot's list.
    pub(super) fn add(&mut self, number: i64, list: Vec<Acl>) {
        let list: AclList = list.into();
        let id = self.cache.insert(number, Arc::clone(&list));
        self.cache.by_list.entry(list).or_insert(id);
        self.cache.last_number = self.cache.last_number.max(number);
        self.by_number.insert(number, id);
    }

    /// The slot that a node with this number uses. A fuzzy snapshot may lack the entry: then nobody but the super user
    /// may do anything until the log, which has the node's creation, sets the ACL again.
    pub(super) fn use_number(&mut self, number: i64) -> AclId {
        if let Some(id) = self.by_number.get(&number).copied() {
            self.cache.add_use(id);
            return id;
        }
        let nobody = Acl {
            perms: 0,
            ..Acl::open()
        };
        let id = self.cache.insert(number, Arc::new([nobody]));
        self.cache.last_number = self.cache.last_number.max(number);
        self.by_number.insert(number, id);
        self.cache.add_use(id);
        id
    }

    /// Takes a use back, of a node that came twice.
    pub(super) fn drop_use(&mut self, id: AclId) {
        self.cache.entries[id.0 as usize].uses -= 1;
    }

    /// The cache, without what no node uses.
    pub(super) fn finish(mut self) -> AclCache {
        for slot in 1..self.cache.entries.len() as u32 {
            if self.cache.entry(AclId(slot)).uses == 0 {
                self.cache.forget(AclId(slot));
            }
        }
        self.cache
    }
}
