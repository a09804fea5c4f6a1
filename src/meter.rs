//! What this process counts and times of itself: counters and histograms, from its start on.
//!
//! One [`Meter`] is made with the store and shared by every room that has one. The store's writer counts after
//! its commit ([`Mark`]), so that what was refused or thrown out is never counted. Invariants: every label is a
//! word of the program (states, methods, results), so the number of series is bounded; a histogram is a fixed row
//! of numbers, so its memory is, too. It is our own and not a crate's, since the JSON tells percentiles, minimum
//! and maximum, which the crates for Prometheus do not give back. Deliberately not here: gauges, which are
//! read where they are true, and how any of this is written down.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::model::{ItemState, TaskState};

/// Seconds; what is longer falls into a bucket without a bound. From a quick read to a daylong task.
pub const BOUNDS: [f64; 22] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 180.0, 600.0,
    1_800.0, 3_600.0, 14_400.0, 86_400.0,
];
const METHODS: [&str; 6] = ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS"];
/// Of methods that are none of these: whoever calls may invent one.
const OTHER_METHOD: &str = "other";

/// What is timed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Timed {
    HttpRequest,
    /// From its acceptance to its end.
    Task,
    /// From its claim to its end.
    Attempt,
    StoreCommit,
    StoreRead,
    ProviderStart,
    /// One step of a replay; of an `optional`, itself and each that it holds.
    Step,
}

impl Timed {
    pub const ALL: [Self; 7] = [
        Self::HttpRequest,
        Self::Task,
        Self::Attempt,
        Self::StoreCommit,
        Self::StoreRead,
        Self::ProviderStart,
        Self::Step,
    ];
}

/// Something that a commit made true.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    TaskAccepted,
    TaskEnded {
        state: TaskState,
        after: Duration,
    },
    AttemptStarted,
    AttemptEnded {
        state: ItemState,
        after: Duration,
    },
    /// The item came into this state.
    Item(ItemState),
    /// A worker completed what it had never armed.
    CompletedUnarmed,
    /// A try of a webhook: `delivered`, `given_up`, `again`.
    Delivery(&'static str),
}

/// Durations in buckets.
#[derive(Clone, Debug, PartialEq)]
pub struct Histogram {
    /// Per bound, and one more for what is longer than all of them; not cumulative.
    pub buckets: [u64; BOUNDS.len() + 1],
    pub count: u64,
    pub sum: f64,
    pub min: f64,
    pub max: f64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { buckets: [0; BOUNDS.len() + 1], count: 0, sum: 0.0, min: 0.0, max: 0.0 }
    }
}

impl Histogram {
    pub fn add(&mut self, took: Duration) {
        let seconds = took.as_secs_f64();
        let bucket = BOUNDS.iter().position(|bound| seconds <= *bound).unwrap_or(BOUNDS.len());
        self.buckets[bucket] += 1;
        self.min = if self.count == 0 { seconds } else { self.min.min(seconds) };
        self.max = self.max.max(seconds);
        self.count += 1;
        self.sum += seconds;
    }

    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
    pub fn mean(&self) -> f64 {
        if self.count == 0 { 0.0 } else { self.sum / self.count as f64 }
    }

    /// The value below which this part (0 to 1) of all lies, as exact as the buckets are; zero of nothing.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
    pub fn quantile(&self, part: f64) -> f64 {
        let wanted = part * self.count as f64;
        let mut before = 0;
        for (bucket, held) in self.buckets.iter().enumerate().filter(|(_, held)| **held > 0) {
            if (before + held) as f64 >= wanted {
                let low = if bucket == 0 { 0.0 } else { BOUNDS[bucket - 1] }.max(self.min);
                let high = BOUNDS.get(bucket).copied().unwrap_or(self.max).min(self.max);
                let inside = ((wanted - before as f64) / *held as f64).clamp(0.0, 1.0);
                return low + (high - low) * inside;
            }
            before += held;
        }
        self.max
    }
}

/// All of it at one moment.
#[derive(Clone, Debug, Default)]
pub struct Counted {
    /// By method and status.
    pub requests: BTreeMap<(&'static str, u16), u64>,
    pub tasks_started: u64,
    pub tasks_completed: BTreeMap<TaskState, u64>,
    pub attempts_started: u64,
    /// By the state that the item had afterwards.
    pub attempts_ended: BTreeMap<ItemState, u64>,
    /// How often items came into a state.
    pub items: BTreeMap<ItemState, u64>,
    pub claims_completed_unarmed: u64,
    pub deliveries: BTreeMap<&'static str, u64>,
    /// By what was timed.
    times: [Histogram; Timed::ALL.len()],
}

impl Counted {
    #[must_use]
    pub fn times(&self, what: Timed) -> Histogram {
        self.times[what as usize].clone()
    }

