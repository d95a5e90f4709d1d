//! The files of genuine Apache servers, and what crashes and rot do to a log.

#![expect(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

use std::fs;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use node::storage::dirs::DataDirs;
use node::storage::files::Dir;
use node::storage::log_reader::LogReader;
use node::storage::snapshot::{self, Fed, SnapshotBody, SnapshotTrailer, SnapshotWriter};
use node::storage::txn_log::{LogOptions, TxnLog};
use node::storage::{ConsumerError, StorageError, recovery, retention};
use node_core::zxid::Zxid;
use proptest::prelude::*;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(name)
}

/// A directory with copies of golden files under their own names.
fn data_with(files: &[(&str, &str)]) -> (tempfile::TempDir, DataDirs) {
    let dir = tempfile::tempdir().unwrap();
    let dirs = DataDirs::open(dir.path(), dir.path(), true).unwrap();
    for (from, to) in files {
        fs::copy(golden(from), dirs.log_dir().join(to)).unwrap();
    }
    (dir, dirs)
}

fn txn(zxid: i64, body: &[u8]) -> Bytes {
    let mut txn = Vec::new();
    txn.extend(7_i64.to_be_bytes());
    txn.extend(1_i32.to_be_bytes());
    txn.extend(zxid.to_be_bytes());
    txn.extend(1_700_000_000_000_i64.to_be_bytes());
    txn.extend(1_i32.to_be_bytes());
    txn.extend(body);
    Bytes::from(txn)
}

const PLAIN: LogOptions = LogOptions {
    preallocate_bytes: 0,
    force_sync: false,
    roll_at_bytes: None,
};

/// Writes the transactions `from..=to` into the log of `dir`, as one process would.
fn write(dir: &Dir, options: LogOptions, from: i64, to: i64) -> TxnLog {
    let mut log = TxnLog::open(dir, options).unwrap();
    for zxid in from..=to {
        log.append(Zxid(zxid), &txn(zxid, format!("body of {zxid}").as_bytes()));
    }
    log.flush().unwrap();
    log
}

fn zxids(dir: &Dir) -> Result<Vec<i64>, StorageError> {
    LogReader::open(dir, Zxid::ZERO)?
        .map(|record| record.map(|record| record.zxid.0))
        .collect()
}

#[test]
fn apaches_logs_are_read_and_written_again_byte_for_byte() {
    for name in [
        "disk/standalone-log.1",
        "disk-fuzzy/log.1",
        "disk-ensemble/before-trunc-log.100000001",
        "disk-ensemble/node3-log.100000001",
        "disk-ensemble/node3-log.200000001",
    ] {
        let file = format!("log.{}", name.rsplit('.').next().unwrap());
        let (_source, dirs) = data_with(&[(name, &file)]);
        let copy = tempfile::tempdir().unwrap();
        let mut log = TxnLog::open(&Dir::real(copy.path()), PLAIN).unwrap();
        let mut count = 0;
        for record in LogReader::open(dirs.log_dir(), Zxid::ZERO).unwrap() {
            let record = record.unwrap();
            log.append(record.zxid, &record.txn);
            count += 1;
        }
        log.flush().unwrap();
        let (original, ours) = (
            fs::read(golden(name)).unwrap(),
            fs::read(copy.path().join(&file)).unwrap(),
        );
        assert!(count > 1, "{name}");
        assert_eq!(&original[..ours.len()], ours, "{name}");
        assert!(
            original[ours.len()..].iter().all(|byte| *byte == 0),
            "{name}"
        );
    }
}

/// Finds the end of a body as a tree's parser would: it is where the path "/" comes after a node.
#[derive(Debug)]
struct BodyOfLength(usize);

impl SnapshotBody for BodyOfLength {
    fn feed(&mut self, bytes: &[u8]) -> Result<Fed, ConsumerError> {
        if bytes.len() < self.0 {
            self.0 -= bytes.len();
            return Ok(Fed::More);
        }
        Ok(Fed::Done(self.0))
    }
}

const TRAILER: usize = 13 + 20 + 13 + 8 + 13;

