//! The thread that writes the transaction log.
//!
//! Commands are carried out in order. Appends that wait are written together and flushed once ("group commit"); only then
//! [`LogEvent::Flushed`] is reported, so whoever acknowledges on that event never acknowledges what a crash can lose. The
//! first failure is reported as [`LogEvent::Fatal`] and ends the thread: nothing is tried again, but for what found no room
//! on the disk. That waits until there is some.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use node_core::zxid::Zxid;
use parking_lot::Mutex;

use super::StorageError;
use super::files::Dir;
use super::txn_log::{Flush, TxnLog};
use crate::limits;

/// How often it is noted how far the log was flushed, while there is more to write.
const MARK_EVERY: Duration = Duration::from_millis(50);

/// What the log thread is told to do.
enum Command {
    Append { zxid: Zxid, txn: Bytes },
    Roll,
    Truncate { to: Zxid },
    Install { at: Zxid },
    Barrier(u64),
    Stop,
}

/// What the log thread reports, in the order of the commands.
#[derive(Debug)]
pub enum LogEvent {
    /// Every appended transaction up to this one is on stable storage.
    Flushed(Zxid),
    /// The log ends with this transaction, and no snapshot is newer.
    Truncated(Zxid),
    /// The snapshot of this zxid has taken the place of everything.
    Installed(Zxid),
    /// The log holds no transaction to truncate to; nothing was changed.
    TruncateRefused(StorageError),
    /// Everything before this barrier is done.
    Barrier(u64),
    /// The disk has become full, or has room again ([`LogStats::disk_state`]). Nothing is lost, and nothing flushed
    /// meanwhile.
    Full(bool),
    /// A write or a flush failed. What is on the disk is unknown and nothing more is written: the process must end.
    Fatal(StorageError),
}

/// Whether the disk takes what it is given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DiskState {
    /// It does.
    #[default]
    Works,
    /// There is no room for what waits.
    Full,
    /// It has been at one thing for longer than [`limits::DISK_STUCK_MS`].
    Stuck,
}

impl DiskState {
    /// In a word.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Works => "works",
            Self::Full => "is full",
            Self::Stuck => "hangs",
        }
    }
}

/// How the disk does. Read by metrics at any time.
#[derive(Debug, Default)]
pub struct LogStats {
    flushes: AtomicU64,
    sync_us: AtomicU64,
    sync_max_us: AtomicU64,
    slow: AtomicU64,
    transactions: AtomicU64,
    bytes: AtomicU64,
    queued_bytes: AtomicUsize,
    /// Since when the disk has been at what it does now.
    busy: Mutex<Option<Instant>>,
    full: AtomicBool,
    /// Whether a snapshot that must be written waits for room.
    snapshot_waits: AtomicBool,
    stopping: AtomicBool,
}

impl LogStats {
    /// Flushes that were done.
    pub fn flushes(&self) -> u64 {
        self.flushes.load(Ordering::Relaxed)
    }

    /// Transactions that were flushed.
    pub fn transactions(&self) -> u64 {
        self.transactions.load(Ordering::Relaxed)
    }

    /// Bytes that were written.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// The time that all flushes took, in microseconds.
    pub fn sync_total_us(&self) -> u64 {
        self.sync_us.load(Ordering::Relaxed)
    }

    /// The slowest flush, in microseconds.
    pub fn sync_max_us(&self) -> u64 {
        self.sync_max_us.load(Ordering::Relaxed)
    }

    /// The mean flush, in microseconds.
    pub fn sync_avg_us(&self) -> u64 {
        self.sync_total_us()
            .checked_div(self.flushes())
            .unwrap_or(0)
    }

    /// Flushes that took longer than `fsync.warningthresholdms`.
    pub fn slow_flushes(&self) -> u64 {
        self.slow.load(Ordering::Relaxed)
    }

    /// Bytes of transactions that were handed over and are not written yet.
    pub fn queued_bytes(&self) -> usize {
        self.queued_bytes.load(Ordering::Relaxed)
    }

    /// Whether the disk takes what the log gives it.
    pub fn disk_state(&self) -> DiskState {
        let since = *self.busy.lock();
        let stuck = Duration::from_millis(limits::DISK_STUCK_MS);
        if since.is_some_and(|since| since.elapsed() >= stuck) {
            DiskState::Stuck
        } else if [&self.full, &self.snapshot_waits]
            .iter()
            .any(|waits| waits.load(Ordering::Relaxed))
        {
            DiskState::Full
        } else {
            DiskState::Works
        }
    }

