//! What the operator tells Prometheus about itself and about the ensembles that it keeps.

use std::time::Duration;

use prometheus::{
    Encoder, Histogram, HistogramOpts, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    TextEncoder,
};

use crate::cluster::Cluster;
use crate::crd::ZooKeeperEnsembleStatus;
use crate::status::Now;

use super::queue::Key;

/// All metrics, in a registry of their own.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: Registry,
    ensembles: Ensembles,
    steps: IntCounterVec,
    reconcile: Histogram,
    errors: IntCounterVec,
    api_requests: IntCounterVec,
    lease_held: IntGauge,
}

/// The metrics that each ensemble has.
#[derive(Clone, Debug)]
struct Ensembles {
    leader_changes: IntCounterVec,
    leader: IntGaugeVec,
    epoch: IntGaugeVec,
    leaderless: IntGaugeVec,
    voters: IntGaugeVec,
    observers: IntGaugeVec,
    config_version: IntGaugeVec,
    operation_age: IntGaugeVec,
}

impl Default for Metrics {
    fn default() -> Self {
        let registry = Registry::new();
        let build = gauges(
            &registry,
            "build_info",
            "1, with the operator's version",
            &["version"],
        );
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        let histogram = HistogramOpts::new(
            name("reconcile_seconds"),
            "Time that one pass over one ensemble took",
        )
        .buckets(prometheus::exponential_buckets(0.001, 2.5, 11).expect("the bounds grow"));
        let reconcile = Histogram::with_opts(histogram).expect("the name is valid");
        register(&registry, reconcile.clone());
        let lease_held = IntGauge::new(
            name("lease_held"),
            "1 while this process holds the lease and acts",
        )
        .expect("the name is valid");
        register(&registry, lease_held.clone());
        let counter = |short, help, labels: &[&str]| counters(&registry, short, help, labels);
        Self {
            ensembles: Ensembles::new(&registry),
            steps: counter("steps_total", "Steps that were taken", &["step", "outcome"]),
            errors: counter(
                "reconcile_errors_total",
                "Passes that failed, by class of error",
                &["class"],
            ),
            api_requests: counter(
                "api_requests_total",
                "Requests to the API server",
                &["verb", "resource"],
            ),
            reconcile,
            lease_held,
            registry,
        }
    }
}

impl Ensembles {
    fn new(registry: &Registry) -> Self {
        let gauge = |short, help| gauges(registry, short, help, &ENSEMBLE);
        let by_state = |short, help| gauges(registry, short, help, &ENSEMBLE_STATE);
        Self {
            leader_changes: counters(
                registry,
                "leader_changes_total",
                "Changes of the leader since the ensemble was made; planned=\"true\" when the operator or an eviction caused them",
                &["namespace", "ensemble", "planned"],
            ),
            leader: gauge(
                "ensemble_leader",
                "Server id of the leader; 0 while there is none",
            ),
            epoch: gauge("ensemble_epoch", "Epoch of the last known leader"),
            leaderless: gauge(
                "ensemble_leaderless_seconds",
                "Time for which no leader has been known; 0 while there is one",
            ),
            voters: by_state(
                "ensemble_voters",
                "Voters that are wanted, committed and healthy",
            ),
            observers: by_state("ensemble_observers", "Observers that are wanted and ready"),
            config_version: gauge(
                "ensemble_config_version",
                "Version of the committed membership",
            ),
            operation_age: gauge(
                "operation_age_seconds",
                "Time for which the operation in progress has been going on; 0 when there is none",
            ),
        }
    }
}

impl Metrics {
    /// The counter for [`super::traffic::Traffic`].
    pub fn api_requests(&self) -> IntCounterVec {
        self.api_requests.clone()
    }

    /// Whether this process acts.
    pub fn set_lease_held(&self, held: bool) {
        self.lease_held.set(held.into());
    }

    /// One pass took so long.
    pub fn pass_took(&self, time: Duration) {
        self.reconcile.observe(time.as_secs_f64());
    }

    /// One pass failed.
    pub fn pass_failed(&self, class: &str) {
        self.errors.with_label_values(&[class]).inc();
    }

    /// One step was taken.
    pub fn step(&self, step: &str, worked: bool) {
        let outcome = if worked { "done" } else { "failed" };
        self.steps.with_label_values(&[step, outcome]).inc();
    }

    /// Takes over what a pass found.
    pub fn show(
        &self,
        cluster: &Cluster,
        status: &ZooKeeperEnsembleStatus,
        voters: Voters,
        now: Now,
    ) {
        let labels = [cluster.namespace.as_str(), cluster.name.as_str()];
        let set = |gauges: &IntGaugeVec, value: i64| gauges.with_label_values(&labels).set(value);
        let set_state = |gauges: &IntGaugeVec, state, value: usize| {
            let labels = [labels[0], labels[1], state];
            gauges.with_label_values(&labels).set(count(value));
        };
        for (planned, changes) in [
            ("true", status.leader_changes.planned),
            ("false", status.leader_changes.unplanned),
        ] {
            raise(
                &self.ensembles.leader_changes,
                &[labels[0], labels[1], planned],
                changes,
            );
        }
        set(&self.ensembles.leader, status.leader.map_or(0, i64::from));
        set(&self.ensembles.epoch, status.epoch.unwrap_or_default());
        set(&self.ensembles.leaderless, leaderless_s(status, now));
        let version = status.config_version.as_deref();
        let version = version.and_then(|version| i64::from_str_radix(version, 16).ok());
        set(&self.ensembles.config_version, version.unwrap_or_default());
        let operation = status.operation.as_ref();
        set(
            &self.ensembles.operation_age,
            operation.map_or(0, |operation| since_s(operation.started_at.0, now)),
        );
        set_state(&self.ensembles.voters, "wanted", cluster.voters.replicas);
        set_state(&self.ensembles.voters, "committed", voters.committed);
        set_state(&self.ensembles.voters, "healthy", voters.healthy);
        set_state(
            &self.ensembles.observers,
            "wanted",
            cluster.observers.replicas,
        );
        set_state(
            &self.ensembles.observers,
            "ready",
            usize::try_from(status.ready_observers).unwrap_or_default(),
        );
    }

