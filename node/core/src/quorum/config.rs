//! The configuration of an ensemble: its servers, their roles, what counts as a quorum (protocol reference §6.1).
//!
//! The text form is what clients see in `/zookeeper/config` and what servers send to each other; it prints as it was read.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::verifier::{self, Hierarchy};
use crate::proto::election::{join_host_port, split_host_port};
use crate::zxid::{ServerId, Zxid};

/// What is wrong with the text of a configuration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line} of the configuration: {problem}: {text}")]
pub struct ConfigError {
    /// Counted from 1.
    pub line: usize,
    /// What is wrong.
    pub problem: &'static str,
    /// The line.
    pub text: String,
}

/// Where a server listens for its peers.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Address {
    /// Name or literal, as it was written, without brackets.
    pub host: String,
    /// For learners.
    pub quorum_port: u16,
    /// For elections.
    pub election_port: u16,
}

/// Whether a server votes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MemberRole {
    /// It does.
    #[default]
    Participant,
    /// It doesn't.
    Observer,
}

/// A server of the ensemble: the right side of `server.N=`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// At least one, sorted by host.
    pub addresses: Vec<Address>,
    /// Whether it votes.
    pub role: MemberRole,
    /// Where it listens for clients, if the configuration says so.
    pub client: Option<(String, u16)>,
    /// The same for clients with TLS.
    pub secure_client: Option<(String, u16)>,
}

/// The servers of an ensemble.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuorumConfig {
    /// The zxid of the reconfiguration that made it; 0 as long as it is just what the files say.
    pub version: Zxid,
    members: BTreeMap<ServerId, Member>,
    hierarchy: Option<Hierarchy>,
}

/// Where a client listener is bound when only its port is given.
const ANY_HOST: &str = "0.0.0.0";

impl QuorumConfig {
    /// A configuration of these servers in which the majority is a quorum.
    #[must_use]
    pub fn new(members: BTreeMap<ServerId, Member>, version: Zxid) -> Self {
        Self {
            version,
            members,
            hierarchy: None,
        }
    }

    /// The same servers under a new version.
    #[must_use]
    pub fn with_version(&self, version: Zxid) -> Self {
        Self {
            version,
            ..self.clone()
        }
    }

