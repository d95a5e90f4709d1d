//! Whose turn is it? One pass at a time for each ensemble, each when it is due. Pure: the time is an argument.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use tokio::time::Instant;

/// An ensemble.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// `metadata.namespace`.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
}

/// What is due when. `M` is kept for each ensemble from one pass to the next.
#[derive(Debug)]
pub(super) struct Queue<M> {
    slots: BTreeMap<Key, Slot<M>>,
}

#[derive(Debug)]
struct Slot<M> {
    due: Instant,
    /// No pass before this: what happens in bursts is looked at once.
    not_before: Instant,
    /// None while a pass runs.
    memory: Option<M>,
    /// Something happened while a pass ran.
    again: bool,
}

impl<M: Default> Queue<M> {
    pub(super) fn new() -> Self {
        Self {
            slots: BTreeMap::new(),
        }
    }

    /// Something happened to an ensemble.
    pub(super) fn poke(&mut self, key: Key, now: Instant) {
        let slot = self.slots.entry(key).or_insert_with(|| Slot {
            due: now,
            not_before: now,
            memory: Some(M::default()),
            again: false,
        });
        slot.due = slot.due.min(now.max(slot.not_before));
        slot.again |= slot.memory.is_none();
    }

    /// Takes the ensemble that has been due for longest.
    pub(super) fn take(&mut self, now: Instant) -> Option<(Key, M)> {
        let waiting = self
            .slots
            .iter_mut()
            .filter(|(_, slot)| slot.memory.is_some() && slot.due <= now);
        let (key, slot) = waiting.min_by_key(|(_, slot)| slot.due)?;
        slot.again = false;
        slot.memory.take().map(|memory| (key.clone(), memory))
    }

    /// A pass is over; the next one is due after `pause`, or after `gap` when something happened meanwhile.
    pub(super) fn give_back(
        &mut self,
        key: &Key,
        memory: M,
        now: Instant,
        pause: Duration,
        gap: Duration,
    ) {
        if let Some(slot) = self.slots.get_mut(key) {
            slot.memory = Some(memory);
            slot.not_before = now + gap;
            slot.due = now + if slot.again { gap.min(pause) } else { pause };
        }
    }

    /// When the next one is due; none when there is nobody to wait for.
    pub(super) fn due(&self) -> Option<Instant> {
        let waiting = self.slots.values().filter(|slot| slot.memory.is_some());
        waiting.map(|slot| slot.due).min()
    }

    /// An ensemble is no more.
    pub(super) fn forget(&mut self, key: &Key) {
        self.slots.remove(key);
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAUSE: Duration = Duration::from_secs(5);
    const GAP: Duration = Duration::from_millis(200);

    fn key(name: &str) -> Key {
        Key {
            namespace: "ns".into(),
            name: name.into(),
        }
    }

    #[test]
    fn one_pass_at_a_time_and_what_happens_meanwhile_is_not_lost() {
        let (mut queue, now) = (Queue::<u32>::new(), Instant::now());
        queue.poke(key("a"), now);
        let (a, memory) = queue.take(now).unwrap();
        queue.poke(key("a"), now);
        assert_eq!(queue.take(now), None, "a pass runs already");
        queue.give_back(&a, memory + 1, now, PAUSE, GAP);
        assert_eq!(queue.take(now), None, "not before the gap is over");
        assert_eq!(queue.take(now + GAP), Some((key("a"), 1)));
        queue.give_back(&a, 1, now + GAP, PAUSE, GAP);
        assert_eq!(queue.due(), Some(now + GAP + PAUSE));
    }

    #[test]
    fn the_one_that_has_waited_longest_goes_first() {
        let (mut queue, now) = (Queue::<u32>::new(), Instant::now());
        queue.poke(key("b"), now);
        queue.poke(key("a"), now + GAP);
        let later = now + PAUSE;
        assert_eq!(queue.take(later).unwrap().0, key("b"));
        assert_eq!(queue.take(later).unwrap().0, key("a"));
        assert_eq!(queue.due(), None);
    }

    #[test]
    fn a_poke_cuts_a_pause_short_but_not_the_gap() {
        let (mut queue, now) = (Queue::<u32>::new(), Instant::now());
        queue.poke(key("a"), now);
        let (a, memory) = queue.take(now).unwrap();
        queue.give_back(&a, memory, now, PAUSE, GAP);
        queue.poke(key("a"), now);
        assert_eq!(queue.due(), Some(now + GAP));
        queue.forget(&a);
        assert_eq!(queue.due(), None);
    }
}
