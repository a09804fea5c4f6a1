//! The start of a profile: room is made, the intent is noted, one call is made, and its end is understood.
//!
//! Called by the provider, which holds the profile's gate. Invariants: the profile did not run a moment before
//! the intent was noted; a call is made again only after an answer that proves that nothing was launched, and
//! never after one that was cut or did not come: then what runs decides. Whatever this call may have brought
//! up stays noted until `stopping` has seen it gone. Dropped at any await, it leaves a note that says so.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::answer::{Meaning, Refusal, Running, Started};
use super::attach;
use super::exchange::Trouble;
use super::notebook::{Endpoint, Note, Whose};
use super::stopping::{self, Remains};
use super::{DolphinProvider, THE_APP, sight};
use crate::browser::{Session, StartGate, StartOptions};
use crate::config::OnDuplicate;
use crate::config::dolphin::profile_number;
use crate::model::{Failure, FailureCode, ProfileId};

/// What is started.
#[derive(Clone, Copy)]
pub struct Wanted<'a> {
    pub profile: &'a ProfileId,
    pub id: u64,
    pub options: StartOptions,
    pub gate: &'a dyn StartGate,
}

/// What one call came to, where it did not bring up a session.
enum Again {
    /// Nothing was launched, and the same call may go through after a pause.
    After(Duration),
    Never(Failure),
}

impl From<Failure> for Again {
    fn from(failure: Failure) -> Self {
        Self::Never(failure)
    }
}

/// How often which answer has been waited out in one start.
struct Patience {
    duplicate_until: Instant,
    /// For answers that ask for fewer launches.
    launches_until: Instant,
    locked: u32,
    connections: u32,
    sign_ins: u32,
    /// Of what is not listed, where the configuration says so.
    stops: u32,
    pause: Duration,
}

/// A few times each; a start holds a place of its own meanwhile.
const LOCKED_TRIES: u32 = 3;

/// The profile's browser, with a DevTools port that answers.
pub async fn start(dolphin: &DolphinProvider, wanted: Wanted<'_>) -> Result<Session, Failure> {
    let deadlines = &dolphin.deadlines;
    let now = Instant::now();
    let mut patience = Patience {
        duplicate_until: now + deadlines.duplicate,
        launches_until: now + deadlines.start,
        locked: LOCKED_TRIES,
        connections: 1,
        sign_ins: 1,
        stops: u32::from(dolphin.on_duplicate == OnDuplicate::StopAndStart),
        pause: deadlines.first_look,
    };
    loop {
        if let Some(session) = make_room(dolphin, wanted).await? {
            return Ok(session);
        }
        match launch(dolphin, wanted, &mut patience).await {
            Ok(session) => return Ok(session),
            Err(Again::After(pause)) => sleep(pause).await,
            Err(Again::Never(failure)) => return Err(failure),
        }
    }
}

/// Sees that the profile does not run. A browser of ours that answers is used again.
async fn make_room(dolphin: &DolphinProvider, wanted: Wanted<'_>) -> Result<Option<Session>, Failure> {
    let Wanted { profile, id, .. } = wanted;
    let map = dolphin.local.running().await?;
    let Some(running) = map.get(&id).copied() else {
        // What was left of an earlier start is in the way, too.
        return stopping::stop(dolphin, profile, id).await.map(|()| None);
    };
    if let Some(note) = dolphin.notebook.get(profile) {
        let sight = sight::of(id, running).await;
        let seen = stopping::seen(dolphin, &note, &sight).await;
        if note.whose(&seen) == Whose::Ours
            && let Some(session) = attach::again(&note, &seen)
        {
            tracing::info!(%profile, "the browser of an earlier start is used again");
            return Ok(Some(session));
        }
        match stopping::stop(dolphin, profile, id).await {
            // Nothing of ours is left.
            Err(in_use) if in_use.code == FailureCode::ProfileInUse => {}
            stopped => return stopped.map(|()| None),
        }
    }
    take_from_operator(dolphin, wanted, running).await.map(|()| None)
}

