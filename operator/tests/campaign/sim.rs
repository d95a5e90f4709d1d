//! A world with an operator at work: step by step, with whatever is to go wrong.

use std::fmt::Write as _;

use operator::cluster::{Cluster, Role, ServerId};
use operator::crd::ZooKeeperEnsemble;
use operator::kubernetes::pass::Outcome;
use operator::membership::Membership;
use operator::validate::validate;
use serde_json::{Value, json};

use super::api_model::{CUSTOM, Key, Shared, World, bytes};
use super::process::{Operator, Watch};

/// What was done, for the report.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    pub runs: u64,
    pub passes: u64,
    pub requests: u64,
    pub crash_points: u64,
    pub transitions: u64,
}

impl std::ops::AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.runs += other.runs;
        self.passes += other.passes;
        self.requests += other.requests;
        self.crash_points += other.crash_points;
        self.transitions += other.transitions;
    }
}

/// A world and its operator.
pub struct Sim {
    pub world: Shared,
    pub operator: Operator,
    pub watch: Watch,
    pub last: Option<Outcome>,
    pub counts: Counts,
    lives: u64,
}

impl Sim {
    /// An operator starts in a world.
    pub fn new(world: World, watch: Watch) -> Self {
        let lives = world.shown.keys().next_back().copied().unwrap_or_default() + 1;
        let world = Shared::new(world);
        let operator = Operator::start(&world, lives, watch);
        Self {
            world,
            operator,
            watch,
            last: None,
            counts: Counts::default(),
            lives,
        }
    }

    /// The operator is killed, and another one starts with nothing in its memory.
    pub fn restart(&mut self, watch: Watch) {
        self.lives += 1;
        self.world.lock().alive.clear();
        self.watch = watch;
        self.operator = Operator::start(&self.world, self.lives, watch);
    }

    /// One pass and one moment. Fails when something happened that must not.
    pub async fn step(&mut self) -> Result<(), String> {
        let outcome = self.operator.pass().await;
        if let Some(Err(error)) = &outcome {
            self.world
                .lock()
                .note(format!("the pass ends early: {error}"));
        }
        self.last = outcome.and_then(Result::ok);
        self.counts.passes += 1;
        if !self.operator.lives() {
            self.restart(self.watch);
        }
        let mut world = self.world.lock();
        let violations = std::mem::take(&mut world.violations);
        if !violations.is_empty() {
            return Err(violations.join("; "));
        }
        if world.recorder.is_some() {
            world.record();
        }
        world.tick();
        match std::mem::take(&mut world.violations) {
            none if none.is_empty() => Ok(()),
            some => Err(some.join("; ")),
        }
    }

    pub async fn steps(&mut self, count: u64) -> Result<(), String> {
        for _ in 0..count {
            self.step().await?;
        }
        Ok(())
    }

    /// Goes on until the world is what the spec says and the operator has nothing to do.
    pub async fn converge(&mut self) -> Result<(), String> {
        let mut why = String::new();
        for _ in 0..PASSES_MAX {
            self.step().await?;
            let resting = self
                .last
                .as_ref()
                .is_some_and(|last| last.plan.next.is_none() && last.plan.waiting.is_none());
            if !resting {
                continue;
            }
            match settled(&self.world.lock()) {
                Ok(()) => return Ok(()),
                Err(unsettled) => why = unsettled,
            }
        }
        let plan = self
            .last
            .as_ref()
            .map(|last| (last.plan.to_string(), &last.done));
        Err(format!(
            "no rest after {PASSES_MAX} passes: {plan:?}; {why}"
        ))
    }

    /// Goes on until the status says that a person is needed, or that something is waited for.
    pub async fn until_said(&mut self, words: &str) -> Result<(), String> {
        for _ in 0..PASSES_MAX {
            self.step().await?;
            if self
                .world
                .lock()
                .ensemble_object()
                .is_some_and(|it| it["status"].to_string().contains(words))
            {
                return Ok(());
            }
        }
        let status = self
            .world
            .lock()
            .ensemble_object()
            .map(|it| it["status"].to_string());
        Err(format!("the status never says {words:?}: {status:?}"))
    }

