//! The provider `dolphin`: does its Local API answer, is a user signed in, does the token open the cloud?
//!
//! A handful of harmless calls, raw: what is judged here are answers that the provider would turn into
//! failures. The one call that is more than a look is the sign-in with cove's own token, which the provider
//! makes as well, and which is how anybody learns whether the token is good. No token is ever shown.

use std::time::Duration;

use reqwest::{Client, RequestBuilder};
use serde_json::{Value, json};

use super::line::{Line, counted};
use super::machine;
use crate::browser::processes::Listener;

const API: &str = "dolphin";
const SIGNED_IN: &str = "dolphin_signed_in";
const PROFILES: &str = "dolphin_profiles";
const LOOK_WITHIN: Duration = Duration::from_secs(8);
/// It asks the vendor's cloud.
const SIGN_IN_WITHIN: Duration = Duration::from_secs(20);
const CLOUD_WITHIN: Duration = Duration::from_secs(20);
const MAX_BODY_BYTES: usize = 4 * 1024 * 1024;
const SHOWN_CHARACTERS: usize = 120;

/// What came back.
#[derive(Clone, Debug, PartialEq)]
pub enum Heard {
    Reply { status: u16, body: Value },
    Nothing(String),
    Slow(Duration),
}

async fn hear(request: RequestBuilder, within: Duration) -> Heard {
    let call = async {
        let mut answer = request.send().await.map_err(|error| innermost(&error))?;
        let status = answer.status().as_u16();
        let mut bytes = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(|error| innermost(&error))? {
            if bytes.len() + chunk.len() > MAX_BODY_BYTES {
                return Err(format!("its answer is longer than {MAX_BODY_BYTES} bytes"));
            }
            bytes.extend_from_slice(&chunk);
        }
        let text = || Value::String(String::from_utf8_lossy(&bytes).into_owned());
        Ok(Heard::Reply { status, body: serde_json::from_slice(&bytes).unwrap_or_else(|_| text()) })
    };
    match tokio::time::timeout(within, call).await {
        Ok(heard) => heard.unwrap_or_else(Heard::Nothing),
        Err(_) => Heard::Slow(within),
    }
}

fn innermost(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}

/// A text out of an error answer, cut.
fn said(status: u16, body: &Value) -> String {
    let texts = [&body["error"], &body["errorObject"]["text"], &body["message"], body];
    let text = texts.iter().find_map(|text| text.as_str()).unwrap_or_default();
    format!("{status} {}", text.chars().filter(|c| !c.is_control()).take(SHOWN_CHARACTERS).collect::<String>())
}

/// Base of the Local API, however the configuration spells it.
pub fn base(api_host: &str) -> String {
    let host = api_host.trim_end_matches('/').trim_end_matches("/v1.0").trim_end_matches('/');
    format!("{host}/v1.0")
}

/// Everything that was heard of a Dolphin.
pub struct Found {
    pub running: Heard,
    /// The Local API's own list, which a session of the app guards.
    pub list: Option<Heard>,
    /// None: there is no token to sign in with.
    pub sign_in: Option<Heard>,
    pub cloud: Option<Heard>,
}

/// `token` goes to the application and to the vendor, as the provider sends it.
pub async fn look(local: &Client, cloud: &Client, api_host: &str, cloud_host: &str, token: Option<&str>) -> Found {
    let base = base(api_host);
    let running = hear(local.get(format!("{base}/browser_profiles/running")), LOOK_WITHIN).await;
    let answers = matches!(running, Heard::Reply { .. });
    let list = async {
        if !answers {
            return None;
        }
        Some(hear(local.get(format!("{base}/browser_profiles?limit=1")), LOOK_WITHIN).await)
    };
    let sign_in = async {
        let token = token.filter(|_| answers)?;
        let request = local.post(format!("{base}/auth/login-with-token")).json(&json!({"token": token}));
        Some(hear(request, SIGN_IN_WITHIN).await)
    };
    let profiles = async {
        let url = format!("{}/browser_profiles?limit=1&page=1", cloud_host.trim_end_matches('/'));
        Some(hear(cloud.get(url).bearer_auth(token?), CLOUD_WITHIN).await)
    };
    let (list, sign_in, cloud) = tokio::join!(list, sign_in, profiles);
    Found { running, list, sign_in, cloud }
}

