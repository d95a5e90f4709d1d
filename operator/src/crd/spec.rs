//! `spec`: what a person asks for.

// The derive copies each struct into a function of its own, where nothing can reach it.
#![allow(unreachable_pub)]

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{LocalObjectReference, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::access::{BudgetSpec, NetworkPolicySettings, ServicesSpec};
use super::care::{RepairSpec, UpdatePolicy};
use super::pod::PodSettings;
use super::rules::{log_size_grows, same_class, same_log, same_log_class, size_grows};
use super::schema;
use super::setting::Setting;
use super::status::ZooKeeperEnsembleStatus;

/// Most voters that an ensemble may have: more only make every write slower.
pub const VOTERS_MAX: i32 = 9;
/// Most observers: with the voters, they stay within the server ids that a session id can carry.
pub const OBSERVERS_MAX: i32 = 200;

/// A ZooKeeper ensemble: voters that form the quorum, and observers that serve reads and never vote.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "zookeeper.ensemble.dev",
    version = "v1alpha1",
    kind = "ZooKeeperEnsemble",
    plural = "zookeeperensembles",
    shortname = "zke",
    category = "zookeeper",
    namespaced,
    status = "ZooKeeperEnsembleStatus",
    derive = "PartialEq",
    scale(
        spec_replicas_path = ".spec.observers.replicas",
        status_replicas_path = ".status.observersReplicas",
        label_selector_path = ".status.observersSelector"
    ),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].status"
    ),
    printcolumn(name = "Voters", type_ = "integer", json_path = ".status.readyVoters"),
    printcolumn(
        name = "Observers",
        type_ = "integer",
        json_path = ".status.readyObservers"
    ),
    printcolumn(name = "Leader", type_ = "integer", json_path = ".status.leader"),
    printcolumn(
        name = "Epoch",
        type_ = "integer",
        json_path = ".status.epoch",
        priority = 1
    ),
    printcolumn(
        name = "Operation",
        type_ = "string",
        json_path = ".status.plan.summary",
        priority = 1
    ),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    ),
    validation = Rule::new("size(self.metadata.name) <= 40")
        .message("the name must have at most 40 characters: the names of pods are made from it"),
    validation = Rule::new("self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')")
        .message("the name must be lower-case letters, digits and \"-\", with a letter first: host names are made from it")
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(
    validation = Rule::new("self.allowEvenVoters || self.voters.replicas % 2 == 1")
        .message("voters.replicas must be odd: an even number survives no more failures than one less; set allowEvenVoters to have it anyway"),
    validation = Rule::new(size_grows("voters")).message("a voter's volume can only grow: storage.size may not become smaller"),
    validation = Rule::new(size_grows("observers")).message("an observer's volume can only grow: storage.size may not become smaller"),
    validation = Rule::new(log_size_grows("voters")).message("a voter's log volume can only grow: storage.log.size may not become smaller"),
    validation = Rule::new(log_size_grows("observers")).message("an observer's log volume can only grow: storage.log.size may not become smaller"),
    validation = Rule::new(same_class("voters")).message("the storage class of the voters cannot change: volumes do not move; make a new ensemble with it"),
    validation = Rule::new(same_class("observers")).message("the storage class of the observers cannot change: volumes do not move; make a new ensemble with it"),
    validation = Rule::new(same_log("voters")).message("a log volume cannot come or go later for the voters: decide on storage.log when the ensemble is made"),
    validation = Rule::new(same_log("observers")).message("a log volume cannot come or go later for the observers: decide on storage.log when the ensemble is made"),
    validation = Rule::new(same_log_class("voters")).message("the storage class of the voters' log volumes cannot change"),
    validation = Rule::new(same_log_class("observers")).message("the storage class of the observers' log volumes cannot change")
)]
pub struct ZooKeeperEnsembleSpec {
    /// The members that vote. A majority of them must be up for the ensemble to serve writes.
    #[serde(default)]
    pub voters: VotersSpec,

    /// The members that follow the history without voting; they serve reads. `kubectl scale` sets their number.
    #[serde(default)]
    pub observers: ObserversSpec,

    /// Accept an even number of voters.
    #[serde(default)]
    pub allow_even_voters: bool,

    /// Container image of the members. Left out: the image that this operator was released with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub image: Option<String>,

    /// When nodes fetch the image. Left out: Kubernetes decides by the tag.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_pull_policy: Option<PullPolicy>,

    /// Secrets with which the image is fetched.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), schema_with = "schema::pull_secrets")]
    pub image_pull_secrets: Vec<LocalObjectReference>,

    /// Keys of `zoo.cfg` for every member, for example `tickTime: 2000`. Keys that the operator owns are refused.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "schema::config")]
    pub config: BTreeMap<String, Setting>,

    /// The volume of each member.
    #[serde(default)]
    pub storage: StorageSpec,

