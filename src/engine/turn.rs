//! The loop: event → state → commit → act, one at a time, and nothing else.
//!
//! It waits for the bell, the mailbox or the clock; feeds the state machine; carries the commits to the
//! store and their answers back as events; then acts. Attempts live in its [`JoinSet`] and end with it. A
//! store that fails ends the loop, and with it the daemon.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument as _, Span};

use super::event::{Act, Commit, Event, Step, Work};
use super::pressure::{Scarce, Shortage};
use super::session::{self, Doors};
use super::state::State;
use super::{
    Engine, HEARTBEAT, LendRefused, Lent, LentBrowser, Message, START_BREAKERS, Shared, attempt, clock, operator,
    verify,
};
use crate::breaker::Passage;
use crate::model::{Failure, FailureCode, Fence, Item, Moment, ProfileId, Proofs};
use crate::store::{AttemptEnded, Store, StoreError};

/// First and longest wait between two tries to stop a browser.
const CLOSE_FIRST_WAIT: Duration = Duration::from_millis(250);
const CLOSE_LONGEST_WAIT: Duration = Duration::from_secs(10);

#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    #[error(transparent)]
    Store(#[from] StoreError),
}

struct Loop {
    shared: Arc<Shared>,
    state: State,
    mailbox: mpsc::Sender<Message>,
    children: JoinSet<()>,
    /// Attempts that wait for the answer to "may I click?".
    arming: HashMap<Fence, oneshot::Sender<Result<(), Failure>>>,
    interrupts: HashMap<Fence, CancellationToken>,
    opening: HashMap<String, oneshot::Sender<bool>>,
    closing: HashMap<ProfileId, oneshot::Sender<bool>>,
    lending: HashMap<u64, oneshot::Sender<Result<LentBrowser, LendRefused>>>,
    last_ticket: u64,
    doors: Doors,
}

/// Runs recovery, then the ordinary loop, until drained or until the store fails.
pub async fn run(engine: Engine, shared: Arc<Shared>) -> Result<(), EngineError> {
    let Engine { bell, view, mut inbox, mailbox, doors } = engine;
    let mut turning = Loop {
        state: State::new(shared.limits.clone()),
        shared,
        mailbox,
        children: JoinSet::new(),
        arming: HashMap::new(),
        interrupts: HashMap::new(),
        opening: HashMap::new(),
        closing: HashMap::new(),
        lending: HashMap::new(),
        last_ticket: 0,
        doors,
    };
    // Others call through the same breakers.
    let moved = bell.clone();
    turning.shared.breakers.on_move(move || moved.notify_one());
    let mut failed = turning.shared.store.failed();
    let mut no_disk = turning.shared.no_disk.clone();
    let short = no_disk.borrow_and_update().clone();
    turning.turn(Event::Disk { short }).await?;
    let mut pressure = turning.shared.pressure.clone();
    let first = pressure.borrow_and_update().clone();
    turning.turn(Event::Pressure(first)).await?;
    let mut held_back = None;
    let leftovers = turning.shared.store.leftovers().await?;
    let mark = turning.shared.store.clock_mark().await?;
    turning.state.begin_time(mark, turning.shared.clock.moment());
    let mut event = Event::Recovered(leftovers);
    let mut beat = Instant::now() + HEARTBEAT;
    loop {
        turning.turn(Event::Time(turning.shared.clock.moment())).await?;
        turning.turn(Event::Breakers(turning.shared.passage())).await?;
        turning.turn(event).await?;
        if Instant::now() >= beat {
            beat = Instant::now() + HEARTBEAT;
            turning.turn(Event::Tick).await?;
        }
        let now = turning.shared.clock.now();
        let seen = turning.state.view(now);
        tell_shortage(&mut held_back, seen.strain.shortage.as_ref());
        view.send_replace(Arc::new(seen));
        if turning.state.is_drained() {
            return Ok(());
        }
        // What comes often must neither put the heartbeat off nor swallow a time that passes meanwhile.
        let wake = turning.state.wake_at(now).map(|at| Instant::now() + at.since(now).min(HEARTBEAT));
        beat = wake.map_or(beat, |wake| wake.min(beat));
        event = tokio::select! {
            () = bell.notified() => Event::Bell,
            Some(message) = inbox.recv() => turning.received(message),
            () = tokio::time::sleep_until(beat) => {
                beat = Instant::now() + HEARTBEAT;
                Event::Tick
            }
            // A child that ended has said what it had to say.
            Some(ended) = turning.children.join_next() => {
                if let Err(error) = ended {
                    tracing::error!(%error, "a child of the engine ended by a panic");
                }
                Event::Tick
            }
            Ok(()) = no_disk.changed() => Event::Disk { short: no_disk.borrow_and_update().clone() },
            Ok(()) = pressure.changed() => Event::Pressure(pressure.borrow_and_update().clone()),
            // An error means that the writer is gone without a reason.
            _ = failed.changed() => {
                let why = failed.borrow().clone();
                return Err(why.unwrap_or(StoreError::Closed).into());
            }
        };
    }
}

