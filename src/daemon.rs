//! `cove serve`: composes the rooms, spawns the long-lived tasks, and drains them.
//!
//! The only place that spawns tasks which live as long as the process: the engine's loop, the sender of
//! webhooks, the disk guard, the watch over the machine and the API. The end of any of them ends the daemon; the maintenance, snapshots, the list of
//! the provider's profiles, the sampler and the announcer run beside them. The order of a stop: nothing new starts,
//! what is not armed is handed back, what is armed is waited for up to the drain limit, the sender ends at
//! once (what it did not deliver stays in the outbox), the API closes its connections, the browser host
//! ends, the last commits return. A second signal exits at once; the fence holds all the same, since
//! whatever is armed is armed on disk.

mod listen;
mod notify;
mod passed;
mod provider;
mod reload;
mod tokens;
mod wait;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::api::limit::Limiter;
use crate::api::{self, Context};
use crate::breaker::BreakerLimits;
use crate::breaker::board::Board;
use crate::browser::Provider;
use crate::config::{Config, ConfigError, Resources, Sources};
use crate::engine::{self, EngineError, EngineHandle, Limits, Shared};
use crate::model::{Clock, SystemClock, Token, TokenHash};
use crate::ops::announce::{self, Announcer};
use crate::ops::backup::{self, Backups};
use crate::ops::roster::{self, Roster, RosterHandle};
use crate::ops::sampler::{self, Sampler};
use crate::ops::webhooks;
use crate::ops::{disk, maintenance, resources};
use crate::store::ballast::is_full;
use crate::store::compaction::Compacted;
use crate::store::snapshot::SnapshotReason;
use crate::store::{BootReport, OpenError, Store, StoreError, WriterThread};
use listen::{ListenFile, Listeners};
pub use passed::Passed;
use reload::{Live, Reloader};

/// A configuration or a state file that a restart cannot mend (sysexits `EX_CONFIG`).
const EXIT_CONFIG: u8 = 78;
/// The disk failed (sysexits `EX_IOERR`).
const EXIT_DISK: u8 = 74;
const EXIT_FAILED: u8 = 1;
/// How long the API may take to close its connections.
const CLOSE_WITHIN: Duration = Duration::from_secs(12);

