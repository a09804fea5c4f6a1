//! The figures of the daemon, printed: `cargo bench --bench figures` (release build, real browsers), or
//! some of them by name: `cargo bench --bench figures -- locks`.
//!
//! Binary size, start to ready, idle memory and processor, a drain with nothing armed, submit to the provider's start call, locks a second, memory
//! with four sessions, a lent session beside the browser's own port, a snapshot of a large store. Nothing is asserted: a figure is for a person to read, and the machine may be busy.

#![allow(clippy::unwrap_used, reason = "a bench fails by panicking")]

mod cdp;
mod crowd;
mod http;
mod locks;
mod overhead;
mod proxy;
mod queue;
mod quiet;
mod snapshot;

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use cove::cli::practice::{Site, SiteOptions};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixListener;

const STARTS: usize = 20;
const SUBMITS: usize = 300;
const SESSIONS: usize = 4;
const PATIENCE: Duration = Duration::from_secs(60);
const ATELIER: &str = include_str!("../../packaging/flows/atelier.json");

struct Daemon {
    folder: tempfile::TempDir,
    child: Child,
    base: String,
    took: Duration,
}

impl Daemon {
    async fn start(settings: &str) -> Self {
        Self::start_limited("task_starts = 0\nhealth = 0\nmetrics = 0\nrequests = 0", settings).await
    }

    /// `limits` are the lines of that section.
    async fn start_limited(limits: &str, settings: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("media")).unwrap();
        let text = format!(
            "[server]\nlisten = \"127.0.0.1:0\"\n[state]\ndir = \"{0}/state\"\n[media]\nroots = [\"{0}/media\"]\n\
             [auth]\nrequired = false\n[resources]\ncpu_threshold_percent = 0\n[limits]\n{limits}\n{settings}\n",
            folder.path().display()
        );
        std::fs::write(folder.path().join("cove.toml"), text).unwrap();
        let (child, base, took) = boot(folder.path()).await;
        Self { folder, child, base, took }
    }

    fn stop(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        self.child.wait().unwrap();
    }
}

