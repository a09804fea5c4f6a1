//! What the tests stand on: a daemon as a process, its API, and a site to publish to.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use cove::cli::practice::{Post, Site, SiteOptions, Switches};
use serde_json::{Value, json};

/// For anything that is waited for; far beyond what it takes.
pub const PATIENCE: Duration = Duration::from_secs(60);
pub const ATELIER: &str = include_str!("../../packaging/flows/atelier.json");
/// Not a video; the site does not look inside.
pub const VIDEO: &[u8] = b"a very short film";

pub struct Daemon {
    pub folder: tempfile::TempDir,
    child: Option<Child>,
    pub base: String,
    pub client: reqwest::Client,
    env: Vec<(&'static str, &'static str)>,
}

/// An answer: status, headers, body as JSON (null where it is not).
pub struct Answer {
    pub status: u16,
    pub headers: reqwest::header::HeaderMap,
    pub body: Value,
}

impl Answer {
    pub fn code(&self) -> &str {
        self.body["code"].as_str().unwrap_or_default()
    }

    /// The pointers of the wrong fields.
    pub fn pointers(&self) -> Vec<&str> {
        let errors = self.body["errors"].as_array();
        errors.into_iter().flatten().filter_map(|error| error["pointer"].as_str()).collect()
    }
}

pub fn cove() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cove"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("COVE_")) {
        command.env_remove(name);
    }
    command
}

/// Runs the command line to its end.
pub fn run(args: &[&str], folder: &Path) -> Output {
    let config = folder.join("cove.toml");
    cove().args(args).arg("--config").arg(config).stdin(Stdio::null()).output().unwrap()
}

impl Daemon {
    pub async fn start() -> Self {
        Self::start_with("").await
    }

    /// `settings` are lines of TOML that follow `[engine]`.
    pub async fn start_with(settings: &str) -> Self {
        Self::start_as(settings, &[]).await
    }

    /// `env` are further settings, as environment variables.
    pub async fn start_as(settings: &str, env: &[(&'static str, &'static str)]) -> Self {
        let mut daemon = Self::prepare(settings, env);
        daemon.boot().await;
        daemon
    }

