//! What a human, a retry and a cancel may do to what was armed (fence.md rule 14), and who may arm and look at all.

use cove::model::{FailureCode, ItemState, LockKind, LockOwner, Moment, OnUnknown, Proofs, Resolution, Verdict};
use cove::store::{
    Acquire, ArmRefused, Ask, ClaimRefused, LEDGER_FILE, LockAsked, NewTask, ResolveRefused, SkipReason, Worker,
};
use std::time::Duration;

use super::{MOMENT, NOW, claim, ended, failure, furnished, item, only_item, open, publish, succeeded, task};

#[tokio::test]
async fn rule_14_what_is_not_unknown_is_not_resolved_and_stays_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let opened = furnished(folder.path()).await;
    let store = &opened.store;
    let mut found = Vec::new();
    for state in [ItemState::Queued, ItemState::Canceled, ItemState::Succeeded, ItemState::Failed, ItemState::Running] {
        let made = store.enqueue(task(vec![item("anna")]), NOW).await.unwrap();
        let id = only_item(store, made.task).await;
        match state {
            ItemState::Canceled => {
                store.ask(made.task, Ask::Cancel, NOW).await.unwrap();
                store.settle(made.task, NOW).await.unwrap();
            }
            ItemState::Succeeded => publish(store, id, succeeded()).await,
            ItemState::Failed => {
                let claimed = claim(store, id).await;
                store.finish(ended(id, claimed.fence, Verdict::Failed(failure())), NOW).await.unwrap().unwrap();
                store.release(claimed.item.profile, claimed.fence).await.unwrap();
            }
            ItemState::Running => drop(claim(store, id).await),
            _ => {}
        }
        found.push((id, state));
    }
    for (id, state) in found {
        let before = store.item(id).await.unwrap().unwrap();
        assert_eq!(before.state, state);
        for resolution in Resolution::ALL {
            let refused = store.resolve(id, resolution, None, String::new(), NOW).await.unwrap_err();
            assert!(matches!(refused, ResolveRefused::NotUnknown(is) if is == state), "{refused}");
        }
        assert_eq!(store.item(id).await.unwrap().unwrap(), before);
    }
    opened.close().await;
}

#[tokio::test]
async fn rule_14_a_retry_leaves_what_was_ever_armed_and_says_so_until_a_human_says_that_it_did_not_publish() {
    let folder = tempfile::tempdir().unwrap();
    let opened = furnished(folder.path()).await;
    let store = &opened.store;
    let made = store.enqueue(task(vec![item("anna"); 4]), NOW).await.unwrap();
    let query = cove::store::ItemQuery { task: Some(made.task), limit: 10, ..cove::store::ItemQuery::default() };
    let mut ids: Vec<_> = store.items(query).await.unwrap().rows.into_iter().map(|item| item.id).collect();
    ids.sort();
    let [unarmed, unknown, given_up, cleared] = ids[..] else { panic!("{ids:?}") };
    let fail = async |id| {
        let claimed = claim(store, id).await;
        store.finish(ended(id, claimed.fence, Verdict::Failed(failure())), NOW).await.unwrap().unwrap();
        assert!(store.release(claimed.item.profile, claimed.fence).await.unwrap());
    };
    fail(unarmed).await;
    for id in [unknown, given_up, cleared] {
        publish(store, id, Verdict::OutcomeUnknown(failure())).await;
    }
    store.resolve(given_up, Resolution::GiveUp, None, String::new(), NOW).await.unwrap();
    assert_eq!(store.item(given_up).await.unwrap().unwrap().state, ItemState::Failed);
    store.resolve(cleared, Resolution::NotPublished, None, String::new(), NOW).await.unwrap();
    fail(cleared).await;
    let step = store.retry(made.task, 0, NOW).await.unwrap().unwrap();
    assert_eq!(step.retried, 2);
    assert_eq!(step.skipped, [(unknown, SkipReason::WasArmed), (given_up, SkipReason::WasArmed)]);
    let mut states = Vec::new();
    for id in ids {
        states.push(store.item(id).await.unwrap().unwrap().state);
    }
    assert_eq!(states, [ItemState::Queued, ItemState::OutcomeUnknown, ItemState::Failed, ItemState::Queued]);
    opened.close().await;
}

