//! Items whose `not_after` passes while they wait: they end by the engine's look, whoever would have taken
//! them (fence.md rule 24). And what is due all at once, after one of its profile or after days down.

use std::time::Duration;

use cove::model::{FailureCode, ItemState, Moment, TaskState, Timestamp, Verdict};
use cove::store::{Ask, Claim, ClockMark, ItemQuery, NewItem, NewTask, Store};

use super::{MOMENT, NOW, claim, ended, failure, furnished, item, keyed, only_item, open, publish, task};

const LIFE: Duration = Duration::from_secs(10);

fn after(by: Duration) -> Moment {
    Moment { wall: MOMENT.wall.plus(by), boot: MOMENT.boot.plus(by), ..MOMENT }
}

fn too_late() -> Moment {
    after(LIFE + Duration::from_millis(1))
}

fn dated(name: &str) -> NewItem {
    NewItem { not_after: Some(NOW.plus(LIFE)), ..item(name) }
}

async fn order(store: &Store, new: NewTask) -> cove::model::TaskId {
    store.enqueue(new, NOW).await.unwrap().task
}

#[tokio::test]
async fn rule_24_what_waits_anywhere_ends_a_millisecond_after_its_time_and_not_before() {
    let folder = tempfile::tempdir().unwrap();
    let opened = furnished(folder.path()).await;
    let store = &opened.store;
    let external = Some("studio".to_owned());
    let of_a_worker = order(store, NewTask { external, ..task(vec![dated("anna")]) }).await;
    let key = NewItem { not_after: Some(NOW.plus(LIFE)), ..keyed("anna", "spring") };
    let scheduled = NewItem { not_before: Some(NOW.plus(LIFE / 2)), ..dated("boris") };
    let in_house = order(store, task(vec![key.clone(), scheduled])).await;
    let paused = order(store, task(vec![dated("boris")])).await;
    assert!(store.ask(paused, Ask::Pause, NOW).await.unwrap());
    store.settle(paused, NOW).await.unwrap();
    let in_time = order(store, task(vec![item("anna")])).await;
    let running = order(store, task(vec![dated("anna")])).await;
    let running = only_item(store, running).await;
    let claimed = claim(store, running).await;

    let outlook = store.outlook(after(LIFE)).await.unwrap();
    assert_eq!(outlook.next_due, Some(too_late().wall), "the engine wakes for it");
    while store.promote(after(LIFE).wall).await.unwrap() {}
    for task in [of_a_worker, in_house, paused, in_time] {
        assert_eq!(store.task(task).await.unwrap().unwrap().task.counts.state(), TaskState::Queued);
    }
    assert!(store.outlook(too_late()).await.unwrap().overdue);
    while store.promote(too_late().wall).await.unwrap() {}
    assert!(!store.outlook(too_late()).await.unwrap().overdue);
    for task in [of_a_worker, in_house, paused] {
        let row = store.task(task).await.unwrap().unwrap().task;
        assert_eq!((row.counts.state(), row.finished_at), (TaskState::Failed, Some(too_late().wall)));
    }
    let late = store.item(only_item(store, of_a_worker).await).await.unwrap().unwrap();
    assert_eq!(late.failure.map(|failure| failure.code), Some(FailureCode::Overdue));
    assert_eq!(store.task(in_time).await.unwrap().unwrap().task.counts.state(), TaskState::Queued);
    // Its key is free, and what runs goes on: it started in time.
    order(store, task(vec![key])).await;
    assert_eq!(store.item(running).await.unwrap().unwrap().state, ItemState::Running);
    // Handed back, it may not start a second time.
    let again = Verdict::TryAgain { failure: failure(), due_at: NOW.plus(LIFE * 2), counted: true };
    store.finish(ended(running, claimed.fence, again), too_late().wall).await.unwrap().unwrap();
    store.promote(too_late().wall).await.unwrap();
    assert_eq!(store.item(running).await.unwrap().unwrap().state, ItemState::Failed);
    opened.close().await;
}

#[tokio::test]
async fn rule_20_by_a_clock_that_is_not_believed_nothing_is_too_late() {
    let folder = tempfile::tempdir().unwrap();
    let opened = furnished(folder.path()).await;
    let store = &opened.store;
    let made = order(store, task(vec![dated("anna")])).await;
    let id = only_item(store, made).await;
    let mark = ClockMark { believed: MOMENT, suspect_since: Some(too_late().wall) };
    store.mark_clock(mark).await.unwrap();
    while store.promote(too_late().wall).await.unwrap() {}
    assert_eq!(store.item(id).await.unwrap().unwrap().state, ItemState::Held);
    opened.close().await;
}

