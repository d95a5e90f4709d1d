//! The objects of the API server: untyped, with versions, generations, owners, finalizers and a history, from which
//! a cache of any age can be made.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use super::apply;
use super::defaults;

/// Where an object is found.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    /// The plural, as in a URL: `pods`.
    pub resource: String,
    /// Empty for what belongs to no namespace.
    pub namespace: String,
    pub name: String,
}

/// What a request is answered when it does not work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub code: u16,
    pub reason: &'static str,
    pub message: String,
}

/// How an object is deleted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Deletion {
    pub uid: Option<String>,
    pub resource_version: Option<String>,
    pub grace: Option<i64>,
}

/// An object, and what became of it at which version of the store.
pub type Versions = Vec<(u64, Option<Arc<Value>>)>;

/// All objects.
#[derive(Clone, Debug)]
pub struct Store {
    pub now: Timestamp,
    version: u64,
    uids: u64,
    objects: BTreeMap<Key, Arc<Value>>,
    /// What the one field manager applied last.
    applied: BTreeMap<Key, Arc<Value>>,
    history: BTreeMap<Key, Versions>,
}

impl Store {
    pub fn new(now: Timestamp) -> Self {
        Self {
            now,
            version: 0,
            uids: 0,
            objects: BTreeMap::new(),
            applied: BTreeMap::new(),
            history: BTreeMap::new(),
        }
    }

    /// The version of the last change.
    pub fn version(&self) -> u64 {
        self.version
    }

    pub fn find(&self, key: &Key) -> Option<&Arc<Value>> {
        self.objects.get(key)
    }

    pub fn get(&self, key: &Key) -> Result<Arc<Value>, Refusal> {
        self.objects.get(key).cloned().ok_or_else(|| not_found(key))
    }

