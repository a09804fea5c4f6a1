//! The maintenance from outside: what the jobs say of themselves, a run by hand, what is left of it after a kill, and
//! what is skipped while the clock is not believed.

use std::time::{Duration, Instant};

use cove::model::{Clock, SystemClock};
use cove::store::{ClockMark, Store};
use serde_json::{Value, json};

use super::rig::{Daemon, PATIENCE, run};

const JOBS: [(&str, &str); 6] = [
    ("health_check", "*/5 * * * *"),
    ("lock_cleanup", "*/15 * * * *"),
    ("retention", "5 * * * *"),
    ("snapshot", "0 3 * * *"),
    ("snapshot_verification", "30 3 * * *"),
    ("compaction", "0 4 * * SUN"),
];

async fn job(daemon: &Daemon, name: &str) -> Value {
    let answer = daemon.get("/api/v1/maintenance").await;
    assert_eq!((answer.status, &answer.body["next_cursor"]), (200, &Value::Null), "{}", answer.body);
    answer.body["jobs"].as_array().unwrap().iter().find(|job| job["name"] == name).unwrap().clone()
}

/// Runs one by hand, once nobody else's run is in the way, to its end.
async fn run_job(daemon: &Daemon, name: &str) -> Value {
    let began = Instant::now();
    while daemon.request("POST", &format!("/api/v1/maintenance/{name}/run"), None).await.status != 202 {
        assert!(began.elapsed() < PATIENCE);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    ended(daemon, name).await
}

async fn ended(daemon: &Daemon, name: &str) -> Value {
    let began = Instant::now();
    loop {
        let job = job(daemon, name).await;
        if job["running"] == false {
            return job;
        }
        assert!(began.elapsed() < PATIENCE, "{job}\n{}", daemon.logged());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_job_is_there_runs_by_hand_and_is_remembered_over_a_kill() {
    let mut daemon = Daemon::start().await;
    for (name, schedule) in JOBS {
        let job = job(&daemon, name).await;
        assert_eq!(job["schedule"], schedule);
        let next: cove::model::Timestamp = job["next_run_at"].as_str().unwrap().parse().unwrap();
        assert!(next > cove::model::Timestamp::ZERO);
    }
    // In this order: there is something to verify only after a snapshot.
    let verified = run_job(&daemon, "snapshot_verification").await;
    assert_eq!((&verified["last_result"], &verified["last_error"]), (&json!("skipped"), &Value::Null));
    let mut last = Vec::new();
    for (name, _) in JOBS {
        let job = run_job(&daemon, name).await;
        let detail = job["last_detail"].as_str().unwrap();
        assert_eq!((&job["last_result"], &job["last_error"]), (&json!("success"), &Value::Null), "{job}");
        assert!(job["last_duration_seconds"].as_f64().is_some() && !detail.is_empty(), "{job}");
        last.push(job);
    }
    assert_eq!(last[0]["last_detail"], "healthy");
    let snapshots = daemon.get("/api/v1/snapshots").await.body;
    let made = snapshots["snapshots"][0]["name"].as_str().unwrap();
    assert_eq!(snapshots["snapshots"][0]["reason"], "schedule");
    assert!(last[3]["last_detail"].as_str().unwrap().starts_with(made), "{}", last[3]);
    assert_eq!(last[4]["last_detail"], format!("{made} is good"));

    let text = daemon.client.get(format!("{}/metrics", daemon.base)).send().await.unwrap().text().await.unwrap();
    for line in [
        "cove_maintenance_runs_total{job=\"snapshot\",result=\"success\"} 1",
        "cove_maintenance_runs_total{job=\"snapshot_verification\",result=\"skipped\"} 1",
        "cove_maintenance_runs_total{job=\"retention\",result=\"failure\"} 0",
    ] {
        assert!(text.lines().any(|found| found == line), "{line}\n{text}");
    }
    let seconds = "cove_maintenance_last_success_timestamp_seconds{job=\"lock_cleanup\"} ";
    assert!(text.lines().any(|line| line.starts_with(seconds)), "{text}");

    daemon.kill();
    daemon.boot().await;
    for before in last {
        // One of the quick schedules may have come round meanwhile.
        let after = ended(&daemon, before["name"].as_str().unwrap()).await;
        assert!(after["last_run_at"].as_str() >= before["last_run_at"].as_str(), "{after}");
        assert!(after["last_result"] == "success" && after["last_detail"].is_string(), "{after}");
    }
    assert_eq!(job(&daemon, "snapshot").await["last_detail"].as_str().unwrap().split(',').next(), Some(made));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_runs_is_refused_and_one_that_is_not_there_is_told() {
    let daemon = Daemon::start_as("", &[("COVE_MAINTENANCE__SNAPSHOT", "off")]).await;
    let unknown = daemon.request("POST", "/api/v1/maintenance/defragment/run", None).await;
    assert_eq!((unknown.status, unknown.code()), (404, "not_found"));
    assert!(unknown.body["detail"].as_str().unwrap().contains("snapshot_verification"), "{}", unknown.body);
    assert_eq!(daemon.get("/api/v1/maintenance?limit=1").await.status, 422);
    // It is switched off, and runs by hand all the same.
    let off = job(&daemon, "snapshot").await;
    assert_eq!((&off["schedule"], &off["next_run_at"]), (&Value::Null, &Value::Null));
    let began = Instant::now();
    loop {
        let first = daemon.request("POST", "/api/v1/maintenance/snapshot/run", None).await;
        let second = daemon.request("POST", "/api/v1/maintenance/snapshot/run", None).await;
        if first.status == 202 {
            assert_eq!((&first.body["name"], &first.body["running"]), (&json!("snapshot"), &json!(true)));
        }
        // A snapshot takes longer than a request, as a rule.
        if second.status == 409 {
            assert_eq!(second.code(), "job_running");
            break;
        }
        assert!(began.elapsed() < PATIENCE, "{}", second.body);
    }
    // What is asked for while one is made is of that one: it is the newest when it is whole.
    let verify = daemon.request("POST", "/api/v1/maintenance/snapshot_verification/run", None).await;
    assert_eq!(verify.status, 202, "{}", verify.body);
    let made = ended(&daemon, "snapshot").await;
    assert_eq!(made["last_result"], "success");
    let name = made["last_detail"].as_str().unwrap().split(',').next().unwrap().to_owned();
    assert_eq!(ended(&daemon, "snapshot_verification").await["last_detail"], format!("{name} is good"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_lists_and_runs() {
    let daemon = Daemon::start().await;
    let folder = daemon.folder.path().to_owned();
    let cove = move |args: &'static [&'static str]| {
        let folder = folder.clone();
        async move { tokio::task::spawn_blocking(move || run(args, &folder)).await.unwrap() }
    };
    let listed = cove(&["maintenance", "list", "--json"]).await;
    let listed: Value = serde_json::from_slice(&listed.stdout).unwrap();
    assert_eq!(listed["jobs"].as_array().unwrap().len(), JOBS.len());
    let ran = cove(&["maintenance", "run", "retention"]).await;
    let text = String::from_utf8_lossy(&ran.stdout).into_owned();
    assert_eq!(ran.status.code(), Some(0), "{text}");
    assert!(text.contains("success") && text.contains("retention"), "{text}");
    let table = String::from_utf8_lossy(&cove(&["maintenance", "list"]).await.stdout).into_owned();
    assert!(table.trim_start().starts_with("JOB") && JOBS.iter().all(|(name, _)| table.contains(name)), "{table}");
    let unknown = cove(&["maintenance", "run", "defragment"]).await;
    assert_ne!(unknown.status.code(), Some(0));
    assert!(String::from_utf8_lossy(&unknown.stderr).contains("no job of this name"));
}

#[tokio::test(flavor = "multi_thread")]
async fn rule_20_by_a_clock_that_is_not_believed_nothing_is_removed() {
    // Nobody can say that the system's clock is synchronised.
    let mut daemon = Daemon::start_as("", &[("PATH", "/nonexistent")]).await;
    assert_eq!(run_job(&daemon, "lock_cleanup").await["last_result"], "success");
    assert_eq!(daemon.stop(), Some(0));
    let state = daemon.state();
    let now = SystemClock.moment();
    let (store, writer, _) = Store::open(&state, now).unwrap();
    let day = Duration::from_secs(86_400);
    let yesterday = cove::model::Timestamp::from_millis(now.wall.as_millis() - 86_400_000);
    assert_eq!(now.wall.since(yesterday), day);
    let believed = cove::model::Moment { wall: yesterday, ..now };
    store.mark_clock(ClockMark { believed, suspect_since: Some(now.wall) }).await.unwrap();
    drop(store);
    tokio::task::spawn_blocking(|| writer.join()).await.unwrap();
    daemon.boot().await;
    for name in ["lock_cleanup", "retention"] {
        let job = run_job(&daemon, name).await;
        assert_eq!(job["last_result"], "skipped", "{job}");
        assert!(job["last_detail"].as_str().unwrap().contains("clock_suspect"), "{job}");
    }
    assert_eq!(run_job(&daemon, "health_check").await["last_result"], "success", "it destroys nothing");
    // A human says that the time is right.
    assert_eq!(daemon.request("POST", "/api/v1/resume", None).await.status, 202);
    let began = Instant::now();
    while run_job(&daemon, "lock_cleanup").await["last_result"] != "success" {
        assert!(began.elapsed() < PATIENCE, "{}", daemon.logged());
    }
}

/// A state of which nearly all is free: long recordings gave way to short ones under their hashes.
async fn loosen(folder: &std::path::Path) {
    std::fs::create_dir_all(folder).unwrap();
    let (store, thread, _) = Store::open(folder, SystemClock.moment()).unwrap();
    let now = SystemClock.now();
    let long = format!("\"{}\"", "x".repeat(4 << 20)).into_bytes();
    for number in 0..24 {
        store.put_flow(format!("f{number}"), format!("h{number}"), long.clone(), now).await.unwrap();
    }
    for number in 0..24 {
        store.put_flow(format!("g{number}"), format!("h{number}"), b"{}".to_vec(), now).await.unwrap();
    }
    drop(store);
    tokio::task::spawn_blocking(|| thread.join()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_file_that_is_mostly_free_is_compacted_by_the_next_start() {
    let mut daemon = Daemon::prepare("", &[]);
    loosen(&daemon.state()).await;
    let bytes = |daemon: &Daemon| daemon.state().join("state.redb").metadata().unwrap().len();
    let loose = bytes(&daemon);
    assert!(loose > 64 << 20, "{loose}");
    daemon.boot().await;
    let due = daemon.state().join("compaction.due");
    assert!(bytes(&daemon) > 64 << 20 && !due.exists(), "nothing is compacted unasked");
    let job = run_job(&daemon, "compaction").await;
    let detail = job["last_detail"].as_str().unwrap();
    assert!(job["last_result"] == "success" && detail.ends_with("the next start compacts it"), "{job}");
    assert!(due.exists() && bytes(&daemon) > 64 << 20, "not while it runs");
    assert_eq!(daemon.stop(), Some(0));
    daemon.boot().await;
    assert!(!due.exists() && bytes(&daemon) < loose / 8, "{} of {loose} bytes\n{}", bytes(&daemon), daemon.logged());
    assert!(daemon.logged().contains("the state file was compacted"), "{}", daemon.logged());
    let job = run_job(&daemon, "compaction").await;
    assert!(job["last_detail"].as_str().unwrap().ends_with("it stays as it is"), "{job}");
    assert!(!due.exists());
    assert_eq!(daemon.stop(), Some(0));
    let (store, _thread, _) = Store::open(&daemon.state(), SystemClock.moment()).unwrap();
    assert_eq!(store.flows().await.unwrap().len(), 48);
    assert_eq!(store.check_consistency().await.unwrap(), Vec::<String>::new());
}
