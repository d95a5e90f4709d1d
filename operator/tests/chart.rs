//! The chart's files that are made from the code, and its values, schema and README, which say the same.
//! `UPDATE_EXPECT=1` writes what is made anew. What helm makes of them is tested in `e2e`.

#![expect(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use expect_test::expect_file;
use serde_json::Value;

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../charts/zookeeper-operator")
        .join(name)
}

fn read(name: &str) -> String {
    fs::read_to_string(file(name)).unwrap()
}

fn yaml(name: &str) -> Value {
    serde_yaml::from_str(&read(name)).unwrap()
}

#[test]
fn the_definition_in_the_chart_is_the_one_of_the_types() {
    expect_file![file("files/crd.yaml")].assert_eq(&operator::crd::crd_yaml());
}

#[test]
fn the_rules_of_the_roles_are_what_the_code_calls() {
    expect_file![file("files/rbac.yaml")].assert_eq(&operator::permissions::chart_yaml());
}

#[test]
fn the_charts_version_is_the_operators() {
    let chart = yaml("Chart.yaml");
    assert_eq!(chart["appVersion"], env!("CARGO_PKG_VERSION"));
    assert_eq!(chart["version"], env!("CARGO_PKG_VERSION"));
}

/// One value: its path, what it is by default, and what its comment says.
struct Row {
    path: String,
    default: String,
    words: String,
}

/// The values with their comments, in the order of the file.
fn rows() -> Vec<Row> {
    let text = read("values.yaml");
    let defaults = yaml("values.yaml");
    let mut rows = Vec::new();
    let mut words = String::new();
    let mut path: Vec<String> = Vec::new();
    for line in text.lines() {
        let indent = line.len() - line.trim_start().len();
        let line = line.trim();
        if let Some(more) = line.strip_prefix("## ") {
            let space = if words.is_empty() { "" } else { " " };
            write!(words, "{space}{more}").unwrap();
            continue;
        }
        let Some((key, _)) = line.split_once(':').filter(|_| !line.starts_with('#')) else {
            continue;
        };
        path.truncate(indent / 2);
        path.push(key.to_owned());
        if words.is_empty() {
            continue;
        }
        let value = path.iter().fold(&defaults, |at, key| &at[key.as_str()]);
        rows.push(Row {
            path: path.join("."),
            default: serde_json::to_string(value).unwrap(),
            words: std::mem::take(&mut words),
        });
    }
    rows
}

#[test]
fn the_readme_has_every_value() {
    let readme = read("README.md");
    let (head, _) = readme.split_once(TABLE).unwrap();
    let mut text = format!("{head}{TABLE}\n| value | default | meaning |\n|---|---|---|\n");
    for Row {
        path,
        default,
        words,
    } in rows()
    {
        writeln!(text, "| `{path}` | `{default}` | {words} |").unwrap();
    }
    expect_file![file("README.md")].assert_eq(&text);
}

/// All paths of a schema that lead to something that is not just a group of others.
fn schema_paths(schema: &Value, path: &str, paths: &mut BTreeSet<String>) {
    let properties = schema["properties"].as_object();
    let Some(properties) = properties.filter(|_| schema["type"] == "object") else {
        paths.insert(path.to_owned());
        return;
    };
    assert_eq!(
        schema["additionalProperties"], false,
        "{path} takes any key"
    );
    for (key, schema) in properties {
        let dot = if path.is_empty() { "" } else { "." };
        schema_paths(schema, &format!("{path}{dot}{key}"), paths);
    }
}

#[test]
fn the_schema_knows_every_value_and_no_other() {
    let schema: Value = serde_json::from_str(&read("values.schema.json")).unwrap();
    let mut known = BTreeSet::new();
    schema_paths(&schema, "", &mut known);
    assert!(known.remove("global"), "a chart above this one may have it");
    let values: BTreeSet<String> = rows().into_iter().map(|row| row.path).collect();
    assert_eq!(known, values);
}

/// Where the table begins.
const TABLE: &str = "## Values\n";
