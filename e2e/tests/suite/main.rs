//! The end-to-end suite. `ZK_E2E_SERVERS=apache` runs the same tests against Apache ZooKeeper.

mod bad_input;
mod kazoo;
mod kill;
mod mixed;
mod operator;
mod slow_readers;

use std::sync::{Mutex, MutexGuard, PoisonError};

use e2e::report::say;

/// Tests run one at a time: each fills both cores and measures time.
fn alone(name: &str) -> MutexGuard<'static, ()> {
    static LOCK: Mutex<()> = Mutex::new(());
    let guard = LOCK.lock().unwrap_or_else(PoisonError::into_inner);
    say(format!("=== {name}"));
    guard
}
