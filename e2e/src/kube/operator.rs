//! The operator under test: installed once by its chart, under the rights that the chart gives it.

use std::collections::BTreeSet;
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::kube::cluster::{Cluster, Image};
use crate::kube::namespace::condition;
use crate::report::say;

/// The namespace that it is installed in.
pub const NAMESPACE: &str = "zookeeper-operator";
/// Its release, its Deployment and its lease.
pub const NAME: &str = "zookeeper-operator";
/// The container of its pods.
pub const CONTAINER: &str = "operator";
/// Label of operators that tests start themselves.
const ALONE: &str = "e2e-alone";
const PORT: u16 = 8080;
const REPLICAS: u32 = 2;
/// An operator's pods run, or a new one has taken over.
const PATIENCE: Duration = Duration::from_secs(90);

/// The installed operator.
#[derive(Clone, Copy, Debug)]
pub struct Operator {
    /// Where it is.
    pub cluster: &'static Cluster,
}

impl Operator {
    /// The operator on the cluster of [`Cluster::find`]; the first call installs it. With `ZK_E2E_OPERATOR=there`, the
    /// one that is installed already is used as it is.
    pub fn find() -> Result<Option<Self>> {
        static INSTALLED: OnceLock<()> = OnceLock::new();
        let Some(cluster) = Cluster::find()? else {
            return Ok(None);
        };
        let operator = Self { cluster };
        if INSTALLED.get().is_none() {
            if operator.is_given() {
                say("the operator that is there already is used");
            } else {
                operator.install()?;
            }
            INSTALLED.get_or_init(|| ());
        }
        Ok(Some(operator))
    }

    /// Whether somebody else has installed it.
    #[must_use]
    pub fn is_given(self) -> bool {
        std::env::var("ZK_E2E_OPERATOR").is_ok_and(|how| how == "there")
    }

    /// Installs or upgrades it by its chart, with two replicas; returns when both are ready.
    pub fn install(self) -> Result<()> {
        let namespace = format!(
            "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: {NAMESPACE}\n  labels:\n    \
             pod-security.kubernetes.io/enforce: restricted\n"
        );
        self.cluster.apply(&[], &namespace)?;
        let was_there = self.deployment()?.is_some();
        let chart = concat!(env!("CARGO_MANIFEST_DIR"), "/../charts/zookeeper-operator");
        let settings = self.settings()?;
        let fixed = [
            "upgrade",
            "--install",
            NAME,
            chart,
            "--namespace",
            NAMESPACE,
            "--wait",
            "--timeout=120s",
        ];
        let mut arguments = fixed.to_vec();
        arguments.extend(settings.iter().map(String::as_str));
        self.cluster.helm(&arguments)?;
        if was_there {
            // The image's tag stays the same when the program changes.
            self.kubectl(&["rollout", "restart", "deployment", NAME])?;
            self.kubectl(&["rollout", "status", "deployment", NAME, "--timeout=120s"])?;
        }
        self.wait_acting().map(drop)
    }

    /// The chart's values for the images at hand.
    pub fn settings(self) -> Result<[String; 4]> {
        let image = self.cluster.image(Image::Operator)?;
        let node = self.cluster.image(Image::Node)?;
        let (repository, tag) = image
            .rsplit_once(':')
            .with_context(|| format!("{image} names no tag"))?;
        Ok([
            format!("--set=image.repository={repository}"),
            format!("--set=image.tag={tag}"),
            format!("--set=nodeImage={node}"),
            format!("--set=replicaCount={REPLICAS}"),
        ])
    }

    /// Runs kubectl in the operator's namespace.
    pub fn kubectl(self, arguments: &[&str]) -> Result<String> {
        let namespace = ["--namespace", NAMESPACE];
        self.cluster.kubectl(&[&namespace, arguments].concat())
    }

    fn deployment(self) -> Result<Option<Value>> {
        let arguments = ["--namespace", NAMESPACE, "deployment", NAME];
        self.cluster.get(&arguments)
    }

    /// The Deployment's pods that are not on their way out.
    pub fn pods(self) -> Result<Vec<Value>> {
        let selector = format!("--selector=app.kubernetes.io/name={NAME}");
        let found = self
            .cluster
            .get(&["--namespace", NAMESPACE, "pods", &selector])?;
        let items = found.and_then(|list| list["items"].as_array().cloned());
        let stays = |pod: &Value| {
            pod["metadata"]["deletionTimestamp"].is_null()
                && !pod["metadata"]["ownerReferences"].is_null()
        };
        Ok(items
            .unwrap_or_default()
            .into_iter()
            .filter(stays)
            .collect())
    }

    /// The names of the pods.
    pub fn pod_names(self) -> Result<Vec<String>> {
        let pods = self.pods()?;
        let name = |pod: &Value| {
            pod["metadata"]["name"]
                .as_str()
                .unwrap_or_default()
                .to_owned()
        };
        Ok(pods.iter().map(name).collect())
    }

