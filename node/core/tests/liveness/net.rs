//! Servers without disks and clients, on a network whose connections break as real ones do: late, and for both sides, when
//! one direction does not work. Nothing is left to chance unless a story says so.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use node_core::effect::{Effect, Input, LinkId};
use node_core::peer::{Peer, PeerConfig, Recovered, Timing};
use node_core::proto::election::PeerState;
use node_core::proto::quorum::{Packet, Proposal};
use node_core::quorum::config::QuorumConfig;
use node_core::zxid::{Epoch, ServerId, Time, Zxid};

/// When an election connection that does not work in both directions is found to be broken, at the latest: after a second
/// of probing in vain, or of data that nobody acknowledges, which may begin a second after the fault.
pub(crate) const NOTICED_MS: u64 = 2_000;
/// The same where data is under way.
const UNACKNOWLEDGED_MS: u64 = 1_000;
/// A learner's connection to its leader.
const LEADER_UNACKNOWLEDGED_MS: u64 = 2_000;
/// How long a call to a leader takes that nobody answers.
const DIAL_MS: u64 = 500;

type End = (ServerId, LinkId);

pub(crate) struct Server {
    pub(crate) peer: Option<Peer>,
    timing: Timing,
    /// Since when it is stopped, and what has arrived meanwhile.
    asleep: Option<Vec<Input>>,
    tick_at: u64,
    accepted: u64,
    /// While the disk takes nothing: the end of what waits.
    waiting: Option<Zxid>,
    /// Why it looked for a leader, each time.
    pub(crate) looked: Vec<String>,
    pub(crate) serving: bool,
}

enum What {
    Input(Input),
    /// A message that must get there, and back for the connection to last.
    Message(ServerId, Input),
    Packet(End, LinkId, Packet),
    Tick,
    Wake,
    Dialled(ServerId, LinkId),
}

pub(crate) struct Net {
    pub(crate) now: u64,
    pub(crate) servers: BTreeMap<ServerId, Server>,
    /// Directions in which nothing gets through.
    blocked: BTreeSet<(ServerId, ServerId)>,
    /// Servers whose quorum port nobody gets to.
    pub(crate) closed_ports: BTreeSet<ServerId>,
    links: BTreeMap<End, End>,
    events: BTreeMap<(u64, u64), (ServerId, What)>,
    sequence: u64,
    /// When the last message between two servers arrives.
    arrivals: BTreeMap<(ServerId, ServerId), u64>,
    /// The longest that a message takes.
    pub(crate) delay_ms: u64,
    random: u64,
    config: QuorumConfig,
    established: BTreeMap<Epoch, ServerId>,
}

impl Net {
    /// Servers that run and have a leader: the one with the greatest id.
    pub(crate) fn started(voters: i64) -> Self {
        Self::with(voters, |_| Timing::default())
    }

    pub(crate) fn with(voters: i64, timing: impl Fn(ServerId) -> Timing) -> Self {
        let text: String = (1..=voters)
            .map(|id| format!("server.{id}=s{id}:1:2:participant\n"))
            .collect();
        let mut net = Self {
            now: 0,
            servers: BTreeMap::new(),
            blocked: BTreeSet::new(),
            closed_ports: BTreeSet::new(),
            links: BTreeMap::new(),
            events: BTreeMap::new(),
            sequence: 0,
            arrivals: BTreeMap::new(),
            delay_ms: 1,
            random: 1,
            config: QuorumConfig::parse(&text).unwrap(),
            established: BTreeMap::new(),
        };
        for id in (1..=voters).map(ServerId) {
            net.servers.insert(
                id,
                Server {
                    peer: None,
                    timing: timing(id),
                    asleep: None,
                    tick_at: u64::MAX,
                    accepted: 0,
                    waiting: None,
                    looked: Vec::new(),
                    serving: false,
                },
            );
        }
        net.ids().into_iter().for_each(|id| net.start(id));
        assert!(net.run_until(3_000, |net| net.serving() == voters as usize));
        assert_eq!(net.leader(), Some(ServerId(voters)));
        // Long enough for everybody to know how often the leader pings.
        net.run_for(20_000);
        net.servers.values_mut().for_each(|s| s.looked.clear());
        net
    }

    pub(crate) fn ids(&self) -> Vec<ServerId> {
        self.servers.keys().copied().collect()
    }

