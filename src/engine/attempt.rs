//! One attempt: media, browser, replay, end. Its end is told once; its browser is stopped by the loop.
//!
//! It decides nothing about retries and writes nothing into the store: arming goes through the loop, and
//! whether the click may have happened is the state machine's to know. A panic in here is an end like
//! any other.

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::FutureExt;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::attach::Attach;
use super::event::{AttemptEnd, Event};
use super::turn::Child;
use crate::browser::evidence::EvidenceFolder;
use crate::browser::{AttemptName, CommitGate, Mode, Replay, ReplayEnd, Session, StartOptions};
use crate::meter::Timed;
use crate::model::flow::Flow;
use crate::model::{EvidenceFile, Failure, FailureCode, InputValue, Item, Proofs, Task};
use crate::store::media::{self, MediaError};

/// Beyond the flow's own limit: for the end to be written down.
const GRACE: Duration = Duration::from_secs(30);
/// How long a provider that is not up yet is asked for a browser that may have survived: a minute.
const PROVIDER_TRIES: u32 = 60;
const PROVIDER_WAIT: Duration = Duration::from_secs(1);

/// What is told at the end.
struct Outcome {
    end: AttemptEnd,
    evidence: Vec<EvidenceFile>,
    /// What the site said, where the flow watches for it.
    stopped: Option<Failure>,
    /// A browser may run that has to be stopped.
    browser: bool,
}

impl Outcome {
    const fn unarmed(failure: Failure, browser: bool) -> Self {
        Self { end: AttemptEnd::Unarmed(failure), evidence: Vec::new(), stopped: None, browser }
    }

    const fn before_the_browser(failure: Failure) -> Self {
        Self::unarmed(failure, false)
    }
}

pub(super) async fn run(child: Child, item: Item, task: Task) {
    let outcome = AssertUnwindSafe(attempt(&child, &item, &task)).catch_unwind().await;
    tell(&child, &item, outcome.unwrap_or_else(|_| panicked())).await;
}

/// The click may have happened before a restart: only the confirmation is left.
pub(super) async fn reattach(child: Child, item: Item, task: Task) {
    let outcome = AssertUnwindSafe(confirm(&child, &item, &task)).catch_unwind().await;
    tell(&child, &item, outcome.unwrap_or_else(|_| panicked())).await;
}

fn panicked() -> Outcome {
    let failure = Failure::new(FailureCode::Internal, "the attempt panicked; the daemon's log has the place");
    Outcome::unarmed(failure, true)
}

async fn tell(child: &Child, item: &Item, outcome: Outcome) {
    let Outcome { end, evidence, stopped, browser } = outcome;
    if let AttemptEnd::Unarmed(failure) | AttemptEnd::Unknown(failure) = &end {
        tracing::warn!(item = %item.id, profile = %item.profile, fence = %child.fence, %failure, "attempt failed");
    }
    child.tell(Event::Ended { fence: child.fence, end, evidence, stopped, browser, roll: fastrand::f64() }).await;
}

async fn attempt(child: &Child, item: &Item, task: &Task) -> Outcome {
    let prepared = tokio::select! {
        prepared = prepare(child, item, task) => prepared,
        () = child.interrupt.cancelled() => Err(interrupted()),
    };
    let (flow, inputs) = match prepared {
        Ok(prepared) => prepared,
        Err(failure) => return Outcome::before_the_browser(failure),
    };
    let evidence = match evidence_folder(child, item) {
        Ok(folder) => folder,
        Err(failure) => return Outcome::before_the_browser(failure),
    };
    let attach = match Attach::begin(child) {
        Ok(attach) => attach,
        Err(failure) => return Outcome::before_the_browser(failure),
    };
    let options = StartOptions { headless: child.shared.headless };
    let began = Instant::now();
    let started = tokio::select! {
        started = child.shared.provider.start_through(&item.profile, options, &attach) => started,
        // The start may go through all the same: the close that follows stops what came up.
        () = child.interrupt.cancelled() => Err(interrupted()),
    };
    let session = match started {
        Ok(session) => session,
        Err(failure) => {
            attach.failed(&failure);
            // In use means that somebody else's browser runs there: it is not ours to stop.
            let browser = failure.code != FailureCode::ProfileInUse;
            return Outcome::unarmed(failure, browser);
        }
    };
    child.shared.store.meter().time(Timed::ProviderStart, began.elapsed());
    child.tell(Event::Opened { fence: child.fence, session: session.clone() }).await;
    let publish = Replay {
        flow: &flow,
        inputs: &inputs,
        mode: if task.rehearsal { Mode::StopBeforeCommit } else { Mode::Publish },
        evidence: &evidence,
        deadline: flow.max_duration,
        cancel: child.interrupt.clone(),
        attached: attach.attached(),
        open_waits: &[],
    };
    let outcome = attach.during(Box::pin(replay(child, &session, publish))).await;
    if let AttemptEnd::Unarmed(failure) | AttemptEnd::Unknown(failure) = &outcome.end {
        attach.failed(failure);
    }
    outcome
}

