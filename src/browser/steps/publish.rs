//! The order around the commit point (fence.md rules 5 to 8).
//!
//! The element of the commit step is found and actionable, the picture before it is kept, what is already so is
//! noted, the gate commits `armed`, the input is dispatched once. Before the gate's yes, a cancel, the deadline or a
//! lost browser interrupts anything and the end is unarmed; after it nothing is interrupted but by the deadline or
//! the loss, and every end that is not confirmed is unknown.

use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::{AFTER_CONFIRMATION, Run, canceled, keep, keys, overdue};
use crate::browser::locate::{self, Found, Point, Wanted};
use crate::browser::{CommitGate, Mode, ReplayEnd};
use crate::model::flow::{Action, Step};
use crate::model::{Baseline, Failure, FailureCode, Proofs};

/// The element of the commit step, found and actionable; a key has none.
struct Aim {
    found: Option<(Found, Point)>,
    proofs: Proofs,
}

impl Run<'_> {
    pub(super) async fn publish(
        &mut self,
        mode: Mode,
        until: Instant,
        cancel: &CancellationToken,
        gate: &dyn CommitGate,
    ) -> ReplayEnd {
        let commit = self.flow.commit;
        let tab = self.tab;
        let prepared = tokio::select! {
            prepared = self.prepare(mode, commit) => prepared,
            () = cancel.cancelled() => Err(canceled()),
            () = sleep_until(until) => Err(overdue()),
            why = tab.lost() => Err(locate::lost(why)),
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
        self.proofs = Some(aim.proofs.clone());
        if let Err(failure) = gate.arm(aim.proofs.clone()).await {
            self.keep_failure(&failure).await;
            return ReplayEnd::Unarmed(failure);
        }
        // From here on the outside world may have changed.
        self.after_arming(commit, &aim, until).await
    }

    /// What is already so, every step before the commit point, then the aim at it and the picture before it.
    async fn prepare(&mut self, mode: Mode, commit: Option<usize>) -> Result<Option<Aim>, Failure> {
        let flow = self.flow;
        let baseline = match mode {
            Mode::Publish if commit.is_some() => self.baseline().await?,
            _ => Baseline::NotNeeded,
        };
        for step in &flow.steps[..commit.unwrap_or(flow.steps.len())] {
            self.step(step).await?;
            if !matches!(step.action, Action::Close) {
                self.inside_origins(step).await?;
            }
        }
        let Some(commit) = commit else { return Ok(None) };
        match self.aim(&flow.steps[commit], &flow.steps[commit + 1..], baseline).await {
            Ok(aim) => Ok(Some(aim)),
            Err(failure) => Err(self.signal_or(failure).await),
        }
    }

    async fn aim(&mut self, step: &Step, behind: &[Step], baseline: Baseline) -> Result<Aim, Failure> {
        let until = Instant::now() + step.timeout;
        let mut found = None;
        if let Action::KeyDown { key } = &step.action {
            keys::known(key)?;
        }
        if let Action::Click { selectors, offset, .. } = &step.action {
            let wanted = Wanted::render(selectors, self.values)?;
            found = Some(self.looking(locate::actionable(self.tab, &wanted, *offset, until)).await?);
        }
        self.screenshot("before.png").await.map_err(|why| {
            Failure::new(FailureCode::EvidenceFailed, format!("the picture before the commit point: {why}"))
        })?;
        let open_waits = self.open_waits(behind).await?;
        // All that took a while: the same element must still be where it was found, or be found again.
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
        if let Some(signal) = self.signal().await {
            return Err(signal);
        }
        self.armed_at = Some(self.page_mark(step).await?);
        Ok(Aim { found, proofs: Proofs { baseline, open_waits } })
    }

    async fn after_arming(&mut self, commit: usize, aim: &Aim, mut until: Instant) -> ReplayEnd {
        let flow = self.flow;
        let confirms = |step: &Step| step.action.is_wait() || !step.asserted.is_empty();
        let last = flow.steps.iter().rposition(confirms).filter(|last| *last >= commit).unwrap_or(commit);
        let tab = self.tab;
        let fired = tokio::select! {
            fired = self.fire(&flow.steps[commit], aim) => fired,
            () = sleep_until(until) => Err(overdue()),
            why = tab.lost() => Err(locate::lost(why)),
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
                why = tab.lost() => Err(locate::lost(why)),
            };
            let Err(failure) = done else { continue };
            let ends = self.is_signal(&failure) || tab.is_lost();
            let only_evidence = matches!(step.action, Action::Extract { .. } | Action::Screenshot { .. });
            if position <= last && (ends || !only_evidence) {
                return self.unknown(&failure).await;
            }
            self.notes.push(format!("step {}: {failure}", step.number));
            if ends {
                break;
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
        let fired = self.unless_signaled(fired).await;
        let selector = aim.found.as_ref().map(|(found, _)| found.selector.clone());
        let outcome = fired.as_ref().map_or_else(|failure| failure.code.name(), |()| "ok");
        let detail = fired.as_ref().err().map(|failure| failure.detail.as_str());
        self.trace(step, began, selector, outcome, detail).await;
        fired
    }

    pub(super) async fn confirmed(&mut self) -> ReplayEnd {
        let named = self.named_url();
        let url = match named {
            Some(url) => Some(url),
            None => timeout(keep::KEEPING_DEADLINE, self.tab.url()).await.ok().filter(|url| !url.is_empty()),
        };
        ReplayEnd::Confirmed { url, result: std::mem::take(&mut self.result), notes: std::mem::take(&mut self.notes) }
    }

    /// The address among what was extracted.
    pub(super) fn named_url(&self) -> Option<String> {
        let named = self.result.iter().find(|(name, _)| name.to_ascii_lowercase().ends_with("url"));
        named.map(|(_, url)| url.clone())
    }

    pub(super) async fn unknown(&mut self, failure: &Failure) -> ReplayEnd {
        self.keep_after().await;
        self.keep_failure(failure).await;
        let code = match failure.code {
            FailureCode::BrowserLost => FailureCode::LostAfterCommit,
            _ => FailureCode::ConfirmationMissing,
        };
        ReplayEnd::Unknown(Failure::new(code, failure.to_string()))
    }
}
