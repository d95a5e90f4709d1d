//! What every rendering has, whatever the values; what values change; and values that are refused.

use std::collections::BTreeSet;
use std::process::Command;

use anyhow::{Result, ensure};
use serde_json::Value;

use crate::render::{NAMESPACE, chart, helm, is_test, of_kind, output, render, the, tool};

/// Values that differ in all that templates ask about.
const MATRIX: [(&str, &str); 9] = [
    ("the defaults", ""),
    ("namespaces", "watchNamespaces: [shop, search]"),
    ("its own namespace", "watchNamespaces: [zk]"),
    (
        "no definition",
        "crds: {install: false}\nrbac: {aggregate: false}",
    ),
    (
        "a definition that goes",
        "crds: {keep: false, annotations: {a: b}}",
    ),
    (
        "others' accounts and roles",
        "rbac: {create: false, aggregate: false}\nserviceAccount: {create: false, name: theirs}",
    ),
    (
        "one replica alone",
        "replicaCount: 1\npodDisruptionBudget: {enabled: false}\nnetworkPolicy: {enabled: false}\nresources: {}",
    ),
    (
        "monitoring",
        "monitoring:\n  podMonitor: {enabled: true, labels: {release: p}, interval: 30s, relabelings: [{action: labeldrop, regex: x}]}\n  \
         ensemblePodMonitor: {enabled: true, metricRelabelings: [{action: drop, regex: y}]}\n  \
         prometheusRule: {enabled: true, labels: {release: p}, alertLabels: {team: infra}, withoutLeader: {enabled: false}}",
    ),
    (
        "everything else",
        "fullnameOverride: zk-op\ncommonLabels: {team: infra}\ncommonAnnotations: {note: x}\n\
         image: {registry: 'images.test:5000', digest: 'sha256:0123456789012345678901234567890123456789012345678901234567890123', pullPolicy: Always}\n\
         imagePullSecrets: [{name: pull}]\nnodeImage: images.test/node:2\nclusterDomain: k8s.test\nlistenAddress: '[::]'\nconcurrency: 4\n\
         logFormat: text\nlogLevel: debug\nextraArgs: [--lease-namespace=x]\nextraEnv: [{name: A, value: b}]\n\
         serviceAccount: {annotations: {role: r}}\npodLabels: {p: q}\npodAnnotations: {r: s}\nnodeSelector: {disk: ssd}\n\
         tolerations: [{operator: Exists}]\naffinity: {nodeAffinity: {}}\n\
         topologySpreadConstraints: [{maxSkew: 1, topologyKey: zone, whenUnsatisfiable: ScheduleAnyway}]\npriorityClassName: high\n\
         networkPolicy: {from: [{namespaceSelector: {}}]}\ntest: {storageClass: fast}\n\
         extraManifests:\n  - {apiVersion: v1, kind: ConfigMap, metadata: {name: '{{ .Release.Name }}-x', namespace: '{{ .Release.Namespace }}'}}\n  \
         - |\n    apiVersion: v1\n    kind: ConfigMap\n    metadata: {name: y, namespace: zk}\n",
    ),
];

#[test]
fn helm_lint_has_nothing_to_say_against_any_values() -> Result<()> {
    for (name, values) in MATRIX {
        let words = helm(&["lint", "--strict"], values)?;
        ensure!(words.contains("0 chart(s) failed"), "{name}: {words}");
    }
    Ok(())
}

