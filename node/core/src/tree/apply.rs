//! The one function that applies a transaction to the tree: for commits, recovery and synchronization alike.
//!
//! Transactions are absolute, so that a log can be replayed over a tree that already holds some of its end (a fuzzy
//! snapshot of a Java server): the rules are those of the protocol reference, §5.6 item 3, and one more: what is older
//! than the node that it would change is skipped. (A log without the paths of closed sessions does not delete the node
//! that an older transaction was about, when a later one of that path is already there.)

use super::acls::AclList;
use super::znode::NodeId;
use super::{DataTree, Owner};
use crate::path;
use crate::proto::client::Response;
use crate::proto::code::ErrorCode;
use crate::proto::data::{Acl, StatPersisted};
use crate::proto::multi::MultiResult;
use crate::proto::txn::{CreateOp, CreateTxn, Txn, TxnHeader};
use crate::zxid::{SessionId, Zxid};

/// What a transaction did.
#[derive(Clone, Debug, PartialEq)]
pub struct Applied {
    /// What the client that asked for it hears.
    pub result: Result<Response, ErrorCode>,
    /// What watches are about, in order.
    pub changes: Vec<Change>,
}

/// What became of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChangeKind {
    /// It was created; its parent's children changed.
    Created,
    /// It was deleted; its parent's children changed.
    Deleted,
    /// Its data was set.
    DataChanged,
}

/// A change that watches may be waiting for.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// What happened.
    pub kind: ChangeKind,
    /// Where.
    pub path: String,
    /// Who may hear of it: the node's ACL, a deleted node's last one.
    pub acl: AclList,
    /// Who may hear of it as a change of the parent's children; of no meaning where only data changed.
    pub parent_acl: AclList,
}

type Outcome = Result<Response, ErrorCode>;

impl DataTree {
    /// Applies a transaction. Sessions are not the tree's: of `createSession` and `closeSession` it sees to the
    /// ephemeral nodes only.
    pub fn apply(&mut self, header: &TxnHeader, txn: &Txn) -> Applied {
        let mut changes = Vec::new();
        let result = match txn {
            Txn::Multi(txns) => Ok(Response::Multi(self.apply_multi(
                header,
                txns,
                &mut changes,
            ))),
            txn => self.apply_one(header, txn, &mut changes),
        };
        Applied { result, changes }
    }

    fn apply_one(&mut self, header: &TxnHeader, txn: &Txn, changes: &mut Vec<Change>) -> Outcome {
        match txn {
            Txn::CreateSession { .. } | Txn::Check { .. } => Ok(Response::Empty),
            Txn::CloseSession { paths } => {
                let listed = paths.as_deref().unwrap_or_default();
                self.end_session(header.session, header.zxid, listed, changes);
                Ok(Response::Empty)
            }
            Txn::Create(create) => self.create(header, create, changes),
            Txn::Delete { path } | Txn::DeleteContainer { path } => self
                .delete(path, header.zxid, changes)
                .map(|()| Response::Empty),
            Txn::SetData {
                path,
                data,
                version,
            } => {
                let id = self.set_data(header, path, data.as_deref(), *version, changes)?;
                Ok(Response::Stat(self.node(id).stat()))
            }
            Txn::Reconfig {
                path,
                data,
                version,
            } => {
                let id = self.set_data(header, path, data.as_deref(), *version, changes)?;
                Ok(Response::Data(data.clone(), self.node(id).stat()))
            }
            Txn::SetAcl { path, acl, version } => self.set_acl(header.zxid, path, acl, *version),
            Txn::Error { code } => Err(ErrorCode(*code)),
            Txn::Multi(_) => Err(ErrorCode::MARSHALLING_ERROR),
        }
    }

    /// All or nothing: if one operation has failed at the leader, none is done.
    fn apply_multi(
        &mut self,
        header: &TxnHeader,
        txns: &[Txn],
        changes: &mut Vec<Change>,
    ) -> Vec<MultiResult> {
        let failed = txns.iter().position(|txn| matches!(txn, Txn::Error { .. }));
        let mut results = Vec::with_capacity(txns.len());
        for (at, txn) in txns.iter().enumerate() {
            results.push(match (failed, txn) {
                (_, Txn::Error { code }) => MultiResult::Error(ErrorCode(*code)),
                (Some(first), _) if at < first => MultiResult::Error(ErrorCode::OK),
                (Some(_), _) => MultiResult::Error(ErrorCode::RUNTIME_INCONSISTENCY),
                (None, txn) => multi_result(txn, self.apply_one(header, txn, changes)),
            });
        }
        results
    }

