//! The outbox: what is told stands in the transaction of what happened, is found a target at a time, and is
//! let go after its time.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use cove::model::Proofs;
use cove::model::{
    Delivery, DeliveryId, DeliveryState, FailureCode, HookEvent, InputValue, Secret, TaskId, Timestamp, Tried, Verdict,
    Webhook,
};
use cove::store::{DueLook, ItemQuery, NewItem, NewTask, RetryRefused, STATE_FILE, Store, TryEnd};
use futures_util::future::join_all;

use super::{MOMENT, NOW, claim, ended, failure, furnished, item, only_item, open, publish, succeeded, task};

fn told(url: &str, items: Vec<NewItem>) -> NewTask {
    let secret = Secret::new("hush-hush-secret").ok();
    NewTask { webhook: Some(Webhook::new(url, secret).unwrap()), ..task(items) }
}

/// Fails by itself as soon as it is claimed.
fn overdue(name: &str) -> NewItem {
    NewItem { not_after: Some(Timestamp::from_millis(1)), ..item(name) }
}

async fn deliveries(store: &Store, task: TaskId) -> Vec<Delivery> {
    let mut rows = store.deliveries(task, None, 1_000).await.unwrap().rows;
    rows.reverse();
    rows
}

/// Items of a task, oldest first.
async fn items(store: &Store, task: TaskId) -> Vec<cove::model::ItemId> {
    let mut found = Vec::new();
    let mut query = ItemQuery { task: Some(task), limit: 1_000, ..ItemQuery::default() };
    loop {
        let page = store.items(query.clone()).await.unwrap();
        found.extend(page.rows.into_iter().map(|item| item.id));
        query.before = page.next;
        if page.next.is_none() {
            found.reverse();
            return found;
        }
    }
}

async fn due(store: &Store, now: Timestamp) -> Vec<DeliveryId> {
    let look = DueLook { now, limit: 99, ..DueLook::default() };
    store.due_deliveries(look).await.unwrap().heads.into_iter().map(|head| head.delivery.id).collect()
}

async fn record(store: &Store, delivery: &Delivery, end: TryEnd) -> bool {
    let tried = Tried::new(NOW, 7, Some(500), Some("500 Internal Server Error".to_owned()));
    store.record_delivery(delivery.id, delivery.attempts, tried, end).await.unwrap()
}

#[tokio::test]
async fn every_outcome_is_told_with_what_was_true_then_and_without_inputs() {
    let folder = tempfile::tempdir().unwrap();
    let opened = furnished(folder.path()).await;
    let store = &opened.store;
    let inputs: BTreeMap<_, _> = [("pin".to_owned(), InputValue::Text("input-1234".to_owned()))].into();
    let with = |name: &str| NewItem { inputs: inputs.clone(), key: Some(format!("key-{name}")), ..item(name) };
    let asked = told("https://host/in?token=query-token", vec![with("anna"), item("boris"), overdue("anna")]);
    let made = store.enqueue(asked, NOW).await.unwrap();
    let ids = items(store, made.task).await;
    assert!(deliveries(store, made.task).await.is_empty(), "nothing has happened yet");
    let result = [("post".to_owned(), "7".to_owned())].into();
    publish(store, ids[0], Verdict::Succeeded { url: Some("http://127.0.0.1/p/1".to_owned()), result }).await;
    store.claim(ids[2], MOMENT).await.unwrap().unwrap();
    publish(store, ids[1], Verdict::OutcomeUnknown(failure())).await;
    let sent = deliveries(store, made.task).await;
    let events: Vec<_> = sent.iter().map(|delivery| (delivery.event, delivery.item)).collect();
    let expected = [(HookEvent::Succeeded, 0), (HookEvent::Failed, 2), (HookEvent::OutcomeUnknown, 1)];
    assert_eq!(events, expected.map(|(event, index)| (event, Some(ids[index]))), "an unknown item finishes no task");
    let body = sent[0].body();
    assert_eq!((&body["id"], &body["type"]), (&sent[0].id.to_string().into(), &"item.succeeded".into()));
    let data = &body["data"];
    assert_eq!((&data["state"], &data["key"], &data["attempts"]), (&"succeeded".into(), &"key-anna".into(), &1.into()));
    assert_eq!((&data["url"], &data["result"]["post"]), (&"http://127.0.0.1/p/1".into(), &"7".into()));
    assert_eq!(sent[1].body()["data"]["error"]["code"], FailureCode::Overdue.name());
    let all: String = sent.iter().map(|delivery| delivery.body().to_string()).collect();
    assert!(!all.contains("input-1234") && !all.contains("pin"), "{all}");
    assert!(sent.iter().all(|delivery| delivery.target == "https://host"));

    let plain = store.enqueue(task(vec![overdue("anna")]), NOW).await.unwrap();
    store.claim(only_item(store, plain.task).await, MOMENT).await.unwrap().unwrap();
    assert!(deliveries(store, plain.task).await.is_empty(), "a task without a webhook");

    let ends = store.enqueue(told("https://host/", vec![overdue("anna")]), NOW).await.unwrap();
    store.claim(only_item(store, ends.task).await, MOMENT).await.unwrap().unwrap();
    let finished = deliveries(store, ends.task).await;
    let events: Vec<_> = finished.iter().map(|delivery| delivery.event).collect();
    assert_eq!(events, [HookEvent::Failed, HookEvent::TaskFinished]);
    assert_eq!(finished[1].body()["data"]["counts"]["failed"], 1);

    let dump = store.dump().await.unwrap();
    assert!(dump.contains("Webhook") && dump.contains("delivery Delivery"));
    assert!(!dump.contains("hush-hush") && !dump.contains("query-token"), "{dump}");
    opened.close().await;
}

