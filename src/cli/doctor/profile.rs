//! `--profile NAME`: does this very profile start, and is its CDP reachable?
//!
//! Through the daemon where one runs: opened as for a person and closed again, so that no item starts in it
//! meanwhile. Otherwise by Dolphin's Local API, or by a browser host of our own on the real folder; never while
//! something of an earlier daemon still runs there, since that is for the daemon's recovery to look at.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::time::sleep;

use super::chromium::lines;
use super::line::Line;
use super::trial::{Started, Trial, try_profile};
use crate::breaker::BreakerLimits;
use crate::breaker::board::Board;
use crate::browser::Provider;
use crate::browser::dolphin::{Deadlines, DolphinProvider, Setup};
use crate::browser::processes;
use crate::cli::remote::{Client, RemoteError, encoded};
use crate::config::dolphin::TokenSource;
use crate::config::{Browser, Dolphin, OnDuplicate};
use crate::model::{Failure, FailureCode, ProfileId, SystemClock};

const START: &str = "profile_start";
const CDP: &str = "profile_cdp";
/// A profile of Dolphin may be fetched from the cloud first.
const OPEN_WITHIN: Duration = Duration::from_secs(150);
const LOOK_EVERY: Duration = Duration::from_millis(500);

pub fn not_tried() -> [Line; 2] {
    let why = "not tried: give --profile NAME";
    [Line::ok(START, why), Line::ok(CDP, why)]
}

pub fn not_now(why: impl Into<String>, help: impl Into<String>) -> [Line; 2] {
    let (why, help) = (why.into(), help.into());
    [Line::warning(START, why.clone(), help.clone()), Line::warning(CDP, why, help)]
}

/// Opens it through the daemon, asks its DevTools through cove, closes it.
pub async fn through_daemon(client: &Client, name: &str) -> [Line; 2] {
    let path = format!("/api/v1/profiles/{}", encoded(name));
    let begun = Instant::now();
    if let Err(error) = client.post(&format!("{path}/open"), &json!({"headless": true})).await {
        return match error {
            RemoteError::Refused(problem) if problem["code"] == "profile_busy" => not_now(
                format!("`{name}` is in use: it was left alone"),
                "try again when `cove profiles list` shows it idle",
            ),
            error => {
                let why = format!("`{name}` was not opened: {error}");
                let help = "`cove profiles list` shows the profiles and what they do";
                [Line::error(START, why, help), Line::error(CDP, "nothing to connect to: it was not opened", help)]
            }
        };
    }
    let opened = wait(client, &path, begun).await;
    let cdp = match &opened {
        Ok(Some(link)) => match client.get(&format!("{link}json/version")).await {
            Ok(version) => {
                version["Browser"].as_str().map(str::to_owned).ok_or_else(|| format!("the browser answered {version}"))
            }
            Err(error) => Err(error.to_string()),
        },
        Ok(None) => Err("the daemon shows no DevTools link of it".to_owned()),
        Err(_) => Err("it did not start".to_owned()),
    };
    let took = begun.elapsed();
    let stopped = close(client, &path).await;
    let started = opened.map(|_| Started { took, cdp, stats: None, stopped });
    tried(name, &started)
}

/// The link to its DevTools, once it is up.
async fn wait(client: &Client, path: &str, begun: Instant) -> Result<Option<String>, Failure> {
    let failed = |why: String| Failure::new(FailureCode::BrowserStartFailed, why);
    loop {
        let profile = client.look(path).await.map_err(|error| failed(error.to_string()))?;
        if profile["opened"]["ready"] == true {
            return Ok(profile["devtools_url"].as_str().map(str::to_owned));
        }
        if let Some(failure) = open_error(&profile) {
            return Err(failure);
        }
        if begun.elapsed() > OPEN_WITHIN {
            return Err(failed(format!("it was not open within {} s", OPEN_WITHIN.as_secs())));
        }
        sleep(LOOK_EVERY).await;
    }
}

