//! Simulated clients: sessions that move, expire and end, writes, reads and watches; and what each of them is promised.

use std::collections::VecDeque;

use bytes::Bytes;
use node_core::proto::client::{
    ConnectRequest, ConnectResponse, CreateRequest, EventType, OpCode, Request, Response,
    SetWatches,
};
use node_core::proto::code::ErrorCode;
use node_core::proto::data::Acl;
use node_core::session::password;
use node_core::watch::ConnectionId;
use node_core::zxid::{ServerId, SessionId, Zxid};

use crate::checkers::Checkers;
use crate::model::Answer;
use crate::rng::Rng;
use crate::service::{Connection, ToClient, ToServer, has_ended};
use crate::world::{Event, World};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Set on a node.
    Data,
    /// Waits for a node.
    Exist,
    Child,
}

#[derive(Clone, Debug)]
struct Watch {
    path: String,
    kind: Kind,
    since: Zxid,
}

impl Watch {
    fn hears(&self, event: EventType) -> bool {
        match event {
            EventType::NodeDeleted => true,
            EventType::NodeChildrenChanged => self.kind == Kind::Child,
            EventType::NodeCreated | EventType::NodeDataChanged => self.kind != Kind::Child,
        }
    }
}

struct Sent {
    /// The recorder's number.
    op: u64,
    xid: i32,
    request: Request,
    at: u64,
    /// The newest write that any client knew to be done.
    acknowledged: Zxid,
}

#[derive(Default)]
pub(crate) struct Client {
    pub(crate) session: Option<SessionId>,
    timeout_ms: i32,
    last_zxid: Zxid,
    xid: i32,
    /// Counts its requests from 1 again on every connection, as kazoo does.
    recounts: bool,
    connection: Option<ConnectionId>,
    is_open: bool,
    since: u64,
    in_flight: VecDeque<Sent>,
    watches: Vec<Watch>,
    /// Nodes that it has made.
    known: Vec<String>,
    silent_until: u64,
    /// The one server that it calls.
    pub(crate) only: Option<ServerId>,
    /// Writes that were answered.
    pub(crate) answered: u64,
}

/// How lively clients are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mood {
    /// They move, fall silent, end their sessions.
    Wild,
    /// They read and write.
    Calm,
    /// They keep their sessions.
    Quiet,
}

const ROOTS: [&str; 3] = ["/a", "/b", "/c"];

fn create(path: String, flags: i32, data: Bytes) -> Request {
    Request::Create(CreateRequest {
        op: OpCode::Create,
        path,
        data: Some(data),
        acl: vec![Acl::open()],
        flags,
        ttl: -1,
    })
}

fn some_path(rng: &mut Rng) -> String {
    let root = rng.pick(&ROOTS).unwrap();
    if rng.one_in(4) {
        return root.to_owned();
    }
    format!("{root}/{}", rng.range(0, 4))
}

impl Client {
    pub(crate) fn new(recounts: bool) -> Self {
        Self {
            recounts,
            ..Self::default()
        }
    }

    /// (Of a client that counts again, requests with one number must be told apart.)
    fn some_version(&self, rng: &mut Rng) -> i32 {
        if rng.one_in(3) && !self.recounts {
            rng.range(0, 4) as i32
        } else {
            -1
        }
    }

    fn write(&self, rng: &mut Rng) -> Request {
        let data = Bytes::copy_from_slice(&rng.next().to_be_bytes());
        let root = rng.pick(&ROOTS).unwrap();
        match rng.range(0, 40) {
            0..=7 => create(some_path(rng), 0, data),
            8..=11 => create(some_path(rng), 1, data),
            12..=15 => create(format!("{root}/s-"), 2, data),
            16..=19 => create(format!("{root}/e-"), 3, data),
            20..=23 => {
                let path = rng.pick(&self.known.iter().collect::<Vec<_>>()).cloned();
                let path = path.filter(|_| !rng.one_in(3));
                Request::Delete {
                    path: path.unwrap_or_else(|| some_path(rng)),
                    version: self.some_version(rng),
                }
            }
            24 => Request::Check {
                path: some_path(rng),
                version: self.some_version(rng),
            },
            25..=31 => Request::SetData {
                path: some_path(rng),
                data: Some(data),
                version: self.some_version(rng),
            },
            _ => Request::Multi(self.some_ops(rng)),
        }
    }

