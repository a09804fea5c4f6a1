//! A lent browser: a program drives a profile through cove's own address, under a lease.
//!
//! [`run`] is a child of the loop like an attempt: it starts the browser and watches until somebody asks for
//! the end, the browser is gone, or its borrower has vanished. The [`Door`] is what the API lets the borrower
//! in by: it opens when the browser is up, and shuts before the browser is stopped, so that nothing is sent to
//! it any more when the lease is over. Doors, with their secret tokens, are in memory alone: after a restart of
//! the daemon no old address leads anywhere. What follows from an end is the state machine's to know.

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use tokio::sync::watch;

use super::event::{AttemptEnd, Event};
use super::operator::{new_token, running};
use super::pressure::Scarce;
use super::turn::Child;
use crate::browser::{Session, StartOptions};
use crate::model::{Failure, FailureCode, Fence, ItemId, Moment, ProfileId, Timestamp};
use crate::store::{Claim, ClaimRefused, Claimed, Store, StoreError, Worker};

/// A program that was connected and has not been for so long is gone.
pub const VANISHED_AFTER: Duration = Duration::from_secs(30);
/// Connections through one door at a time.
pub const MAX_VISITS: u32 = 16;
/// How often the browser is looked at.
const WATCH_EVERY: Duration = Duration::from_secs(1);
/// Shut doors that still tell why.
const REMEMBERED: usize = 64;

/// A browser that somebody wants.
#[derive(Clone, Debug, PartialEq)]
pub struct LendAsked {
    pub profile: ProfileId,
    pub to: Borrower,
    pub ttl: Duration,
    pub headless: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Borrower {
    /// A program, by the name that it gave itself.
    Program(String),
    /// An outside worker that takes this item with it.
    Worker { item: ItemId, name: String, kinds: Vec<String> },
}

/// What was given. The browser is on its way.
#[derive(Clone, Debug, PartialEq)]
pub struct Lent {
    /// Of the profile's lock, and of the claim where it is one.
    pub fence: Fence,
    pub expires_at: Option<Timestamp>,
    pub claimed: Option<Box<Claimed>>,
}

/// Nothing was lent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LendRefused {
    #[error("the daemon stops")]
    Draining,
    #[error("the disk is short of space")]
    NoDisk,
    #[error("the machine has no room for another browser now")]
    Short(Scarce),
    #[error("all sessions are lent")]
    Full,
    #[error("no browser can be started now")]
    ProviderDown,
    #[error("the state was restored, and nobody has resumed yet")]
    Restored,
    #[error("the profile is in use")]
    Busy,
    #[error("there is no such profile")]
    UnknownProfile,
    #[error("the item was moved out of the way: another may be next")]
    Moved,
    #[error("the item cannot be taken now")]
    NotTaken,
    #[error("the engine is not ready, or did not answer in time")]
    NotReady,
}

/// Takes the lock, of a worker with its item.
pub(super) async fn lend(
    store: &Store,
    asked: &LendAsked,
    now: Moment,
) -> Result<Result<Lent, LendRefused>, StoreError> {
    let (profile, ttl) = (asked.profile.clone(), asked.ttl);
    match asked.to.clone() {
        Borrower::Program(owner) => {
            let lent = store.lend(profile, owner, ttl, now).await?;
            Ok(lent.map_err(why).map(|granted| Lent {
                fence: granted.fence,
                expires_at: granted.expires_at,
                claimed: None,
            }))
        }
        Borrower::Worker { item, name, kinds } => {
            let worker = Worker { name, kinds, ttl, with_browser: true };
            Ok(match store.claim_for_worker(item, worker, now).await? {
                Ok(Claim::Started(claimed)) => {
                    let expires_at = Some(now.wall.plus(ttl));
                    Ok(Lent { fence: claimed.fence, expires_at, claimed: Some(claimed) })
                }
                Ok(Claim::Moved) => Err(LendRefused::Moved),
                // Another worker was quicker.
                Err(_) => Err(LendRefused::NotTaken),
            })
        }
    }
}

fn why(refused: ClaimRefused) -> LendRefused {
    match refused {
        ClaimRefused::Paused => LendRefused::Restored,
        ClaimRefused::ProfileUnknown => LendRefused::UnknownProfile,
        ClaimRefused::NotWaiting | ClaimRefused::ProfileParked | ClaimRefused::ProfileBusy => LendRefused::Busy,
    }
}

/// Where a door leads.
#[derive(Clone, Debug)]
enum Way {
    Starting,
    Open(Session),
    /// For good, and why.
    Shut(String),
}

#[derive(Clone, Copy, Debug, Default)]
struct Visits {
    ever: bool,
    now: u32,
}

