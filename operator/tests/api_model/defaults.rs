//! What the API server adds to objects that it is given, and the changes that it refuses.

use serde_json::{Map, Value, json};

/// Fills in what was left out, as the real server does: nobody gets back exactly what was sent.
pub fn fill(resource: &str, object: &mut Value) {
    match resource {
        "pods" => pod(object),
        "services" => service(object),
        "persistentvolumeclaims" => claim(object),
        "secrets" => secret(object),
        "networkpolicies" => network_policy(&mut object["spec"]),
        _ => {}
    }
}

/// Why an update is refused.
pub fn check_update(resource: &str, live: &Value, object: &Value) -> Result<(), String> {
    match resource {
        "pods" => check_pod(&live["spec"], &object["spec"]),
        "persistentvolumeclaims" => check_claim(&live["spec"], &object["spec"]),
        "services" if live["spec"]["clusterIP"] != object["spec"]["clusterIP"] => {
            Err("spec.clusterIP: field is immutable".into())
        }
        _ => Ok(()),
    }
}

fn pod(object: &mut Value) {
    let spec = &mut object["spec"];
    default(spec, "restartPolicy", json!("Always"));
    default(spec, "dnsPolicy", json!("ClusterFirst"));
    default(spec, "schedulerName", json!("default-scheduler"));
    default(spec, "terminationGracePeriodSeconds", json!(30));
    default(spec, "enableServiceLinks", json!(true));
    default(spec, "serviceAccountName", json!("default"));
    default(spec, "securityContext", json!({}));
    let unreachable = |key: &str| json!({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300});
    let tolerations = list(spec, "tolerations");
    for key in [
        "node.kubernetes.io/not-ready",
        "node.kubernetes.io/unreachable",
    ] {
        if !tolerations
            .iter()
            .any(|toleration| toleration["key"] == key)
        {
            tolerations.push(unreachable(key));
        }
    }
    for volume in items(spec, "volumes") {
        for source in ["configMap", "secret"] {
            if volume[source].is_object() {
                default(&mut volume[source], "defaultMode", json!(0o644));
            }
        }
    }
    for container in items(spec, "containers") {
        fill_container(container);
    }
    if object["status"].is_null() {
        object["status"] = json!({"phase": "Pending", "qosClass": "Burstable"});
    }
}

fn fill_container(container: &mut Value) {
    default(
        container,
        "terminationMessagePath",
        json!("/dev/termination-log"),
    );
    default(container, "terminationMessagePolicy", json!("File"));
    default(container, "imagePullPolicy", json!("IfNotPresent"));
    default(container, "resources", json!({}));
    for port in items(container, "ports") {
        default(port, "protocol", json!("TCP"));
    }
    for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
        let probe = &mut container[probe];
        if probe.is_object() {
            for (field, value) in [
                ("timeoutSeconds", 1),
                ("periodSeconds", 10),
                ("successThreshold", 1),
                ("failureThreshold", 3),
            ] {
                default(probe, field, json!(value));
            }
        }
    }
    if let Value::Object(fields) = container {
        fields.retain(|_, value| !value.is_null());
    }
    for kind in ["requests", "limits"] {
        quantities(&mut container["resources"], kind);
    }
    // Limits are requests too, where none are given.
    let limits = container["resources"]["limits"]
        .as_object()
        .cloned()
        .unwrap_or_default();
    for (name, limit) in limits {
        default(&mut container["resources"], "requests", json!({}));
        default(&mut container["resources"]["requests"], &name, limit);
    }
}

fn service(object: &mut Value) {
    let spec = &mut object["spec"];
    default(spec, "type", json!("ClusterIP"));
    default(spec, "clusterIP", json!("10.96.0.7"));
    let address = spec["clusterIP"].clone();
    default(spec, "clusterIPs", json!([address]));
    default(spec, "sessionAffinity", json!("None"));
    default(spec, "internalTrafficPolicy", json!("Cluster"));
    default(spec, "ipFamilies", json!(["IPv4"]));
    default(spec, "ipFamilyPolicy", json!("SingleStack"));
    for port in items(spec, "ports") {
        default(port, "protocol", json!("TCP"));
        let target = port["port"].clone();
        default(port, "targetPort", target);
    }
}

fn claim(object: &mut Value) {
    let spec = &mut object["spec"];
    default(spec, "volumeMode", json!("Filesystem"));
    default(spec, "storageClassName", json!("standard"));
    quantities(&mut spec["resources"], "requests");
    if object["metadata"]["deletionTimestamp"].is_null() {
        let finalizers = list(&mut object["metadata"], "finalizers");
        if finalizers.is_empty() {
            finalizers.push(json!(CLAIM_IN_USE));
        }
    }
    if object["status"].is_null() {
        object["status"] = json!({"phase": "Pending"});
    }
}

