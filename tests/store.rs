//! The store against a real file: the queue's operations, the fence's rules that live in it, and what a
//! restart or a restore finds. Every test ends with the check of all indexes.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "store/blind.rs"]
mod blind;
#[path = "store/claims.rs"]
mod claims;
#[path = "store/history.rs"]
mod history;
#[path = "store/inspect.rs"]
mod inspect;
#[path = "store/lent.rs"]
mod lent;
#[path = "store/outbox.rs"]
mod outbox;
#[path = "store/overdue.rs"]
mod overdue;
#[path = "store/tokens.rs"]
mod tokens;
#[path = "store/unknown.rs"]
mod unknown;
#[path = "store/verify.rs"]
mod verify;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use cove::model::{
    BootId, BootTime, Failure, FailureCode, Fence, FileInput, InputValue, ItemId, ItemState, Moment, OnUnknown,
    ProfileId, Proofs, Resolution, TaskState, Timestamp, Verdict,
};
use cove::store::{
    ArmRefused, Ask, AttemptEnded, BootReport, Claim, ClaimRefused, Claimed, EnqueueError, FinishRefused, Idempotency,
    ItemQuery, LEDGER_FILE, NewItem, NewTask, OpenError, Pause, STATE_FILE, Store, TaskQuery, WriterThread,
};

const NOW: Timestamp = Timestamp::from_millis(1_795_000_000_000);
const MOMENT: Moment = Moment { wall: NOW, boot: BootTime::from_millis(77_000), boot_id: BootId::new(1) };

struct Opened {
    store: Store,
    thread: WriterThread,
    report: BootReport,
}

fn open(folder: &Path) -> Opened {
    let (store, thread, report) = Store::open(folder, MOMENT).unwrap();
    Opened { store, thread, report }
}

impl Opened {
    /// Closes the file, so that it can be opened again.
    async fn close(self) {
        let differences = self.store.check_consistency().await.unwrap();
        assert!(differences.is_empty(), "{differences:#?}");
        drop(self.store);
        tokio::task::spawn_blocking(|| self.thread.join()).await.unwrap();
    }
}

fn profile(name: &str) -> ProfileId {
    ProfileId::new(name).unwrap()
}

async fn furnished(folder: &Path) -> Opened {
    let opened = open(folder);
    for name in ["anna", "boris"] {
        opened.store.create_profile(profile(name), name.to_owned(), NOW).await.unwrap();
    }
    opened.store.put_flow("atelier".to_owned(), "h1".to_owned(), b"{}".to_vec(), NOW).await.unwrap();
    opened
}

fn item(name: &str) -> NewItem {
    NewItem { profile: profile(name), inputs: BTreeMap::new(), key: None, not_before: None, not_after: None }
}

fn task(items: Vec<NewItem>) -> NewTask {
    NewTask {
        flow: "atelier".to_owned(),
        flow_hash: "h1".to_owned(),
        priority: 0,
        max_attempts: 3,
        spacing_seconds: 0,
        on_unknown: OnUnknown::Hold,
        external: None,
        verifiable: false,
        rehearsal: false,
        items,
        idempotency: None,
        webhook: None,
    }
}

fn keyed(name: &str, key: &str) -> NewItem {
    NewItem { key: Some(key.to_owned()), ..item(name) }
}

async fn only_item(store: &Store, task: cove::model::TaskId) -> ItemId {
    let query = ItemQuery { task: Some(task), limit: 10, ..ItemQuery::default() };
    store.items(query).await.unwrap().rows[0].id
}

async fn claim(store: &Store, item: ItemId) -> Claimed {
    match store.claim(item, MOMENT).await.unwrap() {
        Ok(Claim::Started(claimed)) => *claimed,
        other => panic!("{other:?}"),
    }
}

fn failure() -> Failure {
    Failure::new(FailureCode::ElementNotFound, "no button")
}

fn succeeded() -> Verdict {
    Verdict::Succeeded { url: Some("http://127.0.0.1/p/1".to_owned()), result: BTreeMap::new() }
}

fn ended(item: ItemId, fence: Fence, verdict: Verdict) -> AttemptEnded {
    AttemptEnded { item, fence, verdict, evidence: Vec::new(), effect: None }
}

/// Claims, arms and ends an item; frees its profile.
async fn publish(store: &Store, item: ItemId, verdict: Verdict) {
    let claimed = claim(store, item).await;
    store.arm(item, claimed.fence, Proofs::default(), MOMENT).await.unwrap().unwrap();
    store.finish(ended(item, claimed.fence, verdict), NOW).await.unwrap().unwrap();
    assert!(store.release(claimed.item.profile, claimed.fence).await.unwrap());
}

