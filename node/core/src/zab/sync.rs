//! How to bring a learner up to date (protocol reference §4.5): the plan is one pure function.

use super::history::History;
use super::learner_link::LearnerLink;
use crate::effect::{Effect, LinkId};
use crate::local::Local;
use crate::proto::quorum::Packet;
use crate::zxid::{Time, Zxid};

/// What a leader does for a learner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SyncPlan {
    /// The learner's history is a beginning of ours: send what comes after this.
    Diff { after: Zxid },
    /// The learner has what we have not: it must cut its history back to this, then gets what comes after.
    Truncate { to: Zxid },
    /// Send everything.
    Snapshot,
}

/// Decides for a learner whose history ends at `peer_last`. `committed` is where ours ends, not counting what is
/// still waiting for acks; `start` is the zxid at which our epoch began, if the learner can be of that epoch.
///
/// A zxid with counter 0 names no transaction but the state in which its epoch began. It is never cut back.
pub(crate) fn plan_sync(
    peer_last: Zxid,
    history: &History,
    committed: Zxid,
    start: Zxid,
) -> SyncPlan {
    let max = history.last_up_to(committed);
    let at_epoch_start = peer_last.counter() == 0;
    if peer_last == max || (at_epoch_start && peer_last == start && peer_last > max) {
        return SyncPlan::Diff { after: peer_last };
    }
    if peer_last > max {
        // Only within an epoch is it certain that the learner has the transaction it is cut back to.
        let shared = peer_last.epoch() == max.epoch() && max.counter() != 0;
        if mutant!(NoTruncation) {
            return SyncPlan::Diff { after: peer_last };
        }
        return if shared && !at_epoch_start {
            SyncPlan::Truncate { to: max }
        } else {
            SyncPlan::Snapshot
        };
    }
    if peer_last < history.base() {
        return SyncPlan::Snapshot;
    }
    let before = history.last_up_to(peer_last);
    if before == peer_last {
        return SyncPlan::Diff { after: peer_last };
    }
    let Some(next) = history.after(peer_last).next() else {
        return SyncPlan::Snapshot;
    };
    if at_epoch_start && next.zxid.epoch() == peer_last.epoch() {
        return SyncPlan::Diff { after: peer_last };
    }
    // The learner's last transaction is unknown here.
    if next.zxid.epoch() == peer_last.epoch() && before.counter() != 0 {
        return SyncPlan::Truncate { to: before };
    }
    SyncPlan::Snapshot
}

/// Sends a learner what its history lacks: what is committed with its commits, what is not only to followers.
pub(crate) fn send_history(
    local: &Local,
    link: LinkId,
    learner: &mut LearnerLink,
    last_zxid: Zxid,
    committed: Zxid,
    give_up_at: Time,
    effects: &mut Vec<Effect>,
) {
    let history = &local.history;
    let mut send = |packet| effects.push(Effect::Send { link, packet });
    let after = match plan_sync(last_zxid, history, committed, local.current_epoch.start()) {
        SyncPlan::Diff { after } => {
            send(Packet::Diff(history.last_up_to(committed).max(after)));
            after
        }
        SyncPlan::Truncate { to } => {
            send(Packet::Trunc(to));
            to
        }
        SyncPlan::Snapshot => {
            effects.push(Effect::SendSnapshot {
                link,
                zxid: history.applied(),
            });
            history.applied()
        }
    };
    for proposal in history.after(after) {
        let is_committed = proposal.zxid <= committed;
        if is_committed || !learner.observer {
            effects.push(Effect::Send {
                link,
                packet: Packet::Proposal(proposal.clone()),
            });
        }
        if is_committed {
            effects.push(Effect::Send {
                link,
                packet: Packet::Commit(proposal.zxid),
            });
        } else if !learner.observer {
            learner.sent(proposal.zxid, give_up_at);
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::proto::quorum::Proposal;

    #[test]
    fn every_case_of_the_table() {
        let z = |epoch: i64, counter: i64| Zxid(epoch << 32 | counter);
        let recent = [z(1, 4), z(1, 5), z(1, 7), z(3, 1), z(3, 2), z(3, 3)];
        let entries = recent
            .map(|zxid| Proposal {
                zxid,
                data: Bytes::new(),
            })
            .to_vec();
        let history = History::recovered(entries, z(3, 3));
        let rows = [
            ("the same", z(3, 2), SyncPlan::Diff { after: z(3, 2) }),
            (
                "ahead of what is committed",
                z(3, 3),
                SyncPlan::Truncate { to: z(3, 2) },
            ),
            ("ahead, of a later epoch", z(4, 9), SyncPlan::Snapshot),
            (
                "ahead, at the start of a later epoch",
                z(4, 0),
                SyncPlan::Snapshot,
            ),
            ("behind", z(1, 5), SyncPlan::Diff { after: z(1, 5) }),
            (
                "just before what is kept",
                z(1, 3),
                SyncPlan::Diff { after: z(1, 3) },
            ),
            (
                "behind, unknown, within an epoch",
                z(1, 6),
                SyncPlan::Truncate { to: z(1, 5) },
            ),
            (
                "behind, unknown, at the end of an epoch",
                z(1, 8),
                SyncPlan::Snapshot,
            ),
            (
                "behind, unknown, of an epoch of its own",
                z(2, 1),
                SyncPlan::Snapshot,
            ),
            (
                "at the start of an epoch with transactions",
                z(3, 0),
                SyncPlan::Diff { after: z(3, 0) },
            ),
            (
                "at the start of an epoch without",
                z(2, 0),
                SyncPlan::Snapshot,
            ),
            ("far behind", z(1, 2), SyncPlan::Snapshot),
            ("empty", Zxid::ZERO, SyncPlan::Snapshot),
        ];
        for (name, peer_last, plan) in rows {
            assert_eq!(
                plan_sync(peer_last, &history, z(3, 2), z(3, 0)),
                plan,
                "{name}"
            );
        }
    }

    #[test]
    fn a_learner_at_the_start_of_our_epoch_needs_nothing_while_that_is_empty() {
        let history = History::recovered(Vec::new(), Zxid(5));
        let start = Zxid(7 << 32);
        assert_eq!(
            plan_sync(start, &history, Zxid(5), start),
            SyncPlan::Diff { after: start }
        );
    }
}
