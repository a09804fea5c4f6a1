//! Which jobs are due: pure, with the time and the roll of the jitter as arguments.
//!
//! Called by the loop around it and by tests. Invariants: a job never runs twice at once (what comes due meanwhile
//! is left out, since the run that goes on stands for it); however many times were missed, one run makes up for
//! them; a clock that jumps ahead starts each job once, and one that is put back by less than [`REPEATED`] starts
//! no job of a fixed hour a second time. Not here: what a job does, and whether the clock is to be believed.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::model::{Job, JobRecord, JobRun, Schedule, Timestamp, Zone};

/// A start is up to so much later than its schedule says, and up to a tenth of the time to the next one.
pub const MOST_JITTER: Duration = Duration::from_secs(30);
const JITTER_PART: u32 = 10;
/// A clock that is put back by more than this was wrong: what is written in its time says nothing.
pub const REPEATED: Duration = Duration::from_secs(3 * 3_600);
/// A job that comes at least this often goes by the time between its runs, and not by the hour.
const OFTEN: Duration = Duration::from_secs(3_600);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Next {
    /// As the schedule says.
    due_at: Timestamp,
    /// With the jitter.
    start_at: Timestamp,
}

#[derive(Debug)]
struct Entry {
    schedule: Option<Schedule>,
    record: JobRecord,
    next: Option<Next>,
    running: bool,
}

/// A job as people see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobRow {
    pub job: Job,
    /// None: it is switched off.
    pub schedule: Option<String>,
    pub last: Option<JobRun>,
    pub last_success_at: Option<Timestamp>,
    pub next_at: Option<Timestamp>,
    pub running: bool,
}

#[derive(Debug)]
pub struct Plan {
    zone: Zone,
    entries: BTreeMap<Job, Entry>,
    looked_at: Timestamp,
}

/// From 0 to 1.
pub type Roll<'a> = &'a mut dyn FnMut() -> f64;

impl Entry {
    fn planned_by(&self, zone: &Zone) -> String {
        self.schedule.as_ref().map(|schedule| format!("{schedule} {}", zone.name())).unwrap_or_default()
    }

    /// The time between two runs, at this one.
    fn gap(&self, due_at: Timestamp, zone: &Zone) -> Option<Duration> {
        self.schedule.as_ref()?.next(due_at, zone).map(|after| after.since(due_at))
    }

    /// `from`: the start counts from there, which is later than `due_at` where that was missed.
    fn set(&mut self, due_at: Option<Timestamp>, from: Timestamp, zone: &Zone, roll: Roll<'_>) {
        self.next = due_at.map(|due_at| {
            let gap = self.gap(due_at, zone).unwrap_or(Duration::MAX);
            let jitter = MOST_JITTER.min(gap / JITTER_PART).mul_f64(roll().clamp(0.0, 1.0));
            Next { due_at, start_at: due_at.max(from).plus(jitter) }
        });
    }

    /// The first time after now; not one that has been, should a clock that was put back come to it again.
    fn look_ahead(&mut self, now: Timestamp, zone: &Zone, roll: Roll<'_>) {
        let after = |after| self.schedule.as_ref().and_then(|schedule| schedule.next(after, zone));
        let first = after(now);
        let has_been = self.record.through.filter(|through| {
            first.is_some_and(|first| {
                first <= *through
                    && through.since(now) <= REPEATED
                    && self.gap(first, zone).is_some_and(|gap| gap > OFTEN)
            })
        });
        let due_at = has_been.map_or(first, after);
        self.set(due_at, now, zone, roll);
    }

    /// What is kept: with it a later daemon knows what it has missed.
    fn to_keep(&self, zone: &Zone) -> JobRecord {
        let next_at = self.next.map(|next| next.due_at);
        JobRecord { next_at, planned_by: self.planned_by(zone), ..self.record.clone() }
    }
}

