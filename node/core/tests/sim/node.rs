//! One server: its member, what it has in memory and on disk, and how what its member asks for is carried out.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use node::storage::StorageError;
use node_core::effect::{Effect, Input, LinkId, RoleInfo};
use node_core::member::work::{self, Work};
use node_core::member::{Action, Clock, Event as MemberEvent, Member, Output};
use node_core::proto::data::SessionTimeout;
use node_core::proto::election::PeerState;
use node_core::proto::quorum::Packet;
use node_core::tree::SnapshotId;
use node_core::watch::WatchTable;
use node_core::zxid::{Epoch, ServerId, Time, Zxid};

use crate::disk::{Disk, Image, LogOp, Tree};
use crate::service::Outbox;
use crate::trace::{brief_effect, brief_input, brief_work};
use crate::world::{End, Event, World};

/// When a disk counts as stuck. Less than in a real server, so that it happens often.
const STUCK_MS: u64 = 1_000;

/// A clock that runs at its own rate and never goes back.
#[derive(Clone, Copy)]
pub(crate) struct LocalClock {
    real: u64,
    local: u64,
    per_mille: u64,
}

impl LocalClock {
    /// The server's time at a true time.
    pub(crate) fn local(&self, now: u64) -> u64 {
        self.local + (now - self.real) * self.per_mille / 1000
    }

    /// The first true time at which it shows `local`.
    fn real(&self, local: u64) -> u64 {
        self.real + (local.saturating_sub(self.local) * 1000).div_ceil(self.per_mille)
    }

    pub(crate) fn change_rate(&mut self, now: u64, per_mille: u64) {
        *self = Self {
            real: now,
            local: self.local(now),
            per_mille,
        };
    }
}

pub(crate) struct Node {
    pub(crate) member: Option<Member>,
    pub(crate) disk: Disk,
    pub(crate) tree: Tree,
    pub(crate) watches: WatchTable,
    /// What the member has put off.
    pub(crate) work: Vec<Work>,
    /// Counts the starts, so that what was meant for an earlier life is dropped.
    pub(crate) life: u64,
    pub(crate) tick_at: u64,
    pub(crate) flushing: bool,
    /// How much the flush that runs is for.
    batch: usize,
    pub(crate) disk_ms: u64,
    /// What it does now takes so long that the server knows.
    is_stuck: bool,
    pub(crate) links_accepted: u64,
    pub(crate) received: BTreeMap<LinkId, Image>,
    /// Snapshots being taken.
    pub(crate) snapshots: Vec<Snapshot>,
    pub(crate) appended: u64,
    pub(crate) told_up: BTreeSet<ServerId>,
    /// Whether clients are served.
    pub(crate) serving: bool,
    /// How far its wall clock is from the others'.
    pub(crate) skew_ms: i64,
    pub(crate) clock: LocalClock,
    /// It stands still; what comes meanwhile waits.
    pub(crate) is_paused: bool,
    pub(crate) deferred: VecDeque<Event>,
    /// The next flush fails, and so does every start.
    pub(crate) disk_fails: bool,
    /// It leads an established epoch.
    pub(crate) leads: bool,
}

/// A snapshot that is being taken while the tree changes.
pub(crate) struct Snapshot {
    id: SnapshotId,
    image: Image,
    bytes: Vec<u8>,
    /// For a learner; what is sent after it waits. Else for the own disk.
    link: Option<(LinkId, Vec<Packet>)>,
}

impl Node {
    pub(crate) fn new(skew_ms: i64) -> Self {
        Self {
            member: None,
            disk: Disk::default(),
            tree: Tree::new(),
            watches: WatchTable::new(),
            work: Vec::new(),
            life: 0,
            tick_at: 0,
            flushing: false,
            batch: 0,
            disk_ms: 8,
            is_stuck: false,
            links_accepted: 0,
            received: BTreeMap::new(),
            snapshots: Vec::new(),
            appended: 0,
            told_up: BTreeSet::new(),
            serving: false,
            skew_ms,
            clock: LocalClock {
                real: 0,
                local: 0,
                per_mille: 1000,
            },
            is_paused: false,
            deferred: VecDeque::new(),
            disk_fails: false,
            leads: false,
        }
    }

