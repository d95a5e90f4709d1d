//! One ensemble with its load, on which faults are played: it notes when they begin, restarts processes that end by
//! themselves as a process manager would, and says at the end what the clients saw and whether anything was lost.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::lab::Lab;
use super::readers::Readers;
use super::recorder::Recorder;
use super::verdict::{self, Verdict};
use crate::config::Role;
use crate::servers::{Ensemble, Kind, PATIENCE, Server, Spec, wait_for};
use crate::writers::Writers;

const POLL: Duration = Duration::from_millis(20);
/// After which time a process manager starts again what has ended.
const RESTART: Duration = Duration::from_secs(1);
/// How many more batches of writes mean that writing goes on, and not only what was under way.
const GOES_ON: usize = 40;
const RECORDERS: usize = 4;
/// How long nothing may change before members count as equal.
const QUIET: Duration = Duration::from_millis(300);
/// How long all members have to serve before that counts: one that was away may not know yet that nobody follows it.
const STABLE: Duration = Duration::from_secs(2);

/// What the stage is to be.
#[derive(Clone, Debug)]
pub struct Setting {
    /// Whose servers.
    pub kind: Kind,
    /// Servers 1, 2, ….
    pub voters: usize,
    /// Those after them.
    pub observers: usize,
    /// More lines for every `zoo.cfg`.
    pub settings: Vec<String>,
    /// Members that are started, and have elected a leader, before the others are started.
    pub first: Vec<u32>,
    /// Between two batches of a writer.
    pub write_pace: Duration,
    /// Between two steps of a client that records.
    pub record_pace: Duration,
    /// Decides what the recording clients do.
    pub seed: u64,
}

#[derive(Debug)]
struct Load {
    writers: Writers,
    readers: Readers,
    recorder: Recorder,
}

/// An ensemble under load.
#[derive(Debug)]
pub struct Stage<'a> {
    /// Its links and disks.
    pub lab: &'a mut Lab,
    /// Its servers.
    pub ensemble: Option<Ensemble>,
    /// Whose they are.
    pub kind: Kind,
    /// What happened, for the table.
    pub notes: Vec<String>,
    load: Option<Load>,
    struck: Option<Instant>,
    healed: Option<Instant>,
    /// Processes that ended by themselves: when, and they are started again later.
    ended: BTreeMap<u32, Instant>,
    /// How often each ended by itself, and how the last time.
    ends: BTreeMap<u32, (usize, String)>,
}

impl<'a> Stage<'a> {
    /// Starts servers and load; returns when all serve and writes go on.
    pub fn start(lab: &'a mut Lab, setting: &Setting) -> Result<Self> {
        let mut spec = Spec::new(setting.kind, setting.voters, setting.observers).at(lab.places());
        for line in &setting.settings {
            spec = spec.setting(line);
        }
        let mut ensemble = Ensemble::prepare(&spec)?;
        for id in &setting.first {
            let server = ensemble.server(*id);
            // The others cannot be asked yet whether there has been an ensemble before: this says that there was none.
            fs::write(server.data_dir().join("initialize"), "")?;
            server.start()?;
        }
        if !setting.first.is_empty() {
            ensemble.wait_serving()?;
        }
        ensemble.start_all()?;
        let addresses = ensemble.addresses();
        let mut stage = Self {
            lab,
            ensemble: Some(ensemble),
            kind: setting.kind,
            notes: Vec::new(),
            load: None,
            struck: None,
            healed: None,
            ended: BTreeMap::new(),
            ends: BTreeMap::new(),
        };
        let writers = Writers::start_paced(&addresses, addresses.len(), setting.write_pace)?;
        let recorder = Recorder::start(&addresses, RECORDERS, setting.record_pace, setting.seed)?;
        stage.load = Some(Load {
            readers: Readers::start(&addresses),
            writers,
            recorder,
        });
        ensure!(stage.writes_go_on(PATIENCE)?, "the load does not begin");
        Ok(stage)
    }

    /// The servers.
    pub fn servers(&mut self) -> &mut Ensemble {
        self.ensemble
            .as_mut()
            .expect("the servers are there until the end")
    }

    fn load(&self) -> &Load {
        self.load.as_ref().expect("the load runs until the end")
    }

    /// Adds to what happened.
    pub fn note(&mut self, what: impl Into<String>) {
        self.notes.push(what.into());
    }

    /// The fault begins now.
    pub fn strike(&mut self) {
        self.struck.get_or_insert_with(Instant::now);
    }

    /// The fault is over now: from here on counts how long it takes to recover.
    pub fn heal(&mut self) -> Result<()> {
        self.lab.heal()?;
        self.healed = Some(Instant::now());
        Ok(())
    }

    /// Who leads.
    pub fn leader(&mut self) -> Result<u32> {
        self.servers().wait_leader()
    }

