//! Who may not take all of the connections: bodies that never come, long polls of one token, a crowd over TCP.

use std::io::{Read, Write};
use std::net::TcpStream;

use serde_json::{Value, json};

use super::super::rig::{Answer, Daemon, answer, run};
use super::{address, exchange, status};

/// A connection on which this was sent, and no more.
fn opened(address: &str, sent: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(sent.as_bytes()).unwrap();
    stream
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_that_announces_a_body_is_refused_at_once() {
    let daemon = Daemon::start_as("", &[("COVE_SERVER__MAX_CONNECTIONS", "16"), ("COVE_AUTH__REQUIRED", "true")]).await;
    let address = address(&daemon);
    for path in ["/", "/api/v1/docs", "/api/v1/health/simple", "/api/v1/docs/docs.js"] {
        for framing in ["Content-Length: 100", "Transfer-Encoding: chunked"] {
            for method in ["GET", "HEAD"] {
                let head = format!(
                    "{method} {path} HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\n{framing}\r\n\r\n"
                );
                let answer = exchange(&address, head.as_bytes());
                assert_eq!(status(&answer), 400, "{head}{answer}");
                assert!(answer.to_ascii_lowercase().contains("connection: close"), "{answer}");
                assert!(method == "HEAD" || answer.contains("\"unexpected_body\""), "{answer}");
            }
        }
    }
    // More than there is room for, all at once and kept open.
    let head = format!(
        "GET /api/v1/docs HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n"
    );
    let crowd: Vec<_> = (0..48).map(|_| opened(&address, &head)).collect();
    assert_eq!(daemon.get("/api/v1/health/simple").await.status, 200);
    drop(crowd);
}

#[tokio::test(flavor = "multi_thread")]
async fn when_all_connections_are_taken_the_operator_gets_in() {
    let daemon = Daemon::start_as("", &[("COVE_SERVER__MAX_CONNECTIONS", "8")]).await;
    let address = address(&daemon);
    let head = format!(
        "POST /api/v1/bulk-upload/start HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\n\
         Content-Length: 100\r\nExpect: 100-continue\r\n\r\n"
    );
    // The daemon says that it reads: each is at work from there on.
    let crowd: Vec<_> = (0..8)
        .map(|_| {
            let mut stream = opened(&address, &head);
            let mut heard = [0; 12];
            stream.read_exact(&mut heard).unwrap();
            assert_eq!(&heard, b"HTTP/1.1 100");
            stream
        })
        .collect();
    let refused = exchange(&address, b"");
    assert_eq!(status(&refused), 503, "{refused}");
    let told = run(&["status"], daemon.folder.path());
    assert!(told.status.success(), "{}", String::from_utf8_lossy(&told.stderr));
    drop(crowd);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_long_polls_of_one_token_leave_room_for_others() {
    let env = [("COVE_SERVER__MAX_CONNECTIONS", "16"), ("COVE_AUTH__REQUIRED", "true")];
    let daemon = Daemon::start_as("", &env).await;
    let token = || {
        let args = ["tokens", "create", "x", "--scope", "locks", "--scope", "read", "--json"];
        let made: Value = serde_json::from_slice(&run(&args, daemon.folder.path()).stdout).unwrap();
        made["token"].as_str().unwrap().to_owned()
    };
    let (one, other) = (token(), token());
    let claim = async |token: &str, wait: u32| -> Answer {
        let body = json!({"kinds": ["studio"], "owner": "w", "ttl_seconds": 60, "wait_seconds": wait});
        answer(daemon.client.post(format!("{}/api/v1/claims", daemon.base)).bearer_auth(token).json(&body)).await
    };
    let listen = async |token: &str| {
        daemon.client.get(format!("{}/api/v1/events", daemon.base)).bearer_auth(token).send().await.unwrap()
    };
    let mut held = Vec::new();
    for _ in 0..4 {
        let stream = listen(&one).await;
        assert_eq!(stream.status(), 200);
        held.push(stream);
    }
    let refused = listen(&one).await;
    assert_eq!((refused.status().as_u16(), refused.headers().contains_key("retry-after")), (503, true));
    let refused = claim(&one, 20).await;
    assert_eq!((refused.status, refused.code()), (503, "too_many_waiting"), "{}", refused.body);
    assert!(refused.headers.contains_key("retry-after"));
    assert_eq!(claim(&one, 0).await.status, 204, "who does not wait needs no place");
    assert_eq!(claim(&other, 1).await.status, 204);
    held.pop();
    let began = std::time::Instant::now();
    while claim(&one, 1).await.status != 204 {
        assert!(began.elapsed() < super::super::rig::PATIENCE, "its place is not given back");
    }
}

/// As many addresses as there are windows, and more, without a token; then those who are known.
#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_addresses_takes_nothing_from_tokens_and_the_operator() {
    let env = [
        ("COVE_AUTH__REQUIRED", "true"),
        ("COVE_LIMITS__REQUESTS", "5"),
        ("COVE_LIMITS__HEALTH", "2"),
        ("COVE_SERVER__TRUSTED_PROXIES", "127.0.0.1"),
    ];
    let daemon = Daemon::start_as("", &env).await;
    let made = run(&["tokens", "create", "x", "--scope", "read", "--json"], daemon.folder.path());
    let made: Value = serde_json::from_slice(&made.stdout).unwrap();
    let from = async |number: u32, path: &str| {
        let client = std::net::Ipv4Addr::from(0x0a00_0000 + number).to_string();
        daemon.client.get(format!("{}{path}", daemon.base)).header("x-forwarded-for", client).send().await.unwrap()
    };
    // Refused ones keep no window: who comes after so many of them still has its own.
    for number in 0..4_200 {
        assert_eq!(from(number, "/api/v1/tasks").await.status(), 401);
    }
    for number in 0..20 {
        let seen = from(10_000 + number, "/").await;
        assert_eq!((seen.status().as_u16(), &seen.headers()["x-ratelimit-remaining"]), (200, &"4".parse().unwrap()));
    }
    // What anybody may ask for fills the windows of addresses, and of nobody else.
    let mut shared = 0;
    for number in 0..4_200 {
        shared += u32::from(from(20_000 + number, "/api/v1/health/simple").await.status() == 429);
    }
    assert!(shared > 50, "made-up addresses share what is left: {shared}");
    let asked = daemon.client.get(format!("{}/api/v1/tasks", daemon.base)).bearer_auth(made["token"].as_str().unwrap());
    let asked = answer(asked).await;
    assert_eq!((asked.status, &asked.headers["x-ratelimit-remaining"]), (200, &"4".parse().unwrap()), "{}", asked.body);
    let told = run(&["status"], daemon.folder.path());
    assert!(told.status.success(), "{}", String::from_utf8_lossy(&told.stderr));
}
