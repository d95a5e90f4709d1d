//! The leader: discovery, synchronization, broadcast (protocol reference §4.3–§4.8).
//!
//! ```text
//! Discovery ─quorum connected─► AwaitingEpochAcks ─quorum promised─► AwaitingOwnDisk ─history durable─►
//! Synchronization ─quorum has the history─► Broadcast
//! ```
//!
//! Learners go through the same phases one by one; one that comes late catches up with the phase that the leader is in.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::learner_link::{LearnerLink, LearnerState};
use super::proposals::Proposals;
use super::sync::send_history;
use crate::effect::{Answer, Effect, Leave, LinkId, RoleInfo};
use crate::local::Local;
use crate::proto::election::PeerState;
use crate::proto::quorum::{LeaderInfo, LearnerInfo, PROTOCOL_VERSION, Packet};
use crate::timing::Silence;
use crate::zxid::{Epoch, ServerId, Time, Zxid};

mod broadcast;

/// What the leader waits for.
#[derive(Debug)]
enum Phase {
    /// A quorum to connect and say which epochs they have agreed to.
    Discovery,
    /// A quorum to agree to the new epoch.
    AwaitingEpochAcks,
    /// The own history to be durable: only then may it be called that of the new epoch.
    AwaitingOwnDisk,
    /// A quorum to have the leader's history.
    Synchronization,
    /// Nothing: it leads.
    Broadcast(Proposals),
}

#[derive(Debug)]
pub(crate) struct Leader {
    phase: Phase,
    /// Connections that have not said who they are, and how long they may be silent.
    strangers: BTreeMap<LinkId, Time>,
    learners: BTreeMap<LinkId, LearnerLink>,
    /// When it gives up unless a quorum has connected by then, and later, unless it leads.
    establish_by: Time,
    ping_at: Time,
    /// While it hands over: when it goes in any case.
    resigning_until: Option<Time>,
}

impl Leader {
    pub(crate) fn start(
        now: Time,
        local: &mut Local,
        effects: &mut Vec<Effect>,
    ) -> Result<Self, Leave> {
        let mut leader = Self {
            phase: Phase::Discovery,
            strangers: BTreeMap::new(),
            learners: BTreeMap::new(),
            establish_by: now.after(local.discovery_ms()),
            ping_at: now,
            resigning_until: None,
        };
        leader.advance(now, local, effects)?;
        Ok(leader)
    }

    pub(crate) fn is_established(&self) -> bool {
        matches!(self.phase, Phase::Broadcast(_))
    }

    pub(crate) fn next_zxid(&self) -> Option<Zxid> {
        match &self.phase {
            Phase::Broadcast(proposals) if self.resigning_until.is_none() => {
                proposals.last_proposed().next()
            }
            _ => None,
        }
    }

    pub(crate) fn outstanding(&self) -> usize {
        if let Phase::Broadcast(proposals) = &self.phase {
            proposals.outstanding()
        } else {
            0
        }
    }

    /// The learners that serve, and whether each is an observer.
    pub(crate) fn active_learners(&self) -> impl Iterator<Item = (ServerId, bool)> {
        self.learners
            .values()
            .filter(|l| l.state == LearnerState::Active)
            .map(|l| (l.id, l.observer))
    }

    /// The server at the other end of a connection.
    pub(crate) fn learner_of(&self, link: LinkId) -> Option<ServerId> {
        self.learners.get(&link).map(|l| l.id)
    }

    pub(crate) fn next_deadline(&self, now: Time, local: &Local) -> Time {
        let committed = local.history.applied();
        let learners = self.learners.values().map(|l| l.gives_up_at(committed));
        let own = if self.is_established() {
            let silences = self.followers().map(|l| l.silence.ends_at(&local.timing));
            silences
                .filter(|at| now < *at)
                .fold(self.ping_at, Time::min)
        } else {
            self.establish_by
        };
        learners
            .chain(self.strangers.values().copied())
            .chain(self.resigning_until)
            .fold(own, Time::min)
    }

    /// The followers that serve.
    fn followers(&self) -> impl Iterator<Item = &LearnerLink> {
        let serves = |l: &&LearnerLink| !l.observer && l.state == LearnerState::Active;
        self.learners.values().filter(serves)
    }

