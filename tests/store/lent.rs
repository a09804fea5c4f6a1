//! Leases of lent browsers on a clock that the test turns (fence.md rules 21 and 23): what the end of one
//! says, and what becomes of a claim whose browser is gone.

use std::time::Duration;

use cove::model::lock::CLAIM_GRACE;
use cove::model::{Item, ItemState, Lock, LockKind, LockOwner, Moment, Proofs};
use cove::store::{
    Acquire, ArmRefused, Claim, ClaimName, ClaimRefused, Claimed, Cleanup, Expired, LockAsked, NewTask, NotYours,
    SessionName, Store, Worker,
};

use super::{MOMENT, NOW, Opened, ended, furnished, item, open, profile, succeeded, task};

const TTL: Duration = Duration::from_secs(30);
const MS: Duration = Duration::from_millis(1);

fn after(by: Duration) -> Moment {
    Moment { wall: MOMENT.wall.plus(by), boot: MOMENT.boot.plus(by), ..MOMENT }
}

fn before(end: Duration) -> Moment {
    after(end.checked_sub(MS).unwrap())
}

async fn lend(store: &Store, name: &str, now: Moment) -> Result<SessionName, ClaimRefused> {
    let profile = profile(name);
    let granted = store.lend(profile.clone(), "script".to_owned(), TTL, now).await.unwrap()?;
    assert_eq!(granted.expires_at, Some(now.wall.plus(TTL)));
    Ok(SessionName { profile, fence: granted.fence })
}

async fn lock(store: &Store, name: &str) -> Option<Lock> {
    store.lock(LockKind::PROFILE, name.to_owned()).await.unwrap()
}

/// An item of the profile anna, claimed with a browser.
async fn claim(opened: &Opened, max_attempts: u32) -> (Claimed, SessionName) {
    let kinds = vec!["studio".to_owned()];
    let new = NewTask { external: Some("studio".to_owned()), max_attempts, ..task(vec![item("anna")]) };
    opened.store.enqueue(new, NOW).await.unwrap();
    let head = opened.store.claimable(kinds.clone(), MOMENT).await.unwrap().remove(0);
    let worker = Worker { name: "w1".to_owned(), kinds, ttl: TTL, with_browser: true };
    let claim = opened.store.claim_for_worker(head.item, worker, MOMENT).await.unwrap();
    let Ok(Claim::Started(claimed)) = claim else { panic!("{claim:?}") };
    let session = SessionName { profile: profile("anna"), fence: claimed.fence };
    (*claimed, session)
}

async fn look(store: &Store, claimed: &Claimed) -> Item {
    store.item(claimed.item.id).await.unwrap().unwrap()
}

async fn arm(store: &Store, claimed: &Claimed, now: Moment) -> Result<(), ArmRefused> {
    store.arm(claimed.item.id, claimed.fence, Proofs::unproven(), now).await.unwrap()
}

#[tokio::test]
async fn rule_21_the_end_of_a_sessions_lease_is_told_and_frees_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let opened = furnished(folder.path()).await;
    let store = &opened.store;
    let session = lend(store, "anna", MOMENT).await.unwrap();
    assert_eq!(lend(store, "anna", MOMENT).await, Err(ClaimRefused::ProfileBusy));
    assert_eq!(lend(store, "nobody", MOMENT).await, Err(ClaimRefused::ProfileUnknown));
    let outlook = store.outlook(before(TTL)).await.unwrap();
    assert_eq!((outlook.sessions_over, outlook.next_due), (vec![], Some(after(TTL).wall)), "the engine wakes for it");
    let granted = store.refresh_session(session.clone(), Some(TTL * 2), before(TTL)).await.unwrap();
    assert_eq!(granted.expires_at, Some(before(TTL * 3).wall));
    let granted = store.refresh_session(session.clone(), None, before(TTL)).await.unwrap();
    assert_eq!(granted.expires_at, Some(before(TTL * 3).wall), "as long as the one before");

    let over = after(TTL * 3);
    let outlook = store.outlook(over).await.unwrap();
    assert_eq!((outlook.sessions_over, outlook.claims_over), (vec![session.fence], false));
    for (name, asked_at) in
        [(session.clone(), over), (SessionName { fence: cove::model::Fence::new(1), ..session.clone() }, MOMENT)]
    {
        let refused = store.refresh_session(name, Some(TTL), asked_at).await;
        assert!(matches!(refused, Err(NotYours::NotHeld)), "{refused:?}");
    }
    let owner = LockOwner::Outside("script".to_owned());
    let asked = LockAsked { kind: LockKind::PROFILE, key: "anna".to_owned(), owner, ttl: Some(TTL) };
    let busy = store.acquire_lock(asked.clone(), after(TTL * 100)).await.unwrap();
    assert!(matches!(busy, Acquire::Busy { .. }), "its browser may live: {busy:?}");
    assert_eq!(store.profiles_held_outside(over).await.unwrap()[&profile("anna")].free_at(over), None);
    for force in [false, true] {
        let cleanup = Cleanup { owner: Some("session script".to_owned()), force };
        let cleaned = store.clean_up_locks(cleanup, over).await.unwrap();
        assert_eq!((cleaned.removed, cleaned.stopping.len()), (0, usize::from(force)));
    }
    assert_eq!(store.sessions().await.unwrap().len(), 1);
    assert!(store.release_session(session.clone(), over).await.unwrap());
    assert!(!store.release_session(session, over).await.unwrap(), "twice");
    assert!(matches!(store.acquire_lock(asked, over).await.unwrap(), Acquire::Acquired(_)));
    opened.close().await;
}

