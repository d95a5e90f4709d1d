//! The operator against a model of Kubernetes and of the ensemble: every scenario, with a crash after every request,
//! stale and gappy caches, refused and lost requests, two operators at once, and random changes of the spec.

#![allow(
    clippy::unwrap_used,
    reason = "a test that panics has failed, which is what it is for"
)]
#![allow(unreachable_pub)]

#[path = "../api_model/mod.rs"]
mod api_model;
mod chance;
mod manifest;
mod model;
mod permissions;
mod process;
mod rivals;
mod scenarios;
mod sim;
mod stories;
mod tally;
