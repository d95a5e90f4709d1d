//! Answers to reads, from the tree as it stands (protocol reference §1.5 and §2.6 to §2.8).
//!
//! [`read`] answers every read request and registers its watch in the same step. [`read_plainly`] answers the most
//! frequent ones straight from the bytes of the request into the bytes of the reply.

use bytes::{BufMut, BytesMut};

use crate::acl;
use crate::jute::Jute;
use crate::proto::client::{EventType, OpCode, ReplyHeader, Request, Response, write_frame};
use crate::proto::code::ErrorCode;
use crate::proto::data::{Id, perms};
use crate::proto::multi::MultiResult;
use crate::replica::Replica;
use crate::tree::Node;
use crate::watch::{ConnectionId, WatchKind, WatchTable, WatcherType};
use crate::zxid::SessionId;

/// Who asks.
#[derive(Clone, Copy, Debug)]
pub struct Caller<'a> {
    /// The connection: watches belong to it.
    pub connection: ConnectionId,
    /// The session: ephemeral nodes belong to it.
    pub session: SessionId,
    /// Who the connection has proved to be.
    pub ids: &'a [Id],
}

/// Whether the answer depends on the watches or changes them; for the others any table does.
#[must_use]
pub fn needs_watches(request: &Request) -> bool {
    match request {
        Request::Exists { watch, .. }
        | Request::GetData { watch, .. }
        | Request::GetChildren { watch, .. }
        | Request::GetChildren2 { watch, .. } => *watch,
        Request::CheckWatches { .. }
        | Request::RemoveWatches { .. }
        | Request::AddWatch { .. }
        | Request::SetWatches(_)
        | Request::SetWatches2 { .. } => true,
        _ => false,
    }
}

/// Answers a read. What a client has missed comes out of `setWatches` in `missed`: it is sent before the reply, with
/// the zxid −1. A request that is no read is [`ErrorCode::UNIMPLEMENTED`].
pub fn read(
    replica: &Replica,
    watches: &mut WatchTable,
    caller: &Caller<'_>,
    request: &Request,
    missed: &mut Vec<(EventType, String)>,
) -> Result<Response, ErrorCode> {
    let tree = replica.tree();
    let connection = caller.connection;
    match request {
        Request::Exists { path, watch } => exists(replica, watches, caller, path, *watch),
        Request::GetData { path, watch } => {
            let kind = watch.then_some(WatchKind::Data);
            let node = readable_watched(replica, watches, caller, path, kind)?;
            Ok(Response::Data(node.data_bytes(), node.stat()))
        }
        Request::GetChildren { path, watch } => {
            let kind = watch.then_some(WatchKind::Child);
            let node = readable_watched(replica, watches, caller, path, kind)?;
            Ok(Response::Names(names(&node)))
        }
        Request::GetChildren2 { path, watch } => {
            let kind = watch.then_some(WatchKind::Child);
            let node = readable_watched(replica, watches, caller, path, kind)?;
            Ok(Response::NamesStat(names(&node), node.stat()))
        }
        Request::GetAcl { path } => get_acl(replica, caller, path),
        Request::GetAllChildrenNumber { path } => {
            let count = readable(replica, caller, path)?.descendant_count();
            Ok(Response::Number(i32::try_from(count).unwrap_or(i32::MAX)))
        }
        Request::GetEphemerals { prefix } => Ok(Response::Names(ephemerals(
            replica,
            caller,
            prefix.as_deref(),
        ))),
        Request::MultiRead(ops) => Ok(Response::Multi(multi_read(replica, caller, ops))),
        Request::WhoAmI => Ok(Response::Clients(
            caller.ids.iter().map(Into::into).collect(),
        )),
        Request::CheckWatches { path, watcher_type } => {
            let watcher_type = watcher(*watcher_type)?;
            found(watches.has(connection, path, watcher_type))
        }
        Request::RemoveWatches { path, watcher_type } => {
            let watcher_type = watcher(*watcher_type)?;
            found(watches.remove(connection, path, watcher_type))
        }
        Request::AddWatch { path, mode } => add_watch(watches, connection, path, *mode),
        Request::SetWatches(set) => {
            let told = watches.set_watches(tree, connection, set, &[], &[]);
            missed.extend(told.into_iter().filter(|_| !mutant!(MissedWatches)));
            Ok(Response::Empty)
        }
        Request::SetWatches2 {
            watches: set,
            persistent,
            recursive,
        } => {
            missed.extend(watches.set_watches(tree, connection, set, persistent, recursive));
            Ok(Response::Empty)
        }
        Request::Ping => Ok(Response::Empty),
        _ => Err(ErrorCode::UNIMPLEMENTED),
    }
}

fn readable<'a>(
    replica: &'a Replica,
    caller: &Caller<'_>,
    path: &str,
) -> Result<Node<'a>, ErrorCode> {
    let node = replica.tree().get(path).ok_or(ErrorCode::NO_NODE)?;
    if node.permits(perms::READ, caller.ids) {
        Ok(node)
    } else {
        Err(ErrorCode::NO_AUTH)
    }
}

fn readable_watched<'a>(
    replica: &'a Replica,
    watches: &mut WatchTable,
    caller: &Caller<'_>,
    path: &str,
    kind: Option<WatchKind>,
) -> Result<Node<'a>, ErrorCode> {
    let node = readable(replica, caller, path)?;
    if let Some(kind) = kind {
        watches.add(caller.connection, path, kind);
    }
    Ok(node)
}

/// The prefix is one of text, not of path segments.
fn ephemerals(replica: &Replica, caller: &Caller<'_>, prefix: Option<&str>) -> Vec<String> {
    let mut paths = replica.tree().ephemerals(caller.session);
    let prefix = prefix.unwrap_or_default();
    if !prefix.trim().is_empty() && prefix != "/" {
        paths.retain(|path| path.starts_with(prefix));
    }
    paths
}

