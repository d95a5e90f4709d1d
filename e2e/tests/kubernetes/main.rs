//! Tests on a real Kubernetes: the cluster that `KUBECONFIG` names; or this project's own, when `ZK_E2E_KUBERNETES` is set.
//! Without either they say that they were skipped.
//!
//!     ZK_E2E_KUBERNETES=1   cargo test -p e2e --test kubernetes     what fits into a build
//!     ZK_E2E_KUBERNETES=all cargo test -p e2e --test kubernetes     all of it
//!
//! The operator is installed by its chart, once, and works under the rights that the chart gives it: every test ends with
//! a look at its log. Each test has a namespace of its own in which pods must be restricted. `ZK_E2E_KEEP=1` keeps what a
//! test that failed leaves behind; `ZK_E2E_OPERATOR=there` takes the operator that is installed already.

mod admission;
mod alerts;
mod crash;
mod drain;
mod install;
mod load;
mod many;
mod nodes;
mod operator;
mod resize;
mod rights;
mod rollout;
mod served;
mod smoke;
mod spec;
mod trouble;

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Result;
use e2e::kube::ensemble::{Ensemble, KIND, Wanted};
use e2e::kube::namespace::Namespace;
use e2e::kube::operator::Operator;
use e2e::report::say;
use e2e::tools;

/// An ensemble may take this long to be as its spec says, on a machine that has other work to do.
const AT_REST: Duration = Duration::from_secs(240);

/// Tests run one at a time: each breaks something.
fn alone(name: &str) -> MutexGuard<'static, ()> {
    static LOCK: Mutex<()> = Mutex::new(());
    let guard = LOCK.lock().unwrap_or_else(PoisonError::into_inner);
    say(format!("=== {name}"));
    guard
}

/// Whether tests are to run that take too long for every build.
fn all() -> bool {
    let all = std::env::var("ZK_E2E_KUBERNETES").is_ok_and(|value| value == "all");
    if !all {
        say("SKIPPED: runs with ZK_E2E_KUBERNETES=all");
    }
    all
}

/// What a test plays on: the operator, and a namespace of the test's own.
struct Stage {
    operator: Operator,
    /// None once the test has passed.
    namespace: Option<Namespace<'static>>,
    _alone: MutexGuard<'static, ()>,
}

impl Stage {
    /// Waits for its turn; none when there is no cluster.
    fn set(title: &str, namespace: &str) -> Result<Option<Self>> {
        let alone = alone(title);
        let Some(operator) = Operator::find()? else {
            return Ok(None);
        };
        if !operator.is_given() {
            operator.restore()?;
        }
        let namespace = Namespace::create(operator.cluster, namespace)?;
        Ok(Some(Self {
            operator,
            namespace: Some(namespace),
            _alone: alone,
        }))
    }

    /// The same for a test that takes too long for every build.
    fn set_for_all(title: &str, namespace: &str) -> Result<Option<Self>> {
        {
            let _alone = alone(title);
            if !all() {
                return Ok(None);
            }
        }
        Self::set(title, namespace)
    }

    fn namespace(&self) -> &Namespace<'static> {
        self.namespace
            .as_ref()
            .expect("it is there until the test has passed")
    }

    /// An ensemble `demo` of the default kind.
    fn ensemble(&self, voters: u32, observers: u32) -> Result<Ensemble<'_>> {
        self.ensemble_as(&Wanted::new(voters, observers))
    }

    /// An ensemble `demo` that is as it is wanted.
    fn ensemble_as(&self, wanted: &Wanted) -> Result<Ensemble<'_>> {
        let ensemble = Ensemble::create(self.namespace(), "demo", wanted)?;
        ensemble.wait_at_rest(AT_REST)?;
        Ok(ensemble)
    }

    /// Ends a test that went well: the operator had all the rights that it needs, and everything goes.
    fn passed(mut self) -> Result<()> {
        self.operator.check_rights()?;
        let namespace = self.namespace();
        namespace.kubectl(&["delete", KIND, "--all", "--timeout=60s"])?;
        self.namespace.take().expect("a test passes once").passed()
    }

    /// The operator's words, for those who look for what went wrong.
    fn write_log(&self) -> Result<()> {
        let mut text = String::new();
        for pod in self.operator.pod_names()? {
            let log = self.operator.kubectl(&["logs", &pod, "--tail=2000"])?;
            text.push_str(&format!("\n=== {pod}\n{log}"));
        }
        let path = tools::work_dir()?.join(format!("{}-operator.txt", self.namespace().name));
        std::fs::write(&path, text)?;
        say(format!("--- the operator's log is in {}", path.display()));
        Ok(())
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if self.namespace.is_none() {
            return;
        }
        if let Err(error) = self.write_log() {
            say(format!("--- the operator's log cannot be had: {error:#}"));
        }
    }
}
