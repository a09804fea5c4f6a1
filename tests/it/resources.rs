//! The machine has no room: nothing is started, everything says so, and it goes on by itself. And a browser that
//! takes too much is ended, by the rules of the fence.

mod greedy;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};

use greedy::GreedySite;

use super::rig::{Daemon, PATIENCE, PracticeSite, processes_with, run, signal};

const NOTHING: &str = "cpu_threshold_percent = 0\n";

/// The settings of `[resources]`, beside what the tests have there anyway.
fn set(daemon: &Daemon, resources: &str) {
    let path = daemon.folder.path().join("cove.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    let (before, rest) = text.split_once("[resources]\n").unwrap();
    let after = &rest[rest.find('[').unwrap()..];
    std::fs::write(&path, format!("{before}[resources]\n{resources}{after}")).unwrap();
}

async fn start(settings: &str, resources: &str) -> Daemon {
    let mut daemon = Daemon::prepare(settings, &[]);
    set(&daemon, resources);
    daemon.boot().await;
    daemon
}

async fn until(daemon: &Daemon, path: &str, is_so: impl Fn(&Value) -> bool) -> Value {
    let began = Instant::now();
    loop {
        let body = daemon.get(path).await.body;
        if is_so(&body) {
            return body;
        }
        assert!(began.elapsed() < PATIENCE, "{body:#}\n{}", daemon.logged());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn metric(daemon: &Daemon, title: &str) -> f64 {
    let text = daemon.client.get(format!("{}/metrics", daemon.base)).send().await.unwrap().text().await.unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(title)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("{title}\n{text}")).parse().unwrap()
}

fn reason_of(items: &[Value]) -> Vec<&str> {
    items.iter().map(|item| item["wait_reason"].as_str().unwrap_or_default()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn without_memory_items_wait_and_say_so_and_a_reload_with_less_of_a_reserve_lets_them_go() {
    let daemon = start("slots = 2", &format!("{NOTHING}memory_reserve_mb = 1048576\n")).await;
    let site = PracticeSite::start(json!({})).await;
    daemon.furnish(&["anna", "boris"]).await;
    let task = daemon.submit(&site.site, &[("anna", "one"), ("boris", "two")]).await;
    daemon.until(&task, |items| reason_of(items) == ["no_memory", "no_memory"]).await;

    let status = daemon.get("/api/v1/status").await.body;
    assert_eq!(status["queue"]["wait_reasons"]["no_memory"]["items"], 2, "{status}");
    let usage = &status["resource_usage"];
    assert_eq!(
        (&usage["held_back"]["wait_reason"], usage["memory_limit_mb"].as_f64()),
        (&json!("no_memory"), Some(2_048.0))
    );
    assert!(usage["machine"]["memory_available_mb"].as_f64().is_some_and(|mb| mb > 0.0), "{usage}");
    let health = daemon.get("/api/v1/health").await;
    let part = &health.body["parts"]["resources"];
    assert_eq!((health.status, &part["status"]), (200, &json!("degraded")), "{part}");
    assert!(part["reason"].as_str().unwrap().contains("stay in reserve"), "{part}");
    for (args, words) in
        [(&["status"][..], &["no_memory 2", "held back  no_memory: "][..]), (&["items", "list"], &["no_memory"])]
    {
        let told = run(args, daemon.folder.path());
        let out = String::from_utf8(told.stdout).unwrap();
        assert!(words.iter().all(|words| out.contains(words)), "{args:?}: {out}");
    }
    assert_eq!(metric(&daemon, "cove_queue_depth{state=\"queued\",wait_reason=\"no_memory\"}").await.to_string(), "2");
    assert_eq!(
        metric(&daemon, "cove_session_memory_estimate_bytes{provider=\"chromium\"}").await.to_string(),
        "536870912"
    );
    let refused = daemon.post("/api/v1/sessions", &json!({"profile": "anna"})).await;
    assert_eq!((refused.status, refused.code()), (503, "no_memory"), "{}", refused.body);
    assert!(refused.headers.contains_key("retry-after"));
    assert_eq!(site.posts().len(), 0);

    set(&daemon, NOTHING);
    signal(daemon.pid(), Signal::HUP);
    let items = daemon.settled(&task).await;
    assert!(items.iter().all(|item| item["state"] == "succeeded"), "{items:#?}");
    assert_eq!(site.posts().len(), 2);
    until(&daemon, "/api/v1/health", |health| health["parts"]["resources"]["status"] == "healthy").await;
}

/// Uses a processor until it is dropped.
struct Burner(std::sync::Arc<AtomicBool>);

impl Burner {
    fn start() -> Self {
        let burns = std::sync::Arc::new(AtomicBool::new(true));
        let flag = burns.clone();
        std::thread::spawn(move || while flag.load(Ordering::Relaxed) {});
        Self(burns)
    }
}

impl Drop for Burner {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn processors_that_others_use_hold_back_also_while_cove_runs_nothing() {
    let burner = Burner::start();
    let daemon = start("", "cpu_threshold_percent = 1\n").await;
    let site = PracticeSite::start(json!({})).await;
    daemon.furnish(&["anna"]).await;
    until(&daemon, "/api/v1/status", |status| status["resource_usage"]["held_back"]["wait_reason"] == "no_cpu").await;
    let task = daemon.submit(&site.site, &[("anna", "one")]).await;
    daemon.until(&task, |items| reason_of(items) == ["no_cpu"]).await;
    let refused = daemon.post("/api/v1/sessions", &json!({"profile": "anna"})).await;
    assert_eq!((refused.status, refused.code()), (503, "no_cpu"), "{}", refused.body);
    set(&daemon, NOTHING);
    signal(daemon.pid(), Signal::HUP);
    let items = daemon.settled(&task).await;
    assert_eq!(items[0]["state"], "succeeded", "{items:#?}");
    drop(burner);
}

async fn greedy(daemon: &Daemon, flow: &str, profile: &str, site: &GreedySite) -> String {
    daemon.put_flow(flow, &site.recording(flow)).await;
    let items = json!([{"profile": profile, "inputs": {}}]);
    let made =
        daemon.post("/api/v1/bulk-upload/start", &json!({"flow": flow, "items": items, "max_attempts": 1})).await;
    assert_eq!(made.status, 202, "{}", made.body);
    made.body["task_id"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn rule_8_a_page_that_eats_memory_is_ended_by_the_fence_and_the_next_item_runs() {
    let daemon = start("slots = 1", &format!("{NOTHING}session_limit_mb = 900\n")).await;
    let (site, greedy_site) = (PracticeSite::start(json!({})).await, GreedySite::start().await);
    daemon.furnish(&["anna", "boris", "clara"]).await;
    let before = greedy(&daemon, "before", "anna", &greedy_site).await;
    let behind = greedy(&daemon, "behind", "boris", &greedy_site).await;
    let next = daemon.submit(&site.site, &[("clara", "one")]).await;

    let items = daemon.settled(&before).await;
    let error = &items[0]["error"];
    assert_eq!((&items[0]["state"], &error["code"]), (&json!("failed"), &json!("memory_limit")), "{items:#?}");
    assert!(error["message"].as_str().unwrap().contains("more than the 900 MiB"), "{error}");
    assert!(!items[0]["evidence"].as_array().unwrap().is_empty(), "{items:#?}");
    assert!(metric(&daemon, "cove_session_peak_memory_bytes{provider=\"chromium\"}").await > 900.0 * 1024.0 * 1024.0);

    let items = daemon.settled(&behind).await;
    let error = &items[0]["error"];
    assert_eq!(items[0]["state"], "outcome_unknown", "{items:#?}");
    assert_eq!(error["code"], "lost_after_commit", "{error}");
    assert!(error["message"].as_str().unwrap().contains("memory_limit"), "{error}");
    assert_eq!(greedy_site.clicks(), 1);

    let items = daemon.settled(&next).await;
    assert_eq!(items[0]["state"], "succeeded", "{items:#?}");
    assert_eq!(site.posts().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lent_browser_above_the_limit_is_ended_and_its_lock_freed_and_the_reason_told() {
    let mut daemon = Daemon::prepare("", &[("MEMORY_LIMIT_MB", "50")]);
    daemon.boot().await;
    daemon.furnish(&["anna"]).await;
    let lent = daemon.post("/api/v1/sessions", &json!({"profile": "anna"})).await;
    assert_eq!(lent.status, 201, "{}", lent.body);
    let status = daemon.get("/api/v1/status").await.body;
    assert_eq!(status["resource_usage"]["memory_limit_mb"].as_f64(), Some(50.0), "{status}");
    until(&daemon, "/api/v1/locks", |locks| locks["locks"].as_array().is_some_and(Vec::is_empty)).await;
    let endpoint = lent.body["ws_endpoint"].as_str().unwrap().replacen("ws://", "http://", 1);
    let version = format!("{}/json/version", endpoint.trim_end_matches('/'));
    let told = super::rig::answer(daemon.client.get(version)).await;
    assert_eq!((told.status, told.code()), (409, "session_ended"), "{}", told.body);
    assert!(told.body["detail"].as_str().unwrap().contains("more than the 50 MiB"), "{}", told.body);
    let folder = daemon.state().join("profiles/anna").display().to_string();
    assert_eq!(processes_with(&folder), [] as [u32; 0]);
}
