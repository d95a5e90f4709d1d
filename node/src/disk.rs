//! The driver's disk: what is appended, saved, cut and read again, in the order in which the peer asked.
//!
//! The log thread does the work. A snapshot that the peer asked for must be whole before anything after it is appended,
//! so appends are held back while it is written; the snapshots that are taken now and then hold up nothing.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use node_core::proto::quorum::Proposal;
use node_core::proto::txn::TxnEntry;
use node_core::replica::Replica;
use node_core::tree::{ImageReader, TreeOptions};
use node_core::zxid::{Epoch, Zxid};

use crate::config::Config;
use crate::driver::Message;
use crate::net::Report;
use crate::shared::{ActiveSnapshot, Shared};
use crate::storage::dirs::{self, DataDirs};
use crate::storage::epoch::EpochFiles;
use crate::storage::log_reader::LogReader;
use crate::storage::log_writer::{LogEvent, LogStats, LogWriter};
use crate::storage::recovery::{self, Start};
use crate::storage::snapshot::{Fed, SnapshotBody, SnapshotTrailer, SnapshotWriter};
use crate::storage::txn_log::TxnLog;
use crate::storage::{ConsumerError, StorageError, retention};

/// What a server starts from.
#[derive(Debug)]
pub struct Recovered {
    /// Tree and sessions, with the whole log replayed.
    pub replica: Replica,
    /// The end of the log.
    pub recent: VecDeque<Proposal>,
}

struct Body(Option<ImageReader>);

impl SnapshotBody for Body {
    fn feed(&mut self, bytes: &[u8]) -> Result<Fed, ConsumerError> {
        let reader = self
            .0
            .as_mut()
            .ok_or("the snapshot goes on after its end")?;
        let progress = reader.feed(bytes)?;
        Ok(if progress.done {
            Fed::Done(progress.consumed)
        } else {
            Fed::More
        })
    }
}

/// Reads the newest snapshot and the log after it.
pub fn recover(
    dirs: &DataDirs,
    config: &Config,
    options: TreeOptions,
) -> Result<Recovered, StorageError> {
    let fresh = || Body(Some(ImageReader::new(options)));
    let start = recovery::load(dirs, config.storage.trust_empty_snapshot, fresh)?;
    let from = start.zxid();
    let mut replica = match start {
        Start::Empty | Start::LogOnly => Replica::new(options),
        Start::Snapshot(loaded) => {
            let invalid = |what: String| StorageError::SnapshotInvalid {
                path: loaded.file.path.clone(),
                what,
            };
            let reader = loaded
                .body
                .0
                .ok_or_else(|| invalid("it has no tree".into()))?;
            let restored = reader
                .finish()
                .map_err(|error| invalid(error.to_string()))?;
            Replica::restored(restored, from)
        }
    };
    let (mut recent, mut bytes) = (VecDeque::new(), 0);
    recovery::replay(dirs.log_dir(), from, |zxid, data: Bytes| {
        let entry = TxnEntry::decode(data.clone())?;
        replica.apply(&entry.header, &entry.txn);
        bytes += data.len();
        recent.push_back(Proposal { zxid, data });
        let full = |len: usize, bytes| {
            len > config.storage.commit_log_count as usize
                || bytes > crate::limits::COMMITTED_LOG_BYTES
        };
        while full(recent.len(), bytes) {
            let Some(oldest) = recent.pop_front() else {
                break;
            };
            bytes -= oldest.data.len();
        }
        Ok(())
    })?;
    Ok(Recovered { replica, recent })
}

/// Writes the tree of a new server, as Apache does: without it a log alone would not be trusted.
pub fn write_first_snapshot(dirs: &DataDirs, shared: &Arc<Shared>) -> Result<(), StorageError> {
    if dirs::snapshot_files(dirs.snap_dir())?.is_empty() {
        write_snapshot(shared.begin_snapshot(), dirs, &shared.config)?;
    }
    Ok(())
}

