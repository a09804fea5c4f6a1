//! The main job: files go out through real browsers, once each, and leave evidence.

use std::os::unix::fs::PermissionsExt;

use serde_json::{Value, json};

use super::rig::{Daemon, PracticeSite};

#[tokio::test(flavor = "multi_thread")]
async fn a_bulk_upload_publishes_each_item_once_and_leaves_evidence() {
    let daemon = Daemon::start_with("slots = 2").await;
    let practice = PracticeSite::start(json!({})).await;
    daemon.furnish(&["anna", "boris"]).await;
    let captions = ["Весна 🌷", "second film", "third: ünïcödé ✅✅"];
    let sent: Vec<_> = captions.iter().flat_map(|caption| [("anna", *caption), ("boris", *caption)]).collect();
    let task = daemon.submit(&practice.site, &sent).await;
    let items = daemon.settled(&task).await;
    assert!(items.iter().all(|item| item["state"] == "succeeded"), "{items:#?}\n{}", daemon.logged());

    let posts = practice.posts();
    assert_eq!(posts.len(), sent.len());
    for (profile, caption) in &sent {
        let matching: Vec<_> =
            posts.iter().filter(|post| post.profile == *profile && post.caption == *caption).collect();
        assert_eq!(matching.len(), 1, "{profile} {caption}");
    }
    let first = &items[0];
    assert_eq!(first["attempts"], 1);
    assert!(first["result"]["post_url"].as_str().is_some(), "{first}");
    let task_row = daemon.get(&format!("/api/v1/tasks/{task}")).await.body;
    assert_eq!(task_row["state"], "succeeded");
    let steps = &daemon.get("/api/v1/metrics").await.body["histograms"]["step_duration_seconds"];
    assert!(steps["count"].as_u64().unwrap() >= 6 * 3 && steps["p95"].as_f64().unwrap() > 0.0, "{steps}");
    assert_eq!(task_row["counts"]["succeeded"], 6);
    evidence_is_complete(&daemon, first).await;

    let events = daemon.get(&format!("/api/v1/tasks/{task}/events")).await.body;
    let kinds: Vec<_> = events["events"].as_array().unwrap().iter().map(|event| event["kind"].clone()).collect();
    for kind in ["accepted", "started", "armed", "succeeded"] {
        assert!(kinds.contains(&json!(kind)), "{kinds:?}");
    }
    // In this order: what a busy slot runs may end between the two.
    let busy = daemon.get("/api/v1/status").await.body["slots"]["busy"] != 0;
    assert!(busy || daemon.browsers().is_empty());
}

async fn evidence_is_complete(daemon: &Daemon, item: &Value) {
    let id = item["id"].as_str().unwrap();
    let files = daemon.get(&format!("/api/v1/items/{id}/evidence")).await.body["files"].as_array().unwrap().clone();
    for name in ["trace.jsonl", "before.png", "after.png"] {
        let file = files.iter().find(|file| file["file"] == name).unwrap_or_else(|| panic!("{name}: {files:#?}"));
        let url = format!("{}{}", daemon.base, file["url"].as_str().unwrap());
        let served = daemon.client.get(url).send().await.unwrap();
        assert_eq!(served.headers()["x-content-type-options"], "nosniff");
        assert_eq!(served.headers()["content-security-policy"], "sandbox");
        let bytes = served.bytes().await.unwrap();
        assert_eq!(bytes.len() as u64, file["bytes"].as_u64().unwrap());
        if name.strip_suffix(".png").is_some() {
            assert!(bytes.starts_with(b"\x89PNG"), "{name}");
        } else {
            let lines = String::from_utf8(bytes.to_vec()).unwrap();
            assert!(lines.lines().all(|line| serde_json::from_str::<Value>(line).is_ok()), "{lines}");
        }
    }
    let folder = daemon.state().join("evidence").join(id).join(item["fence"].as_str().unwrap());
    assert_eq!(std::fs::metadata(folder).unwrap().permissions().mode() & 0o777, 0o700);
}

