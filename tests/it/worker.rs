//! The example of an outside worker, as it is shipped: Python with Playwright and a browser of its own against
//! a real daemon and the practice site.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

use super::rig::{Daemon, PracticeSite};
use super::studio::STUDIO;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// The Python with Playwright, made where it is missing, in the way of tests/run.sh.
pub fn python() -> PathBuf {
    let made = Command::new("bash")
        .args(["-c", ". packaging/install-needs.sh && need_playwright >&2 && playwright_python"])
        .current_dir(ROOT)
        .stdin(Stdio::null())
        .output()
        .expect("bash runs packaging/install-needs.sh");
    let told = String::from_utf8_lossy(&made.stderr);
    assert!(
        made.status.success(),
        "packaging/examples/worker.py cannot be tried: Python 3.11 or newer with Playwright is missing and could \
         not be installed. In {ROOT}: . packaging/install-needs.sh; need_playwright\n{told}"
    );
    PathBuf::from(String::from_utf8(made.stdout).unwrap().trim())
}

/// Runs the worker for one item, `timeout` seconds a step.
async fn work(daemon: &Daemon, site: &Value, timeout: &str) -> (Value, Output) {
    daemon.put_flow("studio", STUDIO).await;
    let film = daemon.film("worker.mp4");
    let inputs = json!({"site": site, "account": "anna", "video": film, "caption": "Привет #studio\nby a worker"});
    let body = json!({"flow": "studio", "items": [{"profile": "anna", "inputs": inputs}]});
    let made = daemon.post("/api/v1/bulk-upload/start", &body).await;
    assert_eq!(made.status, 202, "{}", made.body);
    let mut command = Command::new(python());
    command
        .arg(Path::new(ROOT).join("packaging/examples/worker.py"))
        .args(["--url", &daemon.base, "--items", "1", "--owner", "py", "--ttl", "30", "--timeout", timeout])
        .arg("--profiles")
        .arg(daemon.folder.path().join("worker-profiles"))
        .stdin(Stdio::null());
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let items = daemon.items(made.body["task_id"].as_str().unwrap()).await;
    assert!(output.status.success(), "{output:#?}");
    (items[0].clone(), output)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_example_worker_publishes_once_and_says_where() {
    let daemon = Daemon::start().await;
    daemon.furnish(&["anna"]).await;
    let practice = PracticeSite::start(json!({})).await;
    let (item, output) = work(&daemon, &json!(practice.site.url()), "30").await;
    let posts = practice.posts();
    assert_eq!((item["state"].as_str(), posts.len()), (Some("succeeded"), 1), "{item:#?}\n{output:#?}");
    assert_eq!(posts[0].caption, "Привет #studio\nby a worker");
    assert_eq!((posts[0].profile.as_str(), &item["attempts"]), ("anna", &json!(1)));
    let url = item["url"].as_str().unwrap();
    assert!(url.starts_with(&practice.site.url()) && url.contains("/p/"), "{url}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_example_worker_leaves_a_login_to_a_human() {
    let daemon = Daemon::start().await;
    daemon.furnish(&["anna"]).await;
    let practice = PracticeSite::start(json!({"login_wall": true})).await;
    let (item, output) = work(&daemon, &json!(practice.site.url()), "30").await;
    assert_eq!(item["wait_reason"], "profile_needs_human", "{item:#?}\n{output:#?}");
    assert_eq!((item["attempts"].as_u64(), practice.posts().len()), (Some(0), 0));
    let profile = daemon.get("/api/v1/profiles/anna").await.body;
    assert!(profile["needs_human"].as_str().unwrap().contains("/login"), "{profile}");
}

#[tokio::test(flavor = "multi_thread")]
async fn rule_5_the_example_worker_does_not_click_without_a_yes() {
    let daemon = Daemon::start().await;
    daemon.furnish(&["anna"]).await;
    // Its file is another one by the time of the click, so that `arm` is refused.
    let practice = PracticeSite::start(json!({})).await;
    daemon.put_flow("studio", STUDIO).await;
    let film = daemon.film("changing.mp4");
    let inputs = json!({"site": practice.site.url(), "account": "anna", "video": film, "caption": "changed"});
    let body = json!({"flow": "studio", "max_attempts": 1, "items": [{"profile": "anna", "inputs": inputs}]});
    let made = daemon.post("/api/v1/bulk-upload/start", &body).await;
    std::fs::write(&film, "another film").unwrap();
    let (_, output) = work(&daemon, &json!(practice.site.url()), "30").await;
    let items = daemon.items(made.body["task_id"].as_str().unwrap()).await;
    assert_eq!((items[0]["state"].as_str(), practice.posts().len()), (Some("failed"), 0), "{items:#?}\n{output:#?}");
    assert!(items[0]["error"]["message"].as_str().unwrap().contains("media_mismatch"), "{items:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn rule_23_the_example_worker_never_clicks_again_when_the_confirmation_does_not_come() {
    let daemon = Daemon::start().await;
    daemon.furnish(&["anna"]).await;
    let practice = PracticeSite::start(json!({"error_after_share": true})).await;
    let (item, output) = work(&daemon, &json!(practice.site.url()), "8").await;
    assert_eq!(item["state"], "outcome_unknown", "{item:#?}\n{output:#?}");
    assert_eq!(practice.posts().len(), 0);
}
