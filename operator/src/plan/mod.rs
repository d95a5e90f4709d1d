//! `(Cluster, Desired, Observed)` → the next step, or what it waits for. Pure; the same for every backend.
//!
//! One step at a time, from a list of concerns by rank. A concern either has nothing to say, names a step, or names
//! what it waits for, which ends the search: a later concern never overtakes an earlier one.
//!
//! 1. an ensemble that was never started: decide its first members
//! 2. members that are down: start them (never waits for a quorum: nothing else brings one back)
//! 3. no leader: wait, and give new templates to members that serve nobody
//! 4. `repair`: give up members whose data is lost
//! 5. `membership`: promote, join, leave, create
//! 6. `rollout`: restart what runs with an old template
//! 7. data of members that were replaced, volumes that are to grow
//! 8. all members up: done, or wait for the ones that are not
//!
//! While the manifest says to pause, steps are planned and not taken.

mod forecast;
mod membership;
mod repair;
mod rollout;
mod words;

use crate::cluster::{Cluster, Role, ServerId};
use crate::crd::spec::Retention;
use crate::desired::Desired;
use crate::membership::Membership;
use crate::observed::{Condemned, Instance, Member, Observed};
use crate::safety::Unsafe;

use forecast::{after, forecast};

pub use forecast::carry_out;
pub use repair::Hindrance;
pub use words::are;

/// What to do next.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// The step to take now.
    pub next: Option<Step>,
    /// What is waited for, when there is no step.
    pub waiting: Option<Reason>,
    /// The steps that follow if all goes well, in words.
    pub upcoming: Vec<String>,
    /// Members that are in trouble, each with what is wrong and what helps; empty while nothing is left to do.
    pub blocked_by: Vec<String>,
}

/// One step. Each is small, and safe to repeat: after a crash the plan is made anew from what is then observed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Record the first membership and give each of its members a home.
    Bootstrap {
        /// Ids of the voters.
        voters: Vec<ServerId>,
        /// Ids of the observers.
        observers: Vec<ServerId>,
    },
    /// Start members that are down, each with a freshly rendered configuration.
    Start {
        /// Which.
        ids: Vec<ServerId>,
    },
    /// Give a new member a home, without starting it.
    Create {
        /// Its id.
        id: ServerId,
        /// What it is meant to be. A voter begins as an observer too.
        role: Role,
    },
    /// Reconfigure: add members as observers.
    Join {
        /// Which.
        ids: Vec<ServerId>,
        /// The membership that this changes; another version refuses the change.
        version: u64,
    },
    /// Reconfigure: let an observer vote.
    Promote {
        /// Which.
        id: ServerId,
        /// The membership that this changes.
        version: u64,
    },
    /// Reconfigure: take members out.
    Remove {
        /// Which: one voter, or any observers.
        ids: Vec<ServerId>,
        /// The membership that this changes.
        version: u64,
    },
    /// Stop members that the membership no longer knows.
    Stop {
        /// Which.
        ids: Vec<ServerId>,
    },
    /// Give up the home of a member that has left.
    Retire {
        /// Which.
        id: ServerId,
        /// What becomes of its data.
        data: Retention,
    },
    /// Stop a member so that it starts again with its new configuration. A leader hands over first.
    Restart {
        /// Which.
        id: ServerId,
    },
    /// Give a member up whose data is lost, damaged or out of reach: record that it does not come back. The
    /// membership then lets it go, and another member, of another id, takes its place.
    Replace {
        /// Which.
        id: ServerId,
        /// Why.
        why: Condemned,
    },
    /// Ask for as much storage as the manifest does.
    GrowVolume {
        /// Whose.
        id: ServerId,
    },
    /// Write the configuration of running members anew after their role changed, without a restart.
    Render {
        /// Which.
        ids: Vec<ServerId>,
    },
}

