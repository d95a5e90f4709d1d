//! What clients did and saw, in the words of the history checker.

use std::collections::BTreeMap;

use node_core::proto::client::{CreateMode, EventType, Request, Response};
use node_core::proto::code::ErrorCode;
use node_core::proto::multi::MultiResult;
use node_core::zxid::{SessionId, Zxid};
use node_history::{Call, Change, Done, Event, NodeState, Refusal, Reply};

use crate::model::Answer;

/// The history of a run.
#[derive(Default)]
pub(crate) struct Recorder {
    pub(crate) events: Vec<Event>,
    ops: u64,
    waiting: BTreeMap<u64, Call>,
}

fn value(data: Option<&[u8]>) -> u64 {
    let data = data.and_then(|data| data.try_into().ok());
    data.map_or(0, u64::from_be_bytes)
}

fn change(request: &Request) -> Option<Change> {
    Some(match request {
        Request::Create(create) => {
            let mode = CreateMode::from_flags(create.flags).expect("a mode");
            Change::Create {
                path: create.path.clone(),
                value: value(create.data.as_deref()),
                ephemeral: mode.is_ephemeral(),
                sequential: mode.is_sequential(),
            }
        }
        Request::SetData {
            path,
            data,
            version,
        } => Change::Set {
            path: path.clone(),
            value: value(data.as_deref()),
            version: Some(*version).filter(|version| *version >= 0),
        },
        Request::Delete { path, version } => Change::Delete {
            path: path.clone(),
            version: Some(*version).filter(|version| *version >= 0),
        },
        _ => return None,
    })
}

fn call(request: &Request) -> Call {
    match request {
        Request::GetData { path, watch } => Call::Get {
            path: path.clone(),
            watch: *watch,
        },
        Request::CloseSession => Call::Close,
        Request::Multi(ops) => Call::Write(ops.iter().filter_map(change).collect()),
        other => change(other).map_or(Call::Other, |change| Call::Write(vec![change])),
    }
}

fn done(result: &MultiResult) -> Option<Done> {
    match result {
        MultiResult::Create(path) => Some(Done::Created(path.clone())),
        MultiResult::SetData(stat) => Some(Done::Set(stat.version)),
        MultiResult::Delete => Some(Done::Deleted),
        _ => None,
    }
}

fn refusal(code: ErrorCode) -> Refusal {
    match code {
        ErrorCode::NO_NODE => Refusal::NoNode,
        ErrorCode::NODE_EXISTS => Refusal::NodeExists,
        ErrorCode::BAD_VERSION => Refusal::BadVersion,
        _ => Refusal::Other,
    }
}

fn reply(call: &Call, answer: &Answer) -> Result<Reply, Refusal> {
    match (call, answer) {
        (Call::Get { .. }, Ok(Response::Data(data, stat))) => Ok(Reply::Node(NodeState {
            value: value(data.as_deref()),
            version: stat.version,
            czxid: stat.czxid.0,
            mzxid: stat.mzxid.0,
            owner: stat.ephemeral_owner,
        })),
        (Call::Get { .. }, Err(ErrorCode::NO_NODE)) => Ok(Reply::Absent),
        (Call::Write(_), Ok(Response::Multi(results))) => {
            let failed = |result: &MultiResult| matches!(result, MultiResult::Error(_));
            if results.iter().any(failed) {
                return Err(Refusal::Other);
            }
            Ok(Reply::Written(results.iter().filter_map(done).collect()))
        }
        (Call::Write(changes), Ok(response)) => {
            let done = match (&changes[0], response) {
                (_, Response::Path(path)) => Done::Created(path.clone()),
                (_, Response::Stat(stat)) => Done::Set(stat.version),
                _ => Done::Deleted,
            };
            Ok(Reply::Written(vec![done]))
        }
        (_, Ok(_)) => Ok(Reply::Done),
        (Call::Write(_), Err(code)) => Err(refusal(*code)),
        (_, Err(_)) => Err(Refusal::Other),
    }
}

impl Recorder {
    /// A client is about to ask; gives the request's number.
    pub(crate) fn asks(&mut self, session: SessionId, request: &Request) -> u64 {
        self.ops += 1;
        let (op, session, call) = (self.ops, session.0, call(request));
        self.waiting.insert(op, call.clone());
        self.events.push(Event::Invoke { op, session, call });
        op
    }

    pub(crate) fn is_answered(&mut self, op: u64, zxid: Zxid, answer: &Answer) {
        let call = self.waiting.remove(&op).expect("it was asked");
        let (zxid, result) = (zxid.0, reply(&call, answer));
        self.events.push(Event::Return { op, zxid, result });
    }

    pub(crate) fn fired(&mut self, session: SessionId, event: EventType, path: &str) {
        if event != EventType::NodeChildrenChanged {
            let (session, path) = (session.0, path.to_owned());
            self.events.push(Event::Fired { session, path });
        }
    }

    pub(crate) fn connected(&mut self, session: SessionId) {
        self.events.push(Event::Connected { session: session.0 });
    }

    pub(crate) fn disconnected(&mut self, session: SessionId) {
        self.events.push(Event::Disconnected {
            session: session.0,
            forgets_watches: false,
        });
    }

    pub(crate) fn expired(&mut self, session: SessionId) {
        self.events.push(Event::Expired { session: session.0 });
    }

    /// What the history checker says to all of it.
    pub(crate) fn check(&self) {
        if let Err(violation) = node_history::check(&self.events) {
            panic!("history: {}", violation.report(&self.events));
        }
    }
}
