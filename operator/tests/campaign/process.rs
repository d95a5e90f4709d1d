//! An operator of the model's world: passes of the real code over caches of any age, and its death and next life.

use std::any::{Any, TypeId};
use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{ConfigMap, Node, PersistentVolumeClaim, Pod, Service};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::core::PartialObjectMeta;
use kube::{Client, Resource, ResourceExt};
use operator::backend::BackendError;
use operator::client::{Change, ReconfigError};
use operator::crd::ZooKeeperEnsemble;
use operator::ensemble::Told;
use operator::kubernetes::Settings;
use operator::kubernetes::context::{Context, Memory, View};
use operator::kubernetes::members::Members;
use operator::kubernetes::pass::{Outcome, pass};
use operator::kubernetes::seen::Seen;
use operator::kubernetes::shared::{Owned, OwnedObject};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::api_model::{Api, CUSTOM, Cache, Life, Random, Shared};

/// How an operator's watches keep up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Watch {
    /// They show everything at once.
    Fresh,
    /// Each lags behind as it likes, and events in between are missed.
    Gappy,
    /// The first lists come from a version of long ago; then they lag behind.
    Stale(u64),
}

/// One life of an operator.
pub struct Operator {
    pub life: Life,
    context: Context<Reached>,
    memory: Memory,
    cache: Cache,
    watch: Watch,
    random: Random,
}

/// The members of the model, reached by one life of an operator.
#[derive(Clone, Debug)]
pub struct Reached(Life);

impl Members for Reached {
    async fn ask(&self, address: &str) -> Option<Told> {
        self.0.question(|world| world.ask(address)).await
    }

    async fn reconfigure(
        &self,
        addresses: &[String],
        _: &str,
        change: &Change,
    ) -> Result<(), ReconfigError> {
        let what = format!(
            "reconfigure: {:?} join, {:?} leave",
            change.joining, change.leaving
        );
        let answer = self
            .0
            .request(&what, |world| world.reconfigure(addresses, change))
            .await;
        answer.unwrap_or(Err(ReconfigError::Lost))
    }
}

impl Operator {
    /// A process that has just started.
    pub fn start(world: &Shared, id: u64, watch: Watch) -> Self {
        Self::of(Life::new(world, id), watch)
    }

    pub fn of(life: Life, watch: Watch) -> Self {
        let client = Client::new(Api(life.clone()), "ns");
        let cache = match watch {
            Watch::Stale(version) => Cache::stale(version),
            Watch::Fresh | Watch::Gappy => Cache::stale(life.world.lock().store.version()),
        };
        let random = Random::new(life.id);
        let context = Context::new(client, Reached(life.clone()), settings());
        Self {
            context,
            life,
            memory: Memory::default(),
            cache,
            watch,
            random,
        }
    }

    /// One pass; none when it did not live to its end, or there is nothing to look at.
    pub async fn pass(&mut self) -> Option<Result<Outcome, BackendError>> {
        self.catch_up();
        let (ensemble, view, now) = self.look()?;
        let died = self.life.died.clone();
        tokio::select! {
            biased;
            outcome = pass(&self.context, ensemble, view, &mut self.memory, now) => Some(outcome),
            () = died.notified() => None,
        }
    }

    pub fn lives(&self) -> bool {
        self.life.world.lock().alive.contains(&self.life.id)
    }

    fn catch_up(&mut self) {
        let version = self.life.world.lock().store.version();
        for resource in WATCHED {
            let seen = self.cache.version(resource);
            let to = match self.watch {
                Watch::Fresh => version,
                _ if self.random.chance(50) => version,
                _ if self.random.chance(50) => seen + self.random.next() % (version - seen + 1),
                _ => seen,
            };
            self.cache.advance(resource, to);
        }
    }

    /// What the watches show.
    fn look(&self) -> Option<(Arc<ZooKeeperEnsemble>, View, operator::status::Now)> {
        let mut world = self.life.world.lock();
        let ensemble = self.cache.list(&world.store, CUSTOM).into_iter().next()?;
        let lists: Vec<(&str, Vec<Arc<Value>>)> = WATCHED
            .iter()
            .map(|resource| (*resource, self.cache.list(&world.store, resource)))
            .collect();
        lists
            .iter()
            .flat_map(|(_, objects)| objects)
            .for_each(|object| world.show(self.life.id, object));
        let now = world.store.now;
        drop(world);
        let of = |resource: &str| {
            lists
                .iter()
                .find(|(name, _)| *name == resource)
                .map_or(&[][..], |(_, list)| list)
        };
        let seen = Seen {
            pods: of("pods").iter().map(typed::<Pod>).collect(),
            claims: of("persistentvolumeclaims")
                .iter()
                .map(typed::<PersistentVolumeClaim>)
                .collect(),
            configs: of("configmaps").iter().map(typed::<ConfigMap>).collect(),
            nodes: of("nodes").iter().map(typed::<Node>).collect(),
        };
        let mut owned = Owned::new();
        note::<Service>(&mut owned, of("services"));
        note::<ConfigMap>(&mut owned, of("configmaps"));
        note::<PodDisruptionBudget>(&mut owned, of("poddisruptionbudgets"));
        note::<NetworkPolicy>(&mut owned, of("networkpolicies"));
        Some((
            typed::<ZooKeeperEnsemble>(&ensemble),
            View { seen, owned },
            now,
        ))
    }
}

fn note<K>(owned: &mut Owned, objects: &[Arc<Value>])
where
    K: Resource<DynamicType = ()> + Clone + Send + Sync + 'static,
{
    for object in objects {
        let object = typed::<PartialObjectMeta<K>>(object);
        let shown = OwnedObject::of(&object.metadata);
        owned.insert((K::kind(&()).into_owned(), object.name_any()), shown);
    }
}

/// The typed form, made once of each version of an object.
fn typed<K>(object: &Arc<Value>) -> Arc<K>
where
    K: DeserializeOwned + ResourceExt + Send + Sync + 'static,
{
    type Kept = HashMap<(*const Value, TypeId), (Arc<Value>, Arc<dyn Any + Send + Sync>)>;
    thread_local!(static KEPT: RefCell<Kept> = RefCell::default());
    KEPT.with_borrow_mut(|kept| {
        if kept.len() > KEPT_MAX {
            kept.clear();
        }
        let make = || -> Arc<dyn Any + Send + Sync> {
            Arc::new(serde_json::from_value::<K>((**object).clone()).unwrap())
        };
        let (_, typed) = kept
            .entry((Arc::as_ptr(object), TypeId::of::<K>()))
            .or_insert_with(|| (object.clone(), make()));
        Arc::clone(typed).downcast::<K>().unwrap()
    })
}

/// The operator's flags.
pub fn settings() -> Settings {
    Settings {
        node_image: "node:1".into(),
        cluster_domain: "cluster.local".into(),
    }
}

const WATCHED: [&str; 8] = [
    CUSTOM,
    "pods",
    "persistentvolumeclaims",
    "nodes",
    "services",
    "configmaps",
    "poddisruptionbudgets",
    "networkpolicies",
];
const KEPT_MAX: usize = 4_000;
