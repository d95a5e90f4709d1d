//! What the driver, the connections and the disk share: the replica above all.
//!
//! Lock order: replica, then watches, then a connection's outbox. Only the driver changes the replica.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use node_core::replica::Replica;
use node_core::tree::{SnapshotId, TreeOptions};
use node_core::watch::{ConnectionId, WatchTable};
use node_core::zxid::{Time, Zxid};
use parking_lot::{Mutex, RwLock};
use tokio::sync::Notify;

use crate::config::Config;
use crate::limits;
use crate::metrics::Metrics;
use crate::net::outbox::Connection;
use crate::status::Status;
use crate::storage::files::FileSystem;

/// Nodes that are taken from the tree for a snapshot under one lock.
const SNAPSHOT_NODES: usize = 256;

/// See the module.
pub struct Shared {
    /// What was read at the start.
    pub config: Config,
    /// Where its data lie.
    pub files: Arc<dyn FileSystem>,
    /// Tree and sessions.
    pub replica: RwLock<Replica>,
    /// Counts how often another replica took the place of the old one; changed under the replica's lock.
    pub generation: AtomicU64,
    /// The watches of this server's clients.
    pub watches: Mutex<WatchTable>,
    /// The connections of clients that have a session, or are about to.
    pub connections: Mutex<HashMap<ConnectionId, Arc<Connection>>>,
    /// Whether clients are served.
    pub serving: AtomicBool,
    /// Until when reads are answered.
    pub freshness: Freshness,
    /// Bytes of all requests that wait for their commit.
    pub outstanding_bytes: AtomicUsize,
    /// What the driver last said of itself.
    pub status: Mutex<Status>,
    /// Counters.
    pub metrics: Metrics,
    /// What a tree is built with.
    pub tree_options: TreeOptions,
}

impl Shared {
    /// Whether one more request may wait for its commit; if so its bytes are counted until [`answered`](Self::answered).
    /// A connection without any waiting request may always send one, so that nobody waits for ever.
    pub fn admit_write(&self, bytes: usize, is_first: bool) -> bool {
        let before = self.outstanding_bytes.fetch_add(bytes, Ordering::Relaxed);
        if before + bytes > limits::OUTSTANDING_BYTES && !is_first {
            self.answered(bytes);
            return false;
        }
        true
    }

    /// A request that waited has been answered, or its client is gone.
    pub fn answered(&self, bytes: usize) {
        self.outstanding_bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Whether clients are served.
    pub fn is_serving(&self) -> bool {
        self.serving.load(Ordering::Acquire)
    }

    /// Puts another replica in the place of the old one. Snapshots of the old one end.
    pub fn replace_replica(&self, replica: Replica) {
        let mut current = self.replica.write();
        self.generation.fetch_add(1, Ordering::Relaxed);
        *current = replica;
    }

    /// Begins a snapshot of what the replica holds now.
    pub fn begin_snapshot(self: &Arc<Self>) -> ActiveSnapshot {
        let mut replica = self.replica.write();
        ActiveSnapshot {
            zxid: replica.last_zxid(),
            digest: replica.tree().digest(),
            id: replica.begin_snapshot(),
            generation: self.generation.load(Ordering::Relaxed),
            shared: self.clone(),
        }
    }
}

/// Until when a server may answer from what it has. A server that has slept may have lost its ensemble without knowing:
/// until it has heard its leader, or as the leader a quorum, its clients' requests wait.
#[derive(Debug)]
pub struct Freshness {
    started: Instant,
    until_ms: AtomicU64,
    renewed: Notify,
}

impl Freshness {
    /// With the clock that the driver's times are counted by.
    #[must_use]
    pub fn new(started: Instant) -> Self {
        Self {
            started,
            until_ms: AtomicU64::new(0),
            renewed: Notify::new(),
        }
    }

    /// The driver knows more.
    pub fn renew(&self, until: Time) {
        let was_stale = !self.is_fresh();
        self.until_ms.store(until.0, Ordering::Release);
        if was_stale {
            self.renewed.notify_waiters();
        }
    }

    /// Whether requests may be answered now.
    #[must_use]
    pub fn is_fresh(&self) -> bool {
        let until = Duration::from_millis(self.until_ms.load(Ordering::Acquire));
        self.started.elapsed() <= until
    }

    /// Ends when it may have become fresh again. To be called before [`is_fresh`](Self::is_fresh) is asked.
    pub fn renewed(&self) -> impl Future<Output = ()> {
        self.renewed.notified()
    }
}

/// A snapshot that is being taken. It ends when this is dropped.
pub struct ActiveSnapshot {
    /// The last transaction that it holds.
    pub zxid: Zxid,
    /// The tree's digest, if it is kept.
    pub digest: Option<i64>,
    shared: Arc<Shared>,
    generation: u64,
    id: SnapshotId,
}

impl ActiveSnapshot {
    /// Appends the next piece; tells whether it was the last. `None` if the replica has been replaced: what was written
    /// so far is of no use.
    pub fn chunk(&self, piece: &mut Vec<u8>) -> Option<bool> {
        let mut replica = self.shared.replica.write();
        let is_current = self.shared.generation.load(Ordering::Relaxed) == self.generation;
        is_current.then(|| replica.snapshot_chunk(self.id, SNAPSHOT_NODES, piece))
    }
}

impl ActiveSnapshot {
    /// Another one of the same replica as it is by now. `None` if that has been replaced.
    pub fn again(&self) -> Option<Self> {
        let again = self.shared.begin_snapshot();
        (again.generation == self.generation).then_some(again)
    }
}

impl Drop for ActiveSnapshot {
    fn drop(&mut self) {
        let mut replica = self.shared.replica.write();
        if self.shared.generation.load(Ordering::Relaxed) == self.generation {
            replica.end_snapshot(self.id);
        }
    }
}
