//! Helm and promtool, and what they print as values.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use serde_json::Value;

/// The namespace that everything is rendered for.
pub(crate) const NAMESPACE: &str = "zk";
/// The release's name.
pub(crate) const RELEASE: &str = "zookeeper-operator";

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The chart's folder.
pub(crate) fn chart() -> PathBuf {
    repository().join("charts/zookeeper-operator")
}

/// A program of the cluster's tools, built when it is not there yet.
pub(crate) fn tool(name: &str) -> Result<PathBuf> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _guard = ONE_AT_A_TIME
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    let cache = match std::env::var_os("ZK_E2E_CACHE") {
        Some(cache) => PathBuf::from(cache),
        None => PathBuf::from(std::env::var_os("HOME").context("HOME is not set")?)
            .join(".cache/zk-e2e-cluster"),
    };
    let path = cache.join("bin").join(name);
    if !path.exists() {
        let build = repository().join("e2e/cluster/build");
        let status = Command::new(&build).arg(name).status().with_context(|| {
            format!(
                "{name} is not in {} and {} cannot be run",
                path.display(),
                build.display()
            )
        })?;
        ensure!(
            status.success(),
            "{} {name} failed ({status})",
            build.display()
        );
    }
    Ok(path)
}

/// What a program printed, or what it said when it failed.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let output = command
        .output()
        .with_context(|| format!("cannot run {command:?}"))?;
    let text = String::from_utf8(output.stdout)?;
    if !output.status.success() {
        let errors = String::from_utf8_lossy(&output.stderr);
        bail!("{command:?} failed ({}):\n{text}{errors}", output.status);
    }
    Ok(text)
}

/// Helm with values (the text of a values file) for the chart.
pub(crate) fn helm(arguments: &[&str], values: &str) -> Result<String> {
    let file = tempfile::NamedTempFile::new()?;
    std::fs::write(file.path(), values)?;
    output(
        Command::new(tool("helm")?)
            .args(arguments)
            .arg(chart())
            .args(["--namespace", NAMESPACE, "--values"])
            .arg(file.path()),
    )
}

/// The objects that the chart makes of these values.
pub(crate) fn render(values: &str) -> Result<Vec<Value>> {
    let text = helm(&["template", RELEASE], values)?;
    let documents = serde_yaml::Deserializer::from_str(&text);
    let objects = documents.map(|document| Ok(Value::deserialize(document)?));
    let objects: Result<Vec<Value>> = objects.collect();
    Ok(objects?.into_iter().filter(|it| !it.is_null()).collect())
}

/// The objects of one kind.
pub(crate) fn of_kind<'a>(objects: &'a [Value], kind: &str) -> Vec<&'a Value> {
    objects.iter().filter(|it| it["kind"] == kind).collect()
}

/// The object of a kind of which there is one.
pub(crate) fn the<'a>(objects: &'a [Value], kind: &str) -> Result<&'a Value> {
    match of_kind(objects, kind).as_slice() {
        [one] => Ok(one),
        others => bail!("{} objects of the kind {kind}", others.len()),
    }
}

/// Whether an object is a part of `helm test`.
pub(crate) fn is_test(object: &Value) -> bool {
    object["metadata"]["annotations"]["helm.sh/hook"] == "test"
}
