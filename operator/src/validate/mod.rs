//! Manifest → [`Cluster`], or every problem in words: which field, what is wrong, what to write instead. Pure.
//!
//! The text is first checked against the CRD's own schema (`schema`), so that unknown fields and wrong types are
//! named by their path, all at once; then what a schema cannot say is checked on the typed object.

mod config;
mod pod;
mod schema;
mod storage;

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use k8s_openapi::api::core::v1::{PodTemplateSpec, ResourceRequirements};
use serde_json::Value;

use crate::cluster::{Cluster, RoleSpec, SERVER_ID_MAX};
use crate::crd::pod::PodSettings;
use crate::crd::spec::{StorageSpec, ZooKeeperEnsembleSpec};
use crate::crd::{API_VERSION, KIND, Setting, ZooKeeperEnsemble, spec_schema};

pub(crate) use storage::bytes;

/// One thing that is wrong with a manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The field, as `spec.voters.replicas`. Empty when the manifest as a whole is meant.
    pub path: String,
    /// What is wrong and what to do about it.
    pub message: String,
}

/// Reads a manifest: one `ZooKeeperEnsemble` as YAML (or JSON).
pub fn parse(text: &str) -> Result<ZooKeeperEnsemble, Vec<Problem>> {
    let value: Value = serde_yaml::from_str(text).map_err(|error| {
        let message = match error.to_string() {
            // The library has no other way to tell this error from the rest.
            many if many.contains("more than one document") => {
                "more than one document (---); write one ensemble a file".to_owned()
            }
            other => format!("not readable as YAML: {other}"),
        };
        vec![Problem::new("", message)]
    })?;
    let mut problems = Vec::new();
    check_envelope(&value, &mut problems);
    if let Some(spec) = value.get("spec") {
        schema::check(spec, spec_schema(), "spec", &mut problems);
    }
    if !problems.is_empty() {
        return Err(problems);
    }
    serde_json::from_value(value)
        .map_err(|error| vec![Problem::new("", format!("not a {KIND}: {error}"))])
}

/// Checks an ensemble and fills in every default.
pub fn validate(ensemble: &ZooKeeperEnsemble) -> Result<Cluster, Vec<Problem>> {
    let mut problems = Vec::new();
    let spec = &ensemble.spec;
    check_counts(spec, &mut problems);
    storage::check("spec.storage", Some(&spec.storage), &mut problems);
    let common = config::check("spec.config", &spec.config, &mut problems);
    let (voters, observers) = (&spec.voters, &spec.observers);
    let voters = own(
        "spec.voters",
        voters.replicas,
        &voters.config,
        &voters.storage,
        &voters.resources,
        &voters.pod,
    );
    let observers = own(
        "spec.observers",
        observers.replicas,
        &observers.config,
        &observers.storage,
        &observers.resources,
        &observers.pod,
    );
    let common_overrides = pod::overrides("spec.pod", &spec.pod, &mut problems);
    let mut role = |own: &Own<'_>| role_spec(spec, &common, &common_overrides, own, &mut problems);
    let (voters, observers) = (role(&voters), role(&observers));
    let after_node_lost = duration(
        "spec.repair.afterNodeLost",
        spec.repair.after_node_lost.as_deref(),
        &mut problems,
    );
    if !problems.is_empty() {
        problems.dedup();
        return Err(problems);
    }
    let metadata = &ensemble.metadata;
    Ok(Cluster {
        name: metadata.name.clone().unwrap_or_default(),
        namespace: metadata
            .namespace
            .clone()
            .unwrap_or_else(|| "default".into()),
        generation: metadata.generation,
        voters,
        observers,
        image: spec.image.clone(),
        restarted_at: spec.restarted_at.clone(),
        paused: spec.update_policy.pause,
        observers_at_once: usize::try_from(spec.update_policy.max_observers_at_once)
            .unwrap_or(1)
            .max(1),
        replace_damaged: spec.repair.replace_damaged,
        after_node_lost,
    })
}

/// What the spec of a role says for itself.
struct Own<'a> {
    path: &'a str,
    replicas: i32,
    config: &'a Config,
    storage: &'a Option<StorageSpec>,
    resources: &'a Option<ResourceRequirements>,
    pod: &'a PodSettings,
}

fn own<'a>(
    path: &'a str,
    replicas: i32,
    config: &'a Config,
    storage: &'a Option<StorageSpec>,
    resources: &'a Option<ResourceRequirements>,
    pod: &'a PodSettings,
) -> Own<'a> {
    Own {
        path,
        replicas,
        config,
        storage,
        resources,
        pod,
    }
}

