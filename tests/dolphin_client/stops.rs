//! The faults of a stop and of the application's life (§6; §8: 13, 19, 20, 24, 25).
//!
//! The provider answers that a browser is stopped only when it is gone; the engine asks again until then.

use std::time::{Duration, Instant};

use cove::breaker::BreakerLimits;
use cove::breaker::board::Board;
use cove::browser::dolphin::DolphinProvider;
use cove::browser::{Provider, Session};
use cove::model::{FailureCode, ProfileId};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use super::rig::{self, HEADLESS, Sim, id};

async fn started(sim: &Sim) -> (DolphinProvider, ProfileId, Session) {
    let profile = sim.profile(101, json!({"running_lag_ms": 300})).await;
    let provider = sim.provider();
    let session = provider.start(&profile, HEADLESS).await.unwrap();
    (provider, profile, session)
}

fn send(session: &Session, signal: Signal) {
    kill_process(Pid::from_raw(i32::try_from(session.pid).unwrap()).unwrap(), signal).unwrap();
}

/// `first`: how the first stop ends; then the engine goes on until it is gone.
async fn stops(
    fault: &str,
    times: u32,
    params: Value,
    first: Option<FailureCode>,
    calls: std::ops::RangeInclusive<u64>,
) {
    let sim = Sim::start();
    let (provider, profile, _) = started(&sim).await;
    sim.fault("stop", fault, times, params.clone()).await;
    let began = Instant::now();
    let stopped = provider.stop(&profile).await;
    let (took, cove::browser::dolphin::Deadlines { stop, gone, .. }) = (began.elapsed(), rig::deadlines());
    let name = format!("{fault} {params}");
    assert!(took <= stop + gone + Duration::from_secs(4), "{name}: {took:?}");
    assert_eq!(stopped.as_ref().err().map(|failure| failure.code), first, "{name}: {stopped:?}");
    assert_eq!(sim.browsers().await.len(), usize::from(first.is_some()), "{name}: {stopped:?}");
    sim.post("/app", json!({"signed_in": true})).await;
    rig::stop_as_the_engine_does(&provider, &profile).await;
    assert_eq!(sim.browsers().await, [] as [u64; 0], "{name}");
    let stops = sim.calls("stop").await;
    assert!(calls.contains(&stops), "{name}: {stops} stops");
    let most = sim.state().await["most_at_once"].clone();
    assert!(most["stop"].as_u64() <= Some(1), "{name}: {most}");
    let log = sim.get("/log?call=stop").await;
    let plain = |entry: &Value| entry["query"] == json!({});
    assert!(log["entries"].as_array().unwrap().iter().all(plain), "retryToStop may damage a profile: {log}");
    provider.start(&profile, HEADLESS).await.unwrap();
}

#[tokio::test]
async fn a_stop_that_fails_is_made_again_and_one_that_worked_is_seen() {
    let down = Some(FailureCode::ProviderDown);
    tokio::join!(
        stops("stop_500", 1, json!({"closes": false}), None, 2..=2),
        stops("stop_500", 1, json!({"closes": true}), None, 1..=2),
        stops("stop_500", 3, json!({"closes": false}), down, 4..=4),
        stops("generic_500", 1, json!({}), None, 2..=2),
        stops("html_500", 3, json!({}), down, 4..=4),
        stops("bad_request_400", 1, json!({}), down, 2..=2),
        stops("signed_out_401", 1, json!({}), None, 2..=2),
    );
}

#[tokio::test]
async fn a_stop_without_an_answer_is_judged_by_what_is_left() {
    let down = Some(FailureCode::ProviderDown);
    tokio::join!(
        stops("stop_hangs", 1, json!({"closes": false}), down, 2..=2),
        stops("stop_hangs", 1, json!({"closes": true}), None, 1..=1),
        stops("reset_before_answer", 1, json!({"act": false}), None, 2..=2),
        stops("reset_mid_answer", 1, json!({}), None, 1..=2),
        stops("truncated_json", 1, json!({}), None, 1..=2),
        stops("empty_body", 1, json!({}), None, 1..=2),
        stops("session_401", 1, json!({}), None, 2..=2),
    );
}

/// 19: success, and it lives. It is ours, so it is asked to close itself.
#[tokio::test]
async fn a_browser_that_outlives_its_stop_is_asked_to_close_itself() {
    tokio::join!(
        stops("zombie", 1, json!({"listed": false}), None, 1..=1),
        stops("stop_success_false", 1, json!({"closes": false}), None, 1..=1),
        stops("stop_success_false", 1, json!({"closes": true}), None, 1..=1),
        stops("running_lag", 1, json!({"ms": 1_000}), None, 1..=1),
    );
}

