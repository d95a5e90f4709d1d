//! Every key of `zoo.cfg`: its name, default, unit, allowed values and meaning. What isn't here is unknown.

use Allowed::{Interval, Number, OneOf, Text, TrueFalse, YesNo};
use Support::{Meaningless, NotYet, Refused, Used};

/// One key.
#[derive(Debug)]
pub struct Key {
    /// As it is written in `zoo.cfg`. `zookeeper.` may precede it.
    pub name: &'static str,
    /// The value that holds when the key is absent; empty for none.
    pub default: &'static str,
    /// The unit of a number; empty for none.
    pub unit: &'static str,
    /// What may be written.
    pub allowed: Allowed,
    /// Whether this server heeds it.
    pub support: Support,
    /// What it does.
    pub meaning: &'static str,
}

/// What may be written for a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Allowed {
    /// A whole number within these bounds.
    Number(i64, i64),
    /// `true` or `false`, in any case.
    TrueFalse,
    /// `yes` or `no`.
    YesNo,
    /// One of these words.
    OneOf(&'static [&'static str]),
    /// Hours, or a number with the unit ms, s, m, h or d.
    Interval,
    /// Anything.
    Text,
}

/// Whether this server heeds a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Support {
    /// It does.
    Used,
    /// Not yet, and doing without is harmless: a warning.
    NotYet,
    /// Not yet, and doing without would be unsafe or surprising: an error when it is asked for.
    Refused,
    /// It never will, for this reason: Apache's key for something that this server doesn't have.
    Meaningless(&'static str),
}

impl Allowed {
    /// In words, after "it must be".
    #[must_use]
    pub fn describe(&self, unit: &str) -> String {
        let of = if unit.is_empty() {
            String::new()
        } else {
            format!(" of {unit}")
        };
        match self {
            Self::Number(min, i64::MAX) => format!("a whole number{of}, at least {min}"),
            Self::Number(min, max) => format!("a whole number{of} from {min} to {max}"),
            Self::TrueFalse => "true or false".to_owned(),
            Self::YesNo => "yes or no".to_owned(),
            Self::OneOf(words) => format!("one of: {}", words.join(", ")),
            Self::Interval => {
                "a whole number of hours, or one with a unit: ms, s, m, h or d".to_owned()
            }
            Self::Text => "a text".to_owned(),
        }
    }
}

/// The key of this name, with or without `zookeeper.` before it.
#[must_use]
pub fn find(name: &str) -> Option<&'static Key> {
    let exact = |name: &str| KEYS.iter().find(|key| key.name == name);
    exact(name).or_else(|| name.strip_prefix("zookeeper.").and_then(exact))
}

/// How a family of keys, such as `ssl.…`, is supported.
#[must_use]
pub fn find_family(name: &str) -> Option<Support> {
    let bare = name.strip_prefix("zookeeper.").unwrap_or(name);
    FAMILIES
        .iter()
        .find(|(prefix, _)| bare.starts_with(prefix))
        .map(|(_, support)| *support)
}

/// The known key that an unknown one most probably is.
#[must_use]
pub fn nearest(name: &str) -> Option<&'static str> {
    let bare = name
        .strip_prefix("zookeeper.")
        .unwrap_or(name)
        .to_lowercase();
    let distance = |key: &Key| edit_distance(&bare, &key.name.to_lowercase());
    let (near, key) = KEYS.iter().map(|key| (distance(key), key.name)).min()?;
    (near <= (bare.len() / 4).min(3)).then_some(key)
}

fn edit_distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

const JVM: Support = Meaningless("there is no JVM");
const THREADS: Support = Meaningless("threads and buffers are not configured here");
const INT: i64 = i32::MAX as i64;
const LONG: i64 = i64::MAX;

