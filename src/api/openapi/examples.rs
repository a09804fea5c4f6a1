//! An example of every answer, made of its schema and of what its members usually hold.
//!
//! A test holds each against the schema that it is an example of, so that none tells of a member or a word that the
//! daemon does not know.

use serde_json::{Map, Value, json};

/// Schemas that name each other in a circle end here.
const MAX_DEPTH: usize = 12;

/// `schemas` are those that a reference may name.
pub fn of(name: &str, schemas: &Map<String, Value>) -> Value {
    example(&schemas[name], &Place { schema: name, member: "", schemas, depth: 0 })
}

#[derive(Clone, Copy)]
struct Place<'a> {
    schema: &'a str,
    member: &'a str,
    schemas: &'a Map<String, Value>,
    depth: usize,
}

fn example(schema: &Value, at: &Place<'_>) -> Value {
    let at = &Place { depth: at.depth + 1, ..*at };
    if at.depth > MAX_DEPTH {
        return Value::Null;
    }
    if let Some(known) = schema.get("const").or_else(|| schema.pointer("/examples/0")) {
        return known.clone();
    }
    if let Some(words) = schema["enum"].as_array() {
        let usual = usual(at).filter(|usual| words.contains(usual));
        return usual.unwrap_or_else(|| words[0].clone());
    }
    if let Some(name) = schema["$ref"].as_str().and_then(|path| path.rsplit('/').next()) {
        return example(&at.schemas[name], &Place { schema: name, ..*at });
    }
    if let Some(one) = schema["oneOf"].as_array().or_else(|| schema["anyOf"].as_array()) {
        return example(&one[0], at);
    }
    match schema["type"].as_str().or_else(|| schema["type"][0].as_str()) {
        Some("object") => object(schema, at),
        Some("array") => match schema["prefixItems"].as_array() {
            Some(items) => items.iter().map(|item| example(item, at)).collect(),
            None => json!([example(&schema["items"], at)]),
        },
        Some("string") if schema["format"] == "date-time" => json!("2026-11-30T09:15:00.000Z"),
        Some("string") => usual(at).unwrap_or_else(|| if schema["type"].is_array() { Value::Null } else { json!("…") }),
        Some("integer") => usual(at).unwrap_or_else(|| json!(schema["minimum"].as_i64().unwrap_or_default().max(1))),
        Some("number") => json!(12.5),
        Some("boolean") => json!(true),
        _ => Value::Null,
    }
}

fn object(schema: &Value, at: &Place<'_>) -> Value {
    let named = schema["properties"].as_object().into_iter().flatten();
    let mut members: Map<String, Value> = named
        .map(|(name, schema)| (name.clone(), example(schema, &Place { member: name, ..*at })))
        // What is there in some answers alone, and has no usual text, tells nothing.
        .filter(|(name, value)| {
            value != "…" || schema["required"].as_array().is_some_and(|all| all.contains(&json!(name)))
        })
        .collect();
    // Those that are named and not described.
    for name in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        let place = &Place { member: name, ..*at };
        members.entry(name).or_insert_with(|| usual(place).unwrap_or_else(|| json!("…")));
    }
    if members.is_empty() && schema["additionalProperties"].is_object() {
        let name = if at.member == "inputs" { "caption" } else { "name" };
        return json!({name: example(&schema["additionalProperties"], at)});
    }
    Value::Object(members)
}

