//! What an attachment costs where every answer of the browser is far away: round trips, counted.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "replay/far.rs"]
mod far;
#[path = "replay/rig.rs"]
#[allow(dead_code, reason = "the rig of all replay tests")]
mod rig;

use std::collections::BTreeSet;
use std::time::Duration;

use async_tungstenite::tokio::connect_async;
use async_tungstenite::tungstenite::Message;
use far::{Asked, Far};
use futures_util::StreamExt;
use rig::{Case, Rig};
use serde_json::json;

/// The tabs, the attachment to one of them, and all that is to be switched on.
const MOST_ROUNDS: usize = 3;
const START_PAGE: &str = "data:text/html,a page that somebody left open";

/// What was asked in each round trip before the first step of the flow, and in the one with it.
async fn asked_until_the_first_step(rig: &mut Rig, origins: bool) -> (Vec<Vec<Asked>>, Vec<Asked>) {
    let url = rig.page("<p>here");
    let mut case = Case::new(&json!([{"type": "navigate", "url": url, "timeout": 30000}]));
    if origins {
        case.recording["cove"]["origins"] = json!([rig.url("")]);
    }
    case.deadline = Duration::from_secs(60);
    let far = Far::put_before(rig.session()).await;
    rig.replay(case).await.result();
    let mut rounds = far.rounds();
    let first = rounds.iter().position(|round| round.iter().any(|asked| asked.text.contains("location.assign(")));
    let step = rounds.remove(first.unwrap());
    rounds.truncate(first.unwrap());
    (rounds, step)
}

fn shown(rounds: &[Vec<Asked>]) -> Vec<Vec<&str>> {
    rounds.iter().map(|round| round.iter().map(|asked| asked.method.as_str()).collect()).collect()
}

#[track_caller]
fn assert_nothing_is_asked_twice(rounds: &[Vec<Asked>]) {
    let mut seen = BTreeSet::new();
    for asked in rounds.iter().flatten() {
        assert!(seen.insert((&asked.session, &asked.method)), "{} twice: {:?}", asked.method, shown(rounds));
    }
}

/// The control: what waits for its answer is counted, and what does not is not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_relay_counts_what_waits_for_an_answer() {
    let mut rig = Rig::new().await;
    let far = Far::put_before(rig.session()).await;
    let (mut socket, _) = connect_async(rig.session().ws_url()).await.unwrap();
    let ask = |id: u32| Message::text(json!({"id": id, "method": "Browser.getVersion", "params": {}}).to_string());
    for id in 0..3 {
        socket.send(ask(id)).await.unwrap();
        socket.next().await.unwrap().unwrap();
    }
    for id in 3..7 {
        socket.send(ask(id)).await.unwrap();
    }
    for _ in 3..7 {
        socket.next().await.unwrap().unwrap();
    }
    let counts: Vec<usize> = far.rounds().iter().map(Vec::len).collect();
    assert_eq!(counts, [1, 1, 1, 4]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_attachment_costs_three_round_trips_and_asks_nothing_twice() {
    let mut rig = Rig::new().await;
    let (rounds, step) = asked_until_the_first_step(&mut rig, false).await;
    assert!(rounds.len() <= MOST_ROUNDS, "{} round trips: {:?}", rounds.len(), shown(&rounds));
    assert_nothing_is_asked_twice(&rounds);
    assert_eq!(step.len(), 1, "{step:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn origins_cost_no_round_trip_and_are_in_force_before_the_first_step() {
    let mut rig = Rig::new().await;
    let (rounds, step) = asked_until_the_first_step(&mut rig, true).await;
    assert!(rounds.len() <= MOST_ROUNDS, "{} round trips: {:?}", rounds.len(), shown(&rounds));
    assert_nothing_is_asked_twice(&rounds);
    assert!(rounds.iter().flatten().any(|asked| asked.method == "Fetch.enable"), "{:?}", shown(&rounds));
    assert_eq!(step.len(), 1, "{step:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tab_of_its_own_costs_one_round_trip_more() {
    let mut rig = Rig::with_start_page(START_PAGE).await;
    let (rounds, _) = asked_until_the_first_step(&mut rig, false).await;
    assert!(rounds.iter().flatten().any(|asked| asked.method == "Target.createTarget"), "{:?}", shown(&rounds));
    assert!(rounds.len() <= MOST_ROUNDS + 1, "{} round trips: {:?}", rounds.len(), shown(&rounds));
    assert_nothing_is_asked_twice(&rounds);
}
