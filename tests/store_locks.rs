//! Locks against a real state file: who has one, until when, under which fence; what a reboot, a restore
//! and a cleanup make of them, and what the engine sees. Every test ends with the check of all indexes.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use cove::model::{
    BootId, BootTime, Fence, ItemId, Lock, LockKind, LockOwner, Moment, OnUnknown, ProfileId, Proofs, Timestamp,
    Verdict,
};
use cove::store::{
    Acquire, AcquireRefused, ArmRefused, AttemptEnded, BootReport, Claim, ClaimRefused, CleanedUp, Cleanup, Granted,
    LEDGER_FILE, LockAsked, LockHeld, LockQuery, MAX_LOCKS_SHOWN, NewItem, NewTask, NotYours, Pause, STATE_FILE, Store,
    WriterThread,
};

const NOW: Moment = Moment {
    wall: Timestamp::from_millis(1_795_000_000_000),
    boot: BootTime::from_millis(77_000),
    boot_id: BootId::new(1),
};
const HOUR: Duration = Duration::from_secs(3_600);
/// A millisecond less than an hour.
const NEARLY: Duration = Duration::from_millis(3_599_999);

fn after(by: Duration) -> Moment {
    Moment { wall: NOW.wall.plus(by), boot: NOW.boot.plus(by), ..NOW }
}

/// The same machine after a reboot, with this on its wall.
fn rebooted(boot: u128, wall: Timestamp) -> Moment {
    Moment { wall, boot: BootTime::from_millis(3_000), boot_id: BootId::new(boot) }
}

struct Opened {
    store: Store,
    thread: WriterThread,
    report: BootReport,
}

fn open_at(folder: &Path, now: Moment) -> Opened {
    let (store, thread, report) = Store::open(folder, now).unwrap();
    Opened { store, thread, report }
}

fn open(folder: &Path) -> Opened {
    open_at(folder, NOW)
}

impl Opened {
    async fn close(self) {
        self.check().await;
        drop(self.store);
        tokio::task::spawn_blocking(|| self.thread.join()).await.unwrap();
    }

    async fn check(&self) {
        let differences = self.store.check_consistency().await.unwrap();
        assert!(differences.is_empty(), "{differences:#?}");
    }

    async fn ask(&self, kind: &str, key: &str, owner: &str, ttl: Duration, now: Moment) -> Acquire {
        self.store.acquire_lock(asked(kind, key, owner, ttl), now).await.unwrap()
    }

    async fn acquire(&self, kind: &str, key: &str, owner: &str, ttl: Duration, now: Moment) -> Granted {
        match self.ask(kind, key, owner, ttl, now).await {
            Acquire::Acquired(granted) => granted,
            busy @ Acquire::Busy { .. } => panic!("{busy:?}"),
        }
    }

    async fn all(&self) -> Vec<Lock> {
        self.store.locks(LockQuery { limit: 9_999, ..LockQuery::default() }).await.unwrap().rows
    }

    async fn clean_up(&self, owner: Option<&str>, force: bool, now: Moment) -> CleanedUp {
        let cleanup = Cleanup { owner: owner.map(str::to_owned), force };
        let foreseen = self.store.locks_to_clean_up(cleanup.clone(), now).await.unwrap();
        let cleaned = self.store.clean_up_locks(cleanup, now).await.unwrap();
        assert_eq!(foreseen, cleaned, "a dry run says what is done then");
        cleaned
    }
}

fn kind(text: &str) -> LockKind {
    LockKind::new(text).unwrap()
}

fn outside(name: &str) -> LockOwner {
    LockOwner::Outside(name.to_owned())
}

fn asked(kind_: &str, key: &str, owner: &str, ttl: Duration) -> LockAsked {
    LockAsked { kind: kind(kind_), key: key.to_owned(), owner: outside(owner), ttl: Some(ttl) }
}

fn named(kind_: &str, key: &str, owner: &str, fence: Fence) -> LockHeld {
    LockHeld { kind: kind(kind_), key: key.to_owned(), owner: outside(owner), fence }
}

