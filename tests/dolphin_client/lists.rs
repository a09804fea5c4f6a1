//! The list of profiles: the cloud's pages, its limits and faults (§4; §8: 11), and the configuration's list.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use cove::breaker::BreakerLimits;
use cove::breaker::board::Board;
use cove::browser::dolphin::{Deadlines, DolphinProvider};
use cove::browser::{ListedProfile, Provider};
use cove::config::Dolphin;
use cove::model::{Failure, FailureCode};
use serde_json::{Value, json};

use super::rig::{self, Sim};

const NOW: Duration = Duration::ZERO;

async fn many(sim: &Sim, count: u64) {
    let profiles: Vec<Value> = (1..=count).map(|number| json!({"id": number, "name": format!("p {number}")})).collect();
    sim.post("/profiles", json!(profiles)).await;
}

async fn list(provider: &DolphinProvider, max_age: Duration) -> Result<Vec<ListedProfile>, Failure> {
    provider.profiles(max_age).await.map(|listed| listed.expect("Dolphin keeps a list"))
}

fn ids(listed: &[ListedProfile]) -> BTreeSet<u64> {
    listed.iter().map(|profile| profile.id.as_str().parse().unwrap()).collect()
}

#[tokio::test]
async fn the_cloud_is_read_page_by_page_in_every_spelling() {
    let sim = Sim::start();
    many(&sim, 120).await;
    for numbers in ["int", "text"] {
        sim.app(json!({"cloud_numbers": numbers})).await;
        let listed = list(&sim.provider(), NOW).await.unwrap();
        assert_eq!(ids(&listed), (1..=120).collect());
        assert!(listed.iter().all(|profile| profile.name == format!("p {}", profile.id)));
    }
    assert_eq!((sim.calls("cloud").await, sim.calls("login").await), (6, 0));
    let log = sim.get("/log?call=cloud").await;
    assert_eq!(log["entries"][0]["query"], json!({"limit": "50", "page": "1"}));
    for (kind, wanted) in [
        ("ids_as_text", Some(120)),
        ("text_numbers", Some(120)),
        ("no_last_page", Some(120)),
        ("last_page_lies", Some(120)),
        ("names_missing", Some(120)),
        ("null_urls", Some(50)),
        ("next_page_lies", Some(120)),
        ("always_page_1", Some(50)),
        ("empty_page", Some(0)),
        ("items_without_id", Some(0)),
        ("no_data", None),
        ("data_not_a_list", None),
    ] {
        sim.post("/faults", json!({"call": "cloud", "fault": "cloud_bad_page", "times": 0, "params": {"kind": kind}}))
            .await;
        let before = sim.calls("cloud").await;
        let listed = list(&sim.provider(), NOW).await;
        assert_eq!(listed.as_ref().ok().map(Vec::len), wanted, "{kind}: {listed:?}");
        assert!(sim.calls("cloud").await - before <= 4, "{kind}");
        let answer = listed.err().map(|failure| failure.code);
        assert_eq!(answer, wanted.is_none().then_some(FailureCode::ProviderDown), "{kind}");
        sim.post("/reset", json!({})).await;
    }
}

