//! The words between the state machine, the loop and the attempts.
//!
//! Events go in; a [`Step`] comes out: [`Commit`]s for the store, [`Act`]s for the loop. Plain data, so
//! that a test can feed the state machine and read its mind.

use std::collections::BTreeMap;

use super::pressure::Pressure;
use super::{LendAsked, LendRefused, Lent};
use crate::breaker::Passage;
use crate::browser::Session;
use crate::model::{EvidenceFile, Failure, Fence, Item, ItemId, Moment, ProfileId, Proofs, Task, TaskId};
use crate::store::{
    ArmRefused, AttemptEnded, Claim, ClaimName, ClockMark, Expired, Leftover, Outlook, SessionName, Settled, Verified,
    VerifyBegun, VerifyFinding,
};

/// How an attempt says that it ended. Whether it was armed is the state machine's to know.
#[derive(Clone, Debug, PartialEq)]
pub enum AttemptEnd {
    /// The commit point was passed and every confirmation after it came.
    Confirmed { url: Option<String>, result: BTreeMap<String, String> },
    /// A flow without a commit point came to its end.
    Done { url: Option<String>, result: BTreeMap<String, String> },
    /// The click was dispatched, or may have been, and was not confirmed.
    Unknown(Failure),
    /// Nothing was dispatched.
    Unarmed(Failure),
}

#[derive(Clone, Debug)]
pub enum Event {
    /// First of all: what the store says was going on when the daemon last stopped.
    Recovered(Vec<Leftover>),
    /// What time it is, on both clocks; told before every other event of the loop.
    Time(Moment),
    /// What a start would meet at the breakers that it goes through; told with the time, and before every
    /// [`Event::Outlook`].
    Breakers(Passage),
    /// Something in the store changed.
    Bell,
    /// A time came.
    Tick,
    /// Why nothing new may be started for want of disk space; None: there is enough.
    Disk {
        short: Option<String>,
    },
    /// What the watch over the machine measured, every few seconds.
    Pressure(Pressure),
    /// The answer to [`Act::Look`].
    Outlook(Outlook),

    // Answers to commits.
    Promoted {
        more: bool,
    },
    Claimed(Box<Claim>),
    NotClaimed,
    ArmAnswered {
        fence: Fence,
        answer: Result<(), ArmRefused>,
    },
    EndStored {
        fence: Fence,
        refused: bool,
    },
    Released {
        fence: Fence,
    },
    Settled {
        task: TaskId,
        settled: Settled,
    },
    VerifyBegun(Box<VerifyBegun>),
    VerifyStored {
        fence: Fence,
    },
    ClaimsExpired(Expired),
    ClockMarked,
    ClockTrusted {
        more: bool,
    },
    CaughtUp {
        more: bool,
    },
    /// The system says that its clock is synchronised.
    ClockSynchronised,
    /// `fence` is None where the profile was busy.
    OperatorLocked {
        fence: Option<Fence>,
        profile: ProfileId,
        headless: bool,
        token: String,
    },

    /// A browser was lent, or why not.
    Lent {
        ticket: u64,
        asked: LendAsked,
        answer: Result<Lent, LendRefused>,
    },

    // From what was started.
    /// The provider started the browser.
    Opened {
        fence: Fence,
        session: Session,
    },
    /// The browser answers: its start is over.
    Attached {
        fence: Fence,
    },
    ArmAsked {
        fence: Fence,
        proofs: Proofs,
    },
    /// `stopped`: what the site said, where the flow watches for it, whatever the end is. `browser`: one
    /// may run that has to be stopped. `roll` in 0..1 spreads the back-off.
    Ended {
        fence: Fence,
        end: AttemptEnd,
        evidence: Vec<EvidenceFile>,
        stopped: Option<Failure>,
        browser: bool,
        roll: f64,
    },
    /// The end of a verify. `look` is None where it could not look: nothing is learnt, and no run is spent.
    Looked {
        fence: Fence,
        look: Option<VerifyFinding>,
        evidence: Vec<EvidenceFile>,
        stopped: Option<Failure>,
        browser: bool,
    },
    /// The browser could not be closed; it is tried again.
    NotClosed {
        fence: Fence,
        failure: Failure,
    },
    /// The browser is verified dead.
    Closed {
        fence: Fence,
    },

