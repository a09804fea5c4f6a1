//! The read-only look whether it was published (fence.md rule 12), after an unknown outcome and, once, before a flow.
//!
//! *Not there* is the dangerous answer: it may lead to a second click. It is given when every earlier step passed, one
//! of them proving the signed-in view, and the proof alone timed out, on a page that answered whole and without an
//! error and still shows that view. Everything else is inconclusive. Once the proof was seen, nothing makes it unseen.

use std::time::Duration;

use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::wait::Look;
use super::{AFTER_CONFIRMATION, Run, keep, secrets, values};
use crate::browser::cdp::Tab;
use crate::browser::evidence::EvidenceWriter;
use crate::browser::locate;
use crate::browser::{Session, Verified, VerifyAnswer, Verifying};
use crate::model::flow::{Action, Step, Verify};
use crate::model::{Baseline, Failure, FailureCode};

/// Its files stand apart from those of the attempt.
const FILES: &str = "verify-";
/// The time of arming, in templates.
const ARMED_AT: &str = "armed_at";
/// From here on a page is an error's.
const FIRST_BAD_STATUS: u64 = 400;

/// For a second look at what was seen before.
const AGAIN: Duration = Duration::from_secs(2);

/// What the page is on which a proof was not seen.
const PAGE: &str = "[location.protocol, document.readyState, \
    performance.getEntriesByType('navigation')[0]?.responseStatus ?? 0]";

/// Before whoever reads it knows whether it proves anything.
enum Seen {
    There,
    NotThere(String),
    Unclear(Failure),
}

/// Runs the flow's verify. Every end is a [`VerifyAnswer`].
pub async fn verify(session: &Session, verifying: Verifying<'_>) -> Verified {
    let Verifying { flow, inputs, evidence: folder, deadline, cancel, attached, armed_at } = verifying;
    let until = Instant::now() + deadline.min(flow.max_duration);
    let mut values = values(flow, inputs);
    values.insert(ARMED_AT.to_owned(), armed_at.to_string());
    let evidence = EvidenceWriter::new(folder, secrets(flow, inputs)).with_prefix(FILES);
    let Some(steps) = &flow.verify else {
        let failure = Failure::new(FailureCode::FlowInvalid, "the flow has no `verify`");
        return verified(VerifyAnswer::Inconclusive(failure), evidence, None);
    };
    let tab = tokio::select! {
        tab = Tab::attach(session, false, &flow.origins) => tab,
        failure = interrupted(&cancel, until) => Err(failure),
    };
    let tab = match tab {
        Ok(tab) => tab,
        Err(failure) => return verified(VerifyAnswer::Inconclusive(failure), evidence, None),
    };
    attached.cancel();
    let mut run = Run::new(&tab, flow, &values, evidence);
    let seen = tokio::select! {
        seen = run.look_for_proof(steps) => seen,
        failure = interrupted(&cancel, until) => Seen::Unclear(failure),
        why = tab.lost() => Seen::Unclear(locate::lost(why)),
    };
    let answer = match seen {
        Seen::There => {
            tokio::select! {
                () = run.tell_of_proof(steps) => {}
                _ = interrupted(&cancel, until) => {}
                _ = tab.lost() => {}
            }
            VerifyAnswer::Found { url: run.named_url(), result: std::mem::take(&mut run.result) }
        }
        Seen::NotThere(why) => {
            run.keep_failure(&Failure::new(FailureCode::WaitTimedOut, &*why)).await;
            VerifyAnswer::NotFound(why)
        }
        Seen::Unclear(failure) => {
            run.keep_failure(&failure).await;
            VerifyAnswer::Inconclusive(failure)
        }
    };
    if !cancel.is_cancelled() {
        run.keep_console().await;
    }
    verified(answer, run.evidence, run.stopped.into_inner())
}

/// The answer as others may see it: without a secret.
fn verified(mut answer: VerifyAnswer, evidence: EvidenceWriter<'_>, mut stopped: Option<Failure>) -> Verified {
    match &mut answer {
        VerifyAnswer::Found { .. } => {}
        VerifyAnswer::NotFound(why) => *why = evidence.masked(why),
        VerifyAnswer::Inconclusive(failure) => failure.detail = evidence.masked(&failure.detail),
    }
    if let Some(failure) = &mut stopped {
        failure.detail = evidence.masked(&failure.detail);
    }
    Verified { answer, evidence: evidence.finish().0, stopped }
}

async fn interrupted(cancel: &CancellationToken, until: Instant) -> Failure {
    tokio::select! {
        () = cancel.cancelled() => Failure::new(FailureCode::Canceled, "the verify was interrupted"),
        () = sleep_until(until) => {
            Failure::new(FailureCode::DeadlineExceeded, "the verify took longer than it may")
        }
    }
}

