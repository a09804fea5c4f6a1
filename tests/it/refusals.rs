//! Bad input, each answered with what is wrong, where, and what is allowed; and nothing of it stored.

use serde_json::{Value, json};

use super::rig::{Answer, Daemon, answer};

const START: &str = "/api/v1/bulk-upload/start";

/// A good item, to be spoiled.
fn item(daemon: &Daemon) -> Value {
    let film = daemon.film("good.mp4");
    json!({"profile": "anna", "inputs": {"site": "http://127.0.0.1:9", "account": "anna", "video": film, "caption": "c"}})
}

async fn start(daemon: &Daemon, items: &Value) -> Answer {
    daemon.post(START, &json!({"flow": "atelier", "items": items})).await
}

/// The daemon with one profile and the flow, paused: nothing of these tests is to run.
async fn paused() -> Daemon {
    let daemon = Daemon::start().await;
    daemon.furnish(&["anna"]).await;
    assert_eq!(daemon.request("POST", "/api/v1/pause", None).await.status, 202);
    daemon
}

fn is_problem(answer: &Answer) {
    assert_eq!(answer.headers["content-type"], "application/problem+json");
    for member in ["type", "title", "status", "detail", "code", "request_id"] {
        assert!(!answer.body[member].is_null(), "{member}: {}", answer.body);
    }
    assert_eq!(answer.body["status"], answer.status);
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_fields_of_a_start_are_told_by_pointer_and_nothing_is_stored() {
    let daemon = paused().await;
    let good = item(&daemon);
    let spoiled = |path: &str, value: Value| {
        let mut item = good.clone();
        match value {
            Value::Null => {
                let (parent, name) = path.rsplit_once('/').unwrap();
                item.pointer_mut(parent).unwrap().as_object_mut().unwrap().remove(name);
            }
            value if item.pointer(path).is_some() => *item.pointer_mut(path).unwrap() = value,
            value => {
                let (parent, name) = path.rsplit_once('/').unwrap();
                item.pointer_mut(parent).unwrap()[name] = value;
            }
        }
        json!([item])
    };
    let outside = daemon.folder.path().join("secret.mp4");
    std::fs::write(&outside, "x").unwrap();
    let link = daemon.folder.path().join("media/link.mp4");
    std::os::unix::fs::symlink(&outside, &link).unwrap();
    let empty = daemon.folder.path().join("media/empty.mp4");
    std::fs::write(&empty, "").unwrap();
    let dots = format!("{}/media/../secret.mp4", daemon.folder.path().display());
    let gone = daemon.folder.path().join("media/gone.mp4");
    let table = [
        ("/inputs/nonsense", json!("x"), "/items/0/inputs/nonsense", ""),
        ("/inputs/caption", Value::Null, "/items/0/inputs/caption", ""),
        ("/inputs/caption", json!(7), "/items/0/inputs/caption", ""),
        ("/inputs/site", json!("nowhere"), "/items/0/inputs/site", ""),
        ("/inputs/video", json!("good.mp4"), "/items/0/inputs/video", ""),
        ("/inputs/video", json!(outside), "/items/0/inputs/video", "media_outside_roots"),
        ("/inputs/video", json!(dots), "/items/0/inputs/video", "media_outside_roots"),
        ("/inputs/video", json!(link), "/items/0/inputs/video", "media_outside_roots"),
        ("/inputs/video", json!(gone), "/items/0/inputs/video", "media_not_found"),
        ("/inputs/video", json!(empty), "/items/0/inputs/video", "media_empty"),
        ("/inputs/video", json!(format!("sha256:{}", "0".repeat(64))), "/items/0/inputs/video", ""),
        ("/profile", json!("nobody"), "/items/0/profile", "unknown_profile"),
        ("/profile", Value::Null, "/items/0/profile", ""),
        ("/not_before", json!("tomorrow"), "/items/0/not_before", ""),
        ("/nonsense", json!(1), "/items/0/nonsense", "unknown_field"),
    ];
    for (path, value, pointer, code) in table {
        let answer = start(&daemon, &spoiled(path, value.clone())).await;
        assert_eq!(answer.status, 422, "{path} = {value}: {}", answer.body);
        is_problem(&answer);
        assert_eq!(answer.pointers(), [pointer], "{path} = {value}: {}", answer.body);
        let told = answer.body["errors"][0]["code"].as_str().unwrap();
        assert!(code.is_empty() || told == code, "{path} = {value}: {}", answer.body);
    }
    let answer = daemon.post(START, &json!({"flow": "nothing", "items": [good]})).await;
    assert_eq!((answer.status, answer.pointers()), (422, vec!["/flow"]), "{}", answer.body);
    // Several at once.
    let mut two = good.clone();
    two["profile"] = json!("nobody");
    two["inputs"]["caption"] = json!(1);
    let answer = start(&daemon, &json!([good, two])).await;
    let mut pointers = answer.pointers();
    pointers.sort_unstable();
    assert_eq!(pointers, ["/items/1/inputs/caption", "/items/1/profile"], "{}", answer.body);
    assert_eq!(daemon.get("/api/v1/tasks").await.body["tasks"], json!([]), "something was stored");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_number_of_items_is_bounded_and_keys_are_unique() {
    let daemon = Daemon::start_with("max_items_per_task = 3").await;
    daemon.furnish(&["anna"]).await;
    daemon.request("POST", "/api/v1/pause", None).await;
    let good = item(&daemon);
    for (items, pointer) in [(json!([]), "/items"), (json!([good, good, good, good]), "/items")] {
        let answer = start(&daemon, &items).await;
        assert_eq!((answer.status, answer.pointers()), (422, vec![pointer]), "{}", answer.body);
    }
    let mut keyed = good.clone();
    keyed["key"] = json!("k");
    let answer = start(&daemon, &json!([keyed, keyed])).await;
    assert_eq!((answer.status, answer.pointers()), (422, vec!["/items/1/key"]), "{}", answer.body);
}

#[tokio::test(flavor = "multi_thread")]
async fn rule_13_a_retry_of_what_is_unknown_needs_a_flow_with_a_verify() {
    let daemon = Daemon::start().await;
    daemon.furnish(&["anna"]).await;
    daemon.request("POST", "/api/v1/pause", None).await;
    let good = item(&daemon);
    let mut unverified: Value = serde_json::from_str(super::rig::ATELIER).unwrap();
    unverified["cove"].as_object_mut().unwrap().remove("verify").unwrap();
    daemon.put_flow("unverified", &unverified.to_string()).await;
    let body = json!({"flow": "unverified", "items": [good], "on_unknown": "retry"});
    let answer = daemon.post(START, &body).await;
    assert_eq!((answer.status, answer.pointers()), (422, vec!["/on_unknown"]), "{}", answer.body);
    assert_eq!(daemon.get("/api/v1/tasks").await.body["tasks"], json!([]), "something was stored");
    // The same word for a flow that can look, and the other word for one that cannot.
    for (flow, word) in [("atelier", "retry"), ("unverified", "hold")] {
        let answer = daemon.post(START, &json!({"flow": flow, "items": [good], "on_unknown": word})).await;
        assert_eq!(answer.status, 202, "{flow} {word}: {}", answer.body);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_are_no_json_too_large_or_of_another_type_are_refused() {
    let daemon = Daemon::start().await;
    let url = format!("{}{START}", daemon.base);
    let post =
        |kind: &str, body: Vec<u8>| answer(daemon.client.post(&url).header("content-type", kind.to_owned()).body(body));
    for (kind, body, status, code) in [
        ("application/json", b"{\"flow\": ".to_vec(), 400, "invalid_json"),
        ("text/plain", b"{}".to_vec(), 415, "unsupported_content_type"),
        ("application/json", vec![b' '; 17 * 1024 * 1024], 413, "body_too_large"),
    ] {
        let answer = post(kind, body).await;
        assert_eq!((answer.status, answer.code()), (status, code), "{}", answer.body);
        is_problem(&answer);
    }
    let empty = answer(daemon.client.post(format!("{}/api/v1/media", daemon.base))).await;
    assert_eq!(empty.status, 422, "{}", empty.body);
    for (path, status) in [("/api/v1/tasks/t1", 404), ("/api/v1/items/nonsense", 404), ("/api/v1/nothing", 404)] {
        let answer = daemon.get(path).await;
        assert_eq!(answer.status, status, "{path}");
        is_problem(&answer);
    }
    let answer = daemon.get("/api/v1/tasks?limit=1001").await;
    assert_eq!(answer.status, 422, "{}", answer.body);
    let answer = daemon.get("/api/v1/tasks?stat=running").await;
    assert_eq!(answer.status, 422, "{}", answer.body);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_the_browsers_user_cannot_read_is_refused() {
    let daemon = paused().await;
    // As root everything can be read but what is no regular file for the host: the host is asked all the
    // same, and a folder of the media root is refused before it.
    let folder = daemon.folder.path().join("media/folder.mp4");
    std::fs::create_dir(&folder).unwrap();
    let mut item = item(&daemon);
    item["inputs"]["video"] = json!(folder);
    let refused = start(&daemon, &json!([item])).await;
    assert_eq!((refused.status, refused.pointers()), (422, vec!["/items/0/inputs/video"]), "{}", refused.body);
    if !rustix::process::geteuid().is_root() {
        let film = daemon.film("closed.mp4");
        let mut closed = std::fs::metadata(&film).unwrap().permissions();
        std::os::unix::fs::PermissionsExt::set_mode(&mut closed, 0);
        std::fs::set_permissions(&film, closed).unwrap();
        item["inputs"]["video"] = json!(film);
        let refused = start(&daemon, &json!([item])).await;
        assert_eq!(refused.status, 422, "{}", refused.body);
        assert_eq!(refused.body["errors"][0]["code"], "media_unreadable", "{}", refused.body);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recording_with_problems_is_refused_with_each_of_them() {
    let daemon = Daemon::start().await;
    let recording = json!({"title": "t", "steps": [{"type": "tap"}, {"type": "change", "selectors": ["#a"],
        "value": "{{ nobody }}"}]});
    let put = daemon.request("PUT", "/api/v1/flows/bad", Some(&recording)).await;
    assert_eq!((put.status, put.code()), (422, "flow_invalid"), "{}", put.body);
    assert_eq!(put.pointers(), ["/steps/0/type", "/steps/1/value"], "{}", put.body);
    assert_eq!(daemon.get("/api/v1/flows/bad").await.status, 404);
}