    /// How many replicas there are to be; returns when they are ready, and one of them acts.
    pub fn scale(self, replicas: u32) -> Result<()> {
        let count = format!("--replicas={replicas}");
        self.kubectl(&["scale", "deployment", NAME, &count])?;
        self.cluster.wait("the operator's replicas", PATIENCE, || {
            let pods = self.pods()?;
            let ready = pods.iter().filter(|pod| condition(pod, "Ready")).count();
            Ok((pods.len() == replicas as usize && ready == pods.len()).then_some(()))
        })?;
        if replicas > 0 {
            self.wait_acting()?;
        }
        Ok(())
    }

    /// As the chart installs it, whatever a test did to it.
    pub fn restore(self) -> Result<()> {
        let selector = format!("--selector={ALONE}=true");
        self.kubectl(&["delete", "pods,leases", &selector, "--ignore-not-found"])?;
        self.scale(REPLICAS)
    }

    /// Who holds the lease, as the lease says; it may be gone by now.
    pub fn lease_holder(self) -> Result<Option<String>> {
        let lease = self
            .cluster
            .get(&["--namespace", NAMESPACE, "lease", NAME])?;
        let holder =
            lease.and_then(|lease| Some(lease["spec"]["holderIdentity"].as_str()?.to_owned()));
        Ok(holder.filter(|holder| !holder.is_empty()))
    }

    /// Waits until a pod that is there holds the lease; returns its name.
    pub fn wait_acting(self) -> Result<String> {
        self.wait_acting_other_than("")
    }

    /// Waits until another pod than `before` holds the lease; returns its name.
    pub fn wait_acting_other_than(self, before: &str) -> Result<String> {
        self.cluster.wait("an operator that acts", PATIENCE, || {
            let Some(holder) = self.lease_holder()?.filter(|holder| holder != before) else {
                return Ok(None);
            };
            Ok(self.pod_names()?.contains(&holder).then_some(holder))
        })
    }

    /// All metrics of one of its pods.
    pub fn metrics_of(self, pod: &str) -> Result<String> {
        let path = format!("/api/v1/namespaces/{NAMESPACE}/pods/{pod}:{PORT}/proxy/metrics");
        self.cluster.kubectl(&["get", "--raw", &path])
    }

    /// The sum of all series of a metric that have these labels, of the pod that acts; none when there is no such series.
    pub fn metric(self, name: &str, labels: &[(&str, &str)]) -> Result<Option<f64>> {
        let text = self.metrics_of(&self.wait_acting()?)?;
        Ok(sum(&text, name, labels))
    }

    /// An error if the operator asked for something that it has no right to.
    pub fn check_rights(self) -> Result<()> {
        for pod in self.pod_names()? {
            let log = self.kubectl(&["logs", &pod, "--tail=-1"])?;
            self.check_log(&pod, &log)?;
        }
        Ok(())
    }

    /// An API server that was just started refuses what it allows a moment later, so what stands in the log is asked anew.
    fn check_log(self, pod: &str, log: &str) -> Result<()> {
        for refusal in refusals(log) {
            let Refusal {
                account,
                verb,
                resource,
                subresource,
                namespace,
            } = &refusal;
            let account = format!("--as={account}");
            let subresource = format!("--subresource={subresource}");
            let scope = match namespace {
                Some(namespace) => format!("--namespace={namespace}"),
                None => "--all-namespaces".to_owned(),
            };
            // It says no by its exit code.
            let question = [
                "auth",
                "can-i",
                verb,
                resource,
                &subresource,
                &scope,
                &account,
            ];
            let may = self.cluster.kubectl(&question);
            may.with_context(|| format!("operator {pod} lacks a right: {refusal:?}"))?;
        }
        ensure!(!log.contains("panicked"), "operator {pod} panicked:\n{log}");
        Ok(())
    }

    /// Runs one more operator as a pod of its own, with the Deployment's own template and account, a lease of its own and
    /// these environment variables. It is not restarted when it ends.
    pub fn start_alone(self, pod: &str, variables: &[(&str, &str)]) -> Result<()> {
        let mut deployment = self.deployment()?.context("the operator is installed")?;
        let mut spec = deployment["spec"]["template"]["spec"].take();
        spec["restartPolicy"] = "Never".into();
        let container = &mut spec["containers"][0];
        let mut arguments = container["args"].as_array().cloned().unwrap_or_default();
        let names_lease = |argument: &Value| {
            let text = argument.as_str().unwrap_or_default();
            text.starts_with("--lease-name=")
        };
        arguments.retain(|argument| !names_lease(argument));
        arguments.push(format!("--lease-name={pod}").into());
        container["args"] = arguments.into();
        let mut environment = container["env"].as_array().cloned().unwrap_or_default();
        let new = variables
            .iter()
            .map(|(name, value)| json!({"name": name, "value": value}));
        environment.extend(new);
        container["env"] = environment.into();
        let labels = json!({"app.kubernetes.io/name": NAME, ALONE: "true"});
        let object = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": pod, "namespace": NAMESPACE, "labels": labels}, "spec": spec,
        });
        self.cluster.apply(&[], &object.to_string()).map(drop)
    }

    /// Waits until an operator that was started alone has ended; returns its exit code.
    pub fn wait_end(self, pod: &str, patience: Duration) -> Result<i64> {
        let what = format!("operator {pod} to end");
        let code = self.cluster.wait(&what, patience, || {
            let found = self
                .cluster
                .get(&["--namespace", NAMESPACE, "pod", pod])?
                .with_context(|| format!("there is no pod {pod}"))?;
            let ended = &found["status"]["containerStatuses"][0]["state"]["terminated"];
            Ok(ended["exitCode"].as_i64())
        });
        code.with_context(|| {
            let log = self.kubectl(&["logs", pod, "--tail=30"]);
            log.unwrap_or_else(|error| format!("{error:#}"))
        })
    }

    /// Checks what an operator that was started alone was refused, and removes it.
    pub fn remove_alone(self, pod: &str) -> Result<()> {
        self.check_log(pod, &self.kubectl(&["logs", pod, "--tail=-1"])?)?;
        self.kubectl(&["delete", "pod", pod])?;
        self.kubectl(&["delete", "lease", pod]).map(drop)
    }
}

