//! The ZooKeeper protocol as pure state machines: no I/O, no clock, no threads.
//!
//! Everything that happens comes in as a value, everything to be done goes out as a value, and time is an argument; so
//! a run repeats exactly, in the server as in the simulator.

pub mod jute;
pub mod zxid;

pub mod proto;

pub mod acl;
pub mod path;
pub mod tree;

pub mod read;
pub mod replica;
pub mod watch;

pub mod quorum;

pub mod election;

mod zab;

mod local;
mod timing;

pub mod effect;

pub mod peer;

pub mod prep;
pub mod session;

pub mod member;