#[tokio::test(flavor = "multi_thread")]
async fn uploaded_media_is_deduplicated_and_can_be_published() {
    let daemon = Daemon::start().await;
    let practice = PracticeSite::start(json!({})).await;
    daemon.furnish(&["anna"]).await;
    let film = include_bytes!("../../src/cli/demo/tiny.mp4");
    let upload = || daemon.client.post(format!("{}/api/v1/media", daemon.base)).body(film.to_vec());
    let first = super::rig::answer(upload()).await;
    assert_eq!((first.status, &first.body["bytes"]), (201, &json!(film.len())));
    let again = super::rig::answer(upload()).await;
    assert_eq!(again.body["media"], first.body["media"]);
    let body = json!({"flow": "atelier", "profiles": ["anna"], "distribute": "round_robin", "inputs_list": [
        {"site": practice.site.url(), "account": "anna", "video": first.body["media"], "caption": "from afar"}]});
    let made = daemon.post("/api/v1/bulk-upload/start", &body).await;
    assert_eq!(made.status, 202, "{}", made.body);
    let items = daemon.settled(made.body["task_id"].as_str().unwrap()).await;
    assert_eq!(items[0]["state"], "succeeded", "{items:#?}");
    assert_eq!(practice.posts().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn rule_3_a_file_that_changed_in_the_queue_does_not_go_out_and_the_accepted_one_put_back_does() {
    let daemon = Daemon::start().await;
    let practice = PracticeSite::start(json!({})).await;
    daemon.furnish(&["anna"]).await;
    assert_eq!(daemon.post("/api/v1/pause", &json!({})).await.status, 202);
    let task = daemon.submit(&practice.site, &[("anna", "changed"), ("anna", "put back")]).await;
    let items = daemon.items(&task).await;
    let film = |item: &Value| std::path::PathBuf::from(item["inputs"]["video"].as_str().unwrap());
    let of = |caption: &str| film(items.iter().find(|item| item["inputs"]["caption"] == caption).unwrap());
    let (changed, back) = (of("changed"), of("put back"));
    assert_ne!(changed, back);
    // The same bytes at another time are the same film.
    let accepted = std::fs::read(&back).unwrap();
    std::fs::write(&back, &accepted).unwrap();
    std::fs::write(&changed, b"another film").unwrap();
    assert_eq!(daemon.post("/api/v1/resume", &json!({})).await.status, 202);
    let items = daemon.settled(&task).await;
    let named = |path: &std::path::Path| items.iter().find(|item| film(item) == path).unwrap();
    let failed = named(&changed);
    assert_eq!((&failed["state"], &failed["error"]["code"]), (&json!("failed"), &json!("media_changed")), "{failed:#}");
    assert_eq!(failed["attempts"], 3, "tried again by the policy");
    assert!(failed["error"]["help"].as_str().unwrap().contains("submit the new file as a new item"), "{failed:#}");
    assert_eq!(named(&back)["state"], "succeeded", "{items:#?}");
    let posts = practice.posts();
    assert_eq!(posts.len(), 1, "{posts:#?}");
    assert_eq!(posts[0].caption, "put back");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_ends_what_waits_and_what_runs_before_its_commit_point() {
    let daemon = Daemon::start_with("slots = 1").await;
    let practice = PracticeSite::start(json!({})).await;
    daemon.furnish(&["anna", "boris"]).await;
    let task = daemon.submit(&practice.site, &[("anna", "one"), ("boris", "two!"), ("anna", "three")]).await;
    daemon.until(&task, |items| items.iter().any(|item| item["state"] == "running")).await;
    let canceled = daemon.request("POST", &format!("/api/v1/tasks/{task}/cancel"), None).await;
    assert_eq!(canceled.status, 202);
    let items = daemon.settled(&task).await;
    let published = practice.posts().len();
    let succeeded = items.iter().filter(|item| item["state"] == "succeeded").count();
    let ended = items.iter().filter(|item| item["state"] == "canceled").count();
    assert_eq!((succeeded, succeeded + ended), (published, 3), "{items:#?}");
    assert!(ended >= 2, "{items:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_profile_keeps_its_sign_in_from_one_item_to_the_next() {
    let daemon = Daemon::start().await;
    let practice = PracticeSite::start(json!({})).await;
    daemon.furnish(&["anna"]).await;
    // The second recording does not say who is signed in: the profile's cookie does.
    daemon.put_flow("remembered", &super::rig::ATELIER.replace("/?as={{ account }}", "/#{{ account }}")).await;
    let first = daemon.submit(&practice.site, &[("anna", "first")]).await;
    assert_eq!(daemon.settled(&first).await[0]["state"], "succeeded");
    let film = daemon.film("second.mp4");
    let body = json!({"flow": "remembered", "items": [{"profile": "anna", "inputs": {
        "site": practice.site.url(), "account": "anna", "video": film, "caption": "remembered"}}]});
    let made = daemon.post("/api/v1/bulk-upload/start", &body).await;
    let items = daemon.settled(made.body["task_id"].as_str().unwrap()).await;
    assert_eq!(items[0]["state"], "succeeded", "{items:#?}");
    let posts = practice.posts();
    assert!(posts.iter().any(|post| post.profile == "anna" && post.caption == "remembered"), "{posts:#?}");
}
