//! What only the leader does: it checks requests, proposes transactions, and tracks all sessions.

use std::collections::{BTreeSet, VecDeque};

use bytes::{Bytes, BytesMut};

use super::{Clock, Member, Output, Service, moves};
use crate::effect::{Answer, Input, LinkId};
use crate::jute::Jute;
use crate::prep::{Prep, ReconfigView, Stamp, WriteRequest};
use crate::proto::client::OpCode;
use crate::proto::data::SessionTimeout;
use crate::proto::quorum::{ForwardedRequest, Proposal};
use crate::proto::txn::{TxnEntry, TxnHeader};
use crate::replica::Replica;
use crate::session::{Owner, SessionTracker};
use crate::watch::ConnectionId;
use crate::zxid::{ServerId, SessionId, Time, Zxid};

/// What is answered once everything that was proposed before has been committed.
#[derive(Clone, Copy, Debug)]
enum Waits {
    /// A learner's sync.
    Sync(LinkId),
    /// A client that has moved to a learner. A client may count its requests from 1 again after a reconnect, and it must
    /// not take what comes of its earlier ones for the answer to a new one.
    Moved(LinkId, SessionId),
    /// A client that has moved to this server.
    MovedHere(ConnectionId, SessionId),
}

#[derive(Debug)]
pub(super) struct Leading {
    pub(super) sessions: SessionTracker,
    prep: Prep,
    /// Each until this has been committed.
    waiting: VecDeque<(Zxid, Waits)>,
    containers_due: Time,
}

impl Leading {
    pub(super) fn next_deadline(&self) -> Time {
        self.sessions
            .next_expiry()
            .map_or(self.containers_due, |expiry| {
                expiry.min(self.containers_due)
            })
    }

    pub(super) fn committed(&mut self, header: &TxnHeader) {
        if header.op == OpCode::CloseSession as i32 {
            self.sessions.remove(header.session);
        }
    }
}

impl Member {
    pub(super) fn start_leading(&mut self, clock: Clock, replica: &Replica, out: &mut Output) {
        let sessions = replica
            .sessions()
            .iter()
            .map(|(session, timeout_ms)| (*session, *timeout_ms));
        let leading = Leading {
            sessions: SessionTracker::new(clock.now, self.settings.tick_ms, sessions),
            prep: Prep::new(self.settings.prep),
            waiting: VecDeque::new(),
            containers_due: clock.now.after(self.settings.container_interval_ms),
        };
        self.service = Service::Leader(Box::new(leading));
        // Nodes of sessions that no longer exist, should a server of another make have left some.
        let owners = replica.tree().ephemeral_owners();
        let dead: Vec<SessionId> = owners
            .filter(|owner| !replica.sessions().contains_key(owner))
            .collect();
        for session in dead {
            self.close_session(clock, session, replica, out);
        }
    }

    /// Ends sessions whose time is up, and deletes containers that have served.
    pub(super) fn leader_tick(&mut self, clock: Clock, replica: &Replica, out: &mut Output) {
        let Service::Leader(leading) = &mut self.service else {
            return;
        };
        for session in leading.sessions.expire(clock.now) {
            self.close_session(clock, session, replica, out);
        }
        let Service::Leader(leading) = &mut self.service else {
            return;
        };
        if clock.now < leading.containers_due {
            return;
        }
        leading.containers_due = clock.now.after(self.settings.container_interval_ms);
        let never_used_ms = self.settings.container_never_used_ms;
        for path in replica.tree().expired(clock.wall_ms, never_used_ms) {
            let mut body = BytesMut::new();
            path.write(&mut body);
            let request = internal(SessionId(0), OpCode::DeleteContainer, body.freeze());
            let input = self.prepare(clock, &request, replica);
            self.input_if(clock, input, replica, out);
        }
    }

    fn close_session(
        &mut self,
        clock: Clock,
        session: SessionId,
        replica: &Replica,
        out: &mut Output,
    ) {
        let input = self.prepare(
            clock,
            &internal(session, OpCode::CloseSession, Bytes::new()),
            replica,
        );
        self.input_if(clock, input, replica, out);
    }

    /// Checks a request and gives the proposal for it; `None` where no more can be proposed in this epoch, or no more
    /// is accepted because the leader is about to hand over: the client finds out when its connection closes.
    pub(super) fn prepare(
        &mut self,
        clock: Clock,
        request: &WriteRequest,
        replica: &Replica,
    ) -> Option<Input> {
        let zxid = self.peer.next_zxid()?;
        // Only a reconfiguration asks who is in sync.
        let synced = match request.op {
            OpCode::Reconfig => self.synced(),
            _ => BTreeSet::new(),
        };
        let Service::Leader(leading) = &mut self.service else {
            return None;
        };
        let reconfig = ReconfigView {
            enabled: self.settings.reconfig_enabled,
            current: self.peer.config(),
            in_progress: self.peer.last_seen_config().version != self.peer.config().version,
            synced: &synced,
            min_voters: self.settings.min_voters,
        };
        let stamp = Stamp {
            zxid,
            time: clock.wall_ms,
            now: clock.now,
        };
        let txn = leading
            .prep
            .prepare(stamp, request, replica, &mut leading.sessions, &reconfig);
        let entry = TxnEntry::new(request.session, request.cxid, zxid, clock.wall_ms, txn);
        let data = entry.encode();
        Some(Input::Propose(Proposal { zxid, data }))
    }