/// A request that was refused for want of rights.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Refusal {
    account: String,
    verb: String,
    /// `resource.group`, as `kubectl auth can-i` names it.
    resource: String,
    subresource: String,
    /// None: at the scope of the cluster.
    namespace: Option<String>,
}

/// The refusals in a log: `User "A" cannot list resource "pods" in API group "" in the namespace "n"`.
fn refusals(log: &str) -> BTreeSet<Refusal> {
    let refused = |line: &str| {
        let line = line.replace('\\', "");
        let (_, rest) = line.split_once("forbidden: User \"")?;
        let (account, rest) = rest.split_once("\" cannot ")?;
        let (verb, rest) = rest.split_once(" resource \"")?;
        let (resource, rest) = rest.split_once("\" in API group \"")?;
        let (group, rest) = rest.split_once('"')?;
        let namespace = rest.strip_prefix(" in the namespace \"");
        let namespace = namespace.and_then(|rest| rest.split_once('"'));
        let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
        let dot = if group.is_empty() { "" } else { "." };
        Some(Refusal {
            account: account.to_owned(),
            verb: verb.to_owned(),
            resource: format!("{resource}{dot}{group}"),
            subresource: subresource.to_owned(),
            namespace: namespace.map(|(name, _)| name.to_owned()),
        })
    };
    log.lines().filter_map(refused).collect()
}

/// The sum of a metric's series that have these labels, in the text that Prometheus reads.
#[must_use]
pub fn sum(text: &str, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
    let value = |line: &str| {
        let rest = line.strip_prefix(name)?;
        let (series, value) = rest.rsplit_once(' ')?;
        let is_series = series.is_empty() || series.starts_with('{');
        let has =
            |(label, wanted): &(&str, &str)| series.contains(&format!("{label}=\"{wanted}\""));
        (is_series && labels.iter().all(has)).then(|| value.parse::<f64>().ok())?
    };
    let values: Vec<f64> = text.lines().filter_map(value).collect();
    (!values.is_empty()).then(|| values.iter().sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_of_a_metric_are_summed_by_their_labels() {
        let text = "# HELP a_total words\na_total{x=\"1\",y=\"2\"} 3\na_total{x=\"1\",y=\"3\"} 4\na_total_more 9\nb 5\n";
        assert_eq!(sum(text, "a_total", &[("x", "1")]), Some(7.0));
        assert_eq!(sum(text, "a_total", &[("y", "3")]), Some(4.0));
        assert_eq!(sum(text, "b", &[]), Some(5.0));
        assert_eq!(sum(text, "a_total", &[("x", "2")]), None);
    }

    #[test]
    fn a_refused_right_is_found_and_a_namespace_that_goes_is_none() {
        let refused = r#"{"error":"ApiError: ensembles.x.dev is forbidden: User \"a:b\" cannot patch resource \"ensembles/status\" in API group \"x.dev\" in the namespace \"n\": Forbidden (Status { message: \"ensembles.x.dev is forbidden: User \\\"a:b\\\" cannot\" })"}
            pods is forbidden: User "a:b" cannot list resource "pods" in API group "" at the cluster scope"#;
        let wanted =
            |verb: &str, resource: &str, subresource: &str, namespace: Option<&str>| Refusal {
                account: "a:b".into(),
                verb: verb.into(),
                resource: resource.into(),
                subresource: subresource.into(),
                namespace: namespace.map(str::to_owned),
            };
        let wanted = BTreeSet::from([
            wanted("list", "pods", "", None),
            wanted("patch", "ensembles.x.dev", "status", Some("n")),
        ]);
        assert_eq!(refusals(refused), wanted);
        let going = "pods \"demo-1\" is forbidden: unable to create new content in namespace x because it is being terminated";
        assert!(refusals(going).is_empty());
    }
}
