//! Starting a server: configuration, disk, ports, tasks.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use node_core::member::{Member, MemberSettings};
use node_core::peer::{Peer, PeerConfig, Recovered, Timing};
use node_core::prep::PrepSettings;
use node_core::quorum::config::{Member as ServerEntry, MemberRole, QuorumConfig};
use node_core::replica::Replica;
use node_core::session::SessionIds;
use node_core::standing::Standing;
use node_core::tree::TreeOptions;
use node_core::watch::WatchTable;
use node_core::zxid::{Epoch, ServerId, Time, Zxid};
use parking_lot::{Mutex, RwLock};
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::config::home::{self, Home};
use crate::config::{Config, HostPort, Role, dynamic};
use crate::disk::{self, Disk, Files};
use crate::driver::{Driver, Message};
use crate::limits;
use crate::metrics::{self, Metrics};
use crate::net::election::{self, ElectionCommand, ElectionSettings};
use crate::net::{self, EVERYWHERE, Report, client, quorum};
use crate::shared::{Freshness, Shared};
use crate::status::Status;
use crate::storage::StorageError;
use crate::storage::files::{FileSystem, RealFiles};
use crate::store;

/// How long a leader that is told to stop waits for its last proposals, and for the others to know them.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// The id of a server that is alone.
const STANDALONE_ID: ServerId = ServerId(1);

/// What a server is started with.
#[derive(Clone, Debug)]
pub struct Call {
    /// Its configuration.
    pub zoo_cfg: PathBuf,
    /// Where it keeps a copy of the configuration that it can write; `None` when `zoo_cfg` is its own.
    pub home: Option<PathBuf>,
    /// Its number, where the file `myid` need not be there yet.
    pub id: Option<i64>,
}

/// Reads the configuration and runs the server until a signal or an error ends it.
pub async fn serve(call: Call) -> anyhow::Result<()> {
    // As a container's first process it would get no signal at all that it does not ask for.
    let mut signals = Signals::listen()?;
    serve_on(
        call,
        Arc::new(RealFiles),
        async move { signals.stop().await },
    )
    .await
}

/// The same with its data in any file system, until `stop` or an error ends it.
pub async fn serve_on(
    call: Call,
    files: Arc<dyn FileSystem>,
    stop: impl Future<Output = ()> + Send + 'static,
) -> anyhow::Result<()> {
    let mut stop = Box::pin(stop);
    let (driver, acceptors, messages, _home) = tokio::select! {
        started = start(call, files) => started?,
        () = &mut stop => {
            tracing::info!("stopping before the start was done");
            return Ok(());
        }
    };
    stop_when(stop, driver.report.clone(), acceptors);
    driver.run(messages).await
}

/// Everything up to the first message. The file that tells others that the home is in use lives as long as the server.
/// A server that needs room to start, as a new one does, waits for it.
async fn start(call: Call, files: Arc<dyn FileSystem>) -> anyhow::Result<Started> {
    let started = Instant::now();
    let mut is_told = false;
    loop {
        let (call, files) = (call.clone(), files.clone());
        let loaded = tokio::task::spawn_blocking(move || load(&call, &files, started)).await?;
        match loaded {
            Err(error) if disk::is_full(&error) => {
                if !is_told {
                    tracing::error!("{error:#}: the server starts when there is room");
                }
                is_told = true;
                tokio::time::sleep(limits::FULL_DISK_PAUSE).await;
            }
            loaded => return loaded?.open().await,
        }
    }
}

type Started = (
    Driver,
    JoinSet<()>,
    mpsc::UnboundedReceiver<Message>,
    Option<Home>,
);

/// What is known before any port is open.
struct Loaded {
    home: Option<Home>,
    shared: Arc<Shared>,
    ensemble: Ensemble,
    member: Member,
    files: Option<Files>,
    started: Instant,
}

