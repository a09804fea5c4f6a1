//! Bad peers: the behaviours that the simulator knows, at every call, in an order and with a part of the
//! parameters that a seed decides (`SEED=n` repeats a run). A run takes a part of the behaviours, `PEERS=n` more
//! of them (all are about sixty). Those of a DevTools port are in `foreign`.
//!
//! Whatever comes: the end is typed, it comes in time, and afterwards nothing is left: no browser, no note of
//! one, no place that stays taken.

use std::time::{Duration, Instant};

use cove::browser::Provider;
use cove::browser::dolphin::{Deadlines, DolphinProvider};
use cove::model::{Failure, FailureCode};
use serde_json::{Value, json};

use super::rig::{self, HEADLESS, Sim, id};

/// What a machine that is busy may take on top.
const SLACK: Duration = Duration::from_secs(5);

/// Shorter still: a peer that hangs costs one.
fn deadlines() -> Deadlines {
    let ms = Duration::from_millis;
    Deadlines {
        login: ms(900),
        start: ms(1_500),
        stop: ms(900),
        running: ms(900),
        attach: ms(900),
        cloud: ms(900),
        gone: ms(2_500),
        linger: ms(500),
        late: ms(500),
        cut: ms(300),
        ..rig::deadlines()
    }
}

/// Of one run, at each call.
const BEHAVIOURS: usize = 24;

/// Behaviours of a bad peer, shuffled, with parameters by chance.
async fn behaviours(sim: &Sim, rng: &mut fastrand::Rng) -> Vec<(String, Value)> {
    let names = sim.get("/faults/names").await;
    let peers = names.as_array().unwrap().iter().filter(|fault| fault["stage"] == "peer");
    let mut found = Vec::new();
    for peer in peers {
        let name = peer["name"].as_str().unwrap().to_owned();
        let kinds = peer["params"]["kind"]["one_of"].as_array().cloned().unwrap_or_default();
        let mut params = json!({"act": rng.bool()});
        if kinds.is_empty() {
            found.push((name.clone(), params.clone()));
        }
        for kind in kinds {
            params["kind"] = kind;
            found.push((name.clone(), params.clone()));
        }
    }
    assert!(found.len() >= 50, "{} behaviours", found.len());
    rng.shuffle(&mut found);
    found.truncate(number_from("PEERS").and_then(|number| usize::try_from(number).ok()).unwrap_or(BEHAVIOURS));
    found
}

