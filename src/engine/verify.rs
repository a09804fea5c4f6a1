//! One run of a flow's verify: a browser, a look, an end. Nothing is published by it.
//!
//! A child of the loop like an attempt. It says what it saw; what that is worth is the state machine's to
//! know, except for one thing that only the item's record says: what was there before the click, or could
//! not be told, proves nothing (fence.md rule 12).

use std::panic::AssertUnwindSafe;

use futures_util::FutureExt;

use super::attach::Attach;
use super::attempt::{evidence_folder, load_flow};
use super::event::Event;
use super::turn::Child;
use crate::browser::{self, Session, StartOptions, VerifyAnswer, Verifying};
use crate::model::{EvidenceFile, Failure, FailureCode, Item, Task};
use crate::store::VerifyFinding;

/// What is told at the end.
struct Look {
    /// None: nobody looked.
    finding: Option<VerifyFinding>,
    evidence: Vec<EvidenceFile>,
    stopped: Option<Failure>,
    browser: bool,
}

impl Look {
    const fn failed(failure: Failure, browser: bool) -> Self {
        let finding = Some(VerifyFinding::Inconclusive(failure));
        Self { finding, evidence: Vec::new(), stopped: None, browser }
    }
}

pub(super) async fn run(child: Child, item: Item, task: Task) {
    let look = AssertUnwindSafe(look(&child, &item, &task)).catch_unwind().await;
    let panicked = || {
        let detail = "the verify panicked; the daemon's log has the place";
        Look::failed(Failure::new(FailureCode::Internal, detail), true)
    };
    let Look { finding, evidence, stopped, browser } = look.unwrap_or_else(|_| panicked());
    let fence = child.fence;
    // What was interrupted has seen nothing that counts.
    let look = finding.filter(|_| !child.interrupt.is_cancelled());
    child.tell(Event::Looked { fence, look, evidence, stopped, browser }).await;
}

async fn look(child: &Child, item: &Item, task: &Task) -> Look {
    let flow = match load_flow(child, task).await {
        Ok(flow) => flow,
        Err(failure) => return Look::failed(failure, false),
    };
    let evidence = match evidence_folder(child, item) {
        Ok(folder) => folder,
        Err(failure) => return Look::failed(failure, false),
    };
    let attach = match Attach::begin(child) {
        Ok(attach) => attach,
        Err(failure) => return Look::failed(failure, false),
    };
    let session = match start(child, item, &attach).await {
        Ok(session) => session,
        // In use means that somebody else's browser runs there: it is not ours to stop.
        Err(failure) => {
            attach.failed(&failure);
            let browser = failure.code != FailureCode::ProfileInUse;
            return Look::failed(failure, browser);
        }
    };
    let verifying = Verifying {
        flow: &flow,
        inputs: &item.inputs,
        evidence: &evidence,
        deadline: flow.max_duration,
        cancel: child.interrupt.clone(),
        attached: attach.attached(),
        armed_at: item.armed_at.unwrap_or(item.created_at),
    };
    let seen = attach.during(Box::pin(browser::verify(&session, verifying))).await;
    let browser::Verified { answer, evidence, stopped } = seen;
    if let VerifyAnswer::Inconclusive(failure) = &answer {
        attach.failed(failure);
    }
    Look { finding: Some(worth(answer, item)), evidence, stopped, browser: true }
}

async fn start(child: &Child, item: &Item, attach: &Attach<'_>) -> Result<Session, Failure> {
    let options = StartOptions { headless: child.shared.headless };
    let session = tokio::select! {
        started = child.shared.provider.start_through(&item.profile, options, attach) => started?,
        () = child.interrupt.cancelled() => {
            return Err(Failure::new(FailureCode::DaemonStopped, "interrupted before it looked"));
        }
    };
    child.tell(Event::Opened { fence: child.fence, session: session.clone() }).await;
    Ok(session)
}

fn worth(answer: VerifyAnswer, item: &Item) -> VerifyFinding {
    match answer {
        VerifyAnswer::NotFound(detail) => VerifyFinding::NotFound(detail),
        VerifyAnswer::Inconclusive(failure) => VerifyFinding::Inconclusive(failure),
        VerifyAnswer::Found { url, result } => {
            if item.proofs.as_ref().is_some_and(|proofs| proofs.baseline.lets_found_prove()) {
                VerifyFinding::Found { url, result }
            } else {
                let detail = "it is there, but nobody knows that it was not there before the click";
                VerifyFinding::Inconclusive(Failure::new(FailureCode::ConfirmationMissing, detail))
            }
        }
    }
}
