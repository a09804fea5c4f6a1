//! `cove.verify`: the steps that look, read-only, whether it was published (fence.md rule 12).
//!
//! What is read here can tell "not there" from "cannot tell": the last wait is the proof, and `signed_in` is an
//! earlier wait that a login page does not pass. Only what looks may stand in it; a banner in the way may be closed.

use serde_json::{Map, Value};

use super::parse::{MAX_STEPS, Named};
use super::reader::Reader;
use super::settings::ARMED_AT;
use super::steps::{Parsed, Place, StepReader};
use super::{Action, Step, Verify};

const STEPS: &str = "/cove/verify/steps";
const SIGNED_IN: &str = "/cove/verify/signed_in";

/// A verify, and the names that its templates use.
pub(super) struct RawVerify {
    pub verify: Verify,
    pub names: Vec<Named>,
}

pub(super) fn read(reader: &mut Reader, verify: &Value, timeout: u64) -> Option<RawVerify> {
    let verify = reader.object(verify, "/cove/verify")?;
    reader.only(verify, "/cove/verify", &["signed_in", "steps"]);
    let listed = reader.list(verify, "/cove/verify", "steps");
    if listed.is_empty() || listed.len() > MAX_STEPS {
        reader.error(STEPS, format!("a list of 1 to {MAX_STEPS} steps is required"));
        return None;
    }
    let mut steps: Vec<Step> = Vec::new();
    let mut names = Vec::new();
    for (number, step) in listed.iter().enumerate() {
        let at = format!("{STEPS}/{number}");
        let place = Place::Verify;
        let Some(step) = reader.object(step, &at) else { continue };
        let Some(Parsed::Step(step, uses)) = (StepReader { reader, step, at: &at, number, timeout, place }).read()
        else {
            continue;
        };
        let named = |(pointer, name)| Named { step: None, pointer, name, in_verify: true };
        names.extend(uses.into_iter().map(named));
        steps.push(*step);
    }
    let signed_in = read_signed_in(reader, verify, listed.len());
    if steps.len() < listed.len() {
        return None;
    }
    let uses_armed_at = names.iter().any(|named| named.name == ARMED_AT);
    let verify = Verify { signed_in, steps, uses_armed_at };
    check_proof(reader, &verify);
    check_signed_in(reader, &verify);
    Some(RawVerify { verify, names })
}

fn read_signed_in(reader: &mut Reader, verify: &Map<String, Value>, steps: usize) -> Option<usize> {
    if !verify.contains_key("signed_in") {
        let message = "without `signed_in` a proof that is not seen is inconclusive: nobody knows whether the page was \
            that of a signed-in user";
        reader.warning("/cove/verify", message);
    }
    let numbers = 0..=steps as u64 - 1;
    let number = reader.integer_in(verify, "/cove/verify", "signed_in", &numbers)?;
    usize::try_from(number).ok()
}

fn check_proof(reader: &mut Reader, verify: &Verify) {
    let tells = |step: &Step| matches!(step.action, Action::Extract { .. } | Action::Screenshot { .. });
    let last = verify.steps.iter().rposition(|step| !tells(step));
    match last.map(|last| &verify.steps[last]) {
        Some(proof) if !proof.action.is_wait() => {
            let message = "the last step is the proof: a waitForElement or a waitForExpression, behind which only \
                extract and screenshot may stand";
            reader.error(&format!("{STEPS}/{}", proof.number), message);
        }
        Some(proof) if !proof.asserted.is_empty() => {
            let message = "the proof is what the page shows: it asserts no navigation";
            reader.error(&format!("{STEPS}/{}/assertedEvents", proof.number), message);
        }
        Some(_) => {}
        None => reader.error(STEPS, "a proof is required: a waitForElement or a waitForExpression"),
    }
}

fn check_signed_in(reader: &mut Reader, verify: &Verify) {
    let Some(number) = verify.signed_in else { return };
    if number >= verify.proof() {
        reader.error(SIGNED_IN, "it is the number of a wait before the proof, which a login page does not pass");
    } else if !verify.steps[number].action.is_wait() {
        let message = format!(
            "step {number} is a {}, which a login page passes as well: name a waitForElement or waitForExpression",
            verify.steps[number].action.name()
        );
        reader.error(SIGNED_IN, message);
    } else {
        let behind = &verify.steps[number + 1..verify.proof()];
        if let Some(step) = behind.iter().find(|step| matches!(step.action, Action::Navigate { .. })) {
            let message = format!(
                "step {} leaves the signed-in view before the proof: a login there would look like a page without it; \
                 put the wait for the signed-in view behind it",
                step.number
            );
            reader.warning(SIGNED_IN, message);
        }
    }
}

#[cfg(test)]
mod tests;
