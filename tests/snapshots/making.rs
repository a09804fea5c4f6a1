//! How one is made: what is in it, what it leaves when it is not finished, and the one before a migration.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::Ordering;

use cove::model::{Clock, SystemClock};
use cove::store::snapshot::{SnapshotError, SnapshotFolder, SnapshotPlan, SnapshotReason, restore, verify};
use cove::store::{LEDGER_FILE, SCHEMA_VERSION, STATE_FILE, Store};
use redb::{ReadableDatabase, TableDefinition, TableHandle};

use super::work::{Opened, enqueue, items, plan, small, snapshot, try_snapshot};

fn left_in(folder: &Path) -> BTreeSet<String> {
    std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[tokio::test]
async fn it_is_one_private_file_with_every_table_and_what_it_says_of_itself() {
    let folder = tempfile::tempdir().unwrap();
    let (opened, made) = small(folder.path()).await;
    let snapshots = SnapshotFolder::new(folder.path().join("snapshots"));
    assert_eq!(snapshots.list().unwrap(), std::slice::from_ref(&made));
    let path = snapshots.path().join(&made.name);
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(snapshots.path().metadata().unwrap().permissions().mode() & 0o777, 0o700);
    let scratch = tempfile::tempdir().unwrap();
    let (manifest, sha256) = verify(&path, scratch.path()).unwrap();
    assert_eq!((Some(&manifest), Some(&sha256)), (made.manifest.as_ref(), made.sha256.as_ref()));
    assert!(made.is_verified() && made.bytes == path.metadata().unwrap().len());
    assert_eq!((manifest.schema, manifest.reason), (SCHEMA_VERSION, SnapshotReason::Asked));
    opened.close().await;
    // Every table that really is in the state file.
    let db = redb::Database::open(folder.path().join(STATE_FILE)).unwrap();
    let there: BTreeSet<_> =
        db.begin_read().unwrap().list_tables().unwrap().map(|table| table.name().to_owned()).collect();
    let in_manifest: BTreeSet<_> = manifest.tables.iter().map(|table| table.name.clone()).collect();
    assert_eq!(in_manifest, there);
    assert_eq!(manifest.tables.iter().find(|table| table.name == "items").unwrap().rows, 8);
    assert_eq!(left_in(snapshots.path()).len(), 2, "{:?}", left_in(snapshots.path()));
}

/// A table that the list does not know would be missing from every snapshot, without a word.
#[tokio::test]
async fn negative_control_a_table_that_nobody_listed_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let (opened, _) = small(folder.path()).await;
    opened.close().await;
    let db = redb::Database::open(folder.path().join(STATE_FILE)).unwrap();
    let txn = db.begin_write().unwrap();
    txn.open_table(TableDefinition::<u64, u64>::new("forgotten")).unwrap();
    txn.commit().unwrap();
    drop(db);
    let opened = Opened::open(folder.path());
    let refused = try_snapshot(&opened.store, plan(folder.path())).await.unwrap_err().to_string();
    assert!(refused.contains("a table that nobody knows, forgotten"), "{refused}");
    opened.close().await;
}

#[tokio::test]
async fn it_can_be_taken_apart_by_hand() {
    let have = |tool: &str| Command::new(tool).arg("--version").output().is_ok();
    let folder = tempfile::tempdir().unwrap();
    let media = folder.path().join("media/ab");
    std::fs::create_dir_all(&media).unwrap();
    std::fs::write(media.join("film.mp4"), "a film").unwrap();
    std::fs::write(media.join(".upload-1"), "half").unwrap();
    let opened = Opened::furnished(folder.path()).await;
    let with_media = SnapshotPlan { media: true, evidence: true, ..plan(folder.path()) };
    let made = try_snapshot(&opened.store, with_media).await.unwrap();
    opened.close().await;
    let path = folder.path().join("snapshots").join(&made.name);
    if have("zstd") && have("tar") {
        let by_hand = Command::new("sh").arg("-c").arg("zstd -dc \"$0\" | tar -t").arg(&path).output().unwrap();
        let names = String::from_utf8(by_hand.stdout).unwrap();
        assert_eq!(names.lines().collect::<Vec<_>>(), ["state.redb", "cove.toml", "media/ab/film.mp4"]);
    } else {
        println!("skipped: zstd and tar are not both here");
    }
    // Media that are missing come back; what is there stays.
    std::fs::write(media.join("film.mp4"), "another film").unwrap();
    let kept = restore(&path, folder.path(), SystemClock.now()).unwrap();
    assert!(kept.files.is_empty());
    assert_eq!(std::fs::read(media.join("film.mp4")).unwrap(), b"another film");
    std::fs::remove_file(media.join("film.mp4")).unwrap();
    let put = restore(&path, folder.path(), SystemClock.now().plus(std::time::Duration::from_secs(1))).unwrap();
    assert_eq!(put.files, [media.join("film.mp4")]);
    assert_eq!(std::fs::read(media.join("film.mp4")).unwrap(), b"a film");
}

