//! Boot: what was going on when the daemon last stopped, turned into ordinary states and events.
//!
//! It runs before any claim. An attempt that was not armed is handed back uncounted; one that was is
//! looked at before its browser is stopped (fence.md rules 7, 8 and 15). Every lock is kept until the
//! browser behind it is verified dead.

use super::session::Loan;
use super::{Owner, Phase, Running, State};
use crate::engine::OperatorView;
use crate::engine::event::{Act, Commit, Step, Work};
use crate::model::{Failure, FailureCode, LockOwner, ProfileId, Timestamp, Verdict};
use crate::store::{AttemptEnded, Leftover};

impl State {
    pub(super) fn recovered(&mut self, leftovers: Vec<Leftover>) -> Step {
        self.ready = true;
        let mut step = Step::default();
        for leftover in leftovers {
            step = step.and(self.take_up(leftover));
        }
        step.and(self.look())
    }

    fn take_up(&mut self, leftover: Leftover) -> Step {
        let Leftover { lock, running } = leftover;
        let fence = lock.fence;
        let Ok(profile) = ProfileId::new(&lock.key) else {
            tracing::error!(key = lock.key, "a lock whose key is no profile id is left alone");
            return Step::default();
        };
        let (owner, phase, step) = match running {
            Some((item, task, intent)) if item.is_armed() => {
                let owner = Owner::item(&item, &task, intent.cancel_requested_at.is_some());
                let work = Work::Reattach { item: Box::new(item), task: Box::new(task) };
                (owner, Phase::Armed, Step::act(Act::Start { fence, work }))
            }
            Some((item, task, intent)) => {
                let canceled = intent.cancel_requested_at.is_some();
                let verdict = if canceled {
                    Verdict::Canceled(Failure::new(FailureCode::Canceled, "canceled on request"))
                } else {
                    let detail = "the daemon stopped before the commit point";
                    let failure = Failure::new(FailureCode::DaemonStopped, detail);
                    Verdict::TryAgain { failure, due_at: Timestamp::ZERO, counted: false }
                };
                let end = AttemptEnded { item: item.id, fence, verdict, evidence: Vec::new(), effect: None };
                let finish = Commit::Finish(end);
                (Owner::item(&item, &task, canceled), Phase::Ending, Step::commit(finish))
            }
            None if lock.owner == LockOwner::Operator => {
                let work = Work::Operator { profile: profile.clone(), headless: false, adopt: true };
                let owner = Owner::Operator(OperatorView::default());
                (owner, Phase::Unarmed, Step::act(Act::Start { fence, work }))
            }
            None if let LockOwner::Session { item, .. } = lock.owner => {
                let owner = Owner::Lent(Loan::leftover(item));
                (owner, Phase::Closing, Step::act(Act::Close { fence, profile: profile.clone() }))
            }
            None => (Owner::Leftover, Phase::Closing, Step::act(Act::Close { fence, profile: profile.clone() })),
        };
        self.running.insert(fence, Running { phase, starting: false, ..Running::started(profile, owner) });
        step
    }
}
