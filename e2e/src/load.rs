//! A load generator in one thread: many connections, each with a constant number of requests under way. It must cost
//! little, because it shares the cores with what it measures: one read and one write call for each batch of replies.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use bytes::{Buf, BufMut, BytesMut};
use mio::net::TcpStream as MioStream;
use mio::{Events, Interest, Poll, Token};
use node_core::proto::data::Acl;

use crate::client::{Client, Request, code, flags};
use crate::histogram::Histogram;
use crate::random::Random;

const ROOT: &str = "/bench";
const KEYS: u64 = 1000;
const DATA: [u8; 100] = [b'x'; 100];
const SESSION_TIMEOUT: Duration = Duration::from_secs(30);
const READ_SIZE: usize = 16 << 10;

/// What to send, over how many connections.
#[derive(Clone, Debug)]
pub struct Load {
    /// What the table calls it.
    pub name: &'static str,
    /// Connections over all members.
    pub connections: usize,
    /// Requests under way on each.
    pub depth: usize,
    /// Of 100 requests, how many are setData; the others are getData.
    pub set_percent: u64,
}

/// What came of it.
#[derive(Clone, Debug)]
pub struct Measured {
    /// Replies per second.
    pub rate: f64,
    /// The worst second's replies.
    pub worst_second: u64,
    /// Latencies.
    pub latency: Histogram,
    /// Replies.
    pub operations: u64,
}

/// Creates the keys that all loads read and write.
pub fn prepare(address: SocketAddr) -> Result<()> {
    let mut client = Client::connect(address, SESSION_TIMEOUT)?;
    let mut requests = vec![Request::create(
        ROOT,
        b"",
        &[Acl::open()],
        flags::PERSISTENT,
    )];
    requests.extend(
        (0..KEYS).map(|key| Request::create(&path(key), &DATA, &[Acl::open()], flags::PERSISTENT)),
    );
    for reply in client.pipeline(&requests)? {
        ensure!(
            matches!(reply.err, 0 | code::NODE_EXISTS),
            "cannot create the keys: error {}",
            reply.err
        );
    }
    client.close()?;
    Ok(())
}

fn path(key: u64) -> String {
    format!("{ROOT}/key-{key:04}")
}

/// One connection and the requests under way on it.
struct Connection {
    stream: MioStream,
    /// Bytes that were read; the first `filled` of them are not used up yet.
    input: Vec<u8>,
    filled: usize,
    output: BytesMut,
    /// When each request under way was sent, in a ring; nanoseconds since the start.
    sent: Vec<u64>,
    oldest: usize,
    xid: i32,
}

/// The frames to choose from: a `getData` and a `setData` for each key, with room for the xid.
struct Frames {
    get: Vec<Vec<u8>>,
    set: Vec<Vec<u8>>,
    set_percent: u64,
    random: Random,
}

impl Frames {
    fn new(set_percent: u64) -> Self {
        let frame = |request: Request| {
            let mut out = BytesMut::new();
            request.write_frame(0, &mut out);
            out.to_vec()
        };
        Self {
            get: (0..KEYS)
                .map(|key| frame(Request::get(&path(key))))
                .collect(),
            set: (0..KEYS)
                .map(|key| frame(Request::set(&path(key), &DATA, -1)))
                .collect(),
            set_percent,
            random: Random::new(set_percent + 1),
        }
    }

    #[inline]
    fn append(&mut self, xid: i32, out: &mut BytesMut) {
        let number = self.random.number();
        let key = (((number >> 40) * KEYS) >> 24) as usize;
        let frame = if (number & 0xffff) * 100 < self.set_percent << 16 {
            &self.set[key]
        } else {
            &self.get[key]
        };
        out.put_slice(&frame[..4]);
        out.put_i32(xid);
        out.put_slice(&frame[8..]);
    }
}

impl Connection {
    fn open(address: SocketAddr, depth: usize) -> Result<Self> {
        let client = Client::connect(address, SESSION_TIMEOUT)?;
        let stream: TcpStream = client.into_stream();
        stream.set_nonblocking(true)?;
        Ok(Self {
            stream: MioStream::from_std(stream),
            input: vec![0; READ_SIZE],
            filled: 0,
            output: BytesMut::new(),
            sent: vec![0; depth],
            oldest: 0,
            xid: 0,
        })
    }

    fn request(&mut self, now: u64, slot: usize, frames: &mut Frames) {
        self.xid = if self.xid == i32::MAX {
            1
        } else {
            self.xid + 1
        };
        frames.append(self.xid, &mut self.output);
        self.sent[slot] = now;
    }

