//! Snapshots from outside: made, fetched, verified and put back with a real daemon, killed in the middle of one;
//! and the drill that all of it is for: what went out after the snapshot does not go out again.

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::rig::{Answer, Daemon, PATIENCE, PracticeSite, run, signal};

async fn listed(daemon: &Daemon) -> Vec<Value> {
    let answer = daemon.get("/api/v1/snapshots").await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    answer.body["snapshots"].as_array().unwrap().clone()
}

fn names(snapshots: &[Value]) -> Vec<&str> {
    snapshots.iter().map(|snapshot| snapshot["name"].as_str().unwrap()).collect()
}

/// Asks for one until nobody else's is in the way.
async fn begin(daemon: &Daemon) -> String {
    let began = Instant::now();
    loop {
        let answer = daemon.request("POST", "/api/v1/snapshots", None).await;
        if answer.status == 202 {
            return answer.body["name"].as_str().unwrap().to_owned();
        }
        assert_eq!((answer.status, answer.code()), (409, "snapshot_running"), "{}", answer.body);
        assert!(began.elapsed() < PATIENCE);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn make(daemon: &Daemon) -> Value {
    let name = begin(daemon).await;
    let began = Instant::now();
    loop {
        if let Some(made) = listed(daemon).await.into_iter().find(|one| one["name"] == name.as_str()) {
            return made;
        }
        assert!(began.elapsed() < PATIENCE, "{}", daemon.logged());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn file_of(daemon: &Daemon, snapshot: &Value) -> std::path::PathBuf {
    daemon.state().join("snapshots").join(snapshot["name"].as_str().unwrap())
}

/// An item that waits for an hour, so that nothing starts; many make a larger state.
async fn waiting(daemon: &Daemon, items: usize, key: &str) -> Answer {
    let film = daemon.film("waiting.mp4");
    let not_before = cove::model::Timestamp::plus(now(), Duration::from_secs(3_600));
    let item = |number: usize| {
        json!({"profile": "anna", "not_before": not_before, "key": format!("{key}-{number}"), "inputs": {
            "site": "http://127.0.0.1:9", "account": "anna", "video": film, "caption": "waits"}})
    };
    let items: Vec<_> = (0..items).map(item).collect();
    daemon.post("/api/v1/bulk-upload/start", &json!({"flow": "atelier", "items": items})).await
}

fn now() -> cove::model::Timestamp {
    cove::model::Clock::now(&cove::model::SystemClock)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_is_made_listed_fetched_and_verified() {
    let daemon = Daemon::start().await;
    daemon.furnish(&["anna"]).await;
    assert_eq!(daemon.get("/api/v1/status").await.body["last_snapshot"], Value::Null);
    assert_eq!(daemon.get("/api/v1/snapshots").await.body["snapshots"], json!([]));
    let (first, second) = (make(&daemon).await, make(&daemon).await);
    let all = listed(&daemon).await;
    assert_eq!(names(&all), names(&[second.clone(), first.clone()]), "newest first");
    assert!(first["name"].as_str().unwrap().starts_with("cove-2"), "{first}");
    assert_eq!((&first["verified"], &first["reason"]), (&json!(true), &json!("asked")));
    let page = daemon.get("/api/v1/snapshots?limit=1").await.body;
    assert_eq!(page["snapshots"].as_array().unwrap().len(), 1);
    let next = page["next_cursor"].as_str().unwrap();
    let page = daemon.get(&format!("/api/v1/snapshots?limit=1&cursor={next}")).await.body;
    assert_eq!((&page["snapshots"][0]["name"], &page["next_cursor"]), (&first["name"], &Value::Null));

    let name = first["name"].as_str().unwrap();
    let fetched = daemon.client.get(format!("{}/api/v1/snapshots/{name}", daemon.base)).send().await.unwrap();
    assert_eq!((fetched.status().as_u16(), fetched.content_length()), (200, first["bytes"].as_u64()));
    let bytes = fetched.bytes().await.unwrap();
    assert_eq!(first["sha256"], cove::store::media::hex(&Sha256::digest(&bytes)));

    let verified = daemon.request("POST", &format!("/api/v1/snapshots/{name}/verify"), None).await;
    assert_eq!((verified.status, &verified.body["verified"]), (200, &json!(true)), "{}", verified.body);
    let status = daemon.get("/api/v1/status").await.body;
    assert_eq!(
        (&status["last_snapshot"]["name"], &status["last_snapshot"]["verified"]),
        (&second["name"], &json!(true))
    );
    let health = daemon.get("/api/v1/health").await.body;
    assert_eq!(health["parts"]["snapshots"]["last_verified_at"], verified.body["verified_at"]);
    let metrics = daemon.get("/api/v1/metrics").await.body;
    assert_eq!(metrics["counters"]["snapshots_total{result=\"success\"}"], json!(2.0));
    assert!(metrics["gauges"]["backup_last_verified_timestamp"].as_f64().unwrap() > 1.7e9);
    assert!(metrics["gauges"]["snapshot_last_success_timestamp_seconds"].as_f64().unwrap() > 1.7e9);
    for bad in ["none.snapshot", "..%2f..%2fstate.redb", ".making-1-x", "publish.ledger", "%00.snapshot"] {
        assert_eq!(daemon.get(&format!("/api/v1/snapshots/{bad}")).await.code(), "not_found", "{bad}");
        let verify = daemon.request("POST", &format!("/api/v1/snapshots/{bad}/verify"), None).await;
        assert_eq!((verify.status, verify.code()), (404, "not_found"), "{bad}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_one_is_found_and_remembered_as_such() {
    let daemon = Daemon::start().await;
    daemon.furnish(&["anna"]).await;
    let made = make(&daemon).await;
    let path = file_of(&daemon, &made);
    let mut bytes = std::fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let verified = listed(&daemon).await[0]["verified"].clone();
    assert_eq!(verified, json!(false), "another file than the one that was verified");
    let url = format!("/api/v1/snapshots/{}/verify", made["name"].as_str().unwrap());
    let verify = daemon.request("POST", &url, None).await;
    assert_eq!((verify.status, verify.code()), (409, "snapshot_damaged"), "{}", verify.body);
    assert_eq!(verify.body["verified"], json!(false));
    let found = listed(&daemon).await[0].clone();
    assert!(found["damage"].as_str().unwrap().contains("its hash is not"), "{found}");
    let health = daemon.get("/api/v1/health").await;
    assert_eq!((health.status, &health.body["status"]), (200, &json!("degraded")), "{}", health.body);
    let by_name = run(&["snapshots", "verify", made["name"].as_str().unwrap()], daemon.folder.path());
    assert_eq!(by_name.status.code(), Some(21), "{}", String::from_utf8_lossy(&by_name.stderr));
}

/// 507 with the code of a full disk, in the way that a test can have without filling one.
#[tokio::test(flavor = "multi_thread")]
async fn a_folder_that_cannot_be_used_is_said_and_nothing_else_suffers() {
    let daemon = Daemon::start().await;
    daemon.furnish(&["anna"]).await;
    std::fs::write(daemon.state().join("snapshots"), "in the way").unwrap();
    let refused = daemon.request("POST", "/api/v1/snapshots", None).await;
    assert_eq!((refused.status, refused.code()), (507, "snapshot_failed"), "{}", refused.body);
    let health = daemon.get("/api/v1/health").await;
    assert_eq!((health.status, &health.body["status"]), (200, &json!("degraded")));
    std::fs::remove_file(daemon.state().join("snapshots")).unwrap();
    make(&daemon).await;
    assert_eq!(daemon.get("/api/v1/health").await.body["status"], "healthy");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_one_is_made_at_a_time_and_a_signal_makes_one() {
    let daemon = Daemon::start().await;
    daemon.furnish(&["anna"]).await;
    let answers = futures_util::future::join_all(
        (0..8).map(|_| daemon.request("POST", "/api/v1/snapshots", None)).collect::<Vec<_>>(),
    )
    .await;
    for answer in &answers {
        let known = answer.status == 202 || (answer.status, answer.code()) == (409, "snapshot_running");
        assert!(known, "{}", answer.body);
    }
    let begun = answers.iter().filter(|answer| answer.status == 202).count();
    assert!((1..8).contains(&begun), "{begun} of 8");
    make(&daemon).await;
    assert_eq!(listed(&daemon).await.len(), begun + 1);
    signal(daemon.pid(), rustix::process::Signal::USR1);
    let began = Instant::now();
    while listed(&daemon).await.iter().all(|one| one["reason"] != "signal") {
        assert!(began.elapsed() < PATIENCE, "{}", daemon.logged());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_old_ones_go_and_a_foreign_file_stays() {
    let daemon = Daemon::start_as("", &[("COVE_SNAPSHOTS__KEEP_COUNT", "2")]).await;
    daemon.furnish(&["anna"]).await;
    let mut made = Vec::new();
    for _ in 0..4 {
        made.push(make(&daemon).await);
    }
    std::fs::write(daemon.state().join("snapshots/notes.txt"), "mine").unwrap();
    let began = Instant::now();
    while names(&listed(&daemon).await) != names(&[made[3].clone(), made[2].clone()]) {
        assert!(began.elapsed() < PATIENCE, "{:?}", listed(&daemon).await);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(daemon.state().join("snapshots/notes.txt").exists());
}

fn scratches(daemon: &Daemon) -> Vec<String> {
    let entries = std::fs::read_dir(daemon.state().join("snapshots")).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.starts_with(".making-")).collect()
}

/// Row D2's moments inside a snapshot, met at random.
#[tokio::test(flavor = "multi_thread")]
async fn kill_9_in_the_middle_of_one_leaves_the_others_good_and_no_rubbish() {
    let seed = std::env::var("SEED").ok().map_or_else(|| fastrand::u64(..1 << 40), |text| text.parse().unwrap());
    println!("SEED={seed}");
    let mut dice = fastrand::Rng::with_seed(seed);
    let mut daemon = Daemon::start().await;
    daemon.furnish(&["anna"]).await;
    assert_eq!(waiting(&daemon, 3_000, "many").await.status, 202);
    let began = Instant::now();
    let old = make(&daemon).await;
    let usual = began.elapsed();
    let mut in_the_middle = 0;
    for round in 0..6 {
        let name = begin(&daemon).await;
        // Every other time right after its begin: then it is surely not done.
        let wait = if round % 2 == 0 { Duration::ZERO } else { usual.mul_f64(dice.f64()) };
        tokio::time::sleep(wait).await;
        daemon.kill();
        in_the_middle += usize::from(!scratches(&daemon).is_empty());
        daemon.boot().await;
        // The folder was tidied before anything else is done with it.
        make(&daemon).await;
        assert_eq!(scratches(&daemon), Vec::<String>::new());
        for snapshot in listed(&daemon).await {
            let url = format!("/api/v1/snapshots/{}/verify", snapshot["name"].as_str().unwrap());
            let verified = daemon.request("POST", &url, None).await;
            assert_eq!(verified.status, 200, "round {round}, {name}: {}", verified.body);
        }
    }
    println!("6 kills, {in_the_middle} of them in the middle of a snapshot");
    assert!(in_the_middle > 0, "no kill fell into a snapshot");
    assert!(names(&listed(&daemon).await).contains(&old["name"].as_str().unwrap()));
}

fn restore(folder: &Path, name: &str) -> (Option<i32>, String) {
    let done = run(&["snapshots", "restore", name], folder);
    (done.status.code(), String::from_utf8(done.stdout).unwrap() + &String::from_utf8(done.stderr).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_is_refused_while_the_daemon_runs_and_listing_needs_none() {
    let mut daemon = Daemon::start().await;
    daemon.furnish(&["anna"]).await;
    let made = run(&["snapshots", "create"], daemon.folder.path());
    assert_eq!(made.status.code(), Some(0), "{}", String::from_utf8_lossy(&made.stderr));
    let name = String::from_utf8(made.stdout).unwrap().trim().to_owned();
    let before = std::fs::read_dir(daemon.state()).unwrap().count();
    let (code, told) = restore(daemon.folder.path(), &name);
    assert_eq!(code, Some(22), "{told}");
    assert!(told.contains("stop it first"), "{told}");
    assert_eq!(std::fs::read_dir(daemon.state()).unwrap().count(), before);
    assert_eq!(daemon.stop(), Some(0), "{}", daemon.logged());
    let listed = run(&["snapshots", "list", "--json"], daemon.folder.path());
    let listed: Value = serde_json::from_slice(&listed.stdout).unwrap();
    assert_eq!(names(listed["snapshots"].as_array().unwrap()), [name.as_str()]);
    let path = daemon.state().join("snapshots").join(&name);
    for which in [name.as_str(), name.trim_end_matches(".snapshot"), path.to_str().unwrap()] {
        let verified = run(&["snapshots", "verify", which, "--json"], daemon.folder.path());
        let verified: Value = serde_json::from_slice(&verified.stdout).unwrap();
        assert_eq!((&verified["verified"], &verified["name"]), (&json!(true), &json!(name)), "{which}");
    }
    let (code, told) = restore(daemon.folder.path(), "none.snapshot");
    assert_eq!(code, Some(1), "{told}");
    assert!(told.contains("cove snapshots list"), "{told}");
    let (code, told) = restore(daemon.folder.path(), &name);
    assert_eq!(code, Some(0), "{told}");
    assert!(told.contains("cove resume") && told.contains("before-restore-"), "{told}");
    daemon.boot().await;
    assert_eq!(daemon.get("/api/v1/status").await.body["state"], "restored");
}

async fn submit_keyed(daemon: &Daemon, practice: &PracticeSite, profile: &str, caption: &str) -> Answer {
    let film = daemon.film(&format!("{caption}.mp4"));
    let item = json!({"profile": profile, "key": caption, "inputs": {"site": practice.site.url(), "account": profile,
        "video": film, "caption": caption}});
    daemon.post("/api/v1/bulk-upload/start", &json!({"flow": "atelier", "items": [item]})).await
}

/// Captions of what was posted more than once.
fn twice(practice: &PracticeSite) -> Vec<String> {
    let mut captions: Vec<_> = practice.posts().into_iter().map(|post| post.caption).collect();
    captions.sort();
    let mut twice: Vec<_> = captions.windows(2).filter(|pair| pair[0] == pair[1]).map(|pair| pair[0].clone()).collect();
    twice.dedup();
    twice
}

/// One is published, one waits when the snapshot is made; then that and another go out; the snapshot is put back.
async fn drill(lose_the_ledger: bool) -> (Daemon, PracticeSite, String, String) {
    let mut daemon = Daemon::start().await;
    let practice = PracticeSite::start(json!({})).await;
    daemon.furnish(&["anna", "boris"]).await;
    let first = submit_keyed(&daemon, &practice, "anna", "before").await;
    daemon.settled(first.body["task_id"].as_str().unwrap()).await;
    assert_eq!(daemon.post("/api/v1/pause", &json!({})).await.status, 202);
    let second = submit_keyed(&daemon, &practice, "anna", "waited").await.body["task_id"].as_str().unwrap().to_owned();
    let later = waiting(&daemon, 1, "later").await.body["task_id"].as_str().unwrap().to_owned();
    let made = make(&daemon).await;
    assert_eq!(daemon.post("/api/v1/resume", &json!({})).await.status, 202);
    assert_eq!(daemon.settled(&second).await[0]["state"], "succeeded", "{}", daemon.logged());
    let third = submit_keyed(&daemon, &practice, "boris", "after").await;
    daemon.settled(third.body["task_id"].as_str().unwrap()).await;
    assert_eq!(practice.posts().len(), 3);
    assert_eq!(daemon.stop(), Some(0), "{}", daemon.logged());
    if lose_the_ledger {
        std::fs::remove_file(daemon.state().join("publish.ledger")).unwrap();
    }
    let (code, told) = restore(daemon.folder.path(), made["name"].as_str().unwrap());
    assert_eq!(code, Some(0), "{told}");
    daemon.boot().await;
    (daemon, practice, second, later)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_restore_drill_nothing_goes_out_twice() {
    let (daemon, practice, second, later) = drill(false).await;
    let status = daemon.get("/api/v1/status").await.body;
    assert_eq!((&status["state"], &status["pause"]["blind"]), (&json!("restored"), &json!(false)), "{status:#}");
    assert_eq!(daemon.items(&second).await[0]["state"], "succeeded", "the ledger knows it");
    assert_eq!(daemon.items(&later).await[0]["wait_reason"], "held_after_restore");
    // What the snapshot never saw is known by its key.
    let again = submit_keyed(&daemon, &practice, "boris", "after").await;
    assert_eq!((again.status, again.code()), (409, "key_taken"), "{}", again.body);
    assert_eq!(daemon.post("/api/v1/resume", &json!({})).await.status, 202);
    daemon.until(&later, |items| items[0]["state"] == "queued").await;
    // And it works on.
    let fourth = submit_keyed(&daemon, &practice, "anna", "afterwards").await;
    let items = daemon.settled(fourth.body["task_id"].as_str().unwrap()).await;
    assert_eq!(items[0]["state"], "succeeded", "{}", daemon.logged());
    assert_eq!((twice(&practice), practice.posts().len()), (Vec::new(), 4));
}

/// The same drill with the ledger thrown away, and a human who says yes to everything.
#[tokio::test(flavor = "multi_thread")]
async fn negative_control_the_drill_sees_what_goes_out_twice_without_a_ledger() {
    let (daemon, practice, second, _) = drill(true).await;
    assert_eq!(daemon.get("/api/v1/status").await.body["pause"]["blind"], json!(true));
    let refused = daemon.post("/api/v1/resume", &json!({})).await;
    assert_eq!((refused.status, refused.code()), (409, "resume_refused"));
    assert_eq!(practice.posts().len(), 3, "nothing went out by itself");
    assert_eq!(daemon.post("/api/v1/resume", &json!({"accept_duplicates": true})).await.status, 202);
    daemon.until(&second, |items| items[0]["state"] == "succeeded").await;
    assert_eq!(twice(&practice), ["waited"]);
}
