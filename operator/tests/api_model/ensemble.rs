//! The servers that run in the pods, as far as membership and data go: what each has on its disk, who elects whom, who
//! follows, what a majority has acknowledged. It knows the truth, of which an operator sees only what members say.

use std::collections::BTreeMap;

use operator::client::{Change, ReconfigError};
use operator::cluster::{Role, ServerId};
use operator::ensemble::Told;
use operator::membership::Membership;
use operator::observed::{Answer, State};

use super::world::{Volume, World};

/// What is on a member's disk.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Disk {
    /// `myid`.
    pub id: Option<u32>,
    /// The membership of the working copy of `zoo.cfg`.
    pub working_copy: Option<Membership>,
    /// Last transaction in the log.
    pub zxid: u64,
    /// How many of the acknowledged writes it holds.
    pub held: u64,
}

/// A process.
#[derive(Clone, Debug)]
pub struct Server {
    pub id: u32,
    pub host: String,
    pub ip: String,
    pub node: String,
    /// The volume under `/data`.
    pub volume: String,
    pub view: Membership,
    /// Its file says `peerType=observer`.
    pub observer: bool,
    pub mode: Mode,
    /// Moments for which it answers nobody outside the ensemble.
    pub silent: u32,
    /// Moments for which it is cut off from its peers.
    pub cut: u32,
    /// Moments that it needs to catch up.
    pub slow: u32,
}

/// What a process is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Starting(u32),
    Looking,
    Syncing(u32),
    Leading,
    Following,
    Observing,
}

/// The whole ensemble.
#[derive(Clone, Debug, Default)]
pub struct Ensemble {
    /// By the uid of the pod.
    pub servers: BTreeMap<String, Server>,
    pub leader: Option<String>,
    /// The membership that a quorum has committed last.
    pub committed: Option<Membership>,
    pub epoch: u64,
    pub zxid: u64,
    /// Writes that were acknowledged to clients.
    pub acknowledged: u64,
    /// Whether clients write.
    pub load: bool,
    /// Changes of the membership that came from an outdated view.
    pub refused: u64,
    /// How often the process of a member was started, by id.
    pub starts: BTreeMap<u32, u64>,
}

impl Mode {
    pub fn serves(self) -> bool {
        matches!(self, Self::Leading | Self::Following | Self::Observing)
    }
}

impl World {
    /// A process starts on a volume, with the file that is mounted. The error is its exit code.
    pub fn start_server(&mut self, pod: &str, mut server: Server, file: &str) -> Result<(), i32> {
        let volume = self.volumes.get_mut(&server.volume).ok_or(1)?;
        if volume.damaged {
            return Err(EXIT_DAMAGED);
        }
        let disk = &mut volume.disk;
        if disk.id.is_some_and(|id| id != server.id)
            || file.lines().any(|line| line.trim() == BAD_CONFIG)
        {
            return Err(EXIT_CONFIG);
        }
        let own = ServerId(server.id);
        let lines: String = file
            .lines()
            .filter(|line| line.starts_with("server."))
            .map(|line| format!("{line}\n"))
            .collect();
        let mounted = Membership::parse(&lines).map_err(|_| EXIT_CONFIG)?;
        server.observer = file.lines().any(|line| line.trim() == "peerType=observer");
        let kept = disk
            .working_copy
            .clone()
            .filter(|kept| !server.observer && kept.role(own).is_some());
        server.view = kept.unwrap_or(mounted);
        if server.view.role(own).is_none() {
            return Err(EXIT_CONFIG);
        }
        disk.id = Some(server.id);
        disk.working_copy = Some(server.view.clone());
        *self.ensemble.starts.entry(server.id).or_default() += 1;
        self.ensemble.servers.insert(pod.to_owned(), server);
        Ok(())
    }

    /// A process ends.
    pub fn stop_server(&mut self, pod: &str) {
        self.ensemble.servers.remove(pod);
        if self.ensemble.leader.as_deref() == Some(pod) {
            self.ensemble.leader = None;
        }
    }

    /// A member's volume cannot be read any more.
    pub fn damage(&mut self, id: u32) {
        let volumes = self.volumes.values_mut();
        volumes
            .filter(|volume| volume.disk.id == Some(id))
            .for_each(|volume| volume.damaged = true);
    }

