//! `zookeeper-node`: one ZooKeeper server.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use node::config::ConfigError;
use node::probe::{self, Question};
use node::serve::Call;
use node::storage::StorageError;
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
        /// Keep a copy of ZOO_CFG in DIR/conf, and write the membership there: ZOO_CFG may be read-only.
        #[arg(long, value_name = "DIR")]
        home: Option<PathBuf>,
        /// This server's number: written to myid where there is none; a dataDir of another server is refused.
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(i64).range(0..))]
        id: Option<i64>,
    },
    /// Ask a server whether it serves clients: exit code 0 if it leads, follows or observes, or is alone.
    ///
    /// Asks with the word srvr, which every server answers whatever its whitelist says.
    #[command(after_help = PROBE_HELP)]
    Ready {
        /// Its client port.
        #[arg(value_name = "ADDRESS", default_value = CLIENT_PORT, value_parser = address)]
        address: String,
    },
    /// Ask a server whether it answers at all: exit code 0 even while it has no leader.
    ///
    /// Asks with the word ruok; that a server's whitelist forbids the word is an answer too.
    #[command(after_help = PROBE_HELP)]
    Alive {
        /// Its client port.
        #[arg(value_name = "ADDRESS", default_value = CLIENT_PORT, value_parser = address)]
        address: String,
    },
}

fn main() -> ExitCode {
    match Arguments::parse().command {
        Command::Serve { zoo_cfg, home, id } => serve(Call { zoo_cfg, home, id }),
        Command::Ready { address } => probe(Question::Ready, &address),
        Command::Alive { address } => probe(Question::Alive, &address),
    }
}

fn serve(call: Call) -> ExitCode {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .init();
    let result = tokio::runtime::Runtime::new()
        .map_err(anyhow::Error::from)
        .and_then(|runtime| {
            let result = runtime.block_on(node::serve::serve(call));
            // A name that is looked up, or a snapshot that is written, is not waited for.
            runtime.shutdown_background();
            result
        });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            for line in in_words(&error).lines() {
                eprintln!("zookeeper-node: {line}");
            }
            ExitCode::from(code(&error))
        }
    }
}

/// The exit code that tells an operator what to do: 2 the configuration must change, 3 the storage is damaged, 1 another
/// start may do.
fn code(error: &anyhow::Error) -> u8 {
    let storage = |error: &StorageError| if error.is_damage() { 3 } else { 1 };
    for cause in error.chain() {
        if let Some(error) = cause.downcast_ref::<StorageError>() {
            return storage(error);
        }
        match cause.downcast_ref::<ConfigError>() {
            Some(ConfigError::Storage(error)) => return storage(error),
            Some(ConfigError::Io { .. } | ConfigError::Problems(_)) => return 2,
            None => {}
        }
    }
    1
}

fn probe(question: Question, address: &str) -> ExitCode {
    match probe::ask(question, address, probe::TIMEOUT) {
        Ok(answer) => {
            // Who has closed the output does not want to read it.
            let _ = writeln!(std::io::stdout(), "{answer}");
            ExitCode::SUCCESS
        }
        Err(why) => {
            eprintln!("zookeeper-node: {why}");
            ExitCode::FAILURE
        }
    }
}

/// A `HOST:PORT`, which is looked up only when it is used.
fn address(text: &str) -> Result<String, String> {
    let port = text
        .rsplit_once(':')
        .filter(|(host, _)| !host.is_empty())
        .and_then(|(_, port)| port.parse::<u16>().ok());
    match port {
        Some(1..) => Ok(text.to_owned()),
        _ => Err("it must be HOST:PORT".to_owned()),
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

/// Where a server of a container has its clients.
const CLIENT_PORT: &str = "127.0.0.1:2181";

const ABOUT: &str = "\
One server of a ZooKeeper ensemble. Speaks Apache ZooKeeper's protocols and reads its configuration and data files.";

const EXAMPLE: &str = "\
Example:
  zookeeper-node serve /etc/zookeeper/zoo.cfg
  zookeeper-node ready zk1:2181

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

In a container, where ZOO_CFG is mounted and DIR is the server's volume:
  zookeeper-node serve /etc/zookeeper/zoo.cfg --home /data --id 1
The server then reads and rewrites DIR/conf/zoo.cfg. At every start that file is made anew: settings from ZOO_CFG; the
membership (server.N, group.N, weight.N, dynamicConfigFile) from itself, once it lists this server and unless ZOO_CFG says
peerType=observer, or else from ZOO_CFG. The quorum ports listen on every address unless ZOO_CFG has quorumListenOnAllIPs.

The log goes to standard error; the environment variable RUST_LOG says how much (error, warn, info, debug; default info).
Exit code: 0 after a signal, 1 when something failed, 2 for a wrong call or a wrong configuration, 3 when the storage is
damaged: its log, a snapshot, an epoch or the membership cannot be read back, so that no other start will help.";

const PROBE_HELP: &str = "\
Waits for 3 seconds at most. Prints the mode, or one line on standard error that says what is wrong.
Exit code: 0 for yes, 1 for no, 2 for a wrong call.";
