//! The whole ensemble in one thread under a seed: messages are delayed, connections break, networks split, servers crash
//! and lose what they had not flushed. After each step the checkers run.
//!
//! `SIM_SEEDS=FROM..TO` chooses the seeds, `SIM_TRACE=1` prints all that happened. A failure names its seed.

#![expect(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

mod checkers;
mod client;
mod disk;
mod failover;
mod model;
mod network;
mod node;
mod rng;
mod service;
mod trace;
mod transcripts;
mod world;

use std::ops::Range;

use node_core::effect::Input;
use node_core::quorum::config::MemberRole;
use node_core::zxid::ServerId;

use client::{Counts, Mood};
use world::{Setup, World};

#[expect(
    clippy::disallowed_methods,
    reason = "a person chooses seeds for one run"
)]
fn setting(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

fn seeds(default: Range<u64>) -> Range<u64> {
    let Some(text) = setting("SIM_SEEDS") else {
        return default;
    };
    let (from, to) = text.split_once("..").expect("SIM_SEEDS is FROM..TO");
    from.parse().unwrap()..to.parse().unwrap()
}

/// Runs a story under each seed; a failure names the seed.
fn for_each_seed(default: Range<u64>, setup: &Setup, story: impl Fn(&mut World)) {
    let mut total = Counts::default();
    for seed in seeds(default) {
        let mut world = World::new(seed, setup.clone());
        if setting("SIM_TRACE").is_some() {
            world.trace = Some(String::new());
        }
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| story(&mut world)));
        total.add(&world.counts, world.now);
        if let Err(cause) = result {
            println!("{}", world.trace.unwrap_or_default());
            println!(
                "failed with SIM_SEEDS={seed}..{} at {} ms",
                seed + 1,
                world.now
            );
            std::panic::resume_unwind(cause);
        }
    }
    println!("{total:?}");
}

/// Three voters.
pub(crate) const THREE: Setup = Setup {
    voters: 3,
    observers: 0,
    observers_keep_disk: true,
    reconfig_enabled: false,
    clients: 0,
};

/// Something goes wrong somewhere.
fn disturb(world: &mut World) {
    let ids = world.ids();
    world.counts.faults += 1;
    let pick = |world: &mut World| world.rng.pick(&ids).unwrap();
    let (a, b) = (pick(world), pick(world));
    match world.rng.range(0, 12) {
        0 => world.crash(a),
        1 => {
            if let Some(leader) = world.leader() {
                world.crash(leader);
            }
        }
        2..=4 => ids.iter().for_each(|id| world.start(*id)),
        5 => world.cut(a, b),
        6 => {
            world.blocked.insert((a, b));
        }
        7 => isolate(world, a),
        8 => world.blocked.clear(),
        9 => {
            let ms = if world.rng.one_in(3) { 3000 } else { 8 };
            world.nodes.get_mut(&a).unwrap().disk_ms = ms;
        }
        10 => {
            if world.is_up(a) {
                world.step(a, Input::Resign);
            }
        }
        _ => {
            world.crash(a);
            world.crash(b);
        }
    }
    world.update_election_links();
}

fn isolate(world: &mut World, id: ServerId) {
    let noticed_by = world.rng.range(0, 4);
    for other in world.ids() {
        world.blocked.extend([(id, other), (other, id)]);
        match noticed_by {
            0 => world.cut(id, other),
            // The others go on at once; a leader that is left alone does not know it yet.
            1 => world.cut(other, id),
            2 if world.rng.one_in(2) => world.cut(id, other),
            _ => {}
        }
    }
}

fn write(world: &mut World) {
    for id in world.ids() {
        for _ in 0..world.rng.range(0, 4) {
            world.propose(id);
        }
    }
}

fn heal(world: &mut World) {
    world.blocked.clear();
    for id in world.ids() {
        world.nodes.get_mut(&id).unwrap().disk_ms = 8;
        world.start(id);
    }
    world.update_election_links();
}

/// Faults for a while, then none: the ensemble must have come back after this time.
const RECOVERY_MS: u64 = 30_000;

fn faults_then_peace(world: &mut World) {
    world.ids().into_iter().for_each(|id| world.start(id));
    for _ in 0..60 {
        let pause = world.rng.range(1, 800);
        let until = world.now + pause;
        while world.now < until {
            write(world);
            let pause = world.rng.range(1, 60);
            world.run_for(pause);
        }
        disturb(world);
    }
    recover(world);
}

/// Without faults the ensemble comes back and takes writes.
fn recover(world: &mut World) {
    heal(world);
    world.mood = Mood::Quiet;
    let by = world.now + RECOVERY_MS;
    assert!(world.run_until(by, World::is_healthy), "no recovery");
    // What a server has not noticed yet may end the reign of the leader once more; not for long.
    let before = world.checkers.zxids.len();
    while world.checkers.zxids.len() == before || !world.is_healthy() {
        assert!(world.now < by, "no write after recovery");
        world
            .leader()
            .into_iter()
            .for_each(|leader| world.propose(leader));
        world.run_until(world.now + 500, |w| {
            w.checkers.zxids.len() > before && w.is_healthy()
        });
    }
    clients_recover(world);
}

