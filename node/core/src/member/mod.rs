//! One server of an ensemble: a [`Peer`] that agrees with the others on an order of transactions, the leader's checks,
//! the sessions, and the clients that wait for answers.
//!
//! The replica itself is not in here: it is shared with those who read. [`Member::step`] may look at it; what is to
//! change it comes out as [`Work`], which the caller performs in order, many at a time ([`work`]).

mod connect;
mod hold;
mod leading;
mod moves;
mod pipeline;
pub mod work;

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

use crate::effect::{Effect, Forward, Input};
use crate::peer::Peer;
use crate::prep::{PrepSettings, WriteRequest};
use crate::proto::client::{ConnectRequest, OpCode, Request, Response};
use crate::proto::code::ErrorCode;
use crate::proto::data::{Id, SessionTimeout};
use crate::proto::election::PeerState;
use crate::proto::quorum::{ForwardedRequest, Proposal};
use crate::proto::txn::{TxnEntry, TxnHeader};
use crate::replica::Replica;
use crate::session::{Owner, SessionIds};
use crate::watch::ConnectionId;
use crate::zxid::{Epoch, SessionId, Time, Zxid};
pub use hold::HOLD_MS;
use hold::Hold;
use leading::Leading;
use pipeline::{Pending, Pipeline};
use work::Work;

/// What the configuration says to a member.
#[derive(Clone, Debug)]
pub struct MemberSettings {
    /// The leader's checks.
    pub prep: PrepSettings,
    /// `tickTime`: sessions expire at multiples of it.
    pub tick_ms: u64,
    /// `minSessionTimeout`, ms.
    pub min_session_timeout_ms: i32,
    /// `maxSessionTimeout`, ms.
    pub max_session_timeout_ms: i32,
    /// `znode.container.checkIntervalMs`.
    pub container_interval_ms: u64,
    /// `znode.container.maxNeverUsedIntervalMs`; 0 is never.
    pub container_never_used_ms: i64,
    /// `reconfigEnabled`.
    pub reconfig_enabled: bool,
    /// The fewest voters that a reconfiguration may leave: 1 where `standaloneEnabled` is false, else 2.
    pub min_voters: usize,
}

impl MemberSettings {
    /// The time-out that a client gets for the one that it asks for, ms.
    fn granted_ms(&self, asked_ms: i32) -> i32 {
        asked_ms.clamp(self.min_session_timeout_ms, self.max_session_timeout_ms)
    }
}

/// Everything that can happen to a member.
#[derive(Clone, Debug)]
pub enum Event {
    /// What concerns the peer.
    Peer(Input),
    /// A client has sent its first frame.
    Connect(ConnectionId, ConnectRequest),
    /// A client wants something that needs the leader (a write, `sync`, the end of its session).
    Write(ClientWrite),
    /// A client's connection has ended.
    Closed(ConnectionId),
    /// Sessions whose clients were heard.
    Touched(Vec<SessionTimeout>),
    /// All work that came out so far has been performed.
    Settled,
}

/// A client's request for the leader.
#[derive(Clone, Debug)]
pub struct ClientWrite {
    /// Where it came from.
    pub connection: ConnectionId,
    /// Its session.
    pub session: SessionId,
    /// The client's number for it.
    pub xid: i32,
    /// What it wants.
    pub op: OpCode,
    /// The rest of the frame.
    pub body: Bytes,
    /// Who the connection has proved to be.
    pub ids: Vec<Id>,
}

/// When something happens.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    /// The clock that never goes back.
    pub now: Time,
    /// Wall clock, ms since 1970: only shown in stats.
    pub wall_ms: i64,
}

/// One thing that a step asks for.
#[derive(Debug)]
pub enum Action {
    /// For network and disk.
    Effect(Effect),
    /// For the replica and the clients. It may be put off to be performed together with what comes later, but not beyond
    /// an effect that looks at the replica or replaces it ([`Effect::needs_settled_replica`]).
    Work(Work),
}

/// What a step asks for, in order.
#[derive(Debug, Default)]
pub struct Output {
    /// To be executed in this order.
    pub actions: Vec<Action>,
    /// Then perform all work and say [`Event::Settled`].
    pub settle: bool,
}

impl Output {
    fn effect(&mut self, effect: Effect) {
        self.actions.push(Action::Effect(effect));
    }

