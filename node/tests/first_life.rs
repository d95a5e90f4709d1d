//! A new server's first life leaves a disk that its second one trusts.

#![expect(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

use std::sync::Arc;

use node::storage::files::FileSystem;
use node::storage::simulated::{Keep, SimDisk};
use node::store::{self, StoreOptions};
use node_core::standing::Standing;
use node_core::tree::TreeOptions;
use node_core::zxid::Epoch;

/// Found by the simulator (its seed 1): an epoch that began without a transaction was taken for damage.
#[test]
fn an_epoch_without_a_transaction_is_no_damage() {
    let disk = SimDisk::new();
    let files: Arc<dyn FileSystem> = Arc::new(disk.clone());
    let options = StoreOptions {
        data_dir: "/data".into(),
        data_log_dir: "/data".into(),
        autocreate: true,
        trust_empty_snapshot: false,
        trust_empty: Some(true),
        others: true,
        recent: 10,
        tree: TreeOptions::default(),
    };
    let mut first = store::open(&files, &options).unwrap();
    first.epochs.save_accepted(Epoch(3)).unwrap();
    first.epochs.save_current(Epoch(3)).unwrap();
    drop(first);
    disk.crash(Keep::Nothing);
    let second = store::open(&files, &options).unwrap();
    assert_eq!(second.standing, Standing::Whole);
    assert_eq!(second.epochs.epochs().current, Epoch(3));
}
