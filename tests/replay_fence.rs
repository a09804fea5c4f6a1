//! What must not pass for a confirmation, what must be found before arming, and what must never be shown:
//! the replay in a real Chromium, where a page, a flow or a full budget goes against it.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "replay_fence/rig.rs"]
mod rig;

use std::time::Duration;

use cove::browser::ReplayEnd;
use cove::model::{FailureCode, InputValue};
use rig::{Case, Rig};
use serde_json::{Value, json};

const SHARE: &str = "<button id=share onclick=\"shared();";

fn click(selector: &str) -> Value {
    json!({"type": "click", "selectors": [[selector]]})
}

fn commit() -> Value {
    json!({"type": "customStep", "name": "commit", "parameters": {}})
}

fn share(asserted: &Value) -> Value {
    json!({"type": "click", "selectors": [["#share"]], "timeout": 3000, "assertedEvents": asserted})
}

fn gone(selector: &str) -> Value {
    json!({"type": "waitForElement", "selectors": [[selector]], "operator": "==", "count": 0, "timeout": 3000})
}

fn change(value: &str) -> Value {
    json!({"type": "change", "selectors": [["#field"]], "value": value, "timeout": 2000})
}

/// Nothing listens on port 1: the browser shows its error page.
fn to_a_dead_port(rig: &Rig) {
    rig.page("/dead", &format!("{SHARE}location='http://127.0.0.1:1/'\">Share</button><p id=dialog>Sharing</p>"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rule_7_the_browsers_error_page_confirms_nothing() {
    let rig = Rig::start().await;
    to_a_dead_port(&rig);
    let expression =
        json!({"type": "waitForExpression", "expression": "!document.querySelector('#dialog')", "timeout": 3000});
    for (asserted, after) in
        [(json!([{"type": "navigation"}]), vec![]), (json!([]), vec![gone("#dialog")]), (json!([]), vec![expression])]
    {
        let steps: Vec<_> = [commit(), share(&asserted)].into_iter().chain(after.clone()).collect();
        println!("{asserted} {after:?}");
        rig.run(&Case::new(&rig, "/dead", &steps)).await.unknown_after_one_click();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rule_7_a_page_that_was_there_before_the_click_is_no_arrival() {
    let rig = Rig::start().await;
    rig.page("/stays", &format!("{SHARE}\">Share</button>"));
    rig.page("/goes", &format!("{SHARE}location='/done'\">Share</button>"));
    rig.page("/done", "done");
    rig.page("/again", &format!("{SHARE}location.reload()\">Share</button>"));
    let to = |path: &str| json!([{"type": "navigation", "url": rig.url(path)}]);
    let stays = rig.run(&Case::new(&rig, "/stays", &[commit(), share(&to("/stays"))])).await;
    stays.unknown_after_one_click();
    let goes = rig.run(&Case::new(&rig, "/goes", &[commit(), share(&to("/done"))])).await;
    goes.confirmed_after_one_click();
    let again = rig.run(&Case::new(&rig, "/again", &[commit(), share(&to("/again"))])).await;
    again.confirmed_after_one_click();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rule_7_a_count_that_could_not_be_made_confirms_nothing() {
    let rig = Rig::start().await;
    rig.page(
        "/count",
        &format!("{SHARE}document.querySelector('#dialog').remove()\">Share</button><p id=dialog>d</p>"),
    );
    // The browser alone knows that this is no selector: it passes the check and throws in the page.
    let broken = rig.run(&Case::new(&rig, "/count", &[commit(), share(&json!([])), gone("p:no-such-thing")])).await;
    broken.unknown_after_one_click();
    let counted = rig.run(&Case::new(&rig, "/count", &[commit(), share(&json!([])), gone("#dialog")])).await;
    counted.confirmed_after_one_click();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rule_5_a_full_budget_stops_before_the_click_and_only_there() {
    let rig = Rig::start().await;
    rig.page("/plain", &format!("{SHARE}this.textContent='Shared'\">Share</button>"));
    let picture = json!({"type": "customStep", "name": "screenshot", "parameters": {"name": "one"}});
    let mut early = Case::new(&rig, "/plain", &[picture.clone(), click("#share")]);
    early.max_bytes = 600;
    let ended = rig.run(&early).await;
    let ReplayEnd::Confirmed { notes, .. } = &ended.replayed.end else { panic!("{:?}", ended.replayed) };
    assert!(notes.iter().any(|note| note.contains("600")), "{notes:?}");
    assert!(ended.replayed.evidence.iter().all(|file| file.kind == "trace"), "{:?}", ended.replayed.evidence);
    let mut before = Case::new(&rig, "/plain", &[commit(), share(&json!([])), gone("#other")]);
    before.max_bytes = 600;
    rig.run(&before).await.unarmed(FailureCode::EvidenceFailed);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_outside_the_origins_is_left_before_the_commit_point() {
    let rig = Rig::start().await;
    rig.page("/start", &format!("<a id=out href='{}'>out</a>", rig.elsewhere("/out")));
    rig.page("/out", &format!("{SHARE}this.textContent='Shared'\">Share</button>"));
    let steps = [
        json!({"type": "click", "selectors": [["#out"]], "assertedEvents": [{"type": "navigation"}]}),
        commit(),
        share(&json!([])),
        json!({"type": "waitForElement", "selectors": [["text/Shared"]]}),
    ];
    let inside = json!({"origins": [rig.url("")]});
    rig.run(&Case::with(&rig, "/start", &steps, &inside)).await.unarmed(FailureCode::OriginBlocked);
    let both = json!({"origins": [rig.url(""), rig.elsewhere("")]});
    rig.run(&Case::with(&rig, "/start", &steps, &both)).await.confirmed_after_one_click();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_secret_is_shown_nowhere_whole_or_in_part() {
    let secret = "pa\"ss\\wörd-1234567890";
    let rig = Rig::start().await;
    rig.page(
        "/short",
        "<input id=field maxlength=5 oninput=\"console.error(this.value)\"><script>console.error('none')</script>",
    );
    rig.page("/long", "<div id=field contenteditable oninput=\"console.error(this.innerText)\"></div>");
    let cove = json!({"inputs": {"key": {"type": "text", "secret": true}}});
    for (path, steps) in [
        ("/short", vec![change("{{ key }}")]),
        ("/long", vec![change("{{ key }}"), json!({"type": "click", "selectors": ["#x{{ key }}"], "timeout": 500})]),
        (
            "/long",
            vec![json!({"type": "waitForExpression", "expression": "false || `{{ key }}` === 1", "timeout": 500})],
        ),
    ] {
        let mut case = Case::with(&rig, path, &steps, &cove);
        case.inputs.insert("key".to_owned(), InputValue::Text(secret.to_owned()));
        let ended = rig.run(&case).await;
        let failure = ended.failure();
        assert!(matches!(ended.replayed.end, ReplayEnd::Unarmed(_)));
        let mut shown = vec![failure.detail.clone()];
        for file in ended.replayed.evidence.iter().filter(|file| file.kind != "screenshot") {
            if file.file != "console.jsonl" || path == "/long" {
                shown.push(ended.file(&file.file));
            }
        }
        for text in &shown {
            for part in ["pa\"", "pa\\\"", "wörd", "1234567890"] {
                assert!(!text.contains(part), "{part} in {text}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_alternative_that_cannot_be_acted_on_does_not_hold_up_the_others() {
    let rig = Rig::start().await;
    rig.page(
        "/two",
        &format!("<button id=hidden style='display:none'>no</button>{SHARE}this.id='shared'\">Share</button>"),
    );
    let press = json!({"type": "click", "selectors": [["#hidden"], ["#share"]], "timeout": 4000});
    let confirmed = json!({"type": "waitForElement", "selectors": [["#shared"]]});
    rig.run(&Case::new(&rig, "/two", &[commit(), press, confirmed])).await.confirmed_after_one_click();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rule_8_a_page_that_hangs_after_the_click_ends_in_time_and_unknown() {
    let rig = Rig::start().await;
    rig.page("/hangs", &format!("{SHARE}setTimeout(() => {{ for (;;); }}, 50)\">Share</button>"));
    let mut case = Case::new(&rig, "/hangs", &[commit(), share(&json!([])), gone("#other-than-nothing")]);
    case.deadline = Duration::from_secs(12);
    // An element that never was is gone at once, unless the page cannot answer any more.
    let ended = rig.run(&case).await;
    assert!(ended.asked == [0] && ended.clicks == 1, "{:?}", ended.replayed);
    let mut waits = case;
    let step = json!({"type": "waitForElement", "selectors": [["#never"]], "timeout": 30000});
    waits.flow = Case::new(&rig, "/hangs", &[commit(), share(&json!([])), step]).flow;
    rig.run(&waits).await.unknown_after_one_click();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rule_5_a_refused_gate_is_no_click_and_a_dead_browser_is_noticed_at_once() {
    let rig = Rig::start().await;
    rig.page("/plain", &format!("{SHARE}this.textContent='Shared'\">Share</button>"));
    let confirmed = json!({"type": "waitForElement", "selectors": [["text/Never"]], "timeout": 30000});
    let mut refused = Case::new(&rig, "/plain", &[commit(), share(&json!([])), confirmed.clone()]);
    refused.refuse = true;
    let ended = rig.run(&refused).await;
    assert!(matches!(ended.replayed.end, ReplayEnd::Unarmed(_)), "{:?}", ended.replayed);
    assert_eq!((ended.asked.as_slice(), ended.clicks), ([0].as_slice(), 0));
    assert_eq!(ended.failure().code, FailureCode::ArmRefused);
    let case = Case::new(&rig, "/plain", &[confirmed]);
    let killed = async {
        tokio::time::sleep(Duration::from_secs(2)).await;
        rig.kill();
    };
    let (ended, ()) = tokio::join!(rig.run(&case), killed);
    ended.unarmed(FailureCode::BrowserLost);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_are_taken_by_name_and_failed_requests_are_told_by_address() {
    let rig = Rig::start().await;
    rig.page(
        "/form",
        "<input id=emptied type=file hidden onchange=\"taken.textContent = this.files[0].name; this.value = ''\">
         <input id=kept type=file><p id=taken></p>
         <script>fetch('http://127.0.0.1:1/gone?token=hush').catch(() => { document.title = 'failed'; })</script>",
    );
    let film = rig.file("film ä.mp4", b"film");
    let upload = |selector: &str| json!({"type": "customStep", "name": "upload", "parameters": {"selectors": [selector], "files": ["{{ film }}"]}});
    let steps = [
        json!({"type": "waitForExpression", "expression": "document.title === 'failed'"}),
        upload("#emptied"),
        upload("#kept"),
        json!({"type": "customStep", "name": "extract", "parameters": {"name": "taken", "selectors": ["#taken"]}}),
        json!({"type": "customStep", "name": "extract", "parameters": {
            "name": "kept", "expression": "document.querySelector('#kept').files[0].text()"}}),
    ];
    let mut case = Case::with(&rig, "/form", &steps, &json!({"inputs": {"film": {"type": "file", "required": true}}}));
    case.inputs.insert("film".to_owned(), film);
    let ended = rig.run(&case).await;
    let ReplayEnd::Confirmed { result, .. } = &ended.replayed.end else { panic!("{:?}", ended.replayed) };
    assert_eq!((result["taken"].as_str(), result["kept"].as_str()), ("film ä.mp4", "film"));
    let console = ended.file("console.jsonl");
    assert!(!console.contains("hush"), "{console}");
    let lines = console.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let failed = lines.filter(|line| line["kind"] == "request_failed").collect::<Vec<_>>();
    assert!(failed.iter().any(|line| line["url"] == "http://127.0.0.1:1/gone"), "{console}");
}
