//! From the recording's JSON to a [`Flow`], with every problem found at once.
//!
//! This file reads the document and its `cove` part and checks what concerns the whole; `steps.rs` reads
//! one step. Fields that Chrome writes and cove does not need are tolerated; a step that this version
//! cannot replay is refused and never skipped.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::{Map, Value};

use super::inputs::{InputSpec, InputType, is_url, read as read_input};
use super::reader::Reader;
use super::steps::{Parsed, StepReader};
use super::{Action, Flow, Problem, Step, Template};

/// Largest recording.
pub const MAX_RECORDING_BYTES: usize = 1024 * 1024;
pub const MAX_STEPS: usize = 1_000;
/// Of a step where neither it nor the flow says so, as in the Recorder.
const DEFAULT_TIMEOUT_MS: u64 = 5_000;
/// The Recorder's own range.
pub(super) const TIMEOUT_MS: std::ops::RangeInclusive<u64> = 1..=30_000;
const MAX_DURATION_SECONDS: std::ops::RangeInclusive<u64> = 1..=7_200;
const DEFAULT_DURATION_SECONDS: u64 = 600;
/// Kept free for what every template will know beside the declared inputs.
const RESERVED_NAMES: [&str; 1] = ["armed_at"];
/// Where a recording begins when it was started in a new tab: the replay's tab is as new.
const NEW_TAB: [&str; 3] = ["about:blank", "chrome://newtab/", "chrome://new-tab-page/"];

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
    let settings = read_settings(reader, document);
    let parsed = read_steps(reader, document, timeout);
    let (steps, commit, names) = assemble(reader, parsed);
    check_names(reader, &settings.inputs, &names);
    check_whole(reader, &steps, commit);
    check_origins(reader, &settings.origins, &steps);
    check_uploads(reader, &settings.inputs, &steps);
    Some(Flow {
        title,
        inputs: settings.inputs,
        steps,
        commit,
        origins: settings.origins,
        max_duration: settings.max_duration,
        verify: None,
        external: None,
    })
}

/// The top-level key `cove`, which Chrome ignores.
struct Settings {
    inputs: BTreeMap<String, InputSpec>,
    origins: Vec<String>,
    max_duration: Duration,
}

fn read_settings(reader: &mut Reader, document: &Map<String, Value>) -> Settings {
    let mut settings = Settings {
        inputs: BTreeMap::new(),
        origins: Vec::new(),
        max_duration: Duration::from_secs(DEFAULT_DURATION_SECONDS),
    };
    let Some(cove) = document.get("cove") else { return settings };
    let Some(cove) = reader.object(cove, "/cove") else { return settings };
    reader.only(cove, "/cove", &["inputs", "verify", "origins", "max_duration", "external"]);
    if let Some(inputs) = cove.get("inputs").and_then(|inputs| reader.object(inputs, "/cove/inputs")) {
        for (name, spec) in inputs {
            if let Some(spec) = read_spec(reader, name, spec) {
                settings.inputs.insert(name.clone(), spec);
            }
        }
    }
    for (number, origin) in reader.list(cove, "/cove", "origins").iter().enumerate() {
        let pointer = format!("/cove/origins/{number}");
        match origin.as_str().and_then(origin_of).filter(|parsed| Some(parsed.as_str()) == origin.as_str()) {
            Some(origin) => settings.origins.push(origin),
            None => reader.error(&pointer, "an origin is `https://host` or `http://host:port`, without a path"),
        }
    }
    if let Some(seconds) = reader.integer_in(cove, "/cove", "max_duration", &MAX_DURATION_SECONDS) {
        settings.max_duration = Duration::from_secs(seconds);
    }
    if cove.contains_key("verify") {
        reader.warning("/cove/verify", "verify is not run by this version: an unknown outcome waits for a human");
    }
    if cove.contains_key("external") {
        reader.error("/cove/external", "outside workers are not supported by this version");
    }
    settings
}

