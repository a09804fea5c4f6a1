//! `cove.verify` in recordings: what it becomes, and every way in which it is refused.

use serde_json::{Value, json};

use super::super::{Flow, Problem, Severity};

fn parse(verify: &Value) -> Result<(Flow, Vec<Problem>), Vec<Problem>> {
    let steps = json!([
        {"type": "navigate", "url": "https://example.org/new"},
        {"type": "change", "selectors": ["#c"], "value": "{{ caption }}"},
        {"type": "customStep", "name": "commit", "parameters": {}},
        {"type": "click", "selectors": ["#share"]},
        {"type": "waitForElement", "selectors": ["#done"]}
    ]);
    let cove = json!({"inputs": {"caption": {"type": "text"}}, "origins": ["https://example.org"], "verify": verify});
    Flow::parse(json!({"title": "t", "steps": steps, "cove": cove}).to_string().as_bytes())
}

fn navigate() -> Value {
    json!({"type": "navigate", "url": "https://example.org/me"})
}

fn wait(selector: &str) -> Value {
    json!({"type": "waitForElement", "selectors": [selector]})
}

fn custom(name: &str, parameters: Value) -> Value {
    let mut step = json!({"type": "customStep", "name": name});
    step["parameters"] = parameters;
    step
}

/// An error at `pointer` that says `message`, and is about no step of the flow.
#[track_caller]
fn refused(verify: &Value, pointer: &str, message: &str) {
    let problems = parse(verify).unwrap_err();
    let pointer = format!("/cove/verify{pointer}");
    let found = problems.iter().find(|problem| problem.pointer == pointer && problem.severity == Severity::Error);
    let found = found.unwrap_or_else(|| panic!("{pointer}: {problems:#?}"));
    assert!(found.message.contains(message) && found.step.is_none(), "{found:?}");
}

/// The same with `step` before the proof.
#[track_caller]
fn refused_step(step: &Value, pointer: &str, message: &str) {
    let verify = json!({"signed_in": 1, "steps": [navigate(), wait("#me"), step, wait("#mine")]});
    refused(&verify, &format!("/steps/2{pointer}"), message);
}

#[test]
fn rule_12_a_verify_looks_and_its_last_wait_is_the_proof() {
    let banner = json!({"type": "click", "selectors": ["#accept"]});
    let verify = json!({"signed_in": 2, "steps": [
        navigate(),
        custom("stopIf", json!({"url": "/login", "reason": "needs_human", "message": "sign in"})),
        wait("#me"),
        custom("optional", json!({"steps": [banner, {"type": "keyDown", "key": "Escape"}]})),
        {"type": "scroll", "x": 0, "y": 300},
        {"type": "waitForExpression", "expression": "Date.now() > Date.parse('{{ armed_at }}')"},
        custom("screenshot", json!({"name": "mine"})),
        custom("extract", json!({"name": "url", "selectors": ["a"], "attribute": "href"}))
    ]});
    let (flow, warnings) = parse(&verify).unwrap();
    assert!(warnings.is_empty(), "{warnings:?}");
    let verify = flow.verify.unwrap();
    assert_eq!((verify.signed_in, verify.proof(), verify.steps.len()), (Some(2), 5, 8));
    assert!(verify.uses_armed_at);

    let (flow, _) =
        parse(&json!({"signed_in": 1, "steps": [navigate(), wait("#me"), wait("#{{ caption }}")]})).unwrap();
    let verify = flow.verify.unwrap();
    assert!(!verify.uses_armed_at && verify.proof() == 2);
    assert!(verify.steps.iter().enumerate().all(|(at, step)| step.number == at));
}

#[test]
fn rule_12_without_signed_in_a_time_out_says_nothing_and_the_check_says_so() {
    let (flow, warnings) = parse(&json!({"steps": [navigate(), wait("#mine")]})).unwrap();
    assert_eq!(flow.verify.unwrap().signed_in, None);
    assert!(warnings.len() == 1 && warnings[0].pointer == "/cove/verify", "{warnings:?}");
    assert!(warnings[0].message.contains("inconclusive"), "{warnings:?}");
}

#[test]
fn rule_12_a_verify_is_read_only() {
    for step in [
        json!({"type": "click", "selectors": ["#a"]}),
        json!({"type": "doubleClick", "selectors": ["#a"]}),
        json!({"type": "change", "selectors": ["#a"], "value": "x"}),
        json!({"type": "keyDown", "key": "Enter"}),
        json!({"type": "keyUp", "key": "Enter"}),
        json!({"type": "hover", "selectors": ["#a"]}),
        json!({"type": "close"}),
    ] {
        refused_step(&step, "/type", "is not read-only");
    }
    for step in
        [custom("commit", json!({})), custom("upload", json!({"selectors": ["#f"], "files": ["{{ caption }}"]}))]
    {
        refused_step(&step, "/name", "is not read-only");
    }
    for step in [
        json!({"type": "change", "selectors": ["#a"], "value": "x"}),
        json!({"type": "doubleClick", "selectors": ["#a"]}),
        navigate(),
    ] {
        let inside = custom("optional", json!({"steps": [{"type": "click", "selectors": ["#a"]}, step]}));
        refused_step(&inside, "/parameters/steps/1/type", "closes no banner");
    }
    let commit =
        custom("optional", json!({"steps": [{"type": "click", "selectors": ["#a"]}, custom("commit", json!({}))]}));
    refused_step(&commit, "/parameters/steps/1/name", "closes no banner");
}

