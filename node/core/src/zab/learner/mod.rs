//! A follower or an observer: it takes over its leader's history, then logs what the leader proposes and applies what the
//! leader commits (protocol reference §4.2–§4.8).
//!
//! The states are named for what they await. Nothing is applied before UPTODATE: only then it is certain that a quorum
//! has the history. The end of synchronization is one transition: once the history is durable, the epoch is saved,
//! and then the leader hears of it.

mod sync;

use super::history::History;
use crate::effect::{Effect, Forward, Leave, LinkId};
use crate::local::Local;
use crate::proto::data::SessionTimeout;
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
    /// The leader's, once LEADERINFO has said it; before that the one of this server's history. An observer may have heard of
    /// a later one, of a leader that came to nothing.
    epoch: Epoch,
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
            epoch: local.current_epoch,
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

    /// Something of the history, or all of it, reached the disk.
    pub(crate) fn flushed(&mut self, now: Time, local: &mut Local, effects: &mut Vec<Effect>) {
        if self.state == State::AwaitingOwnDisk && (local.history.is_durable() || mutant!(Zk4646)) {
            local.current_epoch = self.epoch;
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