    fn node(&self, id: NodeId) -> super::Node<'_> {
        super::Node { tree: self, id }
    }

    fn acl_of(&self, id: NodeId) -> AclList {
        self.acls.list(self.nodes.acl(id)).clone()
    }

    /// Changes a node's data or stat: what it was goes to the snapshots and out of the digest, what it is goes in.
    fn update(&mut self, id: NodeId, path: &str, change: impl FnOnce(&mut Self)) {
        self.before_change(id);
        self.digest = self.digest.wrapping_sub(self.digest_of(id, path));
        change(self);
        self.digest = self.digest.wrapping_add(self.digest_of(id, path));
    }

    /// Counts a creation below `parent`. The counts only go up: a replayed creation may be an old one.
    fn count_creation(&mut self, parent: NodeId, parent_path: &str, cversion: i32, zxid: Zxid) {
        let current = self.nodes.stat(parent).cversion;
        let cversion = if cversion == -1 {
            current.wrapping_add(1)
        } else {
            cversion
        };
        if cversion > current {
            self.update(parent, parent_path, |tree| {
                tree.nodes.set_children_version(parent, cversion, zxid);
            });
        }
    }

    fn create(
        &mut self,
        header: &TxnHeader,
        txn: &CreateTxn,
        changes: &mut Vec<Change>,
    ) -> Outcome {
        let (parent_path, name) = path::split(&txn.path).ok_or(ErrorCode::NO_NODE)?;
        let parent = self
            .nodes
            .find(parent_path.as_bytes())
            .ok_or(ErrorCode::NO_NODE)?;
        let existing = if txn.path == "/" {
            Some(NodeId::ROOT)
        } else {
            self.nodes.child(parent, name.as_bytes())
        };
        if let Some(id) = existing {
            self.replace_acl(id, &txn.acl);
            if txn.op == CreateOp::Create {
                self.count_creation(parent, parent_path, txn.parent_cversion, header.zxid);
            }
            return Err(ErrorCode::NODE_EXISTS);
        }
        self.count_creation(parent, parent_path, txn.parent_cversion, header.zxid);
        let acl = self.acls.intern(&txn.acl);
        let stat = created_stat(header, owner_of(header.session, txn));
        let data = txn.data.as_deref();
        let id = self.attach(parent, name, data, acl, &stat);
        self.digest = self.digest.wrapping_add(self.digest_of(id, &txn.path));
        self.quota_created(&txn.path, data.unwrap_or_default().len());
        changes.push(Change {
            kind: ChangeKind::Created,
            path: txn.path.clone(),
            acl: self.acl_of(id),
            parent_acl: self.acl_of(parent),
        });
        Ok(match txn.op {
            CreateOp::Create => Response::Path(txn.path.clone()),
            CreateOp::Create2 | CreateOp::Container | CreateOp::Ttl(_) => {
                Response::PathStat(txn.path.clone(), self.node(id).stat())
            }
        })
    }

    fn delete(
        &mut self,
        path: &str,
        zxid: Zxid,
        changes: &mut Vec<Change>,
    ) -> Result<(), ErrorCode> {
        let (parent_path, name) = path::split(path).ok_or(ErrorCode::NO_NODE)?;
        let parent = self
            .nodes
            .find(parent_path.as_bytes())
            .ok_or(ErrorCode::NO_NODE)?;
        if zxid > self.nodes.stat(parent).pzxid {
            self.update(parent, parent_path, |tree| {
                tree.nodes.set_pzxid(parent, zxid)
            });
        }
        let id = self
            .nodes
            .child(parent, name.as_bytes())
            .ok_or(ErrorCode::NO_NODE)?;
        // Children are there only when a log is replayed over a fuzzy snapshot; it will create them again.
        while let Some(leaf) = self.first_leaf_below(id) {
            let path = self.path_of(leaf);
            self.remove_leaf(leaf, &path, changes);
        }
        self.remove_leaf(id, path, changes);
        Ok(())
    }

    fn first_leaf_below(&self, id: NodeId) -> Option<NodeId> {
        let down =
            std::iter::successors(self.nodes.first_child(id), |id| self.nodes.first_child(*id));
        down.last()
    }

    fn remove_leaf(&mut self, id: NodeId, path: &str, changes: &mut Vec<Change>) {
        self.before_change(id);
        let parent = self.nodes.parent(id).expect("the root is never removed");
        changes.push(Change {
            kind: ChangeKind::Deleted,
            path: path.to_owned(),
            acl: self.acl_of(id),
            parent_acl: self.acl_of(parent),
        });
        self.digest = self.digest.wrapping_sub(self.digest_of(id, path));
        self.unlist_owner(id);
        self.acls.release(self.nodes.acl(id));
        let bytes = self.nodes.data(id).unwrap_or_default().len();
        self.data_size -= (path.chars().count() + bytes) as i64;
        self.nodes.remove(id);
        self.quota_deleted(path, bytes);
    }

    fn set_data(
        &mut self,
        header: &TxnHeader,
        path: &str,
        data: Option<&[u8]>,
        version: i32,
        changes: &mut Vec<Change>,
    ) -> Result<NodeId, ErrorCode> {
        let id = self.nodes.find(path.as_bytes()).ok_or(ErrorCode::NO_NODE)?;
        // The configuration's node has the version of the configuration there, which may be from another history.
        if header.zxid < self.nodes.stat(id).mzxid && path != path::CONFIG {
            return Ok(id);
        }
        let before = self.nodes.data(id).unwrap_or_default().len() as i64;
        let grown = data.unwrap_or_default().len() as i64 - before;
        self.update(id, path, |tree| {
            tree.nodes.set_data(id, data);
            tree.nodes
                .set_modified(id, version, header.zxid, header.time);
        });
        self.data_size += grown;
        self.quota_changed(path, 0, grown);
        let acl = self.acl_of(id);
        changes.push(Change {
            kind: ChangeKind::DataChanged,
            path: path.to_owned(),
            parent_acl: AclList::clone(&acl),
            acl,
        });
        Ok(id)
    }

    fn set_acl(&mut self, zxid: Zxid, path: &str, acl: &[Acl], version: i32) -> Outcome {
        let id = self.nodes.find(path.as_bytes()).ok_or(ErrorCode::NO_NODE)?;
        if zxid < self.nodes.stat(id).czxid {
            return Ok(Response::Stat(self.node(id).stat()));
        }
        self.replace_acl(id, acl);
        self.update(id, path, |tree| tree.nodes.set_aversion(id, version));
        Ok(Response::Stat(self.node(id).stat()))
    }

    fn replace_acl(&mut self, id: NodeId, acl: &[Acl]) {
        self.before_change(id);
        let new = self.acls.intern(acl);
        let old = self.nodes.set_acl(id, new);
        self.acls.release(old);
    }

    /// Deletes the nodes that a closing session lists, then what else it owns here.
    pub(crate) fn end_session(
        &mut self,
        session: SessionId,
        zxid: Zxid,
        listed: &[String],
        changes: &mut Vec<Change>,
    ) {
        for path in listed {
            let _already_gone = self.delete(path, zxid, changes);
        }
        for path in self.ephemerals(session) {
            let _already_gone = self.delete(&path, zxid, changes);
        }
    }
}

