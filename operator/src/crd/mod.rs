//! The `ZooKeeperEnsemble` resource: the types of its spec and status, and the CRD made from them.
//!
//! `crds/` holds the printed form; a test keeps it equal to these types.

pub mod access;
pub mod care;
pub mod pod;
mod rules;
mod schema;
mod setting;
pub mod spec;
pub mod status;

use std::sync::OnceLock;

use kube::CustomResourceExt;

pub use setting::Setting;
pub use spec::{ObserversSpec, StorageSpec, VotersSpec, ZooKeeperEnsemble, ZooKeeperEnsembleSpec};
pub use status::ZooKeeperEnsembleStatus;

/// API group of everything this operator owns.
pub const GROUP: &str = "zookeeper.ensemble.dev";
/// `apiVersion` of a manifest.
pub const API_VERSION: &str = "zookeeper.ensemble.dev/v1alpha1";
/// `kind` of a manifest.
pub const KIND: &str = "ZooKeeperEnsemble";

/// The CustomResourceDefinition as YAML, as `zookeeper-operator crd` prints it.
pub fn crd_yaml() -> String {
    serde_yaml::to_string(&ZooKeeperEnsemble::crd()).expect("a CRD is plain data")
}

/// The schema of `spec`, with which manifests are checked before they are parsed.
pub(crate) fn spec_schema() -> &'static serde_json::Value {
    static SCHEMA: OnceLock<serde_json::Value> = OnceLock::new();
    SCHEMA.get_or_init(|| {
        let crd = serde_json::to_value(ZooKeeperEnsemble::crd()).expect("a CRD is plain data");
        crd.pointer("/spec/versions/0/schema/openAPIV3Schema/properties/spec")
            .expect("the CRD has a schema for its spec")
            .clone()
    })
}
