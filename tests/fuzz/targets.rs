// What is fuzzed, and what has to hold of any bytes: shared by the short rounds on a stable toolchain
// (`tests/fuzz.rs`) and the long ones that are led by coverage (the crate in this folder).

use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::path::PathBuf;

use cove::api::readers::{read_body, read_head};
use cove::browser::host::protocol;
use cove::config::{Config, Sources};
use cove::model::flow::{Flow, Severity};
use cove::store::readers::{read_ledger, reread_record};

/// A recording: read or refused with problems that can be shown, and the same every time.
pub fn flow(data: &[u8]) {
    match Flow::parse(data) {
        Ok((flow, warnings)) => {
            assert!(warnings.iter().all(|problem| problem.severity == Severity::Warning), "{warnings:?}");
            let refused = flow.take_inputs(&serde_json::Map::new()).err().unwrap_or_default();
            assert!(refused.iter().all(|problem| !problem.message.is_empty()), "{refused:?}");
            let same = Flow::parse(data).map(|(_, again)| again == warnings);
            assert_eq!(same.ok(), Some(true), "the same recording is read otherwise");
        }
        Err(problems) => assert!(problems.iter().any(|problem| problem.severity == Severity::Error), "{problems:?}"),
    }
}

/// A record of the store: what is read is written again as what is read again.
pub fn codec(data: &[u8]) {
    let Some((kind, bytes)) = data.split_first() else { return };
    let kind = usize::from(*kind);
    if let Ok(again) = reread_record(kind, bytes) {
        assert_eq!(reread_record(kind, &again).ok().as_ref(), Some(&again));
    }
}

thread_local! {
    static FILE: OnceCell<(tempfile::TempDir, PathBuf)> = const { OnceCell::new() };
}

/// A configuration file: accepted and the same when it is shown and read again, or refused with reasons.
pub fn config(data: &[u8]) {
    FILE.with(|file| {
        let (_, path) = file.get_or_init(|| {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("cove.toml");
            (folder, path)
        });
        let load = |bytes: &[u8]| {
            std::fs::write(path, bytes).unwrap();
            let env = BTreeMap::from([("HOME".to_owned(), "/home/anna".to_owned())]);
            Config::load(&Sources { file: Some(path.clone()), state_dir: None, env, is_root: false })
        };
        match load(data) {
            Ok(loaded) => {
                let shown = loaded.config.to_toml();
                let again = load(shown.as_bytes()).unwrap_or_else(|errors| panic!("{errors:?} of {shown}"));
                assert_eq!(again.config, loaded.config, "{shown}");
            }
            Err(errors) => assert!(!errors.is_empty() && errors.iter().all(|error| !error.message.is_empty())),
        }
    });
}

/// The body of a request: read, or refused by a code that blames the request.
pub fn body(data: &[u8]) {
    let Some((kind, bytes)) = data.split_first() else { return };
    if let Err(error) = read_body(usize::from(*kind), bytes) {
        assert!([400, 422].contains(&error.code().status()), "{error:?}");
    }
}

/// The head of a request, as far as cove itself reads it.
pub fn head(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Some(Err(error)) = read_head(text) {
        assert!((400..500).contains(&error.code().status()), "{error:?}");
    }
}

/// A ledger: what its whole lines say does not depend on what follows them.
pub fn ledger(data: &[u8]) {
    let read = read_ledger(data).unwrap();
    let whole = usize::try_from(read.whole_bytes).unwrap();
    assert!(whole as u64 + read.torn_bytes <= data.len() as u64);
    let cut = read_ledger(&data[..whole]).unwrap();
    assert_eq!((cut.torn_bytes, cut.damaged_line, cut.whole_bytes), (0, None, read.whole_bytes));
    assert!(read.facts.starts_with(&cut.facts));
    assert!(read.damaged_line.is_some() || read.facts == cut.facts, "facts are read behind damage alone");
}

/// A line between the daemon and its browser host: what is understood is said again in the same words.
pub fn protocol(data: &[u8]) {
    fn again<T: serde::Serialize + serde::de::DeserializeOwned + PartialEq + std::fmt::Debug>(data: &[u8]) {
        if let Ok(message) = serde_json::from_slice::<T>(data)
            && let Ok(line) = protocol::line(&message)
        {
            assert_eq!(serde_json::from_str::<T>(&line).ok().as_ref(), Some(&message), "{line}");
        }
    }
    again::<protocol::Hello>(data);
    again::<protocol::Greeting>(data);
    again::<protocol::Request>(data);
    again::<protocol::Answer>(data);
}