fn busy(acquire: Acquire) -> (String, Option<Timestamp>) {
    match acquire {
        Acquire::Busy { held_by, expires_at } => (held_by.to_string(), expires_at),
        Acquire::Acquired(granted) => panic!("{granted:?}"),
    }
}

fn keys(locks: &[Lock]) -> Vec<&str> {
    locks.iter().map(|lock| lock.key.as_str()).collect()
}

fn profile(name: &str) -> ProfileId {
    ProfileId::new(name).unwrap()
}

/// A profile each, and an item that waits for it.
async fn with_items(opened: &Opened, names: &[&str]) -> Vec<ItemId> {
    let wall = NOW.wall;
    for name in names {
        opened.store.create_profile(profile(name), (*name).to_owned(), wall).await.unwrap();
    }
    opened.store.put_flow("atelier".to_owned(), "h1".to_owned(), b"{}".to_vec(), wall).await.unwrap();
    let item = |name: &&str| NewItem {
        profile: profile(name),
        inputs: BTreeMap::new(),
        key: None,
        not_before: None,
        not_after: None,
    };
    let task = NewTask {
        flow: "atelier".to_owned(),
        flow_hash: "h1".to_owned(),
        priority: 0,
        max_attempts: 3,
        spacing_seconds: 0,
        on_unknown: OnUnknown::Hold,
        external: None,
        verifiable: false,
        rehearsal: false,
        items: names.iter().map(item).collect(),
        idempotency: None,
        webhook: None,
    };
    opened.store.enqueue(task, wall).await.unwrap();
    let heads = opened.store.outlook(NOW).await.unwrap().heads;
    assert_eq!(heads.len(), names.len());
    names.iter().map(|name| heads.iter().find(|head| head.profile.as_str() == *name).unwrap().item).collect()
}

#[tokio::test]
async fn rule_22_one_has_it_the_others_are_told_who_and_until_when() {
    let folder = tempfile::tempdir().unwrap();
    let opened = open(folder.path());
    let first = opened.acquire("task", "7", "anna", HOUR, NOW).await;
    assert_eq!(first.expires_at, Some(NOW.wall.plus(HOUR)));
    let told = busy(opened.ask("task", "7", "boris", HOUR, NOW).await);
    assert_eq!(told, ("anna".to_owned(), first.expires_at));
    // Another kind, another key: another lock.
    let other_kind = opened.acquire("account", "7", "boris", HOUR, NOW).await;
    let other_key = opened.acquire("task", "77", "boris", HOUR, NOW).await;
    assert!(first.fence < other_kind.fence && other_kind.fence < other_key.fence);
    // The same owner again: the same fence, a new lease.
    let later = after(HOUR / 2);
    let again = opened.acquire("task", "7", "anna", HOUR, later).await;
    assert_eq!(again, Granted { fence: first.fence, expires_at: Some(later.wall.plus(HOUR)) });
    let told = busy(opened.ask("task", "7", "boris", HOUR, after(HOUR)).await);
    assert_eq!(told, ("anna".to_owned(), again.expires_at));
    opened.close().await;
}

#[tokio::test]
async fn rule_22_refresh_and_release_need_the_owner_and_the_fence() {
    let folder = tempfile::tempdir().unwrap();
    let opened = open(folder.path());
    let store = &opened.store;
    let old = opened.acquire("task", "7", "anna", HOUR, NOW).await.fence;
    store.release_lock(named("task", "7", "anna", old), NOW).await.unwrap();
    let new = opened.acquire("task", "7", "anna", HOUR, NOW).await.fence;
    assert!(new > old);
    let before = store.dump().await.unwrap();
    for wrong in [
        named("task", "7", "anna", old),
        named("task", "7", "anna", Fence::new(new.raw() + 1)),
        named("task", "7", "boris", new),
    ] {
        let refreshed = store.refresh_lock(wrong.clone(), Some(HOUR), NOW).await;
        assert!(matches!(refreshed, Err(NotYours::StaleFence)), "{wrong:?}: {refreshed:?}");
        let released = store.release_lock(wrong.clone(), NOW).await;
        assert!(matches!(released, Err(NotYours::StaleFence)), "{wrong:?}: {released:?}");
    }
    for unknown in [named("task", "8", "anna", new), named("account", "7", "anna", new)] {
        assert!(matches!(store.refresh_lock(unknown.clone(), Some(HOUR), NOW).await, Err(NotYours::NotHeld)));
        assert!(matches!(store.release_lock(unknown, NOW).await, Err(NotYours::NotHeld)));
    }
    assert_eq!(store.dump().await.unwrap(), before, "a refusal changed something");
    let later = after(HOUR / 2);
    let refreshed = store.refresh_lock(named("task", "7", "anna", new), Some(HOUR * 2), later).await.unwrap();
    assert_eq!(refreshed, Granted { fence: new, expires_at: Some(later.wall.plus(HOUR * 2)) });
    store.release_lock(named("task", "7", "anna", new), later).await.unwrap();
    assert!(matches!(store.release_lock(named("task", "7", "anna", new), later).await, Err(NotYours::NotHeld)));
    assert!(opened.all().await.is_empty());
    opened.close().await;
}

