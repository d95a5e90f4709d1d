//! The loop that owns the member: what has happened goes in, what is to be done is carried out in order.
//!
//! Work on the replica is put off until a whole batch of messages has been looked at, and then done under one lock.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, anyhow};
use node_core::effect::{Effect, Input, LinkId, RoleInfo};
use node_core::member::work::{self, Clients, Work};
use node_core::member::{Action, ClientWrite, Clock, Event, Member, Output};
use node_core::proto::client::ConnectRequest;
use node_core::proto::data::SessionTimeout;
use node_core::proto::election::PeerState;
use node_core::proto::quorum::{Packet, Proposal};
use node_core::quorum::config::QuorumConfig;
use node_core::replica::Replica;
use node_core::tree::Restored;
use node_core::watch::ConnectionId;
use node_core::zxid::{ServerId, SessionId, Time, Zxid};
use tokio::sync::mpsc;

use crate::clients::LocalClients;
use crate::config::dynamic;
use crate::disk::{Disk, Outcome, Written};
use crate::limits;
use crate::net::Report;
use crate::net::election::ElectionCommand;
use crate::net::outbox::Connection;
use crate::net::quorum::{self, Link};
use crate::patience;
use crate::shared::Shared;
use crate::storage::StorageError;
use crate::storage::log_writer::{DiskState, LogEvent};

/// Messages that are looked at before the work that came out of them is performed.
const BATCH: usize = 512;

/// Something that has happened.
#[derive(Debug)]
pub enum Message {
    /// To the peer, as it is.
    Peer(Input),
    /// A quorum connection is open.
    LinkUp(LinkId, Arc<Link>),
    /// Packets have arrived, in this order.
    Packets(LinkId, Vec<Packet>),
    /// The snapshot after a SNAP packet has arrived.
    SnapshotReceived {
        /// The connection.
        link: LinkId,
        /// The packet's zxid.
        zxid: Zxid,
        /// The tree.
        restored: Box<Restored>,
    },
    /// A client's handshake.
    Connect(Arc<Connection>, ConnectRequest),
    /// Requests of one client, in this order.
    Writes(Vec<ClientWrite>),
    /// A client's connection has ended.
    Closed(ConnectionId),
    /// The log thread has done something.
    Log(LogEvent),
    /// A snapshot was written.
    SnapshotWritten {
        /// Whether it is to take the place of everything.
        to_install: bool,
        /// How it went.
        result: Result<Written, StorageError>,
    },
    /// It is time to remove old files.
    Purge,
    /// The process is to stop.
    Stop,
}

/// What the driver owns besides the member.
pub struct Driver {
    /// The protocol.
    pub member: Member,
    /// The replica and whoever else reads it.
    pub shared: Arc<Shared>,
    /// `None` for an observer that keeps nothing, until it becomes a voter.
    pub disk: Option<Disk>,
    /// To the election port; `None` for a standalone server.
    pub election: Option<mpsc::UnboundedSender<ElectionCommand>>,
    /// How the tasks reach this driver.
    pub report: Report,
    /// When the clock began.
    pub started: Instant,
    /// How long a dial may take.
    pub dial_timeout: Duration,
    /// How long a leader may take to hand over.
    pub stop_timeout: Duration,
}

/// The loop's own state.
struct Running {
    driver: Driver,
    links: BTreeMap<LinkId, Arc<Link>>,
    /// Links that have something to send.
    awake: Vec<LinkId>,
    received: BTreeMap<LinkId, Box<Restored>>,
    clients: LocalClients,
    work: Vec<Work>,
    last_leader: Option<ServerId>,
    /// When it was told last which clients were active.
    clients_heard: Instant,
    stopping: Option<Instant>,
    proposal_sizes: Option<(usize, usize, usize)>,
}