#[tokio::test]
async fn a_task_goes_through_its_life() {
    let folder = tempfile::tempdir().unwrap();
    let opened = furnished(folder.path()).await;
    let store = &opened.store;
    let made = store.enqueue(task(vec![item("anna"), item("boris")]), NOW).await.unwrap();
    assert_eq!((made.state, made.items, made.replayed), (Some(TaskState::Queued), 2, false));
    let outlook = store.outlook(MOMENT).await.unwrap();
    assert_eq!(outlook.heads.len(), 2);
    let claimed = claim(store, outlook.heads[0].item).await;
    assert_eq!(claimed.item.attempts, 1);
    assert_eq!(store.claim(claimed.item.id, MOMENT).await.unwrap().unwrap_err(), ClaimRefused::NotWaiting);
    assert_eq!(store.task(made.task).await.unwrap().unwrap().task.counts.state(), TaskState::Running);
    let ids: Vec<_> = outlook.heads.iter().map(|head| head.item).collect();
    store.finish(ended(ids[0], claimed.fence, Verdict::Failed(failure())), NOW).await.unwrap().unwrap();
    store.release(claimed.item.profile, claimed.fence).await.unwrap();
    publish(store, ids[1], succeeded()).await;
    let row = store.task(made.task).await.unwrap().unwrap();
    assert_eq!(row.task.counts.state(), TaskState::PartiallySucceeded);
    assert!(row.task.finished_at.is_some());
    let kinds: Vec<_> =
        store.events(made.task, None, 99).await.unwrap().into_iter().map(|row| row.event.kind).collect();
    assert_eq!(kinds, ["accepted", "started", "failed", "started", "armed", "succeeded"]);
    opened.close().await;
}

#[tokio::test]
async fn a_refused_operation_leaves_nothing_and_does_not_hurt_its_neighbours() {
    let folder = tempfile::tempdir().unwrap();
    let opened = furnished(folder.path()).await;
    let store = &opened.store;
    let before = store.dump().await.unwrap();
    let bad = [
        task(vec![item("anna"), item("nobody")]),
        NewTask { flow: "nothing".to_owned(), ..task(vec![item("anna")]) },
        NewTask { flow_hash: "h0".to_owned(), ..task(vec![item("anna")]) },
    ];
    for bad in bad {
        store.enqueue(bad, NOW).await.unwrap_err();
    }
    assert_eq!(store.dump().await.unwrap(), before);
    // Together in the queue of the writer: the good ones are stored, the bad ones are not.
    let calls = (0..200).map(|n| {
        let store = store.clone();
        async move {
            let name = if n % 3 == 0 { "nobody" } else { "anna" };
            store.enqueue(task(vec![item(name)]), NOW).await.is_ok()
        }
    });
    let stored = futures_util::future::join_all(calls).await.into_iter().filter(|ok| *ok).count();
    assert_eq!(stored, 133);
    assert_eq!(store.stats().await.unwrap().tasks, 133);
    opened.close().await;
}

#[tokio::test]
async fn rule_1_numbers_grow_over_restarts() {
    let folder = tempfile::tempdir().unwrap();
    let mut last = 0;
    for round in 0..4 {
        let opened = if round == 0 { furnished(folder.path()).await } else { open(folder.path()) };
        assert!(!opened.report.restored);
        let made = opened.store.enqueue(task(vec![item("anna")]), NOW).await.unwrap();
        assert!(made.task.raw() > last);
        last = made.task.raw();
        opened.close().await;
    }
}

#[tokio::test]
async fn rule_2_a_key_that_may_have_published_is_taken_and_one_that_ended_unarmed_is_free() {
    let folder = tempfile::tempdir().unwrap();
    let opened = furnished(folder.path()).await;
    let store = &opened.store;
    let first = store.enqueue(task(vec![keyed("anna", "spring-1")]), NOW).await.unwrap();
    let holder = only_item(store, first.task).await;
    let taken = |error| matches!(error, EnqueueError::KeyTaken { index: 1, item } if item == holder);
    // Another task, another profile: the same key all the same; and nothing of that request is stored.
    let again = || task(vec![item("boris"), keyed("boris", "spring-1")]);
    assert!(taken(store.enqueue(again(), NOW).await.unwrap_err()));
    assert_eq!(store.stats().await.unwrap().tasks, 1);
    publish(store, holder, Verdict::OutcomeUnknown(failure())).await;
    assert!(taken(store.enqueue(again(), NOW).await.unwrap_err()));

    let second = store.enqueue(task(vec![keyed("anna", "spring-2")]), NOW).await.unwrap();
    let unarmed = only_item(store, second.task).await;
    let claimed = claim(store, unarmed).await;
    store.finish(ended(unarmed, claimed.fence, Verdict::Failed(failure())), NOW).await.unwrap().unwrap();
    store.release(claimed.item.profile, claimed.fence).await.unwrap();
    store.enqueue(task(vec![keyed("anna", "spring-2")]), NOW).await.unwrap();
    opened.close().await;
}

