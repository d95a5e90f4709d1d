//! What can be seen of a peer from outside.

use std::sync::Arc;

use super::{Peer, Role};
use crate::effect::LinkId;
use crate::election::vote::Vote;
use crate::proto::election::PeerState;
use crate::quorum::config::QuorumConfig;
use crate::standing::Standing;
use crate::zab::leader::Leader;
use crate::zxid::{Epoch, ServerId, Time, Zxid};

impl Peer {
    /// What it is doing.
    #[must_use]
    pub fn state(&self) -> PeerState {
        match &self.role {
            Role::Looking(_) | Role::Settling | Role::Halted => PeerState::Looking,
            Role::Leading(_) => PeerState::Leading,
            Role::Following(_) => PeerState::Following,
            Role::Observing(_) => PeerState::Observing,
        }
    }

    /// Whether it has the ensemble's history and takes part in broadcast: it may answer clients, and take snapshots,
    /// because then everything in its tree is committed.
    #[must_use]
    pub fn is_serving(&self) -> bool {
        match &self.role {
            Role::Leading(leader) => leader.is_established(),
            Role::Following(learner) | Role::Observing(learner) => learner.is_broadcasting(),
            Role::Looking(_) | Role::Settling | Role::Halted => false,
        }
    }

    /// Whether its disk takes nothing, and has not all of its history: it takes part in nothing, unless it serves.
    #[must_use]
    pub fn is_held_up(&self) -> bool {
        self.local.disk_blocked && self.local.waits_for_log()
    }

    /// Until when this server may take what it has for the ensemble's state of a moment ago: it has heard its leader, or
    /// as the leader a quorum, not long before. After a pause this is in the past until they are heard again.
    #[must_use]
    pub fn fresh_until(&self) -> Time {
        match &self.role {
            Role::Leading(leader) => leader.fresh_until(&self.local),
            Role::Following(learner) | Role::Observing(learner) => learner.fresh_until(&self.local),
            Role::Looking(_) | Role::Settling | Role::Halted => Time(0),
        }
    }

    /// The zxid that the next `Input::Propose` must have, if this server leads and accepts proposals.
    #[must_use]
    pub fn next_zxid(&self) -> Option<Zxid> {
        if let Role::Leading(leader) = &self.role {
            leader.next_zxid()
        } else {
            None
        }
    }

    /// Its id.
    #[must_use]
    pub fn my_id(&self) -> ServerId {
        self.local.my_id
    }

    /// Whom it follows, or itself when it leads.
    #[must_use]
    pub fn leader(&self) -> Option<ServerId> {
        match &self.role {
            Role::Leading(_) => Some(self.local.my_id),
            Role::Following(learner) | Role::Observing(learner) => Some(learner.leader()),
            Role::Looking(_) | Role::Settling | Role::Halted => None,
        }
    }

    /// The vote that it would tell now.
    #[must_use]
    pub fn vote(&self) -> Vote {
        if let Role::Looking(election) = &self.role {
            election.proposal()
        } else {
            self.local.vote
        }
    }

    /// The round of the last election.
    #[must_use]
    pub fn round(&self) -> i64 {
        self.local.round
    }

    /// Whether its history can be trusted, so that it may vote.
    #[must_use]
    pub fn standing(&self) -> Standing {
        self.local.standing
    }

    /// The epoch that it agreed to.
    #[must_use]
    pub fn accepted_epoch(&self) -> Epoch {
        self.local.accepted_epoch
    }

    /// The epoch of its history.
    #[must_use]
    pub fn current_epoch(&self) -> Epoch {
        self.local.current_epoch
    }

    /// The end of its history.
    #[must_use]
    pub fn last_logged(&self) -> Zxid {
        self.local.history.last()
    }

    /// The last transaction that it gave to the tree.
    #[must_use]
    pub fn last_committed(&self) -> Zxid {
        self.local.history.applied()
    }

    /// The committed configuration.
    #[must_use]
    pub fn config(&self) -> &Arc<QuorumConfig> {
        &self.local.config
    }

    /// The configuration that was seen last: the committed one, or one that was proposed.
    #[must_use]
    pub fn last_seen_config(&self) -> &Arc<QuorumConfig> {
        self.local.last_seen_config()
    }

    /// On the leader: the servers that follow it in sync, and whether each is an observer.
    pub fn active_learners(&self) -> impl Iterator<Item = (ServerId, bool)> {
        let leader = if let Role::Leading(leader) = &self.role {
            Some(leader)
        } else {
            None
        };
        leader.into_iter().flat_map(Leader::active_learners)
    }

    /// On the leader: the server at the other end of a connection.
    #[must_use]
    pub fn learner_of(&self, link: LinkId) -> Option<ServerId> {
        if let Role::Leading(leader) = &self.role {
            leader.learner_of(link)
        } else {
            None
        }
    }

    /// On the leader: proposals that wait for acks.
    #[must_use]
    pub fn outstanding(&self) -> usize {
        if let Role::Leading(leader) = &self.role {
            leader.outstanding()
        } else {
            0
        }
    }
}