    // From people and programs.
    OpenAsked {
        profile: ProfileId,
        headless: bool,
        token: String,
    },
    CloseAsked {
        profile: ProfileId,
    },
    /// A program wants a browser; `ticket` finds it again for the answer.
    LendAsked {
        ticket: u64,
        asked: LendAsked,
    },
    /// Whoever a browser was lent to was not there to be told.
    Undelivered {
        fence: Fence,
    },
    /// An outside worker stands before its click.
    ClaimArmAsked {
        name: ClaimName,
        proofs: Proofs,
    },
    /// A person resolved the item: a verify that runs for it has nothing to find any more.
    Resolved {
        item: ItemId,
    },
    /// A forced cleanup met the lock under this fence.
    StopAsked {
        fence: Fence,
    },
    /// The daemon stops.
    Drain,
}

/// A write into the store; its answer comes back as an event.
#[derive(Clone, Debug, PartialEq)]
pub enum Commit {
    Promote,
    MarkClock(ClockMark),
    TrustClock,
    CatchUp { per_hour: u32 },
    Claim { item: ItemId },
    Arm { item: ItemId, fence: Fence, proofs: Proofs },
    Finish(AttemptEnded),
    Release { profile: ProfileId, fence: Fence },
    Settle { task: TaskId },
    BeginVerify { item: ItemId },
    FinishVerify(Verified),
    ExpireClaims,
    LockForOperator { profile: ProfileId, headless: bool, token: String },
    Lend { ticket: u64, asked: LendAsked },
    ReleaseSession(SessionName),
}

/// What is started.
#[derive(Clone, Debug, PartialEq)]
pub enum Work {
    Attempt {
        item: Box<Item>,
        task: Box<Task>,
    },
    /// Armed before a restart of the daemon: only the confirmation is left (fence.md rule 15).
    Reattach {
        item: Box<Item>,
        task: Box<Task>,
    },
    /// Look whether an unknown outcome was published (fence.md rule 12).
    Verify {
        item: Box<Item>,
        task: Box<Task>,
    },
    /// A profile shown to a person. `adopt`: only if its browser still runs.
    Operator {
        profile: ProfileId,
        headless: bool,
        adopt: bool,
    },
    /// A browser for a program. `vanishes`: without a connection for a while it ends.
    Lend {
        profile: ProfileId,
        headless: bool,
        vanishes: bool,
    },
}

/// Something to do, allowed by what is committed already.
#[derive(Clone, Debug, PartialEq)]
pub enum Act {
    Look,
    /// Find out whether the system's clock is synchronised, and say so if it is.
    AskClock,
    Start {
        fence: Fence,
        work: Work,
    },
    AnswerArm {
        fence: Fence,
        answer: Result<(), Failure>,
    },
    /// Ask an attempt to end at its next step; once armed it does not listen.
    Interrupt {
        fence: Fence,
    },
    /// Stop the profile's browser until it is verified dead, then say [`Event::Closed`].
    Close {
        fence: Fence,
        profile: ProfileId,
    },
    /// End the browser of something armed, which listens to nothing: it is lost to it.
    EndBrowser {
        fence: Fence,
        profile: ProfileId,
    },
    /// Nobody gets into a lent browser any more, and whoever comes is told why.
    ShutDoor {
        fence: Fence,
        why: String,
    },
    AnswerOpen {
        token: String,
        opened: bool,
    },
    AnswerClose {
        profile: ProfileId,
        closed: bool,
    },
    AnswerLend {
        ticket: u64,
        answer: Result<Lent, LendRefused>,
    },
}

/// What follows from an event.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Step {
    pub commit: Vec<Commit>,
    pub then: Vec<Act>,
}

impl Step {
    pub fn commit(commit: Commit) -> Self {
        Self { commit: vec![commit], then: Vec::new() }
    }

    pub fn act(act: Act) -> Self {
        Self { commit: Vec::new(), then: vec![act] }
    }

    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        self.commit.extend(other.commit);
        self.then.extend(other.then);
        self
    }
}
