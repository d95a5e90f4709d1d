//! One pass against a small API server: what is asked, in which order, and what becomes of a refusal.
#![allow(
    clippy::unwrap_used,
    reason = "a test that panics has failed, which is what it is for"
)]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use http::{Method, Request, Response};
use http_body_util::BodyExt as _;
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use kube::client::Body;
use operator::backend::{BackendError, Class};
use operator::client::{Change, ReconfigError};
use operator::crd::ZooKeeperEnsemble;
use operator::ensemble::Told;
use operator::kubernetes::Settings;
use operator::kubernetes::context::{Context, Memory, View};
use operator::kubernetes::members::Members;
use operator::kubernetes::pass::{Outcome, pass};
use operator::kubernetes::seen::Seen;
use operator::kubernetes::shared::{Owned, OwnedObject};
use serde_json::{Value, json};

/// Objects by path, every request that came, and the answers that are to be refusals.
#[derive(Clone, Default)]
struct Api(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    objects: BTreeMap<String, Value>,
    version: u64,
    requests: Vec<String>,
    refuse: Option<(String, u16)>,
}

impl Api {
    fn client(&self) -> Client {
        let api = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let api = api.clone();
            async move {
                let (head, body) = request.into_parts();
                let body = body.collect().await.unwrap().to_bytes();
                let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
                let (code, answer) = api.answer(&head.method, head.uri.path(), body);
                let answer = Body::from(serde_json::to_vec(&answer).unwrap());
                Ok::<_, std::convert::Infallible>(
                    Response::builder().status(code).body(answer).unwrap(),
                )
            }
        });
        Client::new(service, "ns")
    }

    fn answer(&self, method: &Method, path: &str, body: Value) -> (u16, Value) {
        let mut state = self.0.lock().unwrap();
        let short = path.rsplit("namespaces/ns/").next().unwrap().to_owned();
        let request = format!("{method} {short}");
        let refused = state
            .refuse
            .as_ref()
            .filter(|(what, _)| *what == request)
            .map(|(_, code)| *code);
        state.requests.push(request);
        if let Some(code) = refused {
            return failure(code);
        }
        let key = short.trim_end_matches("/status").to_owned();
        let is_collection = !key.contains('/');
        match *method {
            Method::GET if is_collection => {
                let all = state.objects.range(format!("{key}/")..format!("{key}0"));
                let items: Vec<&Value> = all.map(|(_, object)| object).collect();
                (
                    200,
                    json!({"apiVersion": "v1", "kind": "List", "metadata": {}, "items": items}),
                )
            }
            Method::GET => match state.objects.get(&key) {
                Some(object) => (200, object.clone()),
                None => failure(404),
            },
            Method::POST => {
                let key = format!("{key}/{}", body["metadata"]["name"].as_str().unwrap());
                if state.objects.contains_key(&key) {
                    return failure(409);
                }
                (201, state.store(key, body))
            }
            Method::PUT => (200, state.store(key, body)),
            Method::PATCH => {
                let mut object = state.objects.get(&key).cloned().unwrap_or_default();
                merge(&mut object, body);
                (200, state.store(key, object))
            }
            _ => failure(405),
        }
    }

    fn put(&self, key: &str, object: Value) {
        self.0.lock().unwrap().store(key.to_owned(), object);
    }

    fn refuse(&self, request: &str, code: u16) {
        self.0.lock().unwrap().refuse = Some((request.to_owned(), code));
    }

    fn take_requests(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap().requests)
    }

    /// Caches that show everything.
    fn view(&self) -> View {
        let state = self.0.lock().unwrap();
        let all = |prefix: &str| -> Vec<Value> {
            let found = state
                .objects
                .iter()
                .filter(|(key, _)| key.starts_with(prefix));
            found.map(|(_, object)| object.clone()).collect()
        };
        let owned = state.objects.values().filter_map(|object| {
            let kind = object["kind"].as_str()?.to_owned();
            let shown = OwnedObject {
                uid: String::new(),
                resource_version: object["metadata"]["resourceVersion"].as_str()?.to_owned(),
                controller: None,
            };
            Some((
                (kind, object["metadata"]["name"].as_str()?.to_owned()),
                shown,
            ))
        });
        let parsed = |object| Arc::new(serde_json::from_value(object).unwrap());
        View {
            seen: Seen {
                pods: all("pods/")
                    .into_iter()
                    .map(|it| Arc::new(serde_json::from_value(it).unwrap()))
                    .collect(),
                claims: all("persistentvolumeclaims/")
                    .into_iter()
                    .map(parsed)
                    .collect(),
                configs: all("configmaps/")
                    .into_iter()
                    .map(|it| Arc::new(serde_json::from_value(it).unwrap()))
                    .collect(),
                nodes: Vec::new(),
            },
            owned: owned.collect::<Owned>(),
        }
    }

    fn ensemble(&self) -> Arc<ZooKeeperEnsemble> {
        let state = self.0.lock().unwrap();
        Arc::new(serde_json::from_value(state.objects[ENSEMBLE].clone()).unwrap())
    }
}

