//! A `ZooKeeperEnsemble` on the cluster, as a user handles it: a manifest, `kubectl scale`, and what its status says.

use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::kube::namespace::{Namespace, condition};

/// The full name of the resource, for kubectl.
pub const KIND: &str = "zookeeperensembles.zookeeper.ensemble.dev";
/// Where members take clients.
pub const CLIENT_PORT: u16 = 2181;

/// What a manifest asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Members that vote.
    pub voters: u32,
    /// Members that only learn.
    pub observers: u32,
    /// More of `spec`, as lines of YAML at its indentation (two spaces); may be empty.
    pub more: String,
}

impl Wanted {
    /// Voters and observers, and nothing else that is not the default.
    #[must_use]
    pub fn new(voters: u32, observers: u32) -> Self {
        Self {
            voters,
            observers,
            more: String::new(),
        }
    }

    /// The manifest.
    #[must_use]
    pub fn manifest(&self, name: &str) -> String {
        let Self {
            voters,
            observers,
            more,
        } = self;
        format!(
            "apiVersion: zookeeper.ensemble.dev/v1alpha1\nkind: ZooKeeperEnsemble\nmetadata:\n  name: {name}\nspec:\n  \
             voters:\n    replicas: {voters}\n  observers:\n    replicas: {observers}\n{more}"
        )
    }
}

/// One member in the status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its server id.
    pub id: u32,
    /// `voter` or `observer`.
    pub role: String,
    /// `leader`, `follower`, `observer`, or why none of them.
    pub state: String,
}

/// The ensemble as `kubectl get -o json` shows it.
#[derive(Clone, Debug, PartialEq)]
pub struct Seen(pub Value);

impl Seen {
    /// The members, by id.
    #[must_use]
    pub fn members(&self) -> Vec<Member> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let member = |value: &Value| Member {
            id: value["id"].as_u64().unwrap_or_default() as u32,
            role: text(&value["role"]),
            state: text(&value["state"]),
        };
        let members = self.0["status"]["members"].as_array();
        members.into_iter().flatten().map(member).collect()
    }

    /// How many members are in a state.
    #[must_use]
    pub fn count(&self, state: &str) -> usize {
        let members = self.members();
        members.iter().filter(|m| m.state == state).count()
    }

    /// The leader's server id.
    #[must_use]
    pub fn leader(&self) -> Option<u32> {
        let leader = self.0["status"]["leader"].as_u64()?;
        u32::try_from(leader).ok().filter(|id| *id > 0)
    }

    /// Whether a condition is `True`, and answers the spec that is there now.
    #[must_use]
    pub fn holds(&self, kind: &str) -> bool {
        self.is_current() && condition(&self.0, kind)
    }

    /// A condition as it stands.
    #[must_use]
    pub fn condition(&self, kind: &str) -> Option<&Value> {
        let mut conditions = self.0["status"]["conditions"].as_array()?.iter();
        conditions.find(|condition| condition["type"] == kind)
    }

    /// Whether the status answers the spec that is there now.
    #[must_use]
    pub fn is_current(&self) -> bool {
        let generation = &self.0["metadata"]["generation"];
        !generation.is_null() && self.0["status"]["observedGeneration"] == *generation
    }

    /// The plan in one line.
    #[must_use]
    pub fn summary(&self) -> &str {
        self.0["status"]["plan"]["summary"]
            .as_str()
            .unwrap_or_default()
    }

    /// Ready, and nothing is left to do.
    #[must_use]
    pub fn is_at_rest(&self) -> bool {
        self.holds("Ready") && self.summary() == "At rest"
    }

    /// Changes of the leader so far: planned ones, and all others.
    #[must_use]
    pub fn leader_changes(&self) -> (u64, u64) {
        let changes = &self.0["status"]["leaderChanges"];
        let number = |kind: &str| changes[kind].as_u64().unwrap_or_default();
        (number("planned"), number("unplanned"))
    }
}

/// An ensemble in a test's namespace.
#[derive(Clone, Debug)]
pub struct Ensemble<'a> {
    /// Where it is.
    pub namespace: &'a Namespace<'a>,
    /// Its name.
    pub name: String,
}

impl<'a> Ensemble<'a> {
    /// Applies the manifest of a new ensemble; does not wait.
    pub fn create(namespace: &'a Namespace<'a>, name: &str, wanted: &Wanted) -> Result<Self> {
        let ensemble = Self {
            namespace,
            name: name.to_owned(),
        };
        ensemble.apply(wanted)?;
        Ok(ensemble)
    }

