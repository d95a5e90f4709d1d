//! Counters, and `/metrics` in Prometheus' text format.
//!
//! Names that Apache has are Apache's; what it does not have begins with `zookeeper_node_`.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use parking_lot::Mutex;
use prometheus::{
    Encoder, Histogram, HistogramOpts, IntCounter, IntGauge, IntGaugeVec, Opts, Registry,
    TextEncoder,
};
use tokio::net::TcpListener;

use crate::config::Config;
use crate::shared::Shared;
use crate::storage::log_writer::DiskState;

/// Minimum, sum, count and maximum, as `srvr` shows them for latency.
#[derive(Clone, Copy, Debug, Default)]
pub struct Latency {
    /// Milliseconds.
    pub min: u64,
    /// Milliseconds.
    pub max: u64,
    sum_us: u64,
    count: u64,
}

impl Latency {
    fn add(&mut self, took: Duration) {
        let ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        self.min = if self.count == 0 {
            ms
        } else {
            self.min.min(ms)
        };
        self.max = self.max.max(ms);
        self.sum_us += u64::try_from(took.as_micros()).unwrap_or(0);
        self.count += 1;
    }

    /// The mean in milliseconds.
    #[must_use]
    pub fn average_ms(&self) -> f64 {
        if self.count == 0 {
            0.0
        } else {
            self.sum_us as f64 / self.count as f64 / 1000.0
        }
    }
}

/// Every counter of the server.
pub struct Metrics {
    registry: Registry,
    started: Instant,
    per_address: Mutex<HashMap<IpAddr, u32>>,
    latency: Mutex<Latency>,
    without_leader_since: Mutex<Option<Instant>>,
    reads: IntCounter,
    writes: IntCounter,
    packets_received: IntCounter,
    packets_sent: IntCounter,
    bytes: IntCounter,
    rejected: IntCounter,
    leader_changes: IntCounter,
    elections: IntCounter,
    write_latency: Histogram,
    connections: IntGauge,
    epoch: IntGauge,
    zxid: IntGauge,
    znodes: IntGauge,
    watches: IntGauge,
    ephemerals: IntGauge,
    data_size: IntGauge,
    sessions: IntGauge,
    outstanding: IntGauge,
    synced_followers: IntGauge,
    synced_observers: IntGauge,
    without_leader_s: prometheus::Gauge,
    role: IntGaugeVec,
    disk: IntGaugeVec,
}

const ROLES: [&str; 5] = ["looking", "follower", "leader", "observer", "standalone"];

const DISK_STATES: [(&str, DiskState); 3] = [
    ("works", DiskState::Works),
    ("full", DiskState::Full),
    ("stuck", DiskState::Stuck),
];

fn write_latency(registry: &Registry) -> Result<Histogram, prometheus::Error> {
    let buckets = prometheus::exponential_buckets(0.0001, 2.0, 16)?;
    let latency = Histogram::with_opts(
        HistogramOpts::new(
            "zookeeper_node_write_seconds",
            "From a write's arrival to its answer",
        )
        .buckets(buckets),
    )?;
    registry.register(Box::new(latency.clone()))?;
    Ok(latency)
}

/// A gauge for each state that there is.
fn states(
    registry: &Registry,
    name: &str,
    help: &str,
    label: &str,
) -> Result<IntGaugeVec, prometheus::Error> {
    let states = IntGaugeVec::new(Opts::new(name, help), &[label])?;
    registry.register(Box::new(states.clone()))?;
    Ok(states)
}

