//! `GET /api/v1/events`: what happens, as server-sent events.
//!
//! Each listener holds its place in the store's [feed](crate::store::feed) and nothing else: a slow one costs no
//! memory, and one that fell behind the feed is told `resync` once and goes on from its end. Invariants: at most
//! [`MAX_LISTENERS`], each with one of the [`Places`](super::places) of those who wait; a listener whose token may no
//! longer read is told nothing more, and one whose token is revoked ends at once; all end with the server. `Last-Event-ID` of another run, or one that
//! nobody gave out, is behind: the lists say what was missed.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::{Response, StatusCode};
use serde_json::{Value, json};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::sync::CancellationToken;

use super::body::Reply;
use super::error::{ApiError, Code};
use super::form::Walk;
use super::front::Call;
use super::keyring::Caller;
use super::places::{Place, Places};
use super::query::Query;
use super::{Context, wire};
use crate::model::{TaskId, TokenId};
use crate::store::feed::FeedPlace;
use crate::store::{Feed, News};

/// Listeners at a time.
pub const MAX_LISTENERS: usize = 1_000;
/// Without news a comment is sent so often: a proxy keeps the connection, and one that is gone is noticed.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// What happens so close together is told together: many listeners do not wake for each of many commits.
const GATHER: Duration = Duration::from_millis(25);
/// News looked at in one go.
const BATCH: usize = 256;
/// How long a client waits before it connects again, as it is told.
const RETRY_MS: u32 = 2_000;

/// Room for listeners, and their common end.
pub struct Listeners {
    room: Arc<Semaphore>,
    closing: CancellationToken,
}

impl Default for Listeners {
    fn default() -> Self {
        Self { room: Arc::new(Semaphore::new(MAX_LISTENERS)), closing: CancellationToken::new() }
    }
}

impl Listeners {
    fn enter(&self, places: &Places, token: Option<TokenId>) -> Result<(OwnedSemaphorePermit, Place), ApiError> {
        let full = |detail| {
            let soon = HeaderValue::from_static("10");
            ApiError::new(Code::TooManyListeners, detail).with_header(header::RETRY_AFTER, soon)
        };
        let room = Arc::clone(&self.room).try_acquire_owned();
        let room = room.map_err(|_| full(format!("{MAX_LISTENERS} programs listen already, which is the most.")))?;
        Ok((room, places.take(token).map_err(|all| full(all.told()))?))
    }

    /// Ends all of them.
    pub fn close(&self) {
        self.closing.cancel();
    }
}

/// One of them.
struct Listener {
    context: Arc<Context>,
    caller: Caller,
    /// Told is what this task's log says, and no more.
    task: Option<TaskId>,
    /// None: it has missed something.
    place: Option<FeedPlace>,
    greeted: bool,
    growth: watch::Receiver<u64>,
    _room: (OwnedSemaphorePermit, Place),
}

