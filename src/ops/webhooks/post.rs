//! One POST to one receiver: what is sent, how long it may take, and what came back.
//!
//! The sender calls it. Invariants: it ends within [`WHOLE_DEADLINE`] and a little; of an answer's body no
//! more than [`MAX_DRAINED_BYTES`] are read and none is kept; nothing that it says holds the address's
//! path or query, or the secret.

use std::time::Duration;

use reqwest::header::{CONTENT_TYPE, RETRY_AFTER};
use reqwest::{Client, Response};
use tokio::time::timeout;

use super::signature::sign;
use crate::model::{Delivery, Timestamp, Webhook};
use crate::outbound;

const CONNECT_DEADLINE: Duration = Duration::from_secs(5);
/// From the begin to the head of the answer.
const WHOLE_DEADLINE: Duration = Duration::from_secs(10);
/// An answer's body is read so far that the connection can be used again.
const MAX_DRAINED_BYTES: usize = 64 * 1024;
const DRAIN_DEADLINE: Duration = Duration::from_secs(1);
/// A connection that waits for the next delivery.
const IDLE: Duration = Duration::from_secs(30);

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    Answer {
        status: u16,
        /// As it was sent.
        retry_after: Option<String>,
    },
    /// Why none came.
    None(String),
}

impl Reply {
    pub const fn status(&self) -> Option<u16> {
        match self {
            Self::Answer { status, .. } => Some(*status),
            Self::None(_) => None,
        }
    }
}

pub fn client() -> reqwest::Result<Client> {
    outbound::anywhere()
        .user_agent(concat!("cove/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(CONNECT_DEADLINE)
        .pool_max_idle_per_host(1)
        .pool_idle_timeout(IDLE)
        .build()
}

/// `now` is what the receiver reads as the time of this try.
pub async fn post(http: &Client, webhook: &Webhook, delivery: &Delivery, now: Timestamp) -> Reply {
    let (id, seconds) = (delivery.id.to_string(), now.as_millis() / 1_000);
    let body = delivery.body().to_string();
    let mut request = http
        .post(webhook.url())
        .header(CONTENT_TYPE, "application/json")
        .header("webhook-id", &id)
        .header("webhook-timestamp", seconds);
    if let Some(secret) = webhook.secret() {
        request = request.header("webhook-signature", sign(secret, &id, seconds, body.as_bytes()));
    }
    match timeout(WHOLE_DEADLINE, request.body(body).send()).await {
        Ok(Ok(response)) => answer(response).await,
        Ok(Err(error)) => Reply::None(why(error)),
        Err(_) => Reply::None(format!("no answer within {} s", WHOLE_DEADLINE.as_secs())),
    }
}

/// The head is the answer; how its body ends changes nothing.
async fn answer(mut response: Response) -> Reply {
    let status = response.status().as_u16();
    let retry_after = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let drain = async {
        let mut read = 0;
        while let Ok(Some(piece)) = response.chunk().await {
            read += piece.len();
            if read > MAX_DRAINED_BYTES {
                break;
            }
        }
    };
    if timeout(DRAIN_DEADLINE, drain).await.is_err() {
        tracing::debug!(status, "the body of an answer did not end");
    }
    Reply::Answer { status, retry_after }
}

/// reqwest's own words hold the whole address; the innermost cause is what a person can act on.
fn why(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut cause: &dyn std::error::Error = &error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    match (error.is_connect(), error.is_timeout()) {
        (true, true) => format!("no connection within {} s", CONNECT_DEADLINE.as_secs()),
        (true, false) => format!("no connection: {cause}"),
        (false, _) => format!("no answer: {cause}"),
    }
}
