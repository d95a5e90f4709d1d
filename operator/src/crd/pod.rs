//! `pod`: where members run and what their pods carry, for all of them or for one role.

// The derive copies each struct into a function of its own, where nothing can reach it.
#![allow(unreachable_pub)]

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Affinity, PodSecurityContext, Toleration, TopologySpreadConstraint,
};
use kube::KubeSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::schema;

/// Settings of pods. Those of a role win over those of the ensemble; maps are merged key by key.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PodSettings {
    /// Replaces the default: members of one ensemble prefer nodes of their own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::plain::<Affinity>")]
    pub affinity: Option<Affinity>,

    /// Taints that members live with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::plain_list::<Toleration>")]
    pub tolerations: Option<Vec<Toleration>>,

    /// Labels of the nodes that members may run on.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "schema::texts")]
    pub node_selector: BTreeMap<String, String>,

    /// Replaces the default: members of one role are spread over zones where that is possible. A constraint without
    /// `labelSelector` counts the members of the role.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::plain_list::<TopologySpreadConstraint>")]
    pub topology_spread: Option<Vec<TopologySpreadConstraint>>,

    /// Priority of the pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub priority_class_name: Option<String>,

    /// More labels of the pods.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "schema::texts")]
    pub labels: BTreeMap<String, String>,

    /// More annotations of the pods.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "schema::texts")]
    pub annotations: BTreeMap<String, String>,

    /// Merged over the default: user and group 1000, not root, the runtime's seccomp profile.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::plain::<PodSecurityContext>")]
    pub security_context: Option<PodSecurityContext>,

    /// A pod template (`metadata` and `spec`) that is merged over the pod as `kubectl patch` does: containers and
    /// volumes by name. The server's container is called `zookeeper`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::any_object")]
    pub overrides: Option<Map<String, Value>>,
}

impl PodSettings {
    /// Whether nothing is set.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// The server's container.
pub const CONTAINER: &str = "zookeeper";

/// Whether a label or annotation is the operator's own: members are found by it.
pub(crate) fn is_own(key: &str) -> bool {
    let common = ["name", "instance", "managed-by"];
    let common = common.map(|name| format!("app.kubernetes.io/{name}"));
    key.starts_with("zookeeper.ensemble.dev/") || common.iter().any(|own| own == key)
}
