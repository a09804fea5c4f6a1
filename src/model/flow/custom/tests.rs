//! `optional`, `stopIf` and `external` in recordings: what they become, and every way in which they are refused.

use std::time::Duration;

use serde_json::{Value, json};

use super::super::{Action, Flow, Problem, Severity, StopReason, StopWhen};

fn custom(name: &str, parameters: Value) -> Value {
    let mut step = json!({"type": "customStep", "name": name});
    step["parameters"] = parameters;
    step
}

fn parse(steps: &Value, cove: &Value) -> Result<(Flow, Vec<Problem>), Vec<Problem>> {
    Flow::parse(json!({"title": "t", "timeout": 9000, "steps": steps, "cove": cove}).to_string().as_bytes())
}

fn optional(steps: Value) -> Value {
    custom("optional", Value::Object([("steps".to_owned(), steps)].into_iter().collect()))
}

/// An error at `pointer` of the only step that says `message`.
#[track_caller]
fn refused(step: &Value, pointer: &str, message: &str) {
    let problems = parse(&json!([step]), &json!({"inputs": {"film": {"type": "file"}}})).unwrap_err();
    let pointer = format!("/steps/0{pointer}");
    let found = problems.iter().find(|problem| problem.pointer == pointer && problem.severity == Severity::Error);
    let found = found.unwrap_or_else(|| panic!("{pointer}: {problems:#?}"));
    assert!(found.message.contains(message) && found.step == Some(0), "{found:?}");
}

#[test]
fn an_optional_holds_ordinary_steps_and_a_time_of_its_own() {
    let accept = json!({"type": "click", "selectors": ["#{{ button }}"], "timeout": 400});
    let steps = json!([
        optional(json!([accept, {"type": "keyDown", "key": "Escape"}])),
        custom("optional", json!({"timeout": 300, "steps": [{"type": "scroll", "selectors": ["#a"], "x": 0, "y": 1}]}))
    ]);
    let (flow, warnings) = parse(&steps, &json!({"inputs": {"button": {"type": "text"}}})).unwrap();
    assert!(warnings.iter().all(|warning| warning.message.contains("at-least-once")), "{warnings:?}");
    let Action::Optional { steps, appears } = &flow.steps[0].action else { panic!("{flow:?}") };
    assert_eq!((steps.len(), *appears), (2, Duration::from_secs(2)));
    assert_eq!((steps[0].timeout, steps[1].timeout), (Duration::from_millis(400), Duration::from_secs(9)));
    assert!(
        matches!(&flow.steps[1].action, Action::Optional { appears, .. } if *appears == Duration::from_millis(300))
    );
}

#[test]
fn rule_6_commit_never_stands_inside_an_optional() {
    let click = json!({"type": "click", "selectors": ["#a"]});
    let commit = optional(json!([click, custom("commit", json!({})), click]));
    refused(&commit, "/parameters/steps/1/name", "`commit` never stands inside an `optional`");
    // Where it may stand, the same steps pass.
    let steps = json!([click, custom("commit", json!({})), click, {"type": "waitForElement", "selectors": ["#b"]}]);
    assert_eq!(parse(&steps, &json!({})).unwrap().0.commit, Some(1));
}

#[test]
fn rule_7_a_wait_inside_an_optional_confirms_nothing() {
    let click = json!({"type": "click", "selectors": ["#a"]});
    let wait = json!({"type": "waitForElement", "selectors": ["#b"]});
    let problems =
        parse(&json!([custom("commit", json!({})), click, optional(json!([wait]))]), &json!({})).unwrap_err();
    assert!(problems.iter().any(|problem| problem.message.contains("confirms")), "{problems:#?}");
}

#[test]
fn what_an_optional_cannot_be_is_refused_at_its_place() {
    let click = json!({"type": "click", "selectors": ["#a"]});
    let inside = |step: Value| optional(json!([click, step]));
    for (step, at) in [
        (optional(json!([click])), "name"),
        (custom("stopIf", json!({"url": "/login", "reason": "needs_human", "message": "m"})), "name"),
        (custom("extract", json!({"name": "a", "expression": "1"})), "name"),
        (json!({"type": "close"}), "type"),
    ] {
        refused(&inside(step), &format!("/parameters/steps/1/{at}"), "never stands inside an `optional`");
    }
    refused(&custom("optional", json!({})), "/parameters/steps", "1 to 50");
    refused(&optional(json!(vec![click.clone(); 51])), "/parameters/steps", "1 to 50");
    refused(&custom("optional", json!({"steps": [click], "timeout": 0})), "/parameters/timeout", "1 to 30000");
    refused(&custom("optional", json!({"steps": [click], "wait": 1})), "/parameters/wait", "unknown");
    for blind in [json!({"type": "keyDown", "key": "Escape"}), json!({"type": "scroll", "x": 0, "y": 1})] {
        refused(&optional(json!([blind])), "/parameters/steps/0", "looks for what may come");
    }
    let mut timed = optional(json!([click]));
    timed["timeout"] = json!(300);
    refused(&timed, "/timeout", "stands in its parameters");
    // What holds for every step holds inside, too.
    refused(&inside(json!({"type": "tap"})), "/parameters/steps/1/type", "unknown step type");
    refused(&inside(json!({"type": "click", "selectors": ["a["]})), "/parameters/steps/1/selectors/0", "not closed");
    let value = json!({"type": "change", "selectors": ["#a"], "value": "{{ nobody }}"});
    refused(&inside(value), "/parameters/steps/1/value", "no input is called");
    let file = custom("upload", json!({"selectors": ["#f"], "files": ["/etc/passwd"]}));
    refused(&inside(file), "/parameters/steps/1/parameters/files/0", "of an input of type file");
    refused(&inside(json!({"type": "navigate", "url": "javascript:1"})), "/parameters/steps/1/url", "absolute http");
}

