//! The browser host: `cove browser-host`, the only code that starts Chromium.
//!
//! A service of its own in the package, a child of the daemon elsewhere. The command line and the
//! provider `chromium` may call it. The invariants: one host per profiles folder, by a lock on it that
//! no browser inherits; and a host that ends in order leaves no process behind. What a host that was
//! killed leaves is closed by the next one before it serves. Queue, flows and the store are not known here.

pub(super) mod close;
mod command;
mod find;
mod folder;
mod life;
pub(super) mod lines;
mod orphans;
pub mod protocol;
mod reaper;
mod server;
mod sessions;
mod socket;

pub use command::is_secret;
pub use find::browser as find_browser;

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::FlockOperation;
use rustix::io::Errno;
use rustix::process::Resource;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use life::Setting;
use reaper::Reaper;
use sessions::Sessions;

/// A file in the profiles folder; whoever holds its lock is the folder's host.
const LOCK_FILE: &str = ".lock";
/// How long a new host waits for the one before it (fence.md rule 15).
const LOCK_DEADLINE: Duration = Duration::from_secs(10);
const LOOK_FOR_LOCK_EVERY: Duration = Duration::from_millis(50);
/// For closing every browser in order; after it they are killed.
const SHUTDOWN_DEADLINE: Duration = Duration::from_millis(1_900);
/// For killed browsers to be gone.
const KILL_DEADLINE: Duration = Duration::from_secs(5);
/// Each connection and browser takes descriptors, and the usual soft limit is 1,024.
const WANTED_OPEN_FILES: u64 = 65_536;

/// How a host is run; also the command line of `cove browser-host`.
#[derive(Clone, Debug, PartialEq, Eq, clap::Args)]
pub struct HostOptions {
    /// Unix socket to listen on; without it, the socket handed over by systemd.
    #[arg(long, value_name = "PATH")]
    pub socket: Option<PathBuf>,
    /// Folder with one data directory a profile.
    #[arg(long, value_name = "DIR")]
    pub profiles_dir: PathBuf,
    /// The browser's binary; without it, Chromium or Chrome is looked for.
    #[arg(long, value_name = "PATH")]
    pub chromium: Option<PathBuf>,
    /// Chromium's own sandbox. Off only where it cannot work; logged loudly.
    #[arg(long, value_name = "BOOL", action = clap::ArgAction::Set, default_value_t = true)]
    pub sandbox: bool,
    /// End when standard input ends (as a child of the daemon).
    #[arg(long)]
    pub until_stdin_ends: bool,
}

impl HostOptions {
    /// The command line that gives these options, to follow `browser-host`.
    #[must_use]
    pub fn to_args(&self) -> Vec<OsString> {
        let mut args: Vec<OsString> = vec!["--profiles-dir".into(), self.profiles_dir.clone().into()];
        for (name, path) in [("--socket", &self.socket), ("--chromium", &self.chromium)] {
            if let Some(path) = path {
                args.extend([name.into(), path.clone().into()]);
            }
        }
        args.extend(["--sandbox".into(), self.sandbox.to_string().into()]);
        if self.until_stdin_ends {
            args.push("--until-stdin-ends".into());
        }
        args
    }
}

#[derive(Debug, thiserror::Error)]
pub enum HostError {
    #[error("the profiles folder {} cannot be used: {error}", path.display())]
    Folder { path: PathBuf, error: io::Error },
    #[error("another browser host holds {} and did not end within {} s; stop it first", path.display(), LOCK_DEADLINE.as_secs())]
    Held { path: PathBuf },
    #[error("a browser host listens on {} already; stop it, or choose another socket", path.display())]
    Answered { path: PathBuf },
    #[error("the socket {} cannot be used: {error}", path.display())]
    Socket { path: PathBuf, error: io::Error },
    #[error("no socket: give `--socket PATH`, or start it by cove-browser.socket ({0})")]
    NoSocket(String),
    #[error("the system does not let the browser host watch its processes: {0}")]
    Processes(io::Error),
}

