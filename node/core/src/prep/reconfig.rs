//! `reconfig`: a new configuration of the ensemble as a transaction (protocol reference §6.3).

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::Check;
use crate::path;
use crate::proto::code::ErrorCode;
use crate::proto::data::perms;
use crate::proto::txn::Txn;
use crate::quorum::config::{Member, QuorumConfig};
use crate::zxid::{ServerId, Zxid};

/// What the leader knows about the ensemble when it checks a reconfiguration.
#[derive(Clone, Debug)]
pub struct ReconfigView<'a> {
    /// `reconfigEnabled`.
    pub enabled: bool,
    /// The committed configuration.
    pub current: &'a QuorumConfig,
    /// Whether another one is proposed and not yet committed.
    pub in_progress: bool,
    /// Servers that are connected and in sync, the leader included.
    pub synced: &'a BTreeSet<ServerId>,
    /// 1 where `standaloneEnabled` is false, else 2.
    pub min_voters: usize,
}

/// What the client asks for; a whole new list, or a difference.
#[derive(Clone, Debug, Default)]
pub(crate) struct Change {
    pub(crate) joining: Option<String>,
    pub(crate) leaving: Option<String>,
    pub(crate) new_members: Option<String>,
    /// The version that the client has seen, or −1: a compare-and-set.
    pub(crate) from_config: i64,
}

impl Check<'_> {
    pub(super) fn reconfig(
        &mut self,
        change: &Change,
        view: &ReconfigView<'_>,
    ) -> Result<Txn, ErrorCode> {
        if !view.enabled {
            return Err(ErrorCode::RECONFIG_DISABLED);
        }
        if view.in_progress {
            return Err(ErrorCode::RECONFIG_IN_PROGRESS);
        }
        if change.from_config != -1 && change.from_config != view.current.version.0 {
            return Err(ErrorCode::BAD_VERSION);
        }
        let config = new_config(change, view.current, self.stamp.zxid)?;
        if config.voters().count() < view.min_voters {
            return Err(ErrorCode::BAD_ARGUMENTS);
        }
        if !config.is_quorum_of(view.synced) {
            return Err(ErrorCode::NEW_CONFIG_NO_QUORUM);
        }
        let node = self.node(path::CONFIG).ok_or(ErrorCode::NO_NODE)?;
        self.permit(&node, perms::WRITE)?;
        let data = Some(Bytes::from(config.to_string()));
        Ok(Txn::Reconfig {
            path: path::CONFIG.to_owned(),
            data,
            version: -1,
        })
    }
}

fn new_config(
    change: &Change,
    current: &QuorumConfig,
    version: Zxid,
) -> Result<QuorumConfig, ErrorCode> {
    let bad = ErrorCode::BAD_ARGUMENTS;
    if let Some(members) = &change.new_members {
        let config = QuorumConfig::parse(&members.replace(',', "\n")).map_err(|_| bad)?;
        return Ok(config.with_version(version));
    }
    if current.is_hierarchical() {
        return Err(bad);
    }
    let mut members: BTreeMap<ServerId, Member> = current
        .members()
        .map(|(id, member)| (id, member.clone()))
        .collect();
    for id in items(change.leaving.as_deref()) {
        let id = id.parse().map_err(|_| ErrorCode::MARSHALLING_ERROR)?;
        members.remove(&ServerId(id));
    }
    for item in items(change.joining.as_deref()) {
        let (key, spec) = item.split_once('=').ok_or(bad)?;
        let id = key
            .trim()
            .strip_prefix("server.")
            .and_then(|id| id.parse().ok())
            .ok_or(bad)?;
        let member = Member::parse(spec.trim()).map_err(|_| bad)?;
        if member.client.is_none() && member.secure_client.is_none() {
            return Err(bad);
        }
        members.insert(ServerId(id), member);
    }
    if shares_an_address(&members) {
        return Err(bad);
    }
    Ok(QuorumConfig::new(members, version))
}

fn items(list: Option<&str>) -> impl Iterator<Item = &str> {
    list.unwrap_or_default()
        .split(',')
        .map(str::trim)
        .filter(|item| !item.is_empty())
}

/// Two servers that listen on the same port of the same host cannot both be there.
fn shares_an_address(members: &BTreeMap<ServerId, Member>) -> bool {
    let mut seen = BTreeSet::new();
    members.values().any(|member| {
        let quorum = member
            .addresses
            .iter()
            .map(|address| (address.host.as_str(), address.quorum_port));
        let election = member
            .addresses
            .iter()
            .map(|address| (address.host.as_str(), address.election_port));
        let client = member
            .client
            .iter()
            .map(|(host, port)| (host.as_str(), *port));
        let own: Vec<_> = quorum
            .chain(election)
            .chain(client.filter(|(host, _)| *host != "0.0.0.0"))
            .collect();
        own.into_iter().any(|address| !seen.insert(address))
    })
}
