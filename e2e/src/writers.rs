//! Sessions that write without pause and note every acknowledgement, whatever happens to the servers.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, RwLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use node_core::proto::data::Acl;

use crate::ack::{self, COUNTERS, Entry, Log, Outcome, Write};
use crate::client::{Client, ConnectError, Reply, Request, Session, code, flags};
use crate::outage::Acknowledged;
use crate::random::Random;

const SESSION_TIMEOUT: Duration = Duration::from_secs(10);
const BATCH: u64 = 8;
const LIVE_NODES: usize = 200;
/// Between batches: the load is to be steady, not to fill the disk.
const PACE: Duration = Duration::from_millis(10);
const RETRY: Duration = Duration::from_millis(3);
/// How long a member may be silent before its writers go to another one: a session takes that, and the gaps that are
/// measured are the ensemble's.
const HELLO: Duration = Duration::from_secs(1);
const REPLY: Duration = Duration::from_secs(2);

/// What all writers of one load share.
#[derive(Debug)]
struct Shared {
    addresses: RwLock<Vec<SocketAddr>>,
    stop: AtomicBool,
    hush: AtomicBool,
    pace: Duration,
    acknowledged: Arc<Acknowledged>,
}

/// A running load.
#[derive(Debug)]
pub struct Writers {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<Result<Log>>>,
}

impl Writers {
    /// Makes the writers' folders and starts `count` sessions, spread over the members.
    pub fn start(addresses: &[SocketAddr], count: usize) -> Result<Self> {
        Self::start_paced(addresses, count, PACE)
    }

    /// The same with another pause between two batches of a session.
    pub fn start_paced(addresses: &[SocketAddr], count: usize, pace: Duration) -> Result<Self> {
        prepare(
            *addresses.first().context("an ensemble has members")?,
            count,
        )?;
        let shared = Arc::new(Shared {
            addresses: RwLock::new(addresses.to_vec()),
            stop: AtomicBool::new(false),
            hush: AtomicBool::new(false),
            pace,
            acknowledged: Arc::default(),
        });
        let thread = |writer| {
            let shared = Arc::clone(&shared);
            std::thread::spawn(move || Writer::new(writer, &shared).run())
        };
        let threads = (0..count).map(thread).collect();
        Ok(Self { shared, threads })
    }

    /// When writes were acknowledged.
    #[must_use]
    pub fn acknowledged(&self) -> Arc<Acknowledged> {
        Arc::clone(&self.shared.acknowledged)
    }

    /// Waits until `count` more batches were acknowledged.
    pub fn wait_progress(&self, count: usize, patience: Duration) -> Result<()> {
        let goal = self.shared.acknowledged.count() + count;
        crate::servers::wait_for("writes to go on", patience, || {
            ensure!(
                !self.threads.iter().any(JoinHandle::is_finished),
                "a writer ended by itself"
            );
            Ok((self.shared.acknowledged.count() >= goal).then_some(()))
        })
    }

    /// Whether the writers keep their sessions and write nothing for now.
    pub fn hush(&self, hush: bool) {
        self.shared.hush.store(hush, Ordering::Relaxed);
    }

    /// The members changed: writers go to these from their next connection on.
    pub fn set_addresses(&self, addresses: &[SocketAddr]) {
        *self
            .shared
            .addresses
            .write()
            .expect("no holder of this lock panics") = addresses.to_vec();
    }

    /// Ends the load; each writer closes its session.
    pub fn stop(self) -> Result<Vec<Log>> {
        self.shared.stop.store(true, Ordering::Relaxed);
        let join =
            |thread: JoinHandle<Result<Log>>| thread.join().expect("a writer does not panic");
        self.threads.into_iter().map(join).collect()
    }
}

fn prepare(address: SocketAddr, count: usize) -> Result<()> {
    let mut client = Client::connect(address, SESSION_TIMEOUT)?;
    let mut make = |path: &str, acl: &[Acl]| -> Result<()> {
        let reply = client.call(&Request::create(path, b"0", acl, flags::PERSISTENT))?;
        ensure!(
            matches!(reply.err, 0 | code::NODE_EXISTS),
            "cannot create {path}: error {}",
            reply.err
        );
        Ok(())
    };
    make(ack::ROOT, &[Acl::open()])?;
    for writer in 0..count {
        make(&ack::folder(writer), &[Acl::open()])?;
        (0..COUNTERS)
            .try_for_each(|counter| make(&ack::counter(writer, counter), &[Acl::open()]))?;
    }
    client.close()?;
    Ok(())
}

