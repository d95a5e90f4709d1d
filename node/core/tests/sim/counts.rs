//! What happened in a run, for its report.

use std::collections::BTreeMap;
use std::fmt;

use crate::faults::Fault;

/// Sums over the runs of some seeds.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) seeds: u64,
    pub(crate) ms: u64,
    pub(crate) faults: BTreeMap<Fault, u64>,
    pub(crate) elections: u64,
    pub(crate) committed: u64,
    pub(crate) writes: u64,
    pub(crate) reads: u64,
    pub(crate) events: u64,
    pub(crate) missed: u64,
    pub(crate) sessions: u64,
    pub(crate) moved: u64,
    pub(crate) expired: u64,
    /// Connections that went on with the next leader.
    pub(crate) kept: u64,
    /// Requests that another leader got once more.
    pub(crate) resent: u64,
    /// The longest time from the end of all faults until all is well, in milliseconds, and its seed.
    pub(crate) recovery: (u64, u64),
    /// Runs that ended with fewer disks than a quorum.
    pub(crate) lost_quorums: u64,
}

impl Counts {
    pub(crate) fn add(&mut self, run: &Self) {
        self.seeds += run.seeds;
        self.ms += run.ms;
        for (fault, count) in &run.faults {
            *self.faults.entry(*fault).or_default() += count;
        }
        self.elections += run.elections;
        self.committed += run.committed;
        self.writes += run.writes;
        self.reads += run.reads;
        self.events += run.events;
        self.missed += run.missed;
        self.sessions += run.sessions;
        self.moved += run.moved;
        self.expired += run.expired;
        self.kept += run.kept;
        self.resent += run.resent;
        self.recovery = self.recovery.max(run.recovery);
        self.lost_quorums += run.lost_quorums;
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hours = self.ms as f64 / 3_600_000.0;
        writeln!(f, "{} seeds, {hours:.2} simulated hours", self.seeds)?;
        writeln!(
            f,
            "  {} epochs begun, {} transactions committed, longest recovery {} ms (seed {}), {} ensembles with too few disks for a quorum at the end",
            self.elections, self.committed, self.recovery.0, self.recovery.1, self.lost_quorums
        )?;
        writeln!(
            f,
            "  clients: {} writes and {} reads answered, {} events ({} after a reconnect), {} sessions, {} moves, {} told of their expiry, {} connections kept in an election, {} requests sent again",
            self.writes,
            self.reads,
            self.events,
            self.missed,
            self.sessions,
            self.moved,
            self.expired,
            self.kept,
            self.resent
        )?;
        let total: u64 = self.faults.values().sum();
        write!(f, "  {total} faults:")?;
        for (fault, count) in &self.faults {
            write!(f, " {fault:?} {count}")?;
        }
        Ok(())
    }
}
