//! A browser host of our own, for one start: the same program that the daemon would run, in a folder of ours.
//!
//! It runs as cove's user where we may become it (as root), since root's Chromium is not the one that will
//! run. Invariant: the host ends with [`Trial::end`], and with this process however that ends (its stdin
//! closes), and closes its browser first; the temporary folder goes with the [`Trial`].

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::chown;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};

use crate::browser::chromium::ChromiumProvider;
use crate::browser::host::HostOptions;
use crate::browser::{Provider, Session, SessionStats, StartOptions};
use crate::model::{Failure, ProfileId};
use crate::outbound;

const READY_WITHIN: Duration = Duration::from_secs(20);
const LOOK_EVERY: Duration = Duration::from_millis(50);
const END_WITHIN: Duration = Duration::from_secs(10);
const CDP_WITHIN: Duration = Duration::from_secs(5);
/// Of what the host said, when it cannot start.
const MAX_SAID_BYTES: u64 = 4_096;

/// How a browser did.
#[derive(Debug)]
pub struct Started {
    pub took: Duration,
    /// The browser's own name, as CDP tells it.
    pub cdp: Result<String, String>,
    pub stats: Option<SessionStats>,
    pub stopped: Result<(), Failure>,
}

/// Starts the profile, talks to it, stops it.
pub async fn try_profile(provider: &dyn Provider, profile: &ProfileId) -> Result<Started, Failure> {
    let begun = Instant::now();
    let session = match provider.start(profile, StartOptions { headless: true }).await {
        Ok(session) => session,
        Err(failure) => {
            // A start that failed here may have happened there; what a person opened is not ours to stop.
            if failure.code != crate::model::FailureCode::ProfileInUse {
                let _ = provider.stop(profile).await;
            }
            return Err(failure);
        }
    };
    let took = begun.elapsed();
    let cdp = ask_cdp(&session).await;
    let stats = provider.stats(profile).await.ok().flatten();
    let stopped = provider.stop(profile).await;
    Ok(Started { took, cdp, stats, stopped })
}

async fn ask_cdp(session: &Session) -> Result<String, String> {
    let client = outbound::local().timeout(CDP_WITHIN).build().map_err(|error| error.to_string())?;
    let url = format!("http://127.0.0.1:{}/json/version", session.port);
    let answer = client.get(&url).send().await.map_err(|error| format!("{url}: {error}"))?;
    let version: Value = answer.json().await.map_err(|error| format!("{url}: {error}"))?;
    let name = version["Browser"].as_str().ok_or_else(|| format!("{url} does not say which browser it is"))?;
    Ok(format!("{name} on port {}", session.port))
}

/// A host that runs.
pub struct Trial {
    child: Child,
    pub provider: ChromiumProvider,
    _folder: tempfile::TempDir,
}

impl Trial {
    /// `user`: user and group to become; None: we are the right one. `profiles`: None: empty ones, of its own.
    ///
    /// # Errors
    /// Why there is no host, in words.
    pub async fn start(
        user: Option<(u32, u32)>,
        chromium: Option<PathBuf>,
        sandbox: bool,
        profiles: Option<PathBuf>,
    ) -> Result<Self, String> {
        let folder = tempfile::Builder::new().prefix("cove-doctor-").tempdir().map_err(|error| error.to_string())?;
        let socket = folder.path().join("host.sock");
        let options = HostOptions {
            socket: Some(socket.clone()),
            profiles_dir: profiles.unwrap_or_else(|| folder.path().join("profiles")),
            chromium,
            sandbox,
            until_stdin_ends: true,
        };
        let own = std::env::current_exe().map_err(|error| error.to_string())?;
        let mut said = tempfile::tempfile_in(folder.path()).map_err(|error| error.to_string())?;
        let mut command = Command::new(&own);
        command.arg("browser-host").args(options.to_args());
        command.stdin(Stdio::piped()).stdout(Stdio::null()).kill_on_drop(true).current_dir(folder.path());
        command.stderr(Stdio::from(said.try_clone().map_err(|error| error.to_string())?));
        if let Some((uid, gid)) = user {
            chown(folder.path(), Some(uid), Some(gid)).map_err(|error| error.to_string())?;
            command.uid(uid).gid(gid).env("HOME", folder.path());
        }
        let mut child = command.spawn().map_err(|error| format!("{} cannot be started: {error}", own.display()))?;
        let provider = ChromiumProvider::connect(socket);
        let ready = async {
            while provider.running().await.is_err() {
                if let Ok(Some(status)) = child.try_wait() {
                    return Err(format!("the browser host ended ({status}): {}", last_words(&mut said)));
                }
                sleep(LOOK_EVERY).await;
            }
            Ok(())
        };
        match timeout(READY_WITHIN, ready).await {
            Ok(ready) => ready?,
            Err(_) => return Err(format!("the browser host was not ready within {} s", READY_WITHIN.as_secs())),
        }
        Ok(Self { child, provider, _folder: folder })
    }

    /// The end of its stdin asks it to end.
    pub async fn end(mut self) {
        drop(self.child.stdin.take());
        if timeout(END_WITHIN, self.child.wait()).await.is_err() {
            // Killed as it is dropped; the next host closes its browsers.
            tracing::warn!("the browser host of this trial does not end");
        }
    }
}

fn last_words(said: &mut File) -> String {
    let mut text = Vec::new();
    let from = said.metadata().map_or(0, |found| found.len().saturating_sub(MAX_SAID_BYTES));
    let read = said.seek(SeekFrom::Start(from)).and_then(|_| said.take(MAX_SAID_BYTES).read_to_end(&mut text));
    let text = String::from_utf8_lossy(&text).into_owned();
    match (read, text.lines().rev().find(|line| !line.trim().is_empty())) {
        (Ok(_), Some(line)) => line.trim().to_owned(),
        _ => "it said nothing".to_owned(),
    }
}
