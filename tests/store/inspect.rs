//! A look at a state file that nobody holds: it tells what a start would find, and changes nothing.

use std::path::Path;

use cove::store::{ClockMark, LEDGER_FILE, OpenError, Pause, SCHEMA_VERSION, STATE_FILE, inspect};

use super::{MOMENT, NOW, furnished, open};

fn files(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files: Vec<(String, Vec<u8>)> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap())
        .map(|entry| (entry.file_name().into_string().unwrap(), std::fs::read(entry.path()).unwrap()))
        .collect();
    files.sort();
    files
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_start_would_find_is_told_and_not_one_byte_changes() {
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(inspect(folder.path()).unwrap(), None);
    assert!(files(folder.path()).is_empty(), "no file is made");

    let opened = furnished(folder.path()).await;
    let mark = ClockMark { believed: MOMENT, suspect_since: None };
    opened.store.mark_clock(mark).await.unwrap();
    opened.store.pause(NOW).await.unwrap();
    assert!(matches!(inspect(folder.path()), Err(OpenError::Held(_))));
    // As a daemon that was killed leaves it: not closed.
    let killed = tempfile::tempdir().unwrap();
    for (name, bytes) in files(folder.path()) {
        std::fs::write(killed.path().join(name), bytes).unwrap();
    }
    opened.close().await;

    for folder in [folder.path(), killed.path()] {
        let before = files(folder);
        let found = inspect(folder).unwrap().unwrap();
        assert_eq!((found.schema, found.clock), (SCHEMA_VERSION, Some(mark)));
        assert_eq!(found.pause, Some(Pause::Operator { since: NOW }));
        assert_eq!(found.ledger_bytes, Some(folder.join(LEDGER_FILE).metadata().unwrap().len()));
        assert!(files(folder) == before, "a look changed a file");
    }
    std::fs::write(killed.path().join(STATE_FILE), "not a state file").unwrap();
    assert!(matches!(inspect(killed.path()), Err(OpenError::NotAStateFile { .. })));
    open(folder.path()).close().await;
}
