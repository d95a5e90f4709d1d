//! Three members in one thread: the real core, the real storage code on disks in memory, and a network that delivers at once
//! and in order.

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use node::storage::StorageError;
use node::storage::dirs::DataDirs;
use node::storage::epoch::EpochFiles;
use node::storage::files::FileSystem;
use node::storage::retention;
use node::storage::simulated::{Keep, SimDisk};
use node::storage::txn_log::{LogOptions, TxnLog};
use node::store::{self, StoreOptions};
use node_core::effect::{Effect, Input, LinkId};
use node_core::peer::{Peer, PeerConfig, Recovered, Timing};
use node_core::proto::election::PeerState;
use node_core::proto::quorum::{Packet, Proposal};
use node_core::proto::txn::{CreateOp, CreateTxn, Txn, TxnEntry};
use node_core::quorum::config::QuorumConfig;
use node_core::replica::Replica;
use node_core::standing::Standing;
use node_core::tree::{ImageReader, TreeOptions};
use node_core::zxid::{ServerId, SessionId, Time, Zxid};

pub(crate) const MEMBERS: [i64; 3] = [1, 2, 3];

const LOG: LogOptions = LogOptions {
    preallocate_bytes: 4096,
    force_sync: true,
    roll_at_bytes: None,
};

/// The directory of a member's data, and that of its log.
pub(crate) const DATA: &str = "/data";
pub(crate) const DATA_LOG: &str = "/log";

enum Event {
    Input(Input),
    /// A whole snapshot, after its SNAP packet.
    Snapshot(LinkId, Zxid, Bytes),
}

pub(crate) struct Running {
    pub(crate) peer: Peer,
    pub(crate) replica: Replica,
    dirs: DataDirs,
    epochs: EpochFiles,
    log: TxnLog,
    unflushed: bool,
    received: BTreeMap<LinkId, Bytes>,
    accepted: u64,
    /// What it said about why it does not vote.
    pub(crate) not_voting: Option<String>,
}

pub(crate) struct Member {
    pub(crate) disk: SimDisk,
    pub(crate) running: Option<Running>,
    /// Why it did not start, or ended.
    pub(crate) failed: Option<StorageError>,
    /// How it started last.
    pub(crate) standing: Option<Standing>,
}

pub(crate) struct Ensemble {
    pub(crate) members: BTreeMap<i64, Member>,
    queue: VecDeque<(i64, Event)>,
    /// Each end of a connection, and the other one.
    links: BTreeMap<(i64, LinkId), (i64, LinkId)>,
    pub(crate) now: u64,
    /// The paths of what was acknowledged.
    pub(crate) acknowledged: Vec<String>,
}

fn options(others: bool) -> StoreOptions {
    StoreOptions {
        data_dir: DATA.into(),
        data_log_dir: DATA_LOG.into(),
        autocreate: true,
        trust_empty_snapshot: false,
        trust_empty: None,
        others,
        recent: 20,
        tree: TreeOptions::default(),
    }
}

fn config() -> QuorumConfig {
    let lines = MEMBERS.map(|id| format!("server.{id}=s{id}:1:2:participant\n"));
    QuorumConfig::parse(&(lines.concat() + "version=0")).unwrap()
}

fn peer_config(id: i64) -> PeerConfig {
    PeerConfig {
        my_id: ServerId(id),
        config: config(),
        timing: Timing {
            tick_ms: 200,
            ..Timing::default()
        },
        reconfig_enabled: false,
        observer: false,
        observer_keeps_disk: true,
    }
}

impl Ensemble {
    pub(crate) fn new() -> Self {
        Self::on(MEMBERS.map(|id| (id, SimDisk::new())).into(), Vec::new())
    }

    pub(crate) fn on(disks: BTreeMap<i64, SimDisk>, acknowledged: Vec<String>) -> Self {
        let member = |disk| Member {
            disk,
            running: None,
            failed: None,
            standing: None,
        };
        Self {
            members: disks.into_iter().map(|(id, d)| (id, member(d))).collect(),
            queue: VecDeque::new(),
            links: BTreeMap::new(),
            now: 0,
            acknowledged,
        }
    }

