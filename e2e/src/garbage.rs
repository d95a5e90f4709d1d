//! Clients and peers that behave badly: rubbish, lies about lengths, silence, and answers never read. The same seed
//! sends the same bytes.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Result;
use bytes::{BufMut, BytesMut};
use node_core::proto::data::Acl;

use crate::client::{Client, Request, Session, connect_frame, flags};
use crate::config::{Ports, loopback};
use crate::random::Random;

const SESSION_TIMEOUT: Duration = Duration::from_secs(30);
const GREEDY_PATH: &str = "/greedy";

/// Which of a server's ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Port {
    Client,
    Quorum,
    Election,
}

/// Requests whose bodies are rubbish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bodies {
    /// Of reads and writes.
    All,
    /// Of reads only: a write that cannot be decoded makes a leader of Apache's use a zxid twice, and then it commits
    /// nothing any more.
    Reads,
}

/// Sends rubbish to the three ports of all servers until `stop`; returns on how many connections.
pub fn rubbish(servers: &[Ports], seed: u64, bodies: Bodies, stop: &AtomicBool) -> u64 {
    let mut random = Random::new(seed);
    let mut count = 0;
    while !stop.load(Ordering::Relaxed) {
        let ports = servers[random.index(servers.len())];
        let port = [Port::Client, Port::Quorum, Port::Election][random.index(3)];
        let bytes = bytes_for(port, bodies, &mut random);
        let wait = random.below(4) == 0;
        let number = match port {
            Port::Client => ports.client,
            Port::Quorum => ports.quorum,
            Port::Election => ports.election,
        };
        // Only the leader listens for learners; a refused connection is as good as a closed one.
        if send(loopback(number), &bytes, wait).is_ok() {
            count += 1;
        }
    }
    count
}

fn send(address: SocketAddr, bytes: &[u8], wait: bool) -> std::io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_millis(500))?;
    stream.set_write_timeout(Some(Duration::from_millis(100)))?;
    stream.set_read_timeout(Some(Duration::from_millis(20)))?;
    stream.write_all(bytes)?;
    if wait {
        let mut answer = [0; 512];
        while stream.read(&mut answer)? > 0 {}
    }
    Ok(())
}

fn bytes_for(port: Port, bodies: Bodies, random: &mut Random) -> Vec<u8> {
    match (random.below(4), port) {
        (0, _) => {
            let len = 1 + random.index(3000);
            random.bytes(len)
        }
        (1, Port::Client) => truncated(&connect_frame(None, SESSION_TIMEOUT), random),
        (2, Port::Client) => oversized(random),
        (_, Port::Client) => after_handshake(bodies, random),
        (1, Port::Quorum) => truncated(&learner_info(20, random), random),
        (2, Port::Quorum) => learner_info(LENGTHS[random.index(LENGTHS.len())], random),
        (_, Port::Quorum) => oversized(random),
        (1, Port::Election) => truncated(&hello(17, random), random),
        (_, Port::Election) => hello(LENGTHS[random.index(LENGTHS.len())], random),
    }
}

/// Lengths that nobody means.
const LENGTHS: [i32; 7] = [
    i32::MAX,
    i32::MIN,
    -2,
    -1,
    1 << 20,
    0x00ff_ffff,
    0x7fff_0000,
];

fn truncated(frame: &[u8], random: &mut Random) -> Vec<u8> {
    frame[..random.index(frame.len())].to_vec()
}

fn oversized(random: &mut Random) -> Vec<u8> {
    let mut out = LENGTHS[random.index(LENGTHS.len())].to_be_bytes().to_vec();
    let len = random.index(5000);
    out.extend(random.bytes(len));
    out
}

