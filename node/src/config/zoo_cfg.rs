//! From the entries of `zoo.cfg` to a [`Config`].

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::ensemble::{self, Ensemble, Mode};
use super::members;
use super::properties::Entry;
use super::values::{Values, read_file};
use super::{
    Access, Admin, Config, ConfigError, Containers, Features, FourLetterWords, HostPort, Quorum,
    Sessions, Storage,
};
use crate::storage::txn_log::LogOptions;

pub(super) fn read(path: &Path) -> Result<Config, ConfigError> {
    let (listed, entries): (Vec<Entry>, Vec<Entry>) = read_file(path)?
        .into_iter()
        .partition(|entry| members::is_membership(&entry.key));
    let mut values = Values::new(path, entries);
    let data_dir = values.text("dataDir").map(PathBuf::from);
    if data_dir.is_none() {
        values.problem(
            values.line("dataDir"),
            "dataDir is missing; add a line like dataDir=/var/lib/zookeeper",
        );
    }
    let data_dir = data_dir.unwrap_or_default();
    let reconfig = values.flag("reconfigEnabled");
    let mode = ensemble::read(path, listed, &mut values, &data_dir, reconfig)?;
    let sessions = sessions(&mut values);
    let storage = storage(&mut values);
    let client = client(&mut values, &mode);
    let quorum = match mode {
        Mode::Ensemble(ensemble) => Some(quorum(&mut values, ensemble)),
        Mode::Standalone | Mode::Wrong => None,
    };
    let config = Config {
        path: path.to_owned(),
        data_log_dir: values
            .text("dataLogDir")
            .map_or_else(|| data_dir.clone(), PathBuf::from),
        data_dir,
        autocreate: values.flag("datadir.autocreate"),
        client,
        quorum,
        sessions,
        storage,
        access: access(&mut values),
        features: Features {
            extended_types: values.flag("extendedTypesEnabled"),
            tree_digest: values.flag("digest.enabled"),
            close_session_txn: values.flag("closeSessionTxn.enabled"),
            reconfig,
        },
        containers: Containers {
            check_interval_ms: u64::from(values.count("znode.container.checkIntervalMs")),
            max_per_minute: values.count("znode.container.maxPerMinute"),
            max_never_used_ms: millis(values.number("znode.container.maxNeverUsedIntervalMs")),
        },
        metrics: metrics(&mut values),
        admin: admin(&mut values),
        warnings: Vec::new(),
    };
    let warnings = &mut values.warnings;
    warnings.sort_by_key(|warning| warning.problem.order(path));
    let config = Config {
        warnings: std::mem::take(warnings),
        ..config
    };
    if values.problems.is_empty() {
        return Ok(config);
    }
    // What is only doubtful may be the cause of what is wrong: a mistyped key of one that is missing.
    let doubtful = config.warnings.into_iter().filter(|w| w.serious);
    values.problems.extend(doubtful.map(|w| w.problem));
    values.problems.sort_by_key(|problem| problem.order(path));
    Err(ConfigError::Problems(values.problems))
}

fn millis(n: Option<i64>) -> u64 {
    n.and_then(|n| u64::try_from(n).ok()).unwrap_or(0)
}

fn sessions(values: &mut Values) -> Sessions {
    let tick_time_ms = values.count("tickTime");
    let mut timeout = |name, ticks: u32| match values.number(name) {
        Some(n) if n > 0 => u32::try_from(n).unwrap_or(u32::MAX),
        _ => tick_time_ms.saturating_mul(ticks),
    };
    let min_session_timeout_ms = timeout("minSessionTimeout", 2);
    let max_session_timeout_ms = timeout("maxSessionTimeout", 20);
    if min_session_timeout_ms > max_session_timeout_ms {
        let line = values
            .line("maxSessionTimeout")
            .or(values.line("minSessionTimeout"));
        let text = format!(
            "minSessionTimeout is {min_session_timeout_ms} ms and maxSessionTimeout is {max_session_timeout_ms} ms; the minimum must not be above the maximum (their defaults are 2 and 20 ticks)"
        );
        values.problem(line, text);
    }
    let frame_max_bytes = values.count("jute.maxbuffer") as usize;
    let extra = values
        .line("jute.maxbuffer.extrasize")
        .map(|_| values.count("jute.maxbuffer.extrasize") as usize);
    Sessions {
        tick_time_ms,
        min_session_timeout_ms,
        max_session_timeout_ms,
        max_client_connections: values.count("maxClientCnxns"),
        max_connections: values.count("maxCnxns"),
        outstanding_max: values.count("globalOutstandingLimit"),
        frame_max_bytes,
        frame_extra_bytes: extra.unwrap_or(frame_max_bytes),
        client_tcp_keep_alive: values.flag("clientTcpKeepAlive"),
    }
}

