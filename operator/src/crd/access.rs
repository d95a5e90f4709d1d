//! `services`, `networkPolicy`, `podDisruptionBudget`: how clients get in, and who may evict.

// The derive copies each struct into a function of its own, where nothing can reach it.
#![allow(unreachable_pub)]

use std::collections::BTreeMap;

use k8s_openapi::api::networking::v1::NetworkPolicyPeer;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::schema;

/// The Services that clients use.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ServicesSpec {
    /// `NAME-client`: all members that serve.
    #[serde(default, skip_serializing_if = "ServiceSettings::is_empty")]
    pub client: ServiceSettings,

    /// `NAME-observers`: the observers that serve; it exists while there are observers.
    #[serde(default, skip_serializing_if = "ServiceSettings::is_empty")]
    pub observers: ServiceSettings,
}

/// One Service.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(
    validation = Rule::new("!has(self.loadBalancerClass) || self.type == 'LoadBalancer'")
        .message("loadBalancerClass needs type: LoadBalancer"),
    validation = Rule::new("!has(self.externalTrafficPolicy) || self.type != 'ClusterIP'")
        .message("externalTrafficPolicy needs type: LoadBalancer or NodePort")
)]
pub struct ServiceSettings {
    /// Who reaches it: the cluster, or the world by a port of every node or a load balancer.
    #[serde(default, rename = "type")]
    pub type_: ServiceKind,

    /// More labels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "schema::texts")]
    pub labels: BTreeMap<String, String>,

    /// Annotations, for example for a load balancer.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "schema::texts")]
    pub annotations: BTreeMap<String, String>,

    /// Which load balancer takes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub load_balancer_class: Option<String>,

    /// Addresses that a load balancer lets in, as `10.0.0.0/8`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(max = 64)))]
    pub load_balancer_source_ranges: Vec<String>,

    /// `Local` keeps the client's address and skips nodes without a member.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub external_traffic_policy: Option<TrafficPolicy>,
}

/// Who reaches a Service.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ServiceKind {
    /// The cluster.
    #[default]
    ClusterIP,
    /// Also a port of every node.
    NodePort,
    /// Also a load balancer.
    LoadBalancer,
}

/// Where traffic from outside goes.
#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TrafficPolicy {
    /// To any member.
    Cluster,
    /// To members on the node that it came in by.
    Local,
}

/// Who may connect.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NetworkPolicySettings {
    /// Whether there is a NetworkPolicy: members talk to members, clients to the client port.
    #[serde(default = "yes")]
    pub enabled: bool,

    /// Who may use the client port; left out: everybody. Members and the operator always may.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::plain_list::<NetworkPolicyPeer>")]
    pub clients: Vec<NetworkPolicyPeer>,
}

/// Budgets that keep drains from costing the quorum.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BudgetSpec {
    /// Whether there are PodDisruptionBudgets: one voter and one observer at a time. A single voter has none.
    #[serde(default = "yes")]
    pub enabled: bool,
}

impl ServicesSpec {
    /// Whether nothing is set.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl ServiceSettings {
    /// Whether nothing is set.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl ServiceKind {
    /// As a Service writes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::ClusterIP => "ClusterIP",
            Self::NodePort => "NodePort",
            Self::LoadBalancer => "LoadBalancer",
        }
    }
}

impl TrafficPolicy {
    /// As a Service writes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cluster => "Cluster",
            Self::Local => "Local",
        }
    }
}

impl Default for NetworkPolicySettings {
    fn default() -> Self {
        Self {
            enabled: true,
            clients: Vec::new(),
        }
    }
}

impl Default for BudgetSpec {
    fn default() -> Self {
        Self { enabled: true }
    }
}

fn yes() -> bool {
    true
}
