//! Each path by itself: what is known of it, in the order of the zxids, has to follow from what is known before.

use std::collections::BTreeMap;

use crate::{Call, Change, Done, Event, Found, NodeState, Op, Refusal, Reply, Rule};

/// Known changes of each path: when, and the event that shows it.
pub(crate) struct Changes<'a>(BTreeMap<&'a str, Vec<(i64, usize)>>);

impl Changes<'_> {
    pub(crate) fn first_after(&self, path: &str, zxid: i64) -> Option<(i64, usize)> {
        let changes = self.0.get(path)?;
        let after = changes.partition_point(|(at, _)| *at <= zxid);
        changes.get(after).copied()
    }
}

/// Something that is certain about a path.
#[derive(Clone, Copy)]
enum Fact {
    Created { value: u64, owner: i64 },
    Set { value: u64, version: i32 },
    Deleted,
    Seen(NodeState),
    Absent,
    Exists,
    OtherVersion(i32),
}

/// When: the zxid, then reads behind writes, then the place within a write.
type Moment = (i64, bool, usize);

#[derive(Clone, Copy)]
enum State {
    Absent {
        since: i64,
    },
    /// It is there, and no more is known.
    Unclear,
    Node(Node),
}

#[derive(Clone, Copy)]
struct Node {
    state: NodeState,
    /// Whether it is known when it was created, and whose it is.
    whole: bool,
}

/// Changes with unknown outcomes that can still explain something.
#[derive(Clone, Copy, Default)]
struct Pool {
    creates: usize,
    sets: usize,
    deletes: usize,
}

impl Node {
    /// Whether it may be gone without anybody having deleted it: with its session.
    fn may_go_by_itself(&self) -> bool {
        !self.whole || self.state.owner != 0
    }
}

struct Check<'a, 'b> {
    ops: &'b BTreeMap<u64, Op<'a>>,
    found: &'b mut Found,
    pools: BTreeMap<&'a str, Pool>,
    /// Who wrote a value, and to which path.
    writers: BTreeMap<u64, u64>,
    /// Where a write with unknown outcome was seen: zxid and reader.
    pinned: BTreeMap<u64, (i64, u64)>,
    /// From when on a session's nodes must be gone, and which request says so.
    gone_by: BTreeMap<i64, (i64, u64)>,
    /// When a node of a session was gone without anybody having deleted it, which request shows it, and which one showed
    /// the node last.
    vanished: BTreeMap<i64, (i64, u64, u64)>,
    /// The last time that a node of a session was seen.
    last_seen: BTreeMap<i64, (i64, u64)>,
    changes: Changes<'a>,
}

pub(crate) fn check<'a>(
    history: &'a [Event],
    ops: &BTreeMap<u64, Op<'a>>,
    found: &mut Found,
) -> Changes<'a> {
    let mut check = Check {
        ops,
        found,
        pools: BTreeMap::new(),
        writers: BTreeMap::new(),
        pinned: BTreeMap::new(),
        gone_by: ends(history, ops),
        vanished: BTreeMap::new(),
        last_seen: BTreeMap::new(),
        changes: Changes(BTreeMap::new()),
    };
    let mut facts: BTreeMap<&'a str, Vec<(Moment, Fact, u64)>> = BTreeMap::new();
    for (id, op) in ops {
        check.note_writer(*id, op);
        tell_facts(*id, op, &mut facts);
    }
    for (path, mut facts) in facts {
        facts.sort_by_key(|(moment, _, id)| (*moment, *id));
        check.path(path, &facts);
    }
    check.nothing_outlives(history);
    check.nothing_went_early(history);
    check.changes
}

