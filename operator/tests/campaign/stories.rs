//! Every scenario once as it is, and once for each point at which an operator can die.

use std::collections::BTreeMap;
use std::sync::{Mutex, OnceLock};

use operator::cluster::{Role, ServerId};

use super::api_model::World;
use super::process::Watch;
use super::scenarios::{Scenario, Then, all};
use super::sim::{Counts, Sim};
use super::tally::{Tally, in_parallel};

/// A world in which an ensemble of some spec is at rest.
pub async fn installed(scenario: &Scenario) -> World {
    static KEPT: OnceLock<Mutex<BTreeMap<String, World>>> = OnceLock::new();
    let kept = KEPT.get_or_init(Mutex::default);
    let Some(spec) = &scenario.start else {
        return World::new(NODES);
    };
    let name = spec.to_string();
    if let Some(world) = kept.lock().unwrap().get(&name) {
        return world.clone();
    }
    let mut world = World::new(NODES);
    world.create_ensemble(spec.clone());
    let mut sim = Sim::new(world, Watch::Fresh);
    if let Err(why) = sim.converge().await {
        panic!("{}", sim.tell("install", &why));
    }
    let mut world = sim.world.lock().clone();
    world.ensemble.load = true;
    world.forget();
    kept.lock().unwrap().insert(name, world.clone());
    world
}

/// Plays the phases; with `crashes`, again from every point at which an operator can die.
async fn play(scenario: &Scenario, watch: Watch, crashes: bool) -> Tally {
    let mut sim = Sim::new(installed(scenario).await, watch);
    let mut tally = Tally::default();
    for (at, phase) in scenario.phases.iter().enumerate() {
        let name = format!("{}: {}, {watch:?}", scenario.name, phase.name);
        let starts = voters_starts(&sim);
        let before = sim.world.lock().store.version();
        (phase.act)(&mut sim.world.lock());
        sim.world.lock().recorder = crashes.then(Vec::new);
        let outcome = deliver(&mut sim, phase.then).await;
        let records = sim.world.lock().recorder.take().unwrap_or_default();
        if let Err(why) = outcome {
            tally.failures.push(sim.tell(&name, &why));
            return tally;
        }
        if scenario.name.starts_with("observers") && starts != voters_starts(&sim) {
            let why = "a voter was restarted for observers";
            tally.failures.push(sim.tell(&name, why));
        }
        for (point, record) in records.into_iter().enumerate() {
            for watch in watches(at + point, before) {
                if tally.failures.len() < FAILURES_MAX {
                    let name = format!("{name}, then a crash at point {point} and {watch:?}");
                    tally += resume(scenario, at, record.clone(), watch, &name).await;
                }
            }
        }
    }
    if let Err(why) = quiet(&mut sim).await {
        tally.failures.push(sim.tell(scenario.name, &why));
    }
    tally.counts += Counts {
        runs: 1,
        passes: sim.counts.passes,
        requests: sim.world.lock().requests,
        ..Counts::default()
    };
    tally
}

/// How the operator's successors see the world after a crash. A quick campaign takes some crash points, each in
/// one of the ways; `CAMPAIGN_CRASHES=all` takes each of them in all ways.
fn watches(point: usize, before: u64) -> Vec<Watch> {
    let ways = [Watch::Fresh, Watch::Stale(before), Watch::Gappy];
    match std::env::var("CAMPAIGN_CRASHES").as_deref() {
        Ok("all") => ways.to_vec(),
        Ok("once") => vec![ways[point % 3]],
        _ if point.is_multiple_of(CRASHES_APART) => vec![ways[point / CRASHES_APART % 3]],
        _ => Vec::new(),
    }
}

/// An operator died here; the next one finishes the phase, and those after it up to the next rest.
async fn resume(scenario: &Scenario, at: usize, world: World, watch: Watch, name: &str) -> Tally {
    let requests = world.requests;
    let mut sim = Sim::new(world, watch);
    sim.restart(watch);
    let mut tally = Tally::default();
    for (later, phase) in scenario.phases[at..].iter().enumerate() {
        if later > 0 {
            (phase.act)(&mut sim.world.lock());
        }
        if let Err(why) = deliver(&mut sim, phase.then).await {
            let name = format!("{name}: {}", phase.name);
            tally.failures.push(sim.tell(&name, &why));
            break;
        }
        if matches!(phase.then, Then::Converge) {
            break;
        }
    }
    tally.counts = Counts {
        runs: 1,
        passes: sim.counts.passes,
        requests: sim.world.lock().requests - requests,
        crash_points: 1,
        ..Counts::default()
    };
    tally
}

pub async fn deliver(sim: &mut Sim, then: Then) -> Result<(), String> {
    match then {
        Then::Converge => sim.converge().await,
        Then::Say(words) => sim.until_said(words).await,
        Then::Pass(count) => sim.steps(count).await,
        Then::Wait(minutes) => {
            for _ in 0..minutes {
                sim.steps(2).await?;
                (0..TICKS_A_MINUTE).for_each(|_| sim.world.lock().tick());
            }
            Ok(())
        }
        Then::Serve(count) => {
            let mut away = 0;
            for _ in 0..count {
                sim.step().await?;
                let world = sim.world.lock();
                let serving = world
                    .voters()
                    .into_iter()
                    .filter(|id| world.serves(*id))
                    .count();
                let quorum = world
                    .ensemble
                    .committed
                    .as_ref()
                    .map_or(0, |committed| committed.quorum());
                away = if serving < quorum { away + 1 } else { 0 };
                if away > ELECTION_TICKS_MAX {
                    return Err(format!("{serving} voters serve, and a quorum is {quorum}"));
                }
            }
            Ok(())
        }
    }
}

/// When nobody writes and nothing changes, nothing is sent.
async fn quiet(sim: &mut Sim) -> Result<(), String> {
    sim.world.lock().ensemble.load = false;
    sim.rest().await
}

fn voters_starts(sim: &Sim) -> BTreeMap<ServerId, u64> {
    let world = sim.world.lock();
    let starts = &world.ensemble.starts;
    world
        .members(Role::Voter)
        .into_iter()
        .map(|id| (id, starts.get(&id.0).copied().unwrap_or(0)))
        .collect()
}

/// One scenario, with all its crash points.
fn play_whole(scenario: &Scenario) -> Tally {
    let begun = std::time::Instant::now();
    let tally = super::model::run(async {
        let mut tally = play(scenario, Watch::Fresh, true).await;
        tally += play(scenario, Watch::Gappy, false).await;
        tally
    });
    let Counts {
        crash_points,
        passes,
        ..
    } = tally.counts;
    println!(
        "{:>6.1?} {crash_points:>5} crash points {passes:>6} passes {} failures: {}",
        begun.elapsed(),
        tally.failures.len(),
        scenario.name
    );
    tally
}

#[test]
fn every_scenario_survives_a_crash_after_every_request() {
    let only = std::env::var("CAMPAIGN_SCENARIO").unwrap_or_default();
    let scenarios = all();
    let scenarios: Vec<&Scenario> = scenarios
        .iter()
        .filter(|scenario| scenario.name.contains(&only))
        .collect();
    in_parallel("scenarios", &scenarios, |scenario| play_whole(scenario)).finish();
}

/// A quick campaign dies at every so many requests.
const CRASHES_APART: usize = 9;
/// More failures of one scenario tell nothing new.
const FAILURES_MAX: usize = 4;
/// Nodes of the model's cluster.
const NODES: usize = 5;
const TICKS_A_MINUTE: usize = 30;
/// Moments that an election may take.
const ELECTION_TICKS_MAX: u64 = 6;
