//! The form of a start request, field by field.

use serde_json::{Value, json};

use super::{Bounds, Request, read};
use crate::api::body::read_reply;
use crate::api::form::Walk;
use crate::model::Timestamp;

const NOW: Timestamp = Timestamp::from_millis(1_795_000_000_000);

fn bounds() -> Bounds {
    Bounds { max_items: 6, default_max_attempts: 3, idempotency_key: None, now: NOW }
}

fn good(body: &Value) -> Request {
    let mut walk = Walk::default();
    let request = read(body, &bounds(), &mut walk);
    walk.finish().unwrap();
    request
}

/// The told (code, pointer) pairs.
async fn wrong_within(body: Value, bounds: Bounds) -> Vec<(String, String)> {
    let mut walk = Walk::default();
    read(&body, &bounds, &mut walk);
    let response = walk.finish().unwrap_err().into_response("r");
    assert_eq!(response.status(), 422);
    let json: Value = serde_json::from_slice(&read_reply(response).await).unwrap();
    let text = |error: &Value, name: &str| error[name].as_str().unwrap().to_owned();
    json["errors"].as_array().unwrap().iter().map(|error| (text(error, "code"), text(error, "pointer"))).collect()
}

async fn wrong(body: Value) -> Vec<(String, String)> {
    wrong_within(body, bounds()).await
}

fn told(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(code, at)| ((*code).to_owned(), (*at).to_owned())).collect()
}

#[test]
fn items_are_read_with_their_defaults() {
    let request = good(&json!({"flow": "atelier", "not_before": "2026-12-01T09:00:00Z", "webhook": null, "items": [
        {"profile": "anna", "inputs": {"caption": "a"}, "key": "k", "not_after": "2026-12-02T09:00:00Z"},
        {"profile": "anna", "not_before": "2027-01-01T00:00:00Z", "not_after": null},
        {"profile": "ben", "inputs": null}]}));
    assert_eq!(request.flow.as_deref(), Some("atelier"));
    assert_eq!((request.priority, request.max_attempts, request.spacing_seconds), (0, 3, 0));
    let names: Vec<_> = request.profiles.iter().map(|placed| placed.value.as_str()).collect();
    assert_eq!(names, ["anna", "ben"], "a name is looked up once");
    assert_eq!(request.rows.iter().map(|row| row.profile).collect::<Vec<_>>(), [0, 0, 1]);
    assert_eq!(request.rows[0].not_before, Some("2026-12-01T09:00:00Z".parse().unwrap()));
    assert_eq!(request.rows[1].not_before, Some("2027-01-01T00:00:00Z".parse().unwrap()));
    assert_eq!((request.rows[0].key.as_deref(), request.rows[1].key.as_deref()), (Some("k"), None));
    assert_eq!(request.inputs[0].at, "/items/0/inputs");
}

#[test]
fn lists_are_multiplied_or_dealt_out() {
    let lists = |distribute: Option<&str>| {
        let mut body = json!({"flow": "f", "profiles": ["a", "b"], "inputs_list": [{"n": 0}, {"n": 1}, {"n": 2}]});
        if let Some(distribute) = distribute {
            body["distribute"] = distribute.into();
        }
        good(&body).rows.iter().map(|row| (row.profile, row.inputs)).collect::<Vec<_>>()
    };
    let product = [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)];
    assert_eq!(lists(None), product);
    assert_eq!(lists(Some("all_to_all")), product);
    assert_eq!(lists(Some("round_robin")), [(0, 0), (1, 1), (0, 2)]);
}

#[tokio::test]
async fn all_wrong_fields_of_both_levels_are_told_at_once() {
    let body = json!({"flow": 7, "surprise": 1, "priority": 101, "max_attempts": 0, "spacing_seconds": 86_401,
        "webhook": "http://x", "on_unknown": "again",
        "items": [{"profile": 3, "inputs": [], "key": "a\nb", "extra": 1}, "x", {},
            {"profile": "a", "not_before": "2026-12-01T09:00:00Z", "not_after": "2026-12-01T09:00:00Z"},
            {"profile": "a", "not_after": NOW}]});
    let expected = told(&[
        ("unknown_field", "/surprise"),
        ("invalid_field", "/priority"),
        ("invalid_field", "/max_attempts"),
        ("invalid_field", "/spacing_seconds"),
        ("invalid_field", "/on_unknown"),
        ("invalid_field", "/flow"),
        ("invalid_field", "/webhook"),
        ("unknown_field", "/items/0/extra"),
        ("invalid_field", "/items/0/profile"),
        ("invalid_field", "/items/0/inputs"),
        ("invalid_field", "/items/0/key"),
        ("invalid_field", "/items/1"),
        ("missing_field", "/items/2/profile"),
        ("invalid_field", "/items/3/not_after"),
        ("invalid_field", "/items/4/not_after"),
    ]);
    assert_eq!(wrong(body).await, expected);
}

