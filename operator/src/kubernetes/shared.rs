//! The objects that all members share: Services, budgets, the network policy, the applications' ConfigMap. They are
//! applied when their content changed, or when what is there is not what was applied; at rest nothing is sent.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::time::Duration;

use k8s_openapi::api::core::v1::{ConfigMap, Service};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::core::NamespaceResourceScope;
use kube::{Api, Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::backend::BackendError;
use crate::cluster::Role;
use crate::crd::spec::Retention;
use crate::observed::Observed;
use crate::status::Now;

use super::api::call;
use super::backend::KubernetesBackend;
use super::members::Members;
use super::names;
use super::objects::{self, Kind, Object};

/// Objects by kind and name.
pub type Owned = BTreeMap<(String, String), OwnedObject>;

/// What a cache shows of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnedObject {
    /// `metadata.uid`.
    pub uid: String,
    /// `metadata.resourceVersion`.
    pub resource_version: String,
    /// UID of its controller.
    pub controller: Option<String>,
}

impl OwnedObject {
    /// Reads it from an object's metadata.
    pub fn of(meta: &ObjectMeta) -> Self {
        let mut owners = meta.owner_references.iter().flatten();
        let controller = owners.find(|owner| owner.controller == Some(true));
        Self {
            uid: meta.uid.clone().unwrap_or_default(),
            resource_version: meta.resource_version.clone().unwrap_or_default(),
            controller: controller.map(|owner| owner.uid.clone()),
        }
    }
}

/// What was applied, so that it is not applied again.
#[derive(Clone, Debug)]
pub(super) struct Applied {
    content: Value,
    /// What the cache showed then.
    before: Option<String>,
    /// The version that came of it.
    after: Option<String>,
    at: Now,
}

impl Applied {
    pub(super) fn new(
        content: Value,
        shown: Option<&OwnedObject>,
        after: Option<String>,
        at: Now,
    ) -> Self {
        Self {
            content,
            before: shown.map(|object| object.resource_version.clone()),
            after,
            at,
        }
    }

    /// Whether what the cache shows is what was applied, or what was there before for as long as a cache may be late.
    pub(super) fn stands(&self, content: &Value, shown: Option<&OwnedObject>, now: Now) -> bool {
        let shown = shown.map(|object| &object.resource_version);
        let age = now.duration_since(self.at).unsigned_abs();
        self.content == *content
            && (shown.is_some() && shown == self.after.as_ref()
                || shown == self.before.as_ref() && age < CACHE_LATE_MAX)
    }
}