fn load(call: &Call, files: &Arc<dyn FileSystem>, started: Instant) -> anyhow::Result<Loaded> {
    if let Some(id) = call.id {
        home::claim(&call.zoo_cfg, id)?;
    }
    let home = match &call.home {
        Some(dir) => Some(Home::prepare(&call.zoo_cfg, dir, call.id)?),
        None => None,
    };
    let zoo_cfg = home.as_ref().map_or(call.zoo_cfg.as_path(), Home::zoo_cfg);
    let config = Config::read(zoo_cfg)?;
    config.log_warnings();
    let ensemble = ensemble(&config)?;
    if config.quorum.is_some() && config.features.reconfig {
        dynamic::back_up(zoo_cfg)?;
    }
    let tree_options = TreeOptions {
        digest: config.features.tree_digest,
        extended_types: config.features.extended_types,
        skip_acl: config.access.skip_acl,
    };
    let peer_config = peer_config(&config, &ensemble);
    let proposed = proposed_config(&config)?;
    let mut start = if peer_config.keeps_disk(proposed.as_ref()) {
        Start::read(files, &config, tree_options)?
    } else {
        Start {
            replica: Replica::new(tree_options),
            peer: nothing_recovered(),
            files: None,
        }
    };
    start.peer.last_seen_config = proposed;
    tracing::info!(
        my_id = %ensemble.my_id,
        zxid = %start.peer.last_zxid,
        accepted_epoch = %start.peer.accepted_epoch,
        current_epoch = %start.peer.current_epoch,
        ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(0),
        "data loaded"
    );
    let member = member(&config, peer_config, start.peer, start.replica.last_zxid());
    let shared = Arc::new(Shared {
        replica: RwLock::new(start.replica),
        generation: AtomicU64::new(0),
        watches: Mutex::new(WatchTable::new()),
        connections: Mutex::new(HashMap::new()),
        serving: AtomicBool::new(false),
        freshness: Freshness::new(started),
        outstanding_bytes: AtomicUsize::new(0),
        status: Mutex::new(Status {
            standalone: config.quorum.is_none(),
            config: ensemble.config.to_string(),
            quorum_size: ensemble.config.voters().count(),
            ..Status::default()
        }),
        metrics: Metrics::new()?,
        tree_options,
        config,
        files: files.clone(),
    });
    Ok(Loaded {
        home,
        shared,
        ensemble,
        member,
        files: start.files,
        started,
    })
}

struct Ensemble {
    my_id: ServerId,
    config: QuorumConfig,
}

/// What the files say about the ensemble; a server that is alone is an ensemble of one.
fn ensemble(config: &Config) -> anyhow::Result<Ensemble> {
    let Some(quorum) = &config.quorum else {
        let alone = ServerEntry {
            addresses: vec![],
            role: MemberRole::Participant,
            client: None,
            secure_client: None,
        };
        let config = QuorumConfig::new(BTreeMap::from([(STANDALONE_ID, alone)]), Zxid::ZERO);
        return Ok(Ensemble {
            my_id: STANDALONE_ID,
            config,
        });
    };
    let config = QuorumConfig::parse(&quorum.membership.text())?;
    Ok(Ensemble {
        my_id: quorum.my_id,
        config,
    })
}

/// A configuration that was proposed before the server stopped.
fn proposed_config(config: &Config) -> Result<Option<QuorumConfig>, StorageError> {
    let text = config
        .quorum
        .as_ref()
        .and_then(|quorum| quorum.proposed.as_deref());
    let damaged = |error: &dyn std::fmt::Display| StorageError::MembershipLost {
        path: dynamic::next_file(&config.path),
        what: error.to_string(),
    };
    text.map(QuorumConfig::parse)
        .transpose()
        .map_err(|error| damaged(&error))
}

fn nothing_recovered() -> Recovered {
    Recovered {
        accepted_epoch: Epoch(0),
        current_epoch: Epoch(0),
        last_zxid: Zxid::ZERO,
        recent: vec![],
        last_seen_config: None,
        standing: Standing::Whole,
    }
}

/// What was found on the disk.
struct Start {
    replica: Replica,
    peer: Recovered,
    files: Option<Files>,
}

impl Start {
    fn read(
        files: &Arc<dyn FileSystem>,
        config: &Config,
        tree_options: TreeOptions,
    ) -> anyhow::Result<Self> {
        let opened = store::open(files, &disk::store_options(config, tree_options))?;
        let peer = Recovered {
            accepted_epoch: opened.epochs.epochs().accepted,
            current_epoch: opened.epochs.epochs().current,
            last_zxid: opened.replica.last_zxid(),
            recent: opened.recent.into(),
            last_seen_config: None,
            standing: opened.standing,
        };
        Ok(Self {
            replica: opened.replica,
            peer,
            files: Some(Files {
                dirs: opened.dirs,
                epochs: opened.epochs,
                marks: opened.marks,
            }),
        })
    }
}

