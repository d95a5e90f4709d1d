//! Starting a server: configuration, disk, ports, tasks.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use node_core::local::Timing;
use node_core::member::{Member, MemberSettings};
use node_core::peer::{Peer, PeerConfig, Recovered};
use node_core::prep::PrepSettings;
use node_core::quorum::config::{Member as Server, MemberRole, QuorumConfig};
use node_core::replica::Replica;
use node_core::session::SessionIds;
use node_core::tree::TreeOptions;
use node_core::watch::WatchTable;
use node_core::zxid::{Epoch, ServerId, Time, Zxid};
use parking_lot::{Mutex, RwLock};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use crate::config::{Config, HostPort, Quorum, Role};
use crate::disk::{self, Disk};
use crate::driver::{Driver, Message};
use crate::metrics::{self, Metrics};
use crate::net::election::{self, ElectionSettings};
use crate::net::{Report, client, quorum};
use crate::shared::Shared;
use crate::status::Status;
use crate::storage::dirs::DataDirs;
use crate::storage::epoch::EpochFiles;

/// How long a leader that is told to stop waits for its last proposals and for the others to know.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// Reads the configuration and runs the server until a signal or an error ends it.
pub async fn serve(zoo_cfg: &Path) -> anyhow::Result<()> {
    let config = Config::read(zoo_cfg)?;
    config.log_warnings();
    Server_::open(config)?.run().await
}

/// Everything that is read before the first port is opened.
struct Server_ {
    shared: Arc<Shared>,
    peer: Peer,
    member: MemberSettings,
    disk: Option<(DataDirs, EpochFiles)>,
    my_id: ServerId,
    started: Instant,
}
