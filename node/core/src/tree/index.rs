//! Finds a child by its name: one table for the whole tree, keyed by the hash of (parent, name).
//!
//! It is cut into shards, so that a shard's growth is short: no single create pays for rehashing the whole tree.

use std::hash::{BuildHasher, Hasher};

use foldhash::fast::FixedState;
use hashbrown::HashTable;

use super::znode::NodeId;

const SHARDS: usize = 1024;

#[derive(Debug)]
pub(super) struct NameIndex {
    shards: Vec<HashTable<NodeId>>,
    state: FixedState,
}

impl NameIndex {
    pub(super) fn new() -> Self {
        let shards = std::iter::repeat_with(HashTable::new)
            .take(SHARDS)
            .collect();
        Self {
            shards,
            state: FixedState::with_seed(0x5a4b_534e),
        }
    }

    pub(super) fn hash(&self, parent: NodeId, name: &[u8]) -> u64 {
        let mut hasher = self.state.build_hasher();
        hasher.write_u32(parent.0);
        hasher.write(name);
        hasher.finish()
    }

    /// The table takes its buckets from the low bits and its tags from the high ones; the shard is between them.
    fn shard(hash: u64) -> usize {
        (hash >> 40) as usize % SHARDS
    }

    pub(super) fn find(&self, hash: u64, is_it: impl FnMut(&NodeId) -> bool) -> Option<NodeId> {
        self.shards[Self::shard(hash)].find(hash, is_it).copied()
    }

    pub(super) fn insert(&mut self, hash: u64, id: NodeId, hash_of: impl Fn(&Self, NodeId) -> u64) {
        let shard = Self::shard(hash);
        let mut table = std::mem::take(&mut self.shards[shard]);
        table.insert_unique(hash, id, |other| hash_of(self, *other));
        self.shards[shard] = table;
    }

    pub(super) fn remove(&mut self, hash: u64, id: NodeId) {
        let entry = self.shards[Self::shard(hash)].find_entry(hash, |other| *other == id);
        entry
            .expect("every node but the root is in the index")
            .remove();
    }
}