#[expect(clippy::zombie_processes, reason = "the caller stops it and waits")]
/// From the start of the process to the moment when its address can be read.
async fn boot(folder: &Path) -> (Child, String, Duration) {
    let listen = folder.join("state/listen");
    let log = std::fs::File::create(folder.join("log")).unwrap();
    let began = Instant::now();
    let mut child = Command::new(env!("CARGO_BIN_EXE_cove"))
        .args(["serve", "--config"])
        .arg(folder.join("cove.toml"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .unwrap();
    loop {
        if let Ok(address) = std::fs::read_to_string(&listen) {
            let base = format!("http://{}", address.trim());
            let health = cove::outbound::local().build().unwrap().get(format!("{base}/api/v1/health")).send().await;
            if health.is_ok_and(|health| health.status() == 200) {
                return (child, base, began.elapsed());
            }
        }
        if began.elapsed() > PATIENCE {
            child.kill().unwrap();
            child.wait().unwrap();
            panic!("{}", std::fs::read_to_string(folder.join("log")).unwrap());
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Proportional set size, in MB.
fn pss_mb(pid: u32) -> f64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let line = text.lines().find(|line| line.starts_with("Pss:")).unwrap();
    let kilobytes: f64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kilobytes / 1024.0
}

fn percentile(times: &mut [Duration], percent: usize) -> f64 {
    times.sort_unstable();
    times[(times.len() * percent).div_ceil(100).saturating_sub(1)].as_secs_f64() * 1000.0
}

async fn post(base: &str, path: &str, body: &Value) -> Value {
    let answer =
        cove::outbound::local().build().unwrap().post(format!("{base}{path}")).json(body).send().await.unwrap();
    let status = answer.status();
    let body: Value = answer.json().await.unwrap();
    assert!(status.is_success(), "{body}");
    body
}

async fn put_flow(base: &str) {
    let put = cove::outbound::local().build().unwrap().put(format!("{base}/api/v1/flows/atelier"));
    let put = put.header("content-type", "application/json").body(ATELIER).send().await.unwrap();
    assert!(put.status().is_success());
}

fn size() {
    let binary = env!("CARGO_BIN_EXE_cove");
    let folder = tempfile::tempdir().unwrap();
    let stripped = folder.path().join("cove");
    let done = Command::new("strip").arg("-o").arg(&stripped).arg(binary).status();
    match done {
        Ok(status) if status.success() => {
            let bytes = std::fs::metadata(&stripped).unwrap().len();
            println!("binary, stripped                    {:8.1} MB   (at most 25)", to_mb(bytes));
        }
        _ => println!("binary, stripped                    not measured: no `strip` here (binutils)"),
    }
}

#[expect(clippy::cast_precision_loss, reason = "a figure for a person")]
fn to_mb(bytes: u64) -> f64 {
    bytes as f64 / 1024.0 / 1024.0
}

async fn starts() {
    let mut times = Vec::new();
    let mut idle = 0.0;
    for round in 0..STARTS {
        let mut daemon = Daemon::start("").await;
        times.push(daemon.took);
        if round == 0 {
            tokio::time::sleep(Duration::from_secs(5)).await;
            idle = pss_mb(daemon.child.id());
        }
        daemon.stop();
    }
    println!(
        "start to ready, empty store         {:8.1} ms   median of {STARTS}, worst {:.1} (at most 100)",
        percentile(&mut times.clone(), 50),
        percentile(&mut times, 100)
    );
    println!("idle memory of the daemon (PSS)     {idle:8.1} MB   (at most 20)");
}

/// A host that starts nothing and says when it was asked.
async fn fake_host(listener: UnixListener, asked: mpsc::Sender<Instant>) {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let asked = asked.clone();
        let (read, mut write) = stream.into_split();
        let mut lines = BufReader::new(read).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            let request: Value = serde_json::from_str(&line).unwrap();
            let answer = match request["call"].as_str() {
                None => json!({"cove_browser_host": 1, "pid": std::process::id()}),
                Some("start") => {
                    asked.send(Instant::now()).unwrap();
                    json!({"id": request["id"], "error": {"code": "browser_start_failed", "detail": "a bench"}})
                }
                Some("can_read") => json!({"id": request["id"], "ok": true}),
                Some("running") => json!({"id": request["id"], "ok": []}),
                Some(_) => json!({"id": request["id"], "ok": null}),
            };
            write.write_all(format!("{answer}\n").as_bytes()).await.unwrap();
        }
    }
}

async fn submits() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("host.sock");
    let (tell, asked) = mpsc::channel();
    let host = tokio::task::LocalSet::new();
    let listener = UnixListener::bind(&socket).unwrap();
    host.spawn_local(fake_host(listener, tell));
    host.run_until(async {
        let settings = format!("[browser]\nhost_socket = \"{}\"\n[engine]\nmax_attempts = 1", socket.display());
        let mut daemon = Daemon::start(&settings).await;
        put_flow(&daemon.base).await;
        post(&daemon.base, "/api/v1/profiles", &json!({"name": "anna"})).await;
        let film = daemon.folder.path().join("media/1.mp4");
        std::fs::write(&film, "film").unwrap();
        let client = cove::outbound::local().build().unwrap();
        let mut times = Vec::new();
        for number in 0..SUBMITS {
            let body = json!({"flow": "atelier", "items": [{"profile": "anna", "inputs": {"site": "http://127.0.0.1:9",
                "account": "anna", "video": film, "caption": number.to_string()}}]});
            let began = Instant::now();
            let answer = client.post(format!("{}/api/v1/bulk-upload/start", daemon.base)).json(&body).send();
            assert_eq!(answer.await.unwrap().status(), 202);
            let at = loop {
                if let Ok(at) = asked.try_recv() {
                    break at;
                }
                assert!(began.elapsed() < PATIENCE, "no start call");
                tokio::time::sleep(Duration::from_micros(200)).await;
            };
            times.push(at.saturating_duration_since(began));
            // The next one finds the profile free again.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        println!(
            "submit to the provider's start call {:8.1} ms   p99 of {SUBMITS}, median {:.1} (at most 10)",
            percentile(&mut times.clone(), 99),
            percentile(&mut times, 50)
        );
        daemon.stop();
    })
    .await;
}

async fn sessions() {
    let site_folder = tempfile::tempdir().unwrap();
    let site = Site::start(SiteOptions { processing_ms: 5_000, ..SiteOptions::new(site_folder.path()) }).await.unwrap();
    let mut daemon = Daemon::start("[browser]\nsandbox = false\n[engine]\nslots = 4").await;
    put_flow(&daemon.base).await;
    let mut items = Vec::new();
    for number in 0..SESSIONS {
        let profile = format!("p{number}");
        post(&daemon.base, "/api/v1/profiles", &json!({"name": profile})).await;
        let film = daemon.folder.path().join(format!("media/{number}.mp4"));
        std::fs::write(&film, vec![7; 4 * 1024 * 1024]).unwrap();
        items.push(json!({"profile": profile, "inputs": {"site": site.url(), "account": profile, "video": film,
            "caption": "memory"}}));
    }
    post(&daemon.base, "/api/v1/bulk-upload/start", &json!({"flow": "atelier", "items": items})).await;
    let (mut most, mut busiest) = (0.0_f64, 0);
    let began = Instant::now();
    loop {
        let status = cove::outbound::local().build().unwrap().get(format!("{}/api/v1/status", daemon.base)).send();
        let status: Value = status.await.unwrap().json().await.unwrap();
        let busy = status["slots"]["busy"].as_u64().unwrap();
        most = most.max(pss_mb(daemon.child.id()));
        busiest = busiest.max(busy);
        if busy == 0 && began.elapsed() > Duration::from_secs(5) {
            break;
        }
        assert!(began.elapsed() < 2 * PATIENCE, "{status}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    println!("daemon's memory with {busiest} sessions (PSS) {most:8.1} MB   highest sample (at most 60)");
    daemon.stop();
    site.stop().await;
}

async fn lock_pairs() {
    let mut daemon = Daemon::start("").await;
    let (a_second, mut took) = locks::measure(&daemon.base).await;
    println!(
        "locks: acquire and release          {a_second:8.0} pairs a second over 16 connections (at least 4000); \
         a pair {:.2} ms, p99 {:.2}",
        percentile(&mut took, 50),
        percentile(&mut took, 99)
    );
    daemon.stop();
}

/// With so many queued items; the browser is one that cannot start, so nothing of them runs.
async fn recovery() {
    const QUEUED: usize = 100_000;
    let mut daemon = Daemon::start("[browser]\nchromium = \"/nonexistent/chromium\"").await;
    daemon.stop();
    let state = daemon.folder.path().join("state");
    for file in [cove::store::STATE_FILE, cove::store::LEDGER_FILE] {
        std::fs::remove_file(state.join(file)).unwrap();
    }
    queue::Queue::fill(&state, QUEUED).await.close().await;
    let mut took = Vec::new();
    for _ in 0..10 {
        let (mut child, _, ready) = boot(daemon.folder.path()).await;
        took.push(ready);
        // It is at work when it dies.
        tokio::time::sleep(Duration::from_millis(300)).await;
        child.kill().unwrap();
        child.wait().unwrap();
        std::fs::remove_file(state.join("listen")).unwrap();
    }
    println!(
        "ready after kill -9, {QUEUED} queued {:10.1} ms   median of 10; worst {:.1} (at most 2000)",
        percentile(&mut took, 50),
        percentile(&mut took, 100)
    );
}

/// The same claims from a short and from a long queue, by turns: the machine's mood is the same for both.
async fn claims() {
    const SIZES: [usize; 2] = [1_000, 1_000_000];
    const TURNS: usize = 20;
    let folders = SIZES.map(|_| tempfile::tempdir().unwrap());
    let mut queues = Vec::new();
    for (folder, items) in folders.iter().zip(SIZES) {
        queues.push(queue::Queue::fill(folder.path(), items).await);
    }
    let mut took: Vec<Vec<Duration>> = vec![Vec::new(); SIZES.len()];
    for _ in 0..TURNS {
        for (queue, took) in queues.iter().zip(&mut took) {
            took.extend(queue.claims().await);
        }
    }
    for (items, took) in SIZES.into_iter().zip(&mut took) {
        println!(
            "claim from a queue of {items:9} {:13.2} ms   median of {}; p99 {:.2}",
            percentile(took, 50),
            took.len(),
            percentile(took, 99)
        );
    }
    let ratio = percentile(&mut took[1], 50) / percentile(&mut took[0], 50);
    println!("claim, long against short queue {ratio:12.2} times   (at most 1.5)");
    for queue in queues {
        queue.close().await;
    }
}

fn main() {
    // `cargo test` runs benches too; without `--bench` there is nothing to do.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    if std::env::args().any(|argument| argument == http::HELLO) {
        return http::serve_hello();
    }
    let names: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    let wanted = |name: &str| names.is_empty() || names.iter().any(|given| given == name);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        if wanted("size") {
            size();
        }
        if wanted("starts") {
            starts().await;
        }
        if wanted("drain") {
            quiet::drain().await;
        }
        if wanted("idle-cpu") {
            quiet::idle_cpu().await;
        }
        if wanted("submits") {
            submits().await;
        }
        if wanted("recovery") {
            recovery().await;
        }
        if wanted("claims") {
            claims().await;
        }
        if wanted("snapshot") {
            snapshot::measure().await;
        }
        if wanted("locks") {
            lock_pairs().await;
        }
        if wanted("sessions") {
            sessions().await;
        }
        if wanted("overhead") {
            overhead::measure().await;
        }
        if wanted("crowd") {
            let mut daemon = Daemon::start("").await;
            let address = daemon.base.trim_start_matches("http://").to_owned();
            let whole = crowd::Crowd { heads: 500, bodies: 500, idle: 500, readers: 100 };
            println!("crowd: {}", crowd::measure(&address, daemon.child.id(), whole).await.told());
            daemon.stop();
        }
        if wanted("guards") {
            http::guards().await;
        }
        if wanted("reads") {
            http::reads().await;
        }
        if wanted("scrape") {
            http::scrape().await;
        }
        if wanted("proxy") {
            proxy::measure().await;
        }
    });
}
