//! The `chromium` provider: a client of the browser host.
//!
//! The daemon composes it, the engine calls it through [`Provider`]. Two ways to a host: a service that
//! listens on a socket, or a child that is started here and ends with this process. Trouble with the
//! host itself is `provider_down` and costs no attempt; everything else is what the host answered. A
//! call that fails here may have happened there: who starts must be ready to `stop`. No browser is
//! started in this process.

mod child;
mod connection;
mod launches;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde::de::DeserializeOwned;
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep, timeout_at};

use super::host::HostOptions;
use super::host::protocol::{Call, Outcome};
use super::{Provider, Session, SessionStats, StartGate, StartOptions};
use crate::model::{Failure, FailureCode, ProfileId};
use child::Child;
use connection::Connection;
use launches::Launches;

const START_DEADLINE: Duration = Duration::from_mins(1);
const STOP_DEADLINE: Duration = Duration::from_secs(20);
const QUICK_DEADLINE: Duration = Duration::from_secs(5);
/// For a child to wait for the folder's lock, close what an earlier host left, and answer.
const READY_DEADLINE: Duration = Duration::from_secs(20);
const LOOK_FOR_READY_EVERY: Duration = Duration::from_millis(20);
/// Where a child listens when its options do not say.
const CHILD_SOCKET: &str = ".host.sock";

/// Speaks to a browser host over its unix socket, through one connection for all calls.
pub struct ChromiumProvider {
    socket: PathBuf,
    /// Made at the first call, and again after it broke.
    connection: Mutex<Option<Arc<Connection>>>,
    child: Option<Child>,
    launches: Launches,
}

impl ChromiumProvider {
    /// A host that runs as a service of its own.
    #[must_use]
    pub fn connect(socket: PathBuf) -> Self {
        Self { socket, connection: Mutex::new(None), child: None, launches: Launches::default() }
    }

    /// While a start is on its way, the next one begins so much later.
    #[must_use]
    pub fn with_start_gap(self, gap: Duration) -> Self {
        Self { launches: Launches::with_gap(gap), ..self }
    }

    /// Starts `executable browser-host` as a child; it is started again if it dies, and ends with this
    /// process (end of file on its stdin). Does not wait for it: the first call does, within its deadline.
    ///
    /// # Errors
    /// When the child cannot be started.
    pub fn spawn_child(executable: &Path, mut options: HostOptions) -> Result<Self, Failure> {
        options.until_stdin_ends = true;
        let socket = options.socket.get_or_insert_with(|| options.profiles_dir.join(CHILD_SOCKET)).clone();
        let child = Child::start(executable, &options)?;
        Ok(Self { child: Some(child), ..Self::connect(socket) })
    }

    /// A connection; to a child that is still coming up, within `deadline`.
    async fn ready(&self, deadline: Instant) -> Result<Arc<Connection>, Failure> {
        loop {
            let failure = match self.connected(deadline).await {
                Ok(connection) => return Ok(connection),
                Err(failure) => failure,
            };
            let Some(child) = &self.child else { return Err(failure) };
            // It may have ended since: then its end is why nobody listens.
            if let Some(trouble) = child.trouble() {
                return Err(down(trouble));
            }
            if Instant::now() >= deadline {
                return Err(failure);
            }
            sleep(LOOK_FOR_READY_EVERY).await;
        }
    }

    async fn connected(&self, deadline: Instant) -> Result<Arc<Connection>, Failure> {
        if let Some(trouble) = self.child.as_ref().and_then(Child::trouble) {
            return Err(down(trouble));
        }
        // Whoever comes while another connects waits for that connection, within its own deadline.
        let late = |_| down(format!("the browser host on {} does not answer", self.socket.display()));
        let mut current = timeout_at(deadline, self.connection.lock()).await.map_err(late)?;
        if let Some(connection) = current.as_ref().filter(|connection| connection.is_open()) {
            return Ok(connection.clone());
        }
        let fresh = timeout_at(deadline, Connection::open(&self.socket)).await.map_err(late)??;
        Ok(current.insert(Arc::new(fresh)).clone())
    }

    async fn call<T: DeserializeOwned>(&self, call: Call, within: Duration) -> Result<T, Failure> {
        let deadline = Instant::now() + within;
        let connection = self.ready(Instant::now() + within.min(READY_DEADLINE)).await?;
        let outcome = match timeout_at(deadline, connection.call(call)).await {
            Ok(outcome) => outcome.map_err(|failure| match self.child.as_ref().and_then(Child::trouble) {
                Some(trouble) => down(trouble),
                None => failure,
            })?,
            Err(_) => return Err(down(format!("the browser host did not answer within {} s", within.as_secs()))),
        };
        match outcome {
            Outcome::Ok(answer) => serde_json::from_value(answer)
                .map_err(|error| down(format!("the browser host answered what this version does not know: {error}"))),
            Outcome::Error(failure) => Err(failure),
        }
    }
}

fn down(detail: impl Into<String>) -> Failure {
    Failure::new(FailureCode::ProviderDown, detail)
}

#[async_trait]
impl Provider for ChromiumProvider {
    async fn start_through(
        &self,
        profile: &ProfileId,
        options: StartOptions,
        gate: &dyn StartGate,
    ) -> Result<Session, Failure> {
        let _launch = self.launches.turn(gate).await?;
        let call = Call::Start { profile: profile.clone(), headless: options.headless };
        self.call(call, START_DEADLINE).await
    }

    async fn stop(&self, profile: &ProfileId) -> Result<(), Failure> {
        self.call(Call::Stop { profile: profile.clone() }, STOP_DEADLINE).await
    }

    async fn running(&self) -> Result<Vec<Session>, Failure> {
        self.call(Call::Running, QUICK_DEADLINE).await
    }

    async fn can_read(&self, path: &Path) -> Result<bool, Failure> {
        self.call(Call::CanRead { path: path.to_owned() }, QUICK_DEADLINE).await
    }

    async fn stats(&self, profile: &ProfileId) -> Result<Option<SessionStats>, Failure> {
        self.call(Call::Stats { profile: profile.clone() }, QUICK_DEADLINE).await
    }

    /// Ends the child (if there is one) and waits for it: it closes its browsers first.
    async fn shutdown(&self) {
        *self.connection.lock().await = None;
        if let Some(child) = &self.child {
            child.shutdown().await;
        }
    }
}
