//! A real Chromium, a small site that counts clicks, and a gate that notes what it saw.
//!
//! Each test has a browser and a folder of its own. The browser's processes are ended and waited for when the
//! rig is dropped, also by a test that fails; nothing outside of the folder is written.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use cove::browser::evidence::EvidenceFolder;
use cove::browser::{AttemptName, CommitGate, Mode, Replay, ReplayEnd, Replayed, Session, replay};
use cove::model::flow::Flow;
use cove::model::{Failure, FailureCode, Fence, FileInput, InputValue, ItemId, ProfileId, Proofs, Timestamp};
use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

/// For anything that must happen soon on a machine that may be busy.
pub const SOON: Duration = Duration::from_secs(40);
/// What an attempt grants beyond its deadline.
pub const GRACE: Duration = Duration::from_secs(30);
pub const ROOMY: u64 = 20_000_000;
const MAX_HEAD_BYTES: usize = 65_536;
static BROWSERS: Semaphore = Semaphore::const_new(2);

/// Sends a click with a number of its own before the handler goes on; Chrome may resend, the number tells.
const SHARED: &str = "<script>let clicks = 0; const load = Math.random();
  function shared() { const call = new XMLHttpRequest(); call.open('POST', '/clicked', false);
    call.send(load + ':' + ++clicks); }</script>";

type Clicks = Arc<Mutex<BTreeSet<String>>>;

pub struct Rig {
    session: Session,
    child: Child,
    folder: tempfile::TempDir,
    port: u16,
    pages: Arc<Mutex<BTreeMap<String, String>>>,
    clicks: Clicks,
    attempts: Mutex<u32>,
    _site: JoinSet<()>,
    _permit: SemaphorePermit<'static>,
}

pub struct Case {
    pub flow: Flow,
    pub inputs: BTreeMap<String, InputValue>,
    pub mode: Mode,
    pub max_bytes: u64,
    pub deadline: Duration,
    pub refuse: bool,
}

pub struct Ended {
    pub replayed: Replayed,
    /// Clicks that the site knew of at each question of the replay.
    pub asked: Vec<usize>,
    pub clicks: usize,
    dir: PathBuf,
}

