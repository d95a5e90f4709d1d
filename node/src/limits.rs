//! Every limit of the server, in one place.
//!
//! A limit that the configuration can change has its default here and its key in `config::keys`; the others are fixed. A
//! limit that is reached is never silent: the connection waits, is closed, or the caller gets an error.

use std::time::Duration;

/// The most bytes of a client's request, and of a znode with its path and ACL (`jute.maxbuffer`).
pub const FRAME_BYTES: usize = 0xf_ffff;

/// Write requests of all connections that may wait for their commits (`globalOutstandingLimit`).
pub const OUTSTANDING: u32 = 1_000;

/// Connections from one address (`maxClientCnxns`); 0 is no limit.
pub const CONNECTIONS_PER_ADDRESS: u32 = 60;

/// Connections altogether (`maxCnxns`); 0 is no limit.
pub const CONNECTIONS: u32 = 0;

/// Committed proposals kept in memory to bring a learner up to date without a snapshot (`commitLogCount`).
pub const COMMITTED_LOG: usize = 500;

/// The most bytes of a session handshake: before it a peer has proved nothing, and a genuine one takes 45 bytes.
pub const CONNECT_REQUEST_BYTES: usize = 10_240;

/// Reply bytes of one connection that are collected before they are sent. While the socket does not take them no further
/// request is answered, so a client that does not read its replies costs this much and one reply more.
pub const OUTBOX_PAUSE_BYTES: usize = 256 * 1024;

/// The largest buffer that a connection keeps when all is sent.
pub const OUTBOX_KEPT_BYTES: usize = 64 * 1024;

/// Unsent reply and watch-event bytes of one connection at which it is closed: events come without a request, so
/// pausing its requests does not bound them.
pub const OUTBOX_CLOSE_BYTES: usize = 64 * 1024 * 1024;

/// Requests of one connection that may wait for their answers before its socket is no longer read.
pub const CONNECTION_OUTSTANDING: usize = 1_000;

/// Bytes of all write requests that may wait for their commits.
pub const OUTSTANDING_BYTES: usize = 100 * 1024 * 1024;

/// Bytes that are read from a client's socket at once.
pub const SOCKET_READ_BYTES: usize = 64 * 1024;

/// Connections to the election port that have not yet said who they are.
pub const ELECTION_HANDSHAKES: usize = 64;

/// The most bytes of a packet between learner and leader. A proposal holds a client's request with its header.
pub const QUORUM_PACKET_BYTES: usize = 64 * 1024 * 1024;

/// Connections to the quorum port. Learners need one each; how many may wait to be let in is the protocol's affair.
pub const QUORUM_LINKS: usize = 1_024;

/// Unsent bytes to one learner at which it is disconnected: it then comes back and is synchronised, by a snapshot if need
/// be.
pub const LEARNER_QUEUE_BYTES: usize = 256 * 1024 * 1024;

/// Bytes of the committed proposals kept in memory.
pub const COMMITTED_LOG_BYTES: usize = 64 * 1024 * 1024;

/// Transactions that wait for one fsync are written together up to this many bytes.
pub const LOG_BATCH_BYTES: usize = 4 * 1024 * 1024;

/// Bytes of transactions that wait for room on a full disk. With more the process ends; with half of them a learner leaves
/// its leader, which sends it no more then.
pub const FULL_DISK_BYTES: usize = 256 * 1024 * 1024;

/// How long after an election the epochs' files are flushed; by then whoever waits for the election is served.
pub const EPOCH_FILES_FLUSH: Duration = Duration::from_secs(1);

/// How long somebody waits before he looks for room on a full disk again.
pub const FULL_DISK_PAUSE: Duration = Duration::from_millis(200);

/// Whatever takes the log's disk longer, in ms, means that it hangs: a leader hands over.
pub const DISK_STUCK_MS: u64 = 3_000;

/// How far behind a broken record, in bytes, the torn remains of one unflushed batch can reach. What lies further was
/// flushed earlier, so the log is damaged and not merely cut off by a crash. Far above [`LOG_BATCH_BYTES`], since the log
/// may come from another server.
pub const TORN_TAIL_BYTES: usize = 32 * 1024 * 1024;

/// Bytes of a snapshot that are read or written at once.
pub const SNAPSHOT_CHUNK_BYTES: usize = 64 * 1024;

/// Snapshots that are tried at start, newest first, until one loads.
pub const SNAPSHOT_CANDIDATES: usize = 100;

/// The most bytes of `zoo.cfg` or of a dynamic configuration file.
pub const CONFIG_FILE_BYTES: u64 = 1024 * 1024;

/// How long a connection may take to send its first frame, in ms (Apache's `nio.sessionlessCnxnTimeout`).
pub const SESSIONLESS_MS: u64 = 10_000;

/// How long a connection that is to be closed waits for its client to read what was sent before, in ms.
pub const FAREWELL_MS: u64 = 2_000;

/// How often silent connections are looked for, in ms.
pub const IDLE_CHECK_MS: u64 = 1_000;

/// After this time without an acknowledgement of what was sent, an election connection counts as broken, in ms. Both
/// directions must work for that, so one that works one way only does not last. Three retransmissions fit in.
pub const PEER_UNACKNOWLEDGED_MS: u64 = 1_000;

/// The same for the connection to the leader, in ms. Longer, because it also ends when a leader that stands still for this
/// time has no more room for what is forwarded to it.
pub const LEADER_UNACKNOWLEDGED_MS: u64 = 2_000;

/// A connection to another server on which nothing is sent is probed as often as this, in s: the least that the system
/// can do. So it is known before the next election who can be reached.
pub const PEER_PROBE_S: u64 = 1;

/// How often the server with the greater id calls one of the voters that it has no election connection to, in ms. It
/// need not be often: who wants to vote calls at once.
pub const ELECTION_RECALL_MS: u64 = 1_000;

/// How long a call to an elected leader may take, in ms, where `cnxTimeout` is not less: one that does not answer within
/// half a second, on whatever network, is not reached, and the others may be able to elect another.
pub const LEADER_DIAL_MS: u64 = 500;

/// How long a quorum connection that this server closes waits for the other side to close, in ms.
pub const LINK_CLOSE_MS: u64 = 2_000;
