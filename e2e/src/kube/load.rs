//! The load generator as a pod beside the ensemble: clients that outlive every member, on any cluster.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde::de::DeserializeOwned;

use crate::generator::{Gap, Progress, Verdict};
use crate::kube::cluster::Image;
use crate::kube::namespace::{Namespace, pod};
use crate::report::say;
use crate::tools;

/// From the pod's creation to the first acknowledged write.
const FIRST_WRITE: Duration = Duration::from_secs(90);

/// What the load is to be.
#[derive(Clone, Debug)]
pub struct Plan {
    /// `HOST:PORT` of services or members, as pods of the cluster know them.
    pub connect: Vec<String>,
    /// Sessions that write.
    pub writers: usize,
    /// The pause between two batches of a session.
    pub pace: Duration,
    /// The node that it is to run on, for tests that break another one.
    pub node: Option<String>,
}

impl Plan {
    /// A steady load that leaves room for the rest of a small machine: about 700 writes a second.
    #[must_use]
    pub fn steady(connect: &str) -> Self {
        Self {
            connect: vec![connect.to_owned()],
            writers: 4,
            pace: Duration::from_millis(40),
            node: None,
        }
    }

    /// The same on a certain node.
    #[must_use]
    pub fn on(mut self, node: &str) -> Self {
        self.node = Some(node.to_owned());
        self
    }
}

/// A running load.
#[derive(Debug)]
pub struct Load<'a> {
    namespace: &'a Namespace<'a>,
    pod: String,
}

impl<'a> Load<'a> {
    /// Starts the load as pod `name`, and waits for the first acknowledged writes.
    pub fn start(namespace: &'a Namespace<'a>, name: &str, plan: &Plan) -> Result<Self> {
        let image = namespace.cluster.image(Image::Load)?;
        let arguments = [
            "run".to_owned(),
            format!("--connect={}", plan.connect.join(",")),
            format!("--writers={}", plan.writers),
            format!("--pace-ms={}", plan.pace.as_millis()),
        ];
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let mut manifest = pod(name, &image, &arguments);
        if let Some(node) = &plan.node {
            // Through the scheduler, which binds the pod only to a node that can take it.
            manifest.push_str(&format!(
                "  nodeSelector: {{kubernetes.io/hostname: {node}}}\n"
            ));
        }
        namespace.apply(&manifest)?;
        let load = Self {
            namespace,
            pod: name.to_owned(),
        };
        namespace.wait_pod_ready(name)?;
        load.wait_until("the first writes", 1, FIRST_WRITE)?;
        Ok(load)
    }

    fn ask<T: DeserializeOwned>(&self, question: &[&str]) -> Result<T> {
        let command = [&["/load", "ask"], question].concat();
        let answer = self.namespace.exec(&self.pod, &command)?;
        serde_json::from_str(&answer)
            .with_context(|| format!("{question:?} was answered with {answer:?}"))
    }

    /// How far it is.
    pub fn progress(&self) -> Result<Progress> {
        self.ask(&["progress"])
    }

    /// The present, as a time in milliseconds of the load's own clock, for [`Self::gap`].
    pub fn now_ms(&self) -> Result<u64> {
        Ok(self.progress()?.ms)
    }

    /// The longest time without an acknowledged write, some part of which was between two times.
    pub fn gap(&self, from_ms: u64, to_ms: u64) -> Result<Duration> {
        let gap: Gap = self.ask(&["gap", &from_ms.to_string(), &to_ms.to_string()])?;
        Ok(Duration::from_millis(gap.ms))
    }

    /// Waits until so many more batches were acknowledged.
    pub fn wait_progress(&self, batches: usize, patience: Duration) -> Result<()> {
        let goal = self.progress()?.acknowledged + batches;
        self.wait_until("writes to go on", goal, patience)
    }

    fn wait_until(&self, what: &str, goal: usize, patience: Duration) -> Result<()> {
        let begin = Instant::now();
        loop {
            match self.progress() {
                Ok(progress) if progress.acknowledged >= goal => return Ok(()),
                Err(error) if begin.elapsed() > patience => {
                    return Err(error.context(format!("waited {patience:?} in vain for {what}")));
                }
                // It answers questions as soon as it has found a member that serves.
                Ok(_) | Err(_) => {}
            }
            ensure!(
                begin.elapsed() < patience,
                "waited {patience:?} in vain for {what}; the load says\n{}",
                self.namespace.kubectl(&["logs", &self.pod, "--tail=20"])?
            );
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// Ends the load; then compares the trees of `members` (`HOST:PORT`) and checks every acknowledgement. When something
    /// is wrong, the acknowledgement log is kept in a file.
    pub fn finish(self, members: &[String]) -> Result<Verdict> {
        let members: Vec<&str> = members.iter().map(String::as_str).collect();
        let verdict: Verdict = self.ask(&[&["stop"], members.as_slice()].concat())?;
        if let Some(problem) = &verdict.problem {
            let log = self.namespace.exec(&self.pod, &["/load", "ask", "log"])?;
            let path =
                tools::work_dir()?.join(format!("{}-{}.json", self.namespace.name, self.pod));
            std::fs::write(&path, log)?;
            anyhow::bail!("{problem}\nall writes are in {}", path.display());
        }
        say(format!(
            "{} writes acknowledged, {} with unknown outcome, none lost; {} reconnects, {} sessions expired; {} trees of \
             {} nodes equal",
            verdict.acknowledged,
            verdict.unknown,
            verdict.reconnects,
            verdict.expired,
            members.len(),
            verdict.nodes
        ));
        self.namespace
            .kubectl(&["delete", "pod", &self.pod, "--grace-period=1"])?;
        Ok(verdict)
    }
}
