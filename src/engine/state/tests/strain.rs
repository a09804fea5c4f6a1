//! What the reports of the machine mean for starts, and for a browser that takes too much.

use super::*;
use crate::engine::pressure::{Bounds, Machine, Pressure, Scarce, Weights};
use crate::engine::{Borrower, LendAsked, LendRefused, Lent, SessionState};
use crate::store::VerifyFinding;

const MIB: u64 = 1024 * 1024;
const BOUNDS: Bounds = Bounds {
    reserve_bytes: 200 * MIB,
    estimate_bytes: 400 * MIB,
    session_limit_bytes: 1_000 * MIB,
    total_limit_bytes: 0,
    cpu_percent: 80,
    stall_percent: 10,
};
const HEADS: [(&str, u64); 3] = [("anna", 1), ("boris", 2), ("clara", 3)];
const TOLD: &str = "its browser took 1001 MiB, more than the 1000 MiB of one session ([resources] session_limit_mb)";

fn machine(available_mb: u64) -> Pressure {
    let machine = Machine { available_bytes: Some(available_mb * MIB), ..Machine::default() };
    Pressure { bounds: BOUNDS, machine, ..Pressure::default() }
}

fn busy(percent: f64) -> Event {
    let machine = Machine { cpu_percent: Some(percent), ..Machine::default() };
    Event::Pressure(Pressure { machine, ..machine_of_plenty(0, &[]) })
}

fn machine_of_plenty(look: u64, sessions: &[(&str, u64)]) -> Pressure {
    let bytes = sessions.iter().map(|(name, mb)| (ProfileId::new(name).unwrap(), mb * MIB)).collect();
    Pressure { sessions: Weights { look, bytes, peak_bytes: 0 }, ..machine(99_999) }
}

fn report(state: &mut State, pressure: Pressure) -> Step {
    state.apply(Event::Pressure(pressure), NOW)
}

/// Two looks in a row after the first one, the last with this answer.
fn found_heavy(state: &mut State, profile: &str) -> Step {
    for look in 1..=2 {
        assert_eq!(report(state, machine_of_plenty(look, &[(profile, 1_001)])), Step::default(), "look {look}");
    }
    report(state, machine_of_plenty(3, &[(profile, 1_001)]))
}

fn scarce(state: &State) -> Option<Scarce> {
    state.view(NOW).strain.shortage.map(|shortage| shortage.of)
}

fn memory_limit() -> Failure {
    Failure::new(FailureCode::MemoryLimit, TOLD)
}

#[test]
fn no_more_start_at_once_than_fit_and_the_rest_when_those_show_in_the_measurements() {
    let limits = Limits { slots: 9, ..engine().limits };
    let mut state = State::new(limits);
    state.apply(Event::Recovered(Vec::new()), NOW);
    state.apply(Event::Outlook(Outlook::default()), NOW);
    report(&mut state, machine(1_000));
    assert_eq!(scarce(&state), None);
    assert_eq!(claims(&state.apply(outlook(&HEADS), NOW)), [1, 2]);
    for (profile, number) in &HEADS[..2] {
        claim(&mut state, *number, profile);
    }
    assert_eq!(scarce(&state), Some(Scarce::Memory), "what has started is counted by its estimate");
    assert_eq!(claims(&state.apply(outlook(&[("clara", 3)]), NOW)), [] as [u64; 0]);
    // They took less than they were taken to need, and after a while the machine shows it.
    for _ in 0..4 {
        assert_eq!(report(&mut state, machine(800)), Step::default());
    }
    assert_eq!(report(&mut state, machine(800)), Step::act(Act::Look), "there is room again: the queue is looked at");
    assert_eq!(claims(&state.apply(outlook(&[("clara", 3)]), NOW)), [3]);
}

