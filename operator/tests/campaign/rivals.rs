//! Two operators at once, neither of which knows of the other: their requests are interleaved in any order.

use std::sync::Arc;

use tokio::sync::Semaphore;

use super::api_model::{Life, Random, Shared};
use super::model::run;
use super::process::{Operator, Watch};
use super::scenarios::{Scenario, all};
use super::sim::Sim;
use super::stories::{deliver, installed};
use super::tally::{Tally, in_parallel};

/// Plays the phases of a scenario under two operators, and lets one of them finish each.
async fn duel(scenario: &Scenario, seed: u64) -> Tally {
    let mut random = Random::new(seed);
    let mut world = installed(scenario).await;
    let mut tally = Tally::default();
    tally.counts.runs = 1;
    for phase in &scenario.phases {
        (phase.act)(&mut world);
        let shared = Shared::new(world);
        let fought = fight(&shared, &mut random).await;
        let mut sim = Sim::new(shared.lock().clone(), Watch::Fresh);
        let outcome = match fought {
            Ok(()) => deliver(&mut sim, phase.then).await,
            Err(why) => Err(why),
        };
        tally.counts.passes += sim.counts.passes + 2 * DUEL_PASSES;
        world = sim.world.lock().clone();
        if let Err(why) = outcome {
            let name = format!("{}: {}, seed {seed}", scenario.name, phase.name);
            tally.failures.push(sim.tell(&name, &why));
            break;
        }
    }
    tally.counts.requests = world.requests;
    tally
}

async fn fight(shared: &Shared, random: &mut Random) -> Result<(), String> {
    let mut rivals = [Rival::new(shared, 101), Rival::new(shared, 102)];
    for _ in 0..DUEL_PASSES {
        both(&mut rivals, random).await;
        let mut world = shared.lock();
        world.tick();
        if !world.violations.is_empty() {
            return Err(std::mem::take(&mut world.violations).join("; "));
        }
    }
    Ok(())
}

/// One of two operators.
struct Rival {
    operator: Operator,
    gate: Arc<Semaphore>,
}

impl Rival {
    fn new(world: &Shared, id: u64) -> Self {
        let gate = Arc::new(Semaphore::new(0));
        let life = Life {
            gate: Some(gate.clone()),
            ..Life::new(world, id)
        };
        Self {
            operator: Operator::of(life, Watch::Gappy),
            gate,
        }
    }
}

/// One pass of each; before each request of one, the other may do any number of its own.
async fn both(rivals: &mut [Rival; 2], random: &mut Random) {
    let gates = [rivals[0].gate.clone(), rivals[1].gate.clone()];
    let [first, second] = rivals;
    let work = async {
        tokio::join!(first.operator.pass(), second.operator.pass());
    };
    let turns = async {
        loop {
            // Now one request each in turn, now a whole pass of one between two requests of the other.
            let (turn, burst) = (random.below(2), 1 + random.below(BURST_MAX));
            for _ in 0..burst {
                gates[turn].add_permits(1);
                // Long enough for the request and for what follows it, up to the next.
                for _ in 0..YIELDS {
                    tokio::task::yield_now().await;
                }
            }
        }
    };
    tokio::select! {
        () = work => {}
        () = turns => unreachable!("turns do not end"),
    }
    for gate in &gates {
        gate.forget_permits(usize::MAX >> 4);
    }
}

#[test]
fn two_operators_do_no_harm_and_call_what_the_role_allows() {
    let scenarios = all();
    let duels: Vec<(&Scenario, u64)> = scenarios
        .iter()
        .flat_map(|scenario| (1..=rounds()).map(move |seed| (scenario, seed)))
        .collect();
    let tally = in_parallel("two operators", &duels, |(scenario, seed)| {
        run(duel(scenario, *seed))
    });
    tally.finish();
    super::permissions::check();
}

/// How often each scenario is fought over: `CAMPAIGN_DUELS` asks for more.
fn rounds() -> u64 {
    let rounds = std::env::var("CAMPAIGN_DUELS")
        .ok()
        .and_then(|rounds| rounds.parse().ok());
    rounds.unwrap_or(ROUNDS)
}

const BURST_MAX: usize = 24;
const DUEL_PASSES: u64 = 25;
const ROUNDS: u64 = 1;
const YIELDS: usize = 30;
