//! What open breakers mean for starts: none while open, one at a time half open, no attempt spent, and it ends.

use std::collections::{BTreeMap, VecDeque};

use proptest::prelude::*;

use super::*;
use crate::breaker::board::Board;
use crate::breaker::{BreakerLimits, CDP_ATTACH, Passage};
use crate::engine::{ProfileFacts, START_BREAKERS, why_ready_waits};
use crate::model::WaitReason;

const OPEN: Duration = Duration::from_secs(60);
const HEADS: [(&str, u64); 3] = [("anna", 1), ("boris", 2), ("clara", 3)];

fn later() -> Timestamp {
    NOW.plus(OPEN)
}

fn shut() -> Passage {
    Passage::Shut { until: later() }
}

fn told(passage: Passage) -> State {
    let mut state = engine();
    assert_eq!(state.apply(Event::Breakers(passage), NOW), Step::act(Act::Look));
    state
}

fn clear(state: &mut State, fence: Fence) {
    state.apply(Event::EndStored { fence, refused: false }, NOW);
    state.apply(Event::Closed { fence }, NOW);
    state.apply(Event::Released { fence }, NOW);
}

fn waits(state: &State, external: bool, now: Timestamp) -> (WaitReason, Option<Timestamp>) {
    let profile = ProfileId::new("zoe").unwrap();
    why_ready_waits(external, &profile, ProfileFacts::default(), &state.view(now), now)
}

#[test]
fn while_a_breaker_is_open_nothing_starts_and_the_loop_wakes_when_it_may() {
    let mut state = told(shut());
    let verifies = vec![Head { profile: ProfileId::new("dora").unwrap(), priority: 0, item: ItemId::new(9) }];
    let Event::Outlook(Outlook { heads, .. }) = outlook(&HEADS) else { panic!() };
    let looked = Outlook { heads, verifies, to_settle: vec![TaskId::new(5)], ..Outlook::default() };
    let step = state.apply(Event::Outlook(looked.clone()), NOW);
    assert_eq!(step, Step::commit(Commit::Settle { task: TaskId::new(5) }), "what ends something goes on");
    assert_eq!(state.wake_at(NOW), Some(later()));
    assert_eq!(waits(&state, false, NOW), (WaitReason::BreakerOpenUntil, Some(later())));
    assert_eq!(waits(&state, true, NOW), (WaitReason::NoSlot, None), "outside workers bring their own browser");

    assert_eq!(state.wake_at(later()), None, "a time that has come wakes again and again");
    assert_eq!(state.apply(Event::Breakers(Passage::Trial), later()), Step::act(Act::Look));
    let step = state.apply(Event::Outlook(looked), later());
    assert_eq!(step.commit[1..], [Commit::BeginVerify { item: ItemId::new(9) }], "what may have gone out comes first");
}

#[test]
fn negative_control_with_the_breakers_closed_the_same_items_start() {
    let mut state = told(shut());
    state.apply(Event::Breakers(Passage::Free), NOW);
    assert_eq!(claims(&state.apply(outlook(&HEADS), NOW)), [1, 2], "as many as there are slots");
    assert_eq!(waits(&state, false, NOW), (WaitReason::NoSlot, None));
    assert_eq!(state.apply(Event::Breakers(Passage::Free), NOW), Step::default(), "told again, nothing is new");
}

#[test]
fn half_open_one_starts_at_a_time_until_it_answers() {
    let mut state = told(Passage::Trial);
    assert_eq!(claims(&state.apply(outlook(&HEADS), NOW)), [1]);
    let first = claim(&mut state, 1, "anna");
    assert!(claims(&state.apply(outlook(&HEADS), NOW)).is_empty());
    assert_eq!(waits(&state, false, NOW), (WaitReason::BreakerOpenUntil, None), "no time is known");
    // The start went through; whether the browser answers is not known yet.
    state.apply(Event::Opened { fence: first, session: session("anna") }, NOW);
    assert!(claims(&state.apply(outlook(&HEADS), NOW)).is_empty());
    let old = Fence::new(first.raw() - 1);
    assert_eq!(state.apply(Event::Attached { fence: old }, NOW), Step::default());
    assert!(claims(&state.apply(outlook(&HEADS), NOW)).is_empty());

    assert_eq!(state.apply(Event::Attached { fence: first }, NOW), Step::act(Act::Look));
    assert_eq!(claims(&state.apply(outlook(&HEADS), NOW)), [2], "the first goes on, and the next is tried beside it");
}

