//! What the operator's account must be allowed to do on Kubernetes: exactly what the code calls.
//!
//! The chart's roles are made from these lists, and its tests compare what is rendered with them.

use serde::Serialize;

/// Verbs on one resource. The names are Kubernetes's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Rule {
    /// API group; empty for the core's.
    pub group: &'static str,
    /// Plural of the resource, with `/subresource` where one is meant.
    pub resource: &'static str,
    /// What may be done with it.
    pub verbs: &'static [&'static str],
}

/// In every namespace whose ensembles are kept.
pub const ENSEMBLES: &[Rule] = &[
    rule(crate::crd::GROUP, "zookeeperensembles", READ),
    rule(crate::crd::GROUP, "zookeeperensembles/status", &["update"]),
    rule("", "pods", &["get", "list", "watch", "create", "delete"]),
    rule("", "persistentvolumeclaims", OWN),
    rule("", "services", OWN),
    rule("", "configmaps", OWN),
    rule("policy", "poddisruptionbudgets", OWN),
    rule("networking.k8s.io", "networkpolicies", OWN),
    // By name and never listed: others' secrets are none of its business.
    rule("", "secrets", &["get", "create"]),
    rule("events.k8s.io", "events", &["create", "patch"]),
];

/// In the whole cluster: zones, and nodes that are gone.
pub const NODES: &[Rule] = &[rule("", "nodes", &["list", "watch"])];

/// In the operator's own namespace.
pub const LEASE: &[Rule] = &[rule(
    "coordination.k8s.io",
    "leases",
    &["get", "create", "update"],
)];

/// Of `zookeeper-operator check`, in the namespace in which it makes its ensemble.
pub const CHECK: &[Rule] = &[rule(
    crate::crd::GROUP,
    "zookeeperensembles",
    &["get", "create", "delete"],
)];

const READ: &[&str] = &["get", "list", "watch"];
const OWN: &[&str] = &["get", "list", "watch", "create", "patch", "delete"];

const fn rule(group: &'static str, resource: &'static str, verbs: &'static [&'static str]) -> Rule {
    Rule {
        group,
        resource,
        verbs,
    }
}

/// Whether one of the rules allows a request.
pub fn allow(rules: &[Rule], group: &str, resource: &str, verb: &str) -> bool {
    rules
        .iter()
        .any(|rule| rule.group == group && rule.resource == resource && rule.verbs.contains(&verb))
}

/// The lists in the form of a role's rules, as the chart includes them.
pub fn chart_yaml() -> String {
    let rules = |rules: &[Rule]| -> Vec<serde_json::Value> {
        let rule = |it: &Rule| serde_json::json!({"apiGroups": [it.group], "resources": [it.resource], "verbs": it.verbs});
        rules.iter().map(rule).collect()
    };
    let lists = serde_json::json!({
        "ensembles": rules(ENSEMBLES),
        "nodes": rules(NODES),
        "lease": rules(LEASE),
        "check": rules(CHECK),
    });
    serde_yaml::to_string(&lists).expect("rules are plain data")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_rule_is_wider_than_it_says() {
        for rule in [ENSEMBLES, NODES, LEASE, CHECK].concat() {
            let words = rule
                .verbs
                .iter()
                .copied()
                .chain([rule.group, rule.resource]);
            assert!(words.clone().all(|word| !word.contains('*')), "{rule:?}");
            let strong = ["escalate", "bind", "impersonate", "deletecollection"];
            assert!(
                rule.verbs.iter().all(|verb| !strong.contains(verb)),
                "{rule:?}"
            );
        }
        assert!(allow(ENSEMBLES, "", "secrets", "get"));
        assert!(!allow(ENSEMBLES, "", "secrets", "list"));
        assert!(!allow(ENSEMBLES, "", "pods", "patch"));
    }
}
