//! What each writer asked for and what it was told; and whether a tree keeps all those promises.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, ensure};

use crate::check::{Node, Tree};

/// The folder under which all writers write.
pub const ROOT: &str = "/acks";
/// Counters of each writer.
pub const COUNTERS: u64 = 8;

/// What a writer asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    /// A new node with a sequential name; its data is the number of the write.
    Create,
    /// Another value for a counter: the number of the write.
    Set {
        /// Which counter.
        counter: u64,
    },
    /// Removal of a node that this writer created.
    Delete {
        /// Its path.
        path: String,
    },
}

/// What a writer was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is done.
    Acknowledged {
        /// The node that was written.
        path: String,
        /// The transaction: exact for create and set, an upper bound for delete.
        zxid: i64,
        /// The version after it.
        version: i32,
    },
    /// The connection broke first: it may be done or not.
    Unknown,
}

/// One write and what became of it.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Which write of its writer it is.
    pub number: u64,
    /// Writes of one batch were sent together: when one took effect, so did those before it.
    pub batch: u64,
    /// What was asked for.
    pub write: Write,
    /// What was told.
    pub outcome: Outcome,
}

/// Everything one writer did, in order.
#[derive(Clone, Debug, Default)]
pub struct Log {
    /// The writer's number.
    pub writer: usize,
    /// Its writes.
    pub entries: Vec<Entry>,
    /// What it saw that must never be seen.
    pub violations: Vec<String>,
    /// How often it took up its session on another connection.
    pub reconnects: usize,
    /// How often its session expired.
    pub expired: usize,
}

/// The folder of a writer.
#[must_use]
pub fn folder(writer: usize) -> String {
    format!("{ROOT}/w{writer}")
}

/// The path of a counter.
#[must_use]
pub fn counter(writer: usize, counter: u64) -> String {
    format!("{}/counter-{counter}", folder(writer))
}

/// How many writes were acknowledged and how many have an unknown outcome.
#[must_use]
pub fn totals(logs: &[Log]) -> (usize, usize) {
    let all: usize = logs.iter().map(|log| log.entries.len()).sum();
    let unknown = logs
        .iter()
        .flat_map(|log| &log.entries)
        .filter(|entry| entry.outcome == Outcome::Unknown)
        .count();
    (all - unknown, unknown)
}

/// An error unless `tree` has every acknowledged write of all writers, and nothing that nobody wrote.
pub fn check(logs: &[Log], tree: &Tree) -> Result<()> {
    for log in logs {
        check_log(log, tree).with_context(|| format!("writer {}", log.writer))?;
    }
    Ok(())
}

/// Every acknowledged write that `tree` does not have: an empty list unless [`check`] would fail for that reason. A server
/// that forgot writes gives their names and versions to others, so the transactions are compared and the versions counted.
#[must_use]
pub fn lost(logs: &[Log], tree: &Tree) -> Vec<String> {
    let mut lost = Vec::new();
    for log in logs {
        lost_nodes(log, tree, &mut lost);
        (0..COUNTERS).for_each(|number| lost_sets(log, number, tree, &mut lost));
    }
    lost
}

fn lost_nodes(log: &Log, tree: &Tree, lost: &mut Vec<String>) {
    let mut deletes = BTreeSet::new();
    for entry in &log.entries {
        if let Write::Delete { path } = &entry.write {
            deletes.insert(path.as_str());
        }
    }
    for entry in &log.entries {
        let Outcome::Acknowledged { path, zxid, .. } = &entry.outcome else {
            continue;
        };
        let node = tree.get(path);
        let gone = match &entry.write {
            Write::Create => {
                let kept = node.is_some_and(|node| node.stat.czxid.0 == *zxid);
                !kept && !deletes.contains(path.as_str())
            }
            // Created anew under a name that was forgotten, it is lost as a node already.
            Write::Delete { .. } => node.is_some_and(|node| node.stat.czxid.0 < *zxid),
            Write::Set { .. } => false,
        };
        if gone {
            let (writer, number) = (log.writer, entry.number);
            lost.push(format!(
                "write {number} of writer {writer}: {path} at {zxid:#x}"
            ));
        }
    }
}

fn lost_sets(log: &Log, number: u64, tree: &Tree, lost: &mut Vec<String>) {
    let path = counter(log.writer, number);
    let (mut count, mut last) = (0, 0);
    for entry in &log.entries {
        if entry.write == (Write::Set { counter: number }) && entry.outcome != Outcome::Unknown {
            (count, last) = (count + 1, entry.number);
        }
    }
    let node = tree.get(&path);
    let version = node.map_or(0, |node| i64::from(node.stat.version));
    let missing = (count - version).max(0);
    (0..missing).for_each(|_| lost.push(format!("one of {count} writes to {path}")));
    let kept = node.and_then(|node| value(node).ok()).unwrap_or_default();
    if missing == 0 && kept < last {
        lost.push(format!("{path} is {kept}, acknowledged was {last}"));
    }
}