/// From when on each session that ended has no nodes: what its client was told, or any write that began after that.
fn ends(history: &[Event], ops: &BTreeMap<u64, Op<'_>>) -> BTreeMap<i64, (i64, u64)> {
    let mut ends = BTreeMap::new();
    let mut first_write: Option<(i64, u64)> = None;
    for event in history.iter().rev() {
        match event {
            Event::Invoke { op: id, .. } => {
                let op = &ops[id];
                let Some(answer) = op.answer.filter(|_| op.is_write()) else {
                    continue;
                };
                if first_write.is_none_or(|(zxid, _)| answer.zxid < zxid) {
                    first_write = Some((answer.zxid, *id));
                }
                if *op.call == Call::Close && answer.result.is_ok() {
                    ends.insert(op.session, (answer.zxid, *id));
                }
            }
            Event::Expired { session } => {
                if let Some(write) = first_write {
                    ends.entry(*session).or_insert(write);
                }
            }
            _ => {}
        }
    }
    ends
}

fn tell_facts<'a>(id: u64, op: &Op<'a>, facts: &mut BTreeMap<&'a str, Vec<(Moment, Fact, u64)>>) {
    let Some(answer) = op.answer else { return };
    let zxid = answer.zxid;
    let mut tell = |path: &'a str, moment, fact| {
        facts.entry(path).or_default().push((moment, fact, id));
    };
    match (op.call, answer.result) {
        (Call::Get { path, .. }, Ok(Reply::Node(node))) => {
            tell(path, (zxid, true, 0), Fact::Seen(*node));
        }
        (Call::Get { path, .. }, Ok(Reply::Absent)) => tell(path, (zxid, true, 0), Fact::Absent),
        (Call::Write(changes), Ok(Reply::Written(done))) => {
            for (place, (change, done)) in changes.iter().zip(done).enumerate() {
                let (path, fact) = match (change, done) {
                    (
                        Change::Create {
                            value, ephemeral, ..
                        },
                        Done::Created(path),
                    ) => {
                        let owner = if *ephemeral { op.session } else { 0 };
                        let value = *value;
                        (path, Fact::Created { value, owner })
                    }
                    (Change::Set { path, value, .. }, Done::Set(version)) => {
                        let (value, version) = (*value, *version);
                        (path, Fact::Set { value, version })
                    }
                    (Change::Delete { path, .. }, Done::Deleted) => (path, Fact::Deleted),
                    _ => continue,
                };
                tell(path, (zxid, false, place), fact);
            }
        }
        (Call::Write(changes), Err(refusal)) => {
            // Of several changes it is not known which one was refused.
            let [change] = &changes[..] else { return };
            let (path, fact) = match (change, refusal) {
                (
                    Change::Create {
                        path, sequential, ..
                    },
                    Refusal::NodeExists,
                ) if !sequential => (path, Fact::Exists),
                (Change::Set { path, .. } | Change::Delete { path, .. }, Refusal::NoNode) => {
                    (path, Fact::Absent)
                }
                (
                    Change::Set { path, version, .. } | Change::Delete { path, version },
                    Refusal::BadVersion,
                ) => (path, Fact::OtherVersion(version.unwrap_or(-1))),
                _ => return,
            };
            tell(path, (zxid, false, 0), fact);
        }
        _ => {}
    }
}

/// What a sequential node's path has before its number.
fn without_number(path: &str) -> Option<&str> {
    let at = path.len().checked_sub(10)?;
    let digits = path.get(at..)?;
    digits
        .bytes()
        .all(|b| b.is_ascii_digit())
        .then(|| &path[..at])
}

