//! The state machine, fed by hand: one test a rule, each with what must not happen.

mod breakers;
mod strain;

use std::time::Duration;

use super::super::event::{Act, AttemptEnd, Commit, Event, Step, Work};
use super::{Limits, State};
use crate::browser::Session;
use crate::model::{
    Counts, Failure, FailureCode, Fence, Intent, Item, ItemId, ItemState, Lock, LockKind, LockOwner, OnUnknown,
    ProfileEffect, ProfileId, Task, TaskId, Timestamp, Verdict,
};
use crate::model::{Place, Proofs};
use crate::store::{ArmRefused, Claim, Claimed, Head, Leftover, Outlook, Pause, Settled, VerifyBegun};

pub(super) const NOW: Timestamp = Timestamp::from_millis(1_800_000_000_000);

pub(super) fn task() -> Task {
    let mut counts = Counts::default();
    counts.add(ItemState::Queued);
    Task {
        id: TaskId::new(1),
        flow: "atelier".to_owned(),
        flow_hash: "00".repeat(32),
        priority: 0,
        max_attempts: 2,
        spacing_seconds: 0,
        on_unknown: OnUnknown::Hold,
        external: None,
        verifiable: false,
        rehearsal: false,
        idempotency: None,
        webhook: None,
        created_at: NOW,
        counts,
        finished_at: None,
    }
}

pub(super) fn item(number: u64, profile: &str) -> Item {
    Item {
        state: ItemState::Running,
        place: Place::Off,
        attempts: 1,
        fence: Some(Fence::new(number + 100)),
        started_at: Some(NOW),
        ..Item::new(ItemId::new(number), TaskId::new(1), ProfileId::new(profile).unwrap(), NOW)
    }
}

pub(super) fn session(profile: &str) -> Session {
    Session {
        profile: ProfileId::new(profile).unwrap(),
        port: 1,
        ws_path: "/devtools/browser/x".to_owned(),
        pid: 1,
        started_at: NOW,
        headless: true,
    }
}

/// A recovered engine with two slots, its first look answered by nothing.
pub(super) fn engine() -> State {
    let limits = Limits {
        slots: 2,
        retry_base: Duration::from_secs(30),
        retry_max: Duration::from_secs(60),
        rest: Duration::from_secs(3_600),
        catch_up_per_hour: 0,
        sessions: 3,
    };
    let mut state = State::new(limits);
    assert_eq!(state.apply(Event::Recovered(Vec::new()), NOW), Step::act(Act::Look));
    assert_eq!(state.apply(Event::Outlook(Outlook::default()), NOW), Step::default());
    state
}

fn claim(state: &mut State, number: u64, profile: &str) -> Fence {
    let item = item(number, profile);
    let fence = item.fence.unwrap();
    let started = Claim::Started(Box::new(Claimed { item: item.clone(), task: task(), fence }));
    let step = state.apply(Event::Claimed(Box::new(started)), NOW);
    let work = Work::Attempt { item: Box::new(item), task: Box::new(task()) };
    assert_eq!(step, Step::act(Act::Start { fence, work }));
    fence
}

fn arm(state: &mut State, number: u64, fence: Fence) {
    let step = state.apply(Event::ArmAsked { fence, proofs: Proofs::default() }, NOW);
    assert_eq!(step, Step::commit(Commit::Arm { item: ItemId::new(number), fence, proofs: Proofs::default() }));
    let step = state.apply(Event::ArmAnswered { fence, answer: Ok(()) }, NOW);
    assert_eq!(step, Step::act(Act::AnswerArm { fence, answer: Ok(()) }));
}

fn end(state: &mut State, fence: Fence, end: AttemptEnd) -> Step {
    state.apply(Event::Ended { fence, end, evidence: Vec::new(), stopped: None, browser: true, roll: 1.0 }, NOW)
}

fn verdict(step: &Step) -> Verdict {
    match step.commit.as_slice() {
        [Commit::Finish(end)] => end.verdict.clone(),
        other => panic!("one finish expected, found {other:?}"),
    }
}

