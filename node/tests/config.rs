//! What a person gets for a configuration, good or wrong.

#![expect(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

use std::fs;
use std::path::Path;

use expect_test::{Expect, expect};
use node::config::{Config, FourLetterWords, Role, dynamic};
use node::limits;
use node_core::zxid::{ServerId, Zxid};

const ENSEMBLE: &str = "tickTime=2000\ninitLimit=10\nsyncLimit=5\nclientPort=2181\nserver.1=a:2888:3888\nserver.2=b:2888:3888\nserver.3=c:2888:3888\n";

struct Files(tempfile::TempDir);

impl Files {
    /// A directory with `zoo.cfg`, in which `DIR` stands for the directory, and `data/myid`.
    fn new(zoo_cfg: &str, my_id: Option<&str>) -> Self {
        let files = Self(tempfile::tempdir().unwrap());
        fs::create_dir(files.path("data")).unwrap();
        files.write("zoo.cfg", zoo_cfg);
        if let Some(my_id) = my_id {
            files.write("data/myid", my_id);
        }
        files
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.0.path().join(name)
    }

    fn dir(&self) -> &str {
        self.0.path().to_str().unwrap()
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text.replace("DIR", self.dir())).unwrap();
    }

    fn text(&self, name: &str) -> String {
        fs::read_to_string(self.path(name))
            .unwrap()
            .replace(self.dir(), "DIR")
    }

    fn read(&self) -> Result<Config, String> {
        Config::read(&self.path("zoo.cfg")).map_err(|e| e.to_string().replace(self.dir(), "DIR"))
    }

    fn warnings(&self) -> String {
        let warnings = self.read().unwrap().warnings;
        let lines = warnings.iter().map(|w| {
            format!(
                "{} {}\n",
                if w.serious { "warn" } else { "note" },
                w.problem
            )
        });
        lines.collect::<String>().replace(self.dir(), "DIR")
    }
}

fn wrong(zoo_cfg: &str, my_id: Option<&str>, expected: Expect) {
    expected.assert_eq(&Files::new(zoo_cfg, my_id).read().unwrap_err());
}

#[test]
fn the_smallest_configuration_is_a_standalone_server() {
    let files = Files::new("dataDir=DIR/data\nclientPort=2181\n", None);
    let config = files.read().unwrap();
    assert_eq!(config.quorum, None);
    assert_eq!(config.client.unwrap().to_string(), "0.0.0.0:2181");
    assert_eq!(
        (
            config.sessions.tick_time_ms,
            config.sessions.min_session_timeout_ms
        ),
        (3000, 6000)
    );
    assert_eq!(config.sessions.max_session_timeout_ms, 60000);
    assert_eq!(
        (
            config.storage.log.preallocate_bytes,
            config.storage.log.force_sync
        ),
        (64 << 20, true)
    );
    assert_eq!(config.storage.log.roll_at_bytes, None);
    assert_eq!(
        (config.storage.snap_count, config.storage.purge_interval),
        (100_000, None)
    );
    assert_eq!(
        (
            config.sessions.frame_max_bytes,
            config.sessions.outstanding_max
        ),
        (0xf_ffff, 1000)
    );
    assert_eq!(
        config.access.four_letter_words,
        FourLetterWords::Only(vec!["srvr".into()])
    );
    assert_eq!(config.sessions.frame_max_bytes, limits::FRAME_BYTES);
    assert_eq!(config.sessions.outstanding_max, limits::OUTSTANDING);
    assert_eq!(
        config.sessions.max_client_connections,
        limits::CONNECTIONS_PER_ADDRESS
    );
    assert_eq!(config.sessions.max_connections, limits::CONNECTIONS);
    assert_eq!(
        config.storage.commit_log_count as usize,
        limits::COMMITTED_LOG
    );
    assert_eq!(config.data_log_dir, config.data_dir);
    assert_eq!(config.warnings, []);
}

