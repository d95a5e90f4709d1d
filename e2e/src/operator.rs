//! `zookeeper-operator local` as a user runs it: a manifest, edits of it, and what `status.yaml` says.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_yaml::Value;
use tempfile::TempDir;

use crate::report::say;
use crate::servers::{Kind, wait_for};
use crate::tools;

/// How long an edit may take to be carried out.
const CONVERGE: Duration = Duration::from_secs(180);
const STOP: Duration = Duration::from_secs(30);

/// What a manifest asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// Members that vote.
    pub voters: u32,
    /// Members that only learn.
    pub observers: u32,
    /// Keys of `zoo.cfg`.
    pub config: BTreeMap<String, u32>,
}

impl Manifest {
    /// A manifest without keys of its own.
    #[must_use]
    pub fn new(voters: u32, observers: u32) -> Self {
        Self {
            voters,
            observers,
            config: BTreeMap::new(),
        }
    }

    fn text(&self) -> String {
        let config: String = self
            .config
            .iter()
            .map(|(key, value)| format!("    {key}: {value}\n"))
            .collect();
        let config = if config.is_empty() {
            config
        } else {
            format!("  config:\n{config}")
        };
        format!(
            "apiVersion: zookeeper.ensemble.dev/v1alpha1\nkind: ZooKeeperEnsemble\nmetadata:\n  name: edits\nspec:\n  \
             voters:\n    replicas: {}\n  observers:\n    replicas: {}\n{config}",
            self.voters, self.observers
        )
    }
}

/// One member in `status.members`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its server id.
    pub id: u32,
    /// `voter` or `observer`.
    pub role: String,
    /// `leader`, `follower`, `observer`, or why none of them.
    pub state: String,
    /// Where clients connect.
    pub address: SocketAddr,
}

/// The parts of `status.yaml` that tests look at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// The spec that it answers.
    pub manifest: Manifest,
    /// The members.
    pub members: Vec<Member>,
    /// Whether there is nothing left to do.
    pub at_rest: bool,
    /// What goes on, in words.
    pub summary: String,
}

impl Status {
    /// Members that serve, by where clients connect.
    #[must_use]
    pub fn serving(&self) -> Vec<SocketAddr> {
        let serves =
            |member: &&Member| ["leader", "follower", "observer"].contains(&member.state.as_str());
        self.members
            .iter()
            .filter(serves)
            .map(|member| member.address)
            .collect()
    }

    /// How many members are in a state.
    #[must_use]
    pub fn count(&self, state: &str) -> usize {
        self.members
            .iter()
            .filter(|member| member.state == state)
            .count()
    }
}

/// A running operator, with its manifest and its members. Dropping it stops them all.
#[derive(Debug)]
pub struct Operator {
    child: Option<Child>,
    dir: Option<TempDir>,
    home: PathBuf,
}

impl Operator {
    /// Starts `zookeeper-operator local` on a manifest; does not wait.
    pub fn start(manifest: &Manifest, kind: Kind) -> Result<Self> {
        Self::start_text(&manifest.text(), kind)
    }

    /// Starts `zookeeper-operator local` on the text of a manifest.
    pub fn start_text(manifest: &str, kind: Kind) -> Result<Self> {
        let node = if kind == Kind::Ours {
            Some(tools::node()?.to_path_buf())
        } else {
            None
        };
        let program = tools::operator()?;
        let dir = tempfile::Builder::new()
            .prefix("operator-")
            .tempdir_in(tools::work_dir()?)?;
        let home = dir.path().to_path_buf();
        let node = node.map_or_else(|| apache_launcher(&home), Ok)?;
        fs::write(home.join("ensemble.yaml"), manifest)?;
        let log = File::create(home.join("log.txt"))?;
        let mut command = Command::new(program);
        command
            .arg("local")
            .arg(home.join("ensemble.yaml"))
            .arg("--dir")
            .arg(home.join("state"));
        command.arg("--node-binary").arg(node);
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        let child = command
            .spawn()
            .with_context(|| format!("cannot start {command:?}"))?;
        Ok(Self {
            child: Some(child),
            dir: Some(dir),
            home,
        })
    }

    /// Replaces the manifest, as an editor does: in one step.
    pub fn edit(&self, manifest: &Manifest) -> Result<()> {
        fs::write(self.home.join("edited.yaml"), manifest.text())?;
        fs::rename(
            self.home.join("edited.yaml"),
            self.home.join("ensemble.yaml"),
        )?;
        Ok(())
    }

    /// What `status.yaml` says now; `None` before it is there.
    pub fn status(&mut self) -> Result<Option<Status>> {
        let child = self.child.as_mut().context("the operator runs")?;
        if let Some(status) = child.try_wait()? {
            bail!("the operator ended by itself: {status}\n{}", self.log());
        }
        let Ok(text) = fs::read_to_string(self.home.join("state/status.yaml")) else {
            return Ok(None);
        };
        let value: Value = serde_yaml::from_str(&text)?;
        status(&value)
    }

    /// Waits until the ensemble is as `manifest` says; calls `look` at every status on the way.
    pub fn wait_converged(
        &mut self,
        manifest: &Manifest,
        mut look: impl FnMut(&Status),
    ) -> Result<Status> {
        wait_for("the ensemble to be as the manifest says", CONVERGE, || {
            let Some(status) = self.status()? else {
                return Ok(None);
            };
            look(&status);
            Ok((status.at_rest && status.manifest == *manifest).then_some(status))
        })
        .with_context(|| self.log())
    }

