//! An ensemble grows and shrinks while clients write: nothing is lost, and nobody waits for long.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use e2e::kube::ensemble::Ensemble;
use e2e::kube::load::{Load, Plan};
use e2e::kube::pods::{self, Sight};
use e2e::report::{millis, say};
use serde_json::json;

use crate::{AT_REST, Stage};

/// Longer than any pause that a hand-over of the leadership may make.
const GAP_MAX: Duration = Duration::from_secs(5);

#[test]
fn voters_and_observers_come_and_go_under_load() -> Result<()> {
    let title = "1-3-5-3-1-3 voters and 0-4-2 observers under load";
    let Some(stage) = Stage::set(title, "resize")? else {
        return Ok(());
    };
    let ensemble = stage.ensemble(1, 0)?;
    let load = Load::start(
        stage.namespace(),
        "load",
        &Plan::steady(&ensemble.headless_service()),
    )?;
    let mut longest = Duration::ZERO;
    let mut step = |what: &str, change: &dyn Fn() -> Result<()>| -> Result<()> {
        let (from, begin) = (load.now_ms()?, Instant::now());
        change()?;
        ensemble.wait_at_rest(AT_REST)?;
        load.wait_progress(20, GAP_MAX * 4)?;
        let gap = load.gap(from, load.now_ms()?)?;
        longest = longest.max(gap);
        say(format!(
            "{what}: {:.1} s, longest time without a write {}",
            begin.elapsed().as_secs_f64(),
            millis(gap)
        ));
        Ok(())
    };
    for voters in [3, 5] {
        let change = || ensemble.patch(&json!({"voters": {"replicas": voters}}));
        step(&format!("to {voters} voters"), &change)?;
    }
    let voters = voting(&ensemble)?;
    for observers in [4, 2] {
        step(
            &format!("to {observers} observers by kubectl scale"),
            &|| ensemble.scale(observers),
        )?;
        ensure!(
            voting(&ensemble)? == voters,
            "a voter was restarted for observers"
        );
        ensure!(
            ensemble.see()?.0["status"]["observersReplicas"] == observers,
            "status.observersReplicas"
        );
    }
    for voters in [3, 1, 3] {
        let change = || ensemble.patch(&json!({"voters": {"replicas": voters}}));
        step(&format!("to {voters} voters"), &change)?;
    }
    let verdict = load.finish(&ensemble.addresses()?)?;
    say(format!(
        "longest time without a write in all of it: {}",
        millis(longest)
    ));
    ensure!(longest < GAP_MAX, "no write for {longest:?}");
    ensure!(verdict.expired == 0, "{} sessions expired", verdict.expired);
    check_leftovers(&stage, &ensemble)?;
    stage.passed()
}

/// The voters' pods, which restart shows in.
fn voting(ensemble: &Ensemble<'_>) -> Result<Vec<(String, String, i64)>> {
    let pods = pods::look(ensemble.namespace, &ensemble.name)?;
    let voters = pods.into_iter().filter(|pod| pod.role == "voter");
    Ok(voters
        .map(
            |Sight {
                 name,
                 uid,
                 restarts,
                 ..
             }| (name, uid, restarts),
        )
        .collect())
}

/// What went with its members is gone: claims, configuration.
fn check_leftovers(stage: &Stage, ensemble: &Ensemble<'_>) -> Result<()> {
    let selector = format!("zookeeper.ensemble.dev/ensemble={}", ensemble.name);
    for (kind, more) in [("pods", 0), ("pvc", 0), ("configmap", 1)] {
        let there = stage.namespace().list(kind, &selector)?;
        ensure!(
            there.len() == 5 + more,
            "{} {kind} are there for 3 voters and 2 observers",
            there.len()
        );
    }
    Ok(())
}