#[test]
fn a_trial_that_ends_without_an_answer_makes_room_for_the_next() {
    let mut state = told(Passage::Trial);
    let first = claim(&mut state, 1, "anna");
    let step = end(&mut state, first, AttemptEnd::Unarmed(failure(FailureCode::ProfileInUse)));
    assert!(matches!(verdict(&step), Verdict::TryAgain { counted: false, .. }));
    clear(&mut state, first);
    assert_eq!(claims(&state.apply(outlook(&HEADS), NOW)), [2], "anna is left alone for a while");
}

#[test]
fn an_attempt_that_meets_an_open_breaker_is_taken_back_uncounted() {
    let mut state = engine();
    let fence = claim(&mut state, 1, "anna");
    state.apply(Event::Breakers(shut()), NOW);
    let met = AttemptEnd::Unarmed(failure(FailureCode::BreakerOpen));
    let told = Event::Ended { fence, end: met, evidence: Vec::new(), stopped: None, browser: false, roll: 1.0 };
    let step = state.apply(told, NOW);
    assert!(matches!(verdict(&step), Verdict::TryAgain { counted: false, due_at: Timestamp::ZERO, .. }));
    let profile = ProfileId::new("anna").unwrap();
    let step = state.apply(Event::EndStored { fence, refused: false }, NOW);
    assert_eq!(step, Step::commit(Commit::Release { profile, fence }), "no browser, so nothing is closed");
    state.apply(Event::Released { fence }, NOW);
    assert_eq!(state.view(NOW).provider_down, None, "the breaker is the reason");
    // Its time is over: at once, and not after a wait of its own.
    state.apply(Event::Breakers(Passage::Trial), later());
    assert_eq!(claims(&state.apply(outlook(&HEADS), later())), [1]);
}

/// A refusal by a breaker that starts are not known to go through must not make the loop spin.
#[test]
fn a_refusal_that_the_breakers_do_not_explain_is_waited_for_like_a_provider_that_is_down() {
    let mut state = engine();
    let fence = claim(&mut state, 1, "anna");
    end(&mut state, fence, AttemptEnd::Unarmed(failure(FailureCode::BreakerOpen)));
    clear(&mut state, fence);
    assert!(claims(&state.apply(outlook(&HEADS), NOW)).is_empty());
    let soon = state.wake_at(NOW).unwrap();
    assert_eq!(waits(&state, false, NOW), (WaitReason::ProviderDown, Some(soon)));
    assert_eq!(claims(&state.apply(outlook(&HEADS), soon)), [1]);
}

/// Once its wait is over, a provider that was down is tried beside what runs since before, one start at a time.
#[test]
fn a_provider_that_was_down_is_tried_while_another_browser_runs() {
    let mut state = engine();
    let runs = claim(&mut state, 1, "anna");
    state.apply(Event::Opened { fence: runs, session: session("anna") }, NOW);
    state.apply(Event::Attached { fence: runs }, NOW);
    let fence = claim(&mut state, 2, "boris");
    end(&mut state, fence, AttemptEnd::Unarmed(failure(FailureCode::ProviderDown)));
    clear(&mut state, fence);
    assert!(claims(&state.apply(outlook(&[("boris", 2)]), NOW)).is_empty());
    let soon = state.wake_at(NOW).unwrap();
    assert_eq!(claims(&state.apply(outlook(&[("boris", 2)]), soon)), [2]);
    claim(&mut state, 2, "boris");
    assert!(claims(&state.apply(outlook(&[("clara", 3)]), soon)).is_empty(), "it is not known yet what comes of it");
}

