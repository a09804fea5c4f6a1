//! A browser host as a child of the daemon: started, started again when it dies, ended.
//!
//! Owned by the provider. The child's stdin is a pipe that this process holds open: when this process
//! ends, however it ends, the child sees the end of it and closes its browsers. A child that died is
//! started again after a pause that grows; meanwhile [`Child::trouble`] says why nothing works. What
//! the child logs goes to this process's stderr.

use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::process::{Child as Process, Command};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::browser::host::{HostOptions, is_secret};
use crate::model::{Failure, FailureCode};

const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// A child that lived this long did not die of its start: the pauses begin anew.
const SOUND_LIFE: Duration = Duration::from_mins(1);
/// For the child to close its browsers (it takes two seconds, or kills them) and end.
const END_DEADLINE: Duration = Duration::from_secs(8);

type Trouble = Arc<Mutex<Option<String>>>;

pub struct Child {
    /// Why there is no child now.
    trouble: Trouble,
    ends: CancellationToken,
    task: tokio::sync::Mutex<JoinSet<()>>,
}

/// What starts a child.
struct Recipe {
    executable: PathBuf,
    options: HostOptions,
}

impl Child {
    /// Starts the child and keeps one alive until [`Child::shutdown`] or drop.
    ///
    /// # Errors
    /// When it cannot be started even once.
    pub fn start(executable: &Path, options: &HostOptions) -> Result<Self, Failure> {
        let recipe = Recipe { executable: executable.to_owned(), options: options.clone() };
        let process = recipe.spawn().map_err(|detail| Failure::new(FailureCode::ProviderDown, detail))?;
        let (trouble, ends) = (Trouble::default(), CancellationToken::new());
        let mut task = JoinSet::new();
        task.spawn(keep_alive(recipe, process, trouble.clone(), ends.clone()));
        Ok(Self { trouble, ends, task: tokio::sync::Mutex::new(task) })
    }

    /// Why there is no child now; None while one lives.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Ends the child and waits for it, bounded; it is killed when it does not end.
    pub async fn shutdown(&self) {
        self.ends.cancel();
        while let Some(ended) = self.task.lock().await.join_next().await {
            if let Err(error) = ended {
                tracing::error!(%error, "the keeper of the browser host failed");
            }
        }
    }
}

impl Recipe {
    fn spawn(&self) -> Result<Process, String> {
        let mut command = Command::new(&self.executable);
        command.arg("browser-host").args(self.options.to_args()).stdin(Stdio::piped());
        // A signal for the daemon's group (Ctrl-C) is the daemon's to act on: it ends the host when it is
        // done with it.
        command.process_group(0);
        // It knows nothing of tokens, and its environment can be read for as long as it runs.
        for name in std::env::vars_os().map(|(name, _)| name).filter(|name| is_secret(name)) {
            command.env_remove(name);
        }
        command.spawn().map_err(|error| {
            format!("the browser host cannot be started as {} browser-host: {error}", self.executable.display())
        })
    }
}

async fn keep_alive(recipe: Recipe, first: Process, trouble: Trouble, ends: CancellationToken) {
    let set = |why: Option<String>| *trouble.lock().unwrap_or_else(PoisonError::into_inner) = why;
    let mut next = Ok(first);
    let mut pause = FIRST_PAUSE;
    loop {
        let born = Instant::now();
        let why = match next {
            Ok(mut process) => {
                set(None);
                // Taken out: waiting for a process closes what is left in it.
                let stdin = process.stdin.take();
                tokio::select! {
                    () = ends.cancelled() => {
                        drop(stdin);
                        end(process).await;
                        set(Some("the browser host was ended with the daemon".to_owned()));
                        return;
                    }
                    status = process.wait() => died(status),
                }
            }
            Err(why) => why,
        };
        pause = if born.elapsed() >= SOUND_LIFE { FIRST_PAUSE } else { pause };
        tracing::error!(pause_ms = pause.as_millis(), "{why}; it is started again after a pause");
        set(Some(why));
        tokio::select! {
            () = ends.cancelled() => return,
            () = sleep(pause) => {}
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
        next = recipe.spawn();
    }
}

fn died(status: std::io::Result<ExitStatus>) -> String {
    match status {
        Ok(status) => format!("the browser host ended by itself ({status}); its reason is in the log"),
        Err(error) => format!("the browser host cannot be waited for: {error}"),
    }
}

/// The end of its stdin, right before, asked it to end.
async fn end(mut process: Process) {
    match timeout(END_DEADLINE, process.wait()).await {
        Ok(Ok(status)) => tracing::info!(%status, "the browser host ended"),
        Ok(Err(error)) => tracing::warn!(%error, "the browser host cannot be waited for"),
        Err(_) => {
            tracing::error!("the browser host does not end: it is killed, and the next one closes its browsers");
            if let Err(error) = process.kill().await {
                tracing::error!(%error, "the browser host cannot be killed");
            }
        }
    }
}