#[tokio::test]
async fn rule_14_a_cancel_turns_no_unknown_outcome_into_canceled() {
    let folder = tempfile::tempdir().unwrap();
    let opened = furnished(folder.path()).await;
    let store = &opened.store;
    let made = store.enqueue(task(vec![item("anna")]), NOW).await.unwrap();
    let id = only_item(store, made.task).await;
    publish(store, id, Verdict::OutcomeUnknown(failure())).await;
    assert!(store.ask(made.task, Ask::Cancel, NOW).await.unwrap());
    while store.settle(made.task, NOW).await.unwrap().more {}
    assert_eq!(store.item(id).await.unwrap().unwrap().state, ItemState::OutcomeUnknown);
    // The question is still a human's to answer.
    let done = store.resolve(id, Resolution::Published, None, String::new(), NOW).await.unwrap();
    assert_eq!(done.state, ItemState::Succeeded);
    opened.close().await;
}

#[tokio::test]
async fn rule_14_what_a_human_says_did_not_publish_hears_of_the_cancel_that_had_passed_it_by() {
    let folder = tempfile::tempdir().unwrap();
    let opened = furnished(folder.path()).await;
    let store = &opened.store;
    let made = store.enqueue(task(vec![item("anna")]), NOW).await.unwrap();
    let id = only_item(store, made.task).await;
    let claimed = claim(store, id).await;
    store.arm(id, claimed.fence, Proofs::default(), MOMENT).await.unwrap().unwrap();
    let unknown = Verdict::OutcomeUnknown(failure());
    store.finish(ended(id, claimed.fence, unknown), NOW).await.unwrap().unwrap();
    assert!(store.ask(made.task, Ask::Cancel, NOW).await.unwrap());
    while store.settle(made.task, NOW).await.unwrap().more {}
    let queued = store.resolve(id, Resolution::NotPublished, None, String::new(), NOW).await.unwrap();
    assert_eq!(queued.state, ItemState::Queued);
    while store.settle(made.task, NOW).await.unwrap().more {}
    assert_eq!(store.item(id).await.unwrap().unwrap().state, ItemState::Canceled);
    opened.close().await;
}

#[tokio::test]
async fn rule_12_a_verify_waits_for_whoever_holds_the_profile() {
    let folder = tempfile::tempdir().unwrap();
    let opened = furnished(folder.path()).await;
    let store = &opened.store;
    let new = NewTask { verifiable: true, on_unknown: OnUnknown::Hold, ..task(vec![item("anna"), item("anna")]) };
    let made = store.enqueue(new, NOW).await.unwrap();
    let heads = store.outlook(MOMENT).await.unwrap().heads;
    publish(store, heads[0].item, Verdict::OutcomeUnknown(failure())).await;
    let other = store.outlook(MOMENT).await.unwrap().heads[0].item;
    let running = claim(store, other).await;
    let busy = store.begin_verify(heads[0].item, MOMENT).await.unwrap().unwrap_err();
    assert_eq!(busy, ClaimRefused::ProfileBusy);
    store.finish(ended(other, running.fence, Verdict::Failed(failure())), NOW).await.unwrap().unwrap();
    assert!(store.release(running.item.profile, running.fence).await.unwrap());
    let begun = store.begin_verify(heads[0].item, MOMENT).await.unwrap().unwrap();
    assert_eq!((begun.task.id, begun.item.attempts), (made.task, 1), "it is no attempt");
    opened.close().await;
}

#[tokio::test]
async fn rule_5_whoever_was_told_that_it_is_armed_finds_the_line_in_the_ledger() {
    let folder = tempfile::tempdir().unwrap();
    let opened = furnished(folder.path()).await;
    let store = &opened.store;
    let made = store.enqueue(task(vec![item("anna")]), NOW).await.unwrap();
    let id = only_item(store, made.task).await;
    let claimed = claim(store, id).await;
    let lines = || {
        let ledger = std::fs::read_to_string(folder.path().join(LEDGER_FILE)).unwrap();
        ledger.lines().filter(|line| line.contains("\"armed\"") && line.contains(&id.to_string())).count()
    };
    assert_eq!(lines(), 0);
    store.arm(id, claimed.fence, Proofs::default(), MOMENT).await.unwrap().unwrap();
    assert_eq!(lines(), 1);
    opened.close().await;
}

