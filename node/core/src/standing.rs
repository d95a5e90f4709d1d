//! Whether a server's own history can be trusted, and with it whether the server votes.
//!
//! A quorum decides what is committed only because each of its members remembers what it acknowledged. A server that has
//! forgotten must not be one of them: with a server that lags behind it would make a quorum that lacks what both
//! others had acknowledged. So it takes part like an observer until it has everything from a leader that was elected
//! without it.
//!
//! An empty disk says nothing by itself: it is a new server's or one that was lost. It counts as new when every voter is seen
//! to be empty, because then there is nothing that could be forgotten.

use std::collections::BTreeSet;

use crate::effect::Effect;
use crate::election::vote::Vote;
use crate::local::Local;
use crate::proto::election::{Notification, PeerState};
use crate::proto::quorum::Proposal;
use crate::quorum::config::QuorumConfig;
use crate::zxid::{Epoch, ServerId, Time, Zxid};

/// What a server knows of its history when it starts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Standing {
    /// It has all that it ever acknowledged: it votes.
    #[default]
    Whole,
    /// It has nothing, and nobody can tell whether it ever had.
    Empty,
    /// Something that it acknowledged is gone.
    Lost,
}

/// What was found on disk.
#[derive(Clone, Debug, Default)]
pub struct Recovered {
    /// The epoch that was agreed to.
    pub accepted_epoch: Epoch,
    /// The epoch of the history.
    pub current_epoch: Epoch,
    /// The end of the history; the tree is there too.
    pub last_zxid: Zxid,
    /// The end of the log without gaps, up to `last_zxid`: what learners can be brought up to date with.
    pub recent: Vec<Proposal>,
    /// A configuration that was proposed and not yet known to be committed.
    pub last_seen_config: Option<QuorumConfig>,
    /// Whether that is all that there ever was.
    pub standing: Standing,
}

/// The zxid that Apache's servers tell while they have no history: nobody counts their votes.
const NO_HISTORY: Zxid = Zxid(-1);

/// The first epoch of an ensemble: nobody can have promised anything before.
const FIRST_EPOCH: Epoch = Epoch(1);

impl Local {
    /// Whether it may vote.
    pub(crate) fn is_whole(&self) -> bool {
        self.standing == Standing::Whole
    }

    /// Whether it is a voter that may not vote.
    pub(crate) fn is_mute(&self) -> bool {
        !self.is_whole() && self.is_voter(self.my_id)
    }

    /// What it tells in an election while it may not vote.
    pub(crate) fn unwhole_vote(&self) -> Vote {
        match self.standing {
            Standing::Empty => Vote {
                peer_epoch: Epoch(0),
                zxid: NO_HISTORY,
                leader: self.my_id,
            },
            Standing::Lost | Standing::Whole => Vote::NONE,
        }
    }

    /// A vote arrived while this server may not vote. What it is told is kept for later elections: an empty server that
    /// it heard of once has acknowledged nothing before.
    pub(crate) fn hear_of_history(&mut self, from: ServerId, n: &Notification) -> bool {
        let empty = n.state == PeerState::Looking
            && n.peer_epoch == Epoch(0)
            && (n.zxid == Zxid::ZERO || n.zxid == NO_HISTORY && n.leader == from);
        empty && self.heard_empty.insert(from)
    }

    /// If no voter has any history this server is a new one: it votes from now on.
    pub(crate) fn begin_if_all_are_empty(&mut self, effects: &mut Vec<Effect>) {
        let has_none = |id: &ServerId| *id == self.my_id || self.heard_empty.contains(id);
        if self.standing == Standing::Empty && self.voters().iter().all(has_none) {
            self.become_whole(effects);
        }
    }

    /// The history is a leader's. Once it is durable here nothing is missing any more.
    pub(crate) fn become_whole_by_leader(&mut self, now: Time, effects: &mut Vec<Effect>) {
        self.has_all |= self.history.is_durable();
        self.becomes_whole(now, effects);
    }

    /// The server votes from now on if it has all, and nobody can still count on what it promised before it forgot: who leads
    /// by such a promise has given up by `votes_from`, or is what we follow. Whether it did not vote before.
    pub(crate) fn becomes_whole(&mut self, now: Time, effects: &mut Vec<Effect>) -> bool {
        let free = now >= self.votes_from
            || self.current_epoch <= FIRST_EPOCH
            || !self.is_voter(self.my_id);
        let becomes = !self.is_whole() && self.has_all && free;
        if becomes {
            self.become_whole(effects);
        }
        becomes
    }

    /// When that is, if only time is missing.
    pub(crate) fn whole_from(&self) -> Option<Time> {
        (self.has_all && !self.is_whole()).then_some(self.votes_from)
    }

    fn become_whole(&mut self, effects: &mut Vec<Effect>) {
        self.standing = Standing::Whole;
        effects.push(Effect::HistoryWhole);
    }

    /// Says in words why it does not vote.
    pub(crate) fn tell_standing(&self, effects: &mut Vec<Effect>) {
        let ids = |ids: &BTreeSet<ServerId>| {
            let ids: Vec<String> = ids.iter().map(ToString::to_string).collect();
            ids.join(", ")
        };
        let mut others: BTreeSet<ServerId> = self.voters().into_iter().collect();
        if self.is_whole() || !others.remove(&self.my_id) {
            return;
        }
        let why = match self.standing {
            Standing::Empty => {
                let unknown: BTreeSet<ServerId> = &others - &self.heard_empty;
                format!(
                    "this server has no history, and may have lost one: it takes part without a vote until a leader has given it everything, or until it sees that the voters {} have none either",
                    ids(&unknown)
                )
            }
            Standing::Lost | Standing::Whole => format!(
                "the history of this server is damaged: it takes part without a vote until a leader has given it everything; for a leader a quorum must be found among the voters {}",
                ids(&others)
            ),
        };
        effects.push(Effect::NotVoting(why));
    }
}
