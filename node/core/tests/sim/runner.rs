//! Runs stories under many seeds, on all processors.

use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::counts::Counts;
use crate::scenario::Scenario;
use crate::world::{Setup, World};

/// How a run under one seed ended.
pub(crate) struct Outcome {
    pub(crate) counts: Counts,
    /// Why it failed, at which time, and what had happened (`SIM_TRACE`).
    pub(crate) failure: Option<(String, u64, String)>,
}

/// Runs a story under a seed; what a checker says is caught.
pub(crate) fn run_seed(
    seed: u64,
    setup: &Setup,
    traced: bool,
    story: impl FnOnce(&mut World),
) -> Outcome {
    let mut world = World::new(seed, setup.clone());
    world.trace = traced.then(String::new);
    let result = catch_unwind(AssertUnwindSafe(|| story(&mut world)));
    world.counts.seeds = 1;
    world.counts.recovery.1 = seed;
    world.counts.ms = world.now;
    world.counts.committed = world.checkers.zxids.len() as u64;
    world.counts.elections = world.checkers.epochs() as u64;
    let failure = result.err().map(|cause| {
        let words = cause.downcast_ref::<String>().cloned();
        let words = words.or_else(|| cause.downcast_ref::<&str>().map(|s| (*s).to_owned()));
        let trace = world.trace.take().unwrap_or_default();
        (words.unwrap_or_default(), world.now, trace)
    });
    Outcome {
        counts: world.counts,
        failure,
    }
}

/// The scenario of a seed.
pub(crate) fn run_mixed(seed: u64, name: Option<&str>, traced: bool) -> Outcome {
    let scenario = Scenario::of(seed, name);
    run_seed(seed, &scenario.setup, traced, |world| {
        world.note(|| format!("{scenario:?}"));
        scenario.run(world);
    })
}

#[expect(clippy::disallowed_methods, reason = "how long a run takes")]
fn now() -> Instant {
    Instant::now()
}

/// Runs seeds, on as many threads as there are processors, until the range or the time is over; a failure ends it and names
/// the seed.
pub(crate) fn run_all(
    seeds: Range<u64>,
    time: Option<Duration>,
    run: impl Fn(u64) -> Outcome + Sync,
) -> Counts {
    let (next, failed) = (AtomicU64::new(seeds.start), AtomicBool::new(false));
    let begin = now();
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let work = || {
        let mut mine = Counts::default();
        while time.is_none_or(|time| begin.elapsed() < time) && !failed.load(Ordering::Relaxed) {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end {
                break;
            }
            let outcome = run(seed);
            mine.add(&outcome.counts);
            if let Some((why, at, trace)) = outcome.failure {
                failed.store(true, Ordering::Relaxed);
                println!("{trace}");
                println!(
                    "FAILED with SIM_SEEDS={seed}..{} at {at} ms: {why}",
                    seed + 1
                );
            }
        }
        mine
    };
    let mut total = Counts::default();
    std::thread::scope(|scope| {
        let all: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        for thread in all {
            total.add(&thread.join().expect("panics are caught"));
        }
    });
    let seconds = begin.elapsed().as_secs_f64();
    println!("{total}");
    println!(
        "  {seconds:.1} s, {:.0} seeds/s",
        total.seeds as f64 / seconds
    );
    assert!(!failed.into_inner(), "a seed failed, see above");
    total
}
