//! One row of the fault table: what it needs, how it is played, and what came of it.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::disk::Medium;
use super::lab::in_lab;
use super::stage::{Setting, Stage};
use super::verdict::Verdict;
use crate::servers::Kind;

/// How long an ensemble has to recover once the fault is over.
const RECOVERY: Duration = Duration::from_secs(60);

/// A fault.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// What it is called by.
    pub name: &'static str,
    /// What happens, for people.
    pub about: &'static str,
    /// Voters, unless it is said otherwise.
    pub voters: usize,
    /// Whether it makes sense with another number of voters.
    pub any_size: bool,
    /// Observers.
    pub observers: usize,
    /// The members' disks.
    pub medium: Medium,
    /// More lines for every `zoo.cfg`.
    pub settings: &'static [&'static str],
    /// Members that are started first.
    pub first: &'static [u32],
    /// Plays it.
    pub play: fn(&mut Stage<'_>) -> Result<()>,
}

/// One line of the table.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Outcome {
    /// The row's name.
    pub row: String,
    /// `ours` or `apache`.
    pub servers: String,
    /// Voters of the ensemble.
    pub voters: usize,
    /// Longest time without an acknowledged write, from the fault on.
    pub write_gap_ms: u64,
    /// Longest time without an answered read.
    pub read_gap_ms: u64,
    /// Longest time that one of the readers was without an answer.
    pub client_gap_ms: u64,
    /// Writes.
    pub acknowledged: usize,
    /// Acknowledged writes that are gone.
    pub lost: usize,
    /// Writes whose answer was lost.
    pub unknown: usize,
    /// Whether all members serve again without a human, and after which time.
    pub recovered_ms: Option<u64>,
    /// Answers that the history checker has seen: writes and reads.
    pub history_answers: usize,
    /// Other broken promises.
    pub violations: Vec<String>,
    /// What happened.
    pub what: String,
    /// The machine's load in the minute before.
    pub load_average: String,
}

impl Outcome {
    /// Whether every promise was kept.
    #[must_use]
    pub fn kept(&self) -> bool {
        self.lost == 0 && self.violations.is_empty()
    }
}

/// Where logs and histories are kept; nothing is kept of a run without violation otherwise.
pub type Keep<'a> = Option<&'a Path>;

/// Plays a row once.
pub fn play(
    row: &Row,
    kind: Kind,
    voters: Option<usize>,
    seed: u64,
    keep: Keep<'_>,
) -> Result<Outcome> {
    let voters = voters.filter(|_| row.any_size).unwrap_or(row.voters);
    let setting = Setting {
        kind,
        voters,
        observers: row.observers,
        settings: row.settings.iter().map(|line| (*line).to_owned()).collect(),
        first: row.first.to_vec(),
        write_pace: Duration::from_millis(10),
        record_pace: Duration::from_millis(10),
        seed,
    };
    let members = (voters + row.observers) as u32;
    kind.provide()?;
    let (verdict, recovered, dir) = in_lab(members, row.medium, |lab| {
        let mut stage = Stage::start(lab, &setting)?;
        stage.watch(Duration::from_secs(2))?;
        (row.play)(&mut stage)?;
        stage.heal()?;
        let recovered = stage.recover(RECOVERY)?;
        let (verdict, dir) = stage.end()?;
        Ok((verdict, recovered, dir))
    })
    .with_context(|| format!("{} with {kind:?}", row.name))?;
    let mut outcome = outcome(row, kind, voters, &verdict, recovered);
    put_away(&dir, row, kind, &mut outcome, keep)?;
    Ok(outcome)
}

fn outcome(
    row: &Row,
    kind: Kind,
    voters: usize,
    verdict: &Verdict,
    recovered: Option<Duration>,
) -> Outcome {
    let ms = |duration: Duration| duration.as_millis() as u64;
    Outcome {
        row: row.name.to_owned(),
        servers: match kind {
            Kind::Ours => "ours".to_owned(),
            Kind::Apache => "apache".to_owned(),
        },
        voters,
        write_gap_ms: ms(verdict.write_gap),
        read_gap_ms: ms(verdict.read_gap),
        client_gap_ms: ms(verdict.client_gap),
        acknowledged: verdict.acknowledged,
        lost: verdict.lost.len(),
        unknown: verdict.unknown,
        recovered_ms: recovered.map(ms),
        history_answers: verdict.history.writes + verdict.history.reads,
        violations: verdict.violations.clone(),
        what: verdict.notes.join("; "),
        load_average: load_average(),
    }
}

/// Keeps the servers' logs where that is asked for or needed.
fn put_away(
    dir: &Path,
    row: &Row,
    kind: Kind,
    outcome: &mut Outcome,
    keep: Keep<'_>,
) -> Result<()> {
    let Some(keep) = keep else {
        if outcome.kept() {
            fs::remove_dir_all(dir)?;
        } else {
            outcome
                .what
                .push_str(&format!("; kept in {}", dir.display()));
        }
        return Ok(());
    };
    let name = format!("{}-{kind:?}", row.name).to_lowercase();
    let free = (1..).map(|number| keep.join(format!("{name}-{number}")));
    let to: PathBuf = free
        .into_iter()
        .find(|to| !to.exists())
        .context("numbers are endless")?;
    fs::create_dir_all(keep)?;
    if fs::rename(dir, &to).is_err() {
        // Another file system.
        crate::tools::run(std::process::Command::new("cp").arg("-r").arg(dir).arg(&to))?;
        fs::remove_dir_all(dir)?;
    }
    Ok(())
}

/// The load of the last minute: gaps are measured on a machine that does other things too.
#[must_use]
pub fn load_average() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().unwrap_or_default().to_owned()
}