#[tokio::test]
async fn rule_22_an_expired_lock_is_free_at_the_very_millisecond_and_only_listed() {
    let folder = tempfile::tempdir().unwrap();
    let opened = open(folder.path());
    let store = &opened.store;
    let first = opened.acquire("task", "7", "anna", HOUR, NOW).await.fence;
    busy(opened.ask("task", "7", "boris", HOUR, after(NEARLY)).await);
    let over = after(HOUR);
    let mine = named("task", "7", "anna", first);
    assert!(matches!(store.refresh_lock(mine.clone(), Some(HOUR), over).await, Err(NotYours::NotHeld)));
    assert!(matches!(store.release_lock(mine.clone(), over).await, Err(NotYours::NotHeld)));
    assert!(opened.all().await[0].is_expired(over));
    // Its old owner as well gets a new fence: somebody may have had it in between.
    let second = opened.acquire("task", "7", "anna", HOUR, over).await.fence;
    assert!(second > first);
    let twice = after(HOUR * 2);
    let third = opened.acquire("task", "7", "boris", HOUR, twice).await.fence;
    assert!(third > second);
    assert!(matches!(store.refresh_lock(mine, Some(HOUR), twice).await, Err(NotYours::StaleFence)));
    assert_eq!(opened.all().await.len(), 1);
    opened.close().await;
}

/// A caller that read the clock and was then overtaken does not bring a lease back to life.
#[tokio::test]
async fn time_does_not_run_backwards_between_callers() {
    let folder = tempfile::tempdir().unwrap();
    let opened = open(folder.path());
    let fence = opened.acquire("task", "7", "anna", HOUR, NOW).await.fence;
    let mine = named("task", "7", "anna", fence);
    assert!(matches!(opened.store.release_lock(mine.clone(), after(HOUR)).await, Err(NotYours::NotHeld)));
    let overtaken = after(NEARLY);
    assert!(matches!(opened.store.refresh_lock(mine, Some(HOUR), overtaken).await, Err(NotYours::NotHeld)));
    opened.acquire("task", "7", "boris", HOUR, overtaken).await;
    opened.close().await;
}

#[tokio::test]
async fn rule_20_setting_the_wall_clock_ends_nothing_early_and_keeps_nothing_alive() {
    let folder = tempfile::tempdir().unwrap();
    let opened = open(folder.path());
    opened.acquire("task", "7", "anna", HOUR, NOW).await;
    let year = Duration::from_secs(365 * 86_400);
    let back = Timestamp::from_millis(NOW.wall.as_millis() - 3_600_000);
    for wall in [NOW.wall.plus(year), back, Timestamp::ZERO] {
        let before = Moment { wall, ..after(NEARLY) };
        busy(opened.ask("task", "7", "boris", HOUR, before).await);
        assert_eq!(opened.clean_up(None, false, before).await.removed, 0);
    }
    opened.acquire("task", "7", "boris", HOUR, Moment { wall: back, ..after(HOUR) }).await;
    opened.close().await;
}

