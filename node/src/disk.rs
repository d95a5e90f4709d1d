//! The driver's disk: what is appended, saved, cut and read again, in the order in which the peer asked.
//!
//! The log thread does the work. A snapshot that the peer asked for must be whole before anything after it is appended,
//! so appends are held back while it is written; the snapshots that are taken now and then hold up nothing.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use node_core::proto::quorum::Proposal;
use node_core::tree::TreeOptions;
use node_core::zxid::{Epoch, Zxid};

use crate::config::{Config, ConfigError, Quorum, Role};
use crate::driver::Message;
use crate::limits;
use crate::net::Report;
use crate::shared::{ActiveSnapshot, Shared};
use crate::storage::dirs::DataDirs;
use crate::storage::epoch::{self, EpochFiles};
use crate::storage::log_writer::{DiskState, LogEvent, LogStats, LogWriter};
use crate::storage::marks::Marks;
use crate::storage::snapshot::SnapshotWriter;
use crate::storage::txn_log::TxnLog;
use crate::storage::{StorageError, retention};
use crate::store::{self, StoreOptions};

/// When a snapshot that could not be written is tried again.
const SNAPSHOT_AGAIN: Duration = Duration::from_secs(60);

/// What came of a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// It holds everything up to this.
    Whole(Zxid),
    /// The tree was replaced meanwhile: there is none.
    Superseded,
}

fn write_snapshot(
    snapshot: &ActiveSnapshot,
    dirs: &DataDirs,
    config: &Config,
    to_install: bool,
) -> Result<Written, StorageError> {
    let zxid = snapshot.zxid;
    let mut file = match to_install {
        true => SnapshotWriter::create_new(dirs.snap_dir(), zxid)?,
        false => SnapshotWriter::create(dirs.snap_dir(), zxid)?,
    };
    let mut piece = Vec::new();
    loop {
        let Some(done) = snapshot.chunk(&mut piece) else {
            // The tree was replaced: the file has not got its name yet, and is removed.
            return Ok(Written::Superseded);
        };
        file.write(&piece)?;
        piece.clear();
        if done {
            break;
        }
    }
    let with_last_zxid = config.storage.serialize_last_zxid;
    file.finish(store::trailer(zxid, snapshot.digest, with_last_zxid))?;
    Ok(Written::Whole(zxid))
}

/// Writes a snapshot. What is to take the place of everything is needed, and waits for room.
fn write_until_done(
    mut snapshot: ActiveSnapshot,
    dirs: &DataDirs,
    shared: &Shared,
    to_install: bool,
    waits: impl Fn(bool) -> bool,
) -> Result<Written, StorageError> {
    loop {
        let written = write_snapshot(&snapshot, dirs, &shared.config, to_install);
        let is_full = matches!(&written, Err(error) if error.is_full());
        if !waits(to_install && is_full) {
            return written;
        }
        std::thread::sleep(limits::FULL_DISK_PAUSE);
        match snapshot.again() {
            Some(again) => snapshot = again,
            None => {
                waits(false);
                return Ok(Written::Superseded);
            }
        }
    }
}

enum Held {
    Append(Proposal),
    Save(Zxid),
    Truncate(Zxid),
}

/// Whether all that is missing is room.
#[must_use]
pub fn is_full(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        let storage = match cause.downcast_ref::<ConfigError>() {
            Some(ConfigError::Storage(error)) => Some(error),
            _ => cause.downcast_ref::<StorageError>(),
        };
        storage.is_some_and(StorageError::is_full)
    })
}

/// The files of a server, opened.
#[derive(Debug)]
pub struct Files {
    /// The directories, locked.
    pub dirs: DataDirs,
    /// The epochs.
    pub epochs: EpochFiles,
    /// What is known to be on stable storage.
    pub marks: Marks,
}

