//! The members' trees, read through each of them after a `sync`, and compared to the last field.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use node_core::proto::data::{Acl, Stat};

use crate::client::{Client, Reply, Request, code};

const TIMEOUT: Duration = Duration::from_secs(20);
const BATCH: usize = 250;

/// Who reads the trees; [`SUPER_DIGEST`] lets it read everything.
const SUPER: &str = "super:test";

/// The line of `zoo.cfg` that a test needs whose nodes are not open to all.
pub const SUPER_DIGEST: &str =
    "DigestAuthenticationProvider.superDigest=super:D/InIHSb7yEEbrWz8b9l71RjZJU=";

/// A node whose stat is each member's own affair: servers write it when they start.
const CONFIG: &str = "/zookeeper/config";

/// One node, as a client sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its data; null and empty differ.
    pub data: Option<Bytes>,
    /// Its stat.
    pub stat: Stat,
    /// Its ACL.
    pub acl: Vec<Acl>,
}

/// Nodes by path.
pub type Tree = BTreeMap<String, Node>;

/// Reads the whole tree of the member at `address`, after a `sync`.
pub fn tree(address: SocketAddr) -> Result<Tree> {
    let mut client = Client::connect(address, TIMEOUT)?;
    client.authenticate(SUPER)?;
    client.call(&Request::sync("/"))?.read::<String>()?;
    let mut tree = Tree::new();
    let mut level = vec!["/".to_owned()];
    while !level.is_empty() {
        let mut next = Vec::new();
        for paths in level.chunks(BATCH) {
            read_nodes(&mut client, paths, &mut tree, &mut next)?;
        }
        level = next;
    }
    client.close()?;
    Ok(tree)
}

fn read_nodes(
    client: &mut Client,
    paths: &[String],
    tree: &mut Tree,
    next: &mut Vec<String>,
) -> Result<()> {
    let ask = |path: &String| {
        [
            Request::get(path),
            Request::children(path),
            Request::acl(path),
        ]
    };
    let requests: Vec<Request> = paths.iter().flat_map(ask).collect();
    let replies = client.pipeline(&requests)?;
    for (path, replies) in paths.iter().zip(replies.chunks(3)) {
        if replies.iter().any(|reply| reply.err == code::NO_NODE) {
            continue; // an expiring session took it while we read
        }
        let node = read_node(path, replies, next).with_context(|| format!("cannot read {path}"))?;
        tree.insert(path.clone(), node);
    }
    Ok(())
}

fn read_node(path: &str, replies: &[Reply], next: &mut Vec<String>) -> Result<Node> {
    let [data, children, acl] = replies else {
        bail!("three requests have three replies")
    };
    let (data, mut stat) = data.data()?;
    let (names, children_stat) = children.children()?;
    ensure!(
        stat == children_stat,
        "getData gives {stat:?} and getChildren2 {children_stat:?}"
    );
    let prefix = if path == "/" { "" } else { path };
    next.extend(names.iter().map(|name| format!("{prefix}/{name}")));
    ensure!(
        names.len() == stat.num_children as usize,
        "numChildren is {} of {names:?}",
        stat.num_children
    );
    if path == CONFIG {
        stat = Stat::default();
    }
    Ok(Node {
        data,
        stat,
        acl: acl.read()?,
    })
}

/// Reads the trees of all members and compares them; returns the one that they all have.
pub fn equal_trees(addresses: &[SocketAddr]) -> Result<Tree> {
    let (first, rest) = addresses.split_first().context("an ensemble has members")?;
    let expected = tree(*first)?;
    for address in rest {
        let other = tree(*address)?;
        let differences = differences(&expected, &other);
        ensure!(
            differences.is_empty(),
            "the trees of {first} and {address} differ in {} places: {:#?}",
            differences.len(),
            &differences[..differences.len().min(5)]
        );
    }
    Ok(expected)
}

fn differences(left: &Tree, right: &Tree) -> Vec<String> {
    let paths = left
        .keys()
        .chain(right.keys().filter(|path| !left.contains_key(*path)));
    paths
        .filter(|path| left.get(*path) != right.get(*path))
        .map(|path| format!("{path}: {:?} | {:?}", left.get(path), right.get(path)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_that_is_missing_or_different_on_either_side_is_found() {
        let node = |version| Node {
            data: None,
            stat: Stat {
                version,
                ..Stat::default()
            },
            acl: vec![Acl::open()],
        };
        let left = Tree::from([
            ("/a".to_owned(), node(1)),
            ("/b".to_owned(), node(1)),
            ("/c".to_owned(), node(1)),
        ]);
        let right = Tree::from([
            ("/a".to_owned(), node(1)),
            ("/b".to_owned(), node(2)),
            ("/d".to_owned(), node(1)),
        ]);
        assert_eq!(differences(&left, &right).len(), 3);
        assert!(differences(&left, &left).is_empty());
    }
}
