//! A server's connections to its clients: requests are taken in order, reads are answered from the tree when no write
//! of the connection is under way, and everything that is said to a client goes through one queue.

use std::collections::{BTreeMap, VecDeque};

use bytes::BytesMut;
use node_core::member::work::Clients;
use node_core::member::{ClientWrite, Event as MemberEvent};
use node_core::proto::client::{ConnectRequest, ConnectResponse, EventType, Request, Response};
use node_core::proto::code::ErrorCode;
use node_core::proto::data::{Acl, Id, SessionTimeout};
use node_core::read::{self, Caller};
use node_core::watch::ConnectionId;
use node_core::zxid::{ServerId, SessionId, Zxid};

use crate::model::Answer;
use crate::world::{Event, World};

/// What a client sends.
#[derive(Clone, Debug)]
pub(crate) enum ToServer {
    Connect(ConnectRequest),
    Request(i32, Request),
    Closed,
}

/// What a client hears.
#[derive(Clone, Debug)]
pub(crate) enum ToClient {
    Connected(ConnectResponse),
    Reply(i32, Zxid, Answer),
    Event(Zxid, EventType, String),
    Closed,
}

pub(crate) struct Connection {
    pub(crate) client: usize,
    pub(crate) node: ServerId,
    pub(crate) life: u64,
    /// When the last message of each direction arrives.
    pub(crate) to_server_at: u64,
    pub(crate) to_client_at: u64,
    /// The server's side of it.
    pub(crate) session: Option<SessionTimeout>,
    pub(crate) touched: bool,
    input: VecDeque<(i32, Request)>,
    in_flight: usize,
    closing: bool,
}

impl Connection {
    pub(crate) fn new(client: usize, node: ServerId, life: u64) -> Self {
        Self {
            client,
            node,
            life,
            to_server_at: 0,
            to_client_at: 0,
            session: None,
            touched: false,
            input: VecDeque::new(),
            in_flight: 0,
            closing: false,
        }
    }
}

/// What a server says while it performs work.
pub(crate) struct Outbox<'a> {
    node: ServerId,
    life: u64,
    connections: &'a mut BTreeMap<ConnectionId, Connection>,
    sent: Vec<(ConnectionId, ToClient)>,
    serving: Option<bool>,
}

impl<'a> Outbox<'a> {
    pub(crate) fn new(
        node: ServerId,
        life: u64,
        connections: &'a mut BTreeMap<ConnectionId, Connection>,
    ) -> Self {
        Self {
            node,
            life,
            connections,
            sent: Vec::new(),
            serving: None,
        }
    }

    pub(crate) fn finish(self, serving: &mut bool) -> Vec<(ConnectionId, ToClient)> {
        *serving = self.serving.unwrap_or(*serving);
        self.sent
    }

    fn open(&mut self, id: ConnectionId) -> Option<&mut Connection> {
        let (node, life) = (self.node, self.life);
        let connection = self.connections.get_mut(&id)?;
        assert_eq!((connection.node, connection.life), (node, life));
        Some(connection).filter(|connection| !connection.closing)
    }

    fn say(&mut self, id: ConnectionId, message: ToClient) {
        if self.open(id).is_some() {
            self.sent.push((id, message));
        }
    }
}

impl Clients for Outbox<'_> {
    fn may_read(&self, _connection: ConnectionId, _acl: &[Acl]) -> bool {
        true
    }

    fn event(&mut self, to: &[ConnectionId], zxid: Zxid, event: EventType, path: &str) {
        for id in to {
            self.say(*id, ToClient::Event(zxid, event, path.to_owned()));
        }
    }

    fn reply(&mut self, to: ConnectionId, xid: i32, zxid: Zxid, result: &Answer) {
        if let Some(connection) = self.open(to) {
            connection.in_flight -= 1;
            self.say(to, ToClient::Reply(xid, zxid, result.clone()));
        }
    }

    fn connected(&mut self, to: ConnectionId, response: &ConnectResponse) {
        if let Some(connection) = self.open(to) {
            connection.session = Some(SessionTimeout {
                session: response.session,
                timeout_ms: response.timeout_ms,
            });
            self.say(to, ToClient::Connected(response.clone()));
        }
    }

    fn close(&mut self, connection: ConnectionId) {
        self.say(connection, ToClient::Closed);
        if let Some(connection) = self.open(connection) {
            connection.closing = true;
        }
    }

    fn hold(&mut self) {
        self.serving = Some(false);
    }

    fn close_all(&mut self) {
        self.serving = Some(false);
        let (node, life) = (self.node, self.life);
        let all = self.connections.iter();
        let ours: Vec<ConnectionId> = all
            .filter(|(_, c)| (c.node, c.life) == (node, life))
            .map(|(id, _)| *id)
            .collect();
        ours.into_iter().for_each(|id| self.close(id));
    }

    fn serve(&mut self) {
        self.serving = Some(true);
    }
}

