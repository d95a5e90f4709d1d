//! Intervals, and how long another server may be silent before it counts as gone.

use crate::zxid::Time;

/// Every interval that the protocol knows, in milliseconds. The defaults say why each number is what it is.
#[derive(Clone, Debug)]
pub struct Timing {
    /// The unit of the two limits ("tickTime").
    pub tick_ms: u64,
    /// Ticks that a learner may take to connect and synchronize.
    pub init_limit: u32,
    /// Ticks that leader and learner may be silent at most.
    pub sync_limit: u32,
    /// How often a leader pings its learners, if half a tick is not less. It is also how often a server that has a
    /// leader looks at the clock, so that it notices its own pauses.
    pub ping_ms: u64,
    /// The least silence after which leader or quorum count as gone; see [`Silence`].
    pub silence_min_ms: u64,
    /// How long an election waits for a better vote when some voters have not voted.
    pub finalize_wait_ms: u64,
    /// How long votes must stand still before a candidate that has no quorum is given up for one that may get it.
    pub give_up_ms: u64,
    /// How long a leader that was lost is not voted for, nor a candidate that was given up.
    pub avoid_ms: u64,
    /// The first interval at which votes are sent again; it doubles each time.
    pub resend_min_ms: u64,
    /// The last one.
    pub resend_max_ms: u64,
    /// The last one of a server that has no vote to give, and only asks who leads.
    pub ask_max_ms: u64,
    /// Pause between two attempts to connect to the leader.
    pub dial_pause_ms: u64,
    /// Attempts to connect to the leader.
    pub dial_attempts: u32,
    /// How long all attempts together may take. It doubles with each leader that did not come to lead.
    pub connect_ms: u64,
    /// How long a leader waits for a quorum to connect. It doubles likewise.
    pub discovery_ms: u64,
    /// How long a learner that connects before its leader is elected is kept.
    pub early_learner_ms: u64,
    /// How long a leader that resigned waits for its last proposals, and stands back in the election after it.
    pub resign_ms: u64,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            tick_ms: 2000,
            init_limit: 10,
            sync_limit: 5,
            // Five small packets in a second to each learner cost nothing that can be measured.
            ping_ms: 200,
            // Six pings in a row must be missing. A process that wants to run waits for a core for tens of
            // milliseconds where all are busy, not for a second; and with an election of some 100 ms after it a
            // leader that hangs is replaced well within 2 s.
            silence_min_ms: 1200,
            // Apache's.
            finalize_wait_ms: 200,
            // A vote and its answer take a few milliseconds; this leaves room for servers that are busy.
            give_up_ms: 250,
            // Some elections long: the others need one without it, and if it is the only one that can lead, its
            // ensemble does not wait long for that to be tried.
            avoid_ms: 1500,
            // Apache's.
            resend_min_ms: 200,
            resend_max_ms: 60_000,
            // Nobody tells such a server when there is a leader: it must ask, and finds none as long as the others elect.
            ask_max_ms: 1000,
            // Apache's.
            dial_pause_ms: 100,
            dial_attempts: 5,
            // A leader that is there accepts within milliseconds. One of Apache's opens its port only when it knows that
            // it is elected: 200 ms after the first who knows.
            connect_ms: 1000,
            // All who elected it know it within some 200 ms of each other and connect at once.
            discovery_ms: 1500,
            early_learner_ms: 1000,
            resign_ms: 2000,
        }
    }
}

impl Timing {
    pub(crate) fn init_ms(&self) -> u64 {
        self.tick_ms * u64::from(self.init_limit)
    }

    pub(crate) fn sync_ms(&self) -> u64 {
        self.tick_ms * u64::from(self.sync_limit)
    }

    /// How often a leader pings.
    pub(crate) fn beat_ms(&self) -> u64 {
        self.ping_ms.min(self.tick_ms / 2).max(1)
    }

    /// `ms`, doubled for each setback, within what a learner may take.
    pub(crate) fn doubled(&self, ms: u64, setbacks: u32) -> u64 {
        let factor = 1_u64 << setbacks.min(16);
        ms.saturating_mul(factor).min(self.init_ms())
    }
}

/// How many of the longest recent gaps between beats may pass in silence. Three beats may get lost in a stall.
const GAPS: u64 = 4;

/// The weight of the latest gap when it is shorter than the longest recent one: that is forgotten over some 16 beats.
const FORGET: u64 = 16;