fn check_log(log: &Log, tree: &Tree) -> Result<()> {
    ensure!(
        log.violations.is_empty(),
        "{} violations: {:#?}",
        log.violations.len(),
        log.violations
    );
    check_order(log)?;
    check_nodes(log, tree)?;
    (0..COUNTERS).try_for_each(|number| check_counter(log, number, tree))
}

/// Transactions of one writer follow one another as it sent them.
fn check_order(log: &Log) -> Result<()> {
    let mut last = 0;
    for entry in &log.entries {
        let Outcome::Acknowledged { zxid, .. } = entry.outcome else {
            continue;
        };
        let delete = matches!(entry.write, Write::Delete { .. });
        ensure!(
            zxid > last,
            "write {} has zxid {zxid:#x} after {last:#x}",
            entry.number
        );
        if !delete {
            last = zxid;
        }
    }
    Ok(())
}

/// Created nodes are there, deleted ones are not, and each node was asked for once.
fn check_nodes(log: &Log, tree: &Tree) -> Result<()> {
    let prefix = format!("{}/n-", folder(log.writer));
    let mut found: BTreeMap<u64, (&String, &Node)> = BTreeMap::new();
    for (path, node) in tree
        .range(prefix.clone()..)
        .take_while(|(path, _)| path.starts_with(&prefix))
    {
        let twin = found.insert(value(node)?, (path, node));
        ensure!(
            twin.is_none(),
            "{path} and {} are the same write",
            twin.map_or("", |(path, _)| path)
        );
    }
    let mut deletes: BTreeMap<&str, &Outcome> = BTreeMap::new();
    for entry in &log.entries {
        if let Write::Delete { path } = &entry.write {
            deletes.insert(path, &entry.outcome);
        }
    }
    let mut missing_batch = None;
    for entry in log
        .entries
        .iter()
        .filter(|entry| entry.write == Write::Create)
    {
        let node = found.remove(&entry.number);
        let Outcome::Acknowledged { path, zxid, .. } = &entry.outcome else {
            let gap = missing_batch == Some(entry.batch) && node.is_some();
            ensure!(
                !gap,
                "write {} took effect although an earlier one of its batch did not",
                entry.number
            );
            missing_batch = node.is_none().then_some(entry.batch).or(missing_batch);
            continue;
        };
        match (deletes.get(path.as_str()), node) {
            (Some(Outcome::Acknowledged { .. }), Some(_)) => {
                anyhow::bail!("{path} is back, though its deletion was acknowledged")
            }
            (Some(_), None) => {}
            (None, None) => anyhow::bail!(
                "the acknowledged write {} is lost: {path} of {zxid:#x}",
                entry.number
            ),
            (_, Some((at, node))) => {
                ensure!(
                    at == path,
                    "write {} is at {at}, acknowledged was {path}",
                    entry.number
                );
                ensure!(
                    node.stat.czxid.0 == *zxid,
                    "{path} has czxid {}, acknowledged was {zxid:#x}",
                    node.stat.czxid
                );
            }
        }
    }
    ensure!(
        found.is_empty(),
        "nobody wrote {:?}",
        found.keys().collect::<Vec<_>>()
    );
    Ok(())
}

/// A counter holds its last acknowledged value, or a later one whose outcome is unknown; its version counts the writes.
fn check_counter(log: &Log, number: u64, tree: &Tree) -> Result<()> {
    let path = counter(log.writer, number);
    let node = tree.get(&path).with_context(|| format!("{path} is lost"))?;
    let mut allowed = BTreeSet::from([0]);
    let (mut acknowledged, mut unknown, mut last) = (0, 0, None);
    for entry in log
        .entries
        .iter()
        .filter(|entry| entry.write == (Write::Set { counter: number }))
    {
        match &entry.outcome {
            Outcome::Acknowledged { zxid, version, .. } => {
                acknowledged += 1;
                allowed.clear();
                last = Some((*zxid, *version, entry.number));
            }
            Outcome::Unknown => unknown += 1,
        }
        allowed.insert(entry.number);
    }
    let (value, version) = (value(node)?, node.stat.version);
    ensure!(
        allowed.contains(&value),
        "{path} is {value}, it should be one of {allowed:?}; last acknowledged {last:?}"
    );
    ensure!(
        (acknowledged..=acknowledged + unknown).contains(&version),
        "{path} has version {version} after {acknowledged} acknowledged and {unknown} unknown writes"
    );
    if let Some((zxid, last_version, number)) = last {
        ensure!(
            value != number || (node.stat.mzxid.0, version) == (zxid, last_version),
            "{path} has mzxid {} and version {version}, acknowledged were {zxid:#x} and {last_version}",
            node.stat.mzxid
        );
    }
    Ok(())
}

/// The number of the write that a node's data name.
pub fn value(node: &Node) -> Result<u64> {
    let data = node.data.as_deref().unwrap_or_default();
    parse(data)
}

