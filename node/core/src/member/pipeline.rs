//! Which of this server's clients wait for which commit, each session's in the order in which it asked.

use std::collections::{BTreeMap, VecDeque};

use crate::proto::client::OpCode;
use crate::watch::ConnectionId;
use crate::zxid::SessionId;

/// A request that waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pending {
    /// Who waits; `None` when the connection has ended meanwhile.
    pub connection: Option<ConnectionId>,
    /// The client's number for it.
    pub xid: i32,
    /// What it wants.
    pub op: OpCode,
    /// For `sync`: what the answer repeats. `None` if it could not be decoded.
    pub(super) sync_path: Option<String>,
    /// For `sync`: only those before it are still missing.
    pub(super) answered: bool,
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

    /// Takes the request that this commit answers, if it is one of this server's. Requests of a connection that ended
    /// may never be committed, so they do not hold up those of its successor.
    pub(super) fn committed(&mut self, session: SessionId, cxid: i32, op: i32) -> Option<Pending> {
        let queue = self.sessions.get_mut(&session)?;
        let is_this = |pending: &Pending| {
            pending.xid == cxid && (pending.op as i32 == op || is_error_of(op, pending.op))
        };
        while queue
            .front()
            .is_some_and(|front| front.connection.is_none() && !is_this(front))
        {
            queue.pop_front();
            self.len -= 1;
        }
        let pending = queue.pop_front_if(|front| is_this(front));
        if pending.is_some() {
            self.len -= 1;
        }
        if queue.is_empty() {
            self.sessions.remove(&session);
        }
        pending
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

    /// Nobody waits on this connection any more.
    pub(super) fn abandon(&mut self, session: SessionId, connection: ConnectionId) {
        for pending in self.sessions.get_mut(&session).into_iter().flatten() {
            if pending.connection == Some(connection) {
                pending.connection = None;
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
            sync_path: Some("/".into()),
            answered: false,
        }
    }

    #[test]
    fn a_commit_answers_the_first_request_of_its_session_only() {
        let mut pipeline = Pipeline::default();
        pipeline.push(S, pending(1, OpCode::Create));
        pipeline.push(S, pending(2, OpCode::SetData));
        assert_eq!(pipeline.committed(SessionId(2), 1, 1), None);
        assert_eq!(pipeline.committed(S, 2, 5), None);
        assert_eq!(pipeline.committed(S, 1, 1).map(|p| p.xid), Some(1));
        assert_eq!(pipeline.committed(S, 2, -1).map(|p| p.xid), Some(2));
        assert_eq!(pipeline.len(), 0);
    }

    #[test]
    fn a_sync_waits_for_the_writes_before_it() {
        let mut pipeline = Pipeline::default();
        pipeline.push(S, pending(1, OpCode::Create));
        pipeline.push(S, pending(2, OpCode::Sync));
        pipeline.answer(S, 2);
        assert_eq!(pipeline.take_answered(S), None);
        assert!(pipeline.committed(S, 1, 1).is_some());
        assert_eq!(pipeline.take_answered(S).map(|p| p.xid), Some(2));
    }

    #[test]
    fn what_an_ended_connection_left_does_not_hold_up_its_successor() {
        let mut pipeline = Pipeline::default();
        pipeline.push(S, pending(7, OpCode::Create));
        pipeline.abandon(S, ConnectionId(9));
        pipeline.push(S, pending(8, OpCode::Create));
        assert_eq!(pipeline.committed(S, 8, 1).map(|p| p.xid), Some(8));
    }
}
