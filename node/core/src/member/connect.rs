//! Handshakes: a new session, or one that comes back, here or from another member (protocol reference §1.3).

use bytes::{BufMut, Bytes, BytesMut};

use super::pipeline::Pending;
use super::work::Work;
use super::{Client, ClientWrite, Clock, Member, Output, Service};
use crate::effect::{Forward, Input};
use crate::proto::client::{ConnectRequest, ConnectResponse, OpCode};
use crate::proto::data::SessionTimeout;
use crate::replica::Replica;
use crate::session::password;
use crate::watch::ConnectionId;
use crate::zxid::SessionId;

impl Member {
    pub(super) fn connect(
        &mut self,
        clock: Clock,
        connection: ConnectionId,
        request: ConnectRequest,
        replica: &Replica,
        out: &mut Output,
    ) {
        if !self.is_serving() {
            return self.arrive(clock.now, connection, request, out);
        }
        // A client that has seen more than this server must find another one.
        let seen_here = self.committed.max(replica.last_zxid());
        if request.last_zxid_seen > seen_here && !mutant!(NoLastZxidSeen) {
            out.work(Work::Close(connection));
            return;
        }
        let timeout_ms = self.settings.granted_ms(request.timeout_ms);
        let has_read_only = request.read_only.is_some();
        if request.session == SessionId(0) {
            let client = Client {
                session: self.ids.allocate(),
                timeout_ms,
                has_read_only,
            };
            return self.begin_session(clock, connection, client, replica, out);
        }
        let session = request.session;
        if let Some(old) = self.by_session.remove(&session) {
            self.closed(old);
            out.work(Work::Close(old));
        }
        if request.password.as_deref() != Some(&password(session)) {
            out.work(refuse(connection, request.read_only.is_some()));
            return;
        }
        self.clients.insert(
            connection,
            Client {
                session,
                timeout_ms,
                has_read_only,
            },
        );
        if let Some(old) = self.moving.insert(session, connection) {
            self.clients.remove(&old);
            out.work(Work::Close(old));
        }
        self.ask_for_session(clock, connection, replica, out);
    }

    /// Asks the leader whether the session that a client brought lives.
    pub(super) fn ask_for_session(
        &mut self,
        clock: Clock,
        connection: ConnectionId,
        replica: &Replica,
        out: &mut Output,
    ) {
        let Some(client) = self.clients.get(&connection) else {
            return;
        };
        let wanted = SessionTimeout {
            session: client.session,
            timeout_ms: client.timeout_ms,
        };
        if matches!(self.service, Service::Leader(_)) {
            self.moved_here(clock, connection, wanted, replica, out);
        } else {
            *self.asked.entry(wanted.session).or_default() += 1;
            let forward = Input::Forward(Forward::Revalidate(wanted));
            self.input(clock, forward, replica, out);
        }
    }

    fn begin_session(
        &mut self,
        clock: Clock,
        connection: ConnectionId,
        client: Client,
        replica: &Replica,
        out: &mut Output,
    ) {
        self.clients.insert(connection, client);
        let mut body = BytesMut::new();
        body.put_i32(client.timeout_ms);
        let write = ClientWrite {
            connection,
            session: client.session,
            xid: 0,
            op: OpCode::CreateSession,
            body: body.freeze(),
            ids: vec![],
        };
        self.submit(clock, write, replica, out);
    }

    pub(super) fn revalidated(&mut self, session: SessionId, valid: bool, out: &mut Output) {
        let asked = self.asked.remove(&session).unwrap_or_default();
        if asked > 1 {
            self.asked.insert(session, asked - 1);
        } else if let Some(connection) = self.moving.get(&session).copied() {
            self.answer_connect(connection, valid, out);
        }
    }

    pub(super) fn answer_connect(
        &mut self,
        connection: ConnectionId,
        valid: bool,
        out: &mut Output,
    ) {
        let Some(client) = self.clients.get(&connection).copied() else {
            return;
        };
        self.moving.remove(&client.session);
        if valid {
            if let Some(old) = self.by_session.insert(client.session, connection) {
                self.closed(old);
                out.work(Work::Close(old));
            }
            out.work(Work::Connected {
                connection,
                response: accepted(client),
            });
        } else {
            self.clients.remove(&connection);
            out.work(refuse(connection, client.has_read_only));
        }
    }

    /// The answer to a client whose new session has been created.
    pub(super) fn establish(&mut self, pending: &Pending) -> Option<ConnectResponse> {
        if pending.op != OpCode::CreateSession {
            return None;
        }
        let client = *self.clients.get(&pending.connection?)?;
        self.by_session.insert(client.session, pending.connection?);
        Some(accepted(client))
    }
}

fn accepted(client: Client) -> ConnectResponse {
    ConnectResponse {
        protocol_version: 0,
        timeout_ms: client.timeout_ms,
        session: client.session,
        password: Bytes::copy_from_slice(&password(client.session)),
        read_only: client.has_read_only.then_some(false),
    }
}

fn refuse(connection: ConnectionId, has_read_only: bool) -> Work {
    Work::Connected {
        connection,
        response: ConnectResponse::expired(has_read_only.then_some(false)),
    }
}
