//! Browsers that the engine lends: to programs, and to outside workers with the item that they claim.
//!
//! What is judged here: whoever is told yes to a click has a browser that nobody stops while its lease lasts and
//! its claim goes on; an item that is handed back was told to nobody, or had no browser; and in the end no
//! browser is left behind a claim that is over.

use std::time::Duration;

use cove::engine::event::{AttemptEnd, Event};
use cove::engine::{Borrower, LendAsked, LendRefused, Lent};
use cove::model::{Failure, FailureCode, Fence, ItemState, Verdict};
use cove::store::{AttemptEnded, Head, SessionName};

use super::others::{KIND, Worker};
use super::{Browser, Crash, PROFILES, World, id};

/// Turns after which whatever ends has ended.
const ENOUGH: usize = 400;

impl World {
    /// A worker asks for an item with a browser; the answer comes by [`World::lent`].
    pub async fn claim_with_browser(&mut self, head: Head, ttl: Duration) -> Result<(), Crash> {
        let to = Borrower::Worker { item: head.item, name: "w1".to_owned(), kinds: vec![KIND.to_owned()] };
        self.ask_for(LendAsked { profile: head.profile, to, ttl, headless: true }).await
    }

    async fn ask_for(&mut self, asked: LendAsked) -> Result<(), Crash> {
        self.serial += 1;
        self.turn(Event::LendAsked { ticket: u64::from(self.serial), asked }).await
    }

    /// A program asks for a browser, goes on with one, or somebody deletes one.
    pub async fn borrower(&mut self) -> Result<(), Crash> {
        let lent: Vec<_> = self.browsers.iter().filter(|(_, browser)| browser.lent && !browser.ended).collect();
        // Those that must not be cut are the more interesting ones.
        if let Some((fence, _)) = lent.iter().find(|(fence, _)| self.is_at_work(**fence)) {
            let fence = **fence;
            self.tally.armed_deletes += 1;
            return self.turn(Event::StopAsked { fence }).await;
        }
        let pick = (!lent.is_empty()).then(|| self.dice.usize(..lent.len()));
        let named = pick.map(|at| SessionName { profile: lent[at].1.profile.clone(), fence: *lent[at].0 });
        match (named, self.dice.u8(..4)) {
            (Some(name), 0) => self.turn(Event::StopAsked { fence: name.fence }).await,
            (Some(name), 1) => {
                let ttl = Duration::from_secs(self.dice.u64(30..300));
                // Of a worker's, of one that is over, and after a restore it is refused, and changes nothing.
                let _refused = self.store().refresh_session(name, Some(ttl), self.moment()).await;
                self.turn(Event::Bell).await
            }
            _ => {
                let profile = id(PROFILES[self.dice.usize(..PROFILES.len())]);
                let ttl = Duration::from_secs(self.dice.u64(30..300));
                let to = Borrower::Program("script".to_owned());
                self.ask_for(LendAsked { profile, to, ttl, headless: true }).await
            }
        }
    }

    /// The engine's answer; now and then nobody is there any more to hear it.
    pub fn lent(&mut self, answer: Result<Lent, LendRefused>) -> Option<Event> {
        let Ok(Lent { fence, expires_at, claimed }) = answer else { return None };
        self.tally.lends += 1;
        let told = !self.chance(10);
        if let Some(claimed) = claimed {
            self.tally.claims += 1;
            let item = claimed.item;
            self.judge.starts(&item, item.started_at.unwrap(), Duration::ZERO);
            if told {
                let (profile, until) = (item.profile, expires_at.unwrap());
                let worker = Worker { item: item.id, profile, until, clicked: false, outdated: false, lent: true };
                self.workers.insert(fence, worker);
            }
        }
        (!told).then_some(Event::Undelivered { fence })
    }

    /// A worker that was told yes to its click, and has said nothing since.
    fn is_at_work(&self, fence: Fence) -> bool {
        self.workers.get(&fence).is_some_and(|worker| worker.clicked && !worker.outdated && worker.until > self.now)
    }

    /// Before the engine asks a lent browser to end.
    pub fn may_end(&self, fence: Fence) {
        assert!(!self.is_at_work(fence), "{:?} was told yes, and its browser is cut", self.workers.get(&fence));
    }

    /// The store has taken the end of an attempt that the engine wrote. Of a worker's it is an item handed back.
    pub fn handed_back(&mut self, end: &AttemptEnded) {
        let untold = self.browsers.get(&end.fence).is_some_and(|browser| browser.lent);
        let worker = self.workers.get_mut(&end.fence);
        if worker.is_none() && !untold {
            return;
        }
        self.tally.handed_back += 1;
        assert!(matches!(end.verdict, Verdict::TryAgain { counted: false, .. }), "{end:?}");
        if let Some(worker) = worker {
            assert!(!worker.clicked, "{worker:?} clicked, and its item is handed back");
            worker.outdated = true;
        }
    }

    /// A lent browser is dead. Where the lease lasts, its worker goes on without it.
    pub fn released(&mut self, name: &SessionName) {
        let now = self.now;
        if let Some(worker) = self.workers.get_mut(&name.fence).filter(|worker| worker.until > now) {
            worker.lent = false;
        }
    }

    /// Whether a click reaches the site: not in a browser that has ended by itself.
    pub fn reaches(&self, fence: Fence) -> bool {
        let Some(browser) = self.browsers.get(&fence) else { return true };
        assert!(!browser.interrupted && !browser.closing, "{fence} is armed in a browser that is being stopped");
        !browser.ended
    }

    /// It comes up or does not, goes on, or ends by itself or because it was asked to.
    pub(super) async fn move_a_lent_one(&mut self, fence: Fence, browser: &Browser) -> Result<(), Crash> {
        let done = || AttemptEnd::Done { url: None, result: std::collections::BTreeMap::new() };
        if browser.interrupted || browser.cut {
            return self.end(fence, done(), None).await;
        }
        if !browser.asked && self.chance(25) {
            let codes = [
                FailureCode::ProviderDown,
                FailureCode::BreakerOpen,
                FailureCode::ProfileInUse,
                FailureCode::BrowserStartFailed,
            ];
            let code = codes[self.dice.usize(..codes.len())];
            return self.end(fence, AttemptEnd::Unarmed(Failure::new(code, "made up")), None).await;
        }
        if !browser.asked {
            self.browsers.get_mut(&fence).unwrap().asked = true;
            let session = self.session_of(&browser.profile);
            return self.turn(Event::Opened { fence, session }).await;
        }
        if !self.calm && self.chance(4) {
            return self.end(fence, done(), None).await;
        }
        Ok(())
    }

    /// Everybody goes home, workers with a word about their items. Whatever browser is left is somebody's: a lease that lasts, and a claim that does.
    pub async fn nothing_is_left_behind(&mut self) {
        self.calm = true;
        for (fence, worker) in self.workers.clone() {
            self.fails(fence, &worker).await;
        }
        for _ in 0..ENOUGH {
            let ended = match self.turn(Event::Tick).await {
                Ok(()) => self.move_a_browser().await,
                Err(crash) => Err(crash),
            };
            assert!(ended.is_ok(), "nothing dies any more");
        }
        let store = self.store();
        for lock in store.sessions().await.unwrap() {
            let goes_on = match lock.owner.claim() {
                Some((item, _)) => store
                    .item(item)
                    .await
                    .unwrap()
                    .is_some_and(|item| item.state == ItemState::Running && item.fence == Some(lock.fence)),
                None => true,
            };
            assert!(goes_on && !lock.is_expired(self.moment()), "{lock:?} is left behind");
        }
    }
}
