//! Which of this server's clients wait for which commit, each session's in the order in which it asked.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

use super::ClientWrite;
use super::work::Waiter;
use crate::proto::client::OpCode;
use crate::proto::data::Id;
use crate::watch::ConnectionId;
use crate::zxid::SessionId;

/// A request that waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pending {
    /// Who waits; `None` when the connection has ended meanwhile.
    pub(super) connection: Option<ConnectionId>,
    /// The client's number for it.
    pub(super) xid: i32,
    /// What it wants.
    pub(super) op: OpCode,
    /// The rest of the frame, should it have to go to another leader.
    pub(super) body: Bytes,
    /// Who the connection had proved to be.
    pub(super) ids: Vec<Id>,
    /// For `sync`: only those before it are still missing.
    pub(super) answered: bool,
}

impl Pending {
    /// Who is to be answered, if anybody is left.
    pub(super) fn waiter(&self) -> Option<Waiter> {
        Some(Waiter {
            connection: self.connection?,
            xid: self.xid,
            op: self.op,
        })
    }
}

#[derive(Debug, Default)]
pub(super) struct Pipeline {
    sessions: BTreeMap<SessionId, VecDeque<Pending>>,
    len: usize,
}

impl Pipeline {
    pub(super) fn push(&mut self, session: SessionId, pending: Pending) {
        self.sessions.entry(session).or_default().push_back(pending);
        self.len += 1;
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Takes the request that this commit answers, if it is one of this server's, and the syncs before it: where their
    /// answers are missing these were lost with a leader, and everything that they waited for is applied. Requests of a
    /// connection that ended may never be committed, so they do not hold up those of its successor.
    pub(super) fn committed(
        &mut self,
        session: SessionId,
        cxid: i32,
        op: i32,
    ) -> (Vec<Pending>, Option<Pending>) {
        let Some(queue) = self.sessions.get_mut(&session) else {
            return (vec![], None);
        };
        let is_this = |pending: &Pending| {
            pending.xid == cxid && (pending.op as i32 == op || is_error_of(op, pending.op))
        };
        let may_be_passed =
            |pending: &Pending| pending.connection.is_none() || pending.op == OpCode::Sync;
        let place = queue
            .iter()
            .position(|pending| is_this(pending) || !may_be_passed(pending));
        let (mut syncs, mut found) = (Vec::new(), None);
        if let Some(place) = place.filter(|place| is_this(&queue[*place])) {
            syncs.extend(queue.drain(..place).filter(|p| p.connection.is_some()));
            self.len -= place + 1;
            found = queue.pop_front();
        } else {
            while queue.pop_front_if(|p| p.connection.is_none()).is_some() {
                self.len -= 1;
            }
        }
        if queue.is_empty() {
            self.sessions.remove(&session);
        }
        (syncs, found)
    }

    /// A sync has come back.
    pub(super) fn answer(&mut self, session: SessionId, xid: i32) {
        let mut queue = self.sessions.get_mut(&session).into_iter().flatten();
        if let Some(pending) =
            queue.find(|pending| pending.xid == xid && pending.op == OpCode::Sync)
        {
            pending.answered = true;
        }
    }

    /// Takes a sync that has come back and is first in its session's order.
    pub(super) fn take_answered(&mut self, session: SessionId) -> Option<Pending> {
        let queue = self.sessions.get_mut(&session)?;
        let pending = queue.pop_front_if(|front| front.answered)?;
        self.len -= 1;
        if queue.is_empty() {
            self.sessions.remove(&session);
        }
        Some(pending)
    }

    /// Takes all requests of connections that last, each session's in its order: another leader gets them.
    pub(super) fn take_all(&mut self) -> Vec<ClientWrite> {
        let Self { sessions, .. } = std::mem::take(self);
        let writes = sessions.into_iter().flat_map(|(session, queue)| {
            let write = move |pending: Pending| {
                Some(ClientWrite {
                    connection: pending.connection?,
                    session,
                    xid: pending.xid,
                    op: pending.op,
                    body: pending.body,
                    ids: pending.ids,
                })
            };
            queue.into_iter().filter_map(write)
        });
        writes.collect()
    }

    /// Nobody waits on this connection any more.
    pub(super) fn abandon(&mut self, session: SessionId, connection: ConnectionId) {
        for pending in self.sessions.get_mut(&session).into_iter().flatten() {
            if pending.connection == Some(connection) {
                pending.connection = None;
                // Nobody will send it again.
                pending.body = Bytes::new();
                pending.ids = vec![];
            }
        }
    }
}

/// A request that failed is committed as an error.
fn is_error_of(op: i32, pending: OpCode) -> bool {
    op == OpCode::Error as i32 && pending != OpCode::Sync
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: SessionId = SessionId(1);

    fn pending(xid: i32, op: OpCode) -> Pending {
        Pending {
            connection: Some(ConnectionId(9)),
            xid,
            op,
            body: Bytes::new(),
            ids: vec![],
            answered: false,
        }
    }

    /// The numbers of the syncs and of the request that a commit answers.
    fn commit(pipeline: &mut Pipeline, session: SessionId, cxid: i32, op: i32) -> Vec<i32> {
        let (syncs, found) = pipeline.committed(session, cxid, op);
        syncs.into_iter().chain(found).map(|p| p.xid).collect()
    }

    #[test]
    fn a_commit_answers_the_first_request_of_its_session_only() {
        let mut pipeline = Pipeline::default();
        pipeline.push(S, pending(1, OpCode::Create));
        pipeline.push(S, pending(2, OpCode::SetData));
        assert!(commit(&mut pipeline, SessionId(2), 1, 1).is_empty());
        assert!(commit(&mut pipeline, S, 2, 5).is_empty());
        assert_eq!(commit(&mut pipeline, S, 1, 1), [1]);
        assert_eq!(commit(&mut pipeline, S, 2, -1), [2]);
        assert_eq!(pipeline.len(), 0);
    }

    #[test]
    fn a_sync_waits_for_the_writes_before_it() {
        let mut pipeline = Pipeline::default();
        pipeline.push(S, pending(1, OpCode::Create));
        pipeline.push(S, pending(2, OpCode::Sync));
        pipeline.answer(S, 2);
        assert_eq!(pipeline.take_answered(S), None);
        assert_eq!(commit(&mut pipeline, S, 1, 1), [1]);
        assert_eq!(pipeline.take_answered(S).map(|p| p.xid), Some(2));
    }

    #[test]
    fn a_sync_whose_answer_was_lost_is_done_when_a_write_after_it_is() {
        let mut pipeline = Pipeline::default();
        pipeline.push(S, pending(1, OpCode::Sync));
        pipeline.push(S, pending(2, OpCode::Create));
        pipeline.push(S, pending(3, OpCode::Sync));
        assert!(commit(&mut pipeline, S, 7, 1).is_empty());
        assert_eq!(pipeline.len(), 3);
        assert_eq!(commit(&mut pipeline, S, 2, 1), [1, 2]);
        assert_eq!(pipeline.len(), 1);
    }

    #[test]
    fn what_an_ended_connection_left_does_not_hold_up_its_successor() {
        let mut pipeline = Pipeline::default();
        pipeline.push(S, pending(7, OpCode::Create));
        pipeline.abandon(S, ConnectionId(9));
        pipeline.push(S, pending(8, OpCode::Create));
        assert_eq!(commit(&mut pipeline, S, 8, 1), [8]);
        assert_eq!(pipeline.len(), 0);
    }

    #[test]
    fn another_leader_gets_what_is_not_answered_but_nothing_of_an_ended_connection() {
        let mut pipeline = Pipeline::default();
        pipeline.push(S, pending(7, OpCode::Create));
        pipeline.abandon(S, ConnectionId(9));
        pipeline.push(S, pending(1, OpCode::Create));
        pipeline.push(S, pending(2, OpCode::Sync));
        pipeline.answer(S, 2);
        let again: Vec<i32> = pipeline.take_all().iter().map(|w| w.xid).collect();
        assert_eq!((again, pipeline.len()), (vec![1, 2], 0));
    }
}
