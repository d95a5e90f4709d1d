//! Checks what clients of an ensemble saw against what they are promised, in linear time but for sorting.
//!
//! A history is a list of [`Event`]s in the order in which one observer noted them: what was asked before it is sent, what was
//! answered after it has arrived. Every answer of a server carries a zxid: a write's own, or for a read the
//! last one that the server had applied. So the order of all writes is known and nothing has to be guessed but the place of
//! a write whose answer was lost. It may be there or not, from any time on, but once at most.
//!
//! What the caller has to see to: every path is absent in the beginning, every written value is used once, and only
//! the sessions of the history write to its paths.

mod event;
mod paths;
mod sessions;
mod watches;

pub use event::{Call, Change, Done, Event, NodeState, Refusal, Reply};

use std::collections::BTreeMap;
use std::fmt;

/// What is promised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rule {
    /// A write that begins after another one is acknowledged comes after it; no two have one place.
    LinearizableWrites,
    /// A session's requests are answered, and its writes done, in the order in which it made them.
    SessionOrder,
    /// A session never sees an older state than it has seen, on whichever server.
    MonotonicReads,
    /// A watch fires before its client can see what it announces.
    WatchFirst,
    /// A node of a session that has ended is gone.
    EphemeralOutlives,
    /// A node of a session that goes on is there until somebody deletes it.
    EphemeralEarly,
    /// A write is done once at most, and not at all if it was refused.
    AtMostOnce,
    /// What was acknowledged is there until it is overwritten.
    NothingLost,
    /// Answers follow from the writes before them: values, versions, refusals.
    RightAnswer,
}

/// A broken promise, with as few events as show it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Which promise.
    pub rule: Rule,
    /// In words.
    pub why: String,
    /// Places of the events in the history, ascending.
    pub events: Vec<usize>,
}

impl Violation {
    /// The offending history: only the events that show it.
    pub fn shortest<'a>(&'a self, history: &'a [Event]) -> impl Iterator<Item = &'a Event> {
        self.events.iter().filter_map(|at| history.get(*at))
    }

    /// For people: the promise and the events, a line each.
    #[must_use]
    pub fn report(&self, history: &[Event]) -> String {
        let mut text = format!("{:?}: {}\n", self.rule, self.why);
        for at in &self.events {
            if let Some(event) = history.get(*at) {
                text.push_str(&format!("  {at:>8} {event:?}\n"));
            }
        }
        text
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:?}: {} (events {:?})",
            self.rule, self.why, self.events
        )
    }
}

/// What a history without violation consists of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Writes that were acknowledged.
    pub writes: usize,
    /// Writes whose outcome nobody knows.
    pub unknown: usize,
    /// Reads that were answered.
    pub reads: usize,
    /// Watch events.
    pub fired: usize,
}

/// Checks a history; of several violations the one with the fewest events is reported.
///
/// # Errors
/// The violation.
pub fn check(history: &[Event]) -> Result<Summary, Violation> {
    let (summary, mut violations) = check_all(history);
    violations.sort_by_key(|violation| (violation.events.len(), violation.events.last().copied()));
    match violations.into_iter().next() {
        None => Ok(summary),
        Some(first) => Err(first),
    }
}

/// Checks a history and reports all violations that were seen.
#[must_use]
pub fn check_all(history: &[Event]) -> (Summary, Vec<Violation>) {
    let ops = Op::collect(history);
    let mut found = Found::default();
    sessions::check(history, &ops, &mut found);
    let changes = paths::check(history, &ops, &mut found);
    watches::check(history, &ops, &changes, &mut found);
    let mut summary = Summary::default();
    for op in ops.values() {
        match (op.is_write(), &op.answer) {
            (true, Some(_)) => summary.writes += 1,
            (true, None) => summary.unknown += 1,
            (false, Some(_)) => summary.reads += 1,
            (false, None) => {}
        }
    }
    summary.fired = history
        .iter()
        .filter(|event| matches!(event, Event::Fired { .. }))
        .count();
    (summary, found.violations)
}

/// One request with its answer.
#[derive(Debug)]
struct Op<'a> {
    session: i64,
    call: &'a Call,
    invoked: usize,
    answer: Option<Answer<'a>>,
}

#[derive(Clone, Copy, Debug)]
struct Answer<'a> {
    at: usize,
    zxid: i64,
    result: &'a Result<Reply, Refusal>,
}

impl<'a> Op<'a> {
    fn collect(history: &'a [Event]) -> BTreeMap<u64, Self> {
        let mut ops = BTreeMap::new();
        for (at, event) in history.iter().enumerate() {
            match event {
                Event::Invoke { op, session, call } => {
                    let entry = Op {
                        session: *session,
                        call,
                        invoked: at,
                        answer: None,
                    };
                    ops.insert(*op, entry);
                }
                Event::Return { op, zxid, result } => {
                    if let Some(op) = ops.get_mut(op) {
                        let zxid = *zxid;
                        op.answer = Some(Answer { at, zxid, result });
                    }
                }
                _ => {}
            }
        }
        ops
    }

    fn is_write(&self) -> bool {
        matches!(self.call, Call::Write(_) | Call::Close)
    }

    /// The places of its events.
    fn places(&self) -> impl Iterator<Item = usize> {
        [Some(self.invoked), self.answer.map(|answer| answer.at)]
            .into_iter()
            .flatten()
    }
}

#[derive(Default)]
struct Found {
    violations: Vec<Violation>,
}

impl Found {
    fn add(&mut self, rule: Rule, why: String, events: impl IntoIterator<Item = usize>) {
        let mut events: Vec<usize> = events.into_iter().collect();
        events.sort_unstable();
        events.dedup();
        self.violations.push(Violation { rule, why, events });
    }
}