impl Rig {
    pub async fn start() -> Self {
        let permit = BROWSERS.acquire().await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("profile");
        std::fs::create_dir(&data).unwrap();
        let child = Command::new("/usr/bin/chromium")
            .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"])
            .args(["--disable-background-networking", "--disable-component-update", "--disable-sync"])
            .args(["--remote-debugging-port=0", "about:blank"])
            .arg(format!("--user-data-dir={}", data.display()))
            .env("HOME", folder.path())
            .env("TMPDIR", folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .unwrap();
        let session = Session {
            profile: ProfileId::new("p").unwrap(),
            port: 0,
            ws_path: String::new(),
            pid: child.id(),
            started_at: Timestamp::from_millis(0),
            headless: true,
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (pages, clicks) = (Arc::default(), Clicks::default());
        let mut site = JoinSet::new();
        site.spawn(serve(listener, Arc::clone(&pages), Arc::clone(&clicks)));
        // Made before the first wait, so that the browser is ended whatever happens next.
        let attempts = Mutex::new(0);
        let mut rig = Self { session, child, folder, port, pages, clicks, attempts, _site: site, _permit: permit };
        let found = timeout(SOON, devtools(data.join("DevToolsActivePort"))).await.expect("a DevTools port");
        (rig.session.port, rig.session.ws_path) = found;
        rig
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    /// The same site under another origin.
    pub fn elsewhere(&self, path: &str) -> String {
        format!("http://localhost:{}{path}", self.port)
    }

    pub fn page(&self, path: &str, body: &str) {
        let html = format!("<!doctype html><meta charset=utf-8><title>{path}</title>{SHARED}<body>{body}</body>");
        self.pages.lock().unwrap().insert(path.to_owned(), html);
    }

    pub fn file(&self, name: &str, bytes: &[u8]) -> InputValue {
        let path = self.folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        let bytes = bytes.len() as u64;
        InputValue::File(FileInput { path, sha256: String::new(), bytes, device: 0, inode: 0, mtime_ns: 0 })
    }

    pub fn kill(&self) {
        kill_process_group(self.group(), Signal::KILL).unwrap();
    }

    fn group(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    pub async fn run(&self, case: &Case) -> Ended {
        let attempt = {
            let mut attempts = self.attempts.lock().unwrap();
            *attempts += 1;
            *attempts
        };
        self.clicks.lock().unwrap().clear();
        let name = AttemptName { fence: Fence::new(u64::from(attempt)), attempt };
        let evidence = EvidenceFolder::create(self.folder.path(), ItemId::new(1), name, case.max_bytes).unwrap();
        let gate = Gate { clicks: Arc::clone(&self.clicks), asked: Mutex::default(), refuse: case.refuse };
        let asked = Replay {
            flow: &case.flow,
            inputs: &case.inputs,
            mode: case.mode,
            evidence: &evidence,
            deadline: case.deadline,
            cancel: CancellationToken::new(),
            attached: CancellationToken::new(),
            open_waits: &[],
        };
        let replayed = timeout(case.deadline + GRACE, replay(&self.session, asked, &gate));
        let replayed = replayed.await.expect("a replay ends within its deadline and the attempt's grace");
        let clicks = self.clicks.lock().unwrap().len();
        Ended { replayed, asked: gate.asked.into_inner().unwrap(), clicks, dir: evidence.dir }
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        let _gone = kill_process_group(self.group(), Signal::KILL);
        let _waited = self.child.wait();
        // Children of the group die a moment after it; the folder is theirs until then.
        let until = Instant::now() + Duration::from_secs(5);
        while rustix::process::test_kill_process_group(self.group()).is_ok() && Instant::now() < until {
            std::thread::yield_now();
        }
    }
}

impl Case {
    /// Opens `path` of the rig's site, then the steps.
    pub fn new(rig: &Rig, path: &str, steps: &[Value]) -> Self {
        Self::with(rig, path, steps, &json!({}))
    }

    pub fn with(rig: &Rig, path: &str, steps: &[Value], cove: &Value) -> Self {
        let first = json!({"type": "navigate", "url": rig.url(path), "timeout": 30000});
        let steps: Vec<_> = std::iter::once(first).chain(steps.iter().cloned()).collect();
        let recording = json!({"title": "t", "steps": steps, "cove": cove, "timeout": 8000});
        let (flow, _warnings) = Flow::parse(recording.to_string().as_bytes()).unwrap();
        let (inputs, mode) = (BTreeMap::new(), Mode::Publish);
        Self { flow, inputs, mode, max_bytes: ROOMY, deadline: Duration::from_mins(2), refuse: false }
    }
}

impl Ended {
    pub fn failure(&self) -> &Failure {
        match &self.replayed.end {
            ReplayEnd::Unarmed(failure) | ReplayEnd::Unknown(failure) => failure,
            ReplayEnd::Confirmed { .. } => panic!("confirmed: {:?}", self.replayed),
        }
    }

    /// Nothing was dispatched, and the gate was never asked.
    pub fn unarmed(&self, code: FailureCode) {
        assert!(matches!(self.replayed.end, ReplayEnd::Unarmed(_)), "{:?}", self.replayed);
        assert_eq!(self.failure().code, code, "{:?}", self.replayed);
        assert!(self.asked.is_empty(), "the gate was asked");
        assert_eq!(self.clicks, 0);
    }

    /// Asked once with no click before it, clicked once, and not known.
    pub fn unknown_after_one_click(&self) {
        assert!(matches!(self.replayed.end, ReplayEnd::Unknown(_)), "{:?}", self.replayed);
        assert_eq!((self.asked.as_slice(), self.clicks), ([0].as_slice(), 1), "{:?}", self.replayed);
    }

    pub fn confirmed_after_one_click(&self) {
        assert!(matches!(self.replayed.end, ReplayEnd::Confirmed { .. }), "{:?}", self.replayed);
        assert_eq!((self.asked.as_slice(), self.clicks), ([0].as_slice(), 1), "{:?}", self.replayed);
    }

    pub fn file(&self, name: &str) -> String {
        std::fs::read_to_string(self.dir.join(name)).unwrap()
    }
}

struct Gate {
    clicks: Clicks,
    asked: Mutex<Vec<usize>>,
    refuse: bool,
}

#[async_trait]
impl CommitGate for Gate {
    async fn arm(&self, _proofs: Proofs) -> Result<(), Failure> {
        self.asked.lock().unwrap().push(self.clicks.lock().unwrap().len());
        if self.refuse { Err(Failure::new(FailureCode::ArmRefused, "refused by the test")) } else { Ok(()) }
    }
}

async fn devtools(file: PathBuf) -> (u16, String) {
    loop {
        let text = std::fs::read_to_string(&file).unwrap_or_default();
        if let Some((port, path)) = text.split_once('\n').filter(|(_, path)| !path.is_empty()) {
            return (port.parse().unwrap(), path.trim().to_owned());
        }
        sleep(Duration::from_millis(20)).await;
    }
}

async fn serve(listener: TcpListener, pages: Arc<Mutex<BTreeMap<String, String>>>, clicks: Clicks) {
    let mut open = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        while open.try_join_next().is_some() {}
        open.spawn(answer(stream, Arc::clone(&pages), Arc::clone(&clicks)));
    }
}

async fn answer(mut stream: TcpStream, pages: Arc<Mutex<BTreeMap<String, String>>>, clicks: Clicks) {
    let Some((path, body)) = request(&mut stream).await else { return };
    let page = if path == "/clicked" {
        clicks.lock().unwrap().insert(body);
        Some("counted".to_owned())
    } else {
        pages.lock().unwrap().get(path.split('?').next().unwrap_or_default()).cloned()
    };
    let (status, page) = page.map_or(("404 Not Found", String::new()), |page| ("200 OK", page));
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/html\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        page.len()
    );
    let _gone = stream.write_all((head + &page).as_bytes()).await;
}

/// The path and the body of one request.
async fn request(stream: &mut TcpStream) -> Option<(String, String)> {
    let mut bytes = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&bytes);
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| {
                let (name, value) = line.split_once(':')?;
                name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
            });
            if body.len() >= length.unwrap_or(0) {
                return Some((head.split(' ').nth(1)?.to_owned(), body.to_owned()));
            }
        }
        if bytes.len() > MAX_HEAD_BYTES || timeout(SOON, stream.read_buf(&mut bytes)).await.ok()?.ok()? == 0 {
            return None;
        }
    }
}
