//! What a leader knows of one learner.

use crate::local::Local;
use crate::timing::Silence;
use crate::zxid::{Epoch, ServerId, Time, Zxid};

/// What the leader waits for from one learner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LearnerState {
    /// The other learners.
    AwaitingEpoch { accepted: Epoch },
    /// Its agreement to the new epoch.
    AwaitingAckEpoch,
    /// The other learners. Whether it agreed to this epoch for the first time, which is what counts.
    AwaitingEpochQuorum { last_zxid: Zxid, promised: bool },
    /// Its word that it has the history.
    AwaitingNewLeaderAck,
    /// The other learners.
    AwaitingActivation,
    /// Nothing: it serves.
    Active,
}

#[derive(Debug)]
pub(crate) struct LearnerLink {
    pub(crate) id: ServerId,
    pub(crate) observer: bool,
    pub(crate) state: LearnerState,
    /// When it counts as gone unless it is heard.
    pub(crate) silent_at: Time,
    /// What it acknowledged before NEWLEADER.
    pub(crate) early_ack: Option<Zxid>,
    /// Its answers to pings, from when it serves.
    pub(crate) silence: Silence,
    /// A proposal that it has not acked and a later one, each with the time by which it must have.
    unacked: [Option<(Zxid, Time)>; 2],
}

impl LearnerLink {
    pub(crate) fn new(id: ServerId, observer: bool, state: LearnerState, silent_at: Time) -> Self {
        Self {
            id,
            observer,
            state,
            silent_at,
            early_ack: None,
            silence: Silence::new(Time(0)),
            unacked: [None, None],
        }
    }

    /// Whether new proposals are sent to it.
    pub(crate) fn forwarding(&self) -> bool {
        use LearnerState::{Active, AwaitingActivation, AwaitingNewLeaderAck};
        matches!(
            self.state,
            AwaitingNewLeaderAck | AwaitingActivation | Active
        )
    }

    /// How long it may be silent.
    pub(crate) fn limit_ms(&self, local: &Local) -> u64 {
        if self.state == LearnerState::Active {
            local.timing.sync_ms()
        } else {
            local.timing.init_ms()
        }
    }

    pub(crate) fn sent(&mut self, zxid: Zxid, give_up_at: Time) {
        if let Some(free) = self.unacked.iter_mut().find(|slot| slot.is_none()) {
            *free = Some((zxid, give_up_at));
        }
    }

    pub(crate) fn acked(&mut self, zxid: Zxid) {
        let [oldest, newest] = &mut self.unacked;
        if newest.is_some_and(|(sent, _)| sent <= zxid) {
            *newest = None;
        }
        if oldest.is_some_and(|(sent, _)| sent <= zxid) {
            *oldest = newest.take();
        }
    }

    /// This server has slept for `ms`.
    pub(crate) fn excuse(&mut self, now: Time, ms: u64, local: &Local) {
        self.silent_at = self.silent_at.after(ms);
        self.silence.excuse(now, ms, &local.timing);
        for (_, at) in self.unacked.iter_mut().flatten() {
            *at = at.after(ms);
        }
    }

    /// Who does not acknowledge what others have, holds up its clients. What nobody can commit is nobody's fault.
    pub(crate) fn gives_up_at(&self, committed: Zxid) -> Time {
        let late = self.unacked[0].filter(|(zxid, _)| *zxid <= committed);
        late.map_or(self.silent_at, |(_, at)| at.min(self.silent_at))
    }
}
