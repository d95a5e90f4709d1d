//! Sessions whose every request and answer is noted, for the history checker: they read, write and watch the same few nodes,
//! have ephemeral ones, lose their connection, end or are left to expire. An answer that does not come stays unknown.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use bytes::{Buf, Bytes};
use node_core::jute::Reader;
use node_core::proto::client::{Request as Ask, SetWatches};
use node_core::zxid::Zxid;
use node_history::{Event, Reply};

use super::calls::{self, Choice, Known};
use crate::client::{Client, ConnectError, Request, Session, code, flags};
use crate::random::Random;

/// The folder of the nodes of the history.
pub const ROOT: &str = "/history";
/// Short, so that sessions expire within a run; servers grant no less than two ticks.
const SESSION_TIMEOUT: Duration = Duration::from_secs(4);
const RETRY: Duration = Duration::from_millis(5);
const HELLO: Duration = Duration::from_secs(1);
const REPLY: Duration = Duration::from_secs(2);

#[derive(Debug)]
struct Shared {
    addresses: Vec<SocketAddr>,
    pace: Duration,
    stop: AtomicBool,
    hush: AtomicBool,
    history: Mutex<Vec<Event>>,
    next_op: AtomicU64,
    next_value: AtomicU64,
    /// Answers that are neither a result nor a refusal that the checker knows: their outcome stays unknown.
    odd: Mutex<BTreeMap<i32, usize>>,
}

impl Shared {
    fn note(&self, event: Event) -> usize {
        let mut history = self.history.lock().expect("no holder of this lock panics");
        history.push(event);
        history.len() - 1
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

/// Clients that record.
#[derive(Debug)]
pub struct Recorder {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

/// What was recorded.
#[derive(Debug)]
pub struct Recorded {
    /// Everything in the order in which it was noted.
    pub history: Vec<Event>,
    /// Error codes that no healthy server gives, and how often.
    pub odd: BTreeMap<i32, usize>,
}

impl Recorder {
    /// Starts `count` clients, each with a pause of `pace` between its steps.
    pub fn start(
        addresses: &[SocketAddr],
        count: usize,
        pace: Duration,
        seed: u64,
    ) -> Result<Self> {
        let mut client = Client::connect(addresses[0], SESSION_TIMEOUT)?;
        let open = [node_core::proto::data::Acl::open()];
        let reply = client.call(&Request::create(ROOT, b"", &open, flags::PERSISTENT))?;
        ensure!(reply.err == 0, "cannot create {ROOT}: error {}", reply.err);
        client.close()?;
        let shared = Arc::new(Shared {
            addresses: addresses.to_vec(),
            pace,
            stop: AtomicBool::new(false),
            hush: AtomicBool::new(false),
            history: Mutex::default(),
            next_op: AtomicU64::new(1),
            next_value: AtomicU64::new(1),
            odd: Mutex::default(),
        });
        let thread = |number: usize| {
            let shared = Arc::clone(&shared);
            let random = Random::new(seed.wrapping_mul(1000) + number as u64);
            std::thread::spawn(move || Recording::new(&shared, number, random).run())
        };
        let threads = (0..count).map(thread).collect();
        Ok(Self { shared, threads })
    }

    /// Whether the clients keep their sessions and ask for nothing for now.
    pub fn hush(&self, hush: bool) {
        self.shared.hush.store(hush, Ordering::Relaxed);
    }

    /// How many events were noted.
    #[must_use]
    pub fn events(&self) -> usize {
        let history = self.shared.history.lock();
        history.expect("no holder of this lock panics").len()
    }

    /// Ends the clients.
    #[must_use]
    pub fn stop(self) -> Recorded {
        self.shared.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().expect("a recording client does not panic");
        }
        let take =
            |history: &Mutex<Vec<Event>>| std::mem::take(&mut *history.lock().expect("free"));
        let history = take(&self.shared.history);
        let odd = self.shared.odd.lock().expect("free").clone();
        Recorded { history, odd }
    }
}

struct Recording<'a> {
    shared: &'a Shared,
    random: Random,
    /// The member that the next connection goes to.
    next: usize,
    session: Option<Session>,
    /// Whether it sets its watches again on a new connection; others forget them.
    rewatches: bool,
    /// Its watches: whether they wait for a node that is not there.
    watches: BTreeMap<String, bool>,
    known: Known,
    /// It lets its session expire until then.
    silent_until: Option<Instant>,
}

/// Why a connection is given up.
enum End {
    /// It broke, or is left on purpose.
    Broken,
    /// The session was closed.
    Closed,
}

impl From<io::Error> for End {
    fn from(_: io::Error) -> Self {
        Self::Broken
    }
}

impl<'a> Recording<'a> {
    fn new(shared: &'a Shared, number: usize, random: Random) -> Self {
        Self {
            shared,
            random,
            next: number,
            session: None,
            rewatches: number.is_multiple_of(2),
            watches: BTreeMap::new(),
            known: Known::default(),
            silent_until: None,
        }
    }

    fn run(mut self) {
        while !self.shared.stopped() {
            let silent = self
                .silent_until
                .is_some_and(|until| Instant::now() < until);
            let client = if silent { None } else { self.connect() };
            let Some(mut client) = client else {
                std::thread::sleep(RETRY);
                continue;
            };
            self.silent_until = None;
            let end = self.serve(&mut client);
            let session = client.session().clone();
            self.shared.note(Event::Disconnected {
                session: session.id,
                forgets_watches: !self.rewatches,
            });
            if !self.rewatches {
                self.watches.clear();
            }
            match end {
                End::Broken => self.session = Some(session),
                End::Closed => self.forget(),
            }
        }
    }

