//! The load generator that tests run as a pod beside an ensemble; [`e2e::generator`] says what it does.

use std::time::Duration;

use anyhow::Result;
use clap::{Parser, Subcommand};
use e2e::generator::{self, Options};

/// Writes to an ensemble without pause, and keeps what was acknowledged.
#[derive(Debug, Parser)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs the load until the process is ended
    Run {
        /// HOST:PORT of a service or of members, separated by commas
        #[arg(long, value_delimiter = ',', required = true)]
        connect: Vec<String>,
        /// Sessions that write
        #[arg(long, default_value_t = 4)]
        writers: usize,
        /// Milliseconds between two batches of a session
        #[arg(long, default_value_t = 20)]
        pace_ms: u64,
    },
    /// Asks the load that runs in this pod: progress, gap FROM_MS TO_MS, stop MEMBER..., log
    Ask {
        /// The question
        #[arg(required = true)]
        words: Vec<String>,
    },
}

fn main() -> Result<()> {
    match Args::parse().command {
        Command::Run {
            connect,
            writers,
            pace_ms,
        } => generator::run(&Options {
            connect,
            writers,
            pace: Duration::from_millis(pace_ms),
        }),
        Command::Ask { words } => generator::ask(&words.join(" "), std::io::stdout().lock()),
    }
}