/// A damaged ledger begins an epoch, and ends nothing that runs: what was started before it clicks no more.
#[tokio::test]
async fn rule_4_a_fence_of_an_older_epoch_arms_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let opened = furnished(folder.path()).await;
    let made = opened.store.enqueue(task(vec![item("anna"), item("boris")]), NOW).await.unwrap();
    let heads = opened.store.outlook(MOMENT).await.unwrap().heads;
    publish(&opened.store, heads[0].item, succeeded()).await;
    let claimed = claim(&opened.store, heads[1].item).await;
    opened.close().await;
    let path = folder.path().join(LEDGER_FILE);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[12] ^= 4;
    std::fs::write(&path, &bytes).unwrap();

    let opened = open(folder.path());
    assert!(opened.report.ledger_damage.is_some() && opened.report.epoch > claimed.fence.epoch());
    let item = opened.store.item(claimed.item.id).await.unwrap().unwrap();
    assert_eq!((item.state, item.fence, item.task), (ItemState::Running, Some(claimed.fence), made.task));
    let refused = opened.store.arm(item.id, claimed.fence, Proofs::default(), MOMENT).await.unwrap();
    assert_eq!(refused, Err(ArmRefused::Outdated));
    opened.close().await;
}

#[tokio::test]
async fn rule_23_a_worker_takes_nothing_of_a_profile_that_somebody_holds_and_holds_it_itself() {
    let folder = tempfile::tempdir().unwrap();
    let opened = furnished(folder.path()).await;
    let store = &opened.store;
    let new = NewTask { external: Some("studio".to_owned()), ..task(vec![item("anna"), item("anna")]) };
    store.enqueue(new, NOW).await.unwrap();
    let asked = |name: &str| LockAsked {
        kind: LockKind::PROFILE,
        key: "anna".to_owned(),
        owner: LockOwner::Outside(name.to_owned()),
        ttl: Some(Duration::from_secs(60)),
    };
    let worker = |name: &str| Worker {
        name: name.to_owned(),
        kinds: vec!["studio".to_owned()],
        ttl: Duration::from_secs(60),
        with_browser: false,
    };
    let head = store.claimable(vec!["studio".to_owned()], MOMENT).await.unwrap()[0].item;
    assert!(matches!(store.acquire_lock(asked("x"), MOMENT).await.unwrap(), Acquire::Acquired(_)));
    let busy = store.claim_for_worker(head, worker("w"), MOMENT).await.unwrap().unwrap_err();
    assert_eq!(busy, ClaimRefused::ProfileBusy);
    let later =
        Moment { wall: NOW.plus(Duration::from_secs(60)), boot: MOMENT.boot.plus(Duration::from_secs(60)), ..MOMENT };
    store.claim_for_worker(head, worker("w"), later).await.unwrap().unwrap();
    match store.acquire_lock(asked("x"), later).await.unwrap() {
        Acquire::Busy { held_by: LockOwner::Claim { item, worker }, .. } => {
            assert_eq!((item, worker.as_str()), (head, "w"));
        }
        other => panic!("{other:?}"),
    }
    opened.close().await;
}

/// Both a key that the ledger knows and the failure that says so stay what they are over a give-up.
#[tokio::test]
async fn rule_2_a_key_whose_item_a_human_gave_up_on_stays_taken() {
    let folder = tempfile::tempdir().unwrap();
    let opened = furnished(folder.path()).await;
    let store = &opened.store;
    let made = store.enqueue(task(vec![super::keyed("anna", "spring")]), NOW).await.unwrap();
    let id = only_item(store, made.task).await;
    publish(store, id, Verdict::OutcomeUnknown(failure())).await;
    store.resolve(id, Resolution::GiveUp, None, String::new(), NOW).await.unwrap();
    let item = store.item(id).await.unwrap().unwrap();
    assert_eq!((item.state, item.failure.unwrap().code), (ItemState::Failed, FailureCode::ElementNotFound));
    let again = store.enqueue(task(vec![super::keyed("boris", "spring")]), NOW).await.unwrap_err();
    assert!(matches!(again, cove::store::EnqueueError::KeyTaken { item, .. } if item == id), "{again:?}");
    opened.close().await;
}
