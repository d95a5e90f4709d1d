//! Bugs are put back one by one, and the simulator has to find each of them. Without them the same seeds pass.
//!
//! `cargo test -p node-core --features mutants --test mutants -- --nocapture` prints the table. `MUTANT=Zk4643` tries one;
//! `MUTANT_SEEDS` says how many seeds each gets at most, from the first.

#![allow(
    dead_code,
    clippy::unwrap_used,
    reason = "the simulator has more than these stories need, and a test stops at what it did not expect"
)]

mod checkers;
mod client;
mod counts;
mod disk;
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
mod world;

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use node_core::mutant::{Mutant, put_back};

use runner::run_mixed;

/// Seeds that a mutant gets.
const SEEDS: u64 = 4000;

/// Where mutants were found that need many seeds: that one is tried first, unless the table is asked for (`MUTANT_SEEDS`).
const RARE: &[(Mutant, u64)] = &[
    (Mutant::GoneFollowersAcks, 786),
    (Mutant::ResentAcrossEpochs, 832),
];

/// What found a mutant.
struct Finding {
    mutant: Mutant,
    tried: u64,
    found: Option<(u64, String)>,
}

#[expect(clippy::disallowed_methods, reason = "a person chooses")]
fn setting(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// The first line of what a checker said.
fn first_line(why: &str) -> String {
    let line = why.lines().next().unwrap_or_default();
    line.chars().take(110).collect()
}

fn hunt(mutant: Mutant, seeds: Option<u64>) -> Finding {
    let rare = RARE
        .iter()
        .filter(|(rare, _)| *rare == mutant && seeds.is_none());
    let seeds = rare.map(|(_, seed)| *seed).chain(0..seeds.unwrap_or(SEEDS));
    put_back(Some(mutant));
    let mut finding = Finding {
        mutant,
        tried: 0,
        found: None,
    };
    for seed in seeds {
        finding.tried += 1;
        if let Some((why, ..)) = run_mixed(seed, None, false).failure {
            finding.found = Some((seed, first_line(&why)));
            if setting("SIM_TRACE").is_some()
                && let Some((why, at, trace)) = run_mixed(seed, None, true).failure
            {
                println!("{trace}\nseed {seed} at {at} ms: {why}");
            }
            break;
        }
    }
    put_back(None);
    finding
}

/// Runs `work` for each item on all processors; the order of the results is that of the items.
fn on_all_processors<T: Sync, R: Send>(items: &[T], work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let next = AtomicUsize::new(0);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let worker = || {
        let mut done = Vec::new();
        while let Some(at) = Some(next.fetch_add(1, Ordering::Relaxed))
            && let Some(item) = items.get(at)
        {
            done.push((at, work(item)));
        }
        done
    };
    let mut all: Vec<(usize, R)> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(worker)).collect();
        let done = workers.into_iter().map(|worker| worker.join());
        done.flat_map(|done| done.expect("panics are caught"))
            .collect()
    });
    all.sort_by_key(|(at, _)| *at);
    all.into_iter().map(|(_, result)| result).collect()
}

#[test]
fn every_mutant_is_found() {
    std::panic::set_hook(Box::new(|_| {}));
    let only = setting("MUTANT");
    let seeds = setting("MUTANT_SEEDS").map(|seeds| seeds.parse().unwrap());
    let wanted = |mutant: &Mutant| only.as_ref().is_none_or(|o| *o == format!("{mutant:?}"));
    let bugs = Mutant::ALL.iter().copied();
    let bugs: Vec<Mutant> = bugs
        .filter(|mutant| *mutant != Mutant::EarlyAck && wanted(mutant))
        .collect();
    let passes = AtomicU64::new(0);
    let findings = on_all_processors(&bugs, |mutant| {
        let finding = hunt(*mutant, seeds);
        // The same seed without the bug.
        if let Some((seed, _)) = &finding.found {
            let failure = run_mixed(*seed, None, false).failure;
            passes.fetch_add(u64::from(failure.is_none()), Ordering::Relaxed);
        }
        finding
    });
    println!("| mutant | seeds | found with | by |");
    println!("|---|---|---|---|");
    for Finding {
        mutant,
        tried,
        found,
    } in &findings
    {
        match found {
            Some((seed, why)) => println!("| `{mutant:?}` | {tried} | {seed} | {why} |"),
            None => println!("| `{mutant:?}` | {tried} | not found | |"),
        }
    }
    let missed: Vec<Mutant> = findings
        .iter()
        .filter(|finding| finding.found.is_none())
        .map(|finding| finding.mutant)
        .collect();
    assert!(missed.is_empty(), "not found: {missed:?}");
    assert_eq!(passes.into_inner(), findings.len() as u64);
}

/// A habit of Apache's followers that is no bug: the ensemble must bear it.
#[test]
fn a_proposal_may_be_acknowledged_before_the_history() {
    let seeds: Vec<u64> = (0..100).collect();
    let failures = on_all_processors(&seeds, |seed| {
        put_back(Some(Mutant::EarlyAck));
        run_mixed(*seed, None, false).failure
    });
    for (seed, failure) in seeds.iter().zip(failures) {
        assert!(failure.is_none(), "seed {seed}: {failure:?}");
    }
}
