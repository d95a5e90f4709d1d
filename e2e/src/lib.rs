//! What the end-to-end tests and the benchmark share: real servers as processes, a client of our own, loads that keep
//! an acknowledgement log, and the checks that follow.
//!
//! Every test takes the kind of its servers as a parameter, so the same test judges Apache's server and ours.

pub mod ack;
pub mod check;
pub mod client;
pub mod config;
pub mod faults;
pub mod garbage;
pub mod generator;
pub mod histogram;
pub mod kube;
pub mod load;
pub mod operator;
pub mod outage;
pub mod python;
pub mod random;
pub mod report;
pub mod servers;
pub mod tools;
pub mod writers;
