//! The controllers and kubelets, as far as members notice: claims are bound, pods are placed, images pulled, processes
//! started, started again and stopped, nodes lost.

use std::sync::Arc;

use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use super::defaults::{CLAIM_IN_USE, bytes};
use super::ensemble::{Mode, Server};
use super::store::{Deletion, Key};
use super::world::{Volume, World};

/// A node.
#[derive(Clone, Debug, Default)]
pub struct Machine {
    pub lost: Option<Lost>,
    pub cordoned: bool,
}

/// How a node was lost.
#[derive(Clone, Copy, Debug)]
pub struct Lost {
    pub since: Timestamp,
    /// Without power its processes are gone; with the cable out they go on.
    pub power: bool,
}

/// What a kubelet knows of a pod.
#[derive(Clone, Debug)]
pub struct Run {
    pub key: Key,
    pub node: String,
    pub stage: Stage,
    pub restarts: u32,
    pub last_exit: Option<i32>,
    /// The mounted file, and the moments until a change of it shows.
    pub mounted: Option<String>,
    pub refresh: u32,
    /// What the kubelet last wrote of it.
    pub reported: Option<(Stage, bool)>,
}

/// How far a pod is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Something that it needs is not there.
    Creating(&'static str),
    Pulling(u32),
    /// The image cannot be had.
    BadImage(u32),
    Running,
    /// It ended and is started again after a pause.
    BackOff(u32),
    /// The process was told to stop.
    Stopping(u32),
}

