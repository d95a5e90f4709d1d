//! `Cluster`: a manifest after validation. Every default is filled in, every value is known to be good.
//!
//! Nothing here reads or writes; the planner and the renderer take it as it is.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use k8s_openapi::api::core::v1::{PodTemplateSpec, ResourceRequirements};
use serde::{Deserialize, Serialize};

use crate::crd::pod::PodSettings;
use crate::crd::spec::StorageSpec;

/// A server's number (`myid`): from 1 to 254, since a session id carries it in its top byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ServerId(pub u32);

/// Highest server id.
pub const SERVER_ID_MAX: u32 = 254;

/// Whether a member votes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Votes; ZooKeeper's `participant`.
    Voter,
    /// Follows without voting.
    Observer,
}

/// What the manifest asks for.
#[derive(Clone, Debug, PartialEq)]
pub struct Cluster {
    /// `metadata.name`.
    pub name: String,
    /// `metadata.namespace`, `default` when left out.
    pub namespace: String,
    /// `metadata.generation`.
    pub generation: Option<i64>,
    /// The members that vote.
    pub voters: RoleSpec,
    /// The members that do not.
    pub observers: RoleSpec,
    /// Image of the members, when the manifest names one.
    pub image: Option<String>,
    /// The last time at which a restart was asked for.
    pub restarted_at: Option<String>,
    /// Nothing is to be done for now.
    pub paused: bool,
    /// How many observers may be down for a restart at a time.
    pub observers_at_once: usize,
    /// Members whose volume is lost or damaged are replaced.
    pub replace_damaged: bool,
    /// Members whose node has been lost for this long are replaced.
    pub after_node_lost: Option<Duration>,
}

/// What the manifest asks for the members of one role, with the ensemble-wide settings merged in.
#[derive(Clone, Debug, PartialEq)]
pub struct RoleSpec {
    /// How many.
    pub replicas: usize,
    /// Keys of `zoo.cfg`, checked.
    pub config: BTreeMap<String, String>,
    /// The volume.
    pub storage: StorageSpec,
    /// CPU and memory.
    pub resources: Option<ResourceRequirements>,
    /// Where the pods run and what they carry.
    pub pod: PodSettings,
    /// What is merged over the pod; from `pod.overrides`, checked.
    pub overrides: Vec<PodTemplateSpec>,
}

impl Cluster {
    /// The settings of one role.
    pub fn role(&self, role: Role) -> &RoleSpec {
        match role {
            Role::Voter => &self.voters,
            Role::Observer => &self.observers,
        }
    }
}

impl fmt::Display for ServerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Voter => "voter",
            Self::Observer => "observer",
        })
    }
}
