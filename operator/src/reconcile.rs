//! One pass: observe, plan, say so, do it. The same for every backend.

use crate::backend::{Backend, BackendError};
use crate::cluster::Cluster;
use crate::crd::ZooKeeperEnsembleStatus;
use crate::desired::desired;
use crate::plan::{Plan, plan};
use crate::status::{self, Now};

/// What a pass found and did.
#[derive(Debug)]
pub struct Outcome {
    /// The plan; its `next` was carried out.
    pub plan: Plan,
    /// The status that was published before that.
    pub status: ZooKeeperEnsembleStatus,
    /// How the step ended; none when there was no step.
    pub done: Option<Result<(), BackendError>>,
}

/// Runs one pass. The status is published before the step is taken, so that the intent is on record.
pub async fn pass<B: Backend>(
    cluster: &Cluster,
    backend: &mut B,
    previous: &ZooKeeperEnsembleStatus,
    trouble: Option<&str>,
    now: Now,
    say: &mut dyn FnMut(&Plan),
) -> Result<Outcome, BackendError> {
    let observed = backend.observe().await?;
    let desired = desired(cluster);
    let plan = plan(cluster, &desired, &observed);
    let status = status::compute(cluster, &desired, &observed, &plan, previous, trouble, now);
    backend.publish(&status).await?;
    say(&plan);
    let done = match &plan.next {
        Some(step) => Some(backend.execute(cluster, &desired, &observed, step).await),
        None => None,
    };
    Ok(Outcome { plan, status, done })
}
