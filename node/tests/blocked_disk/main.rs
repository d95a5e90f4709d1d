//! Servers whose disks are full or hang: who is still served, who hands over to whom, and that all go on without a restart.

#![expect(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

mod ensemble;

use std::time::{Duration, Instant};

use ensemble::{Ensemble, SYNC_LIMIT, wait};

/// Everything that was acknowledged is on every server.
fn all_have(ensemble: &Ensemble, size: usize, paths: &[&str]) {
    for id in 1..=size {
        for path in paths {
            let has = || ensemble.client(id).exists(path).unwrap();
            wait(&format!("server {id} has {path}"), has);
        }
    }
}

/// The leader's disk begins to fail; another one leads soon. Gives the old one, and how long it took.
fn hands_over(ensemble: &Ensemble, fail: impl Fn(usize)) -> (usize, Duration) {
    let old = ensemble.leader().unwrap();
    let other = old % 3 + 1;
    let mut client = ensemble.client(other);
    let mut at_leader = ensemble.client(old);
    assert_eq!(client.create("/before").unwrap(), 0);
    fail(old);
    let begin = Instant::now();
    // The others are a quorum, so this one does not wait for the leader's disk.
    assert_eq!(client.create("/during").unwrap(), 0);
    wait("another server leads", || {
        ensemble.leader().is_some_and(|new| new != old)
    });
    let took = begin.elapsed();
    // The connection is still open.
    assert_eq!(client.create("/after").unwrap(), 0);
    // Whoever was at the old leader is sent away, and told why by the server.
    assert!(at_leader.answer().is_err());
    (old, took)
}

#[test]
fn a_leader_whose_disk_hangs_hands_over_and_follows_when_it_works_again() {
    let ensemble = Ensemble::start(3);
    let (old, took) = hands_over(&ensemble, |old| {
        ensemble.disk(old).set_faults(|faults| faults.hangs = true);
    });
    println!("another leader {took:?} after the disk hung");
    assert!(took < Duration::from_secs(10), "{took:?}");
    let said = ensemble.ask(old, "srvr");
    assert!(said.ends_with("serving requests\nDisk hangs\n"), "{said}");
    ensemble.disk(old).set_faults(|faults| faults.hangs = false);
    ensemble.wait_until_serving(old);
    all_have(&ensemble, 3, &["/before", "/during", "/after"]);
    assert!(ensemble.all_live());
}

#[test]
fn a_leader_whose_disk_is_full_hands_over_and_follows_when_there_is_room() {
    let ensemble = Ensemble::start(3);
    let (old, took) = hands_over(&ensemble, |old| ensemble.disk(old).fill(100));
    println!("another leader {took:?} after the disk was full");
    assert!(took < Duration::from_secs(10), "{took:?}");
    let said = ensemble.ask(old, "srvr");
    assert!(said.ends_with("serving requests\nDisk is full\n"), "{said}");
    ensemble
        .disk(old)
        .set_faults(|faults| faults.capacity = None);
    ensemble.wait_until_serving(old);
    all_have(&ensemble, 3, &["/before", "/during", "/after"]);
    assert!(ensemble.all_live());
}

#[test]
fn a_follower_whose_disk_is_full_serves_until_it_is_dropped_and_again_when_there_is_room() {
    let ensemble = Ensemble::start(3);
    let leader = ensemble.leader().unwrap();
    let full = leader % 3 + 1;
    let mut client = ensemble.client(full);
    ensemble.disk(full).fill(100);
    // What it cannot log is committed by the others, and it is in sync with them.
    assert_eq!(client.create("/a").unwrap(), 0);
    assert!(client.exists("/a").unwrap());
    wait("its state is told", || {
        ensemble.ask(full, "mntr").contains("zk_disk_full\t1\n")
    });
    assert!(ensemble.ask(full, "srvr").ends_with("Disk is full\n"));
    // It acknowledges nothing, so the leader drops it after syncLimit; then its clients had better go elsewhere.
    assert!(client.answer().is_err());
    wait("it does not serve", || !ensemble.serves(full));
    assert_eq!(ensemble.leader(), Some(leader));
    ensemble
        .disk(full)
        .set_faults(|faults| faults.capacity = None);
    ensemble.wait_until_serving(full);
    all_have(&ensemble, 3, &["/a"]);
    assert!(ensemble.all_live());
}

