//! A few faults on real processes: what every build has to bear. Needs root. `cargo run -p e2e --bin faults` plays them all.

use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::faults::campaign::{self, Campaign};
use e2e::faults::row::{self, Outcome};
use e2e::faults::rows;
use e2e::report::say;
use e2e::servers::{Kind, PATIENCE, wait_for};
use rustix::process::{Pid, Signal, kill_process};

/// Tests run one at a time: each fills both cores and measures time.
fn alone(name: &str) -> MutexGuard<'static, ()> {
    static LOCK: Mutex<()> = Mutex::new(());
    let guard = LOCK.lock().unwrap_or_else(PoisonError::into_inner);
    say(format!("=== {name}"));
    guard
}

/// Plays a row: nothing is lost, no promise is broken, and it recovers without a human.
fn bears(name: &str) -> Result<Outcome> {
    let _alone = alone(name);
    let row = rows::find(name).context("the row is there")?;
    let outcome = row::play(row, Kind::chosen()?, None, 1, None)?;
    say(format!(
        "without writes {} ms, without reads {} ms; {} writes acknowledged; {}",
        outcome.write_gap_ms, outcome.read_gap_ms, outcome.acknowledged, outcome.what
    ));
    ensure!(outcome.kept(), "{outcome:#?}");
    ensure!(
        outcome.recovered_ms.is_some(),
        "it does not recover: {outcome:#?}"
    );
    Ok(outcome)
}

#[test]
fn a_leader_that_is_gone_is_replaced() -> Result<()> {
    bears("leader-kill").map(|_| ())
}

#[test]
fn a_leader_that_hears_nobody_is_replaced() -> Result<()> {
    bears("leader-deaf").map(|_| ())
}

#[test]
fn a_quorum_that_is_fully_connected_serves() -> Result<()> {
    let outcome = bears("partial-partition")?;
    ensure!(
        outcome.write_gap_ms < 10_000,
        "{} ms without writes",
        outcome.write_gap_ms
    );
    Ok(())
}

#[test]
fn a_leader_whose_disk_fails_is_replaced() -> Result<()> {
    bears("leader-eio").map(|_| ())
}

#[test]
fn zeros_in_the_middle_of_a_log_cost_nothing() -> Result<()> {
    bears("log-block-lagging").map(|_| ())
}

#[test]
fn random_faults_break_no_promise() -> Result<()> {
    let _alone = alone("random faults");
    let kept = campaign::run(&Campaign {
        kind: Kind::chosen()?,
        voters: Some(3),
        time: Duration::from_secs(30),
        seed: 1,
        keep: None,
    })?;
    ensure!(kept, "a promise was broken");
    Ok(())
}

/// What a run with this process number has made and not removed.
fn left_behind(pid: u32) -> Result<Vec<String>> {
    let name = format!("zkf{pid}x");
    let namespaces = Command::new("ip").args(["netns", "list"]).output()?;
    let namespaces = String::from_utf8(namespaces.stdout)?;
    let mounts = std::fs::read_to_string("/proc/mounts")?;
    let lines = namespaces.lines().chain(mounts.lines());
    Ok(lines
        .filter(|line| line.contains(&name))
        .map(str::to_owned)
        .collect())
}

fn begun() -> Result<Child> {
    let mut run = Command::new(env!("CARGO_BIN_EXE_faults"))
        .arg("follower-disk-frozen")
        .stdout(Stdio::null())
        .spawn()?;
    let pid = run.id();
    wait_for("a disk to be mounted", PATIENCE, || {
        ensure!(run.try_wait()?.is_none(), "it ended by itself");
        let left = left_behind(pid)?;
        Ok(left.iter().any(|line| line.contains("ext4")).then_some(()))
    })?;
    Ok(run)
}

#[test]
fn whatever_ends_a_run_nothing_is_left_behind() -> Result<()> {
    let _alone = alone("a run that is interrupted, and one that is killed");
    for signal in [Signal::TERM, Signal::KILL] {
        let mut run = begun()?;
        let pid = run.id();
        kill_process(Pid::from_child(&run), signal)?;
        run.wait()?;
        wait_for("everything to be removed", PATIENCE, || {
            Ok(left_behind(pid)?.is_empty().then_some(()))
        })?;
    }
    Ok(())
}