    fn some_ops(&self, rng: &mut Rng) -> Vec<Request> {
        let count = rng.range(1, 4);
        let op = |_| match rng.range(0, 3) {
            0 => Request::Check {
                path: some_path(rng),
                version: self.some_version(rng),
            },
            _ => match self.write(rng) {
                Request::Multi(mut ops) => ops.remove(0),
                op => op,
            },
        };
        (0..count).map(op).collect()
    }

    fn read(rng: &mut Rng) -> Request {
        let (path, watch) = (some_path(rng), rng.one_in(2));
        match rng.range(0, 3) {
            0 => Request::Exists { path, watch },
            1 => Request::GetData { path, watch },
            _ => Request::GetChildren2 { path, watch },
        }
    }

    /// What it wants to hear of again after a reconnect.
    fn set_watches(&self) -> Request {
        let of = |kind: Kind| {
            let of_kind = self.watches.iter().filter(|w| w.kind == kind);
            of_kind.map(|w| w.path.clone()).collect()
        };
        Request::SetWatches(SetWatches {
            relative_zxid: self.last_zxid,
            data: of(Kind::Data),
            exist: of(Kind::Exist),
            child: of(Kind::Child),
        })
    }

    pub(crate) fn lose_session(&mut self) {
        self.session = None;
        self.last_zxid = Zxid::ZERO;
        self.xid = 0;
        self.watches.clear();
        self.known.clear();
    }

    pub(crate) fn is_open(&self) -> bool {
        self.is_open
    }

    pub(crate) fn connection(&self) -> Option<ConnectionId> {
        self.connection
    }

    pub(crate) fn timeout_ms(&self) -> u64 {
        self.timeout_ms as u64
    }

    /// How many of its requests are not answered.
    pub(crate) fn waits_for(&self) -> usize {
        self.in_flight.len()
    }

    pub(crate) fn disconnect(&mut self) {
        self.connection = None;
        self.is_open = false;
        self.in_flight.clear();
    }

    /// A watch event: it tells of something that happened, and the client waits for it.
    fn heard_event(&mut self, checkers: &Checkers, zxid: Zxid, event: EventType, path: &str) {
        let waits = |w: &Watch| w.path == path && w.hears(event) && (zxid.0 < 0 || w.since < zxid);
        // After a reconnect a deletion is told for each kind of watch.
        let told_twice = zxid.0 < 0 && event == EventType::NodeDeleted;
        assert!(
            self.watches.iter().any(waits) || told_twice,
            "{event:?} {path} at {zxid} for {:?}, which waits for {:?}",
            self.session,
            self.watches
        );
        if zxid.0 > 0 {
            assert!(zxid >= self.last_zxid, "an event of the past");
            let mut events = checkers.model.events(path, Zxid(zxid.0 - 1), zxid);
            assert!(
                events.any(|(_, e)| e == event),
                "{event:?} {path} at {zxid}"
            );
        }
        self.watches.retain(|w| !waits(w));
    }

    /// Nothing that a reply may show happened at a watched path without its event before.
    fn events_came_first(&self, checkers: &Checkers, zxid: Zxid) {
        for watch in &self.watches {
            let mut events = checkers.model.events(&watch.path, watch.since, zxid);
            let missing = events.find(|(_, event)| watch.hears(*event));
            assert!(
                missing.is_none(),
                "{:?} saw {zxid} before {missing:?} of {watch:?}",
                self.session
            );
        }
    }

