//! Servers killed under load: nothing acknowledged is lost.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use e2e::outage::Gaps;
use e2e::report::{millis, say};
use e2e::servers::{Ensemble, Kind, PATIENCE, Spec, wait_for};
use e2e::writers::{Writers, stop_and_check};

const LEADER_KILLS: usize = 20;
const ENSEMBLE_KILLS: usize = 5;
const PAUSES: usize = 3;
const SESSIONS: usize = 6;

#[test]
fn no_acknowledged_write_is_lost_when_the_leader_is_killed_twenty_times() -> Result<()> {
    let _alone = crate::alone("kill -9 of the leader, twenty times");
    let mut ensemble = Ensemble::start(&Spec::new(Kind::chosen()?, 3, 2))?;
    let writers = Writers::start(&ensemble.addresses(), SESSIONS)?;
    let mut kills = Vec::new();
    for round in 1..=LEADER_KILLS {
        writers
            .wait_progress(20, PATIENCE)
            .with_context(|| format!("round {round}"))?;
        let leader = ensemble.wait_leader()?;
        kills.push(Instant::now());
        ensemble.server(leader).kill()?;
        writers
            .wait_progress(20, PATIENCE)
            .with_context(|| format!("round {round}, without server {leader}"))?;
        ensemble.server(leader).start()?;
        ensemble.wait_serving()?;
    }
    writers.wait_progress(20, PATIENCE)?;
    let acknowledged = writers.acknowledged();
    let (end, _) = stop_and_check(writers, &ensemble.addresses())?;
    let gaps = Gaps::after(&kills, end, &acknowledged);
    say(format!(
        "without writes after kill -9 of the leader, {LEADER_KILLS} times: {gaps}"
    ));
    ensemble.passed()
}

#[test]
fn no_acknowledged_write_is_lost_when_the_whole_ensemble_is_killed_five_times() -> Result<()> {
    let _alone = crate::alone("kill -9 of the whole ensemble, five times");
    let mut ensemble = Ensemble::start(&Spec::new(Kind::chosen()?, 3, 2))?;
    let writers = Writers::start(&ensemble.addresses(), SESSIONS)?;
    let mut kills = Vec::new();
    for round in 1..=ENSEMBLE_KILLS {
        writers
            .wait_progress(200, PATIENCE)
            .with_context(|| format!("round {round}"))?;
        kills.push(Instant::now());
        ensemble.kill_all()?;
        ensemble.start_all()?;
    }
    writers.wait_progress(20, PATIENCE)?;
    let acknowledged = writers.acknowledged();
    let (end, logs) = stop_and_check(writers, &ensemble.addresses())?;
    let gaps = Gaps::after(&kills, end, &acknowledged);
    say(format!(
        "without writes after kill -9 of all five, {ENSEMBLE_KILLS} times: {gaps}"
    ));
    ensure!(
        logs.iter().any(|log| log.reconnects > 0),
        "sessions are taken up again after a restart"
    );
    ensemble.passed()
}

#[test]
fn nothing_is_lost_when_the_leader_is_paused_and_goes_on_as_if_it_still_led() -> Result<()> {
    let _alone = crate::alone("SIGSTOP of the leader, then SIGCONT");
    let mut ensemble = Ensemble::start(&Spec::new(Kind::chosen()?, 3, 0).setting("syncLimit=2"))?;
    let writers = Writers::start(&ensemble.addresses(), SESSIONS)?;
    let mut pauses = Vec::new();
    for round in 1..=PAUSES {
        writers
            .wait_progress(20, PATIENCE)
            .with_context(|| format!("round {round}"))?;
        let leader = ensemble.wait_leader()?;
        pauses.push(Instant::now());
        ensemble.server(leader).pause()?;
        let elected = writers
            .wait_progress(20, PATIENCE)
            .with_context(|| format!("round {round}, paused"));
        ensemble.server(leader).resume()?;
        elected?;
        wait_for(
            "the old leader to see that it leads no more",
            PATIENCE,
            || {
                let leaders = ensemble.leaders();
                Ok((leaders.len() == 1 && leaders != [leader]).then_some(()))
            },
        )?;
        ensemble.wait_serving()?;
    }
    let acknowledged = writers.acknowledged();
    let (end, _) = stop_and_check(writers, &ensemble.addresses())?;
    let gaps = Gaps::after(&pauses, end, &acknowledged);
    say(format!(
        "without writes after SIGSTOP of the leader (syncLimit 2 × 2 s), {PAUSES} times: {gaps}"
    ));
    ensemble.passed()
}

#[test]
fn nothing_is_lost_when_every_member_is_stopped_and_started_in_turn() -> Result<()> {
    let _alone = crate::alone("SIGTERM of each member, the leader too");
    let kind = Kind::chosen()?;
    let mut ensemble = Ensemble::start(&Spec::new(kind, 3, 2))?;
    let writers = Writers::start(&ensemble.addresses(), SESSIONS)?;
    let mut stops = Vec::new();
    for id in 1..=ensemble.servers.len() as u32 {
        writers.wait_progress(20, PATIENCE)?;
        let stop = Instant::now();
        stops.push(stop);
        let led = ensemble.leader() == Some(id);
        let code = ensemble.server(id).terminate(PATIENCE)?;
        ensure!(
            kind == Kind::Apache || code == Some(0),
            "server {id} ended with {code:?}"
        );
        let ended = stop.elapsed();
        writers
            .wait_progress(20, PATIENCE)
            .with_context(|| format!("without server {id}"))?;
        if led {
            let gap = writers.acknowledged().longest_gap(stop, Instant::now());
            say(format!(
                "server {id} led; it ended after {}, writes paused for {}",
                millis(ended),
                millis(gap)
            ));
        }
        ensemble.server(id).start()?;
        ensemble.wait_server(id)?;
    }
    let acknowledged = writers.acknowledged();
    let (end, _) = stop_and_check(writers, &ensemble.addresses())?;
    say(format!(
        "without writes after SIGTERM of a member: {}",
        Gaps::after(&stops, end, &acknowledged)
    ));
    ensemble.passed()
}