/// Every client is served again; then every session that no client keeps ends, and no other.
fn clients_recover(world: &mut World) {
    world.mood = Mood::Calm;
    let answered: Vec<u64> = world.clients.iter().map(|c| c.answered).collect();
    let all_write = |w: &World| {
        let mut both = w.clients.iter().zip(&answered);
        both.all(|(client, before)| client.answered > before + 3)
    };
    let by = world.now + RECOVERY_MS;
    assert!(world.run_until(by, all_write), "a client is not served");
    world.mood = Mood::Quiet;
    let by = world.now + RECOVERY_MS;
    let settled = |w: &World| w.is_healthy() && w.only_live_sessions();
    assert!(world.run_until(by, settled), "a session does not end");
    world.run_for(5000);
    assert!(settled(world), "a session ended that its client kept");
    for session in &world.ended {
        assert!(
            !world.checkers.model.sessions.contains(session),
            "{session:?} has ended"
        );
    }
    for (id, node) in &world.nodes {
        world.checkers.tree_is_right(*id, &node.tree);
        world.checkers.tree_is_the_model(*id, &node.tree.replica);
    }
}

#[test]
fn three_servers_keep_every_promise_under_faults() {
    let setup = Setup {
        clients: 4,
        ..THREE
    };
    for_each_seed(0..100, &setup, faults_then_peace);
}

#[test]
fn five_servers_and_two_observers_keep_every_promise_under_faults() {
    let setup = Setup {
        voters: 5,
        observers: 2,
        clients: 5,
        ..THREE
    };
    for_each_seed(0..40, &setup, faults_then_peace);
}

#[test]
fn observers_without_a_disk_keep_every_promise_under_faults() {
    let setup = Setup {
        observers: 2,
        observers_keep_disk: false,
        reconfig_enabled: true,
        clients: 4,
        ..THREE
    };
    for_each_seed(0..40, &setup, faults_then_peace);
}

#[test]
fn one_server_is_an_ensemble() {
    let setup = Setup {
        voters: 1,
        clients: 3,
        ..THREE
    };
    for_each_seed(0..10, &setup, faults_then_peace);
}

/// Starts everybody and waits until all serve.
fn settle(world: &mut World) {
    world.mood = Mood::Quiet;
    world.ids().into_iter().for_each(|id| world.start(id));
    assert!(
        world.run_until(world.now + 2000, World::is_healthy),
        "no ensemble after two seconds"
    );
    world.mood = Mood::Wild;
}

/// How long it takes until somebody leads after `fault`.
fn time_without_leader(world: &mut World, fault: impl Fn(&mut World, ServerId)) -> u64 {
    settle(world);
    for _ in 0..20 {
        write(world);
        world.run_for(10);
    }
    let (leader, since) = (world.leader().unwrap(), world.now);
    fault(world, leader);
    let another = |w: &World| w.leader().is_some_and(|new| new != leader);
    assert!(world.run_until(world.now + 5000, another), "nobody leads");
    world.now - since
}

#[test]
fn a_crashed_leader_is_replaced_without_waiting_for_timers() {
    for_each_seed(0..50, &THREE, |world| {
        let ms = time_without_leader(world, World::crash);
        assert!(ms < 500, "{ms} ms without a leader");
    });
}

#[test]
fn a_leader_that_resigns_hands_over_without_waiting_for_timers() {
    for_each_seed(0..50, &THREE, |world| {
        let ms = time_without_leader(world, |world, leader| world.step(leader, Input::Resign));
        assert!(ms < 500, "{ms} ms without a leader");
    });
}

fn toggle(role: MemberRole) -> MemberRole {
    match role {
        MemberRole::Participant => MemberRole::Observer,
        MemberRole::Observer => MemberRole::Participant,
    }
}

#[test]
fn an_observer_becomes_a_voter_and_a_leader_leaves() {
    let setup = Setup {
        observers: 1,
        reconfig_enabled: true,
        ..THREE
    };
    for_each_seed(0..20, &setup, |world| {
        settle(world);
        let promoted = ServerId(4);
        assert!(world.reconfigure(|members| {
            members.get_mut(&promoted).unwrap().role = MemberRole::Participant;
        }));
        world.run_for(1000);
        assert!(world.run_until(world.now + 5000, World::is_healthy));
        let leader = world.leader().unwrap();
        let followers: Vec<_> = world.peer(leader).active_learners().collect();
        assert!(
            followers.contains(&(promoted, false)) || leader == promoted,
            "{followers:?}"
        );

        assert!(world.reconfigure(|members| drop(members.remove(&leader))));
        world.run_for(1000);
        assert!(world.run_until(world.now + 5000, World::is_healthy));
        assert_ne!(world.leader(), Some(leader));
        let version = world.peer(promoted).config().version;
        let ids = world.ids();
        assert!(
            ids.iter()
                .all(|id| world.peer(*id).config().version == version)
        );
    });
}

fn change_under_faults(world: &mut World) {
    settle(world);
    for _ in 0..60 {
        let pause = world.rng.range(1, 800);
        world.run_for(pause);
        write(world);
        let id = world.rng.range(1, 6) as i64;
        world.reconfigure(|members| {
            let member = members.get_mut(&ServerId(id)).unwrap();
            member.role = toggle(member.role);
        });
        write(world);
        if world.rng.one_in(2) {
            disturb(world);
        }
    }
    recover(world);
}

#[test]
fn an_ensemble_that_changes_keeps_every_promise_under_faults() {
    let setup = Setup {
        observers: 2,
        reconfig_enabled: true,
        clients: 4,
        ..THREE
    };
    for_each_seed(0..40, &setup, change_under_faults);
}

#[test]
fn observers_without_a_disk_may_become_voters_under_faults() {
    let setup = Setup {
        observers: 2,
        observers_keep_disk: false,
        reconfig_enabled: true,
        clients: 4,
        ..THREE
    };
    for_each_seed(0..40, &setup, change_under_faults);
}