async fn confirm(child: &Child, item: &Item, task: &Task) -> Outcome {
    let unknown = |detail: String| Outcome {
        end: AttemptEnd::Unknown(Failure::new(FailureCode::RestartedAfterCommit, detail)),
        evidence: Vec::new(),
        stopped: None,
        browser: true,
    };
    let session = match survivor(child, item).await {
        Ok(session) => session,
        Err(failure) => return unknown(format!("its browser cannot be looked for: {failure}")),
    };
    let Some(session) = session else {
        return unknown("the daemon and the browser ended after the commit point".to_owned());
    };
    let flow = match load_flow(child, task).await {
        Ok(flow) => flow,
        Err(failure) => return unknown(failure.to_string()),
    };
    let evidence = match evidence_folder(child, item) {
        Ok(folder) => folder,
        Err(failure) => return unknown(failure.to_string()),
    };
    let confirmation = Replay {
        flow: &flow,
        inputs: &item.inputs,
        mode: Mode::ConfirmOnly,
        evidence: &evidence,
        deadline: flow.max_duration,
        cancel: child.interrupt.clone(),
        attached: CancellationToken::new(),
        open_waits: item.proofs.as_ref().map_or(&[][..], |proofs| &proofs.open_waits),
    };
    let mut outcome = replay(child, &session, confirmation).await;
    if let AttemptEnd::Unknown(failure) | AttemptEnd::Unarmed(failure) = outcome.end {
        outcome.end = AttemptEnd::Unknown(Failure::new(FailureCode::RestartedAfterCommit, failure.to_string()));
    }
    outcome
}

/// The browser of an attempt that was going on when the daemon stopped. The provider may still be
/// coming up itself.
async fn survivor(child: &Child, item: &Item) -> Result<Option<Session>, Failure> {
    let mut tries = PROVIDER_TRIES;
    loop {
        match child.shared.provider.running().await {
            Ok(running) => return Ok(running.into_iter().find(|session| session.profile == item.profile)),
            // What was refused was not asked: an open breaker admits a call when its time is over.
            Err(failure) if tries == 0 && failure.code != FailureCode::BreakerOpen => return Err(failure),
            Err(_) => {
                tries = tries.saturating_sub(1);
                tokio::time::sleep(PROVIDER_WAIT).await;
            }
        }
    }
}

async fn replay(child: &Child, session: &Session, replay: Replay<'_>) -> Outcome {
    let Replay { flow, inputs, mode, deadline, .. } = replay;
    let gate = Gate { child, inputs };
    let replayed = tokio::time::timeout(deadline + GRACE, crate::browser::replay(session, replay, &gate)).await;
    let Ok(replayed) = replayed else {
        let detail = format!("the attempt did not end within {} s", (deadline + GRACE).as_secs());
        let failure = Failure::new(FailureCode::DeadlineExceeded, detail);
        return Outcome::unarmed(failure, true);
    };
    let meter = child.shared.store.meter();
    replayed.steps.iter().for_each(|took| meter.time(Timed::Step, *took));
    let end = match replayed.end {
        ReplayEnd::Confirmed { url, result, notes } => {
            for note in notes {
                tracing::info!(fence = %child.fence, note, "after the confirmation");
            }
            let clicked = flow.has_commit() && mode != Mode::StopBeforeCommit;
            if clicked { AttemptEnd::Confirmed { url, result } } else { AttemptEnd::Done { url, result } }
        }
        ReplayEnd::Unarmed(failure) => AttemptEnd::Unarmed(failure),
        ReplayEnd::Unknown(failure) => AttemptEnd::Unknown(failure),
    };
    Outcome { end, evidence: replayed.evidence, stopped: replayed.stopped, browser: true }
}