/// It runs, and not for us.
async fn take_from_operator(dolphin: &DolphinProvider, wanted: Wanted<'_>, running: Running) -> Result<(), Failure> {
    let Wanted { profile, id, .. } = wanted;
    if dolphin.on_duplicate == OnDuplicate::Wait {
        return Err(stopping::in_use(profile, running));
    }
    tracing::warn!(%profile, "somebody else's browser is stopped, as `on_duplicate` says");
    let sight = sight::of(id, running).await;
    stopping::end(dolphin, profile, id, Remains::of(None, sight.members)).await
}

/// One start call, and what follows from its answer.
async fn launch(dolphin: &DolphinProvider, wanted: Wanted<'_>, patience: &mut Patience) -> Result<Session, Again> {
    let Wanted { profile, id, options, .. } = wanted;
    begin(dolphin, wanted).await?;
    let answer = dolphin.local.start(id, options.headless).await;
    let (started, retry_after) = match answer {
        Ok(answer) => answer,
        Err(trouble) => return unanswered(dolphin, wanted, &trouble).await.map_err(Again::Never),
    };
    match started {
        Started::Ready(endpoint) => {
            launched(dolphin, profile, attach::whole(&endpoint)).await;
            attach::first(dolphin, wanted, endpoint).await.map_err(Again::Never)
        }
        Started::WithoutAutomation => {
            launched(dolphin, profile, None).await;
            let detail = format!("{THE_APP} started {profile} without automation, which nothing can drive");
            Err(Again::Never(attach::given_up(dolphin, wanted, detail).await))
        }
        Started::Refused(refusal) => refused(dolphin, wanted, patience, &refusal, retry_after).await,
    }
}

/// Waits for its turn and notes the intent.
async fn begin(dolphin: &DolphinProvider, wanted: Wanted<'_>) -> Result<(), Failure> {
    dolphin.wait_for_gap(wanted.profile).await;
    dolphin.take_turn(wanted.gate).await?;
    let now = dolphin.clock.moment();
    let note = Note {
        profile: wanted.profile.clone(),
        headless: wanted.options.headless,
        began: now.boot,
        began_at: now.wall,
        until: now.boot.plus(dolphin.deadlines.start + dolphin.deadlines.late),
        launched: false,
        said: None,
        endpoint: None,
        process: None,
    };
    let unsent = dolphin.notebook.begin(note).await.map_err(|error| {
        let detail =
            format!("what is about to be started in {THE_APP} cannot be noted in the state directory: {error}");
        Failure::new(FailureCode::BrowserStartFailed, detail)
    })?;
    unsent.sent();
    Ok(())
}

/// The answer says that it runs, and where: what began until now is ours.
async fn launched(dolphin: &DolphinProvider, profile: &ProfileId, said: Option<Endpoint>) {
    let now = dolphin.clock.moment().boot;
    let change = |note: &mut Note| {
        note.launched = true;
        note.said = said;
        note.until = now;
    };
    dolphin.notebook.change(profile, change).await;
}

/// From here on nothing of this call begins any more, save within `grace`.
async fn closes(dolphin: &DolphinProvider, profile: &ProfileId, grace: Duration) {
    let until = dolphin.clock.moment().boot.plus(grace);
    dolphin.notebook.change(profile, |note| note.until = until).await;
}

/// There is no answer. A browser that came up all the same is used, where its process leads to it.
async fn unanswered(dolphin: &DolphinProvider, wanted: Wanted<'_>, trouble: &Trouble) -> Result<Session, Failure> {
    let profile = wanted.profile;
    let grace = match trouble {
        Trouble::Shut { .. } | Trouble::NotSent(_) => {
            dolphin.notebook.tear_out(profile).await;
            return Err(trouble.failure(THE_APP));
        }
        Trouble::Cut(_) => dolphin.deadlines.cut,
        Trouble::Late(_) => dolphin.deadlines.late,
    };
    closes(dolphin, profile, grace).await;
    let detail = format!("{THE_APP}: the start of {profile} had {trouble}");
    // The silence is the application's, whatever it was asked for: no item pays for it.
    garbled(dolphin, wanted, Failure::new(FailureCode::ProviderDown, detail)).await
}

