//! One HTTP exchange with one peer: bounded in time and size, past its breaker, no redirect followed.
//!
//! `local`, `cloud` and `devtools` call it. It says how far a call got, since that decides whether the peer
//! may have done what it was asked: [`Trouble::NotSent`] is the only end that proves that it has not.
//! Nothing is sent twice here. What an answer means is the caller's, who also says whether it speaks for a
//! peer that works.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use reqwest::header::{HeaderMap, RETRY_AFTER};
use reqwest::{Client, RequestBuilder, Response};
use tokio::time::timeout;

use crate::breaker::board::Board;
use crate::config::dolphin::Token;
use crate::model::{Clock, Failure, FailureCode, Timestamp};

/// For a connection; what is on this machine answers at once or not at all.
pub const CONNECT_DEADLINE: Duration = Duration::from_secs(5);
/// Of an answer. A map of a thousand running profiles takes 80 KB, a page of fifty profiles 200 KB.
const MAX_BODY_BYTES: usize = 4 * 1024 * 1024;
/// Longest wait that a peer may ask for.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(3_600);

#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    /// How long the peer asks to be left alone; zero says nothing.
    pub retry_after: Option<Duration>,
    /// Calls that the peer still takes in this minute.
    pub minute_left: Option<u64>,
    pub body: Vec<u8>,
}

impl Answer {
    /// Whatever answers there may say back what it was given, and it goes into messages.
    pub fn body_without(&self, token: &Token) -> Cow<'_, [u8]> {
        let secret = token.reveal().as_bytes();
        let holds = self.body.windows(secret.len()).any(|window| window == secret);
        if !holds {
            return Cow::Borrowed(&self.body);
        }
        let text = String::from_utf8_lossy(&self.body);
        Cow::Owned(text.replace(token.reveal(), "[token]").into_bytes())
    }
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// Its breaker is open: nothing was sent.
    Shut { until: Timestamp },
    /// No connection: nothing was sent.
    NotSent(String),
    /// The connection broke, or what came was too much: the peer may have done it.
    Cut(String),
    /// The peer may have done it, or may still do it.
    Late(Duration),
}

impl std::fmt::Display for Trouble {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Shut { until } => write!(out, "it failed too often in a row and is not called before {until}"),
            Self::NotSent(why) => write!(out, "no connection: {why}"),
            Self::Cut(why) => write!(out, "no whole answer: {why}"),
            Self::Late(within) => write!(out, "no answer within {}", in_words(*within)),
        }
    }
}

/// For a person: nobody wants to know it to the nanosecond.
pub fn in_words(duration: Duration) -> String {
    match duration.as_millis() {
        milliseconds @ 0..1_000 => format!("{milliseconds} ms"),
        milliseconds if milliseconds < 10_000 && milliseconds % 1_000 >= 50 => {
            // The tenth above half a tenth: 4.9999 s are five.
            let tenths = (milliseconds + 50) / 100;
            if tenths % 10 == 0 { format!("{} s", tenths / 10) } else { format!("{}.{} s", tenths / 10, tenths % 10) }
        }
        milliseconds => format!("{} s", (milliseconds + 500) / 1_000),
    }
}

impl Trouble {
    /// As the end of a call on which nothing depends but itself.
    pub fn failure(&self, whose: &str) -> Failure {
        let code = match self {
            Self::Shut { .. } => FailureCode::BreakerOpen,
            Self::NotSent(_) | Self::Cut(_) | Self::Late(_) => FailureCode::ProviderDown,
        };
        Failure::new(code, format!("{whose}: {self}"))
    }
}

/// How often a peer was called, and how it went.
#[derive(Default)]
pub struct Calls {
    pub in_use: AtomicU64,
    pub made: AtomicU64,
    /// No whole answer.
    pub failed: AtomicU64,
}

/// A call under way, also one that is given up.
struct UnderWay<'a>(&'a Calls);