fn number_from(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

struct Round {
    sim: Sim,
    rng: fastrand::Rng,
    seed: u64,
}

impl Round {
    fn begin() -> Self {
        let seed =
            std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(|| fastrand::u64(..1 << 32));
        println!("SEED={seed}");
        Self { sim: Sim::start(), rng: fastrand::Rng::with_seed(seed), seed }
    }

    fn provider(&self) -> DolphinProvider {
        self.sim.provider_of(&self.sim.dolphin(), Some(self.sim.token(rig::TOKEN)), &rig::patient(), deadlines())
    }

    /// Runs `act` while `call` is answered badly, for every behaviour; `within` is for one. `before` runs while
    /// all is well.
    async fn at(
        &mut self,
        call: &str,
        allowed: &[FailureCode],
        within: Duration,
        before: impl AsyncFn(&Sim, &DolphinProvider),
        act: impl AsyncFn(&Sim, &DolphinProvider) -> Result<(), Failure>,
    ) {
        let provider = self.provider();
        for (name, params) in behaviours(&self.sim, &mut self.rng).await {
            let (sim, shown) = (&self.sim, format!("SEED={} {call}: {name} {params}", self.seed));
            before(sim, &provider).await;
            sim.fault(call, &name, 0, params).await;
            let began = Instant::now();
            let ended = tokio::time::timeout(within + SLACK, act(sim, &provider)).await;
            let ended = ended.unwrap_or_else(|_| panic!("{shown}: no end within {within:?}"));
            if let Err(failure) = &ended {
                assert!(allowed.contains(&failure.code), "{shown}: {failure}");
                assert!(
                    failure.detail.len() < 1_000 && !failure.detail.contains(char::is_control),
                    "{shown}: {failure}"
                );
            }
            sim.forget_faults().await;
            sim.app(json!({"signed_in": true})).await;
            rig::stop_as_the_engine_does(&provider, &id(101)).await;
            assert_eq!(sim.browsers().await, [] as [u64; 0], "{shown}, after {:?}", began.elapsed());
            let notes: Value = std::fs::read(sim.notebook())
                .map_or(json!({"sessions": []}), |bytes| serde_json::from_slice(&bytes).unwrap());
            assert_eq!(notes["sessions"], json!([]), "{shown}");
        }
        // Nothing stays taken.
        provider.start(&id(101), HEADLESS).await.unwrap();
        provider.stop(&id(101)).await.unwrap();
    }
}

async fn nothing(_: &Sim, _: &DolphinProvider) {}

async fn started(_: &Sim, provider: &DolphinProvider) {
    provider.start(&id(101), HEADLESS).await.unwrap();
}

#[tokio::test]
async fn bad_answers_to_running() {
    let mut round = Round::begin();
    round.sim.profile(101, json!({})).await;
    let act = async |_: &Sim, provider: &DolphinProvider| provider.running().await.map(drop);
    round.at("running", &[FailureCode::ProviderDown], deadlines().running, started, act).await;
}

#[tokio::test]
async fn bad_answers_to_a_start() {
    let mut round = Round::begin();
    round.sim.profile(101, json!({})).await;
    let allowed = [FailureCode::BrowserStartFailed, FailureCode::AttachFailed, FailureCode::ProviderDown];
    let Deadlines { start, attach, gone, running, .. } = deadlines();
    let act = async |_: &Sim, provider: &DolphinProvider| provider.start(&id(101), HEADLESS).await.map(drop);
    round.at("start", &allowed, start + attach + gone + running, nothing, act).await;
}

#[tokio::test]
async fn bad_answers_to_a_stop() {
    let mut round = Round::begin();
    round.sim.profile(101, json!({})).await;
    let Deadlines { stop, gone, running, .. } = deadlines();
    let act = async |_: &Sim, provider: &DolphinProvider| provider.stop(&id(101)).await;
    round.at("stop", &[FailureCode::ProviderDown], stop * 3 + gone + running, started, act).await;
}

#[tokio::test]
async fn bad_answers_to_a_sign_in() {
    let mut round = Round::begin();
    round.sim.profile(101, json!({})).await;
    let Deadlines { start, login, .. } = deadlines();
    let allowed = [FailureCode::ProviderSignedOut, FailureCode::ProviderDown];
    let signed_out = async |sim: &Sim, _: &DolphinProvider| drop(sim.app(json!({"signed_in": false})).await);
    let act = async |sim: &Sim, _: &DolphinProvider| {
        // A provider of its own: what has just signed in does not do so again.
        let provider = sim.provider_of(&sim.dolphin(), Some(sim.token(rig::TOKEN)), &rig::patient(), deadlines());
        provider.start(&id(101), HEADLESS).await?;
        provider.stop(&id(101)).await
    };
    round.at("login", &allowed, start + login, signed_out, act).await;
}

#[tokio::test]
async fn bad_answers_of_the_cloud() {
    let mut round = Round::begin();
    round.sim.profile(101, json!({})).await;
    let act = async |sim: &Sim, _: &DolphinProvider| {
        let provider = sim.provider_of(&sim.dolphin(), Some(sim.token(rig::TOKEN)), &rig::patient(), deadlines());
        provider.profiles(Duration::ZERO).await.map(drop)
    };
    round.at("cloud", &[FailureCode::ProviderDown], deadlines().cloud, nothing, act).await;
}