    /// Until when it is certain that no other server leads: a quorum was heard not long ago.
    pub(crate) fn fresh_until(&self, local: &Local) -> Time {
        let until = |l: &LearnerLink| l.silence.fresh_until(&local.timing);
        let mut known: Vec<(Time, ServerId)> = self.followers().map(|l| (until(l), l.id)).collect();
        known.sort_unstable();
        let me = local.my_id;
        if local.is_quorum(|id| id == me) {
            return Time(u64::MAX);
        }
        let fresh = |at: Time| {
            let has = |id: ServerId| known.iter().any(|(until, who)| *who == id && *until >= at);
            local.is_quorum(|id| id == me || has(id))
        };
        let latest = known.iter().rev().map(|(until, _)| *until);
        latest.into_iter().find(|at| fresh(*at)).unwrap_or(Time(0))
    }

    /// This server has slept for `ms`.
    pub(crate) fn excuse(&mut self, now: Time, ms: u64, local: &Local) {
        self.establish_by = self.establish_by.after(ms);
        for learner in self.learners.values_mut() {
            learner.excuse(now, ms, local);
        }
        for at in self.strangers.values_mut() {
            *at = at.after(ms);
        }
    }

    pub(crate) fn link_up(&mut self, now: Time, local: &Local, link: LinkId) {
        self.strangers
            .insert(link, now.after(local.timing.init_ms()));
    }

    pub(crate) fn link_down(&mut self, local: &Local, link: LinkId) -> Result<(), Leave> {
        self.strangers.remove(&link);
        if self.learners.contains_key(&link) {
            self.forget(local, link)
        } else {
            Ok(())
        }
    }

    /// Closes all connections; the role ends.
    pub(crate) fn close(&self, effects: &mut Vec<Effect>) {
        effects.extend(
            self.strangers
                .keys()
                .chain(self.learners.keys())
                .map(|link| Effect::CloseLink(*link)),
        );
    }