/// Whoever looks, whenever: as many items have ended as are told of. A crash leaves what a look could see.
#[tokio::test(flavor = "multi_thread")]
async fn a_change_and_what_is_told_of_it_are_never_apart() {
    let folder = tempfile::tempdir().unwrap();
    let opened = furnished(folder.path()).await;
    let store = &opened.store;
    let many = (0..400).map(|_| overdue("anna")).collect();
    let made = store.enqueue(told("https://host/", many), NOW).await.unwrap();
    let ids = items(store, made.task).await;
    let moving = async { join_all(ids.iter().map(|id| store.claim(*id, MOMENT))).await };
    let looking = async {
        let mut looks = BTreeSet::new();
        loop {
            let dump = store.dump().await.unwrap();
            let count = |prefix: &str, what: &str| {
                dump.lines().filter(|line| line.starts_with(prefix) && line.contains(what)).count()
            };
            let ended = count("item ", "state: Failed");
            assert_eq!(count("delivery ", "event: Failed"), ended);
            assert_eq!(count("delivery ", "event: TaskFinished"), usize::from(ended == ids.len()));
            looks.insert(ended);
            if ended == ids.len() {
                return looks;
            }
        }
    };
    let (moved, looks) = tokio::join!(moving, looking);
    assert!(moved.into_iter().all(|claim| claim.unwrap().is_ok()));
    assert!(looks.len() > 1, "only the end was seen: {looks:?}");
    opened.close().await;
}

#[tokio::test]
async fn what_is_due_is_one_a_target_each_in_its_turn() {
    let folder = tempfile::tempdir().unwrap();
    let opened = furnished(folder.path()).await;
    let store = &opened.store;
    let mut first = Vec::new();
    for host in ["a", "b", "c"] {
        let asked = told(&format!("https://{host}/"), vec![overdue("anna"), overdue("anna")]);
        let made = store.enqueue(asked, NOW).await.unwrap();
        for id in items(store, made.task).await {
            store.claim(id, MOMENT).await.unwrap().unwrap();
        }
        first.push(deliveries(store, made.task).await.swap_remove(0));
    }
    let look = |after: Option<&str>, skip: &[&str], limit| {
        let look = DueLook {
            now: NOW,
            after: after.map(|host| format!("https://{host}")),
            skip: skip.iter().map(|host| format!("https://{host}")).collect(),
            limit,
        };
        async move {
            let found = store.due_deliveries(look).await.unwrap();
            let hosts: Vec<_> = found.heads.iter().map(|head| head.delivery.target.replace("https://", "")).collect();
            (hosts.concat(), found.next_at)
        }
    };
    assert_eq!(look(None, &[], 99).await, ("abc".to_owned(), None));
    assert_eq!(look(None, &[], 2).await.0, "ab");
    assert_eq!(look(Some("b"), &[], 2).await.0, "ca");
    assert_eq!(look(Some("b"), &["a"], 99).await.0, "cb");
    assert_eq!(look(Some("c"), &[], 99).await.0, "abc");
    assert_eq!(look(Some("nobody"), &["a", "b", "c"], 99).await.0, "");
    assert_eq!(
        due(store, NOW).await,
        first.iter().map(|delivery| delivery.id).collect::<Vec<_>>(),
        "the oldest of each"
    );
    // Put off: the next of that target is due, then the one that was put off.
    let later = NOW.plus(Duration::from_secs(5));
    assert!(record(store, &first[0], TryEnd::Again { at: later }).await);
    let mut left = Vec::new();
    loop {
        let look = DueLook { now: NOW, limit: 1, ..DueLook::default() };
        let head = store.due_deliveries(look).await.unwrap().heads.remove(0).delivery;
        if head.target != "https://a" {
            break;
        }
        left.push(head.event);
        assert!(record(store, &head, TryEnd::Delivered).await);
    }
    assert_eq!(left, [HookEvent::Failed, HookEvent::TaskFinished]);
    assert_eq!(look(None, &[], 99).await, ("bc".to_owned(), Some(later)));
    assert_eq!(due(store, later).await[0], first[0].id);
    opened.close().await;
}

