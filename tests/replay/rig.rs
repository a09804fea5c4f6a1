//! A real Chromium, a small site that counts the clicks of its pages, and a gate that looks at both.
//!
//! Every test has a browser of its own, which ends with the test, also when it fails. Pages tell of clicks by
//! a synchronous request, so that a count read after a step is the count of that moment.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use cove::browser::evidence::EvidenceFolder;
use cove::browser::{
    AttemptName, CommitGate, Mode, Replay, ReplayEnd, Replayed, Session, Verified, VerifyAnswer, Verifying,
};
use cove::model::flow::Flow;
use cove::model::{EvidenceFile, Failure, FailureCode, Fence, InputValue, ItemId, ProfileId, Proofs, Timestamp};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

const CHROMIUM: &str = "/usr/bin/chromium";
/// For the browser's start on a machine that may be busy.
const START_DEADLINE: Duration = Duration::from_secs(20);
const LOOK_EVERY: Duration = Duration::from_millis(20);
const MAX_REQUEST_BYTES: usize = 64 * 1024;
const EVIDENCE_BYTES: u64 = 20_000_000;

/// What every page knows: how to tell the site of a click.
const SHELL: &str = "<!doctype html><meta charset=utf-8><title>Page</title><style>body{margin:8px}</style>
<script>
const post = (path, body) => { const x = new XMLHttpRequest(); x.open('POST', path, false); x.send(body ?? ''); };
const clicked = () => post('/click');
const later = (ms, what) => setTimeout(what, ms);
const $ = (id) => document.getElementById(id);
</script>
";

struct Browser {
    child: Child,
    session: Session,
    folder: Option<tempfile::TempDir>,
}

impl Browser {
    async fn start(page: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut command = Command::new(CHROMIUM);
        command.args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]);
        command.args(["--disable-background-networking", "--disable-component-update", "--disable-sync"]);
        command.arg("--remote-debugging-port=0").arg(format!("--user-data-dir={}", folder.path().display())).arg(page);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
        let child = command.spawn().unwrap();
        let session = Session {
            profile: ProfileId::new("test").unwrap(),
            port: 0,
            ws_path: String::new(),
            pid: child.id(),
            started_at: Timestamp::ZERO,
            headless: true,
        };
        let file = folder.path().join("DevToolsActivePort");
        // Owned before the wait, so that it ends when the wait fails.
        let mut browser = Self { child, session, folder: Some(folder) };
        let until = Instant::now() + START_DEADLINE;
        loop {
            let text = std::fs::read_to_string(&file).unwrap_or_default();
            if let Some((port, path)) = text.split_once('\n').filter(|(_, path)| !path.is_empty()) {
                browser.session.port = port.parse().unwrap();
                path.trim().clone_into(&mut browser.session.ws_path);
                return browser;
            }
            assert!(Instant::now() < until, "the browser did not start");
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    fn kill(&self) {
        let group = rustix::process::Pid::from_child(&self.child);
        // It may be gone already.
        let _gone = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
    }
}