#[test]
fn apaches_snapshots_hold_their_seals_also_when_compressed() {
    let plain_len = |name: &str| fs::metadata(golden(name)).unwrap().len() as usize - 16 - TRAILER;
    let read = |name: &str, len| {
        snapshot::read(&Dir::real("."), &golden(name), &mut BodyOfLength(len))
            .unwrap()
            .last_zxid
    };
    for (name, zxid) in [
        ("disk/standalone-empty-snapshot.0", 0),
        ("disk/standalone-plain-snapshot.41", 0x41),
        ("disk-ensemble/node3-snapshot.100000043", 0x1_0000_0043),
        ("disk-ensemble/node3-snapshot.200000003", 0x2_0000_0003),
    ] {
        assert_eq!(read(name, plain_len(name)), Some(Zxid(zxid)), "{name}");
    }
    let mut gz = Vec::new();
    let file = fs::File::open(golden("disk/standalone-gz-snapshot.43.gz")).unwrap();
    std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(file), &mut gz).unwrap();
    let body = gz.len() - 16 - TRAILER;
    assert_eq!(
        read("disk/standalone-gz-snapshot.43.gz", body),
        Some(Zxid(0x43))
    );
    assert_eq!(
        read("disk/standalone-snappy-snapshot.43.snappy", body),
        Some(Zxid(0x43))
    );
}

#[test]
fn a_snapshot_is_written_as_apache_writes_it() {
    let original = fs::read(golden("disk/standalone-plain-snapshot.41")).unwrap();
    let body = &original[16..original.len() - TRAILER];
    let digest = i64::from_be_bytes(
        original[original.len() - 42..original.len() - 34]
            .try_into()
            .unwrap(),
    );
    let dir = tempfile::tempdir().unwrap();
    let mut writer = SnapshotWriter::create(&Dir::real(dir.path()), Zxid(0x41)).unwrap();
    for piece in body.chunks(100) {
        writer.write(piece).unwrap();
    }
    let trailer = SnapshotTrailer {
        digest: Some((Zxid(0x41), digest)),
        last_zxid: Some(Zxid(0x41)),
    };
    let (path, len) = writer.finish(trailer).unwrap();
    assert_eq!(fs::read(&path).unwrap(), original);
    assert_eq!(
        (path.file_name().unwrap().to_str(), len),
        (Some("snapshot.41"), original.len() as u64)
    );
    assert_eq!(
        snapshot::read(&Dir::real(dir.path()), &path, &mut BodyOfLength(body.len())).unwrap(),
        trailer
    );
}

#[test]
fn a_broken_snapshot_is_passed_over_for_an_older_one() {
    let (_dir, dirs) = data_with(&[("disk/standalone-plain-snapshot.41", "snapshot.41")]);
    let mut broken = fs::read(golden("disk/standalone-plain-snapshot.41")).unwrap();
    let body = broken.len() - 16 - TRAILER;
    broken[300] ^= 1;
    fs::write(dirs.snap_dir().join("snapshot.50"), &broken).unwrap();
    fs::write(dirs.snap_dir().join("snapshot.60"), &broken[..200]).unwrap();
    fs::write(dirs.snap_dir().join("snapshot.70"), b"").unwrap();
    let loaded = snapshot::load_newest(dirs.snap_dir(), || BodyOfLength(body))
        .unwrap()
        .unwrap();
    assert_eq!(loaded.file.zxid, Zxid(0x41));
    fs::remove_file(dirs.snap_dir().join("snapshot.41")).unwrap();
    let error = snapshot::load_newest(dirs.snap_dir(), || BodyOfLength(body)).unwrap_err();
    assert!(
        matches!(error, StorageError::NoSnapshotLoads { count: 3, .. }),
        "{error}"
    );
}

#[test]
fn a_snapshot_without_its_later_parts_is_read_too() {
    let original = fs::read(golden("disk/standalone-plain-snapshot.41")).unwrap();
    let body = original.len() - 16 - TRAILER;
    let dir = tempfile::tempdir().unwrap();
    let trailer_of = |digest, last_zxid| {
        let mut writer = SnapshotWriter::create(&Dir::real(dir.path()), Zxid(0x41)).unwrap();
        writer.write(&original[16..16 + body]).unwrap();
        let written = SnapshotTrailer { digest, last_zxid };
        let (path, _) = writer.finish(written).unwrap();
        assert_eq!(
            snapshot::read(&Dir::real(dir.path()), &path, &mut BodyOfLength(body)).unwrap(),
            written
        );
    };
    trailer_of(None, None);
    trailer_of(Some((Zxid(1), -5)), None);
    trailer_of(None, Some(Zxid(0x41)));
}

/// Writes three records: the file, its bytes, and where each record ends.
fn three_records(dir: &Dir) -> (PathBuf, Vec<u8>, Vec<u64>) {
    drop(write(dir, PLAIN, 1, 3));
    let path = dir.join("log.1");
    let whole = fs::read(&path).unwrap();
    let records = LogReader::open(dir, Zxid::ZERO).unwrap();
    let ends = records.map(|record| record.unwrap().end).collect();
    (path, whole, ends)
}