pub async fn listen(context: Arc<Context>, call: Call) -> Result<Response<Reply>, ApiError> {
    let mut walk = Walk::default();
    let query = Query::read(&call.head.uri, &["task"], &mut walk);
    let task = query.parsed("task", &mut walk, "the id of a task", |text| text.parse().ok());
    if let Some(id) = task
        && context.store.task_alone(id).await?.is_none()
    {
        walk.wrong(Code::InvalidField, "task", "There is no task with this id.");
    }
    walk.finish()?;
    let room = context.listeners.enter(&context.places, call.caller.token)?;
    let headers = &call.head.headers;
    let (place, growth) = (first_place(headers, context.store.feed()), context.store.feed().growth());
    let listener = Listener { context, caller: call.caller, task, place, greeted: false, growth, _room: room };
    let frames = stream::unfold(listener, |mut listener| async move {
        let text = listener.next().await?;
        Some((Ok::<_, io::Error>(Frame::data(Bytes::from(text))), listener))
    });
    let mut response = Response::new(StreamBody::new(frames).boxed_unsync());
    *response.status_mut() = StatusCode::OK;
    let fixed = [
        (header::CONTENT_TYPE, "text/event-stream"),
        // A proxy in front passes on what is there.
        (HeaderName::from_static("x-accel-buffering"), "no"),
    ];
    for (name, value) in fixed {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    Ok(response)
}

/// Where to begin: behind what the client has seen, or now.
fn first_place(headers: &HeaderMap, feed: &Feed) -> Option<FeedPlace> {
    let Some(seen) = headers.get("last-event-id").filter(|seen| !seen.is_empty()) else { return Some(feed.end()) };
    seen.to_str().ok()?.parse().ok()
}

impl Listener {
    /// What is sent next; None: it ends.
    async fn next(&mut self) -> Option<String> {
        if !std::mem::replace(&mut self.greeted, true) {
            return Some(format!("retry: {RETRY_MS}\n\n"));
        }
        let closing = self.context.listeners.closing.clone();
        let heartbeat = Instant::now() + HEARTBEAT;
        loop {
            let may = self.context.keyring.check(&self.caller, self.context.clock.now());
            if closing.is_cancelled() || may.is_err() {
                return None;
            }
            self.growth.borrow_and_update();
            let news = self.news();
            if !news.is_empty() {
                return Some(news);
            }
            tokio::select! {
                () = closing.cancelled() => return None,
                () = self.context.keyring.revoked(self.caller.hash) => return None,
                grown = timeout_at(heartbeat, self.growth.changed()) => match grown {
                    Ok(Ok(())) => sleep(GATHER).await,
                    Ok(Err(_)) => return None,
                    Err(_) => return Some(": heartbeat\n\n".to_owned()),
                }
            }
        }
    }

    /// What was told since, as far as it is for this one.
    fn news(&mut self) -> String {
        let feed = self.context.store.feed();
        let mut text = String::new();
        while text.is_empty() {
            let Some(Ok(news)) = self.place.map(|place| feed.after(place, BATCH)) else {
                let end = feed.end();
                self.place = Some(end);
                let detail = "Events were missed: read the lists anew. What follows is complete again.";
                return event(end, "resync", &json!({"detail": detail}));
            };
            let Some((last, _)) = news.last() else { break };
            self.place = Some(*last);
            for (place, news) in &news {
                if self.wants(news) {
                    let (kind, json) = wire::news(news);
                    text += &event(*place, kind, &json);
                }
            }
        }
        text
    }

    fn wants(&self, news: &News) -> bool {
        match (self.task, news) {
            (None, _) => true,
            (Some(wanted), News::Line { task, .. }) => *task == wanted,
            (Some(_), News::Engine { .. } | News::Breaker { .. }) => false,
        }
    }
}

/// JSON has no line breaks of its own.
fn event(place: FeedPlace, kind: &str, data: &Value) -> String {
    format!("id: {place}\nevent: {kind}\ndata: {data}\n\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_begins_now_or_where_it_was_or_has_missed_something() {
        let feed = Feed::new(3);
        let mut headers = HeaderMap::new();
        assert_eq!(first_place(&headers, &feed), Some(feed.end()));
        headers.insert("last-event-id", HeaderValue::from_static(""));
        assert_eq!(first_place(&headers, &feed), Some(feed.end()));
        headers.insert("last-event-id", HeaderValue::from_static("00000003-0"));
        assert_eq!(first_place(&headers, &feed), Some(feed.end()));
        for forged in ["7", "x-1", "00000003-", "\u{fe}"] {
            headers.insert("last-event-id", HeaderValue::from_bytes(forged.as_bytes()).unwrap());
            assert_eq!(first_place(&headers, &feed), None, "{forged}");
        }
    }

    #[test]
    fn listeners_leave_room_for_questions() {
        let (listeners, places) = (Listeners::default(), Places::new(8));
        let inside: Vec<_> = (0..4).map(|_| listeners.enter(&places, None).unwrap()).collect();
        assert_eq!(listeners.enter(&places, None).err().unwrap().code(), Code::TooManyListeners);
        drop(inside);
        assert!(listeners.enter(&places, None).is_ok());
        let (listeners, places) = (Listeners::default(), Places::new(65_536));
        let inside: Vec<_> = (0..MAX_LISTENERS).map(|_| listeners.enter(&places, None).unwrap()).collect();
        assert_eq!(listeners.enter(&places, None).err().unwrap().code(), Code::TooManyListeners);
        drop(inside);
    }
}