#[tokio::test]
async fn rule_2_an_idempotency_key_gives_the_same_task_over_restarts_and_conflicts_on_another_body() {
    let folder = tempfile::tempdir().unwrap();
    let opened = furnished(folder.path()).await;
    let asked = |body: u8| NewTask {
        idempotency: Some(Idempotency { scope: String::new(), key: "k".to_owned(), body_hash: [body; 32] }),
        ..task(vec![item("anna"), keyed("boris", "own")])
    };
    let first = opened.store.enqueue(asked(1), NOW).await.unwrap();
    opened.close().await;
    let opened = open(folder.path());
    let again = opened.store.enqueue(asked(1), NOW).await.unwrap();
    assert_eq!((again.task, again.replayed, again.items), (first.task, true, 2));
    let conflict = opened.store.enqueue(asked(2), NOW).await.unwrap_err();
    assert!(matches!(conflict, EnqueueError::IdempotencyConflict { task } if task == first.task));
    let query = ItemQuery { task: Some(first.task), limit: 10, ..ItemQuery::default() };
    let keys: Vec<_> = opened.store.items(query).await.unwrap().rows.into_iter().map(|item| item.key).collect();
    assert_eq!(keys, [Some("own".to_owned()), Some("k#0".to_owned())]);
    opened.close().await;
}

#[tokio::test]
async fn rule_2_the_same_media_without_a_key_is_accepted_with_a_warning() {
    let folder = tempfile::tempdir().unwrap();
    let opened = furnished(folder.path()).await;
    let file =
        FileInput { path: "/srv/1.mp4".into(), sha256: "ab".repeat(32), bytes: 1, device: 1, inode: 1, mtime_ns: 0 };
    let with =
        |name: &str| NewItem { inputs: [("video".to_owned(), InputValue::File(file.clone()))].into(), ..item(name) };
    let first = opened.store.enqueue(task(vec![with("anna")]), NOW).await.unwrap();
    assert!(first.warnings.is_empty());
    let other_profile = opened.store.enqueue(task(vec![with("boris")]), NOW).await.unwrap();
    assert!(other_profile.warnings.is_empty());
    let again = opened.store.enqueue(task(vec![item("boris"), with("anna")]), NOW).await.unwrap();
    assert_eq!(again.warnings[0].index, 1);
    assert_eq!(again.warnings[0].older_item, only_item(&opened.store, first.task).await);
    // What ended without having published is no duplicate of anything; what went out is one for good.
    let boris = only_item(&opened.store, other_profile.task).await;
    let claimed = claim(&opened.store, boris).await;
    opened.store.finish(ended(boris, claimed.fence, Verdict::Failed(failure())), NOW).await.unwrap().unwrap();
    opened.store.release(claimed.item.profile, claimed.fence).await.unwrap();
    let third = opened.store.enqueue(task(vec![with("boris")]), NOW).await.unwrap();
    assert!(third.warnings.is_empty(), "{:?}", third.warnings);
    let published = only_item(&opened.store, third.task).await;
    publish(&opened.store, published, succeeded()).await;
    for _ in 0..2 {
        let again = opened.store.enqueue(task(vec![with("boris")]), NOW).await.unwrap();
        assert_eq!(again.warnings[0].older_item, published);
        assert!(opened.store.ask(again.task, Ask::Cancel, NOW).await.unwrap());
        opened.store.settle(again.task, NOW).await.unwrap();
    }
    opened.close().await;
}

