//! `zookeeper-operator`: keeps ZooKeeper ensembles.
fn main() { print!("{}", operator::crd::crd_yaml()); }
