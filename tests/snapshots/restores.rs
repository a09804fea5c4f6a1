//! What becomes of a state that was put back (fence.md rules 17 to 19).

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use cove::model::{Clock, HeldFor, ItemState, SystemClock};
use cove::store::snapshot::{RestoreError, Restored, Snapshot, SnapshotPlan, restore};
use cove::store::{LEDGER_FILE, Pause, ResumeRefused, STATE_FILE};

use super::work::{Opened, arm, enqueue, items, plan, publish, snapshot, try_snapshot};

fn path_of(folder: &Path, made: &Snapshot) -> PathBuf {
    folder.join("snapshots").join(&made.name)
}

fn put_back(folder: &Path, made: &Snapshot) -> Restored {
    restore(&path_of(folder, made), folder, SystemClock.now()).unwrap()
}

fn blind(opened: &Opened) -> bool {
    match opened.report.pause {
        Some(Pause::Restored { blind, .. }) => blind,
        ref other => panic!("not restored: {other:?}"),
    }
}

#[tokio::test]
async fn rule_18_what_went_out_since_is_known_and_the_rest_is_held() {
    let folder = tempfile::tempdir().unwrap();
    let opened = Opened::furnished(folder.path()).await;
    let task = enqueue(&opened.store, 4, "spring").await;
    let all = items(&opened.store, task).await;
    assert!(publish(&opened.store, &all[0]).await);
    let made = snapshot(&opened.store, folder.path()).await;
    // One goes out, one is clicked and nobody knows, two wait; and a task that the snapshot never saw.
    assert!(publish(&opened.store, &all[1]).await);
    assert!(arm(&opened.store, all[2].id).await.is_some());
    let later = enqueue(&opened.store, 1, "later").await;
    let epoch = opened.report.epoch;
    opened.close().await;
    let ledger = std::fs::read(folder.path().join(LEDGER_FILE)).unwrap();
    let restored = put_back(folder.path(), &made);
    assert!(restored.ledger_went_on);
    assert!(std::fs::read(folder.path().join(LEDGER_FILE)).unwrap() == ledger, "the ledger was touched");
    let opened = Opened::open(folder.path());
    assert!(opened.report.restored && !blind(&opened) && opened.report.epoch > epoch, "{:?}", opened.report);
    let found = items(&opened.store, task).await;
    let states: Vec<_> = found.iter().map(|item| item.state).collect();
    let expected = [ItemState::Succeeded, ItemState::Succeeded, ItemState::OutcomeUnknown, ItemState::Held];
    assert_eq!(states, expected);
    assert_eq!(found[3].held_for, Some(HeldFor::Restore));
    assert!(opened.store.task(later).await.unwrap().is_none());
    opened.store.resume(false, SystemClock.now()).await.unwrap();
    assert_eq!(items(&opened.store, task).await[3].state, ItemState::Queued);
    opened.close().await;
    // The mark is gone: the next start is an ordinary one.
    let opened = Opened::open(folder.path());
    assert!(!opened.report.restored && opened.report.pause.is_none(), "{:?}", opened.report);
    opened.close().await;
}

#[tokio::test]
async fn rule_19_a_ledger_that_ends_where_the_snapshot_began_tells_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let opened = Opened::furnished(folder.path()).await;
    let task = enqueue(&opened.store, 1, "spring").await;
    let made = snapshot(&opened.store, folder.path()).await;
    let ledger = std::fs::read(folder.path().join(LEDGER_FILE)).unwrap();
    let all = items(&opened.store, task).await;
    assert!(publish(&opened.store, &all[0]).await);
    opened.close().await;
    // A whole directory that was put back from one backup: state and ledger agree, and both forgot.
    std::fs::write(folder.path().join(LEDGER_FILE), &ledger).unwrap();
    assert!(!put_back(folder.path(), &made).ledger_went_on);
    let opened = Opened::open(folder.path());
    assert!(opened.report.restored && blind(&opened));
    assert_eq!(items(&opened.store, task).await[0].state, ItemState::Held);
    assert!(matches!(opened.store.resume(false, SystemClock.now()).await, Err(ResumeRefused::Blind)));
    opened.store.resume(true, SystemClock.now()).await.unwrap();
    opened.close().await;
}