    /// CPU and memory of each member.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::plain::<ResourceRequirements>")]
    pub resources: Option<ResourceRequirements>,

    /// Where the pods run and what they carry.
    #[serde(default, skip_serializing_if = "PodSettings::is_empty")]
    pub pod: PodSettings,

    /// Restarts the members one by one when it changes: write the time at which you ask for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub restarted_at: Option<String>,

    /// How changes are carried out.
    #[serde(default)]
    pub update_policy: UpdatePolicy,

    /// What the operator does about members that cannot come back by themselves.
    #[serde(default)]
    pub repair: RepairSpec,

    /// The Services that clients use.
    #[serde(default, skip_serializing_if = "ServicesSpec::is_empty")]
    pub services: ServicesSpec,

    /// Who may connect.
    #[serde(default)]
    pub network_policy: NetworkPolicySettings,

    /// Budgets that keep drains from costing the quorum.
    #[serde(default)]
    pub pod_disruption_budget: BudgetSpec,
}

/// The members that vote.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct VotersSpec {
    /// How many: 1 for trying out, 3 to survive one failure, 5 to survive two.
    #[serde(default = "three")]
    #[schemars(range(min = 1, max = 9))]
    pub replicas: i32,

    /// Keys of `zoo.cfg` for voters only; they win over `spec.config`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "schema::config")]
    pub config: BTreeMap<String, Setting>,

    /// The volume of each voter, instead of `spec.storage`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage: Option<StorageSpec>,

    /// CPU and memory of each voter, instead of `spec.resources`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::plain::<ResourceRequirements>")]
    pub resources: Option<ResourceRequirements>,

    /// Settings of the voters' pods; each that is given wins over the one in `spec.pod`.
    #[serde(default, skip_serializing_if = "PodSettings::is_empty")]
    pub pod: PodSettings,
}

/// The members that follow without voting.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ObserversSpec {
    /// How many.
    #[serde(default)]
    #[schemars(range(min = 0, max = 200))]
    pub replicas: i32,

    /// Keys of `zoo.cfg` for observers only; they win over `spec.config`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "schema::config")]
    pub config: BTreeMap<String, Setting>,

    /// The volume of each observer, instead of `spec.storage`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage: Option<StorageSpec>,

    /// CPU and memory of each observer, instead of `spec.resources`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::plain::<ResourceRequirements>")]
    pub resources: Option<ResourceRequirements>,

    /// Settings of the observers' pods; each that is given wins over the one in `spec.pod`.
    #[serde(default, skip_serializing_if = "PodSettings::is_empty")]
    pub pod: PodSettings,
}

/// A member's volume.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct StorageSpec {
    /// Size of the volume. It may grow, never shrink.
    #[serde(default = "ten_gibibytes")]
    #[schemars(schema_with = "schema::size")]
    pub size: Quantity,

    /// Storage class. Left out: the cluster's default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub storage_class: Option<String>,

    /// A volume of its own for the transaction log, so that snapshots never slow it down.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log: Option<LogStorageSpec>,

    /// What happens to the data of a member that is scaled away or replaced.
    #[serde(default)]
    pub when_scaled_down: Retention,

    /// What happens to the data when the ensemble is deleted.
    #[serde(default = "retain")]
    pub when_deleted: Retention,
}

/// A member's volume for its transaction log.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LogStorageSpec {
    /// Size of the volume. It may grow, never shrink.
    #[serde(default = "ten_gibibytes")]
    #[schemars(schema_with = "schema::size")]
    pub size: Quantity,

    /// Storage class. Left out: the cluster's default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub storage_class: Option<String>,
}

/// What happens to data that no member uses any more.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Retention {
    /// The data goes, and the server id may be given to a new member later.
    #[default]
    Delete,
    /// The data stays, and the server id stays taken as long as it does.
    Retain,
}

/// When a node fetches the image.
#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PullPolicy {
    /// At every start.
    Always,
    /// When it is not there.
    IfNotPresent,
    /// Never: it must be there.
    Never,
}

impl Default for VotersSpec {
    fn default() -> Self {
        Self {
            replicas: three(),
            config: BTreeMap::new(),
            storage: None,
            resources: None,
            pod: PodSettings::default(),
        }
    }
}

impl Default for StorageSpec {
    fn default() -> Self {
        Self {
            size: ten_gibibytes(),
            storage_class: None,
            log: None,
            when_scaled_down: Retention::default(),
            when_deleted: Retention::Retain,
        }
    }
}

impl PullPolicy {
    /// As a pod writes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Always => "Always",
            Self::IfNotPresent => "IfNotPresent",
            Self::Never => "Never",
        }
    }
}

fn three() -> i32 {
    3
}

fn ten_gibibytes() -> Quantity {
    Quantity("10Gi".into())
}

fn retain() -> Retention {
    Retention::Retain
}