/// A key says that the new one is another thing; that the older one had a key says nothing about the new one.
#[tokio::test]
async fn rule_2_an_item_without_a_key_is_told_of_an_older_one_that_had_a_key() {
    let folder = tempfile::tempdir().unwrap();
    let opened = furnished(folder.path()).await;
    let file =
        FileInput { path: "/srv/1.mp4".into(), sha256: "ab".repeat(32), bytes: 1, device: 1, inode: 1, mtime_ns: 0 };
    let with = |key: Option<&str>| NewItem {
        inputs: [("video".to_owned(), InputValue::File(file.clone()))].into(),
        key: key.map(str::to_owned),
        ..item("anna")
    };
    let first = opened.store.enqueue(task(vec![with(Some("spring-1"))]), NOW).await.unwrap();
    let other = opened.store.enqueue(task(vec![with(Some("spring-2"))]), NOW).await.unwrap();
    assert!(first.warnings.is_empty() && other.warnings.is_empty(), "their keys tell them apart");
    let bare = opened.store.enqueue(task(vec![with(None)]), NOW).await.unwrap();
    assert_eq!(bare.warnings[0].older_item, only_item(&opened.store, other.task).await);
    assert!(opened.store.check_consistency().await.unwrap().is_empty());
    opened.close().await;
}

#[tokio::test]
async fn rule_2_what_an_idempotency_key_made_is_told_as_it_ended_when_it_is_forgotten() {
    let folder = tempfile::tempdir().unwrap();
    let opened = furnished(folder.path()).await;
    // More than one step of forgetting: in between its counters have gone down.
    let asked = || NewTask {
        idempotency: Some(Idempotency { scope: String::new(), key: "k".to_owned(), body_hash: [1; 32] }),
        ..task(vec![item("anna"); 501])
    };
    let made = opened.store.enqueue(asked(), NOW).await.unwrap();
    assert!(!made.pruned);
    opened.store.ask(made.task, Ask::Cancel, NOW).await.unwrap();
    while opened.store.settle(made.task, NOW).await.unwrap().more {}
    let told = async |pruned: bool| {
        let again = opened.store.enqueue(asked(), NOW).await.unwrap();
        let expected = (made.task, true, pruned, Some(TaskState::Canceled), 501);
        assert_eq!((again.task, again.replayed, again.pruned, again.state, again.items), expected);
    };
    told(false).await;
    assert!(!opened.store.prune(made.task).await.unwrap(), "one step is not all of it");
    told(true).await;
    while !opened.store.prune(made.task).await.unwrap() {}
    assert!(opened.store.task(made.task).await.unwrap().is_none());
    told(true).await;
    opened.close().await;
}

#[tokio::test]
async fn rule_3_a_flow_in_use_is_not_deleted() {
    let folder = tempfile::tempdir().unwrap();
    let opened = furnished(folder.path()).await;
    let store = &opened.store;
    let made = store.enqueue(task(vec![item("anna")]), NOW).await.unwrap();
    store.delete_flow("atelier".to_owned()).await.unwrap_err();
    // Replaced by name: the task keeps what it pinned.
    store.put_flow("atelier".to_owned(), "h2".to_owned(), b"{2}".to_vec(), NOW).await.unwrap();
    assert_eq!(store.flow_by_hash("h1".to_owned()).await.unwrap().unwrap(), b"{}");
    store.ask(made.task, Ask::Cancel, NOW).await.unwrap();
    assert!(!store.settle(made.task, NOW).await.unwrap().more);
    store.delete_flow("atelier".to_owned()).await.unwrap();
    opened.close().await;
}

#[tokio::test]
async fn rule_4_arming_is_a_compare_and_set() {
    let folder = tempfile::tempdir().unwrap();
    let opened = furnished(folder.path()).await;
    let store = &opened.store;
    let made = store.enqueue(task(vec![item("anna"), item("anna")]), NOW).await.unwrap();
    let query = ItemQuery { task: Some(made.task), limit: 10, ..ItemQuery::default() };
    let ids: Vec<_> = store.items(query).await.unwrap().rows.into_iter().map(|item| item.id).collect();
    let first = claim(store, ids[0]).await;
    assert_eq!(store.claim(ids[1], MOMENT).await.unwrap().unwrap_err(), ClaimRefused::ProfileBusy);
    // Another item, an old fence, a lost lock, an intended cancel.
    assert_eq!(store.arm(ids[1], first.fence, Proofs::default(), MOMENT).await.unwrap(), Err(ArmRefused::Outdated));
    let again = Verdict::TryAgain { failure: failure(), due_at: NOW, counted: true };
    store.finish(ended(ids[0], first.fence, again), NOW).await.unwrap().unwrap();
    assert_eq!(store.arm(ids[0], first.fence, Proofs::default(), MOMENT).await.unwrap(), Err(ArmRefused::Outdated));
    store.release(profile("anna"), first.fence).await.unwrap();
    let second = claim(store, ids[0]).await;
    assert!(second.fence > first.fence);
    assert_eq!(store.arm(ids[0], first.fence, Proofs::default(), MOMENT).await.unwrap(), Err(ArmRefused::Outdated));
    assert!(!store.release(profile("anna"), first.fence).await.unwrap(), "an old fence frees nothing");
    store.release(profile("anna"), second.fence).await.unwrap();
    assert_eq!(store.arm(ids[0], second.fence, Proofs::default(), MOMENT).await.unwrap(), Err(ArmRefused::LockLost));
    let again = Verdict::TryAgain { failure: failure(), due_at: NOW, counted: true };
    store.finish(ended(ids[0], second.fence, again), NOW).await.unwrap().unwrap();
    let third = claim(store, ids[0]).await;
    store.ask(made.task, Ask::Cancel, NOW).await.unwrap();
    assert_eq!(store.arm(ids[0], third.fence, Proofs::default(), MOMENT).await.unwrap(), Err(ArmRefused::Canceled));
    assert!(std::fs::read_to_string(folder.path().join(LEDGER_FILE)).unwrap().lines().count() == 1, "only the epoch");
    opened.close().await;
}

