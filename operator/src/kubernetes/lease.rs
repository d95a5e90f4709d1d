//! The lease: of several operators, one acts.
//!
//! A lease is no fence: a process that was suspended believes in a lease that it has lost. So every write asks
//! [`Fence`] first, which knows until when the lease is certainly ours, and the writes themselves carry
//! preconditions. Renewals go through a client and a task of their own, so that nothing else can delay them.
//!
//! Others' clocks are not trusted: a lease has run out when its record has not changed for its duration, measured
//! here from the moment at which the record was first seen.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client};
use tokio::sync::watch;
use tokio::time::Instant;

use super::api::{ApiError, call_within};
use crate::backend::Class;

/// Names of the lease and of this process.
#[derive(Clone, Debug)]
pub struct LeaseName {
    /// `metadata.name`.
    pub name: String,
    /// `metadata.namespace`.
    pub namespace: String,
    /// This process, as the lease names its holder. No two processes that run may share it.
    pub identity: String,
}

/// Tells whether this process may act.
#[derive(Clone, Debug)]
pub struct Fence(Option<watch::Receiver<Option<Instant>>>);

impl Fence {
    /// For a process that is alone.
    pub fn open() -> Self {
        Self(None)
    }

    /// Whether the lease is certainly ours.
    pub fn holds(&self) -> bool {
        self.0
            .as_ref()
            .is_none_or(|until| until.borrow().is_some_and(|until| Instant::now() < until))
    }

    /// Refuses when the lease is not certainly ours.
    pub fn check(&self, what: &str) -> Result<(), ApiError> {
        if self.holds() {
            return Ok(());
        }
        Err(ApiError {
            what: what.to_owned(),
            why: "this operator does not hold its lease any more".into(),
            class: Class::Deposed,
        })
    }

    /// Waits until the lease is ours for the first time.
    pub async fn acquired(&mut self) {
        if let Some(until) = &mut self.0 {
            // An error means that the keeper has ended, and with it the process.
            let _ = until.wait_for(Option::is_some).await;
        }
    }
}

/// Keeps the lease.
pub struct Keeper {
    api: Api<Lease>,
    name: LeaseName,
    until: watch::Sender<Option<Instant>>,
    seen: Option<Sighting>,
}

/// A record of the lease, and since when it has been the same.
#[derive(Clone, Debug)]
struct Sighting {
    lease: Lease,
    since: Instant,
}

/// What to do about the lease.
#[derive(Debug, PartialEq)]
enum Move {
    /// There is none: make it.
    Create,
    /// It is ours, or free, or has run out: write this record over it.
    Write(LeaseSpec),
    /// Another holds it.
    Wait,
}

impl Keeper {
    /// A keeper, and the fence that it moves. `client` must be used by nobody else.
    pub fn new(client: Client, name: LeaseName) -> (Self, Fence) {
        let (until, fence) = watch::channel(None);
        let keeper = Self {
            api: Api::namespaced(client, &name.namespace),
            name,
            until,
            seen: None,
        };
        (keeper, Fence(Some(fence)))
    }

    /// Keeps the lease until `stop` is done, and gives it up then; or until it is lost.
    pub async fn keep_until(mut self, stop: impl Future<Output = ()>) -> Option<LeaseLost> {
        let lost = tokio::select! {
            lost = self.keep() => Some(lost),
            () = stop => None,
        };
        if lost.is_none() {
            self.release().await;
        }
        lost
    }

    /// Takes the lease as soon as it can be had and renews it; returns when it could not be renewed in time. From then
    /// on this process must not act, and is best ended.
    async fn keep(&mut self) -> LeaseLost {
        loop {
            let held = *self.until.borrow();
            let outcome = match held {
                None => self.turn().await,
                // Past that moment an answer is of no use.
                Some(until) => tokio::time::timeout_at(until, self.turn())
                    .await
                    .unwrap_or_else(|_| {
                        Err(ApiError::unanswered("renewing the lease", REQUEST_TIMEOUT))
                    }),
            };
            match (outcome, held) {
                (Ok(true), _) => tokio::time::sleep(RENEW_EVERY).await,
                (Ok(false), Some(_)) => {
                    self.until.send_replace(None);
                    return LeaseLost("another operator has taken it".into());
                }
                (Ok(false), None) => tokio::time::sleep(RETRY_EVERY).await,
                (Err(error), None) => {
                    tracing::warn!(lease = self.name.name, %error, "the lease cannot be read or taken; trying again");
                    tokio::time::sleep(RETRY_EVERY).await;
                }
                (Err(error), Some(until)) if Instant::now() + RETRY_EVERY >= until => {
                    self.until.send_replace(None);
                    return LeaseLost(format!("it could not be renewed in time: {error}"));
                }
                (Err(error), Some(_)) => {
                    tracing::warn!(lease = self.name.name, %error, "the lease was not renewed; trying again");
                    // What we wrote may have arrived.
                    self.seen = None;
                    tokio::time::sleep(RETRY_EVERY).await;
                }
            }
        }
    }