/// How the files of a server with this configuration are opened.
#[must_use]
pub fn store_options(config: &Config, tree: TreeOptions) -> StoreOptions {
    let is_other = |quorum: &Quorum| {
        let others = quorum.membership.servers.iter();
        others
            .filter(|server| server.role == Role::Participant)
            .any(|server| server.id != quorum.my_id)
    };
    StoreOptions {
        data_dir: config.data_dir.clone(),
        data_log_dir: config.data_log_dir.clone(),
        autocreate: config.autocreate,
        trust_empty_snapshot: config.storage.trust_empty_snapshot,
        trust_empty: config.storage.trust_empty,
        others: config.quorum.as_ref().is_some_and(is_other),
        recent: config.storage.commit_log_count as usize,
        tree,
    }
}

/// Apache's servers, and people, read these files; this one goes by its marks.
fn flush_epochs(dirs: &DataDirs) {
    if let Err(error) = epoch::flush_shown(dirs.snap_dir()) {
        tracing::warn!(%error, "the epochs' files could not be flushed; the marks have the epochs");
    }
}

/// See the module.
pub struct Disk {
    shared: Arc<Shared>,
    report: Report,
    dirs: Arc<DataDirs>,
    epochs: EpochFiles,
    log: LogWriter,
    options: StoreOptions,
    /// What the peer calls the snapshot that takes the place of everything, while it is written and installed.
    saving: Option<Zxid>,
    held: VecDeque<Held>,
    /// Appended since the last snapshot.
    appended: u32,
    appended_bytes: u64,
    snapshot_running: bool,
    /// When a snapshot that could not be written is tried again.
    snapshot_again: Option<Instant>,
    /// When the epochs' files were tried last, if they still say less than the marks.
    epochs_behind: Option<Instant>,
    /// Since when the epochs' files wait for a flush.
    epochs_shown: Option<Instant>,
    /// Whether it has only begun to keep anything: it counts from the first snapshot on.
    begins: bool,
}

/// What the driver has to do about a report of the disk.
#[derive(Debug)]
pub enum Outcome {
    /// Tell the peer.
    Flushed(Zxid),
    /// Tell the peer.
    Truncated(Zxid),
    /// Tell the peer.
    SnapshotSaved(Zxid),
    /// Nothing.
    Nothing,
}

impl Disk {
    /// Begins to keep what was not kept so far. What may lie there from an earlier life is overtaken by the snapshot that
    /// the peer saves before anything else.
    pub fn open(shared: &Arc<Shared>, report: &Report) -> Result<Self, StorageError> {
        let config = &shared.config;
        let (data, log) = (&config.data_dir, &config.data_log_dir);
        let dirs = DataDirs::open_on(shared.files.clone(), data, log, config.autocreate)?;
        let (marks, epochs) = store::empty(&dirs)?;
        let files = Files {
            dirs,
            epochs,
            marks,
        };
        let mut disk = Self::start(shared.clone(), files, report.clone())?;
        disk.begins = true;
        Ok(disk)
    }

    /// Opens the log for writing and starts its thread.
    pub fn start(shared: Arc<Shared>, files: Files, report: Report) -> Result<Self, StorageError> {
        let Files {
            dirs,
            epochs,
            marks,
        } = files;
        let options = store_options(&shared.config, shared.tree_options);
        let storage = &shared.config.storage;
        let log = TxnLog::open(dirs.log_dir(), storage.log)?.with_marks(marks)?;
        let to_driver = report.clone();
        let log = LogWriter::start(
            log,
            dirs.snap_dir().clone(),
            storage.fsync_warning,
            move |event| {
                to_driver.send(Message::Log(event));
            },
        )?;
        Ok(Self {
            shared,
            report,
            dirs: Arc::new(dirs),
            epochs,
            log,
            options,
            saving: None,
            held: VecDeque::new(),
            appended: 0,
            appended_bytes: 0,
            snapshot_running: false,
            snapshot_again: None,
            epochs_behind: None,
            epochs_shown: None,
            begins: false,
        })
    }

    /// How the log's disk does.
    pub fn log_stats(&self) -> &Arc<LogStats> {
        self.log.stats()
    }

    /// When its state is to be looked at again, if nothing is heard of it before.
    pub fn look_again_at(&self) -> Option<Instant> {
        let soon = Instant::now() + limits::FULL_DISK_PAUSE;
        let is_ill =
            self.epochs_behind.is_some() || self.log.stats().disk_state() != DiskState::Works;
        let looks = is_ill.then_some(soon);
        let shown = self.epochs_shown.filter(|_| !is_ill);
        let flushes = shown.map(|at| at + limits::EPOCH_FILES_FLUSH);
        let stuck_at = self.log.stats().stuck_at();
        [looks, flushes, stuck_at].into_iter().flatten().min()
    }

