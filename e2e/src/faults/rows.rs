//! The rows of the fault table.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::damage::Damage;
use super::disk::Medium;
use super::row::Row;
use super::stage::Stage;
use super::storm::{self, Storm};
use crate::config::Role;
use crate::servers::PATIENCE;

/// How long writes may stay away while a fault lasts, before the row goes on without them.
const STALLED: Duration = Duration::from_secs(30);
/// What is watched after writes go on again.
const AFTER: Duration = Duration::from_secs(3);
const LOOP: Medium = Medium::Loop { mib: 256 };
const MEMORY: Medium = Medium::Memory {
    mib: 128,
    memory_mib: 160,
};
/// Small pieces of log, so that a full disk shows at once, and snapshots now and then.
const SMALL_FILES: &[&str] = &["preAllocSize=64", "snapCount=2000"];

/// A row with three voters on a plain folder.
const fn row(
    name: &'static str,
    about: &'static str,
    play: fn(&mut Stage<'_>) -> Result<()>,
) -> Row {
    Row {
        name,
        about,
        voters: 3,
        any_size: true,
        observers: 0,
        medium: Medium::Folder,
        settings: &[],
        first: &[],
        play,
    }
}

/// The same on another disk.
const fn disk_row(
    name: &'static str,
    about: &'static str,
    medium: Medium,
    play: fn(&mut Stage<'_>) -> Result<()>,
) -> Row {
    Row {
        medium,
        settings: SMALL_FILES,
        ..row(name, about, play)
    }
}

/// One where there are several snapshots by the time that one is damaged.
const fn snapshot_row(
    name: &'static str,
    about: &'static str,
    play: fn(&mut Stage<'_>) -> Result<()>,
) -> Row {
    Row {
        settings: SMALL_FILES,
        ..row(name, about, play)
    }
}

/// Every row, in the order of the table.
pub const ROWS: &[Row] = &[
    row("leader-kill", "kill -9 of the leader", |s| {
        let leader = s.leader()?;
        kill(s, leader)
    }),
    row("follower-kill", "kill -9 of a follower", |s| {
        let follower = s.follower()?;
        kill(s, follower)
    }),
    Row {
        observers: 1,
        ..row("observer-kill", "kill -9 of an observer", |s| {
            let observer = s.observer()?;
            kill(s, observer)
        })
    },
    row(
        "leader-stop",
        "SIGSTOP of the leader, SIGCONT when another one leads",
        |s| {
            let leader = s.leader()?;
            pause(s, leader, Duration::ZERO)
        },
    ),
    row(
        "follower-stop",
        "SIGSTOP of a follower for 15 s, SIGCONT",
        |s| {
            let follower = s.follower()?;
            pause(s, follower, Duration::from_secs(15))
        },
    ),
    Row {
        observers: 1,
        ..row(
            "observer-stop",
            "SIGSTOP of an observer for 15 s, SIGCONT",
            |s| {
                let observer = s.observer()?;
                pause(s, observer, Duration::from_secs(15))
            },
        )
    },
    disk_row(
        "leader-disk-full",
        "the leader's disk is full for 10 s",
        LOOP,
        |s| {
            let leader = s.leader()?;
            full(s, &[leader])
        },
    ),
    disk_row(
        "follower-disk-full",
        "a follower's disk is full for 10 s",
        LOOP,
        |s| {
            let follower = s.follower()?;
            full(s, &[follower])
        },
    ),
    disk_row("all-disks-full", "all disks are full for 10 s", LOOP, |s| {
        let all = s.others(0);
        full(s, &all)
    }),
    disk_row(
        "leader-eio",
        "the leader's fsync fails with EIO for 10 s",
        MEMORY,
        |s| {
            let leader = s.leader()?;
            broken(s, leader)
        },
    ),
    disk_row(
        "follower-eio",
        "a follower's fsync fails with EIO for 10 s",
        MEMORY,
        |s| {
            let follower = s.follower()?;
            broken(s, follower)
        },
    ),
    disk_row(
        "leader-disk-frozen",
        "the leader's disk hangs for 20 s",
        LOOP,
        |s| {
            let leader = s.leader()?;
            frozen(s, leader)
        },
    ),
    disk_row(
        "follower-disk-frozen",
        "a follower's disk hangs for 20 s",
        LOOP,
        |s| {
            let follower = s.follower()?;
            frozen(s, follower)
        },
    ),
    disk_row(
        "leader-disk-slow",
        "the leader's disk stalls for 300 ms in every 400, for 15 s",
        LOOP,
        |s| {
            let leader = s.leader()?;
            stutter(s, &[leader])
        },
    ),
    disk_row(
        "all-disks-slow",
        "all disks stall for 300 ms in every 400, for 15 s",
        LOOP,
        |s| {
            let all = s.others(0);
            stutter(s, &all)
        },
    ),
    Row {
        voters: 5,
        any_size: false,
        first: &[1, 2, 4],
        ..row(
            "partial-partition",
            "server 5 reaches only server 1, the leader 4 is killed",
            partial_partition,
        )
    },
    row(
        "leader-cut-off",
        "nothing passes between the leader and the others",
        |s| {
            let leader = s.leader()?;
            cut(s, leader, &[true, false])
        },
    ),
    row(
        "follower-cut-off",
        "nothing passes between a follower and the others",
        |s| {
            let follower = s.follower()?;
            cut(s, follower, &[true, false])
        },
    ),
    row("leader-unheard", "one way: nobody hears the leader", |s| {
        let leader = s.leader()?;
        cut(s, leader, &[true])
    }),
    row("leader-deaf", "one way: the leader hears nobody", |s| {
        let leader = s.leader()?;
        cut(s, leader, &[false])
    }),
    row("follower-deaf", "one way: a follower hears nobody", |s| {
        let follower = s.follower()?;
        cut(s, follower, &[false])
    }),
    row(
        "leader-power-cut",
        "the leader's machine is gone: connections stay half open, no RST",
        power_cut,
    ),
    row(
        "follower-link-slow",
        "a follower's link carries 64 kbit/s for 15 s",
        |s| {
            let follower = s.follower()?;
            s.strike();
            s.lab.network.slow(follower, 64)?;
            s.watch(Duration::from_secs(15))
        },
    ),
    row(
        "no-readers",
        "100 clients ask for 5 GB and read nothing, for 15 s",
        never_read,
    ),
    row(
        "session-storm",
        "10,000 sessions, the leader is killed",
        |s| session_storm(s, 10_000),
    ),
    row("restart-all", "kill -9 of all members, start", restart_all),
    row(
        "log-bit",
        "a bit flips in the middle of a stopped follower's log",
        |s| damage(s, Damage::LogBit),
    ),
    row(
        "log-length",
        "a record's length in the middle of a stopped follower's log becomes 0",
        |s| damage(s, Damage::LogLength),
    ),
    row(
        "log-block",
        "4 KiB of zeros in the middle of a stopped follower's log",
        |s| damage(s, Damage::LogBlock),
    ),
    row(
        "log-block-lagging",
        "the same, and only a lagging member is there to form a quorum with, for 15 s",
        |s| lagging(s, Damage::LogBlock),
    ),
    snapshot_row(
        "snapshot-bit",
        "a bit flips in a stopped follower's newest snapshot",
        |s| damage(s, Damage::Snapshot),
    ),
    snapshot_row(
        "snapshots-bits",
        "a bit flips in each of a stopped follower's snapshots",
        |s| damage(s, Damage::AllSnapshots),
    ),
    row(
        "epoch",
        "a stopped follower's currentEpoch is four zeros",
        |s| damage(s, Damage::Epoch),
    ),
    row("wipe", "a stopped follower's data are gone", |s| {
        damage(s, Damage::Wipe)
    }),
    row(
        "wipe-lagging",
        "the same, and only a lagging member is there to form a quorum with, for 15 s",
        |s| lagging(s, Damage::Wipe),
    ),
];

fn kill(stage: &mut Stage<'_>, id: u32) -> Result<()> {
    stage.strike();
    stage.servers().server(id).kill()?;
    stage.expect_writes(STALLED)?;
    stage.watch(AFTER)?;
    stage.servers().server(id).start()
}

fn pause(stage: &mut Stage<'_>, id: u32, at_least: Duration) -> Result<()> {
    stage.strike();
    stage.servers().server(id).pause()?;
    stage.watch(at_least)?;
    stage.expect_writes(STALLED)?;
    stage.watch(AFTER)?;
    stage.servers().server(id).resume()
}

fn full(stage: &mut Stage<'_>, ids: &[u32]) -> Result<()> {
    for id in ids {
        stage.lab.disk(*id).fill()?;
    }
    stage.strike();
    stage.watch(Duration::from_secs(10))?;
    note_modes(stage);
    if ids.len() == 1 {
        stage.expect_writes(STALLED)?;
    }
    Ok(())
}

fn broken(stage: &mut Stage<'_>, id: u32) -> Result<()> {
    stage.lab.disk(id).break_writes()?;
    stage.strike();
    stage.watch(Duration::from_secs(10))?;
    note_modes(stage);
    stage.expect_writes(STALLED)
}

fn frozen(stage: &mut Stage<'_>, id: u32) -> Result<()> {
    stage.strike();
    stage.lab.disk(id).freeze()?;
    stage.watch(Duration::from_secs(20))?;
    note_modes(stage);
    stage.expect_writes(STALLED)
}

fn stutter(stage: &mut Stage<'_>, ids: &[u32]) -> Result<()> {
    stage.strike();
    for id in ids {
        let (stall, work) = (Duration::from_millis(300), Duration::from_millis(100));
        stage.lab.disk(*id).stutter(stall, work)?;
    }
    stage.watch(Duration::from_secs(15))
}

/// Cuts a member off from all other members, but not from the clients.
fn cut(stage: &mut Stage<'_>, id: u32, its_own: &[bool]) -> Result<()> {
    let others = stage.others(id);
    stage.strike();
    for other in others {
        for from_it in its_own {
            let (from, to) = if *from_it { (id, other) } else { (other, id) };
            stage.lab.network.cut_one_way(from, to)?;
        }
    }
    stage.watch(Duration::from_secs(15))?;
    note_modes(stage);
    stage.expect_writes(STALLED)
}

fn partial_partition(stage: &mut Stage<'_>) -> Result<()> {
    let leader = stage.leader()?;
    ensure!(
        leader == 4,
        "server {leader} leads, the story needs server 4"
    );
    for id in [2, 3] {
        stage.lab.network.cut(5, id)?;
    }
    stage.watch(AFTER)?;
    // All votes are equal but for the number, so everybody who hears of server 5 prefers it.
    stage.hush()?;
    stage.strike();
    // Server 5 hears that the leader is gone, as all others do.
    stage.servers().server(4).kill()?;
    stage.lab.network.cut(5, 4)?;
    stage.speak();
    stage.expect_writes(STALLED)?;
    stage.watch(AFTER)?;
    note_modes(stage);
    stage.servers().server(4).start()
}

fn power_cut(stage: &mut Stage<'_>) -> Result<()> {
    let leader = stage.leader()?;
    stage.strike();
    stage.lab.network.unplug(leader)?;
    stage.servers().server(leader).kill()?;
    stage.expect_writes(STALLED)?;
    stage.watch(AFTER)?;
    stage.lab.network.plug(leader)?;
    stage.servers().server(leader).start()
}

fn restart_all(stage: &mut Stage<'_>) -> Result<()> {
    stage.strike();
    stage.servers().kill_all()?;
    for server in &mut stage.servers().servers {
        server.start()?;
    }
    Ok(())
}

fn never_read(stage: &mut Stage<'_>) -> Result<()> {
    let addresses = stage.servers().addresses();
    let before = memory(stage)?;
    stage.strike();
    let clients = storm::never_read(&addresses, 100, 50)?;
    let mut most = before;
    for _ in 0..15 {
        stage.watch(Duration::from_secs(1))?;
        most = most.max(memory(stage)?);
    }
    let closed = clients.closed();
    stage.note(format!(
        "the largest server grew from {before} to {most} MiB; {closed} of 100 connections were closed"
    ));
    Ok(())
}

/// The resident memory of the largest server, in MiB.
fn memory(stage: &mut Stage<'_>) -> Result<u64> {
    let mut most = 0;
    for server in &stage.servers().servers {
        if server.pid().is_some() {
            most = most.max(server.rss()? >> 20);
        }
    }
    Ok(most)
}

fn session_storm(stage: &mut Stage<'_>, count: usize) -> Result<()> {
    let addresses = stage.servers().addresses();
    let mut storm = Storm::start(&addresses, count)?;
    let opened = storm.settle(PATIENCE)?;
    let leader = stage.leader()?;
    stage.strike();
    storm.mark();
    stage.servers().server(leader).kill()?;
    stage.expect_writes(STALLED)?;
    let again = storm.settle(PATIENCE)?;
    stage.note(format!(
        "{count} sessions opened in {opened}; after the leader was killed {again}"
    ));
    stage.watch(AFTER)?;
    storm.stop();
    stage.servers().server(leader).start()
}

/// Stops a follower, damages its files, starts it.
fn damage(stage: &mut Stage<'_>, damage: Damage) -> Result<()> {
    let follower = stage.follower()?;
    stage.watch(AFTER)?;
    stage.strike();
    stage.servers().server(follower).kill()?;
    stage.leave_down(follower);
    let data = stage.servers().server(follower).data_dir();
    let done = damage.strike(&data)?;
    stage.note(done);
    stage.servers().server(follower).start()
}

/// A member that acknowledged everything is damaged, the other one that did is away, and the third one is behind.
fn lagging(stage: &mut Stage<'_>, damage: Damage) -> Result<()> {
    let behind = stage.follower()?;
    stage.servers().server(behind).kill()?;
    ensure!(stage.writes_go_on(PATIENCE)?, "two of three are a quorum");
    stage.watch(Duration::from_secs(6))?;
    stage.strike();
    let whole = stage.leader()?;
    stage.servers().kill_all()?;
    let voters = stage.others(0);
    let hurt = voters.into_iter().find(|id| ![behind, whole].contains(id));
    let hurt = hurt.expect("there are three voters");
    let data = stage.servers().server(hurt).data_dir();
    let done = damage.strike(&data)?;
    stage.note(done);
    for id in [hurt, behind] {
        stage.servers().server(id).start()?;
    }
    if stage.writes_go_on(Duration::from_secs(15))? {
        stage.note("the damaged and the lagging member served writes without the rest");
    }
    stage.servers().server(whole).start()
}

/// What each voter says of itself while the fault lasts.
fn note_modes(stage: &mut Stage<'_>) {
    let servers = stage.servers().servers.iter();
    let modes: Vec<String> = servers
        .filter(|server| server.role == Role::Voter)
        .map(|server| {
            let mode = server
                .srvr()
                .map_or("serves nobody".to_owned(), |srvr| srvr.mode);
            format!("{} {mode}", server.id)
        })
        .collect();
    stage.note(format!("meanwhile: {}", modes.join(", ")));
}

/// The row with this name.
#[must_use]
pub fn find(name: &str) -> Option<&'static Row> {
    ROWS.iter().find(|row| row.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_there_once() {
        for row in ROWS {
            assert_eq!(
                ROWS.iter().filter(|other| other.name == row.name).count(),
                1
            );
        }
    }
}