struct Writer<'a> {
    shared: &'a Shared,
    random: Random,
    log: Log,
    session: Option<Session>,
    /// The member that the next connection goes to.
    next: usize,
    number: u64,
    batch: u64,
    live: Vec<String>,
    /// The last acknowledged value of each counter.
    counters: [u64; COUNTERS as usize],
}

impl<'a> Writer<'a> {
    fn new(writer: usize, shared: &'a Shared) -> Self {
        Self {
            shared,
            random: Random::new(writer as u64 + 1),
            log: Log {
                writer,
                ..Log::default()
            },
            session: None,
            next: writer,
            number: 0,
            batch: 0,
            live: Vec::new(),
            counters: [0; COUNTERS as usize],
        }
    }

    fn run(mut self) -> Result<Log> {
        while !self.stopped() {
            let Some(mut client) = self.connect() else {
                std::thread::sleep(RETRY);
                continue;
            };
            while !self.stopped() && (self.hushed() || self.write_batch(&mut client).is_ok()) {
                std::thread::sleep(self.shared.pace);
            }
            self.session = Some(client.session().clone());
            if self.stopped() {
                // The session expires by itself if this fails; it owns nothing.
                let _ = client.close();
            }
        }
        Ok(self.log)
    }

    fn stopped(&self) -> bool {
        self.shared.stop.load(Ordering::Relaxed)
    }

    fn hushed(&self) -> bool {
        self.shared.hush.load(Ordering::Relaxed)
    }

    fn connect(&mut self) -> Option<Client> {
        let address = {
            let addresses = self
                .shared
                .addresses
                .read()
                .expect("no holder of this lock panics");
            self.next = (self.next + 1) % addresses.len().max(1);
            *addresses.get(self.next)?
        };
        match Client::open_within(HELLO, address, SESSION_TIMEOUT, self.session.as_ref()) {
            Ok(client) => {
                client.set_patience(REPLY).ok()?;
                self.log.reconnects += usize::from(self.session.is_some());
                Some(client)
            }
            Err(ConnectError::Expired) => {
                self.log.expired += 1;
                self.session = None;
                None
            }
            Err(ConnectError::Io(_)) => None,
        }
    }

    /// Sends a batch of writes and one read, and notes what becomes of them. An error means another connection.
    fn write_batch(&mut self, client: &mut Client) -> std::io::Result<()> {
        self.batch += 1;
        let writes: Vec<(u64, Write)> = (0..BATCH).map(|place| self.choose(place)).collect();
        let read = self.random.below(COUNTERS);
        let folder = ack::folder(self.log.writer);
        let mut requests: Vec<Request> = writes
            .iter()
            .map(|write| self.request(&folder, write))
            .collect();
        requests.push(Request::get(&ack::counter(self.log.writer, read)));
        let mut result = client.send(&requests);
        let mut last_zxid = client.session().last_zxid;
        for (number, write) in writes {
            let reply = result
                .as_ref()
                .map_err(|_| ())
                .and_then(|()| client.receive().map_err(|_| ()));
            let outcome = match reply {
                Ok(reply) => self.outcome(number, &write, &reply, &mut last_zxid),
                Err(()) => None,
            };
            if outcome.is_none() {
                result = Err(std::io::ErrorKind::ConnectionAborted.into());
            }
            let outcome = outcome.unwrap_or(Outcome::Unknown);
            self.log.entries.push(Entry {
                number,
                batch: self.batch,
                write,
                outcome,
            });
        }
        result?;
        self.shared.acknowledged.now();
        let reply = client.receive()?;
        self.check_read(read, &reply, last_zxid);
        Ok(())
    }

    fn choose(&mut self, place: u64) -> (u64, Write) {
        self.number += 1;
        let write = match place {
            0 | 1 => Write::Create,
            2 | 3 if self.live.len() > LIVE_NODES => {
                let index = self.random.index(self.live.len());
                Write::Delete {
                    path: self.live.swap_remove(index),
                }
            }
            _ => Write::Set {
                counter: self.random.below(COUNTERS),
            },
        };
        (self.number, write)
    }

