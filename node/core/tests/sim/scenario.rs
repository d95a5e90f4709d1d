//! Whole runs: an ensemble, what goes wrong in it, and that it comes back.

use node_core::zxid::ServerId;

use crate::client::Mood;
use crate::faults::{Fault, Weights};
use crate::rng::Rng;
use crate::world::{Setup, World};

/// Three voters.
pub(crate) const THREE: Setup = Setup {
    voters: 3,
    observers: 0,
    observers_keep_disk: true,
    reconfig_enabled: false,
    clients: 0,
    recent: 60,
    snapshot_every: 40,
};

/// Faults for a while, then none: the ensemble must have come back after this time.
const RECOVERY_MS: u64 = 20_000;

/// What a seed makes of a run.
#[derive(Clone, Debug)]
pub(crate) struct Scenario {
    pub(crate) setup: Setup,
    weights: Weights,
    faults: u64,
    /// The longest time between two faults.
    pause_ms: u64,
    /// Writes without a client, so that there is something to lose.
    writes: u64,
}

/// The names of the scenarios that a seed chooses from.
pub(crate) const NAMES: &[&str] = &[
    "everything",
    "crashes",
    "partitions",
    "disks",
    "membership",
    "clocks",
    "storm",
];

impl Scenario {
    /// What a seed stands for. `name` narrows the choice.
    pub(crate) fn of(seed: u64, name: Option<&str>) -> Self {
        let mut rng = Rng::new(seed ^ 0x5ce0_a210);
        let name = match name {
            Some(name) => NAMES.iter().find(|known| **known == name),
            // Half of all seeds have a bit of everything.
            None if rng.one_in(2) => NAMES.first(),
            None => NAMES.get(rng.range(0, NAMES.len() as u64) as usize),
        };
        let name = name.expect("the name of a scenario");
        let rng = &mut rng;
        let voters = *rng.pick(&[&3, &3, &3, &5, &5, &7]).expect("some");
        let setup = Setup {
            voters,
            observers: rng.range(0, 3) as i64,
            observers_keep_disk: !rng.one_in(3),
            reconfig_enabled: *name == "membership" || rng.one_in(2),
            clients: rng.range(2, 6) as usize,
            recent: *rng.pick(&[&5, &60, &1000]).expect("some"),
            snapshot_every: *rng.pick(&[&15, &40, &200]).expect("some"),
        };
        let weights = weights(name, rng);
        let storm = *name == "storm";
        Self {
            setup,
            weights,
            faults: rng.range(15, 40),
            pause_ms: if storm { 80 } else { rng.range(150, 900) },
            writes: rng.range(0, 4),
        }
    }

    /// Faults, then peace.
    pub(crate) fn run(&self, world: &mut World) {
        world.ids().into_iter().for_each(|id| world.start(id));
        for _ in 0..self.faults {
            let until = world.now + world.rng.range(1, self.pause_ms);
            while world.now < until {
                write(world, self.writes);
                let pause = world.rng.range(1, 60);
                world.run_for(pause);
            }
            world.disturb(&self.weights);
        }
        recover(world);
    }
}

/// Which faults a kind of trouble has.
fn weights(name: &str, rng: &mut Rng) -> Weights {
    match name {
        "crashes" => Weights::only(&[
            Fault::Crash,
            Fault::CrashLeader,
            Fault::CrashSome,
            Fault::CrashAll,
            Fault::Restart,
            Fault::SlowDisk,
        ]),
        "partitions" => Weights::only(&[
            Fault::Cut,
            Fault::CutElection,
            Fault::OneWay,
            Fault::Isolate,
            Fault::Split,
            Fault::Partial,
            Fault::SlowLink,
            Fault::Duplicates,
            Fault::Heal,
        ]),
        "disks" => Weights::only(&[
            Fault::Crash,
            Fault::CrashLeader,
            Fault::CrashAll,
            Fault::Restart,
            Fault::SlowDisk,
            Fault::StalledDisk,
            Fault::FailedDisk,
            Fault::FullDisk,
            Fault::EmptyDisk,
            Fault::Rot,
            Fault::Cut,
        ]),
        "membership" => Weights::only(&[
            Fault::Reconfig,
            Fault::CrashLeader,
            Fault::CrashSome,
            Fault::Restart,
            Fault::Isolate,
            Fault::Heal,
            Fault::Resign,
            Fault::StalledDisk,
        ]),
        "clocks" => Weights::only(&[
            Fault::Pause,
            Fault::PauseLeader,
            Fault::ClockRate,
            Fault::SlowLink,
            Fault::Isolate,
            Fault::Heal,
        ]),
        _ => Weights::some(rng),
    }
}

