//! Server-side apply with force by one field manager: what it applies is set, what it applied before and leaves out
//! now goes, and what others set stays.

use serde_json::{Map, Value};

/// Merges `new` into `live`; `before` is what was applied last.
pub fn merge(live: &mut Value, before: Option<&Value>, new: &Value) {
    let Value::Object(fields) = new else {
        *live = new.clone();
        return;
    };
    if !live.is_object() {
        *live = Value::Object(Map::new());
    }
    let Value::Object(live) = live else {
        unreachable!("it was made an object a line above")
    };
    if let Some(Value::Object(before)) = before {
        for field in before.keys().filter(|field| !fields.contains_key(*field)) {
            leave_out(live, field, &before[field]);
        }
    }
    for (field, value) in fields {
        let before = before.and_then(|before| before.get(field));
        let target = live.entry(field.clone()).or_insert(Value::Null);
        match (value, keys_of(field)) {
            (Value::Array(items), Some(keys)) => merge_list(target, before, items, keys),
            _ => merge(target, before, value),
        }
    }
}

/// Of a map with free keys only what was applied goes; anything else goes as a whole.
fn leave_out(live: &mut Map<String, Value>, field: &str, before: &Value) {
    let free = matches!(field, "labels" | "annotations");
    if let (true, Value::Object(before), Some(Value::Object(target))) =
        (free, before, live.get_mut(field))
    {
        target.retain(|key, _| !before.contains_key(key));
        if !target.is_empty() {
            return;
        }
    }
    if let (Some(keys), Value::Array(before), Some(Value::Array(target))) =
        (keys_of(field), before, live.get_mut(field))
    {
        target.retain(|item| !before.iter().any(|other| same(item, other, keys)));
        if !target.is_empty() {
            return;
        }
    }
    live.remove(field);
}

fn merge_list(target: &mut Value, before: Option<&Value>, items: &[Value], keys: &[&str]) {
    let none = Vec::new();
    let before = before.and_then(Value::as_array).unwrap_or(&none);
    let mut merged: Vec<Value> = Vec::new();
    let mut others = match target.take() {
        Value::Array(others) => others,
        _ => Vec::new(),
    };
    for item in items {
        let found = others.iter().position(|other| same(item, other, keys));
        let mut live = found.map_or(Value::Null, |at| others.remove(at));
        merge(
            &mut live,
            before.iter().find(|other| same(item, other, keys)),
            item,
        );
        merged.push(live);
    }
    others.retain(|other| !before.iter().any(|before| same(other, before, keys)));
    merged.extend(others);
    *target = Value::Array(merged);
}

fn same(left: &Value, right: &Value, keys: &[&str]) -> bool {
    if keys.is_empty() {
        return left == right;
    }
    // A protocol that is left out is TCP on both sides.
    let field = |value: &Value, key: &str| match (&value[key], key) {
        (Value::Null, "protocol") => Value::from("TCP"),
        (value, _) => value.clone(),
    };
    keys.iter().all(|key| field(left, key) == field(right, key))
}

/// What tells the items of a list apart; none when the list is replaced as a whole, nothing when it is a set.
fn keys_of(field: &str) -> Option<&'static [&'static str]> {
    Some(match field {
        "containers" | "initContainers" | "volumes" | "env" | "imagePullSecrets" => &["name"],
        "volumeMounts" => &["mountPath"],
        "ports" => &["port", "containerPort", "protocol"],
        "conditions" => &["type"],
        "members" => &["id"],
        "ownerReferences" => &["uid"],
        "topologySpreadConstraints" => &["topologyKey", "whenUnsatisfiable"],
        "finalizers" => &[],
        _ => return None,
    })
}
