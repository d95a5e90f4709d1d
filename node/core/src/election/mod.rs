//! Fast leader election (protocol reference §3.2–§3.5): everybody votes, and changes to the better vote that it hears of,
//! until a quorum has the same.
//!
//! The messages are Apache's. Two things make it faster. When every voter that can be reached has voted for the same,
//! nothing better can come, and the election is over at once. And a server that hears a vote from somebody who can't
//! know its own answers with it, instead of waiting for the next round of messages.
//!
//! Two things make it end where some servers do not reach each other. A server votes only for who it has a connection to,
//! and for no leader that it has just lost: votes are passed on, so it hears of candidates that it could not follow.
//! And a candidate without a quorum, when the votes stand still, is given up for one that others vote for. Both are
//! preferences of this server's, which no other has to share.

use std::collections::BTreeMap;

use crate::effect::Effect;
use crate::local::Local;
use crate::proto::election::{Notification, PeerState};
use crate::zxid::{ServerId, Time};

pub mod vote;

use vote::Vote;

/// What was heard from a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Heard {
    vote: Vote,
    round: i64,
    state: PeerState,
    versioned: bool,
}

/// How an election ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Elected {
    pub(crate) vote: Vote,
    pub(crate) round: i64,
}

/// An election in which this server takes part.
#[derive(Debug)]
pub(crate) struct Election {
    round: i64,
    /// What this server votes for before it has heard of anything better.
    own: Vote,
    proposal: Vote,
    /// Votes of this round.
    received: BTreeMap<ServerId, Heard>,
    /// Votes of servers that have a leader.
    settled: BTreeMap<ServerId, Heard>,
    resend_at: Time,
    resend_ms: u64,
    /// When a quorum's vote stands if nothing better comes.
    decide_at: Option<Time>,
    /// Until when this server stands back.
    abstain_until: Option<Time>,
    /// When the votes of this round, as far as they are known here, changed last.
    quiet_since: Time,
    /// Candidates that got no quorum, and until when this server does not vote for them again.
    given_up: BTreeMap<ServerId, Time>,
    /// What servers without a vote were told last, and until when that will do.
    answered: BTreeMap<ServerId, (Time, Vote, i64)>,
}

impl Election {
    /// Begins the next round. A server that stands back votes for nobody with its own history: it then accepts only
    /// candidates who have all that it has.
    pub(crate) fn start(
        now: Time,
        local: &mut Local,
        abstain_until: Option<Time>,
        effects: &mut Vec<Effect>,
    ) -> (Self, Option<Elected>) {
        local.round += 1;
        let mut election = Self {
            round: local.round,
            own: Vote::NONE,
            proposal: Vote::NONE,
            received: BTreeMap::new(),
            settled: BTreeMap::new(),
            resend_at: now.after(local.timing.resend_min_ms),
            resend_ms: local.timing.resend_min_ms,
            decide_at: None,
            abstain_until,
            quiet_since: now,
            given_up: BTreeMap::new(),
            answered: BTreeMap::new(),
        };
        local.begin_if_all_are_empty(effects);
        local.tell_standing(effects);
        election.own = election.own_vote(local);
        election.proposal = election.own;
        election.tell_all(local, effects);
        let elected = election.decide(now, local);
        (election, elected)
    }

    fn own_vote(&self, local: &Local) -> Vote {
        if local.is_mute() {
            return local.unwhole_vote();
        }
        if local.only_observes() {
            return Vote::NONE;
        }
        let stands = local.may_stand() && self.abstain_until.is_none();
        Vote {
            peer_epoch: local.current_epoch,
            zxid: local.history.last(),
            leader: if stands { local.my_id } else { Vote::NOBODY },
        }
    }

    pub(crate) fn next_deadline(&self, now: Time, local: &Local) -> Time {
        let again = self.given_up.values().chain(local.avoided.values());
        [
            self.decide_at,
            self.abstain_until,
            self.gives_up_at(now, local),
            local.whole_from(),
        ]
        .into_iter()
        .flatten()
        .chain(again.copied())
        .fold(self.resend_at, Time::min)
    }

    /// This server has slept: what has arrived meanwhile is read before anything is decided.
    pub(crate) fn excuse(&mut self, now: Time, local: &Local) {
        self.quiet_since = now;
        if let Some(at) = &mut self.decide_at {
            *at = now.after(local.timing.finalize_wait_ms);
        }
    }

    pub(crate) fn proposal(&self) -> Vote {
        self.proposal
    }

