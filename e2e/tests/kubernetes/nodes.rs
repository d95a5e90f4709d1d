//! Nodes go: without power, without a cable. What runs elsewhere serves, and what comes back takes its place again.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::kube::cluster::Cluster;
use e2e::kube::ensemble::Ensemble;
use e2e::kube::namespace::condition;
use e2e::report::say;
use serde_json::Value;

use crate::Stage;
use crate::served::{LOST_LEADER, Served};

/// A node that is gone shows after 20 s here, and its pods are told to go 30 s later.
const NOTICED: Duration = Duration::from_secs(120);

#[test]
fn a_power_cut_and_an_unplugged_cable_of_the_leaders_node() -> Result<()> {
    let title = "power cut and unplugged cable of the leader's node";
    let Some(stage) = Stage::set_for_all(title, "nodes")? else {
        return Ok(());
    };
    let cluster = stage.operator.cluster;
    let Some(faults) = cluster.faults() else {
        return stage.passed();
    };
    let ensemble = stage.ensemble(3, 0)?;
    let spread = nodes_of(&ensemble)?;
    ensure!(
        spread.len() == 3,
        "the members are on {spread:?}: three nodes are needed"
    );
    // The load stays on a node that is left alone: the one of a member that never led here.
    let load_on = spread.last().context("there are nodes")?;
    let mut served = Served::start_on(&stage, &ensemble, load_on)?;
    for unplug in [false, true] {
        lead_elsewhere_than(&stage, &ensemble, load_on)?;
        let leader = ensemble.see()?.leader().context("there is a leader")?;
        let node = node_of(&ensemble, leader)?;
        keep_dns_off(cluster, &node)?;
        let number: u32 = node.trim_start_matches('n').parse()?;
        let what = if unplug {
            "cable of the leader's node unplugged"
        } else {
            "power cut of the leader's node"
        };
        served.through(what, LOST_LEADER, || {
            if unplug {
                faults.unplug(number)?
            } else {
                faults.power_cut(number)?
            }
            let noticed = wait_noticed(&ensemble, leader, &node);
            if unplug {
                faults.plug(number)?
            } else {
                faults.power_on(number)?
            }
            noticed
        })?;
    }
    served.end()?;
    stage.operator.restore()?;
    stage.passed()
}

/// The nodes that members are on, by member.
fn nodes_of(ensemble: &Ensemble<'_>) -> Result<Vec<String>> {
    let mut nodes = Vec::new();
    for member in ensemble.see()?.members() {
        let node = node_of(ensemble, member.id)?;
        if !nodes.contains(&node) {
            nodes.push(node);
        }
    }
    Ok(nodes)
}

fn node_of(ensemble: &Ensemble<'_>, id: u32) -> Result<String> {
    let pod = ensemble.namespace.get("pod", &ensemble.pod(id))?;
    let pod = pod.with_context(|| format!("member {id} has a pod"))?;
    Ok(pod["spec"]["nodeName"]
        .as_str()
        .unwrap_or_default()
        .to_owned())
}

/// A leader on the load's node is restarted, so that another one leads.
fn lead_elsewhere_than(stage: &Stage, ensemble: &Ensemble<'_>, node: &str) -> Result<()> {
    let leader = ensemble.see()?.leader().context("there is a leader")?;
    if node_of(ensemble, leader)? != node {
        return Ok(());
    }
    stage
        .namespace()
        .kubectl(&["delete", "pod", &ensemble.pod(leader)])?;
    let seen = ensemble.wait_at_rest(crate::AT_REST)?;
    ensure!(seen.leader() != Some(leader), "member {leader} leads again");
    Ok(())
}

/// The cluster's only name server is not what is to be tested: it goes elsewhere.
fn keep_dns_off(cluster: &Cluster, node: &str) -> Result<()> {
    let select = [
        "--namespace=kube-system",
        "pods",
        "--selector=k8s-app=kube-dns",
    ];
    let pods = |ready_only: bool| -> Result<Vec<Value>> {
        let list = cluster.get(&select)?.context("there is DNS")?;
        let pods = list["items"].as_array().cloned().unwrap_or_default();
        Ok(pods
            .into_iter()
            .filter(|pod| !ready_only || condition(pod, "Ready"))
            .collect())
    };
    let there = |pod: &Value| pod["spec"]["nodeName"] == *node;
    cluster.kubectl(&["cordon", node])?;
    for pod in pods(false)?.iter().filter(|pod| there(pod)) {
        let name = pod["metadata"]["name"].as_str().unwrap_or_default();
        cluster.kubectl(&["--namespace=kube-system", "delete", "pod", name])?;
    }
    cluster.wait("DNS on another node", Duration::from_secs(60), || {
        let ready = pods(true)?;
        Ok((!ready.is_empty() && !ready.iter().any(there)).then_some(()))
    })?;
    cluster.kubectl(&["uncordon", node]).map(drop)
}

/// The status names the node, and another member leads.
fn wait_noticed(ensemble: &Ensemble<'_>, id: u32, node: &str) -> Result<()> {
    let what = format!("the status to tell that node {node} is not ready");
    let seen = ensemble.wait(&what, NOTICED, |seen| {
        let blocked = seen.0["status"]["plan"]["blockedBy"].to_string();
        let told = blocked.contains(&format!("its node {node} is not ready"));
        let led = seen.leader().is_some_and(|leader| leader != id);
        (told && led && seen.condition("Available")?["status"] == "True").then(|| seen.clone())
    })?;
    say(format!("told: {}", seen.summary()));
    Ok(())
}
