//! What the world looks like to the planner: everything a decision needs, read once.

use std::collections::BTreeMap;
use std::fmt;

use crate::cluster::{Role, ServerId};
use crate::membership::{Address, Membership};

/// One look at an ensemble.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Observed {
    /// The membership that the ensemble was first started with; none before that was decided and recorded.
    pub initial: Option<Membership>,
    /// The committed membership, as the leader told it. None: unknown, and unknown is unsafe.
    pub committed: Option<Membership>,
    /// The membership that was last known to be committed: what to start members with while none is known.
    pub remembered: Option<Membership>,
    /// Every member that has a home (a folder, a volume), whether it runs or not.
    pub members: BTreeMap<ServerId, Member>,
}

/// One member.
#[derive(Clone, Debug, PartialEq)]
pub struct Member {
    /// What it is meant to be, recorded when it was created. A future voter is a member of this role that the
    /// membership still calls an observer.
    pub role: Role,
    /// Created when the ensemble was: it may start with the first membership. A newcomer, whose disk is empty, never may.
    pub founder: bool,
    /// Scaled away, with its data kept: it is not started again, and its id stays taken.
    pub retired: bool,
    /// Where it is reached.
    pub address: Address,
    /// Its process or pod.
    pub instance: Instance,
    /// Hash of the template that it runs with (or last ran with).
    pub template_hash: Option<String>,
    /// The role that its own `zoo.cfg` says.
    pub rendered_role: Option<Role>,
    /// What it said when it was asked; none when it did not answer.
    pub answer: Option<Answer>,
    /// Retired because another member takes its place: its data goes by policy, once it is certain that it runs no more.
    pub replaced: bool,
    /// Its pod.
    pub pod: PodFacts,
    /// What keeps it from running, in words.
    pub trouble: Option<Trouble>,
    /// Why it can never come back with its data; another member must take its place.
    pub condemned: Option<Condemned>,
    /// Its pod is being evicted, by a drain for example.
    pub evicted: bool,
    /// Its volume is smaller than the manifest asks for.
    pub undersized: bool,
}

/// What a cluster says of a member's pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodFacts {
    /// Its name; none when there is no pod.
    pub name: Option<String>,
    /// Tells it from the pods of this name before and after it.
    pub uid: Option<String>,
    /// Where it runs.
    pub node: Option<String>,
    /// The zone of that node.
    pub zone: Option<String>,
    /// How often its container was restarted in place.
    pub restarts: i32,
    /// Whether the kubelet's probe says that it serves; none when there is no such thing.
    pub ready: Option<bool>,
}

/// What keeps a member from running.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// Whose turn it is.
    pub kind: TroubleKind,
    /// What is wrong and what to do about it.
    pub words: String,
}

/// Sorts of trouble, by what helps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TroubleKind {
    /// The manifest has to change: image, configuration, pod settings.
    Template,
    /// The cluster has no room for it, or may not give it.
    Scheduling,
    /// Its node is not there.
    Node,
    /// Its volume.
    Volume,
    /// It dies, and is started again.
    Crash,
}

/// Why a member can never come back with its data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condemned {
    /// Its volume was deleted, or is on its way out.
    VolumeDeleted,
    /// The cluster says that the volume behind the claim is lost.
    VolumeLost,
    /// It says itself that its data is damaged, again and again.
    StorageDamaged,
    /// Its node has not been ready for longer than the manifest allows; which, as `its node n2`.
    NodeLost(String),
}

/// A member's process or pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Instance {
    /// It was never started.
    New,
    /// It is down and may be started.
    Stopped,
    /// It died, and the time to try again has not come.
    Failed,
    /// It runs.
    Running,
    /// It was told to stop and still runs.
    Stopping,
}

/// What a member says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// What it is just now.
    pub state: State,
    /// Last transaction that it applied.
    pub zxid: u64,
    /// Version of the membership that it holds; none when it did not tell.
    pub config_version: Option<u64>,
}

/// What a member is just now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It leads.
    Leader,
    /// It follows, in sync, and serves.
    Follower,
    /// It observes, in sync, and serves.
    Observer,
    /// It runs and does not serve: it looks for a leader, or is still catching up.
    NotServing,
}

