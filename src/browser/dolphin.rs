//! The `dolphin` provider: profiles of a Dolphin Anty on this machine, through its Local API.
//!
//! The daemon composes it, the engine calls it through [`Provider`]. Each part is a file: `answer` reads,
//! `exchange` calls, `local` and `cloud` know the paths, `notebook` remembers what was started here,
//! `starting` and `stopping` decide; `look` is for `cove doctor` alone. Invariants: one start or stop at a
//! time per profile; stops one after the other, starts a few at a time and apart; a browser that is not proved
//! to be ours is never stopped unless the configuration says so (fence.md rule 16); nothing is called while
//! its breaker is open. How items wait and what is tried again belongs to the engine.

mod answer;
mod attach;
mod cloud;
mod devtools;
mod exchange;
mod local;
mod look;
mod notebook;
mod pace;
mod readers;
mod sight;
mod starting;
mod stopping;

use std::collections::{BTreeSet, HashMap};
use std::path::Path;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::{StreamExt, stream};
use tokio::sync::{Mutex, OwnedMutexGuard, Semaphore};
use tokio::time::{Instant, sleep_until};

use super::processes::Identity;
use super::readable::Looks;
use super::{HttpPool, ListedProfile, Provider, Session, SessionStats, StartGate, StartOptions, processes};
use crate::breaker::board::Board;
use crate::config::dolphin::{TokenSource, profile_number};
use crate::config::{Dolphin, OnDuplicate};
use crate::model::{Clock, Failure, FailureCode, ProfileId};
use cloud::Cloud;
use local::LocalApi;
use notebook::{Note, Notebook, Seen, Whose};
use starting::Wanted;

pub use answer::{MAX_NAME_BYTES, Meaning, Refusal};
pub use look::{Look, Said, look};

/// As messages name them.
const THE_APP: &str = "Dolphin Anty";
const THE_CLOUD: &str = "Dolphin's cloud";
/// For a look at a file.
const FILE_DEADLINE: Duration = Duration::from_secs(5);
/// Sessions looked at at a time.
const LOOKS_AT_A_TIME: usize = 8;

/// How long everything may take. The defaults are right; tests shorten them.
#[derive(Clone, Debug)]
pub struct Deadlines {
    pub login: Duration,
    /// One start call: it answers when the data directory is there and the browser is up.
    pub start: Duration,
    /// One stop call: it answers when the data directory is uploaded.
    pub stop: Duration,
    pub running: Duration,
    /// For the DevTools of a browser that was started.
    pub attach: Duration,
    /// One page of the list, from its turn.
    pub cloud: Duration,
    /// The whole list.
    pub listing: Duration,
    /// A rest that the cloud asks for without saying how long.
    pub cloud_rest: Duration,
    /// A browser whose start was answered, and that is not listed and whose port is closed for so long, has
    /// ended: one that is busy may be seen by nobody for seconds.
    pub quiet: Duration,
    /// For a browser that was stopped to be gone.
    pub gone: Duration,
    /// The part of it before such a browser is asked to close itself.
    pub linger: Duration,
    /// From the end of a browser to the next start of its profile, at least.
    pub gap: Duration,
    /// After a start had no answer in time, its browser may still come up.
    pub late: Duration,
    /// The same after an answer that was cut off.
    pub cut: Duration,
    /// For a profile that "runs already" and is not listed.
    pub duplicate: Duration,
    /// Before a start is tried again whose files were locked; up to twice that.
    pub locked: Duration,
    /// Tries of a call that changes nothing when it is made twice, and the waits between them.
    pub tries: u32,
    pub retry_base: Duration,
    pub retry_longest: Duration,
    /// Between looks at what changes by itself.
    pub first_look: Duration,
    pub longest_look: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        Self {
            login: Duration::from_secs(15),
            start: Duration::from_secs(120),
            stop: Duration::from_secs(60),
            running: Duration::from_secs(5),
            attach: Duration::from_secs(45),
            cloud: Duration::from_secs(15),
            listing: Duration::from_mins(10),
            cloud_rest: Duration::from_secs(60),
            quiet: Duration::from_secs(12),
            gone: Duration::from_secs(60),
            linger: Duration::from_secs(15),
            gap: Duration::from_secs(2),
            late: Duration::from_secs(60),
            cut: Duration::from_secs(15),
            duplicate: Duration::from_secs(15),
            locked: Duration::from_secs(5),
            tries: 3,
            retry_base: Duration::from_secs(2),
            retry_longest: Duration::from_secs(10),
            first_look: Duration::from_millis(250),
            longest_look: Duration::from_secs(4),
        }
    }
}