impl Plan {
    /// `records`: what a daemon before this one kept. A time of the same schedule that went by since is due now.
    #[must_use]
    pub fn new(
        schedules: impl IntoIterator<Item = (Job, Option<Schedule>)>,
        zone: Zone,
        records: Vec<(Job, JobRecord)>,
        now: Timestamp,
        roll: Roll<'_>,
    ) -> Self {
        let mut records: BTreeMap<Job, JobRecord> = records.into_iter().collect();
        let mut entries = BTreeMap::new();
        for (job, schedule) in schedules {
            let record = records.remove(&job).unwrap_or_default();
            let mut entry = Entry { schedule, record, next: None, running: false };
            let same = entry.record.planned_by == entry.planned_by(&zone);
            match entry.record.next_at.filter(|next_at| same && *next_at <= now) {
                Some(missed) => entry.set(Some(missed), now, &zone, roll),
                None => entry.look_ahead(now, &zone, roll),
            }
            entries.insert(job, entry);
        }
        Self { zone, entries, looked_at: now }
    }

    /// What is to be kept of each job before anything has run, where that is not what was kept.
    #[must_use]
    pub fn to_keep(&self) -> Vec<(Job, JobRecord)> {
        let kept = self.entries.iter().map(|(job, entry)| (*job, entry.to_keep(&self.zone), &entry.record));
        kept.filter(|(_, new, old)| new != *old).map(|(job, new, _)| (job, new)).collect()
    }

    /// The jobs that start now; they count as running from here on.
    pub fn due(&mut self, now: Timestamp, roll: Roll<'_>) -> Vec<Job> {
        let put_back = now < self.looked_at;
        self.looked_at = now;
        let mut due = Vec::new();
        for (job, entry) in &mut self.entries {
            match entry.next.filter(|_| put_back) {
                // One that was missed stays due, whatever the clock says.
                Some(Next { due_at, .. }) if due_at <= now => entry.set(Some(due_at), now, &self.zone, roll),
                Some(_) => entry.look_ahead(now, &self.zone, roll),
                None => {}
            }
            if entry.next.is_none_or(|next| next.start_at > now) {
                continue;
            }
            entry.record.through = Some(now);
            entry.look_ahead(now, &self.zone, roll);
            if !entry.running {
                entry.running = true;
                due.push(*job);
            }
        }
        due
    }

    /// When there may be something to start; None: nothing is planned.
    #[must_use]
    pub fn next_start(&self) -> Option<Timestamp> {
        self.entries.values().filter_map(|entry| entry.next).map(|next| next.start_at).min()
    }

    /// By a person's word, whatever the schedule says. False: it runs already.
    pub fn begin(&mut self, job: Job) -> bool {
        let Some(entry) = self.entries.get_mut(&job).filter(|entry| !entry.running) else { return false };
        entry.running = true;
        true
    }

    /// What is to be kept when a run has ended so; until [`Self::end`] the job still runs.
    #[must_use]
    pub fn after(&self, job: Job, run: JobRun) -> JobRecord {
        let Some(entry) = self.entries.get(&job) else { return JobRecord::default() };
        let kept = entry.to_keep(&self.zone);
        let succeeded = run.result == crate::model::JobResult::Success;
        let last_success_at = if succeeded { Some(run.started_at) } else { kept.last_success_at };
        JobRecord { last: Some(run), last_success_at, ..kept }
    }

    pub fn end(&mut self, job: Job, kept: JobRecord) {
        if let Some(entry) = self.entries.get_mut(&job) {
            // The times went on meanwhile.
            entry.record = JobRecord { through: entry.record.through, ..kept };
            entry.running = false;
        }
    }

    /// In the order of [`Job`].
    #[must_use]
    pub fn rows(&self) -> Vec<JobRow> {
        let row = |(job, entry): (&Job, &Entry)| JobRow {
            job: *job,
            schedule: entry.schedule.as_ref().map(ToString::to_string),
            last: entry.record.last.clone(),
            last_success_at: entry.record.last_success_at,
            next_at: entry.next.map(|next| next.due_at),
            running: entry.running,
        };
        self.entries.iter().map(row).collect()
    }

    #[must_use]
    pub fn row(&self, job: Job) -> Option<JobRow> {
        self.rows().into_iter().find(|row| row.job == job)
    }
}

#[cfg(test)]
mod tests;
