//! From an answer that names an endpoint to a session whose DevTools answers, and as the right browser.
//!
//! Called by the start. The id of the browser, which is new at every start, has to be the answered one; where
//! the answer has none, or one of an earlier run, the port counts only if the process that Dolphin lists for
//! this profile listens on it: another profile's browser on that port would publish from the wrong account.
//! A browser that does not get so far is taken back.

use tokio::time::Instant;

use super::DolphinProvider;
use super::answer;
use super::devtools::{self, Port};
use super::exchange::in_words;
use super::notebook::{Endpoint, Note, Seen, Whose};
use super::pace::Looks;
use super::sight::{self, Sight};
use super::starting::Wanted;
use super::stopping::{self, Remains};
use crate::browser::Session;
use crate::browser::processes::Identity;
use crate::model::{Failure, FailureCode};

/// What one look found.
enum Found {
    Browser(Endpoint, Option<Identity>),
    NotYet(String),
    Ended,
}

/// Where the answer says that the browser listens, if it says it whole.
pub fn whole(said: &answer::Endpoint) -> Option<Endpoint> {
    Some(Endpoint { port: said.port?, ws_path: said.ws_path.clone()? })
}

/// The session of a browser that was started before, where it answers.
pub fn again(note: &Note, seen: &Seen) -> Option<Session> {
    let endpoint = note.endpoint.as_ref().filter(|_| seen.answers)?;
    Some(session(note, endpoint, seen.process))
}

fn session(note: &Note, endpoint: &Endpoint, seen: Option<Identity>) -> Session {
    Session {
        profile: note.profile.clone(),
        port: endpoint.port,
        ws_path: endpoint.ws_path.clone(),
        // None where neither Dolphin nor the system tells it.
        pid: note.process.or(seen).map_or(0, |process| process.pid),
        started_at: note.began_at,
        headless: note.headless,
    }
}

/// The session of a browser that came up without an answer, where its process leads to its DevTools.
pub async fn adopt(dolphin: &DolphinProvider, wanted: Wanted<'_>) -> Option<Session> {
    let sight = listed(dolphin, wanted.id).await.ok()??;
    let Found::Browser(endpoint, process) = by_process(dolphin, wanted, &sight, &Port::Closed).await else {
        return None;
    };
    keep(dolphin, wanted, &endpoint, process).await
}

/// Notes where the browser answers.
async fn keep(
    dolphin: &DolphinProvider,
    wanted: Wanted<'_>,
    endpoint: &Endpoint,
    process: Option<Identity>,
) -> Option<Session> {
    let now = dolphin.clock.moment().boot;
    let change = |note: &mut Note| {
        note.launched = true;
        note.until = note.until.min(now);
        note.endpoint = Some(endpoint.clone());
        note.process = process.or(note.process);
    };
    dolphin.notebook.change(wanted.profile, change).await;
    let note = dolphin.notebook.get(wanted.profile)?;
    Some(session(&note, endpoint, process))
}

/// Waits for the DevTools of a browser that has just been started.
pub async fn first(dolphin: &DolphinProvider, wanted: Wanted<'_>, said: answer::Endpoint) -> Result<Session, Failure> {
    let profile = wanted.profile;
    let mut looks = Looks::new(&dolphin.deadlines, dolphin.deadlines.attach);
    // Since when it is not listed, with nobody on its port.
    let mut quiet_since = None;
    let why = loop {
        match look(dolphin, wanted, &said, &mut quiet_since).await {
            Found::Browser(endpoint, process) => {
                return keep(dolphin, wanted, &endpoint, process).await.ok_or_else(|| {
                    Failure::new(FailureCode::Internal, format!("the note of {profile} was torn out while it started"))
                });
            }
            Found::Ended => break "it ended right after its start".to_owned(),
            Found::NotYet(why) => {
                if !looks.again().await {
                    break format!("{why} for {}", in_words(dolphin.deadlines.attach));
                }
            }
        }
    };
    Err(given_up(dolphin, wanted, format!("the browser of {profile}: {why}")).await)
}