    fn work(&mut self, work: Work) {
        self.actions.push(Action::Work(work));
    }
}

/// Whether clients are served.
#[derive(Debug)]
enum Service {
    /// There is no leader, or this server is not in step with it.
    Stopped,
    /// The replica is catching up with what was committed before.
    Settling {
        /// Of the leader.
        records_moves: bool,
    },
    /// Through a leader.
    Learner {
        /// Syncs on their way, oldest first.
        syncs: VecDeque<(SessionId, i32)>,
    },
    /// As the leader.
    Leader(Box<Leading>),
}

#[derive(Clone, Copy, Debug)]
struct Client {
    session: SessionId,
    timeout_ms: i32,
    /// As its handshake had it: the answer repeats it.
    has_read_only: bool,
}

/// See the module.
pub struct Member {
    settings: MemberSettings,
    peer: Peer,
    service: Service,
    ids: SessionIds,
    clients: BTreeMap<ConnectionId, Client>,
    /// The connections that are open.
    by_session: BTreeMap<SessionId, ConnectionId>,
    /// Clients that brought their session here, until the leader has confirmed it.
    moving: BTreeMap<SessionId, ConnectionId>,
    /// How often the leader was asked for each of them and has not answered. An answer names the session alone; it is
    /// the newest connection's if no other is to come.
    asked: BTreeMap<SessionId, usize>,
    /// Sessions that were active since the leader last asked.
    touched: BTreeMap<SessionId, i32>,
    pipeline: Pipeline,
    /// While there is no leader: what becomes of the clients.
    hold: Option<Hold>,
    /// The epoch in which clients were served last.
    served_epoch: Epoch,
    /// Whether its leader wrote into the history when a client moved.
    records_moves: bool,
    /// The last transaction that went out as work.
    committed: Zxid,
}

impl Member {
    /// A member whose replica is at `applied`.
    #[must_use]
    pub fn new(settings: MemberSettings, peer: Peer, ids: SessionIds, applied: Zxid) -> Self {
        Self {
            settings,
            peer,
            service: Service::Stopped,
            ids,
            clients: BTreeMap::new(),
            by_session: BTreeMap::new(),
            moving: BTreeMap::new(),
            asked: BTreeMap::new(),
            touched: BTreeMap::new(),
            pipeline: Pipeline::default(),
            hold: None,
            served_epoch: Epoch(0),
            records_moves: false,
            committed: applied,
        }
    }

    /// The consensus half.
    #[must_use]
    pub fn peer(&self) -> &Peer {
        &self.peer
    }

    /// Whether clients are served.
    #[must_use]
    pub fn is_serving(&self) -> bool {
        matches!(self.service, Service::Learner { .. } | Service::Leader(_))
    }

    /// Requests that wait for their commit.
    #[must_use]
    pub fn outstanding(&self) -> usize {
        self.pipeline.len()
    }

    /// When the next [`Input::Tick`] is due.
    #[must_use]
    pub fn next_deadline(&self) -> Time {
        let own = match &self.service {
            Service::Leader(leading) => Some(leading.next_deadline()),
            _ => self.hold.as_ref().and_then(Hold::next_deadline),
        };
        own.into_iter().fold(self.peer.next_deadline(), Time::min)
    }

    /// Advances the member by one event. Never blocks and never fails.
    pub fn step(&mut self, clock: Clock, event: Event, replica: &Replica, out: &mut Output) {
        match event {
            Event::Peer(input) => {
                let is_tick = matches!(input, Input::Tick);
                self.input(clock, input, replica, out);
                if is_tick {
                    self.leader_tick(clock, replica, out);
                    self.let_go(clock.now, out);
                }
            }
            Event::Connect(connection, request) => {
                self.connect(clock, connection, request, replica, out)
            }
            Event::Write(write) => self.write(clock, write, replica, out),
            Event::Closed(connection) => self.closed(connection),
            Event::Touched(sessions) => self.touched(clock.now, &sessions),
            Event::Settled => self.settled(clock, replica, out),
        }
    }