#[test]
fn every_rendering_is_whole() -> Result<()> {
    for (name, values) in MATRIX {
        let objects = render(values)?;
        let mut names = BTreeSet::new();
        for object in &objects {
            let meta = &object["metadata"];
            let identity = format!("{name}: {} {}", object["kind"], meta["name"]);
            ensure!(
                names.insert((identity.clone(), meta["namespace"].to_string())),
                "{identity} twice"
            );
            ensure!(
                object["apiVersion"].is_string() && meta["name"].is_string(),
                "{identity}"
            );
            let cluster = [
                "ClusterRole",
                "ClusterRoleBinding",
                "CustomResourceDefinition",
            ];
            let is_of_cluster = object["kind"]
                .as_str()
                .is_some_and(|kind| cluster.contains(&kind));
            ensure!(
                meta["namespace"].is_string() != is_of_cluster,
                "{identity}: {}",
                meta["namespace"]
            );
            if object["kind"] != "ConfigMap" {
                let label = &meta["labels"]["app.kubernetes.io/name"];
                ensure!(
                    label == "zookeeper-operator",
                    "{identity} is labelled {label}"
                );
            }
        }
        for pod in pods(&objects)? {
            check_restricted(name, pod)?;
        }
    }
    Ok(())
}

fn pods(objects: &[Value]) -> Result<[&Value; 2]> {
    let deployment = the(objects, "Deployment")?;
    let test = the(objects, "Pod")?;
    Ok([&deployment["spec"]["template"]["spec"], &test["spec"]])
}

/// The restricted Pod Security Standard, and a root file system that is read-only.
fn check_restricted(name: &str, pod: &Value) -> Result<()> {
    let all = &pod["securityContext"];
    ensure!(all["runAsNonRoot"] == true, "{name}: {all}");
    ensure!(all["runAsUser"] == 1000, "{name}: {all}");
    ensure!(
        all["seccompProfile"]["type"] == "RuntimeDefault",
        "{name}: {all}"
    );
    for key in ["hostNetwork", "hostPID", "hostIPC", "volumes"] {
        ensure!(pod[key].is_null(), "{name}: the pod has {key}");
    }
    let containers = pod["containers"].as_array().into_iter().flatten();
    for container in containers {
        let own = &container["securityContext"];
        ensure!(own["allowPrivilegeEscalation"] == false, "{name}: {own}");
        ensure!(own["readOnlyRootFilesystem"] == true, "{name}: {own}");
        ensure!(
            own["capabilities"]["drop"] == serde_json::json!(["ALL"]),
            "{name}: {own}"
        );
    }
    Ok(())
}

#[test]
fn the_definition_is_the_one_of_the_types_and_stays() -> Result<()> {
    let file = std::fs::read_to_string(chart().join("files/crd.yaml"))?;
    let file: Value = serde_yaml::from_str(&file)?;
    let objects = render("")?;
    let rendered = the(&objects, "CustomResourceDefinition")?;
    ensure!(
        plain(&rendered["spec"]) == plain(&file["spec"]),
        "helm changes the definition"
    );
    let policy = |it: &Value| it["metadata"]["annotations"]["helm.sh/resource-policy"].clone();
    ensure!(policy(rendered) == "keep");
    let objects = render("crds: {keep: false}")?;
    ensure!(policy(the(&objects, "CustomResourceDefinition")?).is_null());
    let objects = render("crds: {install: false}")?;
    ensure!(of_kind(&objects, "CustomResourceDefinition").is_empty());
    Ok(())
}

/// Helm writes 1 where the file has 1.0.
fn plain(value: &Value) -> Value {
    match value {
        Value::Number(number) => serde_json::json!(number.as_f64()),
        Value::Array(list) => list.iter().map(plain).collect(),
        Value::Object(map) => map
            .iter()
            .map(|(key, it)| (key.clone(), plain(it)))
            .collect(),
        other => other.clone(),
    }
}

