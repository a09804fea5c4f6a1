//! A port is not a browser: what answers there may be another profile's, or anything at all.
//!
//! To publish through the wrong browser is to publish from the wrong account, so that the id of the browser has to
//! fit, or the process that Dolphin lists has to have the port.

use std::time::Instant;

use cove::browser::Provider;
use cove::browser::dolphin::{Deadlines, DolphinProvider};
use cove::config::Dolphin;
use cove::model::FailureCode;
use serde_json::{Value, json};

use super::fake::{Fake, Port};
use super::rig::{self, HEADLESS, Sim, id};

const UUID: &str = "67424c13-7472-4745-be31-aea56cb4fb3d";

fn provider(sim: &Sim, fake: &Fake) -> DolphinProvider {
    let deadlines = Deadlines { attach: std::time::Duration::from_millis(300), ..rig::deadlines() };
    let dolphin = Dolphin { api_host: fake.api.clone(), ..sim.dolphin() };
    sim.provider_of(&dolphin, None, &rig::patient(), deadlines)
}

fn said(port: u16, ws: &str) -> Value {
    json!({"success": true, "automation": {"port": port, "wsEndpoint": ws}})
}

/// Profile 8 runs for somebody; the start of profile 7 is answered with the port of 8.
#[tokio::test]
async fn another_profiles_browser_is_never_attached_to() {
    let sim = Sim::start();
    let other = sim.profile(8, json!({})).await;
    let others = sim.provider().start(&other, HEADLESS).await.unwrap();
    std::fs::remove_file(sim.notebook()).unwrap();
    // The first process of the machine began long before any start.
    let own = 1;
    for (ws, after) in [
        // The id of an earlier browser of 7, none, or one that is nobody's; 7 is listed under its own process, which
        // has no port, under a process of long ago, under none, or not at all.
        (format!("/devtools/browser/{UUID}"), json!({"7": {"pid": own}, "8": {"pid": others.pid}})),
        (String::new(), json!({"7": {"pid": own}})),
        (String::new(), json!({"7": {}})),
        (String::new(), json!({"7": {"pid": u32::MAX}})),
        ("/devtools/browser/".to_owned(), json!({})),
        // Even where Dolphin mixes them up: the process began before the start was asked for.
        (String::new(), json!({"7": {"pid": others.pid}})),
    ] {
        let fake = Fake::start().await;
        let provider = provider(&sim, &fake);
        {
            let mut words = fake.words.lock().unwrap();
            words.started = said(others.port, &ws);
            words.after = after.clone();
        }
        let started = provider.start(&id(7), HEADLESS).await;
        let code = rig::code(&started);
        assert!(
            matches!(code, Some(FailureCode::AttachFailed | FailureCode::ProfileInUse)),
            "{ws} {after}: {started:?}"
        );
        rig::stop_as_the_engine_does(&provider, &id(7)).await;
        assert!(rig::answers(&others).await, "{ws} {after}: the other profile's browser was closed");
        assert_eq!((fake.calls("/8/"), fake.calls("/7/start")), (0, 1));
    }
    // The control: the right id is enough.
    let fake = Fake::start().await;
    {
        let mut words = fake.words.lock().unwrap();
        words.started = said(others.port, &others.ws_path);
        words.after = json!({"7": {}});
    }
    let session = provider(&sim, &fake).start(&id(7), HEADLESS).await.unwrap();
    assert_eq!((session.port, session.pid), (others.port, others.pid), "its process is known by its port");
}

fn http(head: &str, body: &[u8]) -> Vec<u8> {
    [format!("HTTP/1.1 {head}\r\ncontent-length: {}\r\n\r\n", body.len()).as_bytes(), body].concat()
}

const INCOMPLETE: [&str; 3] = ["nothing", "half a head", "half a body"];

/// What a port can say that is no browser's `/json/version`.
fn no_browsers() -> Vec<(&'static str, Vec<u8>)> {
    let url = |url: Value| http("200 OK", json!({"webSocketDebuggerUrl": url}).to_string().as_bytes());
    let right = url(json!(format!("ws://127.0.0.1:1/devtools/browser/{UUID}")));
    vec![
        ("nothing", Vec::new()),
        ("half a head", right[..20].to_vec()),
        ("half a body", right[..right.len() - 30].to_vec()),
        ("a head alone", b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n".to_vec()),
        ("another protocol", b"SSH-2.0-OpenSSH_9.6\r\n".to_vec()),
        ("a TLS alert", vec![0x15, 3, 1, 0, 2, 2, 40]),
        ("zeros", vec![0; 4_096]),
        ("a bad status", b"HTTP/1.1 OK\r\n\r\n".to_vec()),
        ("a bad length", b"HTTP/1.1 200 OK\r\ncontent-length: many\r\n\r\n{}".to_vec()),
        ("no chunks", b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n".to_vec()),
        ("a large head", [b"HTTP/1.1 200 OK\r\n".to_vec(), b"x: y\r\n".repeat(200_000)].concat()),
        ("a large body", http("200 OK", &vec![b' '; 5 << 20])),
        ("a redirect", b"HTTP/1.1 302 Found\r\nlocation: /json/version\r\ncontent-length: 0\r\n\r\n".to_vec()),
        ("an upgrade", b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n".to_vec()),
        ("no content", b"HTTP/1.1 204 No Content\r\n\r\n".to_vec()),
        (
            "an error",
            http("500 No", format!("{{\"webSocketDebuggerUrl\":\"ws://h:1/devtools/browser/{UUID}\"}}").as_bytes()),
        ),
        ("a page", http("200 OK", b"<html>hello</html>")),
        ("a list", http("200 OK", b"[]")),
        ("nested lists", http("200 OK", &b"[".repeat(100_000))),
        ("no URL", http("200 OK", b"{\"Browser\":\"Chrome/1\"}")),
        ("a number for a URL", url(json!(7))),
        ("a page's URL", url(json!(format!("ws://127.0.0.1:1/devtools/page/{UUID}")))),
        ("a way out of the path", url(json!("ws://127.0.0.1:1/devtools/browser/../../x"))),
        ("a query in the path", url(json!(format!("ws://127.0.0.1:1/devtools/browser/{UUID}?x=1")))),
        ("another browser", url(json!("ws://127.0.0.1:1/devtools/browser/0-0"))),
        ("bytes that are no text", http("200 OK", &[0xff, 0xfe, 0xc3, 0x28])),
    ]
}

#[tokio::test]
async fn what_is_no_browser_is_not_taken_for_one() {
    let sim = Sim::start();
    for (name, bytes) in no_browsers() {
        // One that is not whole may also never go on.
        let both = [false, true];
        let waits: &[bool] = if INCOMPLETE.contains(&name) { &both } else { &both[..1] };
        for hangs in waits.iter().copied() {
            let port = Port::saying(bytes.clone(), hangs).await;
            let fake = Fake::start().await;
            {
                let mut words = fake.words.lock().unwrap();
                words.started = said(port.number, &format!("/devtools/browser/{UUID}"));
                words.after = json!({"7": {}});
            }
            let (provider, began) = (provider(&sim, &fake), Instant::now());
            let started = provider.start(&id(7), HEADLESS).await;
            assert_eq!(rig::code(&started), Some(FailureCode::AttachFailed), "{name}: {started:?}");
            assert!(began.elapsed() < std::time::Duration::from_secs(12), "{name}: {:?}", began.elapsed());
            assert_eq!((fake.calls("/start"), fake.calls("/stop")), (1, 1), "{name}: taken back");
            provider.stop(&id(7)).await.unwrap();
        }
    }
}