const fn costs_an_attempt(verdict: &Verdict) -> bool {
    matches!(verdict, Verdict::TryAgain { counted: true, .. })
}

fn failure(code: FailureCode) -> Failure {
    Failure::new(code, "it happened")
}

fn confirmed() -> AttemptEnd {
    AttemptEnd::Confirmed { url: Some("http://127.0.0.1/p/1".to_owned()), result: std::collections::BTreeMap::new() }
}

fn head(profile: &str, item: u64) -> Head {
    Head { profile: ProfileId::new(profile).unwrap(), priority: 0, item: ItemId::new(item) }
}

fn outlook(heads: &[(&str, u64)]) -> Event {
    let heads = heads.iter().map(|(profile, item)| head(profile, *item)).collect();
    Event::Outlook(Outlook { heads, ..Outlook::default() })
}

fn claims(step: &Step) -> Vec<u64> {
    step.commit
        .iter()
        .filter_map(|commit| match commit {
            Commit::Claim { item } => Some(item.raw()),
            _ => None,
        })
        .collect()
}

#[test]
fn rule_5_the_click_is_allowed_only_after_the_commit_of_armed() {
    let mut state = engine();
    let fence = claim(&mut state, 1, "anna");
    let step = state.apply(Event::ArmAsked { fence, proofs: Proofs::default() }, NOW);
    assert!(step.then.is_empty(), "an answer before the commit");
    let refused = Event::ArmAnswered { fence, answer: Err(ArmRefused::LockLost) };
    let step = state.apply(refused, NOW);
    assert!(matches!(step.then.as_slice(), [Act::AnswerArm { answer: Err(_), .. }]));
    // Refused is not armed: the attempt's end is an ordinary one.
    let step = end(&mut state, fence, AttemptEnd::Unarmed(failure(FailureCode::ArmRefused)));
    assert!(matches!(verdict(&step), Verdict::TryAgain { counted: false, .. }));
}

#[test]
fn rule_7_confirmed_after_arming_is_succeeded() {
    let mut state = engine();
    let fence = claim(&mut state, 1, "anna");
    arm(&mut state, 1, fence);
    assert!(matches!(verdict(&end(&mut state, fence, confirmed())), Verdict::Succeeded { .. }));
}

#[test]
fn rule_7_whatever_a_site_says_after_arming_parks_the_profile() {
    let told = |armed: bool, code: FailureCode, end: AttemptEnd| {
        let mut state = engine();
        let fence = claim(&mut state, 1, "anna");
        if armed {
            arm(&mut state, 1, fence);
        }
        let stopped = Some(failure(code));
        let ended = Event::Ended { fence, end, evidence: Vec::new(), stopped, browser: true, roll: 1.0 };
        let step = state.apply(ended, NOW);
        let [Commit::Finish(end)] = step.commit.as_slice() else { panic!("{step:?}") };
        (end.verdict.state(), end.effect.clone())
    };
    let rests = Some(ProfileEffect::Rest(NOW.plus(Duration::from_secs(3_600))));
    let parks = Some(ProfileEffect::Park("it happened".to_owned()));
    for code in [FailureCode::NeedsHuman, FailureCode::RateLimited, FailureCode::Rejected] {
        let unknown = AttemptEnd::Unknown(failure(FailureCode::ConfirmationMissing));
        assert_eq!(told(true, code, unknown), (ItemState::OutcomeUnknown, parks.clone()), "{code}");
    }
    // Before arming, and after a confirmation, a rest is enough.
    let limited = FailureCode::RateLimited;
    assert_eq!(told(false, limited, AttemptEnd::Unarmed(failure(limited))), (ItemState::Queued, rests.clone()));
    assert_eq!(told(true, limited, confirmed()), (ItemState::Succeeded, rests));
    let rejected = FailureCode::Rejected;
    assert_eq!(told(false, rejected, AttemptEnd::Unarmed(failure(rejected))), (ItemState::Failed, None));
}