fn interrupted() -> Failure {
    Failure::new(FailureCode::Canceled, "interrupted before the commit point")
}

pub(super) fn evidence_folder(child: &Child, item: &Item) -> Result<EvidenceFolder, Failure> {
    let name = AttemptName { fence: child.fence, attempt: item.attempts };
    EvidenceFolder::create(&child.shared.state_dir, item.id, name, child.shared.evidence_max_bytes)
        .map_err(|error| Failure::new(FailureCode::EvidenceFailed, format!("the evidence folder: {error}")))
}

pub(super) async fn load_flow(child: &Child, task: &Task) -> Result<Flow, Failure> {
    let invalid = |detail: String| Failure::new(FailureCode::FlowInvalid, detail);
    let recording = child
        .shared
        .store
        .flow_by_hash(task.flow_hash.clone())
        .await
        .map_err(|error| Failure::new(FailureCode::Internal, error.to_string()))?
        .ok_or_else(|| invalid(format!("the recording {} of flow {} is gone", task.flow_hash, task.flow)))?;
    match Flow::parse(&recording) {
        Ok((flow, _)) => Ok(flow),
        Err(problems) => {
            let first = problems.first().map(|problem| problem.message.as_str()).unwrap_or_default();
            Err(invalid(format!("{} problems, the first: {first}", problems.len())))
        }
    }
}

/// The flow, and the inputs with every file looked at again: what was accepted is what goes out, or nothing
/// (fence.md rule 3). A file that was only touched, or put back, is the same by its hash.
async fn prepare(child: &Child, item: &Item, task: &Task) -> Result<(Flow, BTreeMap<String, InputValue>), Failure> {
    let flow = load_flow(child, task).await?;
    let mut inputs = item.inputs.clone();
    for input in inputs.values_mut() {
        let InputValue::File(file) = input else { continue };
        let missing = |error: std::io::Error| {
            Failure::new(FailureCode::MediaMissing, format!("{}: {error}", file.path.display()))
        };
        if !media::unchanged(file).await.map_err(missing)? {
            let name = file.path.display().to_string();
            let found = child.shared.media.resolve(&name).await.map_err(|error| media_failure(&name, &error))?;
            if found.sha256 != file.sha256 {
                let (is, was) = (found.sha256, &file.sha256);
                let detail = format!("{name} was accepted with the SHA-256 {was}; what is there now has {is}");
                return Err(Failure::new(FailureCode::MediaChanged, detail));
            }
            *file = found;
        }
        readable(child, &file.path).await?;
    }
    Ok((flow, inputs))
}

fn media_failure(name: &str, error: &MediaError) -> Failure {
    Failure::new(FailureCode::MediaMissing, format!("{name}: {error}"))
}

async fn readable(child: &Child, path: &Path) -> Result<(), Failure> {
    if child.shared.provider.can_read(path).await? {
        Ok(())
    } else {
        let detail = format!("{}: the browser's user cannot read it", path.display());
        Err(Failure::new(FailureCode::MediaUnreadable, detail))
    }
}

/// The last look before the click: the files, then the compare-and-set (fence.md rules 3 to 5).
struct Gate<'a> {
    child: &'a Child,
    inputs: &'a BTreeMap<String, InputValue>,
}

#[async_trait]
impl CommitGate for Gate<'_> {
    async fn arm(&self, proofs: Proofs) -> Result<(), Failure> {
        for file in self.inputs.values().filter_map(InputValue::as_file) {
            let unchanged = media::unchanged(file).await.unwrap_or(false);
            if !unchanged {
                let detail = format!("{} is not the file any more that was hashed", file.path.display());
                return Err(Failure::new(FailureCode::MediaChanged, detail));
            }
        }
        self.child.arm(proofs).await
    }
}
