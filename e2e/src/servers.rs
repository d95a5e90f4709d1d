//! Ensembles of real servers on loopback, Apache's, ours or mixed: started, killed, paused, and gone when dropped.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::config::{self, Place, Ports, Role};
use crate::report::say;
use crate::tools;

/// How long a server may take to serve, an ensemble to elect, and so on: far more than it should need.
pub const PATIENCE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(10);

/// Whose server it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `zookeeper-node`.
    Ours,
    /// Apache ZooKeeper.
    Apache,
}

impl Kind {
    /// What `ZK_E2E_SERVERS` says (`ours` or `apache`); ours if it says nothing.
    pub fn chosen() -> Result<Self> {
        match std::env::var("ZK_E2E_SERVERS").as_deref() {
            Err(_) | Ok("ours") => Ok(Self::Ours),
            Ok("apache") => Ok(Self::Apache),
            Ok(other) => bail!("ZK_E2E_SERVERS is {other:?}; allowed are ours and apache"),
        }
    }

    /// Builds or fetches what its servers need: where they are started there may be no network.
    pub fn provide(self) -> Result<()> {
        match self {
            Self::Ours => tools::node().map(drop),
            Self::Apache => tools::apache_class_path().map(drop),
        }
    }
}

/// What an ensemble is to be.
#[derive(Clone, Debug)]
pub struct Spec {
    members: Vec<(Kind, Role)>,
    places: Vec<Place>,
    settings: Vec<String>,
    java: Vec<String>,
}

impl Spec {
    /// `voters` servers 1, 2, … and after them `observers` more.
    #[must_use]
    pub fn new(kind: Kind, voters: usize, observers: usize) -> Self {
        let mut members = vec![(kind, Role::Voter); voters];
        members.resize(voters + observers, (kind, Role::Observer));
        Self::mixed(members)
    }

    /// Any members, numbered from 1.
    #[must_use]
    pub fn mixed(members: Vec<(Kind, Role)>) -> Self {
        let java = ["-Xms128m", "-Xmx768m"].map(str::to_owned).to_vec();
        Self {
            members,
            places: Vec::new(),
            settings: Vec::new(),
            java,
        }
    }

    /// Where the members live, in their order; on loopback when nothing is said.
    #[must_use]
    pub fn at(mut self, places: Vec<Place>) -> Self {
        self.places = places;
        self
    }

    /// One more line for every `zoo.cfg`.
    #[must_use]
    pub fn setting(mut self, line: impl Into<String>) -> Self {
        self.settings.push(line.into());
        self
    }

    /// Other options for Java, in place of a small heap.
    #[must_use]
    pub fn java(mut self, options: &[&str]) -> Self {
        self.java = options.iter().map(|option| (*option).to_owned()).collect();
        self
    }
}

/// What `srvr` answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Srvr {
    /// `leader`, `follower`, `observer` or `standalone`.
    pub mode: String,
    /// The last transaction that it applied.
    pub zxid: i64,
    /// Connections of clients, this one among them.
    pub connections: usize,
}

/// One server: its files, and its process while it runs.
#[derive(Debug)]
pub struct Server {
    /// Its number.
    pub id: u32,
    /// Whose it is.
    pub kind: Kind,
    /// Whether it votes.
    pub role: Role,
    /// Its ports.
    pub ports: Ports,
    /// Where it lives.
    pub place: Place,
    dir: PathBuf,
    java: Vec<String>,
    child: Option<Child>,
}

