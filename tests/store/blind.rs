//! A state that is opened without knowing what went out since it was saved: what it may still promise
//! (fence.md rules 1, 11 and 19).

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use cove::model::{Fence, ItemId, LockKind, LockOwner, Moment};
use cove::store::{
    Acquire, AcquireRefused, EnqueueError, Idempotency, LEDGER_FILE, LockAsked, LockHeld, NewTask, NotYours, Pause,
    ResumeRefused, STATE_FILE, Store,
};

use super::{MOMENT, NOW, Opened, furnished, item, keyed, only_item, publish, succeeded, task};

const TTL: Duration = Duration::from_secs(3_600);
const OWNER: &str = "w1";

fn open_at(folder: &Path, now: Moment) -> Opened {
    let (store, thread, report) = Store::open(folder, now).unwrap();
    Opened { store, thread, report }
}

fn kind() -> LockKind {
    LockKind::new("task").unwrap()
}

async fn acquire(store: &Store, now: Moment) -> Fence {
    let owner = LockOwner::Outside(OWNER.to_owned());
    let asked = LockAsked { kind: kind(), key: "7".to_owned(), owner, ttl: Some(TTL) };
    match store.acquire_lock(asked, now).await.unwrap() {
        Acquire::Acquired(granted) => granted.fence,
        busy @ Acquire::Busy { .. } => panic!("{busy:?}"),
    }
}

fn held(fence: Fence) -> LockHeld {
    LockHeld { kind: kind(), key: "7".to_owned(), owner: LockOwner::Outside(OWNER.to_owned()), fence }
}

/// What one life gave out, its owner's last fence first.
struct Life {
    fence: Fence,
    items: BTreeSet<ItemId>,
    numbers: BTreeSet<u64>,
}

/// Where the state of a life comes from.
#[derive(Clone, Copy, PartialEq)]
enum From {
    /// The saved one, and no ledger is left.
    SavedAlone,
    /// The saved one, beside the ledger of the life before.
    Saved,
    /// It goes on.
    Before,
}

/// Takes the state from there and lives a little.
async fn live(folder: &Path, from: From, now: Moment, late: Option<Fence>) -> Life {
    if from != From::Before {
        std::fs::copy(folder.join("saved"), folder.join(STATE_FILE)).unwrap();
    }
    if from == From::SavedAlone {
        std::fs::remove_file(folder.join(LEDGER_FILE)).unwrap();
    }
    let opened = open_at(folder, now);
    // A ledger that was begun after the state was saved tells nothing of the time between.
    assert_eq!(matches!(opened.report.pause, Some(Pause::Restored { blind: true, .. })), from != From::Before);
    opened.store.resume(true, now.wall).await.unwrap();
    let fence = acquire(&opened.store, now).await;
    if let Some(late) = late {
        // The same owner, by the same name: only its fence tells that it is the one of before.
        let refreshed = opened.store.refresh_lock(held(late), None, now).await;
        assert!(matches!(refreshed, Err(NotYours::StaleFence)), "{refreshed:?}");
        assert!(matches!(opened.store.release_lock(held(late), now).await, Err(NotYours::StaleFence)));
    }
    let mut numbers = BTreeSet::from([fence.raw()]);
    let mut items = BTreeSet::new();
    for _ in 0..50 {
        let made = opened.store.enqueue(task(vec![item("anna")]), now.wall).await.unwrap();
        let id = only_item(&opened.store, made.task).await;
        assert!(numbers.insert(made.task.raw()) && numbers.insert(id.raw()));
        items.insert(id);
    }
    opened.close().await;
    Life { fence, items, numbers }
}

async fn saved(folder: &Path) {
    let opened = furnished(folder).await;
    opened.close().await;
    std::fs::copy(folder.join(STATE_FILE), folder.join("saved")).unwrap();
}

fn at(later_ms: u64) -> Moment {
    Moment { wall: MOMENT.wall.plus(Duration::from_millis(later_ms)), ..MOMENT }
}

