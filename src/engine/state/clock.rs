//! Whether the wall clock is to be believed, and whether the daemon was away for long.
//!
//! The wall clock is held against the clock that nobody sets (fence.md rule 20). Where it is ahead of it by
//! more than ten minutes, it has jumped: what comes due by it is held until it is back, the system says that
//! it is synchronised, or a human resumes. Boots differ in that clock, so nothing is said over a reboot.

use std::time::Duration;

use super::State;
use crate::engine::event::{Act, Commit, Step};
use crate::model::Moment;
use crate::store::ClockMark;

/// A forward step of the wall clock beyond this is a jump.
const MOST_STEP: Duration = Duration::from_secs(10 * 60);
/// Between two marks, and between two questions to the system.
const EVERY: Duration = Duration::from_secs(60);
/// Away for longer than this is down (fence.md rule 24).
const LONG_AWAY: Duration = Duration::from_secs(3_600);

/// What the state machine knows of the clocks.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Clocks {
    /// Both clocks were last believed then.
    believed: Option<Moment>,
    latest: Option<Moment>,
    pub suspect: bool,
    /// When the last mark was made or the last question was asked.
    told: Option<Moment>,
}

impl Clocks {
    /// How far the wall clock is ahead of where the other one says it should be.
    fn ahead(&self, now: Moment) -> Duration {
        match self.believed.filter(|believed| believed.boot_id == now.boot_id) {
            Some(believed) => now.wall.since(believed.wall.plus(now.boot.since(believed.boot))),
            None => Duration::ZERO,
        }
    }

    fn is_time_to_tell(&self, now: Moment) -> bool {
        self.told.is_none_or(|told| told.boot_id != now.boot_id || now.boot.since(told.boot) >= EVERY)
    }
}

impl State {
    /// What the store last knew; before recovery.
    pub fn begin_time(&mut self, mark: Option<ClockMark>, now: Moment) {
        let believed = mark.map(|mark| mark.believed);
        self.clocks = Clocks { believed, latest: Some(now), suspect: false, told: None };
        let same_boot = believed.is_some_and(|believed| believed.boot_id == now.boot_id);
        self.clocks.suspect = same_boot && mark.is_some_and(|mark| mark.suspect_since.is_some());
        let away = believed.map_or(Duration::ZERO, |believed| {
            if same_boot { now.boot.since(believed.boot) } else { now.wall.since(believed.wall) }
        });
        self.catching_up = away > LONG_AWAY && self.limits.catch_up_per_hour > 0;
    }

    pub(super) fn time(&mut self, now: Moment) -> Step {
        self.clocks.latest = Some(now);
        let jumped = self.clocks.ahead(now) > MOST_STEP;
        match (self.clocks.suspect, jumped) {
            (false, true) => {
                self.clocks.suspect = true;
                self.clocks.told = None;
                let believed = self.clocks.believed.unwrap_or(now);
                Step::commit(Commit::MarkClock(ClockMark { believed, suspect_since: Some(now.wall) }))
            }
            // Somebody put it right again.
            (true, false) => Step::commit(Commit::TrustClock),
            (true, true) if self.clocks.is_time_to_tell(now) => {
                self.clocks.told = Some(now);
                Step::act(Act::AskClock)
            }
            (true, true) => Step::default(),
            (false, false) => {
                self.clocks.believed = Some(now);
                if !self.clocks.is_time_to_tell(now) {
                    return Step::default();
                }
                self.clocks.told = Some(now);
                Step::commit(Commit::MarkClock(ClockMark { believed: now, suspect_since: None }))
            }
        }
    }

    /// The clock is believed from here on.
    pub(super) fn believe(&mut self) {
        self.clocks.suspect = false;
        self.clocks.believed = self.clocks.latest;
    }

    pub(super) fn clock_trusted(&mut self, more: bool) -> Step {
        self.believe();
        if more { Step::commit(Commit::TrustClock) } else { self.look() }
    }

