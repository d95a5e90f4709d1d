//! What the operator may do is what it does: its account's rights are the list that the code keeps, no more, no less.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, bail, ensure};
use e2e::kube::operator::{NAME, NAMESPACE, Operator};
use e2e::report::say;
use serde::Deserialize;

use crate::Stage;

/// Resources with their verbs; a resource of a group is written `pods.metrics.k8s.io`.
type Rights = BTreeMap<String, BTreeSet<String>>;

#[derive(Debug, Deserialize)]
struct Rule {
    #[serde(rename = "apiGroups")]
    groups: Vec<String>,
    resources: Vec<String>,
    verbs: Vec<String>,
}

/// The lists of the chart, which are made from those beside the code.
#[derive(Debug, Deserialize)]
struct Lists {
    ensembles: Vec<Rule>,
    nodes: Vec<Rule>,
    lease: Vec<Rule>,
}

fn rights_of<'a>(rules: impl IntoIterator<Item = &'a Rule>) -> Rights {
    let mut rights = Rights::new();
    for rule in rules {
        for (group, resource) in rule
            .groups
            .iter()
            .flat_map(|group| rule.resources.iter().map(move |it| (group, it)))
        {
            let (name, below) = resource
                .split_once('/')
                .map_or((resource.as_str(), None), |(name, below)| {
                    (name, Some(below))
                });
            let mut full = if group.is_empty() {
                name.to_owned()
            } else {
                format!("{name}.{group}")
            };
            if let Some(below) = below {
                full = format!("{full}/{below}");
            }
            rights
                .entry(full)
                .or_default()
                .extend(rule.verbs.iter().cloned());
        }
    }
    rights
}

/// What the API server lets an account do in a namespace, without what it lets everybody do.
fn allowed(operator: Operator, account: &str, namespace: &str) -> Result<Rights> {
    let list = |account: &str| -> Result<Rights> {
        let account = format!("--as={account}");
        let groups = [
            "--as-group=system:serviceaccounts",
            "--as-group=system:authenticated",
        ];
        let arguments = [
            "auth",
            "can-i",
            "--list",
            "--no-headers",
            "--namespace",
            namespace,
            &account,
        ];
        parse(
            &operator
                .cluster
                .kubectl(&[&arguments[..], &groups].concat())?,
        )
    };
    let mut rights = list(account)?;
    for (resource, verbs) in list("system:serviceaccount:default:nobody")? {
        if rights.get(&resource) == Some(&verbs) {
            rights.remove(&resource);
        }
    }
    Ok(rights)
}

/// Lines like `pods   []   []   [get list]`: resource, URLs, names, verbs.
fn parse(table: &str) -> Result<Rights> {
    let mut rights = Rights::new();
    for line in table.lines() {
        let Some((resource, rest)) = line.split_once('[') else {
            bail!("unexpected line {line:?}");
        };
        let verbs = rest.rsplit_once('[').map_or("", |(_, verbs)| verbs);
        let verbs = verbs.trim_end().trim_end_matches(']').split_whitespace();
        if !resource.trim().is_empty() {
            let names = rest
                .split(']')
                .nth(1)
                .unwrap_or_default()
                .trim_start_matches([' ', '[']);
            ensure!(
                names.is_empty(),
                "{line:?} is for some names only, which this test does not expect"
            );
            rights
                .entry(resource.trim().to_owned())
                .or_default()
                .extend(verbs.map(str::to_owned));
        }
    }
    Ok(rights)
}

#[test]
fn the_operators_rights_are_those_that_the_code_asks_for() -> Result<()> {
    let title = "the operator's rights, and what it runs as";
    let Some(stage) = Stage::set(title, "rights")? else {
        return Ok(());
    };
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../charts/zookeeper-operator/files/rbac.yaml"
    );
    let text = std::fs::read_to_string(path).context("the chart has a list of rights")?;
    let lists: Lists = serde_yaml::from_str(&text)?;
    let pods = stage.operator.pods()?;
    let pod = pods.first().context("the operator runs")?;
    let account = pod["spec"]["serviceAccountName"]
        .as_str()
        .context("it has an account")?;
    let account = format!("system:serviceaccount:{NAMESPACE}:{account}");
    let everywhere = rights_of(lists.ensembles.iter().chain(&lists.nodes));
    let at_home = rights_of(
        lists
            .ensembles
            .iter()
            .chain(&lists.nodes)
            .chain(&lists.lease),
    );
    for (namespace, listed) in [
        (stage.namespace().name.as_str(), &everywhere),
        (NAMESPACE, &at_home),
    ] {
        let allowed = allowed(stage.operator, &account, namespace)?;
        ensure!(
            allowed == *listed,
            "in namespace {namespace} it may\n{allowed:#?}\nand asks for\n{listed:#?}"
        );
    }
    say(format!(
        "{} resources, {} verbs: rights and list are equal",
        at_home.len(),
        at_home.values().map(BTreeSet::len).sum::<usize>()
    ));
    for pod in &pods {
        let user = &pod["status"]["containerStatuses"][0]["user"]["linux"]["uid"];
        ensure!(*user == 1000, "{NAME} runs as {user}");
    }
    stage.passed()
}

#[test]
fn a_list_of_rights_is_read() {
    let table = "pods   []   []   [get list]\n   [/healthz]   []   [get]\nzookeeperensembles.zookeeper.ensemble.dev/status   []   []   [update]\n";
    let rights = parse(table).unwrap();
    assert_eq!(rights.len(), 2);
    assert_eq!(rights["pods"].len(), 2);
    assert!(parse("secrets   []   [one]   [get]\n").is_err());
    let rule = Rule {
        groups: vec!["a.b".into()],
        resources: vec!["things/status".into()],
        verbs: vec!["get".into()],
    };
    assert!(rights_of([&rule]).contains_key("things.a.b/status"));
}
