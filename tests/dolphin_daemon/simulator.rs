//! The simulator as a process of this test, and a daemon that drives it.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::rig::{ATELIER, Answer, Daemon, PATIENCE, answer};

/// Dolphin's numbers are of this size.
pub const FIRST_PROFILE: u64 = 43_000_001;

pub struct Simulator {
    child: Child,
    pub api: String,
    admin: String,
    client: reqwest::Client,
}

impl Simulator {
    /// With one Chromium profile for each name.
    pub async fn start(names: &[&str]) -> Self {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/dolphin/simulator.py");
        let mut child = Command::new("python3")
            .arg(script)
            .arg("--until-stdin-ends")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let ready: Value = serde_json::from_str(&line).unwrap();
        let text = |name: &str| ready[name].as_str().unwrap().to_owned();
        let client = cove::outbound::local().timeout(PATIENCE).build().unwrap();
        let simulator = Self { child, api: text("api"), admin: text("admin"), client };
        let profiles: Vec<_> = (FIRST_PROFILE..)
            .zip(names)
            .map(|(id, name)| json!({"id": id, "name": name, "browser": "chromium"}))
            .collect();
        simulator.ask("POST", "/profiles", &json!(profiles)).await;
        simulator
    }

    async fn ask(&self, method: &str, path: &str, body: &Value) -> Value {
        let request = self.client.request(method.parse().unwrap(), format!("{}{path}", self.admin));
        let Answer { status, body, .. } = answer(request.json(body)).await;
        assert_eq!(status, 200, "{method} {path}: {body}");
        body
    }

    pub async fn fault(&self, order: &Value) {
        self.ask("POST", "/faults", order).await;
    }

    pub async fn mend(&self) {
        self.ask("DELETE", "/faults", &Value::Null).await;
    }

    pub async fn app(&self, order: &Value) {
        self.ask("POST", "/app", order).await;
    }

    pub async fn person(&self, name_index: usize, verb: &str) {
        let id = FIRST_PROFILE + u64::try_from(name_index).unwrap();
        self.ask("POST", &format!("/profiles/{id}/{verb}"), &Value::Null).await;
    }

    pub async fn state(&self) -> Value {
        self.ask("GET", "/state", &Value::Null).await
    }

    /// Pids of the browsers that live.
    pub async fn browsers(&self) -> Vec<u64> {
        let state = self.state().await;
        let browsers = state["browsers"].as_array().unwrap();
        browsers.iter().map(|browser| browser["pid"].as_u64().unwrap()).collect()
    }

    pub async fn calm(&self, context: &str) {
        let began = Instant::now();
        loop {
            let browsers = self.browsers().await;
            if browsers.is_empty() {
                return;
            }
            assert!(began.elapsed() < PATIENCE, "{context}: browsers are left: {browsers:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

impl Drop for Simulator {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let began = Instant::now();
        while self.child.try_wait().unwrap().is_none() {
            if began.elapsed() > PATIENCE {
                // A failing test must not leave processes; its own failure is what matters.
                let _killed = self.child.kill();
                let _reaped = self.child.wait();
                return;
            }
            pause();
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "called from drop, where nothing can be awaited")]
fn pause() {
    std::thread::sleep(Duration::from_millis(20));
}

/// A daemon with the provider `dolphin` on this simulator, furnished with the profiles `names`.
pub async fn daemon(simulator: &Simulator, names: &[&str], engine: &str) -> Daemon {
    daemon_with(simulator, names, engine, &[]).await
}

pub async fn daemon_with(
    simulator: &Simulator,
    names: &[&str],
    engine: &str,
    more: &[(&'static str, &'static str)],
) -> Daemon {
    // The rig keeps settings for the life of the test; these few are made once.
    let kept = |text: String| -> &'static str { Box::leak(text.into_boxed_str()) };
    let profiles: Vec<_> = (FIRST_PROFILE..).zip(names).map(|(id, name)| format!("{id}={name}")).collect();
    let mut env = vec![
        ("COVE_BROWSER__PROVIDER", "dolphin"),
        ("COVE_DOLPHIN__API_HOST", kept(simulator.api.clone())),
        ("COVE_DOLPHIN__PROFILES", kept(profiles.join(","))),
        ("COVE_DOLPHIN__START_STAGGER_MS", "0"),
        ("COVE_BREAKERS__OPEN_SECONDS", "2"),
    ];
    env.retain(|(name, _)| more.iter().all(|(other, _)| name != other));
    env.extend(more);
    let daemon = Daemon::start_as(engine, &env).await;
    daemon.put_flow("atelier", ATELIER).await;
    let began = Instant::now();
    while daemon.get("/api/v1/profiles").await.body["profiles"].as_array().unwrap().len() < names.len() {
        assert!(began.elapsed() < PATIENCE, "the profiles are not listed\n{}", daemon.logged());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    daemon
}
