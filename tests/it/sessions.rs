//! Lent sessions as a program sees them: from the request for a profile to the moment when its browser is dead
//! and its lock is free, whatever ended it (fence.md rules 16, 20 to 23).

use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::rig::{Answer, Daemon, PATIENCE, cove, processes_with, run, signal};
use super::studio::studio;
use super::websocket::{self, Socket};

/// The constant of `engine::session`.
const VANISHED: Duration = cove::engine::VANISHED_AFTER;
/// A worker that waits costs some twenty to ninety, a loop without a pause more than ten thousand.
const SLEEPS_A_SECOND: u64 = 1_000;

impl Daemon {
    async fn ask_session(&self, profile: &str, ttl_seconds: u32) -> Answer {
        let body = json!({"profile": profile, "owner": "script", "ttl_seconds": ttl_seconds});
        self.post("/api/v1/sessions", &body).await
    }

    async fn lend(&self, profile: &str, ttl_seconds: u32) -> Value {
        let answer = self.ask_session(profile, ttl_seconds).await;
        assert_eq!(answer.status, 201, "{}", answer.body);
        answer.body
    }

    async fn locks(&self) -> Vec<Value> {
        self.get("/api/v1/locks").await.body["locks"].as_array().unwrap().clone()
    }

    /// Every process of a browser, and not the browser host.
    fn lent_browsers(&self) -> Vec<u32> {
        processes_with(&format!("{}/", self.state().join("profiles").display()))
    }

