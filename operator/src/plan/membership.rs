//! Members come and go: always through the membership first, one voter at a time.
//!
//! A future voter joins as an observer, catches up, and is promoted (the second of all: as a follower without a vote). A voter that goes is taken out of the membership
//! first, then stopped, then its data is dealt with. An id is free again only when its home is gone, so no data ever
//! meets another member of the same id.

use super::{Reason, Step, Verdict};
use crate::cluster::{Cluster, Role, SERVER_ID_MAX, ServerId};
use crate::desired::Desired;
use crate::membership::Membership;
use crate::observed::{Instance, Member, Observed, State};
use crate::safety;

pub(super) fn concern(cluster: &Cluster, desired: &Desired, observed: &Observed) -> Verdict {
    let Some(committed) = &observed.committed else {
        return Verdict::Pass;
    };
    let concerns = [
        leave,
        forget,
        promote,
        shrink_voters,
        shrink_observers,
        second_voter,
        join,
        create,
    ];
    let want = Want { cluster, desired };
    for concern in concerns {
        match concern(&want, observed, committed) {
            Verdict::Pass => {}
            verdict => return verdict,
        }
    }
    Verdict::Pass
}

/// What is asked for.
struct Want<'a> {
    cluster: &'a Cluster,
    desired: &'a Desired,
}

/// Members that have left the membership are stopped, once a majority knows; then their homes go.
fn leave(Want { cluster, .. }: &Want<'_>, observed: &Observed, committed: &Membership) -> Verdict {
    let surplus = |role: Role| surplus(cluster, observed, committed, role).into_iter();
    let gone = surplus(Role::Voter).chain(surplus(Role::Observer));
    let gone: Vec<ServerId> = gone.filter(|id| committed.role(*id).is_none()).collect();
    let instance = |id: &ServerId| observed.members.get(id).map(|member| member.instance);
    let running: Vec<ServerId> = gone
        .iter()
        .copied()
        .filter(|id| instance(id) == Some(Instance::Running))
        .collect();
    let stopping: Vec<ServerId> = gone
        .iter()
        .copied()
        .filter(|id| instance(id) == Some(Instance::Stopping))
        .collect();
    if let Some(wait) = unsettled(observed, committed).filter(|_| !running.is_empty()) {
        return wait;
    }
    if !running.is_empty() {
        return Verdict::Do(Step::Stop { ids: running });
    }
    if !stopping.is_empty() {
        return Verdict::Wait(Reason::Stopping(stopping));
    }
    let Some((id, member)) = gone
        .first()
        .and_then(|id| Some((*id, observed.members.get(id)?)))
    else {
        return Verdict::Pass;
    };
    let data = cluster.role(member.role).storage.when_scaled_down;
    Verdict::Do(Step::Retire { id, data })
}

/// A server of the membership whose home is gone (its data was lost) is taken out; a new member will replace it.
fn forget(_: &Want<'_>, observed: &Observed, committed: &Membership) -> Verdict {
    let lost = committed
        .servers
        .keys()
        .find(|id| observed.members.get(id).is_none_or(|member| member.retired));
    match lost {
        Some(id) => remove(observed, committed, vec![*id]),
        None => Verdict::Pass,
    }
}

/// Future voters that have caught up get their vote. Unless there are too many by now: then they go instead.
///
/// A second voter cannot come from the observers: its vote is needed for its own promotion, and only followers are
/// asked for theirs. See [`second_voter`].
fn promote(
    Want { cluster, .. }: &Want<'_>,
    observed: &Observed,
    committed: &Membership,
) -> Verdict {
    let surplus = surplus(cluster, observed, committed, Role::Voter);
    let future = observed
        .with_role(Role::Voter)
        .filter(|id| !surplus.contains(id));
    let Some(id) = future
        .filter(|id| committed.role(*id) == Some(Role::Observer))
        .min()
    else {
        return Verdict::Pass;
    };
    if is_single(committed) {
        return remove(observed, committed, vec![id]);
    }
    promote_from(State::Observer, id, observed, committed)
}

/// The second voter of an ensemble of one: it is started outside the membership, and so follows without a vote. Once
/// it has caught up it is made a voter in one step.
fn second_voter(
    Want { cluster, desired }: &Want<'_>,
    observed: &Observed,
    committed: &Membership,
) -> Verdict {
    let surplus = surplus(cluster, observed, committed, Role::Voter);
    let mut future = observed
        .with_role(Role::Voter)
        .filter(|id| !surplus.contains(id));
    let Some(id) = future
        .find(|id| committed.role(*id).is_none())
        .filter(|_| is_single(committed))
    else {
        return Verdict::Pass;
    };
    let outdated = |member: &Member| {
        member.template_hash.as_ref() != Some(&desired.template(member.role).hash)
    };
    let member = observed.members.get(&id);
    match member.map(|member| member.instance) {
        Some(Instance::New | Instance::Stopped) => Verdict::Do(Step::Start { ids: vec![id] }),
        Some(Instance::Failed) if member.is_some_and(outdated) => {
            Verdict::Do(Step::Start { ids: vec![id] })
        }
        Some(Instance::Failed) => Verdict::Wait(Reason::Failed(vec![id])),
        Some(Instance::Running | Instance::Stopping) | None => {
            promote_from(State::Follower, id, observed, committed)
        }
    }
}