    /// All objects of a resource.
    pub fn all<'a>(&'a self, resource: &'a str) -> impl Iterator<Item = (&'a Key, &'a Arc<Value>)> {
        let objects = self.objects.range(Key::new(resource, "", "")..);
        objects.take_while(move |(key, _)| key.resource == resource)
    }

    /// The objects of a resource as they were at a version.
    pub fn at<'a>(
        &'a self,
        resource: &'a str,
        version: u64,
    ) -> impl Iterator<Item = &'a Arc<Value>> {
        let versions = self.history.range(Key::new(resource, "", "")..);
        let versions = versions.take_while(move |(key, _)| key.resource == resource);
        versions.filter_map(move |(_, versions)| {
            let known = versions.partition_point(|(at, _)| *at <= version);
            versions[..known]
                .last()
                .and_then(|(_, object)| object.as_ref())
        })
    }

    /// What the last change of an object changed: paths, with the value before and after.
    pub fn last_change(&self, key: &Key) -> Vec<String> {
        let mut changes = Vec::new();
        if let Some([.., (_, Some(before)), (_, Some(after))]) =
            self.history.get(key).map(Vec::as_slice)
        {
            differences(before, after, "", &mut changes);
        }
        changes
    }

    /// Forgets what nobody will ask for again.
    pub fn forget_before(&mut self, version: u64) {
        self.history.retain(|_, versions| {
            let old = versions.iter().take_while(|(at, _)| *at <= version).count();
            versions.drain(..old.saturating_sub(1));
            versions.len() > 1
                || versions
                    .iter()
                    .all(|(at, object)| *at > version || object.is_some())
        });
    }

    pub fn create(&mut self, key: &Key, mut object: Value) -> Result<Arc<Value>, Refusal> {
        if self.objects.contains_key(key) {
            let message = format!("{} {:?} already exists", key.resource, key.name);
            return Err(Refusal {
                code: 409,
                reason: "AlreadyExists",
                message,
            });
        }
        self.uids += 1;
        let created = rfc3339(self.now);
        let metadata = &mut object["metadata"];
        metadata["name"] = json!(key.name);
        if !key.namespace.is_empty() {
            metadata["namespace"] = json!(key.namespace);
        }
        metadata["uid"] = json!(format!("00000000-0000-4000-8000-{:012}", self.uids));
        metadata["creationTimestamp"] = json!(created);
        if has_generation(&key.resource) {
            metadata["generation"] = json!(1);
        }
        if key.resource == CUSTOM {
            remove(&mut object, "status");
        }
        defaults::fill(&key.resource, &mut object);
        Ok(self.commit(key, object))
    }

    /// Server-side apply, with force, by the one field manager.
    pub fn apply(
        &mut self,
        key: &Key,
        patch: Value,
        subresource: Option<&str>,
    ) -> Result<Arc<Value>, Refusal> {
        let record = record_key(key, subresource);
        let Some(live) = self.objects.get(key).cloned() else {
            if subresource.is_some() || !patch["metadata"]["uid"].is_null() {
                return Err(not_found(key));
            }
            self.applied.insert(record, Arc::new(patch.clone()));
            return self.create(key, patch);
        };
        check_version(key, &live, &patch)?;
        let before = self.applied.get(&record).cloned();
        let mut object = (*live).clone();
        apply::merge(&mut object, before.as_deref(), &patch);
        let updated = self.update(key, &live, object, subresource)?;
        self.applied.insert(record, Arc::new(patch));
        Ok(updated)
    }

    /// A JSON merge patch.
    pub fn merge(
        &mut self,
        key: &Key,
        patch: &Value,
        subresource: Option<&str>,
    ) -> Result<Arc<Value>, Refusal> {
        let live = self.get(key)?;
        check_version(key, &live, patch)?;
        let mut object = (*live).clone();
        merge_patch(&mut object, patch);
        self.update(key, &live, object, subresource)
    }

    /// A replacement; with a version in it, only of that version.
    pub fn replace(
        &mut self,
        key: &Key,
        object: Value,
        subresource: Option<&str>,
    ) -> Result<Arc<Value>, Refusal> {
        let live = self.get(key)?;
        check_version(key, &live, &object)?;
        self.update(key, &live, object, subresource)
    }

    fn update(
        &mut self,
        key: &Key,
        live: &Arc<Value>,
        mut object: Value,
        subresource: Option<&str>,
    ) -> Result<Arc<Value>, Refusal> {
        if subresource == Some("status") {
            let mut only_status = (**live).clone();
            only_status["status"] = object["status"].take();
            object = only_status;
        } else if has_status(&key.resource) {
            match live.get("status") {
                Some(status) => object["status"] = status.clone(),
                None => remove(&mut object, "status"),
            }
        }
        for field in [
            "uid",
            "creationTimestamp",
            "resourceVersion",
            "generation",
            "deletionTimestamp",
            "namespace",
        ] {
            match live["metadata"].get(field) {
                Some(value) => object["metadata"][field] = value.clone(),
                None => remove(&mut object["metadata"], field),
            }
        }
        defaults::fill(&key.resource, &mut object);
        defaults::check_update(&key.resource, live, &object).map_err(|message| Refusal {
            code: 422,
            reason: "Invalid",
            message,
        })?;
        if object == **live {
            return Ok(live.clone());
        }
        let generation = live["metadata"]["generation"].as_i64();
        if let Some(generation) = generation.filter(|_| object["spec"] != live["spec"]) {
            object["metadata"]["generation"] = json!(generation + 1);
        }
        Ok(self.commit(key, object))
    }

    /// Changes an object from inside the cluster: by a controller, the kubelet, or a person.
    pub fn edit(&mut self, key: &Key, change: impl FnOnce(&mut Value)) {
        let Some(live) = self.objects.get(key) else {
            return;
        };
        let mut object = (**live).clone();
        change(&mut object);
        if object == **live {
            return;
        }
        let generation = live["metadata"]["generation"].as_i64();
        if let Some(generation) = generation.filter(|_| object["spec"] != live["spec"]) {
            object["metadata"]["generation"] = json!(generation + 1);
        }
        self.commit(key, object);
    }

    pub fn delete(&mut self, key: &Key, how: &Deletion) -> Result<Arc<Value>, Refusal> {
        let live = self.get(key)?;
        let metadata = &live["metadata"];
        let differs = |wanted: &Option<String>, field: &str| {
            wanted
                .as_ref()
                .is_some_and(|wanted| metadata[field].as_str() != Some(wanted))
        };
        if differs(&how.uid, "uid") || differs(&how.resource_version, "resourceVersion") {
            let message = format!(
                "the precondition of the deletion of {} {:?} does not hold",
                key.resource, key.name
            );
            return Err(Refusal {
                code: 409,
                reason: "Conflict",
                message,
            });
        }
        let at_once = match key.resource.as_str() {
            "pods" => {
                let over = matches!(
                    live["status"]["phase"].as_str(),
                    Some("Succeeded" | "Failed")
                );
                how.grace == Some(0) || over || live["spec"]["nodeName"].is_null()
            }
            _ => metadata["finalizers"].as_array().is_none_or(Vec::is_empty),
        };
        if at_once {
            self.remove(key);
        } else if metadata["deletionTimestamp"].is_null() {
            let (now, grace) = (rfc3339(self.now), how.grace.unwrap_or(30));
            self.edit(key, |object| {
                object["metadata"]["deletionTimestamp"] = json!(now);
                object["metadata"]["deletionGracePeriodSeconds"] = json!(grace);
            });
        }
        Ok(live)
    }

    /// Takes an object away for good.
    pub fn remove(&mut self, key: &Key) {
        if self.objects.remove(key).is_some() {
            self.version += 1;
            self.history
                .entry(key.clone())
                .or_default()
                .push((self.version, None));
            self.applied.retain(|applied, _| {
                (&applied.namespace, &applied.name) != (&key.namespace, &key.name)
                    || applied.resource.split('/').next() != Some(key.resource.as_str())
            });
        }
    }

    /// Deletes what no owner owns any more.
    pub fn collect_garbage(&mut self) {
        let uids: BTreeSet<&str> = self
            .objects
            .values()
            .filter_map(|object| object["metadata"]["uid"].as_str())
            .collect();
        let orphan = |object: &Value| {
            let owners = object["metadata"]["ownerReferences"].as_array();
            owners.is_some_and(|owners| {
                !owners.is_empty()
                    && owners
                        .iter()
                        .all(|owner| !owner["uid"].as_str().is_some_and(|uid| uids.contains(uid)))
            })
        };
        let orphans: Vec<Key> = self
            .objects
            .iter()
            .filter(|(_, object)| {
                object["metadata"]["deletionTimestamp"].is_null() && orphan(object)
            })
            .map(|(key, _)| key.clone())
            .collect();
        for key in orphans {
            self.delete(&key, &Deletion::default())
                .expect("it was just seen");
        }
    }

    fn commit(&mut self, key: &Key, mut object: Value) -> Arc<Value> {
        self.version += 1;
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        let object = Arc::new(object);
        self.objects.insert(key.clone(), object.clone());
        // Nobody watches events here.
        if key.resource != "events" {
            let versions = self.history.entry(key.clone()).or_default();
            versions.push((self.version, Some(object.clone())));
        }
        object
    }
}

