//! Random specs from the CRD's own schema: a change picks any field there is and gives it any value that its schema
//! allows. What `validate` or the rules for changes refuse is refused here as the API server would.

use operator::cluster::{Cluster, Role};
use operator::crd::ZooKeeperEnsemble;
use operator::validate::validate;
use serde_json::{Map, Value, json};

use super::api_model::{Random, bytes};

/// Makes random changes of specs.
pub struct Specs {
    schema: Value,
    /// Changes that were refused.
    pub refused: u64,
}

impl Specs {
    pub fn new() -> Self {
        let crd =
            serde_json::to_value(<ZooKeeperEnsemble as kube::CustomResourceExt>::crd()).unwrap();
        let schema = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"];
        assert!(
            schema["properties"]["voters"].is_object(),
            "the schema of the spec is there"
        );
        Self {
            schema: schema.clone(),
            refused: 0,
        }
    }

    /// A spec that is valid and that one may have after `before`.
    pub fn next(&mut self, before: &Value, random: &mut Random) -> Value {
        loop {
            let mut spec = before.clone();
            for _ in 0..=random.below(3) {
                let schema = self.schema.clone();
                change(&mut spec, &schema, "spec", random);
            }
            if spec != *before && allowed(before, &spec) {
                return spec;
            }
            self.refused += 1;
        }
    }
}

/// Changes one field somewhere under this one.
fn change(value: &mut Value, schema: &Value, path: &str, random: &mut Random) {
    let properties = schema["properties"].as_object();
    let Some(properties) = properties.filter(|_| value.is_null() || value.is_object()) else {
        *value = generate(schema, path, random, 0);
        return;
    };
    let names: Vec<&String> = properties.keys().collect();
    let Some(name) = pick_field(&names, path, random) else {
        return;
    };
    let (field, path) = (&properties[name], format!("{path}.{name}"));
    if value.is_null() {
        *value = json!({});
    }
    let inner = field["properties"].is_object() && random.chance(80);
    if random.chance(20) {
        value.as_object_mut().unwrap().remove(name);
    } else if inner {
        change(&mut value[name.as_str()], field, &path, random);
    } else {
        value[name.as_str()] = generate(field, &path, random, 0);
    }
}

/// Most changes are of what makes most work.
fn pick_field<'a>(names: &[&'a String], path: &str, random: &mut Random) -> Option<&'a String> {
    if path == "spec" && random.chance(50) {
        let busy = [
            "voters",
            "observers",
            "image",
            "config",
            "restartedAt",
            "storage",
        ];
        let wanted = random.pick(&busy)?;
        return names.iter().find(|name| name.as_str() == *wanted).copied();
    }
    random.pick(names).copied()
}

/// Any value that a schema allows. A few fields have bounds here that keep the model small.
fn generate(schema: &Value, path: &str, random: &mut Random, depth: usize) -> Value {
    if let Some(value) = known(path, random) {
        return value;
    }
    if schema["x-kubernetes-preserve-unknown-fields"] == true && schema["type"].is_null() {
        return json!(random.below(5000));
    }
    if let Some(options) = schema["enum"].as_array() {
        return random.pick(options).cloned().unwrap_or_default();
    }
    match schema["type"].as_str() {
        Some("boolean") => json!(random.chance(50)),
        Some("integer") => {
            let least = schema["minimum"].as_f64().unwrap_or(0.0) as i64;
            let most = schema["maximum"]
                .as_f64()
                .map_or(least + 1000, |most| most as i64);
            json!(least + random.below((most - least + 1) as usize) as i64)
        }
        Some("array") => {
            let count = random.below(3) * usize::from(depth < DEPTH_MAX);
            (0..count)
                .map(|at| {
                    generate(
                        &schema["items"],
                        &format!("{path}[{at}]"),
                        random,
                        depth + 1,
                    )
                })
                .collect()
        }
        Some("object") => object(schema, path, random, depth),
        _ => json!(text(path, random)),
    }
}

fn object(schema: &Value, path: &str, random: &mut Random, depth: usize) -> Value {
    let mut fields = Map::new();
    let required = schema["required"].as_array().cloned().unwrap_or_default();
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        let must = required.iter().any(|required| required == name);
        if must || depth < DEPTH_MAX && random.chance(30) {
            fields.insert(
                name.clone(),
                generate(field, &format!("{path}.{name}"), random, depth + 1),
            );
        }
    }
    if schema["additionalProperties"].is_object() && random.chance(60) {
        let name = format!("key-{}", random.below(3));
        let value = generate(
            &schema["additionalProperties"],
            &format!("{path}.{name}"),
            random,
            depth + 1,
        );
        fields.insert(name, value);
    }
    Value::Object(fields)
}

