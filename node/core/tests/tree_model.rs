//! The tree against a naive one: random histories give the same results and the same nodes; snapshots are consistent
//! however much is written while they are taken; replaying what is already there changes nothing.

#![expect(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

use std::collections::BTreeMap;

use bytes::Bytes;
use node_core::proto::client::Response;
use node_core::proto::data::{Acl, Id, StatPersisted, perms};
use node_core::proto::multi::MultiResult;
use node_core::proto::txn::{CreateOp, CreateTxn, Txn, TxnHeader};
use node_core::replica::Replica;
use node_core::tree::{CONTAINER_OWNER, ImageReader, Owner, SnapshotId, TreeOptions};
use node_core::zxid::{SessionId, Zxid};
use proptest::prelude::*;

const OPTIONS: TreeOptions = TreeOptions {
    digest: true,
    extended_types: true,
    skip_acl: false,
};

/// What a client might want; paths come from a small world, so that they meet.
#[derive(Clone, Debug)]
enum Wish {
    Create {
        path: String,
        data: Option<Vec<u8>>,
        acl: u8,
        kind: Kind,
    },
    Delete {
        path: String,
    },
    SetData {
        path: String,
        data: Option<Vec<u8>>,
    },
    SetAcl {
        path: String,
        acl: u8,
    },
    CloseSession {
        listed: bool,
    },
    Multi(Vec<Self>),
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Plain,
    Plain2,
    Ephemeral,
    Container,
    Ttl,
}

fn path() -> impl Strategy<Value = String> {
    prop::collection::vec(prop::sample::select(vec!["a", "b", "long-name"]), 1..4)
        .prop_map(|names| names.iter().map(|name| format!("/{name}")).collect())
}

fn data() -> impl Strategy<Value = Option<Vec<u8>>> {
    prop::option::weighted(0.9, prop::collection::vec(any::<u8>(), 0..5))
}

fn single() -> impl Strategy<Value = Wish> {
    use Kind::*;
    let kind = prop::sample::select(vec![
        Plain, Plain, Plain2, Ephemeral, Ephemeral, Container, Ttl,
    ]);
    prop_oneof![
        6 => (path(), data(), 0..3u8, kind)
            .prop_map(|(path, data, acl, kind)| Wish::Create { path, data, acl, kind }),
        3 => path().prop_map(|path| Wish::Delete { path }),
        3 => (path(), data()).prop_map(|(path, data)| Wish::SetData { path, data }),
        1 => (path(), 0..3u8).prop_map(|(path, acl)| Wish::SetAcl { path, acl }),
    ]
}

/// Sessions 1 to 3 and what they wish.
fn history() -> impl Strategy<Value = Vec<(i64, Wish)>> {
    let wish = prop_oneof![
        12 => single(),
        1 => any::<bool>().prop_map(|listed| Wish::CloseSession { listed }),
        2 => prop::collection::vec(single(), 0..4).prop_map(Wish::Multi),
    ];
    prop::collection::vec((1..4i64, wish), 1..60)
}

fn acl(n: u8) -> Vec<Acl> {
    let digest = |id: &str| Id {
        scheme: "digest".into(),
        id: id.into(),
    };
    match n {
        0 => vec![Acl::open()],
        1 => vec![Acl {
            perms: perms::READ,
            id: digest("x:y"),
        }],
        _ => vec![
            Acl {
                perms: perms::ALL,
                id: digest("z:z"),
            },
            Acl::open(),
        ],
    }
}

#[derive(Clone, Debug, PartialEq)]
struct ModelNode {
    data: Option<Vec<u8>>,
    acl: Vec<Acl>,
    stat: StatPersisted,
}

/// A tree as a map from paths.
#[derive(Clone, Debug, PartialEq)]
struct Model(BTreeMap<String, ModelNode>);

fn parent_of(path: &str) -> &str {
    match path.rsplit_once('/').unwrap().0 {
        "" => "/",
        parent => parent,
    }
}