    /// Drops an ensemble that is no more.
    pub fn forget(&self, key: &Key) {
        let labels = [key.namespace.as_str(), key.name.as_str()];
        // An error says that there was nothing to drop.
        for gauges in [
            &self.ensembles.leader,
            &self.ensembles.epoch,
            &self.ensembles.leaderless,
            &self.ensembles.config_version,
            &self.ensembles.operation_age,
        ] {
            let _ = gauges.remove_label_values(&labels);
        }
        for state in ["wanted", "committed", "healthy", "ready"] {
            let labels = [labels[0], labels[1], state];
            let _ = self.ensembles.voters.remove_label_values(&labels);
            let _ = self.ensembles.observers.remove_label_values(&labels);
        }
        for planned in ["true", "false"] {
            let _ = self
                .ensembles
                .leader_changes
                .remove_label_values(&[labels[0], labels[1], planned]);
        }
    }

    /// The text that Prometheus reads.
    pub fn text(&self) -> Result<Vec<u8>, prometheus::Error> {
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(text)
    }
}

/// Numbers of voters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Voters {
    /// In the committed membership.
    pub committed: usize,
    /// Of those, the ones that serve.
    pub healthy: usize,
}

/// The status dates the moment at which the quorum went, so that the time survives the operator.
fn leaderless_s(status: &ZooKeeperEnsembleStatus, now: Now) -> i64 {
    if status.leader.is_some() {
        return 0;
    }
    let mut conditions = status.conditions.iter();
    let lost = conditions.find(|it| it.type_ == "Available" && it.status == "False");
    lost.map_or(0, |lost| since_s(lost.last_transition_time.0, now))
}

fn since_s(then: Now, now: Now) -> i64 {
    (now.as_second() - then.as_second()).max(0)
}

/// Brings a counter to a value that is kept elsewhere.
fn raise(counters: &IntCounterVec, labels: &[&str], value: i64) {
    let counter = counters.with_label_values(labels);
    let value = u64::try_from(value).unwrap_or_default();
    if value < counter.get() {
        // Another ensemble of the same name.
        counter.reset();
    }
    counter.inc_by(value - counter.get());
}

fn count(value: usize) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn name(short: &str) -> String {
    format!("zookeeper_operator_{short}")
}

fn gauges(registry: &Registry, short: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
    let gauges = IntGaugeVec::new(Opts::new(name(short), help), labels).expect("the name is valid");
    register(registry, gauges.clone());
    gauges
}

fn counters(registry: &Registry, short: &str, help: &str, labels: &[&str]) -> IntCounterVec {
    let counters =
        IntCounterVec::new(Opts::new(name(short), help), labels).expect("the name is valid");
    register(registry, counters.clone());
    counters
}

fn register(registry: &Registry, collector: impl prometheus::core::Collector + 'static) {
    registry
        .register(Box::new(collector))
        .expect("each name is registered once");
}

const ENSEMBLE: [&str; 2] = ["namespace", "ensemble"];
const ENSEMBLE_STATE: [&str; 3] = ["namespace", "ensemble", "state"];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crd::status::LeaderChanges;

    fn shown(metrics: &Metrics, planned: i64, unplanned: i64) -> String {
        let manifest = "{apiVersion: zookeeper.ensemble.dev/v1alpha1, kind: ZooKeeperEnsemble, metadata: {name: demo, namespace: ns}, spec: {}}";
        let ensemble = crate::validate::parse(manifest).unwrap();
        let cluster = crate::validate::validate(&ensemble).unwrap();
        let status = ZooKeeperEnsembleStatus {
            leader_changes: LeaderChanges {
                last_leader: None,
                planned,
                unplanned,
                expected_after_epoch: None,
            },
            ..ZooKeeperEnsembleStatus::default()
        };
        let now = Now::from_second(1_000_000).unwrap();
        metrics.show(&cluster, &status, Voters::default(), now);
        String::from_utf8(metrics.text().unwrap()).unwrap()
    }

    #[test]
    fn leader_changes_are_those_of_the_status_and_go_with_the_ensemble() {
        let metrics = Metrics::default();
        let line = |planned, count| {
            format!(
                "zookeeper_operator_leader_changes_total{{ensemble=\"demo\",namespace=\"ns\",planned=\"{planned}\"}} {count}\n"
            )
        };
        shown(&metrics, 2, 1);
        let text = shown(&metrics, 5, 1);
        assert!(text.contains(&line("true", 5)), "{text}");
        assert!(text.contains(&line("false", 1)), "{text}");
        assert!(
            shown(&metrics, 0, 0).contains(&line("true", 0)),
            "another of the same name"
        );
        metrics.forget(&Key {
            namespace: "ns".into(),
            name: "demo".into(),
        });
        let text = String::from_utf8(metrics.text().unwrap()).unwrap();
        assert!(!text.contains("demo"), "{text}");
    }
}
