//! The JSON Schema of a pipeline, made from the tables that the reader itself uses.

use serde_json::{Map, Value, json};

use super::fields::{ACTIONS, Field, NOT_IN_CHANGES, PIPELINE, STAGES, STEP, Shape};

/// What an expression looks like: wherever a value that is no text is wanted, one may stand for it.
const EXPRESSION: &str = r"\{\{.*\}\}";

/// The JSON Schema (draft 2020-12) of a pipeline file.
pub fn pipeline() -> Value {
    let mut schema = record(PIPELINE);
    schema["$schema"] = json!("https://json-schema.org/draft/2020-12/schema");
    schema["title"] = json!("A pipeline of factoryd");
    schema["$defs"] = json!({ "step": step(ACTIONS, STEP), "change": step(but(ACTIONS), but(STEP)) });
    schema
}

fn record(fields: &[Field]) -> Value {
    let required: Vec<&str> = fields.iter().filter(|field| field.required).map(|field| field.name).collect();
    let mut schema = json!({ "type": "object", "properties": properties(fields), "additionalProperties": false });
    if !required.is_empty() {
        schema["required"] = json!(required);
    }
    schema
}

fn properties<'f>(fields: impl IntoIterator<Item = &'f Field>) -> Value {
    let property = |field: &Field| {
        let mut schema = shape(&field.shape);
        schema["description"] = json!(field.about);
        (field.name.to_owned(), schema)
    };
    Value::Object(fields.into_iter().map(property).collect::<Map<_, _>>())
}

fn shape(shape: &Shape) -> Value {
    match shape {
        Shape::Version => json!({ "const": 1 }),
        Shape::Text => json!({ "type": ["string", "number"] }),
        Shape::Count(least, most) => or_expression(&json!({ "type": "integer", "minimum": least, "maximum": most })),
        Shape::Bool => or_expression(&json!({ "type": "boolean" })),
        Shape::Duration => pattern("([0-9]+d)?([0-9]+h)?([0-9]+m)?([0-9]+s)?"),
        Shape::Size => pattern("[0-9]+[KMGT]iB"),
        Shape::Mode => or_expression(&json!({ "type": ["string", "integer"] })),
        Shape::Sum => pattern("(sha256:)?[0-9a-fA-F]{64}"),
        Shape::Path | Shape::BundlePath | Shape::RootPath | Shape::Glob => json!({ "type": "string", "minLength": 1 }),
        Shape::Word(words) => or_expression(&json!({ "enum": words })),
        Shape::List(of) => or_expression(&json!({ "type": "array", "items": self::shape(of) })),
        Shape::Texts => or_expression(
            &json!({ "type": "object", "additionalProperties": { "type": ["string", "number", "boolean", "null"] } }),
        ),
        Shape::Record(fields) => record(fields),
        Shape::Short(fields) => json!({ "anyOf": [{ "type": "string", "minLength": 1 }, record(fields)] }),
        Shape::OneOf(maps) => {
            let mut ways = vec![json!({ "type": "string", "minLength": 1 })];
            ways.extend(maps.iter().map(|fields| record(fields)));
            json!({ "anyOf": ways })
        }
        Shape::Stages => json!({ "type": "array", "minItems": 1, "items": { "anyOf": stages() } }),
        Shape::Steps => json!({ "type": "array", "items": { "$ref": "#/$defs/step" } }),
        Shape::Changes => json!({ "type": "array", "items": { "$ref": "#/$defs/change" } }),
    }
}

fn stages() -> Vec<Value> {
    let stage = |(stage, fields): &(crate::domain::pipeline::Stage, &[Field])| {
        json!({
            "type": "object",
            "properties": { stage.word(): record(fields) },
            "required": [stage.word()],
            "additionalProperties": false
        })
    };
    STAGES.iter().map(stage).collect()
}

fn step<'f>(actions: impl IntoIterator<Item = &'f Field>, others: impl IntoIterator<Item = &'f Field>) -> Value {
    let actions: Vec<&Field> = actions.into_iter().collect();
    let one: Vec<Value> = actions.iter().map(|action| json!({ "required": [action.name] })).collect();
    json!({
        "type": "object",
        "properties": properties(actions.into_iter().chain(others)),
        "additionalProperties": false,
        "oneOf": one
    })
}

/// The fields without those that can't stand in `boot.changes`.
fn but(fields: &'static [Field]) -> impl Iterator<Item = &'static Field> {
    fields.iter().filter(|field| !NOT_IN_CHANGES.iter().any(|(name, _)| *name == field.name))
}

fn pattern(pattern: &str) -> Value {
    json!({ "type": "string", "pattern": format!("^{pattern}$|{EXPRESSION}") })
}

fn or_expression(schema: &Value) -> Value {
    json!({ "anyOf": [schema, { "type": "string", "pattern": EXPRESSION }] })
}
