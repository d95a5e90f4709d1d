//! An ensemble without processes: members take time to start, to elect and to catch up; they die, fall silent and
//! lose their data. It knows the truth, of which the planner sees only what the members say.

use std::collections::BTreeMap;

use operator::cluster::{Cluster, Role, ServerId};
use operator::crd::spec::Retention;
use operator::desired::{Desired, desired};
use operator::membership::{Address, Membership, Server};
use operator::observed::{Answer, Condemned, Instance, Member, Observed, State};
use operator::plan::Step;

/// The truth.
#[derive(Clone, Debug, Default)]
pub struct World {
    pub initial: Option<Membership>,
    pub committed: Membership,
    pub members: BTreeMap<ServerId, Node>,
    pub leader: Option<ServerId>,
    pub zxid: u64,
    /// Changes of the membership that were refused because they came from an outdated view.
    pub refused: usize,
}

/// One member.
#[derive(Clone, Debug)]
pub struct Node {
    pub role: Role,
    pub founder: bool,
    pub retired: bool,
    pub replaced: bool,
    pub condemned: Option<Condemned>,
    pub undersized: bool,
    pub started: bool,
    pub running: bool,
    pub stopping: bool,
    /// Ticks until it serves, once a quorum does.
    pub warm_up: u32,
    /// Ticks for which it does not answer.
    pub silent: u32,
    pub hash: Option<String>,
    pub rendered: Option<Role>,
    pub config_version: u64,
}

impl World {
    /// Whether a member takes part in a quorum just now.
    pub fn serves(&self, id: ServerId) -> bool {
        self.leader.is_some()
            && self
                .members
                .get(&id)
                .is_some_and(|node| node.running && node.warm_up == 0)
    }

    /// Voters of the committed membership that serve, and how many a quorum needs.
    pub fn voters(&self) -> (usize, usize) {
        (
            self.committed
                .voters()
                .filter(|id| self.serves(*id))
                .count(),
            self.committed.quorum(),
        )
    }

    /// Lets one moment pass.
    pub fn tick(&mut self) {
        for node in self.members.values_mut() {
            if node.stopping {
                (node.running, node.stopping) = (false, false);
            }
            node.silent = node.silent.saturating_sub(1);
            if node.running {
                node.warm_up = node.warm_up.saturating_sub(1);
            }
        }
        self.elect();
        let version = self.committed.version;
        if self.leader.is_some() {
            self.zxid += 1;
            for node in self
                .members
                .values_mut()
                .filter(|node| node.running && node.warm_up == 0)
            {
                node.config_version = version;
            }
        }
    }

    fn elect(&mut self) {
        let up = |id: &ServerId| {
            self.members
                .get(id)
                .is_some_and(|node| node.running && node.warm_up == 0)
        };
        let voters: Vec<ServerId> = self.committed.voters().filter(up).collect();
        if voters.len() < self.committed.quorum() {
            self.leader = None;
        } else if self.leader.is_none_or(|leader| !voters.contains(&leader)) {
            self.leader = voters.last().copied();
            self.zxid = ((self.zxid >> 32) + 1) << 32;
        }
    }

    /// What can be seen of it.
    pub fn observe(&self) -> Observed {
        let mut observed = Observed {
            initial: self.initial.clone(),
            ..Observed::default()
        };
        for (id, node) in &self.members {
            let state = match self.committed.role(*id) {
                _ if !self.serves(*id) => State::NotServing,
                _ if self.leader == Some(*id) => State::Leader,
                Some(Role::Observer) => State::Observer,
                Some(Role::Voter) | None => State::Follower,
            };
            let answer = Answer {
                state,
                zxid: self.zxid,
                config_version: Some(node.config_version),
            };
            let member = Member {
                retired: node.retired,
                replaced: node.replaced,
                instance: match node {
                    Node { stopping: true, .. } => Instance::Stopping,
                    Node { running: true, .. } => Instance::Running,
                    Node { started: true, .. } => Instance::Stopped,
                    _ => Instance::New,
                },
                template_hash: node.hash.clone(),
                rendered_role: node.rendered,
                answer: Some(answer).filter(|_| node.running && node.silent == 0),
                condemned: node.condemned.clone(),
                undersized: node.undersized,
                ..Member::new(node.role, node.founder, address(*id))
            };
            observed.members.insert(*id, member);
        }
        observed.committed = observed.leader().map(|_| self.committed.clone());
        observed
    }