fn names(node: &Node<'_>) -> Vec<String> {
    node.children().map(str::to_owned).collect()
}

/// The one read whose watch may wait for a node that does not exist yet.
fn exists(
    replica: &Replica,
    watches: &mut WatchTable,
    caller: &Caller<'_>,
    path: &str,
    watch: bool,
) -> Result<Response, ErrorCode> {
    if path.contains('\0') {
        return Err(ErrorCode::BAD_ARGUMENTS);
    }
    let node = replica.tree().get(path);
    if node.is_some_and(|node| !node.permits(perms::READ, caller.ids)) {
        return Err(ErrorCode::NO_AUTH);
    }
    if watch {
        watches.add(caller.connection, path, WatchKind::Data);
    }
    node.map(|node| Response::Stat(node.stat()))
        .ok_or(ErrorCode::NO_NODE)
}

fn get_acl(replica: &Replica, caller: &Caller<'_>, path: &str) -> Result<Response, ErrorCode> {
    let node = replica.tree().get(path).ok_or(ErrorCode::NO_NODE)?;
    if !node.permits(perms::READ | perms::ADMIN, caller.ids) {
        return Err(ErrorCode::NO_AUTH);
    }
    let list = if node.permits(perms::ADMIN, caller.ids) {
        node.acl().to_vec()
    } else {
        acl::masked(node.acl())
    };
    Ok(Response::Acl(list, node.stat()))
}

fn multi_read(replica: &Replica, caller: &Caller<'_>, ops: &[Request]) -> Vec<MultiResult> {
    let one = |op: &Request| match op {
        Request::GetData { path, .. } => readable(replica, caller, path)
            .map(|node| MultiResult::GetData(node.data_bytes(), node.stat())),
        Request::GetChildren { path, .. } => {
            readable(replica, caller, path).map(|node| MultiResult::GetChildren(names(&node)))
        }
        _ => Err(ErrorCode::UNIMPLEMENTED),
    };
    ops.iter()
        .map(|op| one(op).unwrap_or_else(MultiResult::Error))
        .collect()
}

fn watcher(number: i32) -> Result<WatcherType, ErrorCode> {
    WatcherType::from_number(number).ok_or(ErrorCode::MARSHALLING_ERROR)
}

fn found(found: bool) -> Result<Response, ErrorCode> {
    if found {
        Ok(Response::Empty)
    } else {
        Err(ErrorCode::NO_WATCHER)
    }
}

fn add_watch(
    watches: &mut WatchTable,
    connection: ConnectionId,
    path: &str,
    mode: i32,
) -> Result<Response, ErrorCode> {
    let kind = match mode {
        0 => WatchKind::Persistent,
        1 => WatchKind::Recursive,
        _ => return Err(ErrorCode::MARSHALLING_ERROR),
    };
    watches.add(connection, path, kind);
    Ok(Response::Code(ErrorCode::OK))
}

/// A request that [`read_plainly`] can answer: its body is a path and a watch flag that is not set.
struct PlainRead<'a> {
    xid: i32,
    op: OpCode,
    path: &'a [u8],
}

impl<'a> PlainRead<'a> {
    fn parse(frame: &'a [u8]) -> Option<Self> {
        let (xid, rest) = frame.split_first_chunk()?;
        let (op, rest) = rest.split_first_chunk()?;
        let (len, rest) = rest.split_first_chunk()?;
        let op = match i32::from_be_bytes(*op) {
            3 => OpCode::Exists,
            4 => OpCode::GetData,
            8 => OpCode::GetChildren,
            12 => OpCode::GetChildren2,
            _ => return None,
        };
        let len = usize::try_from(i32::from_be_bytes(*len)).ok()?;
        let (path, watch) = rest.split_at_checked(len)?;
        (watch == [0]).then_some(Self {
            xid: i32::from_be_bytes(*xid),
            op,
            path,
        })
    }
}

/// Answers a request frame (without its length) that reads one node and sets no watch: appends the whole reply to
/// `out`. False, and nothing appended, for any other request: those go through [`read`].
pub fn read_plainly(replica: &Replica, ids: &[Id], frame: &[u8], out: &mut BytesMut) -> bool {
    let Some(PlainRead { xid, op, path }) = PlainRead::parse(frame) else {
        return false;
    };
    if path.contains(&0) || std::str::from_utf8(path).is_err() {
        return false;
    }
    let node = replica.tree().get_bytes(path);
    let result = match node {
        None => Err(ErrorCode::NO_NODE),
        Some(node) if !node.permits(perms::READ, ids) => Err(ErrorCode::NO_AUTH),
        Some(node) => Ok(node),
    };
    let err = result.as_ref().err().map_or(0, |code| code.0);
    out.reserve(96 + node.and_then(|node| node.data()).unwrap_or_default().len());
    write_frame(out, |out| {
        ReplyHeader {
            xid,
            zxid: replica.last_zxid(),
            err,
        }
        .write(out);
        if let Ok(node) = result {
            write_body(op, &node, out);
        }
    });
    true
}

fn write_body(op: OpCode, node: &Node<'_>, out: &mut BytesMut) {
    match op {
        OpCode::GetData => {
            let data = node.data();
            out.put_i32(data.map_or(-1, |data| data.len() as i32));
            out.put_slice(data.unwrap_or_default());
        }
        OpCode::GetChildren | OpCode::GetChildren2 => {
            out.put_i32(node.num_children() as i32);
            for name in node.children() {
                out.put_i32(name.len() as i32);
                out.put_slice(name.as_bytes());
            }
        }
        _ => {}
    }
    if op != OpCode::GetChildren {
        node.stat().write(out);
    }
}