#[tokio::test]
async fn rule_8_an_armed_item_ends_in_two_ways_alone() {
    let folder = tempfile::tempdir().unwrap();
    let opened = furnished(folder.path()).await;
    let store = &opened.store;
    let made = store.enqueue(task(vec![item("anna")]), NOW).await.unwrap();
    let id = only_item(store, made.task).await;
    let claimed = claim(store, id).await;
    store.arm(id, claimed.fence, Proofs::default(), MOMENT).await.unwrap().unwrap();
    assert_eq!(
        store.arm(id, claimed.fence, Proofs::default(), MOMENT).await.unwrap(),
        Err(ArmRefused::Outdated),
        "armed twice"
    );
    for verdict in [
        Verdict::Failed(failure()),
        Verdict::Canceled(failure()),
        Verdict::TryAgain { failure: failure(), due_at: NOW, counted: false },
    ] {
        let refused = store.finish(ended(id, claimed.fence, verdict), NOW).await.unwrap().unwrap_err();
        assert_eq!(refused, FinishRefused::Armed);
    }
    store.finish(ended(id, claimed.fence, Verdict::OutcomeUnknown(failure())), NOW).await.unwrap().unwrap();
    let again = store.finish(ended(id, claimed.fence, succeeded()), NOW).await.unwrap().unwrap_err();
    assert_eq!(again, FinishRefused::StaleFence);
    opened.close().await;
}

#[tokio::test]
async fn what_is_due_later_waits_and_is_promoted() {
    let folder = tempfile::tempdir().unwrap();
    let opened = furnished(folder.path()).await;
    let store = &opened.store;
    let later = NOW.plus(Duration::from_secs(60));
    store.enqueue(task(vec![NewItem { not_before: Some(later), ..item("anna") }]), NOW).await.unwrap();
    let outlook = store.outlook(MOMENT).await.unwrap();
    assert_eq!((outlook.heads.len(), outlook.overdue, outlook.next_due), (0, false, Some(later)));
    assert!(store.outlook(Moment { wall: later, ..MOMENT }).await.unwrap().overdue);
    assert!(!store.promote(later).await.unwrap());
    assert_eq!(store.outlook(Moment { wall: later, ..MOMENT }).await.unwrap().heads.len(), 1);
    opened.close().await;
}

#[tokio::test]
async fn pages_are_newest_first_and_meet_without_gap_or_overlap() {
    let folder = tempfile::tempdir().unwrap();
    let opened = furnished(folder.path()).await;
    let store = &opened.store;
    for n in 0..25 {
        let name = if n % 2 == 0 { "anna" } else { "boris" };
        store.enqueue(task(vec![item(name)]), NOW).await.unwrap();
    }
    for profile_name in [None, Some("anna")] {
        let mut seen = Vec::new();
        let mut before = None;
        loop {
            let profile = profile_name.map(profile);
            let page = store.tasks(TaskQuery { profile, before, limit: 4, ..TaskQuery::default() }).await.unwrap();
            assert!(page.rows.len() <= 4);
            seen.extend(page.rows.iter().map(|row| row.task.id.raw()));
            before = page.next;
            if before.is_none() {
                break;
            }
        }
        assert_eq!(seen.len(), if profile_name.is_some() { 13 } else { 25 });
        assert!(seen.windows(2).all(|pair| pair[0] > pair[1]));
    }
    opened.close().await;
}