#[tokio::test]
async fn rule_23_an_unarmed_item_is_queued_again_when_its_lent_browser_is_stopped_and_not_by_time() {
    let folder = tempfile::tempdir().unwrap();
    let opened = furnished(folder.path()).await;
    let store = &opened.store;
    let (claimed, session) = claim(&opened, 2).await;
    let long_over = after(TTL + CLAIM_GRACE * 5);
    assert_eq!(store.expire_claims(long_over).await.unwrap(), Expired::default());
    assert_eq!(look(store, &claimed).await.state, ItemState::Running, "its browser may still click");
    assert_eq!(arm(store, &claimed, long_over).await, Err(ArmRefused::LockLost));
    assert_eq!(store.outlook(long_over).await.unwrap().sessions_over, [session.fence]);
    assert!(store.release_session(session, long_over).await.unwrap());
    let back = look(store, &claimed).await;
    assert_eq!((back.state, back.attempts), (ItemState::Queued, 1));
    assert!(lock(store, "anna").await.is_none());
    opened.close().await;
}

#[tokio::test]
async fn rule_23_an_armed_item_is_unknown_at_once_and_its_profile_is_free_when_the_browser_is_stopped() {
    let folder = tempfile::tempdir().unwrap();
    let opened = furnished(folder.path()).await;
    let store = &opened.store;
    let (claimed, session) = claim(&opened, 2).await;
    arm(store, &claimed, before(TTL)).await.unwrap();
    assert_eq!(store.expire_claims(before(TTL)).await.unwrap(), Expired::default());
    assert_eq!(store.expire_claims(after(TTL)).await.unwrap(), Expired { items: 1, freed: 0 });
    assert_eq!(look(store, &claimed).await.state, ItemState::OutcomeUnknown);
    let late = store.end_claim(ended(claimed.item.id, claimed.fence, succeeded()), NOW).await.unwrap().unwrap();
    assert!(late.late && lock(store, "anna").await.is_some(), "its browser is there yet");
    assert!(store.release_session(session, after(TTL)).await.unwrap());
    assert!(lock(store, "anna").await.is_none());
    assert_eq!(look(store, &claimed).await.state, ItemState::Succeeded);
    opened.close().await;
}

#[tokio::test]
async fn a_completed_claim_leaves_its_profile_locked_until_its_browser_is_stopped() {
    let folder = tempfile::tempdir().unwrap();
    let opened = furnished(folder.path()).await;
    let store = &opened.store;
    let (claimed, session) = claim(&opened, 2).await;
    let other = lend(store, "boris", MOMENT).await.unwrap();
    arm(store, &claimed, MOMENT).await.unwrap();
    assert_eq!(store.outlook(MOMENT).await.unwrap().sessions_over, [], "it is at work, and so is a program");
    let done = store.end_claim(ended(claimed.item.id, claimed.fence, succeeded()), NOW).await.unwrap().unwrap();
    assert_eq!(done.item.state, ItemState::Succeeded);
    assert!(lock(store, "anna").await.is_some());
    let over = store.outlook(MOMENT).await.unwrap().sessions_over;
    assert_eq!(over, [session.fence], "the engine hears of it, whoever wrote it");
    assert!(store.release_session(session, MOMENT).await.unwrap());
    assert!(lock(store, "anna").await.is_none());
    assert_eq!(store.outlook(after(TTL)).await.unwrap().sessions_over, [other.fence]);
    opened.close().await;
}

#[tokio::test]
async fn rule_23_a_claim_whose_browser_is_gone_goes_on_and_is_an_ordinary_one_then() {
    let folder = tempfile::tempdir().unwrap();
    let opened = furnished(folder.path()).await;
    let (claimed, session) = claim(&opened, 2).await;
    opened.close().await;
    // A restart finds what it has to stop.
    let opened = open(folder.path());
    let store = &opened.store;
    let leftovers = store.leftovers().await.unwrap();
    assert_eq!(leftovers[0].lock.owner, LockOwner::Session { owner: "w1".to_owned(), item: Some(claimed.item.id) });
    assert!(leftovers[0].running.is_none(), "the item is its worker's");
    assert!(store.release_session(session, MOMENT).await.unwrap());
    let kept = lock(store, "anna").await.unwrap();
    assert_eq!(kept.owner, LockOwner::Claim { item: claimed.item.id, worker: "w1".to_owned() });
    assert_eq!((kept.fence, kept.expires_at()), (claimed.fence, Some(after(TTL).wall)));
    assert!(store.leftovers().await.unwrap().is_empty() && store.sessions().await.unwrap().is_empty());
    let name = ClaimName { item: claimed.item.id, fence: claimed.fence };
    assert!(store.refresh_claim(name, Some(TTL), before(TTL)).await.unwrap().is_ok());
    assert_eq!(look(store, &claimed).await.state, ItemState::Running);
    let grace = before(TTL * 2).boot.since(MOMENT.boot) + CLAIM_GRACE;
    assert_eq!(store.expire_claims(after(grace)).await.unwrap(), Expired { items: 1, freed: 1 });
    opened.close().await;
}
