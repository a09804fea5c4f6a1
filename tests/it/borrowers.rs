//! Real clients on a lent session: Playwright for Python and for Node, and Puppeteer, as their registries have
//! them. Each opens a page, chooses a large file, sends and fetches a large message, and goes away.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use super::rig::{Daemon, PracticeSite};
use super::worker::python;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
const FILE_BYTES: usize = 20 * 1024 * 1024;
/// A message of so many characters, in both directions.
const LARGE: usize = 20_000_000;

/// The folder with the clients for Node, made where it is missing, in the way of tests/run.sh.
fn node_modules() -> PathBuf {
    let made = Command::new("bash")
        .args(["-c", ". packaging/install-needs.sh && need_node >&2 && node_clients"])
        .current_dir(ROOT)
        .stdin(Stdio::null())
        .output()
        .expect("bash runs packaging/install-needs.sh");
    let told = String::from_utf8_lossy(&made.stderr);
    assert!(
        made.status.success(),
        "Node clients cannot be tried: Node 20 or newer with Playwright and Puppeteer is missing and could not be \
         installed. In {ROOT}: . packaging/install-needs.sh; need_node\n{told}"
    );
    PathBuf::from(String::from_utf8(made.stdout).unwrap().trim())
}

/// Runs a client twice on one session: by its WebSocket and, where `http`, by its http address.
async fn drive(mut client: impl FnMut() -> Command, http: bool) {
    let daemon = Daemon::start().await;
    daemon.furnish(&["anna"]).await;
    let practice = PracticeSite::start(json!({})).await;
    let file = daemon.folder.path().join("media/large.mp4");
    std::fs::write(&file, vec![7; FILE_BYTES]).unwrap();
    let lent = daemon.post("/api/v1/sessions", &json!({"profile": "anna", "owner": "script"})).await;
    assert_eq!(lent.status, 201, "{}", lent.body);
    let endpoint = lent.body["ws_endpoint"].as_str().unwrap();
    let mut ways = vec![(endpoint.to_owned(), LARGE)];
    if http {
        ways.push((endpoint.replace("ws://", "http://"), 1_000));
    }
    for (endpoint, length) in ways {
        let mut command = client();
        command.args([&endpoint, &practice.site.url()]).arg(&file).arg(length.to_string()).stdin(Stdio::null());
        let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
        assert!(output.status.success(), "{output:#?}\n{}", daemon.logged());
        let seen: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!((&seen["sent"], &seen["fetched"]), (&json!(length), &json!(length)), "{seen}");
        assert_eq!(seen["file_bytes"], json!(FILE_BYTES), "{seen}");
        let named = !seen["title"].as_str().unwrap().is_empty() && !seen["version"].as_str().unwrap().is_empty();
        assert!(named, "{seen}");
    }
    let path = format!("/api/v1/sessions/{}", lent.body["session_id"].as_str().unwrap());
    let shown = daemon.get(&path).await.body;
    assert_eq!(shown["state"], "ready", "a client that disconnects ends nothing: {shown}");
}

fn script(name: &str) -> PathBuf {
    Path::new(ROOT).join("tests/sessions").join(name)
}

fn node(name: &str) -> Command {
    let mut command = Command::new("node");
    command.arg(script(name)).env("NODE_PATH", node_modules());
    command
}

#[tokio::test(flavor = "multi_thread")]
async fn playwright_for_python_drives_a_lent_session() {
    let client = || {
        let mut command = Command::new(python());
        command.arg(script("client.py"));
        command
    };
    drive(client, true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn playwright_for_node_drives_a_lent_session() {
    drive(|| node("playwright.cjs"), true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn puppeteer_drives_a_lent_session() {
    drive(|| node("puppeteer.cjs"), false).await;
}