    /// Starts a member as `serve` does.
    pub(crate) fn start(&mut self, id: i64) {
        let now = self.now;
        let member = self.members.get_mut(&id).unwrap();
        let files: Arc<dyn FileSystem> = Arc::new(member.disk.clone());
        let opened = store::open(&files, &options(true)).and_then(|opened| {
            let log = TxnLog::open(opened.dirs.log_dir(), LOG)?.with_marks(opened.marks.clone())?;
            let epochs = opened.epochs;
            Ok((
                opened.dirs,
                epochs,
                log,
                opened.replica,
                opened.recent,
                opened.standing,
            ))
        });
        let (dirs, epochs, log, replica, recent, standing) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                member.failed = Some(error);
                return;
            }
        };
        let recovered = Recovered {
            accepted_epoch: epochs.epochs().accepted,
            current_epoch: epochs.epochs().current,
            last_zxid: replica.last_zxid(),
            recent: recent.into(),
            last_seen_config: None,
            standing,
        };
        member.standing = Some(standing);
        member.failed = None;
        member.running = Some(Running {
            peer: Peer::new(peer_config(id), recovered, Time(now)),
            replica,
            dirs,
            epochs,
            log,
            unflushed: false,
            received: BTreeMap::new(),
            accepted: 0,
            not_voting: None,
        });
        for other in self.up() {
            if other != id {
                for (a, b) in [(id, other), (other, id)] {
                    let input = Input::ElectionLink {
                        peer: ServerId(b),
                        up: true,
                    };
                    self.queue.push_back((a, Event::Input(input)));
                }
            }
        }
        self.queue.push_back((id, Event::Input(Input::Tick)));
    }

    /// The process ends: in peace, or by a crash of its machine.
    pub(crate) fn stop(&mut self, id: i64, crash: Option<Keep>) {
        let member = self.members.get_mut(&id).unwrap();
        if let Some(mut running) = member.running.take()
            && crash.is_none()
            && member.failed.is_none()
        {
            running.log.close().unwrap();
        }
        if let Some(keep) = crash {
            member.disk.crash(keep);
        }
        self.queue.retain(|(to, _)| *to != id);
        let ends: Vec<_> = self.links.iter().map(|(a, b)| (*a, *b)).collect();
        for (_, (other, link)) in ends.into_iter().filter(|((end, _), _)| *end == id) {
            self.links.retain(|a, b| a.0 != id && b.0 != id);
            self.queue
                .push_back((other, Event::Input(Input::LinkDown(link))));
        }
        for other in self.up() {
            let input = Input::ElectionLink {
                peer: ServerId(id),
                up: false,
            };
            self.queue.push_back((other, Event::Input(input)));
        }
    }

    pub(crate) fn up(&self) -> Vec<i64> {
        let up = self.members.iter().filter(|(_, m)| m.running.is_some());
        up.map(|(id, _)| *id).collect()
    }

    pub(crate) fn running(&self, id: i64) -> Option<&Running> {
        self.members[&id].running.as_ref()
    }

    /// Who leads with a quorum.
    pub(crate) fn leader(&self) -> Option<i64> {
        self.up().into_iter().find(|id| {
            let peer = &self.running(*id).unwrap().peer;
            peer.state() == PeerState::Leading && peer.is_serving()
        })
    }

    /// Whether everybody who runs serves, votes, and is where the leader is.
    pub(crate) fn is_settled(&self) -> bool {
        let Some(leader) = self.leader() else {
            return false;
        };
        let leader = &self.running(leader).unwrap().replica;
        self.up().into_iter().all(|id| {
            let running = self.running(id).unwrap();
            running.peer.is_serving()
                && running.peer.standing() == Standing::Whole
                && running.replica.last_zxid() == leader.last_zxid()
                && running.replica.tree().digest() == leader.tree().digest()
        })
    }

    /// Goes on until `done` or for so many ms.
    pub(crate) fn run(&mut self, ms: u64, done: impl Fn(&Self) -> bool) -> bool {
        let until = self.now + ms;
        loop {
            self.deliver();
            if done(self) {
                return true;
            }
            let next = self.up().into_iter().map(|id| {
                let running = self.running(id).unwrap();
                running.peer.next_deadline().0
            });
            let next = next.min().unwrap_or(until).max(self.now + 1);
            if next > until {
                self.now = until;
                return done(self);
            }
            self.now = next;
            for id in self.up() {
                if self.running(id).unwrap().peer.next_deadline().0 <= self.now {
                    self.queue.push_back((id, Event::Input(Input::Tick)));
                }
            }
        }
    }

    /// A client's write; it is acknowledged when the leader commits it.
    pub(crate) fn write(&mut self, size: usize) {
        let leader = self.leader().expect("a leader");
        let zxid = self
            .running(leader)
            .unwrap()
            .peer
            .next_zxid()
            .expect("the leader takes writes");
        let path = format!("/n{:x}", zxid.0);
        let create = CreateTxn {
            op: CreateOp::Create,
            path,
            data: Some(Bytes::from(vec![b'0' + (zxid.0 % 10) as u8; size])),
            acl: vec![],
            ephemeral: false,
            parent_cversion: -1,
        };
        let txn = Txn::Create(create);
        let data = TxnEntry::new(SessionId(1), 1, zxid, 1_700_000_000_000, txn).encode();
        let input = Input::Propose(Proposal { zxid, data });
        self.queue.push_back((leader, Event::Input(input)));
        self.deliver();
    }

    /// Takes a snapshot, as is done now and then.
    pub(crate) fn snapshot(&mut self, id: i64, purge: bool) {
        let running = self.members.get_mut(&id).unwrap().running.as_mut().unwrap();
        running.log.roll().unwrap();
        store::save(&running.dirs, &mut running.replica, false).unwrap();
        if purge {
            retention::purge(&running.dirs, 3).unwrap();
        }
    }

    fn deliver(&mut self) {
        let mut events = 0;
        while let Some((id, event)) = self.queue.pop_front() {
            events += 1;
            assert!(events < 100_000, "the members go round in circles");
            if self.running(id).is_none() {
                continue;
            }
            let input = match event {
                Event::Input(input) => input,
                Event::Snapshot(link, zxid, bytes) => {
                    let running = self.members.get_mut(&id).unwrap().running.as_mut();
                    running.unwrap().received.insert(link, bytes);
                    Input::SnapshotReceived { link, zxid }
                }
            };
            if let Err(error) = self.step(id, input) {
                self.members.get_mut(&id).unwrap().failed = Some(error);
                self.stop(id, None);
            }
            let nothing_waits = !self.queue.iter().any(|(to, _)| *to == id);
            if nothing_waits && let Err(error) = self.flush(id) {
                self.members.get_mut(&id).unwrap().failed = Some(error);
                self.stop(id, None);
            }
        }
    }

    /// What waits for a member is flushed together.
    fn flush(&mut self, id: i64) -> Result<(), StorageError> {
        let Some(running) = self.members.get_mut(&id).unwrap().running.as_mut() else {
            return Ok(());
        };
        if std::mem::take(&mut running.unflushed)
            && let Some(flush) = running.log.flush()?
        {
            running.log.mark()?;
            let input = Input::Flushed(flush.through);
            self.queue.push_back((id, Event::Input(input)));
        }
        Ok(())
    }

    fn step(&mut self, id: i64, input: Input) -> Result<(), StorageError> {
        let mut effects = Vec::new();
        let now = Time(self.now);
        let running = self.members.get_mut(&id).unwrap().running.as_mut().unwrap();
        running.peer.step(now, input, &mut effects);
        for effect in effects {
            match effect {
                Effect::Notify { to, notification } => {
                    let from = ServerId(id);
                    let input = Input::Notification { from, notification };
                    self.queue.push_back((to.0, Event::Input(input)));
                }
                Effect::Dial { leader, link } => self.dial((id, link), leader.0),
                Effect::CloseLink(link) => {
                    if let Some((other, other_link)) = self.links.remove(&(id, link)) {
                        self.links.remove(&(other, other_link));
                        let input = Input::LinkDown(other_link);
                        self.queue.push_back((other, Event::Input(input)));
                    }
                }
                Effect::Send { link, packet } => self.send((id, link), packet),
                Effect::SendSnapshot { link, zxid } => {
                    let replica = &mut self
                        .members
                        .get_mut(&id)
                        .unwrap()
                        .running
                        .as_mut()
                        .unwrap()
                        .replica;
                    assert_eq!(replica.last_zxid(), zxid);
                    let (mut bytes, snapshot) = (Vec::new(), replica.begin_snapshot());
                    while !replica.snapshot_chunk(snapshot, 64, &mut bytes) {}
                    replica.end_snapshot(snapshot);
                    self.send((id, link), Packet::Snap(zxid));
                    if let Some((other, link)) = self.links.get(&(id, link)) {
                        let event = Event::Snapshot(*link, zxid, bytes.into());
                        self.queue.push_back((*other, event));
                    }
                }
                effect => self.local(id, effect)?,
            }
        }
        Ok(())
    }

    fn dial(&mut self, from: (i64, LinkId), leader: i64) {
        let Some(running) = self
            .members
            .get_mut(&leader)
            .and_then(|m| m.running.as_mut())
        else {
            self.queue
                .push_back((from.0, Event::Input(Input::LinkDown(from.1))));
            return;
        };
        running.accepted += 1;
        let to = (leader, LinkId::accepted(running.accepted));
        self.links.insert(from, to);
        self.links.insert(to, from);
        for (id, link) in [to, from] {
            self.queue
                .push_back((id, Event::Input(Input::LinkUp(link))));
        }
    }

    fn send(&mut self, from: (i64, LinkId), packet: Packet) {
        if let Some((to, link)) = self.links.get(&from) {
            let input = Input::Packet {
                link: *link,
                packet,
            };
            self.queue.push_back((*to, Event::Input(input)));
        }
    }

    fn local(&mut self, id: i64, effect: Effect) -> Result<(), StorageError> {
        let running = self.members.get_mut(&id).unwrap().running.as_mut().unwrap();
        match effect {
            Effect::InstallSnapshot { link, zxid } => {
                let bytes = running.received.remove(&link).unwrap();
                let mut reader = ImageReader::new(TreeOptions::default());
                assert!(reader.feed(&bytes).unwrap().done);
                running.replica = Replica::restored(reader.finish().unwrap(), zxid);
            }
            Effect::SaveSnapshot(zxid) => {
                assert_eq!(running.replica.last_zxid(), zxid);
                store::save(&running.dirs, &mut running.replica, true)?;
                running.log.install(zxid, running.dirs.snap_dir())?;
                self.queue
                    .push_back((id, Event::Input(Input::SnapshotSaved(zxid))));
            }
            Effect::Append(proposal) => {
                running.log.append(proposal.zxid, &proposal.data);
                running.unflushed = true;
            }
            Effect::Truncate(to) => {
                let end = match running.log.truncate(to, running.dirs.snap_dir()) {
                    Ok(()) if running.replica.last_zxid() <= to => to,
                    Ok(()) | Err(StorageError::TruncateTarget { .. }) => running.reload()?,
                    Err(error) => return Err(error),
                };
                self.queue
                    .push_back((id, Event::Input(Input::Truncated(end))));
            }
            Effect::SaveAcceptedEpoch(epoch) => running.epochs.save_accepted(epoch)?,
            Effect::SaveCurrentEpoch(epoch) => running.epochs.save_current(epoch)?,
            Effect::HistoryWhole => store::trust(&running.dirs, TreeOptions::default())?,
            Effect::NotVoting(why) => running.not_voting = Some(why),
            Effect::Commit(proposal) => {
                let entry = TxnEntry::decode(proposal.data).unwrap();
                running.replica.apply(&entry.header, &entry.txn);
                if running.peer.state() == PeerState::Leading
                    && let Txn::Create(create) = entry.txn
                {
                    self.acknowledged.push(create.path);
                }
            }
            Effect::AskTouched { link, zxid } => {
                let input = Input::Touched {
                    link,
                    zxid,
                    sessions: vec![],
                };
                self.queue.push_back((id, Event::Input(input)));
            }
            Effect::Halt(why) => panic!("member {id} halted: {why}"),
            Effect::RoleChanged(role) if std::env::var_os("DAMAGE_TRACE").is_some() => {
                println!("{:>6} {id} {role:?}", self.now);
            }
            Effect::LearnerTouched { .. }
            | Effect::Serve { .. }
            | Effect::StopServing
            | Effect::RoleChanged(_) => {}
            Effect::SaveConfig(_) | Effect::SaveNextConfig(_) | Effect::ForgetNextConfig => {}
            other => panic!("{other:?} was not expected"),
        }
        Ok(())
    }

    /// What was acknowledged and is missing on a member.
    pub(crate) fn missing(&self, id: i64) -> Vec<&String> {
        let tree = self.running(id).unwrap().replica.tree();
        let paths = self.acknowledged.iter();
        paths.filter(|path| tree.get(path).is_none()).collect()
    }

    /// Whether a member has kept damaged files.
    pub(crate) fn has_kept_files(&self, id: i64) -> bool {
        let kept = |path: &Path| {
            let name = path.file_name().unwrap().to_string_lossy();
            name.starts_with(node::storage::doubt::ASIDE)
        };
        self.members[&id].disk.paths().iter().any(|path| kept(path))
    }
}

impl Running {
    fn reload(&mut self) -> Result<Zxid, StorageError> {
        let recovered = store::recover(&self.dirs, None, &options(true))?;
        self.replica = recovered.replica;
        Ok(self.replica.last_zxid())
    }
}
