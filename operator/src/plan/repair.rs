//! Members that cannot come back with their data: others take their places, while a quorum exists without them.
//!
//! A lost member may still run where nobody sees it, so its successor has another id. What is left of it goes when
//! the membership has let it go: its pod first, and its data by policy, once it is certain that it runs no more.

use super::membership::unsettled;
use super::{Reason, Step, Verdict};
use crate::cluster::{Cluster, Role, ServerId};
use crate::crd::spec::Retention;
use crate::desired::Desired;
use crate::membership::Membership;
use crate::observed::{Condemned, Instance, Member, Observed};
use crate::safety::{Unsafe, may_leave};

pub(super) fn concern(cluster: &Cluster, _: &Desired, observed: &Observed) -> Verdict {
    let Some(committed) = &observed.committed else {
        return Verdict::Pass;
    };
    match stop_retired(observed, committed) {
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
    /// Another one was given up, and still belongs to the membership.
    OneAtATime,
    /// It serves as yet, and more copies of its data are on their way.
    GrowsFirst,
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
    // A voter that was given up goes before the next one does.
    let given_up = |id: &ServerId| observed.members.get(id).is_none_or(|member| member.retired);
    if committed.voters().any(|id| given_up(&id)) {
        return Some(Hindrance::OneAtATime);
    }
    if observed.healthy(id) && committed.voters().count() < cluster.voters.replicas {
        return Some(Hindrance::GrowsFirst);
    }
    may_leave(observed, id).err().map(Hindrance::Unsafe)
}

/// Stops what still runs of members that were given up, once the membership has let them go. One that was told to stop
/// on a lost node may do so much later; nothing waits for it.
fn stop_retired(observed: &Observed, committed: &Membership) -> Verdict {
    let runs = |member: &Member| matches!(member.instance, Instance::Running | Instance::Failed);
    let gone = observed.members.iter();
    let gone = gone.filter(|(id, member)| member.retired && committed.role(**id).is_none());
    let ids: Vec<ServerId> = gone
        .filter(|(_, member)| runs(member))
        .map(|(id, _)| *id)
        .collect();
    if ids.is_empty() {
        return Verdict::Pass;
    }
    unsettled(observed, committed).unwrap_or(Verdict::Do(Step::Stop { ids }))
}

/// The data of members that were replaced goes by policy: after their successors have theirs, and once it is certain
/// that they run no more.
pub(super) fn discard(cluster: &Cluster, _: &Desired, observed: &Observed) -> Verdict {
    let Some(committed) = &observed.committed else {
        return Verdict::Pass;
    };
    let policy = |member: &Member| cluster.role(member.role).storage.when_scaled_down;
    let mut members = observed.members.iter();
    let over = members.find(|(id, member)| {
        let over = matches!(member.instance, Instance::New | Instance::Stopped);
        let gone = member.replaced && over && committed.role(**id).is_none();
        gone && policy(member) == Retention::Delete
    });
    match over {
        Some((id, member)) => Verdict::Do(Step::Retire {
            id: *id,
            data: policy(member),
        }),
        None => Verdict::Pass,
    }
}
