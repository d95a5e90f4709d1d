//! The clients of a server that has lost its leader: they stay connected for a while, and go on with the next leader.
//!
//! What is not answered when the leader is lost is either in the history that the next leader begins with, and is
//! answered when that is applied; or it will never be committed, because the old leader is fenced by the new epoch, and
//! may be sent again. That holds if this server follows the very next epoch, has seen all of the history in between, and
//! the old leader has recorded moves ([`moves`](super::moves)). Otherwise nobody knows, and the connections
//! close.

use std::collections::{BTreeMap, BTreeSet};

use super::work::Work;
use super::{Clock, Member, Output, Service};
use crate::proto::client::ConnectRequest;
use crate::replica::Replica;
use crate::watch::ConnectionId;
use crate::zxid::{Epoch, Time};

/// The longest that a connection waits for a leader, ms. A client gives its server up after two thirds of its time-out, and
/// other servers may serve already; so it is a third of the time-out where that is less.
pub const HOLD_MS: u64 = 2_000;

#[derive(Debug)]
pub(super) struct Hold {
    since: Time,
    /// In which this server served last.
    epoch: Epoch,
    /// When each connection is given up.
    due: BTreeMap<Time, Vec<ConnectionId>>,
    /// Handshakes that came meanwhile.
    arrivals: BTreeMap<ConnectionId, ConnectRequest>,
}

impl Hold {
    pub(super) fn next_deadline(&self) -> Option<Time> {
        self.due.keys().next().copied()
    }

    fn until(&self, timeout_ms: i32) -> Time {
        let third = u64::try_from(timeout_ms).unwrap_or(0) / 3;
        self.since.after(third.min(HOLD_MS))
    }

    fn keep(&mut self, connection: ConnectionId, timeout_ms: i32) {
        let until = self.until(timeout_ms);
        self.due.entry(until).or_default().push(connection);
    }

    pub(super) fn closed(&mut self, connection: ConnectionId) {
        self.arrivals.remove(&connection);
    }
}

impl Member {
    /// The leader is lost.
    pub(super) fn stop_serving(&mut self, now: Time, out: &mut Output) {
        let served = std::mem::replace(&mut self.service, Service::Stopped);
        if !matches!(served, Service::Learner { .. } | Service::Leader(_)) {
            // It had not begun.
            return;
        }
        self.asked.clear();
        // Who waits for its disk will not serve soon.
        if self.records_moves && !self.peer.is_held_up() {
            out.work(Work::Hold);
        } else {
            self.clients.clear();
            self.by_session.clear();
            self.moving.clear();
            self.pipeline = Default::default();
            out.work(Work::CloseAll);
        }
        let mut hold = Hold {
            since: now,
            epoch: self.served_epoch,
            due: BTreeMap::new(),
            arrivals: BTreeMap::new(),
        };
        for (connection, client) in &self.clients {
            hold.keep(*connection, client.timeout_ms);
        }
        self.hold = Some(hold);
    }

    /// A handshake while there is no leader: it waits as long as the others do, if this server had one just now.
    pub(super) fn arrive(
        &mut self,
        now: Time,
        connection: ConnectionId,
        request: ConnectRequest,
        out: &mut Output,
    ) {
        let timeout_ms = self.settings.granted_ms(request.timeout_ms);
        if let Some(hold) = &mut self.hold
            && now < hold.until(timeout_ms)
        {
            hold.keep(connection, timeout_ms);
            hold.arrivals.insert(connection, request);
        } else {
            out.work(Work::Close(connection));
        }
    }

    /// Closes the connections that have waited long enough.
    pub(super) fn let_go(&mut self, now: Time, out: &mut Output) {
        while let Some(hold) = &mut self.hold
            && let Some(due) = hold.due.first_entry().filter(|due| *due.key() <= now)
        {
            let connections = due.remove();
            let here =
                |id: &ConnectionId| hold.arrivals.contains_key(id) || self.clients.contains_key(id);
            let late: Vec<_> = connections.into_iter().filter(here).collect();
            for connection in late {
                self.close(connection, out);
            }
        }
    }

    /// What this server knew is replaced by what another tells: what its clients saw and asked for cannot be told any more.
    pub(super) fn lose_knowledge(&mut self, out: &mut Output) {
        let moving: BTreeSet<ConnectionId> = self.moving.values().copied().collect();
        let open = self.clients.keys().filter(|id| !moving.contains(id));
        for connection in open.copied().collect::<Vec<_>>() {
            self.close(connection, out);
        }
    }

    /// There is a leader again, and all of its history is applied: everybody goes on.
    pub(super) fn resume(&mut self, clock: Clock, replica: &Replica, out: &mut Output) {
        let Some(hold) = self.hold.take() else {
            return;
        };
        let is_next = self.peer.current_epoch() == hold.epoch.next();
        if !is_next && !mutant!(ResentAcrossEpochs) {
            self.lose_knowledge(out);
        }
        let sessions = replica.sessions();
        let gone = self
            .by_session
            .iter()
            .filter(|(s, _)| !sessions.contains_key(s));
        for connection in gone.map(|(_, id)| *id).collect::<Vec<_>>() {
            self.close(connection, out);
        }
        let unanswered = self.pipeline.take_all();
        for connection in self.moving.values().copied().collect::<Vec<_>>() {
            self.ask_for_session(clock, connection, replica, out);
        }
        // Who comes back has left its old connection, and what that still waits for.
        for (connection, request) in hold.arrivals {
            self.connect(clock, connection, request, replica, out);
        }
        for write in unanswered {
            if self.clients.contains_key(&write.connection) {
                self.submit(clock, write, replica, out);
            }
        }
    }

    fn close(&mut self, connection: ConnectionId, out: &mut Output) {
        self.closed(connection);
        out.work(Work::Close(connection));
    }
}