#[test]
fn the_call_of_the_operator_says_what_the_values_say() -> Result<()> {
    let container = |values: &str| -> Result<Value> {
        let objects = render(values)?;
        Ok(pods(&objects)?[0]["containers"][0].clone())
    };
    let plain = container("")?;
    let arguments = serde_json::json!([
        "run",
        "--node-image=zookeeper-node:0.1.0",
        "--cluster-domain=cluster.local",
        "--http-address=0.0.0.0:8080",
        "--lease-name=zookeeper-operator",
        "--concurrency=16",
        "--log-format=json"
    ]);
    ensure!(plain["args"] == arguments, "{}", plain["args"]);
    let some = container("watchNamespaces: [shop, search]\nimage: {registry: r.test}")?;
    let said: Vec<&str> = some["args"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    ensure!(
        said.get(1..3) == Some(&["--namespace=shop", "--namespace=search"]),
        "{said:?}"
    );
    ensure!(
        said.contains(&"--node-image=r.test/zookeeper-node:0.1.0"),
        "{said:?}"
    );
    ensure!(
        some["image"] == "r.test/zookeeper-operator:0.1.0",
        "{}",
        some["image"]
    );
    let digest = MATRIX
        .iter()
        .find(|(name, _)| *name == "everything else")
        .map(|(_, values)| *values);
    let last = container(digest.unwrap_or_default())?;
    let image = last["image"].as_str().unwrap_or_default();
    ensure!(
        image.starts_with("images.test:5000/zookeeper-operator@sha256:0123"),
        "{image}"
    );
    Ok(())
}

#[test]
fn wrong_values_are_refused() -> Result<()> {
    for (values, words) in [
        ("replicas: 2", "replicas"),
        ("replicaCount: two", "replicaCount"),
        ("watchNamespaces: shop", "watchNamespaces"),
        ("watchNamespaces: [Shop]", "watchNamespaces"),
        ("crds: {keep: yess}", "crds"),
        ("image: {digest: 'sha256:1'}", "digest"),
        ("logFormat: xml", "logFormat"),
        (
            "monitoring: {prometheusRule: {withoutLeader: {after: 5}}}",
            "withoutLeader",
        ),
    ] {
        let Err(error) = helm(&["template", "r"], values) else {
            anyhow::bail!("{values:?} is taken");
        };
        ensure!(
            format!("{error:#}").contains(words),
            "{values:?}: {error:#}"
        );
    }
    Ok(())
}

#[test]
fn notes_name_the_next_steps_and_what_an_uninstall_takes_along() -> Result<()> {
    let notes = |values: &[&str]| {
        let dry = [
            "install",
            "zookeeper-operator",
            "--dry-run=client",
            "--namespace",
            NAMESPACE,
        ];
        let mut command = Command::new(tool("helm")?);
        // Without a cluster: what a dry run asks of one it must not find by chance.
        command
            .args(dry)
            .arg(chart())
            .args(values)
            .env("KUBECONFIG", "/dev/null");
        output(&mut command)
    };
    let words = notes(&[])?;
    for part in [
        "kubectl -n zk rollout status deployment/zookeeper-operator",
        "kind: ZooKeeperEnsemble",
        "demo-client.zk:2181",
        "Uninstalling leaves the definition and all ensembles",
    ] {
        ensure!(words.contains(part), "{part:?} is not in\n{words}");
    }
    let words = notes(&[
        "--set",
        "crds.keep=false",
        "--set",
        "watchNamespaces={shop}",
    ])?;
    ensure!(words.contains("ALL ENSEMBLES WITH IT"), "{words}");
    ensure!(words.contains("kubectl -n shop get zke demo"), "{words}");
    Ok(())
}

#[test]
fn helm_test_looks_where_the_operator_looks() -> Result<()> {
    for (values, namespace) in [
        ("", "zk"),
        ("watchNamespaces: [shop, zk]", "zk"),
        ("watchNamespaces: [shop, search]", "shop"),
    ] {
        let objects = render(values)?;
        let pod = the(&objects, "Pod")?;
        let arguments = pod["spec"]["containers"][0]["args"].to_string();
        ensure!(
            arguments.contains(&format!("--namespace={namespace}")),
            "{arguments}"
        );
        let roles = of_kind(&objects, "Role")
            .into_iter()
            .filter(|it| is_test(it));
        let of: Vec<&Value> = roles.map(|role| &role["metadata"]["namespace"]).collect();
        ensure!(of == [namespace], "{of:?}");
    }
    Ok(())
}
