//! The read-only look whether it was published, in a real Chromium (fence.md rule 12).
//!
//! "Not there" may lead to a second click: most of this is about what must not be taken for it. Each way to be wrong
//! stands beside the same look with nothing wrong.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "replay/rig.rs"]
#[allow(dead_code, reason = "the rig of all replay tests")]
mod rig;

use std::time::Duration;

use cove::browser::Mode;
use cove::model::{Baseline, FailureCode, InputValue, Timestamp};
use rig::{Case, Rig, commit, custom};
use serde_json::{Value, json};

/// Far below the steps' time-outs, on a machine that may be busy.
const QUICKLY: Duration = Duration::from_secs(8);

const SHARE: &str =
    "<button id=share onclick=\"clicked(); $('done').hidden = false\">Share</button><p id=done hidden>Done</p>";
/// A page of a signed-in user with one post.
const MINE: &str = "<p id=me>anna</p><a class=post href='/p/1' data-caption='spring'>spring</a>";
const EMPTY: &str = "<p id=me>anna</p>";
const LOGIN: &str = "<form id=login><input name=user></form>";

fn wait(selector: &str) -> Value {
    json!({"type": "waitForElement", "selectors": [selector], "timeout": 600})
}

/// Opens `url`, waits for the user, and for the post.
fn look(url: &str) -> Value {
    json!({"signed_in": 1, "steps": [{"type": "navigate", "url": url}, wait("#me"), wait(".post")]})
}

/// A flow that shares, with this verify.
fn case(rig: &Rig, verify: &Value) -> Case {
    let steps = rig.on(SHARE, &json!([commit(), {"type": "click", "selectors": ["#share"]}, wait("#done")]));
    let mut case = Case::new(&steps);
    case.recording["cove"]["verify"] = verify.clone();
    case
}

