//! The schedule of verifies in its own time, from an unknown outcome to whatever it ends in (fence.md rules 12, 13).

use std::collections::BTreeMap;
use std::time::Duration;

use cove::model::{Item, ItemId, ItemState, Moment, OnUnknown, Timestamp, Verdict};
use cove::store::{Ask, ClaimRefused, LEDGER_FILE, NewTask, Pause, ResumeRefused, Store, Verified, VerifyFinding};

use super::{MOMENT, NOW, failure, furnished, item, only_item, open, profile, publish, task};

/// Armed, unknown, and its profile free again.
async fn unknown(store: &Store, new: NewTask) -> ItemId {
    let made = store.enqueue(new, NOW).await.unwrap();
    let id = only_item(store, made.task).await;
    publish(store, id, Verdict::OutcomeUnknown(failure())).await;
    id
}

fn retrying() -> NewTask {
    NewTask { verifiable: true, on_unknown: OnUnknown::Retry, ..task(vec![item("anna")]) }
}

/// Runs the schedule in its own time, as long as there is a run; what the item is at its end, and how long it took.
async fn whole_schedule(store: &Store, id: ItemId, finding: impl Fn(u32) -> VerifyFinding) -> (Item, Duration) {
    let mut now = NOW;
    for run in 0.. {
        let at = |wall| Moment { wall, ..MOMENT };
        let item = store.item(id).await.unwrap().unwrap();
        let Some(next_at) = item.verify.and_then(|plan| plan.next_at) else { return (item, now.since(NOW)) };
        if next_at > now {
            let early = Timestamp::from_millis(next_at.as_millis() - 1);
            assert_eq!(store.begin_verify(id, at(early)).await.unwrap().unwrap_err(), ClaimRefused::NotWaiting);
        }
        now = next_at;
        assert_eq!(
            store.claim(id, at(now)).await.unwrap().unwrap_err(),
            ClaimRefused::NotWaiting,
            "it is only looked for"
        );
        let begun = store.begin_verify(id, at(now)).await.unwrap().unwrap();
        let effect = None;
        let end = Verified { item: id, fence: begun.fence, finding: finding(run), evidence: Vec::new(), effect };
        store.finish_verify(end, now).await.unwrap().unwrap();
        // Its browser is not dead yet: whatever was found, nothing of this profile starts.
        assert!(store.claim(id, at(now)).await.unwrap().is_err(), "started beside the browser that looked");
        assert!(store.release(profile("anna"), begun.fence).await.unwrap());
    }
    unreachable!()
}

fn not_found(_: u32) -> VerifyFinding {
    VerifyFinding::NotFound("0 fit".to_owned())
}

#[tokio::test]
async fn rule_13_a_whole_schedule_that_said_not_found_queues_it_again_once_and_the_ledger_knows() {
    let folder = tempfile::tempdir().unwrap();
    let opened = furnished(folder.path()).await;
    let store = &opened.store;
    let id = unknown(store, retrying()).await;
    let resolved = || {
        let ledger = std::fs::read_to_string(folder.path().join(LEDGER_FILE)).unwrap();
        ledger.lines().filter(|line| line.contains("\"resolved\"") && line.contains("\"not_published\"")).count()
    };
    assert_eq!(resolved(), 0);
    let (item, took) = whole_schedule(store, id, not_found).await;
    assert_eq!((item.state, took), (ItemState::Queued, Duration::from_secs(81 * 60)));
    assert_eq!((item.verify, item.cleared_fence), (None, item.armed_fence));
    assert_eq!(resolved(), 1);
    // Once: the same over again, and the attempts of the task are a bound to it.
    publish(store, id, Verdict::OutcomeUnknown(failure())).await;
    assert_eq!(whole_schedule(store, id, not_found).await.0.state, ItemState::Queued);
    publish(store, id, Verdict::OutcomeUnknown(failure())).await;
    let (item, _) = whole_schedule(store, id, not_found).await;
    assert_eq!((item.state, item.attempts), (ItemState::OutcomeUnknown, 3), "three attempts were allowed");
    assert_eq!(resolved(), 2);
    opened.close().await;
    // A restart brings back neither the question nor a click.
    let opened = open(folder.path());
    assert_eq!(opened.store.item(id).await.unwrap().unwrap(), item);
    opened.close().await;
}

