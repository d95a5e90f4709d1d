//! One server of an ensemble, as far as agreeing on the history of transactions goes: it elects, leads, follows, observes.
//!
//! The peer routes what happens to its role and moves between roles. Transactions are cargo: it never sees the tree.
//!
//! ```text
//!          ┌───────────────── lost, or not established ───────────────┐
//!          ▼                                                          │
//!       Looking ──elected──► Leading | Following | Observing ─────────┤
//!          ▲                                                          │
//!          └── Settling (the log is being cut, or does not get on) ◄──┘
//! ```

mod seen;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::effect::{Effect, Input, Leave, LinkId, RoleInfo};
use crate::election::vote::Vote;
use crate::election::{Elected, Election};
use crate::local::Local;
pub use crate::local::PeerConfig;
use crate::proto::election::{Notification, PeerState};
use crate::proto::quorum::Packet;
use crate::quorum::config::QuorumConfig;
pub use crate::standing::Recovered;
pub use crate::timing::Timing;
use crate::zab::history::History;
use crate::zab::leader::Leader;
use crate::zab::learner::Learner;
use crate::zxid::{ServerId, Time, Zxid};

/// Connections that may wait for this server to be elected.
const EARLY_LEARNERS_MAX: usize = 64;

/// A learner that connected before this server knew that it leads.
#[derive(Debug)]
struct EarlyLearner {
    until: Time,
    packet: Option<Packet>,
}

enum Role {
    Looking(Election),
    Leading(Leader),
    Following(Learner),
    Observing(Learner),
    /// Waits for the log before it may say in an election where its history ends.
    Settling,
    Halted,
}

/// One server of an ensemble.
pub struct Peer {
    local: Local,
    role: Role,
    links_dialled: u64,
    /// When it was stepped last.
    stepped_at: Time,
    early: BTreeMap<LinkId, EarlyLearner>,
    /// What a role's start asked for, until the first step.
    started: Vec<Effect>,
}

impl Peer {
    /// A server that begins to look for a leader. What it has to do first comes out of its first step.
    #[must_use]
    pub fn new(config: PeerConfig, recovered: Recovered, now: Time) -> Self {
        let Recovered {
            accepted_epoch,
            current_epoch,
            last_zxid,
            recent,
            last_seen_config,
            standing,
        } = recovered;
        let observer = config.is_observer();
        let keeps_disk = config.keeps_disk(last_seen_config.as_ref());
        let next_config = last_seen_config
            .filter(|c| config.reconfig_enabled && c.version > config.config.version);
        let votes_from = now.after(config.timing.init_ms());
        let mut peer = Self {
            local: Local {
                my_id: config.my_id,
                timing: config.timing,
                reconfig_enabled: config.reconfig_enabled,
                keeps_disk,
                observer,
                accepted_epoch,
                current_epoch,
                config: Arc::new(config.config),
                next_config: next_config.map(Arc::new),
                history: History::recovered(recent, last_zxid),
                disk_blocked: false,
                round: 0,
                vote: Vote::NONE,
                links: BTreeMap::new(),
                standing,
                heard_empty: BTreeSet::new(),
                votes_from,
                has_all: false,
                avoided: BTreeMap::new(),
                setbacks: 0,
            },
            role: Role::Settling,
            links_dialled: 0,
            stepped_at: now,
            early: BTreeMap::new(),
            started: Vec::new(),
        };
        let mut effects = Vec::new();
        peer.look(now, "started".into(), false, &mut effects);
        peer.started = effects;
        peer
    }

    /// Advances the peer by one input. Never blocks and never fails.
    pub fn step(&mut self, now: Time, input: Input, effects: &mut Vec<Effect>) {
        effects.append(&mut self.started);
        if matches!(self.role, Role::Halted) {
            return;
        }
        self.notice_pause(now);
        let result = self.route(now, input, effects);
        match result {
            Ok(()) => {}
            Err(Leave::Look(why)) => self.leave(now, why, false, effects),
            Err(Leave::Resign(why)) => self.leave(now, why, true, effects),
            Err(Leave::Halt(why)) => {
                self.role = Role::Halted;
                effects.push(Effect::Halt(why));
            }
        }
    }

    /// The latest time at which `Input::Tick` is due.
    #[must_use]
    pub fn next_deadline(&self) -> Time {
        if !self.started.is_empty() {
            return Time(0);
        }
        let local = &self.local;
        // Looking at the clock is what shows a pause.
        let look = self.stepped_at.after(local.timing.beat_ms());
        let role = match &self.role {
            Role::Looking(election) => election.next_deadline(self.stepped_at, local),
            Role::Leading(leader) => leader.next_deadline(self.stepped_at, local).min(look),
            Role::Following(learner) | Role::Observing(learner) => {
                learner.next_deadline(local).min(look)
            }
            Role::Settling | Role::Halted => Time(u64::MAX),
        };
        self.early.values().map(|e| e.until).fold(role, Time::min)
    }