impl Drop for Browser {
    #[expect(clippy::disallowed_methods, reason = "a drop cannot await; its folder is removed when all have let go")]
    fn drop(&mut self) {
        self.kill();
        let _reaped = self.child.wait();
        let Some(folder) = self.folder.take() else { return };
        let path = folder.keep();
        for _ in 0..100 {
            if std::fs::remove_dir_all(&path).is_ok() || !path.exists() {
                return;
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }
}

/// What the pages told, and the pages.
#[derive(Default)]
pub struct Site {
    pages: Mutex<HashMap<String, String>>,
    redirects: Mutex<HashMap<String, String>>,
    failing: Mutex<HashSet<String>>,
    clicks: AtomicU32,
    told: Mutex<Vec<String>>,
    requests: Mutex<Vec<String>>,
}

impl Site {
    pub fn clicks(&self) -> u32 {
        self.clicks.load(Ordering::SeqCst)
    }

    /// Paths and bodies of what was posted, in order.
    pub fn told(&self) -> Vec<String> {
        self.told.lock().unwrap().clone()
    }

    /// Every request, as `GET /path`, in order.
    pub fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }

    /// Nothing was asked or told yet.
    pub fn forget(&self) {
        self.requests.lock().unwrap().clear();
        self.told.lock().unwrap().clear();
    }

    /// Whether `path` was asked for, by whatever method.
    pub fn saw(&self, path: &str) -> bool {
        self.requests().iter().any(|request| request.ends_with(&format!(" {path}")))
    }

    async fn serve(self: Arc<Self>, listener: TcpListener) {
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                accepted = listener.accept() => {
                    let Ok((stream, _)) = accepted else { return };
                    let site = Arc::clone(&self);
                    connections.spawn(async move { site.answer(stream).await });
                }
                Some(_) = connections.join_next(), if !connections.is_empty() => {}
            }
        }
    }

    /// One request a connection; None where the other side goes away.
    async fn answer(&self, mut stream: TcpStream) -> Option<()> {
        let mut request = Vec::new();
        let (head, length) = loop {
            if stream.read_buf(&mut request).await.ok()? == 0 || request.len() > MAX_REQUEST_BYTES {
                return None;
            }
            let Some(end) = request.windows(4).position(|part| part == b"\r\n\r\n") else { continue };
            let head = String::from_utf8_lossy(&request[..end]).to_ascii_lowercase();
            let length = head.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok());
            break (end + 4, length.unwrap_or(0_usize));
        };
        while request.len() < head + length {
            if stream.read_buf(&mut request).await.ok()? == 0 || request.len() > MAX_REQUEST_BYTES {
                return None;
            }
        }
        let line = String::from_utf8_lossy(&request[..head]).lines().next()?.to_owned();
        let mut words = line.split(' ');
        let (method, target) = (words.next()?, words.next()?);
        let path = target.split('?').next()?.to_owned();
        self.requests.lock().unwrap().push(format!("{method} {path}"));
        if path == "/never" {
            std::future::pending::<()>().await;
        }
        let redirect = self.redirects.lock().unwrap().get(&path).cloned();
        if let Some(to) = redirect {
            let answer =
                format!("HTTP/1.1 302 Found\r\nLocation: {to}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
            stream.write_all(answer.as_bytes()).await.ok()?;
            return stream.shutdown().await.ok();
        }
        let page = self.pages.lock().unwrap().get(&path).cloned();
        let failing = self.failing.lock().unwrap().contains(&path);
        if method == "POST" && path == "/click" {
            self.clicks.fetch_add(1, Ordering::SeqCst);
        } else if method == "POST" {
            let body = String::from_utf8_lossy(&request[head..]).into_owned();
            self.told.lock().unwrap().push(format!("{path} {body}"));
        }
        let (status, body) = match page {
            Some(page) if failing => ("503 Service Unavailable", page),
            Some(page) => ("200 OK", page),
            None if method == "POST" => ("200 OK", String::new()),
            None => ("404 Not Found", "nothing here".to_owned()),
        };
        let answer = format!(
            "HTTP/1.1 {status}\r\nContent-Type: text/html; charset=utf-8\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(answer.as_bytes()).await.ok()?;
        stream.shutdown().await.ok()
    }
}

/// A flow and how it is replayed.
pub struct Case {
    pub recording: Value,
    pub inputs: BTreeMap<String, InputValue>,
    pub mode: Mode,
    pub deadline: Duration,
    pub max_bytes: u64,
    pub gate: Answer,
    pub cancel: CancellationToken,
    pub open_waits: Vec<usize>,
}

/// What the gate says.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    Yes,
    No,
    /// Kills the browser and says yes.
    YesAndKill,
}

impl Case {
    pub fn new(steps: &Value) -> Self {
        Self {
            recording: json!({"title": "t", "timeout": 3000, "steps": steps}),
            inputs: BTreeMap::new(),
            mode: Mode::Publish,
            deadline: Duration::from_secs(30),
            max_bytes: EVIDENCE_BYTES,
            gate: Answer::Yes,
            cancel: CancellationToken::new(),
            open_waits: Vec::new(),
        }
    }

    /// Declares an input and gives its value.
    pub fn input(mut self, name: &str, spec: Value, value: Option<InputValue>) -> Self {
        self.recording["cove"]["inputs"][name] = spec;
        self.inputs.extend(value.map(|value| (name.to_owned(), value)));
        self
    }
}

/// One time that the gate was asked, and what was so then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    pub clicks: u32,
    pub pictured: bool,
}

struct Gate<'a> {
    rig: &'a Rig,
    dir: PathBuf,
    answer: Answer,
    asked: Mutex<Vec<Moment>>,
    given: Mutex<Option<Proofs>>,
}

#[async_trait::async_trait]
impl CommitGate for Gate<'_> {
    async fn arm(&self, proofs: Proofs) -> Result<(), Failure> {
        *self.given.lock().unwrap() = Some(proofs);
        let pictured = std::fs::metadata(self.dir.join("before.png")).is_ok_and(|file| file.len() > 0);
        self.asked.lock().unwrap().push(Moment { clicks: self.rig.site.clicks(), pictured });
        match self.answer {
            Answer::Yes => Ok(()),
            Answer::No => Err(Failure::new(FailureCode::ArmRefused, "the gate of the test says no")),
            Answer::YesAndKill => {
                self.rig.kill_browser();
                Ok(())
            }
        }
    }
}

