//! What is left of a browser that nobody looks at: no lock is freed while it lives, and none is kept for a dead one.
//!
//! Each case is a moment at which the note, Dolphin's list and the machine say different things: a daemon that died
//! between the answer and the attachment, an application that lost count, a port that changed hands.

use std::time::Duration;

use cove::browser::Provider;
use cove::browser::dolphin::{Deadlines, DolphinProvider};
use cove::config::Dolphin;
use cove::model::{FailureCode, ProfileId};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use serde_json::{Value, json};

use super::fake::{Fake, Port};
use super::rig::{self, HEADLESS, Sim, id};

const UUID: &str = "67424c13-7472-4745-be31-aea56cb4fb3d";

fn pid(raw: u64) -> Pid {
    Pid::from_raw(i32::try_from(raw).unwrap()).unwrap()
}

fn version(uuid: &str) -> Vec<u8> {
    let body = json!({"webSocketDebuggerUrl": format!("ws://127.0.0.1:1/devtools/browser/{uuid}")}).to_string();
    format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

/// The start was answered, nobody has attached, and the application forgets the browser: its port opens when
/// `opens` has passed, and the daemon that asked is gone.
async fn answered_and_lost(opens: Duration, quiet: Duration) -> (Sim, ProfileId, DolphinProvider) {
    let sim = Sim::start();
    let profile = sim.profile(101, json!({})).await;
    sim.fault("start", "cdp_late", 1, json!({"ms": u64::try_from(opens.as_millis()).unwrap()})).await;
    let provider = sim.provider();
    let answered = async {
        loop {
            let notes = std::fs::read(sim.notebook()).unwrap_or_default();
            let notes: Value = serde_json::from_slice(&notes).unwrap_or_default();
            if notes["sessions"][0]["launched"] == true {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::select! {
        started = provider.start(&profile, HEADLESS) => panic!("attached before its port opened: {started:?}"),
        () = answered => {}
    }
    drop(provider);
    sim.app(json!({"action": "restart", "orphans": "leave"})).await;
    assert_eq!(sim.browsers().await.len(), 1);
    let deadlines = Deadlines { quiet, ..rig::deadlines() };
    let next = sim.provider_of(&sim.dolphin(), None, &rig::patient(), deadlines);
    (sim, profile, next)
}

#[tokio::test]
async fn rule_21_a_browser_whose_start_was_answered_is_found_where_the_answer_said() {
    let (sim, profile, next) = answered_and_lost(Duration::from_millis(600), Duration::ZERO).await;
    tokio::time::sleep(Duration::from_millis(900)).await;
    rig::stop_as_the_engine_does(&next, &profile).await;
    assert_eq!((sim.browsers().await, sim.calls("stop").await), (vec![], 0));
}

#[tokio::test]
async fn rule_21_a_browser_whose_start_was_answered_may_still_come() {
    let (sim, profile, next) = answered_and_lost(Duration::from_millis(1_200), Duration::from_secs(4)).await;
    rig::stop_as_the_engine_does(&next, &profile).await;
    assert_eq!((sim.browsers().await, sim.calls("stop").await), (vec![], 0));
}

/// The application lost count of our browser, and a person opened the profile in it: ours is closed, theirs is not.
#[tokio::test]
async fn rule_16_ours_that_answers_beside_a_persons_is_closed_alone() {
    let sim = Sim::start();
    let profile = sim.profile(101, json!({})).await;
    let ours = sim.provider().start(&profile, HEADLESS).await.unwrap();
    // Later than the clocks' slack.
    tokio::time::sleep(Duration::from_millis(1_300)).await;
    sim.profile(102, json!({})).await;
    let theirs = sim.post("/profiles/102/open", json!({})).await["pid"].as_u64().unwrap();
    let fake = Fake::start().await;
    fake.words.lock().unwrap().before = json!({"101": {"pid": theirs}});
    let dolphin = Dolphin { api_host: fake.api.clone(), ..sim.dolphin() };
    let next = sim.provider_of(&dolphin, None, &rig::patient(), rig::deadlines());
    assert_eq!(next.running().await.unwrap(), []);
    let failure = next.stop(&profile).await.unwrap_err();
    assert_eq!((failure.code, fake.calls("/stop")), (FailureCode::ProfileInUse, 0), "{failure}");
    assert!(!rig::answers(&ours).await, "nothing of ours is left");
    assert_eq!(sim.browsers().await, [theirs]);
    let failure = next.start(&profile, HEADLESS).await.unwrap_err();
    assert_eq!((failure.code, fake.calls("/start")), (FailureCode::ProfileInUse, 0), "{failure}");
}

/// The browser died, and another program got its port: it is dead all the same, whether Dolphin is there or not.
#[tokio::test]
async fn rule_21_a_dead_browser_whose_port_is_anothers_holds_no_lock() {
    for app in [json!({"action": "down", "orphans": "leave"}), json!({"action": "restart", "orphans": "leave"})] {
        let sim = Sim::start();
        let profile = sim.profile(101, json!({})).await;
        let provider = sim.provider();
        let session = provider.start(&profile, HEADLESS).await.unwrap();
        sim.app(app.clone()).await;
        kill_process(pid(session.pid.into()), Signal::KILL).unwrap();
        sim.until_no_browser("killed").await;
        let port = Port::at(session.port, b"SSH-2.0-OpenSSH_9.6\r\n".to_vec(), true).await;
        provider.stop(&profile).await.unwrap_or_else(|failure| panic!("{app}: {failure}"));
        assert_eq!((port.number, sim.calls("stop").await), (session.port, 0));
    }
}

/// A busy browser may be listed by nobody and answer nobody for a while, and then it is there.
#[tokio::test]
async fn a_browser_that_is_seen_late_has_not_ended() {
    let sim = Sim::start();
    let number = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    for (quiet, comes) in [(Duration::from_secs(4), true), (Duration::from_millis(200), false)] {
        let fake = Fake::start().await;
        let ws = format!("/devtools/browser/{UUID}");
        fake.words.lock().unwrap().started = json!({"success": true, "automation": {"port": number, "wsEndpoint": ws}});
        let dolphin = Dolphin { api_host: fake.api.clone(), ..sim.dolphin() };
        let deadlines = Deadlines { quiet, ..rig::deadlines() };
        let provider = sim.provider_of(&dolphin, None, &rig::patient(), deadlines);
        let late = async {
            tokio::time::sleep(Duration::from_millis(1_000)).await;
            Port::at(number, version(UUID), false).await
        };
        let profile = id(7);
        let (started, _port) = tokio::join!(provider.start(&profile, HEADLESS), late);
        assert_eq!(started.is_ok(), comes, "{started:?}");
        std::fs::remove_file(sim.notebook()).unwrap();
    }
}

/// The same of its process: one that hangs is not dead.
#[tokio::test]
async fn rule_21_a_browser_that_hangs_beside_another_process_is_not_let_go() {
    let sim = Sim::start();
    let profile = sim.profile(101, json!({})).await;
    let ours = sim.provider().start(&profile, HEADLESS).await.unwrap();
    kill_process(pid(ours.pid.into()), Signal::STOP).unwrap();
    let fake = Fake::start().await;
    // A process of long ago.
    fake.words.lock().unwrap().before = json!({"101": {"pid": 1}});
    let dolphin = Dolphin { api_host: fake.api.clone(), ..sim.dolphin() };
    let next = sim.provider_of(&dolphin, None, &rig::patient(), rig::deadlines());
    let failure = next.stop(&profile).await.unwrap_err();
    assert_eq!(failure.code, FailureCode::BrowserLost, "{failure}");
    test_kill_process(pid(ours.pid.into())).unwrap();
    kill_process(pid(ours.pid.into()), Signal::CONT).unwrap();
    rig::stop_as_the_engine_does(&next, &profile).await;
    sim.until_no_browser("it closed itself").await;
}
