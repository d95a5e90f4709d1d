//! The keys of `zoo.cfg` that a manifest may set, those that it may not, and why.

use std::collections::BTreeMap;

use super::schema::nearest;
use super::{Config, Problem};
use crate::crd::Setting;

/// What a key's value may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// A whole number within bounds.
    Int(i64, i64),
    /// A number, possibly with a fraction.
    Number,
    /// `true` or `false`.
    Bool,
    /// `yes` or `no`.
    YesNo,
    /// Anything on one line.
    Text,
}

/// Checks one `config` map and gives its values as text.
pub(super) fn check(
    path: &str,
    config: &Config,
    problems: &mut Vec<Problem>,
) -> BTreeMap<String, String> {
    let mut checked = BTreeMap::new();
    for (written, value) in config {
        // Both spellings mean the same to a server; one is kept, so that they cannot contradict each other.
        let key = written.strip_prefix("zookeeper.").unwrap_or(written);
        let (path, value) = (format!("{path}.{written}"), text_of(key, value));
        match problem_of(key, &value) {
            Some(message) => problems.push(Problem::new(&path, message)),
            None if checked.insert(key.to_owned(), value).is_some() => {
                problems.push(Problem::new(
                    &path,
                    format!("{key} is given twice, with and without \"zookeeper.\""),
                ));
            }
            None => {}
        }
    }
    checked
}

/// Checks what only two keys together can get wrong.
pub(super) fn check_together(
    path: &str,
    config: &BTreeMap<String, String>,
    problems: &mut Vec<Problem>,
) {
    let number = |key: &str| config.get(key).and_then(|value| value.parse::<i64>().ok());
    let tick = number("tickTime").unwrap_or(2000);
    let (min, max) = (number("minSessionTimeout"), number("maxSessionTimeout"));
    let (min, max) = (min.unwrap_or(2 * tick), max.unwrap_or(20 * tick));
    if min > max {
        let message = format!(
            "minSessionTimeout ({min} ms) is above maxSessionTimeout ({max} ms); left out, they are 2 and 20 times tickTime"
        );
        problems.push(Problem::new(
            path.rsplit_once('.').map_or(path, |_| "spec.config"),
            message,
        ));
    }
}

/// A value as it stands in `zoo.cfg`.
fn text_of(key: &str, value: &Setting) -> String {
    match (kind_of(key), value) {
        // Some YAML readers take an unquoted yes for true.
        (Some(Kind::YesNo), Setting::Switch(true)) => "yes".to_owned(),
        (Some(Kind::YesNo), Setting::Switch(false)) => "no".to_owned(),
        _ => value.to_string(),
    }
}

/// What a key's value may be; nothing for a key that does not exist.
fn kind_of(key: &str) -> Option<Kind> {
    match KEYS.iter().find(|(known, _)| *known == key) {
        Some((_, kind)) => Some(*kind),
        None => FAMILIES
            .iter()
            .any(|family| key.starts_with(family))
            .then_some(Kind::Text),
    }
}

fn problem_of(key: &str, value: &str) -> Option<String> {
    if let Some((_, reason)) = OWNED.iter().find(|(owned, _)| is_owned(key, owned)) {
        return Some(format!("the operator sets it: {reason}; leave it out"));
    }
    if value.contains(['\n', '\r']) {
        return Some("a value must fit on one line".into());
    }
    let Some(kind) = kind_of(key) else {
        let known: Vec<&str> = KEYS.iter().map(|(known, _)| *known).collect();
        return Some(match nearest(key, &known) {
            Some(near) => format!("there is no such key of zoo.cfg; did you mean {near:?}?"),
            None => "there is no such key of zoo.cfg".into(),
        });
    };
    kind.problem_of(value)
}

/// Whether a key is the owned one, or of the owned family (`server.`).
fn is_owned(key: &str, owned: &str) -> bool {
    if owned.ends_with('.') {
        key.starts_with(owned)
    } else {
        key == owned
    }
}

