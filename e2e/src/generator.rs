//! A load that runs where the servers are, in a pod: writers with their acknowledgement log, the checks that follow, and
//! a port on which it is asked how things are.
//!
//! It finds the members by name over and over, so that members may come and go. A question is one line, the answer is JSON
//! up to the end of the connection; [`ask`] is both. The types of the answers are those that the test reads.

use std::io::{BufRead, BufReader, BufWriter, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};

use crate::ack::{self, Log, Outcome};
use crate::check;
use crate::outage::Acknowledged;
use crate::report::say;
use crate::servers::wait_for;
use crate::writers::Writers;

/// Where questions are answered: on the pod's own loopback.
const PORT: u16 = 7070;
/// How long the members may take to be found and to serve, at the start.
const FIRST_SERVICE: Duration = Duration::from_secs(60);
/// How often names are looked up again.
const LOOK_UP: Duration = Duration::from_millis(250);

/// What the load is to be.
#[derive(Clone, Debug)]
pub struct Options {
    /// `HOST:PORT` of services or members; of a name with several addresses, all are taken.
    pub connect: Vec<String>,
    /// How many sessions write.
    pub writers: usize,
    /// The pause between two batches of a session.
    pub pace: Duration,
}

/// How far the load is: the answer to `progress`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Milliseconds since the load began.
    pub ms: u64,
    /// Batches that were acknowledged.
    pub acknowledged: usize,
}

/// How long no write was acknowledged: the answer to `gap FROM TO`, with times in milliseconds since the load began.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gap {
    /// The longest time between two acknowledgements, some part of which is in the time asked for.
    pub ms: u64,
}

/// What became of everything: the answer to `stop MEMBER...`, which ends the load.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// Writes that were acknowledged.
    pub acknowledged: usize,
    /// Writes whose connection broke first.
    pub unknown: usize,
    /// How often a session was taken up on another connection.
    pub reconnects: usize,
    /// Sessions that expired.
    pub expired: usize,
    /// Nodes of the members' trees.
    pub nodes: usize,
    /// What is wrong: a lost write, trees that differ.
    pub problem: Option<String>,
}

/// One write in the answer to `log`: a line of JSON for each.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// The writer.
    pub writer: usize,
    /// Which write of its writer.
    pub number: u64,
    /// Which batch of its writer.
    pub batch: u64,
    /// What was asked for.
    pub write: String,
    /// Path, zxid and version, or nothing when the outcome is unknown.
    pub acknowledged: Option<(String, i64, i32)>,
}

/// Runs the load and answers questions until the process is ended.
pub fn run(options: &Options) -> Result<()> {
    let listener = TcpListener::bind(("127.0.0.1", PORT))
        .with_context(|| format!("port {PORT} of the loopback is taken"))?;
    let addresses = wait_for("the members to be found by name", FIRST_SERVICE, || {
        let found = look_up(&options.connect);
        Ok((!found.is_empty()).then_some(found))
    })?;
    let writers = wait_for("a member that serves", FIRST_SERVICE, || {
        let start = |address| {
            let mut order = addresses.clone();
            order.sort_by_key(|other| *other != address);
            Writers::start_paced(&order, options.writers, options.pace)
        };
        Ok(addresses.iter().find_map(|address| start(*address).ok()))
    })?;
    say(format!("writing to {addresses:?}"));
    let load = Load {
        begin: Instant::now(),
        acknowledged: writers.acknowledged(),
        writers: Mutex::new(Some(writers)),
        logs: Mutex::new(Vec::new()),
        stopped: AtomicBool::new(false),
    };
    let load = Arc::new(load);
    let follower = Arc::clone(&load);
    let names = options.connect.clone();
    std::thread::spawn(move || follower.follow(&names));
    for stream in listener.incoming() {
        let stream = stream.context("no further questions can be taken")?;
        let load = Arc::clone(&load);
        std::thread::spawn(move || {
            if let Err(error) = load.answer(&stream) {
                say(format!("a question was not answered: {error:#}"));
            }
        });
    }
    bail!("the port for questions was closed")
}

/// Puts a question to the load that runs in this pod.
pub fn ask(question: &str, mut out: impl Write) -> Result<()> {
    let mut stream = TcpStream::connect(("127.0.0.1", PORT)).context("no load runs here")?;
    writeln!(stream, "{question}")?;
    let mut answer = BufReader::new(stream);
    let bytes = std::io::copy(&mut answer, &mut out)?;
    ensure!(
        bytes > 0,
        "{question:?} was not answered; see the log of the pod"
    );
    Ok(())
}

