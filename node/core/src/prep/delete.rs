//! `delete`, `deleteContainer` and the end of a session, which deletes its ephemeral nodes.

use std::collections::BTreeSet;

use super::Check;
use crate::path;
use crate::proto::code::ErrorCode;
use crate::proto::data::perms;
use crate::proto::txn::Txn;
use crate::tree::Owner;

fn deletable(path: &str) -> Result<(), ErrorCode> {
    path::validate_roughly(path)?;
    if path::is_special(path) {
        Err(ErrorCode::BAD_ARGUMENTS)
    } else {
        Ok(())
    }
}

impl Check<'_> {
    pub(super) fn delete(&mut self, path: String, version: i32) -> Result<Txn, ErrorCode> {
        deletable(&path)?;
        let parent = self.node(path::parent(&path)).ok_or(ErrorCode::NO_NODE)?;
        self.permit(&parent, perms::DELETE)?;
        let node = self.node(&path).ok_or(ErrorCode::NO_NODE)?;
        super::next_version(node.stat.version, version)?;
        if node.children > 0 {
            return Err(ErrorCode::NOT_EMPTY);
        }
        self.note_delete(&path);
        Ok(Txn::Delete { path })
    }

    /// Asked for by the leader itself. No session, ACL or version; a plain empty node passes, as in Apache.
    pub(super) fn delete_container(&mut self, path: String) -> Result<Txn, ErrorCode> {
        deletable(&path)?;
        let node = self.node(&path).ok_or(ErrorCode::NO_NODE)?;
        if node.children > 0 {
            return Err(ErrorCode::NOT_EMPTY);
        }
        if matches!(self.owner(&node), Owner::Session(_)) {
            return Err(ErrorCode::BAD_VERSION);
        }
        self.note_delete(&path);
        Ok(Txn::DeleteContainer { path })
    }

    /// The paths are those that will be there when the transaction is applied: changes under way are counted in.
    pub(super) fn close_session(&mut self) -> Txn {
        let mut paths: BTreeSet<String> = self
            .replica
            .tree()
            .ephemerals(self.session)
            .into_iter()
            .collect();
        let changed: Vec<String> = self.overlay.paths().map(str::to_owned).collect();
        let changed = changed.into_iter().filter(|_| !mutant!(Zk2355));
        for path in changed {
            match self.node(&path) {
                Some(node) if node.stat.ephemeral_owner == self.session.0 => paths.insert(path),
                _ => paths.remove(&path),
            };
        }
        for path in &paths {
            self.note_delete(path);
        }
        Txn::CloseSession {
            paths: Some(paths.into_iter().collect()),
        }
    }

    fn note_delete(&mut self, path: &str) {
        let parent_path = path::parent(path).to_owned();
        if let Some(mut parent) = self.node(&parent_path) {
            parent.children = parent.children.saturating_sub(1);
            parent.stat.pzxid = self.stamp.zxid;
            self.put(&parent_path, Some(parent));
        }
        self.put(path, None);
    }
}
