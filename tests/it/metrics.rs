//! Metrics from outside: what is counted, in the JSON, as Prometheus text that promtool reads, and over time; and
//! what the package holds for Prometheus and Grafana.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

use super::rig::{Daemon, PracticeSite};

/// Debian's package `prometheus` has it; `packaging/install-needs.sh` installs it for tests/run.sh.
fn promtool(args: &[&str], input: &str) -> Output {
    let spawned =
        Command::new("promtool").args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = spawned.expect("promtool is missing: run `. packaging/install-needs.sh; need_promtool`");
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

fn told(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn packaged(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("packaging").join(name)
}

async fn text(daemon: &Daemon) -> String {
    let answer = daemon.client.get(format!("{}/metrics", daemon.base)).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    answer.text().await.unwrap()
}

async fn metrics(daemon: &Daemon) -> Value {
    let answer = daemon.request("GET", "/api/v1/metrics", None).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    answer.body
}

/// A daemon with one item of an outside worker that ended, and one that waits for a profile.
async fn worked() -> (Daemon, String) {
    let daemon = Daemon::start().await;
    daemon.furnish(&["anna"]).await;
    daemon.put_flow("studio", &super::studio::recording()).await;
    let task = daemon.order(&["anna"], &json!({})).await;
    let claim = daemon.claim("w1").await;
    let said = daemon.say(&claim, "fail", json!({"reason": "rejected", "message": "no"})).await;
    assert_eq!(said.status, 200, "{}", said.body);
    (daemon, task)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_happened_is_counted_and_timed() {
    let (daemon, task) = worked().await;
    let ended = daemon.request("GET", &format!("/api/v1/tasks/{task}"), None).await.body;
    assert_eq!(ended["state"], "failed", "{ended}");
    assert_eq!(daemon.request("GET", "/api/v1/tasks/t1", None).await.status, 404);
    let metrics = metrics(&daemon).await;
    let counter = |name: &str| metrics["counters"][name].as_f64().unwrap_or_else(|| panic!("{name}: {metrics}"));
    for name in [
        "tasks_started_total",
        "tasks_completed_total{state=\"failed\"}",
        "items_completed_total{outcome=\"failed\"}",
        "attempts_started_total",
        "attempts_ended_total{state=\"failed\"}",
        "http_requests_total{method=\"GET\",status=\"404\"}",
    ] {
        assert!((counter(name) - 1.0).abs() < 1e-9, "{name}: {}", counter(name));
    }
    for name in ["retries_total", "items_completed_total{outcome=\"succeeded\"}"] {
        assert!(counter(name) < 1e-9, "{name}");
    }
    for name in ["task_duration_seconds", "attempt_duration_seconds"] {
        assert_eq!(metrics["histograms"][name]["count"], 1, "{name}");
    }
    for (group, name) in [
        ("histograms", "http_request_duration_seconds"),
        ("histograms", "store_commit_duration_seconds"),
        ("timers", "database_query_seconds"),
        ("timers", "http_request_seconds"),
        ("timers", "task_execution_seconds"),
    ] {
        let times = &metrics[group][name];
        let number = |part: &str| times[part].as_f64().unwrap_or_else(|| panic!("{name} {part}: {times}"));
        assert!(number("count") >= 1.0, "{name}");
        let rising = ["min", "p50", "p90", "p95", "p99", "max"].map(number);
        assert!(rising.is_sorted(), "{name}: {times}");
        assert!(number("mean") <= number("max") && number("sum") >= number("max"), "{name}: {times}");
    }
    for name in ["memory_usage_mb", "cpu_usage_percent", "state_file_bytes", "disk_free_bytes"] {
        assert!(metrics["gauges"][name].is_number(), "{name}");
    }
    assert!(metrics["gauges"]["memory_usage_mb"].as_f64().unwrap() > 1.0);
    let readers = &metrics["database_pools"]["readers"];
    assert_eq!((&readers["min"], &readers["waiting"]), (&json!(0), &json!(0)));
    let number = |part: &str| readers[part].as_u64().unwrap();
    assert_eq!(number("idle") + number("in_use"), number("max"));
    assert_eq!(metrics["database_pools"]["dolphin_http"], Value::Null, "Dolphin is not the provider");
}

#[tokio::test(flavor = "multi_thread")]
async fn promtool_finds_nothing_wrong_and_no_label_is_an_id() {
    let (daemon, task) = worked().await;
    let text = text(&daemon).await;
    let checked = promtool(&["check", "metrics"], &text);
    assert!(checked.status.success(), "{}\n{text}", told(&checked));
    for secret in [task.as_str(), "anna", "studio", "/api/"] {
        assert!(!text.contains(secret), "{secret}");
    }
    // It does find what is wrong.
    let wrong = text.replace("cove_tasks_started_total", "cove_tasks_started");
    assert!(!promtool(&["check", "metrics"], &wrong).status.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_that_came_up_is_timed() {
    let daemon = Daemon::start().await;
    daemon.furnish(&["anna"]).await;
    let practice = PracticeSite::start(json!({})).await;
    let task = daemon.submit(&practice.site, &[("anna", "x")]).await;
    daemon.until(&task, |items| items.iter().all(|item| item["state"] == "succeeded")).await;
    let metrics = metrics(&daemon).await;
    assert_eq!(metrics["histograms"]["provider_start_duration_seconds"]["count"], 1);
    assert_eq!(metrics["counters"]["items_completed_total{outcome=\"succeeded\"}"], 1.0);
    assert_eq!(metrics["counters"]["tasks_completed_total{state=\"succeeded\"}"], 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_sample_is_taken_at_once_and_wrong_questions_are_told() {
    let daemon = Daemon::start().await;
    let path = "/api/v1/metrics/history";
    // The sampler begins when the engine is ready; a hang alone ends this otherwise.
    let until = std::time::Instant::now() + super::rig::PATIENCE;
    let body = loop {
        let answer = daemon.request("GET", &format!("{path}?name=slots"), None).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        if answer.body["points"].as_array().unwrap().len() == 1 {
            break answer.body;
        }
        assert!(std::time::Instant::now() < until, "{}", answer.body);
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    };
    assert_eq!((&body["name"], &body["step_seconds"]), (&json!("slots"), &json!(60)));
    let slots = metrics(&daemon).await["gauges"]["slots"].clone();
    assert_eq!(body["points"][0][1].as_f64(), slots.as_f64());
    let labelled = daemon.request("GET", &format!("{path}?name=items%7Bstate%3D%22queued%22%7D&step=3600"), None).await;
    assert_eq!((labelled.status, &labelled.body["step_seconds"]), (200, &json!(3600)));
    for (query, pointers) in [
        ("", vec!["name"]),
        ("?name=nothing", vec!["name"]),
        ("?name=slots&step=61&from=yesterday&to=1", vec!["step", "from", "to"]),
        ("?name=slots&from=2099-01-01T00:00:00Z", vec!["from"]),
        ("?name=slots&nam=1", vec!["nam"]),
    ] {
        let answer = daemon.request("GET", &format!("{path}{query}"), None).await;
        assert_eq!((answer.status, answer.pointers()), (422, pointers), "{query}: {}", answer.body);
    }
}

/// Every word in an expression that begins as our metrics do.
fn names_in(expression: &str, found: &mut BTreeSet<String>) {
    let words = expression.split(|letter: char| !(letter.is_ascii_alphanumeric() || letter == '_'));
    found.extend(words.filter(|word| word.starts_with("cove_")).map(str::to_owned));
}

fn expressions(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(members) => {
            for (name, member) in members {
                match member.as_str().filter(|_| name == "expr") {
                    Some(expression) => names_in(expression, found),
                    None => expressions(member, found),
                }
            }
        }
        Value::Array(values) => values.iter().for_each(|value| expressions(value, found)),
        _ => {}
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_dashboard_and_the_alerts_name_what_there_is() {
    let (daemon, _) = worked().await;
    let text = text(&daemon).await;
    let names: BTreeSet<&str> = text.lines().filter_map(|line| line.split([' ', '{']).next()).collect();
    let mut wanted = BTreeSet::new();
    let dashboard = std::fs::read_to_string(packaged("grafana/cove.json")).unwrap();
    expressions(&serde_json::from_str(&dashboard).unwrap(), &mut wanted);
    assert!(wanted.len() > 15, "{wanted:?}");
    let alerts = std::fs::read_to_string(packaged("prometheus/alerts.yml")).unwrap();
    let lines = alerts.lines().filter_map(|line| line.trim().strip_prefix("expr:"));
    lines.for_each(|expression| names_in(expression, &mut wanted));
    // These are there from the first snapshot on.
    let later = ["cove_backup_last_verified_timestamp", "cove_snapshot_last_success_timestamp_seconds"];
    let missing: Vec<_> =
        wanted.iter().filter(|name| !names.contains(name.as_str()) && !later.contains(&name.as_str())).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn promtool_accepts_the_alerts_and_they_fire_when_they_should() {
    let path = |name: &str| packaged(name).to_str().unwrap().to_owned();
    let rules = promtool(&["check", "rules", &path("prometheus/alerts.yml")], "");
    assert!(rules.status.success(), "{}", told(&rules));
    let tested = promtool(&["test", "rules", &path("prometheus/alerts_test.yml")], "");
    assert!(tested.status.success(), "{}", told(&tested));
    let config = promtool(&["check", "config", "--syntax-only", &path("prometheus/scrape.yml")], "");
    assert!(config.status.success(), "{}", told(&config));
}
