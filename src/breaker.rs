//! A breaker: after some failures in a row, what keeps failing is left alone for a while, then tried
//! with a few calls before it is trusted again.
//!
//! Whoever calls out asks [`Breaker::admit`] before each call and says how it ended; whoever plans ahead
//! asks [`Breaker::passage`]. Pure: time is an argument. Invariants: while open nothing is admitted; after
//! that at most `trials` calls are under way or have succeeded, until each of them has; a call that never
//! says how it ended cannot keep the breaker half open for ever; a clock that is set back cannot keep it
//! open longer than `open`; and one that guards calls of several kinds ([`Breaker::failed_at`]) takes the
//! success of one kind as no word on the failures of another. Named breakers that several rooms look at are
//! the [`board`]'s.

pub mod board;
mod record;

use std::collections::BTreeMap;
use std::time::Duration;

use crate::model::Timestamp;

/// The breaker of Dolphin Anty's Local API, on the [`board`].
pub const DOLPHIN: &str = "dolphin";
/// The breaker of Dolphin Anty's cloud.
pub const DOLPHIN_CLOUD: &str = "dolphin_cloud";
/// The breaker of starts that end without a browser whose `DevTools` answers.
pub const CDP_ATTACH: &str = "cdp_attach";
/// The breakers of the targets of webhooks: each is named so, then a space and its target.
pub const WEBHOOK: &str = "webhook";
/// The kinds of breakers: what their names say before the first space.
pub const KINDS: [&str; 4] = [CDP_ATTACH, DOLPHIN, DOLPHIN_CLOUD, WEBHOOK];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BreakerLimits {
    /// Failures in a row that open it.
    pub failures: u32,
    /// How long it stays open.
    pub open: Duration,
    /// Calls after that, each of which has to succeed.
    pub trials: u32,
}

/// As it is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BreakerState {
    Closed,
    Open { until: Timestamp },
    HalfOpen,
}

impl BreakerState {
    pub const NAMES: [&str; 3] = ["closed", "open", "half_open"];

    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open { .. } => "open",
            Self::HalfOpen => "half_open",
        }
    }
}

/// What a call would meet. The greater of two is the worse one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Passage {
    #[default]
    Free,
    /// It would be one of the few by which the breaker learns whether it may close.
    Trial,
    /// Nothing is admitted before then.
    Shut { until: Timestamp },
}

impl Passage {
    #[must_use]
    pub const fn shut_until(self) -> Option<Timestamp> {
        match self {
            Self::Shut { until } => Some(until),
            Self::Free | Self::Trial => None,
        }
    }
}

#[derive(Clone, Debug)]
enum Stage {
    Closed,
    Open { since: Timestamp },
    HalfOpen { since: Timestamp, admitted: u32, succeeded: u32 },
}

#[derive(Clone, Debug)]
pub struct Breaker {
    limits: BreakerLimits,
    stage: Stage,
    /// Failures in a row, by the kind of call; those without a kind under the empty name.
    rows: BTreeMap<&'static str, u32>,
}

impl Breaker {
    /// A closed one. A limit of zero counts as one.
    #[must_use]
    pub fn new(limits: BreakerLimits) -> Self {
        let limits = BreakerLimits { failures: limits.failures.max(1), trials: limits.trials.max(1), ..limits };
        Self { limits, stage: Stage::Closed, rows: BTreeMap::new() }
    }

    /// What a call would meet now; no trial is spent by asking.
    pub fn passage(&mut self, now: Timestamp) -> Passage {
        match &mut self.stage {
            Stage::Closed => Passage::Free,
            Stage::HalfOpen { admitted, .. } if *admitted < self.limits.trials => Passage::Trial,
            Stage::Open { since } | Stage::HalfOpen { since, .. } => {
                *since = now.min(*since);
                let until = since.plus(self.limits.open);
                if now < until { Passage::Shut { until } } else { Passage::Trial }
            }
        }
    }

    /// Whether a call may be made now.
    ///
    /// # Errors
    /// When to ask again.
    pub fn admit(&mut self, now: Timestamp) -> Result<(), Timestamp> {
        match self.passage(now) {
            Passage::Free => {}
            Passage::Shut { until } => return Err(until),
            Passage::Trial => match &mut self.stage {
                Stage::HalfOpen { admitted, .. } if *admitted < self.limits.trials => *admitted += 1,
                stage => *stage = Stage::HalfOpen { since: now, admitted: 1, succeeded: 0 },
            },
        }
        Ok(())
    }

    /// A call ended well that could not have if anything were wrong: whatever failed before is forgotten. While
    /// open that is old news: it was made before.
    pub fn succeeded(&mut self) {
        if self.is_trusted_with_one_more() {
            self.rows.clear();
        }
    }

    /// The same for a call of a kind that says nothing of the others: only its own failures are forgotten. A
    /// breaker that such calls alone have closed opens again with the first failure of the kind that opened it.
    pub fn succeeded_at(&mut self, kind: &'static str) {
        if self.is_trusted_with_one_more() {
            self.rows.remove(kind);
        }
    }

    /// False: it is open.
    fn is_trusted_with_one_more(&mut self) -> bool {
        match &mut self.stage {
            Stage::Open { .. } => return false,
            Stage::Closed => {}
            Stage::HalfOpen { succeeded, .. } => {
                *succeeded += 1;
                if *succeeded >= self.limits.trials {
                    self.stage = Stage::Closed;
                }
            }
        }
        true
    }

    /// A call failed. While open that is old news: it was made before.
    pub fn failed(&mut self, now: Timestamp) {
        self.failed_at("", now);
    }

    /// The same for a call of a kind. The failures of all kinds together open it.
    pub fn failed_at(&mut self, kind: &'static str, now: Timestamp) {
        if matches!(self.stage, Stage::Open { .. }) {
            return;
        }
        let row = self.rows.entry(kind).or_default();
        *row = row.saturating_add(1);
        if self.failures_in_a_row() >= self.limits.failures || matches!(self.stage, Stage::HalfOpen { .. }) {
            self.stage = Stage::Open { since: now };
        }
    }

    /// A call ended without a word on what it was made to: another may be tried in its place.
    pub fn withdrawn(&mut self) {
        if let Stage::HalfOpen { admitted, succeeded, .. } = &mut self.stage {
            *admitted = admitted.saturating_sub(1).max(*succeeded);
        }
    }

    /// Failures in a row; while it is open, those that opened it.
    #[must_use]
    pub fn failures_in_a_row(&self) -> u32 {
        self.rows.values().fold(0, |sum, row| sum.saturating_add(*row))
    }

    #[must_use]
    pub fn state(&self, now: Timestamp) -> BreakerState {
        match self.stage {
            Stage::Closed => BreakerState::Closed,
            Stage::Open { since } => {
                let until = since.min(now).plus(self.limits.open);
                if now < until { BreakerState::Open { until } } else { BreakerState::HalfOpen }
            }
            Stage::HalfOpen { .. } => BreakerState::HalfOpen,
        }
    }
}

#[cfg(test)]
mod tests;
