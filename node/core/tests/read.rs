//! Reads: what they answer, what they refuse, and that the short way says the same as the long one.

#![expect(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

use bytes::{BufMut, Bytes, BytesMut};
use node_core::jute::Jute;
use node_core::proto::client::{
    EventType, OpCode, ReplyHeader, Request, RequestHeader, Response, SetWatches, write_reply,
};
use node_core::proto::code::ErrorCode;
use node_core::proto::data::{Acl, Id, perms};
use node_core::proto::multi::MultiResult;
use node_core::proto::txn::{CreateOp, CreateTxn, Txn, TxnHeader};
use node_core::read::{Caller, needs_watches, read, read_plainly};
use node_core::replica::Replica;
use node_core::tree::TreeOptions;
use node_core::watch::{ConnectionId, WatchTable};
use node_core::zxid::{SessionId, Zxid};

const SESSION: SessionId = SessionId(7);

fn bob() -> Id {
    Id {
        scheme: "digest".into(),
        id: "bob:fyVmFCwVbTJYrznoSu1koqYEYF0=".into(),
    }
}

fn apply(replica: &mut Replica, txn: &Txn) {
    let zxid = Zxid(replica.last_zxid().0 + 1);
    let op = txn.op() as i32;
    let header = TxnHeader {
        session: SESSION,
        cxid: 0,
        zxid,
        time: zxid.0 * 1000,
        op,
    };
    let _ = replica.apply(&header, txn).result.unwrap();
}

fn create(path: &str, data: Option<&'static [u8]>, acl: Acl, ephemeral: bool) -> Txn {
    let data = data.map(Bytes::from_static);
    let (op, acl, parent_cversion) = (CreateOp::Create, vec![acl], -1);
    Txn::Create(CreateTxn {
        op,
        path: path.into(),
        data,
        acl,
        ephemeral,
        parent_cversion,
    })
}

/// `/a` is open, `/a/null` has null data, `/a/e1` is ephemeral, `/bob` is Bob's alone.
fn replica() -> Replica {
    let mut replica = Replica::new(TreeOptions::default());
    apply(
        &mut replica,
        &create("/a", Some(b"hello"), Acl::open(), false),
    );
    apply(&mut replica, &create("/a/null", None, Acl::open(), false));
    apply(&mut replica, &create("/a/e1", Some(b""), Acl::open(), true));
    let acl = Acl {
        perms: perms::ALL,
        id: bob(),
    };
    apply(&mut replica, &create("/bob", Some(b"secret"), acl, false));
    replica
}

fn ask(
    replica: &Replica,
    watches: &mut WatchTable,
    ids: &[Id],
    request: &Request,
) -> Result<Response, ErrorCode> {
    let caller = Caller {
        connection: ConnectionId(1),
        session: SESSION,
        ids,
    };
    read(replica, watches, &caller, request, &mut Vec::new())
}

fn plain(op: OpCode, path: &str) -> Request {
    let (path, watch) = (path.to_owned(), false);
    match op {
        OpCode::Exists => Request::Exists { path, watch },
        OpCode::GetData => Request::GetData { path, watch },
        OpCode::GetChildren => Request::GetChildren { path, watch },
        _ => Request::GetChildren2 { path, watch },
    }
}

#[test]
fn the_short_way_says_the_same_as_the_long_one() {
    let replica = replica();
    let ops = [
        OpCode::Exists,
        OpCode::GetData,
        OpCode::GetChildren,
        OpCode::GetChildren2,
    ];
    for op in ops {
        for path in [
            "/", "", "/a", "/a/null", "/a/e1", "/bob", "/none", "/a/", "//a", "a",
        ] {
            for ids in [&[][..], &[bob()]] {
                let request = plain(op, path);
                let mut frame = BytesMut::new();
                RequestHeader {
                    xid: 5,
                    op: op as i32,
                }
                .write(&mut frame);
                request.encode(&mut frame);
                let result = ask(&replica, &mut WatchTable::new(), ids, &request);
                let err = result.as_ref().err().map_or(0, |code| code.0);
                let header = ReplyHeader {
                    xid: 5,
                    zxid: replica.last_zxid(),
                    err,
                };
                let mut expected = BytesMut::from(&b"before"[..]);
                write_reply(header, result.as_ref().ok(), &mut expected);
                let mut reply = BytesMut::from(&b"before"[..]);
                assert!(read_plainly(&replica, ids, &frame, &mut reply));
                assert_eq!(reply, expected, "{request:?}");
            }
        }
    }
}

#[test]
fn the_short_way_leaves_everything_else_to_the_long_one() {
    let replica = replica();
    let watch = Request::GetData {
        path: "/a".into(),
        watch: true,
    };
    for request in [
        watch,
        plain(OpCode::Exists, "/\0"),
        Request::GetAcl { path: "/a".into() },
    ] {
        let mut frame = BytesMut::new();
        RequestHeader {
            xid: 1,
            op: request.op() as i32,
        }
        .write(&mut frame);
        request.encode(&mut frame);
        for len in 0..=frame.len() {
            let mut reply = BytesMut::new();
            assert!(!read_plainly(&replica, &[], &frame[..len], &mut reply));
            assert!(reply.is_empty());
        }
        frame.put_u8(0);
    }
}