#[test]
fn a_log_cut_at_any_byte_of_its_last_records_recovers_to_the_last_whole_one() {
    let dir = tempfile::tempdir().unwrap();
    let (path, whole, ends) = three_records(&Dir::real(dir.path()));
    for zero_tail in [0, 1, 5000] {
        for cut in 0..=whole.len() {
            let mut image = whole[..cut].to_vec();
            if zero_tail > 0 {
                image.resize(whole.len() + zero_tail, 0);
            }
            fs::write(&path, &image).unwrap();
            let wanted: Vec<i64> = (1..=3)
                .filter(|zxid| ends[*zxid as usize - 1] <= cut as u64)
                .collect();
            assert_eq!(
                zxids(&Dir::real(dir.path())).unwrap(),
                wanted,
                "cut at {cut}, {zero_tail} zeros"
            );
            let next = wanted.len() as i64 + 1;
            drop(write(&Dir::real(dir.path()), PLAIN, next, next));
            assert_eq!(
                zxids(&Dir::real(dir.path())).unwrap(),
                (1..=next).collect::<Vec<_>>(),
                "cut at {cut}, then appended"
            );
            if next > 1 {
                fs::remove_file(dir.path().join(format!("log.{next:x}"))).unwrap();
            }
        }
    }
}

#[test]
fn a_flipped_bit_anywhere_before_the_last_record_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let (path, whole, ends) = three_records(&Dir::real(dir.path()));
    for at in (0..4).chain(16..ends[1] as usize) {
        for bit in 0..8 {
            let mut image = whole.clone();
            image[at] ^= 1 << bit;
            fs::write(&path, &image).unwrap();
            let error =
                zxids(&Dir::real(dir.path())).expect_err(&format!("bit {bit} of byte {at}"));
            assert!(matches!(error, StorageError::LogDamaged { .. }), "{error}");
            assert!(
                TxnLog::open(&Dir::real(dir.path()), PLAIN).is_err(),
                "bit {bit} of byte {at}"
            );
            assert_eq!(
                fs::read(&path).unwrap(),
                image,
                "a damaged log is left as it is"
            );
        }
    }
}

#[test]
fn a_rotten_last_record_is_not_taken_for_an_unflushed_one() {
    let dir = tempfile::tempdir().unwrap();
    drop(write(&Dir::real(dir.path()), PLAIN, 1, 3));
    let path = dir.path().join("log.1");
    let mut image = fs::read(&path).unwrap();
    let at = image.len() - 5;
    image[at] ^= 4;
    fs::write(&path, &image).unwrap();
    let message = zxids(&Dir::real(dir.path())).unwrap_err().to_string();
    assert!(
        message.contains("though every block of the record was written"),
        "{message}"
    );
}

#[test]
fn a_zeroed_block_in_the_middle_is_damage_that_names_its_place() {
    let dir = tempfile::tempdir().unwrap();
    let reserve = LogOptions {
        preallocate_bytes: 1 << 20,
        ..PLAIN
    };
    let log = write(&Dir::real(dir.path()), reserve, 1, 200);
    let path = dir.path().join("log.1");
    let mut image = fs::read(&path).unwrap();
    assert_eq!(
        image.len(),
        (1 << 20) + 16,
        "space is reserved by whole steps"
    );
    image[4096..8192].fill(0);
    fs::write(&path, &image).unwrap();
    let error = zxids(&Dir::real(dir.path())).unwrap_err();
    let StorageError::LogDamaged {
        path: found,
        offset,
        last,
        ..
    } = &error
    else {
        panic!("{error}")
    };
    assert_eq!(found, &path);
    assert!((4000..=4096).contains(offset), "{error}");
    assert!(
        last.0 > 10 && error.to_string().contains("whole record"),
        "{error}"
    );
    drop(log);
}

#[test]
fn a_broken_end_of_an_older_file_is_damage_unless_the_next_file_goes_on_there() {
    let dir = tempfile::tempdir().unwrap();
    drop(write(&Dir::real(dir.path()), PLAIN, 1, 3));
    drop(write(&Dir::real(dir.path()), PLAIN, 4, 6));
    let path = dir.path().join("log.1");
    let whole = fs::read(&path).unwrap();
    let third = LogReader::open(&Dir::real(dir.path()), Zxid::ZERO)
        .unwrap()
        .nth(1)
        .unwrap()
        .unwrap()
        .end as usize;
    fs::write(&path, &whole[..third + 9]).unwrap();
    assert!(
        matches!(
            zxids(&Dir::real(dir.path())),
            Err(StorageError::LogDamaged { .. })
        ),
        "transaction 3 is gone"
    );
    let mut image = whole.clone();
    image.extend_from_slice(&whole[third..third + 9]);
    fs::write(&path, &image).unwrap();
    assert_eq!(
        zxids(&Dir::real(dir.path())).unwrap(),
        [1, 2, 3, 4, 5, 6],
        "Apache leaves an unflushed end behind"
    );
}