/// What a plan waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// No leader is known; these are to elect one.
    NoLeader(Vec<ServerId>),
    /// A member must catch up before it may vote.
    CatchUp(ServerId),
    /// Members must take over the latest membership before the next change.
    Settle(Vec<ServerId>),
    /// Members must stop.
    Stopping(Vec<ServerId>),
    /// Members that died are tried again after a pause.
    Failed(Vec<ServerId>),
    /// Members are on their way up.
    Starting(Vec<ServerId>),
    /// A step would be unsafe now.
    Unsafe {
        /// The step, in words.
        step: String,
        /// Why not.
        why: Unsafe,
    },
    /// Every server id is taken by data that is kept.
    NoFreeId,
    /// A member cannot come back with its data, and is not replaced.
    Condemned {
        /// Which.
        id: ServerId,
        /// Why it cannot come back.
        why: Condemned,
        /// Why it is not replaced.
        hindrance: Hindrance,
    },
    /// Every member's data is gone.
    AllLost,
    /// The manifest says to pause; this would be the next step.
    Paused(String),
}

/// What a concern has to say.
enum Verdict {
    /// Nothing: go on with the next one.
    Pass,
    /// Do this.
    Do(Step),
    /// Do nothing before this.
    Wait(Reason),
}

/// Makes the plan, with a forecast of what follows.
pub fn plan(cluster: &Cluster, desired: &Desired, observed: &Observed) -> Plan {
    let mut plan = next(cluster, desired, observed);
    let mut world = observed.clone();
    if let Some(step) = &plan.next {
        after(&mut world, desired, step);
    }
    let mut going_on = cluster.clone();
    going_on.paused = false;
    plan.upcoming = forecast(&going_on, desired, world)
        .iter()
        .map(ToString::to_string)
        .collect();
    if plan.next.is_some() || plan.waiting.is_some() {
        plan.blocked_by = words::troubles(observed);
    }
    plan
}

/// The next step or what it waits for.
pub fn next(cluster: &Cluster, desired: &Desired, observed: &Observed) -> Plan {
    let concerns = [
        bootstrap,
        start,
        lead,
        repair::concern,
        membership::concern,
        rollout::concern,
        render,
        repair::discard,
        grow,
        rest,
        repair::rest,
    ];
    let mut plan = Plan::default();
    for concern in concerns {
        match concern(cluster, desired, observed) {
            Verdict::Pass => {}
            Verdict::Do(step) if cluster.paused => {
                plan.waiting = Some(Reason::Paused(step.to_string()));
                break;
            }
            Verdict::Do(step) => {
                plan.next = Some(step);
                break;
            }
            Verdict::Wait(reason) => {
                plan.waiting = Some(reason);
                break;
            }
        }
    }
    plan
}

/// Decides the first members, once; their homes are made until each has one. An ensemble that has ever been led is
/// never set up again.
fn bootstrap(cluster: &Cluster, _: &Desired, observed: &Observed) -> Verdict {
    let Some(initial) = &observed.initial else {
        let (voters, observers) = (
            cluster.voters.replicas as u32,
            cluster.observers.replicas as u32,
        );
        return Verdict::Do(Step::Bootstrap {
            voters: (1..=voters).map(ServerId).collect(),
            observers: (voters + 1..=voters + observers).map(ServerId).collect(),
        });
    };
    let was_led = observed.committed.is_some() || observed.remembered.is_some();
    if was_led && observed.members.is_empty() {
        return Verdict::Wait(Reason::AllLost);
    }
    let new = |member: &Member| member.instance == Instance::New && member.founder;
    let homeless = |id: &ServerId| !observed.members.contains_key(id);
    if was_led || !observed.members.values().all(new) || !initial.servers.keys().any(homeless) {
        return Verdict::Pass;
    }
    Verdict::Do(Step::Bootstrap {
        voters: initial.voters().collect(),
        observers: initial.with_role(Role::Observer).collect(),
    })
}

