//! What is remembered of one breaker for those who look at it: its last moves, its last error.
//!
//! Made and read by the board alone. A breaker moves when it is called and when time passes; a move is
//! noted when somebody looks next, so the time of a move into half open is that of the first look behind it.

use std::collections::VecDeque;

use super::{Breaker, BreakerLimits, BreakerState};
use crate::model::Timestamp;

/// Moves remembered of one breaker.
pub const MAX_TRANSITIONS: usize = 5;
/// Longest error kept, in bytes.
const MAX_ERROR_BYTES: usize = 300;

/// One move of a breaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transition {
    pub at: Timestamp,
    pub from: BreakerState,
    pub to: BreakerState,
}

/// One breaker as it is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BreakerView {
    pub name: String,
    pub state: BreakerState,
    /// Since when it is in this state; at the longest since it is remembered.
    pub since: Timestamp,
    pub failures_in_a_row: u32,
    /// How often it opened, since it is remembered.
    pub opened_total: u64,
    /// What the last failure said.
    pub last_error: Option<String>,
    /// The last [`MAX_TRANSITIONS`], the oldest first.
    pub transitions: Vec<Transition>,
}

impl BreakerView {
    /// What its name says before the first space: all webhook targets together are `webhook`.
    #[must_use]
    pub fn kind(&self) -> &str {
        kind(&self.name)
    }
}

/// A word of the program, so that there are few of them.
pub(super) fn kind(name: &str) -> &str {
    name.split(' ').next().unwrap_or_default()
}

pub(super) struct Record {
    pub breaker: Breaker,
    /// As it was seen last.
    state: BreakerState,
    since: Timestamp,
    opened_total: u64,
    last_error: Option<String>,
    transitions: VecDeque<Transition>,
}

impl Record {
    pub fn new(limits: BreakerLimits, now: Timestamp) -> Self {
        Self {
            breaker: Breaker::new(limits),
            state: BreakerState::Closed,
            since: now,
            opened_total: 0,
            last_error: None,
            transitions: VecDeque::new(),
        }
    }

    pub fn failed(&mut self, kind: &'static str, now: Timestamp, why: &str) {
        self.breaker.failed_at(kind, now);
        let mut why = why.to_owned();
        if why.len() > MAX_ERROR_BYTES {
            why.truncate(why.floor_char_boundary(MAX_ERROR_BYTES));
            why.push('…');
        }
        self.last_error = Some(why);
    }

    /// Notes the move since the last look, if there was one.
    pub fn note(&mut self, now: Timestamp) -> Option<Transition> {
        let (from, to) = (self.state, self.breaker.state(now));
        self.state = to;
        if from.name() == to.name() {
            return None;
        }
        self.since = now;
        self.opened_total += u64::from(matches!(to, BreakerState::Open { .. }));
        if self.transitions.len() == MAX_TRANSITIONS {
            self.transitions.pop_front();
        }
        let moved = Transition { at: now, from, to };
        self.transitions.push_back(moved);
        Some(moved)
    }

    /// As it was noted last.
    pub fn view(&self, name: &str) -> BreakerView {
        BreakerView {
            name: name.to_owned(),
            state: self.state,
            since: self.since,
            failures_in_a_row: self.breaker.failures_in_a_row(),
            opened_total: self.opened_total,
            last_error: self.last_error.clone(),
            transitions: self.transitions.iter().copied().collect(),
        }
    }
}
