//! Everything that goes wrong, and how often.

use node_core::effect::Input;
use node_core::quorum::config::MemberRole;
use node_core::zxid::ServerId;

use crate::disk::Disk;
use crate::rng::Rng;
use crate::world::World;

/// A kind of fault; some end others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fault {
    /// A server dies; what it has not flushed may be lost.
    Crash,
    CrashLeader,
    CrashSome,
    CrashAll,
    /// Everybody who is down comes back.
    Restart,
    /// All connections between two servers break: what was on its way is lost.
    Cut,
    /// Votes between two servers are lost.
    CutElection,
    /// One direction between two servers.
    OneWay,
    /// A server alone.
    Isolate,
    /// Two halves, whole or with a server in both.
    Split,
    /// Some pairs.
    Partial,
    /// Messages between two servers take long.
    SlowLink,
    /// Connections arrive twice.
    Duplicates,
    /// All of the network is well again.
    Heal,
    SlowDisk,
    /// A disk that does nothing for a while.
    StalledDisk,
    /// A flush fails, and the server cannot start for a while.
    FailedDisk,
    /// There is no room, and the server cannot start for a while.
    FullDisk,
    /// A server comes back with nothing.
    EmptyDisk,
    /// Some bytes change, or a file gets shorter, while a server is down.
    Rot,
    /// A server stands still, shorter or longer than others wait for it.
    Pause,
    PauseLeader,
    /// A server's time runs faster or slower.
    ClockRate,
    /// A leader hands over.
    Resign,
    /// A server gets or loses its vote.
    Reconfig,
}

/// All kinds, with how often they happen where nothing else is said.
const USUAL: &[(Fault, u64)] = &[
    (Fault::Crash, 3),
    (Fault::CrashLeader, 3),
    (Fault::CrashSome, 2),
    (Fault::CrashAll, 1),
    (Fault::Restart, 8),
    (Fault::Cut, 3),
    (Fault::CutElection, 2),
    (Fault::OneWay, 2),
    (Fault::Isolate, 2),
    (Fault::Split, 2),
    (Fault::Partial, 1),
    (Fault::SlowLink, 2),
    (Fault::Duplicates, 1),
    (Fault::Heal, 5),
    (Fault::SlowDisk, 2),
    (Fault::StalledDisk, 2),
    (Fault::FailedDisk, 1),
    (Fault::FullDisk, 1),
    (Fault::EmptyDisk, 1),
    (Fault::Rot, 2),
    (Fault::Pause, 2),
    (Fault::PauseLeader, 1),
    (Fault::ClockRate, 2),
    (Fault::Resign, 1),
    (Fault::Reconfig, 3),
];

/// How often which fault happens in a run.
#[derive(Clone, Debug)]
pub(crate) struct Weights(Vec<(Fault, u64)>);

impl Weights {
    /// Some kinds only, each as often as usual or more often. What ends faults is always among them.
    pub(crate) fn some(rng: &mut Rng) -> Self {
        let mut weights = Vec::new();
        for (fault, weight) in USUAL {
            let ends = matches!(fault, Fault::Restart | Fault::Heal);
            let factor = if ends {
                1 + rng.range(0, 2)
            } else {
                rng.range(0, 4)
            };
            weights.push((*fault, weight * factor));
        }
        Self(weights)
    }

    /// Only these kinds.
    pub(crate) fn only(kinds: &[Fault]) -> Self {
        let usual = USUAL.iter().filter(|(fault, _)| kinds.contains(fault));
        Self(usual.copied().collect())
    }

    fn pick(&self, rng: &mut Rng) -> Fault {
        let total: u64 = self.0.iter().map(|(_, weight)| weight).sum();
        let mut at = rng.range(0, total);
        for (fault, weight) in &self.0 {
            if at < *weight {
                return *fault;
            }
            at -= weight;
        }
        Fault::Restart
    }
}

impl World {
    /// Something goes wrong somewhere.
    pub(crate) fn disturb(&mut self, weights: &Weights) {
        let fault = weights.pick(&mut self.rng);
        self.inflict(fault);
    }

    pub(crate) fn inflict(&mut self, fault: Fault) {
        let ids = self.ids();
        let mut pick = || self.rng.pick(&ids).expect("there are servers");
        let (a, b) = (pick(), pick());
        let leader = self.leader();
        *self.counts.faults.entry(fault).or_default() += 1;
        let now = self.now;
        self.note(|| format!("{now:>6} fault {fault:?} {a} {b}"));
        match fault {
            Fault::Crash => {
                let power = self.rng.one_in(2);
                self.stop(a, power);
            }
            Fault::CrashLeader => leader.into_iter().for_each(|id| self.crash(id)),
            Fault::CrashSome => {
                for id in ids {
                    if self.rng.one_in(2) {
                        self.crash(id);
                    }
                }
            }
            Fault::CrashAll => ids.into_iter().for_each(|id| self.crash(id)),
            Fault::Restart => {
                for id in ids {
                    if self.rng.one_in(2) && !self.is_up(id) {
                        self.nodes.get_mut(&id).expect("it exists").disk_fails = false;
                    }
                    self.start(id);
                }
            }
            Fault::Cut => self.cut(a, b),
            Fault::CutElection => self.cut_election(a, b),
            Fault::OneWay => {
                self.blocked.insert((a, b));
            }
            Fault::Isolate => self.isolate(a),
            Fault::Split => self.split(&ids),
            Fault::Partial => self.cut_off_some(&ids),
            Fault::SlowLink => {
                let ms = self.rng.range(10, 700);
                self.slow.insert((a, b), ms);
            }
            Fault::Duplicates => self.duplicates = true,
            Fault::Heal => self.heal_network(),
            Fault::Pause => self.stand_still(a),
            Fault::PauseLeader => self.stand_still(leader.unwrap_or(a)),
            Fault::Resign => {
                let id = leader.unwrap_or(a);
                if self.is_up(id) && !self.nodes[&id].is_paused {
                    self.step(id, Input::Resign);
                }
            }
            Fault::Reconfig => self.change_votes(a),
            Fault::SlowDisk | Fault::StalledDisk | Fault::ClockRate => self.disturb_one(fault, a),
            Fault::FailedDisk | Fault::FullDisk => {
                if self.is_up(a) {
                    let node = self.nodes.get_mut(&a).expect("it exists");
                    node.disk_fails = true;
                    node.disk.fail(fault == Fault::FullDisk);
                }
            }
            Fault::EmptyDisk | Fault::Rot => self.spoil(fault, a),
        }
        self.update_election_links();
    }

