//! What the other tests stand on, shown on three servers without an operator: the images, the load in a pod, kazoo inside
//! and outside, and the faults.

use std::fmt::Write;
use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::check;
use e2e::kube::cluster::{Cluster, Image};
use e2e::kube::ensemble::CLIENT_PORT;
use e2e::kube::fault::{Faults, Part, Way};
use e2e::kube::forward::Forward;
use e2e::kube::load::{Load, Plan};
use e2e::kube::namespace::{Namespace, pod};
use e2e::python::Program;
use e2e::report::{millis, say};

const MEMBERS: u32 = 3;
const PATIENCE: Duration = Duration::from_secs(60);
const SERVICE: &str = "apiVersion: v1\nkind: Service\nmetadata: {name: by-hand}\nspec: {clusterIP: None, \
                       publishNotReadyAddresses: true, selector: {part: member}, ports: [{name: client, port: 2181}]}\n";

fn name(namespace: &Namespace<'_>, id: u32) -> String {
    format!("m-{id}.by-hand.{}.svc.cluster.local", namespace.name)
}

fn config(namespace: &Namespace<'_>) -> String {
    let mut text = format!(
        "  zoo.cfg: |\n    dataDir=/data\n    tickTime=500\n    initLimit=20\n    syncLimit=6\n    \
         clientPort={CLIENT_PORT}\n    minSessionTimeout=1000\n    quorumListenOnAllIPs=true\n    \
         extendedTypesEnabled=true\n    4lw.commands.whitelist=*\n    \
         znode.container.checkIntervalMs=1000\n    {}\n",
        check::SUPER_DIGEST
    );
    for id in 1..=MEMBERS {
        let name = name(namespace, id);
        writeln!(text, "    server.{id}={name}:2888:3888").expect("writing to a string");
    }
    format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: by-hand}}\ndata:\n{text}")
}

/// A server; the first container writes its number, which the operator's pods have otherwise.
fn member(cluster: &Cluster, id: u32) -> Result<String> {
    let (node, shell) = (cluster.image(Image::Node)?, cluster.image(Image::Busybox)?);
    let manifest = pod(
        &format!("m-{id}"),
        &node,
        &["serve", "/etc/zookeeper/zoo.cfg"],
    );
    let manifest = manifest
        .replace("restartPolicy: Never", "restartPolicy: Always")
        .replace("  labels: {", "  labels: {part: member, ")
        .replace(
            "spec:\n",
            &format!("spec:\n  hostname: m-{id}\n  subdomain: by-hand\n"),
        )
        + &format!(
            "    volumeMounts: [{{name: data, mountPath: /data}}, {{name: config, mountPath: /etc/zookeeper}}]
    readinessProbe: {{tcpSocket: {{port: {CLIENT_PORT}}}, periodSeconds: 1}}
  initContainers:
  - name: number
    image: {shell}
    args: [-c, 'echo {id} > /data/myid']
    securityContext: {{allowPrivilegeEscalation: false, readOnlyRootFilesystem: true, capabilities: {{drop: [ALL]}}}}
    volumeMounts: [{{name: data, mountPath: /data}}]
  topologySpreadConstraints:
  - {{maxSkew: 1, topologyKey: kubernetes.io/hostname, whenUnsatisfiable: ScheduleAnyway, labelSelector: {{matchLabels: {{part: member}}}}}}
  volumes: [{{name: data, persistentVolumeClaim: {{claimName: data-{id}}}}}, {{name: config, configMap: {{name: by-hand}}}}]
"
        );
    Ok(format!(
        "apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {{name: data-{id}}}\nspec: {{accessModes: \
         [ReadWriteOnce], resources: {{requests: {{storage: 64Mi}}}}}}\n---\n{manifest}"
    ))
}

/// What a member is, as its `srvr` says: `leader`, `follower`; nothing when it does not serve.
fn mode(namespace: &Namespace<'_>, id: u32) -> Option<String> {
    let ask = format!("echo srvr | nc -w 1 {} {CLIENT_PORT}", name(namespace, id));
    let answer = namespace.exec("shell", &["sh", "-c", &ask]).ok()?;
    let mode = answer.lines().find_map(|line| line.strip_prefix("Mode: "));
    mode.map(str::to_owned)
}

/// The leader's number, once all serve: with one more fault there is still a quorum then.
fn leader_of_all(namespace: &Namespace<'_>) -> Result<u32> {
    namespace
        .cluster
        .wait("all members to serve", PATIENCE, || {
            let modes: Vec<_> = (1..=MEMBERS).map(|id| mode(namespace, id)).collect();
            let leads = |mode: &Option<String>| mode.as_deref() == Some("leader");
            let leader = modes.iter().position(leads);
            let all = modes.iter().all(Option::is_some);
            Ok(leader.filter(|_| all).map(|at| at as u32 + 1))
        })
}

