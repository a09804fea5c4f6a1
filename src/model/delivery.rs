//! A delivery: one event on its way to a webhook, and how far it has come.
//!
//! The store writes one in the transaction of the change that it tells of; the sender alone moves it on.
//! Invariant: what is told ([`Facts`]) is what was true when it happened, however late it arrives, and
//! holds no input of an item. [`Delivery::body`] is the whole of what a receiver reads.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{
    Counts, DeliveryId, Failure, Fence, HookEvent, Item, ItemId, ItemState, ProfileId, Task, TaskId, Timestamp,
};

/// Of what a flow extracted, in bytes: a page can make each part as long as it likes.
pub const MAX_RESULT_BYTES: usize = 32 * 1024;
/// Longest text about a try, in bytes.
pub const MAX_TRY_ERROR_BYTES: usize = 300;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DeliveryState {
    Pending,
    Delivered,
    GivenUp,
}

impl DeliveryState {
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Delivered => "delivered",
            Self::GivenUp => "given_up",
        }
    }
}

/// The last try.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tried {
    pub at: Timestamp,
    pub took_ms: u32,
    /// None: no answer came.
    pub status: Option<u16>,
    /// For a person; None: it was delivered.
    pub error: Option<String>,
}

impl Tried {
    #[must_use]
    pub fn new(at: Timestamp, took_ms: u32, status: Option<u16>, error: Option<String>) -> Self {
        let error = error.map(|mut error| {
            error.truncate(error.floor_char_boundary(MAX_TRY_ERROR_BYTES));
            error
        });
        Self { at, took_ms, status, error }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Delivery {
    /// The same in every try: what a receiver tells repetitions by.
    pub id: DeliveryId,
    pub task: TaskId,
    pub item: Option<ItemId>,
    pub event: HookEvent,
    pub created_at: Timestamp,
    /// Scheme, host and port of the task's webhook.
    pub target: String,
    pub facts: Facts,

    pub state: DeliveryState,
    pub attempts: u32,
    /// Not to be tried before.
    pub next_at: Timestamp,
    /// When the first of these attempts was.
    pub first_tried_at: Option<Timestamp>,
    /// When it was delivered or given up.
    pub ended_at: Option<Timestamp>,
    pub last: Option<Tried>,
}

/// What an event says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Facts {
    Item(Box<ItemFacts>),
    Task(TaskFacts),
}

/// An item without its inputs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ItemFacts {
    pub id: ItemId,
    pub task: TaskId,
    pub index: u32,
    pub profile: ProfileId,
    pub state: ItemState,
    pub attempts: u32,
    pub fence: Option<Fence>,
    pub key: Option<String>,
    pub url: Option<String>,
    pub result: BTreeMap<String, String>,
    /// The result was longer than [`MAX_RESULT_BYTES`].
    pub result_cut: bool,
    pub failure: Option<Failure>,
    pub created_at: Timestamp,
    pub started_at: Option<Timestamp>,
    pub finished_at: Option<Timestamp>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TaskFacts {
    pub id: TaskId,
    pub flow: String,
    pub counts: Counts,
    pub created_at: Timestamp,
    pub finished_at: Option<Timestamp>,
}

impl Facts {
    #[must_use]
    pub fn of_item(item: &Item) -> Self {
        let (result, result_cut) = bounded(&item.result);
        Self::Item(Box::new(ItemFacts {
            id: item.id,
            task: item.task,
            index: item.index,
            profile: item.profile.clone(),
            state: item.state,
            attempts: item.attempts,
            fence: item.fence,
            key: item.key.clone(),
            url: item.url.clone(),
            result,
            result_cut,
            failure: item.failure.clone(),
            created_at: item.created_at,
            started_at: item.started_at,
            finished_at: item.finished_at,
        }))
    }