fn read_spec(reader: &mut Reader, name: &str, spec: &Value) -> Option<InputSpec> {
    let at = format!("/cove/inputs/{}", super::reader::escape(name));
    if !is_name(name) {
        reader.error(&at, "an input's name has letters, digits and `_`, and does not begin with a digit");
    }
    let spec = reader.object(spec, &at)?;
    reader.only(spec, &at, &["type", "required", "max_length", "max_bytes", "accept", "default", "secret"]);
    let kind = reader.one_of(
        spec,
        &at,
        "type",
        &[
            ("text", InputType::Text),
            ("file", InputType::File),
            ("url", InputType::Url),
            ("number", InputType::Number),
            ("bool", InputType::Bool),
        ],
    )?;
    let accept = reader.list(spec, &at, "accept");
    let texts: Vec<_> = accept.iter().filter_map(|entry| entry.as_str().map(str::to_owned)).collect();
    if texts.len() != accept.len() {
        reader.error(&format!("{at}/accept"), "a list of file name endings or media types, each a text");
    }
    let mut read = InputSpec {
        kind,
        required: reader.boolean(spec, &at, "required").unwrap_or(false),
        max_length: reader.integer_in(spec, &at, "max_length", &(1..=u64::from(u32::MAX))),
        max_bytes: reader.integer_in(spec, &at, "max_bytes", &(1..=u64::MAX >> 12)),
        accept: texts,
        default: None,
        secret: reader.boolean(spec, &at, "secret").unwrap_or(false),
    };
    if let Some(default) = spec.get("default").filter(|default| !default.is_null()) {
        match read_input(&read, default) {
            Ok(_) => read.default = Some(default.clone()),
            Err(message) => reader.error(&format!("{at}/default"), message),
        }
    }
    Some(read)
}

fn is_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
        && !RESERVED_NAMES.contains(&name)
}

/// `scheme://host[:port]` of an absolute URL, without the scheme's own port.
pub fn origin_of(url: &str) -> Option<String> {
    if !is_url(url) {
        return None;
    }
    let (scheme, rest) = url.split_once("://")?;
    let authority = rest.split(['/', '?', '#']).next()?.to_ascii_lowercase();
    if authority.is_empty() || authority.contains('@') {
        return None;
    }
    let own_port = if scheme == "https" { ":443" } else { ":80" };
    Some(format!("{scheme}://{}", authority.strip_suffix(own_port).unwrap_or(&authority)))
}

/// Whether a navigation to it changes nothing in a new tab.
pub fn is_new_tab(url: &str) -> bool {
    NEW_TAB.contains(&url)
}

/// The part of a URL that no value can change, if it reaches beyond the host.
fn fixed_part(url: &Template) -> Option<&str> {
    let text = url.as_written();
    match text.find("{{") {
        None => Some(text),
        Some(end) => Some(&text[..end])
            .filter(|part| part.split_once("://").is_some_and(|(_, rest)| rest.contains(['/', '?', '#']))),
    }
}

fn read_steps(reader: &mut Reader, document: &Map<String, Value>, timeout: u64) -> Vec<(usize, Parsed)> {
    let Some(steps) = document.get("steps").and_then(Value::as_array) else {
        reader.error("/steps", "a list of steps is required");
        return Vec::new();
    };
    if steps.is_empty() {
        reader.error("/steps", "a flow has at least one step");
    }
    if steps.len() > MAX_STEPS {
        reader.error("/steps", format!("{} steps; at most {MAX_STEPS} are allowed", steps.len()));
    }
    let mut parsed = Vec::new();
    for (number, step) in steps.iter().take(MAX_STEPS).enumerate() {
        reader.step = Some(number);
        let at = format!("/steps/{number}");
        let read =
            reader.object(step, &at).and_then(|step| StepReader { reader, step, at: &at, number, timeout }.read());
        parsed.extend(read.map(|read| (number, read)));
        reader.step = None;
    }
    parsed
}

/// Where each name of a template stands: (step, pointer, name).
type Names = Vec<(usize, String, String)>;