    /// Goes on with the epochs' files that found no room, and flushes them when the election is over: it would have to
    /// wait for that.
    pub fn catch_up(&mut self) -> Result<(), StorageError> {
        let pause = limits::FULL_DISK_PAUSE;
        if self
            .epochs_behind
            .is_some_and(|tried| tried.elapsed() >= pause)
        {
            self.epochs.catch_up()?;
            self.epochs_behind = self.epochs.is_behind().then(Instant::now);
        }
        if self
            .epochs_shown
            .is_some_and(|at| at.elapsed() >= limits::EPOCH_FILES_FLUSH)
        {
            self.epochs_shown = None;
            let dirs = self.dirs.clone();
            tokio::task::spawn_blocking(move || flush_epochs(&dirs));
        }
        Ok(())
    }

    /// Appends to the log.
    pub fn append(&mut self, proposal: Proposal) {
        self.put(Held::Append(proposal));
    }

    /// Saves the replica as a snapshot after which the log begins anew.
    pub fn save_snapshot(&mut self, zxid: Zxid) {
        self.put(Held::Save(zxid));
    }

    /// Cuts the log.
    pub fn truncate(&mut self, to: Zxid) {
        self.put(Held::Truncate(to));
    }

    /// Saves the accepted epoch; it is on the disk afterwards.
    pub fn save_accepted(&mut self, epoch: Epoch) -> Result<(), StorageError> {
        let saved = self.epochs.save_accepted(epoch);
        self.epochs_changed();
        saved
    }

    /// Saves the current epoch; it is on the disk afterwards.
    pub fn save_current(&mut self, epoch: Epoch) -> Result<(), StorageError> {
        let saved = self.epochs.save_current(epoch);
        self.epochs_changed();
        saved
    }

    fn epochs_changed(&mut self) {
        let now = Instant::now();
        self.epochs_behind = self.epochs.is_behind().then_some(now);
        self.epochs_shown = Some(now);
    }

    fn put(&mut self, command: Held) {
        if self.saving.is_some() {
            self.held.push_back(command);
            return;
        }
        match command {
            Held::Append(Proposal { zxid, data }) => {
                self.appended += 1;
                self.appended_bytes += data.len() as u64;
                self.log.append(zxid, data);
            }
            Held::Truncate(to) => self.log.truncate(to),
            Held::Save(zxid) => {
                self.saving = Some(zxid);
                self.write_in_background(true);
            }
        }
    }

    fn write_in_background(&mut self, to_install: bool) {
        let snapshot = self.shared.begin_snapshot();
        let zxid = snapshot.zxid;
        let (dirs, shared, report) = (self.dirs.clone(), self.shared.clone(), self.report.clone());
        let (stats, to_driver) = (self.log.stats().clone(), report.clone());
        let waits = move |waits| {
            let waits = waits && !stats.is_stopping();
            if stats.snapshot_waits(waits) != waits {
                to_driver.send(Message::Log(LogEvent::Full(waits)));
            }
            waits
        };
        self.snapshot_running = true;
        self.snapshot_again = None;
        self.appended = 0;
        self.appended_bytes = 0;
        tokio::task::spawn_blocking(move || {
            let begun = Instant::now();
            let result = write_until_done(snapshot, &dirs, &shared, to_install, waits);
            let ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
            if result.is_ok() {
                tracing::info!(%zxid, ms, "snapshot written");
            }
            report.send(Message::SnapshotWritten { to_install, result });
        });
    }

    /// Takes a snapshot if enough has been logged since the last one. `spread` in 0..=1 keeps the servers of an ensemble
    /// from doing so at the same time.
    pub fn maybe_snapshot(&mut self, spread: f64) {
        let storage = &self.shared.config.storage;
        let after = |limit: u64| limit / 2 + (limit as f64 / 2.0 * spread) as u64;
        let due = self.snapshot_again.is_some_and(|at| at <= Instant::now())
            || u64::from(self.appended) > after(storage.snap_count.into())
            || storage
                .snap_size_limit_bytes
                .is_some_and(|limit| self.appended_bytes > after(limit));
        if due && !self.snapshot_running && self.saving.is_none() {
            self.log.roll();
            self.write_in_background(false);
        }
    }