#[test]
fn a_missing_log_file_is_an_error_of_recovery() {
    let dir = tempfile::tempdir().unwrap();
    for from in [1, 4, 7] {
        drop(write(&Dir::real(dir.path()), PLAIN, from, from + 2));
    }
    let replay = |after| recovery::replay(&Dir::real(dir.path()), Zxid(after), |_, _| Ok(()));
    assert_eq!(
        replay(2).unwrap(),
        recovery::Replayed {
            last: Zxid(9),
            count: 7
        }
    );
    assert_eq!(
        replay(20).unwrap(),
        recovery::Replayed {
            last: Zxid(20),
            count: 0
        }
    );
    fs::remove_file(dir.path().join("log.4")).unwrap();
    assert_eq!(replay(6).unwrap().count, 3);
    let error = replay(2).unwrap_err();
    assert!(
        matches!(
            error,
            StorageError::LogGap {
                after: Zxid(3),
                next: Zxid(7),
                ..
            }
        ),
        "{error}"
    );
}

#[test]
fn apaches_log_with_two_epochs_has_no_gap() {
    let (_dir, dirs) = data_with(&[
        ("disk-ensemble/node3-log.100000001", "log.100000001"),
        ("disk-ensemble/node3-log.200000001", "log.200000001"),
    ]);
    let replayed = recovery::replay(dirs.log_dir(), Zxid::ZERO, |_, _| Ok(())).unwrap();
    assert_eq!(replayed.last.epoch().0, 3);
    let (_dir, fuzzy) = data_with(&[("disk-fuzzy/log.1", "log.1")]);
    recovery::replay(fuzzy.log_dir(), Zxid(0x372), |_, _| Ok(())).unwrap();
}

#[test]
fn a_log_without_a_snapshot_is_only_trusted_when_told_so() {
    let dir = tempfile::tempdir().unwrap();
    let dirs = DataDirs::open(dir.path(), dir.path(), true).unwrap();
    let load = |trust| recovery::load(&dirs, trust, || BodyOfLength(1)).map(|start| start.zxid());
    assert!(load(false).is_ok());
    drop(write(dirs.log_dir(), PLAIN, 1, 2));
    assert!(matches!(
        load(false),
        Err(StorageError::SnapshotMissing { .. })
    ));
    assert_eq!(load(true).unwrap(), Zxid::ZERO);
}

fn fake_snapshot(dirs: &DataDirs, zxid: i64) {
    SnapshotWriter::create(dirs.snap_dir(), Zxid(zxid))
        .unwrap()
        .finish(SnapshotTrailer::default())
        .unwrap();
}

fn names(dirs: &DataDirs) -> Vec<String> {
    let entries = fs::read_dir(dirs.log_dir().path()).unwrap();
    let mut names: Vec<_> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn truncation_removes_later_records_files_and_snapshots_and_the_log_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let dirs = DataDirs::open(dir.path(), dir.path(), true).unwrap();
    for zxid in [0, 2, 5] {
        fake_snapshot(&dirs, zxid);
    }
    drop(write(dirs.log_dir(), PLAIN, 1, 4));
    let mut log = write(dirs.log_dir(), PLAIN, 5, 6);
    log.truncate(Zxid(3), dirs.snap_dir()).unwrap();
    assert_eq!(names(&dirs), ["log.1", "snapshot.0", "snapshot.2"]);
    assert_eq!(zxids(dirs.log_dir()).unwrap(), [1, 2, 3]);
    log.append(
        Zxid(0x1_0000_0001),
        &txn(0x1_0000_0001, b"of the next epoch"),
    );
    log.flush().unwrap();
    assert_eq!(zxids(dirs.log_dir()).unwrap(), [1, 2, 3, 0x1_0000_0001]);
    let error = log.truncate(Zxid(4), dirs.snap_dir()).unwrap_err();
    assert!(
        matches!(error, StorageError::TruncateTarget { .. }),
        "{error}"
    );
    log.append(Zxid(0x1_0000_0002), &txn(0x1_0000_0002, b""));
    log.flush().unwrap();
    assert_eq!(
        zxids(dirs.log_dir()).unwrap().len(),
        5,
        "a refused truncation changes nothing"
    );
}