async fn look(
    dolphin: &DolphinProvider,
    wanted: Wanted<'_>,
    said: &answer::Endpoint,
    quiet_since: &mut Option<Instant>,
) -> Found {
    let at_port = match said.port {
        Some(port) => devtools::look(&dolphin.local.http, port).await,
        None => Port::Closed,
    };
    if let (Some(port), Port::Browser(path)) = (said.port, &at_port)
        && said.ws_path.as_ref() == Some(path)
    {
        return Found::Browser(Endpoint { port, ws_path: path.clone() }, process_of(dolphin, wanted, port).await);
    }
    let main = dolphin.notebook.get(wanted.profile).and_then(|note| note.process);
    if let Some(main) = main
        && !sight::is_one_alive(&[main].into()).await
    {
        return Found::Ended;
    }
    let is_quiet = match listed(dolphin, wanted.id).await {
        Ok(Some(sight)) => {
            *quiet_since = None;
            return by_process(dolphin, wanted, &sight, &at_port).await;
        }
        Ok(None) => at_port == Port::Closed,
        Err(_) => false,
    };
    *quiet_since = is_quiet.then(|| quiet_since.unwrap_or_else(Instant::now));
    match *quiet_since {
        Some(since) if since.elapsed() >= dolphin.deadlines.quiet => Found::Ended,
        _ => Found::NotYet(said_nothing(&at_port)),
    }
}

/// The process of a browser that answers on `port`. A number that Dolphin gives may mean another process here, where
/// one of the two runs in a container: it has to have begun with this start.
async fn process_of(dolphin: &DolphinProvider, wanted: Wanted<'_>, port: u16) -> Option<Identity> {
    let listed = listed(dolphin, wanted.id).await.ok().flatten().and_then(|sight| sight.main);
    let note = dolphin.notebook.get(wanted.profile)?;
    match listed.filter(|main| note.is_in_window(*main)) {
        Some(main) => Some(main),
        None => sight::on_port(port).await,
    }
}

/// The answer does not fit what is there: only the process that Dolphin lists can tell the port.
async fn by_process(dolphin: &DolphinProvider, wanted: Wanted<'_>, sight: &Sight, at_port: &Port) -> Found {
    let Some(note) = dolphin.notebook.get(wanted.profile) else { return Found::NotYet(said_nothing(at_port)) };
    let seen = stopping::seen(dolphin, &note, sight).await;
    if note.whose(&seen) == Whose::Ours {
        if note.process.is_none() && sight.main.is_some() {
            // Whatever comes of it, its end can be told from now on.
            dolphin.notebook.change(wanted.profile, |note| note.process = sight.main).await;
        }
        for port in &sight.ports {
            if let Port::Browser(ws_path) = devtools::look(&dolphin.local.http, *port).await {
                tracing::info!(profile = %wanted.profile, port, "the endpoint was found by its process");
                return Found::Browser(Endpoint { port: *port, ws_path }, sight.main);
            }
        }
    }
    Found::NotYet(said_nothing(at_port))
}

fn said_nothing(at_port: &Port) -> String {
    match at_port {
        Port::Closed => "nobody answered on its DevTools port",
        Port::Silent => "what answers on its DevTools port is no browser",
        Port::Browser(_) => "another browser answered on its DevTools port",
    }
    .to_owned()
}

/// The profile as Dolphin lists it. None: it does not.
async fn listed(dolphin: &DolphinProvider, id: u64) -> Result<Option<Sight>, Failure> {
    match dolphin.local.running().await?.get(&id) {
        Some(running) => Ok(Some(sight::of(id, *running).await)),
        None => Ok(None),
    }
}

/// It was started, and is of no use: it is stopped. What is left is in the answer, and in its note.
pub async fn given_up(dolphin: &DolphinProvider, wanted: Wanted<'_>, detail: String) -> Failure {
    let Wanted { profile, id, .. } = wanted;
    let ended = match listed(dolphin, id).await {
        // Its process cannot be seen: that the start was answered a moment ago has to be enough.
        Ok(Some(sight)) if sight.main.is_none() => {
            let note = dolphin.notebook.get(profile);
            stopping::end(dolphin, profile, id, Remains::of(note.as_ref(), sight.members)).await
        }
        _ => stopping::stop(dolphin, profile, id).await,
    };
    match ended {
        Ok(()) => Failure::new(FailureCode::AttachFailed, detail),
        Err(in_use) if in_use.code == FailureCode::ProfileInUse => in_use,
        Err(left) => Failure::new(FailureCode::AttachFailed, format!("{detail}; and it could not be stopped: {left}")),
    }
}
