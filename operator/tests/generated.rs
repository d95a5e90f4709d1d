//! Files that are made from the types and kept in the repository.

#![allow(
    clippy::unwrap_used,
    reason = "a test that panics has failed, which is what it is for"
)]

use std::path::Path;

#[test]
fn the_crd_file_equals_what_the_types_give() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../crds/zookeeperensembles.zookeeper.ensemble.dev.yaml");
    expect_test::expect_file![file].assert_eq(&operator::crd::crd_yaml());
}

#[test]
fn every_example_manifest_is_valid() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../e2e/manifests");
    let mut count = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        let cluster =
            operator::validate::parse(&text).and_then(|it| operator::validate::validate(&it));
        assert!(cluster.is_ok(), "{}: {:?}", path.display(), cluster.err());
        count += 1;
    }
    assert!(count > 0);
}
