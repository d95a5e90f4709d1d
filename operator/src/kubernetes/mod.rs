//! An ensemble as pods of a Kubernetes cluster: what its objects look like, and what the cluster's objects say of it.
//! Pure, all of it: nothing here asks or writes.

pub mod api;
mod backend;
mod caches;
pub mod context;
mod controller;
pub mod events;
mod halted;
pub mod lease;
pub mod members;
pub mod metrics;
pub mod pass;
pub mod queue;
pub mod run;
pub mod shared;
mod steps;
pub mod traffic;
pub mod web;