    /// Gives the lease up, so that another operator need not wait for it to run out.
    async fn release(mut self) {
        let held = self.until.send_replace(None).is_some();
        let Some(Sighting { mut lease, .. }) = self.seen.take().filter(|_| held) else {
            return;
        };
        let spec = lease.spec.get_or_insert_default();
        spec.holder_identity = None;
        spec.renew_time = Some(MicroTime(Timestamp::now()));
        let post = PostParams::default();
        let write = self.api.replace(&self.name.name, &post, &lease);
        if let Err(error) = call_within(REQUEST_TIMEOUT, "giving up the lease", write).await {
            tracing::warn!(lease = self.name.name, %error, "the lease runs out by itself");
        }
    }

    /// One attempt to take or renew; whether the lease is ours after it.
    async fn turn(&mut self) -> Result<bool, ApiError> {
        let holds = self.until.borrow().is_some();
        if !holds || self.seen.is_none() {
            self.look().await?;
        }
        // The lease counts from before the request: its answer may be late.
        let begun = Instant::now();
        let lease = match next_move(
            self.seen.as_ref(),
            &self.name.identity,
            begun,
            Timestamp::now(),
        ) {
            Move::Wait => return Ok(false),
            Move::Create => self.create().await?,
            Move::Write(spec) => self.write(spec).await?,
        };
        let Some(lease) = lease else {
            // Somebody was quicker: see who. It need not be a rival, an edit of the lease is enough.
            self.seen = None;
            self.look().await?;
            return Ok(holds && self.is_ours());
        };
        self.seen = Some(Sighting {
            lease,
            since: begun,
        });
        self.until
            .send_replace(Some(begun + LEASE_DURATION - MARGIN));
        if !holds {
            tracing::info!(
                lease = self.name.name,
                holder = self.name.identity,
                "this operator holds the lease now"
            );
        }
        Ok(true)
    }

    fn is_ours(&self) -> bool {
        let spec = self.seen.as_ref().and_then(|seen| seen.lease.spec.as_ref());
        spec.and_then(|spec| spec.holder_identity.as_deref()) == Some(&self.name.identity)
    }

    async fn look(&mut self) -> Result<(), ApiError> {
        let found = call_within(
            REQUEST_TIMEOUT,
            "reading the lease",
            self.api.get_opt(&self.name.name),
        )
        .await?;
        let before = self.seen.take();
        self.seen = found.map(|lease| match before {
            Some(same)
                if same.lease.metadata.resource_version == lease.metadata.resource_version =>
            {
                same
            }
            _ => Sighting {
                lease,
                since: Instant::now(),
            },
        });
        Ok(())
    }

    async fn create(&self) -> Result<Option<Lease>, ApiError> {
        let lease = Lease {
            metadata: ObjectMeta {
                name: Some(self.name.name.clone()),
                namespace: Some(self.name.namespace.clone()),
                ..ObjectMeta::default()
            },
            spec: Some(taken(
                &LeaseSpec::default(),
                &self.name.identity,
                Timestamp::now(),
            )),
        };
        let post = PostParams::default();
        unless_outdated(
            call_within(
                REQUEST_TIMEOUT,
                "creating the lease",
                self.api.create(&post, &lease),
            )
            .await,
        )
    }

    /// Compare and set: the record that was seen carries the resourceVersion.
    async fn write(&self, spec: LeaseSpec) -> Result<Option<Lease>, ApiError> {
        let Some(Sighting { lease, .. }) = &self.seen else {
            return Ok(None);
        };
        let lease = Lease {
            metadata: lease.metadata.clone(),
            spec: Some(spec),
        };
        let post = PostParams::default();
        let write = self.api.replace(&self.name.name, &post, &lease);
        unless_outdated(call_within(REQUEST_TIMEOUT, "writing the lease", write).await)
    }
}

/// Why the lease is not ours any more.
#[derive(Debug, thiserror::Error)]
#[error("the lease is lost: {0}")]
pub struct LeaseLost(String);

fn unless_outdated(outcome: Result<Lease, ApiError>) -> Result<Option<Lease>, ApiError> {
    match outcome {
        Ok(lease) => Ok(Some(lease)),
        Err(error) if error.class == Class::Outdated => Ok(None),
        Err(error) => Err(error),
    }
}