/// What the daemon met, by its code: what to do about it hangs on that.
fn open_error(profile: &Value) -> Option<Failure> {
    let error = &profile["open_error"];
    let text = error.as_str().map_or_else(|| error.to_string(), str::to_owned);
    let by_code = || {
        let (name, detail) = text.split_once(": ")?;
        let code = FailureCode::ALL.iter().find(|code| code.name() == name)?;
        Some(Failure::new(*code, detail))
    };
    let failure = || by_code().unwrap_or_else(|| Failure::new(FailureCode::BrowserStartFailed, &*text));
    (!error.is_null()).then(failure)
}

/// Asks, and waits until it is so: nothing of this test may be left open.
async fn close(client: &Client, path: &str) -> Result<(), Failure> {
    let failed = |why: String| Failure::new(FailureCode::ProfileInUse, why);
    match client.post(&format!("{path}/close"), &json!({})).await {
        // It ended by itself, or never began.
        Ok(_) | Err(RemoteError::Refused(_)) => {}
        Err(error) => return Err(failed(error.to_string())),
    }
    let begun = Instant::now();
    while begun.elapsed() < OPEN_WITHIN {
        let profile = client.look(path).await.map_err(|error| failed(error.to_string()))?;
        if profile["opened"].is_null() {
            return Ok(());
        }
        sleep(LOOK_EVERY).await;
    }
    Err(failed(format!("it was not closed within {} s; close it: `cove profiles close`", OPEN_WITHIN.as_secs())))
}

/// The lines of a start; what is in use was left alone, and that is no error.
fn tried(name: &str, started: &Result<Started, Failure>) -> [Line; 2] {
    match started {
        Err(failure) if failure.code == FailureCode::ProfileInUse => not_now(
            format!("`{name}` is in use, and was left alone: {}", failure.detail),
            "try again when it is closed",
        ),
        started => lines(START, CDP, &format!("`{name}`"), started),
    }
}

/// Without a daemon, and with Dolphin Anty: as the daemon would, but never touching what runs already. The
/// notebook of this start is thrown away: what it may leave behind is nobody's, so no recovery stops it.
pub async fn through_dolphin(dolphin: &Dolphin, token: Option<TokenSource>, name: &str) -> [Line; 2] {
    let failed = |why: String| Failure::new(FailureCode::Internal, why);
    let folder = match tempfile::Builder::new().prefix("cove-doctor-").tempdir() {
        Ok(folder) => folder,
        Err(error) => return tried(name, &Err(failed(format!("no temporary folder: {error}")))),
    };
    let dolphin = Dolphin { on_duplicate: OnDuplicate::Wait, ..dolphin.clone() };
    let setup = Setup {
        dolphin: &dolphin,
        token,
        state_dir: folder.path(),
        // One start: nothing is to be left alone after it.
        breakers: Board::new(BreakerLimits { failures: u32::MAX, open: Duration::ZERO, trials: 1 }),
        clock: Arc::new(SystemClock),
        deadlines: Deadlines::default(),
    };
    let started = match DolphinProvider::new(setup) {
        Ok(provider) => match id_of(&provider, name).await {
            Ok(profile) => try_profile(&provider, &profile).await,
            Err(failure) => Err(failure),
        },
        Err(failure) => Err(failure),
    };
    tried(name, &started)
}

/// An id or an unambiguous name among what the provider lists; an id also where it cannot list.
async fn id_of(provider: &DolphinProvider, name: &str) -> Result<ProfileId, Failure> {
    let listed = match provider.profiles(Duration::ZERO).await {
        Ok(listed) => listed.unwrap_or_default(),
        Err(failure) if name.bytes().any(|byte| !byte.is_ascii_digit()) => return Err(failure),
        Err(_) => Vec::new(),
    };
    let refused = |why: String| Failure::new(FailureCode::ProviderRefused, why);
    if let Some(found) = listed.iter().find(|listed| listed.id.as_str() == name) {
        return Ok(found.id.clone());
    }
    let mut named = listed.iter().filter(|listed| listed.name == name);
    match (named.next(), named.next()) {
        (Some(found), None) => Ok(found.id.clone()),
        (Some(_), Some(_)) => Err(refused(format!("several profiles are called `{name}`: give the id"))),
        (None, _) if name.bytes().all(|byte| byte.is_ascii_digit()) => {
            ProfileId::new(name).map_err(|error| refused(error.to_string()))
        }
        (None, _) => Err(refused(format!("no profile has the id or name `{name}`"))),
    }
}

