//! Snapshots and logs of genuine servers: loading and replaying them gives the tree that those servers showed.

#![expect(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

use std::collections::BTreeMap;

use bytes::Bytes;
use node_core::jute::Reader;
use node_core::proto::data::Acl;
use node_core::proto::txn::TxnEntry;
use node_core::replica::Replica;
use node_core::tree::{DataTree, ImageReader, TreeOptions};
use node_core::zxid::Zxid;
use serde_json::Value;

const OPTIONS: TreeOptions = TreeOptions {
    digest: true,
    extended_types: true,
    skip_acl: false,
};

#[expect(
    clippy::disallowed_methods,
    reason = "the recordings are files; the core itself reads none"
)]
fn golden(name: &str) -> Vec<u8> {
    let path = format!("{}/tests/golden/{name}", env!("CARGO_MANIFEST_DIR"));
    std::fs::read(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The entries of a log file (§5.2).
fn log(name: &str) -> Vec<TxnEntry> {
    let mut input = Reader::new(golden(name));
    input.take(16).unwrap();
    let mut entries = Vec::new();
    while input.left() >= 12 {
        let _checksum: i64 = input.read().unwrap();
        let entry: Bytes = input.read().unwrap();
        if entry.is_empty() {
            break;
        }
        entries.push(TxnEntry::decode(entry).unwrap());
        assert_eq!(&input.take(1).unwrap()[..], b"B");
    }
    entries
}

/// A snapshot at the zxid of its name, with its digest if it has one; fed in pieces of `piece` bytes.
fn snapshot(name: &str, piece: usize) -> (Replica, Option<(Zxid, i64)>) {
    let bytes = golden(name);
    let mut reader = ImageReader::new(OPTIONS);
    let mut at = 16;
    for piece in bytes[16..].chunks(piece) {
        let progress = reader.feed(piece).unwrap();
        at += progress.consumed;
        if progress.done {
            break;
        }
    }
    let zxid = Zxid(i64::from_str_radix(name.rsplit('.').next().unwrap(), 16).unwrap());
    let mut rest = Reader::new(bytes[at..].to_vec());
    rest.take(13).unwrap();
    let digest = (rest.left() >= 33).then(|| {
        let at: Zxid = rest.read().unwrap();
        assert_eq!(rest.read(), Ok(2i32));
        (at, rest.read().unwrap())
    });
    (Replica::restored(reader.finish().unwrap(), zxid), digest)
}

/// Replays what the replica lacks; `check` is called where the log has a digest.
fn replay(replica: &mut Replica, entries: &[TxnEntry], mut check: impl FnMut(&Replica, &TxnEntry)) {
    let last = replica.last_zxid();
    for entry in entries.iter().filter(|entry| entry.header.zxid > last) {
        replica.apply(&entry.header, &entry.txn);
        check(replica, entry);
    }
}

fn has_digest(replica: &Replica, entry: &TxnEntry) {
    if let Some(digest) = entry.digest {
        assert_eq!(
            replica.tree().digest(),
            Some(digest.tree),
            "after {:?}",
            entry
        );
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}

/// Everything but the server's own nodes agrees with the tree that a client read.
fn assert_tree(tree: &DataTree, name: &str) {
    let expected: BTreeMap<String, Value> = serde_json::from_slice(&golden(name)).unwrap();
    let mut seen = 0;
    for (path, expected) in &expected {
        let node = tree
            .get(path)
            .unwrap_or_else(|| panic!("{path} is missing"));
        seen += 1;
        if path == "/zookeeper/config" {
            continue;
        }
        let data: String = node
            .data()
            .unwrap_or_default()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        assert_eq!(
            data,
            expected["data"].as_str().unwrap_or_default(),
            "data of {path}"
        );
        let acl: Vec<Acl> = expected["acl"]
            .as_array()
            .unwrap()
            .iter()
            .map(|entry| {
                let id = node_core::proto::data::Id {
                    scheme: text(&entry[1]),
                    id: text(&entry[2]),
                };
                Acl {
                    perms: entry[0].as_i64().unwrap() as i32,
                    id,
                }
            })
            .collect();
        assert_eq!(node.acl()[..], acl[..], "ACL of {path}");
        let (stat, wanted) = (node.stat(), &expected["stat"]);
        let fields = [
            ("czxid", stat.czxid.0),
            ("mzxid", stat.mzxid.0),
            ("pzxid", stat.pzxid.0),
            ("ctime", stat.ctime),
            ("mtime", stat.mtime),
            ("version", stat.version.into()),
            ("cversion", stat.cversion.into()),
            ("aversion", stat.aversion.into()),
            ("ephemeralOwner", stat.ephemeral_owner),
            ("dataLength", stat.data_length.into()),
            ("numChildren", stat.num_children.into()),
        ];
        for (field, value) in fields {
            assert_eq!(Some(value), wanted[field].as_i64(), "{field} of {path}");
        }
    }
    let own = ["/zookeeper", "/zookeeper/quota", "/zookeeper/config"];
    let unlisted = own
        .iter()
        .filter(|path| !expected.contains_key(**path))
        .count();
    assert_eq!(
        tree.node_count() - 1,
        seen + unlisted,
        "no node is left over"
    );
}

/// A tree's own snapshot, loaded again.
fn reloaded(replica: &mut Replica) -> Replica {
    let id = replica.begin_snapshot();
    let mut image = Vec::new();
    while !replica.snapshot_chunk(id, 7, &mut image) {}
    replica.end_snapshot(id);
    let mut reader = ImageReader::new(OPTIONS);
    let progress = reader.feed(&image).unwrap();
    assert!(progress.done && progress.consumed == image.len());
    Replica::restored(reader.finish().unwrap(), replica.last_zxid())
}

#[test]
fn an_empty_database_is_that_of_a_first_start() {
    let (mut loaded, digest) = snapshot("disk/standalone-empty-snapshot.0", 1 << 20);
    assert_eq!(loaded.tree().digest(), Some(1_371_985_504));
    // A server that has applied nothing yet writes 0, not the digest of the empty database.
    assert_eq!(digest, Some((Zxid(0), 0)));
    let mut new = Replica::new(OPTIONS);
    assert_eq!(new.tree().digest(), Some(1_371_985_504));
    assert_eq!(
        (new.tree().node_count(), new.tree().approximate_data_size()),
        (5, 44)
    );
    let image = |replica: &mut Replica| {
        let id = replica.begin_snapshot();
        let mut image = Vec::new();
        while !replica.snapshot_chunk(id, 1, &mut image) {}
        image.len()
    };
    assert_eq!(image(&mut new), image(&mut loaded));
}

#[test]
fn a_standalone_log_gives_the_tree_that_its_server_showed() {
    let mut replica = Replica::new(OPTIONS);
    replay(&mut replica, &log("disk/standalone-log.1"), has_digest);
    assert_tree(replica.tree(), "disk/standalone-tree.json");
    assert_tree(reloaded(&mut replica).tree(), "disk/standalone-tree.json");
}

#[test]
fn a_standalone_snapshot_and_the_log_after_it_give_the_same_tree() {
    for piece in [1, 100, 1 << 20] {
        let (mut replica, digest) = snapshot("disk/standalone-plain-snapshot.41", piece);
        assert_eq!(replica.tree().digest(), digest.map(|(_, digest)| digest));
        replay(&mut replica, &log("disk/standalone-log.1"), has_digest);
        assert_tree(replica.tree(), "disk/standalone-tree.json");
    }
}

#[test]
fn a_fuzzy_snapshot_and_its_log_give_the_tree_of_the_log_alone() {
    let entries = log("disk-fuzzy/log.1");
    let mut whole = Replica::new(OPTIONS);
    replay(&mut whole, &entries, has_digest);
    assert_tree(whole.tree(), "disk-fuzzy/tree.json");

    let (mut fuzzy, digest) = snapshot("disk-fuzzy/snapshot.372", 4096);
    let (from, _) = digest.unwrap();
    replay(&mut fuzzy, &entries, |replica, entry| {
        if entry.header.zxid > from {
            has_digest(replica, entry);
        }
    });
    assert_tree(fuzzy.tree(), "disk-fuzzy/tree.json");
    assert_eq!(fuzzy.sessions(), whole.sessions());
    assert_eq!(fuzzy.tree().digest(), whole.tree().digest());
    assert_eq!(
        fuzzy.tree().approximate_data_size(),
        whole.tree().approximate_data_size()
    );
}

#[test]
fn an_ensembles_snapshots_and_logs_give_its_tree() {
    let entries = || {
        [
            log("disk-ensemble/node3-log.100000001"),
            log("disk-ensemble/node3-log.200000001"),
        ]
        .concat()
    };
    for name in [
        "node3-snapshot.0",
        "node3-snapshot.100000043",
        "node3-snapshot.200000003",
    ] {
        let (mut replica, digest) = snapshot(&format!("disk-ensemble/{name}"), 333);
        if digest != Some((Zxid(0), 0)) {
            assert_eq!(
                replica.tree().digest(),
                digest.map(|(_, digest)| digest),
                "{name}"
            );
        }
        replay(&mut replica, &entries(), has_digest);
        assert_tree(replica.tree(), "disk-ensemble/tree.json");
        assert_tree(reloaded(&mut replica).tree(), "disk-ensemble/tree.json");
    }
}
