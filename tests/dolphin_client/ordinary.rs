//! What works: a life of a session, reuse, other people's browsers, several at a time, a daemon that was killed.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use cove::browser::{Provider, StartGate, StartOptions};
use cove::config::{Dolphin, OnDuplicate};
use cove::model::{Failure, FailureCode};
use serde_json::{Value, json};

use super::rig::{self, HEADLESS, Sim, id};

#[tokio::test]
async fn a_session_is_started_seen_measured_and_stopped() {
    let sim = Sim::start();
    let provider = sim.provider();
    let styles = [("path", "int"), ("url", "int"), ("path", "text"), ("url", "text")];
    for (number, (ws, port)) in (101..).zip(styles) {
        let profile = sim.profile(number, json!({"automation_style": {"ws": ws, "port": port}})).await;
        let session = provider.start(&profile, HEADLESS).await.unwrap();
        assert!(rig::answers(&session).await, "{session:?}");
        assert_eq!(sim.browsers().await, [u64::from(session.pid)]);
        assert_eq!(provider.running().await.unwrap(), std::slice::from_ref(&session));
        let stats = provider.stats(&profile).await.unwrap().unwrap();
        assert!(stats.pids.contains(&session.pid) && stats.pss_bytes > 100_000, "{stats:?}");
        provider.stop(&profile).await.unwrap();
        assert_eq!(sim.browsers().await, [] as [u64; 0]);
        assert_eq!(provider.running().await.unwrap(), []);
        assert_eq!(provider.stats(&profile).await.unwrap(), None);
        provider.stop(&profile).await.unwrap();
    }
    assert_eq!((sim.calls("start").await, sim.calls("stop").await, sim.calls("login").await), (4, 4, 0));
    let log = sim.get("/log?call=start").await;
    for entry in log["entries"].as_array().unwrap() {
        assert_eq!(entry["query"], json!({"automation": "1", "headless": "1"}));
        assert!(entry["headers"].get("authorization").is_none(), "{entry}");
    }
    let shown = StartOptions { headless: false };
    provider.start(&id(101), shown).await.unwrap();
    let log = sim.get("/log?call=start").await;
    assert_eq!(log["entries"][4]["query"], json!({"automation": "1"}));
}

#[tokio::test]
async fn a_real_chromium_is_driven_as_well() {
    let sim = Sim::start();
    let profile = sim.profile(101, json!({"browser": "chromium"})).await;
    let deadlines = cove::browser::dolphin::Deadlines { start: Duration::from_secs(40), ..rig::deadlines() };
    let provider = sim.provider_of(&sim.dolphin(), None, &rig::patient(), deadlines);
    let session = provider.start(&profile, HEADLESS).await.unwrap();
    assert!(rig::answers(&session).await);
    let stats = provider.stats(&profile).await.unwrap().unwrap();
    assert!(stats.pids.len() > 2 && stats.pss_bytes > 10_000_000, "{stats:?}");
    provider.stop(&profile).await.unwrap();
    assert_eq!(sim.browsers().await, [] as [u64; 0]);
}

#[tokio::test]
async fn what_runs_for_us_already_is_used_again() {
    let sim = Sim::start();
    let profile = sim.profile(101, json!({})).await;
    let provider = sim.provider();
    let first = provider.start(&profile, HEADLESS).await.unwrap();
    assert_eq!(provider.start(&profile, HEADLESS).await.unwrap(), first);
    // A daemon that was killed knows it by its notebook.
    let next = sim.provider();
    assert_eq!(next.running().await.unwrap(), std::slice::from_ref(&first));
    assert_eq!(next.start(&profile, HEADLESS).await.unwrap(), first);
    assert_eq!(sim.calls("start").await, 1);
    next.stop(&profile).await.unwrap();
    assert_eq!(sim.browsers().await, [] as [u64; 0]);
}

#[tokio::test]
async fn rule_16_what_a_person_opened_is_left_alone() {
    let sim = Sim::start();
    let profile = sim.profile(101, json!({})).await;
    let provider = sim.provider();
    let opened = sim.post("/profiles/101/open", json!({})).await;
    let failure = provider.start(&profile, HEADLESS).await.unwrap_err();
    assert_eq!(failure.code, FailureCode::ProfileInUse, "{failure}");
    assert!(failure.detail.contains(&format!("process {}", opened["pid"])), "{failure}");
    assert_eq!(provider.running().await.unwrap(), []);
    provider.stop(&profile).await.unwrap();
    assert_eq!(sim.browsers().await, [opened["pid"].as_u64().unwrap()]);
    assert_eq!((sim.calls("start").await, sim.calls("stop").await), (0, 0));
}

