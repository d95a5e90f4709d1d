//! A namespace for one test. When the test fails, what was in it is written down before it goes.

use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::kube::cluster::Cluster;
use crate::report::say;
use crate::tools;

/// How long a pod may take to run, with its image loaded.
const POD: Duration = Duration::from_secs(60);
const GONE: &str = "--timeout=120s";

/// A namespace that is there as long as this value.
#[derive(Debug)]
pub struct Namespace<'a> {
    /// The cluster that it is in.
    pub cluster: &'a Cluster,
    /// Its name.
    pub name: String,
    passed: bool,
}

impl<'a> Namespace<'a> {
    /// Makes `NAME-PROCESS`, in which pods must be restricted, as in a cluster that is looked after well.
    pub fn create(cluster: &'a Cluster, name: &str) -> Result<Self> {
        let name = format!("{name}-{}", std::process::id());
        cluster.apply(
            &[],
            &format!(
                "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: {name}\n  labels:\n    \
                 pod-security.kubernetes.io/enforce: restricted\n"
            ),
        )?;
        Ok(Self {
            cluster,
            name,
            passed: false,
        })
    }

    /// Runs kubectl in this namespace.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        let namespace = ["--namespace", &self.name];
        self.cluster.kubectl(&[&namespace, arguments].concat())
    }

    /// Applies the text of a manifest, whose objects name no namespace.
    pub fn apply(&self, manifest: &str) -> Result<String> {
        self.cluster.apply(&["--namespace", &self.name], manifest)
    }

    /// An object as JSON, by kind and name; nothing when it is not there.
    pub fn get(&self, kind: &str, name: &str) -> Result<Option<Value>> {
        self.cluster.get(&["--namespace", &self.name, kind, name])
    }

    /// The objects of a kind that have a label; an empty selector means all.
    pub fn list(&self, kind: &str, selector: &str) -> Result<Vec<Value>> {
        let found = self
            .cluster
            .get(&["--namespace", &self.name, kind, "--selector", selector])?;
        let items = found.map(|mut list| list["items"].take());
        Ok(items
            .and_then(|items| items.as_array().cloned())
            .unwrap_or_default())
    }

    /// Runs a command in a pod; returns what it printed.
    pub fn exec(&self, pod: &str, command: &[&str]) -> Result<String> {
        self.kubectl(&[&["exec", pod, "--"], command].concat())
    }

    /// Waits until `probe` finds something in the object; the error has the object as it was last.
    pub fn wait<T>(
        &self,
        what: &str,
        [kind, name]: [&str; 2],
        patience: Duration,
        mut probe: impl FnMut(&Value) -> Option<T>,
    ) -> Result<T> {
        let mut last = None;
        let found = self.cluster.wait(what, patience, || {
            last = self.get(kind, name)?;
            Ok(last.as_ref().and_then(&mut probe))
        });
        found.with_context(|| match &last {
            Some(object) => format!("{kind} {name} is now\n{object:#}"),
            None => format!("there is no {kind} {name}"),
        })
    }

    /// Waits until a pod is Ready.
    pub fn wait_pod_ready(&self, pod: &str) -> Result<()> {
        let what = format!("pod {pod} to be ready");
        self.wait(&what, ["pod", pod], POD, |pod| {
            condition(pod, "Ready").then_some(())
        })
    }

    /// Runs a pod of one container to its end; returns its log, or an error with it.
    pub fn run_to_end(&self, manifest: &str, pod: &str, patience: Duration) -> Result<String> {
        self.apply(manifest)?;
        self.wait_end(pod, patience)
    }

    /// Waits until a pod of one container has ended, and removes it; returns its log, or an error with it.
    pub fn wait_end(&self, pod: &str, patience: Duration) -> Result<String> {
        let what = format!("pod {pod} to end");
        let phase = self.wait(&what, ["pod", pod], patience, |object| {
            let phase = object["status"]["phase"].as_str()?;
            ["Succeeded", "Failed"]
                .contains(&phase)
                .then(|| phase.to_owned())
        })?;
        let log = self.kubectl(&["logs", pod])?;
        anyhow::ensure!(phase == "Succeeded", "pod {pod} failed:\n{log}");
        self.kubectl(&["delete", "pod", pod, "--wait=false"])?;
        Ok(log)
    }

    /// Says that the test passed, and removes the namespace; returns when its pods are gone. The rest follows by itself.
    pub fn passed(mut self) -> Result<()> {
        self.passed = true;
        self.cluster
            .kubectl(&["delete", "namespace", &self.name, "--wait=false"])?;
        self.kubectl(&["wait", "--for=delete", "pod", "--all", GONE])?;
        Ok(())
    }

    /// Everything that helps to understand a failure, in a file.
    fn write_down(&self) -> Result<()> {
        let mut text = String::new();
        let questions: &[&[&str]] = &[
            &["get", "all,pvc,zookeeperensembles", "--output=wide"],
            &["get", "events", "--sort-by=.lastTimestamp"],
            &["describe", "pods,zookeeperensembles"],
            &["get", "zookeeperensembles", "--output=yaml"],
        ];
        let mut ask = |arguments: &[&str]| {
            let answer = self.kubectl(arguments);
            let answer = answer.unwrap_or_else(|error| format!("{error:#}"));
            text.push_str(&format!("\n=== kubectl {}\n{answer}", arguments.join(" ")));
        };
        questions.iter().for_each(|question| ask(question));
        for pod in self.list("pods", "")? {
            let name = pod["metadata"]["name"].as_str().unwrap_or_default();
            ask(&["logs", name, "--all-containers", "--tail=200"]);
            ask(&["logs", name, "--previous", "--tail=50"]);
        }
        let path = tools::work_dir()?.join(format!("{}.txt", self.name));
        std::fs::write(&path, text)?;
        say(format!("--- what was there is in {}", path.display()));
        Ok(())
    }
}

