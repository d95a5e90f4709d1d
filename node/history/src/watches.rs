//! Watches: a client hears of a change before it can see it.

use std::collections::{BTreeMap, BTreeSet};

use crate::paths::Changes;
use crate::{Call, Event, Found, Op, Reply, Rule};

#[derive(Clone, Copy)]
struct Watch {
    /// The first change that it has to announce, as far as the history knows one.
    due: Option<(i64, usize)>,
    set_by: u64,
}

/// The watches of a session.
#[derive(Default)]
struct Session<'a> {
    watches: BTreeMap<&'a str, Watch>,
    /// Those that have something to announce, by when.
    due: BTreeSet<(i64, &'a str)>,
}

impl<'a> Session<'a> {
    fn remove(&mut self, path: &str) {
        if let Some((path, watch)) = self.watches.remove_entry(path)
            && let Some((zxid, _)) = watch.due
        {
            self.due.remove(&(zxid, path));
        }
    }

    fn add(&mut self, path: &'a str, watch: Watch) {
        if !self.watches.contains_key(path) {
            self.due.extend(watch.due.map(|(zxid, _)| (zxid, path)));
            self.watches.insert(path, watch);
        }
    }
}

pub(crate) fn check(
    history: &[Event],
    ops: &BTreeMap<u64, Op<'_>>,
    changes: &Changes<'_>,
    found: &mut Found,
) {
    let mut sessions: BTreeMap<i64, Session<'_>> = BTreeMap::new();
    for event in history {
        match event {
            Event::Return {
                op: id,
                zxid,
                result,
            } => {
                let Some(op) = ops.get(id) else { continue };
                let session = sessions.entry(op.session).or_default();
                while let Some((due, path)) = session.due.first().copied().filter(|d| d.0 <= *zxid)
                {
                    let watch = session.watches[path];
                    let by = watch.due.map(|(_, at)| at);
                    let why = format!("sees {zxid:#x} before {path}'s change at {due:#x} is told");
                    let places = op.places().chain(ops[&watch.set_by].places()).chain(by);
                    let by_op = by.and_then(|at| op_at(history, ops, at));
                    let places = places.chain(by_op.into_iter().flat_map(Op::places));
                    found.add(Rule::WatchFirst, why, places);
                    session.remove(path);
                }
                if let (Call::Get { path, watch: true }, Ok(Reply::Node(_))) = (op.call, result) {
                    let watch = Watch {
                        due: changes.first_after(path, *zxid),
                        set_by: *id,
                    };
                    session.add(path, watch);
                }
            }
            Event::Fired { session, path } => sessions.entry(*session).or_default().remove(path),
            Event::Disconnected {
                session,
                forgets_watches,
            } if *forgets_watches => {
                sessions.remove(session);
            }
            _ => {}
        }
    }
}

fn op_at<'a, 'b>(
    history: &[Event],
    ops: &'b BTreeMap<u64, Op<'a>>,
    at: usize,
) -> Option<&'b Op<'a>> {
    match history.get(at)? {
        Event::Return { op, .. } | Event::Invoke { op, .. } => ops.get(op),
        _ => None,
    }
}
