//! What the guards cost: `health/simple` with all of them on, beside a bare hyper that says hello; and how long a
//! read takes while others submit.
//!
//! Both servers are processes of their own with the same runtime, asked by the same client, by turns in one run: the
//! machine's mood is the same for both.

use std::convert::Infallible;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use hyper::body::Bytes;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::task::JoinSet;

use crate::locks::Connection;
use crate::{Daemon, percentile, post, put_flow};

/// The argument with which this program is the bare server.
pub const HELLO: &str = "--serve-hello";
const CONNECTIONS: usize = 16;
const TURNS: usize = 10;
const TURN: Duration = Duration::from_secs(1);
const SUBMITTERS: usize = 64;
const READS: usize = 2_000;

/// A bare hyper with an answer of the same length; it ends with its standard input.
pub fn serve_hello() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        println!("{}", listener.local_addr().unwrap());
        let ended = tokio::task::spawn_blocking(|| std::io::stdin().lines().count());
        let serving = async {
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                stream.set_nodelay(true).unwrap();
                connections.spawn(async move {
                    let hello = service_fn(|_| async {
                        let body = Bytes::from_static(b"{\"ok\":true,\"status\":\"healthy\"}");
                        Ok::<_, Infallible>(hyper::Response::new(http_body_util::Full::new(body)))
                    });
                    // A connection that the client gives up is none of ours.
                    drop(http1::Builder::new().serve_connection(TokioIo::new(stream), hello).await);
                });
            }
        };
        tokio::select! {
            _ = ended => {}
            () = serving => {}
        }
    });
}

/// Requests a second.
async fn rate(host: &str, path: &'static str) -> f64 {
    let until = Instant::now() + TURN;
    let mut clients = JoinSet::new();
    for _ in 0..CONNECTIONS {
        let host = host.to_owned();
        clients.spawn(async move {
            let mut connection = Connection::open(&host).await;
            let mut asked = 0_u32;
            while Instant::now() < until {
                connection.get(path).await;
                asked += 1;
            }
            asked
        });
    }
    let mut asked = 0;
    while let Some(done) = clients.join_next().await {
        asked += done.unwrap();
    }
    f64::from(asked) / TURN.as_secs_f64()
}

fn median(mut rates: Vec<f64>) -> f64 {
    rates.sort_by(f64::total_cmp);
    rates[rates.len() / 2]
}

pub async fn guards() {
    let mut daemon = Daemon::start_limited("health = 1000000\nwindow_seconds = 1", "[log]\nlevel = \"warn\"").await;
    let host = daemon.base.trim_start_matches("http://").to_owned();
    let mut bare = Command::new(std::env::current_exe().unwrap())
        .args(["--bench", HELLO])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut address = String::new();
    BufReader::new(bare.stdout.take().unwrap()).read_line(&mut address).unwrap();
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..TURNS {
        theirs.push(rate(address.trim(), "/hello").await);
        ours.push(rate(&host, "/api/v1/health/simple").await);
    }
    let (ours, theirs) = (median(ours), median(theirs));
    println!(
        "health/simple, all guards on        {ours:8.0} a second; a bare hyper {theirs:.0}: {:.0} % (at least 80)",
        ours / theirs * 100.0
    );
    drop(bare.stdin.take());
    bare.wait().unwrap();
    daemon.stop();
}

/// Somewhere to publish that never starts: a flow, a profile and a film.
async fn furnish(daemon: &Daemon) -> std::path::PathBuf {
    put_flow(&daemon.base).await;
    post(&daemon.base, "/api/v1/profiles", &json!({"name": "anna"})).await;
    let film = daemon.folder.path().join("media/1.mp4");
    std::fs::write(&film, "film").unwrap();
    film
}

/// A task of `items`.
fn order(film: &std::path::Path, number: usize, items: usize) -> String {
    let items: Vec<_> = (0..items)
        .map(|item| {
            json!({"profile": "anna", "inputs": {"site": "http://127.0.0.1:9", "account": "anna", "video": film,
                "caption": format!("{number}-{item}")}})
        })
        .collect();
    json!({"flow": "atelier", "items": items}).to_string()
}

/// What a scrape takes after much traffic: 10,000 requests of every kind that asks or submits, 10,000 items in the
/// queue, and every histogram filled.
pub async fn scrape() {
    const REQUESTS: usize = 9_000;
    const TASKS: usize = 1_000;
    const SCRAPES: usize = 300;
    const READS: [&str; 6] = ["tasks", "locks", "profiles", "flows", "status", "health/simple"];
    let mut daemon = Daemon::start("[browser]\nchromium = \"/nonexistent/chromium\"").await;
    let film = furnish(&daemon).await;
    let host = daemon.base.trim_start_matches("http://").to_owned();
    let mut connection = Connection::open(&host).await;
    for number in 0..TASKS {
        connection.post("/api/v1/bulk-upload/start", &order(&film, number, 10)).await;
    }
    for number in 0..REQUESTS {
        connection.get(&format!("/api/v1/{}", READS[number % READS.len()])).await;
    }
    for (name, path) in [("Prometheus text", "/metrics"), ("JSON", "/api/v1/metrics")] {
        let (mut took, mut bytes) = (Vec::new(), 0);
        for _ in 0..SCRAPES {
            let began = Instant::now();
            bytes = connection.get(path).await.len();
            took.push(began.elapsed());
        }
        println!(
            "scrape, {name:24} {:13.2} ms   p99 of {SCRAPES}, median {:.2}, {bytes} bytes (at most 5)",
            percentile(&mut took.clone(), 99),
            percentile(&mut took, 50)
        );
    }
    daemon.stop();
}

pub async fn reads() {
    let mut daemon = Daemon::start("[browser]\nchromium = \"/nonexistent/chromium\"").await;
    let film = furnish(&daemon).await;
    let host = daemon.base.trim_start_matches("http://").to_owned();
    let mut submitters = JoinSet::new();
    for number in 0..SUBMITTERS {
        let (host, body) = (host.clone(), order(&film, number, 1));
        submitters.spawn(async move {
            let mut connection = Connection::open(&host).await;
            loop {
                connection.post("/api/v1/bulk-upload/start", &body).await;
            }
        });
    }
    let mut connection = Connection::open(&host).await;
    let task =
        post(&daemon.base, "/api/v1/bulk-upload/start", &serde_json::from_str(&order(&film, 0, 1)).unwrap()).await;
    let path = format!("/api/v1/tasks/{}", task["task_id"].as_str().unwrap());
    let mut took = Vec::new();
    for _ in 0..READS {
        let began = Instant::now();
        connection.get(&path).await;
        took.push(began.elapsed());
    }
    submitters.shutdown().await;
    println!(
        "a read while {SUBMITTERS} connections submit    {:8.2} ms   p99 of {READS}, median {:.2} (at most 5)",
        percentile(&mut took.clone(), 99),
        percentile(&mut took, 50)
    );
    daemon.stop();
}