/// Values of fields that a schema alone does not describe, or allows more of than a model can carry.
fn known(path: &str, random: &mut Random) -> Option<Value> {
    let one = |random: &mut Random, options: &[Value]| random.pick(options).cloned();
    let end = path.rsplit('.').next()?;
    match (path, end) {
        ("spec.voters.replicas", _) => one(
            random,
            &[json!(1), json!(2), json!(3), json!(3), json!(4), json!(5)],
        ),
        ("spec.observers.replicas", _) => Some(json!(random.below(4))),
        ("spec.image", _) => one(random, &[json!("node:1"), json!("node:2"), json!("node:3")]),
        (_, "config") => Some(config(random)),
        (_, "size") => one(
            random,
            &[
                json!("10Gi"),
                json!("10240Mi"),
                json!("11Gi"),
                json!("12Gi"),
                json!("13Gi"),
            ],
        ),
        (_, "storageClass") => one(random, &[json!("standard"), json!("fast")]),
        (_, "resources") => {
            let cpu = one(
                random,
                &[json!("100m"), json!("1"), json!("1000m"), json!("2")],
            )?;
            one(
                random,
                &[
                    json!({}),
                    json!({"requests": {"cpu": cpu}}),
                    json!({"limits": {"cpu": cpu, "memory": "1024Mi"}}),
                ],
            )
        }
        (_, "afterNodeLost") => one(random, &[json!("60s"), json!("2m"), json!("1h")]),
        (_, "pause") => Some(json!(random.chance(10))),
        (_, "replaceDamaged") => Some(json!(random.chance(90))),
        // The model's nodes have no labels to select by, and a pod that fits nowhere is a scenario of its own.
        (_, "nodeSelector") => Some(json!({})),
        (_, "overrides") => one(
            random,
            &[
                json!({"metadata": {"labels": {"team": "a"}}}),
                json!({"spec": {"terminationGracePeriodSeconds": 40}}),
                json!({"spec": {"containers": [{"name": "zookeeper", "env": [{"name": "A", "value": "1"}]}]}}),
            ],
        ),
        _ => None,
    }
}

fn config(random: &mut Random) -> Value {
    let mut config = Map::new();
    for (key, values) in [
        ("tickTime", [1000, 2000, 3000]),
        ("snapCount", [1000, 5000, 9000]),
        ("maxClientCnxns", [10, 60, 0]),
    ] {
        if random.chance(40) {
            config.insert(key.into(), json!(random.pick(&values)));
        }
    }
    Value::Object(config)
}

fn text(path: &str, random: &mut Random) -> String {
    let number = random.below(4);
    match path.rsplit('.').next().unwrap_or_default() {
        "operator" => "Exists".into(),
        "effect" => "NoSchedule".into(),
        "whenUnsatisfiable" => "ScheduleAnyway".into(),
        "topologyKey" => "kubernetes.io/hostname".into(),
        _ => format!("text-{number}"),
    }
}

/// Whether the API server would take it: by `validate`, and by the rules that compare it with the one before.
fn allowed(before: &Value, spec: &Value) -> bool {
    match (cluster(before), cluster(spec)) {
        (Some(before), Some(after)) => [Role::Voter, Role::Observer].into_iter().all(|role| {
            let (before, after) = (&before.role(role).storage, &after.role(role).storage);
            let log = |storage: &operator::crd::spec::StorageSpec| {
                storage
                    .log
                    .clone()
                    .map(|log| (bytes(&log.size.0), log.storage_class))
            };
            let same_log = match (log(before), log(after)) {
                (None, None) => true,
                (Some((old, class)), Some((new, other))) => new >= old && class == other,
                _ => false,
            };
            bytes(&after.size.0) >= bytes(&before.size.0)
                && after.storage_class == before.storage_class
                && same_log
        }),
        _ => false,
    }
}

fn cluster(spec: &Value) -> Option<Cluster> {
    let object = json!({
        "apiVersion": "zookeeper.ensemble.dev/v1alpha1", "kind": "ZooKeeperEnsemble",
        "metadata": {"name": "demo", "namespace": "ns"}, "spec": spec,
    });
    let ensemble: ZooKeeperEnsemble = serde_json::from_value(object).ok()?;
    validate(&ensemble).ok()
}

const DEPTH_MAX: usize = 4;