#[tokio::test]
async fn rule_13_one_inconclusive_look_or_the_word_hold_or_a_cancel_is_never_a_second_click() {
    let folder = tempfile::tempdir().unwrap();
    let opened = furnished(folder.path()).await;
    let store = &opened.store;
    for bad in 0..5 {
        let id = unknown(store, retrying()).await;
        let finding = |run| if run == bad { VerifyFinding::Inconclusive(failure()) } else { not_found(run) };
        let (item, took) = whole_schedule(store, id, finding).await;
        assert_eq!((item.state, took), (ItemState::OutcomeUnknown, Duration::from_secs(81 * 60)), "run {bad}");
        assert_eq!(item.cleared_fence, None);
        assert_eq!(store.claim(id, MOMENT).await.unwrap().unwrap_err(), ClaimRefused::NotWaiting);
    }
    let id = unknown(store, NewTask { on_unknown: OnUnknown::Hold, ..retrying() }).await;
    assert_eq!(whole_schedule(store, id, not_found).await.0.state, ItemState::OutcomeUnknown);
    let id = unknown(store, retrying()).await;
    let task = store.item(id).await.unwrap().unwrap().task;
    store.ask(task, Ask::Cancel, NOW).await.unwrap();
    assert_eq!(whole_schedule(store, id, not_found).await.0.state, ItemState::OutcomeUnknown);
    let ledger = std::fs::read_to_string(folder.path().join(LEDGER_FILE)).unwrap();
    assert!(!ledger.contains("\"resolved\""), "{ledger}");
    opened.close().await;
}

#[tokio::test]
async fn rule_12_found_in_the_middle_of_the_schedule_is_succeeded_and_ends_it() {
    let folder = tempfile::tempdir().unwrap();
    let opened = furnished(folder.path()).await;
    let store = &opened.store;
    let id = unknown(store, retrying()).await;
    let found = || VerifyFinding::Found { url: Some("http://127.0.0.1/p/1".to_owned()), result: BTreeMap::new() };
    let finding = |run| if run == 2 { found() } else { not_found(run) };
    let (item, took) = whole_schedule(store, id, finding).await;
    assert_eq!((item.state, took), (ItemState::Succeeded, Duration::from_secs(6 * 60)));
    assert_eq!(item.url.as_deref(), Some("http://127.0.0.1/p/1"));
    let ledger = std::fs::read_to_string(folder.path().join(LEDGER_FILE)).unwrap();
    assert!(ledger.contains("\"resolved\"") && ledger.contains("\"published\""), "{ledger}");
    opened.close().await;
}

/// Nobody knows what went out since a state whose ledger is lost was saved: a look may find out, one item at a time.
#[tokio::test]
async fn rule_19_what_a_blind_restore_holds_is_released_by_what_a_verify_finds_and_by_nothing_less() {
    let folder = tempfile::tempdir().unwrap();
    let opened = furnished(folder.path()).await;
    let mut ids = Vec::new();
    for _ in 0..3 {
        let made = opened.store.enqueue(NewTask { on_unknown: OnUnknown::Hold, ..retrying() }, NOW).await.unwrap();
        ids.push(only_item(&opened.store, made.task).await);
    }
    let [there, missing, unclear] = ids[..] else { unreachable!() };
    opened.close().await;
    std::fs::remove_file(folder.path().join(LEDGER_FILE)).unwrap();

    let opened = open(folder.path());
    let store = &opened.store;
    assert!(matches!(opened.report.pause, Some(Pause::Restored { blind: true, .. })));
    let found = |_| VerifyFinding::Found { url: None, result: BTreeMap::new() };
    assert_eq!(whole_schedule(store, there, found).await.0.state, ItemState::Succeeded);
    let inconclusive = |run| if run == 3 { VerifyFinding::Inconclusive(failure()) } else { not_found(run) };
    assert_eq!(whole_schedule(store, unclear, inconclusive).await.0.state, ItemState::Held);
    assert_eq!(whole_schedule(store, missing, not_found).await.0.state, ItemState::Queued);
    // Released is not started: a human resumes, and may not while anything is held that nobody has found out about.
    assert_eq!(store.claim(missing, MOMENT).await.unwrap().unwrap_err(), ClaimRefused::Paused);
    assert!(matches!(store.resume(false, NOW).await.unwrap_err(), ResumeRefused::Blind));
    let task = store.item(unclear).await.unwrap().unwrap().task;
    store.ask(task, Ask::Cancel, NOW).await.unwrap();
    store.settle(task, NOW).await.unwrap();
    store.resume(false, NOW).await.unwrap();
    assert!(store.claim(missing, MOMENT).await.unwrap().is_ok());
    opened.close().await;
}
