//! A lent browser: it holds the profile's lock like an attempt, takes no slot, and has a bound of its own.
//!
//! Whether it is over stands in the store: its lease ended, or its worker said how its item did. A request, a
//! forced cleanup and a drain are the same intent to stop, save that a worker's browser whose item is armed is
//! never cut by them: it ends with its claim. So a worker with a browser of cove's arms through here. The lock
//! is released when the browser is verified dead (fence.md rule 21).

use super::{Owner, Phase, Running, State};
use crate::breaker::Passage;
use crate::engine::event::{Act, AttemptEnd, Commit, Step, Work};
use crate::engine::{Borrower, LendAsked, LendRefused, Lent, SessionState, SessionView};
use crate::model::{Failure, FailureCode, Fence, ItemId, ProfileId, Proofs, Retry, Timestamp, Verdict};
use crate::store::{AttemptEnded, ClaimName};

/// What the state machine knows of one.
#[derive(Clone, Debug, Default)]
pub(super) struct Loan {
    /// The item of the worker whose claim it belongs to.
    pub item: Option<ItemId>,
    pub ready: bool,
    /// It was asked to end.
    pub ending: bool,
    /// Whoever asked for it was not there any more to be told.
    pub undelivered: bool,
}

impl Loan {
    /// Found at boot: nobody has the way into it any more.
    pub(super) const fn leftover(item: Option<ItemId>) -> Self {
        Self { item, ready: false, ending: true, undelivered: false }
    }

    pub(super) fn view(&self, profile: ProfileId, phase: Phase) -> SessionView {
        let state = match (self.ready, self.ending || matches!(phase, Phase::Ending | Phase::Closing)) {
            (_, true) => SessionState::Stopping,
            (true, false) => SessionState::Ready,
            (false, false) => SessionState::Starting,
        };
        SessionView { profile, item: self.item, state }
    }

    /// Why its item goes back into the queue uncounted, where nobody could have done anything with it.
    fn hand_back(&self, ended: Option<Failure>) -> Option<Failure> {
        let never_came_up = ended.filter(|failure| !self.ready && failure.retry() == Retry::Uncounted);
        let untold = || Failure::new(FailureCode::WorkerLost, "the worker went away before it was told of its claim");
        never_came_up.or_else(|| self.undelivered.then(untold))
    }
}

impl State {
    pub(super) fn lend_asked(&mut self, ticket: u64, asked: LendAsked, now: Timestamp) -> Step {
        let taken = self.running.values().any(|running| running.profile == asked.profile);
        let lent = self.running.values().filter(|running| matches!(running.owner, Owner::Lent(_))).count();
        let refused = if !self.ready {
            LendRefused::NotReady
        } else if self.draining {
            LendRefused::Draining
        } else if self.no_disk.is_some() {
            LendRefused::NoDisk
        } else if taken || self.in_use.get(&asked.profile).is_some_and(|until| *until > now) {
            LendRefused::Busy
        } else if lent >= usize::try_from(self.limits.sessions).unwrap_or(usize::MAX) {
            LendRefused::Full
        } else if matches!(asked.to, Borrower::Worker { .. }) && !self.may_try(now) {
            LendRefused::ProviderDown
        } else {
            return Step::commit(Commit::Lend { ticket, asked });
        };
        Step::act(Act::AnswerLend { ticket, answer: Err(refused) })
    }

    /// Whether a browser may be started for an item, as for an attempt of cove's own: a start that is known to
    /// fail would only take the item away from where it waits.
    fn may_try(&self, now: Timestamp) -> bool {
        let rests = self.provider.as_ref().map(|trouble| trouble.until).into_iter().chain(self.breakers.shut_until());
        let is_trial = self.provider.is_some() || self.breakers != Passage::Free;
        let starting = self.running.values().any(|running| running.starting);
        rests.max().is_none_or(|until| until <= now) && !(is_trial && starting)
    }

    pub(super) fn lent(&mut self, ticket: u64, asked: LendAsked, answer: Result<Lent, LendRefused>) -> Step {
        let lent = match answer {
            Ok(lent) => lent,
            Err(refused) => return Step::act(Act::AnswerLend { ticket, answer: Err(refused) }),
        };
        let LendAsked { profile, headless, .. } = asked;
        let (fence, item) = (lent.fence, lent.claimed.as_ref().map(|claimed| claimed.item.id));
        let owner = Owner::Lent(Loan { item, ..Loan::default() });
        self.running.insert(fence, Running::started(profile.clone(), owner));
        let work = Work::Lend { profile, headless, vanishes: item.is_none() };
        Step {
            commit: Vec::new(),
            then: vec![Act::Start { fence, work }, Act::AnswerLend { ticket, answer: Ok(lent) }],
        }
    }

    /// Nobody heard of it: an item that came with it goes back as it was.
    pub(super) fn undelivered(&mut self, fence: Fence) -> Step {
        if let Some(Running { owner: Owner::Lent(loan), .. }) = self.running.get_mut(&fence) {
            loan.undelivered = true;
        }
        self.stop_asked(fence)
    }

