//! What a recording client asks for, and what the answers mean to the history checker.

use std::collections::BTreeMap;

use bytes::Bytes;
use node_core::jute::Reader;
use node_core::proto::client::{CreateRequest, OpCode, Request as Ask};
use node_core::proto::data::{Acl, Stat};
use node_core::proto::multi::{self, MultiResult};
use node_history::{Call, Change, Done, NodeState, Refusal, Reply};

use super::recorder::ROOT;
use crate::client::{self, Request, code, flags};
use crate::random::Random;

/// Nodes that all clients fight for.
const NODES: u64 = 6;
const EPHEMERALS: u64 = 4;
/// How many of its sequential nodes a client keeps.
const OWN: usize = 10;

/// A request, and how the history tells it.
#[derive(Clone, Debug)]
pub(super) struct Choice {
    pub(super) request: Request,
    pub(super) call: Call,
    exists: bool,
}

/// What a client knows: versions, and which sequential nodes are its own.
#[derive(Debug, Default)]
pub(super) struct Known {
    versions: BTreeMap<String, i32>,
    own: Vec<String>,
}

/// What an answer means.
pub(super) struct Answer {
    pub(super) result: Result<Reply, Refusal>,
    /// What was really asked, seen from the answer: whether a watch was set depends on it.
    pub(super) really: Option<Call>,
    /// The watch that was set, and whether it waits for a node that is not there.
    pub(super) watches: Option<(String, bool)>,
}

impl Choice {
    pub(super) fn close() -> Self {
        Self {
            request: Request::close(),
            call: Call::Close,
            exists: false,
        }
    }

    fn write(changes: Vec<Change>) -> Self {
        let mut asks: Vec<Ask> = changes.iter().map(ask).collect();
        let ask = match asks.len() {
            1 => asks.swap_remove(0),
            _ => Ask::Multi(asks),
        };
        Self {
            request: Request::of(&ask),
            call: Call::Write(changes),
            exists: false,
        }
    }

    fn get(path: String, watch: bool) -> Self {
        Self {
            request: Request::of(&Ask::GetData {
                path: path.clone(),
                watch,
            }),
            call: Call::Get { path, watch },
            exists: false,
        }
    }

    /// `exists` shows no value, so it tells the history something only where there is no node.
    fn wait_for(path: String) -> Self {
        Self {
            request: Request::of(&Ask::Exists {
                path: path.clone(),
                watch: true,
            }),
            call: Call::Get { path, watch: true },
            exists: true,
        }
    }

    fn sync() -> Self {
        Self {
            request: Request::sync(ROOT),
            call: Call::Other,
            exists: false,
        }
    }
}

