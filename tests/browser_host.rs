//! The browser host and its provider, with a real Chromium.
//!
//! The host runs as a process of its own: this test binary again, as its test [`host_process`] alone, started
//! through a small script that stands for `cove`. So its death, its signals and its children are real.
//! Every test has a folder of its own, by which its processes are told from those of all others.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use clap::Parser;
use cove::browser::chromium::ChromiumProvider;
use cove::browser::host::{self, HostOptions};
use cove::browser::{Provider, Session, StartOptions};
use cove::model::{FailureCode, ProfileId};
use rustix::process::{Pid, Signal};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};

const HOST_ARGUMENTS: &str = "COVE_TEST_HOST_ARGUMENTS";
const HEADLESS: StartOptions = StartOptions { headless: true };
/// For anything that must happen soon on a machine that may be busy.
const SOON: Duration = Duration::from_secs(20);

#[derive(Parser)]
struct HostLine {
    #[command(flatten)]
    options: HostOptions,
}

/// Not a test by itself: the body of the host's process.
#[test]
fn host_process() {
    let Ok(arguments) = std::env::var(HOST_ARGUMENTS) else { return };
    let line = HostLine::parse_from(std::iter::once("cove").chain(arguments.lines()));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    if std::env::var_os("COVE_TEST_LOG").is_some() {
        tracing_subscriber::fmt().with_max_level(tracing::Level::DEBUG).with_writer(std::io::stderr).init();
    }
    if let Err(error) = runtime.block_on(host::run(line.options)) {
        eprintln!("browser host: {error}");
        std::process::exit(1);
    }
}

/// A folder, a stand-in for the `cove` binary, and what is left to clean when a test fails.
struct Rig {
    folder: tempfile::TempDir,
}

impl Rig {
    fn new() -> Self {
        let rig = Self { folder: tempfile::tempdir().unwrap() };
        let own = std::env::current_exe().unwrap();
        rig.script(
            "cove",
            &format!(
                "shift\nIFS='\n'\nexport {HOST_ARGUMENTS}=\"$*\"\nexec '{}' --exact host_process --nocapture >/dev/null",
                own.display()
            ),
        );
        rig
    }

