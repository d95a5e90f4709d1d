//! An ensemble in one thread: time, network, disks, crashes. A seed determines everything.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use node_core::effect::{Input, LinkId};
use node_core::member::{Member, MemberSettings};
use node_core::peer::{Peer, PeerConfig, Timing};
use node_core::prep::PrepSettings;
use node_core::proto::code::ErrorCode;
use node_core::proto::quorum::{Packet, Proposal};
use node_core::proto::txn::{Txn, TxnEntry, TxnHeader};
use node_core::quorum::config::{Member as Entry, QuorumConfig};
use node_core::session::SessionIds;
use node_core::watch::ConnectionId;
use node_core::zxid::{ServerId, SessionId, Time, Zxid};

use crate::checkers::Checkers;
use crate::client::{Client, Counts, Mood};
use crate::disk::Image;
use crate::node::Node;
use crate::rng::Rng;
use crate::service::{Connection, ToClient, ToServer};

/// The ensemble that a run begins with.
#[derive(Clone)]
pub(crate) struct Setup {
    pub(crate) voters: i64,
    pub(crate) observers: i64,
    pub(crate) observers_keep_disk: bool,
    pub(crate) reconfig_enabled: bool,
    pub(crate) clients: usize,
}

pub(crate) enum Event {
    Input {
        node: ServerId,
        life: u64,
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
}

pub(crate) type End = (ServerId, u64, LinkId);

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
    pub(crate) ends: BTreeMap<End, End>,
    /// When the last message of a channel arrives: channels are FIFO.
    pub(crate) arrivals: BTreeMap<(ServerId, ServerId, bool), u64>,
    /// Directions in which nothing gets through.
    pub(crate) blocked: BTreeSet<(ServerId, ServerId)>,
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
            sequence: 0,
            ends: BTreeMap::new(),
            arrivals: BTreeMap::new(),
            blocked: BTreeSet::new(),
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
        node.tree = node.disk.tree(&mut self.rng);
        let recovered = node.disk.recovered();
        let applied = node.tree.replica.last_zxid();
        assert_eq!(applied, recovered.last_zxid);
        let ids = SessionIds::new(id, (self.now * 1000 + node.life % 1000) as i64);
        let settings = settings(self.setup.reconfig_enabled);
        let peer = Peer::new(config, recovered, now);
        node.member = Some(Member::new(settings, peer, ids, applied));
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
        let member = self.nodes[&id].member.as_ref();
        let Some(zxid) = member.and_then(|m| m.peer().next_zxid()) else {
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
        let Some(leader) = self.leader() else {
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
    let header = TxnHeader {
        session: SessionId(0),
        cxid,
        zxid,
        time: 0,
        op: txn.op() as i32,
    };
    let digest = None;
    let data = TxnEntry {
        header,
        txn,
        digest,
    }
    .encode();
    Proposal { zxid, data }
}