    /// Reads the text form. Lines that are neither servers, groups, weights nor the version are errors.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        let mut config = Self::new(BTreeMap::new(), Zxid::ZERO);
        let mut hierarchy = Hierarchy::default();
        for (index, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with(['#', '!']) {
                continue;
            }
            let result = config.parse_line(line, &mut hierarchy);
            result.map_err(|problem| ConfigError {
                line: index + 1,
                problem,
                text: line.to_owned(),
            })?;
        }
        if !hierarchy.group_of.is_empty() || !hierarchy.weights.is_empty() {
            if config
                .voters()
                .any(|id| !hierarchy.group_of.contains_key(&id))
            {
                let problem = "a voter is in no group";
                return Err(ConfigError {
                    line: text.lines().count(),
                    problem,
                    text: String::new(),
                });
            }
            config.hierarchy = Some(hierarchy);
        }
        Ok(config)
    }

    fn parse_line(&mut self, line: &str, hierarchy: &mut Hierarchy) -> Result<(), &'static str> {
        let (key, value) = split_property(line).ok_or("not a property")?;
        let number = |text: &str| text.trim().parse::<i64>().map_err(|_| "not a number");
        if let Some(id) = key.strip_prefix("server.") {
            self.members
                .insert(ServerId(number(id)?), Member::parse(&value)?);
        } else if let Some(group) = key.strip_prefix("group.") {
            for id in value.split(':') {
                if hierarchy
                    .group_of
                    .insert(ServerId(number(id)?), number(group)?)
                    .is_some()
                {
                    return Err("a server is in two groups");
                }
            }
        } else if let Some(id) = key.strip_prefix("weight.") {
            hierarchy
                .weights
                .insert(ServerId(number(id)?), number(&value)?);
        } else if key == "version" {
            self.version = i64::from_str_radix(&value, 16)
                .map(Zxid)
                .map_err(|_| "not a hexadecimal number")?;
        } else {
            return Err("unknown key");
        }
        Ok(())
    }

    /// The servers in the order of their ids.
    pub fn members(&self) -> impl Iterator<Item = (ServerId, &Member)> {
        self.members.iter().map(|(id, member)| (*id, member))
    }

    /// A server.
    #[must_use]
    pub fn member(&self, id: ServerId) -> Option<&Member> {
        self.members.get(&id)
    }

    /// Whether quorums are made of groups.
    #[must_use]
    pub fn is_hierarchical(&self) -> bool {
        self.hierarchy.is_some()
    }

    /// The servers that vote.
    pub fn voters(&self) -> impl Iterator<Item = ServerId> {
        let votes = |(id, member): (&ServerId, &Member)| {
            (member.role == MemberRole::Participant).then_some(*id)
        };
        self.members.iter().filter_map(votes)
    }

    /// Whether a server votes.
    #[must_use]
    pub fn is_voter(&self, id: ServerId) -> bool {
        self.members
            .get(&id)
            .is_some_and(|m| m.role == MemberRole::Participant)
    }

    /// Whether a server may be elected.
    #[must_use]
    pub fn may_lead(&self, id: ServerId) -> bool {
        self.hierarchy.as_ref().is_none_or(|h| h.weight(id) != 0)
    }

    /// Whether the voters that have it are a quorum.
    pub fn is_quorum(&self, has: impl Fn(ServerId) -> bool) -> bool {
        match &self.hierarchy {
            None => verifier::majority(self.voters(), has),
            Some(hierarchy) => verifier::hierarchical(hierarchy, self.voters(), has),
        }
    }

    /// [`Self::is_quorum`] of a set.
    #[must_use]
    pub fn is_quorum_of(&self, ids: &BTreeSet<ServerId>) -> bool {
        self.is_quorum(|id| ids.contains(&id))
    }

    /// Whether both name the same servers with the same addresses and roles, whatever their versions.
    #[must_use]
    pub fn same_members(&self, other: &Self) -> bool {
        self.members == other.members && self.hierarchy == other.hierarchy
    }
}

impl fmt::Display for QuorumConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (id, member) in &self.members {
            writeln!(f, "server.{id}={member}")?;
        }
        if let Some(hierarchy) = &self.hierarchy {
            let mut groups: BTreeMap<i64, Vec<String>> = BTreeMap::new();
            for (id, group) in &hierarchy.group_of {
                groups.entry(*group).or_default().push(id.to_string());
            }
            for (group, ids) in groups {
                writeln!(f, "group.{group}={}", ids.join(":"))?;
            }
            for (id, weight) in &hierarchy.weights {
                writeln!(f, "weight.{id}={weight}")?;
            }
        }
        write!(f, "version={:x}", self.version.0)
    }
}

impl Member {
    /// Reads the right side of `server.N=`.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let mut parts = text.trim().split(';');
        let peers = parts.next().unwrap_or_default();
        let client = parts.next().map(parse_client).transpose()?.flatten();
        let secure_client = parts.next().map(parse_client).transpose()?.flatten();
        if parts.next().is_some() {
            return Err("more than three parts between semicolons");
        }
        let mut addresses = Vec::new();
        let mut role = None;
        for text in peers.split('|') {
            let (address, its_role) = parse_address(text.trim())?;
            if role.is_some_and(|role| role != its_role) {
                return Err("the addresses of one server name different roles");
            }
            role = Some(its_role);
            addresses.push(address);
        }
        addresses.sort();
        let role = role.flatten().unwrap_or_default();
        Ok(Self {
            addresses,
            role,
            client,
            secure_client,
        })
    }
}

impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let peers = self.addresses.iter().map(|a| {
            format!(
                "{}:{}",
                join_host_port(&a.host, a.quorum_port),
                a.election_port
            )
        });
        f.write_str(&peers.collect::<Vec<_>>().join("|"))?;
        f.write_str(match self.role {
            MemberRole::Participant => ":participant",
            MemberRole::Observer => ":observer",
        })?;
        match (&self.client, &self.secure_client) {
            (Some((host, port)), _) => write!(f, ";{}", join_host_port(host, *port))?,
            (None, Some(_)) => f.write_str(";")?,
            (None, None) => {}
        }
        if let Some((host, port)) = &self.secure_client {
            write!(f, ";{}", join_host_port(host, *port))?;
        }
        Ok(())
    }
}