impl Found {
    /// How many profiles run; None where it does not tell.
    fn running_count(&self) -> Option<usize> {
        match &self.running {
            Heard::Reply { status: 200, body: Value::Object(map) } if map.values().all(Value::is_object) => {
                Some(map.len())
            }
            _ => None,
        }
    }

    /// The application is there and answers as it should.
    pub fn answers(&self) -> bool {
        self.running_count().is_some() || matches!(self.running, Heard::Reply { status: 401, .. })
    }
}

pub fn reachable(found: &Found, api_host: &str, listener: Option<&Listener>) -> Line {
    let who = listener.map_or(String::new(), |listener| format!(": {}", machine::told(listener)));
    let start = "start Dolphin Anty on this machine; its port is shown in Settings > Health and belongs into [dolphin] api_host";
    match (&found.running, found.running_count()) {
        (_, Some(count)) => Line::ok(API, format!("{api_host} answers, {} open{who}", counted(count, "profile"))),
        (Heard::Reply { status: 401, .. }, _) => Line::ok(API, format!("{api_host} answers{who}")),
        (Heard::Reply { status, body }, _) => Line::error(
            API,
            format!("{api_host} answers, but not as Dolphin Anty does ({}){who}", said(*status, body)),
            start,
        ),
        (Heard::Nothing(why), _) => Line::error(API, format!("{api_host} does not answer: {why}"), start),
        (Heard::Slow(within), _) => Line::error(
            API,
            format!("{api_host} did not answer within {} s{who}", within.as_secs()),
            "restart Dolphin Anty; with hundreds of open profiles it is slow",
        ),
    }
}

pub fn signed_in(found: &Found) -> Line {
    let sign_in = "sign in to Dolphin Anty's window on this machine";
    if !found.answers() {
        return Line::error(SIGNED_IN, "it does not answer, so nobody knows", "see the line `dolphin`");
    }
    let guarded = match &found.list {
        Some(Heard::Reply { status, body }) => {
            let text = said(*status, body).to_lowercase();
            if text.contains("refresh") {
                let help = "refresh Dolphin Anty's window, or sign in again";
                return Line::error(SIGNED_IN, format!("the application is stuck with its own session: {text}"), help);
            }
            *status != 200
        }
        _ => true,
    };
    match &found.sign_in {
        Some(Heard::Reply { status: 200, body }) if body["success"] == true => {
            Line::ok(SIGNED_IN, "the application accepted cove's token")
        }
        Some(Heard::Reply { status: status @ (401 | 403), .. }) => Line::error(
            SIGNED_IN,
            format!("the application refuses cove's token ({status})"),
            "make a new token in Dolphin Anty's web panel, and put it where the old one is",
        ),
        Some(Heard::Reply { status, body }) => {
            Line::warning(SIGNED_IN, format!("a sign-in with cove's token ended with {}", said(*status, body)), sign_in)
        }
        Some(Heard::Nothing(why)) => {
            Line::warning(SIGNED_IN, format!("a sign-in with cove's token failed: {why}"), sign_in)
        }
        Some(Heard::Slow(within)) => {
            Line::warning(SIGNED_IN, format!("a sign-in with cove's token took over {} s", within.as_secs()), sign_in)
        }
        None if matches!(found.running, Heard::Reply { status: 401, .. }) => {
            Line::error(SIGNED_IN, "nobody is", sign_in)
        }
        None if !guarded => Line::ok(SIGNED_IN, "a user is"),
        None => Line::warning(
            SIGNED_IN,
            "the application answers, and without a token it does not tell who is signed in",
            "set [dolphin] api_token_file, or try a profile: `cove doctor --profile NAME`",
        ),
    }
}

