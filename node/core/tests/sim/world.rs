//! An ensemble in one thread: time, network, disks, crashes. A seed determines everything.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use node_core::effect::{Input, LinkId};
use node_core::member::{Member, MemberSettings};
use node_core::peer::{Peer, PeerConfig, Timing};
use node_core::prep::PrepSettings;
use node_core::proto::code::ErrorCode;
use node_core::proto::quorum::{ForwardedRequest, Packet, Proposal};
use node_core::proto::txn::{Txn, TxnEntry};
use node_core::quorum::config::{Member as Entry, QuorumConfig};
use node_core::session::SessionIds;
use node_core::watch::ConnectionId;
use node_core::zxid::{ServerId, SessionId, Time, Zxid};

use crate::checkers::Checkers;
use crate::client::{Client, Mood};
use crate::counts::Counts;
use crate::disk::Image;
use crate::node::Node;
use crate::recorder::Recorder;
use crate::rng::Rng;
use crate::service::{Connection, ToClient, ToServer};

/// The ensemble that a run begins with.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    pub(crate) voters: i64,
    pub(crate) observers: i64,
    pub(crate) observers_keep_disk: bool,
    pub(crate) reconfig_enabled: bool,
    pub(crate) clients: usize,
    /// Transactions that a start hands to the peer: with few, learners often need a snapshot.
    pub(crate) recent: usize,
    /// Transactions after which a server takes a snapshot.
    pub(crate) snapshot_every: u64,
}

