//! A server's disk: the server's own storage code over a disk in memory, which tears what was not flushed when the
//! power fails, fills up, refuses to flush, rots and is lost. Every start reads it as the server does.

use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;

use node::storage::StorageError;
use node::storage::dirs::DataDirs;
use node::storage::epoch::{self, EpochFiles};
use node::storage::files::FileSystem;
use node::storage::retention;
use node::storage::simulated::{Keep, SECTOR, SimDisk};
use node::storage::snapshot::SnapshotWriter;
use node::storage::txn_log::{LogOptions, TxnLog};
use node::store::{self, StoreOptions};
use node_core::effect::Input;
use node_core::peer::Recovered;
use node_core::proto::quorum::Proposal;
use node_core::quorum::config::QuorumConfig;
use node_core::replica::Replica;
use node_core::standing::Standing;
use node_core::tree::{ImageReader, TreeOptions};
use node_core::zxid::{Epoch, Zxid};

use crate::rng::Rng;

/// Snapshots that are kept.
const KEPT: usize = 3;
/// A log file is short, so that there are several.
const ROLL_AT_BYTES: u64 = 8 << 10;

/// A replica, and for the checkers which transactions made it.
pub(crate) struct Tree {
    pub(crate) replica: Replica,
    pub(crate) history: Vec<Zxid>,
}

impl Tree {
    pub(crate) fn new() -> Self {
        Self {
            replica: Replica::new(TreeOptions::default()),
            history: Vec::new(),
        }
    }

    /// The whole of it as it is now.
    pub(crate) fn image(&mut self) -> Image {
        let mut bytes = Vec::new();
        let id = self.replica.begin_snapshot();
        while !self.replica.snapshot_chunk(id, 64, &mut bytes) {}
        self.replica.end_snapshot(id);
        Image {
            zxid: self.replica.last_zxid(),
            digest: self.replica.tree().digest(),
            bytes: bytes.into(),
            history: self.history.clone().into(),
        }
    }
}

/// A snapshot.
#[derive(Clone)]
pub(crate) struct Image {
    pub(crate) zxid: Zxid,
    pub(crate) digest: Option<i64>,
    pub(crate) bytes: Rc<[u8]>,
    pub(crate) history: Rc<[Zxid]>,
}

impl Image {
    /// Reads it in pieces of any size.
    pub(crate) fn restore(&self, rng: &mut Rng) -> Tree {
        let mut reader = ImageReader::new(TreeOptions::default());
        let mut rest = &self.bytes[..];
        loop {
            let len = (rng.range(1, 2000) as usize).min(rest.len());
            let progress = reader.feed(&rest[..len]).expect("an image can be read");
            rest = &rest[progress.consumed..];
            if progress.done {
                break;
            }
            assert!(!rest.is_empty(), "the image ends early");
        }
        let restored = reader.finish().expect("an image is complete");
        let replica = Replica::restored(restored, self.zxid);
        assert_eq!(replica.tree().digest(), self.digest, "after {}", self.zxid);
        Tree {
            replica,
            history: self.history.to_vec(),
        }
    }
}

pub(crate) enum LogOp {
    Append(Proposal),
    Truncate(Zxid),
    /// The history begins with this; nothing older counts.
    SaveSnapshot(Image),
    /// Taken while the log goes on.
    Snapshot(Image),
}

/// The files of a server that runs.
struct Open {
    dirs: DataDirs,
    epochs: EpochFiles,
    log: TxnLog,
}

#[derive(Default)]
pub(crate) struct Disk {
    sim: SimDisk,
    open: Option<Open>,
    pub(crate) current_epoch: Epoch,
    pub(crate) config: Option<QuorumConfig>,
    pub(crate) next_config: Option<QuorumConfig>,
    waiting: VecDeque<LogOp>,
    /// What the snapshots were made of.
    histories: BTreeMap<Zxid, Rc<[Zxid]>>,
    /// Whether the tree must be read again though the log was not cut.
    pub(crate) stays: bool,
    /// Whether it has only begun to keep anything: it counts from the first snapshot on.
    begins: bool,
    /// Whether it was started before.
    began: bool,
    /// Whether its server keeps anything on it: observers may not.
    is_kept: bool,
    /// Whether it was spoilt since its history was whole.
    pub(crate) is_spoilt: bool,
    /// Whether it lost its power, and kept parts of a write without what was before them: the server cannot tell that from
    /// damage.
    pub(crate) is_torn: bool,
    /// The end of the history that was read at the start: a snapshot can be ahead of a log that has lost its end.
    read: Zxid,
    /// Whether the server counts on it.
    counts: bool,
}

