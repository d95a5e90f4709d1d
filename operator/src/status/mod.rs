//! Status from what was observed and planned. Pure: the time is an argument.

mod conditions;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;

use crate::cluster::{Cluster, Role, ServerId};
use crate::crd::ZooKeeperEnsembleStatus;
use crate::crd::status::{
    LeaderChanges, MemberStatus, MembershipStatus, OperationStatus, PlanStatus,
};
use crate::desired::Desired;
use crate::membership::Membership;
use crate::observed::{Instance, Member, Observed, State, epoch};
use crate::plan::{Plan, Step};

pub use conditions::blocked;

/// The time, as the status writes it.
pub type Now = Timestamp;

/// Computes the status anew; the previous one gives the times and the counters.
pub fn compute(
    cluster: &Cluster,
    desired: &Desired,
    observed: &Observed,
    plan: &Plan,
    previous: &ZooKeeperEnsembleStatus,
    trouble: Option<&str>,
    now: Now,
) -> ZooKeeperEnsembleStatus {
    let leader = observed.leader();
    let now_epoch = observed.leader_zxid().map(|zxid| epoch(zxid) as i64);
    let ready = |role: Role| {
        observed
            .with_role(role)
            .filter(|id| observed.healthy(*id))
            .count() as i32
    };
    let operation = operation(observed, plan, previous, now);
    let mut status = ZooKeeperEnsembleStatus {
        observed_generation: cluster.generation,
        observed_at: Some(Time(now)),
        conditions: Vec::new(),
        members: observed
            .members
            .iter()
            .map(|(id, it)| member_status(observed, *id, it))
            .collect(),
        leader: leader.map(|id| id.0),
        epoch: now_epoch.or(previous.epoch),
        leader_changes: leader_changes(observed, plan, previous, now_epoch),
        initial: initial(observed, plan, previous),
        membership: observed
            .committed
            .as_ref()
            .map(recorded)
            .or_else(|| previous.membership.clone()),
        config_version: observed
            .committed
            .as_ref()
            .map(|committed| format!("{:x}", committed.version)),
        ready_voters: ready(Role::Voter),
        ready_observers: ready(Role::Observer),
        observers_replicas: observed.with_role(Role::Observer).count() as i32,
        observers_selector: Some(format!(
            "zookeeper.ensemble.dev/ensemble={},zookeeper.ensemble.dev/role=observer",
            cluster.name
        )),
        connect_string: connect_string(observed),
        operation,
        plan: PlanStatus {
            summary: plan.to_string(),
            next: plan.next.as_ref().map(ToString::to_string),
            waiting: plan.waiting.as_ref().map(ToString::to_string),
            blocked_by: plan.blocked_by.clone(),
            last_error: trouble.map(str::to_owned),
            upcoming: plan.upcoming.clone(),
        },
    };
    let facts = conditions::facts(desired, observed, plan, &status, previous, now);
    status.conditions = conditions::dated(facts, &status, previous, now);
    status
}

fn member_status(observed: &Observed, id: ServerId, member: &Member) -> MemberStatus {
    let serving = member
        .answer
        .as_ref()
        .filter(|answer| answer.state != State::NotServing);
    MemberStatus {
        id: id.0,
        role: member.role.to_string(),
        state: state_words(member).into(),
        zxid: serving.map(|answer| format!("{:#x}", answer.zxid)),
        lag: serving.and_then(|_| observed.lag(id)).map(|lag| lag as i64),
        client_address: member.address.client(),
        config_version: serving
            .and_then(|answer| answer.config_version)
            .map(|version| format!("{version:x}")),
        template_hash: member.template_hash.clone(),
        pod: member.pod.name.clone(),
        pod_uid: member.pod.uid.clone(),
        node: member.pod.node.clone(),
        zone: member.pod.zone.clone(),
        restarts: member.pod.name.as_ref().map(|_| member.pod.restarts),
        trouble: member.trouble.as_ref().map(ToString::to_string),
    }
}

/// A member's state in a word.
fn state_words(member: &Member) -> &'static str {
    match (member.instance, member.state()) {
        _ if member.retired => "retired",
        (Instance::New, _) => "new",
        (Instance::Stopped, _) => "stopped",
        (Instance::Failed, _) => "failed",
        (Instance::Stopping, _) => "stopping",
        (Instance::Running, None) => "starting",
        (Instance::Running, Some(State::NotServing)) => "electing",
        (Instance::Running, Some(State::Leader)) => "leader",
        (Instance::Running, Some(State::Follower)) => "follower",
        (Instance::Running, Some(State::Observer)) => "observer",
    }
}