#[test]
fn acls_are_checked_and_digests_are_hidden() {
    let replica = replica();
    let mut watches = WatchTable::new();
    let get = plain(OpCode::GetData, "/bob");
    assert_eq!(
        ask(&replica, &mut watches, &[], &get),
        Err(ErrorCode::NO_AUTH)
    );
    assert!(matches!(
        ask(&replica, &mut watches, &[bob()], &get),
        Ok(Response::Data(Some(_), _))
    ));
    let watch = Request::Exists {
        path: "/bob".into(),
        watch: true,
    };
    assert_eq!(
        ask(&replica, &mut watches, &[], &watch),
        Err(ErrorCode::NO_AUTH)
    );
    assert_eq!(watches.watch_count(), 0, "a denied exists sets no watch");
    let acl = Request::GetAcl {
        path: "/bob".into(),
    };
    assert_eq!(
        ask(&replica, &mut watches, &[], &acl),
        Err(ErrorCode::NO_AUTH)
    );
    let Ok(Response::Acl(list, _)) = ask(&replica, &mut watches, &[bob()], &acl) else {
        panic!()
    };
    assert_eq!(list[0].id, bob());
}

#[test]
fn an_exists_watches_what_is_not_there_and_a_get_does_not() {
    let replica = replica();
    let mut watches = WatchTable::new();
    let get = Request::GetData {
        path: "/none".into(),
        watch: true,
    };
    assert!(needs_watches(&get));
    assert_eq!(
        ask(&replica, &mut watches, &[], &get),
        Err(ErrorCode::NO_NODE)
    );
    assert_eq!(watches.watch_count(), 0);
    let exists = Request::Exists {
        path: "/none".into(),
        watch: true,
    };
    assert_eq!(
        ask(&replica, &mut watches, &[], &exists),
        Err(ErrorCode::NO_NODE)
    );
    assert_eq!(watches.watch_count(), 1);
}

#[test]
fn the_other_reads_answer() {
    let replica = replica();
    let mut watches = WatchTable::new();
    let mut ask = |request: Request| ask(&replica, &mut watches, &[bob()], &request);
    let names = |names: &[&str]| Response::Names(names.iter().map(|n| (*n).to_owned()).collect());
    let ephemerals = |prefix: Option<&str>| Request::GetEphemerals {
        prefix: prefix.map(Into::into),
    };
    assert_eq!(ask(ephemerals(None)), Ok(names(&["/a/e1"])));
    assert_eq!(ask(ephemerals(Some("/a/e"))), Ok(names(&["/a/e1"])));
    assert_eq!(ask(ephemerals(Some("/b"))), Ok(names(&[])));
    assert_eq!(
        ask(Request::GetAllChildrenNumber { path: "/".into() }),
        Ok(Response::Number(7))
    );
    assert_eq!(
        ask(Request::GetAllChildrenNumber { path: "/a".into() }),
        Ok(Response::Number(2))
    );
    let Ok(Response::Clients(who)) = ask(Request::WhoAmI) else {
        panic!()
    };
    assert_eq!(who[0].user, "bob");
    let multi = Request::MultiRead(vec![
        plain(OpCode::GetData, "/none"),
        plain(OpCode::GetChildren, "/a"),
    ]);
    let Ok(Response::Multi(results)) = ask(multi) else {
        panic!()
    };
    assert_eq!(results[0], MultiResult::Error(ErrorCode::NO_NODE));
    assert!(matches!(&results[1], MultiResult::GetChildren(names) if names.len() == 2));
    let check = |watcher_type| Request::CheckWatches {
        path: "/w".into(),
        watcher_type,
    };
    assert_eq!(ask(check(4)), Err(ErrorCode::NO_WATCHER));
    assert_eq!(ask(check(9)), Err(ErrorCode::MARSHALLING_ERROR));
    let add = Request::AddWatch {
        path: "/w".into(),
        mode: 0,
    };
    assert_eq!(ask(add), Ok(Response::Code(ErrorCode::OK)));
    assert_eq!(ask(check(4)), Ok(Response::Empty));
    assert_eq!(
        ask(Request::Sync { path: "/".into() }),
        Err(ErrorCode::UNIMPLEMENTED)
    );
}

#[test]
fn watches_that_come_back_hear_what_they_missed() {
    let replica = replica();
    let mut watches = WatchTable::new();
    let list = |paths: &[&str]| {
        paths
            .iter()
            .map(|path| (*path).to_owned())
            .collect::<Vec<_>>()
    };
    // /a was created by 1, its children by 2 and 3, /bob by 4.
    let set = SetWatches {
        relative_zxid: Zxid(3),
        data: list(&["/a", "/bob", "/gone"]),
        exist: list(&["/a", "/later"]),
        child: list(&["/a", "/", "/gone"]),
    };
    let request = Request::SetWatches2 {
        watches: set,
        persistent: list(&["/p"]),
        recursive: list(&["/r"]),
    };
    let caller = Caller {
        connection: ConnectionId(1),
        session: SESSION,
        ids: &[],
    };
    let mut missed = Vec::new();
    read(&replica, &mut watches, &caller, &request, &mut missed).unwrap();
    let event = |event, path: &str| (event, path.to_owned());
    assert_eq!(
        missed,
        [
            event(EventType::NodeDataChanged, "/bob"),
            event(EventType::NodeDeleted, "/gone"),
            event(EventType::NodeCreated, "/a"),
            event(EventType::NodeChildrenChanged, "/"),
            event(EventType::NodeDeleted, "/gone"),
        ]
    );
    let counts = watches.counts();
    assert_eq!((counts.paths, counts.data, counts.child), (4, 4, 2));
}