#[test]
fn rule_8_every_other_end_after_arming_is_unknown_whatever_the_attempt_believes() {
    for code in FailureCode::ALL {
        for wrap in [AttemptEnd::Unarmed, AttemptEnd::Unknown] {
            let mut state = engine();
            let fence = claim(&mut state, 1, "anna");
            arm(&mut state, 1, fence);
            let step = end(&mut state, fence, wrap(failure(*code)));
            assert!(matches!(verdict(&step), Verdict::OutcomeUnknown(_)), "{code}");
        }
    }
}

#[test]
fn rule_8_an_end_before_arming_goes_by_the_policy() {
    use crate::model::Retry;
    for code in FailureCode::ALL.iter().filter(|code| **code != FailureCode::Canceled) {
        let mut state = engine();
        let fence = claim(&mut state, 1, "anna");
        // Before anything is attached to there is a rule of its own.
        state.apply(Event::Attached { fence }, NOW);
        let verdict = verdict(&end(&mut state, fence, AttemptEnd::Unarmed(failure(*code))));
        match (code.retry(), verdict) {
            (Retry::Never, Verdict::Failed(_)) | (Retry::Uncounted, Verdict::TryAgain { counted: false, .. }) => {}
            (Retry::Backoff, Verdict::TryAgain { counted: true, due_at, .. }) => {
                assert_eq!(due_at, NOW.plus(Duration::from_secs(30)), "{code}");
            }
            (retry, verdict) => panic!("{code} {retry:?} became {verdict:?}"),
        }
    }
}

#[test]
fn attempts_are_bounded() {
    let mut state = engine();
    let mut last = item(1, "anna");
    last.attempts = 2;
    let fence = last.fence.unwrap();
    let started = Claim::Started(Box::new(Claimed { item: last, task: task(), fence }));
    state.apply(Event::Claimed(Box::new(started)), NOW);
    let step = end(&mut state, fence, AttemptEnd::Unarmed(failure(FailureCode::ElementNotFound)));
    assert!(matches!(verdict(&step), Verdict::Failed(_)));
}

#[test]
fn an_old_fence_changes_nothing() {
    let mut state = engine();
    let fence = claim(&mut state, 1, "anna");
    let before = format!("{:?}", state.view(NOW));
    let old = Fence::new(fence.raw() - 1);
    assert_eq!(end(&mut state, old, confirmed()), Step::default());
    assert_eq!(state.apply(Event::Closed { fence: old }, NOW), Step::default());
    assert_eq!(state.apply(Event::Opened { fence: old, session: session("anna") }, NOW), Step::default());
    let step = state.apply(Event::ArmAsked { fence: old, proofs: Proofs::default() }, NOW);
    assert!(matches!(step.then.as_slice(), [Act::AnswerArm { answer: Err(_), .. }]));
    assert!(step.commit.is_empty());
    assert_eq!(format!("{:?}", state.view(NOW)), before);
}

#[test]
fn an_attempt_ends_once() {
    let mut state = engine();
    let fence = claim(&mut state, 1, "anna");
    arm(&mut state, 1, fence);
    assert!(!end(&mut state, fence, confirmed()).commit.is_empty());
    assert_eq!(end(&mut state, fence, AttemptEnd::Unknown(failure(FailureCode::BrowserLost))), Step::default());
    let step = state.apply(Event::ArmAsked { fence, proofs: Proofs::default() }, NOW);
    assert!(step.commit.is_empty(), "armed again after its end");
}

#[test]
fn the_lock_is_freed_after_the_browser_is_dead() {
    let mut state = engine();
    let fence = claim(&mut state, 1, "anna");
    let profile = ProfileId::new("anna").unwrap();
    end(&mut state, fence, AttemptEnd::Unarmed(failure(FailureCode::ElementNotFound)));
    let step = state.apply(Event::EndStored { fence, refused: false }, NOW);
    assert_eq!(step, Step::act(Act::Close { fence, profile: profile.clone() }));
    // Meanwhile the profile is not claimed again.
    assert!(claims(&state.apply(outlook(&[("anna", 2)]), NOW)).is_empty());
    let step = state.apply(Event::Closed { fence }, NOW);
    assert_eq!(step, Step::commit(Commit::Release { profile, fence }));
    assert_eq!(state.apply(Event::Released { fence }, NOW), Step::act(Act::Look));
    assert_eq!(claims(&state.apply(outlook(&[("anna", 2)]), NOW)), [2]);
}

