//! Schemas that are not simply derived: types of Kubernetes without their long descriptions, and bounds on sizes so
//! that the API server can tell what a rule costs.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde_json::Value;

/// A type of Kubernetes, without descriptions: they would be most of the CRD.
pub(super) fn plain<T: JsonSchema>(generator: &mut SchemaGenerator) -> Schema {
    let mut schema = T::json_schema(generator).to_value();
    strip(&mut schema);
    schema.try_into().expect("what was a schema still is one")
}

/// A list of a type of Kubernetes, of at most 64 items.
pub(super) fn plain_list<T: JsonSchema>(generator: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "array", "maxItems": 64, "items": plain::<T>(generator) })
}

/// `image pull secrets`: names only.
pub(super) fn pull_secrets(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array", "maxItems": 16,
        "items": {"type": "object", "properties": {"name": {"type": "string", "maxLength": 253}}, "required": ["name"]}
    })
}

/// Keys of `zoo.cfg`. A structural schema has no word for "text, number or switch", so a value is anything here, and
/// lists and maps are refused by the operator.
pub(super) fn config(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object", "maxProperties": 200,
        "additionalProperties": {"x-kubernetes-preserve-unknown-fields": true}
    })
}

/// Labels, annotations, node selectors.
pub(super) fn texts(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "object", "maxProperties": 100, "additionalProperties": {"type": "string", "maxLength": 4096} })
}

/// A size of a volume.
pub(super) fn size(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "maxLength": 24, "pattern": "^[0-9]+(\\.[0-9]+)?(k|M|G|T|P|Ki|Mi|Gi|Ti|Pi)?$" })
}

/// Any object: what it may hold is checked when it is used.
pub(super) fn any_object(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true })
}

/// Takes descriptions away, and writes references out: a CRD has no place to refer to.
fn strip(schema: &mut Value) {
    match schema {
        Value::Object(fields) => {
            // A property may be called `description` too; then its value is a schema.
            if fields.get("description").is_some_and(Value::is_string) {
                fields.remove("description");
            }
            fields.values_mut().for_each(strip);
        }
        Value::Array(items) => items.iter_mut().for_each(strip),
        _ => {}
    }
}