    /// The process is gone.
    pub(crate) fn stop(&mut self) {
        self.member = None;
        self.life += 1;
        self.tick_at = 0;
        self.flushing = false;
        self.is_stuck = false;
        self.serving = false;
        self.watches = WatchTable::new();
        self.work.clear();
        self.received.clear();
        self.snapshots.clear();
        self.told_up.clear();
        self.is_paused = false;
        self.deferred.clear();
        self.leads = false;
    }

    /// Another tree takes the place of the old one; snapshots of that end.
    fn replace_tree(&mut self, tree: Tree) {
        self.tree = tree;
        self.snapshots.clear();
    }
}

impl World {
    /// Gives an input to a server, after what a real one would tell its member before it.
    pub(crate) fn step(&mut self, id: ServerId, input: Input) {
        let now = self.now;
        let hears = matches!(
            input,
            Input::Tick
                | Input::Packet {
                    packet: Packet::Ping { .. },
                    ..
                }
        );
        if hears {
            let sessions = self.hear_clients(id);
            if !sessions.is_empty() {
                self.member_event(id, MemberEvent::Touched(sessions));
            }
        }
        self.note(|| format!("{now:>6} {id} < {}", brief_input(&input)));
        self.member_event(id, MemberEvent::Peer(input));
    }

    pub(crate) fn member_event(&mut self, id: ServerId, event: MemberEvent) {
        let mut next = Some(event);
        while let Some(event) = next.take() {
            let now = self.now;
            let node = self.nodes.get_mut(&id).unwrap();
            let Some(member) = &mut node.member else {
                return;
            };
            let clock = Clock {
                now: Time(node.clock.local(now)),
                wall_ms: 1_000_000 + now as i64 + node.skew_ms,
            };
            let mut out = Output::default();
            member.step(clock, event, &node.tree.replica, &mut out);
            let life = node.life;
            for action in out.actions {
                if !self.lives(id, life) {
                    return;
                }
                match action {
                    Action::Work(work) => {
                        self.note(|| format!("{now:>6} {id}   > {}", brief_work(&work)));
                        if let Work::Apply { entry, .. } = &work
                            && self.nodes[&id].leads
                        {
                            let zxid = entry.header.zxid;
                            let excused = self.excused(zxid.epoch());
                            self.checkers.leader_commits(id, zxid, &excused);
                        }
                        self.nodes.get_mut(&id).unwrap().work.push(work);
                    }
                    Action::Effect(effect) => {
                        if effect.needs_settled_replica() {
                            self.perform(id);
                        }
                        self.note(|| format!("{now:>6} {id}   > {}", brief_effect(&effect)));
                        self.execute(id, life, effect);
                    }
                }
            }
            if !self.lives(id, life) {
                return;
            }
            if out.settle {
                self.perform(id);
                next = Some(MemberEvent::Settled);
            }
        }
        self.after_step(id);
    }

    fn after_step(&mut self, id: ServerId) {
        let now = self.now;
        let node = self.nodes.get_mut(&id).unwrap();
        let Some(member) = &node.member else { return };
        let deadline = member.next_deadline().0.min(u64::MAX / 2000);
        let (at, life) = (node.clock.real(deadline).max(now + 1), node.life);
        if node.tick_at != at {
            node.tick_at = at;
            self.schedule(at, Event::Tick { node: id, life });
        }
        let node = &self.nodes[&id];
        if node.work.is_empty() {
        } else if !self.steady && self.rng.one_in(3) {
            let at = now + self.rng.range(0, 4);
            self.schedule(at, Event::Perform { node: id, life });
        } else {
            self.perform(id);
        }
        let node = &self.nodes[&id];
        let is_due = node.appended >= self.setup.snapshot_every && node.disk.is_used();
        if is_due && node.snapshots.is_empty() && node.member_is_serving() {
            self.nodes.get_mut(&id).unwrap().appended = 0;
            self.begin_snapshot(id, None);
        }
    }

