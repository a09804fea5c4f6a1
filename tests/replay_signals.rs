//! `stopIf`, `optional`, what was so before the click, and the flow's own time: in a real Chromium.
//!
//! Fence tests carry the number of their rule (fence.md) in their names; each has the same flow without the rule
//! beside it.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "replay/rig.rs"]
#[allow(dead_code, reason = "the rig of all replay tests")]
mod rig;

use std::time::{Duration, Instant};

use cove::browser::{Mode, ReplayEnd};
use cove::model::{Baseline, FailureCode, InputValue, Proofs, Timestamp};
use rig::{Answer, Case, Rig, commit, custom};
use serde_json::{Value, json};

/// Far below the steps' time-outs, on a machine that may be busy.
const QUICKLY: Duration = Duration::from_secs(8);

const SHARE: &str =
    "<button id=share onclick=\"clicked(); $('done').hidden = false\">Share</button><p id=done hidden>Done</p>";

fn click(selector: &str) -> Value {
    json!({"type": "click", "selectors": [selector], "timeout": 20000})
}

fn wait(selector: &str) -> Value {
    json!({"type": "waitForElement", "selectors": [selector], "timeout": 20000})
}

fn gone(selector: &str) -> Value {
    json!({"type": "waitForElement", "selectors": [selector], "operator": "==", "count": 0, "timeout": 3000})
}

fn stop_at(selector: &str, reason: &str) -> Value {
    custom("stopIf", json!({"selectors": [selector], "reason": reason, "message": "the site says so"}))
}

fn stop_at_url(part: &str) -> Value {
    custom("stopIf", json!({"url": part, "reason": "needs_human", "message": "sign in again"}))
}

fn optional(steps: Value) -> Value {
    let mut step = custom("optional", json!({"timeout": 400}));
    step["parameters"]["steps"] = steps;
    step
}

