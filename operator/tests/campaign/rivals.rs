//! Two operators at once, neither of which knows of the other: their requests are interleaved in any order.

use std::sync::Arc;

use operator::cluster::Role;
use tokio::sync::Semaphore;

use super::api_model::{Life, Random, Shared, World};
use super::model::run;
use super::process::{Operator, Watch};
use super::scenarios::{Scenario, all};
use super::sim::{Counts, Sim};
use super::stories::{deliver, installed};

/// Plays the phases of a scenario under two operators, then lets one of them finish.
async fn duel(scenario: &Scenario, seed: u64) -> Counts {
    let mut random = Random::new(seed);
    let mut world = installed(scenario).await;
    let mut counts = Counts {
        runs: 1,
        ..Counts::default()
    };
    for phase in &scenario.phases {
        (phase.act)(&mut world);
        let shared = Shared::new(world);
        let mut rivals = [Rival::new(&shared, 101), Rival::new(&shared, 102)];
        for _ in 0..DUEL_PASSES {
            counts.passes += 2;
            both(&mut rivals, &mut random).await;
            let mut world = shared.lock();
            world.tick();
            let violations = std::mem::take(&mut world.violations);
            drop(world);
            if !violations.is_empty() {
                let sim = Sim::new(shared.lock().clone(), Watch::Fresh);
                panic!(
                    "{}",
                    sim.tell(
                        &format!("{}: {}, seed {seed}", scenario.name, phase.name),
                        &violations.join("; ")
                    )
                );
            }
        }
        let left = shared.lock().clone();
        let mut sim = Sim::new(left, Watch::Fresh);
        if let Err(why) = deliver(&mut sim, phase.then).await {
            panic!(
                "{}",
                sim.tell(
                    &format!("{}: {}, seed {seed}, alone", scenario.name, phase.name),
                    &why
                )
            );
        }
        counts.passes += sim.counts.passes;
        world = sim.world.lock().clone();
    }
    assert!(!world.members(Role::Voter).is_empty());
    counts.requests = world.requests;
    counts
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
            gates[random.below(2)].add_permits(1);
            // Long enough for the request and for what follows it, up to the next.
            for _ in 0..YIELDS {
                tokio::task::yield_now().await;
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
fn two_operators_at_once_do_no_harm() {
    let begun = std::time::Instant::now();
    let mut counts = Counts::default();
    for (seed, scenario) in all().iter().enumerate() {
        for round in 0..ROUNDS {
            counts += run(duel(scenario, seed as u64 * 1000 + round));
        }
    }
    println!("two operators: {:.1?}: {counts:?}", begun.elapsed());
}

const DUEL_PASSES: u64 = 25;
const ROUNDS: u64 = 2;
const YIELDS: usize = 30;
