//! `execute`: each step as requests. Every request may be the last one before a crash, and each may be repeated.
//!
//! The facts that a step rests on were read live in the same pass. What is taken away is named by the UID and
//! resourceVersion that were read, so that nothing else can be hit.

use std::fmt::Debug;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim, Pod, Secret};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::core::NamespaceResourceScope;
use kube::{Api, Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::backend::{BackendError, Class};
use crate::client::{Change, ReconfigError, new_password};
use crate::cluster::{Role, ServerId};
use crate::crd::spec::Retention;
use crate::observed::Observed;
use crate::plan::Step;
use crate::render::super_digest;
use crate::validate::bytes;

use super::api::{ApiError, call};
use super::backend::KubernetesBackend;
use super::claim;
use super::events::News;
use super::members::Members;
use super::names;
use super::objects;
use super::pod;
use super::seen;

impl<M: Members> KubernetesBackend<'_, M> {
    /// Tells people of a step, once.
    pub(super) async fn tell_step(&mut self, step: &Step) {
        let words = step.to_string();
        if self.memory.told_step.as_ref() == Some(&words) {
            return;
        }
        let news = News {
            warns: false,
            reason: step.kind(),
            action: step.kind(),
            note: words.clone(),
            member: step.member(),
        };
        self.ctx.events.tell(&self.ensemble, news).await;
        self.memory.told_step = Some(words);
    }

    /// Takes one step.
    pub(super) async fn take(
        &mut self,
        observed: &Observed,
        step: &Step,
    ) -> Result<(), BackendError> {
        match step {
            Step::Bootstrap { voters, observers } => self.bootstrap(voters, observers).await,
            Step::Start { ids } => self.start(observed, ids).await,
            Step::Create { id, role } => self.create_claims(*id, *role, false).await,
            Step::Join { ids, version } => self.join(observed, ids, Role::Observer, *version).await,
            Step::Promote { id, version } => {
                self.join(observed, &[*id], Role::Voter, *version).await
            }
            Step::Remove { ids, version } => {
                let change = Change {
                    joining: Vec::new(),
                    leaving: ids.clone(),
                    from_version: *version,
                };
                self.reconfigure(observed, &change).await
            }
            Step::Stop { ids } => self.stop(ids).await,
            Step::Retire { id, data } => self.retire(*id, *data).await,
            Step::Replace { id, why } => {
                self.give_up(*id, &names::retired_value(&why.to_string()))
                    .await
            }
            Step::GrowVolume { id } => self.grow(observed, *id).await,
            Step::Restart { id } => {
                let digest = super_digest(&self.super_password().await?);
                self.render(observed, *id, &digest).await?;
                self.delete_pod(*id).await
            }
            Step::Render { ids } => {
                let digest = super_digest(&self.super_password().await?);
                for id in ids {
                    self.render(observed, *id, &digest).await?;
                }
                Ok(())
            }
        }
    }

    /// The decision itself is in the status already. What is missing of its volumes is made.
    async fn bootstrap(
        &self,
        voters: &[ServerId],
        observers: &[ServerId],
    ) -> Result<(), BackendError> {
        self.super_password().await?;
        for id in voters {
            self.create_claims(*id, Role::Voter, true).await?;
        }
        for id in observers {
            self.create_claims(*id, Role::Observer, true).await?;
        }
        Ok(())
    }

    async fn create_claims(
        &self,
        id: ServerId,
        role: Role,
        founder: bool,
    ) -> Result<(), BackendError> {
        for claim in claim::claims(&self.ensemble, self.cluster, id, role, founder) {
            let name = claim.name_any();
            let what = format!("creating claim {name}");
            let api: Api<PersistentVolumeClaim> = self.api();
            match self.write(what, api.create(&post(), &claim)).await {
                Ok(_) => {}
                Err(error) if error.class == Class::Outdated => {
                    self.check_claim(&api, &name).await?
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// A claim that is there already must be ours: data never meets an ensemble that it is not of.
    async fn check_claim(
        &self,
        api: &Api<PersistentVolumeClaim>,
        name: &str,
    ) -> Result<(), BackendError> {
        let claim = call(format!("reading claim {name}"), api.get(name)).await?;
        if claim.labels().get(names::ENSEMBLE_UID) != self.ensemble.uid().as_ref() {
            let cure =
                "delete the claim if its data is not needed, or give the ensemble another name";
            return Err(BackendError::Refused(format!(
                "claim {name} holds the data of another ensemble: {cure}"
            )));
        }
        if claim.metadata.deletion_timestamp.is_some() {
            return Err(ApiError::outdated(
                format!("creating claim {name}"),
                "the one before is still being deleted",
            )
            .into());
        }
        Ok(())
    }

    /// Starts each of them that can be; what keeps one down does not keep the others down.
    async fn start(&self, observed: &Observed, ids: &[ServerId]) -> Result<(), BackendError> {
        let digest = super_digest(&self.super_password().await?);
        let mut outcome = Ok(());
        for id in ids {
            let started = self.start_one(observed, *id, &digest).await;
            outcome = outcome.and(started);
        }
        outcome
    }

    async fn start_one(
        &self,
        observed: &Observed,
        id: ServerId,
        digest: &str,
    ) -> Result<(), BackendError> {
        if self.pod_seen(id).is_some() {
            // It has ended, or fails with an old template. The next pass makes a new one.
            return self.delete_pod(id).await;
        }
        self.render(observed, id, digest).await?;
        // Recorded first: a member that may have run must never be taken for a new one.
        self.note_started(id).await?;
        let member = observed.members.get(&id);
        let role = member.map_or(Role::Observer, |member| member.role);
        let pod = pod::pod(
            &self.ensemble,
            self.cluster,
            self.desired,
            &self.ctx.settings,
            id,
            role,
        );
        let name = pod.name_any();
        let api: Api<Pod> = self.api();
        match self
            .write(format!("creating pod {name}"), api.create(&post(), &pod))
            .await
        {
            Ok(_) => Ok(()),
            Err(error) if error.class == Class::Outdated => self.check_pod(&api, &name).await,
            Err(error) => Err(error.into()),
        }
    }

    /// A pod that is there already must be ours.
    async fn check_pod(&self, api: &Api<Pod>, name: &str) -> Result<(), BackendError> {
        let pod = call(format!("reading pod {name}"), api.get(name)).await?;
        if self.owns(&pod) {
            return Ok(());
        }
        Err(BackendError::Refused(format!(
            "pod {name} is not this ensemble's: delete it, or give the ensemble another name"
        )))
    }

    async fn note_started(&self, id: ServerId) -> Result<(), BackendError> {
        let name = names::data_claim(&self.cluster.name, id);
        let claim = self.claim_seen(&name)?;
        if claim.annotations().contains_key(names::STARTED) {
            return Ok(());
        }
        let annotations = json!({ names::STARTED: "true" });
        self.annotate(claim, annotations).await
    }

    /// Writes annotations over those that were read.
    async fn annotate(
        &self,
        claim: &PersistentVolumeClaim,
        annotations: Value,
    ) -> Result<(), BackendError> {
        let name = claim.name_any();
        let patch = json!({
            "metadata": { "resourceVersion": claim.resource_version(), "annotations": annotations },
        });
        self.patch_claim(&name, &patch).await
    }

    /// Changes a claim by a merge patch.
    pub(super) async fn patch_claim(&self, name: &str, patch: &Value) -> Result<(), BackendError> {
        let api: Api<PersistentVolumeClaim> = self.api();
        let (params, patch) = (patch_params(), Patch::Merge(patch));
        let write = api.patch(name, &params, &patch);
        self.write(format!("changing claim {name}"), write).await?;
        Ok(())
    }

    /// Writes a member's configuration.
    async fn render(
        &self,
        observed: &Observed,
        id: ServerId,
        digest: &str,
    ) -> Result<(), BackendError> {
        let config = objects::member_config(
            &self.ensemble,
            self.cluster,
            self.desired,
            &self.ctx.settings,
            observed,
            id,
            digest,
        );
        self.apply::<ConfigMap>(&config.name_any(), &config).await?;
        Ok(())
    }

    /// Server-side apply; gives the object that came of it.
    pub(super) async fn apply<K>(
        &self,
        name: &str,
        object: &impl Serialize,
    ) -> Result<K, BackendError>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
        K: Clone + DeserializeOwned + Debug,
    {
        let mut object = serde_json::to_value(object).expect("an object is plain data");
        // What is sent says what it is.
        object["apiVersion"] = K::api_version(&()).into();
        object["kind"] = K::kind(&()).into();
        let api: Api<K> = self.api();
        let (params, patch) = (patch_params().force(), Patch::Apply(&object));
        let write = api.patch(name, &params, &patch);
        let what = format!("applying {} {name}", K::kind(&()));
        Ok(self.write(what, write).await?)
    }

    /// Makes members part of the membership, or changes the role that they have in it.
    async fn join(
        &self,
        observed: &Observed,
        ids: &[ServerId],
        role: Role,
        from_version: u64,
    ) -> Result<(), BackendError> {
        let address = |id: &ServerId| self.ctx.settings.address(self.cluster, *id);
        let change = Change {
            joining: ids
                .iter()
                .map(|id| address(id).reconfig_spec(*id, role))
                .collect(),
            leaving: Vec::new(),
            from_version,
        };
        self.reconfigure(observed, &change).await
    }

    async fn reconfigure(&self, observed: &Observed, change: &Change) -> Result<(), BackendError> {
        let password = self.super_password().await?;
        let leader = observed.leader();
        // By the addresses of the pods themselves: names lag behind.
        let addresses = seen::ask_at(&self.seen);
        let healthy = addresses
            .into_iter()
            .filter(|(id, _)| observed.healthy(*id));
        let mut serving: Vec<(ServerId, String)> = healthy.collect();
        // Any member that serves takes it; the leader is asked first.
        serving.sort_by_key(|(id, _)| leader != Some(*id));
        let addresses: Vec<String> = serving.into_iter().map(|(_, address)| address).collect();
        self.ctx.fence.check("changing the membership")?;
        let outcome = self
            .ctx
            .members
            .reconfigure(&addresses, &password, change)
            .await;
        match outcome {
            Err(ReconfigError::Refused(zookeeper_client::Error::NoAuth)) => {
                let secret = names::super_secret(&self.cluster.name);
                Err(BackendError::Refused(format!(
                    "the members do not take the password in Secret {secret}: it is not the one that they were started \
                     with; restart them with it by setting spec.restartedAt"
                )))
            }
            outcome => Ok(outcome?),
        }
    }

    async fn stop(&self, ids: &[ServerId]) -> Result<(), BackendError> {
        let mut outcome = Ok(());
        for id in ids {
            let stopped = self.delete_pod(*id).await;
            outcome = outcome.and(stopped);
        }
        outcome
    }

    async fn delete_pod(&self, id: ServerId) -> Result<(), BackendError> {
        let Some(pod) = self.pod_seen(id) else {
            return Ok(());
        };
        if pod.metadata.deletion_timestamp.is_some() {
            return Ok(());
        }
        if !self.owns(pod) {
            return Err(BackendError::Refused(format!(
                "pod {} is not this ensemble's",
                pod.name_any()
            )));
        }
        self.delete(pod).await
    }

    /// Gives up the home of a member: its data goes by policy, its configuration in any case.
    async fn retire(&self, id: ServerId, data: Retention) -> Result<(), BackendError> {
        if let Some(pod) = self.pod_seen(id) {
            let what = format!("giving up the data of member {id}");
            return Err(
                ApiError::outdated(what, format!("pod {} is still there", pod.name_any())).into(),
            );
        }
        match data {
            Retention::Delete => self.delete_claims(id).await?,
            Retention::Retain => self.give_up(id, names::SCALED_AWAY).await?,
        }
        self.delete_config(id).await
    }

    /// Records that a member does not come back, and why.
    async fn give_up(&self, id: ServerId, why: &str) -> Result<(), BackendError> {
        let claim = self.claim_seen(&names::data_claim(&self.cluster.name, id))?;
        self.annotate(claim, json!({ names::RETIRED: why })).await
    }

    /// Asks for the size that the manifest wants, where that is more.
    async fn grow(&self, observed: &Observed, id: ServerId) -> Result<(), BackendError> {
        let role = observed
            .members
            .get(&id)
            .map_or(Role::Observer, |member| member.role);
        for wanted in claim::claims(&self.ensemble, self.cluster, id, role, false) {
            let name = wanted.name_any();
            let claim = self.claim_seen(&name)?;
            let (now, wanted) = (requested(claim), requested(&wanted));
            let smaller = now
                .and_then(bytes)
                .zip(wanted.and_then(bytes))
                .is_some_and(|(now, wanted)| now < wanted);
            if smaller {
                let patch = json!({
                    "metadata": { "resourceVersion": claim.resource_version() },
                    "spec": { "resources": { "requests": { "storage": wanted } } },
                });
                self.patch_claim(&name, &patch).await?;
            }
        }
        Ok(())
    }

    /// The data goes last: while it is there, the member has a home, and what is left is found again.
    async fn delete_claims(&self, id: ServerId) -> Result<(), BackendError> {
        for name in [
            names::log_claim(&self.cluster.name, id),
            names::data_claim(&self.cluster.name, id),
        ] {
            let Ok(claim) = self.claim_seen(&name) else {
                continue;
            };
            if claim.metadata.deletion_timestamp.is_none() {
                self.delete(claim).await?;
            }
        }
        Ok(())
    }

    async fn delete_config(&self, id: ServerId) -> Result<(), BackendError> {
        let name = names::member(&self.cluster.name, id);
        let api: Api<ConfigMap> = self.api();
        let found = call(format!("reading ConfigMap {name}"), api.get_opt(&name)).await?;
        match found {
            Some(config) if self.owns(&config) => self.delete(&config).await,
            _ => Ok(()),
        }
    }

    /// Deletes exactly the object that was read.
    pub(super) async fn delete<K>(&self, object: &K) -> Result<(), BackendError>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
        K: Clone + DeserializeOwned + Debug,
    {
        let name = object.name_any();
        let params = DeleteParams::background().preconditions(Preconditions {
            uid: object.uid(),
            resource_version: object.resource_version(),
        });
        let api: Api<K> = self.api();
        let what = format!("deleting {} {name}", K::kind(&()));
        self.write(what, api.delete(&name, &params)).await?;
        Ok(())
    }

    /// The superuser's password; made the first time.
    async fn super_password(&self) -> Result<String, BackendError> {
        let name = names::super_secret(&self.cluster.name);
        let api: Api<Secret> = self.api();
        let what = format!("reading Secret {name}");
        if let Some(secret) = call(&what, api.get_opt(&name)).await? {
            return password_in(&secret);
        }
        let password = new_password().map_err(BackendError::io("making a password"))?;
        let mut secret = Secret::default();
        secret.metadata.name = Some(name.clone());
        secret.metadata.labels = Some(names::labels(&self.cluster.name));
        secret.metadata.owner_references = self
            .ensemble
            .controller_owner_ref(&())
            .map(|owner| vec![owner]);
        let bytes = ByteString(password.clone().into_bytes());
        secret.data = Some([(names::PASSWORD_KEY.to_owned(), bytes)].into());
        match self
            .write(
                format!("creating Secret {name}"),
                api.create(&post(), &secret),
            )
            .await
        {
            Ok(_) => Ok(password),
            Err(error) if error.class == Class::Outdated => {
                password_in(&call(what, api.get(&name)).await?)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// The member's pod, as it was read.
    fn pod_seen(&self, id: ServerId) -> Option<&Pod> {
        let name = names::member(&self.cluster.name, id);
        let mut pods = self.seen.pods.iter();
        pods.find(|pod| pod.metadata.name.as_ref() == Some(&name))
            .map(AsRef::as_ref)
    }

    /// A claim of this ensemble, as it was read.
    fn claim_seen(&self, name: &str) -> Result<&PersistentVolumeClaim, ApiError> {
        let own = |claim: &PersistentVolumeClaim| {
            claim.metadata.name.as_deref() == Some(name)
                && claim.labels().get(names::ENSEMBLE_UID) == self.ensemble.uid().as_ref()
        };
        let mut claims = self.seen.claims.iter();
        let found = claims.find(|claim| own(claim)).map(AsRef::as_ref);
        found.ok_or_else(|| {
            ApiError::outdated(format!("looking for claim {name}"), "it is not there")
        })
    }

    /// Whether this very ensemble controls an object.
    pub(super) fn owns(&self, object: &impl Resource) -> bool {
        let mut owners = object.meta().owner_references.iter().flatten();
        let uid = self.ensemble.metadata.uid.as_ref();
        owners.any(|owner| owner.controller == Some(true) && Some(&owner.uid) == uid)
    }
}

/// The size that a claim asks for.
fn requested(claim: &PersistentVolumeClaim) -> Option<&Quantity> {
    claim
        .spec
        .as_ref()?
        .resources
        .as_ref()?
        .requests
        .as_ref()?
        .get("storage")
}

fn password_in(secret: &Secret) -> Result<String, BackendError> {
    let data = secret
        .data
        .as_ref()
        .and_then(|data| data.get(names::PASSWORD_KEY));
    let password = data.and_then(|data| String::from_utf8(data.0.clone()).ok());
    password.filter(|password| !password.is_empty()).ok_or_else(|| {
        let name = secret.name_any();
        let key = names::PASSWORD_KEY;
        BackendError::Refused(format!("Secret {name} has no key {key:?}: restore it, or delete the Secret to have a new one made"))
    })
}

fn post() -> PostParams {
    PostParams {
        field_manager: Some(names::FIELD_MANAGER.into()),
        ..PostParams::default()
    }
}

fn patch_params() -> PatchParams {
    PatchParams::apply(names::FIELD_MANAGER)
}
