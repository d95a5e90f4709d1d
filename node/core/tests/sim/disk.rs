//! A disk: what was flushed survives a crash, what waits may be lost from any point on.

use std::collections::VecDeque;

use node_core::effect::Input;
use node_core::peer::Recovered;
use node_core::proto::quorum::Proposal;
use node_core::quorum::config::QuorumConfig;
use node_core::zxid::{Epoch, Zxid};

/// The toy replica: all transactions, in order.
pub(crate) type Tree = Vec<Proposal>;

pub(crate) fn end_of(tree: &Tree) -> Zxid {
    tree.last().map_or(Zxid::ZERO, |p| p.zxid)
}

pub(crate) enum LogOp {
    Append(Proposal),
    Truncate(Zxid),
    SaveSnapshot(Zxid, Tree),
}

#[derive(Default)]
pub(crate) struct Disk {
    pub(crate) accepted_epoch: Epoch,
    pub(crate) current_epoch: Epoch,
    pub(crate) config: Option<QuorumConfig>,
    pub(crate) next_config: Option<QuorumConfig>,
    used: bool,
    snapshot: Tree,
    log: Vec<Proposal>,
    waiting: VecDeque<LogOp>,
}

impl Disk {
    pub(crate) fn push(&mut self, op: LogOp) {
        self.used = true;
        self.waiting.push_back(op);
    }

    /// Whether it belongs to a server that keeps one.
    pub(crate) fn is_used(&self) -> bool {
        self.used
    }

    /// It belongs to a server that keeps none.
    pub(crate) fn wipe(&mut self) {
        let (config, next_config) = (self.config.take(), self.next_config.take());
        *self = Self {
            config,
            next_config,
            ..Self::default()
        };
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Writes the first `count` of what waits; tells what the log's writer reports.
    pub(crate) fn flush(&mut self, count: usize) -> Vec<Input> {
        let mut reports = Vec::new();
        for op in self
            .waiting
            .drain(..count.min(self.waiting.len()))
            .collect::<Vec<_>>()
        {
            let report = self.execute(op);
            if let (Input::Flushed(_), Some(last @ Input::Flushed(_))) =
                (&report, reports.last_mut())
            {
                *last = report;
            } else {
                reports.push(report);
            }
        }
        reports
    }

    pub(crate) fn flush_all(&mut self) -> Vec<Input> {
        self.flush(usize::MAX)
    }

    /// The process dies: some of what waits was written.
    pub(crate) fn crash(&mut self, written: usize) {
        let _ = self.flush(written.min(self.waiting.len()));
        self.waiting.clear();
    }

    pub(crate) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    fn execute(&mut self, op: LogOp) -> Input {
        match op {
            LogOp::Append(proposal) => {
                let zxid = proposal.zxid;
                let last = self
                    .log
                    .last()
                    .map_or_else(|| end_of(&self.snapshot), |p| p.zxid);
                assert!(zxid.follows(last), "the log gets {zxid} after {last}");
                self.log.push(proposal);
                Input::Flushed(zxid)
            }
            LogOp::Truncate(zxid) => {
                if end_of(&self.snapshot) > zxid {
                    self.snapshot.clear();
                    self.log.clear();
                }
                self.log.retain(|p| p.zxid <= zxid);
                Input::Truncated(end_of(&self.tree()))
            }
            LogOp::SaveSnapshot(zxid, tree) => {
                assert_eq!(end_of(&tree), zxid);
                self.snapshot = tree;
                self.log.clear();
                Input::SnapshotSaved(zxid)
            }
        }
    }

    /// What a start finds.
    pub(crate) fn tree(&self) -> Tree {
        self.snapshot.iter().chain(&self.log).cloned().collect()
    }

    pub(crate) fn recovered(&self) -> Recovered {
        Recovered {
            accepted_epoch: self.accepted_epoch,
            current_epoch: self.current_epoch,
            last_zxid: end_of(&self.tree()),
            recent: self.log.clone(),
            last_seen_config: self.next_config.clone(),
        }
    }
}
