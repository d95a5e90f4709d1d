//! Thousands of random changes of the spec, with random faults in between: nothing that must not happen happens, and
//! in the end there is what the last spec asks for.

use operator::cluster::ServerId;
use operator::membership::Membership;
use serde_json::{Value, json};

use super::api_model::{Crash, Random, Server, Trouble, World};
use super::manifest::Specs;
use super::model::run;
use super::process::Watch;
use super::scenarios::spec;
use super::sim::{Counts, Sim};
use super::tally::{Tally, in_parallel};

/// One story: an ensemble, and changes and faults at random.
async fn story(seed: u64) -> Tally {
    let mut random = Random::new(seed);
    let mut world = World::new(NODES);
    let observers = random.below(3) as u32;
    let first = spec(1 + 2 * random.below(2) as u32, observers);
    world.create_ensemble(first.clone());
    world.ensemble.load = true;
    let watch = if seed.is_multiple_of(2) {
        Watch::Gappy
    } else {
        Watch::Fresh
    };
    let mut sim = Sim::new(world, watch);
    let outcome = tell(&mut sim, first, &mut random).await;
    let outcome = outcome.map_err(|why| sim.tell(&format!("seed {seed}"), &why));
    let counts = Counts {
        runs: 1,
        passes: sim.counts.passes,
        requests: sim.world.lock().requests,
        transitions: CHANGES,
        ..Counts::default()
    };
    Tally::of(counts, outcome)
}

async fn tell(sim: &mut Sim, mut now: Value, random: &mut Random) -> Result<(), String> {
    let mut specs = Specs::new();
    for _ in 0..CHANGES {
        now = specs.next(&now, random);
        sim.world.lock().edit_spec(|spec| *spec = now.clone());
        for _ in 0..random.below(PASSES_BETWEEN_MAX) {
            disturb(sim, random);
            sim.step().await?;
        }
    }
    calm(sim);
    now["updatePolicy"]["pause"] = json!(false);
    now["repair"]["replaceDamaged"] = json!(true);
    sim.world.lock().edit_spec(|spec| *spec = now);
    sim.converge().await?;
    sim.world.lock().ensemble.load = false;
    sim.rest().await
}

/// Perhaps something goes wrong now; never so much that a majority would lose its data or its power.
fn disturb(sim: &mut Sim, random: &mut Random) {
    if !random.chance(12) {
        return;
    }
    let mut world = sim.world.lock();
    let servers = world.ensemble.servers.values();
    let ids: Vec<u32> = servers.map(|server| server.id).collect();
    let Some(id) = random.pick(&ids).copied() else {
        return;
    };
    match random.below(11) {
        0 if world.spares(id) || !world.is_doomed(id) => {
            world.note(format!("somebody deletes pod {id}"));
            let _ = world.store.delete(&World::pod_key(id), &Default::default());
        }
        1 => {
            let ticks = 1 + random.below(10) as u32;
            world.note(format!("member {id} falls silent for {ticks}"));
            each_of(&mut world, id, |server| server.silent = ticks);
        }
        2 if world.spares(id) => {
            world.note(format!("somebody deletes the claim of member {id}"));
            let _ = world
                .store
                .delete(&World::claim_key(id), &Default::default());
        }
        3 if world.spares(id) => {
            world.note(format!("the volume of member {id} is damaged"));
            world.damage(id);
        }
        4 => {
            let percent = random.below(3) as u32 * 10;
            world.note(format!("{percent} of 100 requests fail"));
            world.trouble = Some(Trouble {
                random: Random::new(random.next()),
                percent,
            });
        }
        5 => lose_or_find_nodes(&mut world, random),
        6 => {
            let slow = random.below(5) as u32;
            each_of(&mut world, id, |server| server.slow = slow);
        }
        7 if world.spares(id) => {
            let ticks = 1 + random.below(20) as u32;
            world.note(format!("member {id} is cut off from its peers for {ticks}"));
            each_of(&mut world, id, |server| server.cut = ticks);
            // Nobody notices at once; what is done in that moment is nobody's fault.
            world.tick();
        }
        8 => {
            let after = random.below(12) as u64;
            let carried_out = random.chance(50);
            world.crash = Some(Crash { after, carried_out });
        }
        9 if world.spares(id) || !world.is_doomed(id) => {
            let _ = world.evict(&World::pod_key(id));
        }
        10 => {
            world.note("the operator is killed");
            let version = world.store.version();
            let old = version - random.next() % (1 + version.min(40));
            let watch = [Watch::Fresh, Watch::Gappy, Watch::Stale(old)][random.below(3)];
            drop(world);
            sim.restart(watch);
        }
        // What the ensemble cannot spare just now is left alone.
        _ => {}
    }
}

