//! Whether browsers can be started: what ends say of the provider, what the breakers say, and how many may
//! start by both.
//!
//! While a breaker is open nothing starts, and its own time is the time to try again; it takes over from the
//! shorter waits for a provider that is down. Half open, one start at a time: the next when the last has
//! its answer, so that the few trials close it or open it again.

use std::time::Duration;

use super::{IN_USE_WAIT, State};
use crate::breaker::Passage;
use crate::engine::event::Step;
use crate::model::{Blame, Failure, FailureCode, Fence, Retry, Timestamp};

/// First and longest wait before a provider that was down is tried again.
const FIRST_WAIT: Duration = Duration::from_secs(2);
const LONGEST_WAIT: Duration = Duration::from_secs(30);

#[derive(Clone, Debug, Default)]
pub(super) struct Trouble {
    pub why: String,
    pub until: Timestamp,
    wait: Duration,
}

impl State {
    pub(super) fn breakers_say(&mut self, passage: Passage) -> Step {
        if matches!(passage, Passage::Shut { .. }) {
            self.provider = None;
        }
        if std::mem::replace(&mut self.breakers, passage) == passage { Step::default() } else { self.look() }
    }

    /// How many may start now.
    pub(super) fn room(&self, now: Timestamp) -> u32 {
        let free = self.limits.slots.saturating_sub(self.busy()).min(self.room_for_sessions());
        if self.breakers.shut_until().is_some_and(|until| until > now) {
            return 0;
        }
        match &self.provider {
            Some(trouble) if trouble.until > now => 0,
            None if self.breakers == Passage::Free => free,
            // One start finds out whether the provider is back, or the breaker may close; what runs already has
            // nothing to say about that.
            _ => free.min(1).saturating_sub(u32::from(self.is_starting())),
        }
    }

    fn is_starting(&self) -> bool {
        self.running.values().any(|running| running.starting)
    }

    /// A browser answers. Half open, the next start may be the next trial.
    pub(super) fn attached(&mut self, fence: Fence) -> Step {
        let Some(running) = self.running.get_mut(&fence) else { return Step::default() };
        running.starting = false;
        if self.breakers == Passage::Free { Step::default() } else { self.look() }
    }

    /// An end that is not the item's fault says something about the provider or the profile.
    pub(super) fn note_trouble(&mut self, fence: Fence, failure: &Failure, now: Timestamp) {
        if failure.retry() != Retry::Uncounted {
            return;
        }
        match failure.blame() {
            Blame::Provider if self.breakers.shut_until().is_some() => {}
            Blame::Provider => {
                let wait = self.provider.take().map_or(FIRST_WAIT, |trouble| (trouble.wait * 2).min(LONGEST_WAIT));
                self.provider = Some(Trouble { why: failure.detail.clone(), until: now.plus(wait), wait });
            }
            // What a site says of a profile is kept with the profile.
            Blame::Profile if failure.code == FailureCode::ProfileInUse => {
                if let Some(running) = self.running.get(&fence) {
                    self.in_use.insert(running.profile.clone(), now.plus(IN_USE_WAIT));
                }
            }
            _ => {}
        }
    }
}
