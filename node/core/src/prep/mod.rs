//! The leader's checks: a request becomes a transaction that cannot fail, or an error.
//!
//! A request is checked against the committed tree plus all changes that are proposed and not yet applied (the
//! [`Overlay`]), so proposals can be pipelined. Nothing here changes the tree.

pub(crate) mod create;
pub(crate) mod delete;
pub(crate) mod multi;
pub mod overlay;
pub(crate) mod reconfig;
pub(crate) mod set;

use bytes::Bytes;

use crate::acl;
use crate::proto::client::{OpCode, Request};
use crate::proto::code::ErrorCode;
use crate::proto::data::{Acl, Id};
use crate::proto::txn::Txn;
use crate::replica::Replica;
use crate::session::{Owner, SessionCheck, SessionTracker};
use crate::zxid::{SessionId, Time, Zxid};
use overlay::{Node, Overlay};
pub use reconfig::ReconfigView;

/// What the configuration says about checks.
#[derive(Clone, Copy, Debug)]
pub struct PrepSettings {
    /// `skipACL`: every ACL check succeeds.
    pub skip_acl: bool,
    /// `extendedTypesEnabled`: nodes may have a time to live.
    pub extended_types: bool,
    /// `enforceQuota`: hard limits refuse what exceeds them.
    pub enforce_quota: bool,
}

/// A write as it reaches the leader, from its own client or through a learner.
#[derive(Clone, Debug)]
pub struct WriteRequest {
    /// Who asks; 0 for the server itself.
    pub session: SessionId,
    /// The client's number for it.
    pub cxid: i32,
    /// Which operation.
    pub op: OpCode,
    /// The body, not yet decoded.
    pub body: Bytes,
    /// The caller's identities.
    pub ids: Vec<Id>,
    /// The connection that it came through; `None` for the server itself.
    pub owner: Option<Owner>,
}

/// The place and time of the transaction to be.
#[derive(Clone, Copy, Debug)]
pub struct Stamp {
    /// Its zxid.
    pub zxid: Zxid,
    /// The wall clock, ms since 1970.
    pub time: i64,
    /// The leader's clock.
    pub now: Time,
}

/// The checks, with the changes that are under way.
#[derive(Debug)]
pub struct Prep {
    settings: PrepSettings,
    overlay: Overlay,
}

/// Everything that one check looks at.
pub(crate) struct Check<'a> {
    settings: PrepSettings,
    overlay: &'a mut Overlay,
    replica: &'a Replica,
    stamp: Stamp,
    session: SessionId,
    ids: &'a [Id],
}

impl Prep {
    /// Checks without any change under way.
    #[must_use]
    pub fn new(settings: PrepSettings) -> Self {
        Self {
            settings,
            overlay: Overlay::default(),
        }
    }

    /// Turns a request into the transaction to propose. A request that fails becomes a [`Txn::Error`]; with
    /// [`ErrorCode::SESSION_MOVED`] its connection closes without an answer.
    pub fn prepare(
        &mut self,
        stamp: Stamp,
        request: &WriteRequest,
        replica: &Replica,
        sessions: &mut SessionTracker,
        reconfig: &ReconfigView<'_>,
    ) -> Txn {
        self.overlay.forget_applied(replica.last_zxid());
        if let Some(owner) = request
            .owner
            .filter(|_| request.op != OpCode::CreateSession)
        {
            match sessions.check(request.session, owner) {
                SessionCheck::Alive => {}
                SessionCheck::Expired => return error(ErrorCode::SESSION_EXPIRED),
                SessionCheck::Moved => return error(ErrorCode::SESSION_MOVED),
            }
        }
        let mut check = Check {
            settings: self.settings,
            overlay: &mut self.overlay,
            replica,
            stamp,
            session: request.session,
            ids: &request.ids,
        };
        let Ok(decoded) = Request::decode(request.op, request.body.clone()) else {
            return error(ErrorCode::MARSHALLING_ERROR);
        };
        match decoded {
            Request::CreateSession { timeout_ms } => {
                sessions.add(stamp.now, request.session, timeout_ms);
                if let Some(owner) = request.owner {
                    sessions.revalidate(stamp.now, request.session, timeout_ms, owner);
                }
                Txn::CreateSession { timeout_ms }
            }
            Request::CloseSession => {
                sessions.set_closing(request.session);
                check.close_session()
            }
            Request::Check { path, version } if mutant!(Zk2623) => {
                let data = None;
                let set = check.set_data(path, data, version);
                set.unwrap_or_else(error)
            }
            Request::Multi(ops) => check.multi(ops),
            Request::Reconfig {
                joining,
                leaving,
                new_members,
                from_config,
            } => {
                let change = reconfig::Change {
                    joining,
                    leaving,
                    new_members,
                    from_config,
                };
                check.reconfig(&change, reconfig).unwrap_or_else(error)
            }
            other => check.single(other).unwrap_or_else(error),
        }
    }
}

/// The transaction of a request that failed.
pub(crate) fn error(code: ErrorCode) -> Txn {
    Txn::Error { code: code.0 }
}

impl Check<'_> {
    /// One operation, alone or in a multi.
    fn single(&mut self, request: Request) -> Result<Txn, ErrorCode> {
        match request {
            Request::Create(create) => self.create(create),
            Request::Delete { path, version } => self.delete(path, version),
            Request::DeleteContainer { path } => self.delete_container(path),
            Request::SetData {
                path,
                data,
                version,
            } => self.set_data(path, data, version),
            Request::SetAcl { path, acl, version } => self.set_acl(path, &acl, version),
            Request::Check { path, version } => self.check_version(path, version),
            _ => Err(ErrorCode::UNIMPLEMENTED),
        }
    }

    /// What an owner field means.
    fn owner(&self, node: &Node) -> crate::tree::Owner {
        crate::tree::Owner::decode(node.stat.ephemeral_owner, self.settings.extended_types)
    }

    fn node(&self, path: &str) -> Option<Node> {
        self.overlay.get(self.replica.tree(), path)
    }

    fn put(&mut self, path: &str, node: Option<Node>) {
        self.overlay.put(self.stamp.zxid, path, node);
    }

    fn permit(&self, node: &Node, perms: i32) -> Result<(), ErrorCode> {
        if self.settings.skip_acl {
            return Ok(());
        }
        if acl::permits(&node.acl, perms, self.ids) {
            Ok(())
        } else {
            Err(ErrorCode::NO_AUTH)
        }
    }

    fn fix_up(&self, list: &[Acl]) -> Result<Vec<Acl>, ErrorCode> {
        acl::fix_up(list, self.ids)
    }
}

/// The version after `version`, if `expected` admits it (−1 is any). −1 itself is never a version (§2.3).
pub(crate) fn next_version(version: i32, expected: i32) -> Result<i32, ErrorCode> {
    if expected != -1 && expected != version {
        return Err(ErrorCode::BAD_VERSION);
    }
    match version.wrapping_add(1) {
        -1 => Ok(0),
        next => Ok(next),
    }
}