    /// The voter with the highest number that does not lead.
    pub fn follower(&mut self) -> Result<u32> {
        let leader = self.leader()?;
        let voters = self.members(Role::Voter);
        let follower = voters.into_iter().rfind(|id| *id != leader);
        follower.context("there is a follower")
    }

    /// An observer.
    pub fn observer(&mut self) -> Result<u32> {
        let observers = self.members(Role::Observer);
        observers.last().copied().context("there is an observer")
    }

    /// All but the one.
    pub fn others(&mut self, id: u32) -> Vec<u32> {
        let all = 1..=self.servers().servers.len() as u32;
        all.filter(|other| *other != id).collect()
    }

    fn members(&mut self, role: Role) -> Vec<u32> {
        let servers = self.servers().servers.iter();
        let those = servers.filter(|server| server.role == role);
        those.map(|server| server.id).collect()
    }

    /// Lets time pass, and restarts what ends by itself.
    pub fn watch(&mut self, time: Duration) -> Result<()> {
        let end = Instant::now() + time;
        while Instant::now() < end {
            self.supervise()?;
            std::thread::sleep(POLL);
        }
        Ok(())
    }

    /// Nothing is written for a moment, until all members have the same last transaction.
    pub fn hush(&mut self) -> Result<()> {
        self.load().writers.hush(true);
        self.load().recorder.hush(true);
        let mut equal_since = None;
        wait_for("all members to be equal", PATIENCE, || {
            let servers = &self.servers().servers;
            let zxids: Vec<_> = servers
                .iter()
                .map(|server| server.srvr().map(|srvr| srvr.zxid))
                .collect();
            let equal = zxids.iter().all(|zxid| zxid.is_some() && *zxid == zxids[0]);
            let last = (zxids.first().copied().flatten(), Instant::now());
            match equal_since {
                Some((zxid, since)) if equal && zxid == last.0 => {
                    return Ok((Instant::now() - since > QUIET).then_some(()));
                }
                _ => equal_since = equal.then_some(last),
            }
            Ok(None)
        })
    }

    /// Writes go on; gaps count from here on, so the quiet time is none.
    pub fn speak(&self) {
        self.load().writers.acknowledged().now();
        self.load().writers.hush(false);
        self.load().recorder.hush(false);
    }

    /// Whether writes are acknowledged on and on within `patience`.
    pub fn writes_go_on(&mut self, patience: Duration) -> Result<bool> {
        let acknowledged = self.load().writers.acknowledged();
        let (start, goal) = (Instant::now(), acknowledged.count() + GOES_ON);
        while acknowledged.count() < goal {
            if start.elapsed() > patience {
                return Ok(false);
            }
            self.supervise()?;
            std::thread::sleep(POLL);
        }
        Ok(true)
    }

    /// The same; what happened is noted if they do not.
    pub fn expect_writes(&mut self, patience: Duration) -> Result<()> {
        if !self.writes_go_on(patience)? {
            self.note(format!(
                "no writes for {} s while it lasts",
                patience.as_secs()
            ));
        }
        Ok(())
    }

    /// What a process manager does.
    pub fn supervise(&mut self) -> Result<()> {
        let mut ended = Vec::new();
        for server in &mut self.servers().servers {
            if let Some(status) = server.ended()? {
                ended.push((server.id, status.to_string()));
            }
        }
        for (id, status) in ended {
            let end = self.ends.entry(id).or_default();
            *end = (end.0 + 1, status);
            self.ended.insert(id, Instant::now());
        }
        let due = self.ended.iter().filter(|(_, at)| at.elapsed() > RESTART);
        let due: Vec<u32> = due.map(|(id, _)| *id).collect();
        for id in due {
            self.ended.remove(&id);
            if self.servers().server(id).pid().is_none() {
                self.servers().server(id).start()?;
            }
        }
        Ok(())
    }

    /// A member is to stay down, although it ended by itself.
    pub fn leave_down(&mut self, id: u32) {
        self.ended.remove(&id);
    }

    /// How many processes ended by themselves since the last call: member, how often, how.
    pub fn take_ends(&mut self) -> BTreeMap<u32, (usize, String)> {
        std::mem::take(&mut self.ends)
    }

    /// Events of the recording clients so far, and acknowledged batches of writes.
    #[must_use]
    pub fn progress(&self) -> (usize, usize) {
        let load = self.load();
        (load.recorder.events(), load.writers.acknowledged().count())
    }

    /// Waits until all members serve, under one leader and for a while, and writes go on; `None` if they don't within
    /// `patience`.
    pub fn recover(&mut self, patience: Duration) -> Result<Option<Duration>> {
        let start = *self.healed.get_or_insert_with(Instant::now);
        let mut well_since = None;
        while start.elapsed() < patience {
            self.supervise()?;
            if self.is_well() {
                let since = *well_since.get_or_insert_with(Instant::now);
                if since.elapsed() > STABLE && self.writes_go_on(PATIENCE)? {
                    return Ok(Some(since.saturating_duration_since(start)));
                }
            } else {
                well_since = None;
            }
            std::thread::sleep(POLL);
        }
        Ok(None)
    }