/// The way into one lent browser.
pub struct Door {
    token: String,
    way: watch::Sender<Way>,
    visits: watch::Sender<Visits>,
}

impl Door {
    fn new(token: String) -> Self {
        Self { token, way: watch::Sender::new(Way::Starting), visits: watch::Sender::default() }
    }

    /// The secret part of its address; empty: nobody gets in.
    pub fn token(&self) -> &str {
        &self.token
    }

    /// Waits for the browser. An error is why there is none, or none any more.
    pub async fn opened(&self) -> Result<Session, String> {
        let mut way = self.way.subscribe();
        let way = way.wait_for(|way| !matches!(way, Way::Starting)).await;
        match way.as_deref() {
            Ok(Way::Open(session)) => Ok(session.clone()),
            Ok(Way::Shut(why)) => Err(why.clone()),
            Ok(Way::Starting) | Err(_) => Err("the session is gone".to_owned()),
        }
    }

    /// Returns when it is shut.
    pub async fn shut(&self) {
        // The sender lives as long as this door.
        drop(self.way.subscribe().wait_for(|way| matches!(way, Way::Shut(_))).await);
    }

    /// Why it is shut; None: it is not.
    pub fn why_shut(&self) -> Option<String> {
        match &*self.way.borrow() {
            Way::Shut(why) => Some(why.clone()),
            Way::Starting | Way::Open(_) => None,
        }
    }

    /// Connections now.
    pub fn visitors(&self) -> u32 {
        self.visits.borrow().now
    }

    /// One more connection. None: there are too many.
    pub fn visit(self: &Arc<Self>) -> Option<Visit> {
        let entered = self.visits.send_if_modified(|visits| {
            let fits = visits.now < MAX_VISITS;
            if fits {
                *visits = Visits { ever: true, now: visits.now + 1 };
            }
            fits
        });
        entered.then(|| Visit(self.clone()))
    }

    fn open(&self, session: Session) {
        self.way.send_if_modified(|way| {
            let waits = matches!(way, Way::Starting);
            if waits {
                *way = Way::Open(session);
            }
            waits
        });
    }

    /// The first reason stays.
    pub(super) fn close(&self, why: &str) {
        self.way.send_if_modified(|way| {
            let stands = !matches!(way, Way::Shut(_));
            if stands {
                *way = Way::Shut(why.to_owned());
            }
            stands
        });
    }

    /// Returns when somebody was there and nobody has been for so long.
    async fn vanished(&self, after: Duration) {
        let mut visits = self.visits.subscribe();
        loop {
            drop(visits.wait_for(|visits| visits.ever && visits.now == 0).await);
            tokio::select! {
                () = tokio::time::sleep(after) => return,
                _ = visits.wait_for(|visits| visits.now > 0) => {}
            }
        }
    }
}

/// A connection through a door, for as long as it is kept.
pub struct Visit(Arc<Door>);

impl Drop for Visit {
    fn drop(&mut self) {
        self.0.visits.send_modify(|visits| visits.now = visits.now.saturating_sub(1));
    }
}

/// All doors; a clone is the same table.
#[derive(Clone, Default)]
pub(super) struct Doors(Arc<Mutex<BTreeMap<Fence, Arc<Door>>>>);

impl Doors {
    fn table(&self) -> MutexGuard<'_, BTreeMap<Fence, Arc<Door>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn get(&self, fence: Fence) -> Option<Arc<Door>> {
        self.table().get(&fence).cloned()
    }

    /// A new door; the oldest of many shut ones is forgotten.
    pub fn add(&self, fence: Fence) -> Arc<Door> {
        let door = Arc::new(Door::new(new_token()));
        let mut table = self.table();
        table.insert(fence, door.clone());
        let shut: Vec<Fence> =
            table.iter().filter(|(_, door)| door.why_shut().is_some()).map(|(fence, _)| *fence).collect();
        for fence in shut.iter().take(shut.len().saturating_sub(REMEMBERED)) {
            table.remove(fence);
        }
        door
    }
}

/// `vanishes`: the borrower has no other sign of life than its connections.
pub(super) async fn run(child: Child, profile: ProfileId, headless: bool, vanishes: bool, door: Arc<Door>) {
    let lived = AssertUnwindSafe(live(&child, &profile, headless, vanishes, &door)).catch_unwind().await;
    let (ended, browser) = lived.unwrap_or_else(|_| {
        (Err(Failure::new(FailureCode::Internal, "the session panicked; the daemon's log has the place")), true)
    });
    let end = match ended {
        Ok(why) => {
            door.close(why);
            let why = door.why_shut();
            tracing::info!(%profile, fence = %child.fence, why, "session ended");
            AttemptEnd::Done { url: None, result: BTreeMap::new() }
        }
        Err(failure) => {
            door.close(&failure.to_string());
            tracing::warn!(%profile, fence = %child.fence, %failure, "session failed");
            AttemptEnd::Unarmed(failure)
        }
    };
    let fence = child.fence;
    child.tell(Event::Ended { fence, end, evidence: Vec::new(), stopped: None, browser, roll: 0.0 }).await;
}