    /// The store says that these are over: also behind an armed item nobody clicks any more.
    pub(super) fn sessions_over(&mut self, over: &[Fence]) -> Step {
        let mut step = Step::default();
        for fence in over {
            if let Some(Running { phase: Phase::Unarmed | Phase::Armed, owner: Owner::Lent(loan), .. }) =
                self.running.get_mut(fence)
            {
                loan.ending = true;
                step.then.push(Act::Interrupt { fence: *fence });
            }
        }
        step
    }

    /// A worker stands before its click. Without a browser of cove's there is nothing here to keep from it.
    pub(super) fn claim_arm_asked(&mut self, name: ClaimName, proofs: Proofs) -> Step {
        let ClaimName { item, fence } = name;
        match self.running.get_mut(&fence) {
            Some(Running { phase: phase @ Phase::Unarmed, owner: Owner::Lent(Loan { ending: false, .. }), .. }) => {
                *phase = Phase::Arming;
            }
            // Armed already: the store says so.
            Some(Running { phase: Phase::Armed, owner: Owner::Lent(_), .. }) | None => {}
            Some(_) => {
                let why = Failure::new(FailureCode::BrowserLost, "the browser of the claim is being stopped");
                return Step::act(Act::AnswerArm { fence, answer: Err(why) });
            }
        }
        Step::commit(Commit::Arm { item, fence, proofs })
    }

    /// An armed item's browser is with a worker.
    pub(super) fn lends_armed(&self) -> bool {
        self.running.values().any(|running| running.phase == Phase::Armed && matches!(running.owner, Owner::Lent(_)))
    }

    /// Asks for the end of what is not past its commit point; that is never cut.
    pub(super) fn stop_asked(&mut self, fence: Fence) -> Step {
        match self.running.get_mut(&fence) {
            Some(running) if running.phase == Phase::Unarmed => {
                running.owner.is_asked_to_end();
                Step::act(Act::Interrupt { fence })
            }
            _ => Step::default(),
        }
    }

