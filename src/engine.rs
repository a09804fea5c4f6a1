//! The engine decides: what runs now, what is tried again, what an end means.
//!
//! SKELETON: what the API sees of it.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::{Notify, watch};

use crate::model::{Intent, Item, ItemId, ProfileId, Timestamp, WaitReason};

/// What the engine shows of itself; replaced as a whole whenever it changes.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// Recovery is done and the loop runs.
    pub ready: bool,
    pub draining: bool,
    pub slots: u32,
    pub busy: u32,
    /// Profiles with a running attempt.
    pub running: BTreeMap<ProfileId, ItemId>,
    /// Profiles that a person looks at, with where.
    pub operators: BTreeMap<ProfileId, OperatorView>,
    /// Why the provider cannot start anything now, if so.
    pub provider_down: Option<String>,
    /// Last time that the loop made progress.
    pub turned_at: Timestamp,
}

/// A profile opened for a person (`cove profiles open`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OperatorView {
    /// Where its DevTools port is (never shown; the API proxies it). None: still starting.
    pub session: Option<crate::browser::Session>,
    /// Secret part of the DevTools link's path.
    pub token: String,
    /// Why it could not be opened.
    pub error: Option<String>,
}

/// How the API reaches the engine. The bell carries no data: what to do is read from the store.
#[derive(Clone)]
pub struct EngineHandle {
    bell: Arc<Notify>,
    view: watch::Receiver<Arc<View>>,
}

impl EngineHandle {
    pub fn ring(&self) {
        self.bell.notify_one();
    }

    #[must_use]
    pub fn view(&self) -> Arc<View> {
        self.view.borrow().clone()
    }

    /// Opens a profile for a person: takes its lock, starts its browser. Progress is in the view.
    /// False: the profile is busy.
    pub async fn open_profile(&self, _profile: ProfileId, _headless: bool) -> bool {
        unimplemented!("engine room")
    }

    /// Closes what `open_profile` opened. False: it was not open.
    pub async fn close_profile(&self, _profile: ProfileId) -> bool {
        unimplemented!("engine room")
    }
}

/// Why an item waits, and until when where there is a time. None: it runs or is terminal.
#[must_use]
pub fn why_waiting(
    _item: &Item,
    _intent: &Intent,
    _parked: bool,
    _view: &View,
    _now: Timestamp,
) -> Option<(WaitReason, Option<Timestamp>)> {
    unimplemented!("engine room")
}
