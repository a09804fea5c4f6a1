//! A profile shown to a person: the browser is started visible (or headless, behind a DevTools link) and
//! watched until its window is closed or the person says so. No flow runs in it.

use std::time::Duration;

use super::event::{AttemptEnd, Event};
use super::turn::Child;
use crate::browser::{Session, StartOptions};
use crate::model::{Failure, FailureCode, ProfileId};

/// How often the window is looked at.
const WATCH_EVERY: Duration = Duration::from_secs(1);

/// The secret part of a DevTools link's path: 128 bits.
pub(super) fn new_token() -> String {
    let mut bytes = [0; 16];
    // The kernel's generator does not fail once the system is up; a link without secret is no link.
    match rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()) {
        Ok(16) => bytes.iter().fold(String::new(), |token, byte| token + &format!("{byte:02x}")),
        _ => String::new(),
    }
}

pub(super) async fn run(child: Child, profile: ProfileId, headless: bool, adopt: bool) {
    let opened = if adopt {
        running(&child, &profile).await
    } else {
        child.shared.provider.start(&profile, StartOptions { headless }).await
    };
    let (end, browser) = match opened {
        Ok(session) => {
            child.tell(Event::Opened { fence: child.fence, session }).await;
            watch(&child, &profile).await;
            (AttemptEnd::Done { url: None, result: std::collections::BTreeMap::new() }, true)
        }
        // A browser that somebody else runs is not ours to stop; any other start may have gone through.
        Err(failure) => {
            let browser = failure.code != FailureCode::ProfileInUse;
            (AttemptEnd::Unarmed(failure), browser)
        }
    };
    let fence = child.fence;
    child.tell(Event::Ended { fence, end, evidence: Vec::new(), stopped: None, browser, roll: 0.0 }).await;
}

pub(super) async fn running(child: &Child, profile: &ProfileId) -> Result<Session, Failure> {
    let running = child.shared.provider.running().await?;
    running
        .into_iter()
        .find(|session| &session.profile == profile)
        .ok_or_else(|| Failure::new(FailureCode::BrowserLost, "the window was closed while the daemon was away"))
}

/// Returns when the window is closed or the person asks for it.
async fn watch(child: &Child, profile: &ProfileId) {
    loop {
        tokio::select! {
            () = child.interrupt.cancelled() => return,
            () = tokio::time::sleep(WATCH_EVERY) => {}
        }
        match running(child, profile).await {
            Ok(_) => {}
            Err(failure) if failure.code == FailureCode::BrowserLost => return,
            Err(failure) => tracing::warn!(%profile, %failure, "cannot see whether the window is still open"),
        }
    }
}
