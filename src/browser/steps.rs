//! The replay: the steps of a flow in one session, and the order around the commit point.
//!
//! The engine's attempts call it through [`super::replay`]. The order is the fence's (fence.md rule 5): the
//! element of the commit step is found and actionable, the picture before it is kept, the gate commits
//! `armed`, the input is dispatched once. Before the gate's yes, a cancel, the deadline or a lost browser
//! interrupts anything and the end is unarmed; after it nothing is interrupted but by the deadline or
//! the loss, and every end that is not confirmed is unknown. There is no retry in here.

mod act;
mod change;
mod keep;
mod keys;
mod navigate;
mod wait;

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::json;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use super::cdp::Tab;
use super::evidence::EvidenceWriter;
use super::locate::{self, Found, Point, Wanted};
use super::{CommitGate, Mode, Replay, ReplayEnd, Replayed, Session};
use crate::model::flow::{Action, Flow, Step};
use crate::model::{Clock, Failure, FailureCode, InputValue, SystemClock};

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
}

/// The element of the commit step, found and actionable; a key has none.
struct Aim {
    found: Option<(Found, Point)>,
}

/// Runs `replay` in `session`. Every end is a [`ReplayEnd`].
pub async fn run(session: &Session, replay: Replay<'_>, gate: &dyn CommitGate) -> Replayed {
    let Replay { flow, inputs, mode, evidence: folder, deadline, cancel } = replay;
    let until = Instant::now() + deadline;
    // What is optional and left out renders as nothing.
    let mut values: BTreeMap<_, _> = flow.inputs.keys().map(|name| (name.clone(), String::new())).collect();
    values.extend(inputs.iter().map(|(name, input)| (name.clone(), input.render())));
    let evidence = EvidenceWriter::new(folder, secrets(flow, inputs));
    let surviving = mode == Mode::ConfirmOnly;
    let attached = tokio::select! {
        attached = Tab::attach(session, surviving) => attached,
        () = cancel.cancelled(), if !surviving => Err(canceled()),
    };
    let tab = match attached {
        Ok(tab) => tab,
        Err(failure) if surviving => return ended(ReplayEnd::Unknown(failure), evidence),
        Err(failure) => return ended(ReplayEnd::Unarmed(failure), evidence),
    };
    let mut run = Run {
        tab: &tab,
        flow,
        values: &values,
        evidence,
        result: BTreeMap::new(),
        notes: Vec::new(),
        modifiers: 0,
        armed_at: None,
        remark: None,
    };
    let end = match mode {
        Mode::Publish | Mode::StopBeforeCommit => run.publish(mode, until, &cancel, gate).await,
        Mode::ConfirmOnly => run.confirm_only(until).await,
    };
    run.keep_console().await;
    ended(end, run.evidence)
}