fn options(recent: usize, is_new: bool, others: bool) -> StoreOptions {
    StoreOptions {
        data_dir: "/data".into(),
        data_log_dir: "/data".into(),
        autocreate: true,
        trust_empty_snapshot: false,
        trust_empty: is_new.then_some(true),
        others,
        recent,
        tree: TreeOptions::default(),
    }
}

fn log_options() -> LogOptions {
    LogOptions {
        preallocate_bytes: 2048,
        force_sync: true,
        roll_at_bytes: Some(ROLL_AT_BYTES),
    }
}

impl Disk {
    /// Opens it as a server does when it starts; gives the tree and what the peer is told. `recent`: transactions that are
    /// handed to the peer; `others`: whether others vote.
    pub(crate) fn start(
        &mut self,
        recent: usize,
        others: bool,
    ) -> Result<(Tree, Recovered), StorageError> {
        let files: Arc<dyn FileSystem> = Arc::new(self.sim.clone());
        let is_new = !self.began;
        let before = self.sim.duplicate();
        let opened = store::open(&files, &options(usize::MAX, is_new, others))?;
        let is_torn = std::mem::take(&mut self.is_torn);
        self.is_spoilt |= is_torn && opened.standing != Standing::Whole;
        if opened.standing != Standing::Whole && !self.is_spoilt {
            // Alone it would have to say what is wrong.
            let files: Arc<dyn FileSystem> = Arc::new(before);
            let why = store::open(&files, &options(usize::MAX, is_new, false));
            panic!(
                "a disk that only lost its power is taken for {:?}: {:?}",
                opened.standing,
                why.err().map(|error| error.to_string())
            );
        }
        (self.began, self.is_kept) = (true, true);
        self.counts = opened.standing == Standing::Whole;
        let log = TxnLog::open(opened.dirs.log_dir(), log_options())?.with_marks(opened.marks)?;
        let epochs = opened.epochs.epochs();
        self.current_epoch = epochs.current;
        let history = self.history(&opened.dirs, opened.recent.iter().map(|p| p.zxid));
        let tree = Tree {
            replica: opened.replica,
            history,
        };
        self.read = tree.replica.last_zxid();
        let skipped = opened.recent.len().saturating_sub(recent);
        let recovered = Recovered {
            accepted_epoch: epochs.accepted,
            current_epoch: epochs.current,
            last_zxid: tree.replica.last_zxid(),
            recent: opened.recent.into_iter().skip(skipped).collect(),
            last_seen_config: self.next_config.clone(),
            standing: opened.standing,
        };
        self.open = Some(Open {
            dirs: opened.dirs,
            epochs: opened.epochs,
            log,
        });
        Ok((tree, recovered))
    }

    /// A server that keeps nothing starts from nothing.
    pub(crate) fn start_without(&mut self) -> (Tree, Recovered) {
        self.wipe();
        self.is_kept = false;
        let recovered = Recovered {
            last_seen_config: self.next_config.clone(),
            ..Recovered::default()
        };
        (Tree::new(), recovered)
    }

    /// The transactions behind a tree: those of its snapshot, and those that were replayed.
    fn history(&self, dirs: &DataDirs, replayed: impl Iterator<Item = Zxid>) -> Vec<Zxid> {
        let replayed: Vec<Zxid> = replayed.collect();
        let snapshots = store::snapshots(dirs).expect("they were just read");
        let first = replayed.first().copied().unwrap_or(Zxid(i64::MAX));
        let base = snapshots.iter().rev().find(|zxid| **zxid < first);
        let base = base.and_then(|zxid| self.histories.get(zxid));
        let mut history = base.map_or_else(Vec::new, |history| history.to_vec());
        history.extend(replayed);
        history
    }

