//! From nothing to an ensemble that serves, by the chart and a manifest; and clients in and outside the cluster.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use e2e::kube::cluster::Image;
use e2e::kube::ensemble::{CLIENT_PORT, Ensemble, KIND, Wanted};
use e2e::kube::forward::Forward;
use e2e::kube::namespace::{Namespace, pod};
use e2e::kube::operator::{NAME, NAMESPACE};
use e2e::python::Program;
use e2e::report::say;
use serde_json::Value;

use crate::Stage;

/// What kazoo's programs need: short sessions, the word `dump`, and container nodes that go soon.
const FOR_KAZOO: &str = "  config:\n    extendedTypesEnabled: true\n    minSessionTimeout: 1000\n    znode.container.checkIntervalMs: 1000\n    \
                         4lw.commands.whitelist: \"*\"\n";
const KAZOO: Duration = Duration::from_secs(180);

#[test]
fn from_nothing_to_three_voters_and_two_observers_and_clients_from_everywhere() -> Result<()> {
    let title = "from helm install and kubectl apply to Ready, clients inside and outside";
    let Some(stage) = Stage::set(title, "install")? else {
        return Ok(());
    };
    // The images are loaded by now: what is measured is the cluster's and the operator's time.
    if !stage.operator.is_given() {
        let uninstall = ["uninstall", NAME, "--namespace", NAMESPACE, "--wait"];
        stage.operator.cluster.helm(&uninstall)?;
    }
    let begin = Instant::now();
    if !stage.operator.is_given() {
        stage.operator.install()?;
    }
    let installed = begin.elapsed();
    let wanted = Wanted {
        more: FOR_KAZOO.into(),
        ..Wanted::new(3, 2)
    };
    let ensemble = stage.ensemble_as(&wanted)?;
    let ready = begin.elapsed();
    say(format!(
        "from helm install and kubectl apply to Ready=True for 3 voters and 2 observers: {:.1} s, of these helm install {:.1} s",
        ready.as_secs_f64(),
        installed.as_secs_f64()
    ));
    check_objects(&ensemble)?;
    check_columns(&ensemble)?;
    kazoo_inside(&ensemble)?;
    kazoo_outside(&ensemble)?;
    no_operator_in_the_way(&ensemble)?;
    stage.passed()
}

/// Everything that the ensemble consists of is there, with the names that applications rely on.
fn check_objects(ensemble: &Ensemble<'_>) -> Result<()> {
    let namespace = ensemble.namespace;
    let there = |kind: &str, name: &str| -> Result<Value> {
        let found = namespace.get(kind, name)?;
        found.with_context(|| format!("there is no {kind} {name}"))
    };
    let headless = there("service", "demo-headless")?;
    ensure!(
        headless["spec"]["publishNotReadyAddresses"] == true,
        "{headless:#}"
    );
    for service in ["demo-client", "demo-observers"] {
        there("service", service)?;
    }
    let voters = there("pdb", "demo-voters")?;
    ensure!(voters["spec"]["minAvailable"] == 2, "{voters:#}");
    let observers = there("pdb", "demo-observers")?;
    ensure!(observers["spec"]["maxUnavailable"] == 1, "{observers:#}");
    there("networkpolicy", "demo")?;
    there("secret", "demo-super")?;
    let config = there("configmap", "demo")?;
    let connect = config["data"]["connect"].as_str().unwrap_or_default();
    let voters: Vec<String> = (1..=3).map(|id| ensemble.address(id)).collect();
    ensure!(connect == voters.join(","), "connect is {connect:?}");
    let client_service = ensemble.client_service();
    let service = config["data"]["service"].as_str().unwrap_or_default();
    ensure!(
        client_service.starts_with(service.split(':').next().unwrap_or("-")),
        "service is {service:?}"
    );
    let claims = namespace.list("pvc", "zookeeper.ensemble.dev/ensemble=demo")?;
    ensure!(claims.len() == 5, "there are {} claims", claims.len());
    runs_as_nobody_special(namespace)
}

/// What Kubernetes says of every container, and what the processes themselves say: no root.
fn runs_as_nobody_special(namespace: &Namespace<'_>) -> Result<()> {
    for pod in namespace.list("pods", "zookeeper.ensemble.dev/ensemble=demo")? {
        let name = pod["metadata"]["name"].as_str().unwrap_or_default();
        let user = &pod["status"]["containerStatuses"][0]["user"]["linux"];
        ensure!(user["uid"] == 1000, "{name} runs as {user}");
        ensure!(
            pod["spec"]["automountServiceAccountToken"] == false,
            "{name} has a token"
        );
    }
    Ok(())
}

