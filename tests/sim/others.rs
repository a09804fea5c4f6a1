//! Who else uses the profiles: programs that lock them, and outside workers that take items.

use std::collections::BTreeMap;
use std::time::Duration;

use cove::engine::event::Event;
use cove::engine::{after_failure, effect};
use cove::model::{Failure, FailureCode, Fence, ItemId, LockKind, LockOwner, ProfileId, Proofs, Timestamp, Verdict};
use cove::store::{self, Acquire, AcquireRefused, AttemptEnded, Claim, ClaimName, LockAsked, LockHeld};

use super::{Crash, PROFILES, World, id, limits};

pub const KIND: &str = "studio";
/// How long a worker may still be at it after its lease (fence.md rule 23).
const GRACE: Duration = Duration::from_secs(60);

/// What a worker believes to hold.
#[derive(Clone, Debug)]
pub struct Worker {
    pub item: ItemId,
    pub profile: ProfileId,
    pub until: Timestamp,
    pub clicked: bool,
    /// Its claim is from before a restore, or was taken back, and it does not know.
    pub outdated: bool,
    /// Its browser is the engine's.
    pub lent: bool,
}

impl World {
    /// A program takes a profile, or goes on with what it has.
    pub async fn program(&mut self) -> Result<(), Crash> {
        let profile = id(PROFILES[self.dice.usize(..PROFILES.len())]);
        let (kind, key, owner) = (LockKind::PROFILE, profile.to_string(), LockOwner::Outside("program".to_owned()));
        let (now, ttl) = (self.moment(), Duration::from_secs(self.dice.u64(30..300)));
        let believed = self.outside.get(&profile).copied();
        let (store, is_held) = (self.store(), believed.is_some_and(|(_, until)| until > self.now));
        match (believed, self.dice.u8(..3)) {
            (Some((fence, _)), 0) => {
                let released = store.release_lock(LockHeld { kind, key, owner, fence }, now).await;
                assert_eq!(released.is_ok(), is_held, "{profile}: {released:?}");
                self.outside.remove(&profile);
            }
            (Some((fence, _)), 1) => {
                let refreshed = store.refresh_lock(LockHeld { kind, key, owner, fence }, Some(ttl), now).await;
                assert_eq!(refreshed.is_ok(), is_held, "{profile}: {refreshed:?}");
                if let Ok(granted) = refreshed {
                    self.outside.insert(profile, (fence, granted.expires_at.unwrap()));
                }
            }
            _ => match store.acquire_lock(LockAsked { kind, key, owner, ttl: Some(ttl) }, now).await {
                Ok(Acquire::Acquired(granted)) => {
                    self.nobody_else_uses(&profile, "a program");
                    if let Some((fence, _)) = believed {
                        assert!(if is_held { granted.fence == fence } else { granted.fence > fence });
                    }
                    self.outside.insert(profile, (granted.fence, granted.expires_at.unwrap()));
                }
                Ok(Acquire::Busy { held_by, .. }) => {
                    assert!(!is_held, "{profile} is held by the program, and {held_by} has it");
                }
                Err(AcquireRefused::Restored) => assert!(!is_held, "{profile} survived a restore"),
                Err(other) => panic!("{other}"),
            },
        }
        self.turn(Event::Bell).await
    }

    /// Neither a browser of the engine's nor a worker is at it.
    fn nobody_else_uses(&self, profile: &ProfileId, who: &str) {
        let used = self.browsers.values().find(|browser| browser.profile == *profile);
        assert!(used.is_none(), "{profile} was given to {who} and is used: {used:?}");
        let worked = self.worker_in(profile);
        assert!(worked.is_none(), "{profile} was given to {who} and a worker has it: {worked:?}");
    }

    pub fn worker_in(&self, profile: &ProfileId) -> Option<&Worker> {
        // A browser of cove's is seen to be dead: nobody has to wait in case.
        let grace = |worker: &Worker| if worker.lent { Duration::ZERO } else { GRACE };
        let at_it = |worker: &&Worker| {
            worker.profile == *profile && !worker.outdated && worker.until.plus(grace(worker)) > self.now
        };
        self.workers.values().find(at_it)
    }