    /// Reads what there is; returns whether there may be more.
    fn fill(&mut self) -> Result<bool> {
        match self.stream.read(&mut self.input[self.filled..]) {
            Ok(0) => bail!("the server closed the connection"),
            Ok(n) => {
                self.filled += n;
                Ok(self.filled == self.input.len())
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Takes the whole replies of the input, and puts a new request into the output for each while `more`.
    fn replies(
        &mut self,
        now: u64,
        frames: &mut Frames,
        latency: Option<&mut Histogram>,
        more: bool,
    ) -> Result<u64> {
        let (mut count, mut start) = (0, 0);
        let mut latency = latency;
        while let Some(head) = self.input[start..self.filled].first_chunk::<20>() {
            let len = u32::from_be_bytes([head[0], head[1], head[2], head[3]]) as usize + 4;
            if self.filled - start < len {
                ensure!(len <= READ_SIZE, "a reply of {len} bytes");
                break;
            }
            let err = i32::from_be_bytes([head[16], head[17], head[18], head[19]]);
            ensure!(err == 0, "error code {err}");
            start += len;
            let slot = self.oldest;
            if let Some(latency) = &mut latency {
                latency.add(now - self.sent[slot]);
            }
            self.oldest = if slot + 1 == self.sent.len() {
                0
            } else {
                slot + 1
            };
            if more {
                self.request(now, slot, frames);
            }
            count += 1;
        }
        self.input.copy_within(start..self.filled, 0);
        self.filled -= start;
        Ok(count)
    }

    fn flush(&mut self) -> Result<()> {
        while !self.output.is_empty() {
            match self.stream.write(&self.output) {
                Ok(n) => self.output.advance(n),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

/// Runs `load` for `warm_up` and then measures it for `time`. `mark` is called when measuring begins and when it ends.
pub fn run(
    load: &Load,
    addresses: &[SocketAddr],
    warm_up: Duration,
    time: Duration,
    mut mark: impl FnMut() -> Result<()>,
) -> Result<Measured> {
    let mut poll = Poll::new()?;
    let mut run = Run::start(load, addresses, &poll)?;
    let (begin, end) = (
        warm_up.as_nanos() as u64,
        (warm_up + time).as_nanos() as u64,
    );
    let mut events = Events::with_capacity(load.connections);
    while run.outstanding > 0 {
        poll.poll(&mut events, Some(PATIENCE))?;
        ensure!(
            !events.is_empty(),
            "no reply for {PATIENCE:?}, {} requests are under way",
            run.outstanding
        );
        let now = run.now();
        if run.phase == Phase::WarmUp && now >= begin {
            run.phase = Phase::Measure;
            run.begin = now;
            mark()?;
        }
        if run.phase == Phase::Measure && now >= end {
            run.phase = Phase::Drain;
            run.end = now;
            mark()?;
        }
        for event in &events {
            run.serve(event.token().0, event.is_readable())?;
        }
    }
    run.finish(time)
}

/// How long the servers may be silent.
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Replies do not count yet.
    WarmUp,
    /// They do.
    Measure,
    /// Only those are awaited that are under way.
    Drain,
}

/// A load under way. Times are nanoseconds since its start.
struct Run {
    connections: Vec<Connection>,
    frames: Frames,
    start: Instant,
    phase: Phase,
    begin: u64,
    end: u64,
    outstanding: usize,
    latency: Histogram,
    /// Replies in each second of the measurement.
    seconds: Vec<u64>,
}

impl Run {
    fn start(load: &Load, addresses: &[SocketAddr], poll: &Poll) -> Result<Self> {
        let mut connections = Vec::new();
        for index in 0..load.connections {
            let mut connection = Connection::open(addresses[index % addresses.len()], load.depth)?;
            let interest = Interest::READABLE | Interest::WRITABLE;
            poll.registry()
                .register(&mut connection.stream, Token(index), interest)?;
            connections.push(connection);
        }
        let mut run = Self {
            connections,
            frames: Frames::new(load.set_percent),
            start: Instant::now(),
            phase: Phase::WarmUp,
            begin: 0,
            end: 0,
            outstanding: load.connections * load.depth,
            latency: Histogram::default(),
            seconds: Vec::new(),
        };
        for connection in &mut run.connections {
            let now = run.start.elapsed().as_nanos() as u64;
            (0..load.depth).for_each(|slot| connection.request(now, slot, &mut run.frames));
            connection.flush()?;
        }
        Ok(run)
    }

    fn now(&self) -> u64 {
        self.start.elapsed().as_nanos() as u64
    }

    /// One connection can be read or written.
    fn serve(&mut self, index: usize, readable: bool) -> Result<()> {
        let mut more = readable;
        while more {
            more = self.connections[index].fill()?;
            let now = self.now();
            let go_on = self.phase != Phase::Drain;
            let latency = (self.phase == Phase::Measure).then_some(&mut self.latency);
            let count = self.connections[index].replies(now, &mut self.frames, latency, go_on)?;
            match self.phase {
                Phase::WarmUp => {}
                Phase::Measure => {
                    let second = ((now - self.begin) / 1_000_000_000) as usize;
                    if self.seconds.len() <= second {
                        self.seconds.resize(second + 1, 0);
                    }
                    self.seconds[second] += count;
                }
                Phase::Drain => self.outstanding -= count as usize,
            }
        }
        self.connections[index].flush()
    }

    /// Closes the sessions, so that they don't burden the next load.
    fn finish(mut self, time: Duration) -> Result<Measured> {
        for connection in &mut self.connections {
            Request::close().write_frame(connection.xid, &mut connection.output);
            connection.flush()?;
        }
        let operations = self.latency.total();
        let rate = operations as f64 / ((self.end - self.begin) as f64 / 1e9);
        let whole = self.seconds.iter().take(time.as_secs().max(1) as usize);
        let worst_second = whole.min().copied().unwrap_or_default();
        Ok(Measured {
            rate,
            worst_second,
            operations,
            latency: self.latency,
        })
    }
}
