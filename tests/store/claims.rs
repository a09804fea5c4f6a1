//! Leases of outside workers on a clock that the test turns: what becomes of an item when its worker is silent
//! (fence.md rule 23).

use std::time::Duration;

use cove::model::lock::CLAIM_GRACE;
use cove::model::{
    Item, ItemId, ItemState, LockKind, LockOwner, Moment, ProfileId, Proofs, Resolution, TaskId, Verdict,
};
use cove::store::{
    Acquire, ArmRefused, Claim, ClaimName, ClaimRefused, Claimed, Cleanup, Expired, LockAsked, NewTask, NotYours,
    Store, Waiting, Worker,
};

use super::{MOMENT, NOW, ended, failure, furnished, item, profile, succeeded, task};

const TTL: Duration = Duration::from_secs(30);
const MS: Duration = Duration::from_millis(1);

fn after(by: Duration) -> Moment {
    Moment { wall: MOMENT.wall.plus(by), boot: MOMENT.boot.plus(by), ..MOMENT }
}

/// A millisecond before that.
fn before(end: Duration) -> Moment {
    after(end.checked_sub(MS).unwrap())
}

async fn order(store: &Store, names: &[&str], max_attempts: u32) -> TaskId {
    let items = names.iter().map(|name| item(name)).collect();
    let new = NewTask { external: Some("studio".to_owned()), max_attempts, ..task(items) };
    store.enqueue(new, NOW).await.unwrap().task
}

async fn try_claim(store: &Store, id: ItemId, now: Moment) -> Result<Claim, ClaimRefused> {
    let kinds = vec!["studio".to_owned()];
    let worker = Worker { name: "w1".to_owned(), kinds, ttl: TTL, with_browser: false };
    store.claim_for_worker(id, worker, now).await.unwrap()
}

/// The best item for a worker, claimed.
async fn claim(store: &Store, now: Moment) -> Claimed {
    let heads = store.claimable(vec!["studio".to_owned()], now).await.unwrap();
    match try_claim(store, heads[0].item, now).await {
        Ok(Claim::Started(claimed)) => *claimed,
        other => panic!("{other:?}"),
    }
}

fn name(claimed: &Claimed) -> ClaimName {
    ClaimName { item: claimed.item.id, fence: claimed.fence }
}

async fn look(store: &Store, claimed: &Claimed) -> Item {
    store.item(claimed.item.id).await.unwrap().unwrap()
}

async fn arm(store: &Store, claimed: &Claimed, now: Moment) -> Result<(), ArmRefused> {
    store.arm(claimed.item.id, claimed.fence, Proofs::unproven(), now).await.unwrap()
}

#[tokio::test]
async fn rule_23_an_unarmed_item_is_queued_again_a_minute_after_its_lease_and_not_a_millisecond_before() {
    let folder = tempfile::tempdir().unwrap();
    let opened = furnished(folder.path()).await;
    let store = &opened.store;
    order(store, &["anna"], 2).await;
    let first = claim(store, MOMENT).await;
    for now in [before(TTL), after(TTL), before(TTL + CLAIM_GRACE)] {
        assert_eq!(store.expire_claims(now).await.unwrap(), Expired::default());
        assert_eq!(look(store, &first).await.state, ItemState::Running);
        assert!(store.claimable(vec!["studio".to_owned()], now).await.unwrap().is_empty(), "its profile is locked");
    }
    // From the end of its lease on it may neither go on nor click.
    let refreshed = store.refresh_claim(name(&first), Some(TTL), after(TTL)).await.unwrap();
    assert!(matches!(refreshed, Err(NotYours::NotHeld)), "{refreshed:?}");
    assert_eq!(arm(store, &first, after(TTL)).await, Err(ArmRefused::LockLost));
    assert!(store.outlook(after(TTL + CLAIM_GRACE)).await.unwrap().claims_over);
    assert_eq!(store.expire_claims(after(TTL + CLAIM_GRACE)).await.unwrap(), Expired { items: 1, freed: 1 });
    let back = look(store, &first).await;
    assert_eq!((back.state, back.attempts), (ItemState::Queued, 1), "it may have done all but the last word");
    assert!(!store.outlook(after(TTL + CLAIM_GRACE)).await.unwrap().claims_over);

    store.promote(after(TTL + CLAIM_GRACE).wall).await.unwrap();
    let second = claim(store, after(TTL + CLAIM_GRACE)).await;
    assert_eq!(second.item.id, first.item.id);
    let word = store.end_claim(ended(first.item.id, first.fence, succeeded()), NOW).await.unwrap();
    assert!(word.is_err(), "the old one's word counts no more");
    // Silent once more: these were all its attempts.
    let over = after((TTL + CLAIM_GRACE) * 2);
    assert_eq!(store.expire_claims(over).await.unwrap(), Expired { items: 1, freed: 1 });
    assert_eq!(look(store, &second).await.state, ItemState::Failed);
    opened.close().await;
}