/// Published is in the ledger before the commit: a kill in between leaves the store one line behind.
#[tokio::test]
async fn rule_7_published_in_the_ledger_and_not_in_the_store_is_succeeded_at_boot() {
    let folder = tempfile::tempdir().unwrap();
    let opened = furnished(folder.path()).await;
    let made = opened.store.enqueue(task(vec![item("anna")]), NOW).await.unwrap();
    let id = only_item(&opened.store, made.task).await;
    let claimed = claim(&opened.store, id).await;
    opened.store.arm(id, claimed.fence, Proofs::default(), MOMENT).await.unwrap().unwrap();
    // As a kill would leave it: every commit so far, and no word of a close.
    std::fs::copy(folder.path().join(STATE_FILE), folder.path().join("before")).unwrap();
    opened.store.finish(ended(id, claimed.fence, succeeded()), NOW).await.unwrap().unwrap();
    opened.close().await;
    std::fs::rename(folder.path().join("before"), folder.path().join(STATE_FILE)).unwrap();
    let opened = open(folder.path());
    assert!(!opened.report.restored);
    let item = opened.store.item(id).await.unwrap().unwrap();
    assert_eq!((item.state, item.url.as_deref()), (ItemState::Succeeded, Some("http://127.0.0.1/p/1")));
    opened.close().await;
}

#[tokio::test]
async fn rule_17_and_18_a_store_behind_its_ledger_is_restored_and_takes_over_what_the_ledger_knows() {
    let folder = tempfile::tempdir().unwrap();
    let opened = furnished(folder.path()).await;
    let made =
        opened.store.enqueue(task(vec![keyed("anna", "a"), keyed("boris", "b"), item("anna")]), NOW).await.unwrap();
    let query = ItemQuery { task: Some(made.task), limit: 10, ..ItemQuery::default() };
    let mut ids: Vec<_> =
        opened.store.items(query.clone()).await.unwrap().rows.into_iter().map(|item| item.id).collect();
    ids.sort();
    opened.close().await;
    std::fs::copy(folder.path().join(STATE_FILE), folder.path().join("snapshot")).unwrap();

    let opened = open(folder.path());
    publish(&opened.store, ids[0], succeeded()).await;
    publish(&opened.store, ids[1], Verdict::OutcomeUnknown(failure())).await;
    // And a task that the snapshot has never seen.
    let newer = opened.store.enqueue(task(vec![keyed("anna", "new")]), NOW).await.unwrap();
    publish(&opened.store, only_item(&opened.store, newer.task).await, succeeded()).await;
    let epoch = opened.report.epoch;
    opened.close().await;

    std::fs::rename(folder.path().join("snapshot"), folder.path().join(STATE_FILE)).unwrap();
    let opened = open(folder.path());
    let store = &opened.store;
    assert!(opened.report.restored);
    assert!(opened.report.epoch > epoch);
    assert!(matches!(opened.report.pause, Some(Pause::Restored { blind: false, .. })));
    let states: Vec<_> = {
        let mut rows = store.items(query).await.unwrap().rows;
        rows.sort_by_key(|item| item.id);
        rows.into_iter().map(|item| item.state).collect()
    };
    assert_eq!(states, [ItemState::Succeeded, ItemState::OutcomeUnknown, ItemState::Held]);
    for key in ["a", "b", "new"] {
        let again = store.enqueue(task(vec![keyed("boris", key)]), NOW).await.unwrap_err();
        assert!(matches!(again, EnqueueError::KeyTaken { .. }), "{key} may go out twice");
    }
    assert_eq!(store.claim(ids[2], MOMENT).await.unwrap().unwrap_err(), ClaimRefused::NotWaiting);
    store.resume(false, NOW).await.unwrap();
    claim(store, ids[2]).await;
    opened.close().await;
    // The same files again: nothing is behind any more.
    assert!(!open(folder.path()).report.restored);
}

