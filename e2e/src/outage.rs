//! When writes were acknowledged, and how long none was.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::report::{median, millis};

/// The times at which any writer got an acknowledgement.
#[derive(Debug, Default)]
pub struct Acknowledged {
    times: Mutex<Vec<Instant>>,
}

impl Acknowledged {
    /// Notes an acknowledgement now.
    pub fn now(&self) {
        let mut times = self.times.lock().expect("no holder of this lock panics");
        times.push(Instant::now());
    }

    /// How many were noted.
    #[must_use]
    pub fn count(&self) -> usize {
        self.times
            .lock()
            .expect("no holder of this lock panics")
            .len()
    }

    /// The longest time between two acknowledgements of which some part lies between `from` and `to`.
    #[must_use]
    pub fn longest_gap(&self, from: Instant, to: Instant) -> Duration {
        self.longest_gap_until(from, to).0
    }

    /// The same, and how long after `from` it ended: whether a fault made it, or its end.
    #[must_use]
    pub fn longest_gap_until(&self, from: Instant, to: Instant) -> (Duration, Duration) {
        let times = self.times.lock().expect("no holder of this lock panics");
        longest_gap(&times, from, to)
    }
}

fn longest_gap(times: &[Instant], from: Instant, to: Instant) -> (Duration, Duration) {
    let first = times.partition_point(|time| *time < from).saturating_sub(1);
    let last = times.partition_point(|time| *time < to);
    let inner = times
        .get(first..=last.min(times.len().saturating_sub(1)))
        .unwrap_or_default();
    let gap = |pair: &[Instant]| (pair[1] - pair[0], pair[1].saturating_duration_since(from));
    let gaps = inner.windows(2).map(gap);
    let end = times
        .last()
        .map_or(to - from, |last| to.saturating_duration_since(*last));
    gaps.chain([(end, to - from)]).max().unwrap_or_default()
}

/// The gaps after several events.
#[derive(Clone, Debug, Default)]
pub struct Gaps(Vec<Duration>);

impl Gaps {
    /// Takes the longest gap after each of `events`, up to the next one or `end`.
    #[must_use]
    pub fn after(events: &[Instant], end: Instant, acknowledged: &Acknowledged) -> Self {
        let ends = events.iter().skip(1).copied().chain([end]);
        Self(
            events
                .iter()
                .zip(ends)
                .map(|(from, to)| acknowledged.longest_gap(*from, to))
                .collect(),
        )
    }

    /// The longest of them.
    #[must_use]
    pub fn worst(&self) -> Duration {
        self.0.iter().max().copied().unwrap_or_default()
    }
}

impl std::fmt::Display for Gaps {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let best = self.0.iter().min().copied().unwrap_or_default();
        let middle = median(&self.0).unwrap_or_default();
        write!(
            f,
            "best {}, median {}, worst {}",
            millis(best),
            millis(middle),
            millis(self.worst())
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gap_counts_when_it_begins_before_the_event() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let times = [at(0), at(10), at(110), at(120)];
        let gap = |from, to| longest_gap(&times, at(from), at(to));
        let ms = Duration::from_millis;
        assert_eq!(gap(50, 115), (ms(100), ms(60)));
        assert_eq!(gap(111, 119), (ms(10), ms(9)));
        assert_eq!(gap(111, 400), (ms(280), ms(289)));
        assert_eq!(longest_gap(&[], at(0), at(5)), (ms(5), ms(5)));
    }
}
