//! Which browsers run: the table of one host, and the five calls on it.
//!
//! Called by the server for each request and by the host at its end. One entry per profile, from
//! before its browser is started until every process of it is dead: that is what makes a second start
//! of the same profile impossible. Each entry has one task, owned by the host and not by the client
//! that asked. The table's lock is never held across an await.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::process::Signal;
use tokio::sync::oneshot;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::life::{self, Setting};
use super::protocol::{Call, Outcome, QUICK_DEADLINE, START_DEADLINE, STOP_DEADLINE, STOP_GRACE};
use crate::browser::processes::{self, Tree};
use crate::browser::readable;
use crate::browser::{Session, SessionStats, StartOptions};
use crate::model::{Failure, FailureCode, ProfileId};

/// Browsers of one host at a time.
const MAX_SESSIONS: usize = 256;

/// The sessions of one host; a clone is the same table.
#[derive(Clone, Debug)]
pub struct Sessions {
    setting: Arc<Setting>,
    table: Arc<Mutex<BTreeMap<ProfileId, Entry>>>,
    tasks: TaskTracker,
    looks: readable::Looks,
}

#[derive(Debug)]
struct Entry {
    /// None: still starting, or dead and not cleared away yet.
    up: Option<(Session, Tree)>,
    /// Cancelled to close the browser, and when it ended by itself.
    stop: CancellationToken,
    /// Cancelled when the last process is dead and the entry is gone.
    gone: CancellationToken,
}

/// Removes an entry however its task ends.
struct Place {
    sessions: Sessions,
    profile: ProfileId,
    gone: CancellationToken,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.sessions.entries().remove(&self.profile);
        self.gone.cancel();
    }
}

impl Sessions {
    #[must_use]
    pub fn new(setting: Setting) -> Self {
        Self {
            setting: Arc::new(setting),
            table: Arc::default(),
            tasks: TaskTracker::new(),
            looks: readable::Looks::new(QUICK_DEADLINE),
        }
    }

    fn entries(&self) -> MutexGuard<'_, BTreeMap<ProfileId, Entry>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Answers one call; ends within the deadline of that call.
    pub async fn answer(&self, call: Call) -> Outcome {
        let done = match call {
            Call::Start { profile, headless } => self.start(profile, StartOptions { headless }).await.map(value),
            Call::Stop { profile } => self.stop(&profile).await.map(value),
            Call::Running => Ok(value(self.running())),
            Call::CanRead { path } => self.looks.look(path, readable::by_us).await.map(value),
            Call::Stats { profile } => self.stats(&profile).await.map(value),
        };
        done.flatten().map_or_else(Outcome::Error, Outcome::Ok)
    }

