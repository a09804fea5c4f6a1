//! Whether browsers can be started: what ends say of the provider, what the breakers say, and how many may
//! start by both.
//!
//! While a breaker is open nothing starts, and its own time is the time to try again; it takes over from the
//! shorter waits for a provider that is down. Half open, one start at a time: the next when the last has
//! its answer, so that the few trials close it or open it again.
//!
//! What the provider refuses for good (its plan, its version) it may refuse one profile and not the next: each
//! waits for itself, longer and longer, and the others have their turn. A refusal for want of a place is tried
//! again when a browser has gone.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{IN_USE_WAIT, Owner, State};
use crate::breaker::Passage;
use crate::browser::Session;
use crate::engine::RefusedView;
use crate::engine::event::Step;
use crate::model::{Blame, Failure, FailureCode, Fence, ProfileId, Retry, Timestamp};

/// First and longest wait before a provider that was down is tried again.
const FIRST_WAIT: Duration = Duration::from_secs(2);
const LONGEST_WAIT: Duration = Duration::from_secs(30);

#[derive(Clone, Debug, Default)]
pub(super) struct Trouble {
    pub why: String,
    pub until: Timestamp,
    wait: Duration,
}

/// A start that was refused for good, and is tried again all the same: plans change.
#[derive(Clone, Debug)]
pub(super) struct Refused {
    why: String,
    pub until: Timestamp,
    wait: Duration,
    /// For want of a place among those that run.
    full: bool,
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

    /// A browser came up: the provider works.
    pub(super) fn opened(&mut self, fence: Fence, session: Session) -> Step {
        let Some(running) = self.running.get_mut(&fence) else { return Step::default() };
        running.came_up = true;
        self.refused.remove(&running.profile);
        match &mut running.owner {
            Owner::Operator(view) => view.session = Some(session),
            Owner::Lent(loan) => loan.ready = true,
            _ => {}
        }
        if self.provider.take().is_some() { self.look() } else { Step::default() }
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
        if matches!(failure.code, FailureCode::ProviderRefused | FailureCode::ProviderFull) {
            self.note_refusal(fence, failure, now);
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

    /// Twice the first wait of an item's own back-off to begin with, and as long as its longest in the end.
    fn note_refusal(&mut self, fence: Fence, failure: &Failure, now: Timestamp) {
        let Some(profile) = self.running.get(&fence).map(|running| running.profile.clone()) else { return };
        let (first, longest) = (self.limits.retry_base.saturating_mul(2), self.limits.retry_max);
        let before = self.refused.get(&profile).map(|refused| refused.wait);
        let wait = before.map_or(first, |wait| wait.saturating_mul(2)).min(longest.max(self.limits.retry_base));
        let full = failure.code == FailureCode::ProviderFull;
        self.refused.insert(profile, Refused { why: failure.detail.clone(), until: now.plus(wait), wait, full });
        // It answered: that is all that was to be found out of the provider.
        self.provider = None;
    }

    pub(super) fn is_refused(&self, profile: &ProfileId, now: Timestamp) -> bool {
        self.refused.get(profile).is_some_and(|refused| refused.until > now)
    }

    /// Whoever has not been tried for so long begins anew.
    pub(super) fn forget_refusals(&mut self, now: Timestamp) {
        self.refused.retain(|_, refused| refused.until.plus(refused.wait) > now);
    }

    pub(super) fn refused_view(&self, now: Timestamp) -> BTreeMap<ProfileId, RefusedView> {
        let waits = self.refused.iter().filter(|(_, refused)| refused.until > now);
        let view = |refused: &Refused| RefusedView { why: refused.why.clone(), until: refused.until };
        waits.map(|(profile, refused)| (profile.clone(), view(refused))).collect()
    }

    /// Its lock is free. Where its browser had come up there is one place more.
    pub(super) fn released(&mut self, fence: Fence, now: Timestamp) -> Step {
        if self.running.remove(&fence).is_some_and(|running| running.came_up) {
            for refused in self.refused.values_mut().filter(|refused| refused.full) {
                refused.until = refused.until.min(now);
            }
        }
        self.look()
    }
}