/// What the provider is made of.
pub struct Setup<'a> {
    pub dolphin: &'a Dolphin,
    pub token: Option<TokenSource>,
    /// Where the notebook lies.
    pub state_dir: &'a Path,
    pub breakers: Board,
    pub clock: Arc<dyn Clock>,
    pub deadlines: Deadlines,
}

pub struct DolphinProvider {
    local: LocalApi,
    cloud: Cloud,
    notebook: Notebook,
    clock: Arc<dyn Clock>,
    deadlines: Deadlines,
    on_duplicate: OnDuplicate,
    /// The profiles of the configuration's list; empty: every one may be started.
    chosen: BTreeSet<u64>,
    api_port: Option<u16>,
    /// One start or stop at a time per profile.
    gates: std::sync::Mutex<HashMap<ProfileId, Arc<Mutex<()>>>>,
    starts: Semaphore,
    stagger: Duration,
    /// When the next start may begin.
    next_start: Mutex<Option<Instant>>,
    /// When browsers ended that were started here, as long as a start has to wait for it.
    ended: std::sync::Mutex<HashMap<ProfileId, Instant>>,
    /// Held during a stop call.
    stops: Mutex<()>,
    looks: Looks,
}

impl DolphinProvider {
    /// Reads the notebook: blocking, and small.
    ///
    /// # Errors
    /// When the HTTP clients cannot be made.
    pub fn new(setup: Setup<'_>) -> Result<Self, Failure> {
        let Setup { dolphin, token, state_dir, breakers, clock, deadlines } = setup;
        let token = token.map(Arc::new);
        let failed = |error: reqwest::Error| Failure::new(FailureCode::Internal, format!("no HTTP client: {error}"));
        let local = LocalApi::new(&dolphin.api_host, token.clone(), breakers.clone(), clock.clone(), deadlines.clone());
        let named = dolphin.named_profiles();
        let chosen = named.iter().map(|named| named.id).collect();
        let cloud = Cloud::new(&dolphin.cloud_host, token, named, breakers, clock.clone(), deadlines.clone());
        Ok(Self {
            local: local.map_err(failed)?,
            cloud: cloud.map_err(failed)?,
            notebook: Notebook::open(state_dir, clock.moment().boot_id),
            clock,
            deadlines,
            on_duplicate: dolphin.on_duplicate,
            chosen,
            api_port: url::Url::parse(&dolphin.api_host).ok().and_then(|url| url.port_or_known_default()),
            gates: std::sync::Mutex::default(),
            starts: Semaphore::new(usize::try_from(dolphin.parallel_starts.max(1)).unwrap_or(1)),
            stagger: Duration::from_millis(dolphin.start_stagger_ms),
            next_start: Mutex::default(),
            ended: std::sync::Mutex::default(),
            stops: Mutex::default(),
            looks: Looks::new(FILE_DEADLINE),
        })
    }

    async fn gate(&self, profile: &ProfileId) -> OwnedMutexGuard<()> {
        let gate = {
            let mut gates = self.gates.lock().unwrap_or_else(PoisonError::into_inner);
            // Nobody waits at a gate that is only in the table.
            gates.retain(|_, gate| Arc::strong_count(gate) > 1);
            gates.entry(profile.clone()).or_default().clone()
        };
        gate.lock_owned().await
    }

    /// The profile's browser is gone.
    async fn note_end(&self, profile: &ProfileId) {
        let now = Instant::now();
        {
            let mut ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
            ended.retain(|_, at| now.saturating_duration_since(*at) < self.deadlines.gap);
            ended.insert(profile.clone(), now);
        }
        self.notebook.tear_out(profile).await;
    }

