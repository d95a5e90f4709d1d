//! Faults on real processes: rows of the fault table, or random faults for a time. Needs root.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{Parser, ValueEnum};
use e2e::faults::campaign::{self, Campaign};
use e2e::faults::row::{self, Outcome, Row};
use e2e::faults::rows::{self, ROWS};
use e2e::faults::table;
use e2e::report::say;
use e2e::servers::Kind;

/// Breaks real ensembles, Apache's or ours, in network namespaces and on disks of their own, while clients write, read and
/// watch; says how long nobody was served, whether anything that was acknowledged is lost, and whether it recovered
/// without a human. Needs root; everything that it makes on the machine is removed at the end.
#[derive(Debug, Parser)]
struct Args {
    /// Rows to play, in the order given; all of them when none is given. A word that ends with `*` stands for all rows
    /// that begin so
    rows: Vec<String>,
    /// Whose servers
    #[arg(long, value_enum, default_value_t = Servers::Ours)]
    servers: Servers,
    /// How often each row is played; the table has the median of its gaps
    #[arg(long, default_value_t = 1)]
    repeat: usize,
    /// Voters, for the rows that allow it; with --random 3 or 5, instead of a choice by the seed
    #[arg(long)]
    members: Option<usize>,
    /// Only lists the rows
    #[arg(long)]
    list: bool,
    /// Appends one JSON object for each time that a row was played
    #[arg(long)]
    json: Option<PathBuf>,
    /// Keeps the servers' logs of every run there, and the histories in which something was wrong
    #[arg(long)]
    keep: Option<PathBuf>,
    /// Only prints what earlier runs have seen, Apache's servers and ours side by side; the rows are files of --json
    #[arg(long)]
    compare: bool,
    /// Random faults instead of rows
    #[arg(long)]
    random: bool,
    /// How long random faults go on
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Decides which faults, and what the clients do
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Servers {
    Ours,
    Apache,
    Both,
}

impl Servers {
    fn kinds(self) -> &'static [Kind] {
        match self {
            Self::Ours => &[Kind::Ours],
            Self::Apache => &[Kind::Apache],
            Self::Both => &[Kind::Ours, Kind::Apache],
        }
    }
}

fn main() -> Result<ExitCode> {
    let args = Args::parse();
    if args.list {
        for row in ROWS {
            println!("{:<22} {}", row.name, row.about);
        }
        return Ok(ExitCode::SUCCESS);
    }
    if args.compare {
        let files: Vec<PathBuf> = args.rows.iter().map(PathBuf::from).collect();
        print!("{}", table::compare(&files)?);
        return Ok(ExitCode::SUCCESS);
    }
    let kept = if args.random {
        random(&args)?
    } else {
        play(&args)?
    };
    Ok(if kept {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn random(args: &Args) -> Result<bool> {
    let mut kept = true;
    for kind in args.servers.kinds() {
        kept &= campaign::run(&Campaign {
            kind: *kind,
            voters: args.members,
            time: Duration::from_secs(args.seconds),
            seed: args.seed,
            keep: args.keep.clone(),
        })?;
    }
    Ok(kept)
}

fn chosen(args: &Args) -> Result<Vec<&'static Row>> {
    if args.rows.is_empty() {
        return Ok(ROWS.iter().collect());
    }
    let mut chosen = Vec::new();
    for name in &args.rows {
        match name.strip_suffix('*') {
            Some(prefix) => chosen.extend(ROWS.iter().filter(|row| row.name.starts_with(prefix))),
            None => chosen.push(
                rows::find(name)
                    .with_context(|| format!("no row is called {name}; --list lists them"))?,
            ),
        }
    }
    if chosen.is_empty() {
        bail!("no row begins so; --list lists them");
    }
    Ok(chosen)
}

/// Plays the rows and prints the table; whether everything of ours was kept.
fn play(args: &Args) -> Result<bool> {
    let mut kept = true;
    println!("{}", table::HEAD);
    for row in chosen(args)? {
        for kind in args.servers.kinds() {
            let mut outcomes = Vec::new();
            for time in 0..args.repeat {
                say(format!("{} with {kind:?}: {}", row.name, row.about));
                let seed = args.seed + time as u64;
                let outcome = row::play(row, *kind, args.members, seed, args.keep.as_deref())?;
                for violation in &outcome.violations {
                    say(format!("violation: {violation}"));
                }
                if let Some(path) = &args.json {
                    append(path, &outcome)?;
                }
                outcomes.push(outcome);
            }
            kept &= *kind == Kind::Apache || outcomes.iter().all(Outcome::kept);
            println!("{}", table::line(&outcomes));
        }
    }
    Ok(kept)
}

fn append(path: &PathBuf, outcome: &Outcome) -> Result<()> {
    let mut file = OpenOptions::new().create(true).append(true).open(path)?;
    writeln!(file, "{}", serde_json::to_string(outcome)?)?;
    Ok(())
}
