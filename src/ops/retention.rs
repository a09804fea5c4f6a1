//! Forgets finished tasks by age and by count: first the evidence on the disk, then the rows, in steps.
//!
//! A job of the maintenance. Invariant: a row goes only after the files that it names, so
//! that a crash in between leaves a task without evidence and never evidence without a task. Keys stay
//! (fence.md rule 2). Which tasks are finished, and when, is the store's to know.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::browser::evidence;
use crate::config::Retention;
use crate::model::{Clock, ItemId, Timestamp};
use crate::store::{Store, StoreError};

/// Tasks looked up at a time.
const BATCH: usize = 20;
/// Between two tasks, so that a large clean-up leaves the disk to others.
const PAUSE: Duration = Duration::from_millis(20);
const DAY: Duration = Duration::from_secs(86_400);

pub struct Keeper {
    pub store: Store,
    pub clock: Arc<dyn Clock>,
    pub state_dir: PathBuf,
    pub retention: Retention,
}

#[derive(Debug, thiserror::Error)]
pub enum RetentionError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the evidence of {item}: {error}")]
    Evidence { item: ItemId, error: std::io::Error },
}

/// Forgets everything whose time has come; answers with the number of tasks. By a clock that jumped everything
/// is old: while it is not believed nothing is forgotten (fence.md rule 20).
///
/// # Errors
/// At the first thing that cannot be removed; what was forgotten before it stays so.
pub async fn clean(keeper: &Keeper, clock_suspect: bool) -> Result<u64, RetentionError> {
    if clock_suspect {
        tracing::warn!("nothing is forgotten while the clock is not believed");
        return Ok(0);
    }
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;
    use std::time::Duration;

    use super::{Keeper, clean};
    use crate::config::Retention;
    use crate::model::{Clock, Failure, FailureCode, Moment, OnUnknown, ProfileId, SystemClock, Verdict};
    use crate::store::{AttemptEnded, Claim, NewItem, NewTask, Store};

    /// A clock that stands where it was set.
    struct Set(Moment);

    impl Clock for Set {
        fn moment(&self) -> Moment {
            self.0
        }
    }

    #[tokio::test]
    async fn rule_20_nothing_is_forgotten_by_a_clock_that_is_not_believed() {
        let folder = tempfile::tempdir().unwrap();
        let now = SystemClock.moment();
        let (store, _writer, _) = Store::open(folder.path(), now).unwrap();
        let anna = ProfileId::new("anna").unwrap();
        store.create_profile(anna.clone(), "anna".to_owned(), now.wall).await.unwrap();
        store.put_flow("f".to_owned(), "h".to_owned(), b"{}".to_vec(), now.wall).await.unwrap();
        let item =
            NewItem { profile: anna.clone(), inputs: BTreeMap::new(), key: None, not_before: None, not_after: None };
        let new = NewTask {
            flow: "f".to_owned(),
            flow_hash: "h".to_owned(),
            priority: 0,
            max_attempts: 1,
            spacing_seconds: 0,
            on_unknown: OnUnknown::Hold,
            external: None,
            verifiable: false,
            rehearsal: false,
            items: vec![item],
            idempotency: None,
            webhook: None,
        };
        let made = store.enqueue(new, now.wall).await.unwrap();
        let id = store.outlook(now).await.unwrap().heads[0].item;
        let Claim::Started(claimed) = store.claim(id, now).await.unwrap().unwrap() else { panic!("it moved") };
        let verdict = Verdict::Failed(Failure::new(FailureCode::Rejected, "no"));
        let end = AttemptEnded { item: id, fence: claimed.fence, verdict, evidence: Vec::new(), effect: None };
        store.finish(end, now.wall).await.unwrap().unwrap();
        assert!(store.release(anna, claimed.fence).await.unwrap());

        // The wall clock says that years have passed.
        let jumped = Moment { wall: now.wall.plus(Duration::from_secs(10 * 365 * 86_400)), ..now };
        let keeper = Keeper {
            store: store.clone(),
            clock: Arc::new(Set(jumped)),
            state_dir: folder.path().to_owned(),
            retention: Retention { task_days: 90, tasks: 1_000 },
        };
        assert_eq!(clean(&keeper, true).await.unwrap(), 0);
        assert!(store.task(made.task).await.unwrap().is_some());
        // A human, or the system, says that they have.
        assert_eq!(clean(&keeper, false).await.unwrap(), 1);
        assert!(store.task(made.task).await.unwrap().is_none());
    }
}
