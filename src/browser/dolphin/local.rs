//! The calls of Dolphin's Local API that cove makes: sign-in, running, start, stop.
//!
//! The provider, `starting` and `stopping` call it. A start is one call and never repeated here; `running` is
//! repeated for its idempotence, within its own deadline. Signing in happens when an answer asks for it, one
//! at a time and not again for a while, since it cannot help twice. The token goes into the sign-in alone. To the
//! breaker only a start proves that all is well: a Dolphin that starts nothing still lists what runs.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use reqwest::redirect::Policy;
use reqwest::{Client, RequestBuilder};
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep};

use super::answer::{self, Meaning, Refusal, RunningMap, Started};
use super::exchange::{Answer, CONNECT_DEADLINE, Calls, Peer, Proves, Trouble};
use super::pace::Tries;
use super::{Deadlines, THE_APP};
use crate::breaker::DOLPHIN;
use crate::breaker::board::Board;
use crate::browser::HttpPool;
use crate::config::dolphin::{Token, TokenSource};
use crate::model::{Clock, Failure, FailureCode};
use crate::outbound;

const VERSION_PATH: &str = "/v1.0";
/// A sign-in that went well is not made again so soon.
const SIGNED_IN_FOR: Duration = Duration::from_secs(30);

/// Why a call did not end well.
#[derive(Debug)]
pub enum Unmet {
    Refused(Refusal),
    Trouble(Trouble),
}

impl Unmet {
    /// As the end of a call on which nothing depends but itself.
    pub fn failure(&self) -> Failure {
        let refusal = match self {
            Self::Trouble(trouble) => return trouble.failure(THE_APP),
            Self::Refused(refusal) => refusal,
        };
        let (code, why) = match refusal.meaning {
            Meaning::SignedOut => (FailureCode::ProviderSignedOut, "nobody is signed in"),
            Meaning::PlanForbids | Meaning::PlanLimit | Meaning::TooManyLaunches => {
                (FailureCode::ProviderRefused, "it refuses")
            }
            Meaning::NotTheApi => {
                (FailureCode::ProviderDown, "what answers there is not its Local API as it is known here")
            }
            _ => (FailureCode::ProviderDown, "it does not work"),
        };
        Failure::new(code, format!("{THE_APP}: {why} ({refusal})"))
    }

    /// The same call may end well a moment later.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Trouble(trouble) => matches!(trouble, Trouble::Cut(_)),
            Self::Refused(refusal) => !refusal.meaning.is_sound(refusal.status),
        }
    }
}

/// Connections that are kept for the next call.
const KEPT: usize = 0;

pub struct LocalApi {
    peer: Peer,
    /// For DevTools on this machine, too.
    pub http: Client,
    base: String,
    token: Option<Arc<TokenSource>>,
    /// When the last sign-in went well.
    signed_in: Mutex<Option<Instant>>,
    deadlines: Deadlines,
}

/// The base of all paths, whether the configuration's address ends with the version or not.
pub fn base_of(api_host: &str) -> String {
    let host = api_host.trim_end_matches('/').trim_end_matches(VERSION_PATH).trim_end_matches('/');
    format!("{host}{VERSION_PATH}")
}

impl LocalApi {
    /// # Errors
    /// When the HTTP client cannot be made.
    pub fn new(
        api_host: &str,
        token: Option<Arc<TokenSource>>,
        breakers: Board,
        clock: Arc<dyn Clock>,
        deadlines: Deadlines,
    ) -> reqwest::Result<Self> {
        let builder = if api_host.starts_with("https://") { outbound::anywhere() } else { outbound::local() };
        // A connection of its own for every call: on one that is kept, a start that was cut off could have been
        // heard or not, and nobody would know.
        let builder = builder.redirect(Policy::none()).connect_timeout(CONNECT_DEADLINE).pool_max_idle_per_host(KEPT);
        let http = builder.build()?;
        Ok(Self {
            peer: Peer { http: http.clone(), calls: Calls::default(), breakers, breaker: DOLPHIN, clock },
            http,
            base: base_of(api_host),
            token,
            signed_in: Mutex::default(),
            deadlines,
        })
    }

    pub fn pool(&self) -> HttpPool {
        let Peer { calls, breakers, breaker, clock, .. } = &self.peer;
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        HttpPool {
            in_use: read(&calls.in_use),
            idle_max: KEPT as u64,
            calls: read(&calls.made),
            failures: read(&calls.failed),
            healthy: breakers.open(clock.now()).iter().all(|(open, _)| open != breaker),
        }
    }

    fn get(&self, path: &str) -> RequestBuilder {
        self.peer.http.get(format!("{}{path}", self.base))
    }