#[tokio::test]
async fn rule_19_without_a_ledger_or_on_another_machine_it_is_blind() {
    for missing in [true, false] {
        let folder = tempfile::tempdir().unwrap();
        let opened = Opened::furnished(folder.path()).await;
        let task = enqueue(&opened.store, 2, "spring").await;
        let elsewhere = SnapshotPlan { machine: Some("another".to_owned()), ..plan(folder.path()) };
        let asked = if missing { plan(folder.path()) } else { elsewhere };
        let made = try_snapshot(&opened.store, asked).await.unwrap();
        let all = items(&opened.store, task).await;
        assert!(publish(&opened.store, &all[0]).await);
        opened.close().await;
        if missing {
            std::fs::remove_file(folder.path().join(LEDGER_FILE)).unwrap();
        }
        put_back(folder.path(), &made);
        let opened = Opened::open(folder.path());
        assert!(opened.report.restored && blind(&opened), "missing: {missing}");
        // Rule 18: what the ledger knows holds, wherever it comes from.
        let state = items(&opened.store, task).await[0].state;
        assert_eq!(state, if missing { ItemState::Held } else { ItemState::Succeeded });
        opened.close().await;
    }
}

/// Put back by hand, out of the archive, with nobody's help.
#[tokio::test]
async fn rule_17_whoever_restores_it_the_next_boot_knows() {
    let folder = tempfile::tempdir().unwrap();
    let opened = Opened::furnished(folder.path()).await;
    enqueue(&opened.store, 1, "spring").await;
    let made = snapshot(&opened.store, folder.path()).await;
    opened.close().await;
    // Nothing was armed since: without its mark this state would pass for the newest.
    let other = tempfile::tempdir().unwrap();
    put_back(other.path(), &made_in(folder.path(), other.path(), &made));
    std::fs::copy(other.path().join(STATE_FILE), folder.path().join(STATE_FILE)).unwrap();
    let opened = Opened::open(folder.path());
    assert!(opened.report.restored && blind(&opened), "{:?}", opened.report);
    opened.close().await;
}

/// The snapshot, copied into another state directory.
fn made_in(from: &Path, to: &Path, made: &Snapshot) -> Snapshot {
    std::fs::create_dir_all(to.join("snapshots")).unwrap();
    std::fs::copy(path_of(from, made), path_of(to, made)).unwrap();
    made.clone()
}

#[tokio::test]
async fn the_old_file_is_kept_and_owner_and_mode_stay() {
    let folder = tempfile::tempdir().unwrap();
    let opened = Opened::furnished(folder.path()).await;
    let made = snapshot(&opened.store, folder.path()).await;
    opened.close().await;
    let state = folder.path().join(STATE_FILE);
    std::fs::set_permissions(&state, std::fs::Permissions::from_mode(0o640)).unwrap();
    let before = std::fs::read(&state).unwrap();
    let restored = put_back(folder.path(), &made);
    let kept = restored.kept.unwrap();
    assert!(kept.file_name().unwrap().to_str().unwrap().starts_with("state.redb.before-restore-2"), "{kept:?}");
    assert!(std::fs::read(&kept).unwrap() == before, "the old file is kept as it was");
    assert_eq!(state.metadata().unwrap().permissions().mode() & 0o777, 0o640);
    // And where there is none.
    std::fs::remove_file(&state).unwrap();
    let restored = restore(&path_of(folder.path(), &made), folder.path(), SystemClock.now()).unwrap();
    assert_eq!(restored.kept, None);
    assert_eq!(state.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    Opened::open(folder.path()).close().await;
}

#[tokio::test]
async fn nothing_is_restored_under_an_open_store_and_a_damaged_one_is_no_obstacle() {
    let folder = tempfile::tempdir().unwrap();
    let opened = Opened::furnished(folder.path()).await;
    let made = snapshot(&opened.store, folder.path()).await;
    let path = path_of(folder.path(), &made);
    let refused = restore(&path, folder.path(), SystemClock.now()).unwrap_err();
    assert!(matches!(refused, RestoreError::Held(_)), "{refused}");
    assert!(refused.to_string().contains("stop it first"), "{refused}");
    opened.close().await;
    // A damaged state file is no obstacle: that is what a restore is for.
    std::fs::write(folder.path().join(STATE_FILE), "rubbish").unwrap();
    put_back(folder.path(), &made);
    Opened::open(folder.path()).close().await;
}