#[test]
fn a_stop_if_looks_at_the_page_or_at_its_address() {
    let steps = json!([
        custom("stopIf", json!({"url": "/accounts/*/login", "reason": "needs_human", "message": "Sign {{ who }} in"})),
        custom(
            "stopIf",
            json!({"selectors": [["text/Too much"], ["aria/Slow down"]], "reason": "rate_limited",
            "message": "too much"})
        ),
        custom("stopIf", json!({"selectors": "#no", "reason": "rejected", "message": "no"}))
    ]);
    let (flow, _) = parse(&steps, &json!({"inputs": {"who": {"type": "text"}}})).unwrap();
    let stops: Vec<_> = flow
        .steps
        .iter()
        .map(|step| match &step.action {
            Action::StopIf(stop) => (matches!(stop.when, StopWhen::UrlContains(_)), stop.reason),
            other => panic!("{other:?}"),
        })
        .collect();
    let expected = [StopReason::NeedsHuman, StopReason::RateLimited, StopReason::Rejected];
    assert_eq!(stops, [(true, expected[0]), (false, expected[1]), (false, expected[2])]);
}

#[test]
fn what_a_stop_if_cannot_be_is_refused_at_its_place() {
    let with = |name: &str, value: Value| {
        let mut parameters = json!({"url": "/login", "reason": "needs_human", "message": "m"});
        parameters[name] = value;
        custom("stopIf", parameters)
    };
    refused(&with("selectors", json!(["#a"])), "/parameters", "either `selectors` or `url`");
    refused(&custom("stopIf", json!({"reason": "rejected", "message": "m"})), "/parameters", "either");
    refused(&with("reason", json!("tired")), "/parameters/reason", "needs_human, rate_limited, rejected");
    refused(&with("message", json!("")), "/parameters/message", "1 to 500");
    refused(&with("message", json!("x".repeat(501))), "/parameters/message", "1 to 500");
    refused(&with("message", json!(null)), "/parameters/message", "required");
    for url in ["*", "/", "**/*", "", "/log in"] {
        refused(&with("url", json!(url)), "/parameters/url", "a part of the page's address");
    }
    refused(&with("urls", json!("/x")), "/parameters/urls", "unknown");
    let mut timed = with("url", json!("/login"));
    timed["timeout"] = json!(300);
    refused(&timed, "/timeout", "has no effect");
}

#[test]
fn a_stop_if_at_a_page_where_the_flow_goes_is_a_warning() {
    let stop = custom("stopIf", json!({"url": "/login", "reason": "needs_human", "message": "m"}));
    let to = |url: &str| json!([{"type": "navigate", "url": url}, stop]);
    let warned = |url: &str| {
        let (_, warnings) = parse(&to(url), &json!({})).unwrap();
        warnings.iter().any(|warning| warning.pointer == "/steps/1/parameters/url" && warning.step == Some(1))
    };
    assert!(warned("https://example.org/login?next=a") && !warned("https://example.org/home"));
}

#[test]
fn an_external_flow_needs_no_steps_and_no_commit_point() {
    let (flow, warnings) =
        parse(&json!([]), &json!({"external": "tik-tok_2", "inputs": {"a": {"type": "text"}}})).unwrap();
    assert_eq!((flow.external.as_deref(), flow.steps.len()), (Some("tik-tok_2"), 0));
    assert!(warnings.is_empty(), "{warnings:?}");
    // Its steps only say what is done: they are checked, and the check says that they are not replayed.
    let (flow, warnings) = parse(&json!([{"type": "keyDown", "key": "a"}]), &json!({"external": "x"})).unwrap();
    assert_eq!(flow.steps.len(), 1);
    assert!(warnings.len() == 1 && warnings[0].message.contains("not replayed"), "{warnings:?}");
    parse(&json!([{"type": "tap"}]), &json!({"external": "x"})).unwrap_err();
    for wrong in [json!(""), json!("X"), json!("a b"), json!(7), json!("x".repeat(65))] {
        let problems = parse(&json!([]), &json!({"external": wrong})).unwrap_err();
        assert!(problems.iter().any(|problem| problem.pointer == "/cove/external"), "{wrong}: {problems:?}");
    }
    let problems = parse(&json!([]), &json!({})).unwrap_err();
    assert!(problems.iter().any(|problem| problem.message.contains("at least one step")), "{problems:?}");
}
