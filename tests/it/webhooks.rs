//! Webhooks from outside: what a receiver gets, and gets again; what a receiver that misbehaves can do; and
//! that a secret stays one. Items fail by themselves here (somebody else holds their profile until their time is
//! over), so that no browser runs.

mod receiver;

use std::time::{Duration, Instant};

use cove::model::Clock as _;
use cove::store::{LEDGER_FILE, Store};
use serde_json::{Value, json};

use super::rig::{Daemon, PATIENCE, answer, run};
use receiver::{Receiver, Reply, unix_seconds};

const SECRET: &str = "hush-hush-not-for-anybody";
const QUERY: &str = "query-token-not-for-anybody";

/// How long the items of [`overdue`] wait in vain.
const LIFE: Duration = Duration::from_millis(1_500);

/// A task of items whose time is over soon: each fails then, and with the last the task is finished.
async fn overdue(daemon: &Daemon, count: usize, webhook: Value) -> String {
    let film = daemon.film("1.mp4");
    let lock = json!({"kind": "profile", "key": "anna", "owner": "somebody", "ttl_seconds": 3_600});
    let locked = daemon.post("/api/v1/locks/acquire", &lock).await;
    assert_eq!(locked.body["acquired"], true, "{}", locked.body);
    let not_after = cove::model::SystemClock.now().plus(LIFE);
    let item = |number: usize| {
        json!({"profile": "anna", "not_after": not_after, "inputs": {
            "site": "http://127.0.0.1:9", "account": "anna", "video": film, "caption": format!("input-{number}")}})
    };
    let items: Vec<_> = (0..count).map(item).collect();
    let body = json!({"flow": "atelier", "items": items, "webhook": webhook});
    let made = daemon.post("/api/v1/bulk-upload/start", &body).await;
    assert_eq!(made.status, 202, "{}", made.body);
    made.body["task_id"].as_str().unwrap().to_owned()
}

async fn furnished(settings: &str) -> Daemon {
    let daemon = Daemon::start_with(settings).await;
    daemon.furnish(&["anna"]).await;
    daemon
}

/// The deliveries of a task, oldest first.
async fn deliveries(daemon: &Daemon, task: &str) -> Vec<Value> {
    let answer = daemon.get(&format!("/api/v1/tasks/{task}/webhooks")).await;
    assert_eq!((answer.status, &answer.body["next_cursor"]), (200, &Value::Null), "{}", answer.body);
    let mut rows = answer.body["deliveries"].as_array().unwrap().clone();
    rows.reverse();
    rows
}