/// What stands in a member of this name.
fn usual(at: &Place<'_>) -> Option<Value> {
    const HASH: &str = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";
    let text = match (at.schema, at.member) {
        ("Task", "id") | (_, "task_id" | "task") => "t17".to_owned(),
        ("Item", "id") | (_, "item_id" | "item") => "i42".to_owned(),
        ("Profile", "id" | "name") | ("Lock", "key") | (_, "profile" | "profiles") => "anna".to_owned(),
        ("Token", "id") => "k3".to_owned(),
        ("Token", "name") => "the upload script".to_owned(),
        ("Token", "token") => "shown once".to_owned(),
        ("Delivery", "id") => "d5".to_owned(),
        ("Delivery", "state") => "delivered".to_owned(),
        ("Delivery", "event") => "item.succeeded".to_owned(),
        ("Snapshot" | "SnapshotBegun", "name") | ("Snapshots", "making") => "20261130T030000Z.cove.zst".to_owned(),
        ("Lock", "kind") => "profile".to_owned(),
        ("TaskEvent", "kind") => "armed".to_owned(),
        ("EvidenceFile", "kind") => "image/png".to_owned(),
        ("EvidenceFile", "url") => "/api/v1/items/i42/evidence/after.png".to_owned(),
        ("Job", "schedule") => "0 3 * * *".to_owned(),
        ("MetricsHistory", "name") => "queue_depth".to_owned(),
        ("Item", "key") => "spring-film-1".to_owned(),
        ("Item", "path") => "/srv/media/film.mp4".to_owned(),
        (_, "name" | "flow") => "atelier".to_owned(),
        (_, "url") => "https://example.org/posts/1".to_owned(),
        (_, "code") => "element_not_found".to_owned(),
        (_, "message") => "step 4: no element fits `#publish`".to_owned(),
        (_, "help") => "The page has changed: record the flow again.".to_owned(),
        (_, "pointer") => "/items/0/inputs/caption".to_owned(),
        (_, "detail" | "reason") => "queued by the upload script".to_owned(),
        (_, "claim_id") => "c42-f7".to_owned(),
        (_, "session_id") => "s9".to_owned(),
        (_, "fence") => "f7".to_owned(),
        (_, "file") => "after.png".to_owned(),
        (_, "owner" | "held_by") => "worker-1".to_owned(),
        ("Media", "media") => format!("sha256:{HASH}"),
        (_, "sha256" | "hash") => HASH.to_owned(),
        (_, "version") => env!("CARGO_PKG_VERSION").to_owned(),
        (_, "request_id") => "r1".to_owned(),
        (_, "next_cursor") => return Some(Value::Null),
        (_, "ws_endpoint" | "webSocketDebuggerUrl") => {
            "ws://127.0.0.1:8088/api/v1/sessions/s9/cdp/shown-once".to_owned()
        }
        _ => return None,
    };
    Some(text.into())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    #[test]
    fn every_answer_has_an_example_that_its_schema_takes() {
        let document = super::super::document();
        let mut examples = 0;
        for (path, operations) in document["paths"].as_object().unwrap() {
            for (method, operation) in operations.as_object().unwrap() {
                for (status, response) in operation["responses"].as_object().unwrap() {
                    let Some(held) = response.pointer("/content/application~1json") else { continue };
                    let what = format!("{method} {path} {status}");
                    let mut schema = held["schema"].clone();
                    schema["components"] = document["components"].clone();
                    let validator = jsonschema::draft202012::options().should_validate_formats(true).build(&schema);
                    let example = held.get("example").unwrap_or_else(|| panic!("{what} has no example"));
                    let wrong: Vec<String> = validator
                        .unwrap()
                        .iter_errors(example)
                        .map(|wrong| format!("{} {wrong}", wrong.instance_path()))
                        .collect();
                    assert!(wrong.is_empty(), "{what}: {wrong:#?}\n{example:#}");
                    assert_ne!(*example, json!("…"), "{what}");
                    examples += 1;
                }
            }
        }
        assert!(examples > 50, "{examples}");
    }

    #[test]
    fn every_parameter_says_what_it_is() {
        let document = super::super::document();
        for (path, operations) in document["paths"].as_object().unwrap() {
            for (method, operation) in operations.as_object().unwrap() {
                for parameter in operation["parameters"].as_array().into_iter().flatten() {
                    let told = parameter["description"].as_str().unwrap_or_default();
                    assert!(!told.is_empty(), "{method} {path}: {}", parameter["name"]);
                }
            }
        }
    }

    #[test]
    fn negative_control_an_example_of_another_schema_is_noticed() {
        let document = super::super::document();
        let mut schema = json!({"$ref": "#/components/schemas/Task"});
        schema["components"] = document["components"].clone();
        let validator = jsonschema::draft202012::new(&schema).unwrap();
        let of = |name: &str| -> Value { super::of(name, document["components"]["schemas"].as_object().unwrap()) };
        assert!(validator.is_valid(&of("Task")));
        assert!(!validator.is_valid(&of("Lock")));
    }
}