    /// The servers that could carry a new configuration. A voter that takes part like an observer has forgotten something
    /// and does not vote: whoever counts on it may wait for ever.
    fn synced(&self) -> BTreeSet<ServerId> {
        let voters = self.peer.config();
        let votes = |(id, observer): &(ServerId, bool)| !(*observer && voters.is_voter(*id));
        let learners = self.peer.active_learners().filter(votes);
        learners
            .map(|(id, _)| id)
            .chain([self.peer.my_id()])
            .collect()
    }

    pub(super) fn learner_request(
        &mut self,
        clock: Clock,
        link: LinkId,
        request: ForwardedRequest,
        replica: &Replica,
        inputs: &mut VecDeque<Input>,
        out: &mut Output,
    ) {
        if !matches!(self.service, Service::Leader(_)) {
            return;
        }
        let Some(op) = OpCode::from_number(request.op) else {
            return;
        };
        if op == OpCode::Sync {
            return self.answer_later(Waits::Sync(link), inputs, out);
        }
        let request = WriteRequest {
            session: request.session,
            cxid: request.xid,
            op,
            body: request.body,
            ids: request.auth.unwrap_or_default(),
            owner: Some(Owner::Learner(link)),
        };
        let proposal = self.prepare(clock, &request, replica);
        inputs.extend(proposal);
    }

    /// A client has moved to a learner.
    pub(super) fn learner_revalidate(
        &mut self,
        clock: Clock,
        link: LinkId,
        wanted: SessionTimeout,
        inputs: &mut VecDeque<Input>,
        out: &mut Output,
    ) {
        let owner = Owner::Learner(link);
        let record = self.adopt(clock, wanted, owner, Waits::Moved(link, wanted.session));
        inputs.extend(record);
        self.answer_waiting(inputs, out);
    }

    /// A client has moved to this server.
    pub(super) fn moved_here(
        &mut self,
        clock: Clock,
        connection: ConnectionId,
        wanted: SessionTimeout,
        replica: &Replica,
        out: &mut Output,
    ) {
        let waits = Waits::MovedHere(connection, wanted.session);
        let record = self.adopt(clock, wanted, Owner::Local, waits);
        self.input_if(clock, record, replica, out);
        self.answer_waiting(&mut VecDeque::new(), out);
    }

    /// The session belongs to `owner` from now on. That it lives is certain only when nothing before can end it any more,
    /// and that it is dead only when its end is committed: so the answer comes later. Gives the record of the move. A
    /// leader that is about to hand over gives no answer: the next one will be asked.
    fn adopt(
        &mut self,
        clock: Clock,
        wanted: SessionTimeout,
        owner: Owner,
        waits: Waits,
    ) -> Option<Input> {
        let SessionTimeout {
            session,
            timeout_ms,
        } = wanted;
        let last = self.peer.last_logged();
        let next = self.peer.next_zxid();
        let Service::Leader(leading) = &mut self.service else {
            return None;
        };
        let before = leading.sessions.owner(session);
        let tracker = &mut leading.sessions;
        let lives = tracker.revalidate(clock.now, session, timeout_ms, owner);
        if mutant!(NoLastZxidSeen) {
            leading.waiting.push_front((Zxid::ZERO, waits));
            return None;
        }
        if !lives || before == Some(owner) {
            leading.waiting.push_back((last, waits));
            return None;
        }
        let zxid = next?;
        leading.waiting.push_back((zxid, waits));
        let record = moves::record(session, zxid, clock.wall_ms);
        Some(Input::Propose(record))
    }

    fn answer_later(&mut self, waits: Waits, inputs: &mut VecDeque<Input>, out: &mut Output) {
        let last = self.peer.last_logged();
        if let Service::Leader(leading) = &mut self.service {
            leading.waiting.push_back((last, waits));
        }
        self.answer_waiting(inputs, out);
    }

    /// Answers what has waited for what is committed by now.
    pub(super) fn answer_waiting(&mut self, inputs: &mut VecDeque<Input>, out: &mut Output) {
        let committed = self.committed;
        while let Service::Leader(leading) = &mut self.service
            && let Some((_, waits)) = leading.waiting.pop_front_if(|(zxid, _)| *zxid <= committed)
        {
            match waits {
                Waits::Sync(link) => {
                    let answer = Answer::Sync;
                    inputs.push_back(Input::Answer { link, answer });
                }
                Waits::Moved(link, session) => {
                    let valid = leading.sessions.is_alive(session);
                    let answer = Answer::Revalidated { session, valid };
                    inputs.push_back(Input::Answer { link, answer });
                }
                Waits::MovedHere(connection, session) => {
                    let valid = leading.sessions.is_alive(session);
                    self.answer_connect(connection, valid, out);
                }
            }
        }
    }
}

fn internal(session: SessionId, op: OpCode, body: Bytes) -> WriteRequest {
    WriteRequest {
        session,
        cxid: 0,
        op,
        body,
        ids: vec![],
        owner: None,
    }
}