/// Starts what is down. A member that never ran waits until the membership knows it, so that it comes up as a part of
/// it; one that ran before is started even while nothing is known, since that is what brings the quorum back.
fn start(_: &Cluster, desired: &Desired, observed: &Observed) -> Verdict {
    let known = |membership: &Option<Membership>, id| {
        membership
            .as_ref()
            .is_some_and(|it| it.servers.contains_key(&id))
    };
    let belongs = |id: ServerId| known(&observed.committed, id);
    let founds = |id: ServerId| observed.committed.is_none() && known(&observed.initial, id);
    let left = |id: ServerId| observed.committed.is_some() && !belongs(id);
    let may_start = |(id, member): &(&ServerId, &Member)| match member.instance {
        _ if member.retired || member.lost_its_volume() => false,
        Instance::New => belongs(**id) || (member.founder && founds(**id)),
        Instance::Stopped => !left(**id),
        // A pause after a failure ends at once when there is a new configuration to try.
        Instance::Failed => {
            let hash = &desired.template(member.role).hash;
            member.template_hash.as_ref() != Some(hash) && !left(**id)
        }
        Instance::Running | Instance::Stopping => false,
    };
    let ids: Vec<ServerId> = observed
        .members
        .iter()
        .filter(may_start)
        .map(|(id, _)| *id)
        .collect();
    if ids.is_empty() {
        Verdict::Pass
    } else {
        Verdict::Do(Step::Start { ids })
    }
}

/// Without a leader nothing is known to be safe but one thing: a member that serves nobody has nothing to lose, and a
/// new template may be what it needs.
fn lead(_: &Cluster, desired: &Desired, observed: &Observed) -> Verdict {
    if observed.leader().is_some() && observed.committed.is_some() {
        return Verdict::Pass;
    }
    let outdated = |member: &Member| {
        member.template_hash.as_ref() != Some(&desired.template(member.role).hash)
    };
    let mut idle = observed.members.iter().filter(|(_, member)| {
        let here = !member.retired && member.condemned.is_none();
        here && member.instance == Instance::Running && member.is_idle()
    });
    if let Some((id, _)) = idle.find(|(_, member)| outdated(member)) {
        return Verdict::Do(Step::Restart { id: *id });
    }
    Verdict::Wait(Reason::NoLeader(observed.with_role(Role::Voter).collect()))
}

/// A promoted member's own file still says `peerType=observer`, and a server that writes a new membership into its
/// file leaves that line out.
fn render(_: &Cluster, _: &Desired, observed: &Observed) -> Verdict {
    let Some(committed) = &observed.committed else {
        return Verdict::Pass;
    };
    let stale = observed.members.iter().filter(|(id, member)| {
        let role = committed.role(**id);
        member.instance == Instance::Running
            && role.is_some()
            && member.rendered_role != role
            && observed.healthy(**id)
    });
    let ids: Vec<ServerId> = stale.map(|(id, _)| *id).collect();
    if ids.is_empty() {
        Verdict::Pass
    } else {
        Verdict::Do(Step::Render { ids })
    }
}

/// Volumes grow while they are used.
fn grow(_: &Cluster, _: &Desired, observed: &Observed) -> Verdict {
    let mut members = observed.members.iter();
    let small = members
        .find(|(_, member)| member.undersized && !member.retired && member.condemned.is_none());
    match small {
        Some((id, _)) => Verdict::Do(Step::GrowVolume { id: *id }),
        None => Verdict::Pass,
    }
}

fn rest(_: &Cluster, _: &Desired, observed: &Observed) -> Verdict {
    let away = |instances: &[Instance]| -> Vec<ServerId> {
        let members = observed.members.iter();
        let here = |member: &Member| !member.retired && member.condemned.is_none();
        // Services lead to those that the kubelet has found ready.
        let serves =
            |id: ServerId, member: &Member| observed.healthy(id) && member.pod.ready != Some(false);
        let away = members.filter(|(id, member)| here(member) && !serves(**id, member));
        away.filter(|(_, member)| instances.contains(&member.instance))
            .map(|(id, _)| *id)
            .collect()
    };
    let failed = away(&[Instance::Failed]);
    if !failed.is_empty() {
        return Verdict::Wait(Reason::Failed(failed));
    }
    let starting = away(&[
        Instance::New,
        Instance::Stopped,
        Instance::Running,
        Instance::Stopping,
    ]);
    if starting.is_empty() {
        Verdict::Pass
    } else {
        Verdict::Wait(Reason::Starting(starting))
    }
}
