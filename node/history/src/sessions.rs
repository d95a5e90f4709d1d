//! What needs only the zxids of answers: the order of writes, of a session's requests, of what it sees.

use std::collections::{BTreeMap, VecDeque};

use crate::{Event, Found, Op, Rule};

#[derive(Default)]
struct Session {
    /// Requests that wait for their answers, on this connection.
    waiting: VecDeque<u64>,
    /// The newest zxid that it was shown, and by which event.
    seen: Option<(i64, u64)>,
    /// Its last acknowledged write: place of its request, zxid, request.
    written: Option<(usize, i64, u64)>,
}

pub(crate) fn check(history: &[Event], ops: &BTreeMap<u64, Op<'_>>, found: &mut Found) {
    let mut sessions: BTreeMap<i64, Session> = BTreeMap::new();
    // The newest acknowledged write, at the time of each request.
    let mut newest: Option<(i64, u64)> = None;
    let mut before: BTreeMap<u64, (i64, u64)> = BTreeMap::new();
    let mut taken: BTreeMap<i64, u64> = BTreeMap::new();
    for event in history {
        match event {
            Event::Invoke { op, session, .. } => {
                before.extend(newest.map(|newest| (*op, newest)));
                let session = sessions.entry(*session).or_default();
                session.waiting.push_back(*op);
            }
            Event::Disconnected { session, .. } => {
                sessions.entry(*session).or_default().waiting.clear();
            }
            Event::Return { op: id, zxid, .. } => {
                let Some(op) = ops.get(id) else { continue };
                let places = |other: &u64| op.places().chain(ops[other].places());
                let session = sessions.entry(op.session).or_default();
                answered(session, *id, *zxid, ops, found);
                if !op.is_write() {
                    continue;
                }
                if let Some(other) = taken.insert(*zxid, *id) {
                    let why = format!("two writes at {zxid:#x}");
                    found.add(Rule::LinearizableWrites, why, places(&other));
                } else if let Some((earlier, other)) = before.get(id).filter(|b| b.0 > *zxid)
                    && ops[other].session != op.session
                {
                    let why = format!("{zxid:#x} began after {earlier:#x} was acknowledged");
                    found.add(Rule::LinearizableWrites, why, places(other));
                }
                if newest.is_none_or(|(newest, _)| newest < *zxid) {
                    newest = Some((*zxid, *id));
                }
            }
            _ => {}
        }
    }
}

fn answered(
    session: &mut Session,
    id: u64,
    zxid: i64,
    ops: &BTreeMap<u64, Op<'_>>,
    found: &mut Found,
) {
    let op = &ops[&id];
    let places = |other: u64| op.places().chain(ops[&other].places());
    match session.waiting.front().copied() {
        Some(first) if first != id => {
            let why = "answered before an earlier request of its session".into();
            found.add(Rule::SessionOrder, why, places(first));
            session.waiting.retain(|other| *other != id);
        }
        _ => {
            session.waiting.pop_front();
        }
    }
    if let Some((seen, other)) = session.seen
        && seen > zxid
        // Writes that change places are out of order; a reader that goes back sees the past.
        && !(op.is_write() && ops[&other].is_write())
    {
        let why = format!("shown {zxid:#x} after {seen:#x}");
        found.add(Rule::MonotonicReads, why, places(other));
    }
    if session.seen.is_none_or(|(seen, _)| seen < zxid) {
        session.seen = Some((zxid, id));
    }
    if op.is_write() {
        if let Some((_, written, other)) = session.written
            && written > zxid
        {
            let why = format!("done at {zxid:#x}, an earlier one at {written:#x}");
            found.add(Rule::SessionOrder, why, places(other));
        }
        session.written = Some((op.invoked, zxid, id));
    }
}