fn write_snapshot(
    snapshot: ActiveSnapshot,
    dirs: &DataDirs,
    config: &Config,
) -> Result<(), StorageError> {
    let zxid = snapshot.zxid;
    let mut file = SnapshotWriter::create(dirs.snap_dir(), zxid)?;
    let mut piece = Vec::new();
    loop {
        let Some(done) = snapshot.chunk(&mut piece) else {
            // The tree was replaced: the file has not got its name yet, and is removed.
            return Ok(());
        };
        file.write(&piece)?;
        piece.clear();
        if done {
            break;
        }
    }
    let trailer = SnapshotTrailer {
        // Apache writes a digest of 0 for the tree before the first transaction.
        digest: snapshot
            .digest
            .map(|digest| (zxid, if zxid == Zxid::ZERO { 0 } else { digest })),
        last_zxid: config.storage.serialize_last_zxid.then_some(zxid),
    };
    file.finish(trailer)?;
    Ok(())
}

/// What the log thread was asked for, to know what its report means.
#[derive(Clone, Copy, Debug)]
enum Cut {
    /// By the peer.
    Truncate(Zxid),
    /// Again, to what there is.
    Fallback,
    /// After a snapshot was saved: nothing in the log may follow it.
    AfterSave(Zxid),
}

enum Held {
    Append(Proposal),
    Save(Zxid),
    Truncate(Zxid),
}

