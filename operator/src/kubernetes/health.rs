//! One member, from its claims, its pod and its node.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, PersistentVolumeClaim, Pod};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;

use super::seen::{Parts, Seen};
use super::{condition, names, trouble};
use crate::cluster::{Cluster, Role};
use crate::membership::Address;
use crate::observed::{Condemned, Instance, Member, PodFacts, State, Trouble, TroubleKind};
use crate::status::Now;
use crate::validate::bytes;

/// What the objects say of a member.
pub(super) fn member(
    cluster: &Cluster,
    parts: &Parts<'_>,
    seen: &Seen,
    address: Address,
) -> Member {
    let said = |key: &str| parts.data.and_then(|claim| claim.annotations().get(key));
    let is = |key: &str| said(key).is_some_and(|value| value == "true");
    let role = role_of(parts);
    // Without the claim of its data there is nothing that could come back: what is left of it is cleared away.
    let homeless = parts.data.is_none();
    let retired = said(names::RETIRED);
    let node = parts
        .pod
        .and_then(node_name)
        .and_then(|name| find(seen, name));
    Member {
        retired: homeless || retired.is_some(),
        replaced: homeless || retired.is_some_and(|why| names::was_replaced(why)),
        instance: instance(parts.pod, homeless || is(names::STARTED)),
        template_hash: parts
            .pod
            .and_then(|pod| pod.annotations().get(names::TEMPLATE_HASH).cloned()),
        pod: parts.pod.map(|pod| facts(pod, node)).unwrap_or_default(),
        trouble: trouble_of(parts, node),
        evicted: parts.pod.is_some_and(condition::is_evicted),
        undersized: undersized(cluster, role, parts),
        ..Member::new(role, is(names::FOUNDER), address)
    }
}

/// Finds out whether a member can never come back with its data.
pub(super) fn condemn(
    cluster: &Cluster,
    member: &mut Member,
    parts: &Parts<'_>,
    seen: &Seen,
    now: Now,
) {
    let claims = parts.data.iter().chain(&parts.log);
    let mut claims = claims.copied();
    let phase =
        |claim: &PersistentVolumeClaim| claim.status.as_ref().and_then(|it| it.phase.clone());
    let wants_log = cluster.role(member.role).storage.log.is_some();
    let lost_log = wants_log && parts.log.is_none() && member.instance != Instance::New;
    member.condemned = if claims
        .clone()
        .any(|claim| claim.metadata.deletion_timestamp.is_some())
        || lost_log
    {
        Some(Condemned::VolumeDeleted)
    } else if claims.any(|claim| phase(claim).as_deref() == Some("Lost")) {
        Some(Condemned::VolumeLost)
    } else if parts.pod.is_some_and(is_damaged) {
        Some(Condemned::StorageDamaged)
    } else {
        let serves = member
            .state()
            .is_some_and(|state| state != State::NotServing);
        parts
            .pod
            .filter(|_| !serves)
            .and_then(|pod| lost_node(cluster, pod, seen, now))
            .map(Condemned::NodeLost)
    };
    if let Some(why) = &member.condemned {
        let (why, known) = (why.to_string(), member.trouble.as_ref());
        let words = match known.map(ToString::to_string) {
            Some(known) if known.starts_with(&why) => known,
            Some(known) => format!("{why} ({known})"),
            None => why,
        };
        member.trouble = Some(trouble::trouble(TroubleKind::Volume, words));
    }
}

/// Whether a home is still being made: its log's claim follows the one of its data, and nothing has run in it.
pub(super) fn is_unfinished(cluster: &Cluster, parts: &Parts<'_>) -> bool {
    let Some(data) = parts.data else {
        return false;
    };
    let wants_log = cluster.role(role_of(parts)).storage.log.is_some();
    let started = data.annotations().get(names::STARTED);
    let started = started.is_some_and(|value| value == "true");
    wants_log && parts.log.is_none() && parts.pod.is_none() && !started
}

/// What a member is meant to be.
fn role_of(parts: &Parts<'_>) -> Role {
    let labels = parts.data.map(ResourceExt::labels);
    let labels = labels.or(parts.pod.map(ResourceExt::labels));
    let labels = labels.or(parts.log.map(ResourceExt::labels));
    let role = labels.and_then(|labels| labels.get(names::ROLE));
    match role.map(String::as_str) {
        Some("observer") => Role::Observer,
        _ => Role::Voter,
    }
}

fn instance(pod: Option<&Pod>, started: bool) -> Instance {
    match pod {
        None if started => Instance::Stopped,
        None => Instance::New,
        Some(pod) if condition::is_going(pod) => Instance::Stopping,
        Some(pod) if condition::is_over(pod) => Instance::Stopped,
        Some(pod) if trouble::is_stuck(pod) => Instance::Failed,
        Some(_) => Instance::Running,
    }
}

