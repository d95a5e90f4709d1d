//! Apache ZooKeeper with its default settings, Apache ZooKeeper with its best settings for few cores, and ours, side by
//! side in one run: three servers each, and the load, on this machine. Prints Markdown.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::{Parser, ValueEnum};

use e2e::load::{self, Load, Measured};
use e2e::report::{median, ratio, say};
use e2e::servers::{self, Ensemble, Kind, Server, Spec};

/// What the systems are measured by.
const LOADS: [Load; 6] = [
    Load {
        name: "get, n60 d20",
        connections: 60,
        depth: 20,
        set_percent: 0,
    },
    Load {
        name: "set, n60 d20",
        connections: 60,
        depth: 20,
        set_percent: 100,
    },
    Load {
        name: "10 % set, n60 d20",
        connections: 60,
        depth: 20,
        set_percent: 10,
    },
    Load {
        name: "get, n600 d1",
        connections: 600,
        depth: 1,
        set_percent: 0,
    },
    Load {
        name: "set, one client",
        connections: 1,
        depth: 1,
        set_percent: 100,
    },
    Load {
        name: "get, one client",
        connections: 1,
        depth: 1,
        set_percent: 0,
    },
];

/// The settings of Apache's that cost the fewest hand-offs between threads.
const TUNED: [&str; 4] = [
    "-Dzookeeper.commitProcessor.numWorkerThreads=0",
    "-Dzookeeper.commitProcessor.maxCommitBatchSize=200",
    "-Dzookeeper.nio.numSelectorThreads=1",
    "-Dzookeeper.nio.numWorkerThreads=0",
];

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum System {
    Apache,
    ApacheTuned,
    Ours,
}

impl System {
    fn name(self) -> &'static str {
        match self {
            Self::Apache => "Apache",
            Self::ApacheTuned => "Apache, tuned",
            Self::Ours => "ours",
        }
    }

    fn spec(self) -> Spec {
        let kind = if self == Self::Ours {
            Kind::Ours
        } else {
            Kind::Apache
        };
        let mut java = vec![
            "-Xms1g",
            "-Xmx2g",
            "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
        ];
        if self == Self::ApacheTuned {
            java.extend(TUNED);
        }
        Spec::new(kind, 3, 0).java(&java)
    }
}

/// Measures Apache ZooKeeper and ours side by side.
#[derive(Debug, Parser)]
struct Args {
    /// The systems, in the order of each round
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [System::Apache, System::ApacheTuned, System::Ours])]
    systems: Vec<System>,
    /// Seconds of each measurement
    #[arg(long, default_value_t = 8)]
    seconds: u64,
    /// Seconds of load before each measurement
    #[arg(long, default_value_t = 2)]
    warm_up: u64,
    /// Rounds; the table shows medians
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Only loads whose name contains this
    #[arg(long, default_value = "")]
    only: String,
}

/// One measurement of one system.
struct Row {
    measured: Measured,
    /// Microseconds of all servers' CPU time for one operation.
    cpu: f64,
    /// The same of this program.
    own_cpu: f64,
    /// Resident memory of all servers, MiB.
    rss: f64,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let mut ensembles = Vec::new();
    for system in &args.systems {
        say(format!("starting three servers: {}", system.name()));
        let ensemble = Ensemble::start(&system.spec())?;
        load::prepare(ensemble.servers[0].address())?;
        ensembles.push(ensemble);
    }
    let loads: Vec<&Load> = LOADS
        .iter()
        .filter(|load| load.name.contains(&args.only))
        .collect();
    ensure!(!loads.is_empty(), "no load is called {:?}", args.only);
    warm(&ensembles, &loads, &args)?;
    println!("{}", head(&args)?);
    for load in loads {
        let mut rows: Vec<Vec<Row>> = args.systems.iter().map(|_| Vec::new()).collect();
        for round in 1..=args.rounds {
            for (system, (ensemble, rows)) in
                args.systems.iter().zip(ensembles.iter().zip(&mut rows))
            {
                let row = measure(load, ensemble, &args)?;
                say(format!(
                    "{}, {}, round {round}: {:.0}/s; this program took {:.2} µs/op",
                    load.name,
                    system.name(),
                    row.measured.rate,
                    row.own_cpu
                ));
                rows.push(row);
            }
        }
        print_load(load, &args.systems, &rows)?;
    }
    ensembles.into_iter().try_for_each(Ensemble::passed)
}

