//! The life of one browser: folder taken, started, watched, closed, proved dead.
//!
//! The session table runs one [`live`] per session, in a task that the host owns: it does not matter
//! whether the client that asked for the start still waits. The invariant: when `live` returns, no
//! process of the browser is left and its folder is free. Who may start what is decided in
//! `sessions.rs`; the client's deadlines are not known here.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::process::Child;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use super::command::{Appearance, Output};
use super::folder::{ProfileFolder, Scratch};
use super::protocol::{SHUTDOWN_GRACE, START_DEADLINE, STOP_GRACE};
use super::reaper::Reaper;
use super::{close, command, find};
use crate::browser::processes::{self, Identity, Tree};
use crate::browser::{Session, StartOptions};
use crate::model::{Clock, Failure, FailureCode, ProfileId, SystemClock};

const LOOK_FOR_PORT_EVERY: Duration = Duration::from_millis(20);
/// For what a dead browser had still to say.
const LAST_WORDS: Duration = Duration::from_millis(300);

/// What every session of a host shares.
#[derive(Clone, Debug)]
pub struct Setting {
    /// Canonical.
    pub profiles_dir: PathBuf,
    pub chromium: Option<PathBuf>,
    pub sandbox: bool,
    pub reaper: Reaper,
    /// The host ends: a graceful close has less time.
    pub hurry: CancellationToken,
}

/// A browser process and what belongs to it.
struct Started {
    child: Child,
    tree: Tree,
    folder: ProfileFolder,
    output: Output,
    /// Drains the output; ends with this value.
    drains: JoinSet<()>,
    _scratch: Scratch,
}

/// Runs one browser from start to end. `shown` is told what clients may see: the session once it answers,
/// and None as soon as its main process is dead.
///
/// # Errors
/// When it never answered; a browser that ends later is an ordinary end.
pub async fn live(
    setting: &Setting,
    profile: &ProfileId,
    options: StartOptions,
    stop: &CancellationToken,
    shown: &(dyn Fn(Option<(Session, Tree)>) + Send + Sync),
) -> Result<(), Failure> {
    let mut started = start(setting, profile, options).await?;
    let deadline = Instant::now() + START_DEADLINE;
    let answer = tokio::select! {
        answer = timeout_at(deadline, port_answers(&started.folder)) => answer.map_err(|_| {
            let why = format!("its DevTools port did not answer within {} s", START_DEADLINE.as_secs());
            (FailureCode::AttachFailed, why)
        }),
        status = started.child.wait() => {
            let why = match status {
                Ok(status) => format!("it ended at once ({status})"),
                Err(error) => format!("it cannot be waited for: {error}"),
            };
            Err((FailureCode::BrowserStartFailed, why))
        }
        () = stop.cancelled() => Err((FailureCode::BrowserStartFailed, "it was stopped before it was up".to_owned())),
    };
    match answer {
        Ok((port, ws_path)) => {
            let session = Session {
                profile: profile.clone(),
                port,
                ws_path,
                pid: started.tree.main.map_or(0, |main| main.pid),
                started_at: SystemClock.now(),
                headless: options.headless,
            };
            if let Err(error) = started.folder.remember_lock() {
                tracing::debug!(%profile, %error, "the browser's lock was not noted");
            }
            shown(Some((session.clone(), started.tree.clone())));
            let known = watch(setting, &mut started, &session, stop).await;
            if started.child.id().is_none() {
                shown(None);
            }
            end(setting, started, known).await;
            Ok(())
        }
        Err((code, why)) => {
            let known = close::members(&started.tree, BTreeSet::new()).await;
            let output = end(setting, started, known).await;
            let detail = format!("the browser for {profile} did not start: {why}; {}", output.quoted());
            Err(Failure::new(code, detail))
        }
    }
}

async fn start(setting: &Setting, profile: &ProfileId, options: StartOptions) -> Result<Started, Failure> {
    if !options.headless && !has_display() {
        return Err(Failure::new(
            FailureCode::BrowserStartFailed,
            "a visible browser needs a display, and neither DISPLAY nor WAYLAND_DISPLAY is set for the browser host; start it headless",
        ));
    }
    let (setting, profile) = (setting.clone(), profile.clone());
    let prepare = tokio::task::spawn_blocking(move || prepare(&setting, &profile, options));
    let mut started = prepare.await.map_err(|error| Failure::new(FailureCode::Internal, error.to_string()))??;
    if let Some(stderr) = started.child.stderr.take() {
        started.drains.spawn(started.output.clone().drain(stderr));
    }
    Ok(started)
}

