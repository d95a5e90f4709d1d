//! The planner in a closed loop with a model of an ensemble, under random edits and faults: it never costs a quorum
//! that it found, it always gets where the manifest asks, and then it rests.

#![allow(
    clippy::unwrap_used,
    reason = "a test that panics has failed, which is what it is for"
)]

#[allow(unreachable_pub)]
mod model;

use operator::cluster::{Cluster, Role, ServerId};
use operator::desired::desired;
use operator::observed::Condemned;
use operator::plan::{Step, next};
use operator::validate::{parse, validate};
use proptest::prelude::*;

use model::World;

/// Something that happens while the operator is at work.
#[derive(Clone, Debug)]
enum Event {
    /// The manifest is edited.
    Edit {
        voters: usize,
        observers: usize,
        tick_time: u32,
        retain: bool,
    },
    /// The operator gets this many passes.
    Passes(usize),
    /// A member dies; the number picks one of those there are.
    Kill(usize),
    /// A member does not answer for a while.
    Silence(usize, u32),
    /// A member's home is lost, unless that would cost the quorum.
    Lose(usize),
    /// A member's data is damaged, unless that would cost the quorum.
    Damage(usize),
    /// The volumes are to be larger.
    Grow,
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let voters = prop_oneof![Just(1_usize), Just(3), Just(5)];
    let edit = (voters, 0_usize..5, 2000_u32..2003, any::<bool>());
    let event = prop_oneof![
        3 => edit.prop_map(|(voters, observers, tick_time, retain)| Event::Edit { voters, observers, tick_time, retain }),
        4 => (1_usize..40).prop_map(Event::Passes),
        2 => any::<usize>().prop_map(Event::Kill),
        1 => (any::<usize>(), 1_u32..20).prop_map(|(at, ticks)| Event::Silence(at, ticks)),
        1 => any::<usize>().prop_map(Event::Lose),
        1 => any::<usize>().prop_map(Event::Damage),
        1 => Just(Event::Grow),
    ];
    prop::collection::vec(event, 1..25)
}

fn cluster(voters: usize, observers: usize, tick_time: u32, retain: bool) -> Cluster {
    let keep = if retain { "Retain" } else { "Delete" };
    let text = format!(
        "{{apiVersion: zookeeper.ensemble.dev/v1alpha1, kind: ZooKeeperEnsemble, metadata: {{name: demo}}, spec: {{\
         voters: {{replicas: {voters}}}, observers: {{replicas: {observers}}}, config: {{tickTime: {tick_time}}}, \
         storage: {{whenScaledDown: {keep}}}}}}}"
    );
    parse(&text)
        .and_then(|ensemble| validate(&ensemble))
        .unwrap()
}

/// One pass of the operator, then a moment of time. Gives whether there was nothing to do.
fn pass(cluster: &Cluster, world: &mut World) -> bool {
    let observed = world.observe();
    let plan = next(cluster, &desired(cluster), &observed);
    let at_rest = plan.next.is_none() && plan.waiting.is_none();
    if let Some(step) = &plan.next {
        let (serving, quorum) = world.voters();
        let total = world.committed.voters().count();
        let before = world.clone();
        world.execute(cluster, step);
        let (left, needed) = world.voters();
        let alone = matches!(step, Step::Restart { .. }) && total <= 2;
        assert!(
            serving < quorum || left >= needed || alone,
            "{step} cost the quorum: {serving} of {total} served, now {left} and {needed} are needed\n{before:#?}"
        );
    }
    world.tick();
    at_rest
}

fn apply(event: &Event, cluster_now: &mut Cluster, world: &mut World) {
    let ids: Vec<ServerId> = world.members.keys().copied().collect();
    let pick = |at: &usize| ids.get(at % ids.len().max(1)).copied();
    match event {
        Event::Edit {
            voters,
            observers,
            tick_time,
            retain,
        } => {
            *cluster_now = cluster(*voters, *observers, *tick_time, *retain);
        }
        Event::Passes(count) => {
            for _ in 0..*count {
                pass(cluster_now, world);
            }
        }
        Event::Kill(at) => pick(at).into_iter().for_each(|id| world.stop(id)),
        Event::Silence(at, ticks) => {
            pick(at)
                .into_iter()
                .for_each(|id| world.members.get_mut(&id).unwrap().silent = *ticks);
        }
        Event::Lose(at) => {
            if let Some(id) = pick(at).filter(|id| can_be_spared(world, *id)) {
                world.stop(id);
                world.members.remove(&id);
            }
        }
        Event::Damage(at) => {
            if let Some(id) = pick(at).filter(|id| can_be_spared(world, *id)) {
                world.stop(id);
                world.members.get_mut(&id).unwrap().condemned = Some(Condemned::StorageDamaged);
            }
        }
        Event::Grow => world
            .members
            .values_mut()
            .for_each(|node| node.undersized = true),
    }
}

/// Whether the others are a quorum without it.
fn can_be_spared(world: &World, id: ServerId) -> bool {
    let (serving, quorum) = world.voters();
    let votes = world.committed.role(id) == Some(Role::Voter);
    !world.members[&id].retired && (serving > quorum || !votes && world.leader.is_some())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn it_converges_and_never_costs_a_quorum(events in events()) {
        let mut cluster = cluster(3, 2, 2000, false);
        let mut world = World::default();
        for event in &events {
            apply(event, &mut cluster, &mut world);
        }
        let passes = (0..1000).find(|_| pass(&cluster, &mut world));
        let plan = next(&cluster, &desired(&cluster), &world.observe());
        prop_assert!(passes.is_some(), "no rest after 1000 passes: {plan}\n{world:#?}");
        for role in [Role::Voter, Role::Observer] {
            let hash = desired(&cluster).template(role).hash.clone();
            let members: Vec<ServerId> = world.committed.with_role(role).collect();
            prop_assert_eq!(members.len(), cluster.role(role).replicas, "{:?}", role);
            for id in members {
                prop_assert!(world.serves(id) && world.members[&id].role == role);
                prop_assert_eq!(world.members[&id].hash.as_ref(), Some(&hash), "member {} runs an old template", id);
            }
        }
        let damaged = world.members.values().filter(|node| node.condemned.is_some());
        prop_assert!(damaged.into_iter().all(|node| node.retired), "a damaged member is still there");
        let small = world.members.values().filter(|node| node.undersized && !node.retired);
        prop_assert_eq!(small.count(), 0, "a volume did not grow");
        prop_assert!((0..20).all(|_| pass(&cluster, &mut world)), "it does not rest");
    }
}

#[test]
fn observers_come_and_go_without_a_restart_of_any_voter() {
    let mut world = World::default();
    while !pass(&cluster(3, 2, 2000, false), &mut world) {}
    for observers in [4, 1, 0, 2] {
        let cluster = cluster(3, observers, 2000, false);
        loop {
            let step = next(&cluster, &desired(&cluster), &world.observe()).next;
            let touched = step.iter().flat_map(|step| match step {
                Step::Start { ids } | Step::Stop { ids } | Step::Remove { ids, .. } => ids.clone(),
                Step::Restart { id } | Step::Promote { id, .. } | Step::Retire { id, .. } => {
                    vec![*id]
                }
                _ => Vec::new(),
            });
            assert!(touched.into_iter().all(|id| id.0 > 3), "{step:?}");
            if pass(&cluster, &mut world) {
                break;
            }
        }
    }
}
