//! The ZooKeeper server process: sockets, disk and timers around `node_core`.

pub mod serve;

pub mod config;
pub mod limits;
pub mod shared;

mod clients;
pub mod driver;
pub mod net;

pub mod disk;
mod patience;
pub mod storage;
pub mod store;

pub mod four_letter;
pub mod metrics;
pub mod probe;
pub mod status;
