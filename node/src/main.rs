//! `zookeeper-node`: one ZooKeeper server.
fn main() {}
