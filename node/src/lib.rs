//! The ZooKeeper server process: sockets, disk and timers around `node_core`.

pub mod config;
pub mod limits;
pub mod storage;