    /// Whether all members say that they serve, and one that it leads.
    fn is_well(&mut self) -> bool {
        let servers = &self.servers().servers;
        if servers.iter().any(|server| server.pid().is_none()) {
            return false;
        }
        let answers: Vec<_> = servers.iter().map(|server| server.srvr()).collect();
        let leaders = answers
            .iter()
            .flatten()
            .filter(|srvr| srvr.mode == "leader");
        leaders.count() == 1 && answers.into_iter().all(serves)
    }

    /// Waits until each voter votes: one that has lost its history takes part like an observer for a while. A disk more that is
    /// damaged meanwhile may be one too many.
    pub fn wait_votes(&mut self, patience: Duration) -> Result<bool> {
        let start = Instant::now();
        let votes = |server: &Server| {
            let mode = server.srvr().map(|srvr| srvr.mode);
            server.role != Role::Voter || mode.is_some_and(|mode| mode != "observer")
        };
        while start.elapsed() < patience {
            self.supervise()?;
            if self.is_well() && self.servers().servers.iter().all(votes) {
                return Ok(true);
            }
            std::thread::sleep(POLL);
        }
        Ok(false)
    }

    /// Ends the load and judges. What does not serve by now is restarted by hand, so that its data can be judged.
    pub fn end(mut self) -> Result<(Verdict, PathBuf)> {
        let end = Instant::now();
        for (id, (times, how)) in self.take_ends() {
            let times = if times == 1 {
                String::new()
            } else {
                format!(" {times} times")
            };
            self.note(format!("server {id} ended by itself{times}: {how}"));
        }
        let Load {
            writers,
            readers,
            recorder,
        } = self.load.take().context("the load runs until the end")?;
        let acknowledged = writers.acknowledged();
        let struck = self.struck.unwrap_or(end);
        let (write_gap, after) = acknowledged.longest_gap_until(struck, end);
        self.note(format!(
            "the longest time without writes ended {:.1} s after the fault began",
            after.as_secs_f64()
        ));
        let mut verdict = Verdict {
            write_gap,
            read_gap: readers.gap(struck, end),
            client_gap: readers.worst_client(struck, end),
            ..Verdict::default()
        };
        readers.stop();
        let recorded = recorder.stop();
        let logs = writers.stop()?;
        let serving = self.serving_addresses()?;
        verdict.judge(&logs, &recorded, &serving)?;
        verdict.notes.splice(0..0, std::mem::take(&mut self.notes));
        let dir = self
            .ensemble
            .take()
            .context("the servers are there")?
            .keep()?;
        if let Some(text) = verdict.offence() {
            fs::write(dir.join("violation.txt"), text)?;
            verdict::write_history(&dir.join("history.txt"), &recorded.history)?;
        }
        Ok((verdict, dir))
    }

    fn serving_addresses(&mut self) -> Result<Vec<SocketAddr>> {
        let dead: Vec<u32> = {
            let servers = &self.servers().servers;
            let dead = servers.iter().filter(|server| !serves(server.srvr()));
            dead.map(|server| server.id).collect()
        };
        if !dead.is_empty() {
            self.note(format!("by hand: restart of {dead:?}"));
            for id in &dead {
                let server = self.servers().server(*id);
                if server.pid().is_some() {
                    server.kill()?;
                }
                server.start()?;
            }
            // Who does not come even now is left out, and the table says so.
            let all = wait_for("members to serve", PATIENCE / 2, || {
                let servers = &mut self.servers().servers;
                Ok(servers
                    .iter()
                    .all(|server| serves(server.srvr()))
                    .then_some(()))
            });
            if all.is_err() {
                let servers = &self.servers().servers;
                let dead = servers.iter().filter(|server| !serves(server.srvr()));
                let dead: Vec<u32> = dead.map(|server| server.id).collect();
                self.note(format!("{dead:?} do not come back by a restart"));
            }
        }
        let servers = self.servers().servers.iter();
        let serving = servers.filter(|server| serves(server.srvr()));
        Ok(serving.map(|server| server.address()).collect())
    }
}

impl Drop for Stage<'_> {
    fn drop(&mut self) {
        // Whoever waits for a frozen disk cannot be killed: first the disks, then the servers. Nothing is left to be done
        // with an error here, and the janitor comes after.
        let _ = self.lab.heal();
    }
}

fn serves(srvr: Option<crate::servers::Srvr>) -> bool {
    srvr.is_some_and(|srvr| matches!(&srvr.mode[..], "leader" | "follower" | "observer"))
}
