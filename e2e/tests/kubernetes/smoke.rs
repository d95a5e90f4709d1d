//! The cluster itself: what the operator builds on is there.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use e2e::kube::cluster::{Cluster, Image};
use e2e::kube::forward::Forward;
use e2e::kube::namespace::{Namespace, pod};
use e2e::report::{millis, say};

const CLAIM: &str = "apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {name: data}\nspec: {accessModes: \
                     [ReadWriteOnce], resources: {requests: {storage: 16Mi}}}\n";
/// As the operator's: found by the pods' names, before they are ready.
const SERVICE: &str = "apiVersion: v1\nkind: Service\nmetadata: {name: peers}\nspec: {clusterIP: None, \
                       publishNotReadyAddresses: true, selector: {app: peer-1}, ports: [{name: http, port: 8080}]}\n";
const SERVE: &str = "cat /data/words; echo served > /tmp/index.html; exec httpd -f -p 8080 -h /tmp";

/// A pod that keeps a word in a volume and is found by name, though it is never ready.
fn peer(image: &str) -> String {
    pod("peer-1", image, &["-c", SERVE])
        .replace("spec:\n", "spec:\n  hostname: peer-1\n  subdomain: peers\n")
        + "    readinessProbe: {exec: {command: [/bin/false]}, periodSeconds: 1}\n    \
           volumeMounts: [{name: data, mountPath: /data}, {name: tmp, mountPath: /tmp}]\n  \
           volumes: [{name: data, persistentVolumeClaim: {claimName: data}}, {name: tmp, emptyDir: {}}]\n"
}

fn wait_running(namespace: &Namespace<'_>, name: &str) -> Result<()> {
    let patience = Duration::from_secs(60);
    namespace.wait("a running pod", ["pod", name], patience, |pod| {
        (pod["status"]["phase"] == "Running").then_some(())
    })
}

#[test]
fn a_pod_keeps_its_volume_and_is_found_by_name_before_it_is_ready() -> Result<()> {
    let _alone = crate::alone("pods, volumes and names");
    let Some(cluster) = Cluster::find()? else {
        return Ok(());
    };
    let namespace = Namespace::create(cluster, "smoke")?;
    let image = cluster.image(Image::Busybox)?;
    let start = Instant::now();
    namespace.apply(&format!("{CLAIM}---\n{SERVICE}---\n{}", peer(&image)))?;
    wait_running(&namespace, "peer-1")?;
    say(format!("running after {}", millis(start.elapsed())));
    namespace.exec("peer-1", &["sh", "-c", "echo kept > /data/words && id -u"])?;

    let name = format!("peer-1.peers.{}.svc.cluster.local", namespace.name);
    let ask = format!("wget -q -O - http://{name}:8080/");
    let client = pod("client", &image, &["-c", &ask]);
    let answer = namespace.run_to_end(&client, "client", Duration::from_secs(60))?;
    ensure!(answer.trim() == "served", "{name} says {answer:?}");

    namespace.kubectl(&["delete", "pod", "peer-1"])?;
    namespace.apply(&peer(&image))?;
    wait_running(&namespace, "peer-1")?;
    let words = namespace.exec("peer-1", &["cat", "/data/words"])?;
    ensure!(words.trim() == "kept", "the volume has {words:?}");
    let claim = namespace
        .get("pvc", "data")?
        .context("the claim is there")?;
    ensure!(claim["status"]["phase"] == "Bound", "{claim:#}");

    let forward = Forward::start(&namespace, "pod/peer-1", 8080)?;
    let page = get(&forward)?;
    ensure!(page.ends_with("served\n"), "from outside it says {page:?}");
    namespace.passed()
}

/// A page from outside the cluster.
fn get(forward: &Forward) -> Result<String> {
    use std::io::{Read, Write};
    let mut stream = std::net::TcpStream::connect(forward.address)?;
    stream.write_all(b"GET /index.html HTTP/1.0\r\n\r\n")?;
    let mut page = String::new();
    stream.read_to_string(&mut page)?;
    Ok(page)
}
