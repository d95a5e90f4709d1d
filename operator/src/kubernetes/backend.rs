//! `observe` and `publish` for pods of a Kubernetes cluster.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::future::join_all;
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim, Pod};
use kube::api::{ListParams, PostParams};
use kube::core::NamespaceResourceScope;
use kube::{Api, Resource, ResourceExt};

use crate::backend::{Backend, BackendError};
use crate::cluster::{Cluster, ServerId};
use crate::crd::{ZooKeeperEnsemble, ZooKeeperEnsembleStatus};
use crate::desired::Desired;
use crate::ensemble::Told;
use crate::observed::Observed;
use crate::plan::Step;
use crate::status::{Now, blocked, worth_writing};

use super::api::{ApiError, call};
use super::context::{Context, Memory};
use super::events::News;
use super::members::Members;
use super::names;
use super::seen::{self, Seen};

/// One ensemble, for one pass.
pub(super) struct KubernetesBackend<'a, M> {
    pub(super) ctx: &'a Context<M>,
    pub(super) ensemble: Arc<ZooKeeperEnsemble>,
    pub(super) cluster: &'a Cluster,
    pub(super) desired: &'a Desired,
    /// What is wrong with the manifest, while an older one stays in force.
    pub(super) problems: Option<&'a str>,
    /// What the caches show, or what was read live.
    pub(super) seen: Seen,
    pub(super) memory: &'a mut Memory,
    pub(super) now: Now,
    /// What was observed already.
    pub(super) observed: Option<Observed>,
}

impl<M: Members> KubernetesBackend<'_, M> {
    /// A typed way to the objects of the ensemble's namespace.
    pub(super) fn api<K>(&self) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        Api::namespaced(self.ctx.client.clone(), &self.cluster.namespace)
    }

    /// A call that changes something.
    pub(super) async fn write<T>(
        &self,
        what: String,
        request: impl Future<Output = Result<T, kube::Error>>,
    ) -> Result<T, ApiError> {
        self.ctx.fence.check(&what)?;
        call(what, request).await
    }

    /// Observes; says so in the status when what is there contradicts itself.
    pub(super) async fn observe_or_halt(&mut self) -> Result<Observed, BackendError> {
        let observed = self.observe().await;
        if let Err(BackendError::Contradiction(words)) = &observed {
            let before = self.ensemble.status.clone().unwrap_or_default();
            let generation = self.ensemble.metadata.generation;
            let status = blocked(&before, generation, "Contradiction", words, self.now);
            write_status(self.ctx, &self.ensemble, self.memory, &status, self.now).await?;
        }
        observed
    }

    /// Tells people of what changed from one status to the next.
    async fn tell_changes(
        &self,
        before: &ZooKeeperEnsembleStatus,
        status: &ZooKeeperEnsembleStatus,
    ) {
        let (was, is) = (before.leader_changes, status.leader_changes);
        let leader = status
            .leader
            .map_or("no member".into(), |id| format!("member {id}"));
        let note = |how: &str| {
            let epoch = status.epoch.unwrap_or_default();
            format!("{leader} leads, in epoch {epoch}; the change was {how}")
        };
        let changes = [
            (is.planned > was.planned, false, "planned"),
            (is.unplanned > was.unplanned, true, "not planned"),
        ];
        for (_, warns, how) in changes.into_iter().filter(|(changed, ..)| *changed) {
            let news = News {
                warns,
                reason: if warns { "LeaderLost" } else { "LeaderMoved" },
                action: "Elect",
                note: note(how),
                member: status.leader.map(ServerId),
            };
            self.ctx.events.tell(&self.ensemble, news).await;
        }
        let stalled = |status: &ZooKeeperEnsembleStatus| {
            let mut conditions = status.conditions.iter();
            conditions
                .find(|it| it.type_ == "Stalled" && it.status == "True")
                .cloned()
        };
        if let (None, Some(condition)) = (stalled(before), stalled(status)) {
            let news = News {
                warns: true,
                reason: "Stalled",
                action: "Wait",
                note: format!("{}: {}", condition.reason, condition.message),
                member: None,
            };
            self.ctx.events.tell(&self.ensemble, news).await;
        }
    }
}