fn assert_disjoint(lives: &[Life]) {
    let all: usize = lives.iter().map(|life| life.numbers.len()).sum();
    let together: BTreeSet<_> = lives.iter().flat_map(|life| &life.numbers).collect();
    assert_eq!(together.len(), all, "a number was given out twice");
    assert!(lives.iter().all(|life| life.items.len() == 50));
}

#[tokio::test]
async fn rule_1_two_blind_lives_of_one_day_share_no_number_and_a_late_owner_is_told_so() {
    let folder = tempfile::tempdir().unwrap();
    saved(folder.path()).await;
    let first = live(folder.path(), From::SavedAlone, at(0), None).await;
    let second = live(folder.path(), From::SavedAlone, at(1_000), Some(first.fence)).await;
    assert_eq!(first.fence.epoch(), second.fence.epoch(), "nothing but the clock can tell them apart");
    assert!(first.numbers.iter().all(|number| *number < second.fence.raw()));
    // The next day, at the same time of day.
    let third = live(folder.path(), From::SavedAlone, at(86_400_000), Some(second.fence)).await;
    assert_disjoint(&[first, second, third]);
}

#[tokio::test]
async fn rule_1_a_life_beside_the_ledger_of_a_blind_one_is_blind_and_shares_no_number_with_it() {
    let folder = tempfile::tempdir().unwrap();
    saved(folder.path()).await;
    let first = live(folder.path(), From::SavedAlone, at(0), None).await;
    // Beside the ledger of that life, which began too late to know everything.
    let second = live(folder.path(), From::Saved, at(1_000), Some(first.fence)).await;
    let third = live(folder.path(), From::SavedAlone, at(2_000), Some(second.fence)).await;
    assert_disjoint(&[first, second, third]);
}

#[tokio::test]
async fn rule_1_a_clock_that_was_set_back_between_two_blind_lives_makes_no_number_twice() {
    let folder = tempfile::tempdir().unwrap();
    saved(folder.path()).await;
    let first = live(folder.path(), From::SavedAlone, at(7_200_000), None).await;
    let second = live(folder.path(), From::SavedAlone, at(3_600_000), Some(first.fence)).await;
    // Its numbers are below, and it would have to give out 512 a millisecond for an hour to reach the first.
    assert!(first.fence.raw() - second.fence.raw() > 1_000_000_000);
    assert_disjoint(&[first, second]);
}

/// What the ledger says behind the damage is not known: that is as blind as no ledger.
#[tokio::test]
async fn rule_1_two_lives_with_a_damaged_ledger_share_no_number() {
    let folder = tempfile::tempdir().unwrap();
    saved(folder.path()).await;
    let ledger = folder.path().join(LEDGER_FILE);
    let whole = std::fs::read(&ledger).unwrap();
    let mut damaged = whole.clone();
    damaged[3] ^= 1;
    damaged.extend_from_slice(&whole);
    let mut numbers = BTreeSet::new();
    for later_ms in [0, 1_000] {
        std::fs::copy(folder.path().join("saved"), folder.path().join(STATE_FILE)).unwrap();
        std::fs::write(&ledger, &damaged).unwrap();
        let opened = open_at(folder.path(), at(later_ms));
        assert!(matches!(opened.report.pause, Some(Pause::LedgerDamaged { .. })));
        // What was locked before it broke is not known to be free.
        let asked = LockAsked {
            kind: kind(),
            key: "7".to_owned(),
            owner: LockOwner::Outside(OWNER.to_owned()),
            ttl: Some(TTL),
        };
        let refused = opened.store.acquire_lock(asked, at(later_ms)).await;
        assert!(matches!(refused, Err(AcquireRefused::Restored)), "{refused:?}");
        let mut number = async |opened: &Opened| {
            let made = opened.store.enqueue(task(vec![item("anna")]), at(later_ms).wall).await.unwrap();
            assert!(numbers.insert(made.task.raw()), "{numbers:?}");
            made.task
        };
        let first = number(&opened).await;
        opened.close().await;
        // A second start on the same damage goes on above the first.
        let opened = open_at(folder.path(), at(later_ms));
        assert!(first < number(&opened).await);
        opened.close().await;
    }
    assert_eq!(numbers.len(), 4);
}