impl Known {
    /// Takes up what an answer shows.
    pub(super) fn learn(&mut self, choice: &Choice, result: &Result<Reply, Refusal>) {
        match (&choice.call, result) {
            (Call::Get { path, .. }, Ok(Reply::Node(node))) => {
                self.versions.insert(path.clone(), node.version);
            }
            (Call::Write(changes), Ok(Reply::Written(done))) => {
                for (change, done) in changes.iter().zip(done) {
                    match (change, done) {
                        (Change::Set { path, .. }, Done::Set(version)) => {
                            self.versions.insert(path.clone(), *version);
                        }
                        (
                            Change::Create {
                                sequential: true, ..
                            },
                            Done::Created(path),
                        ) => self.own.push(path.clone()),
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
}

fn node(random: &mut Random) -> String {
    format!("{ROOT}/n{}", random.below(NODES))
}

fn ephemeral(random: &mut Random) -> String {
    format!("{ROOT}/e{}", random.below(EPHEMERALS))
}

fn any(random: &mut Random) -> String {
    if random.below(2) == 0 {
        node(random)
    } else {
        ephemeral(random)
    }
}

/// The next request.
pub(super) fn choose(
    random: &mut Random,
    known: &mut Known,
    mut value: impl FnMut() -> u64,
) -> Choice {
    let mut create = |path: String, ephemeral, sequential| Change::Create {
        path,
        value: value(),
        ephemeral,
        sequential,
    };
    match random.below(100) {
        0..10 => Choice::write(vec![create(node(random), false, false)]),
        10..20 => Choice::write(vec![create(ephemeral(random), true, false)]),
        20..25 => {
            let ephemeral = random.below(2) == 0;
            Choice::write(vec![create(format!("{ROOT}/q-"), ephemeral, true)])
        }
        25..30 if known.own.len() > OWN => {
            let path = known.own.remove(0);
            Choice::write(vec![Change::Delete {
                path,
                version: None,
            }])
        }
        30..34 => Choice::write(vec![delete(random, known)]),
        34..38 => {
            let made = create(node(random), false, false);
            Choice::write(vec![delete(random, known), made])
        }
        38..40 => Choice::sync(),
        40..52 => Choice::get(any(random), false),
        52..62 => Choice::get(any(random), true),
        62..68 => Choice::wait_for(any(random)),
        68..72 => {
            let changes = [set(random, known, value()), set(random, known, value())];
            Choice::write(changes.to_vec())
        }
        _ => Choice::write(vec![set(random, known, value())]),
    }
}

fn set(random: &mut Random, known: &Known, value: u64) -> Change {
    let path = node(random);
    let version = version(random, known, &path);
    Change::Set {
        path,
        value,
        version,
    }
}

fn delete(random: &mut Random, known: &Known) -> Change {
    let path = any(random);
    let version = version(random, known, &path);
    Change::Delete { path, version }
}

/// Now and then the version that it saw last.
fn version(random: &mut Random, known: &Known, path: &str) -> Option<i32> {
    let seen = known.versions.get(path).copied();
    seen.filter(|_| random.below(3) == 0)
}

fn ask(change: &Change) -> Ask {
    match change {
        Change::Create {
            path,
            value,
            ephemeral,
            sequential,
        } => Ask::Create(CreateRequest {
            op: OpCode::Create,
            path: path.clone(),
            data: Some(Bytes::from(value.to_string())),
            acl: vec![Acl::open()],
            flags: i32::from(*ephemeral) * flags::EPHEMERAL
                + i32::from(*sequential) * flags::SEQUENTIAL,
            ttl: -1,
        }),
        Change::Set {
            path,
            value,
            version,
        } => Ask::SetData {
            path: path.clone(),
            data: Some(Bytes::from(value.to_string())),
            version: version.unwrap_or(-1),
        },
        Change::Delete { path, version } => Ask::Delete {
            path: path.clone(),
            version: version.unwrap_or(-1),
        },
    }
}

/// What a reply means; `None` if its outcome has to count as unknown.
pub(super) fn answer(choice: &Choice, reply: &client::Reply) -> Option<Answer> {
    let refusal = match reply.err {
        0 => None,
        code::NO_NODE => Some(Refusal::NoNode),
        code::NODE_EXISTS => Some(Refusal::NodeExists),
        code::BAD_VERSION => Some(Refusal::BadVersion),
        _ => return None,
    };
    let plain = |result| {
        Some(Answer {
            result,
            really: None,
            watches: None,
        })
    };
    match (&choice.call, refusal) {
        (Call::Get { path, watch }, refusal) => got(choice, path, *watch, refusal, reply),
        (_, Some(refusal)) => plain(Err(refusal)),
        (Call::Write(changes), None) => plain(written(changes, reply)?),
        (Call::Other | Call::Close, None) => plain(Ok(Reply::Done)),
    }
}

fn got(
    choice: &Choice,
    path: &str,
    watch: bool,
    refusal: Option<Refusal>,
    reply: &client::Reply,
) -> Option<Answer> {
    let watched = |waits| watch.then(|| (path.to_owned(), waits));
    let answer = match (refusal, choice.exists) {
        // Only `exists` leaves a watch where there is no node.
        (Some(_), true) => Answer {
            result: Ok(Reply::Absent),
            really: None,
            watches: watched(true),
        },
        (Some(_), false) => Answer {
            result: Ok(Reply::Absent),
            really: watch.then(|| Call::Get {
                path: path.to_owned(),
                watch: false,
            }),
            watches: None,
        },
        (None, true) => Answer {
            result: Ok(Reply::Done),
            really: Some(Call::Other),
            watches: watched(false),
        },
        (None, false) => {
            let (data, stat) = reply.data().ok()?;
            let value = crate::ack::parse(&data.unwrap_or_default()).ok()?;
            let state = NodeState {
                value,
                version: stat.version,
                czxid: stat.czxid.0,
                mzxid: stat.mzxid.0,
                owner: stat.ephemeral_owner,
            };
            Answer {
                result: Ok(Reply::Node(state)),
                really: None,
                watches: watched(false),
            }
        }
    };
    Some(answer)
}

/// What became of changes; of several, the answer says in its body whether they were refused.
fn written(changes: &[Change], reply: &client::Reply) -> Option<Result<Reply, Refusal>> {
    if let [change] = changes {
        let done = match change {
            Change::Create { .. } => Done::Created(reply.read().ok()?),
            Change::Set { .. } => Done::Set(reply.read::<Stat>().ok()?.version),
            Change::Delete { .. } => Done::Deleted,
        };
        return Some(Ok(Reply::Written(vec![done])));
    }
    let mut done = Vec::new();
    for result in multi::read_results(&mut Reader::new(reply.body.clone())).ok()? {
        done.push(match result {
            MultiResult::Create(path) => Done::Created(path),
            MultiResult::SetData(stat) => Done::Set(stat.version),
            MultiResult::Delete => Done::Deleted,
            MultiResult::Error(_) => return Some(Err(Refusal::Other)),
            _ => return None,
        });
    }
    (done.len() == changes.len()).then_some(Ok(Reply::Written(done)))
}
