//! The alerts: each has its words, and `promtool` runs the chart's unit tests of them.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::render::{chart, output, render, the, tool};

const ENABLED: &str = "monitoring: {prometheusRule: {enabled: true}}";

fn rules(values: &str) -> Result<Vec<Value>> {
    let objects = render(values)?;
    let rules = the(&objects, "PrometheusRule")?["spec"]["groups"][0]["rules"].clone();
    rules.as_array().cloned().context("the group has rules")
}

#[test]
fn promtool_passes_the_alerts_tests() -> Result<()> {
    let objects = render(ENABLED)?;
    let spec = &the(&objects, "PrometheusRule")?["spec"];
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("rules.yaml");
    fs::write(&path, serde_yaml::to_string(spec)?)?;
    fs::copy(
        chart().join("tests/alerts.yaml"),
        dir.path().join("alerts.yaml"),
    )?;
    let promtool = tool("promtool")?;
    output(
        Command::new(&promtool)
            .args(["check", "rules", "--lint=all", "--lint-fatal"])
            .arg(&path),
    )?;
    output(
        Command::new(&promtool)
            .args(["test", "rules"])
            .arg(dir.path().join("alerts.yaml")),
    )?;

    // The tests notice when an alert does not do what it should.
    let text = fs::read_to_string(&path)?;
    for (right, wrong) in [
        ("min_over_time", "max_over_time"),
        (">= 60", ">= 6000"),
        ("planned=\"false\"", "planned=\"true\""),
    ] {
        let mutant = text.replace(right, wrong);
        ensure!(mutant != text, "{right} is in the rules");
        fs::write(&path, mutant)?;
        let passes = Command::new(&promtool)
            .args(["test", "rules"])
            .arg(dir.path().join("alerts.yaml"))
            .output()?
            .status
            .success();
        ensure!(!passes, "{wrong} instead of {right} is not noticed");
    }
    Ok(())
}

#[test]
fn every_alert_says_what_it_is_and_what_to_do() -> Result<()> {
    let guide = fs::read_to_string(chart().join("../../docs/operations.md"))?.to_lowercase();
    let rules = rules(ENABLED)?;
    ensure!(rules.len() == 3);
    for rule in rules {
        let name = rule["alert"].as_str().context("it has a name")?;
        let words = |key: &str| rule["annotations"][key].as_str().unwrap_or_default();
        ensure!(
            !words("summary").is_empty() && words("description").len() > 80,
            "{name}"
        );
        let heading = name.to_lowercase();
        ensure!(
            words("runbook_url") == format!("docs/operations.md#{heading}"),
            "{name}: {}",
            words("runbook_url")
        );
        ensure!(
            guide.contains(&format!("\n### {heading}\n")),
            "docs/operations.md has no heading {name}"
        );
        ensure!(rule["labels"]["severity"].is_string(), "{name}");
    }
    Ok(())
}

#[test]
fn alerts_can_be_labelled_and_turned_off() -> Result<()> {
    let some = "monitoring: {prometheusRule: {enabled: true, runbookUrl: 'https://guide.test', alertLabels: {team: infra}, \
                withoutLeader: {enabled: false}, unplannedLeaderChange: {minutes: 5, severity: page}, operatorNotActing: {enabled: false}}}";
    let rules = rules(some)?;
    ensure!(rules.len() == 1);
    let labels = serde_json::json!({"severity": "page", "team": "infra"});
    ensure!(rules[0]["labels"] == labels, "{}", rules[0]["labels"]);
    ensure!(
        rules[0]["expr"]
            .as_str()
            .is_some_and(|it| it.contains("[5m]"))
    );
    ensure!(
        rules[0]["annotations"]["runbook_url"]
            == "https://guide.test#zookeeperunplannedleaderchange"
    );
    Ok(())
}
