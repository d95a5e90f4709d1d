//! Members lose their pods, their processes, their volumes or their peers; the ensemble serves and heals.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::kube::ensemble::Ensemble;
use e2e::kube::fault::Way;
use serde_json::Value;

use crate::served::{HAND_OVER, LOST_LEADER, Served};
use crate::{AT_REST, Stage};

fn leader_of(ensemble: &Ensemble<'_>) -> Result<u32> {
    ensemble.see()?.leader().context("there is a leader")
}

fn a_follower_of(ensemble: &Ensemble<'_>) -> Result<u32> {
    let members = ensemble.see()?.members();
    let follower = members.iter().find(|member| member.state == "follower");
    Ok(follower.context("there is a follower")?.id)
}

#[test]
fn deleted_pods_killed_processes_and_deleted_volumes() -> Result<()> {
    let title = "deleted pods, kill -9, deleted volumes";
    let Some(stage) = Stage::set(title, "trouble")? else {
        return Ok(());
    };
    let namespace = stage.namespace();
    let ensemble = stage.ensemble(3, 1)?;
    let mut served = Served::start(&stage, &ensemble)?;
    let leader = leader_of(&ensemble)?;
    served.through("the leader's pod deleted", HAND_OVER, || {
        namespace
            .kubectl(&["delete", "pod", &ensemble.pod(leader)])
            .map(drop)
    })?;
    let leader = leader_of(&ensemble)?;
    served.through(
        "the leader's pod deleted without grace",
        LOST_LEADER,
        || {
            let now = [
                "delete",
                "pod",
                &ensemble.pod(leader),
                "--grace-period=0",
                "--force",
            ];
            namespace.kubectl(&now).map(drop)
        },
    )?;
    if let Some(faults) = namespace.cluster.faults() {
        for what in ["leader", "follower"] {
            let id = if what == "leader" {
                leader_of(&ensemble)?
            } else {
                a_follower_of(&ensemble)?
            };
            let pod = ensemble.pod(id);
            let before = restarts(&ensemble, &pod)?;
            served.through(&format!("kill -9 of the {what}"), LOST_LEADER, || {
                faults.kill(&namespace.name, &pod, "zookeeper")?;
                wait_restarts(&ensemble, &pod, before + 1)
            })?;
        }
    }
    let follower = a_follower_of(&ensemble)?;
    served.through("a follower's volume deleted", HAND_OVER, || {
        delete_volume(&ensemble, follower)
    })?;
    let leader = leader_of(&ensemble)?;
    served.through("the leader's volume deleted", HAND_OVER, || {
        delete_volume(&ensemble, leader)
    })?;
    served.end()?;
    let members = ensemble.see()?.members();
    let voters = members
        .iter()
        .filter(|member| member.role == "voter")
        .count();
    ensure!(voters == 3 && members.len() == 4, "{members:?}");
    stage.passed()
}

fn restarts(ensemble: &Ensemble<'_>, pod: &str) -> Result<i64> {
    let pod = ensemble
        .namespace
        .get("pod", pod)?
        .context("the pod is there")?;
    Ok(restart_count(&pod))
}

fn restart_count(pod: &Value) -> i64 {
    pod["status"]["containerStatuses"][0]["restartCount"]
        .as_i64()
        .unwrap_or_default()
}

fn wait_restarts(ensemble: &Ensemble<'_>, pod: &str, count: i64) -> Result<()> {
    let patience = Duration::from_secs(60);
    ensemble.namespace.wait(
        "the container to be started again",
        ["pod", pod],
        patience,
        |object| (restart_count(object) >= count).then_some(()),
    )
}

/// The claim goes with its data; returns when the member has been given up.
fn delete_volume(ensemble: &Ensemble<'_>, id: u32) -> Result<()> {
    let namespace = ensemble.namespace;
    let claim = format!("data-{}-{id}", ensemble.name);
    let found = namespace
        .get("pvc", &claim)?
        .context("the claim is there")?;
    let uid = found["metadata"]["uid"].clone();
    namespace.kubectl(&["delete", "pvc", &claim, "--wait=false"])?;
    ensemble
        .namespace
        .cluster
        .wait("the deleted claim to go", AT_REST, || {
            let now = namespace.get("pvc", &claim)?;
            Ok(now
                .is_none_or(|now| now["metadata"]["uid"] != uid)
                .then_some(()))
        })
}

#[test]
fn members_that_are_cut_off() -> Result<()> {
    let title = "members cut off from their peers, both ways and one way, and stalled";
    let Some(stage) = Stage::set_for_all(title, "cut")? else {
        return Ok(());
    };
    let Some(faults) = stage.operator.cluster.faults() else {
        return stage.passed();
    };
    let namespace = &stage.namespace().name;
    let ensemble = stage.ensemble(3, 1)?;
    let mut served = Served::start(&stage, &ensemble)?;
    for (way, words) in [
        (Way::Cut, "cut off"),
        (Way::Mute, "not heard"),
        (Way::Deaf, "hears nobody"),
    ] {
        for what in ["follower", "leader"] {
            let id = if what == "leader" {
                leader_of(&ensemble)?
            } else {
                a_follower_of(&ensemble)?
            };
            let pod = ensemble.pod(id);
            let peers: Vec<String> = (1..=4)
                .filter(|peer| *peer != id)
                .map(|peer| ensemble.pod(peer))
                .collect();
            let peers: Vec<&str> = peers.iter().map(String::as_str).collect();
            // The others hear the votes of one that hears nobody, elect it once more, and wait for it in vain.
            let bound = match way {
                Way::Deaf => LOST_LEADER * 2,
                Way::Cut | Way::Mute => LOST_LEADER,
            };
            served.through(&format!("the {what} {words}"), bound, || {
                faults.part_from(namespace, &pod, way, &peers)?;
                let noticed = wait_away(&ensemble, id);
                faults.heal(namespace, &pod)?;
                noticed
            })?;
        }
    }
    let leader = leader_of(&ensemble)?;
    let pod = ensemble.pod(leader);
    served.through("the leader stalled", LOST_LEADER, || {
        faults.stall(namespace, &pod, "zookeeper")?;
        let noticed = wait_away(&ensemble, leader);
        faults.go_on(namespace, &pod, "zookeeper")?;
        noticed
    })?;
    served.end()?;
    stage.passed()
}

/// Waits until the status says that a member does not serve, and why the ensemble is not ready.
fn wait_away(ensemble: &Ensemble<'_>, id: u32) -> Result<()> {
    let what = format!("the status to tell that member {id} is away, and that the rest serves");
    ensemble.wait(&what, Duration::from_secs(60), |seen| {
        let members = seen.members();
        let member = members.iter().find(|member| member.id == id)?;
        let serves = ["leader", "follower", "observer"].contains(&member.state.as_str());
        let rest = seen.condition("Available")?["status"] == "True";
        (!serves && rest && !seen.holds("Ready")).then_some(())
    })
}
