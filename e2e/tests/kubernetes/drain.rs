//! Pods are evicted, nodes are drained: never more than the quorum can spare, and the leader hands over first.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use e2e::kube::ensemble::Ensemble;
use e2e::kube::pods;
use e2e::report::say;
use serde_json::json;

use crate::served::{HAND_OVER, Served};
use crate::{AT_REST, Stage};

#[test]
fn evictions_are_refused_when_they_would_cost_the_quorum() -> Result<()> {
    let Some(stage) = Stage::set("evictions through the API", "evict")? else {
        return Ok(());
    };
    let ensemble = stage.ensemble(3, 1)?;
    let (planned, unplanned) = ensemble.see()?.leader_changes();
    let mut served = Served::start(&stage, &ensemble)?;
    let leader = ensemble.see()?.leader().context("there is a leader")?;
    let followers: Vec<u32> = (1..=3).filter(|id| *id != leader).collect();
    served.through("a follower and then the leader evicted", HAND_OVER, || {
        evict(&ensemble, followers[0])?;
        for id in [followers[1], leader] {
            let refused = evict(&ensemble, id);
            let words = refused
                .err()
                .map(|error| format!("{error:#}"))
                .unwrap_or_default();
            ensure!(
                words.contains("disruption budget"),
                "the eviction of member {id} says {words:?}"
            );
        }
        ensemble.wait_at_rest(AT_REST)?;
        wait_budget(&ensemble)?;
        evict(&ensemble, leader)
    })?;
    served.end()?;
    let seen = ensemble.see()?;
    let changes = seen.leader_changes();
    ensure!(
        changes == (planned + 1, unplanned),
        "leader changes were {:?}, are {changes:?}",
        (planned, unplanned)
    );
    // A single voter has no budget: nothing could ever be drained otherwise.
    ensemble.patch(&json!({"voters": {"replicas": 1}}))?;
    ensemble.wait_at_rest(AT_REST)?;
    ensure!(
        stage.namespace().get("pdb", "demo-voters")?.is_none(),
        "a single voter has a budget"
    );
    stage.passed()
}

/// The budget counts pods that the kubelet finds ready, which comes after they serve.
fn wait_budget(ensemble: &Ensemble<'_>) -> Result<()> {
    let what = "the voters' budget to allow an eviction";
    ensemble
        .namespace
        .wait(what, ["pdb", "demo-voters"], AT_REST, |budget| {
            (budget["status"]["disruptionsAllowed"] == 1).then_some(())
        })
}

/// As `kubectl drain` does it.
fn evict(ensemble: &Ensemble<'_>, id: u32) -> Result<()> {
    let (namespace, pod) = (&ensemble.namespace.name, ensemble.pod(id));
    let eviction = json!({
        "apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod, "namespace": namespace},
    });
    let path = format!("/api/v1/namespaces/{namespace}/pods/{pod}/eviction");
    let mut command = ensemble
        .namespace
        .cluster
        .command("kubectl", &["create", "--raw", &path, "-f", "-"]);
    e2e::kube::program::run(&mut command, &eviction.to_string()).map(drop)
}

#[test]
fn every_node_is_drained_in_turn() -> Result<()> {
    let Some(stage) = Stage::set("kubectl drain of every node in turn", "drain")? else {
        return Ok(());
    };
    let cluster = stage.operator.cluster;
    let ensemble = stage.ensemble(3, 0)?;
    let mut nodes: Vec<(String, u32)> = Vec::new();
    for pod in stage
        .namespace()
        .list("pods", "zookeeper.ensemble.dev/ensemble=demo")?
    {
        let id = pods::look(stage.namespace(), "demo")?
            .iter()
            .find(|sight| pod["metadata"]["name"] == *sight.name)
            .map_or(0, |sight| sight.id);
        nodes.push((
            pod["spec"]["nodeName"]
                .as_str()
                .unwrap_or_default()
                .to_owned(),
            id,
        ));
    }
    nodes.sort();
    let mut names: Vec<&str> = nodes.iter().map(|(node, _)| node.as_str()).collect();
    names.dedup();
    if names.len() < 3 {
        say(format!(
            "SKIPPED: the members are on {names:?}, which can't be drained one by one"
        ));
        return stage.passed();
    }
    let mut served = Served::start(&stage, &ensemble)?;
    for (place, (node, id)) in nodes.iter().enumerate() {
        let leads = ensemble.see()?.leader() == Some(*id);
        let what = format!(
            "node {node} drained, whose member {id} {}",
            if leads { "leads" } else { "follows" }
        );
        let next = &nodes[(place + 1) % nodes.len()].0;
        served.through(&what, HAND_OVER, || {
            let begin = Instant::now();
            let drained = drain(&stage, node, "90s").and_then(|()| {
                say(format!("drained in {:.1} s", begin.elapsed().as_secs_f64()));
                while_away(&stage, &ensemble, *id, next)
            });
            // Whatever came of it: other tests need the nodes.
            for node in [node, next] {
                cluster.kubectl(&["uncordon", node])?;
            }
            drained
        })?;
    }
    served.end()?;
    let (_, unplanned) = ensemble.see()?.leader_changes();
    ensure!(
        unplanned == 0,
        "{unplanned} leader changes were not planned"
    );
    stage.passed()
}

/// Evicts the ensemble's members and the operators; the load stays, it is not what is to be drained.
fn drain(stage: &Stage, node: &str, timeout: &str) -> Result<()> {
    let timeout = format!("--timeout={timeout}");
    let selector = "--pod-selector=app.kubernetes.io/name in (zookeeper, zookeeper-operator)";
    let arguments = [
        "drain",
        node,
        "--ignore-daemonsets",
        "--delete-emptydir-data",
        selector,
        &timeout,
    ];
    stage.operator.cluster.kubectl(&arguments).map(drop)
}

/// The member of a drained node waits for its volume's node, the status says so, and no second node can be drained.
fn while_away(stage: &Stage, ensemble: &Ensemble<'_>, id: u32, next: &str) -> Result<()> {
    let own = stage.operator.cluster.is_own();
    if own {
        let what = format!("the status to tell that member {id} finds no node");
        let told = ensemble.wait(&what, Duration::from_secs(60), |seen| {
            let blocked = seen.0["status"]["plan"]["blockedBy"].to_string();
            let told = blocked.contains(&format!("member {id}: no node takes it"));
            let serves = seen.condition("Available")?["status"] == "True";
            (told && serves).then(|| seen.clone())
        })?;
        say(format!("told: {}", told.summary()));
        let second = drain(stage, next, "4s");
        ensure!(
            second.is_err(),
            "a second node could be drained while a member was away"
        );
    }
    Ok(())
}
