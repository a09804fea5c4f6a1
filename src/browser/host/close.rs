//! How a browser ends: asked first, then killed, and in the end proved dead.
//!
//! Called by a session's life and by the clean-up after an earlier host. Asking goes through CDP:
//! headless Chromium answers SIGTERM by ending at once, and what it had not written yet is lost
//! (measured with a cookie set 0.2 s before the end: kept 1 time in 4 after SIGTERM or SIGKILL, 4 in 4
//! after `Browser.close`). The invariant: [`end_tree`] returns only when every process is dead and reaped.

use std::collections::BTreeSet;
use std::time::Duration;

use chromiumoxide::Browser;
use futures_util::StreamExt;
use rustix::process::Signal;
use tokio::process::Child;
use tokio::task::JoinSet;

use super::reaper::Reaper;
use crate::browser::processes::{self, Identity, Tree};

const FIRST_LOOK: Duration = Duration::from_millis(10);
const LAST_LOOK: Duration = Duration::from_secs(1);

/// Asks the browser to write its profile and end; the caller bounds it in time and waits for the end.
pub async fn ask(ws_url: &str) {
    let (mut browser, mut events) = match Browser::connect(ws_url).await {
        Ok(connected) => connected,
        Err(error) => {
            tracing::debug!(%error, "the browser cannot be asked to close");
            return;
        }
    };
    let mut pump = JoinSet::new();
    pump.spawn(async move { while events.next().await.is_some() {} });
    if let Err(error) = browser.close().await {
        // A browser that is quicker to end than to answer is closed all the same.
        tracing::debug!(%error, "no answer to Browser.close");
    }
}

/// What belongs to the tree now.
pub async fn members(tree: &Tree, known: BTreeSet<Identity>) -> BTreeSet<Identity> {
    let tree = tree.clone();
    tokio::task::spawn_blocking(move || tree.members(&processes::all(), &known)).await.unwrap_or_default()
}

/// Kills every process of the tree, again and again, until none is left. It never gives up by itself:
/// a process that hangs in the kernel keeps its profile, and the caller bounds the wait.
pub async fn end_tree(tree: &Tree, mut known: BTreeSet<Identity>, mut main: Option<&mut Child>, reaper: &Reaper) {
    let mut pause = FIRST_LOOK;
    loop {
        let (one_tree, one_reaper, before) = (tree.clone(), reaper.clone(), known.clone());
        let round = tokio::task::spawn_blocking(move || kill_round(&one_tree, &before, &one_reaper)).await;
        if let Some(child) = main.as_deref_mut()
            && let Err(error) = child.try_wait()
        {
            tracing::warn!(%error, "a browser's main process cannot be waited for");
        }
        match round {
            Ok(left) if left.is_empty() => return,
            Ok(left) => known.extend(left),
            Err(error) => tracing::error!(%error, "a round of killing failed"),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LAST_LOOK);
    }
}

/// One round; answers what is left to wait for.
fn kill_round(tree: &Tree, known: &BTreeSet<Identity>, reaper: &Reaper) -> BTreeSet<Identity> {
    for member in tree.members(&processes::all(), known) {
        if let Err(error) = processes::signal(member, Signal::KILL) {
            tracing::warn!(pid = member.pid, %error, "a process of a browser cannot be killed");
        }
    }
    reaper.reap();
    let after = processes::all();
    let mut left = tree.members(&after, known);
    let parents: BTreeSet<u32> = left.iter().map(|member| member.pid).chain([std::process::id()]).collect();
    // A zombie that another process has to reap is dead for us.
    let foreign = |process: &&processes::Process| process.zombie && !parents.contains(&process.parent);
    for process in after.iter().filter(foreign) {
        left.remove(&process.identity);
    }
    left
}
