//! Apache's servers and ours in one ensemble: the wire is the same.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use e2e::config::Role;
use e2e::report::say;
use e2e::servers::{Ensemble, Kind, PATIENCE, Spec};
use e2e::writers::{Writers, stop_and_check};

const SESSIONS: usize = 4;
/// More batches than a leader keeps proposals for in memory.
const MANY: usize = 150;

#[test]
fn a_server_of_apache_follows_ours() -> Result<()> {
    let _alone = crate::alone("a follower and an observer of Apache's under our leader");
    follow(Kind::chosen()?, Kind::Apache)
}

#[test]
fn a_server_of_ours_follows_apache() -> Result<()> {
    let _alone = crate::alone("a follower and an observer of ours under Apache's leader");
    follow(Kind::Apache, Kind::chosen()?)
}

/// Servers 1 and 3 are there first, so 3 leads; server 2 and observer 4 are of the other kind.
fn follow(leading: Kind, following: Kind) -> Result<()> {
    let members = vec![
        (leading, Role::Voter),
        (following, Role::Voter),
        (leading, Role::Voter),
        (following, Role::Observer),
    ];
    // Without synchronisation from the leader's log on disk, who is far behind gets a snapshot.
    let mut ensemble = Ensemble::prepare(&Spec::mixed(members).setting("snapshotSizeFactor=-1"))?;
    for id in [1, 3] {
        // Nobody can ask server 2 yet whether there has been an ensemble before: this says that there was none.
        let server = ensemble.server(id);
        fs::write(server.data_dir().join("initialize"), "")?;
        server.start()?;
    }
    ensemble.wait_serving()?;
    ensure!(
        ensemble.leader() == Some(3),
        "server 3 leads, the first with the greatest number"
    );
    ensemble.start_all()?;
    let writers = Writers::start(&ensemble.addresses(), SESSIONS)?;
    writers.wait_progress(20, PATIENCE)?;

    back_after_few_writes(&mut ensemble, &writers).context("a follower that missed little")?;
    back_without_data(&mut ensemble, &writers).context("a follower that lost its data")?;
    leadership_passes(&mut ensemble, &writers).context("another leader")?;

    stop_and_check(writers, &ensemble.addresses())?;
    ensemble.passed()
}

fn back_after_few_writes(ensemble: &mut Ensemble, writers: &Writers) -> Result<()> {
    ensemble.server(2).kill()?;
    writers.wait_progress(10, PATIENCE)?;
    ensemble.server(2).start()?;
    ensemble.wait_server(2)?;
    ensure!(ensemble.leader() == Some(3), "the leader stays");
    writers.wait_progress(20, PATIENCE)
}

fn back_without_data(ensemble: &mut Ensemble, writers: &Writers) -> Result<()> {
    writers.wait_progress(MANY, PATIENCE)?;
    for id in [2, 4] {
        ensemble.server(id).kill()?;
        let data = ensemble.server(id).data_dir();
        fs::remove_dir_all(data.join("version-2")).or_else(|error| ignore_missing(&data, error))?;
        ensemble.server(id).start()?;
        ensemble.wait_server(id)?;
    }
    // One side of each of these connections is Apache's, and says so.
    let log: String = ensemble
        .servers
        .iter()
        .map(e2e::servers::Server::log)
        .collect();
    ensure!(
        log.contains("Sending snapshot last zxid")
            || log.contains("Getting a snapshot from leader"),
        "a snapshot was sent"
    );
    writers.wait_progress(20, PATIENCE)
}

fn ignore_missing(data: &Path, error: std::io::Error) -> Result<()> {
    ensure!(
        error.kind() == std::io::ErrorKind::NotFound,
        "cannot empty {}: {error}",
        data.display()
    );
    Ok(())
}

fn leadership_passes(ensemble: &mut Ensemble, writers: &Writers) -> Result<()> {
    ensemble.server(3).kill()?;
    let leader = ensemble.wait_leader()?;
    say(format!(
        "server 3 was killed, server {leader} ({:?}) leads",
        ensemble.server(leader).kind
    ));
    writers.wait_progress(20, PATIENCE)?;
    ensemble.server(3).start()?;
    ensemble.wait_serving()?;
    writers.wait_progress(20, PATIENCE)
}
