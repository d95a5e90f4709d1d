//! What goes over the wire and into the log, as types. After this module, bytes that are no valid message do not exist.

pub mod data;

pub mod code;

pub mod client;

pub mod multi;

pub mod txn;
