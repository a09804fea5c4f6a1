//! The guards of the API from outside, over raw sockets: names, framing, limits, and pages of other sites.

#[path = "../bench/crowd.rs"]
mod crowd;
mod crowding;
mod framing;
mod pages;
mod revoked;
mod told;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use cove::api::routes::ROUTES;
use serde_json::json;

use super::rig::{Daemon, answer};

/// What came back on a connection: the whole text, or what there was when nothing more came.
fn exchange(address: &str, sent: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    // The daemon may answer and close before all is sent: what counts is its answer.
    let _ = stream.write_all(sent);
    let mut text = Vec::new();
    let mut piece = [0; 4096];
    loop {
        match stream.read(&mut piece) {
            Ok(0) | Err(_) => break,
            Ok(read) => text.extend_from_slice(&piece[..read]),
        }
    }
    String::from_utf8_lossy(&text).into_owned()
}

fn status(answer: &str) -> u16 {
    answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0)
}

fn address(daemon: &Daemon) -> String {
    daemon.base.trim_start_matches("http://").to_owned()
}

/// `CROWD=500` is all of row H1: 1,600 connections. Its times are printed, by a release build as
/// `cargo bench --bench figures -- crowd`: on a machine that is busy with other tests they say little, and
/// the bounds here only tell being let go from being kept.
#[tokio::test(flavor = "multi_thread")]
async fn h1_a_crowd_is_let_go_and_an_honest_client_is_answered() {
    let each = std::env::var("CROWD").map_or(60, |each| each.parse().unwrap());
    let daemon = Daemon::start().await;
    let crowd = crowd::Crowd { heads: each, bodies: each, idle: each, readers: each.div_ceil(5).max(20) };
    let figures = crowd::measure(&address(&daemon), daemon.pid(), crowd).await;
    println!("crowd: {}", figures.told());
    let within = |seconds: u64| Duration::from_secs(seconds + 10);
    assert!(figures.heads_gone <= within(10) && figures.idle_gone <= within(10), "{}", figures.told());
    assert!(figures.bodies_gone <= within(30) && figures.readers_gone <= within(30), "{}", figures.told());
    assert!(figures.memory_most_kib < figures.memory_before_kib + 64 * 1024, "{}", figures.told());
}