    /// The members' processes, by server id: children of the operator whose command line names their `zoo.cfg`.
    pub fn pids(&self) -> Result<BTreeMap<u32, u32>> {
        let operator = self.child.as_ref().context("the operator runs")?.id();
        let mut pids = BTreeMap::new();
        for entry in fs::read_dir("/proc")? {
            let Ok(pid) = entry?.file_name().to_string_lossy().parse::<u32>() else {
                continue;
            };
            let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else {
                continue;
            };
            let parent = stat
                .rsplit(')')
                .next()
                .and_then(|rest| rest.split_whitespace().nth(1));
            if parent != Some(&operator.to_string()) {
                continue;
            }
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).into_owned();
            let id = line
                .split("member-")
                .nth(1)
                .and_then(|rest| rest.split('/').next()?.parse().ok());
            if let Some(id) = id {
                pids.insert(id, pid);
            }
        }
        Ok(pids)
    }

    /// Everything that the operator printed.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.home.join("log.txt")).unwrap_or_default()
    }

    /// Where it keeps `status.yaml` and the members' folders.
    #[must_use]
    pub fn state_dir(&self) -> PathBuf {
        self.home.join("state")
    }

    /// Ctrl-C: the operator stops its members and ends. No member may be left.
    pub fn stop(&mut self) -> Result<()> {
        let members = self.pids()?;
        let mut child = self.child.take().context("the operator runs")?;
        kill_process(Pid::from_child(&child), Signal::INT)?;
        let start = Instant::now();
        while child.try_wait()?.is_none() {
            if start.elapsed() > STOP {
                child.kill()?;
                child.wait()?;
                bail!(
                    "the operator does not stop at Ctrl-C within {STOP:?}\n{}",
                    self.log()
                );
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        for (id, pid) in members {
            let left = Path::new(&format!("/proc/{pid}")).exists();
            ensure!(!left, "member {id} is left behind as process {pid}");
        }
        Ok(())
    }

    /// Says that the test passed: stops everything and removes the files.
    pub fn passed(mut self) -> Result<()> {
        self.stop()?;
        if let Some(dir) = self.dir.take() {
            dir.close()?;
        }
        Ok(())
    }
}

impl Drop for Operator {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // Members die with it: it has told the system so.
            let _ = child.kill();
            let _ = child.wait();
        }
        let Some(dir) = self.dir.take() else { return };
        say(format!("--- what the operator said\n{}", self.log()));
        say(format!(
            "--- everything is kept in {}",
            dir.keep().display()
        ));
    }
}

/// A program that stands in for `zookeeper-node` and runs Apache's server, without the metrics: they are in a jar of
/// their own, which is not needed here.
fn apache_launcher(dir: &Path) -> Result<PathBuf> {
    let path = dir.join("apache-node");
    let class_path = tools::apache_class_path()?;
    fs::write(
        &path,
        format!(
            "#!/bin/sh\nsed -i '/^metricsProvider/d' \"$2\"\nexec java -Xmx256m -Dorg.slf4j.simpleLogger.showDateTime=true -Dzookeeper.admin.enableServer=false \
             -cp '{class_path}' org.apache.zookeeper.server.quorum.QuorumPeerMain \"$2\"\n"
        ),
    )?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    Ok(path)
}

fn status(value: &Value) -> Result<Option<Status>> {
    let status = &value["status"];
    if status.is_null() {
        return Ok(None);
    }
    let number = |value: &Value| value.as_u64().unwrap_or_default() as u32;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let config = value["spec"]["config"].as_mapping().into_iter().flatten();
    let manifest = Manifest {
        voters: number(&value["spec"]["voters"]["replicas"]),
        observers: number(&value["spec"]["observers"]["replicas"]),
        config: config
            .map(|(key, value)| (text(key), number(value)))
            .collect(),
    };
    let member = |value: &Value| -> Result<Member> {
        let address = text(&value["clientAddress"]).replace("localhost", "127.0.0.1");
        Ok(Member {
            id: number(&value["id"]),
            role: text(&value["role"]),
            state: text(&value["state"]),
            address: address
                .parse()
                .with_context(|| format!("{address:?} is no address"))?,
        })
    };
    let members = status["members"]
        .as_sequence()
        .into_iter()
        .flatten()
        .map(member)
        .collect::<Result<_>>()?;
    let ready = status["conditions"]
        .as_sequence()
        .into_iter()
        .flatten()
        .any(|condition| {
            condition["type"].as_str() == Some("Ready")
                && condition["status"].as_str() == Some("True")
        });
    let current = status["observedGeneration"] == value["metadata"]["generation"];
    let summary = text(&status["plan"]["summary"]);
    Ok(Some(Status {
        manifest,
        members,
        at_rest: ready && current && summary == "At rest",
        summary,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_at_rest_only_for_the_generation_that_it_answers() {
        let text = "metadata: {generation: 2}\nspec: {voters: {replicas: 3}, observers: {replicas: 1}}\nstatus:\n  \
                    observedGeneration: 2\n  conditions: [{type: Ready, status: 'True'}]\n  plan: {summary: At rest}\n  \
                    members: [{id: 1, role: voter, state: leader, clientAddress: '127.0.0.1:2181'}]\n";
        let read = |text: &str| {
            status(&serde_yaml::from_str(text).unwrap())
                .unwrap()
                .unwrap()
        };
        assert!(read(text).at_rest);
        assert_eq!(read(text).manifest, Manifest::new(3, 1));
        assert_eq!(read(text).count("leader"), 1);
        assert!(!read(&text.replace("observedGeneration: 2", "observedGeneration: 1")).at_rest);
    }
}