fn storage(values: &mut Values) -> Storage {
    let force_sync = values.flag("forceSync");
    if !force_sync && values.line("forceSync").is_some() {
        values.warn(
            values.line("forceSync"),
            "forceSync=no: a power failure loses writes that were acknowledged",
        );
    }
    Storage {
        log: LogOptions {
            preallocate_bytes: values.kib("preAllocSize").unwrap_or(0),
            force_sync,
            roll_at_bytes: values.kib("txnLogSizeLimitInKb"),
        },
        fsync_warning: Duration::from_millis(millis(values.number("fsync.warningthresholdms"))),
        snap_count: values.count("snapCount"),
        snap_size_limit_bytes: values.kib("snapSizeLimitInKb"),
        commit_log_count: values.count("commitLogCount"),
        trust_empty: values
            .line("db.autocreate")
            .is_some()
            .then(|| values.flag("db.autocreate")),
        trust_empty_snapshot: values.flag("snapshot.trust.empty"),
        serialize_last_zxid: values.flag("serializeLastProcessedZxid.enabled"),
        snap_retain_count: values.count("autopurge.snapRetainCount"),
        purge_interval: values.interval("autopurge.purgeInterval"),
    }
}

fn access(values: &mut Values) -> Access {
    let super_digest = values.text("DigestAuthenticationProvider.superDigest");
    if super_digest
        .as_ref()
        .is_some_and(|digest| !digest.starts_with("super:"))
    {
        let text = "DigestAuthenticationProvider.superDigest must have the form super:DIGEST, with the base64 of the SHA-1 of super:PASSWORD";
        values.problem(
            values.line("DigestAuthenticationProvider.superDigest"),
            text,
        );
    }
    let skip_acl = values.flag("skipACL");
    if skip_acl {
        values.warn(
            values.line("skipACL"),
            "skipACL=yes: every client may read and change everything",
        );
    }
    // The list must name its words; that it is checked here only means the algorithm that exists is asked for.
    values.word("DigestAuthenticationProvider.digestAlg");
    Access {
        skip_acl,
        digest_enabled: values.flag("DigestAuthenticationProvider.enabled"),
        super_digest,
        four_letter_words: four_letter_words(
            &values.text("4lw.commands.whitelist").unwrap_or_default(),
        ),
    }
}

fn four_letter_words(list: &str) -> FourLetterWords {
    let mut words: Vec<String> = list.split(',').map(|word| word.trim().to_owned()).collect();
    if words.iter().any(|word| word == "*") {
        return FourLetterWords::All;
    }
    words.retain(|word| !word.is_empty());
    if !words.iter().any(|word| word == "srvr") {
        words.push("srvr".to_owned());
    }
    FourLetterWords::Only(words)
}

fn metrics(values: &mut Values) -> Option<HostPort> {
    let line = values.line("metricsProvider.className");
    let port = values.number("metricsProvider.httpPort");
    let class = values.text("metricsProvider.className")?;
    match class.rsplit('.').next().unwrap_or_default() {
        "PrometheusMetricsProvider" => {
            let host = values.text("metricsProvider.httpHost")?;
            Some(HostPort {
                host,
                port: u16::try_from(port?).ok()?,
            })
        }
        "DefaultMetricsProvider" | "NullMetricsProvider" => None,
        _ => {
            let text = format!(
                "metricsProvider.className is {class:?}, but there are only org.apache.zookeeper.metrics.prometheus.PrometheusMetricsProvider, org.apache.zookeeper.metrics.impl.DefaultMetricsProvider and …NullMetricsProvider"
            );
            values.problem(line, text);
            None
        }
    }
}

