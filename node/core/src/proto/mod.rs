//! What goes over the wire and into the log, as types. After this module, bytes that are no valid message do not exist.

pub mod data;
pub mod election;
pub mod quorum;