    async fn call<T>(
        &self,
        kind: &'static str,
        request: RequestBuilder,
        within: Duration,
        read: impl Fn(&Answer) -> Result<T, Refusal>,
    ) -> Result<T, Unmet> {
        let objection = |answer: &Answer| {
            let refusal = read(answer).err()?;
            (!refusal.meaning.is_sound(refusal.status)).then(|| refusal.to_string())
        };
        let answer =
            self.peer.exchange(Proves::Itself(kind), request, within, objection).await.map_err(Unmet::Trouble)?;
        read(&answer).map_err(Unmet::Refused)
    }

    /// Every profile that runs on this machine, whoever started it.
    pub async fn running(&self) -> Result<RunningMap, Failure> {
        let read = |answer: &Answer| answer::running(answer.status, &answer.body);
        let mut signed_in = false;
        let mut tries = Tries::new(&self.deadlines, self.deadlines.running);
        loop {
            let request = self.get("/browser_profiles/running");
            match self.call("running", request, tries.left(), read).await {
                Ok(map) => return Ok(map),
                Err(Unmet::Refused(refusal)) if refusal.meaning == Meaning::SignedOut && !signed_in => {
                    self.sign_in(&refusal).await?;
                    signed_in = true;
                    tries = Tries::new(&self.deadlines, self.deadlines.running);
                }
                Err(unmet) => match tries.pause().filter(|_| unmet.may_pass()) {
                    Some(pause) => sleep(pause).await,
                    None => return Err(unmet.failure()),
                },
            }
        }
    }

    /// One call. After any trouble but [`Trouble::NotSent`] and [`Trouble::Shut`] it may have started.
    pub async fn start(&self, id: u64, headless: bool) -> Result<(Started, Option<Duration>), Trouble> {
        let headless = if headless { "&headless=1" } else { "" };
        let request = self.get(&format!("/browser_profiles/{id}/start?automation=1{headless}"));
        let objection = |answer: &Answer| match answer::start(answer.status, &answer.body) {
            Started::Refused(refusal) if !refusal.is_dolphins_own() => Some(refusal.to_string()),
            _ => None,
        };
        let answer = self.peer.exchange(Proves::Everything("start"), request, self.deadlines.start, objection).await?;
        Ok((answer::start(answer.status, &answer.body), answer.retry_after))
    }

    /// One call. How it ended says little: whether the browser is gone, others have to see.
    pub async fn stop(&self, id: u64, within: Duration) -> Result<(), Unmet> {
        let request = self.get(&format!("/browser_profiles/{id}/stop"));
        self.call("stop", request, within, |answer| answer::outcome(answer.status, &answer.body)).await
    }

    /// Gives the application the token again. `asked_by`: the answer that says that nobody is signed in.
    ///
    /// # Errors
    /// `provider_signed_out` where that did not help; what the call met otherwise.
    pub async fn sign_in(&self, asked_by: &Refusal) -> Result<(), Failure> {
        let signed_out = |why: String| {
            Failure::new(FailureCode::ProviderSignedOut, format!("{THE_APP}: nobody is signed in ({asked_by}); {why}"))
        };
        let Some(source) = self.token.clone() else { return Err(signed_out("cove has no token".to_owned())) };
        let mut signed_in = self.signed_in.lock().await;
        if signed_in.is_some_and(|at| at.elapsed() < SIGNED_IN_FOR) {
            return Ok(());
        }
        let token = tokio::task::spawn_blocking(move || source.read()).await;
        let token = token.unwrap_or_else(|error| Err(error.to_string())).map_err(&signed_out)?;
        let mut tries = Tries::new(&self.deadlines, self.deadlines.login);
        loop {
            match self.sign_in_once(&token, tries.left()).await {
                Ok(()) => {
                    tracing::info!("signed in to Dolphin Anty with the token");
                    *signed_in = Some(Instant::now());
                    return Ok(());
                }
                Err(unmet) => match (tries.pause().filter(|_| unmet.may_pass()), unmet) {
                    (Some(pause), _) => sleep(pause).await,
                    (None, Unmet::Trouble(trouble)) => return Err(trouble.failure(THE_APP)),
                    (None, Unmet::Refused(refusal)) => {
                        return Err(signed_out(format!("signing in with the token did not help: {refusal}")));
                    }
                },
            }
        }
    }

    async fn sign_in_once(&self, token: &Token, within: Duration) -> Result<(), Unmet> {
        let body = serde_json::json!({"token": token.reveal()});
        let request = self.peer.http.post(format!("{}/auth/login-with-token", self.base)).json(&body);
        let read = |answer: &Answer| answer::outcome(answer.status, &answer.body_without(token));
        self.call("sign_in", request, within, read).await
    }
}
