//! A disk: what was flushed survives a crash, what waits may be lost from any point on. It holds what a real one holds:
//! the bytes of transactions and of snapshots.

use std::collections::VecDeque;
use std::rc::Rc;

use node_core::effect::Input;
use node_core::peer::Recovered;
use node_core::proto::quorum::Proposal;
use node_core::proto::txn::TxnEntry;
use node_core::quorum::config::QuorumConfig;
use node_core::replica::Replica;
use node_core::tree::{ImageReader, TreeOptions};
use node_core::zxid::{Epoch, Zxid};

use crate::rng::Rng;

/// Snapshots that are kept.
const KEPT: usize = 3;

/// A replica, and for the checkers which transactions made it.
pub(crate) struct Tree {
    pub(crate) replica: Replica,
    pub(crate) history: Vec<Zxid>,
}

impl Tree {
    pub(crate) fn new() -> Self {
        Self {
            replica: Replica::new(TreeOptions::default()),
            history: Vec::new(),
        }
    }

    /// The whole of it as it is now.
    pub(crate) fn image(&mut self) -> Image {
        let mut bytes = Vec::new();
        let id = self.replica.begin_snapshot();
        while !self.replica.snapshot_chunk(id, 64, &mut bytes) {}
        self.replica.end_snapshot(id);
        Image {
            zxid: self.replica.last_zxid(),
            digest: self.replica.tree().digest(),
            bytes: bytes.into(),
            history: self.history.clone().into(),
        }
    }
}

/// A snapshot.
#[derive(Clone)]
pub(crate) struct Image {
    pub(crate) zxid: Zxid,
    pub(crate) digest: Option<i64>,
    pub(crate) bytes: Rc<[u8]>,
    pub(crate) history: Rc<[Zxid]>,
}

impl Image {
    /// Reads it in pieces of any size.
    pub(crate) fn restore(&self, rng: &mut Rng) -> Tree {
        let mut reader = ImageReader::new(TreeOptions::default());
        let mut rest = &self.bytes[..];
        loop {
            let len = (rng.range(1, 2000) as usize).min(rest.len());
            let progress = reader.feed(&rest[..len]).expect("an image can be read");
            rest = &rest[progress.consumed..];
            if progress.done {
                break;
            }
            assert!(!rest.is_empty(), "the image ends early");
        }
        let restored = reader.finish().expect("an image is complete");
        let replica = Replica::restored(restored, self.zxid);
        assert_eq!(replica.tree().digest(), self.digest, "after {}", self.zxid);
        Tree {
            replica,
            history: self.history.to_vec(),
        }
    }
}

pub(crate) enum LogOp {
    Append(Proposal),
    Truncate(Zxid),
    /// The history begins with this; nothing older counts.
    SaveSnapshot(Image),
    /// Taken while the log goes on.
    Snapshot(Image),
}

#[derive(Default)]
pub(crate) struct Disk {
    pub(crate) accepted_epoch: Epoch,
    pub(crate) current_epoch: Epoch,
    pub(crate) config: Option<QuorumConfig>,
    pub(crate) next_config: Option<QuorumConfig>,
    used: bool,
    snapshots: Vec<Image>,
    /// From the oldest snapshot on.
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

    /// Writes the first `count` of what waits; tells what the log's writer reports, and which transactions were written.
    pub(crate) fn flush(&mut self, count: usize) -> (Vec<Input>, Vec<Zxid>) {
        let (mut reports, mut written) = (Vec::new(), Vec::new());
        for op in self
            .waiting
            .drain(..count.min(self.waiting.len()))
            .collect::<Vec<_>>()
        {
            let Some(report) = self.execute(op) else {
                continue;
            };
            if let Input::Flushed(zxid) = report {
                written.push(zxid);
            }
            if let (Input::Flushed(_), Some(last @ Input::Flushed(_))) =
                (&report, reports.last_mut())
            {
                *last = report;
            } else {
                reports.push(report);
            }
        }
        (reports, written)
    }

    pub(crate) fn flush_all(&mut self) -> (Vec<Input>, Vec<Zxid>) {
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

    fn execute(&mut self, op: LogOp) -> Option<Input> {
        match op {
            LogOp::Append(proposal) => {
                let (zxid, last) = (proposal.zxid, self.end());
                assert!(zxid.follows(last), "the log gets {zxid} after {last}");
                self.log.push(proposal);
                Some(Input::Flushed(zxid))
            }
            LogOp::Truncate(zxid) => {
                let had_snapshot = !self.snapshots.is_empty();
                self.snapshots.retain(|image| image.zxid <= zxid);
                if had_snapshot && self.snapshots.is_empty() {
                    // The log alone does not begin at the beginning.
                    self.log.clear();
                }
                self.log.retain(|p| p.zxid <= zxid);
                Some(Input::Truncated(self.end()))
            }
            LogOp::SaveSnapshot(image) => {
                let zxid = image.zxid;
                self.snapshots = vec![image];
                self.log.clear();
                Some(Input::SnapshotSaved(zxid))
            }
            LogOp::Snapshot(image) => {
                self.add_snapshot(image);
                None
            }
        }
    }

    fn add_snapshot(&mut self, image: Image) {
        let newest = self.snapshots.last().map_or(Zxid::ZERO, |s| s.zxid);
        // It was taken from a history that is no more, or is no newer.
        let is_ours = self.log.iter().any(|p| p.zxid == image.zxid);
        if image.zxid <= newest || !is_ours {
            return;
        }
        self.snapshots.push(image);
        if self.snapshots.len() > KEPT {
            self.snapshots.remove(0);
            let oldest = self.snapshots[0].zxid;
            self.log.retain(|p| p.zxid > oldest);
        }
    }

    pub(crate) fn end(&self) -> Zxid {
        let snapshot = self.snapshots.last().map_or(Zxid::ZERO, |s| s.zxid);
        self.log.last().map_or(snapshot, |p| p.zxid.max(snapshot))
    }

    /// What a start finds.
    pub(crate) fn tree(&self, rng: &mut Rng) -> Tree {
        let mut tree = self
            .snapshots
            .last()
            .map_or_else(Tree::new, |image| image.restore(rng));
        let from = tree.replica.last_zxid();
        for proposal in self.log.iter().filter(|p| p.zxid > from) {
            let entry = TxnEntry::decode(proposal.data.clone()).expect("a log entry");
            tree.replica.apply(&entry.header, &entry.txn);
            tree.history.push(proposal.zxid);
        }
        tree
    }

    pub(crate) fn recovered(&self, recent: usize) -> Recovered {
        let skipped = self.log.len().saturating_sub(recent);
        Recovered {
            accepted_epoch: self.accepted_epoch,
            current_epoch: self.current_epoch,
            last_zxid: self.end(),
            recent: self.log[skipped..].to_vec(),
            last_seen_config: self.next_config.clone(),
            ..Recovered::default()
        }
    }
}