fn promote_from(
    state: State,
    id: ServerId,
    observed: &Observed,
    committed: &Membership,
) -> Verdict {
    let step = Step::Promote {
        id,
        version: committed.version,
    };
    if let Err(why) = safety::may_grow(observed) {
        return Verdict::Wait(Reason::Unsafe {
            step: step.to_string(),
            why,
        });
    }
    let there = observed
        .members
        .get(&id)
        .is_some_and(|member| member.state() == Some(state));
    if there && observed.healthy(id) {
        Verdict::Do(step)
    } else {
        Verdict::Wait(Reason::CatchUp(id))
    }
}

fn shrink_voters(
    Want { cluster, .. }: &Want<'_>,
    observed: &Observed,
    committed: &Membership,
) -> Verdict {
    match surplus(cluster, observed, committed, Role::Voter).first() {
        Some(id) => remove(observed, committed, vec![*id]),
        None => Verdict::Pass,
    }
}

fn shrink_observers(
    Want { cluster, .. }: &Want<'_>,
    observed: &Observed,
    committed: &Membership,
) -> Verdict {
    match surplus(cluster, observed, committed, Role::Observer) {
        ids if ids.is_empty() => Verdict::Pass,
        ids => remove(observed, committed, ids),
    }
}

/// Whether one server alone votes.
fn is_single(committed: &Membership) -> bool {
    committed.voters().count() == 1
}

/// Members with a home that the membership does not know yet.
fn join(_: &Want<'_>, observed: &Observed, committed: &Membership) -> Verdict {
    let newcomers = observed
        .with_role(Role::Voter)
        .chain(observed.with_role(Role::Observer));
    let ids: Vec<ServerId> = newcomers
        .filter(|id| committed.role(*id).is_none())
        .collect();
    if ids.is_empty() {
        Verdict::Pass
    } else {
        Verdict::Do(Step::Join {
            ids,
            version: committed.version,
        })
    }
}

/// A missing voter or observer gets a home. The next voter waits until the one before has its vote, and every voter
/// is healthy.
fn create(Want { cluster, .. }: &Want<'_>, observed: &Observed, committed: &Membership) -> Verdict {
    for role in [Role::Voter, Role::Observer] {
        if observed.with_role(role).count() >= cluster.role(role).replicas {
            continue;
        }
        let taken = |id: ServerId| {
            observed.members.contains_key(&id) || committed.servers.contains_key(&id)
        };
        let Some(id) = (1..=SERVER_ID_MAX).map(ServerId).find(|id| !taken(*id)) else {
            return Verdict::Wait(Reason::NoFreeId);
        };
        let step = Step::Create { id, role };
        return match safety::may_grow(observed) {
            Err(why) if role == Role::Voter => Verdict::Wait(Reason::Unsafe {
                step: step.to_string(),
                why,
            }),
            _ => Verdict::Do(step),
        };
    }
    Verdict::Pass
}

fn remove(observed: &Observed, committed: &Membership, ids: Vec<ServerId>) -> Verdict {
    let step = Step::Remove {
        ids,
        version: committed.version,
    };
    let Step::Remove { ids, .. } = &step else {
        unreachable!("it was made a line above");
    };
    let voter = ids
        .iter()
        .find(|id| committed.role(**id) == Some(Role::Voter));
    if let Some(Err(why)) = voter.map(|id| safety::may_leave(observed, *id)) {
        return Verdict::Wait(Reason::Unsafe {
            step: step.to_string(),
            why,
        });
    }
    Verdict::Do(step)
}

/// The members of a role that are too many, the one to go first in front: those that the membership does not know,
/// then future voters, then the ones that do not serve, then the highest id, and the leader last.
fn surplus(
    cluster: &Cluster,
    observed: &Observed,
    committed: &Membership,
    role: Role,
) -> Vec<ServerId> {
    let mut ids: Vec<ServerId> = observed.with_role(role).collect();
    let too_many = ids.len().saturating_sub(cluster.role(role).replicas);
    let leader = observed.leader();
    ids.sort_by_key(|id| {
        let known = committed.role(*id).is_some();
        let full = committed.role(*id) == Some(role);
        (
            known,
            full,
            observed.healthy(*id),
            leader == Some(*id),
            std::cmp::Reverse(*id),
        )
    });
    ids.truncate(too_many);
    ids
}

/// Waits until a majority of the voters holds the committed membership.
pub(super) fn unsettled(observed: &Observed, committed: &Membership) -> Option<Verdict> {
    let late: Vec<ServerId> = committed
        .voters()
        .filter(|id| !observed.healthy(*id))
        .collect();
    let settled = committed.voters().count() - late.len() >= committed.quorum();
    if settled {
        None
    } else {
        Some(Verdict::Wait(Reason::Settle(late)))
    }
}