    /// At rest nothing is written.
    pub async fn rest(&mut self) -> Result<(), String> {
        // A cache that lags, and a status that waits for its turn, come to rest too.
        self.steps(RESTLESS_PASSES).await?;
        let before = self.world.lock().writes;
        self.steps(RESTING_PASSES).await?;
        let world = self.world.lock();
        if world.writes == before {
            return Ok(());
        }
        let changed = world.store.last_change(&ensemble_key());
        Err(format!(
            "{} writes at rest; the ensemble's last change: {changed:?}",
            world.writes - before
        ))
    }

    /// Everything that one wants to know of a failure.
    pub fn tell(&self, what: &str, why: &str) -> String {
        let world = self.world.lock();
        let mut text = format!("{what}: {why}\n");
        let _ = writeln!(text, "{}", world.trace());
        let _ = writeln!(text, "committed: {:?}", world.ensemble.committed);
        for server in world.ensemble.servers.values() {
            let _ = writeln!(
                text,
                "member {} on {}: {:?}",
                server.id, server.node, server.mode
            );
        }
        for (uid, volume) in &world.volumes {
            let disk = &volume.disk;
            let _ = writeln!(
                text,
                "volume {uid} of {:?}: zxid {:x}, damaged {}",
                volume.identity, disk.zxid, volume.damaged
            );
        }
        if let Some(object) = world.ensemble_object() {
            let _ = writeln!(
                text,
                "spec: {}\nplan: {}",
                object["spec"], object["status"]["plan"]
            );
        }
        text
    }
}

impl World {
    /// The ensemble's object.
    pub fn ensemble_object(&self) -> Option<&Value> {
        self.store.find(&ensemble_key()).map(AsRef::as_ref)
    }

    /// A person makes an ensemble.
    pub fn create_ensemble(&mut self, spec: Value) {
        let object = json!({
            "apiVersion": "zookeeper.ensemble.dev/v1alpha1", "kind": "ZooKeeperEnsemble", "metadata": {}, "spec": spec,
        });
        self.store.create(&ensemble_key(), object).unwrap();
        self.note("the ensemble is created");
    }

    /// A person edits the spec.
    pub fn edit_spec(&mut self, change: impl FnOnce(&mut Value)) {
        self.store
            .edit(&ensemble_key(), |object| change(&mut object["spec"]));
        let spec = self
            .ensemble_object()
            .map(|object| object["spec"].to_string());
        self.note(format!("the spec is now {}", spec.unwrap_or_default()));
    }

    /// What the spec asks for.
    pub fn wanted(&self) -> Result<Cluster, String> {
        let object = self.ensemble_object().ok_or("there is no ensemble")?;
        let ensemble: ZooKeeperEnsemble =
            serde_json::from_value(object.clone()).map_err(|error| error.to_string())?;
        validate(&ensemble).map_err(|problems| format!("{problems:?}"))
    }

    /// A member's pod.
    pub fn pod_key(id: u32) -> Key {
        Key::new("pods", "ns", &format!("demo-{id}"))
    }

    /// The claim of a member's data.
    pub fn claim_key(id: u32) -> Key {
        Key::new("persistentvolumeclaims", "ns", &format!("data-demo-{id}"))
    }

    /// The members of a role in the committed membership.
    pub fn members(&self, role: Role) -> Vec<ServerId> {
        self.ensemble
            .committed
            .iter()
            .flat_map(|committed| committed.with_role(role).collect::<Vec<_>>())
            .collect()
    }

    /// The leader's id.
    pub fn leader(&self) -> Option<ServerId> {
        let leader = self.ensemble.leader.as_ref()?;
        self.ensemble
            .servers
            .get(leader)
            .map(|server| ServerId(server.id))
    }
}

/// Where the ensemble is.
pub fn ensemble_key() -> Key {
    Key::new(CUSTOM, "ns", "demo")
}