#[tokio::test]
async fn a_browser_that_does_not_hear_is_named() {
    let sim = Sim::start();
    let (provider, profile, session) = started(&sim).await;
    send(&session, Signal::STOP);
    sim.fault("stop", "zombie", 0, json!({})).await;
    let failure = provider.stop(&profile).await.unwrap_err();
    assert_eq!(failure.code, FailureCode::BrowserLost, "{failure}");
    assert!(failure.detail.contains(&format!("process {}", session.pid)), "{failure}");
    // Dolphin has forgotten it, and a start does not come beside it.
    let failure = provider.start(&profile, HEADLESS).await.unwrap_err();
    assert_eq!((failure.code, sim.calls("start").await), (FailureCode::BrowserLost, 1), "{failure}");
    send(&session, Signal::CONT);
    rig::stop_as_the_engine_does(&provider, &profile).await;
    assert_eq!(sim.browsers().await, [] as [u64; 0]);
}

/// 13: success, and yet the next start says that it runs, or that its files are in use.
#[tokio::test]
async fn a_stop_that_is_not_quite_over_delays_the_next_start() {
    for fault in ["still_duplicate_for", "ebusy_for"] {
        let sim = Sim::start();
        let (provider, profile, _) = started(&sim).await;
        sim.fault("stop", fault, 1, json!({"ms": 400})).await;
        provider.stop(&profile).await.unwrap();
        provider.start(&profile, HEADLESS).await.unwrap();
        assert!((2..12).contains(&sim.calls("start").await), "{fault}");
        provider.stop(&profile).await.unwrap();
    }
}

#[tokio::test]
async fn a_profile_rests_between_its_stop_and_its_next_start() {
    let sim = Sim::start();
    let profile = sim.profile(101, json!({})).await;
    let gap = Duration::from_millis(900);
    let deadlines = cove::browser::dolphin::Deadlines { gap, ..rig::deadlines() };
    let provider = sim.provider_of(&sim.dolphin(), None, &rig::patient(), deadlines);
    for _ in 0..2 {
        provider.start(&profile, HEADLESS).await.unwrap();
        provider.stop(&profile).await.unwrap();
    }
    let log = sim.get("/log?profile=101").await;
    let at = |number: usize, time: &str| log["entries"][number][time].as_u64().unwrap();
    assert_eq!(log["entries"].as_array().unwrap().len(), 4);
    assert!(at(2, "time_ms") - at(1, "ended_ms") >= 850, "{log}");
}

/// 20: the application ends and forgets; its browsers live on.
#[tokio::test]
async fn a_browser_that_outlives_the_application_is_ours_still() {
    let sim = Sim::start();
    let (provider, profile, session) = started(&sim).await;
    sim.app(json!({"action": "down", "orphans": "leave"})).await;
    let failure = provider.stop(&profile).await.unwrap_err();
    assert_eq!(failure.code, FailureCode::ProviderDown, "it lives, and nobody can stop it: {failure}");
    assert!(provider.running().await.is_err());
    assert!(rig::answers(&session).await);
    sim.app(json!({"action": "up"})).await;
    assert_eq!(provider.running().await.unwrap(), [], "Dolphin does not know it: it is not a session to go on with");
    // A start does not come beside it.
    let next = provider.start(&profile, HEADLESS).await.unwrap();
    assert!(next != session && !rig::answers(&session).await);
    sim.app(json!({"action": "restart", "orphans": "leave"})).await;
    provider.stop(&profile).await.unwrap();
    assert_eq!(sim.browsers().await, [] as [u64; 0]);
}

#[tokio::test]
async fn a_browser_that_ended_with_the_application_is_gone_without_a_word_from_it() {
    let sim = Sim::start();
    let (provider, profile, _) = started(&sim).await;
    sim.app(json!({"action": "down", "orphans": "kill"})).await;
    provider.stop(&profile).await.unwrap();
    sim.app(json!({"action": "up"})).await;
    let session = provider.start(&profile, HEADLESS).await.unwrap();
    sim.app(json!({"action": "restart", "orphans": "kill"})).await;
    assert_eq!(provider.running().await.unwrap(), []);
    provider.stop(&profile).await.unwrap();
    assert!(!rig::answers(&session).await);
    assert_eq!(sim.calls("stop").await, 0);
}

