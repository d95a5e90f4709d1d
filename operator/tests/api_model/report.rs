//! The status of pods as the kubelet writes it, and that of disruption budgets.

use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use super::kubelet::{Run, Stage};
use super::store::{Key, Refusal, rfc3339, selected};
use super::world::World;

impl World {
    /// Writes what the kubelets of the nodes that are up have to say.
    pub fn report(&mut self) {
        let runs: Vec<(String, Run)> = self
            .runs
            .iter()
            .map(|(uid, run)| (uid.clone(), run.clone()))
            .collect();
        let now = self.store.now;
        for (uid, run) in runs {
            if self
                .machines
                .get(&run.node)
                .is_none_or(|machine| machine.lost.is_some())
            {
                continue;
            }
            let ready = self.ensemble.servers.get(&uid).is_some_and(|server| {
                server.mode.serves()
                    && self.ensemble.leader.is_some()
                    && run.stage == Stage::Running
            });
            let report = Some((run.stage.clone(), ready));
            if run.reported == report {
                continue;
            }
            self.store.edit(&run.key, |pod| {
                if pod["metadata"]["uid"] == uid.as_str()
                    && !matches!(
                        pod["status"]["phase"].as_str(),
                        Some("Succeeded" | "Failed")
                    )
                {
                    write(pod, &run, ready, now);
                }
            });
            if let Some(run) = self.runs.get_mut(&uid) {
                run.reported = report;
            }
        }
    }

    /// Evicts a pod, as `kubectl drain` does: refused when a budget does not allow it.
    pub fn evict(&mut self, key: &Key) -> Result<(), Refusal> {
        let pod = self.store.get(key)?;
        let ready = |pod: &Value| condition_is(pod, "Ready", "True");
        for (budget, object) in self.store.all("poddisruptionbudgets") {
            let labels = object["spec"]["selector"]["matchLabels"]
                .as_object()
                .cloned()
                .unwrap_or_default();
            let selector: Vec<String> = labels
                .iter()
                .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
                .collect();
            let selector = selector.join(",");
            if budget.namespace != key.namespace || !selected(&pod, &selector) {
                continue;
            }
            let pods: Vec<_> = self
                .store
                .all("pods")
                .filter(|(_, pod)| selected(pod, &selector))
                .collect();
            let healthy = pods
                .iter()
                .filter(|(_, pod)| ready(pod) && pod["metadata"]["deletionTimestamp"].is_null())
                .count();
            let needed = match object["spec"]["minAvailable"].as_u64() {
                Some(least) => least as usize,
                None => {
                    pods.len() - object["spec"]["maxUnavailable"].as_u64().unwrap_or(0) as usize
                }
            };
            // A pod that is not healthy may go when the others are enough.
            if healthy < needed + usize::from(ready(&pod)) {
                let message =
                    "Cannot evict pod as it would violate the pod's disruption budget.".into();
                return Err(Refusal {
                    code: 429,
                    reason: "TooManyRequests",
                    message,
                });
            }
        }
        let now = self.store.now;
        self.note(format!("{} is evicted", key.name));
        self.store.edit(key, |pod| {
            condition(
                pod,
                "DisruptionTarget",
                "True",
                now,
                Some("EvictionByEvictionAPI"),
            )
        });
        self.store.delete(key, &Default::default()).map(|_| ())
    }
}

