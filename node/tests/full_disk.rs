//! A disk without room: what is refused, what waits, and what needs none.

#![expect(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use bytes::Bytes;
use node::storage::ends;
use node::storage::epoch::EpochFiles;
use node::storage::files::{Dir, FileSystem};
use node::storage::log_reader::LogReader;
use node::storage::log_writer::{DiskState, LogEvent, LogWriter};
use node::storage::marks::{Known, Marks};
use node::storage::simulated::{Keep, SimDisk};
use node::storage::snapshot::{SnapshotTrailer, SnapshotWriter};
use node::storage::txn_log::{LogOptions, TxnLog};
use node::store::{self, StoreOptions};
use node_core::tree::TreeOptions;
use node_core::zxid::{Epoch, Zxid};

const PATIENCE: Duration = Duration::from_secs(30);

fn disk() -> (SimDisk, Dir) {
    let disk = SimDisk::new();
    disk.create_dir_all(Path::new("/d")).unwrap();
    let dir = disk.dir("/d");
    (disk, dir)
}

fn txn(zxid: i64) -> Bytes {
    let mut txn = vec![0; 40];
    txn[12..20].copy_from_slice(&zxid.to_be_bytes());
    Bytes::from(txn)
}

/// A log whose files are full after a transaction.
fn log(dir: &Dir) -> TxnLog {
    let marks = Marks::create(dir, Known::default()).unwrap();
    let options = LogOptions {
        preallocate_bytes: 0,
        force_sync: true,
        roll_at_bytes: Some(60),
    };
    TxnLog::open(dir, options)
        .unwrap()
        .with_marks(marks)
        .unwrap()
}

fn start(dir: &Dir) -> (LogWriter, Receiver<LogEvent>) {
    let (report, events) = channel();
    let report = move |event| report.send(event).unwrap_or(());
    let slow = Duration::from_secs(1);
    let log = LogWriter::start(log(dir), dir.clone(), slow, report).unwrap();
    (log, events)
}

fn expect(events: &Receiver<LogEvent>, wanted: &str) {
    let event = format!("{:?}", events.recv_timeout(PATIENCE).unwrap());
    assert!(event.starts_with(wanted), "{event} where {wanted} was due");
}

fn read(dir: &Dir) -> Vec<Zxid> {
    let records = LogReader::open(dir, Zxid::ZERO).unwrap();
    records.map(|record| record.unwrap().zxid).collect()
}

#[test]
fn whatever_the_log_is_at_when_the_disk_is_full_goes_on_when_there_is_room() {
    let (disk, dir) = disk();
    let empty = SnapshotWriter::create(&dir, Zxid::ZERO).unwrap();
    empty.finish(SnapshotTrailer::default()).unwrap();
    let (log, events) = start(&dir);
    for zxid in 1..=3 {
        log.append(Zxid(zxid), txn(zxid));
        log.barrier(0);
        expect(&events, &format!("Flushed({:?})", Zxid(zxid)));
        expect(&events, "Barrier");
    }
    // A file that ends is noted before the next one begins, and that needs room as well.
    for left in [0, 20, 40, 60] {
        disk.fill(left);
        log.append(Zxid(4), txn(4));
        expect(&events, "Full(true)");
        assert_eq!(log.stats().disk_state(), DiskState::Full);
        disk.set_faults(|faults| faults.capacity = None);
        expect(&events, "Full(false)");
        expect(&events, "Flushed(0x4)");
        log.append(Zxid(5), txn(5));
        expect(&events, "Flushed(0x5)");
        disk.fill(0);
        log.truncate(Zxid(3));
        expect(&events, "Full(true)");
        disk.set_faults(|faults| faults.capacity = None);
        expect(&events, "Full(false)");
        expect(&events, "Truncated(0x3)");
        assert_eq!(read(&dir), [1, 2, 3].map(Zxid), "with {left} bytes left");
    }
    let snapshot = SnapshotWriter::create_new(&dir, Zxid(9)).unwrap();
    snapshot.finish(SnapshotTrailer::default()).unwrap();
    disk.fill(0);
    log.install(Zxid(9));
    expect(&events, "Full(true)");
    disk.set_faults(|faults| faults.capacity = None);
    expect(&events, "Full(false)");
    expect(&events, "Installed(0x9)");
    assert_eq!(log.stats().disk_state(), DiskState::Works);
    log.append(Zxid(10), txn(10));
    log.stop();
    disk.crash(Keep::Nothing);
    assert_eq!(read(&dir), [Zxid(10)]);
}