/// Key and value of a line of a properties file: separated by `=`, `:` or blanks; a backslash makes the next character
/// an ordinary one.
fn split_property(line: &str) -> Option<(String, String)> {
    let end = line.find(|c: char| c == '=' || c == ':' || c.is_whitespace())?;
    let (key, rest) = line.split_at(end);
    let rest = rest.trim_start();
    let value = rest.strip_prefix(['=', ':']).unwrap_or(rest).trim();
    Some((key.to_owned(), value.replace('\\', "")))
}

/// `host:quorum:election[:role]`; the host may be an IPv6 address in brackets.
fn parse_address(text: &str) -> Result<(Address, Option<MemberRole>), &'static str> {
    let (host, rest) = match text.strip_prefix('[') {
        Some(text) => text.split_once("]:").ok_or("no end of the bracket")?,
        None => text.split_once(':').ok_or("not host:port:port")?,
    };
    let mut parts = rest.split(':');
    let mut port = || {
        parts
            .next()
            .and_then(|p| p.trim().parse::<u16>().ok())
            .ok_or("not host:port:port")
    };
    let (quorum_port, election_port) = (port()?, port()?);
    if host.is_empty() {
        return Err("no host");
    }
    if quorum_port == election_port {
        return Err("the quorum port and the election port are the same");
    }
    let role = match parts.next().map(str::trim) {
        None => None,
        Some(role) if role.eq_ignore_ascii_case("participant") => Some(MemberRole::Participant),
        Some(role) if role.eq_ignore_ascii_case("observer") => Some(MemberRole::Observer),
        Some(_) => return Err("the role is neither participant nor observer"),
    };
    if parts.next().is_some() {
        return Err("too many parts between colons");
    }
    Ok((
        Address {
            host: host.to_owned(),
            quorum_port,
            election_port,
        },
        role,
    ))
}

/// `[host:]port`, or nothing.
fn parse_client(text: &str) -> Result<Option<(String, u16)>, &'static str> {
    let text = text.trim();
    if text.is_empty() {
        return Ok(None);
    }
    match text.parse::<u16>() {
        Ok(port) => Ok(Some((ANY_HOST.to_owned(), port))),
        Err(_) => split_host_port(text)
            .map(Some)
            .ok_or("the client address is not host:port"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn prints_as(text: &str, expected: &str) {
        assert_eq!(
            Member::parse(text).map(|m| m.to_string()),
            Ok(expected.to_owned())
        );
    }

    #[test]
    fn members_print_in_the_canonical_form() {
        prints_as("a:1:2", "a:1:2:participant");
        prints_as("a:1:2:OBSERVER;2181", "a:1:2:observer;0.0.0.0:2181");
        prints_as("[::1]:1:2;[::]:2181", "[::1]:1:2:participant;[::]:2181");
        prints_as("b:1:2|a:1:2;;2281", "a:1:2|b:1:2:participant;;0.0.0.0:2281");
        for wrong in [
            "a",
            "a:1",
            "a:1:1",
            "a:1:2:voter",
            "a:1:2;x",
            "a:1:2|b:1:2:observer",
            ":1:2",
        ] {
            assert!(Member::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn groups_and_weights_come_back() {
        let text = "server.1=a:1:2:participant\nserver.2=b:1:2:participant\nserver.3=c:1:2:participant\n\
                    group.1=1:2\ngroup.2=3\nweight.3=0\nversion=10000000a";
        let config = QuorumConfig::parse(text).unwrap();
        assert_eq!(config.to_string(), text);
        assert!(!config.may_lead(ServerId(3)));
        assert!(config.is_quorum_of(&[ServerId(1), ServerId(2)].into()));
    }

    #[test]
    fn the_separators_of_a_properties_file_are_known() {
        let config =
            QuorumConfig::parse("server.1:a:1:2:observer\n# comment\nserver.2 b:1:2").unwrap();
        assert_eq!(config.voters().collect::<Vec<_>>(), [ServerId(2)]);
    }
}
