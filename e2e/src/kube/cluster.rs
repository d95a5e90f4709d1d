//! The cluster that the tests use, and the programs and images to do so.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::kube::fault::Faults;
use crate::kube::program::{run, show};
use crate::report::say;

/// Between two looks at what is waited for: each costs a process.
const POLL: Duration = Duration::from_millis(300);
/// Longer than any pause of an API server that restarts.
const API_PAUSE: Duration = Duration::from_secs(60);

/// An image that tests need, by the name that `e2e/cluster/images` knows it by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Image {
    /// A shell with the usual programs.
    Busybox,
    /// Python with kazoo, and `e2e/kazoo` in `/kazoo`.
    Kazoo,
    /// The load generator.
    Load,
    /// The server.
    Node,
    /// The operator.
    Operator,
}

impl Image {
    /// The name for `e2e/cluster/images`, the name on this project's own cluster, and the variable that names it on others.
    fn names(self) -> [&'static str; 3] {
        match self {
            Self::Busybox => ["busybox", "localhost/busybox:e2e", "ZK_E2E_IMAGE_BUSYBOX"],
            Self::Kazoo => ["kazoo", "localhost/kazoo:e2e", "ZK_E2E_IMAGE_KAZOO"],
            Self::Load => ["load", "localhost/zk-load:e2e", "ZK_E2E_IMAGE_LOAD"],
            Self::Node => ["node", "localhost/zookeeper-node:e2e", "ZK_E2E_IMAGE_NODE"],
            Self::Operator => [
                "operator",
                "localhost/zookeeper-operator:e2e",
                "ZK_E2E_IMAGE_OPERATOR",
            ],
        }
    }
}

/// A cluster that answers.
#[derive(Debug)]
pub struct Cluster {
    kubeconfig: PathBuf,
    /// Whether it is the one that `e2e/cluster` makes.
    own: bool,
    /// Images that this process built and loaded.
    loaded: Mutex<BTreeSet<Image>>,
}

