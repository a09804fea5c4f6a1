//! A task: what was asked, its items' counters, and the state that follows from them.
//!
//! A task has no state of its own: [`Counts::state`] derives it, and the store keeps it as an index
//! that can be rebuilt.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{ItemId, ItemState, TaskId, Timestamp, Webhook};

/// product.md §2. The order is that of the stored index; do not change it within a schema version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TaskState {
    Queued,
    Running,
    NeedsAttention,
    Succeeded,
    PartiallySucceeded,
    Failed,
    Canceled,
}

impl TaskState {
    pub const ALL: [Self; 7] = [
        Self::Queued,
        Self::Running,
        Self::NeedsAttention,
        Self::Succeeded,
        Self::PartiallySucceeded,
        Self::Failed,
        Self::Canceled,
    ];

    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::NeedsAttention => "needs_attention",
            Self::Succeeded => "succeeded",
            Self::PartiallySucceeded => "partially_succeeded",
            Self::Failed => "failed",
            Self::Canceled => "canceled",
        }
    }

    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.name() == text)
    }

    /// No item is left that could still change by itself or by a resolution.
    #[must_use]
    pub const fn is_terminal(self) -> bool {
        matches!(self, Self::Succeeded | Self::PartiallySucceeded | Self::Failed | Self::Canceled)
    }
}

impl fmt::Display for TaskState {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.name())
    }
}

/// How many items of a task are in each state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts([u32; ItemState::ALL.len()]);

impl Counts {
    #[must_use]
    pub const fn of(&self, state: ItemState) -> u32 {
        self.0[state as usize]
    }

    #[must_use]
    pub fn total(&self) -> u32 {
        self.0.iter().sum()
    }

    pub const fn add(&mut self, state: ItemState) {
        self.0[state as usize] += 1;
    }

    /// # Panics
    /// When no item is in this state: the counters would no longer say what the items say.
    pub const fn remove(&mut self, state: ItemState) {
        assert!(self.0[state as usize] > 0, "a counter below zero");
        self.0[state as usize] -= 1;
    }

    /// # Panics
    /// When no item is in state `from`: the counters would no longer say what the items say.
    pub const fn shift(&mut self, from: ItemState, to: ItemState) {
        assert!(self.0[from as usize] > 0, "a counter below zero");
        self.0[from as usize] -= 1;
        self.0[to as usize] += 1;
    }

    /// The first that applies (api.md, Task).
    #[must_use]
    pub fn state(&self) -> TaskState {
        use ItemState::{Canceled, Failed, Held, OutcomeUnknown, Queued, RetryWait, Running, Succeeded};
        if self.of(OutcomeUnknown) + self.of(Held) > 0 {
            TaskState::NeedsAttention
        } else if self.of(Running) > 0 {
            TaskState::Running
        } else if self.of(Queued) + self.of(RetryWait) > 0 {
            TaskState::Queued
        } else if self.of(Succeeded) == self.total() {
            TaskState::Succeeded
        } else if self.of(Succeeded) > 0 {
            TaskState::PartiallySucceeded
        } else if self.of(Failed) > 0 {
            TaskState::Failed
        } else {
            debug_assert!(self.of(Canceled) > 0, "the states are all named above");
            TaskState::Canceled
        }
    }
}

/// What happens to an item whose outcome stays unknown after its verify schedule.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnUnknown {
    /// A human decides.
    #[default]
    Hold,
    /// It is published again if the whole schedule said that it is not there (fence.md rule 13).
    Retry,
}

impl OnUnknown {
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Hold => "hold",
            Self::Retry => "retry",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Task {
    pub id: TaskId,
    pub flow: String,
    /// The content hash of the flow, pinned (fence.md rule 3). Lower-case hex SHA-256.
    pub flow_hash: String,
    pub priority: i32,
    pub max_attempts: u32,
    /// Least time between two armings in one profile.
    pub spacing_seconds: u32,
    pub on_unknown: OnUnknown,
    /// The kind of outside worker that takes its items; None: cove itself.
    pub external: Option<String>,
    /// The flow has a `verify`.
    pub verifiable: bool,
    /// Its attempts stop before the commit point (`cove flows run`, fence.md rule 10).
    pub rehearsal: bool,
    /// SHA-256 of the (scope, `Idempotency-Key`) that made it, in hex; its ledger lines carry it.
    pub idempotency: Option<String>,
    /// Who is told of its outcomes.
    pub webhook: Option<Webhook>,
    pub created_at: Timestamp,
    pub counts: Counts,
    pub finished_at: Option<Timestamp>,
}

/// What a person asked of a task after it was accepted. Written by the API, read by the engine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Intent {
    pub cancel_requested_at: Option<Timestamp>,
    /// Its items are not started.
    pub paused_at: Option<Timestamp>,
}

/// One line of a task's log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskEvent {
    pub at: Timestamp,
    /// None: about the task itself.
    pub item: Option<ItemId>,
    /// A stable `snake_case` name: `accepted`, `started`, `armed`, `succeeded`, `outcome_unknown`,
    /// `retry_wait`, `queued`, `failed`, `canceled`, `cancel_requested`, `paused`, `resumed`, `retried`,
    /// `verified`, `resolved`, `held`, `needs_human`, `claimed`, `webhook_given_up`, `webhook_retried`.
    pub kind: String,
    /// For a person; empty where the kind says it all.
    pub detail: String,
}

#[cfg(test)]
mod tests {
    use super::{Counts, ItemState, TaskState};

    fn counts(states: &[ItemState]) -> Counts {
        let mut counts = Counts::default();
        for state in states {
            counts.add(*state);
        }
        counts
    }

    #[test]
    fn the_state_is_the_first_that_applies() {
        use ItemState::{Canceled, Failed, Held, OutcomeUnknown, Queued, RetryWait, Running, Succeeded};
        let table: &[(&[ItemState], TaskState)] = &[
            (&[OutcomeUnknown, Running, Succeeded], TaskState::NeedsAttention),
            (&[Held, Queued], TaskState::NeedsAttention),
            (&[Running, Queued, Failed], TaskState::Running),
            (&[RetryWait, Succeeded], TaskState::Queued),
            (&[Queued, Failed], TaskState::Queued),
            (&[Succeeded, Succeeded], TaskState::Succeeded),
            (&[Succeeded, Failed], TaskState::PartiallySucceeded),
            (&[Succeeded, Canceled], TaskState::PartiallySucceeded),
            (&[Failed, Canceled], TaskState::Failed),
            (&[Canceled], TaskState::Canceled),
        ];
        for (states, expected) in table {
            assert_eq!(counts(states).state(), *expected, "{states:?}");
        }
    }
}