/// Plain data is kept encoded only.
fn secret(object: &mut Value) {
    use base64::{Engine as _, prelude::BASE64_STANDARD};
    default(object, "type", json!("Opaque"));
    let Some(Value::Object(plain)) = object
        .as_object_mut()
        .and_then(|object| object.remove("stringData"))
    else {
        return;
    };
    for (key, value) in plain {
        let value = BASE64_STANDARD.encode(value.as_str().unwrap_or_default());
        object["data"][key] = json!(value);
    }
}

fn network_policy(spec: &mut Value) {
    default(spec, "policyTypes", json!(["Ingress"]));
    for rule in items(spec, "ingress") {
        for port in items(rule, "ports") {
            default(port, "protocol", json!("TCP"));
        }
    }
}

fn check_pod(live: &Value, spec: &Value) -> Result<(), String> {
    let fixed = |spec: &Value| {
        let mut spec = spec.clone();
        for container in items(&mut spec, "containers") {
            container["image"] = Value::Null;
        }
        spec["tolerations"] = Value::Null;
        spec
    };
    if fixed(live) == fixed(spec) {
        return Ok(());
    }
    Err("spec: Forbidden: pod updates may not change fields other than `spec.containers[*].image` and a few more".into())
}

fn check_claim(live: &Value, spec: &Value) -> Result<(), String> {
    let fixed = |spec: &Value| {
        let mut spec = spec.clone();
        spec["resources"] = Value::Null;
        spec
    };
    if fixed(live) != fixed(spec) {
        return Err(
            "spec: Forbidden: spec is immutable after creation except resources.requests".into(),
        );
    }
    let size = |spec: &Value| {
        bytes(
            spec["resources"]["requests"]["storage"]
                .as_str()
                .unwrap_or_default(),
        )
    };
    if size(spec) < size(live) {
        return Err(
            "spec.resources.requests.storage: Forbidden: field can not be less than previous value"
                .into(),
        );
    }
    Ok(())
}

fn default(object: &mut Value, field: &str, value: Value) {
    if object[field].is_null() {
        object[field] = value;
    }
}

/// A list that is there afterwards.
fn list<'a>(object: &'a mut Value, field: &str) -> &'a mut Vec<Value> {
    if !object[field].is_array() {
        object[field] = json!([]);
    }
    object[field]
        .as_array_mut()
        .expect("it was made a list a line above")
}

/// The items of a list that may not be there.
fn items<'a>(object: &'a mut Value, field: &str) -> impl Iterator<Item = &'a mut Value> {
    object
        .get_mut(field)
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten()
}

/// Quantities come back in their canonical form.
fn quantities(resources: &mut Value, kind: &str) {
    let Some(Value::Object(amounts)) = resources.get_mut(kind) else {
        return;
    };
    let amounts: &mut Map<String, Value> = amounts;
    for amount in amounts.values_mut() {
        let text = match &*amount {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        *amount = json!(canonical(&text));
    }
}

fn canonical(text: &str) -> String {
    if let Some(milli) = text
        .strip_suffix('m')
        .and_then(|number| number.parse::<u64>().ok())
    {
        return if milli % 1000 == 0 {
            (milli / 1000).to_string()
        } else {
            text.into()
        };
    }
    let units = ["Ki", "Mi", "Gi", "Ti"];
    let Some(at) = units.iter().position(|unit| text.ends_with(unit)) else {
        return text.into();
    };
    let Ok(mut number) = text[..text.len() - 2].parse::<u64>() else {
        return text.into();
    };
    let mut at = at;
    while number > 0 && number.is_multiple_of(1024) && at + 1 < units.len() {
        (number, at) = (number / 1024, at + 1);
    }
    format!("{number}{}", units[at])
}

/// A quantity of memory or storage, in bytes; of CPU, in thousandths.
pub fn bytes(text: &str) -> u64 {
    let (digits, unit) = text.split_at(
        text.find(|c: char| !c.is_ascii_digit())
            .unwrap_or(text.len()),
    );
    let number: u64 = digits.parse().unwrap_or(0);
    number
        * match unit {
            "Ki" => 1 << 10,
            "Mi" => 1 << 20,
            "Gi" => 1 << 30,
            "Ti" => 1_u64 << 40,
            "k" => 1_000,
            "M" => 1_000_000,
            "G" => 1_000_000_000,
            _ => 1,
        }
}

/// Keeps a claim as long as a pod uses it.
pub const CLAIM_IN_USE: &str = "kubernetes.io/pvc-protection";
