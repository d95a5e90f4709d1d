//! The leader's broadcast: proposals go out at once, commits follow in order (protocol reference §4.8, §6.4, §6.5).

use super::{Leader, Phase};
use crate::effect::{Effect, Leave};
use crate::local::Local;
use crate::proto::quorum::{Packet, Proposal};
use crate::quorum::config::QuorumConfig;
use crate::zab;
use crate::zxid::Time;

impl Leader {
    pub(crate) fn propose(
        &mut self,
        now: Time,
        local: &mut Local,
        proposal: Proposal,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Leave> {
        let expected = self.next_zxid();
        let Phase::Broadcast(proposals) = &mut self.phase else {
            return Err(Leave::Halt(format!(
                "proposal {} from a leader that is not established",
                proposal.zxid
            )));
        };
        if expected != Some(proposal.zxid) {
            return Err(Leave::Halt(format!(
                "proposal {} where {expected:?} was due",
                proposal.zxid
            )));
        }
        if let Some(config) = reconfig(&proposal)? {
            local.see_config(config, effects);
        }
        let next = local.next_config.clone();
        let next = next.filter(|_| !mutant!(ReconfigOldQuorum));
        proposals.propose(proposal.zxid, (local.config.clone(), next));
        if mutant!(LeaderAckBeforeFsync) {
            proposals.ack(local.my_id, proposal.zxid);
        }
        local.history.append(proposal.clone(), true);
        effects.push(Effect::Append(proposal.clone()));
        for (link, learner) in self
            .learners
            .iter_mut()
            .filter(|(_, l)| !l.observer && l.forwarding())
        {
            learner.sent(proposal.zxid, now.after(learner.limit_ms(local)));
            effects.push(Effect::Send {
                link: *link,
                packet: Packet::Proposal(proposal.clone()),
            });
        }
        if proposal.zxid.next().is_none() {
            // The counter is used up: a new epoch has to begin.
            self.resigning_until = Some(now.after(local.timing.resign_ms));
        }
        Ok(())
    }

    /// Commits in order what has its quorums.
    pub(super) fn commit(
        &mut self,
        now: Time,
        local: &mut Local,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Leave> {
        while let Phase::Broadcast(proposals) = &mut self.phase
            && let Some(zxid) = proposals.take_committable()
        {
            let next = local.history.apply_next().filter(|p| p.zxid == zxid);
            let Some(proposal) = next else {
                return Err(Leave::Halt(format!(
                    "{zxid} has a quorum but is not the next to be committed"
                )));
            };
            match reconfig(&proposal)? {
                Some(config) if local.reconfig_enabled => {
                    self.commit_reconfig(local, proposal, config, effects)?
                }
                _ => {
                    self.tell_commit(
                        Packet::Commit(zxid),
                        &Packet::Inform(proposal.clone()),
                        effects,
                    );
                    effects.push(Effect::Commit(proposal));
                }
            }
        }
        if self.resigning_until.is_some() && self.outstanding() == 0 {
            return Err(Leave::Resign("handed over".into()));
        }
        self.hand_over_if_blocked(now, local)
    }

    /// With a disk that takes nothing, a leader goes when something was committed that it has not on its own disk: the others
    /// are a quorum without it. If they are not, nobody could lead better, and it goes on to serve reads.
    pub(crate) fn hand_over_if_blocked(&mut self, now: Time, local: &Local) -> Result<(), Leave> {
        let blocked = local.disk_blocked && self.resigning_until.is_none();
        if blocked && local.history.applied() > local.history.flushed() {
            return self.resign(now, local);
        }
        Ok(())
    }

    fn tell_commit(&self, to_follower: Packet, to_observer: &Packet, effects: &mut Vec<Effect>) {
        for (link, learner) in self.learners.iter().filter(|(_, l)| l.forwarding()) {
            let packet = if learner.observer {
                to_observer.clone()
            } else {
                to_follower.clone()
            };
            effects.push(Effect::Send {
                link: *link,
                packet,
            });
        }
    }

    /// A new configuration is committed; it may need another leader.
    fn commit_reconfig(
        &mut self,
        local: &mut Local,
        proposal: Proposal,
        config: QuorumConfig,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Leave> {
        let addresses = |c: &QuorumConfig| c.member(local.my_id).map(|m| m.addresses.clone());
        let stays = config.is_voter(local.my_id) && addresses(&config) == addresses(&local.config);
        let Phase::Broadcast(proposals) = &self.phase else {
            return Ok(());
        };
        let other = proposals.best_voter(&config, proposal.zxid);
        let leader = if stays {
            local.my_id
        } else {
            other.unwrap_or(local.my_id)
        };
        self.tell_commit(
            Packet::CommitAndActivate {
                zxid: proposal.zxid,
                leader,
            },
            &Packet::InformAndActivate {
                proposal: proposal.clone(),
                leader,
            },
            effects,
        );
        effects.push(Effect::Commit(proposal));
        local.activate_config(config.into(), effects);
        if leader != local.my_id {
            return Err(Leave::Resign(format!(
                "the configuration gives the lead to {leader}"
            )));
        }
        self.check_quorum(local)
    }
}

/// The configuration in a proposal. The leader's own request checks have made it, so it is well formed.
fn reconfig(proposal: &Proposal) -> Result<Option<QuorumConfig>, Leave> {
    zab::reconfig(proposal).map_err(Leave::Halt)
}
