//! An ensemble in one thread: time, network, disks, crashes. A seed determines everything.

use std::collections::{BTreeMap, BTreeSet};

use bytes::{BufMut, BytesMut};
use node_core::effect::{Effect, Input, LinkId};
use node_core::jute::Jute;
use node_core::peer::{Peer, PeerConfig, Timing};
use node_core::proto::election::PeerState;
use node_core::proto::quorum::{Packet, Proposal};
use node_core::quorum::config::{Member, QuorumConfig};
use node_core::zxid::{ServerId, Time, Zxid};

use crate::checkers::Checkers;
use crate::disk::{Disk, LogOp, Tree, end_of};
use crate::rng::Rng;
use crate::trace::{brief_effect, brief_input};

/// The ensemble that a run begins with.
#[derive(Clone)]
pub(crate) struct Setup {
    pub(crate) voters: i64,
    pub(crate) observers: i64,
    pub(crate) observers_keep_disk: bool,
    pub(crate) reconfig_enabled: bool,
}

pub(crate) struct Node {
    pub(crate) peer: Option<Peer>,
    pub(crate) disk: Disk,
    pub(crate) tree: Tree,
    /// Counts the starts, so that what was meant for an earlier life is dropped.
    life: u64,
    tick_at: u64,
    flushing: bool,
    pub(crate) disk_ms: u64,
    links_accepted: u64,
    received: BTreeMap<LinkId, Tree>,
    told_up: BTreeSet<ServerId>,
    pub(crate) serving: bool,
}

enum Event {
    Input {
        node: ServerId,
        life: u64,
        input: Input,
    },
    Snapshot {
        node: ServerId,
        life: u64,
        link: LinkId,
        zxid: Zxid,
        tree: Tree,
    },
    Tick {
        node: ServerId,
        life: u64,
    },
    Flush {
        node: ServerId,
        life: u64,
    },
    DialArrives {
        from: ServerId,
        life: u64,
        to: ServerId,
        link: LinkId,
    },
}

type End = (ServerId, u64, LinkId);

pub(crate) struct World {
    pub(crate) now: u64,
    pub(crate) rng: Rng,
    pub(crate) nodes: BTreeMap<ServerId, Node>,
    pub(crate) checkers: Checkers,
    pub(crate) setup: Setup,
    config: QuorumConfig,
    events: BTreeMap<(u64, u64), Event>,
    sequence: u64,
    /// The other end of each open quorum connection.
    ends: BTreeMap<End, End>,
    /// When the last message of a channel arrives: channels are FIFO.
    arrivals: BTreeMap<(ServerId, ServerId, bool), u64>,
    /// Directions in which nothing gets through.
    pub(crate) blocked: BTreeSet<(ServerId, ServerId)>,
    pub(crate) trace: Option<String>,
    /// Whether each message takes a millisecond, and each flush.
    pub(crate) steady: bool,
    proposals: u64,
}

pub(crate) const TIMING: Timing = Timing {
    tick_ms: 200,
    init_limit: 10,
    sync_limit: 5,
    finalize_wait_ms: 200,
    resend_min_ms: 200,
    resend_max_ms: 5000,
    dial_pause_ms: 100,
    dial_attempts: 5,
    early_learner_ms: 1000,
    resign_ms: 1000,
};

impl World {
    pub(crate) fn new(seed: u64, setup: Setup) -> Self {
        let line = |id: i64| {
            let role = if id <= setup.voters {
                "participant"
            } else {
                "observer"
            };
            format!("server.{id}=s{id}:1:2:{role}\n")
        };
        let all = setup.voters + setup.observers;
        let text: String = (1..=all).map(line).collect();
        let config = QuorumConfig::parse(&text).unwrap();
        let mut world = Self {
            now: 0,
            rng: Rng::new(seed),
            nodes: BTreeMap::new(),
            checkers: Checkers::default(),
            setup,
            config,
            events: BTreeMap::new(),
            sequence: 0,
            ends: BTreeMap::new(),
            arrivals: BTreeMap::new(),
            blocked: BTreeSet::new(),
            trace: None,
            steady: false,
            proposals: 0,
        };
        for id in (1..=all).map(ServerId) {
            world.nodes.insert(id, Node::new());
        }
        world
    }

    pub(crate) fn ids(&self) -> Vec<ServerId> {
        self.nodes.keys().copied().collect()
    }

    pub(crate) fn is_up(&self, id: ServerId) -> bool {
        self.nodes[&id].peer.is_some()
    }

