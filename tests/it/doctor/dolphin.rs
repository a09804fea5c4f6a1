//! `cove doctor` with the provider `dolphin`, against the simulator.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};

use super::{UNSOUND, doctor, is, line, place, set_mode};
use crate::rig::Daemon;

/// The simulator's own.
const TOKEN: &str = "sim-api-token";

/// It ends with its stdin, and its browsers with it.
struct Simulator {
    child: Child,
    api: String,
    cloud: String,
    admin: String,
    client: reqwest::Client,
}

impl Drop for Simulator {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

impl Simulator {
    fn start() -> Self {
        let program = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/dolphin/simulator.py");
        let mut child = Command::new("python3")
            .args([program, "--until-stdin-ends"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut ready = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut ready).unwrap();
        let ready: Value = serde_json::from_str(&ready).unwrap();
        let text = |name: &str| ready[name].as_str().unwrap().to_owned();
        let client = cove::outbound::local().build().unwrap();
        Self { child, api: text("api"), cloud: text("cloud"), admin: text("admin"), client }
    }

    async fn ask(&self, path: &str, body: &Value) -> Value {
        let answer = self.client.post(format!("{}{path}", self.admin)).json(body).send().await.unwrap();
        assert_eq!(answer.status().as_u16(), 200, "{path}");
        answer.json().await.unwrap()
    }

    async fn browsers(&self) -> usize {
        let state = self.client.get(format!("{}/state", self.admin)).send().await.unwrap();
        let state: Value = state.json().await.unwrap();
        state["browsers"].as_array().unwrap().len()
    }

    /// Settings that lead to it. `token`: what is in the token's file.
    fn env(&self, folder: &Path, token: Option<&str>) -> Vec<(&'static str, String)> {
        let mut env = vec![
            ("COVE_BROWSER__PROVIDER", "dolphin".to_owned()),
            ("COVE_DOLPHIN__API_HOST", self.api.clone()),
            ("COVE_DOLPHIN__CLOUD_HOST", self.cloud.clone()),
        ];
        if let Some(token) = token {
            let file = folder.join("token");
            std::fs::write(&file, token).unwrap();
            set_mode(&file, 0o600);
            env.push(("COVE_DOLPHIN__API_TOKEN_FILE", file.display().to_string()));
        }
        env
    }

    async fn doctor(&self, token: Option<&str>, args: &'static [&'static str]) -> (Value, Option<i32>) {
        let folder = place();
        let env = self.env(folder.path(), token);
        let run = move || {
            let env: Vec<(&str, &str)> = env.iter().map(|(name, value)| (*name, value.as_str())).collect();
            doctor(folder.path(), &env, args)
        };
        let (report, code) = tokio::task::spawn_blocking(run).await.unwrap();
        assert!(token.is_none_or(|token| !report.to_string().contains(token)), "the token is shown: {report:#}");
        (report, code)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dolphin_is_asked_whether_it_is_there_and_who_is_signed_in() {
    let simulator = Simulator::start();
    simulator.ask("/profiles", &json!([{"id": 101, "name": "anna", "browser": "chromium"}, {"id": 102}])).await;
    let (report, code) = simulator.doctor(Some(TOKEN), &["--profile", "anna"]).await;
    assert_eq!(code, Some(0), "{report:#}");
    is(&report, "dolphin", "ok", "answers, 0 profiles open");
    is(&report, "dolphin", "ok", &format!("process {}", simulator.child.id()));
    is(&report, "dolphin_signed_in", "ok", "accepted cove's token");
    is(&report, "dolphin_profiles", "ok", "the token sees 2 profiles");
    is(&report, "media_browser", "ok", "like cove itself");
    is(&report, "display", "ok", "Dolphin Anty runs");
    is(&report, "process_tree", "ok", "");
    is(&report, "profile_start", "ok", "`anna` started in");
    is(&report, "profile_cdp", "ok", "Chrome");
    assert_eq!(simulator.browsers().await, 0, "what was started is stopped");

    simulator.ask("/app", &json!({"tokens": ["another"]})).await;
    let (report, code) = simulator.doctor(Some(TOKEN), &[]).await;
    is(&report, "dolphin_signed_in", "error", "refuses cove's token");
    is(&report, "dolphin_profiles", "error", "make a new token");
    assert_eq!(code, Some(UNSOUND));

    let (report, _) = simulator.doctor(None, &[]).await;
    is(&report, "dolphin_signed_in", "warning", "--profile NAME");
    is(&report, "dolphin_profiles", "error", "cove knows no profile");
    let (report, _) = simulator.doctor(Some("two words"), &[]).await;
    is(&report, "dolphin_profiles", "error", "dolphin.api_token_file");

    simulator.ask("/app", &json!({"signed_in": false})).await;
    let (report, _) = simulator.doctor(None, &[]).await;
    is(&report, "dolphin", "ok", "answers");
    is(&report, "dolphin_signed_in", "error", "sign in to Dolphin Anty's window");

    simulator.ask("/app", &json!({"action": "down"})).await;
    let (report, code) = simulator.doctor(Some(TOKEN), &[]).await;
    is(&report, "dolphin", "error", "start Dolphin Anty on this machine");
    is(&report, "dolphin_signed_in", "error", "see the line `dolphin`");
    is(&report, "dolphin_profiles", "error", "refuses cove's token");
    is(&report, "media_browser", "warning", "is not known");
    is(&report, "process_tree", "warning", "is not known");
    assert_eq!(code, Some(UNSOUND));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_person_opened_is_left_alone_and_what_is_not_there_is_said() {
    let simulator = Simulator::start();
    simulator.ask("/profiles", &json!([{"id": 101, "name": "anna"}, {"id": 102, "state": "unknown"}])).await;
    simulator.ask("/profiles/101/open", &json!({})).await;
    let (report, code) = simulator.doctor(Some(TOKEN), &["--profile", "101"]).await;
    is(&report, "dolphin", "ok", "1 profile open");
    is(&report, "profile_start", "warning", "is in use, and was left alone");
    assert_eq!((code, simulator.browsers().await), (Some(0), 1), "{report:#}");

    for args in [&["--profile", "nobody"], &["--profile", "102"]] {
        let (report, code) = simulator.doctor(Some(TOKEN), args).await;
        assert_eq!(
            (line(&report, "profile_start")["status"].as_str(), code),
            (Some("error"), Some(UNSOUND)),
            "{report:#}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn beside_a_daemon_the_profile_is_opened_by_it() {
    let simulator = Simulator::start();
    simulator
        .ask("/profiles", &json!([{"id": 101, "name": "anna", "browser": "chromium"}, {"id": 102, "name": "boris"}]))
        .await;
    let settings = format!(
        "[dolphin]\napi_host = \"{}\"\ncloud_host = \"{}\"\nprofiles = [\"101=anna\", \"102=boris\"]",
        simulator.api, simulator.cloud
    );
    let daemon = Daemon::start_as(&settings, &[("COVE_BROWSER__PROVIDER", "dolphin")]).await;
    let run = |name: &'static str| {
        let folder = daemon.folder.path().to_owned();
        let run = move || doctor(&folder, &[("COVE_BROWSER__PROVIDER", "dolphin")], &["--profile", name]);
        async { tokio::task::spawn_blocking(run).await.unwrap() }
    };
    let (report, code) = run("anna").await;
    is(&report, "daemon", "ok", &format!("process {}", daemon.pid()));
    is(&report, "dolphin_profiles", "ok", "2 profiles named in the configuration");
    is(&report, "profile_start", "ok", "`anna` started in");
    is(&report, "profile_cdp", "ok", "Chrome");
    assert_eq!((code, simulator.browsers().await), (Some(0), 0), "{report:#}");
    // A person's window is left alone, and that is no error.
    simulator.ask("/profiles/101/open", &Value::Null).await;
    let (report, code) = run("anna").await;
    is(&report, "profile_start", "warning", "is in use, and was left alone");
    assert_eq!((code, simulator.browsers().await), (Some(0), 1), "{report:#}");
    simulator.ask("/profiles/101/close", &Value::Null).await;

    // What is down is told by its own code, with what to do about that.
    simulator.ask("/app", &json!({"action": "down"})).await;
    let (report, code) = run("boris").await;
    is(&report, "profile_start", "error", "no connection");
    let help = line(&report, "profile_start")["help"].as_str().unwrap_or_default().to_owned();
    assert!(help.contains("Dolphin Anty") && !help.contains("sandbox"), "{report:#}");
    assert_eq!(code, Some(UNSOUND), "{report:#}");
}
