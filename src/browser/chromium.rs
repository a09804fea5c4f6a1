//! SKELETON of the browser host room: the `chromium` provider, a client of the browser host.

use std::path::{Path, PathBuf};

use async_trait::async_trait;

use super::host::HostOptions;
use super::{Provider, Session, SessionStats, StartOptions};
use crate::model::{Failure, ProfileId};

/// Speaks to a browser host over its unix socket.
pub struct ChromiumProvider {
    socket: PathBuf,
}

impl ChromiumProvider {
    /// A host that runs as a service of its own.
    #[must_use]
    pub fn connect(socket: PathBuf) -> Self {
        Self { socket }
    }

    /// Starts `executable browser-host` as a child; it is started again if it dies, and ends with this
    /// process (end of file on its stdin).
    ///
    /// # Errors
    /// When the child cannot be started or does not become ready.
    pub async fn spawn_child(executable: &Path, options: HostOptions) -> Result<Self, Failure> {
        let _ = (executable, options);
        unimplemented!("browser host room")
    }

    /// Ends the child (if there is one) and waits for it.
    pub async fn shutdown(&self) {
        let _ = &self.socket;
    }
}

#[async_trait]
impl Provider for ChromiumProvider {
    async fn start(&self, _: &ProfileId, _: StartOptions) -> Result<Session, Failure> {
        unimplemented!("browser host room")
    }
    async fn stop(&self, _: &ProfileId) -> Result<(), Failure> {
        unimplemented!("browser host room")
    }
    async fn running(&self) -> Result<Vec<Session>, Failure> {
        unimplemented!("browser host room")
    }
    async fn can_read(&self, _: &Path) -> Result<bool, Failure> {
        unimplemented!("browser host room")
    }
    async fn stats(&self, _: &ProfileId) -> Result<Option<SessionStats>, Failure> {
        unimplemented!("browser host room")
    }
}