#[test]
fn a_browser_that_cannot_be_closed_is_shown_until_it_is_gone() {
    let mut state = engine();
    let (fence, anna) = (claim(&mut state, 1, "anna"), ProfileId::new("anna").unwrap());
    end(&mut state, fence, AttemptEnd::Unarmed(failure(FailureCode::ElementNotFound)));
    state.apply(Event::EndStored { fence, refused: false }, NOW);
    for _ in 0..2 {
        let lives = Event::NotClosed { fence, failure: failure(FailureCode::BrowserLost) };
        assert_eq!(state.apply(lives, NOW), Step::default());
        assert!(state.view(NOW).close_errors[&anna].starts_with("browser_lost"));
    }
    state.apply(Event::Closed { fence }, NOW);
    assert!(state.view(NOW).close_errors.is_empty());
    state.apply(Event::Released { fence }, NOW);
    let late = Event::NotClosed { fence, failure: failure(FailureCode::BrowserLost) };
    state.apply(late, NOW);
    assert!(state.view(NOW).close_errors.is_empty(), "of a browser that is gone nothing is said");
}

#[test]
fn an_open_breaker_takes_over_from_the_waits_for_a_provider_that_is_down() {
    let mut state = engine();
    let fence = claim(&mut state, 1, "anna");
    end(&mut state, fence, AttemptEnd::Unarmed(failure(FailureCode::ProviderDown)));
    let soon = state.wake_at(NOW);
    assert!(soon.is_some_and(|soon| NOW < soon && soon < later()));
    assert_eq!(waits(&state, false, NOW), (WaitReason::ProviderDown, soon));
    state.apply(Event::Breakers(shut()), NOW);
    assert_eq!(waits(&state, false, NOW), (WaitReason::BreakerOpenUntil, Some(later())));
    clear(&mut state, fence);
    assert_eq!(state.wake_at(NOW), Some(later()));
    state.apply(Event::Breakers(Passage::Trial), later());
    assert_eq!(claims(&state.apply(outlook(&HEADS), later())), [1]);
}

/// One end of an attempt at `profile`, and everything that follows from it.
fn refuse(state: &mut State, number: u64, profile: &str, code: FailureCode, now: Timestamp) -> Verdict {
    let fence = claim(state, number, profile);
    let end = AttemptEnd::Unarmed(failure(code));
    let told = Event::Ended { fence, end, evidence: Vec::new(), stopped: None, browser: false, roll: 1.0 };
    let verdict = verdict(&state.apply(told, now));
    state.apply(Event::EndStored { fence, refused: false }, now);
    state.apply(Event::Released { fence }, now);
    verdict
}

fn waits_in(state: &State, profile: &str, now: Timestamp) -> (WaitReason, Option<Timestamp>) {
    why_ready_waits(false, &ProfileId::new(profile).unwrap(), ProfileFacts::default(), &state.view(now), now)
}

#[test]
fn a_refusal_for_good_waits_longer_and_longer_for_itself_and_gives_the_trial_to_the_next() {
    let mut state = told(Passage::Trial);
    let mut now = NOW;
    for wait in [60, 60, 60] {
        let verdict = refuse(&mut state, 1, "anna", FailureCode::ProviderRefused, now);
        assert!(matches!(verdict, Verdict::TryAgain { counted: false, .. }));
        let until = now.plus(Duration::from_secs(wait));
        assert_eq!(waits_in(&state, "anna", now), (WaitReason::ProviderDown, Some(until)));
        assert_eq!(claims(&state.apply(outlook(&HEADS), now)), [2], "the oldest does not take every trial");
        assert_eq!(claims(&state.apply(outlook(&HEADS[..1]), now)), [] as [u64; 0]);
        assert_eq!(state.wake_at(now), Some(until));
        now = until;
        assert_eq!(claims(&state.apply(outlook(&HEADS[..1]), now)), [1]);
    }
    let limits = Limits { retry_max: Duration::from_secs(1_800), ..state.limits.clone() };
    state.limits = limits;
    for wait in [120, 240, 480, 960, 1_800, 1_800] {
        refuse(&mut state, 1, "anna", FailureCode::ProviderRefused, now);
        let until = now.plus(Duration::from_secs(wait));
        assert_eq!(state.view(now).refused.values().next().unwrap().until, until);
        now = until;
    }
}