/// Keys that are told by how they begin.
pub const FAMILIES: &[(&str, Support)] = &[
    ("ssl.", NotYet),
    ("quorum.auth.", Refused),
    ("authProvider.", NotYet),
    ("X509AuthenticationProvider.", NotYet),
    ("SASLAuthenticationProvider.", NotYet),
    ("superUser", NotYet),
    ("kerberos.", NotYet),
    ("sasl.", NotYet),
    ("audit.", NotYet),
    (
        "metricsProvider.",
        Meaningless("the metrics are served over plain HTTP by httpHost and httpPort alone"),
    ),
    ("admin.", NotYet),
    ("connection_throttle_", NotYet),
    ("request_", NotYet),
    ("multiAddress.", NotYet),
    ("jvm.", JVM),
    ("java.", JVM),
    ("sun.", JVM),
    ("netty.", THREADS),
    ("nio.", THREADS),
    ("commitProcessor.", THREADS),
    ("pathStats.", Meaningless("paths are not counted")),
    (
        "messageTracker.",
        Meaningless("debug logging shows the messages"),
    ),
    ("watcher", Meaningless("dead watches are removed at once")),
];

macro_rules! keys {
    ($($name:literal, $default:literal, $unit:literal, $allowed:expr, $support:expr, $meaning:literal;)*) => {
        /// All keys, by subject.
        pub const KEYS: &[Key] = &[$(Key {
            name: $name, default: $default, unit: $unit, allowed: $allowed, support: $support, meaning: $meaning,
        }),*];
    };
}

