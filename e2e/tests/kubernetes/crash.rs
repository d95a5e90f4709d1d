//! The operator ends before and after every kind of step, and the next one goes on from what it finds.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use e2e::kube::ensemble::{Ensemble, Wanted};
use e2e::kube::operator::Operator;
use e2e::report::say;
use serde_json::{Value, json};

use crate::served::{HAND_OVER, Served};
use crate::{AT_REST, Stage};

/// Exit code of an operator whose crash switch was hit.
const CRASHED: i64 = 70;
const PATIENCE: Duration = Duration::from_secs(120);
/// A storage class of which volumes may grow.
const GROWING: &str = "zk-e2e-growing";

/// Operators that end at a point, one after the other.
struct Crashes {
    operator: Operator,
    count: usize,
}

impl Crashes {
    /// One operator ends before each of the steps, and one after it; then one goes on to the end.
    fn through(&mut self, ensemble: &Ensemble<'_>, steps: &[&str]) -> Result<()> {
        for step in steps {
            for point in ["CRASH_BEFORE", "CRASH_AFTER"] {
                let pod = self.start(&[(point, step)])?;
                let code = self
                    .operator
                    .wait_end(&pod, PATIENCE)
                    .with_context(|| format!("{point} {step}"))?;
                ensure!(code == CRASHED, "{point} {step}: exit code {code}");
                self.operator.remove_alone(&pod)?;
            }
        }
        let pod = self.start(&[])?;
        ensemble.wait_at_rest(AT_REST)?;
        self.operator.remove_alone(&pod)
    }

    /// Each with a lease of its own: nobody has to wait for the lease of the dead.
    fn start(&mut self, variables: &[(&str, &str)]) -> Result<String> {
        self.count += 1;
        let pod = format!("crash-{}", self.count);
        self.operator.start_alone(&pod, variables)?;
        Ok(pod)
    }
}

#[test]
fn an_operator_that_ends_at_any_step_is_followed_by_one_that_goes_on() -> Result<()> {
    let Some(stage) = Stage::set_for_all("the operator killed at every named step", "crash")?
    else {
        return Ok(());
    };
    let operator = stage.operator;
    growing_class(operator)?;
    operator.scale(0)?;
    let mut crashes = Crashes { operator, count: 0 };
    let begin = Instant::now();
    let wanted = Wanted {
        more: format!("  storage: {{size: 1Gi, storageClass: {GROWING}}}\n"),
        ..Wanted::new(1, 0)
    };
    let ensemble = Ensemble::create(stage.namespace(), "demo", &wanted)?;
    crashes.through(&ensemble, &["Bootstrap", "StartMembers"])?;
    let mut served = Served::start(&stage, &ensemble)?;
    let grow = [
        "CreateMember",
        "StartMembers",
        "PromoteToVoter",
        "JoinAsObserver",
        "RenderConfig",
    ];
    let shrink = ["RemoveFromEnsemble", "StopMembers", "RetireMember"];
    let changes: [(&str, Value, &[&str]); 4] = [
        ("to 3 voters", json!({"voters": {"replicas": 3}}), &grow),
        (
            "restartedAt",
            json!({"restartedAt": "now"}),
            &["RestartMember"],
        ),
        (
            "larger volumes",
            json!({"storage": {"size": "2Gi"}}),
            &["GrowVolume"],
        ),
        ("to 1 voter", json!({"voters": {"replicas": 1}}), &shrink),
    ];
    for (what, patch, steps) in &changes {
        served.through(what, HAND_OVER, || {
            ensemble.patch(patch)?;
            crashes.through(&ensemble, steps)
        })?;
    }
    served.through("to 3 voters again", HAND_OVER, || {
        ensemble.patch(&json!({"voters": {"replicas": 3}}))?;
        crashes.through(&ensemble, &[])
    })?;
    served.through("a deleted volume", HAND_OVER, || {
        let members = ensemble.see()?.members();
        let follower = members.iter().find(|member| member.state == "follower");
        let claim = format!("data-demo-{}", follower.context("there is a follower")?.id);
        ensemble
            .namespace
            .kubectl(&["delete", "pvc", &claim, "--wait=false"])?;
        crashes.through(&ensemble, &["ReplaceMember"])
    })?;
    served.end()?;
    say(format!(
        "{} operators, {:.0} s",
        crashes.count,
        begin.elapsed().as_secs_f64()
    ));
    operator.restore()?;
    operator
        .cluster
        .kubectl(&["delete", "storageclass", GROWING])?;
    stage.passed()
}

/// The default storage class under another name, with growth allowed.
fn growing_class(operator: Operator) -> Result<()> {
    let classes = operator
        .cluster
        .get(&["storageclass"])?
        .context("there are storage classes")?;
    let key = "storageclass.kubernetes.io/is-default-class";
    let mut classes = classes["items"].as_array().into_iter().flatten();
    let default = classes.find(|class| class["metadata"]["annotations"][key] == "true");
    let default = default.context("one of them is the default")?;
    let mut class = default.clone();
    class["metadata"] = json!({"name": GROWING});
    class["allowVolumeExpansion"] = true.into();
    operator.cluster.apply(&[], &class.to_string()).map(drop)
}