fn peer_config(config: &Config, ensemble: &Ensemble) -> PeerConfig {
    let quorum = config.quorum.as_ref();
    let timing = quorum.map_or_else(Timing::default, |quorum| Timing {
        tick_ms: config.sessions.tick_time_ms.into(),
        init_limit: quorum.init_limit,
        sync_limit: quorum.sync_limit,
        resend_min_ms: quorum.min_notification_interval_ms.into(),
        resend_max_ms: quorum.max_notification_interval_ms.into(),
        ..Timing::default()
    });
    PeerConfig {
        my_id: ensemble.my_id,
        config: ensemble.config.clone(),
        timing,
        reconfig_enabled: config.features.reconfig && quorum.is_some(),
        observer: quorum.is_some_and(|quorum| quorum.role == Role::Observer),
        observer_keeps_disk: quorum.is_none_or(|quorum| quorum.observer_sync_enabled),
    }
}

fn member(config: &Config, peer: PeerConfig, recovered: Recovered, applied: Zxid) -> Member {
    let sessions = &config.sessions;
    let quorum = config.quorum.as_ref();
    let timeout = |ms: u32| i32::try_from(ms).unwrap_or(i32::MAX);
    let settings = MemberSettings {
        prep: PrepSettings {
            skip_acl: config.access.skip_acl,
            extended_types: config.features.extended_types,
            enforce_quota: false,
        },
        tick_ms: sessions.tick_time_ms.into(),
        min_session_timeout_ms: timeout(sessions.min_session_timeout_ms),
        max_session_timeout_ms: timeout(sessions.max_session_timeout_ms),
        container_interval_ms: config.containers.check_interval_ms,
        container_never_used_ms: i64::try_from(config.containers.max_never_used_ms)
            .unwrap_or(i64::MAX),
        reconfig_enabled: peer.reconfig_enabled,
        min_voters: if quorum.is_some_and(|quorum| quorum.standalone_enabled) {
            2
        } else {
            1
        },
    };
    let now_ms = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_millis());
    let ids = SessionIds::new(peer.my_id, i64::try_from(now_ms).unwrap_or(0));
    Member::new(settings, Peer::new(peer, recovered, Time(0)), ids, applied)
}

impl Loaded {
    /// Opens log and ports.
    async fn open(self) -> anyhow::Result<Started> {
        let Self {
            home,
            shared,
            ensemble,
            member,
            files,
            started,
        } = self;
        let (to_driver, messages) = mpsc::unbounded_channel();
        let report = Report::new(to_driver);
        let disk = match files {
            Some(files) => Some(Disk::start(shared.clone(), files, report.clone())?),
            None => None,
        };
        let mut acceptors = JoinSet::new();
        let election = match shared.config.quorum.is_some() {
            true => Some(open_quorum_ports(&shared, &ensemble, &report, &mut acceptors).await?),
            false => None,
        };
        open_client_ports(&shared, &report, &mut acceptors).await?;
        watch_the_clock(&shared, &report);
        let quorum = shared.config.quorum.as_ref();
        let dial_timeout = Duration::from_millis(quorum.map_or(limits::LEADER_DIAL_MS, |quorum| {
            limits::LEADER_DIAL_MS.min(quorum.connect_timeout_ms.into())
        }));
        let driver = Driver {
            member,
            shared,
            disk,
            election,
            report,
            started,
            dial_timeout,
            stop_timeout: STOP_TIMEOUT,
        };
        Ok((driver, acceptors, messages, home))
    }
}

