//! A simulator as a child of the test, its admin, and a provider with short deadlines in front of it.
//!
//! Everything is on loopback and on ports that the system chose. The simulator ends its browsers when its stdin
//! ends, so that a test that fails leaves nothing.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use cove::breaker::BreakerLimits;
use cove::breaker::board::Board;
use cove::browser::dolphin::{Deadlines, DolphinProvider, Setup};
use cove::browser::{Provider, Session, StartOptions};
use cove::config::Dolphin;
use cove::config::dolphin::TokenSource;
use cove::model::{Failure, FailureCode, ProfileId, SystemClock};
use serde_json::{Value, json};

pub const HEADLESS: StartOptions = StartOptions { headless: true };
/// What the simulator takes for a token.
pub const TOKEN: &str = "sim-api-token";
/// For anything that must happen soon on a machine that may be busy.
pub const SOON: Duration = Duration::from_secs(20);

/// Short, and long enough for a stub to come up on a busy machine.
pub fn deadlines() -> Deadlines {
    let ms = Duration::from_millis;
    Deadlines {
        login: ms(4_000),
        start: ms(6_000),
        stop: ms(4_000),
        running: ms(4_000),
        attach: ms(4_000),
        cloud: ms(4_000),
        listing: ms(20_000),
        cloud_rest: ms(300),
        quiet: ms(500),
        gone: ms(5_000),
        linger: ms(1_500),
        gap: ms(0),
        late: ms(1_500),
        cut: ms(700),
        duplicate: ms(1_500),
        locked: ms(150),
        tries: 3,
        retry_base: ms(50),
        retry_longest: ms(200),
        first_look: ms(20),
        longest_look: ms(200),
    }
}

pub fn id(number: u64) -> ProfileId {
    ProfileId::new(&number.to_string()).unwrap()
}

pub struct Sim {
    process: Child,
    folder: tempfile::TempDir,
    http: reqwest::Client,
    pub api: String,
    pub cloud: String,
    admin: String,
}

impl Sim {
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    pub fn start_with(options: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/dolphin/simulator.py");
        let mut process = Command::new("python3")
            .arg(program)
            .args(["--until-stdin-ends", "--data", folder.path().join("data").to_str().unwrap()])
            .args(options)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        let ready: Value = serde_json::from_str(&line).expect("the simulator's ready line");
        let address = |name: &str| ready[name].as_str().unwrap().to_owned();
        let http = cove::outbound::local().build().unwrap();
        Self { api: address("api"), cloud: address("cloud"), admin: address("admin"), process, folder, http }
    }

    pub fn state_dir(&self) -> PathBuf {
        let path = self.folder.path().join("state");
        std::fs::create_dir_all(&path).unwrap();
        path
    }

    pub fn notebook(&self) -> PathBuf {
        self.state_dir().join("dolphin-sessions.json")
    }

    pub async fn post(&self, path: &str, body: Value) -> Value {
        let answer = self.http.post(format!("{}{path}", self.admin)).json(&body).send().await.unwrap();
        let (status, text) = (answer.status(), answer.text().await.unwrap());
        assert!(status.is_success(), "{path} {body}: {status} {text}");
        serde_json::from_str(&text).unwrap()
    }

    pub async fn get(&self, path: &str) -> Value {
        let text = self.http.get(format!("{}{path}", self.admin)).send().await.unwrap().text().await.unwrap();
        serde_json::from_str(&text).unwrap()
    }

    pub async fn forget_faults(&self) {
        let answer = self.http.delete(format!("{}/faults", self.admin)).send().await.unwrap();
        assert!(answer.status().is_success());
    }

    /// Makes a profile; `values` beside its id.
    pub async fn profile(&self, number: u64, values: Value) -> ProfileId {
        let mut profile = json!({"id": number});
        profile.as_object_mut().unwrap().extend(values.as_object().unwrap().clone());
        self.post("/profiles", json!([profile])).await;
        id(number)
    }

    /// `fault` at the next `times` calls; 0: at every one.
    pub async fn fault(&self, call: &str, fault: &str, times: u32, params: Value) {
        self.post("/faults", json!({"call": call, "fault": fault, "times": times, "params": params})).await;
    }