    /// Does what was put off.
    pub(crate) fn perform(&mut self, id: ServerId) {
        let Self {
            nodes,
            connections,
            checkers,
            ..
        } = self;
        let node = nodes.get_mut(&id).unwrap();
        let mut outbox = Outbox::new(id, node.life, connections);
        for work in std::mem::take(&mut node.work) {
            if let Work::Apply { entry, .. } = &work {
                checkers.applies(id, &node.tree, entry);
                node.tree.history.push(entry.header.zxid);
            }
            let is_apply = matches!(work, Work::Apply { .. });
            if matches!(work, Work::Serve) {
                checkers.serves(id, &node.tree);
            }
            work::perform(work, &mut node.tree.replica, &mut node.watches, &mut outbox);
            if is_apply {
                checkers.tree_is_right(id, &node.tree);
            }
        }
        let served = node.serving;
        let sent = outbox.finish(&mut node.serving);
        let serves_again = node.serving && !served;
        self.send_to_clients(sent);
        if serves_again {
            self.serve_all(id);
        }
    }

    fn execute(&mut self, id: ServerId, life: u64, effect: Effect) {
        match effect {
            Effect::Notify { to, notification } => self.vote(id, to, notification),
            Effect::Dial { leader, link } => {
                let at = self.arrival(id, leader, true);
                let times = if self.duplicates && self.rng.one_in(2) {
                    2
                } else {
                    1
                };
                for time in 0..times {
                    let (from, to) = (id, leader);
                    let event = Event::DialArrives {
                        from,
                        life,
                        to,
                        link,
                    };
                    self.schedule(at + time * 3, event);
                }
            }
            Effect::CloseLink(link) => {
                let node = self.nodes.get_mut(&id).unwrap();
                node.snapshots
                    .retain(|s| s.link.as_ref().is_none_or(|(to, _)| *to != link));
                self.hang_up((id, life, link));
            }
            Effect::Send {
                link,
                packet:
                    packet @ Packet::AckEpoch {
                        current_epoch: Some(_),
                        ..
                    },
            } => {
                let peer = self.peer(id);
                let epoch = peer.accepted_epoch();
                // Nobody counts on what others promise.
                if peer.state() == PeerState::Following {
                    self.checkers.promises(id, epoch);
                }
                self.send_packet((id, life, link), packet);
            }
            Effect::Send { link, packet } => self.send_packet((id, life, link), packet),
            Effect::SendSnapshot { link, zxid } => {
                let last = self.nodes[&id].tree.replica.last_zxid();
                assert_eq!(last, zxid, "{id} sends a snapshot");
                self.begin_snapshot(id, Some(link));
            }
            other => self.execute_locally(id, life, other),
        }
    }

    fn send_packet(&mut self, end: End, packet: Packet) {
        if let Packet::Request(request) = &packet {
            self.last_forwarded = Some(request.clone());
            let request = (end.0, request.session, request.xid, request.body.clone());
            self.counts.resent += u64::from(!self.forwarded.insert(request));
        }
        let node = self.nodes.get_mut(&end.0).unwrap();
        for snapshot in &mut node.snapshots {
            if let Some((link, behind)) = &mut snapshot.link
                && *link == end.2
            {
                behind.push(packet);
                return;
            }
        }
        if let Some((node, life, link)) = self.route(end) {
            let at = self.arrival(end.0, node, true);
            let input = Input::Packet { link, packet };
            self.schedule(at, Event::Input { node, life, input });
        }
    }

    fn begin_snapshot(&mut self, id: ServerId, link: Option<LinkId>) {
        let node = self.nodes.get_mut(&id).unwrap();
        let image = Image {
            zxid: node.tree.replica.last_zxid(),
            digest: node.tree.replica.tree().digest(),
            bytes: [].into(),
            history: node.tree.history.clone().into(),
        };
        node.snapshots.push(Snapshot {
            id: node.tree.replica.begin_snapshot(),
            image,
            bytes: Vec::new(),
            link: link.map(|link| (link, Vec::new())),
        });
        let (node, life, at) = (id, node.life, self.now);
        self.schedule(at, Event::Chunk { node, life });
    }

    /// Goes on with the oldest snapshot.
    pub(crate) fn chunk(&mut self, id: ServerId, life: u64) {
        let at = self.now + if self.steady { 0 } else { self.rng.range(0, 3) };
        let nodes_max = self.rng.range(1, 20) as usize;
        let node = self.nodes.get_mut(&id).unwrap();
        let Some(snapshot) = node.snapshots.first_mut() else {
            return;
        };
        let replica = &mut node.tree.replica;
        let done = replica.snapshot_chunk(snapshot.id, nodes_max, &mut snapshot.bytes);
        if done {
            replica.end_snapshot(snapshot.id);
            let Snapshot {
                mut image,
                bytes,
                link,
                ..
            } = node.snapshots.remove(0);
            image.bytes = bytes.into();
            match link {
                None => self.hand_to_disk(id, LogOp::Snapshot(image)),
                Some((link, behind)) => self.snapshot_is_out((id, life, link), image, behind),
            }
        }
        if !self.nodes[&id].snapshots.is_empty() {
            self.schedule(at, Event::Chunk { node: id, life });
        }
    }

