//! One member's process: started, watched, told to stop, and killed when it does not.

use std::fs::OpenOptions;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};

use crate::backend::BackendError;
use crate::observed::Instance;

use super::home::Home;

/// A member's process, or the memory of its last one.
#[derive(Debug, Default)]
pub(super) struct Process {
    child: Option<Child>,
    started: Option<Instant>,
    stopping: Option<Instant>,
    /// Deaths in a row that nobody asked for.
    failures: u32,
    /// Not before this time again.
    retry_at: Option<Instant>,
}

/// How a process ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum End {
    /// It was told to.
    Asked,
    /// By itself, with what the system said about it.
    Died(String),
}

impl Process {
    /// Starts the member's program.
    pub(super) fn start(&mut self, node: &Path, home: &Home) -> Result<(), BackendError> {
        let failed = || BackendError::io(format!("starting {}", node.display()));
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(home.log_file())
            .map_err(failed())?;
        let own = std::env::current_exe().map_err(failed())?;
        let child = Command::new(own)
            .arg("launch")
            .arg(std::process::id().to_string())
            .arg(node)
            .arg(home.zoo_cfg())
            .current_dir(home.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone().map_err(failed())?)
            .stderr(log)
            // A Ctrl-C at the terminal is for the operator, which then stops its members in good order.
            .process_group(0)
            .spawn()
            .map_err(failed())?;
        let failures = self.failures;
        *self = Self {
            child: Some(child),
            started: Some(Instant::now()),
            failures,
            ..Self::default()
        };
        Ok(())
    }

    /// Tells it to stop; it gets a while to do so.
    pub(super) fn stop(&mut self) {
        if self.stopping.is_none() && self.child.is_some() {
            self.signal(Signal::TERM);
            self.stopping = Some(Instant::now());
        }
    }

    /// Kills it.
    pub(super) fn kill(&mut self) {
        self.signal(Signal::KILL);
    }

    /// Looks after it: how it ended, if it has since the last look.
    pub(super) fn check(&mut self) -> Option<End> {
        let child = self.child.as_mut()?;
        let ended = child.try_wait().ok()?;
        let Some(exit) = ended else {
            if self
                .stopping
                .is_some_and(|since| since.elapsed() > STOP_TIMEOUT)
            {
                self.kill();
            }
            return None;
        };
        self.child = None;
        if self.stopping.take().is_some() {
            self.failures = 0;
            return Some(End::Asked);
        }
        if self
            .started
            .is_some_and(|started| started.elapsed() > STEADY_AFTER)
        {
            self.failures = 0;
        }
        let pause = RETRY_FIRST
            .saturating_mul(1 << self.failures.min(10))
            .min(RETRY_MAX);
        self.retry_at = Some(Instant::now() + pause);
        self.failures += 1;
        Some(End::Died(exit.to_string()))
    }

    /// What the planner sees of it.
    pub(super) fn instance(&self, started_before: bool) -> Instance {
        match (&self.child, self.retry_at) {
            (Some(_), _) if self.stopping.is_some() => Instance::Stopping,
            (Some(_), _) => Instance::Running,
            (None, Some(at)) if at > Instant::now() => Instance::Failed,
            (None, _) if started_before => Instance::Stopped,
            (None, _) => Instance::New,
        }
    }

    /// Waits until it has ended.
    pub(super) async fn ended(&mut self) {
        if let Some(child) = &mut self.child {
            // An error means that there is nothing left to wait for.
            let _ = child.wait().await;
        }
        self.child = None;
    }

    fn signal(&self, signal: Signal) {
        let pid = self
            .child
            .as_ref()
            .and_then(Child::id)
            .and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
        if let Some(pid) = pid {
            // The process is ours and not yet reaped, so the id cannot be another's; it may be dead already.
            let _ = kill_process(pid, signal);
        }
    }
}

/// Time that a member gets to stop before it is killed.
pub(super) const STOP_TIMEOUT: Duration = Duration::from_secs(10);
const STEADY_AFTER: Duration = Duration::from_secs(10);
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(10);
