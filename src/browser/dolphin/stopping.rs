//! The end of a profile's browser: only of ours, and only when it is seen to be gone.
//!
//! Called by the provider, which holds the profile's gate, and by the start for what is in its way. What
//! Dolphin answers to a stop is not believed either way: gone is a browser that Dolphin does not list, whose
//! processes are dead and whose port is closed. One that Dolphin says it has stopped, or does not know any
//! more, and that still answers as ours, is asked to close itself. `retryToStop` is never used: it may damage
//! the profile.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::{sleep, timeout};

use super::answer::{Meaning, Running};
use super::devtools::{self, Port};
use super::local::Unmet;
use super::notebook::{Endpoint, Note, Seen, Whose};
use super::pace::{Looks, Tries};
use super::sight::{self, Sight};
use super::{DolphinProvider, THE_APP};
use crate::browser::host;
use crate::browser::processes::Identity;
use crate::model::{Failure, FailureCode, ProfileId};

/// For a browser to hear that it should close.
const ASK_DEADLINE: Duration = Duration::from_secs(5);

/// What has to be gone.
#[derive(Clone, Debug, Default)]
pub struct Remains {
    /// Its processes as far as they are known, those that are dead already, too.
    members: BTreeSet<Identity>,
    endpoint: Option<Endpoint>,
    /// It was seen to answer there.
    answered: bool,
}

impl Remains {
    pub fn of(note: Option<&Note>, mut members: BTreeSet<Identity>) -> Self {
        members.extend(note.and_then(|note| note.process));
        let endpoint = note.and_then(Note::listens_at).cloned();
        Self { members, endpoint, answered: note.is_some_and(|note| note.endpoint.is_some()) }
    }

    fn name(&self) -> String {
        match (self.members.iter().next(), &self.endpoint) {
            (Some(first), _) => format!("process {}", first.pid),
            (None, Some(endpoint)) => format!("DevTools port {}", endpoint.port),
            (None, None) => "listed as running".to_owned(),
        }
    }
}

/// What is noted of the profile is ended; nothing noted is nothing to end.
///
/// # Errors
/// `profile_in_use` where what runs is somebody else's and nothing of ours is left. Anything else: ours may
/// still run.
pub async fn stop(dolphin: &DolphinProvider, profile: &ProfileId, id: u64) -> Result<(), Failure> {
    let mut looks = Looks::new(&dolphin.deadlines, dolphin.deadlines.gone);
    loop {
        let Some(note) = dolphin.notebook.get(profile) else {
            dolphin.notebook.tidy().await;
            return Ok(());
        };
        let map = match dolphin.local.running().await {
            Ok(map) => map,
            Err(failure) => return without_the_app(dolphin, &note, failure).await,
        };
        let may_come = note.may_come(dolphin.clock.moment().boot, dolphin.deadlines.quiet);
        if let Some(running) = map.get(&id) {
            let sight = sight::of(id, *running).await;
            let seen = seen(dolphin, &note, &sight).await;
            if note.whose(&seen) == Whose::Ours {
                return end(dolphin, profile, id, Remains::of(Some(&note), sight.members)).await;
            }
            // A browser that is just coming up may not be visible yet.
            if sight.main.is_some() || !may_come {
                // Ours may live beside it, where Dolphin has lost count of it.
                let remains = remains_of(dolphin, &note).await;
                if is_left(dolphin, &remains).await {
                    close_ourselves(dolphin, profile, id, remains).await?;
                }
                dolphin.notebook.tear_out(profile).await;
                return Err(in_use(profile, *running));
            }
        } else {
            let remains = remains_of(dolphin, &note).await;
            if is_left(dolphin, &remains).await {
                return close_ourselves(dolphin, profile, id, remains).await;
            }
            if !may_come {
                dolphin.notebook.tear_out(profile).await;
                return Ok(());
            }
        }
        if !looks.again().await {
            let detail =
                format!("{THE_APP}: a start of {profile} that had no answer may still come through; it is looked for");
            return Err(Failure::new(FailureCode::BrowserStartFailed, detail));
        }
    }
}

pub fn in_use(profile: &ProfileId, running: Running) -> Failure {
    let process = running.pid.map_or_else(String::new, |pid| format!(" (process {pid})"));
    let detail = format!("{profile} runs in {THE_APP}{process}, and not for cove");
    Failure::new(FailureCode::ProfileInUse, detail)
}

/// What can be seen of the running profile that tells whose it is.
pub async fn seen(dolphin: &DolphinProvider, note: &Note, sight: &Sight) -> Seen {
    let answers = match note.listens_at() {
        Some(endpoint) => answers(dolphin, endpoint).await,
        None => false,
    };
    seen_of(sight, answers)
}

pub fn seen_of(sight: &Sight, answers: bool) -> Seen {
    Seen { pid: sight.pid, process: sight.main, debuggable: sight.debuggable || !sight.ports.is_empty(), answers }
}

/// Whether the browser that was noted answers.
pub async fn answers(dolphin: &DolphinProvider, endpoint: &Endpoint) -> bool {
    let found = devtools::look(&dolphin.local.http, endpoint.port).await;
    matches!(found, Port::Browser(path) if path == endpoint.ws_path)
}

async fn remains_of(dolphin: &DolphinProvider, note: &Note) -> Remains {
    let main = match (note.process, note.listens_at()) {
        (Some(main), _) => Some(main),
        (None, Some(endpoint)) if answers(dolphin, endpoint).await => sight::on_port(endpoint.port).await,
        (None, _) => None,
    };
    let members = match main {
        Some(main) => sight::tree(main).await,
        None => BTreeSet::new(),
    };
    Remains::of(Some(note), members)
}