    /// Whether the log is about to end.
    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    /// Whether a snapshot that must be written waits for room from now on; tells whether one did before.
    pub fn snapshot_waits(&self, waits: bool) -> bool {
        self.snapshot_waits.swap(waits, Ordering::Relaxed)
    }

    /// When the disk will count as stuck, if it does not get done before.
    pub fn stuck_at(&self) -> Option<Instant> {
        let since = *self.busy.lock();
        since.map(|since| since + Duration::from_millis(limits::DISK_STUCK_MS))
    }

    /// Starts the maximum anew, as the four-letter word `srst` does.
    pub fn reset_max(&self) {
        self.sync_max_us.store(0, Ordering::Relaxed);
    }

    fn count(&self, flush: &Flush, slow: Duration) {
        let us = u64::try_from(flush.sync_time.as_micros()).unwrap_or(u64::MAX);
        self.flushes.fetch_add(1, Ordering::Relaxed);
        self.transactions
            .fetch_add(flush.transactions, Ordering::Relaxed);
        self.bytes.fetch_add(flush.bytes, Ordering::Relaxed);
        self.sync_us.fetch_add(us, Ordering::Relaxed);
        self.sync_max_us.fetch_max(us, Ordering::Relaxed);
        if flush.sync_time > slow {
            self.slow.fetch_add(1, Ordering::Relaxed);
            tracing::warn!(
                ms = us / 1000,
                transactions = flush.transactions,
                "flushing the transaction log took long; writes are as slow as this disk"
            );
        }
    }
}

/// The handle to the log thread. Dropping it flushes what waits and ends the thread.
#[derive(Debug)]
pub struct LogWriter {
    commands: Sender<Command>,
    stats: Arc<LogStats>,
    thread: Option<JoinHandle<()>>,
}

impl LogWriter {
    /// Starts the thread. It calls `report` itself, so that must not block. Flushes that take longer than `slow` are
    /// warned about. `snap_dir` is where a truncation removes newer snapshots.
    pub fn start(
        log: TxnLog,
        snap_dir: Dir,
        slow: Duration,
        report: impl FnMut(LogEvent) + Send + 'static,
    ) -> Result<Self, StorageError> {
        let (commands, received) = channel();
        let stats = Arc::new(LogStats::default());
        let thread = Thread {
            log,
            snap_dir,
            slow,
            report,
            stats: Arc::clone(&stats),
            unreported: None,
            marked: Instant::now(),
        };
        let thread = std::thread::Builder::new()
            .name("log".to_owned())
            .spawn(move || thread.run(&received))
            .map_err(|source| StorageError::Io {
                act: "start the thread of",
                path: PathBuf::from("the log"),
                source,
            })?;
        Ok(Self {
            commands,
            stats,
            thread: Some(thread),
        })
    }

    /// Appends a transaction (header, body, digest). [`LogEvent::Flushed`] with its zxid, or a later one, follows.
    pub fn append(&self, zxid: Zxid, txn: Bytes) {
        self.stats
            .queued_bytes
            .fetch_add(txn.len(), Ordering::Relaxed);
        self.send(Command::Append { zxid, txn });
    }

    /// Starts a new log file with the next append.
    pub fn roll(&self) {
        self.send(Command::Roll);
    }

    /// Removes every transaction after `to`. [`LogEvent::Truncated`] or [`LogEvent::TruncateRefused`] follows.
    pub fn truncate(&self, to: Zxid) {
        self.send(Command::Truncate { to });
    }

    /// Lets the snapshot of `at` that waits for it take the place of everything. [`LogEvent::Installed`] follows.
    pub fn install(&self, at: Zxid) {
        self.send(Command::Install { at });
    }

    /// Has [`LogEvent::Barrier`] reported when everything before is done.
    pub fn barrier(&self, id: u64) {
        self.send(Command::Barrier(id));
    }

    /// How the disk does.
    #[must_use]
    pub fn stats(&self) -> &Arc<LogStats> {
        &self.stats
    }

    /// Flushes what waits and ends the thread.
    pub fn stop(self) {}

