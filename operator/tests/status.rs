//! The status: conditions with reasons, leader changes, and when it is worth a write.

#![allow(
    clippy::unwrap_used,
    reason = "a test that panics has failed, which is what it is for"
)]

use expect_test::{Expect, expect};
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use operator::cluster::{Cluster, ServerId};
use operator::crd::ZooKeeperEnsembleStatus;
use operator::desired::desired;
use operator::observed::{Instance, Observed, Trouble, TroubleKind};
use operator::plan::{carry_out, plan};
use operator::status::{blocked, compute, worth_writing};
use operator::validate::{parse, validate};

fn cluster(spec: &str) -> Cluster {
    let text = format!(
        "{{apiVersion: zookeeper.ensemble.dev/v1alpha1, kind: ZooKeeperEnsemble, metadata: {{name: demo}}, spec: {{{spec}}}}}"
    );
    parse(&text)
        .and_then(|ensemble| validate(&ensemble))
        .unwrap()
}

fn at_rest(cluster: &Cluster) -> Observed {
    let mut world = Observed::default();
    carry_out(cluster, &desired(cluster), &mut world);
    world
}

fn start() -> Timestamp {
    "2026-01-01T00:00:00Z".parse().unwrap()
}

fn after(seconds: i64) -> Timestamp {
    start() + SignedDuration::from_secs(seconds)
}

fn status_of(
    cluster: &Cluster,
    world: &Observed,
    previous: &ZooKeeperEnsembleStatus,
    error: Option<&str>,
    now: Timestamp,
) -> ZooKeeperEnsembleStatus {
    let desired = desired(cluster);
    let plan = plan(cluster, &desired, world);
    compute(cluster, &desired, world, &plan, previous, error, now)
}

fn words(status: &ZooKeeperEnsembleStatus) -> String {
    let lines = status.conditions.iter().map(|it| {
        let (kind, value, reason, message) = (&it.type_, &it.status, &it.reason, &it.message);
        format!("{kind}={value} {reason}: {message}\n")
    });
    lines.collect()
}

fn check(status: &ZooKeeperEnsembleStatus, expected: Expect) {
    expected.assert_eq(&words(status));
}

fn new() -> ZooKeeperEnsembleStatus {
    ZooKeeperEnsembleStatus::default()
}

/// Member 2 cannot fetch its image.
fn bad_image(world: &mut Observed) {
    let member = world.members.get_mut(&ServerId(2)).unwrap();
    member.instance = Instance::Failed;
    member.answer = None;
    member.trouble = Some(Trouble {
        kind: TroubleKind::Template,
        words: "the image nope cannot be pulled; correct spec.image".into(),
    });
}

