//! Everything that is: objects, nodes, volumes, processes, and what has gone wrong with them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};

use k8s_openapi::jiff::{SignedDuration, Timestamp};

use super::ensemble::{Disk, Ensemble};
use super::kubelet::{Machine, Run};
use super::random::Random;
use super::store::Store;

/// A world that an operator's client and the test share.
#[derive(Clone, Debug)]
pub struct Shared(Arc<Mutex<World>>);

/// See the module's text.
#[derive(Clone, Debug)]
pub struct World {
    pub store: Store,
    pub machines: BTreeMap<String, Machine>,
    /// By the uid of the claim.
    pub volumes: BTreeMap<String, Volume>,
    /// What the kubelets know, by the uid of the pod.
    pub runs: BTreeMap<String, Run>,
    pub ensemble: Ensemble,
    /// Operators that live; the requests of a dead one go nowhere.
    pub alive: BTreeSet<u64>,
    /// Uids that each operator has been shown.
    pub shown: BTreeMap<u64, BTreeSet<String>>,
    pub crash: Option<Crash>,
    pub trouble: Option<Trouble>,
    pub requests: u64,
    pub writes: u64,
    /// Verbs and resources that were called.
    pub calls: BTreeSet<(String, String)>,
    /// The world before each write, and after the last one of a pass, while somebody wants to know.
    pub recorder: Option<Vec<Self>>,
    /// What must never happen and did.
    pub violations: Vec<String>,
    trace: VecDeque<String>,
}

/// A volume.
#[derive(Clone, Debug, Default)]
pub struct Volume {
    pub disk: Disk,
    /// What reads it finds it broken.
    pub damaged: bool,
    /// Ensemble and id of the member that wrote to it first.
    pub identity: Option<String>,
}

/// Where an operator dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Crash {
    /// With this many requests to go.
    pub after: u64,
    /// Whether the last request is still carried out.
    pub carried_out: bool,
}

/// Requests that fail by chance.
#[derive(Clone, Debug)]
pub struct Trouble {
    pub random: Random,
    pub percent: u32,
}

impl Shared {
    pub fn new(world: World) -> Self {
        Self(Arc::new(Mutex::new(world)))
    }

    /// The world, for as long as nothing is awaited.
    pub fn lock(&self) -> MutexGuard<'_, World> {
        self.0.lock().expect("whoever panicked has failed the test")
    }
}

impl World {
    /// Nodes that are up, and nothing else.
    pub fn new(nodes: usize) -> Self {
        let start: Timestamp = "2026-01-01T00:00:00Z".parse().expect("it is a moment");
        let mut world = Self {
            store: Store::new(start),
            machines: BTreeMap::new(),
            volumes: BTreeMap::new(),
            runs: BTreeMap::new(),
            ensemble: Ensemble::default(),
            alive: BTreeSet::new(),
            shown: BTreeMap::new(),
            crash: None,
            trouble: None,
            requests: 0,
            writes: 0,
            calls: BTreeSet::new(),
            recorder: None,
            violations: Vec::new(),
            trace: VecDeque::new(),
        };
        for number in 1..=nodes {
            world.add_node(&format!("node-{number}"));
        }
        world
    }

    /// Lets a moment of two seconds pass.
    pub fn tick(&mut self) {
        self.store.now += SignedDuration::from_secs(TICK_SECONDS);
        self.store.collect_garbage();
        self.tick_kubernetes();
        self.tick_ensemble();
        self.report();
    }

    /// Keeps this moment, if somebody wants to come back to it.
    pub fn record(&mut self) {
        if let Some(mut records) = self.recorder.take() {
            records.push(self.clone());
            self.recorder = Some(records);
        }
    }

    /// Begins anew with the story, not with the world.
    pub fn forget(&mut self) {
        self.store.forget_before(self.store.version());
        self.trace.clear();
        (self.requests, self.writes) = (0, 0);
    }

    /// Notes what happened, for whoever reads a failure.
    pub fn note(&mut self, what: impl Into<String>) {
        if self.trace.len() == TRACE_MAX {
            self.trace.pop_front();
        }
        let seconds = self.store.now.as_second() % 100_000;
        self.trace.push_back(format!("{seconds} {}", what.into()));
    }

    /// Notes what must not happen.
    pub fn violation(&mut self, what: impl Into<String>) {
        let what = what.into();
        self.note(format!("VIOLATION: {what}"));
        self.violations.push(what);
    }

    /// What happened lately.
    pub fn trace(&self) -> String {
        self.trace.iter().map(|line| format!("{line}\n")).collect()
    }
}

/// How long a moment is.
pub const TICK_SECONDS: i64 = 2;
const TRACE_MAX: usize = 200;
