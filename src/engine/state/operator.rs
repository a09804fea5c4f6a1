//! A profile opened for a person: it holds the profile's lock like an attempt, and takes no slot.

use super::{Owner, Phase, Running, State};
use crate::engine::OperatorView;
use crate::engine::event::{Act, AttemptEnd, Commit, Step, Work};
use crate::model::{Fence, ProfileId, Timestamp};

impl State {
    pub(super) fn open_asked(&mut self, profile: ProfileId, headless: bool, token: String, now: Timestamp) -> Step {
        let busy = self.running.values().any(|running| running.profile == profile);
        let able = self.ready && !self.draining && self.no_disk.is_none();
        let answer = !busy && able && self.in_use.get(&profile).is_none_or(|until| *until <= now);
        if !answer {
            return Step::act(Act::AnswerOpen { token, opened: false });
        }
        Step::commit(Commit::LockForOperator { profile, headless, token })
    }

    pub(super) fn operator_locked(
        &mut self,
        fence: Option<Fence>,
        profile: ProfileId,
        headless: bool,
        token: String,
    ) -> Step {
        let Some(fence) = fence else { return Step::act(Act::AnswerOpen { token, opened: false }) };
        let view = OperatorView { session: None, token: token.clone() };
        let owner = Owner::Operator(view);
        self.open_errors.remove(&profile);
        self.running.insert(fence, Running { starting: false, ..Running::started(profile.clone(), owner) });
        Step {
            commit: Vec::new(),
            then: vec![
                Act::AnswerOpen { token, opened: true },
                Act::Start { fence, work: Work::Operator { profile, headless, adopt: false } },
            ],
        }
    }

    pub(super) fn close_asked(&self, profile: &ProfileId) -> Step {
        let open = self
            .running
            .iter()
            .find(|(_, running)| &running.profile == profile && matches!(running.owner, Owner::Operator(_)));
        match open {
            Some((fence, _)) => Step {
                commit: Vec::new(),
                then: vec![
                    Act::Interrupt { fence: *fence },
                    Act::AnswerClose { profile: profile.clone(), closed: true },
                ],
            },
            None => Step::act(Act::AnswerClose { profile: profile.clone(), closed: false }),
        }
    }

    /// The window was closed, or it never opened.
    pub(super) fn operator_ended(&mut self, fence: Fence, end: AttemptEnd) -> Step {
        let Some(running) = self.running.get_mut(&fence) else { return Step::default() };
        running.phase = Phase::Closing;
        if let AttemptEnd::Unarmed(failure) = end {
            self.open_errors.insert(running.profile.clone(), failure.to_string());
        }
        if running.browser {
            Step::act(Act::Close { fence, profile: running.profile.clone() })
        } else {
            self.closed(fence)
        }
    }
}