    /// Whether the others reach a process.
    fn connected(&self, server: &Server) -> bool {
        server.cut == 0
            && self
                .machines
                .get(&server.node)
                .is_some_and(|machine| machine.lost.is_none())
    }

    /// The process of a member that the others reach.
    pub fn server(&self, id: ServerId) -> Option<&Server> {
        let mut servers = self.ensemble.servers.values();
        servers.find(|server| server.id == id.0 && self.connected(server))
    }

    /// Whether a member serves just now.
    pub fn serves(&self, id: ServerId) -> bool {
        self.ensemble.leader.is_some() && self.server(id).is_some_and(|server| server.mode.serves())
    }

    /// Voters of the committed membership.
    pub fn voters(&self) -> Vec<ServerId> {
        self.ensemble
            .committed
            .iter()
            .flat_map(Membership::voters)
            .collect()
    }

    /// Voters that hold everything that was acknowledged.
    pub fn holders(&self) -> Vec<ServerId> {
        let holds = |id: &ServerId| {
            self.volumes.values().any(|volume| {
                !volume.damaged
                    && volume.disk.id == Some(id.0)
                    && volume.disk.held == self.ensemble.acknowledged
            })
        };
        self.voters().into_iter().filter(holds).collect()
    }

    pub fn tick_ensemble(&mut self) {
        for server in self.ensemble.servers.values_mut() {
            server.silent = server.silent.saturating_sub(1);
            server.cut = server.cut.saturating_sub(1);
            if let Mode::Starting(left) = server.mode {
                server.mode = if left <= 1 {
                    Mode::Looking
                } else {
                    Mode::Starting(left - 1)
                };
            }
        }
        self.keep_leader();
        if self.ensemble.leader.is_none() {
            self.elect();
        }
        self.follow();
        self.write();
        self.check_data();
    }

    /// A leader without a quorum behind it steps down.
    fn keep_leader(&mut self) {
        let Some(leader) = self.ensemble.leader.clone() else {
            return;
        };
        let quorate = self.ensemble.servers.get(&leader).is_some_and(|server| {
            let committed = self.ensemble.committed.clone().unwrap_or_default();
            let behind = committed.voters().filter(|id| {
                self.server(*id).is_some_and(|it| {
                    matches!(it.mode, Mode::Syncing(_) | Mode::Leading | Mode::Following)
                })
            });
            self.connected(server) && behind.count() >= committed.quorum()
        });
        if !quorate {
            self.ensemble.leader = None;
        }
    }

    fn elect(&mut self) {
        for server in self.ensemble.servers.values_mut() {
            if !matches!(server.mode, Mode::Starting(_)) {
                server.mode = Mode::Looking;
            }
        }
        let looking: Vec<(&String, &Server, u64)> = self
            .ensemble
            .servers
            .iter()
            .filter(|(_, server)| server.mode == Mode::Looking && self.connected(server))
            .map(|(pod, server)| {
                (
                    pod,
                    server,
                    self.volumes
                        .get(&server.volume)
                        .map_or(0, |volume| volume.disk.zxid),
                )
            })
            .collect();
        let votes = |server: &Server| {
            !server.observer && server.view.role(ServerId(server.id)) == Some(Role::Voter)
        };
        let mut candidates: Vec<_> = looking
            .iter()
            .filter(|(_, server, _)| votes(server))
            .collect();
        candidates.sort_by_key(|(_, server, zxid)| {
            std::cmp::Reverse((*zxid, server.view.version, server.id))
        });
        let elected = candidates.iter().find(|(_, candidate, zxid)| {
            let supports = |(_, server, own): &&(&String, &Server, u64)| {
                votes(server)
                    && candidate.view.role(ServerId(server.id)) == Some(Role::Voter)
                    && server.view.role(ServerId(candidate.id)) == Some(Role::Voter)
                    && own <= zxid
            };
            looking.iter().filter(supports).count() >= candidate.view.quorum()
        });
        let Some((pod, server, _)) = elected else {
            return;
        };
        let (pod, server) = ((*pod).clone(), (*server).clone());
        self.lead(&pod, &server);
    }

