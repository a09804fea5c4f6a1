//! Looking whether an unknown outcome was published: a run of the flow's verify, by its schedule.
//!
//! It holds a slot and the profile's lock like an attempt, and is none: it is interrupted whenever there is
//! something better to do, and then nothing was learnt. What a look is worth is decided here: what was
//! there before the click proves nothing (fence.md rule 12).

use super::{Owner, Phase, Running, State};
use crate::engine::admission::effect;
use crate::engine::event::{Act, Commit, Step, Work};
use crate::model::{EvidenceFile, Failure, Fence, ItemId, Retry, Timestamp};
use crate::store::{Verified, VerifyBegun, VerifyFinding};

impl State {
    pub(super) fn verify_begun(&mut self, begun: VerifyBegun) -> Step {
        let VerifyBegun { item, task, fence } = begun;
        let owner = Owner::Verify { item: item.id };
        self.running.insert(fence, Running::started(item.profile.clone(), owner));
        let work = Work::Verify { item: Box::new(item), task: Box::new(task) };
        Step::act(Act::Start { fence, work })
    }

    pub(super) fn looked(
        &mut self,
        fence: Fence,
        look: Option<VerifyFinding>,
        evidence: Vec<EvidenceFile>,
        stopped: Option<&Failure>,
        browser: bool,
        now: Timestamp,
    ) -> Step {
        let Some(running) = self.running.get_mut(&fence) else { return Step::default() };
        let Owner::Verify { item } = running.owner else { return Step::default() };
        (running.browser, running.starting) = (browser, false);
        // One that took too much has had its look: at once again it would take as much.
        let look = look.or_else(|| running.weighed.ended_for.take().map(VerifyFinding::Inconclusive));
        if let Some(VerifyFinding::Inconclusive(failure)) = &look
            && failure.retry() == Retry::Uncounted
            && stopped.is_none()
        {
            // No browser, or somebody else's: nobody has looked.
            let failure = failure.clone();
            self.note_trouble(fence, &failure, now);
            return self.end_stored(fence, false);
        }
        let Some(finding) = look else { return self.end_stored(fence, false) };
        running.phase = Phase::Ending;
        let effect = stopped.and_then(|failure| effect(failure, &self.limits, now));
        Step::commit(Commit::FinishVerify(Verified { item, fence, finding, evidence, effect }))
    }

    pub(super) fn resolved(&mut self, resolved: ItemId) -> Step {
        let verify = self
            .running
            .iter()
            .find(|(_, running)| matches!(running.owner, Owner::Verify { item } if item == resolved));
        let stop = verify.map(|(fence, _)| Step::act(Act::Interrupt { fence: *fence })).unwrap_or_default();
        stop.and(self.look())
    }
}