impl World {
    pub fn add_node(&mut self, name: &str) {
        self.machines.insert(name.into(), Machine::default());
        let node = json!({
            "apiVersion": "v1", "kind": "Node",
            "metadata": {"labels": {"kubernetes.io/hostname": name, "topology.kubernetes.io/zone": "zone-1"}},
            "spec": {},
            "status": {"conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady"}]},
        });
        let key = Key::new("nodes", "", name);
        self.store
            .create(&key, node.clone())
            .expect("nodes have names of their own");
        self.store
            .edit(&key, |live| live["status"] = node["status"].clone());
    }

    pub fn tick_kubernetes(&mut self) {
        self.tick_nodes();
        self.bind_claims();
        self.finish_claims();
        self.place_pods();
        let pods: Vec<(Key, Arc<Value>)> = self
            .store
            .all("pods")
            .map(|(key, pod)| (key.clone(), pod.clone()))
            .collect();
        self.stop_the_gone(&pods);
        for (key, pod) in pods {
            let node = pod["spec"]["nodeName"].as_str().unwrap_or_default();
            if self
                .machines
                .get(node)
                .is_some_and(|machine| machine.lost.is_none())
            {
                self.tick_pod(&key, &pod);
            }
        }
    }

    /// Processes of pods that are gone end, where a kubelet can still end them.
    fn stop_the_gone(&mut self, pods: &[(Key, Arc<Value>)]) {
        let gone: Vec<String> = self
            .runs
            .iter()
            .filter(|(uid, run)| {
                let reached = self
                    .machines
                    .get(&run.node)
                    .is_none_or(|machine| machine.lost.is_none());
                reached
                    && !pods
                        .iter()
                        .any(|(_, pod)| pod["metadata"]["uid"] == uid.as_str())
            })
            .map(|(uid, _)| uid.clone())
            .collect();
        for uid in gone {
            self.stop_server(&uid);
            self.runs.remove(&uid);
        }
    }

    fn tick_nodes(&mut self) {
        let now = self.store.now;
        let lost: Vec<(String, Lost)> = self
            .machines
            .iter()
            .filter_map(|(name, machine)| Some((name.clone(), machine.lost?)))
            .collect();
        for (name, lost) in lost {
            if lost.power {
                let dead: Vec<String> = self
                    .runs
                    .iter()
                    .filter(|(_, run)| run.node == name)
                    .map(|(uid, _)| uid.clone())
                    .collect();
                dead.iter().for_each(|uid| self.stop_server(uid));
            }
            let away = now.duration_since(lost.since).as_secs();
            if away >= UNREACHABLE_SECONDS {
                self.mark_unreachable(&name);
            }
            let shut_down = self.out_of_service(&name);
            for key in self.pods_on(&name) {
                if shut_down {
                    self.store.remove(&key);
                } else if away >= UNREACHABLE_SECONDS + EVICT_SECONDS {
                    let _ = self.store.delete(&key, &Deletion::default());
                }
            }
            if shut_down {
                let dead: Vec<String> = self
                    .runs
                    .iter()
                    .filter(|(_, run)| run.node == name)
                    .map(|(uid, _)| uid.clone())
                    .collect();
                for uid in dead {
                    self.stop_server(&uid);
                    self.runs.remove(&uid);
                }
            }
        }
    }

    fn mark_unreachable(&mut self, name: &str) {
        let now = self.store.now;
        self.store.edit(&Key::new("nodes", "", name), |node| {
            super::report::condition(node, "Ready", "Unknown", now, Some("NodeStatusUnknown"));
            let taints = node["spec"]["taints"]
                .as_array()
                .cloned()
                .unwrap_or_default();
            if !taints.iter().any(|taint| taint["key"] == UNREACHABLE) {
                let mut taints = taints;
                taints.push(json!({"key": UNREACHABLE, "effect": "NoExecute"}));
                node["spec"]["taints"] = json!(taints);
            }
        });
        for key in self.pods_on(name) {
            self.store.edit(&key, |pod| {
                super::report::condition(pod, "Ready", "False", now, Some("NodeLost"))
            });
        }
    }

    fn out_of_service(&self, name: &str) -> bool {
        let node = self.store.find(&Key::new("nodes", "", name));
        let taints = node.and_then(|node| node["spec"]["taints"].as_array());
        taints.is_some_and(|taints| {
            taints
                .iter()
                .any(|taint| taint["key"] == "node.kubernetes.io/out-of-service")
        })
    }

    fn pods_on(&self, name: &str) -> Vec<Key> {
        let pods = self
            .store
            .all("pods")
            .filter(|(_, pod)| pod["spec"]["nodeName"] == name);
        pods.map(|(key, _)| key.clone()).collect()
    }

    /// Loses a node, or gets it back.
    pub fn set_lost(&mut self, name: &str, power: Option<bool>) {
        let now = self.store.now;
        let Some(machine) = self.machines.get_mut(name) else {
            return;
        };
        machine.lost = power.map(|power| Lost { since: now, power });
        self.note(format!("{name} lost: {power:?} (with its power)"));
        if power.is_some() {
            return;
        }
        self.store.edit(&Key::new("nodes", "", name), |node| {
            node["spec"]["taints"] = json!([]);
            super::report::condition(node, "Ready", "True", now, Some("KubeletReady"));
        });
        for (uid, run) in self.runs.iter_mut().filter(|(_, run)| run.node == name) {
            run.reported = None;
            if !self.ensemble.servers.contains_key(uid) && run.stage == Stage::Running {
                (run.stage, run.last_exit) = (Stage::BackOff(1), Some(255));
            }
        }
    }

    fn bind_claims(&mut self) {
        let claims: Vec<(Key, Arc<Value>)> = self
            .store
            .all("persistentvolumeclaims")
            .map(|(key, claim)| (key.clone(), claim.clone()))
            .collect();
        for (key, claim) in claims {
            let uid = claim["metadata"]["uid"]
                .as_str()
                .expect("every object has a uid")
                .to_owned();
            let wanted = &claim["spec"]["resources"]["requests"]["storage"];
            let wanted = wanted.as_str().unwrap_or_default().to_owned();
            if claim["spec"]["volumeName"].is_null() {
                if !claim["metadata"]["deletionTimestamp"].is_null()
                    || claim["spec"]["storageClassName"] == NO_CLASS
                {
                    continue;
                }
                self.volumes.insert(uid.clone(), Volume::default());
                self.store.edit(&key, |claim| {
                    claim["spec"]["volumeName"] = json!(format!("pv-{uid}"));
                    claim["status"] = json!({"phase": "Bound", "capacity": {"storage": wanted}, "accessModes": ["ReadWriteOnce"]});
                });
            } else if claim["status"]["capacity"]["storage"].as_str().map(bytes)
                < Some(bytes(&wanted))
            {
                self.store.edit(&key, |claim| {
                    claim["status"]["capacity"]["storage"] = json!(wanted)
                });
            }
        }
    }

    /// A claim that is being deleted goes when no pod uses it, and its volume with it.
    fn finish_claims(&mut self) {
        let used = |key: &Key| {
            let mut pods = self
                .store
                .all("pods")
                .filter(|(pod, _)| pod.namespace == key.namespace);
            pods.any(|(_, pod)| claims_of(pod).any(|claim| claim == key.name))
        };
        let claims = self.store.all("persistentvolumeclaims");
        let gone: Vec<(Key, String)> = claims
            .filter(|(key, claim)| !claim["metadata"]["deletionTimestamp"].is_null() && !used(key))
            .filter(|(_, claim)| {
                let finalizers = claim["metadata"]["finalizers"].as_array();
                finalizers.is_none_or(|all| all.iter().all(|one| one == CLAIM_IN_USE))
            })
            .map(|(key, claim)| {
                (
                    key.clone(),
                    claim["metadata"]["uid"]
                        .as_str()
                        .unwrap_or_default()
                        .to_owned(),
                )
            })
            .collect();
        for (key, uid) in gone {
            self.note(format!("claim {} is gone", key.name));
            self.store.remove(&key);
            self.volumes.remove(&uid);
        }
    }

    fn place_pods(&mut self) {
        let waiting: Vec<(Key, Arc<Value>)> = self
            .store
            .all("pods")
            .filter(|(_, pod)| {
                pod["spec"]["nodeName"].is_null() && pod["metadata"]["deletionTimestamp"].is_null()
            })
            .map(|(key, pod)| (key.clone(), pod.clone()))
            .collect();
        for (key, pod) in waiting {
            let now = self.store.now;
            match self.node_for(&key, &pod) {
                Ok(node) => self.store.edit(&key, |pod| {
                    pod["spec"]["nodeName"] = json!(node);
                    super::report::condition(pod, "PodScheduled", "True", now, None);
                }),
                Err(message) => self.store.edit(&key, |pod| {
                    super::report::condition(
                        pod,
                        "PodScheduled",
                        "False",
                        now,
                        Some("Unschedulable"),
                    );
                    let conditions = pod["status"]["conditions"]
                        .as_array_mut()
                        .expect("one was just set");
                    let scheduled = conditions
                        .iter_mut()
                        .find(|condition| condition["type"] == "PodScheduled");
                    scheduled.expect("it was just set")["message"] = json!(message);
                }),
            }
        }
    }

    fn node_for(&self, key: &Key, pod: &Value) -> Result<String, String> {
        for name in claims_of(pod) {
            let claim = self
                .store
                .find(&Key::new("persistentvolumeclaims", &key.namespace, name));
            let Some(claim) = claim else {
                return Err(format!("persistentvolumeclaim {name:?} not found"));
            };
            if !claim["metadata"]["deletionTimestamp"].is_null() {
                return Err(format!("persistentvolumeclaim {name:?} is being deleted"));
            }
            if claim["spec"]["volumeName"].is_null() {
                return Err("pod has unbound immediate PersistentVolumeClaims".into());
            }
        }
        let free: Vec<&String> = self
            .machines
            .iter()
            .filter(|(_, machine)| machine.lost.is_none() && !machine.cordoned)
            .map(|(name, _)| name)
            .collect();
        let refused = |why: &str| {
            Err(format!(
                "0/{} nodes are available: {why}.",
                self.machines.len()
            ))
        };
        if cpu_of(pod) > NODE_CPU_MILLI {
            return refused("Insufficient cpu");
        }
        let load = |name: &&&String| (self.pods_on(name).len(), (**name).clone());
        free.iter().min_by_key(load).map_or_else(
            || refused("node(s) were unschedulable"),
            |name| Ok((**name).clone()),
        )
    }

    fn tick_pod(&mut self, key: &Key, pod: &Value) {
        let uid = pod["metadata"]["uid"]
            .as_str()
            .expect("every object has a uid")
            .to_owned();
        if matches!(
            pod["status"]["phase"].as_str(),
            Some("Succeeded" | "Failed")
        ) {
            self.stop_server(&uid);
            if !pod["metadata"]["deletionTimestamp"].is_null() {
                self.store.remove(key);
            }
            return;
        }
        let mut run = self.runs.get(&uid).cloned().unwrap_or_else(|| Run {
            key: key.clone(),
            node: pod["spec"]["nodeName"]
                .as_str()
                .unwrap_or_default()
                .to_owned(),
            stage: Stage::Creating("ContainerCreating"),
            restarts: 0,
            last_exit: None,
            mounted: None,
            refresh: 0,
            reported: None,
        });
        let deleting = !pod["metadata"]["deletionTimestamp"].is_null();
        run.stage = match run.stage {
            Stage::Stopping(0) => {
                self.stop_server(&uid);
                self.runs.remove(&uid);
                self.store.remove(key);
                return;
            }
            Stage::Stopping(left) => {
                self.stop_server(&uid);
                Stage::Stopping(left - 1)
            }
            _ if deleting => Stage::Stopping(1),
            Stage::Creating(_) => self.prepare(key, pod, &mut run),
            Stage::Pulling(0) => self.launch(&uid, pod, &mut run),
            Stage::Pulling(left) => Stage::Pulling(left - 1),
            Stage::BadImage(turn) if image_of(pod).contains(BAD_IMAGE) => Stage::BadImage(turn + 1),
            Stage::BadImage(_) => Stage::Pulling(1),
            Stage::BackOff(0) => {
                run.restarts += 1;
                self.launch(&uid, pod, &mut run)
            }
            Stage::BackOff(left) => Stage::BackOff(left - 1),
            Stage::Running => self.supervise(&uid, &mut run),
        };
        if run.refresh == 0 {
            run.mounted = self.file_of(key, pod).or(run.mounted);
            run.refresh = REFRESH_TICKS;
        }
        run.refresh -= 1;
        self.runs.insert(uid, run);
    }

    /// What a pod needs before its image is pulled.
    fn prepare(&mut self, key: &Key, pod: &Value, run: &mut Run) -> Stage {
        run.mounted = self.file_of(key, pod);
        let uid = self.home_of(key, pod);
        let busy = self
            .ensemble
            .servers
            .values()
            .any(|server| Some(&server.volume) == uid.as_ref());
        if uid.is_none() || busy || run.mounted.is_none() || !self.secrets_there(key, pod) {
            return Stage::Creating("ContainerCreating");
        }
        if image_of(pod).contains(BAD_IMAGE) {
            Stage::BadImage(0)
        } else {
            Stage::Pulling(1)
        }
    }

    fn launch(&mut self, uid: &str, pod: &Value, run: &mut Run) -> Stage {
        let key = run.key.clone();
        let Some(volume) = self.home_of(&key, pod) else {
            return Stage::BackOff(2);
        };
        let Some(id) = argument(pod, "--id").and_then(|id| id.parse().ok()) else {
            run.last_exit = Some(2);
            return Stage::BackOff(2);
        };
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let spec = &pod["spec"];
        let (host, subdomain) = (text(&spec["hostname"]), text(&spec["subdomain"]));
        let server = Server {
            id,
            host: format!("{host}.{subdomain}.{}.svc.cluster.local", key.namespace),
            ip: super::report::ip(uid),
            node: run.node.clone(),
            volume,
            view: Default::default(),
            observer: false,
            mode: Mode::Starting(2),
            silent: 0,
            cut: 0,
            slow: 0,
        };
        super::safety::before_start(self, pod, &server);
        let file = run.mounted.clone().unwrap_or_default();
        match self.start_server(uid, server, &file) {
            Ok(()) => Stage::Running,
            Err(code) => {
                self.note(format!("{} exits with {code}", key.name));
                run.last_exit = Some(code);
                Stage::BackOff((2 << run.restarts.min(4)).min(BACK_OFF_TICKS_MAX))
            }
        }
    }

    /// A process whose disk is found broken ends.
    fn supervise(&mut self, uid: &str, run: &mut Run) -> Stage {
        let server = self.ensemble.servers.get(uid);
        let damaged = server.is_some_and(|it| {
            self.volumes
                .get(&it.volume)
                .is_none_or(|volume| volume.damaged)
        });
        if server.is_some() && !damaged {
            return Stage::Running;
        }
        self.stop_server(uid);
        run.last_exit = Some(if damaged {
            super::ensemble::EXIT_DAMAGED
        } else {
            137
        });
        Stage::BackOff((1 << run.restarts.min(4)).min(BACK_OFF_TICKS_MAX))
    }

    /// The mounted `zoo.cfg`.
    fn file_of(&self, key: &Key, pod: &Value) -> Option<String> {
        let volume = volume_at(pod, "/etc/zookeeper")?;
        let name = volume["configMap"]["name"].as_str()?;
        let map = self
            .store
            .find(&Key::new("configmaps", &key.namespace, name))?;
        map["data"]["zoo.cfg"].as_str().map(str::to_owned)
    }

    /// The volume under `/data`.
    fn home_of(&self, key: &Key, pod: &Value) -> Option<String> {
        let volume = volume_at(pod, "/data")?;
        let name = volume["persistentVolumeClaim"]["claimName"].as_str()?;
        let claim = self
            .store
            .find(&Key::new("persistentvolumeclaims", &key.namespace, name))?;
        let uid = claim["metadata"]["uid"].as_str()?;
        self.volumes.contains_key(uid).then(|| uid.to_owned())
    }

    fn secrets_there(&self, key: &Key, pod: &Value) -> bool {
        let volumes = pod["spec"]["volumes"].as_array().into_iter().flatten();
        let mut names = volumes.filter_map(|volume| volume["secret"]["secretName"].as_str());
        names.all(|name| {
            self.store
                .find(&Key::new("secrets", &key.namespace, name))
                .is_some()
        })
    }
}

