//! State files of older schemas open, with everything that was in them, and go on.
//!
//! `tests/golden/schema-N` holds a state file and its ledger as the last version of that schema left them,
//! killed in the middle of its work.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;

use cove::model::{
    BootId, BootTime, ItemId, ItemState, Job, JobRecord, LockOwner, Moment, Place, ProfileId, Timestamp,
};
use cove::store::{
    Idempotency, ItemQuery, LEDGER_FILE, LockQuery, SCHEMA_VERSION, STATE_FILE, Store, StoreError, TaskQuery,
};

const NOW: Moment = Moment {
    wall: Timestamp::from_millis(1_795_000_100_000),
    boot: BootTime::from_millis(50_000),
    boot_id: BootId::new(7),
};

fn golden(schema: u32, to: &Path) {
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/schema-{schema}"));
    for file in [STATE_FILE, LEDGER_FILE] {
        std::fs::copy(from.join(file), to.join(file)).unwrap();
    }
}

async fn states(store: &Store) -> Result<Vec<(ItemState, Place)>, StoreError> {
    let page = store.items(ItemQuery { limit: 99, ..ItemQuery::default() }).await?;
    let mut items = page.rows;
    items.sort_by_key(|item| item.id);
    Ok(items.iter().map(|item| (item.state, item.place)).collect())
}

#[tokio::test]
async fn schema_1_opens_with_everything_that_was_in_it() {
    let folder = tempfile::tempdir().unwrap();
    golden(1, folder.path());
    for open in 0..2 {
        let (store, thread, report) = Store::open(folder.path(), NOW).unwrap();
        assert!(!report.created && !report.restored && report.pause.is_none(), "{report:?}");
        assert_eq!(store.stats().await.unwrap().schema, SCHEMA_VERSION);
        assert_eq!(store.check_consistency().await.unwrap(), Vec::<String>::new(), "open {open}");
        let expected = [
            (ItemState::Succeeded, Place::Off),
            (ItemState::OutcomeUnknown, Place::Off),
            (ItemState::Failed, Place::Off),
            (ItemState::RetryWait, Place::Due),
            (ItemState::Queued, Place::Due),
            (ItemState::Running, Place::Off),
            (ItemState::Queued, Place::Ready),
            (ItemState::Queued, Place::Ready),
            (ItemState::Queued, Place::Ready),
        ];
        assert_eq!(states(&store).await.unwrap(), expected);
        drop(store);
        tokio::task::spawn_blocking(|| thread.join()).await.unwrap();
    }
}

#[tokio::test]
async fn schema_1_goes_on_where_it_was() {
    let folder = tempfile::tempdir().unwrap();
    golden(1, folder.path());
    let (store, thread, _) = Store::open(folder.path(), NOW).unwrap();
    let tasks = store.tasks(TaskQuery { limit: 9, ..TaskQuery::default() }).await.unwrap().rows;
    assert_eq!(tasks.len(), 3);
    // Its cancel had not been carried out, its Idempotency-Key is known, its locks are held.
    assert!(tasks[0].intent.cancel_requested_at.is_some());
    let outlook = store.outlook(NOW).await.unwrap();
    assert_eq!(outlook.to_settle, [tasks[0].task.id]);
    store.settle(tasks[0].task.id, NOW.wall).await.unwrap();
    let given = Idempotency { scope: "local".to_owned(), key: "request-1".to_owned(), body_hash: [7; 32] };
    assert_eq!(store.find_replay(given).await.unwrap().unwrap().task, tasks[1].task.id);
    let locks = store.locks(LockQuery { limit: 9, ..LockQuery::default() }).await.unwrap().rows;
    let owners: Vec<_> = locks.iter().map(|lock| (lock.key.as_str(), &lock.owner)).collect();
    assert!(matches!(owners[..], [("boris", LockOwner::Operator), ("clara", LockOwner::Item(_))]), "{owners:?}");
    // The armed one is found, and the free profile's next item is there to start.
    let leftovers = store.leftovers().await.unwrap();
    assert!(leftovers.iter().any(|left| left.running.as_ref().is_some_and(|(item, _, _)| item.is_armed())));
    let heads: Vec<(ProfileId, ItemId)> = outlook.heads.into_iter().map(|head| (head.profile, head.item)).collect();
    assert_eq!(heads.len(), 1, "{heads:?}");
    assert!(store.claim(heads[0].1, NOW).await.unwrap().is_ok());
    assert_eq!(store.check_consistency().await.unwrap(), Vec::<String>::new());
    drop(store);
    tokio::task::spawn_blocking(|| thread.join()).await.unwrap();
}

/// A file of this schema from before there was a table for the jobs of the maintenance.
#[tokio::test]
async fn a_file_without_records_of_jobs_opens_and_keeps_them_from_then_on() {
    let folder = tempfile::tempdir().unwrap();
    let (store, thread, _) = Store::open(folder.path(), NOW).unwrap();
    drop(store);
    tokio::task::spawn_blocking(|| thread.join()).await.unwrap();
    let db = redb::Database::open(folder.path().join(STATE_FILE)).unwrap();
    let txn = db.begin_write().unwrap();
    let table: redb::TableDefinition<&str, &[u8]> = redb::TableDefinition::new("maintenance");
    assert!(txn.delete_table(table).unwrap(), "the table has another name");
    txn.commit().unwrap();
    drop(db);
    for open in 0..2 {
        let (store, thread, report) = Store::open(folder.path(), NOW).unwrap();
        assert!(!report.created && !report.restored, "{report:?}");
        let record = JobRecord { next_at: Some(NOW.wall), ..JobRecord::default() };
        let kept = if open == 0 { Vec::new() } else { vec![(Job::Snapshot, record.clone())] };
        assert_eq!(store.job_records().await.unwrap(), kept);
        store.note_job(Job::Snapshot, record).await.unwrap();
        drop(store);
        tokio::task::spawn_blocking(|| thread.join()).await.unwrap();
    }
}