    pub(crate) fn start(&mut self, id: ServerId) {
        if self.is_up(id) {
            return;
        }
        let now = Time(self.now);
        let node = self.nodes.get_mut(&id).unwrap();
        let config = PeerConfig {
            my_id: id,
            config: node
                .disk
                .config
                .clone()
                .unwrap_or_else(|| self.config.clone()),
            timing: TIMING,
            reconfig_enabled: self.setup.reconfig_enabled,
            observer: false,
            observer_keeps_disk: self.setup.observers_keep_disk,
        };
        if !config.keeps_disk(node.disk.next_config.as_ref()) {
            node.disk.wipe();
        }
        node.tree = node.disk.tree();
        node.peer = Some(Peer::new(config, node.disk.recovered(), now));
        self.note(|| format!("start {id}"));
        self.step(id, Input::Tick);
        self.update_election_links();
    }

    pub(crate) fn crash(&mut self, id: ServerId) {
        if !self.is_up(id) {
            return;
        }
        let node = self.nodes.get_mut(&id).unwrap();
        let written = self.rng.range(0, node.disk.waiting() as u64 + 1) as usize;
        node.disk.crash(written);
        node.peer = None;
        node.life += 1;
        node.flushing = false;
        node.serving = false;
        node.received.clear();
        node.told_up.clear();
        self.note(|| format!("crash {id}"));
        let mine: Vec<End> = self
            .ends
            .keys()
            .filter(|end| end.0 == id)
            .copied()
            .collect();
        for end in mine {
            self.hang_up(end);
        }
        self.update_election_links();
    }