#[test]
fn a_disk_that_hangs_is_told_after_a_while_and_works_again() {
    let (disk, dir) = disk();
    let (log, events) = start(&dir);
    disk.set_faults(|faults| faults.hangs = true);
    log.append(Zxid(1), txn(1));
    let stuck_at = loop {
        if let Some(at) = log.stats().stuck_at() {
            break at;
        }
        std::thread::yield_now();
    };
    assert_eq!(log.stats().disk_state(), DiskState::Works);
    assert!(
        events
            .recv_timeout(stuck_at - std::time::Instant::now())
            .is_err()
    );
    assert_eq!(log.stats().disk_state(), DiskState::Stuck);
    disk.set_faults(|faults| faults.hangs = false);
    expect(&events, "Flushed(0x1)");
    log.barrier(0);
    expect(&events, "Barrier");
    assert_eq!(log.stats().disk_state(), DiskState::Works);
}

#[test]
fn epochs_need_no_room_and_their_files_follow() {
    let (disk, dir) = disk();
    let marks = Marks::create(&dir, Known::default()).unwrap();
    let files = EpochFiles::open(&dir, Zxid::ZERO, Some(&marks)).unwrap();
    let mut files = files.with_marks(&marks).unwrap();
    disk.fill(0);
    files.save_accepted(Epoch(5)).unwrap();
    files.save_current(Epoch(5)).unwrap();
    assert!(files.is_behind());
    files.catch_up().unwrap();
    assert!(files.is_behind());
    let after = disk.duplicate();
    after.crash(Keep::Nothing);
    let reopen = |disk: &SimDisk| {
        let dir = disk.dir("/d");
        let known = node::storage::marks::read(&dir).unwrap().unwrap();
        let marks = Marks::create(&dir, known).unwrap();
        EpochFiles::open(&dir, Zxid::ZERO, Some(&marks))
            .unwrap()
            .epochs()
    };
    // There is no room for the next start either.
    after.fill(0);
    let epochs = reopen(&after);
    assert_eq!((epochs.accepted, epochs.current), (Epoch(5), Epoch(5)));
    assert_eq!(after.content(&dir.join("acceptedEpoch")).unwrap(), b"0");
    disk.set_faults(|faults| faults.capacity = None);
    files.catch_up().unwrap();
    assert!(!files.is_behind());
    for name in ["acceptedEpoch", "currentEpoch"] {
        assert_eq!(disk.content(&dir.join(name)).unwrap(), b"5");
    }
}

#[test]
fn without_room_a_snapshot_is_given_up_and_leaves_nothing() {
    let (disk, dir) = disk();
    disk.fill(1000);
    let mut snapshot = SnapshotWriter::create(&dir, Zxid(7)).unwrap();
    let error = (0..1000)
        .find_map(|_| snapshot.write(&[1; 1000]).err())
        .unwrap();
    assert!(error.is_full(), "{error}");
    drop(snapshot);
    assert_eq!(disk.paths(), [] as [&Path; 0]);
}

#[test]
fn a_start_needs_no_room() {
    let disk = SimDisk::new();
    let files: Arc<dyn FileSystem> = Arc::new(disk.clone());
    let options = StoreOptions {
        data_dir: "/data".into(),
        data_log_dir: "/data".into(),
        autocreate: true,
        trust_empty_snapshot: false,
        trust_empty: Some(true),
        others: false,
        recent: 10,
        tree: TreeOptions::default(),
    };
    disk.fill(0);
    assert!(store::open(&files, &options).unwrap_err().is_full());
    disk.set_faults(|faults| faults.capacity = None);
    for life in 1..4 {
        let mut opened = store::open(&files, &options).unwrap();
        let log = TxnLog::open(opened.dirs.log_dir(), LogOptions::default()).unwrap();
        let mut log = log.with_marks(opened.marks).unwrap();
        opened.epochs.save_accepted(Epoch(life)).unwrap();
        opened.epochs.save_current(Epoch(life)).unwrap();
        disk.set_faults(|faults| faults.capacity = None);
        let entry = error_txn(Zxid::new(Epoch(life), 1));
        log.append(Zxid::new(Epoch(life), 1), &entry);
        log.flush().unwrap();
        // Where the file before ended is known, though there was no room at the start.
        let ended = ends::read(opened.dirs.log_dir()).unwrap();
        assert_eq!(ended.len() as i64, life - 1, "{ended:?}");
        drop((log, opened.dirs));
        disk.crash(Keep::Nothing);
        disk.fill(0);
    }
}

fn error_txn(zxid: Zxid) -> Bytes {
    use node_core::proto::txn::{Txn, TxnEntry};
    let txn = Txn::Error { code: -1 };
    let entry = TxnEntry::new(node_core::zxid::SessionId(0), 0, zxid, 0, txn);
    entry.encode()
}
