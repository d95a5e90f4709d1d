//! A scripted history is cut off at every single operation of the disk. After each cut, whatever of the unflushed the disk
//! keeps, a start finds everything that was flushed and nothing that never was.

use std::collections::BTreeSet;
use std::sync::Arc;

use node::storage::StorageError;
use node::storage::files::FileSystem;
use node::storage::retention;
use node::storage::simulated::{Keep, SimDisk};
use node::storage::txn_log::{LogOptions, TxnLog};
use node::store::{self, Opened, StoreOptions};
use node_core::proto::txn::{CreateOp, CreateTxn, Txn, TxnEntry};
use node_core::replica::Replica;
use node_core::standing::Standing;
use node_core::tree::TreeOptions;
use node_core::zxid::{Epoch, SessionId, Zxid};

const LOG: LogOptions = LogOptions {
    preallocate_bytes: 2048,
    force_sync: true,
    roll_at_bytes: None,
};

fn options() -> StoreOptions {
    StoreOptions {
        data_dir: "/data".into(),
        data_log_dir: "/log".into(),
        autocreate: true,
        trust_empty_snapshot: false,
        trust_empty: Some(true),
        others: true,
        recent: 10,
        tree: TreeOptions::default(),
    }
}

fn z(epoch: i64, counter: i64) -> Zxid {
    Zxid(epoch << 32 | counter)
}

fn entry(zxid: Zxid, name: &str) -> TxnEntry {
    let txn = Txn::Create(CreateTxn {
        op: CreateOp::Create,
        path: format!("/{name}{:x}", zxid.0),
        data: Some(vec![b'x'; 300].into()),
        acl: vec![],
        ephemeral: false,
        parent_cversion: -1,
    });
    TxnEntry::new(SessionId(1), 1, zxid, 1, txn)
}

fn replica(entries: &[TxnEntry]) -> Replica {
    let mut replica = Replica::new(TreeOptions::default());
    for entry in entries {
        replica.apply(&entry.header, &entry.txn);
    }
    replica
}

/// What a start may find.
#[derive(Clone, Default)]
struct Model {
    /// Flushed.
    sure: Vec<TxnEntry>,
    /// What is being made of it.
    next: Vec<TxnEntry>,
    /// Only one or the other, and nothing between.
    at_once: bool,
    sure_epochs: (Epoch, Epoch),
    next_epochs: (Epoch, Epoch),
}

impl Model {
    fn done(&mut self) {
        self.sure = self.next.clone();
        self.sure_epochs = self.next_epochs;
        self.at_once = false;
    }

    /// Ends in the tree of what may be found.
    fn allowed(&self) -> Vec<(Zxid, Option<i64>)> {
        let end = |entries: &[TxnEntry]| {
            let replica = replica(entries);
            (replica.last_zxid(), replica.tree().digest())
        };
        if self.at_once {
            return vec![end(&self.sure), end(&self.next)];
        }
        let (short, long) = if self.sure.len() < self.next.len() {
            (&self.sure, &self.next)
        } else {
            (&self.next, &self.sure)
        };
        (short.len()..=long.len())
            .map(|len| end(&long[..len]))
            .collect()
    }
}

struct Server {
    opened: Opened,
    log: TxnLog,
}

fn open(disk: &SimDisk) -> Result<Server, StorageError> {
    let files: Arc<dyn FileSystem> = Arc::new(disk.clone());
    let opened = store::open(&files, &options())?;
    let log = TxnLog::open(opened.dirs.log_dir(), LOG)?.with_marks(opened.marks.clone())?;
    Ok(Server { opened, log })
}

impl Server {
    fn append(
        &mut self,
        model: &mut Model,
        zxids: &[Zxid],
        name: &str,
    ) -> Result<(), StorageError> {
        for zxid in zxids {
            let entry = entry(*zxid, name);
            self.log.append(*zxid, &entry.encode());
            model.next.push(entry);
        }
        self.log.flush()?;
        self.log.mark()?;
        model.done();
        Ok(())
    }

    fn epoch(&mut self, model: &mut Model, epoch: i64) -> Result<(), StorageError> {
        model.next_epochs.0 = Epoch(epoch);
        self.opened.epochs.save_accepted(Epoch(epoch))?;
        model.done();
        model.next_epochs.1 = Epoch(epoch);
        self.opened.epochs.save_current(Epoch(epoch))?;
        model.done();
        Ok(())
    }

    fn snapshot(&mut self, model: &Model) -> Result<(), StorageError> {
        self.log.roll()?;
        store::save(&self.opened.dirs, &mut replica(&model.sure), false)
    }

    fn truncate(&mut self, model: &mut Model, to: Zxid) -> Result<(), StorageError> {
        model.next.retain(|entry| entry.header.zxid <= to);
        self.log.truncate(to, self.opened.dirs.snap_dir())?;
        model.done();
        Ok(())
    }