impl Driver {
    /// Runs until the process is told to stop, or must end because of an error.
    pub async fn run(self, mut messages: mpsc::UnboundedReceiver<Message>) -> anyhow::Result<()> {
        let clients = LocalClients::new(self.shared.clone());
        let mut running = Running {
            driver: self,
            links: BTreeMap::new(),
            awake: Vec::new(),
            received: BTreeMap::new(),
            clients,
            work: Vec::new(),
            last_leader: None,
            clients_heard: Instant::now(),
            stopping: None,
            proposal_sizes: None,
        };
        let mut batch = Vec::with_capacity(BATCH);
        running.input(Input::Tick)?;
        running.finish_batch()?;
        loop {
            let deadline = running.deadline();
            tokio::select! {
                _ = messages.recv_many(&mut batch, BATCH) => {
                    for message in batch.drain(..) {
                        running.message(message)?;
                    }
                }
                () = tokio::time::sleep_until(deadline.into()) => {
                    // What has arrived is looked at before anybody is judged by his silence.
                    for message in std::iter::from_fn(|| messages.try_recv().ok()).take(BATCH) {
                        running.message(message)?;
                    }
                    running.hear_clients_if_due()?;
                    running.input(Input::Tick)?;
                }
            }
            running.finish_batch()?;
            if running.is_stopped() {
                running
                    .driver
                    .shared
                    .serving
                    .store(false, Ordering::Release);
                running.clients.close_all();
                if let Some(disk) = running.driver.disk.take() {
                    disk.stop();
                }
                return Ok(());
            }
        }
    }
}

