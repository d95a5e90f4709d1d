//! What must hold in every run. The names are those of the TLA+ specification of the protocol.

use std::collections::BTreeMap;

use node_core::proto::quorum::Proposal;
use node_core::zxid::{Epoch, ServerId};

use crate::disk::Tree;

#[derive(Default)]
pub(crate) struct Checkers {
    /// All that was ever committed, in order.
    pub(crate) committed: Vec<Proposal>,
    leaders: BTreeMap<Epoch, ServerId>,
}

impl Checkers {
    /// Leadership: an epoch has one established leader. Completeness: it has everything that was committed in earlier
    /// epochs. (One that was slow may be established when a later one already is; it can't commit anything.)
    pub(crate) fn leader_established(&mut self, id: ServerId, epoch: Epoch, tree: &Tree) {
        let leader = *self.leaders.entry(epoch).or_insert(id);
        assert_eq!(leader, id, "two leaders of epoch {epoch}");
        let earlier = self
            .committed
            .iter()
            .filter(|p| p.zxid.epoch() < epoch)
            .count();
        assert!(
            tree.len() >= earlier,
            "leader {id} of epoch {epoch} lacks {:?}",
            &self.committed[tree.len()..]
        );
        self.serves(id, tree);
    }

    /// Prefix consistency: what a server serves is a beginning of what was committed. A leader's own history counts.
    pub(crate) fn serves(&mut self, id: ServerId, tree: &Tree) {
        for (index, proposal) in tree.iter().enumerate() {
            self.applied(id, index, proposal);
        }
    }

    /// Agreement and total order: everybody applies the same at the same place.
    pub(crate) fn applied(&mut self, id: ServerId, index: usize, proposal: &Proposal) {
        match self.committed.get(index) {
            Some(committed) => assert!(
                committed == proposal,
                "{id} applied {proposal:?} at place {index} where {committed:?} was committed"
            ),
            None => {
                assert_eq!(
                    index,
                    self.committed.len(),
                    "{id} applied {proposal:?} too early"
                );
                if let Some(last) = self.committed.last() {
                    assert!(
                        proposal.zxid.follows(last.zxid),
                        "{id}: {proposal:?} after {last:?}"
                    );
                }
                self.committed.push(proposal.clone());
            }
        }
    }
}
