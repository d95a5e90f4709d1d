//! The end of a server's history: what it has logged lately, how much of it is on disk and how much is in the tree.
//!
//! ```text
//!   base …… applied …… last        base < every entry kept ≤ last
//!                flushed            applied and flushed move independently between base and last
//! ```

use std::collections::VecDeque;

use crate::proto::quorum::Proposal;
use crate::zxid::Zxid;

/// Committed transactions that are kept to bring learners up to date ("commitLogCount").
const KEEP_COUNT: usize = 500;
/// Bytes of them.
const KEEP_BYTES: usize = 64 << 20;

/// What the log is busy with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rewrite {
    /// It grows.
    None,
    /// It is being cut.
    Truncating,
    /// A snapshot is being written in its place.
    SavingSnapshot(Zxid),
}

#[derive(Debug)]
pub(crate) struct History {
    /// The transaction before the first entry.
    base: Zxid,
    entries: VecDeque<Proposal>,
    bytes: usize,
    last: Zxid,
    applied: Zxid,
    flushed: Zxid,
    rewrite: Rewrite,
}

impl History {
    /// The history of a server that has started: all of it is on disk and in the tree.
    pub(crate) fn recovered(recent: Vec<Proposal>, last: Zxid) -> Self {
        let base = recent.first().map_or(last, |p| Zxid(p.zxid.0 - 1));
        let bytes = recent.iter().map(|p| p.data.len()).sum();
        let rewrite = Rewrite::None;
        Self {
            base,
            entries: recent.into(),
            bytes,
            last,
            applied: last,
            flushed: last,
            rewrite,
        }
    }

    pub(crate) fn base(&self) -> Zxid {
        self.base
    }

    pub(crate) fn last(&self) -> Zxid {
        self.last
    }

    pub(crate) fn applied(&self) -> Zxid {
        self.applied
    }

    pub(crate) fn flushed(&self) -> Zxid {
        self.flushed
    }

    /// Whether everything would survive a crash.
    pub(crate) fn is_durable(&self) -> bool {
        let rewritten = match self.rewrite {
            Rewrite::None => true,
            Rewrite::Truncating => false,
            Rewrite::SavingSnapshot(_) => mutant!(Zk3642),
        };
        rewritten && self.flushed >= self.last
    }

    /// Whether the log is being cut: until that is done nobody knows where the history ends.
    pub(crate) fn is_truncating(&self) -> bool {
        self.rewrite == Rewrite::Truncating
    }

    /// Adds a transaction. Without a disk it is as good as flushed.
    pub(crate) fn append(&mut self, proposal: Proposal, to_disk: bool) {
        self.last = proposal.zxid;
        self.bytes += proposal.data.len();
        self.entries.push_back(proposal);
        if !to_disk {
            self.flushed = self.last;
        }
    }

    /// Everything up to `zxid` is on disk. What the log reports while it is being rewritten is about its past.
    pub(crate) fn set_flushed(&mut self, zxid: Zxid) {
        if self.rewrite == Rewrite::None {
            self.flushed = self.flushed.max(zxid.min(self.last));
        }
    }

    /// The entries after `zxid`.
    pub(crate) fn after(&self, zxid: Zxid) -> impl Iterator<Item = &Proposal> {
        let start = self.entries.partition_point(|p| p.zxid <= zxid);
        self.entries.range(start..)
    }

    /// The last entry up to `zxid`, or what is before all entries.
    pub(crate) fn last_up_to(&self, zxid: Zxid) -> Zxid {
        let end = self.entries.partition_point(|p| p.zxid <= zxid);
        end.checked_sub(1)
            .map_or(self.base, |i| self.entries[i].zxid)
    }

    /// The oldest transaction that is not in the tree.
    pub(crate) fn next_unapplied(&self) -> Option<Zxid> {
        self.after(self.applied).next().map(|p| p.zxid)
    }

    /// Takes the oldest transaction that is not in the tree, to apply it.
    pub(crate) fn apply_next(&mut self) -> Option<Proposal> {
        let proposal = self.after(self.applied).next()?.clone();
        self.applied = proposal.zxid;
        self.trim();
        Some(proposal)
    }

    fn trim(&mut self) {
        while self.entries.len() > KEEP_COUNT || self.bytes > KEEP_BYTES {
            let Some(first) = self.entries.front().filter(|p| p.zxid < self.applied) else {
                return;
            };
            self.base = first.zxid;
            self.bytes -= first.data.len();
            self.entries.pop_front();
        }
    }

    /// Forgets everything after `zxid`. The log follows later.
    pub(crate) fn truncate(&mut self, zxid: Zxid) {
        while let Some(gone) = self.entries.pop_back_if(|p| p.zxid > zxid) {
            self.bytes -= gone.data.len();
        }
        self.last = zxid;
        self.base = self.base.min(zxid);
        self.applied = self.applied.min(zxid);
        self.flushed = self.flushed.min(zxid);
        self.rewrite = Rewrite::Truncating;
    }

    /// The log was cut, or could not be. Whatever ended up on disk is now all there is.
    pub(crate) fn truncated(&mut self, zxid: Zxid) {
        if zxid != self.last {
            self.clear(zxid);
        }
        self.flushed = self.last;
        self.rewrite = Rewrite::None;
    }

    /// A snapshot took the place of everything.
    pub(crate) fn replace(&mut self, zxid: Zxid, to_disk: bool) {
        self.clear(zxid);
        self.rewrite = if to_disk {
            Rewrite::SavingSnapshot(zxid)
        } else {
            Rewrite::None
        };
    }

    /// What was only in memory is being written: a snapshot of what is in the tree, and the rest as log.
    pub(crate) fn move_to_disk(&mut self) {
        self.flushed = self.applied;
        self.rewrite = Rewrite::SavingSnapshot(self.applied);
    }

    /// What a mutant does to a log that it no longer knows.
    #[cfg(feature = "mutants")]
    pub(crate) fn forget_unflushed(&mut self) {
        if self.rewrite == Rewrite::None {
            let flushed = self.flushed.max(self.applied);
            self.truncate(flushed);
            self.truncated(flushed);
        }
    }

    /// What a mutant keeps of what it was told: a gap.
    #[cfg(feature = "mutants")]
    pub(crate) fn forget_between(&mut self, after: Zxid, up_to: Zxid) {
        self.entries.retain(|p| p.zxid <= after || p.zxid >= up_to);
        self.bytes = self.entries.iter().map(|p| p.data.len()).sum();
    }

    fn clear(&mut self, zxid: Zxid) {
        self.entries.clear();
        self.bytes = 0;
        (self.base, self.last, self.applied, self.flushed) = (zxid, zxid, zxid, zxid);
    }

    /// The snapshot is on disk.
    pub(crate) fn snapshot_saved(&mut self, zxid: Zxid) {
        if self.rewrite == Rewrite::SavingSnapshot(zxid) {
            self.rewrite = Rewrite::None;
        }
    }
}