#[test]
fn a_refusal_for_want_of_a_place_is_tried_again_when_a_browser_has_gone_and_one_of_the_plan_is_not() {
    let mut state = engine();
    let runs = claim(&mut state, 2, "boris");
    state.apply(Event::Opened { fence: runs, session: session("boris") }, NOW);
    refuse(&mut state, 1, "anna", FailureCode::ProviderFull, NOW);
    refuse(&mut state, 3, "clara", FailureCode::ProviderRefused, NOW);
    assert!(claims(&state.apply(outlook(&[("anna", 1), ("clara", 3)]), NOW)).is_empty());
    end(&mut state, runs, AttemptEnd::Unarmed(failure(FailureCode::ElementNotFound)));
    clear(&mut state, runs);
    assert_eq!(claims(&state.apply(outlook(&[("anna", 1), ("clara", 3)]), NOW)), [1]);
}

#[test]
fn the_first_attachments_in_a_row_that_fail_are_not_counted_and_those_after_them_are() {
    let mut state = engine();
    let mut met = |code| refuse(&mut state, 1, "anna", code, NOW);
    for _ in 0..5 {
        let verdict = met(FailureCode::AttachFailed);
        let Verdict::TryAgain { due_at, counted: false, .. } = verdict else { panic!("{verdict:?}") };
        assert!(due_at > NOW, "by its back-off");
        // Says nothing of its browser.
        met(FailureCode::ProfileInUse);
    }
    assert!(costs_an_attempt(&met(FailureCode::AttachFailed)), "one broken profile does not try for ever");
    assert!(costs_an_attempt(&met(FailureCode::AttachFailed)));
    met(FailureCode::ElementNotFound);
    assert!(!costs_an_attempt(&met(FailureCode::AttachFailed)), "it came up meanwhile: a new row");
}

#[test]
fn a_browser_that_was_attached_to_and_is_lost_costs_an_attempt() {
    let mut state = engine();
    let fence = claim(&mut state, 1, "anna");
    state.apply(Event::Opened { fence, session: session("anna") }, NOW);
    state.apply(Event::Attached { fence }, NOW);
    assert!(costs_an_attempt(&verdict(&end(
        &mut state,
        fence,
        AttemptEnd::Unarmed(failure(FailureCode::AttachFailed))
    ))));
}

#[test]
fn rule_21_an_attempt_whose_lock_was_taken_away_says_so_and_is_not_counted() {
    let mut state = engine();
    let fence = claim(&mut state, 1, "anna");
    assert_eq!(state.apply(Event::StopAsked { fence }, NOW), Step::act(Act::Interrupt { fence }));
    let step = end(&mut state, fence, AttemptEnd::Unarmed(failure(FailureCode::Canceled)));
    let Verdict::TryAgain { failure, counted: false, .. } = verdict(&step) else { panic!("{step:?}") };
    assert_eq!(failure.code, FailureCode::LockTakenAway);
    assert!(failure.code.help().contains("pause or cancel"), "{}", failure.code.help());
}

/// A loop, a board and browsers that answer, do not, or say nothing.
struct World {
    state: State,
    board: Board,
    now: Timestamp,
    serial: u64,
    /// What starts, and what has answered.
    starting: BTreeMap<Fence, ProfileId>,
    up: BTreeMap<Fence, ProfileId>,
}

impl World {
    fn new() -> Self {
        let limits = BreakerLimits { failures: 5, open: OPEN, trials: 3 };
        let board = Board::new(limits);
        let (starting, up) = (BTreeMap::new(), BTreeMap::new());
        Self { state: engine(), board, now: NOW, serial: 0, starting, up }
    }

    fn passage(&self) -> Passage {
        self.board.passage(&START_BREAKERS, self.now)
    }