impl World {
    pub(crate) fn send_to_clients(&mut self, sent: Vec<(ConnectionId, ToClient)>) {
        for (id, message) in sent {
            self.send_to_client(id, message);
        }
    }

    pub(crate) fn send_to_client(&mut self, id: ConnectionId, message: ToClient) {
        let now = self.now;
        let delay = self.rng.range(1, 4);
        let connection = self.connections.get_mut(&id).unwrap();
        connection.to_client_at = connection.to_client_at.max(now + delay);
        let (at, client) = (connection.to_client_at, connection.client);
        if matches!(message, ToClient::Closed) {
            // The server's task notices a little later.
            let message = ToServer::Closed;
            self.schedule(now + 1, Event::ToServer { id, message });
        } else {
            self.schedule(now, Event::Serve { id });
        }
        let event = Event::ToClient {
            client,
            id,
            message,
        };
        self.schedule(at, event);
    }

    pub(crate) fn server_hears(&mut self, id: ConnectionId, message: ToServer) {
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        let (node, life) = (connection.node, connection.life);
        if !self.lives(node, life) {
            self.connections.remove(&id);
            return;
        }
        let connection = self.connections.get_mut(&id).unwrap();
        match message {
            ToServer::Closed => {
                self.connections.remove(&id);
                let node_ = self.nodes.get_mut(&node).unwrap();
                node_.watches.remove_connection(id);
                self.member_event(node, MemberEvent::Closed(id));
            }
            _ if connection.closing => {}
            ToServer::Connect(request) => {
                self.member_event(node, MemberEvent::Connect(id, request));
            }
            ToServer::Request(xid, request) => {
                connection.touched = true;
                connection.input.push_back((xid, request));
                self.serve(id);
            }
        }
    }

    /// A server serves again: it goes on with what has waited.
    pub(crate) fn serve_all(&mut self, node: ServerId) {
        let (now, life) = (self.now, self.nodes[&node].life);
        let all = self.connections.iter();
        let waits: Vec<ConnectionId> = all
            .filter(|(_, c)| (c.node, c.life) == (node, life) && !c.closing)
            .map(|(id, _)| *id)
            .collect();
        for id in waits {
            let is_open = self.connections[&id].session.is_some();
            self.counts.kept += u64::from(is_open);
            self.schedule(now, Event::Serve { id });
        }
    }

    /// Works off what has arrived on a connection.
    pub(crate) fn serve(&mut self, id: ConnectionId) {
        while let Some(connection) = self.connections.get_mut(&id) {
            let node = connection.node;
            if connection.closing || !self.lives(node, self.connections[&id].life) {
                return;
            }
            let connection = self.connections.get_mut(&id).unwrap();
            let Some((_, request)) = connection.input.front() else {
                return;
            };
            if !request.op().is_write() && connection.in_flight > 0 {
                return;
            }
            if !self.nodes[&node].serving && *request != Request::Ping {
                return;
            }
            let (xid, request) = connection.input.pop_front().unwrap();
            let session = connection.session.unwrap().session;
            if request.op().is_write() {
                connection.in_flight += 1;
                let write = client_write(id, session, xid, &request);
                self.member_event(node, MemberEvent::Write(write));
            } else {
                self.answer_read(id, session, xid, &request);
            }
        }
    }

    fn answer_read(&mut self, id: ConnectionId, session: SessionId, xid: i32, request: &Request) {
        let node = self.connections[&id].node;
        let node = self.nodes.get_mut(&node).unwrap();
        let caller = Caller {
            connection: id,
            session,
            ids: &[],
        };
        let mut missed = Vec::new();
        let replica = &node.tree.replica;
        let result = read::read(replica, &mut node.watches, &caller, request, &mut missed);
        let zxid = replica.last_zxid();
        for (event, path) in missed {
            self.send_to_client(id, ToClient::Event(Zxid(-1), event, path));
        }
        self.send_to_client(id, ToClient::Reply(xid, zxid, result));
    }
}

fn client_write(
    connection: ConnectionId,
    session: SessionId,
    xid: i32,
    request: &Request,
) -> ClientWrite {
    let mut body = BytesMut::new();
    request.encode(&mut body);
    // Only who may change everything may change the ensemble.
    let is_super = matches!(request, Request::Reconfig { .. });
    let id = Id {
        scheme: if is_super { "super" } else { "ip" }.into(),
        id: "x".into(),
    };
    ClientWrite {
        connection,
        session,
        xid,
        op: request.op(),
        body: body.freeze(),
        ids: vec![id],
    }
}

/// Whether an answer says that the session is no more.
pub(crate) fn has_ended(answer: &Result<Response, ErrorCode>) -> bool {
    matches!(answer, Err(code) if *code == ErrorCode::SESSION_EXPIRED)
}