/// A number from data.
pub fn parse(data: &[u8]) -> Result<u64> {
    Ok(std::str::from_utf8(data)?.parse()?)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use node_core::proto::data::Stat;
    use node_core::zxid::Zxid;

    use super::*;

    fn node(value: u64, zxid: i64, version: i32) -> Node {
        let stat = Stat {
            czxid: Zxid(zxid),
            mzxid: Zxid(zxid),
            version,
            ..Stat::default()
        };
        Node {
            data: Some(Bytes::from(value.to_string())),
            stat,
            acl: Vec::new(),
        }
    }

    fn told(path: &str, zxid: i64, version: i32) -> Outcome {
        Outcome::Acknowledged {
            path: path.to_owned(),
            zxid,
            version,
        }
    }

    /// A writer that created a node, deleted another one, set a counter, and lost its connection while it wrote more;
    /// and the tree that keeps all of it.
    fn kept() -> (Log, Tree) {
        let gone = "/acks/w0/n-1".to_owned();
        let writes = [
            (1, Write::Create, told("/acks/w0/n-0", 10, 0)),
            (1, Write::Create, told(&gone, 11, 0)),
            (1, Write::Set { counter: 0 }, told(&counter(0, 0), 12, 1)),
            (1, Write::Delete { path: gone }, told("/acks/w0/n-1", 13, 0)),
            (2, Write::Create, Outcome::Unknown),
            (2, Write::Create, Outcome::Unknown),
            (2, Write::Set { counter: 0 }, Outcome::Unknown),
        ];
        let entry = |(number, (batch, write, outcome))| Entry {
            number,
            batch,
            write,
            outcome,
        };
        let log = Log {
            entries: (1..).zip(writes).map(entry).collect(),
            ..Log::default()
        };
        let mut tree: Tree = (0..COUNTERS)
            .map(|number| (counter(0, number), node(0, 5, 0)))
            .collect();
        tree.insert("/acks/w0/n-0".to_owned(), node(1, 10, 0));
        tree.insert("/acks/w0/n-2".to_owned(), node(5, 14, 0));
        tree.insert(counter(0, 0), node(3, 12, 1));
        (log, tree)
    }

    fn refused(change: impl FnOnce(&mut Log, &mut Tree), because: &str) {
        let (mut log, mut tree) = kept();
        change(&mut log, &mut tree);
        let error = format!(
            "{:#}",
            check(&[log], &tree).expect_err("the promise is broken")
        );
        assert!(error.contains(because), "{error}");
    }

    #[test]
    fn a_tree_that_keeps_every_promise_is_accepted_whatever_the_unknown_came_to() {
        let (log, mut tree) = kept();
        check(std::slice::from_ref(&log), &tree).unwrap();
        tree.insert("/acks/w0/n-3".to_owned(), node(6, 15, 0));
        tree.insert(counter(0, 0), node(7, 16, 2));
        check(&[log], &tree).unwrap();
    }

    #[test]
    fn lost_writes_are_counted_also_where_others_have_their_names() {
        let (log, mut tree) = kept();
        let logs = [log];
        assert!(lost(&logs, &tree).is_empty());
        tree.insert("/acks/w0/n-0".to_owned(), node(9, 21, 0));
        tree.insert(counter(0, 0), node(0, 5, 0));
        assert_eq!(lost(&logs, &tree).len(), 2);
        tree.insert(counter(0, 0), node(2, 21, 1));
        assert_eq!(lost(&logs, &tree).len(), 2);
    }

    #[test]
    fn a_lost_write_is_found() {
        refused(|_, tree| drop(tree.remove("/acks/w0/n-0")), "is lost");
        refused(
            |_, tree| drop(tree.insert(counter(0, 0), node(0, 5, 0))),
            "should be one of",
        );
    }

    #[test]
    fn a_write_that_came_back_twice_or_from_nowhere_is_found() {
        refused(
            |_, tree| drop(tree.insert("/acks/w0/n-1".to_owned(), node(2, 11, 0))),
            "is back",
        );
        refused(
            |_, tree| drop(tree.insert("/acks/w0/n-9".to_owned(), node(1, 17, 0))),
            "are the same write",
        );
        refused(
            |_, tree| drop(tree.insert("/acks/w0/n-9".to_owned(), node(99, 17, 0))),
            "nobody wrote",
        );
    }

    #[test]
    fn a_write_with_another_transaction_is_found() {
        refused(
            |_, tree| drop(tree.insert("/acks/w0/n-0".to_owned(), node(1, 9, 0))),
            "acknowledged was",
        );
        refused(
            |_, tree| drop(tree.insert(counter(0, 0), node(3, 12, 5))),
            "has version",
        );
    }

    #[test]
    fn a_hole_in_a_batch_and_a_zxid_that_runs_backwards_are_found() {
        let later_only = |_: &mut Log, tree: &mut Tree| {
            tree.remove("/acks/w0/n-2");
            tree.insert("/acks/w0/n-3".to_owned(), node(6, 15, 0));
        };
        refused(later_only, "an earlier one of its batch did not");
        refused(
            |log, _| log.entries[1].outcome = told("/acks/w0/n-1", 9, 0),
            "after",
        );
    }
}
