//! What cove adds before it is at work: from the answer of the browser host ("started") to the first step of
//! the flow on its way to the browser.
//!
//! Everything is real (daemon, browser host, Chromium); between them stand two relays of this bench, one that
//! reads the host's answer and one that reads what goes to the browser and back. A browser whose port has
//! just opened is still coming up, and answers the first questions when it has: the time in which it owes an
//! answer is its own, the rest is cove's. How long such a browser makes anybody wait is measured beside it: every
//! second start is met by a client that does the least one can, and by cove only after it.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use cove::cli::practice::{Site, SiteOptions};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::task::LocalSet;

use super::cdp::Cdp;
use super::{Daemon, PATIENCE, percentile, post};

/// Of each kind: cove's, and the bare client's.
const ATTEMPTS: usize = 100;
/// The first step of the flow below, as the browser is told it.
const FIRST_STEP: &[u8] = b"location.assign(";

#[derive(Clone, Default)]
struct Watch(Arc<Mutex<Seen>>);

#[derive(Default)]
struct Seen {
    started: Option<Instant>,
    /// Questions without an answer, and since when there are any.
    asked: u32,
    since: Option<Instant>,
    waited: Duration,
    took: Vec<Took>,
    /// What the bare client waited for.
    bare: Vec<Bare>,
}

#[derive(Clone, Copy)]
struct Bare {
    /// The page is attached to: a step could be sent.
    attached: Duration,
    /// And has answered.
    answered: Duration,
}

#[derive(Clone, Copy)]
struct Took {
    all: Duration,
    /// Without what the browser made it wait.
    own: Duration,
}

impl Watch {
    fn started(&self) {
        let mut seen = self.0.lock().unwrap();
        let (took, bare) = (std::mem::take(&mut seen.took), std::mem::take(&mut seen.bare));
        *seen = Seen { started: Some(Instant::now()), took, bare, ..Seen::default() };
    }

    fn is_the_bare_clients_turn(&self) -> bool {
        let seen = self.0.lock().unwrap();
        seen.bare.len() <= seen.took.len()
    }

    fn asked(&self, questions: usize) {
        let mut seen = self.0.lock().unwrap();
        if questions > 0 && seen.asked == 0 {
            seen.since = Some(Instant::now());
        }
        seen.asked += u32::try_from(questions).unwrap();
    }

    fn answered(&self, answers: usize) {
        let mut seen = self.0.lock().unwrap();
        seen.asked = seen.asked.saturating_sub(u32::try_from(answers).unwrap());
        if seen.asked == 0
            && let Some(since) = seen.since.take()
        {
            seen.waited += since.elapsed();
        }
    }

    fn stepped(&self) {
        let mut seen = self.0.lock().unwrap();
        // Of each start the first step alone.
        if let Some(started) = seen.started.take() {
            let all = started.elapsed();
            let waited = seen.waited + seen.since.map_or(Duration::ZERO, |since| since.elapsed());
            seen.took.push(Took { all, own: all.saturating_sub(waited) });
        }
    }
}

/// What one side sends over a WebSocket, unmasked, in pieces as they come. A client masks, a browser does not.
struct Frames {
    bytes: Vec<u8>,
    upgraded: bool,
    mask_bytes: usize,
}

