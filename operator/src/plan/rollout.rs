//! Restarts: observers, then followers, the leader last. One at a time, each only when the quorum keeps a spare; the
//! first member that does not come back stops the rest. What is known to serve nobody may be restarted at any time.

use super::{Reason, Step, Verdict};
use crate::cluster::{Cluster, Role, ServerId};
use crate::desired::Desired;
use crate::observed::{Instance, Member, Observed};
use crate::safety;

pub(super) fn concern(cluster: &Cluster, desired: &Desired, observed: &Observed) -> Verdict {
    let outdated = |member: &Member| {
        member.template_hash.as_ref() != Some(&desired.template(member.role).hash)
    };
    // A condemned member that is stopped does not come back.
    let runs = |member: &Member| {
        !member.retired && member.condemned.is_none() && member.instance == Instance::Running
    };
    let members = observed
        .members
        .iter()
        .filter(|(_, member)| runs(member) && outdated(member));
    let Some(id) = members
        .map(|(id, _)| *id)
        .min_by_key(|id| rank(observed, *id))
    else {
        return Verdict::Pass;
    };
    let step = Step::Restart { id };
    match safety::may_restart(observed, id, cluster.observers_at_once) {
        Ok(()) => Verdict::Do(step),
        Err(why) => Verdict::Wait(Reason::Unsafe {
            step: step.to_string(),
            why,
        }),
    }
}

/// A member that does not serve goes first (the new configuration may be its cure), then observers, then followers,
/// the leader last.
fn rank(observed: &Observed, id: ServerId) -> (bool, bool, bool, ServerId) {
    let committed = observed
        .committed
        .as_ref()
        .and_then(|committed| committed.role(id));
    let votes = committed == Some(Role::Voter);
    (
        observed.healthy(id),
        votes,
        observed.leader() == Some(id),
        id,
    )
}
