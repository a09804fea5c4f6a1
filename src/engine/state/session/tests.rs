//! Lent browsers, fed by hand: who gets one, and what may stop it.
//!
//! Beside each rule stands its other side: an item that is not armed is stopped by what must not cut an armed
//! one, what fails through somebody's fault is not handed back.

use std::time::Duration;

use super::*;
use crate::engine::event::Event;
use crate::engine::state::tests::{self, NOW, engine};
use crate::model::{Lock, LockKind, LockOwner};
use crate::store::{ArmRefused, Claimed, Head, Leftover, Outlook, SessionName};

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
    let head =
        |profile: &str, item| Head { profile: ProfileId::new(profile).unwrap(), priority: 0, item: ItemId::new(item) };
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

fn claim_asked(profile: &str) -> LendAsked {
    let to = Borrower::Worker { item: ItemId::new(3), name: "w1".to_owned(), kinds: vec!["studio".to_owned()] };
    LendAsked { to, ..asked(profile) }
}

/// The claim of a worker with a browser, on anna's item 3.
fn claim(state: &mut State) -> ClaimName {
    let item = tests::item(3, "anna");
    let name = ClaimName { item: item.id, fence: item.fence.unwrap() };
    let claimed = Claimed { item, task: tests::task(), fence: name.fence };
    let lent = Lent { fence: name.fence, expires_at: Some(NOW), claimed: Some(Box::new(claimed)) };
    let step = state.apply(Event::Lent { ticket: 8, asked: claim_asked("anna"), answer: Ok(lent.clone()) }, NOW);
    let profile = ProfileId::new("anna").unwrap();
    let start = Act::Start { fence: name.fence, work: Work::Lend { profile, headless: true, vanishes: false } };
    assert_eq!(step.then, [start, Act::AnswerLend { ticket: 8, answer: Ok(lent) }]);
    name
}

fn opened(state: &mut State, fence: Fence) -> Step {
    state.apply(Event::Opened { fence, session: tests::session("anna") }, NOW)
}

fn arm_asked(state: &mut State, name: ClaimName) -> Step {
    state.apply(Event::ClaimArmAsked { name, proofs: Proofs::default() }, NOW)
}

fn arm(state: &mut State, name: ClaimName) {
    let ClaimName { item, fence } = name;
    assert_eq!(arm_asked(state, name), Step::commit(Commit::Arm { item, fence, proofs: Proofs::default() }));
    let step = state.apply(Event::ArmAnswered { fence, answer: Ok(()) }, NOW);
    assert_eq!(step, Step::act(Act::AnswerArm { fence, answer: Ok(()) }));
}

fn over(state: &mut State, fence: Fence) -> Step {
    state.apply(Event::Outlook(Outlook { sessions_over: vec![fence], ..Outlook::default() }), NOW)
}

/// The item and the failure that it is handed back with; it costs no attempt.
fn handed_back(step: &Step) -> Option<(u64, FailureCode)> {
    match step.commit.as_slice() {
        [Commit::Finish(AttemptEnded { item, verdict: Verdict::TryAgain { failure, counted, .. }, .. })] => {
            assert!(!counted, "{step:?}");
            Some((item.raw(), failure.code))
        }
        _ => None,
    }
}

#[test]
fn rule_8_the_browser_of_an_armed_item_ends_with_its_claim_and_not_by_a_request_or_a_drain() {
    for armed in [true, false] {
        let mut state = engine();
        let name = claim(&mut state);
        opened(&mut state, name.fence);
        if armed {
            arm(&mut state, name);
        }
        let interrupt = Act::Interrupt { fence: name.fence };
        let step = state.apply(Event::StopAsked { fence: name.fence }, NOW);
        // The other side: what is not armed ends at once.
        assert_eq!(step.then.contains(&interrupt), !armed, "{step:?}");
        let step = state.apply(Event::Drain, NOW);
        assert_eq!(step.then.contains(&interrupt), !armed, "{step:?}");
        assert!(!state.is_drained());
        if !armed {
            assert_eq!(state.apply(Event::Bell, NOW), Step::default(), "a drain looks for nothing to start");
            continue;
        }
        // Only the store knows when its worker is done.
        assert_eq!(state.apply(Event::Bell, NOW), Step::act(Act::Look));
        let more = Outlook { to_settle: vec![crate::model::TaskId::new(1)], overdue: true, ..Outlook::default() };
        assert_eq!(state.apply(Event::Outlook(more), NOW), Step::default());
        assert_eq!(over(&mut state, name.fence), Step::act(interrupt));
        let profile = ProfileId::new("anna").unwrap();
        let step = ended(&mut state, name.fence, done(), true);
        assert_eq!(step, Step::act(Act::Close { fence: name.fence, profile }));
        state.apply(Event::Closed { fence: name.fence }, NOW);
        state.apply(Event::Released { fence: name.fence }, NOW);
        assert!(state.is_drained());
    }
}

