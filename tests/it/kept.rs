//! What is kept and what is forgotten: retention over a restart, and rehearsals, which leave nothing outside.

use serde_json::{Value, json};

use super::rig::{Daemon, PATIENCE, PracticeSite, run};

/// A task for the practice site with one item under a key.
fn keyed(daemon: &Daemon, site: &str, key: &str) -> Value {
    let film = daemon.film(&format!("{key}.mp4"));
    json!({"flow": "atelier", "items": [{"profile": "anna", "key": key, "inputs": {
        "site": site, "account": "anna", "video": film, "caption": key}}]})
}

#[tokio::test(flavor = "multi_thread")]
async fn rule_2_finished_tasks_are_forgotten_with_their_evidence_and_their_keys_stay_taken() {
    let mut daemon = Daemon::start_with("[retention]\ntasks = 1").await;
    let practice = PracticeSite::start(json!({})).await;
    daemon.furnish(&["anna"]).await;
    let (mut tasks, mut evidence) = (Vec::new(), Vec::new());
    for key in ["first", "second", "third"] {
        let made = daemon.post("/api/v1/bulk-upload/start", &keyed(&daemon, &practice.site.url(), key)).await;
        assert_eq!(made.status, 202, "{}", made.body);
        let task = made.body["task_id"].as_str().unwrap().to_owned();
        let items = daemon.settled(&task).await;
        assert_eq!(items[0]["state"], "succeeded", "{items:#?}\n{}", daemon.logged());
        evidence.push(daemon.state().join("evidence").join(items[0]["id"].as_str().unwrap()));
        tasks.push(task);
    }
    assert!(evidence.iter().all(|folder| folder.is_dir()), "{evidence:?}");
    assert_eq!(daemon.request("POST", "/api/v1/pause", None).await.status, 202);
    let waits = daemon.post("/api/v1/bulk-upload/start", &keyed(&daemon, &practice.site.url(), "fourth")).await;
    assert_eq!(daemon.stop(), Some(0));
    daemon.boot().await;
    // By its schedule it comes once an hour.
    let asked = daemon.request("POST", "/api/v1/maintenance/retention/run", None).await;
    assert_eq!(asked.status, 202, "{}", asked.body);
    let began = std::time::Instant::now();
    while daemon.get(&format!("/api/v1/tasks/{}", tasks[1])).await.status != 404 {
        assert!(began.elapsed() < PATIENCE, "{}", daemon.logged());
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    let listed = daemon.get("/api/v1/tasks").await.body;
    let left: Vec<_> = listed["tasks"].as_array().unwrap().iter().map(|task| task["id"].clone()).collect();
    assert_eq!(left, [waits.body["task_id"].clone(), json!(tasks[2])], "the newest finished, and all that are not");
    let there: Vec<_> = evidence.iter().map(|folder| folder.exists()).collect();
    assert_eq!(there, [false, false, true]);
    assert_eq!(daemon.get("/api/v1/items").await.body["items"].as_array().unwrap().len(), 2);
    for path in [format!("/api/v1/tasks/{}/items", tasks[0]), format!("/api/v1/tasks/{}/events", tasks[0])] {
        assert_eq!(daemon.get(&path).await.status, 404, "{path}");
    }
    let again = daemon.post("/api/v1/bulk-upload/start", &keyed(&daemon, &practice.site.url(), "first")).await;
    assert_eq!((again.status, again.code()), (409, "key_taken"), "{}", again.body);
    assert_eq!(daemon.get("/api/v1/status").await.body["queue"]["succeeded"], 1);
    assert_eq!(practice.posts().len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn rule_10_a_rehearsal_stops_before_the_click_and_with_publish_it_is_an_ordinary_item() {
    let daemon = Daemon::start().await;
    let practice = PracticeSite::start(json!({})).await;
    daemon.furnish(&["anna"]).await;
    let film = daemon.film("one.mp4");
    let (site, video) = (format!("site={}", practice.site.url()), format!("video={}", film.display()));
    let words = ["flows", "run", "atelier", "--profile", "anna", "--input", &site, "--input", &video, "--input"];
    let words = [&words[..], &["account=anna", "--input", "caption=rehearsed", "--key", "k1", "--json"]].concat();
    let rehearsed = run(&words, daemon.folder.path());
    assert_eq!(rehearsed.status.code(), Some(0), "{rehearsed:?}\n{}", daemon.logged());
    let told: Value = serde_json::from_slice(&rehearsed.stdout).unwrap();
    let item = &told["items"][0];
    assert_eq!(
        (&item["state"], &item["url"], practice.posts().len()),
        (&json!("succeeded"), &Value::Null, 0),
        "{item}"
    );
    assert!(item["evidence"].to_string().contains("before.png"), "{item}");
    assert_eq!(told["task"]["rehearsal"], true, "{told}");
    let listed = run(&["tasks", "list"], daemon.folder.path());
    assert!(String::from_utf8_lossy(&listed.stdout).contains("(rehearsal)"), "{listed:?}");
    let events = daemon.get(&format!("/api/v1/tasks/{}/events", told["task"]["id"].as_str().unwrap())).await.body;
    assert!(!events.to_string().contains("armed"), "{events}");
    // Its key is free: nothing went out.
    let published = run(&[&words[..], &["--publish"]].concat(), daemon.folder.path());
    assert_eq!(published.status.code(), Some(0), "{published:?}");
    assert_eq!(practice.posts().len(), 1);
    let again = run(&[&words[..], &["--publish"]].concat(), daemon.folder.path());
    let told = String::from_utf8_lossy(&again.stderr).into_owned();
    assert!(again.status.code() == Some(4) && told.contains("key"), "{told}");
    assert_eq!(practice.posts().len(), 1);
}
