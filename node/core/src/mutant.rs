//! Bugs that are put back on purpose, to prove that the simulator finds them. Only the feature `mutants` makes this a part of
//! the crate; without it `mutant!` is the word `false`. The server never has the feature.
//!
//! Most are Apache ZooKeeper's own, by the number of their issue.

#[cfg(feature = "mutants")]
use std::cell::Cell;

/// Whether a mutant is on, or one of several, by their names.
#[cfg(feature = "mutants")]
macro_rules! mutant {
    ($($name:ident)|+) => {
        ($($crate::mutant::is($crate::mutant::Mutant::$name))||+)
    };
}

/// Whether a mutant is on, by its name: there is none in this build.
#[cfg(not(feature = "mutants"))]
macro_rules! mutant {
    ($($name:ident)|+) => {
        false
    };
}

#[cfg(feature = "mutants")]
macro_rules! mutants {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// One bug.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Mutant {
            $($(#[$doc])* $name,)*
        }

        impl Mutant {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$name,)*];
        }
    };
}

#[cfg(feature = "mutants")]
mutants! {
    /// A follower remembers the new epoch before it has that epoch's history.
    Zk4643,
    /// A follower acknowledges NEWLEADER before the history is on disk.
    Zk4646,
    /// A commit between NEWLEADER and UPTODATE ends the follower.
    Zk4394,
    /// A commit between NEWLEADER and UPTODATE is forgotten.
    Zk3023,
    /// A follower acknowledges a proposal before NEWLEADER, and its leader gives up for that.
    Zk4685,
    /// What a follower has not flushed when it loses its leader is written later all the same.
    Zk4712,
    /// After a truncation the tree keeps what the log has lost.
    Zk2845,
    /// A follower applies what it got with the DIFF before a quorum has it.
    Zk3911,
    /// A snapshot from the leader counts before it is whole on disk.
    Zk3642,
    /// What is proposed between NEWLEADER and UPTODATE does not reach the follower's disk.
    Zk4785,
    /// A follower forgets what it got with the DIFF, and as a leader hands the gap on.
    Zk4925,
    /// A `check` of its own changes the node.
    Zk2623,
    /// A session that is closing may still create nodes.
    Zk1208,
    /// The end of a session does not take along what it is just creating.
    Zk2355,
    /// After a snapshot it is forgotten which nodes belong to which session.
    Zk4837,
    /// A client may come back to a server that has seen less than the client: neither that server nor its leader looks.
    NoLastZxidSeen,
    /// A follower acknowledges proposals that are not on its disk.
    AckBeforeFsync,
    /// A leader counts itself before the proposal is on its disk.
    LeaderAckBeforeFsync,
    /// A leader begins an epoch before its history is on its disk.
    LeaderEpochBeforeHistory,
    /// A reconfiguration is committed by a quorum of the old configuration alone.
    ReconfigOldQuorum,
    /// Promises for an epoch that was promised before count once more.
    EpochPromisedTwice,
    /// A promised epoch is not remembered over a restart.
    EpochPromiseForgotten,
    /// Acknowledgements of a follower that has gone still count.
    GoneFollowersAcks,
    /// A follower that has more than its leader keeps it.
    NoTruncation,
    /// A watch fires after the reply that shows the change.
    WatchAfterReply,
    /// A client that comes back is not told what its watches missed.
    MissedWatches,
    /// A session may write through the connection that it has left.
    MovedSessionWrites,
    /// The leader does not hear of the sessions that are active at followers.
    UntouchedSessions,
    /// A follower takes a write for done when it is proposed.
    ReplyBeforeCommit,
    /// A server sends requests to a later leader though it has not seen all epochs in between.
    ResentAcrossEpochs,
    /// A request that the lost leader committed is sent to the next one once more.
    ResentThoughCommitted,
    /// A connection that its client has left goes on with the next leader.
    StaysThoughMoved,
    /// An observer and a voter in different rounds answer each other for ever.
    VotesForEver,
    /// No bug but a habit of Apache's followers, which a leader has to bear: a proposal is acknowledged before NEWLEADER.
    EarlyAck,
}

#[cfg(feature = "mutants")]
thread_local! {
    static ACTIVE: Cell<Option<Mutant>> = const { Cell::new(None) };
}

/// Puts a bug back, for everything that runs on this thread; `None` takes it away again.
#[cfg(feature = "mutants")]
pub fn put_back(mutant: Option<Mutant>) {
    ACTIVE.set(mutant);
}

/// Whether a bug is there.
#[cfg(feature = "mutants")]
#[must_use]
pub fn is(mutant: Mutant) -> bool {
    ACTIVE.get() == Some(mutant)
}
