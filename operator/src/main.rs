//! `zookeeper-operator`: keeps ZooKeeper ensembles as their manifests ask for.

use std::io::{IsTerminal as _, Write as _};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use operator::check;
use operator::kubernetes::context::Crash;
use operator::kubernetes::{Settings, run};
use operator::local::{self, StartError};
use tracing_subscriber::EnvFilter;

/// Keeps ZooKeeper ensembles as their manifests ask for.
#[derive(Parser)]
#[command(name = "zookeeper-operator", version, about = ABOUT, after_help = EXAMPLES)]
struct Call {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Keep a manifest's ensemble as processes on this machine, until Ctrl-C.
    ///
    /// Every edit of FILE is followed: members join, leave and restart one by one while clients go on. On a terminal
    /// a live table shows the members; elsewhere every change is a line. The data stays for the next start.
    #[command(after_help = LOCAL_HELP)]
    Local {
        /// The manifest: one ZooKeeperEnsemble as YAML.
        file: PathBuf,
        /// Where the members live [default: NAME.zke in the current folder].
        #[arg(long)]
        dir: Option<PathBuf>,
        /// Client port of member N is P+N [default: free ports, which stay the same from run to run].
        #[arg(long, value_name = "P", value_parser = clap::value_parser!(u16).range(1..=BASE_PORT_MAX))]
        base_port: Option<u16>,
        /// The server's program [default: zookeeper-node beside this program].
        #[arg(long, value_name = "PATH")]
        node_binary: Option<PathBuf>,
    },
    /// Keep the ensembles of a Kubernetes cluster.
    ///
    /// Runs in the cluster (the chart does that) or outside with a kubeconfig. Of several that run, the one that holds
    /// the lease acts and the others stand by. SIGTERM ends it once the passes that have begun are over.
    #[command(after_help = RUN_HELP)]
    Run(Box<RunCall>),
    /// Print the CustomResourceDefinition.
    Crd,
    /// Print the steps that bring an ensemble from one manifest to another, without doing anything.
    Plan {
        /// The manifest to get to.
        #[arg(short, long = "file", value_name = "NEW")]
        file: PathBuf,
        /// The manifest to begin with [default: nothing yet].
        #[arg(long, value_name = "OLD")]
        from: Option<PathBuf>,
    },
    /// Try a cluster's operator: make an ensemble of one server, write and read a znode, remove the ensemble again.
    ///
    /// What `helm test` runs. Its account needs get, create and delete of ensembles in that namespace.
    #[command(hide = true)]
    Check {
        /// Where to make the ensemble.
        #[arg(
            long,
            value_name = "NS",
            env = "POD_NAMESPACE",
            default_value = "default"
        )]
        namespace: String,
        /// What to call it.
        #[arg(long, value_name = "NAME", default_value = "zookeeper-operator-test")]
        name: String,
        /// Domain of the cluster's host names.
        #[arg(long, value_name = "DOMAIN", default_value = "cluster.local")]
        cluster_domain: String,
        /// Storage class of its volume [default: the cluster's default].
        #[arg(long, value_name = "CLASS")]
        storage_class: Option<String>,
        /// Size of its volume.
        #[arg(long, value_name = "SIZE", default_value = "256Mi")]
        storage_size: String,
        /// How long it may take, in seconds.
        #[arg(long, value_name = "S", default_value_t = 180, value_parser = clap::value_parser!(u64).range(1..=3600))]
        timeout_s: u64,
    },
    /// Become a member's server that dies with its operator.
    #[command(hide = true)]
    Launch {
        parent: i32,
        node: PathBuf,
        zoo_cfg: PathBuf,
    },
}

