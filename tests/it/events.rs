//! `GET /api/v1/events` from outside: order, resuming, filters, limits and ends of server-sent events.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::rig::{Daemon, PATIENCE, run};
use super::studio::studio;

/// One event as it came.
#[derive(Clone, Debug)]
struct Event {
    id: String,
    kind: String,
    data: Value,
}

/// An open stream.
struct Stream {
    response: reqwest::Response,
    text: String,
}

impl Stream {
    async fn open(daemon: &Daemon, query: &str, last: Option<&str>, token: Option<&str>) -> Self {
        let mut request = daemon.client.get(format!("{}/api/v1/events{query}", daemon.base));
        if let Some(last) = last {
            request = request.header("last-event-id", last);
        }
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        assert!(!response.headers().contains_key("content-encoding"), "each event goes out at once");
        let mut stream = Self { response, text: String::new() };
        assert_eq!(stream.block().await.as_deref(), Some("retry: 2000"));
        stream
    }

    async fn on(daemon: &Daemon) -> Self {
        Self::open(daemon, "", None, None).await
    }

    /// What stands before the next empty line; None: the stream has ended.
    async fn block(&mut self) -> Option<String> {
        loop {
            if let Some((block, rest)) = self.text.split_once("\n\n") {
                let (block, rest) = (block.to_owned(), rest.to_owned());
                self.text = rest;
                return Some(block);
            }
            let piece = tokio::time::timeout(PATIENCE, self.response.chunk()).await.unwrap().ok()??;
            self.text += std::str::from_utf8(&piece).unwrap();
        }
    }

    /// The next event; comments are passed over.
    async fn next(&mut self) -> Option<Event> {
        loop {
            let block = self.block().await?;
            if block.starts_with(':') {
                continue;
            }
            let line = |name: &str| {
                let found = block.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
                found.unwrap_or_else(|| panic!("no {name} in {block:?}")).to_owned()
            };
            return Some(Event { id: line("id"), kind: line("event"), data: line("data").parse().unwrap() });
        }
    }

    /// Events until one fits, that one included.
    async fn until(&mut self, fits: impl Fn(&Event) -> bool) -> Vec<Event> {
        let mut seen = Vec::new();
        loop {
            seen.push(self.next().await.unwrap_or_else(|| panic!("it ended after {seen:?}")));
            if fits(seen.last().unwrap()) {
                return seen;
            }
        }
    }
}