/// What came says neither yes nor no. `failure`: what it is where no browser came up.
async fn garbled(dolphin: &DolphinProvider, wanted: Wanted<'_>, failure: Failure) -> Result<Session, Failure> {
    match attach::adopt(dolphin, wanted).await {
        Some(session) => {
            tracing::warn!(profile = %wanted.profile, %failure, "a browser came up without an answer, and is used");
            Ok(session)
        }
        None => Err(doubtful(dolphin, wanted, failure).await),
    }
}

/// Nobody knows whether a browser came up: what runs decides. `failure`: what it is where none did.
async fn doubtful(dolphin: &DolphinProvider, wanted: Wanted<'_>, failure: Failure) -> Failure {
    let Wanted { profile, id, .. } = wanted;
    let running = match dolphin.local.running().await {
        Ok(map) => map.get(&id).copied(),
        // The application itself is gone: that is not the profile's fault.
        Err(down) => return down,
    };
    if running.is_none() {
        return failure;
    }
    match stopping::stop(dolphin, profile, id).await {
        Ok(()) => Failure::new(failure.code, format!("{}; a browser had come up, and was stopped", failure.detail)),
        Err(in_use) if in_use.code == FailureCode::ProfileInUse => in_use,
        Err(left) => {
            Failure::new(failure.code, format!("{}; a browser came up, and was not stopped: {left}", failure.detail))
        }
    }
}

async fn refused(
    dolphin: &DolphinProvider,
    wanted: Wanted<'_>,
    patience: &mut Patience,
    refusal: &Refusal,
    retry_after: Option<Duration>,
) -> Result<Session, Again> {
    let profile = wanted.profile;
    let failure = |code: FailureCode, why: &str| Failure::new(code, format!("{THE_APP}: {profile}: {why} ({refusal})"));
    match refusal.meaning {
        Meaning::Duplicate
        | Meaning::PlanForbids
        | Meaning::PlanLimit
        | Meaning::TooManyLaunches
        | Meaning::SignedOut
        | Meaning::BadRequest
        | Meaning::NoAccess => dolphin.notebook.tear_out(profile).await,
        // Not in the form of an answer: it may be the end of one that was cut.
        Meaning::Unreadable | Meaning::NotTheApi => closes(dolphin, profile, dolphin.deadlines.cut).await,
        Meaning::Locked | Meaning::InitConnection | Meaning::Failed => closes(dolphin, profile, Duration::ZERO).await,
    }
    match refusal.meaning {
        Meaning::Duplicate => duplicate(dolphin, wanted, patience, refusal).await,
        Meaning::PlanForbids => Err(failure(FailureCode::ProviderRefused, "automation is not in its plan").into()),
        Meaning::PlanLimit => {
            Err(failure(FailureCode::ProviderFull, "its plan runs no more profiles at a time").into())
        }
        Meaning::TooManyLaunches => {
            let longer = (patience.pause * 2).min(dolphin.deadlines.longest_look);
            patience.pause = retry_after.unwrap_or(longer);
            if Instant::now() + patience.pause >= patience.launches_until {
                return Err(failure(FailureCode::ProviderFull, "too many launches at a time").into());
            }
            Err(Again::After(patience.pause))
        }
        Meaning::SignedOut if patience.sign_ins > 0 => {
            patience.sign_ins -= 1;
            dolphin.local.sign_in(refusal).await?;
            Err(Again::After(Duration::ZERO))
        }
        Meaning::SignedOut => Err(failure(FailureCode::ProviderSignedOut, "nobody is signed in").into()),
        Meaning::BadRequest => {
            Err(failure(FailureCode::ProviderRefused, "it does not understand how it was asked").into())
        }
        Meaning::Locked if patience.locked > 0 => {
            patience.locked -= 1;
            let why = failure(FailureCode::ProfileBroken, "its files are in use");
            wait_out(dolphin, wanted, why, dolphin.deadlines.locked).await
        }
        Meaning::InitConnection if patience.connections > 0 => {
            patience.connections -= 1;
            let why = failure(FailureCode::BrowserStartFailed, "the launch had no connection");
            wait_out(dolphin, wanted, why, dolphin.deadlines.locked).await
        }
        Meaning::NoAccess
        | Meaning::NotTheApi
        | Meaning::Failed
        | Meaning::Unreadable
        | Meaning::Locked
        | Meaning::InitConnection => {
            let why = match refusal.meaning {
                Meaning::NotTheApi | Meaning::Unreadable => {
                    failure(FailureCode::ProviderDown, "what answered to its start is no answer of the Local API")
                }
                _ if refusal.is_of_the_profile() => failure(FailureCode::ProfileBroken, "it could not be started"),
                _ => failure(FailureCode::BrowserStartFailed, "it could not be started"),
            };
            failed(dolphin, wanted, refusal, why).await.map_err(Again::Never)
        }
    }
}