    fn request(&self, folder: &str, (number, write): &(u64, Write)) -> Request {
        let data = number.to_string();
        match write {
            Write::Create => Request::create(
                &format!("{folder}/n-"),
                data.as_bytes(),
                &[Acl::open()],
                flags::SEQUENTIAL,
            ),
            Write::Set { counter } => Request::set(
                &ack::counter(self.log.writer, *counter),
                data.as_bytes(),
                -1,
            ),
            Write::Delete { path } => Request::delete(path),
        }
    }

    /// What a reply says of a write; `None` when the session is not served here any more.
    fn outcome(
        &mut self,
        number: u64,
        write: &Write,
        reply: &Reply,
        last_zxid: &mut i64,
    ) -> Option<Outcome> {
        if matches!(reply.err, code::SESSION_EXPIRED | code::SESSION_MOVED) {
            return None;
        }
        if reply.zxid < *last_zxid {
            self.violation(format!(
                "write {number}: zxid {:#x} after {last_zxid:#x}",
                reply.zxid
            ));
        }
        *last_zxid = reply.zxid;
        match self.acknowledge(number, write, reply) {
            Ok(outcome) => Some(outcome),
            Err(error) => {
                self.violation(format!("write {number} ({write:?}): {error:#}"));
                Some(Outcome::Unknown)
            }
        }
    }

    fn acknowledge(&mut self, number: u64, write: &Write, reply: &Reply) -> Result<Outcome> {
        let (path, zxid, version) = match write {
            Write::Create => {
                let (path, stat) = reply.created()?;
                self.live.push(path.clone());
                (path, stat.czxid.0, stat.version)
            }
            Write::Set { counter } => {
                let stat: node_core::proto::data::Stat = reply.read()?;
                self.counters[*counter as usize] = number;
                (
                    ack::counter(self.log.writer, *counter),
                    stat.mzxid.0,
                    stat.version,
                )
            }
            Write::Delete { path } => {
                ensure!(reply.err == 0, "error code {}", reply.err);
                (path.clone(), reply.zxid, 0)
            }
        };
        ensure!(
            zxid <= reply.zxid,
            "the node says zxid {zxid:#x}, the reply {:#x}",
            reply.zxid
        );
        Ok(Outcome::Acknowledged {
            path,
            zxid,
            version,
        })
    }

    /// A session sees its own writes, on whichever member it is.
    fn check_read(&mut self, counter: u64, reply: &Reply, last_zxid: i64) {
        let expected = self.counters[counter as usize];
        let seen = reply
            .data()
            .and_then(|(data, _)| ack::parse(&data.unwrap_or_default()));
        match seen {
            Ok(seen) if seen >= expected && reply.zxid >= last_zxid => {}
            Ok(seen) => self.violation(format!(
                "counter {counter} read as {seen} at {:#x}, after {expected} was acknowledged, at {last_zxid:#x}",
                reply.zxid
            )),
            Err(_) if matches!(reply.err, code::SESSION_EXPIRED | code::SESSION_MOVED) => {}
            Err(error) => self.violation(format!("counter {counter} cannot be read: {error:#}")),
        }
    }

    fn violation(&mut self, what: String) {
        self.log.violations.push(what);
    }
}

/// Stops the load, compares the members' trees and checks every acknowledgement; returns when the load ended.
pub fn stop_and_check(writers: Writers, addresses: &[SocketAddr]) -> Result<(Instant, Vec<Log>)> {
    let end = Instant::now();
    let logs = writers.stop()?;
    let tree = crate::check::equal_trees(addresses)?;
    ack::check(&logs, &tree)?;
    let (acknowledged, unknown) = ack::totals(&logs);
    let sum = |field: fn(&Log) -> usize| logs.iter().map(field).sum::<usize>();
    crate::report::say(format!(
        "{acknowledged} writes acknowledged, {unknown} with unknown outcome, none lost; {} reconnects, {} sessions \
         expired; {} trees of {} nodes equal",
        sum(|log| log.reconnects),
        sum(|log| log.expired),
        addresses.len(),
        tree.len()
    ));
    Ok((end, logs))
}
