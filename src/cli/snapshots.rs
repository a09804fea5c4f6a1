//! `cove snapshots`: make one in a running daemon; list, verify and restore, which need none.
//!
//! A name is looked for in the folder of the configuration; what has a slash in it, or is a file here, is a path.
//! Invariants: a restore happens without a daemon or not at all, and whoever holds the state file is named as
//! such; what is remembered of a snapshot is written only by the user to whom its folder belongs.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::Subcommand;
use serde_json::{Value, json};

use super::remote::{Client, RemoteError, encoded};
use super::{Global, connect, exit, load, print, print_json, render, tell};
use crate::api::snapshot_json;
use crate::model::{Clock as _, SystemClock};
use crate::store::snapshot::{self, RestoreError, Restored, SNAPSHOT_ENDING, SnapshotError, SnapshotFolder};

/// Between two looks at one that is being made.
const LOOK_EVERY: Duration = Duration::from_secs(1);

#[derive(Subcommand)]
pub enum SnapshotsCommand {
    /// Make one now, while everything goes on, and wait until it is whole
    Create {
        /// Only begin it
        #[arg(long)]
        no_wait: bool,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Newest first (needs no daemon)
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Unpack one, open it and look at everything in it (needs no daemon)
    Verify {
        /// Its name, or the path of a file
        snapshot: String,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Put one back in place of the state file, which is kept; the daemon has to be stopped
    #[command(after_help = AFTER_RESTORE)]
    Restore {
        /// Its name, or the path of a file
        snapshot: String,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

const AFTER_RESTORE: &str = "After it, start the daemon. It begins paused: what the publish ledger says went out \
since the snapshot is known and never goes out again, what was clicked and not confirmed waits for your word \
(`cove items list --state outcome_unknown`), and all else is held. `cove resume` goes on.";

/// An exit code, and what is said before it.
struct Ended(u8, String);

impl Ended {
    fn failed(error: impl std::fmt::Display) -> Self {
        Self(exit::FAILED, error.to_string())
    }
}

impl From<&SnapshotError> for Ended {
    fn from(error: &SnapshotError) -> Self {
        let code = match error {
            SnapshotError::Damaged(_) => exit::DAMAGED,
            SnapshotError::NewerSchema { .. } => exit::CONFIG,
            _ => exit::FAILED,
        };
        Self(code, error.to_string())
    }
}

impl From<RestoreError> for Ended {
    fn from(error: RestoreError) -> Self {
        let code = match &error {
            RestoreError::Held(_) => exit::HELD,
            RestoreError::Snapshot { error, .. } => Self::from(error).0,
            RestoreError::Io { .. } | RestoreError::Foreign { .. } => exit::FAILED,
        };
        Self(code, error.to_string())
    }
}

/// Where the configuration says that things are.
struct Places {
    state_dir: PathBuf,
    folder: SnapshotFolder,
}

pub async fn run(global: &Global, command: SnapshotsCommand) -> anyhow::Result<u8> {
    match command {
        SnapshotsCommand::Create { no_wait, json } => {
            let client = match connect(global)? {
                Ok(client) => client,
                Err(code) => return Ok(code),
            };
            create(&client, no_wait, json).await
        }
        SnapshotsCommand::List { json } => list(global, json).await,
        SnapshotsCommand::Verify { snapshot, json } => verify(global, &snapshot, json).await,
        SnapshotsCommand::Restore { snapshot, json } => {
            let places = match places(global) {
                Ok(places) => places,
                Err(code) => return Ok(code),
            };
            let restored = tokio::task::spawn_blocking(move || {
                let path = find(&places, &snapshot)?;
                Ok(snapshot::restore(&path, &places.state_dir, SystemClock.now())?)
            });
            Ok(end(restored.await?, |restored| show_restored(&restored, json)))
        }
    }
}

fn end<T>(result: Result<T, Ended>, show: impl FnOnce(T)) -> u8 {
    match result {
        Ok(value) => {
            show(value);
            exit::OK
        }
        Err(Ended(code, why)) => {
            tell(&format!("cove: {why}"));
            code
        }
    }
}

fn places(global: &Global) -> Result<Places, u8> {
    let config = load(global.config.clone(), None)?.config;
    Ok(Places { state_dir: config.state_dir(), folder: SnapshotFolder::new(config.snapshots_dir()) })
}

fn is_path(text: &str) -> bool {
    text.contains('/') || Path::new(text).is_file()
}

fn with_ending(name: &str) -> String {
    if name.ends_with(SNAPSHOT_ENDING) { name.to_owned() } else { format!("{name}{SNAPSHOT_ENDING}") }
}

/// The file of a name or a path.
fn find(places: &Places, text: &str) -> Result<PathBuf, Ended> {
    let path = if is_path(text) { PathBuf::from(text) } else { places.folder.path().join(with_ending(text)) };
    match path.metadata() {
        Ok(facts) if facts.is_file() => Ok(path),
        Ok(_) => Err(Ended::failed(format!("{} is not a file", path.display()))),
        Err(error) => {
            Err(Ended::failed(format!("{}: {error}; `cove snapshots list` shows what there is", path.display())))
        }
    }
}

async fn create(client: &Client, no_wait: bool, json: bool) -> anyhow::Result<u8> {
    let begun = client.post("/api/v1/snapshots", &json!({})).await?;
    let name = render::text(&begun, "name");
    if no_wait {
        show_made(&begun, &name, json);
        return Ok(exit::OK);
    }
    loop {
        let listed = client.look("/api/v1/snapshots?limit=1000").await?;
        if let Some(made) = listed["snapshots"].as_array().into_iter().flatten().find(|one| one["name"] == name) {
            show_made(made, &name, json);
            return Ok(exit::OK);
        }
        if listed["making"] != name {
            let health = client.look("/api/v1/health").await;
            let part = health.map(|health| render::text(&health["parts"]["snapshots"], "reason")).unwrap_or_default();
            anyhow::bail!("the snapshot was not made; {part}");
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

fn show_made(made: &Value, name: &str, json: bool) {
    if json {
        print_json(made);
    } else {
        print(name);
    }
}

fn somewhere_else(global: &Global) -> bool {
    global.url().is_some() || global.socket.is_some()
}

async fn list(global: &Global, json: bool) -> anyhow::Result<u8> {
    let client = match connect(global)? {
        Ok(client) => client,
        Err(code) => return Ok(code),
    };
    let rows = match client.get("/api/v1/snapshots?limit=1000").await {
        Ok(answer) => answer["snapshots"].as_array().cloned().unwrap_or_default(),
        Err(RemoteError::Unreachable { .. }) if !somewhere_else(global) => {
            let places = match places(global) {
                Ok(places) => places,
                Err(code) => return Ok(code),
            };
            let folder = places.folder.clone();
            let listed = tokio::task::spawn_blocking(move || folder.list()).await?;
            let listed = listed.map_err(|error| anyhow::anyhow!("{}: {error}", places.folder.path().display()))?;
            listed.iter().map(snapshot_json).collect()
        }
        Err(error) => return Err(error.into()),
    };
    if json {
        print_json(&json!({"snapshots": rows}));
    } else if rows.is_empty() {
        tell("no snapshots");
    } else {
        print(&render::snapshots(&rows));
    }
    Ok(exit::OK)
}

async fn verify(global: &Global, text: &str, json: bool) -> anyhow::Result<u8> {
    if !is_path(text) {
        let client = match connect(global)? {
            Ok(client) => client,
            Err(code) => return Ok(code),
        };
        let path = format!("/api/v1/snapshots/{}/verify", encoded(&with_ending(text)));
        match client.post(&path, &json!({})).await {
            Ok(verified) => {
                show_verified(&verified, json);
                return Ok(exit::OK);
            }
            Err(RemoteError::Refused(problem)) if problem["code"] == "snapshot_damaged" => {
                tell(&format!("cove: {}: {}", with_ending(text), render::text(&problem, "detail")));
                return Ok(exit::DAMAGED);
            }
            Err(RemoteError::Unreachable { .. }) if !somewhere_else(global) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let places = match places(global) {
        Ok(places) => places,
        Err(code) => return Ok(code),
    };
    let verified = match find(&places, text) {
        Ok(path) if is_path(text) || !is_own(places.folder.path()) => {
            tokio::task::spawn_blocking(move || verify_file(&path, &places)).await?
        }
        Ok(_) => {
            let verified = places.folder.clone().verify(with_ending(text), Arc::new(SystemClock)).await;
            match verified {
                Ok(Some(found)) => match found.damage.clone() {
                    None => Ok(snapshot_json(&found)),
                    Some(damage) => Err(Ended(exit::DAMAGED, format!("{}: {damage}", found.name))),
                },
                Ok(None) => Err(Ended::failed(format!("there is no snapshot {text}"))),
                Err(error) => Err(Ended::from(&error)),
            }
        }
        Err(ended) => Err(ended),
    };
    Ok(end(verified, |verified| show_verified(&verified, json)))
}

fn is_own(folder: &Path) -> bool {
    folder.metadata().is_ok_and(|facts| facts.uid() == rustix::process::geteuid().as_raw())
}

/// Unpacked where the snapshots lie, if that can be written to.
fn verify_file(path: &Path, places: &Places) -> Result<Value, Ended> {
    let there = places.folder.path().is_dir().then(|| tempfile::tempdir_in(places.folder.path()).ok()).flatten();
    let scratch = there.map_or_else(tempfile::tempdir, Ok).map_err(Ended::failed)?;
    let (manifest, sha256) = snapshot::verify(path, scratch.path()).map_err(|error| {
        let Ended(code, why) = Ended::from(&error);
        Ended(code, format!("{}: {why}", path.display()))
    })?;
    let bytes = path.metadata().map_err(Ended::failed)?.len();
    Ok(json!({"name": manifest.name, "bytes": bytes, "created_at": manifest.created_at, "verified": true,
        "verified_at": SystemClock.now(), "sha256": sha256, "reason": manifest.reason, "schema": manifest.schema}))
}

fn show_verified(verified: &Value, json: bool) {
    if json {
        print_json(verified);
    } else {
        let (name, sum) = (render::text(verified, "name"), render::text(verified, "sha256"));
        print(&format!("good: {name}, made {}, sha256 {sum}", render::time(verified, "created_at")));
    }
}

fn show_restored(restored: &Restored, json: bool) {
    let Restored { manifest, state, kept, files, ledger_went_on } = restored;
    if json {
        print_json(&json!({"restored": manifest.name, "created_at": manifest.created_at, "state": state,
            "kept": kept, "files": files.len(), "blind": !ledger_went_on}));
        return;
    }
    print(&format!("restored {} (made {}) to {}", manifest.name, manifest.created_at, state.display()));
    if let Some(kept) = kept {
        print(&format!("the state file of before is kept as {}", kept.display()));
    }
    if !files.is_empty() {
        print(&format!("{} missing files of media and evidence were put back", files.len()));
    }
    print("now start the daemon (`systemctl start cove`): it begins paused, with everything unfinished held");
    if *ledger_went_on {
        print("what went out since the snapshot is known from the publish ledger; `cove resume` goes on");
    } else {
        print(
            "no ledger of this machine tells what went out since the snapshot: look at what was published, \
             then `cove resume --accept-duplicates`",
        );
    }
}

#[cfg(test)]
mod tests {
    use super::{Ended, exit, is_path, with_ending};
    use crate::store::snapshot::{RestoreError, SnapshotError};

    #[test]
    fn a_name_and_a_path_are_told_apart() {
        assert!(is_path("./x.snapshot") && is_path("/var/x.snapshot") && is_path("Cargo.toml"));
        assert!(!is_path("cove-20261130T142200Z-3-17"));
        assert_eq!(with_ending("x"), "x.snapshot");
        assert_eq!(with_ending("x.snapshot"), "x.snapshot");
    }

    #[test]
    fn what_is_wrong_has_its_exit_code() {
        let of = |error| Ended::from(RestoreError::Snapshot { path: "/x".into(), error }).0;
        assert_eq!(of(SnapshotError::Damaged("x".to_owned())), exit::DAMAGED);
        assert_eq!(of(SnapshotError::NewerSchema { found: 9 }), exit::CONFIG);
        assert_eq!(of(SnapshotError::Full("x".to_owned())), exit::FAILED);
        assert_eq!(Ended::from(RestoreError::Held("/x".into())).0, exit::HELD);
    }
}
