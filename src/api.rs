//! The HTTP surface; the only place of the daemon that knows hyper.
//!
//! The daemon makes one [`Context`] and runs [`serve`]. Handlers parse, look up and write intent; they
//! read progress and the engine's view, and never wait for a browser (the one exception: the WebSocket upgrade
//! of a lent session, which waits for its browser to be up). Invariants: a request passes the
//! guards before anything looks at it (`front`), every route stands in one table (`routes`), every error
//! in another (`error`), and every body, page, cache and wait has a bound.
//!
//! Deliberately not here: nothing here decides what runs.

mod admin;
mod body;
mod cache;
mod carried;
mod claims;
mod connection;
mod devtools;
pub mod error;
mod events;
mod evidence;
mod flows;
mod form;
mod front;
mod guard;
mod health;
mod intents;
mod json;
mod keyring;
pub mod limit;
mod locks;
mod maintenance;
mod metrics;
pub mod openapi;
mod page;
pub mod peer;
mod places;
mod profiles;
mod query;
pub mod readers;
mod relay;
pub mod routes;
mod server;
mod sessions;
mod snapshots;
mod start;
mod tasks;
pub mod tokens;
mod tunnels;
mod uploads;
mod upstream;
mod usage;
pub mod waiting;
mod waits;
mod webhooks;
mod wire;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use hyper::header::{self, HeaderValue};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::breaker::board::Board;
use crate::browser::Provider;
use crate::config::Config;
use crate::engine::{EngineHandle, MAX_VISITS};
use crate::model::flow::{Flow, Problem};
use crate::model::{Clock, Token, TokenHash};
use crate::ops::backup::Backups;
use crate::ops::maintenance::Maintenance;
use crate::ops::roster::RosterHandle;
use crate::store::Store;
use crate::store::media::MediaStore;
use cache::Cache;
use error::{ApiError, Code};
use events::Listeners;
use keyring::Keyring;
use limit::Limiter;
use places::Places;
use sessions::Lenders;
pub use snapshots::snapshot_json;
use tunnels::Tunnels;
use usage::Usage;

const DISK_RETRY_AFTER_SECONDS: &str = "30";
/// Parsed flows kept, by content hash: they say which inputs are secret.
const CACHED_FLOWS: usize = 64;
/// Of a request, from where on it is worked on where it holds up nobody else.
const LONG_BYTES: usize = 64 * 1024;

/// What the handlers share.
pub struct Context {
    pub config: Arc<Config>,
    pub state_dir: PathBuf,
    pub store: Store,
    pub engine: EngineHandle,
    pub provider: Arc<dyn Provider>,
    pub breakers: Board,
    pub clock: Arc<dyn Clock>,
    pub media: MediaStore,
    roster: RosterHandle,
    /// None where no daemon stands behind this: tests of handlers.
    backups: Option<Backups>,
    /// None as above.
    maintenance: Option<Maintenance>,
    keyring: Arc<Keyring>,
    lenders: Lenders,
    flows: Cache<String, Arc<Flow>>,
    usage: Usage,
    tunnels: Tunnels,
    session_tunnels: Tunnels,
    listeners: Listeners,
    places: Places,
    limits: Limiter,
    /// Who submits takes one of these while it looks things up, so that a crowd of submits keeps no read waiting.
    submits: Semaphore,
    started: Instant,
}

impl Context {
    /// Makes the media folder ready as well. Blocking: for the start.
    ///
    /// # Errors
    /// When the media folder cannot be made or read.
    pub fn new(
        config: Arc<Config>,
        state_dir: PathBuf,
        store: Store,
        engine: EngineHandle,
        provider: Arc<dyn Provider>,
        breakers: Board,
        clock: Arc<dyn Clock>,
    ) -> io::Result<Self> {
        let media = MediaStore::new(&state_dir, config.media.roots.clone(), config.media.max_bytes)?
            .keeping_free(crate::ops::disk::least_free_bytes(config.resources.disk_reserve_mb));
        let (flows, usage, started) = (Cache::new(CACHED_FLOWS), Usage::default(), Instant::now());
        let tunnels = Tunnels::new(devtools::MAX_TUNNELS);
        let of_sessions = config.engine.sessions.saturating_mul(MAX_VISITS);
        let session_tunnels = Tunnels::new(usize::try_from(of_sessions).unwrap_or(usize::MAX));
        let places = Places::new(config.server.max_connections);
        let listeners = Listeners::default();
        let limits = Limiter::new(config.limits.clone());
        let (roster, submits) = (RosterHandle::default(), Semaphore::new(start::AT_A_TIME));
        Ok(Self {
            config,
            state_dir,
            store,
            engine,
            provider,
            breakers,
            clock,
            media,
            roster,
            backups: None,
            maintenance: None,
            keyring: Arc::default(),
            lenders: Lenders::default(),
            flows,
            usage,
            tunnels,
            session_tunnels,
            listeners,
            places,
            limits,
            submits,
            started,
        })
    }

