//! The API server's door: requests as `kube` sends them, answered from the store. Here an operator dies in the middle
//! of a request, and requests fail that were carried out all the same.

use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use ::http::{Method, Request, Response};
use futures::future::BoxFuture;
use kube::client::Body;
use serde_json::{Value, json};
use tokio::sync::{Notify, Semaphore};

use super::safety;
use super::store::{Deletion, Key, Refusal, selected};
use super::world::{Crash, Shared, World};

/// One life of an operator: its requests end when it dies.
#[derive(Clone, Debug)]
pub struct Life {
    pub world: Shared,
    pub id: u64,
    /// Told when it dies.
    pub died: Arc<Notify>,
    /// Lets one request through for each permit, when the order of two operators' requests matters.
    pub gate: Option<Arc<Semaphore>>,
}

/// The service under a `kube::Client`.
#[derive(Clone, Debug)]
pub struct Api(pub Life);

/// What becomes of a request.
enum Fate {
    Answer,
    /// Carried out or not, the operator does not live to see it.
    Die {
        carried_out: bool,
    },
    /// Refused, without being carried out.
    Refuse(Refusal),
    /// Carried out or not, no answer comes.
    Lost {
        carried_out: bool,
    },
}

struct Call {
    verb: &'static str,
    key: Key,
    subresource: Option<String>,
    query: String,
    content: String,
    body: Value,
}

impl Life {
    pub fn new(world: &Shared, id: u64) -> Self {
        world.lock().alive.insert(id);
        Self {
            world: world.clone(),
            id,
            died: Arc::new(Notify::new()),
            gate: None,
        }
    }

    /// Waits for the turn of this request, and asks what becomes of it. Comes back only to those that live.
    async fn begin(&self, what: &str, writes: bool) -> Fate {
        if let Some(gate) = &self.gate {
            gate.acquire().await.expect("a gate stays").forget();
        }
        if !self.world.lock().alive.contains(&self.id) {
            std::future::pending::<()>().await;
        }
        let mut world = self.world.lock();
        world.requests += 1;
        world.writes += u64::from(writes);
        // Before and after an event the world is the same, but for the event.
        if writes && !what.contains(" events/") {
            world.record();
        }
        let fate = world.fate();
        let suffix = match &fate {
            Fate::Answer => String::new(),
            Fate::Die { carried_out } => format!(" (dies; carried out: {carried_out})"),
            Fate::Refuse(refusal) => format!(" (refused: {})", refusal.reason),
            Fate::Lost { carried_out } => format!(" (no answer; carried out: {carried_out})"),
        };
        world.note(format!("operator {}: {what}{suffix}", self.id));
        if matches!(fate, Fate::Die { .. }) {
            world.alive.remove(&self.id);
        }
        fate
    }

    async fn die<T>(&self) -> T {
        self.died.notify_one();
        std::future::pending().await
    }

    /// Runs a request that is not HTTP under the same fates. `None`: no answer came.
    pub async fn request<T>(
        &self,
        what: &str,
        carry_out: impl FnOnce(&mut World) -> T,
    ) -> Option<T> {
        match self.begin(what, true).await {
            Fate::Answer => Some(carry_out(&mut self.world.lock())),
            Fate::Die { carried_out } => {
                if carried_out {
                    carry_out(&mut self.world.lock());
                }
                self.die().await
            }
            Fate::Lost { carried_out: true } => {
                carry_out(&mut self.world.lock());
                None
            }
            Fate::Lost { carried_out: false } | Fate::Refuse(_) => None,
        }
    }

    /// Runs a question that changes nothing.
    pub async fn question<T>(&self, ask: impl FnOnce(&mut World) -> T) -> T {
        if let Some(gate) = &self.gate {
            gate.acquire().await.expect("a gate stays").forget();
        }
        ask(&mut self.world.lock())
    }
}

impl World {
    fn fate(&mut self) -> Fate {
        if let Some(Crash { after, carried_out }) = self.crash {
            if after == 0 {
                self.crash = None;
                return Fate::Die { carried_out };
            }
            self.crash = Some(Crash {
                after: after - 1,
                carried_out,
            });
        }
        let Some(trouble) = &mut self.trouble else {
            return Fate::Answer;
        };
        if !trouble.random.chance(trouble.percent) {
            return Fate::Answer;
        }
        let refusal = |code, reason, message: &str| {
            Fate::Refuse(Refusal {
                code,
                reason,
                message: message.into(),
            })
        };
        match trouble.random.below(5) {
            0 => refusal(
                409,
                "Conflict",
                "the object has been modified; please apply your changes to the latest version",
            ),
            1 => refusal(500, "InternalError", "etcdserver: leader changed"),
            2 => refusal(429, "TooManyRequests", "the server is busy"),
            at => Fate::Lost {
                carried_out: at == 3,
            },
        }
    }
}