#[test]
fn at_rest_every_condition_is_as_it_should_be() {
    let cluster = cluster("");
    let status = status_of(&cluster, &at_rest(&cluster), &new(), None, start());
    check(
        &status,
        expect![[r#"
        Ready=True AtRest: the ensemble is as its manifest asks for
        Reconciling=False AtRest: the ensemble is as its manifest asks for
        Stalled=False Progressing: the ensemble is as its manifest asks for
        Available=True QuorumServes: 3 of 3 voters are healthy
        Degraded=False AllVotersHealthy: 3 of 3 voters are healthy
        ScaleAllowed=True AllVotersHealthy: a change of the membership could begin now
        ConfigInSync=True AllUpToDate: every member runs what the manifest asks for
    "#]],
    );
}

#[test]
fn a_member_in_trouble_is_named_with_what_helps_and_stalls_after_a_while() {
    let cluster = cluster("");
    let mut world = at_rest(&cluster);
    bad_image(&mut world);
    let first = status_of(&cluster, &world, &new(), None, start());
    check(
        &first,
        expect![[r#"
        Ready=False NotEnoughVoters: waiting for a new try: member 2 is down; member 2: the image nope cannot be pulled; correct spec.image
        Reconciling=True NotEnoughVoters: waiting for a new try: member 2 is down; member 2: the image nope cannot be pulled; correct spec.image
        Stalled=False Progressing: waiting for a new try: member 2 is down; member 2: the image nope cannot be pulled; correct spec.image
        Available=True QuorumServes: 2 of 3 voters are healthy; member 2 is not
        Degraded=True NotEnoughVoters: 2 of 3 voters are healthy; member 2 is not
        ScaleAllowed=False MemberNotSynced: member 2 is not serving yet
        ConfigInSync=True AllUpToDate: every member runs what the manifest asks for
    "#]],
    );
    assert_eq!(
        first.members[1].trouble.as_deref(),
        Some("the image nope cannot be pulled; correct spec.image")
    );
    assert_eq!(first.plan.blocked_by.len(), 1);
    let later = status_of(&cluster, &world, &first, None, after(31));
    let stalled = later
        .conditions
        .iter()
        .find(|it| it.type_ == "Stalled")
        .unwrap();
    assert_eq!(
        (&*stalled.status, &*stalled.reason),
        ("True", "BadTemplate")
    );
}

#[test]
fn errors_say_whose_turn_it_is() {
    let cluster = cluster("observers: {replicas: 1}");
    let mut world = at_rest(&cluster);
    world.members.get_mut(&ServerId(4)).unwrap().instance = Instance::Stopped;
    let reason = |error: &str| {
        let first = status_of(&cluster, &world, &new(), Some(error), start());
        let later = status_of(&cluster, &world, &first, Some(error), after(200));
        let stalled = later
            .conditions
            .into_iter()
            .find(|it| it.type_ == "Stalled")
            .unwrap();
        (stalled.status, stalled.reason)
    };
    let is = |status: &str, reason: &str| (status.to_owned(), reason.to_owned());
    assert_eq!(
        reason("pods \"demo-4\" is forbidden: exceeded quota: small"),
        is("True", "QuotaOrScheduling")
    );
    assert_eq!(
        reason("the API server is away"),
        is("True", "DeadlineExceeded")
    );
    world
        .committed
        .as_mut()
        .unwrap()
        .servers
        .remove(&ServerId(4));
    world.members.get_mut(&ServerId(4)).unwrap().instance = Instance::New;
    let first = status_of(&cluster, &world, &new(), Some("refused"), start());
    let later = status_of(&cluster, &world, &first, Some("refused"), after(200));
    assert!(
        words(&later).contains("Stalled=True ReconfigRejected"),
        "{}",
        words(&later)
    );
}

#[test]
fn a_pause_is_said_and_nothing_is_done() {
    let paused = cluster("updatePolicy: {pause: true}, config: {tickTime: 3000}");
    let world = at_rest(&cluster(""));
    let status = status_of(&paused, &world, &new(), None, start());
    check(
        &status,
        expect![[r#"
        Ready=False Paused: waiting for spec.updatePolicy.pause to become false; then: restart member 1
        Reconciling=False Paused: waiting for spec.updatePolicy.pause to become false; then: restart member 1
        Stalled=False Progressing: waiting for spec.updatePolicy.pause to become false; then: restart member 1
        Available=True QuorumServes: 3 of 3 voters are healthy
        Degraded=False AllVotersHealthy: 3 of 3 voters are healthy
        ScaleAllowed=False Paused: waiting for spec.updatePolicy.pause to become false; then: restart member 1
        ConfigInSync=False RestartPending: members 1, 2 and 3 are to be restarted
    "#]],
    );
    assert_eq!(status.plan.next, None);
    assert_eq!(status.operation, None);
    let rest = cluster("updatePolicy: {pause: true}");
    let status = status_of(&rest, &at_rest(&cluster("")), &new(), None, start());
    assert!(words(&status).contains("Ready=True"), "{}", words(&status));
}

#[test]
fn the_first_members_are_on_record_before_they_are_made() {
    let cluster = cluster("observers: {replicas: 1}");
    let status = status_of(&cluster, &Observed::default(), &new(), None, start());
    let initial = status.initial.clone().unwrap();
    assert_eq!(
        (initial.voters, initial.observers),
        (vec![1, 2, 3], vec![4])
    );
    // It never changes, whatever the manifest says later.
    let later = status_of(&super_sized(), &at_rest(&cluster), &status, None, after(9));
    assert_eq!(later.initial, status.initial);
    assert_eq!(later.membership.unwrap().voters, [1, 2, 3]);
}

fn super_sized() -> Cluster {
    cluster("voters: {replicas: 5}, observers: {replicas: 1}")
}

#[test]
fn leader_changes_are_planned_when_a_step_or_an_eviction_caused_them() {
    let cluster = cluster("");
    let world = at_rest(&cluster);
    let leader = world.leader().unwrap();
    let next_epoch = |world: &Observed| {
        let mut world = world.clone();
        for member in world.members.values_mut() {
            member.answer.as_mut().unwrap().zxid += 1 << 32;
        }
        world
    };
    let before = status_of(&cluster, &world, &new(), None, start());
    let changed = status_of(&cluster, &next_epoch(&world), &before, None, after(1));
    assert_eq!(
        (
            changed.leader_changes.planned,
            changed.leader_changes.unplanned
        ),
        (0, 1)
    );
    let mut evicted = world.clone();
    evicted.members.get_mut(&leader).unwrap().evicted = true;
    let seen = status_of(&cluster, &evicted, &before, None, after(1));
    let changed = status_of(&cluster, &next_epoch(&world), &seen, None, after(2));
    assert_eq!(
        (
            changed.leader_changes.planned,
            changed.leader_changes.unplanned
        ),
        (1, 0)
    );
    // Its silence shows before its eviction does.
    let mut silent = world.clone();
    silent.members.get_mut(&leader).unwrap().answer = None;
    let mut seen = status_of(&cluster, &silent, &before, None, after(1));
    assert_eq!(seen.leader, None);
    silent.members.get_mut(&leader).unwrap().evicted = true;
    seen = status_of(&cluster, &silent, &seen, None, after(2));
    let changed = status_of(&cluster, &next_epoch(&world), &seen, None, after(3));
    assert_eq!(
        (
            changed.leader_changes.planned,
            changed.leader_changes.unplanned
        ),
        (1, 0)
    );
    // Seen only together with the change.
    let changed = status_of(&cluster, &next_epoch(&evicted), &before, None, after(2));
    assert_eq!(
        (
            changed.leader_changes.planned,
            changed.leader_changes.unplanned
        ),
        (1, 0)
    );
}

#[test]
fn a_refused_spec_keeps_what_is_known_of_the_members() {
    let cluster = cluster("");
    let before = status_of(&cluster, &at_rest(&cluster), &new(), None, start());
    let status = blocked(
        &before,
        Some(7),
        "InvalidSpec",
        "spec.voters.replicas: 2",
        after(5),
    );
    check(
        &status,
        expect![[r#"
        Ready=False InvalidSpec: spec.voters.replicas: 2
        Reconciling=False InvalidSpec: spec.voters.replicas: 2
        Stalled=True InvalidSpec: spec.voters.replicas: 2
        ScaleAllowed=False InvalidSpec: spec.voters.replicas: 2
        Available=True QuorumServes: 3 of 3 voters are healthy
        Degraded=False AllVotersHealthy: 3 of 3 voters are healthy
        ConfigInSync=True AllUpToDate: every member runs what the manifest asks for
    "#]],
    );
    assert_eq!(status.members, before.members);
    assert_eq!(status.observed_generation, Some(7));
    assert!(!worth_writing(
        &status,
        &blocked(
            &status,
            Some(7),
            "InvalidSpec",
            "spec.voters.replicas: 2",
            after(9)
        ),
        after(9)
    ));
}

#[test]
fn progress_alone_is_not_worth_a_write_each_time() {
    let cluster = cluster("");
    let mut world = at_rest(&cluster);
    let old = status_of(&cluster, &world, &new(), None, start());
    for member in world.members.values_mut() {
        member.answer.as_mut().unwrap().zxid += 7;
    }
    let soon = status_of(&cluster, &world, &old, None, after(29));
    assert!(!worth_writing(&old, &soon, after(29)));
    let later = status_of(&cluster, &world, &old, None, after(30));
    assert!(worth_writing(&old, &later, after(30)));
    // Nothing has changed at all: never.
    let same = status_of(&cluster, &world, &later, None, after(900));
    assert!(!worth_writing(&later, &same, after(900)));
    bad_image(&mut world);
    let bad = status_of(&cluster, &world, &old, None, after(1));
    assert!(worth_writing(&old, &bad, after(1)));
}
