//! The end of an attempt: what it is worth, what it says of its profile, and how its lock is freed.
//!
//! The phase is the truth about the click, whatever the attempt believes of itself (fence.md rules 7 and 8).
//! The lock stays until the browser is verified dead.

use super::strain::because_of_memory;
use super::{Owner, Phase, Running, State};
use crate::engine::admission::{self, effect, effect_after_commit};
use crate::engine::event::{Act, AttemptEnd, Commit, Step};
use crate::engine::state::Limits;
use crate::model::{EvidenceFile, Failure, FailureCode, Fence, ItemId, Timestamp, Verdict};
use crate::store::{AttemptEnded, SessionName};

/// Ends of an item in a row that no browser could be attached to, and that are not counted: as many as open the
/// breaker, which then keeps everything from starting. Those after them are counted, so that one broken profile
/// does not try for ever. Only what this process saw is known.
const SPARED_IN_A_ROW: u32 = 5;
/// Items of which that is remembered; the oldest is forgotten.
const MAX_SPARED: usize = 4_096;

/// How an attempt says that it ended.
pub(super) struct Told {
    pub end: AttemptEnd,
    pub evidence: Vec<EvidenceFile>,
    pub stopped: Option<Failure>,
    pub browser: bool,
}

impl State {
    pub(super) fn ended(&mut self, fence: Fence, told: Told, roll: f64, now: Timestamp) -> Step {
        let Told { end, evidence, stopped, browser } = told;
        let Some(running) = self.running.get_mut(&fence) else { return Step::default() };
        let never_attached = std::mem::replace(&mut running.starting, false);
        running.browser = browser;
        let end = because_of_memory(end, running.weighed.ended_for.take());
        let stopped = stopped.as_ref().or(match &end {
            AttemptEnd::Unarmed(failure) => Some(failure),
            _ => None,
        });
        let clicked = matches!(running.phase, Phase::Arming | Phase::Armed);
        let effect = match stopped {
            Some(failure) if clicked && !matches!(end, AttemptEnd::Confirmed { .. }) => effect_after_commit(failure),
            Some(failure) => effect(failure, &self.limits, now),
            None => None,
        };
        let met_no_browser =
            never_attached && matches!(&end, AttemptEnd::Unarmed(failure) if failure.code == FailureCode::AttachFailed);
        let (item, verdict) = match (&running.owner, running.phase) {
            (Owner::Item { .. }, Phase::Ending | Phase::Closing) | (Owner::Leftover | Owner::Verify { .. }, _) => {
                return Step::default();
            }
            (Owner::Operator(_), _) => return self.operator_ended(fence, end),
            (Owner::Lent(_), _) => return self.loan_ended(fence, end, now),
            (Owner::Item { id, .. }, phase) => {
                let spared = met_no_browser.then(|| self.spared.get(id).copied().unwrap_or_default());
                (*id, verdict(&self.limits, self.draining, running, phase, end, spared, roll, now))
            }
        };
        self.note_spared(item, met_no_browser, &verdict);
        if let Verdict::TryAgain { failure, .. } = &verdict {
            self.note_trouble(fence, failure, now);
        }
        if let Some(running) = self.running.get_mut(&fence) {
            running.phase = Phase::Ending;
        }
        Step::commit(Commit::Finish(AttemptEnded { item, fence, verdict, evidence, effect }))
    }

    /// Counts what was forgiven an item in a row; what says nothing of its browser does not end the row.
    fn note_spared(&mut self, item: ItemId, met_no_browser: bool, verdict: &Verdict) {
        match (verdict, met_no_browser) {
            (Verdict::TryAgain { counted: false, .. }, true) => {
                if self.spared.len() >= MAX_SPARED && !self.spared.contains_key(&item) {
                    self.spared.pop_first();
                }
                *self.spared.entry(item).or_default() += 1;
            }
            (Verdict::TryAgain { counted: false, .. }, false) | (Verdict::TryAgain { .. }, true) => {}
            _ => {
                self.spared.remove(&item);
            }
        }
    }

