//! Plans as text: the ensemble as it is, the manifest as it should be, and every step between.

#![allow(
    clippy::unwrap_used,
    reason = "a test that panics has failed, which is what it is for"
)]

use expect_test::{Expect, expect};
use operator::cluster::{Cluster, Role, ServerId};
use operator::desired::desired;
use operator::observed::{Condemned, Instance, Member, Observed};
use operator::plan::{carry_out, next, plan};
use operator::validate::{parse, validate};

fn cluster(spec: &str) -> Cluster {
    let text = format!(
        "{{apiVersion: zookeeper.ensemble.dev/v1alpha1, kind: ZooKeeperEnsemble, metadata: {{name: demo}}, spec: {{{spec}}}}}"
    );
    parse(&text)
        .and_then(|ensemble| validate(&ensemble))
        .unwrap()
}

/// An ensemble at rest.
fn at_rest(cluster: &Cluster) -> Observed {
    let mut world = Observed::default();
    carry_out(cluster, &desired(cluster), &mut world);
    world
}

/// All steps from one manifest to another.
fn check(from: &str, to: &str, expected: Expect) {
    let (mut world, to) = (at_rest(&cluster(from)), cluster(to));
    let steps = carry_out(&to, &desired(&to), &mut world);
    let lines: String = steps.iter().map(|step| format!("{step}\n")).collect();
    expected.assert_eq(&lines);
}

/// What the planner says of an ensemble at rest to which `change` happened.
fn check_now(from: &str, to: &str, change: impl FnOnce(&mut Observed), expected: Expect) {
    let (mut world, to) = (at_rest(&cluster(from)), cluster(to));
    change(&mut world);
    let plan = plan(&to, &desired(&to), &world);
    let mut text = format!("{plan}\n");
    for step in &plan.upcoming {
        text.push_str(&format!("  then {step}\n"));
    }
    expected.assert_eq(&text);
}

fn silence(id: u32) -> impl FnOnce(&mut Observed) {
    move |world| world.members.get_mut(&ServerId(id)).unwrap().answer = None
}