#[tokio::test]
async fn rule_23_an_armed_item_is_unknown_at_once_and_its_profile_stays_locked_for_the_minute() {
    let folder = tempfile::tempdir().unwrap();
    let opened = furnished(folder.path()).await;
    let store = &opened.store;
    order(store, &["anna", "anna"], 3).await;
    let claimed = claim(store, MOMENT).await;
    arm(store, &claimed, before(TTL)).await.unwrap();
    assert_eq!(store.expire_claims(before(TTL)).await.unwrap(), Expired::default());
    assert_eq!(store.expire_claims(after(TTL)).await.unwrap(), Expired { items: 1, freed: 0 });
    assert_eq!(look(store, &claimed).await.state, ItemState::OutcomeUnknown);
    let asked = LockAsked {
        kind: LockKind::PROFILE,
        key: "anna".to_owned(),
        owner: LockOwner::Outside("x".to_owned()),
        ttl: Some(TTL),
    };
    let busy = store.acquire_lock(asked.clone(), before(TTL + CLAIM_GRACE)).await.unwrap();
    assert!(matches!(busy, Acquire::Busy { .. }), "{busy:?}");
    // A person who says what became of it starts nothing while its worker may still be there.
    store.resolve(claimed.item.id, Resolution::NotPublished, None, String::new(), after(TTL).wall).await.unwrap();
    assert!(store.claimable(vec!["studio".to_owned()], after(TTL)).await.unwrap().is_empty());
    let late = store.end_claim(ended(claimed.item.id, claimed.fence, succeeded()), NOW).await.unwrap();
    assert!(late.is_err(), "a person has spoken");
    assert_eq!(store.expire_claims(after(TTL + CLAIM_GRACE)).await.unwrap(), Expired { items: 0, freed: 1 });
    assert!(matches!(store.acquire_lock(asked, after(TTL + CLAIM_GRACE)).await.unwrap(), Acquire::Acquired(_)));
    opened.close().await;
}

#[tokio::test]
async fn rule_23_a_late_complete_frees_the_profile_and_a_refresh_moves_the_end() {
    let folder = tempfile::tempdir().unwrap();
    let opened = furnished(folder.path()).await;
    let store = &opened.store;
    order(store, &["anna", "boris"], 3).await;
    let (late, kept) = (claim(store, MOMENT).await, claim(store, MOMENT).await);
    arm(store, &late, MOMENT).await.unwrap();
    let until = store.refresh_claim(name(&kept), Some(TTL * 3), before(TTL)).await.unwrap().unwrap();
    assert_eq!(until, Some(before(TTL * 4).wall));
    assert_eq!(store.expire_claims(after(TTL * 2)).await.unwrap(), Expired { items: 1, freed: 0 });
    assert_eq!(look(store, &kept).await.state, ItemState::Running);
    let word = store.end_claim(ended(late.item.id, late.fence, succeeded()), NOW).await.unwrap().unwrap();
    assert!(word.late && word.item.state == ItemState::Succeeded);
    assert!(store.lock(LockKind::PROFILE, late.item.profile.to_string()).await.unwrap().is_none());
    let again = store.end_claim(ended(late.item.id, late.fence, succeeded()), NOW).await.unwrap().unwrap();
    assert!(!again.late && again.item.state == ItemState::Succeeded, "saying it again is saying it once");
    let failed = ended(kept.item.id, kept.fence, Verdict::Failed(failure()));
    assert_eq!(store.end_claim(failed, NOW).await.unwrap().unwrap().item.state, ItemState::Failed);
    opened.close().await;
}

