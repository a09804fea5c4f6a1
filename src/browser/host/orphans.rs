//! Browsers that an earlier host left behind: found and closed before this one serves.
//!
//! Called once by the host at its start, while it holds the lock of the profiles folder, so that no
//! other host can own what is found. Only browsers with our switch on their command line are touched:
//! one that a person opened in a profile is left alone, and its profile answers `profile_in_use`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use super::close;
use super::folder::ProfileFolder;
use super::protocol::SHUTDOWN_GRACE;
use super::reaper::Reaper;
use crate::browser::processes::{self, Browser, Tree};
use crate::model::ProfileId;

/// For all of them; the host serves after it in any case.
const END_DEADLINE: Duration = Duration::from_secs(6);
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// `profiles_dir` is canonical.
pub async fn close_all(profiles_dir: &Path, reaper: &Reaper) {
    let folder = profiles_dir.to_owned();
    let Ok((ours, helpers)) = tokio::task::spawn_blocking(move || find(&folder)).await else {
        tracing::error!("browsers of an earlier host could not be looked for");
        return;
    };
    let mut closing = JoinSet::new();
    for browser in ours {
        tracing::warn!(pid = browser.identity.pid, folder = %browser.data_dir.display(), "an earlier host left this browser: closing it");
        let (folder, reaper) = (profiles_dir.to_owned(), reaper.clone());
        closing.spawn(async move { close_one(&folder, &browser, &reaper).await });
    }
    for data_dir in helpers {
        let reaper = reaper.clone();
        let tree = Tree { main: None, data_dir };
        closing.spawn(async move { close::end_tree(&tree, BTreeSet::new(), None, &reaper).await });
    }
    let all = async { while closing.join_next().await.is_some() {} };
    if timeout(END_DEADLINE, all).await.is_err() {
        // Their profiles answer `profile_in_use`; all others work.
        tracing::error!("some browsers of an earlier host do not end even when they are killed");
    }
}

/// Our browsers, and the folders of helpers that outlived every browser of their folder.
fn find(profiles_dir: &Path) -> (Vec<Browser>, BTreeSet<PathBuf>) {
    let all = processes::all();
    let browsers: Vec<Browser> = processes::browsers(&all)
        .into_iter()
        .filter(|browser| browser.data_dir.parent() == Some(profiles_dir))
        .collect();
    let inhabited: BTreeSet<&PathBuf> = browsers.iter().map(|browser| &browser.data_dir).collect();
    let helpers = all
        .iter()
        .filter_map(|process| processes::helper_of(process, profiles_dir))
        .filter(|folder| !inhabited.contains(folder))
        .collect();
    (browsers.iter().filter(|browser| browser.ours).cloned().collect(), helpers)
}

async fn close_one(profiles_dir: &Path, browser: &Browser, reaper: &Reaper) {
    let tree = Tree { main: Some(browser.identity), data_dir: browser.data_dir.clone() };
    let known = close::members(&tree, BTreeSet::new()).await;
    let profile = browser.data_dir.file_name().and_then(|name| ProfileId::new(name.to_str()?).ok());
    let folder = profile.and_then(|profile| ProfileFolder::open(profiles_dir, &profile).ok());
    if let Some((port, ws_path)) = folder.as_ref().and_then(ProfileFolder::devtools) {
        let until = Instant::now() + SHUTDOWN_GRACE;
        if timeout(SHUTDOWN_GRACE, close::ask(&format!("ws://127.0.0.1:{port}{ws_path}"))).await.is_ok() {
            let alive = || {
                processes::read(browser.identity.pid).is_some_and(|now| now.identity == browser.identity && !now.zombie)
            };
            while alive() && Instant::now() < until {
                sleep(LOOK_EVERY).await;
            }
        }
    }
    close::end_tree(&tree, known, None, reaper).await;
    if let Some(Err(error)) = folder.map(|folder| folder.clear_scratch()) {
        tracing::warn!(%error, "the scratch folder is not removed");
    }
}
