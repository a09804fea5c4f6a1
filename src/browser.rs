//! Profiles, sessions and replay: the browser side of cove.
//!
//! The engine may call this room; it knows nothing about tasks, the store or the queue. It is the only
//! one that knows chromiumoxide. A provider starts and stops browsers ([`Provider`]); a replay drives
//! one session through one flow and asks its [`CommitGate`] right before the click.

pub mod cdp;
pub mod chromium;
pub mod dolphin;
pub mod evidence;
pub mod host;
pub mod locate;
pub mod processes;
pub mod readable;
pub mod steps;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use crate::model::flow::Flow;
use crate::model::{EvidenceFile, Failure, Fence, InputValue, ProfileId, Proofs, Timestamp};
use evidence::EvidenceFolder;

/// A started profile: a CDP endpoint and its process tree.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    pub profile: ProfileId,
    /// DevTools port on 127.0.0.1.
    pub port: u16,
    /// Path of the browser target, `/devtools/browser/<uuid>`.
    pub ws_path: String,
    /// The browser's main process.
    pub pid: u32,
    pub started_at: Timestamp,
    pub headless: bool,
}

impl Session {
    #[must_use]
    pub fn ws_url(&self) -> String {
        format!("ws://127.0.0.1:{}{}", self.port, self.ws_path)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StartOptions {
    pub headless: bool,
}

/// What a session uses now.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SessionStats {
    /// Proportional set size of the whole process tree.
    pub pss_bytes: u64,
    /// False: `pss_bytes` is an estimate, since the processes are another user's. A browser host of an
    /// older version does not say.
    #[serde(default)]
    pub exact: bool,
    /// Processor seconds used by the tree since its start.
    pub cpu_seconds: f64,
    pub pids: Vec<u32>,
}

/// A profile as its provider lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedProfile {
    pub id: ProfileId,
    /// What people call it; not necessarily unique.
    pub name: String,
}

/// Where profiles live. Every call has its own deadline inside and returns a [`Failure`] that says
/// what to do; none is repeated here.
#[async_trait]
pub trait Provider: Send + Sync + 'static {
    /// Starts the profile's browser; answers when its DevTools port accepts connections. A start may have to
    /// wait for others: `gate` is asked when it has its turn, and again before each further try. What it refuses
    /// with is the answer, and nothing was launched.
    async fn start_through(
        &self,
        profile: &ProfileId,
        options: StartOptions,
        gate: &dyn StartGate,
    ) -> Result<Session, Failure>;
    /// The same for a start that has nothing to ask.
    async fn start(&self, profile: &ProfileId, options: StartOptions) -> Result<Session, Failure> {
        self.start_through(profile, options, &Ungated).await
    }
    /// Stops it; answers when its whole process tree is verified dead. Stopping what does not run is
    /// a success. What a person opened is not ours to stop (fence.md rule 16): that is
    /// [`FailureCode::ProfileInUse`](crate::model::FailureCode::ProfileInUse), and nothing of ours is left.
    async fn stop(&self, profile: &ProfileId) -> Result<(), Failure>;
    /// Every browser that runs now and is ours.
    async fn running(&self) -> Result<Vec<Session>, Failure>;
    /// Whether the browser's user can read this file.
    async fn can_read(&self, path: &Path) -> Result<bool, Failure>;
    /// What the profile's session uses now; None where it does not run.
    async fn stats(&self, profile: &ProfileId) -> Result<Option<SessionStats>, Failure>;
    /// The profiles that the provider knows, by a list at most so old;
    /// None where profiles are made in cove and the store knows them.
    async fn profiles(&self, max_age: Duration) -> Result<Option<Vec<ListedProfile>>, Failure> {
        let _ = max_age;
        Ok(None)
    }
    /// None where nothing is called over HTTP.
    fn http_pool(&self) -> Option<HttpPool> {
        None
    }
    /// Ends what belongs to this process; what runs elsewhere goes on.
    async fn shutdown(&self) {}
}

/// Asked by a provider right before it launches a browser: what was true when the start was asked for may have
/// changed while it waited for its turn. Answers at once.
pub trait StartGate: Send + Sync {
    /// # Errors
    /// Why no browser may be launched now.
    fn may_start(&self) -> Result<(), Failure>;
}

struct Ungated;

impl StartGate for Ungated {
    fn may_start(&self) -> Result<(), Failure> {
        Ok(())
    }
}

/// Asked once by a replay, when the element of the commit step is found and actionable and the
/// before-screenshot is kept. Only after `Ok` may the click be dispatched, and only once.
#[async_trait]
pub trait CommitGate: Send + Sync {
    /// Commits and fsyncs `armed`, and with it what was already so before the click. An error means: not armed,
    /// do not click.
    async fn arm(&self, proofs: Proofs) -> Result<(), Failure>;
}