    /// Whether messages get from one to the other.
    fn connected(&self, from: ServerId, to: ServerId) -> bool {
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
            self.deliver_now(end, Input::LinkDown(end.2));
        }
    }

    /// One end closes: the other one hears of it behind what was sent, unless nothing gets through.
    fn hang_up(&mut self, end: End) {
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

    fn deliver_now(&mut self, end: End, input: Input) {
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

    fn arrival(&mut self, from: ServerId, to: ServerId, quorum: bool) -> u64 {
        let delay = match self.steady {
            true => 1,
            false if self.rng.one_in(20) => self.rng.range(5, 60),
            false => self.rng.range(1, 5),
        };
        let last = self.arrivals.entry((from, to, quorum)).or_default();
        *last = (*last).max(self.now + delay);
        *last
    }

    fn schedule(&mut self, at: u64, event: Event) {
        self.sequence += 1;
        self.events.insert((at, self.sequence), event);
    }

    /// Runs until `until`, or until `done`.
    pub(crate) fn run_until(&mut self, until: u64, done: impl Fn(&Self) -> bool) -> bool {
        while !done(self) {
            match self.events.first_key_value() {
                Some(((at, _), _)) if *at <= until => {}
                _ => {
                    self.now = until;
                    return done(self);
                }
            }
            let ((at, _), event) = self.events.pop_first().unwrap();
            self.now = at;
            self.handle(event);
        }
        true
    }

    pub(crate) fn run_for(&mut self, ms: u64) {
        self.run_until(self.now + ms, |_| false);
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Input { node, life, input } => {
                if self.lives(node, life) {
                    self.step(node, input);
                }
            }
            Event::Snapshot {
                node,
                life,
                link,
                zxid,
                tree,
            } => {
                if self.lives(node, life) {
                    self.step(
                        node,
                        Input::Packet {
                            link,
                            packet: Packet::Snap(zxid),
                        },
                    );
                    self.nodes
                        .get_mut(&node)
                        .unwrap()
                        .received
                        .insert(link, tree);
                    self.step(node, Input::SnapshotReceived { link, zxid });
                }
            }
            Event::Tick { node, life } => {
                if self.lives(node, life) && self.nodes[&node].tick_at == self.now {
                    self.step(node, Input::Tick);
                }
            }
            Event::Flush { node, life } => {
                if self.lives(node, life) {
                    let disk = self.nodes.get_mut(&node).unwrap();
                    disk.flushing = false;
                    for report in disk.disk.flush_all() {
                        self.report(node, report);
                    }
                }
            }
            Event::DialArrives {
                from,
                life,
                to,
                link,
            } => self.accept(from, life, to, link),
        }
    }

    fn lives(&self, id: ServerId, life: u64) -> bool {
        let node = &self.nodes[&id];
        node.life == life && node.peer.is_some()
    }

    /// The log's writer is done with something.
    fn report(&mut self, id: ServerId, report: Input) {
        if let Input::Truncated(zxid) = report {
            let node = self.nodes.get_mut(&id).unwrap();
            if end_of(&node.tree) > zxid {
                node.tree = node.disk.tree();
            }
        }
        self.step(id, report);
    }

    fn accept(&mut self, from: ServerId, life: u64, to: ServerId, link: LinkId) {
        if !self.lives(from, life) {
            return;
        }
        if !self.connected(from, to) || !self.connected(to, from) {
            return self.step(from, Input::LinkDown(link));
        }
        let node = self.nodes.get_mut(&to).unwrap();
        node.links_accepted += 1;
        let (here, there) = (
            (from, life, link),
            (to, node.life, LinkId::accepted(node.links_accepted)),
        );
        self.ends.insert(here, there);
        self.ends.insert(there, here);
        self.step(to, Input::LinkUp(there.2));
        self.step(from, Input::LinkUp(link));
    }

    pub(crate) fn step(&mut self, id: ServerId, input: Input) {
        let now = self.now;
        self.note(|| format!("{now:>6} {id} < {}", brief_input(&input)));
        let node = self.nodes.get_mut(&id).unwrap();
        let Some(peer) = &mut node.peer else { return };
        let mut effects = Vec::new();
        peer.step(Time(now), input, &mut effects);
        let deadline = peer.next_deadline().0;
        let life = node.life;
        for effect in effects {
            self.note(|| format!("{now:>6} {id}   > {}", brief_effect(&effect)));
            self.execute(id, life, effect);
        }
        let at = deadline.max(now + 1);
        self.nodes.get_mut(&id).unwrap().tick_at = at;
        self.schedule(at, Event::Tick { node: id, life });
    }

    fn execute(&mut self, id: ServerId, life: u64, effect: Effect) {
        match effect {
            Effect::Notify { to, notification } => {
                let at = self.arrival(id, to, false);
                if let Some(node) = self.nodes.get(&to)
                    && self.connected(id, to)
                {
                    let input = Input::Notification {
                        from: id,
                        notification,
                    };
                    self.schedule(
                        at,
                        Event::Input {
                            node: to,
                            life: node.life,
                            input,
                        },
                    );
                }
            }
            Effect::Dial { leader, link } => {
                let at = self.arrival(id, leader, true);
                self.schedule(
                    at,
                    Event::DialArrives {
                        from: id,
                        life,
                        to: leader,
                        link,
                    },
                );
            }
            Effect::CloseLink(link) => self.hang_up((id, life, link)),
            Effect::Send { link, packet } => {
                if let Some(other) = self.route((id, life, link)) {
                    let at = self.arrival(id, other.0, true);
                    let input = Input::Packet {
                        link: other.2,
                        packet,
                    };
                    self.schedule(
                        at,
                        Event::Input {
                            node: other.0,
                            life: other.1,
                            input,
                        },
                    );
                }
            }
            Effect::SendSnapshot { link, zxid } => {
                let tree = self.nodes[&id].tree.clone();
                assert_eq!(end_of(&tree), zxid, "{id} sends a snapshot");
                if let Some(other) = self.route((id, life, link)) {
                    let at = self.arrival(id, other.0, true);
                    let (node, life, link) = other;
                    self.schedule(
                        at,
                        Event::Snapshot {
                            node,
                            life,
                            link,
                            zxid,
                            tree,
                        },
                    );
                }
            }
            other => self.execute_locally(id, life, other),
        }
    }

    /// Where a connection leads. A connection that lost something is a dead one.
    fn route(&mut self, end: End) -> Option<End> {
        let other = *self.ends.get(&end)?;
        if self.blocked.contains(&(end.0, other.0)) {
            self.ends.remove(&end);
            return None;
        }
        Some(other)
    }

    fn execute_locally(&mut self, id: ServerId, life: u64, effect: Effect) {
        let node = self.nodes.get_mut(&id).unwrap();
        match effect {
            Effect::InstallSnapshot { link, .. } => {
                node.tree = node.received.remove(&link).unwrap()
            }
            Effect::SaveSnapshot(zxid) => {
                let op = LogOp::SaveSnapshot(zxid, node.tree.clone());
                self.hand_to_disk(id, op);
            }
            Effect::Append(proposal) => self.hand_to_disk(id, LogOp::Append(proposal)),
            Effect::Truncate(zxid) if node.disk.is_used() => {
                self.hand_to_disk(id, LogOp::Truncate(zxid))
            }
            Effect::Truncate(_) => {
                node.tree.clear();
                self.deliver_now(
                    (id, life, LinkId::accepted(0)),
                    Input::Truncated(Zxid::ZERO),
                );
            }
            Effect::SaveAcceptedEpoch(epoch) => node.disk.accepted_epoch = epoch,
            Effect::SaveCurrentEpoch(epoch) => node.disk.current_epoch = epoch,
            Effect::SaveConfig(config) => {
                node.disk.config = Some((*config).clone());
                node.disk.next_config = None;
            }
            Effect::ForgetNextConfig => node.disk.next_config = None,
            Effect::SaveNextConfig(config) => node.disk.next_config = Some((*config).clone()),
            Effect::Commit(proposal) => {
                let leads = node
                    .peer
                    .as_ref()
                    .is_some_and(|p| p.state() == PeerState::Leading);
                if leads && !node.serving {
                    // A new leader's own history becomes committed, also what its tree has had since its start.
                    self.checkers.serves(id, &node.tree);
                }
                self.checkers.applied(id, node.tree.len(), &proposal);
                node.tree.push(proposal);
            }
            Effect::Serving(serving) => {
                node.serving = serving;
                let peer = node.peer.as_ref().unwrap();
                if serving && peer.state() == PeerState::Leading {
                    self.checkers
                        .leader_established(id, peer.current_epoch(), &node.tree);
                } else if serving {
                    self.checkers.serves(id, &node.tree);
                }
            }
            Effect::AskTouched { link, zxid } => {
                let input = Input::Touched {
                    link,
                    zxid,
                    sessions: Vec::new(),
                };
                self.deliver_now((id, life, link), input);
            }
            Effect::Halt(why) => panic!("server {id} halted: {why}"),
            Effect::RoleChanged(_) | Effect::LearnerTouched { .. } => {}
            other => panic!("{other:?} was not expected"),
        }
    }

    fn hand_to_disk(&mut self, id: ServerId, op: LogOp) {
        let node = self.nodes.get_mut(&id).unwrap();
        node.disk.push(op);
        if !node.flushing && !node.disk.is_idle() {
            node.flushing = true;
            let life = node.life;
            let at = self.now
                + if self.steady {
                    1
                } else {
                    self.rng.range(1, node.disk_ms)
                };
            self.schedule(at, Event::Flush { node: id, life });
        }
    }

    /// A client writes to the server, if that leads.
    pub(crate) fn propose(&mut self, id: ServerId) {
        let Some(zxid) = self.nodes[&id].peer.as_ref().and_then(Peer::next_zxid) else {
            return;
        };
        self.proposals += 1;
        let proposal = transaction(zxid, 5, &self.proposals.to_be_bytes());
        self.step(id, Input::Propose(proposal));
    }

    /// A client changes the ensemble: `change` gets its servers. As the leader's request checks do, this refuses what
    /// would have no quorum, or comes while another change is under way.
    pub(crate) fn reconfigure(
        &mut self,
        change: impl FnOnce(&mut BTreeMap<ServerId, Member>),
    ) -> bool {
        let Some(leader) = self.leader() else {
            return false;
        };
        let peer = self.nodes[&leader].peer.as_ref().unwrap();
        let zxid = peer.next_zxid().unwrap();
        let mut members = peer
            .config()
            .members()
            .map(|(id, m)| (id, m.clone()))
            .collect();
        change(&mut members);
        let config = QuorumConfig::new(members, zxid);
        let followers: BTreeSet<ServerId> = peer
            .active_learners()
            .filter(|(_, observer)| !observer)
            .map(|(id, _)| id)
            .collect();
        let pending = peer.last_seen_config().version != peer.config().version;
        if pending
            || config.voters().count() < 2
            || !config.is_quorum(|id| id == leader || followers.contains(&id))
        {
            return false;
        }
        let mut body = BytesMut::new();
        String::from("/zookeeper/config").write(&mut body);
        config.to_string().write(&mut body);
        body.put_i32(-1);
        self.step(leader, Input::Propose(transaction(zxid, 16, &body)));
        true
    }

    pub(crate) fn leader(&self) -> Option<ServerId> {
        let leads = |node: &Node| node.peer.as_ref().is_some_and(|p| p.next_zxid().is_some());
        self.nodes
            .iter()
            .filter(|(_, node)| leads(node))
            .max_by_key(|(_, n)| n.disk.current_epoch)
            .map(|(id, _)| *id)
    }

    /// Whether every server serves and has all that was committed.
    pub(crate) fn is_healthy(&self) -> bool {
        self.leader().is_some()
            && self
                .nodes
                .values()
                .all(|n| n.serving && n.tree.len() == self.checkers.committed.len())
    }

    pub(crate) fn note(&mut self, line: impl FnOnce() -> String) {
        if let Some(trace) = &mut self.trace {
            trace.push_str(&line());
            trace.push('\n');
        }
    }
}

impl Node {
    fn new() -> Self {
        Self {
            peer: None,
            disk: Disk::default(),
            tree: Tree::new(),
            life: 0,
            tick_at: 0,
            flushing: false,
            disk_ms: 8,
            links_accepted: 0,
            received: BTreeMap::new(),
            told_up: BTreeSet::new(),
            serving: false,
        }
    }
}

/// A transaction: a header (session, xid, zxid, time, type) and a body.
pub(crate) fn transaction(zxid: Zxid, kind: i32, body: &[u8]) -> Proposal {
    let mut data = BytesMut::new();
    data.put_i64(0);
    data.put_i32(0);
    data.put_i64(zxid.0);
    data.put_i64(0);
    data.put_i32(kind);
    data.put_slice(body);
    Proposal {
        zxid,
        data: data.freeze(),
    }
}
