//! The client port: one task for each connection.
//!
//! A task decodes what has arrived, answers reads itself from the shared replica, many under one lock, and hands writes
//! to the driver. It puts its answers into the connection's outbox while it still holds the replica's lock, where the
//! driver puts watch events and the answers to writes; so the outbox has everything in the order of the history.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use node_core::acl;
use node_core::jute::Reader;
use node_core::member::ClientWrite;
use node_core::proto::client::{
    ConnectRequest, OpCode, PING_XID, ReplyHeader, Request, RequestHeader, Response, write_event,
    write_reply,
};
use node_core::proto::code::ErrorCode;
use node_core::proto::data::Id;
use node_core::read::{self, Caller};
use node_core::watch::{ConnectionId, WatchTable};
use node_core::zxid::{SessionId, Zxid};
use tokio::net::{TcpListener, TcpStream};

use super::Report;
use super::outbox::{Connection, Outbox, Unsent};
use crate::driver::Message;
use crate::four_letter;
use crate::limits;
use crate::shared::Shared;

/// Requests that are answered under one lock of the replica.
const BATCH: usize = 128;

/// Accepts clients.
pub async fn listen(
    listener: TcpListener,
    shared: Arc<Shared>,
    report: Report,
    numbers: Arc<Numbers>,
) {
    loop {
        let Some((stream, peer)) = super::accept(&listener).await else {
            continue;
        };
        if !shared.metrics.admit(peer.ip(), &shared.config) {
            tracing::warn!(%peer, "too many connections: closed");
            shared.metrics.connection_rejected();
            continue;
        }
        let connection = Arc::new(Connection::new(numbers.next(), peer));
        let (shared, report) = (shared.clone(), report.clone());
        tokio::spawn(async move {
            let id = connection.id;
            let mut task = Task {
                connection,
                shared,
                report,
                stream,
                input: BytesMut::new(),
                state: State::New,
            };
            task.run().await;
            task.shared.metrics.release(peer.ip());
            task.shared.connections.lock().remove(&id);
            task.shared.watches.lock().remove_connection(id);
            task.report.send(Message::Closed(id));
        });
    }
}

/// Numbers for connections.
#[derive(Debug, Default)]
pub struct Numbers(std::sync::atomic::AtomicU64);

impl Numbers {
    fn next(&self) -> ConnectionId {
        ConnectionId(self.0.fetch_add(1, Ordering::Relaxed) + 1)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Nothing has come yet.
    New,
    /// The handshake waits for its answer.
    Connecting,
    /// It has a session.
    Open,
    /// Nothing more is read.
    Ended,
}

struct Task {
    connection: Arc<Connection>,
    shared: Arc<Shared>,
    report: Report,
    stream: TcpStream,
    input: BytesMut,
    state: State,
}

/// Why reading stops for now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pause {
    /// More bytes are needed.
    Input,
    /// The driver has to answer, or the server to have a leader, before the next request is looked at.
    Outbox,
    /// What is there has to be sent first: who does not read gets no more answers.
    Sending,
    /// The server has to hear its leader, or its followers.
    Freshness,
}

impl Task {
    async fn run(&mut self) {
        // Without it small answers would wait for the client's acknowledgements. A socket that refuses is closed soon.
        let _ = self.stream.set_nodelay(true);
        let mut unsent = Unsent::default();
        // For the handshake, and later for the last words.
        let patience = tokio::time::sleep(Duration::from_millis(limits::SESSIONLESS_MS));
        tokio::pin!(patience);
        let mut parting = false;
        let shared = self.shared.clone();
        loop {
            let renewed = shared.freshness.renewed();
            let pause = match self.state {
                State::Ended => Pause::Outbox,
                _ if !unsent.is_empty() => Pause::Sending,
                _ => self.process(),
            };
            unsent.take(&mut self.connection.outbox.lock());
            if !self.send(&mut unsent) {
                return;
            }
            let closing = {
                let mut outbox = self.connection.outbox.lock();
                if unsent.is_empty() {
                    unsent.give_back(&mut outbox);
                    if !outbox.bytes.is_empty() || pause == Pause::Sending {
                        continue;
                    }
                    if outbox.closing {
                        return;
                    }
                }
                outbox.closing
            };
            if closing && !parting {
                parting = true;
                let until =
                    tokio::time::Instant::now() + Duration::from_millis(limits::FAREWELL_MS);
                patience.as_mut().reset(until);
            }
            tokio::select! {
                () = self.connection.changed.notified() => {}
                () = renewed, if pause == Pause::Freshness => {}
                _ = self.stream.writable(), if !unsent.is_empty() => {}
                ready = self.stream.readable(), if self.listens(pause, &unsent) => {
                    if ready.is_err() || !self.receive() {
                        return;
                    }
                }
                () = &mut patience, if self.state == State::New || parting => return,
            }
        }
    }

