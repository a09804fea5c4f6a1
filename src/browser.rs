//! Profiles, sessions and replay: the browser side of cove.
//!
//! The engine may call this room; it knows nothing about tasks, the store or the queue. It is the only
//! one that knows chromiumoxide. A provider starts and stops browsers ([`Provider`]); a replay drives
//! one session through one flow and asks its [`CommitGate`] right before the click.

pub mod cdp;
pub mod chromium;
pub mod evidence;
pub mod host;
pub mod locate;
pub mod processes;
pub mod steps;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use crate::model::flow::Flow;
use crate::model::{EvidenceFile, Failure, Fence, InputValue, ProfileId, Timestamp};
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
    /// Processor seconds used by the tree since its start.
    pub cpu_seconds: f64,
    pub pids: Vec<u32>,
}

/// Where profiles live. Every call has its own deadline inside and returns a [`Failure`] that says
/// what to do; none is repeated here.
#[async_trait]
pub trait Provider: Send + Sync + 'static {
    /// Starts the profile's browser; answers when its DevTools port accepts connections.
    async fn start(&self, profile: &ProfileId, options: StartOptions) -> Result<Session, Failure>;
    /// Stops it; answers when its whole process tree is verified dead. Stopping what does not run is
    /// a success.
    async fn stop(&self, profile: &ProfileId) -> Result<(), Failure>;
    /// Every browser that runs now.
    async fn running(&self) -> Result<Vec<Session>, Failure>;
    /// Whether the browser's user can read this file.
    async fn can_read(&self, path: &Path) -> Result<bool, Failure>;
    /// What the profile's session uses now; None where it does not run.
    async fn stats(&self, profile: &ProfileId) -> Result<Option<SessionStats>, Failure>;
}

/// Asked once by a replay, when the element of the commit step is found and actionable and the
/// before-screenshot is kept. Only after `Ok` may the click be dispatched, and only once.
#[async_trait]
pub trait CommitGate: Send + Sync {
    /// Commits and fsyncs `armed`. An error means: not armed, do not click.
    async fn arm(&self) -> Result<(), Failure>;
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