#[tokio::test]
async fn a_try_is_recorded_once_and_what_was_given_up_can_be_asked_for_again() {
    let folder = tempfile::tempdir().unwrap();
    let opened = furnished(folder.path()).await;
    let store = &opened.store;
    let made = store.enqueue(told("https://host/", vec![overdue("anna")]), NOW).await.unwrap();
    store.claim(only_item(store, made.task).await, MOMENT).await.unwrap().unwrap();
    let [failed, finished] = deliveries(store, made.task).await.try_into().unwrap();
    assert!(record(store, &failed, TryEnd::Again { at: NOW }).await);
    assert!(!record(store, &failed, TryEnd::Delivered).await, "an old try changes nothing");
    let again = &deliveries(store, made.task).await[0];
    assert_eq!((again.attempts, again.first_tried_at), (1, Some(NOW)));
    assert_eq!(again.last.as_ref().unwrap().error.as_deref(), Some("500 Internal Server Error"));
    let pending = store.retry_delivery(made.task, failed.id, NOW).await.unwrap_err();
    assert!(matches!(pending, RetryRefused::NotGivenUp(DeliveryState::Pending)));
    assert!(record(store, again, TryEnd::GivenUp).await);
    assert!(record(store, &finished, TryEnd::Delivered).await);
    assert!(due(store, NOW).await.is_empty());
    let delivered = store.retry_delivery(made.task, finished.id, NOW).await.unwrap_err();
    assert!(matches!(delivered, RetryRefused::NotGivenUp(DeliveryState::Delivered)));
    let other = store.enqueue(task(vec![item("boris")]), NOW).await.unwrap();
    for (task, id) in [(other.task, failed.id), (made.task, DeliveryId::new(1))] {
        assert!(matches!(store.retry_delivery(task, id, NOW).await.unwrap_err(), RetryRefused::NotFound));
    }
    let back = store.retry_delivery(made.task, failed.id, NOW).await.unwrap();
    assert_eq!((back.id, back.state, back.attempts), (failed.id, DeliveryState::Pending, 0));
    assert_eq!(due(store, NOW).await, [failed.id]);
    let events = store.events(made.task, None, 99).await.unwrap();
    let kinds: Vec<_> = events.iter().map(|row| row.event.kind.as_str()).collect();
    assert_eq!(kinds, ["accepted", "failed", "webhook_given_up", "webhook_retried"]);
    assert!(events[2].event.detail.contains("500 Internal"), "{}", events[2].event.detail);
    opened.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_keeps_ten_thousand_for_thirty_days_and_whatever_waits() {
    let folder = tempfile::tempdir().unwrap();
    let opened = furnished(folder.path()).await;
    let store = &opened.store;
    let many = (0..10_200).map(|_| overdue("anna")).collect();
    let made = store.enqueue(told("https://host/", many), NOW).await.unwrap();
    let ids = items(store, made.task).await;
    join_all(ids.iter().map(|id| store.claim(*id, MOMENT))).await;
    let mut all = Vec::new();
    let mut before = None;
    loop {
        let page = store.deliveries(made.task, before, 1_000).await.unwrap();
        all.extend(page.rows);
        before = page.next;
        if before.is_none() {
            break;
        }
    }
    assert_eq!(all.len(), 10_201);
    // The oldest of all still waits; it stays.
    let waiting = all.pop().unwrap();
    let ended = join_all(all.iter().map(|delivery| record(store, delivery, TryEnd::Delivered))).await;
    assert!(ended.into_iter().all(|recorded| recorded));
    assert!(!store.prune_deliveries(NOW).await.unwrap(), "200 too many are one step");
    let left = async || store.dump().await.unwrap().lines().filter(|line| line.starts_with("delivery ")).count();
    assert_eq!(left().await, 10_001);
    let day = Duration::from_secs(24 * 60 * 60);
    assert!(!store.prune_deliveries(NOW.plus(day * 29)).await.unwrap());
    assert_eq!(left().await, 10_001);
    let mut steps = 1;
    while store.prune_deliveries(NOW.plus(day * 30)).await.unwrap() {
        steps += 1;
    }
    assert_eq!((left().await, steps), (1, 21));
    assert_eq!(due(store, NOW).await, [waiting.id]);
    opened.close().await;
}

/// What waited when the state was saved may have been delivered since: it keeps its id and waits for a human.
/// What the ledger knows beyond it was told under ids of the lost time: it is not told again.
#[tokio::test]
async fn a_restored_store_tells_nothing_before_the_resume_and_nothing_that_its_ledger_knows() {
    let folder = tempfile::tempdir().unwrap();
    let opened = furnished(folder.path()).await;
    let asked = told("https://host/", vec![overdue("anna"), item("anna"), item("boris")]);
    let made = opened.store.enqueue(asked, NOW).await.unwrap();
    let ids = items(&opened.store, made.task).await;
    opened.store.claim(ids[0], MOMENT).await.unwrap().unwrap();
    let waiting = deliveries(&opened.store, made.task).await;
    opened.close().await;
    std::fs::copy(folder.path().join(STATE_FILE), folder.path().join("snapshot")).unwrap();
    let opened = open(folder.path());
    publish(&opened.store, ids[1], succeeded()).await;
    publish(&opened.store, ids[2], Verdict::OutcomeUnknown(failure())).await;
    assert_eq!(deliveries(&opened.store, made.task).await.len(), 3);
    opened.close().await;

    std::fs::rename(folder.path().join("snapshot"), folder.path().join(STATE_FILE)).unwrap();
    let opened = open(folder.path());
    let store = &opened.store;
    assert!(opened.report.restored);
    assert_eq!(store.item(ids[1]).await.unwrap().unwrap().state.name(), "succeeded");
    assert_eq!(deliveries(store, made.task).await, waiting);
    assert!(due(store, NOW).await.is_empty());
    store.resume(false, NOW).await.unwrap();
    // The bell rings for the sender.
    tokio::time::timeout(Duration::from_secs(5), store.outbox_changed()).await.unwrap();
    assert_eq!(due(store, NOW).await, [waiting[0].id]);
    // What happens from now on is news.
    let next = store.enqueue(told("https://host/", vec![overdue("anna")]), NOW).await.unwrap();
    store.claim(only_item(store, next.task).await, MOMENT).await.unwrap().unwrap();
    assert_eq!(deliveries(store, next.task).await.len(), 2);
    opened.close().await;
}

/// An ordinary crash between the ledger's line and the commit: what boot finds out was never told.
#[tokio::test]
async fn what_boot_finds_published_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let opened = furnished(folder.path()).await;
    let made = opened.store.enqueue(told("https://host/", vec![item("anna")]), NOW).await.unwrap();
    let id = only_item(&opened.store, made.task).await;
    let claimed = claim(&opened.store, id).await;
    opened.store.arm(id, claimed.fence, Proofs::default(), MOMENT).await.unwrap().unwrap();
    // As a kill would leave it: every commit so far, and no word of a close.
    std::fs::copy(folder.path().join(STATE_FILE), folder.path().join("before")).unwrap();
    opened.store.finish(ended(id, claimed.fence, succeeded()), NOW).await.unwrap().unwrap();
    opened.close().await;
    std::fs::rename(folder.path().join("before"), folder.path().join(STATE_FILE)).unwrap();
    let opened = open(folder.path());
    let events: Vec<_> = deliveries(&opened.store, made.task).await.iter().map(|delivery| delivery.event).collect();
    assert_eq!(events, [HookEvent::Succeeded, HookEvent::TaskFinished]);
    opened.close().await;
}