/// Watches one server that sends beats (a leader's pings, a learner's answers), and says when it has been silent for too
/// long. How long that is follows from how it beats: Apache's leaders ping every half tick, ours much more often, and a
/// server that stalls now and then gets more time than one that never does.
///
/// What this server itself has slept is not the other's silence: see [`excuse`](Self::excuse).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Silence {
    /// When it was last heard.
    heard_at: Time,
    /// The same, later by what this server has slept since.
    quiet_since: Time,
    /// When its last beat came, later by the same.
    beat_at: Option<Time>,
    /// The longest recent gap between two beats; unknown before the second.
    gap_ms: Option<u64>,
    /// After a long sleep: what has arrived meanwhile is read first.
    not_before: Time,
}

impl Silence {
    pub(crate) fn new(now: Time) -> Self {
        Self {
            heard_at: now,
            quiet_since: now,
            beat_at: None,
            gap_ms: None,
            not_before: now,
        }
    }

    /// Something came from it.
    pub(crate) fn heard(&mut self, now: Time) {
        self.heard_at = now;
        self.quiet_since = now;
    }

    /// A beat came.
    pub(crate) fn beat(&mut self, now: Time) {
        self.heard(now);
        if let Some(last) = self.beat_at.replace(now) {
            let gap = now.0.saturating_sub(last.0);
            let longest = self.gap_ms.unwrap_or(gap);
            let faded = longest.saturating_sub(longest.saturating_sub(gap).div_ceil(FORGET));
            self.gap_ms = Some(gap.max(faded));
        }
    }

    /// This server has slept for `ms`.
    pub(crate) fn excuse(&mut self, now: Time, ms: u64, timing: &Timing) {
        self.quiet_since = self.quiet_since.after(ms).min(now);
        self.beat_at = self.beat_at.map(|at| at.after(ms).min(now));
        if ms >= timing.silence_min_ms {
            self.not_before = now.after(2 * timing.beat_ms());
        }
    }

    /// How long it may be silent.
    fn limit_ms(&self, timing: &Timing) -> u64 {
        let longest = timing.sync_ms();
        self.gap_ms.map_or(longest, |gap| {
            (GAPS * gap).max(timing.silence_min_ms).min(longest)
        })
    }

    /// When it counts as gone unless it is heard.
    pub(crate) fn ends_at(&self, timing: &Timing) -> Time {
        self.quiet_since
            .after(self.limit_ms(timing))
            .max(self.not_before)
    }

    /// Until when it is certain that it was there not long ago, however long this server has slept.
    pub(crate) fn fresh_until(&self, timing: &Timing) -> Time {
        self.heard_at.after(self.limit_ms(timing))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Beats at these times, and when silence counts after the last.
    fn limit(beats: impl IntoIterator<Item = u64>) -> u64 {
        let mut silence = Silence::new(Time(0));
        let mut last = 0;
        for at in beats {
            silence.beat(Time(at));
            last = at;
        }
        silence.ends_at(&Timing::default()).0 - last
    }

    #[test]
    fn a_server_that_was_not_heard_twice_gets_the_whole_limit() {
        assert_eq!(limit([]), 10_000);
        assert_eq!(limit([200]), 10_000);
    }

    #[test]
    fn who_pings_often_is_missed_soon_and_apaches_leader_later() {
        assert_eq!(limit((1..50).map(|n| n * 200)), 1200);
        assert_eq!(limit((1..50).map(|n| n * 1000)), 4000);
        assert_eq!(limit((1..50).map(|n| n * 5000)), 10_000);
    }

    #[test]
    fn who_stalls_gets_more_time_for_a_while() {
        let stalled = |after: u64| limit((1..10).chain(14..14 + after).map(|n| n * 200));
        assert_eq!(stalled(1), 4000);
        assert!((1500..3000).contains(&stalled(12)), "{}", stalled(12));
        assert_eq!(stalled(100), 1200);
    }

    #[test]
    fn an_own_pause_is_not_the_others_silence() {
        let timing = Timing::default();
        let mut silence = Silence::new(Time(0));
        (1..10).for_each(|n| silence.beat(Time(n * 200)));
        // Asleep from 2,900, 100 ms before the time is up, until 10,000.
        silence.excuse(Time(10_000), 7_100, &timing);
        assert_eq!(silence.ends_at(&timing), Time(10_400));
        assert_eq!(silence.fresh_until(&timing), Time(3_000));
        // What had arrived is a beat after the usual gap, not after seven seconds.
        silence.beat(Time(10_001));
        assert_eq!(silence.ends_at(&timing), Time(10_001 + 4 * 1101));
    }
}
