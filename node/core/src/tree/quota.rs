//! Quotas: limits that clients set on a subtree, and the usage that every server keeps beside them (protocol
//! reference §2.9). Usage is not logged: it follows from the tree.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::DataTree;
use super::znode::NodeId;
use crate::path;

const LIMITS: &str = "zookeeper_limits";
const STATS: &str = "zookeeper_stats";

/// Counts, limited or used. −1 is no limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatsTrack {
    /// Nodes, the subtree's root among them.
    pub count: i64,
    /// Bytes of data.
    pub bytes: i64,
    /// The other keys, `countHardLimit` and `byteHardLimit` among them.
    others: BTreeMap<String, i64>,
}

impl StatsTrack {
    /// Reads the text of a limits or stats node. What is no number is −1.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let mut track = Self {
            count: -1,
            bytes: -1,
            others: BTreeMap::new(),
        };
        for piece in text.split([',', ';']).filter(|piece| !piece.is_empty()) {
            let mut parts = piece.split('=');
            let key = parts.next().unwrap_or_default();
            let value = parts
                .next()
                .and_then(|value| value.parse().ok())
                .unwrap_or(-1);
            match key {
                "count" => track.count = value,
                "bytes" => track.bytes = value,
                _ => drop(track.others.insert(key.to_owned(), value)),
            }
        }
        track
    }

    /// The limit on nodes that is enforced, if there is one.
    #[must_use]
    pub fn count_hard_limit(&self) -> Option<i64> {
        self.others
            .get("countHardLimit")
            .copied()
            .filter(|limit| *limit > -1)
    }

    /// The limit on bytes that is enforced, if there is one.
    #[must_use]
    pub fn byte_hard_limit(&self) -> Option<i64> {
        self.others
            .get("byteHardLimit")
            .copied()
            .filter(|limit| *limit > -1)
    }
}

impl fmt::Display for StatsTrack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "count={},bytes={}", self.count, self.bytes)?;
        if !self.others.is_empty() {
            // The sign lets the parser of old versions read the two limits before it.
            write!(f, "=")?;
        }
        self.others
            .iter()
            .try_for_each(|(key, value)| write!(f, ";{key}={value}"))
    }
}

/// A quota and what is used of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quota {
    /// The root of the limited subtree.
    pub path: String,
    /// What the client set.
    pub limits: StatsTrack,
    /// What is there.
    pub usage: StatsTrack,
}

/// The roots of the limited subtrees.
#[derive(Debug, Default)]
pub(super) struct QuotaPaths(BTreeSet<String>);

impl QuotaPaths {
    /// The deepest root at or above `path`; the tree's own root cannot be limited.
    fn deepest(&self, path: &str) -> Option<&str> {
        if self.0.is_empty() {
            return None;
        }
        let mut above = path::ancestors(path).filter(|path| *path != "/");
        above.find_map(|path| self.0.get(path)).map(String::as_str)
    }
}

/// The subtree that a limits or stats node is about, if `path` is one with the given name.
fn limited_by<'a>(path: &'a str, name: &str) -> Option<&'a str> {
    let inner = path.strip_prefix(path::QUOTA)?;
    inner.strip_suffix(name)?.strip_suffix('/')
}

fn node_of(limited: &str, name: &str) -> String {
    format!("{}{limited}/{name}", path::QUOTA)
}

impl DataTree {
    /// The quota that `path` falls under: the deepest one.
    #[must_use]
    pub fn quota(&self, path: &str) -> Option<Quota> {
        let limited = self.quotas.deepest(path)?;
        let read = |name| {
            let data = self
                .get(&node_of(limited, name))?
                .data()
                .unwrap_or_default();
            Some(StatsTrack::parse(&String::from_utf8_lossy(data)))
        };
        Some(Quota {
            path: limited.to_owned(),
            limits: read(LIMITS)?,
            usage: read(STATS)?,
        })
    }

    /// Follows a creation, after it.
    pub(super) fn quota_created(&mut self, path: &str, bytes: usize) {
        if let Some(limited) = limited_by(path, LIMITS) {
            self.quotas.0.insert(limited.to_owned());
        } else if let Some(limited) = limited_by(path, STATS) {
            self.recount_quota(limited);
        }
        self.quota_changed(path, 1, bytes as i64);
    }

    /// Follows a deletion, after it.
    pub(super) fn quota_deleted(&mut self, path: &str, bytes: usize) {
        if let Some(limited) = limited_by(path, LIMITS) {
            self.quotas.0.remove(limited);
        }
        self.quota_changed(path, -1, -(bytes as i64));
    }

    /// Adds to the usage of the quota that `path` falls under.
    pub(super) fn quota_changed(&mut self, path: &str, count: i64, bytes: i64) {
        let Some(limited) = self.quotas.deepest(path) else {
            return;
        };
        let Some(id) = self.nodes.find(node_of(limited, STATS).as_bytes()) else {
            return;
        };
        let data = self.nodes.data(id).unwrap_or_default();
        let mut usage = StatsTrack::parse(&String::from_utf8_lossy(data));
        usage.count += count;
        usage.bytes += bytes;
        self.write_usage(id, &usage);
    }

    /// Finds all quotas again and counts their usage: after a snapshot was loaded.
    pub(super) fn rebuild_quotas(&mut self) {
        self.quotas = QuotaPaths::default();
        let Some(top) = self.nodes.find(path::QUOTA.as_bytes()) else {
            return;
        };
        let mut at = Some(top);
        while let Some(id) = at {
            if self.nodes.name(id) == LIMITS.as_bytes()
                && let Some(limited) = limited_by(&self.path_of(id), LIMITS)
            {
                self.quotas.0.insert(limited.to_owned());
            }
            at = self.nodes.next_below(top, id);
        }
        for limited in self.quotas.0.clone() {
            self.recount_quota(&limited);
        }
    }

    fn recount_quota(&mut self, limited: &str) {
        let Some(stats) = self.nodes.find(node_of(limited, STATS).as_bytes()) else {
            return;
        };
        let mut usage = StatsTrack::parse("count=0,bytes=0");
        let top = self.nodes.find(limited.as_bytes());
        let mut at = top;
        while let (Some(id), Some(top)) = (at, top) {
            usage.count += 1;
            usage.bytes += self.nodes.data(id).unwrap_or_default().len() as i64;
            at = self.nodes.next_below(top, id);
        }
        self.write_usage(stats, &usage);
    }

    /// Only the data changes: no version, no time, no watch.
    fn write_usage(&mut self, id: NodeId, usage: &StatsTrack) {
        self.before_change(id);
        self.nodes.set_data(id, Some(usage.to_string().as_bytes()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_of_a_quota_is_read_and_written_as_apache_does() {
        for text in [
            "count=5,bytes=-1",
            "count=-1,bytes=-1=;countHardLimit=5",
            "count=1,bytes=2=;byteHardLimit=3;countHardLimit=4",
        ] {
            assert_eq!(StatsTrack::parse(text).to_string(), text);
        }
        let hard = StatsTrack::parse("count=-1,bytes=-1=;countHardLimit=5");
        assert_eq!(
            (hard.count_hard_limit(), hard.byte_hard_limit()),
            (Some(5), None)
        );
        assert_eq!(
            StatsTrack::parse("count=,x").to_string(),
            "count=-1,bytes=-1=;x=-1"
        );
    }
}
