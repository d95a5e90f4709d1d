//! What is watched: the ensembles, their pods, claims and other objects, and the nodes. Each change pokes an ensemble.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::{Arc, Mutex, PoisonError};

use futures::StreamExt;
use k8s_openapi::api::core::v1::{ConfigMap, Node, PersistentVolumeClaim, Pod, Service};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::core::{DeserializeGuard, NamespaceResourceScope, PartialObjectMeta};
use kube::runtime::reflector::{Lookup, Store, store};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc::UnboundedSender;
use tokio::task::JoinSet;

use crate::crd::ZooKeeperEnsemble;

use super::queue::Key;
use super::shared::{Owned, OwnedObject};

/// An ensemble as it is watched: one that cannot be read does not hide the others.
pub(super) type Guarded = DeserializeGuard<ZooKeeperEnsemble>;

/// Who is to be looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Poke {
    /// One ensemble.
    One(Key),
    /// All: a watch began anew, or a node changed.
    All,
}

/// Everything that is watched.
pub(super) struct Caches {
    scopes: Vec<Scope>,
    nodes: Store<Node>,
    /// The watches; they end with the caches.
    tasks: JoinSet<()>,
}

/// One namespace, or all.
struct Scope {
    ensembles: Store<Guarded>,
    pods: Store<Pod>,
    claims: Store<PersistentVolumeClaim>,
    services: Store<PartialObjectMeta<Service>>,
    config_maps: Store<ConfigMap>,
    budgets: Store<PartialObjectMeta<PodDisruptionBudget>>,
    policies: Store<PartialObjectMeta<NetworkPolicy>>,
}

impl Caches {
    /// Begins to watch. `namespaces` empty: all.
    pub(super) fn start(
        client: &Client,
        namespaces: &[String],
        poke: &UnboundedSender<Poke>,
    ) -> Self {
        let mut watches = Watches {
            client,
            poke,
            tasks: JoinSet::new(),
        };
        let scopes = match namespaces {
            [] => vec![watches.scope(None)],
            some => some
                .iter()
                .map(|namespace| watches.scope(Some(namespace)))
                .collect(),
        };
        let nodes = watches.nodes();
        Self {
            scopes,
            nodes,
            tasks: watches.tasks,
        }
    }

    /// Waits until each watch has read everything once.
    pub(super) async fn ready(&self) {
        // An error would mean that a watch has ended, which none does before the caches go.
        for scope in &self.scopes {
            let _ = scope.ensembles.wait_until_ready().await;
            let _ = scope.pods.wait_until_ready().await;
            let _ = scope.claims.wait_until_ready().await;
            let _ = scope.services.wait_until_ready().await;
            let _ = scope.config_maps.wait_until_ready().await;
            let _ = scope.budgets.wait_until_ready().await;
            let _ = scope.policies.wait_until_ready().await;
        }
        let _ = self.nodes.wait_until_ready().await;
    }

    /// Waits for a watch to end, which none does unless the operator has a bug. The watches end with what is given.
    pub(super) fn take_tasks(&mut self) -> impl Future<Output = ()> + use<> {
        let mut tasks = std::mem::take(&mut self.tasks);
        async move {
            tasks.join_next().await;
        }
    }

    /// All ensembles.
    pub(super) fn keys(&self) -> Vec<Key> {
        let ensembles = self.scopes.iter().flat_map(|scope| scope.ensembles.state());
        ensembles
            .filter_map(|ensemble| key_of(&*ensemble))
            .collect()
    }

    /// One ensemble.
    pub(super) fn ensemble(&self, key: &Key) -> Option<Arc<Guarded>> {
        let same = |ensemble: &Guarded| key_of(ensemble).as_ref() == Some(key);
        self.scopes
            .iter()
            .find_map(|scope| scope.ensembles.find(same))
    }

    /// An ensemble's pods.
    pub(super) fn pods(&self, key: &Key) -> Vec<Arc<Pod>> {
        belonging(self.scopes.iter().map(|scope| &scope.pods), key)
    }

