//! The conditions, each with its reason, and with words that say what to do.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use super::Now;
use crate::cluster::ServerId;
use crate::crd::ZooKeeperEnsembleStatus;
use crate::crd::status::PlanStatus;
use crate::desired::Desired;
use crate::observed::{Observed, TroubleKind};
use crate::plan::{Plan, Reason, Step};
use crate::safety::{self, Unsafe};

/// One condition before it is dated: kind, whether it holds, reason, words.
pub(super) type Fact = (&'static str, bool, &'static str, String);

/// The status of an ensemble that cannot be looked after: its spec is refused (`InvalidSpec`), or what was found
/// contradicts itself (`Contradiction`). What was last known of the members stays as it was.
pub fn blocked(
    previous: &ZooKeeperEnsembleStatus,
    generation: Option<i64>,
    reason: &'static str,
    message: &str,
    now: Now,
) -> ZooKeeperEnsembleStatus {
    let mut status = ZooKeeperEnsembleStatus {
        observed_generation: generation,
        operation: None,
        plan: PlanStatus {
            summary: format!("stopped: {message}"),
            waiting: Some(message.to_owned()),
            ..PlanStatus::default()
        },
        ..previous.clone()
    };
    let words = || message.to_owned();
    let facts = vec![
        ("Ready", false, reason, words()),
        ("Reconciling", false, reason, words()),
        ("Stalled", true, reason, words()),
        ("ScaleAllowed", false, reason, words()),
    ];
    let mut conditions = dated(facts, &status, previous, now);
    let kept = previous.conditions.iter();
    let new = |kind: &str| conditions.iter().any(|condition| condition.type_ == kind);
    let kept: Vec<Condition> = kept.filter(|it| !new(&it.type_)).cloned().collect();
    conditions.extend(kept);
    status.conditions = conditions;
    status
}

/// Gives every fact the time since which it has been so.
pub(super) fn dated(
    facts: Vec<Fact>,
    status: &ZooKeeperEnsembleStatus,
    previous: &ZooKeeperEnsembleStatus,
    now: Now,
) -> Vec<Condition> {
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

/// All that holds and does not hold.
pub(super) fn facts(
    desired: &Desired,
    observed: &Observed,
    plan: &Plan,
    status: &ZooKeeperEnsembleStatus,
    previous: &ZooKeeperEnsembleStatus,
    now: Now,
) -> Vec<Fact> {
    let stalled = stalled(observed, plan, status, previous, now);
    let mut facts = progress(observed, plan, status, stalled);
    facts.extend(health(observed));
    facts.push(scale_allowed(plan, observed));
    facts.push(config_in_sync(desired, observed));
    facts
}

/// `Ready`, `Reconciling`, `Stalled`: how far the plan is.
fn progress(
    observed: &Observed,
    plan: &Plan,
    status: &ZooKeeperEnsembleStatus,
    stalled: Option<&'static str>,
) -> Vec<Fact> {
    let at_rest = at_rest(plan);
    let mut words = match at_rest {
        true => "the ensemble is as its manifest asks for".into(),
        false => plan.to_string(),
    };
    if let Some(error) = &status.plan.last_error {
        words = format!("{words}; the last try failed: {error}");
    }
    let reason = match (&plan.next, &plan.waiting) {
        (Some(step), _) => reason_of_step(step, observed),
        (None, Some(reason)) => reason_of_wait(reason, observed),
        (None, None) => "AtRest",
    };
    // A person asked for the pause: nothing is being done, and nothing is wrong.
    let works = !at_rest && !matches!(plan.waiting, Some(Reason::Paused(_)));
    vec![
        ("Ready", at_rest, reason, words.clone()),
        ("Reconciling", works, reason, words.clone()),
        (
            "Stalled",
            stalled.is_some(),
            stalled.unwrap_or("Progressing"),
            words,
        ),
    ]
}

fn reason_of_step(step: &Step, observed: &Observed) -> &'static str {
    match step {
        Step::Bootstrap { .. } => "Bootstrapping",
        Step::Start { .. } if never_led(observed) => "Bootstrapping",
        Step::Start { .. } | Step::Restart { .. } | Step::Render { .. } => "Restarting",
        Step::Create { .. }
        | Step::Join { .. }
        | Step::Promote { .. }
        | Step::Remove { .. }
        | Step::Stop { .. }
        | Step::Retire { .. } => "Scaling",
        Step::Replace { .. } => "Replacing",
        Step::GrowVolume { .. } => "GrowingVolumes",
    }
}

fn reason_of_wait(reason: &Reason, observed: &Observed) -> &'static str {
    match reason {
        Reason::NoLeader(_) if never_led(observed) => "Bootstrapping",
        Reason::NoLeader(_) => "NoQuorum",
        Reason::CatchUp(_) | Reason::Settle(_) | Reason::Stopping(_) => "Scaling",
        Reason::Failed(_) | Reason::Starting(_) if degraded(observed) => "NotEnoughVoters",
        other => other.name(),
    }
}

fn never_led(observed: &Observed) -> bool {
    observed.committed.is_none() && observed.remembered.is_none()
}

