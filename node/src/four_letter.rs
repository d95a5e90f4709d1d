//! Four-letter words on the client port (protocol reference §8.1).

use std::fmt::Write;
use std::sync::atomic::Ordering;

use node_core::proto::election::PeerState;
use node_core::watch::ConnectionId;
use node_core::zxid::SessionId;

use crate::net::outbox::Connection;
use crate::shared::Shared;
use crate::status::Status;
use crate::storage::log_writer::DiskState;

/// What stands behind "Zookeeper version:". Clients parse the first three numbers.
pub const VERSION: &str = concat!(
    "3.9.5-zookeeper-node-",
    env!("CARGO_PKG_VERSION"),
    ", built on 2026-11-24 00:00 UTC"
);

const NOT_SERVING: &str = "This ZooKeeper instance is not currently serving requests\n";

macro_rules! commands {
    ($($name:ident = $word:literal,)*) => {
        /// A word that is known.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[expect(missing_docs, reason = "the words are those of the protocol reference")]
        pub enum Command { $($name,)* }

        impl Command {
            /// The command that these four bytes are.
            #[must_use]
            pub fn parse(word: [u8; 4]) -> Option<Self> {
                $(if &word == $word { return Some(Self::$name); })*
                None
            }

            fn word(self) -> &'static str {
                match self { $(Self::$name => std::str::from_utf8($word).unwrap_or("?"),)* }
            }
        }
    };
}

commands! {
    Conf = b"conf", Cons = b"cons", Dump = b"dump", Isro = b"isro", Mntr = b"mntr", Ruok = b"ruok",
    Srvr = b"srvr", Stat = b"stat", Wchs = b"wchs",
}

/// The answer to a word.
#[must_use]
pub fn answer(command: Command, shared: &Shared) -> String {
    let word = command.word();
    if command != Command::Srvr && !shared.config.access.four_letter_words.allows(word) {
        return format!("{word} is not executed because it is not in the whitelist.\n");
    }
    let status = shared.status.lock().clone();
    match command {
        Command::Ruok => return "imok".into(),
        Command::Isro if !shared.is_serving() => return "null".into(),
        _ if !shared.is_serving() => return NOT_SERVING.to_owned() + &status.disk_line(),
        _ => {}
    }
    match command {
        Command::Conf => conf(shared, &status),
        Command::Cons => connections(shared, true) + "\n",
        Command::Dump => dump(shared),
        Command::Isro => "rw".into(),
        Command::Mntr => mntr(shared, &status),
        Command::Ruok => "imok".into(),
        Command::Srvr => format!("Zookeeper version: {VERSION}\n{}", summary(shared, &status)),
        Command::Stat => {
            let clients = connections(shared, false);
            format!(
                "Zookeeper version: {VERSION}\nClients:\n{clients}\n{}",
                summary(shared, &status)
            )
        }
        Command::Wchs => {
            let counts = shared.watches.lock().counts();
            let (connections, paths, total) = (counts.connections, counts.paths, counts.data);
            format!("{connections} connections watching {paths} paths\nTotal watches:{total}\n")
        }
    }
}

/// A number as Java prints a double that has at most four decimals.
fn double(value: f64) -> String {
    let rounded = (value * 10_000.0).round() / 10_000.0;
    format!("{rounded:?}")
}

fn summary(shared: &Shared, status: &Status) -> String {
    let (zxid, nodes) = {
        let replica = shared.replica.read();
        (
            status.shown_zxid(replica.last_zxid()),
            replica.tree().node_count(),
        )
    };
    let latency = shared.metrics.latency();
    let (received, sent) = shared.metrics.packets();
    let mut text = format!(
        "Latency min/avg/max: {}/{}/{}\nReceived: {received}\nSent: {sent}\nConnections: {}\nOutstanding: {}\n\
         Zxid: {zxid}\nMode: {}\nNode count: {nodes}\n",
        latency.min,
        double(latency.average_ms()),
        latency.max,
        shared.metrics.connections(),
        status.outstanding,
        status.mode(),
    );
    if status.state == PeerState::Leading && !status.standalone {
        let sizes = status
            .proposal_sizes
            .map_or("-1/-1/-1".into(), |(last, min, max)| {
                format!("{last}/{min}/{max}")
            });
        text += &format!("Proposal sizes last/min/max: {sizes}\n");
    }
    text + &status.disk_line()
}

fn all_connections(shared: &Shared) -> Vec<std::sync::Arc<Connection>> {
    let mut connections: Vec<_> = shared.connections.lock().values().cloned().collect();
    connections.sort_by_key(|connection| connection.id);
    connections
}

fn connections(shared: &Shared, full: bool) -> String {
    let mut text = String::new();
    for connection in all_connections(shared) {
        let queued = connection.outbox.lock().in_flight;
        let (received, sent) = (
            connection.received.load(Ordering::Relaxed),
            connection.sent.load(Ordering::Relaxed),
        );
        text += &format!(
            " /{}[1](queued={queued},recved={received},sent={sent}",
            connection.peer
        );
        let session = connection.session.load(Ordering::Relaxed);
        if full && session != 0 {
            let timeout = connection.timeout_ms.load(Ordering::Relaxed);
            text += &format!(",sid={:#x},to={timeout}", session);
        }
        text += ")\n";
    }
    text
}

