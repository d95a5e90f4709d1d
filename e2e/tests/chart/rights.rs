//! The operator's roles: what the code calls, and nothing else.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::render::{chart, is_test, of_kind, render};

/// Group, resource and verb.
type Right = (String, String, String);

/// What rules allow, one by one.
fn rights<'a>(rules: impl IntoIterator<Item = &'a Value>) -> Result<BTreeSet<Right>> {
    let mut rights = BTreeSet::new();
    for rule in rules {
        ensure!(
            rule["resourceNames"].is_null() && rule["nonResourceURLs"].is_null(),
            "{rule}"
        );
        let words = |key: &str| -> Result<Vec<String>> {
            serde_json::from_value(rule[key].clone()).with_context(|| format!("{key} of {rule}"))
        };
        for group in words("apiGroups")? {
            for resource in words("resources")? {
                for verb in words("verbs")? {
                    ensure!(!format!("{group}{resource}{verb}").contains('*'), "{rule}");
                    rights.insert((group.clone(), resource.clone(), verb));
                }
            }
        }
    }
    Ok(rights)
}

/// The list that is made from `operator/src/permissions.rs`.
fn listed(part: &str) -> Result<BTreeSet<Right>> {
    let text = std::fs::read_to_string(chart().join("files/rbac.yaml"))?;
    let lists: Value = serde_yaml::from_str(&text)?;
    rights(
        lists[part]
            .as_array()
            .with_context(|| format!("no list {part}"))?,
    )
}

/// What the roles that are bound to the operator's account allow in a namespace; in no one: in the whole cluster.
fn bound(objects: &[Value], namespace: Option<&str>) -> Result<BTreeSet<Right>> {
    let (binding, role) = match namespace {
        Some(_) => ("RoleBinding", "Role"),
        None => ("ClusterRoleBinding", "ClusterRole"),
    };
    let is_there = |it: &&Value| it["metadata"]["namespace"].as_str() == namespace && !is_test(it);
    let mut all = BTreeSet::new();
    for binding in of_kind(objects, binding).into_iter().filter(is_there) {
        ensure!(
            binding["subjects"]
                .as_array()
                .is_some_and(|it| it.len() == 1),
            "{binding}"
        );
        let subject = &binding["subjects"][0];
        ensure!(
            subject["name"] == "zookeeper-operator" && subject["namespace"] == "zk",
            "{subject}"
        );
        ensure!(binding["roleRef"]["kind"] == role, "{binding}");
        let mut roles = of_kind(objects, role).into_iter().filter(is_there);
        let bound = roles.find(|it| it["metadata"]["name"] == binding["roleRef"]["name"]);
        let bound = bound.with_context(|| format!("no role for {binding}"))?;
        all.extend(rights(
            bound["rules"].as_array().context("a role has rules")?,
        )?);
    }
    Ok(all)
}

#[test]
fn an_operator_of_all_namespaces_has_what_the_code_calls() -> Result<()> {
    let objects = render("")?;
    let cluster = &listed("ensembles")? | &listed("nodes")?;
    ensure!(bound(&objects, None)? == cluster);
    ensure!(bound(&objects, Some("zk"))? == listed("lease")?);
    Ok(())
}

#[test]
fn an_operator_of_some_namespaces_has_its_rights_in_these_alone() -> Result<()> {
    let objects = render("watchNamespaces: [shop, zk]")?;
    ensure!(bound(&objects, None)? == listed("nodes")?);
    ensure!(bound(&objects, Some("shop"))? == listed("ensembles")?);
    let own = &listed("ensembles")? | &listed("lease")?;
    ensure!(bound(&objects, Some("zk"))? == own);
    Ok(())
}

#[test]
fn without_rbac_there_are_no_roles_but_the_tests() -> Result<()> {
    let objects = render("rbac: {create: false, aggregate: false}")?;
    for kind in ["ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding"] {
        ensure!(of_kind(&objects, kind).into_iter().all(is_test), "{kind}");
    }
    Ok(())
}

#[test]
fn users_may_view_or_edit_ensembles_by_the_clusters_own_roles() -> Result<()> {
    let objects = render("")?;
    let of = |target: &str| {
        let label = format!("rbac.authorization.k8s.io/aggregate-to-{target}");
        let roles = of_kind(&objects, "ClusterRole").into_iter();
        let rules = roles.filter(|it| it["metadata"]["labels"][&label] == "true");
        rights(rules.flat_map(|it| it["rules"].as_array().into_iter().flatten()))
    };
    let (view, edit) = (of("view")?, of("edit")?);
    ensure!(
        view.iter()
            .all(|(_, _, verb)| ["get", "list", "watch"].contains(&verb.as_str()))
    );
    ensure!(view.is_subset(&edit) && edit == of("admin")?);
    let scale = |verb: &str| {
        let words = ["zookeeper.ensemble.dev", "zookeeperensembles/scale", verb];
        let [group, resource, verb] = words.map(str::to_owned);
        (group, resource, verb)
    };
    ensure!(edit.contains(&scale("patch")) && view.contains(&scale("get")));
    // The status is the operator's alone.
    ensure!(
        !edit
            .iter()
            .any(|(_, resource, verb)| resource.ends_with("/status")
                && verb != "get"
                && verb != "list"
                && verb != "watch")
    );
    Ok(())
}
