//! What carries an ensemble: processes on this machine today, pods next.

use std::future::Future;

use thiserror::Error;

use crate::cluster::Cluster;
use crate::crd::ZooKeeperEnsembleStatus;
use crate::desired::Desired;
use crate::observed::Observed;
use crate::plan::Step;

/// The two sides of a reconciliation that touch the world, and the place where the status goes.
pub trait Backend {
    /// Reads everything that a plan needs.
    fn observe(&mut self) -> impl Future<Output = Result<Observed, BackendError>>;

    /// Writes the status; an equal one costs nothing.
    fn publish(&mut self, status: &ZooKeeperEnsembleStatus) -> Result<(), BackendError>;

    /// Carries out one step. It returns as soon as the step is under way; whether it succeeded is observed.
    fn execute(
        &mut self,
        cluster: &Cluster,
        desired: &Desired,
        observed: &Observed,
        step: &Step,
    ) -> impl Future<Output = Result<(), BackendError>>;
}

/// Why a backend could not do what it was asked.
#[derive(Debug, Error)]
pub enum BackendError {
    /// A file or a process.
    #[error("{what}: {error}")]
    Io {
        /// What was tried.
        what: String,
        /// What the system said.
        error: std::io::Error,
    },
    /// The ensemble refused or did not answer.
    #[error(transparent)]
    Reconfig(#[from] crate::client::ReconfigError),
    /// Something that a person has to put right.
    #[error("{0}")]
    Refused(String),
}

impl BackendError {
    /// Names what was tried when the system refused it.
    pub fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let what = what.into();
        move |error| Self::Io { what, error }
    }
}
