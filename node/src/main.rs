//! `zookeeper-node`: one ZooKeeper server.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use node::config::ConfigError;
use tracing_subscriber::EnvFilter;

/// One server of a ZooKeeper ensemble: speaks Apache ZooKeeper's protocols, reads its configuration and its data.
#[derive(Parser)]
#[command(version, about = ABOUT, after_help = EXAMPLE)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run one server, until SIGTERM or Ctrl-C.
    ///
    /// ZOO_CFG is a configuration file as Apache ZooKeeper reads it. A server of an ensemble needs one line
    /// `server.N=host:2888:3888[:observer]` for each server, and its own number N in the file `myid` in its dataDir.
    /// Without server lines it runs alone. Told to stop, a leader first hands over to another server.
    #[command(after_help = SERVE_HELP)]
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
            for line in in_words(&error).lines() {
                eprintln!("zookeeper-node: {line}");
            }
            let is_config = error.downcast_ref::<ConfigError>().is_some();
            ExitCode::from(if is_config { 2 } else { 1 })
        }
    }
}

/// An error and its causes, each said once: some errors say their cause themselves.
fn in_words(error: &anyhow::Error) -> String {
    let mut words = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if words.is_empty() {
            words = cause;
        } else if !words.ends_with(&cause) {
            words = format!("{words}: {cause}");
        }
    }
    words
}

const ABOUT: &str = "\
One server of a ZooKeeper ensemble. Speaks Apache ZooKeeper's protocols and reads its configuration and data files.";

const EXAMPLE: &str = "\
Example:
  zookeeper-node serve /etc/zookeeper/zoo.cfg

A whole ensemble on this machine, from one manifest: zookeeper-operator local --help";

const SERVE_HELP: &str = "\
The smallest file, for a server that runs alone:
  dataDir=/var/lib/zookeeper
  clientPort=2181

For a server of an ensemble, in addition (a line for each server, the same in every file):
  tickTime=2000
  initLimit=10
  syncLimit=5
  server.1=zk1:2888:3888
  server.2=zk2:2888:3888
  server.3=zk3:2888:3888
  server.4=zk4:2888:3888:observer
and, in an observer's own file: peerType=observer

The log goes to standard error; the environment variable RUST_LOG says how much (error, warn, info, debug; default info).
Exit code: 0 after a signal, 1 when something failed, 2 for a wrong call or a wrong configuration.";
