//! The operator itself is killed, doubled, or left without a control plane that answers.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use e2e::kube::ensemble::Ensemble;
use e2e::kube::fault::Part;
use e2e::kube::operator::{CONTAINER, NAMESPACE};
use e2e::kube::pods::{self, Sight};
use e2e::report::say;
use serde_json::json;

use crate::served::{HAND_OVER, Served};
use crate::{AT_REST, Stage};

const BEGUN: Duration = Duration::from_secs(60);

/// Begins a rolling restart, and returns when it is under way.
fn begin_to_roll(ensemble: &Ensemble<'_>, when: &str) -> Result<()> {
    let before = pods::look(ensemble.namespace, &ensemble.name)?;
    ensemble.patch(&json!({"restartedAt": when}))?;
    ensemble
        .namespace
        .cluster
        .wait("the first restart", BEGUN, || {
            let now = pods::look(ensemble.namespace, &ensemble.name)?;
            Ok((!pods::reborn(&before, &now).is_empty()).then_some(()))
        })
}

#[test]
fn another_replica_takes_over_in_the_midst_of_a_rolling_restart() -> Result<()> {
    let title = "the operator is killed in the midst of a rolling restart";
    let Some(stage) = Stage::set(title, "operator")? else {
        return Ok(());
    };
    let operator = stage.operator;
    let ensemble = stage.ensemble(3, 0)?;
    let mut served = Served::start(&stage, &ensemble)?;
    served.through(
        "a rolling restart whose operator is deleted without grace",
        HAND_OVER,
        || {
            begin_to_roll(&ensemble, "first")?;
            let acting = operator.wait_acting()?;
            let begin = Instant::now();
            operator.kubectl(&["delete", "pod", &acting, "--grace-period=0", "--force"])?;
            operator.wait_acting_other_than(&acting)?;
            say(format!(
                "another replica acts after {:.1} s",
                begin.elapsed().as_secs_f64()
            ));
            Ok(())
        },
    )?;
    operator.restore()?;
    served.through(
        "a rolling restart whose operator is told to go",
        HAND_OVER,
        || {
            begin_to_roll(&ensemble, "second")?;
            let acting = operator.wait_acting()?;
            let begin = Instant::now();
            operator.kubectl(&["delete", "pod", &acting, "--wait=false"])?;
            operator.wait_acting_other_than(&acting)?;
            say(format!(
                "another replica acts after {:.1} s",
                begin.elapsed().as_secs_f64()
            ));
            Ok(())
        },
    )?;
    operator.restore()?;
    if let Some(faults) = operator.cluster.faults() {
        served.through(
            "a rolling restart whose operators are killed with -9",
            HAND_OVER,
            || {
                begin_to_roll(&ensemble, "third")?;
                for pod in operator.pod_names()? {
                    faults.kill(NAMESPACE, &pod, CONTAINER)?;
                }
                Ok(())
            },
        )?;
        operator.restore()?;
    }
    served.end()?;
    stage.passed()
}

#[test]
fn two_operators_at_once_do_no_harm() -> Result<()> {
    let Some(stage) = Stage::set_for_all("two operators at once", "two")? else {
        return Ok(());
    };
    let operator = stage.operator;
    let ensemble = stage.ensemble(3, 0)?;
    let mut served = Served::start(&stage, &ensemble)?;
    operator.start_alone("rival", &[])?;
    operator.cluster.wait("the rival to act", BEGUN, || {
        let lease = operator
            .cluster
            .get(&["--namespace", NAMESPACE, "lease", "rival"])?;
        let held = |lease: &serde_json::Value| {
            lease["spec"]["holderIdentity"]
                .as_str()
                .is_some_and(|holder| !holder.is_empty())
        };
        Ok(lease.as_ref().is_some_and(held).then_some(()))
    })?;
    let patches = [
        ("a rolling restart", json!({"restartedAt": "first"})),
        ("to 5 voters", json!({"voters": {"replicas": 5}})),
        ("to 2 observers", json!({"observers": {"replicas": 2}})),
        ("to 3 voters", json!({"voters": {"replicas": 3}})),
        ("a rolling restart of 5", json!({"restartedAt": "second"})),
        ("to no observers", json!({"observers": {"replicas": 0}})),
    ];
    for (what, patch) in &patches {
        let before = pods::look(stage.namespace(), "demo")?;
        served.through(&format!("two operators: {what}"), HAND_OVER, || {
            ensemble.patch(patch)
        })?;
        let after = pods::look(stage.namespace(), "demo")?;
        say(format!(
            "members made anew: {:?}",
            pods::reborn(&before, &after)
        ));
    }
    let members = ensemble.see()?.members();
    ensure!(members.len() == 3, "{members:?}");
    served.end()?;
    operator.remove_alone("rival")?;
    stage.passed()
}

#[test]
fn a_control_plane_that_fails_and_one_that_is_slow() -> Result<()> {
    let title = "API server killed, etcd slow";
    let Some(stage) = Stage::set_for_all(title, "control")? else {
        return Ok(());
    };
    let cluster = stage.operator.cluster;
    let Some(faults) = cluster.faults() else {
        return stage.passed();
    };
    let ensemble = stage.ensemble(3, 0)?;
    let mut served = Served::start(&stage, &ensemble)?;
    let before: Vec<Sight> = pods::look(stage.namespace(), "demo")?;
    served.through(
        "API server killed, and started after 20 s",
        HAND_OVER,
        || {
            faults.kill_part(Part::ApiServer)?;
            std::thread::sleep(Duration::from_secs(20));
            faults.start_part(Part::ApiServer)?;
            cluster.wait("the API server", BEGUN, || {
                cluster.kubectl(&["version"]).map(Some)
            })?;
            ensemble.wait_at_rest(AT_REST).map(drop)
        },
    )?;
    let after = pods::look(stage.namespace(), "demo")?;
    ensure!(
        pods::reborn(&before, &after).is_empty(),
        "members were restarted although only the API server was"
    );
    stage.operator.wait_acting()?;
    served.through(
        "a rolling restart with the API server killed in its midst",
        HAND_OVER,
        || {
            begin_to_roll(&ensemble, "first")?;
            faults.kill_part(Part::ApiServer)?;
            faults.start_part(Part::ApiServer)?;
            cluster
                .wait("the API server", BEGUN, || {
                    cluster.kubectl(&["version"]).map(Some)
                })
                .map(drop)
        },
    )?;
    served.through("to 5 voters and back with a slow etcd", HAND_OVER, || {
        let slow = faults.slow_part(
            Part::Etcd,
            Duration::from_millis(700),
            Duration::from_secs(1),
        )?;
        let resized = [5, 3].iter().try_for_each(|voters| {
            ensemble.patch(&json!({"voters": {"replicas": voters}}))?;
            ensemble.wait_at_rest(AT_REST).map(drop)
        });
        slow.end()?;
        resized
    })?;
    served.end()?;
    stage.passed()
}