    /// Waits until no lock is held; then no browser runs.
    async fn all_ended(&self) {
        let began = Instant::now();
        while !self.locks().await.is_empty() {
            assert!(began.elapsed() < PATIENCE, "{}", self.logged());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(self.lent_browsers(), [0; 0], "the lock is free and a browser runs");
    }
}

fn path(session: &Value) -> String {
    format!("/api/v1/sessions/{}", session["session_id"].as_str().unwrap())
}

fn endpoint(session: &Value) -> &str {
    session["ws_endpoint"].as_str().unwrap()
}

async fn connect(session: &Value) -> Socket {
    websocket::connect(endpoint(session)).await.unwrap_or_else(|answer| panic!("{} {}", answer.status, answer.body))
}

/// The status and the code that a connection is refused with.
async fn refused(url: &str) -> (u16, String) {
    match websocket::connect(url).await {
        Ok(_) => (101, String::new()),
        Err(answer) => (answer.status, answer.body["code"].as_str().unwrap_or_default().to_owned()),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_is_lent_listed_refreshed_and_deleted() {
    let daemon = Daemon::start().await;
    daemon.furnish(&["anna"]).await;
    let session = daemon.lend("anna", 600).await;
    assert_eq!(
        (&session["state"], &session["profile"], &session["owner"]),
        (&json!("starting"), &json!("anna"), &json!("script"))
    );
    let lock = &session["lock"];
    assert_eq!(
        (&lock["kind"], &lock["key"], &lock["owner"]),
        (&json!("profile"), &json!("anna"), &json!("session script"))
    );
    assert_eq!((&lock["fence"], &lock["expires_at"]), (&daemon.locks().await[0]["fence"], &session["expires_at"]));

    // The upgrade waits for the browser.
    let mut socket = connect(&session).await;
    let version = socket.call("Browser.getVersion", &json!({})).await;
    assert!(version["product"].as_str().unwrap().contains("Chrome"), "{version}");
    let shown = daemon.get(&path(&session)).await;
    assert_eq!((&shown.body["state"], &shown.body["connections"]), (&json!("ready"), &json!(1)), "{}", shown.body);
    let listed = daemon.get("/api/v1/sessions").await.body;
    assert_eq!(listed, json!({"sessions": [shown.body], "next_cursor": null}));
    let secret = endpoint(&session).rsplit('/').next().unwrap();
    assert!(secret.len() >= 32 && !listed.to_string().contains(secret), "its address is told once");
    let profile = daemon.get("/api/v1/profiles/anna").await.body;
    assert_eq!((&profile["state"], &profile["held_by"]), (&json!("running"), &json!("session script")), "{profile}");

    let busy = daemon.ask_session("anna", 600).await;
    assert_eq!((busy.status, busy.code(), &busy.body["held_by"]), (409, "profile_busy", &json!("session script")));
    assert_eq!(busy.body["expires_at"], session["expires_at"]);
    assert_eq!(daemon.post("/api/v1/profiles/anna/open", &json!({})).await.code(), "profile_busy");

    let refreshed = daemon.post(&format!("{}/refresh", path(&session)), &json!({"ttl_seconds": 3_600})).await;
    assert_eq!(refreshed.status, 200, "{}", refreshed.body);
    assert!(refreshed.body["expires_at"].as_str() > session["expires_at"].as_str(), "{}", refreshed.body);
    assert_eq!(daemon.locks().await[0]["expires_at"], refreshed.body["expires_at"], "the lease is the lock's");

    assert_eq!(daemon.request("DELETE", &path(&session), None).await.status, 204);
    assert!(socket.ended().await, "the connection is cut");
    daemon.all_ended().await;
    assert_eq!(daemon.request("DELETE", &path(&session), None).await.status, 204, "twice is once");
    assert_eq!(refused(endpoint(&session)).await, (409, "session_ended".to_owned()));
    for (method, path) in [("GET", path(&session)), ("POST", format!("{}/refresh", path(&session)))] {
        let answer = daemon.request(method, &path, None).await;
        assert_eq!((answer.status, answer.code()), (404, "not_found"), "{}", answer.body);
    }
    assert!(!daemon.logged().contains(secret), "a token is in the log");
    // Its profile is anybody's again.
    daemon.lend("anna", 600).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_right_token_of_the_right_session_leads_in() {
    let daemon = Daemon::start().await;
    daemon.furnish(&["anna", "boris"]).await;
    let (session, other) = (daemon.lend("anna", 600).await, daemon.lend("boris", 600).await);
    connect(&session).await;
    let (base, secret) = endpoint(&session).rsplit_once('/').unwrap();
    let foreign = endpoint(&other).rsplit_once('/').unwrap().1;
    let wrong = [&secret[1..], &secret.to_uppercase(), foreign, "x", &"0".repeat(32), &format!("{secret}0")];
    for token in wrong.into_iter().filter(|token| *token != secret) {
        assert_eq!(refused(&format!("{base}/{token}")).await, (404, "not_found".to_owned()), "{token}");
    }
    let unknown = endpoint(&session).replace(session["session_id"].as_str().unwrap(), "s1");
    assert_eq!(refused(&unknown).await.0, 404);
    // A page of another site has a browser's cookies and no business here.
    let stolen = websocket::connect_as(endpoint(&session), "Origin: http://evil.com\r\n").await;
    assert_eq!(stolen.err().unwrap().status, 403);
    let plain = daemon.get(&format!("{}/cdp/{secret}", path(&session))).await;
    assert_eq!((plain.status, plain.code()), (426, "upgrade_required"));
    assert_eq!(plain.headers["upgrade"], "websocket");
    for end in ["", "/"] {
        let version = daemon.get(&format!("{}/cdp/{secret}/json/version{end}", path(&session))).await;
        assert_eq!((version.status, &version.body["webSocketDebuggerUrl"]), (200, &session["ws_endpoint"]));
        let version = daemon.get(&format!("{}/cdp/x/json/version{end}", path(&session))).await;
        assert_eq!(version.status, 404);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_requests_are_told_by_pointer_and_lend_nothing() {
    let daemon = Daemon::start_with("sessions = 1").await;
    daemon.furnish(&["anna", "boris"]).await;
    for (body, pointer) in [
        (json!({}), "/profile"),
        (json!({"profile": "nobody"}), "/profile"),
        (json!({"profile": "anna", "ttl_seconds": 4}), "/ttl_seconds"),
        (json!({"profile": "anna", "ttl_seconds": 604_801}), "/ttl_seconds"),
        (json!({"profile": "anna", "owner": ""}), "/owner"),
        (json!({"profile": "anna", "headless": 1}), "/headless"),
        (json!({"profile": "anna", "nonsense": 1}), "/nonsense"),
    ] {
        let answer = daemon.post("/api/v1/sessions", &body).await;
        assert_eq!((answer.status, answer.pointers()), (422, vec![pointer]), "{body}: {}", answer.body);
    }
    assert_eq!(daemon.get("/api/v1/sessions?limit=1").await.status, 422);
    for id in ["s1", "x", "s01"] {
        for (method, end) in [("GET", ""), ("DELETE", ""), ("POST", "/refresh")] {
            let answer = daemon.request(method, &format!("/api/v1/sessions/{id}{end}"), None).await;
            assert_eq!(answer.status, 404, "{method} {id}{end}");
        }
    }
    assert!(daemon.locks().await.is_empty());
    let session = daemon.lend("anna", 600).await;
    let refresh = format!("{}/refresh", path(&session));
    assert_eq!(daemon.post(&refresh, &json!({"ttl_seconds": 0})).await.pointers(), ["/ttl_seconds"]);
    assert_eq!(daemon.post(&refresh, &json!({"ttl": 9})).await.pointers(), ["/ttl"]);
    let full = daemon.ask_session("boris", 600).await;
    assert_eq!((full.status, full.code()), (503, "sessions_full"), "{}", full.body);
    assert!(full.headers.contains_key("retry-after"));
    assert_eq!(daemon.locks().await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn rule_21_when_its_time_is_over_the_browser_is_stopped_and_then_the_lock_is_freed() {
    let daemon = Daemon::start().await;
    daemon.furnish(&["anna"]).await;
    let session = daemon.lend("anna", 5).await;
    let mut socket = connect(&session).await;
    assert!(!daemon.lent_browsers().is_empty());
    // A refresh moves the end.
    let refreshed = daemon.request("POST", &format!("{}/refresh", path(&session)), None).await;
    assert!(refreshed.body["expires_at"].as_str() > session["expires_at"].as_str(), "{}", refreshed.body);
    let began = Instant::now();
    assert!(socket.ended().await);
    assert!((Duration::from_secs(4)..Duration::from_secs(15)).contains(&began.elapsed()), "{:?}", began.elapsed());
    daemon.all_ended().await;
    assert_eq!(refused(endpoint(&session)).await.0, 409);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_goes_away_gives_its_profile_back_and_one_that_never_came_has_its_time() {
    let daemon = Daemon::start().await;
    daemon.furnish(&["anna", "boris"]).await;
    let (gone, waits) = (daemon.lend("anna", 600).await, daemon.lend("boris", 600).await);
    let socket = connect(&gone).await;
    let began = Instant::now();
    drop(socket);
    while daemon.locks().await.len() == 2 {
        assert!(began.elapsed() < VANISHED + PATIENCE, "{}", daemon.logged());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(began.elapsed() >= VANISHED, "{:?}", began.elapsed());
    assert_eq!(daemon.locks().await[0]["key"], "boris");
    assert_eq!(daemon.get(&path(&waits)).await.body["state"], "ready");
    assert_eq!(refused(endpoint(&gone)).await, (409, "session_ended".to_owned()));
    connect(&waits).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_that_ends_by_itself_or_never_comes_up_ends_its_session() {
    let daemon = Daemon::start().await;
    daemon.furnish(&["anna"]).await;
    let session = daemon.lend("anna", 600).await;
    let mut socket = connect(&session).await;
    socket.send("Browser.close", &json!({})).await;
    assert!(socket.ended().await);
    daemon.all_ended().await;
    let told = daemon.get(&path(&session)).await;
    assert!(told.body["detail"].as_str().unwrap().contains("its browser ended"), "{}", told.body);

    let daemon = Daemon::start_as("", &[("COVE_BROWSER__CHROMIUM", "/nonexistent/chromium")]).await;
    daemon.furnish(&["anna"]).await;
    let session = daemon.lend("anna", 600).await;
    let answer = websocket::connect(endpoint(&session)).await.err().unwrap();
    assert_eq!((answer.status, &answer.body["code"]), (409, &json!("session_ended")));
    let why = answer.body["detail"].as_str().unwrap();
    assert!(why.contains("browser_not_found"), "the upgrade fails with the reason: {why}");
    daemon.all_ended().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rule_21_a_forced_cleanup_is_an_intent_to_stop() {
    let daemon = Daemon::start().await;
    daemon.furnish(&["anna"]).await;
    let session = daemon.lend("anna", 600).await;
    let mut socket = connect(&session).await;
    let asked = json!({"owner": "session script", "force": true});
    let forced = daemon.post("/api/v1/locks/cleanup", &asked).await.body;
    assert_eq!((&forced["removed"], &forced["stopping"][0]["key"]), (&json!(0), &json!("anna")), "{forced}");
    assert!(socket.ended().await);
    daemon.all_ended().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rule_16_after_a_kill_the_browser_is_stopped_and_the_lock_is_freed() {
    let mut daemon = Daemon::start().await;
    daemon.furnish(&["anna"]).await;
    let session = daemon.lend("anna", 600).await;
    connect(&session).await;
    daemon.kill();
    daemon.boot().await;
    daemon.all_ended().await;
    // Its address led to a daemon that is gone.
    let old = endpoint(&session).split("/api/").nth(1).unwrap();
    assert_eq!(refused(&format!("ws://{}/api/{old}", &daemon.base[7..])).await.0, 404);
    let again = daemon.lend("anna", 600).await;
    assert_ne!(again["session_id"], session["session_id"]);
    connect(&again).await;
    // A stop ends it in order.
    assert_eq!(daemon.stop(), Some(0), "{}", daemon.logged());
    assert!(daemon.lent_browsers().is_empty());
    daemon.boot().await;
    assert!(daemon.locks().await.is_empty(), "a stop that had time left a lock behind");
}

/// A browser host that is a service of its own outlives the daemon, and so does what it started.
#[tokio::test(flavor = "multi_thread")]
async fn rule_21_a_browser_that_survived_is_stopped_and_its_lock_is_kept_while_the_provider_is_down() {
    let elsewhere = tempfile::tempdir().unwrap();
    let socket = elsewhere.path().join("host.sock");
    let browsers = || processes_with(&format!("{}/", elsewhere.path().join("profiles").display()));
    let start_host = || {
        let mut host = cove();
        host.args(["browser-host", "--sandbox", "false", "--socket"]).arg(&socket).arg("--profiles-dir");
        host.arg(elsewhere.path().join("profiles")).stderr(Stdio::null()).spawn().unwrap()
    };
    let mut host = start_host();
    let setting = socket.display().to_string().leak();
    let mut daemon = Daemon::start_as("", &[("COVE_BROWSER__HOST_SOCKET", setting)]).await;
    daemon.furnish(&["anna"]).await;
    let session = daemon.lend("anna", 600).await;
    connect(&session).await;
    daemon.kill();
    assert!(!browsers().is_empty(), "it survives");
    host.kill().unwrap();
    host.wait().unwrap();
    daemon.boot().await;
    let stopping = daemon.get(&path(&session)).await.body;
    assert_eq!(stopping["state"], "stopping", "{stopping}");
    let refused = daemon.request("POST", &format!("{}/refresh", path(&session)), None).await;
    assert_eq!((refused.status, refused.code()), (409, "not_held"));
    let busy = daemon.ask_session("anna", 60).await;
    assert_eq!((busy.status, busy.code()), (409, "profile_busy"), "nobody has seen its browser end");
    let mut host = start_host();
    let began = Instant::now();
    while !daemon.locks().await.is_empty() {
        assert!(began.elapsed() < PATIENCE, "{}", daemon.logged());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(browsers(), [0; 0]);
    // With the host there all the time, it is the daemon that stops what it lent.
    let session = daemon.lend("anna", 600).await;
    connect(&session).await;
    daemon.kill();
    assert!(!browsers().is_empty());
    daemon.boot().await;
    let began = Instant::now();
    while !daemon.locks().await.is_empty() {
        assert!(began.elapsed() < PATIENCE, "{}", daemon.logged());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(browsers(), [0; 0]);
    assert_eq!(daemon.stop(), Some(0), "{}", daemon.logged());
    signal(host.id(), rustix::process::Signal::TERM);
    assert!(host.wait().unwrap().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_item_whose_profile_is_lent_says_so_and_runs_when_it_is_given_back() {
    let daemon = studio("", &["anna"]).await;
    let session = daemon.lend("anna", 600).await;
    let task = daemon.order(&["anna"], &json!({})).await;
    let item = daemon.items(&task).await.remove(0);
    assert_eq!((&item["wait_reason"], &item["wait_until"]), (&json!("profile_busy"), &session["expires_at"]), "{item}");
    assert!(daemon.try_claim("w1").await.is_none());
    let folder = daemon.folder.path();
    let listed = run(&["sessions", "list", "--json"], folder);
    let listed: Value = serde_json::from_slice(&listed.stdout).unwrap();
    assert_eq!(listed["sessions"][0]["session_id"], session["session_id"]);
    let table = run(&["sessions", "list"], folder);
    assert!(String::from_utf8_lossy(&table.stdout).contains("script"), "{table:?}");
    let closed = run(&["sessions", "close", session["session_id"].as_str().unwrap()], folder);
    assert!(closed.status.success(), "{closed:?}");
    assert_eq!(daemon.claim("w1").await.item(), item["id"]);
    assert!(!run(&["sessions", "close", "s1"], folder).status.success());
}

/// Claims with a browser.
mod claims {
    use super::*;

    async fn ask(daemon: &Daemon, ttl_seconds: u32) -> Answer {
        let body = json!({"kinds": ["studio"], "owner": "w1", "ttl_seconds": ttl_seconds, "session": true});
        daemon.post("/api/v1/claims", &body).await
    }

    async fn claim(daemon: &Daemon, ttl_seconds: u32) -> Value {
        let answer = ask(daemon, ttl_seconds).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        answer.body
    }

    async fn say(daemon: &Daemon, claim: &Value, verb: &str, mut body: Value) -> Answer {
        body["fence"] = claim["fence"].clone();
        daemon.post(&format!("/api/v1/claims/{}/{verb}", claim["claim_id"].as_str().unwrap()), &body).await
    }

    async fn arm(daemon: &Daemon, claim: &Value) -> Answer {
        let media = claim["item"]["files"]["video"]["sha256"].clone();
        say(daemon, claim, "arm", json!({"media_sha256": media})).await
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_claim_comes_with_a_session_that_dies_with_it() {
        let daemon = studio("", &["anna"]).await;
        assert_eq!(ask(&daemon, 60).await.status, 204, "no work, no browser");
        daemon.order(&["anna", "anna"], &json!({})).await;
        for end in ["complete", "fail"] {
            let claim = claim(&daemon, 60).await;
            let session = &claim["session"];
            let mut socket = connect(session).await;
            socket.call("Browser.getVersion", &json!({})).await;
            let shown = daemon.get(&path(session)).await.body;
            assert_eq!((&shown["claim_id"], &shown["owner"]), (&claim["claim_id"], &json!("w1")), "{shown}");
            assert_eq!((&shown["lock"]["fence"], &shown["lock"]["owner"]), (&claim["fence"], &json!("worker w1")));
            let refused = daemon.post(&format!("{}/refresh", path(session)), &json!({})).await;
            assert_eq!((refused.status, refused.code()), (409, "not_held"), "it is refreshed with its claim");
            let refreshed = say(&daemon, &claim, "refresh", json!({"ttl_seconds": 600})).await.body;
            assert_eq!(daemon.get(&path(session)).await.body["expires_at"], refreshed["expires_at"]);
            assert_eq!(arm(&daemon, &claim).await.status, 200);
            let ended = say(&daemon, &claim, end, json!({})).await;
            let state = if end == "complete" { "succeeded" } else { "outcome_unknown" };
            assert_eq!((ended.status, &ended.body["state"]), (200, &json!(state)), "{}", ended.body);
            assert!(socket.ended().await);
            daemon.all_ended().await;
            assert_eq!(super::refused(endpoint(session)).await.0, 409);
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn rule_23_after_its_lease_an_unarmed_item_is_queued_when_the_browser_is_dead_and_an_armed_one_is_unknown() {
        let daemon = studio("", &["anna", "boris"]).await;
        daemon.order(&["anna", "boris"], &json!({"max_attempts": 3})).await;
        let claims = [claim(&daemon, 8).await, claim(&daemon, 8).await];
        let mut sockets = [connect(&claims[0]["session"]).await, connect(&claims[1]["session"]).await];
        assert_eq!(arm(&daemon, &claims[0]).await.status, 200);
        let began = Instant::now();
        for socket in &mut sockets {
            assert!(socket.ended().await, "nobody clicks in it any more");
        }
        let id = |claim: &Value| claim["item"]["id"].as_str().unwrap().to_owned();
        let queued = |item: &Value| ["queued", "retry_wait"].contains(&item["state"].as_str().unwrap());
        let back = daemon.item_until(&id(&claims[1]), queued).await;
        assert!(began.elapsed() < Duration::from_secs(30), "without the minute: {:?}", began.elapsed());
        assert_eq!((&back["error"]["code"], &back["attempts"]), (&json!("worker_lost"), &json!(1)), "{back}");
        let profile = claims[1]["item"]["profile"].as_str().unwrap();
        assert!(daemon.locks().await.iter().all(|lock| lock["key"] != *profile), "queued and locked");
        daemon.item_until(&id(&claims[0]), |item| item["state"] == "outcome_unknown").await;
        daemon.all_ended().await;
        let late = say(&daemon, &claims[0], "complete", json!({"url": "http://x/p/1"})).await;
        assert_eq!((late.status, &late.body["state"]), (200, &json!("succeeded")), "{}", late.body);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn rule_23_a_claim_outlives_its_browser_and_its_daemon() {
        let mut daemon = studio("sessions = 1", &["anna", "boris"]).await;
        daemon.order(&["anna", "boris"], &json!({})).await;
        let first = claim(&daemon, 300).await;
        let full = ask(&daemon, 300).await;
        assert_eq!((full.status, full.code()), (503, "sessions_full"), "there is work, and no browser for it");
        connect(&first["session"]).await;
        daemon.kill();
        daemon.boot().await;
        let began = Instant::now();
        // The browser is stopped, and the claim goes on without it.
        while daemon.get("/api/v1/sessions").await.body["sessions"] != json!([]) {
            assert!(began.elapsed() < PATIENCE, "{}", daemon.logged());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert!(daemon.lent_browsers().is_empty());
        assert_eq!(daemon.item(first["item"]["id"].as_str().unwrap()).await["state"], "running");
        assert_eq!(say(&daemon, &first, "refresh", json!({})).await.status, 200);
        let failed = say(&daemon, &first, "fail", json!({"message": "the browser went away"})).await;
        assert_eq!((failed.status, &failed.body["state"]), (200, &json!("retry_wait")), "{}", failed.body);
        let second = claim(&daemon, 300).await;
        connect(&second["session"]).await;
        // What an operator insists on ends a worker's lease, and its browser with it.
        let forced = daemon.post("/api/v1/locks/cleanup", &json!({"owner": "worker w1", "force": true})).await.body;
        assert_eq!(forced["stopping"][0]["key"], second["item"]["profile"], "{forced}");
        daemon.all_ended().await;
        assert_eq!(daemon.item(second["item"]["id"].as_str().unwrap()).await["error"]["code"], "worker_lost");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn rule_8_neither_a_delete_nor_a_stop_cuts_the_browser_of_an_armed_item() {
        let mut daemon = studio("", &["anna", "boris"]).await;
        daemon.order(&["anna", "boris"], &json!({})).await;
        let claims = [claim(&daemon, 300).await, claim(&daemon, 300).await];
        let [session, other] = [&claims[0]["session"], &claims[1]["session"]];
        let (mut socket, mut unarmed) = (connect(session).await, connect(other).await);
        assert_eq!(arm(&daemon, &claims[0]).await.status, 200);
        let refused = daemon.request("DELETE", &path(session), None).await;
        assert_eq!((refused.status, refused.code()), (409, "already_armed"), "{}", refused.body);
        // The other side: what is not armed ends at once.
        assert_eq!(daemon.request("DELETE", &path(other), None).await.status, 204);
        assert!(unarmed.ended().await);
        signal(daemon.pid(), rustix::process::Signal::TERM);
        let began = Instant::now();
        while daemon.get("/api/v1/status").await.body["state"] != "draining" {
            assert!(began.elapsed() < PATIENCE, "{}", daemon.logged());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        for _ in 0..20 {
            socket.call("Browser.getVersion", &json!({})).await;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let done = say(&daemon, &claims[0], "complete", json!({"url": "http://x/p/1"})).await;
        assert_eq!((done.status, &done.body["state"]), (200, &json!("succeeded")), "{}", done.body);
        assert!(socket.ended().await);
        assert_eq!(daemon.ended().await, Some(0), "{}", daemon.logged());
        assert!(daemon.lent_browsers().is_empty());
    }

    /// How often the daemon's threads have gone to sleep: unlike the time that they take, it does not grow with
    /// what else the machine does.
    fn sleeps(daemon: &Daemon) -> u64 {
        let threads = std::fs::read_dir(format!("/proc/{}/task", daemon.pid())).unwrap();
        let of_thread = |thread: std::fs::DirEntry| {
            // A thread of the pool may end meanwhile.
            let status = std::fs::read_to_string(thread.path().join("status")).ok()?;
            let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))?;
            line.trim().parse::<u64>().ok()
        };
        threads.filter_map(|thread| of_thread(thread.ok()?)).sum()
    }

    /// Asks for a claim with a browser that cannot be had, and waits: what the answer is, and what it cost.
    async fn wait_in_vain(daemon: &Daemon, wait_seconds: u64) -> (u16, String) {
        let body = json!({"kinds": ["studio"], "owner": "w2", "wait_seconds": wait_seconds, "session": true});
        let before = sleeps(daemon);
        let answer = daemon.post("/api/v1/claims", &body).await;
        let slept = sleeps(daemon).saturating_sub(before);
        assert!(slept <= SLEEPS_A_SECOND * wait_seconds, "{slept} wake-ups in {wait_seconds} seconds");
        (answer.status, answer.body["code"].as_str().unwrap_or_default().to_owned())
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_worker_that_waits_for_a_browser_keeps_nobody_busy() {
        let daemon = studio("sessions = 1", &["anna", "boris"]).await;
        let session = daemon.lend("anna", 600).await;
        connect(&session).await;
        daemon.order(&["boris"], &json!({})).await;
        assert_eq!(wait_in_vain(&daemon, 2).await, (503, "sessions_full".to_owned()));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn while_no_browser_can_be_started_a_claim_with_one_costs_no_attempt() {
        let daemon = Daemon::start_as("", &[("COVE_BROWSER__CHROMIUM", "/nonexistent/chromium")]).await;
        daemon.furnish(&["anna"]).await;
        daemon.put_flow("studio", &super::super::studio::recording()).await;
        let task = daemon.order(&["anna"], &json!({"max_attempts": 1})).await;
        let id = daemon.items(&task).await[0]["id"].as_str().unwrap().to_owned();
        // Nobody knows of it yet, and now and then one claim finds out whether it is still so.
        let (mut claims, mut refusals) = (0, 0);
        let began = Instant::now();
        while claims < 2 || refusals < 2 {
            assert!(began.elapsed() < PATIENCE, "{claims} {refusals} {}", daemon.logged());
            match wait_in_vain(&daemon, 1).await {
                (200, _) => claims += 1,
                (503, code) if code == "provider_down" => refusals += 1,
                // Its profile is not free yet.
                (status, code) => assert_eq!((status, code.as_str()), (204, "")),
            }
            let back = daemon.item_until(&id, |item| item["state"] == "queued").await;
            assert_eq!(back["attempts"], 0, "{back}");
            daemon.all_ended().await;
        }
        let item = daemon.item(&id).await;
        assert_eq!((&item["attempts"], &item["error"]["code"]), (&json!(0), &json!("browser_not_found")), "{item}");
        let plain = daemon.try_claim("w3").await.unwrap();
        assert_eq!(plain.item(), id, "a worker with a browser of its own waits for nothing");
        daemon.say(&plain, "fail", json!({})).await;
    }
}
