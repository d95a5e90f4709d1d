//! `create`, `create2`, `createContainer`, `createTTL` (protocol reference §2.2).

use super::Check;
use super::overlay::Node;
use crate::path;
use crate::proto::client::{CreateMode, CreateRequest, OpCode};
use crate::proto::code::ErrorCode;
use crate::proto::data::{StatPersisted, perms};
use crate::proto::txn::{CreateOp, CreateTxn, Txn};
use crate::tree::{Owner, TTL_MS_MAX};

impl Check<'_> {
    /// The checks in the order in which Apache makes them: the first that fails is the answer.
    pub(super) fn create(&mut self, request: CreateRequest) -> Result<Txn, ErrorCode> {
        let mode = CreateMode::from_flags(request.flags).ok_or(ErrorCode::BAD_ARGUMENTS)?;
        self.check_ttl(mode, request.ttl)?;
        path::validate_roughly(&request.path)?;
        let acl = self.fix_up(&request.acl)?;
        let parent_path = path::parent(&request.path).to_owned();
        let mut parent = self.node(&parent_path).ok_or(ErrorCode::NO_NODE)?;
        self.permit(&parent, perms::CREATE)?;
        let mut path = request.path;
        if mode.is_sequential() {
            path = path::with_sequence(&path, parent.stat.cversion);
        }
        path::validate(&path)?;
        if self.node(&path).is_some() {
            return Err(ErrorCode::NODE_EXISTS);
        }
        if matches!(self.owner(&parent), Owner::Session(_)) {
            return Err(ErrorCode::NO_CHILDREN_FOR_EPHEMERALS);
        }
        let data_len = request.data.as_ref().map_or(0, |data| data.len());
        self.check_quota(&path, 1, data_len as i64)?;

        parent.stat.cversion = parent.stat.cversion.wrapping_add(1);
        parent.stat.pzxid = self.stamp.zxid;
        parent.children += 1;
        let parent_cversion = parent.stat.cversion;
        self.put(&parent_path, Some(parent));
        let stat = StatPersisted {
            czxid: self.stamp.zxid,
            mzxid: self.stamp.zxid,
            pzxid: self.stamp.zxid,
            ctime: self.stamp.time,
            mtime: self.stamp.time,
            ephemeral_owner: match mode {
                CreateMode::Container => Owner::Container.encode(),
                mode if mode.is_ttl() => Owner::Ttl(request.ttl).encode(),
                mode if mode.is_ephemeral() => self.session.0,
                _ => 0,
            },
            ..StatPersisted::default()
        };
        self.put(
            &path,
            Some(Node {
                stat,
                children: 0,
                data_len,
                acl: acl.clone().into(),
            }),
        );
        let op = match request.op {
            OpCode::Create2 => CreateOp::Create2,
            OpCode::CreateContainer => CreateOp::Container,
            OpCode::CreateTtl => CreateOp::Ttl(request.ttl),
            _ => CreateOp::Create,
        };
        let ephemeral = mode.is_ephemeral();
        Ok(Txn::Create(CreateTxn {
            op,
            path,
            data: request.data,
            acl,
            ephemeral,
            parent_cversion,
        }))
    }

    fn check_ttl(&self, mode: CreateMode, ttl: i64) -> Result<(), ErrorCode> {
        if !mode.is_ttl() {
            return if ttl < 0 {
                Ok(())
            } else {
                Err(ErrorCode::BAD_ARGUMENTS)
            };
        }
        if !self.settings.extended_types {
            return Err(ErrorCode::UNIMPLEMENTED);
        }
        if (1..=TTL_MS_MAX).contains(&ttl) {
            Ok(())
        } else {
            Err(ErrorCode::BAD_ARGUMENTS)
        }
    }

    /// Refuses what a hard limit forbids. As in Apache, changes that are under way are not counted.
    pub(super) fn check_quota(&self, path: &str, nodes: i64, bytes: i64) -> Result<(), ErrorCode> {
        let Some(quota) = self
            .settings
            .enforce_quota
            .then(|| self.replica.tree().quota(path))
            .flatten()
        else {
            return Ok(());
        };
        let over = |limit: Option<i64>, used: i64| limit.is_some_and(|limit| used > limit);
        if over(quota.limits.count_hard_limit(), quota.usage.count + nodes)
            || over(quota.limits.byte_hard_limit(), quota.usage.bytes + bytes)
        {
            return Err(ErrorCode::QUOTA_EXCEEDED);
        }
        Ok(())
    }
}