/// Who leads, or thinks that it does, writes something.
pub(crate) fn write(world: &mut World, most: u64) {
    for id in world.ids() {
        for _ in 0..world.rng.range(0, most + 1) {
            world.propose(id);
        }
    }
}

/// No fault is left.
fn heal(world: &mut World) {
    world.heal_network();
    for id in world.ids() {
        let now = world.now;
        let node = world.nodes.get_mut(&id).expect("it exists");
        node.disk_ms = 8;
        node.disk_fails = false;
        node.disk.heal();
        node.clock.change_rate(now, 1000);
        world.go_on(id);
        world.start(id);
    }
    world.update_election_links();
}

/// Whether too few disks are left for a configuration that a voter goes by: a server lost its disk, and before the leader
/// knew, it gave the vote of another one away. Nobody but a human can say what is the truth then.
fn has_lost_its_quorum(world: &World) -> bool {
    let votes = |id: ServerId| world.nodes.get(&id).is_some_and(|node| node.disk.votes());
    let voters = world.nodes.values().filter(|node| node.disk.votes());
    let mut members = voters.filter_map(|node| node.member.as_ref());
    members.any(|member| !member.peer().last_seen_config().is_quorum(votes))
}

/// Without faults the ensemble comes back and takes writes; what clients saw was right.
pub(crate) fn recover(world: &mut World) {
    heal(world);
    world.mood = Mood::Quiet;
    let (since, by) = (world.now, world.now + RECOVERY_MS);
    if !world.run_until(by, World::is_healthy) {
        let why = world.condition();
        assert!(has_lost_its_quorum(world), "no recovery: {why}");
        world.counts.lost_quorums += 1;
        return;
    }
    // What a server has not noticed yet may end the reign of the leader once more; not for long.
    let before = world.checkers.zxids.len();
    while world.checkers.zxids.len() == before || !world.is_healthy() {
        assert!(
            world.now < by,
            "no write after recovery: {}",
            world.condition()
        );
        world
            .leader()
            .into_iter()
            .for_each(|leader| world.propose(leader));
        world.run_until(world.now + 500, |w| {
            w.checkers.zxids.len() > before && w.is_healthy()
        });
    }
    world.counts.recovery.0 = world.now - since;
    clients_recover(world);
    world.recorder.check();
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
    if world.setup.clients > 0 {
        // Longer than any time-out of a session, and than anybody may be silent.
        world.run_for(3500);
        world.assert_no_dead_connection();
    }
    assert!(world.is_healthy(), "unwell: {}", world.condition());
    assert!(
        world.only_live_sessions(),
        "a session ended that its client kept"
    );
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

/// Starts everybody and waits until all serve.
pub(crate) fn settle(world: &mut World) {
    world.mood = Mood::Quiet;
    world.ids().into_iter().for_each(|id| world.start(id));
    assert!(
        world.run_until(world.now + 2000, World::is_healthy),
        "no ensemble after two seconds"
    );
    world.mood = Mood::Wild;
}

/// How long it takes until somebody leads after `fault`.
pub(crate) fn time_without_leader(world: &mut World, fault: impl Fn(&mut World, ServerId)) -> u64 {
    settle(world);
    for _ in 0..20 {
        write(world, 3);
        world.run_for(10);
    }
    let (leader, since) = (world.leader().expect("it is well"), world.now);
    fault(world, leader);
    let another = |w: &World| w.leader().is_some_and(|new| new != leader);
    assert!(world.run_until(world.now + 5000, another), "nobody leads");
    world.now - since
}
