//! The bounds, each with its other side.

use super::*;

const BOUNDS: Bounds = Bounds {
    reserve_bytes: 200 * MIB,
    estimate_bytes: 400 * MIB,
    session_limit_bytes: 0,
    total_limit_bytes: 0,
    cpu_percent: 80,
    stall_percent: 10,
};

fn available(mb: u64) -> Pressure {
    let machine = Machine { available_bytes: Some(mb * MIB), ..Machine::default() };
    Pressure { bounds: BOUNDS, machine, ..Pressure::default() }
}

fn machine(machine: Machine) -> Pressure {
    Pressure { bounds: BOUNDS, machine, ..Pressure::default() }
}

fn unseen(unseen: u64) -> Load {
    Load { unseen, ..Load::default() }
}

fn short(pressure: &Pressure, load: Load, was: Option<Scarce>) -> Option<Scarce> {
    shortage(pressure, &load, was).map(|shortage| shortage.of)
}

#[test]
fn memory_has_to_suffice_for_the_reserve_and_one_estimate_and_for_a_quarter_more_to_go_on() {
    assert_eq!(short(&available(600), unseen(0), None), None);
    assert_eq!(short(&available(599), unseen(0), None), Some(Scarce::Memory));
    assert_eq!(short(&available(699), unseen(0), Some(Scarce::Memory)), Some(Scarce::Memory));
    assert_eq!(short(&available(700), unseen(0), Some(Scarce::Memory)), None);
    assert_eq!(short(&available(600), unseen(0), Some(Scarce::Cpu)), None, "another reason's margin");
    assert_eq!(short(&available(100), unseen(0), None), Some(Scarce::Memory), "less than the reserve");
}

#[test]
fn what_has_just_started_counts_by_its_estimate() {
    assert_eq!(short(&available(1_000), unseen(1), None), None);
    assert_eq!(short(&available(999), unseen(1), None), Some(Scarce::Memory));
    let why = shortage(&available(999), &unseen(1), None).unwrap().why;
    assert!(why.contains("999 MiB") && why.contains("the 1 that have just started"), "{why}");
}

/// Room is what several starts at once may take; with none left, and only then, there is a shortage.
#[test]
fn several_starts_at_once_take_no_more_than_there_is() {
    for mb in [0, 199, 599, 600, 999, 1_000, 1_400, 3_000] {
        for started in 0..9 {
            let (pressure, load) = (available(mb), unseen(started));
            let room = room(&pressure, &load);
            assert_eq!(room == 0, short(&pressure, load, None).is_some(), "{mb} MiB, {started} started");
            let all = Load { unseen: started + u64::from(room), ..load };
            assert_eq!(super::room(&pressure, &all), 0, "{mb} MiB, {started} and {room} started");
        }
    }
    assert_eq!(room(&available(1_400), &unseen(0)), 3);
    assert_eq!(room(&available(1_400), &unseen(2)), 1);
}

#[test]
fn all_sessions_together_stay_below_their_limit_and_a_first_one_always_fits() {
    let bounds = Bounds { total_limit_bytes: 1_000 * MIB, ..BOUNDS };
    let pressure = Pressure { bounds, ..Pressure::default() };
    let used = |mb: u64| Load { unseen: 0, sessions_bytes: mb * MIB };
    assert_eq!(short(&pressure, used(600), None), None);
    assert_eq!(short(&pressure, used(601), None), Some(Scarce::Memory));
    assert_eq!((room(&pressure, &used(0)), room(&pressure, &used(600)), room(&pressure, &used(601))), (2, 1, 0));
    assert_eq!(short(&pressure, used(601), Some(Scarce::Memory)), Some(Scarce::Memory));
    assert_eq!(short(&pressure, used(600), Some(Scarce::Memory)), None, "the place of one that ended");
    // A limit of just one session: when it is gone the next may start.
    let one = Pressure { bounds: Bounds { total_limit_bytes: BOUNDS.estimate_bytes, ..bounds }, ..pressure };
    assert_eq!(short(&one, used(1), None), Some(Scarce::Memory));
    assert_eq!((short(&one, used(0), Some(Scarce::Memory)), room(&one, &used(0))), (None, 1));
}

#[test]
fn processors_hold_back_above_their_threshold_and_let_go_at_seven_eighths_of_it() {
    let cpu = |percent: f64| machine(Machine { cpu_percent: Some(percent), ..Machine::default() });
    assert_eq!(short(&cpu(80.0), unseen(0), None), None);
    assert_eq!(short(&cpu(80.1), unseen(0), None), Some(Scarce::Cpu));
    assert_eq!(short(&cpu(70.1), unseen(0), Some(Scarce::Cpu)), Some(Scarce::Cpu));
    assert_eq!(short(&cpu(70.0), unseen(0), Some(Scarce::Cpu)), None);
    assert_eq!(short(&cpu(75.0), unseen(0), Some(Scarce::Memory)), None);
    for off in [0, 100] {
        let bounds = Bounds { cpu_percent: off, ..BOUNDS };
        assert_eq!(short(&Pressure { bounds, ..cpu(100.0) }, unseen(0), None), None, "{off}");
    }
}

#[test]
fn a_machine_that_stands_still_for_want_of_memory_starts_nothing() {
    let stall = |percent: f64| machine(Machine { stall_percent: Some(percent), ..Machine::default() });
    assert_eq!(short(&stall(10.0), unseen(0), None), None);
    assert_eq!(short(&stall(10.1), unseen(0), None), Some(Scarce::Memory));
    assert_eq!(short(&stall(5.1), unseen(0), Some(Scarce::Memory)), Some(Scarce::Memory));
    assert_eq!(short(&stall(5.0), unseen(0), Some(Scarce::Memory)), None);
    let bounds = Bounds { stall_percent: 0, ..BOUNDS };
    assert_eq!(short(&Pressure { bounds, ..stall(100.0) }, unseen(0), None), None);
}

#[test]
fn what_is_not_told_or_not_bounded_holds_nothing_back() {
    let many = Load { unseen: 99, sessions_bytes: u64::MAX };
    assert_eq!(
        (short(&machine(Machine::default()), many, None), room(&machine(Machine::default()), &many)),
        (None, u32::MAX)
    );
    let worst = Machine { available_bytes: Some(0), cpu_percent: Some(100.0), stall_percent: Some(100.0) };
    let unbounded = Pressure { machine: worst, ..Pressure::default() };
    assert_eq!((short(&unbounded, many, None), room(&unbounded, &many)), (None, u32::MAX));
}

#[test]
fn the_settings_become_bounds() {
    let bounds = Bounds::from(&config::Resources::default());
    assert_eq!((bounds.estimate_bytes, bounds.session_limit_bytes), (512 * MIB, 2_048 * MIB));
    assert_eq!((bounds.cpu_percent, bounds.stall_percent, bounds.total_limit_bytes), (80, 10, 0));
}