fn at_rest(plan: &Plan) -> bool {
    plan.next.is_none() && plan.waiting.is_none()
}

fn degraded(observed: &Observed) -> bool {
    let voters = observed
        .committed
        .as_ref()
        .map_or(0, |committed| committed.voters().count());
    safety::healthy_voters(observed) < voters
}

/// `Available`, `Degraded`: how the voters are.
fn health(observed: &Observed) -> Vec<Fact> {
    let committed = observed.committed.as_ref();
    let voters = committed.map_or(0, |committed| committed.voters().count());
    let healthy = safety::healthy_voters(observed);
    let led = observed.leader().is_some();
    let available = led && committed.is_some_and(|committed| healthy >= committed.quorum());
    let known = observed.known();
    let away: Vec<ServerId> = known
        .iter()
        .flat_map(|known| known.voters())
        .filter(|id| !observed.healthy(*id))
        .collect();
    let mut words = format!("{healthy} of {voters} voters are healthy");
    if !away.is_empty() {
        words = format!("{words}; {} not", crate::plan::are(&away));
    }
    let serving = match (available, led) {
        (true, _) => "QuorumServes",
        (false, true) => "NoQuorum",
        (false, false) => "NoLeader",
    };
    let degraded = !away.is_empty() || known.is_none();
    let full = if degraded {
        "NotEnoughVoters"
    } else {
        "AllVotersHealthy"
    };
    vec![
        ("Available", available, serving, words.clone()),
        ("Degraded", degraded, full, words),
    ]
}

/// Whether a change of the membership could begin now.
fn scale_allowed(plan: &Plan, observed: &Observed) -> Fact {
    let no = |reason: &'static str, words: String| ("ScaleAllowed", false, reason, words);
    match safety::may_grow(observed) {
        Err(why @ Unsafe::NoLeader) => no("NoQuorum", why.to_string()),
        Err(why @ Unsafe::NotServing(_)) => no("MemberNotSynced", why.to_string()),
        Err(why @ Unsafe::NoSpare { .. }) => no("SlackTooSmall", why.to_string()),
        Ok(()) if matches!(plan.waiting, Some(Reason::Paused(_))) => no("Paused", plan.to_string()),
        Ok(()) if !at_rest(plan) => no("OperationInFlight", plan.to_string()),
        Ok(()) => (
            "ScaleAllowed",
            true,
            "AllVotersHealthy",
            "a change of the membership could begin now".into(),
        ),
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
        let words = "every member runs what the manifest asks for".into();
        return ("ConfigInSync", true, "AllUpToDate", words);
    }
    let words = format!("{} to be restarted", crate::plan::are(&old));
    ("ConfigInSync", false, "RestartPending", words)
}

/// Why it will not go on without help, when something has taken longer than anything here takes.
fn stalled(
    observed: &Observed,
    plan: &Plan,
    status: &ZooKeeperEnsembleStatus,
    previous: &ZooKeeperEnsembleStatus,
    now: Now,
) -> Option<&'static str> {
    match plan.waiting {
        Some(Reason::NoFreeId) => return Some("NoFreeServerId"),
        Some(Reason::AllLost) => return Some("AllDataLost"),
        Some(Reason::Paused(_)) => return None,
        _ => {}
    }
    let error = status.plan.last_error.as_deref();
    if at_rest(plan) || plan.waiting.is_none() && error.is_none() {
        return None;
    }
    // A member that died by itself is no operation; then it counts since when the ensemble is not ready.
    let operation = status.operation.as_ref().map(|it| &it.started_at);
    let mut conditions = previous.conditions.iter();
    let unready = conditions.find(|it| it.type_ == "Ready" && it.status == "False");
    let since = operation.or(unready.map(|it| &it.last_transition_time))?;
    let (reason, patience) = cause(observed, plan, error);
    (now.as_second() - since.0.as_second() > patience).then_some(reason)
}

/// What is in the way, and for how long that may pass by itself.
fn cause(observed: &Observed, plan: &Plan, error: Option<&str>) -> (&'static str, i64) {
    let changes = |step: &Step| {
        matches!(
            step,
            Step::Join { .. } | Step::Promote { .. } | Step::Remove { .. }
        )
    };
    match error {
        Some(error) if error.contains("quota") => return ("QuotaOrScheduling", PATIENCE_SHORT_S),
        Some(_) if plan.next.as_ref().is_some_and(changes) => {
            return ("ReconfigRejected", PATIENCE_LONG_S);
        }
        _ => {}
    }
    let members = observed.members.values().filter(|member| !member.retired);
    let kinds: Vec<TroubleKind> = members
        .filter_map(|member| Some(member.trouble.as_ref()?.kind))
        .collect();
    if kinds.contains(&TroubleKind::Template) {
        ("BadTemplate", PATIENCE_SHORT_S)
    } else if kinds.contains(&TroubleKind::Scheduling) {
        ("QuotaOrScheduling", PATIENCE_SHORT_S)
    } else {
        ("DeadlineExceeded", PATIENCE_LONG_S)
    }
}

/// An image or a configuration that is wrong does not get right by waiting.
const PATIENCE_SHORT_S: i64 = 30;
const PATIENCE_LONG_S: i64 = 120;
