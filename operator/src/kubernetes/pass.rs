//! One pass over one ensemble.
//!
//! The caches only tell when there is something to do. Before a step is taken, the object, its pods and its claims
//! are read live and the plan is made anew: what is done never rests on what a cache showed.

use std::sync::Arc;
use std::time::Duration;

use crate::backend::{Backend as _, BackendError, Class};
use crate::cluster::Cluster;
use crate::crd::{ZooKeeperEnsemble, ZooKeeperEnsembleStatus};
use crate::desired::{Desired, desired};
use crate::plan::{self, Plan};
use crate::reconcile;
use crate::safety;
use crate::status::{Now, blocked};
use crate::validate::validate;

use super::backend::{INVALID_SPEC, KubernetesBackend, read_live, write_status};
use super::context::{Context, Memory, View};
use super::events::News;
use super::members::Members;
use super::metrics::Voters;
use super::shared::Owned;

/// What a pass found and did.
#[derive(Debug, Default)]
pub struct Outcome {
    /// What the manifest asks for; none when there is nothing to do for it: it is being deleted, or was never valid.
    pub cluster: Option<Cluster>,
    /// The plan; its `next` was carried out.
    pub plan: Plan,
    /// The status as it was last written.
    pub status: ZooKeeperEnsembleStatus,
    /// How the step ended; none when there was none.
    pub done: Option<Result<(), BackendError>>,
    /// What went wrong with the objects that all members share.
    pub shared: Option<BackendError>,
    /// Numbers of voters, for the metrics.
    pub voters: Voters,
}

impl Outcome {
    /// What went wrong.
    fn error(&self) -> Option<&BackendError> {
        let step = self.done.as_ref().and_then(|done| done.as_ref().err());
        step.or(self.shared.as_ref())
    }
}

/// Looks at one ensemble and takes at most one step.
pub async fn pass<M: Members>(
    ctx: &Context<M>,
    ensemble: Arc<ZooKeeperEnsemble>,
    view: View,
    memory: &mut Memory,
    now: Now,
) -> Result<Outcome, BackendError> {
    if memory.uid != ensemble.metadata.uid {
        // Another one of the same name.
        *memory = Memory::default();
        memory.uid.clone_from(&ensemble.metadata.uid);
    }
    let ensemble = memory.written.newest(ensemble);
    if ensemble.metadata.deletion_timestamp.is_some() {
        // What it owns goes with it, without help.
        return Ok(Outcome::default());
    }
    let outcome = attempt(ctx, Arc::clone(&ensemble), view, memory, now).await;
    let error = match &outcome {
        Ok(outcome) => outcome.error(),
        Err(error) => Some(error),
    };
    note_trouble(ctx, &ensemble, memory, error).await;
    outcome
}

/// How long to wait for the next pass, if nothing happens before that.
pub fn pause(outcome: &Result<Outcome, BackendError>, memory: &Memory) -> Duration {
    let error = match outcome {
        Ok(outcome) => outcome.error(),
        Err(error) => Some(error),
    };
    match (error.map(BackendError::class), outcome) {
        (Some(Class::Outdated | Class::Deposed), _) => PAUSE_OUTDATED,
        (Some(_), _) => {
            let doublings = memory.failures.saturating_sub(1).min(6);
            (PAUSE_ERROR * 2_u32.pow(doublings)).min(PAUSE_ERROR_MAX)
        }
        (None, Ok(outcome)) if outcome.done.is_some() => PAUSE_STEP,
        (None, Ok(outcome)) if outcome.plan.waiting.is_some() => PAUSE_WAITING,
        (None, _) => PAUSE_AT_REST,
    }
}

async fn attempt<M: Members>(
    ctx: &Context<M>,
    ensemble: Arc<ZooKeeperEnsemble>,
    view: View,
    memory: &mut Memory,
    now: Now,
) -> Result<Outcome, BackendError> {
    let View { seen, owned } = view;
    let wanted = wanted(ctx, &ensemble, memory);
    let Some((cluster, desired)) = &wanted.manifest else {
        return halt(ctx, ensemble, memory, now, &wanted).await;
    };
    {
        let mut glance = KubernetesBackend {
            ctx,
            ensemble: Arc::clone(&ensemble),
            cluster,
            desired,
            problems: wanted.problems.as_deref(),
            seen: seen.clone(),
            memory: &mut *memory,
            now,
            observed: None,
        };
        let observed = glance.observe_or_halt().await?;
        if plan::next(cluster, desired, &observed).next.is_none() {
            return finish(glance, &owned).await;
        }
    }
    let (live, seen) = read_live(ctx, &ensemble, &seen).await?;
    if live.metadata.deletion_timestamp.is_some() {
        return Ok(Outcome::default());
    }
    let wanted = self::wanted(ctx, &live, memory);
    let Some((cluster, desired)) = &wanted.manifest else {
        return halt(ctx, live, memory, now, &wanted).await;
    };
    let mut certain = KubernetesBackend {
        ctx,
        ensemble: live,
        cluster,
        desired,
        problems: wanted.problems.as_deref(),
        seen,
        memory,
        now,
        observed: None,
    };
    certain.observe_or_halt().await?;
    finish(certain, &owned).await
}