keys! {
    "dataDir", "", "", Text, Used, "The directory of the snapshots, of myid and of the epoch files. Required.";
    "dataLogDir", "", "", Text, Used, "The directory of the transaction log; dataDir when absent.";
    "clientPort", "", "", Number(0, 65535), Used, "The port for clients; 0 takes any free one. The server's own server line may give it instead.";
    "clientPortAddress", "", "", Text, Used, "The address that the client port is bound to; every one when absent.";
    "secureClientPort", "", "", Number(0, 65535), Refused, "The port for clients with TLS.";
    "secureClientPortAddress", "", "", Text, Refused, "The address that the TLS client port is bound to.";
    "clientPortListenBacklog", "-1", "connections", Number(-1, INT), NotYet, "How many connections may wait to be accepted.";
    "tickTime", "3000", "milliseconds", Number(1, INT), Used, "The unit of the other times.";
    "initLimit", "", "ticks", Number(1, INT), Used, "How long a learner may take to connect and to be synchronised. Required in an ensemble.";
    "syncLimit", "", "ticks", Number(1, INT), Used, "How long leader and learner may hear nothing from each other. Required in an ensemble.";
    "connectToLearnerMasterLimit", "0", "ticks", Number(0, INT), NotYet, "How long a learner tries to connect; 0 stands for initLimit.";
    "minSessionTimeout", "-1", "milliseconds", Number(-1, INT), Used, "The shortest session timeout a client can get; -1 stands for two ticks.";
    "maxSessionTimeout", "-1", "milliseconds", Number(-1, INT), Used, "The longest session timeout a client can get; -1 stands for twenty ticks.";
    "maxClientCnxns", "60", "connections", Number(0, INT), Used, "The most connections from one address; 0 is no limit.";
    "maxCnxns", "0", "connections", Number(0, INT), Used, "The most connections altogether; 0 is no limit.";
    "peerType", "participant", "", OneOf(&["participant", "observer"]), Used, "Whether this server votes. The server list wins when it says otherwise.";
    "syncEnabled", "true", "", TrueFalse, Used, "Whether an observer keeps log and snapshots on its disk.";
    "observer.syncEnabled", "", "", TrueFalse, Used, "As syncEnabled, and wins over it.";
    "electionAlg", "3", "", Number(3, 3), Used, "The election algorithm; there is only one.";
    "quorumListenOnAllIPs", "false", "", TrueFalse, Used, "Whether the quorum and election ports are bound to every address instead of this server's own.";
    "electionPortBindRetry", "3", "attempts", Number(0, INT), Used, "How often binding the election port is tried; 0 is for ever.";
    "leaderServes", "yes", "", YesNo, NotYet, "Whether the leader serves clients.";
    "cnxTimeout", "5000", "milliseconds", Number(1, INT), Used, "How long connecting to another server's election port may take.";
    "fastleader.minNotificationInterval", "200", "milliseconds", Number(1, INT), Used, "The shortest time between two notifications in an election.";
    "fastleader.maxNotificationInterval", "60000", "milliseconds", Number(1, INT), Used, "The longest time between two notifications in an election.";
    "observer.reconnectDelayMs", "0", "milliseconds", Number(0, INT), NotYet, "How long an observer waits before it connects again.";
    "observer.election.DelayMs", "200", "milliseconds", Number(0, INT), NotYet, "How long an observer waits before it looks for the leader.";
    "observerMasterPort", "0", "", Number(0, 65535), NotYet, "The port at which a follower serves observers; 0 is off.";
    "dynamicConfigFile", "", "", Text, Used, "The file with the server, group and weight lines; they must then not be in zoo.cfg.";
    "standaloneEnabled", "true", "", TrueFalse, Used, "Whether a list of one voter means a standalone server.";
    "reconfigEnabled", "false", "", TrueFalse, Used, "Whether the membership can be changed while the ensemble runs.";
    "oraclePath", "", "", Text, Refused, "The file of an oracle that decides between two servers.";
    "sslQuorum", "false", "", TrueFalse, Refused, "Whether servers talk to each other with TLS.";
    "portUnification", "false", "", TrueFalse, Refused, "Whether the quorum port takes both TLS and plain connections.";
    "client.portUnification", "false", "", TrueFalse, Refused, "Whether the client port takes both TLS and plain connections.";
    "sslQuorumReloadCertFiles", "false", "", TrueFalse, NotYet, "Whether changed certificates are loaded again.";
    "client.certReload", "false", "", TrueFalse, NotYet, "Whether changed certificates of the client port are loaded again.";
    "fips-mode", "true", "", TrueFalse, Meaningless("it chooses between Java's own implementations"), "Java's FIPS mode.";
    "autopurge.snapRetainCount", "3", "snapshots", Number(3, INT), Used, "How many snapshots are kept, with the log that they need.";
    "autopurge.purgeInterval", "0", "", Interval, Used, "How often older snapshots and log files are removed; 0 is never.";
    "preAllocSize", "65536", "KiB", Number(0, INT), Used, "How much space is reserved at a time for the log.";
    "snapCount", "100000", "transactions", Number(2, INT), Used, "After how many transactions a snapshot is taken; half of it to all of it, at random.";
    "snapSizeLimitInKb", "4194304", "KiB", Number(-1, LONG / 1024), Used, "After how much log a snapshot is taken; 0 or less for any.";
    "txnLogSizeLimitInKb", "-1", "KiB", Number(-1, LONG / 1024), Used, "The size at which a new log file is begun; 0 or less for none.";
    "commitLogCount", "500", "transactions", Number(1, INT), Used, "How many committed transactions are kept in memory to synchronise learners.";
    "snapshotSizeFactor", "0.33", "", Text, NotYet, "How much log, in parts of the snapshot's size, is sent rather than the snapshot.";
    "forceSync", "yes", "", YesNo, Used, "Whether a transaction is on the disk before it is acknowledged. \"no\" can lose acknowledged writes.";
    "fsync.warningthresholdms", "1000", "milliseconds", Number(0, INT), Used, "From which time on a flush of the log is warned about.";
    "flushDelay", "0", "milliseconds", Number(0, INT), Meaningless("whatever waits is flushed together, without a delay"), "How long a flush waits for more.";
    "maxWriteQueuePollTime", "", "milliseconds", Number(0, INT), Meaningless("whatever waits is flushed together, without a delay"), "How long the log's queue is polled.";
    "maxBatchSize", "1000", "transactions", Number(0, INT), Meaningless("batches are bounded in bytes"), "The most transactions of a flush.";
    "snapshot.compression.method", "", "", OneOf(&["", "gz", "snappy"]), NotYet, "How snapshots are compressed. Compressed ones are read in any case.";
    "snapshot.trust.empty", "false", "", TrueFalse, Used, "Whether a log without a snapshot is trusted to be complete.";
    "datadir.autocreate", "true", "", TrueFalse, Used, "Whether missing data directories are created.";
    "db.autocreate", "", "", TrueFalse, Used, "Whether a server without data takes part in elections at once. When absent it does if all voters are seen to be without data; otherwise a leader must first give it everything.";
    "serializeLastProcessedZxid.enabled", "true", "", TrueFalse, Used, "Whether a snapshot ends with its last zxid.";
    "digest.enabled", "true", "", TrueFalse, Used, "Whether the tree's digest is kept up and written into snapshots. It is not yet compared with others' nor part of proposals.";
    "closeSessionTxn.enabled", "true", "", TrueFalse, NotYet, "Whether a closed session's transaction lists the nodes that it deletes.";
    "forceSnapshotSync", "false", "", TrueFalse, NotYet, "Whether learners are always synchronised by a snapshot; for tests.";
    "globalOutstandingLimit", "1000", "requests", Number(1, INT), NotYet, "The most requests that may wait in the server.";
    "jute.maxbuffer", "1048575", "bytes", Number(1024, INT), Used, "The largest request and the largest znode.";
    "jute.maxbuffer.extrasize", "", "bytes", Number(0, INT), NotYet, "How much a stored record may be larger than jute.maxbuffer; as much when absent.";
    "enforceQuota", "false", "", TrueFalse, NotYet, "Whether hard quotas refuse writes.";
    "skipACL", "no", "", YesNo, Used, "Whether ACLs are not checked.";
    "enableEagerACLCheck", "false", "", TrueFalse, NotYet, "Whether a follower checks ACLs before it forwards a write.";
    "extendedTypesEnabled", "false", "", TrueFalse, Used, "Whether TTL nodes can be created.";
    "emulate353TTLNodes", "false", "", TrueFalse, NotYet, "Whether TTL nodes of version 3.5.3 are read.";
    "localSessionsEnabled", "false", "", TrueFalse, NotYet, "Whether sessions can be known to one server alone.";
    "localSessionsUpgradingEnabled", "false", "", TrueFalse, NotYet, "Whether a local session becomes a global one when it needs to.";
    "readonlymode.enabled", "false", "", TrueFalse, NotYet, "Whether reads are served without a quorum.";
    "znode.container.checkIntervalMs", "60000", "milliseconds", Number(1, INT), Used, "How often the leader looks for empty containers and expired TTL nodes.";
    "znode.container.maxPerMinute", "10000", "nodes", Number(1, INT), NotYet, "The most containers and TTL nodes removed in a minute.";
    "znode.container.maxNeverUsedIntervalMs", "300000", "milliseconds", Number(0, LONG), Used, "After which time a container that never had a child is removed; 0 is never.";
    "4lw.commands.whitelist", "srvr", "", Text, Used, "The four-letter words that are answered, separated by commas; * for all.";
    "DigestAuthenticationProvider.enabled", "true", "", TrueFalse, Refused, "Whether clients can authenticate with name and password.";
    "DigestAuthenticationProvider.superDigest", "", "", Text, Used, "Name and digest (super:base64) of the user that may do everything.";
    "DigestAuthenticationProvider.digestAlg", "SHA1", "", OneOf(&["SHA1"]), Used, "The digest of passwords.";
    "sessionRequireClientSASLAuth", "false", "", TrueFalse, Refused, "Whether clients must authenticate with SASL.";
    "enforce.auth.enabled", "false", "", TrueFalse, Refused, "Whether clients must authenticate.";
    "enforce.auth.schemes", "", "", Text, NotYet, "The schemes that count as authenticated.";
    "ensembleAuthName", "", "", Text, NotYet, "The names by which clients may know this ensemble.";
    "metricsProvider.className", "", "", Text, Used, "A class name that ends with PrometheusMetricsProvider serves the metrics over HTTP.";
    "metricsProvider.httpHost", "0.0.0.0", "", Text, Used, "The address that the metrics are served at.";
    "metricsProvider.httpPort", "7000", "", Number(0, 65535), Used, "The port that the metrics are served at.";
    "metricsProvider.exportJvmInfo", "true", "", TrueFalse, JVM, "Whether the JVM's numbers are exported.";
    "admin.enableServer", "true", "", TrueFalse, Used, "Whether the AdminServer answers commands over HTTP. There is none yet, so it is always as if false.";
    "admin.serverAddress", "0.0.0.0", "", Text, NotYet, "The address of the AdminServer.";
    "admin.serverPort", "8080", "", Number(0, 65535), NotYet, "The port of the AdminServer.";
    "admin.commandURL", "/commands", "", Text, NotYet, "The path of the AdminServer's commands.";
    "tcpKeepAlive", "false", "", TrueFalse, NotYet, "Whether election connections are kept alive by the network.";
    "clientTcpKeepAlive", "false", "", TrueFalse, NotYet, "Whether client connections are kept alive by the network.";
    "leader.nodelay", "true", "", TrueFalse, Meaningless("small packets are never held back"), "Whether the leader sends small packets at once.";
    "follower.nodelay", "true", "", TrueFalse, Meaningless("small packets are never held back"), "Whether a learner sends small packets at once.";
    "leader.maxConcurrentSnapSyncs", "10", "learners", Number(1, INT), NotYet, "How many learners get a snapshot at a time.";
    "leader.maxConcurrentDiffSyncs", "100", "learners", Number(1, INT), NotYet, "How many learners get a difference at a time.";
    "leaderConnectDelayDuringRetryMs", "100", "milliseconds", Number(0, INT), NotYet, "The pause between two attempts to connect to the leader.";
    "leader.maxTimeToWaitForEpoch", "-1", "milliseconds", Number(-1, INT), NotYet, "How long a new leader waits for a quorum.";
    "quorumCnxnTimeoutMs", "-1", "milliseconds", Number(-1, INT), NotYet, "How long an election connection may be silent.";
    "serverCnxnFactory", "", "", Text, Meaningless("there is one implementation of connections"), "The class that serves connections.";
    "watchManagerName", "", "", Text, Meaningless("there is one implementation of watches"), "The class that keeps watches.";
    "quorum.cnxn.threads.size", "20", "threads", Number(1, INT), THREADS, "Threads for authenticating election connections.";
    "intBufferStartingSizeBytes", "1024", "bytes", Number(1, INT), THREADS, "The first size of a buffer.";
    "largeRequestMaxBytes", "104857600", "bytes", Number(-1, INT), NotYet, "The most bytes of large requests that wait.";
    "largeRequestThreshold", "-1", "bytes", Number(-1, INT), NotYet, "From which size on a request is large.";
    "maxResponseCacheSize", "400", "replies", Number(-1, INT), Meaningless("replies are made faster than they are looked up"), "How many replies are cached.";
    "maxGetChildrenResponseCacheSize", "400", "replies", Number(-1, INT), Meaningless("replies are made faster than they are looked up"), "How many lists of children are cached.";
    "skipLearnerRequestToNextProcessor", "false", "", TrueFalse, THREADS, "A shortcut between two threads.";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_default_is_allowed_and_no_key_is_there_twice() {
        let mut names: Vec<_> = KEYS.iter().map(|key| key.name).collect();
        names.sort_unstable();
        assert!(names.windows(2).all(|pair| pair[0] != pair[1]));
        for key in KEYS.iter().filter(|key| !key.default.is_empty()) {
            let allowed = match key.allowed {
                Number(min, max) => key
                    .default
                    .parse::<i64>()
                    .is_ok_and(|n| (min..=max).contains(&n)),
                TrueFalse => ["true", "false"].contains(&key.default),
                YesNo => ["yes", "no"].contains(&key.default),
                OneOf(words) => words.contains(&key.default),
                Interval | Text => true,
            };
            assert!(allowed, "{}", key.name);
        }
    }

    #[test]
    fn a_mistyped_key_is_recognised() {
        assert_eq!(nearest("ticktime"), Some("tickTime"));
        assert_eq!(nearest("zookeeper.snapCont"), Some("snapCount"));
        assert_eq!(nearest("maxClientConns"), Some("maxClientCnxns"));
        assert_eq!(nearest("somethingElse"), None);
        assert_eq!(nearest("foo"), None);
    }
}