impl Cluster {
    /// The cluster of `KUBECONFIG`; or, when `ZK_E2E_KUBERNETES` is set, this project's own, brought up with three nodes
    /// (`NODES`). Without either there is none, and this says so: the test has nothing to test then.
    pub fn find() -> Result<Option<&'static Self>> {
        static CLUSTER: OnceLock<Option<Cluster>> = OnceLock::new();
        static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
        let _guard = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        if CLUSTER.get().is_none() {
            let found = Self::look()?;
            CLUSTER.get_or_init(|| found);
        }
        Ok(CLUSTER.get().and_then(Option::as_ref))
    }

    fn look() -> Result<Option<Self>> {
        let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        let own = || -> Result<PathBuf> {
            let path = run(Command::new(script("up")).arg("--kubeconfig"), "")?;
            Ok(PathBuf::from(path.trim()))
        };
        let kubeconfig = match (set("KUBECONFIG"), set("ZK_E2E_KUBERNETES")) {
            (Some(path), _) => PathBuf::from(path),
            (None, Some(_)) => {
                let nodes = set("NODES").unwrap_or_else(|| "3".into());
                show(Command::new(script("up")).env("NODES", nodes))
                    .context("the cluster cannot be brought up")?;
                own()?
            }
            (None, None) => {
                say(
                    "SKIPPED: no cluster. Set KUBECONFIG to one, or ZK_E2E_KUBERNETES=1 to have one made here (root, Go)",
                );
                return Ok(None);
            }
        };
        let cluster = Self {
            own: own().is_ok_and(|path| path == kubeconfig),
            kubeconfig,
            loaded: Mutex::default(),
        };
        cluster
            .kubectl(&["version"])
            .with_context(|| format!("{} does not answer", cluster.kubeconfig.display()))?;
        Ok(Some(cluster))
    }

    /// Whether it is this project's own, on this machine.
    #[must_use]
    pub fn is_own(&self) -> bool {
        self.own
    }

    /// The means to break it, when it is this project's own; says so when it is not.
    #[must_use]
    pub fn faults(&self) -> Option<Faults> {
        if !self.own {
            say("SKIPPED: such faults can be made on the cluster of e2e/cluster only");
        }
        self.own.then(Faults::new)
    }

    /// An image's name for pods. On the project's own cluster it is built and loaded at the first call; on others, a
    /// variable `ZK_E2E_IMAGE_...` names what was pushed to where that cluster pulls from.
    pub fn image(&self, image: Image) -> Result<String> {
        let [name, here, variable] = image.names();
        if let Ok(elsewhere) = std::env::var(variable) {
            return Ok(elsewhere);
        }
        ensure!(
            self.own,
            "set {variable} to an image that the cluster can pull"
        );
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        if image != Image::Busybox && !loaded.contains(&image) {
            show(Command::new(script("images")).args(["--load", name]))?;
            loaded.insert(image);
        }
        Ok(here.to_owned())
    }

    /// Gives an image that is loaded another name: the same program, so that a change of it can be tried. On other
    /// clusters than the project's own, `ZK_E2E_IMAGE_NODE_NEXT` names it.
    pub fn retag(&self, image: &str, other: &str) -> Result<String> {
        if let Ok(elsewhere) = std::env::var("ZK_E2E_IMAGE_NODE_NEXT") {
            return Ok(elsewhere);
        }
        ensure!(
            self.own,
            "set ZK_E2E_IMAGE_NODE_NEXT to another image of the node that the cluster can pull"
        );
        for line in run(Command::new(script("node")).arg("list"), "")?.lines() {
            let Some(node) = line
                .strip_suffix(" running")
                .and_then(|name| name.strip_prefix('n'))
            else {
                continue;
            };
            let tag = [
                "exec", node, "ctr", "-n", "k8s.io", "images", "tag", "--force", image, other,
            ];
            run(Command::new(script("node")).args(tag), "")?;
        }
        Ok(other.to_owned())
    }

    /// Runs kubectl; returns what it printed.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        run(&mut self.command("kubectl", arguments), "")
    }

    /// Creates or changes what the text of a manifest says, as `kubectl apply` does.
    pub fn apply(&self, arguments: &[&str], manifest: &str) -> Result<String> {
        let arguments = [arguments, &["apply", "--server-side", "-f", "-"]].concat();
        run(&mut self.command("kubectl", &arguments), manifest)
            .with_context(|| format!("of the manifest\n{manifest}"))
    }

    /// Runs helm; returns what it printed.
    pub fn helm(&self, arguments: &[&str]) -> Result<String> {
        run(&mut self.command("helm", arguments), "")
    }

    /// A program of the cluster's tools, ready to run.
    #[must_use]
    pub fn command(&self, program: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(program);
        let tools = tools_dir();
        let path = std::env::var_os("PATH").unwrap_or_default();
        let dirs = std::iter::once(tools).chain(std::env::split_paths(&path));
        let path = std::env::join_paths(dirs).expect("none of them has a colon");
        command
            .args(arguments)
            .env("PATH", path)
            .env("KUBECONFIG", &self.kubeconfig);
        command
    }

    /// What `kubectl get ... -o json` says; nothing when the object is not there.
    pub fn get(&self, arguments: &[&str]) -> Result<Option<Value>> {
        let options = ["get", "-o", "json", "--ignore-not-found"];
        let text = self.kubectl(&[&options, arguments].concat())?;
        if text.trim().is_empty() {
            return Ok(None);
        }
        Ok(Some(serde_json::from_str(&text)?))
    }

    /// Asks `probe` again and again until it has found something. An API server that does not answer for a while is
    /// borne; any other error ends the waiting.
    pub fn wait<T>(
        &self,
        what: &str,
        patience: Duration,
        mut probe: impl FnMut() -> Result<Option<T>>,
    ) -> Result<T> {
        let start = Instant::now();
        let mut last_answer = start;
        loop {
            match probe() {
                Ok(Some(found)) => return Ok(found),
                Ok(None) => last_answer = Instant::now(),
                Err(error) if unanswered(&error) && last_answer.elapsed() < API_PAUSE => {}
                Err(error) => return Err(error.context(format!("while waiting for {what}"))),
            }
            if start.elapsed() > patience {
                bail!("waited {patience:?} in vain for {what}");
            }
            std::thread::sleep(POLL);
        }
    }
}

/// Whether kubectl failed because nobody answered, rather than because of what was asked.
fn unanswered(error: &anyhow::Error) -> bool {
    let text = format!("{error:#}");
    let signs = [
        "connection refused",
        "was refused",
        "connection reset",
        "EOF",
        "timeout",
        "timed out",
        "unable to handle the request",
        "apiserver not ready",
        "etcdserver",
        // It has just started, and does not know yet what it serves.
        "the server doesn't have a resource type",
    ];
    signs.iter().any(|sign| text.contains(sign))
}

/// A script of `e2e/cluster`.
#[must_use]
pub fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("cluster")
        .join(name)
}

/// Where `e2e/cluster/build` puts kubectl and helm, of the version that the cluster has.
fn tools_dir() -> PathBuf {
    let cache = std::env::var_os("ZK_E2E_CACHE").map_or_else(
        || {
            PathBuf::from(std::env::var_os("HOME").unwrap_or_default())
                .join(".cache/zk-e2e-cluster")
        },
        PathBuf::from,
    );
    cache.join("bin")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_silence_is_borne() {
        let refused = "kubectl failed: The connection to the server 127.0.0.1:6443 was refused - did you specify the right host or port?";
        assert!(unanswered(&anyhow::anyhow!(refused)));
        assert!(!unanswered(&anyhow::anyhow!(
            "kubectl failed: Error from server (Forbidden): no"
        )));
    }
}
