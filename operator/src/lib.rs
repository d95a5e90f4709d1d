//! The operator: it keeps ZooKeeper ensembles as manifests ask for them.
//!
//! `observe → validate → desired → plan → execute → status`. Only `observe` and `execute` touch the world (a
//! [`backend`] does both); everything between them is a pure function of what was read.

pub mod crd;
pub mod validate;
pub mod cluster;
pub mod membership;
pub mod observed;
pub mod desired;
pub mod render;
pub mod safety;
pub mod plan;