/// Without a daemon: by a host that runs, or by one of our own as `user`.
pub async fn through_host(
    browser: &Browser,
    profiles_dir: &Path,
    name: &str,
    user: Option<(u32, u32)>,
    service: Option<&dyn Provider>,
) -> [Line; 2] {
    let Ok(profile) = ProfileId::new(name) else {
        return not_now(
            format!("`{name}` is no profile's id, and only the daemon knows names"),
            "start the daemon, or give the id",
        );
    };
    if let Some(service) = service {
        return tried(name, &try_profile(service, &profile).await);
    }
    let folder = profiles_dir.join(name);
    if !folder.is_dir() {
        return not_now(
            format!(
                "{} is not there: no profile of this id was ever started, and only the daemon knows names",
                folder.display()
            ),
            "start the daemon, or give the id of a profile that was started before",
        );
    }
    let real = profiles_dir.canonicalize().unwrap_or_else(|_| profiles_dir.to_owned());
    let left = processes::browsers(&processes::all());
    if let Some(left) = left.iter().find(|browser| browser.data_dir.parent() == Some(&real)) {
        return not_now(
            format!("process {} works in the profiles of cove, and was left alone", left.identity.pid),
            "start the daemon: it looks at browsers that were left behind and closes them",
        );
    }
    let trial = Trial::start(user, browser.chromium.clone(), browser.sandbox, Some(profiles_dir.to_owned())).await;
    let started = match trial {
        Ok(trial) => {
            let started = try_profile(&trial.provider, &profile).await;
            trial.end().await;
            started
        }
        Err(why) => Err(Failure::new(FailureCode::BrowserStartFailed, why)),
    };
    tried(name, &started)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::doctor::line::Status;

    #[test]
    fn what_is_not_tried_says_so() {
        assert!(not_tried().iter().all(|line| line.status == Status::Ok && line.found.contains("--profile")));
        assert_eq!(not_now("a", "b").map(|line| line.status), [Status::Warning; 2]);
        let status = |code| tried("anna", &Err(Failure::new(code, "x"))).map(|line| line.status);
        assert_eq!(status(FailureCode::ProfileInUse), [Status::Warning; 2], "in use is no error");
        assert_eq!(status(FailureCode::BrowserStartFailed), [Status::Error; 2]);
        assert_eq!(open_error(&json!({"open_error": null})), None);
        let of = |error: Value| open_error(&json!({"open_error": error})).map(|failure| (failure.code, failure.detail));
        let start_failed = |why: &str| Some((FailureCode::BrowserStartFailed, why.to_owned()));
        assert_eq!(of(json!("no")), start_failed("no"));
        assert_eq!(of(json!("no: such code")), start_failed("no: such code"));
        assert_eq!(of(json!({"a": 1})), start_failed("{\"a\":1}"));
        let in_use = Some((FailureCode::ProfileInUse, "101 runs in Dolphin Anty: not for cove".to_owned()));
        assert_eq!(of(json!("profile_in_use: 101 runs in Dolphin Anty: not for cove")), in_use);
    }

    #[tokio::test]
    async fn without_a_daemon_only_an_id_that_was_started_is_tried() {
        let folder = tempfile::tempdir().unwrap();
        let browser = Browser::default();
        for (name, text) in [("no id!", "no profile's id"), ("anna", "no profile of this id was ever started")] {
            let tried = through_host(&browser, folder.path(), name, None, None).await;
            assert!(tried[0].status == Status::Warning && tried[0].found.contains(text), "{tried:?}");
        }
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "nothing is made");
    }
}