/// A handshake as it should be, and then requests that are not.
fn after_handshake(bodies: Bodies, random: &mut Random) -> Vec<u8> {
    const READS: [i32; 12] = [3, 4, 6, 8, 12, 17, 18, 101, 103, 104, 105, 106];
    const WRITES: [i32; 14] = [0, 1, 2, 5, 7, 9, 13, 14, 15, 16, 19, 21, 22, -10];
    let session = Session {
        id: (random.below(2) * random.number()) as i64,
        password: vec![7; 16].into(),
        last_zxid: 0,
    };
    let mut out = connect_frame(Some(&session), Duration::from_secs(4));
    for xid in 1..=1 + random.below(20) as i32 {
        let len = random.index(200);
        let mut body = random.bytes(len);
        if random.below(2) == 0 && body.len() > 8 {
            // A length or a count that the rest of the body cannot hold.
            body[..4].copy_from_slice(&LENGTHS[random.index(LENGTHS.len())].to_be_bytes());
        }
        out.put_i32(body.len() as i32 + 8);
        out.put_i32(xid);
        let write = bodies == Bodies::All && random.below(2) == 0;
        out.put_i32(if write {
            WRITES[random.index(WRITES.len())]
        } else {
            READS[random.index(READS.len())]
        });
        out.put_slice(&body);
    }
    out.to_vec()
}

/// The first packet of a follower, with any length of its data.
fn learner_info(len: i32, random: &mut Random) -> Vec<u8> {
    let mut out = BytesMut::new();
    out.put_i32(11);
    out.put_i64(random.number() as i64 >> 20);
    out.put_i32(len);
    out.put_slice(&random.bytes(16));
    out.to_vec()
}

/// The first message on the election port, with any length of its address and no sender that exists.
fn hello(len: i32, random: &mut Random) -> Vec<u8> {
    let mut out = BytesMut::new();
    out.put_i64(-65536 + random.below(2) as i64);
    out.put_i64(1_000_000 + random.below(1000) as i64);
    out.put_i32(len);
    out.put_slice(&random.bytes(12));
    out.to_vec()
}

/// Holds connections to every port and sends one byte on each now and then, until `stop`. Returns how many were cut.
pub fn slow(servers: &[Ports], each: usize, stop: &AtomicBool) -> u64 {
    let numbers = servers
        .iter()
        .flat_map(|ports| [ports.client, ports.quorum, ports.election]);
    let mut streams: Vec<TcpStream> = numbers
        .flat_map(|port| (0..each).filter_map(move |_| TcpStream::connect(loopback(port)).ok()))
        .collect();
    let (mut cut, frame) = (0, connect_frame(None, SESSION_TIMEOUT));
    for place in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let before = streams.len();
        streams.retain_mut(|stream| stream.write_all(&frame[place % frame.len()..][..1]).is_ok());
        cut += (before - streams.len()) as u64;
        std::thread::sleep(Duration::from_millis(200));
    }
    cut
}

/// Asks for far more than it reads, on one connection to every server, until `stop`; counts the bytes of requests sent.
pub fn greedy(servers: &[Ports], stop: &AtomicBool, sent: &AtomicU64) -> Result<()> {
    let mut clients = Vec::new();
    for ports in servers {
        let mut client = Client::connect(loopback(ports.client), SESSION_TIMEOUT)?;
        let data = vec![b'g'; 100_000];
        // Whoever comes second finds the node there.
        client.call(&Request::create(
            GREEDY_PATH,
            &data,
            &[Acl::open()],
            flags::PERSISTENT,
        ))?;
        client.call(&Request::sync(GREEDY_PATH))?;
        let stream = client.into_stream();
        stream.set_nonblocking(true)?;
        clients.push(stream);
    }
    let mut request = BytesMut::new();
    Request::get(GREEDY_PATH).write_frame(9, &mut request);
    let burst = request.repeat(1000);
    while !stop.load(Ordering::Relaxed) {
        for stream in &mut clients {
            // A partial write leaves half a request: rubbish, but of a kind that is meant here too.
            sent.fetch_add(
                stream.write(&burst).unwrap_or_default() as u64,
                Ordering::Relaxed,
            );
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}