    /// A server's disk loses something, if the others can bear it.
    fn spoil(&mut self, fault: Fault, id: ServerId) {
        if !self.can_spare(id) {
            return;
        }
        if fault == Fault::EmptyDisk {
            return self.empty_disk(id);
        }
        let mut rng = std::mem::replace(&mut self.rng, Rng::new(0));
        let what = self.spoilt(id).rot(&mut rng);
        self.rng = rng;
        self.note(|| format!("rot in {what}"));
    }

    /// A server comes back with an empty disk.
    pub(crate) fn empty_disk(&mut self, id: ServerId) {
        self.spoilt(id).wipe();
    }

    fn spoilt(&mut self, id: ServerId) -> &mut Disk {
        // What a disk has lost of what it knows of itself, together with the power, no server could tell.
        self.stop(id, false);
        self.checkers.has_forgotten(id);
        let disk = &mut self.nodes.get_mut(&id).expect("it exists").disk;
        disk.is_spoilt = true;
        disk
    }

    /// Whether the voters whose disks are whole are a quorum without this one, in every configuration that anybody knows.
    pub(crate) fn can_spare(&self, id: ServerId) -> bool {
        let whole = |voter: ServerId| {
            let node = self.nodes.get(&voter);
            voter != id && node.is_some_and(|node| node.disk.is_whole())
        };
        self.configs().all(|config| config.is_quorum(whole))
    }

    /// Something about one server itself goes wrong, or is well again.
    fn disturb_one(&mut self, fault: Fault, id: ServerId) {
        let (some_ms, again) = (self.rng.range(20, 600), self.rng.one_in(3));
        let per_mille = self.rng.range(700, 1400);
        let now = self.now;
        let node = self.nodes.get_mut(&id).expect("it exists");
        match fault {
            Fault::ClockRate => node
                .clock
                .change_rate(now, if again { 1000 } else { per_mille }),
            _ if again => node.disk_ms = 8,
            Fault::SlowDisk => node.disk_ms = some_ms,
            _ => node.disk_ms = 3000 + some_ms,
        }
    }

    fn stand_still(&mut self, id: ServerId) {
        let ms = match self.rng.range(0, 3) {
            0 => self.rng.range(20, 300),
            1 => self.rng.range(300, 1500),
            _ => self.rng.range(1500, 6000),
        };
        self.pause(id, ms);
    }

    fn isolate(&mut self, id: ServerId) {
        let noticed_by = self.rng.range(0, 4);
        // It lags behind from now on, and clients find that out.
        self.lure = Some((id, self.now + 1500));
        for other in self.ids() {
            self.blocked.extend([(id, other), (other, id)]);
            match noticed_by {
                0 => self.cut(id, other),
                // The others go on at once; a leader that is left alone does not know it yet.
                1 => self.cut(other, id),
                2 if self.rng.one_in(2) => self.cut(id, other),
                _ => {}
            }
        }
    }

    fn split(&mut self, ids: &[ServerId]) {
        let in_both = self.rng.pick(ids).filter(|_| self.rng.one_in(3));
        let left: Vec<ServerId> = ids.iter().copied().filter(|_| self.rng.one_in(2)).collect();
        for a in ids {
            for b in ids {
                let apart = left.contains(a) != left.contains(b);
                if apart && in_both != Some(*a) && in_both != Some(*b) {
                    self.blocked.insert((*a, *b));
                }
            }
        }
    }

    fn cut_off_some(&mut self, ids: &[ServerId]) {
        for a in ids {
            for b in ids {
                if a < b && self.rng.one_in(3) {
                    self.blocked.extend([(*a, *b), (*b, *a)]);
                }
            }
        }
    }

    /// The network is as it should be.
    pub(crate) fn heal_network(&mut self) {
        self.blocked.clear();
        self.slow.clear();
        self.duplicates = false;
    }

    /// Somebody gets or loses a vote.
    pub(crate) fn change_votes(&mut self, id: ServerId) {
        if !self.setup.reconfig_enabled {
            return;
        }
        self.reconfigure(|members| {
            if let Some(member) = members.get_mut(&id) {
                member.role = match member.role {
                    MemberRole::Participant => MemberRole::Observer,
                    MemberRole::Observer => MemberRole::Participant,
                };
            }
        });
    }
}