/// `token`: whether there is one, or why it cannot be read. `named`: profiles that the configuration lists.
pub fn profiles(found: &Found, token: &Result<bool, String>, named: usize, cloud_host: &str) -> Line {
    match token {
        Err(why) => {
            return Line::error(
                PROFILES,
                why.clone(),
                "[dolphin] api_token_file names a file whose first line is the token",
            );
        }
        Ok(false) if named > 0 => {
            return Line::ok(PROFILES, format!("{} named in the configuration; no token", counted(named, "profile")));
        }
        Ok(false) => {
            return Line::error(
                PROFILES,
                "cove knows no profile: there is no token to ask for them, and the configuration names none",
                "set [dolphin] api_token_file (a token of Dolphin Anty's web panel), or list ids in [dolphin] profiles",
            );
        }
        Ok(true) => {}
    }
    let network =
        format!("see whether this machine reaches {cloud_host}; Dolphin Anty needs it to start and stop profiles, too");
    match &found.cloud {
        Some(Heard::Reply { status: 200, body }) => match total(body) {
            Some(0) => Line::error(
                PROFILES,
                "the token sees no profile",
                "make one in Dolphin Anty, or a token of the right user",
            ),
            Some(count) if named > 0 => Line::ok(
                PROFILES,
                format!("the token sees {}, the configuration names {named}", counted(count, "profile")),
            ),
            Some(count) => Line::ok(PROFILES, format!("the token sees {}", counted(count, "profile"))),
            None => Line::error(
                PROFILES,
                format!("{cloud_host} answers, but not with profiles"),
                "correct [dolphin] cloud_host",
            ),
        },
        Some(Heard::Reply { status: status @ (401 | 403), .. }) => Line::error(
            PROFILES,
            format!("{cloud_host} refuses cove's token ({status})"),
            "make a new token in Dolphin Anty's web panel, and put it where the old one is",
        ),
        Some(Heard::Reply { status: 429, .. }) => {
            Line::warning(PROFILES, format!("{cloud_host} says that it is asked too often"), "try again in a minute")
        }
        Some(Heard::Reply { status, body }) => {
            Line::error(PROFILES, format!("{cloud_host} answers {}", said(*status, body)), network)
        }
        Some(Heard::Nothing(why)) => Line::error(PROFILES, format!("{cloud_host} does not answer: {why}"), network),
        Some(Heard::Slow(within)) => {
            Line::error(PROFILES, format!("{cloud_host} did not answer within {} s", within.as_secs()), network)
        }
        None => Line::error(PROFILES, format!("{cloud_host} was not asked"), network),
    }
}