    /// After `setWatches`: what is still waited for cannot have happened, as far as the server can know.
    fn watches_are_set(&mut self, checkers: &Checkers, sent: &SetWatches, zxid: Zxid) {
        let since = sent.relative_zxid;
        for watch in &mut self.watches {
            let node = checkers.model.at(&watch.path, zxid);
            let is_right = match watch.kind {
                Kind::Data => node.is_some_and(|node| node.mzxid <= since),
                Kind::Exist => node.is_none(),
                Kind::Child => node.is_some_and(|node| node.pzxid <= since),
            };
            assert!(is_right, "{watch:?} was set at {zxid}, where it is missed");
            watch.since = zxid;
        }
    }

    fn register(&mut self, request: &Request, answer: &Answer, zxid: Zxid) {
        let (path, kind) = match request {
            Request::Exists { path, watch: true } if answer.is_err() => (path, Kind::Exist),
            Request::Exists { path, watch: true } => (path, Kind::Data),
            Request::GetData { path, watch: true } if answer.is_ok() => (path, Kind::Data),
            Request::GetChildren2 { path, watch: true } if answer.is_ok() => (path, Kind::Child),
            _ => return,
        };
        let is_same = |w: &Watch| w.path == *path && w.kind == kind;
        if !self.watches.iter().any(is_same) {
            self.watches.push(Watch {
                path: path.clone(),
                kind,
                since: zxid,
            });
        }
    }
}

/// A read shows the state at its zxid.
fn read_is_right(checkers: &Checkers, request: &Request, answer: &Answer, zxid: Zxid) {
    let model = &checkers.model;
    let expected = match request {
        Request::Exists { path, .. } => model.at(path, zxid).map(|n| Response::Stat(n.stat())),
        Request::GetData { path, .. } => model
            .at(path, zxid)
            .map(|n| Response::Data(n.data.clone(), n.stat())),
        Request::GetChildren2 { path, .. } => model
            .at(path, zxid)
            .map(|n| Response::NamesStat(model.children(path, zxid), n.stat())),
        _ => Some(Response::Empty),
    };
    let mut found = answer.clone();
    if let Ok(Response::NamesStat(names, _)) = &mut found {
        names.sort_unstable();
    }
    let expected = expected.ok_or(ErrorCode::NO_NODE);
    assert_eq!(found, expected, "{request:?} at {zxid}");
}

impl World {
    pub(crate) fn wake(&mut self, index: usize) {
        let next = self.now + self.rng.range(5, 120);
        self.schedule(next, Event::Wake { client: index });
        let now = self.now;
        let client = &self.clients[index];
        if client.silent_until > now {
            return;
        }
        if client.connection.is_none() {
            return self.connect(index, false);
        }
        if !client.is_open {
            if now - client.since > 1000 {
                self.leave(index, false);
            }
            return;
        }
        let patience = client.timeout_ms as u64 * 2 / 3;
        if client
            .in_flight
            .front()
            .is_some_and(|s| s.at + patience < now)
        {
            let quietly = self.rng.one_in(2);
            return self.leave(index, quietly);
        }
        self.act(index);
    }

    fn act(&mut self, index: usize) {
        if self.mood == Mood::Wild && self.clients[index].in_flight.len() < 6 {
            match self.rng.range(0, 150) {
                0..=2 | 8..=12 => return self.connect(index, true),
                3 | 4 => {
                    // Its last writes are still under way.
                    for _ in 0..self.rng.range(0, 4) {
                        let request = self.clients[index].write(&mut self.rng);
                        self.request(index, request);
                    }
                    return self.request(index, Request::CloseSession);
                }
                5 => {
                    let client = &mut self.clients[index];
                    client.silent_until = self.now + client.timeout_ms as u64 * 2 + 600;
                    return;
                }
                6 => {
                    let quietly = self.rng.one_in(2);
                    return self.leave(index, quietly);
                }
                7 if self.setup.reconfig_enabled => {
                    let request = self.some_reconfig();
                    return self.request(index, request);
                }
                _ => {}
            }
        }
        if self.clients[index].in_flight.len() >= 6 {
            return;
        }
        if self.mood == Mood::Quiet {
            return self.request(index, Request::Ping);
        }
        for _ in 0..self.rng.range(1, 4) {
            let request = match self.rng.range(0, 10) {
                0..=4 => self.clients[index].write(&mut self.rng),
                5 => Request::Sync { path: "/a".into() },
                _ => Client::read(&mut self.rng),
            };
            self.request(index, request);
        }
    }