    /// The store says what a human did meanwhile.
    pub(super) fn note_clock(&mut self, suspect: bool) {
        if self.clocks.suspect && !suspect {
            self.believe();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::event::Event;
    use crate::engine::state::Limits;
    use crate::model::{BootId, BootTime, ItemId, ProfileId, Timestamp};
    use crate::store::{Head, Outlook};

    fn at(boot_seconds: u64, wall_seconds: u64) -> Moment {
        Moment {
            wall: Timestamp::from_millis(1_795_000_000_000 + wall_seconds * 1_000),
            boot: BootTime::from_millis(boot_seconds * 1_000),
            boot_id: BootId::new(1),
        }
    }

    fn engine(catch_up_per_hour: u32) -> State {
        let second = Duration::from_secs(1);
        State::new(Limits {
            slots: 1,
            retry_base: second,
            retry_max: second,
            rest: second,
            catch_up_per_hour,
            sessions: 0,
        })
    }

    fn time(state: &mut State, now: Moment) -> Step {
        state.apply(Event::Time(now), now.wall)
    }

    #[test]
    fn rule_20_a_forward_step_of_the_wall_clock_is_suspect_and_a_small_or_backward_one_is_not() {
        for (wall, suspect) in [(30, false), (30 + 600, false), (30 + 601, true), (30 + 365 * 86_400, true)] {
            let mut state = engine(0);
            state.begin_time(None, at(0, 0));
            time(&mut state, at(0, 0));
            let step = time(&mut state, at(30, wall));
            assert_eq!(state.view(at(30, wall).wall).clock_suspect, suspect, "{wall}");
            let marked = step.commit.iter().any(
                |commit| matches!(commit, Commit::MarkClock(mark) if mark.suspect_since == Some(at(30, wall).wall)),
            );
            assert_eq!(marked, suspect, "{wall}");
        }
        let mut state = engine(0);
        state.begin_time(None, at(0, 7_200));
        time(&mut state, at(0, 7_200));
        time(&mut state, at(30, 30));
        assert!(!state.view(at(30, 30).wall).clock_suspect, "an hour and more back");
        // Sleep counts on both clocks.
        time(&mut state, at(30 + 86_400, 30 + 86_400));
        assert!(!state.view(at(30, 30).wall).clock_suspect);
    }

    #[test]
    fn rule_20_it_is_over_when_the_clock_is_back_synchronised_or_a_human_resumes() {
        let jumped = |state: &mut State| {
            state.begin_time(None, at(0, 0));
            time(state, at(0, 0));
            time(state, at(10, 86_400));
            assert!(state.view(at(10, 0).wall).clock_suspect);
        };
        let mut state = engine(0);
        jumped(&mut state);
        assert_eq!(time(&mut state, at(20, 86_410)), Step::act(Act::AskClock));
        assert_eq!(time(&mut state, at(21, 86_411)), Step::default(), "asked once a minute");
        assert_eq!(state.apply(Event::ClockSynchronised, at(22, 86_412).wall), Step::commit(Commit::TrustClock));
        state.apply(Event::ClockTrusted { more: false }, at(22, 86_412).wall);
        time(&mut state, at(30, 86_420));
        assert!(!state.view(at(30, 0).wall).clock_suspect, "the new time is the time");

        jumped(&mut state);
        assert_eq!(time(&mut state, at(20, 20)), Step::commit(Commit::TrustClock), "back again");

        jumped(&mut state);
        state.note_clock(false);
        time(&mut state, at(20, 86_410));
        assert!(!state.view(at(20, 0).wall).clock_suspect, "a human has resumed");
    }

    #[test]
    fn rule_20_a_suspicion_outlives_the_daemon_and_not_the_boot() {
        let mark = ClockMark { believed: at(0, 0), suspect_since: Some(at(10, 86_400).wall) };
        let mut state = engine(0);
        state.begin_time(Some(mark), at(40, 86_430));
        time(&mut state, at(40, 86_430));
        assert!(state.view(at(40, 0).wall).clock_suspect);
        let other = Moment { boot_id: BootId::new(2), ..at(5, 86_500) };
        state.begin_time(Some(mark), other);
        time(&mut state, other);
        assert!(!state.view(other.wall).clock_suspect);
    }

    #[test]
    fn rule_24_only_a_long_absence_is_caught_up_and_only_if_wanted() {
        let mark = |moment| Some(ClockMark { believed: moment, suspect_since: None });
        for (per_hour, away, expected) in [(60, 3_601, true), (60, 3_600, false), (0, 86_400, false)] {
            let mut state = engine(per_hour);
            state.begin_time(mark(at(100, 100)), at(100 + away, 100 + away));
            assert_eq!(state.catching_up, expected, "{per_hour} an hour after {away} s");
        }
        let mut state = engine(60);
        state.begin_time(mark(at(100, 100)), Moment { boot_id: BootId::new(2), ..at(5, 100 + 7_200) });
        assert!(state.catching_up, "over a reboot the wall clock says it");
        state.begin_time(None, at(5, 5));
        assert!(!state.catching_up, "a first start has missed nothing");
    }

    #[test]
    fn rule_24_what_was_missed_is_queued_then_spread_and_nothing_starts_before() {
        let mut state = engine(60);
        state.begin_time(
            Some(ClockMark { believed: at(100, 100), suspect_since: None }),
            at(100 + 86_400, 100 + 86_400),
        );
        let now = at(100 + 86_400, 100 + 86_400).wall;
        let head = Head { profile: ProfileId::new("anna").unwrap(), priority: 0, item: ItemId::new(1) };
        let looked = |overdue| Event::Outlook(Outlook { overdue, heads: vec![head.clone()], ..Outlook::default() });
        state.apply(Event::Recovered(Vec::new()), now);
        assert_eq!(state.apply(looked(true), now), Step::commit(Commit::Promote));
        assert_eq!(state.apply(Event::Promoted { more: false }, now), Step::act(Act::Look));
        assert_eq!(state.apply(looked(false), now), Step::commit(Commit::CatchUp { per_hour: 60 }));
        assert_eq!(state.apply(Event::CaughtUp { more: true }, now), Step::default());
        assert_eq!(state.apply(Event::Tick, now), Step::act(Act::Look));
        assert_eq!(state.apply(looked(false), now), Step::commit(Commit::CatchUp { per_hour: 60 }));
        assert_eq!(state.apply(Event::CaughtUp { more: false }, now), Step::act(Act::Look));
        assert_eq!(state.apply(looked(false), now), Step::commit(Commit::Claim { item: ItemId::new(1) }));
    }
}
