//! Sessions: their ids and passwords, and the leader's tracker that expires them (protocol reference §1.3, §2.10).

use std::collections::{BTreeMap, BTreeSet};

use crate::effect::LinkId;
use crate::zxid::{ServerId, SessionId, Time};

/// Hands out session ids: the server's id in the top byte, then the time of its start, then a counter.
#[derive(Clone, Debug)]
pub struct SessionIds {
    next: i64,
}

impl SessionIds {
    /// Ids of the server `server`. `since_boot_ms` must differ between two starts of the same server.
    #[must_use]
    pub fn new(server: ServerId, since_boot_ms: i64) -> Self {
        let time = ((since_boot_ms << 24) as u64 >> 8) as i64;
        let next = time | (server.0 << 56);
        // This value marks containers when it owns a node.
        Self {
            next: if next == i64::MIN { next + 1 } else { next },
        }
    }

    /// An id that was not given before.
    pub fn allocate(&mut self) -> SessionId {
        let id = self.next;
        self.next += 1;
        SessionId(id)
    }
}

/// The password of a session: every server of an ensemble can compute it, so that a client may reconnect anywhere.
/// It is `java.util.Random(id ^ 0xB3415C00).nextBytes(16)`.
#[must_use]
pub fn password(session: SessionId) -> [u8; 16] {
    const MASK: u64 = (1 << 48) - 1;
    let mut state = (session.0 as u64 ^ 0xB341_5C00 ^ 0x5_DEEC_E66D) & MASK;
    let mut bytes = [0; 16];
    for chunk in bytes.chunks_exact_mut(4) {
        state = state.wrapping_mul(0x5_DEEC_E66D).wrapping_add(0xB) & MASK;
        chunk.copy_from_slice(&((state >> 16) as u32).to_le_bytes());
    }
    bytes
}

/// Through which connection a session reaches the leader. Only its owner may write for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Owner {
    /// A client of the leader itself.
    Local,
    /// The learner behind this link.
    Learner(LinkId),
}

/// What the tracker says to a request of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionCheck {
    /// It may go on.
    Alive,
    /// The session is not known, or closing.
    Expired,
    /// The session belongs to another member now.
    Moved,
}

#[derive(Clone, Copy, Debug)]
struct Tracked {
    timeout_ms: i32,
    expires: Time,
    owner: Option<Owner>,
    closing: bool,
}

/// The leader's list of all sessions. A session expires in the first tick after its time-out, never before it.
#[derive(Clone, Debug)]
pub struct SessionTracker {
    tick_ms: u64,
    sessions: BTreeMap<SessionId, Tracked>,
    buckets: BTreeMap<Time, BTreeSet<SessionId>>,
}

impl SessionTracker {
    /// Tracks `sessions`, each with its full time-out from `now` on.
    pub fn new(
        now: Time,
        tick_ms: u64,
        sessions: impl IntoIterator<Item = (SessionId, i32)>,
    ) -> Self {
        let mut tracker = Self {
            tick_ms,
            sessions: BTreeMap::new(),
            buckets: BTreeMap::new(),
        };
        for (session, timeout_ms) in sessions {
            tracker.add(now, session, timeout_ms);
        }
        tracker
    }

    /// Begins to track a session.
    pub fn add(&mut self, now: Time, session: SessionId, timeout_ms: i32) {
        let expires = self.bucket(now, timeout_ms);
        let tracked = Tracked {
            timeout_ms,
            expires,
            owner: None,
            closing: false,
        };
        if let Some(old) = self.sessions.insert(session, tracked) {
            self.leave_bucket(old.expires, session);
        }
        self.buckets.entry(expires).or_default().insert(session);
    }

    /// Extends a session's life. False if it is not known, or closing.
    pub fn touch(&mut self, now: Time, session: SessionId, timeout_ms: i32) -> bool {
        let expires = self.bucket(now, timeout_ms);
        let Some(tracked) = self
            .sessions
            .get_mut(&session)
            .filter(|tracked| !tracked.closing)
        else {
            return false;
        };
        let old = tracked.expires;
        if expires > old {
            tracked.expires = expires;
            tracked.timeout_ms = timeout_ms;
            self.leave_bucket(old, session);
            self.buckets.entry(expires).or_default().insert(session);
        }
        true
    }

    /// Whether the session is known, and not closing.
    #[must_use]
    pub fn is_alive(&self, session: SessionId) -> bool {
        let tracked = self.sessions.get(&session);
        tracked.is_some_and(|tracked| !tracked.closing)
    }

    /// Through which connection the session was heard last; `None` if not since this leader began.
    #[must_use]
    pub fn owner(&self, session: SessionId) -> Option<Owner> {
        self.sessions.get(&session)?.owner
    }