#[test]
fn processors_that_others_use_hold_everything_back_and_what_runs_goes_on() {
    let mut state = engine();
    let fence = claim(&mut state, 9, "dora");
    state.apply(busy(81.0), NOW);
    assert_eq!(scarce(&state), Some(Scarce::Cpu));
    assert_eq!(claims(&state.apply(outlook(&HEADS), NOW)), [] as [u64; 0]);
    let verifies = Outlook { verifies: vec![head("boris", 2)], ..Outlook::default() };
    assert_eq!(state.apply(Event::Outlook(verifies), NOW).commit, [], "a look needs a browser, too");
    let asked = LendAsked {
        profile: ProfileId::new("clara").unwrap(),
        to: Borrower::Program("script".to_owned()),
        ttl: Duration::from_secs(60),
        headless: true,
    };
    let refused = Act::AnswerLend { ticket: 7, answer: Err(LendRefused::Short(Scarce::Cpu)) };
    assert_eq!(state.apply(Event::LendAsked { ticket: 7, asked }, NOW), Step::act(refused));
    arm(&mut state, 9, fence);
    assert!(matches!(verdict(&end(&mut state, fence, confirmed())), Verdict::Succeeded { .. }));
    assert_eq!(state.apply(busy(71.0), NOW), Step::default(), "not yet");
    assert_eq!(state.apply(busy(70.0), NOW), Step::act(Act::Look));
    assert_eq!(scarce(&state), None);
}

#[test]
fn one_session_is_too_large_only_in_two_looks_in_a_row_of_its_own() {
    let mut state = engine();
    let fence = claim(&mut state, 1, "anna");
    let looks: [&[(&str, u64)]; 7] = [
        &[("anna", 9_999)], // Begun before it was started: the browser before it.
        &[("anna", 1_001)],
        &[("anna", 1_000)],
        &[("anna", 1_001)],
        &[], // Not measured.
        &[("anna", 1_001), ("boris", 9_999)],
        &[("anna", 1_001)],
    ];
    let last = looks.len() - 1;
    for (number, sessions) in looks.iter().enumerate() {
        let pressure = machine_of_plenty(number as u64 + 1, sessions);
        let expected = if number == last { Step::act(Act::Interrupt { fence }) } else { Step::default() };
        assert_eq!(report(&mut state, pressure.clone()), expected, "look {number}");
        if number < last {
            assert_eq!(report(&mut state, pressure), Step::default(), "the same look again");
        }
    }
    let mut unbounded = engine();
    claim(&mut unbounded, 1, "anna");
    for look in 1..9 {
        let mut pressure = machine_of_plenty(look, &[("anna", 9_999)]);
        pressure.bounds.session_limit_bytes = 0;
        assert_eq!(report(&mut unbounded, pressure), Step::default());
    }
}

#[test]
fn rule_8_before_the_commit_point_a_browser_too_large_is_an_attempt_that_failed() {
    let mut state = engine();
    let fence = claim(&mut state, 1, "anna");
    assert_eq!(found_heavy(&mut state, "anna"), Step::act(Act::Interrupt { fence }));
    let step = end(&mut state, fence, AttemptEnd::Unarmed(failure(FailureCode::Canceled)));
    let Verdict::TryAgain { failure: met, counted: true, .. } = verdict(&step) else { panic!("{step:?}") };
    assert_eq!(met, memory_limit());
    // What ended by itself meanwhile says what it met.
    let mut state = engine();
    let fence = claim(&mut state, 1, "anna");
    found_heavy(&mut state, "anna");
    let step = end(&mut state, fence, AttemptEnd::Unarmed(failure(FailureCode::Rejected)));
    assert_eq!(verdict(&step), Verdict::Failed(failure(FailureCode::Rejected)));
}

#[test]
fn rule_8_behind_the_commit_point_a_browser_too_large_is_lost_and_the_outcome_unknown() {
    let mut state = engine();
    let fence = claim(&mut state, 1, "anna");
    arm(&mut state, 1, fence);
    let profile = ProfileId::new("anna").unwrap();
    assert_eq!(found_heavy(&mut state, "anna"), Step::act(Act::EndBrowser { fence, profile }), "it hears no word");
    let step = end(&mut state, fence, AttemptEnd::Unknown(failure(FailureCode::BrowserLost).after_commit()));
    let Verdict::OutcomeUnknown(met) = verdict(&step) else { panic!("{step:?}") };
    assert_eq!(met.code, FailureCode::LostAfterCommit);
    assert_eq!(met.detail, format!("memory_limit: {TOLD}; browser_lost: it happened"));
    // Confirmed before it was gone is confirmed.
    let mut state = engine();
    let fence = claim(&mut state, 1, "anna");
    arm(&mut state, 1, fence);
    found_heavy(&mut state, "anna");
    assert!(matches!(verdict(&end(&mut state, fence, confirmed())), Verdict::Succeeded { .. }));
}

