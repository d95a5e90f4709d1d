//! Who belongs to the ensemble, and what a quorum of it is.

pub mod config;
pub mod verifier;
