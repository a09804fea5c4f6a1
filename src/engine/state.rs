//! What the engine knows, and what follows from each event: a pure, synchronous state machine.
//!
//! [`State::apply`] takes an event and the time and answers with a [`Step`]: what to commit, and what to do
//! when nothing has to be committed first. The result of a commit comes back as an event of its own, so
//! nothing is started before the commit that allows it has returned. An event that names a fence the
//! engine does not know changes nothing. The queue is not held here: the store answers a look at it.
//!
//! Called by the loop alone. It never waits, reads a clock or rolls dice: times and rolls enter.

use std::collections::BTreeMap;
use std::time::Duration;

use super::admission::{self, Room};
use super::event::{Act, AttemptEnd, Commit, Event, Step, Work};
use super::{OperatorView, View};
use crate::browser::Session;
use crate::model::{
    Blame, EvidenceFile, Failure, FailureCode, Fence, Item, ItemId, ProfileId, Retry, Task, TaskId, Timestamp, Verdict,
};
use crate::store::{ArmRefused, Claim, Claimed, Outlook, Pause};

/// First and longest wait before a provider that was down is tried again.
const PROVIDER_FIRST_WAIT: Duration = Duration::from_secs(2);
const PROVIDER_LONGEST_WAIT: Duration = Duration::from_secs(30);
/// How long a profile that a person uses is left alone before it is tried again.
const IN_USE_WAIT: Duration = Duration::from_secs(15);

/// What the configuration says.
#[derive(Clone, Debug)]
pub struct Limits {
    pub slots: u32,
    pub retry_base: Duration,
    pub retry_max: Duration,
}

/// How far an attempt is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// From the claim to the commit point: safe to end.
    Unarmed,
    /// The compare-and-set of arming is on its way.
    Arming,
    /// The click may have happened: it ends `succeeded` or `outcome_unknown`.
    Armed,
    /// Its end is on its way into the store.
    Ending,
    /// Its end is stored; its browser is being stopped, and the lock is kept until it is dead.
    Closing,
}

/// One running attempt, or a profile opened for a person: a lock and a browser.
#[derive(Clone, Debug)]
struct Running {
    profile: ProfileId,
    phase: Phase,
    owner: Owner,
    /// A browser may run that has to be stopped before the lock is freed.
    browser: bool,
}

#[derive(Clone, Debug)]
enum Owner {
    Item {
        id: ItemId,
        task: TaskId,
        attempts: u32,
        max_attempts: u32,
        cancel: bool,
    },
    /// A browser left over from before a restart; its item, if any, has its end already.
    Leftover,
    Operator(OperatorView),
}

impl Owner {
    fn item(item: &Item, task: &Task, cancel: bool) -> Self {
        Self::Item { id: item.id, task: item.task, attempts: item.attempts, max_attempts: task.max_attempts, cancel }
    }
}

#[derive(Clone, Debug, Default)]
struct ProviderTrouble {
    why: String,
    until: Timestamp,
    wait: Duration,
}

#[expect(clippy::struct_excessive_bools, reason = "facts that are independent of each other")]
pub struct State {
    limits: Limits,
    running: BTreeMap<Fence, Running>,
    /// Set by recovery; nothing is claimed before.
    ready: bool,
    draining: bool,
    pause: Option<Pause>,
    /// Why nothing is started for want of disk space. What runs goes on to its end.
    no_disk: Option<String>,
    provider: Option<ProviderTrouble>,
    /// Profiles that a person uses outside cove, and when to look again.
    in_use: BTreeMap<ProfileId, Timestamp>,
    /// A look at the queue is on its way; another one is wanted after it.
    looking: bool,
    look_again: bool,
    next_due: Option<Timestamp>,
    /// Why a profile could not be opened for a person, until the next try.
    open_errors: BTreeMap<ProfileId, String>,
}

