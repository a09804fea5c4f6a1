//! Every shape that was seen of the real application, and any bytes at all.

use proptest::prelude::*;
use serde_json::json;

use super::*;

const PATH: &str = "/devtools/browser/67424c13-7472-4745-be31-aea56cb4fb3d";

fn ready(port: u16) -> Started {
    Started::Ready(Endpoint { port: Some(port), ws_path: Some(PATH.to_owned()) })
}

fn meaning(status: u16, body: &str) -> Meaning {
    refusal(status, body.as_bytes()).meaning
}

#[test]
fn both_forms_of_the_endpoint_are_read() {
    let url = format!("ws://127.0.0.1:38123{PATH}");
    for (automation, port) in [
        (json!({"port": 14969, "wsEndpoint": PATH}), 14_969),
        (json!({"port": "14969", "wsEndpoint": PATH}), 14_969),
        (json!({"port": 14969, "wsEndpoint": url}), 14_969),
        (json!({"wsEndpoint": url}), 38_123),
        (json!({"port": 0, "wsEndpoint": url}), 38_123),
    ] {
        let body = json!({"success": true, "automation": automation}).to_string();
        assert_eq!(start(200, body.as_bytes()), ready(port), "{body}");
        let without = json!({"automation": automation}).to_string();
        assert_eq!(start(200, without.as_bytes()), ready(port), "{without}");
    }
}

#[test]
fn a_part_of_an_endpoint_that_is_not_one_is_missing() {
    let endpoint = |automation: Value| {
        let body = json!({"success": true, "automation": automation}).to_string();
        match start(200, body.as_bytes()) {
            Started::Ready(endpoint) => (endpoint.port, endpoint.ws_path.is_some()),
            other => panic!("{body}: {other:?}"),
        }
    };
    assert_eq!(endpoint(json!({"port": 0, "wsEndpoint": PATH})), (None, true));
    assert_eq!(endpoint(json!({"port": 70000, "wsEndpoint": ""})), (None, false));
    assert_eq!(endpoint(json!({"port": -1})), (None, false));
    for bad in
        ["/devtools/page/1", "/devtools/browser/", "/devtools/browser/a/../b", "/devtools/browser/a?b", "x", "ws://"]
    {
        assert_eq!(endpoint(json!({"port": 9222, "wsEndpoint": bad})), (Some(9_222), false), "{bad}");
    }
    for body in [r#"{"success":true}"#, r#"{"success":true,"automation":null}"#] {
        assert_eq!(start(200, body.as_bytes()), Started::WithoutAutomation);
    }
}

#[test]
fn an_endpoint_of_an_answer_that_says_no_is_not_used() {
    let body = json!({"success": false, "automation": {"port": 1234, "wsEndpoint": PATH}}).to_string();
    assert!(matches!(start(200, body.as_bytes()), Started::Refused(_)));
    let body = json!({"success": true, "automation": {"port": 1234, "wsEndpoint": PATH}}).to_string();
    assert!(matches!(start(500, body.as_bytes()), Started::Refused(_)));
}