impl State {
    fn store(&mut self, key: String, mut object: Value) -> Value {
        self.version += 1;
        object["metadata"]["resourceVersion"] = self.version.to_string().into();
        self.objects.insert(key, object.clone());
        object
    }
}

fn merge(object: &mut Value, patch: Value) {
    match (object, patch) {
        (Value::Object(object), Value::Object(patch)) => {
            for (key, value) in patch {
                merge(object.entry(key).or_insert(Value::Null), value);
            }
        }
        (object, patch) => *object = patch,
    }
}

fn failure(code: u16) -> (u16, Value) {
    let reason = match code {
        403 => "Forbidden",
        404 => "NotFound",
        _ => "Conflict",
    };
    let message = format!("refused with {code}");
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "status": "Failure",
        "message": message, "reason": reason, "code": code,
    });
    (code, status)
}

/// Members that never answer.
struct Silent;

impl Members for Silent {
    async fn ask(&self, _: &str) -> Option<Told> {
        None
    }

    async fn reconfigure(&self, _: &[String], _: &str, _: &Change) -> Result<(), ReconfigError> {
        Err(ReconfigError::Nobody)
    }
}

fn begin() -> (Api, Context<Silent>) {
    let api = Api::default();
    api.put(
        ENSEMBLE,
        json!({
            "apiVersion": "zookeeper.ensemble.dev/v1alpha1",
            "kind": "ZooKeeperEnsemble",
            "metadata": {"name": "demo", "namespace": "ns", "uid": "u-1", "generation": 1},
            "spec": {"voters": {"replicas": 1}},
        }),
    );
    let settings = Settings {
        node_image: "node:1".into(),
        cluster_domain: "cluster.local".into(),
    };
    let ctx = Context::new(api.client(), Silent, settings);
    (api, ctx)
}

async fn turn(
    api: &Api,
    ctx: &Context<Silent>,
    memory: &mut Memory,
) -> Result<Outcome, BackendError> {
    let now = Timestamp::from_second(1_000_000).unwrap();
    pass(ctx, api.ensemble(), api.view(), memory, now).await
}