    fn lead(&mut self, pod: &str, server: &Server) {
        let held = self
            .volumes
            .get(&server.volume)
            .map_or(0, |volume| volume.disk.held);
        if held < self.ensemble.acknowledged {
            let acknowledged = self.ensemble.acknowledged;
            self.violation(format!(
                "member {} leads with {held} of {acknowledged} acknowledged writes: data is lost",
                server.id
            ));
        }
        if let Some(committed) = self.ensemble.committed.clone()
            && committed != server.view
        {
            self.violation(format!(
                "member {} leads with {:?}, but {committed:?} is committed",
                server.id, server.view
            ));
        }
        let ensemble = &mut self.ensemble;
        ensemble.committed = Some(server.view.clone());
        ensemble.epoch += 1;
        ensemble.zxid = ensemble.epoch << 32;
        ensemble.leader = Some(pod.to_owned());
        let zxid = ensemble.zxid;
        ensemble.servers.get_mut(pod).expect("it was elected").mode = Mode::Leading;
        if let Some(volume) = self.volumes.get_mut(&server.volume) {
            volume.disk.zxid = zxid;
        }
        self.note(format!(
            "member {} leads epoch {}",
            server.id, self.ensemble.epoch
        ));
    }

    /// Those that look for a leader find the one there is, catch up, and serve.
    fn follow(&mut self) {
        let Some(leader) = self
            .ensemble
            .leader
            .clone()
            .and_then(|pod| self.ensemble.servers.get(&pod).cloned())
        else {
            return;
        };
        let committed = self.ensemble.committed.clone().unwrap_or_default();
        let (zxid, acknowledged) = (self.ensemble.zxid, self.ensemble.acknowledged);
        let pods: Vec<String> = self.ensemble.servers.keys().cloned().collect();
        for pod in pods {
            let server = self.ensemble.servers[&pod].clone();
            let knows = server.view.role(ServerId(leader.id)).is_some();
            let mode = match server.mode {
                _ if !self.connected(&server) => match server.mode {
                    Mode::Starting(left) => Mode::Starting(left),
                    _ => Mode::Looking,
                },
                Mode::Looking if knows => Mode::Syncing(1 + server.slow),
                Mode::Syncing(left) if left > 1 => Mode::Syncing(left - 1),
                Mode::Syncing(_) => joined_as(&committed, &server),
                mode => mode,
            };
            let synced = matches!(server.mode, Mode::Syncing(_)) && mode.serves();
            let server = self
                .ensemble
                .servers
                .get_mut(&pod)
                .expect("it was just listed");
            server.mode = mode;
            if synced {
                server.view = committed.clone();
                server.observer = mode == Mode::Observing;
                if let Some(Volume { disk, .. }) = self.volumes.get_mut(&server.volume) {
                    (disk.zxid, disk.held) = (zxid, acknowledged);
                    disk.working_copy = Some(committed.clone());
                }
            }
        }
    }

    /// Pods of the servers that are in sync with the leader, itself included.
    fn synced(&self) -> Vec<String> {
        let serving = self
            .ensemble
            .servers
            .iter()
            .filter(|(_, server)| server.mode.serves() && self.connected(server));
        serving.map(|(pod, _)| pod.clone()).collect()
    }

    fn votes_synced(&self, membership: &Membership) -> usize {
        let votes = |id: &ServerId| {
            self.server(*id)
                .is_some_and(|server| matches!(server.mode, Mode::Leading | Mode::Following))
        };
        membership.voters().filter(votes).count()
    }

    /// Clients write, as long as a majority acknowledges.
    fn write(&mut self) {
        let Some(committed) = self.ensemble.committed.clone() else {
            return;
        };
        let led =
            self.ensemble.leader.is_some() && self.votes_synced(&committed) >= committed.quorum();
        if !self.ensemble.load || !led {
            return;
        }
        self.ensemble.acknowledged += 1;
        self.append(|_| {});
    }

    /// Appends a transaction to the logs of all that are in sync.
    fn append(&mut self, change: impl Fn(&mut Disk)) {
        self.ensemble.zxid += 1;
        let (zxid, acknowledged) = (self.ensemble.zxid, self.ensemble.acknowledged);
        for pod in self.synced() {
            let volume = self.ensemble.servers[&pod].volume.clone();
            if let Some(Volume { disk, .. }) = self.volumes.get_mut(&volume) {
                (disk.zxid, disk.held) = (zxid, acknowledged);
                change(disk);
            }
        }
    }

