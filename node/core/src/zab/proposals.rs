//! Outstanding proposals: who has them, and which may be committed.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use crate::quorum::config::QuorumConfig;
use crate::zxid::{ServerId, Zxid};

/// The configurations in which a proposal needs a quorum: the one at the time, and a newer one that waits to be committed.
pub(crate) type Quorums = (Arc<QuorumConfig>, Option<Arc<QuorumConfig>>);

#[derive(Debug)]
pub(crate) struct Proposals {
    last_proposed: Zxid,
    outstanding: VecDeque<(Zxid, Quorums)>,
    /// Logs are written in order: who has a proposal has all before it.
    acked: BTreeMap<ServerId, Zxid>,
}

impl Proposals {
    /// None yet; the first one comes after `start`.
    pub(crate) fn new(start: Zxid) -> Self {
        Self {
            last_proposed: start,
            outstanding: VecDeque::new(),
            acked: BTreeMap::new(),
        }
    }

    pub(crate) fn last_proposed(&self) -> Zxid {
        self.last_proposed
    }

    pub(crate) fn outstanding(&self) -> usize {
        self.outstanding.len()
    }

    pub(crate) fn propose(&mut self, zxid: Zxid, quorums: Quorums) {
        self.last_proposed = zxid;
        self.outstanding.push_back((zxid, quorums));
    }

    pub(crate) fn ack(&mut self, id: ServerId, zxid: Zxid) {
        let acked = self.acked.entry(id).or_default();
        *acked = zxid.max(*acked);
    }

    /// A server is gone. When it comes back its history may be cut to what is committed, so its acks are void.
    pub(crate) fn forget(&mut self, id: ServerId) {
        if mutant!(GoneFollowersAcks) {
            return;
        }
        self.acked.remove(&id);
    }

    /// Takes the oldest proposal if it may be committed.
    pub(crate) fn take_committable(&mut self) -> Option<Zxid> {
        let (zxid, (config, next)) = self.outstanding.front()?;
        let has = |id: ServerId| self.acked.get(&id).is_some_and(|acked| acked >= zxid);
        if !config.is_quorum(has) || next.as_ref().is_some_and(|c| !c.is_quorum(has)) {
            return None;
        }
        self.outstanding.pop_front().map(|(zxid, _)| zxid)
    }

    /// The voter of `config` that has most, and at least `zxid`: who is to lead when the leader can't.
    pub(crate) fn best_voter(&self, config: &QuorumConfig, zxid: Zxid) -> Option<ServerId> {
        let has = config
            .voters()
            .filter_map(|id| Some((*self.acked.get(&id)?, id)));
        has.filter(|(acked, _)| *acked >= zxid)
            .max()
            .map(|(_, id)| id)
    }
}
