//! Members that cannot come back with their data: others take their places, while a quorum exists without them.
//!
//! A lost member may still run where nobody sees it, so its successor has another id. What is left of it goes when
//! the membership has let it go: its pod first, and its data by policy, once it is certain that it runs no more.

use super::membership::unsettled;
use super::{Reason, Step, Verdict};
use crate::cluster::{Cluster, Role, ServerId};
use crate::desired::Desired;
use crate::membership::Membership;
use crate::observed::{Condemned, Instance, Member, Observed};
use crate::safety::{Unsafe, may_leave};

pub(super) fn concern(cluster: &Cluster, _: &Desired, observed: &Observed) -> Verdict {
    let Some(committed) = &observed.committed else {
        return Verdict::Pass;
    };
    match clear_away(cluster, observed, committed) {
        Verdict::Pass => {}
        verdict => return verdict,
    }
    let replaceable =
        condemned(observed).find(|(id, why)| hindrance(cluster, observed, *id, why).is_none());
    match replaceable {
        Some((id, why)) => Verdict::Do(Step::Replace {
            id,
            why: why.clone(),
        }),
        None => Verdict::Pass,
    }
}

/// What is said of members that must be replaced and cannot be, when there is nothing else to do or to wait for.
pub(super) fn rest(cluster: &Cluster, _: &Desired, observed: &Observed) -> Verdict {
    let hindered = condemned(observed).find_map(|(id, why)| {
        let hindrance = hindrance(cluster, observed, id, why)?;
        let why = why.clone();
        Some(Reason::Condemned { id, why, hindrance })
    });
    hindered.map_or(Verdict::Pass, Verdict::Wait)
}

/// Why a condemned member is not replaced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hindrance {
    /// The manifest says not to.
    Off,
    /// It is the only voter.
    OnlyCopy,
    /// Another member is being replaced or added.
    OneAtATime,
    /// There would be no quorum without it.
    Unsafe(Unsafe),
}

fn condemned(observed: &Observed) -> impl Iterator<Item = (ServerId, &Condemned)> {
    let members = observed
        .members
        .iter()
        .filter(|(_, member)| !member.retired);
    members.filter_map(|(id, member)| Some((*id, member.condemned.as_ref()?)))
}

fn hindrance(
    cluster: &Cluster,
    observed: &Observed,
    id: ServerId,
    why: &Condemned,
) -> Option<Hindrance> {
    let off = match why {
        // That a node is lost is only found out when the manifest allows for it.
        Condemned::NodeLost(_) => false,
        _ => !cluster.replace_damaged,
    };
    if off {
        return Some(Hindrance::Off);
    }
    let Some(committed) = &observed.committed else {
        return Some(Hindrance::Unsafe(Unsafe::NoLeader));
    };
    if committed.role(id) != Some(Role::Voter) {
        return None;
    }
    if committed.voters().count() == 1 {
        return Some(Hindrance::OnlyCopy);
    }
    // A voter that is still to come is a vote that is missing already.
    let here = |id: &ServerId| {
        observed
            .members
            .get(id)
            .is_some_and(|member| !member.retired)
    };
    if committed.voters().filter(here).count() < cluster.voters.replicas {
        return Some(Hindrance::OneAtATime);
    }
    may_leave(observed, id).err().map(Hindrance::Unsafe)
}

/// What is left of members that were given up, and that the membership no longer knows.
fn clear_away(cluster: &Cluster, observed: &Observed, committed: &Membership) -> Verdict {
    let gone = observed.members.iter();
    let gone = gone.filter(|(id, member)| member.retired && committed.role(**id).is_none());
    let runs = |member: &Member| matches!(member.instance, Instance::Running | Instance::Failed);
    let running: Vec<ServerId> = gone
        .clone()
        .filter(|(_, member)| runs(member))
        .map(|(id, _)| *id)
        .collect();
    if !running.is_empty() {
        let stop = || Verdict::Do(Step::Stop { ids: running });
        return unsettled(observed, committed).unwrap_or_else(stop);
    }
    // One that was told to stop on a lost node may do so much later; nothing waits for it.
    let mut over = gone.filter(|(_, member)| {
        member.replaced && matches!(member.instance, Instance::New | Instance::Stopped)
    });
    let policy = |member: &Member| cluster.role(member.role).storage.when_scaled_down;
    let delete = over.find(|(_, member)| policy(member) == crate::crd::spec::Retention::Delete);
    match delete {
        Some((id, member)) => Verdict::Do(Step::Retire {
            id: *id,
            data: policy(member),
        }),
        None => Verdict::Pass,
    }
}