/// See the module.
pub struct Disk {
    shared: Arc<Shared>,
    report: Report,
    dirs: Arc<DataDirs>,
    epochs: EpochFiles,
    log: LogWriter,
    cuts: VecDeque<Cut>,
    saving: bool,
    held: VecDeque<Held>,
    /// Appended since the last snapshot.
    appended: u32,
    appended_bytes: u64,
    snapshot_running: bool,
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
        let dirs = DataDirs::open(&config.data_dir, &config.data_log_dir, config.autocreate)?;
        let epochs = EpochFiles::open(dirs.snap_dir(), Zxid::ZERO)?;
        Self::start(shared.clone(), dirs, epochs, report.clone())
    }

    /// Opens the log for writing and starts its thread.
    pub fn start(
        shared: Arc<Shared>,
        dirs: DataDirs,
        epochs: EpochFiles,
        report: Report,
    ) -> Result<Self, StorageError> {
        let storage = &shared.config.storage;
        let log = TxnLog::open(dirs.log_dir(), storage.log)?;
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
            cuts: VecDeque::new(),
            saving: false,
            held: VecDeque::new(),
            appended: 0,
            appended_bytes: 0,
            snapshot_running: false,
        })
    }

    /// How the log's disk does.
    pub fn log_stats(&self) -> &Arc<LogStats> {
        self.log.stats()
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
        self.epochs.save_accepted(epoch)
    }

    /// Saves the current epoch; it is on the disk afterwards.
    pub fn save_current(&mut self, epoch: Epoch) -> Result<(), StorageError> {
        self.epochs.save_current(epoch)
    }

    fn put(&mut self, command: Held) {
        if self.saving {
            self.held.push_back(command);
            return;
        }
        match command {
            Held::Append(Proposal { zxid, data }) => {
                self.appended += 1;
                self.appended_bytes += data.len() as u64;
                self.log.append(zxid, data);
            }
            Held::Truncate(to) => {
                self.cuts.push_back(Cut::Truncate(to));
                self.log.truncate(to);
            }
            Held::Save(zxid) => {
                self.saving = true;
                self.write_in_background(Some(zxid));
            }
        }
    }

    fn write_in_background(&mut self, save: Option<Zxid>) {
        let snapshot = self.shared.begin_snapshot();
        let zxid = snapshot.zxid;
        let (dirs, shared, report) = (self.dirs.clone(), self.shared.clone(), self.report.clone());
        self.snapshot_running = true;
        self.appended = 0;
        self.appended_bytes = 0;
        tokio::task::spawn_blocking(move || {
            let begun = std::time::Instant::now();
            let result = write_snapshot(snapshot, &dirs, &shared.config);
            let ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
            if result.is_ok() {
                tracing::info!(%zxid, ms, "snapshot written");
            }
            report.send(Message::SnapshotWritten { save, result });
        });
    }

    /// Takes a snapshot if enough has been logged since the last one. `spread` in 0..=1 keeps the servers of an ensemble
    /// from doing so at the same time.
    pub fn maybe_snapshot(&mut self, spread: f64) {
        let storage = &self.shared.config.storage;
        let after = |limit: u64| limit / 2 + (limit as f64 / 2.0 * spread) as u64;
        let due = u64::from(self.appended) > after(storage.snap_count.into())
            || storage
                .snap_size_limit_bytes
                .is_some_and(|limit| self.appended_bytes > after(limit));
        if due && !self.snapshot_running && !self.saving {
            self.log.roll();
            self.write_in_background(None);
        }
    }

    /// A snapshot was written, or could not be.
    pub fn snapshot_written(
        &mut self,
        save: Option<Zxid>,
        result: Result<(), StorageError>,
    ) -> Result<(), StorageError> {
        self.snapshot_running = false;
        match (save, result) {
            (Some(zxid), result) => {
                result?;
                self.cuts.push_back(Cut::AfterSave(zxid));
                self.log.truncate(zxid);
            }
            (None, Ok(())) => {}
            (None, Err(error)) => {
                tracing::error!(%error, "a snapshot could not be written; the log goes on, and it is tried again later");
            }
        }
        Ok(())
    }

    /// What the log thread has done.
    pub fn log_event(&mut self, event: LogEvent) -> Result<Outcome, StorageError> {
        match event {
            LogEvent::Flushed(zxid) => Ok(Outcome::Flushed(zxid)),
            LogEvent::Barrier(_) => Ok(Outcome::Nothing),
            LogEvent::Fatal(error) => Err(error),
            LogEvent::Truncated(zxid) => match self.cuts.pop_front() {
                Some(Cut::AfterSave(saved)) => {
                    self.saving = false;
                    for command in std::mem::take(&mut self.held) {
                        self.put(command);
                    }
                    Ok(Outcome::SnapshotSaved(saved))
                }
                _ => {
                    self.reload_if_beyond(zxid)?;
                    Ok(Outcome::Truncated(zxid))
                }
            },
            LogEvent::TruncateRefused(error) => match self.cuts.pop_front() {
                Some(Cut::Truncate(to)) => {
                    let fallback = self.last_not_after(to)?;
                    tracing::warn!(%error, %to, %fallback, "the log cannot be cut there; cutting it further back");
                    self.cuts.push_back(Cut::Fallback);
                    self.log.truncate(fallback);
                    Ok(Outcome::Nothing)
                }
                _ => Err(error),
            },
        }
    }

    /// The last transaction up to `to` that snapshot and log can give.
    fn last_not_after(&self, to: Zxid) -> Result<Zxid, StorageError> {
        let snapshots = dirs::snapshot_files(self.dirs.snap_dir())?;
        let snapshot = snapshots
            .iter()
            .map(|file| file.zxid)
            .filter(|zxid| *zxid <= to)
            .max();
        let from = snapshot.unwrap_or(Zxid::ZERO);
        let mut last = from;
        for record in LogReader::open(self.dirs.log_dir(), Zxid(from.0 + 1))? {
            let record = record?;
            if record.zxid > to {
                break;
            }
            last = record.zxid;
        }
        Ok(last)
    }

    fn reload_if_beyond(&self, zxid: Zxid) -> Result<(), StorageError> {
        if self.shared.replica.read().last_zxid() <= zxid {
            return Ok(());
        }
        let recovered = recover(&self.dirs, &self.shared.config, self.shared.tree_options)?;
        self.shared.replace_replica(recovered.replica);
        Ok(())
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
        self.log.stop();
    }
}
