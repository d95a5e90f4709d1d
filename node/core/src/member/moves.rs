//! The record of a session's move to another server.
//!
//! A connection that outlives its leader is only worth something if its client has not moved on meanwhile: the new leader
//! does not know which server a session belongs to, and would take what a forgotten connection still holds for new. So
//! a leader lets a move count only once the history says so, and every server closes its own connection of the
//! session when it applies that. To a server of another make it is a request that came too late: an error, which
//! changes nothing.

use crate::proto::code::ErrorCode;
use crate::proto::quorum::Proposal;
use crate::proto::txn::{Txn, TxnEntry};
use crate::zxid::{SessionId, Zxid};

/// In the place of the client's number: no client counts backwards to it.
const CXID: i32 = i32::MIN;

/// The proposal that `session` has moved, at `time` ms since 1970.
pub(super) fn record(session: SessionId, zxid: Zxid, time: i64) -> Proposal {
    let txn = Txn::Error {
        code: ErrorCode::SESSION_MOVED.0,
    };
    let data = TxnEntry::new(session, CXID, zxid, time, txn).encode();
    Proposal { zxid, data }
}

/// Whether a transaction is such a record.
pub(super) fn is_record(entry: &TxnEntry) -> bool {
    let moved = ErrorCode::SESSION_MOVED.0;
    entry.header.cxid == CXID && matches!(entry.txn, Txn::Error { code } if code == moved)
}