impl Model {
    fn new() -> Self {
        let node = |stat, acl| ModelNode {
            data: Some(vec![]),
            acl,
            stat,
        };
        let zero = StatPersisted::default();
        let read = Acl {
            perms: perms::READ,
            ..Acl::open()
        };
        let own = ["/", "/zookeeper", "/zookeeper/quota"];
        let mut nodes: BTreeMap<String, ModelNode> = own
            .into_iter()
            .map(|path| (path.to_owned(), node(zero, vec![Acl::open()])))
            .collect();
        let config = node(
            StatPersisted {
                aversion: -1,
                ..zero
            },
            vec![read],
        );
        nodes.insert("/zookeeper/config".into(), config);
        Self(nodes)
    }

    fn children(&self, path: &str) -> Vec<String> {
        let is_child = |other: &&String| *other != "/" && parent_of(other) == path;
        self.0.keys().filter(is_child).cloned().collect()
    }

    fn owned(&self, session: i64) -> Vec<String> {
        let owned = self
            .0
            .iter()
            .filter(|(_, node)| node.stat.ephemeral_owner == session);
        owned.map(|(path, _)| path.clone()).collect()
    }

    /// The transaction that the leader would make of a wish, or `None` if it would refuse.
    fn prepare(&self, session: i64, wish: &Wish) -> Option<Txn> {
        match wish {
            Wish::Create {
                path,
                data,
                acl: n,
                kind,
            } => {
                let parent = self.0.get(parent_of(path))?;
                let may_have_children =
                    matches!(parent.stat.ephemeral_owner, 0 | CONTAINER_OWNER | ..0);
                if self.0.contains_key(path) || !may_have_children {
                    return None;
                }
                let op = match kind {
                    Kind::Plain | Kind::Ephemeral => CreateOp::Create,
                    Kind::Plain2 => CreateOp::Create2,
                    Kind::Container => CreateOp::Container,
                    Kind::Ttl => CreateOp::Ttl(99),
                };
                Some(Txn::Create(CreateTxn {
                    op,
                    path: path.clone(),
                    data: data.clone().map(Bytes::from),
                    acl: acl(*n),
                    ephemeral: *kind == Kind::Ephemeral,
                    parent_cversion: parent.stat.cversion + 1,
                }))
            }
            Wish::Delete { path } => (self.0.contains_key(path) && self.children(path).is_empty())
                .then(|| Txn::Delete { path: path.clone() }),
            Wish::SetData { path, data } => Some(Txn::SetData {
                path: path.clone(),
                data: data.clone().map(Bytes::from),
                version: self.0.get(path)?.stat.version + 1,
            }),
            Wish::SetAcl { path, acl: n } => Some(Txn::SetAcl {
                path: path.clone(),
                acl: acl(*n),
                version: self.0.get(path)?.stat.aversion + 1,
            }),
            Wish::CloseSession { listed } => Some(Txn::CloseSession {
                paths: listed.then(|| self.owned(session)),
            }),
            Wish::Multi(wishes) => {
                let mut ahead = self.clone();
                let mut txns = Vec::new();
                for wish in wishes {
                    let Some(txn) = ahead.prepare(session, wish) else {
                        txns.push(Txn::Error { code: -1 });
                        break;
                    };
                    ahead.apply(&header(session, 0, &txn), &txn);
                    txns.push(txn);
                }
                Some(Txn::Multi(txns))
            }
        }
    }