/// 25: a person closes the window; Dolphin notices later.
#[tokio::test]
async fn a_window_that_a_person_closed_is_stopped_all_the_same() {
    let sim = Sim::start();
    let profile = sim.profile(101, json!({"running_lag_ms": 60_000})).await;
    let provider = sim.provider();
    for verb in ["close", "kill"] {
        provider.start(&profile, HEADLESS).await.unwrap();
        sim.post(&format!("/profiles/101/{verb}"), json!({})).await;
        assert_eq!(provider.running().await.unwrap(), []);
        let began = Instant::now();
        provider.stop(&profile).await.unwrap();
        assert!(began.elapsed() < Duration::from_secs(8), "{verb}: {:?}", began.elapsed());
    }
}

/// 24: many at once would be slow or fail; they come one by one.
#[tokio::test]
async fn stops_at_once_come_one_after_the_other() {
    let sim = Sim::start();
    let provider = sim.provider();
    for number in 101..105 {
        provider.start(&sim.profile(number, json!({})).await, HEADLESS).await.unwrap();
    }
    sim.fault("stop", "slow_parallel_stop", 0, json!({"per_other_ms": 60_000, "error_over": 1})).await;
    let profiles: Vec<_> = (101..105).map(id).collect();
    let stopped = futures_util::future::join_all(profiles.iter().map(|profile| provider.stop(profile))).await;
    assert!(stopped.iter().all(Result::is_ok), "{stopped:?}");
    assert_eq!(sim.calls("stop").await, 4);
}

/// 24: with many profiles `running` is slow; beyond its deadline it is trouble of the provider.
#[tokio::test]
async fn a_slow_list_is_waited_for_within_its_deadline() {
    let sim = Sim::start();
    let (provider, profile, session) = started(&sim).await;
    sim.fault("running", "slow", 1, json!({"ms": 600})).await;
    assert_eq!(provider.running().await.unwrap(), [session]);
    sim.fault("running", "hang", 1, json!({})).await;
    let began = Instant::now();
    let failure = provider.running().await.unwrap_err();
    assert!(failure.code == FailureCode::ProviderDown && began.elapsed() < Duration::from_secs(8), "{failure}");
    for fault in ["reset_mid_answer", "generic_500", "html_200"] {
        sim.fault("running", fault, 2, json!({})).await;
        assert_eq!(provider.running().await.unwrap().len(), 1, "{fault} twice, and then an answer");
    }
    provider.stop(&profile).await.unwrap();
}

/// A breaker that is open lets nothing through, and says until when.
#[tokio::test]
async fn an_application_that_keeps_failing_is_left_alone_for_a_while() {
    let sim = Sim::start();
    let (first, profile, _) = started(&sim).await;
    let open = Duration::from_millis(1_500);
    let breakers = Board::new(BreakerLimits { failures: 3, open, trials: 2 });
    let provider = sim.provider_of(&sim.dolphin(), None, &breakers, rig::deadlines());
    sim.fault("any", "html_500", 3, json!({})).await;
    assert_eq!(provider.running().await.unwrap_err().code, FailureCode::ProviderDown);
    let calls = sim.calls("running").await;
    for failure in [
        provider.running().await.unwrap_err(),
        provider.start(&id(102), HEADLESS).await.unwrap_err(),
        provider.stop(&profile).await.unwrap_err(),
    ] {
        assert_eq!(failure.code, FailureCode::BreakerOpen, "{failure}");
        assert!(failure.detail.contains("not called before 20"), "{failure}");
    }
    assert_eq!(sim.calls("running").await, calls, "nothing was called");
    tokio::time::sleep(open).await;
    assert_eq!(provider.running().await.unwrap().len(), 1);
    provider.stop(&profile).await.unwrap();
    assert_eq!(breakers.open(cove::model::Clock::now(&cove::model::SystemClock)), []);
    drop(first);
}

/// Refusals are the answers of an application that works.
#[tokio::test]
async fn refusals_open_no_breaker() {
    let sim = Sim::start();
    let breakers = Board::new(BreakerLimits { failures: 1, open: Duration::from_secs(60), trials: 1 });
    let provider = sim.provider_of(&sim.dolphin(), None, &breakers, rig::deadlines());
    for fault in ["duplicate", "ebusy", "free_plan_402", "limit_499", "too_many_429", "bad_request_400", "session_401"]
    {
        let profile = sim.profile(101, json!({})).await;
        sim.fault("start", fault, 1, json!({})).await;
        drop(provider.start(&profile, HEADLESS).await);
        rig::stop_as_the_engine_does(&provider, &profile).await;
        assert_eq!(breakers.open(cove::model::Clock::now(&cove::model::SystemClock)), [], "{fault}");
    }
    sim.fault("start", "html_500", 1, json!({})).await;
    drop(provider.start(&id(101), HEADLESS).await);
    assert_eq!(breakers.open(cove::model::Clock::now(&cove::model::SystemClock)).len(), 1, "the control: garbage does");
}
