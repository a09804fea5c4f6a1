//! The settings of one process.
//!
//! Precedence: command line, `COVE_SECTION__KEY`, the original system's names, the file, defaults. Every
//! mistake is found at once, each with its key, its value, where it stands and what is allowed. The
//! commented default file `packaging/cove.toml` is embedded, and a test proves that it says the defaults.
//! Named by every room above the model; it names none and keeps no secret.

mod keys;
mod load;
mod original;
#[cfg(test)]
mod tests;

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub use load::{ConfigError, Loaded, Sources};

#[derive(Clone, Debug, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    pub server: Server,
    pub state: State,
    pub media: Media,
    pub engine: Engine,
    pub browser: Browser,
    pub dolphin: Dolphin,
    pub auth: Auth,
    pub limits: Limits,
    pub log: Log,
    /// Worked out at load from the settings and the user.
    #[serde(skip)]
    resolved: Resolved,
}

#[derive(Clone, Debug, PartialEq, Eq, Default)]
struct Resolved {
    state_dir: PathBuf,
    socket: PathBuf,
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

/// Where a Dolphin Anty is. This version drives Chromium alone and does not use these.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Dolphin {
    pub api_host: String,
    pub api_token_file: Option<PathBuf>,
    pub cloud_host: String,
    pub profiles: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Auth {
    /// Must be false for `cove serve` in this version, which has no tokens yet.
    pub required: bool,
    /// Reads that need no token on loopback, once there are tokens.
    pub open_on_loopback: Vec<String>,
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

impl Default for Dolphin {
    fn default() -> Self {
        Self {
            api_host: "http://127.0.0.1:3001".to_owned(),
            api_token_file: None,
            cloud_host: "https://dolphin-anty-api.com".to_owned(),
            profiles: Vec::new(),
        }
    }
}

impl Default for Auth {
    fn default() -> Self {
        let open = ["health", "metrics", "status", "locks"];
        Self { required: true, open_on_loopback: open.map(str::to_owned).to_vec() }
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
    /// Reads every source.
    ///
    /// # Errors
    /// Every mistake at once.
    pub fn load(sources: &Sources) -> Result<Loaded, Vec<ConfigError>> {
        load::load(sources)
    }

    /// What the settings forbid `cove serve`, beside what is no configuration at all.
    #[must_use]
    pub fn check_serve(&self) -> Vec<ConfigError> {
        let mut errors = Vec::new();
        let mut refuse = |key: &str, value: String, message: &str| {
            errors.push(ConfigError {
                key: key.to_owned(),
                value: Some(value),
                source: None,
                message: message.to_owned(),
            });
        };
        if self.auth.required {
            let message = "this version has no tokens yet; set [auth] required = false, which is allowed on loopback \
                and the unix socket alone";
            refuse("auth.required", "true".to_owned(), message);
        }
        if !self.server.listen.ip().is_loopback() {
            let message = "without tokens only a loopback address is allowed, for example 127.0.0.1:8088";
            refuse("server.listen", self.server.listen.to_string(), message);
        }
        if self.browser.provider == ProviderKind::Dolphin {
            let message = "this version drives chromium only; set [browser] provider = \"chromium\"";
            refuse("browser.provider", "dolphin".to_owned(), message);
        }
        errors
    }

    /// Where everything lives.
    #[must_use]
    pub fn state_dir(&self) -> PathBuf {
        self.resolved.state_dir.clone()
    }

    /// The unix socket.
    #[must_use]
    pub fn socket_path(&self) -> PathBuf {
        self.resolved.socket.clone()
    }

    /// The effective settings as a file; what is not set stands as an empty text.
    #[must_use]
    pub fn to_toml(&self) -> String {
        let table = toml::Table::try_from(self).unwrap_or_default();
        let mut text = String::new();
        let mut section = "";
        for key in keys::KEYS {
            if key.section != section {
                section = key.section;
                let gap = if text.is_empty() { "" } else { "\n" };
                writeln!(text, "{gap}[{section}]").expect("writing to a String cannot fail");
            }
            let value = table.get(section).and_then(|section| section.get(key.name));
            let value = value.map_or_else(|| "\"\"".to_owned(), ToString::to_string);
            writeln!(text, "{} = {value}", key.name).expect("writing to a String cannot fail");
        }
        text
    }
}