impl Frames {
    fn of(mask_bytes: usize) -> Self {
        Self { bytes: Vec::new(), upgraded: false, mask_bytes }
    }

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
            let mut mask = [0; 4];
            mask[..self.mask_bytes].copy_from_slice(&self.bytes[head - self.mask_bytes..head]);
            let frame: Vec<u8> = self.bytes.drain(..head + length).skip(head).collect();
            payloads.push(frame.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask).collect());
        }
        payloads
    }

    /// How long the head of the first frame is, and its payload.
    fn head(&self) -> Option<(usize, usize)> {
        let bytes = &self.bytes;
        let (head, length) = match bytes.get(1)? & 0x7f {
            126 => (4, usize::from(u16::from_be_bytes(bytes.get(2..4)?.try_into().unwrap()))),
            127 => (10, usize::try_from(u64::from_be_bytes(bytes.get(2..10)?.try_into().unwrap())).unwrap()),
            short => (2, usize::from(short)),
        };
        Some((head + self.mask_bytes, length))
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
            // The upgrade is a question as well.
            watch.asked(1);
            let back = watch.clone();
            tokio::task::spawn_local(async move {
                let (mut frames, mut buffer) = (Frames::of(0), vec![0; 64 * 1024]);
                while let Ok(read @ 1..) = answers.read(&mut buffer).await {
                    let was_upgraded = frames.upgraded;
                    let heard = frames.feed(&buffer[..read]);
                    if hears.write_all(&buffer[..read]).await.is_err() {
                        return;
                    }
                    let answers = heard.iter().filter(|text| text.starts_with(b"{\"id\":")).count();
                    back.answered(answers + usize::from(frames.upgraded && !was_upgraded));
                }
            });
            let watch = watch.clone();
            tokio::task::spawn_local(async move {
                let (mut frames, mut buffer) = (Frames::of(4), vec![0; 64 * 1024]);
                while let Ok(read @ 1..) = asks.read(&mut buffer).await {
                    let steps = frames.feed(&buffer[..read]);
                    if steps.iter().any(|step| step.windows(FIRST_STEP.len()).any(|part| part == FIRST_STEP)) {
                        watch.stepped();
                    }
                    watch.asked(steps.len());
                    if takes.write_all(&buffer[..read]).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    own
}

/// The least that leads to an answer of a page: its name, the attachment, one question. Blocking, since nothing else
/// is to run beside it.
fn least(port: u16, path: &str) -> Bare {
    let began = Instant::now();
    let mut cdp = Cdp::connect(&format!("ws://127.0.0.1:{port}{path}"));
    let targets = cdp.call("Target.getTargets", &json!({}), None);
    let pages = targets["targetInfos"].as_array().unwrap();
    let page = pages.iter().find(|target| target["type"] == "page").unwrap();
    let asked = json!({"targetId": page["targetId"], "flatten": true});
    let session = cdp.call("Target.attachToTarget", &asked, None)["sessionId"].as_str().unwrap().to_owned();
    let attached = began.elapsed();
    cdp.call("Runtime.evaluate", &json!({"expression": "1"}), Some(&session));
    Bare { attached, answered: began.elapsed() }
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
                let is_bare = port.is_some() && watch.is_the_bare_clients_turn();
                if let (Some(port), true) = (port, is_bare) {
                    let path = answer["ok"]["ws_path"].as_str().unwrap().to_owned();
                    let took = tokio::task::spawn_blocking(move || least(port, &path)).await.unwrap();
                    watch.0.lock().unwrap().bare.push(took);
                }
                if let Some(port) = port {
                    answer["ok"]["port"] = json!(tap(port, watch.clone()).await);
                }
                if hears.write_all(format!("{answer}\n").as_bytes()).await.is_err() {
                    return;
                }
                if port.is_some() && !is_bare {
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
                (0..2 * ATTEMPTS).map(|_| json!({"profile": "anna", "inputs": {"site": site.url()}})).collect();
            let body = json!({"flow": "look", "max_attempts": 1, "items": items});
            post(&daemon.base, "/api/v1/bulk-upload/start", &body).await;
            let began = Instant::now();
            while watch.0.lock().unwrap().took.len() < ATTEMPTS {
                assert!(began.elapsed() < 10 * PATIENCE, "{} attempts", watch.0.lock().unwrap().took.len());
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            // A drain speaks to the host, through a relay that lives on this thread.
            tokio::task::spawn_blocking(move || daemon.stop()).await.unwrap();
        })
        .await;
    let pid = rustix::process::Pid::from_child(&host);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    host.wait().unwrap();
    site.stop().await;
    let mut seen = watch.0.lock().unwrap();
    tell(&std::mem::take(&mut seen.took), &std::mem::take(&mut seen.bare));
}

fn tell(took: &[Took], bare: &[Bare]) {
    let of = |what: &str, mut times: Vec<Duration>, says: &str| {
        let (p99, median) = (percentile(&mut times.clone(), 99), percentile(&mut times, 50));
        println!("{what} {p99:8.1} ms   p99 of {}, median {median:.1} {says}", times.len());
    };
    let (all, own) = (took.iter().map(|took| took.all).collect(), took.iter().map(|took| took.own).collect());
    of("start answered to first step, cove ", own, "(at most 50)");
    of("  and what the browser makes it wait", all, "");
    let attached = bare.iter().map(|bare| bare.attached).collect();
    of("  a bare client: attached           ", attached, "(the tabs, the attachment; nothing switched on)");
    let answered: Vec<_> = bare.iter().map(|bare| bare.answered).collect();
    of("  a bare client: the page's answer  ", answered.clone(), "(no client has a step done before)");
    let median = |mut times: Vec<Duration>| percentile(&mut times, 50);
    let beyond = median(took.iter().map(|took| took.all).collect()) - median(answered);
    println!("  cove beyond the bare client        {beyond:8.1} ms   between the medians");
}