    /// A leader's snapshot takes the place of everything.
    fn install(&mut self, model: &mut Model, entries: Vec<TxnEntry>) -> Result<(), StorageError> {
        model.next = entries;
        model.at_once = true;
        let mut replica = replica(&model.next);
        store::save(&self.opened.dirs, &mut replica, true)?;
        self.log
            .install(replica.last_zxid(), self.opened.dirs.snap_dir())?;
        model.done();
        Ok(())
    }
}

/// The story, until the power goes.
fn play(disk: &SimDisk, model: &mut Model) -> Result<(), StorageError> {
    let mut server = open(disk)?;
    server.epoch(model, 1)?;
    server.append(model, &[z(1, 1), z(1, 2), z(1, 3)], "a")?;
    server.append(model, &[z(1, 4)], "a")?;
    server.snapshot(model)?;
    server.append(model, &[z(1, 5), z(1, 6), z(1, 7), z(1, 8), z(1, 9)], "a")?;
    server.truncate(model, z(1, 7))?;
    server.epoch(model, 2)?;
    server.append(model, &[z(2, 1), z(2, 2)], "b")?;
    drop(server);
    let mut server = open(disk)?;
    server.snapshot(model)?;
    server.append(model, &[z(2, 3)], "b")?;
    server.truncate(model, z(1, 6))?;
    server.epoch(model, 3)?;
    server.append(model, &[z(3, 1)], "c")?;
    let mut leaders: Vec<TxnEntry> = (1..=5).map(|n| entry(z(1, n), "a")).collect();
    leaders.extend([entry(z(2, 1), "d"), entry(z(2, 2), "d")]);
    server.install(model, leaders)?;
    server.epoch(model, 4)?;
    for n in 0..4 {
        server.append(model, &[z(4, 2 * n + 1), z(4, 2 * n + 2)], "e")?;
        server.snapshot(model)?;
    }
    retention::purge(&server.opened.dirs, 3)?;
    server.append(model, &[z(4, 9)], "e")?;
    server.log.close()?;
    drop(server);
    let mut server = open(disk)?;
    server.append(model, &[z(4, 10)], "e")
}

#[test]
fn a_crash_at_any_operation_loses_nothing_flushed_and_invents_nothing() {
    let mut cuts = 0;
    let mut ends = BTreeSet::new();
    let mut doubted = 0;
    loop {
        let disk = SimDisk::new();
        let mut model = Model::default();
        disk.set_faults(|faults| faults.power_until = Some(cuts));
        let whole = play(&disk, &mut model).is_ok();
        for keep in [
            Keep::Nothing,
            Keep::All,
            Keep::Some(cuts),
            Keep::Some(cuts + 77),
            Keep::Some(cuts + 1_777),
        ] {
            let after = disk.duplicate();
            after.crash(keep);
            let server =
                open(&after).unwrap_or_else(|error| panic!("operation {cuts}, {keep:?}: {error}"));
            if server.opened.standing == Standing::Lost {
                // Of several records that were being flushed the first is gone and a later one is there. That may be damage:
                // the server asks a leader, and votes with nothing.
                assert!(matches!(keep, Keep::Some(_)), "operation {cuts}, {keep:?}");
                doubted += 1;
                continue;
            }
            let found = &server.opened.replica;
            let end = (found.last_zxid(), found.tree().digest());
            assert!(
                model.allowed().contains(&end),
                "operation {cuts}, {keep:?}: found {}, where {:?} was flushed",
                end.0,
                model.sure.last().map(|entry| entry.header.zxid)
            );
            ends.insert(end.0);
            let epochs = server.opened.epochs.epochs();
            let may = |found, sure, next| found == sure || found == next;
            assert!(
                may(epochs.accepted, model.sure_epochs.0, model.next_epochs.0)
                    && may(epochs.current, model.sure_epochs.1, model.next_epochs.1),
                "operation {cuts}, {keep:?}: {epochs:?}"
            );
            // What was found lasts, also when the power goes again at once.
            drop(server);
            after.crash(Keep::Nothing);
            let again = open(&after)
                .unwrap_or_else(|error| panic!("operation {cuts}, {keep:?}, again: {error}"));
            assert_eq!(
                again.opened.replica.last_zxid(),
                end.0,
                "operation {cuts}, {keep:?}"
            );
        }
        if whole {
            break;
        }
        cuts += 1;
    }
    println!(
        "{cuts} operations, {} different ends, {doubted} times in doubt",
        ends.len()
    );
    assert!(doubted < cuts / 10, "in doubt {doubted} times");
    assert!(cuts > 150, "only {cuts} operations");
}