async fn open_quorum_ports(
    shared: &Arc<Shared>,
    ensemble: &Ensemble,
    report: &Report,
    acceptors: &mut JoinSet<()>,
) -> anyhow::Result<mpsc::UnboundedSender<ElectionCommand>> {
    let quorum = shared.config.quorum.as_ref().context("an ensemble")?;
    let own = ensemble.config.member(ensemble.my_id);
    let addresses = own.map(|own| own.addresses.clone()).unwrap_or_default();
    let links = Arc::new(quorum::LinkNumbers::default());
    let mut elections = Vec::new();
    let tick_ms = u64::from(shared.config.sessions.tick_time_ms);
    let sync_limit = Duration::from_millis(tick_ms * u64::from(quorum.sync_limit));
    let retries = match quorum.election_port_bind_retry {
        0 => u32::MAX,
        retries => retries,
    };
    for address in &addresses {
        let host = if quorum.listen_on_all_ips {
            EVERYWHERE
        } else {
            address.host.as_str()
        };
        let listener = bind(host, address.quorum_port, "quorum", retries).await?;
        acceptors.spawn(quorum::listen(
            listener,
            shared.clone(),
            report.clone(),
            links.clone(),
            sync_limit,
        ));
        elections.push(bind(host, address.election_port, "election", retries).await?);
    }
    let settings = ElectionSettings {
        my_id: ensemble.my_id,
        connect_timeout: Duration::from_millis(quorum.connect_timeout_ms.into()),
        introduction_timeout: sync_limit,
    };
    let (commands, received) = mpsc::unbounded_channel();
    tokio::spawn(election::run(
        settings,
        elections,
        ensemble.config.clone(),
        received,
        report.clone(),
    ));
    Ok(commands)
}

async fn open_client_ports(
    shared: &Arc<Shared>,
    report: &Report,
    acceptors: &mut JoinSet<()>,
) -> anyhow::Result<()> {
    if let Some(HostPort { host, port }) = &shared.config.client {
        let listener = bind(host, *port, "client", 0).await?;
        tracing::info!(address = %listener.local_addr()?, "client port open");
        let numbers = Arc::new(client::Numbers::default());
        acceptors.spawn(client::listen(
            listener,
            shared.clone(),
            report.clone(),
            numbers,
        ));
    }
    if let Some(HostPort { host, port }) = &shared.config.metrics {
        let listener = bind(host, *port, "metrics", 0).await?;
        let shared = shared.clone();
        tokio::spawn(async move {
            if let Err(error) = metrics::serve(listener, shared).await {
                tracing::error!(%error, "the metrics port has failed");
            }
        });
    }
    Ok(())
}

/// Opens a port, trying again `retries` times with a pause of a second: a predecessor may not be gone yet.
async fn bind(host: &str, port: u16, what: &str, retries: u32) -> anyhow::Result<TcpListener> {
    let mut tried = 0;
    loop {
        match net::open(host, port).await {
            Ok(listener) => return Ok(listener),
            Err(error) if tried < retries => {
                tracing::warn!(host, port, %error, "the {what} port cannot be opened yet; trying again");
                tried += 1;
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            Err(error) => {
                let cure = match what {
                    "quorum" | "election" if host != EVERYWHERE => {
                        "; with quorumListenOnAllIPs=true this server's own name need not lead to it"
                    }
                    _ => "",
                };
                return Err(error).with_context(|| {
                    format!("the {what} port {host}:{port} cannot be opened{cure}")
                });
            }
        }
    }
}

/// Ends connections that are silent for too long, and has old files removed.
fn watch_the_clock(shared: &Arc<Shared>, report: &Report) {
    let idle = shared.clone();
    tokio::spawn(async move {
        let mut every = tokio::time::interval(Duration::from_millis(limits::IDLE_CHECK_MS));
        loop {
            every.tick().await;
            let grace = u64::from(idle.config.sessions.tick_time_ms);
            for connection in idle.connections.lock().values() {
                let timeout = connection
                    .timeout_ms
                    .load(std::sync::atomic::Ordering::Relaxed);
                let allowed = u64::try_from(timeout).unwrap_or(0) + grace;
                if timeout > 0 && connection.silent_ms() > allowed {
                    tracing::debug!(peer = %connection.peer, "nothing heard from a client for its time-out: closed");
                    connection.close();
                }
            }
        }
    });
    if let Some(interval) = shared.config.storage.purge_interval {
        let report = report.clone();
        tokio::spawn(async move {
            let mut every = tokio::time::interval(interval);
            loop {
                every.tick().await;
                report.send(Message::Purge);
            }
        });
    }
}

/// SIGTERM and SIGINT.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// From now on they do not end the process by themselves.
    fn listen() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// Waits for one of them.
    async fn stop(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// When it is time: no more connections, then the driver hands over and ends.
fn stop_when(
    stop: impl Future<Output = ()> + Send + 'static,
    report: Report,
    mut acceptors: JoinSet<()>,
) {
    tokio::spawn(async move {
        stop.await;
        acceptors.abort_all();
        report.send(Message::Stop);
    });
}
