//! Rubbish on all three ports leaves the ensemble serving and its memory flat.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use e2e::client::{Client, Request, flags};
use e2e::garbage;
use e2e::report::{millis, say};
use e2e::servers::{Ensemble, Kind, Server, Spec};
use node_core::proto::data::Acl;

const SEED: u64 = 8;
const MIB: u64 = 1 << 20;
/// What memory may grow by between the first quarter and the end.
const GROWTH: u64 = 16 * MIB;

/// `ZK_E2E_SECONDS`, or a minute.
fn seconds() -> Result<u64> {
    match std::env::var("ZK_E2E_SECONDS") {
        Ok(text) => text
            .parse()
            .with_context(|| format!("ZK_E2E_SECONDS is {text:?}, which is no number")),
        Err(_) => Ok(60),
    }
}

#[test]
fn rubbish_on_all_ports_leaves_the_ensemble_serving_and_its_memory_flat() -> Result<()> {
    let _alone = crate::alone("rubbish on all three ports");
    let time = Duration::from_secs(seconds()?);
    let kind = Kind::chosen()?;
    let spec =
        Spec::new(kind, 3, 1).java(&["-Xmx256m", "-Dorg.slf4j.simpleLogger.defaultLogLevel=error"]);
    let mut ensemble = Ensemble::start(&spec)?;
    let leader = ensemble.wait_leader()?;
    let ports: Vec<_> = ensemble.servers.iter().map(|server| server.ports).collect();
    let (stop, sent) = (AtomicBool::new(false), AtomicU64::new(0));
    let (outcome, counts) = std::thread::scope(|scope| {
        let senders = (0..2).map(|n| {
            scope.spawn({
                let (ports, stop) = (&ports, &stop);
                let bodies = if kind == Kind::Apache {
                    garbage::Bodies::Reads
                } else {
                    garbage::Bodies::All
                };
                move || garbage::rubbish(ports, SEED + n, bodies, stop)
            })
        });
        let senders: Vec<_> = senders.collect();
        let slow = scope.spawn(|| garbage::slow(&ports, 5, &stop));
        // Apache's server keeps answers that nobody reads until its heap is full, and then it is gone.
        let victims = if kind == Kind::Apache {
            &[][..]
        } else {
            &ports[..]
        };
        let greedy = scope.spawn(|| garbage::greedy(victims, &stop, &sent));
        let outcome = serve_well(&ensemble, time);
        stop.store(true, Ordering::Relaxed);
        let rubbish: u64 = senders
            .into_iter()
            .map(|thread| thread.join().expect("it does not panic"))
            .sum();
        let cut = slow.join().expect("it does not panic");
        (
            outcome.and(greedy.join().expect("it does not panic")),
            (rubbish, cut),
        )
    });
    outcome?;
    say(format!(
        "{} connections with rubbish, {} slow ones cut, {} KiB of requests from clients that never read",
        counts.0,
        counts.1,
        sent.load(Ordering::Relaxed) >> 10
    ));
    for server in &mut ensemble.servers {
        server.check_alive()?;
    }
    ensure!(
        ensemble.leader() == Some(leader),
        "the leader did not change"
    );
    e2e::check::equal_trees(&ensemble.addresses())?;
    ensemble.passed()
}

/// Well-behaved clients of all members write and read meanwhile; none may lose its connection.
fn serve_well(ensemble: &Ensemble, time: Duration) -> Result<()> {
    let mut clients = Vec::new();
    for (number, address) in ensemble.addresses().into_iter().enumerate() {
        let mut client = Client::connect(address, Duration::from_secs(10))?;
        let path = format!("/well-{number}");
        client
            .call(&Request::create(
                &path,
                b"",
                &[Acl::open()],
                flags::PERSISTENT,
            ))?
            .created()?;
        clients.push((client, path));
    }
    let memory = || -> Result<Vec<u64>> { ensemble.servers.iter().map(Server::rss).collect() };
    let (start, mut before, mut worst, mut rounds) =
        (Instant::now(), Vec::new(), Duration::ZERO, 0u64);
    while start.elapsed() < time {
        if before.is_empty() && start.elapsed() > time / 4 {
            before = memory()?;
        }
        rounds += 1;
        for (client, path) in &mut clients {
            let begin = Instant::now();
            let data = rounds.to_string();
            client
                .call(&Request::set(path, data.as_bytes(), -1))
                .with_context(|| format!("round {rounds} of {path}"))?;
            let (found, _) = client.call(&Request::get(path))?.data()?;
            if found.as_deref() != Some(data.as_bytes()) {
                bail!("{path} is {found:?} after {data} was written");
            }
            worst = worst.max(begin.elapsed());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    report(ensemble, &before, &memory()?)?;
    say(format!(
        "{rounds} rounds of a write and a read on each member, the slowest {}",
        millis(worst)
    ));
    Ok(())
}

fn report(ensemble: &Ensemble, before: &[u64], after: &[u64]) -> Result<()> {
    for ((server, before), after) in ensemble.servers.iter().zip(before).zip(after) {
        say(format!(
            "server {}: memory {} MiB, at the end {} MiB",
            server.id,
            before / MIB,
            after / MIB
        ));
        // A Java server takes of its heap what it is given.
        let flat = server.kind == Kind::Apache || *after <= before + GROWTH;
        ensure!(
            flat,
            "the memory of server {} grew from {before} to {after} bytes",
            server.id
        );
    }
    Ok(())
}
