//! Stories, told in all that goes into each server and all that comes out. `UPDATE_EXPECT=1` writes them anew.

use expect_test::{ExpectFile, expect_file};
use node_core::zxid::ServerId;

use crate::scenario::THREE;
use crate::world::World;

/// Tells what happened since the last call, without the noise of timers.
fn check(world: &mut World, expected: ExpectFile) {
    let trace = world.trace.replace(String::new()).unwrap_or_default();
    let noise = [
        " Ping ",
        " Touched ",
        "AskTouched",
        "LearnerTouched",
        "< Tick",
        "ElectionLink",
    ];
    let lines = trace
        .lines()
        .filter(|line| !noise.iter().any(|word| line.contains(word)));
    expected.assert_eq(&lines.map(|line| format!("{line}\n")).collect::<String>());
}

/// Three servers, of which these are started, once they have a leader.
fn started(ids: &[i64]) -> World {
    let mut world = World::new(0, THREE);
    world.steady = true;
    world.trace = Some(String::new());
    ids.iter().for_each(|id| world.start(ServerId(*id)));
    assert!(world.run_until(1000, |w| w.leader().is_some()));
    world.run_for(50);
    world
}

fn forget(world: &mut World) {
    world.trace = Some(String::new());
}

#[test]
fn three_servers_elect_the_one_with_the_greatest_id() {
    let mut world = started(&[1, 2, 3]);
    check(&mut world, expect_file!["transcripts/election.txt"]);
}

#[test]
fn a_write_goes_through_all_logs_before_it_is_committed() {
    let mut world = started(&[1, 2, 3]);
    forget(&mut world);
    world.propose(ServerId(3));
    world.run_for(20);
    check(&mut world, expect_file!["transcripts/write.txt"]);
}

#[test]
fn a_follower_that_was_away_gets_the_difference() {
    let mut world = started(&[1, 2, 3]);
    world.crash(ServerId(1));
    world.propose(ServerId(3));
    world.propose(ServerId(3));
    world.run_for(50);
    forget(&mut world);
    world.start(ServerId(1));
    world.run_for(100);
    check(&mut world, expect_file!["transcripts/diff.txt"]);
}

#[test]
fn what_only_a_dead_leader_has_logged_is_truncated() {
    let mut world = started(&[1, 2, 3]);
    world.propose(ServerId(3));
    world.run_for(20);
    for other in [1, 2] {
        world.blocked.insert((ServerId(3), ServerId(other)));
    }
    world.propose(ServerId(3));
    world.run_for(5);
    world.crash(ServerId(3));
    world.blocked.clear();
    assert!(world.run_until(world.now + 5000, |w| w.leader().is_some()));
    world.run_for(50);
    forget(&mut world);
    world.start(ServerId(3));
    world.run_for(100);
    check(&mut world, expect_file!["transcripts/truncate.txt"]);
}

#[test]
fn when_the_leader_crashes_the_others_elect_at_once() {
    let mut world = started(&[1, 2, 3]);
    world.propose(ServerId(3));
    world.run_for(50);
    forget(&mut world);
    world.crash(ServerId(3));
    world.run_for(50);
    check(&mut world, expect_file!["transcripts/leader_crash.txt"]);
}
