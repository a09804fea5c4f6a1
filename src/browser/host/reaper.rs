//! Children of the host: no zombie stays.
//!
//! Chromium's crash handlers leave their parent on purpose, and helpers of a browser that died lose
//! theirs. The host is a child subreaper, so they become its children and are reaped here. The main
//! process of each session is waited for by its own session and must not be reaped twice: it is
//! noted under the same lock that a reaping takes. Nothing is killed here.

use std::collections::HashSet;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::process::{Pid, WaitOptions};
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};

use crate::browser::processes;

/// Shared by the sessions of one host.
#[derive(Clone, Debug, Default)]
pub struct Reaper {
    /// Main processes that a session waits for.
    mains: Arc<Mutex<HashSet<u32>>>,
}

impl Reaper {
    /// Makes this process the parent of every orphan among its descendants.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn new() -> io::Result<Self> {
        rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
        Ok(Self::default())
    }

    /// Starts a main process; [`Reaper::forget`] it after waiting for it.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn spawn(&self, command: &mut Command) -> io::Result<Child> {
        let mut mains = self.mains.lock().unwrap_or_else(PoisonError::into_inner);
        let child = command.spawn()?;
        mains.extend(child.id());
        Ok(child)
    }

    /// The main process was waited for.
    pub fn forget(&self, pid: u32) {
        self.mains.lock().unwrap_or_else(PoisonError::into_inner).remove(&pid);
    }

    /// Reaps every orphan that ended.
    pub fn reap(&self) {
        let mains = self.mains.lock().unwrap_or_else(PoisonError::into_inner);
        let own_pid = std::process::id();
        for process in processes::all() {
            let pid = process.identity.pid;
            if process.zombie && process.parent == own_pid && !mains.contains(&pid) {
                let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
                // ECHILD: somebody else waited for it, which is as good.
                let _ = rustix::process::waitpid(pid, WaitOptions::NOHANG);
            }
        }
    }

    /// Reaps whenever a child ends, until it is dropped.
    pub async fn run(self) {
        let mut ended = match signal(SignalKind::child()) {
            Ok(ended) => ended,
            Err(error) => {
                tracing::error!(%error, "ended processes are reaped only when a session ends");
                return;
            }
        };
        while ended.recv().await.is_some() {
            let reaper = self.clone();
            if tokio::task::spawn_blocking(move || reaper.reap()).await.is_err() {
                tracing::error!("reaping failed once");
            }
        }
    }
}