impl tower::Service<Request<Body>> for Api {
    type Response = Response<Body>;
    type Error = std::io::Error;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let life = self.0.clone();
        Box::pin(async move {
            let (parts, body) = request.into_parts();
            let body = body.collect_bytes().await.map_err(std::io::Error::other)?;
            let call = Call::read(&parts, &body).map_err(std::io::Error::other)?;
            let what = format!("{} {}{}", call.verb, call.key.resource, call.place());
            match life.begin(&what, call.writes()).await {
                Fate::Answer => Ok(respond(life.world.lock().handle(life.id, &call))),
                Fate::Refuse(refusal) => Ok(respond(Err(refusal))),
                Fate::Die { carried_out } => {
                    if carried_out {
                        let _ = life.world.lock().handle(life.id, &call);
                    }
                    life.die().await
                }
                Fate::Lost { carried_out } => {
                    if carried_out {
                        let _ = life.world.lock().handle(life.id, &call);
                    }
                    Err(std::io::Error::new(
                        std::io::ErrorKind::TimedOut,
                        "no answer in time",
                    ))
                }
            }
        })
    }
}

impl Call {
    fn read(parts: &::http::request::Parts, body: &[u8]) -> Result<Self, String> {
        let path: Vec<&str> = parts
            .uri
            .path()
            .split('/')
            .filter(|part| !part.is_empty())
            .collect();
        let (["api", _, rest @ ..] | ["apis", _, _, rest @ ..]) = path.as_slice() else {
            return Err(format!("no such path: {}", parts.uri));
        };
        let (namespace, rest) = match rest {
            ["namespaces", namespace, rest @ ..] if !rest.is_empty() => (*namespace, rest),
            rest => ("", rest),
        };
        let resource = rest.first().copied().unwrap_or_default();
        let name = rest.get(1).copied().unwrap_or_default();
        let verb = match (&parts.method, name.is_empty()) {
            (&Method::GET, true) => "list",
            (&Method::GET, false) => "get",
            (&Method::POST, _) => "create",
            (&Method::PUT, _) => "update",
            (&Method::PATCH, _) => "patch",
            (&Method::DELETE, false) => "delete",
            (method, _) => return Err(format!("{method} {} is not modelled", parts.uri)),
        };
        let content = parts
            .headers
            .get("content-type")
            .and_then(|value| value.to_str().ok());
        let body = match body {
            [] => Value::Null,
            body => {
                serde_json::from_slice(body).map_err(|error| format!("{}: {error}", parts.uri))?
            }
        };
        let name = if name.is_empty() {
            body["metadata"]["name"].as_str().unwrap_or_default()
        } else {
            name
        };
        Ok(Self {
            verb,
            key: Key::new(resource, namespace, if verb == "list" { "" } else { name }),
            subresource: rest.get(2).map(|it| (*it).to_owned()),
            query: parts.uri.query().unwrap_or_default().to_owned(),
            content: content.unwrap_or_default().to_owned(),
            body,
        })
    }

    fn place(&self) -> String {
        let Key { name, .. } = &self.key;
        match &self.subresource {
            Some(subresource) => format!("/{name}/{subresource}"),
            None if name.is_empty() => String::new(),
            None => format!("/{name}"),
        }
    }

    fn writes(&self) -> bool {
        !matches!(self.verb, "get" | "list")
    }

    fn parameter(&self, name: &str) -> Option<String> {
        let pairs = self
            .query
            .split('&')
            .filter_map(|pair| pair.split_once('='));
        let mut found = pairs
            .filter(|(key, _)| *key == name)
            .map(|(_, value)| value);
        found.next().map(decode)
    }
}

impl World {
    fn handle(&mut self, operator: u64, call: &Call) -> Result<Vec<u8>, Refusal> {
        let resource = match &call.subresource {
            Some(subresource) => format!("{}/{subresource}", call.key.resource),
            None => call.key.resource.clone(),
        };
        let absent = self.store.find(&call.key).is_none();
        if call.verb == "patch" && absent {
            // An apply that makes an object needs leave to make one.
            self.note_call(operator, "create", &resource);
        }
        self.note_call(operator, call.verb, &resource);
        safety::before(self, operator, call.verb, &call.key, &call.body);
        let subresource = call.subresource.as_deref();
        let answer = match call.verb {
            "list" => return Ok(self.list(operator, call)),
            "get" => self.store.get(&call.key)?,
            "create" if subresource.is_some() => return Err(unsupported(call)),
            "create" => self.store.create(&call.key, call.body.clone())?,
            "update" => self
                .store
                .replace(&call.key, call.body.clone(), subresource)?,
            "patch" => match call.content.as_str() {
                "application/apply-patch+yaml" => {
                    check_apply(call)?;
                    self.store
                        .apply(&call.key, call.body.clone(), subresource)?
                }
                "application/merge-patch+json" => {
                    self.store.merge(&call.key, &call.body, subresource)?
                }
                _ => return Err(unsupported(call)),
            },
            _ => self.store.delete(&call.key, &deletion(&call.body))?,
        };
        self.show(operator, &answer);
        Ok(text_of(&answer).to_vec())
    }