    pub(crate) fn tick(
        &mut self,
        now: Time,
        local: &mut Local,
        effects: &mut Vec<Effect>,
    ) -> Option<Elected> {
        if self.decide_at.is_some_and(|at| at <= now) {
            return Some(self.elected());
        }
        if self.abstain_until.is_some_and(|at| at <= now) {
            self.abstain_until = None;
            self.own = self.own_vote(local);
        }
        self.forgive(now, local);
        if self.gives_up_at(now, local).is_some_and(|at| at <= now) {
            let until = now.after(local.timing.avoid_ms);
            self.given_up.insert(self.proposal.leader, until);
        }
        self.reconsider(now, local, effects);
        if self.resend_at <= now {
            self.tell_all(local, effects);
            let longest = if local.is_mute() || local.only_observes() {
                local.timing.ask_max_ms.min(local.timing.resend_max_ms)
            } else {
                local.timing.resend_max_ms
            };
            self.resend_ms = (self.resend_ms * 2).min(longest);
            self.resend_at = now.after(self.resend_ms);
        }
        self.decide(now, local)
    }

    /// Who was not voted for long enough may be again. Then the votes count anew, and have not stood still yet: two servers
    /// that have left each other would else go over to each other, each with the other's vote, again and again.
    fn forgive(&mut self, now: Time, local: &mut Local) {
        let known = |e: &Self, l: &Local| e.given_up.len() + l.avoided.len();
        let before = known(self, local);
        self.given_up.retain(|_, until| now < *until);
        local.avoided.retain(|_, until| now < *until);
        if known(self, local) < before {
            self.quiet_since = now;
        }
    }

    /// The connection to a server came up or broke.
    pub(crate) fn link(
        &mut self,
        now: Time,
        local: &Local,
        peer: ServerId,
        up: bool,
        effects: &mut Vec<Effect>,
    ) -> Option<Elected> {
        if up {
            self.quiet_since = now;
        }
        let voted = self.reconsider(now, local, effects);
        if up && local.is_voter(peer) && !voted {
            self.tell(local, peer, effects);
        }
        self.decide(now, local)
    }

    /// A voter's message.
    pub(crate) fn notification(
        &mut self,
        now: Time,
        local: &mut Local,
        from: ServerId,
        n: &Notification,
        effects: &mut Vec<Effect>,
    ) -> Option<Elected> {
        let heard = Heard {
            vote: Vote {
                peer_epoch: n.peer_epoch,
                zxid: n.zxid,
                leader: n.leader,
            },
            round: n.round,
            state: n.state,
            versioned: n.version > 0,
        };
        match n.state {
            PeerState::Looking if local.is_mute() => {
                self.hear_unwhole(now, local, from, n, effects)
            }
            PeerState::Looking => self.hear_looking(now, local, from, heard, effects),
            PeerState::Observing => None,
            PeerState::Following | PeerState::Leading if !local.is_voter(n.leader) => None,
            PeerState::Following | PeerState::Leading => self.hear_settled(local, from, heard),
        }
    }

    /// Without a vote there is nothing to agree on: only whether others have a history counts.
    fn hear_unwhole(
        &mut self,
        now: Time,
        local: &mut Local,
        from: ServerId,
        n: &Notification,
        effects: &mut Vec<Effect>,
    ) -> Option<Elected> {
        if !local.hear_of_history(from, n) {
            return None;
        }
        local.begin_if_all_are_empty(effects);
        if !local.is_whole() {
            local.tell_standing(effects);
            return None;
        }
        self.own = self.own_vote(local);
        self.proposal = self.own;
        self.quiet_since = now;
        self.tell_all(local, effects);
        self.decide(now, local)
    }

    fn hear_looking(
        &mut self,
        now: Time,
        local: &mut Local,
        from: ServerId,
        heard: Heard,
        effects: &mut Vec<Effect>,
    ) -> Option<Elected> {
        // A server that stands back has no candidate, but it has to hear of ours.
        let candidate = local.is_voter(heard.vote.leader) && heard.vote.zxid.0 != -1;
        if heard.round < self.round {
            // A voter answers whoever asks without a vote, and would do so for ever.
            if !local.only_observes() || mutant!(VotesForEver) {
                self.tell(local, from, effects);
            }
            return None;
        }
        let old = self.received.get(&from).copied();
        if old.is_none_or(|old| (old.vote, old.round) != (heard.vote, heard.round)) {
            self.quiet_since = now;
        }
        let is_later = heard.round > self.round;
        if is_later {
            self.round = heard.round;
            local.round = heard.round;
            self.received.clear();
            self.given_up.clear();
            self.proposal = self.own;
        }
        if candidate || heard.vote.leader == Vote::NOBODY {
            self.received.insert(from, heard);
        }
        let voted = self.reconsider(now, local, effects);
        if is_later && !voted {
            self.tell_all(local, effects);
        } else if !voted
            && old.is_none_or(|old| old.vote != heard.vote && heard.vote < self.proposal)
        {
            self.tell(local, from, effects);
        }
        self.decide(now, local)
    }

