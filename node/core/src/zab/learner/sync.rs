//! How a learner takes over its leader's history: the promise, the cut or the snapshot, and the end of synchronization.

use super::{Learner, State};
use crate::effect::{Effect, Leave, LinkId, RoleInfo};
use crate::local::Local;
use crate::proto::election::PeerState;
use crate::proto::quorum::Packet;
use crate::quorum::config::QuorumConfig;
use crate::zab::history::History;
use crate::zxid::{Epoch, Time, Zxid};

impl Learner {
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

    pub(super) fn agree(
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
        self.epoch = epoch;
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

    pub(super) fn truncate(
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
    pub(super) fn begin_history(&mut self, history: &History) {
        self.committed = history.last();
        self.acked = history.last();
        self.state = State::AwaitingNewLeader;
    }

    pub(super) fn has_history(&self) -> bool {
        use State::{AwaitingNewLeader, AwaitingOwnDisk, AwaitingUpToDate, Broadcasting};
        matches!(
            self.state,
            AwaitingNewLeader | AwaitingOwnDisk | AwaitingUpToDate | Broadcasting
        )
    }

    pub(super) fn new_leader(
        &mut self,
        local: &mut Local,
        epoch: Epoch,
        config: Option<&[u8]>,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Leave> {
        if epoch != self.epoch {
            let agreed = self.epoch;
            return Err(Leave::Look(format!(
                "NEWLEADER of epoch {epoch} where {agreed} was agreed"
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
            effects.push(Effect::SaveCurrentEpoch(self.epoch));
        }
        if mutant!(Zk3911) {
            self.committed = local.history.last();
            self.apply(local, effects);
        }
        Ok(())
    }

    pub(super) fn up_to_date(
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
    pub(super) fn become_whole(
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
}
