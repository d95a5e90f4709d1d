//! A value against a structural schema, as the API server checks it, but with all problems at once and in words.

use serde_json::Value;

use super::Problem;

/// Checks a value and all that is in it.
pub(super) fn check(value: &Value, schema: &Value, path: &str, problems: &mut Vec<Problem>) {
    if value.is_null() && (schema["nullable"] == true || schema.get("default").is_some()) {
        return;
    }
    match schema["type"].as_str() {
        Some("object") if schema["x-kubernetes-preserve-unknown-fields"] == true => {
            check_any_object(value, path, problems);
        }
        Some("object") => check_object(value, schema, path, problems),
        Some("array") => match value {
            Value::Array(items) => {
                for (index, item) in items.iter().enumerate() {
                    check(
                        item,
                        &schema["items"],
                        &format!("{path}[{index}]"),
                        problems,
                    );
                }
            }
            _ => wrong_type(value, "a list", path, problems),
        },
        Some("integer") => check_integer(value, schema, path, problems),
        Some("boolean") if !value.is_boolean() => {
            wrong_type(value, "true or false", path, problems)
        }
        Some("string") => check_string(value, schema, path, problems),
        // The only values without a type are those of zoo.cfg.
        None => check_setting(value, path, problems),
        _ => {}
    }
}

/// The problem of a field that does not exist, with the one that was probably meant.
pub(super) fn unknown_field<'a>(
    path: &str,
    field: &str,
    known: impl Iterator<Item = &'a str>,
) -> Problem {
    let known: Vec<&str> = known.collect();
    let cure = match nearest(field, &known) {
        Some(near) => format!("did you mean {near:?}?"),
        None => format!("there are: {}", known.join(", ")),
    };
    Problem::new(path, format!("there is no such field; {cure}"))
}

/// The known word that differs least, if it differs little.
pub(super) fn nearest<'a>(word: &str, known: &[&'a str]) -> Option<&'a str> {
    let scored = known.iter().map(|other| {
        (
            distance(&word.to_lowercase(), &other.to_lowercase()),
            *other,
        )
    });
    scored
        .min()
        .filter(|(distance, _)| *distance <= 1 + word.len() / 4)
        .map(|(_, other)| other)
}

fn check_object(value: &Value, schema: &Value, path: &str, problems: &mut Vec<Problem>) {
    let Value::Object(fields) = value else {
        wrong_type(value, "a map of fields", path, problems);
        return;
    };
    let properties = schema["properties"].as_object();
    let others = schema.get("additionalProperties");
    for (field, value) in fields {
        let path = format!("{path}.{field}");
        match (
            properties.and_then(|properties| properties.get(field)),
            others,
        ) {
            (Some(schema), _) | (None, Some(schema)) => check(value, schema, &path, problems),
            (None, None) => {
                let known = properties
                    .into_iter()
                    .flatten()
                    .map(|(known, _)| known.as_str());
                problems.push(unknown_field(&path, field, known));
            }
        }
    }
}

/// What it holds is checked where it is used.
fn check_any_object(value: &Value, path: &str, problems: &mut Vec<Problem>) {
    if !value.is_object() {
        wrong_type(value, "a map of fields", path, problems);
    }
}

fn check_integer(value: &Value, schema: &Value, path: &str, problems: &mut Vec<Problem>) {
    let Some(number) = value.as_i64() else {
        wrong_type(value, "a whole number", path, problems);
        return;
    };
    let bound = |name: &str| schema[name].as_f64().map(|bound| bound as i64);
    if let Some(minimum) = bound("minimum").filter(|minimum| number < *minimum) {
        problems.push(Problem::new(
            path,
            format!("{number} is too small; at least {minimum}"),
        ));
    }
    if let Some(maximum) = bound("maximum").filter(|maximum| number > *maximum) {
        problems.push(Problem::new(
            path,
            format!("{number} is too large; at most {maximum}"),
        ));
    }
}

fn check_string(value: &Value, schema: &Value, path: &str, problems: &mut Vec<Problem>) {
    let Value::String(text) = value else {
        wrong_type(value, "a string", path, problems);
        return;
    };
    if let Value::Array(allowed) = &schema["enum"]
        && !allowed.contains(value)
    {
        let allowed: Vec<&str> = allowed.iter().filter_map(Value::as_str).collect();
        problems.push(Problem::new(
            path,
            format!("{text:?} is not allowed; one of {}", allowed.join(", ")),
        ));
    }
    if let Some(max) = schema["maxLength"]
        .as_u64()
        .filter(|max| text.len() as u64 > *max)
    {
        problems.push(Problem::new(
            path,
            format!("has {} characters; {max} are allowed", text.len()),
        ));
    }
}

fn check_setting(value: &Value, path: &str, problems: &mut Vec<Problem>) {
    if matches!(value, Value::Null | Value::Array(_) | Value::Object(_)) {
        wrong_type(value, "a text, a number, true or false", path, problems);
    }
}

fn wrong_type(value: &Value, wanted: &str, path: &str, problems: &mut Vec<Problem>) {
    let found = match value {
        Value::Null => "empty".to_owned(),
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "a map of fields".to_owned(),
        Value::Bool(_) | Value::Number(_) | Value::String(_) => value.to_string(),
    };
    problems.push(Problem::new(
        path,
        format!("is {found}; {wanted} is wanted"),
    ));
}

/// Levenshtein's distance.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.chars().count()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut corner = i;
        let mut left = i + 1;
        for (j, y) in b.chars().enumerate() {
            let above = row.get(j + 1).copied().unwrap_or_default();
            let best = (corner + usize::from(x != y)).min(left + 1).min(above + 1);
            if let Some(cell) = row.get_mut(j) {
                *cell = left;
            }
            corner = above;
            left = best;
        }
        if let Some(last) = row.last_mut() {
            *last = left;
        }
    }
    row.last().copied().unwrap_or_default()
}
