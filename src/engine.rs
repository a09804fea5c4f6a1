//! The engine decides: what runs now, what is tried again, what an end means.
//!
//! One task owns all scheduling state ([`state::State`], pure) and turns one loop (`turn.rs`); attempts are
//! its children and speak to it through one bounded mailbox. The API reaches it by a bell that carries no
//! data, and reads a view that is replaced as a whole. It knows nothing about HTTP.

pub mod admission;
mod attach;
mod attempt;
mod clock;
pub mod event;
mod operator;
pub mod pressure;
mod session;
pub mod state;
mod turn;
mod verify;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, mpsc, oneshot, watch};

use crate::breaker::board::Board;
use crate::breaker::{CDP_ATTACH, DOLPHIN, Passage};
use crate::browser::{Provider, Session};
use crate::model::{Clock, Failure, FailureCode, Fence, ItemId, ProfileId, Proofs, Timestamp};
use crate::store::media::MediaStore;
use crate::store::{ClaimName, Pause, Store};
pub use admission::{
    ProfileFacts, after_failure, effect, effect_after_commit, more_of_waiting, why_ready_waits, why_waiting,
};
use event::Event;
use pressure::{Bounds, Machine, Pressure, Shortage};
use session::Doors;
pub use session::{Borrower, Door, LendAsked, LendRefused, Lent, MAX_VISITS, VANISHED_AFTER, Visit};
pub use state::Limits;
pub use turn::{EngineError, carry, run};

/// Messages that wait for the loop; whoever sends one more waits for room.
const MAILBOX: usize = 256;
/// The breakers that a start goes through.
pub const START_BREAKERS: [&str; 2] = [CDP_ATTACH, DOLPHIN];
/// How long a person's question (`open`, `close`) waits for the loop.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// What the engine shows of itself; replaced as a whole whenever the loop has turned.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// Recovery is done and the loop runs.
    pub ready: bool,
    pub draining: bool,
    pub pause: Option<Pause>,
    pub slots: u32,
    /// Slots taken.
    pub busy: u32,
    /// Profiles that cove runs, with the item; None: a browser from before a restart is being stopped.
    pub running: BTreeMap<ProfileId, Option<ItemId>>,
    /// The wall clock jumped: what comes due by it is held.
    pub clock_suspect: bool,
    /// Profiles that a person looks at through cove.
    pub operators: BTreeMap<ProfileId, OperatorView>,
    /// Browsers that programs use through cove, by the fence of their lock.
    pub sessions: BTreeMap<Fence, SessionView>,
    /// Profiles that a person uses outside cove, and when cove looks again.
    pub in_use: BTreeMap<ProfileId, Timestamp>,
    /// Why a profile could not be opened for a person the last time.
    pub open_errors: BTreeMap<ProfileId, String>,
    /// Why a browser that has to be closed lives on: its profile is busy until it is gone.
    pub close_errors: BTreeMap<ProfileId, String>,
    /// Why nothing new is started or accepted for want of disk space, if so.
    pub no_disk: Option<String>,
    pub strain: StrainView,
    /// Why the provider cannot start anything now, if so.
    pub provider_down: Option<String>,
    /// When it is tried again.
    pub provider_until: Option<Timestamp>,
    /// Profiles whose start it refused for good.
    pub refused: BTreeMap<ProfileId, RefusedView>,
    /// What a start would meet at [`START_BREAKERS`].
    pub breakers: Passage,
    /// When the loop turned last; it turns every [`HEARTBEAT`] at least.
    pub turned_at: Timestamp,
}

impl View {
    /// In one word.
    #[must_use]
    pub const fn state(&self) -> &'static str {
        match &self.pause {
            _ if self.draining => "draining",
            _ if !self.ready => "starting",
            Some(Pause::Operator { .. }) => "paused",
            Some(Pause::Restored { .. } | Pause::LedgerDamaged { .. }) => "restored",
            None => "running",
        }
    }
}