#[test]
fn rule_12_signed_in_is_a_wait_that_a_login_page_does_not_pass() {
    let with = |signed_in: Value| json!({"signed_in": signed_in, "steps": [navigate(), wait("#me"), wait("#mine")]});
    parse(&with(json!(1))).unwrap();
    refused(&with(json!(0)), "/signed_in", "which a login page passes as well");
    refused(&with(json!(2)), "/signed_in", "before the proof");
    let leaving = json!({"signed_in": 1, "steps": [navigate(), wait("#me"), navigate(), wait("#mine")]});
    let (_, warnings) = parse(&leaving).unwrap();
    assert!(warnings.len() == 1 && warnings[0].pointer == "/cove/verify/signed_in", "{warnings:?}");
    for wrong in [json!(3), json!(-1), json!("1"), json!(null)] {
        refused(&with(wrong), "/signed_in", "from 0 to 2");
    }
}

#[test]
fn what_proves_nothing_is_refused_at_its_place() {
    let only = |steps: Value| json!({"signed_in": 1, "steps": steps});
    refused(&only(json!([navigate(), wait("#me"), navigate()])), "/steps/2", "the last step is the proof");
    let extract = custom("extract", json!({"name": "url", "expression": "1"}));
    refused(
        &only(json!([navigate(), wait("#me"), {"type": "scroll", "x": 0, "y": 1}, extract])),
        "/steps/2",
        "the last",
    );
    refused(&only(json!([extract, extract])), "/steps", "a proof is required");
    let mut asserting = wait("#mine");
    asserting["assertedEvents"] = json!([{"type": "navigation"}]);
    refused(&only(json!([navigate(), wait("#me"), asserting])), "/steps/2/assertedEvents", "asserts no navigation");
    refused(&json!({"signed_in": 0, "steps": []}), "/steps", "1 to 1000");
    refused(&json!({"signed_in": 0}), "/steps", "1 to 1000");
    refused(&json!([]), "", "an object");
    refused(&json!({"steps": [wait("#a")], "signedin": 0}), "/signedin", "unknown");
}

#[test]
fn the_steps_of_a_verify_are_held_to_the_rules_of_all() {
    refused_step(&json!({"type": "navigate", "url": "https://other.org/"}), "/url", "not in `cove.origins`");
    refused_step(&wait("a["), "/selectors/0", "not closed");
    refused_step(&wait("#{{ nobody }}"), "/selectors/0", "no input is called `nobody`");
    let extract = custom("extract", json!({"name": "url", "expression": "1"}));
    let verify = json!({"signed_in": 1, "steps": [navigate(), wait("#me"), extract, wait("#a"), extract]});
    refused(&verify, "/steps/4/parameters/name", "is called `url`");
}

#[test]
fn the_time_of_arming_is_known_to_a_verify_alone() {
    let change = json!({"type": "change", "selectors": ["#c"], "value": "{{ armed_at }}"});
    let recording = json!({"title": "t", "steps": [change]});
    let problems = Flow::parse(recording.to_string().as_bytes()).unwrap_err();
    let found = problems.iter().find(|problem| problem.pointer == "/steps/0/value").unwrap();
    assert!(found.message.contains("`cove.verify` alone"), "{found:?}");
    let recording = json!({"title": "t", "steps": [change], "cove": {"inputs": {"armed_at": {"type": "text"}}}});
    let problems = Flow::parse(recording.to_string().as_bytes()).unwrap_err();
    assert!(problems.iter().any(|problem| problem.pointer == "/cove/inputs/armed_at"), "{problems:?}");
}

#[test]
fn a_verify_of_a_flow_without_a_commit_point_is_never_run_and_the_check_says_so() {
    let cove = json!({"verify": {"signed_in": 0, "steps": [wait("#me"), wait("#mine")]}});
    let recording = json!({"title": "t", "steps": [navigate()], "cove": cove});
    let (_, warnings) = Flow::parse(recording.to_string().as_bytes()).unwrap();
    assert!(warnings.iter().any(|warning| warning.pointer == "/cove/verify"), "{warnings:?}");
    // That of an outside worker's flow is.
    let mut external = recording;
    external["steps"] = json!([]);
    external["cove"]["external"] = json!("x");
    let (_, warnings) = Flow::parse(external.to_string().as_bytes()).unwrap();
    assert!(warnings.is_empty(), "{warnings:?}");
}