impl Kind {
    fn problem_of(self, value: &str) -> Option<String> {
        let wanted = match self {
            Self::Int(min, max) => match value.parse::<i64>() {
                Ok(number) if (min..=max).contains(&number) => return None,
                Ok(number) => {
                    return Some(format!("{number} is out of range; from {min} to {max}"));
                }
                Err(_) => "a whole number",
            },
            Self::Number if value.parse::<f64>().is_ok() => return None,
            Self::Number => "a number",
            Self::Bool if matches!(value.to_ascii_lowercase().as_str(), "true" | "false") => {
                return None;
            }
            Self::Bool => "\"true\" or \"false\"",
            Self::YesNo if matches!(value, "yes" | "no") => return None,
            Self::YesNo => "\"yes\" or \"no\"",
            Self::Text => return None,
        };
        Some(format!("is {value:?}; {wanted} is wanted"))
    }
}

/// Keys that are the operator's, and why. A name that ends in `.` stands for all that begin so.
const OWNED: [(&str, &str); 24] = [
    (
        "clientPort",
        "clients find every member on the ensemble's client port",
    ),
    (
        "clientPortAddress",
        "members listen where their service sends clients",
    ),
    (
        "secureClientPort",
        "clients find every member on the ensemble's client port",
    ),
    (
        "secureClientPortAddress",
        "members listen where their service sends clients",
    ),
    ("dataDir", "each member's data lives on its own volume"),
    ("dataLogDir", "each member's data lives on its own volume"),
    (
        "server.",
        "members join and leave with spec.voters.replicas and spec.observers.replicas",
    ),
    (
        "group.",
        "the quorum is the majority of spec.voters.replicas",
    ),
    (
        "weight.",
        "the quorum is the majority of spec.voters.replicas",
    ),
    (
        "dynamicConfigFile",
        "the membership changes by reconfiguration only",
    ),
    (
        "reconfigEnabled",
        "the membership changes by reconfiguration only",
    ),
    (
        "standaloneEnabled",
        "one voter is a quorum of one, so that it can grow",
    ),
    (
        "peerType",
        "voters come from spec.voters, observers from spec.observers",
    ),
    ("electionAlg", "there is only one election algorithm"),
    (
        "DigestAuthenticationProvider.superDigest",
        "it reconfigures the ensemble as the superuser",
    ),
    (
        "DigestAuthenticationProvider.enabled",
        "it reconfigures the ensemble as the superuser",
    ),
    (
        "DigestAuthenticationProvider.digestAlg",
        "it reconfigures the ensemble as the superuser",
    ),
    (
        "metricsProvider.className",
        "metrics are always served, for its alerts",
    ),
    (
        "metricsProvider.httpHost",
        "metrics are always served, for its alerts",
    ),
    (
        "metricsProvider.httpPort",
        "metrics are always served, for its alerts",
    ),
    (
        "metricsProvider.httpsPort",
        "metrics are always served, for its alerts",
    ),
    (
        "admin.serverPort",
        "members on one machine must not collide",
    ),
    (
        "quorumListenOnAllIPs",
        "members listen where the others look for them",
    ),
    ("testingonly.initialZxid", "it is for ZooKeeper's own tests"),
];

/// Families of keys whose names are open.
const FAMILIES: [&str; 8] = [
    "authProvider.",
    "commitProcessor.",
    "enforce.auth.",
    "multiAddress.",
    "quorum.auth.",
    "ssl.",
    "metricsProvider.",
    "SASLAuthenticationProvider.",
];

const PORT: Kind = Kind::Int(0, 65_535);
const COUNT: Kind = Kind::Int(0, i32::MAX as i64);
const COUNT_OR_OFF: Kind = Kind::Int(-1, i32::MAX as i64);
const POSITIVE: Kind = Kind::Int(1, i32::MAX as i64);