    /// Lets the peer step, and works off what it says to this half until nothing is left.
    fn input(&mut self, clock: Clock, input: Input, replica: &Replica, out: &mut Output) {
        let mut inputs = VecDeque::from([input]);
        while let Some(input) = inputs.pop_front() {
            let mut effects = Vec::new();
            self.peer.step(clock.now, input, &mut effects);
            for effect in effects {
                self.effect(clock, effect, replica, &mut inputs, out);
            }
        }
    }

    fn effect(
        &mut self,
        clock: Clock,
        effect: Effect,
        replica: &Replica,
        inputs: &mut VecDeque<Input>,
        out: &mut Output,
    ) {
        match effect {
            Effect::Commit(proposal) => self.commit(proposal, inputs, out),
            Effect::Serve { records_moves } => {
                self.service = Service::Settling { records_moves };
                out.settle = true;
            }
            Effect::StopServing => self.stop_serving(clock.now, out),
            Effect::Revalidated { session, valid } => self.revalidated(session, valid, out),
            Effect::SyncReply => self.sync_reply(out),
            Effect::AskTouched { link, zxid } => {
                let sessions = self.take_touched();
                inputs.push_back(Input::Touched {
                    link,
                    zxid,
                    sessions,
                });
            }
            Effect::LearnerRequest { link, request } => {
                self.learner_request(clock, link, request, replica, inputs, out);
            }
            Effect::LearnerRevalidate { link, session } => {
                self.learner_revalidate(clock, link, session, inputs, out)
            }
            Effect::LearnerTouched { .. } if mutant!(UntouchedSessions) => {}
            Effect::LearnerTouched { link: _, sessions } => self.touched(clock.now, &sessions),
            Effect::SaveConfig(config) => {
                let (text, version) = (config.to_string(), config.version);
                out.work(Work::SetConfig {
                    text,
                    version,
                    time: clock.wall_ms,
                });
                out.effect(Effect::SaveConfig(config));
            }
            Effect::InstallSnapshot { link, zxid } => {
                self.lose_knowledge(out);
                self.committed = zxid;
                out.effect(Effect::InstallSnapshot { link, zxid });
            }
            Effect::Truncate(zxid) => {
                if zxid < self.committed {
                    self.lose_knowledge(out);
                }
                self.committed = self.committed.min(zxid);
                out.effect(Effect::Truncate(zxid));
            }
            other => out.effect(other),
        }
    }

    fn commit(&mut self, proposal: Proposal, inputs: &mut VecDeque<Input>, out: &mut Output) {
        let entry = match TxnEntry::decode(proposal.data) {
            Ok(entry) => entry,
            Err(error) => {
                let line = format!(
                    "the committed transaction {} cannot be decoded: {error}",
                    proposal.zxid
                );
                out.effect(Effect::Halt(line));
                return;
            }
        };
        self.committed = entry.header.zxid;
        let TxnHeader {
            session, cxid, op, ..
        } = entry.header;
        let (syncs, waiting) = match mutant!(ResentThoughCommitted) && !self.is_serving() {
            true => (vec![], None),
            false => self.pipeline.committed(session, cxid, op),
        };
        syncs.into_iter().for_each(|sync| answer_sync(sync, out));
        let moves = moves::is_record(&entry) && !mutant!(StaysThoughMoved);
        let ends = op == OpCode::CloseSession as i32 || moves;
        let closing = self.by_session.get(&session).copied().filter(|_| ends);
        let connected = waiting.as_ref().and_then(|pending| self.establish(pending));
        if let Service::Leader(leading) = &mut self.service {
            leading.committed(&entry.header);
        }
        if let Some(connection) = closing {
            self.closed(connection);
        }
        out.work(Work::Apply {
            entry,
            waiting: waiting.and_then(|pending| pending.waiter()),
            connected,
            closing,
        });
        self.release_syncs(session, out);
        self.answer_waiting(inputs, out);
    }

    fn settled(&mut self, clock: Clock, replica: &Replica, out: &mut Output) {
        let Service::Settling { records_moves } = self.service else {
            return;
        };
        self.records_moves = records_moves;
        self.served_epoch = self.peer.current_epoch();
        let config = self.peer.config();
        out.work(Work::SetConfig {
            text: config.to_string(),
            version: config.version,
            time: clock.wall_ms,
        });
        if self.peer.state() == PeerState::Leading {
            self.start_leading(clock, replica, out);
        } else {
            self.service = Service::Learner {
                syncs: VecDeque::new(),
            };
        }
        out.work(Work::Serve);
        self.resume(clock, replica, out);
    }

