//! What the page says beside the steps: console errors, failed requests, dialogs, and that it crashed.
//!
//! Kept bounded, for the evidence. A dialog is accepted (an alert has one answer; a confirm is what the
//! recorded click asked for; a beforeunload would keep the page), and noted.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use chromiumoxide::cdp::browser_protocol::inspector::{EnableParams as EnableInspector, EventTargetCrashed};
use chromiumoxide::cdp::browser_protocol::log::{EnableParams as EnableLog, EventEntryAdded, LogEntryLevel};
use chromiumoxide::cdp::browser_protocol::network::{
    EnableParams as EnableNetwork, EventLoadingFailed, EventRequestWillBeSent, EventResponseReceived, ResourceType,
};
use chromiumoxide::cdp::browser_protocol::page::{
    EnableParams as EnablePage, EventJavascriptDialogOpening, HandleJavaScriptDialogParams,
};
use chromiumoxide::cdp::browser_protocol::target::SessionId;
use chromiumoxide::cdp::js_protocol::runtime::{
    ConsoleApiCalledType, EnableParams as EnableRuntime, EventConsoleApiCalled, EventExceptionThrown,
};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::Trouble;
use super::wire::Wire;

/// Lines kept of one attempt.
const MAX_LINES: usize = 500;
const MAX_TEXT_BYTES: usize = 1_000;
/// Requests whose addresses are remembered until they fail.
const MAX_REQUESTS: usize = 500;
const FIRST_BAD_STATUS: i64 = 400;
pub(super) const PAGE_CRASHED: &str = "its page crashed";

/// Lines for `console.jsonl`, and why the last document did not load.
#[derive(Clone, Default)]
pub struct Observed {
    lines: Arc<Mutex<Vec<Value>>>,
    failed_document: Arc<Mutex<Option<String>>>,
}

impl Observed {
    pub(super) fn add(&self, line: Value) {
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.len() < MAX_LINES {
            lines.push(line);
        }
    }