fn write(pod: &mut Value, run: &Run, ready: bool, now: Timestamp) {
    let started = matches!(run.stage, Stage::Running | Stage::Stopping(_));
    let over = matches!(run.stage, Stage::Stopping(0));
    let phase = match run.stage {
        Stage::Creating(_) | Stage::Pulling(_) | Stage::BadImage(_) => "Pending",
        Stage::Running | Stage::BackOff(_) | Stage::Stopping(_) => "Running",
    };
    let since = pod["status"]["startTime"]
        .as_str()
        .map_or_else(|| rfc3339(now), str::to_owned);
    let ended = run.last_exit.map(|code| {
        json!({"exitCode": code, "reason": "Error", "message": words(code), "containerID": "containerd://1"})
    });
    let waiting =
        |reason: &str, message: String| json!({"waiting": {"reason": reason, "message": message}});
    let image = pod["spec"]["containers"][0]["image"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    let state = match &run.stage {
        Stage::Creating(reason) => json!({"waiting": {"reason": reason}}),
        Stage::Pulling(_) => json!({"waiting": {"reason": "ContainerCreating"}}),
        Stage::BadImage(turn) if turn % 4 < 2 => waiting(
            "ErrImagePull",
            format!("failed to pull and unpack image \"{image}\": not found"),
        ),
        Stage::BadImage(_) => waiting(
            "ImagePullBackOff",
            format!("Back-off pulling image \"{image}\""),
        ),
        Stage::BackOff(_) => waiting(
            "CrashLoopBackOff",
            "back-off 10s restarting failed container=zookeeper".into(),
        ),
        Stage::Running => json!({"running": {"startedAt": since}}),
        Stage::Stopping(_) if !over => json!({"running": {"startedAt": since}}),
        Stage::Stopping(_) => json!({"terminated": {"exitCode": 0, "reason": "Completed"}}),
    };
    let mut container = json!({
        "name": "zookeeper", "image": image, "imageID": "", "ready": ready, "started": started && !over,
        "restartCount": run.restarts, "state": state,
    });
    if let Some(ended) = ended {
        container["lastState"] = json!({"terminated": ended});
    }
    let address = ip(pod["metadata"]["uid"].as_str().unwrap_or_default());
    let status = &mut pod["status"];
    status["phase"] = json!(phase);
    status["startTime"] = json!(since);
    status["hostIP"] = json!("10.0.0.1");
    if !matches!(run.stage, Stage::Creating(_)) {
        status["podIP"] = json!(address);
    }
    status["containerStatuses"] = json!([container]);
    let truth = if ready { "True" } else { "False" };
    condition(pod, "Ready", truth, now, None);
    condition(pod, "ContainersReady", truth, now, None);
}

/// A pod's address: another one for each pod that ever was.
pub fn ip(uid: &str) -> String {
    let number: u32 = uid
        .rsplit('-')
        .next()
        .and_then(|end| end.parse().ok())
        .unwrap_or(0);
    format!(
        "10.{}.{}.{}",
        1 + (number >> 16),
        (number >> 8) & 255,
        number & 255
    )
}

fn words(code: i32) -> &'static str {
    match code {
        3 => "the storage is damaged: snapshot.0: checksum does not match",
        2 => "zoo.cfg is not right",
        137 => "killed",
        _ => "failed",
    }
}

/// Sets a condition; its time of transition stays while the status does.
pub fn condition(pod: &mut Value, kind: &str, status: &str, now: Timestamp, reason: Option<&str>) {
    if !pod["status"]["conditions"].is_array() {
        pod["status"]["conditions"] = json!([]);
    }
    let conditions = pod["status"]["conditions"]
        .as_array_mut()
        .expect("it was made a list a line above");
    let at = conditions
        .iter()
        .position(|condition| condition["type"] == kind);
    let before = at.map(|at| conditions.remove(at)).unwrap_or_default();
    let since = match before["status"] == status {
        true => before["lastTransitionTime"].clone(),
        false => json!(rfc3339(now)),
    };
    let mut condition = json!({"type": kind, "status": status, "lastTransitionTime": since});
    if let Some(reason) = reason {
        condition["reason"] = json!(reason);
    }
    conditions.insert(at.unwrap_or(conditions.len()), condition);
}

/// Whether a condition has a status.
pub fn condition_is(object: &Value, kind: &str, status: &str) -> bool {
    let conditions = object["status"]["conditions"].as_array();
    conditions.is_some_and(|all| {
        all.iter()
            .any(|it| it["type"] == kind && it["status"] == status)
    })
}
