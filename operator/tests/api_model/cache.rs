//! What an operator's watches have shown so far: for each resource the state at some version, never an older one than
//! before. Two resources may be of different ages, and what came and went in between was never seen.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;

use super::store::Store;

/// The watches of one life of an operator.
#[derive(Clone, Debug, Default)]
pub struct Cache {
    seen: BTreeMap<String, u64>,
    floor: u64,
}

impl Cache {
    /// A cache whose first lists were answered from a version of long ago.
    pub fn stale(version: u64) -> Self {
        Self {
            seen: BTreeMap::new(),
            floor: version,
        }
    }

    /// Lets a watch catch up to a version; it never goes back.
    pub fn advance(&mut self, resource: &str, version: u64) {
        let seen = self.seen.entry(resource.into()).or_insert(self.floor);
        *seen = version.max(*seen);
    }

    /// The version that a watch has reached.
    pub fn version(&self, resource: &str) -> u64 {
        self.seen.get(resource).copied().unwrap_or(self.floor)
    }

    /// What a watch shows.
    pub fn list(&self, store: &Store, resource: &str) -> Vec<Arc<Value>> {
        store
            .at(resource, self.version(resource))
            .cloned()
            .collect()
    }
}