    /// Whether the socket is read. A slow reader still says that it is there, so it is listened to, within bounds.
    fn listens(&self, pause: Pause, unsent: &Unsent) -> bool {
        let is_slow = !unsent.is_empty() && self.state != State::Ended;
        pause == Pause::Input || is_slow && self.input.len() < limits::SOCKET_READ_BYTES
    }

    /// Writes as much as the socket takes. False if the connection is broken.
    fn send(&self, unsent: &mut Unsent) -> bool {
        while !unsent.is_empty() {
            match self.stream.try_write(unsent.rest()) {
                Ok(n) => unsent.advance(n),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return true,
                Err(_) => return false,
            }
        }
        true
    }

    /// Reads what has arrived. False if the client has closed.
    fn receive(&mut self) -> bool {
        self.input.reserve(limits::SOCKET_READ_BYTES);
        match self.stream.try_read_buf(&mut self.input) {
            Ok(0) => false,
            Ok(n) => {
                self.shared.metrics.bytes_received(n);
                self.connection.touch();
                true
            }
            Err(error) => error.kind() == std::io::ErrorKind::WouldBlock,
        }
    }

    /// Works off the requests that have arrived.
    fn process(&mut self) -> Pause {
        match self.state {
            State::New => self.handshake(),
            State::Connecting if self.connection.session.load(Ordering::Acquire) == 0 => {
                Pause::Outbox
            }
            State::Connecting => {
                self.state = State::Open;
                self.requests()
            }
            State::Open => self.requests(),
            State::Ended => Pause::Outbox,
        }
    }

    fn end(&mut self) -> Pause {
        self.state = State::Ended;
        self.connection.close();
        Pause::Outbox
    }

    fn handshake(&mut self) -> Pause {
        let Some(word) = self.input.first_chunk::<4>().copied() else {
            return Pause::Input;
        };
        if let Some(command) = four_letter::Command::parse(word) {
            let text = four_letter::answer(command, &self.shared);
            self.connection
                .push(0, |out| out.extend_from_slice(text.as_bytes()));
            return self.end();
        }
        let len = u32::from_be_bytes(word) as usize;
        if len > limits::CONNECT_REQUEST_BYTES {
            return self.end();
        }
        if self.input.len() < 4 + len {
            return Pause::Input;
        }
        self.input.advance(4);
        let frame = self.input.split_to(len).freeze();
        match ConnectRequest::decode(frame) {
            Ok(request) => {
                self.connection.received.fetch_add(1, Ordering::Relaxed);
                self.shared
                    .connections
                    .lock()
                    .insert(self.connection.id, self.connection.clone());
                self.report
                    .send(Message::Connect(self.connection.clone(), request));
                self.state = State::Connecting;
                Pause::Outbox
            }
            Err(error) => {
                tracing::debug!(peer = %self.connection.peer, %error, "a handshake cannot be decoded: closed");
                self.end()
            }
        }
    }

    /// Takes the next whole frame. `Err` if its length cannot be.
    fn frame(&mut self) -> Result<Option<Bytes>, ()> {
        let Some(len) = self
            .input
            .first_chunk::<4>()
            .copied()
            .map(u32::from_be_bytes)
        else {
            return Ok(None);
        };
        let len = len as usize;
        if len > self.shared.config.sessions.frame_max_bytes {
            return Err(());
        }
        if self.input.len() < 4 + len {
            return Ok(None);
        }
        self.input.advance(4);
        Ok(Some(self.input.split_to(len).freeze()))
    }