impl Drop for Namespace<'_> {
    fn drop(&mut self) {
        if self.passed {
            return;
        }
        if let Err(error) = self.write_down() {
            say(format!("--- what was there cannot be told: {error:#}"));
        }
        if std::env::var_os("ZK_E2E_KEEP").is_some() {
            say(format!("--- namespace {} is kept", self.name));
            return;
        }
        let delete = ["delete", "namespace", &self.name, "--wait=false"];
        if let Err(error) = self.cluster.kubectl(&delete) {
            say(format!("--- namespace {} is left: {error:#}", self.name));
        }
    }
}

/// Whether a condition of an object is `True`.
#[must_use]
pub fn condition(object: &Value, kind: &str) -> bool {
    let conditions = object["status"]["conditions"].as_array();
    conditions.into_iter().flatten().any(|condition| {
        condition["type"].as_str() == Some(kind) && condition["status"].as_str() == Some("True")
    })
}

/// The fields of a restricted pod with one container, to go on with at the indentation of `containers[0]`'s keys.
#[must_use]
pub fn pod(name: &str, image: &str, arguments: &[&str]) -> String {
    let arguments = serde_json::to_string(arguments).expect("strings are JSON");
    format!(
        r#"apiVersion: v1
kind: Pod
metadata:
  name: {name}
  labels: {{app: {name}}}
spec:
  restartPolicy: Never
  terminationGracePeriodSeconds: 2
  automountServiceAccountToken: false
  tolerations: [{{operator: Exists}}]
  securityContext: {{runAsNonRoot: true, runAsUser: 1000, runAsGroup: 1000, fsGroup: 1000, seccompProfile: {{type: RuntimeDefault}}}}
  containers:
  - name: main
    image: {image}
    args: {arguments}
    securityContext: {{allowPrivilegeEscalation: false, readOnlyRootFilesystem: true, capabilities: {{drop: [ALL]}}}}
"#
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_condition_that_is_missing_or_false_does_not_hold() {
        let object = json!({"status": {"conditions": [
            {"type": "Ready", "status": "True"}, {"type": "Progressing", "status": "False"}]}});
        assert!(condition(&object, "Ready"));
        assert!(!condition(&object, "Progressing"));
        assert!(!condition(&object, "Degraded"));
        assert!(!condition(&json!({}), "Ready"));
    }
}