#[derive(Args)]
struct RunCall {
    /// Watch this namespace; may be given several times [default: all namespaces].
    #[arg(
        long = "namespace",
        value_name = "NS",
        env = "WATCH_NAMESPACES",
        value_delimiter = ','
    )]
    namespaces: Vec<String>,
    /// Image of the members, for ensembles that name none.
    #[arg(long, value_name = "IMAGE", env = "NODE_IMAGE")]
    node_image: String,
    /// Domain of the cluster's host names.
    #[arg(
        long,
        value_name = "DOMAIN",
        env = "CLUSTER_DOMAIN",
        default_value = "cluster.local"
    )]
    cluster_domain: String,
    /// Where to serve /metrics, /healthz and /readyz.
    #[arg(
        long,
        value_name = "ADDRESS",
        env = "HTTP_ADDRESS",
        default_value = "0.0.0.0:8080"
    )]
    http_address: SocketAddr,
    /// Name of the lease that the acting operator holds.
    #[arg(
        long,
        value_name = "NAME",
        env = "LEASE_NAME",
        default_value = "zookeeper-operator"
    )]
    lease_name: String,
    /// Namespace of the lease [default: the one of the pod or of the kubeconfig].
    #[arg(long, value_name = "NS", env = "POD_NAMESPACE")]
    lease_namespace: Option<String>,
    /// This process, as the lease names its holder; no two may share it [default: host name and process id].
    #[arg(long, value_name = "NAME", env = "POD_NAME")]
    identity: Option<String>,
    /// How many ensembles are looked at at the same time.
    #[arg(long, value_name = "N", env = "CONCURRENCY", default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=1000))]
    concurrency: u16,
    /// Form of the log, which goes to standard error.
    #[arg(long, env = "LOG_FORMAT", value_enum, default_value_t = LogFormat::Text)]
    log_format: LogFormat,
    /// For tests: end the process right before the first step of this kind, for example RestartMember.
    #[arg(long, value_name = "STEP", env = "CRASH_BEFORE", hide = true)]
    crash_before: Option<String>,
    /// For tests: end the process right after the first step of this kind.
    #[arg(long, value_name = "STEP", env = "CRASH_AFTER", hide = true)]
    crash_after: Option<String>,
    /// For tests: written at such an end; while the file is there, nothing ends.
    #[arg(long, value_name = "FILE", env = "CRASH_MARKER", hide = true)]
    crash_marker: Option<PathBuf>,
}

#[derive(Clone, Copy, ValueEnum)]
enum LogFormat {
    /// One JSON object a line.
    Json,
    /// For people.
    Text,
}

fn main() -> ExitCode {
    match Call::parse().command {
        Command::Local {
            file,
            dir,
            base_port,
            node_binary,
        } => run_local(local::Options {
            file,
            dir,
            base_port,
            node_binary,
        }),
        Command::Run(call) => run_kubernetes(*call),
        Command::Crd => print(&operator::crd::crd_yaml()),
        Command::Plan { file, from } => match operator::plan_between(from.as_deref(), &file) {
            Ok(steps) => print(&steps),
            Err(problems) => wrong(&problems),
        },
        Command::Check {
            namespace,
            name,
            cluster_domain,
            storage_class,
            storage_size,
            timeout_s,
        } => run_check(&check::Options {
            namespace,
            name,
            cluster_domain,
            storage_class,
            storage_size,
            timeout: Duration::from_secs(timeout_s),
        }),
        Command::Launch {
            parent,
            node,
            zoo_cfg,
        } => {
            let error = local::launch(parent, &node, &zoo_cfg);
            eprintln!("cannot run {}: {error}", node.display());
            ExitCode::FAILURE
        }
    }
}

