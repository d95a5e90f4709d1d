//! A follower or an observer: it takes over its leader's history, then logs what the leader proposes and applies what the
//! leader commits (protocol reference §4.2–§4.8).
//!
//! The states are named for what they await. Nothing is applied before UPTODATE: only then it is certain that a quorum
//! has the history. The end of synchronization is one transition: once the history is durable, the epoch is saved,
//! and then the leader hears of it.

use super::history::History;
use crate::effect::{Effect, Forward, Leave, LinkId, RoleInfo};
use crate::local::Local;
use crate::proto::data::SessionTimeout;
use crate::proto::election::PeerState;
use crate::proto::quorum::{LearnerInfo, PROTOCOL_VERSION, Packet, Proposal};
use crate::quorum::config::QuorumConfig;
use crate::timing::Silence;
use crate::zxid::{Epoch, ServerId, Time, Zxid};

#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    /// The connection.
    AwaitingLink { attempts_left: u32 },
    /// The time to try again.
    AwaitingRetry { at: Time, attempts_left: u32 },
    /// The new epoch.
    AwaitingLeaderInfo,
    /// How the leader wants to bring us up to date.
    AwaitingSync,
    /// The log to be cut to this zxid. What the leader sends meanwhile is kept.
    AwaitingTruncation { to: Zxid, kept: Vec<Packet> },
    /// The rest of a snapshot.
    AwaitingSnapshot { zxid: Zxid },
    /// The rest of the leader's history.
    AwaitingNewLeader,
    /// The disk.
    AwaitingOwnDisk,
    /// The word that a quorum has the history.
    AwaitingUpToDate,
    /// Proposals and commits.
    Broadcasting,
}

#[derive(Debug)]
pub(crate) struct Learner {
    leader: ServerId,
    observer: bool,
    link: LinkId,
    state: State,
    /// When the leader counts as gone while it brings this server up to date.
    silent_at: Time,
    /// The leader's pings, from when this server is in step with it.
    silence: Silence,
    /// The history up to here is committed, though not all of it is applied yet.
    committed: Zxid,
    /// The history up to here needs no ack (any more).
    acked: Zxid,
    /// What NEWLEADER said; it counts from UPTODATE on.
    config: Option<QuorumConfig>,
    /// Whether the leader has to send a snapshot, since the log cannot be cut where it wants.
    ask_all: bool,
    /// Whether the leader writes into the history when a client moves.
    records_moves: bool,
}

impl Learner {
    pub(crate) fn start(
        now: Time,
        local: &Local,
        leader: ServerId,
        link: LinkId,
        effects: &mut Vec<Effect>,
    ) -> Self {
        effects.push(Effect::Dial { leader, link });
        Self {
            leader,
            observer: local.only_observes(),
            link,
            state: State::AwaitingLink {
                attempts_left: local.timing.dial_attempts,
            },
            silent_at: now.after(local.connect_ms()),
            silence: Silence::new(now),
            committed: Zxid::ZERO,
            acked: Zxid::ZERO,
            config: None,
            ask_all: false,
            records_moves: false,
        }
    }

    pub(crate) fn leader(&self) -> ServerId {
        self.leader
    }

    pub(crate) fn is_broadcasting(&self) -> bool {
        self.state == State::Broadcasting
    }

    /// When the leader counts as gone unless it is heard.
    fn silent_at(&self, local: &Local) -> Time {
        if self.is_broadcasting() {
            self.silence.ends_at(&local.timing)
        } else {
            self.silent_at
        }
    }

    /// Until when this server may take it that it still has its leader.
    pub(crate) fn fresh_until(&self, local: &Local) -> Time {
        self.silence.fresh_until(&local.timing)
    }

    pub(crate) fn next_deadline(&self, local: &Local) -> Time {
        let silent_at = self.silent_at(local);
        match self.state {
            State::AwaitingRetry { at, .. } => at.min(silent_at),
            _ => silent_at,
        }
    }

    /// This server has slept for `ms`.
    pub(crate) fn excuse(&mut self, now: Time, ms: u64, local: &Local) {
        self.silent_at = self.silent_at.after(ms);
        self.silence.excuse(now, ms, &local.timing);
    }

    pub(crate) fn close(&self, effects: &mut Vec<Effect>) {
        effects.push(Effect::CloseLink(self.link));
    }