#[tokio::test]
async fn rule_11_who_accepts_duplicates_gets_a_new_ledger_that_knows_all_that_could_be_read() {
    let folder = tempfile::tempdir().unwrap();
    let opened = furnished(folder.path()).await;
    let mut published = Vec::new();
    for _ in 0..3 {
        let made =
            opened.store.enqueue(task(vec![keyed("anna", &format!("k{}", published.len()))]), NOW).await.unwrap();
        let id = only_item(&opened.store, made.task).await;
        publish(&opened.store, id, succeeded()).await;
        published.push(id);
    }
    opened.close().await;
    let ledger = folder.path().join(LEDGER_FILE);
    let mut damaged = std::fs::read(&ledger).unwrap();
    // Somewhere in the second line, the first item's arming.
    let second = damaged.iter().position(|byte| *byte == b'\n').unwrap() + 20;
    damaged[second] ^= 1;
    std::fs::write(&ledger, &damaged).unwrap();
    for _ in 0..2 {
        let opened = open_at(folder.path(), MOMENT);
        let refused = opened.store.resume(false, NOW).await.unwrap_err().to_string();
        assert!(refused.contains("damaged") && refused.contains("cove resume --accept-duplicates"), "{refused}");
        opened.close().await;
    }
    let opened = open_at(folder.path(), MOMENT);
    opened.store.resume(true, NOW).await.unwrap();
    let made = opened.store.enqueue(task(vec![item("boris")]), NOW).await.unwrap();
    let after = only_item(&opened.store, made.task).await;
    publish(&opened.store, after, succeeded()).await;
    opened.close().await;
    let kept: Vec<_> = std::fs::read_dir(folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.to_string_lossy().contains("publish.ledger.damaged-"))
        .collect();
    assert_eq!(kept.len(), 1, "{kept:?}");
    assert_eq!(std::fs::read(&kept[0]).unwrap(), damaged);

    let opened = open_at(folder.path(), MOMENT);
    let report = &opened.report;
    assert_eq!((report.ledger_damage.as_deref(), report.restored, &report.pause), (None, false, &None));
    opened.close().await;
    // And it does what a ledger is for: an older state learns from it what went out. It was damaged since that
    // state was saved, so that is not all that went out.
    let old = tempfile::tempdir().unwrap();
    let opened = furnished(old.path()).await;
    // More than the ledger has: by number, the first ones are taken for those that went out.
    opened.store.enqueue(task((0..20).map(|_| item("anna")).collect()), NOW).await.unwrap();
    opened.close().await;
    std::fs::copy(&ledger, old.path().join(LEDGER_FILE)).unwrap();
    let opened = open_at(old.path(), MOMENT);
    assert!(matches!(opened.report.pause, Some(Pause::Restored { blind: true, .. })));
    assert!(matches!(opened.store.resume(false, NOW).await, Err(ResumeRefused::Blind)));
    opened.store.resume(true, NOW).await.unwrap();
    for number in 0..3 {
        let again = opened.store.enqueue(task(vec![keyed("anna", &format!("k{number}"))]), NOW).await;
        assert!(matches!(again, Err(EnqueueError::KeyTaken { .. })), "{number}: {again:?}");
    }
    opened.close().await;
}