/// Transactions that a member may be behind and still count as caught up: it is asked a moment after the leader.
pub const LAG_MAX: u64 = 5_000;

impl Observed {
    /// The leader: of several that say so, the one of the newest epoch.
    pub fn leader(&self) -> Option<ServerId> {
        let leaders = self
            .members
            .iter()
            .filter(|(_, member)| member.state() == Some(State::Leader));
        leaders
            .max_by_key(|(_, member)| member.zxid())
            .map(|(id, _)| *id)
    }

    /// The leader's last transaction.
    pub fn leader_zxid(&self) -> Option<u64> {
        self.leader()
            .and_then(|id| self.members.get(&id))
            .map(Member::zxid)
    }

    /// Whether a member serves in the role that the committed membership gives it, is caught up and holds that membership.
    pub fn healthy(&self, id: ServerId) -> bool {
        let (Some(member), Some(committed)) = (self.members.get(&id), &self.committed) else {
            return false;
        };
        let Some(answer) = &member.answer else {
            return false;
        };
        // A member whose role has just changed still shows the old one for a moment.
        let in_role = match committed.role(id) {
            Some(Role::Voter) => matches!(answer.state, State::Leader | State::Follower),
            Some(Role::Observer) => answer.state == State::Observer,
            None => answer.state != State::NotServing,
        };
        member.instance == Instance::Running
            && in_role
            && answer.config_version == Some(committed.version)
            && self.lag(id).is_some_and(|lag| lag <= LAG_MAX)
    }

    /// Transactions behind the leader; none when that is unknown. A learner that took nothing since the leader's
    /// epoch began still shows a zxid of the epoch before; what the leader proposed since then is the difference.
    pub fn lag(&self, id: ServerId) -> Option<u64> {
        let leader = self.leader_zxid()?;
        let member = self.members.get(&id)?.answer.as_ref()?.zxid;
        Some(match epoch(leader) == epoch(member) {
            true => leader.saturating_sub(member),
            false if leader < member => 0,
            false => leader & u64::from(u32::MAX),
        })
    }

    /// The membership to start members with: the committed one, or the last that was known.
    pub fn known(&self) -> Option<&Membership> {
        let known = self.committed.as_ref().or(self.remembered.as_ref());
        known.or(self.initial.as_ref())
    }

    /// The members of a role that are meant to stay.
    pub fn with_role(&self, role: Role) -> impl Iterator<Item = ServerId> {
        let members = self.members.iter();
        members
            .filter(move |(_, member)| member.role == role && !member.retired)
            .map(|(id, _)| *id)
    }
}

impl Member {
    /// A member that was just given a home.
    pub fn new(role: Role, founder: bool, address: Address) -> Self {
        Self {
            role,
            founder,
            retired: false,
            address,
            instance: Instance::New,
            template_hash: None,
            rendered_role: None,
            answer: None,
            replaced: false,
            pod: PodFacts::default(),
            trouble: None,
            condemned: None,
            evicted: false,
            undersized: false,
        }
    }

    /// Whether its volume is gone, so that starting it would be of no use.
    pub fn lost_its_volume(&self) -> bool {
        let lost = [Condemned::VolumeDeleted, Condemned::VolumeLost];
        self.condemned
            .as_ref()
            .is_some_and(|why| lost.contains(why))
    }

    /// Whether it is known to serve nobody: it says so itself, or it is silent and the kubelet says so.
    pub fn is_idle(&self) -> bool {
        match self.state() {
            Some(state) => state == State::NotServing,
            None => self.pod.ready == Some(false),
        }
    }

    /// What it said it is.
    pub fn state(&self) -> Option<State> {
        self.answer.as_ref().map(|answer| answer.state)
    }

    fn zxid(&self) -> u64 {
        self.answer.as_ref().map_or(0, |answer| answer.zxid)
    }
}

/// The epoch of a transaction id.
pub fn epoch(zxid: u64) -> u64 {
    zxid >> 32
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.words)
    }
}

impl fmt::Display for Condemned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::VolumeDeleted => f.write_str("its volume was deleted"),
            Self::VolumeLost => f.write_str("its volume is lost"),
            Self::StorageDamaged => f.write_str("its data is damaged"),
            Self::NodeLost(node) => write!(f, "{node} is lost"),
        }
    }
}