/// A resume of the task does not make its item's time come, and a resume of the engine is a human's word for the clock.
#[tokio::test]
async fn rule_20_a_resumed_task_is_due_by_the_believed_clock_and_a_human_resume_ends_the_suspicion() {
    let folder = tempfile::tempdir().unwrap();
    let opened = furnished(folder.path()).await;
    let store = &opened.store;
    let scheduled = NewItem { not_before: Some(NOW.plus(LIFE)), ..item("anna") };
    let made = order(store, task(vec![scheduled])).await;
    let id = only_item(store, made).await;
    assert!(store.ask(made, Ask::Pause, NOW).await.unwrap());
    while store.settle(made, NOW).await.unwrap().more {}
    let jumped = after(LIFE * 100);
    store.mark_clock(ClockMark { believed: MOMENT, suspect_since: Some(jumped.wall) }).await.unwrap();
    assert!(store.ask(made, Ask::Resume, jumped.wall).await.unwrap());
    while store.settle(made, jumped.wall).await.unwrap().more {}
    assert!(store.outlook(jumped).await.unwrap().heads.is_empty(), "its time has come by a clock that jumped");
    while store.promote(jumped.wall).await.unwrap() {}
    assert_eq!(store.item(id).await.unwrap().unwrap().state, ItemState::Held);
    // Nor does it where the clock had jumped before it was accepted.
    let scheduled = NewItem { not_before: Some(NOW.plus(LIFE)), ..item("boris") };
    store.enqueue(task(vec![scheduled]), jumped.wall).await.unwrap();
    assert!(store.outlook(jumped).await.unwrap().heads.is_empty(), "accepted by a clock that jumped");
    store.resume(false, jumped.wall).await.unwrap();
    let outlook = store.outlook(jumped).await.unwrap();
    assert_eq!((outlook.clock_suspect, outlook.heads.len()), (false, 1));
    opened.close().await;
}

#[tokio::test]
async fn rule_24_spacing_is_counted_from_the_last_click_over_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let opened = furnished(folder.path()).await;
    let minute = Duration::from_secs(60);
    let spaced = NewTask { spacing_seconds: 60, ..task(vec![item("anna"), item("anna")]) };
    order(&opened.store, spaced).await;
    let first = opened.store.outlook(MOMENT).await.unwrap().heads[0].item;
    publish(&opened.store, first, Verdict::OutcomeUnknown(failure())).await;
    opened.close().await;

    let opened = open(folder.path());
    let store = &opened.store;
    let second = store.outlook(MOMENT).await.unwrap().heads[0].item;
    let early = after(minute.checked_sub(Duration::from_millis(1)).unwrap());
    assert_eq!(store.claim(second, early).await.unwrap().unwrap(), Claim::Moved);
    let waits = store.item(second).await.unwrap().unwrap();
    assert_eq!((waits.state, waits.due_at), (ItemState::Queued, NOW.plus(minute)));
    store.promote(after(minute).wall).await.unwrap();
    assert!(matches!(store.claim(second, after(minute)).await.unwrap().unwrap(), Claim::Started(_)));
    opened.close().await;
}

/// More than one step of it, with a restart between two steps.
#[tokio::test]
async fn rule_24_what_was_missed_is_spread_in_its_order_and_says_for_when() {
    const MISSED: u64 = 1_100;
    let folder = tempfile::tempdir().unwrap();
    let opened = furnished(folder.path()).await;
    let many = order(&opened.store, task((0..MISSED).map(|_| item("anna")).collect())).await;
    let days = Duration::from_secs(3 * 86_400);
    let (now, tomorrow) = (NOW.plus(days), NOW.plus(days + Duration::from_secs(86_400)));
    let later = order(&opened.store, task(vec![NewItem { not_before: Some(tomorrow), ..item("boris") }])).await;
    assert!(opened.store.catch_up(60, now).await.unwrap());
    assert!(opened.store.outlook(Moment { wall: now, ..MOMENT }).await.unwrap().catching_up);
    opened.close().await;

    let opened = open(folder.path());
    let store = &opened.store;
    assert!(store.outlook(MOMENT).await.unwrap().catching_up, "a restart loses the place");
    // Another step of it, at another time: the interval is counted from the first.
    while store.catch_up(60, now.plus(Duration::from_secs(7))).await.unwrap() {}
    assert!(!store.outlook(MOMENT).await.unwrap().catching_up);
    let query = ItemQuery { task: Some(many), limit: 2_000, ..ItemQuery::default() };
    let mut items = store.items(query).await.unwrap().rows;
    items.sort_by_key(|item| item.id);
    let due: Vec<_> = items.iter().map(|item| item.due_at).collect();
    let expected = (1..MISSED).map(|n| now.plus(Duration::from_secs(60 * n)));
    assert_eq!(due, [Timestamp::ZERO].into_iter().chain(expected).collect::<Vec<_>>());
    let scheduled = store.item(only_item(store, later).await).await.unwrap().unwrap();
    assert_eq!(scheduled.due_at, tomorrow, "it was not missed");
    // One is there to start, and one more with each minute.
    for minutes in 0..3 {
        let wall = now.plus(Duration::from_secs(60 * minutes));
        while store.promote(wall).await.unwrap() {}
        let outlook = store.outlook(Moment { wall, ..MOMENT }).await.unwrap();
        assert_eq!(outlook.next_due, Some(wall.plus(Duration::from_secs(60))));
        let claimed = claim(store, outlook.heads[0].item).await;
        assert_eq!(claimed.item.id, items[usize::try_from(minutes).unwrap()].id);
        store.finish(ended(claimed.item.id, claimed.fence, Verdict::Failed(failure())), wall).await.unwrap().unwrap();
        assert!(store.release(claimed.item.profile, claimed.fence).await.unwrap());
        assert!(store.outlook(Moment { wall, ..MOMENT }).await.unwrap().heads.is_empty());
    }
    opened.close().await;
}
