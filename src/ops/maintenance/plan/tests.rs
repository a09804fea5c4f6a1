//! Weeks of virtual time over the plan: how often each schedule fires, over changes of the clocks, jumps, and
//! days in which no daemon ran (row D10 of the tests).

use std::collections::BTreeMap;
use std::time::Duration;

use super::{MOST_JITTER, Plan};
use crate::config::Maintenance;
use crate::model::{Job, JobRecord, JobResult, JobRun, Schedule, Timestamp, Zone};

const HOUR: Duration = Duration::from_secs(3_600);
const STEP: Duration = Duration::from_secs(10);

/// A daemon that does each job at once, and a state file that keeps what it is told.
struct House {
    plan: Plan,
    zone: Zone,
    kept: BTreeMap<Job, JobRecord>,
    now: Timestamp,
    started: BTreeMap<Job, Vec<Timestamp>>,
    roll: fastrand::Rng,
}

fn schedules() -> Vec<(Job, Option<Schedule>)> {
    let settings = Maintenance::default();
    Job::ALL.iter().map(|job| (*job, settings.schedule(*job))).collect()
}

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

impl House {
    fn new(zone: &str, now: &str) -> Self {
        let (zone, now) = (Zone::named(zone).unwrap(), at(now));
        let mut roll = fastrand::Rng::with_seed(7);
        let plan = Plan::new(schedules(), zone.clone(), Vec::new(), now, &mut || roll.f64());
        let kept = plan.to_keep().into_iter().collect();
        Self { plan, zone, kept, now, started: BTreeMap::new(), roll }
    }

    fn end(&mut self, job: Job) {
        let run = JobRun { started_at: self.now, duration_ms: 1, result: JobResult::Success, detail: String::new() };
        let record = self.plan.after(job, run);
        self.kept.insert(job, record.clone());
        self.plan.end(job, record);
    }

    fn look(&mut self) {
        let roll = &mut self.roll;
        for job in self.plan.due(self.now, &mut || roll.f64()) {
            self.started.entry(job).or_default().push(self.now);
            self.end(job);
        }
    }

    fn live(&mut self, time: Duration) {
        let until = self.now.plus(time);
        while self.now < until {
            self.now = self.now.plus(STEP);
            self.look();
        }
    }

    /// The process ends, and another begins.
    fn restart(&mut self, down: Duration) {
        self.now = self.now.plus(down);
        let (records, roll) = (self.kept.clone().into_iter().collect(), &mut self.roll);
        self.plan = Plan::new(schedules(), self.zone.clone(), records, self.now, &mut || roll.f64());
        self.kept.extend(self.plan.to_keep());
    }

    /// How often each job ran since the last question.
    fn counts(&mut self) -> [usize; 6] {
        let started = std::mem::take(&mut self.started);
        Job::ALL.map(|job| started.get(&job).map_or(0, Vec::len))
    }
}

#[test]
fn a_week_has_every_run_once_and_none_is_late() {
    let mut house = House::new("UTC", "2026-11-30T00:00:00Z");
    house.live(7 * 24 * HOUR + MOST_JITTER);
    for (job, starts) in &house.started {
        let schedule = Maintenance::default().schedule(*job).unwrap();
        let mut due = at("2026-11-30T00:00:00Z");
        for start in starts {
            due = schedule.next(due, &Zone::utc()).unwrap();
            assert!(*start >= due && start.since(due) <= MOST_JITTER + STEP, "{job:?} {due} {start}");
        }
    }
    assert_eq!(house.counts(), [7 * 24 * 12, 7 * 24 * 4, 7 * 24, 7, 7, 1]);
}

#[test]
fn the_days_on_which_clocks_change_have_an_hour_less_and_an_hour_more() {
    // 23 hours, then the six days of 24.
    let mut house = House::new("Europe/Berlin", "2026-03-28T23:00:00Z");
    house.live(23 * HOUR + MOST_JITTER);
    assert_eq!(house.counts(), [23 * 12, 23 * 4, 23, 1, 1, 1]);
    house.live(6 * 24 * HOUR);
    assert_eq!(house.counts(), [6 * 24 * 12, 6 * 24 * 4, 6 * 24, 6, 6, 0]);
    let mut house = House::new("Europe/Berlin", "2026-10-24T22:00:00Z");
    house.live(25 * HOUR + MOST_JITTER);
    assert_eq!(house.counts(), [25 * 12, 25 * 4, 25, 1, 1, 1]);
    house.live(6 * 24 * HOUR);
    assert_eq!(house.counts(), [6 * 24 * 12, 6 * 24 * 4, 6 * 24, 6, 6, 0]);
}

#[test]
fn a_clock_that_jumps_a_year_ahead_starts_each_job_once_and_back_again_goes_on() {
    let mut house = House::new("UTC", "2026-11-30T12:01:00Z");
    house.live(Duration::from_secs(60));
    house.counts();
    let before = house.now;
    house.now = house.now.plus(365 * 24 * HOUR);
    house.look();
    house.look();
    assert_eq!(house.counts(), [1; 6]);
    house.live(HOUR);
    assert_eq!(house.counts(), [12, 4, 1, 0, 0, 0]);
    // It was a mistake: what was done in that time says nothing about this one.
    house.now = before;
    house.live(24 * HOUR);
    assert_eq!(house.counts(), [24 * 12, 24 * 4, 24, 1, 1, 0]);
}