    /// Begins to keep what was not kept so far.
    fn open_now(&mut self) -> Result<&mut Open, StorageError> {
        if self.open.is_none() {
            // Whatever comes of it: what was acknowledged without a disk is not on this one.
            self.is_spoilt = true;
            self.counts = false;
            let files: Arc<dyn FileSystem> = Arc::new(self.sim.clone());
            let (data, log) = ("/data".as_ref(), "/data".as_ref());
            let dirs = DataDirs::open_on(files, data, log, true)?;
            let (marks, epochs) = store::empty(&dirs)?;
            let epochs = epochs.with_marks(&marks)?;
            let log = TxnLog::open(dirs.log_dir(), log_options())?.with_marks(marks)?;
            self.open = Some(Open { dirs, epochs, log });
            (self.begins, self.is_kept) = (true, true);
        }
        Ok(self.open.as_mut().expect("it was just opened"))
    }

    pub(crate) fn save_accepted(&mut self, epoch: Epoch) -> Result<(), StorageError> {
        self.open_now()?.epochs.save_accepted(epoch)
    }

    pub(crate) fn save_current(&mut self, epoch: Epoch) -> Result<(), StorageError> {
        self.open_now()?.epochs.save_current(epoch)?;
        self.current_epoch = epoch;
        Ok(())
    }

    /// The history can be trusted again.
    pub(crate) fn trust(&mut self) -> Result<(), StorageError> {
        if let Some(open) = &self.open {
            store::trust(&open.dirs, TreeOptions::default())?;
        }
        self.is_spoilt = false;
        self.counts = true;
        Ok(())
    }

    pub(crate) fn push(&mut self, op: LogOp) {
        self.waiting.push_back(op);
    }

    /// Whether its server votes with it, in a configuration in which it may.
    pub(crate) fn votes(&self) -> bool {
        self.is_kept && self.counts
    }

    /// Whether it has all that was ever acknowledged with it.
    pub(crate) fn is_whole(&self) -> bool {
        self.is_kept && !self.is_spoilt && !self.is_torn
    }

    /// Whether it belongs to a server that keeps one.
    pub(crate) fn is_used(&self) -> bool {
        self.open.is_some()
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.waiting.is_empty()
    }

    pub(crate) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Writes the first `count` of what waits; tells what the log's writer reports. Nothing follows what failed.
    pub(crate) fn flush(&mut self, count: usize) -> Result<Vec<Input>, StorageError> {
        let result = self.write_some(count);
        if result.is_err() {
            self.waiting.clear();
        }
        result
    }

    fn write_some(&mut self, count: usize) -> Result<Vec<Input>, StorageError> {
        let (mut reports, mut appended) = (Vec::new(), None);
        for _ in 0..count {
            let Some(op) = self.waiting.pop_front() else {
                break;
            };
            let LogOp::Append(proposal) = op else {
                self.sync(&mut appended, &mut reports)?;
                self.execute(op, &mut reports)?;
                continue;
            };
            let read = self.read;
            let (zxid, log) = (proposal.zxid, &mut self.open_now()?.log);
            let last = log.last().max(read);
            assert!(
                zxid.follows(last) || last == Zxid::ZERO,
                "the log gets {zxid} after {last}"
            );
            log.append(zxid, &proposal.data);
            appended = Some(zxid);
        }
        self.sync(&mut appended, &mut reports)?;
        if let Some(open) = &self.open {
            open.log.mark()?;
        }
        Ok(reports)
    }

    fn sync(
        &mut self,
        appended: &mut Option<Zxid>,
        reports: &mut Vec<Input>,
    ) -> Result<(), StorageError> {
        if let Some(last) = appended.take() {
            self.open_now()?.log.flush()?;
            reports.push(Input::Flushed(last));
        }
        Ok(())
    }