/// The first membership, once it is decided. It is on record before the first of its members is made.
fn initial(
    observed: &Observed,
    plan: &Plan,
    previous: &ZooKeeperEnsembleStatus,
) -> Option<MembershipStatus> {
    let ids = |ids: &[ServerId]| ids.iter().map(|id| id.0).collect();
    let decided = match &plan.next {
        Some(Step::Bootstrap { voters, observers }) => Some(MembershipStatus {
            version: None,
            voters: ids(voters),
            observers: ids(observers),
        }),
        _ => None,
    };
    let before = previous.initial.clone().or(decided);
    before.or_else(|| observed.initial.as_ref().map(recorded))
}

/// A membership by ids.
fn recorded(membership: &Membership) -> MembershipStatus {
    let ids = |role: Role| membership.with_role(role).map(|id| id.0).collect();
    MembershipStatus {
        version: (membership.version > 0).then(|| format!("{:x}", membership.version)),
        voters: ids(Role::Voter),
        observers: ids(Role::Observer),
    }
}

fn connect_string(observed: &Observed) -> Option<String> {
    let members = observed.members.values().filter(|member| !member.retired);
    let addresses: Vec<String> = members.map(|member| member.address.client()).collect();
    if addresses.is_empty() {
        None
    } else {
        Some(addresses.join(","))
    }
}

/// The step that is being taken, or the last one as long as its end is waited for.
fn operation(
    observed: &Observed,
    plan: &Plan,
    previous: &ZooKeeperEnsembleStatus,
    now: Now,
) -> Option<OperationStatus> {
    let Some(step) = &plan.next else {
        return previous
            .operation
            .clone()
            .filter(|_| plan.waiting.is_some());
    };
    let message = step.to_string();
    match &previous.operation {
        Some(same) if same.message == message => Some(same.clone()),
        _ => Some(OperationStatus {
            kind: step.kind().into(),
            member: step.member().map(|id| id.0),
            message,
            started_at: Time(now),
            config_version_before: observed
                .committed
                .as_ref()
                .map(|committed| format!("{:x}", committed.version)),
        }),
    }
}

/// A new epoch is a change of the leader. It was planned when a step of ours disturbed the leader of the epoch before,
/// or when that leader's pod was being evicted.
fn leader_changes(
    observed: &Observed,
    plan: &Plan,
    previous: &ZooKeeperEnsembleStatus,
    now_epoch: Option<i64>,
) -> LeaderChanges {
    let mut changes = previous.leader_changes;
    let evicted = |id: ServerId| {
        observed
            .members
            .get(&id)
            .is_some_and(|member| member.evicted)
    };
    // Its end may show before its eviction does: the members answer faster than caches.
    if changes.last_leader.is_some_and(|id| evicted(ServerId(id))) {
        changes.expected_after_epoch = previous.epoch;
    }
    if let (Some(before), Some(now)) = (previous.epoch, now_epoch)
        && now > before
    {
        if changes.expected_after_epoch == Some(before) {
            changes.planned += 1;
        } else {
            changes.unplanned += 1;
        }
        changes.expected_after_epoch = None;
    }
    let leader = observed.leader();
    changes.last_leader = leader.map(|id| id.0).or(changes.last_leader);
    let disturbed = |step: &Step| leader.is_some_and(|leader| step.disturbs(leader));
    if plan.next.as_ref().is_some_and(disturbed) || leader.is_some_and(evicted) {
        changes.expected_after_epoch = now_epoch;
    }
    changes
}

/// Whether a status is worth a write to where it is kept. How far members are changes all the time; that alone is
/// written no more often than every half minute.
pub fn worth_writing(
    old: &ZooKeeperEnsembleStatus,
    new: &ZooKeeperEnsembleStatus,
    now: Now,
) -> bool {
    let still = |status: &ZooKeeperEnsembleStatus, with_progress: bool| {
        let mut status = status.clone();
        status.observed_at = None;
        for member in status.members.iter_mut().filter(|_| !with_progress) {
            (member.zxid, member.lag) = (None, None);
        }
        status
    };
    if still(old, false) != still(new, false) {
        return true;
    }
    let age = |at: &Time| now.as_second().saturating_sub(at.0.as_second());
    let old_enough = old
        .observed_at
        .as_ref()
        .is_none_or(|at| age(at) >= PROGRESS_EVERY_S);
    old_enough && still(old, true) != still(new, true)
}

/// How often progress alone is written.
const PROGRESS_EVERY_S: i64 = 30;