#[tokio::test]
async fn a_list_is_kept_as_long_as_asked_and_why_there_is_no_newer_one_is_told() {
    let sim = Sim::start();
    many(&sim, 3).await;
    let breakers = Board::new(BreakerLimits { failures: 3, open: Duration::from_secs(60), trials: 1 });
    let provider = sim.provider_of(&sim.dolphin(), Some(sim.token(rig::TOKEN)), &breakers, rig::deadlines());
    let (first, second) = tokio::join!(list(&provider, rig::SOON), list(&provider, rig::SOON));
    assert_eq!((first.unwrap().len(), second.unwrap().len(), sim.calls("cloud").await), (3, 3, 1));
    many(&sim, 4).await;
    assert_eq!((list(&provider, rig::SOON).await.unwrap().len(), list(&provider, NOW).await.unwrap().len()), (3, 4));
    sim.fault("cloud", "cloud_html", 0, json!({})).await;
    assert_eq!(list(&provider, NOW).await.unwrap_err().code, FailureCode::ProviderDown);
    assert_eq!(list(&provider, rig::SOON).await.unwrap().len(), 4, "the last good one is new enough");
    let calls = sim.calls("cloud").await;
    assert_eq!(calls, 5, "three tries");
    assert_eq!(list(&provider, NOW).await.unwrap_err().code, FailureCode::BreakerOpen);
    assert_eq!(sim.calls("cloud").await, calls, "its breaker is open");
    assert_eq!(breakers.open(cove::model::Clock::now(&cove::model::SystemClock))[0].0, "dolphin_cloud");
    let fresh = sim.provider_of(&sim.dolphin(), Some(sim.token(rig::TOKEN)), &breakers, rig::deadlines());
    assert_eq!(list(&fresh, NOW).await.unwrap_err().code, FailureCode::BreakerOpen, "none was ever read");
    // The Local API is another peer.
    fresh.start(&rig::id(1), rig::HEADLESS).await.unwrap();
}

#[tokio::test]
async fn refusals_of_the_cloud_say_what_to_do() {
    let sim = Sim::start();
    many(&sim, 3).await;
    for (fault, params, code, calls) in [
        ("cloud_401", json!({}), FailureCode::ProviderSignedOut, 1),
        ("cloud_403", json!({}), FailureCode::ProviderRefused, 1),
        ("cloud_404", json!({}), FailureCode::ProviderRefused, 1),
        ("cloud_429", json!({}), FailureCode::ProviderRefused, 3),
        ("cloud_500", json!({}), FailureCode::ProviderDown, 3),
        ("cloud_html", json!({}), FailureCode::ProviderDown, 3),
        ("redirect", json!({"to": "http://127.0.0.1:1/"}), FailureCode::ProviderDown, 1),
        ("hang", json!({}), FailureCode::ProviderDown, 1),
    ] {
        sim.post("/reset", json!({})).await;
        sim.fault("cloud", fault, 0, params).await;
        let began = Instant::now();
        let failure = list(&sim.provider(), NOW).await.unwrap_err();
        assert_eq!((failure.code, sim.calls("cloud").await), (code, calls), "{fault}: {failure}");
        assert!(began.elapsed() < Duration::from_secs(9), "{fault}: {:?}", began.elapsed());
    }
    sim.post("/reset", json!({})).await;
    let provider = sim.provider_of(&sim.dolphin(), Some(sim.token("another")), &rig::patient(), rig::deadlines());
    assert_eq!(list(&provider, NOW).await.unwrap_err().code, FailureCode::ProviderSignedOut);
}

#[tokio::test]
async fn a_cloud_that_wants_rest_gets_it() {
    let sim = Sim::start();
    many(&sim, 60).await;
    let provider = sim.provider();
    sim.fault("cloud", "cloud_429", 1, json!({"retry_after_seconds": 1})).await;
    let began = Instant::now();
    assert_eq!(list(&provider, NOW).await.unwrap().len(), 60);
    assert!(began.elapsed() >= Duration::from_secs(1), "{:?}", began.elapsed());
    // Its own limit, before it has to say no.
    sim.post("/reset", json!({})).await;
    sim.app(json!({"cloud_rpm": 1})).await;
    let began = Instant::now();
    drop(list(&sim.provider(), NOW).await);
    assert!(began.elapsed() >= rig::deadlines().cloud_rest, "{:?}", began.elapsed());
}

/// The deadline of a page begins when its call may be made, and the whole list has one of its own.
#[tokio::test]
async fn a_wait_for_a_turn_is_not_a_pages_time_and_ends_with_the_lists() {
    let sim = Sim::start();
    many(&sim, 60).await;
    let deadlines = Deadlines { cloud: Duration::from_millis(800), ..rig::deadlines() };
    let provider = |deadlines| {
        let token = Some(sim.token(rig::TOKEN));
        sim.provider_of(&sim.dolphin(), token, &rig::patient(), deadlines)
    };
    sim.fault("cloud", "cloud_429", 1, json!({"retry_after_seconds": 2})).await;
    assert_eq!(list(&provider(deadlines.clone()), NOW).await.unwrap().len(), 60);

    sim.fault("cloud", "cloud_429", 0, json!({"retry_after_seconds": 3_600})).await;
    let began = Instant::now();
    let failure = list(&provider(Deadlines { listing: Duration::from_secs(1), ..deadlines }), NOW).await.unwrap_err();
    assert_eq!(failure.code, FailureCode::ProviderDown, "{failure}");
    assert!(began.elapsed() < Duration::from_secs(6), "{:?}", began.elapsed());
}

