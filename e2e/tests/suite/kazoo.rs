//! kazoo through each of five members that were configured by hand.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use e2e::check;
use e2e::python::Program;
use e2e::report::say;
use e2e::servers::{Ensemble, Kind, Spec};

#[test]
fn kazoo_finds_everything_through_each_of_five_members() -> Result<()> {
    let _alone = crate::alone("kazoo through each of five members");
    let kind = Kind::chosen()?;
    let look = ["-Dznode.container.checkIntervalMs=1000", "-Xmx512m"];
    let spec = Spec::new(kind, 3, 2)
        .setting("minSessionTimeout=1000")
        .setting(check::SUPER_DIGEST)
        .java(&look);
    let spec = if kind == Kind::Ours {
        spec.setting("znode.container.checkIntervalMs=1000")
    } else {
        spec
    };
    let ensemble = Ensemble::start(&spec)?;
    let addresses = ensemble.addresses();
    let mut programs = Vec::new();
    for server in &ensemble.servers {
        let mut arguments: Vec<SocketAddr> = addresses.clone();
        arguments.rotate_left(server.id as usize - 1);
        programs.push((server.id, Program::start("main.py", &arguments)?));
    }
    for (id, program) in programs {
        let output = program
            .finish()
            .with_context(|| format!("through server {id}"))?;
        say(format!(
            "through server {id}: {}",
            output.trim().replace('\n', ", ")
        ));
    }
    let tree = check::equal_trees(&addresses)?;
    say(format!("5 trees of {} nodes equal", tree.len()));
    ensemble.passed()
}