#[tokio::test]
async fn rule_23_leases_are_ended_however_many_outside_locks_are_over_before_them() {
    let folder = tempfile::tempdir().unwrap();
    let opened = furnished(folder.path()).await;
    let store = &opened.store;
    for number in 0..150 {
        let id = ProfileId::new(&format!("p{number}")).unwrap();
        store.create_profile(id.clone(), id.to_string(), NOW).await.unwrap();
        let asked = LockAsked {
            kind: LockKind::PROFILE,
            key: id.to_string(),
            owner: LockOwner::Outside("gone".to_owned()),
            ttl: Some(MS),
        };
        assert!(matches!(store.acquire_lock(asked, MOMENT).await.unwrap(), Acquire::Acquired(_)));
    }
    order(store, &["anna"], 3).await;
    let claimed = claim(store, MOMENT).await;
    arm(store, &claimed, MOMENT).await.unwrap();
    assert_eq!(store.expire_claims(after(TTL)).await.unwrap(), Expired { items: 1, freed: 0 });
    opened.close().await;
}

#[tokio::test]
async fn rule_21_and_23_a_forced_cleanup_ends_the_lease_and_the_ordinary_end_follows() {
    let folder = tempfile::tempdir().unwrap();
    let opened = furnished(folder.path()).await;
    let store = &opened.store;
    order(store, &["anna"], 3).await;
    let claimed = claim(store, MOMENT).await;
    let forced = Cleanup { owner: Some("worker w1".to_owned()), force: true };
    let now = after(Duration::from_secs(5));
    let would = store.locks_to_clean_up(forced.clone(), now).await.unwrap();
    assert_eq!((would.removed, would.stopping.len()), (0, 1));
    let gentle = Cleanup { force: false, ..forced.clone() };
    assert!(store.clean_up_locks(gentle, now).await.unwrap().stopping.is_empty());
    assert!(store.refresh_claim(name(&claimed), Some(TTL), now).await.unwrap().is_ok(), "so far nothing changed");
    let cleaned = store.clean_up_locks(forced.clone(), now).await.unwrap();
    assert_eq!((cleaned.removed, cleaned.stopping.len()), (0, 1));
    assert!(cleaned.stopping[0].is_expired(now) && cleaned.stopping[0].is_held(now));
    assert_eq!(arm(store, &claimed, now).await, Err(ArmRefused::LockLost));
    assert!(store.clean_up_locks(forced, after(TTL)).await.unwrap().stopping.is_empty(), "the minute goes on");
    let end = after(Duration::from_secs(5) + CLAIM_GRACE);
    assert_eq!(store.expire_claims(before(Duration::from_secs(5) + CLAIM_GRACE)).await.unwrap(), Expired::default());
    assert_eq!(store.expire_claims(end).await.unwrap(), Expired { items: 1, freed: 1 });
    assert_eq!(look(store, &claimed).await.state, ItemState::Queued);
    opened.close().await;
}

#[tokio::test]
async fn reasons_of_one_task_are_exact_and_a_page_looks_at_a_bounded_number() {
    let folder = tempfile::tempdir().unwrap();
    let opened = furnished(folder.path()).await;
    let store = &opened.store;
    let names: Vec<&str> = ["anna", "boris", "boris"].repeat(4_000);
    let big = order(store, &names, 3).await;
    let done = order(store, &["anna"], 3).await;
    let row = store.task(big).await.unwrap().unwrap();
    let mut alike: Vec<_> = row.waiting.iter().map(|alike| (alike.item.profile.to_string(), alike.items)).collect();
    alike.sort_unstable();
    assert_eq!((alike, row.waiting_left_out), (vec![("anna".to_owned(), 4_000), ("boris".to_owned(), 8_000)], 0));
    let page = store.tasks(cove::store::TaskQuery { limit: 10, ..Default::default() }).await.unwrap();
    assert_eq!((page.rows[0].task.id, page.rows[0].waiting_left_out), (done, 0));
    let seen: u64 = page.rows[1].waiting.iter().map(|alike| alike.items).sum();
    assert_eq!((seen, seen + page.rows[1].waiting_left_out), (9_999, 12_000));
    assert_eq!(profile("anna"), page.rows[0].waiting[0].item.profile);
    opened.close().await;
}

