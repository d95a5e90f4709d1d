//! What a peer knows and keeps whatever its role is: its identity, epochs, configurations, history and last vote.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::effect::Effect;
use crate::election::vote::Vote;
use crate::proto::election::{Notification, PeerState};
use crate::quorum::config::{MemberRole, QuorumConfig};
use crate::standing::Standing;
use crate::timing::Timing;
use crate::zab::history::History;
use crate::zxid::{Epoch, ServerId, Time, Zxid};

/// What a peer is told when it is made.
#[derive(Clone, Debug)]
pub struct PeerConfig {
    /// Its id ("myid").
    pub my_id: ServerId,
    /// The committed configuration.
    pub config: QuorumConfig,
    /// Intervals.
    pub timing: Timing,
    /// Whether the configuration may change while it runs.
    pub reconfig_enabled: bool,
    /// Whether it is an observer by its own file ("peerType"). The configuration can make it one too.
    pub observer: bool,
    /// Whether an observer keeps log and snapshots. Others always do.
    pub observer_keeps_disk: bool,
}

impl PeerConfig {
    /// Whether it observes, by its own file or by the configuration.
    #[must_use]
    pub fn is_observer(&self) -> bool {
        self.observer
            || self
                .config
                .member(self.my_id)
                .is_some_and(|m| m.role == MemberRole::Observer)
    }

    /// Whether it keeps log and snapshots, given a configuration that was proposed. If not, what may still be on its
    /// disk must not be recovered.
    #[must_use]
    pub fn keeps_disk(&self, last_seen_config: Option<&QuorumConfig>) -> bool {
        let will_vote =
            self.reconfig_enabled && last_seen_config.is_some_and(|c| c.is_voter(self.my_id));
        !self.is_observer() || self.observer_keeps_disk || will_vote
    }
}

pub(crate) struct Local {
    pub(crate) my_id: ServerId,
    pub(crate) timing: Timing,
    pub(crate) reconfig_enabled: bool,
    /// Only an observer may be without.
    pub(crate) keeps_disk: bool,
    pub(crate) observer: bool,
    pub(crate) accepted_epoch: Epoch,
    pub(crate) current_epoch: Epoch,
    pub(crate) config: Arc<QuorumConfig>,
    /// A configuration that was proposed and is not known to be committed ("last seen"), newer than `config`.
    pub(crate) next_config: Option<Arc<QuorumConfig>>,
    pub(crate) history: History,
    /// Whether the disk takes nothing at the moment.
    pub(crate) disk_blocked: bool,
    /// The last election's round; starts at 0 with the process.
    pub(crate) round: i64,
    /// Whom this server elected last.
    pub(crate) vote: Vote,
    /// Election connections, as far as the shell has told.
    pub(crate) links: BTreeMap<ServerId, bool>,
    /// Whether the history can be trusted.
    pub(crate) standing: Standing,
    /// Voters that were heard to have no history.
    pub(crate) heard_empty: BTreeSet<ServerId>,
    /// When nobody counts any more on what an earlier life of this server promised.
    pub(crate) votes_from: Time,
    /// Whether a leader has given this life of the server all that its earlier lives may have forgotten.
    pub(crate) has_all: bool,
    /// Leaders that this server has lost, and until when it does not vote for them.
    pub(crate) avoided: BTreeMap<ServerId, Time>,
    /// How often in a row this server has left a leader, or stopped to lead, before it served.
    pub(crate) setbacks: u32,
}

impl Local {
    /// Whether `id` votes in the current or in the next configuration.
    pub(crate) fn is_voter(&self, id: ServerId) -> bool {
        self.config.is_voter(id) || self.next_config.as_ref().is_some_and(|c| c.is_voter(id))
    }

    /// All of them.
    pub(crate) fn voters(&self) -> Vec<ServerId> {
        let next = self.next_config.iter().flat_map(|c| c.voters());
        let mut voters: Vec<ServerId> = self.config.voters().chain(next).collect();
        voters.sort_unstable();
        voters.dedup();
        voters
    }

    /// Whether this server takes no part in quorums: neither now nor in the configuration to come, or because it may not
    /// vote.
    pub(crate) fn only_observes(&self) -> bool {
        if self.is_voter(self.my_id) {
            !self.is_whole()
        } else {
            self.observer
        }
    }

    /// Whether there is a connection to this server on which messages get there and back.
    pub(crate) fn reaches(&self, id: ServerId) -> bool {
        id == self.my_id || self.links.get(&id) == Some(&true)
    }