impl State {
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            running: BTreeMap::new(),
            ready: false,
            draining: false,
            pause: None,
            no_disk: None,
            provider: None,
            in_use: BTreeMap::new(),
            looking: false,
            look_again: false,
            next_due: None,
            open_errors: BTreeMap::new(),
        }
    }

    pub fn apply(&mut self, event: Event, now: Timestamp) -> Step {
        match event {
            Event::Recovered(leftovers) => self.recovered(leftovers),
            Event::Bell | Event::Tick | Event::Promoted => self.look(),
            Event::Disk { short } => self.disk(short),
            // The row moved on without us: whoever moved it rings.
            Event::NotClaimed => Step::default(),
            Event::Outlook(outlook) => self.plan(outlook, now),
            Event::Claimed(claim) => self.claimed(*claim),
            Event::ArmAsked { fence } => self.arm_asked(fence),
            Event::ArmAnswered { fence, answer } => self.arm_answered(fence, answer),
            Event::Opened { fence, session } => self.opened(fence, session),
            Event::Ended { fence, end, evidence, browser, roll } => {
                self.ended(fence, end, evidence, browser, roll, now)
            }
            Event::EndStored { fence, refused } => self.end_stored(fence, refused),
            Event::Closed { fence } => self.closed(fence),
            Event::Released { fence } => {
                self.running.remove(&fence);
                self.look()
            }
            Event::TaskCanceled { task, more } => self.task_canceled(task, more),
            Event::OpenAsked { profile, headless, token } => self.open_asked(profile, headless, token, now),
            Event::OperatorLocked { fence, profile, headless, token } => {
                self.operator_locked(fence, profile, headless, token)
            }
            Event::CloseAsked { profile } => self.close_asked(&profile),
            Event::Drain => self.drain(),
        }
    }

    /// What the API and the page see.
    #[must_use]
    pub fn view(&self, now: Timestamp) -> View {
        let mut view = View {
            ready: self.ready,
            draining: self.draining,
            pause: self.pause.clone(),
            slots: self.limits.slots,
            busy: self.busy(),
            running: BTreeMap::new(),
            operators: BTreeMap::new(),
            in_use: self.in_use.clone(),
            open_errors: self.open_errors.clone(),
            no_disk: self.no_disk.clone(),
            provider_down: self.provider.as_ref().map(|trouble| trouble.why.clone()),
            turned_at: now,
        };
        for running in self.running.values() {
            match &running.owner {
                Owner::Item { id, .. } => {
                    view.running.insert(running.profile.clone(), Some(*id));
                }
                Owner::Leftover => {
                    view.running.insert(running.profile.clone(), None);
                }
                Owner::Operator(operator) => {
                    view.operators.insert(running.profile.clone(), operator.clone());
                }
            }
        }
        view
    }

    /// When the loop has to turn by itself. A time that has come was acted on: it wakes nobody again.
    #[must_use]
    pub fn wake_at(&self, now: Timestamp) -> Option<Timestamp> {
        if self.draining || !self.ready {
            return None;
        }
        let provider = self.provider.as_ref().map(|trouble| trouble.until);
        let times = self.next_due.into_iter().chain(provider).chain(self.in_use.values().copied());
        times.filter(|time| *time > now).min()
    }

    /// Draining, and nothing is running any more.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        self.draining && self.running.is_empty()
    }

    fn busy(&self) -> u32 {
        let takes_a_slot = |running: &&Running| !matches!(running.owner, Owner::Operator(_));
        u32::try_from(self.running.values().filter(takes_a_slot).count()).unwrap_or(u32::MAX)
    }

    /// One look at the queue at a time; what rings meanwhile is one more look afterwards.
    fn look(&mut self) -> Step {
        if !self.ready || self.draining {
            return Step::default();
        }
        if std::mem::replace(&mut self.looking, true) {
            self.look_again = true;
            return Step::default();
        }
        Step::act(Act::Look)
    }

    fn disk(&mut self, short: Option<String>) -> Step {
        self.no_disk = short;
        if self.no_disk.is_none() { self.look() } else { Step::default() }
    }

    /// Decides what to do with what the store says could be done.
    fn plan(&mut self, outlook: Outlook, now: Timestamp) -> Step {
        self.looking = false;
        self.next_due = outlook.next_due;
        self.pause = outlook.pause;
        self.in_use.retain(|_, until| *until > now);
        let mut step = Step::default();
        if std::mem::take(&mut self.look_again) {
            step = self.look();
        }
        if self.draining {
            return step;
        }
        step.commit.extend(outlook.cancels.into_iter().map(|task| Commit::CancelWaiting { task }));
        // Without space only what ends or frees is written.
        if outlook.overdue && self.no_disk.is_none() {
            step.commit.push(Commit::Promote);
        }
        if self.pause.is_some() || self.no_disk.is_some() {
            return step;
        }
        // With nothing left to start nobody would find out whether the provider is back.
        if outlook.heads.is_empty() && self.provider.as_ref().is_some_and(|trouble| trouble.until <= now) {
            self.provider = None;
        }
        let free = self.limits.slots.saturating_sub(self.busy());
        let free = match &self.provider {
            Some(trouble) if trouble.until > now => 0,
            // One attempt finds out whether the provider is back.
            Some(_) => free.min(1).saturating_sub(self.busy()),
            None => free,
        };
        let room = Room { free, in_use: &self.in_use };
        let taken = |profile: &ProfileId| self.running.values().any(|running| &running.profile == profile);
        let chosen = admission::choose(outlook.heads, &room, taken);
        step.commit.extend(chosen.into_iter().map(|head| Commit::Claim { item: head.item }));
        step
    }

    fn claimed(&mut self, claim: Claim) -> Step {
        let Claim::Started(claimed) = claim else { return self.look() };
        let Claimed { item, task, fence } = *claimed;
        let owner = Owner::item(&item, &task, false);
        let running = Running { profile: item.profile.clone(), phase: Phase::Unarmed, owner, browser: true };
        self.running.insert(fence, running);
        Step::act(Act::Start { fence, work: Work::Attempt { item: Box::new(item), task: Box::new(task) } })
    }

    fn arm_asked(&mut self, fence: Fence) -> Step {
        let refuse = |why| Step::act(Act::AnswerArm { fence, answer: Err(why) });
        let draining = self.draining;
        match self.running.get_mut(&fence) {
            Some(Running { owner: Owner::Item { cancel: true, .. }, phase: Phase::Unarmed, .. }) => {
                refuse(Failure::new(FailureCode::Canceled, "canceled on request before the commit point"))
            }
            Some(Running { phase: Phase::Unarmed, .. }) if draining => {
                refuse(Failure::new(FailureCode::DaemonStopped, "the daemon stops"))
            }
            Some(Running { phase: phase @ Phase::Unarmed, owner: Owner::Item { id, .. }, .. }) => {
                *phase = Phase::Arming;
                Step::commit(Commit::Arm { item: *id, fence })
            }
            _ => refuse(Failure::new(FailureCode::ArmRefused, "the attempt is not running any more")),
        }
    }

    fn arm_answered(&mut self, fence: Fence, answer: Result<(), ArmRefused>) -> Step {
        let answer = match answer {
            Ok(()) => Ok(Phase::Armed),
            Err(ArmRefused::Canceled) => {
                Err(Failure::new(FailureCode::Canceled, "canceled on request before the commit point"))
            }
            Err(refused) => Err(Failure::new(FailureCode::ArmRefused, refused.to_string())),
        };
        if let Some(running) = self.running.get_mut(&fence) {
            running.phase = *answer.as_ref().unwrap_or(&Phase::Unarmed);
        }
        Step::act(Act::AnswerArm { fence, answer: answer.map(drop) })
    }

    /// A browser came up: the provider works.
    fn opened(&mut self, fence: Fence, session: Session) -> Step {
        let Some(running) = self.running.get_mut(&fence) else { return Step::default() };
        if let Owner::Operator(view) = &mut running.owner {
            view.session = Some(session);
        }
        if self.provider.take().is_some() { self.look() } else { Step::default() }
    }

    fn ended(
        &mut self,
        fence: Fence,
        end: AttemptEnd,
        evidence: Vec<EvidenceFile>,
        browser: bool,
        roll: f64,
        now: Timestamp,
    ) -> Step {
        let Some(running) = self.running.get_mut(&fence) else { return Step::default() };
        running.browser = browser;
        let (id, verdict) = match (&running.owner, running.phase) {
            (Owner::Item { .. }, Phase::Ending | Phase::Closing) | (Owner::Leftover, _) => return Step::default(),
            (Owner::Operator(_), _) => return self.operator_ended(fence, end),
            (Owner::Item { id, .. }, phase) => {
                (*id, verdict(&self.limits, self.draining, running, phase, end, roll, now))
            }
        };
        if let Verdict::TryAgain { failure, .. } = &verdict {
            self.note_trouble(fence, failure, now);
        }
        if let Some(running) = self.running.get_mut(&fence) {
            running.phase = Phase::Ending;
        }
        Step::commit(Commit::Finish { item: id, fence, verdict, evidence })
    }

    /// An end that is not the item's fault says something about the provider or the profile.
    fn note_trouble(&mut self, fence: Fence, failure: &Failure, now: Timestamp) {
        if failure.retry() != Retry::Uncounted {
            return;
        }
        match failure.blame() {
            Blame::Provider => {
                let wait = self
                    .provider
                    .take()
                    .map_or(PROVIDER_FIRST_WAIT, |trouble| (trouble.wait * 2).min(PROVIDER_LONGEST_WAIT));
                self.provider = Some(ProviderTrouble { why: failure.detail.clone(), until: now.plus(wait), wait });
            }
            Blame::Profile => {
                if let Some(running) = self.running.get(&fence) {
                    self.in_use.insert(running.profile.clone(), now.plus(IN_USE_WAIT));
                }
            }
            _ => {}
        }
    }

    fn end_stored(&mut self, fence: Fence, refused: bool) -> Step {
        let Some(running) = self.running.get_mut(&fence) else { return Step::default() };
        running.phase = Phase::Closing;
        if refused {
            // The row moved on without us: only the browser and the lock are left to clear.
            running.owner = Owner::Leftover;
        }
        if running.browser {
            Step::act(Act::Close { fence, profile: running.profile.clone() })
        } else {
            self.closed(fence)
        }
    }

    fn closed(&mut self, fence: Fence) -> Step {
        match self.running.get(&fence) {
            Some(running) => Step::commit(Commit::Release { profile: running.profile.clone(), fence }),
            None => Step::default(),
        }
    }

    fn task_canceled(&mut self, canceled: TaskId, more: bool) -> Step {
        let mut step = Step::default();
        for (fence, running) in &mut self.running {
            let Owner::Item { task, cancel, .. } = &mut running.owner else { continue };
            if *task == canceled && !*cancel {
                *cancel = true;
                // After the commit point the mark is ignored: an armed attempt is never cut.
                if matches!(running.phase, Phase::Unarmed) {
                    step.then.push(Act::Interrupt { fence: *fence });
                }
            }
        }
        if more {
            step.commit.push(Commit::CancelWaiting { task: canceled });
        }
        step
    }

    fn drain(&mut self) -> Step {
        let mut step = Step::default();
        if std::mem::replace(&mut self.draining, true) {
            return step;
        }
        for (fence, running) in &self.running {
            if matches!(running.phase, Phase::Unarmed) {
                step.then.push(Act::Interrupt { fence: *fence });
            }
        }
        step
    }
}

