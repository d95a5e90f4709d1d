//! The whole ensemble in one thread under a seed: messages are delayed, connections break, networks split, servers crash
//! and lose what they had not flushed. After each step the checkers run.
//!
//! `SIM_SEEDS=FROM..TO` chooses the seeds (`random`: fresh ones), `SIM_SECONDS` runs until the time is up, `SIM_SCENARIO` is
//! one of `scenario::NAMES`, `SIM_TRACE=1` prints all that happened. A failure names its seed.

#![expect(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

mod checkers;
mod client;
mod counts;
mod disk;
mod failover;
mod faults;
mod model;
mod network;
mod node;
mod recorder;
mod rng;
mod runner;
mod scenario;
mod service;
mod trace;
mod transcripts;
mod world;

use std::ops::Range;
use std::time::Duration;

use client::Mood;
use node_core::effect::Input;
use node_core::proto::client::Request;
use node_core::quorum::config::MemberRole;
use node_core::zxid::ServerId;

use runner::{run_all, run_mixed, run_seed};
use scenario::{THREE, settle, time_without_leader};
use world::{Setup, World};

#[expect(
    clippy::disallowed_methods,
    reason = "a person chooses seeds for one run"
)]
fn setting(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// `SIM_SEEDS`: a range, or `random` for one that nobody has seen.
#[expect(
    clippy::disallowed_methods,
    reason = "a fresh range is chosen by the clock, and printed"
)]
fn seeds(default: Range<u64>) -> Range<u64> {
    let Some(text) = setting("SIM_SEEDS") else {
        return default;
    };
    if text == "random" {
        let now = std::time::SystemTime::now();
        let now = now.duration_since(std::time::UNIX_EPOCH).unwrap();
        let from = now.as_millis() as u64 * 1_000_000;
        println!("SIM_SEEDS={from}..");
        return from..u64::MAX;
    }
    let (from, to) = text.split_once("..").expect("SIM_SEEDS is FROM..TO");
    let to = if to.is_empty() {
        u64::MAX
    } else {
        to.parse().unwrap()
    };
    from.parse().unwrap()..to
}

/// Runs a story under each seed; a failure names the seed.
fn for_each_seed(default: Range<u64>, setup: &Setup, story: impl Fn(&mut World) + Sync) {
    let traced = setting("SIM_TRACE").is_some();
    run_all(seeds(default), None, |seed| {
        run_seed(seed, setup, traced, &story)
    });
}

/// Seeds that found something once.
const FOUND: &[u64] = &[
    561, 640, 1618, 9170, 28_581, 29_643, 43_969, 44_663, 48_789, 71_759, 77_539,
];

/// Half of the seeds have a bit of everything, the others a certain kind of trouble.
#[test]
fn every_promise_is_kept_under_faults() {
    let traced = setting("SIM_TRACE").is_some();
    let name = setting("SIM_SCENARIO");
    let time = setting("SIM_SECONDS").map(|s| Duration::from_secs(s.parse().unwrap()));
    let default = if time.is_some() { 0..u64::MAX } else { 0..400 };
    let run = |seed| run_mixed(seed, name.as_deref(), traced);
    if setting("SIM_SEEDS").is_none() {
        for seed in FOUND {
            run_all(*seed..seed + 1, None, run);
        }
    }
    run_all(seeds(default), time, run);
}

#[test]
fn one_server_is_an_ensemble() {
    let setup = Setup {
        voters: 1,
        clients: 3,
        ..THREE
    };
    for_each_seed(0..10, &setup, |world| {
        let crashes = [faults::Fault::Crash, faults::Fault::Restart];
        let weights = faults::Weights::only(&crashes);
        settle(world);
        for _ in 0..30 {
            world.run_for(200);
            scenario::write(world, 3);
            world.disturb(&weights);
        }
        scenario::recover(world);
    });
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

/// (Mixed scenario, seed 561: a reconfiguration counted on a server that had lost its disk.)
#[test]
fn a_voter_that_has_no_vote_carries_no_configuration() {
    let setup = Setup {
        reconfig_enabled: true,
        clients: 1,
        ..THREE
    };
    for_each_seed(0..10, &setup, |world| {
        settle(world);
        world.mood = Mood::Quiet;
        // In the first epoch nothing can have been promised before.
        let first = world.leader().unwrap();
        world.crash(first);
        world.start(first);
        assert!(world.run_until(world.now + 2000, World::is_healthy));
        let leader = world.leader().unwrap();
        let mut others = world.ids().into_iter().filter(|id| *id != leader);
        let (wiped, kept) = (others.next().unwrap(), others.next().unwrap());
        world.empty_disk(wiped);
        world.start(wiped);
        world.leave(0, false);
        world.clients[0].only = Some(leader);
        let ready = |w: &World| w.nodes[&wiped].serving && w.clients[0].is_open();
        assert!(world.run_until(world.now + 2000, ready));

        let ask = |world: &mut World| {
            let change = Request::Reconfig {
                joining: None,
                leaving: Some(kept.to_string()),
                new_members: None,
                from_config: -1,
            };
            world.request(0, change);
            assert!(world.run_until(world.now + 2000, |w| w.clients[0].waits_for() == 0));
            world.peer(leader).last_seen_config().is_voter(kept)
        };
        assert!(!world.nodes[&wiped].disk.votes());
        assert!(ask(world), "who has no vote is counted");
        let whole = |w: &World| {
            let mut followers = w.peer(leader).active_learners();
            followers.any(|follower| follower == (wiped, false))
        };
        assert!(world.run_until(world.now + 60_000, whole));
        assert!(!ask(world), "a voter is not counted");
    });
}
