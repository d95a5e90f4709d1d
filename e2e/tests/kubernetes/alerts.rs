//! What the alerts rest on: the operator knows which changes of the leader were its own.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::report::say;
use serde_json::json;

use crate::Stage;
use crate::served::{HAND_OVER, LOST_LEADER, Served};

/// `zookeeper_operator_leader_changes_total` of the ensemble: planned, and not.
fn counted(stage: &Stage) -> Result<(f64, f64)> {
    let namespace = stage.namespace().name.as_str();
    let value = |planned: &str| -> Result<f64> {
        let labels = [
            ("namespace", namespace),
            ("ensemble", "demo"),
            ("planned", planned),
        ];
        let value = stage
            .operator
            .metric("zookeeper_operator_leader_changes_total", &labels)?;
        value.with_context(|| format!("there is no series with planned={planned}"))
    };
    Ok((value("true")?, value("false")?))
}

#[test]
fn a_killed_leader_is_counted_once_and_a_rolling_restart_never() -> Result<()> {
    let title = "leader changes: killed, and restarted by plan";
    let Some(stage) = Stage::set(title, "alerts")? else {
        return Ok(());
    };
    let Some(faults) = stage.operator.cluster.faults() else {
        return stage.passed();
    };
    let ensemble = stage.ensemble(3, 0)?;
    let namespace = &stage.namespace().name;
    let mut served = Served::start(&stage, &ensemble)?;
    let before = counted(&stage)?;
    let leader = ensemble.see()?.leader().context("there is a leader")?;
    served.through("kill -9 of the leader", LOST_LEADER, || {
        faults.kill(namespace, &ensemble.pod(leader), "zookeeper")?;
        let what = "another leader to be counted";
        ensemble.wait(what, Duration::from_secs(60), |seen| {
            (seen.leader_changes().1 as f64 > before.1).then_some(())
        })
    })?;
    let killed = counted(&stage)?;
    say(format!(
        "leader changes (planned, not): {before:?}, after kill -9 {killed:?}"
    ));
    ensure!(
        killed == (before.0, before.1 + 1.0),
        "a killed leader must count as one unplanned change"
    );
    served.through("a rolling restart", HAND_OVER, || {
        ensemble.patch(&json!({"restartedAt": "now"}))
    })?;
    let rolled = counted(&stage)?;
    say(format!("after a rolling restart {rolled:?}"));
    ensure!(
        rolled == (killed.0 + 1.0, killed.1),
        "a rolling restart must count as one planned change"
    );
    served.end()?;
    survives_fail_over(&stage, rolled)?;
    stage.passed()
}

/// Another replica goes on with the same numbers: they are the ensemble's, not the process's.
fn survives_fail_over(stage: &Stage, expected: (f64, f64)) -> Result<()> {
    let acting = stage.operator.wait_acting()?;
    stage.operator.kubectl(&["delete", "pod", &acting])?;
    stage.operator.wait_acting_other_than(&acting)?;
    let found = stage.operator.cluster.wait(
        "the other operator's numbers",
        Duration::from_secs(60),
        || Ok(counted(stage).ok()),
    )?;
    ensure!(
        found == expected,
        "another operator says {found:?} instead of {expected:?}"
    );
    stage.operator.restore()
}