    fn turn(&mut self, event: Event) {
        let mut events = VecDeque::from([Event::Breakers(self.passage()), event]);
        while let Some(event) = events.pop_front() {
            let step = self.state.apply(event, self.now);
            for commit in step.commit {
                match commit {
                    Commit::Claim { .. } => {
                        self.serial += 1;
                        let item = item(self.serial, &format!("p{}", self.serial));
                        let fence = item.fence.unwrap();
                        let started = Claimed { item, task: task(), fence };
                        events.push_back(Event::Claimed(Box::new(Claim::Started(Box::new(started)))));
                    }
                    Commit::Finish(end) => {
                        events.push_back(Event::EndStored { fence: end.fence, refused: false });
                    }
                    Commit::Release { fence, .. } => events.push_back(Event::Released { fence }),
                    other => panic!("{other:?}"),
                }
            }
            for act in step.then {
                match act {
                    Act::Look => {
                        events.push_back(Event::Breakers(self.passage()));
                        events.push_back(outlook(&[("x", 1), ("y", 2), ("z", 3)]));
                    }
                    Act::Start { fence, work: Work::Attempt { item, .. } } => self.start(fence, item.profile),
                    Act::Close { fence, .. } => events.push_back(Event::Closed { fence }),
                    other => panic!("{other:?}"),
                }
            }
        }
    }

    fn start(&mut self, fence: Fence, profile: ProfileId) {
        let passage = self.passage();
        assert!(passage.shut_until().is_none(), "started while a breaker is open");
        assert!(passage == Passage::Free || self.starting.is_empty(), "two trials at a time");
        assert_eq!(self.board.admit(CDP_ATTACH, self.now), Ok(()));
        self.starting.insert(fence, profile);
    }

    fn ends(&mut self, fence: Fence, code: FailureCode) {
        let end = AttemptEnd::Unarmed(failure(code));
        self.turn(Event::Ended { fence, end, evidence: Vec::new(), stopped: None, browser: true, roll: 0.0 });
    }

    fn answers(&mut self, fence: Fence) {
        let profile = self.starting.remove(&fence).unwrap();
        self.board.succeeded(CDP_ATTACH, self.now);
        self.up.insert(fence, profile);
        self.turn(Event::Attached { fence });
    }

    fn act(&mut self, act: Happens) {
        let first = self.starting.keys().next().copied();
        match (act, first) {
            (Happens::Wait(seconds), _) => {
                self.now = self.now.plus(Duration::from_secs(seconds));
                self.turn(Event::Tick);
            }
            (Happens::Answers, Some(fence)) => self.answers(fence),
            (Happens::Fails, Some(fence)) => {
                self.starting.remove(&fence);
                self.board.failed(CDP_ATTACH, self.now, "no answer");
                self.ends(fence, FailureCode::AttachFailed);
            }
            (Happens::SaysNothing, Some(fence)) => {
                self.starting.remove(&fence);
                self.board.withdrawn(CDP_ATTACH, self.now);
                self.ends(fence, FailureCode::MediaMissing);
            }
            (Happens::Ends, _) => {
                if let Some((fence, _)) = self.up.pop_first() {
                    self.ends(fence, FailureCode::ElementNotFound);
                }
            }
            (_, None) => {}
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Happens {
    Wait(u64),
    Answers,
    Fails,
    SaysNothing,
    Ends,
}

fn happenings() -> impl Strategy<Value = Vec<Happens>> {
    let one = prop_oneof![
        2 => (0_u64..90).prop_map(Happens::Wait),
        2 => Just(Happens::Answers),
        5 => Just(Happens::Fails),
        1 => Just(Happens::SaysNothing),
        1 => Just(Happens::Ends),
    ];
    prop::collection::vec(one, 0..150)
}

proptest! {
    /// Whatever happened before: once browsers answer again, every slot is in use after one open time.
    #[test]
    fn nothing_starts_while_open_and_it_never_stays_half_open(happenings in happenings()) {
        let mut world = World::new();
        world.turn(Event::Bell);
        for happens in happenings {
            world.act(happens);
        }
        let give_up = world.now.plus(OPEN);
        while world.up.len() < 2 || world.passage() != Passage::Free {
            match (world.starting.keys().next().copied(), world.state.wake_at(world.now)) {
                (Some(fence), _) => world.answers(fence),
                (None, _) if world.up.len() == 2 => world.act(Happens::Ends),
                (None, Some(at)) => {
                    world.now = at;
                    world.turn(Event::Tick);
                }
                (None, None) => panic!("nothing runs, nothing starts and nothing wakes: {:?}", world.passage()),
            }
            prop_assert!(world.now <= give_up, "{:?}", world.passage());
        }
    }
}