impl Run<'_> {
    /// What a proof of the flow says before the flow. What ends an attempt ends it here as well; that nothing can be
    /// said does not.
    pub(super) async fn baseline(&mut self) -> Result<Baseline, Failure> {
        let flow = self.flow;
        let Some(verify) = flow.verify.as_ref().filter(|verify| !verify.uses_armed_at) else {
            return Ok(Baseline::NotNeeded);
        };
        self.in_baseline = true;
        let seen = self.look_for_proof(verify).await;
        let baseline = match seen {
            Seen::There => Baseline::AlreadyTrue,
            Seen::NotThere(_) => Baseline::Clear,
            Seen::Unclear(failure) if self.is_signal(&failure) || self.tab.is_lost() => return Err(failure),
            Seen::Unclear(failure) => {
                tracing::debug!(%failure, "the look before the flow tells nothing");
                Baseline::Unknown
            }
        };
        self.in_baseline = false;
        // Its own alone are in force in the flow, and its own results are told.
        self.stops.clear();
        self.result.clear();
        self.leave().await;
        Ok(baseline)
    }

    /// The steps of a verify up to its proof.
    async fn look_for_proof(&mut self, verify: &Verify) -> Seen {
        let at = verify.proof();
        let Some(proof) = verify.steps.get(at) else {
            return Seen::Unclear(Failure::new(FailureCode::FlowInvalid, "the verify waits for nothing"));
        };
        for step in &verify.steps[..at] {
            if let Err(failure) = self.look_step(step).await {
                return Seen::Unclear(failure);
            }
        }
        let failure = match self.look_step(proof).await {
            Ok(()) => return Seen::There,
            Err(failure) => failure,
        };
        let Some(signed_in) = verify.signed_in.filter(|_| self.looked && failure.code == FailureCode::WaitTimedOut)
        else {
            return Seen::Unclear(failure);
        };
        let sound = match self.sound_page().await {
            Ok(()) => self.still_signed_in(&verify.steps[signed_in..at]).await,
            Err(why) => Err(why),
        };
        match sound {
            Ok(()) => Seen::NotThere(failure.detail),
            Err(why) => Seen::Unclear(Failure::new(failure.code, format!("{}; {why}", failure.detail))),
        }
    }

    /// Whether what proved the signed-in view is still to be seen: the page may have gone to a login by itself. It is
    /// the first of the steps; where one of them navigates it was another page's.
    async fn still_signed_in(&self, steps: &[Step]) -> Result<(), String> {
        let navigates = |step: &Step| matches!(step.action, Action::Navigate { .. });
        let Some(step) = steps.first().filter(|_| !steps.iter().any(navigates)) else { return Ok(()) };
        let Some(wait) = self.wait_of(&step.action).map_err(|failure| failure.detail)? else { return Ok(()) };
        match timeout(keep::KEEPING_DEADLINE, wait.look(self.tab, Instant::now() + AGAIN)).await {
            Ok(Ok(Look::True)) => Ok(()),
            Ok(Ok(Look::False(why) | Look::Threw(why) | Look::Unclear(why))) => {
                Err(format!("the signed-in view is gone: {why}"))
            }
            Ok(Err(failure)) => Err(failure.detail),
            Err(_) => Err("the page does not answer".to_owned()),
        }
    }

    async fn look_step(&mut self, step: &Step) -> Result<(), Failure> {
        self.step(step).await?;
        self.inside_origins(step).await?;
        if matches!(step.action, Action::Navigate { .. }) {
            self.sound_page().await.map_err(|why| Failure::new(FailureCode::NavigationFailed, why))?;
        }
        Ok(())
    }

    /// Whether what is not on this page can be missing from it: the page answers, is whole, and is no error's.
    async fn sound_page(&self) -> Result<(), String> {
        let answer = timeout(keep::KEEPING_DEADLINE, self.tab.evaluate(PAGE)).await;
        let answer =
            answer.map_err(|_| "the page does not answer".to_owned())?.map_err(|trouble| trouble.to_string())?;
        let status = answer[2].as_u64().unwrap_or(0);
        if answer[0] != "https:" && answer[0] != "http:" {
            return Err(format!("the page is no site's but {}", answer[0]));
        }
        if answer[1] == "loading" {
            return Err("the page is still loading".to_owned());
        }
        if status >= FIRST_BAD_STATUS {
            return Err(format!("the page answers with the status {status}"));
        }
        Ok(())
    }

    /// What stands behind the proof tells more of it, and changes nothing.
    async fn tell_of_proof(&mut self, verify: &Verify) {
        let telling = async {
            for step in &verify.steps[verify.proof() + 1..] {
                if let Err(failure) = self.step(step).await {
                    tracing::debug!(step = step.number, %failure, "after the proof");
                }
            }
            if let Err(why) = self.screenshot("found.png").await {
                tracing::debug!(why, "no picture of what was found");
            }
        };
        if timeout(AFTER_CONFIRMATION, telling).await.is_err() {
            tracing::debug!("what is told of the proof is not complete");
        }
    }
}