    /// Changes the spec by its manifest; does not wait.
    pub fn apply(&self, wanted: &Wanted) -> Result<()> {
        self.namespace.apply(&wanted.manifest(&self.name)).map(drop)
    }

    /// Changes the spec by a merge patch of JSON; does not wait.
    pub fn patch(&self, spec: &Value) -> Result<()> {
        let patch = serde_json::json!({ "spec": spec }).to_string();
        let arguments = ["patch", KIND, &self.name, "--type=merge", "--patch", &patch];
        self.namespace.kubectl(&arguments).map(drop)
    }

    /// `kubectl scale`: that many observers; does not wait.
    pub fn scale(&self, observers: u32) -> Result<()> {
        let replicas = format!("--replicas={observers}");
        let arguments = ["scale", KIND, &self.name, &replicas];
        self.namespace.kubectl(&arguments).map(drop)
    }

    /// The ensemble as it is now.
    pub fn see(&self) -> Result<Seen> {
        let object = self.namespace.get(KIND, &self.name)?;
        object
            .map(Seen)
            .with_context(|| format!("there is no ensemble {}", self.name))
    }

    /// Waits until `probe` finds something in what is seen; the error has the ensemble as it was last.
    pub fn wait<T>(
        &self,
        what: &str,
        patience: Duration,
        mut probe: impl FnMut(&Seen) -> Option<T>,
    ) -> Result<T> {
        self.namespace
            .wait(what, [KIND, &self.name], patience, |object| {
                probe(&Seen(object.clone()))
            })
    }

    /// Waits until the ensemble is as its spec says, with nothing left to do.
    pub fn wait_at_rest(&self, patience: Duration) -> Result<Seen> {
        let what = format!("ensemble {} to be at rest", self.name);
        self.wait(&what, patience, |seen| {
            seen.is_at_rest().then(|| seen.clone())
        })
    }

    /// The pod of a member.
    #[must_use]
    pub fn pod(&self, id: u32) -> String {
        format!("{}-{id}", self.name)
    }

    /// `host:port` of one member for clients in the cluster.
    #[must_use]
    pub fn address(&self, id: u32) -> String {
        let (name, namespace) = (&self.name, &self.namespace.name);
        format!("{name}-{id}.{name}-headless.{namespace}.svc.cluster.local:{CLIENT_PORT}")
    }

    /// `host:port` of all members that the status shows.
    pub fn addresses(&self) -> Result<Vec<String>> {
        let members = self.see()?.members();
        Ok(members.iter().map(|m| self.address(m.id)).collect())
    }

    /// `host:port` of the Service for clients.
    #[must_use]
    pub fn client_service(&self) -> String {
        format!(
            "{}-client.{}.svc.cluster.local:{CLIENT_PORT}",
            self.name, self.namespace.name
        )
    }

    /// `host:port` of the name that stands for all members, ready or not: the best for a load, which finds those that serve.
    #[must_use]
    pub fn headless_service(&self) -> String {
        format!(
            "{}-headless.{}.svc.cluster.local:{CLIENT_PORT}",
            self.name, self.namespace.name
        )
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn object() -> Value {
        json!({
            "metadata": {"generation": 2},
            "status": {
                "observedGeneration": 2,
                "conditions": [{"type": "Ready", "status": "True"}],
                "leader": 3,
                "leaderChanges": {"planned": 4, "unplanned": 1},
                "members": [{"id": 1, "role": "voter", "state": "follower"}, {"id": 3, "role": "voter", "state": "leader"}],
                "plan": {"summary": "At rest"},
            },
        })
    }

    #[test]
    fn a_status_is_at_rest_only_for_the_generation_that_it_answers() {
        let mut seen = Seen(object());
        assert!(seen.is_at_rest());
        seen.0["status"]["observedGeneration"] = 1.into();
        assert!(!seen.is_at_rest());
        assert!(!Seen(json!({"metadata": {}, "status": {}})).is_current());
    }

    #[test]
    fn members_and_the_leader_are_read() {
        let seen = Seen(object());
        assert_eq!(seen.leader(), Some(3));
        assert_eq!(seen.count("leader"), 1);
        assert_eq!(seen.leader_changes(), (4, 1));
        let ids: Vec<u32> = seen.members().iter().map(|m| m.id).collect();
        assert_eq!(ids, [1, 3]);
    }
}
