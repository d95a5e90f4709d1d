//! `zookeeper-operator local`: five members in seconds, and edits of the manifest while clients write.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use e2e::operator::{Manifest, Operator, Status};
use e2e::report::{millis, say};
use e2e::servers::{Kind, PATIENCE, srvr, wait_for};
use e2e::writers::{Writers, stop_and_check};

const SESSIONS: usize = 6;
/// From the operator's start to five serving members.
const FIRST_SERVICE: Duration = Duration::from_secs(5);
/// The longest time without an acknowledgement that an edit may cause: an election.
const PAUSE: Duration = Duration::from_secs(3);

#[test]
fn the_manifest_to_start_from_serves_within_five_seconds() -> Result<()> {
    let _alone = crate::alone("three voters and two observers from the manifest to start from");
    let kind = Kind::chosen()?;
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("manifests");
    let manifest = std::fs::read_to_string(folder.join("three-voters-two-observers.yaml"))
        .context("the manifest to start from")?;
    e2e::tools::operator()?;
    let start = Instant::now();
    let mut operator = Operator::start_text(&manifest, kind)?;
    let status = wait_for(
        "one leader, two followers and two observers",
        PATIENCE,
        || {
            let right = |status: &Status| {
                ["leader", "follower", "observer"].map(|state| status.count(state)) == [1, 2, 2]
            };
            Ok(operator.status()?.filter(right))
        },
    )?;
    let took = start.elapsed();
    for member in &status.members {
        let mode = srvr(member.address)
            .with_context(|| format!("member {} does not answer srvr", member.id))?
            .mode;
        ensure!(
            mode == member.state,
            "member {} is {} in the table and {mode} in srvr",
            member.id,
            member.state
        );
    }
    say(format!(
        "one leader, two followers, two observers after {}",
        millis(took)
    ));
    ensure!(
        took < FIRST_SERVICE || kind == Kind::Apache,
        "that took {took:?}"
    );
    operator.passed()
}

#[test]
fn edits_of_the_manifest_lose_nothing_and_pause_no_longer_than_an_election() -> Result<()> {
    let _alone = crate::alone("edits of the manifest while clients write");
    let kind = Kind::chosen()?;
    let mut manifest = Manifest::new(3, 2);
    let mut operator = Operator::start(&manifest, kind)?;
    let status = operator.wait_converged(&manifest, |_| ())?;
    let writers = Writers::start(&status.serving(), SESSIONS)?;
    let mut edits = Edits {
        operator: &mut operator,
        writers: &writers,
        worst: Duration::ZERO,
    };

    for observers in [4, 1] {
        let before = edits.operator.pids()?;
        manifest.observers = observers;
        edits.make(&manifest, &format!("{observers} observers"))?;
        let after = edits.operator.pids()?;
        for voter in 1..=3 {
            ensure!(
                before.get(&voter) == after.get(&voter),
                "voter {voter} was restarted: {before:?}, {after:?}"
            );
        }
    }
    for voters in [1, 3, 5, 3, 1, 3] {
        manifest.voters = voters;
        edits.make(&manifest, &format!("{voters} voters"))?;
    }
    manifest.config = BTreeMap::from([("snapCount".to_owned(), 50_000)]);
    edits.restart_all(&manifest)?;

    let worst = edits.worst;
    let addresses = operator.wait_converged(&manifest, |_| ())?.serving();
    stop_and_check(writers, &addresses)?;
    ensure!(
        worst <= PAUSE || kind == Kind::Apache,
        "an edit stopped writes for {worst:?}"
    );
    operator.passed()
}

struct Edits<'a> {
    operator: &'a mut Operator,
    writers: &'a Writers,
    worst: Duration,
}

impl Edits<'_> {
    /// Makes an edit, waits until it is carried out and reports what it cost.
    fn make(&mut self, manifest: &Manifest, name: &str) -> Result<Status> {
        self.writers.wait_progress(20, PATIENCE)?;
        let start = Instant::now();
        self.operator.edit(manifest)?;
        let follow = |status: &Status| {
            let serving = status.serving();
            if !serving.is_empty() {
                self.writers.set_addresses(&serving);
            }
        };
        let status = self
            .operator
            .wait_converged(manifest, follow)
            .with_context(|| name.to_owned())?;
        let took = start.elapsed();
        self.writers
            .wait_progress(20, PATIENCE)
            .with_context(|| format!("after {name}"))?;
        let pause = self
            .writers
            .acknowledged()
            .longest_gap(start, Instant::now());
        self.worst = self.worst.max(pause);
        say(format!(
            "{name}: {:.1} s, longest pause of writes {}",
            took.as_secs_f64(),
            millis(pause)
        ));
        Ok(status)
    }

    /// An edit of the configuration restarts every member once, the leader last.
    fn restart_all(&mut self, manifest: &Manifest) -> Result<()> {
        let before = self.operator.pids()?;
        let status = self.operator.status()?.context("there is a status")?;
        let leader = status
            .members
            .iter()
            .find(|member| member.state == "leader")
            .context("there is a leader")?
            .id;
        self.make(manifest, "a change of the configuration")?;
        let after = self.operator.pids()?;
        for (id, pid) in &before {
            ensure!(
                after.get(id).is_some_and(|now| now != pid),
                "member {id} was not restarted"
            );
        }
        // A process that was started later has a greater start time.
        let mut order: Vec<(u64, u32)> = Vec::new();
        for (id, pid) in &after {
            order.push((start_time(*pid)?, *id));
        }
        order.sort_unstable();
        say(format!(
            "restarted in the order {:?}, {leader} led",
            order.iter().map(|(_, id)| id).collect::<Vec<_>>()
        ));
        ensure!(
            order.last().is_some_and(|(_, id)| *id == leader),
            "the leader is restarted last"
        );
        Ok(())
    }
}

/// When a process was started, in ticks since the system's start.
fn start_time(pid: u32) -> Result<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields = stat
        .rsplit(')')
        .next()
        .unwrap_or_default()
        .split_whitespace();
    fields
        .into_iter()
        .nth(19)
        .context("a start time")?
        .parse()
        .context("a number")
}