#[test]
fn where_all_disks_are_full_reads_go_on_and_writes_wait() {
    let ensemble = Ensemble::start(3);
    let leader = ensemble.leader().unwrap();
    let mut readers: Vec<_> = (1..=3).map(|id| ensemble.client(id)).collect();
    let mut writers: Vec<_> = (1..=3).map(|id| ensemble.client(id)).collect();
    assert_eq!(writers[0].create("/before").unwrap(), 0);
    (1..=3).for_each(|id| ensemble.disk(id).fill(100));
    for (n, writer) in writers.iter_mut().enumerate() {
        writer.ask_for(&format!("/waits{n}")).unwrap();
    }
    assert!(writers[0].hears_nothing_for(2 * SYNC_LIMIT));
    for reader in &mut readers {
        assert!(reader.exists("/before").unwrap());
        assert!(!reader.exists("/waits0").unwrap());
    }
    assert_eq!(ensemble.leader(), Some(leader), "nobody would do better");
    for id in 1..=3 {
        ensemble
            .disk(id)
            .set_faults(|faults| faults.capacity = None);
    }
    for writer in &mut writers {
        assert_eq!(writer.answer().unwrap(), 0);
    }
    all_have(&ensemble, 3, &["/before", "/waits0", "/waits1", "/waits2"]);
    assert!(ensemble.all_live());
}

#[test]
fn a_server_that_is_alone_reads_starts_again_and_writes_when_there_is_room() {
    let mut ensemble = Ensemble::start(1);
    let mut client = ensemble.client(1);
    assert_eq!(client.create("/before").unwrap(), 0);
    let mut reader = ensemble.client(1);
    ensemble.disk(1).fill(100);
    client.ask_for("/waits").unwrap();
    assert!(client.hears_nothing_for(Duration::from_secs(3)));
    assert!(reader.exists("/before").unwrap());
    assert!(ensemble.ask(1, "srvr").ends_with("Disk is full\n"));
    ensemble.disk(1).set_faults(|faults| faults.capacity = None);
    assert_eq!(client.answer().unwrap(), 0);
    wait("the disk works", || {
        ensemble.ask(1, "mntr").contains("zk_disk_full\t0\n")
    });
    // A start needs no room.
    ensemble.disk(1).fill(0);
    ensemble.stop(1);
    ensemble.run(1);
    ensemble.wait_until_serving(1);
    ensemble.disk(1).set_faults(|faults| faults.capacity = None);
    all_have(&ensemble, 1, &["/before", "/waits"]);
    assert_eq!(ensemble.client(1).create("/after").unwrap(), 0);
}

#[test]
fn a_new_server_on_a_full_disk_starts_when_there_is_room() {
    let mut ensemble = Ensemble::prepared(1);
    ensemble.disk(1).fill(0);
    ensemble.run(1);
    assert!(ensemble.ask(1, "srvr").is_empty());
    assert!(ensemble.all_live());
    ensemble.disk(1).set_faults(|faults| faults.capacity = None);
    ensemble.wait_until_serving(1);
}

#[test]
fn a_leader_s_snapshot_waits_for_room() {
    let mut ensemble = Ensemble::start(3);
    let leader = ensemble.leader().unwrap();
    let far = leader % 3 + 1;
    ensemble.stop(far);
    let mut client = ensemble.client(leader);
    // More than the leader keeps to bring somebody up to date with.
    for n in 0..600 {
        client.ask_for(&format!("/n{n}")).unwrap();
    }
    for _ in 0..600 {
        assert_eq!(client.answer().unwrap(), 0);
    }
    ensemble.disk(far).fill(100_000);
    ensemble.run(far);
    wait("it has no room for the snapshot", || {
        ensemble.ask(far, "srvr").ends_with("Disk is full\n")
    });
    assert!(!ensemble.serves(far));
    assert!(ensemble.all_live());
    ensemble
        .disk(far)
        .set_faults(|faults| faults.capacity = None);
    ensemble.wait_until_serving(far);
    all_have(&ensemble, 3, &["/n0", "/n599"]);
}