/// Whether the world is what the spec asks for.
pub fn settled(world: &World) -> Result<(), String> {
    let cluster = world.wanted()?;
    let committed = world.ensemble.committed.clone().unwrap_or_default();
    for role in [Role::Voter, Role::Observer] {
        let members = world.members(role);
        if members.len() != cluster.role(role).replicas {
            return Err(format!(
                "{members:?} are {role}s, and {} are wanted",
                cluster.role(role).replicas
            ));
        }
        if let Some(down) = members.iter().find(|id| !world.serves(**id)) {
            return Err(format!("member {down} does not serve"));
        }
    }
    // A pod that cannot end on a node that is away stays until the node is back, or is deleted.
    let stranded = |pod: &Value| {
        let node = pod["spec"]["nodeName"].as_str().unwrap_or_default();
        let away = world
            .machines
            .get(node)
            .is_some_and(|machine| machine.lost.is_some());
        away && !pod["metadata"]["deletionTimestamp"].is_null()
    };
    let pods = world
        .store
        .all("pods")
        .filter(|(_, pod)| !stranded(pod))
        .count();
    if pods != committed.servers.len() {
        return Err(format!(
            "{pods} pods for {} members",
            committed.servers.len()
        ));
    }
    settled_objects(world, &cluster, &committed)?;
    settled_shared(world, &cluster)?;
    let status = &world.ensemble_object().ok_or("there is no ensemble")?["status"];
    let ready = status["conditions"].as_array().is_some_and(|conditions| {
        conditions
            .iter()
            .any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
    });
    if !ready {
        return Err(format!("not Ready: {}", status["conditions"]));
    }
    let generation =
        &world.ensemble_object().ok_or("there is no ensemble")?["metadata"]["generation"];
    if status["observedGeneration"] != *generation {
        return Err(format!(
            "the status is of generation {}, not {generation}",
            status["observedGeneration"]
        ));
    }
    Ok(())
}

fn settled_objects(world: &World, cluster: &Cluster, committed: &Membership) -> Result<(), String> {
    let complete = super::process::settings().complete(cluster.clone());
    let desired = operator::desired::desired(&complete);
    for (id, server) in &committed.servers {
        let pod = world
            .store
            .find(&World::pod_key(id.0))
            .ok_or(format!("member {id} has no pod"))?;
        let hash = &pod["metadata"]["annotations"]["zookeeper.ensemble.dev/template-hash"];
        if hash != desired.template(server.role).hash.as_str() {
            return Err(format!("member {id} runs an old template"));
        }
        if pod["metadata"]["labels"]["zookeeper.ensemble.dev/role"] != server.role.to_string() {
            return Err(format!(
                "the pod of member {id} says another role than {}",
                server.role
            ));
        }
        let claim = world
            .store
            .find(&World::claim_key(id.0))
            .ok_or(format!("member {id} has no claim"))?;
        let wanted = &cluster.role(server.role).storage.size.0;
        let size = claim["status"]["capacity"]["storage"]
            .as_str()
            .unwrap_or_default();
        if bytes(size) < bytes(wanted) {
            return Err(format!(
                "the volume of member {id} is too small: {size:?} of {wanted:?}"
            ));
        }
    }
    Ok(())
}

/// The objects that all members share are there when they are to be, and only then.
fn settled_shared(world: &World, cluster: &Cluster) -> Result<(), String> {
    let spec = &world.ensemble_object().ok_or("there is no ensemble")?["spec"];
    let enabled = |what: &str| spec[what]["enabled"] != json!(false);
    let (voters, observers) = (cluster.voters.replicas, cluster.observers.replicas);
    let budgets = enabled("podDisruptionBudget");
    let wanted = [
        ("services", "demo-headless", true),
        ("services", "demo-client", true),
        ("services", "demo-observers", observers > 0),
        ("configmaps", "demo", true),
        ("secrets", "demo-super", true),
        ("networkpolicies", "demo", enabled("networkPolicy")),
        ("poddisruptionbudgets", "demo-voters", budgets && voters > 1),
        (
            "poddisruptionbudgets",
            "demo-observers",
            budgets && observers > 0,
        ),
    ];
    for (resource, name, wanted) in wanted {
        let there = world.store.find(&Key::new(resource, "ns", name)).is_some();
        if there != wanted {
            return Err(format!("{resource} {name}: wanted {wanted}, there {there}"));
        }
    }
    Ok(())
}

/// More passes than any change takes: half an hour of the model's time.
const PASSES_MAX: u64 = 900;
const RESTLESS_PASSES: u64 = 35;
const RESTING_PASSES: u64 = 10;
