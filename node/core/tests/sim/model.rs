//! What clients are promised, in the plainest form: a map of nodes that requests change one after the other. Every
//! state that ever was is kept, so that an answer can be compared with the state at its zxid.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use node_core::proto::client::{CreateMode, EventType, Request, Response};
use node_core::proto::code::ErrorCode;
use node_core::proto::data::Stat;
use node_core::proto::multi::MultiResult;
use node_core::proto::txn::TxnHeader;
use node_core::zxid::{SessionId, Zxid};

#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Znode {
    pub(crate) data: Option<Bytes>,
    czxid: Zxid,
    pub(crate) mzxid: Zxid,
    pub(crate) pzxid: Zxid,
    ctime: i64,
    mtime: i64,
    pub(crate) version: i32,
    created: i32,
    deleted: i32,
    pub(crate) owner: SessionId,
}

impl Znode {
    pub(crate) fn stat(&self) -> Stat {
        Stat {
            czxid: self.czxid,
            mzxid: self.mzxid,
            ctime: self.ctime,
            mtime: self.mtime,
            version: self.version,
            cversion: self.created + self.deleted,
            aversion: 0,
            ephemeral_owner: self.owner.0,
            data_length: self.data.as_ref().map_or(0, |data| data.len() as i32),
            num_children: self.created - self.deleted,
            pzxid: self.pzxid,
        }
    }
}

pub(crate) type Answer = Result<Response, ErrorCode>;

#[derive(Default)]
pub(crate) struct Model {
    nodes: BTreeMap<String, Vec<(Zxid, Option<Znode>)>>,
    events: BTreeMap<String, Vec<(Zxid, EventType)>>,
    pub(crate) sessions: BTreeSet<SessionId>,
}

/// The changes of one transaction.
struct Draft<'a> {
    model: &'a Model,
    header: &'a TxnHeader,
    nodes: BTreeMap<String, Option<Znode>>,
    events: Vec<(String, EventType)>,
}

pub(crate) fn parent(path: &str) -> &str {
    match path.rfind('/') {
        Some(0) | None => "/",
        Some(at) => &path[..at],
    }
}

impl Model {
    /// The node as it was after `zxid`.
    pub(crate) fn at(&self, path: &str, zxid: Zxid) -> Option<&Znode> {
        let versions = self.nodes.get(path)?;
        let end = versions.partition_point(|(at, _)| *at <= zxid);
        versions[..end].last()?.1.as_ref()
    }

    /// The names of its children as they were after `zxid`, sorted.
    pub(crate) fn children(&self, path: &str, zxid: Zxid) -> Vec<String> {
        let prefix = format!("{}/", path.trim_end_matches('/'));
        let below = self
            .nodes
            .range(prefix.clone()..)
            .take_while(|(path, _)| path.starts_with(&prefix));
        below
            .filter_map(|(path, _)| Some((path, path.strip_prefix(&prefix)?)))
            .filter(|(path, name)| !name.contains('/') && self.at(path, zxid).is_some())
            .map(|(_, name)| name.to_owned())
            .collect()
    }

    /// Everything that is there now, without the root.
    pub(crate) fn all(&self) -> impl Iterator<Item = (&str, &Znode)> {
        self.nodes.iter().filter_map(|(path, versions)| {
            let (_, node) = versions.last()?;
            (path != "/").then_some((path.as_str(), node.as_ref()?))
        })
    }

    /// What happened to a path after `since`, up to `until`.
    pub(crate) fn events(
        &self,
        path: &str,
        since: Zxid,
        until: Zxid,
    ) -> impl Iterator<Item = (Zxid, EventType)> {
        let events = self.events.get(path).map_or(&[][..], Vec::as_slice);
        let start = events.partition_point(|(at, _)| *at <= since);
        events[start..]
            .iter()
            .take_while(move |(at, _)| *at <= until)
            .copied()
    }

    /// Carries out what a transaction was asked for.
    pub(crate) fn execute(&mut self, header: &TxnHeader, request: &Request) -> Answer {
        let mut draft = Draft {
            model: self,
            header,
            nodes: BTreeMap::new(),
            events: Vec::new(),
        };
        let answer = draft.request(request);
        let Draft { nodes, events, .. } = draft;
        let failed_multi = matches!(&answer, Ok(Response::Multi(results))
            if results.iter().any(|r| matches!(r, MultiResult::Error(_))));
        if answer.is_ok() && !failed_multi {
            for (path, node) in nodes {
                self.nodes
                    .entry(path)
                    .or_default()
                    .push((header.zxid, node));
            }
            for (path, event) in events {
                self.events
                    .entry(path)
                    .or_default()
                    .push((header.zxid, event));
            }
        }
        answer
    }
}

