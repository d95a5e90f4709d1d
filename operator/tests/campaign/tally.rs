//! What a campaign did and what went wrong in it.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use super::sim::Counts;

/// Counts, and failures with everything that one wants to know of them.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    pub counts: Counts,
    pub failures: Vec<String>,
    name: String,
    seconds: f64,
}

impl std::ops::AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.counts += other.counts;
        self.failures.extend(other.failures);
    }
}

impl Tally {
    /// One run that went well, or did not.
    pub fn of(counts: Counts, outcome: Result<(), String>) -> Self {
        let failures = outcome.err().into_iter().collect();
        Self {
            counts,
            failures,
            ..Self::default()
        }
    }

    /// Says what was done; fails when anything went wrong.
    pub fn finish(&self) {
        println!("{}: {:.1} s: {:?}", self.name, self.seconds, self.counts);
        for failure in &self.failures {
            println!("FAILED {}", failure.lines().next().unwrap_or_default());
        }
        let told = self
            .failures
            .iter()
            .take(FAILURES_TOLD)
            .cloned()
            .collect::<Vec<_>>();
        assert!(
            told.is_empty(),
            "{} failures, the first ones:\n{}",
            self.failures.len(),
            told.join("\n\n")
        );
        assert!(self.counts.passes > 0, "something was done");
    }
}

/// Works on all items, two at a time.
pub fn in_parallel<T: Sync>(name: &str, items: &[T], work: impl Fn(&T) -> Tally + Sync) -> Tally {
    let begun = Instant::now();
    let (next, tally) = (AtomicUsize::new(0), Mutex::new(Tally::default()));
    std::thread::scope(|scope| {
        for _ in 0..WORKERS {
            let worker = std::thread::Builder::new().stack_size(STACK_BYTES);
            let spawned = worker.spawn_scoped(scope, || {
                while let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let done = work(item);
                    *tally.lock().unwrap() += done;
                }
            });
            spawned.expect("the machine has room for two threads");
        }
    });
    let mut tally = tally.into_inner().unwrap();
    tally.failures.sort();
    tally.name = name.to_owned();
    tally.seconds = begun.elapsed().as_secs_f64();
    tally
}

/// Futures of futures are large where nothing is optimized.
const STACK_BYTES: usize = 64 << 20;
const WORKERS: usize = 2;
const FAILURES_TOLD: usize = 3;