    /// The network's word for a document that did not load, such as `net::ERR_CONNECTION_REFUSED`.
    pub fn failed_document(&self) -> Option<String> {
        self.failed_document.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn forget_failed_document(&self) {
        self.set_failed_document(None);
    }

    fn set_failed_document(&self, why: Option<String>) {
        *self.failed_document.lock().unwrap_or_else(PoisonError::into_inner) = why;
    }

    pub fn take(&self) -> Vec<Value> {
        std::mem::take(&mut *self.lines.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Whether the page's process ended under it.
#[derive(Clone, Default)]
pub(super) struct Crashed(Arc<AtomicBool>);

impl Crashed {
    pub fn has(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// A page that crashed answers nothing any more, and the browser keeps the connection open: it is lost all the same.
pub(super) fn listen_for_a_crash(
    wire: &Wire,
    page: &SessionId,
    crashed: &Crashed,
    lost: &CancellationToken,
    tasks: &mut JoinSet<()>,
) {
    let mut crashes = wire.listen::<EventTargetCrashed>(Some(page));
    let (crashed, lost) = (crashed.clone(), lost.clone());
    tasks.spawn(async move {
        if crashes.next().await.is_some() {
            crashed.0.store(true, Ordering::Release);
            lost.cancel();
        }
    });
}

/// An address without its query, which may hold secrets.
pub fn without_query(url: &str) -> &str {
    url.split(['?', '#']).next().unwrap_or_default()
}

pub(super) fn bounded(text: &str) -> &str {
    &text[..text.floor_char_boundary(MAX_TEXT_BYTES.min(text.len()))]
}

/// Asks the page to tell what is listened for, all of it at once.
pub(super) async fn enable(wire: &Wire, page: &SessionId) -> Result<(), Trouble> {
    tokio::try_join!(
        wire.call(Some(page), EnablePage::default()),
        wire.call(Some(page), EnableNetwork::default()),
        wire.call(Some(page), EnableRuntime::default()),
        wire.call(Some(page), EnableLog::default()),
        wire.call(Some(page), EnableInspector::default()),
    )?;
    Ok(())
}

/// Notes what the page tells, once it is asked to ([`enable`]), and answers its dialogs.
pub(super) fn listen(wire: &Wire, page: &SessionId, observed: &Observed, tasks: &mut JoinSet<()>) {
    answer_dialogs(wire, page, observed, tasks);
    let mut calls = wire.listen::<EventConsoleApiCalled>(Some(page));
    let noted = observed.clone();
    tasks.spawn(async move {
        while let Some(call) = calls.next().await {
            if call.r#type == ConsoleApiCalledType::Error {
                let parts: Vec<_> = call
                    .args
                    .iter()
                    .filter_map(|part| match &part.value {
                        Some(Value::String(text)) => Some(text.clone()),
                        Some(value) => Some(value.to_string()),
                        None => part.description.clone(),
                    })
                    .collect();
                noted.add(json!({"kind": "console", "text": bounded(&parts.join(" "))}));
            }
        }
    });
    let mut thrown = wire.listen::<EventExceptionThrown>(Some(page));
    let noted = observed.clone();
    tasks.spawn(async move {
        while let Some(event) = thrown.next().await {
            noted.add(json!({"kind": "exception", "text": bounded(&super::thrown(&event.exception_details))}));
        }
    });
    let mut entries = wire.listen::<EventEntryAdded>(Some(page));
    let noted = observed.clone();
    tasks.spawn(async move {
        while let Some(event) = entries.next().await {
            let entry = &event.entry;
            if entry.level == LogEntryLevel::Error {
                let url = entry.url.as_deref().map(without_query);
                noted.add(json!({"kind": "log", "text": bounded(&entry.text), "url": url}));
            }
        }
    });
    note_bad_answers(wire, page, observed, tasks);
    note_failed_requests(wire, page, observed, tasks);
}

fn note_bad_answers(wire: &Wire, page: &SessionId, observed: &Observed, tasks: &mut JoinSet<()>) {
    let mut answers = wire.listen::<EventResponseReceived>(Some(page));
    let noted = observed.clone();
    tasks.spawn(async move {
        while let Some(event) = answers.next().await {
            if event.response.status >= FIRST_BAD_STATUS {
                let url = without_query(&event.response.url);
                noted.add(json!({"kind": "response", "status": event.response.status, "url": url}));
            }
        }
    });
}

/// A failure names its request by id alone: the addresses of those under way are remembered, the newest of them.
fn note_failed_requests(wire: &Wire, page: &SessionId, observed: &Observed, tasks: &mut JoinSet<()>) {
    let mut requests = wire.listen::<EventRequestWillBeSent>(Some(page));
    let mut failures = wire.listen::<EventLoadingFailed>(Some(page));
    let noted = observed.clone();
    tasks.spawn(async move {
        let mut under_way = VecDeque::new();
        loop {
            tokio::select! {
                // A request is told before its failure: what waits here first is read first.
                biased;
                Some(request) = requests.next() => {
                    if under_way.len() == MAX_REQUESTS {
                        under_way.pop_front();
                    }
                    let url = bounded(without_query(&request.request.url)).to_owned();
                    under_way.push_back((request.request_id.clone(), url));
                }
                Some(event) = failures.next() => {
                    let of_it = under_way.iter().rposition(|(id, _)| *id == event.request_id);
                    let url = of_it.and_then(|at| under_way.remove(at)).map(|(_, url)| url);
                    noted.add(json!({"kind": "request_failed", "text": bounded(&event.error_text), "url": url}));
                    if event.r#type == ResourceType::Document {
                        noted.set_failed_document(Some(bounded(&event.error_text).to_owned()));
                    }
                }
                else => return,
            }
        }
    });
}

fn answer_dialogs(wire: &Wire, page: &SessionId, observed: &Observed, tasks: &mut JoinSet<()>) {
    let mut dialogs = wire.listen::<EventJavascriptDialogOpening>(Some(page));
    let (noted, wire, page) = (observed.clone(), wire.clone(), page.clone());
    tasks.spawn(async move {
        while let Some(dialog) = dialogs.next().await {
            noted.add(json!({"kind": "dialog", "text": bounded(&dialog.message)}));
            if let Err(error) = wire.call(Some(&page), HandleJavaScriptDialogParams::new(true)).await {
                tracing::debug!(%error, "a dialog was not answered");
            }
        }
    });
}
