//! The breaker by itself: example histories, and random ones against a model of the rules.

use proptest::prelude::*;

use super::*;

const LIMITS: BreakerLimits = BreakerLimits { failures: 5, open: Duration::from_secs(60), trials: 3 };

fn at(seconds: u64) -> Timestamp {
    Timestamp::from_millis(1_000_000 + seconds * 1_000)
}

fn opened() -> Breaker {
    let mut breaker = Breaker::new(LIMITS);
    for _ in 0..5 {
        assert_eq!(breaker.admit(at(0)), Ok(()));
        breaker.failed(at(0));
    }
    breaker
}

#[test]
fn five_failures_in_a_row_open_it_and_a_success_between_them_counts_from_anew() {
    let mut breaker = Breaker::new(LIMITS);
    for _ in 0..3 {
        for _ in 0..4 {
            breaker.failed(at(0));
        }
        assert_eq!(breaker.state(at(0)), BreakerState::Closed);
        breaker.succeeded();
    }
    assert_eq!(opened().state(at(0)), BreakerState::Open { until: at(60) });
    assert_eq!(opened().admit(at(59)), Err(at(60)));
}

#[test]
fn after_its_time_three_calls_are_tried_and_close_it() {
    let mut breaker = opened();
    assert_eq!(breaker.state(at(60)), BreakerState::HalfOpen);
    for _ in 0..3 {
        assert_eq!(breaker.admit(at(60)), Ok(()));
    }
    assert_eq!(breaker.admit(at(61)), Err(at(120)), "a fourth call waits for the three");
    breaker.succeeded();
    breaker.succeeded();
    assert_eq!(breaker.state(at(62)), BreakerState::HalfOpen);
    breaker.succeeded();
    assert_eq!((breaker.state(at(62)), breaker.admit(at(62))), (BreakerState::Closed, Ok(())));
}

#[test]
fn one_failed_trial_opens_it_again_and_what_ended_late_changes_nothing() {
    let mut breaker = opened();
    assert_eq!(breaker.admit(at(60)), Ok(()));
    breaker.failed(at(70));
    for _ in 0..9 {
        breaker.succeeded();
        breaker.failed(at(80));
    }
    assert_eq!(breaker.state(at(80)), BreakerState::Open { until: at(130) });
}

#[test]
fn trials_that_never_end_do_not_keep_it_half_open() {
    let mut breaker = opened();
    for _ in 0..3 {
        assert_eq!(breaker.admit(at(60)), Ok(()));
    }
    assert_eq!(breaker.admit(at(119)), Err(at(120)));
    assert_eq!(breaker.admit(at(120)), Ok(()));
}

#[test]
fn a_clock_that_is_set_back_does_not_keep_it_open() {
    let mut breaker = opened();
    let earlier = Timestamp::from_millis(500_000);
    assert_eq!(breaker.admit(earlier), Err(earlier.plus(LIMITS.open)));
    assert_eq!(breaker.admit(earlier.plus(LIMITS.open)), Ok(()));
}

#[test]
fn asking_what_a_call_would_meet_spends_nothing() {
    let mut breaker = Breaker::new(LIMITS);
    assert_eq!(breaker.passage(at(0)), Passage::Free);
    let mut breaker = opened();
    assert_eq!(breaker.passage(at(59)), Passage::Shut { until: at(60) });
    for _ in 0..9 {
        assert_eq!(breaker.passage(at(60)), Passage::Trial);
    }
    for _ in 0..3 {
        assert_eq!((breaker.passage(at(61)), breaker.admit(at(61))), (Passage::Trial, Ok(())));
    }
    assert_eq!(breaker.passage(at(62)), Passage::Shut { until: at(121) }, "the three are under way");
    assert_eq!(breaker.passage(at(121)), Passage::Trial);
    assert!(Passage::Free < Passage::Trial && Passage::Trial < Passage::Shut { until: Timestamp::ZERO });
    let mut set_back = opened();
    let earlier = Timestamp::from_millis(500_000);
    assert_eq!(set_back.passage(earlier), Passage::Shut { until: earlier.plus(LIMITS.open) });
    assert_eq!(set_back.passage(earlier.plus(LIMITS.open)), Passage::Trial);
}

#[test]
fn a_trial_that_says_nothing_makes_room_for_another() {
    let mut breaker = opened();
    for _ in 0..9 {
        assert_eq!(breaker.admit(at(60)), Ok(()));
        breaker.withdrawn();
    }
    for _ in 0..3 {
        assert_eq!(breaker.admit(at(60)), Ok(()));
    }
    breaker.succeeded();
    for _ in 0..9 {
        breaker.withdrawn();
    }
    assert_eq!((breaker.admit(at(61)), breaker.admit(at(61))), (Ok(()), Ok(())));
    assert_eq!(breaker.admit(at(61)), Err(at(120)), "one has succeeded and counts");
    let mut closed = Breaker::new(LIMITS);
    closed.failed(at(0));
    closed.withdrawn();
    assert_eq!(closed.failures_in_a_row(), 1, "nothing was said, so nothing is forgotten");
}

