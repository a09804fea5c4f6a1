//! A lent session beside the browser's own port: round trips of small messages, and large ones in both
//! directions, by turns in one run, so that the machine's mood is the same for both.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::cdp::Cdp;
use super::{Daemon, percentile, post};

const TURNS: usize = 40;
const PINGS: usize = 500;
const LARGE_TURNS: usize = 6;
const LARGE_BYTES: usize = 16 * 1024 * 1024;

/// The browser's own address.
fn direct(state: &Path, profile: &str) -> String {
    let text = std::fs::read_to_string(state.join("profiles").join(profile).join("DevToolsActivePort")).unwrap();
    let (port, path) = text.split_once('\n').unwrap();
    format!("ws://127.0.0.1:{port}{}", path.trim())
}

fn a_second(count: usize, took: &[Duration]) -> f64 {
    let mut took = took.to_vec();
    let median = percentile(&mut took, 50) / 1_000.0;
    #[expect(clippy::cast_precision_loss, reason = "a figure for a person")]
    let rate = count as f64 / median;
    rate
}

pub async fn measure() {
    let mut daemon = Daemon::start("[browser]\nsandbox = false").await;
    post(&daemon.base, "/api/v1/profiles", &json!({"name": "anna"})).await;
    let session = post(&daemon.base, "/api/v1/sessions", &json!({"profile": "anna", "owner": "bench"})).await;
    let lent = session["ws_endpoint"].as_str().unwrap().to_owned();
    let state = daemon.folder.path().join("state");
    tokio::task::spawn_blocking(move || by_turns(&lent, &state)).await.unwrap();
    daemon.stop();
}

fn by_turns(url: &str, state: &Path) {
    // The upgrade waits for the browser; then its port is known.
    let lent = Cdp::connect(url);
    let direct = direct(state, "anna");
    playwright(&direct, url);
    let mut ways = [Cdp::connect(&direct), lent];
    let mut small = [Vec::new(), Vec::new()];
    for turn in 0..=TURNS {
        for (way, took) in ways.iter_mut().zip(&mut small) {
            let began = Instant::now();
            for _ in 0..PINGS {
                way.ping();
            }
            // The first turn warms up.
            if turn > 0 {
                took.push(began.elapsed());
            }
        }
    }
    let rates = small.map(|took| a_second(PINGS, &took));
    tell("from a bare blocking socket", rates[0], rates[1]);
    large(&mut ways);
}

fn tell(client: &str, direct: f64, lent: f64) {
    println!(
        "small CDP messages through cove     {:8.0} % of the direct rate (at least 70), {client}: {lent:.0} round trips \
         a second, direct {direct:.0}",
        lent / direct * 100.0
    );
}

/// The same from a client that people use; a bare socket does nothing but wait, and shows every hop.
fn playwright(direct: &str, lent: &str) {
    let need =
        ". packaging/install-needs.sh && need_node >&2 && NODE_PATH=$(node_clients) node tests/sessions/ping.cjs";
    let mut command = Command::new("bash");
    command.args(["-c", &format!("{need} \"$@\""), "ping", direct, lent]).current_dir(env!("CARGO_MANIFEST_DIR"));
    let output = command.stderr(Stdio::inherit()).output().unwrap();
    match serde_json::from_slice::<[f64; 2]>(&output.stdout) {
        Ok([direct, lent]) => tell("by Playwright for Node", direct, lent),
        Err(_) => println!("small CDP messages through cove     not measured with Playwright: see above"),
    }
}

/// One page a way: the evaluation of a long string, sent and fetched.
fn large(ways: &mut [Cdp; 2]) {
    let pages: Vec<String> = ways.iter_mut().map(attach).collect();
    let text = "x".repeat(LARGE_BYTES);
    let fetch = json!({"expression": format!("'x'.repeat({LARGE_BYTES})"), "returnByValue": true});
    let send = json!({"expression": format!("'{text}'.length"), "returnByValue": true});
    for (what, params) in [("fetched", fetch), ("sent", send)] {
        let mut took = [Vec::new(), Vec::new()];
        for turn in 0..=LARGE_TURNS {
            for ((way, page), took) in ways.iter_mut().zip(&pages).zip(&mut took) {
                let began = Instant::now();
                let answer = way.call("Runtime.evaluate", &params, Some(page));
                if turn > 0 {
                    took.push(began.elapsed());
                }
                let value = &answer["result"]["value"];
                let length = value.as_str().map_or_else(|| value.as_u64().unwrap(), |text| text.len() as u64);
                assert_eq!(length, LARGE_BYTES as u64);
            }
        }
        let rates = took.map(|took| a_second(LARGE_BYTES, &took) / 1024.0 / 1024.0);
        println!(
            "large CDP messages through cove     {:8.0} % of the direct rate: {:.0} MB/s {what}, direct {:.0}",
            rates[1] / rates[0] * 100.0,
            rates[1],
            rates[0]
        );
    }
}

fn attach(way: &mut Cdp) -> String {
    let target: Value = way.call("Target.createTarget", &json!({"url": "about:blank"}), None);
    let asked = json!({"targetId": target["targetId"], "flatten": true});
    way.call("Target.attachToTarget", &asked, None)["sessionId"].as_str().unwrap().to_owned()
}
