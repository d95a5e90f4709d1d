//! Clients that read their answers late, or never.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use e2e::client::{Client, Request, flags};
use e2e::report::say;
use e2e::servers::{Ensemble, Kind, PATIENCE, Spec};
use node_core::proto::data::Acl;

const BIG: &str = "/big";
const BIG_BYTES: usize = 900_000;
const SESSION_TIMEOUT: Duration = Duration::from_secs(4);
const PING_FRAME: [u8; 12] = [0, 0, 0, 8, 0xff, 0xff, 0xff, 0xfe, 0, 0, 0, 11];
/// What a client that reads nothing may cost: an answer, and not much more.
const DEAF_BYTES: u64 = 2 << 20;

/// An ensemble of one with a large node.
fn start() -> Result<(Ensemble, SocketAddr)> {
    let ensemble = Ensemble::start(&Spec::new(Kind::chosen()?, 1, 0))?;
    let address = ensemble.addresses()[0];
    let mut client = Client::connect(address, Duration::from_secs(30))?;
    let data = vec![b'x'; BIG_BYTES];
    let create = Request::create(BIG, &data, &[Acl::open()], flags::PERSISTENT);
    client.call(&create)?.created()?;
    client.close()?;
    Ok((ensemble, address))
}

/// A client that has asked for `count` large answers.
fn asked(address: SocketAddr, timeout: Duration, count: usize) -> Result<Client> {
    let mut client = Client::connect(address, timeout)?;
    client.send(&vec![Request::get(BIG); count])?;
    Ok(client)
}

#[test]
fn answers_go_on_whether_they_are_read_at_once_or_late() -> Result<()> {
    let _alone = crate::alone("answers that are read late");
    let (ensemble, address) = start()?;
    for pause in [Duration::ZERO, Duration::from_millis(3)] {
        const COUNT: usize = 300;
        let mut client = asked(address, Duration::from_secs(10), COUNT)?;
        for number in 0..COUNT {
            std::thread::sleep(pause);
            let reply = client
                .receive()
                .with_context(|| format!("answer {number}, read every {pause:?}"))?;
            let (data, _) = reply.data()?;
            ensure!(data.is_some_and(|data| data.len() == BIG_BYTES));
        }
        client.close()?;
    }
    ensemble.passed()
}

#[test]
fn who_reads_nothing_but_pings_keeps_its_session() -> Result<()> {
    let _alone = crate::alone("a client that reads late and pings");
    let (ensemble, address) = start()?;
    const COUNT: usize = 40;
    let client = asked(address, SESSION_TIMEOUT, COUNT)?;
    let id = client.session().id;
    let mut stream = client.into_stream();
    let start = Instant::now();
    let mut pings = 0;
    while start.elapsed() < 3 * SESSION_TIMEOUT {
        stream.write_all(&PING_FRAME)?;
        pings += 1;
        std::thread::sleep(SESSION_TIMEOUT / 4);
    }
    let mut left = COUNT + pings;
    while left > 0 {
        let mut len = [0; 4];
        stream
            .read_exact(&mut len)
            .with_context(|| format!("session {id:#x} has {left} answers to come"))?;
        let mut frame = vec![0; u32::from_be_bytes(len) as usize];
        stream.read_exact(&mut frame)?;
        left -= 1;
    }
    ensemble.passed()
}

#[test]
fn who_reads_nothing_costs_little_and_is_gone_after_its_session() -> Result<()> {
    let _alone = crate::alone("clients that never read");
    let (ensemble, address) = start()?;
    let server = &ensemble.servers[0];
    const COUNT: usize = 50;
    let connections = || -> Result<usize> { Ok(server.srvr().context("it serves")?.connections) };
    let (before, others) = (server.rss()?, connections()?);
    let mut deaf: Vec<TcpStream> = Vec::new();
    for _ in 0..COUNT {
        deaf.push(asked(address, SESSION_TIMEOUT, 50)?.into_stream());
    }
    let (start, mut most, mut left) = (Instant::now(), before, COUNT);
    while left > 0 {
        most = most.max(server.rss()?);
        left = connections()?.saturating_sub(others);
        ensure!(
            start.elapsed() < PATIENCE,
            "{left} connections are still there"
        );
        std::thread::sleep(Duration::from_millis(200));
    }
    let each = (most - before) / COUNT as u64;
    say(format!(
        "{} KiB for each of {COUNT} clients that read nothing, all gone after {:.1} s",
        each >> 10,
        start.elapsed().as_secs_f64()
    ));
    // A Java server takes of its heap what it is given.
    ensure!(
        server.kind == Kind::Apache || each < DEAF_BYTES,
        "{each} bytes for each"
    );
    drop(deaf);
    ensemble.passed()
}