    /// Answers reads and collects writes until something has to be waited for.
    fn requests(&mut self) -> Pause {
        loop {
            if self.shared.is_serving() && !self.shared.freshness.is_fresh() {
                return Pause::Freshness;
            }
            let mut writes = Vec::new();
            let outcome = self.batch(&mut writes);
            if !writes.is_empty() {
                self.report.send(Message::Writes(writes));
            }
            match outcome {
                Ok(Some(pause)) => return pause,
                Ok(None) => {}
                Err(()) => return self.end(),
            }
        }
    }

    /// Up to [`BATCH`] requests under one lock. `Ok(None)` if there may be more.
    fn batch(&mut self, writes: &mut Vec<ClientWrite>) -> Result<Option<Pause>, ()> {
        let connection = self.connection.clone();
        let shared = self.shared.clone();
        let ids = connection.ids.lock().clone();
        let replica = shared.replica.read();
        // While there is no leader the client hears that its server lives, and nothing else. The driver says so under the
        // replica's lock.
        let serving = shared.is_serving();
        let mut outbox = connection.outbox.lock();
        for _ in 0..BATCH {
            if outbox.closing || outbox.in_flight >= limits::CONNECTION_OUTSTANDING {
                return Ok(Some(Pause::Outbox));
            }
            if outbox.bytes.len() >= limits::OUTBOX_PAUSE_BYTES {
                return Ok(Some(Pause::Sending));
            }
            let Some(op) = self.next_op()? else {
                return Ok(Some(Pause::Input));
            };
            let waits = if serving {
                outbox.in_flight > 0 && !op.is_some_and(OpCode::is_write)
            } else {
                op != Some(OpCode::Ping)
            };
            if waits {
                return Ok(Some(Pause::Outbox));
            }
            let goes_to_leader = op.is_some_and(|op| op.is_write() && op.is_client_request());
            if goes_to_leader && !shared.admit_write(self.body_len(), outbox.in_flight == 0) {
                return Ok(Some(Pause::Outbox));
            }
            let Some(frame) = self.frame()? else {
                return Ok(Some(Pause::Input));
            };
            connection.received.fetch_add(1, Ordering::Relaxed);
            shared.metrics.received(1);
            let mut request = OneRequest {
                task: self,
                shared: &shared,
                outbox: &mut outbox,
                ids: &ids,
            };
            match op {
                Some(op) if op.is_write() && op.is_client_request() => {
                    request.write(op, frame, writes)?;
                    outbox.in_flight += 1;
                }
                Some(OpCode::Auth) => return request.auth(frame).map(|()| None),
                Some(op) if op.is_client_request() => request.read(op, frame, &replica)?,
                _ => {
                    request.unimplemented(frame);
                    return Err(());
                }
            }
        }
        Ok(None)
    }

    /// The operation of the next whole frame, which stays where it is. `Some(None)` for a number that is none.
    fn next_op(&self) -> Result<Option<Option<OpCode>>, ()> {
        let Some(head) = self.input.first_chunk::<12>() else {
            return self.short();
        };
        let len = u32::from_be_bytes([head[0], head[1], head[2], head[3]]) as usize;
        if len > self.shared.config.sessions.frame_max_bytes || len < 8 {
            return Err(());
        }
        if self.input.len() < 4 + len {
            return Ok(None);
        }
        Ok(Some(OpCode::from_number(i32::from_be_bytes([
            head[8], head[9], head[10], head[11],
        ]))))
    }

    /// Bytes of the next whole frame without its header.
    fn body_len(&self) -> usize {
        let len = self
            .input
            .first_chunk::<4>()
            .copied()
            .map_or(0, u32::from_be_bytes);
        (len as usize).saturating_sub(8)
    }

    fn short(&self) -> Result<Option<Option<OpCode>>, ()> {
        match self
            .input
            .first_chunk::<4>()
            .copied()
            .map(u32::from_be_bytes)
        {
            Some(len)
                if !(8..=self.shared.config.sessions.frame_max_bytes).contains(&(len as usize)) =>
            {
                Err(())
            }
            _ => Ok(None),
        }
    }
}

/// One request of a batch.
struct OneRequest<'a> {
    task: &'a Task,
    shared: &'a Shared,
    outbox: &'a mut Outbox,
    ids: &'a [Id],
}