    fn forget(&mut self) {
        self.session = None;
        self.watches.clear();
        self.known = Known::default();
    }

    fn connect(&mut self) -> Option<Client> {
        self.next = (self.next + 1) % self.shared.addresses.len();
        let address = self.shared.addresses[self.next];
        match Client::open_within(HELLO, address, SESSION_TIMEOUT, self.session.as_ref()) {
            Ok(client) => {
                client.set_patience(REPLY).ok()?;
                let session = client.session().id;
                self.shared.note(Event::Connected { session });
                Some(client)
            }
            Err(ConnectError::Expired) => {
                if let Some(session) = &self.session {
                    self.shared.note(Event::Expired {
                        session: session.id,
                    });
                }
                self.forget();
                None
            }
            Err(ConnectError::Io(_)) => None,
        }
    }

    /// One connection, until it ends.
    fn serve(&mut self, client: &mut Client) -> End {
        let again = self.watch_again(client);
        let end = again.and_then(|()| {
            loop {
                self.step(client)?;
            }
        });
        match end {
            Ok(never) => never,
            Err(end) => end,
        }
    }

    fn watch_again(&mut self, client: &mut Client) -> Result<(), End> {
        if self.watches.is_empty() {
            return Ok(());
        }
        let those = |waiting: bool| {
            let watches = self.watches.iter().filter(|(_, waits)| **waits == waiting);
            watches.map(|(path, _)| path.clone()).collect()
        };
        let watches = SetWatches {
            relative_zxid: Zxid(client.session().last_zxid),
            data: those(false),
            exist: those(true),
            child: Vec::new(),
        };
        let reply = client.call(&Request::of(&Ask::SetWatches(watches)))?;
        self.note_fired(client);
        if reply.err == 0 {
            Ok(())
        } else {
            Err(End::Broken)
        }
    }

    /// A few requests at once, or something about the session.
    fn step(&mut self, client: &mut Client) -> Result<(), End> {
        if self.shared.stopped() {
            return Err(End::Broken);
        }
        std::thread::sleep(self.shared.pace);
        if self.shared.hush.load(Ordering::Relaxed) {
            return Ok(());
        }
        match self.random.below(400) {
            0 => {
                let silence = client.timeout() * 3 / 2 + Duration::from_secs(1);
                self.silent_until = Some(Instant::now() + silence);
                return Err(End::Broken);
            }
            1 => {
                self.ask(client, vec![Choice::close()])?;
                return Err(End::Closed);
            }
            2..6 => return Err(End::Broken),
            _ => {}
        }
        let count = 1 + self.random.below(3);
        let value = || self.shared.next_value.fetch_add(1, Ordering::Relaxed);
        let choices = (0..count).map(|_| calls::choose(&mut self.random, &mut self.known, value));
        let choices = choices.collect();
        self.ask(client, choices)
    }

    fn ask(&mut self, client: &mut Client, choices: Vec<Choice>) -> Result<(), End> {
        let session = client.session().id;
        let mut places = Vec::new();
        for choice in &choices {
            let op = self.shared.next_op.fetch_add(1, Ordering::Relaxed);
            let call = choice.call.clone();
            places.push((op, self.shared.note(Event::Invoke { op, session, call })));
        }
        let requests: Vec<Request> = choices
            .iter()
            .map(|choice| choice.request.clone())
            .collect();
        client.send(&requests)?;
        for (choice, (op, place)) in choices.iter().zip(places) {
            let reply = client.receive()?;
            self.note_fired(client);
            if matches!(reply.err, code::SESSION_EXPIRED | code::SESSION_MOVED) {
                return Err(End::Broken);
            }
            let Some(answer) = calls::answer(choice, &reply) else {
                let mut odd = self
                    .shared
                    .odd
                    .lock()
                    .expect("no holder of this lock panics");
                *odd.entry(reply.err).or_default() += 1;
                return Err(End::Broken);
            };
            if let Some(call) = answer.really {
                let mut history = self.shared.history.lock().expect("free");
                history[place] = Event::Invoke { op, session, call };
            }
            if let Some((path, waits)) = answer.watches {
                self.watches.insert(path, waits);
            }
            self.known.learn(choice, &answer.result);
            let (zxid, result) = (reply.zxid, answer.result);
            self.shared.note(Event::Return { op, zxid, result });
        }
        Ok(())
    }

    /// Events that came before what was received last.
    fn note_fired(&mut self, client: &mut Client) {
        let session = client.session().id;
        for event in client.events.drain(..) {
            if let Some(path) = fired(event) {
                self.watches.remove(&path);
                self.shared.note(Event::Fired { session, path });
            }
        }
    }
}

/// The path of a watch event; `None` for one of the connection's state.
fn fired(mut event: Bytes) -> Option<String> {
    if event.remaining() < 8 {
        return None;
    }
    let kind = event.get_i32();
    let _state = event.get_i32();
    let path = Reader::new(event).read().ok()?;
    (kind > 0).then_some(path)
}

/// Whether anything was answered at all: a history without answers proves nothing.
#[must_use]
pub fn answered(history: &[Event]) -> bool {
    let real = |event: &Event| matches!(event, Event::Return { result: Ok(reply), .. } if *reply != Reply::Done);
    history.iter().any(real)
}