#[test]
fn slots_and_profiles_bound_what_is_claimed() {
    let mut state = engine();
    claim(&mut state, 1, "anna");
    let step = state.apply(outlook(&[("anna", 2), ("boris", 3), ("clara", 4)]), NOW);
    assert_eq!(claims(&step), [3]);
}

#[test]
fn paused_and_draining_claim_nothing_but_carry_out_cancels() {
    let mut state = engine();
    let heads = vec![Head { profile: ProfileId::new("anna").unwrap(), priority: 0, item: ItemId::new(1) }];
    let paused = Outlook {
        heads,
        to_settle: vec![TaskId::new(9)],
        pause: Some(Pause::Operator { since: NOW }),
        ..Outlook::default()
    };
    let step = state.apply(Event::Outlook(paused), NOW);
    assert_eq!(step.commit, [Commit::Settle { task: TaskId::new(9) }]);
    state.apply(Event::Drain, NOW);
    assert_eq!(state.apply(outlook(&[("anna", 1)]), NOW), Step::default());
    assert!(state.is_drained());
}

#[test]
fn a_cancel_interrupts_before_the_commit_point_and_never_after_it() {
    let mut state = engine();
    let unarmed = claim(&mut state, 1, "anna");
    let armed = claim(&mut state, 2, "boris");
    arm(&mut state, 2, armed);
    let step =
        state.apply(Event::Settled { task: TaskId::new(1), settled: Settled { canceled: true, more: false } }, NOW);
    assert_eq!(step.then, [Act::Interrupt { fence: unarmed }, Act::Look]);
    // It may still ask to click before it hears: the answer is no.
    let step = state.apply(Event::ArmAsked { fence: unarmed, proofs: Proofs::default() }, NOW);
    assert!(matches!(step.then.as_slice(), [Act::AnswerArm { answer: Err(_), .. }]));
    let step = end(&mut state, unarmed, AttemptEnd::Unarmed(failure(FailureCode::ElementNotFound)));
    assert!(matches!(verdict(&step), Verdict::Canceled(_)));
    assert!(matches!(verdict(&end(&mut state, armed, confirmed())), Verdict::Succeeded { .. }));
}

#[test]
fn rule_21_a_forced_cleanup_asks_what_is_not_armed_to_stop_and_frees_nothing_by_itself() {
    let mut state = engine();
    let unarmed = claim(&mut state, 1, "anna");
    let armed = claim(&mut state, 2, "boris");
    arm(&mut state, 2, armed);
    let asked = Step::act(Act::Interrupt { fence: unarmed });
    assert_eq!(state.apply(Event::StopAsked { fence: unarmed }, NOW), asked);
    for fence in [armed, Fence::new(9_999)] {
        assert_eq!(state.apply(Event::StopAsked { fence }, NOW), Step::default());
    }
    // It goes back into the queue, and its lock is freed behind its browser like any other.
    let step = end(&mut state, unarmed, AttemptEnd::Unarmed(failure(FailureCode::Canceled)));
    assert!(matches!(verdict(&step), Verdict::TryAgain { counted: false, .. }));
    let step = state.apply(Event::EndStored { fence: unarmed, refused: false }, NOW);
    let profile = ProfileId::new("anna").unwrap();
    assert_eq!(step, Step::act(Act::Close { fence: unarmed, profile: profile.clone() }));
    let step = state.apply(Event::Closed { fence: unarmed }, NOW);
    assert_eq!(step, Step::commit(Commit::Release { profile, fence: unarmed }));
    assert_eq!(state.apply(Event::StopAsked { fence: unarmed }, NOW), Step::default(), "twice");
}