/// Why it ended, and whether a browser may run that has to be stopped.
async fn live(
    child: &Child,
    profile: &ProfileId,
    headless: bool,
    vanishes: bool,
    door: &Door,
) -> (Result<&'static str, Failure>, bool) {
    const ASKED: &str = "it was ended on request, its time was over, or the daemon stops";
    let started = tokio::select! {
        started = child.shared.provider.start(profile, StartOptions { headless }) => started,
        // The start may go through all the same: the close that follows stops what came up.
        () = child.interrupt.cancelled() => return (Ok(ASKED), true),
    };
    let session = match started {
        Ok(session) => session,
        // A browser that somebody else runs is not ours to stop; any other start may have gone through.
        Err(failure) => {
            let browser = failure.code != FailureCode::ProfileInUse;
            return (Err(failure), browser);
        }
    };
    door.open(session.clone());
    child.tell(Event::Opened { fence: child.fence, session }).await;
    let why = tokio::select! {
        biased;
        () = child.interrupt.cancelled() => ASKED,
        () = gone(child, profile) => "its browser ended",
        () = door.vanished(VANISHED_AFTER), if vanishes => "its program went away",
    };
    (Ok(why), true)
}

/// Returns when the browser does not run any more.
async fn gone(child: &Child, profile: &ProfileId) {
    loop {
        tokio::time::sleep(WATCH_EVERY).await;
        match running(child, profile).await {
            Ok(_) => {}
            Err(failure) if failure.code == FailureCode::BrowserLost => return,
            Err(failure) => tracing::warn!(%profile, %failure, "cannot see whether the lent browser still runs"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session() -> Session {
        Session {
            profile: ProfileId::new("anna").unwrap(),
            port: 4_000,
            ws_path: "/devtools/browser/1".to_owned(),
            pid: 1,
            started_at: Timestamp::ZERO,
            headless: true,
        }
    }

    #[tokio::test]
    async fn a_door_opens_once_and_its_first_reason_to_be_shut_stays() {
        let door = Door::new("t".to_owned());
        let (opened, ()) = tokio::join!(door.opened(), async { door.open(session()) });
        assert_eq!(opened.unwrap().port, 4_000);
        door.close("first");
        door.close("second");
        door.open(session());
        door.shut().await;
        assert_eq!((door.opened().await.unwrap_err(), door.why_shut().unwrap()), ("first".into(), "first".into()));
    }

    #[tokio::test]
    async fn a_borrower_vanishes_only_after_it_was_there_and_for_long_enough() {
        const SOON: Duration = Duration::from_millis(1);
        const LATE: Duration = Duration::from_secs(3_600);
        let door = Arc::new(Door::new("t".to_owned()));
        let vanished = |after, within| tokio::time::timeout(within, door.vanished(after));
        assert!(vanished(SOON, SOON * 50).await.is_err(), "before the first connection only the lease counts");
        let visit = door.visit().unwrap();
        assert!(vanished(SOON, SOON * 50).await.is_err(), "it is there");
        drop(visit);
        assert!(vanished(LATE, SOON * 50).await.is_err(), "it may come back");
        let back = async {
            tokio::time::sleep(SOON * 10).await;
            door.visit().unwrap()
        };
        let (vanished_meanwhile, visit) = tokio::join!(vanished(SOON * 500, SOON * 600), back);
        assert!(vanished_meanwhile.is_err(), "whoever is back in time is there");
        drop(visit);
        assert!(vanished(SOON, LATE).await.is_ok());
    }

    #[test]
    fn visits_and_remembered_doors_are_bounded() {
        let doors = Doors::default();
        let door = doors.add(Fence::new(1));
        let visits: Vec<_> = (0..MAX_VISITS).map(|_| door.visit().unwrap()).collect();
        assert!(door.visit().is_none());
        drop(visits);
        assert!(door.visit().is_some() && door.visitors() == 0);
        assert_eq!(door.token().len(), 32);
        for number in 2..200 {
            doors.add(Fence::new(number)).close("over");
        }
        let kept = doors.table().len();
        assert!(doors.get(Fence::new(1)).is_some(), "an open door is never forgotten");
        assert!(kept <= REMEMBERED + 2 && doors.get(Fence::new(199)).is_some(), "{kept}");
        assert_ne!(doors.add(Fence::new(300)).token(), door.token());
    }
}