    /// Whether the log has to go on before this server can say in an election where its history ends, and keep what it
    /// says.
    pub(crate) fn waits_for_log(&self) -> bool {
        self.history.is_truncating() || self.disk_blocked && !self.history.is_durable()
    }

    /// Whether this server does not vote for it at the moment.
    pub(crate) fn avoids(&self, now: Time, id: ServerId) -> bool {
        self.avoided.get(&id).is_some_and(|until| now < *until)
    }

    /// A connection came up or broke. What comes up anew has just shown that both directions work.
    pub(crate) fn link(&mut self, peer: ServerId, up: bool) {
        if self.links.insert(peer, up) != Some(up) && up {
            self.avoided.remove(&peer);
        }
    }

    /// How long this time a leader may wait for a quorum to connect.
    pub(crate) fn discovery_ms(&self) -> u64 {
        self.timing.doubled(self.timing.discovery_ms, self.setbacks)
    }

    /// How long this time a learner may try to connect.
    pub(crate) fn connect_ms(&self) -> u64 {
        self.timing.doubled(self.timing.connect_ms, self.setbacks)
    }

    /// A voter needs a disk: an observer that had none begins to keep one.
    fn keep_disk_as_voter(&mut self, effects: &mut Vec<Effect>) {
        if self.keeps_disk || !self.is_voter(self.my_id) {
            return;
        }
        self.keeps_disk = true;
        effects.push(Effect::SaveAcceptedEpoch(self.accepted_epoch));
        effects.push(Effect::SaveSnapshot(self.history.applied()));
        effects.extend(
            self.history
                .after(self.history.applied())
                .cloned()
                .map(Effect::Append),
        );
        self.history.move_to_disk();
    }

    /// Whether this server may be elected. A voter of the configuration to come may: it can be the one that has the newest
    /// history, and quorums of both configurations must want it.
    pub(crate) fn may_stand(&self) -> bool {
        let me = self.my_id;
        let will_vote = self.next_config.as_ref().is_some_and(|c| c.is_voter(me));
        (self.config.is_voter(me) && !self.observer || will_vote) && self.is_whole()
    }

    /// Whether the servers that have it are a quorum of every configuration that counts.
    pub(crate) fn is_quorum(&self, has: impl Fn(ServerId) -> bool) -> bool {
        self.config.is_quorum(&has) && self.next_config.as_ref().is_none_or(|c| c.is_quorum(&has))
    }

    /// The configuration that this server has seen last.
    pub(crate) fn last_seen_config(&self) -> &Arc<QuorumConfig> {
        self.next_config.as_ref().unwrap_or(&self.config)
    }

    /// Tells a vote.
    pub(crate) fn notification(&self, state: PeerState, round: i64, vote: Vote) -> Notification {
        Notification {
            state,
            leader: vote.leader,
            zxid: vote.zxid,
            round,
            peer_epoch: vote.peer_epoch,
            version: Notification::VERSION,
            config: self.config.to_string(),
        }
    }

    /// A configuration was proposed.
    pub(crate) fn see_config(&mut self, config: QuorumConfig, effects: &mut Vec<Effect>) {
        if self.reconfig_enabled && config.version > self.last_seen_config().version {
            let config = Arc::new(config);
            effects.push(Effect::SaveNextConfig(config.clone()));
            self.next_config = Some(config);
            self.keep_disk_as_voter(effects);
        }
    }

    /// The history ends here now: a configuration that was proposed later is void.
    pub(crate) fn forget_config_after(&mut self, zxid: Zxid, effects: &mut Vec<Effect>) {
        if self
            .next_config
            .take_if(|next| next.version > zxid)
            .is_some()
        {
            effects.push(Effect::ForgetNextConfig);
        }
    }

    /// A configuration was committed.
    pub(crate) fn activate_config(&mut self, config: Arc<QuorumConfig>, effects: &mut Vec<Effect>) {
        if !self.reconfig_enabled || config.version <= self.config.version {
            return;
        }
        let role = config.member(self.my_id).map(|m| m.role);
        self.observer = role == Some(MemberRole::Observer);
        self.next_config
            .take_if(|next| next.version <= config.version);
        effects.push(Effect::SaveConfig(config.clone()));
        self.config = config;
        self.keep_disk_as_voter(effects);
    }

    /// The configuration that was seen last is the one now.
    pub(crate) fn activate_last_seen_config(&mut self, effects: &mut Vec<Effect>) {
        let config = self.last_seen_config().clone();
        self.activate_config(config, effects);
    }
}