#[test]
fn rule_8_a_drain_hands_back_what_is_not_armed_and_waits_for_what_is() {
    let mut state = engine();
    let unarmed = claim(&mut state, 1, "anna");
    let armed = claim(&mut state, 2, "boris");
    arm(&mut state, 2, armed);
    assert_eq!(state.apply(Event::Drain, NOW).then, [Act::Interrupt { fence: unarmed }]);
    let step = end(&mut state, unarmed, AttemptEnd::Unarmed(failure(FailureCode::Canceled)));
    assert!(matches!(verdict(&step), Verdict::TryAgain { counted: false, due_at: Timestamp::ZERO, .. }));
    for fence in [unarmed, armed] {
        assert!(!state.is_drained());
        end(&mut state, fence, confirmed());
        state.apply(Event::EndStored { fence, refused: false }, NOW);
        state.apply(Event::Closed { fence }, NOW);
        state.apply(Event::Released { fence }, NOW);
    }
    assert!(state.is_drained());
}

#[test]
fn a_provider_that_is_down_costs_no_attempt_and_is_tried_by_one() {
    let mut state = engine();
    let fence = claim(&mut state, 1, "anna");
    let step = end(&mut state, fence, AttemptEnd::Unarmed(failure(FailureCode::ProviderDown)));
    assert!(matches!(verdict(&step), Verdict::TryAgain { counted: false, .. }));
    state.apply(Event::EndStored { fence, refused: false }, NOW);
    state.apply(Event::Closed { fence }, NOW);
    state.apply(Event::Released { fence }, NOW);
    assert!(claims(&state.apply(outlook(&[("anna", 1), ("boris", 2)]), NOW)).is_empty());
    let later = state.wake_at(NOW).unwrap();
    assert_eq!(state.wake_at(later), None, "a time that has come wakes again and again");
    state.apply(Event::Tick, later);
    assert_eq!(claims(&state.apply(outlook(&[("anna", 1), ("boris", 2)]), later)), [1]);
    // It came up: everybody again.
    let fence = claim(&mut state, 1, "anna");
    assert_eq!(state.apply(Event::Opened { fence, session: session("anna") }, later), Step::act(Act::Look));
    assert_eq!(claims(&state.apply(outlook(&[("boris", 2)]), later)), [2]);
}

fn leftover(number: u64, profile: &str, armed: bool, canceled: bool) -> Leftover {
    let mut item = item(number, profile);
    if armed {
        item.armed_fence = item.fence;
    }
    let lock = Lock {
        kind: LockKind::PROFILE,
        key: profile.to_owned(),
        owner: LockOwner::Item(item.id),
        fence: item.fence.unwrap(),
        acquired_at: NOW,
        lease: None,
    };
    let intent = Intent { cancel_requested_at: canceled.then_some(NOW), paused_at: None };
    Leftover { lock, running: Some((item, task(), intent)) }
}