    fn apply(&mut self, header: &TxnHeader, txn: &Txn) {
        match txn {
            Txn::Create(create) => {
                let parent = self.0.get_mut(parent_of(&create.path)).unwrap();
                parent.stat.cversion = create.parent_cversion;
                parent.stat.pzxid = header.zxid;
                let owner = match create.op {
                    CreateOp::Container => Owner::Container,
                    CreateOp::Ttl(ms) => Owner::Ttl(ms),
                    _ if create.ephemeral => Owner::Session(header.session),
                    _ => Owner::Nobody,
                };
                let stat = StatPersisted {
                    czxid: header.zxid,
                    mzxid: header.zxid,
                    pzxid: header.zxid,
                    ctime: header.time,
                    mtime: header.time,
                    ephemeral_owner: owner.encode(),
                    ..StatPersisted::default()
                };
                let data = create.data.as_ref().map(|data| data.to_vec());
                self.0.insert(
                    create.path.clone(),
                    ModelNode {
                        data,
                        acl: create.acl.clone(),
                        stat,
                    },
                );
            }
            Txn::Delete { path } => {
                self.0.remove(path);
                self.0.get_mut(parent_of(path)).unwrap().stat.pzxid = header.zxid;
            }
            Txn::SetData {
                path,
                data,
                version,
            } => {
                let node = self.0.get_mut(path).unwrap();
                node.data = data.as_ref().map(|data| data.to_vec());
                (node.stat.version, node.stat.mzxid, node.stat.mtime) =
                    (*version, header.zxid, header.time);
            }
            Txn::SetAcl { path, acl, version } => {
                let node = self.0.get_mut(path).unwrap();
                (node.acl, node.stat.aversion) = (acl.clone(), *version);
            }
            Txn::CloseSession { .. } => {
                for path in self.owned(header.session.0) {
                    self.apply(header, &Txn::Delete { path });
                }
            }
            Txn::Multi(txns) if txns.iter().all(|txn| !matches!(txn, Txn::Error { .. })) => {
                txns.iter().for_each(|txn| self.apply(header, txn));
            }
            _ => {}
        }
    }
}

fn header(session: i64, zxid: i64, txn: &Txn) -> TxnHeader {
    let op = txn.op() as i32;
    TxnHeader {
        session: SessionId(session),
        cxid: 0,
        zxid: Zxid(zxid),
        time: zxid * 10,
        op,
    }
}

/// The history as a log.
fn log_of(history: &[(i64, Wish)]) -> Vec<(TxnHeader, Txn)> {
    let mut model = Model::new();
    let mut log = Vec::new();
    for (zxid, (session, wish)) in (1..).zip(history) {
        let txn = model
            .prepare(*session, wish)
            .unwrap_or(Txn::Error { code: -101 });
        let header = header(*session, zxid, &txn);
        model.apply(&header, &txn);
        log.push((header, txn));
    }
    log
}

fn assert_same(replica: &Replica, model: &Model) {
    let tree = replica.tree();
    for (path, expected) in &model.0 {
        let node = tree
            .get(path)
            .unwrap_or_else(|| panic!("{path} is missing"));
        let children = model.children(path);
        let data = node.data().map(<[u8]>::to_vec);
        let is = ModelNode {
            data,
            acl: node.acl().to_vec(),
            stat: node.persisted(),
        };
        assert_eq!(&is, expected, "{path}");
        let stat = node.stat();
        assert_eq!(stat.num_children as usize, children.len());
        assert_eq!(
            stat.cversion,
            2 * expected.stat.cversion - children.len() as i32
        );
        let mut names: Vec<String> = node
            .children()
            .map(|name| format!("{}/{name}", path.trim_end_matches('/')))
            .collect();
        names.sort();
        assert_eq!(names, children);
        let below =
            |other: &&String| other.starts_with(&format!("{}/", path.trim_end_matches('/')));
        let below = model
            .0
            .keys()
            .filter(below)
            .filter(|other| *other != path)
            .count();
        assert_eq!(node.descendant_count(), below);
        assert_eq!(node.path(), *path);
    }
    assert_eq!(tree.node_count(), model.0.len() + 1);
    for session in 1..4 {
        assert_eq!(tree.ephemerals(SessionId(session)), model.owned(session));
    }
    let size =
        |(path, node): (&String, &ModelNode)| path.len() + node.data.as_ref().map_or(0, Vec::len);
    assert_eq!(
        tree.approximate_data_size(),
        model.0.iter().map(size).sum::<usize>() as i64
    );
}

fn load(image: &[u8], zxid: Zxid) -> Replica {
    let mut reader = ImageReader::new(OPTIONS);
    for piece in image.chunks(50) {
        reader.feed(piece).unwrap();
    }
    Replica::restored(reader.finish().unwrap(), zxid)
}

fn snapshot(replica: &mut Replica) -> Replica {
    let id = replica.begin_snapshot();
    let mut image = Vec::new();
    while !replica.snapshot_chunk(id, 3, &mut image) {}
    replica.end_snapshot(id);
    load(&image, replica.last_zxid())
}