fn owner_of(session: SessionId, txn: &CreateTxn) -> Owner {
    match txn.op {
        CreateOp::Container => Owner::Container,
        CreateOp::Ttl(ms) => Owner::Ttl(ms),
        CreateOp::Create | CreateOp::Create2 if txn.ephemeral => Owner::Session(session),
        CreateOp::Create | CreateOp::Create2 => Owner::Nobody,
    }
}

fn created_stat(header: &TxnHeader, owner: Owner) -> StatPersisted {
    StatPersisted {
        czxid: header.zxid,
        mzxid: header.zxid,
        ctime: header.time,
        mtime: header.time,
        pzxid: header.zxid,
        ephemeral_owner: owner.encode(),
        ..StatPersisted::default()
    }
}

fn multi_result(txn: &Txn, outcome: Outcome) -> MultiResult {
    match (txn, outcome) {
        (_, Err(code)) => MultiResult::Error(code),
        (_, Ok(Response::Path(path))) => MultiResult::Create(path),
        (_, Ok(Response::PathStat(path, stat))) => MultiResult::Create2(path, stat),
        (_, Ok(Response::Stat(stat))) => MultiResult::SetData(stat),
        (Txn::Check { .. }, Ok(_)) => MultiResult::Check,
        (_, Ok(_)) => MultiResult::Delete,
    }
}