impl Loop {
    /// Keeps the reply aside and gives the state machine what it may know.
    fn received(&mut self, message: Message) -> Event {
        match message {
            Message::Event(event) => event,
            Message::Arm { fence, proofs, reply } => {
                self.arming.insert(fence, reply);
                Event::ArmAsked { fence, proofs }
            }
            Message::Open { profile, headless, reply } => {
                let token = operator::new_token();
                self.opening.insert(token.clone(), reply);
                Event::OpenAsked { profile, headless, token }
            }
            Message::Resolved { item } => Event::Resolved { item },
            Message::ArmClaim { name, proofs, reply } => {
                self.arming.insert(name.fence, reply);
                Event::ClaimArmAsked { name, proofs }
            }
            Message::Close { profile, reply } => {
                self.closing.insert(profile.clone(), reply);
                Event::CloseAsked { profile }
            }
            Message::Lend { asked, reply } => {
                self.last_ticket += 1;
                self.lending.insert(self.last_ticket, reply);
                Event::LendAsked { ticket: self.last_ticket, asked }
            }
        }
    }

    /// One event and everything that follows from it without waiting for the world.
    async fn turn(&mut self, event: Event) -> Result<(), StoreError> {
        let mut events = VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            if let Event::Released { fence } = &event {
                self.interrupts.remove(fence);
            }
            let Step { commit, then } = self.state.apply(event, self.shared.clock.now());
            // Handed over together, the writer commits them together.
            let now = self.shared.clock.moment();
            let answers = join_all(commit.into_iter().map(|commit| carry(&self.shared.store, commit, now))).await;
            for answer in answers {
                events.push_back(answer?);
            }
            for act in then {
                match act {
                    Act::Look => {
                        let outlook = self.shared.store.outlook(self.shared.clock.moment()).await?;
                        events.push_back(Event::Breakers(self.shared.passage()));
                        events.push_back(Event::Outlook(outlook));
                    }
                    Act::AnswerLend { ticket, answer } => events.extend(self.answer_lend(ticket, answer)),
                    act => self.act(act),
                }
            }
        }
        Ok(())
    }

    fn act(&mut self, act: Act) {
        match act {
            Act::Look | Act::AnswerLend { .. } => unreachable!("the turn itself sees to what comes back at once"),
            Act::Start { fence, work } => self.start(fence, work),
            Act::AskClock => {
                self.children.spawn(clock::ask(self.mailbox.clone()));
            }
            Act::AnswerArm { fence, answer } => {
                if let Some(reply) = self.arming.remove(&fence) {
                    // An attempt that is gone clicks nothing.
                    drop(reply.send(answer));
                }
            }
            Act::Interrupt { fence } => {
                if let Some(interrupt) = self.interrupts.get(&fence) {
                    interrupt.cancel();
                }
            }
            Act::Close { fence, profile } => {
                self.children.spawn(close(self.shared.clone(), self.mailbox.clone(), fence, profile));
            }
            Act::EndBrowser { fence, profile } => {
                self.children.spawn(end_browser(self.shared.clone(), fence, profile));
            }
            Act::ShutDoor { fence, why } => {
                if let Some(door) = self.doors.get(fence) {
                    door.close(&why);
                }
            }
            Act::AnswerOpen { token, opened } => answer(self.opening.remove(&token), opened),
            Act::AnswerClose { profile, closed } => answer(self.closing.remove(&profile), closed),
        }
    }

    /// What nobody waits for any more is nobody's.
    fn answer_lend(&mut self, ticket: u64, answer: Result<Lent, LendRefused>) -> Option<Event> {
        let reply = self.lending.remove(&ticket)?;
        let answer = answer.and_then(|lent| {
            let door = self.doors.get(lent.fence).ok_or(LendRefused::NotReady)?;
            Ok(LentBrowser { lent, door })
        });
        match reply.send(answer) {
            Err(Ok(LentBrowser { lent, .. })) => Some(Event::Undelivered { fence: lent.fence }),
            Ok(()) | Err(Err(_)) => None,
        }
    }

    fn start(&mut self, fence: Fence, work: Work) {
        let interrupt = CancellationToken::new();
        self.interrupts.insert(fence, interrupt.clone());
        let child = Child { shared: self.shared.clone(), mailbox: self.mailbox.clone(), fence, interrupt };
        match work {
            Work::Attempt { item, task } => {
                let span = span_of(&item, fence);
                self.children.spawn(attempt::run(child, *item, *task).instrument(span))
            }
            Work::Reattach { item, task } => {
                let span = span_of(&item, fence);
                self.children.spawn(attempt::reattach(child, *item, *task).instrument(span))
            }
            Work::Verify { item, task } => {
                let span = span_of(&item, fence);
                self.children.spawn(verify::run(child, *item, *task).instrument(span))
            }
            Work::Operator { profile, headless, adopt } => {
                self.children.spawn(operator::run(child, profile, headless, adopt))
            }
            Work::Lend { profile, headless, vanishes } => {
                let door = self.doors.add(fence);
                self.children.spawn(session::run(child, profile, headless, vanishes, door))
            }
        };
    }
}

