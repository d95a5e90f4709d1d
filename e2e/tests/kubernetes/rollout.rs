//! Restarts, one by one: observers, followers, the leader last; clients that reconnect notice next to nothing.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use e2e::kube::cluster::Image;
use e2e::kube::ensemble::{Ensemble, Seen};
use e2e::kube::load::{Load, Plan};
use e2e::kube::pods::{self, Sight, Watch};
use e2e::report::{millis, say};
use serde_json::{Value, json};

use crate::{AT_REST, Stage};

/// A planned change of the leader takes less.
const GAP_MAX: Duration = Duration::from_secs(3);

#[test]
fn a_changed_configuration_restarts_the_leader_last() -> Result<()> {
    let Some(stage) = Stage::set("rolling restart: a changed configuration", "rollout")? else {
        return Ok(());
    };
    let ensemble = stage.ensemble(3, 2)?;
    let load = load(&stage, &ensemble)?;
    let change = json!({"config": {"snapCount": 50_000}});
    roll(&stage, &ensemble, &load, "config", &change)?;
    end(load, &ensemble)?;
    stage.passed()
}

#[test]
fn so_do_restarted_at_and_another_image() -> Result<()> {
    let title = "rolling restart: restartedAt, another image";
    let Some(stage) = Stage::set_for_all(title, "rollout-all")? else {
        return Ok(());
    };
    let ensemble = stage.ensemble(3, 2)?;
    let load = load(&stage, &ensemble)?;
    let roll = |what: &str, change: Value| roll(&stage, &ensemble, &load, what, &change);
    roll(
        "restartedAt",
        json!({"restartedAt": "2030-01-01T00:00:00Z"}),
    )?;
    let cluster = stage.operator.cluster;
    let image = cluster.retag(
        &cluster.image(Image::Node)?,
        "localhost/zookeeper-node:next",
    )?;
    roll("another image", json!({"image": image}))?;
    for pod in stage
        .namespace()
        .list("pods", "zookeeper.ensemble.dev/ensemble=demo")?
    {
        ensure!(pod["spec"]["containers"][0]["image"] == *image, "{pod:#}");
    }
    let memory = json!({"requests": {"memory": "64Mi"}});
    roll(
        "more memory for observers only",
        json!({"observers": {"resources": memory}}),
    )?;
    end(load, &ensemble)?;
    stage.passed()
}

fn load<'a>(stage: &'a Stage, ensemble: &Ensemble<'_>) -> Result<Load<'a>> {
    let plan = Plan::steady(&ensemble.headless_service());
    Load::start(stage.namespace(), "load", &plan)
}

/// Nothing was lost, and no session with it.
fn end(load: Load<'_>, ensemble: &Ensemble<'_>) -> Result<()> {
    let verdict = load.finish(&ensemble.addresses()?)?;
    ensure!(verdict.expired == 0, "{} sessions expired", verdict.expired);
    Ok(())
}

/// Changes the spec under load, and checks what came of it.
fn roll(
    stage: &Stage,
    ensemble: &Ensemble<'_>,
    load: &Load<'_>,
    what: &str,
    change: &Value,
) -> Result<()> {
    let before = pods::look(stage.namespace(), &ensemble.name)?;
    let then = ensemble.see()?;
    let leader = then.leader().context("it has a leader")?;
    let watch = Watch::start(stage.namespace(), &ensemble.name)?;
    let (from, begin) = (load.now_ms()?, Instant::now());
    ensemble.patch(change)?;
    let seen = ensemble.wait_at_rest(AT_REST)?;
    let took = begin.elapsed();
    load.wait_progress(20, GAP_MAX * 4)?;
    let gap = load.gap(from, load.now_ms()?)?;
    let sights = watch.end()?;
    let order = pods::reborn(&before, &sights);
    let away = pods::most_away("voter", &before, &sights);
    say(format!(
        "{what}: members {order:?} restarted in {:.1} s, leader was {leader}; at most {away} voter away at a time; longest \
         time without a write {}",
        took.as_secs_f64(),
        millis(gap)
    ));
    check_order(&before, &order, leader)?;
    ensure!(away <= 1, "{away} voters were away at the same time");
    ensure!(gap < GAP_MAX, "no write for {gap:?}");
    check_changes(&then, &seen, order.contains(&leader))
}

/// Each once; observers first, the leader last.
fn check_order(before: &[Sight], order: &[u32], leader: u32) -> Result<()> {
    let role = |id: &u32| {
        before
            .iter()
            .find(|pod| pod.id == *id)
            .map_or("", |pod| &pod.role)
    };
    let distinct: BTreeSet<&u32> = order.iter().collect();
    ensure!(
        distinct.len() == order.len(),
        "some were restarted twice: {order:?}"
    );
    ensure!(!order.is_empty(), "nobody was restarted");
    let observers = before.iter().filter(|pod| pod.role == "observer").count();
    let first: Vec<&str> = order.iter().take(observers).map(role).collect();
    ensure!(
        first.iter().all(|role| *role == "observer"),
        "observers were not first: {order:?}"
    );
    if order.iter().any(|id| role(id) == "voter") {
        ensure!(order.len() == before.len(), "only {order:?} were restarted");
        ensure!(
            order.last() == Some(&leader),
            "the leader {leader} was not last: {order:?}"
        );
    }
    Ok(())
}

/// The leader changed at most once, by plan; nothing else happened to the lead.
fn check_changes(before: &Seen, after: &Seen, leader_restarted: bool) -> Result<()> {
    let ((planned, unplanned), (planned_now, unplanned_now)) =
        (before.leader_changes(), after.leader_changes());
    say(format!(
        "leader changes: {} planned, {} not",
        planned_now - planned,
        unplanned_now - unplanned
    ));
    ensure!(
        unplanned_now == unplanned,
        "{} leader changes were not planned",
        unplanned_now - unplanned
    );
    ensure!(
        planned_now - planned == u64::from(leader_restarted),
        "planned leader changes: {planned} before, {planned_now} after"
    );
    Ok(())
}
