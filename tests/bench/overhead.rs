//! What cove adds before it is at work: from the answer of the browser host ("started") to the first step of
//! the flow on its way to the browser.
//!
//! Everything is real (daemon, browser host, Chromium); between them stand two relays of this bench, one that
//! reads the host's answer and one that reads what is sent to the browser.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use cove::cli::practice::{Site, SiteOptions};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::task::LocalSet;

use super::{Daemon, PATIENCE, percentile, post};

const ATTEMPTS: usize = 100;
/// The first step of the flow below, as the browser is told it.
const FIRST_STEP: &[u8] = b"\"Page.navigate\"";

#[derive(Clone, Default)]
struct Watch(Arc<Mutex<Seen>>);

#[derive(Default)]
struct Seen {
    started: Option<Instant>,
    took: Vec<Duration>,
}

impl Watch {
    fn started(&self) {
        self.0.lock().unwrap().started = Some(Instant::now());
    }

    fn stepped(&self) {
        let mut seen = self.0.lock().unwrap();
        // Of each start the first step alone.
        if let Some(started) = seen.started.take() {
            seen.took.push(started.elapsed());
        }
    }
}

/// What a client sends over a WebSocket, unmasked, in pieces as they come.
#[derive(Default)]
struct Frames {
    bytes: Vec<u8>,
    upgraded: bool,
}

impl Frames {
    /// The payloads that are whole now.
    fn feed(&mut self, bytes: &[u8]) -> Vec<Vec<u8>> {
        self.bytes.extend_from_slice(bytes);
        if !self.upgraded {
            let Some(end) = self.bytes.windows(4).position(|four| four == b"\r\n\r\n") else { return Vec::new() };
            self.bytes.drain(..end + 4);
            self.upgraded = true;
        }
        let mut payloads = Vec::new();
        while let Some((head, length)) = self.head().filter(|(head, length)| self.bytes.len() >= head + length) {
            let mask: [u8; 4] = self.bytes[head - 4..head].try_into().unwrap();
            let frame: Vec<u8> = self.bytes.drain(..head + length).skip(head).collect();
            payloads.push(frame.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask).collect());
        }
        payloads
    }

    /// How long the head of the first frame is, and its payload.
    fn head(&self) -> Option<(usize, usize)> {
        let bytes = &self.bytes;
        Some(match bytes.get(1)? & 0x7f {
            126 => (8, usize::from(u16::from_be_bytes(bytes.get(2..4)?.try_into().unwrap()))),
            127 => (14, usize::try_from(u64::from_be_bytes(bytes.get(2..10)?.try_into().unwrap())).unwrap()),
            short => (6, usize::from(short)),
        })
    }
}

/// A port in front of a browser's; its address is given back.
async fn tap(port: u16, watch: Watch) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let own = listener.local_addr().unwrap().port();
    tokio::task::spawn_local(async move {
        loop {
            let (client, _) = listener.accept().await.unwrap();
            let browser = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
            for stream in [&client, &browser] {
                stream.set_nodelay(true).unwrap();
            }
            let (mut asks, mut hears) = client.into_split();
            let (mut answers, mut takes) = browser.into_split();
            tokio::task::spawn_local(async move { tokio::io::copy(&mut answers, &mut hears).await });
            let watch = watch.clone();
            tokio::task::spawn_local(async move {
                let (mut frames, mut buffer) = (Frames::default(), vec![0; 64 * 1024]);
                while let Ok(read @ 1..) = asks.read(&mut buffer).await {
                    let steps = frames.feed(&buffer[..read]);
                    if steps.iter().any(|step| step.windows(FIRST_STEP.len()).any(|part| part == FIRST_STEP)) {
                        watch.stepped();
                    }
                    if takes.write_all(&buffer[..read]).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    own
}

/// Between the daemon and the real host: every browser that is started gets a tap.
async fn between(listener: UnixListener, host: PathBuf, watch: Watch) {
    loop {
        let (daemon, _) = listener.accept().await.unwrap();
        let host = UnixStream::connect(&host).await.unwrap();
        let (mut asks, mut hears) = daemon.into_split();
        let (answers, mut takes) = host.into_split();
        tokio::task::spawn_local(async move { tokio::io::copy(&mut asks, &mut takes).await });
        let watch = watch.clone();
        tokio::task::spawn_local(async move {
            let mut lines = BufReader::new(answers).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                let mut answer: Value = serde_json::from_str(&line).unwrap();
                let port = answer["ok"]["port"].as_u64().and_then(|port| u16::try_from(port).ok());
                if let Some(port) = port {
                    answer["ok"]["port"] = json!(tap(port, watch.clone()).await);
                }
                if hears.write_all(format!("{answer}\n").as_bytes()).await.is_err() {
                    return;
                }
                if port.is_some() {
                    watch.started();
                }
            }
        });
    }
}

async fn put_flow(base: &str) {
    let flow = json!({"title": "look", "steps": [{"type": "navigate", "url": "{{ site }}"}],
        "cove": {"inputs": {"site": {"type": "url", "required": true}}}});
    let put = cove::outbound::local().build().unwrap().put(format!("{base}/api/v1/flows/look")).json(&flow);
    let answer = put.send().await.unwrap();
    assert!(answer.status().is_success(), "{}", answer.text().await.unwrap());
}

pub async fn measure() {
    let folder = tempfile::tempdir().unwrap();
    let (real, own) = (folder.path().join("host.sock"), folder.path().join("between.sock"));
    let mut host = Command::new(env!("CARGO_BIN_EXE_cove"))
        .args(["browser-host", "--sandbox", "false", "--socket"])
        .arg(&real)
        .arg("--profiles-dir")
        .arg(folder.path().join("profiles"))
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let began = Instant::now();
    while !real.exists() {
        assert!(began.elapsed() < PATIENCE, "no browser host");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let site = Site::start(SiteOptions::new(folder.path().join("site"))).await.unwrap();
    let watch = Watch::default();
    let relays = LocalSet::new();
    relays.spawn_local(between(UnixListener::bind(&own).unwrap(), real, watch.clone()));
    relays
        .run_until(async {
            let settings = format!("[browser]\nhost_socket = \"{}\"\n[engine]\nslots = 1", own.display());
            let mut daemon = Daemon::start(&settings).await;
            put_flow(&daemon.base).await;
            post(&daemon.base, "/api/v1/profiles", &json!({"name": "anna"})).await;
            let items: Vec<Value> =
                (0..ATTEMPTS).map(|_| json!({"profile": "anna", "inputs": {"site": site.url()}})).collect();
            let body = json!({"flow": "look", "max_attempts": 1, "items": items});
            post(&daemon.base, "/api/v1/bulk-upload/start", &body).await;
            let began = Instant::now();
            while watch.0.lock().unwrap().took.len() < ATTEMPTS {
                assert!(began.elapsed() < 10 * PATIENCE, "{} attempts", watch.0.lock().unwrap().took.len());
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            daemon.stop();
        })
        .await;
    let pid = rustix::process::Pid::from_child(&host);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    host.wait().unwrap();
    site.stop().await;
    let mut took = std::mem::take(&mut watch.0.lock().unwrap().took);
    println!(
        "start answered to first step sent   {:8.1} ms   p99 of {ATTEMPTS}, median {:.1} (at most 50)",
        percentile(&mut took.clone(), 99),
        percentile(&mut took, 50)
    );
}
