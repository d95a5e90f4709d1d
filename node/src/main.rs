//! `zookeeper-node`: one ZooKeeper server.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use node::config::ConfigError;
use tracing_subscriber::EnvFilter;

/// A ZooKeeper server that speaks Apache ZooKeeper's protocols and reads its files.
#[derive(Parser)]
#[command(version, about)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run one server.
    ///
    /// ZOO_CFG is a configuration file as Apache ZooKeeper reads it. A server of an ensemble needs one line
    /// `server.N=host:2888:3888[:observer]` for each server, and its own number in the file `myid` in its dataDir.
    /// Where there is none, it runs alone. SIGTERM stops it: a leader hands over first.
    ///
    /// The environment variable RUST_LOG sets what is logged (default: info).
    Serve {
        /// The configuration file.
        #[arg(value_name = "ZOO_CFG")]
        zoo_cfg: PathBuf,
    },
}

fn main() -> ExitCode {
    let Arguments { command } = Arguments::parse();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .init();
    let Command::Serve { zoo_cfg } = command;
    let result = tokio::runtime::Runtime::new()
        .map_err(anyhow::Error::from)
        .and_then(|runtime| runtime.block_on(node::serve::serve(&zoo_cfg)));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("zookeeper-node: {error:#}");
            let is_config = error.downcast_ref::<ConfigError>().is_some();
            ExitCode::from(if is_config { 2 } else { 1 })
        }
    }
}