    pub(crate) fn tick(
        &mut self,
        now: Time,
        local: &Local,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Leave> {
        if self.resigning_until.is_some_and(|at| at <= now) {
            return Err(Leave::Resign(
                "handed over before all proposals were committed".into(),
            ));
        }
        if !self.is_established() && self.establish_by <= now {
            return Err(Leave::look("no quorum has followed in time"));
        }
        let silent = self
            .strangers
            .iter()
            .filter(|(_, at)| **at <= now)
            .map(|(link, _)| *link);
        let silent: Vec<LinkId> = silent
            .chain(
                self.learners
                    .iter()
                    .filter(|(_, l)| l.gives_up_at(local.history.applied()) <= now)
                    .map(|(link, _)| *link),
            )
            .collect();
        for link in silent {
            self.drop_link(local, link, effects)?;
        }
        self.check_hearing(now, local)?;
        if let Phase::Broadcast(proposals) = &self.phase
            && self.ping_at <= now
        {
            self.ping_at = now.after(local.timing.beat_ms());
            let zxid = proposals.last_proposed();
            for (link, _) in self
                .learners
                .iter()
                .filter(|(_, l)| l.state == LearnerState::Active)
            {
                effects.push(Effect::Send {
                    link: *link,
                    packet: Packet::Ping {
                        zxid,
                        sessions: None,
                    },
                });
            }
        }
        Ok(())
    }

    /// Stops to accept proposals; goes when the outstanding ones are committed.
    pub(crate) fn resign(&mut self, now: Time, local: &Local) -> Result<(), Leave> {
        if self.outstanding() == 0 {
            return Err(Leave::Resign("handed over".into()));
        }
        self.resigning_until
            .get_or_insert(now.after(local.timing.resign_ms));
        Ok(())
    }

    pub(crate) fn packet(
        &mut self,
        now: Time,
        local: &mut Local,
        link: LinkId,
        packet: Packet,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Leave> {
        if self.strangers.contains_key(&link) {
            return match packet {
                Packet::FollowerInfo {
                    accepted_epoch,
                    info,
                } => self.introduce(now, local, link, false, accepted_epoch, &info, effects),
                Packet::ObserverInfo {
                    accepted_epoch,
                    info,
                } => self.introduce(now, local, link, true, accepted_epoch, &info, effects),
                _ => self.drop_link(local, link, effects),
            };
        }
        let Some(learner) = self.learners.get_mut(&link) else {
            return Ok(());
        };
        learner.silent_at = now.after(learner.limit_ms(local));
        match packet {
            Packet::Ping { .. } => learner.silence.beat(now),
            _ => learner.silence.heard(now),
        }
        match packet {
            Packet::AckEpoch {
                last_zxid,
                current_epoch,
            } => self.ack_epoch(now, local, link, last_zxid, current_epoch, effects),
            Packet::Ack(zxid) => self.ack(now, local, link, zxid, effects),
            Packet::Ping { sessions, .. } => {
                effects.push(Effect::LearnerTouched {
                    link,
                    sessions: sessions.unwrap_or_default(),
                });
                Ok(())
            }
            Packet::Request(request) => {
                effects.push(Effect::LearnerRequest { link, request });
                Ok(())
            }
            Packet::Revalidate(session) => {
                effects.push(Effect::LearnerRevalidate { link, session });
                Ok(())
            }
            _ => self.drop_link(local, link, effects),
        }
    }

    pub(crate) fn answer(&self, link: LinkId, answer: Answer, effects: &mut Vec<Effect>) {
        if self.learners.contains_key(&link) {
            let packet = match answer {
                Answer::Sync => Packet::Sync,
                Answer::Revalidated { session, valid } => Packet::Revalidated { session, valid },
            };
            effects.push(Effect::Send { link, packet });
        }
    }

    /// Something of the own history reached the disk.
    pub(crate) fn flushed(
        &mut self,
        now: Time,
        local: &mut Local,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Leave> {
        if let Phase::Broadcast(proposals) = &mut self.phase {
            proposals.ack(local.my_id, local.history.flushed());
            return self.commit(now, local, effects);
        }
        self.advance(now, local, effects)
    }

    #[expect(clippy::too_many_arguments, reason = "the fields of one packet")]
    fn introduce(
        &mut self,
        now: Time,
        local: &mut Local,
        link: LinkId,
        observer: bool,
        accepted: Epoch,
        info: &LearnerInfo,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Leave> {
        if info.protocol < PROTOCOL_VERSION
            || info.config_version > local.config.version
            || info.id == local.my_id
        {
            return self.drop_link(local, link, effects);
        }
        self.strangers.remove(&link);
        let old = self
            .learners
            .iter()
            .find(|(_, l)| l.id == info.id)
            .map(|(link, _)| *link);
        if let Some(old) = old {
            self.drop_link(local, old, effects)?;
        }
        let state = if matches!(self.phase, Phase::Discovery) {
            LearnerState::AwaitingEpoch { accepted }
        } else {
            send_epoch(local.accepted_epoch, link, effects);
            LearnerState::AwaitingAckEpoch
        };
        if self.is_established() && local.is_voter(info.id) && accepted > local.accepted_epoch {
            // A candidate that came to nothing has its promise. It can never follow this epoch, so there must be a later one.
            return Err(Leave::Look(format!(
                "voter {} has promised epoch {accepted}",
                info.id
            )));
        }
        let silent_at = now.after(local.timing.init_ms());
        self.learners
            .insert(link, LearnerLink::new(info.id, observer, state, silent_at));
        self.advance(now, local, effects)
    }

    fn ack_epoch(
        &mut self,
        now: Time,
        local: &mut Local,
        link: LinkId,
        last_zxid: Zxid,
        current_epoch: Option<Epoch>,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Leave> {
        let counting = matches!(
            self.phase,
            Phase::AwaitingEpochAcks | Phase::AwaitingOwnDisk
        );
        let more_recent = |epoch| (epoch, last_zxid) > (local.current_epoch, local.history.last());
        let refused = counting && current_epoch.is_some_and(more_recent);
        let Some(learner) = self.learners.get_mut(&link) else {
            return Ok(());
        };
        if refused || learner.state != LearnerState::AwaitingAckEpoch {
            return self.drop_link(local, link, effects);
        }
        let promised = current_epoch.is_some() && last_zxid.0 != -1;
        learner.state = LearnerState::AwaitingEpochQuorum {
            last_zxid,
            promised,
        };
        if matches!(self.phase, Phase::Synchronization | Phase::Broadcast(_)) {
            self.synchronize(now, local, link, last_zxid, effects);
            return Ok(());
        }
        self.advance(now, local, effects)
    }

    fn ack(
        &mut self,
        now: Time,
        local: &mut Local,
        link: LinkId,
        zxid: Zxid,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Leave> {
        let Some(learner) = self.learners.get_mut(&link) else {
            return Ok(());
        };
        if learner.state == LearnerState::AwaitingNewLeaderAck {
            if mutant!(Zk4685) && zxid != local.current_epoch.start() {
                let why = format!("learner {} sent the ack of {zxid} first", learner.id);
                return Err(Leave::Look(why));
            }
            if zxid != local.current_epoch.start() {
                if zxid > local.history.last() {
                    return self.drop_link(local, link, effects);
                }
                // Apache's followers may flush a proposal before they come to say that they have the history. The one
                // counts when the other has come.
                learner.early_ack = learner.early_ack.max(Some(zxid));
                return Ok(());
            }
            learner.state = LearnerState::AwaitingActivation;
            let early_ack = learner.early_ack.take();
            if !self.is_established() {
                return self.advance(now, local, effects);
            }
            self.welcome(now, local, link, effects);
            return match early_ack {
                Some(zxid) => self.ack(now, local, link, zxid, effects),
                None => Ok(()),
            };
        }
        learner.acked(zxid);
        // Learners acknowledge NEWLEADER once more after UPTODATE.
        if zxid.counter() == 0 || learner.observer || !learner.forwarding() {
            return Ok(());
        }
        let id = learner.id;
        if zxid > local.history.last() {
            return self.drop_link(local, link, effects);
        }
        let Phase::Broadcast(proposals) = &mut self.phase else {
            return Ok(());
        };
        proposals.ack(id, zxid);
        self.commit(now, local, effects)
    }

    /// Goes as far as what the learners have said allows.
    fn advance(
        &mut self,
        now: Time,
        local: &mut Local,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Leave> {
        loop {
            match self.phase {
                Phase::Discovery if local.config.is_quorum(self.voters(local, |_| true)) => {
                    self.fix_epoch(now, local, effects);
                }
                Phase::AwaitingEpochAcks
                    if local.config.is_quorum(self.voters(local, |state| {
                        matches!(
                            state,
                            LearnerState::AwaitingEpochQuorum { promised: true, .. }
                        )
                    })) =>
                {
                    self.phase = Phase::AwaitingOwnDisk;
                }
                Phase::AwaitingOwnDisk
                    if local.history.is_durable() || mutant!(LeaderEpochBeforeHistory) =>
                {
                    self.open_epoch(now, local, effects)
                }
                Phase::Synchronization
                    if local.is_quorum(
                        self.voters(local, |state| state == LearnerState::AwaitingActivation),
                    ) =>
                {
                    return self.activate(now, local, effects);
                }
                _ => return Ok(()),
            }
        }
    }

    /// A predicate: this server itself, and each follower whose state satisfies `has`.
    fn voters(
        &self,
        local: &Local,
        has: impl Fn(LearnerState) -> bool,
    ) -> impl Fn(ServerId) -> bool {
        let me = local.my_id;
        let ids: Vec<ServerId> = self
            .learners
            .values()
            .filter(|l| !l.observer && has(l.state))
            .map(|l| l.id)
            .collect();
        move |id| id == me || ids.contains(&id)
    }

    /// A quorum is connected: the new epoch is greater than any that one of them has agreed to.
    fn fix_epoch(&mut self, now: Time, local: &mut Local, effects: &mut Vec<Effect>) {
        let accepted = self.learners.values().filter_map(|l| match l.state {
            LearnerState::AwaitingEpoch { accepted } => Some(accepted),
            _ => None,
        });
        let epoch = accepted.fold(local.accepted_epoch, Epoch::max).next();
        local.accepted_epoch = epoch;
        effects.push(Effect::SaveAcceptedEpoch(epoch));
        for (link, learner) in &mut self.learners {
            learner.state = LearnerState::AwaitingAckEpoch;
            send_epoch(epoch, *link, effects);
        }
        self.phase = Phase::AwaitingEpochAcks;
        self.establish_by = now.after(local.timing.init_ms());
    }

    /// A quorum has agreed to the epoch: nobody else can lead an older one any more. The own history becomes its first.
    fn open_epoch(&mut self, now: Time, local: &mut Local, effects: &mut Vec<Effect>) {
        local.current_epoch = local.accepted_epoch;
        effects.push(Effect::SaveCurrentEpoch(local.current_epoch));
        if local.last_seen_config().version == Zxid::ZERO {
            local.see_config(
                local.config.with_version(local.current_epoch.start()),
                effects,
            );
        }
        self.phase = Phase::Synchronization;
        let waiting: Vec<(LinkId, Zxid)> = self
            .learners
            .iter()
            .filter_map(|(link, l)| match l.state {
                LearnerState::AwaitingEpochQuorum { last_zxid, .. } => Some((*link, last_zxid)),
                _ => None,
            })
            .collect();
        for (link, last_zxid) in waiting {
            self.synchronize(now, local, link, last_zxid, effects);
        }
    }

    /// Sends a learner what it lacks, then NEWLEADER. From here on it gets what is broadcast.
    fn synchronize(
        &mut self,
        now: Time,
        local: &Local,
        link: LinkId,
        last_zxid: Zxid,
        effects: &mut Vec<Effect>,
    ) {
        let Some(learner) = self.learners.get_mut(&link) else {
            return;
        };
        let history = &local.history;
        // Before the epoch is open the whole history is what it begins with; later only what is committed counts.
        let committed = if matches!(self.phase, Phase::Broadcast(_)) {
            history.applied()
        } else {
            history.last()
        };
        let give_up_at = now.after(local.timing.init_ms());
        send_history(
            local, link, learner, last_zxid, committed, give_up_at, effects,
        );
        // Until the leader is established, what it has seen last becomes the configuration with it. Later a newer one
        // still has to be committed.
        let config = if matches!(self.phase, Phase::Broadcast(_)) {
            &local.config
        } else {
            local.last_seen_config()
        };
        let config = Some(Bytes::from(config.to_string()));
        effects.push(Effect::Send {
            link,
            packet: Packet::NewLeader {
                epoch: local.current_epoch,
                config,
            },
        });
        learner.state = LearnerState::AwaitingNewLeaderAck;
    }

    /// A quorum has the history: all of it is committed, and the epoch is open for new proposals.
    fn activate(
        &mut self,
        now: Time,
        local: &mut Local,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Leave> {
        while let Some(proposal) = local.history.apply_next() {
            effects.push(Effect::Commit(proposal));
        }
        self.phase = Phase::Broadcast(Proposals::new(local.current_epoch.start()));
        self.ping_at = now.after(local.timing.beat_ms());
        local.vote.peer_epoch = local.current_epoch;
        local.activate_last_seen_config(effects);
        let links: Vec<LinkId> = self
            .learners
            .iter()
            .filter(|(_, l)| l.state == LearnerState::AwaitingActivation)
            .map(|(link, _)| *link)
            .collect();
        for link in links {
            self.welcome(now, local, link, effects);
        }
        effects.push(Effect::RoleChanged(RoleInfo {
            state: PeerState::Leading,
            epoch: local.current_epoch,
            leader: Some(local.my_id),
            why: "a quorum has the history".into(),
        }));
        effects.push(Effect::Serve {
            records_moves: true,
        });
        if !local.may_stand() {
            return Err(Leave::look("the configuration has another leader"));
        }
        Ok(())
    }

    fn welcome(&mut self, now: Time, local: &Local, link: LinkId, effects: &mut Vec<Effect>) {
        if let Some(learner) = self.learners.get_mut(&link) {
            learner.state = LearnerState::Active;
            learner.silent_at = now.after(local.timing.sync_ms());
            learner.silence = Silence::new(now);
            effects.push(Effect::Send {
                link,
                packet: Packet::UpToDate,
            });
        }
    }

    fn drop_link(
        &mut self,
        local: &Local,
        link: LinkId,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Leave> {
        effects.push(Effect::CloseLink(link));
        self.link_down(local, link)
    }

    fn forget(&mut self, local: &Local, link: LinkId) -> Result<(), Leave> {
        let Some(learner) = self.learners.remove(&link) else {
            return Ok(());
        };
        if let Phase::Broadcast(proposals) = &mut self.phase {
            proposals.forget(learner.id);
        }
        self.check_quorum(local)
    }

    /// Who hears no quorum any more can't commit either, though it may be heard; it does not wait for the connections
    /// to break.
    fn check_hearing(&self, now: Time, local: &Local) -> Result<(), Leave> {
        let is_heard = |id: ServerId| {
            let mut followers = self.followers();
            followers.any(|l| l.id == id && now < l.silence.ends_at(&local.timing))
        };
        if self.is_established() && !local.is_quorum(|id| id == local.my_id || is_heard(id)) {
            return Err(Leave::look("hears no quorum"));
        }
        Ok(())
    }

    /// A leader without a quorum can't commit, and somebody else may lead: it stops.
    fn check_quorum(&self, local: &Local) -> Result<(), Leave> {
        if self.is_established()
            && !local.is_quorum(self.voters(local, |state| state == LearnerState::Active))
        {
            return Err(Leave::look("lost the quorum"));
        }
        Ok(())
    }
}

fn send_epoch(epoch: Epoch, link: LinkId, effects: &mut Vec<Effect>) {
    effects.push(Effect::Send {
        link,
        packet: Packet::LeaderInfo {
            epoch,
            leader: LeaderInfo {
                protocol: PROTOCOL_VERSION,
                records_moves: true,
            },
        },
    });
}
