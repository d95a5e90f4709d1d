//! What the tree does besides holding nodes: quotas, expiry, dead sessions, the configuration's node.

use bytes::Bytes;
use node_core::proto::data::Acl;
use node_core::proto::txn::{CreateOp, CreateTxn, Txn, TxnHeader};
use node_core::replica::Replica;
use node_core::tree::{ChangeKind, ImageReader, TreeOptions};
use node_core::zxid::{SessionId, Zxid};

const OPTIONS: TreeOptions = TreeOptions {
    digest: true,
    extended_types: true,
    skip_acl: false,
};

/// A replica that is written to, a transaction a millisecond.
struct World(Replica);

impl World {
    fn new() -> Self {
        Self(Replica::new(OPTIONS))
    }

    fn apply(&mut self, session: i64, txn: Txn) -> Vec<String> {
        let zxid = Zxid(self.0.last_zxid().0 + 1);
        let (session, op) = (SessionId(session), txn.op() as i32);
        let header = TxnHeader {
            session,
            cxid: 0,
            zxid,
            time: zxid.0,
            op,
        };
        let changes = self.0.apply(&header, &txn).changes;
        changes
            .iter()
            .map(|change| format!("{:?} {}", change.kind, change.path))
            .collect()
    }

    fn create(&mut self, op: CreateOp, path: &str, data: &str, owner: Option<i64>) -> Vec<String> {
        let data = Some(Bytes::copy_from_slice(data.as_bytes()));
        let (path, acl, ephemeral) = (path.to_owned(), vec![Acl::open()], owner.is_some());
        let create = CreateTxn {
            op,
            path,
            data,
            acl,
            ephemeral,
            parent_cversion: -1,
        };
        self.apply(owner.unwrap_or(9), Txn::Create(create))
    }

    fn plain(&mut self, path: &str, data: &str) {
        self.create(CreateOp::Create, path, data, None);
    }

    fn set(&mut self, path: &str, data: &str) {
        let data = Some(Bytes::copy_from_slice(data.as_bytes()));
        self.apply(
            9,
            Txn::SetData {
                path: path.into(),
                data,
                version: 1,
            },
        );
    }

    fn delete(&mut self, path: &str) -> Vec<String> {
        self.apply(9, Txn::Delete { path: path.into() })
    }

    fn data(&self, path: &str) -> String {
        let data = self.0.tree().get(path).expect("it was created").data();
        String::from_utf8_lossy(data.unwrap_or_default()).into_owned()
    }

    fn reloaded(&mut self) -> Self {
        let id = self.0.begin_snapshot();
        let mut image = Vec::new();
        while !self.0.snapshot_chunk(id, 100, &mut image) {}
        self.0.end_snapshot(id);
        let mut reader = ImageReader::new(OPTIONS);
        reader.feed(&image).expect("it was just written");
        Self(Replica::restored(
            reader.finish().expect("it is complete"),
            self.0.last_zxid(),
        ))
    }
}

#[test]
fn the_usage_of_a_quota_follows_its_subtree() {
    let mut world = World::new();
    let stats = "/zookeeper/quota/a/b/zookeeper_stats";
    for (path, data) in [
        ("/a", "outside"),
        ("/a/b", "12"),
        ("/a/b/c", "345"),
        ("/a/bc", "a sibling whose name begins alike"),
        ("/zookeeper/quota/a", ""),
        ("/zookeeper/quota/a/b", ""),
        (
            "/zookeeper/quota/a/b/zookeeper_limits",
            "count=2,bytes=-1=;countHardLimit=5",
        ),
        (stats, "count=0,bytes=0"),
    ] {
        world.plain(path, data);
    }
    assert_eq!(world.data(stats), "count=2,bytes=5");
    world.plain("/a/b/d", "6");
    world.set("/a/b/c", "3");
    assert_eq!(world.data(stats), "count=3,bytes=4");
    world.set("/a/bc", "");
    world.delete("/a/b/d");
    assert_eq!(world.data(stats), "count=2,bytes=3");
    assert_eq!(
        world.0.tree().get(stats).map(|node| node.stat().version),
        Some(0)
    );

    let quota = world
        .0
        .tree()
        .quota("/a/b/c/deeper")
        .expect("it is below the quota");
    assert_eq!((quota.path.as_str(), quota.usage.count), ("/a/b", 2));
    assert_eq!(quota.limits.count_hard_limit(), Some(5));
    assert_eq!(world.0.tree().quota("/a/bc"), None);

    let mut world = world.reloaded();
    assert_eq!(world.data(stats), "count=2,bytes=3");
    world.delete("/zookeeper/quota/a/b/zookeeper_limits");
    world.plain("/a/b/e", "more");
    assert_eq!(world.data(stats), "count=2,bytes=3");
}

