//! One connection to a browser host: many calls at a time, each answered by its id.
//!
//! Owned by the provider, which opens another when this one broke. The invariant: every call ends, with
//! its answer or with `provider_down` when the connection is gone; one that is given up leaves nothing
//! behind here (on the host it may go on). Dropping the connection ends its tasks.

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::browser::host::lines::Lines;
use crate::browser::host::protocol::{Answer, Call, Greeting, Hello, Outcome, Request, VERSION, line};
use crate::model::{Failure, FailureCode};

/// Lines that wait to be written; whoever comes next waits for room within its own deadline.
const MAX_WAITING_LINES: usize = 16;

type Pending = Arc<Mutex<HashMap<u64, oneshot::Sender<Outcome>>>>;

pub struct Connection {
    next_id: AtomicU64,
    outbox: mpsc::Sender<String>,
    pending: Pending,
    /// Cancelled when either direction ended.
    closed: CancellationToken,
    _tasks: JoinSet<()>,
}

/// Forgets a call however its wait ends.
struct Waiting<'a> {
    pending: &'a Pending,
    id: u64,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.id);
    }
}

impl Connection {
    /// Connects and greets; the caller bounds it in time.
    ///
    /// # Errors
    /// `provider_down`, when nobody listens or the two versions do not fit.
    pub async fn open(socket: &Path) -> Result<Self, Failure> {
        let shown = socket.display();
        let stream = UnixStream::connect(socket)
            .await
            .map_err(|error| down(format!("the browser host cannot be reached on {shown}: {error}")))?;
        let (read, mut write) = stream.into_split();
        let mut lines = Lines::new(read);
        let hello = line(&Hello { cove_browser_host: VERSION }).map_err(down)?;
        let broke = |error| down(format!("the browser host on {shown} broke off the greeting: {error}"));
        write.write_all(hello.as_bytes()).await.map_err(broke)?;
        let greeting = lines.next().await.map_err(broke)?.unwrap_or_default();
        match serde_json::from_str(&greeting) {
            Ok(Greeting::Welcome(welcome)) if welcome.cove_browser_host == VERSION => Ok(Self::over(lines, write)),
            Ok(Greeting::Welcome(welcome)) => Err(down(format!(
                "the browser host on {shown} speaks version {} of the protocol, this daemon version {VERSION}; restart the older of the two",
                welcome.cove_browser_host
            ))),
            Ok(Greeting::Refused { error }) => Err(down(error.detail)),
            Err(_) => Err(down(format!("what listens on {shown} is not a browser host"))),
        }
    }

    fn over(
        lines: Lines<impl AsyncRead + Unpin + Send + 'static>,
        write: impl AsyncWrite + Unpin + Send + 'static,
    ) -> Self {
        let pending = Pending::default();
        let closed = CancellationToken::new();
        let (outbox, waiting) = mpsc::channel(MAX_WAITING_LINES);
        let mut tasks = JoinSet::new();
        tasks.spawn(write_lines(write, waiting, closed.clone()));
        tasks.spawn(read_answers(lines, pending.clone(), closed.clone()));
        Self { next_id: AtomicU64::new(1), outbox, pending, closed, _tasks: tasks }
    }

    #[must_use]
    pub fn is_open(&self) -> bool {
        !self.closed.is_cancelled()
    }

    /// Sends one call and waits for its answer; the caller bounds it in time.
    ///
    /// # Errors
    /// `provider_down`, when the connection is gone before the answer.
    pub async fn call(&self, call: Call) -> Result<Outcome, Failure> {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let text = line(&Request { id, call })
            .map_err(|error| Failure::new(FailureCode::Internal, format!("the call cannot be written: {error}")))?;
        let (tell, told) = oneshot::channel();
        self.pending.lock().unwrap_or_else(PoisonError::into_inner).insert(id, tell);
        let _waiting = Waiting { pending: &self.pending, id };
        let gone = || down("the connection to the browser host broke during the call");
        self.outbox.send(text).await.map_err(|_| gone())?;
        tokio::select! {
            // An answer that is here counts, also when the connection ended right behind it.
            biased;
            answer = told => answer.map_err(|_| gone()),
            () = self.closed.cancelled() => Err(gone()),
        }
    }
}

async fn write_lines(
    mut write: impl AsyncWrite + Unpin,
    mut waiting: mpsc::Receiver<String>,
    closed: CancellationToken,
) {
    let _closes = closed.drop_guard();
    while let Some(line) = waiting.recv().await {
        if let Err(error) = write.write_all(line.as_bytes()).await {
            tracing::warn!(%error, "the browser host does not listen any more");
            return;
        }
    }
}

async fn read_answers(mut lines: Lines<impl AsyncRead + Unpin>, pending: Pending, closed: CancellationToken) {
    let _closes = closed.drop_guard();
    loop {
        let text = match lines.next().await {
            Ok(Some(text)) => text,
            Ok(None) => return,
            Err(error) => {
                tracing::warn!(%error, "the connection to the browser host broke");
                return;
            }
        };
        match serde_json::from_str::<Answer>(&text) {
            Ok(answer) => {
                let waiting = pending.lock().unwrap_or_else(PoisonError::into_inner).remove(&answer.id);
                // Nobody waits for an answer that came too late.
                let _ = waiting.map(|waiting| waiting.send(answer.outcome));
            }
            Err(error) => {
                tracing::warn!(%error, "the browser host sent what is not an answer");
                return;
            }
        }
    }
}

fn down(detail: impl Into<String>) -> Failure {
    Failure::new(FailureCode::ProviderDown, detail)
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::{Connection, Lines};
    use crate::browser::host::protocol::{Call, Outcome};
    use crate::model::FailureCode;

    #[tokio::test]
    async fn answers_find_their_calls_in_any_order() {
        let (near, far) = tokio::io::duplex(4096);
        let (read, write) = tokio::io::split(near);
        let connection = Connection::over(Lines::new(read), write);
        let peer = async {
            let (read, mut write) = tokio::io::split(far);
            let mut lines = Lines::new(read);
            let (one, two) = (lines.next().await.unwrap().unwrap(), lines.next().await.unwrap().unwrap());
            assert!(one.contains("\"id\":1") && two.contains("\"id\":2"), "{one} {two}");
            write.write_all(b"{\"id\":2,\"ok\":2}\n{\"id\":9,\"ok\":null}\n{\"id\":1,\"ok\":1}\n").await.unwrap();
        };
        let (first, second, ()) = tokio::join!(connection.call(Call::Running), connection.call(Call::Running), peer);
        assert_eq!((first.unwrap(), second.unwrap()), (Outcome::Ok(json!(1)), Outcome::Ok(json!(2))));
    }

    #[tokio::test]
    async fn a_broken_connection_ends_every_call_and_a_call_given_up_is_forgotten() {
        let (near, mut far) = tokio::io::duplex(4096);
        let (read, write) = tokio::io::split(near);
        let connection = Connection::over(Lines::new(read), write);
        tokio::select! {
            biased;
            _ = connection.call(Call::Running) => unreachable!("nobody answers"),
            () = tokio::task::yield_now() => {}
        }
        assert!(connection.pending.lock().unwrap().is_empty());
        let hang_up = async {
            let mut byte = [0];
            far.read_exact(&mut byte).await.unwrap();
            drop(far);
        };
        let (lost, ()) = tokio::join!(connection.call(Call::Running), hang_up);
        assert_eq!(lost.unwrap_err().code, FailureCode::ProviderDown);
        assert!(!connection.is_open());
    }
}