impl<M: Members> Backend for KubernetesBackend<'_, M> {
    async fn observe(&mut self) -> Result<Observed, BackendError> {
        if let Some(observed) = &self.observed {
            return Ok(observed.clone());
        }
        let addresses = seen::ask_at(&self.seen);
        let asked = addresses.iter().map(async |(id, address)| {
            let told = self.ctx.members.ask(address).await;
            told.map(|told| (*id, told))
        });
        let told: BTreeMap<ServerId, Told> = join_all(asked).await.into_iter().flatten().collect();
        let observed = seen::observed(
            &self.ensemble,
            self.cluster,
            self.desired,
            &self.ctx.settings,
            &self.seen,
            &told,
            self.now,
        );
        let observed = observed.map_err(|error| BackendError::Contradiction(error.to_string()))?;
        self.observed = Some(observed.clone());
        Ok(observed)
    }

    async fn publish(&mut self, status: &ZooKeeperEnsembleStatus) -> Result<(), BackendError> {
        let before = self.ensemble.status.clone().unwrap_or_default();
        let wrong = self.problems.map(|problems| {
            let words =
                format!("the manifest is wrong, and the one before stays in force: {problems}");
            let generation = self.ensemble.metadata.generation;
            with_wrong_manifest(status, &before, generation, &words, self.now)
        });
        let status = wrong.as_ref().unwrap_or(status);
        let written = write_status(self.ctx, &self.ensemble, self.memory, status, self.now).await?;
        if let Some(written) = written {
            self.ensemble = written;
            self.tell_changes(&before, status).await;
        }
        Ok(())
    }

    async fn execute(
        &mut self,
        _: &Cluster,
        _: &Desired,
        observed: &Observed,
        step: &Step,
    ) -> Result<(), BackendError> {
        self.tell_step(step).await;
        self.ctx.crash.before(step.kind());
        self.take(observed, step).await?;
        self.ctx.crash.after(step.kind());
        Ok(())
    }
}

/// Writes a status that is worth it; gives the object that came of it. Compare and set: what somebody else has
/// written since is looked at first.
pub(super) async fn write_status<M>(
    ctx: &Context<M>,
    ensemble: &Arc<ZooKeeperEnsemble>,
    memory: &mut Memory,
    status: &ZooKeeperEnsembleStatus,
    now: Now,
) -> Result<Option<Arc<ZooKeeperEnsemble>>, ApiError> {
    let before = ensemble.status.as_ref();
    if before.is_some_and(|before| !worth_writing(before, status, now)) {
        return Ok(None);
    }
    let mut object = ZooKeeperEnsemble::clone(ensemble);
    object.metadata.managed_fields = None;
    object.status = Some(status.clone());
    let name = ensemble.name_any();
    let namespace = ensemble.namespace().unwrap_or_default();
    let api: Api<ZooKeeperEnsemble> = Api::namespaced(ctx.client.clone(), &namespace);
    let post = PostParams {
        field_manager: Some(names::FIELD_MANAGER.into()),
        ..PostParams::default()
    };
    let what = format!("writing the status of {name}");
    ctx.fence.check(&what)?;
    let written = Arc::new(call(what, api.replace_status(&name, &post, &object)).await?);
    memory.written.note(ensemble, Arc::clone(&written));
    Ok(Some(written))
}

/// What is there now, read from the API server itself: the object, its pods, claims and ConfigMaps.
pub(super) async fn read_live<M>(
    ctx: &Context<M>,
    ensemble: &ZooKeeperEnsemble,
    nodes: &Seen,
) -> Result<(Arc<ZooKeeperEnsemble>, Seen), ApiError> {
    let (name, namespace) = (
        ensemble.name_any(),
        ensemble.namespace().unwrap_or_default(),
    );
    let what = format!("reading {name}");
    let ensembles: Api<ZooKeeperEnsemble> = Api::namespaced(ctx.client.clone(), &namespace);
    let live = call(&what, ensembles.get(&name)).await?;
    if live.uid() != ensemble.uid() {
        return Err(ApiError::outdated(
            what,
            "it is another one of the same name",
        ));
    }
    let select = ListParams::default().labels(&names::selector_text(&name, None));
    let pods: Api<Pod> = Api::namespaced(ctx.client.clone(), &namespace);
    let pods = call(format!("listing the pods of {name}"), pods.list(&select)).await?;
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(ctx.client.clone(), &namespace);
    let claims = call(
        format!("listing the claims of {name}"),
        claims.list(&select),
    )
    .await?;
    let configs: Api<ConfigMap> = Api::namespaced(ctx.client.clone(), &namespace);
    let configs = call(
        format!("listing the ConfigMaps of {name}"),
        configs.list(&select),
    )
    .await?;
    let seen = Seen {
        pods: pods.items.into_iter().map(Arc::new).collect(),
        claims: claims.items.into_iter().map(Arc::new).collect(),
        configs: configs.items.into_iter().map(Arc::new).collect(),
        nodes: nodes.nodes.clone(),
    };
    Ok((Arc::new(live), seen))
}

/// A status whose plan goes on by an older manifest, while the new one is wrong.
fn with_wrong_manifest(
    status: &ZooKeeperEnsembleStatus,
    before: &ZooKeeperEnsembleStatus,
    generation: Option<i64>,
    words: &str,
    now: Now,
) -> ZooKeeperEnsembleStatus {
    let refused = blocked(before, generation, INVALID_SPEC, words, now);
    let mut status = status.clone();
    status.observed_generation = generation;
    for condition in refused.conditions {
        let says_so = condition.reason == INVALID_SPEC;
        let mut all = status.conditions.iter_mut();
        if let Some(own) = all.find(|own| says_so && own.type_ == condition.type_) {
            *own = condition;
        }
    }
    status
}

/// Reason of the conditions while the manifest is wrong.
pub(super) const INVALID_SPEC: &str = "InvalidSpec";
