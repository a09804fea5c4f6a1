//! Where an attempt is, seen from outside and to the millisecond: its picture before the commit point, the ledger's
//! line of its arming, the click at the site.
//!
//! The ledger is the daemon's own word that the click may happen now, and its file is watched rather than the API:
//! a question over HTTP costs more than the window that is aimed at.

use std::path::Path;
use std::time::{Duration, Instant};

use cove::model::Timestamp;
use cove::store::LEDGER_FILE;
use serde_json::Value;

use super::rig::{Daemon, PATIENCE};

/// Between two looks at a file. Spun on the runtime's blocking threads, for the few seconds of one attempt.
const LOOK_EVERY: Duration = Duration::from_micros(300);

/// When this item was first allowed to be clicked, by the ledger.
pub fn armed_at(state: &Path, item: &str) -> Option<Timestamp> {
    let ledger = std::fs::read_to_string(state.join(LEDGER_FILE)).unwrap_or_default();
    // The last line may be on its way: what cannot be read is not there yet.
    let lines = ledger.lines().filter_map(|line| serde_json::from_str::<Value>(line.split_once(' ')?.1).ok());
    let facts = lines.flat_map(|line| match line {
        Value::Array(facts) => facts,
        fact => vec![fact],
    });
    let armed = |fact: &Value| fact["kind"] == "armed" && fact["item"] == item;
    facts.filter(armed).find_map(|fact| serde_json::from_value(fact["at"].clone()).ok())
}

fn is_armed(state: &Path, item: &str) -> bool {
    let ledger = std::fs::read_to_string(state.join(LEDGER_FILE)).unwrap_or_default();
    ledger.contains(&format!("\"kind\":\"armed\",\"item\":\"{item}\""))
}

/// Whether an attempt of this item keeps the picture that it takes right before arming.
fn is_pictured(state: &Path, item: &str) -> bool {
    let folders = std::fs::read_dir(state.join("evidence").join(item)).into_iter().flatten().flatten();
    folders.map(|folder| folder.path().join("before.png")).any(|file| file.exists())
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// An attempt of it runs; its profile is its own.
    Begun,
    Pictured,
    Armed,
}

/// Waits for the moment; None when the item did not come to it.
pub async fn reached(daemon: &Daemon, item: &str, moment: Moment) -> Option<Instant> {
    let (state, item) = (daemon.state(), item.to_owned());
    let waiting = move || {
        let began = Instant::now();
        while began.elapsed() < PATIENCE {
            let there = match moment {
                Moment::Begun => state.join("evidence").join(&item).exists(),
                Moment::Pictured => is_pictured(&state, &item),
                Moment::Armed => is_armed(&state, &item),
            };
            if there {
                return Some(Instant::now());
            }
            pause();
        }
        None
    };
    tokio::task::spawn_blocking(waiting).await.unwrap()
}

#[expect(clippy::disallowed_methods, reason = "on a thread of its own: a timer of the runtime is coarser than this")]
fn pause() {
    std::thread::sleep(LOOK_EVERY);
}