impl Key {
    pub fn new(resource: &str, namespace: &str, name: &str) -> Self {
        Self {
            resource: resource.into(),
            namespace: namespace.into(),
            name: name.into(),
        }
    }
}

/// Whether labels fit a selector of the `a=b,c!=d,e` kind.
pub fn selected(object: &Value, selector: &str) -> bool {
    let labels = &object["metadata"]["labels"];
    selector
        .split(',')
        .filter(|part| !part.is_empty())
        .all(|part| {
            if let Some((key, value)) = part.split_once("!=") {
                labels[key.trim()].as_str() != Some(value.trim())
            } else if let Some((key, value)) = part.split_once('=') {
                labels[key.trim()].as_str() == Some(value.trim_start_matches('=').trim())
            } else {
                !labels[part.trim()].is_null()
            }
        })
}

fn differences(before: &Value, after: &Value, path: &str, found: &mut Vec<String>) {
    match (before, after) {
        (Value::Object(old), Value::Object(new)) => {
            let fields: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
            for field in fields {
                differences(
                    &before[field],
                    &after[field],
                    &format!("{path}.{field}"),
                    found,
                );
            }
        }
        (Value::Array(old), Value::Array(new)) if old.len() == new.len() => {
            for (at, (old, new)) in old.iter().zip(new).enumerate() {
                differences(old, new, &format!("{path}[{at}]"), found);
            }
        }
        _ if before == after => {}
        _ => found.push(format!("{path}: {before} to {after}")),
    }
}

fn check_version(key: &Key, live: &Value, object: &Value) -> Result<(), Refusal> {
    let wanted = &object["metadata"];
    let held = |field: &str| wanted[field].is_null() || wanted[field] == live["metadata"][field];
    if held("resourceVersion") && held("uid") {
        return Ok(());
    }
    let message = format!(
        "{} {:?} was changed in the meantime",
        key.resource, key.name
    );
    Err(Refusal {
        code: 409,
        reason: "Conflict",
        message,
    })
}

fn merge_patch(target: &mut Value, patch: &Value) {
    let Value::Object(fields) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    for (field, value) in fields {
        if value.is_null() {
            remove(target, field);
        } else {
            merge_patch(&mut target[field], value);
        }
    }
}

/// Takes a field out of an object.
pub fn remove(object: &mut Value, field: &str) {
    if let Value::Object(fields) = object {
        fields.remove(field);
    }
}

pub fn not_found(key: &Key) -> Refusal {
    let message = format!("{} {:?} not found", key.resource, key.name);
    Refusal {
        code: 404,
        reason: "NotFound",
        message,
    }
}

/// A moment as the API server writes it.
pub fn rfc3339(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

fn record_key(key: &Key, subresource: Option<&str>) -> Key {
    let resource = match subresource {
        Some(subresource) => format!("{}/{subresource}", key.resource),
        None => key.resource.clone(),
    };
    Key {
        resource,
        ..key.clone()
    }
}

fn has_generation(resource: &str) -> bool {
    matches!(
        resource,
        CUSTOM | "pods" | "poddisruptionbudgets" | "networkpolicies" | "deployments"
    )
}

fn has_status(resource: &str) -> bool {
    matches!(
        resource,
        CUSTOM | "pods" | "poddisruptionbudgets" | "persistentvolumeclaims" | "services" | "nodes"
    )
}

/// The plural of the ensembles.
pub const CUSTOM: &str = "zookeeperensembles";