impl Running {
    fn clock(&self) -> Clock {
        let now =
            Time(u64::try_from(self.driver.started.elapsed().as_millis()).unwrap_or(u64::MAX));
        let wall = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_millis());
        Clock {
            now,
            wall_ms: i64::try_from(wall).unwrap_or(i64::MAX),
        }
    }

    fn deadline(&self) -> Instant {
        let due = self.driver.started + Duration::from_millis(self.driver.member.next_deadline().0);
        let due = due.min(Instant::now() + Duration::from_secs(60));
        let disk = self.driver.disk.as_ref().and_then(Disk::look_again_at);
        disk.into_iter()
            .chain(self.stopping)
            .fold(due, Instant::min)
    }

    fn message(&mut self, message: Message) -> anyhow::Result<()> {
        match message {
            Message::Peer(Input::LinkDown(link)) => {
                self.links.remove(&link);
                self.received.remove(&link);
                self.input(Input::LinkDown(link))
            }
            Message::Peer(input) => self.input(input),
            Message::LinkUp(id, link) => {
                self.links.insert(id, link);
                self.input(Input::LinkUp(id))
            }
            Message::Packets(link, packets) => {
                for packet in packets {
                    if matches!(packet, Packet::Ping { .. }) {
                        self.hear_clients_if_due()?;
                    }
                    self.input(Input::Packet { link, packet })?;
                }
                Ok(())
            }
            Message::SnapshotReceived {
                link,
                zxid,
                restored,
            } => {
                self.received.insert(link, restored);
                self.input(Input::SnapshotReceived { link, zxid })
            }
            Message::Connect(connection, request) => {
                self.clients.opened(connection.id);
                self.event(Event::Connect(connection.id, request))
            }
            Message::Writes(writes) => {
                let now = Instant::now();
                for write in writes {
                    self.clients.arrived(&write, now);
                    self.event(Event::Write(write))?;
                }
                Ok(())
            }
            Message::Closed(connection) => {
                self.clients.closed(connection);
                self.event(Event::Closed(connection))
            }
            Message::Log(event) => self.log_event(event),
            Message::SnapshotWritten { to_install, result } => {
                let disk = self
                    .driver
                    .disk
                    .as_mut()
                    .context("a snapshot was written without a disk")?;
                disk.snapshot_written(to_install, result)
                    .context("a snapshot that must be saved could not be")
            }
            Message::Purge => {
                if let Some(disk) = &self.driver.disk {
                    disk.purge();
                }
                Ok(())
            }
            Message::Stop => {
                self.stopping = Some(Instant::now() + self.driver.stop_timeout);
                tracing::info!("stopping: no more connections are accepted");
                self.input(Input::Resign)
            }
        }
    }

    fn is_stopped(&self) -> bool {
        let has_left = self.driver.member.peer().state() != PeerState::Leading;
        self.stopping
            .is_some_and(|until| has_left || Instant::now() >= until)
    }

    fn log_event(&mut self, event: LogEvent) -> anyhow::Result<()> {
        if matches!(event, LogEvent::Truncated(_)) {
            self.perform();
        }
        let disk = self
            .driver
            .disk
            .as_mut()
            .context("the log reports without a disk")?;
        match disk.log_event(event)? {
            Outcome::Flushed(zxid) => self.input(Input::Flushed(zxid)),
            Outcome::Truncated(zxid) => self.input(Input::Truncated(zxid)),
            Outcome::SnapshotSaved(zxid) => self.input(Input::SnapshotSaved(zxid)),
            Outcome::Nothing => Ok(()),
        }
    }

    fn input(&mut self, input: Input) -> anyhow::Result<()> {
        self.event(Event::Peer(input))
    }

    fn event(&mut self, event: Event) -> anyhow::Result<()> {
        let clock = self.clock();
        let mut out = Output::default();
        self.driver
            .member
            .step(clock, event, &self.driver.shared.replica.read(), &mut out);
        for action in out.actions {
            match action {
                // A server that is alone shows no configuration, as Apache's doesn't.
                Action::Work(Work::SetConfig { .. })
                    if self.driver.shared.config.quorum.is_none() => {}
                Action::Work(work) => self.work.push(work),
                Action::Effect(effect) => {
                    if effect.needs_settled_replica() {
                        self.perform();
                    }
                    self.effect(effect)?;
                }
            }
        }
        if out.settle {
            self.perform();
            return self.event(Event::Settled);
        }
        Ok(())
    }

    /// The leader hears its clients before each tick, because that may end their sessions. What others report needs no more
    /// than half a tick's precision, and the leader asks much more often.
    fn hear_clients_if_due(&mut self) -> anyhow::Result<()> {
        let tick_ms = self.driver.shared.config.sessions.tick_time_ms;
        let half_tick = Duration::from_millis(u64::from(tick_ms) / 2);
        let leads = self.driver.member.peer().state() == PeerState::Leading;
        if !leads && self.clients_heard.elapsed() < half_tick {
            return Ok(());
        }
        self.clients_heard = Instant::now();
        self.hear_clients()
    }

    /// Tells the member which sessions were active.
    fn hear_clients(&mut self) -> anyhow::Result<()> {
        let mut sessions = Vec::new();
        for connection in self.driver.shared.connections.lock().values() {
            let session = connection.session.load(Ordering::Relaxed);
            if session != 0 && connection.touched.swap(false, Ordering::Relaxed) {
                let timeout_ms = connection.timeout_ms.load(Ordering::Relaxed);
                sessions.push(SessionTimeout {
                    session: SessionId(session),
                    timeout_ms,
                });
            }
        }
        self.event(Event::Touched(sessions))
    }

    fn perform(&mut self) {
        if self.work.is_empty() {
            return;
        }
        {
            let shared = self.driver.shared.clone();
            let mut replica = shared.replica.write();
            let mut watches = shared.watches.lock();
            for work in self.work.drain(..) {
                work::perform(work, &mut replica, &mut watches, &mut self.clients);
            }
        }
        self.clients.wake();
    }

    /// What is done once after a batch.
    fn finish_batch(&mut self) -> anyhow::Result<()> {
        self.watch_the_disk()?;
        self.perform();
        for link in self.awake.drain(..) {
            if let Some(link) = self.links.get(&link) {
                link.wake();
            }
        }
        self.publish();
        let spread = f64::from(self.clock().wall_ms as u16) / f64::from(u16::MAX);
        if self.driver.member.peer().is_serving()
            && let Some(disk) = &mut self.driver.disk
        {
            disk.maybe_snapshot(spread);
        }
        Ok(())
    }

    /// The peer is told whether the disk takes anything; a person is told when it begins and when it ends.
    fn watch_the_disk(&mut self) -> anyhow::Result<()> {
        let Some(disk) = &mut self.driver.disk else {
            return Ok(());
        };
        let state = disk.log_stats().disk_state();
        let overrun = disk.log_stats().queued_bytes() > limits::FULL_DISK_BYTES / 2;
        if state == DiskState::Works {
            disk.catch_up()?;
        }
        let was = std::mem::replace(&mut self.driver.shared.status.lock().disk, state);
        if state == was {
            let leaves = overrun && state != DiskState::Works;
            return if leaves {
                self.input(Input::DiskOverrun)
            } else {
                Ok(())
            };
        }
        match state {
            DiskState::Works => tracing::info!("the disk works again: the log goes on"),
            state => tracing::error!(
                "the disk {}: nothing is logged or acknowledged until it works again",
                state.word()
            ),
        }
        self.input(Input::DiskBlocked(state != DiskState::Works))
    }

    fn publish(&self) {
        let peer = self.driver.member.peer();
        let mut status = self.driver.shared.status.lock();
        status.serving = self.driver.member.is_serving();
        status.state = peer.state();
        status.epoch = peer.current_epoch();
        status.leader = peer.leader();
        status.last_logged = peer.last_logged();
        status.outstanding = self.driver.member.outstanding();
        status.proposal_sizes = self.proposal_sizes;
        self.driver.shared.freshness.renew(peer.fresh_until());
        status.synced_followers = 0;
        status.synced_observers = 0;
        status.synced_non_voting = 0;
        for (id, is_observer) in peer.active_learners() {
            match (is_observer, peer.config().is_voter(id)) {
                (true, _) => status.synced_observers += 1,
                (false, true) => status.synced_followers += 1,
                (false, false) => status.synced_non_voting += 1,
            }
        }
    }

    fn effect(&mut self, effect: Effect) -> anyhow::Result<()> {
        match effect {
            Effect::Notify { to, notification } => {
                self.elect(ElectionCommand::Send(to, notification))
            }
            Effect::Dial { leader, link } => self.dial(leader, link),
            Effect::CloseLink(link) => {
                if let Some(link) = self.links.get(&link) {
                    link.close();
                }
            }
            Effect::Send { link, packet } => self.send(link, &packet),
            Effect::SendSnapshot { link, zxid } => {
                let snapshot = self.driver.shared.begin_snapshot();
                if let Some(target) = self.links.get(&link) {
                    target.push_snapshot(zxid, snapshot);
                    self.awake.push(link);
                }
            }
            Effect::InstallSnapshot { link, zxid } => {
                let restored = self
                    .received
                    .remove(&link)
                    .context("a snapshot is installed that never came")?;
                self.driver
                    .shared
                    .replace_replica(Replica::restored(*restored, zxid));
            }
            Effect::Append(proposal) => self.append(proposal),
            Effect::Truncate(zxid) => match &mut self.driver.disk {
                Some(disk) => disk.truncate(zxid),
                None => {
                    // There is nothing to go back to: the leader sends everything.
                    let shared = &self.driver.shared;
                    shared.replace_replica(Replica::new(shared.tree_options));
                    let input = Input::Truncated(Zxid::ZERO);
                    self.driver.report.send(Message::Peer(input));
                }
            },
            Effect::SaveSnapshot(zxid) => match &mut self.driver.disk {
                Some(disk) => disk.save_snapshot(zxid),
                None => self
                    .driver
                    .report
                    .send(Message::Peer(Input::SnapshotSaved(zxid))),
            },
            Effect::SaveAcceptedEpoch(epoch) => {
                self.on_disk(|disk| Ok(disk.save_accepted(epoch)?))?;
            }
            Effect::SaveCurrentEpoch(epoch) => {
                self.on_disk(|disk| Ok(disk.save_current(epoch)?))?;
            }
            Effect::HistoryWhole => self.on_disk(|disk| Ok(disk.trust()?))?,
            Effect::NotVoting(why) => tracing::warn!("{why}"),
            Effect::SaveConfig(config) => self.save_config(&config)?,
            Effect::SaveNextConfig(config) => self.save_next_config(&config)?,
            Effect::ForgetNextConfig => dynamic::remove_next(&self.driver.shared.config.path)?,
            Effect::RoleChanged(role) => self.role_changed(&role),
            Effect::Halt(line) => return Err(anyhow!("a rule of the protocol is broken: {line}")),
            Effect::Commit(_)
            | Effect::Serve { .. }
            | Effect::StopServing
            | Effect::LearnerRequest { .. }
            | Effect::LearnerRevalidate { .. }
            | Effect::LearnerTouched { .. }
            | Effect::Revalidated { .. }
            | Effect::SyncReply
            | Effect::AskTouched { .. } => {
                unreachable!("the member deals with what concerns clients")
            }
        }
        Ok(())
    }

    fn append(&mut self, proposal: Proposal) {
        let size = proposal.data.len();
        let (_, min, max) = self.proposal_sizes.unwrap_or((size, size, size));
        self.proposal_sizes = Some((size, min.min(size), max.max(size)));
        if let Some(disk) = &mut self.driver.disk {
            disk.append(proposal);
        }
    }

    /// Does something that must be on stable storage before anything else is done. An observer that kept nothing begins to
    /// when it is made a voter.
    fn on_disk(
        &mut self,
        mut act: impl FnMut(&mut Disk) -> anyhow::Result<()> + Send,
    ) -> anyhow::Result<()> {
        let Driver {
            disk,
            shared,
            report,
            ..
        } = &mut self.driver;
        patience::until_done(&mut self.clients, || {
            if disk.is_none() {
                *disk = Some(Disk::open(shared, report)?);
            }
            act(disk.as_mut().context("it was just opened")?)
        })
    }

    fn elect(&self, command: ElectionCommand) {
        if let Some(election) = &self.driver.election {
            // The port's task ends only with the process.
            let _ = election.send(command);
        }
    }

    fn send(&mut self, link: LinkId, packet: &Packet) {
        let Some(target) = self.links.get(&link) else {
            return;
        };
        if !target.push(packet) {
            tracing::warn!(
                ?link,
                "a learner is too far behind what is sent to it: disconnected"
            );
            self.links.remove(&link);
            self.driver
                .report
                .send(Message::Peer(Input::LinkDown(link)));
            return;
        }
        if self.awake.last() != Some(&link) {
            self.awake.push(link);
        }
    }

    fn dial(&self, leader: ServerId, link: LinkId) {
        let peer = self.driver.member.peer();
        let member = peer
            .last_seen_config()
            .member(leader)
            .or_else(|| peer.config().member(leader));
        let addresses: Vec<_> = member
            .map(|member| {
                member
                    .addresses
                    .iter()
                    .map(|a| (a.host.clone(), a.quorum_port))
                    .collect()
            })
            .unwrap_or_default();
        let (shared, report) = (self.driver.shared.clone(), self.driver.report.clone());
        tokio::spawn(quorum::dial(
            link,
            addresses,
            self.driver.dial_timeout,
            shared,
            report,
        ));
    }

    fn save_config(&mut self, config: &QuorumConfig) -> anyhow::Result<()> {
        let shared = &self.driver.shared;
        if let Some(quorum) = &shared.config.quorum {
            let gives_client_port = config
                .member(quorum.my_id)
                .is_some_and(|member| member.client.is_some())
                && quorum_has_client(shared);
            let (path, text) = (&shared.config.path, config.to_string());
            patience::until_done(&mut self.clients, || {
                dynamic::activate(path, &text, config.version, gives_client_port)?;
                Ok(())
            })?;
        }
        let mut status = shared.status.lock();
        status.config = config.to_string();
        status.quorum_size = config.voters().count();
        drop(status);
        tracing::info!(version = %config.version, "the ensemble has a new configuration");
        self.elect(ElectionCommand::Members(config.clone()));
        Ok(())
    }

    fn save_next_config(&mut self, config: &QuorumConfig) -> anyhow::Result<()> {
        let (path, text) = (&self.driver.shared.config.path, config.to_string());
        patience::until_done(&mut self.clients, || Ok(dynamic::save_next(path, &text)?))?;
        self.elect(ElectionCommand::Members(config.clone()));
        Ok(())
    }

    fn role_changed(&mut self, role: &RoleInfo) {
        let leader = role
            .leader
            .map_or("none".to_owned(), |leader| leader.to_string());
        tracing::info!(state = ?role.state, epoch = %role.epoch, leader, why = role.why, "role");
        if role.state == PeerState::Looking {
            self.driver.shared.metrics.looking();
        } else {
            let is_another = role.leader.is_some() && role.leader != self.last_leader;
            self.driver.shared.metrics.has_leader(is_another);
            self.last_leader = role.leader;
        }
    }
}

/// The client port stays in the static file when it was given there: the listener was bound from it.
fn quorum_has_client(shared: &Shared) -> bool {
    let quorum = shared.config.quorum.as_ref();
    quorum
        .and_then(|quorum| quorum.membership.server(quorum.my_id))
        .is_some_and(|server| server.client.is_some())
}