/// Whatever is logged on an item's behalf says whose it is, the replay's own lines too.
fn span_of(item: &Item, fence: Fence) -> Span {
    let (task, item, profile, attempt) = (item.task, item.id, &item.profile, item.attempts);
    tracing::info_span!("attempt", %task, %item, attempt, %profile, %fence)
}

/// Who asked may have gone away.
fn answer(reply: Option<oneshot::Sender<bool>>, value: bool) {
    if let Some(reply) = reply {
        let _gone = reply.send(value);
    }
}

/// What a child of the loop has at hand.
pub(super) struct Child {
    pub shared: Arc<Shared>,
    pub mailbox: mpsc::Sender<Message>,
    pub fence: Fence,
    /// Heard between and within steps before the commit point; not after it.
    pub interrupt: CancellationToken,
}

impl Child {
    pub async fn tell(&self, event: Event) {
        // Without the loop nobody is left to listen: the daemon ends, and recovery finds the rest.
        drop(self.mailbox.send(Message::Event(event)).await);
    }

    /// Asks for the click. Returns when `armed` is durable, or why it may not be.
    pub async fn arm(&self, proofs: Proofs) -> Result<(), Failure> {
        let gone = || Failure::new(FailureCode::DaemonStopped, "the daemon stops");
        let (reply, answer) = oneshot::channel();
        self.mailbox.send(Message::Arm { fence: self.fence, proofs, reply }).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }
}

impl Shared {
    /// What a start would meet at its breakers now.
    fn passage(&self) -> Passage {
        self.breakers.passage(&START_BREAKERS, self.clock.now())
    }
}

/// Stops a browser until it is verified dead: the lock is not freed before, and meanwhile it is shown.
async fn close(shared: Arc<Shared>, mailbox: mpsc::Sender<Message>, fence: Fence, profile: ProfileId) {
    let mut wait = CLOSE_FIRST_WAIT;
    while let Err(failure) = shared.provider.stop(&profile).await {
        if failure.code == FailureCode::ProfileInUse {
            // What runs there is somebody else's: nothing of ours is left.
            tracing::info!(%profile, %failure, "nothing to stop");
            break;
        }
        drop(mailbox.send(Message::Event(Event::NotClosed { fence, failure: failure.clone() })).await);
        if failure.code == FailureCode::BreakerOpen {
            // Nothing was asked. Others may close the breaker before its time, and to look costs nothing.
            let rest = shared.passage().shut_until().map(|until| until.since(shared.clock.now()));
            tokio::time::sleep(rest.unwrap_or_default().clamp(CLOSE_FIRST_WAIT, CLOSE_LONGEST_WAIT)).await;
            continue;
        }
        tracing::warn!(%profile, %failure, wait_ms = wait.as_millis(), "the browser could not be stopped: trying again");
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(CLOSE_LONGEST_WAIT);
    }
    drop(mailbox.send(Message::Event(Event::Closed { fence })).await);
}