fn facts(pod: &Pod, node: Option<&Node>) -> PodFacts {
    let container = trouble::container(pod);
    PodFacts {
        name: pod.metadata.name.clone(),
        uid: pod.uid(),
        node: node_name(pod).map(str::to_owned),
        zone: node.and_then(condition::zone),
        restarts: container.map_or(0, |container| container.restart_count),
        ready: Some(condition::of_pod(pod, "Ready").is_some_and(|ready| ready.status == "True")),
    }
}

fn trouble_of(parts: &Parts<'_>, node: Option<&Node>) -> Option<Trouble> {
    let pod = parts.pod;
    let of_node = || {
        let (name, node) = (pod.and_then(node_name)?, node?);
        let since = condition::not_ready(node)?.last_transition_time.as_ref();
        let since = since.map_or(String::new(), |since| format!(" since {}", clock(since)));
        let going = if pod.is_some_and(condition::is_going) {
            " and its pod cannot end"
        } else {
            ""
        };
        let words = format!(
            "its node {name} is not ready{since}{going}; bring the node back, or delete it, or set repair.afterNodeLost"
        );
        Some(trouble::trouble(TroubleKind::Node, words))
    };
    let of_claims = || {
        parts
            .data
            .iter()
            .chain(&parts.log)
            .find_map(|claim| resize_trouble(claim))
    };
    of_node()
        .or_else(|| pod.and_then(trouble::of))
        .or_else(of_claims)
}

/// What keeps a volume from growing.
fn resize_trouble(claim: &PersistentVolumeClaim) -> Option<Trouble> {
    let conditions = claim.status.as_ref()?.conditions.iter().flatten();
    let failed = ["ControllerResizeError", "NodeResizeError"];
    let condition = conditions
        .filter(|condition| condition.status == "True")
        .find(|condition| failed.contains(&condition.type_.as_str()))?;
    let why = condition
        .message
        .as_deref()
        .unwrap_or("the storage refuses");
    let words = format!("its volume {} cannot grow: {why}", claim.name_any());
    Some(trouble::trouble(TroubleKind::Volume, words))
}

/// Whether a server said again and again that its storage is damaged.
fn is_damaged(pod: &Pod) -> bool {
    let container = trouble::container(pod).filter(|container| !container.ready);
    container.is_some_and(|container| {
        let end = trouble::last_end(container);
        let damaged = end.is_some_and(|end| end.exit_code == trouble::EXIT_DAMAGED);
        damaged && container.restart_count >= DAMAGED_STARTS
    })
}

/// The node of a pod that has been away for longer than the manifest allows.
fn lost_node(cluster: &Cluster, pod: &Pod, seen: &Seen, now: Now) -> Option<String> {
    let patience = cluster.after_node_lost?;
    let longer = |since: Option<&Time>| since.is_some_and(|since| elapsed(since, now) >= patience);
    if let Some(name) = node_name(pod) {
        let condition = find(seen, name).and_then(condition::not_ready)?;
        return longer(condition.last_transition_time.as_ref()).then(|| format!("its node {name}"));
    }
    // The node is gone, and the volume with it: no other node may take the pod.
    let condition = condition::of_pod(pod, "PodScheduled").filter(|it| it.status == "False")?;
    let words = condition
        .message
        .as_deref()
        .unwrap_or_default()
        .to_lowercase();
    let bound = words.contains("volume") && words.contains("node affinity");
    (bound && longer(condition.last_transition_time.as_ref()))
        .then(|| "the node that has its volume".into())
}

fn undersized(cluster: &Cluster, role: Role, parts: &Parts<'_>) -> bool {
    let storage = &cluster.role(role).storage;
    let smaller = |claim: &PersistentVolumeClaim, wanted: &Quantity| {
        let requests = claim
            .spec
            .as_ref()
            .and_then(|spec| spec.resources.as_ref()?.requests.as_ref());
        let now = requests.and_then(|requests| bytes(requests.get("storage")?));
        now.zip(bytes(wanted))
            .is_some_and(|(now, wanted)| now < wanted)
    };
    let log = parts.log.zip(storage.log.as_ref());
    parts
        .data
        .is_some_and(|claim| smaller(claim, &storage.size))
        || log.is_some_and(|(claim, log)| smaller(claim, &log.size))
}

fn node_name(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref()
}

fn find<'a>(seen: &'a Seen, name: &str) -> Option<&'a Node> {
    let mut nodes = seen.nodes.iter().map(Arc::as_ref);
    nodes.find(|node| node.metadata.name.as_deref() == Some(name))
}

fn elapsed(since: &Time, now: Now) -> Duration {
    let seconds = now.as_second().saturating_sub(since.0.as_second());
    Duration::from_secs(u64::try_from(seconds).unwrap_or_default())
}

/// The time of day: unlike a time span it stays the same from pass to pass.
fn clock(since: &Time) -> String {
    since.0.strftime("%H:%M:%S UTC").to_string()
}

/// Starts after which damage that was found each time is believed.
const DAMAGED_STARTS: i32 = 2;
