//! What the driver tells of itself to those who ask: four-letter words and metrics.

use node_core::proto::election::PeerState;
use node_core::zxid::{Epoch, ServerId, Zxid};

use crate::storage::log_writer::DiskState;

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
    /// Whether the disk takes what the log gives it. If not, nothing is acknowledged.
    pub disk: DiskState,
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
            disk: DiskState::Works,
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
    /// The zxid that `srvr` and `stat` tell, of a server that applied this one last. As with Apache, a leader shows the
    /// epoch that it leads in before anything was written in it: that tells the new leader from an old one which does
    /// not know yet.
    #[must_use]
    pub fn shown_zxid(&self, applied: Zxid) -> Zxid {
        match self.state {
            PeerState::Leading if !self.standalone => applied.max(self.epoch.start()),
            _ => applied,
        }
    }

    /// What a person should know of the disk: a line, or nothing.
    #[must_use]
    pub fn disk_line(&self) -> String {
        match self.disk {
            DiskState::Works => String::new(),
            state => format!("Disk {}\n", state.word()),
        }
    }

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leader_shows_its_epoch_before_anything_is_written_in_it() {
        let (old, new) = (Zxid::new(Epoch(2), 7), Zxid::new(Epoch(3), 1));
        let mut status = Status {
            epoch: Epoch(3),
            ..Status::default()
        };
        assert_eq!(status.shown_zxid(old), old);
        status.state = PeerState::Leading;
        assert_eq!(status.shown_zxid(old), Zxid::new(Epoch(3), 0));
        assert_eq!(status.shown_zxid(new), new);
        status.standalone = true;
        assert_eq!(status.shown_zxid(old), old);
    }
}