    fn snapshot_is_out(&mut self, end: End, image: Image, behind: Vec<Packet>) {
        if let Some((node, life, link)) = self.route(end) {
            let at = self.arrival(end.0, node, true);
            let event = Event::Snapshot {
                node,
                life,
                link,
                image,
            };
            self.schedule(at, event);
        }
        for packet in behind {
            self.send_packet(end, packet);
        }
    }

    fn execute_locally(&mut self, id: ServerId, life: u64, effect: Effect) {
        let node = self.nodes.get_mut(&id).unwrap();
        match effect {
            Effect::InstallSnapshot { link, zxid } => {
                self.checkers.log_ends(id, zxid);
                let image = node.received.remove(&link).unwrap();
                assert_eq!(image.zxid, zxid);
                node.replace_tree(image.restore(&mut self.rng));
            }
            Effect::SaveSnapshot(zxid) => {
                self.checkers.log_ends(id, zxid);
                let image = node.tree.image();
                assert_eq!(image.zxid, zxid, "{id} saves a snapshot");
                self.hand_to_disk(id, LogOp::SaveSnapshot(image));
            }
            Effect::Append(proposal) => {
                node.appended += 1;
                self.checkers.logged(id, &proposal);
                if node.leads {
                    // As of this effect: in the same step a reconfiguration may follow.
                    let config = node.disk.config.as_ref().unwrap_or(&self.config);
                    let next = node.disk.next_config.as_ref().unwrap_or(config);
                    self.checkers.proposed(proposal.zxid, config, next);
                }
                self.hand_to_disk(id, LogOp::Append(proposal));
            }
            Effect::Truncate(zxid) if node.disk.is_used() => {
                self.checkers.log_ends(id, zxid);
                self.hand_to_disk(id, LogOp::Truncate(zxid))
            }
            Effect::Truncate(_) => {
                node.replace_tree(Tree::new());
                let input = Input::Truncated(Zxid::ZERO);
                self.deliver_now((id, life, LinkId::accepted(0)), input);
            }
            Effect::SaveAcceptedEpoch(epoch) => {
                let saved = node.disk.save_accepted(epoch);
                self.must_be_saved(id, saved);
            }
            Effect::SaveCurrentEpoch(epoch) => {
                self.checkers.saves_epoch(id, epoch);
                let saved = node.disk.save_current(epoch);
                self.must_be_saved(id, saved);
            }
            Effect::HistoryWhole => {
                let saved = node.disk.trust();
                self.must_be_saved(id, saved);
            }
            Effect::NotVoting(_) => {}
            Effect::SaveConfig(config) => {
                node.disk.config = Some((*config).clone());
                node.disk.next_config = None;
            }
            Effect::ForgetNextConfig => node.disk.next_config = None,
            Effect::SaveNextConfig(config) => node.disk.next_config = Some((*config).clone()),
            Effect::RoleChanged(role) => self.role_changed(id, &role),
            Effect::Halt(why) => panic!("server {id} halted: {why}"),
            other => panic!("{other:?} was not expected"),
        }
    }

    fn role_changed(&mut self, id: ServerId, role: &RoleInfo) {
        self.checkers.role_changed(id, role);
        let node = self.nodes.get_mut(&id).unwrap();
        node.leads = role.state == PeerState::Leading && role.why == "a quorum has the history";
        if !node.leads {
            return;
        }
        let applied = node.work.iter().filter_map(|work| match work {
            Work::Apply { entry, .. } => Some(entry.header.zxid),
            _ => None,
        });
        let history = node.tree.history.iter().copied().chain(applied);
        let history: Vec<Zxid> = history.collect();
        let excused = self.excused(role.epoch);
        let (peer, last) = (self.peer(id), history.last().copied());
        let configs = [&**peer.config(), &**peer.last_seen_config()];
        let last = last.unwrap_or_default();
        self.checkers
            .begins_with_quorum(id, configs, last, &excused);
        self.checkers.leader_established(id, role.epoch, &history);
    }