/// What a manifest asks for.
struct Wanted {
    /// Its own wishes, or those of the last valid one; none when there never was one.
    manifest: Option<(Cluster, Desired)>,
    /// What is wrong with it.
    problems: Option<String>,
}

/// A wrong manifest leaves the one before in force, so that its members are looked after.
fn wanted<M>(ctx: &Context<M>, ensemble: &ZooKeeperEnsemble, memory: &mut Memory) -> Wanted {
    let problems = match validate(ensemble) {
        Ok(cluster) => {
            memory.cluster = Some(ctx.settings.complete(cluster));
            None
        }
        Err(problems) => {
            let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
            Some(problems.join("; "))
        }
    };
    let manifest = memory.cluster.clone().map(|cluster| {
        let desired = desired(&cluster);
        (cluster, desired)
    });
    Wanted { manifest, problems }
}

/// Publishes, takes the step that the observation asks for, and keeps the shared objects.
async fn finish<M: Members>(
    mut backend: KubernetesBackend<'_, M>,
    owned: &Owned,
) -> Result<Outcome, BackendError> {
    let previous = backend.ensemble.status.clone().unwrap_or_default();
    let trouble = backend.memory.trouble.clone();
    let (cluster, now) = (backend.cluster, backend.now);
    let say = &mut |plan: &Plan| {
        if let Some(step) = &plan.next {
            tracing::Span::current().record("step", step.kind());
        }
        let words = plan.to_string();
        if previous.plan.summary != words {
            tracing::info!("{words}");
        }
    };
    let outcome = reconcile::pass(
        cluster,
        &mut backend,
        &previous,
        trouble.as_deref(),
        now,
        say,
    )
    .await?;
    if outcome.plan.next.is_none() {
        backend.memory.told_step = None;
    }
    let observed = backend.observe().await?;
    let shared = backend.keep_shared(&observed, owned).await.err();
    let committed = observed.committed.as_ref();
    Ok(Outcome {
        cluster: Some(cluster.clone()),
        plan: outcome.plan,
        status: outcome.status,
        done: outcome.done,
        shared,
        voters: Voters {
            committed: committed.map_or(0, |committed| committed.voters().count()),
            healthy: safety::healthy_voters(&observed),
        },
    })
}

/// Nothing can be done: says why.
async fn halt<M: Members>(
    ctx: &Context<M>,
    ensemble: Arc<ZooKeeperEnsemble>,
    memory: &mut Memory,
    now: Now,
    wanted: &Wanted,
) -> Result<Outcome, BackendError> {
    let words = wanted.problems.as_deref().unwrap_or_default();
    let before = ensemble.status.clone().unwrap_or_default();
    let generation = ensemble.metadata.generation;
    let status = blocked(&before, generation, INVALID_SPEC, words, now);
    write_status(ctx, &ensemble, memory, &status, now).await?;
    Err(BackendError::Refused(words.to_owned()))
}

/// Remembers what went wrong, and tells people the first time.
async fn note_trouble<M>(
    ctx: &Context<M>,
    ensemble: &ZooKeeperEnsemble,
    memory: &mut Memory,
    error: Option<&BackendError>,
) {
    let Some(error) = error else {
        memory.trouble = None;
        memory.told_trouble = None;
        memory.failures = 0;
        return;
    };
    let (class, words) = (error.class(), error.to_string());
    match class {
        Class::Outdated | Class::Deposed => {
            tracing::debug!(class = class.name(), "{words}");
            return;
        }
        _ if memory.trouble.as_ref() == Some(&words) => {
            tracing::debug!(class = class.name(), "still: {words}");
        }
        Class::Transport | Class::Refused | Class::Contradiction => {
            tracing::warn!(class = class.name(), "{words}");
        }
    }
    memory.failures = memory.failures.saturating_add(1);
    // One answer that was lost is not worth a word.
    let lasting = class != Class::Transport || memory.failures >= TELL_AFTER_FAILURES;
    if lasting && memory.told_trouble.as_ref() != Some(&words) {
        let news = News {
            warns: true,
            reason: reason_of(class),
            action: "Reconcile",
            note: words.clone(),
            member: None,
        };
        ctx.events.tell(ensemble, news).await;
        memory.told_trouble = Some(words.clone());
    }
    memory.trouble = Some(words);
}

fn reason_of(class: Class) -> &'static str {
    match class {
        Class::Contradiction => "Contradiction",
        Class::Transport => "NotReached",
        Class::Refused | Class::Outdated | Class::Deposed => "Refused",
    }
}

const TELL_AFTER_FAILURES: u32 = 3;
/// What was observed is not so any more: look again soon.
const PAUSE_OUTDATED: Duration = Duration::from_millis(500);
/// A step is under way: see what comes of it.
const PAUSE_STEP: Duration = Duration::from_millis(200);
/// Something is waited for that nothing may announce.
const PAUSE_WAITING: Duration = Duration::from_secs(1);
/// The members are asked; the API server is not.
const PAUSE_AT_REST: Duration = Duration::from_secs(5);
const PAUSE_ERROR: Duration = Duration::from_secs(1);
const PAUSE_ERROR_MAX: Duration = Duration::from_secs(60);
