//! The operator: an ensemble from a manifest.