#[test]
fn rule_8_and_15_recovery_hands_back_the_unarmed_uncounted_and_looks_at_the_armed_before_any_claim() {
    let limits = Limits {
        slots: 9,
        retry_base: Duration::from_secs(1),
        retry_max: Duration::from_secs(1),
        rest: Duration::from_secs(3_600),
        catch_up_per_hour: 0,
        sessions: 0,
    };
    let mut state = State::new(limits);
    assert_eq!(state.apply(Event::Bell, NOW), Step::default(), "a claim before recovery");
    let leftovers = vec![
        leftover(1, "anna", false, false),
        leftover(2, "boris", true, false),
        leftover(3, "clara", false, true),
        leftover(4, "dora", true, true),
    ];
    let step = state.apply(Event::Recovered(leftovers), NOW);
    let ends: Vec<_> = step
        .commit
        .iter()
        .map(|commit| match commit {
            Commit::Finish(end) => (end.item.raw(), end.verdict.state(), costs_an_attempt(&end.verdict)),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(ends, [(1, ItemState::Queued, false), (3, ItemState::Canceled, false)]);
    let looked_at: Vec<_> = step
        .then
        .iter()
        .filter_map(|act| match act {
            Act::Start { work: Work::Reattach { item, .. }, .. } => Some(item.id.raw()),
            _ => None,
        })
        .collect();
    assert_eq!(looked_at, [2, 4]);
    assert!(!step.then.iter().any(|act| matches!(act, Act::Close { .. })), "stopped before it was looked at");
    // Not confirmed: unknown, also where a cancel was asked for.
    let step = end(&mut state, Fence::new(104), AttemptEnd::Unknown(failure(FailureCode::RestartedAfterCommit)));
    assert!(matches!(verdict(&step), Verdict::OutcomeUnknown(_)));
}

/// A human has answered: the verify that looks for the answer stops, and the profile is free behind its browser.
#[test]
fn rule_14_a_resolve_interrupts_the_verify_of_its_item_and_nothing_else() {
    let mut state = engine();
    let begin = |state: &mut State, number: u64, profile: &str| {
        let item = Item { state: ItemState::OutcomeUnknown, ..item(number, profile) };
        let fence = Fence::new(number + 200);
        let begun = VerifyBegun { item: item.clone(), task: task(), fence };
        let work = Work::Verify { item: Box::new(item), task: Box::new(task()) };
        let step = state.apply(Event::VerifyBegun(Box::new(begun)), NOW);
        assert_eq!(step, Step::act(Act::Start { fence, work }));
        fence
    };
    let (looks, _other) = (begin(&mut state, 1, "anna"), begin(&mut state, 2, "boris"));
    let step = state.apply(Event::Resolved { item: ItemId::new(1) }, NOW);
    assert_eq!((step.commit, step.then), (Vec::new(), vec![Act::Interrupt { fence: looks }, Act::Look]));
    // What it had seen by then is nothing: its browser is closed, and only then is the lock freed.
    let looked = Event::Looked { fence: looks, look: None, evidence: Vec::new(), stopped: None, browser: true };
    let profile = ProfileId::new("anna").unwrap();
    assert_eq!(state.apply(looked, NOW), Step::act(Act::Close { fence: looks, profile: profile.clone() }));
    assert!(claims(&state.apply(outlook(&[("anna", 1)]), NOW)).is_empty(), "beside the browser that looked");
    let step = state.apply(Event::Closed { fence: looks }, NOW);
    assert_eq!(step, Step::commit(Commit::Release { profile, fence: looks }));
    let step = state.apply(Event::Resolved { item: ItemId::new(9) }, NOW);
    assert!(!step.then.iter().any(|act| matches!(act, Act::Interrupt { .. })), "{step:?}");
}

/// What runs goes on to its end, armed or not; cancels are carried out; nothing new begins.
#[test]
fn without_disk_space_nothing_new_begins_and_what_runs_is_not_cut() {
    let mut state = engine();
    let (unarmed, armed) = (claim(&mut state, 1, "anna"), claim(&mut state, 2, "boris"));
    arm(&mut state, 2, armed);
    let short = Event::Disk { short: Some("full".to_owned()) };
    assert_eq!(state.apply(short, NOW), Step::default());
    assert_eq!(state.view(NOW).no_disk.as_deref(), Some("full"));
    let finished = end(&mut state, armed, confirmed());
    assert!(matches!(verdict(&finished), Verdict::Succeeded { .. }));
    arm(&mut state, 1, unarmed);
    state.apply(Event::EndStored { fence: armed, refused: false }, NOW);
    state.apply(Event::Closed { fence: armed }, NOW);
    state.apply(Event::Released { fence: armed }, NOW);
    let looked = Outlook { to_settle: vec![TaskId::new(9)], overdue: true, ..Outlook::default() };
    let Event::Outlook(Outlook { heads, .. }) = outlook(&[("clara", 3)]) else { panic!() };
    let step = state.apply(Event::Outlook(Outlook { heads, ..looked }), NOW);
    assert_eq!(step.commit, [Commit::Settle { task: TaskId::new(9) }]);
    let asked = Event::OpenAsked { profile: ProfileId::new("dora").unwrap(), headless: true, token: "t".to_owned() };
    let answer = Act::AnswerOpen { token: "t".to_owned(), opened: false };
    assert_eq!(state.apply(asked, NOW), Step::act(answer));

    assert_eq!(state.apply(Event::Disk { short: None }, NOW), Step::act(Act::Look));
    let step = state.apply(outlook(&[("clara", 3)]), NOW);
    assert_eq!(step.commit, [Commit::Claim { item: ItemId::new(3) }]);
}
