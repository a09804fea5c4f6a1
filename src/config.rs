//! The settings of one process. SKELETON: the command room writes the loader and the tests.
//!
//! Precedence: command line, `COVE_SECTION__KEY`, the original system's names, the file, defaults.
//! Every mistake is reported at once, with key, value and what is allowed.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    pub server: Server,
    pub state: State,
    pub media: Media,
    pub engine: Engine,
    pub browser: Browser,
    pub auth: Auth,
    pub limits: Limits,
    pub log: Log,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Server {
    /// Loopback only in this version. Port 0: any free port.
    pub listen: SocketAddr,
    /// Unix socket; empty: `$XDG_RUNTIME_DIR/cove.sock`, or `/run/cove/cove.sock` for root.
    pub socket: Option<PathBuf>,
    /// Largest JSON body, in bytes.
    pub max_body_bytes: u64,
    pub max_connections: u32,
}

#[derive(Clone, Debug, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct State {
    /// None: `$XDG_STATE_HOME/cove`, or `/var/lib/cove` for root.
    pub dir: Option<PathBuf>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Media {
    /// Folders whose files an item may name. The daemon's own media folder is always one.
    pub roots: Vec<PathBuf>,
    /// Largest media file, in bytes.
    pub max_bytes: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Engine {
    /// Attempts at a time.
    pub slots: u32,
    pub max_attempts: u32,
    /// Back-off of an item: base × 2^n up to the maximum, full jitter.
    pub retry_base_seconds: u64,
    pub retry_max_seconds: u64,
    pub max_items_per_task: u32,
    /// How long a stop waits for armed attempts.
    pub drain_seconds: u64,
    /// Evidence of one attempt, in bytes.
    pub evidence_max_bytes: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProviderKind {
    Chromium,
    Dolphin,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Browser {
    pub provider: ProviderKind,
    /// The browser's binary; None: look for chromium, chromium-browser, google-chrome.
    pub chromium: Option<PathBuf>,
    pub headless: bool,
    /// Chromium's own sandbox.
    pub sandbox: bool,
    /// Socket of a browser host that runs as its own service; None: the daemon starts one as its child.
    pub host_socket: Option<PathBuf>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Auth {
    /// Must be false in this version, which has no tokens yet.
    pub required: bool,
}

/// Rate limits per window; 0 switches one off.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    pub window_seconds: u64,
    pub task_starts: u32,
    pub health: u32,
    pub metrics: u32,
    pub requests: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// Human text on a terminal, journald under systemd, JSON otherwise.
    Auto,
    Text,
    Json,
    Journald,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// `error`, `warn`, `info`, `debug`, `trace`, or tracing's filter syntax.
    pub level: String,
    pub format: LogFormat,
}

impl Default for Server {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 8088)),
            socket: None,
            max_body_bytes: 16 * 1024 * 1024,
            max_connections: 1_024,
        }
    }
}

impl Default for Media {
    fn default() -> Self {
        Self { roots: Vec::new(), max_bytes: 16 * 1024 * 1024 * 1024 }
    }
}

impl Default for Engine {
    fn default() -> Self {
        Self {
            slots: 15,
            max_attempts: 3,
            retry_base_seconds: 30,
            retry_max_seconds: 1_800,
            max_items_per_task: 10_000,
            drain_seconds: 300,
            evidence_max_bytes: 64 * 1024 * 1024,
        }
    }
}

impl Default for Browser {
    fn default() -> Self {
        Self { provider: ProviderKind::Chromium, chromium: None, headless: true, sandbox: true, host_socket: None }
    }
}

impl Default for Auth {
    fn default() -> Self {
        Self { required: true }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self { window_seconds: 60, task_starts: 5, health: 200, metrics: 20, requests: 100 }
    }
}

impl Default for Log {
    fn default() -> Self {
        Self { level: "info".to_owned(), format: LogFormat::Auto }
    }
}

impl Config {
    /// Where everything lives: as configured, else by user.
    #[must_use]
    pub fn state_dir(&self) -> PathBuf {
        self.state.dir.clone().unwrap_or_else(|| PathBuf::from("/var/lib/cove"))
    }

    /// The unix socket.
    #[must_use]
    pub fn socket_path(&self) -> PathBuf {
        self.server.socket.clone().unwrap_or_else(|| self.state_dir().join("cove.sock"))
    }
}
