//! The ensemble's membership as ZooKeeper writes it: `server.N` lines, the text of `/zookeeper/config`, and the
//! specifications that `reconfig` takes.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::cluster::{Role, ServerId};

/// Who belongs to the ensemble, at one version.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Membership {
    /// The zxid of the change that made it; 0 before the first one. It is what `reconfig` compares and sets.
    pub version: u64,
    /// The servers by id.
    pub servers: BTreeMap<ServerId, Server>,
}

/// One server of the membership.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Server {
    /// Whether it votes.
    pub role: Role,
    /// Where the others reach it.
    pub address: Address,
}

/// Where a member is reached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Address {
    /// Host name or IP address.
    pub host: String,
    /// Learners connect to a leader here (2888).
    pub quorum_port: u16,
    /// Elections (3888).
    pub election_port: u16,
    /// Clients (2181).
    pub client_port: u16,
}

/// A text that is not a membership.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("not a line of a membership: {0:?}")]
pub struct BadMembership(String);

impl Membership {
    /// Reads the text of `/zookeeper/config` (or the end of the answer to `conf`).
    pub fn parse(text: &str) -> Result<Self, BadMembership> {
        let mut membership = Self::default();
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
            let bad = || BadMembership(line.to_owned());
            let (key, value) = line.split_once(['=', ':']).ok_or_else(bad)?;
            if key == "version" {
                membership.version = u64::from_str_radix(value, 16).map_err(|_| bad())?;
            } else if let Some(id) = key.strip_prefix("server.") {
                let id = ServerId(id.parse().map_err(|_| bad())?);
                membership
                    .servers
                    .insert(id, Server::parse(value).ok_or_else(bad)?);
            }
        }
        Ok(membership)
    }

    /// The servers that vote.
    pub fn voters(&self) -> impl Iterator<Item = ServerId> {
        self.with_role(Role::Voter)
    }

    /// The servers of one role.
    pub fn with_role(&self, role: Role) -> impl Iterator<Item = ServerId> {
        let servers = self.servers.iter();
        servers
            .filter(move |(_, server)| server.role == role)
            .map(|(id, _)| *id)
    }

    /// The role of a server; none when it does not belong.
    pub fn role(&self, id: ServerId) -> Option<Role> {
        self.servers.get(&id).map(|server| server.role)
    }

    /// Votes that make a majority.
    pub fn quorum(&self) -> usize {
        self.voters().count() / 2 + 1
    }

    /// The `server.N:host:2888:3888[:observer]` lines of a `zoo.cfg`.
    pub fn lines(&self) -> Vec<String> {
        let servers = self.servers.iter();
        servers
            .map(|(id, server)| format!("server.{id}:{server}"))
            .collect()
    }
}

impl Server {
    /// Reads `host:quorum:election[:role][;[clientHost:]clientPort]`.
    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split(';');
        let (peers, client) = (parts.next()?, parts.next());
        let client_port = match client {
            None | Some("") => 0,
            Some(client) => client.rsplit(':').next()?.trim().parse().ok()?,
        };
        let (peers, role) = match peers.rsplit_once(':') {
            Some((rest, role)) if role.eq_ignore_ascii_case("observer") => (rest, Role::Observer),
            Some((rest, role)) if role.eq_ignore_ascii_case("participant") => (rest, Role::Voter),
            _ => (peers, Role::Voter),
        };
        let mut fields = peers.trim().rsplitn(3, ':');
        let election_port = fields.next()?.parse().ok()?;
        let quorum_port = fields.next()?.parse().ok()?;
        let host = fields.next()?.to_owned();
        let address = Address {
            host,
            quorum_port,
            election_port,
            client_port,
        };
        Some(Self { role, address })
    }
}

impl Address {
    /// `host:port` for clients.
    pub fn client(&self) -> String {
        format!("{}:{}", self.host, self.client_port)
    }

    /// The specification of a server for `reconfig`, which wants the client address too.
    pub fn reconfig_spec(&self, id: ServerId, role: Role) -> String {
        let Self {
            host,
            quorum_port,
            election_port,
            client_port,
        } = self;
        let role = match role {
            Role::Voter => "participant",
            Role::Observer => "observer",
        };
        format!("server.{id}={host}:{quorum_port}:{election_port}:{role};{host}:{client_port}")
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Address {
            host,
            quorum_port,
            election_port,
            ..
        } = &self.address;
        write!(f, "{host}:{quorum_port}:{election_port}")?;
        match self.role {
            Role::Voter => Ok(()),
            Role::Observer => f.write_str(":observer"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_apache_prints() {
        let text = "server.1=127.0.0.1:2888:3888:participant\n\
                    server.4=[::1]:2889:3889:observer;0.0.0.0:2184\nversion=100000002";
        let membership = Membership::parse(text).unwrap();
        assert_eq!(membership.version, 0x1_0000_0002);
        assert_eq!(membership.role(ServerId(1)), Some(Role::Voter));
        assert_eq!(membership.role(ServerId(4)), Some(Role::Observer));
        assert_eq!(membership.servers[&ServerId(4)].address.host, "[::1]");
        assert_eq!(membership.servers[&ServerId(4)].address.client_port, 2184);
        assert_eq!(membership.quorum(), 1);
        assert_eq!(
            membership.lines(),
            [
                "server.1:127.0.0.1:2888:3888",
                "server.4:[::1]:2889:3889:observer"
            ]
        );
    }

    #[test]
    fn refuses_what_is_not_a_membership() {
        assert!(Membership::parse("server.x=a:1:2").is_err());
        assert!(Membership::parse("server.1=a:1").is_err());
        assert!(Membership::parse("nonsense").is_err());
    }
}
