//! Tests on a real Kubernetes: any cluster that `KUBECONFIG` names, or this project's own (`e2e/cluster`).
//!
//! Everything goes by `kubectl` and `helm`, as a user would do it; what is read is JSON. Nothing here knows the
//! operator's types: the tests see what a user sees.

pub mod cluster;
pub mod ensemble;
pub mod fault;
pub mod forward;
pub mod load;
pub mod namespace;
pub mod operator;
pub mod pods;
pub mod program;
