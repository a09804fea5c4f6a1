//! The rows of the error table (§3) and the faults of a start (§8: 12 to 18, 21 to 24), one case each.
//!
//! A case orders faults, starts once, and asserts the code, the number of calls, that it ended in time, and that
//! nothing is left when the engine has stopped what it was told of.

use std::time::{Duration, Instant};

use cove::browser::Provider;
use cove::config::Dolphin;
use cove::model::FailureCode::{self, *};
use serde_json::{Value, json};

use super::rig::{self, HEADLESS, Sim};

/// Every call, again and again.
const ALWAYS: u32 = 0;
/// What a machine that is busy may take on top.
const SLACK: Duration = Duration::from_secs(4);

#[derive(Clone, Copy, PartialEq)]
enum Have {
    Token,
    BadToken,
    NoToken,
}

/// What a start has to come to.
struct Case {
    name: &'static str,
    call: &'static str,
    fault: &'static str,
    times: u32,
    params: Value,
    profile: Value,
    have: Have,
    /// None: a session.
    code: Option<FailureCode>,
    starts: std::ops::RangeInclusive<u64>,
    logins: u64,
    /// Nothing is left of it even before the engine stops it.
    clean: bool,
    within: Duration,
}

fn case(name: &'static str, fault: &'static str, code: impl Into<Option<FailureCode>>, starts: u64) -> Case {
    Case {
        name,
        call: "start",
        fault,
        times: 1,
        params: json!({}),
        profile: json!({}),
        have: Have::Token,
        code: code.into(),
        starts: starts..=starts,
        logins: 0,
        clean: true,
        within: Duration::from_secs(2),
    }
}

impl Case {
    fn at(self, call: &'static str) -> Self {
        Self { call, ..self }
    }
    fn times(self, times: u32) -> Self {
        Self { times, ..self }
    }
    fn with(self, params: Value) -> Self {
        Self { params, ..self }
    }
    fn profile(self, profile: Value) -> Self {
        Self { profile, ..self }
    }
    fn have(self, have: Have) -> Self {
        Self { have, ..self }
    }
    fn logins(self, logins: u64) -> Self {
        Self { logins, ..self }
    }
    fn starts(self, starts: std::ops::RangeInclusive<u64>) -> Self {
        Self { starts, ..self }
    }
    /// Something may come up later, or is left to the engine's stop.
    fn unclean(self) -> Self {
        Self { clean: false, ..self }
    }
    fn within(self, within: Duration) -> Self {
        Self { within, ..self }
    }

    async fn run(&self, sim: &Sim) {
        let name = self.name;
        sim.post("/reset", json!({"data": "wipe"})).await;
        drop(std::fs::remove_file(sim.notebook()));
        let profile = sim.profile(101, self.profile.clone()).await;
        if !self.fault.is_empty() {
            sim.fault(self.call, self.fault, self.times, self.params.clone()).await;
        }
        let token = match self.have {
            Have::Token => Some(sim.token(rig::TOKEN)),
            Have::BadToken => Some(sim.token("another-token")),
            Have::NoToken => None,
        };
        let provider = sim.provider_of(&sim.dolphin(), token, &rig::patient(), rig::deadlines());
        let began = Instant::now();
        let started = provider.start(&profile, HEADLESS).await;
        let took = began.elapsed();
        assert_eq!(rig::code(&started), self.code, "{name}: {started:?}");
        assert!(took <= self.within + SLACK, "{name}: {took:?}");
        let (starts, logins) = (sim.calls("start").await, sim.calls("login").await);
        assert!(self.starts.contains(&starts), "{name}: {starts} starts: {started:?}");
        assert_eq!(logins, self.logins, "{name}: {started:?}");
        match &started {
            Ok(session) => assert_eq!(sim.browsers().await, [u64::from(session.pid)], "{name}"),
            Err(_) if self.clean => assert_eq!(sim.browsers().await, [] as [u64; 0], "{name}: {started:?}"),
            Err(failure) => assert_ne!(failure.code, ProfileInUse, "{name}: the engine would not stop it"),
        }
        sim.app(json!({"signed_in": true})).await;
        rig::stop_as_the_engine_does(&provider, &profile).await;
        assert_eq!(sim.browsers().await, [] as [u64; 0], "{name}: {started:?}");
        let most = sim.state().await["most_at_once"].clone();
        assert!(most["start"].as_u64() <= Some(1) && most["stop"].as_u64() <= Some(1), "{name}: {most}");
    }
}

async fn run(cases: impl IntoIterator<Item = Case>) {
    let sim = Sim::start();
    for case in cases {
        case.run(&sim).await;
    }
}

