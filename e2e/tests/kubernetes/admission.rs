//! What the API server itself refuses, each with words that help; and what it accepts.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::kube::cluster::Cluster;
use e2e::kube::ensemble::{Ensemble, KIND, Wanted};
use e2e::kube::namespace::Namespace;
use e2e::report::say;
use serde_json::{Value, json};

use crate::Stage;

const PUBLISHED: Duration = Duration::from_secs(60);

/// Nothing is done for it: only the API server is asked here.
const PAUSED: &str = "  updatePolicy: {pause: true}\n  storage: {size: 2Gi, storageClass: directory, log: {size: 2Gi}}\n";

/// Manifests that are refused when they come, as the part of `spec` that differs, and words of the answer.
const REFUSED: [(&str, &str); 12] = [
    ("voters: {replicas: 4}", "voters.replicas must be odd"),
    (
        "voters: {replicas: 2}",
        "set allowEvenVoters to have it anyway",
    ),
    (
        "voters: {replicas: 0}",
        "should be greater than or equal to 1",
    ),
    (
        "voters: {replicas: 11}",
        "should be less than or equal to 9",
    ),
    (
        "observers: {replicas: -1}",
        "should be greater than or equal to 0",
    ),
    (
        "observers: {replicas: 201}",
        "should be less than or equal to 200",
    ),
    (
        "votters: {replicas: 3}",
        ".spec.votters: field not declared",
    ),
    ("storage: {size: much}", "storage"),
    (
        "updatePolicy: {maxObserversAtOnce: 0}",
        "should be greater than or equal to 1",
    ),
    ("repair: {afterNodeLost: soon}", "should match"),
    ("storage: {whenScaledDown: Shred}", "supported values"),
    (
        "services: {client: {type: ClusterIP, loadBalancerClass: x}}",
        "loadBalancerClass needs type: LoadBalancer",
    ),
];

/// Changes that are refused, as merge patches of `spec`, and words of the answer.
fn refused_changes() -> Vec<(Value, &'static str)> {
    vec![
        (json!({"storage": {"size": "1Gi"}}), "can only grow"),
        (
            json!({"storage": {"log": {"size": "1Gi"}}}),
            "log volume can only grow",
        ),
        (
            json!({"storage": {"storageClass": "other"}}),
            "storage class of the voters cannot change",
        ),
        (json!({"storage": {"log": null}}), "cannot come or go later"),
        (
            json!({"voters": {"storage": {"size": "1Gi", "storageClass": "directory", "log": {"size": "2Gi"}}}}),
            "a voter's volume can only grow",
        ),
        (
            json!({"voters": {"replicas": 2}}),
            "voters.replicas must be odd",
        ),
    ]
}

#[test]
fn the_api_server_refuses_what_cannot_be_meant() -> Result<()> {
    let Some(stage) = Stage::set("admission: the CRD and its rules", "admission")? else {
        return Ok(());
    };
    let namespace = stage.namespace();
    check_definition(namespace.cluster)?;
    for (spec, words) in REFUSED {
        let manifest = format!(
            "apiVersion: zookeeper.ensemble.dev/v1alpha1\nkind: ZooKeeperEnsemble\nmetadata: {{name: bad}}\nspec:\n  {spec}\n"
        );
        refused(&manifest, namespace.apply(&manifest), words)?;
    }
    for name in [&"x".repeat(41), "1st"] {
        let manifest = Wanted::new(1, 0).manifest(name);
        refused(name, namespace.apply(&manifest), "the name must")?;
    }
    let wanted = Wanted {
        more: PAUSED.into(),
        ..Wanted::new(1, 1)
    };
    let ensemble = Ensemble::create(namespace, "demo", &wanted)?;
    let changes = refused_changes();
    for (change, words) in &changes {
        refused(&change.to_string(), ensemble.patch(change), words)?;
    }
    accepted(&ensemble)?;
    check_scale(namespace, &ensemble)?;
    say(format!(
        "{} manifests and {} changes refused with words that help",
        REFUSED.len() + 2,
        changes.len()
    ));
    stage.passed()
}

fn refused<T>(what: &str, answer: Result<T>, words: &str) -> Result<()> {
    let Err(error) = answer else {
        anyhow::bail!("this was accepted: {what}");
    };
    let text = format!("{error:#}");
    ensure!(
        text.to_lowercase().contains(&words.to_lowercase()),
        "no {words:?} in the answer to {what}:\n{text}"
    );
    Ok(())
}

/// The API server found nothing to complain about in the definition.
fn check_definition(cluster: &Cluster) -> Result<()> {
    let found = cluster.get(&["crd", KIND])?;
    let definition = found.context("the definition is installed")?;
    let conditions = definition["status"]["conditions"].as_array();
    for condition in conditions.into_iter().flatten() {
        let good = match condition["type"].as_str() {
            Some(
                "NonStructuralSchema" | "KubernetesAPIApprovalPolicyConformant" | "Terminating",
            ) => "False",
            _ => "True",
        };
        ensure!(condition["status"] == good, "{condition:#}");
    }
    // A new API server takes some seconds to publish the description of a new resource.
    cluster.wait("kubectl explain to know zke", PUBLISHED, || {
        let words = cluster.kubectl(&["explain", "zke.spec.observers.replicas"]);
        let known = words.is_ok_and(|words| words.contains("How many"));
        Ok(known.then_some(()))
    })
}

/// The same rules let through what is meant.
fn accepted(ensemble: &Ensemble<'_>) -> Result<()> {
    let changes = [
        json!({"storage": {"size": "3Gi"}}),
        json!({"storage": {"log": {"size": "3Gi"}}}),
        json!({"voters": {"replicas": 3}}),
        json!({"allowEvenVoters": true, "voters": {"replicas": 2}}),
        json!({"services": {"client": {"type": "LoadBalancer", "loadBalancerClass": "x"}}}),
        json!({"pod": {"overrides": {"spec": {"containers": [{"name": "zookeeper", "env": [{"name": "A", "value": "b"}]}]}}}}),
    ];
    for change in &changes {
        ensemble.patch(change).with_context(|| change.to_string())?;
    }
    Ok(())
}

/// `kubectl scale` and whoever else reads and writes `/scale`.
fn check_scale(namespace: &Namespace<'_>, ensemble: &Ensemble<'_>) -> Result<()> {
    ensemble.scale(4)?;
    let path = format!(
        "/apis/zookeeper.ensemble.dev/v1alpha1/namespaces/{}/zookeeperensembles/demo/scale",
        namespace.name
    );
    let scale: Value = serde_json::from_str(&namespace.cluster.kubectl(&["get", "--raw", &path])?)?;
    ensure!(scale["spec"]["replicas"] == 4, "{scale:#}");
    refused(
        "201 observers by scale",
        ensemble.scale(201),
        "less than or equal to 200",
    )
}
