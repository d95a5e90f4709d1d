//! What a run of faults came to: gaps, acknowledged and lost writes, and the history checker's word.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Result;
use node_history::Event;

use super::recorder::{Recorded, answered};
use crate::ack::{self, Log};
use crate::check;

/// Sessions that were left expire meanwhile, and take their nodes with them.
const SETTLE: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(500);

/// The result of a run.
#[derive(Clone, Debug, Default)]
pub struct Verdict {
    /// The longest time in which nobody's write was acknowledged.
    pub write_gap: Duration,
    /// The longest time in which nobody's read was answered.
    pub read_gap: Duration,
    /// The longest time in which some reader got no answer.
    pub client_gap: Duration,
    /// Writes.
    pub acknowledged: usize,
    /// Writes whose answer was lost.
    pub unknown: usize,
    /// Acknowledged writes that are not there.
    pub lost: Vec<String>,
    /// Any other broken promise, the history checker's too.
    pub violations: Vec<String>,
    /// What the history consists of.
    pub history: node_history::Summary,
    /// What happened.
    pub notes: Vec<String>,
}

impl Verdict {
    pub(super) fn judge(
        &mut self,
        logs: &[Log],
        recorded: &Recorded,
        serving: &[SocketAddr],
    ) -> Result<()> {
        (self.acknowledged, self.unknown) = ack::totals(logs);
        if serving.is_empty() {
            self.violations
                .push("nobody serves: nothing can be read".to_owned());
        } else {
            self.judge_trees(logs, serving)?;
        }
        let (summary, violations) = node_history::check_all(&recorded.history);
        self.history = summary;
        if !violations.is_empty() {
            let count = violations.len();
            let shortest = violations
                .iter()
                .min_by_key(|violation| violation.events.len());
            let report = shortest.map(|violation| violation.report(&recorded.history));
            self.violations.push(format!(
                "{count} in the history; the shortest: {}",
                report.unwrap_or_default()
            ));
        }
        if !answered(&recorded.history) {
            self.violations.push("the history is empty".to_owned());
        }
        if !recorded.odd.is_empty() {
            self.notes.push(format!("error codes: {:?}", recorded.odd));
        }
        Ok(())
    }

    fn judge_trees(&mut self, logs: &[Log], serving: &[SocketAddr]) -> Result<()> {
        let start = Instant::now();
        let tree = loop {
            match check::equal_trees(serving) {
                Ok(tree) => break tree,
                Err(error) if start.elapsed() > SETTLE => {
                    self.violations.push(format!("{error:#}"));
                    let (first, _) = serving.split_first().expect("somebody serves");
                    match check::tree(*first) {
                        Ok(tree) => break tree,
                        Err(error) => {
                            self.violations.push(format!("{error:#}"));
                            return Ok(());
                        }
                    }
                }
                Err(_) => std::thread::sleep(POLL),
            }
        };
        self.lost = ack::lost(logs, &tree);
        if self.lost.is_empty()
            && let Err(error) = ack::check(logs, &tree)
        {
            self.violations.push(format!("{error:#}"));
        }
        Ok(())
    }

    /// Everything that must not be, or `None`.
    #[must_use]
    pub fn offence(&self) -> Option<String> {
        let mut text = self.violations.join("\n");
        for lost in self.lost.iter().take(20) {
            text.push_str(&format!("\nlost: {lost}"));
        }
        (!text.is_empty()).then_some(text)
    }
}

/// Writes a history down, an event in each line.
pub(super) fn write_history(path: &Path, history: &[Event]) -> Result<()> {
    let mut file = BufWriter::new(File::create(path)?);
    for (at, event) in history.iter().enumerate() {
        writeln!(file, "{at} {event:?}")?;
    }
    file.flush()?;
    Ok(())
}
