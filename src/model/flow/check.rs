//! What concerns a whole recording: names, the commit point and its confirmation, origins, files.
//!
//! Called once every step was read. A step within an `optional`, and one of `verify`, is held to the same rules as one
//! of the flow; each problem is told at its own place.

use std::collections::{BTreeMap, BTreeSet};

use super::inputs::{InputSpec, InputType};
use super::origin::{fixed_part, is_new_tab, origin_of, url_contains};
use super::parse::Named;
use super::reader::Reader;
use super::settings::ARMED_AT;
use super::{Action, Flow, Step, StopWhen};

/// A step, and where it stands in the recording.
struct Placed<'a> {
    step: &'a Step,
    pointer: String,
    /// Its number, or that of the step that holds it; none of a verify's.
    number: Option<usize>,
}

/// Every step of the list, those within an `optional` after it.
fn placed<'a>(at: &str, steps: &'a [Step], in_flow: bool) -> Vec<Placed<'a>> {
    let mut all = Vec::new();
    for step in steps {
        let pointer = format!("{at}/{}", step.number);
        let number = in_flow.then_some(step.number);
        if let Action::Optional { steps, .. } = &step.action {
            let within = |inner: &'a Step| Placed {
                step: inner,
                pointer: format!("{pointer}/parameters/steps/{}", inner.number),
                number,
            };
            all.extend(steps.iter().map(within));
        }
        all.push(Placed { step, pointer, number });
    }
    all
}

pub(super) fn whole(reader: &mut Reader, flow: &Flow, names: &[Named]) {
    check_names(reader, flow, names);
    check_commit(reader, flow);
    let steps = placed("/steps", &flow.steps, true);
    let looks = flow.verify.as_ref().map(|verify| placed("/cove/verify/steps", &verify.steps, false));
    for part in [Some(&steps), looks.as_ref()].into_iter().flatten() {
        check_twice(reader, part);
        check_origins(reader, &flow.origins, part);
        check_stops(reader, part);
    }
    check_uploads(reader, &flow.inputs, &steps);
}

fn check_names(reader: &mut Reader, flow: &Flow, names: &[Named]) {
    for named in names {
        let Named { step, pointer, name, in_verify } = named;
        if flow.inputs.contains_key(name) || (*in_verify && name == ARMED_AT) {
            continue;
        }
        let known: Vec<_> = flow.inputs.keys().map(String::as_str).collect();
        let message = if name == ARMED_AT {
            format!("`{ARMED_AT}` is known to the steps of `cove.verify` alone: before arming there is no such time")
        } else {
            format!("no input is called `{name}`; known are: {}", known.join(", "))
        };
        reader.error_at(*step, pointer, message);
    }
    // What an outside worker does with them is its own affair.
    if flow.external.is_some() {
        return;
    }
    let used: BTreeSet<_> = names.iter().map(|named| named.name.as_str()).collect();
    for name in flow.inputs.keys().filter(|name| !used.contains(name.as_str())) {
        reader.warning(&format!("/cove/inputs/{name}"), "no step uses this input");
    }
}

/// Fence.md rules 7 and 9.
fn check_commit(reader: &mut Reader, flow: &Flow) {
    if let Some(commit) = flow.commit {
        let confirms = |step: &Step| step.action.is_wait() || !step.asserted.is_empty();
        if commit < flow.steps.len() && !flow.steps[commit..].iter().any(confirms) {
            let message = "nothing after the commit point confirms that it went out: add a waitForElement, \
                a waitForExpression or an asserted navigation";
            let number = flow.steps[commit].number;
            reader.error_at(Some(number), &format!("/steps/{number}"), message);
        }
    } else if flow.external.is_none() {
        reader.warning(
            "/steps",
            "no commit point: the flow is at-least-once, and an attempt that fails late is run again from its begin",
        );
        if flow.verify.is_some() {
            reader.warning("/cove/verify", "the flow has no commit point: its outcome is never unknown, nor verified");
        }
    }
    if flow.external.is_some() && !flow.steps.is_empty() {
        reader.warning("/steps", "an external flow's steps are not replayed: they only say what its worker does");
    }
}

/// Names that would overwrite each other.
fn check_twice(reader: &mut Reader, steps: &[Placed<'_>]) {
    let mut seen = BTreeSet::new();
    for Placed { step, pointer, number } in steps {
        let (kind, name) = match &step.action {
            Action::Extract { name, .. } => ("extract", name),
            Action::Screenshot { name } => ("screenshot", name),
            _ => continue,
        };
        if !seen.insert((kind, name)) {
            let message = format!("another {kind} of this flow is called `{name}`");
            reader.error_at(*number, &format!("{pointer}/parameters/name"), message);
        }
    }
}

/// A fixed host outside the list is found now; one with a template when it is rendered.
fn check_origins(reader: &mut Reader, origins: &[String], steps: &[Placed<'_>]) {
    for Placed { step, pointer, number } in steps {
        let Action::Navigate { url } = &step.action else { continue };
        let Some(fixed) = fixed_part(url).filter(|fixed| !is_new_tab(fixed)) else { continue };
        let message = match origin_of(fixed) {
            Some(origin) if !origins.is_empty() && !origins.contains(&origin) => {
                format!("{origin} is not in `cove.origins`")
            }
            Some(_) => continue,
            None => "an absolute http or https URL is expected".to_owned(),
        };
        reader.error_at(*number, &format!("{pointer}/url"), message);
    }
}

/// A `stopIf` that fires at a page where the flow itself goes.
fn check_stops(reader: &mut Reader, steps: &[Placed<'_>]) {
    for Placed { step, pointer, number } in steps {
        let Action::StopIf(stop) = &step.action else { continue };
        let StopWhen::UrlContains(text) = &stop.when else { continue };
        let reaches = |other: &&Placed<'_>| match &other.step.action {
            Action::Navigate { url } if url.names().is_empty() => url_contains(url.as_written(), text.as_written()),
            _ => false,
        };
        if let Some(own) = steps.iter().find(reaches).filter(|_| text.names().is_empty()) {
            let message = format!("the address of {} contains it: the flow stops at its own page", own.pointer);
            reader.warning_at(*number, &format!("{pointer}/parameters/url"), message);
        }
    }
}

/// A recording says which input goes into the page and never which file: otherwise whoever writes a
/// recording could publish any file that the browser's user can read.
fn check_uploads(reader: &mut Reader, inputs: &BTreeMap<String, InputSpec>, steps: &[Placed<'_>]) {
    for Placed { step, pointer, number } in steps {
        let Action::Upload { files, .. } = &step.action else { continue };
        for (at, file) in files.iter().enumerate() {
            let declared = file.sole_name().and_then(|name| inputs.get(name));
            if declared.is_some_and(|spec| spec.kind == InputType::File) {
                continue;
            }
            let message = "exactly `{{ name }}` of an input of type file is allowed, no path";
            reader.error_at(*number, &format!("{pointer}/parameters/files/{at}"), message);
        }
    }
}
