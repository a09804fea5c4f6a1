//! What systemd is told of the daemon: ready, stopping, a line of status, and signs of life.
//!
//! Called by the daemon alone; where nobody listens (no `NOTIFY_SOCKET`) nothing is sent. Invariants: `READY`
//! is said once, when requests are served and recovery is done; a sign of life is given only while the engine's
//! loop turns and the store's writer answers, so that a daemon which only looks alive is started again.
//! Not here: reloading, which this version does not do, and the health that people read ([`crate::api`]).

use std::net::SocketAddr;
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use crate::engine::EngineHandle;
use crate::store::Store;

/// The engine's loop turns every five seconds even when there is nothing to do.
const STILL_AFTER: Duration = Duration::from_secs(20);
/// What the manager waits longer for, each time that it is asked to; far more than lies between two such words.
const PATIENCE: Duration = Duration::from_secs(60);
/// For the largest state file that is compacted, on a slow disk.
const COMPACTING: Duration = Duration::from_secs(3_600);
/// Signs of life in the time that the manager allows for one.
const PULSES: u32 = 3;

pub(super) fn ready(address: SocketAddr) {
    send(&[NotifyState::Ready, NotifyState::Status(&format!("serving http://{address}"))]);
}

/// A start that waits is no start that hangs.
pub(super) fn waiting(why: &str) {
    send(&[NotifyState::Status(why), extended(PATIENCE)]);
}

/// Nothing is heard of the daemon until that is done.
pub(super) fn compacting() {
    send(&[NotifyState::Status("compacting the state file"), extended(COMPACTING)]);
}

/// `limit`: how long what is armed is waited for. The unit's own time-out does not know what was configured.
pub(super) fn stopping(limit: Duration) {
    let status =
        format!("stopping: what is past its commit point is finished first, for {} s at most", limit.as_secs());
    send(&[NotifyState::Stopping, NotifyState::Status(&status), extended(limit + PATIENCE)]);
}

/// Gives signs of life, if the manager asked for them. Never returns; dropped with the daemon.
pub(super) async fn pulse(engine: EngineHandle, store: Store) {
    let Some(within) = sd_notify::watchdog_enabled() else { return std::future::pending().await };
    let every = within / PULSES;
    let mut beat = interval(every);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut turns = engine.changes();
    let mut turned = Instant::now();
    loop {
        tokio::select! {
            turn = turns.changed() => match turn {
                Ok(()) => turned = Instant::now(),
                // The loop has ended, and so does the daemon.
                Err(_) => return std::future::pending().await,
            },
            _ = beat.tick() => match trouble(turned.elapsed(), &store, every).await {
                None => send(&[NotifyState::Watchdog]),
                Some(why) => tracing::error!("no sign of life is given to systemd: {why}"),
            },
        }
    }
}

async fn trouble(still: Duration, store: &Store, within: Duration) -> Option<String> {
    if still > STILL_AFTER {
        return Some(format!("the engine has not turned for {} s", still.as_secs()));
    }
    match timeout(within, store.answers()).await {
        Ok(Ok(())) => None,
        Ok(Err(error)) => Some(format!("the store: {error}")),
        Err(_) => Some(format!("the store's writer did not answer within {} s", within.as_secs_f32())),
    }
}

fn extended(by: Duration) -> NotifyState<'static> {
    NotifyState::ExtendTimeoutUsec(u32::try_from(by.as_micros()).unwrap_or(u32::MAX))
}

fn send(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(%error, "systemd cannot be told how the daemon is");
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{STILL_AFTER, trouble};
    use crate::model::{Clock as _, SystemClock};
    use crate::store::Store;

    #[tokio::test]
    async fn a_loop_that_stands_still_is_no_life() {
        let folder = tempfile::tempdir().unwrap();
        let (store, writer, _) = Store::open(folder.path(), SystemClock.moment()).unwrap();
        let within = Duration::from_secs(60);
        assert_eq!(trouble(Duration::ZERO, &store, within).await, None);
        let still = trouble(STILL_AFTER + Duration::from_secs(1), &store, within).await.unwrap();
        assert!(still.contains("engine") && still.contains("21 s"), "{still}");
        drop(store);
        writer.join();
    }
}