impl Draft<'_> {
    fn get(&self, path: &str) -> Option<Znode> {
        if let Some(node) = self.nodes.get(path) {
            return node.clone();
        }
        let found = self.model.at(path, Zxid(i64::MAX)).cloned();
        found.or_else(|| (path == "/").then(Znode::default))
    }

    fn put(&mut self, path: &str, node: Option<Znode>, event: Option<EventType>) {
        self.nodes.insert(path.to_owned(), node);
        self.events
            .extend(event.map(|event| (path.to_owned(), event)));
    }

    fn request(&mut self, request: &Request) -> Answer {
        match request {
            Request::Create(create) => {
                let mode = CreateMode::from_flags(create.flags).expect("a mode");
                self.create(&create.path, create.data.clone(), mode)
                    .map(Response::Path)
            }
            Request::Delete { path, version } => {
                self.delete(path, *version)?;
                Ok(Response::Empty)
            }
            Request::SetData {
                path,
                data,
                version,
            } => {
                let mut node = self.get(path).ok_or(ErrorCode::NO_NODE)?;
                admit(&node, *version)?;
                node.version += 1;
                node.data = data.clone();
                (node.mzxid, node.mtime) = (self.header.zxid, self.header.time);
                let stat = node.stat();
                self.put(path, Some(node), Some(EventType::NodeDataChanged));
                Ok(Response::Stat(stat))
            }
            Request::Check { path, version } => {
                admit(&self.get(path).ok_or(ErrorCode::NO_NODE)?, *version)?;
                Ok(Response::Empty)
            }
            Request::Multi(ops) => Ok(Response::Multi(self.multi(ops))),
            Request::CloseSession => {
                let session = self.header.session;
                let owned: Vec<String> = self
                    .model
                    .all()
                    .filter(|(_, node)| node.owner == session)
                    .map(|(path, _)| path.to_owned())
                    .collect();
                for path in owned {
                    self.delete(&path, -1)?;
                }
                Ok(Response::Empty)
            }
            other => panic!("{other:?} is not modelled"),
        }
    }

    fn create(
        &mut self,
        path: &str,
        data: Option<Bytes>,
        mode: CreateMode,
    ) -> Result<String, ErrorCode> {
        let TxnHeader {
            zxid,
            time,
            session,
            ..
        } = *self.header;
        let mut above = self.get(parent(path)).ok_or(ErrorCode::NO_NODE)?;
        let mut path = path.to_owned();
        if mode.is_sequential() {
            path.push_str(&format!("{:010}", above.created));
        }
        if self.get(&path).is_some() {
            return Err(ErrorCode::NODE_EXISTS);
        }
        if above.owner != SessionId(0) {
            return Err(ErrorCode::NO_CHILDREN_FOR_EPHEMERALS);
        }
        above.created += 1;
        above.pzxid = zxid;
        let owner = if mode.is_ephemeral() {
            session
        } else {
            SessionId(0)
        };
        let node = Znode {
            data,
            czxid: zxid,
            mzxid: zxid,
            pzxid: zxid,
            ctime: time,
            mtime: time,
            owner,
            ..Znode::default()
        };
        self.put(&path, Some(node), Some(EventType::NodeCreated));
        let event = Some(EventType::NodeChildrenChanged);
        self.put(parent(&path), Some(above), event);
        Ok(path)
    }

    fn delete(&mut self, path: &str, version: i32) -> Result<(), ErrorCode> {
        let mut above = self.get(parent(path)).ok_or(ErrorCode::NO_NODE)?;
        let node = self.get(path).ok_or(ErrorCode::NO_NODE)?;
        admit(&node, version)?;
        if node.created > node.deleted {
            return Err(ErrorCode::NOT_EMPTY);
        }
        above.deleted += 1;
        above.pzxid = self.header.zxid;
        self.put(path, None, Some(EventType::NodeDeleted));
        let event = Some(EventType::NodeChildrenChanged);
        self.put(parent(path), Some(above), event);
        Ok(())
    }

    fn multi(&mut self, ops: &[Request]) -> Vec<MultiResult> {
        let mut results = Vec::new();
        for (at, op) in ops.iter().enumerate() {
            results.push(match self.request(op) {
                Ok(Response::Path(path)) => MultiResult::Create(path),
                Ok(Response::Stat(stat)) => MultiResult::SetData(stat),
                Ok(_) if matches!(op, Request::Check { .. }) => MultiResult::Check,
                Ok(_) => MultiResult::Delete,
                Err(code) => {
                    let before = std::iter::repeat_n(ErrorCode::OK, at);
                    let after = ErrorCode::RUNTIME_INCONSISTENCY;
                    let after = std::iter::repeat_n(after, ops.len() - at - 1);
                    let codes = before.chain([code]).chain(after);
                    return codes.map(MultiResult::Error).collect();
                }
            });
        }
        results
    }
}

fn admit(node: &Znode, version: i32) -> Result<(), ErrorCode> {
    if version == -1 || version == node.version {
        Ok(())
    } else {
        Err(ErrorCode::BAD_VERSION)
    }
}