/// Takes `commit` out of the list: it is a place, not a step.
fn assemble(reader: &mut Reader, parsed: Vec<(usize, Parsed)>) -> (Vec<Step>, Option<usize>, Names) {
    let mut steps = Vec::new();
    let mut names = Vec::new();
    let mut commit: Option<(usize, usize)> = None;
    for (number, parsed) in parsed {
        match parsed {
            Parsed::Commit => {
                reader.step = Some(number);
                if let Some((_, first)) = commit {
                    let message =
                        format!("a second commit point; the first is step {first}, and a flow has one at most");
                    reader.error(&format!("/steps/{number}"), message);
                } else {
                    commit = Some((steps.len(), number));
                }
                reader.step = None;
            }
            Parsed::Step(step, uses) => {
                names.extend(uses.into_iter().map(|(pointer, name)| (number, pointer, name)));
                steps.push(*step);
            }
        }
    }
    if let Some((position, number)) = commit {
        let next = steps.get(position).filter(|step| step.number == number + 1);
        if !next.is_some_and(|step| matches!(step.action, Action::Click { .. } | Action::KeyDown { .. })) {
            reader.step = Some(number);
            let message = "`commit` stands right before a click, doubleClick or keyDown: the step that publishes";
            reader.error(&format!("/steps/{number}"), message);
            reader.step = None;
        }
    }
    (steps, commit.map(|(position, _)| position), names)
}

fn check_names(reader: &mut Reader, inputs: &BTreeMap<String, InputSpec>, names: &Names) {
    for (number, pointer, name) in names {
        if !inputs.contains_key(name) {
            let known: Vec<_> = inputs.keys().map(String::as_str).collect();
            reader.step = Some(*number);
            reader.error(pointer, format!("no input is called `{name}`; known are: {}", known.join(", ")));
            reader.step = None;
        }
    }
    let used: BTreeSet<_> = names.iter().map(|(_, _, name)| name.as_str()).collect();
    for name in inputs.keys().filter(|name| !used.contains(name.as_str())) {
        reader.warning(&format!("/cove/inputs/{name}"), "no step uses this input");
    }
}

/// Fence.md rules 7 and 9, and names that would overwrite each other.
fn check_whole(reader: &mut Reader, steps: &[Step], commit: Option<usize>) {
    match commit {
        Some(commit) => {
            let confirms = |step: &Step| step.action.is_wait() || !step.asserted.is_empty();
            if commit < steps.len() && !steps[commit..].iter().any(confirms) {
                let message = "nothing after the commit point confirms that it went out: add a waitForElement, \
                    a waitForExpression or an asserted navigation";
                reader.step = Some(steps[commit].number);
                reader.error(&format!("/steps/{}", steps[commit].number), message);
                reader.step = None;
            }
        }
        None => reader.warning(
            "/steps",
            "no commit point: the flow is at-least-once, and an attempt that fails late is run again from its begin",
        ),
    }
    let mut seen = BTreeSet::new();
    for step in steps {
        let (kind, name) = match &step.action {
            Action::Extract { name, .. } => ("extract", name),
            Action::Screenshot { name } => ("screenshot", name),
            _ => continue,
        };
        if !seen.insert((kind, name)) {
            reader.step = Some(step.number);
            let pointer = format!("/steps/{}/parameters/name", step.number);
            reader.error(&pointer, format!("another {kind} of this flow is called `{name}`"));
            reader.step = None;
        }
    }
}

/// A fixed host outside the list is found now; one with a template when it is rendered.
fn check_origins(reader: &mut Reader, origins: &[String], steps: &[Step]) {
    for step in steps {
        let Action::Navigate { url } = &step.action else { continue };
        let Some(fixed) = fixed_part(url).filter(|fixed| !is_new_tab(fixed)) else { continue };
        let message = match origin_of(fixed) {
            Some(origin) if !origins.is_empty() && !origins.contains(&origin) => {
                format!("{origin} is not in `cove.origins`")
            }
            Some(_) => continue,
            None => "an absolute http or https URL is expected".to_owned(),
        };
        reader.step = Some(step.number);
        reader.error(&format!("/steps/{}/url", step.number), message);
        reader.step = None;
    }
}

/// A recording says which input goes into the page and never which file: otherwise whoever writes a
/// recording could publish any file that the browser's user can read.
fn check_uploads(reader: &mut Reader, inputs: &BTreeMap<String, InputSpec>, steps: &[Step]) {
    for step in steps {
        let Action::Upload { files, .. } = &step.action else { continue };
        for (number, file) in files.iter().enumerate() {
            let declared = file.sole_name().and_then(|name| inputs.get(name));
            if declared.is_some_and(|spec| spec.kind == InputType::File) {
                continue;
            }
            reader.step = Some(step.number);
            let pointer = format!("/steps/{}/parameters/files/{number}", step.number);
            reader.error(&pointer, "exactly `{{ name }}` of an input of type file is allowed, no path");
            reader.step = None;
        }
    }
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