    /// An ensemble's claims.
    pub(super) fn claims(&self, key: &Key) -> Vec<Arc<PersistentVolumeClaim>> {
        belonging(self.scopes.iter().map(|scope| &scope.claims), key)
    }

    /// An ensemble's ConfigMaps.
    pub(super) fn config_maps(&self, key: &Key) -> Vec<Arc<ConfigMap>> {
        belonging(self.scopes.iter().map(|scope| &scope.config_maps), key)
    }

    /// All nodes, by name.
    pub(super) fn nodes(&self) -> Vec<Arc<Node>> {
        let mut nodes = self.nodes.state();
        nodes.sort_by_key(|node| node.name_any());
        nodes
    }

    /// An ensemble's other objects.
    pub(super) fn owned(&self, key: &Key) -> Owned {
        let mut owned = Owned::new();
        for scope in &self.scopes {
            note(&mut owned, "Service", &scope.services, key);
            note(&mut owned, "ConfigMap", &scope.config_maps, key);
            note(&mut owned, "PodDisruptionBudget", &scope.budgets, key);
            note(&mut owned, "NetworkPolicy", &scope.policies, key);
        }
        owned
    }
}

/// The watches as they are begun.
struct Watches<'a> {
    client: &'a Client,
    poke: &'a UnboundedSender<Poke>,
    tasks: JoinSet<()>,
}

impl Watches<'_> {
    fn scope(&mut self, namespace: Option<&String>) -> Scope {
        Scope {
            ensembles: self.ensembles(namespace),
            pods: self.labelled(namespace, trim),
            claims: self.labelled(namespace, trim),
            services: self.labelled(namespace, trim),
            config_maps: self.labelled(namespace, trim),
            budgets: self.labelled(namespace, trim),
            policies: self.labelled(namespace, trim),
        }
    }

    /// The status is our own work: only what a person writes is news.
    fn ensembles(&mut self, namespace: Option<&String>) -> Store<Guarded> {
        let api: Api<Guarded> = self.api(namespace);
        let news = News::new(|ensemble: &Guarded| {
            let meta = ensemble.meta();
            (
                meta.uid.clone(),
                meta.generation,
                meta.annotations.clone(),
                meta.deletion_timestamp.is_some(),
            )
        });
        let poke = move |ensemble: &Guarded, gone: bool| {
            let key = key_of(ensemble)?;
            news.is_news(&key.to_string(), ensemble, gone)
                .then_some(Poke::One(key))
        };
        self.watch(api, watcher::Config::default(), trim, poke)
    }

    fn labelled<K>(&mut self, namespace: Option<&String>, trim: fn(&mut K)) -> Store<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + DeserializeOwned,
        K: Debug + Send + Sync + 'static,
    {
        let api: Api<K> = self.api(namespace);
        let config = watcher::Config::default().labels(MANAGED);
        self.watch(api, config, trim, |object, _| {
            owner_key(object).map(Poke::One)
        })
    }

    /// A node's heartbeat is no news.
    fn nodes(&mut self) -> Store<Node> {
        let api: Api<Node> = Api::all(self.client.clone());
        let slim = |node: &mut Node| {
            trim(node);
            if let Some(status) = &mut node.status {
                status.images = None;
            }
        };
        let news = News::new(|node: &Node| {
            let spec = node.spec.clone().unwrap_or_default();
            let conditions = node
                .status
                .iter()
                .flat_map(|status| status.conditions.iter().flatten());
            let ready = conditions
                .filter(|it| it.type_ == "Ready")
                .map(|it| it.status.clone());
            (
                node.metadata.labels.clone(),
                spec.taints,
                spec.unschedulable,
                ready.collect::<Vec<_>>(),
            )
        });
        let poke = move |node: &Node, gone: bool| {
            news.is_news(&node.name_any(), node, gone)
                .then_some(Poke::All)
        };
        self.watch(api, watcher::Config::default(), slim, poke)
    }

    fn api<K>(&self, namespace: Option<&String>) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        match namespace {
            Some(namespace) => Api::namespaced(self.client.clone(), namespace),
            None => Api::all(self.client.clone()),
        }
    }

    fn watch<K>(
        &mut self,
        api: Api<K>,
        config: watcher::Config,
        trim: fn(&mut K),
        poke: impl Fn(&K, bool) -> Option<Poke> + Send + 'static,
    ) -> Store<K>
    where
        K: Resource<DynamicType = ()> + Lookup<DynamicType = ()> + Clone + DeserializeOwned,
        K: Debug + Send + Sync + 'static,
    {
        let (reader, writer) = store();
        let send = self.poke.clone();
        let plural = <K as Resource>::plural(&()).into_owned();
        let stream = watcher(api, config)
            .default_backoff()
            .modify(trim)
            .reflect(writer);
        self.tasks.spawn(async move {
            let mut stream = std::pin::pin!(stream);
            while let Some(event) = stream.next().await {
                let poked = match event {
                    Ok(watcher::Event::Apply(object)) => poke(&object, false),
                    Ok(watcher::Event::Delete(object)) => poke(&object, true),
                    // What went while nobody watched is told by nothing but its absence.
                    Ok(watcher::Event::InitDone) => Some(Poke::All),
                    Ok(watcher::Event::Init | watcher::Event::InitApply(_)) => None,
                    Err(error) => {
                        tracing::warn!(resource = plural, %error, "the watch broke off and is begun anew; does the account have list and watch?");
                        None
                    }
                };
                // An error means that the loop has ended, and with it the process.
                let _ = poked.map(|poke| send.send(poke));
            }
        });
        reader
    }
}