    pub async fn app(&self, wanted: Value) -> Value {
        self.post("/app", wanted).await
    }

    pub async fn state(&self) -> Value {
        self.get("/state").await
    }

    /// How often a call has arrived.
    pub async fn calls(&self, call: &str) -> u64 {
        self.state().await["calls"][call].as_u64().unwrap_or(0)
    }

    /// Process ids of the browsers that live.
    pub async fn browsers(&self) -> Vec<u64> {
        let state = self.state().await;
        state["browsers"].as_array().unwrap().iter().map(|one| one["pid"].as_u64().unwrap()).collect()
    }

    pub async fn until_no_browser(&self, why: &str) {
        let began = Instant::now();
        while !self.browsers().await.is_empty() {
            assert!(began.elapsed() < SOON, "{why}: a browser is left: {}", self.state().await);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub fn dolphin(&self) -> Dolphin {
        Dolphin {
            api_host: self.api.clone(),
            cloud_host: self.cloud.clone(),
            start_stagger_ms: 0,
            ..Dolphin::default()
        }
    }

    /// The provider, with a token.
    pub fn provider(&self) -> DolphinProvider {
        self.provider_of(&self.dolphin(), Some(self.token(TOKEN)), &patient(), deadlines())
    }

    pub fn provider_of(
        &self,
        dolphin: &Dolphin,
        token: Option<TokenSource>,
        breakers: &Board,
        deadlines: Deadlines,
    ) -> DolphinProvider {
        let state_dir = self.state_dir();
        let setup = Setup {
            dolphin,
            token,
            state_dir: &state_dir,
            breakers: breakers.clone(),
            clock: Arc::new(SystemClock),
            deadlines,
        };
        DolphinProvider::new(setup).unwrap()
    }

    pub fn token(&self, text: &str) -> TokenSource {
        let path = self.folder.path().join("token");
        std::fs::write(&path, text).unwrap();
        TokenSource::File(path)
    }
}

impl Drop for Sim {
    fn drop(&mut self) {
        // The end of its stdin ends it, and its browsers before it.
        drop(self.process.stdin.take());
        let began = Instant::now();
        while self.process.try_wait().unwrap().is_none() {
            if began.elapsed() > SOON {
                self.process.kill().unwrap();
                self.process.wait().unwrap();
                return;
            }
            std::thread::yield_now();
        }
        let mut rest = String::new();
        drop(self.process.stdout.take().unwrap().read_to_string(&mut rest));
    }
}

/// Breakers that stay closed whatever happens, for tests of something else.
pub fn patient() -> Board {
    Board::new(BreakerLimits { failures: 1_000, open: Duration::from_secs(60), trials: 1 })
}

/// As it is when nothing is configured.
pub fn ordinary() -> Board {
    Board::new(BreakerLimits { failures: 5, open: Duration::from_secs(60), trials: 3 })
}

pub fn code(result: &Result<Session, Failure>) -> Option<FailureCode> {
    result.as_ref().err().map(|failure| failure.code)
}

/// What the engine does with whatever a start came to: it stops until it is told that it is done.
pub async fn stop_as_the_engine_does(provider: &DolphinProvider, profile: &ProfileId) -> Duration {
    let began = Instant::now();
    loop {
        match provider.stop(profile).await {
            Ok(()) => return began.elapsed(),
            Err(failure) if failure.code == FailureCode::ProfileInUse => return began.elapsed(),
            Err(failure) => assert!(began.elapsed() < 2 * SOON, "it does not stop: {failure}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// `/json/version` of a session says that it is this browser.
pub async fn answers(session: &Session) -> bool {
    let url = format!("http://127.0.0.1:{}/json/version", session.port);
    let Ok(answer) = reqwest_local().get(url).send().await else { return false };
    let Ok(text) = answer.text().await else { return false };
    text.contains(&session.ws_path)
}

fn reqwest_local() -> reqwest::Client {
    cove::outbound::local().build().unwrap()
}