    pub(super) fn end_stored(&mut self, fence: Fence, refused: bool) -> Step {
        let Some(running) = self.running.get_mut(&fence) else { return Step::default() };
        running.phase = Phase::Closing;
        if refused && !matches!(running.owner, Owner::Lent(_)) {
            // The row moved on without us: only the browser and the lock are left to clear.
            running.owner = Owner::Leftover;
        }
        if running.browser {
            Step::act(Act::Close { fence, profile: running.profile.clone() })
        } else {
            self.closed(fence)
        }
    }

    /// Shown until it is gone: whatever waits for the profile waits for that.
    pub(super) fn not_closed(&mut self, fence: Fence, failure: &Failure) -> Step {
        if let Some(running) = self.running.get(&fence) {
            self.close_errors.insert(running.profile.clone(), failure.to_string());
        }
        Step::default()
    }

    pub(super) fn closed(&mut self, fence: Fence) -> Step {
        if let Some(running) = self.running.get(&fence) {
            self.close_errors.remove(&running.profile);
        }
        match self.running.get(&fence) {
            Some(Running { profile, owner: Owner::Lent(_), .. }) => {
                Step::commit(Commit::ReleaseSession(SessionName { profile: profile.clone(), fence }))
            }
            Some(running) => Step::commit(Commit::Release { profile: running.profile.clone(), fence }),
            None => Step::default(),
        }
    }
}

/// The phase is the truth about the click, whatever the attempt believes. `spared`: nothing of the item ran, and
/// how often in a row that was forgiven before.
#[expect(clippy::too_many_arguments, reason = "all that an end is judged by")]
fn verdict(
    limits: &Limits,
    draining: bool,
    running: &Running,
    phase: Phase,
    end: AttemptEnd,
    spared: Option<u32>,
    roll: f64,
    now: Timestamp,
) -> Verdict {
    let armed = matches!(phase, Phase::Arming | Phase::Armed);
    let failure = match end {
        AttemptEnd::Confirmed { url, result } if armed => return Verdict::Succeeded { url, result },
        AttemptEnd::Done { url, result } if !armed => return Verdict::Succeeded { url, result },
        AttemptEnd::Unknown(failure) | AttemptEnd::Unarmed(failure) if armed => {
            return Verdict::OutcomeUnknown(failure.after_commit());
        }
        AttemptEnd::Unarmed(failure) => failure,
        AttemptEnd::Done { .. } => {
            let detail = "a flow without a commit point was armed";
            return Verdict::OutcomeUnknown(Failure::new(FailureCode::Internal, detail));
        }
        AttemptEnd::Confirmed { .. } | AttemptEnd::Unknown(_) => {
            let detail = "the attempt says that it clicked and was never armed";
            return Verdict::OutcomeUnknown(Failure::new(FailureCode::Internal, detail));
        }
    };
    let Owner::Item { attempts, max_attempts, cancel, .. } = running.owner else {
        return Verdict::Failed(failure);
    };
    if cancel {
        return Verdict::Canceled(Failure::new(FailureCode::Canceled, "canceled on request"));
    }
    // Somebody's intent, whatever it looked like from inside the attempt: no attempt is spent.
    let stopped = match failure.code {
        _ if draining => Some((FailureCode::DaemonStopped, "the daemon stopped before the commit point")),
        FailureCode::Canceled => {
            Some((FailureCode::LockTakenAway, "a forced cleanup of its lock stopped it before the commit point"))
        }
        _ => None,
    };
    if let Some((code, detail)) = stopped {
        return Verdict::TryAgain { failure: Failure::new(code, detail), due_at: Timestamp::ZERO, counted: false };
    }
    if let Some(before) = spared.filter(|before| *before < SPARED_IN_A_ROW) {
        let due_at = now.plus(admission::back_off(limits, before + 1, roll));
        return Verdict::TryAgain { failure, due_at, counted: false };
    }
    admission::after_failure(limits, attempts, max_attempts, failure, roll, now)
}
