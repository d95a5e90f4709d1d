//! `setData`, `setACL` and `check`.

use bytes::Bytes;

use super::{Check, next_version};
use crate::path;
use crate::proto::code::ErrorCode;
use crate::proto::data::{Acl, perms};
use crate::proto::txn::Txn;

impl Check<'_> {
    pub(super) fn set_data(
        &mut self,
        path: String,
        data: Option<Bytes>,
        version: i32,
    ) -> Result<Txn, ErrorCode> {
        path::validate(&path)?;
        let mut node = self.node(&path).ok_or(ErrorCode::NO_NODE)?;
        self.permit(&node, perms::WRITE)?;
        let data_len = data.as_ref().map_or(0, |data| data.len());
        self.check_quota(&path, 0, data_len as i64 - node.data_len as i64)?;
        node.stat.version = next_version(node.stat.version, version)?;
        node.stat.mzxid = self.stamp.zxid;
        node.stat.mtime = self.stamp.time;
        node.data_len = data_len;
        let version = node.stat.version;
        self.put(&path, Some(node));
        Ok(Txn::SetData {
            path,
            data,
            version,
        })
    }

    pub(super) fn set_acl(
        &mut self,
        path: String,
        list: &[Acl],
        version: i32,
    ) -> Result<Txn, ErrorCode> {
        path::validate(&path)?;
        let acl = self.fix_up(list)?;
        let mut node = self.node(&path).ok_or(ErrorCode::NO_NODE)?;
        self.permit(&node, perms::ADMIN)?;
        node.stat.aversion = next_version(node.stat.aversion, version)?;
        node.acl = acl.clone().into();
        let version = node.stat.aversion;
        self.put(&path, Some(node));
        Ok(Txn::SetAcl { path, acl, version })
    }

    pub(super) fn check_version(&mut self, path: String, version: i32) -> Result<Txn, ErrorCode> {
        path::validate(&path)?;
        let node = self.node(&path).ok_or(ErrorCode::NO_NODE)?;
        self.permit(&node, perms::READ)?;
        let version = next_version(node.stat.version, version)?;
        Ok(Txn::Check { path, version })
    }
}
