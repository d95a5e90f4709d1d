//! What passes are given: the means to act, and what is remembered from one pass to the next.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use kube::{Client, ResourceExt};

use crate::cluster::Cluster;
use crate::crd::ZooKeeperEnsemble;

use super::Settings;
use super::events::Events;
use super::lease::Fence;
use super::seen::Seen;
use super::shared::{Applied, Owned};

/// The means to act, the same for all ensembles.
pub struct Context<M> {
    /// The API server.
    pub client: Client,
    /// The members.
    pub members: M,
    /// What is the same for all ensembles.
    pub settings: Settings,
    /// Whether this process may act.
    pub fence: Fence,
    /// What people are told.
    pub events: Events,
    /// Where to die, for tests.
    pub crash: Crash,
}

impl<M> Context<M> {
    /// For an operator that is alone.
    pub fn new(client: Client, members: M, settings: Settings) -> Self {
        Self {
            events: Events::new(client.clone(), "zookeeper-operator"),
            client,
            members,
            settings,
            fence: Fence::open(),
            crash: Crash::default(),
        }
    }
}

/// What the caches show of one ensemble's objects; it may be old.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// Pods, claims and nodes.
    pub seen: Seen,
    /// Everything else.
    pub owned: Owned,
}

/// What is remembered of one ensemble. Nothing that safety needs: it is lost when the operator ends.
#[derive(Debug, Default)]
pub struct Memory {
    /// Of which one: another of the same name is another one.
    pub(super) uid: Option<String>,
    /// The last manifest that was valid: it stays in force while a wrong one is there.
    pub(super) cluster: Option<Cluster>,
    /// The object with the last status that was written.
    pub(super) written: Written,
    /// The shared objects that were applied.
    pub(super) applied: BTreeMap<(String, String), Applied>,
    /// What went wrong the last time.
    pub(super) trouble: Option<String>,
    /// The step that people were told of last.
    pub(super) told_step: Option<String>,
    /// The trouble that people were told of last.
    pub(super) told_trouble: Option<String>,
    /// Passes that failed one after the other.
    pub(super) failures: u32,
}

/// The last object that was written, for as long as the cache shows one of those that it replaced.
#[derive(Debug, Default)]
pub(super) struct Written {
    object: Option<Arc<ZooKeeperEnsemble>>,
    replaced: Vec<String>,
}

impl Written {
    /// Our own write replaced the object of this version. Each write compares and sets, so that what it replaced was
    /// never anybody else's news.
    pub(super) fn note(&mut self, before: &ZooKeeperEnsemble, after: Arc<ZooKeeperEnsemble>) {
        self.replaced.extend(before.resource_version());
        self.object = Some(after);
    }

    /// The newer one of what the cache shows and what was written.
    pub(super) fn newest(&mut self, shown: Arc<ZooKeeperEnsemble>) -> Arc<ZooKeeperEnsemble> {
        let version = shown.resource_version();
        if let Some(object) = &self.object
            && version.is_some_and(|version| self.replaced.contains(&version))
        {
            return Arc::clone(object);
        }
        *self = Self::default();
        shown
    }
}

/// A switch for tests: the process ends before or after a kind of step, so that what it leaves behind can be looked
/// at. Off unless it is asked for.
#[derive(Clone, Debug, Default)]
pub struct Crash {
    /// The kind of step to end before.
    pub before: Option<String>,
    /// The kind of step to end after.
    pub after: Option<String>,
    /// Written at the end; while this file is there, nothing ends. Without it each process ends once.
    pub marker: Option<PathBuf>,
}

impl Crash {
    /// Ends the process if this is the step to end before.
    pub(super) fn before(&self, step: &str) {
        self.end(self.before.as_deref(), step, "before");
    }

    /// Ends the process if this is the step to end after.
    pub(super) fn after(&self, step: &str) {
        self.end(self.after.as_deref(), step, "after");
    }

    fn end(&self, wanted: Option<&str>, step: &str, when: &str) {
        if wanted != Some(step) || self.marker.as_ref().is_some_and(|marker| marker.exists()) {
            return;
        }
        if let Some(Err(error)) = self
            .marker
            .as_ref()
            .map(|marker| std::fs::write(marker, step))
        {
            tracing::error!(%error, "the crash switch cannot write its marker, and stays off");
            return;
        }
        tracing::warn!(step, when, "ending here, as the crash switch says");
        std::process::exit(CRASH_CODE);
    }
}

/// Exit code of the crash switch.
const CRASH_CODE: i32 = 70;

#[cfg(test)]
mod tests {
    use super::*;

    fn ensemble(version: &str) -> Arc<ZooKeeperEnsemble> {
        let manifest = "{apiVersion: zookeeper.ensemble.dev/v1alpha1, kind: ZooKeeperEnsemble, metadata: {name: demo}, spec: {}}";
        let mut ensemble = crate::validate::parse(manifest).unwrap();
        ensemble.metadata.resource_version = Some(version.into());
        Arc::new(ensemble)
    }

    #[test]
    fn what_was_written_hides_what_it_replaced_and_nothing_else() {
        let mut written = Written::default();
        written.note(&ensemble("1"), ensemble("2"));
        written.note(&ensemble("2"), ensemble("3"));
        for late in ["1", "2"] {
            let newest = written.newest(ensemble(late));
            assert_eq!(newest.resource_version().as_deref(), Some("3"));
        }
        let foreign = written.newest(ensemble("4"));
        assert_eq!(foreign.resource_version().as_deref(), Some("4"));
        assert_eq!(
            written.newest(ensemble("1")).resource_version().as_deref(),
            Some("1"),
            "what was written is forgotten once the cache has gone on"
        );
    }
}
