//! Why everything that waits waits, in numbers: for status and metrics.
//!
//! Nothing is counted here: the store keeps how many items are ready in each profile, and the engine's own
//! function says why what is ready there, or would be at the next turn, does not run. The cost is one look a
//! profile, however long the queue is.

use std::collections::{BTreeMap, HashMap};

use serde_json::{Value, json};

use super::Context;
use super::error::ApiError;
use super::tasks::Viewer;
use crate::engine::{ProfileFacts, View, why_ready_waits};
use crate::model::{ProfileId, Timestamp, WaitReason};
use crate::store::Waiting;

/// How many items wait for one reason, and when the first of them stops, where that is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wait {
    pub items: u64,
    pub until: Option<Timestamp>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Waits {
    pub by_reason: BTreeMap<WaitReason, Wait>,
    /// Since when the item that waits longest does.
    pub oldest: Option<Timestamp>,
}

impl Waits {
    pub async fn look(context: &Context) -> Result<Self, ApiError> {
        let viewer = Viewer::new(context).await?;
        Ok(Self::of(&context.store.waiting(viewer.now).await?, &viewer.profiles, &viewer.view, viewer.now))
    }

    fn of(waiting: &Waiting, profiles: &HashMap<ProfileId, ProfileFacts>, view: &View, now: Timestamp) -> Self {
        let mut waits = Self { by_reason: BTreeMap::new(), oldest: waiting.oldest };
        for (lane, id, items) in &waiting.ready {
            let (reason, until) =
                why_ready_waits(!lane.is_empty(), id, profiles.get(id).copied().unwrap_or_default(), view, now);
            waits.add(reason, *items, until);
        }
        waits.add(WaitReason::ScheduledFor, waiting.scheduled, waiting.next_scheduled);
        waits.add(WaitReason::RetryBackoff, waiting.backing_off, waiting.next_retry);
        waits.add(WaitReason::Paused, waiting.paused, None);
        waits.add(WaitReason::HeldAfterRestore, waiting.held_for_restore, None);
        waits.add(WaitReason::ClockSuspect, waiting.held_for_clock, None);
        let facts = |profile| profiles.get(profile).copied().unwrap_or_default();
        let looks = waiting.looks.iter().filter_map(|(profile, at)| facts(profile).next_look(*at, now));
        waits.add(WaitReason::OutcomeUnknown, waiting.outcome_unknown, looks.min());
        for wait in waits.by_reason.values_mut() {
            wait.until = wait.until.filter(|until| *until > now);
        }
        waits
    }

    fn add(&mut self, reason: WaitReason, items: u64, until: Option<Timestamp>) {
        if items > 0 {
            let wait = self.by_reason.entry(reason).or_default();
            wait.items += items;
            wait.until = wait.until.into_iter().chain(until).min();
        }
    }

    /// `{"no_slot": {"items": 3}, "retry_backoff": {"items": 1, "until": ..}}`
    pub fn json(&self) -> Value {
        let one = |(reason, wait): (&WaitReason, &Wait)| {
            let mut json = json!({"items": wait.items});
            if let Some(until) = wait.until {
                json["until"] = json!(until);
            }
            (reason.name().to_owned(), json)
        };
        Value::Object(self.by_reason.iter().map(one).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_waiting_item_is_counted_once_under_its_reason() {
        let id = |name: &str| ProfileId::new(name).unwrap();
        let now = Timestamp::from_millis(1_000);
        let later = Timestamp::from_millis(5_000);
        let profiles = HashMap::from([
            (id("boris"), ProfileFacts { parked: true, ..ProfileFacts::default() }),
            (id("clara"), ProfileFacts { rests_until: Some(later), ..ProfileFacts::default() }),
        ]);
        let waiting = Waiting {
            ready: vec![
                (String::new(), id("anna"), 3),
                (String::new(), id("boris"), 4),
                (String::new(), id("clara"), 5),
                ("worker".to_owned(), id("anna"), 6),
            ],
            scheduled: 7,
            backing_off: 2,
            overdue_retries: 0,
            paused: 8,
            held_for_restore: 1,
            held_for_clock: 2,
            outcome_unknown: 9,
            next_scheduled: Some(later),
            next_retry: Some(now),
            looks: vec![(id("boris"), Timestamp::from_millis(2_000)), (id("anna"), later)],
            oldest: Some(now),
        };
        let waits = Waits::of(&waiting, &profiles, &View::default(), now);
        let expected = json!({
            "paused": {"items": 8}, "scheduled_for": {"items": 7, "until": later}, "no_slot": {"items": 9},
            "retry_backoff": {"items": 2}, "profile_needs_human": {"items": 4}, "rate_limited_until": {"items": 5, "until": later},
            "held_after_restore": {"items": 1}, "clock_suspect": {"items": 2}, "outcome_unknown": {"items": 9, "until": later},
        });
        assert_eq!(waits.json(), expected);
    }
}
