//! Forgets finished tasks by age and by count: first the evidence on the disk, then the rows, in steps; and
//! locks of outside programs whose lease is over.
//!
//! Spawned by the daemon; ends with the token. Invariant: a row goes only after the files that it names, so
//! that a crash in between leaves a task without evidence and never evidence without a task. Keys stay
//! (fence.md rule 2). Which tasks are finished, and when, is the store's to know.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::browser::evidence;
use crate::config::Retention;
use crate::engine::EngineHandle;
use crate::model::{Clock, ItemId, Timestamp};
use crate::store::{Cleanup, Store, StoreError};

/// Between two looks.
const EVERY: Duration = Duration::from_secs(15 * 60);
/// Tasks looked up at a time.
const BATCH: usize = 20;
/// Between two tasks, so that a large clean-up leaves the disk to others.
const PAUSE: Duration = Duration::from_millis(20);
const DAY: Duration = Duration::from_secs(86_400);

pub struct Keeper {
    pub store: Store,
    pub engine: EngineHandle,
    pub clock: Arc<dyn Clock>,
    pub state_dir: PathBuf,
    pub retention: Retention,
}

/// Runs until `stop`.
pub async fn run(keeper: Keeper, stop: CancellationToken) {
    keeper.engine.ready().await;
    loop {
        // Leases run on a clock of their own, which nobody sets.
        match keeper.store.clean_up_locks(Cleanup::default(), keeper.clock.moment()).await {
            Ok(cleaned) if cleaned.removed > 0 => tracing::info!(locks = cleaned.removed, "expired locks were removed"),
            Ok(_) => {}
            Err(error) => tracing::warn!(%error, "expired locks could not be removed: trying again later"),
        }
        // By a clock that jumped everything is old (fence.md rule 20).
        if keeper.engine.view().clock_suspect {
            tracing::warn!("nothing is forgotten while the clock is not believed");
        } else {
            tokio::select! {
                () = stop.cancelled() => return,
                cleaned = clean(&keeper) => match cleaned {
                    Ok(0) => {}
                    Ok(tasks) => tracing::info!(tasks, "finished tasks were forgotten"),
                    Err(error) => tracing::warn!(%error, "finished tasks could not be forgotten: trying again later"),
                }
            }
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(EVERY) => {}
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum RetentionError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the evidence of {item}: {error}")]
    Evidence { item: ItemId, error: std::io::Error },
}

/// Forgets everything whose time has come; answers with the number of tasks.
///
/// # Errors
/// At the first thing that cannot be removed; what was forgotten before it stays so.
pub async fn clean(keeper: &Keeper) -> Result<u64, RetentionError> {
    let before = before(keeper.clock.now(), keeper.retention.task_days);
    let mut forgotten = 0;
    loop {
        let due = keeper.store.prunable(before, keeper.retention.tasks, BATCH).await?;
        if due.is_empty() {
            return Ok(forgotten);
        }
        for prunable in due {
            remove_evidence(keeper.state_dir.clone(), prunable.items).await?;
            while !keeper.store.prune(prunable.task).await? {}
            forgotten += 1;
            tokio::time::sleep(PAUSE).await;
        }
    }
}

fn before(now: Timestamp, days: u64) -> Timestamp {
    let age = DAY.saturating_mul(u32::try_from(days).unwrap_or(u32::MAX));
    Timestamp::from_millis(now.as_millis().saturating_sub(u64::try_from(age.as_millis()).unwrap_or(u64::MAX)))
}

async fn remove_evidence(state_dir: PathBuf, items: Vec<ItemId>) -> Result<(), RetentionError> {
    let removed = tokio::task::spawn_blocking(move || {
        items.into_iter().try_for_each(|item| {
            evidence::remove_all_of(&state_dir, item).map_err(|error| RetentionError::Evidence { item, error })
        })
    });
    removed.await.unwrap_or(Err(RetentionError::Store(StoreError::Closed)))
}