#[tokio::test]
async fn rule_18_an_attempt_that_ran_when_the_state_was_saved_costs_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let opened = furnished(folder.path()).await;
    let once = NewTask { max_attempts: 1, ..task(vec![item("anna")]) };
    let made = opened.store.enqueue(once, NOW).await.unwrap();
    let id = only_item(&opened.store, made.task).await;
    let claimed = claim(&opened.store, id).await;
    opened.close().await;
    std::fs::copy(folder.path().join(STATE_FILE), folder.path().join("snapshot")).unwrap();

    let opened = open(folder.path());
    let again = Verdict::TryAgain { failure: failure(), due_at: NOW, counted: false };
    opened.store.finish(ended(id, claimed.fence, again), NOW).await.unwrap().unwrap();
    let newer = opened.store.enqueue(task(vec![item("boris")]), NOW).await.unwrap();
    publish(&opened.store, only_item(&opened.store, newer.task).await, succeeded()).await;
    opened.close().await;

    std::fs::rename(folder.path().join("snapshot"), folder.path().join(STATE_FILE)).unwrap();
    let opened = open(folder.path());
    assert!(opened.report.restored);
    opened.store.resume(false, NOW).await.unwrap();
    assert_eq!(claim(&opened.store, id).await.item.attempts_spent(), 1);
    opened.close().await;
}

/// An item waits in the copy, is canceled after it, and another goes out under its key: the copy must not send it.
#[tokio::test]
async fn rule_2_and_18_after_a_restore_an_item_gives_way_to_the_one_that_went_out_under_its_key() {
    let folder = tempfile::tempdir().unwrap();
    let opened = furnished(folder.path()).await;
    let made = opened.store.enqueue(task(vec![keyed("anna", "spring")]), NOW).await.unwrap();
    let first = only_item(&opened.store, made.task).await;
    opened.close().await;
    std::fs::copy(folder.path().join(STATE_FILE), folder.path().join("snapshot")).unwrap();

    let opened = open(folder.path());
    assert!(opened.store.ask(made.task, Ask::Cancel, NOW).await.unwrap());
    while opened.store.settle(made.task, NOW).await.unwrap().more {}
    let again = opened.store.enqueue(task(vec![keyed("boris", "spring")]), NOW).await.unwrap();
    publish(&opened.store, only_item(&opened.store, again.task).await, succeeded()).await;
    opened.close().await;

    std::fs::rename(folder.path().join("snapshot"), folder.path().join(STATE_FILE)).unwrap();
    let opened = open(folder.path());
    assert!(opened.report.restored);
    opened.store.resume(false, NOW).await.unwrap();
    let item = opened.store.item(first).await.unwrap().unwrap();
    assert_eq!((item.state, item.failure.unwrap().code), (ItemState::Failed, FailureCode::KeyTaken));
    assert!(opened.store.outlook(MOMENT).await.unwrap().heads.is_empty());
    let taken = opened.store.enqueue(task(vec![keyed("anna", "spring")]), NOW).await.unwrap_err();
    assert!(matches!(taken, EnqueueError::KeyTaken { .. }), "{taken:?}");
    opened.close().await;
}

/// A human lets an item be tried anew, whatever it had spent: after a restore as well.
#[tokio::test]
async fn rule_18_what_a_human_said_was_not_published_has_all_its_attempts_after_a_restore_too() {
    let folder = tempfile::tempdir().unwrap();
    let opened = furnished(folder.path()).await;
    let once = NewTask { max_attempts: 1, ..task(vec![item("anna")]) };
    let made = opened.store.enqueue(once, NOW).await.unwrap();
    let id = only_item(&opened.store, made.task).await;
    publish(&opened.store, id, Verdict::OutcomeUnknown(failure())).await;
    opened.close().await;
    std::fs::copy(folder.path().join(STATE_FILE), folder.path().join("snapshot")).unwrap();

    let opened = open(folder.path());
    opened.store.resolve(id, Resolution::NotPublished, None, String::new(), NOW).await.unwrap();
    // What makes the state older than its ledger.
    let newer = opened.store.enqueue(task(vec![item("boris")]), NOW).await.unwrap();
    publish(&opened.store, only_item(&opened.store, newer.task).await, succeeded()).await;
    opened.close().await;

    std::fs::rename(folder.path().join("snapshot"), folder.path().join(STATE_FILE)).unwrap();
    let opened = open(folder.path());
    assert!(opened.report.restored);
    opened.store.resume(false, NOW).await.unwrap();
    let claimed = claim(&opened.store, id).await;
    assert_eq!((claimed.item.attempts, claimed.item.attempts_spent()), (2, 1));
    opened.close().await;
}

