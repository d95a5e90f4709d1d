//! Servers killed under load: nothing acknowledged is lost.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use e2e::outage::Gaps;
use e2e::report::say;
use e2e::servers::{Ensemble, Kind, PATIENCE, Spec};
use e2e::writers::{Writers, stop_and_check};

const LEADER_KILLS: usize = 20;
const ENSEMBLE_KILLS: usize = 5;
const SESSIONS: usize = 6;

#[test]
fn no_acknowledged_write_is_lost_when_the_leader_is_killed_twenty_times() -> Result<()> {
    let _alone = crate::alone("kill -9 of the leader, twenty times");
    let mut ensemble = Ensemble::start(&Spec::new(Kind::chosen()?, 3, 2))?;
    let writers = Writers::start(&ensemble.addresses(), SESSIONS)?;
    let mut kills = Vec::new();
    for round in 1..=LEADER_KILLS {
        writers.wait_progress(20, PATIENCE).with_context(|| format!("round {round}"))?;
        let leader = ensemble.wait_leader()?;
        kills.push(Instant::now());
        ensemble.server(leader).kill()?;
        writers.wait_progress(20, PATIENCE).with_context(|| format!("round {round}, without server {leader}"))?;
        ensemble.server(leader).start()?;
        ensemble.wait_serving()?;
    }
    writers.wait_progress(20, PATIENCE)?;
    let acknowledged = writers.acknowledged();
    let (end, _) = stop_and_check(writers, &ensemble.addresses())?;
    let gaps = Gaps::after(&kills, end, &acknowledged);
    say(format!("without writes after kill -9 of the leader, {LEADER_KILLS} times: {gaps}"));
    ensemble.passed()
}

#[test]
fn no_acknowledged_write_is_lost_when_the_whole_ensemble_is_killed_five_times() -> Result<()> {
    let _alone = crate::alone("kill -9 of the whole ensemble, five times");
    let mut ensemble = Ensemble::start(&Spec::new(Kind::chosen()?, 3, 2))?;
    let writers = Writers::start(&ensemble.addresses(), SESSIONS)?;
    let mut kills = Vec::new();
    for round in 1..=ENSEMBLE_KILLS {
        writers.wait_progress(200, PATIENCE).with_context(|| format!("round {round}"))?;
        kills.push(Instant::now());
        ensemble.kill_all()?;
        ensemble.start_all()?;
    }
    writers.wait_progress(20, PATIENCE)?;
    let acknowledged = writers.acknowledged();
    let (end, logs) = stop_and_check(writers, &ensemble.addresses())?;
    let gaps = Gaps::after(&kills, end, &acknowledged);
    say(format!("without writes after kill -9 of all five, {ENSEMBLE_KILLS} times: {gaps}"));
    ensure!(logs.iter().any(|log| log.reconnects > 0), "sessions are taken up again after a restart");
    ensemble.passed()
}