    /// `new_link` names the next connection if one has to be opened.
    pub(crate) fn tick(
        &mut self,
        now: Time,
        local: &Local,
        new_link: LinkId,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Leave> {
        if self.silent_at(local) <= now {
            return Err(Leave::Look(format!("leader {} is silent", self.leader)));
        }
        if let State::AwaitingRetry { at, attempts_left } = self.state
            && at <= now
        {
            self.dial(new_link, attempts_left, effects);
        }
        Ok(())
    }

    fn dial(&mut self, link: LinkId, attempts_left: u32, effects: &mut Vec<Effect>) {
        self.link = link;
        self.state = State::AwaitingLink { attempts_left };
        effects.push(Effect::Dial {
            leader: self.leader,
            link,
        });
    }

    pub(crate) fn link_up(
        &mut self,
        now: Time,
        local: &Local,
        link: LinkId,
        effects: &mut Vec<Effect>,
    ) {
        if link != self.link || !matches!(self.state, State::AwaitingLink { .. }) {
            // It came when it was not waited for any more.
            effects.push(Effect::CloseLink(link));
            return;
        }
        let info = LearnerInfo {
            id: local.my_id,
            protocol: PROTOCOL_VERSION,
            config_version: local.config.version,
        };
        let accepted_epoch = local.accepted_epoch;
        let packet = if self.observer {
            Packet::ObserverInfo {
                accepted_epoch,
                info,
            }
        } else {
            Packet::FollowerInfo {
                accepted_epoch,
                info,
            }
        };
        self.send(packet, effects);
        self.state = State::AwaitingLeaderInfo;
        // The leader waits for others, and may have begun to later than this server.
        self.silent_at = now.after(2 * local.discovery_ms());
    }

    pub(crate) fn link_down(
        &mut self,
        now: Time,
        local: &Local,
        link: LinkId,
    ) -> Result<(), Leave> {
        if link != self.link {
            return Ok(());
        }
        match self.state {
            State::AwaitingLink { attempts_left } if attempts_left > 1 => {
                let at = now.after(local.timing.dial_pause_ms);
                self.state = State::AwaitingRetry {
                    at,
                    attempts_left: attempts_left - 1,
                };
                Ok(())
            }
            State::AwaitingLink { .. } => Err(Leave::Look(format!(
                "can't connect to leader {}",
                self.leader
            ))),
            _ => Err(Leave::Look(format!("lost leader {}", self.leader))),
        }
    }

    pub(crate) fn forward(&self, forward: Forward, effects: &mut Vec<Effect>) {
        if self.is_broadcasting() {
            let packet = match forward {
                Forward::Request(request) => Packet::Request(request),
                Forward::Revalidate(session) => Packet::Revalidate(session),
            };
            self.send(packet, effects);
        }
    }

    pub(crate) fn touched(
        &self,
        link: LinkId,
        zxid: Zxid,
        sessions: Vec<SessionTimeout>,
        effects: &mut Vec<Effect>,
    ) {
        if link == self.link {
            self.send(
                Packet::Ping {
                    zxid,
                    sessions: Some(sessions),
                },
                effects,
            );
        }
    }

    pub(crate) fn packet(
        &mut self,
        now: Time,
        local: &mut Local,
        link: LinkId,
        packet: Packet,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Leave> {
        if link != self.link {
            return Ok(());
        }
        self.heard(now, local);
        if matches!(packet, Packet::Ping { .. }) {
            self.silence.beat(now);
        }
        if let State::AwaitingTruncation { kept, .. } = &mut self.state {
            kept.push(packet);
            return Ok(());
        }
        if self.is_broadcasting() {
            self.become_whole(now, local, effects)?;
        }
        match packet {
            Packet::LeaderInfo { epoch, leader } if self.state == State::AwaitingLeaderInfo => {
                self.records_moves = leader.records_moves;
                self.agree(local, epoch, effects)
            }
            Packet::Diff(_) if self.state == State::AwaitingSync => {
                self.begin_history(&local.history);
                Ok(())
            }
            Packet::Trunc(to) if self.state == State::AwaitingSync => {
                self.truncate(local, to, effects)
            }
            Packet::Snap(zxid) if self.state == State::AwaitingSync => {
                self.state = State::AwaitingSnapshot { zxid };
                Ok(())
            }
            Packet::NewLeader { epoch, config } if self.state == State::AwaitingNewLeader => {
                self.new_leader(local, epoch, config.as_deref(), effects)?;
                self.flushed(now, local, effects);
                Ok(())
            }
            Packet::UpToDate if self.state == State::AwaitingUpToDate => {
                self.up_to_date(now, local, effects)
            }
            Packet::Ping { zxid, .. } => {
                effects.push(Effect::AskTouched { link, zxid });
                Ok(())
            }
            Packet::Revalidated { session, valid } => {
                effects.push(Effect::Revalidated { session, valid });
                Ok(())
            }
            Packet::Sync => {
                effects.push(Effect::SyncReply);
                Ok(())
            }
            packet if self.has_history() => self.broadcast(local, packet, effects),
            packet => Err(Leave::Look(format!(
                "leader {} sent {packet:?} in {:?}",
                self.leader, self.state
            ))),
        }
    }

    /// What belongs to the history, before or after UPTODATE.
    fn broadcast(
        &mut self,
        local: &mut Local,
        packet: Packet,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Leave> {
        match packet {
            // Observers get what is committed by INFORM once they serve.
            Packet::Proposal(_) | Packet::Commit(_) if self.observer && self.is_broadcasting() => {
                Ok(())
            }
            Packet::Proposal(proposal) => self.log(local, proposal, effects),
            Packet::Commit(zxid) => self.commit(local, zxid, effects),
            Packet::Inform(proposal) => {
                let zxid = proposal.zxid;
                self.log(local, proposal, effects)?;
                self.commit(local, zxid, effects)
            }
            Packet::CommitAndActivate { zxid, leader } => {
                self.commit_reconfig(local, zxid, leader, effects)
            }
            Packet::InformAndActivate { proposal, leader } => {
                let zxid = proposal.zxid;
                self.log(local, proposal, effects)?;
                self.commit_reconfig(local, zxid, leader, effects)
            }
            packet => Err(Leave::Look(format!(
                "leader {} sent {packet:?} in {:?}",
                self.leader, self.state
            ))),
        }
    }

    /// The leader's snapshot has arrived whole.
    pub(crate) fn snapshot_received(
        &mut self,
        now: Time,
        local: &mut Local,
        link: LinkId,
        zxid: Zxid,
        effects: &mut Vec<Effect>,
    ) {
        if link == self.link && self.state == (State::AwaitingSnapshot { zxid }) {
            self.heard(now, local);
            effects.push(Effect::InstallSnapshot { link, zxid });
            if local.keeps_disk {
                effects.push(Effect::SaveSnapshot(zxid));
            }
            local.history.replace(zxid, local.keeps_disk);
            local.forget_config_after(zxid, effects);
            self.begin_history(&local.history);
        }
    }

    /// The log was cut. `new_link` names the next connection if one has to be opened.
    pub(crate) fn truncated(
        &mut self,
        now: Time,
        local: &mut Local,
        new_link: LinkId,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Leave> {
        let State::AwaitingTruncation { to, kept } =
            std::mem::replace(&mut self.state, State::AwaitingSync)
        else {
            return Err(Leave::Halt("the log was cut without being asked to".into()));
        };
        if local.history.last() != to {
            // The log could not give what was asked for. Nothing may be given up before the leader's copy is on disk, so
            // if it is not cut at all we ask for everything; else we tell the leader where we are now.
            self.ask_all = local.history.last() > to;
            self.close(effects);
            self.silent_at = now.after(local.connect_ms());
            self.dial(new_link, local.timing.dial_attempts, effects);
            return Ok(());
        }
        self.begin_history(&local.history);
        let link = self.link;
        kept.into_iter()
            .try_for_each(|packet| self.packet(now, local, link, packet, effects))
    }

    /// Something of the history, or all of it, reached the disk.
    pub(crate) fn flushed(&mut self, now: Time, local: &mut Local, effects: &mut Vec<Effect>) {
        if self.state == State::AwaitingOwnDisk && (local.history.is_durable() || mutant!(Zk4646)) {
            local.current_epoch = local.accepted_epoch;
            if local.keeps_disk {
                effects.push(Effect::SaveCurrentEpoch(local.current_epoch));
            }
            self.send(Packet::Ack(local.current_epoch.start()), effects);
            self.state = State::AwaitingUpToDate;
            self.heard(now, local);
        }
        let early = mutant!(Zk4685 | EarlyAck) && self.state == State::AwaitingOwnDisk;
        if matches!(self.state, State::AwaitingUpToDate | State::Broadcasting) || early {
            self.ack(&local.history, effects);
        }
    }

    /// Acknowledges each proposal that is on disk, in order.
    fn ack(&mut self, history: &History, effects: &mut Vec<Effect>) {
        if self.observer {
            return;
        }
        let flushed = match mutant!(AckBeforeFsync) {
            true => history.last(),
            false => history.flushed(),
        };
        for proposal in history.after(self.acked).take_while(|p| p.zxid <= flushed) {
            effects.push(Effect::Send {
                link: self.link,
                packet: Packet::Ack(proposal.zxid),
            });
        }
        self.acked = self.acked.max(flushed);
    }

    fn agree(
        &mut self,
        local: &mut Local,
        epoch: Epoch,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Leave> {
        // Who never votes has promised nothing, whatever it heard of.
        let bound = !self.observer || local.is_mute();
        if epoch < local.accepted_epoch && bound {
            let accepted = local.accepted_epoch;
            return Err(Leave::Look(format!(
                "leader {} has epoch {epoch}, we are at {accepted}",
                self.leader
            )));
        }
        let promised = epoch > local.accepted_epoch;
        if promised {
            local.accepted_epoch = epoch;
            if local.keeps_disk && !mutant!(EpochPromiseForgotten) {
                effects.push(Effect::SaveAcceptedEpoch(epoch));
            }
        }
        let counts = promised || mutant!(EpochPromisedTwice);
        let current_epoch = counts.then_some(local.current_epoch);
        self.send(
            Packet::AckEpoch {
                last_zxid: if self.ask_all {
                    Zxid(-1)
                } else {
                    local.history.last()
                },
                current_epoch,
            },
            effects,
        );
        self.state = State::AwaitingSync;
        Ok(())
    }

    fn truncate(
        &mut self,
        local: &mut Local,
        to: Zxid,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Leave> {
        if to > local.history.last() {
            return Err(Leave::Look(format!(
                "leader {} wants to cut {} back to {to}",
                self.leader,
                local.history.last()
            )));
        }
        // Also without a log: a snapshot from an earlier leader may have held what was never committed.
        let in_tree = local.history.applied() > to;
        local.history.truncate(to);
        local.forget_config_after(to, effects);
        if local.keeps_disk || in_tree {
            effects.push(Effect::Truncate(to));
            self.state = State::AwaitingTruncation {
                to,
                kept: Vec::new(),
            };
        } else {
            local.history.truncated(to);
            self.begin_history(&local.history);
        }
        Ok(())
    }

    /// What we have now is a beginning of the leader's history.
    fn begin_history(&mut self, history: &History) {
        self.committed = history.last();
        self.acked = history.last();
        self.state = State::AwaitingNewLeader;
    }

    fn has_history(&self) -> bool {
        use State::{AwaitingNewLeader, AwaitingOwnDisk, AwaitingUpToDate, Broadcasting};
        matches!(
            self.state,
            AwaitingNewLeader | AwaitingOwnDisk | AwaitingUpToDate | Broadcasting
        )
    }

    fn new_leader(
        &mut self,
        local: &mut Local,
        epoch: Epoch,
        config: Option<&[u8]>,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Leave> {
        if epoch != local.accepted_epoch {
            let accepted = local.accepted_epoch;
            return Err(Leave::Look(format!(
                "NEWLEADER of epoch {epoch} where {accepted} was agreed"
            )));
        }
        if let Some(text) = config.filter(|text| text.len() > 1) {
            let text = String::from_utf8_lossy(text);
            let config = QuorumConfig::parse(&text)
                .map_err(|e| Leave::Look(format!("NEWLEADER's config: {e}")))?;
            local.see_config(config.clone(), effects);
            self.config = Some(config);
        }
        // What was committed before NEWLEADER is part of its ack.
        self.acked = self.committed;
        self.state = State::AwaitingOwnDisk;
        if mutant!(Zk4643) {
            effects.push(Effect::SaveCurrentEpoch(local.accepted_epoch));
        }
        if mutant!(Zk3911) {
            self.committed = local.history.last();
            self.apply(local, effects);
        }
        Ok(())
    }

    fn up_to_date(
        &mut self,
        now: Time,
        local: &mut Local,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Leave> {
        self.state = State::Broadcasting;
        #[cfg(feature = "mutants")]
        let applied = local.history.applied();
        self.apply(local, effects);
        #[cfg(feature = "mutants")]
        {
            if mutant!(Zk4925) {
                local
                    .history
                    .forget_between(applied, local.history.applied());
            }
        }
        self.send(Packet::Ack(local.current_epoch.start()), effects);
        local.vote.peer_epoch = local.current_epoch;
        if let Some(config) = self.config.take() {
            local.activate_config(config.into(), effects);
        }
        self.check_part(local)?;
        self.heard(now, local);
        effects.push(Effect::RoleChanged(RoleInfo {
            state: if self.observer {
                PeerState::Observing
            } else {
                PeerState::Following
            },
            epoch: local.current_epoch,
            leader: Some(self.leader),
            why: "in sync with the leader".into(),
        }));
        effects.push(Effect::Serve {
            records_moves: self.records_moves,
        });
        self.become_whole(now, local, effects)
    }

    /// What the leader gave makes a history that was lost whole again: this server then comes back as what it is.
    fn become_whole(
        &self,
        now: Time,
        local: &mut Local,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Leave> {
        if local.is_whole() {
            return Ok(());
        }
        local.become_whole_by_leader(now, effects);
        if local.is_whole() {
            self.check_part(local)?;
        }
        Ok(())
    }

    fn log(
        &mut self,
        local: &mut Local,
        proposal: Proposal,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Leave> {
        let last = local.history.last();
        if !proposal.zxid.follows(last) {
            return Err(Leave::Look(format!(
                "leader {} sent {} after {last}",
                self.leader, proposal.zxid
            )));
        }
        if let Some(config) = super::reconfig(&proposal).map_err(Leave::Look)? {
            local.see_config(config, effects);
        }
        let synced = matches!(self.state, State::AwaitingOwnDisk | State::AwaitingUpToDate);
        let to_disk = local.keeps_disk && !(synced && mutant!(Zk4785));
        if to_disk {
            effects.push(Effect::Append(proposal.clone()));
        }
        local.history.append(proposal, to_disk);
        if mutant!(AckBeforeFsync) && self.is_broadcasting() {
            self.ack(&local.history, effects);
        }
        if mutant!(ReplyBeforeCommit) && self.is_broadcasting() && !self.observer {
            self.committed = local.history.last();
            self.apply(local, effects);
        }
        Ok(())
    }

    fn commit(
        &mut self,
        local: &mut Local,
        zxid: Zxid,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Leave> {
        if !self.is_broadcasting() {
            let synced = matches!(self.state, State::AwaitingOwnDisk | State::AwaitingUpToDate);
            if synced && mutant!(Zk4394) {
                return Err(Leave::Halt(format!("no proposal for the commit of {zxid}")));
            }
            if synced && mutant!(Zk3023) {
                return Ok(());
            }
            if zxid > local.history.last() {
                return Err(Leave::Look(format!(
                    "leader {} committed {zxid} before it was proposed",
                    self.leader
                )));
            }
            self.committed = self.committed.max(zxid);
            return Ok(());
        }
        if mutant!(ReplyBeforeCommit) && zxid <= local.history.applied() {
            return Ok(());
        }
        if local.history.next_unapplied() != Some(zxid) {
            let next = local.history.next_unapplied();
            return Err(Leave::Halt(format!(
                "commit of {zxid} where {next:?} is the next"
            )));
        }
        self.committed = zxid;
        self.apply(local, effects);
        Ok(())
    }

    /// Applies what is committed.
    fn apply(&self, local: &mut Local, effects: &mut Vec<Effect>) {
        while local
            .history
            .next_unapplied()
            .is_some_and(|zxid| zxid <= self.committed)
            && let Some(proposal) = local.history.apply_next()
        {
            effects.push(Effect::Commit(proposal));
        }
    }

    fn commit_reconfig(
        &mut self,
        local: &mut Local,
        zxid: Zxid,
        leader: ServerId,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Leave> {
        let proposal = local
            .history
            .after(Zxid(zxid.0 - 1))
            .next()
            .filter(|p| p.zxid == zxid)
            .cloned();
        self.commit(local, zxid, effects)?;
        let config = proposal
            .map(|p| super::reconfig(&p))
            .transpose()
            .map_err(Leave::Look)?
            .flatten();
        if !local.reconfig_enabled {
            return Ok(());
        }
        if let Some(config) = config {
            local.activate_config(config.into(), effects);
        }
        self.check_part(local)?;
        if leader != self.leader {
            return Err(Leave::Look(format!(
                "the configuration gives the lead to {leader}"
            )));
        }
        Ok(())
    }

    /// A connection is a follower's or an observer's for as long as it lasts.
    fn check_part(&self, local: &Local) -> Result<(), Leave> {
        if self.observer != local.only_observes() {
            return Err(Leave::look(
                "the configuration gives this server another part",
            ));
        }
        Ok(())
    }

    /// The leader lives.
    fn heard(&mut self, now: Time, local: &Local) {
        self.silence.heard(now);
        let in_sync = matches!(self.state, State::AwaitingUpToDate | State::Broadcasting);
        self.silent_at = now.after(if in_sync {
            local.timing.sync_ms()
        } else {
            local.timing.init_ms()
        });
    }

    fn send(&self, packet: Packet, effects: &mut Vec<Effect>) {
        effects.push(Effect::Send {
            link: self.link,
            packet,
        });
    }
}
