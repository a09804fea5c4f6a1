//! Retention over a real store and a real folder, by a clock that stands where a test sets it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;

use super::{Cleaned, Keeper, clean};
use crate::config::Retention;
use crate::model::{
    Clock, Failure, FailureCode, InputValue, ItemId, Moment, OnUnknown, ProfileId, SystemClock, TaskId, Timestamp,
    Verdict,
};
use crate::store::media::MediaStore;
use crate::store::media::keeping::Removed;
use crate::store::{AttemptEnded, Claim, NewItem, NewTask, Store, WriterThread};

const DAY: Duration = Duration::from_secs(86_400);

/// A clock that stands where it was set.
struct Set(Mutex<Moment>);

impl Clock for Set {
    fn moment(&self) -> Moment {
        *self.0.lock().unwrap()
    }
}

struct House {
    folder: tempfile::TempDir,
    store: Store,
    writer: WriterThread,
    keeper: Keeper,
    clock: Arc<Set>,
}

impl House {
    async fn new(tasks: u64) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let house = Self::over(folder, tasks);
        let now = SystemClock.now();
        house.store.create_profile(anna(), "anna".to_owned(), now).await.unwrap();
        house.store.put_flow("f".to_owned(), "h".to_owned(), b"{}".to_vec(), now).await.unwrap();
        house
    }

    fn over(folder: tempfile::TempDir, tasks: u64) -> Self {
        let now = SystemClock.moment();
        let (store, writer, _) = Store::open(folder.path(), now).unwrap();
        let clock = Arc::new(Set(Mutex::new(now)));
        let keeper = Keeper {
            store: store.clone(),
            media: MediaStore::new(folder.path(), Vec::new(), 100).unwrap(),
            clock: clock.clone(),
            state_dir: folder.path().to_owned(),
            retention: Retention { task_days: 90, tasks, media_days: 1 },
        };
        Self { folder, store, writer, keeper, clock }
    }

    /// Another daemon over the same folder.
    async fn again(self, tasks: u64) -> Self {
        let Self { folder, store, writer, keeper, .. } = self;
        drop((store, keeper));
        tokio::task::spawn_blocking(|| writer.join()).await.unwrap();
        Self::over(folder, tasks)
    }

    fn it_is(&self, wall: Timestamp) {
        self.clock.0.lock().unwrap().wall = wall;
    }

    async fn clean(&self) -> Cleaned {
        clean(&self.keeper, false).await.unwrap()
    }

    async fn upload(&self, text: &'static str) -> (String, PathBuf) {
        let body = stream::iter([Ok::<_, ()>(Bytes::from_static(text.as_bytes()))]);
        let name = format!("sha256:{}", self.keeper.media.put(body).await.unwrap().sha256);
        let path = self.keeper.media.resolve(&name).await.unwrap().path;
        (name, path)
    }

    async fn submit(&self, upload: &str) -> (TaskId, ItemId) {
        let file = self.keeper.media.resolve(upload).await.unwrap();
        let item = NewItem {
            profile: anna(),
            inputs: BTreeMap::from([("video".to_owned(), InputValue::File(file))]),
            key: None,
            not_before: None,
            not_after: None,
        };
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
        let made = self.store.enqueue(new, SystemClock.now()).await.unwrap();
        let items = self.store.items(crate::store::ItemQuery { task: Some(made.task), limit: 1, ..Default::default() });
        (made.task, items.await.unwrap().rows[0].id)
    }

    async fn fail(&self, item: ItemId) {
        let now = SystemClock.moment();
        let Claim::Started(claimed) = self.store.claim(item, now).await.unwrap().unwrap() else { panic!("it moved") };
        let verdict = Verdict::Failed(Failure::new(FailureCode::Rejected, "no"));
        let end = AttemptEnded { item, fence: claimed.fence, verdict, evidence: Vec::new(), effect: None };
        self.store.finish(end, now.wall).await.unwrap().unwrap();
        assert!(self.store.release(anna(), claimed.fence).await.unwrap());
    }
}

fn anna() -> ProfileId {
    ProfileId::new("anna").unwrap()
}

/// A moment that is later than all that was done before and not later than what is done next.
async fn between() -> Timestamp {
    let before = SystemClock.now().as_millis();
    while SystemClock.now().as_millis() < before + 20 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Timestamp::from_millis(before + 10)
}

fn uploads(files: u64, bytes: u64) -> Cleaned {
    Cleaned { tasks: 0, uploads: Removed { files, bytes } }
}