impl Server {
    /// Where clients connect.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        (self.place.address, self.ports.client).into()
    }

    /// The folder that is its `dataDir`.
    #[must_use]
    pub fn data_dir(&self) -> PathBuf {
        let beside = || self.dir.join("data");
        self.place.data.clone().unwrap_or_else(beside)
    }

    /// Its process, if it runs.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Starts the process; does not wait.
    pub fn start(&mut self) -> Result<()> {
        ensure!(self.child.is_none(), "server {} runs already", self.id);
        let config = self.dir.join("zoo.cfg");
        let mut command = match self.kind {
            Kind::Ours => {
                let mut command = self.program(tools::node()?);
                command.arg("serve").arg(config);
                command
            }
            Kind::Apache => {
                let mut command = self.program(Path::new("java"));
                command
                    .args(&self.java)
                    .args(["-cp", tools::apache_class_path()?]);
                command.arg("-Dorg.slf4j.simpleLogger.showDateTime=true");
                command.arg("-Dorg.slf4j.simpleLogger.dateTimeFormat=HH:mm:ss.SSS");
                command
                    .arg("org.apache.zookeeper.server.quorum.QuorumPeerMain")
                    .arg(config);
                command
            }
        };
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.log_path())?;
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .current_dir(&self.dir);
        self.child = Some(
            command
                .spawn()
                .with_context(|| format!("cannot start {command:?}"))?,
        );
        Ok(())
    }

    /// A command that runs where the member lives; `nsenter` turns into the program, so the process is the program's.
    fn program(&self, program: &Path) -> Command {
        let Some(namespace) = &self.place.namespace else {
            return Command::new(program);
        };
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net=/run/netns/{namespace}"))
            .arg("--")
            .arg(program);
        command
    }

    /// `kill -9`, and waits until the process is gone.
    pub fn kill(&mut self) -> Result<()> {
        let mut child = self
            .child
            .take()
            .with_context(|| format!("server {} does not run", self.id))?;
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    /// SIGTERM; returns the exit code, or an error when the process is still there after `patience`.
    pub fn terminate(&mut self, patience: Duration) -> Result<Option<i32>> {
        self.signal(Signal::TERM)?;
        let mut child = self
            .child
            .take()
            .context("a process that was signalled is there")?;
        let deadline = Instant::now() + patience;
        loop {
            if let Some(status) = child.try_wait()? {
                return Ok(status.code());
            }
            if Instant::now() > deadline {
                self.child = Some(child);
                bail!(
                    "server {} does not stop at SIGTERM within {patience:?}",
                    self.id
                );
            }
            std::thread::sleep(POLL);
        }
    }

    /// SIGSTOP: the process keeps its connections and does nothing.
    pub fn pause(&self) -> Result<()> {
        self.signal(Signal::STOP)
    }

    /// SIGCONT.
    pub fn resume(&self) -> Result<()> {
        self.signal(Signal::CONT)
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let child = self
            .child
            .as_ref()
            .with_context(|| format!("server {} does not run", self.id))?;
        Ok(kill_process(Pid::from_child(child), signal)?)
    }

    /// How the process has ended by itself, if it has.
    pub fn ended(&mut self) -> Result<Option<std::process::ExitStatus>> {
        let Some(child) = &mut self.child else {
            return Ok(None);
        };
        let status = child.try_wait()?;
        if status.is_some() {
            self.child = None;
        }
        Ok(status)
    }

    /// An error if the process has ended by itself.
    pub fn check_alive(&mut self) -> Result<()> {
        match self.ended()? {
            Some(status) => bail!("server {} ended by itself: {status}", self.id),
            None => Ok(()),
        }
    }

    /// What it answers to `srvr`, if it serves.
    #[must_use]
    pub fn srvr(&self) -> Option<Srvr> {
        srvr(self.address())
    }

    /// User and system time that the process has used.
    pub fn cpu(&self) -> Result<Duration> {
        cpu(self.pid().context("the server does not run")?)
    }

    /// Resident memory of the process, in bytes.
    pub fn rss(&self) -> Result<u64> {
        let pid = self.pid().context("the server does not run")?;
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .context("VmRSS is there")?;
        let kib: u64 = line.trim().trim_end_matches(" kB").parse()?;
        Ok(kib * 1024)
    }

    /// Everything that it printed so far.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read(self.log_path())
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }

    fn log_path(&self) -> PathBuf {
        self.dir.join("log.txt")
    }

    fn log_tail(&self) -> String {
        let text = self.log();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }
}

/// User and system time that a process has used.
pub fn cpu(pid: u32) -> Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields: Vec<&str> = stat
        .rsplit(')')
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .collect();
    let ticks: u64 = [11, 12]
        .iter()
        .filter_map(|i| fields.get(*i)?.parse::<u64>().ok())
        .sum();
    Ok(Duration::from_millis(ticks * 10))
}

/// Asks the server at `address` for `srvr`.
#[must_use]
pub fn srvr(address: SocketAddr) -> Option<Srvr> {
    let text = four_letter_word(address, "srvr").ok()?;
    let field = |name: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(name))
            .map(str::trim)
    };
    let zxid = i64::from_str_radix(field("Zxid: ")?.trim_start_matches("0x"), 16).ok()?;
    Some(Srvr {
        mode: field("Mode: ")?.to_owned(),
        zxid,
        connections: field("Connections: ")?.parse().ok()?,
    })
}

/// Sends a four-letter word and returns the answer.
pub fn four_letter_word(address: SocketAddr, word: &str) -> Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1))?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    stream.write_all(word.as_bytes())?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

/// Calls `probe` until it gives something, or fails after `patience` with `what` in the message.
pub fn wait_for<T>(
    what: &str,
    patience: Duration,
    mut probe: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let start = Instant::now();
    loop {
        if let Some(found) = probe()? {
            return Ok(found);
        }
        ensure!(
            start.elapsed() < patience,
            "waited {patience:?} in vain for {what}"
        );
        std::thread::sleep(POLL);
    }
}

/// Servers that belong together. Dropping it kills them all.
#[derive(Debug)]
pub struct Ensemble {
    /// The members, by number: member N is at N − 1.
    pub servers: Vec<Server>,
    dir: Option<TempDir>,
}