/// The negative control of rule 16: with the rule switched off, the person's browser is gone.
#[tokio::test]
async fn rule_16_only_the_configuration_lets_a_persons_browser_be_stopped() {
    let sim = Sim::start();
    let profile = sim.profile(101, json!({})).await;
    let dolphin = Dolphin { on_duplicate: OnDuplicate::StopAndStart, ..sim.dolphin() };
    let provider = sim.provider_of(&dolphin, None, &rig::patient(), rig::deadlines());
    let opened = sim.post("/profiles/101/open", json!({})).await["pid"].as_u64().unwrap();
    let session = provider.start(&profile, HEADLESS).await.unwrap();
    assert!(rig::answers(&session).await && u64::from(session.pid) != opened);
    assert_eq!(sim.browsers().await, [u64::from(session.pid)]);
}

/// Dolphin says that it runs and does not list it: a stop may help, and is made where the configuration lets it.
#[tokio::test]
async fn a_duplicate_that_is_not_listed_is_stopped_once_where_that_is_wanted() {
    let sim = Sim::start();
    let profile = sim.profile(101, json!({})).await;
    let dolphin = Dolphin { on_duplicate: OnDuplicate::StopAndStart, ..sim.dolphin() };
    for (dolphin, stops) in [(dolphin, 1), (sim.dolphin(), 0)] {
        sim.post("/reset", json!({})).await;
        let provider = sim.provider_of(&dolphin, None, &rig::patient(), rig::deadlines());
        sim.fault("start", "duplicate", 2, json!({})).await;
        provider.start(&profile, HEADLESS).await.unwrap();
        assert_eq!((sim.calls("start").await, sim.calls("stop").await), (3, stops));
        rig::stop_as_the_engine_does(&provider, &profile).await;
    }
}

/// Whoever starts may go away at any moment, and then stops what came of it.
#[tokio::test]
async fn a_start_that_is_dropped_at_any_moment_leaves_nothing() {
    let sim = Sim::start();
    let provider = sim.provider();
    let profile = sim.profile(101, json!({"start_delay_ms": 150})).await;
    let mut cut = 0;
    for (number, after) in (0..20_u64).map(|number| (number, number.pow(3) / 3)) {
        let dropped = tokio::time::timeout(Duration::from_millis(after), provider.start(&profile, HEADLESS)).await;
        cut += u32::from(dropped.is_err());
        if number % 3 == 0 {
            // The stop itself may be given up as well.
            drop(tokio::time::timeout(Duration::from_millis(number), provider.stop(&profile)).await);
        }
        rig::stop_as_the_engine_does(&provider, &profile).await;
        assert_eq!(sim.browsers().await, [] as [u64; 0], "dropped after {after} ms");
        let notes: Value = std::fs::read(sim.notebook())
            .map_or(json!({"sessions": []}), |bytes| serde_json::from_slice(&bytes).unwrap());
        assert_eq!(notes["sessions"], json!([]), "dropped after {after} ms");
    }
    assert!((8..20).contains(&cut), "{cut} of 20 were cut");
    assert_eq!(provider.running().await.unwrap(), []);
    assert_eq!(sim.state().await["most_at_once"]["start"], json!(1));
}

/// The browser of ours ended, and a person opened the profile before anybody looked.
#[tokio::test]
async fn rule_16_a_person_who_came_after_us_is_not_stopped() {
    let sim = Sim::start();
    let profile = sim.profile(101, json!({"running_lag_ms": 0})).await;
    let provider = sim.provider();
    provider.start(&profile, HEADLESS).await.unwrap();
    sim.post("/profiles/101/close", json!({})).await;
    let opened = sim.post("/profiles/101/open", json!({})).await["pid"].as_u64().unwrap();
    for provider in [provider, sim.provider()] {
        let stopped = provider.stop(&profile).await;
        assert!(stopped.is_ok() || stopped.unwrap_err().code == FailureCode::ProfileInUse);
        assert_eq!(provider.running().await.unwrap(), []);
        assert_eq!(sim.browsers().await, [opened]);
    }
    assert_eq!(sim.calls("stop").await, 0);
}