/// Runs until SIGTERM, SIGINT or (as a child) end of file on stdin; closes its browsers before it returns.
///
/// # Errors
/// When the socket or the folder cannot be used, or another host holds the folder.
pub async fn run(options: HostOptions) -> Result<(), HostError> {
    let stdin = options.until_stdin_ends.then(stdin_ends).transpose().map_err(HostError::Processes)?;
    let parent_gone = async {
        match stdin {
            // The sender is dropped only together with the thread, which ends at the end of the input.
            Some(ended) => drop(ended.await),
            None => std::future::pending().await,
        }
    };
    run_until(options, parent_gone).await
}

/// A plain thread reads to the end of stdin: the runtime's own reader would keep the process from
/// ending as long as somebody holds the other end open.
fn stdin_ends() -> io::Result<oneshot::Receiver<()>> {
    let (tell, told) = oneshot::channel();
    std::thread::Builder::new().name("stdin".to_owned()).spawn(move || {
        // An error is an end, too: there is nobody to hear from.
        let _ = io::copy(&mut io::stdin().lock(), &mut io::sink());
        let _ = tell.send(());
    })?;
    Ok(told)
}

async fn run_until(options: HostOptions, parent_gone: impl Future<Output = ()>) -> Result<(), HostError> {
    let mut signals = Signals::new().map_err(HostError::Processes)?;
    let mut parent_gone = std::pin::pin!(parent_gone);
    let (host, lock) = tokio::select! {
        opened = open(&options) => opened?,
        // Nothing is started yet.
        () = signals.next() => return Ok(()),
        () = &mut parent_gone => return Ok(()),
    };
    let Host { listener, sessions, mut tasks } = host;
    tasks.spawn(server::serve(listener, sessions.clone()));
    tracing::info!(pid = std::process::id(), folder = %options.profiles_dir.display(), "browser host ready");
    let why = tokio::select! {
        () = signals.next() => "signal",
        () = parent_gone => "the daemon ended",
    };
    tracing::info!(why, "browser host stops");
    close_browsers(&sessions, &mut signals).await;
    tasks.shutdown().await;
    if let Some(path) = &options.socket
        && let Err(error) = fs::remove_file(path)
    {
        tracing::warn!(path = %path.display(), %error, "the socket is not removed");
    }
    // Last of all: whoever gets the folder next finds it without processes.
    drop(lock);
    Ok(())
}

struct Host {
    listener: tokio::net::UnixListener,
    sessions: Sessions,
    tasks: JoinSet<()>,
}

async fn open(options: &HostOptions) -> Result<(Host, File), HostError> {
    raise_open_files();
    let profiles_dir = make_folder(&options.profiles_dir)?;
    let lock = lock_folder(&profiles_dir, LOCK_DEADLINE).await?;
    let reaper = Reaper::new().map_err(HostError::Processes)?;
    let listener = socket::listen(options.socket.as_deref()).await?;
    let mut tasks = JoinSet::new();
    tasks.spawn(reaper.clone().run());
    orphans::close_all(&profiles_dir, &reaper).await;
    if !options.sandbox {
        tracing::warn!(
            "Chromium's own sandbox is off (`[browser] sandbox = false`): a page that breaks out of the browser has this user's rights"
        );
    }
    if let Err(failure) = find::browser(options.chromium.as_deref()) {
        tracing::warn!("no browser can be started yet: {}. {}", failure.detail, failure.code.help());
    }
    let setting = Setting {
        profiles_dir,
        chromium: options.chromium.clone(),
        sandbox: options.sandbox,
        reaper,
        hurry: CancellationToken::new(),
    };
    Ok((Host { listener, sessions: Sessions::new(setting), tasks }, lock))
}