#[test]
fn an_observers_list_in_any_separator_is_an_ensemble() {
    let text = "dataDir DIR/data\ntickTime:2000\ninitLimit = 10\nsyncLimit=5\nclientPort=2181\npeerType=observer\n\
        server.1:localhost:2888:3888:observer\nserver.2:localhost:2889:3889\nserver.3=[::1]:2890:3890;2183\nserver.4 localhost:2891:3891\n";
    let files = Files::new(text, Some("1\n"));
    let quorum = files.read().unwrap().quorum.unwrap();
    assert_eq!((quorum.my_id, quorum.role), (ServerId(1), Role::Observer));
    assert_eq!(
        (quorum.init_limit, quorum.sync_limit, quorum.connect_limit),
        (10, 5, 10)
    );
    expect![[r#"
        server.1=localhost:2888:3888:observer
        server.2=localhost:2889:3889:participant
        server.3=[::1]:2890:3890:participant;0.0.0.0:2183
        server.4=localhost:2891:3891:participant
        version=0"#]]
    .assert_eq(&quorum.membership.text());
    assert_eq!(files.warnings(), "");
}

#[test]
fn values_are_read_with_and_without_the_prefix_of_java() {
    let text = "dataDir=DIR/data\nclientPort=2181\nclientPortAddress=127.0.0.1\nzookeeper.snapCount=7\npreAllocSize=0\n\
        zookeeper.forceSync=yes\n4lw.commands.whitelist=ruok, mntr\njute.maxbuffer=0x200000\nautopurge.purgeInterval=90m\n\
        metricsProvider.className=org.apache.zookeeper.metrics.prometheus.PrometheusMetricsProvider\nmetricsProvider.httpPort=7001\n\
        admin.enableServer=FALSE\nmaxSessionTimeout=90000\n";
    let files = Files::new(text, None);
    let config = files.read().unwrap();
    assert_eq!(
        (
            config.storage.snap_count,
            config.storage.log.preallocate_bytes
        ),
        (7, 0)
    );
    assert_eq!(config.storage.purge_interval.unwrap().as_secs(), 5400);
    assert_eq!(
        (
            config.sessions.frame_max_bytes,
            config.sessions.max_session_timeout_ms
        ),
        (0x20_0000, 90_000)
    );
    assert!(
        config.access.four_letter_words.allows("mntr")
            && config.access.four_letter_words.allows("srvr")
    );
    assert!(!config.access.four_letter_words.allows("dump"));
    assert_eq!(config.client.unwrap().to_string(), "127.0.0.1:2181");
    assert_eq!(config.metrics.unwrap().to_string(), "0.0.0.0:7001");
    assert_eq!(config.admin, None);
}

#[test]
fn doubtful_keys_are_named() {
    let text = "dataDir=DIR/data\nclientPort=2181\ntickTime=1000\nticktime=2000\ntickTime=4000\nfoo.bar=1\n\
        nio.numWorkerThreads=4\nssl.keyStore.location=/x\nlocalSessionsEnabled=true\nforceSync=no\nskipACL=yes\n\
        leader.nodelay=true\nenforceQuota=false\n";
    expect![[r#"
        warn DIR/zoo.cfg:4: the key ticktime is unknown and has no effect; did you mean tickTime?
        warn DIR/zoo.cfg:5: tickTime was already set on line 3; this one counts
        warn DIR/zoo.cfg:6: the key foo.bar is unknown and has no effect
        note DIR/zoo.cfg:7: nio.numWorkerThreads has no meaning in this server: threads and buffers are not configured here
        warn DIR/zoo.cfg:8: ssl.keyStore.location is not supported yet and has no effect
        warn DIR/zoo.cfg:9: localSessionsEnabled=true is not supported yet and has no effect
        warn DIR/zoo.cfg:10: forceSync=no: a power failure loses writes that were acknowledged
        warn DIR/zoo.cfg:11: skipACL=yes: every client may read and change everything
        note DIR/zoo.cfg:12: leader.nodelay has no meaning in this server: small packets are never held back
    "#]]
    .assert_eq(&Files::new(text, None).warnings());
}

#[test]
fn the_server_list_wins_over_peer_type() {
    let text = format!("dataDir=DIR/data\npeerType=observer\n{ENSEMBLE}server.4=d:1:2\n");
    let files = Files::new(&text, Some("2"));
    assert_eq!(
        files.read().unwrap().quorum.unwrap().role,
        Role::Participant
    );
    expect![[r#"
        warn DIR/zoo.cfg: an ensemble of 4 voters survives no more failures than one of 3
        warn DIR/zoo.cfg:2: peerType=observer contradicts the server list, in which server.2 is a participant; the list counts
    "#]]
    .assert_eq(&files.warnings());
}

#[test]
fn a_list_of_one_is_standalone_unless_that_is_switched_off() {
    let list =
        "dataDir=DIR/data\nclientPort=2181\ninitLimit=5\nsyncLimit=5\nserver.1=a:2888:3888\n";
    let files = Files::new(list, None);
    assert_eq!(files.read().unwrap().quorum, None);
    assert!(
        files
            .warnings()
            .contains("a list of one server means a standalone server")
    );
    let files = Files::new(&format!("{list}standaloneEnabled=false\n"), Some("1"));
    assert!(files.read().unwrap().quorum.is_some());
}

#[test]
fn everything_that_is_wrong_is_reported_at_once() {
    let text = "tickTime=fast\nclientPort=99999\nmaxClientCnxns=-1\nstandaloneEnabled=maybe\nleaderServes=true\n\
        autopurge.snapRetainCount=1\nautopurge.purgeInterval=1w\npeerType=leader\nsnapCount=\nclientPortAddress=::1\n";
    wrong(
        text,
        None,
        expect![[r#"
            DIR/zoo.cfg: dataDir is missing; add a line like dataDir=/var/lib/zookeeper
            DIR/zoo.cfg:1: tickTime is "fast", but it must be a whole number of milliseconds from 1 to 2147483647
            DIR/zoo.cfg:2: clientPort is "99999", but it must be a whole number from 0 to 65535
            DIR/zoo.cfg:3: maxClientCnxns is "-1", but it must be a whole number of connections from 0 to 2147483647
            DIR/zoo.cfg:4: standaloneEnabled is "maybe", but it must be true or false
            DIR/zoo.cfg:5: leaderServes=true is not supported yet and has no effect
            DIR/zoo.cfg:6: autopurge.snapRetainCount is "1", but it must be a whole number of snapshots from 3 to 2147483647
            DIR/zoo.cfg:7: autopurge.purgeInterval is "1w", but it must be a whole number of hours, or one with a unit: ms, s, m, h or d
            DIR/zoo.cfg:8: peerType is "leader", but it must be one of: participant, observer
            DIR/zoo.cfg:9: snapCount has no value; it must be a whole number of transactions from 2 to 2147483647"#]],
    );
}

#[test]
fn a_server_without_a_client_port_is_told_so() {
    wrong(
        "dataDir=DIR/data\n",
        None,
        expect!["DIR/zoo.cfg: clientPort is missing; add a line like clientPort=2181"],
    );
}

#[test]
fn contradicting_session_timeouts_are_wrong() {
    wrong(
        "dataDir=DIR/data\nclientPort=2181\nminSessionTimeout=70000\n",
        None,
        expect![
            "DIR/zoo.cfg:3: minSessionTimeout is 70000 ms and maxSessionTimeout is 60000 ms; the minimum must not be above the maximum (their defaults are 2 and 20 ticks)"
        ],
    );
}

#[test]
fn a_wrong_my_id_is_told_with_its_cure() {
    let text = format!("dataDir=DIR/data\n{ENSEMBLE}");
    wrong(
        &text,
        None,
        expect![
            "DIR/data/myid: the file is missing; it must hold this server's number in the server list (1, 2, 3): echo N > DIR/data/myid"
        ],
    );
    wrong(
        &text,
        Some("one\n"),
        expect![[
            r#"DIR/data/myid: it holds "one", but it must hold this server's number in the server list (1, 2, 3)"#
        ]],
    );
    wrong(
        &text,
        Some(""),
        expect![[
            r#"DIR/data/myid: it holds "", but it must hold this server's number in the server list (1, 2, 3)"#
        ]],
    );
    wrong(
        &text,
        Some("7"),
        expect![
            "DIR/data/myid: it says that this is server 7, but DIR/zoo.cfg has no server.7; it has 1, 2, 3"
        ],
    );
}

#[test]
fn wrong_server_lines_are_told_each_with_its_line() {
    wrong(
        "dataDir=DIR/data\nclientPort=2181\nserver.1=a:2888\nserver.x=b:2888:3888\nserver.3=c:2888:3888:voter\nserver.4=d:1:1\n",
        Some("1"),
        expect![[r#"
            DIR/zoo.cfg:3: server.1 is "a:2888", but "a:2888" has 2 fields instead of 3 or 4; it must be HOST:QUORUM_PORT:ELECTION_PORT[:participant|:observer][;[CLIENT_HOST:]CLIENT_PORT]
            DIR/zoo.cfg:4: server.x must be server.N with a whole number N
            DIR/zoo.cfg:5: server.3 is "c:2888:3888:voter", but its role "voter" is neither participant nor observer; it must be HOST:QUORUM_PORT:ELECTION_PORT[:participant|:observer][;[CLIENT_HOST:]CLIENT_PORT]
            DIR/zoo.cfg:6: server.4 is "d:1:1", but its quorum port and its election port are both 1; it must be HOST:QUORUM_PORT:ELECTION_PORT[:participant|:observer][;[CLIENT_HOST:]CLIENT_PORT]"#]],
    );
}

#[test]
fn an_ensemble_needs_its_limits_and_voters() {
    let servers = "server.1=a:1:2\nserver.2=b:1:2\nserver.3=c:1:2\n";
    wrong(
        &format!("dataDir=DIR/data\nclientPort=2181\n{servers}"),
        Some("1"),
        expect![[r#"
            DIR/zoo.cfg: initLimit is missing: an ensemble needs it; add a line like initLimit=… (a whole number of ticks from 1 to 2147483647)
            DIR/zoo.cfg: syncLimit is missing: an ensemble needs it; add a line like syncLimit=… (a whole number of ticks from 1 to 2147483647)"#]],
    );
    let limits = "dataDir=DIR/data\nclientPort=2181\ninitLimit=5\nsyncLimit=5\n";
    wrong(
        &format!("{limits}server.1=a:1:2:observer\n"),
        Some("1"),
        expect![
            "DIR/zoo.cfg: every server in the list is an observer; an ensemble needs servers that vote"
        ],
    );
    wrong(
        &format!("{limits}server.1=a:1:2\nserver.2=b:1:2:observer\n"),
        Some("1"),
        expect![
            "DIR/zoo.cfg: observers need at least two servers that vote, or standaloneEnabled=false with one"
        ],
    );
    wrong(
        &format!("{limits}{servers}group.1=1:2\ngroup.2=2\nweight.1=much\n"),
        Some("1"),
        expect![[r#"
            DIR/zoo.cfg: server.3 is in no group, though there are groups
            DIR/zoo.cfg:9: server 2 is in two groups
            DIR/zoo.cfg:10: weight.1 is "much", but it must be a whole number, 0 or more"#]],
    );
}

#[test]
fn encryption_that_does_not_exist_yet_is_never_left_out_in_silence() {
    wrong(
        "dataDir=DIR/data\nclientPort=2181\nsslQuorum=true\nsecureClientPort=2281\nportUnification=false\nquorum.auth.enableSasl=true\n",
        None,
        expect![[r#"
            DIR/zoo.cfg:3: sslQuorum=true is not supported yet; this server would do without it, so remove it
            DIR/zoo.cfg:4: secureClientPort=2281 is not supported yet; this server would do without it, so remove it
            DIR/zoo.cfg:6: quorum.auth.enableSasl is not supported yet; remove it"#]],
    );
}

#[test]
fn a_client_port_is_said_once() {
    wrong(
        &format!("dataDir=DIR/data\n{ENSEMBLE}server.4=d:1:2:observer;2189\n"),
        Some("4"),
        expect![
            "DIR/zoo.cfg:5: clientPort and clientPortAddress say 0.0.0.0:2181, but this server's own server line says 0.0.0.0:2189; keep one of them"
        ],
    );
}

#[test]
fn all_addresses_include_the_one_that_clients_are_told() {
    let listens = |keys: &str| {
        let text = format!("dataDir=DIR/data\n{ENSEMBLE}{keys}server.4=d:1:2:observer;d:2181\n");
        let config = Files::new(&text, Some("4")).read().unwrap();
        config.client.unwrap().to_string()
    };
    assert_eq!(listens(""), "d:2181");
    assert_eq!(listens("clientPortAddress=0.0.0.0\n"), "0.0.0.0:2181");
    assert_eq!(listens("clientPortAddress=::\n"), "[::]:2181");
}

#[test]
fn other_wrong_values_are_explained() {
    wrong(
        "dataDir=DIR/data\nclientPort=2181\nmetricsProvider.className=com.acme.Metrics\nDigestAuthenticationProvider.superDigest=secret\n",
        None,
        expect![[r#"
            DIR/zoo.cfg:3: metricsProvider.className is "com.acme.Metrics", but there are only org.apache.zookeeper.metrics.prometheus.PrometheusMetricsProvider, org.apache.zookeeper.metrics.impl.DefaultMetricsProvider and …NullMetricsProvider
            DIR/zoo.cfg:4: DigestAuthenticationProvider.superDigest must have the form super:DIGEST, with the base64 of the SHA-1 of super:PASSWORD"#]],
    );
    wrong(
        "a=\\u12",
        None,
        expect!["DIR/zoo.cfg:1: \\u must be followed by four hexadecimal digits"],
    );
    let missing = Config::read(Path::new("/nowhere/zoo.cfg"))
        .unwrap_err()
        .to_string();
    expect!["cannot read /nowhere/zoo.cfg: No such file or directory (os error 2)"]
        .assert_eq(&missing);
}

#[test]
fn server_lines_are_in_one_file_only() {
    let files = Files::new(
        "dataDir=DIR/data\ninitLimit=5\nsyncLimit=5\nserver.1=a:1:2\ndynamicConfigFile=DIR/zoo.cfg.dynamic.10000003a\n",
        Some("1"),
    );
    files.write(
        "zoo.cfg.dynamic.10000003a",
        "server.1=a:1:2;2181\nserver.2=b:1:2;2181\nserver.3=c:1:2;2181\ntickTime=5\n",
    );
    expect![[r#"
        DIR/zoo.cfg:4: server.1 must be in DIR/zoo.cfg.dynamic.10000003a, because dynamicConfigFile names it; server, group and weight lines cannot be in both files
        DIR/zoo.cfg.dynamic.10000003a:4: tickTime cannot be here: a dynamic configuration holds only server, group and weight lines"#]]
    .assert_eq(&files.read().unwrap_err());
}

#[test]
fn a_reconfiguration_moves_the_membership_into_its_own_file() {
    let files = Files::new(
        &format!(
            "# ours\ndataDir=DIR/data\npeerType=participant\nreconfigEnabled=true\n{ENSEMBLE}"
        ),
        Some("3"),
    );
    let zoo_cfg = files.path("zoo.cfg");
    let mut membership = files.read().unwrap().quorum.unwrap().membership;
    membership.version = Zxid(0x1_0000_003a);
    membership.servers[2].client = Some(node::config::HostPort {
        host: "0.0.0.0".into(),
        port: 2183,
    });
    dynamic::back_up(&zoo_cfg).unwrap();
    dynamic::save_next(&zoo_cfg, &membership.text()).unwrap();
    assert_eq!(
        files.read().unwrap().quorum.unwrap().proposed,
        Some(membership.text())
    );
    dynamic::activate(&zoo_cfg, &membership.text(), membership.version, true).unwrap();
    expect![[r#"
        dataDir=DIR/data
        reconfigEnabled=true
        tickTime=2000
        initLimit=10
        syncLimit=5
        dynamicConfigFile=DIR/zoo.cfg.dynamic.10000003a
    "#]]
    .assert_eq(&files.text("zoo.cfg"));
    expect![[r#"
        server.1=a:2888:3888:participant
        server.2=b:2888:3888:participant
        server.3=c:2888:3888:participant;0.0.0.0:2183"#]]
    .assert_eq(&files.text("zoo.cfg.dynamic.10000003a"));
    let config = files.read().unwrap();
    assert_eq!(config.client.unwrap().port, 2183);
    let quorum = config.quorum.unwrap();
    assert_eq!((quorum.membership, quorum.proposed), (membership, None));
    dynamic::back_up(&zoo_cfg).unwrap();
    assert!(
        files.text("zoo.cfg.bak").starts_with("# ours\n"),
        "the first file is kept, not the rewritten one"
    );
}

#[test]
fn apaches_dynamic_file_is_read_as_it_was_written() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden/disk-ensemble/node1-zoo.cfg.dynamic.10000003a");
    let text = format!(
        "dataDir=DIR/data\ninitLimit=10\nsyncLimit=5\nreconfigEnabled=true\nstandaloneEnabled=false\ndynamicConfigFile={}\n",
        golden.display()
    );
    let files = Files::new(&text, Some("4\n"));
    let config = files.read().unwrap();
    assert_eq!(config.client.unwrap().to_string(), "127.0.0.1:21804");
    let quorum = config.quorum.unwrap();
    assert_eq!(
        (quorum.role, quorum.membership.version),
        (Role::Observer, Zxid(0x1_0000_003a))
    );
    assert_eq!(
        quorum.membership.text(),
        format!("{}\nversion=10000003a", fs::read_to_string(golden).unwrap())
    );
}
