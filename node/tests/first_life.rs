//! What a crash leaves at the beginning of an epoch is no damage.

#![expect(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

use std::sync::Arc;

use node::storage::files::FileSystem;
use node::storage::simulated::{Keep, SimDisk};
use node::storage::txn_log::{LogOptions, TxnLog};
use node::store::{self, Opened, StoreOptions};
use node_core::proto::txn::{Txn, TxnEntry};
use node_core::standing::Standing;
use node_core::tree::TreeOptions;
use node_core::zxid::{Epoch, SessionId, Zxid};

fn options() -> StoreOptions {
    StoreOptions {
        data_dir: "/data".into(),
        data_log_dir: "/data".into(),
        autocreate: true,
        trust_empty_snapshot: false,
        trust_empty: Some(true),
        others: true,
        recent: 10,
        tree: TreeOptions::default(),
    }
}

fn log(opened: &mut Opened, zxid: Zxid) {
    let (dir, marks) = (opened.dirs.log_dir(), opened.marks.clone());
    let log = TxnLog::open(dir, LogOptions::default()).unwrap();
    let mut log = log.with_marks(marks).unwrap();
    let txn = Txn::Error { code: -1 };
    let entry = TxnEntry::new(SessionId(0), 0, zxid, 0, txn);
    log.append(zxid, &entry.encode());
    log.flush().unwrap();
}

/// Found by the simulator (its seed 1): an epoch that began without a transaction was taken for damage.
#[test]
fn an_epoch_without_a_transaction_is_no_damage() {
    let disk = SimDisk::new();
    let files: Arc<dyn FileSystem> = Arc::new(disk.clone());
    let mut first = store::open(&files, &options()).unwrap();
    first.epochs.save_accepted(Epoch(3)).unwrap();
    first.epochs.save_current(Epoch(3)).unwrap();
    drop(first);
    disk.crash(Keep::Nothing);
    let second = store::open(&files, &options()).unwrap();
    assert_eq!(second.standing, Standing::Whole);
    assert_eq!(second.epochs.epochs().current, Epoch(3));
}

/// Found by the simulator (its seed 12): a follower that crashed while it took over an epoch's history.
#[test]
fn transactions_of_a_promised_epoch_are_no_damage() {
    let disk = SimDisk::new();
    let files: Arc<dyn FileSystem> = Arc::new(disk.clone());
    let mut first = store::open(&files, &options()).unwrap();
    first.epochs.save_accepted(Epoch(1)).unwrap();
    log(&mut first, Epoch(1).start().next().unwrap());
    drop(first);
    disk.crash(Keep::Nothing);
    let second = store::open(&files, &options()).unwrap();
    assert_eq!(second.standing, Standing::Whole);
    let epochs = second.epochs.epochs();
    assert_eq!((epochs.accepted, epochs.current), (Epoch(1), Epoch(0)));
    assert_eq!(second.replica.last_zxid(), Zxid(1 << 32 | 1));
}
