//! `zookeeper-operator check`: whether a cluster's operator does its work, told by an ensemble of one server.
//!
//! It asks as any user would, by the API server and by a client's session, and leaves nothing behind.

use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use kube::api::{DeleteParams, PostParams};
use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use kube::{Api, Client};
use serde_json::{Value, json};
use zookeeper_client::{Acls, CreateMode, Error};

use crate::crd::{API_VERSION, GROUP, KIND};

/// What to check.
#[derive(Clone, Debug)]
pub struct Options {
    /// Namespace of the ensemble.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Domain of the cluster's host names.
    pub cluster_domain: String,
    /// Storage class of its volume; the cluster's default if there is none.
    pub storage_class: Option<String>,
    /// Size of its volume.
    pub storage_size: String,
    /// How long all of it may take.
    pub timeout: Duration,
}

/// Makes the ensemble, uses it, and removes it whatever happened. Gives what was seen, in words.
pub async fn check(options: &Options) -> anyhow::Result<String> {
    let client = Client::try_default()
        .await
        .context("there is no way to the API server")?;
    let kind = GroupVersionKind::gvk(GROUP, version(), KIND);
    let resource = ApiResource::from_gvk_with_plural(&kind, "zookeeperensembles");
    let api: Api<DynamicObject> = Api::namespaced_with(client, &options.namespace, &resource);
    let until = Instant::now() + options.timeout;
    remove(&api, options, until).await?;
    let used = use_one(&api, options, until).await;
    // Removing has a time of its own: it must not be left undone because the rest took long.
    let removed = remove(&api, options, Instant::now() + REMOVE_TIMEOUT).await;
    let words = used?;
    removed?;
    Ok(words)
}

fn version() -> &'static str {
    API_VERSION
        .rsplit_once('/')
        .map_or(API_VERSION, |(_, version)| version)
}

async fn use_one(
    api: &Api<DynamicObject>,
    options: &Options,
    until: Instant,
) -> anyhow::Result<String> {
    let begun = Instant::now();
    let manifest = manifest(options);
    let object = serde_json::from_value(manifest.clone())?;
    let created = api
        .create(&PostParams::default(), &object)
        .await
        .context("the ensemble could not be created")?;
    if let Some(path) = dropped(&manifest["spec"], &created.data["spec"], "spec") {
        bail!(
            "the API server dropped {path}: the definition of ensembles that it serves is older than this operator; \
             `zookeeper-operator crd | kubectl apply --server-side -f -` brings the new one"
        );
    }
    wait_ready(api, options, until).await?;
    let ready = begun.elapsed();
    let address = format!(
        "{}-client.{}.svc.{}:2181",
        options.name, options.namespace, options.cluster_domain
    );
    let left = until.saturating_duration_since(Instant::now());
    tokio::time::timeout(left, write_and_read(&address))
        .await
        .with_context(|| format!("{address} did not answer in time"))??;
    Ok(format!(
        "an ensemble of one server was ready after {:.1} s, and a znode was written, read and deleted at {address}\n",
        ready.as_secs_f64()
    ))
}

fn manifest(options: &Options) -> Value {
    let mut storage = json!({"size": options.storage_size, "whenDeleted": "Delete"});
    if let Some(class) = &options.storage_class {
        storage["storageClass"] = json!(class);
    }
    json!({
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": {"name": options.name, "namespace": options.namespace},
        "spec": {"voters": {"replicas": 1}, "storage": storage},
    })
}

/// The first field that was sent and is not there: what a definition does not know is dropped without a word.
fn dropped(sent: &Value, there: &Value, path: &str) -> Option<String> {
    match sent {
        Value::Object(fields) => fields
            .iter()
            .find_map(|(key, sent)| dropped(sent, &there[key], &format!("{path}.{key}"))),
        sent => (sent != there).then(|| path.to_owned()),
    }
}

async fn wait_ready(
    api: &Api<DynamicObject>,
    options: &Options,
    until: Instant,
) -> anyhow::Result<()> {
    loop {
        let object = api
            .get(&options.name)
            .await
            .context("the ensemble could not be read")?;
        let state = state(&object);
        if state == State::Ready {
            return Ok(());
        }
        if Instant::now() >= until {
            let State::NotReady(why) = state else {
                return Ok(());
            };
            bail!(
                "the ensemble {}/{} was not ready after {:?}: {why}",
                options.namespace,
                options.name,
                options.timeout
            );
        }
        tokio::time::sleep(POLL).await;
    }
}

#[derive(Debug, PartialEq, Eq)]
enum State {
    Ready,
    NotReady(String),
}

