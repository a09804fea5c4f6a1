//! Recordings good and bad, and where each problem is told.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::{Action, Flow, Problem, Severity};

fn parse(recording: &Value) -> Result<(Flow, Vec<Problem>), Vec<Problem>> {
    Flow::parse(recording.to_string().as_bytes())
}

fn with_steps(steps: &Value) -> Value {
    json!({"title": "t", "steps": steps, "cove": {"inputs": {"caption": {"type": "text"}}}})
}

fn confirmed() -> Value {
    json!([
        {"type": "change", "selectors": ["#c"], "value": "{{ caption }}"},
        {"type": "customStep", "name": "commit", "parameters": {}},
        {"type": "click", "selectors": [["aria/Share"], ["#share"]], "offsetX": 1, "offsetY": 2},
        {"type": "waitForElement", "selectors": ["#done"]}
    ])
}

#[test]
fn the_flow_of_the_practice_site_is_clean() {
    let (flow, warnings) = Flow::parse(include_bytes!("../../../packaging/flows/atelier.json")).unwrap();
    assert!(warnings.is_empty(), "{warnings:?}");
    let commit = flow.commit.unwrap();
    assert!(matches!(flow.steps[commit].action, Action::Click { count: 1, .. }));
    assert_eq!(flow.inputs.len(), 4);
    assert_eq!(flow.steps[0].timeout.as_millis(), 15_000);
}

/// As Chrome 156 exports it, with what cove does not need.
#[test]
fn rule_9_a_recording_of_chrome_passes_and_without_a_commit_point_it_is_at_least_once() {
    let recording = json!({
        "title": "Recording 24/11/2026 at 09:00:00",
        "selectorAttribute": "data-test",
        "steps": [
            {"type": "setViewport", "width": 1036, "height": 932, "deviceScaleFactor": 1, "isMobile": false,
             "hasTouch": false, "isLandscape": false},
            {"type": "navigate", "url": "https://example.org/", "assertedEvents": [
                {"type": "navigation", "url": "https://example.org/", "title": "Example"}]},
            {"type": "click", "target": "main", "selectors": [["aria/Log in"], ["#login"],
                ["xpath///*[@id=\"login\"]"], ["pierce/#login"], ["text/Log in"]],
             "offsetY": 12.5, "offsetX": 30, "duration": 412, "deviceType": "mouse", "button": "primary"},
            {"type": "doubleClick", "target": "main", "selectors": [["#word"]], "offsetY": 1, "offsetX": 1},
            {"type": "change", "value": "text", "selectors": [["#name"]], "target": "main"},
            {"type": "keyDown", "target": "main", "key": "Enter"},
            {"type": "keyUp", "target": "main", "key": "Enter"},
            {"type": "hover", "selectors": [["#menu"]], "target": "main", "frame": []},
            {"type": "scroll", "x": 0, "y": 100},
            {"type": "waitForExpression", "expression": "document.title !== ''", "timeout": 30000},
            {"type": "close", "target": "main"}
        ]
    });
    let (flow, warnings) = parse(&recording).unwrap();
    assert_eq!(flow.steps.len(), 11);
    assert_eq!(flow.commit, None);
    assert!(warnings.len() == 1 && warnings[0].message.contains("at-least-once"), "rule 9: {warnings:?}");
}

#[test]
fn rule_6_and_7_a_commit_point_is_one_click_that_is_confirmed() {
    assert!(parse(&with_steps(&confirmed())).unwrap().0.commit == Some(1));
    let mut twice = confirmed();
    twice.as_array_mut().unwrap().insert(0, json!({"type": "customStep", "name": "commit", "parameters": {}}));
    let mut unconfirmed = confirmed();
    unconfirmed.as_array_mut().unwrap().pop();
    let mut last = confirmed();
    last.as_array_mut().unwrap().truncate(2);
    let mut before_a_wait = confirmed();
    before_a_wait.as_array_mut().unwrap().remove(2);
    for (steps, pointer, message) in [
        (twice, "/steps/2", "a second commit point; the first is step 0"),
        (unconfirmed, "/steps/2", "nothing after the commit point confirms"),
        (last, "/steps/1", "right before a click"),
        (before_a_wait, "/steps/1", "right before a click"),
    ] {
        let problems = parse(&with_steps(&steps)).unwrap_err();
        let found = problems.iter().any(|problem| problem.pointer == pointer && problem.message.contains(message));
        assert!(found, "{pointer} {message}: {problems:#?}");
    }
    // An asserted navigation of the click itself confirms, too.
    let mut navigation = confirmed();
    navigation.as_array_mut().unwrap().pop();
    navigation[2]["assertedEvents"] = json!([{"type": "navigation"}]);
    parse(&with_steps(&navigation)).unwrap();
}