/// Why the provider does not start a profile, and when it is asked again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusedView {
    pub why: String,
    pub until: Timestamp,
}

/// What the machine and the sessions were last seen to use, and what is held back for it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StrainView {
    /// Why no session is started now, if so.
    pub shortage: Option<Shortage>,
    pub bounds: Bounds,
    pub machine: Machine,
    /// All that were measured.
    pub sessions_bytes: u64,
    /// The most that one took since the daemon started.
    pub peak_bytes: u64,
}

/// The loop turns at least this often, so that a stuck one can be seen.
pub const HEARTBEAT: Duration = Duration::from_secs(5);

/// A profile opened for a person (`cove profiles open`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OperatorView {
    /// Its browser. None: still starting.
    pub session: Option<Session>,
    /// Secret part of the DevTools link's path; empty: no link.
    pub token: String,
}

/// A lent browser. Who has it, and until when, stands in the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionView {
    pub profile: ProfileId,
    /// The item of the worker whose claim it belongs to.
    pub item: Option<ItemId>,
    pub state: SessionState,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionState {
    Starting,
    Ready,
    Stopping,
}

impl SessionState {
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::Stopping => "stopping",
        }
    }
}

/// What the attempts and the loop share.
pub struct Shared {
    pub store: Store,
    pub provider: Arc<dyn Provider>,
    pub breakers: Board,
    pub media: MediaStore,
    pub clock: Arc<dyn Clock>,
    pub state_dir: PathBuf,
    pub headless: bool,
    /// Evidence of one attempt, in bytes.
    pub evidence_max_bytes: u64,
    pub limits: Limits,
    /// The disk guard's word: why nothing new may be started.
    pub no_disk: watch::Receiver<Option<String>>,
    /// What the watch over the machine measured last.
    pub pressure: watch::Receiver<Pressure>,
}

/// Into the loop's mailbox.
enum Message {
    Event(Event),
    /// An attempt stands before its commit point.
    Arm {
        fence: Fence,
        proofs: Proofs,
        reply: oneshot::Sender<Result<(), Failure>>,
    },
    Open {
        profile: ProfileId,
        headless: bool,
        reply: oneshot::Sender<bool>,
    },
    Close {
        profile: ProfileId,
        reply: oneshot::Sender<bool>,
    },
    Resolved {
        item: ItemId,
    },
    /// An outside worker stands before its click.
    ArmClaim {
        name: ClaimName,
        proofs: Proofs,
        reply: oneshot::Sender<Result<(), Failure>>,
    },
    Lend {
        asked: LendAsked,
        reply: oneshot::Sender<Result<LentBrowser, LendRefused>>,
    },
}

/// What was given, and the way into it.
pub struct LentBrowser {
    pub lent: Lent,
    pub door: Arc<Door>,
}

/// How the other rooms reach the engine.
#[derive(Clone)]
pub struct EngineHandle {
    bell: Arc<Notify>,
    view: watch::Receiver<Arc<View>>,
    mailbox: mpsc::Sender<Message>,
    doors: Doors,
}

/// The loop's side of an [`EngineHandle`].
pub struct Engine {
    bell: Arc<Notify>,
    view: watch::Sender<Arc<View>>,
    inbox: mpsc::Receiver<Message>,
    mailbox: mpsc::Sender<Message>,
    doors: Doors,
}

/// A handle and the loop that it reaches, not running yet.
#[must_use]
pub fn pair() -> (EngineHandle, Engine) {
    let bell = Arc::new(Notify::new());
    let (view_out, view) = watch::channel(Arc::new(View::default()));
    let (mailbox, inbox) = mpsc::channel(MAILBOX);
    let doors = Doors::default();
    let handle = EngineHandle { bell: bell.clone(), view, mailbox: mailbox.clone(), doors: doors.clone() };
    (handle, Engine { bell, view: view_out, inbox, mailbox, doors })
}

impl EngineHandle {
    /// Something in the store changed. Carries no data: what to do is read from the store.
    pub fn ring(&self) {
        self.bell.notify_one();
    }