    fn execute(&mut self, op: LogOp, reports: &mut Vec<Input>) -> Result<(), StorageError> {
        match op {
            LogOp::Append(_) => {}
            LogOp::Truncate(to) => {
                let Open { log, dirs, .. } = self.open_now()?;
                let at = match log.truncate(to, dirs.snap_dir()) {
                    Ok(()) => {
                        self.read = Zxid::ZERO;
                        to
                    }
                    // Nothing was cut: the server stays where a restart would find it.
                    Err(StorageError::TruncateTarget { .. }) => {
                        self.stays = true;
                        self.reload()?.replica.last_zxid()
                    }
                    Err(error) => return Err(error),
                };
                reports.push(Input::Truncated(at));
            }
            LogOp::SaveSnapshot(image) => {
                let zxid = image.zxid;
                // A crash may come when the disk has it and nobody knows.
                self.histories.insert(zxid, image.history.clone());
                let Open { log, dirs, .. } = self.open_now()?;
                write(SnapshotWriter::create_new(dirs.snap_dir(), zxid)?, &image)?;
                log.install(zxid, dirs.snap_dir())?;
                self.read = Zxid::ZERO;
                if std::mem::take(&mut self.begins) {
                    self.trust()?;
                }
                reports.push(Input::SnapshotSaved(zxid));
            }
            LogOp::Snapshot(image) => {
                self.histories.insert(image.zxid, image.history.clone());
                let Open { log, dirs, .. } = self.open_now()?;
                epoch::flush_shown(dirs.snap_dir())?;
                log.roll()?;
                // It was taken from a history that is no more.
                if image.zxid <= log.last() {
                    write(SnapshotWriter::create(dirs.snap_dir(), image.zxid)?, &image)?;
                    retention::purge(dirs, KEPT)?;
                }
            }
        }
        Ok(())
    }

    /// The tree as a start would find it, while the server runs.
    pub(crate) fn reload(&self) -> Result<Tree, StorageError> {
        let Some(open) = &self.open else {
            return Ok(Tree::new());
        };
        let read = store::recover(&open.dirs, None, &options(usize::MAX, false, true))?;
        let history = self.history(&open.dirs, read.recent.iter().map(|p| p.zxid));
        Ok(Tree {
            replica: read.replica,
            history,
        })
    }

    /// The process is killed; the system goes on and writes what it was given.
    pub(crate) fn kill(&mut self) {
        self.waiting.clear();
        self.open = None;
        self.sim.crash(Keep::All);
    }

    /// The power fails while what waits is being written. `tears`: of several writes any may last.
    pub(crate) fn crash(&mut self, rng: &mut Rng, tears: bool) {
        let until = self.sim.operations() + rng.range(0, 12);
        self.sim
            .set_faults(|faults| faults.power_until = Some(until));
        // That it fails is the point.
        drop(self.flush(usize::MAX));
        self.waiting.clear();
        self.open = None;
        let keep = match rng.one_in(2) {
            _ if tears => Keep::Some(rng.next()),
            true => Keep::Nothing,
            false => Keep::All,
        };
        self.is_torn |= tears;
        self.sim.crash(keep);
    }

    /// The next flush fails, or there is no room.
    pub(crate) fn fail(&mut self, full: bool) {
        let paths = self.sim.paths();
        let contents = paths.iter().filter_map(|path| self.sim.content(path));
        let used: usize = contents.map(|content| content.len()).sum();
        self.sim.set_faults(|faults| match full {
            true => faults.capacity = Some(used as u64 + 100),
            false => faults.sync_fails = Some("log.".into()),
        });
    }

    /// It works again.
    pub(crate) fn heal(&self) {
        self.sim.set_faults(|faults| *faults = Default::default());
    }

    /// Everything is lost, while the server is down.
    pub(crate) fn wipe(&mut self) {
        self.sim.wipe();
        self.waiting.clear();
        self.open = None;
        self.begins = false;
        self.current_epoch = Epoch(0);
    }

    /// Bytes of some file change, while the server is down; tells which.
    pub(crate) fn rot(&mut self, rng: &mut Rng) -> String {
        let paths = self.sim.paths();
        let Some(path) = rng.pick(&paths.iter().collect::<Vec<_>>()) else {
            return String::new();
        };
        let (place, kind) = (rng.next() as usize, rng.range(0, 3));
        self.sim.rot(path, |bytes| {
            let Some(at) = place.checked_rem(bytes.len()) else {
                return;
            };
            match kind {
                0 => bytes[at] ^= 1 << (place % 8),
                1 => {
                    let end = (at + SECTOR).min(bytes.len());
                    bytes[at..end].fill(0);
                }
                _ => bytes.truncate(at),
            }
        });
        path.display().to_string()
    }
}

fn write(mut file: SnapshotWriter, image: &Image) -> Result<(), StorageError> {
    for piece in image.bytes.chunks(1000) {
        file.write(piece)?;
    }
    file.finish(store::trailer(image.zxid, image.digest, true))?;
    Ok(())
}