#[test]
fn a_new_ensemble_starts_all_members_at_once() {
    let mut world = Observed::default();
    let cluster = cluster("voters: {replicas: 3}, observers: {replicas: 2}");
    let steps = carry_out(&cluster, &desired(&cluster), &mut world);
    let lines: String = steps.iter().map(|step| format!("{step}\n")).collect();
    expect![[r#"
        set up a new ensemble: members 1, 2 and 3 as voters, members 4 and 5 as observers
        start members 1, 2, 3, 4 and 5
    "#]]
    .assert_eq(&lines);
}

#[test]
fn at_rest_there_is_nothing_to_do() {
    check(
        "voters: {replicas: 3}",
        "voters: {replicas: 3}",
        expect![[""]],
    );
    check_now(
        "voters: {replicas: 3}",
        "voters: {replicas: 3}",
        |_| {},
        expect![[r#"
        At rest
    "#]],
    );
}

#[test]
fn voters_grow_one_by_one() {
    check(
        "voters: {replicas: 3}, observers: {replicas: 1}",
        "voters: {replicas: 5}, observers: {replicas: 1}",
        expect![[r#"
        create member 5, to become a voter
        add member 5 to the ensemble as observer
        start member 5
        let member 5 vote
        create member 6, to become a voter
        add member 6 to the ensemble as observer
        start member 6
        let member 6 vote
        write the configuration of members 5 and 6 anew
    "#]],
    );
}

#[test]
fn the_second_voter_of_all_follows_before_it_votes() {
    check(
        "voters: {replicas: 1}",
        "voters: {replicas: 3}",
        expect![[r#"
        create member 2, to become a voter
        start member 2
        let member 2 vote
        create member 3, to become a voter
        add member 3 to the ensemble as observer
        start member 3
        let member 3 vote
        write the configuration of members 2 and 3 anew
    "#]],
    );
}

#[test]
fn voters_shrink_by_leaving_first_and_the_leader_stays() {
    check(
        "voters: {replicas: 3}",
        "voters: {replicas: 1}",
        expect![[r#"
        take member 2 out of the ensemble
        stop member 2
        delete the data of member 2
        take member 1 out of the ensemble
        stop member 1
        delete the data of member 1
    "#]],
    );
}

#[test]
fn observers_come_and_go_without_touching_voters() {
    check(
        "observers: {replicas: 1}",
        "observers: {replicas: 3}",
        expect![[r#"
        create member 5, an observer
        add member 5 to the ensemble as observer
        start member 5
        create member 6, an observer
        add member 6 to the ensemble as observer
        start member 6
    "#]],
    );
    check(
        "observers: {replicas: 3}",
        "observers: {replicas: 1}",
        expect![[r#"
        take members 6 and 5 out of the ensemble
        stop members 6 and 5
        delete the data of member 6
        delete the data of member 5
    "#]],
    );
}

#[test]
fn kept_data_keeps_its_id() {
    let keep = "storage: {whenScaledDown: Retain}";
    let mut world = at_rest(&cluster(&format!("observers: {{replicas: 2}}, {keep}")));
    for observers in [0, 2] {
        let to = cluster(&format!("observers: {{replicas: {observers}}}, {keep}"));
        carry_out(&to, &desired(&to), &mut world);
    }
    let kept: Vec<u32> = world
        .members
        .iter()
        .filter(|(_, it)| it.retired)
        .map(|(id, _)| id.0)
        .collect();
    let live: Vec<u32> = world
        .members
        .iter()
        .filter(|(_, it)| !it.retired)
        .map(|(id, _)| id.0)
        .collect();
    assert_eq!((kept, live), (vec![4, 5], vec![1, 2, 3, 6, 7]));
}

#[test]
fn a_rolling_restart_takes_observers_then_followers_and_the_leader_last() {
    check(
        "observers: {replicas: 2}",
        "observers: {replicas: 2}, config: {tickTime: 3000}",
        expect![[r#"
        restart member 4
        start member 4
        restart member 5
        start member 5
        restart member 1
        start member 1
        restart member 2
        start member 2
        restart member 3
        start member 3
    "#]],
    );
}

#[test]
fn a_setting_of_observers_restarts_no_voter() {
    check(
        "observers: {replicas: 2}",
        "observers: {replicas: 2, config: {maxClientCnxns: 0}}",
        expect![[r#"
        restart member 4
        start member 4
        restart member 5
        start member 5
    "#]],
    );
}

#[test]
fn a_restart_waits_for_a_member_that_is_not_back() {
    check_now(
        "voters: {replicas: 3}",
        "config: {tickTime: 3000}",
        |world| {
            let new = desired(&cluster("config: {tickTime: 3000}"));
            let first = world.members.get_mut(&ServerId(1)).unwrap();
            first.template_hash = Some(new.voter.hash);
            first.answer = None;
        },
        expect![[r#"
        waiting for the moment to restart member 2: member 1 is not serving yet
          then restart member 2
          then start member 2
          then restart member 3
          then start member 3
    "#]],
    );
}

#[test]
fn a_restart_waits_until_services_lead_to_the_one_before() {
    check_now(
        "voters: {replicas: 3}",
        "config: {tickTime: 3000}",
        |world| {
            let new = desired(&cluster("config: {tickTime: 3000}"));
            let first = world.members.get_mut(&ServerId(1)).unwrap();
            first.template_hash = Some(new.voter.hash);
            first.pod.ready = Some(false);
        },
        expect![[r#"
            waiting for the moment to restart member 2: member 1 is not serving yet
              then restart member 2
              then start member 2
              then restart member 3
              then start member 3
        "#]],
    );
}

#[test]
fn a_member_that_does_not_serve_is_the_first_to_get_a_new_template() {
    check_now(
        "voters: {replicas: 3}",
        "config: {tickTime: 3000}",
        silence(2),
        expect![[r#"
        restart member 2
          then start member 2
          then restart member 1
          then start member 1
          then restart member 3
          then start member 3
    "#]],
    );
}

#[test]
fn no_voter_is_added_while_one_is_away() {
    check_now(
        "voters: {replicas: 3}",
        "voters: {replicas: 5}",
        silence(1),
        expect![[r#"
        waiting for the moment to create member 4, to become a voter: member 1 is not serving yet
          then create member 4, to become a voter
          then add member 4 to the ensemble as observer
          then start member 4
          then let member 4 vote
          then create member 5, to become a voter
          then add member 5 to the ensemble as observer
          then start member 5
          then let member 5 vote
          then write the configuration of members 4 and 5 anew
    "#]],
    );
}

#[test]
fn a_voter_that_is_away_is_the_first_to_leave() {
    check_now(
        "voters: {replicas: 5}",
        "voters: {replicas: 3}",
        silence(2),
        expect![[r#"
        take member 2 out of the ensemble
          then stop member 2
          then delete the data of member 2
          then take member 4 out of the ensemble
          then stop member 4
          then delete the data of member 4
    "#]],
    );
}

#[test]
fn nobody_leaves_when_the_rest_is_no_quorum() {
    check_now(
        "voters: {replicas: 3}",
        "voters: {replicas: 1}",
        |world| {
            silence(1)(world);
            silence(2)(world);
        },
        expect![[r#"
        waiting for the moment to take member 2 out of the ensemble: 1 voter is healthy and a quorum needs 2: there is none to spare
          then take member 2 out of the ensemble
          then stop member 2
          then delete the data of member 2
          then take member 1 out of the ensemble
          then stop member 1
          then delete the data of member 1
    "#]],
    );
}

#[test]
fn without_a_leader_only_dead_members_are_started() {
    check_now(
        "voters: {replicas: 3}",
        "voters: {replicas: 5}, config: {tickTime: 3000}",
        |world| {
            world.committed = None;
            for member in world.members.values_mut() {
                member.answer = None;
            }
            world.members.get_mut(&ServerId(3)).unwrap().instance = Instance::Stopped;
        },
        expect![[r#"
        start member 3
          then create member 4, to become a voter
          then add member 4 to the ensemble as observer
          then start member 4
          then let member 4 vote
          then create member 5, to become a voter
          then add member 5 to the ensemble as observer
          then start member 5
          then let member 5 vote
          then restart member 1
          then start member 1
          then restart member 2
          then start member 2
    "#]],
    );
    let to = cluster("voters: {replicas: 5}, config: {tickTime: 3000}");
    let mut world = at_rest(&cluster("voters: {replicas: 3}"));
    world.committed = None;
    assert!(
        next(&to, &desired(&to), &world).next.is_none(),
        "unknown is unsafe"
    );
}

#[test]
fn a_member_whose_data_is_lost_is_replaced() {
    check_now(
        "voters: {replicas: 3}",
        "voters: {replicas: 3}",
        |world| {
            world.members.remove(&ServerId(2));
        },
        expect![[r#"
        take member 2 out of the ensemble
          then create member 2, to become a voter
          then add member 2 to the ensemble as observer
          then start member 2
          then let member 2 vote
          then write the configuration of member 2 anew
    "#]],
    );
}

#[test]
fn a_single_voter_is_restarted_all_the_same() {
    check(
        "voters: {replicas: 1}",
        "voters: {replicas: 1}, config: {tickTime: 3000}",
        expect![[r#"
        restart member 1
        start member 1
    "#]],
    );
}

fn condemn(id: u32) -> impl FnOnce(&mut Observed) {
    move |world| {
        let member = world.members.get_mut(&ServerId(id)).unwrap();
        member.condemned = Some(Condemned::StorageDamaged);
        member.answer = None;
        member.instance = Instance::Failed;
    }
}

#[test]
fn a_damaged_member_is_replaced_by_one_of_another_id() {
    check_now(
        "",
        "",
        condemn(2),
        expect![[r#"
            give member 2 up for another: its data is damaged
              then take member 2 out of the ensemble
              then create member 4, to become a voter
              then add member 4 to the ensemble as observer
              then start member 4
              then let member 4 vote
              then write the configuration of member 4 anew
              then delete the data of member 2
        "#]],
    );
    check_now(
        "observers: {replicas: 1}",
        "observers: {replicas: 1}",
        condemn(4),
        expect![[r#"
            give member 4 up for another: its data is damaged
              then take member 4 out of the ensemble
              then create member 5, an observer
              then add member 5 to the ensemble as observer
              then start member 5
              then delete the data of member 4
        "#]],
    );
    let retain = "storage: {whenScaledDown: Retain}";
    check_now(
        retain,
        retain,
        condemn(2),
        expect![[r#"
        give member 2 up for another: its data is damaged
          then take member 2 out of the ensemble
          then create member 4, to become a voter
          then add member 4 to the ensemble as observer
          then start member 4
          then let member 4 vote
          then write the configuration of member 4 anew
    "#]],
    );
}

#[test]
fn nobody_is_replaced_without_a_quorum_of_the_others() {
    let two = |world: &mut Observed| {
        silence(1)(world);
        condemn(2)(world);
    };
    check_now(
        "",
        "",
        two,
        expect![[r#"
            waiting for member 1 to serve
              then give member 2 up for another: its data is damaged
              then take member 2 out of the ensemble
              then create member 4, to become a voter
              then add member 4 to the ensemble as observer
              then start member 4
              then let member 4 vote
              then write the configuration of member 4 anew
              then delete the data of member 2
        "#]],
    );
    check_now(
        "",
        "repair: {replaceDamaged: false}",
        condemn(2),
        expect![[r#"
            waiting for help with member 2: its data is damaged, and spec.repair.replaceDamaged is false
        "#]],
    );
}

#[test]
fn the_only_copy_of_the_data_is_never_given_up() {
    let one = "voters: {replicas: 1}";
    // Its volume is on the way out, and it serves on.
    let going = |world: &mut Observed| {
        world.members.get_mut(&ServerId(1)).unwrap().condemned = Some(Condemned::VolumeDeleted);
    };
    check_now(
        one,
        one,
        going,
        expect![[r#"
        waiting for help with member 1: its volume was deleted, and it has the only copy of the data: raise spec.voters.replicas while it serves, or restore a backup
    "#]],
    );
    check_now(
        one,
        "voters: {replicas: 1}, config: {tickTime: 3000}",
        going,
        expect![[r#"
            waiting for help with member 1: its volume was deleted, and it has the only copy of the data: raise spec.voters.replicas while it serves, or restore a backup
        "#]],
    );
    check_now(
        one,
        "voters: {replicas: 3}",
        going,
        expect![[r#"
            create member 2, to become a voter
              then start member 2
              then let member 2 vote
              then create member 3, to become a voter
              then add member 3 to the ensemble as observer
              then start member 3
              then let member 3 vote
              then give member 1 up for another: its volume was deleted
              then take member 1 out of the ensemble
              then stop member 1
              then create member 4, to become a voter
              then add member 4 to the ensemble as observer
              then start member 4
        "#]],
    );
}

#[test]
fn two_damaged_members_of_five_are_replaced_one_after_the_other() {
    let two = |world: &mut Observed| {
        condemn(2)(world);
        condemn(4)(world);
    };
    check_now(
        "voters: {replicas: 5}",
        "voters: {replicas: 5}",
        two,
        expect![[r#"
            give member 2 up for another: its data is damaged
              then take member 2 out of the ensemble
              then give member 4 up for another: its data is damaged
              then take member 4 out of the ensemble
              then create member 6, to become a voter
              then add member 6 to the ensemble as observer
              then start member 6
              then let member 6 vote
              then create member 7, to become a voter
              then add member 7 to the ensemble as observer
              then start member 7
              then let member 7 vote
              then write the configuration of members 6 and 7 anew
        "#]],
    );
}

#[test]
fn a_pause_plans_and_does_nothing() {
    let stopped = |world: &mut Observed| {
        world.members.get_mut(&ServerId(2)).unwrap().instance = Instance::Stopped;
    };
    check_now(
        "",
        "updatePolicy: {pause: true}",
        stopped,
        expect![[r#"
        waiting for spec.updatePolicy.pause to become false; then: start member 2
          then start member 2
    "#]],
    );
    check_now(
        "",
        "updatePolicy: {pause: true}",
        |_| {},
        expect![[r#"
        At rest
    "#]],
    );
}

#[test]
fn observers_restart_together_as_far_as_the_manifest_allows() {
    let from = "observers: {replicas: 4}";
    let to = "observers: {replicas: 4, config: {maxClientCnxns: 0}}, updatePolicy: {maxObserversAtOnce: 2}";
    let away = |count: u32| {
        move |world: &mut Observed| {
            for id in 4..4 + count {
                let new = desired(&cluster(to));
                let member = world.members.get_mut(&ServerId(id)).unwrap();
                member.template_hash = Some(new.observer.hash);
                member.answer = None;
            }
        }
    };
    let first = |change: &dyn Fn(&mut Observed)| {
        let (mut world, to) = (at_rest(&cluster(from)), cluster(to));
        change(&mut world);
        next(&to, &desired(&to), &world).to_string()
    };
    assert_eq!(first(&away(0)), "restart member 4");
    assert_eq!(first(&away(1)), "restart member 5");
    expect!["waiting for the moment to restart member 6: members 4 and 5 are not serving yet"]
        .assert_eq(&first(&away(2)));
    // A voter that is away stops them all.
    let voter = |world: &mut Observed| silence(1)(world);
    expect!["waiting for the moment to restart member 4: member 1 is not serving yet"]
        .assert_eq(&first(&voter));
}

#[test]
fn a_broken_second_voter_gets_a_new_template_too() {
    let grown = "voters: {replicas: 3}, config: {tickTime: 3000}";
    let broken = |world: &mut Observed| {
        let address = world.members[&ServerId(1)].address.clone();
        let member = Member {
            instance: Instance::Failed,
            template_hash: Some("old".into()),
            ..Member::new(Role::Voter, false, address)
        };
        world.members.insert(ServerId(2), member);
    };
    let (mut world, to) = (at_rest(&cluster("voters: {replicas: 1}")), cluster(grown));
    broken(&mut world);
    assert_eq!(
        next(&to, &desired(&to), &world).to_string(),
        "start member 2"
    );
}

#[test]
fn volumes_grow_last_and_without_a_restart() {
    let small = |world: &mut Observed| {
        for member in world.members.values_mut() {
            member.undersized = true;
        }
    };
    check_now(
        "",
        "config: {tickTime: 3000}",
        small,
        expect![[r#"
        restart member 1
          then start member 1
          then restart member 2
          then start member 2
          then restart member 3
          then start member 3
          then grow the volume of member 1
          then grow the volume of member 2
          then grow the volume of member 3
    "#]],
    );
    check_now(
        "",
        "",
        small,
        expect![[r#"
        grow the volume of member 1
          then grow the volume of member 2
          then grow the volume of member 3
    "#]],
    );
}
