//! The thread that writes the transaction log.
//!
//! Commands are carried out in order. Appends that wait are written together and flushed once ("group commit"); only then
//! [`LogEvent::Flushed`] is reported, so whoever acknowledges on that event never acknowledges what a crash can lose. The
//! first failure is reported as [`LogEvent::Fatal`] and ends the thread: nothing is tried again.

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

/// How long the log waits before it looks for room again.
const FULL_PAUSE: Duration = Duration::from_millis(200);

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
    /// The disk is full, or has room again. While it is full nothing is flushed, and nothing is lost.
    Full(bool),
    /// A write or a flush failed. What is on the disk is unknown and nothing more is written: the process must end.
    Fatal(StorageError),
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
    /// Since when the disk works on a flush.
    busy: Mutex<Option<Instant>>,
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

    /// How long the disk has been working on the flush that it works on now.
    pub fn stuck_for(&self) -> Duration {
        self.busy
            .lock()
            .map_or(Duration::ZERO, |since| since.elapsed())
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
                    if let Err(error) = self.log.mark() {
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
                self.log.roll()?;
            }
            Command::Truncate { to } => {
                self.flush()?;
                match self.log.truncate(to, &self.snap_dir) {
                    Ok(()) => (self.report)(LogEvent::Truncated(to)),
                    Err(refused @ StorageError::TruncateTarget { .. }) => {
                        (self.report)(LogEvent::TruncateRefused(refused));
                    }
                    Err(error) => return Err(error),
                }
            }
            Command::Install { at } => {
                self.flush()?;
                self.log.install(at, &self.snap_dir)?;
                (self.report)(LogEvent::Installed(at));
            }
            Command::Barrier(id) => {
                self.flush()?;
                (self.report)(LogEvent::Barrier(id));
            }
            Command::Stop => {
                self.flush()?;
                self.log.close()?;
            }
        }
        Ok(())
    }

    /// Waits for room as long as what waits fits into the memory that it may take.
    fn flush_when_there_is_room(&mut self) -> Result<Option<Flush>, StorageError> {
        let mut was_full = false;
        loop {
            *self.stats.busy.lock() = Some(Instant::now());
            let flushed = self.log.flush();
            *self.stats.busy.lock() = None;
            let gives_up = self.stats.stopping.load(Ordering::Relaxed)
                || self.stats.queued_bytes() > limits::FULL_DISK_BYTES;
            match flushed {
                Err(error @ StorageError::LogFull { .. }) if !gives_up => {
                    if !was_full {
                        tracing::error!(%error, "nothing is acknowledged until there is room");
                        (self.report)(LogEvent::Full(true));
                    }
                    was_full = true;
                    std::thread::sleep(FULL_PAUSE);
                }
                other => {
                    if was_full {
                        tracing::info!("the disk has room again: the log goes on");
                        (self.report)(LogEvent::Full(false));
                    }
                    return other;
                }
            }
        }
    }

    fn flush(&mut self) -> Result<(), StorageError> {
        if let Some(flush) = self.flush_when_there_is_room()? {
            self.stats.count(&flush, self.slow);
            if let Some(zxid) = self.unreported.take() {
                (self.report)(LogEvent::Flushed(zxid));
            }
        }
        Ok(())
    }
}
