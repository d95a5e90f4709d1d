//! ZooKeeper atomic broadcast (protocol reference §4): how one history of transactions gets onto all servers.
//!
//! A transaction is cargo here: an id and bytes.

use crate::proto::quorum::Proposal;
use crate::quorum::config::QuorumConfig;

pub(crate) mod history;
pub(crate) mod leader;
pub(crate) mod learner;
pub(crate) mod learner_link;
pub(crate) mod proposals;
pub(crate) mod sync;

/// The configuration in a proposal, if it is a reconfiguration.
fn reconfig(proposal: &Proposal) -> Result<Option<QuorumConfig>, String> {
    let Some(text) = proposal
        .reconfig()
        .map_err(|e| format!("reconfiguration {}: {e}", proposal.zxid))?
    else {
        return Ok(None);
    };
    QuorumConfig::parse(&text)
        .map(Some)
        .map_err(|e| format!("reconfiguration {}: {e}", proposal.zxid))
}