#[test]
fn rule_4_nothing_is_armed_in_a_browser_that_is_being_stopped() {
    type Cause = fn(&mut State, Fence);
    let causes: [Cause; 4] = [
        |state, fence| drop(state.apply(Event::StopAsked { fence }, NOW)),
        |state, _| drop(state.apply(Event::Drain, NOW)),
        |state, fence| drop(over(state, fence)),
        |state, fence| drop(ended(state, fence, done(), true)),
    ];
    for cause in causes {
        let mut state = engine();
        let name = claim(&mut state);
        opened(&mut state, name.fence);
        cause(&mut state, name.fence);
        let step = arm_asked(&mut state, name);
        let [Act::AnswerArm { answer: Err(failure), .. }] = step.then.as_slice() else { panic!("{step:?}") };
        assert_eq!((failure.code, step.commit.len()), (FailureCode::BrowserLost, 0));
    }
    // A claim without a browser of cove's is the store's alone to judge, and so is one whose browser is gone.
    let (mut state, name) = (engine(), ClaimName { item: ItemId::new(3), fence: Fence::new(103) });
    assert_eq!(arm_asked(&mut state, name).commit.len(), 1);
    // What the store refuses is not armed: it can be stopped like before.
    let name = claim(&mut state);
    arm_asked(&mut state, name);
    state.apply(Event::ArmAnswered { fence: name.fence, answer: Err(ArmRefused::Canceled) }, NOW);
    let step = state.apply(Event::StopAsked { fence: name.fence }, NOW);
    assert_eq!(step, Step::act(Act::Interrupt { fence: name.fence }));
}

#[test]
fn a_start_that_is_known_to_fail_takes_no_item_from_the_queue() {
    let ask = |state: &mut State, asked, now| {
        let step = state.apply(Event::LendAsked { ticket: 7, asked }, now);
        match step.then.as_slice() {
            [Act::AnswerLend { answer: Err(refused), .. }] => Err(*refused),
            _ => Ok(()),
        }
    };
    let mut state = engine();
    assert_eq!(ask(&mut state, claim_asked("anna"), NOW), Ok(()));
    let until = NOW.plus(Duration::from_secs(60));
    state.apply(Event::Breakers(Passage::Shut { until }), NOW);
    assert_eq!(ask(&mut state, claim_asked("anna"), NOW), Err(LendRefused::ProviderDown));
    assert_eq!(ask(&mut state, asked("anna"), NOW), Ok(()), "a program is told by its address");
    // Half open, one at a time finds out.
    state.apply(Event::Breakers(Passage::Trial), until);
    assert_eq!(ask(&mut state, claim_asked("boris"), until), Ok(()));
    let name = claim(&mut state);
    assert_eq!(ask(&mut state, claim_asked("boris"), until), Err(LendRefused::ProviderDown));
    opened(&mut state, name.fence);
    assert_eq!(ask(&mut state, claim_asked("boris"), until), Ok(()));
    // Down without a breaker: not before the next try of the engine's own.
    state.apply(Event::Breakers(Passage::Free), until);
    let other = lend(&mut state, 11, "clara");
    let down = Failure::new(FailureCode::ProviderDown, "no connection");
    ended(&mut state, other, AttemptEnd::Unarmed(down), false);
    assert_eq!(ask(&mut state, claim_asked("boris"), NOW), Err(LendRefused::ProviderDown));
    assert_eq!(ask(&mut state, claim_asked("boris"), until), Ok(()));
}

#[test]
fn an_item_whose_browser_never_came_up_through_nobodys_fault_goes_back_uncounted() {
    for (code, ready, back) in [
        (FailureCode::ProviderDown, false, true),
        (FailureCode::ProfileInUse, false, true),
        // Its worker was in it, or has to say what it makes of that.
        (FailureCode::ProviderDown, true, false),
        (FailureCode::BrowserStartFailed, false, false),
        (FailureCode::ProfileUnknown, false, false),
    ] {
        let mut state = engine();
        let (name, profile) = (claim(&mut state), ProfileId::new("anna").unwrap());
        if ready {
            opened(&mut state, name.fence);
        }
        let close = Step::act(Act::Close { fence: name.fence, profile: profile.clone() });
        let step = ended(&mut state, name.fence, AttemptEnd::Unarmed(Failure::new(code, "so")), true);
        assert_eq!(handed_back(&step), back.then_some((3, code)), "{code}");
        if back {
            assert_eq!(state.view(NOW).sessions[&name.fence].state, SessionState::Stopping);
            assert_eq!(ended(&mut state, name.fence, done(), true), Step::default(), "it ends once");
            // Also where its worker was quicker: the browser is stopped, and the lock freed as a session's.
            let refused = code == FailureCode::ProfileInUse;
            assert_eq!(state.apply(Event::EndStored { fence: name.fence, refused }, NOW), close);
        } else {
            assert_eq!(step, close);
        }
        let released = Commit::ReleaseSession(SessionName { profile, fence: name.fence });
        assert_eq!(state.apply(Event::Closed { fence: name.fence }, NOW), Step::commit(released));
    }
    let mut state = engine();
    let name = claim(&mut state);
    arm(&mut state, name);
    let failure = Failure::new(FailureCode::ProviderDown, "so");
    let step = ended(&mut state, name.fence, AttemptEnd::Unarmed(failure), true);
    assert_eq!(handed_back(&step), None, "its worker may click elsewhere");
}

#[test]
fn an_item_that_nobody_was_told_of_goes_back_uncounted() {
    let mut state = engine();
    let name = claim(&mut state);
    let fence = name.fence;
    assert_eq!(state.apply(Event::Undelivered { fence }, NOW), Step::act(Act::Interrupt { fence }));
    let step = ended(&mut state, fence, done(), true);
    assert_eq!(handed_back(&step), Some((3, FailureCode::WorkerLost)));
    // The other side: what was told of stays its worker's.
    let mut state = engine();
    let name = claim(&mut state);
    state.apply(Event::StopAsked { fence: name.fence }, NOW);
    assert_eq!(handed_back(&ended(&mut state, name.fence, done(), true)), None);
}