#[test]
fn rule_5_nothing_is_ended_between_the_question_and_its_answer() {
    let mut state = engine();
    let fence = claim(&mut state, 1, "anna");
    state.apply(Event::ArmAsked { fence, proofs: Proofs::default() }, NOW);
    assert_eq!(found_heavy(&mut state, "anna"), Step::default());
    state.apply(Event::ArmAnswered { fence, answer: Ok(()) }, NOW);
    let profile = ProfileId::new("anna").unwrap();
    let step = report(&mut state, machine_of_plenty(4, &[("anna", 1_001)]));
    assert_eq!(step, Step::act(Act::EndBrowser { fence, profile }));
}

#[test]
fn a_lent_browser_too_large_ends_and_is_told_why() {
    let mut state = engine();
    let (fence, profile) = (Fence::new(11), ProfileId::new("anna").unwrap());
    let to = Borrower::Program("script".to_owned());
    let asked = LendAsked { profile: profile.clone(), to, ttl: Duration::from_secs(60), headless: true };
    let lent = Ok(Lent { fence, expires_at: Some(NOW), claimed: None });
    state.apply(Event::Lent { ticket: 7, asked, answer: lent }, NOW);
    let why = TOLD.to_owned();
    assert_eq!(found_heavy(&mut state, "anna").then, [Act::ShutDoor { fence, why }, Act::Interrupt { fence }]);
    assert_eq!(state.view(NOW).sessions[&fence].state, SessionState::Stopping);
    let done = AttemptEnd::Done { url: None, result: std::collections::BTreeMap::new() };
    assert_eq!(end(&mut state, fence, done), Step::act(Act::Close { fence, profile }));
}

#[test]
fn a_look_that_takes_too_much_is_spent_and_a_persons_window_is_left_alone() {
    let mut state = engine();
    let item = Item { state: ItemState::OutcomeUnknown, ..item(1, "anna") };
    let fence = Fence::new(201);
    state.apply(Event::VerifyBegun(Box::new(VerifyBegun { item, task: task(), fence })), NOW);
    assert_eq!(found_heavy(&mut state, "anna"), Step::act(Act::Interrupt { fence }));
    let looked = Event::Looked { fence, look: None, evidence: Vec::new(), stopped: None, browser: true };
    let step = state.apply(looked, NOW);
    let [Commit::FinishVerify(end)] = step.commit.as_slice() else { panic!("{step:?}") };
    assert_eq!(end.finding, VerifyFinding::Inconclusive(memory_limit()));

    let mut state = engine();
    let opened = Event::OperatorLocked {
        fence: Some(Fence::new(9)),
        profile: ProfileId::new("anna").unwrap(),
        headless: true,
        token: "t".to_owned(),
    };
    state.apply(opened, NOW);
    assert_eq!(found_heavy(&mut state, "anna"), Step::default());
}

#[test]
fn what_runs_is_counted_against_the_total_by_its_measure_or_its_estimate() {
    let total = |look: u64, sessions: &[(&str, u64)]| {
        let mut pressure = machine_of_plenty(look, sessions);
        pressure.bounds.total_limit_bytes = 1_000 * MIB;
        pressure
    };
    let mut state = engine();
    report(&mut state, total(0, &[]));
    assert_eq!(claims(&state.apply(outlook(&HEADS), NOW)), [1, 2], "two slots, and two estimates fit");
    claim(&mut state, 1, "anna");
    for look in 1..=6 {
        report(&mut state, total(look, &[("anna", 300)]));
    }
    assert_eq!(scarce(&state), None);
    report(&mut state, total(7, &[("anna", 601)]));
    assert_eq!(scarce(&state), Some(Scarce::Memory));
    report(&mut state, total(8, &[]));
    assert_eq!(scarce(&state), None, "not measured: its estimate, and one more");
}
