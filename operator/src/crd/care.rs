//! `updatePolicy` and `repair`: how the operator goes about its work.

// The derive copies each struct into a function of its own, where nothing can reach it.
#![allow(unreachable_pub)]

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

/// How changes are carried out.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct UpdatePolicy {
    /// Do nothing but report: no start, no restart, no change of the membership, until it is false again.
    #[serde(default)]
    pub pause: bool,

    /// How many observers may be down for a restart at a time. Voters always restart one by one.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 50))]
    pub max_observers_at_once: i32,
}

/// What the operator does about members that cannot come back by themselves.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RepairSpec {
    /// Replace a member whose volume is lost or damaged by a new one, while the others are a quorum without it.
    #[serde(default = "yes")]
    pub replace_damaged: bool,

    /// Replace a member whose node has not been ready for this long, as `10m`. Left out: only say so. Its volume may
    /// be on that node; the new member fetches everything from the others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 8), regex(pattern = "^[0-9]+(s|m|h)$"))]
    pub after_node_lost: Option<String>,
}

impl Default for UpdatePolicy {
    fn default() -> Self {
        Self {
            pause: false,
            max_observers_at_once: one(),
        }
    }
}

impl Default for RepairSpec {
    fn default() -> Self {
        Self {
            replace_damaged: true,
            after_node_lost: None,
        }
    }
}

fn one() -> i32 {
    1
}

fn yes() -> bool {
    true
}
