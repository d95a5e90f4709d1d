//! Connections between servers: delays, partitions, cuts.

use node_core::effect::{Input, LinkId};
use node_core::proto::election::Notification;
use node_core::zxid::ServerId;

use crate::world::{End, Event, World};

/// More than this server tells another one in its busiest second.
const VOTES_A_SECOND: u32 = 100;

impl World {
    /// Whether messages get from one to the other.
    pub(crate) fn connected(&self, from: ServerId, to: ServerId) -> bool {
        self.is_up(from) && self.is_up(to) && !self.blocked.contains(&(from, to))
    }

    /// Tells servers which election connections came up or broke. A connection needs both directions.
    pub(crate) fn update_election_links(&mut self) {
        for a in self.ids() {
            for b in self.ids() {
                let up = a != b && self.connected(a, b) && self.connected(b, a);
                if !self.is_up(a) || up == self.nodes[&a].told_up.contains(&b) || a == b {
                    continue;
                }
                let node = self.nodes.get_mut(&a).unwrap();
                if up {
                    node.told_up.insert(b);
                } else {
                    node.told_up.remove(&b);
                }
                let life = node.life;
                let at = self.arrival(b, a, false);
                self.schedule(
                    at,
                    Event::Input {
                        node: a,
                        life,
                        input: Input::ElectionLink { peer: b, up },
                    },
                );
            }
        }
    }

    /// The connections for votes between two servers break and are opened again.
    pub(crate) fn cut_election(&mut self, a: ServerId, b: ServerId) {
        for (at, peer) in [(a, b), (b, a)] {
            let node = self.nodes.get_mut(&at).unwrap();
            if node.told_up.remove(&peer) {
                let life = node.life;
                let input = Input::ElectionLink { peer, up: false };
                let event = Event::Input {
                    node: at,
                    life,
                    input,
                };
                self.schedule(self.now + 1, event);
            }
        }
        self.lost_votes
            .extend([((a, b), self.now), ((b, a), self.now)]);
    }

    /// Cuts all quorum connections between two servers.
    pub(crate) fn cut(&mut self, a: ServerId, b: ServerId) {
        let ends: Vec<End> = self
            .ends
            .iter()
            .filter(|(x, y)| (x.0, y.0) == (a, b))
            .map(|(end, _)| *end)
            .collect();
        for end in ends {
            let back = self.ends[&end];
            self.hang_up(back);
            // That one may have been dead before.
            self.ends.remove(&end);
            self.deliver_now(end, Input::LinkDown(end.2));
        }
    }

    /// One end closes: the other one hears of it behind what was sent, unless nothing gets through.
    pub(crate) fn hang_up(&mut self, end: End) {
        if let Some(other) = self.ends.remove(&end) {
            self.ends.remove(&other);
            if !self.blocked.contains(&(end.0, other.0)) {
                let at = self.arrival(end.0, other.0, true);
                self.schedule(
                    at,
                    Event::Input {
                        node: other.0,
                        life: other.1,
                        input: Input::LinkDown(other.2),
                    },
                );
            }
        }
    }

    pub(crate) fn deliver_now(&mut self, end: End, input: Input) {
        let at = self.now + 1;
        self.schedule(
            at,
            Event::Input {
                node: end.0,
                life: end.1,
                input,
            },
        );
    }

    pub(crate) fn arrival(&mut self, from: ServerId, to: ServerId, quorum: bool) -> u64 {
        let delay = match self.steady {
            true => 1,
            false if self.rng.one_in(20) => self.rng.range(5, 60),
            false => self.rng.range(1, 5),
        };
        let slow = self.slow.get(&(from, to)).copied();
        let delay = delay + slow.map_or(0, |ms| self.rng.range(ms / 2, ms + 1));
        let last = self.arrivals.entry((from, to, quorum)).or_default();
        *last = (*last).max(self.now + delay);
        *last
    }

    pub(crate) fn accept(&mut self, from: ServerId, life: u64, to: ServerId, link: LinkId) {
        if !self.lives(from, life) {
            return;
        }
        if !self.connected(from, to) || !self.connected(to, from) {
            return self.tell(from, life, Input::LinkDown(link));
        }
        let node = self.nodes.get_mut(&to).unwrap();
        node.links_accepted += 1;
        let (here, there) = (
            (from, life, link),
            (to, node.life, LinkId::accepted(node.links_accepted)),
        );
        // The first of two leads nowhere from now on.
        if let Some(first) = self.ends.insert(here, there) {
            self.ends.remove(&first);
        }
        self.ends.insert(there, here);
        self.step(to, Input::LinkUp(there.2));
        self.tell(from, life, Input::LinkUp(link));
    }

    /// Now, or when it goes on.
    fn tell(&mut self, node: ServerId, life: u64, input: Input) {
        self.handle(Event::Input { node, life, input });
    }

    /// One server tells another its vote. However an election goes, they do not keep each other busy with that.
    pub(crate) fn vote(&mut self, from: ServerId, to: ServerId, notification: Notification) {
        let (at, sent) = (self.arrival(from, to, false), self.now);
        let count = self.votes_told.entry((from, to)).or_default();
        if count.0 != sent / 1000 {
            *count = (sent / 1000, 0);
        }
        count.1 += 1;
        assert!(count.1 < VOTES_A_SECOND, "{from} floods {to} with votes");
        let node = self.nodes.get(&to).filter(|_| self.connected(from, to));
        let Some(node) = node else {
            return;
        };
        let event = Event::Vote {
            node: to,
            life: node.life,
            sent,
            input: Input::Notification { from, notification },
        };
        self.schedule(at, event);
    }

    /// Who hears nothing through a connection gives it up.
    pub(crate) fn assert_no_dead_connection(&self) {
        let live = |(end, _): &(&End, &End)| self.lives(end.0, end.1);
        for (end, other) in self.ends.iter().filter(live) {
            assert!(
                self.ends.contains_key(other),
                "{} keeps a connection on which it hears nothing of {}",
                end.0,
                other.0
            );
        }
    }

    /// Where a connection leads. A connection that lost something is a dead one.
    pub(crate) fn route(&mut self, end: End) -> Option<End> {
        let other = *self.ends.get(&end)?;
        if self.blocked.contains(&(end.0, other.0)) {
            self.ends.remove(&end);
            return None;
        }
        Some(other)
    }
}