#[test]
fn every_row_of_the_error_table_has_its_meaning() {
    let duplicate = "E_BROWSER_RUN_DUPLICATE";
    for (status, body) in [
        (
            500,
            json!({"success": false, "error": "x", "errorObject": {"code": duplicate, "text": "Profile is already running"}}),
        ),
        (500, json!({"error": {"errorObject": {"code": duplicate}}})),
        (500, json!({"error": {"code": duplicate, "text": "no"}})),
        (500, json!({"success": false, "error": "Browser profile is ALREADY RUNNING"})),
        (200, json!({"success": false, "errorObject": {"code": duplicate}})),
        (409, json!({"message": "already running"})),
    ] {
        assert_eq!(meaning(status, &body.to_string()), Meaning::Duplicate, "{body}");
    }
    for (status, body, expected) in [
        (500, r#"{"error":"EBUSY: resource busy or locked, unlink '/x/Cookies'"}"#, Meaning::Locked),
        (500, r#"{"error":"DevToolsActivePort file doesn't exist"}"#, Meaning::Locked),
        (500, r#"{"error":"initConnectionError"}"#, Meaning::InitConnection),
        (200, r#"{"success":false,"errorObject":{"code":"initConnectionError"}}"#, Meaning::InitConnection),
        (402, r#"{"success":false,"error":"On free plan you can't use automation"}"#, Meaning::PlanForbids),
        (402, "", Meaning::PlanForbids),
        (499, r#"{"errorObject":{"code":"FREE_PLAN_PROFILE_LIMIT_EXCEEDED"}}"#, Meaning::PlanLimit),
        (429, "slow down", Meaning::TooManyLaunches),
        (401, r#"{"error":"invalid session token"}"#, Meaning::SignedOut),
        (401, "", Meaning::SignedOut),
        (500, r#"{"error":"token refresh timeout"}"#, Meaning::SignedOut),
        (400, r#"{"message":"unknown key"}"#, Meaning::BadRequest),
        (500, r#"{"errorObject":{"code":"E_BROWSER_PROFILE_ACCESS_DENIED"}}"#, Meaning::NoAccess),
        (403, r#"{"errorObject":{"type":"E_BROWSER_PROFILE_WRONG_PASSWORD"}}"#, Meaning::NoAccess),
        (404, r#"{"message":"Not found"}"#, Meaning::NoAccess),
        (404, "<html>Cannot GET /v1.0</html>", Meaning::NotTheApi),
        (302, "", Meaning::NotTheApi),
        (418, "<html>", Meaning::NotTheApi),
        (403, "", Meaning::NotTheApi),
        (403, "<html>Blocked</html>", Meaning::NotTheApi),
        (403, r#"{"message":"Forbidden"}"#, Meaning::NoAccess),
        (500, r#"{"errorObject":{"code":"E_BROWSER_PROFILE_BROKEN"}}"#, Meaning::NoAccess),
        (409, r#"{"success":false,"error":"busy"}"#, Meaning::Failed),
        (500, r#"{"success":false,"error":"oops"}"#, Meaning::Failed),
        (200, r#"{"success":false,"message":"PID file not found"}"#, Meaning::Failed),
        (500, "<html>", Meaning::Unreadable),
        (500, "", Meaning::Unreadable),
        (500, r#"{"success":fal"#, Meaning::Unreadable),
        (200, "[]", Meaning::Unreadable),
        (200, "{}", Meaning::Unreadable),
    ] {
        assert_eq!(meaning(status, body), expected, "{status} {body}");
    }
    assert!(Meaning::Duplicate.is_sound(500) && Meaning::Failed.is_sound(200) && Meaning::NotTheApi.is_sound(404));
    assert!(!Meaning::Failed.is_sound(500) && !Meaning::Unreadable.is_sound(200));
}

#[test]
fn only_a_map_by_ids_says_what_runs() {
    let body = r#"{"43499381":{"runid":"u","pid":1234},"7":{"pid":"99"},"8":{},"9":null,"10":{"pid":0}}"#;
    let map = running(200, body.as_bytes()).unwrap();
    let pids: Vec<_> = map.iter().map(|(id, running)| (*id, running.pid)).collect();
    assert_eq!(pids, [(7, Some(99)), (8, None), (9, None), (10, None), (43_499_381, Some(1_234))]);
    assert_eq!(running(200, b"{}"), Ok(RunningMap::new()));
    for bad in
        [r#"{"success":false,"error":"x"}"#, r#"{"success":true}"#, "[]", "", r#"{"0":{}}"#, r#"{"-1":{}}"#, "null"]
    {
        assert!(running(200, bad.as_bytes()).is_err(), "{bad}");
    }
    assert!(running(500, b"{}").is_err());
}

#[test]
fn a_stop_or_a_sign_in_is_true_or_says_why_not() {
    assert_eq!(outcome(200, br#"{"success":true}"#), Ok(()));
    let refused = outcome(200, br#"{"success":false,"message":"PID file not found"}"#).unwrap_err();
    assert_eq!((refused.meaning, refused.text.as_str()), (Meaning::Failed, "PID file not found"));
    assert_eq!(outcome(200, b"ok").unwrap_err().meaning, Meaning::Unreadable);
    assert_eq!(outcome(401, br#"{"success":false}"#).unwrap_err().meaning, Meaning::SignedOut);
}

#[test]
fn a_scan_ends_by_whichever_sign_comes_first() {
    let page = |json: Value, page: u32| list_page(200, json.to_string().as_bytes(), page).unwrap();
    let row = json!({"id": 12, "name": " Anna\n\tB "});
    let first = page(json!({"current_page": 1, "last_page": 2, "next_page_url": "x", "total": "3", "data": [row]}), 1);
    assert_eq!(first, ListPage { profiles: vec![Listed { id: 12, name: "Anna B".to_owned() }], is_last: false });
    assert!(page(json!({"last_page": "2", "next_page_url": "x", "data": [row]}), 2).is_last);
    assert!(page(json!({"last_page": 9, "next_page_url": null, "data": [row]}), 1).is_last);
    assert!(page(json!({"last_page": 9, "next_page_url": "x", "data": []}), 1).is_last);
    let odd = page(json!({"data": [{"id": "7"}, {"id": -1, "name": "x"}, {"name": "y"}, 3, {"id": 8, "name": ""}]}), 1);
    let shown: Vec<_> = odd.profiles.iter().map(|listed| (listed.id, listed.name.as_str())).collect();
    assert_eq!(shown, [(7, "7"), (8, "8")]);
    assert!(list_page(200, br#"{"data":{}}"#, 1).is_err() && list_page(500, br#"{"data":[]}"#, 1).is_err());
}

#[test]
fn a_profile_is_there_when_the_answer_is_about_it() {
    assert_eq!(one_profile(200, br#"{"data":{"id":"7","name":"x"}}"#, 7), Ok(()));
    assert!(one_profile(200, br#"{"data":{"id":8}}"#, 7).is_err());
    assert_eq!(one_profile(404, br#"{"message":"x"}"#, 7).unwrap_err().meaning, Meaning::NoAccess);
}

#[test]
fn an_id_is_plain_digits_of_a_positive_int64() {
    assert_eq!(profile_number("43499381"), Some(43_499_381));
    for bad in ["", "0", "01", "-1", "+1", "1a", "9223372036854775808", "99999999999999999999"] {
        assert_eq!(profile_number(bad), None, "{bad}");
    }
}

#[test]
fn what_a_person_reads_is_one_short_line() {
    let body = json!({"error": format!("a\n\u{1b}[2J{}", "п".repeat(1_000))}).to_string();
    let text = refusal(500, body.as_bytes()).to_string();
    assert!(text.starts_with("HTTP 500: a [2Jп") && text.len() < 400 && !text.contains(['\n', '\u{1b}']), "{text}");
}

fn any_json() -> impl Strategy<Value = Value> {
    let word = prop::sample::select(vec![
        "success",
        "automation",
        "port",
        "wsEndpoint",
        "error",
        "errorObject",
        "code",
        "text",
        "message",
        "data",
        "id",
        "last_page",
        "next_page_url",
        "pid",
        "1",
        "webSocketDebuggerUrl",
        PATH,
        "ws://h:1/devtools/browser/a",
        "true",
    ]);
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        word.clone().prop_map(Value::from),
        ".{0,20}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 40, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::vec((word.clone(), inner), 0..6)
                .prop_map(|pairs| pairs.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()),
        ]
    })
}

fn read_in_every_way(status: u16, body: &[u8]) -> Result<(), TestCaseError> {
    if let Started::Ready(endpoint) = start(status, body) {
        prop_assert!(endpoint.port != Some(0));
        let plain = |path: &String| path.starts_with(WS_PATH_BEGIN) && !path.contains(['?', '.', '%', '#', ' ']);
        prop_assert!(endpoint.ws_path.as_ref().is_none_or(plain));
    }
    let said = refusal(status, body);
    prop_assert!(said.text.len() <= MAX_TEXT_BYTES && !said.text.contains(char::is_control));
    drop((outcome(status, body), running(status, body), browser_path(status, body), one_profile(status, body, 1)));
    drop(list_page(status, body, 1));
    Ok(())
}

proptest! {
    #[test]
    fn no_bytes_can_hurt(status in 100u16..600, body in prop::collection::vec(any::<u8>(), 0..300)) {
        read_in_every_way(status, &body)?;
    }

    #[test]
    fn no_json_of_the_apis_own_words_can_hurt(status in 100u16..600, json in any_json(), cut in 0usize..400) {
        let text = json.to_string();
        read_in_every_way(status, text.as_bytes())?;
        read_in_every_way(status, &text.as_bytes()[..cut.min(text.len())])?;
    }
}