#[tokio::test(flavor = "multi_thread")]
async fn h3_rebinding_vectors_on_every_route() {
    let daemon = Daemon::start().await;
    let address = address(&daemon);
    let port = address.rsplit(':').next().unwrap();
    let with_port = |name: &str| format!("{name}:{port}");
    let wrong: Vec<Vec<String>> = [
        vec!["evil.com".to_owned()],
        vec![with_port("evil.com")],
        vec![String::new()],
        vec![format!(":{port}")],
        vec![],
        vec![address.clone(), address.clone()],
        vec![address.clone(), "evil.com".to_owned()],
        vec![with_port("127.0.0.1.nip.io")],
        vec![with_port("localhost.evil.com")],
        vec![with_port("localhost.")],
        vec![with_port("LOCALHOST")],
        vec!["[::1]".to_owned()],
        vec![with_port("[::ffff:127.0.0.1]")],
        vec![with_port("0.0.0.0")],
        vec![with_port("127.1")],
        vec![with_port("2130706433")],
        vec![with_port("user@localhost")],
        vec!["127.0.0.1:1".to_owned()],
        vec!["127.0.0.1".to_owned()],
    ]
    .into();
    let request = |method: &str, path: &str, hosts: &[String]| {
        let hosts = hosts.iter().fold(String::new(), |all, host| all + "Host: " + host + "\r\n");
        format!("{method} {path} HTTP/1.1\r\n{hosts}Connection: close\r\n\r\n")
    };
    let mut asked = 0;
    for route in ROUTES {
        let path = route.path.replace(['{', '}', '*'], "");
        for hosts in &wrong {
            let answer = exchange(&address, request(route.method.as_str(), &path, hosts).as_bytes());
            // A server may refuse a head without a Host, or with two, before it looks at names.
            let refused = status(&answer) == 421 || (hosts.len() != 1 && status(&answer) == 400);
            assert!(refused, "{} {path} {hosts:?}: {answer}", route.method);
            asked += 1;
        }
        let absolute = format!("http://evil.com:{port}{path}");
        let answer =
            exchange(&address, request(route.method.as_str(), &absolute, std::slice::from_ref(&address)).as_bytes());
        assert_eq!(status(&answer), 421, "{} {absolute}: {answer}", route.method);
        asked += 1;
    }
    // The control: the right names pass.
    for name in ["127.0.0.1", "localhost", "[::1]"] {
        let answer = exchange(&address, request("GET", "/api/v1/health/simple", &[with_port(name)]).as_bytes());
        assert_eq!(status(&answer), 200, "{name}: {answer}");
    }
    assert_eq!(daemon.get("/api/v1/status").await.body["state"], "running");
    println!("H3: {} routes, {asked} requests", ROUTES.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_of_the_configuration_is_answered_to_and_only_its_proxy_is_believed() {
    let env = [
        ("COVE_SERVER__ALLOWED_HOSTS", "cove.example.org"),
        ("COVE_SERVER__TRUSTED_PROXIES", "127.0.0.1"),
        ("COVE_LIMITS__HEALTH", "2"),
    ];
    let daemon = Daemon::start_as("", &env).await;
    let get = |host: &'static str, client: &'static str| {
        let request = daemon.client.get(format!("{}/api/v1/health/simple", daemon.base));
        answer(request.header("host", host).header("x-forwarded-for", client))
    };
    for (client, status) in [("203.0.113.1", 200), ("203.0.113.1", 200), ("203.0.113.1", 429), ("203.0.113.2", 200)] {
        assert_eq!(get("cove.example.org", client).await.status, status, "{client}");
    }
    assert_eq!(get("example.org", "203.0.113.3").await.status, 421);
    let stranger = Daemon::start_as("", &[("COVE_LIMITS__HEALTH", "1")]).await;
    for (client, status) in [("203.0.113.1", 200), ("203.0.113.2", 429)] {
        let request = stranger.client.get(format!("{}/api/v1/health/simple", stranger.base));
        assert_eq!(answer(request.header("x-forwarded-for", client)).await.status, status, "nobody is believed");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_from_one_token_does_not_slow_another() {
    let env = [("COVE_AUTH__REQUIRED", "true"), ("COVE_LIMITS__REQUESTS", "5"), ("COVE_LIMITS__TASK_STARTS", "2")];
    let daemon = Daemon::start_as("", &env).await;
    let token = || {
        let output = super::rig::run(&["tokens", "create", "x", "--scope", "admin"], daemon.folder.path());
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    let (flooding, other) = (token(), token());
    let get = |token: String| answer(daemon.client.get(format!("{}/api/v1/tasks", daemon.base)).bearer_auth(token));
    let mut limited = 0;
    for number in 0..60 {
        let flood = get(flooding.clone()).await;
        assert_eq!(flood.headers["x-ratelimit-limit"], "5");
        limited += u32::from(flood.status == 429);
        if number % 20 == 0 {
            let fair = get(other.clone()).await;
            let left = 4 - number / 20;
            assert_eq!(
                (fair.status, fair.headers["x-ratelimit-remaining"].to_str().unwrap()),
                (200, &*left.to_string())
            );
        }
    }
    assert_eq!(limited, 55);
    let start = |token: &str, method: &str| {
        let url = format!("{}/api/v1/bulk-upload/start", daemon.base);
        let request = daemon.client.request(method.parse().unwrap(), url).bearer_auth(token);
        answer(if method == "HEAD" { request } else { request.json(&json!({})) })
    };
    for status in [422, 422, 429] {
        assert_eq!(start(&flooding, "HEAD").await.status, 200, "a look spends nothing");
        assert_eq!(start(&flooding, "POST").await.status, status, "a refused body counts");
    }
    assert_eq!(start(&other, "POST").await.status, 422);
}
