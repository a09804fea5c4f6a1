//! The host's socket: connections, the greeting, requests in, answers out.
//!
//! Run by the host; it knows the protocol and the session table, and nothing about browsers. Every
//! connection, line, request and write is bounded: a peer that sends half a line, floods, or does not
//! read is cut off and hurts nobody else. What a client asked for is done also when it goes away.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use tokio::io::AsyncWriteExt;
use tokio::net::unix::OwnedWriteHalf;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::lines::Lines;
use super::protocol::{Answer, Greeting, Hello, MAX_CALLS_PER_CONNECTION, Outcome, Request, VERSION, Welcome, line};
use super::sessions::Sessions;
use crate::model::{Failure, FailureCode};

/// Clients at a time; one daemon needs one.
const MAX_CONNECTIONS: usize = 32;
/// A client says hello within this, and reads an answer within this.
const PEER_DEADLINE: Duration = Duration::from_secs(5);
/// After an `accept` that failed, so that a machine without descriptors is not spun on.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves until it is dropped.
pub async fn serve(listener: UnixListener, sessions: Sessions) {
    let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    let permit = room.clone().try_acquire_owned().ok();
                    connections.spawn(connection(stream, sessions.clone(), permit));
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    sleep(ACCEPT_PAUSE).await;
                }
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn connection(stream: UnixStream, sessions: Sessions, permit: Option<OwnedSemaphorePermit>) {
    let (read, mut write) = stream.into_split();
    let mut lines = Lines::new(read);
    let greeting = match (&permit, timeout(PEER_DEADLINE, lines.next()).await) {
        (None, _) => refused(format!("the browser host has {MAX_CONNECTIONS} clients already")),
        (_, Ok(Ok(Some(text)))) => greet(&text),
        // Nothing said, or nothing that could be: no one to answer.
        (_, Ok(Err(_) | Ok(None)) | Err(_)) => return,
    };
    let welcome = matches!(greeting, Greeting::Welcome(_));
    if write_line(&mut write, &greeting).await.is_err() || !welcome {
        return;
    }
    let (answers, outbox) = mpsc::channel(MAX_CALLS_PER_CONNECTION);
    let mut writer = JoinSet::new();
    writer.spawn(write_answers(write, outbox));
    let mut calls = JoinSet::new();
    loop {
        tokio::select! {
            // A client that does not read its answers is cut off.
            Some(_) = writer.join_next() => return,
            Some(_) = calls.join_next() => {}
            read = lines.next() => {
                let text = match read {
                    Ok(Some(text)) => text,
                    // The client has said all, and may still be reading; what it asked for is done.
                    Ok(None) => break,
                    Err(error) => {
                        tracing::warn!(%error, "a client of the browser host is cut off");
                        return;
                    }
                };
                let answer = match serde_json::from_str::<Request>(&text) {
                    Ok(request) if calls.len() < MAX_CALLS_PER_CONNECTION => {
                        let (sessions, answers) = (sessions.clone(), answers.clone());
                        calls.spawn(async move {
                            let outcome = sessions.answer(request.call).await;
                            // The writer is gone only when the connection is.
                            let _ = answers.send(Answer { id: request.id, outcome }).await;
                        });
                        continue;
                    }
                    Ok(request) => Answer { id: request.id, outcome: too_many() },
                    Err(error) => not_understood(&text, &error),
                };
                if answers.send(answer).await.is_err() {
                    return;
                }
            }
        }
    }
    drop(answers);
    while calls.join_next().await.is_some() {}
    writer.join_next().await;
}

fn greet(text: &str) -> Greeting {
    match serde_json::from_str::<Hello>(text) {
        Ok(Hello { cove_browser_host: VERSION }) => {
            Greeting::Welcome(Welcome { cove_browser_host: VERSION, pid: std::process::id() })
        }
        Ok(Hello { cove_browser_host: theirs }) => refused(format!(
            "this browser host speaks version {VERSION} of the protocol and the client version {theirs}; restart the older of the two"
        )),
        Err(error) => refused(format!("the first line must be {{\"cove_browser_host\":{VERSION}}}: {error}")),
    }
}

fn refused(detail: String) -> Greeting {
    Greeting::Refused { error: Failure::new(FailureCode::ProviderDown, detail) }
}

fn too_many() -> Outcome {
    let detail = format!("{MAX_CALLS_PER_CONNECTION} calls of this client are under way already");
    Outcome::Error(Failure::new(FailureCode::ProviderDown, detail))
}

fn not_understood(text: &str, error: &serde_json::Error) -> Answer {
    #[derive(serde::Deserialize)]
    struct Id {
        id: u64,
    }
    let id = serde_json::from_str::<Id>(text).map_or(0, |known| known.id);
    let detail = format!("the browser host does not understand this call: {error}");
    Answer { id, outcome: Outcome::Error(Failure::new(FailureCode::Internal, detail)) }
}

async fn write_answers(mut write: OwnedWriteHalf, mut outbox: mpsc::Receiver<Answer>) {
    while let Some(answer) = outbox.recv().await {
        if write_line(&mut write, &answer).await.is_err() {
            return;
        }
    }
}

async fn write_line(write: &mut OwnedWriteHalf, message: &impl Serialize) -> std::io::Result<()> {
    let line = line(message).map_err(std::io::Error::other)?;
    match timeout(PEER_DEADLINE, write.write_all(line.as_bytes())).await {
        Ok(written) => written,
        Err(_) => Err(std::io::ErrorKind::TimedOut.into()),
    }
}