    #[must_use]
    pub fn of_task(task: &Task) -> Self {
        Self::Task(TaskFacts {
            id: task.id,
            flow: task.flow.clone(),
            counts: task.counts,
            created_at: task.created_at,
            finished_at: task.finished_at,
        })
    }
}

/// As many whole entries as the bound has room for; whether some were left out.
fn bounded(result: &BTreeMap<String, String>) -> (BTreeMap<String, String>, bool) {
    let mut room = MAX_RESULT_BYTES;
    let fitting = result.iter().take_while(|(name, value)| {
        let left = room.checked_sub(name.len() + value.len());
        room = left.unwrap_or(0);
        left.is_some()
    });
    let kept: BTreeMap<_, _> = fitting.map(|(name, value)| (name.clone(), value.clone())).collect();
    let cut = kept.len() < result.len();
    (kept, cut)
}

impl Delivery {
    /// The JSON that is sent, the same in every try.
    #[must_use]
    pub fn body(&self) -> Value {
        let data = match &self.facts {
            Facts::Item(facts) => facts.json(),
            Facts::Task(facts) => facts.json(),
        };
        json!({"id": self.id, "type": self.event.name(), "timestamp": self.created_at, "data": data})
    }
}

impl ItemFacts {
    fn json(&self) -> Value {
        let error = self.failure.as_ref().map(
            |failure| json!({"code": failure.code.name(), "message": failure.detail, "help": failure.code.help()}),
        );
        let mut json = json!({
            "id": self.id,
            "task_id": self.task,
            "index": self.index,
            "profile": self.profile,
            "state": self.state.name(),
            "attempts": self.attempts,
            "fence": self.fence,
            "key": self.key,
            "result": self.result,
            "url": self.url,
            "error": error,
            "created_at": self.created_at,
            "started_at": self.started_at,
            "finished_at": self.finished_at,
        });
        if self.result_cut {
            json["result_cut"] = true.into();
        }
        json
    }
}

impl TaskFacts {
    fn json(&self) -> Value {
        let counts: Map<String, Value> =
            ItemState::ALL.into_iter().map(|state| (state.name().to_owned(), self.counts.of(state).into())).collect();
        json!({
            "id": self.id,
            "flow": self.flow,
            "state": self.counts.state().name(),
            "counts": counts,
            "total": self.counts.total(),
            "created_at": self.created_at,
            "finished_at": self.finished_at,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_is_bounded_by_whole_entries() {
        let entry = |name: &str, bytes: usize| (name.to_owned(), "x".repeat(bytes));
        let fits = BTreeMap::from([entry("a", MAX_RESULT_BYTES - 2), entry("b", 0)]);
        assert_eq!(bounded(&fits), (fits.clone(), false));
        let long = BTreeMap::from([entry("a", 9), entry("b", MAX_RESULT_BYTES), entry("c", 9)]);
        assert_eq!(bounded(&long), (BTreeMap::from([entry("a", 9)]), true));
    }

    #[test]
    fn what_is_told_of_a_try_is_bounded_at_a_character() {
        let tried = Tried::new(Timestamp::ZERO, 1, None, Some("п".repeat(MAX_TRY_ERROR_BYTES)));
        assert_eq!(tried.error.unwrap().len(), MAX_TRY_ERROR_BYTES);
    }

    #[test]
    fn a_finished_task_has_the_shape_of_the_contract() {
        let mut counts = Counts::default();
        counts.add(ItemState::Succeeded);
        counts.add(ItemState::Failed);
        let facts = TaskFacts {
            id: TaskId::new(3),
            flow: "atelier".to_owned(),
            counts,
            created_at: Timestamp::from_millis(1_000),
            finished_at: Some(Timestamp::from_millis(2_000)),
        };
        let delivery = Delivery {
            id: DeliveryId::new(9),
            task: TaskId::new(3),
            item: None,
            event: HookEvent::TaskFinished,
            created_at: Timestamp::from_millis(2_000),
            target: "https://host".to_owned(),
            facts: Facts::Task(facts),
            state: DeliveryState::Pending,
            attempts: 4,
            next_at: Timestamp::ZERO,
            first_tried_at: None,
            ended_at: None,
            last: None,
        };
        let expected = json!({"id": "h9", "type": "task.finished", "timestamp": "1970-01-01T00:00:02.000Z",
            "data": {"id": "t3", "flow": "atelier", "state": "partially_succeeded",
                "counts": {"queued": 0, "running": 0, "retry_wait": 0, "held": 0, "outcome_unknown": 0,
                    "succeeded": 1, "failed": 1, "canceled": 0},
                "total": 2, "created_at": "1970-01-01T00:00:01.000Z", "finished_at": "1970-01-01T00:00:02.000Z"}});
        assert_eq!(delivery.body(), expected);
    }
}
