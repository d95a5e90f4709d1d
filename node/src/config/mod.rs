//! The configuration of a server: `zoo.cfg`, what it points to, and `myid`, read once into one typed [`Config`].
//!
//! No other module reads settings. Everything wrong is reported at once, with its file and line; what is only doubtful
//! (an unknown key, a key without a meaning here) is a [`Warning`].

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use node_core::zxid::{ServerId, Zxid};

use crate::storage::StorageError;
use crate::storage::txn_log::LogOptions;
pub use servers::{HostPort, PeerAddress, Role, ServerSpec};

pub mod dynamic;
mod ensemble;
pub mod home;
pub mod keys;
mod members;
pub mod properties;
mod servers;
mod values;
mod zoo_cfg;

/// A place in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The file.
    pub path: PathBuf,
    /// The line, counted from 1; `None` for the file as a whole.
    pub line: Option<usize>,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "{}:{line}", self.path.display()),
            None => write!(f, "{}", self.path.display()),
        }
    }
}

/// Something wrong in the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where.
    pub place: Place,
    /// What, and what would be right.
    pub text: String,
}

impl Problem {
    /// Sorts problems: those of `first` before those of other files, and each file's by line.
    fn order(&self, first: &Path) -> (bool, PathBuf, Option<usize>) {
        (
            self.place.path != first,
            self.place.path.clone(),
            self.place.line,
        )
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.text)
    }
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A file that cannot be read or written.
    #[error("cannot {act} {}: {source}", path.display())]
    Io {
        /// What was tried, as in "cannot … FILE".
        act: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Everything that is wrong, in the order of files and lines.
    #[error("{}", lines(.0))]
    Problems(Vec<Problem>),
    /// A file that the server keeps for itself.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

fn lines(problems: &[Problem]) -> String {
    problems
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join("\n")
}

/// Something doubtful in the configuration, or (when not `serious`) just good to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// What and where.
    pub problem: Problem,
    /// Whether it deserves more than a note.
    pub serious: bool,
}

/// The whole configuration of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// `zoo.cfg`.
    pub path: PathBuf,
    /// `dataDir`.
    pub data_dir: PathBuf,
    /// `dataLogDir`, or `dataDir`.
    pub data_log_dir: PathBuf,
    /// Whether missing data directories are created.
    pub autocreate: bool,
    /// Where clients connect; `None` for a server without a client port.
    pub client: Option<HostPort>,
    /// The ensemble; `None` for a standalone server.
    pub quorum: Option<Quorum>,
    /// Times and sizes of sessions and connections.
    pub sessions: Sessions,
    /// How log and snapshots are kept.
    pub storage: Storage,
    /// Who may do what.
    pub access: Access,
    /// What is switched on or off.
    pub features: Features,
    /// How containers and TTL nodes are removed.
    pub containers: Containers,
    /// Where the metrics are served; `None` when they aren't.
    pub metrics: Option<HostPort>,
    /// The AdminServer; `None` when it is off.
    pub admin: Option<Admin>,
    /// What is doubtful.
    pub warnings: Vec<Warning>,
}

/// Times and sizes of sessions and connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sessions {
    /// `tickTime`.
    pub tick_time_ms: u32,
    /// The shortest session timeout.
    pub min_session_timeout_ms: u32,
    /// The longest session timeout.
    pub max_session_timeout_ms: u32,
    /// Connections from one address; 0 is no limit.
    pub max_client_connections: u32,
    /// Connections altogether; 0 is no limit.
    pub max_connections: u32,
    /// Requests that may wait in the server.
    pub outstanding_max: u32,
    /// Bytes of the largest request (`jute.maxbuffer`).
    pub frame_max_bytes: usize,
    /// How much larger a stored record may be.
    pub frame_extra_bytes: usize,
    /// Whether client connections are kept alive by the network.
    pub client_tcp_keep_alive: bool,
}

/// How log and snapshots are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Storage {
    /// How the log is written.
    pub log: LogOptions,
    /// A flush that takes longer is warned about.
    pub fsync_warning: Duration,
    /// After how many transactions a snapshot is taken (between half of it and all of it).
    pub snap_count: u32,
    /// After how many bytes of log a snapshot is taken; `None` for any number.
    pub snap_size_limit_bytes: Option<u64>,
    /// How many committed transactions are kept in memory.
    pub commit_log_count: u32,
    /// Whether a log without a snapshot is trusted.
    pub trust_empty_snapshot: bool,
    /// Whether an empty directory is a new server's; `None` to find out from the others.
    pub trust_empty: Option<bool>,
    /// Whether a snapshot ends with its last zxid.
    pub serialize_last_zxid: bool,
    /// How many snapshots are kept.
    pub snap_retain_count: u32,
    /// How often older files are removed; `None` for never.
    pub purge_interval: Option<Duration>,
}