/// Pure: what the record that was seen allows.
fn next_move(seen: Option<&Sighting>, identity: &str, now: Instant, clock: Timestamp) -> Move {
    let Some(Sighting { lease, since }) = seen else {
        return Move::Create;
    };
    let spec = lease.spec.clone().unwrap_or_default();
    let holder = spec
        .holder_identity
        .as_deref()
        .filter(|holder| !holder.is_empty());
    match holder {
        Some(own) if own == identity => Move::Write(LeaseSpec {
            renew_time: Some(MicroTime(clock)),
            lease_duration_seconds: Some(LEASE_DURATION.as_secs() as i32),
            ..spec
        }),
        Some(_) if now < *since + duration(&spec) => Move::Wait,
        _ => Move::Write(taken(&spec, identity, clock)),
    }
}

/// The record with a new holder.
fn taken(before: &LeaseSpec, identity: &str, clock: Timestamp) -> LeaseSpec {
    LeaseSpec {
        holder_identity: Some(identity.to_owned()),
        acquire_time: Some(MicroTime(clock)),
        renew_time: Some(MicroTime(clock)),
        lease_duration_seconds: Some(LEASE_DURATION.as_secs() as i32),
        lease_transitions: Some(before.lease_transitions.map_or(0, |count| count + 1)),
        ..before.clone()
    }
}

/// For how long its holder may believe in a record: what the record says, in case its holder is of another release.
fn duration(spec: &LeaseSpec) -> Duration {
    let seconds = spec
        .lease_duration_seconds
        .and_then(|seconds| u64::try_from(seconds).ok());
    seconds.map_or(LEASE_DURATION, Duration::from_secs)
}

/// How long others wait after the last renewal before they take the lease.
const LEASE_DURATION: Duration = Duration::from_secs(15);
/// This process stops to act so much earlier: a write that is on its way must be over by then.
const MARGIN: Duration = Duration::from_secs(5);
const RENEW_EVERY: Duration = Duration::from_secs(3);
const RETRY_EVERY: Duration = Duration::from_secs(1);
const REQUEST_TIMEOUT: Duration = Duration::from_secs(4);

#[cfg(test)]
mod tests {
    use super::*;

    fn record(holder: Option<&str>, seconds: i32, transitions: i32) -> Lease {
        Lease {
            spec: Some(LeaseSpec {
                holder_identity: holder.map(str::to_owned),
                lease_duration_seconds: Some(seconds),
                lease_transitions: Some(transitions),
                ..LeaseSpec::default()
            }),
            ..Lease::default()
        }
    }

    fn clock() -> Timestamp {
        Timestamp::from_second(1_000_000).unwrap()
    }

    /// The holder and the count of the record that would be written.
    fn written(step: &Move) -> Option<(&str, i32)> {
        let Move::Write(spec) = step else { return None };
        Some((spec.holder_identity.as_deref()?, spec.lease_transitions?))
    }

    #[test]
    fn a_lease_of_another_is_left_alone_until_it_has_stood_still_for_its_duration() {
        let since = Instant::now();
        let seen = Sighting {
            lease: record(Some("b"), 7, 3),
            since,
        };
        let at = |seconds| {
            next_move(
                Some(&seen),
                "a",
                since + Duration::from_secs(seconds),
                clock(),
            )
        };
        assert_eq!(at(6), Move::Wait);
        assert_eq!(written(&at(7)), Some(("a", 4)));
    }

    #[test]
    fn a_free_lease_is_taken_at_once_and_an_own_one_is_renewed() {
        let since = Instant::now();
        let next = |lease| next_move(Some(&Sighting { lease, since }), "a", since, clock());
        assert_eq!(written(&next(record(None, 15, 3))), Some(("a", 4)));
        assert_eq!(written(&next(record(Some(""), 15, 3))), Some(("a", 4)));
        assert_eq!(written(&next(record(Some("a"), 15, 3))), Some(("a", 3)));
        assert_eq!(next_move(None, "a", since, clock()), Move::Create);
    }

    #[test]
    fn the_fence_closes_before_anybody_else_may_act() {
        let (until, fence) = watch::channel(None);
        let fence = Fence(Some(fence));
        assert!(!fence.holds(), "not before the lease was taken");
        until.send_replace(Some(Instant::now() + Duration::from_secs(60)));
        assert!(fence.check("deleting pod demo-1").is_ok());
        until.send_replace(Some(Instant::now()));
        let error = fence.check("deleting pod demo-1").unwrap_err();
        assert_eq!(error.class, Class::Deposed);
        assert!(Fence::open().holds());
    }
}