/// Its attempt, or whoever it is lent to, finds it lost. What does not end now is ended when that has ended.
async fn end_browser(shared: Arc<Shared>, fence: Fence, profile: ProfileId) {
    tracing::warn!(%profile, %fence, "a browser that takes too much memory is ended behind its commit point");
    if let Err(failure) = shared.provider.stop(&profile).await {
        tracing::warn!(%profile, %fence, %failure, "the browser that takes too much memory could not be ended");
    }
}

/// Says once that something begins to be held back, or ends to be.
fn tell_shortage(before: &mut Option<Scarce>, now: Option<&Shortage>) {
    let of = now.map(|shortage| shortage.of);
    if std::mem::replace(before, of) == of {
        return;
    }
    match now {
        Some(Shortage { of, why }) => tracing::info!(reason = of.reason().name(), "no session is started: {why}"),
        None => tracing::info!("there is room for sessions again"),
    }
}

async fn finish(store: &Store, end: AttemptEnded, moment: Moment) -> Result<Event, StoreError> {
    let (item, fence, state) = (end.item, end.fence, end.verdict.state());
    let refused = match store.finish(end, moment.wall).await? {
        Ok(finished) => {
            tracing::info!(%item, task = %finished.task, %fence, %state, "attempt ended");
            false
        }
        Err(refused) => {
            tracing::error!(%item, %fence, %refused, "the end of an attempt was not taken");
            true
        }
    };
    Ok(Event::EndStored { fence, refused })
}

/// Carries one commit to the store and its answer back. Public for the simulation, which turns the same
/// state machine over the same store without a clock and without browsers.
pub async fn carry(store: &Store, commit: Commit, moment: Moment) -> Result<Event, StoreError> {
    let now = moment.wall;
    Ok(match commit {
        Commit::Promote => Event::Promoted { more: store.promote(now).await? },
        Commit::MarkClock(mark) => {
            store.mark_clock(mark).await?;
            Event::ClockMarked
        }
        Commit::TrustClock => Event::ClockTrusted { more: store.trust_clock(moment).await? },
        Commit::CatchUp { per_hour } => Event::CaughtUp { more: store.catch_up(per_hour, now).await? },
        Commit::Claim { item } => match store.claim(item, moment).await? {
            Ok(claim) => Event::Claimed(Box::new(claim)),
            Err(refused) => {
                tracing::debug!(%item, %refused, "not claimed");
                Event::NotClaimed
            }
        },
        Commit::Arm { item, fence, proofs } => {
            Event::ArmAnswered { fence, answer: store.arm(item, fence, proofs, moment).await? }
        }
        Commit::Finish(end) => finish(store, end, moment).await?,
        Commit::BeginVerify { item } => match store.begin_verify(item, moment).await? {
            Ok(begun) => Event::VerifyBegun(Box::new(begun)),
            Err(refused) => {
                tracing::debug!(%item, %refused, "not verified");
                Event::NotClaimed
            }
        },
        Commit::FinishVerify(end) => {
            let (item, fence) = (end.item, end.fence);
            match store.finish_verify(end, now).await? {
                Ok(state) => tracing::info!(%item, %fence, %state, "verified"),
                Err(refused) => tracing::info!(%item, %fence, %refused, "resolved meanwhile"),
            }
            Event::VerifyStored { fence }
        }
        Commit::ExpireClaims => Event::ClaimsExpired(store.expire_claims(moment).await?),
        Commit::Release { profile, fence } => released(fence, store.release(profile, fence).await?),
        Commit::ReleaseSession(name) => released(name.fence, store.release_session(name, moment).await?),
        Commit::Lend { ticket, asked } => {
            Event::Lent { ticket, answer: session::lend(store, &asked, moment).await?, asked }
        }
        Commit::Settle { task } => Event::Settled { task, settled: store.settle(task, now).await? },
        Commit::LockForOperator { profile, headless, token } => {
            let fence = store.lock_for_operator(profile.clone(), moment).await?.ok();
            Event::OperatorLocked { fence, profile, headless, token }
        }
    })
}

fn released(fence: Fence, held: bool) -> Event {
    if !held {
        tracing::warn!(%fence, "the lock was not held any more");
    }
    Event::Released { fence }
}