    /// Everything but the process.
    pub fn prepare(settings: &str, env: &[(&'static str, &'static str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        write_config(folder.path(), settings);
        std::fs::create_dir(folder.path().join("media")).unwrap();
        let client = cove::outbound::local().timeout(PATIENCE).build().unwrap();
        Self { folder, child: None, base: String::new(), client, env: env.to_vec() }
    }

    /// For the next start.
    pub fn set_env(&mut self, name: &'static str, value: &'static str) {
        self.env.retain(|(held, _)| *held != name);
        self.env.push((name, value));
    }

    pub fn state(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    /// Starts the process and waits for its address.
    pub async fn boot(&mut self) {
        self.spawn(cove());
        self.listening().await;
    }

    /// Starts the process: `command` is the program, or what runs it.
    pub fn spawn(&mut self, mut command: Command) {
        let listen = self.state().join("listen");
        // What a killed daemon left says nothing about this one.
        if listen.exists() {
            std::fs::remove_file(&listen).unwrap();
        }
        let log = std::fs::File::options().create(true).append(true).open(self.log()).unwrap();
        let config = self.folder.path().join("cove.toml");
        let child = command
            .args(["serve", "--config"])
            .arg(config)
            .envs(self.env.iter().copied())
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.child = Some(child);
    }

    /// Waits for the address of a process that was started.
    pub async fn listening(&mut self) {
        assert!(self.listening_or_ended().await, "the daemon ended\n{}", self.logged());
    }

    /// False: it ended before it had an address.
    pub async fn listening_or_ended(&mut self) -> bool {
        let listen = self.state().join("listen");
        let began = Instant::now();
        loop {
            if let Ok(text) = std::fs::read_to_string(&listen)
                && let Some(address) = text.strip_suffix('\n')
            {
                self.base = format!("http://{address}");
                return true;
            }
            if self.child.as_mut().unwrap().try_wait().unwrap().is_some() {
                return false;
            }
            assert!(began.elapsed() < PATIENCE, "the daemon is not ready\n{}", self.logged());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    pub fn log(&self) -> PathBuf {
        self.folder.path().join("daemon.log")
    }

    pub fn logged(&self) -> String {
        std::fs::read_to_string(self.log()).unwrap_or_default()
    }

    pub fn pid(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    /// `kill -9`, and nothing of it is left running.
    pub fn kill(&mut self) {
        let mut child = self.child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Waits for the end that the process comes to by itself; the exit code.
    pub async fn ended(&mut self) -> Option<i32> {
        let mut child = self.child.take().unwrap();
        let began = Instant::now();
        loop {
            if let Some(status) = child.try_wait().unwrap() {
                return status.code();
            }
            if began.elapsed() > PATIENCE {
                child.kill().unwrap();
                child.wait().unwrap();
                panic!("the daemon goes on\n{}", self.logged());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// SIGTERM; the exit code.
    #[expect(clippy::disallowed_methods, reason = "also called from drop, where nothing can be awaited")]
    pub fn stop(&mut self) -> Option<i32> {
        let mut child = self.child.take()?;
        signal(child.id(), rustix::process::Signal::TERM);
        let began = Instant::now();
        loop {
            if let Some(status) = child.try_wait().unwrap() {
                return status.code();
            }
            if began.elapsed() > PATIENCE {
                child.kill().unwrap();
                child.wait().unwrap();
                panic!("the daemon did not stop\n{}", self.logged());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub async fn request(&self, method: &str, path: &str, body: Option<&Value>) -> Answer {
        let mut request = self.client.request(method.parse().unwrap(), format!("{}{path}", self.base));
        if let Some(body) = body {
            request = request.json(body);
        }
        answer(request).await
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.request("GET", path, None).await
    }

    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        self.request("POST", path, Some(body)).await
    }

    /// Profiles and the flow for the practice site.
    pub async fn furnish(&self, profiles: &[&str]) {
        for name in profiles {
            let made = self.post("/api/v1/profiles", &json!({"name": name})).await;
            assert_eq!(made.status, 201, "{}", made.body);
        }
        self.put_flow("atelier", ATELIER).await;
    }

    pub async fn put_flow(&self, name: &str, recording: &str) {
        let request = self
            .client
            .put(format!("{}/api/v1/flows/{name}", self.base))
            .header("content-type", "application/json")
            .body(recording.to_owned());
        let put = answer(request).await;
        assert!(put.status == 201 || put.status == 200, "{}", put.body);
    }

    /// A file under the media root.
    pub fn film(&self, name: &str) -> PathBuf {
        let path = self.folder.path().join("media").join(name);
        std::fs::write(&path, [VIDEO, name.as_bytes()].concat()).unwrap();
        path
    }

    /// Submits items for the practice site, one film each; the task's id.
    pub async fn submit(&self, site: &Site, items: &[(&str, &str)]) -> String {
        let items: Vec<_> = items
            .iter()
            .map(|(profile, caption)| {
                let film = self.film(&format!("{profile}-{}.mp4", caption.len()));
                json!({"profile": profile, "inputs": {
                    "site": site.url(), "account": profile, "video": film, "caption": caption}})
            })
            .collect();
        let made = self.post("/api/v1/bulk-upload/start", &json!({"flow": "atelier", "items": items})).await;
        assert_eq!(made.status, 202, "{}", made.body);
        made.body["task_id"].as_str().unwrap().to_owned()
    }

    pub async fn items(&self, task: &str) -> Vec<Value> {
        let answer = self.get(&format!("/api/v1/tasks/{task}/items")).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        answer.body["items"].as_array().unwrap().clone()
    }

    /// Waits until no item of the task is queued, running or waiting for a retry.
    pub async fn settled(&self, task: &str) -> Vec<Value> {
        self.until(task, |items| {
            items.iter().all(|item| !["queued", "running", "retry_wait"].contains(&item["state"].as_str().unwrap()))
        })
        .await
    }

    pub async fn until(&self, task: &str, done: impl Fn(&[Value]) -> bool) -> Vec<Value> {
        let began = Instant::now();
        loop {
            let items = self.items(task).await;
            if done(&items) {
                return items;
            }
            assert!(began.elapsed() < PATIENCE, "{items:#?}\n{}", self.logged());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Browsers whose data directory is under this daemon's state.
    pub fn browsers(&self) -> Vec<u32> {
        processes_with(&self.state().join("profiles").display().to_string())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if self.child.is_some() && !std::thread::panicking() {
            assert_eq!(self.stop(), Some(0), "{}", self.logged());
        } else if let Some(mut child) = self.child.take() {
            // A failing test must not leave processes; its own failure is what matters.
            let _killed = child.kill();
            let _reaped = child.wait();
        }
    }
}

pub fn signal(pid: u32, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    rustix::process::kill_process(pid, signal).unwrap();
}

/// Processes with this text on their command line, zombies left out.
pub fn processes_with(text: &str) -> Vec<u32> {
    std::fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok())
        .filter(|pid: &u32| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&line).contains(text)
        })
        .collect()
}

pub async fn answer(request: reqwest::RequestBuilder) -> Answer {
    let (client, request) = request.build_split();
    let request = request.unwrap();
    let (method, path) = (request.method().clone(), request.url().path().to_owned());
    let response = client.execute(request).await.unwrap();
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    // A stream of events has no end of its own.
    let endless = headers.get("content-type").is_some_and(|kind| kind == "text/event-stream");
    let bytes = if endless { Vec::new().into() } else { response.bytes().await.unwrap() };
    let body = serde_json::from_slice(&bytes).unwrap_or_default();
    if method != "HEAD" && !endless {
        super::description::check(&method, &path, status, &headers, &body);
    }
    Answer { status, headers, body }
}

/// Tests run beside each other and leave the processors no rest: by them nothing is held back.
pub fn write_config(folder: &Path, settings: &str) {
    let text = format!(
        "[server]\nlisten = \"127.0.0.1:0\"\nsocket = \"{0}/cove.sock\"\n[state]\ndir = \"{0}/state\"\n\
         [media]\nroots = [\"{0}/media\"]\n[auth]\nrequired = false\n[browser]\nsandbox = false\n\
         [resources]\ncpu_threshold_percent = 0\n[limits]\ntask_starts = 0\nhealth = 0\nrequests = 0\n[log]\nformat = \"text\"\n\
         [engine]\nretry_base_seconds = 1\nretry_max_seconds = 1\n{settings}\n",
        folder.display()
    );
    std::fs::write(folder.join("cove.toml"), text).unwrap();
}

/// A practice site in this process, with a folder that goes with it.
pub struct PracticeSite {
    pub site: Site,
    _folder: tempfile::TempDir,
}

impl PracticeSite {
    pub async fn start(switches: Value) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let options = SiteOptions {
            processing_ms: 200,
            switches: serde_json::from_value::<Switches>(switches).unwrap(),
            ..SiteOptions::new(folder.path())
        };
        let site = Site::start(options).await.unwrap();
        Self { site, _folder: folder }
    }

    pub fn posts(&self) -> Vec<Post> {
        self.site.posts()
    }
}
