//! What happens to an ensemble's pods while it happens: who goes, who comes, in which order, and how many are away.

use std::collections::{BTreeMap, BTreeSet};
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::kube::namespace::{Namespace, condition};

/// A pod at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sight {
    /// Its name.
    pub name: String,
    /// Tells it from the pods of the same name before and after it.
    pub uid: String,
    /// The member's id.
    pub id: u32,
    /// `voter` or `observer`, as its label says.
    pub role: String,
    /// Whether it serves, as far as Kubernetes knows, and nobody told it to go.
    pub serves: bool,
    /// Whether it is gone now.
    pub gone: bool,
    /// How often its container was started again.
    pub restarts: i64,
}

impl Sight {
    fn of(pod: &Value, gone: bool) -> Self {
        let metadata = &pod["metadata"];
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let label = |key: &str| text(&metadata["labels"][format!("zookeeper.ensemble.dev/{key}")]);
        let restarts = &pod["status"]["containerStatuses"][0]["restartCount"];
        Self {
            name: text(&metadata["name"]),
            uid: text(&metadata["uid"]),
            id: label("id").parse().unwrap_or_default(),
            role: label("role"),
            serves: !gone && metadata["deletionTimestamp"].is_null() && condition(pod, "Ready"),
            gone,
            restarts: restarts.as_i64().unwrap_or_default(),
        }
    }
}

/// An ensemble's pods as they are now.
pub fn look(namespace: &Namespace<'_>, ensemble: &str) -> Result<Vec<Sight>> {
    let pods = namespace.list("pods", &selector(ensemble))?;
    Ok(pods.iter().map(|pod| Sight::of(pod, false)).collect())
}

fn selector(ensemble: &str) -> String {
    format!("zookeeper.ensemble.dev/ensemble={ensemble}")
}

/// A running `kubectl get pods --watch`.
#[derive(Debug)]
pub struct Watch {
    child: Child,
    reader: JoinHandle<()>,
    seen: Arc<Mutex<Vec<Sight>>>,
}

impl Watch {
    /// Begins with the pods that are there.
    pub fn start(namespace: &Namespace<'_>, ensemble: &str) -> Result<Self> {
        let selector = selector(ensemble);
        let arguments = [
            "--namespace",
            &namespace.name,
            "get",
            "pods",
            "--selector",
            &selector,
            "--watch",
            "--output-watch-events",
            "--output=json",
        ];
        let mut child = namespace
            .cluster
            .command("kubectl", &arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .context("cannot run kubectl")?;
        let stdout = child.stdout.take().expect("it was asked for above");
        let seen: Arc<Mutex<Vec<Sight>>> = Arc::default();
        let sink = Arc::clone(&seen);
        let reader = std::thread::spawn(move || {
            let events = serde_json::Deserializer::from_reader(std::io::BufReader::new(stdout));
            for event in events.into_iter::<Value>().map_while(Result::ok) {
                let sight = Sight::of(&event["object"], event["type"] == "DELETED");
                lock(&sink).push(sight);
            }
        });
        let watch = Self {
            child,
            reader,
            seen,
        };
        namespace.cluster.wait(
            "the watch to begin",
            std::time::Duration::from_secs(20),
            || Ok((!watch.so_far().is_empty()).then_some(())),
        )?;
        Ok(watch)
    }

    /// What was seen so far, in order.
    #[must_use]
    pub fn so_far(&self) -> Vec<Sight> {
        lock(&self.seen).clone()
    }

    /// Ends it; everything that was seen, in order.
    pub fn end(mut self) -> Result<Vec<Sight>> {
        if let Some(status) = self.child.try_wait()? {
            bail!("the watch ended by itself ({status}), so that something may have been missed");
        }
        self.child.kill()?;
        self.child.wait()?;
        self.reader.join().expect("reading does not panic");
        Ok(lock(&self.seen).clone())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().expect("no holder of this lock panics")
}

/// The members whose pods were made anew, in the order in which that happened.
#[must_use]
pub fn reborn(before: &[Sight], seen: &[Sight]) -> Vec<u32> {
    let mut known: BTreeSet<String> = before.iter().map(|sight| sight.uid.clone()).collect();
    let new = |sight: &&Sight| !sight.gone && known.insert(sight.uid.clone());
    seen.iter().filter(new).map(|sight| sight.id).collect()
}

/// The most members of a role that were away at the same time.
#[must_use]
pub fn most_away(role: &str, before: &[Sight], seen: &[Sight]) -> usize {
    let of_role = |sight: &&Sight| sight.role == role;
    let mut serving: BTreeMap<u32, (&str, bool)> = BTreeMap::new();
    let mut most = 0;
    for sight in before.iter().chain(seen).filter(of_role) {
        let entry = serving
            .entry(sight.id)
            .or_insert((&sight.uid, sight.serves));
        // The end of an old pod may be told after the start of its successor.
        if sight.gone && entry.0 != sight.uid {
            continue;
        }
        *entry = (&sight.uid, sight.serves);
        most = most.max(serving.values().filter(|(_, serves)| !serves).count());
    }
    most
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sight(id: u32, uid: &str, serves: bool, gone: bool) -> Sight {
        Sight {
            name: format!("demo-{id}"),
            uid: uid.into(),
            id,
            role: "voter".into(),
            serves,
            gone,
            restarts: 0,
        }
    }

    #[test]
    fn restarts_are_counted_in_order_and_by_how_many_are_away() {
        let before = [sight(1, "a", true, false), sight(2, "b", true, false)];
        let seen = [
            sight(2, "b", false, false),
            sight(2, "b", false, true),
            sight(2, "c", false, false),
            sight(2, "c", true, false),
            sight(1, "a", false, false),
            sight(1, "d", false, false),
            sight(1, "a", false, true),
            sight(1, "d", true, false),
        ];
        assert_eq!(reborn(&before, &seen), [2, 1]);
        assert_eq!(most_away("voter", &before, &seen), 1);
        assert_eq!(most_away("observer", &before, &seen), 0);
        let both = [sight(2, "b", false, false), sight(1, "a", false, false)];
        assert_eq!(most_away("voter", &before, &both), 2);
    }
}