    fn send(&self, command: Command) {
        // A thread that has ended has reported Fatal, which is all there is to say.
        let _ = self.commands.send(command);
    }
}

impl Drop for LogWriter {
    fn drop(&mut self) {
        self.stats.stopping.store(true, Ordering::Relaxed);
        self.send(Command::Stop);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the log thread panicked");
        }
    }
}

struct Thread<R> {
    log: TxnLog,
    snap_dir: Dir,
    slow: Duration,
    report: R,
    stats: Arc<LogStats>,
    unreported: Option<Zxid>,
    marked: Instant,
}

impl<R: FnMut(LogEvent)> Thread<R> {
    fn run(mut self, commands: &Receiver<Command>) {
        loop {
            let mut next = commands.try_recv().ok();
            if next.is_none() {
                // Nothing waits any more: this is the batch.
                if let Err(error) = self.flush() {
                    return (self.report)(LogEvent::Fatal(error));
                }
                next = commands.try_recv().ok();
                // While there is always more to do it is enough to note now and then how far it went.
                if next.is_none() || self.marked.elapsed() >= MARK_EVERY {
                    if let Err(error) = self.on_disk(|log, _| log.mark()) {
                        return (self.report)(LogEvent::Fatal(error));
                    }
                    self.marked = Instant::now();
                }
                if next.is_none() {
                    next = commands.recv().ok();
                }
            }
            let Some(command) = next else { return };
            let stop = matches!(command, Command::Stop);
            if let Err(error) = self.carry_out(command) {
                return (self.report)(LogEvent::Fatal(error));
            }
            if stop {
                return;
            }
        }
    }

    fn carry_out(&mut self, command: Command) -> Result<(), StorageError> {
        match command {
            Command::Append { zxid, txn } => {
                self.log.append(zxid, &txn);
                self.stats
                    .queued_bytes
                    .fetch_sub(txn.len(), Ordering::Relaxed);
                self.unreported = Some(zxid);
                if self.log.waiting_bytes() >= limits::LOG_BATCH_BYTES {
                    self.flush()?;
                }
            }
            Command::Roll => {
                self.flush()?;
                self.on_disk(|log, _| log.roll())?;
            }
            Command::Truncate { to } => {
                self.flush()?;
                match self.on_disk(|log, snap_dir| log.truncate(to, snap_dir)) {
                    Ok(()) => (self.report)(LogEvent::Truncated(to)),
                    Err(refused @ StorageError::TruncateTarget { .. }) => {
                        (self.report)(LogEvent::TruncateRefused(refused));
                    }
                    Err(error) => return Err(error),
                }
            }
            Command::Install { at } => {
                self.flush()?;
                self.on_disk(|log, snap_dir| log.install(at, snap_dir))?;
                (self.report)(LogEvent::Installed(at));
            }
            Command::Barrier(id) => {
                self.flush()?;
                (self.report)(LogEvent::Barrier(id));
            }
            Command::Stop => {
                self.flush()?;
                self.on_disk(|log, _| log.close())?;
            }
        }
        Ok(())
    }

    /// Does something with the log, again and again while there is no room, as long as what waits fits into the memory that
    /// it may take.
    fn on_disk<T>(
        &mut self,
        act: impl Fn(&mut TxnLog, &Dir) -> Result<T, StorageError>,
    ) -> Result<T, StorageError> {
        loop {
            *self.stats.busy.lock() = Some(Instant::now());
            let done = act(&mut self.log, &self.snap_dir);
            *self.stats.busy.lock() = None;
            let gives_up = self.stats.stopping.load(Ordering::Relaxed)
                || self.stats.queued_bytes() > limits::FULL_DISK_BYTES;
            let waits = !gives_up && matches!(&done, Err(error) if error.is_full());
            if self.stats.full.swap(waits, Ordering::Relaxed) != waits {
                (self.report)(LogEvent::Full(waits));
            }
            if !waits {
                return done;
            }
            std::thread::sleep(limits::FULL_DISK_PAUSE);
        }
    }

    fn flush(&mut self) -> Result<(), StorageError> {
        if let Some(flush) = self.on_disk(|log, _| log.flush())? {
            self.stats.count(&flush, self.slow);
            if let Some(zxid) = self.unreported.take() {
                (self.report)(LogEvent::Flushed(zxid));
            }
        }
        Ok(())
    }
}
