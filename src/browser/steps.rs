//! The replay: the steps of a flow in one session, each with its line in the trace.
//!
//! The engine's attempts call it through [`super::replay`], and its looks at an unknown outcome through
//! [`super::verify`]. `publish.rs` has the order around the commit point, `confirm.rs` what is left of it on a page
//! that survived a restart, `verify.rs` the read-only look; the others are what steps do. There is no retry in here.

mod act;
mod change;
mod confirm;
mod keep;
mod keys;
mod navigate;
mod optional;
mod publish;
mod signals;
mod verify;
mod wait;

use std::collections::BTreeMap;
use std::sync::OnceLock;
use std::time::Duration;

use serde_json::json;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::cdp::Tab;
use super::evidence::EvidenceWriter;
use super::{CommitGate, Mode, Replay, ReplayEnd, Replayed, Session};
use crate::model::flow::{Action, Flow, Step};
use crate::model::{Clock, Failure, FailureCode, InputValue, Proofs, SystemClock};
pub use verify::verify;

/// A page that hangs must not hang its step, whose own message about its timeout is the better one.
const STEP_GRACE: Duration = Duration::from_secs(1);

/// For everything behind the last confirmation: it went out, and that is to be written down soon.
const AFTER_CONFIRMATION: Duration = Duration::from_secs(10);

/// One replay under way.
struct Run<'a> {
    tab: &'a Tab,
    flow: &'a Flow,
    values: &'a BTreeMap<String, String>,
    evidence: EvidenceWriter<'a>,
    result: BTreeMap<String, String>,
    notes: Vec<String>,
    /// Keys held down, as CDP counts them.
    modifiers: i64,
    /// The page right before arming: an asserted navigation from there on confirms only if it left this one.
    armed_at: Option<navigate::PageMark>,
    /// What the trace says of a step that passed all the same.
    remark: Option<String>,
    /// Every `stopIf` that was passed.
    stops: Vec<signals::Stop>,
    /// What one of them said.
    stopped: OnceLock<Failure>,
    /// The last wait that timed out had looked at the page.
    looked: bool,
    /// The steps are those of the look before the flow.
    in_baseline: bool,
    /// The `optional` whose steps are run.
    within: Option<usize>,
    /// What the gate was given.
    proofs: Option<Proofs>,
    /// How long each step took.
    steps: Vec<Duration>,
}

/// Runs `replay` in `session`. Every end is a [`ReplayEnd`].
pub async fn run(session: &Session, replay: Replay<'_>, gate: &dyn CommitGate) -> Replayed {
    let Replay { flow, inputs, mode, evidence: folder, deadline, cancel, attached, open_waits } = replay;
    let until = Instant::now() + deadline.min(flow.max_duration);
    let values = values(flow, inputs);
    let evidence = EvidenceWriter::new(folder, secrets(flow, inputs));
    let surviving = mode == Mode::ConfirmOnly;
    let no_run = |failure| match mode {
        Mode::ConfirmOnly => ReplayEnd::Unknown(failure),
        Mode::Publish | Mode::StopBeforeCommit => ReplayEnd::Unarmed(failure),
    };
    if flow.external.is_some() {
        let failure = Failure::new(FailureCode::FlowInvalid, "the flow is for outside workers: it is not replayed");
        return ended(no_run(failure), evidence, Sides::default());
    }
    let tab = tokio::select! {
        tab = Tab::attach(session, surviving, &flow.origins) => tab,
        () = cancel.cancelled(), if !surviving => Err(canceled()),
        () = sleep_until(until) => Err(overdue()),
    };
    let tab = match tab {
        Ok(tab) => tab,
        Err(failure) => return ended(no_run(failure), evidence, Sides::default()),
    };
    attached.cancel();
    let mut run = Run::new(&tab, flow, &values, evidence);
    let end = match mode {
        Mode::Publish | Mode::StopBeforeCommit => run.publish(mode, until, &cancel, gate).await,
        Mode::ConfirmOnly => run.confirm_only(until, open_waits).await,
    };
    run.keep_console().await;
    let sides = Sides { stopped: run.stopped.into_inner(), proofs: run.proofs, steps: run.steps };
    ended(end, run.evidence, sides)
}

/// What a replay says beside its end.
#[derive(Default)]
struct Sides {
    stopped: Option<Failure>,
    proofs: Option<Proofs>,
    steps: Vec<Duration>,
}