fn prepare(setting: &Setting, profile: &ProfileId, options: StartOptions) -> Result<Started, Failure> {
    let binary = find::browser(setting.chromium.as_deref())?;
    let folder = ProfileFolder::open(&setting.profiles_dir, profile)?;
    folder.take()?;
    let scratch = folder.make_scratch()?;
    let appearance = Appearance { headless: options.headless, sandbox: setting.sandbox };
    let mut command = command::browser(&binary, folder.path(), &scratch, appearance);
    let child = setting.reaper.spawn(&mut command).map_err(|error| cannot_run(&binary, &error))?;
    let main = child.id().and_then(processes::read).map(|process| process.identity);
    let tree = Tree { main, data_dir: folder.path().to_owned() };
    tracing::info!(%profile, pid = child.id(), browser = %binary.display(), "browser started");
    let drains = JoinSet::new();
    Ok(Started { child, tree, folder, output: Output::default(), drains, _scratch: scratch })
}

fn cannot_run(binary: &Path, error: &std::io::Error) -> Failure {
    Failure::new(FailureCode::BrowserStartFailed, format!("{} cannot be run: {error}", binary.display()))
}

fn has_display() -> bool {
    ["DISPLAY", "WAYLAND_DISPLAY"].iter().any(|name| std::env::var_os(name).is_some_and(|value| !value.is_empty()))
}

/// The caller's deadline ends it. The file is of this launch: the old one was removed before.
async fn port_answers(folder: &ProfileFolder) -> (u16, String) {
    loop {
        if let Some((port, ws_path)) = folder.devtools()
            && TcpStream::connect(("127.0.0.1", port)).await.is_ok()
        {
            return (port, ws_path);
        }
        sleep(LOOK_FOR_PORT_EVERY).await;
    }
}

/// Waits until the browser ends, by itself or because it was asked to. Answers the members of its tree
/// before it was asked: afterwards the line of descent is gone.
async fn watch(
    setting: &Setting,
    started: &mut Started,
    session: &Session,
    stop: &CancellationToken,
) -> BTreeSet<Identity> {
    let profile = &session.profile;
    tokio::select! {
        status = started.child.wait() => {
            let status = status.map_or_else(|error| error.to_string(), |status| status.to_string());
            tracing::warn!(%profile, pid = session.pid, %status, "browser ended by itself: {}", started.output.quoted());
            return BTreeSet::new();
        }
        () = stop.cancelled() => {}
    }
    let known = close::members(&started.tree, BTreeSet::new()).await;
    // Asking and waiting run side by side: a browser that ends without an answer is not waited for.
    let asked = async {
        close::ask(&session.ws_url()).await;
        std::future::pending::<()>().await;
    };
    tokio::select! {
        status = started.child.wait() => tracing::info!(%profile, ?status, "browser closed"),
        () = asked => {}
        () = grace(&setting.hurry) => {
            tracing::warn!(%profile, pid = session.pid, "browser did not close by itself: killed");
        }
    }
    known
}

async fn grace(hurry: &CancellationToken) {
    tokio::select! {
        () = sleep(STOP_GRACE) => {}
        () = async { hurry.cancelled().await; sleep(SHUTDOWN_GRACE).await; } => {}
    }
}

/// Ends what is left of the tree, and cleans up after it.
async fn end(setting: &Setting, mut started: Started, known: BTreeSet<Identity>) -> Output {
    close::end_tree(&started.tree, known, Some(&mut started.child), &setting.reaper).await;
    if let Some(main) = started.tree.main {
        setting.reaper.forget(main.pid);
    }
    if timeout(LAST_WORDS, started.drains.join_next()).await.is_err() {
        started.drains.abort_all();
    }
    if let Err(error) = started.folder.clear_scratch() {
        tracing::warn!(folder = %started.folder.path().display(), %error, "the scratch folder is not removed");
    }
    started.output
}