#[test]
fn the_success_of_a_cheap_call_says_nothing_of_the_dear_ones_that_fail() {
    let mut breaker = Breaker::new(LIMITS);
    for failures in 1..=4 {
        breaker.succeeded_at("running");
        breaker.failed_at("start", at(0));
        breaker.succeeded_at("running");
        assert_eq!((breaker.failures_in_a_row(), breaker.state(at(0))), (failures, BreakerState::Closed));
    }
    breaker.succeeded_at("running");
    breaker.failed_at("start", at(0));
    assert_eq!(breaker.state(at(0)), BreakerState::Open { until: at(60) }, "within the fifth");

    // Closed by calls that always went well, it is not believed a second time.
    for _ in 0..3 {
        assert_eq!(breaker.admit(at(60)), Ok(()));
        breaker.succeeded_at("running");
    }
    assert_eq!(breaker.state(at(60)), BreakerState::Closed);
    breaker.failed_at("start", at(60));
    assert_eq!(breaker.state(at(60)), BreakerState::Open { until: at(120) });
}

#[test]
fn failures_of_all_kinds_open_it_together_and_a_success_of_everything_forgets_them_all() {
    let mut breaker = Breaker::new(LIMITS);
    for _ in 0..2 {
        breaker.failed_at("running", at(0));
        breaker.failed_at("start", at(0));
    }
    breaker.succeeded_at("running");
    assert_eq!(breaker.failures_in_a_row(), 2, "its own are forgotten");
    breaker.succeeded();
    assert_eq!(breaker.failures_in_a_row(), 0);
    for _ in 0..3 {
        breaker.failed_at("start", at(0));
    }
    for _ in 0..2 {
        breaker.failed_at("running", at(0));
    }
    assert_eq!(breaker.state(at(0)), BreakerState::Open { until: at(60) });
}

#[derive(Clone, Copy, Debug)]
enum Act {
    Wait(u64),
    Admit,
    Succeed,
    Fail,
    Withdraw,
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let act = prop_oneof![
        2 => (0_u64..90).prop_map(Act::Wait),
        3 => Just(Act::Admit),
        2 => Just(Act::Succeed),
        4 => Just(Act::Fail),
        1 => Just(Act::Withdraw),
    ];
    prop::collection::vec(act, 0..200)
}

/// The trials since the first of them.
#[derive(Clone, Copy)]
struct Trials {
    since: u64,
    admitted: u32,
    succeeded: u32,
}

proptest! {
    #[test]
    fn it_never_admits_while_open_and_never_more_than_its_trials_after(acts in acts()) {
        let mut breaker = Breaker::new(LIMITS);
        let mut now = 0;
        let (mut row, mut opened_at, mut half) = (0, None, None::<Trials>);
        for act in acts {
            match act {
                Act::Wait(seconds) => now += seconds,
                Act::Admit => {
                    let passage = breaker.passage(at(now));
                    let admitted = breaker.admit(at(now));
                    prop_assert_eq!(admitted.err(), passage.shut_until());
                    if let Err(until) = admitted {
                        prop_assert!(at(now) < until && until <= at(now + 60));
                    }
                    prop_assert_eq!(passage == Passage::Free, opened_at.is_none());
                    match (opened_at, &mut half) {
                        (None, _) => prop_assert_eq!(admitted, Ok(())),
                        (Some(_), Some(trials)) if trials.admitted < 3 => {
                            prop_assert_eq!(admitted, Ok(()), "wedged");
                            trials.admitted += 1;
                        }
                        (Some(opened), trials)
                            if now < trials.as_ref().map_or(opened, |trials| trials.since) + 60 =>
                        {
                            let since = trials.as_ref().map_or(opened, |trials| trials.since);
                            prop_assert_eq!(admitted, Err(at(since + 60)));
                        }
                        (Some(_), _) => {
                            prop_assert_eq!(admitted, Ok(()), "wedged");
                            half = Some(Trials { since: now, admitted: 1, succeeded: 0 });
                        }
                    }
                }
                Act::Succeed => {
                    breaker.succeeded();
                    if opened_at.is_none() {
                        row = 0;
                    } else if let Some(trials) = &mut half {
                        trials.succeeded += 1;
                        if trials.succeeded == 3 {
                            (row, opened_at, half) = (0, None, None);
                        }
                    }
                }
                Act::Fail => {
                    breaker.failed(at(now));
                    if opened_at.is_none() {
                        row += 1;
                    }
                    if (opened_at.is_none() && row == 5) || half.is_some() {
                        (opened_at, half) = (Some(now), None);
                    }
                }
                Act::Withdraw => {
                    breaker.withdrawn();
                    if let Some(trials) = &mut half {
                        trials.admitted = trials.admitted.saturating_sub(1).max(trials.succeeded);
                    }
                }
            }
            prop_assert_eq!(breaker.state(at(now)) == BreakerState::Closed, opened_at.is_none());
        }
    }
}