    /// Changes to the best vote that this server may give, and tells it. Whether it changed.
    fn reconsider(&mut self, now: Time, local: &Local, effects: &mut Vec<Effect>) -> bool {
        if local.is_mute() {
            return false;
        }
        self.take_back(local);
        let mut best = self.best(now, local);
        // A vote stands when who told of it has changed its mind.
        if self.may_elect(now, local, self.proposal) {
            best = best.max(self.proposal);
        }
        if best == self.proposal {
            return false;
        }
        self.proposal = best;
        self.quiet_since = now;
        self.decide_at = None;
        self.tell_all(local, effects);
        true
    }

    /// Who got a quorum after all is given up no longer: else two servers that wait for each other's votes change theirs with
    /// every message.
    fn take_back(&mut self, local: &Local) {
        let others = self.others().map(|(_, vote)| vote);
        let with_quorum: Vec<ServerId> = others
            .filter(|vote| self.given_up.contains_key(&vote.leader))
            .filter(|vote| self.has_quorum(local, *vote))
            .map(|vote| vote.leader)
            .collect();
        for id in with_quorum {
            self.given_up.remove(&id);
        }
    }

    fn best(&self, now: Time, local: &Local) -> Vote {
        let heard = self.others().map(|(_, vote)| vote);
        heard
            .chain([self.own])
            .filter(|vote| self.may_elect(now, local, *vote))
            .max()
            .unwrap_or(self.own)
    }

    /// The votes of others in this round. Those of servers that have elected somebody already count too: they may need
    /// this server's to go on.
    fn others(&self) -> impl Iterator<Item = (ServerId, Vote)> {
        self.received.iter().map(|(id, heard)| (*id, heard.vote))
    }

    /// Whether this server may give a vote. This is the one place that judges candidates.
    fn may_elect(&self, now: Time, local: &Local, vote: Vote) -> bool {
        let id = vote.leader;
        if self.given_up.contains_key(&id) || local.avoids(now, id) {
            return false;
        }
        vote == self.own
            || local.last_seen_config().may_lead(id)
                && (vote.peer_epoch, vote.zxid) >= (self.own.peer_epoch, self.own.zxid)
                && local.reaches(id)
    }

    /// Whether those who vote for it are a quorum together with this server.
    fn has_quorum(&self, local: &Local, vote: Vote) -> bool {
        let votes = |id: ServerId| self.received.get(&id).is_some_and(|v| v.vote == vote);
        local.is_quorum(|id| id == local.my_id || (votes(id) && local.reaches(id)))
    }

    /// When this server gives up its candidate: that has no quorum, the votes stand still, and there is another candidate
    /// that somebody votes for. Who votes for the best goes first; the others wait for it to come to them.
    fn gives_up_at(&self, now: Time, local: &Local) -> Option<Time> {
        if self.proposal.leader == Vote::NOBODY
            || self.has_quorum(local, self.proposal)
            || !self.has_alternative(now, local)
        {
            return None;
        }
        let is_first = |(from, vote)| vote <= self.proposal || !local.reaches(from);
        let waits = if self.others().all(is_first) { 1 } else { 3 };
        Some(self.quiet_since.after(waits * local.timing.give_up_ms))
    }

    /// Whether this server could vote for somebody else whom a server votes for; or for itself, where a server stays with one
    /// whom this server may not vote for. That one may not know yet, for example, that the better candidate has a vote.
    fn has_alternative(&self, now: Time, local: &Local) -> bool {
        let id = self.proposal.leader;
        let is_other = |vote: Vote| ![id, Vote::NOBODY].contains(&vote.leader);
        let may_elect = |vote: Vote| is_other(vote) && self.may_elect(now, local, vote);
        let may_stand = may_elect(self.own);
        self.others()
            .any(|(_, vote)| may_elect(vote) || may_stand && is_other(vote))
    }

    /// A server that has a leader: join if a quorum has the same and the leader says so itself.
    fn hear_settled(&mut self, local: &mut Local, from: ServerId, heard: Heard) -> Option<Elected> {
        if heard.round == self.round {
            self.received.insert(from, heard);
            let mut votes = self.received.clone();
            votes.insert(local.my_id, self.own_heard());
            let agrees = |id: ServerId| votes.get(&id).is_some_and(|v| agree_in_round(v, &heard));
            if self.suffices(local, &heard, agrees) && self.leader_confirms(local, &votes, &heard) {
                return Some(Elected {
                    vote: heard.vote,
                    round: heard.round,
                });
            }
        }
        self.settled.insert(from, heard);
        let agrees = |id: ServerId| {
            self.settled
                .get(&id)
                .is_some_and(|v| agree_settled(v, &heard))
        };
        if self.suffices(local, &heard, agrees)
            && self.leader_confirms(local, &self.settled, &heard)
        {
            self.round = heard.round;
            local.round = heard.round;
            return Some(Elected {
                vote: heard.vote,
                round: heard.round,
            });
        }
        None
    }