#[tokio::test]
async fn rule_20_a_restart_changes_no_lease_and_a_reboot_gives_each_its_rest_once() {
    let folder = tempfile::tempdir().unwrap();
    let opened = open(folder.path());
    let fence = opened.acquire("task", "long", "anna", HOUR * 3, NOW).await.fence;
    opened.acquire("task", "short", "anna", HOUR, NOW).await;
    opened.close().await;
    // A restart of the daemon, an hour later on both clocks, with the wall clock set a year on.
    let opened = open_at(folder.path(), Moment { wall: NOW.wall.plus(HOUR * 9_000), ..after(HOUR / 2) });
    assert_eq!(opened.report.leases_rebased, 0);
    busy(opened.ask("task", "short", "boris", HOUR, after(NEARLY)).await);
    opened.close().await;

    // A reboot two hours in: one hour is left of three, none of one.
    let now = rebooted(2, NOW.wall.plus(HOUR * 2));
    let opened = open_at(folder.path(), now);
    assert_eq!(opened.report.leases_rebased, 2);
    let at = |by: Duration| Moment { wall: now.wall.plus(by), boot: now.boot.plus(by), ..now };
    opened.acquire("task", "short", "boris", HOUR, now).await;
    let told = busy(opened.ask("task", "long", "boris", HOUR, at(NEARLY)).await);
    assert_eq!(told, ("anna".to_owned(), Some(NOW.wall.plus(HOUR * 3))));
    opened.close().await;
    // The same boot again: nothing is given twice, and the fence still counts.
    let opened = open_at(folder.path(), at(HOUR / 2));
    assert_eq!(opened.report.leases_rebased, 0);
    let mine = named("task", "long", "anna", fence);
    opened.store.refresh_lock(mine, Some(HOUR), at(NEARLY)).await.unwrap();
    opened.close().await;
}

/// A machine without a battery comes up with its wall clock at zero: what is left by it would be decades.
#[tokio::test]
async fn rule_20_no_lock_is_immortal() {
    let folder = tempfile::tempdir().unwrap();
    let opened = open(folder.path());
    let asking = (0..2_500).map(|number| {
        let store = opened.store.clone();
        async move { store.acquire_lock(asked("task", &number.to_string(), "anna", HOUR), NOW).await.unwrap() }
    });
    futures_util::future::join_all(asking).await;
    opened.close().await;
    let now = rebooted(2, Timestamp::from_millis(5_000));
    let opened = open_at(folder.path(), now);
    assert_eq!(opened.report.leases_rebased, 2_500);
    opened.check().await;
    let over = Moment { boot: now.boot.plus(HOUR), ..now };
    assert_eq!(opened.clean_up(None, false, over).await.removed, 2_500, "longer than it was given");
    opened.close().await;
}

#[tokio::test]
async fn rule_1_and_18_a_restore_drops_all_locks_gives_none_until_a_resume_and_repeats_no_fence() {
    let folder = tempfile::tempdir().unwrap();
    let opened = open(folder.path());
    let ids = with_items(&opened, &["anna", "boris"]).await;
    let old = opened.acquire("task", "7", "w", HOUR, NOW).await.fence;
    opened.close().await;
    std::fs::copy(folder.path().join(STATE_FILE), folder.path().join("snapshot")).unwrap();

    let opened = open(folder.path());
    let mut given = BTreeSet::from([old]);
    for number in 0..20 {
        given.insert(opened.acquire("task", &format!("later {number}"), "w", HOUR, NOW).await.fence);
    }
    // Something that the ledger knows and the snapshot does not.
    let Ok(Claim::Started(claimed)) = opened.store.claim(ids[0], NOW).await.unwrap() else { panic!("not claimed") };
    given.insert(claimed.fence);
    opened.store.arm(ids[0], claimed.fence, Proofs::default(), NOW).await.unwrap().unwrap();
    let verdict = Verdict::Succeeded { url: None, result: BTreeMap::new() };
    let end = AttemptEnded { item: ids[0], fence: claimed.fence, verdict, evidence: Vec::new(), effect: None };
    opened.store.finish(end, NOW.wall).await.unwrap().unwrap();
    opened.close().await;

    std::fs::rename(folder.path().join("snapshot"), folder.path().join(STATE_FILE)).unwrap();
    let opened = open(folder.path());
    assert!(matches!(opened.report.pause, Some(Pause::Restored { .. })));
    assert!(opened.all().await.is_empty());
    let refused = opened.store.acquire_lock(asked("task", "7", "w", HOUR), NOW).await;
    assert!(matches!(refused, Err(AcquireRefused::Restored)), "{refused:?}");
    let stale = opened.store.release_lock(named("task", "7", "w", old), NOW).await;
    assert!(matches!(stale, Err(NotYours::NotHeld)), "{stale:?}");
    opened.store.resume(false, NOW.wall).await.unwrap();
    for number in 0..50 {
        let fence = opened.acquire("task", &format!("{number}"), "w", HOUR, NOW).await.fence;
        assert!(given.iter().all(|old| *old < fence), "{fence} is not above what was given before the restore");
        assert!(given.insert(fence));
    }
    opened.close().await;
    assert!(folder.path().join(LEDGER_FILE).exists());
}

