//! Very many sessions in one thread, all of which come back when their server is gone; and clients that never read.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::{Buf, Bytes, BytesMut};
use mio::net::TcpStream as MioStream;
use mio::{Events, Interest, Poll, Token};
use node_core::proto::data::Acl;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::client::{Client, Request, Session, code, connect_frame, flags};
use crate::report::millis;
use crate::servers::wait_for;

const SESSION_TIMEOUT: Duration = Duration::from_secs(30);
/// How often a session says that it is there.
const PING: Duration = Duration::from_secs(8);
/// How long a server may take to answer a hello.
const HELLO: Duration = Duration::from_secs(10);
/// Between two attempts of one session.
const RETRY: Duration = Duration::from_millis(100);
const PING_FRAME: [u8; 12] = [0, 0, 0, 8, 0xff, 0xff, 0xff, 0xfe, 0, 0, 0, 11];
/// Of this many sessions, how many are to be there again; a few always linger.
const ALL: [usize; 2] = [99, 100];

#[derive(Debug, Default)]
struct Counts {
    stop: AtomicBool,
    connected: AtomicUsize,
    expired: AtomicUsize,
    lost: AtomicUsize,
    /// When the last session that was needed came.
    marked: Mutex<Option<Instant>>,
}

/// Many sessions.
#[derive(Debug)]
pub struct Storm {
    count: usize,
    counts: Arc<Counts>,
    thread: JoinHandle<Result<()>>,
}

impl Storm {
    /// Begins to open `count` sessions, spread over the members.
    pub fn start(addresses: &[SocketAddr], count: usize) -> Result<Self> {
        raise_limit(count)?;
        let counts = Arc::new(Counts::default());
        let mut crowd = Crowd {
            addresses: addresses.to_vec(),
            counts: Arc::clone(&counts),
            poll: Poll::new()?,
            guests: (0..count).map(Guest::new).collect(),
        };
        let storm = Self {
            count,
            counts,
            thread: std::thread::spawn(move || crowd.run()),
        };
        storm.mark();
        Ok(storm)
    }

    /// Time counts from now.
    pub fn mark(&self) {
        *self
            .counts
            .marked
            .lock()
            .expect("no holder of this lock panics") = Some(Instant::now());
        self.counts.lost.store(0, Ordering::Relaxed);
        self.counts.expired.store(0, Ordering::Relaxed);
    }

    /// Waits until 99 % are connected; says how long it took since the mark.
    pub fn settle(&mut self, patience: Duration) -> Result<String> {
        let needed = self.count * ALL[0] / ALL[1];
        let connected = || self.counts.connected.load(Ordering::Relaxed);
        let marked = *self
            .counts
            .marked
            .lock()
            .expect("no holder of this lock panics");
        let start = marked.context("the storm has begun")?;
        let all = wait_for("the sessions", patience, || {
            ensure!(!self.thread.is_finished(), "the storm ended by itself");
            Ok((connected() >= needed).then_some(()))
        });
        let load = |count: &AtomicUsize| count.load(Ordering::Relaxed);
        let told = match all {
            Ok(()) => millis(start.elapsed()),
            Err(_) => format!("{} s only {} were there", patience.as_secs(), connected()),
        };
        Ok(format!(
            "{told} ({} connections lost, {} sessions expired)",
            load(&self.counts.lost),
            load(&self.counts.expired)
        ))
    }

    /// Ends the storm; its sessions expire by themselves.
    pub fn stop(self) {
        self.counts.stop.store(true, Ordering::Relaxed);
        let ended = self.thread.join().expect("the storm does not panic");
        if let Err(error) = ended {
            crate::report::say(format!("the storm ended: {error:#}"));
        }
    }
}

/// This process and the servers that it starts may have many connections each.
fn raise_limit(count: usize) -> Result<()> {
    let limit = getrlimit(Resource::Nofile);
    let needed = count as u64 + 1000;
    let maximum = limit.maximum.map(|maximum| maximum.max(needed));
    let current = limit.current.map(|current| current.max(needed));
    setrlimit(Resource::Nofile, Rlimit { current, maximum })
        .context("cannot raise the limit of open files")
}

enum State {
    /// Connects again from then on.
    Waiting(Instant),
    /// Connects since then; its hello is still to be sent.
    Connecting(Instant),
    /// Its hello was sent then.
    Hello(Instant),
    /// Has a session; the next ping is due then.
    Open(Instant),
}

struct Guest {
    /// The member that it goes to next.
    next: usize,
    state: State,
    stream: Option<MioStream>,
    session: Option<Session>,
    input: BytesMut,
}

impl Guest {
    fn new(number: usize) -> Self {
        Self {
            next: number,
            state: State::Waiting(Instant::now()),
            stream: None,
            session: None,
            input: BytesMut::new(),
        }
    }

