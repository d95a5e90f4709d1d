//! What makes a quorum (protocol reference §3.7), as pure functions.

use std::collections::BTreeMap;

use crate::zxid::ServerId;

/// Groups of servers and the servers' weights, for quorums of quorums.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hierarchy {
    /// Which group each server is in.
    pub group_of: BTreeMap<ServerId, i64>,
    /// Weights that differ from 1. A server of weight 0 can't lead.
    pub weights: BTreeMap<ServerId, i64>,
}

impl Hierarchy {
    /// The weight of a server.
    #[must_use]
    pub fn weight(&self, id: ServerId) -> i64 {
        self.weights.get(&id).copied().unwrap_or(1)
    }
}

/// Whether more than half of the voters have it.
pub fn majority(voters: impl Iterator<Item = ServerId>, has: impl Fn(ServerId) -> bool) -> bool {
    let (mut all, mut with) = (0usize, 0usize);
    for id in voters {
        all += 1;
        with += usize::from(has(id));
    }
    with > all / 2
}

/// Whether, in more than half of the groups that have any weight, servers with more than half of the weight have it.
pub fn hierarchical(
    hierarchy: &Hierarchy,
    voters: impl Iterator<Item = ServerId>,
    has: impl Fn(ServerId) -> bool,
) -> bool {
    let mut groups: BTreeMap<i64, (i64, i64)> = BTreeMap::new();
    for id in voters {
        let Some(group) = hierarchy.group_of.get(&id) else {
            continue;
        };
        let (all, with) = groups.entry(*group).or_default();
        let weight = hierarchy.weight(id);
        *all += weight;
        if has(id) {
            *with += weight;
        }
    }
    groups.retain(|_, (all, _)| *all > 0);
    let won = groups
        .values()
        .filter(|(all, with)| *with > all / 2)
        .count();
    won > groups.len() / 2
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    /// As the definition says: count members in lists.
    fn naive(members: &[(i64, i64, i64, bool)]) -> bool {
        let names: BTreeSet<i64> = members.iter().map(|m| m.1).collect();
        let sum = |group: i64, all: bool| -> i64 {
            members
                .iter()
                .filter(|m| m.1 == group && (all || m.3))
                .map(|m| m.2)
                .sum()
        };
        let real: Vec<i64> = names.into_iter().filter(|g| sum(*g, true) > 0).collect();
        let won: Vec<&i64> = real
            .iter()
            .filter(|g| sum(**g, false) * 2 > sum(**g, true))
            .collect();
        won.len() * 2 > real.len()
    }

    proptest! {
        #[test]
        fn quorums_of_quorums_agree_with_their_definition(
            members in prop::collection::vec((1i64..4, 0i64..4, any::<bool>()), 1..10)
        ) {
            let members: Vec<_> = members.into_iter().zip(1i64..).map(|((g, w, has), id)| (id, g, w, has)).collect();
            let hierarchy = Hierarchy {
                group_of: members.iter().map(|m| (ServerId(m.0), m.1)).collect(),
                weights: members.iter().map(|m| (ServerId(m.0), m.2)).collect(),
            };
            let has = |id: ServerId| members.iter().any(|m| m.0 == id.0 && m.3);
            let voters = members.iter().map(|m| ServerId(m.0));
            prop_assert_eq!(hierarchical(&hierarchy, voters, has), naive(&members));
        }

        #[test]
        fn two_majorities_have_a_voter_in_common(count in 1i64..9, a: u16, b: u16) {
            let voters = || (0..count).map(ServerId);
            let has = |mask: u16| move |id: ServerId| mask >> id.0 & 1 == 1;
            if majority(voters(), has(a)) && majority(voters(), has(b)) {
                prop_assert!(voters().any(|id| has(a)(id) && has(b)(id)));
            }
        }
    }
}
