//! What carries an ensemble: processes on this machine, or pods of a Kubernetes cluster.

use std::future::Future;

use thiserror::Error;

use crate::client::ReconfigError;
use crate::cluster::Cluster;
use crate::crd::ZooKeeperEnsembleStatus;
use crate::desired::Desired;
use crate::kubernetes::api::ApiError;
use crate::observed::Observed;
use crate::plan::Step;

/// The two sides of a reconciliation that touch the world, and the place where the status goes.
pub trait Backend {
    /// Reads everything that a plan needs.
    fn observe(&mut self) -> impl Future<Output = Result<Observed, BackendError>>;

    /// Writes the status; an equal one costs nothing.
    fn publish(
        &mut self,
        status: &ZooKeeperEnsembleStatus,
    ) -> impl Future<Output = Result<(), BackendError>>;

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
    Reconfig(#[from] ReconfigError),
    /// The API server refused, or did not answer.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// What is seen contradicts itself, so that no step can be known to be safe.
    #[error("{0}")]
    Contradiction(String),
    /// Something that a person has to put right.
    #[error("{0}")]
    Refused(String),
}

/// What to do about a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// The world is not what it was when it was observed: look again soon. Nothing is wrong.
    Outdated,
    /// No answer, or an answer that asks for patience: try again later.
    Transport,
    /// The answer was no, and will stay so until a person changes something.
    Refused,
    /// What is seen contradicts itself, so that no step can be known to be safe.
    Contradiction,
    /// This process may not act any more: another one holds the lease.
    Deposed,
}

impl Class {
    /// The class as metrics and logs name it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Outdated => "outdated",
            Self::Transport => "transport",
            Self::Refused => "refused",
            Self::Contradiction => "contradiction",
            Self::Deposed => "deposed",
        }
    }
}

impl BackendError {
    /// What to do about it.
    pub fn class(&self) -> Class {
        match self {
            Self::Api(error) => error.class,
            Self::Reconfig(ReconfigError::Outdated) => Class::Outdated,
            Self::Reconfig(ReconfigError::Refused(_)) => Class::Refused,
            Self::Reconfig(_) => Class::Transport,
            Self::Contradiction(_) => Class::Contradiction,
            Self::Io { .. } | Self::Refused(_) => Class::Refused,
        }
    }

    /// Names what was tried when the system refused it.
    pub fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let what = what.into();
        move |error| Self::Io { what, error }
    }
}