/// It did not come up, says the answer, or says nothing that can be read.
async fn failed(
    dolphin: &DolphinProvider,
    wanted: Wanted<'_>,
    refusal: &Refusal,
    why: Failure,
) -> Result<Session, Failure> {
    let ended = match refusal.meaning {
        Meaning::NoAccess => why,
        Meaning::Unreadable | Meaning::NotTheApi => match garbled(dolphin, wanted, why).await {
            Ok(session) => return Ok(session),
            Err(ended) => ended,
        },
        _ => doubtful(dolphin, wanted, why).await,
    };
    if !matches!(ended.code, FailureCode::BrowserStartFailed | FailureCode::ProfileBroken) {
        return Err(ended);
    }
    Err(dolphin.cloud.says_unknown(wanted.id, refusal).await.unwrap_or(ended))
}

/// The launch failed for a moment's reason. Where a browser came up all the same, it is taken back, and the
/// call is not made again.
async fn wait_out(
    dolphin: &DolphinProvider,
    wanted: Wanted<'_>,
    why: Failure,
    pause: Duration,
) -> Result<Session, Again> {
    let ended = doubtful(dolphin, wanted, why.clone()).await;
    if ended != why {
        return Err(ended.into());
    }
    // Up to twice as long, so that several do not come back together.
    Err(Again::After(pause.mul_f64(1.0 + fastrand::f64())))
}

/// It runs already, says the answer; it did not, said the look before. Either it has just been stopped and
/// has not quite ended, or somebody opened it at this moment, or Dolphin has lost count of it.
async fn duplicate(
    dolphin: &DolphinProvider,
    wanted: Wanted<'_>,
    patience: &mut Patience,
    refusal: &Refusal,
) -> Result<Session, Again> {
    patience.pause = (patience.pause * 2).min(dolphin.deadlines.longest_look);
    if patience.stops > 0 {
        patience.stops -= 1;
        if let Err(unmet) = stopping::call(dolphin, wanted.id).await {
            tracing::warn!(profile = %wanted.profile, failure = %unmet.failure(), "what is said to run was not stopped");
        }
    }
    if Instant::now() + patience.pause < patience.duplicate_until {
        return Err(Again::After(patience.pause));
    }
    let detail = format!("{THE_APP} says that {} runs already, and does not list it ({refusal})", wanted.profile);
    Err(Failure::new(FailureCode::ProfileInUse, detail).into())
}

/// Dolphin's own number of a profile.
pub fn number_of(profile: &ProfileId) -> Result<u64, Failure> {
    profile_number(profile.as_str()).ok_or_else(|| {
        let detail = format!("{profile} is no profile of {THE_APP}, whose ids are numbers");
        Failure::new(FailureCode::ProfileUnknown, detail)
    })
}