/// What a replay does with the flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Every step.
    Publish,
    /// Every step before the commit point (`cove flows run`).
    StopBeforeCommit,
    /// Only the confirmation steps and what follows them, on a page that survived a restart of the
    /// daemon (fence.md rule 15). No input is dispatched.
    ConfirmOnly,
}

/// One replay of one flow in one session.
pub struct Replay<'a> {
    pub flow: &'a Flow,
    pub inputs: &'a BTreeMap<String, InputValue>,
    pub mode: Mode,
    pub evidence: &'a EvidenceFolder,
    /// For the whole replay; the flow's own `max_duration` or less.
    pub deadline: Duration,
    /// Honoured between and within steps before the commit point; ignored once armed.
    pub cancel: CancellationToken,
    /// Cancelled here when the session's `DevTools` has answered and the flow begins.
    pub attached: CancellationToken,
    /// For [`Mode::ConfirmOnly`]: [`Proofs::open_waits`] of the arming. Otherwise empty.
    pub open_waits: &'a [usize],
}

/// How a replay ended. The distinction is the fence's: before or after the click could have happened.
#[derive(Debug)]
pub enum ReplayEnd {
    /// Every confirmation passed (without a commit point: every step). Trouble after the confirmation
    /// is in `notes` and changes nothing.
    Confirmed { url: Option<String>, result: BTreeMap<String, String>, notes: Vec<String> },
    /// Ended before `CommitGate::arm` said yes: nothing was dispatched.
    Unarmed(Failure),
    /// Ended after it, unconfirmed.
    Unknown(Failure),
}

/// A replay's end and what it left on disk.
#[derive(Debug)]
pub struct Replayed {
    pub end: ReplayEnd,
    pub evidence: Vec<EvidenceFile>,
    /// What a `stopIf` said, before arming or after it: the profile is to be parked, or the item refused, whatever
    /// the end is. An end that is unarmed has the same failure; one that is unknown has its own; one that is
    /// confirmed was confirmed before the `stopIf` fired.
    pub stopped: Option<Failure>,
    /// What the gate was given; None where it was never asked.
    pub proofs: Option<Proofs>,
    /// How long each step took that was run, in their order.
    pub steps: Vec<Duration>,
}

/// The HTTP connections to a provider that is called over HTTP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HttpPool {
    /// Calls under way, each on a connection of its own.
    pub in_use: u64,
    /// Most connections that are kept for the next call.
    pub idle_max: u64,
    pub calls: u64,
    /// That had no whole answer.
    pub failures: u64,
    /// It is called: its breaker is not open.
    pub healthy: bool,
}

/// One run of a flow's verify in one session. Nothing is published by it.
pub struct Verifying<'a> {
    pub flow: &'a Flow,
    pub inputs: &'a BTreeMap<String, InputValue>,
    /// Its files begin with `verify-`: an attempt's folder can be given as well.
    pub evidence: &'a EvidenceFolder,
    /// For the whole verify; the flow's own `max_duration` or less.
    pub deadline: Duration,
    /// Interrupts at once.
    pub cancel: CancellationToken,
    /// Cancelled here when the session's `DevTools` has answered.
    pub attached: CancellationToken,
    pub armed_at: Timestamp,
}

/// What a verify saw (fence.md rule 12).
#[derive(Debug)]
pub enum VerifyAnswer {
    /// It is there. Whether that proves anything, the baseline says.
    Found { url: Option<String>, result: BTreeMap<String, String> },
    /// Signed in, looked at a page that answered, and it is not there.
    NotFound(String),
    /// Anything else; never a ground for anything.
    Inconclusive(Failure),
}

#[derive(Debug)]
pub struct Verified {
    pub answer: VerifyAnswer,
    pub evidence: Vec<EvidenceFile>,
    /// What a `stopIf` of the verify said.
    pub stopped: Option<Failure>,
}

/// Names one attempt in its evidence.
#[derive(Clone, Copy, Debug)]
pub struct AttemptName {
    pub fence: Fence,
    /// From 1.
    pub attempt: u32,
}

/// Runs `replay` in `session`. Never returns an error of its own: every end is a [`ReplayEnd`].
pub async fn replay(session: &Session, replay: Replay<'_>, gate: &dyn CommitGate) -> Replayed {
    steps::run(session, replay, gate).await
}

/// Runs the flow's verify in a tab of its own in `session`. Every end is a [`VerifyAnswer`].
pub async fn verify(session: &Session, verifying: Verifying<'_>) -> Verified {
    steps::verify(session, verifying).await
}
