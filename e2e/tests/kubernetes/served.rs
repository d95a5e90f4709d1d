//! What most tests have in common: clients write while something happens, and afterwards nothing is lost.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use e2e::kube::ensemble::Ensemble;
use e2e::kube::load::{Load, Plan};
use e2e::report::{millis, say};

use crate::{AT_REST, Stage};

/// Writes may pause this long when a leader is lost without a word: two failed rounds of pings and an election.
pub(crate) const LOST_LEADER: Duration = Duration::from_secs(30);
/// A member that is told to go, leader or not, costs less.
pub(crate) const HAND_OVER: Duration = Duration::from_secs(5);

/// A load that runs while a test breaks things.
pub(crate) struct Served<'a> {
    ensemble: &'a Ensemble<'a>,
    load: Load<'a>,
    longest: Duration,
}

impl<'a> Served<'a> {
    /// Starts the load.
    pub(crate) fn start(stage: &'a Stage, ensemble: &'a Ensemble<'a>) -> Result<Self> {
        Self::start_as(stage, ensemble, &Plan::steady(&ensemble.headless_service()))
    }

    /// Starts the load on a node that the test leaves alone.
    pub(crate) fn start_on(
        stage: &'a Stage,
        ensemble: &'a Ensemble<'a>,
        node: &str,
    ) -> Result<Self> {
        let plan = Plan::steady(&ensemble.headless_service()).on(node);
        Self::start_as(stage, ensemble, &plan)
    }

    fn start_as(stage: &'a Stage, ensemble: &'a Ensemble<'a>, plan: &Plan) -> Result<Self> {
        let load = Load::start(stage.namespace(), "load", plan)?;
        Ok(Self {
            ensemble,
            load,
            longest: Duration::ZERO,
        })
    }

    /// Does something, waits until writes go on and the ensemble is as its spec says; a pause longer than `bound` is an
    /// error.
    pub(crate) fn through(
        &mut self,
        what: &str,
        bound: Duration,
        act: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        let (from, begin) = (self.load.now_ms()?, Instant::now());
        act().with_context(|| what.to_owned())?;
        let acted = begin.elapsed();
        self.ensemble
            .wait_at_rest(AT_REST)
            .with_context(|| what.to_owned())?;
        let took = begin.elapsed();
        self.load.wait_progress(20, bound * 4)?;
        let gap = self.load.gap(from, self.load.now_ms()?)?;
        self.longest = self.longest.max(gap);
        say(format!(
            "{what}: {:.1} s, at rest after {:.1} s; longest time without a write {}",
            acted.as_secs_f64(),
            took.as_secs_f64(),
            millis(gap)
        ));
        ensure!(gap < bound, "{what}: no write for {gap:?}");
        Ok(())
    }

    /// Ends the load: every acknowledged write is on every member, and nobody's session has expired.
    pub(crate) fn end(self) -> Result<()> {
        let verdict = self.load.finish(&self.ensemble.addresses()?)?;
        say(format!(
            "longest time without a write in all of it: {}",
            millis(self.longest)
        ));
        ensure!(verdict.expired == 0, "{} sessions expired", verdict.expired);
        Ok(())
    }
}
