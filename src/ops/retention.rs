//! Forgets finished tasks by age and by count: first the evidence on the disk, then the rows, in steps; and removes
//! uploads that no item has named for a while.
//!
//! A job of the maintenance. Invariants: a row goes only after the evidence that it names, so
//! that a crash in between leaves a task without evidence and never evidence without a task; an upload goes only after
//! every row that names it, and its time begins when the last of them goes. Keys stay
//! (fence.md rule 2). Which tasks are finished, and when, is the store's to know; the ledger and what finds
//! duplicates know a file by its hash and need nothing of it.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::browser::evidence;
use crate::config::Retention;
use crate::model::{Clock, ItemId, Timestamp};
use crate::store::media::MediaStore;
use crate::store::media::keeping::Removed;
use crate::store::{Store, StoreError};

/// Tasks looked up at a time.
const BATCH: usize = 20;
/// Items whose files are looked up at a time.
const ITEMS: usize = 500;
/// Uploads that are held against the files of all items at a time; the paths take a few MB.
const UPLOADS: usize = 16_384;
/// Uploads removed between two pauses.
const REMOVED: usize = 32;
/// Between two steps, so that a large clean-up leaves the disk to others.
const PAUSE: Duration = Duration::from_millis(20);
const DAY: Duration = Duration::from_secs(86_400);

pub struct Keeper {
    pub store: Store,
    pub media: MediaStore,
    pub clock: Arc<dyn Clock>,
    pub state_dir: PathBuf,
    pub retention: Retention,
}

/// What went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cleaned {
    pub tasks: u64,
    pub uploads: Removed,
}

#[derive(Debug, thiserror::Error)]
pub enum RetentionError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the evidence of {item}: {error}")]
    Evidence { item: ItemId, error: std::io::Error },
    #[error("the media folder: {0}")]
    Media(#[from] std::io::Error),
}

/// Forgets everything whose time has come; answers with what that was. By a clock that jumped everything
/// is old: while it is not believed nothing is forgotten (fence.md rule 20).
///
/// # Errors
/// At the first thing that cannot be removed; what was forgotten before it stays so.
pub async fn clean(keeper: &Keeper, clock_suspect: bool) -> Result<Cleaned, RetentionError> {
    if clock_suspect {
        tracing::warn!("nothing is forgotten while the clock is not believed");
        return Ok(Cleaned::default());
    }
    let now = keeper.clock.now();
    let tasks = forget_tasks(keeper, before(now, keeper.retention.task_days)).await?;
    let uploads = remove_uploads(keeper, before(now, keeper.retention.media_days), now).await?;
    Ok(Cleaned { tasks, uploads })
}

async fn forget_tasks(keeper: &Keeper, before: Timestamp) -> Result<u64, RetentionError> {
    let mut forgotten = 0;
    loop {
        let due = keeper.store.prunable(before, keeper.retention.tasks, BATCH).await?;
        if due.is_empty() {
            return Ok(forgotten);
        }
        for prunable in due {
            // The time of its uploads begins here, before nothing names them any more.
            for items in prunable.items.chunks(ITEMS) {
                keeper.media.named(keeper.store.files_of(items.to_vec()).await?).await?;
            }
            remove_evidence(keeper.state_dir.clone(), prunable.items).await?;
            while !keeper.store.prune(prunable.task).await? {}
            forgotten += 1;
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// Uploads that were last named before `before` and that no item names, in whatever state it is: what failed may be
/// tried again, and a snapshot that is put back may know as unfinished what has finished since.
async fn remove_uploads(keeper: &Keeper, before: Timestamp, now: Timestamp) -> Result<Removed, RetentionError> {
    let mut removed = Removed::default();
    let mut after = String::new();
    loop {
        let idle = keeper.media.idle(after.clone(), (before, now), UPLOADS).await?;
        let Some(last) = idle.last().and_then(|path| path.file_name()) else { return Ok(removed) };
        after = last.to_string_lossy().into_owned();
        let mut unnamed: BTreeSet<PathBuf> = idle.into_iter().collect();
        let mut from = Some(0);
        while let Some(next) = from.filter(|_| !unnamed.is_empty()) {
            let named = keeper.store.files_named(next, ITEMS).await?;
            for file in &named.files {
                unnamed.remove(file);
            }
            from = named.next;
            // Other readers have their turn.
            tokio::task::yield_now().await;
        }
        let unnamed: Vec<PathBuf> = unnamed.into_iter().collect();
        for some in unnamed.chunks(REMOVED) {
            let Removed { files, bytes } = keeper.media.remove_idle(some.to_vec(), before).await?;
            removed.files += files;
            removed.bytes += bytes;
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

#[cfg(test)]
mod tests;
