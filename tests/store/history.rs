//! The history of numbers: rolled up as they come, forgotten when their time is over, there in an older file.

use std::time::Duration;

use cove::model::Timestamp;
use cove::store::history::{MAX_NAMES, RESOLUTIONS};
use cove::store::{STATE_FILE, Store};
use redb::{ReadableDatabase, ReadableTableMetadata, TableDefinition};

use super::MOMENT;

const MINUTE: Duration = Duration::from_secs(60);
/// The begin of an hour.
const BEGIN: Timestamp = Timestamp::from_millis(1_794_999_600_000);
const TABLE: TableDefinition<(u32, u64), &[u8]> = TableDefinition::new("history");

fn minutes(count: u32) -> Timestamp {
    BEGIN.plus(MINUTE * count)
}

async fn points(store: &Store, name: &str, step_seconds: u32) -> Vec<(Timestamp, String)> {
    let always = Timestamp::ZERO..=Timestamp::from_millis(u64::MAX);
    let points = store.history(name.to_owned(), step_seconds, always).await.unwrap();
    points.0.into_iter().map(|(at, value)| (at, value.to_string())).collect()
}

fn sample(number: u32) -> Vec<(String, f64)> {
    let number = f64::from(number);
    vec![("slots".to_owned(), number), ("tasks_completed_total{state=\"failed\"}".to_owned(), number)]
}

#[tokio::test]
async fn coarse_rows_hold_the_mean_of_gauges_and_the_last_of_counters() {
    let folder = tempfile::tempdir().unwrap();
    let (store, thread, _) = Store::open(folder.path(), MOMENT).unwrap();
    for minute in 0..12 {
        store.put_sample(minutes(minute).plus(Duration::from_secs(7)), sample(minute)).await.unwrap();
    }
    let fine = points(&store, "slots", 60).await;
    assert_eq!(fine.len(), 12);
    assert_eq!(fine[11], (minutes(11), "11".to_owned()));
    assert_eq!(points(&store, "slots", 600).await, [(BEGIN, "4.5".to_owned()), (minutes(10), "10.5".to_owned())]);
    let counter = "tasks_completed_total{state=\"failed\"}";
    assert_eq!(points(&store, counter, 600).await, [(BEGIN, "9".to_owned()), (minutes(10), "11".to_owned())]);
    assert_eq!(points(&store, counter, 3_600).await, [(BEGIN, "11".to_owned())]);
    assert_eq!(points(&store, "nothing", 60).await, []);
    let part = store.history("slots".to_owned(), 60, minutes(3)..=minutes(5)).await.unwrap();
    assert_eq!(part.0.len(), 3);
    let none = store.history("slots".to_owned(), 60, minutes(5)..=minutes(3)).await.unwrap();
    assert_eq!(none.0.len(), 0);
    // It is there after a restart, and in no other record's way.
    drop(store);
    tokio::task::spawn_blocking(|| thread.join()).await.unwrap();
    let (store, _thread, _) = Store::open(folder.path(), MOMENT).unwrap();
    assert_eq!(points(&store, "slots", 60).await, fine);
    assert_eq!(store.check_consistency().await.unwrap(), Vec::<String>::new());
}

#[tokio::test]
async fn every_step_is_kept_for_its_time_and_no_longer() {
    let folder = tempfile::tempdir().unwrap();
    let (store, _thread, _) = Store::open(folder.path(), MOMENT).unwrap();
    // A sample every two hours, for forty days.
    for sampled in 0..480 {
        store.put_sample(minutes(sampled * 120), sample(sampled)).await.unwrap();
    }
    let last = minutes(479 * 120);
    for (resolution, rows) in RESOLUTIONS.into_iter().zip([13, 85, 361]) {
        let held = points(&store, "slots", resolution.step_seconds).await;
        assert_eq!(held.len(), rows, "{resolution:?}");
        assert_eq!(held[0].0, resolution.oldest(last), "{resolution:?}");
    }
}

#[tokio::test]
async fn a_row_has_a_bound() {
    let folder = tempfile::tempdir().unwrap();
    let (store, _thread, _) = Store::open(folder.path(), MOMENT).unwrap();
    let many = (0..=MAX_NAMES).map(|number| (format!("n{number}"), 1.0)).collect();
    store.put_sample(BEGIN, many).await.unwrap();
    assert_eq!(points(&store, &format!("n{}", MAX_NAMES - 1), 60).await.len(), 1);
    assert_eq!(points(&store, &format!("n{MAX_NAMES}"), 60).await, []);
}

#[tokio::test]
async fn a_file_from_before_the_history_opens_and_gets_one() {
    let folder = tempfile::tempdir().unwrap();
    let (store, thread, _) = Store::open(folder.path(), MOMENT).unwrap();
    store.put_sample(BEGIN, sample(1)).await.unwrap();
    drop(store);
    tokio::task::spawn_blocking(|| thread.join()).await.unwrap();
    {
        let db = redb::Database::open(folder.path().join(STATE_FILE)).unwrap();
        let txn = db.begin_write().unwrap();
        assert!(txn.delete_table(TABLE).unwrap());
        txn.commit().unwrap();
        assert!(db.begin_read().unwrap().open_table(TABLE).is_err());
    }
    let (store, thread, report) = Store::open(folder.path(), MOMENT).unwrap();
    assert!(!report.created && !report.restored && report.pause.is_none(), "{report:?}");
    assert_eq!(points(&store, "slots", 60).await, []);
    store.put_sample(BEGIN, sample(2)).await.unwrap();
    assert_eq!(points(&store, "slots", 60).await, [(BEGIN, "2".to_owned())]);
    drop(store);
    tokio::task::spawn_blocking(|| thread.join()).await.unwrap();
    let db = redb::Database::open(folder.path().join(STATE_FILE)).unwrap();
    assert_eq!(db.begin_read().unwrap().open_table(TABLE).unwrap().len().unwrap(), 3);
}