/// The end as others may see it: without a secret, and with a word about evidence that is missing.
fn ended(mut end: ReplayEnd, evidence: EvidenceWriter<'_>, sides: Sides) -> Replayed {
    let Sides { mut stopped, proofs, steps } = sides;
    match &mut end {
        ReplayEnd::Confirmed { notes, .. } => notes.iter_mut().for_each(|note| *note = evidence.masked(note)),
        ReplayEnd::Unarmed(failure) | ReplayEnd::Unknown(failure) => failure.detail = evidence.masked(&failure.detail),
    }
    if let Some(failure) = &mut stopped {
        failure.detail = evidence.masked(&failure.detail);
    }
    let (evidence, dropped) = evidence.finish();
    if let ReplayEnd::Confirmed { notes, .. } = &mut end
        && dropped > 0
    {
        notes.push(format!("{dropped} files of evidence did not fit its byte budget"));
    }
    Replayed { end, evidence, stopped, proofs, steps }
}

/// What is optional and left out renders as nothing.
fn values(flow: &Flow, inputs: &BTreeMap<String, InputValue>) -> BTreeMap<String, String> {
    let mut values: BTreeMap<_, _> = flow.inputs.keys().map(|name| (name.clone(), String::new())).collect();
    values.extend(inputs.iter().map(|(name, input)| (name.clone(), input.render())));
    values
}

fn secrets(flow: &Flow, inputs: &BTreeMap<String, InputValue>) -> Vec<String> {
    let secret = |name: &&String| flow.inputs.get(*name).is_some_and(|spec| spec.secret);
    inputs.keys().filter(secret).filter_map(|name| inputs.get(name)).map(InputValue::render).collect()
}

fn canceled() -> Failure {
    Failure::new(FailureCode::Canceled, "interrupted before the commit point")
}

fn overdue() -> Failure {
    Failure::new(FailureCode::DeadlineExceeded, "the attempt took longer than the flow's max_duration allows")
}

impl<'a> Run<'a> {
    const fn new(
        tab: &'a Tab,
        flow: &'a Flow,
        values: &'a BTreeMap<String, String>,
        evidence: EvidenceWriter<'a>,
    ) -> Self {
        Self {
            tab,
            flow,
            values,
            evidence,
            result: BTreeMap::new(),
            notes: Vec::new(),
            modifiers: 0,
            armed_at: None,
            remark: None,
            stops: Vec::new(),
            stopped: OnceLock::new(),
            looked: false,
            in_baseline: false,
            within: None,
            proofs: None,
            steps: Vec::new(),
        }
    }

    /// One step with its line in the trace, and a look at what may end the flow.
    async fn step(&mut self, step: &Step) -> Result<(), Failure> {
        self.within = None;
        match &step.action {
            Action::Optional { steps, appears } => self.optional(step, steps, *appears).await,
            _ => self.single(step, step.timeout).await,
        }
    }

    /// The same for a step that holds no other; `limit` is its time.
    async fn single(&mut self, step: &Step, limit: Duration) -> Result<(), Failure> {
        let began = Instant::now();
        let mut selector = None;
        let done = self.performed(step, limit, &mut selector).await;
        // A page that was closed says nothing any more.
        let done = if matches!(step.action, Action::Close) { done } else { self.unless_signaled(done).await };
        let outcome = done.as_ref().map_or_else(|failure| failure.code.name(), |()| "ok");
        self.trace(step, began, selector, outcome, done.as_ref().err().map(|failure| failure.detail.as_str())).await;
        done
    }

    async fn performed(&mut self, step: &Step, limit: Duration, selector: &mut Option<String>) -> Result<(), Failure> {
        let before = match &self.armed_at {
            _ if step.asserted.is_empty() => None,
            // What sends nothing itself waits for what was sent before it: the page may be there already.
            Some(mark) if !step.action.may_navigate() => Some(mark.clone()),
            _ => Some(self.page_mark(step).await?),
        };
        let until = Instant::now() + limit;
        match timeout_at(until + STEP_GRACE, self.perform(step, until, selector)).await {
            Ok(done) => done?,
            Err(_) => return Err(Failure::new(step.action.hung(), "the page did not answer in the step's time")),
        }
        self.asserted(step, before).await
    }

    async fn trace(
        &mut self,
        step: &Step,
        began: Instant,
        selector: Option<String>,
        outcome: &str,
        detail: Option<&str>,
    ) {
        let took = began.elapsed();
        self.steps.push(took);
        let started_at = SystemClock.now().as_millis().saturating_sub(u64::try_from(took.as_millis()).unwrap_or(0));
        let url = if self.tab.is_lost() { String::new() } else { self.tab.url().await };
        let mut line = json!({
            "step": self.within.unwrap_or(step.number),
            "type": step.action.name(),
            "selector": selector,
            "started_at": crate::model::Timestamp::from_millis(started_at),
            "duration_ms": u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
            "url": super::cdp::without_query(&url),
            "outcome": outcome,
            "detail": detail.map(str::to_owned).or_else(|| self.remark.take()),
        });
        if self.within.is_some() {
            line["inner"] = step.number.into();
        }
        if self.in_baseline {
            line["part"] = "baseline".into();
        }
        self.evidence.trace(&line).await;
    }
}
