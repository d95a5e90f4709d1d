//! What everything is called: names, labels, annotations, selectors. `demo` with member 1 has pod `demo-1`, claim
//! `data-demo-1`, configuration `demo-1`.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

pub use crate::crd::pod::CONTAINER;

use crate::cluster::{Role, ServerId};
use crate::membership::Address;

/// Who writes what the operator writes.
pub const FIELD_MANAGER: &str = "zookeeper-operator";
/// Key of a member's ConfigMap that holds its configuration.
pub const CONFIG_KEY: &str = "zoo.cfg";
/// Key of the Secret that holds the superuser's password.
pub const PASSWORD_KEY: &str = "password";

/// Label: name of the ensemble.
pub const ENSEMBLE: &str = "zookeeper.ensemble.dev/ensemble";
/// Label of claims: UID of the ensemble, so that data never meets an ensemble that it is not of.
pub const ENSEMBLE_UID: &str = "zookeeper.ensemble.dev/ensemble-uid";
/// Label of pods and claims: what the member is meant to be.
pub const ROLE: &str = "zookeeper.ensemble.dev/role";
/// Label of pods and claims: the server id.
pub const ID: &str = "zookeeper.ensemble.dev/id";
/// Annotation of claims: the member was made with the ensemble.
pub const FOUNDER: &str = "zookeeper.ensemble.dev/founder";
/// Annotation of claims: the member may have run. Written before its first pod.
pub const STARTED: &str = "zookeeper.ensemble.dev/started";
/// Annotation of claims: why the member does not come back, see [`retired_value`].
pub const RETIRED: &str = "zookeeper.ensemble.dev/retired";
/// Annotation of pods: hash of the template that it was made from.
pub const TEMPLATE_HASH: &str = "zookeeper.ensemble.dev/template-hash";

/// Port for clients.
pub const CLIENT_PORT: u16 = 2181;
/// Port on which a leader waits for learners.
pub const QUORUM_PORT: u16 = 2888;
/// Port for elections.
pub const ELECTION_PORT: u16 = 3888;
/// Port of the metrics.
pub const METRICS_PORT: u16 = 7000;

/// Pod of a member; its ConfigMap has the same name.
pub fn member(ensemble: &str, id: ServerId) -> String {
    format!("{ensemble}-{id}")
}

/// Claim of a member's data.
pub fn data_claim(ensemble: &str, id: ServerId) -> String {
    format!("data-{ensemble}-{id}")
}

/// Claim of a member's transaction log.
pub fn log_claim(ensemble: &str, id: ServerId) -> String {
    format!("log-{ensemble}-{id}")
}

/// The Service that gives members their host names.
pub fn headless_service(ensemble: &str) -> String {
    format!("{ensemble}-headless")
}

/// The Service of all members that serve.
pub fn client_service(ensemble: &str) -> String {
    format!("{ensemble}-client")
}

/// The Service of the observers, and their PodDisruptionBudget.
pub fn observers(ensemble: &str) -> String {
    format!("{ensemble}-observers")
}

/// The voters' PodDisruptionBudget.
pub fn voters(ensemble: &str) -> String {
    format!("{ensemble}-voters")
}

/// The Secret with the superuser's password.
pub fn super_secret(ensemble: &str) -> String {
    format!("{ensemble}-super")
}

/// The host name of a member.
pub fn host(ensemble: &str, namespace: &str, domain: &str, id: ServerId) -> String {
    let (pod, service) = (member(ensemble, id), headless_service(ensemble));
    format!("{pod}.{service}.{namespace}.svc.{domain}")
}

/// Where a member is reached.
pub fn address(ensemble: &str, namespace: &str, domain: &str, id: ServerId) -> Address {
    Address {
        host: host(ensemble, namespace, domain, id),
        quorum_port: QUORUM_PORT,
        election_port: ELECTION_PORT,
        client_port: CLIENT_PORT,
    }
}

/// The labels of everything that belongs to an ensemble.
pub fn labels(ensemble: &str) -> BTreeMap<String, String> {
    let pairs = [
        (NAME, "zookeeper"),
        (INSTANCE, ensemble),
        (MANAGED_BY, FIELD_MANAGER),
        (ENSEMBLE, ensemble),
    ];
    pairs.map(|(key, value)| (key.into(), value.into())).into()
}

/// The labels of a member's pod and claims.
pub fn member_labels(ensemble: &str, id: ServerId, role: Role) -> BTreeMap<String, String> {
    let mut labels = labels(ensemble);
    labels.insert(ROLE.into(), role.to_string());
    labels.insert(ID.into(), id.to_string());
    labels
}

/// Selects the pods of an ensemble, of one role or of both.
pub fn selector(ensemble: &str, role: Option<Role>) -> BTreeMap<String, String> {
    let mut labels = BTreeMap::from([(ENSEMBLE.to_owned(), ensemble.to_owned())]);
    labels.extend(role.map(|role| (ROLE.to_owned(), role.to_string())));
    labels
}

/// [`selector`] as an object.
pub fn label_selector(ensemble: &str, role: Option<Role>) -> LabelSelector {
    LabelSelector {
        match_labels: Some(selector(ensemble, role)),
        ..LabelSelector::default()
    }
}

/// [`selector`] as text, for lists and for `scale`.
pub fn selector_text(ensemble: &str, role: Option<Role>) -> String {
    let pairs = selector(ensemble, role);
    let pairs: Vec<String> = pairs
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    pairs.join(",")
}

/// The value of [`RETIRED`]: a member that was scaled away, its data kept.
pub const SCALED_AWAY: &str = "scaled away";

/// The value of [`RETIRED`] for a member that is replaced by another.
pub fn retired_value(why: &str) -> String {
    format!("{REPLACED}{why}")
}

/// Whether a value of [`RETIRED`] says that the member was replaced, not scaled away.
pub(super) fn was_replaced(value: &str) -> bool {
    value.starts_with(REPLACED)
}

const REPLACED: &str = "replaced: ";
const NAME: &str = "app.kubernetes.io/name";
const INSTANCE: &str = "app.kubernetes.io/instance";
const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