#[test]
fn containers_and_nodes_with_a_time_to_live_expire() {
    let mut world = World::new();
    world.create(CreateOp::Container, "/used", "", None);
    world.create(CreateOp::Container, "/never-used", "", None);
    world.create(CreateOp::Ttl(100), "/ttl", "", None);
    let expired = |world: &World, now| world.0.tree().expired(now, 1000);
    assert!(expired(&world, 50).is_empty());
    world.plain("/used/child", "");
    world.plain("/ttl/child", "");
    assert!(expired(&world, 500).is_empty());
    world.delete("/used/child");
    world.delete("/ttl/child");
    assert_eq!(expired(&world, 50), ["/used"]);
    assert_eq!(expired(&world, 5000), ["/used", "/never-used", "/ttl"]);
    assert_eq!(expired(&world.reloaded(), 5000).len(), 3);
    world.apply(
        0,
        Txn::DeleteContainer {
            path: "/used".into(),
        },
    );
    assert_eq!(expired(&world, 50), [""; 0]);
    let stat = world.0.tree().get("/ttl").map(|node| node.stat());
    assert_eq!(stat.map(|stat| stat.ephemeral_owner), Some(0));
}

#[test]
fn a_session_takes_its_nodes_with_it() {
    let mut world = World::new();
    for session in [1, 2] {
        world.apply(session, Txn::CreateSession { timeout_ms: 4000 });
    }
    for (path, session) in [("/x", 1), ("/y", 2), ("/z", 1), ("/dead", 3)] {
        world.create(CreateOp::Create, path, "", Some(session));
    }
    let closed = world.apply(
        1,
        Txn::CloseSession {
            paths: Some(vec!["/z".into()]),
        },
    );
    assert_eq!(closed, ["Deleted /z", "Deleted /x"]);
    assert_eq!(
        world.0.sessions().keys().collect::<Vec<_>>(),
        [&SessionId(2)]
    );
    let changes = world.0.end_dead_sessions();
    assert_eq!(changes.len(), 1);
    assert_eq!(
        (changes[0].kind, changes[0].path.as_str()),
        (ChangeKind::Deleted, "/dead")
    );
    assert_eq!(world.0.tree().ephemeral_count(), 1);
    assert_eq!(world.reloaded().0.sessions(), world.0.sessions());
}

#[test]
fn a_replayed_deletion_takes_what_a_fuzzy_snapshot_had_below() {
    let mut world = World::new();
    world.plain("/a", "");
    world.plain("/a/b", "");
    world.create(CreateOp::Create, "/a/b/c", "", Some(1));
    assert_eq!(
        world.delete("/a"),
        ["Deleted /a/b/c", "Deleted /a/b", "Deleted /a"]
    );
    assert_eq!(world.0.tree().digest(), world.reloaded().0.tree().digest());
    assert_eq!(
        (
            world.0.tree().node_count(),
            world.0.tree().ephemeral_count()
        ),
        (5, 0)
    );
}

#[test]
fn the_configuration_is_shown_without_a_transaction() {
    let mut world = World::new();
    let digest = world.0.tree().digest();
    world.0.set_config("server.1=…", Zxid(0x1_0000_0000), 77);
    let node = world
        .0
        .tree()
        .get("/zookeeper/config")
        .expect("it is built in");
    let stat = node.stat();
    assert_eq!(
        (stat.version, stat.mzxid, stat.mtime),
        (-1, Zxid(0x1_0000_0000), 77)
    );
    assert_eq!(world.0.tree().digest(), digest);
    assert_eq!(world.data("/zookeeper/config"), "server.1=…");
}