    fn write(&mut self, clock: Clock, write: ClientWrite, replica: &Replica, out: &mut Output) {
        let known = self
            .clients
            .get(&write.connection)
            .is_some_and(|client| client.session == write.session);
        if !known || !(self.is_serving() || self.hold.is_some()) {
            out.work(Work::Close(write.connection));
            return;
        }
        self.submit(clock, write, replica, out);
    }

    fn submit(&mut self, clock: Clock, write: ClientWrite, replica: &Replica, out: &mut Output) {
        let ClientWrite {
            connection,
            session,
            xid,
            op,
            body,
            ids,
        } = write;
        self.pipeline.push(
            session,
            Pending {
                connection: Some(connection),
                xid,
                op,
                body: body.clone(),
                ids: ids.clone(),
                answered: false,
            },
        );
        if !self.is_serving() {
            // It goes to the next leader.
            return;
        }
        if matches!(self.service, Service::Leader(_)) {
            if op == OpCode::Sync {
                // The leader has applied everything that it has committed.
                self.pipeline.answer(session, xid);
                self.release_syncs(session, out);
                return;
            }
            let request = WriteRequest {
                session,
                cxid: xid,
                op,
                body,
                ids,
                owner: Some(Owner::Local),
            };
            let input = self.prepare(clock, &request, replica);
            return self.input_if(clock, input, replica, out);
        }
        if let (Service::Learner { syncs, .. }, OpCode::Sync) = (&mut self.service, op) {
            syncs.push_back((session, xid));
        }
        let request = ForwardedRequest {
            session,
            xid,
            op: op as i32,
            body,
            auth: Some(ids),
        };
        self.input(
            clock,
            Input::Forward(Forward::Request(request)),
            replica,
            out,
        );
    }

    fn input_if(
        &mut self,
        clock: Clock,
        input: Option<Input>,
        replica: &Replica,
        out: &mut Output,
    ) {
        if let Some(input) = input {
            self.input(clock, input, replica, out);
        }
    }

    fn sync_reply(&mut self, out: &mut Output) {
        let Service::Learner { syncs, .. } = &mut self.service else {
            return;
        };
        if let Some((session, xid)) = syncs.pop_front() {
            self.pipeline.answer(session, xid);
            self.release_syncs(session, out);
        }
    }

    /// Answers the syncs that are now first in their session's order.
    fn release_syncs(&mut self, session: SessionId, out: &mut Output) {
        while let Some(pending) = self.pipeline.take_answered(session) {
            answer_sync(pending, out);
        }
    }

    fn closed(&mut self, connection: ConnectionId) {
        if let Some(hold) = &mut self.hold {
            hold.closed(connection);
        }
        let Some(client) = self.clients.remove(&connection) else {
            return;
        };
        if self.by_session.get(&client.session) == Some(&connection) {
            self.by_session.remove(&client.session);
        }
        if self.moving.get(&client.session) == Some(&connection) {
            self.moving.remove(&client.session);
        }
        self.pipeline.abandon(client.session, connection);
    }

    fn touched(&mut self, now: Time, sessions: &[SessionTimeout]) {
        if let Service::Leader(leading) = &mut self.service {
            for entry in sessions {
                leading.sessions.touch(now, entry.session, entry.timeout_ms);
            }
        } else {
            let entries = sessions.iter();
            self.touched
                .extend(entries.map(|entry| (entry.session, entry.timeout_ms)));
        }
    }

    fn take_touched(&mut self) -> Vec<SessionTimeout> {
        let entry = |(session, timeout_ms)| SessionTimeout {
            session,
            timeout_ms,
        };
        std::mem::take(&mut self.touched)
            .into_iter()
            .map(entry)
            .collect()
    }
}

/// Answers a sync, if its client is still there.
fn answer_sync(pending: Pending, out: &mut Output) {
    let Some(connection) = pending.connection else {
        return;
    };
    let result = match Request::decode(pending.op, pending.body) {
        Ok(Request::Sync { path }) => Ok(Response::Path(path)),
        _ => Err(ErrorCode::MARSHALLING_ERROR),
    };
    out.work(Work::Reply {
        connection,
        xid: pending.xid,
        result,
    });
}
