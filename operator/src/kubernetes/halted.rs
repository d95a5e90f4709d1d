//! The status of an ensemble for which nothing can be done until a person changes something. Pure.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use crate::crd::ZooKeeperEnsembleStatus;
use crate::status::Now;

/// `status` with words about why nothing goes on; `before` gives the times of the conditions.
pub(super) fn halted(
    status: &ZooKeeperEnsembleStatus,
    before: &ZooKeeperEnsembleStatus,
    generation: Option<i64>,
    reason: &str,
    words: &str,
    now: Now,
) -> ZooKeeperEnsembleStatus {
    let mut status = stalled(status, before, generation, reason, words, now);
    status.plan.summary = format!("stopped: {words}");
    status.plan.next = None;
    status.plan.waiting = Some(words.to_owned());
    status.plan.upcoming = Vec::new();
    status
}

/// `status` with conditions that ask for a person, while its plan goes on.
pub(super) fn stalled(
    status: &ZooKeeperEnsembleStatus,
    before: &ZooKeeperEnsembleStatus,
    generation: Option<i64>,
    reason: &str,
    words: &str,
    now: Now,
) -> ZooKeeperEnsembleStatus {
    let mut status = status.clone();
    status.observed_generation = generation;
    for (kind, value) in [
        ("Ready", "False"),
        ("Reconciling", "False"),
        ("Stalled", "True"),
    ] {
        let mut old = before.conditions.iter();
        let same = old.find(|other| other.type_ == kind && other.status == value);
        let condition = Condition {
            type_: kind.into(),
            status: value.into(),
            reason: reason.into(),
            message: words.into(),
            observed_generation: generation,
            last_transition_time: same.map_or(Time(now), |same| same.last_transition_time.clone()),
        };
        match status
            .conditions
            .iter_mut()
            .find(|other| other.type_ == kind)
        {
            Some(place) => *place = condition,
            None => status.conditions.push(condition),
        }
    }
    status
}

/// Reason of the conditions while the manifest is wrong.
pub(super) const INVALID_SPEC: &str = "InvalidSpec";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn saying_the_same_again_changes_nothing() {
        let at = |second| Now::from_second(second).unwrap();
        let nothing = ZooKeeperEnsembleStatus::default();
        let once = halted(
            &nothing,
            &nothing,
            Some(3),
            "InvalidSpec",
            "voters is wrong",
            at(1),
        );
        assert_eq!(
            halted(
                &once,
                &once,
                Some(3),
                "InvalidSpec",
                "voters is wrong",
                at(9)
            ),
            once
        );
        let ready = once
            .conditions
            .iter()
            .find(|it| it.type_ == "Ready")
            .unwrap();
        assert_eq!(
            (ready.status.as_str(), ready.message.as_str()),
            ("False", "voters is wrong")
        );
        assert_eq!(once.plan.summary, "stopped: voters is wrong");
    }
}