impl OneRequest<'_> {
    fn session(&self) -> SessionId {
        SessionId(self.task.connection.session.load(Ordering::Relaxed))
    }

    fn write(&mut self, op: OpCode, frame: Bytes, writes: &mut Vec<ClientWrite>) -> Result<(), ()> {
        let mut input = Reader::new(frame);
        let header: RequestHeader = input.read().map_err(drop)?;
        writes.push(ClientWrite {
            connection: self.task.connection.id,
            session: self.session(),
            xid: header.xid,
            op,
            body: input.rest(),
            ids: self.ids.to_vec(),
        });
        Ok(())
    }

    fn reply(&mut self, header: ReplyHeader, body: Option<&Response>) {
        write_reply(header, body, &mut self.outbox.bytes);
        self.count_sent();
    }

    fn count_sent(&self) {
        self.task.connection.sent.fetch_add(1, Ordering::Relaxed);
        self.shared.metrics.sent(1);
    }

    fn read(
        &mut self,
        op: OpCode,
        frame: Bytes,
        replica: &node_core::replica::Replica,
    ) -> Result<(), ()> {
        self.shared.metrics.reads(1);
        if read::read_plainly(replica, self.ids, &frame, &mut self.outbox.bytes) {
            self.count_sent();
            return Ok(());
        }
        let mut input = Reader::new(frame);
        let header: RequestHeader = input.read().map_err(drop)?;
        let zxid = replica.last_zxid();
        if op == OpCode::Ping {
            self.reply(
                ReplyHeader {
                    xid: PING_XID,
                    zxid,
                    err: 0,
                },
                None,
            );
            return Ok(());
        }
        let Ok(request) = Request::read(op, &mut input) else {
            self.reply(
                ReplyHeader {
                    xid: header.xid,
                    zxid,
                    err: ErrorCode::MARSHALLING_ERROR.0,
                },
                None,
            );
            return Ok(());
        };
        if let Request::Sasl { .. } = request {
            // No SASL is configured here: as Apache does, say yes with no token.
            self.reply(
                ReplyHeader {
                    xid: header.xid,
                    zxid: Zxid(0),
                    err: 0,
                },
                Some(&Response::Token(None)),
            );
            return Ok(());
        }
        let caller = Caller {
            connection: self.task.connection.id,
            session: self.session(),
            ids: self.ids,
        };
        let mut missed = Vec::new();
        let result = if read::needs_watches(&request) {
            let mut watches = self.shared.watches.lock();
            read::read(replica, &mut watches, &caller, &request, &mut missed)
        } else {
            read::read(
                replica,
                &mut WatchTable::new(),
                &caller,
                &request,
                &mut missed,
            )
        };
        for (event, path) in missed {
            write_event(Zxid(-1), event, &path, &mut self.outbox.bytes);
        }
        match result {
            Ok(response) => self.reply(
                ReplyHeader {
                    xid: header.xid,
                    zxid,
                    err: 0,
                },
                Some(&response),
            ),
            Err(code) => self.reply(
                ReplyHeader {
                    xid: header.xid,
                    zxid,
                    err: code.0,
                },
                None,
            ),
        }
        Ok(())
    }

    /// Answers an auth packet. What it proves counts for the frames after it.
    fn auth(&mut self, frame: Bytes) -> Result<(), ()> {
        let mut input = Reader::new(frame);
        let header: RequestHeader = input.read().map_err(drop)?;
        let digest = self.shared.config.access.super_digest.as_deref();
        let proved = match Request::read(OpCode::Auth, &mut input) {
            Ok(Request::Auth { scheme, auth }) => acl::authenticate(&scheme, &auth, digest),
            _ => Err(ErrorCode::AUTH_FAILED),
        };
        let err = proved.as_ref().err().map_or(0, |code| code.0);
        self.reply(
            ReplyHeader {
                xid: header.xid,
                zxid: Zxid(0),
                err,
            },
            None,
        );
        let mut ids = self.task.connection.ids.lock();
        for id in proved.map_err(drop)? {
            if !ids.contains(&id) {
                ids.push(id);
            }
        }
        Ok(())
    }

    /// Answers an operation that there is not; then the connection closes.
    fn unimplemented(&mut self, frame: Bytes) {
        if let Ok(header) = Reader::new(frame).read::<RequestHeader>() {
            let header = ReplyHeader {
                xid: header.xid,
                zxid: Zxid(-1),
                err: ErrorCode::UNIMPLEMENTED.0,
            };
            self.reply(header, None);
        }
    }
}
