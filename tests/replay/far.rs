//! A browser that is far away: a relay in front of its port that holds every answer back until nothing more is asked.
//!
//! What is asked without waiting for an answer is one round trip, however slow the machine is; a question that needs
//! an earlier answer is another one. So round trips are counted, and nothing is timed.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_tungstenite::tokio::{accept_async, connect_async};
use async_tungstenite::tungstenite::Message;
use cove::browser::Session;
use futures_util::StreamExt;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

/// Nothing was said for so long: whoever asks waits for an answer.
const QUIET: Duration = Duration::from_millis(300);

/// One command, as it was sent.
#[derive(Clone, Debug)]
pub struct Asked {
    pub session: Option<String>,
    pub method: String,
    pub text: String,
}

/// The relay of one connection; it ends with it.
pub struct Far {
    rounds: Arc<Mutex<Vec<Vec<Asked>>>>,
    _task: JoinSet<()>,
}

impl Far {
    /// From now on the session is reached through the relay, once.
    pub async fn put_before(session: &mut Session) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let browser = session.ws_url();
        session.port = listener.local_addr().unwrap().port();
        let rounds = Arc::new(Mutex::new(Vec::new()));
        let told = Arc::clone(&rounds);
        let mut task = JoinSet::new();
        task.spawn(async move { relay(&listener, &browser, &told).await });
        Self { rounds, _task: task }
    }

    /// What was asked in each round trip, after the one of the upgrade.
    pub fn rounds(&self) -> Vec<Vec<Asked>> {
        self.rounds.lock().unwrap().clone()
    }
}

async fn relay(listener: &TcpListener, browser: &str, rounds: &Mutex<Vec<Vec<Asked>>>) {
    let (stream, _) = listener.accept().await.unwrap();
    let mut client = accept_async(stream).await.unwrap();
    let (mut browser, _) = connect_async(browser).await.unwrap();
    let (mut held, mut answered) = (Vec::new(), true);
    loop {
        tokio::select! {
            asked = client.next() => {
                let Some(Ok(Message::Text(text))) = asked else { return };
                note(&text, &mut answered, &mut rounds.lock().unwrap());
                if browser.send(Message::Text(text)).await.is_err() {
                    return;
                }
            }
            said = browser.next() => {
                let Some(Ok(said)) = said else { return };
                held.push(said);
            }
            () = tokio::time::sleep(QUIET), if !held.is_empty() => {
                answered = true;
                for said in held.drain(..) {
                    if client.send(said).await.is_err() {
                        return;
                    }
                }
            }
        }
    }
}

fn note(text: &str, answered: &mut bool, rounds: &mut Vec<Vec<Asked>>) {
    let command: Value = serde_json::from_str(text).unwrap();
    if std::mem::take(answered) {
        rounds.push(Vec::new());
    }
    rounds.last_mut().unwrap().push(Asked {
        session: command["sessionId"].as_str().map(str::to_owned),
        method: command["method"].as_str().unwrap().to_owned(),
        text: text.to_owned(),
    });
}