#[tokio::test]
async fn a_new_ensemble_is_decided_before_anything_is_made_and_rests_without_a_call() {
    let (api, ctx) = begin();
    let mut memory = Memory::default();
    turn(&api, &ctx, &mut memory)
        .await
        .unwrap()
        .done
        .unwrap()
        .unwrap();
    let first = api.take_requests();
    let expected = [
        "GET zookeeperensembles/demo",
        "GET pods",
        "GET persistentvolumeclaims",
        "GET configmaps",
        "PUT zookeeperensembles/demo/status",
        "POST events",
        "GET secrets/demo-super",
        "POST secrets",
        "POST persistentvolumeclaims",
        "PATCH services/demo-headless",
        "PATCH services/demo-client",
        "PATCH configmaps/demo",
        "PATCH networkpolicies/demo",
    ];
    let shown: Vec<&str> = first.iter().map(String::as_str).collect();
    assert_eq!(shown[..9], expected[..9]);
    assert!(
        expected[9..]
            .iter()
            .all(|request| shown[9..].contains(request)),
        "{shown:?}"
    );
    assert_eq!(
        api.ensemble()
            .status
            .as_ref()
            .unwrap()
            .initial
            .as_ref()
            .unwrap()
            .voters,
        [1]
    );

    turn(&api, &ctx, &mut memory)
        .await
        .unwrap()
        .done
        .unwrap()
        .unwrap();
    let second = api.take_requests();
    let at = |request: &str| second.iter().position(|it| it == request).expect(request);
    let (config, started, pod) = (
        at("PATCH configmaps/demo-1"),
        at("PATCH persistentvolumeclaims/data-demo-1"),
        at("POST pods"),
    );
    assert!(config < started && started < pod, "{second:?}");

    let waits = turn(&api, &ctx, &mut memory).await.unwrap();
    assert!(waits.plan.waiting.is_some(), "{:?}", waits.plan);
    api.take_requests();
    turn(&api, &ctx, &mut memory).await.unwrap();
    assert_eq!(
        api.take_requests(),
        Vec::<String>::new(),
        "nothing changes, and nothing is asked"
    );
}

#[tokio::test]
async fn a_status_that_somebody_else_wrote_first_stops_the_pass_without_a_word() {
    let (api, ctx) = begin();
    let mut memory = Memory::default();
    api.refuse("PUT zookeeperensembles/demo/status", 409);
    let error = turn(&api, &ctx, &mut memory).await.unwrap_err();
    assert_eq!(error.class(), Class::Outdated);
    let requests = api.take_requests();
    assert!(
        !requests.iter().any(|it| it.starts_with("POST")),
        "{requests:?}"
    );
}

#[tokio::test]
async fn a_refusal_is_told_once_and_stands_in_the_status() {
    let (api, ctx) = begin();
    let mut memory = Memory::default();
    api.refuse("POST persistentvolumeclaims", 403);
    for _ in 0..3 {
        let done = turn(&api, &ctx, &mut memory).await.unwrap().done.unwrap();
        assert_eq!(done.unwrap_err().class(), Class::Refused);
    }
    let requests = api.take_requests();
    let events = requests.iter().filter(|it| *it == "POST events").count();
    assert_eq!(
        events, 2,
        "one for the step and one for the refusal: {requests:?}"
    );
    let ensemble = api.ensemble();
    let words = ensemble
        .status
        .as_ref()
        .unwrap()
        .plan
        .last_error
        .clone()
        .unwrap();
    assert_eq!(words, "creating claim data-demo-1: refused with 403");
}

#[tokio::test]
async fn an_object_of_somebody_else_is_not_taken_over() {
    let (api, ctx) = begin();
    let mut memory = Memory::default();
    let theirs =
        json!({"kind": "Service", "metadata": {"name": "demo-client", "labels": {"app": "shop"}}});
    api.put("services/demo-client", theirs);
    // What went wrong with a shared object stands in the status of the next pass.
    for _ in 0..2 {
        turn(&api, &ctx, &mut memory).await.unwrap();
    }
    let requests = api.take_requests();
    assert!(
        requests.contains(&"PATCH services/demo-headless".into()),
        "its other objects are made: {requests:?}"
    );
    assert!(!requests.contains(&"PATCH services/demo-client".into()));
    let ensemble = api.ensemble();
    let words = ensemble.status.as_ref().unwrap().plan.last_error.clone();
    assert_eq!(
        words.as_deref(),
        Some(
            "there is a Service demo-client that is not this ensemble's: delete or rename it, or give the ensemble another name"
        )
    );
}

const ENSEMBLE: &str = "zookeeperensembles/demo";