fn conf(shared: &Shared, status: &Status) -> String {
    let config = &shared.config;
    let sessions = &config.sessions;
    let absolute = |path: &std::path::Path| {
        let path = path.join("version-2");
        std::path::absolute(&path)
            .unwrap_or(path)
            .display()
            .to_string()
    };
    let mut text = String::new();
    let mut line = |key: &str, value: String| {
        let _ = writeln!(text, "{key}={value}");
    };
    line(
        "clientPort",
        config
            .client
            .as_ref()
            .map_or("-1".into(), |client| client.port.to_string()),
    );
    line("secureClientPort", "-1".into());
    line("dataDir", absolute(&config.data_dir));
    line("dataLogDir", absolute(&config.data_log_dir));
    line("tickTime", sessions.tick_time_ms.to_string());
    line(
        "maxClientCnxns",
        sessions.max_client_connections.to_string(),
    );
    line(
        "minSessionTimeout",
        sessions.min_session_timeout_ms.to_string(),
    );
    line(
        "maxSessionTimeout",
        sessions.max_session_timeout_ms.to_string(),
    );
    line("clientPortListenBacklog", "-1".into());
    let Some(quorum) = &config.quorum else {
        line("serverId", "1".into());
        return text;
    };
    line("serverId", quorum.my_id.to_string());
    line("initLimit", quorum.init_limit.to_string());
    line("syncLimit", quorum.sync_limit.to_string());
    line("electionAlg", "3".into());
    if let Some(own) = quorum.membership.server(quorum.my_id) {
        let ports = |port: fn(&crate::config::PeerAddress) -> u16| {
            own.addresses
                .iter()
                .map(|address| port(address).to_string())
                .collect::<Vec<_>>()
                .join("|")
        };
        line("electionPort", ports(|address| address.election_port));
        line("quorumPort", ports(|address| address.quorum_port));
    }
    line(
        "peerType",
        if status.state == PeerState::Observing {
            "1"
        } else {
            "0"
        }
        .into(),
    );
    text + "membership: \n" + &status.config
}

/// On every member the sessions with their time-outs, as Apache's learners list them.
fn dump(shared: &Shared) -> String {
    let replica = shared.replica.read();
    let mut text = String::from("SessionTracker dump:\n");
    text += &format!("Global Sessions({}):\n", replica.sessions().len());
    for (session, timeout) in replica.sessions() {
        text += &format!("{session}\t{timeout}ms\n");
    }
    text += "ephemeral nodes dump:\n";
    let owners: Vec<SessionId> = replica.tree().ephemeral_owners().collect();
    text += &format!("Sessions with Ephemerals ({}):\n", owners.len());
    for owner in owners {
        text += &format!("{owner}:\n");
        for path in replica.tree().ephemerals(owner) {
            text += &format!("\t{path}\n");
        }
    }
    drop(replica);
    text += "Connections dump:\n";
    let connections: Vec<ConnectionId> = all_connections(shared)
        .iter()
        .map(|connection| connection.id)
        .collect();
    text + &format!("Connections Sets (1)/({}):\n", connections.len())
}

fn mntr(shared: &Shared, status: &Status) -> String {
    let mut text = String::new();
    let mut line = |key: &str, value: &dyn std::fmt::Display| {
        let _ = writeln!(text, "zk_{key}\t{value}");
    };
    let latency = shared.metrics.latency();
    let (received, sent) = shared.metrics.packets();
    line("version", &VERSION);
    line("server_state", &status.mode());
    if !status.standalone {
        let state = match status.state {
            PeerState::Leading => "leading",
            PeerState::Following => "following",
            PeerState::Observing => "observing",
            PeerState::Looking => "looking",
        };
        line("peer_state", &format!("{state} - broadcast"));
    }
    line("avg_latency", &double(latency.average_ms()));
    line("min_latency", &latency.min);
    line("max_latency", &latency.max);
    line("packets_received", &received);
    line("packets_sent", &sent);
    line("num_alive_connections", &shared.metrics.connections());
    line("outstanding_requests", &status.outstanding);
    line("disk_full", &u8::from(status.disk == DiskState::Full));
    line("disk_stuck", &u8::from(status.disk == DiskState::Stuck));
    line("uptime", &shared.metrics.uptime().as_millis());
    {
        let replica = shared.replica.read();
        let tree = replica.tree();
        line("znode_count", &tree.node_count());
        line("ephemerals_count", &tree.ephemeral_count());
        line("approximate_data_size", &tree.approximate_data_size());
        line("global_sessions", &replica.sessions().len());
    }
    line("watch_count", &shared.watches.lock().watch_count());
    line("local_sessions", &0);
    if let Ok(open) = std::fs::read_dir("/proc/self/fd") {
        line("open_file_descriptor_count", &open.count());
    }
    let limits = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    if let Some(limit) = limits.current {
        line("max_file_descriptor_count", &limit);
    }
    if !status.standalone {
        line("quorum_size", &status.quorum_size);
    }
    if status.state == PeerState::Leading && !status.standalone {
        let learners = status.synced_followers + status.synced_non_voting + status.synced_observers;
        line("learners", &learners);
        line("synced_followers", &status.synced_followers);
        line("synced_non_voting_followers", &status.synced_non_voting);
        line("synced_observers", &status.synced_observers);
        line("pending_syncs", &0);
        let (last, min, max) = status
            .proposal_sizes
            .map_or((-1, -1, -1), |(last, min, max)| {
                (last as i64, min as i64, max as i64)
            });
        line("last_proposal_size", &last);
        line("min_proposal_size", &min);
        line("max_proposal_size", &max);
    }
    text
}
