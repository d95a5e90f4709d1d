//! A wrong spec, then the right one: it stops at the first member, says why, and goes on as soon as it is right.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use e2e::kube::ensemble::{Ensemble, Seen, Wanted};
use e2e::kube::pods;
use e2e::report::say;
use serde_json::{Value, json};

use crate::served::{HAND_OVER, Served};
use crate::{AT_REST, Stage};

/// From the wrong spec to a status that says what is wrong with it.
const TOLD: Duration = Duration::from_secs(90);

/// A way to be wrong that no schema shows.
struct Wrong {
    what: &'static str,
    wrong: Value,
    right: Value,
    /// The status says this.
    words: &'static str,
    /// Reason of the condition `Stalled`.
    reason: &'static str,
}

fn wrongs() -> [Wrong; 3] {
    [
        Wrong {
            what: "an image that does not exist",
            wrong: json!({"image": "localhost/no-such-image:e2e", "imagePullPolicy": "IfNotPresent"}),
            right: json!({"image": null, "imagePullPolicy": null}),
            words: "cannot be pulled",
            reason: "BadTemplate",
        },
        Wrong {
            what: "resources that no node has",
            wrong: json!({"resources": {"requests": {"cpu": "1000"}}}),
            right: json!({"resources": null}),
            words: "no node takes it",
            reason: "QuotaOrScheduling",
        },
        Wrong {
            what: "a configuration that the server refuses",
            wrong: json!({"config": {"quorum.auth.enableSasl": "true"}}),
            right: json!({"config": null}),
            words: "refuses its configuration",
            reason: "BadTemplate",
        },
    ]
}

#[test]
fn a_wrong_spec_costs_a_running_ensemble_one_member_and_the_right_one_gives_it_back() -> Result<()>
{
    let title = "a wrong image, resources and configuration on a running ensemble";
    let Some(stage) = Stage::set(title, "spec-running")? else {
        return Ok(());
    };
    let ensemble = stage.ensemble(3, 0)?;
    let mut served = Served::start(&stage, &ensemble)?;
    for case in wrongs() {
        let before = pods::look(stage.namespace(), "demo")?;
        let leader = ensemble.see()?.leader();
        served.through(case.what, HAND_OVER, || {
            let begin = Instant::now();
            ensemble.patch(&case.wrong)?;
            let told = wait_told(&ensemble, &case)?;
            say(format!(
                "{}: told after {:.1} s: {}",
                case.what,
                begin.elapsed().as_secs_f64(),
                told.summary()
            ));
            let after = pods::look(stage.namespace(), "demo")?;
            let touched = pods::reborn(&before, &after);
            ensure!(
                touched.len() == 1,
                "members {touched:?} were restarted with a wrong spec"
            );
            ensure!(
                Some(touched[0]) != leader,
                "the leader was the first to be restarted"
            );
            ensemble.patch(&case.right)
        })?;
        let after = pods::look(stage.namespace(), "demo")?;
        let touched = pods::reborn(&before, &after);
        ensure!(
            touched.len() == 1,
            "members {touched:?} were restarted for a change that was taken back"
        );
    }
    served.end()?;
    stage.passed()
}

#[test]
fn an_ensemble_that_was_made_with_a_wrong_spec_comes_up_with_the_right_one() -> Result<()> {
    let title = "a wrong image, resources and configuration from the beginning";
    let Some(stage) = Stage::set(title, "spec-new")? else {
        return Ok(());
    };
    for (place, case) in wrongs().iter().enumerate() {
        let name = format!("demo-{}", char::from(b'a' + place as u8));
        let ensemble = Ensemble::create(stage.namespace(), &name, &with(&case.wrong)?)?;
        let begin = Instant::now();
        let told = wait_told(&ensemble, case)?;
        say(format!(
            "{}: told after {:.1} s: {}",
            case.what,
            begin.elapsed().as_secs_f64(),
            told.summary()
        ));
        let begin = Instant::now();
        ensemble.patch(&case.right)?;
        ensemble.wait_at_rest(AT_REST).context(case.what)?;
        say(format!(
            "right spec: at rest after {:.1} s",
            begin.elapsed().as_secs_f64()
        ));
    }
    stage.passed()
}

/// Three voters, and more of the spec.
fn with(more: &Value) -> Result<Wanted> {
    let mut wanted = Wanted::new(3, 0);
    for (key, value) in more.as_object().into_iter().flatten() {
        wanted.more.push_str(&format!("  {key}: {value}\n"));
    }
    Ok(wanted)
}

/// Waits until the status says what is wrong, and that it does not get right by waiting.
fn wait_told(ensemble: &Ensemble<'_>, case: &Wrong) -> Result<Seen> {
    let what = format!("the status to tell of {}", case.what);
    ensemble.wait(&what, TOLD, |seen| {
        let blocked = seen.0["status"]["plan"]["blockedBy"].to_string();
        let stalled = seen.condition("Stalled")?;
        let told = stalled["status"] == "True" && stalled["reason"] == case.reason;
        (seen.is_current() && blocked.contains(case.words) && told).then(|| seen.clone())
    })
}
