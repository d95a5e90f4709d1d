//! The disk in memory itself: what a crash leaves of what was flushed and of what was not.

#![expect(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

use std::collections::BTreeSet;
use std::path::Path;

use node::storage::files::{FileSystem, Open};
use node::storage::log_reader::LogReader;
use node::storage::marks::{Known, Marks};
use node::storage::simulated::{Keep, SECTOR, SimDisk};
use node::storage::txn_log::{LogOptions, TxnLog};
use node_core::zxid::Zxid;

fn disk() -> SimDisk {
    let disk = SimDisk::new();
    disk.create_dir_all(Path::new("/d")).unwrap();
    disk
}

fn write(disk: &SimDisk, path: &str, bytes: &[u8], flush: bool) {
    let file = disk.open_write(Path::new(path), Open::Empty).unwrap();
    file.write_at(bytes, 0).unwrap();
    if flush {
        file.sync_all().unwrap();
    }
}

#[test]
fn a_name_lasts_with_its_directory_and_bytes_with_their_file() {
    let (a, b) = (Path::new("/d/a"), Path::new("/d/b"));
    let disk = disk();
    write(&disk, "/d/a", b"new", true);
    let lost = disk.duplicate();
    lost.crash(Keep::Nothing);
    assert_eq!(lost.content(a), None, "its directory was not flushed");
    disk.sync_dir(Path::new("/d")).unwrap();
    write(&disk, "/d/b", b"", true);
    disk.rename(a, b).unwrap();
    let kept = disk.duplicate();
    kept.crash(Keep::All);
    assert_eq!(
        (kept.content(a), kept.content(b).unwrap()),
        (None, b"new".to_vec())
    );
    disk.crash(Keep::Nothing);
    assert_eq!(
        (disk.content(a).unwrap(), disk.content(b)),
        (b"new".to_vec(), None)
    );
}

#[test]
fn an_unflushed_write_is_torn_between_sectors_only_and_in_every_way() {
    let mut seen = BTreeSet::new();
    for seed in 0..200 {
        let disk = disk();
        write(&disk, "/d/a", &[1; 4 * SECTOR], true);
        disk.sync_dir(Path::new("/d")).unwrap();
        let file = disk.open_write(Path::new("/d/a"), Open::Existing).unwrap();
        file.write_at(&[2; 4 * SECTOR], 0).unwrap();
        disk.crash(Keep::Some(seed));
        assert!(
            file.sync_data().is_err(),
            "a file of an earlier life is dead"
        );
        let after = disk.content(Path::new("/d/a")).unwrap();
        let sectors: Vec<u8> = after
            .chunks(SECTOR)
            .map(|sector| {
                assert!(sector.iter().all(|byte| *byte == sector[0]));
                sector[0]
            })
            .collect();
        seen.insert(sectors);
    }
    assert_eq!(seen.len(), 16, "every combination of four sectors");
}

#[test]
fn a_failed_flush_is_not_made_good_by_a_second_one() {
    let disk = disk();
    write(&disk, "/d/a", b"old", true);
    disk.sync_dir(Path::new("/d")).unwrap();
    let file = disk.open_write(Path::new("/d/a"), Open::Existing).unwrap();
    file.write_at(b"new", 0).unwrap();
    disk.set_faults(|faults| faults.sync_fails = Some("/d/a".to_owned()));
    assert!(file.sync_data().is_err());
    let after = disk.duplicate();
    after.crash(Keep::All);
    assert_eq!(after.content(Path::new("/d/a")).unwrap(), b"old");
}

#[test]
fn a_full_disk_refuses_to_grow_and_the_power_can_go_at_any_operation() {
    let disk = disk();
    disk.set_faults(|faults| faults.capacity = Some(10));
    let file = disk.open_write(Path::new("/d/a"), Open::New).unwrap();
    file.write_at(&[1; 10], 0).unwrap();
    assert_eq!(
        file.write_at(&[1; 1], 10).unwrap_err().kind(),
        std::io::ErrorKind::StorageFull
    );
    file.write_at(&[2; 10], 0).unwrap();
    assert_eq!(disk.free_bytes(Path::new("/d")).unwrap(), 0);
    let now = disk.operations();
    disk.set_faults(|faults| faults.power_until = Some(now + 1));
    file.sync_data().unwrap();
    assert!(file.sync_data().is_err());
}

#[test]
fn the_log_writes_and_flushes_a_group_of_records_once() {
    let disk = disk();
    let marks = Marks::create(&disk.dir("/d"), Known::default()).unwrap();
    let mut log = TxnLog::open(&disk.dir("/d"), LogOptions::default())
        .unwrap()
        .with_marks(marks)
        .unwrap();
    let txn = |zxid: i64| {
        let mut txn = vec![0; 40];
        txn[12..20].copy_from_slice(&zxid.to_be_bytes());
        txn
    };
    log.append(Zxid(1), &txn(1));
    log.flush().unwrap();
    let before = disk.operations();
    for zxid in 2..=1000 {
        log.append(Zxid(zxid), &txn(zxid));
    }
    log.flush().unwrap();
    assert_eq!(disk.operations() - before, 2, "one write, one flush");
    disk.crash(Keep::Nothing);
    let read = LogReader::open(&disk.dir("/d"), Zxid::ZERO).unwrap();
    assert_eq!(read.map(Result::unwrap).count(), 1000);
}