    /// Calls a server. A client that moves leaves its old connection as it is.
    pub(crate) fn connect(&mut self, index: usize, moves: bool) {
        let ids = self.ids();
        let any = self.rng.pick(&ids).unwrap();
        let lure = self.lure.filter(|(_, until)| *until > self.now);
        let lured = lure.filter(|_| self.rng.one_in(2)).map(|(to, _)| to);
        let to = self.clients[index].only.or(lured).unwrap_or(any);
        if moves {
            self.counts.moved += 1;
            // What is still on its way races with the move.
            for _ in 0..self.rng.range(0, 3) {
                let request = self.clients[index].write(&mut self.rng);
                self.request(index, request);
            }
            self.leave(index, true);
        }
        if !self.is_up(to) {
            return;
        }
        self.connection_count += 1;
        let id = ConnectionId(self.connection_count);
        let connection = Connection::new(index, to, self.nodes[&to].life);
        self.connections.insert(id, connection);
        let now = self.now;
        let timeout_ms = self.rng.range(800, 3000) as i32;
        let client = &mut self.clients[index];
        client.connection = Some(id);
        client.since = now;
        let request = ConnectRequest {
            protocol_version: 0,
            last_zxid_seen: client.last_zxid,
            timeout_ms,
            session: client.session.unwrap_or(SessionId(0)),
            password: client.session.map(|s| password(s).to_vec().into()),
            read_only: Some(false),
        };
        self.send_to_server(id, ToServer::Connect(request));
    }

    /// Ends the connection; `quietly`: the server does not hear of it soon.
    pub(crate) fn leave(&mut self, index: usize, quietly: bool) {
        if let Some(id) = self.clients[index].connection {
            self.disconnect(index);
            let pause = if quietly { self.rng.range(0, 3000) } else { 0 };
            let connection = self.connections.get_mut(&id);
            let at = connection.map_or(0, |c| c.to_server_at).max(self.now + 1) + pause;
            let message = ToServer::Closed;
            self.schedule(at, Event::ToServer { id, message });
        }
    }

    fn disconnect(&mut self, index: usize) {
        let client = &mut self.clients[index];
        client.disconnect();
        if let Some(session) = client.session {
            self.recorder.disconnected(session);
        }
    }

    pub(crate) fn request(&mut self, index: usize, request: Request) {
        let acknowledged = self.acknowledged;
        let client = &mut self.clients[index];
        let (id, session) = (client.connection.unwrap(), client.session.unwrap());
        client.xid += 1;
        let xid = client.xid;
        let op = self.recorder.asks(session, &request);
        client.in_flight.push_back(Sent {
            op,
            xid,
            request: request.clone(),
            at: self.now,
            acknowledged,
        });
        if request.op().is_write() {
            let same_number = self.checkers.requests.entry((session, xid)).or_default();
            same_number.push(request.clone());
        }
        self.send_to_server(id, ToServer::Request(xid, request));
    }

    fn send_to_server(&mut self, id: ConnectionId, message: ToServer) {
        let now = self.now;
        self.note(|| format!("{now:>6} client > {id:?} {message:?}"));
        let delay = match self.rng.one_in(20) {
            true => self.rng.range(5, 60),
            false => self.rng.range(1, 4),
        };
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        connection.to_server_at = connection.to_server_at.max(now + delay);
        let at = connection.to_server_at;
        self.schedule(at, Event::ToServer { id, message });
    }

    pub(crate) fn client_hears(&mut self, index: usize, id: ConnectionId, message: ToClient) {
        let now = self.now;
        self.note(|| format!("{now:>6} client {index} < {id:?} {message:?}"));
        if self.clients[index].connection != Some(id) {
            return;
        }
        match message {
            ToClient::Closed => self.disconnect(index),
            ToClient::Connected(response) => self.connected_client(index, response),
            ToClient::Event(zxid, event, path) => {
                if zxid.0 < 0 {
                    self.counts.missed += 1;
                }
                self.counts.events += 1;
                let session = self.clients[index].session;
                session
                    .into_iter()
                    .for_each(|session| self.recorder.fired(session, event, &path));
                self.clients[index].heard_event(&self.checkers, zxid, event, &path);
            }
            ToClient::Reply(xid, zxid, answer) => self.replied(index, xid, zxid, answer),
        }
    }

