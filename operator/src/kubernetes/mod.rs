//! Ensembles on Kubernetes.

pub mod api;
pub mod lease;
pub mod members;
pub mod metrics;
pub mod queue;
pub mod traffic;
pub mod web;