impl Ensemble {
    /// Writes the files of all members; starts none.
    pub fn prepare(spec: &Spec) -> Result<Self> {
        let dir = tempfile::Builder::new()
            .prefix("ensemble-")
            .tempdir_in(tools::work_dir()?)?;
        let mut servers = Vec::new();
        for ((kind, role), id) in spec.members.iter().zip(1u32..) {
            let place = spec.places.get(id as usize - 1).cloned();
            let place = place.unwrap_or(Place::LOCAL);
            servers.push(Server {
                id,
                kind: *kind,
                role: *role,
                ports: place.ports()?,
                place,
                dir: dir.path().join(format!("server-{id}")),
                java: spec.java.clone(),
                child: None,
            });
        }
        let lines: String = servers
            .iter()
            .map(|server| config::server_line(server.id, server.role, &server.place, &server.ports))
            .collect();
        for Server {
            id,
            role,
            ports,
            dir,
            ..
        } in &servers
        {
            let data = servers[*id as usize - 1].data_dir();
            config::write(dir, &data, *id, *role, ports.client, &lines, &spec.settings)?;
            File::create(dir.join("log.txt"))?;
        }
        Ok(Self {
            servers,
            dir: Some(dir),
        })
    }

    /// Starts all members and waits until all of them serve.
    pub fn start(spec: &Spec) -> Result<Self> {
        let mut ensemble = Self::prepare(spec)?;
        ensemble.start_all()?;
        Ok(ensemble)
    }

    /// Starts every member that does not run and waits until all serve.
    pub fn start_all(&mut self) -> Result<()> {
        for server in self
            .servers
            .iter_mut()
            .filter(|server| server.child.is_none())
        {
            server.start()?;
        }
        self.wait_serving()
    }

    /// Member `id`.
    pub fn server(&mut self, id: u32) -> &mut Server {
        &mut self.servers[id as usize - 1]
    }

    /// Where the clients of each member connect.
    #[must_use]
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.servers.iter().map(Server::address).collect()
    }

    /// Waits until every member whose process runs serves clients.
    pub fn wait_serving(&mut self) -> Result<()> {
        for id in 1..=self.servers.len() as u32 {
            if self.server(id).child.is_some() {
                self.wait_server(id)?;
            }
        }
        Ok(())
    }

    /// Waits until member `id` serves clients.
    pub fn wait_server(&mut self, id: u32) -> Result<Srvr> {
        wait_for(&format!("server {id} to serve"), PATIENCE, || {
            let server = self.server(id);
            server.check_alive()?;
            Ok(server.srvr())
        })
    }

    /// The members that say that they lead: more than one while an old leader does not know better yet.
    #[must_use]
    pub fn leaders(&self) -> Vec<u32> {
        let leads = |server: &&Server| server.srvr().is_some_and(|srvr| srvr.mode == "leader");
        let running = self.servers.iter().filter(|server| server.child.is_some());
        running.filter(leads).map(|server| server.id).collect()
    }

    /// The member that leads and serves now.
    #[must_use]
    pub fn leader(&self) -> Option<u32> {
        self.leaders().first().copied()
    }

    /// Waits for a member that leads.
    pub fn wait_leader(&self) -> Result<u32> {
        wait_for("a leader", PATIENCE, || Ok(self.leader()))
    }

    /// `kill -9` of every member at once.
    pub fn kill_all(&mut self) -> Result<()> {
        for server in self.servers.iter_mut() {
            if let Some(child) = &mut server.child {
                child.kill()?;
            }
        }
        for server in &mut self.servers {
            if let Some(mut child) = server.child.take() {
                child.wait()?;
            }
        }
        Ok(())
    }

    /// Ends all servers and leaves their files; returns where these are.
    pub fn keep(mut self) -> Result<PathBuf> {
        self.kill_all()?;
        let dir = self.dir.take().context("the files are there")?;
        Ok(dir.keep())
    }

    /// Says that the test passed: the files go when the ensemble goes. Without it, logs are shown and kept.
    pub fn passed(mut self) -> Result<()> {
        for server in &mut self.servers {
            server.check_alive()?;
        }
        self.kill_all()?;
        if let Some(dir) = self.dir.take() {
            dir.close()?;
        }
        Ok(())
    }
}

impl Drop for Ensemble {
    fn drop(&mut self) {
        // Dropping must not fail; a process that cannot be killed is gone already.
        let _ = self.kill_all();
        let Some(dir) = self.dir.take() else { return };
        for server in &self.servers {
            say(format!(
                "--- end of the log of server {} ({:?})\n{}",
                server.id,
                server.kind,
                server.log_tail()
            ));
        }
        say(format!(
            "--- everything is kept in {}",
            dir.keep().display()
        ));
    }
}
