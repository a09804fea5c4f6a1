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
use super::event::{Act, Commit, Event, Step, Work};
use super::{OperatorView, View};
use crate::breaker::Passage;
use crate::config;
use crate::model::{Failure, FailureCode, Fence, Item, ItemId, ProfileId, Proofs, Task, TaskId, Timestamp};
use crate::store::{ArmRefused, Claim, Claimed, Expired, Outlook, Pause, Settled};

/// How long a profile that a person uses is left alone before it is tried again.
const IN_USE_WAIT: Duration = Duration::from_secs(15);

/// What the configuration says.
#[derive(Clone, Debug)]
pub struct Limits {
    pub slots: u32,
    pub retry_base: Duration,
    pub retry_max: Duration,
    /// How long a profile rests after its site said that it did too much.
    pub rest: Duration,
    /// Of what was missed while the daemon was down; 0: no cap.
    pub catch_up_per_hour: u32,
    /// Browsers lent at a time.
    pub sessions: u32,
}

impl From<&config::Engine> for Limits {
    fn from(config: &config::Engine) -> Self {
        Self {
            slots: config.slots,
            retry_base: Duration::from_secs(config.retry_base_seconds),
            retry_max: Duration::from_secs(config.retry_max_seconds),
            rest: Duration::from_secs(config.rate_limited_rest_seconds),
            catch_up_per_hour: config.catch_up_per_hour,
            sessions: config.sessions,
        }
    }
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

/// One running attempt, or a profile opened for a person or lent to a program: a lock and a browser.
#[derive(Clone, Debug)]
struct Running {
    profile: ProfileId,
    phase: Phase,
    owner: Owner,
    /// Its browser is on its way: it does not answer yet, and nobody has given it up.
    starting: bool,
    /// Its browser came up.
    came_up: bool,
    /// A browser may run that has to be stopped before the lock is freed.
    browser: bool,
    weighed: strain::Weighed,
}

impl Running {
    /// An attempt, or something like it, whose browser is on its way.
    fn started(profile: ProfileId, owner: Owner) -> Self {
        let weighed = strain::Weighed::default();
        Self { profile, phase: Phase::Unarmed, owner, starting: true, came_up: false, browser: true, weighed }
    }
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
    /// Looks whether the item was published; whether what it finds proves anything was known before.
    Verify {
        item: ItemId,
    },
    /// A browser left over from before a restart; its item, if any, has its end already.
    Leftover,
    Operator(OperatorView),
    /// A browser that a program uses.
    Lent(session::Loan),
}

impl Owner {
    fn is_asked_to_end(&mut self) {
        if let Self::Lent(loan) = self {
            loan.ending = true;
        }
    }