    /// Whether the servers that agree are enough to join their leader. A quorum of the committed configuration is: a
    /// leader has its quorums by itself, and one that a lost proposal of this server's would ask for may never come.
    fn suffices(&self, local: &Local, heard: &Heard, agrees: impl Fn(ServerId) -> bool) -> bool {
        if heard.vote.leader == local.my_id {
            local.is_quorum(agrees)
        } else {
            local.config.is_quorum(agrees)
        }
    }

    fn leader_confirms(
        &self,
        local: &Local,
        votes: &BTreeMap<ServerId, Heard>,
        heard: &Heard,
    ) -> bool {
        let leader = heard.vote.leader;
        if leader == local.my_id {
            return heard.round == self.round && local.may_stand() && self.abstain_until.is_none();
        }
        local.reaches(leader)
            && votes
                .get(&leader)
                .is_some_and(|v| v.state == PeerState::Leading)
    }

    fn own_heard(&self) -> Heard {
        Heard {
            vote: self.proposal,
            round: self.round,
            state: PeerState::Looking,
            versioned: true,
        }
    }

    fn elected(&self) -> Elected {
        Elected {
            vote: self.proposal,
            round: self.round,
        }
    }

    /// Ends the election if a quorum votes as this server does: at once when everybody who can be reached does, else
    /// after a wait.
    fn decide(&mut self, now: Time, local: &Local) -> Option<Elected> {
        // Who can't be reached any more will not follow, nor be followed together with.
        let agrees = |id: ServerId| {
            let votes = |v: &Heard| {
                v.vote == self.proposal && (v.state != PeerState::Looking || v.round == self.round)
            };
            id == local.my_id || (self.received.get(&id).is_some_and(votes) && local.reaches(id))
        };
        if local.is_mute() || self.proposal.leader == Vote::NOBODY || !local.is_quorum(agrees) {
            self.decide_at = None;
            return None;
        }
        // A leader that was just lost is not waited for either.
        let is_out = |id: &ServerId| local.links.get(id) == Some(&false) || local.avoids(now, *id);
        if local
            .voters()
            .into_iter()
            .all(|id| agrees(id) || is_out(&id))
        {
            return Some(self.elected());
        }
        self.decide_at
            .get_or_insert(now.after(local.timing.finalize_wait_ms));
        None
    }

    /// Answers a server without a vote. Apache's answer each vote of an earlier round than theirs at once, so what it was told
    /// a moment ago is not told again: it asks once more when its own time comes.
    pub(crate) fn answer(
        &mut self,
        now: Time,
        local: &Local,
        to: ServerId,
        effects: &mut Vec<Effect>,
    ) {
        self.answered.retain(|_, (until, ..)| now < *until);
        let told = (self.proposal, self.round);
        let again = now.after(local.timing.resend_min_ms / 2);
        let last = self.answered.get(&to);
        let knows =
            last.is_some_and(|(until, vote, round)| now < *until && (*vote, *round) == told);
        if !knows || mutant!(VotesForEver) {
            self.answered.insert(to, (again, told.0, told.1));
            self.tell(local, to, effects);
        }
    }

    /// Answers one server with this server's vote.
    pub(crate) fn tell(&self, local: &Local, to: ServerId, effects: &mut Vec<Effect>) {
        if to != local.my_id {
            let notification = local.notification(PeerState::Looking, self.round, self.proposal);
            effects.push(Effect::Notify { to, notification });
        }
    }

    fn tell_all(&self, local: &Local, effects: &mut Vec<Effect>) {
        for id in local.voters() {
            self.tell(local, id, effects);
        }
    }
}

/// Whether a vote of this round counts for a settled server's vote. Between settled servers only the leader is compared.
fn agree_in_round(counted: &Heard, heard: &Heard) -> bool {
    if counted.state == PeerState::Looking {
        return counted.vote == heard.vote && counted.round == heard.round;
    }
    counted.vote.leader == heard.vote.leader
}

/// Whether two settled servers have the same leader.
fn agree_settled(a: &Heard, b: &Heard) -> bool {
    a.vote.leader == b.vote.leader
        && (a.versioned != b.versioned || a.vote.peer_epoch == b.vote.peer_epoch)
}