/// The store may know a profile from the time before the list was written.
#[tokio::test]
async fn what_the_configurations_list_does_not_name_is_not_started() {
    let sim = Sim::start();
    many(&sim, 3).await;
    let dolphin = Dolphin { profiles: vec!["2=Two".to_owned()], ..sim.dolphin() };
    let provider = sim.provider_of(&dolphin, Some(sim.token(rig::TOKEN)), &rig::patient(), rig::deadlines());
    let failure = provider.start(&rig::id(1), rig::HEADLESS).await.unwrap_err();
    assert_eq!((failure.code, sim.calls("start").await), (FailureCode::ProfileUnknown, 0), "{failure}");
    provider.start(&rig::id(2), rig::HEADLESS).await.unwrap();
    rig::stop_as_the_engine_does(&provider, &rig::id(2)).await;
}

#[tokio::test]
async fn the_configurations_list_is_all_there_is_without_a_token_and_chooses_with_one() {
    let sim = Sim::start();
    many(&sim, 5).await;
    let profiles = vec!["2=Two".to_owned(), "4".to_owned(), "77=Gone".to_owned()];
    let dolphin = Dolphin { profiles, ..sim.dolphin() };
    let named = |listed: Vec<ListedProfile>| -> Vec<String> {
        listed.into_iter().map(|profile| format!("{} {}", profile.id, profile.name)).collect()
    };
    let without = sim.provider_of(&dolphin, None, &rig::patient(), rig::deadlines());
    assert_eq!(named(list(&without, NOW).await.unwrap()), ["2 Two", "4 4", "77 Gone"]);
    assert_eq!(sim.calls("cloud").await, 0);
    let with = sim.provider_of(&dolphin, Some(sim.token(rig::TOKEN)), &rig::patient(), rig::deadlines());
    assert_eq!(named(list(&with, NOW).await.unwrap()), ["2 Two", "4 p 4"]);
    let nothing = sim.provider_of(&sim.dolphin(), None, &rig::patient(), rig::deadlines());
    assert_eq!(list(&nothing, NOW).await.unwrap(), []);
}

/// A token goes where it has to, and is in nothing that is shown.
#[tokio::test]
async fn a_token_that_is_said_back_is_not_shown() {
    let secret = format!("s3cret-{}", "x".repeat(600));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let echo = async {
        loop {
            let (mut peer, _) = listener.accept().await.unwrap();
            let mut request = vec![0; 8_192];
            let read = tokio::io::AsyncReadExt::read(&mut peer, &mut request).await.unwrap();
            let said = json!({"error": String::from_utf8_lossy(&request[..read])}).to_string();
            let answer =
                format!("HTTP/1.1 500 No\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{said}", said.len());
            tokio::io::AsyncWriteExt::write_all(&mut peer, answer.as_bytes()).await.unwrap();
        }
    };
    let sim = Sim::start();
    let dolphin = Dolphin { cloud_host: address, ..sim.dolphin() };
    let breakers = rig::patient();
    let provider = sim.provider_of(&dolphin, Some(sim.token(&secret)), &breakers, rig::deadlines());
    let failure = tokio::select! {
        failure = list(&provider, NOW) => failure.unwrap_err(),
        () = echo => unreachable!("it serves for ever"),
    };
    let now = cove::model::Clock::now(&cove::model::SystemClock);
    let shown = format!("{failure} {:?}", breakers.view(now));
    assert!(!shown.contains("s3cret") && shown.contains("[token]"), "{shown}");
}