    fn item(item: &Item, task: &Task, cancel: bool) -> Self {
        Self::Item {
            id: item.id,
            task: item.task,
            attempts: item.attempts_spent(),
            max_attempts: task.max_attempts,
            cancel,
        }
    }
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
    strain: strain::Strain,
    provider: Option<provider::Trouble>,
    /// Profiles whose start the provider refused for good.
    refused: BTreeMap<ProfileId, provider::Refused>,
    /// How often in a row an item's attempt ended without a browser to attach to, and was not counted.
    spared: BTreeMap<ItemId, u32>,
    /// What a start would meet.
    breakers: Passage,
    /// Profiles that a person uses outside cove, and when to look again.
    in_use: BTreeMap<ProfileId, Timestamp>,
    /// A look at the queue is on its way; another one is wanted after it.
    looking: bool,
    look_again: bool,
    /// Work in steps is not done: the loop turns again at once.
    go_on: bool,
    clocks: clock::Clocks,
    /// What was missed is being spread; nothing is claimed before.
    catching_up: bool,
    next_due: Option<Timestamp>,
    /// Why a profile could not be opened for a person, until the next try.
    open_errors: BTreeMap<ProfileId, String>,
    /// Why a browser that has to be closed lives on, until it is gone.
    close_errors: BTreeMap<ProfileId, String>,
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
            strain: strain::Strain::default(),
            provider: None,
            refused: BTreeMap::new(),
            spared: BTreeMap::new(),
            breakers: Passage::Free,
            in_use: BTreeMap::new(),
            looking: false,
            look_again: false,
            go_on: false,
            clocks: clock::Clocks::default(),
            catching_up: false,
            next_due: None,
            open_errors: BTreeMap::new(),
            close_errors: BTreeMap::new(),
        }
    }

    pub fn apply(&mut self, event: Event, now: Timestamp) -> Step {
        let step = self.react(event, now);
        // What starts and ends is weighed as well as what is reported.
        if self.weigh() { step.and(self.look()) } else { step }
    }

    fn react(&mut self, event: Event, now: Timestamp) -> Step {
        match event {
            Event::Recovered(leftovers) => self.recovered(leftovers),
            Event::Time(moment) => self.time(moment),
            Event::Breakers(passage) => self.breakers_say(passage),
            Event::ClockTrusted { more } => self.clock_trusted(more),
            Event::ClockSynchronised if self.clocks.suspect => Step::commit(Commit::TrustClock),
            Event::CaughtUp { more } => {
                self.catching_up = more;
                self.step_done(more)
            }
            Event::Bell | Event::Tick => {
                self.go_on = false;
                self.look()
            }
            Event::Disk { short } => self.disk(short),
            Event::Pressure(pressure) => self.pressed(pressure),
            Event::Promoted { more } => self.step_done(more),
            // Nothing to do; or the row moved on without us, and whoever moved it rings.
            Event::NotClaimed | Event::ClockSynchronised | Event::ClockMarked => Step::default(),
            Event::Outlook(outlook) => self.plan(outlook, now),
            Event::Claimed(claim) => self.claimed(*claim),
            Event::ArmAsked { fence, proofs } => self.arm_asked(fence, proofs),
            Event::ArmAnswered { fence, answer } => self.arm_answered(fence, answer),
            Event::Opened { fence, session } => self.opened(fence, session),
            Event::Attached { fence } => self.attached(fence),
            Event::Ended { fence, end, evidence, stopped, browser, roll } => {
                let told = ends::Told { end, evidence, stopped, browser };
                self.ended(fence, told, roll, now)
            }
            Event::VerifyBegun(begun) => self.verify_begun(*begun),
            Event::Looked { fence, look, evidence, stopped, browser } => {
                self.looked(fence, look, evidence, stopped.as_ref(), browser, now)
            }
            // A lease that is over and has its minute of grace is looked at again with the next heartbeat.
            Event::ClaimsExpired(expired) if expired == Expired::default() => Step::default(),
            Event::ClaimsExpired(_) => self.look(),
            Event::VerifyStored { fence } => self.end_stored(fence, false),
            Event::Resolved { item } => self.resolved(item),
            Event::EndStored { fence, refused } => self.end_stored(fence, refused),
            Event::NotClosed { fence, failure } => self.not_closed(fence, &failure),
            Event::Closed { fence } => self.closed(fence),
            Event::Released { fence } => self.released(fence, now),
            Event::Settled { task, settled } => self.settled(task, settled),
            Event::OpenAsked { profile, headless, token } => self.open_asked(profile, headless, token, now),
            Event::OperatorLocked { fence, profile, headless, token } => {
                self.operator_locked(fence, profile, headless, token)
            }
            Event::CloseAsked { profile } => self.close_asked(&profile),
            Event::ClaimArmAsked { name, proofs } => self.claim_arm_asked(name, proofs),
            Event::LendAsked { ticket, asked } => self.lend_asked(ticket, asked, now),
            Event::Lent { ticket, asked, answer } => self.lent(ticket, asked, answer),
            Event::Undelivered { fence } => self.undelivered(fence),
            Event::StopAsked { fence } => self.stop_asked(fence),
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
            sessions: BTreeMap::new(),
            in_use: self.in_use.clone(),
            open_errors: self.open_errors.clone(),
            close_errors: self.close_errors.clone(),
            clock_suspect: self.clocks.suspect,
            no_disk: self.no_disk.clone(),
            strain: self.strain_view(),
            provider_down: self.provider.as_ref().map(|trouble| trouble.why.clone()),
            provider_until: self.provider.as_ref().map(|trouble| trouble.until).filter(|until| *until > now),
            refused: self.refused_view(now),
            breakers: self.breakers,
            turned_at: now,
        };
        for (fence, running) in &self.running {
            match &running.owner {
                Owner::Item { id, .. } | Owner::Verify { item: id } => {
                    view.running.insert(running.profile.clone(), Some(*id));
                }
                Owner::Leftover => {
                    view.running.insert(running.profile.clone(), None);
                }
                Owner::Operator(operator) => {
                    view.operators.insert(running.profile.clone(), operator.clone());
                }
                Owner::Lent(loan) => {
                    view.sessions.insert(*fence, loan.view(running.profile.clone(), running.phase));
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
        if self.go_on {
            return Some(now);
        }
        let provider = self.provider.as_ref().map(|trouble| trouble.until);
        let breakers = self.breakers.shut_until();
        let refused = self.refused.values().map(|refused| refused.until);
        let times = self.next_due.into_iter().chain(provider).chain(breakers).chain(refused);
        let times = times.chain(self.in_use.values().copied());
        times.filter(|time| *time > now).min()
    }

    /// Draining, and nothing is running any more.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        self.draining && self.running.is_empty()
    }

    fn busy(&self) -> u32 {
        let takes_a_slot = |running: &&Running| !matches!(running.owner, Owner::Operator(_) | Owner::Lent(_));
        u32::try_from(self.running.values().filter(takes_a_slot).count()).unwrap_or(u32::MAX)
    }

    /// One look at the queue at a time; what rings meanwhile is one more look afterwards.
    fn look(&mut self) -> Step {
        // Draining, what is armed is waited for; when a worker is done, the store alone knows.
        if !self.ready || self.draining && !self.lends_armed() {
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
        self.forget_refusals(now);
        let mut step = Step::default();
        if std::mem::take(&mut self.look_again) {
            step = self.look();
        }
        step = step.and(self.sessions_over(&outlook.sessions_over));
        if outlook.claims_over {
            step.commit.push(Commit::ExpireClaims);
        }
        if self.draining {
            return step;
        }
        step.commit.extend(outlook.to_settle.into_iter().map(|task| Commit::Settle { task }));
        self.note_clock(outlook.clock_suspect);
        // Without space only what ends or frees is written.
        if self.no_disk.is_some() {
            return step;
        }
        if outlook.overdue {
            step.commit.push(Commit::Promote);
        }
        self.catching_up |= outlook.catching_up;
        if self.catching_up {
            // What waited out its back-off is queued first, and spread with the rest.
            if !outlook.overdue {
                step.commit.push(Commit::CatchUp { per_hour: self.limits.catch_up_per_hour });
            }
            return step;
        }
        let heads = match &self.pause {
            None => outlook.heads,
            Some(Pause::Operator { .. }) => return step,
            // After a restore a verify only looks, and may find out what nobody knows.
            Some(_) => Vec::new(),
        };
        // With nothing left to start nobody would find out whether the provider is back.
        if heads.is_empty()
            && outlook.verifies.is_empty()
            && self.provider.as_ref().is_some_and(|trouble| trouble.until <= now)
        {
            self.provider = None;
        }
        let free = self.room(now);
        // What may have gone out is looked at before more is sent.
        let taken = |profile: &ProfileId| {
            self.is_refused(profile, now) || self.running.values().any(|running| &running.profile == profile)
        };
        let room = Room { free, in_use: &self.in_use };
        let verifies = admission::choose(outlook.verifies, &room, taken);
        let taken = |profile: &ProfileId| taken(profile) || verifies.iter().any(|head| &head.profile == profile);
        let free = free.saturating_sub(u32::try_from(verifies.len()).unwrap_or(u32::MAX));
        let chosen = admission::choose(heads, &Room { free, in_use: &self.in_use }, taken);
        step.commit.extend(verifies.iter().map(|head| Commit::BeginVerify { item: head.item }));
        step.commit.extend(chosen.into_iter().map(|head| Commit::Claim { item: head.item }));
        step
    }

    fn claimed(&mut self, claim: Claim) -> Step {
        let Claim::Started(claimed) = claim else { return self.look() };
        let Claimed { item, task, fence } = *claimed;
        let owner = Owner::item(&item, &task, false);
        self.running.insert(fence, Running::started(item.profile.clone(), owner));
        Step::act(Act::Start { fence, work: Work::Attempt { item: Box::new(item), task: Box::new(task) } })
    }

    fn arm_asked(&mut self, fence: Fence, proofs: Proofs) -> Step {
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
                Step::commit(Commit::Arm { item: *id, fence, proofs })
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
        if let Some(running) = self.running.get_mut(&fence).filter(|running| running.phase == Phase::Arming) {
            running.phase = *answer.as_ref().unwrap_or(&Phase::Unarmed);
        }
        Step::act(Act::AnswerArm { fence, answer: answer.map(drop) })
    }

    fn settled(&mut self, settled: TaskId, Settled { canceled, more }: Settled) -> Step {
        let mut step = Step::default();
        for (fence, running) in &mut self.running {
            let Owner::Item { task, cancel, .. } = &mut running.owner else { continue };
            if canceled && *task == settled && !*cancel {
                *cancel = true;
                // After the commit point the mark is ignored: an armed attempt is never cut.
                if matches!(running.phase, Phase::Unarmed) {
                    step.then.push(Act::Interrupt { fence: *fence });
                }
            }
        }
        step.and(self.step_done(more))
    }

    /// A step of work on many items is done; between two of them the loop hears whoever else wants it.
    fn step_done(&mut self, more: bool) -> Step {
        self.go_on |= more;
        if more { Step::default() } else { self.look() }
    }

    fn drain(&mut self) -> Step {
        let mut step = Step::default();
        if std::mem::replace(&mut self.draining, true) {
            return step;
        }
        for (fence, running) in &mut self.running {
            if matches!(running.phase, Phase::Unarmed) {
                running.owner.is_asked_to_end();
                step.then.push(Act::Interrupt { fence: *fence });
            }
        }
        step
    }
}

mod clock;
mod ends;
mod operator;
mod provider;
mod recovery;
mod session;
mod strain;
#[cfg(test)]
mod tests;
mod verify;