/// Java compiles what runs often: every system gets every load once before anything counts.
fn warm(ensembles: &[Ensemble], loads: &[&Load], args: &Args) -> Result<()> {
    for ensemble in ensembles {
        for load in loads {
            load::run(
                load,
                &ensemble.addresses(),
                Duration::ZERO,
                Duration::from_secs(args.seconds),
                || Ok(()),
            )
            .with_context(|| format!("warming up with {}", load.name))?;
        }
    }
    Ok(())
}

fn measure(load: &Load, ensemble: &Ensemble, args: &Args) -> Result<Row> {
    let cpu = || -> Result<(Duration, Duration)> {
        Ok((
            ensemble
                .servers
                .iter()
                .map(Server::cpu)
                .sum::<Result<_>>()?,
            servers::cpu(std::process::id())?,
        ))
    };
    let mut marks = Vec::new();
    let (warm_up, time) = (
        Duration::from_secs(args.warm_up),
        Duration::from_secs(args.seconds),
    );
    let measured = load::run(load, &ensemble.addresses(), warm_up, time, || {
        marks.push(cpu()?);
        Ok(())
    })?;
    let [(from, own_from), (to, own_to)] = marks[..] else {
        anyhow::bail!("a measurement begins and ends")
    };
    let own_cpu = ratio(
        (own_to - own_from).as_secs_f64() * 1e6,
        measured.operations as f64,
    );
    let rss: u64 = ensemble
        .servers
        .iter()
        .map(Server::rss)
        .sum::<Result<_>>()?;
    let cpu = ratio((to - from).as_secs_f64() * 1e6, measured.operations as f64);
    Ok(Row {
        measured,
        cpu,
        own_cpu,
        rss: rss as f64 / f64::from(1 << 20),
    })
}

fn head(args: &Args) -> Result<String> {
    let cores = std::thread::available_parallelism()?;
    Ok(format!(
        "Three servers each and the load on {cores} cores, fsync on; 100 B of data, 1000 keys; {} rounds of {} s, in \
         turn; medians. nX dY: X connections over the three servers, Y requests under way on each. CPU: user and system \
         time of the three servers.\n\n\
         | load | system | ops/s | worst second | p50 ms | p99 ms | p99.9 ms | CPU µs/op | RSS MiB |\n\
         |---|---|---:|---:|---:|---:|---:|---:|---:|",
        args.rounds, args.seconds
    ))
}

fn print_load(load: &Load, systems: &[System], rows: &[Vec<Row>]) -> Result<()> {
    let middle = |rows: &[Row], value: &dyn Fn(&Row) -> f64| -> Result<f64> {
        median(&rows.iter().map(value).collect::<Vec<_>>()).context("there is at least one round")
    };
    let quantile = |rows: &[Row], part: f64| {
        middle(rows, &|row| {
            row.measured.latency.quantile(part) as f64 / 1e6
        })
    };
    let mut rates = Vec::new();
    for (system, rows) in systems.iter().zip(rows) {
        let rate = middle(rows, &|row| row.measured.rate)?;
        let cpu = middle(rows, &|row| row.cpu)?;
        println!(
            "| {} | {} | {rate:.0} | {:.0} | {:.2} | {:.2} | {:.2} | {cpu:.1} | {:.0} |",
            load.name,
            system.name(),
            middle(rows, &|row| row.measured.worst_second as f64)?,
            quantile(rows, 0.5)?,
            quantile(rows, 0.99)?,
            quantile(rows, 0.999)?,
            middle(rows, &|row| row.rss)?,
        );
        rates.push((*system, rate, cpu));
    }
    let Some((_, rate, cpu)) = rates
        .iter()
        .find(|(system, ..)| *system == System::Ours)
        .copied()
    else {
        return Ok(());
    };
    let ratios = rates
        .iter()
        .filter(|(system, ..)| *system != System::Ours)
        .map(|(system, other_rate, other_cpu)| {
            format!(
                "{:.1}× {} (CPU 1/{:.1})",
                ratio(rate, *other_rate),
                system.name(),
                ratio(*other_cpu, cpu)
            )
        });
    println!(
        "| {} | **ratio** | {} | | | | | | |",
        load.name,
        ratios.collect::<Vec<_>>().join("; ")
    );
    Ok(())
}
