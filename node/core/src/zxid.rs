//! The numbers that everything is counted by: transaction ids, epochs, server and session ids.

use std::fmt;

/// The number of an epoch: one for each established leader.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch(pub i64);

impl Epoch {
    /// The epoch after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }

    /// The zxid that stands for the start of this epoch (counter 0): what NEWLEADER carries.
    #[must_use]
    pub fn start(self) -> Zxid {
        Zxid(self.0 << 32)
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// A transaction id: the epoch in the high 32 bits, a counter in the low ones. Shown in hex, as ZooKeeper's tools do.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Zxid(pub i64);

impl Zxid {
    /// The zxid before any transaction.
    pub const ZERO: Self = Self(0);

    /// Puts an epoch and a counter together.
    #[must_use]
    pub fn new(epoch: Epoch, counter: u32) -> Self {
        Self(epoch.0 << 32 | i64::from(counter))
    }

    /// The epoch in which the transaction was proposed.
    #[must_use]
    pub fn epoch(self) -> Epoch {
        Epoch(self.0 >> 32)
    }

    /// The place within the epoch; 0 means that nothing was proposed in it yet.
    #[must_use]
    pub fn counter(self) -> u32 {
        (self.0 & 0xffff_ffff) as u32
    }

    /// The next zxid of the same epoch, or `None` when the counter is used up: then a new epoch must begin.
    #[must_use]
    pub fn next(self) -> Option<Self> {
        (self.counter() < u32::MAX - 1).then_some(Self(self.0 + 1))
    }

    /// Whether `self` may directly follow `before` in a history: the next counter, or the first of a later epoch.
    #[must_use]
    pub fn follows(self, before: Self) -> bool {
        self.0 == before.0 + 1 || (self.epoch() > before.epoch() && self.counter() <= 1)
    }
}

impl fmt::Display for Zxid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

impl fmt::Debug for Zxid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

/// A server's id (`myid`, "sid").
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServerId(pub i64);

impl fmt::Display for ServerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// A session's id; its top byte names the server that created it.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(pub i64);

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

/// A point in time, in milliseconds since an arbitrary start that never goes back. The core gets it as an argument.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time(pub u64);

impl Time {
    /// The time `ms` milliseconds later.
    #[must_use]
    pub fn after(self, ms: u64) -> Self {
        Self(self.0.saturating_add(ms))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_zxid_is_an_epoch_and_a_counter() {
        let zxid = Zxid::new(Epoch(2), 7);
        assert_eq!(
            (zxid.0, zxid.epoch(), zxid.counter()),
            (0x2_0000_0007, Epoch(2), 7)
        );
        assert_eq!(zxid.to_string(), "0x200000007");
    }

    #[test]
    fn the_counter_ends_before_its_last_value() {
        assert_eq!(Zxid::new(Epoch(1), u32::MAX - 1).next(), None);
        assert_eq!(Zxid::new(Epoch(1), 5).next(), Some(Zxid::new(Epoch(1), 6)));
    }

    #[test]
    fn a_history_has_no_gaps() {
        let follows = |a: i64, b: i64| Zxid(b).follows(Zxid(a));
        assert!(follows(0x1_0000_0001, 0x1_0000_0002));
        assert!(follows(0x1_0000_0009, 0x3_0000_0001));
        assert!(!follows(0x1_0000_0001, 0x1_0000_0003));
        assert!(!follows(0x1_0000_0001, 0x2_0000_0002));
        assert!(!follows(0x2_0000_0001, 0x1_0000_0002));
    }
}