    /// What this server has slept is nobody else's silence. Until the tick that is due comes, each input finds it late; what
    /// an earlier one found has been excused.
    fn notice_pause(&mut self, now: Time) {
        let since = self.next_deadline().max(self.stepped_at);
        let late_ms = now.0.saturating_sub(since.0);
        self.stepped_at = now;
        if late_ms == 0 {
            return;
        }
        match &mut self.role {
            Role::Looking(election) if late_ms >= self.local.timing.beat_ms() => {
                election.excuse(now, &self.local);
            }
            Role::Leading(leader) => leader.excuse(now, late_ms, &self.local),
            Role::Following(learner) | Role::Observing(learner) => {
                learner.excuse(now, late_ms, &self.local);
            }
            Role::Looking(_) | Role::Settling | Role::Halted => {}
        }
    }

    fn route(&mut self, now: Time, input: Input, effects: &mut Vec<Effect>) -> Result<(), Leave> {
        match input {
            Input::Tick => self.tick(now, effects),
            Input::Notification { from, notification } => {
                self.notification(now, from, &notification, effects);
                Ok(())
            }
            Input::ElectionLink { peer, up } => {
                self.local.link(peer, up);
                if let Role::Looking(election) = &mut self.role {
                    let elected = election.link(now, &self.local, peer, up, effects);
                    self.take_part(now, elected, effects);
                }
                Ok(())
            }
            Input::LinkUp(link) => {
                self.link_up(now, link, effects);
                Ok(())
            }
            Input::LinkDown(link) => self.link_down(now, link),
            Input::Packet { link, packet } => self.packet(now, link, packet, effects),
            Input::SnapshotReceived { link, zxid } => {
                if let Role::Following(learner) | Role::Observing(learner) = &mut self.role {
                    learner.snapshot_received(now, &mut self.local, link, zxid, effects);
                }
                Ok(())
            }
            Input::SnapshotSaved(zxid) => {
                self.local.history.snapshot_saved(zxid);
                self.flushed(now, effects)
            }
            Input::Flushed(zxid) => {
                self.local.history.set_flushed(zxid);
                self.flushed(now, effects)
            }
            Input::Truncated(zxid) => self.truncated(now, zxid, effects),
            Input::Propose(proposal) => match &mut self.role {
                Role::Leading(leader) => leader.propose(now, &mut self.local, proposal, effects),
                _ => Err(Leave::Halt(format!(
                    "proposal {} from a server that does not lead",
                    proposal.zxid
                ))),
            },
            Input::Forward(forward) => {
                if let Role::Following(learner) | Role::Observing(learner) = &self.role {
                    learner.forward(forward, effects);
                }
                Ok(())
            }
            Input::Answer { link, answer } => {
                if let Role::Leading(leader) = &self.role {
                    leader.answer(link, answer, effects);
                }
                Ok(())
            }
            Input::Touched {
                link,
                zxid,
                sessions,
            } => {
                if let Role::Following(learner) | Role::Observing(learner) = &self.role {
                    learner.touched(link, zxid, sessions, effects);
                }
                Ok(())
            }
            Input::Resign => self.resign(now),
            Input::DiskBlocked(blocked) => self.disk_blocked(now, blocked, effects),
            Input::DiskOverrun => self.disk_overrun(),
        }
    }

    fn resign(&mut self, now: Time) -> Result<(), Leave> {
        match &mut self.role {
            Role::Leading(leader) => leader.resign(now, &self.local),
            _ => Ok(()),
        }
    }