/// A replay's end and all that can be looked at.
pub struct Ended {
    pub end: ReplayEnd,
    pub evidence: Vec<EvidenceFile>,
    pub stopped: Option<Failure>,
    pub proofs: Option<Proofs>,
    pub dir: PathBuf,
    pub asked: Vec<Moment>,
    pub took: Duration,
}

impl Ended {
    pub fn text(&self, file: &str) -> String {
        std::fs::read_to_string(self.dir.join(file)).unwrap_or_default()
    }

    /// All that is text.
    pub fn text_of_all(&self) -> String {
        ["trace.jsonl", "failure.txt", "console.jsonl"].map(|file| self.text(file)).join("\n")
    }

    pub fn trace(&self) -> Vec<Value> {
        self.text("trace.jsonl").lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    pub fn has(&self, file: &str) -> bool {
        self.evidence.iter().any(|kept| kept.file == file)
    }

    /// The extracted values of a replay that is confirmed.
    #[track_caller]
    pub fn result(&self) -> &BTreeMap<String, String> {
        match &self.end {
            ReplayEnd::Confirmed { result, .. } => result,
            other => panic!("{other:?}\n{}", self.text("trace.jsonl")),
        }
    }

    #[track_caller]
    pub fn notes(&self) -> &[String] {
        match &self.end {
            ReplayEnd::Confirmed { notes, .. } => notes,
            other => panic!("{other:?}"),
        }
    }

    #[track_caller]
    pub fn unarmed(&self) -> &Failure {
        match &self.end {
            ReplayEnd::Unarmed(failure) => failure,
            other => panic!("{other:?}\n{}", self.text("trace.jsonl")),
        }
    }

    #[track_caller]
    pub fn unknown(&self) -> &Failure {
        match &self.end {
            ReplayEnd::Unknown(failure) => failure,
            other => panic!("{other:?}\n{}", self.text("trace.jsonl")),
        }
    }
}

/// A site of another origin.
pub struct Elsewhere {
    pub site: Arc<Site>,
    pub address: String,
    _server: JoinSet<()>,
}

impl Elsewhere {
    pub async fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let site = Arc::new(Site::default());
        let mut server = JoinSet::new();
        server.spawn(Arc::clone(&site).serve(listener));
        Self { site, address, _server: server }
    }

    /// Serves a page; answers its address.
    pub fn page(&self, path: &str, body: &str) -> String {
        self.site.pages.lock().unwrap().insert(path.to_owned(), format!("{SHELL}{body}"));
        format!("{}{path}", self.address)
    }
}

/// A verify's answer and all that can be looked at.
pub struct Looked {
    pub answer: VerifyAnswer,
    pub evidence: Vec<EvidenceFile>,
    pub stopped: Option<Failure>,
    pub dir: PathBuf,
    pub took: Duration,
}

impl Looked {
    #[track_caller]
    pub fn found(&self) -> (Option<&str>, &BTreeMap<String, String>) {
        match &self.answer {
            VerifyAnswer::Found { url, result } => (url.as_deref(), result),
            other => panic!("{other:?}"),
        }
    }

    #[track_caller]
    pub fn not_found(&self) -> &str {
        match &self.answer {
            VerifyAnswer::NotFound(why) => why,
            other => panic!("{other:?}"),
        }
    }

    #[track_caller]
    pub fn inconclusive(&self) -> &Failure {
        match &self.answer {
            VerifyAnswer::Inconclusive(failure) => failure,
            other => panic!("{other:?}"),
        }
    }

    pub fn text(&self, file: &str) -> String {
        std::fs::read_to_string(self.dir.join(file)).unwrap_or_default()
    }
}

pub struct Rig {
    browser: Browser,
    pub site: Arc<Site>,
    address: String,
    state: tempfile::TempDir,
    next: AtomicU32,
    _server: JoinSet<()>,
}

impl Rig {
    pub async fn new() -> Self {
        Self::with_start_page("about:blank").await
    }

    pub async fn with_start_page(page: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let site = Arc::new(Site::default());
        let mut server = JoinSet::new();
        server.spawn(Arc::clone(&site).serve(listener));
        let state = tempfile::tempdir().unwrap();
        Self { browser: Browser::start(page).await, site, address, state, next: AtomicU32::new(1), _server: server }
    }

    pub fn kill_browser(&self) {
        self.browser.kill();
    }

    pub const fn session(&mut self) -> &mut Session {
        &mut self.browser.session
    }

    pub fn folder(&self) -> &Path {
        self.state.path()
    }

    pub fn url(&self, path: &str) -> String {
        format!("{}{path}", self.address)
    }

    /// Serves a page; answers its address.
    pub fn page(&self, body: &str) -> String {
        let number = self.next.fetch_add(1, Ordering::SeqCst);
        self.page_at(&format!("/page{number}"), body)
    }