    /// Reads what there is; an error when the connection is over.
    fn fill(&mut self) -> std::io::Result<()> {
        let mut buffer = [0; 4096];
        let Some(stream) = &mut self.stream else {
            return Ok(());
        };
        loop {
            match stream.read(&mut buffer) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(n) => self.input.extend_from_slice(&buffer[..n]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }

    fn frame(&mut self) -> Option<Bytes> {
        let len = u32::from_be_bytes(*self.input.first_chunk::<4>()?) as usize;
        if self.input.len() < len + 4 {
            return None;
        }
        self.input.advance(4);
        Some(self.input.split_to(len).freeze())
    }
}

struct Crowd {
    addresses: Vec<SocketAddr>,
    counts: Arc<Counts>,
    poll: Poll,
    guests: Vec<Guest>,
}

impl Crowd {
    fn run(&mut self) -> Result<()> {
        let mut events = Events::with_capacity(4096);
        while !self.counts.stop.load(Ordering::Relaxed) {
            for number in 0..self.guests.len() {
                self.advance(number)?;
            }
            self.poll
                .poll(&mut events, Some(Duration::from_millis(50)))?;
            for event in &events {
                self.serve(event.token().0, event.is_writable());
            }
        }
        Ok(())
    }

    /// What is due by now.
    fn advance(&mut self, number: usize) -> Result<()> {
        let now = Instant::now();
        let guest = &mut self.guests[number];
        match guest.state {
            State::Waiting(from) if from <= now => {
                guest.next = (guest.next + 1) % self.addresses.len();
                guest.state = State::Connecting(now);
                guest.input.clear();
                let address = self.addresses[guest.next];
                let Ok(mut stream) = MioStream::connect(address) else {
                    guest.state = State::Waiting(now + RETRY);
                    return Ok(());
                };
                let interest = Interest::READABLE | Interest::WRITABLE;
                let registry = self.poll.registry();
                registry.register(&mut stream, Token(number), interest)?;
                guest.stream = Some(stream);
            }
            State::Connecting(since) | State::Hello(since) if now - since > HELLO => {
                self.lose(number)
            }
            State::Open(due) if due <= now => {
                guest.state = State::Open(now + PING);
                let sent = guest
                    .stream
                    .as_mut()
                    .map(|stream| stream.write_all(&PING_FRAME));
                if !matches!(sent, Some(Ok(()))) {
                    self.lose(number);
                }
            }
            State::Waiting(_) | State::Connecting(_) | State::Hello(_) | State::Open(_) => {}
        }
        Ok(())
    }

    fn lose(&mut self, number: usize) {
        let guest = &mut self.guests[number];
        if matches!(guest.state, State::Open(_)) {
            self.counts.connected.fetch_sub(1, Ordering::Relaxed);
            self.counts.lost.fetch_add(1, Ordering::Relaxed);
        }
        guest.stream = None;
        guest.state = State::Waiting(Instant::now() + RETRY);
    }

    fn serve(&mut self, number: usize, writable: bool) {
        let guest = &mut self.guests[number];
        if writable && matches!(guest.state, State::Connecting(_)) {
            guest.state = State::Hello(Instant::now());
            let frame = connect_frame(guest.session.as_ref(), SESSION_TIMEOUT);
            let sent = guest.stream.as_mut().map(|stream| stream.write_all(&frame));
            if !matches!(sent, Some(Ok(()))) {
                return self.lose(number);
            }
        }
        let filled = guest.fill();
        while let Some(frame) = guest.frame() {
            if matches!(guest.state, State::Hello(_)) {
                match greeted(frame, guest) {
                    Some(true) => {
                        guest.state = State::Open(Instant::now() + PING);
                        self.counts.connected.fetch_add(1, Ordering::Relaxed);
                    }
                    Some(false) => {
                        self.counts.expired.fetch_add(1, Ordering::Relaxed);
                        guest.session = None;
                        break;
                    }
                    None => break,
                }
            }
        }
        if filled.is_err() {
            self.lose(number);
        }
    }
}

/// Whether a session was granted by this answer to a hello.
fn greeted(mut frame: Bytes, guest: &mut Guest) -> Option<bool> {
    if frame.len() < 20 {
        return None;
    }
    let _protocol = frame.get_i32();
    let granted = frame.get_i32();
    let id = frame.get_i64();
    let len = usize::try_from(frame.get_i32()).ok()?;
    if granted <= 0 || frame.len() < len {
        return Some(false);
    }
    guest.session = Some(Session {
        id,
        password: frame.split_to(len),
        last_zxid: 0,
    });
    Some(true)
}

/// Connections on which much was asked for and nothing is read.
#[derive(Debug)]
pub struct Deaf(Vec<TcpStream>);

impl Deaf {
    /// How many of them the servers have closed.
    #[must_use]
    pub fn closed(&self) -> usize {
        // What is still in the connection comes first; only a reset shows without reading it all.
        let closed = |stream: &&TcpStream| !matches!(stream.take_error(), Ok(None));
        self.0.iter().filter(closed).count()
    }
}

/// Opens `count` connections that ask `depth` times for a node of 900 kB.
pub fn never_read(addresses: &[SocketAddr], count: usize, depth: usize) -> Result<Deaf> {
    const BIG: &str = "/big";
    let first = *addresses.first().context("an ensemble has members")?;
    let mut client = Client::connect(first, SESSION_TIMEOUT)?;
    let create = Request::create(BIG, &vec![b'x'; 900_000], &[Acl::open()], flags::PERSISTENT);
    let reply = client.call(&create)?;
    ensure!(
        matches!(reply.err, 0 | code::NODE_EXISTS),
        "cannot create {BIG}: {}",
        reply.err
    );
    client.close()?;
    let requests = vec![Request::get(BIG); depth];
    let mut deaf = Vec::new();
    for number in 0..count {
        let mut client = Client::connect(addresses[number % addresses.len()], SESSION_TIMEOUT)?;
        client.send(&requests)?;
        deaf.push(client.into_stream());
    }
    Ok(Deaf(deaf))
}