/// A number, or a number as text.
fn total(body: &Value) -> Option<usize> {
    let total = &body["total"];
    total.as_u64().and_then(|total| usize::try_from(total).ok()).or_else(|| total.as_str()?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::browser::processes::Holder;
    use crate::cli::doctor::line::Status;

    #[expect(clippy::unnecessary_wraps, reason = "most answers are optional")]
    fn reply(status: u16, body: Value) -> Option<Heard> {
        Some(Heard::Reply { status, body })
    }

    fn found(running: Option<Heard>, list: Option<Heard>, sign_in: Option<Heard>, cloud: Option<Heard>) -> Found {
        Found { running: running.unwrap_or(Heard::Nothing("refused".to_owned())), list, sign_in, cloud }
    }

    fn up() -> Option<Heard> {
        reply(200, json!({"43499381": {"runid": "r", "pid": 4}}))
    }

    #[test]
    fn an_application_answers_is_something_else_or_is_away() {
        let judge = |running| reachable(&found(running, None, None, None), "http://h", None);
        let listener = Listener { uid: 77, holder: Holder::Hidden };
        let line = reachable(&found(up(), None, None, None), "http://h", Some(&listener));
        assert_eq!(line, Line::ok(API, "http://h answers, 1 profile open: a process of user 77"));
        assert_eq!(judge(reply(200, json!({}))).status, Status::Ok);
        assert_eq!(judge(reply(401, json!({"error": "x"}))).status, Status::Ok);
        for strange in [reply(200, json!([])), reply(200, json!({"success": true})), reply(404, json!("<html>"))] {
            assert_eq!(judge(strange).status, Status::Error);
        }
        assert!(judge(None).help.unwrap().contains("Settings > Health"));
        assert_eq!(judge(Some(Heard::Slow(LOOK_WITHIN))).status, Status::Error);
        for spelled in ["http://h:1", "http://h:1/", "http://h:1/v1.0", "http://h:1/v1.0/"] {
            assert_eq!(base(spelled), "http://h:1/v1.0");
        }
    }

    #[test]
    fn who_is_signed_in_shows_by_the_token_or_not_at_all() {
        let guarded = || reply(401, json!({"error": "invalid session token"}));
        let status = |running, list, sign_in| signed_in(&found(running, list, sign_in, None)).status;
        assert_eq!(status(up(), guarded(), reply(200, json!({"success": true}))), Status::Ok);
        assert_eq!(status(up(), guarded(), reply(401, json!({"success": false}))), Status::Error);
        assert_eq!(status(up(), guarded(), reply(500, json!({"success": false}))), Status::Warning);
        assert_eq!(status(up(), guarded(), Some(Heard::Slow(SIGN_IN_WITHIN))), Status::Warning);
        assert_eq!(status(up(), guarded(), Some(Heard::Nothing("cut".to_owned()))), Status::Warning);
        assert_eq!(status(up(), guarded(), None), Status::Warning);
        assert_eq!(status(up(), reply(200, json!({"data": []})), None), Status::Ok);
        assert_eq!(status(up(), reply(401, json!({"error": "token refresh timeout"})), None), Status::Error);
        assert_eq!(status(reply(401, json!({})), guarded(), None), Status::Error);
        assert_eq!(status(None, None, None), Status::Error);
    }

    #[test]
    fn the_profiles_come_from_the_cloud_or_from_the_configuration() {
        let judge = |cloud, token: Result<bool, String>, named| {
            profiles(&found(up(), None, None, cloud), &token, named, "https://c")
        };
        let status = |cloud| judge(cloud, Ok(true), 0).status;
        assert_eq!(
            judge(reply(200, json!({"total": "12"})), Ok(true), 0),
            Line::ok(PROFILES, "the token sees 12 profiles")
        );
        assert_eq!(judge(reply(200, json!({"total": 3})), Ok(true), 2).status, Status::Ok);
        assert_eq!(status(reply(200, json!({"total": 0}))), Status::Error);
        assert_eq!(status(reply(200, json!({"x": 0}))), Status::Error);
        assert_eq!(status(reply(401, json!({}))), Status::Error);
        assert_eq!(status(reply(429, json!({}))), Status::Warning);
        assert_eq!(status(reply(500, json!("x"))), Status::Error);
        assert_eq!(status(Some(Heard::Nothing("no route".to_owned()))), Status::Error);
        assert_eq!(status(Some(Heard::Slow(CLOUD_WITHIN))), Status::Error);
        assert_eq!(judge(None, Ok(false), 2).status, Status::Ok);
        assert_eq!(judge(None, Ok(false), 0).status, Status::Error);
        assert_eq!(judge(None, Err("the file is empty".to_owned()), 2).status, Status::Error);
    }

    #[test]
    fn what_is_quoted_is_short_and_plain() {
        let long = said(500, &json!({"errorObject": {"text": format!("a\n{}", "b".repeat(500))}}));
        assert!(long.len() < 200 && !long.contains('\n') && long.starts_with("500 ab"));
    }
}
