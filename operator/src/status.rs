//! Status from what was observed and planned. Pure: the time is an argument.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;

use crate::cluster::{Cluster, Role, ServerId};
use crate::crd::ZooKeeperEnsembleStatus;
use crate::crd::status::{
    LeaderChanges, MemberStatus, MembershipStatus, OperationStatus, PlanStatus,
};
use crate::desired::Desired;
use crate::membership::Membership;
use crate::observed::{Instance, Member, Observed, State, epoch};
use crate::plan::{Plan, Reason, Step};
use crate::safety;

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
        conditions: Vec::new(),
        members: observed
            .members
            .iter()
            .map(|(id, it)| member_status(observed, *id, it))
            .collect(),
        leader: leader.map(|id| id.0),
        epoch: now_epoch.or(previous.epoch),
        leader_changes: leader_changes(plan, previous, leader, now_epoch),
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
            last_error: trouble.map(str::to_owned),
            upcoming: plan.upcoming.clone(),
        },
    };
    status.conditions = conditions(desired, observed, plan, &status, previous, now);
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

/// A new epoch is a change of the leader. It was planned when a step of ours disturbed the leader of the epoch before.
fn leader_changes(
    plan: &Plan,
    previous: &ZooKeeperEnsembleStatus,
    leader: Option<ServerId>,
    now_epoch: Option<i64>,
) -> LeaderChanges {
    let mut changes = previous.leader_changes;
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
    if let (Some(step), Some(leader)) = (&plan.next, leader)
        && step.disturbs(leader)
    {
        changes.expected_after_epoch = now_epoch;
    }
    changes
}

/// One condition before it is dated: kind, whether it holds, reason, words.
type Fact = (&'static str, bool, &'static str, String);

fn conditions(
    desired: &Desired,
    observed: &Observed,
    plan: &Plan,
    status: &ZooKeeperEnsembleStatus,
    previous: &ZooKeeperEnsembleStatus,
    now: Now,
) -> Vec<Condition> {
    let mut facts = progress(plan, stalled(plan, status, now));
    facts.extend(health(observed));
    facts.push(scale_allowed(plan, observed));
    facts.push(config_in_sync(desired, observed));
    let date = |(kind, holds, reason, message): Fact| {
        let value = if holds { "True" } else { "False" };
        let mut before = previous.conditions.iter();
        let same = before.find(|other| other.type_ == kind && other.status == value);
        Condition {
            type_: kind.into(),
            status: value.into(),
            reason: reason.into(),
            message,
            observed_generation: status.observed_generation,
            last_transition_time: same.map_or(Time(now), |same| same.last_transition_time.clone()),
        }
    };
    facts.into_iter().map(date).collect()
}

/// `Ready`, `Reconciling`, `Stalled`: how far the plan is.
fn progress(plan: &Plan, stalled: bool) -> Vec<Fact> {
    let at_rest = plan.next.is_none() && plan.waiting.is_none();
    let (reason, words) = match (&plan.next, &plan.waiting) {
        (Some(step), _) => (step.kind(), step.to_string()),
        (None, Some(reason)) => (reason.name(), format!("waiting for {reason}")),
        (None, None) => ("AtRest", "the ensemble is as its manifest asks for".into()),
    };
    let late = if stalled {
        "DeadlineExceeded"
    } else {
        "Progressing"
    };
    vec![
        ("Ready", at_rest, reason, words.clone()),
        ("Reconciling", !at_rest, reason, words.clone()),
        ("Stalled", stalled, late, words),
    ]
}

/// `Available`, `Degraded`: how the voters are.
fn health(observed: &Observed) -> Vec<Fact> {
    let committed = observed.committed.as_ref();
    let voters = committed.map_or(0, |committed| committed.voters().count());
    let healthy = safety::healthy_voters(observed);
    let available = observed.leader().is_some()
        && committed.is_some_and(|committed| healthy >= committed.quorum());
    let words = format!("{healthy} of {voters} voters are healthy");
    let degraded = healthy < voters;
    let (serving, full) = match (available, degraded) {
        (false, _) => ("NoQuorum", "NotEnoughVoters"),
        (true, true) => ("QuorumServes", "NotEnoughVoters"),
        (true, false) => ("QuorumServes", "AllVotersHealthy"),
    };
    vec![
        ("Available", available, serving, words.clone()),
        ("Degraded", degraded, full, words),
    ]
}

/// Whether a change of the membership could begin now.
fn scale_allowed(plan: &Plan, observed: &Observed) -> Fact {
    let at_rest = plan.next.is_none() && plan.waiting.is_none();
    match safety::may_grow(observed) {
        Err(why) => ("ScaleAllowed", false, "MemberNotReady", why.to_string()),
        Ok(()) if at_rest => ("ScaleAllowed", true, "AllVotersHealthy", String::new()),
        Ok(()) => ("ScaleAllowed", false, "OperationInFlight", plan.to_string()),
    }
}

/// Whether every member runs what the manifest asks for.
fn config_in_sync(desired: &Desired, observed: &Observed) -> Fact {
    let members = observed
        .members
        .iter()
        .filter(|(_, member)| !member.retired);
    let old = members.filter(|(_, member)| {
        member.template_hash.as_ref() != Some(&desired.template(member.role).hash)
    });
    let old: Vec<ServerId> = old.map(|(id, _)| *id).collect();
    if old.is_empty() {
        return ("ConfigInSync", true, "AllUpToDate", String::new());
    }
    let words = format!("{} to be restarted", crate::plan::are(&old));
    ("ConfigInSync", false, "RestartPending", words)
}

/// An operation that waits for longer than anything here takes needs a person.
fn stalled(plan: &Plan, status: &ZooKeeperEnsembleStatus, now: Now) -> bool {
    let since = status
        .operation
        .as_ref()
        .map(|operation| operation.started_at.0);
    let late = since.is_some_and(|since| now.as_second() - since.as_second() > STALLED_AFTER_S);
    late && (plan.waiting.is_some() || status.plan.last_error.is_some())
        || matches!(plan.waiting, Some(Reason::NoFreeId))
}

const STALLED_AFTER_S: i64 = 120;
