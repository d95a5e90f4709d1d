//! The clients of this server while work is performed: what is said to whom goes into the connections' outboxes, in order.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use bytes::BytesMut;
use node_core::acl;
use node_core::member::ClientWrite;
use node_core::member::work::Clients;
use node_core::proto::client::{
    ConnectResponse, EventType, ReplyHeader, Response, write_event, write_frame, write_reply,
};
use node_core::proto::code::ErrorCode;
use node_core::proto::data::{Acl, perms};
use node_core::watch::ConnectionId;
use node_core::zxid::Zxid;

use crate::net::outbox::Connection;
use crate::shared::Shared;

/// When the unanswered requests of a connection came, and how large they are.
#[derive(Debug, Default)]
pub(crate) struct Waiting(VecDeque<(Instant, usize)>);

/// The clients of this server, while work is performed.
pub(crate) struct LocalClients {
    shared: Arc<Shared>,
    touched: Vec<Arc<Connection>>,
    /// What is not answered yet, by connection.
    writes: HashMap<ConnectionId, Waiting>,
}

impl LocalClients {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            touched: Vec::new(),
            writes: HashMap::new(),
        }
    }

    /// A client begins its handshake.
    pub(crate) fn opened(&mut self, connection: ConnectionId) {
        self.writes.insert(connection, Waiting::default());
    }

    /// A request came.
    pub(crate) fn arrived(&mut self, write: &ClientWrite, now: Instant) {
        match self.writes.get_mut(&write.connection) {
            Some(waiting) => waiting.0.push_back((now, write.body.len())),
            None => self.shared.answered(write.body.len()),
        }
    }

    pub(crate) fn closed(&mut self, connection: ConnectionId) {
        for (_, bytes) in self.writes.remove(&connection).unwrap_or_default().0 {
            self.shared.answered(bytes);
        }
    }

    pub(crate) fn wake(&mut self) {
        for connection in self.touched.drain(..) {
            connection.changed.notify_one();
        }
    }

    fn with(&mut self, id: ConnectionId, act: impl FnOnce(&Connection)) {
        let connection = self.shared.connections.lock().get(&id).cloned();
        if let Some(connection) = connection {
            self.shared.metrics.sent(1);
            act(&connection);
            self.touched.push(connection);
        }
    }
}

impl Clients for LocalClients {
    fn may_read(&self, connection: ConnectionId, acl: &[Acl]) -> bool {
        if self.shared.config.access.skip_acl {
            return true;
        }
        let connections = self.shared.connections.lock();
        let ids = connections
            .get(&connection)
            .map(|connection| connection.ids.lock().clone());
        ids.is_some_and(|ids| acl::permits(acl, perms::READ, &ids))
    }

    fn event(&mut self, to: &[ConnectionId], zxid: Zxid, event: EventType, path: &str) {
        let mut frame = BytesMut::new();
        write_event(zxid, event, path, &mut frame);
        for id in to {
            self.with(*id, |connection| {
                connection.push(0, |out| out.extend_from_slice(&frame))
            });
        }
    }

    fn reply(
        &mut self,
        to: ConnectionId,
        xid: i32,
        zxid: Zxid,
        result: &Result<Response, ErrorCode>,
    ) {
        if let Some((came, bytes)) = self
            .writes
            .get_mut(&to)
            .and_then(|waiting| waiting.0.pop_front())
        {
            self.shared.metrics.write_answered(came.elapsed());
            self.shared.answered(bytes);
        }
        let err = result.as_ref().err().map_or(0, |code| code.0);
        self.with(to, |connection| {
            connection.push(1, |out| {
                write_reply(ReplyHeader { xid, zxid, err }, result.as_ref().ok(), out)
            });
        });
    }

    fn connected(&mut self, to: ConnectionId, response: &ConnectResponse) {
        self.with(to, |connection| {
            connection.push(0, |out| write_frame(out, |out| response.encode(out)));
            connection
                .timeout_ms
                .store(response.timeout_ms, Ordering::Relaxed);
            connection
                .session
                .store(response.session.0, Ordering::Release);
        });
    }

    fn close(&mut self, connection: ConnectionId) {
        let connection = self.shared.connections.lock().get(&connection).cloned();
        if let Some(connection) = connection {
            connection.close();
        }
    }

    fn hold(&mut self) {
        self.shared.serving.store(false, Ordering::Release);
    }

    fn close_all(&mut self) {
        self.shared.serving.store(false, Ordering::Release);
        for connection in self.shared.connections.lock().values() {
            connection.close();
        }
    }

    fn serve(&mut self) {
        self.shared.serving.store(true, Ordering::Release);
        for connection in self.shared.connections.lock().values() {
            connection.changed.notify_one();
        }
    }
}