    async fn start(&self, profile: ProfileId, options: StartOptions) -> Result<Session, Failure> {
        let (tell, told) = oneshot::channel();
        self.begin(&profile, options, tell)?;
        match timeout(START_DEADLINE + STOP_GRACE, told).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(Failure::new(FailureCode::Internal, format!("the start of {profile} was lost"))),
            Err(_) => Err(Failure::new(
                FailureCode::BrowserStartFailed,
                format!("the browser for {profile} did not start, and what is left of it does not end"),
            )),
        }
    }

    fn begin(
        &self,
        profile: &ProfileId,
        options: StartOptions,
        tell: oneshot::Sender<Result<Session, Failure>>,
    ) -> Result<(), Failure> {
        let (stop, gone) = (CancellationToken::new(), CancellationToken::new());
        {
            let mut entries = self.entries();
            if self.setting.hurry.is_cancelled() {
                return Err(Failure::new(FailureCode::ProviderDown, "the browser host is stopping"));
            }
            if let Some(entry) = entries.get(profile) {
                return Err(Failure::new(FailureCode::ProfileInUse, entry.in_use(profile)));
            }
            if entries.len() >= MAX_SESSIONS {
                let detail = format!("the browser host runs {MAX_SESSIONS} browsers already; stop one");
                return Err(Failure::new(FailureCode::ProviderDown, detail));
            }
            entries.insert(profile.clone(), Entry { up: None, stop: stop.clone(), gone: gone.clone() });
        }
        let place = Place { sessions: self.clone(), profile: profile.clone(), gone };
        let tell = Arc::new(Mutex::new(Some(tell)));
        self.tasks.spawn(async move {
            let sessions = place.sessions.clone();
            let shown = |now: Option<(Session, Tree)>| {
                let session = now.as_ref().map(|(session, _)| session.clone());
                if let Some(entry) = sessions.entries().get_mut(&place.profile) {
                    entry.up = now;
                    if entry.up.is_none() {
                        entry.stop.cancel();
                    }
                }
                if let Some(session) = session {
                    say(&tell, Ok(session));
                }
            };
            let end = life::live(&sessions.setting, &place.profile, options, &stop, &shown).await;
            // The place is free before the client hears of it, so that it can try again at once.
            drop(place);
            if let Err(failure) = end {
                tracing::warn!(%failure, "browser not started");
                say(&tell, Err(failure));
            }
        });
        Ok(())
    }

    async fn stop(&self, profile: &ProfileId) -> Result<(), Failure> {
        let Some(gone) = self.entries().get(profile).map(|entry| {
            entry.stop.cancel();
            entry.gone.clone()
        }) else {
            return Ok(());
        };
        timeout(STOP_DEADLINE, gone.cancelled()).await.map_err(|_| {
            Failure::new(
                FailureCode::BrowserLost,
                format!("the browser of {profile} does not end even when it is killed; the host goes on trying"),
            )
        })
    }

    fn running(&self) -> Vec<Session> {
        self.entries().values().filter_map(|entry| Some(entry.up.as_ref()?.0.clone())).collect()
    }

    async fn stats(&self, profile: &ProfileId) -> Result<Option<SessionStats>, Failure> {
        let Some(tree) = self.entries().get(profile).and_then(|entry| Some(entry.up.as_ref()?.1.clone())) else {
            return Ok(None);
        };
        let look = tokio::task::spawn_blocking(move || {
            let members = tree.members(&processes::all(), &std::collections::BTreeSet::new());
            processes::stats(&members)
        });
        match timeout(QUICK_DEADLINE, look).await {
            Ok(Ok(stats)) => Ok(Some(stats)),
            Ok(Err(error)) => Err(Failure::new(FailureCode::Internal, error.to_string())),
            Err(_) => Err(Failure::new(FailureCode::ProviderDown, "the machine is too slow to look at a session")),
        }
    }

    /// Closes every browser and waits until all are gone. Starts are refused from here on.
    pub async fn close_all(&self) {
        self.setting.hurry.cancel();
        for entry in self.entries().values() {
            entry.stop.cancel();
        }
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// Kills every browser without asking it, for an end that cannot wait; nothing is waited for.
    pub fn kill_all(&self) {
        let all = processes::all();
        let trees: Vec<Tree> = self
            .entries()
            .iter()
            .map(|(profile, entry)| match &entry.up {
                Some((_, tree)) => tree.clone(),
                None => Tree { main: None, data_dir: self.setting.profiles_dir.join(profile.as_str()) },
            })
            .collect();
        for member in trees.iter().flat_map(|tree| tree.members(&all, &std::collections::BTreeSet::new())) {
            if let Err(error) = processes::signal(member, Signal::KILL) {
                tracing::warn!(pid = member.pid, %error, "a process of a browser cannot be killed");
            }
        }
    }
}

impl Entry {
    fn in_use(&self, profile: &ProfileId) -> String {
        match &self.up {
            _ if self.stop.is_cancelled() => format!("the browser of {profile} is being closed; try again in a moment"),
            None => format!("the browser of {profile} is starting for somebody else"),
            Some((session, _)) => {
                format!("the browser of {profile} runs already (process {}, since {})", session.pid, session.started_at)
            }
        }
    }
}

/// The client may be gone: the browser lives all the same, and can be stopped by its profile.
fn say(tell: &Mutex<Option<oneshot::Sender<Result<Session, Failure>>>>, result: Result<Session, Failure>) {
    if let Some(tell) = tell.lock().unwrap_or_else(PoisonError::into_inner).take()
        && tell.send(result).is_err()
    {
        tracing::info!("nobody waits for this start any more");
    }
}

fn value(answer: impl serde::Serialize) -> Result<serde_json::Value, Failure> {
    serde_json::to_value(answer).map_err(|error| Failure::new(FailureCode::Internal, error.to_string()))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use tokio_util::sync::CancellationToken;

    use super::Sessions;
    use crate::browser::host::life::Setting;
    use crate::browser::host::protocol::{Call, Outcome};
    use crate::browser::host::reaper::Reaper;
    use crate::model::FailureCode;

    fn sessions(profiles_dir: &Path) -> Sessions {
        Sessions::new(Setting {
            profiles_dir: profiles_dir.canonicalize().unwrap(),
            chromium: Some("/nonexistent/chromium".into()),
            sandbox: true,
            reaper: Reaper::default(),
            hurry: CancellationToken::new(),
        })
    }

    fn start(profile: &str) -> Call {
        serde_json::from_value(serde_json::json!({"call": "start", "profile": profile, "headless": true})).unwrap()
    }

    fn code(outcome: Outcome) -> FailureCode {
        match outcome {
            Outcome::Error(failure) => failure.code,
            Outcome::Ok(value) => panic!("expected a failure, got {value}"),
        }
    }

    #[tokio::test]
    async fn a_failed_start_frees_its_place_and_a_closing_host_starts_nothing() {
        let root = tempfile::tempdir().unwrap();
        let sessions = sessions(root.path());
        for _ in 0..2 {
            assert_eq!(code(sessions.answer(start("anna")).await), FailureCode::BrowserNotFound);
        }
        assert_eq!(sessions.answer(Call::Running).await, Outcome::Ok(serde_json::json!([])));
        sessions.close_all().await;
        assert_eq!(code(sessions.answer(start("anna")).await), FailureCode::ProviderDown);
    }
}
