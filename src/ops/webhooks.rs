//! The sender of webhooks: one loop that takes what is due from the outbox and posts it.
//!
//! The daemon runs [`run`]; the store's bell and the clock wake it. One delivery a target at a time, at
//! most [`AT_A_TIME`] in all, each target in its turn. A target that keeps failing is left alone by its
//! breaker, one that asks for time gets it; what waits for it then spends no try. At least once: a delivery
//! is only written off after the receiver has answered, so that a crash in between sends it again, under
//! the same id. How one is posted, signed and judged is in the files beside this one.

mod post;
mod signature;
mod verdict;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::OnceCell;
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::breaker::WEBHOOK;
use crate::breaker::board::Board;
use crate::model::{Clock, Delivery, Timestamp, Tried, Webhook};
use crate::store::{DueDelivery, DueLook, Store, StoreError, TryEnd};
use post::Reply;
use verdict::{Health, Verdict};

/// Deliveries under way.
const AT_A_TIME: usize = 8;
/// The loop looks at least this often: the wall clock may be set.
const HEARTBEAT: Duration = Duration::from_secs(60);
/// Between two prunings of the log, when there is no more to take away.
const PRUNE_EVERY: Duration = Duration::from_secs(60 * 60);
/// Targets that rest at a time.
const MAX_RESTING: usize = 1_024;
/// How long a target rests whose delivery met a defect here.
const REST_AFTER_DEFECT: Duration = Duration::from_secs(5 * 60);

/// The name of a target's breaker.
#[must_use]
pub fn breaker_name(target: &str) -> String {
    format!("{WEBHOOK} {target}")
}

fn target_of(breaker: &str) -> Option<&str> {
    breaker.strip_prefix(WEBHOOK)?.strip_prefix(' ')
}

pub struct Sender {
    store: Store,
    clock: Arc<dyn Clock>,
    breakers: Board,
    /// Made when it is first needed: a daemon without webhooks reads no root certificates.
    http: OnceCell<reqwest::Client>,
}

impl Sender {
    #[must_use]
    pub fn new(store: Store, clock: Arc<dyn Clock>, breakers: Board) -> Self {
        Self { store, clock, breakers, http: OnceCell::new() }
    }

    async fn post(&self, webhook: &Webhook, delivery: &Delivery) -> Reply {
        let made = self.http.get_or_try_init(async || {
            let making = tokio::task::spawn_blocking(post::client).await;
            making.map_err(|error| error.to_string())?.map_err(|error| error.to_string())
        });
        match made.await {
            Ok(http) => post::post(http, webhook, delivery, self.clock.now()).await,
            Err(why) => Reply::None(format!("no HTTP client can be made: {why}")),
        }
    }
}

struct Round {
    sender: Arc<Sender>,
    children: JoinSet<Result<Done, StoreError>>,
    /// The targets that have a delivery under way.
    busy: HashMap<Id, String>,
    /// Targets that are left alone for a while.
    resting: BTreeMap<String, Timestamp>,
    /// The target that had its turn last.
    last: Option<String>,
    prune_at: Timestamp,
}

/// What a child says at its end.
struct Done {
    rest_until: Option<Timestamp>,
}

/// Delivers until `stop`, then ends at once: what is under way is sent again after the next start.
///
/// # Errors
/// When the store fails.
pub async fn run(sender: Sender, stop: CancellationToken) -> Result<(), StoreError> {
    let mut round = Round {
        sender: Arc::new(sender),
        children: JoinSet::new(),
        busy: HashMap::new(),
        resting: BTreeMap::new(),
        last: None,
        prune_at: Timestamp::ZERO,
    };
    let sender = round.sender.clone();
    let turning = async {
        loop {
            let now = sender.clock.now();
            round.prune(now).await?;
            let wake_at = round.start(now).await?;
            let wait = wake_at.map_or(HEARTBEAT, |at| at.since(now).min(HEARTBEAT));
            tokio::select! {
                () = sender.store.outbox_changed() => {}
                Some(ended) = round.children.join_next_with_id() => round.ended(ended)?,
                () = sleep(wait) => {}
            }
        }
    };
    tokio::select! {
        () = stop.cancelled() => Ok(()),
        ended = turning => ended,
    }
}