#[test]
fn a_clock_that_is_put_back_an_hour_repeats_no_fixed_hour_and_keeps_the_intervals() {
    let mut house = House::new("UTC", "2026-11-30T02:46:00Z");
    house.live(HOUR);
    assert_eq!(house.counts(), [12, 4, 1, 1, 1, 0]);
    house.now = at("2026-11-30T02:46:00Z");
    house.look();
    assert_eq!(house.counts(), [0; 6], "no storm");
    house.live(HOUR);
    assert_eq!(house.counts(), [12, 4, 1, 0, 0, 0]);
    house.live(24 * HOUR);
    assert_eq!(house.counts(), [24 * 12, 24 * 4, 24, 1, 1, 0]);
    // The same with a start of the daemon in between.
    let back = at("2026-12-02T02:46:00Z");
    while house.now < back.plus(HOUR) {
        house.live(STEP);
    }
    house.counts();
    house.now = back;
    house.restart(Duration::ZERO);
    house.live(HOUR);
    assert_eq!(house.counts(), [12, 4, 1, 0, 0, 0]);
}

#[test]
fn what_was_missed_while_the_daemon_was_down_is_made_up_for_once() {
    let mut house = House::new("Europe/Berlin", "2026-11-30T12:02:00Z");
    // Also where it never ran before: what comes next was kept at its first start.
    house.restart(4 * 24 * HOUR);
    house.live(MOST_JITTER);
    assert_eq!(house.counts(), [1, 1, 1, 1, 1, 0], "no Sunday has been");
    house.live(24 * HOUR);
    assert_eq!(house.counts(), [24 * 12, 24 * 4, 24, 1, 1, 0]);
    // Down again before it came to that: it is still missed, and still once.
    house.restart(2 * 24 * HOUR);
    house.restart(24 * HOUR);
    house.live(MOST_JITTER);
    assert_eq!(house.counts(), [1; 6]);
    // Nothing was missed.
    let next = house.plan.row(Job::Snapshot).unwrap().next_at;
    house.restart(STEP);
    assert_eq!(house.plan.row(Job::Snapshot).unwrap().next_at, next);
    house.live(MOST_JITTER);
    assert_eq!(house.counts()[3..], [0, 0, 0]);
}

#[test]
fn a_schedule_that_was_changed_has_missed_nothing() {
    let mut house = House::new("UTC", "2026-11-30T12:00:00Z");
    house.zone = Zone::named("Asia/Tokyo").unwrap();
    house.restart(3 * 24 * HOUR);
    house.live(MOST_JITTER);
    assert_eq!(house.counts()[3..], [0, 0, 0]);
    assert_eq!(house.plan.row(Job::Snapshot).unwrap().next_at, Some(at("2026-12-03T18:00:00Z")));
}

#[test]
fn never_two_of_the_same_at_once_and_a_long_run_is_followed_by_no_queue() {
    let mut house = House::new("UTC", "2026-11-30T12:01:00Z");
    assert!(house.plan.begin(Job::HealthCheck) && !house.plan.begin(Job::HealthCheck));
    let next = house.plan.row(Job::HealthCheck).unwrap().next_at;
    house.live(HOUR);
    assert_eq!(house.counts()[..2], [0, 4], "it runs all the time");
    assert!(house.plan.row(Job::HealthCheck).unwrap().running);
    house.end(Job::HealthCheck);
    house.look();
    assert_eq!(house.counts()[0], 0, "what came due meanwhile is over");
    assert!(house.plan.row(Job::HealthCheck).unwrap().next_at > next);
    house.live(HOUR);
    assert_eq!(house.counts()[0], 12);
}

#[test]
fn the_jitter_follows_the_roll_and_never_leaves_the_gap() {
    let now = at("2026-11-30T12:00:00Z");
    for (roll, late) in [(0.0, 0), (0.5, 15), (1.0, 30), (9.0, 30)] {
        let mut plan = Plan::new(schedules(), Zone::utc(), Vec::new(), now, &mut || roll);
        assert_eq!(plan.next_start(), Some(at("2026-11-30T12:05:00Z").plus(Duration::from_secs(late))));
        assert!(plan.due(at("2026-11-30T12:04:59Z"), &mut || roll).is_empty());
    }
    let minutely = vec![(Job::HealthCheck, Schedule::parse("* * * * *").unwrap()), (Job::Snapshot, None)];
    let plan = Plan::new(minutely, Zone::utc(), Vec::new(), now, &mut || 1.0);
    assert_eq!(plan.next_start(), Some(at("2026-11-30T12:01:06Z")));
    let off = plan.row(Job::Snapshot).unwrap();
    assert_eq!((off.schedule, off.next_at), (None, None));
}
