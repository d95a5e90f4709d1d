//! What the driver tells of itself to those who ask: four-letter words and metrics.

use node_core::proto::election::PeerState;
use node_core::zxid::{Epoch, ServerId, Zxid};

/// See the module.
#[derive(Clone, Debug)]
pub struct Status {
    /// What the server is doing.
    pub state: PeerState,
    /// Whether it is the only one, and was set up to be.
    pub standalone: bool,
    /// Whether clients are served.
    pub serving: bool,
    /// The epoch of its history.
    pub epoch: Epoch,
    /// Whom it follows, itself when it leads.
    pub leader: Option<ServerId>,
    /// The end of its log.
    pub last_logged: Zxid,
    /// Requests that wait for their commit.
    pub outstanding: usize,
    /// On the leader: followers in sync.
    pub synced_followers: usize,
    /// On the leader: followers in sync without a vote.
    pub synced_non_voting: usize,
    /// On the leader: observers in sync.
    pub synced_observers: usize,
    /// Sizes of proposals on the leader: last, smallest, largest.
    pub proposal_sizes: Option<(usize, usize, usize)>,
    /// The configuration in force.
    pub config: String,
    /// Voters in it.
    pub quorum_size: usize,
}

impl Default for Status {
    fn default() -> Self {
        Self {
            state: PeerState::Looking,
            standalone: false,
            serving: false,
            epoch: Epoch(0),
            leader: None,
            last_logged: Zxid::ZERO,
            outstanding: 0,
            synced_followers: 0,
            synced_non_voting: 0,
            synced_observers: 0,
            proposal_sizes: None,
            config: String::new(),
            quorum_size: 0,
        }
    }
}

impl Status {
    /// As `srvr` and `mntr` call it.
    #[must_use]
    pub fn mode(&self) -> &'static str {
        match self.state {
            _ if self.standalone => "standalone",
            PeerState::Leading => "leader",
            PeerState::Following => "follower",
            PeerState::Observing => "observer",
            PeerState::Looking => "looking",
        }
    }
}