#[test]
fn apaches_log_is_truncated_to_what_apache_made_of_it() {
    let (_dir, dirs) = data_with(&[("disk-ensemble/before-trunc-log.100000001", "log.100000001")]);
    let all = zxids(dirs.log_dir()).unwrap();
    let mut log = TxnLog::open(dirs.log_dir(), PLAIN).unwrap();
    log.truncate(Zxid(all[all.len() - 2]), dirs.snap_dir())
        .unwrap();
    let truncated = fs::read(dirs.log_dir().join("log.100000001")).unwrap();
    let apaches = fs::read(golden("disk-ensemble/node3-log.100000001")).unwrap();
    assert_eq!(truncated, apaches[..truncated.len()]);
}

#[test]
fn purging_keeps_what_a_recovery_from_the_oldest_kept_snapshot_needs() {
    let dir = tempfile::tempdir().unwrap();
    let dirs = DataDirs::open(dir.path(), dir.path(), true).unwrap();
    for zxid in [0, 3, 5, 8, 9] {
        fake_snapshot(&dirs, zxid);
    }
    for from in [1, 4, 7] {
        drop(write(dirs.log_dir(), PLAIN, from, from + 2));
    }
    fs::write(dirs.snap_dir().join("snapshot.a"), b"").unwrap();
    let removed = retention::purge(&dirs, 1).unwrap();
    assert_eq!(
        names(&dirs),
        [
            "log.4",
            "log.7",
            "snapshot.5",
            "snapshot.8",
            "snapshot.9",
            "snapshot.a"
        ]
    );
    assert_eq!(removed.len(), 3);
}

#[test]
fn reserved_space_is_given_back_when_a_file_ends() {
    let dir = tempfile::tempdir().unwrap();
    let options = LogOptions {
        preallocate_bytes: 64 * 1024,
        ..PLAIN
    };
    let mut log = write(&Dir::real(dir.path()), options, 1, 2);
    let len = || fs::metadata(dir.path().join("log.1")).unwrap().len();
    assert_eq!(len(), 64 * 1024 + 16, "as long as Apache's");
    log.roll().unwrap();
    assert!(len() < 200);
    log.append(Zxid(3), &txn(3, b""));
    log.flush().unwrap();
    assert_eq!(zxids(&Dir::real(dir.path())).unwrap(), [1, 2, 3]);
}

#[test]
fn after_a_failed_write_the_log_refuses_everything() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = TxnLog::open(&Dir::real(dir.path()), PLAIN).unwrap();
    fs::create_dir(dir.path().join("log.1")).unwrap();
    log.append(Zxid(1), &txn(1, b""));
    assert!(matches!(log.flush(), Err(StorageError::Io { .. })));
    fs::remove_dir(dir.path().join("log.1")).unwrap();
    assert!(
        matches!(log.flush(), Err(StorageError::LogFailed)),
        "nothing is tried again"
    );
    assert!(matches!(log.roll(), Err(StorageError::LogFailed)));
    assert!(matches!(
        log.truncate(Zxid::ZERO, &Dir::real(dir.path())),
        Err(StorageError::LogFailed)
    ));
    assert_eq!(zxids(&Dir::real(dir.path())).unwrap(), []);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn what_was_flushed_is_read_again_however_often_the_log_is_reopened(
        runs in prop::collection::vec(prop::collection::vec((prop::collection::vec(any::<u8>(), 0..700), any::<bool>()), 0..8), 1..6),
        preallocate_bytes in prop_oneof![Just(0_u64), Just(4096), Just(65536)],
        roll_at_bytes in prop_oneof![Just(None), Just(Some(1000_u64))],
    ) {
        let dir = tempfile::tempdir().unwrap();
        let options = LogOptions { preallocate_bytes, force_sync: false, roll_at_bytes };
        let mut wanted: Vec<Bytes> = Vec::new();
        for run in runs {
            let mut log = TxnLog::open(&Dir::real(dir.path()), options).unwrap();
            prop_assert_eq!(log.last().0, wanted.len() as i64);
            for (body, flush) in run {
                let zxid = wanted.len() as i64 + 1;
                let txn = txn(zxid, &body);
                log.append(Zxid(zxid), &txn);
                wanted.push(txn);
                if flush {
                    log.flush().unwrap();
                }
            }
            log.flush().unwrap();
        }
        let read: Vec<Bytes> = LogReader::open(&Dir::real(dir.path()), Zxid::ZERO).unwrap().map(|record| record.unwrap().txn).collect();
        prop_assert_eq!(&read, &wanted);
        let half = wanted.len() / 2;
        let later = LogReader::open(&Dir::real(dir.path()), Zxid(half as i64 + 1)).unwrap().count();
        prop_assert_eq!(later, wanted.len() - half);
    }
}