    /// May `owner` write for the session? The first one that asks becomes its owner.
    pub fn check(&mut self, session: SessionId, owner: Owner) -> SessionCheck {
        match self.sessions.get_mut(&session) {
            Some(tracked) if !tracked.closing || mutant!(Zk1208) => {
                if mutant!(MovedSessionWrites) || *tracked.owner.get_or_insert(owner) == owner {
                    SessionCheck::Alive
                } else {
                    SessionCheck::Moved
                }
            }
            _ => SessionCheck::Expired,
        }
    }

    /// The client has come to `owner`. False if the session is not known, or closing.
    pub fn revalidate(
        &mut self,
        now: Time,
        session: SessionId,
        timeout_ms: i32,
        owner: Owner,
    ) -> bool {
        if !self.touch(now, session, timeout_ms) {
            return false;
        }
        if let Some(tracked) = self.sessions.get_mut(&session) {
            tracked.owner = Some(owner);
        }
        true
    }

    /// From now on the session may do nothing more; its `closeSession` is on its way.
    pub fn set_closing(&mut self, session: SessionId) {
        if let Some(tracked) = self.sessions.get_mut(&session) {
            tracked.closing = true;
        }
    }

    /// The session has ended.
    pub fn remove(&mut self, session: SessionId) {
        if let Some(tracked) = self.sessions.remove(&session) {
            self.leave_bucket(tracked.expires, session);
        }
    }

    /// The sessions whose time is up. They are marked as closing, and are reported once.
    pub fn expire(&mut self, now: Time) -> Vec<SessionId> {
        let mut expired = Vec::new();
        while let Some(bucket) = self
            .buckets
            .first_entry()
            .filter(|bucket| *bucket.key() <= now)
        {
            for session in bucket.remove() {
                if let Some(tracked) = self
                    .sessions
                    .get_mut(&session)
                    .filter(|tracked| !tracked.closing)
                {
                    tracked.closing = true;
                    expired.push(session);
                }
            }
        }
        expired
    }

    /// When [`expire`](Self::expire) has something to do.
    #[must_use]
    pub fn next_expiry(&self) -> Option<Time> {
        self.buckets.keys().next().copied()
    }

    /// How many sessions are tracked.
    #[must_use]
    pub fn len(&self) -> usize {
        self.sessions.len()
    }

    /// Whether there is no session.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.sessions.is_empty()
    }

    fn bucket(&self, now: Time, timeout_ms: i32) -> Time {
        let due = now.0 + u64::try_from(timeout_ms).unwrap_or(0);
        Time((due / self.tick_ms + 1) * self.tick_ms)
    }

    fn leave_bucket(&mut self, bucket: Time, session: SessionId) {
        if let Some(sessions) = self.buckets.get_mut(&bucket) {
            sessions.remove(&session);
            if sessions.is_empty() {
                self.buckets.remove(&bucket);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: SessionId = SessionId(7);

    #[test]
    fn passwords_are_those_of_every_other_server() {
        let hex = |id: i64| {
            password(SessionId(id))
                .map(|byte| format!("{byte:02x}"))
                .concat()
        };
        assert_eq!(hex(1), "054cc74a37327db215e702e20c73f005");
        assert_eq!(
            hex(0x0100_0000_0000_0001),
            "054cc74a37327db215e702e20c73f005"
        );
        assert_eq!(
            hex(0x0100_0a5b_3c4d_0000),
            "a926b028827d1d942f082aa79bfe35d3"
        );
    }

    #[test]
    fn a_session_expires_in_the_tick_after_its_time_and_never_before() {
        let mut tracker = SessionTracker::new(Time(1), 100, [(S, 250)]);
        assert_eq!(tracker.expire(Time(251)), vec![]);
        assert_eq!(tracker.next_expiry(), Some(Time(300)));
        assert!(tracker.touch(Time(290), S, 250));
        assert_eq!(tracker.expire(Time(540)), vec![]);
        assert_eq!(tracker.expire(Time(600)), vec![S]);
        assert_eq!(tracker.expire(Time(9000)), vec![]);
        assert!(!tracker.touch(Time(9000), S, 250));
    }

    #[test]
    fn only_the_owner_writes_until_the_client_moves() {
        let mut tracker = SessionTracker::new(Time(0), 100, [(S, 250)]);
        assert_eq!(
            tracker.check(S, Owner::Learner(LinkId::accepted(1))),
            SessionCheck::Alive
        );
        assert_eq!(tracker.check(S, Owner::Local), SessionCheck::Moved);
        assert!(tracker.revalidate(Time(5), S, 250, Owner::Local));
        assert_eq!(
            tracker.check(S, Owner::Learner(LinkId::accepted(1))),
            SessionCheck::Moved
        );
        tracker.set_closing(S);
        assert_eq!(tracker.check(S, Owner::Local), SessionCheck::Expired);
    }

    #[test]
    fn ids_carry_the_server_in_their_top_byte() {
        let mut ids = SessionIds::new(ServerId(3), 1_234_567);
        let (a, b) = (ids.allocate(), ids.allocate());
        assert_eq!((a.0 >> 56, b.0 - a.0), (3, 1));
    }
}