/// A snapshot under way, and what it must hold.
struct Under {
    id: SnapshotId,
    image: Vec<u8>,
    model: Model,
    digest: Option<i64>,
    done: bool,
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn a_history_gives_the_same_nodes_as_the_naive_tree(history in history()) {
        let (mut replica, mut model) = (Replica::new(OPTIONS), Model::new());
        for (header, txn) in log_of(&history) {
            model.apply(&header, &txn);
            let result = replica.apply(&header, &txn).result;
            match (&txn, result) {
                (Txn::Error { .. }, result) => prop_assert!(result.is_err()),
                (Txn::Multi(txns), Ok(Response::Multi(results))) => {
                    let failed = txns.iter().any(|txn| matches!(txn, Txn::Error { .. }));
                    let is_error = |result: &MultiResult| matches!(result, MultiResult::Error(_));
                    prop_assert_eq!(results.len(), txns.len());
                    prop_assert!(results.iter().all(|result| is_error(result) == failed));
                }
                (_, result) => prop_assert!(result.is_ok(), "{:?} {:?}", txn, result),
            }
        }
        assert_same(&replica, &model);
        let loaded = snapshot(&mut replica);
        assert_same(&loaded, &model);
        prop_assert_eq!(loaded.tree().digest(), replica.tree().digest());
    }

    #[test]
    fn snapshots_hold_the_tree_of_their_beginning(
        history in history(),
        begins in prop::collection::vec((0..60usize, 1..4usize), 1..4),
    ) {
        let (mut replica, mut model) = (Replica::new(OPTIONS), Model::new());
        let mut under: Vec<(Under, usize)> = Vec::new();
        for (step, (header, txn)) in log_of(&history).into_iter().enumerate() {
            for (_, pace) in begins.iter().filter(|(begin, _)| *begin == step) {
                let (id, digest) = (replica.begin_snapshot(), replica.tree().digest());
                let (image, model) = (Vec::new(), model.clone());
                under.push((Under { id, image, model, digest, done: false }, *pace));
            }
            replica.apply(&header, &txn);
            model.apply(&header, &txn);
            for (under, pace) in under.iter_mut().filter(|(under, pace)| !under.done && step % pace == 0) {
                under.done = replica.snapshot_chunk(under.id, *pace, &mut under.image);
            }
        }
        for (mut under, pace) in under {
            while !under.done {
                under.done = replica.snapshot_chunk(under.id, pace, &mut under.image);
            }
            replica.end_snapshot(under.id);
            let loaded = load(&under.image, Zxid(0));
            assert_same(&loaded, &under.model);
            prop_assert_eq!(loaded.tree().digest(), under.digest);
        }
        assert_same(&replica, &model);
    }

    #[test]
    fn replaying_what_is_already_there_changes_nothing(history in history(), from in 0..60usize, ahead in 0..60usize) {
        let log = log_of(&history);
        let (mut replica, mut model) = (Replica::new(OPTIONS), Model::new());
        let ahead = (from + ahead).min(log.len());
        for (header, txn) in &log[..ahead] {
            replica.apply(header, txn);
        }
        for (header, txn) in &log[from.min(log.len())..] {
            replica.apply(header, txn);
        }
        log.iter().for_each(|(header, txn)| model.apply(header, txn));
        assert_same(&replica, &model);
        prop_assert_eq!(snapshot(&mut replica).tree().digest(), replica.tree().digest());
    }

    #[test]
    fn a_broken_image_is_refused_and_never_panics(
        history in history(),
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
    ) {
        let mut replica = Replica::new(OPTIONS);
        log_of(&history).iter().for_each(|(header, txn)| drop(replica.apply(header, txn)));
        let id = replica.begin_snapshot();
        let mut image = Vec::new();
        while !replica.snapshot_chunk(id, 100, &mut image) {}
        let at = at.index(image.len());
        let mut cut = ImageReader::new(OPTIONS);
        prop_assert_eq!(cut.feed(&image[..at]).map(|progress| progress.done), Ok(false));
        prop_assert!(cut.finish().is_err());
        image[at] = byte;
        let mut reader = ImageReader::new(OPTIONS);
        if reader.feed(&image).is_ok() {
            let _either_way = reader.finish();
        }
    }
}
