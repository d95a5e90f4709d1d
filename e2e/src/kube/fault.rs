//! Faults on the project's own cluster, by the scripts of `e2e/cluster`. `fault --help` says what each does.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::kube::cluster::script;
use crate::kube::program::run;

/// One way or both: which packets between a pod and its peers are lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// All.
    Cut,
    /// Those that it sends.
    Mute,
    /// Those that it is sent.
    Deaf,
}

/// A part of the control plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Where all objects are stored.
    Etcd,
    /// What everybody talks to.
    ApiServer,
    /// What makes pods of Deployments and evicts them from dead nodes.
    ControllerManager,
    /// What finds nodes for pods.
    Scheduler,
}

impl Part {
    fn name(self) -> &'static str {
        match self {
            Self::Etcd => "etcd",
            Self::ApiServer => "kube-apiserver",
            Self::ControllerManager => "kube-controller-manager",
            Self::Scheduler => "kube-scheduler",
        }
    }
}

/// The means to break the project's own cluster.
#[derive(Clone, Copy, Debug)]
pub struct Faults(());

impl Faults {
    pub(super) fn new() -> Self {
        Self(())
    }

    fn call(self, name: &str, arguments: &[&str]) -> Result<()> {
        run(Command::new(script(name)).args(arguments), "").map(drop)
    }

    /// Loses packets between a pod and its peers, which are pods' names or addresses; without peers, everybody.
    pub fn part_from(self, namespace: &str, pod: &str, way: Way, peers: &[&str]) -> Result<()> {
        let action = match way {
            Way::Cut => "cut",
            Way::Mute => "mute",
            Way::Deaf => "deaf",
        };
        self.call("fault", &[&[action, namespace, pod], peers].concat())
    }

    /// Loses so many in a hundred of the packets that a pod is sent.
    pub fn lose(self, namespace: &str, pod: &str, percent: u32) -> Result<()> {
        self.call("fault", &["lose", namespace, pod, &percent.to_string()])
    }

    /// Ends what `part_from` and `lose` began.
    pub fn heal(self, namespace: &str, pod: &str) -> Result<()> {
        self.call("fault", &["heal", namespace, pod])
    }

    /// `kill -9` of the container's first process.
    pub fn kill(self, namespace: &str, pod: &str, container: &str) -> Result<()> {
        self.call("fault", &["kill", namespace, pod, container])
    }

    /// Stops the container's processes where they are, until `go_on`.
    pub fn stall(self, namespace: &str, pod: &str, container: &str) -> Result<()> {
        self.call("fault", &["stall", namespace, pod, container])
    }

    /// Lets a stalled container go on.
    pub fn go_on(self, namespace: &str, pod: &str, container: &str) -> Result<()> {
        self.call("fault", &["cont", namespace, pod, container])
    }

    /// Pulls a node's cable.
    pub fn unplug(self, node: u32) -> Result<()> {
        self.call("fault", &["unplug", &node.to_string()])
    }

    /// Puts it back.
    pub fn plug(self, node: u32) -> Result<()> {
        self.call("fault", &["plug", &node.to_string()])
    }

    /// A power cut: all processes of a node end at once, its disk stays.
    pub fn power_cut(self, node: u32) -> Result<()> {
        self.call("node", &["kill", &node.to_string()])
    }

    /// Starts a node again.
    pub fn power_on(self, node: u32) -> Result<()> {
        self.call("node", &["start", &node.to_string()])
    }

    /// `kill -9` of a part of the control plane; nothing starts it again but `start`.
    pub fn kill_part(self, part: Part) -> Result<()> {
        self.call("fault", &["part", part.name(), "kill"])
    }

    /// Starts a part of the control plane.
    pub fn start_part(self, part: Part) -> Result<()> {
        self.call("fault", &["part", part.name(), "start"])
    }

    /// Slows a part of the control plane: stalls it for `stall` in every `every`, as long as the value lives.
    pub fn slow_part(self, part: Part, stall: Duration, every: Duration) -> Result<Slow> {
        let ms = |duration: Duration| duration.as_millis().to_string();
        let child = Command::new(script("fault"))
            .args(["slow", part.name(), &ms(stall), &ms(every), "86400"])
            .stdin(Stdio::null())
            .spawn()
            .context("cannot start the fault")?;
        Ok(Slow(child))
    }
}

/// A part of the control plane that is slow as long as this value lives.
#[derive(Debug)]
pub struct Slow(Child);

impl Slow {
    /// Lets it run as fast as it can again.
    pub fn end(mut self) -> Result<()> {
        ensure!(
            self.0.try_wait()?.is_none(),
            "the fault ended by itself; its words are above"
        );
        self.stop()
    }

    /// The script is asked, not killed: it must let the part go on.
    fn stop(&mut self) -> Result<()> {
        use rustix::process::{Pid, Signal, kill_process};
        if self.0.try_wait()?.is_none() {
            kill_process(Pid::from_child(&self.0), Signal::TERM)?;
            self.0.wait()?;
        }
        Ok(())
    }
}

impl Drop for Slow {
    fn drop(&mut self) {
        if let Err(error) = self.stop() {
            crate::report::say(format!("the slowed part may still be stalled: {error:#}"));
        }
    }
}
