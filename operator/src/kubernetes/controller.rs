//! The loop: whose turn it is, several ensembles at a time, one pass at a time for each.

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures::FutureExt;
use futures::future::LocalBoxFuture;
use futures::stream::{FuturesUnordered, StreamExt};
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::jiff::Timestamp;
use kube::core::error_boundary::InvalidObject;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::Instant;
use tracing::Instrument as _;

use crate::backend::BackendError;
use crate::crd::{API_VERSION, KIND};

use super::caches::{Caches, Poke};
use super::context::{Context, Memory, View};
use super::events::News;
use super::members::Members;
use super::metrics::Metrics;
use super::pass::{Outcome, pass, pause};
use super::queue::{Key, Queue};
use super::seen::Seen;
use super::web::Health;

/// Keeps all ensembles.
pub(super) struct Controller<'a, M> {
    pub(super) ctx: &'a Context<M>,
    pub(super) caches: &'a Caches,
    pub(super) metrics: &'a Metrics,
    pub(super) health: &'a Health,
    /// Passes at a time.
    pub(super) concurrency: usize,
}

/// A pass that is over.
struct Done {
    key: Key,
    memory: Memory,
    pause: Duration,
}

impl<'a, M: Members> Controller<'a, M> {
    /// Runs until `stop` is done; then the passes that have begun go on to their end.
    pub(super) async fn run(
        &self,
        mut pokes: UnboundedReceiver<Poke>,
        stop: impl Future<Output = ()>,
    ) {
        let mut stop = std::pin::pin!(stop);
        let mut queue = Queue::new();
        let mut running: FuturesUnordered<LocalBoxFuture<'a, Done>> = FuturesUnordered::new();
        let mut unreadable = BTreeMap::new();
        loop {
            while running.len() < self.concurrency {
                let Some((key, memory)) = queue.take(Instant::now()) else {
                    break;
                };
                match self.begin(key.clone(), memory, &mut unreadable).await {
                    Some(pass) => running.push(pass),
                    None => queue.forget(&key),
                }
            }
            let due = queue.due().filter(|_| running.len() < self.concurrency);
            // The beat is told at least this often.
            let wake = due
                .unwrap_or_else(|| Instant::now() + BEAT)
                .min(Instant::now() + BEAT);
            self.health.beat();
            tokio::select! {
                Some(poke) = pokes.recv() => self.poke(&mut queue, poke),
                Some(done) = running.next() => {
                    let now = Instant::now();
                    queue.give_back(&done.key, done.memory, now, done.pause, GAP.min(done.pause));
                }
                () = tokio::time::sleep_until(wake) => {}
                () = &mut stop => break,
            }
        }
        tracing::info!(
            passes = running.len(),
            "stopping once these passes are over"
        );
        while running.next().await.is_some() {}
    }

    fn poke(&self, queue: &mut Queue<Memory>, poke: Poke) {
        let now = Instant::now();
        match poke {
            Poke::One(key) => queue.poke(key, now),
            Poke::All => {
                for key in self.caches.keys() {
                    queue.poke(key, now);
                }
            }
        }
    }

    /// Begins a pass; none when the ensemble is no more, or cannot be read.
    async fn begin(
        &self,
        key: Key,
        memory: Memory,
        unreadable: &mut BTreeMap<Key, String>,
    ) -> Option<LocalBoxFuture<'a, Done>> {
        let Some(guarded) = self.caches.ensemble(&key) else {
            self.metrics.forget(&key);
            unreadable.remove(&key);
            return None;
        };
        let ensemble = match &guarded.0 {
            Ok(ensemble) => std::sync::Arc::new(ensemble.clone()),
            Err(invalid) => {
                self.tell_unreadable(&key, invalid, unreadable).await;
                return None;
            }
        };
        unreadable.remove(&key);
        let view = View {
            seen: Seen {
                pods: self.caches.pods(&key),
                claims: self.caches.claims(&key),
                configs: self.caches.config_maps(&key),
                nodes: self.caches.nodes(),
            },
            owned: self.caches.owned(&key),
        };
        let span = tracing::info_span!(
            "pass",
            namespace = key.namespace,
            ensemble = key.name,
            step = tracing::field::Empty
        );
        let (ctx, metrics) = (self.ctx, self.metrics);
        let turn = async move {
            let mut memory = memory;
            let begun = Instant::now();
            let now = Timestamp::now();
            let work = AssertUnwindSafe(pass(ctx, ensemble, view, &mut memory, now)).catch_unwind();
            let outcome = work.await.unwrap_or_else(|_| {
                // One ensemble must not take the others with it.
                Err(BackendError::Refused(
                    "the operator has a bug; its log has the place".into(),
                ))
            });
            metrics.pass_took(begun.elapsed());
            note(metrics, &outcome, now);
            let pause = pause(&outcome, &memory);
            Done { key, memory, pause }
        };
        Some(turn.instrument(span).boxed_local())
    }

    /// An object that this operator cannot read: told once for each version of it.
    async fn tell_unreadable(
        &self,
        key: &Key,
        invalid: &InvalidObject,
        unreadable: &mut BTreeMap<Key, String>,
    ) {
        let version = invalid
            .metadata
            .resource_version
            .clone()
            .unwrap_or_default();
        if unreadable.insert(key.clone(), version.clone()) == Some(version) {
            return;
        }
        let error = &invalid.error;
        tracing::warn!(namespace = key.namespace, ensemble = key.name, %error, "this object cannot be read");
        let reference = ObjectReference {
            api_version: Some(API_VERSION.into()),
            kind: Some(KIND.into()),
            namespace: Some(key.namespace.clone()),
            name: Some(key.name.clone()),
            uid: invalid.metadata.uid.clone(),
            ..ObjectReference::default()
        };
        let news = News {
            warns: true,
            reason: "Unreadable",
            action: "Read",
            note: format!(
                "this operator cannot read the object, and leaves it alone: {error}; do the CRD and the operator have the same version?"
            ),
            member: None,
        };
        self.ctx.events.tell_of(&reference, news).await;
    }
}

/// Counts what a pass did.
fn note(metrics: &Metrics, outcome: &Result<Outcome, BackendError>, now: Timestamp) {
    let failed = |error: &BackendError| metrics.pass_failed(error.class().name());
    match outcome {
        Err(error) => failed(error),
        Ok(outcome) => {
            if let (Some(step), Some(done)) = (&outcome.plan.next, &outcome.done) {
                metrics.step(step.kind(), done.is_ok());
            }
            let step = outcome.done.as_ref().and_then(|done| done.as_ref().err());
            step.into_iter().chain(&outcome.shared).for_each(failed);
            if let Some(cluster) = &outcome.cluster {
                metrics.show(cluster, &outcome.status, outcome.voters, now);
            }
        }
    }
}

/// What happens in bursts is looked at once.
const GAP: Duration = Duration::from_millis(200);
const BEAT: Duration = Duration::from_secs(5);
