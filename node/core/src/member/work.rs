//! What changes the replica or speaks to clients, in the order in which it must be done.
//!
//! The caller holds the replica and the watches for itself while it performs work, so no reader can see a change whose
//! watch event is not yet in its connection's queue.

use crate::proto::client::{ConnectResponse, EventType, OpCode, Response};
use crate::proto::code::ErrorCode;
use crate::proto::data::Acl;
use crate::proto::txn::TxnEntry;
use crate::replica::Replica;
use crate::watch::{ConnectionId, WatchTable};
use crate::zxid::Zxid;

/// The client of this server that a transaction answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waiter {
    /// Its connection.
    pub connection: ConnectionId,
    /// Its number for the request.
    pub xid: i32,
    /// What it wants.
    pub op: OpCode,
}

/// One thing to be done.
#[derive(Clone, Debug)]
pub enum Work {
    /// Apply a committed transaction, fire watches, answer who waits.
    Apply {
        /// The transaction.
        entry: TxnEntry,
        /// The request of a client of this server that it answers.
        waiting: Option<Waiter>,
        /// If that was a new session: what the client hears.
        connected: Option<ConnectResponse>,
        /// The connection of the session that it ends.
        closing: Option<ConnectionId>,
    },
    /// Show the configuration in its node.
    SetConfig {
        /// What it says.
        text: String,
        /// Its version.
        version: Zxid,
        /// Wall clock, ms.
        time: i64,
    },
    /// Answer a request that changed nothing.
    Reply {
        /// Who asked.
        connection: ConnectionId,
        /// The client's number for it.
        xid: i32,
        /// The answer.
        result: Result<Response, ErrorCode>,
    },
    /// Answer a handshake. With a time-out of 0 the connection closes afterwards.
    Connected {
        /// Who asked.
        connection: ConnectionId,
        /// The answer.
        response: ConnectResponse,
    },
    /// Close a connection, after what was said to it before.
    Close(ConnectionId),
    /// Serve no more. The connections stay open; what comes by them waits.
    Hold,
    /// Serve no more, and close every connection.
    CloseAll,
    /// Serve clients from now on.
    Serve,
}

/// The clients' side of performing work. Everything said to a connection reaches it in this order.
pub trait Clients {
    /// Whether this connection may read what has this ACL.
    fn may_read(&self, connection: ConnectionId, acl: &[Acl]) -> bool;
    /// A watch has fired for these connections.
    fn event(&mut self, to: &[ConnectionId], zxid: Zxid, event: EventType, path: &str);
    /// The answer to a write or a sync.
    fn reply(
        &mut self,
        to: ConnectionId,
        xid: i32,
        zxid: Zxid,
        result: &Result<Response, ErrorCode>,
    );
    /// The answer to a handshake.
    fn connected(&mut self, to: ConnectionId, response: &ConnectResponse);
    /// Close after what was said before.
    fn close(&mut self, connection: ConnectionId);
    /// Serve no more; all that is not a ping waits.
    fn hold(&mut self);
    /// Serve no more, and close all.
    fn close_all(&mut self);
    /// Serve, also what waits.
    fn serve(&mut self);
}

/// Performs one piece of work.
pub fn perform(
    work: Work,
    replica: &mut Replica,
    watches: &mut WatchTable,
    clients: &mut impl Clients,
) {
    match work {
        Work::Apply {
            entry,
            waiting,
            connected,
            closing,
        } => {
            apply(&entry, waiting, connected, replica, watches, clients);
            if let Some(connection) = closing {
                clients.close(connection);
            }
        }
        Work::SetConfig {
            text,
            version,
            time,
        } => replica.set_config(&text, version, time),
        Work::Reply {
            connection,
            xid,
            result,
        } => clients.reply(connection, xid, replica.last_zxid(), &result),
        Work::Connected {
            connection,
            response,
        } => {
            clients.connected(connection, &response);
            if response.timeout_ms == 0 {
                clients.close(connection);
            }
        }
        Work::Close(connection) => clients.close(connection),
        Work::Hold => clients.hold(),
        Work::CloseAll => clients.close_all(),
        Work::Serve => clients.serve(),
    }
}

/// Applies a transaction, and tells who waits for it or watches.
fn apply(
    entry: &TxnEntry,
    waiting: Option<Waiter>,
    connected: Option<ConnectResponse>,
    replica: &mut Replica,
    watches: &mut WatchTable,
    clients: &mut impl Clients,
) {
    let zxid = entry.header.zxid;
    let applied = replica.apply(&entry.header, &entry.txn);
    let mut fired = Vec::new();
    watches.trigger(
        &applied.changes,
        |connection, acl| clients.may_read(connection, acl),
        &mut fired,
    );
    let (before, after) = match mutant!(WatchAfterReply) {
        false => (fired, Vec::new()),
        true => (Vec::new(), fired),
    };
    for event in before {
        clients.event(&event.connections, zxid, event.event, &event.path);
    }
    if let Some(Waiter {
        connection,
        xid,
        op,
    }) = waiting
    {
        match (connected, applied.result) {
            (Some(response), Ok(_)) => clients.connected(connection, &response),
            (_, Err(ErrorCode::SESSION_MOVED)) => clients.close(connection),
            (_, Err(_)) if op == OpCode::CreateSession => clients.close(connection),
            (_, result) => clients.reply(connection, xid, zxid, &result),
        }
    }
    for event in after {
        clients.event(&event.connections, zxid, event.event, &event.path);
    }
}