/// All lives of the server with this id.
fn each_of(world: &mut World, id: u32, act: impl FnMut(&mut Server)) {
    let servers = world.ensemble.servers.values_mut();
    servers.filter(|server| server.id == id).for_each(act);
}

/// One node is lost at a time.
fn lose_or_find_nodes(world: &mut World, random: &mut Random) {
    let lost = world
        .machines
        .values()
        .any(|machine| machine.lost.is_some());
    let name = format!("node-{}", 1 + random.below(NODES));
    let (power, spared) = (random.chance(50), world.spares_node(&name));
    match lost {
        true => find_nodes(world),
        false if spared => world.set_lost(&name, Some(power)),
        false => {}
    }
}

/// Everything works again.
fn calm(sim: &mut Sim) {
    let mut world = sim.world.lock();
    (world.trouble, world.crash) = (None, None);
    find_nodes(&mut world);
}

fn find_nodes(world: &mut World) {
    let names: Vec<String> = world.machines.keys().cloned().collect();
    let lost = names
        .iter()
        .filter(|name| world.machines[*name].lost.is_some());
    let lost: Vec<&String> = lost.collect();
    lost.into_iter().for_each(|name| world.set_lost(name, None));
}

impl World {
    /// Whether the voters that serve and hold everything are a quorum without these members. One whose claim somebody
    /// has deleted counts as lost.
    fn solid_without(&self, away: impl Fn(ServerId) -> bool) -> bool {
        let holders = self.holders().into_iter();
        let left = holders.filter(|id| !away(*id) && !self.is_doomed(id.0) && self.serves(*id));
        let quorum = self.ensemble.committed.as_ref().map(Membership::quorum);
        quorum.is_some_and(|quorum| left.count() >= quorum)
    }

    /// Whether the ensemble can do without a member.
    fn spares(&self, id: u32) -> bool {
        self.solid_without(|other| other.0 == id)
    }

    /// Whether it can do without the members on a node.
    fn spares_node(&self, name: &str) -> bool {
        let there = |id| self.server(id).is_some_and(|server| server.node == name);
        self.solid_without(there)
    }
}

/// How many stories there are: `CAMPAIGN_CASES` asks for more.
fn cases() -> u64 {
    let cases = std::env::var("CAMPAIGN_CASES")
        .ok()
        .and_then(|cases| cases.parse().ok());
    cases.unwrap_or(CASES)
}

#[test]
fn random_changes_and_faults_end_as_the_last_spec_says() {
    let only = std::env::var("CAMPAIGN_SEED").ok();
    let only = only.and_then(|seed| seed.parse::<u64>().ok());
    let seeds: Vec<u64> = only.map_or_else(|| (1..=cases()).collect(), |seed| vec![seed]);
    in_parallel("random changes", &seeds, |seed| run(story(*seed))).finish();
}

/// Stories of a quick run, and changes of the spec in each.
const CASES: u64 = 36;
const CHANGES: u64 = 60;
const PASSES_BETWEEN_MAX: usize = 9;
const NODES: usize = 5;