/// The steps, but for those of cove that end a flow.
fn without_stops(steps: &Value) -> Value {
    steps.as_array().unwrap().iter().filter(|step| step["name"] != "stopIf").cloned().collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_banner_is_closed_when_it_comes_and_skipped_when_it_does_not() {
    let rig = Rig::new().await;
    let banner = "<style>#veil{position:fixed;inset:0}</style>
        <div id=veil><button id=accept onclick=\"$('veil').remove(); post('/accepted')\">OK</button></div>";
    let plain = "<button id=a onclick=\"post('/pressed')\">A</button>";
    let steps = json!([optional(json!([click("#accept"), gone("#veil")])), click("#a")]);

    let ended = rig.run(&format!("{plain}{banner}"), &steps).await;
    ended.result();
    assert_eq!(rig.site.told(), ["/accepted ", "/pressed "]);
    let trace = ended.trace();
    let line = |at: usize| (&trace[at]["step"], &trace[at]["inner"], &trace[at]["type"], &trace[at]["outcome"]);
    assert_eq!(line(1), (&json!(1), &json!(0), &json!("click"), &json!("ok")));
    assert_eq!(line(2), (&json!(1), &json!(1), &json!("waitForElement"), &json!("ok")));
    assert_eq!(line(3), (&json!(1), &Value::Null, &json!("optional"), &json!("ok")));

    // One that never comes, and one that is in the page and never shown.
    for body in [plain.to_owned(), format!("{plain}{}", banner.replace("id=veil>", "id=veil hidden>"))] {
        let ended = rig.run(&body, &steps).await;
        ended.result();
        assert!(ended.took < QUICKLY, "{:?}", ended.took);
        let trace = ended.trace();
        assert_eq!((&trace[2]["type"], &trace[2]["outcome"]), (&json!("optional"), &json!("skipped")));
        assert!(trace[2]["detail"].as_str().unwrap().contains("did not come"), "{trace:#?}");
    }
    assert_eq!(rig.site.told().len(), 4);
    // Without it the same banner is in the way.
    let mut covered = click("#a");
    covered["timeout"] = json!(400);
    let ended = rig.run(&format!("{plain}{banner}"), &json!([covered])).await;
    assert_eq!(ended.unarmed().code, FailureCode::ElementNotActionable);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_optional_that_goes_wrong_is_given_up_and_ends_nothing_but_what_ends_everything() {
    let rig = Rig::new().await;
    let body = "<button id=first onclick=\"post('/first')\">1</button><button id=a onclick=\"post('/a')\">A</button>";
    let missing = json!({"type": "click", "selectors": ["#second"], "timeout": 300});
    let steps = json!([optional(json!([click("#first"), missing, click("#a")])), click("#a")]);
    let ended = rig.run(body, &steps).await;
    ended.result();
    assert_eq!(rig.site.told(), ["/first ", "/a "], "the rest of it is not done");
    let trace = ended.trace();
    let given_up = trace.iter().find(|line| line["type"] == "optional").unwrap();
    assert_eq!(given_up["outcome"], "skipped");
    assert!(given_up["detail"].as_str().unwrap().contains("given up at its step 1: element_not_found"), "{given_up}");

    let long = custom("optional", json!({"timeout": 20000, "steps": [click("#never")]}));
    let steps = rig.on(body, &json!([stop_at("#first", "rejected"), long]));
    // A stopIf.
    let ended = rig.replay(Case::new(&steps)).await;
    assert_eq!(ended.unarmed().code, FailureCode::Rejected);
    // The deadline.
    let mut case = Case::new(&without_stops(&steps));
    case.deadline = Duration::from_millis(1200);
    let ended = rig.replay(case).await;
    assert_eq!(ended.unarmed().code, FailureCode::DeadlineExceeded);
    // A cancel.
    let case = Case::new(&without_stops(&steps));
    let cancel = case.cancel.clone();
    let (ended, ()) = tokio::join!(rig.replay(case), async {
        tokio::time::sleep(Duration::from_millis(1200)).await;
        cancel.cancel();
    });
    assert_eq!(ended.unarmed().code, FailureCode::Canceled);
    // A browser that is lost.
    let case = Case::new(&without_stops(&steps));
    let (ended, ()) = tokio::join!(rig.replay(case), async {
        tokio::time::sleep(Duration::from_millis(1200)).await;
        rig.kill_browser();
    });
    assert_eq!(ended.unarmed().code, FailureCode::BrowserLost);
    assert!(ended.took < QUICKLY, "{:?}", ended.took);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_login_page_ends_the_flow_at_once_and_says_why() {
    let rig = Rig::new().await;
    rig.page_at("/login", "<form id=login><input name=user></form>");
    // The page goes to the login by itself, once a step already waits.
    let body = "<script>later(900, () => location = '/login?next=home')</script>";
    for step in [
        click("#share"),
        wait("#share"),
        json!({"type": "change", "selectors": ["#c"], "value": "x", "timeout": 20000}),
        json!({"type": "waitForExpression", "expression": "new Promise(() => {})", "timeout": 20000}),
        json!({"type": "hover", "selectors": ["body"], "timeout": 20000, "assertedEvents": [
            {"type": "navigation", "url": "https://nowhere.example/"}]}),
    ] {
        for stop in
            [stop_at_url("/login"), stop_at("#login", "needs_human"), stop_at("aria/[role=\"textbox\"]", "needs_human")]
        {
            let ended = rig.run(body, &json!([stop, step])).await;
            assert_eq!(ended.unarmed().code, FailureCode::NeedsHuman, "{step}: {}", ended.unarmed());
            assert_eq!(ended.stopped.as_ref(), Some(ended.unarmed()));
            assert!(ended.took < QUICKLY, "{step}: {:?}", ended.took);
            let trace = ended.trace();
            assert_eq!(trace.last().unwrap()["outcome"], "needs_human", "{trace:#?}");
        }
    }
    assert!(rig.site.told().is_empty() && rig.site.clicks() == 0);
    // Without it, the whole time-out and a worse reason.
    let mut short = click("#share");
    short["timeout"] = json!(1500);
    let ended = rig.run(body, &json!([short])).await;
    assert_eq!((ended.unarmed().code, ended.stopped.is_none()), (FailureCode::ElementNotFound, true));
    // It is the better reason for a step that fails by itself, too.
    let refused = json!({"type": "change", "selectors": ["#login"], "value": "x", "timeout": 300});
    let ended =
        rig.run("<p id=login>no field</p><p id=say hidden>", &json!([stop_at("#say", "rejected"), refused])).await;
    assert_eq!(ended.unarmed().code, FailureCode::TextNotAccepted);
    let saying = "<script>later(50, () => { $('say').hidden = false; })</script><p id=say hidden>no</p><input id=c>";
    let failing = json!({"type": "waitForElement", "selectors": ["#x"], "timeout": 200});
    let ended = rig.run(saying, &json!([stop_at("#say", "rejected"), failing])).await;
    assert_eq!(ended.unarmed().code, FailureCode::Rejected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_if_is_in_force_from_its_place_on_and_for_what_is_seen() {
    let rig = Rig::new().await;
    let body = "<p id=slow hidden>Too much</p><button id=a onclick=\"$('slow').hidden = false\">A</button>
        <button id=b onclick=\"post('/b')\">B</button>";
    let stop = stop_at("text/Too much", "rate_limited");
    // Hidden it says nothing; shown it does, before the next step.
    let ended = rig.run(body, &json!([stop, click("#a"), click("#b")])).await;
    assert_eq!(ended.unarmed().code, FailureCode::RateLimited);
    assert_eq!(ended.unarmed().detail, "the site says so");
    assert!(rig.site.told().is_empty());
    // Behind the place where it was shown it fires at its own place.
    let ended = rig.run(body, &json!([click("#a"), click("#b"), stop, click("#b")])).await;
    assert_eq!(ended.unarmed().code, FailureCode::RateLimited);
    assert_eq!(rig.site.told(), ["/b "]);
    // One that never fires changes nothing, and what it says is a template without secrets.
    let quiet = stop_at("#never", "rejected");
    rig.run(body, &json!([quiet, stop_at_url("/never-there"), click("#b")])).await.result();
    let said = custom(
        "stopIf",
        json!({"selectors": ["#{{ place }}"], "reason": "rejected", "message": "no {{ key }} {{ place }}"}),
    );
    let case = Case::new(&rig.on(body, &json!([click("#a"), said])))
        .input("place", json!({"type": "text", "required": true}), Some(InputValue::Text("slow".to_owned())))
        .input("key", json!({"type": "text", "secret": true}), Some(InputValue::Text("hunter22".to_owned())));
    let ended = rig.replay(case).await;
    assert_eq!(ended.unarmed().detail, "no *** slow");
    assert_eq!(ended.stopped.as_ref().unwrap().detail, "no *** slow");
    assert!(!ended.text_of_all().contains("hunter22"));
    // An address that renders to nothing would stop everywhere.
    let empty = custom("stopIf", json!({"url": "{{ part }}", "reason": "rejected", "message": "m"}));
    let case = Case::new(&rig.on(body, &json!([empty, click("#b")]))).input("part", json!({"type": "text"}), None);
    assert_eq!(rig.replay(case).await.unarmed().code, FailureCode::FlowInvalid);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rule_7_a_stop_if_after_arming_makes_it_unknown_and_is_told_beside_it() {
    let rig = Rig::new().await;
    rig.page_at("/challenge", "<h1>Confirm it is you</h1><script>
        for (const kind of ['mousemove', 'mousedown', 'keydown', 'input']) addEventListener(kind, () => post('/touched'), true);
        </script>");
    let body = "<button id=share onclick=\"clicked(); location = '/challenge'\">Share</button><p id=sheet>sheet</p>";
    // It waits for what never comes; and it waits for what is gone on every other page, too.
    for confirmation in [wait("#done"), gone("#sheet")] {
        let steps = rig.on(body, &json!([stop_at_url("/challenge"), commit(), click("#share"), confirmation]));
        let clicks = rig.site.clicks();
        let ended = rig.replay(Case::new(&steps)).await;
        assert_eq!(ended.unknown().code, FailureCode::ConfirmationMissing);
        assert!(ended.unknown().detail.contains("sign in again"), "{}", ended.unknown());
        assert_eq!(ended.stopped.as_ref().unwrap().code, FailureCode::NeedsHuman);
        assert_eq!((ended.asked.len(), rig.site.clicks()), (1, clicks + 1));
        assert!(ended.took < QUICKLY, "{:?}", ended.took);
        assert!(ended.has("after.png") && ended.has("failure.txt"));
    }
    assert!(rig.site.told().is_empty(), "a look sends no input: {:?}", rig.site.told());
    // Without the stopIf, that the sheet is gone confirms it.
    let steps = rig.on(body, &json!([commit(), click("#share"), gone("#sheet")]));
    let ended = rig.replay(Case::new(&steps)).await;
    assert!(matches!(ended.end, ReplayEnd::Confirmed { .. }) && ended.stopped.is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rule_7_an_optional_after_the_click_answers_a_question_and_confirms_nothing() {
    let rig = Rig::new().await;
    let asking = "<button id=share onclick=\"clicked(); $('ask').hidden = false\">Share</button>
        <p id=ask hidden><button id=sure onclick=\"$('done').hidden = false\">Yes</button></p><p id=done hidden>Done</p>";
    let steps = json!([commit(), click("#share"), optional(json!([click("#sure")])), {"type": "waitForElement",
        "selectors": ["#done"], "timeout": 1000}]);
    rig.replay(Case::new(&rig.on(asking, &steps))).await.result();
    // Where nothing is asked it is skipped, and what confirms is left to do it.
    rig.replay(Case::new(&rig.on(SHARE, &steps))).await.result();
    let silent = "<button id=share onclick=\"clicked()\">Share</button>";
    rig.replay(Case::new(&rig.on(silent, &steps))).await.unknown();
    assert_eq!(rig.site.clicks(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rule_7_what_a_stop_if_says_after_the_confirmation_changes_nothing_but_is_told() {
    let rig = Rig::new().await;
    let body = format!("{SHARE}<p id=limit hidden>Enough for today</p>
        <script>$('share').addEventListener('click', () => later(1500, () => {{ $('limit').hidden = false; }}))</script>");
    let late = json!({"type": "customStep", "name": "extract", "timeout": 9000,
        "parameters": {"name": "limit", "selectors": ["#later"]}});
    let steps =
        rig.on(&body, &json!([stop_at("#limit", "rate_limited"), commit(), click("#share"), wait("#done"), late]));
    let ended = rig.replay(Case::new(&steps)).await;
    assert!(ended.notes()[0].contains("rate_limited"), "{:?}", ended.notes());
    assert_eq!(ended.stopped.as_ref().unwrap().code, FailureCode::RateLimited);
    assert_eq!(rig.site.clicks(), 1);
    assert!(ended.took < QUICKLY, "{:?}", ended.took);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rule_5_the_last_look_of_a_stop_if_is_before_the_gate() {
    let rig = Rig::new().await;
    // The page says no while the commit step still looks for its button.
    let body = "<p id=no hidden>No</p><script>
        later(700, () => { $('no').hidden = false; document.body.insertAdjacentHTML('beforeend', '<button id=share>S</button>'); })
        </script>";
    let steps = rig.on(body, &json!([stop_at("#no", "rejected"), commit(), click("#share"), wait("#done")]));
    let ended = rig.replay(Case::new(&steps)).await;
    assert_eq!(ended.unarmed().code, FailureCode::Rejected);
    assert!(ended.asked.is_empty() && ended.proofs.is_none());
    let mut case = Case::new(&without_stops(&steps));
    case.recording["steps"][3]["timeout"] = json!(300);
    let ended = rig.replay(case).await;
    ended.unknown();
    assert_eq!(ended.asked.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rule_15_a_stop_if_of_the_flow_is_in_force_on_a_page_that_survived() {
    let rig = Rig::new().await;
    rig.run("<h1 id=login>Log in</h1><p id=done>Done</p>", &json!([])).await.result();
    let steps = json!([stop_at("#login", "needs_human"), commit(), click("#share"), wait("#done")]);
    let mut case = Case::new(&steps);
    case.mode = Mode::ConfirmOnly;
    let ended = rig.replay(case).await;
    ended.unknown();
    assert_eq!(ended.stopped.unwrap().code, FailureCode::NeedsHuman);
    let mut case = Case::new(&without_stops(&steps));
    case.mode = Mode::ConfirmOnly;
    rig.replay(case).await.result();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rule_15_a_wait_that_was_true_before_the_click_confirms_no_page_that_survived() {
    let rig = Rig::new().await;
    let body = format!("{SHARE}<h1>Composer</h1><script>let sent = false;</script>");
    let waits = [
        wait("h1"),
        json!({"type": "waitForExpression", "expression": "sent === false"}),
        json!({"type": "waitForExpression", "expression": "document.querySelector('#done:not([hidden])').id"}),
        json!({"type": "waitForElement", "selectors": ["#done"], "timeout": 3000}),
    ];
    let mut steps = vec![commit(), click("#share")];
    steps.extend(waits);
    let steps = rig.on(&body, &Value::Array(steps));
    let ended = rig.replay(Case::new(&steps)).await;
    ended.result();
    // Step 0 is the navigation, 1 the commit, 2 the click: the heading and the first expression were so before it.
    assert_eq!(ended.proofs, Some(Proofs { baseline: Baseline::NotNeeded, open_waits: vec![3, 4] }));
    assert_eq!(ended.asked[0].clicks, 0);

    // The daemon starts again, and the page is still the composer's: nothing was sent.
    let survived = |open_waits: &[usize], kept: usize| {
        let mut case = Case::new(&json!([steps[0], steps[1], steps[2], steps[kept]]));
        case.mode = Mode::ConfirmOnly;
        case.open_waits = open_waits.to_vec();
        case
    };
    let before = rig.run(&body, &json!([])).await;
    before.result();
    let ended = rig.replay(survived(&[3], 3)).await;
    assert_eq!(ended.unknown().code, FailureCode::ConfirmationMissing);
    assert!(ended.unknown().detail.contains("not there before"), "{}", ended.unknown());
    assert!(ended.proofs.is_none() && ended.asked.is_empty());
    // With the rule off the composer itself confirms it.
    rig.replay(survived(&[], 3)).await.result();
    // One that was not true before confirms, whatever else was.
    rig.run(&SHARE.replace(" hidden", ""), &json!([])).await.result();
    let ended = rig.replay(survived(&[4], 6)).await;
    ended.result();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_flows_own_time_holds_in_every_mode() {
    let rig = Rig::new().await;
    let never = json!({"type": "waitForElement", "selectors": ["#never"], "timeout": 30000});
    let late = |mut case: Case, mode: Mode| {
        case.recording["cove"]["max_duration"] = json!(2);
        case.mode = mode;
        case
    };
    for mode in [Mode::Publish, Mode::StopBeforeCommit] {
        let steps = rig.on(SHARE, &json!([never, commit(), click("#share"), wait("#done")]));
        let ended = rig.replay(late(Case::new(&steps), mode)).await;
        assert_eq!(ended.unarmed().code, FailureCode::DeadlineExceeded, "{mode:?}");
        assert!(ended.took < Duration::from_secs(2) + QUICKLY, "{mode:?}: {:?}", ended.took);
    }
    let steps = rig.on(SHARE, &json!([commit(), click("#share"), never]));
    let ended = rig.replay(late(Case::new(&steps), Mode::Publish)).await;
    assert!(ended.unknown().detail.contains("max_duration"), "{}", ended.unknown());
    assert!(ended.took < Duration::from_secs(2) + QUICKLY, "{:?}", ended.took);
    let ended = rig.replay(late(Case::new(&steps), Mode::ConfirmOnly)).await;
    assert!(ended.unknown().detail.contains("max_duration"), "{}", ended.unknown());
    assert!(ended.took < Duration::from_secs(2) + QUICKLY, "{:?}", ended.took);

    // In a baseline, which is a part of the attempt, and in a verify of its own.
    let mut case = late(Case::new(&steps), Mode::Publish);
    case.recording["cove"]["verify"] = json!({"signed_in": 0, "steps": [never, never]});
    let ended = rig.replay(case).await;
    assert_eq!(ended.unarmed().code, FailureCode::DeadlineExceeded);
    assert_eq!(ended.asked.len(), 0);
    let mut case = late(Case::new(&steps), Mode::Publish);
    case.recording["cove"]["verify"] = json!({"signed_in": 0, "steps": [never, never]});
    let looked = rig.verify(case, Timestamp::ZERO).await;
    assert_eq!(looked.inconclusive().code, FailureCode::DeadlineExceeded);
    assert!(looked.took < Duration::from_secs(2) + QUICKLY, "{:?}", looked.took);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_steps_of_an_outside_worker_are_never_replayed() {
    let rig = Rig::new().await;
    let steps = rig.on(SHARE, &json!([commit(), click("#share"), wait("#done")]));
    for mode in [Mode::Publish, Mode::StopBeforeCommit] {
        let mut case = Case::new(&steps);
        case.recording["cove"]["external"] = json!("worker");
        case.mode = mode;
        case.gate = Answer::Yes;
        let ended = rig.replay(case).await;
        assert_eq!(ended.unarmed().code, FailureCode::FlowInvalid);
        assert!(ended.asked.is_empty());
    }
    assert_eq!(rig.site.clicks(), 0);
    let began = Instant::now();
    rig.replay(Case::new(&steps)).await.result();
    println!("without it: {:?}", began.elapsed());
    assert_eq!(rig.site.clicks(), 1);
}
