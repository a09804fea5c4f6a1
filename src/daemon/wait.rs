//! A start without space: the daemon waits, unready, until the state file can be opened.
//!
//! Ending instead would make whoever restarts it do so for ever. While it waits it listens and answers
//! health with 503 and the reason ([`api::waiting`]); the listeners are the ones that the API gets then, so
//! that nobody is refused in between.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::listen::{ListenFile, Listeners};
use super::{Passed, ServeError, Signals, make_private_dir, notify};
use crate::api;
use crate::config::Config;
use crate::model::Clock;
use crate::store::{BootReport, Store, WriterThread, compaction};

const LOOK_EVERY: Duration = Duration::from_secs(2);

pub(super) type Opened = (Store, WriterThread, BootReport);

pub(super) fn open(config: &Config, state_dir: &Path, clock: &dyn Clock) -> Result<Opened, ServeError> {
    make_private_dir(state_dir)?;
    if compaction::is_due(state_dir) {
        notify::compacting();
    }
    Ok(Store::open_keeping(state_dir, &config.snapshots_dir(), clock.moment())?)
}

/// Tries until there is space. None: a signal came first.
pub(super) async fn for_space(
    config: &Config,
    passed: Passed,
    state_dir: &Path,
    clock: &Arc<dyn Clock>,
    signals: &mut Signals,
    first: ServeError,
) -> Result<Option<(Opened, Listeners)>, ServeError> {
    tracing::error!("waiting for disk space: {first}");
    let listeners = Listeners::open(passed, config).await?;
    let listen_file = ListenFile::write(state_dir, listeners.address);
    if let Err(error) = &listen_file {
        tracing::warn!(%error, address = %listeners.address, "clients have to know the address by themselves");
    }
    let stop = CancellationToken::new();
    let (tcp, unix) = listeners.again()?;
    let serving = api::waiting::serve(
        first.to_string(),
        config.server.allowed_hosts.clone(),
        clock.clone(),
        tcp,
        unix,
        stop.clone(),
    );
    let opened = async {
        let opened = look_until_it_opens(config, state_dir, clock.as_ref(), signals).await;
        stop.cancel();
        opened
    };
    let ((), opened) = tokio::join!(serving, opened);
    match opened? {
        Some(opened) => Ok(Some((opened, listeners))),
        None => {
            if let Ok(file) = listen_file {
                file.remove();
            }
            super::listen::remove_socket(listeners.socket.as_deref());
            Ok(None)
        }
    }
}

async fn look_until_it_opens(
    config: &Config,
    state_dir: &Path,
    clock: &dyn Clock,
    signals: &mut Signals,
) -> Result<Option<Opened>, ServeError> {
    loop {
        notify::waiting("waiting for disk space");
        tokio::select! {
            name = signals.next() => {
                tracing::info!(signal = name, "stopping");
                return Ok(None);
            }
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
        match open(config, state_dir, clock) {
            Err(error) if error.is_full() => {}
            other => return other.map(Some),
        }
    }
}