    /// A snapshot was written, or could not be.
    pub fn snapshot_written(
        &mut self,
        to_install: bool,
        result: Result<Written, StorageError>,
    ) -> Result<(), StorageError> {
        self.snapshot_running = false;
        match result {
            Ok(Written::Whole(zxid)) if to_install => self.log.install(zxid),
            Ok(Written::Superseded) if to_install => self.drop_superseded(),
            Ok(_) => {}
            Err(error) if to_install => return Err(error),
            Err(error) => {
                tracing::error!(%error, "a snapshot could not be written; the log goes on, and it is tried again later");
                self.snapshot_again = Some(Instant::now() + SNAPSHOT_AGAIN);
            }
        }
        Ok(())
    }

    /// Another tree came before this one was saved. It is saved next; what was to follow the old one is void.
    fn drop_superseded(&mut self) {
        self.saving = None;
        let mut held = std::mem::take(&mut self.held);
        while matches!(held.front(), Some(Held::Append(_))) {
            held.pop_front();
        }
        for command in held {
            self.put(command);
        }
    }

    /// What the log thread has done.
    pub fn log_event(&mut self, event: LogEvent) -> Result<Outcome, StorageError> {
        match event {
            LogEvent::Flushed(zxid) => Ok(Outcome::Flushed(zxid)),
            // The state itself is looked at after each batch.
            LogEvent::Barrier(_) | LogEvent::Full(_) => Ok(Outcome::Nothing),
            LogEvent::Fatal(error) => Err(error),
            LogEvent::Installed(zxid) => {
                if std::mem::take(&mut self.begins) {
                    self.trust()?;
                }
                let asked = self.saving.take().unwrap_or(zxid);
                for command in std::mem::take(&mut self.held) {
                    self.put(command);
                }
                Ok(Outcome::SnapshotSaved(asked))
            }
            LogEvent::Truncated(zxid) => {
                self.reload_if_beyond(zxid)?;
                Ok(Outcome::Truncated(zxid))
            }
            // Nothing was cut: the server stays where a restart would find it, until the leader's copy is on the disk.
            LogEvent::TruncateRefused(error) => {
                let last = self.reload()?;
                tracing::warn!(%error, %last, "the log cannot be cut there; everything is asked from the leader");
                Ok(Outcome::Truncated(last))
            }
        }
    }

    fn reload_if_beyond(&self, zxid: Zxid) -> Result<(), StorageError> {
        if self.shared.replica.read().last_zxid() > zxid {
            self.reload()?;
        }
        Ok(())
    }

    /// Takes the replica from the disk again; gives its end.
    fn reload(&self) -> Result<Zxid, StorageError> {
        let recovered = store::recover(&self.dirs, None, &self.options)?;
        let last = recovered.replica.last_zxid();
        self.shared.replace_replica(recovered.replica);
        Ok(last)
    }

    /// The history can be trusted from now on, after a restart too.
    pub fn trust(&self) -> Result<(), StorageError> {
        tracing::info!("this server has the ensemble's history: it votes from now on");
        store::trust(&self.dirs, self.options.tree)
    }

    /// Removes snapshots and log files that no recovery needs any more.
    pub fn purge(&self) {
        let (dirs, keep) = (
            self.dirs.clone(),
            self.shared.config.storage.snap_retain_count as usize,
        );
        tokio::task::spawn_blocking(move || match retention::purge(&dirs, keep) {
            Ok(removed) if removed.is_empty() => {}
            Ok(removed) => tracing::info!(files = removed.len(), "old snapshots and logs removed"),
            Err(error) => tracing::warn!(%error, "old snapshots and logs could not be removed"),
        });
    }

    /// Flushes what waits and ends the log thread.
    pub fn stop(self) {
        flush_epochs(&self.dirs);
        self.log.stop();
    }
}