impl<'a> Check<'a, '_> {
    fn note_writer(&mut self, id: u64, op: &Op<'a>) {
        let Call::Write(changes) = op.call else {
            return;
        };
        for change in changes {
            let (path, value) = match change {
                Change::Create { path, value, .. } | Change::Set { path, value, .. } => {
                    (path, Some(*value))
                }
                Change::Delete { path, .. } => (path, None),
            };
            self.writers.extend(value.map(|value| (value, id)));
            if op.answer.is_none() {
                let pool = self.pools.entry(path).or_default();
                match change {
                    Change::Create { .. } => pool.creates += 1,
                    Change::Set { .. } => pool.sets += 1,
                    Change::Delete { .. } => pool.deletes += 1,
                }
            }
        }
    }

    fn add(&mut self, rule: Rule, why: String, ops: &[u64]) {
        let places = ops.iter().flat_map(|id| self.ops[id].places());
        self.found.add(rule, why, places);
    }

    /// How many values with unknown outcomes there are for a path. (They are not used up: where one of them belongs may be
    /// seen later.)
    fn unknown_sets(&self, path: &str) -> usize {
        self.pools.get(path).map_or(0, |pool| pool.sets)
    }

    /// Whether a creation of this path has an unknown outcome.
    fn maybe_created(&self, path: &str) -> bool {
        let names = [Some(path), without_number(path)].into_iter().flatten();
        let mut pools = names.filter_map(|name| self.pools.get(name));
        pools.any(|pool| pool.creates > 0)
    }

    /// Whether a deletion of which nobody knows explains that a node is gone; then it is used up.
    fn deleted_unknown(&mut self, path: &str) -> bool {
        let pool = self.pools.get_mut(path).filter(|pool| pool.deletes > 0);
        pool.map(|pool| pool.deletes -= 1).is_some()
    }

    fn path(&mut self, path: &'a str, facts: &[(Moment, Fact, u64)]) {
        let mut state = State::Absent { since: 0 };
        let mut by = None;
        for ((zxid, ..), fact, id) in facts {
            let last: Vec<u64> = [Some(*id), by].into_iter().flatten().collect();
            state = self.follow(path, state, *zxid, *fact, &last);
            by = Some(*id);
            let is_change = matches!(
                fact,
                Fact::Created { .. } | Fact::Set { .. } | Fact::Deleted
            );
            if is_change && let Some(answer) = self.ops[id].answer {
                self.changed(path, *zxid, answer.at);
            }
        }
        // A write that was seen late belongs before what was known already.
        if let Some(changes) = self.changes.0.get_mut(path) {
            changes.sort_unstable();
            changes.dedup_by_key(|(zxid, _)| *zxid);
        }
    }

    fn changed(&mut self, path: &'a str, zxid: i64, at: usize) {
        self.changes.0.entry(path).or_default().push((zxid, at));
    }

    /// The state after a fact; `ops`: who tells it, and who told the state before.
    fn follow(&mut self, path: &'a str, state: State, zxid: i64, fact: Fact, ops: &[u64]) -> State {
        match fact {
            Fact::Created { value, owner } => {
                self.must_be_absent(path, state, zxid, ops);
                State::Node(Node {
                    state: NodeState {
                        value,
                        version: 0,
                        czxid: zxid,
                        mzxid: zxid,
                        owner,
                    },
                    whole: true,
                })
            }
            Fact::Set { value, version } => {
                self.must_reach(path, state, version, None, zxid, ops);
                let (before, whole) = match state {
                    // It may have been made anew since it was seen.
                    State::Node(node) => (node.state, node.whole && !self.maybe_created(path)),
                    _ => (NO_NODE, false),
                };
                let state = NodeState {
                    value,
                    version,
                    mzxid: zxid,
                    ..before
                };
                State::Node(Node { state, whole })
            }
            Fact::Deleted => {
                self.must_be_there(path, state, ops);
                State::Absent { since: zxid }
            }
            Fact::Seen(node) => {
                self.seen(path, state, zxid, node, ops);
                State::Node(Node {
                    state: node,
                    whole: true,
                })
            }
            Fact::Absent => {
                self.must_be_absent(path, state, zxid, ops);
                State::Absent { since: zxid }
            }
            Fact::Exists => {
                self.must_be_there(path, state, ops);
                match state {
                    State::Absent { .. } => State::Unclear,
                    other => other,
                }
            }
            Fact::OtherVersion(version) => {
                if let State::Node(node) = state
                    && node.state.version == version
                    && self.unknown_sets(path) == 0
                    && self.pools.get(path).is_none_or(|pool| pool.deletes == 0)
                    && !(self.maybe_created(path) && node.may_go_by_itself())
                {
                    let why = format!("{path} had the version {version} that was asked for");
                    self.add(Rule::RightAnswer, why, ops);
                }
                state
            }
        }
    }

    fn must_be_absent(&mut self, path: &str, state: State, zxid: i64, ops: &[u64]) {
        let owner = match state {
            State::Absent { .. } => return,
            State::Unclear => None,
            State::Node(node) => node.whole.then_some(node.state.owner),
        };
        match owner {
            Some(0) if self.deleted_unknown(path) => {}
            Some(0) => {
                let why = format!("{path} is gone at {zxid:#x}, and nobody deleted it");
                self.add(Rule::NothingLost, why, ops);
            }
            // It went with its session, or by a deletion of which nobody knows.
            Some(owner) if self.pools.get(path).is_none_or(|pool| pool.deletes == 0) => {
                let evidence = (zxid, ops[0], ops.last().copied().unwrap_or(ops[0]));
                let vanished = self.vanished.entry(owner).or_insert(evidence);
                *vanished = (*vanished).min(evidence);
            }
            _ => {}
        }
    }

    fn must_be_there(&mut self, path: &str, state: State, ops: &[u64]) {
        if matches!(state, State::Absent { .. }) && !self.maybe_created(path) {
            let why = format!("{path} is there, and nobody created it");
            self.add(Rule::RightAnswer, why, ops);
        }
    }

    /// That the node has this version now, after one change more.
    fn must_reach(
        &mut self,
        path: &str,
        state: State,
        version: i32,
        czxid: Option<i64>,
        zxid: i64,
        ops: &[u64],
    ) {
        let State::Node(node) = state else {
            return self.must_be_there(path, state, ops);
        };
        let same = czxid.is_none_or(|czxid| !node.whole || czxid == node.state.czxid);
        let missing = i64::from(version) - i64::from(node.state.version) - 1;
        if same && missing == 0 {
            return;
        }
        if same
            && let Ok(missing) = usize::try_from(missing)
            && missing <= self.unknown_sets(path)
        {
            return;
        }
        // Or it was deleted and made again.
        if self.maybe_created(path) {
            return self.must_be_absent(path, state, zxid, ops);
        }
        let before = node.state.version;
        let why = format!("{path} has version {version} at {zxid:#x}, after version {before}");
        self.add(Rule::RightAnswer, why, ops);
    }

    fn seen(&mut self, path: &'a str, before: State, zxid: i64, node: NodeState, ops: &[u64]) {
        if node.owner != 0 {
            let seen = self.last_seen.entry(node.owner).or_default();
            *seen = (*seen).max((zxid, ops[0]));
        }
        match before {
            State::Node(known) if known.state.mzxid == node.mzxid => {
                let mut expected = known.state;
                if !known.whole {
                    (expected.czxid, expected.owner) = (node.czxid, node.owner);
                }
                if expected != node {
                    let why = format!("{path} is {node:?} where {expected:?} was known");
                    self.add(Rule::RightAnswer, why, ops);
                }
            }
            State::Node(known) if known.state.mzxid > node.mzxid => {
                let newer = known.state.mzxid;
                let why = format!(
                    "{path} is as of {:#x} at {zxid:#x}, without the write at {newer:#x}",
                    node.mzxid
                );
                self.add(Rule::NothingLost, why, ops);
            }
            State::Absent { since } if node.mzxid <= since && since > 0 => {
                let why = format!("{path} is there at {zxid:#x}, but was not at {since:#x}");
                self.add(Rule::NothingLost, why, ops);
            }
            _ => self.pin(path, before, zxid, node, ops),
        }
    }

    /// A read shows a write whose outcome was not known.
    fn pin(&mut self, path: &'a str, before: State, zxid: i64, node: NodeState, ops: &[u64]) {
        let reader = ops[0];
        let Some(writer) = self.writers.get(&node.value).copied() else {
            let why = format!("{path} has the value {}, which nobody wrote", node.value);
            return self.add(Rule::RightAnswer, why, &[reader]);
        };
        let op = &self.ops[&writer];
        let read_at = self.ops[&reader].answer.map_or(0, |answer| answer.at);
        if op.invoked > read_at {
            let why = format!("{path} has a value before it was written");
            return self.add(Rule::RightAnswer, why, &[reader, writer]);
        }
        if let Some(answer) = op.answer {
            let why = if answer.result.is_ok() {
                format!(
                    "written at {:#x}, and once more at {:#x}",
                    answer.zxid, node.mzxid
                )
            } else {
                format!("{path} shows a write that was refused")
            };
            return self.add(Rule::AtMostOnce, why, &[reader, writer]);
        }
        let first = *self
            .pinned
            .entry(node.value)
            .or_insert((node.mzxid, reader));
        if first.0 != node.mzxid {
            let why = format!("done at {:#x}, and once more at {:#x}", first.0, node.mzxid);
            return self.add(Rule::AtMostOnce, why, &[first.1, reader, writer]);
        }
        self.changed(path, node.mzxid, read_at);
        let is_create = node.czxid == node.mzxid;
        if is_create {
            self.must_be_absent(path, before, node.mzxid, ops);
        } else {
            let czxid = Some(node.czxid);
            self.must_reach(path, before, node.version, czxid, zxid, ops);
        }
    }

    /// What was seen must not have belonged to a session that had ended.
    fn nothing_outlives(&mut self, history: &[Event]) {
        let mut told = BTreeMap::new();
        for (at, event) in history.iter().enumerate() {
            if let Event::Expired { session } = event {
                told.insert(*session, at);
            }
        }
        for (session, (seen, reader)) in std::mem::take(&mut self.last_seen) {
            let vanished = self.vanished.get(&session).map(|v| (v.0, v.1));
            let known = self.gone_by.get(&session).copied();
            let end = known.into_iter().chain(vanished).min();
            if let Some((gone, by)) = end
                && gone <= seen
                && by != reader
            {
                let why = format!(
                    "a node of session {session:#x} is there at {seen:#x}, the session ended by {gone:#x}"
                );
                let told = told.get(&session).copied();
                let ops = [reader, by].map(|id| &self.ops[&id]);
                let places = ops.into_iter().flat_map(Op::places).chain(told);
                self.found.add(Rule::EphemeralOutlives, why, places);
            }
        }
    }

    /// What was gone must not have belonged to a session that goes on.
    fn nothing_went_early(&mut self, history: &[Event]) {
        let mut alive: BTreeMap<i64, (i64, u64)> = BTreeMap::new();
        for (id, op) in self.ops.iter().filter(|(_, op)| op.is_write()) {
            if let Some(answer) = op.answer.filter(|answer| answer.result.is_ok()) {
                let alive = alive.entry(op.session).or_default();
                *alive = (*alive).max((answer.zxid, *id));
            }
        }
        let mut connected = BTreeMap::new();
        for (at, event) in history.iter().enumerate() {
            if let Event::Connected { session } = event {
                connected.insert(*session, at);
            }
        }
        for (session, (gone, by, made)) in std::mem::take(&mut self.vanished) {
            let seen_at = self.ops[&by].answer.map_or(0, |answer| answer.at);
            let wrote = alive.get(&session).filter(|(zxid, _)| *zxid > gone);
            let mut proof: Vec<usize> = wrote
                .map(|(_, id)| &self.ops[id])
                .into_iter()
                .flat_map(Op::places)
                .collect();
            if proof.is_empty() {
                proof.extend(connected.get(&session).filter(|at| **at > seen_at));
            }
            if !proof.is_empty() {
                let why = format!(
                    "a node of session {session:#x} is gone at {gone:#x}, and the session goes on"
                );
                let ops = [by, made].map(|id| &self.ops[&id]);
                let places = ops.into_iter().flat_map(Op::places).chain(proof);
                self.found.add(Rule::EphemeralEarly, why, places);
            }
        }
    }
}

const NO_NODE: NodeState = NodeState {
    value: 0,
    version: 0,
    czxid: 0,
    mzxid: 0,
    owner: 0,
};