    /// Rings this one for profiles that nobody knows.
    #[must_use]
    pub fn with_roster(mut self, roster: RosterHandle) -> Self {
        self.roster = roster;
        self
    }

    /// Makes snapshots through these.
    #[must_use]
    pub fn with_backups(mut self, backups: Backups) -> Self {
        self.backups = Some(backups);
        self
    }

    /// Shows these jobs, and runs them by hand.
    #[must_use]
    pub fn with_maintenance(mut self, maintenance: Maintenance) -> Self {
        self.maintenance = Some(maintenance);
        self
    }

    fn maintenance(&self) -> Result<&Maintenance, ApiError> {
        self.maintenance.as_ref().ok_or_else(|| ApiError::new(Code::NotReady, "The maintenance is not ready."))
    }

    fn backups(&self) -> Result<&Backups, ApiError> {
        self.backups.as_ref().ok_or_else(|| ApiError::new(Code::NotReady, "Snapshots are not ready."))
    }

    /// The rate limits, to be set anew.
    #[must_use]
    pub fn limits(&self) -> Limiter {
        self.limits.clone()
    }

    /// Knows these tokens.
    #[must_use]
    pub fn with_tokens(mut self, tokens: Vec<(TokenHash, Token)>) -> Self {
        self.keyring = Arc::new(Keyring::new(tokens));
        self
    }

    /// 507 while the disk is short of space: for whatever stores more or starts something. What ends, frees
    /// or stops something goes on.
    fn needs_disk(&self) -> Result<(), ApiError> {
        let Some(why) = self.engine.view().no_disk.clone() else { return Ok(()) };
        let soon = HeaderValue::from_static(DISK_RETRY_AFTER_SECONDS);
        Err(ApiError::new(Code::NoDisk, why).with_header(header::RETRY_AFTER, soon))
    }

    /// A flow by its content; parsed once as long as it is remembered.
    async fn parse_flow(&self, hash: &str, json: Vec<u8>) -> Result<Result<Arc<Flow>, Vec<Problem>>, ApiError> {
        if let Some(flow) = self.flows.get(hash) {
            return Ok(Ok(flow));
        }
        let parsed = off_runtime(move || Flow::parse(&json)).await?;
        Ok(parsed.map(|(flow, _)| {
            let flow = Arc::new(flow);
            self.flows.insert(hash.to_owned(), Arc::clone(&flow));
            flow
        }))
    }

    /// The flow that a task pinned; None where it is gone or no longer parses.
    async fn pinned_flow(&self, hash: &str) -> Result<Option<Arc<Flow>>, ApiError> {
        if let Some(flow) = self.flows.get(hash) {
            return Ok(Some(flow));
        }
        let Some(json) = self.store.flow_by_hash(hash.to_owned()).await? else { return Ok(None) };
        Ok(self.parse_flow(hash, json).await?.ok())
    }
}

/// Work that takes the processor longer than a runtime thread should be held.
async fn off_runtime<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, ApiError> {
    tokio::task::spawn_blocking(work).await.map_err(|error| ApiError::internal(Code::Internal, error))
}

/// Work on so many bytes of a request: on the spot where they are few, for a change of threads takes longer.
async fn sized<T: Send + 'static>(bytes: usize, work: impl FnOnce() -> T + Send + 'static) -> Result<T, ApiError> {
    if bytes < LONG_BYTES { Ok(work()) } else { off_runtime(work).await }
}

/// Serves until `stop`, then closes every connection gracefully within ten seconds.
pub async fn serve(context: Arc<Context>, tcp: TcpListener, unix: Option<UnixListener>, stop: CancellationToken) {
    let address = tcp.local_addr().unwrap_or(context.config.server.listen);
    let max_connections = usize::try_from(context.config.server.max_connections).unwrap_or(usize::MAX);
    let front = Arc::new(front::Front::new(Arc::clone(&context), address));
    let close_tunnels = async {
        stop.cancelled().await;
        context.listeners.close();
        tokio::join!(context.tunnels.close(), context.session_tunnels.close());
    };
    let bounds = server::Bounds { max_connections, proxies: context.config.trusted_networks() };
    let serving = server::run(front, tcp, unix, bounds, stop.clone());
    tokio::join!(serving, close_tunnels, keyring::note_uses(&context, &stop));
}