    pub(crate) fn hand_to_disk(&mut self, id: ServerId, op: LogOp) {
        let node = self.nodes.get_mut(&id).unwrap();
        node.disk.push(op);
        self.begin_flush(id);
    }

    /// The disk begins with what waits now; what comes meanwhile is for the next time.
    fn begin_flush(&mut self, id: ServerId) {
        let node = self.nodes.get_mut(&id).unwrap();
        if node.flushing || node.disk.is_idle() || node.member.is_none() {
            return;
        }
        node.flushing = true;
        node.batch = node.disk.waiting();
        let (life, most) = (node.life, node.disk_ms);
        let ms = if self.steady {
            1
        } else {
            self.rng.range(1, most)
        };
        if ms > STUCK_MS {
            node.is_stuck = true;
            let input = Input::DiskBlocked(true);
            let node = id;
            self.schedule(self.now + STUCK_MS, Event::Input { node, life, input });
        }
        self.schedule(self.now + ms, Event::Flush { node: id, life });
    }

    fn is_durable(&mut self, id: ServerId, report: &Input) {
        if let Input::Flushed(zxid) | Input::Truncated(zxid) | Input::SnapshotSaved(zxid) = report {
            self.checkers.is_durable(id, *zxid);
        }
    }

    /// Servers of which it cannot be said what they had on disk when they acknowledged something of an epoch: their disks
    /// were spoilt since, or a later leader has changed them.
    fn excused(&self, epoch: Epoch) -> BTreeSet<ServerId> {
        let later = |node: &Node| {
            let member = node.member.as_ref();
            member.is_some_and(|m| m.peer().accepted_epoch() > epoch)
        };
        let nodes = self.nodes.iter();
        nodes
            .filter(|(_, node)| node.disk.is_spoilt || later(node))
            .map(|(id, _)| *id)
            .collect()
    }

    /// The disk writes what waits.
    pub(crate) fn flush(&mut self, id: ServerId) {
        let node = self.nodes.get_mut(&id).unwrap();
        node.flushing = false;
        let was_stuck = std::mem::take(&mut node.is_stuck);
        match node.disk.flush(node.batch) {
            Ok(reports) => {
                if was_stuck {
                    self.step(id, Input::DiskBlocked(false));
                }
                for report in reports {
                    self.is_durable(id, &report);
                    self.report(id, report);
                }
                self.begin_flush(id);
            }
            failed => self.must_be_saved(id, failed.map(|_| ())),
        }
    }

    /// After a failed write nobody knows what is on the disk: the process ends.
    fn must_be_saved(&mut self, id: ServerId, result: Result<(), StorageError>) {
        if let Err(error) = result {
            assert!(self.nodes[&id].disk_fails, "{id}: {error}");
            self.crash(id);
        }
    }

    /// The log's writer is done with something.
    pub(crate) fn report(&mut self, id: ServerId, report: Input) {
        if let Input::Truncated(zxid) = report {
            self.checkers.log_ends(id, zxid);
            self.perform(id);
            let node = self.nodes.get_mut(&id).unwrap();
            let stays = std::mem::take(&mut node.disk.stays);
            let is_beyond = node.tree.replica.last_zxid() > zxid;
            if (is_beyond || stays) && !tree_stays() {
                let tree = node.disk.reload().expect("it was read before");
                node.replace_tree(tree);
            }
        }
        self.step(id, report);
    }

    fn hear_clients(&mut self, id: ServerId) -> Vec<SessionTimeout> {
        let life = self.nodes[&id].life;
        let heard = self.connections.values_mut().filter_map(|connection| {
            let is_ours = (connection.node, connection.life) == (id, life);
            let session = connection.session.filter(|_| is_ours)?;
            std::mem::take(&mut connection.touched).then_some(session)
        });
        heard.collect()
    }
}

impl Node {
    fn member_is_serving(&self) -> bool {
        self.member.as_ref().is_some_and(|m| m.peer().is_serving())
    }
}

/// Whether the shell has the bug of keeping the tree when the log is cut.
fn tree_stays() -> bool {
    #[cfg(feature = "mutants")]
    return node_core::mutant::is(node_core::mutant::Mutant::Zk2845);
    #[cfg(not(feature = "mutants"))]
    return false;
}