#[tokio::test]
async fn duplicates_and_locks_are_waited_out_and_then_told() {
    let duplicate = rig::deadlines().duplicate;
    let mut cases = Vec::new();
    for variant in ["errorObject", "nested", "text_only", "200_success_false"] {
        let params = json!({"variant": variant});
        cases.push(case("a duplicate that ends", "duplicate", None, 2).with(params.clone()));
        let lasting = case("a duplicate that lasts", "duplicate", ProfileInUse, 0).times(ALWAYS).with(params);
        cases.push(lasting.starts(3..=20).within(duplicate));
    }
    for fault in ["ebusy", "locked_profile"] {
        cases.push(case("a lock that ends", fault, None, 2));
        cases.push(case("a lock that ends late", fault, None, 4).times(3));
        cases.push(case("a lock that lasts", fault, ProfileBroken, 4).times(ALWAYS));
    }
    for status in [500, 200] {
        let params = json!({"status": status});
        cases.push(case("a connection that failed", "init_connection_error", None, 2).with(params.clone()));
        let lasting = case("a connection that fails", "init_connection_error", BrowserStartFailed, 2);
        cases.push(lasting.times(ALWAYS).with(params));
    }
    run(cases).await;
}

#[tokio::test]
async fn plans_and_limits_are_the_providers_refusal() {
    let start = rig::deadlines().start;
    let busy = || case("too many launches", "too_many_429", None, 2);
    run([
        case("no automation in the plan", "free_plan_402", ProviderRefused, 1),
        case("a fourth profile", "limit_499", ProviderFull, 1),
        case("a free profile", "", ProviderRefused, 1).profile(json!({"free": true})),
        busy(),
        busy().with(json!({"retry_after_seconds": 1})).within(Duration::from_secs(3)),
        busy().with(json!({"retry_after_seconds": 0})),
        Case { code: Some(ProviderFull), ..busy() }.with(json!({"retry_after_seconds": 3_600})).starts(1..=1),
        Case { code: Some(ProviderFull), ..busy() }.times(ALWAYS).starts(5..=60).within(start),
        case("a bad request", "bad_request_400", ProviderRefused, 1),
    ])
    .await;
}

#[tokio::test]
async fn who_is_signed_out_is_signed_in_once() {
    let mut cases = Vec::new();
    for (fault, params) in [
        ("signed_out_401", json!({})),
        ("token_refresh_timeout", json!({})),
        ("token_refresh_timeout", json!({"status": 500})),
    ] {
        for call in ["start", "running"] {
            let starts = u64::from(call == "start");
            let signed_out =
                |code: Option<FailureCode>, starts| case(fault, fault, code, starts).at(call).with(params.clone());
            cases.push(signed_out(None, starts + 1).logins(1));
            cases.push(signed_out(Some(ProviderSignedOut), starts).have(Have::NoToken));
            cases.push(signed_out(Some(ProviderSignedOut), starts).have(Have::BadToken).logins(1));
        }
    }
    let stale = || case("a session that stays invalid", "session_401", ProviderSignedOut, 2).times(ALWAYS);
    cases.push(stale().logins(1));
    cases.push(stale().at("running").starts(0..=0).logins(1));
    run(cases).await;
}

#[tokio::test]
async fn a_profile_that_is_not_there_is_told_from_one_that_does_not_start() {
    let mut cases = Vec::new();
    for (refusal, code) in [
        (json!({}), BrowserStartFailed),
        (json!({"status": 404, "text": "Not found"}), ProfileBroken),
        (json!({"status": 409, "text": "Profile is broken"}), ProfileBroken),
        (json!({"status": 200, "text": "Profile is broken"}), ProfileBroken),
        (json!({"status": 403, "code": "E_BROWSER_PROFILE_ACCESS_DENIED", "text": "Access denied"}), ProfileBroken),
        (json!({"status": 500, "code": "E_BROWSER_PROFILE_WRONG_PASSWORD", "text": "Wrong password"}), ProfileBroken),
    ] {
        for state in ["unknown", "no_access", "password"] {
            let profile = json!({"state": state, "refusal": refusal});
            cases.push(case(state, "", ProfileUnknown, 1).profile(profile.clone()));
            cases.push(case(state, "", code, 1).profile(profile).have(Have::NoToken));
        }
        // The cloud knows it.
        let params = refusal.clone();
        cases.push(case("a profile that does not start", "unknown_profile", code, 1).with(params));
    }
    cases.push(
        case("a profile just created", "just_created", BrowserStartFailed, 1)
            .times(ALWAYS)
            .with(json!({"for_ms": 600_000})),
    );
    run(cases).await;
}

#[tokio::test]
async fn failures_without_a_meaning_are_counted_and_made_once() {
    let with = |fault, code, status| case(fault, fault, code, 1).with(json!({"status": status}));
    // What is not Dolphin's own answer is the provider's trouble, and no item's.
    let other = |fault, status| with(fault, ProviderDown, status);
    let mut cases = vec![
        other("redirect", 302),
        other("redirect", 307),
        case("a launch that failed", "", BrowserStartFailed, 1).profile(json!({"browser": "chromium"})),
    ];
    for status in [500, 502, 503] {
        cases.push(with("generic_500", BrowserStartFailed, status));
        cases.push(other("html_500", status));
    }
    // There is no browser to launch.
    let sim = Sim::start_with(&["--chromium", "/nonexistent/chromium"]);
    for case in cases {
        case.run(&sim).await;
    }
}

