//! What the cluster's objects say of an ensemble's members. Pure.
//!
//! A member is what has a claim for its data; the claim's labels and annotations are its record. A pod adds how it
//! is. Objects that contradict each other stop everything: a person has to say which of them is right.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{ConfigMap, Node, PersistentVolumeClaim, Pod};
use kube::ResourceExt;
use thiserror::Error;

use super::{Settings, condition, health, names};
use crate::cluster::{Cluster, Role, ServerId};
use crate::crd::status::MembershipStatus;
use crate::crd::{ZooKeeperEnsemble, ZooKeeperEnsembleStatus};
use crate::desired::Desired;
use crate::ensemble::Told;
use crate::membership::{Membership, Server};
use crate::observed::{Member, Observed, State};
use crate::render::peer_type;
use crate::status::Now;

/// One look at the objects of one ensemble: from caches, or read live before something that cannot be undone.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// Pods that carry the ensemble's label.
    pub pods: Vec<Arc<Pod>>,
    /// Claims that carry the ensemble's label.
    pub claims: Vec<Arc<PersistentVolumeClaim>>,
    /// The cluster's nodes.
    pub nodes: Vec<Arc<Node>>,
    /// The members' ConfigMaps. One that is not here is taken to be as it should.
    pub configs: Vec<Arc<ConfigMap>>,
}

/// Objects that cannot be what they say.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("{object} {words}")]
pub struct Contradiction {
    /// Which object, as `pod demo-1`.
    pub object: String,
    /// What is wrong with it and what to do about it.
    pub words: String,
}

/// Everything there is of one member.
#[derive(Default)]
pub(super) struct Parts<'a> {
    pub(super) data: Option<&'a PersistentVolumeClaim>,
    pub(super) log: Option<&'a PersistentVolumeClaim>,
    pub(super) pod: Option<&'a Pod>,
}

/// Where to ask the members that may answer: the address of the pod itself, since names lag behind.
pub fn ask_at(seen: &Seen) -> BTreeMap<ServerId, String> {
    let addresses = seen.pods.iter().filter_map(|pod| {
        let status = pod.status.as_ref().filter(|_| !condition::is_over(pod))?;
        let ip = status.pod_ip.as_deref()?;
        let host = if ip.contains(':') {
            format!("[{ip}]")
        } else {
            ip.to_owned()
        };
        Some((
            id_of(pod.labels())?,
            format!("{host}:{}", names::CLIENT_PORT),
        ))
    });
    addresses.collect()
}

/// Puts together what the objects show and what the members told.
pub fn observed(
    ensemble: &ZooKeeperEnsemble,
    cluster: &Cluster,
    _: &Desired,
    settings: &Settings,
    seen: &Seen,
    told: &BTreeMap<ServerId, Told>,
    now: Now,
) -> Result<Observed, Contradiction> {
    let parts = sort(ensemble, cluster, seen)?;
    let status = ensemble.status.as_ref();
    let place = |recorded: &MembershipStatus| placed(recorded, cluster, settings);
    let mut observed = Observed {
        initial: status.and_then(|status| status.initial.as_ref()).map(place),
        remembered: status
            .and_then(|status| status.membership.as_ref())
            .map(place),
        ..Observed::default()
    };
    let finished = |parts: &Parts<'_>| !health::is_unfinished(cluster, parts);
    for (id, parts) in parts.iter().filter(|(_, parts)| finished(parts)) {
        let address = settings.address(cluster, *id);
        let mut member = health::member(cluster, parts, seen, address);
        member.answer = parts
            .pod
            .and_then(|_| told.get(id))
            .map(|told| told.answer.clone());
        if !member.retired {
            health::condemn(cluster, &mut member, parts, seen, now);
        }
        member.evicted |= status.is_some_and(|status| was_drained(status, *id, &member, seen));
        observed.members.insert(*id, member);
    }
    let leader = observed.leader().and_then(|id| told.get(&id));
    let leader = leader.filter(|told| told.answer.state == State::Leader);
    observed.committed = leader.and_then(|told| told.membership.clone());
    observed.initial = observed
        .initial
        .take()
        .or_else(|| founders(&observed.members));
    let known = observed.known().cloned().unwrap_or_default();
    for (id, member) in &mut observed.members {
        let name = names::member(&cluster.name, *id);
        member.rendered_role = rendered(&name, seen).or(known.role(*id));
    }
    Ok(observed)
}

/// Whether the pod that the status tells of is no more, and its node takes none: it was drained. An operator that was
/// itself on that node does not see the eviction.
fn was_drained(
    status: &ZooKeeperEnsembleStatus,
    id: ServerId,
    member: &Member,
    seen: &Seen,
) -> bool {
    let mut told = status.members.iter();
    let Some(told) = told.find(|told| told.id == id.0) else {
        return false;
    };
    let drained = |name: &String| {
        let mut nodes = seen.nodes.iter();
        let node = nodes.find(|node| node.metadata.name.as_ref() == Some(name));
        node.is_some_and(|node| condition::is_cordoned(node))
    };
    told.pod_uid.is_some()
        && told.pod_uid != member.pod.uid
        && told.node.as_ref().is_some_and(drained)
}

/// The role that a member's configuration says.
fn rendered(name: &str, seen: &Seen) -> Option<Role> {
    let mut configs = seen.configs.iter();
    let config = configs.find(|config| config.metadata.name.as_deref() == Some(name))?;
    let text = config.data.as_ref()?.get(names::CONFIG_KEY)?;
    Some(peer_type(text))
}