#[tokio::test]
async fn a_person_who_pauses_takes_no_locks_away() {
    let folder = tempfile::tempdir().unwrap();
    let opened = open(folder.path());
    opened.acquire("task", "7", "w", HOUR, NOW).await;
    opened.store.pause(NOW.wall).await.unwrap();
    opened.acquire("task", "8", "w", HOUR, NOW).await;
    assert_eq!(keys(&opened.all().await), ["7", "8"]);
    opened.close().await;
}

#[tokio::test]
async fn the_engine_waits_for_an_outside_lock_and_takes_it_over_when_it_is_over() {
    let folder = tempfile::tempdir().unwrap();
    let opened = open(folder.path());
    let store = &opened.store;
    let ids = with_items(&opened, &["anna", "boris"]).await;
    let unknown = store.acquire_lock(asked("profile", "nobody", "w", HOUR), NOW).await;
    assert!(matches!(unknown, Err(AcquireRefused::UnknownProfile)), "{unknown:?}");
    let fence = opened.acquire("profile", "anna", "w", HOUR, NOW).await.fence;
    // A lock of another kind on the same name is another lock.
    opened.acquire("task", "boris", "w", HOUR * 2, NOW).await;
    let outlook = store.outlook(NOW).await.unwrap();
    assert_eq!(outlook.heads.iter().map(|head| head.item).collect::<Vec<_>>(), [ids[1]]);
    assert_eq!(outlook.next_due, Some(NOW.wall.plus(HOUR)), "the engine has to look again when it is over");
    let held = store.profiles_held_outside(NOW).await.unwrap();
    assert_eq!(held.keys().map(ProfileId::as_str).collect::<Vec<_>>(), ["anna"]);
    assert_eq!(store.claim(ids[0], NOW).await.unwrap().unwrap_err(), ClaimRefused::ProfileBusy);
    assert_eq!(store.lock_for_operator(profile("anna"), NOW).await.unwrap(), Err(ClaimRefused::ProfileBusy));
    let just_before = after(NEARLY);
    assert_eq!(store.outlook(just_before).await.unwrap().heads.len(), 1);

    let over = after(HOUR);
    assert!(store.profiles_held_outside(over).await.unwrap().is_empty());
    let outlook = store.outlook(over).await.unwrap();
    assert_eq!((outlook.heads.len(), outlook.next_due), (2, None));
    let Ok(Claim::Started(claimed)) = store.claim(ids[0], over).await.unwrap() else { panic!("not claimed") };
    assert!(claimed.fence > fence);
    // Now it is the other way round: no lease, and who holds it is told.
    let told = busy(opened.ask("profile", "anna", "w", HOUR, after(HOUR * 99)).await);
    assert_eq!(told, (format!("item {}", ids[0]), None));
    let stale = store.release_lock(named("profile", "anna", "w", fence), over).await;
    assert!(matches!(stale, Err(NotYours::StaleFence)), "{stale:?}");
    store.arm(ids[0], claimed.fence, Proofs::default(), over).await.unwrap().unwrap();
    opened.close().await;
}

