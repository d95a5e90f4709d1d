//! Events on the ensembles: what `kubectl describe` tells.

use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::{Client, Resource};

use crate::cluster::ServerId;
use crate::crd::ZooKeeperEnsemble;

use super::names;

/// Tells people. An event that does not get through is logged and given up.
#[derive(Clone)]
pub struct Events {
    recorder: Recorder,
}

/// What to tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct News<'a> {
    /// Whether somebody should worry.
    pub(super) warns: bool,
    /// In one word.
    pub(super) reason: &'a str,
    /// What was done about it or meant to be done.
    pub(super) action: &'a str,
    /// In a sentence.
    pub(super) note: String,
    /// The member that it is about.
    pub(super) member: Option<ServerId>,
}

impl Events {
    /// `instance`: this process.
    pub fn new(client: Client, instance: &str) -> Self {
        let reporter = Reporter {
            controller: names::FIELD_MANAGER.into(),
            instance: Some(instance.to_owned()),
        };
        Self {
            recorder: Recorder::new(client, reporter),
        }
    }

    /// Tells it of an ensemble.
    pub(super) async fn tell(&self, ensemble: &ZooKeeperEnsemble, news: News<'_>) {
        let pod = news.member.map(|id| pod(ensemble, id));
        self.publish(&ensemble.object_ref(&()), news, pod).await;
    }

    /// Tells it of an object that cannot be read as an ensemble.
    pub(super) async fn tell_of(&self, regarding: &ObjectReference, news: News<'_>) {
        self.publish(regarding, news, None).await;
    }

    async fn publish(
        &self,
        regarding: &ObjectReference,
        news: News<'_>,
        pod: Option<ObjectReference>,
    ) {
        let event = Event {
            type_: if news.warns {
                EventType::Warning
            } else {
                EventType::Normal
            },
            reason: news.reason.to_owned(),
            note: Some(cut(news.note)),
            action: news.action.to_owned(),
            secondary: pod,
        };
        let publish = self.recorder.publish(&event, regarding);
        match tokio::time::timeout(PATIENCE, publish).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::warn!(reason = event.reason, %error, "an event did not get through")
            }
            Err(_) => tracing::warn!(
                reason = event.reason,
                "an event did not get through in time"
            ),
        }
    }
}

fn pod(ensemble: &ZooKeeperEnsemble, id: ServerId) -> ObjectReference {
    let name = ensemble.metadata.name.as_deref().unwrap_or_default();
    ObjectReference {
        api_version: Some("v1".into()),
        kind: Some("Pod".into()),
        namespace: ensemble.metadata.namespace.clone(),
        name: Some(names::member(name, id)),
        ..ObjectReference::default()
    }
}

/// The API server takes notes of up to 1 kB.
fn cut(mut note: String) -> String {
    if note.len() > NOTE_MAX {
        let end = (0..=NOTE_MAX).rev().find(|at| note.is_char_boundary(*at));
        note.truncate(end.unwrap_or_default());
        note.push('…');
    }
    note
}

const NOTE_MAX: usize = 1000;
const PATIENCE: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_note_is_cut_between_letters() {
        let note = cut("é".repeat(600));
        assert_eq!(note.len(), NOTE_MAX + '…'.len_utf8());
        assert_eq!(cut("short".into()), "short");
    }
}