impl<'a> UnderWay<'a> {
    fn new(calls: &'a Calls) -> Self {
        calls.made.fetch_add(1, Ordering::Relaxed);
        calls.in_use.fetch_add(1, Ordering::Relaxed);
        Self(calls)
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.in_use.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Who is called, and the breaker in front of it.
pub struct Peer {
    pub http: Client,
    pub calls: Calls,
    pub breakers: Board,
    pub breaker: &'static str,
    pub clock: Arc<dyn Clock>,
}

impl Peer {
    /// `proves`: what the breaker learns from a good end. `objection`: why the answer is not that of a peer that
    /// works.
    pub async fn exchange(
        &self,
        proves: Proves,
        request: RequestBuilder,
        within: Duration,
        objection: impl FnOnce(&Answer) -> Option<String>,
    ) -> Result<Answer, Trouble> {
        let call = Admitted::new(self, proves)?;
        let under_way = UnderWay::new(&self.calls);
        let result = plain(request, within).await;
        drop(under_way);
        if result.is_err() {
            self.calls.failed.fetch_add(1, Ordering::Relaxed);
        }
        call.ended(match &result {
            Ok(answer) => objection(answer),
            Err(trouble) => Some(trouble.to_string()),
        });
        result
    }
}

/// What a call that ends well says of its peer, by the name of its kind.
#[derive(Clone, Copy, Debug)]
pub enum Proves {
    /// It asks so much that nothing can be wrong.
    Everything(&'static str),
    /// A peer that is stuck answers it all the same.
    Itself(&'static str),
}

impl Proves {
    const fn kind(self) -> &'static str {
        match self {
            Self::Everything(kind) | Self::Itself(kind) => kind,
        }
    }
}

/// A call that the breaker let through. One that is given up says nothing of the peer.
struct Admitted<'a> {
    peer: &'a Peer,
    proves: Proves,
    told: bool,
}

impl<'a> Admitted<'a> {
    fn new(peer: &'a Peer, proves: Proves) -> Result<Self, Trouble> {
        peer.breakers.admit(peer.breaker, peer.clock.now()).map_err(|until| Trouble::Shut { until })?;
        Ok(Self { peer, proves, told: false })
    }

    fn ended(mut self, objection: Option<String>) {
        self.told = true;
        let Peer { breakers, breaker, clock, .. } = self.peer;
        match objection {
            None => match self.proves {
                Proves::Everything(_) => breakers.succeeded(breaker, clock.now()),
                Proves::Itself(kind) => breakers.succeeded_at(breaker, kind, clock.now()),
            },
            Some(why) => breakers.failed_at(breaker, self.proves.kind(), clock.now(), &why),
        }
    }
}

impl Drop for Admitted<'_> {
    fn drop(&mut self) {
        if !self.told {
            self.peer.breakers.withdrawn(self.peer.breaker, self.peer.clock.now());
        }
    }
}

/// The same without a breaker.
pub async fn plain(request: RequestBuilder, within: Duration) -> Result<Answer, Trouble> {
    let exchange = async { whole(request.send().await.map_err(why)?).await };
    timeout(within, exchange).await.unwrap_or(Err(Trouble::Late(within)))
}

async fn whole(mut response: Response) -> Result<Answer, Trouble> {
    let status = response.status().as_u16();
    let seconds = |name: &str| number(response.headers(), name);
    let retry_after = seconds(RETRY_AFTER.as_str())
        .filter(|seconds| *seconds > 0)
        .map(|seconds| Duration::from_secs(seconds).min(LONGEST_RETRY_AFTER));
    let minute_left = seconds("x-ratelimiter-rpm-left");
    let mut body = Vec::new();
    while let Some(piece) = response.chunk().await.map_err(why)? {
        body.extend_from_slice(&piece);
        if body.len() > MAX_BODY_BYTES {
            return Err(Trouble::Cut(format!("more than {MAX_BODY_BYTES} bytes")));
        }
    }
    Ok(Answer { status, retry_after, minute_left, body })
}

fn number(headers: &HeaderMap, name: &str) -> Option<u64> {
    headers.get(name)?.to_str().ok()?.trim().parse().ok()
}

/// The innermost cause is what a person can act on.
fn why(error: reqwest::Error) -> Trouble {
    let error = error.without_url();
    let mut cause: &dyn std::error::Error = &error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    if error.is_connect() { Trouble::NotSent(cause.to_string()) } else { Trouble::Cut(cause.to_string()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_says_round_numbers() {
        let late = |nanos| Trouble::Late(Duration::from_nanos(nanos)).to_string();
        assert_eq!(late(4_999_906_401), "no answer within 5 s");
        let said = |ms| in_words(Duration::from_millis(ms));
        assert_eq!(
            [said(700), said(1_000), said(1_549), said(9_960), said(119_700)],
            ["700 ms", "1 s", "1.5 s", "10 s", "120 s"]
        );
    }
}
