//! One WebSocket to one browser: commands with their answers, and events for those who listen.
//!
//! The attachment (`cdp.rs`) speaks through it, and so does what watches its page. Many commands can be under way
//! together, in the order in which they were asked, each sent once; who listens hears all that comes from then on.
//! It has no deadlines: its callers bound every call, and a call that was dropped is forgotten.
//!
//! chromiumoxide gives the words of the protocol alone. Its handler asks every page a dozen questions, one after
//! another, before it lets the first command of ours through: that is paid at each start of a browser, and by the
//! round trip where the browser is slow. Nothing here knows pages, frames or navigations.

use std::borrow::Cow;
use std::collections::HashMap;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_tungstenite::tokio::{TokioAdapter, client_async_with_config};
use async_tungstenite::tungstenite::protocol::WebSocketConfig;
use async_tungstenite::tungstenite::{Error as SocketError, Message};
use async_tungstenite::{WebSocketReceiver, WebSocketSender};
use chromiumoxide::cdp::browser_protocol::target::SessionId;
use chromiumoxide::types::Error as Refusal;
use chromiumoxide::{Command, MethodType};
use futures_util::{SinkExt, StreamExt};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::Trouble;
use super::watch::PAGE_CRASHED;

/// For one answer: a picture of a long page has some megabytes.
const MAX_MESSAGE_BYTES: usize = 256 * 1024 * 1024;
/// Commands between their callers and the socket; a caller waits where there is no room.
const OUTBOX: usize = 64;
/// Events between the socket and a listener. What does not fit is dropped: it is only good to know, or is a request
/// that then stays paused.
const UNHEARD: usize = 1_024;
/// Chromium's words for a page that is no more.
const TARGET_CRASHED: &str = "Target crashed";
const SESSION_NOT_FOUND: i64 = -32001;

type Stream = TokioAdapter<TcpStream>;
type Answer = Result<Value, Refusal>;

/// The connection; its two tasks belong to whoever connected.
#[derive(Clone)]
pub(super) struct Wire {
    shared: Arc<Shared>,
    outbox: mpsc::Sender<String>,
    closed: CancellationToken,
}

#[derive(Default)]
struct Shared {
    asked: AtomicU64,
    /// One for each call that is waited for.
    waiting: Mutex<HashMap<u64, oneshot::Sender<Answer>>>,
    listeners: Mutex<Vec<Listener>>,
}

struct Listener {
    /// None: the browser's own.
    session: Option<SessionId>,
    method: Cow<'static, str>,
    tell: mpsc::Sender<Value>,
}

/// An answer has an id, an event a method.
#[derive(Deserialize)]
struct Incoming {
    id: Option<u64>,
    method: Option<String>,
    #[serde(rename = "sessionId")]
    session: Option<String>,
    #[serde(default)]
    params: Value,
    #[serde(default)]
    result: Value,
    error: Option<Refusal>,
}

/// What one listener hears; the newest are missing where it does not keep up.
pub(super) struct Events<E> {
    heard: mpsc::Receiver<Value>,
    of: PhantomData<fn() -> E>,
}

impl<E: DeserializeOwned> Events<E> {
    /// None when the connection is gone.
    pub async fn next(&mut self) -> Option<E> {
        loop {
            match serde_json::from_value(self.heard.recv().await?) {
                Ok(event) => return Some(event),
                // Neither its text nor the error is told: both may quote what a page holds.
                Err(error) => tracing::debug!(why = ?error.classify(), "an event of another version of the protocol"),
            }
        }
    }
}

/// A call that is not waited for any more, by whatever way.
struct Waiting<'a> {
    shared: &'a Shared,
    id: u64,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.shared.waiting().remove(&self.id);
    }
}

impl Shared {
    fn waiting(&self) -> MutexGuard<'_, HashMap<u64, oneshot::Sender<Answer>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn listeners(&self) -> MutexGuard<'_, Vec<Listener>> {
        self.listeners.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, text: &str) {
        let Incoming { id, method, session, params, result, error } = match serde_json::from_str(text) {
            Ok(incoming) => incoming,
            Err(error) => return tracing::debug!(why = ?error.classify(), "a message that is none of the protocol"),
        };
        if let Some(id) = id {
            if let Some(tell) = self.waiting().remove(&id) {
                // Whoever asked may have gone meanwhile.
                let _gone = tell.send(error.map_or(Ok(result), Err));
            }
            return;
        }
        let Some(method) = method else { return };
        self.listeners().retain(|listener| {
            if listener.method != method || listener.session.as_ref().map(SessionId::inner) != session.as_ref() {
                return true;
            }
            match listener.tell.try_send(params.clone()) {
                Ok(()) => true,
                Err(mpsc::error::TrySendError::Full(_)) => {
                    tracing::debug!(method, "a listener does not keep up: an event is dropped");
                    true
                }
                Err(mpsc::error::TrySendError::Closed(_)) => false,
            }
        });
    }
}