/// Whether the status is about the spec that there is, and says that all is as wanted.
fn state(object: &DynamicObject) -> State {
    let status = &object.data["status"];
    if status.is_null() {
        return State::NotReady("no operator has said anything about it".to_owned());
    }
    let conditions = status["conditions"].as_array().into_iter().flatten();
    let ready = conditions
        .filter(|condition| condition["type"] == "Ready")
        .find(|condition| condition["status"] == "True");
    let seen = status["observedGeneration"].as_i64();
    if ready.is_some() && seen == object.metadata.generation {
        return State::Ready;
    }
    let not = status["conditions"].as_array().into_iter().flatten();
    let words: Vec<String> = not
        .map(|it| {
            let text = |key: &str| it[key].as_str().unwrap_or_default().to_owned();
            format!("{}={} ({})", text("type"), text("status"), text("message"))
        })
        .collect();
    State::NotReady(words.join(", "))
}

async fn write_and_read(address: &str) -> anyhow::Result<()> {
    let client = zookeeper_client::Client::connector()
        .with_session_timeout(SESSION_TIMEOUT)
        .connect(address)
        .await
        .with_context(|| format!("no session with {address}"))?;
    let options = CreateMode::Persistent.with_acls(Acls::anyone_all());
    client
        .create(PATH, WORDS, &options)
        .await
        .context("creating a znode")?;
    let (data, stat) = client.get_data(PATH).await.context("reading it")?;
    ensure!(
        data == WORDS,
        "the znode holds {data:?} instead of what was written"
    );
    client
        .delete(PATH, Some(stat.version))
        .await
        .context("deleting it")?;
    match client.get_data(PATH).await {
        Err(Error::NoNode) => Ok(()),
        Err(error) => Err(error).context("reading it after it was deleted"),
        Ok(_) => bail!("the znode is there after it was deleted"),
    }
}

/// Deletes the ensemble and waits until it is gone; none is fine.
async fn remove(api: &Api<DynamicObject>, options: &Options, until: Instant) -> anyhow::Result<()> {
    let params = DeleteParams::foreground();
    loop {
        let Some(object) = api
            .get_opt(&options.name)
            .await
            .context("the ensemble could not be read")?
        else {
            return Ok(());
        };
        if object.metadata.deletion_timestamp.is_none() {
            let deleted = api.delete(&options.name, &params).await;
            let gone = matches!(&deleted, Err(kube::Error::Api(status)) if status.code == 404);
            if !gone {
                deleted.context("the ensemble could not be deleted")?;
            }
        }
        ensure!(
            Instant::now() < until,
            "the ensemble {}/{} is still being deleted",
            options.namespace,
            options.name
        );
        tokio::time::sleep(POLL).await;
    }
}

const PATH: &str = "/zookeeper-operator-check";
const WORDS: &[u8] = b"written by zookeeper-operator check";
const POLL: Duration = Duration::from_millis(500);
const SESSION_TIMEOUT: Duration = Duration::from_secs(6);
const REMOVE_TIMEOUT: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(status: Value) -> State {
        let object = json!({
            "apiVersion": API_VERSION,
            "kind": KIND,
            "metadata": {"name": "t", "generation": 2},
            "status": status,
        });
        state(&serde_json::from_value(object).unwrap())
    }

    #[test]
    fn ready_is_what_is_said_about_the_newest_spec() {
        let conditions = json!([
            {"type": "Available", "status": "True", "message": "a quorum serves"},
            {"type": "Ready", "status": "True", "message": "as wanted"},
        ]);
        assert_eq!(
            seen(json!({"observedGeneration": 2, "conditions": conditions})),
            State::Ready
        );
        let old = seen(json!({"observedGeneration": 1, "conditions": conditions}));
        let words = "Available=True (a quorum serves), Ready=True (as wanted)";
        assert_eq!(old, State::NotReady(words.to_owned()));
        let nobody = "no operator has said anything about it";
        assert_eq!(seen(Value::Null), State::NotReady(nobody.to_owned()));
    }

    #[test]
    fn a_field_that_the_definition_does_not_know_is_named() {
        let sent =
            json!({"voters": {"replicas": 1}, "storage": {"size": "1Gi", "whenDeleted": "Delete"}});
        let mut there = sent.clone();
        there["observers"] = json!({"replicas": 0});
        assert_eq!(dropped(&sent, &there, "spec"), None);
        there["storage"] = json!({"size": "1Gi"});
        let path = dropped(&sent, &there, "spec");
        assert_eq!(path.as_deref(), Some("spec.storage.whenDeleted"));
    }

    #[test]
    fn the_ensemble_leaves_no_data_behind() {
        let options = Options {
            namespace: "ns".into(),
            name: "t".into(),
            cluster_domain: "cluster.local".into(),
            storage_class: Some("fast".into()),
            storage_size: "1Gi".into(),
            timeout: Duration::from_secs(1),
        };
        let storage = &manifest(&options)["spec"]["storage"];
        let expected = json!({"size": "1Gi", "storageClass": "fast", "whenDeleted": "Delete"});
        assert_eq!(*storage, expected);
    }
}