/// Asks first, then kills. A second signal kills at once.
async fn close_browsers(sessions: &Sessions, signals: &mut Signals) {
    tokio::select! {
        closed = timeout(SHUTDOWN_DEADLINE, sessions.close_all()) => {
            if closed.is_ok() {
                return;
            }
            tracing::warn!("browsers did not close in time: killing them");
        }
        () = signals.next() => tracing::warn!("a second signal: killing the browsers"),
    }
    let killing = sessions.clone();
    if tokio::task::spawn_blocking(move || killing.kill_all()).await.is_err() {
        tracing::error!("the browsers could not be killed");
    }
    tokio::select! {
        closed = timeout(KILL_DEADLINE, sessions.close_all()) => {
            if closed.is_err() {
                tracing::error!("processes of a browser are left: the next host will end them");
            }
        }
        () = signals.next() => {}
    }
}

fn make_folder(path: &Path) -> Result<PathBuf, HostError> {
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(path).and_then(|()| path.canonicalize());
    made.map_err(|error| HostError::Folder { path: path.to_owned(), error })
}

/// The lock ends with the file, also when the process is killed; the file is not inherited by browsers.
async fn lock_folder(profiles_dir: &Path, wait: Duration) -> Result<File, HostError> {
    let path = profiles_dir.join(LOCK_FILE);
    let failed = |error| HostError::Folder { path: path.clone(), error };
    let file = File::options().create(true).truncate(false).write(true).open(&path).map_err(failed)?;
    let deadline = Instant::now() + wait;
    loop {
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(file),
            Err(Errno::WOULDBLOCK | Errno::INTR) if Instant::now() < deadline => sleep(LOOK_FOR_LOCK_EVERY).await,
            Err(Errno::WOULDBLOCK | Errno::INTR) => return Err(HostError::Held { path: profiles_dir.to_owned() }),
            Err(error) => return Err(failed(error.into())),
        }
    }
}

/// As many as the hard limit allows, up to what many browsers or connections need: the usual soft limit is 1,024.
pub fn raise_open_files() {
    let mut limit = rustix::process::getrlimit(Resource::Nofile);
    let wanted = limit.maximum.map_or(WANTED_OPEN_FILES, |maximum| maximum.min(WANTED_OPEN_FILES));
    if limit.current.is_some_and(|current| current < wanted) {
        limit.current = Some(wanted);
        if let Err(error) = rustix::process::setrlimit(Resource::Nofile, limit) {
            tracing::warn!(%error, "the limit of open files stays as it is");
        }
    }
}

/// SIGTERM and SIGINT.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use clap::Parser;

    use super::{HostError, HostOptions, LOCK_DEADLINE, lock_folder, make_folder};

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        options: HostOptions,
    }

    #[test]
    fn the_command_line_of_a_child_means_the_options_it_was_made_of() {
        let bare = HostOptions {
            socket: None,
            profiles_dir: "/p".into(),
            chromium: None,
            sandbox: true,
            until_stdin_ends: false,
        };
        let full = HostOptions {
            socket: Some("/s".into()),
            chromium: Some("/c".into()),
            sandbox: false,
            until_stdin_ends: true,
            ..bare.clone()
        };
        for options in [bare, full] {
            let args = [std::ffi::OsString::from("cove")].into_iter().chain(options.to_args());
            assert_eq!(Line::parse_from(args).options, options);
        }
    }

    #[tokio::test]
    async fn rule_15_a_second_host_waits_for_the_folder_and_gives_up() {
        let root = tempfile::tempdir().unwrap();
        let folder = make_folder(&root.path().join("a/profiles")).unwrap();
        let first = lock_folder(&folder, LOCK_DEADLINE).await.unwrap();
        let refused = lock_folder(&folder, Duration::from_millis(60)).await;
        assert!(matches!(refused, Err(HostError::Held { .. })));
        let (second, ()) = tokio::join!(lock_folder(&folder, LOCK_DEADLINE), async { drop(first) });
        assert!(second.is_ok());
    }
}
