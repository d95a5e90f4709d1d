//! The ensemble as processes on this machine.
//!
//! `DIR` holds everything: `ensemble.yaml` (the first membership), `super-password`, `status.yaml` (the object with
//! its status) and one `member-N` folder for each member (its record, its `zoo.cfg`, its data, its log). What is
//! known after a restart is read from there; the processes themselves never outlive the operator.

mod backend;
mod console;
mod home;
mod launch;
mod manifest;
mod ports;
mod process;

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::backend::BackendError;
use crate::cluster::Cluster;
use crate::plan::Plan;
use crate::reconcile::{Outcome, pass};

use self::backend::LocalBackend;
use self::console::Console;
use self::manifest::{Manifest, News};

pub use launch::launch;

/// What `zookeeper-operator local` was called with.
#[derive(Clone, Debug)]
pub struct Options {
    /// The manifest.
    pub file: PathBuf,
    /// Where everything lives; `NAME.zke` in the current folder when not given.
    pub dir: Option<PathBuf>,
    /// Client port of member N is this plus N.
    pub base_port: Option<u16>,
    /// The server's program; the one beside this program when not given.
    pub node_binary: Option<PathBuf>,
}

/// Why `zookeeper-operator local` could not begin.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The call was wrong, or the manifest is; every line says one thing.
    #[error("{}", .0.join("\n"))]
    Usage(Vec<String>),
    /// The system refused something.
    #[error(transparent)]
    Backend(#[from] BackendError),
}

/// Runs until a signal says to stop, then stops every member.
pub async fn run(options: Options) -> Result<(), StartError> {
    let mut manifest = Manifest::open(&options.file).map_err(StartError::Usage)?;
    let node = node_binary(options.node_binary.as_deref())?;
    let dir = options
        .dir
        .unwrap_or_else(|| PathBuf::from(format!("{}.zke", manifest.name())));
    let mut backend = LocalBackend::open(&dir, manifest.name(), options.base_port, node)?;
    manifest.continue_from(backend.previous());
    let mut console = Console::new(manifest.name());
    console.line(&format!(
        "{} in {}; Ctrl-C stops it and keeps the data",
        manifest.name(),
        dir.display()
    ));
    for note in backend.notes() {
        console.line(&note);
    }
    let mut signals = Signals::new()?;
    let mut trouble = None;
    loop {
        follow(&mut manifest, &mut console);
        let turn = turn(&manifest, &mut backend, &mut console, &mut trouble);
        let pause = tokio::select! {
            pause = turn => pause,
            () = signals.recv() => break,
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = signals.recv() => break,
        }
    }
    console.close();
    console.line("stopping all members");
    let stop = backend.stop_all();
    tokio::select! {
        killed = stop => match killed.as_slice() {
            [] => console.line("stopped"),
            killed => console.line(&format!("stopped; {} had to be killed", crate::plan::are(killed))),
        },
        () = signals.recv() => console.line("told to stop once more: the members are killed"),
    }
    Ok(())
}

/// Takes over an edit of the manifest, or says what is wrong with it.
fn follow(manifest: &mut Manifest, console: &mut Console) {
    match manifest.poll() {
        None => {}
        Some(News::Accepted) => console.line("the manifest has changed"),
        Some(News::Refused(problems)) => {
            console.line(
                "the manifest has changed, and cannot be used; the one before stays in force:",
            );
            for problem in problems {
                console.line(&format!("  {problem}"));
            }
        }
    }
}

/// One pass, and how long to pause after it.
async fn turn(
    manifest: &Manifest,
    backend: &mut LocalBackend,
    console: &mut Console,
    trouble: &mut Option<String>,
) -> Duration {
    let cluster: &Cluster = manifest.cluster();
    backend.set_ensemble(manifest.ensemble());
    let previous = backend.previous().clone();
    let now = k8s_openapi::jiff::Timestamp::now();
    let say = &mut |plan: &Plan| console.plan(plan);
    let outcome = pass(cluster, backend, &previous, trouble.as_deref(), now, say).await;
    for note in backend.notes() {
        console.line(&note);
    }
    match outcome {
        Err(error) => {
            tell(console, trouble, format!("cannot go on: {error}"));
            PAUSE_ERROR
        }
        Ok(Outcome { plan, status, done }) => {
            console.show(cluster, &status);
            match (done, plan.waiting) {
                (Some(Err(error)), _) => {
                    tell(
                        console,
                        trouble,
                        format!("it did not work, and is tried again: {error}"),
                    );
                    PAUSE_ERROR
                }
                (Some(Ok(())), _) => {
                    *trouble = None;
                    Duration::ZERO
                }
                (None, Some(_)) => PAUSE_WAITING,
                (None, None) => PAUSE_AT_REST,
            }
        }
    }
}

/// Says that something went wrong, unless it did so in the same way the last time.
fn tell(console: &mut Console, trouble: &mut Option<String>, words: String) {
    if trouble.as_ref() != Some(&words) {
        console.line(&words);
    }
    *trouble = Some(words);
}

/// The server's program.
fn node_binary(given: Option<&Path>) -> Result<PathBuf, StartError> {
    let found = match given {
        Some(path) => path.to_owned(),
        None => {
            let own =
                std::env::current_exe().map_err(BackendError::io("the path of this program"))?;
            own.with_file_name("zookeeper-node")
        }
    };
    std::path::absolute(&found)
        .ok()
        .filter(|path| path.is_file())
        .ok_or_else(|| {
            let cure = "build it (cargo build --bin zookeeper-node) or name it with --node-binary";
            StartError::Usage(vec![format!("no server at {}: {cure}", found.display())])
        })
}

struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn new() -> Result<Self, BackendError> {
        let listen = |kind| signal(kind).map_err(BackendError::io("listening for signals"));
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
        })
    }

    async fn recv(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

const PAUSE_WAITING: Duration = Duration::from_millis(100);
const PAUSE_AT_REST: Duration = Duration::from_millis(300);
const PAUSE_ERROR: Duration = Duration::from_secs(1);