pub(crate) enum Event {
    Input {
        node: ServerId,
        life: u64,
        input: Input,
    },
    /// As an input, unless its connection broke on the way.
    Vote {
        node: ServerId,
        life: u64,
        sent: u64,
        input: Input,
    },
    Snapshot {
        node: ServerId,
        life: u64,
        link: LinkId,
        image: Image,
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
    /// Work that was put off is due.
    Perform {
        node: ServerId,
        life: u64,
    },
    /// A snapshot goes on.
    Chunk {
        node: ServerId,
        life: u64,
    },
    ToServer {
        id: ConnectionId,
        message: ToServer,
    },
    ToClient {
        client: usize,
        id: ConnectionId,
        message: ToClient,
    },
    /// A server looks at what a client has sent.
    Serve {
        id: ConnectionId,
    },
    Wake {
        client: usize,
    },
    /// A server that stood still goes on.
    Resume {
        node: ServerId,
        life: u64,
    },
}

pub(crate) type End = (ServerId, u64, LinkId);

pub(crate) struct World {
    pub(crate) now: u64,
    pub(crate) rng: Rng,
    pub(crate) nodes: BTreeMap<ServerId, Node>,
    pub(crate) checkers: Checkers,
    pub(crate) setup: Setup,
    pub(crate) config: QuorumConfig,
    /// What is to happen when, in the order in which it was scheduled.
    events: BTreeMap<u64, VecDeque<Event>>,
    /// The other end of each open quorum connection.
    pub(crate) ends: BTreeMap<End, End>,
    /// When the last message of a channel arrives: channels are FIFO.
    pub(crate) arrivals: BTreeMap<(ServerId, ServerId, bool), u64>,
    /// Directions in which nothing gets through.
    pub(crate) blocked: BTreeSet<(ServerId, ServerId)>,
    /// Directions in which everything takes up to so many milliseconds more.
    pub(crate) slow: BTreeMap<(ServerId, ServerId), u64>,
    /// How many votes one told another in which second.
    pub(crate) votes_told: BTreeMap<(ServerId, ServerId), (u64, u32)>,
    /// Votes that were sent before this are lost.
    pub(crate) lost_votes: BTreeMap<(ServerId, ServerId), u64>,
    /// A server that clients like to come to until some time.
    pub(crate) lure: Option<(ServerId, u64)>,
    /// Whether connections arrive twice now and then.
    pub(crate) duplicates: bool,
    /// What clients did and saw.
    pub(crate) recorder: Recorder,
    pub(crate) trace: Option<String>,
    /// Whether each message takes a millisecond, and each flush.
    pub(crate) steady: bool,
    proposals: u64,
    pub(crate) clients: Vec<Client>,
    pub(crate) connections: BTreeMap<ConnectionId, Connection>,
    pub(crate) connection_count: u64,
    pub(crate) mood: Mood,
    /// The newest write whose client knows that it is done.
    pub(crate) acknowledged: Zxid,
    /// Sessions whose clients know that they are no more.
    pub(crate) ended: Vec<SessionId>,
    pub(crate) counts: Counts,
    /// What servers have sent to a leader for their clients.
    pub(crate) forwarded: BTreeSet<(ServerId, SessionId, i32, Bytes)>,
    pub(crate) last_forwarded: Option<ForwardedRequest>,
}

pub(crate) const TIMING: Timing = Timing {
    tick_ms: 200,
    init_limit: 10,
    sync_limit: 5,
    ping_ms: 100,
    silence_min_ms: 450,
    finalize_wait_ms: 200,
    give_up_ms: 250,
    avoid_ms: 1500,
    resend_min_ms: 200,
    resend_max_ms: 5000,
    ask_max_ms: 1000,
    dial_pause_ms: 100,
    dial_attempts: 5,
    connect_ms: 1000,
    discovery_ms: 1000,
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
            checkers: Checkers::new(),
            setup,
            config,
            events: BTreeMap::new(),
            ends: BTreeMap::new(),
            arrivals: BTreeMap::new(),
            blocked: BTreeSet::new(),
            slow: BTreeMap::new(),
            votes_told: BTreeMap::new(),
            lost_votes: BTreeMap::new(),
            lure: None,
            duplicates: false,
            recorder: Recorder::default(),
            trace: None,
            steady: false,
            proposals: 0,
            clients: Vec::new(),
            connections: BTreeMap::new(),
            connection_count: 0,
            mood: Mood::Wild,
            acknowledged: Zxid::ZERO,
            ended: Vec::new(),
            counts: Counts::default(),
            forwarded: BTreeSet::new(),
            last_forwarded: None,
        };
        for id in (1..=all).map(ServerId) {
            world.nodes.insert(id, Node::new(id.0 * 137 % 500));
        }
        for client in 0..world.setup.clients {
            world.clients.push(Client::new(client % 2 == 1));
            world.schedule(100, Event::Wake { client });
        }
        world
    }

    pub(crate) fn ids(&self) -> Vec<ServerId> {
        self.nodes.keys().copied().collect()
    }

    pub(crate) fn is_up(&self, id: ServerId) -> bool {
        self.nodes[&id].member.is_some()
    }

    pub(crate) fn start(&mut self, id: ServerId) {
        if self.is_up(id) || self.nodes[&id].disk_fails {
            return;
        }
        let now = Time(self.nodes[&id].clock.local(self.now));
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
        let keeps_disk = config.keeps_disk(node.disk.next_config.as_ref());
        let others = node.disk.config.as_ref().unwrap_or(&self.config);
        let others = others.voters().any(|voter| voter != id);
        let started = match keeps_disk {
            true => node.disk.start(self.setup.recent, others),
            false => Ok(node.disk.start_without()),
        };
        let (tree, recovered) = match started {
            Ok(started) => started,
            Err(error) => panic!("{id} does not start: {error}"),
        };
        node.tree = tree;
        if !keeps_disk {
            self.checkers.has_forgotten(id);
        }
        let applied = node.tree.replica.last_zxid();
        assert_eq!(applied, recovered.last_zxid);
        self.checkers.log_ends(id, applied);
        self.checkers.is_durable(id, applied);
        let ids = SessionIds::new(id, (self.now * 1000 + node.life % 1000) as i64);
        let settings = settings(self.setup.reconfig_enabled);
        let peer = Peer::new(config, recovered, now);
        node.member = Some(Member::new(settings, peer, ids, applied));
        self.note(|| format!("start {id}"));
        self.step(id, Input::Tick);
        self.update_election_links();
    }

    /// The power of a server fails.
    pub(crate) fn crash(&mut self, id: ServerId) {
        self.stop(id, true);
    }

    /// A server is gone: with its power, or the process alone.
    pub(crate) fn stop(&mut self, id: ServerId, power: bool) {
        if !self.is_up(id) {
            return;
        }
        let tears = power && self.rng.one_in(2) && self.can_spare(id);
        let node = self.nodes.get_mut(&id).unwrap();
        match power {
            true => node.disk.crash(&mut self.rng, tears),
            false => node.disk.kill(),
        }
        let life = node.life;
        node.stop();
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
        let clients = self.connections.iter();
        let clients: Vec<ConnectionId> = clients
            .filter(|(_, c)| (c.node, c.life) == (id, life))
            .map(|(id, _)| *id)
            .collect();
        for client in clients {
            self.send_to_client(client, ToClient::Closed);
        }
        self.update_election_links();
    }

    /// The peer of a server that runs.
    pub(crate) fn peer(&self, id: ServerId) -> &Peer {
        self.nodes[&id].member.as_ref().unwrap().peer()
    }

    pub(crate) fn schedule(&mut self, at: u64, event: Event) {
        self.events.entry(at).or_default().push_back(event);
    }

    /// The next thing that happens, if it is not after `until`.
    fn next_event(&mut self, until: u64) -> Option<Event> {
        let mut first = self.events.first_entry().filter(|e| *e.key() <= until)?;
        self.now = *first.key();
        let event = first.get_mut().pop_front();
        if first.get().is_empty() {
            first.remove();
        }
        event
    }

    /// Runs until `until`, or until `done`.
    pub(crate) fn run_until(&mut self, until: u64, done: impl Fn(&Self) -> bool) -> bool {
        while !done(self) {
            let Some(event) = self.next_event(until) else {
                self.now = until;
                return done(self);
            };
            self.handle(event);
        }
        true
    }

    pub(crate) fn run_for(&mut self, ms: u64) {
        self.run_until(self.now + ms, |_| false);
    }

    /// Which server an event needs.
    fn concerns(&self, event: &Event) -> Option<ServerId> {
        match event {
            Event::Input { node, .. }
            | Event::Vote { node, .. }
            | Event::Snapshot { node, .. }
            | Event::Tick { node, .. }
            | Event::Flush { node, .. }
            | Event::Perform { node, .. }
            | Event::Chunk { node, .. } => Some(*node),
            Event::DialArrives { to, .. } => Some(*to),
            Event::ToServer { id, .. } | Event::Serve { id } => {
                self.connections.get(id).map(|connection| connection.node)
            }
            Event::ToClient { .. } | Event::Wake { .. } | Event::Resume { .. } => None,
        }
    }

    pub(crate) fn handle(&mut self, event: Event) {
        let stopped = self.concerns(&event).and_then(|id| {
            let node = self.nodes.get_mut(&id)?;
            node.is_paused.then_some(node)
        });
        match stopped {
            Some(node) => node.deferred.push_back(event),
            None => self.carry_out(event),
        }
    }

    /// A server stands still, and then goes on with all that has come meanwhile.
    pub(crate) fn pause(&mut self, id: ServerId, ms: u64) {
        let node = self.nodes.get_mut(&id).unwrap();
        if node.member.is_none() || node.is_paused {
            return;
        }
        node.is_paused = true;
        let life = node.life;
        self.note(|| format!("pause {id} for {ms} ms"));
        self.schedule(self.now + ms, Event::Resume { node: id, life });
    }

    fn resume(&mut self, id: ServerId, life: u64) {
        if !self.lives(id, life) || !self.nodes[&id].is_paused {
            return;
        }
        self.note(|| format!("resume {id}"));
        let node = self.nodes.get_mut(&id).unwrap();
        node.is_paused = false;
        // Whether it looks at the clock first or reads what has arrived: both happen.
        let reads_first = self.now % 2 == 1;
        if !reads_first {
            self.tick_now(id, life);
        }
        while self.lives(id, life)
            && let Some(event) = self.nodes.get_mut(&id).unwrap().deferred.pop_front()
        {
            self.carry_out(event);
        }
        if reads_first && self.lives(id, life) {
            self.tick_now(id, life);
        }
    }

    fn tick_now(&mut self, id: ServerId, life: u64) {
        self.nodes.get_mut(&id).unwrap().tick_at = self.now;
        self.carry_out(Event::Tick { node: id, life });
    }

    /// Every configuration that a server has in force or has seen.
    pub(crate) fn configs(&self) -> impl Iterator<Item = &QuorumConfig> {
        let disks = self.nodes.values().map(|node| &node.disk);
        let saved = disks.flat_map(|disk| disk.config.iter().chain(&disk.next_config));
        saved.chain([&self.config])
    }

    /// A server that stands still goes on now.
    pub(crate) fn go_on(&mut self, id: ServerId) {
        let node = &self.nodes[&id];
        if node.is_paused {
            self.resume(id, node.life);
        }
    }

    /// What each server does, for a message.
    pub(crate) fn condition(&self) -> String {
        let committed = self.checkers.zxids.len();
        let mut text = format!("{committed} committed;");
        for (id, node) in &self.nodes {
            let Some(member) = &node.member else {
                text.push_str(&format!(" {id} is down;"));
                continue;
            };
            let (peer, has) = (member.peer(), node.tree.history.len());
            let (state, leader) = (peer.state(), peer.leader());
            let serves = if node.serving {
                "serves"
            } else {
                "does not serve"
            };
            text.push_str(&format!(
                " {id} {state:?} (leader {leader:?}) has {has} and {serves};"
            ));
        }
        text
    }

    fn carry_out(&mut self, event: Event) {
        match event {
            Event::Input { node, life, input } => {
                if self.lives(node, life) {
                    self.step(node, input);
                }
            }
            Event::Vote {
                node,
                life,
                sent,
                input,
            } => {
                let Input::Notification { from, .. } = &input else {
                    return;
                };
                let lost = self.lost_votes.get(&(*from, node));
                if self.lives(node, life) && lost.is_none_or(|lost| *lost < sent) {
                    self.step(node, input);
                }
            }
            Event::Snapshot {
                node,
                life,
                link,
                image,
            } => {
                if self.lives(node, life) {
                    self.snapshot_arrives(node, link, image);
                }
            }
            Event::Tick { node, life } => {
                if self.lives(node, life) && self.nodes[&node].tick_at == self.now {
                    self.step(node, Input::Tick);
                }
            }
            Event::Flush { node, life } => {
                if self.lives(node, life) {
                    self.flush(node);
                }
            }
            Event::DialArrives {
                from,
                life,
                to,
                link,
            } => self.accept(from, life, to, link),
            Event::Perform { node, life } => {
                if self.lives(node, life) {
                    self.perform(node);
                }
            }
            Event::Chunk { node, life } => {
                if self.lives(node, life) {
                    self.chunk(node, life);
                }
            }
            Event::ToServer { id, message } => self.server_hears(id, message),
            Event::ToClient {
                client,
                id,
                message,
            } => self.client_hears(client, id, message),
            Event::Serve { id } => self.serve(id),
            Event::Wake { client } => self.wake(client),
            Event::Resume { node, life } => self.resume(node, life),
        }
    }

    fn snapshot_arrives(&mut self, id: ServerId, link: LinkId, image: Image) {
        let zxid = image.zxid;
        let packet = Packet::Snap(zxid);
        self.step(id, Input::Packet { link, packet });
        let node = self.nodes.get_mut(&id).unwrap();
        node.received.insert(link, image);
        self.step(id, Input::SnapshotReceived { link, zxid });
    }

    pub(crate) fn lives(&self, id: ServerId, life: u64) -> bool {
        let node = &self.nodes[&id];
        node.life == life && node.member.is_some()
    }

    /// Something without meaning goes through the logs, if the server leads.
    pub(crate) fn propose(&mut self, id: ServerId) {
        let node = &self.nodes[&id];
        let awake = node.member.as_ref().filter(|_| !node.is_paused);
        let Some(zxid) = awake.and_then(|m| m.peer().next_zxid()) else {
            return;
        };
        self.proposals += 1;
        let code = ErrorCode::NO_NODE.0;
        let proposal = transaction(zxid, self.proposals as i32, Txn::Error { code });
        self.step(id, Input::Propose(proposal));
    }

    /// A client changes the ensemble: `change` gets its servers. As the leader's request checks do, this refuses what
    /// would have no quorum, or comes while another change is under way.
    pub(crate) fn reconfigure(
        &mut self,
        change: impl FnOnce(&mut BTreeMap<ServerId, Entry>),
    ) -> bool {
        let Some(leader) = self.leader().filter(|id| !self.nodes[id].is_paused) else {
            return false;
        };
        let peer = self.peer(leader);
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
        let txn = Txn::Reconfig {
            path: "/zookeeper/config".into(),
            data: Some(Bytes::from(config.to_string())),
            version: -1,
        };
        self.step(leader, Input::Propose(transaction(zxid, 0, txn)));
        true
    }

    pub(crate) fn leader(&self) -> Option<ServerId> {
        let leads = |node: &Node| {
            let member = node.member.as_ref();
            member.is_some_and(|m| m.peer().next_zxid().is_some())
        };
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
                .all(|n| n.serving && n.tree.history.len() == self.checkers.zxids.len())
    }

    /// Whether each server knows the sessions of the clients, and no others.
    pub(crate) fn only_live_sessions(&self) -> bool {
        let live: BTreeSet<SessionId> = self.clients.iter().filter_map(|c| c.session).collect();
        let mut sessions = self.nodes.values().map(|n| n.tree.replica.sessions());
        sessions.all(|sessions| sessions.keys().eq(&live))
    }

    pub(crate) fn note(&mut self, line: impl FnOnce() -> String) {
        if let Some(trace) = &mut self.trace {
            trace.push_str(&line());
            trace.push('\n');
        }
    }
}

fn settings(reconfig_enabled: bool) -> MemberSettings {
    MemberSettings {
        prep: PrepSettings {
            skip_acl: false,
            extended_types: false,
            enforce_quota: false,
        },
        tick_ms: TIMING.tick_ms,
        min_session_timeout_ms: 400,
        max_session_timeout_ms: 4000,
        container_interval_ms: 60_000,
        container_never_used_ms: 0,
        reconfig_enabled,
        min_voters: 2,
    }
}

/// A transaction of the server itself.
fn transaction(zxid: Zxid, cxid: i32, txn: Txn) -> Proposal {
    let data = TxnEntry::new(SessionId(0), cxid, zxid, 0, txn).encode();
    Proposal { zxid, data }
}