/// Who may do what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Access {
    /// Whether ACLs are not checked.
    pub skip_acl: bool,
    /// Whether the scheme "digest" is there.
    pub digest_enabled: bool,
    /// The digest of the user "super".
    pub super_digest: Option<String>,
    /// The four-letter words that are answered.
    pub four_letter_words: FourLetterWords,
}

/// The four-letter words that are answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FourLetterWords {
    /// All of them.
    All,
    /// These.
    Only(Vec<String>),
}

impl FourLetterWords {
    /// Whether a word is answered.
    #[must_use]
    pub fn allows(&self, word: &str) -> bool {
        match self {
            Self::All => true,
            Self::Only(words) => words.iter().any(|allowed| allowed == word),
        }
    }
}

/// What is switched on or off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Features {
    /// TTL nodes.
    pub extended_types: bool,
    /// The digest of the tree.
    pub tree_digest: bool,
    /// Whether a closed session's transaction lists the nodes that it deletes.
    pub close_session_txn: bool,
    /// Dynamic reconfiguration.
    pub reconfig: bool,
}

/// How containers and TTL nodes are removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Containers {
    /// How often they are looked for.
    pub check_interval_ms: u64,
    /// The most removals in a minute.
    pub max_per_minute: u32,
    /// After which time one that never had a child goes; 0 is never.
    pub max_never_used_ms: u64,
}

/// The AdminServer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admin {
    /// Where it listens.
    pub address: HostPort,
    /// The path of its commands.
    pub command_url: String,
}

/// The ensemble as its configuration files describe it, and this server's place in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quorum {
    /// `myid`.
    pub my_id: ServerId,
    /// This server's role, as the list says.
    pub role: Role,
    /// The members and what counts as a quorum.
    pub membership: Membership,
    /// A configuration that was proposed, and not known to be committed, when the server stopped: its text, with version.
    pub proposed: Option<String>,
    /// `standaloneEnabled`: whether a reconfiguration must leave two voters at least.
    pub standalone_enabled: bool,
    /// Ticks for connecting and being synchronised.
    pub init_limit: u32,
    /// Ticks of silence.
    pub sync_limit: u32,
    /// Ticks for connecting to the leader.
    pub connect_limit: u32,
    /// Whether an observer keeps log and snapshots on its disk.
    pub observer_sync_enabled: bool,
    /// Whether the peer ports are bound to every address.
    pub listen_on_all_ips: bool,
    /// How often binding the election port is tried; 0 is for ever.
    pub election_port_bind_retry: u32,
    /// Whether the leader serves clients.
    pub leader_serves: bool,
    /// How long connecting to an election port may take.
    pub connect_timeout_ms: u32,
    /// The shortest time between notifications.
    pub min_notification_interval_ms: u32,
    /// The longest time between notifications.
    pub max_notification_interval_ms: u32,
    /// Whether election connections are kept alive by the network.
    pub tcp_keep_alive: bool,
}

/// Members, groups and weights under a version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Membership {
    /// The zxid of the reconfiguration that made it; zero when it is just what was written.
    pub version: Zxid,
    /// In the order of their ids.
    pub servers: Vec<ServerSpec>,
    /// The `group.N` and `weight.N` lines in their order, as keys and values.
    pub hierarchy: Vec<(String, String)>,
}

impl Membership {
    /// The text form: what `/zookeeper/config` shows, servers send to each other, and `QuorumConfig` parses.
    #[must_use]
    pub fn text(&self) -> String {
        let servers = self
            .servers
            .iter()
            .map(|server| format!("server.{}={server}\n", server.id));
        let hierarchy = self
            .hierarchy
            .iter()
            .map(|(key, value)| format!("{key}={value}\n"));
        servers
            .chain(hierarchy)
            .chain([format!("version={:x}", self.version.0)])
            .collect()
    }

    /// A member.
    #[must_use]
    pub fn server(&self, id: ServerId) -> Option<&ServerSpec> {
        self.servers.iter().find(|server| server.id == id)
    }
}

impl Config {
    /// Reads `zoo.cfg` at `path`, the dynamic file that it names, and `myid`.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        zoo_cfg::read(path)
    }

    /// Logs the warnings.
    pub fn log_warnings(&self) {
        for Warning { problem, serious } in &self.warnings {
            if *serious {
                tracing::warn!("{problem}");
            } else {
                tracing::info!("{problem}");
            }
        }
    }
}