/// What stands in the way of a claim stands in the way of an operator, and the other way round.
#[tokio::test]
async fn what_an_outside_program_frees_the_engine_gets() {
    let folder = tempfile::tempdir().unwrap();
    let opened = open(folder.path());
    let store = &opened.store;
    let ids = with_items(&opened, &["anna"]).await;
    let fence = opened.acquire("profile", "anna", "w", HOUR, NOW).await.fence;
    store.release_lock(named("profile", "anna", "w", fence), NOW).await.unwrap();
    let operators = store.lock_for_operator(profile("anna"), NOW).await.unwrap().unwrap();
    assert!(operators > fence);
    assert_eq!(busy(opened.ask("profile", "anna", "w", HOUR, NOW).await), ("operator".to_owned(), None));
    assert!(store.release(profile("anna"), operators).await.unwrap());
    let Ok(Claim::Started(claimed)) = store.claim(ids[0], NOW).await.unwrap() else { panic!("not claimed") };
    assert_eq!(store.arm(ids[0], operators, Proofs::default(), NOW).await.unwrap(), Err(ArmRefused::Outdated));
    store.arm(ids[0], claimed.fence, Proofs::default(), NOW).await.unwrap().unwrap();
    opened.close().await;
}

#[tokio::test]
async fn at_boot_the_engine_leaves_the_locks_of_others_alone() {
    let folder = tempfile::tempdir().unwrap();
    let opened = open(folder.path());
    let ids = with_items(&opened, &["anna", "boris", "clara"]).await;
    opened.acquire("profile", "anna", "w", HOUR, NOW).await;
    opened.acquire("task", "boris", "w", HOUR, NOW).await;
    opened.store.claim(ids[1], NOW).await.unwrap().unwrap();
    opened.store.lock_for_operator(profile("clara"), NOW).await.unwrap().unwrap();
    opened.close().await;
    let opened = open(folder.path());
    let leftovers = opened.store.leftovers().await.unwrap();
    let found: Vec<_> = leftovers.iter().map(|left| (left.lock.key.as_str(), left.running.is_some())).collect();
    assert_eq!(found, [("boris", true), ("clara", false)]);
    opened.close().await;
}

#[tokio::test]
async fn pages_and_filters_meet_without_gap_or_overlap() {
    let folder = tempfile::tempdir().unwrap();
    let opened = open(folder.path());
    let mut all = Vec::new();
    for number in 0..60 {
        let (kind, owner) = (["account", "task", "task-2"][number % 3], ["anna", "boris"][number % 2]);
        let key = format!("{:02}", number * 7 % 60);
        opened.acquire(kind, &key, owner, HOUR, NOW).await;
        all.push((kind.to_owned(), key, owner.to_owned()));
    }
    all.sort();
    for kind_ in [None, Some("task"), Some("tas"), Some("zebra")] {
        for owner in [None, Some("boris"), Some("bori")] {
            let wanted: Vec<_> = all
                .iter()
                .filter(|(kind, _, who)| kind_.is_none_or(|k| k == kind) && owner.is_none_or(|o| o == who))
                .cloned()
                .collect();
            let mut seen = Vec::new();
            let mut next = None;
            loop {
                let (kind, owner) = (kind_.map(kind), owner.map(str::to_owned));
                let page =
                    opened.store.locks(LockQuery { kind, key: None, owner, after: next, limit: 7 }).await.unwrap();
                assert!(page.rows.len() <= 7);
                seen.extend(page.rows.into_iter().map(|l| (l.kind.to_string(), l.key, l.owner.to_string())));
                next = page.next;
                if next.is_none() {
                    break;
                }
            }
            assert_eq!(seen, wanted, "kind {kind_:?}, owner {owner:?}");
        }
    }
    // A cursor of another filter gives no error and nothing of what was not asked for.
    let page = opened.store.locks(LockQuery { limit: 50, ..LockQuery::default() }).await.unwrap();
    for text in ["account", "task"] {
        let query = LockQuery { kind: Some(kind(text)), after: page.next.clone(), limit: 99, ..LockQuery::default() };
        assert!(opened.store.locks(query).await.unwrap().rows.iter().all(|lock| lock.kind.as_str() == text));
    }
    opened.close().await;
}