fn look_up(names: &[String]) -> Vec<SocketAddr> {
    let mut found: Vec<SocketAddr> = names
        .iter()
        .filter_map(|name| name.to_socket_addrs().ok())
        .flatten()
        .collect();
    found.sort_unstable();
    found.dedup();
    found
}

struct Load {
    begin: Instant,
    acknowledged: Arc<Acknowledged>,
    /// None once it was stopped.
    writers: Mutex<Option<Writers>>,
    /// Empty until it was stopped.
    logs: Mutex<Vec<Log>>,
    stopped: AtomicBool,
}

impl Load {
    /// Keeps the writers' addresses up to date. A name that is not found says nothing about the members.
    fn follow(&self, names: &[String]) {
        while !self.stopped.load(Ordering::Relaxed) {
            let found = look_up(names);
            if !found.is_empty()
                && let Some(writers) = lock(&self.writers).as_ref()
            {
                writers.set_addresses(&found);
            }
            std::thread::sleep(LOOK_UP);
        }
    }

    fn answer(&self, stream: &TcpStream) -> Result<()> {
        let mut question = String::new();
        BufReader::new(stream).take(4096).read_line(&mut question)?;
        let words: Vec<&str> = question.split_whitespace().collect();
        let mut out = BufWriter::new(stream);
        match words.as_slice() {
            ["progress"] => serde_json::to_writer(&mut out, &self.progress())?,
            ["gap", from, to] => {
                let at = |ms: &str| -> Result<Instant> {
                    Ok(self.begin + Duration::from_millis(ms.parse()?))
                };
                let gap = self.acknowledged.longest_gap(at(from)?, at(to)?);
                let ms = gap.as_millis() as u64;
                serde_json::to_writer(&mut out, &Gap { ms })?;
            }
            ["stop", members @ ..] => serde_json::to_writer(&mut out, &self.stop(members)?)?,
            ["log"] => write_log(&lock(&self.logs), &mut out)?,
            _ => bail!("unknown question {question:?}"),
        }
        out.flush()?;
        Ok(())
    }

    fn progress(&self) -> Progress {
        Progress {
            ms: self.begin.elapsed().as_millis() as u64,
            acknowledged: self.acknowledged.count(),
        }
    }

    /// Ends the load and checks it against the trees of `members`; a second time only checks.
    fn stop(&self, members: &[&str]) -> Result<Verdict> {
        self.stopped.store(true, Ordering::Relaxed);
        let writers = lock(&self.writers).take();
        let mut logs = lock(&self.logs);
        if let Some(writers) = writers {
            *logs = writers.stop()?;
        }
        let names: Vec<String> = members.iter().map(ToString::to_string).collect();
        Ok(verdict(&logs, &names))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().expect("no holder of this lock panics")
}

fn verdict(logs: &[Log], members: &[String]) -> Verdict {
    let (acknowledged, unknown) = ack::totals(logs);
    let sum = |field: fn(&Log) -> usize| logs.iter().map(field).sum::<usize>();
    let checked = check_members(logs, members);
    let problem = checked.as_ref().err().map(|error| format!("{error:#}"));
    Verdict {
        acknowledged,
        unknown,
        reconnects: sum(|log| log.reconnects),
        expired: sum(|log| log.expired),
        nodes: checked.unwrap_or_default(),
        problem,
    }
}

/// Compares the members' trees and checks every acknowledgement; returns how many nodes there are.
fn check_members(logs: &[Log], members: &[String]) -> Result<usize> {
    let mut addresses = Vec::new();
    for member in members {
        let found = member.to_socket_addrs();
        addresses.extend(found.with_context(|| format!("{member} is not found"))?);
    }
    let tree = check::equal_trees(&addresses)?;
    ack::check(logs, &tree)?;
    Ok(tree.len())
}

fn write_log(logs: &[Log], mut out: impl Write) -> Result<()> {
    ensure!(!logs.is_empty(), "the log is complete after `stop` only");
    for log in logs {
        for entry in &log.entries {
            let acknowledged = match &entry.outcome {
                Outcome::Acknowledged {
                    path,
                    zxid,
                    version,
                } => Some((path.clone(), *zxid, *version)),
                Outcome::Unknown => None,
            };
            let line = Line {
                writer: log.writer,
                number: entry.number,
                batch: entry.batch,
                write: format!("{:?}", entry.write),
                acknowledged,
            };
            serde_json::to_writer(&mut out, &line)?;
            out.write_all(b"\n")?;
        }
    }
    Ok(())
}
