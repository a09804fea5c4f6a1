//! The breaker around starts of browsers, from outside: with a browser that writes down every start and then does
//! what it is told to.

use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::task::JoinSet;

use super::rig::{Daemon, PATIENCE, PracticeSite, run};

const PROFILES: [&str; 8] = ["p1", "p2", "p3", "p4", "p5", "p6", "p7", "p8"];

/// The real browser unless the word in `mood` says something else. `mute`: there is a port, and what listens there
/// is no browser.
const SCRIPT: &str = r#"#!/bin/sh
here=$(dirname "$0")
date +%s%N >> "$here/starts"
case "$(cat "$here/mood")" in
dies)
    echo 'it is broken' >&2
    exit 3 ;;
mute)
    printf '%s\n/devtools/browser/x' "$(cat "$here/port")" > DevToolsActivePort
    exec sleep 2 ;;
esac
for name in chromium chromium-browser google-chrome google-chrome-stable; do
    real=$(command -v "$name") && exec "$real" "$@"
done
exit 127
"#;

struct Moody {
    folder: tempfile::TempDir,
    answers: JoinSet<()>,
}

impl Moody {
    fn new(mood: &str) -> Self {
        let moody = Self { folder: tempfile::tempdir().unwrap(), answers: JoinSet::new() };
        std::fs::write(moody.path(), SCRIPT).unwrap();
        std::fs::set_permissions(moody.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        moody.feels(mood);
        moody
    }

    fn path(&self) -> std::path::PathBuf {
        self.folder.path().join("browser")
    }

    fn feels(&self, mood: &str) {
        std::fs::write(self.folder.path().join("mood"), mood).unwrap();
    }

    /// What answers at the port of a mute browser.
    async fn answer_nonsense(&mut self) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        std::fs::write(self.folder.path().join("port"), port.to_string()).unwrap();
        self.answers.spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                // Whoever asked may be gone.
                let _gone = stream.write_all(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n").await;
            }
        });
    }

    fn starts(&self) -> u64 {
        self.starts_since(jiff::Timestamp::UNIX_EPOCH) as u64
    }

    fn starts_since(&self, since: jiff::Timestamp) -> usize {
        let log = std::fs::read_to_string(self.folder.path().join("starts")).unwrap_or_default();
        log.lines().filter(|at| at.parse::<i128>().unwrap() >= since.as_nanosecond()).count()
    }
}

async fn daemon(moody: &Moody, settings: &str) -> Daemon {
    staggered(moody, settings, "500").await
}

/// With so many milliseconds from one start of a browser to the next.
async fn staggered(moody: &Moody, settings: &str, gap: &'static str) -> Daemon {
    let chromium: &'static str = moody.path().display().to_string().leak();
    let environment = [("COVE_BROWSER__CHROMIUM", chromium), ("COVE_BROWSER__START_STAGGER_MS", gap)];
    let daemon = Daemon::start_as(settings, &environment).await;
    daemon.furnish(&PROFILES).await;
    daemon
}

async fn attach_breaker(daemon: &Daemon) -> Value {
    let status = daemon.get("/api/v1/status").await.body;
    let breakers = status["breakers"].as_array().unwrap();
    breakers.iter().find(|breaker| breaker["name"] == "cdp_attach").cloned().unwrap_or_default()
}

async fn metrics(daemon: &Daemon) -> (Value, String) {
    let json = daemon.get("/api/v1/metrics").await.body;
    let text = daemon.client.get(format!("{}/metrics", daemon.base)).send().await.unwrap().text().await.unwrap();
    (json, text)
}

fn attempts(items: &[Value]) -> u64 {
    items.iter().map(|item| item["attempts"].as_u64().unwrap()).sum()
}

fn wait_for_the_breaker(items: &[Value]) -> bool {
    items.iter().all(|item| item["wait_reason"] == "breaker_open_until")
}

fn said(args: &[&str], daemon: &Daemon) -> String {
    String::from_utf8(run(args, daemon.folder.path()).stdout).unwrap()
}

/// A time as people are shown it.
fn for_people(time: &Value) -> String {
    let time = time.as_str().unwrap().split_once('.').unwrap().0;
    format!("{}Z", time.replace('T', " "))
}