/// Killed between the note of an intent and the answer: the browser came up, and nobody was there to hear it.
#[tokio::test]
async fn rule_16_an_intent_on_disk_tells_ours_after_a_kill() {
    let sim = Sim::start();
    let profile = sim.profile(101, json!({})).await;
    let provider = sim.provider();
    sim.fault("start", "hang_but_launches", 1, json!({})).await;
    let killed = tokio::time::timeout(Duration::from_millis(1_500), provider.start(&profile, HEADLESS)).await;
    assert!(killed.is_err(), "the start was answered");
    let notes: Value = serde_json::from_slice(&std::fs::read(sim.notebook()).unwrap()).unwrap();
    assert_eq!((&notes["sessions"][0]["profile"], &notes["sessions"][0]["launched"]), (&json!("101"), &json!(false)));
    drop(provider);
    let next = sim.provider();
    assert_eq!(sim.browsers().await.len(), 1);
    next.stop(&profile).await.unwrap();
    assert_eq!(sim.browsers().await, [] as [u64; 0]);
    assert_eq!((sim.calls("start").await, sim.calls("stop").await), (1, 1));
}

/// The same with a notebook that was lost: then it is taken for the operator's, and left alone.
#[tokio::test]
async fn rule_16_without_the_note_it_would_be_the_operators() {
    let sim = Sim::start();
    let profile = sim.profile(101, json!({})).await;
    let provider = sim.provider();
    let session = provider.start(&profile, HEADLESS).await.unwrap();
    std::fs::remove_file(sim.notebook()).unwrap();
    let next = sim.provider();
    assert_eq!(next.running().await.unwrap(), []);
    let failure = next.start(&profile, HEADLESS).await.unwrap_err();
    assert_eq!(failure.code, FailureCode::ProfileInUse);
    next.stop(&profile).await.unwrap();
    assert!(rig::answers(&session).await);
}

/// Killed before the call was made: nothing comes, and after the window nothing is waited for.
#[tokio::test]
async fn a_note_of_a_start_that_never_came_is_waited_out() {
    let sim = Sim::start();
    let profile = sim.profile(101, json!({})).await;
    sim.fault("start", "hang", 1, json!({})).await;
    let provider = sim.provider();
    let killed = tokio::time::timeout(Duration::from_millis(300), provider.start(&profile, HEADLESS)).await;
    assert!(killed.is_err());
    drop(provider);
    let next = sim.provider();
    let waited = rig::stop_as_the_engine_does(&next, &profile).await;
    let deadlines = rig::deadlines();
    assert!(
        waited > Duration::from_secs(3) && waited < deadlines.start + deadlines.late + Duration::from_secs(5),
        "{waited:?}"
    );
    assert_eq!((sim.calls("start").await, sim.calls("stop").await), (1, 0));
    next.start(&profile, HEADLESS).await.unwrap();
}

#[tokio::test]
async fn rule_15_a_session_that_outlived_the_daemon_is_the_same_session() {
    let sim = Sim::start();
    let mut sessions = Vec::new();
    let provider = sim.provider();
    for number in 101..104 {
        let profile = sim.profile(number, json!({})).await;
        sessions.push(provider.start(&profile, HEADLESS).await.unwrap());
    }
    drop(provider);
    let next = sim.provider();
    let mut seen = next.running().await.unwrap();
    seen.sort_by(|a, b| a.profile.cmp(&b.profile));
    assert_eq!(seen, sessions);
    sim.post("/profiles/102/kill", json!({})).await;
    let left: BTreeSet<_> = next.running().await.unwrap().into_iter().map(|session| session.profile).collect();
    assert_eq!(left, BTreeSet::from([id(101), id(103)]));
    for number in 101..104 {
        next.stop(&id(number)).await.unwrap();
    }
    assert_eq!(sim.browsers().await, [] as [u64; 0]);
}

#[tokio::test]
async fn starts_come_a_few_at_a_time_and_apart_and_stops_one_by_one() {
    let sim = Sim::start();
    let dolphin = Dolphin { parallel_starts: 2, start_stagger_ms: 1_000, ..sim.dolphin() };
    let deadlines = cove::browser::dolphin::Deadlines {
        start: Duration::from_secs(30),
        stop: Duration::from_secs(30),
        ..rig::deadlines()
    };
    let provider = sim.provider_of(&dolphin, None, &rig::patient(), deadlines);
    let mut profiles = Vec::new();
    for number in 101..105 {
        profiles.push(sim.profile(number, json!({"start_delay_ms": 1500, "stop_delay_ms": 100})).await);
    }
    let started =
        futures_util::future::join_all(profiles.iter().map(|profile| provider.start(profile, HEADLESS))).await;
    assert!(started.iter().all(Result::is_ok), "{started:?}");
    let stopped = futures_util::future::join_all(profiles.iter().map(|profile| provider.stop(profile))).await;
    assert!(stopped.iter().all(Result::is_ok), "{stopped:?}");
    let most = sim.state().await["most_at_once"].clone();
    assert_eq!((&most["start"], &most["stop"]), (&json!(2), &json!(1)), "{most}");
    let log = sim.get("/log?call=start").await;
    let times: Vec<u64> =
        log["entries"].as_array().unwrap().iter().map(|entry| entry["time_ms"].as_u64().unwrap()).collect();
    // They are sent a second apart, and each may be late. Without that the first two would come together.
    assert!(times.windows(2).all(|pair| pair[1] - pair[0] >= 300), "{times:?}");
}