impl Wire {
    /// `closed` is cancelled when the connection ends.
    pub async fn connect(
        port: u16,
        ws_url: &str,
        closed: &CancellationToken,
        tasks: &mut JoinSet<()>,
    ) -> Result<Self, SocketError> {
        let stream = TcpStream::connect(("127.0.0.1", port)).await?;
        // What is asked together must not wait for the acknowledgement of what was asked first.
        stream.set_nodelay(true)?;
        let config = WebSocketConfig::default()
            .max_message_size(Some(MAX_MESSAGE_BYTES))
            .max_frame_size(Some(MAX_MESSAGE_BYTES));
        let (socket, _) = client_async_with_config(ws_url, stream, Some(config)).await?;
        let (sink, messages) = socket.split();
        let shared = Arc::new(Shared::default());
        let (outbox, orders) = mpsc::channel(OUTBOX);
        tasks.spawn(send(sink, orders, closed.clone()));
        tasks.spawn(receive(messages, Arc::clone(&shared), closed.clone()));
        Ok(Self { shared, outbox, closed: closed.clone() })
    }

    /// From now on; `session` is a page's, None the browser's own.
    pub fn listen<E: MethodType + DeserializeOwned>(&self, session: Option<&SessionId>) -> Events<E> {
        let (tell, heard) = mpsc::channel(UNHEARD);
        self.shared.listeners().push(Listener { session: session.cloned(), method: E::method_id(), tell });
        Events { heard, of: PhantomData }
    }

    /// One command, sent once.
    pub async fn call<C: Command>(&self, session: Option<&SessionId>, command: C) -> Result<C::Response, Trouble> {
        let id = self.shared.asked.fetch_add(1, Ordering::Relaxed);
        let unsaid = |error: serde_json::Error| Trouble::Refused(format!("a command that cannot be written: {error}"));
        let params = serde_json::to_value(&command).map_err(unsaid)?;
        let mut message = json!({"id": id, "method": command.identifier(), "params": params});
        if let Some(session) = session {
            message["sessionId"] = session.inner().as_str().into();
        }
        let (tell, answer) = oneshot::channel();
        self.shared.waiting().insert(id, tell);
        let _waiting = Waiting { shared: &self.shared, id };
        let gone = || Trouble::Lost("its connection closed".to_owned());
        let answer = tokio::select! {
            biased;
            answer = async {
                self.outbox.send(message.to_string()).await.map_err(|_| gone())?;
                answer.await.map_err(|_| gone())
            } => answer?,
            () = self.closed.cancelled() => return Err(gone()),
        };
        let result = answer.map_err(trouble)?;
        C::response_from_value(result).map_err(|error| Trouble::Refused(format!("an answer of another kind: {error}")))
    }
}

fn trouble(refusal: Refusal) -> Trouble {
    match refusal {
        // What was under way when the page crashed is answered before the crash is told.
        refusal if refusal.message == TARGET_CRASHED => Trouble::Lost(PAGE_CRASHED.to_owned()),
        refusal if refusal.code == SESSION_NOT_FOUND => Trouble::Lost("its page was closed".to_owned()),
        refusal => Trouble::Refused(refusal.to_string()),
    }
}

/// What waits together goes out together.
async fn send(mut sink: WebSocketSender<Stream>, mut orders: mpsc::Receiver<String>, closed: CancellationToken) {
    while let Some(order) = orders.recv().await {
        let mut sent = sink.feed(Message::text(order)).await;
        while sent.is_ok() {
            let Ok(order) = orders.try_recv() else { break };
            sent = sink.feed(Message::text(order)).await;
        }
        if sent.is_ok() {
            sent = sink.flush().await;
        }
        if let Err(error) = sent {
            tracing::debug!(%error, "the browser takes no more commands");
            return closed.cancel();
        }
    }
}

/// Ends with the connection, and ends all who wait with it.
async fn receive(mut messages: WebSocketReceiver<Stream>, shared: Arc<Shared>, closed: CancellationToken) {
    let _closed = closed.drop_guard();
    loop {
        match messages.next().await {
            Some(Ok(Message::Text(text))) => shared.take(&text),
            // A pong is written by the library itself.
            Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Binary(_) | Message::Frame(_))) => {}
            Some(Ok(Message::Close(_))) | None => return,
            Some(Err(error)) => {
                tracing::debug!(%error, "the connection to the browser ended");
                return;
            }
        }
    }
}