/// The first membership, from the members that were made with the ensemble: its record in the status was lost. While
/// there is any claim of the ensemble, it is never set up a second time.
fn founders(members: &BTreeMap<ServerId, Member>) -> Option<Membership> {
    if members.is_empty() {
        return None;
    }
    let founders = members.iter().filter(|(_, member)| member.founder);
    let server = |(id, member): (&ServerId, &Member)| {
        let (role, address) = (member.role, member.address.clone());
        (*id, Server { role, address })
    };
    Some(Membership {
        version: 0,
        servers: founders.map(server).collect(),
    })
}

/// A membership as the status records it, with the addresses that follow from the ids.
fn placed(recorded: &MembershipStatus, cluster: &Cluster, settings: &Settings) -> Membership {
    let of = |ids: &[u32], role: Role| -> Vec<(ServerId, Server)> {
        let server = |id: &u32| {
            let address = settings.address(cluster, ServerId(*id));
            (ServerId(*id), Server { role, address })
        };
        ids.iter().map(server).collect()
    };
    let version = recorded.version.as_deref();
    Membership {
        version: version
            .and_then(|version| u64::from_str_radix(version, 16).ok())
            .unwrap_or_default(),
        servers: of(&recorded.voters, Role::Voter)
            .into_iter()
            .chain(of(&recorded.observers, Role::Observer))
            .collect(),
    }
}

/// Sorts the objects by member, and refuses those that cannot be right.
fn sort<'a>(
    ensemble: &ZooKeeperEnsemble,
    cluster: &Cluster,
    seen: &'a Seen,
) -> Result<BTreeMap<ServerId, Parts<'a>>, Contradiction> {
    let uid = ensemble.uid().unwrap_or_default();
    let mut members: BTreeMap<ServerId, Parts<'a>> = BTreeMap::new();
    let ours =
        |labels: &BTreeMap<String, String>| labels.get(names::ENSEMBLE) == Some(&cluster.name);
    for claim in seen.claims.iter().filter(|claim| ours(claim.labels())) {
        let object = format!("volume claim {}", claim.name_any());
        let owner = claim.labels().get(names::ENSEMBLE_UID);
        if owner != Some(&uid) {
            return Err(foreign_claim(object, cluster, claim, owner));
        }
        let id = id_of(claim.labels()).ok_or_else(|| nobodys(&object, cluster))?;
        let parts = members.entry(id).or_default();
        match claim.name_any() {
            name if name == names::data_claim(&cluster.name, id) => parts.data = Some(claim),
            name if name == names::log_claim(&cluster.name, id) => parts.log = Some(claim),
            _ => return Err(nobodys(&object, cluster)),
        }
    }
    for pod in seen.pods.iter().filter(|pod| ours(pod.labels())) {
        let object = format!("pod {}", pod.name_any());
        let id = id_of(pod.labels()).ok_or_else(|| nobodys(&object, cluster))?;
        if pod.name_any() != names::member(&cluster.name, id) {
            return Err(nobodys(&object, cluster));
        }
        let mut owners = pod.owner_references().iter();
        if !owners.any(|owner| owner.uid == uid) {
            return Err(foreign_pod(object, cluster, pod));
        }
        members.entry(id).or_default().pod = Some(pod);
    }
    Ok(members)
}

fn id_of(labels: &BTreeMap<String, String>) -> Option<ServerId> {
    labels.get(names::ID)?.parse().ok().map(ServerId)
}

/// Carries the ensemble's label and is no part of it.
fn nobodys(object: &str, cluster: &Cluster) -> Contradiction {
    let words = format!(
        "carries the label {}={} and is of no member; take the label away, or delete it",
        names::ENSEMBLE,
        cluster.name
    );
    let object = object.to_owned();
    Contradiction { object, words }
}

fn foreign_claim(
    object: String,
    cluster: &Cluster,
    claim: &PersistentVolumeClaim,
    owner: Option<&String>,
) -> Contradiction {
    let Cluster {
        name, namespace, ..
    } = cluster;
    let words = match owner {
        _ if claim.metadata.deletion_timestamp.is_some() => {
            format!(
                "of an earlier ensemble {name} is being deleted; this ensemble waits until it is gone"
            )
        }
        Some(uid) => format!(
            "holds data of an earlier ensemble {name} (uid {uid}), and is never used for another: give this ensemble another \
             name, or delete that data with kubectl -n {namespace} delete pvc -l {}={uid}",
            names::ENSEMBLE_UID
        ),
        None => format!(
            "does not say which ensemble its data is of (label {}): delete it, or give this ensemble another name",
            names::ENSEMBLE_UID
        ),
    };
    Contradiction { object, words }
}

fn foreign_pod(object: String, cluster: &Cluster, pod: &Pod) -> Contradiction {
    let Cluster {
        name, namespace, ..
    } = cluster;
    let words = if pod.metadata.deletion_timestamp.is_some() {
        format!(
            "of an earlier ensemble {name} is being deleted; this ensemble waits until it is gone"
        )
    } else {
        format!(
            "is not owned by this ensemble; delete it with kubectl -n {namespace} delete pod {}",
            pod.name_any()
        )
    };
    Contradiction { object, words }
}