    /// Every acknowledged write is on the disks of a majority of the voters.
    fn check_data(&mut self) {
        let Some(committed) = &self.ensemble.committed else {
            return;
        };
        let (holders, quorum) = (self.holders().len(), committed.quorum());
        if self.ensemble.acknowledged > 0 && holders < quorum && self.violations.is_empty() {
            let text = format!(
                "of the voters {:?} only {:?} hold all that was acknowledged",
                self.voters(),
                self.holders()
            );
            self.violation(text);
        }
    }

    /// What a member answers to somebody outside.
    pub fn ask(&self, address: &str) -> Option<Told> {
        let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
        let mut servers = self.ensemble.servers.values();
        let server = servers.find(|it| {
            (it.host == host || it.ip == host) && !matches!(it.mode, Mode::Starting(_))
        })?;
        let reached = self
            .machines
            .get(&server.node)
            .is_some_and(|machine| machine.lost.is_none());
        if server.silent > 0 || !reached {
            return None;
        }
        let disk = self
            .volumes
            .get(&server.volume)
            .map(|volume| volume.disk.clone())
            .unwrap_or_default();
        let led = self.ensemble.leader.is_some();
        let state = match server.mode {
            Mode::Leading if led => State::Leader,
            Mode::Following if led => State::Follower,
            Mode::Observing if led => State::Observer,
            _ => State::NotServing,
        };
        let answer = Answer {
            state,
            zxid: disk.zxid,
            config_version: Some(server.view.version),
        };
        Some(Told {
            answer,
            membership: Some(server.view.clone()),
        })
    }

    /// A change of the membership.
    pub fn reconfigure(
        &mut self,
        addresses: &[String],
        change: &Change,
    ) -> Result<(), ReconfigError> {
        if !addresses.iter().any(|address| {
            self.ask(address)
                .is_some_and(|told| told.answer.state != State::NotServing)
        }) {
            return Err(ReconfigError::Nobody);
        }
        let committed = self.ensemble.committed.clone().unwrap_or_default();
        if change.from_version != committed.version {
            self.ensemble.refused += 1;
            return Err(ReconfigError::Outdated);
        }
        let mut next = committed.clone();
        let joining =
            Membership::parse(&change.joining.join("\n")).expect("it is what `reconfig` takes");
        next.servers.extend(joining.servers);
        next.servers.retain(|id, _| !change.leaving.contains(id));
        super::safety::before_reconfiguration(self, &committed, &next);
        // Only followers are asked for their vote on a proposal: an observer cannot help its own promotion.
        if self.votes_synced(&committed) < committed.quorum()
            || self.votes_synced(&next) < next.quorum()
        {
            return Err(ReconfigError::NoQuorum);
        }
        next.version = self.ensemble.zxid + 1;
        self.note(format!("committed: {}", next.lines().join(" ")));
        self.commit(next);
        Ok(())
    }

    fn commit(&mut self, next: Membership) {
        let synced = self.synced();
        self.append(|disk| disk.working_copy = Some(next.clone()));
        for pod in synced {
            let server = self.ensemble.servers.get_mut(&pod).expect("it is in sync");
            server.view = next.clone();
            let role = next.role(ServerId(server.id));
            let leads = self.ensemble.leader.as_ref() == Some(&pod);
            match (role, server.mode) {
                // A leader that lost its vote resigns, and a server whose role changed starts over.
                (None | Some(Role::Observer), _) if leads => {
                    server.mode = Mode::Looking;
                    self.ensemble.leader = None;
                }
                (Some(Role::Voter), Mode::Observing) => {
                    (server.mode, server.observer) = (Mode::Looking, false);
                }
                (Some(Role::Observer), Mode::Following) => server.mode = Mode::Looking,
                _ => {}
            }
        }
        self.ensemble.committed = Some(next);
    }
}

/// What a learner becomes when it has caught up. One that the membership does not know follows without a vote.
fn joined_as(committed: &Membership, server: &Server) -> Mode {
    match committed.role(ServerId(server.id)) {
        Some(Role::Observer) => Mode::Observing,
        Some(Role::Voter) | None => Mode::Following,
    }
}

/// The node says that its storage is damaged.
pub const EXIT_DAMAGED: i32 = 3;
/// The node was started wrongly.
pub const EXIT_CONFIG: i32 = 2;
/// A setting that passes every check and that no node starts with.
pub const BAD_CONFIG: &str = "preAllocSize=13";
