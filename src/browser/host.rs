//! SKELETON of the browser host room: `cove browser-host`, the only code that starts Chromium.

use std::path::PathBuf;

/// How a host is run.
#[derive(Clone, Debug)]
pub struct HostOptions {
    /// Unix socket to listen on (None: the socket handed over by systemd).
    pub socket: Option<PathBuf>,
    /// Folder with one data directory a profile.
    pub profiles_dir: PathBuf,
    /// The browser's binary; None: look for Chromium or Chrome.
    pub chromium: Option<PathBuf>,
    /// Chromium's own sandbox. Off only where it cannot work; logged loudly.
    pub sandbox: bool,
    /// End when standard input ends (a child of the daemon, demo, tests).
    pub until_stdin_ends: bool,
}

/// Runs until SIGTERM, SIGINT or (as a child) end of file on stdin; closes its browsers before it returns.
///
/// # Errors
/// When the socket or the folder cannot be used, or another host holds the folder.
pub async fn run(_options: HostOptions) -> Result<(), HostError> {
    unimplemented!("browser host room")
}

#[derive(Debug, thiserror::Error)]
pub enum HostError {
    #[error("{0}")]
    Failed(String),
}
