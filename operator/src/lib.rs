//! The operator: an ensemble from a manifest.
pub mod crd;