/// The end as others may see it: without a secret, and with a word about evidence that is missing.
fn ended(mut end: ReplayEnd, evidence: EvidenceWriter<'_>) -> Replayed {
    match &mut end {
        ReplayEnd::Confirmed { notes, .. } => notes.iter_mut().for_each(|note| *note = evidence.masked(note)),
        ReplayEnd::Unarmed(failure) | ReplayEnd::Unknown(failure) => failure.detail = evidence.masked(&failure.detail),
    }
    let (evidence, dropped) = evidence.finish();
    if let ReplayEnd::Confirmed { notes, .. } = &mut end
        && dropped > 0
    {
        notes.push(format!("{dropped} files of evidence did not fit its byte budget"));
    }
    Replayed { end, evidence }
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

impl Run<'_> {
    async fn publish(
        &mut self,
        mode: Mode,
        until: Instant,
        cancel: &CancellationToken,
        gate: &dyn CommitGate,
    ) -> ReplayEnd {
        let commit = self.flow.commit;
        let tab = self.tab;
        let prepared = tokio::select! {
            prepared = self.prepare(commit) => prepared,
            () = cancel.cancelled() => Err(canceled()),
            () = sleep_until(until) => Err(overdue()),
            () = tab.lost() => Err(locate::lost("its connection closed")),
        };
        let aim = match prepared {
            Ok(aim) => aim,
            Err(failure) => {
                // A page that is still to come would hold the picture back. Once armed nothing is stopped.
                if failure.code != FailureCode::Canceled && !tab.is_lost() {
                    tab.stop_loading().await;
                }
                self.keep_failure(&failure).await;
                return ReplayEnd::Unarmed(failure);
            }
        };
        let (Some(commit), Some(aim)) = (commit, aim) else { return self.confirmed().await };
        if mode == Mode::StopBeforeCommit {
            self.notes.push("stopped before the commit point".to_owned());
            return self.confirmed().await;
        }
        if let Err(failure) = gate.arm().await {
            self.keep_failure(&failure).await;
            return ReplayEnd::Unarmed(failure);
        }
        // From here on the outside world may have changed.
        self.after_arming(commit, &aim, until).await
    }

    /// Every step before the commit point, then the aim at it and the picture before it.
    async fn prepare(&mut self, commit: Option<usize>) -> Result<Option<Aim>, Failure> {
        let flow = self.flow;
        for step in &flow.steps[..commit.unwrap_or(flow.steps.len())] {
            self.step(step).await?;
            if !matches!(step.action, Action::Close) {
                self.inside_origins(step).await?;
            }
        }
        match commit {
            Some(commit) => self.aim(&flow.steps[commit]).await.map(Some),
            None => Ok(None),
        }
    }

    async fn aim(&mut self, step: &Step) -> Result<Aim, Failure> {
        let until = Instant::now() + step.timeout;
        let mut found = None;
        if let Action::KeyDown { key } = &step.action {
            keys::known(key)?;
        }
        if let Action::Click { selectors, offset, .. } = &step.action {
            let wanted = Wanted::render(selectors, self.values)?;
            found = Some(locate::actionable(self.tab, &wanted, *offset, until).await?);
        }
        self.screenshot("before.png").await.map_err(|why| {
            Failure::new(FailureCode::EvidenceFailed, format!("the picture before the commit point: {why}"))
        })?;
        // The picture took a while: the same element must still be where it was found, or be found again.
        if let (Some((element, point)), Action::Click { selectors, offset, .. }) = (&mut found, &step.action) {
            match locate::point(self.tab, &element.handle, *offset).await {
                Ok(Ok(now)) => *point = now,
                _ => {
                    let wanted = Wanted::render(selectors, self.values)?;
                    found = Some(locate::actionable(self.tab, &wanted, *offset, until).await?);
                }
            }
        }
        self.inside_origins(step).await?;
        self.armed_at = Some(self.page_mark(step).await?);
        Ok(Aim { found })
    }

    async fn after_arming(&mut self, commit: usize, aim: &Aim, mut until: Instant) -> ReplayEnd {
        let flow = self.flow;
        let confirms = |step: &Step| step.action.is_wait() || !step.asserted.is_empty();
        let last = flow.steps.iter().rposition(confirms).filter(|last| *last >= commit).unwrap_or(commit);
        let tab = self.tab;
        let fired = tokio::select! {
            fired = self.fire(&flow.steps[commit], aim) => fired,
            () = sleep_until(until) => Err(overdue()),
            () = tab.lost() => Err(locate::lost("its connection closed")),
        };
        if let Err(failure) = fired {
            return self.unknown(&failure).await;
        }
        for (position, step) in flow.steps.iter().enumerate().skip(commit + 1) {
            if position == last + 1 {
                until = until.min(Instant::now() + AFTER_CONFIRMATION);
                self.keep_after().await;
            }
            let done = tokio::select! {
                done = self.step(step) => done,
                () = sleep_until(until) => Err(overdue()),
                () = tab.lost() => Err(locate::lost("its connection closed")),
            };
            let Err(failure) = done else { continue };
            let only_evidence = matches!(step.action, Action::Extract { .. } | Action::Screenshot { .. });
            if position <= last && !only_evidence {
                return self.unknown(&failure).await;
            }
            self.notes.push(format!("step {}: {failure}", step.number));
            if tab.is_lost() && position > last {
                break;
            }
            if tab.is_lost() {
                return self.unknown(&failure).await;
            }
        }
        if last + 1 >= flow.steps.len() {
            self.keep_after().await;
        }
        self.confirmed().await
    }

    /// The input at the commit point, dispatched once; its asserted navigations are confirmations.
    async fn fire(&mut self, step: &Step, aim: &Aim) -> Result<(), Failure> {
        let began = Instant::now();
        let fired = match (&step.action, &aim.found) {
            (Action::Click { button, count, .. }, Some((_, point))) => self.click(*point, *button, *count).await,
            (Action::KeyDown { key }, _) => self.key_down(key).await,
            _ => Err(Failure::new(FailureCode::Internal, "a commit point that is no click and no key")),
        };
        let fired = match fired {
            Ok(()) => self.asserted(step, self.armed_at.clone()).await,
            Err(failure) => Err(failure),
        };
        let selector = aim.found.as_ref().map(|(found, _)| found.selector.clone());
        self.trace(step, began, selector, fired.as_ref().err()).await;
        fired
    }

    /// Fence.md rule 15: the page survived a restart of the daemon; nothing is dispatched.
    async fn confirm_only(&mut self, until: Instant) -> ReplayEnd {
        let flow = self.flow;
        let Some(commit) = flow.commit else {
            let failure = Failure::new(FailureCode::RestartedAfterCommit, "the flow has no commit point");
            return self.unknown(&failure).await;
        };
        let tab = self.tab;
        let mut confirmations = 0;
        for step in &flow.steps[commit + 1..] {
            let passive = matches!(step.action, Action::Extract { .. } | Action::Screenshot { .. });
            if !step.action.is_wait() && !passive {
                continue;
            }
            let done = tokio::select! {
                done = self.step(step) => done,
                () = sleep_until(until) => Err(overdue()),
                () = tab.lost() => Err(locate::lost("its connection closed")),
            };
            match done {
                Ok(()) => confirmations += u32::from(step.action.is_wait()),
                Err(failure) if passive => self.notes.push(format!("step {}: {failure}", step.number)),
                Err(failure) => return self.unknown(&failure).await,
            }
        }
        if confirmations == 0 {
            let detail = "the page that survived cannot confirm it: the flow waits for nothing after its commit point";
            let failure = Failure::new(FailureCode::RestartedAfterCommit, detail);
            return self.unknown(&failure).await;
        }
        self.keep_after().await;
        self.confirmed().await
    }

    async fn confirmed(&mut self) -> ReplayEnd {
        let named = self.result.iter().find(|(name, _)| name.to_ascii_lowercase().ends_with("url"));
        let url = match named {
            Some((_, url)) => Some(url.clone()),
            None => timeout(keep::KEEPING_DEADLINE, self.tab.url()).await.ok().filter(|url| !url.is_empty()),
        };
        ReplayEnd::Confirmed { url, result: std::mem::take(&mut self.result), notes: std::mem::take(&mut self.notes) }
    }

    async fn unknown(&mut self, failure: &Failure) -> ReplayEnd {
        self.keep_after().await;
        self.keep_failure(failure).await;
        let code = match failure.code {
            FailureCode::BrowserLost => FailureCode::LostAfterCommit,
            _ => FailureCode::ConfirmationMissing,
        };
        ReplayEnd::Unknown(Failure::new(code, failure.to_string()))
    }

    /// One step with its line in the trace.
    async fn step(&mut self, step: &Step) -> Result<(), Failure> {
        let began = Instant::now();
        let mut selector = None;
        let done = self.performed(step, &mut selector).await;
        self.trace(step, began, selector, done.as_ref().err()).await;
        done
    }

    async fn performed(&mut self, step: &Step, selector: &mut Option<String>) -> Result<(), Failure> {
        let before = match &self.armed_at {
            _ if step.asserted.is_empty() => None,
            // What sends nothing itself waits for what was sent before it: the page may be there already.
            Some(mark) if !step.action.may_navigate() => Some(mark.clone()),
            _ => Some(self.page_mark(step).await?),
        };
        let until = Instant::now() + step.timeout + STEP_GRACE;
        match timeout_at(until, self.perform(step, selector)).await {
            Ok(done) => done?,
            Err(_) => return Err(Failure::new(step.action.hung(), "the page did not answer in the step's time")),
        }
        self.asserted(step, before).await
    }

    async fn trace(&mut self, step: &Step, began: Instant, selector: Option<String>, failure: Option<&Failure>) {
        let took = began.elapsed();
        let started_at = SystemClock.now().as_millis().saturating_sub(u64::try_from(took.as_millis()).unwrap_or(0));
        let url = if self.tab.is_lost() { String::new() } else { self.tab.url().await };
        let line = json!({
            "step": step.number,
            "type": step.action.name(),
            "selector": selector,
            "started_at": crate::model::Timestamp::from_millis(started_at),
            "duration_ms": u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
            "url": super::cdp::without_query(&url),
            "outcome": failure.map_or("ok", |failure| failure.code.name()),
            "detail": failure.map(|failure| failure.detail.clone()).or_else(|| self.remark.take()),
        });
        self.evidence.trace(&line).await;
    }
}