    /// Carries out a step, as a backend would.
    pub fn execute(&mut self, cluster: &Cluster, step: &Step) {
        let desired = desired(cluster);
        match step {
            Step::Bootstrap { voters, observers } => {
                assert!(self.initial.is_none(), "an ensemble is set up once");
                let voters = voters.iter().map(|id| (*id, Role::Voter));
                let roles = voters.chain(observers.iter().map(|id| (*id, Role::Observer)));
                for (id, role) in roles {
                    self.create(id, role, true);
                    self.committed.servers.insert(id, server(id, role));
                }
                self.initial = Some(self.committed.clone());
            }
            Step::Start { ids } => ids.iter().for_each(|id| self.start(&desired, *id)),
            Step::Create { id, role } => self.create(*id, *role, false),
            Step::Join { ids, version } => self.reconfigure(*version, |servers| {
                servers.extend(ids.iter().map(|id| (*id, server(*id, Role::Observer))));
            }),
            Step::Promote { id, version } => {
                let (id, was) = (*id, self.committed.role(*id));
                let serves = self.serves(id);
                self.reconfigure(*version, |servers| {
                    servers.insert(id, server(id, Role::Voter));
                });
                assert!(serves, "member {id} was promoted before it caught up");
                if was == Some(Role::Observer) {
                    // It comes back as a follower.
                    self.members.get_mut(&id).unwrap().warm_up = 1;
                }
            }
            Step::Remove { ids, version } => {
                self.reconfigure(*version, |servers| {
                    servers.retain(|id, _| !ids.contains(id))
                });
            }
            Step::Stop { ids } => {
                for id in ids {
                    assert_eq!(
                        self.committed.role(*id),
                        None,
                        "member {id} was stopped before it left"
                    );
                    self.stop(*id);
                }
            }
            Step::Restart { id } => self.stop(*id),
            Step::Retire { id, data } => self.retire(*id, *data),
            Step::Replace { id, .. } => {
                let voters = self.committed.voters().count();
                let others = self.committed.voters().filter(|other| other != id);
                let serving = others.filter(|other| self.serves(*other)).count();
                let votes = self.committed.role(*id) == Some(Role::Voter);
                assert!(
                    !votes || serving > (voters - 1) / 2,
                    "member {id} was given up without a quorum of the others"
                );
                let node = self.members.get_mut(id).unwrap();
                (node.retired, node.replaced) = (true, true);
            }
            Step::GrowVolume { id } => self.members.get_mut(id).unwrap().undersized = false,
            Step::Render { ids } => {
                for id in ids {
                    self.members.get_mut(id).unwrap().rendered = self.committed.role(*id);
                }
            }
        }
        self.elect();
    }

    fn retire(&mut self, id: ServerId, data: Retention) {
        let left = self.committed.role(id).is_none();
        assert!(left, "member {id} was retired before it left");
        assert!(
            !self.members[&id].running,
            "member {id} was retired while it ran"
        );
        match data {
            Retention::Delete => drop(self.members.remove(&id)),
            Retention::Retain => self.members.get_mut(&id).unwrap().retired = true,
        }
    }

    fn create(&mut self, id: ServerId, role: Role, founder: bool) {
        let node = Node {
            role,
            founder,
            retired: false,
            replaced: false,
            condemned: None,
            undersized: false,
            started: false,
            running: false,
            stopping: false,
            warm_up: 0,
            silent: 0,
            hash: None,
            rendered: None,
            config_version: 0,
        };
        assert!(
            self.members.insert(id, node).is_none(),
            "id {id} was given away twice"
        );
    }

    fn start(&mut self, desired: &Desired, id: ServerId) {
        let rendered = self.committed.role(id).unwrap_or(Role::Observer);
        let node = self.members.get_mut(&id).unwrap();
        assert!(
            !node.running && !node.retired,
            "member {id} cannot be started"
        );
        // One whose data is damaged never serves again.
        let warm_up = if node.condemned.is_some() {
            u32::MAX
        } else {
            3
        };
        (node.running, node.started, node.warm_up) = (true, true, warm_up);
        node.hash = Some(desired.template(node.role).hash.clone());
        node.rendered = Some(rendered);
    }

    /// Kills or stops a member.
    pub fn stop(&mut self, id: ServerId) {
        let node = self.members.get_mut(&id).unwrap();
        node.stopping = node.running;
        node.warm_up = u32::MAX;
        if self.leader == Some(id) {
            self.leader = None;
        }
        self.elect();
    }

    fn reconfigure(&mut self, version: u64, change: impl FnOnce(&mut BTreeMap<ServerId, Server>)) {
        if version != self.committed.version || self.leader.is_none() {
            self.refused += 1;
            return;
        }
        let mut next = self.committed.clone();
        change(&mut next.servers);
        let follows = |id: &ServerId| {
            // Only followers are asked for their vote on a proposal, so an observer cannot help its own promotion.
            self.serves(*id) && self.committed.role(*id) != Some(Role::Observer)
        };
        if next.voters().filter(follows).count() < next.quorum() {
            panic!("{next:?} was proposed without a quorum of it: {self:?}");
        }
        self.zxid += 1;
        next.version = self.zxid;
        self.committed = next;
    }
}

fn server(id: ServerId, role: Role) -> Server {
    Server {
        role,
        address: address(id),
    }
}

fn address(id: ServerId) -> Address {
    Address {
        host: format!("member-{id}"),
        quorum_port: 2888,
        election_port: 3888,
        client_port: 2181,
    }
}
