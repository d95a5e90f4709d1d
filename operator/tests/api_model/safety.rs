//! What an operator must never do, checked at the moment it does it, against the truth.

use std::collections::BTreeSet;

use operator::cluster::{Role, ServerId};
use operator::membership::Membership;
use serde_json::Value;

use super::ensemble::Server;
use super::kubelet::claims_of;
use super::store::{CUSTOM, Key};
use super::world::World;

/// Looks at a request before it is carried out.
pub fn before(world: &mut World, operator: u64, verb: &str, key: &Key, body: &Value) {
    match (verb, key.resource.as_str()) {
        ("delete", "pods" | "persistentvolumeclaims") => {
            before_deletion(world, operator, key, body)
        }
        ("delete", CUSTOM) | ("create", CUSTOM) => {
            world.violation(format!("the operator may not {verb} {}", key.name));
        }
        _ => {}
    }
}

fn before_deletion(world: &mut World, operator: u64, key: &Key, body: &Value) {
    let Some(live) = world.store.find(key).cloned() else {
        return;
    };
    let uid = live["metadata"]["uid"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    let Some(meant) = body["preconditions"]["uid"].as_str() else {
        world.violation(format!(
            "{} {} is deleted without a precondition",
            key.resource, key.name
        ));
        return;
    };
    if !world
        .shown
        .get(&operator)
        .is_some_and(|shown| shown.contains(meant))
    {
        world.violation(format!(
            "{} {} is deleted, though it was never observed",
            key.resource, key.name
        ));
    }
    let version = body["preconditions"]["resourceVersion"].as_str();
    let stands = meant == uid
        && version.is_none_or(|version| live["metadata"]["resourceVersion"] == version);
    if !stands || !live["metadata"]["deletionTimestamp"].is_null() {
        return;
    }
    match key.resource.as_str() {
        "pods" => before_stop(world, key, &live),
        _ => before_loss(world, key, &uid),
    }
}

/// The quorum stands without the pod, and nobody else is away already.
fn before_stop(world: &mut World, key: &Key, pod: &Value) {
    let Some(committed) = world.ensemble.committed.clone() else {
        return;
    };
    let Some(id) = member_of(pod) else { return };
    // What is stopped for good must not be needed: its claim goes with the pod.
    if world.is_doomed(id.0) && committed.role(id) == Some(Role::Voter) {
        let left = world
            .holders()
            .into_iter()
            .filter(|other| *other != id)
            .count();
        if left < committed.quorum() {
            world.violation(format!(
                "the data goes with {}: {left} copies are left",
                key.name
            ));
        }
    }
    let voters: Vec<ServerId> = committed.voters().collect();
    // Whoever does not serve costs nothing.
    if committed.role(id) != Some(Role::Voter) || !world.serves(id) {
        return;
    }
    let away: Vec<ServerId> = voters
        .iter()
        .copied()
        .filter(|other| *other != id && !world.serves(*other))
        .collect();
    if !away.is_empty() {
        world.violation(format!(
            "{} is stopped while the voters {away:?} are away",
            key.name
        ));
    }
    let left = voters.len() - 1 - away.len();
    if voters.len() > 2 && left < committed.quorum() {
        world.violation(format!(
            "{} is stopped: {left} of {} voters are left",
            key.name,
            voters.len()
        ));
    }
}

/// What a claim holds is not needed for a majority.
fn before_loss(world: &mut World, key: &Key, uid: &str) {
    let Some(committed) = world.ensemble.committed.clone() else {
        return;
    };
    let Some(volume) = world.volumes.get(uid).cloned() else {
        return;
    };
    let Some(id) = volume.disk.id.map(ServerId) else {
        return;
    };
    if committed.role(id) == Some(Role::Voter) && !volume.damaged {
        world.violation(format!("{} is deleted, and its member votes", key.name));
    }
    if committed.role(id) == Some(Role::Voter) {
        let left = world
            .holders()
            .into_iter()
            .filter(|other| *other != id)
            .count();
        if left < committed.quorum() {
            world.violation(format!(
                "{} is deleted: {left} copies of the data are left",
                key.name
            ));
        }
    }
}

/// One voter at a time; the voters that stay are enough.
pub fn before_reconfiguration(world: &mut World, committed: &Membership, next: &Membership) {
    let set = |membership: &Membership| membership.voters().collect::<BTreeSet<_>>();
    let (before, after) = (set(committed), set(next));
    let changed = before.symmetric_difference(&after).count();
    if changed > 1 {
        world.violation(format!(
            "{changed} votes change at once: {before:?} to {after:?}"
        ));
    }
    // One that was cut off a moment ago looks well to everybody.
    let in_sync = |id: &ServerId| {
        let mut servers = world.ensemble.servers.values();
        servers.any(|server| server.id == id.0 && server.mode.serves())
    };
    let behind: Vec<ServerId> = after
        .difference(&before)
        .copied()
        .filter(|id| !in_sync(id))
        .collect();
    if !behind.is_empty() {
        world.violation(format!("{behind:?} get a vote before they caught up"));
    }
    if next.voters().count() == 0 {
        world.violation("nobody would vote any more");
    }
}

/// A volume belongs to one member of one ensemble, and a member runs once.
pub fn before_start(world: &mut World, pod: &Value, server: &Server) {
    let owner = pod["metadata"]["labels"]["app.kubernetes.io/instance"]
        .as_str()
        .unwrap_or_default();
    let identity = format!("{owner}/{}", server.id);
    let Some(volume) = world.volumes.get_mut(&server.volume) else {
        return;
    };
    match &volume.identity {
        None => volume.identity = Some(identity),
        Some(other) if *other == identity => {}
        Some(other) => {
            let text = format!("the volume of {other} is given to {identity}");
            world.violation(text);
        }
    }
    let twice = world
        .ensemble
        .servers
        .values()
        .any(|other| other.id == server.id);
    if twice {
        world.violation(format!("member {} runs twice", server.id));
    }
    let claims: Vec<&str> = claims_of(pod).collect();
    if claims.is_empty() {
        world.violation(format!("member {} runs without a claim", server.id));
    }
}

impl World {
    /// Whether a member's volume goes as soon as its pod does.
    pub fn is_doomed(&self, id: u32) -> bool {
        let claims = self.store.all("persistentvolumeclaims");
        let mut own = claims.filter(|(key, _)| key.name == format!("data-demo-{id}"));
        own.all(|(_, claim)| !claim["metadata"]["deletionTimestamp"].is_null())
    }
}

/// The member that a pod is.
pub fn member_of(pod: &Value) -> Option<ServerId> {
    let id = pod["metadata"]["labels"]["zookeeper.ensemble.dev/id"].as_str()?;
    id.parse().ok().map(ServerId)
}