fn admin(values: &mut Values) -> Option<Admin> {
    let port = values
        .number("admin.serverPort")
        .and_then(|port| u16::try_from(port).ok());
    let host = values.text("admin.serverAddress")?;
    let command_url = values.text("admin.commandURL")?;
    let enabled = values.flag("admin.enableServer");
    enabled.then_some(Admin {
        address: HostPort { host, port: port? },
        command_url,
    })
}

/// Whether it stands for all addresses of the server.
fn is_all_addresses(host: &str) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host.parse::<std::net::IpAddr>()
        .is_ok_and(|address| address.is_unspecified())
}

/// Where clients connect: as the server's own line says, or else the keys.
fn client(values: &mut Values, mode: &Mode) -> Option<HostPort> {
    let line = values
        .line("clientPort")
        .or(values.line("clientPortAddress"));
    let port = values
        .number("clientPort")
        .and_then(|port| u16::try_from(port).ok());
    let host = values.text("clientPortAddress");
    if host.is_some() && values.line("clientPort").is_none() {
        values.problem(line, "clientPortAddress is set, but clientPort is not");
    }
    let all_named = host.as_deref().is_some_and(is_all_addresses);
    let host = host.unwrap_or_else(|| "0.0.0.0".to_owned());
    let by_keys = port.map(|port| HostPort { host, port });
    let by_list = match mode {
        Mode::Ensemble(ensemble) => ensemble.client(),
        Mode::Standalone | Mode::Wrong => None,
    };
    match (by_keys, by_list) {
        // As with Apache, all addresses of this server include the one that its line tells clients of. Who names them
        // is taken at his word: a name need not be known before there are clients.
        (Some(keys), Some(list)) if keys.port == list.port && is_all_addresses(&keys.host) => {
            Some(if all_named { keys } else { list })
        }
        (Some(keys), Some(list)) if keys != list => {
            let text = format!(
                "clientPort and clientPortAddress say {keys}, but this server's own server line says {list}; keep one of them"
            );
            values.problem(line, text);
            Some(list)
        }
        (None, None) => {
            match mode {
                _ if values.line("clientPort").is_some() => {}
                Mode::Standalone => values.problem(
                    None,
                    "clientPort is missing; add a line like clientPort=2181",
                ),
                Mode::Ensemble(_) => values.warn(
                    None,
                    "without clientPort no client can connect to this server",
                ),
                Mode::Wrong => {}
            }
            None
        }
        (keys, list) => list.or(keys),
    }
}

fn quorum(values: &mut Values, ensemble: Ensemble) -> Quorum {
    let why = "an ensemble needs it";
    let init_limit = values.required_count("initLimit", why);
    let sync_limit = values.required_count("syncLimit", why);
    let connect_limit = values.count("connectToLearnerMasterLimit");
    let min_notification_interval_ms = values.count("fastleader.minNotificationInterval");
    let max_notification_interval_ms = values.count("fastleader.maxNotificationInterval");
    if min_notification_interval_ms > max_notification_interval_ms {
        let line = values.line("fastleader.minNotificationInterval");
        values.problem(
            line,
            "fastleader.minNotificationInterval is above fastleader.maxNotificationInterval",
        );
    }
    let sync_key = if values.line("observer.syncEnabled").is_some() {
        "observer.syncEnabled"
    } else {
        "syncEnabled"
    };
    Quorum {
        my_id: ensemble.my_id,
        role: ensemble.role,
        membership: ensemble.membership,
        proposed: ensemble.proposed,
        standalone_enabled: values.flag("standaloneEnabled"),
        init_limit,
        sync_limit,
        connect_limit: if connect_limit == 0 {
            init_limit
        } else {
            connect_limit
        },
        observer_sync_enabled: values.flag(sync_key),
        listen_on_all_ips: values.flag("quorumListenOnAllIPs"),
        election_port_bind_retry: values.count("electionPortBindRetry"),
        leader_serves: values.flag("leaderServes"),
        connect_timeout_ms: values.count("cnxTimeout"),
        min_notification_interval_ms,
        max_notification_interval_ms,
        tcp_keep_alive: values.flag("tcpKeepAlive"),
    }
}