/// Whether something of it lives, whatever Dolphin says.
async fn is_left(dolphin: &DolphinProvider, remains: &Remains) -> bool {
    if sight::is_one_alive(&remains.members).await {
        return true;
    }
    let Some(endpoint) = &remains.endpoint else { return false };
    match devtools::look(&dolphin.local.http, endpoint.port).await {
        Port::Closed => false,
        Port::Browser(path) => path == endpoint.ws_path,
        // Where the processes are known to be dead, or it was never there, somebody else has the port.
        Port::Silent => remains.answered && remains.members.is_empty(),
    }
}

/// Dolphin does not answer: only what this machine shows can prove an end.
async fn without_the_app(dolphin: &DolphinProvider, note: &Note, failure: Failure) -> Result<(), Failure> {
    let remains = remains_of(dolphin, note).await;
    let known = note.process.is_some() || note.endpoint.is_some();
    if !known || is_left(dolphin, &remains).await {
        return Err(failure);
    }
    dolphin.notebook.tear_out(&note.profile).await;
    Ok(())
}

/// Stops it through Dolphin and waits until it is gone.
pub async fn end(dolphin: &DolphinProvider, profile: &ProfileId, id: u64, remains: Remains) -> Result<(), Failure> {
    let said = call(dolphin, id).await;
    let deadlines = &dolphin.deadlines;
    if gone(dolphin, id, &remains, deadlines.gone.min(deadlines.linger)).await {
        dolphin.note_end(profile).await;
        return Ok(());
    }
    match said {
        // A browser that Dolphin could not stop is tried again by the caller, and not behind its back.
        Err(unmet) if !is_an_answer(&unmet) => Err(unmet.failure()),
        _ => close_ourselves(dolphin, profile, id, remains).await,
    }
}

/// `success:false` comes for a browser that has ended already.
fn is_an_answer(unmet: &Unmet) -> bool {
    matches!(unmet, Unmet::Refused(refusal) if refusal.meaning == Meaning::Failed && refusal.status < 300)
}

/// The stop call, one at a time for the whole application. It changes nothing when it is made twice.
pub async fn call(dolphin: &DolphinProvider, id: u64) -> Result<(), Unmet> {
    let _turn = dolphin.stops.lock().await;
    let mut tries = Tries::new(&dolphin.deadlines, dolphin.deadlines.stop);
    let mut signed_in = false;
    loop {
        let unmet = match dolphin.local.stop(id, tries.left()).await {
            Ok(()) => return Ok(()),
            Err(unmet) => unmet,
        };
        match &unmet {
            Unmet::Refused(refusal) if refusal.meaning == Meaning::SignedOut && !signed_in => {
                signed_in = true;
                if let Err(failure) = dolphin.local.sign_in(refusal).await {
                    tracing::warn!(%failure, "a stop needs a sign-in");
                    return Err(unmet);
                }
                // Before it nothing was done.
                tries = Tries::new(&dolphin.deadlines, dolphin.deadlines.stop);
            }
            _ if unmet.may_pass() => match tries.pause() {
                Some(pause) => sleep(pause).await,
                None => return Err(unmet),
            },
            _ => return Err(unmet),
        }
    }
}

/// Dolphin has stopped it, or does not know it any more, and it lives: it is asked itself, if it can be.
async fn close_ourselves(
    dolphin: &DolphinProvider,
    profile: &ProfileId,
    id: u64,
    remains: Remains,
) -> Result<(), Failure> {
    if let Some(endpoint) = &remains.endpoint
        && answers(dolphin, endpoint).await
    {
        tracing::warn!(%profile, what = remains.name(), "a browser outlived its stop: it is asked to close itself");
        let url = format!("ws://127.0.0.1:{}{}", endpoint.port, endpoint.ws_path);
        if timeout(ASK_DEADLINE, host::close::ask(&url)).await.is_err() {
            tracing::warn!(%profile, "the browser does not hear");
        }
    }
    let left = dolphin.deadlines.gone.saturating_sub(dolphin.deadlines.linger);
    if gone(dolphin, id, &remains, left).await {
        dolphin.note_end(profile).await;
        return Ok(());
    }
    let detail = format!(
        "{THE_APP}: the browser of {profile} was stopped and still lives ({}); close it by hand",
        remains.name()
    );
    Err(Failure::new(FailureCode::BrowserLost, detail))
}

/// Looks until it is gone, at growing intervals.
pub async fn gone(dolphin: &DolphinProvider, id: u64, remains: &Remains, within: Duration) -> bool {
    let mut looks = Looks::new(&dolphin.deadlines, within);
    loop {
        if !is_left(dolphin, remains).await && !is_listed(dolphin, id, remains).await {
            return true;
        }
        if !looks.again().await {
            return false;
        }
    }
}

/// Whether Dolphin still lists it. What it lists under another process that lives was started since.
async fn is_listed(dolphin: &DolphinProvider, id: u64, remains: &Remains) -> bool {
    match dolphin.local.running().await {
        Ok(map) => match map.get(&id).copied() {
            Some(Running { pid: Some(pid) }) if !remains.members.is_empty() => {
                let process = sight::alive(pid).await;
                process.is_none_or(|process| remains.members.contains(&process))
            }
            listed => listed.is_some(),
        },
        // Down, it lists nothing; where nothing else could be seen of the browser, that proves nothing.
        Err(_) => remains.members.is_empty() && !remains.answered,
    }
}
