//! The server list: `server.N`, `group.N` and `weight.N` lines, in `zoo.cfg` or in a dynamic file.

use std::collections::BTreeMap;
use std::path::Path;

use node_core::zxid::{ServerId, Zxid};

use super::properties::Entry;
use super::servers::{FORM, Role, ServerSpec};
use super::{Membership, Place, Problem};

/// Whether a key belongs to the server list.
pub(super) fn is_membership(key: &str) -> bool {
    ["server.", "group.", "weight."]
        .iter()
        .any(|prefix| key.starts_with(prefix))
}

/// Reads the entries of a list, all of them, and gives what is wrong with them too. The version is zero.
pub(super) fn parse(path: &Path, entries: &[Entry]) -> (Membership, Vec<Problem>) {
    let mut list = List::default();
    let mut problems = Vec::new();
    let mut problem = |line, text| {
        let path = path.to_owned();
        let place = Place { path, line };
        problems.push(Problem { place, text });
    };
    for entry in entries {
        if let Err(text) = list.add(&entry.key, &entry.value) {
            problem(Some(entry.line), text);
        }
    }
    for id in list.ungrouped() {
        let text = format!("server.{id} is in no group, though there are groups");
        problem(None, text);
    }
    (list.membership(), problems)
}

#[derive(Default)]
struct List {
    servers: BTreeMap<i64, ServerSpec>,
    groups: BTreeMap<i64, String>,
    weights: BTreeMap<i64, String>,
    group_of: BTreeMap<i64, i64>,
}

impl List {
    fn add(&mut self, key: &str, value: &str) -> Result<(), String> {
        let (kind, id) = key.split_once('.').unwrap_or((key, ""));
        if !is_membership(key) {
            return Err(format!(
                "{key} cannot be here: a dynamic configuration holds only server, group and weight lines"
            ));
        }
        let id: i64 = id
            .parse()
            .map_err(|_| format!("{key} must be {kind}.N with a whole number N"))?;
        match kind {
            "server" => self.add_server(id, value),
            "group" => self.add_group(id, value),
            _ => self.add_weight(id, value),
        }
    }

    fn add_server(&mut self, id: i64, value: &str) -> Result<(), String> {
        let server = ServerSpec::parse(ServerId(id), value)
            .map_err(|why| format!("server.{id} is {value:?}, but {why}; it must be {FORM}"))?;
        let shared = self.servers.values().find_map(|other| {
            let port = server
                .ports()
                .find(|port| other.ports().any(|p| p == *port))?;
            Some((other.id, port.0.to_owned(), port.1))
        });
        match (self.servers.insert(id, server), shared) {
            (Some(_), _) => Err(format!("server.{id} is there twice")),
            (None, Some((other, host, port))) => Err(format!(
                "server.{id} has the port {host}:{port}, which server.{other} has too"
            )),
            (None, None) => Ok(()),
        }
    }

    fn add_group(&mut self, id: i64, value: &str) -> Result<(), String> {
        for member in value.split(':').map(str::trim) {
            let member: i64 = member.parse().map_err(|_| {
                format!("group.{id} is {value:?}, but it must be server ids separated by \":\"")
            })?;
            if self.group_of.insert(member, id).is_some() {
                return Err(format!("server {member} is in two groups"));
            }
        }
        self.groups.insert(id, value.to_owned());
        Ok(())
    }

    fn add_weight(&mut self, id: i64, value: &str) -> Result<(), String> {
        value.parse::<u32>().map_err(|_| {
            format!("weight.{id} is {value:?}, but it must be a whole number, 0 or more")
        })?;
        self.weights.insert(id, value.to_owned());
        Ok(())
    }

    /// Voters without a group, when there are groups.
    fn ungrouped(&self) -> impl Iterator<Item = ServerId> {
        let grouped = |id: ServerId| self.groups.is_empty() || self.group_of.contains_key(&id.0);
        let voters = self
            .servers
            .values()
            .filter(|server| server.role == Role::Participant);
        voters
            .map(|server| server.id)
            .filter(move |id| !grouped(*id))
    }

    fn membership(self) -> Membership {
        let named =
            |kind: &'static str| move |(id, value): (i64, String)| (format!("{kind}.{id}"), value);
        let groups = self.groups.into_iter().map(named("group"));
        let weights = self.weights.into_iter().map(named("weight"));
        Membership {
            version: Zxid::ZERO,
            servers: self.servers.into_values().collect(),
            hierarchy: groups.chain(weights).collect(),
        }
    }
}