/// `kubectl get` tells the essentials.
fn check_columns(ensemble: &Ensemble<'_>) -> Result<()> {
    let table = ensemble.namespace.kubectl(&["get", KIND, "demo"])?;
    let mut lines = table
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>());
    let (heads, values) = (
        lines.next().unwrap_or_default(),
        lines.next().unwrap_or_default(),
    );
    let row: BTreeMap<&str, &str> = heads.into_iter().zip(values).collect();
    let leader = ensemble
        .see()?
        .leader()
        .context("it has a leader")?
        .to_string();
    for (head, value) in [
        ("READY", "True"),
        ("VOTERS", "3"),
        ("OBSERVERS", "2"),
        ("LEADER", &leader),
    ] {
        ensure!(
            row.get(head) == Some(&value),
            "{head} is not {value}:\n{table}"
        );
    }
    Ok(())
}

/// The members' addresses with the given one first.
fn addresses(namespace: &Namespace<'_>, first: u32) -> Result<Vec<String>> {
    let mut pods = namespace.list("pods", "zookeeper.ensemble.dev/ensemble=demo")?;
    let own = format!("demo-{first}");
    pods.sort_by_key(|pod| pod["metadata"]["name"] != *own);
    let address = |pod: &Value| {
        let ip = pod["status"]["podIP"].as_str().unwrap_or_default();
        format!("{ip}:{CLIENT_PORT}")
    };
    Ok(pods.iter().map(address).collect())
}

/// kazoo in pods, through a voter and through an observer at the same time.
fn kazoo_inside(ensemble: &Ensemble<'_>) -> Result<()> {
    let namespace = ensemble.namespace;
    let image = namespace.cluster.image(Image::Kazoo)?;
    let begin = Instant::now();
    let members = [1, 5];
    for id in members {
        let addresses = addresses(namespace, id)?;
        let mut arguments = vec!["/kazoo/main.py"];
        arguments.extend(addresses.iter().map(String::as_str));
        namespace.apply(&pod(&format!("kazoo-{id}"), &image, &arguments))?;
    }
    for id in members {
        let log = namespace.wait_end(&format!("kazoo-{id}"), KAZOO)?;
        say(format!(
            "inside, through member {id}: {}",
            log.trim().replace('\n', ", ")
        ));
    }
    say(format!(
        "kazoo inside the cluster: {:.1} s",
        begin.elapsed().as_secs_f64()
    ));
    Ok(())
}

/// kazoo on this machine, by forwarded ports.
fn kazoo_outside(ensemble: &Ensemble<'_>) -> Result<()> {
    let voter = Forward::start(ensemble.namespace, "pod/demo-2", CLIENT_PORT)?;
    let observer = Forward::start(ensemble.namespace, "pod/demo-4", CLIENT_PORT)?;
    let begin = Instant::now();
    let program = Program::start("main.py", &[voter.address, observer.address])?;
    let log = program.finish()?;
    say(format!(
        "outside, through member 2: {}",
        log.trim().replace('\n', ", ")
    ));
    say(format!(
        "kazoo outside the cluster: {:.1} s",
        begin.elapsed().as_secs_f64()
    ));
    Ok(())
}

/// At rest nothing is left to do, and the service answers under its own name.
fn no_operator_in_the_way(ensemble: &Ensemble<'_>) -> Result<()> {
    let image = ensemble.namespace.cluster.image(Image::Kazoo)?;
    let program = "import sys; from kazoo.client import KazooClient as C; z = C(hosts=sys.argv[1]); z.start(timeout=20); \
                   print(z.get_children('/zookeeper')); z.stop()";
    let service = ensemble.client_service();
    let client = pod("by-service", &image, &["-c", program, &service]);
    let log = ensemble
        .namespace
        .run_to_end(&client, "by-service", Duration::from_secs(60))?;
    ensure!(log.contains("config"), "{service} says {log:?}");
    ensure!(
        ensemble.see()?.is_at_rest(),
        "the ensemble is no longer at rest"
    );
    Ok(())
}