#[tokio::test]
async fn a_webhook_has_an_address_and_may_have_a_secret() {
    let body = |webhook: &Value| json!({"flow": "f", "items": [{"profile": "a"}], "webhook": webhook});
    assert!(good(&body(&Value::Null)).webhook.is_none());
    let plain = good(&body(&json!({"url": "https://Host/x?y=1", "secret": null}))).webhook.unwrap();
    assert_eq!((plain.url(), plain.secret().is_none()), ("https://host/x?y=1", true));
    let signed = good(&body(&json!({"url": "http://host", "secret": "whsec_AQID"}))).webhook.unwrap();
    assert_eq!(signed.secret().unwrap().key(), [1, 2, 3]);
    for (webhook, code, at) in [
        (json!([]), "invalid_field", "/webhook"),
        (json!({}), "missing_field", "/webhook/url"),
        (json!({"secret": "s"}), "missing_field", "/webhook/url"),
        (json!({"url": 7}), "invalid_field", "/webhook/url"),
        (json!({"url": "ftp://host/"}), "invalid_field", "/webhook/url"),
        (json!({"url": "https://me:pass@host/"}), "invalid_field", "/webhook/url"),
        (json!({"url": format!("https://host/{}", "x".repeat(2_048))}), "invalid_field", "/webhook/url"),
        (json!({"url": "https://host/", "secret": ""}), "invalid_field", "/webhook/secret"),
        (json!({"url": "https://host/", "secret": "x".repeat(256)}), "invalid_field", "/webhook/secret"),
        (json!({"url": "https://host/", "secret": "whsec_?"}), "invalid_field", "/webhook/secret"),
        (json!({"url": "https://host/", "secret": 5}), "invalid_field", "/webhook/secret"),
        (json!({"url": "https://host/", "events": []}), "unknown_field", "/webhook/events"),
    ] {
        assert_eq!(wrong(body(&webhook)).await, told(&[(code, at)]), "{webhook}");
    }
    let both = json!({"url": "ftp://host/", "secret": ""});
    assert_eq!(
        wrong(body(&both)).await,
        told(&[("invalid_field", "/webhook/secret"), ("invalid_field", "/webhook/url")])
    );
}

#[tokio::test]
async fn the_form_of_the_body_is_one_of_two() {
    let items = json!([{"profile": "a"}]);
    assert_eq!(wrong(json!([])).await, told(&[("invalid_field", "")]));
    assert_eq!(wrong(json!({"flow": "f"})).await, told(&[("missing_field", "/items")]));
    assert_eq!(wrong(json!({"items": items})).await, told(&[("missing_field", "/flow")]));
    let both = json!({"flow": "f", "items": items, "profiles": ["a"], "distribute": "round_robin"});
    assert_eq!(wrong(both).await, told(&[("invalid_field", "/profiles"), ("invalid_field", "/distribute")]));
    let half = json!({"flow": "f", "profiles": ["a"]});
    assert_eq!(wrong(half).await, told(&[("missing_field", "/inputs_list")]));
    let kinds = json!({"flow": "f", "profiles": ["a", 1], "inputs_list": [{}, "x"]});
    assert_eq!(wrong(kinds).await, told(&[("invalid_field", "/profiles/1"), ("invalid_field", "/inputs_list/1")]));
    let dealt = json!({"flow": "f", "profiles": ["a"], "inputs_list": [{}], "distribute": "some"});
    assert_eq!(wrong(dealt).await, told(&[("invalid_field", "/distribute")]));
}

#[tokio::test]
async fn a_task_has_one_item_at_least_and_a_bound() {
    let many = |n: usize| json!({"flow": "f", "items": vec![json!({"profile": "a"}); n]});
    assert_eq!(wrong(many(0)).await, told(&[("invalid_field", "/items")]));
    assert_eq!(wrong(many(7)).await, told(&[("invalid_field", "/items")]));
    good(&many(6));
    let lists = json!({"flow": "f", "profiles": ["a", "b"], "inputs_list": [{}, {}, {}, {}]});
    assert_eq!(wrong(lists).await, told(&[("invalid_field", "/inputs_list")]));
    let empty = json!({"flow": "f", "profiles": [], "inputs_list": []});
    assert_eq!(wrong(empty).await, told(&[("invalid_field", "/profiles"), ("invalid_field", "/inputs_list")]));
}

#[tokio::test]
async fn rule_2_keys_come_from_the_idempotency_key_and_are_never_equal() {
    let named = Bounds { idempotency_key: Some("spring".to_owned()), ..bounds() };
    let mut walk = Walk::default();
    let body = json!({"flow": "f", "items": [{"profile": "a"}, {"profile": "a", "key": "own"}, {"profile": "a"}]});
    let request = read(&body, &named, &mut walk);
    walk.finish().unwrap();
    let keys: Vec<_> = request.rows.iter().map(|row| row.key.as_deref().unwrap()).collect();
    assert_eq!(keys, ["spring#0", "own", "spring#2"]);

    let equal = json!({"flow": "f", "items": [{"profile": "a", "key": "k"}, {"profile": "b", "key": "k"}]});
    assert_eq!(wrong(equal).await, told(&[("duplicate_key", "/items/1/key")]));
    let clash = json!({"flow": "f", "items": [{"profile": "a"}, {"profile": "b", "key": "spring#0"}]});
    assert_eq!(wrong_within(clash, named).await, told(&[("duplicate_key", "/items/1/key")]));
}

#[test]
fn ten_thousand_items_are_read() {
    let items: Vec<Value> =
        (0..10_000).map(|n| json!({"profile": format!("p{}", n % 50), "key": format!("k{n}")})).collect();
    let mut walk = Walk::default();
    let request = read(&json!({"flow": "f", "items": items}), &Bounds { max_items: 10_000, ..bounds() }, &mut walk);
    walk.finish().unwrap();
    assert_eq!((request.rows.len(), request.profiles.len()), (10_000, 50));
}
