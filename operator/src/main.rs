//! `zookeeper-operator`: keeps ZooKeeper ensembles.
fn main() {}
