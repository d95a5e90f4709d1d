//! `status`: what is, and what comes next. Computed from what was observed, never from hope.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What the operator last saw of the ensemble, and what it is about to do.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ZooKeeperEnsembleStatus {
    /// The generation of the spec that this status answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,

    /// When the members were last asked. It is not written for its own sake, so it may be older than it could be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_at: Option<Time>,

    /// `Ready`, `Available`, `Reconciling`, `Stalled`, `Degraded`, `ScaleAllowed`, `ConfigInSync`.
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,

    /// One line for each member, by id.
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["id"]))]
    pub members: Vec<MemberStatus>,

    /// Server id of the leader; none while there is none, or none is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<i32>")]
    pub leader: Option<u32>,

    /// The epoch that the leader reigns in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub epoch: Option<i64>,

    /// How often the leader changed since the ensemble was made.
    pub leader_changes: LeaderChanges,

    /// The members that the ensemble was first started with. Written before any of them is made, and never changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub initial: Option<MembershipStatus>,

    /// The last membership that the leader told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub membership: Option<MembershipStatus>,

    /// Version of the committed membership, in hexadecimal as ZooKeeper prints it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub config_version: Option<String>,

    /// Voters that serve.
    pub ready_voters: i32,
    /// Observers that serve.
    pub ready_observers: i32,
    /// Observers that exist (`scale` reads it).
    pub observers_replicas: i32,
    /// Label selector of the observers' pods (`scale` reads it).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observers_selector: Option<String>,

    /// Where clients connect: `host:port` of every member, separated by commas.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connect_string: Option<String>,

    /// The change that is being carried out. Written before it begins.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub operation: Option<OperationStatus>,

    /// What comes next and what holds it back.
    pub plan: PlanStatus,
}

/// A membership by ids: the addresses follow from them.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct MembershipStatus {
    /// Its version, in hexadecimal; none before the first change.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Server ids of the voters.
    #[schemars(with = "Vec<i32>")]
    pub voters: Vec<u32>,
    /// Server ids of the observers.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "Vec<i32>")]
    pub observers: Vec<u32>,
}

/// One member, as it was last seen.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MemberStatus {
    /// Server id (`myid`).
    #[schemars(with = "i32")]
    pub id: u32,
    /// `voter` or `observer`: what it is meant to be.
    pub role: String,
    /// `leader`, `follower`, `observer`, or why it is none of them: `starting`, `electing`, `stopped`, `failed`, …
    pub state: String,
    /// Last transaction that it applied, as `0x100000002`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zxid: Option<String>,
    /// Transactions behind the leader.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lag: Option<i64>,
    /// Where clients reach it.
    pub client_address: String,
    /// Version of the membership that it holds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub config_version: Option<String>,
    /// Hash of the configuration that it runs with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub template_hash: Option<String>,
    /// Its pod.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    /// UID of its pod.
    #[serde(rename = "podUID", skip_serializing_if = "Option::is_none")]
    pub pod_uid: Option<String>,
    /// Node that the pod runs on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// Zone of that node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// How often its container was restarted in place.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub restarts: Option<i32>,
    /// What keeps it from serving, and what to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
}

/// Changes of the leader, by whether the operator caused them.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LeaderChanges {
    /// Caused by a step of the operator.
    pub planned: i64,
    /// All others.
    pub unplanned: i64,
    /// Who led last. Other than `leader`, it stays while there is no leader.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_leader: Option<u32>,
    /// The epoch whose leader the operator has disturbed: the change that follows it is planned.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expected_after_epoch: Option<i64>,
}

/// A change under way.
#[derive(JsonSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OperationStatus {
    /// The kind of step, for example `RestartMember`.
    pub kind: String,
    /// The member that it concerns.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<i32>")]
    pub member: Option<u32>,
    /// What is done, in words.
    pub message: String,
    /// When it began.
    pub started_at: Time,
    /// Version of the membership before it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub config_version_before: Option<String>,
}

/// The plan in words.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PlanStatus {
    /// One line: what goes on. `At rest` when there is nothing to do.
    pub summary: String,
    /// The next step, when one may be taken now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
    /// What the plan waits for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waiting: Option<String>,
    /// Members that are in trouble, each with what is wrong and what to do about it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub blocked_by: Vec<String>,
    /// Why the last step did not work, while that is so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
    /// The steps that follow.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub upcoming: Vec<String>,
}
