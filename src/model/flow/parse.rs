//! From the recording's JSON to a [`Flow`], with every problem found at once.
//!
//! This file reads the document and its list of steps; `settings.rs` reads its `cove` part, `steps.rs` and `custom.rs`
//! one step, and `check.rs` checks what concerns the whole. Fields that Chrome writes and cove does not need are
//! tolerated; a step that this version cannot replay is refused and never skipped.

use serde_json::{Map, Value};

use super::reader::Reader;
use super::steps::{Parsed, Place, StepReader};
use super::{Action, Flow, Problem, Step, Template, check, settings};

/// Largest recording.
pub const MAX_RECORDING_BYTES: usize = 1024 * 1024;
pub const MAX_STEPS: usize = 1_000;
/// Of a step where neither it nor the flow says so, as in the Recorder.
const DEFAULT_TIMEOUT_MS: u64 = 5_000;
/// The Recorder's own range.
pub(super) const TIMEOUT_MS: std::ops::RangeInclusive<u64> = 1..=30_000;

/// A name in a template, and where it stands.
pub(super) struct Named {
    /// The step's number, if it is one of the flow's.
    pub step: Option<usize>,
    pub pointer: String,
    pub name: String,
    pub in_verify: bool,
}

pub(super) fn parse(json: &[u8]) -> Result<(Flow, Vec<Problem>), Vec<Problem>> {
    let mut reader = Reader::default();
    let flow = read_document(&mut reader, json);
    let (problems, failed) = reader.finish();
    match flow {
        Some(flow) if !failed => Ok((flow, problems)),
        _ => Err(problems),
    }
}

fn read_document(reader: &mut Reader, json: &[u8]) -> Option<Flow> {
    if json.len() > MAX_RECORDING_BYTES {
        reader.error("", format!("the recording has {} bytes; at most {MAX_RECORDING_BYTES} are allowed", json.len()));
        return None;
    }
    let document: Value = match serde_json::from_slice(json) {
        Ok(document) => document,
        Err(error) => {
            reader.error("", format!("not JSON: {error}"));
            return None;
        }
    };
    let Some(document) = document.as_object() else {
        reader.error("", "a recording is a JSON object with `title` and `steps`");
        return None;
    };
    let title = reader.text(document, "", "title").unwrap_or_default();
    let timeout = reader.integer_in(document, "", "timeout", &TIMEOUT_MS).unwrap_or(DEFAULT_TIMEOUT_MS);
    let settings = settings::read(reader, document, timeout);
    let parsed = read_steps(reader, document, timeout, settings.external.is_some());
    let (steps, commit, mut names) = assemble(reader, parsed);
    let verify = settings.verify.map(|raw| {
        names.extend(raw.names);
        raw.verify
    });
    let flow = Flow {
        title,
        inputs: settings.inputs,
        steps,
        commit,
        origins: settings.origins,
        max_duration: settings.max_duration,
        verify,
        external: settings.external,
    };
    check::whole(reader, &flow, &names);
    Some(flow)
}

fn read_steps(
    reader: &mut Reader,
    document: &Map<String, Value>,
    timeout: u64,
    may_be_empty: bool,
) -> Vec<(usize, Parsed)> {
    let Some(steps) = document.get("steps").and_then(Value::as_array) else {
        reader.error("/steps", "a list of steps is required");
        return Vec::new();
    };
    if steps.is_empty() && !may_be_empty {
        reader.error("/steps", "a flow has at least one step");
    }
    if steps.len() > MAX_STEPS {
        reader.error("/steps", format!("{} steps; at most {MAX_STEPS} are allowed", steps.len()));
    }
    let mut parsed = Vec::new();
    for (number, step) in steps.iter().take(MAX_STEPS).enumerate() {
        reader.step = Some(number);
        let at = format!("/steps/{number}");
        let read = reader
            .object(step, &at)
            .and_then(|step| StepReader { reader, step, at: &at, number, timeout, place: Place::Flow }.read());
        parsed.extend(read.map(|read| (number, read)));
        reader.step = None;
    }
    parsed
}

/// Takes `commit` out of the list: it is a place, not a step.
fn assemble(reader: &mut Reader, parsed: Vec<(usize, Parsed)>) -> (Vec<Step>, Option<usize>, Vec<Named>) {
    let mut steps = Vec::new();
    let mut names = Vec::new();
    let mut commit: Option<(usize, usize)> = None;
    for (number, parsed) in parsed {
        match parsed {
            Parsed::Commit => {
                if let Some((_, first)) = commit {
                    let message =
                        format!("a second commit point; the first is step {first}, and a flow has one at most");
                    reader.error_at(Some(number), &format!("/steps/{number}"), message);
                } else {
                    commit = Some((steps.len(), number));
                }
            }
            Parsed::Step(step, uses) => {
                let named = |(pointer, name)| Named { step: Some(number), pointer, name, in_verify: false };
                names.extend(uses.into_iter().map(named));
                steps.push(*step);
            }
        }
    }
    if let Some((position, number)) = commit {
        let next = steps.get(position).filter(|step| step.number == number + 1);
        if !next.is_some_and(|step| matches!(step.action, Action::Click { .. } | Action::KeyDown { .. })) {
            let message = "`commit` stands right before a click, doubleClick or keyDown: the step that publishes";
            reader.error_at(Some(number), &format!("/steps/{number}"), message);
        }
    }
    (steps, commit.map(|(position, _)| position), names)
}

/// Reads a template and notes the names that it uses.
pub(super) fn template(
    reader: &mut Reader,
    pointer: &str,
    text: &str,
    names: &mut Vec<(String, String)>,
) -> Option<Template> {
    match Template::new(text) {
        Ok(template) => {
            names.extend(template.names().iter().map(|name| (pointer.to_owned(), name.clone())));
            Some(template)
        }
        Err(message) => {
            reader.error(pointer, format!("not a template: {message}"));
            None
        }
    }
}