const THEN: Timestamp = Timestamp::from_millis(1_800_000_000_000);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rule_12_found_is_what_the_proof_shows_and_more_is_told_of_it() {
    let rig = Rig::new().await;
    let url = rig.page_at("/mine", MINE);
    let mut verify = look(&url);
    let steps = verify["steps"].as_array_mut().unwrap();
    steps.push(custom("extract", json!({"name": "post_url", "selectors": [".post"], "attribute": "href"})));
    steps.push(custom("screenshot", json!({"name": "mine"})));
    let looked = rig.verify(case(&rig, &verify), THEN).await;
    let (found, result) = looked.found();
    assert_eq!(found, Some(rig.url("/p/1").as_str()));
    assert_eq!(result["post_url"], rig.url("/p/1"));
    let mut files: Vec<_> = looked.evidence.iter().map(|file| file.file.as_str()).collect();
    files.sort_unstable();
    files.retain(|file| *file != "verify-console.jsonl");
    assert_eq!(files, ["verify-found.png", "verify-shot-mine.png", "verify-trace.jsonl"]);
    assert!(looked.text("verify-trace.jsonl").lines().count() == 5 && !looked.dir.join("trace.jsonl").exists());
    assert_eq!(rig.site.clicks(), 0);

    // What is told of it changes nothing.
    let mut failing = look(&url);
    let late = custom("extract", json!({"name": "post_url", "expression": "no.such"}));
    failing["steps"].as_array_mut().unwrap().push(late);
    assert_eq!(rig.verify(case(&rig, &failing), THEN).await.found().0, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rule_12_not_found_is_a_signed_in_page_without_it() {
    let rig = Rig::new().await;
    let url = rig.page_at("/mine", EMPTY);
    let looked = rig.verify(case(&rig, &look(&url)), THEN).await;
    assert!(looked.not_found().contains(".post >= 1: 0 fit"), "{}", looked.not_found());
    assert!(looked.evidence.iter().any(|file| file.file == "verify-failure.png"), "{:?}", looked.evidence);
    assert!(looked.stopped.is_none());
    // By an expression as well, and where an optional before it was skipped.
    let absent =
        json!({"type": "waitForExpression", "expression": "!!document.querySelector('.post')", "timeout": 600});
    let banner = custom("optional", json!({"timeout": 200, "steps": [{"type": "click", "selectors": ["#accept"]}]}));
    let verify = json!({"signed_in": 1, "steps": [{"type": "navigate", "url": url}, wait("#me"), banner, absent]});
    assert!(rig.verify(case(&rig, &verify), THEN).await.not_found().contains("not true"));
    // The same without the number of the signed-in view.
    let mut unsigned = look(&url);
    unsigned.as_object_mut().unwrap().remove("signed_in");
    let looked = rig.verify(case(&rig, &unsigned), THEN).await;
    assert_eq!(looked.inconclusive().code, FailureCode::WaitTimedOut);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rule_12_a_login_page_is_not_not_found() {
    let rig = Rig::new().await;
    rig.page_at("/login", LOGIN);
    let url = rig.redirect("/mine", "/login");
    let looked = rig.verify(case(&rig, &look(&url)), THEN).await;
    assert_eq!(looked.inconclusive().code, FailureCode::WaitTimedOut);
    assert!(looked.inconclusive().detail.contains("#me"), "{}", looked.inconclusive());
    // With a stopIf it is known what it is.
    let mut verify = look(&url);
    let stop = custom("stopIf", json!({"url": "/login", "reason": "needs_human", "message": "sign in again"}));
    verify["steps"].as_array_mut().unwrap().insert(0, stop);
    verify["signed_in"] = json!(2);
    let looked = rig.verify(case(&rig, &verify), THEN).await;
    assert_eq!(looked.inconclusive().code, FailureCode::NeedsHuman);
    assert_eq!(looked.stopped.as_ref(), Some(looked.inconclusive()));
    // One that appears while the proof is looked for.
    let sliding = rig.page_at("/sliding", &format!("{EMPTY}<script>later(700, () => location = '/login')</script>"));
    let mut unstopped = look(&sliding);
    unstopped["steps"][2]["timeout"] = json!(3000);
    let looked = rig.verify(case(&rig, &unstopped), THEN).await;
    assert!(looked.inconclusive().detail.contains("the signed-in view is gone"), "{}", looked.inconclusive());
    assert!(looked.stopped.is_none());
    let mut verify = look(&sliding);
    verify["steps"][2]["timeout"] = json!(3000);
    verify["steps"].as_array_mut().unwrap().insert(
        0,
        custom("stopIf", json!({"selectors": ["#login"], "reason": "needs_human", "message": "sign in again"})),
    );
    verify["signed_in"] = json!(2);
    let looked = rig.verify(case(&rig, &verify), THEN).await;
    assert_eq!(looked.inconclusive().code, FailureCode::NeedsHuman);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rule_12_a_page_that_says_nothing_is_not_not_found() {
    let rig = Rig::new().await;
    let fine = rig.page_at("/fine", EMPTY);
    rig.verify(case(&rig, &look(&fine)), THEN).await.not_found();

    // The site's own error, which may look as empty.
    let failing = rig.page_at("/failing", EMPTY);
    rig.fail("/failing");
    let looked = rig.verify(case(&rig, &look(&failing)), THEN).await;
    assert!(looked.inconclusive().detail.contains("503"), "{}", looked.inconclusive());
    // The page goes there by itself, behind the signed-in view.
    let leaving = rig.page_at("/leaving", &format!("{EMPTY}<script>later(300, () => location = '/failing')</script>"));
    let mut verify = look(&leaving);
    verify["steps"][2]["timeout"] = json!(2500);
    let looked = rig.verify(case(&rig, &verify), THEN).await;
    assert!(looked.inconclusive().detail.contains("503"), "{}", looked.inconclusive());
    // Nothing answers, and the browser shows its own page.
    let dead =
        rig.page_at("/dead", &format!("{EMPTY}<script>later(300, () => location = 'http://127.0.0.1:1/')</script>"));
    let mut verify = look(&dead);
    verify["steps"][2]["timeout"] = json!(2500);
    let looked = rig.verify(case(&rig, &verify), THEN).await;
    assert_eq!(looked.inconclusive().code, FailureCode::WaitTimedOut);
    // The page hangs.
    let hanging = rig.page_at("/hanging", &format!("{EMPTY}<script>later(700, () => {{ for (;;); }})</script>"));
    let mut verify = look(&hanging);
    verify["steps"][2]["timeout"] = json!(2500);
    let looked = rig.verify(case(&rig, &verify), THEN).await;
    assert_eq!(looked.inconclusive().code, FailureCode::WaitTimedOut);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rule_12_a_proof_that_cannot_be_looked_for_is_not_not_found() {
    let rig = Rig::new().await;
    let url = rig.page_at("/mine", EMPTY);
    let with = |proof: Value| json!({"signed_in": 1, "steps": [{"type": "navigate", "url": url}, wait("#me"), proof]});
    let expression = |text: &str| json!({"type": "waitForExpression", "expression": text, "timeout": 500});
    // The browser alone knows that this is no selector; and what throws is never true.
    for proof in [
        wait("p:no-such-thing"),
        expression("document.querySelector('.post').href"),
        expression("new Promise(() => {})"),
    ] {
        let looked = rig.verify(case(&rig, &with(proof.clone())), THEN).await;
        assert_eq!(looked.inconclusive().code, FailureCode::WaitTimedOut, "{proof}");
    }
    for proof in [wait("p.such"), expression("document.querySelector('.post')?.href")] {
        rig.verify(case(&rig, &with(proof)), THEN).await.not_found();
    }
    // An earlier step that fails says nothing about the post.
    for step in [
        json!({"type": "waitForElement", "selectors": ["#feed"], "timeout": 300}),
        custom("extract", json!({"name": "a", "expression": "no.such"})),
    ] {
        let mut verify = look(&url);
        verify["steps"].as_array_mut().unwrap().insert(2, step.clone());
        let looked = rig.verify(case(&rig, &verify), THEN).await;
        looked.inconclusive();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rule_12_an_interrupted_verify_is_inconclusive_and_ends_at_once() {
    let rig = Rig::new().await;
    let url = rig.page_at("/mine", EMPTY);
    let mut verify = look(&url);
    verify["steps"][2]["timeout"] = json!(30_000);

    let canceled = case(&rig, &verify);
    let cancel = canceled.cancel.clone();
    let (looked, at) = tokio::join!(rig.verify(canceled, THEN), async {
        tokio::time::sleep(Duration::from_millis(1500)).await;
        cancel.cancel();
        std::time::Instant::now()
    });
    assert_eq!(looked.inconclusive().code, FailureCode::Canceled);
    assert!(at.elapsed() < QUICKLY, "{:?}", at.elapsed());

    let mut late = case(&rig, &verify);
    late.deadline = Duration::from_millis(1500);
    let looked = rig.verify(late, THEN).await;
    assert_eq!(looked.inconclusive().code, FailureCode::DeadlineExceeded);
    assert!(looked.took < Duration::from_millis(1500) + QUICKLY, "{:?}", looked.took);

    let (looked, ()) = tokio::join!(rig.verify(case(&rig, &verify), THEN), async {
        tokio::time::sleep(Duration::from_millis(1500)).await;
        rig.kill_browser();
    });
    assert_eq!(looked.inconclusive().code, FailureCode::BrowserLost);
    assert!(looked.took < QUICKLY, "{:?}", looked.took);
    let looked = rig.verify(case(&rig, &verify), THEN).await;
    assert_eq!(looked.inconclusive().code, FailureCode::AttachFailed);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rule_12_the_time_of_arming_is_written_into_the_proof() {
    let rig = Rig::new().await;
    let url = rig.page_at("/mine", &format!("{EMPTY}<time class=post datetime='2027-01-15T08:00:00Z'>8</time>"));
    let proof = json!({"type": "waitForExpression", "timeout": 500, "expression":
        "[...document.querySelectorAll('time')].some((time) => Date.parse(time.dateTime) >= Date.parse('{{ armed_at }}'))"});
    let verify = json!({"signed_in": 1, "steps": [{"type": "navigate", "url": url}, wait("#me"), proof]});
    let at = |text: &str| text.parse::<Timestamp>().unwrap();
    rig.verify(case(&rig, &verify), at("2027-01-15T07:59:59.999Z")).await.found();
    rig.verify(case(&rig, &verify), at("2027-01-15T08:00:00.001Z")).await.not_found();
    // Nothing of the kind can be so before arming: nobody looks.
    let ended = rig.replay(case(&rig, &verify)).await;
    ended.result();
    assert_eq!(ended.proofs.as_ref().unwrap().baseline, Baseline::NotNeeded);
    assert!(!ended.text("trace.jsonl").contains("baseline"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rule_12_what_the_verify_says_before_the_flow_is_given_to_the_gate() {
    let rig = Rig::new().await;
    let baseline = async |verify: &Value| {
        let ended = rig.replay(case(&rig, verify)).await;
        ended.result();
        assert_eq!(ended.asked.len(), 1);
        (ended.proofs.as_ref().unwrap().baseline, ended)
    };
    let empty = rig.page_at("/empty", EMPTY);
    let mine = rig.page_at("/mine", MINE);
    rig.page_at("/login", LOGIN);
    let wall = rig.redirect("/wall", "/login");
    let (clear, ended) = baseline(&look(&empty)).await;
    assert_eq!(clear, Baseline::Clear);
    let trace = ended.trace();
    assert!(trace[..3].iter().all(|line| line["part"] == "baseline") && trace[3].get("part").is_none(), "{trace:#?}");
    assert_eq!(baseline(&look(&mine)).await.0, Baseline::AlreadyTrue);
    assert_eq!(baseline(&look(&wall)).await.0, Baseline::Unknown, "a login page tells nothing, and ends nothing");
    let mut unsigned = look(&empty);
    unsigned.as_object_mut().unwrap().remove("signed_in");
    assert_eq!(baseline(&unsigned).await.0, Baseline::Unknown);
    // Neither its results nor its pictures are those of the flow.
    let mut telling = look(&mine);
    let steps = telling["steps"].as_array_mut().unwrap();
    steps.insert(2, custom("extract", json!({"name": "old_url", "selectors": [".post"], "attribute": "href"})));
    steps.insert(3, custom("screenshot", json!({"name": "mine"})));
    let (_, ended) = baseline(&telling).await;
    assert!(ended.result().is_empty(), "{:?}", ended.result());
    assert!(ended.has("baseline-mine.png") && !ended.has("shot-mine.png"));

    let ended = rig.replay(Case::new(&case(&rig, &look(&empty)).recording["steps"])).await;
    assert_eq!(ended.proofs.as_ref().unwrap().baseline, Baseline::NotNeeded, "a flow without a verify");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rule_12_a_stop_if_in_the_look_before_the_flow_ends_the_attempt() {
    let rig = Rig::new().await;
    rig.page_at("/login", LOGIN);
    let wall = rig.redirect("/wall", "/login");
    let mut verify = look(&wall);
    let stop = custom("stopIf", json!({"url": "/login", "reason": "needs_human", "message": "sign in again"}));
    verify["steps"].as_array_mut().unwrap().insert(0, stop.clone());
    verify["signed_in"] = json!(2);
    let ended = rig.replay(case(&rig, &verify)).await;
    assert_eq!(ended.unarmed().code, FailureCode::NeedsHuman);
    assert_eq!(ended.stopped.as_ref().unwrap().detail, "sign in again");
    assert_eq!((ended.asked.len(), rig.site.clicks()), (0, 0));

    // One that does not fire there is not in force in the flow: the flow has its own.
    let fine = rig.page_at("/fine", EMPTY);
    let mut verify = look(&fine);
    let stop = custom("stopIf", json!({"selectors": ["#share"], "reason": "rejected", "message": "the composer"}));
    verify["steps"].as_array_mut().unwrap().insert(0, stop);
    verify["signed_in"] = json!(2);
    let ended = rig.replay(case(&rig, &verify)).await;
    ended.result();
    assert_eq!(rig.site.clicks(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_look_before_the_flow_leaves_an_empty_page_and_is_for_what_is_published() {
    let rig = Rig::new().await;
    let mine = rig.page_at("/mine", MINE);
    let seen = custom("extract", json!({"name": "seen", "expression": "location.href"}));
    let steps = json!([seen, {"type": "navigate", "url": rig.page(SHARE)}, commit(),
        {"type": "click", "selectors": ["#share"]}, wait("#done")]);
    let mut publishing = Case::new(&steps);
    publishing.recording["cove"]["verify"] = look(&mine);
    let ended = rig.replay(publishing).await;
    assert_eq!(ended.result()["seen"], "about:blank");
    assert_eq!(ended.proofs.as_ref().unwrap().baseline, Baseline::AlreadyTrue);

    rig.site.forget();
    let mut trying = Case::new(&steps);
    trying.recording["cove"]["verify"] = look(&mine);
    trying.mode = Mode::StopBeforeCommit;
    rig.replay(trying).await.result();
    assert!(!rig.site.saw("/mine"), "{:?}", rig.site.requests());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_verify_shows_no_secret_and_knows_every_input() {
    let rig = Rig::new().await;
    let url = rig.page_at("/mine", &format!("{EMPTY}<p>hunter22</p><script>console.error('hunter22')</script>"));
    let verify = json!({"signed_in": 1, "steps": [{"type": "navigate", "url": url}, wait("#me"),
        {"type": "waitForElement", "selectors": ["#{{ caption }}{{ missing }}"], "attributes": {"title": "{{ key }}"}, "timeout": 300}]});
    let with_inputs = case(&rig, &verify)
        .input("caption", json!({"type": "text", "required": true}), Some(InputValue::Text("spring".to_owned())))
        .input("missing", json!({"type": "text"}), None)
        .input("key", json!({"type": "text", "secret": true}), Some(InputValue::Text("hunter22".to_owned())));
    let looked = rig.verify(with_inputs, THEN).await;
    assert!(looked.not_found().contains("#spring"), "{}", looked.not_found());
    for file in ["verify-trace.jsonl", "verify-failure.txt", "verify-console.jsonl"] {
        assert!(
            !looked.text(file).is_empty() && !looked.text(file).contains("hunter22"),
            "{file}: {}",
            looked.text(file)
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flow_without_a_verify_is_inconclusive() {
    let rig = Rig::new().await;
    let looked = rig.verify(Case::new(&rig.on("<p>", &json!([wait("p")]))), THEN).await;
    assert_eq!(looked.inconclusive().code, FailureCode::FlowInvalid);
}