    /// Nobody is in it any more, or it never came up.
    pub(super) fn loan_ended(&mut self, fence: Fence, end: AttemptEnd, now: Timestamp) -> Step {
        let failure = if let AttemptEnd::Unarmed(failure) = end { Some(failure) } else { None };
        if let Some(failure) = &failure {
            self.note_trouble(fence, failure, now);
        }
        let Some(Running { phase, owner: Owner::Lent(loan), .. }) = self.running.get_mut(&fence) else {
            return Step::default();
        };
        let unarmed = match phase {
            Phase::Unarmed => true,
            Phase::Arming | Phase::Armed => false,
            Phase::Ending | Phase::Closing => return Step::default(),
        };
        let back = loan.item.filter(|_| unarmed).and_then(|item| Some((item, loan.hand_back(failure)?)));
        let Some((item, failure)) = back else { return self.end_stored(fence, false) };
        *phase = Phase::Ending;
        let verdict = Verdict::TryAgain { failure, due_at: Timestamp::ZERO, counted: false };
        Step::commit(Commit::Finish(AttemptEnded { item, fence, verdict, evidence: Vec::new(), effect: None }))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::engine::Borrower;
    use crate::engine::event::Event;
    use crate::engine::state::tests::{NOW, engine};
    use crate::model::{Failure, FailureCode, Lock, LockKind, LockOwner};
    use crate::store::{Head, Leftover, Outlook, SessionName};

    fn asked(profile: &str) -> LendAsked {
        let to = Borrower::Program("script".to_owned());
        let ttl = Duration::from_secs(60);
        LendAsked { profile: ProfileId::new(profile).unwrap(), to, ttl, headless: true }
    }

    fn answer(state: &mut State, profile: &str) -> Result<Lent, LendRefused> {
        let step = state.apply(Event::LendAsked { ticket: 7, asked: asked(profile) }, NOW);
        match step.then.as_slice() {
            [Act::AnswerLend { ticket: 7, answer }] => answer.clone(),
            _ => {
                assert_eq!(step.commit, [Commit::Lend { ticket: 7, asked: asked(profile) }]);
                Ok(Lent { fence: Fence::new(0), expires_at: None, claimed: None })
            }
        }
    }

    /// A session that was granted under this fence.
    fn lend(state: &mut State, fence: u64, profile: &str) -> Fence {
        assert!(answer(state, profile).is_ok());
        let fence = Fence::new(fence);
        let lent = Lent { fence, expires_at: Some(NOW), claimed: None };
        let step = state.apply(Event::Lent { ticket: 7, asked: asked(profile), answer: Ok(lent.clone()) }, NOW);
        let profile = ProfileId::new(profile).unwrap();
        let start = Act::Start { fence, work: Work::Lend { profile, headless: true, vanishes: true } };
        assert_eq!(step.then, [start, Act::AnswerLend { ticket: 7, answer: Ok(lent) }]);
        fence
    }

    fn ended(state: &mut State, fence: Fence, end: AttemptEnd, browser: bool) -> Step {
        let ended = Event::Ended { fence, end, evidence: Vec::new(), stopped: None, browser, roll: 0.0 };
        state.apply(ended, NOW)
    }

    fn done() -> AttemptEnd {
        AttemptEnd::Done { url: None, result: std::collections::BTreeMap::new() }
    }

    #[test]
    fn it_takes_a_lock_and_no_slot_and_has_a_bound_of_its_own() {
        let mut state = engine();
        let busy = state.view(NOW).busy;
        for (fence, profile) in [(11, "anna"), (12, "boris"), (13, "clara")] {
            lend(&mut state, fence, profile);
        }
        assert_eq!(state.view(NOW).busy, busy);
        assert_eq!(answer(&mut state, "anna"), Err(LendRefused::Busy));
        assert_eq!(answer(&mut state, "dora"), Err(LendRefused::Full));
        let head = |profile: &str, item| Head {
            profile: ProfileId::new(profile).unwrap(),
            priority: 0,
            item: ItemId::new(item),
        };
        let looked = Outlook { heads: vec![head("anna", 1), head("dora", 2)], ..Outlook::default() };
        let step = state.apply(Event::Outlook(looked), NOW);
        assert_eq!(step.commit, [Commit::Claim { item: ItemId::new(2) }], "its profile is taken");
        state.apply(Event::Disk { short: Some("full".to_owned()) }, NOW);
        assert_eq!(answer(&mut state, "dora"), Err(LendRefused::NoDisk));
        state.apply(Event::Drain, NOW);
        assert_eq!(answer(&mut state, "dora"), Err(LendRefused::Draining));
        assert_eq!(State::new(state.limits.clone()).lend_asked(7, asked("anna"), NOW).commit, [], "before recovery");
    }

    #[test]
    fn rule_21_the_end_of_its_lease_a_request_and_a_drain_stop_its_browser_before_the_lock_is_freed() {
        type Cause = fn(&mut State, Fence) -> Step;
        let causes: [Cause; 3] = [
            |state, fence| {
                let over = Outlook { sessions_over: vec![Fence::new(1), fence], ..Outlook::default() };
                state.apply(Event::Outlook(over), NOW)
            },
            |state, fence| state.apply(Event::StopAsked { fence }, NOW),
            |state, _| state.apply(Event::Drain, NOW),
        ];
        for cause in causes {
            let mut state = engine();
            let fence = lend(&mut state, 11, "anna");
            let profile = ProfileId::new("anna").unwrap();
            assert_eq!(state.view(NOW).sessions[&fence].state, SessionState::Starting);
            let step = cause(&mut state, fence);
            assert!(step.then.contains(&Act::Interrupt { fence }) && step.commit.is_empty(), "{step:?}");
            assert_eq!(state.view(NOW).sessions[&fence].state, SessionState::Stopping);
            let step = ended(&mut state, fence, done(), true);
            assert_eq!(step, Step::act(Act::Close { fence, profile: profile.clone() }));
            assert_eq!(ended(&mut state, fence, done(), true), Step::default(), "it ends once");
            let step = state.apply(Event::Closed { fence }, NOW);
            assert_eq!(step, Step::commit(Commit::ReleaseSession(SessionName { profile, fence })));
            state.apply(Event::Released { fence }, NOW);
            assert!(state.view(NOW).sessions.is_empty());
        }
    }

    #[test]
    fn a_profile_that_a_person_has_open_is_not_closed_and_its_items_wait() {
        let mut state = engine();
        let fence = lend(&mut state, 11, "anna");
        let failure = Failure::new(FailureCode::ProfileInUse, "a person's");
        let step = ended(&mut state, fence, AttemptEnd::Unarmed(failure), false);
        let profile = ProfileId::new("anna").unwrap();
        assert_eq!(step, Step::commit(Commit::ReleaseSession(SessionName { profile: profile.clone(), fence })));
        assert!(state.view(NOW).in_use.contains_key(&profile));
        state.apply(Event::Released { fence }, NOW);
        assert_eq!(answer(&mut state, "anna"), Err(LendRefused::Busy));
    }

    #[test]
    fn rule_21_at_boot_its_browser_is_stopped_and_then_its_lock_is_freed() {
        let mut state = State::new(engine().limits);
        let (fence, profile) = (Fence::new(11), ProfileId::new("anna").unwrap());
        let lock = Lock {
            kind: LockKind::PROFILE,
            key: "anna".to_owned(),
            owner: LockOwner::Session { owner: "script".to_owned(), item: Some(ItemId::new(3)) },
            fence,
            acquired_at: NOW,
            lease: None,
        };
        let step = state.apply(Event::Recovered(vec![Leftover { lock, running: None }]), NOW);
        assert!(step.then.contains(&Act::Close { fence, profile: profile.clone() }), "{step:?}");
        let view = state.view(NOW);
        assert_eq!((view.sessions[&fence].state, view.busy), (SessionState::Stopping, 0));
        let step = state.apply(Event::Closed { fence }, NOW);
        assert_eq!(step, Step::commit(Commit::ReleaseSession(SessionName { profile, fence })));
    }
}