impl<M: Members> KubernetesBackend<'_, M> {
    /// Applies what differs and deletes what should not be. What goes wrong with one does not keep the others away.
    pub(super) async fn keep_shared(
        &mut self,
        observed: &Observed,
        owned: &Owned,
    ) -> Result<(), BackendError> {
        let settings = &self.ctx.settings;
        let wanted = objects::shared(&self.ensemble, self.cluster, settings, observed);
        let unwanted = objects::absent(&self.ensemble, self.cluster, settings, observed);
        let mut outcome = Ok(());
        for object in wanted {
            let applied = match &object {
                Object::Service(it) => self.keep(&**it, owned).await,
                Object::ConfigMap(it) => self.keep(&**it, owned).await,
                Object::PodDisruptionBudget(it) => self.keep(&**it, owned).await,
                Object::NetworkPolicy(it) => self.keep(&**it, owned).await,
            };
            outcome = outcome.and(applied);
        }
        for (kind, name) in unwanted {
            let gone = match kind {
                Kind::Service => self.remove::<Service>(&name, owned).await,
                Kind::ConfigMap => self.remove::<ConfigMap>(&name, owned).await,
                Kind::PodDisruptionBudget => self.remove::<PodDisruptionBudget>(&name, owned).await,
                Kind::NetworkPolicy => self.remove::<NetworkPolicy>(&name, owned).await,
            };
            outcome = outcome.and(gone);
        }
        outcome.and(self.keep_owners().await)
    }

    /// Whether data goes with the ensemble is said by its claims' owners, and may change while it lives.
    async fn keep_owners(&self) -> Result<(), BackendError> {
        let uid = self.ensemble.uid();
        for claim in &self.seen.claims {
            let own = claim.labels().get(names::ENSEMBLE_UID) == uid.as_ref();
            let role = claim.labels().get(names::ROLE);
            let role = match role.map(String::as_str) {
                Some("observer") => Role::Observer,
                _ => Role::Voter,
            };
            let goes = self.cluster.role(role).storage.when_deleted == Retention::Delete;
            if own && claim.metadata.deletion_timestamp.is_none() && goes != self.owns(&**claim) {
                let others = claim.metadata.owner_references.iter().flatten();
                let others = others
                    .filter(|owner| Some(&owner.uid) != uid.as_ref())
                    .cloned();
                let ours = self.ensemble.controller_owner_ref(&()).filter(|_| goes);
                let owners: Vec<OwnerReference> = others.chain(ours).collect();
                let patch = json!({
                    "metadata": { "resourceVersion": claim.resource_version(), "ownerReferences": owners },
                });
                self.patch_claim(&claim.name_any(), &patch).await?;
            }
        }
        Ok(())
    }

    async fn keep<K: Shared>(&mut self, object: &K, owned: &Owned) -> Result<(), BackendError> {
        let at = (K::kind(&()).into_owned(), object.name_any());
        let content = serde_json::to_value(object).expect("an object is plain data");
        let shown = owned.get(&at);
        let before = self.memory.applied.get(&at);
        if before.is_some_and(|before| before.stands(&content, shown, self.now)) {
            return Ok(());
        }
        if shown.map(|shown| &shown.controller) != Some(&self.ensemble.uid()) {
            self.check_not_anothers::<K>(&at.1).await?;
        }
        let after: K = self.apply(&at.1, object).await?;
        let applied = Applied::new(content, shown, after.resource_version(), self.now);
        self.memory.applied.insert(at, applied);
        Ok(())
    }

    /// Somebody's own object that happens to have the name of one of ours is not taken over. One that an ensemble of this
    /// name left behind (`kubectl delete --cascade=orphan`) is known by its label.
    async fn check_not_anothers<K: Shared>(&self, name: &str) -> Result<(), BackendError> {
        let kind = K::kind(&());
        let api: Api<K> = self.api();
        let Some(there) = call(format!("reading {kind} {name}"), api.get_opt(name)).await? else {
            return Ok(());
        };
        let label = there.labels().get(names::ENSEMBLE);
        if self.owns(&there) || label == Some(&self.cluster.name) {
            return Ok(());
        }
        Err(BackendError::Refused(format!(
            "there is a {kind} {name} that is not this ensemble's: delete or rename it, or give the ensemble another name"
        )))
    }

    async fn remove<K: Shared>(&mut self, name: &str, owned: &Owned) -> Result<(), BackendError> {
        let at = (K::kind(&()).into_owned(), name.to_owned());
        self.memory.applied.remove(&at);
        let controller = owned.get(&at).map(|shown| &shown.controller);
        if controller != Some(&self.ensemble.uid()) {
            return Ok(());
        }
        let api: Api<K> = self.api();
        let what = format!("reading {} {name}", at.0);
        match call(what, api.get_opt(name)).await? {
            Some(object) if self.owns(&object) && object.meta().deletion_timestamp.is_none() => {
                self.delete(&object).await
            }
            _ => Ok(()),
        }
    }
}

/// What a shared object can do.
trait Shared:
    Resource<DynamicType = (), Scope = NamespaceResourceScope>
    + Clone
    + Debug
    + Serialize
    + DeserializeOwned
{
}

impl<K> Shared for K where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + Debug
        + Serialize
        + DeserializeOwned
{
}

const CACHE_LATE_MAX: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn shown(version: &str) -> Option<OwnedObject> {
        Some(OwnedObject {
            uid: "u".into(),
            resource_version: version.into(),
            controller: None,
        })
    }

    fn at(second: i64) -> Now {
        Now::from_second(second).unwrap()
    }

    #[test]
    fn what_was_applied_stands_until_it_or_its_content_changes() {
        let content = json!({"spec": 1});
        let applied = Applied::new(content.clone(), None, Some("7".into()), at(100));
        let stands = |content: &Value, shown: &Option<OwnedObject>, second| {
            applied.stands(content, shown.as_ref(), at(second))
        };
        assert!(
            stands(&content, &shown("7"), 100_000),
            "it is there as it was applied"
        );
        assert!(!stands(&content, &shown("8"), 101), "somebody changed it");
        assert!(
            !stands(&json!({"spec": 2}), &shown("7"), 101),
            "it is to be another"
        );
        assert!(stands(&content, &None, 101), "the cache is late");
        assert!(!stands(&content, &None, 111), "somebody deleted it");
    }
}