fn run_local(options: local::Options) -> ExitCode {
    // One thread: the system ties a member's life to the thread that started it.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let outcome = match runtime {
        Ok(runtime) => runtime.block_on(local::run(options)),
        Err(error) => {
            eprintln!("zookeeper-operator: cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(StartError::Usage(problems)) => wrong(&problems),
        Err(error @ StartError::Backend(_)) => {
            eprintln!("zookeeper-operator: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run_check(options: &check::Options) -> ExitCode {
    let outcome = tokio::runtime::Runtime::new()
        .map_err(anyhow::Error::from)
        .and_then(|runtime| runtime.block_on(check::check(options)));
    match outcome {
        Ok(words) => print(&words),
        Err(error) => {
            eprintln!("zookeeper-operator: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run_kubernetes(call: RunCall) -> ExitCode {
    log_to_stderr(call.log_format);
    let crash = Crash {
        before: call.crash_before,
        after: call.crash_after,
        marker: call.crash_marker,
    };
    let options = run::Options {
        namespaces: call
            .namespaces
            .into_iter()
            .filter(|it| !it.is_empty())
            .collect(),
        settings: Settings {
            node_image: call.node_image,
            cluster_domain: call.cluster_domain,
        },
        http_address: call.http_address,
        lease_name: call.lease_name,
        lease_namespace: call.lease_namespace,
        identity: call.identity.unwrap_or_else(own_name),
        concurrency: call.concurrency.into(),
        crash,
    };
    let outcome = tokio::runtime::Runtime::new().map(|runtime| runtime.block_on(run::run(options)));
    match outcome {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(error)) => {
            tracing::error!("{error}");
            ExitCode::FAILURE
        }
        Err(error) => {
            tracing::error!("cannot start: {error}");
            ExitCode::FAILURE
        }
    }
}

/// RUST_LOG says how much, as in `RUST_LOG=operator=debug`.
fn log_to_stderr(format: LogFormat) {
    let filter = EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| EnvFilter::new("info,kube_client=error,kube_runtime=error"));
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    match format {
        LogFormat::Json => log
            .json()
            .flatten_event(true)
            .with_current_span(true)
            .with_span_list(false)
            .init(),
        LogFormat::Text => log.init(),
    }
}

/// A name that no other process has just now.
fn own_name() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    format!("{}-{}", host.trim(), std::process::id())
}

fn wrong(problems: &[String]) -> ExitCode {
    for problem in problems {
        eprintln!("zookeeper-operator: {problem}");
    }
    ExitCode::from(2)
}

fn print(text: &str) -> ExitCode {
    match std::io::stdout().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// So that members of any number that an ensemble comes to have a port.
const BASE_PORT_MAX: i64 = 65_000;

const ABOUT: &str = "\
Keeps ZooKeeper ensembles as their manifests ask for: in a Kubernetes cluster, or as processes on this machine.";

const EXAMPLES: &str = "\
Examples:
  zookeeper-operator local ensemble.yaml                run it here; edit the file to change it
  zookeeper-operator plan -f ensemble.yaml              what will it do?
  zookeeper-operator plan --from old.yaml -f new.yaml   what would a change take?
  zookeeper-operator crd                                the resource's schema, for Kubernetes
  zookeeper-operator run --node-image IMAGE             keep the ensembles of a Kubernetes cluster

Exit code: 0 when all went well, 1 when something failed, 2 for a wrong call or a wrong manifest.";

const RUN_HELP: &str = "\
It needs the CustomResourceDefinition (zookeeper-operator crd | kubectl apply --server-side -f -) and an account with
the chart's roles. RUST_LOG says how much it logs, for example RUST_LOG=operator=debug.

Examples:
  zookeeper-operator run --node-image registry.example/zookeeper-node:1.0
  zookeeper-operator run --namespace team-a --namespace team-b --node-image registry.example/zookeeper-node:1.0

Why is nothing happening? kubectl describe zookeeperensemble NAME: the plan in words, conditions, events.";

const LOCAL_HELP: &str = "\
DIR holds status.yaml (the object with its status: members, leader, conditions, the plan in words) and one
member-N folder for each member: its zoo.cfg, its data, and its log in node.log.

A manifest to begin with:
  apiVersion: zookeeper.ensemble.dev/v1alpha1
  kind: ZooKeeperEnsemble
  metadata: {name: demo}
  spec:
    voters: {replicas: 3}
    observers: {replicas: 2}

Connect any ZooKeeper client to the connect string that it prints. Ctrl-C stops all members.";