#[tokio::test]
async fn rule_20_nothing_is_forgotten_by_a_clock_that_is_not_believed() {
    let house = House::new(1_000).await;
    let (upload, _) = house.upload("abc").await;
    let (task, item) = house.submit(&upload).await;
    house.fail(item).await;
    let (_, loose) = house.upload("defg").await;
    // The wall clock says that years have passed.
    house.it_is(SystemClock.now().plus(10 * 365 * DAY));
    assert_eq!(clean(&house.keeper, true).await.unwrap(), Cleaned::default());
    assert!(house.store.task(task).await.unwrap().is_some());
    assert!(loose.exists());
    // A human, or the system, says that they have.
    assert_eq!(house.clean().await, Cleaned { tasks: 1, uploads: Removed { files: 2, bytes: 7 } });
    assert!(house.store.task(task).await.unwrap().is_none());
    assert!(!loose.exists());
}

#[tokio::test]
async fn an_upload_that_is_not_submitted_yet_stays_for_a_day() {
    let house = House::new(1_000).await;
    let (_, path) = house.upload("abc").await;
    house.it_is(SystemClock.now().plus(Duration::from_secs(86_400 - 60)));
    assert_eq!(house.clean().await, Cleaned::default());
    assert!(path.exists());
    house.it_is(SystemClock.now().plus(DAY + Duration::from_secs(60)));
    assert_eq!(house.clean().await, uploads(1, 3));
    assert!(!path.exists());
    assert_eq!(house.clean().await, Cleaned::default());
}

#[tokio::test]
async fn what_an_item_names_stays_while_it_waits_while_it_is_tried_again_and_while_its_task_is_kept() {
    let house = House::new(1_000).await;
    let (upload, path) = house.upload("abc").await;
    let (task, item) = house.submit(&upload).await;
    // However long it waits.
    house.it_is(SystemClock.now().plus(400 * DAY));
    assert_eq!(house.clean().await, Cleaned::default());
    house.fail(item).await;
    house.it_is(SystemClock.now().plus(80 * DAY));
    assert_eq!(house.clean().await, Cleaned::default());
    let retried = house.store.retry(task, 0, SystemClock.now()).await.unwrap().unwrap();
    assert_eq!(retried.retried, 1);
    house.it_is(SystemClock.now().plus(400 * DAY));
    assert_eq!(house.clean().await, Cleaned::default());
    assert!(path.exists());
    house.fail(item).await;
}

#[tokio::test]
async fn the_day_begins_when_the_last_task_that_named_it_is_forgotten() {
    let house = House::new(0).await;
    let (upload, path) = house.upload("abc").await;
    let (first, item) = house.submit(&upload).await;
    house.fail(item).await;
    let (second, waits) = house.submit(&upload).await;
    let (_, loose) = house.upload("defg").await;
    // A day after the upload, and less than a day after the task is forgotten.
    house.it_is(between().await.plus(DAY));
    assert_eq!(house.clean().await, Cleaned { tasks: 1, uploads: Removed { files: 1, bytes: 4 } });
    assert!(house.store.task(first).await.unwrap().is_none());
    assert!(path.exists() && !loose.exists());
    // Another task names it still.
    house.it_is(between().await.plus(2 * DAY));
    assert_eq!(house.clean().await, Cleaned::default());
    house.fail(waits).await;
    house.it_is(between().await.plus(DAY));
    assert_eq!(house.clean().await, Cleaned { tasks: 1, ..Cleaned::default() });
    assert!(house.store.task(second).await.unwrap().is_none());
    assert!(path.exists());
    house.it_is(between().await.plus(DAY));
    assert_eq!(house.clean().await, uploads(1, 3));
    assert!(!path.exists());
}

#[tokio::test]
async fn a_run_that_is_cut_off_before_the_rows_or_after_the_file_is_made_good_by_the_next() {
    let house = House::new(0).await;
    let (upload, path) = house.upload("abc").await;
    let (task, item) = house.submit(&upload).await;
    house.fail(item).await;
    let (_, loose) = house.upload("defg").await;
    // Cut off when the time of its upload had begun, and its rows were still there.
    house.keeper.media.named(house.store.files_of(vec![item]).await.unwrap()).await.unwrap();
    let house = house.again(0).await;
    assert!(house.store.task(task).await.unwrap().is_some() && path.exists());
    // Cut off when one of two files was gone.
    std::fs::remove_file(&loose).unwrap();
    let house = house.again(0).await;
    house.it_is(SystemClock.now().plus(2 * DAY));
    assert_eq!(house.clean().await, Cleaned { tasks: 1, uploads: Removed { files: 1, bytes: 3 } });
    assert!(!path.exists());
    assert!(house.store.check_consistency().await.unwrap().is_empty());
    // The same bytes can come again.
    let (_, again) = house.upload("abc").await;
    assert_eq!(again, path);
}
