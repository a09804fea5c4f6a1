//! What a few harmless calls say of a Dolphin Anty: for `cove doctor`, which judges it.
//!
//! Raw answers, where the provider would make failures of them: no breaker, no second try, no sign-in that is
//! made because an answer asks for it. The one call that is more than a look is the sign-in with cove's own
//! token; the provider makes it as well, and nothing else tells whether the token is good.

use std::time::Duration;

use reqwest::redirect::Policy;
use reqwest::{Client, RequestBuilder};
use serde_json::Value;

use super::answer::{self, Refusal};
use super::exchange::{Answer, CONNECT_DEADLINE, plain};
use super::local::base_of;
use crate::config::dolphin::Token;
use crate::outbound;

const LOOK_WITHIN: Duration = Duration::from_secs(8);
/// The application asks the vendor's cloud.
const SIGN_IN_WITHIN: Duration = Duration::from_secs(20);
const CLOUD_WITHIN: Duration = Duration::from_secs(20);

/// What came of one call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said<T> {
    Yes(T),
    No(Refusal),
    /// No answer; why.
    Nothing(String),
}

/// What was said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Look {
    /// Profiles that run.
    pub running: Said<usize>,
    /// The Local API's own list, which a session of the application guards. None: not asked.
    pub list: Option<Said<()>>,
    /// None: there is no token, or nobody to sign in with.
    pub sign_in: Option<Said<()>>,
    /// Profiles that the token sees in the cloud; None inside: it does not count them.
    pub cloud: Option<Said<Option<u64>>>,
}

/// # Errors
/// When no HTTP client can be made.
pub async fn look(api_host: &str, cloud_host: &str, token: Option<&Token>) -> reqwest::Result<Look> {
    let client = |host: &str| {
        let builder = if host.starts_with("https://") { outbound::anywhere() } else { outbound::local() };
        builder.redirect(Policy::none()).connect_timeout(CONNECT_DEADLINE).build()
    };
    let (local, cloud) = (client(api_host)?, client(cloud_host)?);
    let base = base_of(api_host);
    let running = local.get(format!("{base}/browser_profiles/running"));
    let running = ask(running, LOOK_WITHIN, |answer| Ok(answer::running(answer.status, &answer.body)?.len())).await;
    let there = !matches!(running, Said::Nothing(_));
    let list = async {
        if !there {
            return None;
        }
        let request = local.get(format!("{base}/browser_profiles?limit=1"));
        let read = |answer: &Answer| answer::list_page(answer.status, &answer.body, 1).map(drop);
        Some(ask(request, LOOK_WITHIN, read).await)
    };
    let sign_in = async {
        let token = token.filter(|_| there)?;
        Some(sign_in(&local, &base, token).await)
    };
    let profiles = async { Some(count(&cloud, cloud_host, token?).await) };
    let (list, sign_in, cloud) = tokio::join!(list, sign_in, profiles);
    Ok(Look { running, list, sign_in, cloud })
}

async fn ask<T>(
    request: RequestBuilder,
    within: Duration,
    read: impl FnOnce(&Answer) -> Result<T, Refusal>,
) -> Said<T> {
    match plain(request, within).await {
        Ok(answer) => read(&answer).map_or_else(Said::No, Said::Yes),
        Err(trouble) => Said::Nothing(trouble.to_string()),
    }
}

async fn sign_in(local: &Client, base: &str, token: &Token) -> Said<()> {
    let request = local.post(format!("{base}/auth/login-with-token"));
    let request = request.json(&serde_json::json!({"token": token.reveal()}));
    ask(request, SIGN_IN_WITHIN, |answer| answer::outcome(answer.status, &answer.body_without(token))).await
}

async fn count(cloud: &Client, host: &str, token: &Token) -> Said<Option<u64>> {
    let url = format!("{}/browser_profiles?limit=1&page=1", host.trim_end_matches('/'));
    let read = |answer: &Answer| {
        answer::list_page(answer.status, &answer.body_without(token), 1)?;
        Ok(total(&answer.body))
    };
    ask(cloud.get(url).bearer_auth(token.reveal()), CLOUD_WITHIN, read).await
}

/// A number, or a number as text.
fn total(body: &[u8]) -> Option<u64> {
    let json: Value = serde_json::from_slice(body).ok()?;
    let total = json.get("total")?;
    total.as_u64().or_else(|| total.as_str()?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_total_is_a_number_in_any_form() {
        assert_eq!(total(br#"{"total": 12}"#), Some(12));
        assert_eq!(total(br#"{"total": "12"}"#), Some(12));
        for none in [&br#"{"total": null}"#[..], b"{}", b"<html>"] {
            assert_eq!(total(none), None);
        }
    }

    #[tokio::test]
    async fn nobody_there_is_nothing_and_is_asked_once() {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let host = format!("http://127.0.0.1:{port}");
        let found = look(&host, &host, None).await.unwrap();
        assert!(matches!(&found.running, Said::Nothing(why) if why.contains("refused")), "{found:?}");
        assert_eq!((found.list, found.sign_in, found.cloud), (None, None, None));
    }
}