fn volume_at<'a>(pod: &'a Value, path: &str) -> Option<&'a Value> {
    let mounts = pod["spec"]["containers"][0]["volumeMounts"].as_array()?;
    let mount = mounts.iter().find(|mount| mount["mountPath"] == path)?;
    let volumes = pod["spec"]["volumes"].as_array()?;
    volumes
        .iter()
        .find(|volume| volume["name"] == mount["name"])
}

/// The claims that a pod uses.
pub fn claims_of(pod: &Value) -> impl Iterator<Item = &str> {
    let volumes = pod["spec"]["volumes"].as_array().into_iter().flatten();
    volumes.filter_map(|volume| volume["persistentVolumeClaim"]["claimName"].as_str())
}

fn image_of(pod: &Value) -> &str {
    pod["spec"]["containers"][0]["image"]
        .as_str()
        .unwrap_or_default()
}

fn argument<'a>(pod: &'a Value, name: &str) -> Option<&'a str> {
    let args = pod["spec"]["containers"][0]["args"].as_array()?;
    let at = args.iter().position(|arg| arg == name)?;
    args.get(at + 1)?.as_str()
}

fn cpu_of(pod: &Value) -> u64 {
    let containers = pod["spec"]["containers"].as_array().into_iter().flatten();
    let requests =
        containers.filter_map(|container| container["resources"]["requests"]["cpu"].as_str());
    let milli = |text: &str| match text.strip_suffix('m') {
        Some(milli) => milli.parse().unwrap_or(0),
        None => bytes(text) * 1000,
    };
    requests.map(milli).sum()
}

/// What no registry has.
pub const BAD_IMAGE: &str = "missing";
/// A class that nothing provisions.
pub const NO_CLASS: &str = "absent";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
/// Node controller and default tolerations, as Kubernetes has them.
const UNREACHABLE_SECONDS: i64 = 40;
const EVICT_SECONDS: i64 = 300;
/// The largest pod that fits a node.
const NODE_CPU_MILLI: u64 = 8_000;
/// Moments until a kubelet looks at a mounted ConfigMap again.
const REFRESH_TICKS: u32 = 5;
const BACK_OFF_TICKS_MAX: u32 = 20;