    fn connected_client(&mut self, index: usize, response: ConnectResponse) {
        let client = &mut self.clients[index];
        if response.timeout_ms == 0 {
            self.counts.expired += 1;
            self.ended.extend(client.session);
            if let Some(session) = client.session {
                self.recorder.expired(session);
            }
            client.lose_session();
            return;
        }
        self.recorder.connected(response.session);
        assert_eq!(response.password, password(response.session)[..]);
        if let Some(session) = client.session {
            assert_eq!(session, response.session);
        } else {
            self.counts.sessions += 1;
        }
        client.session = Some(response.session);
        client.timeout_ms = response.timeout_ms;
        client.is_open = true;
        if client.recounts {
            client.xid = 0;
            self.checkers.recounting.insert(response.session);
        }
        if !client.watches.is_empty() {
            let request = client.set_watches();
            self.request(index, request);
        }
    }

    fn replied(&mut self, index: usize, xid: i32, zxid: Zxid, answer: Answer) {
        let client = &mut self.clients[index];
        let session = client.session.unwrap();
        let sent = client.in_flight.pop_front().expect("a request waits");
        assert_eq!(sent.xid, xid, "{session:?} is answered out of order");
        self.recorder.is_answered(sent.op, zxid, &answer);
        assert!(
            zxid >= client.last_zxid,
            "{session:?} goes back from {} to {zxid}",
            client.last_zxid
        );
        client.last_zxid = zxid;
        if let Request::SetWatches(set) = &sent.request {
            client.watches_are_set(&self.checkers, set, zxid);
        }
        client.events_came_first(&self.checkers, zxid);
        if sent.request == (Request::Sync { path: "/a".into() }) {
            assert!(answer == Ok(Response::Path("/a".into())));
            let is_late = zxid < sent.acknowledged;
            assert!(self.mood == Mood::Wild || !is_late, "a sync shows the past");
        } else if sent.request.op().is_write() {
            self.write_is_right(index, &sent, zxid, &answer);
        } else {
            self.counts.reads += 1;
            read_is_right(&self.checkers, &sent.request, &answer, zxid);
            client.register(&sent.request, &answer, zxid);
        }
    }

    /// An acknowledged write is committed, and its answer is the right one.
    fn write_is_right(&mut self, index: usize, sent: &Sent, zxid: Zxid, answer: &Answer) {
        let client = &mut self.clients[index];
        let session = client.session.unwrap();
        let committed = self.checkers.at(zxid).expect("what is answered is done");
        let header = committed.header;
        assert_eq!((header.session, header.cxid), (session, sent.xid));
        if let Some(request) = &committed.request {
            assert_eq!(*request, sent.request, "the answer to another request");
        }
        if let Some(expected) = &committed.answer {
            assert_eq!(answer, expected, "{:?} at {zxid}", sent.request);
        }
        self.acknowledged = self.acknowledged.max(zxid);
        self.counts.writes += 1;
        client.answered += 1;
        if let Ok(Response::Path(path)) = answer {
            client.known.push(path.clone());
        }
        if sent.request == Request::CloseSession || has_ended(answer) {
            if sent.request != Request::CloseSession {
                self.recorder.expired(session);
            }
            self.ended.push(session);
            client.lose_session();
            client.disconnect();
        }
    }

    fn some_reconfig(&mut self) -> Request {
        let id = self.rng.range(1, self.nodes.len() as u64 + 1);
        let role = if self.rng.one_in(2) {
            "participant"
        } else {
            "observer"
        };
        Request::Reconfig {
            joining: Some(format!("server.{id}=s{id}:1:2:{role};c{id}:3")),
            leaving: None,
            new_members: None,
            from_config: -1,
        }
    }
}