/// Tells a change that matters from one that does not.
struct News<K, F, T> {
    print: F,
    last: Mutex<BTreeMap<String, T>>,
    of: std::marker::PhantomData<fn(&K)>,
}

impl<K, T: PartialEq, F: Fn(&K) -> T> News<K, F, T> {
    fn new(print: F) -> Self {
        Self {
            print,
            last: Mutex::new(BTreeMap::new()),
            of: std::marker::PhantomData,
        }
    }

    fn is_news(&self, name: &str, object: &K, gone: bool) -> bool {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if gone {
            last.remove(name);
            return true;
        }
        let print = (self.print)(object);
        if last.get(name) == Some(&print) {
            return false;
        }
        last.insert(name.to_owned(), print);
        true
    }
}

fn belonging<'a, K>(stores: impl Iterator<Item = &'a Store<K>>, key: &Key) -> Vec<Arc<K>>
where
    K: Resource<DynamicType = ()> + Lookup<DynamicType = ()> + Clone + 'static,
{
    let mut objects: Vec<Arc<K>> = stores
        .flat_map(|store| store.state())
        .filter(|object| owner_key(&**object).as_ref() == Some(key))
        .collect();
    objects.sort_by_key(|object| object.name_any());
    objects
}

/// Notes what a cache shows of the objects of one kind.
fn note<K>(owned: &mut Owned, kind: &str, store: &Store<K>, key: &Key)
where
    K: Resource<DynamicType = ()> + Lookup<DynamicType = ()> + Clone + 'static,
{
    for object in belonging(std::iter::once(store), key) {
        let at = (kind.to_owned(), object.name_any());
        owned.insert(at, OwnedObject::of(object.meta()));
    }
}

/// The ensemble that an object names as its own.
fn owner_key<K: Resource>(object: &K) -> Option<Key> {
    Some(Key {
        namespace: object.meta().namespace.clone()?,
        name: object.meta().labels.as_ref()?.get(ENSEMBLE_LABEL)?.clone(),
    })
}

fn key_of<K: Resource>(ensemble: &K) -> Option<Key> {
    Some(Key {
        namespace: ensemble.meta().namespace.clone()?,
        name: ensemble.meta().name.clone()?,
    })
}

/// Drops what nobody reads and what would fill the memory.
fn trim<K: Resource>(object: &mut K) {
    object.meta_mut().managed_fields = None;
}

const MANAGED: &str = "app.kubernetes.io/managed-by=zookeeper-operator";
const ENSEMBLE_LABEL: &str = "zookeeper.ensemble.dev/ensemble";