impl Round {
    /// Starts what is due and has room. When there is more to start, unless something rings or ends before.
    async fn start(&mut self, now: Timestamp) -> Result<Option<Timestamp>, StoreError> {
        let limit = AT_A_TIME - self.children.len();
        if limit == 0 {
            return Ok(None);
        }
        self.resting.retain(|_, until| now < *until);
        let open = self.sender.breakers.open(now);
        let open = open.iter().filter_map(|(name, until)| Some((target_of(name)?, *until)));
        let blocked = self.resting.iter().map(|(target, until)| (target.as_str(), *until)).chain(open);
        let mut wake_at: Option<Timestamp> = None;
        let mut wake = |at: Timestamp| wake_at = Some(wake_at.map_or(at, |before| before.min(at)));
        let mut look = DueLook { now, after: self.last.clone(), limit, ..DueLook::default() };
        look.skip.extend(self.busy.values().cloned());
        for (target, until) in blocked {
            wake(until);
            look.skip.insert(target.to_owned());
        }
        let found = self.sender.store.due_deliveries(look).await?;
        found.next_at.map(&mut wake);
        for due in found.heads {
            let target = due.delivery.target.clone();
            match self.sender.breakers.admit(&breaker_name(&target), now) {
                Ok(()) => {
                    let child = self.children.spawn(deliver(self.sender.clone(), due));
                    self.busy.insert(child.id(), target.clone());
                    self.last = Some(target);
                }
                Err(until) => wake(until),
            }
        }
        Ok(wake_at)
    }

    fn ended(&mut self, ended: Result<(Id, Result<Done, StoreError>), JoinError>) -> Result<(), StoreError> {
        let id = ended.as_ref().map_or_else(JoinError::id, |(id, _)| *id);
        let target = self.busy.remove(&id).expect("every child is entered when it is spawned");
        match ended {
            Ok((_, done)) => {
                // Beyond the bound the one delivery waits all the same.
                if let Some(until) = done?.rest_until.filter(|_| self.resting.len() < MAX_RESTING) {
                    self.resting.insert(target, until);
                }
            }
            Err(error) => {
                tracing::error!(target, %error, "a delivery ended by a defect; its target rests");
                let now = self.sender.clock.now();
                self.sender.breakers.failed(&breaker_name(&target), now, "a defect of cove: see the daemon's log");
                self.resting.insert(target, now.plus(REST_AFTER_DEFECT));
            }
        }
        Ok(())
    }

    /// One small step of the pruning, when it is time.
    async fn prune(&mut self, now: Timestamp) -> Result<(), StoreError> {
        if now >= self.prune_at && !self.sender.store.prune_deliveries(now).await? {
            self.prune_at = now.plus(PRUNE_EVERY);
        }
        Ok(())
    }
}

/// One try, from the request to the record of it.
async fn deliver(sender: Arc<Sender>, due: DueDelivery) -> Result<Done, StoreError> {
    let DueDelivery { delivery, webhook } = due;
    let Some(webhook) = webhook else {
        let now = sender.clock.now();
        sender.breakers.withdrawn(&breaker_name(&delivery.target), now);
        let tried = Tried::new(now, 0, None, Some("its task is gone".to_owned()));
        sender.store.record_delivery(delivery.id, delivery.attempts, tried, TryEnd::GivenUp).await?;
        return Ok(Done { rest_until: None });
    };
    let began = Instant::now();
    let reply = sender.post(&webhook, &delivery).await;
    let took_ms = u32::try_from(began.elapsed().as_millis()).unwrap_or(u32::MAX);
    let now = sender.clock.now();
    let Verdict { end, error, health, rest_until } = verdict::judge(&reply, &delivery, now, fastrand::f64());
    let breaker = breaker_name(&delivery.target);
    match health {
        Health::Works => sender.breakers.succeeded(&breaker, now),
        Health::Fails => sender.breakers.failed(&breaker, now, error.as_deref().unwrap_or_default()),
    }
    let (id, task, event, target) = (delivery.id, delivery.task, delivery.event, delivery.target.as_str());
    let attempt = delivery.attempts + 1;
    match (&error, end) {
        (None, _) => tracing::debug!(%id, %task, %event, target, attempt, took_ms, "webhook delivered"),
        (Some(error), TryEnd::GivenUp) => {
            tracing::warn!(%id, %task, %event, target, attempt, error, "webhook given up");
        }
        (Some(error), _) => tracing::info!(%id, %task, %event, target, attempt, error, "webhook not delivered"),
    }
    let tried = Tried::new(now, took_ms, reply.status(), error);
    if !sender.store.record_delivery(id, delivery.attempts, tried, end).await? {
        tracing::debug!(%id, "the delivery was moved on by somebody else");
    }
    Ok(Done { rest_until })
}
