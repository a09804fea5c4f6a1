//! The history of numbers: what gauges and counters were, minute by minute, and coarser the older it is.
//!
//! Written by `ops::sampler` once a minute through [`super::Store::put_sample`], read by the API. A sample is
//! merged into one row of every [`Resolution`] as it comes, so that nothing has to be rolled up later and a
//! restart loses nothing; the same operation takes away what a resolution keeps no longer. Invariants: a row holds
//! at most [`MAX_NAMES`] numbers; a resolution holds what fits into its time. In a coarse row a counter (its name
//! says `_total`) is what it was last, anything else the mean of its samples.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::ops::RangeInclusive;
use std::time::Duration;

use redb::{ReadTransaction, ReadableTable};
use serde::{Deserialize, Serialize};

use super::tables::{HISTORY, Tx};
use super::writer::Ran;
use super::{Store, StoreError, codec, sure};
use crate::model::Timestamp;

/// Numbers of one sample; what is beyond is left out.
pub const MAX_NAMES: usize = 256;
/// Points of one answer.
const MAX_POINTS: usize = 2_000;
/// Old rows taken away by one sample: more than come in, so that a backlog ends.
const PRUNE_STEP: usize = 64;

/// A step, and how long its rows are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resolution {
    pub step_seconds: u32,
    pub kept: Duration,
}

const DAY: Duration = Duration::from_secs(86_400);

/// The finest first.
pub const RESOLUTIONS: [Resolution; 3] = [
    Resolution { step_seconds: 60, kept: DAY },
    Resolution { step_seconds: 600, kept: Duration::from_secs(7 * 86_400) },
    Resolution { step_seconds: 3_600, kept: Duration::from_secs(30 * 86_400) },
];

impl Resolution {
    fn begin(self, at: Timestamp) -> u64 {
        let step_ms = u64::from(self.step_seconds) * 1_000;
        at.as_millis() / step_ms * step_ms
    }

    /// The first of its rows that is still kept.
    #[must_use]
    pub fn oldest(self, now: Timestamp) -> Timestamp {
        let kept_ms = u64::try_from(self.kept.as_millis()).unwrap_or(u64::MAX);
        Timestamp::from_millis(self.begin(Timestamp::from_millis(now.as_millis().saturating_sub(kept_ms))))
    }
}

/// What one row holds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Row {
    /// Number and its samples.
    values: BTreeMap<String, (f64, u32)>,
}

impl Row {
    fn add(&mut self, name: &str, value: f64) {
        if self.values.len() == MAX_NAMES && !self.values.contains_key(name) {
            return;
        }
        let (held, samples) = self.values.entry(name.to_owned()).or_default();
        *samples = samples.saturating_add(1);
        let is_counter = name.split('{').next().is_some_and(|name| name.ends_with("_total"));
        if is_counter { *held = value } else { *held += (value - *held) / f64::from(*samples) }
    }
}

/// Points of one number, each at the begin of its step.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Points(pub Vec<(Timestamp, f64)>);

fn put(tx: &mut Tx<'_>, at: Timestamp, sample: &[(String, f64)]) -> Ran<(), Infallible> {
    tx.writes += 1;
    for resolution in RESOLUTIONS {
        let step = resolution.step_seconds;
        let key = (step, resolution.begin(at));
        let row = tx.history.get(key)?.map(|row| codec::decode::<Row>("history", row.value())).transpose()?;
        let mut row = row.unwrap_or_default();
        for (name, value) in sample {
            row.add(name, *value);
        }
        tx.history.insert(key, codec::encode(&row)?.as_slice())?;
        let too_old = (step, 0)..(step, resolution.oldest(at).as_millis());
        let mut gone = Vec::new();
        for row in tx.history.range(too_old)?.take(PRUNE_STEP) {
            gone.push(row?.0.value());
        }
        for key in gone {
            tx.history.remove(key)?;
        }
    }
    Ok(Ok(()))
}

fn read(
    txn: &ReadTransaction,
    name: &str,
    step_seconds: u32,
    time: &RangeInclusive<Timestamp>,
) -> Result<Points, StoreError> {
    let mut points = Points::default();
    let (from, to) = (time.start().as_millis(), time.end().as_millis());
    if from > to {
        return Ok(points);
    }
    for row in txn.open_table(HISTORY)?.range((step_seconds, from)..=(step_seconds, to))?.take(MAX_POINTS) {
        let (key, row) = row?;
        let row: Row = codec::decode("history", row.value())?;
        if let Some((value, _)) = row.values.get(name) {
            points.0.push((Timestamp::from_millis(key.value().1), *value));
        }
    }
    Ok(points)
}

impl Store {
    /// Keeps what the numbers are now.
    pub async fn put_sample(&self, at: Timestamp, sample: Vec<(String, f64)>) -> Result<(), StoreError> {
        sure(self.writer.submit(move |tx| put(tx, at, &sample)).await)
    }

    /// What a number was in that time, by the steps of a [`Resolution`], oldest first.
    pub async fn history(
        &self,
        name: String,
        step_seconds: u32,
        time: RangeInclusive<Timestamp>,
    ) -> Result<Points, StoreError> {
        self.read(move |txn| read(txn, &name, step_seconds, &time)).await
    }
}