    fn disk_blocked(
        &mut self,
        now: Time,
        blocked: bool,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Leave> {
        self.local.disk_blocked = blocked;
        match &mut self.role {
            Role::Leading(leader) if leader.is_established() => {
                leader.hand_over_if_blocked(now, &self.local)
            }
            Role::Leading(_) if self.local.waits_for_log() => {
                Err(Leave::look("the disk is blocked"))
            }
            Role::Following(learner) | Role::Observing(learner)
                if !learner.is_broadcasting() && self.local.waits_for_log() =>
            {
                Err(Leave::look("the disk is blocked"))
            }
            Role::Looking(_) if self.local.waits_for_log() => {
                self.look(now, "the disk is blocked".into(), false, effects);
                Ok(())
            }
            Role::Settling => {
                self.settle(now, effects);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn disk_overrun(&self) -> Result<(), Leave> {
        match &self.role {
            Role::Following(_) | Role::Observing(_) if self.local.disk_blocked => {
                Err(Leave::look("too much waits for the disk"))
            }
            _ => Ok(()),
        }
    }

    /// The log got on.
    fn settle(&mut self, now: Time, effects: &mut Vec<Effect>) {
        if !self.local.waits_for_log() {
            self.look(now, "the log has got on".into(), false, effects);
        }
    }

    fn tick(&mut self, now: Time, effects: &mut Vec<Effect>) -> Result<(), Leave> {
        let late: Vec<LinkId> = self
            .early
            .iter()
            .filter(|(_, e)| e.until <= now)
            .map(|(link, _)| *link)
            .collect();
        for link in late {
            self.early.remove(&link);
            effects.push(Effect::CloseLink(link));
        }
        match &mut self.role {
            Role::Looking(_) if self.local.becomes_whole(now, effects) => {
                self.look(now, "its vote counts again".into(), false, effects);
                Ok(())
            }
            Role::Looking(election) => {
                let elected = election.tick(now, &mut self.local, effects);
                self.take_part(now, elected, effects);
                Ok(())
            }
            Role::Leading(leader) => leader.tick(now, &self.local, effects),
            Role::Following(learner) | Role::Observing(learner) => {
                let link = LinkId::dialled(self.links_dialled);
                self.links_dialled += 1;
                learner.tick(now, &self.local, link, effects)
            }
            Role::Settling | Role::Halted => Ok(()),
        }
    }

    /// A vote arrived: take part in the election, or tell the outcome of the last one.
    fn notification(
        &mut self,
        now: Time,
        from: ServerId,
        n: &Notification,
        effects: &mut Vec<Effect>,
    ) {
        if from == self.local.my_id || matches!(self.role, Role::Settling) {
            return;
        }
        let is_voter = self.local.is_voter(from);
        let state = self.state();
        // Who has a leader is told nothing: it would answer, and so on for ever.
        let asks = n.state == PeerState::Looking;
        let Role::Looking(election) = &mut self.role else {
            if asks {
                let notification =
                    self.local
                        .notification(state, self.local.round, self.local.vote);
                effects.push(Effect::Notify {
                    to: from,
                    notification,
                });
            }
            return;
        };
        if !is_voter {
            if asks {
                election.answer(now, &self.local, from, effects);
            }
            return;
        }
        if self.local.reconfig_enabled
            && let Ok(config) = QuorumConfig::parse(&n.config)
            && config.version > self.local.config.version
        {
            let differs = !config.same_members(&self.local.config);
            self.local.activate_config(config.into(), effects);
            if differs {
                self.look(now, "a newer configuration came".into(), false, effects);
                return;
            }
        }
        let elected = election.notification(now, &mut self.local, from, n, effects);
        self.take_part(now, elected, effects);
    }

    /// Begins the role that an election gave.
    fn take_part(&mut self, now: Time, elected: Option<Elected>, effects: &mut Vec<Effect>) {
        let Some(Elected { vote, round }) = elected else {
            return;
        };
        self.local.vote = vote;
        self.local.round = round;
        let early = std::mem::take(&mut self.early);
        if vote.leader == self.local.my_id {
            self.announce(
                PeerState::Leading,
                Some(vote.leader),
                "elected".into(),
                effects,
            );
            match Leader::start(now, &mut self.local, effects) {
                Ok(leader) => self.role = Role::Leading(leader),
                Err(Leave::Look(why) | Leave::Resign(why) | Leave::Halt(why)) => {
                    return self.look(now, why, false, effects);
                }
            }
            for (link, EarlyLearner { packet, .. }) in early {
                self.step(now, Input::LinkUp(link), effects);
                if let Some(packet) = packet {
                    self.step(now, Input::Packet { link, packet }, effects);
                }
            }
            return;
        }
        effects.extend(early.into_keys().map(Effect::CloseLink));
        let link = LinkId::dialled(self.links_dialled);
        self.links_dialled += 1;
        let state = if self.local.only_observes() {
            PeerState::Observing
        } else {
            PeerState::Following
        };
        self.announce(state, Some(vote.leader), "elected".into(), effects);
        let learner = Learner::start(now, &self.local, vote.leader, link, effects);
        self.role = match self.local.only_observes() {
            true => Role::Observing(learner),
            false => Role::Following(learner),
        };
    }

    fn link_up(&mut self, now: Time, link: LinkId, effects: &mut Vec<Effect>) {
        match &mut self.role {
            Role::Leading(leader) if !link.is_dialled() => leader.link_up(now, &self.local, link),
            Role::Following(learner) | Role::Observing(learner) if link.is_dialled() => {
                learner.link_up(now, &self.local, link, effects);
            }
            Role::Looking(_) if !link.is_dialled() && self.early.len() < EARLY_LEARNERS_MAX => {
                let until = now.after(self.local.timing.early_learner_ms);
                self.early.insert(
                    link,
                    EarlyLearner {
                        until,
                        packet: None,
                    },
                );
            }
            _ => effects.push(Effect::CloseLink(link)),
        }
    }

    fn link_down(&mut self, now: Time, link: LinkId) -> Result<(), Leave> {
        self.early.remove(&link);
        match &mut self.role {
            Role::Leading(leader) => leader.link_down(&self.local, link),
            Role::Following(learner) | Role::Observing(learner) => {
                learner.link_down(now, &self.local, link)
            }
            Role::Looking(_) | Role::Settling | Role::Halted => Ok(()),
        }
    }

    fn packet(
        &mut self,
        now: Time,
        link: LinkId,
        packet: Packet,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Leave> {
        match &mut self.role {
            Role::Leading(leader) => leader.packet(now, &mut self.local, link, packet, effects),
            Role::Following(learner) | Role::Observing(learner) => {
                learner.packet(now, &mut self.local, link, packet, effects)
            }
            Role::Looking(_) => {
                // A learner says one thing before it is answered.
                match self.early.get_mut(&link) {
                    Some(early) if early.packet.is_none() => early.packet = Some(packet),
                    Some(_) => {
                        self.early.remove(&link);
                        effects.push(Effect::CloseLink(link));
                    }
                    None => {}
                }
                Ok(())
            }
            Role::Settling | Role::Halted => Ok(()),
        }
    }

    fn flushed(&mut self, now: Time, effects: &mut Vec<Effect>) -> Result<(), Leave> {
        match &mut self.role {
            Role::Leading(leader) => leader.flushed(now, &mut self.local, effects),
            Role::Following(learner) | Role::Observing(learner) => {
                learner.flushed(now, &mut self.local, effects);
                Ok(())
            }
            Role::Settling => {
                self.settle(now, effects);
                Ok(())
            }
            Role::Looking(_) | Role::Halted => Ok(()),
        }
    }

    fn truncated(&mut self, now: Time, zxid: Zxid, effects: &mut Vec<Effect>) -> Result<(), Leave> {
        if !self.local.history.is_truncating() {
            return Err(Leave::Halt(format!(
                "the log was cut to {zxid} without being asked to"
            )));
        }
        self.local.history.truncated(zxid);
        match &mut self.role {
            Role::Following(learner) | Role::Observing(learner) => {
                let link = LinkId::dialled(self.links_dialled);
                self.links_dialled += 1;
                learner.truncated(now, &mut self.local, link, effects)
            }
            Role::Settling => {
                self.settle(now, effects);
                Ok(())
            }
            Role::Looking(_) | Role::Leading(_) | Role::Halted => Ok(()),
        }
    }

    /// Ends a role.
    fn leave(&mut self, now: Time, why: String, resigned: bool, effects: &mut Vec<Effect>) {
        // Whom nobody has followed makes way too.
        let leader = self
            .leader()
            .filter(|leader| *leader != self.local.my_id || !self.is_serving());
        match &self.role {
            Role::Leading(leader) => leader.close(effects),
            Role::Following(learner) | Role::Observing(learner) => learner.close(effects),
            Role::Looking(_) | Role::Settling | Role::Halted => {}
        }
        self.local.setbacks = match self.is_serving() {
            true => 0,
            false => self.local.setbacks.saturating_add(1),
        };
        if let Some(leader) = leader {
            let until = now.after(self.local.timing.avoid_ms);
            self.local.avoided.insert(leader, until);
        }
        #[cfg(feature = "mutants")]
        {
            if mutant!(Zk4712) && !matches!(self.role, Role::Leading(_)) {
                self.local.history.forget_unflushed();
            }
        }
        self.look(now, why, resigned, effects);
    }

    fn look(&mut self, now: Time, why: String, resigned: bool, effects: &mut Vec<Effect>) {
        if self.is_serving() {
            effects.push(Effect::StopServing);
        }
        self.announce(PeerState::Looking, None, why, effects);
        if self.local.waits_for_log() {
            self.role = Role::Settling;
            return;
        }
        let abstain_until = resigned.then(|| now.after(self.local.timing.resign_ms));
        let (election, elected) = Election::start(now, &mut self.local, abstain_until, effects);
        self.role = Role::Looking(election);
        self.take_part(now, elected, effects);
    }

    fn announce(
        &self,
        state: PeerState,
        leader: Option<ServerId>,
        why: String,
        effects: &mut Vec<Effect>,
    ) {
        effects.push(Effect::RoleChanged(RoleInfo {
            state,
            epoch: self.local.current_epoch,
            leader,
            why,
        }));
    }
}
