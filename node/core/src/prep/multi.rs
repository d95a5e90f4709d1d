//! `multi`: all or nothing.

use super::{Check, error};
use crate::proto::client::Request;
use crate::proto::code::ErrorCode;
use crate::proto::txn::Txn;

impl Check<'_> {
    /// Each operation sees the changes of those before it. When one fails, the transaction says so in its place, the
    /// ones after it say "runtime inconsistency", and nothing of it is applied (§5.3).
    pub(super) fn multi(&mut self, ops: Vec<Request>) -> Txn {
        self.overlay.begin();
        let mut failed = false;
        let mut txns = Vec::with_capacity(ops.len());
        for op in ops {
            if failed {
                txns.push(error(ErrorCode::RUNTIME_INCONSISTENCY));
                continue;
            }
            txns.push(self.single(op).unwrap_or_else(|code| {
                failed = true;
                error(code)
            }));
        }
        if failed {
            self.overlay.take_back();
        } else {
            self.overlay.keep();
        }
        Txn::Multi(txns)
    }
}