/// Merges what is common into what a role says for itself.
fn role_spec(
    spec: &ZooKeeperEnsembleSpec,
    common: &BTreeMap<String, String>,
    common_overrides: &Option<PodTemplateSpec>,
    own: &Own<'_>,
    problems: &mut Vec<Problem>,
) -> RoleSpec {
    let path = format!("{}.config", own.path);
    let mut config = common.clone();
    config.extend(config::check(&path, own.config, problems));
    config::check_together(&path, &config, problems);
    storage::check(
        &format!("{}.storage", own.path),
        own.storage.as_ref(),
        problems,
    );
    let overrides = pod::overrides(&format!("{}.pod", own.path), own.pod, problems);
    RoleSpec {
        replicas: usize::try_from(own.replicas).unwrap_or_default(),
        config,
        storage: own.storage.as_ref().unwrap_or(&spec.storage).clone(),
        resources: own.resources.as_ref().or(spec.resources.as_ref()).cloned(),
        pod: pod::merged(&spec.pod, own.pod),
        overrides: common_overrides.iter().cloned().chain(overrides).collect(),
    }
}

/// A time span as `90s`, `10m`, `2h`.
fn duration(path: &str, text: Option<&str>, problems: &mut Vec<Problem>) -> Option<Duration> {
    let text = text?;
    let seconds = [('s', 1), ('m', 60), ('h', 3600)]
        .iter()
        .find_map(|(unit, seconds)| Some(text.strip_suffix(*unit)?.parse::<u64>().ok()? * seconds));
    if seconds.is_none_or(|seconds| seconds == 0) {
        let message =
            format!("{text:?} is not a time span; write for example \"90s\", \"10m\" or \"2h\"");
        problems.push(Problem::new(path, message));
    }
    seconds.map(Duration::from_secs)
}

/// `apiVersion`, `kind`, `metadata.name`, and nothing beside them but `spec` and `status`.
fn check_envelope(value: &Value, problems: &mut Vec<Problem>) {
    let Value::Object(fields) = value else {
        problems.push(Problem::new(
            "",
            format!("not a {KIND}: a manifest has apiVersion, kind, metadata and spec"),
        ));
        return;
    };
    for (field, want) in [("apiVersion", API_VERSION), ("kind", KIND)] {
        match value.get(field).and_then(Value::as_str) {
            Some(found) if found == want => {}
            Some(found) => {
                problems.push(Problem::new(field, format!("is {found:?}; write {want:?}")))
            }
            None => problems.push(Problem::new(field, format!("is missing; write {want:?}"))),
        }
    }
    let known = ["apiVersion", "kind", "metadata", "spec", "status"];
    for field in fields
        .keys()
        .filter(|field| !known.contains(&field.as_str()))
    {
        problems.push(schema::unknown_field(field, field, known.into_iter()));
    }
    match value.pointer("/metadata/name") {
        Some(Value::String(name)) => check_name(name, problems),
        Some(_) => problems.push(Problem::new("metadata.name", "is not a string".into())),
        None => problems.push(Problem::new(
            "metadata.name",
            "is missing; every ensemble has a name".into(),
        )),
    }
    if value.get("spec").is_none() {
        let message = "is missing; write \"spec: {}\" for three voters with default settings";
        problems.push(Problem::new("spec", message.into()));
    }
}

fn check_name(name: &str, problems: &mut Vec<Problem>) {
    let legal = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let ends = |c: Option<char>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    let starts = name.starts_with(|c: char| c.is_ascii_lowercase());
    if !name.chars().all(legal) || !starts || !ends(name.chars().last()) {
        let message = format!(
            "{name:?} cannot be part of a host name; use lower-case letters, digits and \"-\", with a letter first"
        );
        problems.push(Problem::new("metadata.name", message));
    }
    if name.len() > NAME_MAX {
        let message = format!(
            "has {} characters; {NAME_MAX} are allowed, since the names of pods are made from it",
            name.len()
        );
        problems.push(Problem::new("metadata.name", message));
    }
}

fn check_counts(spec: &ZooKeeperEnsembleSpec, problems: &mut Vec<Problem>) {
    let (voters, observers) = (spec.voters.replicas, spec.observers.replicas);
    if voters % 2 == 0 && !spec.allow_even_voters {
        let message = format!(
            "{voters} voters survive no more failures than {}; use {} or {}, or set spec.allowEvenVoters: true",
            voters - 1,
            voters - 1,
            voters + 1
        );
        problems.push(Problem::new("spec.voters.replicas", message));
    }
    if i64::from(voters) + i64::from(observers) > i64::from(SERVER_ID_MAX) {
        let message = format!(
            "voters and observers together may be at most {SERVER_ID_MAX}: there are no more server ids"
        );
        problems.push(Problem::new("spec.observers.replicas", message));
    }
}

impl Problem {
    fn new(path: &str, message: String) -> Self {
        let path = path.to_owned();
        Self { path, message }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, message } = self;
        if path.is_empty() {
            return f.write_str(message);
        }
        write!(f, "{path}: {message}")
    }
}

type Config = BTreeMap<String, Setting>;

/// Longest name of an ensemble.
const NAME_MAX: usize = 40;