/// It lists what runs as if nothing were wrong.
#[tokio::test]
async fn a_dolphin_that_starts_nothing_opens_its_breaker_within_the_fifth_start() {
    for fault in ["html_500", "redirect"] {
        let sim = Sim::start();
        let profile = sim.profile(101, json!({})).await;
        sim.fault("start", fault, ALWAYS, json!({})).await;
        let provider = sim.provider_of(&sim.dolphin(), None, &rig::ordinary(), rig::deadlines());
        for number in 1..=5 {
            let failure = provider.start(&profile, HEADLESS).await.unwrap_err();
            let open = failure.code == BreakerOpen;
            // The fifth may hear of it when it asks what runs.
            assert!(failure.code == ProviderDown || (open && number == 5), "{fault} {number}: {failure}");
        }
        let failure = provider.start(&profile, HEADLESS).await.unwrap_err();
        assert_eq!((failure.code, sim.calls("start").await), (BreakerOpen, 5), "{fault}: {failure}");
    }
}

#[tokio::test]
async fn an_endpoint_that_is_not_one_is_found_by_its_process_or_given_up() {
    let attach = rig::deadlines().attach;
    run([
        case("no port", "port_zero", None, 1),
        case("no path", "empty_ws", None, 1),
        case("the id of an earlier browser", "stale_uuid", None, 1),
        case("a port that nobody listens on", "other_port", None, 1),
        case("no automation", "no_automation", AttachFailed, 1),
        case("automation: null", "automation_null", AttachFailed, 1),
        case("a port that opens late", "cdp_late", None, 1).with(json!({"ms": 800})),
        case("a port that never opens", "cdp_never", AttachFailed, 1).within(attach + Duration::from_secs(2)),
        case("a browser that dies soon", "cdp_crash", None, 1).with(json!({"after_ms": 100_000})),
        case("a dead proxy", "dead_proxy", None, 1),
    ])
    .await;
    // The browser may die before or after it was seen.
    let sim = Sim::start();
    for _ in 0..3 {
        let profile = sim.profile(101, json!({})).await;
        let provider = sim.provider();
        sim.fault("start", "cdp_crash", 1, json!({})).await;
        let started = provider.start(&profile, HEADLESS).await;
        assert!(matches!(rig::code(&started), None | Some(AttachFailed)), "{started:?}");
        rig::stop_as_the_engine_does(&provider, &profile).await;
        sim.until_no_browser("a crash").await;
    }
}

#[tokio::test]
async fn a_start_without_an_answer_is_never_made_again() {
    let start = rig::deadlines().start;
    let late = |delay: u64| json!({"start_delay_ms": delay});
    let ms = |duration: Duration| u64::try_from(duration.as_millis()).unwrap();
    run([
        // It came up: its process leads to it.
        case("launched and never answered", "hang_but_launches", None, 1).within(start),
        case("reset in the middle", "reset_mid_answer", None, 1),
        case("reset before the answer", "reset_before_answer", None, 1),
        case("closed before the answer", "close_before_answer", None, 1),
        case("half of the JSON", "truncated_json", None, 1),
        case("half of the body", "truncated_body", None, 1),
        case("no body", "empty_body", None, 1),
        case("a page of a proxy in between", "html_200", None, 1),
        // It did not.
        case("no answer", "hang", ProviderDown, 1).within(start).unclean(),
        case("reset and not heard", "reset_before_answer", ProviderDown, 1).with(json!({"act": false})).unclean(),
        // It comes up when nobody waits any more, and the engine's stop finds it.
        case("late", "", ProviderDown, 1).profile(late(ms(start) + 600)).within(start).unclean(),
    ])
    .await;
}

#[tokio::test]
async fn an_application_that_is_down_is_the_providers_trouble() {
    let sim = Sim::start();
    let profile = sim.profile(101, json!({})).await;
    sim.app(json!({"action": "down"})).await;
    let provider = sim.provider();
    let began = Instant::now();
    let failure = provider.start(&profile, HEADLESS).await.unwrap_err();
    assert_eq!(failure.code, ProviderDown, "{failure}");
    assert!(failure.detail.contains("no connection") && began.elapsed() < SLACK, "{failure}");
    assert_eq!(provider.running().await.unwrap(), [], "nothing was started, so nobody is asked");
    provider.stop(&profile).await.unwrap();
    sim.app(json!({"action": "up"})).await;
    provider.start(&profile, HEADLESS).await.unwrap();
    rig::stop_as_the_engine_does(&provider, &profile).await;
}

#[tokio::test]
async fn what_answers_there_and_is_not_the_api_is_told() {
    let sim = Sim::start();
    let profile = sim.profile(101, json!({})).await;
    let api_host = format!("{}/elsewhere", sim.api);
    let provider = sim.provider_of(&Dolphin { api_host, ..sim.dolphin() }, None, &rig::patient(), rig::deadlines());
    let failure = provider.start(&profile, HEADLESS).await.unwrap_err();
    assert_eq!(failure.code, ProviderDown);
    assert!(failure.detail.contains("not its Local API") && failure.detail.contains("404"), "{failure}");
}