    pub(crate) fn seed(&mut self, seed: u64) {
        self.random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    }

    /// Less than `n`.
    pub(crate) fn random(&mut self, n: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random >> 20) % n
    }

    pub(crate) fn start(&mut self, id: ServerId) {
        self.start_with(id, Recovered::default());
    }

    pub(crate) fn start_with(&mut self, id: ServerId, recovered: Recovered) {
        let config = PeerConfig {
            my_id: id,
            config: self.config.clone(),
            timing: self.servers[&id].timing.clone(),
            reconfig_enabled: false,
            observer: false,
            observer_keeps_disk: true,
        };
        let peer = Peer::new(config, recovered, Time(self.now));
        self.servers.get_mut(&id).unwrap().peer = Some(peer);
        self.step(id, Input::Tick);
        for other in self.ids() {
            if other != id && self.is_up(other) && self.both_ways(id, other) {
                self.tell_link(id, other, true, 1);
            }
        }
    }

    fn is_up(&self, id: ServerId) -> bool {
        self.servers[&id].peer.is_some()
    }

    fn both_ways(&self, a: ServerId, b: ServerId) -> bool {
        !self.blocked.contains(&(a, b)) && !self.blocked.contains(&(b, a))
    }

    /// Its connections are reset at once.
    pub(crate) fn kill(&mut self, id: ServerId) {
        let server = self.servers.get_mut(&id).unwrap();
        (server.peer, server.serving, server.asleep) = (None, false, None);
        let ends: Vec<End> = self.links.keys().filter(|e| e.0 == id).copied().collect();
        for end in ends {
            let other = self.links.remove(&end).unwrap();
            self.links.remove(&other);
            if self.both_ways(id, other.0) {
                self.at(1, other.0, What::Input(Input::LinkDown(other.1)));
            }
        }
        for other in self.ids() {
            if self.both_ways(id, other) {
                self.at(
                    1,
                    other,
                    What::Input(Input::ElectionLink {
                        peer: id,
                        up: false,
                    }),
                );
            }
        }
    }

    /// Nothing gets from one to the other any more.
    pub(crate) fn block(&mut self, from: ServerId, to: ServerId) {
        let worked = self.both_ways(from, to);
        self.blocked.insert((from, to));
        if worked {
            self.tell_link(from, to, false, NOTICED_MS);
        }
    }

    pub(crate) fn block_both(&mut self, a: ServerId, b: ServerId) {
        self.block(a, b);
        self.block(b, a);
    }

    fn tell_link(&mut self, a: ServerId, b: ServerId, up: bool, after_ms: u64) {
        self.at(
            after_ms,
            a,
            What::Input(Input::ElectionLink { peer: b, up }),
        );
        self.at(
            after_ms,
            b,
            What::Input(Input::ElectionLink { peer: a, up }),
        );
    }

    /// SIGSTOP.
    pub(crate) fn stop(&mut self, id: ServerId) {
        self.servers
            .get_mut(&id)
            .unwrap()
            .asleep
            .get_or_insert_default();
    }

    /// SIGCONT: its timers fire before it has read what has arrived.
    pub(crate) fn resume(&mut self, id: ServerId) {
        let inbox = self.servers.get_mut(&id).unwrap().asleep.take();
        self.step(id, Input::Tick);
        for input in inbox.unwrap_or_default() {
            self.step(id, input);
        }
    }

    /// SIGSTOP, and SIGCONT after a while.
    pub(crate) fn stop_for(&mut self, id: ServerId, ms: u64) {
        self.stop(id);
        self.at(ms, id, What::Wake);
    }

    fn at(&mut self, after_ms: u64, to: ServerId, what: What) {
        self.sequence += 1;
        self.events
            .insert((self.now + after_ms, self.sequence), (to, what));
    }

    /// Messages between two servers do not overtake each other.
    fn send(&mut self, from: ServerId, to: ServerId, what: What) {
        let delay = 1 + if self.delay_ms > 1 {
            self.random(self.delay_ms)
        } else {
            0
        };
        let at = self.arrivals.get(&(from, to)).copied().unwrap_or(0);
        let at = at.max(self.now + delay);
        self.arrivals.insert((from, to), at);
        self.at(at - self.now, to, what);
    }

    pub(crate) fn run_for(&mut self, ms: u64) {
        self.run_until(self.now + ms, |_| false);
    }

    pub(crate) fn run_until(&mut self, until: u64, done: impl Fn(&Self) -> bool) -> bool {
        while !done(self) {
            match self.events.first_key_value() {
                Some(((at, _), _)) if *at <= until => {}
                _ => {
                    self.now = until;
                    return done(self);
                }
            }
            let ((at, _), (to, what)) = self.events.pop_first().unwrap();
            self.now = at;
            self.happen(to, what);
        }
        true
    }

    fn happen(&mut self, to: ServerId, what: What) {
        match what {
            What::Input(input) => self.arrive(to, input),
            What::Message(from, input) => {
                if !self.blocked.contains(&(from, to)) {
                    self.arrive(to, input);
                }
            }
            What::Packet(end, link, packet) => {
                if self.links.get(&end) == Some(&(to, link)) && !self.blocked.contains(&(end.0, to))
                {
                    self.arrive(to, Input::Packet { link, packet });
                }
            }
            What::Tick => {
                let server = &self.servers[&to];
                if server.tick_at == self.now && server.asleep.is_none() {
                    self.step(to, Input::Tick);
                }
            }
            What::Wake => self.resume(to),
            What::Dialled(leader, link) => self.dialled(to, leader, link),
        }
    }

    /// The disk takes nothing any more, which is known `after_ms`.
    pub(crate) fn block_disk(&mut self, id: ServerId, after_ms: u64) {
        self.servers.get_mut(&id).unwrap().waiting = Some(Zxid::ZERO);
        self.at(after_ms, id, What::Input(Input::DiskBlocked(true)));
    }

    /// It goes on with what waits.
    pub(crate) fn free_disk(&mut self, id: ServerId) {
        let last = self.servers.get_mut(&id).unwrap().waiting.take().unwrap();
        self.step(id, Input::DiskBlocked(false));
        self.step(id, Input::Flushed(last));
    }

    fn arrive(&mut self, to: ServerId, input: Input) {
        match &mut self.servers.get_mut(&to).unwrap().asleep {
            Some(inbox) => inbox.push(input),
            None => self.step(to, input),
        }
    }

    fn dialled(&mut self, from: ServerId, leader: ServerId, link: LinkId) {
        if !self.is_up(leader) {
            return self.arrive(from, Input::LinkDown(link));
        }
        if !self.both_ways(from, leader) || self.closed_ports.contains(&leader) {
            return self.at(DIAL_MS, from, What::Input(Input::LinkDown(link)));
        }
        let server = self.servers.get_mut(&leader).unwrap();
        server.accepted += 1;
        let there = LinkId::accepted(server.accepted);
        self.links.insert((from, link), (leader, there));
        self.links.insert((leader, there), (from, link));
        self.arrive(leader, Input::LinkUp(there));
        self.arrive(from, Input::LinkUp(link));
    }

    pub(crate) fn step(&mut self, id: ServerId, input: Input) {
        let mut inputs = VecDeque::from([input]);
        while let Some(input) = inputs.pop_front() {
            let mut effects = Vec::new();
            let Some(peer) = &mut self.servers.get_mut(&id).unwrap().peer else {
                return;
            };
            peer.step(Time(self.now), input, &mut effects);
            for effect in effects {
                self.execute(id, effect, &mut inputs);
            }
        }
        let server = self.servers.get_mut(&id).unwrap();
        let next = server
            .peer
            .as_ref()
            .map_or(u64::MAX, |p| p.next_deadline().0);
        let at = next.max(self.now + 1);
        if server.tick_at != at {
            server.tick_at = at;
            self.at(at.min(self.now + 100_000) - self.now, id, What::Tick);
        }
    }

    fn execute(&mut self, id: ServerId, effect: Effect, inputs: &mut VecDeque<Input>) {
        match effect {
            Effect::Notify { to, notification } => {
                if !self.both_ways(id, to) && self.is_up(to) {
                    // What is not acknowledged breaks the connection soon.
                    let down = |peer| Input::ElectionLink { peer, up: false };
                    self.at(UNACKNOWLEDGED_MS, id, What::Input(down(to)));
                }
                let input = Input::Notification {
                    from: id,
                    notification,
                };
                self.send(id, to, What::Message(id, input));
            }
            Effect::Dial { leader, link } => self.at(1, id, What::Dialled(leader, link)),
            Effect::CloseLink(link) => {
                if let Some(other) = self.links.remove(&(id, link)) {
                    self.links.remove(&other);
                    let input = Input::LinkDown(other.1);
                    self.send(id, other.0, What::Message(id, input));
                }
            }
            Effect::Send { link, packet } => {
                let Some(other) = self.links.get(&(id, link)).copied() else {
                    return;
                };
                if link.is_dialled() && !self.both_ways(id, other.0) {
                    let input = Input::LinkDown(link);
                    self.at(LEADER_UNACKNOWLEDGED_MS, id, What::Input(input));
                }
                self.send(id, other.0, What::Packet((id, link), other.1, packet));
            }
            Effect::AskTouched { link, zxid } => inputs.push_back(Input::Touched {
                link,
                zxid,
                sessions: Vec::new(),
            }),
            Effect::Append(proposal) => match &mut self.servers.get_mut(&id).unwrap().waiting {
                Some(last) => *last = proposal.zxid,
                None => inputs.push_back(Input::Flushed(proposal.zxid)),
            },
            Effect::Truncate(zxid) => inputs.push_back(Input::Truncated(zxid)),
            Effect::Serve { .. } => self.servers.get_mut(&id).unwrap().serving = true,
            Effect::StopServing => self.servers.get_mut(&id).unwrap().serving = false,
            Effect::RoleChanged(role) => {
                let server = self.servers.get_mut(&id).unwrap();
                if role.leader.is_none() {
                    server.looked.push(role.why);
                } else if role.why == "a quorum has the history" {
                    let first = *self.established.entry(role.epoch).or_insert(id);
                    assert_eq!(first, id, "two leaders of epoch {}", role.epoch);
                }
            }
            Effect::Halt(why) => panic!("{id} halted: {why}"),
            _ => {}
        }
    }

    /// The leader that has the latest epoch.
    pub(crate) fn leader(&self) -> Option<ServerId> {
        let leads = |s: &Server| {
            s.peer
                .as_ref()
                .filter(|p| p.next_zxid().is_some())
                .is_some()
        };
        let leaders = self.servers.iter().filter(|(_, s)| leads(s));
        leaders
            .max_by_key(|(_, s)| s.peer.as_ref().map(Peer::current_epoch))
            .map(|(id, _)| *id)
    }

    pub(crate) fn is_looking(&self, id: ServerId) -> bool {
        let peer = self.servers[&id].peer.as_ref();
        peer.is_some_and(|peer| peer.state() == PeerState::Looking)
    }

    pub(crate) fn serving(&self) -> usize {
        self.servers.values().filter(|s| s.serving).count()
    }

    /// A write on the leader, if there is one.
    pub(crate) fn propose(&mut self) {
        let Some(leader) = self.leader() else { return };
        let peer = self.servers[&leader].peer.as_ref();
        if let Some(zxid) = peer.and_then(Peer::next_zxid) {
            let data = Vec::new().into();
            self.step(leader, Input::Propose(Proposal { zxid, data }));
        }
    }

    /// The end of what any of these has committed.
    pub(crate) fn committed(&self) -> Zxid {
        let peers = self.servers.values().filter_map(|s| s.peer.as_ref());
        peers.map(Peer::last_committed).max().unwrap_or(Zxid::ZERO)
    }

    /// How long it takes until something is committed that was proposed after now, by another leader than `old`.
    pub(crate) fn time_to_write(&mut self, old: ServerId) -> u64 {
        let begin = self.now;
        while self.now < begin + 60_000 {
            self.run_for(5);
            if self.leader().is_some_and(|new| new != old) {
                let before = self.committed();
                self.propose();
                self.run_for(5);
                if self.committed() > before {
                    return self.now - begin;
                }
            }
        }
        self.now - begin
    }

    /// Elections since the servers were started.
    pub(crate) fn elections(&self) -> Vec<(ServerId, String)> {
        let each = |(id, s): (&ServerId, &Server)| {
            let id = *id;
            s.looked
                .iter()
                .map(move |why| (id, why.clone()))
                .collect::<Vec<_>>()
        };
        self.servers.iter().flat_map(each).collect()
    }
}