#[tokio::test]
async fn rule_24_what_is_spaced_says_until_when_without_a_worker_that_asks() {
    let folder = tempfile::tempdir().unwrap();
    let opened = furnished(folder.path()).await;
    let store = &opened.store;
    let items = ["anna", "anna", "anna", "boris"].map(item).into();
    let spaced = NewTask { external: Some("studio".to_owned()), spacing_seconds: 60, ..task(items) };
    store.enqueue(spaced, NOW).await.unwrap();
    let first = claim(store, MOMENT).await;
    assert_eq!(first.item.profile, profile("anna"));
    assert!(!store.outlook(MOMENT).await.unwrap().overdue);
    arm(store, &first, MOMENT).await.unwrap();
    store.end_claim(ended(first.item.id, first.fence, succeeded()), NOW).await.unwrap().unwrap();
    assert!(store.outlook(MOMENT).await.unwrap().overdue, "there is something to put off");
    while store.promote(NOW).await.unwrap() {}
    let outlook = store.outlook(MOMENT).await.unwrap();
    let until = NOW.plus(Duration::from_secs(60));
    assert_eq!((outlook.overdue, outlook.next_due), (false, Some(until)));
    let waiting = store.waiting(NOW).await.unwrap();
    assert_eq!((waiting.scheduled, waiting.next_scheduled), (2, Some(until)));
    assert_eq!(waiting.ready, [("studio".to_owned(), profile("boris"), 1)]);
    // When its time has come it is like any other.
    let now = after(Duration::from_secs(60));
    while store.promote(now.wall).await.unwrap() {}
    assert_eq!(store.claimable(vec!["studio".to_owned()], now).await.unwrap().len(), 2);
    opened.close().await;
}

#[tokio::test]
async fn what_is_spaced_again_and_again_is_told_once() {
    const ITEMS: usize = 12;
    let folder = tempfile::tempdir().unwrap();
    let opened = furnished(folder.path()).await;
    let store = &opened.store;
    let items = (0..ITEMS).map(|_| item("anna")).collect();
    let spaced = NewTask { external: Some("studio".to_owned()), spacing_seconds: 60, ..task(items) };
    let task = store.enqueue(spaced, NOW).await.unwrap().task;
    for round in 0..ITEMS {
        let now = after(Duration::from_secs(60) * u32::try_from(round).unwrap());
        while store.promote(now.wall).await.unwrap() {}
        let claimed = claim(store, now).await;
        arm(store, &claimed, now).await.unwrap();
        store.end_claim(ended(claimed.item.id, claimed.fence, succeeded()), now.wall).await.unwrap().unwrap();
        while store.promote(now.wall).await.unwrap() {}
        let until = now.wall.plus(Duration::from_secs(60));
        let left = ITEMS - round - 1;
        let due = store.waiting(now.wall).await.unwrap();
        assert_eq!((due.scheduled, due.next_scheduled), (left as u64, (left > 0).then_some(until)));
    }
    let events = store.events(task, None, 10_000).await.unwrap();
    let spaced: Vec<_> = events.iter().filter(|row| row.event.kind == "spaced").collect();
    assert_eq!(spaced.len(), ITEMS - 1, "once for each but the first, and {} events in all", events.len());
    opened.close().await;
}

#[tokio::test]
async fn an_item_whose_back_off_is_over_is_queued_and_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let opened = furnished(folder.path()).await;
    let store = &opened.store;
    order(store, &["anna"], 3).await;
    let claimed = claim(store, MOMENT).await;
    let due_at = NOW.plus(TTL);
    let again = Verdict::TryAgain { failure: failure(), due_at, counted: true };
    store.end_claim(ended(claimed.item.id, claimed.fence, again), NOW).await.unwrap().unwrap();
    store.promote(before(TTL).wall).await.unwrap();
    assert_eq!(look(store, &claimed).await.state, ItemState::RetryWait);
    assert_eq!(store.waiting(NOW).await.unwrap().next_retry, Some(due_at));
    // Its time has come, and nobody has queued it yet: it waits for what everything ready in its profile does.
    let overdue = store.waiting(due_at).await.unwrap();
    assert_eq!((overdue.backing_off, overdue.overdue_retries, overdue.next_retry), (0, 1, None));
    let before_it = store.waiting(NOW).await.unwrap();
    let in_ready = |waiting: &Waiting| waiting.ready.iter().map(|(.., items)| items).sum::<u64>();
    assert_eq!((in_ready(&overdue), before_it.backing_off), (in_ready(&before_it) + 1, 1));
    store.promote(due_at).await.unwrap();
    assert_eq!(look(store, &claimed).await.state, ItemState::Queued);
    assert_eq!(store.waiting(due_at).await.unwrap().backing_off, 0);
    opened.close().await;
}