#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error("{}: {error}", path.display())]
    StateDir { path: PathBuf, error: std::io::Error },
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error(transparent)]
    Listen(#[from] listen::ListenError),
    #[error("the media folder: {0}")]
    Media(std::io::Error),
    #[error("the provider of browsers: {0}")]
    Provider(crate::model::Failure),
    #[error(transparent)]
    Config(ConfigError),
    #[error("this program's own path is unknown: {0}")]
    Executable(std::io::Error),
    #[error("signals cannot be received: {0}")]
    Signal(std::io::Error),
    #[error("the tokens cannot be read: {0}")]
    Tokens(StoreError),
    #[error("the engine ended: {0}")]
    Engine(#[from] EngineError),
    #[error("the sender of webhooks ended: {0}")]
    Webhooks(#[from] StoreError),
    #[error("{0} ended by a defect; the log has the place")]
    Panicked(&'static str),
}

impl ServeError {
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Open(
                OpenError::NewerSchema { .. }
                | OpenError::NotAStateFile { .. }
                | OpenError::Store(StoreError::Corrupt(_)),
            )
            | Self::Config(_) => EXIT_CONFIG,
            Self::Open(OpenError::Io { error, .. }) if error.kind() != std::io::ErrorKind::PermissionDenied => {
                EXIT_DISK
            }
            Self::Tokens(StoreError::Failed(_) | StoreError::Full(_))
            | Self::Open(OpenError::Store(StoreError::Failed(_) | StoreError::Full(_)))
            | Self::Engine(EngineError::Store(StoreError::Failed(_) | StoreError::Full(_) | StoreError::Corrupt(_))) => {
                EXIT_DISK
            }
            _ => EXIT_FAILED,
        }
    }

    /// For want of space: it passes when there is some.
    fn is_full(&self) -> bool {
        match self {
            Self::Open(error) => error.is_full(),
            Self::StateDir { error, .. } => is_full(error),
            _ => false,
        }
    }
}

/// Runs until SIGTERM or SIGINT. `sources` is where the settings came from, for SIGHUP; `passed`: sockets to serve on,
/// instead of those that the configuration names.
pub async fn serve(config: Config, sources: Sources, passed: Passed) -> Result<(), ServeError> {
    let config = Arc::new(config);
    let sockets_were_passed = passed.tcp.is_some() || passed.unix.is_some();
    let state_dir = config.state_dir();
    crate::browser::host::raise_open_files();
    let mut signals = Signals::new().map_err(ServeError::Signal)?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let ((store, writer, report), listeners) = match wait::open(&config, &state_dir, clock.as_ref()) {
        Ok(opened) => (opened, Listeners::open(passed, &config).await?),
        Err(error) if error.is_full() => {
            match wait::for_space(&config, passed, &state_dir, &clock, &mut signals, error).await? {
                Some(ready) => ready,
                None => return Ok(()),
            }
        }
        Err(error) => return Err(error),
    };
    log_boot(&state_dir, &report);
    // The state file is ours now, so an address that lies here is that of a daemon that was killed.
    listen::remove_old(&state_dir);
    let breakers = Board::new(breaker_limits(&config));
    let provider = provider::start(&config, &state_dir, &breakers, &clock)?;
    let known = tokens::load(&config, |name| std::env::var_os(name), &store, clock.now()).await?;
    let running = Running::start(&config, &state_dir, (store, known), provider, breakers, clock, listeners)?;
    // Whoever waits for the file finds a daemon that is ready; meanwhile a stop is heard.
    let mut listen_file = None;
    let stopping = tokio::select! {
        () = running.engine_handle.ready() => {
            if running.engine_handle.view().ready {
                listen_file = Some(ListenFile::write(&state_dir, running.address)?);
                println!("cove is ready: http://{}", running.address);
                notify::ready(running.address);
            }
            None
        }
        name = signals.next() => Some(name),
    };
    let live = Live { limits: running.limits.clone(), resources: running.resources.clone() };
    let mut reloader = Reloader::new(sources, config.as_ref().clone(), sockets_were_passed, live);
    let result = running.run(&config, &mut signals, &mut reloader, writer, stopping).await;
    if let Some(file) = listen_file {
        file.remove();
    }
    result
}

/// What lives as long as the daemon.
struct Running {
    address: std::net::SocketAddr,
    engine_handle: EngineHandle,
    engine: JoinHandle<Result<(), EngineError>>,
    webhooks: JoinHandle<Result<(), StoreError>>,
    stop_webhooks: CancellationToken,
    disk: JoinHandle<()>,
    /// Measures the machine and the sessions.
    watching: JoinHandle<()>,
    api: JoinHandle<()>,
    /// What keeps the house clean; nobody waits for it.
    keeping: JoinHandle<()>,
    /// Gives up what it is making when the API stops, and ends.
    backing_up: JoinHandle<()>,
    backups: Backups,
    limits: Limiter,
    /// What may be taken of the machine, for the watch; changed by SIGHUP.
    resources: tokio::sync::watch::Sender<Resources>,
    /// Ends by itself where profiles are made in cove.
    listing: JoinHandle<()>,
    /// Keeps the metrics' history; nobody waits for it.
    sampling: JoinHandle<()>,
    /// Tells the feed; nobody waits for it.
    announcing: JoinHandle<()>,
    /// Tells systemd that the daemon is alive; nobody waits for it.
    pulsing: JoinHandle<()>,
    stop_api: CancellationToken,
    provider: Arc<dyn Provider>,
    /// To be removed at the end; none where it was passed.
    socket: Option<PathBuf>,
}

impl Running {
    #[expect(clippy::disallowed_methods, reason = "the long-lived tasks of the daemon, ended in `run`")]
    fn start(
        config: &Arc<Config>,
        state_dir: &Path,
        (store, known): (Store, Vec<(TokenHash, Token)>),
        provider: Arc<dyn Provider>,
        breakers: Board,
        clock: Arc<dyn Clock>,
        Listeners { tcp, unix, address, socket }: Listeners,
    ) -> Result<Self, ServeError> {
        let ((engine_handle, engine), handle) = (engine::pair(), RosterHandle::default());
        let sender = webhooks::Sender::new(store.clone(), clock.clone(), breakers.clone());
        let disk = disk::Guard::new(state_dir, config.resources.disk_reserve_mb);
        let resources = tokio::sync::watch::Sender::new(config.resources.clone());
        let watch = resources::Watch::new(provider::browsers(config), resources.subscribe());
        let context = Context::new(
            config.clone(),
            state_dir.to_owned(),
            store.clone(),
            engine_handle.clone(),
            provider.clone(),
            breakers.clone(),
            clock.clone(),
        );
        let context = context.map_err(ServeError::Media)?.with_roster(handle.clone()).with_tokens(known);
        let (backups, worker) = backup::pair(store.clone(), engine_handle.clone(), clock.clone(), config.clone());
        let (jobs, upkeep) = maintenance::pair(
            store.clone(),
            engine_handle.clone(),
            clock.clone(),
            backups.clone(),
            context.media.clone(),
            config.clone(),
        );
        let context = Arc::new(context.with_backups(backups.clone()).with_maintenance(jobs));
        let roster = Roster { store: store.clone(), provider: provider.clone(), clock: clock.clone(), handle };
        let announcer = Announcer::new(store.feed().clone(), engine_handle.clone(), breakers.clone(), clock.clone());
        let pulse = notify::pulse(engine_handle.clone(), store.clone());
        let sampler = Sampler {
            store: store.clone(),
            engine: engine_handle.clone(),
            clock: clock.clone(),
            numbers: context.clone(),
        };
        let shared = Arc::new(Shared {
            store,
            provider: provider.clone(),
            breakers,
            media: context.media.clone(),
            clock,
            state_dir: state_dir.to_owned(),
            headless: config.browser.headless,
            evidence_max_bytes: config.engine.evidence_max_bytes,
            limits: Limits::from(&config.engine),
            no_disk: disk.word(),
            pressure: watch.word(),
        });
        let (stop_api, stop_webhooks) = (CancellationToken::new(), CancellationToken::new());
        Ok(Self {
            address,
            watching: tokio::spawn(watch.run(engine_handle.clone(), provider.clone())),
            resources,
            engine_handle,
            engine: tokio::spawn(engine::run(engine, shared)),
            webhooks: tokio::spawn(webhooks::run(sender, stop_webhooks.clone())),
            stop_webhooks,
            disk: tokio::spawn(disk.run()),
            limits: context.limits(),
            keeping: tokio::spawn(maintenance::run(upkeep, context.clone(), stop_api.clone())),
            api: tokio::spawn(api::serve(context, tcp, Some(unix), stop_api.clone())),
            backing_up: tokio::spawn(backup::run(worker, stop_api.clone())),
            backups,
            listing: tokio::spawn(roster::run(roster, stop_api.clone())),
            sampling: tokio::spawn(sampler::run(sampler, stop_api.clone())),
            announcing: tokio::spawn(announce::run(announcer, stop_api.clone())),
            pulsing: tokio::spawn(pulse),
            stop_api,
            provider,
            socket,
        })
    }

    /// Waits for a signal or for the end of a part; then stops everything in order.
    /// `stopping`: the signal that came before the daemon was ready.
    async fn run(
        mut self,
        config: &Config,
        signals: &mut Signals,
        reloader: &mut Reloader,
        writer: WriterThread,
        stopping: Option<&'static str>,
    ) -> Result<(), ServeError> {
        let backups = self.backups.clone();
        let stop = async {
            match stopping {
                Some(name) => name,
                None => signals.stop(&backups, reloader).await,
            }
        };
        let mut result = tokio::select! {
            name = stop => {
                tracing::info!(signal = name, "stopping");
                None
            }
            ended = &mut self.engine => Some(flatten("the engine", ended)),
            ended = &mut self.webhooks => Some(flatten("the sender of webhooks", ended)),
            _ = &mut self.disk => Some(Err(ServeError::Panicked("the disk guard"))),
            _ = &mut self.watching => Some(Err(ServeError::Panicked("the watch over the machine"))),
            ended = &mut self.api => {
                let panicked = ended.is_err();
                Some(if panicked { Err(ServeError::Panicked("the API")) } else { Ok(()) })
            }
        };
        notify::stopping(Duration::from_secs(config.engine.drain_seconds));
        if result.is_none() {
            result = self.drain(config, signals).await;
        }
        self.stop_webhooks.cancel();
        self.stop_api.cancel();
        if !self.api.is_finished() && tokio::time::timeout(CLOSE_WITHIN, &mut self.api).await.is_err() {
            tracing::warn!("connections were still open after {} s", CLOSE_WITHIN.as_secs());
            self.api.abort();
        }
        if tokio::time::timeout(CLOSE_WITHIN, &mut self.backing_up).await.is_err() {
            self.backing_up.abort();
        }
        self.engine.abort();
        self.keeping.abort();
        self.listing.abort();
        self.announcing.abort();
        self.pulsing.abort();
        self.sampling.abort();
        self.webhooks.abort();
        self.disk.abort();
        self.watching.abort();
        self.provider.shutdown().await;
        listen::remove_socket(self.socket.as_deref());
        // The last handles of the store go with the tasks; the writer then closes the file.
        drop((self, backups));
        let joined = tokio::task::spawn_blocking(|| writer.join());
        if tokio::time::timeout(CLOSE_WITHIN, joined).await.is_err() {
            tracing::warn!("the state file was not closed within {} s", CLOSE_WITHIN.as_secs());
        }
        result.unwrap_or(Ok(()))
    }

    /// `None`: drained, or given up on; what is still armed is found by the next boot's recovery.
    async fn drain(&mut self, config: &Config, signals: &mut Signals) -> Option<Result<(), ServeError>> {
        let limit = Duration::from_secs(config.engine.drain_seconds);
        let engine = &mut self.engine;
        // Telling the loop belongs under the limit, too: with a stuck disk it does not listen.
        let drained = async {
            self.engine_handle.drain().await;
            engine.await
        };
        tokio::select! {
            ended = drained => Some(flatten("the engine", ended)),
            () = tokio::time::sleep(limit) => {
                tracing::warn!(limit_seconds = limit.as_secs(), "still busy at the drain limit: recovery will look at it");
                None
            }
            name = signals.next() => {
                tracing::warn!(signal = name, "a second signal: stopping at once");
                None
            }
        }
    }
}

fn flatten<E: Into<ServeError>>(
    part: &'static str,
    ended: Result<Result<(), E>, tokio::task::JoinError>,
) -> Result<(), ServeError> {
    match ended {
        Ok(result) => result.map_err(Into::into),
        Err(_) => Err(ServeError::Panicked(part)),
    }
}

fn breaker_limits(config: &Config) -> BreakerLimits {
    let limits = &config.breakers;
    BreakerLimits {
        failures: limits.failures,
        open: Duration::from_secs(limits.open_seconds),
        trials: limits.half_open_calls,
    }
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    /// Makes a snapshot. Heard from the start on: unheard, it would end the process.
    user1: Signal,
    /// Reads the settings again.
    hangup: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            user1: signal(SignalKind::user_defined1())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// Waits for the word to stop; meanwhile SIGUSR1 makes a snapshot and SIGHUP reads the settings again.
    async fn stop(&mut self, backups: &Backups, reloader: &mut Reloader) -> &'static str {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return "SIGTERM",
                _ = self.interrupt.recv() => return "SIGINT",
                _ = self.hangup.recv() => reloader.reload(),
                _ = self.user1.recv() => match backups.make_aside(SnapshotReason::Signal) {
                    Ok(()) => tracing::info!("SIGUSR1: a snapshot is made"),
                    Err(error) => tracing::warn!(%error, "SIGUSR1: no snapshot is made"),
                },
            }
        }
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

/// The state directory is readable by its owner alone.
fn make_private_dir(path: &Path) -> Result<(), ServeError> {
    use std::os::unix::fs::DirBuilderExt;
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(|error| ServeError::StateDir { path: path.to_owned(), error })
}

fn log_boot(state_dir: &Path, report: &BootReport) {
    let BootReport { created, restored, epoch, .. } = report;
    tracing::info!(state_dir = %state_dir.display(), created, restored, epoch, "state file open");
    if let Some(Compacted { before_bytes, after_bytes, took }) = report.compacted {
        let seconds = took.as_secs_f64();
        tracing::info!(before_bytes, after_bytes, seconds, "the state file was compacted");
    }
    if report.ledger_cut_bytes > 0 {
        tracing::warn!(bytes = report.ledger_cut_bytes, "a torn last line of the publish ledger was cut off");
    }
    if report.leases_rebased > 0 {
        tracing::info!(leases = report.leases_rebased, "the machine was booted: leases of locks go on with their rest");
    }
    if let Some(damage) = &report.ledger_damage {
        tracing::error!(damage, "the publish ledger is damaged: everything is held until a human resumes");
    }
    if let Some(pause) = &report.pause {
        tracing::warn!(?pause, "the engine starts paused");
    }
}
