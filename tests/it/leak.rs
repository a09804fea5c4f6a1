//! Ten thousand tasks leave nothing behind: memory and descriptors stay, and the state file stops growing.
//!
//! The work is done by outside workers, which claim, arm and complete: no browser, and nothing made up inside the
//! daemon. `TASKS=10000` for the long round (a release build), some hundreds otherwise; the figures are printed.
//! Retention keeps the last 100 tasks and runs after each part. The first part is the daemon getting to its size, and
//! what follows is held against it. `GROWN_MB=8` is what memory may differ by.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::rig::{Daemon, PATIENCE};
use super::studio::studio;

const PROFILES: [&str; 8] = ["p0", "p1", "p2", "p3", "p4", "p5", "p6", "p7"];
const PARTS: u64 = 5;
/// A connection more or less, of those that are kept for the next call.
const DESCRIPTORS: usize = 12;

fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).ok().map_or(otherwise, |text| text.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

#[derive(Clone, Copy, Debug)]
struct Size {
    memory_mb: f64,
    descriptors: usize,
    threads: usize,
    file_bytes: u64,
    tasks: u64,
}

#[expect(clippy::cast_precision_loss, reason = "a figure for a person")]
async fn size(daemon: &Daemon) -> Size {
    let proc = format!("/proc/{}", daemon.pid());
    // Its own memory alone: what the program's file takes depends on who else runs it.
    let status = std::fs::read_to_string(format!("{proc}/status")).unwrap();
    let anonymous = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    let kilobytes: u64 = anonymous.trim().trim_end_matches("kB").trim().parse().unwrap();
    let count = |what: &str| std::fs::read_dir(format!("{proc}/{what}")).unwrap().count();
    let metrics = daemon.get("/api/v1/metrics").await.body;
    Size {
        memory_mb: kilobytes as f64 / 1024.0,
        descriptors: count("fd"),
        threads: count("task"),
        file_bytes: daemon.state().join("state.redb").metadata().unwrap().len(),
        tasks: metrics["gauges"]["tasks"].as_f64().map_or(0, |tasks| format!("{tasks:.0}").parse().unwrap()),
    }
}

/// A worker of its own: asks for a task, takes what there is, arms it and completes it.
async fn work(base: String, client: reqwest::Client, film: String, profile: &'static str, tasks: u64) {
    let post = async |path: String, body: Value| {
        let answer = client.post(format!("{base}{path}")).json(&body).send().await.unwrap();
        let status = answer.status().as_u16();
        (status, answer.json::<Value>().await.unwrap_or(Value::Null))
    };
    for task in 0..tasks {
        let inputs = json!({"site": "http://127.0.0.1:9", "account": profile, "video": film,
            "caption": format!("{profile} {task}"), "code": "secret-1"});
        let order = json!({"flow": "studio", "items": [{"profile": profile, "inputs": inputs}]});
        let (status, made) = post("/api/v1/bulk-upload/start".to_owned(), order).await;
        assert_eq!(status, 202, "{made}");
        let asked = json!({"kinds": ["studio"], "owner": profile, "ttl_seconds": 300, "wait_seconds": 20});
        let (status, claim) = post("/api/v1/claims".to_owned(), asked).await;
        assert_eq!(status, 200, "{claim}");
        let id = claim["claim_id"].as_str().unwrap();
        let media = &claim["item"]["files"]["video"]["sha256"];
        let (status, armed) =
            post(format!("/api/v1/claims/{id}/arm"), json!({"fence": claim["fence"], "media_sha256": media})).await;
        assert_eq!(status, 200, "{armed}");
        let done = json!({"fence": claim["fence"], "result": {"note": "done"}});
        let (status, done) = post(format!("/api/v1/claims/{id}/complete"), done).await;
        assert_eq!(status, 200, "{done}");
    }
}

async fn retention(daemon: &Daemon) {
    let began = Instant::now();
    while daemon.request("POST", "/api/v1/maintenance/retention/run", None).await.status != 202 {
        assert!(began.elapsed() < PATIENCE);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    loop {
        let jobs = daemon.get("/api/v1/maintenance").await.body;
        let job = jobs["jobs"].as_array().unwrap().iter().find(|job| job["name"] == "retention").unwrap().clone();
        if job["running"] == false {
            assert_eq!(job["last_result"], "success", "{job}");
            return;
        }
        // A task is forgotten in some 20 ms, so that others have the disk.
        assert!(began.elapsed() < PATIENCE * 20, "{job}\n{}", daemon.logged());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_tasks_leave_nothing_behind() {
    let tasks = number("TASKS", 400).max(PARTS * PROFILES.len() as u64);
    #[expect(clippy::cast_precision_loss, reason = "a few megabytes")]
    let grown = number("GROWN_MB", 12) as f64;
    let mut daemon = studio("[retention]\ntasks = 100\n[maintenance]\nretention = \"off\"", &PROFILES).await;
    let film = daemon.film("leak.mp4").display().to_string();
    let each = tasks / PARTS / PROFILES.len() as u64;
    let mut sizes = Vec::new();
    let mut loose = Vec::new();
    for _ in 0..PARTS {
        let mut workers = JoinSet::new();
        for profile in PROFILES {
            workers.spawn(work(daemon.base.clone(), daemon.client.clone(), film.clone(), profile, each));
        }
        while let Some(ended) = workers.join_next().await {
            ended.unwrap();
        }
        loose.push(size(&daemon).await.file_bytes);
        retention(&daemon).await;
        sizes.push(size(&daemon).await);
    }
    let done = each * PARTS * PROFILES.len() as u64;
    let told: Vec<String> = sizes
        .iter()
        .map(|size| {
            let Size { memory_mb, descriptors, threads, file_bytes, .. } = size;
            format!("{memory_mb:.1} MB, {descriptors} descriptors, {threads} threads, file {} KiB", file_bytes / 1_024)
        })
        .collect();
    println!("leak: {done} tasks in {PARTS} parts: {}", told.join("; "));
    let (first, last) = (sizes[0], *sizes.last().unwrap());
    assert!(last.memory_mb < first.memory_mb + grown, "memory: {told:?}\n{sizes:?}");
    assert!(last.descriptors <= first.descriptors + DESCRIPTORS, "descriptors: {told:?}");
    assert_eq!(last.tasks, 100, "{sizes:?}");
    // The keys of each part stay, and the history; its tasks do not.
    assert!(last.file_bytes <= 2 * sizes[1].file_bytes, "the state file grows: {told:?}, before retention {loose:?}");

    // Nothing of it is in the way of the next start, and the locks are free.
    let locks = daemon.get("/api/v1/locks").await.body;
    assert_eq!(locks["locks"], json!([]), "{locks}");
    assert_eq!(daemon.stop(), Some(0), "{}", daemon.logged());
    daemon.boot().await;
    let again = size(&daemon).await;
    println!("leak: started again: {:.1} MB, file {} KiB", again.memory_mb, again.file_bytes / 1_024);
    assert!(again.file_bytes <= last.file_bytes, "{again:?}");
}