#[test]
#[expect(clippy::too_many_lines, reason = "one table")]
fn every_problem_is_told_at_its_place_and_all_at_once() {
    let recording = json!({
        "title": 7,
        "timeout": 0,
        "cove": {
            "inputs": {"caption": {"type": "text", "default": 3}, "n": {"type": "integer"}, "1x": {"type": "text"},
                "unused": {"type": "bool", "requird": true}},
            "origins": ["https://example.org/path", "https://other.org"],
            "max_duration": 0,
            "verifi": {}
        },
        "steps": [
            {"type": "navigate", "url": "https://example.org"},
            {"type": "tap", "selectors": ["#a"]},
            {"type": "click", "selectors": ["#a[", ["text/"]]},
            {"type": "click", "selectors": []},
            {"type": "change", "selectors": ["#a"], "value": "{{ captoin }}"},
            {"type": "change", "selectors": ["#a"], "value": "{{ caption"},
            {"type": "keyDown"},
            {"type": "waitForElement", "selectors": ["#a"], "operator": ">", "timeout": 30001},
            {"type": "customStep", "name": "stopIf", "parameters": {}},
            {"type": "customStep", "name": "pload", "parameters": {}},
            {"type": "customStep", "name": "upload", "parameters": {"selectors": ["#f"], "file": []}},
            {"type": "customStep", "name": "extract", "parameters": {"name": "../x", "selectors": ["#f"]}},
            {"type": "click", "selectors": ["#a"], "frame": [0]},
            {"type": "click", "selectors": ["#a"], "target": "https://popup"},
            {"type": "emulateNetworkConditions", "download": 1, "upload": 1, "latency": 1},
            {"type": "navigate", "url": "javascript:alert(1)"},
            "step",
            {"type": "waitForElement", "selectors": ["#a"], "count": 0, "visble": true},
            {"type": "customStep", "name": "upload", "parameters": {"selectors": ["#f"],
                "files": ["/etc/passwd", "{{ caption }}", "{{ caption }}/../x"]}},
            {"type": "navigate", "url": "https://evil.net/{{ caption }}"},
            {"type": "change", "selectors": ["#a"], "value": "{{ armed_at }}"},
            {"type": "change", "selectors": ["#a"], "value": "{% set a = a ~ a %}{{ caption }}"}
        ]
    });
    let problems = parse(&recording).unwrap_err();
    let errors: Vec<_> = problems.iter().filter(|problem| problem.severity == Severity::Error).collect();
    for pointer in [
        "/title",
        "/timeout",
        "/cove/inputs/caption/default",
        "/cove/inputs/n/type",
        "/cove/inputs/1x",
        "/cove/inputs/unused/requird",
        "/cove/origins/0",
        "/cove/max_duration",
        "/cove/verifi",
        "/steps/0/url",
        "/steps/1/type",
        "/steps/2/selectors/0",
        "/steps/2/selectors/1/0",
        "/steps/3/selectors",
        "/steps/4/value",
        "/steps/5/value",
        "/steps/6/key",
        "/steps/7/operator",
        "/steps/7/timeout",
        "/steps/8/parameters",
        "/steps/8/parameters/reason",
        "/steps/8/parameters/message",
        "/steps/9/name",
        "/steps/10/parameters/file",
        "/steps/10/parameters/files",
        "/steps/11/parameters/name",
        "/steps/12/frame",
        "/steps/17/count",
        "/steps/17/visble",
        "/steps/18/parameters/files/0",
        "/steps/18/parameters/files/1",
        "/steps/18/parameters/files/2",
        "/steps/19/url",
        "/steps/20/value",
        "/steps/21/value",
        "/steps/13/target",
        "/steps/14/type",
        "/steps/15/url",
        "/steps/16",
    ] {
        let found = errors.iter().find(|problem| problem.pointer == pointer);
        let found = found.unwrap_or_else(|| panic!("{pointer}: {errors:#?}"));
        let step = pointer.strip_prefix("/steps/").map(|rest| rest.split('/').next().unwrap().parse().unwrap());
        assert_eq!(found.step, step, "{pointer}");
        assert!(found.message.len() > 8, "{found:?}");
    }
}

#[test]
fn rule_7_an_error_behind_many_warnings_still_refuses_and_is_told() {
    let mut unconfirmed = confirmed();
    unconfirmed.as_array_mut().unwrap().pop();
    let mut recording = with_steps(&unconfirmed);
    for number in 0..500 {
        recording["cove"]["inputs"][format!("unused{number}")] = json!({"type": "text"});
    }
    let problems = parse(&recording).unwrap_err();
    assert!(problems.len() <= 200, "{}", problems.len());
    let errors: Vec<_> = problems.iter().filter(|problem| problem.severity == Severity::Error).collect();
    assert!(errors.len() == 1 && errors[0].message.contains("confirms"), "{errors:?}");
}

#[test]
fn a_key_that_is_none_is_refused_before_anything_runs() {
    let mut pressed = confirmed();
    pressed[2] = json!({"type": "keyDown", "key": "Entr"});
    let problems = parse(&with_steps(&pressed)).unwrap_err();
    let key = problems.iter().find(|problem| problem.pointer == "/steps/2/key").unwrap();
    assert!(key.severity == Severity::Error && key.step == Some(2), "{key:?}");
}

#[test]
fn what_is_no_recording_is_refused_with_one_problem() {
    for bytes in [b"".as_slice(), b"[]", b"7", b"{", b"\xff\xfe", &vec![b' '; 2 * 1024 * 1024]] {
        assert_eq!(Flow::parse(bytes).unwrap_err().len(), 1);
    }
    let deep = "[".repeat(10_000);
    assert!(Flow::parse(deep.as_bytes()).is_err());
}

proptest! {
    /// Any bytes, and a good recording with any part overwritten: an answer, never a panic.
    #[test]
    fn any_bytes_are_answered(at in 0_usize..6_000, bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
        let _any = Flow::parse(&bytes);
        let mut recording = include_bytes!("../../../packaging/flows/atelier.json").to_vec();
        let at = at.min(recording.len());
        let end = (at + bytes.len()).min(recording.len());
        recording.splice(at..end, bytes);
        let _any = Flow::parse(&recording);
    }
}