/// A crash between the ledger's line and the commit of a blind restore: the next boot finds a ledger with an
/// epoch, and knows no more than the one before.
#[tokio::test]
async fn rule_19_a_blind_restore_that_was_cut_off_is_blind_again() {
    let folder = tempfile::tempdir().unwrap();
    let opened = furnished(folder.path()).await;
    opened.store.enqueue(task(vec![item("anna")]), NOW).await.unwrap();
    opened.close().await;
    std::fs::copy(folder.path().join(STATE_FILE), folder.path().join("saved")).unwrap();
    std::fs::remove_file(folder.path().join(LEDGER_FILE)).unwrap();
    let first = open_at(folder.path(), MOMENT);
    assert!(matches!(first.report.pause, Some(Pause::Restored { blind: true, .. })));
    let epoch = first.report.epoch;
    first.close().await;
    // The ledger's line is there, and the commit is not.
    std::fs::copy(folder.path().join("saved"), folder.path().join(STATE_FILE)).unwrap();
    let opened = open_at(folder.path(), MOMENT);
    assert!(matches!(opened.report.pause, Some(Pause::Restored { blind: true, .. })), "{:?}", opened.report);
    assert_eq!(opened.report.epoch, epoch + 1);
    assert!(matches!(opened.store.resume(false, NOW).await, Err(ResumeRefused::Blind)));
    opened.close().await;
}

/// Nothing was armed since the copy was made, so no line of the ledger names an item that it does not know. It
/// was opened since, and that is in the ledger, too.
#[tokio::test]
async fn rule_17_an_older_copy_put_back_by_hand_is_a_restore() {
    let folder = tempfile::tempdir().unwrap();
    let opened = furnished(folder.path()).await;
    let before = opened.store.enqueue(task(vec![item("anna")]), NOW).await.unwrap();
    opened.close().await;
    std::fs::copy(folder.path().join(STATE_FILE), folder.path().join("saved")).unwrap();
    let opened = open_at(folder.path(), MOMENT);
    assert!(!opened.report.restored, "it is the newest");
    let lost = opened.store.enqueue(task(vec![item("anna")]), NOW).await.unwrap();
    opened.close().await;
    std::fs::copy(folder.path().join("saved"), folder.path().join(STATE_FILE)).unwrap();
    let opened = open_at(folder.path(), MOMENT);
    assert!(opened.report.restored);
    assert!(matches!(opened.report.pause, Some(Pause::Restored { blind: false, .. })), "{:?}", opened.report.pause);
    opened.store.resume(false, NOW).await.unwrap();
    let made = opened.store.enqueue(task(vec![item("anna")]), NOW).await.unwrap();
    assert!(made.task > lost.task && lost.task > before.task, "no number is given out twice");
    opened.close().await;
    let opened = open_at(folder.path(), MOMENT);
    assert!(!opened.report.restored);
    opened.close().await;
}

/// The ledger keeps a hash of the Idempotency-Key and none of the body: nothing under that key is a
/// repetition of what went out, and nothing under it is new.
#[tokio::test]
async fn rule_2_an_idempotency_key_that_only_the_ledger_knows_makes_nothing_again() {
    let folder = tempfile::tempdir().unwrap();
    saved(folder.path()).await;
    let asked = |key: &str, body: u8, own: &str| NewTask {
        idempotency: Some(Idempotency { scope: String::new(), key: key.to_owned(), body_hash: [body; 32] }),
        ..task(vec![keyed("anna", own)])
    };
    let opened = open_at(folder.path(), MOMENT);
    let made = opened.store.enqueue(asked("spring", 1, "a"), NOW).await.unwrap();
    publish(&opened.store, only_item(&opened.store, made.task).await, succeeded()).await;
    opened.store.enqueue(asked("summer", 1, "b"), NOW).await.unwrap();
    opened.close().await;
    std::fs::copy(folder.path().join("saved"), folder.path().join(STATE_FILE)).unwrap();
    let opened = open_at(folder.path(), MOMENT);
    assert!(matches!(opened.report.pause, Some(Pause::Restored { blind: false, .. })));
    opened.store.resume(false, NOW).await.unwrap();
    for (body, own) in [(1, "a"), (2, "another")] {
        let again = opened.store.enqueue(asked("spring", body, own), NOW).await;
        assert!(matches!(again, Err(EnqueueError::KnownToTheLedgerAlone)), "{again:?}");
        let asked = asked("spring", body, own).idempotency.unwrap();
        assert!(matches!(opened.store.find_replay(asked).await, Err(EnqueueError::KnownToTheLedgerAlone)));
    }
    opened.store.enqueue(asked("summer", 1, "b"), NOW).await.unwrap();
    opened.close().await;
}
