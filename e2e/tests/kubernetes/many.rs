//! Fifty ensembles and one operator: what it costs while nothing happens.
//!
//!     ZK_E2E_KUBERNETES=all cargo test -p e2e --test kubernetes fifty

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use e2e::kube::ensemble::{KIND, Seen, Wanted};
use e2e::kube::operator::{CONTAINER, Operator, sum};
use e2e::report::say;
use serde_json::Value;

use crate::Stage;

const ENSEMBLES: usize = 50;
const PATIENCE: Duration = Duration::from_secs(900);
/// How long the operator is watched at rest.
const REST: Duration = Duration::from_secs(120);
/// More would show that something is asked over and over.
const CALLS_A_MINUTE_MAX: f64 = 120.0;

/// The smallest there is. Fifty servers on one machine: their probes come less often.
const MORE: &str = "  resources: {requests: {cpu: 1m, memory: 8Mi}}\n  pod:\n    overrides:\n      spec:\n        containers:\n        \
                    - {name: zookeeper, readinessProbe: {periodSeconds: 30}, livenessProbe: {periodSeconds: 60}, startupProbe: {periodSeconds: 5}}\n";

#[test]
fn fifty_ensembles_cost_next_to_nothing_at_rest() -> Result<()> {
    let Some(stage) = Stage::set_for_all("fifty ensembles", "many")? else {
        return Ok(());
    };
    let begin = Instant::now();
    let manifests: Vec<String> = (1..=ENSEMBLES)
        .map(|place| {
            let wanted = Wanted {
                more: MORE.into(),
                ..Wanted::new(1, 0)
            };
            wanted.manifest(&format!("e{place}"))
        })
        .collect();
    stage.namespace().apply(&manifests.join("---\n"))?;
    stage
        .operator
        .cluster
        .wait("all of them to be ready", PATIENCE, || {
            let all = stage.namespace().list(KIND, "")?;
            let ready = all
                .into_iter()
                .filter(|it| Seen(it.clone()).is_at_rest())
                .count();
            Ok((ready == ENSEMBLES).then_some(()))
        })?;
    say(format!(
        "{ENSEMBLES} ensembles ready after {:.0} s",
        begin.elapsed().as_secs_f64()
    ));
    // What the last changes have set off comes to its end.
    std::thread::sleep(Duration::from_secs(30));
    let acting = stage.operator.wait_acting()?;
    let before = Cost::now(stage.operator, &acting)?;
    std::thread::sleep(REST);
    let after = Cost::now(stage.operator, &acting)?;
    let minutes = (after.at - before.at).as_secs_f64() / 60.0;
    let calls = (after.calls - before.calls) / minutes;
    say(format!(
        "at rest, {ENSEMBLES} ensembles: {calls:.1} API calls a minute of the acting operator, {:.1} of everybody; its CPU {:.2} % \
         of a core, its memory {:.1} MiB",
        (after.all_calls - before.all_calls) / minutes,
        (after.cpu_s - before.cpu_s) / minutes / 60.0 * 100.0,
        after.memory / 1_048_576.0
    ));
    for (call, count) in &after.by_call {
        let more = count - before.by_call.get(call).copied().unwrap_or_default();
        if more > 0.0 {
            say(format!("    {call}: {:.1} a minute", more / minutes));
        }
    }
    ensure!(
        calls <= CALLS_A_MINUTE_MAX,
        "{calls:.0} API calls a minute at rest"
    );
    stage.passed()
}

/// What an operator has used so far.
struct Cost {
    at: Instant,
    calls: f64,
    by_call: BTreeMap<String, f64>,
    all_calls: f64,
    cpu_s: f64,
    memory: f64,
}

impl Cost {
    fn now(operator: Operator, pod: &str) -> Result<Self> {
        let text = operator.metrics_of(pod)?;
        let name = "zookeeper_operator_api_requests_total";
        let lines = text.lines().filter(|line| line.starts_with(name));
        let by_call = lines.filter_map(|line| {
            let (series, value) = line.rsplit_once(' ')?;
            Some((
                series.trim_start_matches(name).to_owned(),
                value.parse().ok()?,
            ))
        });
        let by_call: BTreeMap<String, f64> = by_call.collect();
        let server = operator.cluster.kubectl(&["get", "--raw", "/metrics"])?;
        let all_calls =
            sum(&server, "apiserver_request_total", &[]).context("the API server counts")?;
        let found = operator
            .pods()?
            .into_iter()
            .find(|other| other["metadata"]["name"] == *pod);
        let found = found.context("the acting operator's pod is there")?;
        let node = text_of(&found["spec"]["nodeName"]);
        let path = format!("/api/v1/nodes/{node}/proxy/metrics/resource");
        let kubelet = operator.cluster.kubectl(&["get", "--raw", &path])?;
        let labels = [("pod", pod), ("container", CONTAINER)];
        let of_pod = |name: &str| {
            let line = |line: &&str| {
                line.starts_with(name)
                    && labels
                        .iter()
                        .all(|(key, value)| line.contains(&format!("{key}=\"{value}\"")))
            };
            // "name{labels} VALUE TIMESTAMP"
            let line = kubelet.lines().find(line)?;
            line.rsplit(' ').nth(1)?.parse::<f64>().ok()
        };
        Ok(Self {
            at: Instant::now(),
            calls: by_call.values().sum(),
            by_call,
            all_calls,
            cpu_s: of_pod("container_cpu_usage_seconds_total").context("its CPU time is known")?,
            memory: of_pod("container_memory_working_set_bytes").context("its memory is known")?,
        })
    }
}

fn text_of(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}
