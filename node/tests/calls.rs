//! Wrong calls of `zookeeper-node`: exit code 2 and words that help.

#![expect(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

use std::fs;
use std::process::Command;

use expect_test::{Expect, expect};

/// Calls the server in an empty folder that holds this `zoo.cfg`.
fn wrong(arguments: &[&str], zoo_cfg: &str, expected: Expect) {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("zoo.cfg"), zoo_cfg).unwrap();
    let mut call = Command::new(env!("CARGO_BIN_EXE_zookeeper-node"));
    let output = call
        .args(arguments)
        .current_dir(&dir)
        .env_remove("RUST_LOG")
        .output()
        .unwrap();
    expected.assert_eq(&String::from_utf8(output.stderr).unwrap());
    assert_eq!(output.status.code(), Some(2));
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
