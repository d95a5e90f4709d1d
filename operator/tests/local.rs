//! `zookeeper-operator local` as a process, with a stand-in for the server: what it does with its members' processes,
//! its folder and its input. What it does with real servers is tested in `e2e`.

#![allow(
    clippy::unwrap_used,
    reason = "a test that panics has failed, which is what it is for"
)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use tempfile::TempDir;

const MANIFEST: &str = "apiVersion: zookeeper.ensemble.dev/v1alpha1\nkind: ZooKeeperEnsemble\n\
                        metadata: {name: demo}\nspec: {observers: {replicas: 1}}\n";

/// A folder with a manifest and a server that notes its process id and does nothing.
struct Place {
    folder: TempDir,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("demo.yaml"), MANIFEST).unwrap();
        let node = folder.path().join("node");
        fs::write(
            &node,
            "#!/bin/sh\necho $$ > \"$(dirname \"$2\")/pid\"\nexec sleep 1000\n",
        )
        .unwrap();
        fs::set_permissions(&node, fs::Permissions::from_mode(0o755)).unwrap();
        Self { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_zookeeper-operator"));
        command.args(arguments).current_dir(self.folder.path());
        command
    }

    /// Starts the operator and waits until all members run.
    fn start(&self) -> (Child, Vec<Pid>) {
        let output = fs::File::create(self.path("output")).unwrap();
        let mut command = self.command(&["local", "demo.yaml", "--node-binary", "node"]);
        let child = command
            .stdout(output)
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        let pids = (1..=4).map(|id| self.path(&format!("demo.zke/member-{id}/pid")));
        (
            child,
            pids.map(|file| wait_for("a member", || read_pid(&file)))
                .collect(),
        )
    }

    fn output(&self) -> String {
        fs::read_to_string(self.path("output")).unwrap()
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }
}

fn read_pid(file: &Path) -> Option<Pid> {
    fs::read_to_string(file)
        .ok()?
        .trim()
        .parse()
        .ok()
        .and_then(Pid::from_raw)
}

/// Polls until there is something, for half a minute at most.
fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited too long for {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn signal(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).unwrap();
}

fn all_gone(pids: &[Pid]) {
    for pid in pids {
        wait_for("the end of a member", || {
            test_kill_process(*pid).is_err().then_some(())
        });
    }
}

#[test]
fn a_signal_stops_all_members_and_the_next_start_keeps_their_ports() {
    let place = Place::new();
    let (mut operator, pids) = place.start();
    let before = fs::read_to_string(place.path("demo.zke/ensemble.yaml")).unwrap();
    signal(&operator, Signal::TERM);
    assert!(operator.wait().unwrap().success());
    all_gone(&pids);
    assert!(place.output().ends_with("stopped\n"), "{}", place.output());
    let zoo_cfg = fs::read_to_string(place.path("demo.zke/member-4/zoo.cfg")).unwrap();
    for id in 1..=4 {
        fs::remove_file(place.path(&format!("demo.zke/member-{id}/pid"))).unwrap();
    }
    let (mut operator, pids) = place.start();
    assert_eq!(
        fs::read_to_string(place.path("demo.zke/ensemble.yaml")).unwrap(),
        before
    );
    assert_eq!(
        fs::read_to_string(place.path("demo.zke/member-4/zoo.cfg")).unwrap(),
        zoo_cfg
    );
    signal(&operator, Signal::INT);
    assert!(operator.wait().unwrap().success());
    all_gone(&pids);
}

#[test]
fn members_do_not_outlive_an_operator_that_is_killed() {
    let place = Place::new();
    let (mut operator, pids) = place.start();
    operator.kill().unwrap();
    operator.wait().unwrap();
    all_gone(&pids);
}

#[test]
fn a_member_that_dies_is_started_again() {
    let place = Place::new();
    let (mut operator, pids) = place.start();
    kill_process(pids[1], Signal::KILL).unwrap();
    let file = place.path("demo.zke/member-2/pid");
    let again = wait_for("the next start", || {
        read_pid(&file).filter(|pid| *pid != pids[1])
    });
    assert!(
        place
            .output()
            .contains("member 2 died (signal: 9 (SIGKILL))"),
        "{}",
        place.output()
    );
    signal(&operator, Signal::TERM);
    operator.wait().unwrap();
    all_gone(&[again]);
}