impl Metrics {
    /// All at zero.
    pub fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let counter = |name: &str, help: &str| -> Result<IntCounter, prometheus::Error> {
            let counter = IntCounter::new(name, help)?;
            registry.register(Box::new(counter.clone()))?;
            Ok(counter)
        };
        let gauge = |name: &str, help: &str| -> Result<IntGauge, prometheus::Error> {
            let gauge = IntGauge::new(name, help)?;
            registry.register(Box::new(gauge.clone()))?;
            Ok(gauge)
        };
        let without_leader_s = prometheus::Gauge::new(
            "zookeeper_node_without_leader_seconds",
            "How long the server has been without a leader; 0 while it has one",
        )?;
        registry.register(Box::new(without_leader_s.clone()))?;
        Ok(Self {
            started: Instant::now(),
            per_address: Mutex::default(),
            latency: Mutex::default(),
            without_leader_since: Mutex::new(Some(Instant::now())),
            reads: counter(
                "zookeeper_node_reads_total",
                "Requests answered by this server alone",
            )?,
            writes: counter(
                "zookeeper_node_writes_total",
                "Requests that went through the leader",
            )?,
            packets_received: counter("packets_received", "Frames received from clients")?,
            packets_sent: counter("packets_sent", "Frames sent to clients")?,
            bytes: counter("bytes_received_count", "Bytes received from clients")?,
            rejected: counter(
                "connection_rejected",
                "Connections refused because of a limit",
            )?,
            leader_changes: counter(
                "zookeeper_node_leader_changes_total",
                "Times that another leader took over",
            )?,
            elections: counter("looking_count", "Times that the server looked for a leader")?,
            write_latency: write_latency(&registry)?,
            connections: gauge("num_alive_connections", "Connections of clients")?,
            epoch: gauge("zookeeper_node_epoch", "The epoch of the server's history")?,
            zxid: gauge(
                "zookeeper_node_zxid",
                "The last transaction that was applied",
            )?,
            znodes: gauge(
                "znode_count",
                "Nodes, the root counted twice as Apache does",
            )?,
            watches: gauge("watch_count", "Watches of this server's clients")?,
            ephemerals: gauge("ephemerals_count", "Ephemeral nodes")?,
            data_size: gauge(
                "approximate_data_size",
                "Characters of paths and bytes of data",
            )?,
            sessions: gauge("global_sessions", "Sessions of the ensemble")?,
            outstanding: gauge(
                "outstanding_requests",
                "Requests that wait for their commit",
            )?,
            synced_followers: gauge("synced_followers", "On the leader: followers in sync")?,
            synced_observers: gauge("synced_observers", "On the leader: observers in sync")?,
            without_leader_s,
            role: states(
                &registry,
                "zookeeper_node_role",
                "1 for the role that the server has",
                "role",
            )?,
            disk: states(
                &registry,
                "zookeeper_node_disk",
                "1 for the state of the log's disk",
                "state",
            )?,
            registry,
        })
    }

    /// Whether one more connection from `from` is within the limits; if so it is counted.
    pub(crate) fn admit(&self, from: IpAddr, config: &Config) -> bool {
        let mut per_address = self.per_address.lock();
        let sessions = &config.sessions;
        let all: u32 = if sessions.max_connections == 0 {
            0
        } else {
            per_address.values().sum()
        };
        let count = per_address.entry(from).or_default();
        let over = |limit: u32, count: u32| limit != 0 && count >= limit;
        if over(sessions.max_client_connections, *count) || over(sessions.max_connections, all) {
            return false;
        }
        *count += 1;
        self.connections.inc();
        true
    }

    pub(crate) fn release(&self, from: IpAddr) {
        let mut per_address = self.per_address.lock();
        if let Some(count) = per_address.get_mut(&from) {
            *count -= 1;
            if *count == 0 {
                per_address.remove(&from);
            }
        }
        self.connections.dec();
    }

    pub(crate) fn connection_rejected(&self) {
        self.rejected.inc();
    }

    pub(crate) fn bytes_received(&self, n: usize) {
        self.bytes.inc_by(n as u64);
    }

    pub(crate) fn received(&self, frames: u64) {
        self.packets_received.inc_by(frames);
    }

    pub(crate) fn sent(&self, frames: u64) {
        self.packets_sent.inc_by(frames);
    }

    pub(crate) fn reads(&self, n: u64) {
        self.reads.inc_by(n);
    }

    pub(crate) fn write_answered(&self, took: Duration) {
        self.writes.inc();
        self.write_latency.observe(took.as_secs_f64());
        self.latency.lock().add(took);
    }

    pub(crate) fn looking(&self) {
        self.elections.inc();
        self.without_leader_since
            .lock()
            .get_or_insert_with(Instant::now);
    }

    pub(crate) fn has_leader(&self, is_another: bool) {
        *self.without_leader_since.lock() = None;
        if is_another {
            self.leader_changes.inc();
        }
    }

    /// Latency of writes since the start.
    #[must_use]
    pub fn latency(&self) -> Latency {
        *self.latency.lock()
    }

    /// Frames received and sent.
    #[must_use]
    pub fn packets(&self) -> (u64, u64) {
        (self.packets_received.get(), self.packets_sent.get())
    }

    /// Connections of clients, four-letter words included.
    #[must_use]
    pub fn connections(&self) -> i64 {
        self.connections.get()
    }

    /// How long the server runs.
    #[must_use]
    pub fn uptime(&self) -> Duration {
        self.started.elapsed()
    }

    fn text(&self, shared: &Shared) -> Result<Vec<u8>, prometheus::Error> {
        {
            let replica = shared.replica.read();
            let tree = replica.tree();
            self.zxid.set(replica.last_zxid().0);
            self.znodes.set(tree.node_count() as i64);
            self.ephemerals.set(tree.ephemeral_count() as i64);
            self.data_size.set(tree.approximate_data_size());
            self.sessions.set(replica.sessions().len() as i64);
        }
        self.watches.set(shared.watches.lock().watch_count() as i64);
        let status = shared.status.lock().clone();
        self.epoch.set(status.epoch.0);
        self.outstanding.set(status.outstanding as i64);
        self.synced_followers.set(status.synced_followers as i64);
        self.synced_observers.set(status.synced_observers as i64);
        let since = *self.without_leader_since.lock();
        self.without_leader_s
            .set(since.map_or(0.0, |since| since.elapsed().as_secs_f64()));
        for role in ROLES {
            self.role
                .with_label_values(&[role])
                .set(i64::from(role == status.mode()));
        }
        for (word, state) in DISK_STATES {
            self.disk
                .with_label_values(&[word])
                .set(i64::from(state == status.disk));
        }
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(text)
    }
}

/// Serves `/metrics`.
pub async fn serve(listener: TcpListener, shared: Arc<Shared>) -> std::io::Result<()> {
    let router = Router::new()
        .route("/metrics", get(metrics))
        .with_state(shared);
    axum::serve(listener, router).await
}

async fn metrics(State(shared): State<Arc<Shared>>) -> Response {
    match shared.metrics.text(&shared) {
        Ok(text) => ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}
