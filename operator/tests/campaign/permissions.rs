//! The chart's role for the operator allows what the passes call, and nothing more.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::Value;

use super::api_model::calls;

type Calls = BTreeSet<(String, String)>;

/// What the role of one part of the chart's file allows.
fn allowed(part: &str) -> Calls {
    let file =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../charts/zookeeper-operator/files/rbac.yaml");
    let roles: Value = serde_yaml::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
    let words = |rule: &Value, field: &str| -> Vec<String> {
        let words = rule[field].as_array().unwrap().iter();
        words
            .map(|word| word.as_str().unwrap().to_owned())
            .collect()
    };
    let rules = roles[part].as_array().unwrap();
    let pairs = rules.iter().flat_map(|rule| {
        let resources = words(rule, "resources");
        let verbs = words(rule, "verbs");
        verbs.into_iter().flat_map(move |verb| {
            let pair = move |resource: &String| (verb.clone(), resource.clone());
            resources.iter().map(pair).collect::<Vec<_>>()
        })
    });
    pairs.collect()
}

/// Compares the role with all that was called so far.
pub fn check() {
    let called = calls().lock().unwrap().clone();
    let allowed = allowed("ensembles");
    let refused: Vec<_> = called.difference(&allowed).collect();
    assert!(refused.is_empty(), "called, and not allowed: {refused:?}");
    // The watches are not part of a pass.
    let idle: Vec<_> = allowed
        .difference(&called)
        .filter(|(verb, _)| verb != "list" && verb != "watch")
        .collect();
    assert!(idle.is_empty(), "allowed, and never called: {idle:?}");
}