/// Keys that a manifest may set.
const KEYS: [(&str, Kind); 75] = [
    ("4lw.commands.whitelist", Kind::Text),
    ("admin.enableServer", Kind::Bool),
    ("admin.rateLimiterIntervalInMS", COUNT),
    ("admin.restore.enabled", Kind::Bool),
    ("admin.snapshot.enabled", Kind::Bool),
    ("allowSaslFailedClients", Kind::Bool),
    ("audit.enable", Kind::Bool),
    ("autopurge.purgeInterval", COUNT),
    ("autopurge.snapRetainCount", Kind::Int(3, i32::MAX as i64)),
    ("clientPortListenBacklog", COUNT_OR_OFF),
    ("clientTcpKeepAlive", Kind::Bool),
    ("closeSessionTxn.enabled", Kind::Bool),
    ("cnxTimeout", POSITIVE),
    ("commitLogCount", Kind::Int(500, i32::MAX as i64)),
    ("connectToLearnerMasterLimit", COUNT),
    ("connection_throttle_fill_count", POSITIVE),
    ("connection_throttle_fill_time", POSITIVE),
    ("connection_throttle_freeze_time", COUNT_OR_OFF),
    ("connection_throttle_tokens", COUNT),
    ("datadir.autocreate", Kind::Bool),
    ("digest.enabled", Kind::Bool),
    ("electionPortBindRetry", COUNT),
    ("enableEagerACLCheck", Kind::Bool),
    ("enforceQuota", Kind::Bool),
    ("ensembleAuthName", Kind::Text),
    ("extendedTypesEnabled", Kind::Bool),
    ("fastleader.maxNotificationInterval", POSITIVE),
    ("fastleader.minNotificationInterval", POSITIVE),
    ("flushDelay", COUNT),
    ("forceSync", Kind::YesNo),
    ("fsync.warningthresholdms", COUNT),
    ("globalOutstandingLimit", POSITIVE),
    ("initLimit", POSITIVE),
    ("jute.maxbuffer", POSITIVE),
    ("jvm.pause.monitor", Kind::Bool),
    ("largeRequestMaxBytes", POSITIVE),
    ("largeRequestThreshold", COUNT_OR_OFF),
    ("leader.ackLoggingFrequency", POSITIVE),
    ("leader.maxConcurrentDiffSyncs", POSITIVE),
    ("leader.maxConcurrentSnapSyncs", POSITIVE),
    ("leaderConnectDelayDuringRetryMs", COUNT),
    ("leaderServes", Kind::YesNo),
    ("localSessionsEnabled", Kind::Bool),
    ("localSessionsUpgradingEnabled", Kind::Bool),
    ("maxBatchSize", POSITIVE),
    ("maxClientCnxns", COUNT),
    ("maxCnxns", COUNT),
    ("maxGetChildrenResponseCacheSize", COUNT),
    ("maxResponseCacheSize", COUNT),
    ("maxSessionTimeout", POSITIVE),
    ("maxWriteQueuePollTime", COUNT),
    ("minSessionTimeout", POSITIVE),
    ("observer.election.DelayMs", COUNT),
    ("observer.reconnectDelayMs", COUNT),
    ("observer.syncEnabled", Kind::Bool),
    ("observerMasterPort", PORT),
    ("preAllocSize", POSITIVE),
    ("quorumCnxnTimeoutMs", COUNT_OR_OFF),
    ("readonlymode.enabled", Kind::Bool),
    ("request_throttle_drop_stale", Kind::Bool),
    ("request_throttle_max_requests", COUNT),
    ("request_throttle_stall_time", COUNT),
    ("serializeLastProcessedZxid.enabled", Kind::Bool),
    ("skipACL", Kind::YesNo),
    ("snapCount", Kind::Int(2, i32::MAX as i64)),
    ("snapSizeLimitInKb", Kind::Int(-1, i64::MAX)),
    ("snapshot.compression.method", Kind::Text),
    ("snapshotSizeFactor", Kind::Number),
    ("syncEnabled", Kind::Bool),
    ("syncLimit", POSITIVE),
    ("tcpKeepAlive", Kind::Bool),
    ("tickTime", POSITIVE),
    ("txnLogSizeLimitInKb", Kind::Int(-1, i64::MAX)),
    ("watchManagerName", Kind::Text),
    ("znode.container.checkIntervalMs", POSITIVE),
];