#[tokio::test(flavor = "multi_thread")]
async fn it_opens_at_the_fifth_failure_and_no_browser_is_started_while_it_is_open() {
    let moody = Moody::new("dies");
    let daemon = daemon(&moody, "slots = 1\nmax_attempts = 9\n[breakers]\nopen_seconds = 3600").await;
    let practice = PracticeSite::start(json!({})).await;
    let task = daemon.submit(&practice.site, &PROFILES.map(|profile| (profile, "x"))).await;
    let items = daemon.until(&task, wait_for_the_breaker).await;
    assert_eq!((moody.starts(), attempts(&items)), (5, 5), "{items:#?}");

    let breaker = attach_breaker(&daemon).await;
    assert_eq!((&breaker["state"], &breaker["failures_in_a_row"]), (&json!("open"), &json!(5)), "{breaker}");
    let until = &breaker["open_until"];
    assert!(items.iter().all(|item| item["wait_until"] == *until), "{items:#?}");
    let error = breaker["last_error"].as_str().unwrap();
    assert!(error.starts_with("browser_start_failed") && error.contains("it is broken"), "{breaker}");
    let moves = breaker["transitions"].as_array().unwrap();
    assert_eq!(moves.len(), 1, "{breaker}");
    assert_eq!((&moves[0]["from"], &moves[0]["to"]), (&json!("closed"), &json!("open")));
    assert_eq!((&moves[0]["at"], &breaker["opened_total"]), (&breaker["since"], &json!(1)));

    // More work, a pause and a resume: the loop turns, and starts nothing.
    let more = daemon.submit(&practice.site, &[("p1", "later"), ("p2", "later")]).await;
    daemon.until(&more, wait_for_the_breaker).await;
    for verb in ["pause", "resume"] {
        assert_eq!(daemon.request("POST", &format!("/api/v1/{verb}"), None).await.status, 202);
        daemon.until(&more, |items| wait_for_the_breaker(items) == (verb == "resume")).await;
    }
    assert_eq!((moody.starts(), attempts(&daemon.items(&task).await)), (5, 5), "started while it was open");

    shown_everywhere(&daemon, &task, until, error).await;
}

