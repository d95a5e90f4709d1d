//! An ensemble as pods of a Kubernetes cluster.
//!
//! Pure: what its objects look like ([`names`], [`objects`], [`pod`], [`claim`]), and what the cluster's objects say
//! of it ([`seen`]). The shell around that: [`run`] begins, `caches` watch, `controller` gives turns, [`pass`] looks
//! at one ensemble and takes at most one step, `steps` makes requests of it; [`lease`] says who may.

pub mod api;
mod backend;
mod caches;
pub mod claim;
mod condition;
pub mod context;
mod controller;
pub mod events;
mod health;
pub mod lease;
pub mod members;
pub mod metrics;
pub mod names;
pub mod objects;
pub mod pass;
pub mod pod;
pub mod queue;
pub mod run;
pub mod seen;
pub mod shared;
mod steps;
pub mod traffic;
mod trouble;
pub mod web;

use crate::cluster::{Cluster, ServerId};
use crate::membership::Address;

/// What is the same for all ensembles of an operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Image of the members, for ensembles that name none.
    pub node_image: String,
    /// Domain of the cluster's host names, as `cluster.local`.
    pub cluster_domain: String,
}

impl Settings {
    /// Fills in what an ensemble leaves to the operator. Do it before [`crate::desired::desired`], so that a new
    /// default image restarts the members like any other.
    pub fn complete(&self, mut cluster: Cluster) -> Cluster {
        cluster.image.get_or_insert_with(|| self.node_image.clone());
        cluster
    }

    /// Where a member is reached.
    pub fn address(&self, cluster: &Cluster, id: ServerId) -> Address {
        names::address(&cluster.name, &cluster.namespace, &self.cluster_domain, id)
    }
}