    /// A worker claims, or goes on with what it has, or is never heard of again.
    pub async fn worker(&mut self) -> Result<(), Crash> {
        let fences: Vec<Fence> = self.workers.keys().copied().collect();
        if fences.is_empty() || self.dice.u8(..4) == 0 {
            return self.claim().await;
        }
        let fence = fences[self.dice.usize(..fences.len())];
        let worker = self.workers[&fence].clone();
        let name = ClaimName { item: worker.item, fence };
        match self.dice.u8(..8) {
            0 => {
                self.workers.remove(&fence);
                return Ok(());
            }
            1 => {
                let ttl = Duration::from_secs(self.dice.u64(30..300));
                let refreshed = self.store().refresh_claim(name, Some(ttl), self.moment()).await.unwrap();
                if let Ok(until) = refreshed {
                    assert!(!worker.outdated && worker.until > self.now, "{worker:?} was refreshed after its end");
                    self.workers.get_mut(&fence).unwrap().until = until.unwrap();
                }
            }
            2..=4 if !worker.clicked => return self.arm(name).await,
            5 => self.fails(fence, &worker).await,
            _ => self.completes(fence, &worker).await,
        }
        self.turn(Event::Bell).await
    }

    async fn claim(&mut self) -> Result<(), Crash> {
        let (kinds, now) = (vec![KIND.to_owned()], self.moment());
        let heads = self.store().claimable(kinds.clone(), now).await.unwrap();
        let Some(head) = heads.first() else { return Ok(()) };
        let ttl = Duration::from_secs(self.dice.u64(30..300));
        if self.dice.bool() {
            return self.claim_with_browser(head.clone(), ttl).await;
        }
        let worker = store::Worker { name: "w1".to_owned(), kinds, ttl, with_browser: false };
        let claimed = self.store().claim_for_worker(head.item, worker, now).await.unwrap();
        if let Ok(Claim::Started(claimed)) = claimed {
            self.tally.claims += 1;
            self.judge.starts(&claimed.item, self.now, Duration::ZERO);
            self.nobody_else_uses(&claimed.item.profile, "a worker");
            let held = self.outside.get(&claimed.item.profile).filter(|(_, until)| *until > self.now);
            assert!(held.is_none(), "{} is claimed and a program holds its profile", claimed.item.id);
            let (item, profile) = (claimed.item.id, claimed.item.profile);
            let until = self.now.plus(ttl);
            let worker = Worker { item, profile, until, clicked: false, outdated: false, lent: false };
            self.workers.insert(claimed.fence, worker);
        }
        self.turn(Event::Bell).await
    }

    /// Asks for its click; the answer comes by [`World::worker_answered`].
    async fn arm(&mut self, name: ClaimName) -> Result<(), Crash> {
        self.turn(Event::ClaimArmAsked { name, proofs: Proofs::unproven() }).await
    }

    /// Clicks if it may.
    pub fn worker_answered(&mut self, fence: Fence, allowed: bool) {
        if !allowed {
            return;
        }
        let (worker, asked) = (self.workers[&fence].clone(), self.arm_asked[&fence]);
        assert!(!worker.outdated, "a claim from before a restore was armed, or one that was taken back");
        assert!(worker.until > asked, "a lease that is over was armed");
        let posts = !self.chance(25) && self.reaches(fence);
        self.judge.armed(&worker.profile, asked);
        self.judge.clicked(worker.item, posts);
        self.workers.get_mut(&fence).unwrap().clicked = true;
    }

    async fn completes(&mut self, fence: Fence, worker: &Worker) {
        let posted = self.judge.seen.get(&worker.item).is_some_and(|seen| seen.posts > 0);
        if !(worker.clicked && posted) {
            return;
        }
        let verdict = Verdict::Succeeded { url: None, result: BTreeMap::new() };
        let end = AttemptEnded { item: worker.item, fence, verdict, evidence: Vec::new(), effect: None };
        if let Ok(ended) = self.store().end_claim(end, self.now).await.unwrap() {
            self.tally.late_words += u64::from(ended.late);
        }
        self.workers.remove(&fence);
    }

    pub async fn fails(&mut self, fence: Fence, worker: &Worker) {
        let codes = [FailureCode::WorkerFailed, FailureCode::NeedsHuman, FailureCode::Rejected];
        let failure = Failure::new(codes[self.dice.usize(..codes.len())], "made up");
        let effect = effect(&failure, &limits(), self.now);
        let Some(item) = self.store().item(worker.item).await.unwrap() else { return };
        let verdict = if item.is_armed() {
            Verdict::OutcomeUnknown(failure)
        } else {
            let most = self.store().task_alone(item.task).await.unwrap().unwrap().0.max_attempts;
            after_failure(&limits(), item.attempts_spent(), most, failure, self.dice.f64(), self.now)
        };
        let end = AttemptEnded { item: worker.item, fence, verdict, evidence: Vec::new(), effect };
        let _refused = self.store().end_claim(end, self.now).await.unwrap();
        self.workers.remove(&fence);
    }
}