/// Breaks something, and says how long no write was acknowledged from just before it until writes go on.
fn measure(load: &Load<'_>, what: &str, act: impl FnOnce() -> Result<()>) -> Result<()> {
    let from = load.now_ms()?;
    act()?;
    load.wait_progress(20, PATIENCE)?;
    let gap = load.gap(from, load.now_ms()?)?;
    say(format!("{what}: {} without writes", millis(gap)));
    Ok(())
}

fn break_things(faults: Faults, namespace: &Namespace<'_>, load: &Load<'_>) -> Result<()> {
    let ns = namespace.name.as_str();
    let leader = || leader_of_all(namespace).map(|id| format!("m-{id}"));
    let pod = leader()?;
    measure(load, "leader cut off", || {
        faults.part_from(ns, &pod, Way::Cut, &[])
    })?;
    faults.heal(ns, &pod)?;
    let second = leader()?;
    ensure!(second != pod, "{pod} leads although it was cut off");
    measure(load, "leader stalled", || faults.stall(ns, &second, "main"))?;
    faults.go_on(ns, &second, "main")?;
    let pod = leader()?;
    measure(load, "leader killed", || faults.kill(ns, &pod, "main"))?;
    leader()?;
    let parts = [Part::Etcd, Part::ApiServer];
    measure(load, "etcd and the API server killed and started", || {
        parts.iter().try_for_each(|part| faults.kill_part(*part))?;
        parts.iter().try_for_each(|part| faults.start_part(*part))?;
        namespace.wait_pod_ready("shell")
    })
}

#[test]
fn a_load_in_a_pod_outlives_every_fault_of_three_servers_by_hand() -> Result<()> {
    let _alone = crate::alone("three servers by hand, under load");
    let Some(cluster) = Cluster::find()? else {
        return Ok(());
    };
    let namespace = Namespace::create(cluster, "by-hand")?;
    namespace.apply(&format!("{SERVICE}---\n{}", config(&namespace)))?;
    for id in 1..=MEMBERS {
        namespace.apply(&member(cluster, id)?)?;
    }
    let shell = cluster.image(Image::Busybox)?;
    namespace.apply(&pod("shell", &shell, &["-c", "exec sleep 3600"]))?;
    for id in 1..=MEMBERS {
        namespace.wait_pod_ready(&format!("m-{id}"))?;
    }
    let headless = format!("by-hand.{}.svc.cluster.local:{CLIENT_PORT}", namespace.name);
    let load = Load::start(&namespace, "load", &Plan::steady(&headless))?;
    measure(&load, "a pod deleted and made again", || {
        namespace.kubectl(&["delete", "pod", "m-1"])?;
        namespace.apply(&member(cluster, 1)?)?;
        namespace.wait_pod_ready("m-1")
    })?;
    if let Some(faults) = cluster.faults() {
        break_things(faults, &namespace, &load)?;
    }
    load.wait_progress(50, PATIENCE)?;
    leader_of_all(&namespace)?;
    let members: Vec<String> = (1..=MEMBERS)
        .map(|id| format!("{}:{CLIENT_PORT}", name(&namespace, id)))
        .collect();
    load.finish(&members)?;
    kazoo(&namespace, &members)?;
    namespace.passed()
}

/// All of kazoo's programs in a pod, and through a forwarded port.
fn kazoo(namespace: &Namespace<'_>, members: &[String]) -> Result<()> {
    let image = namespace.cluster.image(Image::Kazoo)?;
    let mut arguments = vec!["/kazoo/main.py"];
    arguments.extend(members.iter().map(String::as_str));
    let manifest = pod("kazoo", &image, &arguments);
    let log = namespace.run_to_end(&manifest, "kazoo", Duration::from_secs(180))?;
    say(format!("kazoo inside: {}", log.trim().replace('\n', ", ")));
    let forwards = (1..=MEMBERS)
        .map(|id| Forward::start(namespace, &format!("pod/m-{id}"), CLIENT_PORT))
        .collect::<Result<Vec<_>>>()?;
    let addresses: Vec<_> = forwards.iter().map(|forward| forward.address).collect();
    let log = Program::start("main.py", &addresses)?.finish()?;
    say(format!("kazoo outside: {}", log.trim().replace('\n', ", ")));
    Ok(())
}