fn is(event: &Event, kind: &str) -> bool {
    event.data["kind"] == kind
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_of_every_task_is_heard_in_order_and_a_client_goes_on_where_it_was() {
    let daemon = studio("", &["anna", "boris"]).await;
    let mut stream = Stream::on(&daemon).await;
    let first = daemon.order(&["anna"], &json!({})).await;
    let claimed = daemon.claim_for("w1", 60).await;
    daemon.say(&claimed, "fail", json!({"message": "no"})).await;
    let heard = stream.until(|event| is(event, "retry_wait") || is(event, "failed")).await;
    // What was heard is what the task's own log says, line by line.
    let log = daemon.get(&format!("/api/v1/tasks/{first}/events")).await.body;
    let mut lines = Vec::new();
    for event in heard.iter().filter(|event| event.kind == "task") {
        assert_eq!(event.data["task_id"], first, "{event:?}");
        let mut line = event.data.clone();
        line.as_object_mut().unwrap().shift_remove("task_id");
        lines.push(line);
    }
    assert_eq!(json!(lines), log["events"], "{log:#}");
    // Whoever comes back with the id of the second event gets everything after it, once.
    let mut again = Stream::open(&daemon, "", Some(&heard[1].id), None).await;
    let second = daemon.order(&["boris"], &json!({})).await;
    let rest = again.until(|event| event.data["task_id"] == second).await;
    let ids = |events: &[Event]| events.iter().map(|event| event.id.clone()).collect::<Vec<_>>();
    assert_eq!(ids(&rest)[..heard.len() - 2], ids(&heard[2..]), "{rest:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_task_can_be_listened_to_alone() {
    let daemon = studio("", &["anna"]).await;
    let tasks = [daemon.order(&["anna"], &json!({})).await, daemon.order(&["anna"], &json!({})).await];
    let mut stream = Stream::open(&daemon, &format!("?task={}", tasks[1]), None, None).await;
    daemon.post(&format!("/api/v1/tasks/{}/cancel", tasks[0]), &json!({})).await;
    daemon.post("/api/v1/pause", &json!({})).await;
    daemon.post(&format!("/api/v1/tasks/{}/cancel", tasks[1]), &json!({})).await;
    let heard = stream.until(|event| is(event, "canceled")).await;
    assert!(heard.iter().all(|event| event.data["task_id"] == tasks[1]), "{heard:#?}");
    for (wrong, pointer) in [("?task=t1", "task"), ("?task=x", "task"), ("?tasks=t1", "tasks")] {
        let refused = daemon.get(&format!("/api/v1/events{wrong}")).await;
        assert_eq!((refused.status, refused.pointers()), (422, vec![pointer]), "{}", refused.body);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_task_knows_is_heard_too() {
    let daemon = Daemon::start().await;
    let mut stream = Stream::on(&daemon).await;
    daemon.post("/api/v1/pause", &json!({})).await;
    let paused = stream.until(|event| event.kind == "engine").await;
    assert_eq!(paused.last().unwrap().data["state"], "paused");
    daemon.post("/api/v1/resume", &json!({})).await;
    let resumed = stream.until(|event| event.kind == "engine").await;
    assert_eq!(resumed.last().unwrap().data["state"], "running");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_missed_something_is_told_to_look_again_and_hears_what_follows() {
    let mut daemon = studio("", &["anna"]).await;
    let mut stream = Stream::on(&daemon).await;
    daemon.order(&["anna"], &json!({})).await;
    let heard = stream.next().await.unwrap();
    daemon.kill();
    daemon.boot().await;
    for last in [heard.id.as_str(), "nonsense", "00000000-0"] {
        let mut late = Stream::open(&daemon, "", Some(last), None).await;
        assert_eq!(late.next().await.unwrap().kind, "resync", "{last}");
        let task = daemon.order(&["anna"], &json!({})).await;
        let next = late.until(|event| event.kind == "task").await;
        assert_eq!(next.last().unwrap().data["task_id"], task);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_stream_has_a_heartbeat_and_ends_with_the_daemon() {
    let mut daemon = Daemon::start().await;
    let mut stream = Stream::on(&daemon).await;
    let began = Instant::now();
    assert_eq!(stream.block().await.as_deref(), Some(": heartbeat"));
    assert!(began.elapsed() > Duration::from_secs(10), "{:?}", began.elapsed());
    assert_eq!(daemon.stop(), Some(0), "{}", daemon.logged());
    assert!(stream.until_end().await);
    // A stop that waits for its listeners takes as long as it lets any answer take.
    assert!(!daemon.logged().contains("connections were still open"), "{}", daemon.logged());
}

impl Stream {
    /// Whether it ends in order; what comes until then is not looked at.
    async fn until_end(&mut self) -> bool {
        while tokio::time::timeout(PATIENCE, self.response.chunk()).await.is_ok_and(|piece| piece.unwrap().is_some()) {}
        true
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_token_hears_nothing_more() {
    let daemon = Daemon::start_as("", &[("COVE_AUTH__REQUIRED", "true")]).await;
    let mut made = Vec::new();
    for scope in ["read", "admin"] {
        let output = run(&["tokens", "create", scope, "--scope", scope, "--json"], daemon.folder.path());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        made.push(serde_json::from_slice::<Value>(&output.stdout).unwrap());
    }
    let text = |number: usize| made[number]["token"].as_str().unwrap();
    let mut stream = Stream::open(&daemon, "", None, Some(text(0))).await;
    let mut other = Stream::open(&daemon, "", None, Some(text(1))).await;
    let admin = |method: &str, path: &str| {
        daemon.client.request(method.parse().unwrap(), format!("{}{path}", daemon.base)).bearer_auth(text(1))
    };
    let id = made[0]["id"].as_str().unwrap();
    assert_eq!(admin("DELETE", &format!("/api/v1/tokens/{id}")).send().await.unwrap().status(), 204);
    assert_eq!(admin("POST", "/api/v1/pause").send().await.unwrap().status(), 202);
    let heard = other.until(|event| event.data["state"] == "paused").await;
    assert_eq!(heard.last().unwrap().kind, "engine");
    while let Some(event) = stream.next().await {
        assert_ne!(event.data["state"], "paused", "told to a revoked token");
    }
}

/// The bound of the listeners, and what a thousand idle ones cost.
#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_idle_listeners_cost_little_and_leave_room_for_questions() {
    let daemon = studio("", &["anna"]).await;
    let before = resident_kib(&daemon);
    let mut streams = Vec::new();
    for _ in 0..1_000 {
        streams.push(Stream::on(&daemon).await);
    }
    let refused = daemon.get("/api/v1/events").await;
    assert_eq!((refused.status, refused.code()), (503, "too_many_listeners"), "{}", refused.body);
    assert!(refused.headers.contains_key("retry-after"));
    let task = daemon.order(&["anna"], &json!({})).await;
    for stream in &mut streams {
        let heard = stream.until(|event| event.kind == "task").await;
        assert_eq!(heard.last().unwrap().data["task_id"], task);
    }
    let grown = resident_kib(&daemon) - before;
    println!("listeners: 1000 idle ones took {grown} KiB");
    assert!(grown < 64 * 1024, "{grown} KiB");
    drop(streams);
    let began = Instant::now();
    while daemon.client.get(format!("{}/api/v1/events", daemon.base)).send().await.unwrap().status() != 200 {
        assert!(began.elapsed() < PATIENCE, "their room is not given back");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn resident_kib(daemon: &Daemon) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn long_json_comes_compressed_to_who_asks_for_it() {
    let daemon = studio("", &["anna"]).await;
    for _ in 0..20 {
        daemon.order(&["anna"], &json!({})).await;
    }
    let ask = |path: &str, accept: &'static str| {
        let request = daemon.client.get(format!("{}{path}", daemon.base)).header("accept-encoding", accept);
        async move { request.send().await.unwrap() }
    };
    let plain = ask("/api/v1/tasks", "identity").await;
    assert!(!plain.headers().contains_key("content-encoding"));
    let plain = plain.bytes().await.unwrap();
    let packed = ask("/api/v1/tasks", "gzip").await;
    assert_eq!(packed.headers()["content-encoding"], "gzip");
    assert_eq!(packed.headers()["vary"], "accept-encoding");
    let packed = packed.bytes().await.unwrap();
    assert!(packed.len() * 4 < plain.len(), "{} of {}", packed.len(), plain.len());
    let mut unpacked = Vec::new();
    std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(packed.as_ref()), &mut unpacked).unwrap();
    assert_eq!(unpacked, plain);
    assert!(!ask("/api/v1/health/simple", "gzip").await.headers().contains_key("content-encoding"), "too short");
}