#[tokio::test]
async fn two_of_one_second_have_two_names_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let opened = Opened::furnished(folder.path()).await;
    let mut names = Vec::new();
    for _ in 0..3 {
        names.push(snapshot(&opened.store, folder.path()).await.name);
    }
    assert!(names.is_sorted() && names.iter().collect::<BTreeSet<_>>().len() == 3, "{names:?}");
    let listed = SnapshotFolder::new(folder.path().join("snapshots")).list().unwrap();
    names.reverse();
    assert_eq!(listed.into_iter().map(|snapshot| snapshot.name).collect::<Vec<_>>(), names);
    opened.close().await;
}

#[tokio::test]
async fn one_that_is_not_finished_leaves_nothing_and_the_others_stay() {
    let folder = tempfile::tempdir().unwrap();
    let (opened, made) = small(folder.path()).await;
    let snapshots = folder.path().join("snapshots");
    let before = left_in(&snapshots);
    let canceled = plan(folder.path());
    canceled.cancel.store(true, Ordering::Relaxed);
    assert!(matches!(try_snapshot(&opened.store, canceled).await, Err(SnapshotError::Canceled)));
    let short = SnapshotPlan { least_free_bytes: 1 << 60, ..plan(folder.path()) };
    assert!(matches!(try_snapshot(&opened.store, short).await, Err(SnapshotError::Full(_))));
    assert_eq!(left_in(&snapshots), before);
    assert!(before.contains(&made.name));
    opened.close().await;
}

fn golden(to: &Path) {
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/schema-1");
    for file in [STATE_FILE, LEDGER_FILE] {
        std::fs::copy(from.join(file), to.join(file)).unwrap();
    }
}

#[tokio::test]
async fn a_migration_makes_a_snapshot_first_and_only_one() {
    let folder = tempfile::tempdir().unwrap();
    golden(folder.path());
    Opened::open(folder.path()).close().await;
    let snapshots = SnapshotFolder::new(folder.path().join("snapshots"));
    let [made] = &snapshots.list().unwrap()[..] else { panic!("{:?}", snapshots.list()) };
    let manifest = made.manifest.as_ref().unwrap();
    assert_eq!((manifest.schema, manifest.reason), (1, SnapshotReason::Migration));
    assert!(made.name.ends_with(&format!("-before-schema-{SCHEMA_VERSION}.snapshot")) && made.is_verified());
    let scratch = tempfile::tempdir().unwrap();
    verify(&snapshots.path().join(&made.name), scratch.path()).unwrap();
    Opened::open(folder.path()).close().await;
    assert_eq!(snapshots.list().unwrap().len(), 1, "there was nothing to migrate");
    // A migration that begins anew from the same file finds it kept.
    golden(folder.path());
    Opened::open(folder.path()).close().await;
    assert_eq!(snapshots.list().unwrap().len(), 1);
    // And back: the next start migrates it again, and takes it for what it is.
    restore(&snapshots.path().join(&made.name), folder.path(), SystemClock.now()).unwrap();
    let opened = Opened::open(folder.path());
    assert!(opened.report.restored, "{:?}", opened.report);
    opened.close().await;
}

#[tokio::test]
async fn without_a_snapshot_there_is_no_migration() {
    let folder = tempfile::tempdir().unwrap();
    golden(folder.path());
    let before = std::fs::read(folder.path().join(STATE_FILE)).unwrap();
    // A file stands where the folder should be.
    std::fs::write(folder.path().join("snapshots"), "in the way").unwrap();
    let refused = Store::open(folder.path(), SystemClock.moment()).err().unwrap().to_string();
    assert!(refused.contains("no snapshot could be made of it before"), "{refused}");
    assert!(std::fs::read(folder.path().join(STATE_FILE)).unwrap() == before, "it was left as it was");
}

#[tokio::test]
async fn what_is_written_meanwhile_is_not_in_it() {
    let folder = tempfile::tempdir().unwrap();
    let opened = Opened::furnished(folder.path()).await;
    let begun = opened.store.begin_snapshot(plan(folder.path())).await.unwrap();
    let after = enqueue(&opened.store, 2, "after").await;
    assert_eq!(items(&opened.store, after).await.len(), 2);
    let made = begun.run().unwrap().await.unwrap().unwrap();
    let rows = |name: &str| {
        let tables = &made.manifest.as_ref().unwrap().tables;
        tables.iter().find(|table| table.name == name).unwrap().rows
    };
    assert_eq!((rows("items"), rows("tasks"), rows("profiles")), (0, 0, 4));
    opened.close().await;
}
