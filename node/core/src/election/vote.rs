//! A vote, and when one is better than another.

use crate::zxid::{Epoch, ServerId, Zxid};

/// Whom a server wants to lead. The greater vote is the better one: the newer history first, then the greater id. The
/// order of the fields is the rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Vote {
    /// The epoch of the candidate's history.
    pub peer_epoch: Epoch,
    /// The end of the candidate's history.
    pub zxid: Zxid,
    /// The candidate.
    pub leader: ServerId,
}

impl Vote {
    /// What is worse than every vote: an observer's own.
    pub const NONE: Self = Self {
        peer_epoch: Epoch(i64::MIN),
        zxid: Zxid(i64::MIN),
        leader: Self::NOBODY,
    };

    /// The candidate of a server that may not be elected itself.
    pub const NOBODY: ServerId = ServerId(i64::MIN);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn epoch_beats_zxid_beats_id() {
        let vote = |e, z, id| Vote {
            peer_epoch: Epoch(e),
            zxid: Zxid(z),
            leader: ServerId(id),
        };
        let sorted = [
            Vote::NONE,
            vote(0, 0, 9),
            vote(1, 0, 1),
            vote(1, 5, 1),
            vote(1, 5, 2),
            vote(2, 0, 1),
        ];
        assert!(sorted.is_sorted());
    }
}
