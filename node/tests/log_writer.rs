//! The log's thread: nothing is reported before it is flushed, and a failure is reported once.

#![expect(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use bytes::Bytes;
use node::storage::files::{Dir, FileSystem};
use node::storage::log_reader::LogReader;
use node::storage::log_writer::{LogEvent, LogWriter};
use node::storage::simulated::{Keep, SimDisk};
use node::storage::snapshot::{SnapshotTrailer, SnapshotWriter};
use node::storage::txn_log::{LogOptions, TxnLog};
use node_core::zxid::Zxid;

const PATIENCE: Duration = Duration::from_secs(30);

fn start(dir: &Path) -> (LogWriter, Receiver<LogEvent>) {
    let (report, events) = channel();
    let log = TxnLog::open(
        &Dir::real(dir),
        LogOptions {
            preallocate_bytes: 65536,
            ..LogOptions::default()
        },
    )
    .unwrap();
    let report = move |event| report.send(event).unwrap_or(());
    (
        LogWriter::start(log, Dir::real(dir), Duration::from_secs(1), report).unwrap(),
        events,
    )
}

fn txn(zxid: i64) -> Bytes {
    let mut txn = vec![0; 40];
    txn[12..20].copy_from_slice(&zxid.to_be_bytes());
    Bytes::from(txn)
}

fn count(dir: &Path) -> usize {
    LogReader::open(&Dir::real(dir), Zxid::ZERO)
        .unwrap()
        .map(Result::unwrap)
        .count()
}

#[test]
fn every_transaction_is_on_the_disk_when_it_is_reported() {
    let dir = tempfile::tempdir().unwrap();
    let (log, events) = start(dir.path());
    let stats = log.stats().clone();
    for zxid in 1..=1000 {
        log.append(Zxid(zxid), txn(zxid));
    }
    log.barrier(7);
    let mut last = 0;
    loop {
        match events.recv_timeout(PATIENCE).unwrap() {
            LogEvent::Flushed(zxid) => {
                assert!(zxid.0 > last);
                last = zxid.0;
                assert!(count(dir.path()) as i64 >= last);
            }
            LogEvent::Barrier(7) => break,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(
        (last, stats.transactions(), stats.queued_bytes()),
        (1000, 1000, 0)
    );
    assert!(stats.flushes() < 1000, "many transactions share a flush");
    assert!(stats.sync_max_us() >= stats.sync_avg_us());
}

#[test]
fn dropping_the_writer_flushes_what_waits() {
    let dir = tempfile::tempdir().unwrap();
    let (log, _events) = start(dir.path());
    log.append(Zxid(1), txn(1));
    log.roll();
    log.append(Zxid(2), txn(2));
    log.stop();
    assert_eq!(count(dir.path()), 2);
    assert!(dir.path().join("log.2").exists(), "the log was rolled");
}

#[test]
fn a_truncation_is_reported_in_its_place() {
    let dir = tempfile::tempdir().unwrap();
    SnapshotWriter::create(&Dir::real(dir.path()), Zxid::ZERO)
        .unwrap()
        .finish(SnapshotTrailer::default())
        .unwrap();
    let (log, events) = start(dir.path());
    for zxid in 1..=3 {
        log.append(Zxid(zxid), txn(zxid));
    }
    log.truncate(Zxid(2));
    log.truncate(Zxid(9));
    log.append(Zxid(3), txn(3));
    log.stop();
    let seen: Vec<String> = events.iter().map(|event| format!("{event:?}")).collect();
    let place = |what: &str| {
        seen.iter()
            .position(|event| event.starts_with(what))
            .unwrap()
    };
    assert!(
        place("Flushed(0x3)") < place("Truncated(0x2)")
            && place("Truncated") < place("TruncateRefused"),
        "{seen:?}"
    );
    assert_eq!(seen.last().unwrap(), "Flushed(0x3)");
    assert_eq!(count(dir.path()), 3);
}

#[test]
fn a_failure_is_fatal_reported_once_and_ends_the_thread() {
    let dir = tempfile::tempdir().unwrap();
    let (log, events) = start(dir.path());
    // Root may write anywhere: a directory in the file's place fails for everyone.
    std::fs::create_dir(dir.path().join("log.1")).unwrap();
    std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o555)).unwrap();
    log.append(Zxid(1), txn(1));
    let event = events.recv_timeout(PATIENCE).unwrap();
    assert!(
        matches!(&event, LogEvent::Fatal(error) if error.to_string().contains("log.1")),
        "{event:?}"
    );
    log.append(Zxid(2), txn(2));
    log.barrier(1);
    assert!(events.recv_timeout(PATIENCE).is_err(), "the thread is gone");
    std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).unwrap();
}

#[test]
fn a_full_disk_holds_the_log_up_until_there_is_room() {
    let disk = SimDisk::new();
    disk.create_dir_all(Path::new("/d")).unwrap();
    let dir = disk.dir("/d");
    disk.set_faults(|faults| faults.capacity = Some(100));
    let (report, events) = channel();
    let log = TxnLog::open(&dir, LogOptions::default()).unwrap();
    let report = move |event| report.send(event).unwrap_or(());
    let log = LogWriter::start(log, dir.clone(), Duration::from_secs(1), report).unwrap();
    log.append(Zxid(1), txn(1));
    let event = events.recv_timeout(PATIENCE).unwrap();
    assert!(matches!(event, LogEvent::Flushed(Zxid(1))), "{event:?}");
    log.append(Zxid(2), txn(2));
    let event = events.recv_timeout(PATIENCE).unwrap();
    assert!(matches!(event, LogEvent::Full(true)), "{event:?}");
    log.append(Zxid(3), txn(3));
    disk.set_faults(|faults| faults.capacity = None);
    let event = events.recv_timeout(PATIENCE).unwrap();
    assert!(matches!(event, LogEvent::Full(false)), "{event:?}");
    let mut flushed = Zxid::ZERO;
    while flushed < Zxid(3) {
        match events.recv_timeout(PATIENCE).unwrap() {
            LogEvent::Flushed(zxid) => flushed = zxid,
            other => panic!("{other:?}"),
        }
    }
    log.stop();
    disk.crash(Keep::Nothing);
    let read = LogReader::open(&dir, Zxid::ZERO).unwrap();
    assert_eq!(read.map(Result::unwrap).count(), 3);
}

#[test]
fn a_failed_flush_is_fatal_and_never_repeated() {
    let disk = SimDisk::new();
    disk.create_dir_all(Path::new("/d")).unwrap();
    disk.set_faults(|faults| faults.sync_fails = Some("log.1".to_owned()));
    let (report, events) = channel();
    let log = TxnLog::open(&disk.dir("/d"), LogOptions::default()).unwrap();
    let report = move |event| report.send(event).unwrap_or(());
    let log = LogWriter::start(log, disk.dir("/d"), Duration::from_secs(1), report).unwrap();
    log.append(Zxid(1), txn(1));
    let event = events.recv_timeout(PATIENCE).unwrap();
    assert!(
        matches!(&event, LogEvent::Fatal(error) if error.is_damage() && error.to_string().starts_with("cannot flush /d/log.1")),
        "{event:?}"
    );
    assert!(events.recv_timeout(PATIENCE).is_err(), "the thread is gone");
}
