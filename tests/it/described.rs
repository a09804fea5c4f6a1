//! That the daemon's description is held against its answers, and its examples against itself.

use reqwest::header::HeaderMap;
use serde_json::json;

use super::description::{DOCUMENT, wrong};

#[test]
fn an_answer_that_is_not_as_described_is_noticed() {
    let headers = |kind: &str| {
        let mut headers = HeaderMap::new();
        headers.insert("x-request-id", "r1".parse().unwrap());
        headers.insert("content-type", kind.parse().unwrap());
        headers
    };
    let (json_kind, simple) = (headers("application/json"), "/api/v1/health/simple");
    let good = json!({"ok": true, "status": "healthy"});
    assert_eq!(wrong("GET", simple, 200, &json_kind, &good), None);
    assert!(wrong("GET", simple, 201, &json_kind, &good).is_some(), "status");
    assert!(wrong("GET", simple, 200, &headers("text/html"), &good).is_some(), "content type");
    assert!(wrong("GET", simple, 200, &HeaderMap::new(), &good).is_some(), "headers");
    for bad in [
        json!({"ok": true}),
        json!({"ok": 1, "status": "healthy"}),
        json!({"ok": true, "status": "healthy", "more": 1}),
    ] {
        assert!(wrong("GET", simple, 200, &json_kind, &bad).is_some(), "{bad}");
    }
}

/// Examples are read by people and by programs: each has to fit its own schema.
#[test]
fn every_example_fits_its_schema() {
    let schemas = DOCUMENT["components"]["schemas"].as_object().unwrap();
    let mut seen = 0;
    for (name, schema) in schemas {
        for example in schema["examples"].as_array().into_iter().flatten() {
            let mut whole = schema.clone();
            whole["components"] = DOCUMENT["components"].clone();
            let validator = jsonschema::options().should_validate_formats(true).build(&whole).unwrap();
            let errors: Vec<_> = validator.iter_errors(example).map(|error| error.to_string()).collect();
            assert!(errors.is_empty(), "{name}: {errors:?}");
            seen += 1;
        }
    }
    assert!(seen > 15, "{seen}");
}
