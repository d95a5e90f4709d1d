//! Wrong calls of `zookeeper-node`: exit code 2 and words that help.

#![expect(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

use std::fs;
use std::process::Command;

use expect_test::{Expect, expect};

/// Calls the server in an empty folder that holds this `zoo.cfg`.
fn wrong(arguments: &[&str], zoo_cfg: &str, expected: Expect) {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("zoo.cfg"), zoo_cfg).unwrap();
    ends(&dir, arguments, 2, expected);
}

/// Calls the server in this folder: it ends with this code and says this.
fn ends(dir: &tempfile::TempDir, arguments: &[&str], code: i32, expected: Expect) {
    let mut call = Command::new(env!("CARGO_BIN_EXE_zookeeper-node"));
    let output = call
        .args(arguments)
        .current_dir(dir)
        .env_remove("RUST_LOG")
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    let said = said.replace(dir.path().to_str().unwrap(), "DIR");
    let said: Vec<&str> = said
        .lines()
        .filter(|line| !line.contains(" node::"))
        .collect();
    expected.assert_eq(&(said.join("\n") + "\n"));
    assert_eq!(output.status.code(), Some(code));
    assert_eq!(output.stdout, b"");
}

#[test]
fn a_call_without_a_file_says_what_is_missing() {
    wrong(
        &["serve"],
        "",
        expect![[r#"
        error: the following required arguments were not provided:
          <ZOO_CFG>

        Usage: zookeeper-node serve <ZOO_CFG>

        For more information, try '--help'.
    "#]],
    );
    wrong(
        &["zoo.cfg"],
        "",
        expect![[r#"
        error: unrecognized subcommand 'zoo.cfg'

        Usage: zookeeper-node <COMMAND>

        For more information, try '--help'.
    "#]],
    );
}

#[test]
fn a_file_that_cannot_be_read_is_named_once() {
    wrong(
        &["serve", "nowhere.cfg"],
        "",
        expect![[r#"
        zookeeper-node: cannot read nowhere.cfg: No such file or directory (os error 2)
    "#]],
    );
    wrong(
        &["serve", "."],
        "",
        expect![[r#"
        zookeeper-node: cannot read .: Is a directory (os error 21)
    "#]],
    );
}

#[test]
fn everything_that_is_wrong_in_the_file_is_said_at_once() {
    let zoo_cfg =
        "clientPort=abc\ntickTime=0\nsslQuorum=true\nDigestAuthenticationProvider.enabled=false\n";
    wrong(
        &["serve", "zoo.cfg"],
        zoo_cfg,
        expect![[r#"
        zookeeper-node: zoo.cfg: dataDir is missing; add a line like dataDir=/var/lib/zookeeper
        zookeeper-node: zoo.cfg:1: clientPort is "abc", but it must be a whole number from 0 to 65535
        zookeeper-node: zoo.cfg:2: tickTime is "0", but it must be a whole number of milliseconds from 1 to 2147483647
        zookeeper-node: zoo.cfg:3: sslQuorum=true is not supported yet; this server would do without it, so remove it
        zookeeper-node: zoo.cfg:4: DigestAuthenticationProvider.enabled=false is not supported yet; this server would do without it, so remove it
    "#]],
    );
}

#[test]
fn a_mistyped_key_is_named_beside_the_one_that_is_missing() {
    wrong(
        &["serve", "zoo.cfg"],
        "datadir=data\nclientPort=2181\n",
        expect![[r#"
            zookeeper-node: zoo.cfg: dataDir is missing; add a line like dataDir=/var/lib/zookeeper
            zookeeper-node: zoo.cfg:1: the key datadir is unknown and has no effect; did you mean dataDir?
        "#]],
    );
}

#[test]
fn two_servers_cannot_have_the_same_port() {
    let zoo_cfg = "dataDir=.\nclientPort=2181\ninitLimit=10\nsyncLimit=5\n\
        server.1=a:2888:3888\nserver.2=a:2889:3888\nserver.3=b:2888:3888\n";
    wrong(
        &["serve", "zoo.cfg"],
        zoo_cfg,
        expect![[r#"
        zookeeper-node: zoo.cfg:6: server.2 has the port a:3888, which server.1 has too
    "#]],
    );
}

#[test]
fn a_probe_wants_an_address() {
    wrong(
        &["ready", "2181"],
        "",
        expect![[r#"
        error: invalid value '2181' for '[ADDRESS]': it must be HOST:PORT

        For more information, try '--help'.
    "#]],
    );
    wrong(
        &["alive", "localhost:0"],
        "",
        expect![[r#"
        error: invalid value 'localhost:0' for '[ADDRESS]': it must be HOST:PORT

        For more information, try '--help'.
    "#]],
    );
    wrong(
        &["serve", "zoo.cfg", "--id", "one"],
        "",
        expect![[r#"
        error: invalid value 'one' for '--id <N>': invalid digit found in string

        For more information, try '--help'.
    "#]],
    );
}

/// A server's folder with this file damaged.
fn damaged(file: &str, content: &[u8]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("version-2")).unwrap();
    fs::write(dir.path().join("version-2").join(file), content).unwrap();
    fs::write(dir.path().join("zoo.cfg"), "dataDir=.\nclientPort=0\n").unwrap();
    dir
}

#[test]
fn damaged_storage_has_an_exit_code_of_its_own() {
    let serve = ["serve", "zoo.cfg"];
    let snapshot = damaged("snapshot.5", b"not a snapshot");
    ends(
        &snapshot,
        &serve,
        3,
        expect![[r#"
            zookeeper-node: none of the 1 snapshots in ./version-2 can be loaded; the newest: the snapshot ./version-2/snapshot.5 is not usable: it is not complete: its writer was interrupted; no other server votes, so none has a good copy: restore the file from a backup, or empty the data directories to begin anew without the data
        "#]],
    );
    let epoch = damaged("currentEpoch", b"");
    ends(
        &epoch,
        &serve,
        3,
        expect![[r#"
            zookeeper-node: ./version-2/currentEpoch must hold an epoch (a whole number), but holds ""; no other server votes, so none has a good copy: restore the file from a backup, or empty the data directories to begin anew without the data
        "#]],
    );
    // A log whose header is whole, but not what comes after it, with much more behind it.
    let mut bytes = b"ZKLG\0\0\0\x02\0\0\0\0\0\0\0\0".to_vec();
    bytes.resize(40 << 20, 7);
    let log = damaged("log.1", &bytes);
    ends(
        &log,
        &serve,
        3,
        expect![[r#"
            zookeeper-node: the transaction log is damaged: ./version-2/log.1 at byte 16: a record of 117901063 bytes does not fit into the 41943012 bytes left, and more data follows than a crash can leave behind (the last whole record before is 0x0); this server must not start with a shortened history; no other server votes, so none has a good copy: restore the file from a backup, or empty the data directories to begin anew without the data
        "#]],
    );
}

#[test]
fn other_failures_to_start_are_no_damage() {
    let dir = damaged("snapshot", b"ignored");
    fs::remove_dir_all(dir.path().join("version-2")).unwrap();
    fs::write(dir.path().join("version-2"), b"a file is in the way").unwrap();
    ends(
        &dir,
        &["serve", "zoo.cfg"],
        1,
        expect![[r#"
        zookeeper-node: cannot create the directory ./version-2: File exists (os error 17)
    "#]],
    );
}
