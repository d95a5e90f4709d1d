//! A Kubernetes without machines: an API server, the controllers and kubelets that matter here, and the ensemble that
//! runs in the pods. One thread, no clock of its own, no chance: the same calls give the same world.

#![allow(unreachable_pub)]

mod apply;
mod cache;
mod defaults;
mod ensemble;
mod http;
mod kubelet;
mod random;
mod report;
mod safety;
mod store;
mod world;

pub use cache::Cache;
pub use defaults::bytes;
pub use ensemble::Server;
pub use http::{Api, Life, calls};
pub use random::Random;
pub use store::{CUSTOM, Key};
pub use world::{Crash, Shared, Trouble, World};