#[test]
fn a_broken_edit_is_explained_and_the_old_manifest_stays_in_force() {
    let place = Place::new();
    let (mut operator, _) = place.start();
    fs::write(
        place.path("demo.yaml"),
        MANIFEST.replace("observers: {replicas: 1}", "voters: {replicas: 4}"),
    )
    .unwrap();
    let words = "spec.voters.replicas: 4 voters survive no more failures than 3; use 3 or 5, or set spec.allowEvenVoters: true";
    wait_for("the explanation", || {
        place.output().contains(words).then_some(())
    });
    let status = fs::read_to_string(place.path("demo.zke/status.yaml")).unwrap();
    assert!(status.contains("replicas: 1"), "{status}");
    signal(&operator, Signal::TERM);
    operator.wait().unwrap();
}

#[test]
fn the_folder_tells_how_each_member_is_configured() {
    let place = Place::new();
    let (mut operator, _) = place.start();
    signal(&operator, Signal::TERM);
    operator.wait().unwrap();
    let voter = fs::read_to_string(place.path("demo.zke/member-1/zoo.cfg")).unwrap();
    let observer = fs::read_to_string(place.path("demo.zke/member-4/zoo.cfg")).unwrap();
    assert_eq!(
        fs::read_to_string(place.path("demo.zke/member-4/data/myid")).unwrap(),
        "4\n"
    );
    assert!(!voter.contains("peerType") && observer.contains("\npeerType=observer\n"));
    for text in [&voter, &observer] {
        let servers: Vec<&str> = text
            .lines()
            .filter(|line| line.starts_with("server."))
            .collect();
        assert_eq!(servers.len(), 4);
        assert!(
            servers[0].starts_with("server.1:127.0.0.1:") && !servers[0].ends_with(":observer")
        );
        assert!(servers[3].starts_with("server.4:127.0.0.1:") && servers[3].ends_with(":observer"));
        assert!(
            text.contains("\nreconfigEnabled=true\n")
                && text.contains("\nstandaloneEnabled=false\n")
        );
    }
    let mode = fs::metadata(place.path("demo.zke/super-password"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn a_folder_belongs_to_one_operator_and_one_ensemble() {
    let place = Place::new();
    let (mut operator, _) = place.start();
    let second = place.run(&["local", "demo.yaml", "--node-binary", "node"]);
    assert_eq!(second.status.code(), Some(1));
    assert!(
        String::from_utf8_lossy(&second.stderr)
            .contains("another zookeeper-operator keeps the ensemble")
    );
    signal(&operator, Signal::TERM);
    operator.wait().unwrap();
    fs::write(place.path("other.yaml"), MANIFEST.replace("demo", "other")).unwrap();
    let other = place.run(&[
        "local",
        "other.yaml",
        "--dir",
        "demo.zke",
        "--node-binary",
        "node",
    ]);
    assert!(String::from_utf8_lossy(&other.stderr).contains("holds \"demo\", not \"other\""));
}

#[test]
fn a_wrong_call_ends_with_2_and_one_clear_line() {
    let place = Place::new();
    for (arguments, words) in [
        (
            vec!["local", "missing.yaml"],
            "missing.yaml: No such file or directory",
        ),
        (
            vec!["local", "demo.yaml", "--node-binary", "missing"],
            "no server at missing",
        ),
        (
            vec!["local", "demo.yaml", "--base-port", "70000"],
            "70000 is not in 1..=65000",
        ),
        (
            vec!["plan", "-f", "missing.yaml"],
            "missing.yaml: No such file or directory",
        ),
        (vec!["fly"], "unrecognized subcommand 'fly'"),
    ] {
        let output = place.run(&arguments);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {said}");
        assert!(said.contains(words), "{arguments:?}: {said}");
    }
}

#[test]
fn plan_prints_the_steps_between_two_manifests() {
    let place = Place::new();
    fs::write(
        place.path("new.yaml"),
        MANIFEST.replace("replicas: 1", "replicas: 2"),
    )
    .unwrap();
    let output = place.run(&["plan", "--from", "demo.yaml", "-f", "new.yaml"]);
    let steps = "  1. create member 5, an observer\n  2. add member 5 to the ensemble as observer\n  3. start member 5\n";
    assert_eq!(String::from_utf8_lossy(&output.stdout), steps);
}