    fn list(&mut self, operator: u64, call: &Call) -> Vec<u8> {
        let selector = call.parameter("labelSelector").unwrap_or_default();
        let namespace = &call.key.namespace;
        let items: Vec<Arc<Value>> = self
            .store
            .all(&call.key.resource)
            .filter(|(key, object)| {
                (namespace.is_empty() || key.namespace == *namespace) && selected(object, &selector)
            })
            .map(|(_, object)| object.clone())
            .collect();
        items.iter().for_each(|item| self.show(operator, item));
        let texts: Vec<Arc<[u8]>> = items.iter().map(text_of).collect();
        let version = self.store.version();
        let mut list = format!(
            r#"{{"kind":"List","apiVersion":"v1","metadata":{{"resourceVersion":"{version}"}},"items":["#
        )
        .into_bytes();
        list.extend(texts.join(&b","[..]));
        list.extend(b"]}");
        list
    }

    fn note_call(&mut self, operator: u64, verb: &str, resource: &str) {
        let called = (verb.to_owned(), resource.to_owned());
        // The model's own tests are nobody's operator.
        if operator > 0 && self.calls.insert(called.clone()) {
            let mut all = calls().lock().expect("nothing panics in between");
            all.insert(called);
        }
    }

    /// Remembers that an operator has been shown an object.
    pub fn show(&mut self, operator: u64, object: &Value) {
        if let Some(uid) = object["metadata"]["uid"].as_str() {
            let shown = self.shown.entry(operator).or_default();
            if !shown.contains(uid) {
                shown.insert(uid.to_owned());
            }
        }
    }
}

/// Verbs and resources that were called in any world.
pub fn calls() -> &'static Mutex<BTreeSet<(String, String)>> {
    static CALLS: Mutex<BTreeSet<(String, String)>> = Mutex::new(BTreeSet::new());
    &CALLS
}

/// What the real server asks of an apply.
fn check_apply(call: &Call) -> Result<(), Refusal> {
    let bad = |message: String| {
        Err(Refusal {
            code: 400,
            reason: "BadRequest",
            message,
        })
    };
    if call
        .parameter("fieldManager")
        .is_none_or(|manager| manager.is_empty())
    {
        return bad("fieldManager is required for apply patch".into());
    }
    if call.body["apiVersion"].is_null() || call.body["kind"].is_null() {
        return bad("an applied object must have apiVersion and kind".into());
    }
    if !call.body["metadata"]["managedFields"].is_null() {
        return bad("metadata.managedFields must be nil".into());
    }
    match call.body["metadata"]["name"].as_str() {
        Some(name) if name == call.key.name => Ok(()),
        name => bad(format!(
            "the name of the object ({name:?}) is not the one of the request ({})",
            call.key.name
        )),
    }
}

fn deletion(body: &Value) -> Deletion {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    Deletion {
        uid: text(&body["preconditions"]["uid"]),
        resource_version: text(&body["preconditions"]["resourceVersion"]),
        grace: body["gracePeriodSeconds"].as_i64(),
    }
}

fn unsupported(call: &Call) -> Refusal {
    let message = format!(
        "the model has no {} {} as {}",
        call.verb, call.key.resource, call.content
    );
    Refusal {
        code: 415,
        reason: "UnsupportedMediaType",
        message,
    }
}

/// An object as text, made once of each version.
fn text_of(object: &Arc<Value>) -> Arc<[u8]> {
    type Kept = HashMap<*const Value, (Arc<Value>, Arc<[u8]>)>;
    thread_local!(static KEPT: RefCell<Kept> = RefCell::default());
    KEPT.with_borrow_mut(|kept| {
        if kept.len() > KEPT_MAX {
            kept.clear();
        }
        let make = || Arc::from(serde_json::to_vec(&**object).expect("a value is JSON"));
        let (_, text) = kept
            .entry(Arc::as_ptr(object))
            .or_insert_with(|| (object.clone(), make()));
        Arc::clone(text)
    })
}

fn respond(answer: Result<Vec<u8>, Refusal>) -> Response<Body> {
    let (code, body) = answer.map_or_else(
        |Refusal {
             code,
             reason,
             message,
         }| {
            let status = json!({
                "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
                "message": message, "reason": reason, "code": code,
            });
            (code, status.to_string().into_bytes())
        },
        |object| (200, object),
    );
    let response = Response::builder()
        .status(code)
        .header("content-type", "application/json");
    let response = response.body(Body::from(body));
    response.expect("the parts are well formed")
}

/// `%2F` and the like.
fn decode(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        match byte {
            b'%' => {
                let digits: Vec<u8> = rest.by_ref().take(2).collect();
                let number = std::str::from_utf8(&digits)
                    .ok()
                    .and_then(|it| u8::from_str_radix(it, 16).ok());
                bytes.extend(number);
            }
            b'+' => bytes.push(b' '),
            byte => bytes.push(byte),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Texts that are kept.
const KEPT_MAX: usize = 4_000;