#[tokio::test]
async fn one_profile_is_never_started_or_stopped_twice_at_once() {
    let sim = Sim::start();
    let profile = sim.profile(101, json!({"start_delay_ms": 300, "stop_delay_ms": 200})).await;
    let provider = sim.provider();
    let (first, second) = tokio::join!(provider.start(&profile, HEADLESS), provider.start(&profile, HEADLESS));
    assert_eq!(first.unwrap(), second.unwrap());
    let (first, second) = tokio::join!(provider.stop(&profile), provider.stop(&profile));
    assert!(first.is_ok() && second.is_ok());
    let (started, stopped) = tokio::join!(provider.start(&profile, HEADLESS), async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        provider.stop(&profile).await
    });
    assert!(started.is_ok() && stopped.is_ok());
    assert_eq!(sim.browsers().await, [] as [u64; 0]);
    let most = sim.state().await["most_at_once"]["by_profile"]["101"].clone();
    assert_eq!(most, json!({"start": 1, "stop": 1}));
}

/// §5: `localhost` may be `::1` first, where nobody listens, or somebody who never answers.
#[tokio::test]
async fn a_host_by_name_is_found_on_ipv4() {
    let sim = Sim::start();
    let profile = sim.profile(101, json!({})).await;
    let api_host = sim.api.replace("127.0.0.1", "localhost");
    for api_host in [api_host.clone(), format!("{api_host}/"), format!("{api_host}/v1.0")] {
        let provider = sim.provider_of(&Dolphin { api_host, ..sim.dolphin() }, None, &rig::patient(), rig::deadlines());
        provider.start(&profile, HEADLESS).await.unwrap();
        provider.stop(&profile).await.unwrap();
    }
}

#[tokio::test]
async fn what_is_no_number_is_no_profile_of_dolphin() {
    let sim = Sim::start();
    let provider = sim.provider();
    let profile = cove::model::ProfileId::new("anna").unwrap();
    let failure = provider.start(&profile, HEADLESS).await.unwrap_err();
    assert_eq!(failure.code, FailureCode::ProfileUnknown);
    provider.stop(&profile).await.unwrap();
    assert_eq!(sim.calls("running").await, 0);
}

#[tokio::test]
async fn dolphins_user_reads_what_its_modes_let_it() {
    let sim = Sim::start();
    let file = sim.state_dir().join("a.mp4");
    std::fs::write(&file, "x").unwrap();
    let provider = sim.provider();
    assert!(provider.can_read(&file).await.unwrap());
    assert!(!provider.can_read(&sim.state_dir().join("gone")).await.unwrap());
    let began = Instant::now();
    sim.app(json!({"action": "down"})).await;
    assert!(provider.can_read(&file).await.unwrap(), "nobody to ask: what we can read counts");
    assert!(began.elapsed() < rig::SOON);
}

struct Closed;

impl StartGate for Closed {
    fn may_start(&self) -> Result<(), Failure> {
        Err(Failure::new(FailureCode::BreakerOpen, "it closed meanwhile"))
    }
}

#[tokio::test]
async fn a_start_whose_gate_closed_while_it_waited_is_not_sent_and_takes_no_turn() {
    let sim = Sim::start();
    let profile = sim.profile(101, json!({})).await;
    let hour = Dolphin { start_stagger_ms: 3_600_000, ..sim.dolphin() };
    let provider = sim.provider_of(&hour, None, &rig::patient(), rig::deadlines());
    let failure = provider.start_through(&profile, HEADLESS, &Closed).await.unwrap_err();
    assert_eq!(failure, Failure::new(FailureCode::BreakerOpen, "it closed meanwhile"));
    assert_eq!((sim.calls("start").await, provider.running().await), (0, Ok(Vec::new())));
    provider.start(&profile, HEADLESS).await.unwrap();
    assert_eq!(sim.calls("start").await, 1);
}