    /// Waits until its files are free: Dolphin lets go of them a moment after the end.
    async fn wait_for_gap(&self, profile: &ProfileId) {
        let ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner).get(profile).copied();
        if let Some(ended) = ended {
            sleep_until(ended + self.deadlines.gap).await;
        }
    }

    /// Waits until a start may begin: they come apart.
    ///
    /// # Errors
    /// What `gate` says then: no turn was taken.
    async fn take_turn(&self, gate: &dyn StartGate) -> Result<(), Failure> {
        let mut next = self.next_start.lock().await;
        if let Some(at) = *next {
            sleep_until(at).await;
        }
        gate.may_start()?;
        *next = Some(Instant::now() + self.stagger);
        Ok(())
    }

    /// The session behind a note, if its browser runs and answers. `map`: what Dolphin lists.
    async fn session(&self, note: Note, map: &answer::RunningMap) -> Option<Session> {
        let id = profile_number(note.profile.as_str())?;
        let running = *map.get(&id)?;
        let listens_at = note.endpoint.as_ref()?;
        if !stopping::answers(self, listens_at).await {
            return None;
        }
        // The noted process needs no look at all the others.
        let seen = match note.process {
            Some(Identity { pid, .. }) if running.pid.is_none_or(|listed| listed == pid) => {
                Seen { pid: Some(pid), process: sight::alive(pid).await, answers: true, ..Seen::default() }
            }
            _ => stopping::seen_of(&sight::of(id, running).await, true),
        };
        if note.whose(&seen) == Whose::Operators { None } else { attach::again(&note, &seen) }
    }
}

#[async_trait]
impl Provider for DolphinProvider {
    async fn start_through(
        &self,
        profile: &ProfileId,
        options: StartOptions,
        gate: &dyn StartGate,
    ) -> Result<Session, Failure> {
        let id = starting::number_of(profile)?;
        if !self.chosen.is_empty() && !self.chosen.contains(&id) {
            let detail = format!("`[dolphin] profiles` does not name {profile}: add it there, or leave the list empty");
            return Err(Failure::new(FailureCode::ProfileUnknown, detail));
        }
        let _gate = self.gate(profile).await;
        let _place = self.starts.acquire().await.map_err(|closed| {
            Failure::new(FailureCode::Internal, format!("the places for starts are gone: {closed}"))
        })?;
        starting::start(self, Wanted { profile, id, options, gate }).await
    }

    async fn stop(&self, profile: &ProfileId) -> Result<(), Failure> {
        // What is no number was never started here.
        let Ok(id) = starting::number_of(profile) else { return Ok(()) };
        let _gate = self.gate(profile).await;
        stopping::stop(self, profile, id).await
    }

    async fn running(&self) -> Result<Vec<Session>, Failure> {
        let notes = self.notebook.all();
        if notes.is_empty() {
            return Ok(Vec::new());
        }
        let map = self.local.running().await?;
        let looks = stream::iter(notes).map(|note| self.session(note, &map)).buffer_unordered(LOOKS_AT_A_TIME);
        Ok(looks.filter_map(std::future::ready).collect().await)
    }

    async fn can_read(&self, path: &Path) -> Result<bool, Failure> {
        readers::can_read(&self.looks, self.api_port, path.to_owned()).await
    }

    async fn stats(&self, profile: &ProfileId) -> Result<Option<SessionStats>, Failure> {
        let Some(note) = self.notebook.get(profile) else { return Ok(None) };
        let process = match (note.process, note.endpoint) {
            (Some(process), _) => Some(process),
            (None, Some(endpoint)) => sight::on_port(endpoint.port).await,
            (None, None) => None,
        };
        let Some(process) = process else { return Ok(None) };
        let look = tokio::task::spawn_blocking(move || {
            let members = processes::tree_of(process);
            (!members.is_empty()).then(|| processes::stats(&members))
        });
        look.await.map_err(|error| Failure::new(FailureCode::Internal, error.to_string()))
    }

    fn http_pool(&self) -> Option<HttpPool> {
        Some(self.local.pool())
    }

    async fn profiles(&self, max_age: Duration) -> Result<Option<Vec<ListedProfile>>, Failure> {
        self.cloud.profiles(max_age).await.map(Some)
    }
}