    pub fn page_at(&self, path: &str, body: &str) -> String {
        self.site.pages.lock().unwrap().insert(path.to_owned(), format!("{SHELL}{body}"));
        self.url(path)
    }

    /// `path` answers with a redirect to `to`.
    pub fn redirect(&self, path: &str, to: &str) -> String {
        self.site.redirects.lock().unwrap().insert(path.to_owned(), to.to_owned());
        self.url(path)
    }

    /// From now on the page at `path` comes with an error's status.
    pub fn fail(&self, path: &str) {
        self.site.failing.lock().unwrap().insert(path.to_owned());
    }

    pub async fn replay(&self, case: Case) -> Ended {
        let (flow, _) = Flow::parse(case.recording.to_string().as_bytes()).unwrap();
        let fence = Fence::new(u64::from(self.next.fetch_add(1, Ordering::SeqCst)));
        let name = AttemptName { fence, attempt: 1 };
        let folder = EvidenceFolder::create(self.state.path(), ItemId::new(1), name, case.max_bytes).unwrap();
        let dir = folder.dir.clone();
        let gate =
            Gate { rig: self, dir: dir.clone(), answer: case.gate, asked: Mutex::default(), given: Mutex::default() };
        let attached = CancellationToken::new();
        let replay = Replay {
            flow: &flow,
            inputs: &case.inputs,
            mode: case.mode,
            evidence: &folder,
            deadline: case.deadline,
            cancel: case.cancel,
            attached: attached.clone(),
            open_waits: &case.open_waits,
        };
        let began = Instant::now();
        let Replayed { end, evidence, stopped, proofs, .. } =
            cove::browser::replay(&self.browser.session, replay, &gate).await;
        assert_eq!(gate.given.into_inner().unwrap(), proofs, "what the gate was given");
        match &end {
            ReplayEnd::Confirmed { .. } => assert!(attached.is_cancelled()),
            ReplayEnd::Unarmed(failure) | ReplayEnd::Unknown(failure) if failure.code == FailureCode::AttachFailed => {
                assert!(!attached.is_cancelled());
            }
            ReplayEnd::Unarmed(_) | ReplayEnd::Unknown(_) => {}
        }
        Ended { end, evidence, stopped, proofs, dir, asked: gate.asked.into_inner().unwrap(), took: began.elapsed() }
    }

    /// The flow's verify, as of `armed_at`.
    pub async fn verify(&self, case: Case, armed_at: Timestamp) -> Looked {
        let (flow, _) = Flow::parse(case.recording.to_string().as_bytes()).unwrap();
        let fence = Fence::new(u64::from(self.next.fetch_add(1, Ordering::SeqCst)));
        let name = AttemptName { fence, attempt: 1 };
        let folder = EvidenceFolder::create(self.state.path(), ItemId::new(1), name, case.max_bytes).unwrap();
        let attached = CancellationToken::new();
        let verifying = Verifying {
            flow: &flow,
            inputs: &case.inputs,
            evidence: &folder,
            deadline: case.deadline,
            cancel: case.cancel,
            attached: attached.clone(),
            armed_at,
        };
        let began = Instant::now();
        let Verified { answer, evidence, stopped } = cove::browser::verify(&self.browser.session, verifying).await;
        match &answer {
            VerifyAnswer::Found { .. } | VerifyAnswer::NotFound(_) => assert!(attached.is_cancelled()),
            VerifyAnswer::Inconclusive(failure) if failure.code == FailureCode::AttachFailed => {
                assert!(!attached.is_cancelled());
            }
            VerifyAnswer::Inconclusive(_) => {}
        }
        Looked { answer, evidence, stopped, dir: folder.dir.clone(), took: began.elapsed() }
    }

    /// The page, then the steps: a flow without a commit point.
    pub async fn run(&self, body: &str, steps: &Value) -> Ended {
        self.replay(Case::new(&self.on(body, steps))).await
    }

    /// Steps that begin at a page.
    pub fn on(&self, body: &str, steps: &Value) -> Value {
        let mut all = vec![json!({"type": "navigate", "url": self.page(body)})];
        all.extend(steps.as_array().unwrap().iter().cloned());
        Value::Array(all)
    }
}

pub fn extract(name: &str, expression: &str) -> Value {
    json!({"type": "customStep", "name": "extract", "parameters": {"name": name, "expression": expression}})
}

pub fn custom(name: &str, parameters: Value) -> Value {
    let mut step = json!({"type": "customStep", "name": name});
    step["parameters"] = parameters;
    step
}

pub fn commit() -> Value {
    json!({"type": "customStep", "name": "commit", "parameters": {}})
}
