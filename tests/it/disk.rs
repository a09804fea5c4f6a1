//! The disk of the state directory fills, is full, fails: nothing that had its answer is lost, reads go on,
//! and everything goes on by itself when there is space again.
//!
//! The state lies on a small tmpfs; where mounts are not permitted these tests say so and pass.

mod small;

use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use small::SmallDisk;

use super::rig::{Answer, Daemon, PATIENCE, PracticeSite, answer, cove, processes_with, signal};

const MIB: u64 = 1024 * 1024;
/// The least reserve that can be configured, so that the disk can be small.
const RESERVE: (&str, &str) = ("COVE_RESOURCES__DISK_RESERVE_MB", "32");

/// A daemon whose state lies on a disk of its own; each test stops it before the disk goes.
fn daemon_on_a_small_disk(env: &[(&'static str, &'static str)]) -> Option<(Daemon, SmallDisk)> {
    let daemon = Daemon::prepare("", &[&[RESERVE], env].concat());
    let disk = SmallDisk::mount(&daemon.state())?;
    Some((daemon, disk))
}

const NO_BROWSER: (&str, &str) = ("COVE_BROWSER__CHROMIUM", "/nonexistent/chromium");

async fn health(daemon: &Daemon, wanted: u16) -> Value {
    let began = Instant::now();
    loop {
        let health = daemon.get("/api/v1/health").await;
        if health.status == wanted {
            return health.body;
        }
        assert!(began.elapsed() < PATIENCE, "{}\n{}", health.body, daemon.logged());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn body(daemon: &Daemon, caption: &str) -> Value {
    let inputs =
        json!({"site": "http://127.0.0.1:9", "account": "anna", "video": daemon.film("1.mp4"), "caption": caption});
    json!({"flow": "atelier", "items": [{"profile": "anna", "inputs": inputs}]})
}

async fn submit(daemon: &Daemon, key: &str) -> Answer {
    let url = format!("{}/api/v1/bulk-upload/start", daemon.base);
    answer(daemon.client.post(url).header("idempotency-key", key).json(&body(daemon, key))).await
}

async fn upload(daemon: &Daemon, bytes: usize) -> Answer {
    answer(daemon.client.post(format!("{}/api/v1/media", daemon.base)).body(vec![7; bytes])).await
}

fn unfinished_uploads(daemon: &Daemon) -> usize {
    let files = std::fs::read_dir(daemon.state().join("media")).unwrap();
    files.filter(|file| file.as_ref().unwrap().file_name().to_string_lossy().starts_with(".upload")).count()
}

fn ballast_bytes(daemon: &Daemon) -> u64 {
    std::fs::metadata(daemon.state().join("ballast")).map_or(0, |metadata| metadata.len())
}

async fn state_of(daemon: &Daemon, task: &Value) -> Value {
    daemon.get(&format!("/api/v1/tasks/{}", task.as_str().unwrap())).await.body["state"].clone()
}

/// Whatever stores more or starts something is refused; the rest of the API works.
async fn refuses_what_needs_space(daemon: &Daemon) {
    let flow = daemon.client.put(format!("{}/api/v1/flows/other", daemon.base));
    let flow = flow.header("content-type", "application/json").body(super::rig::ATELIER);
    let refused = [
        submit(daemon, "refused").await,
        answer(flow).await,
        daemon.post("/api/v1/profiles", &json!({"name": "boris"})).await,
        daemon.request("POST", "/api/v1/profiles/anna/open", None).await,
        upload(daemon, 1_000).await,
    ];
    for answer in refused {
        assert_eq!((answer.status, answer.code()), (507, "no_disk"), "{}", answer.body);
        assert!(answer.headers.contains_key("retry-after"), "{}", answer.body);
    }
    assert_eq!(unfinished_uploads(daemon), 0);
    for path in ["/api/v1/tasks", "/api/v1/items", "/api/v1/flows/atelier", "/api/v1/profiles", "/api/v1/status"] {
        assert_eq!(daemon.get(path).await.status, 200, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_writes_reads_go_on_and_everything_goes_on_by_itself() {
    let Some((mut daemon, disk)) = daemon_on_a_small_disk(&[NO_BROWSER]) else { return };
    daemon.boot().await;
    daemon.furnish(&["anna"]).await;
    health(&daemon, 200).await;
    let mut tasks = Vec::new();
    for number in 0..60 {
        let made = submit(&daemon, &format!("before-{number}")).await;
        assert_eq!(made.status, 202, "{}", made.body);
        tasks.push(made.body["task_id"].clone());
    }

    disk.fill_to(8 * MIB);
    let told = health(&daemon, 503).await;
    assert!(told["parts"]["disk"]["reason"].as_str().unwrap().contains("disk_reserve_mb"), "{told}");
    refuses_what_needs_space(&daemon).await;
    let items = daemon.get("/api/v1/items?state=queued&limit=1").await.body;
    assert_eq!(items["items"][0]["wait_reason"], "no_disk", "{items}");
    let again = submit(&daemon, "before-0").await;
    assert_eq!((again.status, &again.body["task_id"]), (202, &tasks[0]), "a replay stores nothing");

    // To its last page: what ends something is still stored.
    disk.fill();
    assert_eq!(disk.free_bytes(), 0);
    for task in &tasks[..50] {
        let path = format!("/api/v1/tasks/{}/cancel", task.as_str().unwrap());
        let canceled = daemon.request("POST", &path, None).await;
        assert_eq!(canceled.status, 202, "{}\n{}", canceled.body, daemon.logged());
    }
    assert_eq!(daemon.request("POST", "/api/v1/pause", None).await.status, 202);
    disk.fill();

    // Killed and started again on the full disk.
    daemon.kill();
    daemon.boot().await;
    health(&daemon, 503).await;
    refuses_what_needs_space(&daemon).await;
    let began = Instant::now();
    while state_of(&daemon, &tasks[49]).await != "canceled" {
        assert!(began.elapsed() < PATIENCE, "{}", daemon.logged());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(daemon.get("/api/v1/status").await.body["state"], "paused");
    assert!(ballast_bytes(&daemon) < 16 * MIB, "there was space all the time");

    disk.free();
    health(&daemon, 200).await;
    assert_eq!(ballast_bytes(&daemon), 16 * MIB);
    assert_eq!(daemon.request("POST", "/api/v1/resume", None).await.status, 202);
    assert_eq!(submit(&daemon, "after").await.status, 202);
    assert_eq!(upload(&daemon, 1_000).await.status, 201);
    for (number, task) in tasks.iter().enumerate() {
        let state = state_of(&daemon, task).await;
        let expected: &[&str] = if number < 50 { &["canceled"] } else { &["queued", "running", "failed"] };
        assert!(expected.contains(&state.as_str().unwrap_or_default()), "{number}: {state}");
    }
    assert_eq!(daemon.stop(), Some(0), "{}", daemon.logged());
}

/// Without the ballast the same ends the daemon: at once, with its code, and with every answer kept.
#[tokio::test(flavor = "multi_thread")]
async fn negative_control_without_the_ballast_a_full_disk_ends_the_daemon() {
    let Some((mut daemon, disk)) = daemon_on_a_small_disk(&[NO_BROWSER]) else { return };
    daemon.boot().await;
    daemon.furnish(&["anna"]).await;
    let mut tasks = Vec::new();
    for number in 0..200 {
        tasks.push(submit(&daemon, &format!("before-{number}")).await.body["task_id"].clone());
    }
    std::fs::remove_file(daemon.state().join("ballast")).unwrap();
    let mut canceled = Vec::new();
    for task in &tasks {
        disk.fill();
        let path = format!("{}/api/v1/tasks/{}/cancel", daemon.base, task.as_str().unwrap());
        match daemon.client.post(path).send().await {
            Ok(answer) if answer.status() == 202 => canceled.push(task),
            Ok(answer) => {
                assert!([503, 507].contains(&answer.status().as_u16()));
                break;
            }
            Err(_) => break,
        }
    }
    // The file may have had room inside for all of that; locks of new keys need more of it without an end.
    let mut full = canceled.len() < tasks.len();
    for number in 0..50_000 {
        if full {
            break;
        }
        disk.fill();
        let lock = json!({"kind": "fills", "key": format!("{number}-{}", "x".repeat(200)), "owner": "the test"});
        let asked = daemon.client.post(format!("{}/api/v1/locks/acquire", daemon.base)).json(&lock).send().await;
        full = asked.map_or(true, |answer| answer.status() != 200);
    }
    assert!(full, "the disk was never full");
    assert_eq!(daemon.ended().await, Some(74), "{}", daemon.logged());
    disk.free();
    daemon.boot().await;
    for task in canceled {
        let began = Instant::now();
        while state_of(&daemon, task).await != "canceled" {
            assert!(began.elapsed() < PATIENCE, "{}", daemon.logged());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    assert_eq!(daemon.stop(), Some(0), "{}", daemon.logged());
}

/// An upload ends before it takes the reserve, and leaves nothing; so does one that could not fit.
#[tokio::test(flavor = "multi_thread")]
async fn an_upload_never_takes_the_reserve() {
    let Some((mut daemon, disk)) = daemon_on_a_small_disk(&[NO_BROWSER]) else { return };
    daemon.boot().await;
    let too_much = usize::try_from(disk.free_bytes() - 10 * MIB).unwrap();
    let refused = upload(&daemon, too_much).await;
    assert_eq!((refused.status, refused.code()), (507, "no_disk"), "{}", refused.body);
    // The same without a length that could be looked at first.
    let pieces = (0..too_much / 65_536).map(|_| Ok::<_, std::io::Error>(vec![7_u8; 65_536]));
    let stream = reqwest::Body::wrap_stream(futures_util::stream::iter(pieces));
    let refused = answer(daemon.client.post(format!("{}/api/v1/media", daemon.base)).body(stream)).await;
    assert_eq!((refused.status, refused.code()), (507, "no_disk"), "{}", refused.body);
    assert_eq!(unfinished_uploads(&daemon), 0);
    health(&daemon, 200).await;
    assert_eq!(upload(&daemon, 1_000).await.status, 201);
    assert_eq!(daemon.stop(), Some(0), "{}", daemon.logged());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_media_folder_that_fails_answers_507_and_keeps_nothing() {
    let daemon = Daemon::start_as("", &[NO_BROWSER]).await;
    let media = daemon.state().join("media");
    std::fs::rename(&media, daemon.state().join("elsewhere")).unwrap();
    std::fs::write(&media, "not a folder").unwrap();
    let refused = upload(&daemon, 1_000).await;
    assert_eq!((refused.status, refused.code()), (507, "media_failed"), "{}", refused.body);
    assert_eq!(daemon.get("/api/v1/tasks").await.status, 200);
}

/// Evidence that has no place ends the attempt before its browser is started: nothing is clicked without it.
#[tokio::test(flavor = "multi_thread")]
async fn rule_7_an_attempt_whose_evidence_cannot_be_kept_ends_unarmed() {
    let daemon = Daemon::start_with("max_attempts = 1").await;
    let practice = PracticeSite::start(json!({})).await;
    daemon.furnish(&["anna"]).await;
    std::fs::write(daemon.state().join("evidence"), "not a folder").unwrap();
    let task = daemon.submit(&practice.site, &[("anna", "without evidence")]).await;
    let items = daemon.settled(&task).await;
    assert_eq!((&items[0]["state"], &items[0]["error"]["code"]), (&json!("failed"), &json!("evidence_failed")));
    assert_eq!(practice.posts().len(), 0);
}

/// Nothing is restarted over and over: the process waits, says why, and goes on.
#[tokio::test(flavor = "multi_thread")]
async fn a_start_without_space_waits_and_says_so() {
    let Some((mut daemon, disk)) = daemon_on_a_small_disk(&[NO_BROWSER]) else { return };
    disk.fill();
    daemon.spawn(cove());
    let pid = daemon.pid();
    let socket = daemon.folder.path().join("cove.sock");
    let client = cove::outbound::local().unix_socket(socket).timeout(PATIENCE).build().unwrap();
    let began = Instant::now();
    let told = loop {
        if let Ok(health) = client.get("http://localhost/api/v1/health").send().await {
            assert_eq!(health.status(), 503);
            break health.json::<Value>().await.unwrap();
        }
        assert!(began.elapsed() < PATIENCE, "{}", daemon.logged());
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert!(told["parts"]["store"]["reason"].as_str().unwrap().contains("space"), "{told}");
    let start = client.post("http://localhost/api/v1/bulk-upload/start").json(&json!({})).send().await.unwrap();
    assert_eq!(start.status(), 507);
    disk.free();
    daemon.listening().await;
    health(&daemon, 200).await;
    assert_eq!(daemon.pid(), pid);
    daemon.furnish(&["anna"]).await;
    assert_eq!(submit(&daemon, "after").await.status, 202);
    assert_eq!(daemon.stop(), Some(0), "{}", daemon.logged());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_without_space_can_be_stopped() {
    let Some((mut daemon, disk)) = daemon_on_a_small_disk(&[NO_BROWSER]) else { return };
    disk.fill();
    daemon.spawn(cove());
    let socket = daemon.folder.path().join("cove.sock");
    let began = Instant::now();
    while !socket.exists() {
        assert!(began.elapsed() < PATIENCE, "{}", daemon.logged());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(daemon.stop(), Some(0), "{}", daemon.logged());
    assert!(!socket.exists());
}

/// The disk fills to its last page between the click and its confirmation: the end is written all the same.
#[tokio::test(flavor = "multi_thread")]
async fn rule_7_a_disk_that_fills_after_the_click_does_not_change_the_outcome() {
    let elsewhere = tempfile::tempdir().unwrap();
    let socket = elsewhere.path().join("host.sock");
    let setting = socket.display().to_string().leak();
    let Some((mut daemon, disk)) = daemon_on_a_small_disk(&[("COVE_BROWSER__HOST_SOCKET", setting)]) else { return };
    let mut host = cove()
        .args(["browser-host", "--sandbox", "false", "--socket"])
        .arg(&socket)
        .arg("--profiles-dir")
        .arg(elsewhere.path().join("profiles"))
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    daemon.boot().await;
    let practice = PracticeSite::start(json!({"slow": 4_000})).await;
    daemon.furnish(&["anna"]).await;
    let task = daemon.submit(&practice.site, &[("anna", "full")]).await;
    let began = Instant::now();
    loop {
        let events = daemon.get(&format!("/api/v1/tasks/{task}/events")).await.body;
        if events.to_string().contains("\"armed\"") {
            break;
        }
        assert!(began.elapsed() < PATIENCE, "{events}\n{}", daemon.logged());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    disk.fill();
    let items = daemon.settled(&task).await;
    assert_eq!(items[0]["state"], "succeeded", "{items:#?}\n{}", daemon.logged());
    assert_eq!(practice.posts().len(), 1);
    assert_eq!(daemon.stop(), Some(0), "{}", daemon.logged());
    signal(host.id(), rustix::process::Signal::TERM);
    assert!(host.wait().unwrap().success());
    assert!(processes_with(&elsewhere.path().join("profiles").display().to_string()).is_empty());
}

/// The disk fails for good: what had its answer is there after the next start, nothing else was answered.
#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_fails_ends_the_daemon_with_its_own_code_and_loses_no_answer() {
    if !Command::new("strace").arg("-V").output().is_ok_and(|output| output.status.success()) {
        println!("skipped: strace is not installed");
        return;
    }
    let mut daemon = Daemon::prepare("", &[NO_BROWSER]);
    let mut strace = Command::new("strace");
    // Counted for each thread: the writer's comes so far, the boot's does not.
    strace.args(["-f", "-qq", "-e", "trace=fdatasync", "-e", "inject=fdatasync:error=EIO:when=60+", "-o", "/dev/null"]);
    strace.arg(cove().get_program());
    daemon.spawn(strace);
    daemon.listening().await;
    daemon.furnish(&["anna"]).await;
    let mut accepted = Vec::new();
    let refused = loop {
        let key = format!("key-{}", accepted.len());
        let url = format!("{}/api/v1/bulk-upload/start", daemon.base);
        let sent = daemon.client.post(url).header("idempotency-key", &key).json(&body(&daemon, &key)).send().await;
        match sent {
            Ok(answer) if answer.status() == 202 => accepted.push(answer.json::<Value>().await.unwrap()),
            Ok(answer) => break Some(answer.status().as_u16()),
            Err(_) => break None,
        }
        assert!(accepted.len() < 1_000, "the injected failure did not come\n{}", daemon.logged());
    };
    assert!(refused.is_none_or(|status| status == 503), "{refused:?}");
    assert_eq!(daemon.ended().await, Some(74), "{}", daemon.logged());
    assert!(daemon.logged().contains("nothing more is acknowledged"), "{}", daemon.logged());
    assert!(!accepted.is_empty());
    daemon.boot().await;
    for made in &accepted {
        let task = daemon.get(&format!("/api/v1/tasks/{}", made["task_id"].as_str().unwrap())).await;
        assert_eq!((task.status, &task.body["total"]), (200, &json!(1)), "{}", task.body);
    }
    let page = daemon.get("/api/v1/tasks?limit=1000").await.body;
    let all = page["tasks"].as_array().unwrap().len();
    assert!((accepted.len()..=accepted.len() + 1).contains(&all), "{all} tasks, {} answers", accepted.len());
}