async fn until(daemon: &Daemon, task: &str, done: impl Fn(&[Value]) -> bool) -> Vec<Value> {
    let began = Instant::now();
    loop {
        let rows = deliveries(daemon, task).await;
        if done(&rows) {
            return rows;
        }
        assert!(began.elapsed() < PATIENCE, "{rows:#?}\n{}", daemon.logged());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn all(rows: &[Value], state: &str) -> bool {
    !rows.is_empty() && rows.iter().all(|row| row["state"] == state)
}

async fn status(daemon: &Daemon) -> Value {
    daemon.get("/api/v1/status").await.body
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_receiver_gets_is_signed_in_order_and_tells_no_secret() {
    let mut daemon = furnished("").await;
    let receiver = Receiver::start(|_| Reply::Status(204)).await;
    let url = receiver.url(&format!("/in?token={QUERY}"));
    let task = overdue(&daemon, 2, json!({"url": url, "secret": SECRET})).await;
    let rows = until(&daemon, &task, |rows| rows.len() == 3 && all(rows, "delivered")).await;
    let seen = receiver.seen();
    assert_eq!(seen.len(), 3);
    let types: Vec<_> = seen.iter().map(|request| request.json()["type"].as_str().unwrap().to_owned()).collect();
    assert_eq!(types, ["item.failed", "item.failed", "task.finished"]);
    for (request, row) in seen.iter().zip(&rows) {
        assert!(request.is_signed_with(SECRET.as_bytes()), "{}", request.head);
        assert!(!request.is_signed_with(b"another"), "the check itself");
        let sent: u64 = request.header("webhook-timestamp").unwrap().parse().unwrap();
        assert!(unix_seconds().abs_diff(sent) <= PATIENCE.as_secs());
        assert_eq!(request.path, format!("/in?token={QUERY}"), "the receiver gets the whole address");
        assert_eq!(request.header("content-type"), Some("application/json"));
        assert_eq!(request.header("user-agent"), Some(concat!("cove/", env!("CARGO_PKG_VERSION"))));
        let body = request.json();
        assert_eq!((&body["id"], request.id()), (&row["id"], row["id"].as_str().unwrap()));
        assert_eq!((&body["type"], &body["timestamp"]), (&row["event"], &row["created_at"]));
        assert!(!request.body.contains("input-"), "{body}");
        assert_eq!((&row["attempts"], &row["last_status"], &row["last_error"]), (&json!(1), &json!(204), &json!(null)));
        assert!(row["delivered_at"].is_string() && row["next_at"].is_null(), "{row}");
    }
    let told = &seen[0].json()["data"];
    assert_eq!(
        (&told["error"]["code"], &told["task_id"], &told["state"]),
        (&json!("overdue"), &json!(task), &json!("failed"))
    );
    assert_eq!(seen[2].json()["data"]["counts"]["failed"], 2);
    // Nowhere else.
    let mut shown = vec![daemon.get("/api/v1/tasks").await.body];
    for path in ["", "/items", "/events", "/webhooks"] {
        shown.push(daemon.get(&format!("/api/v1/tasks/{task}{path}")).await.body);
    }
    shown.push(status(&daemon).await);
    assert_eq!(shown[1]["webhook"], json!({"url": format!("{}/in?***", receiver.target())}));
    let breakers = &shown.last().unwrap()["breakers"];
    let name = json!(format!("webhook {}", receiver.target()));
    assert_eq!((breakers.as_array().unwrap().len(), &breakers[0]["name"]), (1, &name), "{breakers}");
    assert_eq!((&breakers[0]["state"], &breakers[0]["opened_total"]), (&json!("closed"), &json!(0)));
    let command = run(&["tasks", "show", &task], daemon.folder.path());
    let printed = format!("{}{}", String::from_utf8_lossy(&command.stdout), String::from_utf8_lossy(&command.stderr));
    assert!(printed.contains("/in?***: 3 delivered, 0 pending, 0 given_up"), "{printed}");
    assert_eq!(daemon.stop(), Some(0), "{}", daemon.logged());
    let (store, writer, _) = Store::open(&daemon.state(), cove::model::SystemClock.moment()).unwrap();
    let dump = store.dump().await.unwrap();
    drop(store);
    tokio::task::spawn_blocking(|| writer.join()).await.unwrap();
    assert!(dump.contains("webhook"));
    let texts = shown.iter().map(Value::to_string).chain([daemon.logged(), dump, printed]);
    for text in texts {
        assert!(!text.contains(SECRET) && !text.contains(QUERY), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_in_base64_is_decoded_and_without_a_secret_nothing_is_signed() {
    let daemon = furnished("").await;
    let receiver = Receiver::start(|_| Reply::Status(200)).await;
    let signed = json!({"url": receiver.url("/a"), "secret": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"});
    let task = overdue(&daemon, 1, signed).await;
    until(&daemon, &task, |rows| all(rows, "delivered")).await;
    let key = base64::Engine::decode(&base64::engine::general_purpose::STANDARD, "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw");
    assert!(receiver.seen()[0].is_signed_with(&key.unwrap()));
    let task = overdue(&daemon, 1, json!({"url": receiver.url("/b")})).await;
    until(&daemon, &task, |rows| all(rows, "delivered")).await;
    let seen = receiver.seen();
    let plain = seen.iter().find(|request| request.path == "/b").unwrap();
    assert_eq!(plain.header("webhook-signature"), None);
    let answered = daemon.get(&format!("/api/v1/tasks/{task}/webhooks?limit=1")).await.body;
    let cursor = answered["next_cursor"].as_str().unwrap();
    let next = daemon.get(&format!("/api/v1/tasks/{task}/webhooks?limit=1&cursor={cursor}")).await.body;
    assert_eq!(answered["deliveries"][0]["event"], "task.finished");
    assert_eq!((&next["deliveries"][0]["event"], &next["next_cursor"]), (&json!("item.failed"), &json!(null)));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_not_taken_is_sent_again_under_the_same_id() {
    let daemon = furnished("").await;
    let elsewhere = Receiver::start(|_| Reply::Status(200)).await;
    let location: &'static str = format!("location: {}\r\n", elsewhere.url("/")).leak();
    let receiver = Receiver::start(move |number| match number {
        0 => Reply::With(302, location),
        1 => Reply::Status(500),
        2 => Reply::Status(404),
        3 => Reply::Close,
        _ => Reply::Status(200),
    })
    .await;
    let task = overdue(&daemon, 1, json!({"url": receiver.url("/"), "secret": SECRET})).await;
    let rows = until(&daemon, &task, |rows| rows.len() == 2 && all(rows, "delivered")).await;
    let seen = receiver.seen();
    assert_eq!(seen.len(), 6, "four that were refused, two that were taken");
    for row in &rows {
        let tries: Vec<_> = seen.iter().filter(|request| request.id() == row["id"]).collect();
        assert_eq!(row["attempts"], json!(tries.len()));
        assert!(tries.iter().all(|request| request.body == tries[0].body), "the same in every try");
        assert!(tries.iter().all(|request| request.is_signed_with(SECRET.as_bytes())));
    }
    assert!(elsewhere.seen().is_empty(), "a redirect was followed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_asks_for_time_gets_it_for_all_that_waits() {
    let daemon = furnished("").await;
    let receiver = Receiver::start(|number| match number {
        0 => Reply::With(429, "retry-after: 6\r\n"),
        _ => Reply::Status(200),
    })
    .await;
    let task = overdue(&daemon, 2, json!({"url": receiver.url("/")})).await;
    until(&daemon, &task, |rows| rows.len() == 3 && all(rows, "delivered")).await;
    let seen = receiver.seen();
    let waited = seen[1].at - seen[0].at;
    assert!(waited >= Duration::from_secs(6) - Duration::from_millis(200), "{waited:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn gone_gives_up_at_once_and_a_person_can_have_it_tried_again() {
    let daemon = furnished("").await;
    let receiver = Receiver::start(|_| Reply::Status(410)).await;
    let task = overdue(&daemon, 1, json!({"url": receiver.url("/")})).await;
    let rows = until(&daemon, &task, |rows| rows.len() == 2 && all(rows, "given_up")).await;
    assert_eq!(receiver.seen().len(), 2);
    assert!(rows[0]["last_error"].as_str().unwrap().contains("410 Gone"), "{}", rows[0]);
    assert!(rows[0]["given_up_at"].is_string());
    let kinds = async || {
        let events = daemon.get(&format!("/api/v1/tasks/{task}/events")).await.body;
        let events = events["events"].as_array().unwrap().clone();
        events.into_iter().map(|event| event["kind"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(kinds().await.iter().filter(|kind| *kind == "webhook_given_up").count(), 2);
    // A target that says no works: its breaker stays closed.
    assert_eq!(status(&daemon).await["breakers"][0]["state"], "closed");

    receiver.answer_with(|_| Reply::Status(200));
    let id = rows[0]["id"].as_str().unwrap();
    let retry = async |task: &str, id: &str| {
        daemon.request("POST", &format!("/api/v1/tasks/{task}/webhooks/{id}/retry"), None).await
    };
    let accepted = retry(&task, id).await;
    assert_eq!((accepted.status, &accepted.body["state"]), (202, &json!("pending")), "{}", accepted.body);
    let rows = until(&daemon, &task, |rows| rows[0]["state"] == "delivered").await;
    assert_eq!((&rows[0]["attempts"], &rows[1]["state"]), (&json!(1), &json!("given_up")));
    assert_eq!(receiver.seen()[2].id(), id);
    let again = retry(&task, id).await;
    assert_eq!((again.status, again.code()), (409, "delivery_not_given_up"), "{}", again.body);
    for (task, id) in [(task.as_str(), "h1"), (task.as_str(), "x"), ("t1", id), ("x", id)] {
        assert_eq!(retry(task, id).await.status, 404, "{task} {id}");
    }
    assert_eq!(kinds().await.iter().filter(|kind| *kind == "webhook_retried").count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_breaker_opens_after_five_failures_and_what_waits_spends_no_try() {
    let daemon = furnished("[breakers]\nopen_seconds = 3600").await;
    let receiver = Receiver::start(|_| Reply::Status(500)).await;
    let other = Receiver::start(|_| Reply::Status(200)).await;
    let task = overdue(&daemon, 9, json!({"url": receiver.url("/")})).await;
    let waits = |row: &Value| row["wait_reason"] == "breaker_open_until";
    let rows = until(&daemon, &task, |rows| rows.len() == 10 && rows.iter().all(waits)).await;
    let tries: u64 = rows.iter().map(|row| row["attempts"].as_u64().unwrap()).sum();
    assert_eq!((tries, receiver.seen().len()), (5, 5), "{rows:#?}");
    let shown = status(&daemon).await["breakers"].clone();
    assert_eq!(shown[0]["name"], format!("webhook {}", receiver.target()));
    assert_eq!((&shown[0]["state"], &shown[0]["open_until"]), (&json!("open"), &rows[0]["next_at"]));
    assert_eq!(shown[0]["last_error"], "the receiver answered 500 Internal Server Error");
    let health = daemon.get("/api/v1/health").await;
    assert_eq!((health.status, &health.body["status"]), (200, &json!("degraded")), "{}", health.body);
    assert_eq!(health.body["parts"]["breakers"]["status"], "degraded");
    assert_eq!(health.body["parts"]["provider"]["status"], "healthy", "browsers are started all the same");
    // The breaker of one target is no other's.
    let elsewhere = overdue(&daemon, 1, json!({"url": other.url("/")})).await;
    until(&daemon, &elsewhere, |rows| rows.len() == 2 && all(rows, "delivered")).await;
    assert_eq!(receiver.seen().len(), 5, "called while open");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_breaker_closes_after_its_time_when_three_calls_went_well() {
    let daemon = furnished("[breakers]\nopen_seconds = 2").await;
    // The sixth is the first after the wait: it fails as well, and there is another wait.
    let receiver = Receiver::start(|number| Reply::Status(if number < 6 { 500 } else { 200 })).await;
    let task = overdue(&daemon, 9, json!({"url": receiver.url("/")})).await;
    until(&daemon, &task, |rows| rows.len() == 10 && all(rows, "delivered")).await;
    let seen = receiver.seen();
    assert_eq!(seen.len(), 16, "six that failed, ten that were taken");
    for number in [5, 6] {
        let waited = seen[number].at - seen[number - 1].at;
        assert!(waited >= Duration::from_millis(1_800), "{number}: {waited:?}");
    }
    let shown = status(&daemon).await["breakers"].clone();
    assert_eq!((shown.as_array().unwrap().len(), &shown[0]["state"]), (1, &json!("closed")), "{shown}");
    assert_eq!(daemon.get("/api/v1/health").await.body["status"], "healthy");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_hangs_delays_nobody_else_and_an_endless_answer_is_not_read() {
    let daemon = furnished("").await;
    let silent = Receiver::start(|_| Reply::Hang).await;
    let endless = Receiver::start(|_| Reply::Endless).await;
    let hung = overdue(&daemon, 1, json!({"url": silent.url("/")})).await;
    silent.until(1).await;
    let talkative = overdue(&daemon, 1, json!({"url": endless.url("/")})).await;
    endless.until(1).await;
    assert_eq!(deliveries(&daemon, &hung).await[0]["attempts"], 0, "it waited for the one that hangs");
    until(&daemon, &talkative, |rows| rows.len() == 2 && all(rows, "delivered")).await;
    // What the kernel holds between the two is taken as well.
    assert!(endless.taken() < 64 * 1024 * 1024, "{} bytes", endless.taken());
    let rows = until(&daemon, &hung, |rows| rows[0]["attempts"] == 1).await;
    assert_eq!(rows[0]["last_error"], "no answer within 10 s");
    assert!(rows[0]["last_duration_ms"].as_u64().unwrap() >= 10_000 && rows[0]["last_status"].is_null(), "{}", rows[0]);
    assert_eq!(rows[0]["state"], "pending");
}

/// The answer never came: whether the receiver acted on it nobody knows, so it comes again, told by its id.
#[tokio::test(flavor = "multi_thread")]
async fn kill_9_between_the_event_and_its_delivery_loses_nothing() {
    let mut daemon = furnished("").await;
    let receiver = Receiver::start(|_| Reply::Hang).await;
    let task = overdue(&daemon, 2, json!({"url": receiver.url("/"), "secret": SECRET})).await;
    receiver.until(1).await;
    daemon.kill();
    receiver.answer_with(|_| Reply::Status(200));
    daemon.boot().await;
    let rows = until(&daemon, &task, |rows| rows.len() == 3 && all(rows, "delivered")).await;
    let seen = receiver.seen();
    let ids: Vec<_> = seen.iter().map(receiver::Request::id).collect();
    let told: Vec<_> = rows.iter().map(|row| row["id"].as_str().unwrap()).collect();
    assert_eq!(ids, [told[0], told[0], told[1], told[2]], "at least once, and known by its id");
    assert_eq!(seen[0].body, seen[1].body);
    // A stop does not wait for a receiver.
    receiver.answer_with(|_| Reply::Hang);
    let last = overdue(&daemon, 1, json!({"url": receiver.url("/")})).await;
    receiver.until(5).await;
    let began = Instant::now();
    assert_eq!(daemon.stop(), Some(0), "{}", daemon.logged());
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
    receiver.answer_with(|_| Reply::Status(200));
    daemon.boot().await;
    until(&daemon, &last, |rows| rows.len() == 2 && all(rows, "delivered")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_restore_nothing_is_told_before_a_human_resumes() {
    let mut daemon = furnished("").await;
    let receiver = Receiver::start(|_| Reply::Hang).await;
    let task = overdue(&daemon, 1, json!({"url": receiver.url("/")})).await;
    receiver.until(1).await;
    daemon.kill();
    std::fs::remove_file(daemon.state().join(LEDGER_FILE)).unwrap();
    receiver.answer_with(|_| Reply::Status(200));
    daemon.boot().await;
    let held = until(&daemon, &task, |rows| rows.iter().all(|row| row["wait_reason"] == "held_after_restore")).await;
    assert_eq!((held.len(), status(&daemon).await["state"].as_str()), (2, Some("restored")));
    // The sender looks at its outbox right at the start; this is long after.
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(receiver.seen().len(), 1, "told before the resume");
    let resumed = daemon.post("/api/v1/resume", &json!({"accept_duplicates": true})).await;
    assert_eq!(resumed.status, 202, "{}", resumed.body);
    until(&daemon, &task, |rows| all(rows, "delivered")).await;
    let seen = receiver.seen();
    assert_eq!((seen.len(), seen[0].id()), (3, seen[1].id()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_nobody_vouches_for_is_refused() {
    let daemon = furnished("").await;
    let (receiver, _) = Receiver::start_tls(|_| Reply::Status(200)).await;
    let task = overdue(&daemon, 1, json!({"url": receiver.url("/"), "secret": SECRET})).await;
    let rows = until(&daemon, &task, |rows| rows.first().is_some_and(|row| row["attempts"] == 1)).await;
    let told = rows[0]["last_error"].as_str().unwrap();
    assert_eq!(told, "no connection: invalid peer certificate: UnknownIssuer");
    assert!(receiver.seen().is_empty(), "sent to a stranger");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_the_system_trusts_is_taken() {
    let (receiver, pem) = Receiver::start_tls(|_| Reply::Status(200)).await;
    let folder = tempfile::tempdir().unwrap();
    let trusted = folder.path().join("roots.pem");
    std::fs::write(&trusted, pem).unwrap();
    let daemon = Daemon::start_as("", &[("SSL_CERT_FILE", trusted.display().to_string().leak())]).await;
    daemon.furnish(&["anna"]).await;
    let task = overdue(&daemon, 1, json!({"url": receiver.url("/in"), "secret": SECRET})).await;
    until(&daemon, &task, |rows| rows.len() == 2 && all(rows, "delivered")).await;
    assert!(receiver.seen()[0].is_signed_with(SECRET.as_bytes()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_webhook_is_told_by_pointer_without_its_secret() {
    let daemon = furnished("").await;
    let film = daemon.film("1.mp4");
    let inputs = json!({"site": "http://127.0.0.1:9", "account": "anna", "video": film, "caption": "c"});
    let long = format!("whsec_{SECRET}");
    for (webhook, pointer) in [
        (json!({"url": "ftp://host/", "secret": SECRET}), "/webhook/url"),
        (json!({"url": format!("https://user:{SECRET}@host/")}), "/webhook/url"),
        (json!({"url": "https://host/", "secret": long}), "/webhook/secret"),
        (json!({"url": "https://host/", "secret": [SECRET]}), "/webhook/secret"),
        (json!({"url": "https://host/", "extra": SECRET}), "/webhook/extra"),
    ] {
        let body = json!({"flow": "atelier", "items": [{"profile": "anna", "inputs": inputs}], "webhook": webhook});
        let request = daemon.client.post(format!("{}/api/v1/bulk-upload/start", daemon.base)).json(&body);
        let refused = answer(request).await;
        assert_eq!((refused.status, refused.pointers()), (422, vec![pointer]), "{}", refused.body);
        assert!(!refused.body.to_string().contains(SECRET), "{}", refused.body);
    }
    assert!(!daemon.logged().contains(SECRET));
    assert_eq!(daemon.get("/api/v1/tasks").await.body["tasks"], json!([]));
}