async fn shown_everywhere(daemon: &Daemon, task: &str, until: &Value, error: &str) {
    let health = daemon.get("/api/v1/health").await;
    assert_eq!((health.status, &health.body["status"]), (200, &json!("degraded")), "{}", health.body);
    let status = daemon.get("/api/v1/status").await.body;
    assert_eq!(status["provider"]["status"], "down");
    let reasons = [
        &health.body["parts"]["breakers"]["reason"],
        &health.body["parts"]["provider"]["reason"],
        &status["provider"]["reason"],
    ];
    for reason in reasons {
        let told = format!("cdp_attach is open until {}: {error}", until.as_str().unwrap());
        assert_eq!(*reason, json!(told));
    }
    let waits = &status["queue"]["wait_reasons"]["breaker_open_until"];
    assert_eq!(*waits, json!({"items": 10, "until": until}));

    let (metrics, text) = metrics(daemon).await;
    let gauges = &metrics["gauges"];
    assert_eq!(gauges["breaker_state{name=\"cdp_attach\"}"], 2.0, "{gauges}");
    assert_eq!((&gauges["breaker_state{name=\"dolphin\"}"], &gauges["provider_down"]), (&json!(0.0), &json!(1.0)));
    assert_eq!(gauges["items_waiting{wait_reason=\"breaker_open_until\"}"], 10.0);
    let opened = "breaker_transitions_total{name=\"cdp_attach\",to=\"open\"}";
    assert_eq!(metrics["counters"][opened], 1.0, "{}", metrics["counters"]);
    for line in [format!("cove_{opened} 1"), "cove_breaker_state{name=\"cdp_attach\"} 2".to_owned()] {
        assert!(text.lines().any(|found| found == line), "{line}\n{text}");
    }

    let until = for_people(until);
    for args in [&["tasks", "show", task][..], &["items", "list"]] {
        let shown = said(args, daemon);
        assert!(shown.contains(&format!("breaker_open_until {until}")), "{args:?}: {shown}");
    }
    let shown = said(&["status"], daemon);
    for line in [
        format!("waiting    breaker_open_until 10, the first until {until}"),
        format!("breaker    cdp_attach open until {until}, 5 failures in a row: {error}"),
        "provider   chromium down cdp_attach is open until ".to_owned(),
    ] {
        assert!(shown.contains(&line), "{line}\n{shown}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn half_open_one_browser_is_tried_at_a_time_and_it_closes_when_they_answer() {
    let mut moody = Moody::new("mute");
    moody.answer_nonsense().await;
    let settings = "slots = 5\nmax_attempts = 20\n[breakers]\nopen_seconds = 2\nhalf_open_calls = 2";
    let daemon = daemon(&moody, settings).await;
    let practice = PracticeSite::start(json!({})).await;
    let task = daemon.submit(&practice.site, &PROFILES.map(|profile| (profile, "x"))).await;
    let began = Instant::now();
    let (breaker, starts) = loop {
        let (breaker, starts) = (attach_breaker(&daemon).await, moody.starts());
        // Seen at one time: it is still as it was before its starts were counted.
        let opened = breaker["state"] == "open" && breaker["opened_total"].as_u64().is_some_and(|times| times >= 3);
        if opened && attach_breaker(&daemon).await == breaker {
            break (breaker, starts);
        }
        assert!(began.elapsed() < PATIENCE, "{breaker}\n{}", daemon.logged());
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert!(starts >= 5, "{breaker}");
    // Each time that it was half open, one was started, and that one opened it again. What was on its way when
    // it opened first is older.
    let half_open: Vec<_> =
        breaker["transitions"].as_array().unwrap().iter().filter(|to| to["to"] == "half_open").collect();
    let since = half_open[0]["at"].as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
    assert_eq!(moody.starts_since(since), half_open.len(), "{breaker}\n{}", daemon.logged());
    assert!(breaker["last_error"].as_str().unwrap().starts_with("attach_failed"), "{breaker}");
    let items = daemon.items(&task).await;
    assert!(attempts(&items) <= starts, "{items:#?}");

    moody.feels("well");
    let items = daemon.settled(&task).await;
    assert!(items.iter().all(|item| item["state"] == "succeeded"), "{items:#?}\n{}", daemon.logged());
    assert_eq!(practice.posts().len(), PROFILES.len());
    let (spent, starts) = (attempts(&items), moody.starts());
    assert!(starts > spent, "{starts} starts");
    assert_eq!(spent, PROFILES.len() as u64, "those that could not be attached to are not counted: {items:#?}");
    let breaker = attach_breaker(&daemon).await;
    assert_eq!((&breaker["state"], &breaker["failures_in_a_row"]), (&json!("closed"), &json!(0)), "{breaker}");
    let moves = breaker["transitions"].as_array().unwrap();
    assert!(moves.len() == 5 && moves[3]["to"] == "half_open" && moves[4]["to"] == "closed", "{breaker}");
    assert_eq!(breaker["since"], moves[4]["at"]);
    assert_eq!(daemon.get("/api/v1/health").await.body["status"], "healthy");
    let (metrics, _) = metrics(&daemon).await;
    assert_eq!(metrics["counters"]["breaker_transitions_total{name=\"cdp_attach\",to=\"closed\"}"], 1.0);
    assert_eq!(metrics["gauges"]["breaker_state{name=\"cdp_attach\"}"], 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_waits_for_its_turn_while_the_breaker_opens_does_not_begin() {
    let moody = Moody::new("dies");
    let settings = "slots = 4\nmax_attempts = 9\n[breakers]\nfailures = 1\nopen_seconds = 3600";
    let daemon = staggered(&moody, settings, "3000").await;
    let practice = PracticeSite::start(json!({})).await;
    let task = daemon.submit(&practice.site, &PROFILES.map(|profile| (profile, "x"))).await;
    let items = daemon.until(&task, wait_for_the_breaker).await;
    assert_eq!((moody.starts(), attempts(&items)), (1, 1), "{items:#?}\n{}", daemon.logged());
}

/// With failures that do not come in a row it stays closed: the browser of one profile is not that of all.
#[tokio::test(flavor = "multi_thread")]
async fn a_success_between_failures_keeps_it_closed() {
    let moody = Moody::new("dies");
    let daemon = daemon(&moody, "slots = 1\nmax_attempts = 4\n[breakers]\nopen_seconds = 3600").await;
    let practice = PracticeSite::start(json!({})).await;
    for round in ["one", "two"] {
        moody.feels("dies");
        let fails = daemon.submit(&practice.site, &[("p1", round)]).await;
        let items = daemon.settled(&fails).await;
        assert_eq!((&items[0]["state"], &items[0]["attempts"]), (&json!("failed"), &json!(4)), "{items:#?}");
        assert_eq!(attach_breaker(&daemon).await["failures_in_a_row"], 4);
        moody.feels("well");
        let works = daemon.submit(&practice.site, &[("p2", round)]).await;
        assert_eq!(daemon.settled(&works).await[0]["state"], "succeeded");
    }
    let breaker = attach_breaker(&daemon).await;
    assert_eq!((&breaker["state"], &breaker["opened_total"]), (&json!("closed"), &json!(0)), "{breaker}");
    assert_eq!((breaker["transitions"].as_array().unwrap().len(), &breaker["failures_in_a_row"]), (0, &json!(0)));
}