    fn time(&mut self, what: Timed, took: Duration) {
        self.times[what as usize].add(took);
    }

    fn mark(&mut self, mark: Mark) {
        match mark {
            Mark::TaskAccepted => self.tasks_started += 1,
            Mark::TaskEnded { state, after } => {
                *self.tasks_completed.entry(state).or_default() += 1;
                self.time(Timed::Task, after);
            }
            Mark::AttemptStarted => self.attempts_started += 1,
            Mark::AttemptEnded { state, after } => {
                *self.attempts_ended.entry(state).or_default() += 1;
                self.time(Timed::Attempt, after);
            }
            Mark::Item(state) => *self.items.entry(state).or_default() += 1,
            Mark::CompletedUnarmed => self.claims_completed_unarmed += 1,
            Mark::Delivery(result) => *self.deliveries.entry(result).or_default() += 1,
        }
    }
}

/// A handle; clones count together.
#[derive(Clone, Default)]
pub struct Meter(Arc<Mutex<Counted>>);

impl Meter {
    fn counted(&self) -> MutexGuard<'_, Counted> {
        // A number that was not added is no reason to stop counting.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn time(&self, what: Timed, took: Duration) {
        self.counted().time(what, took);
    }

    pub fn request(&self, method: &str, status: u16, took: Duration) {
        let method = METHODS.into_iter().find(|known| *known == method).unwrap_or(OTHER_METHOD);
        let mut counted = self.counted();
        *counted.requests.entry((method, status)).or_default() += 1;
        counted.time(Timed::HttpRequest, took);
    }

    pub fn mark(&self, marks: impl IntoIterator<Item = Mark>) {
        let mut counted = self.counted();
        for mark in marks {
            counted.mark(mark);
        }
    }

    #[must_use]
    pub fn read(&self) -> Counted {
        self.counted().clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_lie_in_their_bucket_and_between_the_extremes() {
        let mut histogram = Histogram::default();
        assert_eq!((histogram.quantile(0.99), histogram.mean()), (0.0, 0.0), "nothing was timed");
        histogram.add(Duration::from_millis(7));
        for part in [0.5, 0.99] {
            let only = histogram.quantile(part);
            assert!((0.007..=0.0071).contains(&only), "{only}");
        }
        for _ in 0..98 {
            histogram.add(Duration::from_millis(20));
        }
        histogram.add(Duration::from_secs(200_000));
        assert!((0.01..=0.025).contains(&histogram.quantile(0.5)));
        assert!((0.01..=0.025).contains(&histogram.quantile(0.99)));
        assert_eq!(histogram.quantile(1.0).to_string(), "200000");
        assert_eq!((histogram.count, histogram.min, histogram.max), (100, 0.007, 200_000.0));
        assert_eq!(histogram.buckets.iter().sum::<u64>(), 100);
        assert_eq!(histogram.buckets[BOUNDS.len()], 1, "longer than every bound");
    }

    #[test]
    fn methods_that_a_caller_invents_are_one_series() {
        let meter = Meter::default();
        for method in ["GET", "BREW", "get", "PATCH"] {
            meter.request(method, 405, Duration::ZERO);
        }
        let requests = meter.read().requests;
        assert_eq!(requests, [(("GET", 405), 1), (("other", 405), 3)].into());
        assert_eq!(meter.read().times(Timed::HttpRequest).count, 4);
    }

    #[test]
    fn marks_are_counted_by_their_words() {
        let (meter, after) = (Meter::default(), Duration::from_secs(3));
        let other = meter.clone();
        other.mark([Mark::TaskAccepted, Mark::AttemptStarted, Mark::Item(ItemState::Running)]);
        other.mark([
            Mark::AttemptEnded { state: ItemState::RetryWait, after },
            Mark::Item(ItemState::RetryWait),
            Mark::TaskEnded { state: TaskState::Failed, after },
            Mark::Delivery("again"),
        ]);
        let read = meter.read();
        assert_eq!((read.tasks_started, read.attempts_started), (1, 1));
        assert_eq!(read.attempts_ended, [(ItemState::RetryWait, 1)].into());
        assert_eq!(read.tasks_completed, [(TaskState::Failed, 1)].into());
        assert_eq!(read.deliveries, [("again", 1)].into());
        assert_eq!(read.items.len(), 2);
        assert_eq!((read.times(Timed::Task).count, read.times(Timed::Attempt).sum), (1, 3.0));
        assert_eq!(read.times(Timed::StoreRead), Histogram::default());
    }
}
