//! Tests on a real Kubernetes: the cluster that `KUBECONFIG` names; or this project's own, when `ZK_E2E_KUBERNETES` is set.
//! Without either they say that they were skipped.

mod smoke;

use std::sync::{Mutex, MutexGuard, PoisonError};

use e2e::report::say;

/// Tests run one at a time: each breaks something.
fn alone(name: &str) -> MutexGuard<'static, ()> {
    static LOCK: Mutex<()> = Mutex::new(());
    let guard = LOCK.lock().unwrap_or_else(PoisonError::into_inner);
    say(format!("=== {name}"));
    guard
}