    fn script(&self, name: &str, body: &str) -> PathBuf {
        let path = self.path().join(name);
        fs::write(&path, format!("#!/bin/sh\n{body}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn profiles(&self) -> PathBuf {
        self.path().join("profiles")
    }

    fn options(&self) -> HostOptions {
        HostOptions {
            socket: Some(self.path().join("host.sock")),
            profiles_dir: self.profiles(),
            chromium: None,
            // The tests may run as root, where Chromium's sandbox refuses to work.
            sandbox: false,
            until_stdin_ends: false,
        }
    }

    async fn provider(&self) -> ChromiumProvider {
        self.provider_with(None).await
    }

    async fn provider_with(&self, chromium: Option<PathBuf>) -> ChromiumProvider {
        let options = HostOptions { chromium, ..self.options() };
        let provider = ChromiumProvider::spawn_child(&self.path().join("cove"), options).unwrap();
        provider.running().await.unwrap();
        provider
    }

    /// A host that the test holds itself.
    fn host(&self, options: &HostOptions) -> Child {
        Command::new(self.path().join("cove"))
            .arg("browser-host")
            .args(options.to_args())
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    }

    async fn client(&self) -> Client {
        soon("the host listens", || Client::connect(&self.path().join("host.sock")).ok()).await
    }

    /// Every browser process of this rig.
    fn browsers(&self) -> BTreeSet<u32> {
        let mark = self.profiles().display().to_string();
        pids().filter(|pid| read(*pid, "cmdline").contains(&mark)).collect()
    }
}

/// A failed test must not leave browsers behind either.
impl Drop for Rig {
    fn drop(&mut self) {
        let stray = self.browsers();
        for pid in &stray {
            kill(*pid, Signal::KILL);
        }
        assert!(std::thread::panicking() || stray.is_empty(), "left behind: {stray:?}");
    }
}

fn pids() -> impl Iterator<Item = u32> {
    fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
}

fn read(pid: u32, file: &str) -> String {
    String::from_utf8_lossy(&fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default()).into_owned()
}

fn children(parent: u32) -> Vec<u32> {
    let parent_of = |pid| read(pid, "stat").rsplit_once(')').and_then(|(_, rest)| rest.split(' ').nth(2)?.parse().ok());
    pids().filter(|pid| parent_of(*pid) == Some(parent)).collect()
}

fn kill(pid: u32, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    let _ = rustix::process::kill_process(pid, signal);
}

/// Looks until it is there.
async fn soon<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let found = timeout(SOON, async {
        loop {
            if let Some(found) = look() {
                return found;
            }
            sleep(Duration::from_millis(10)).await;
        }
    });
    found.await.unwrap_or_else(|_| panic!("not within {SOON:?}: {what}"))
}

async fn exit(mut host: Child) -> std::process::ExitStatus {
    soon("the host ends", || host.try_wait().unwrap()).await
}

fn profile(name: &str) -> ProfileId {
    ProfileId::new(name).unwrap()
}

async fn http(port: u16, request: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let head = format!("{request} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = String::new();
    let end = async {
        // DevTools keeps the connection; what is asked for here fits one read or two.
        let mut chunk = vec![0; 16 * 1024];
        while let Ok(read @ 1..) = stream.read(&mut chunk).await {
            answer.push_str(&String::from_utf8_lossy(&chunk[..read]));
            if answer.trim_end().ends_with('}') {
                return;
            }
        }
    };
    timeout(SOON, end).await.unwrap();
    answer
}

/// A client that speaks the protocol by hand.
struct Client {
    stream: BufReader<UnixStream>,
    welcome: serde_json::Value,
}

impl Client {
    fn raw(socket: &Path) -> std::io::Result<BufReader<UnixStream>> {
        let stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(SOON))?;
        Ok(BufReader::new(stream))
    }

    fn connect(socket: &Path) -> std::io::Result<Self> {
        let mut client = Self { stream: Self::raw(socket)?, welcome: serde_json::Value::Null };
        client.send(r#"{"cove_browser_host":1}"#);
        client.welcome = client.receive();
        Ok(client)
    }

    fn send(&mut self, line: &str) {
        writeln!(self.stream.get_mut(), "{line}").unwrap();
    }

    fn receive(&mut self) -> serde_json::Value {
        let mut line = String::new();
        self.stream.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"))
    }

    fn ask(&mut self, line: &str) -> serde_json::Value {
        self.send(line);
        self.receive()
    }

    fn host_pid(&self) -> u32 {
        u32::try_from(self.welcome["pid"].as_u64().unwrap()).unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_starts_answers_and_ends_without_a_trace() {
    let rig = Rig::new();
    let provider = rig.provider().await;
    let anna = profile("anna");
    let (one, two) = tokio::join!(provider.start(&anna, HEADLESS), provider.start(&anna, HEADLESS));
    let (session, refused) = match (one, two) {
        (Ok(session), Err(refused)) | (Err(refused), Ok(session)) => (session, refused),
        both => panic!("one of two starts wins: {both:?}"),
    };
    assert_eq!(refused.code, FailureCode::ProfileInUse);

    assert!(http(session.port, "GET /json/version").await.contains(&session.ws_url()));
    assert_eq!(provider.running().await.unwrap(), std::slice::from_ref(&session));
    let again = provider.start(&anna, HEADLESS).await.unwrap_err();
    assert_eq!(again.code, FailureCode::ProfileInUse);
    assert!(again.detail.contains(&session.pid.to_string()), "{again}");

    // A young browser still starts helpers and ends others: what lives before and after must be counted.
    let before = soon("its helpers run", || Some(rig.browsers()).filter(|all| all.len() > 5)).await;
    let stats = provider.stats(&anna).await.unwrap().unwrap();
    let lasting: BTreeSet<u32> = before.intersection(&rig.browsers()).copied().collect();
    assert!(stats.pss_bytes > 50 << 20 && stats.pss_bytes < 2 << 30, "{stats:?}");
    assert!(stats.cpu_seconds > 0.0 && stats.pids.contains(&session.pid), "{stats:?}");
    assert!(lasting.len() > 3 && lasting.iter().all(|pid| stats.pids.contains(pid)), "{lasting:?} and {stats:?}");
    assert_eq!(provider.stats(&profile("nobody")).await.unwrap(), None);

    let host = rig.client().await.host_pid();
    provider.stop(&anna).await.unwrap();
    assert_eq!(rig.browsers(), BTreeSet::new());
    assert_eq!(stats.pids.iter().filter(|pid| Path::new(&format!("/proc/{pid}")).exists()).count(), 0);
    assert_eq!(children(host), [0; 0]);
    assert_eq!(provider.running().await.unwrap(), []);
    assert!(!rig.profiles().join("anna/.scratch").exists());
    provider.stop(&anna).await.unwrap();
    provider.shutdown().await;
    assert!(!Path::new(&format!("/proc/{host}")).exists());
    assert!(!rig.path().join("host.sock").exists());
    assert_eq!(provider.running().await.unwrap_err().code, FailureCode::ProviderDown);
}

/// A site that gives a cookie with every answer, and tells the path and the cookie of every visit.
async fn cookie_site() -> (u16, tokio::sync::mpsc::Receiver<String>, tokio::task::JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (tell, told) = tokio::sync::mpsc::channel(64);
    let mut task = tokio::task::JoinSet::new();
    task.spawn(async move {
        // Each in a task of its own: Chrome opens connections in advance and may never use them.
        let mut visits = tokio::task::JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            visits.spawn(visited(stream, tell.clone()));
        }
    });
    (port, told, task)
}

async fn visited(mut stream: TcpStream, tell: tokio::sync::mpsc::Sender<String>) {
    let mut head = vec![0; 8192];
    let read = stream.read(&mut head).await.unwrap_or(0);
    let head = String::from_utf8_lossy(&head[..read]).into_owned();
    let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
    let cookie = head.lines().find_map(|line| line.strip_prefix("Cookie: ")).unwrap_or("none").to_owned();
    let answer = "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 1\r\nConnection: close\r\nSet-Cookie: signed=in; Max-Age=99999\r\n\r\nx";
    let _ = stream.write_all(answer.as_bytes()).await;
    let _ = tell.send(format!("{path} {cookie}")).await;
}

async fn visit(session: &Session, site: u16, path: &str, told: &mut tokio::sync::mpsc::Receiver<String>) -> String {
    http(session.port, &format!("PUT /json/new?http://127.0.0.1:{site}{path}")).await;
    timeout(SOON, async {
        loop {
            let visit = told.recv().await.unwrap();
            if let Some(cookie) = visit.strip_prefix(&format!("{path} ")) {
                return cookie.to_owned();
            }
        }
    })
    .await
    .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_profile_keeps_its_cookies_and_profiles_are_apart() {
    let rig = Rig::new();
    let provider = rig.provider().await;
    let (site, mut told, _task) = cookie_site().await;
    // As long as an id may be: Chromium's own socket has to fit all the same.
    let long = profile(&"l".repeat(64));
    let other = profile("other");
    let (one, two) = tokio::join!(provider.start(&long, HEADLESS), provider.start(&other, HEADLESS));
    let (one, two) = (one.unwrap(), two.unwrap());
    assert_eq!(provider.running().await.unwrap().len(), 2);
    assert_eq!(visit(&one, site, "/first", &mut told).await, "none");
    assert_eq!(visit(&two, site, "/second", &mut told).await, "none");
    // Until the browser has taken the answer in, which the site cannot see, a second visit shows.
    assert_eq!(visit(&one, site, "/third", &mut told).await, "signed=in");
    provider.stop(&long).await.unwrap();
    assert_eq!(provider.running().await.unwrap(), [two]);
    let again = provider.start(&long, HEADLESS).await.unwrap();
    assert_eq!(visit(&again, site, "/fourth", &mut told).await, "signed=in");
    provider.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_that_is_killed_is_noticed_and_cleared_away() {
    let rig = Rig::new();
    let provider = rig.provider().await;
    let session = provider.start(&profile("anna"), HEADLESS).await.unwrap();
    let host = rig.client().await.host_pid();
    kill(session.pid, Signal::KILL);
    soon("every process is gone", || rig.browsers().is_empty().then_some(())).await;
    soon("no child or zombie is left", || children(host).is_empty().then_some(())).await;
    assert_eq!(provider.running().await.unwrap(), []);
    // Its lock is left in the folder, and its owner is provably dead. Its place is free once stop says so.
    provider.stop(&profile("anna")).await.unwrap();
    provider.start(&profile("anna"), HEADLESS).await.unwrap();
    provider.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rule_15_end_of_stdin_closes_every_browser() {
    let rig = Rig::new();
    let mut host = rig.host(&HostOptions { until_stdin_ends: true, ..rig.options() });
    let mut client = rig.client().await;
    for name in ["anna", "bert"] {
        let started = client.ask(&format!(r#"{{"id":1,"call":"start","profile":"{name}","headless":true}}"#));
        assert!(started["ok"]["port"].is_u64(), "{started}");
    }
    let began = std::time::Instant::now();
    drop(host.stdin.take());
    assert!(exit(host).await.success());
    println!("two browsers closed {:?} after the end of stdin", began.elapsed());
    assert_eq!(rig.browsers(), BTreeSet::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn rule_15_a_signal_closes_every_browser_and_the_next_host_waits_for_it() {
    let rig = Rig::new();
    let first = rig.host(&rig.options());
    let mut client = rig.client().await;
    let started = client.ask(r#"{"id":7,"call":"start","profile":"anna","headless":true}"#);
    assert_eq!(started["id"], 7, "{started}");
    kill(first.id(), Signal::TERM);
    // Another socket: what keeps the two apart is the folder.
    let other = rig.path().join("second.sock");
    let second = rig.host(&HostOptions { socket: Some(other.clone()), ..rig.options() });
    let welcomed = soon("the second host listens", || Client::connect(&other).ok()).await;
    assert_eq!(rig.browsers(), BTreeSet::new(), "it served while browsers of the first were left");
    assert!(exit(first).await.success());
    kill(welcomed.host_pid(), Signal::INT);
    assert!(exit(second).await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_is_killed_is_replaced_and_its_browsers_are_closed() {
    let rig = Rig::new();
    let provider = rig.provider().await;
    provider.start(&profile("anna"), HEADLESS).await.unwrap();
    let before = rig.client().await.host_pid();
    assert!(!rig.browsers().is_empty());
    kill(before, Signal::KILL);
    let mut reasons = BTreeSet::new();
    let running = timeout(SOON, async {
        loop {
            match provider.running().await {
                Ok(running) => return running,
                Err(failure) => {
                    assert_eq!(failure.code, FailureCode::ProviderDown);
                    reasons.insert(failure.detail);
                }
            }
            sleep(Duration::from_millis(20)).await;
        }
    });
    assert_eq!(running.await.unwrap(), []);
    assert!(reasons.iter().any(|reason| reason.contains("signal: 9")), "{reasons:?}");
    assert_eq!(rig.browsers(), BTreeSet::new());
    assert_ne!(rig.client().await.host_pid(), before);
    provider.start(&profile("anna"), HEADLESS).await.unwrap();
    provider.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rule_16_a_browser_of_the_operator_is_named_and_left_alone() {
    let rig = Rig::new();
    fs::create_dir_all(rig.profiles().join("anna")).unwrap();
    // A stand-in for a window that a person opened in the profile's folder: no switch of ours.
    let switch = format!("--user-data-dir={}", rig.profiles().join("anna").canonicalize().unwrap().display());
    let mut person =
        Command::new("sh").args(["-c", "read line", "chromium", &switch]).stdin(Stdio::piped()).spawn().unwrap();
    let provider = rig.provider().await;
    let refused = provider.start(&profile("anna"), HEADLESS).await.unwrap_err();
    assert_eq!(refused.code, FailureCode::ProfileInUse);
    assert!(refused.detail.contains(&person.id().to_string()), "{refused}");
    provider.stop(&profile("anna")).await.unwrap();
    provider.shutdown().await;
    assert!(person.try_wait().unwrap().is_none(), "the operator's browser was ended");
    person.kill().unwrap();
    person.wait().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_start_says_why() {
    let rig = Rig::new();
    let missing = rig.provider_with(Some(rig.path().join("no-such-browser"))).await;
    let failure = missing.start(&profile("anna"), HEADLESS).await.unwrap_err();
    assert_eq!(failure.code, FailureCode::BrowserNotFound);
    assert!(failure.detail.contains("no-such-browser"), "{failure}");
    missing.shutdown().await;

    let script = rig.script("dies", "echo 'it is broken' >&2\nexit 3");
    let dies = rig.provider_with(Some(script)).await;
    let failure = dies.start(&profile("anna"), HEADLESS).await.unwrap_err();
    assert_eq!(failure.code, FailureCode::BrowserStartFailed);
    assert!(failure.detail.contains("exit status: 3") && failure.detail.contains("it is broken"), "{failure}");
    dies.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_that_hangs_can_be_stopped_and_is_given_up_in_time() {
    let rig = Rig::new();
    // Ignores the polite signals, and leaves a grandchild in a session of its own.
    let hangs = rig.script("hangs", "trap '' TERM INT\nsetsid sleep 600 &\nsleep 600\nsleep 600");
    let provider = rig.provider_with(Some(hangs)).await;
    let anna = profile("anna");
    let stop = async {
        // The script carries the folder on its command line as a browser does.
        soon("it was started", || (!rig.browsers().is_empty()).then_some(())).await;
        assert_eq!(provider.running().await.unwrap(), [], "it is not up");
        provider.stop(&anna).await
    };
    let (started, stopped) = tokio::join!(provider.start(&anna, HEADLESS), stop);
    stopped.unwrap();
    assert!(started.unwrap_err().detail.contains("stopped"));
    let host = rig.client().await.host_pid();
    assert_eq!((children(host), rig.browsers()), (vec![], BTreeSet::new()));

    let given_up = provider.start(&anna, HEADLESS).await.unwrap_err();
    assert_eq!(given_up.code, FailureCode::AttachFailed);
    assert!(given_up.detail.contains("30 s"), "{given_up}");
    assert_eq!((children(host), rig.browsers()), (vec![], BTreeSet::new()));
    provider.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_whose_client_vanished_can_be_stopped() {
    let rig = Rig::new();
    let host = rig.host(&HostOptions { until_stdin_ends: true, ..rig.options() });
    let mut first = rig.client().await;
    first.send(r#"{"id":1,"call":"start","profile":"anna","headless":true}"#);
    drop(first);
    let mut second = rig.client().await;
    soon("it is up", || {
        let running = second.ask(r#"{"id":2,"call":"running"}"#);
        (running["ok"].as_array().unwrap().len() == 1).then_some(())
    })
    .await;
    let stopped = second.ask(r#"{"id":3,"call":"stop","profile":"anna"}"#);
    assert_eq!(stopped, serde_json::json!({"id": 3, "ok": null}));
    assert_eq!(rig.browsers(), BTreeSet::new());
    drop(second);
    let mut host = host;
    drop(host.stdin.take());
    assert!(exit(host).await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_protocol_refuses_what_it_does_not_know() {
    let rig = Rig::new();
    let mut host = rig.host(&HostOptions { until_stdin_ends: true, ..rig.options() });
    let mut client = rig.client().await;
    let socket = rig.path().join("host.sock");
    assert_eq!(fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
    for (hello, why) in [(r#"{"cove_browser_host":2}"#, "version"), ("GET / HTTP/1.1", "first line")] {
        let mut stranger = Client { stream: Client::raw(&socket).unwrap(), welcome: serde_json::Value::Null };
        let refused = stranger.ask(hello);
        assert_eq!(refused["error"]["code"], "provider_down");
        assert!(refused["error"]["detail"].as_str().unwrap().contains(why), "{refused}");
        assert_eq!(stranger.stream.read_line(&mut String::new()).unwrap(), 0, "it is cut off");
    }
    let unknown = client.ask(r#"{"id":5,"call":"dance"}"#);
    assert!(unknown["id"] == 5 && unknown["error"]["code"] == "internal", "{unknown}");
    let escaping = client.ask(r#"{"id":6,"call":"start","profile":"../x","headless":true}"#);
    assert!(escaping["error"]["code"] == "internal" && !rig.path().join("x").exists(), "{escaping}");

    let file = rig.path().join("a b ü.mp4");
    fs::write(&file, "x").unwrap();
    for (path, readable) in [(&file, true), (&rig.profiles(), false), (&rig.path().join("gone"), false)] {
        let call = serde_json::json!({"id": 8, "call": "can_read", "path": path});
        assert_eq!(client.ask(&call.to_string()), serde_json::json!({"id": 8, "ok": readable}), "{}", path.display());
    }
    // A flood of clients is refused; the one that is there is served all the same.
    let mut crowd: Vec<Client> = (0..31).map(|_| Client::connect(&socket).unwrap()).collect();
    assert!(crowd.iter().all(|client| client.welcome["pid"].is_u64()));
    assert!(Client::connect(&socket).unwrap().welcome["error"]["detail"].as_str().unwrap().contains("32"));
    crowd.clear();
    // A line without an end is cut off; the others are served.
    let mut flood = Client::connect(&socket).ok().filter(|client| client.welcome["pid"].is_u64());
    let mut endless = match flood.take() {
        Some(client) => client,
        None => {
            soon("there is room again", || {
                Client::connect(&socket).ok().filter(|client| client.welcome["pid"].is_u64())
            })
            .await
        }
    };
    let _ = endless.stream.get_mut().write_all(&vec![b'x'; 70_000]);
    let end = endless.stream.read_line(&mut String::new());
    assert!(matches!(end, Ok(0) | Err(_)), "{end:?}");
    assert_eq!(client.ask(r#"{"id":9,"call":"running"}"#), serde_json::json!({"id": 9, "ok": []}));
    drop(host.stdin.take());
    assert!(exit(host).await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_visible_browser_without_a_display_is_refused() {
    let rig = Rig::new();
    let mut command = Command::new(rig.path().join("cove"));
    command.arg("browser-host").args(HostOptions { until_stdin_ends: true, ..rig.options() }.to_args());
    command.env_remove("DISPLAY").env_remove("WAYLAND_DISPLAY").stdin(Stdio::piped());
    let mut host = command.spawn().unwrap();
    let refused = rig.client().await.ask(r#"{"id":1,"call":"start","profile":"anna","headless":false}"#);
    assert_eq!(refused["error"]["code"], "browser_start_failed");
    assert!(refused["error"]["detail"].as_str().unwrap().contains("DISPLAY"), "{refused}");
    drop(host.stdin.take());
    assert!(exit(host).await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_cannot_live_is_an_error_at_once() {
    let rig = Rig::new();
    let broken = ChromiumProvider::spawn_child(&rig.script("broken", "exit 4"), rig.options()).unwrap();
    let failure = broken.running().await.unwrap_err();
    assert_eq!(failure.code, FailureCode::ProviderDown);
    assert!(failure.detail.contains("exit status: 4"), "{failure}");
    let failed = ChromiumProvider::spawn_child(&rig.path().join("gone"), rig.options());
    assert!(failed.err().unwrap().detail.contains("gone browser-host"));
    let nobody = ChromiumProvider::connect(rig.path().join("host.sock"));
    let failure = nobody.running().await.unwrap_err();
    assert!(failure.code == FailureCode::ProviderDown && failure.detail.contains("host.sock"), "{failure}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_browser_is_killed_when_its_grace_is_over() {
    let rig = Rig::new();
    let mut host = rig.host(&HostOptions { until_stdin_ends: true, ..rig.options() });
    let mut client = rig.client().await;
    let mut start = || client.ask(r#"{"id":1,"call":"start","profile":"anna","headless":true}"#);
    let freeze = |started: &serde_json::Value| {
        kill(u32::try_from(started["ok"]["pid"].as_u64().unwrap()).unwrap(), Signal::STOP);
    };
    freeze(&start());
    let mut other = rig.client().await;
    assert_eq!(other.ask(r#"{"id":2,"call":"stop","profile":"anna"}"#), serde_json::json!({"id": 2, "ok": null}));
    assert_eq!((children(host.id()), rig.browsers()), (vec![], BTreeSet::new()));
    freeze(&start());
    let began = std::time::Instant::now();
    drop(host.stdin.take());
    assert!(exit(host).await.success());
    println!("a frozen browser was killed {:?} after the end of stdin", began.elapsed());
    assert_eq!(rig.browsers(), BTreeSet::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_socket_of_systemd_is_used_and_not_handed_on() {
    let rig = Rig::new();
    let socket = rig.path().join("host.sock");
    let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    // What systemd does: the socket is descriptor 3, and the variables name the process that runs in the end.
    let script = "exec 3<&0 </dev/null; export LISTEN_PID=$$ LISTEN_FDS=1; exec \"$0\" \"$@\"";
    let host = Command::new("sh")
        .args(["-c", script])
        .arg(rig.path().join("cove"))
        .arg("browser-host")
        .args(HostOptions { socket: None, ..rig.options() }.to_args())
        .stdin(std::os::fd::OwnedFd::from(listener.try_clone().unwrap()))
        .spawn()
        .unwrap();
    let mut client = rig.client().await;
    let started = client.ask(r#"{"id":1,"call":"start","profile":"anna","headless":true}"#);
    let browser = started["ok"]["pid"].as_u64().unwrap();
    let open =
        fs::read_dir(format!("/proc/{browser}/fd")).unwrap().filter_map(|fd| fs::read_link(fd.ok()?.path()).ok());
    let inode = |pid: u64, fd: &str| fs::read_link(format!("/proc/{pid}/fd/{fd}")).unwrap();
    let handed = inode(u64::from(host.id()), "3");
    assert!(handed.to_string_lossy().starts_with("socket:"), "{}", handed.display());
    assert!(!open.collect::<Vec<_>>().contains(&handed), "the browser holds the host's socket");
    kill(host.id(), Signal::TERM);
    assert!(exit(host).await.success());
    assert!(socket.exists(), "the socket is systemd's, not the host's to remove");
    assert_eq!(rig.browsers(), BTreeSet::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_kills_without_waiting() {
    let rig = Rig::new();
    let host = rig.host(&rig.options());
    let mut client = rig.client().await;
    let start = r#"{"id":1,"call":"start","profile":"anna","headless":true}"#;
    let browser = client.ask(start)["ok"]["pid"].as_u64().unwrap();
    kill(u32::try_from(browser).unwrap(), Signal::STOP);
    kill(host.id(), Signal::TERM);
    let other = r#"{"id":2,"call":"start","profile":"bert","headless":false}"#;
    soon("the host refuses starts", || (client.ask(other)["error"]["code"] == "provider_down").then_some(())).await;
    kill(host.id(), Signal::TERM);
    assert!(exit(host).await.success());
    assert_eq!(rig.browsers(), BTreeSet::new());
}
