//! A member's claims: its home. They carry what must be known of a member as long as its data lives.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    PersistentVolumeClaim, PersistentVolumeClaimSpec, VolumeResourceRequirements,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::{Resource, ResourceExt};

use super::names;
use crate::cluster::{Cluster, Role, ServerId};
use crate::crd::ZooKeeperEnsemble;
use crate::crd::spec::Retention;

/// The claims of a member: its data first, then its log when there is one.
///
/// Make them by create, never by apply: what is already there may be another's. Make the data's claim first and
/// delete it last; a member without it has no home.
pub fn claims(
    ensemble: &ZooKeeperEnsemble,
    cluster: &Cluster,
    id: ServerId,
    role: Role,
    founder: bool,
) -> Vec<PersistentVolumeClaim> {
    let storage = &cluster.role(role).storage;
    let mut labels = names::member_labels(&cluster.name, id, role);
    labels.insert(
        names::ENSEMBLE_UID.into(),
        ensemble.uid().unwrap_or_default(),
    );
    let annotations = founder.then(|| BTreeMap::from([(names::FOUNDER.into(), "true".into())]));
    // Only data that goes with the ensemble is owned by it: the rest outlives it without a finalizer.
    let owner = match storage.when_deleted {
        Retention::Delete => ensemble.controller_owner_ref(&()).map(|owner| vec![owner]),
        Retention::Retain => None,
    };
    let claim = |name: String, size: &Quantity, class: &Option<String>| PersistentVolumeClaim {
        metadata: ObjectMeta {
            name: Some(name),
            namespace: Some(cluster.namespace.clone()),
            labels: Some(labels.clone()),
            annotations: annotations.clone(),
            owner_references: owner.clone(),
            ..ObjectMeta::default()
        },
        spec: Some(PersistentVolumeClaimSpec {
            access_modes: Some(vec!["ReadWriteOnce".into()]),
            storage_class_name: class.clone(),
            resources: Some(requests(size)),
            ..PersistentVolumeClaimSpec::default()
        }),
        status: None,
    };
    let data = names::data_claim(&cluster.name, id);
    let log = storage.log.as_ref().map(|log| {
        claim(
            names::log_claim(&cluster.name, id),
            &log.size,
            &log.storage_class,
        )
    });
    let data = claim(data, &storage.size, &storage.storage_class);
    std::iter::once(data).chain(log).collect()
}

fn requests(size: &Quantity) -> VolumeResourceRequirements {
    VolumeResourceRequirements {
        requests: Some(BTreeMap::from([("storage".into(), size.clone())])),
        limits: None,
    }
}