#[tokio::test]
async fn rule_19_a_lost_ledger_needs_a_human_who_accepts_duplicates() {
    let folder = tempfile::tempdir().unwrap();
    let opened = furnished(folder.path()).await;
    opened.store.enqueue(task(vec![item("anna")]), NOW).await.unwrap();
    opened.close().await;
    std::fs::remove_file(folder.path().join(LEDGER_FILE)).unwrap();
    let opened = open(folder.path());
    assert!(matches!(opened.report.pause, Some(Pause::Restored { blind: true, .. })));
    assert!(opened.store.outlook(MOMENT).await.unwrap().heads.is_empty());
    opened.store.resume(false, NOW).await.unwrap_err();
    opened.store.resume(true, NOW).await.unwrap();
    assert_eq!(opened.store.outlook(MOMENT).await.unwrap().heads.len(), 1);
    opened.close().await;
}

/// A page decides what its address is: it must not be able to write a line that cannot be read again.
#[tokio::test]
async fn rule_11_an_endless_address_does_not_damage_the_ledger() {
    let folder = tempfile::tempdir().unwrap();
    let opened = furnished(folder.path()).await;
    let made = opened.store.enqueue(task(vec![item("anna")]), NOW).await.unwrap();
    let id = only_item(&opened.store, made.task).await;
    let url = Some("\u{1}ж".repeat(500_000));
    publish(&opened.store, id, Verdict::Succeeded { url, result: BTreeMap::new() }).await;
    // Something behind it: a bad last line would only be cut off.
    let made = opened.store.enqueue(task(vec![item("anna")]), NOW).await.unwrap();
    publish(&opened.store, only_item(&opened.store, made.task).await, succeeded()).await;
    opened.close().await;
    let opened = open(folder.path());
    assert_eq!((opened.report.ledger_damage.as_deref(), opened.report.restored), (None, false));
    let kept = opened.store.item(id).await.unwrap().unwrap();
    assert!(kept.state == ItemState::Succeeded && kept.url.unwrap().len() <= 4_096);
    opened.close().await;
}

#[tokio::test]
async fn rule_11_a_damaged_ledger_holds_everything() {
    let folder = tempfile::tempdir().unwrap();
    let opened = furnished(folder.path()).await;
    let made = opened.store.enqueue(task(vec![item("anna"), item("boris")]), NOW).await.unwrap();
    let query = ItemQuery { task: Some(made.task), limit: 10, ..ItemQuery::default() };
    for row in opened.store.items(query).await.unwrap().rows {
        publish(&opened.store, row.id, succeeded()).await;
    }
    let waiting = opened.store.enqueue(task(vec![item("anna")]), NOW).await.unwrap();
    let waiting = only_item(&opened.store, waiting.task).await;
    opened.close().await;
    let path = folder.path().join(LEDGER_FILE);
    let mut bytes = std::fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 4;
    std::fs::write(&path, &bytes).unwrap();
    let opened = open(folder.path());
    assert!(opened.report.ledger_damage.is_some());
    assert_eq!(opened.store.claim(waiting, MOMENT).await.unwrap().unwrap_err(), ClaimRefused::Paused);
    assert_eq!(std::fs::read(&path).unwrap(), bytes, "a damaged ledger was changed");
    opened.close().await;
}

#[tokio::test]
async fn a_file_that_is_no_state_file_is_refused_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(STATE_FILE);
    for content in [b"".as_slice(), b"SQLite format 3\0", &[0; 8192], b"redb"] {
        std::fs::write(&path, content).unwrap();
        let error = Store::open(folder.path(), MOMENT).err().unwrap();
        assert!(matches!(error, OpenError::NotAStateFile { .. }), "{error}");
        assert_eq!(std::fs::read(&path).unwrap(), content);
        assert!(!folder.path().join(LEDGER_FILE).exists(), "a refusal makes no file");
    }
    // A redb file of another program.
    std::fs::remove_file(&path).unwrap();
    drop(redb::Database::create(&path).unwrap());
    assert!(matches!(Store::open(folder.path(), MOMENT).err().unwrap(), OpenError::NotAStateFile { .. }));
}

#[tokio::test]
async fn a_newer_schema_and_a_held_file_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let opened = furnished(folder.path()).await;
    assert!(matches!(Store::open(folder.path(), MOMENT).err().unwrap(), OpenError::Held(_)));
    opened.close().await;
    let schema: redb::TableDefinition<&str, u32> = redb::TableDefinition::new("schema");
    let db = redb::Database::open(folder.path().join(STATE_FILE)).unwrap();
    let txn = db.begin_write().unwrap();
    txn.open_table(schema).unwrap().insert("version", 999).unwrap();
    txn.commit().unwrap();
    drop(db);
    let error = Store::open(folder.path(), MOMENT).err().unwrap();
    assert!(matches!(error, OpenError::NewerSchema { found: 999, .. }), "{error}");
}
