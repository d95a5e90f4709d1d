//! The ZooKeeper server process: sockets, disk and timers around `node_core`.