    #[must_use]
    pub fn view(&self) -> Arc<View> {
        self.view.borrow().clone()
    }

    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.view.borrow().draining
    }

    /// Changes whenever the loop has turned, so also whenever something new may be there to do.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<Arc<View>> {
        let mut changes = self.view.clone();
        changes.mark_unchanged();
        changes
    }

    /// Waits until recovery is done and the loop runs.
    pub async fn ready(&self) {
        let mut view = self.view.clone();
        // An error means that the loop is gone; whoever runs it reports why.
        drop(view.wait_for(|view| view.ready).await);
    }

    /// Opens a profile for a person: takes its lock, starts its browser. Progress is in the view.
    /// False: the profile is busy, or the daemon stops.
    pub async fn open_profile(&self, profile: ProfileId, headless: bool) -> bool {
        self.ask(|reply| Message::Open { profile, headless, reply }).await
    }

    /// Closes what `open_profile` opened. False: it was not open.
    pub async fn close_profile(&self, profile: ProfileId) -> bool {
        self.ask(|reply| Message::Close { profile, reply }).await
    }

    /// Lends a browser: takes the profile's lock (of a worker with its item) and starts it. Whoever gives up
    /// waiting for the answer has lent nothing.
    ///
    /// # Errors
    /// Why not.
    pub async fn lend(&self, asked: LendAsked) -> Result<LentBrowser, LendRefused> {
        let (reply, answer) = oneshot::channel();
        let lent = async {
            self.mailbox.send(Message::Lend { asked, reply }).await.ok()?;
            answer.await.ok()
        };
        tokio::time::timeout(ANSWER_WITHIN, lent).await.ok().flatten().unwrap_or(Err(LendRefused::NotReady))
    }

    /// The way into a lent browser, or to one that was until lately.
    #[must_use]
    pub fn door(&self, fence: Fence) -> Option<Arc<Door>> {
        self.doors.get(fence)
    }

    /// Asks for an outside worker's click. Returns when `armed` is durable, or why it may not be; without a
    /// deadline, since who gives up waiting does not know whether it was armed.
    ///
    /// # Errors
    /// Nothing was armed.
    pub async fn arm_claim(&self, name: ClaimName, proofs: Proofs) -> Result<(), Failure> {
        let gone = || Failure::new(FailureCode::DaemonStopped, "the daemon stops");
        let (reply, answer) = oneshot::channel();
        self.mailbox.send(Message::ArmClaim { name, proofs, reply }).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }

    /// A person resolved the item: a verify that runs for it is stopped. Its profile stays locked until
    /// its browser is dead, so nothing of the item starts before (fence.md rule 14).
    pub async fn resolved(&self, item: ItemId) {
        // Without a loop nothing runs that could be stopped.
        drop(self.mailbox.send(Message::Resolved { item }).await);
    }

    /// Asks whatever runs under this fence to end before its commit point; its lock is freed when its browser
    /// is verified dead. An armed attempt does not listen, and an item goes back into the queue.
    pub async fn stop(&self, fence: Fence) {
        let asked = self.mailbox.send(Message::Event(Event::StopAsked { fence }));
        // A loop that is gone or stuck stops nothing; the next boot frees what nobody runs.
        drop(tokio::time::timeout(ANSWER_WITHIN, asked).await);
    }

    async fn ask(&self, message: impl FnOnce(oneshot::Sender<bool>) -> Message) -> bool {
        let (reply, answer) = oneshot::channel();
        let asked = async {
            self.mailbox.send(message(reply)).await.ok()?;
            answer.await.ok()
        };
        tokio::time::timeout(ANSWER_WITHIN, asked).await.ok().flatten().unwrap_or(false)
    }

    /// Begins the drain: nothing new starts, what is not armed is handed back, what is armed is waited for.
    pub async fn drain(&self) {
        // The loop may have ended already; then there is nothing to drain.
        drop(self.mailbox.send(Message::Event(Event::Drain)).await);
    }
}