/// The phase is the truth about the click, whatever the attempt believes.
fn verdict(
    limits: &Limits,
    draining: bool,
    running: &Running,
    phase: Phase,
    end: AttemptEnd,
    roll: f64,
    now: Timestamp,
) -> Verdict {
    let armed = matches!(phase, Phase::Arming | Phase::Armed);
    let failure = match end {
        AttemptEnd::Confirmed { url, result } if armed => return Verdict::Succeeded { url, result },
        AttemptEnd::Done { url, result } if !armed => return Verdict::Succeeded { url, result },
        AttemptEnd::Unknown(failure) | AttemptEnd::Unarmed(failure) if armed => {
            return Verdict::OutcomeUnknown(as_unknown(failure));
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
    if draining || failure.code == FailureCode::Canceled {
        // The daemon's own stop, whatever it looked like from inside the attempt: no attempt is spent.
        let failure = Failure::new(FailureCode::DaemonStopped, "the daemon stopped before the commit point");
        return Verdict::TryAgain { failure, due_at: Timestamp::ZERO, counted: false };
    }
    match failure.retry() {
        Retry::Never => Verdict::Failed(failure),
        Retry::Uncounted => Verdict::TryAgain { failure, due_at: Timestamp::ZERO, counted: false },
        Retry::Backoff if attempts >= max_attempts => Verdict::Failed(failure),
        Retry::Backoff => {
            let due_at = now.plus(admission::back_off(limits, attempts, roll));
            Verdict::TryAgain { failure, due_at, counted: true }
        }
    }
}

/// What an attempt met after its commit point, under a code that says what a person has to do.
fn as_unknown(failure: Failure) -> Failure {
    use FailureCode::{ConfirmationMissing, Internal, LostAfterCommit, RestartedAfterCommit};
    match failure.code {
        ConfirmationMissing | LostAfterCommit | RestartedAfterCommit | Internal => failure,
        _ => Failure::new(LostAfterCommit, failure.to_string()),
    }
}

mod operator;
mod recovery;
#[cfg(test)]
mod tests;