#[tokio::test]
async fn a_cleanup_removes_what_is_expired_of_everybody_or_of_one_owner() {
    let folder = tempfile::tempdir().unwrap();
    let opened = open(folder.path());
    for (kind, key, owner, hours) in [
        ("task", "a", "anna", 1),
        ("task", "b", "boris", 1),
        ("account", "c", "anna", 1),
        ("task", "d", "anna", 3),
        ("zebra", "e", "boris", 2),
    ] {
        opened.acquire(kind, key, owner, HOUR * hours, NOW).await;
    }
    assert_eq!(opened.clean_up(None, false, after(NEARLY)).await.removed, 0);
    let cleaned = opened.clean_up(Some("anna"), false, after(HOUR)).await;
    assert_eq!((cleaned.removed, keys(&cleaned.locks)), (2, vec!["c", "a"]));
    let cleaned = opened.clean_up(None, false, after(HOUR)).await;
    assert_eq!((cleaned.removed, keys(&cleaned.locks)), (1, vec!["b"]));
    // Without an owner nothing that is held goes, however much it is wanted.
    assert_eq!(opened.clean_up(None, true, after(HOUR)).await.removed, 0);
    let cleaned = opened.clean_up(Some("anna"), true, after(HOUR)).await;
    assert_eq!((cleaned.removed, keys(&cleaned.locks)), (1, vec!["d"]));
    assert_eq!(opened.clean_up(Some("nobody"), true, after(HOUR)).await, CleanedUp::default());
    assert_eq!(keys(&opened.all().await), ["e"]);
    opened.close().await;
}

#[tokio::test]
async fn rule_21_a_forced_cleanup_never_frees_what_the_engine_holds() {
    let folder = tempfile::tempdir().unwrap();
    let opened = open(folder.path());
    let store = &opened.store;
    let ids = with_items(&opened, &["anna", "boris", "clara"]).await;
    let Ok(Claim::Started(claimed)) = store.claim(ids[0], NOW).await.unwrap() else { panic!("not claimed") };
    store.lock_for_operator(profile("boris"), NOW).await.unwrap().unwrap();
    opened.acquire("profile", "clara", "operator", HOUR, NOW).await;
    let owner = format!("item {}", ids[0]);
    for force in [false, true] {
        let cleaned = opened.clean_up(Some(&owner), force, after(HOUR * 99)).await;
        assert_eq!((cleaned.removed, keys(&cleaned.stopping)), (0, if force { vec!["anna"] } else { vec![] }));
    }
    // An outside program that calls itself like one of the engine's owners is still outside.
    let cleaned = opened.clean_up(Some("operator"), true, NOW).await;
    assert_eq!((keys(&cleaned.locks), keys(&cleaned.stopping)), (vec!["clara"], vec!["boris"]));
    let held: Vec<_> = opened.all().await.into_iter().map(|lock| (lock.key, lock.owner)).collect();
    let engines = [("anna".to_owned(), LockOwner::Item(ids[0])), ("boris".to_owned(), LockOwner::Operator)];
    assert_eq!(held, engines);
    store.arm(ids[0], claimed.fence, Proofs::default(), NOW).await.unwrap().unwrap();
    opened.close().await;
}

#[tokio::test]
async fn a_cleanup_of_many_goes_in_steps_counts_all_and_tells_a_bounded_number() {
    let folder = tempfile::tempdir().unwrap();
    let opened = open(folder.path());
    let many = 3 * MAX_LOCKS_SHOWN / 2;
    let asking = (0..many).map(|number| {
        let (kind, hours) = (format!("kind-{}", number % 700), if number % 3 == 0 { 2 } else { 1 });
        let store = opened.store.clone();
        async move { store.acquire_lock(asked(&kind, &number.to_string(), "w", HOUR * hours), NOW).await.unwrap() }
    });
    futures_util::future::join_all(asking).await;
    let cleaned = opened.clean_up(None, false, after(HOUR)).await;
    assert_eq!((cleaned.removed, cleaned.locks.len()), (1_000, MAX_LOCKS_SHOWN));
    let cleaned = opened.clean_up(None, false, after(HOUR * 2)).await;
    assert_eq!((cleaned.removed, cleaned.locks.len()), (500, 500));
    assert!(opened.all().await.is_empty());
    opened.close().await;
}
