//! A layer in the client: counts the requests by verb and resource, and spreads bursts.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use http::{Method, Request};
use prometheus::IntCounterVec;
use tokio::time::Instant;
use tower::{Layer, Service};

/// Counts and spreads what goes through it. Clones share one budget.
#[derive(Clone, Debug)]
pub struct Traffic {
    requests: IntCounterVec,
    budget: Arc<Mutex<Budget>>,
}

impl Traffic {
    /// `requests` has the labels `verb` and `resource`.
    pub fn new(requests: IntCounterVec) -> Self {
        Self {
            requests,
            budget: Arc::new(Mutex::new(Budget::new(Instant::now()))),
        }
    }
}

impl<S> Layer<S> for Traffic {
    type Service = Measured<S>;

    fn layer(&self, inner: S) -> Measured<S> {
        Measured {
            traffic: self.clone(),
            inner: Arc::new(tokio::sync::Mutex::new(inner)),
        }
    }
}

/// A client's service behind [`Traffic`].
#[derive(Debug)]
pub struct Measured<S> {
    traffic: Traffic,
    inner: Arc<tokio::sync::Mutex<S>>,
}

impl<S, B> Service<Request<B>> for Measured<S>
where
    S: Service<Request<B>> + Send + 'static,
    S::Future: Send,
    S::Error: Send,
    B: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let (verb, resource) = kind_of(request.method(), request.uri());
        self.traffic
            .requests
            .with_label_values(&[verb, resource.as_str()])
            .inc();
        let start = {
            let budget = &self.traffic.budget;
            let mut budget = budget.lock().unwrap_or_else(PoisonError::into_inner);
            budget.next(Instant::now())
        };
        let inner = Arc::clone(&self.inner);
        Box::pin(async move {
            tokio::time::sleep_until(start).await;
            let answer = {
                let mut inner = inner.lock().await;
                std::future::poll_fn(|context| inner.poll_ready(context)).await?;
                inner.call(request)
            };
            answer.await
        })
    }
}

/// Gives each request its time: at once while the burst lasts, then at a steady rate.
#[derive(Debug)]
struct Budget {
    /// When the next request would be due if all of them came at the steady rate.
    next: Instant,
}

impl Budget {
    fn new(now: Instant) -> Self {
        Self { next: now }
    }

    fn next(&mut self, now: Instant) -> Instant {
        let burst = INTERVAL * BURST;
        self.next = self.next.max(now) + INTERVAL;
        self.next.checked_sub(burst).map_or(now, |due| due.max(now))
    }
}

/// The verb as access rules name it, and the resource with its subresource.
fn kind_of(method: &Method, uri: &http::Uri) -> (&'static str, String) {
    let mut parts = uri.path().split('/').filter(|part| !part.is_empty());
    let core = parts.next() == Some("api");
    let version = parts.nth(if core { 0 } else { 1 });
    let mut rest: Vec<&str> = parts.collect();
    if rest.len() > 2 && rest[0] == "namespaces" {
        rest.drain(..2);
    }
    let (resource, name, sub) = match rest.as_slice() {
        _ if version.is_none() => ("", None, None),
        [] => ("", None, None),
        [resource] => (*resource, None, None),
        [resource, name] => (*resource, Some(*name), None),
        [resource, name, sub, ..] => (*resource, Some(*name), Some(*sub)),
    };
    let watches = uri.query().is_some_and(|query| {
        query
            .split('&')
            .any(|pair| matches!(pair, "watch=true" | "watch=1"))
    });
    let verb = match (method, name) {
        (&Method::GET, _) if watches => "watch",
        (&Method::GET, None) if !resource.is_empty() => "list",
        (&Method::GET, _) => "get",
        (&Method::POST, _) => "create",
        (&Method::PUT, _) => "update",
        (&Method::PATCH, _) => "patch",
        (&Method::DELETE, None) => "deletecollection",
        (&Method::DELETE, Some(_)) => "delete",
        _ => "other",
    };
    let resource = match sub {
        Some(sub) => format!("{resource}/{sub}"),
        None => resource.to_owned(),
    };
    (verb, resource)
}

/// At the steady rate, 50 requests a second.
const INTERVAL: Duration = Duration::from_millis(20);
/// As many as this may go at once.
const BURST: u32 = 100;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_named_as_access_rules_name_them() {
        let cases = [
            (
                Method::GET,
                "/api/v1/namespaces/ns/pods/demo-1",
                "get",
                "pods",
            ),
            (
                Method::GET,
                "/api/v1/namespaces/ns/pods?labelSelector=x",
                "list",
                "pods",
            ),
            (
                Method::GET,
                "/api/v1/pods?watch=true&labelSelector=x",
                "watch",
                "pods",
            ),
            (Method::GET, "/api/v1/nodes?&limit=500", "list", "nodes"),
            (
                Method::PUT,
                "/apis/zookeeper.ensemble.dev/v1alpha1/namespaces/ns/zookeeperensembles/demo/status",
                "update",
                "zookeeperensembles/status",
            ),
            (
                Method::PATCH,
                "/apis/policy/v1/namespaces/ns/poddisruptionbudgets/demo-voters?fieldManager=x",
                "patch",
                "poddisruptionbudgets",
            ),
            (
                Method::POST,
                "/apis/events.k8s.io/v1/namespaces/ns/events?",
                "create",
                "events",
            ),
            (
                Method::DELETE,
                "/api/v1/namespaces/ns/persistentvolumeclaims/data-demo-1",
                "delete",
                "persistentvolumeclaims",
            ),
            (Method::GET, "/version", "get", ""),
        ];
        for (method, uri, verb, resource) in cases {
            let found = kind_of(&method, &uri.parse().unwrap());
            assert_eq!(found, (verb, resource.to_owned()), "{method} {uri}");
        }
    }

    #[test]
    fn a_burst_goes_at_once_and_the_rest_at_a_steady_rate() {
        let now = Instant::now();
        let mut budget = Budget::new(now);
        let at_once = (0..300).filter(|_| budget.next(now) == now).count();
        assert_eq!(at_once, BURST as usize);
        assert_eq!(budget.next(now) - now, INTERVAL * 201);
        let later = now + INTERVAL * 300;
        assert_eq!(budget.next(later), later);
    }
}
