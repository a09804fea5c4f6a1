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
        } else if let Some(shortage) = &self.strain.shortage {
            LendRefused::Short(shortage.of)
        } else if matches!(asked.to, Borrower::Worker { .. }) && self.is_refused(&asked.profile, now) {
            // Its items wait for that; another profile's may go.
            LendRefused::Busy
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
        let is_starting = |running: &Running| match &running.owner {
            Owner::Lent(loan) => running.phase == Phase::Unarmed && !loan.ready && !loan.ending,
            _ => running.starting,
        };
        let starting = self.running.values().any(is_starting);
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
        // Its start says nothing to the breaker that attempts go through, and keeps none of them waiting.
        let running = Running { starting: false, ..Running::started(profile.clone(), owner) };
        self.running.insert(fence, running);
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
mod tests;
