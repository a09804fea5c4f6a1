//! The command line and the environment of a browser, and what is kept of its output.
//!
//! Called by a session's life. Every switch has its reason here. Nothing in this list hides that the
//! browser is automated. The browser never waits for a reader of its output: it is drained all the
//! time and only its end is kept, for the message of a start that failed.

use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::Command;

use super::folder::Scratch;
use crate::browser::processes::{OUR_SWITCH, PROFILE_VARIABLE};

/// Output kept of each browser.
const MAX_KEPT_OUTPUT_BYTES: usize = 8 * 1024;
/// Of that, what a message quotes.
const MAX_QUOTED_BYTES: usize = 1_200;
/// Chromium's shared memory needs at least this in /dev/shm; containers have 64 MiB.
const MIN_SHARED_MEMORY_BYTES: u64 = 512 * 1024 * 1024;

/// How a browser is started.
#[derive(Clone, Copy, Debug)]
pub struct Appearance {
    pub headless: bool,
    pub sandbox: bool,
}

#[must_use]
pub fn browser(binary: &Path, data_dir: &Path, scratch: &Scratch, appearance: Appearance) -> Command {
    let mut command = Command::new(binary);
    // Our mark, and a port of the system's choice, which Chromium writes to DevToolsActivePort.
    command.args([OUR_SWITCH, "--remote-debugging-port=0"]);
    // No first-run pages, no dialogs that nobody answers, no "restore pages?" after a kill.
    command.args(["--no-first-run", "--no-default-browser-check", "--noerrdialogs", "--hide-crash-restore-bubble"]);
    // No traffic that the flow did not ask for.
    command.args(["--disable-background-networking", "--disable-component-update", "--disable-sync"]);
    command.arg("--disable-quic");
    // Cookies are encrypted with a fixed key instead of the desktop's keyring: a profile that a person
    // signed in in a window must stay signed in when it runs headless.
    command.arg("--password-store=basic");
    if appearance.headless {
        command.args(["--headless", "--disable-gpu"]);
    }
    if !appearance.sandbox {
        command.arg("--no-sandbox");
    }
    if shared_memory_is_small() {
        command.arg("--disable-dev-shm-usage");
    }
    let mut data_dir_switch = OsString::from("--user-data-dir=");
    data_dir_switch.push(data_dir);
    command.arg(data_dir_switch).arg("about:blank");
    command
        .env("TMPDIR", &scratch.temporary)
        .env("BREAKPAD_DUMP_LOCATION", scratch.path.join("crashes"))
        .env("XDG_CACHE_HOME", scratch.path.join("cache"))
        .env(PROFILE_VARIABLE, data_dir)
        .env_remove("LISTEN_FDS")
        .env_remove("LISTEN_PID")
        .env_remove("LISTEN_FDNAMES")
        .env_remove("NOTIFY_SOCKET")
        .current_dir(data_dir)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .process_group(0);
    for name in std::env::vars_os().map(|(name, _)| name).filter(|name| is_secret(name)) {
        command.env_remove(name);
    }
    command
}

/// A page that breaks out of the browser must not find the daemon's tokens in its environment.
#[must_use]
pub fn is_secret(variable: &OsStr) -> bool {
    let name = variable.to_string_lossy().to_ascii_uppercase();
    ["TOKEN", "SECRET", "PASSWORD", "CREDENTIALS"].iter().any(|mark| name.contains(mark))
}

fn shared_memory_is_small() -> bool {
    rustix::fs::statvfs("/dev/shm").map_or(true, |found| found.f_blocks * found.f_frsize < MIN_SHARED_MEMORY_BYTES)
}

/// The end of a browser's output.
#[derive(Clone, Debug, Default)]
pub struct Output {
    kept: Arc<Mutex<Vec<u8>>>,
}

impl Output {
    /// Drains `source` to its end.
    pub async fn drain(self, mut source: impl AsyncRead + Unpin) {
        let mut chunk = [0; 4096];
        // An error is an end: the pipe is gone with the browser.
        while let Ok(read @ 1..) = source.read(&mut chunk).await {
            self.keep(&chunk[..read]);
        }
    }

    fn keep(&self, chunk: &[u8]) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.extend_from_slice(chunk);
        let excess = kept.len().saturating_sub(MAX_KEPT_OUTPUT_BYTES);
        kept.drain(..excess);
    }

    /// The last lines, for a message, with a hint where they point to the sandbox. Complaints about a
    /// desktop bus are left out: every server without a desktop has them, and they explain nothing.
    #[must_use]
    pub fn quoted(&self) -> String {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let text = String::from_utf8_lossy(&kept);
        let lines: Vec<&str> =
            text.lines().map(str::trim_end).filter(|line| !line.is_empty() && !line.contains("dbus/")).collect();
        let said = lines.join(" | ");
        let from = said.ceil_char_boundary(said.len().saturating_sub(MAX_QUOTED_BYTES));
        let hint = if is_sandbox_trouble(&text) {
            " (Chromium's own sandbox does not work here: run cove as an ordinary user and allow user namespaces, or set `[browser] sandbox = false` if you accept it)"
        } else {
            ""
        };
        if said.is_empty() { "it said nothing".to_owned() } else { format!("it said: {}{hint}", &said[from..]) }
    }
}

fn is_sandbox_trouble(output: &str) -> bool {
    [
        "no usable sandbox",
        "without --no-sandbox",
        "suid sandbox",
        "setuid sandbox",
        "zygote_host_impl",
        "credentials.cc",
    ]
    .iter()
    .any(|mark| output.to_ascii_lowercase().contains(mark))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{Appearance, MAX_KEPT_OUTPUT_BYTES, Output, browser, is_secret};
    use crate::browser::host::folder::ProfileFolder;
    use crate::model::ProfileId;

    #[test]
    fn the_sandbox_is_given_up_only_when_asked() {
        let root = tempfile::tempdir().unwrap();
        let folder = ProfileFolder::open(root.path(), &ProfileId::new("anna").unwrap()).unwrap();
        let scratch = folder.make_scratch().unwrap();
        let line = |headless, sandbox| {
            let command = browser(Path::new("/x"), folder.path(), &scratch, Appearance { headless, sandbox });
            let arguments: Vec<String> =
                command.as_std().get_args().map(|argument| argument.to_string_lossy().into_owned()).collect();
            arguments
        };
        assert!(!line(true, true).contains(&"--no-sandbox".to_owned()));
        assert!(line(true, false).contains(&"--no-sandbox".to_owned()));
        assert!(line(true, true).contains(&"--headless".to_owned()));
        assert!(!line(false, true).contains(&"--headless".to_owned()));
    }

    #[test]
    fn tokens_are_kept_from_the_browser() {
        for secret in ["WORKER_API_TOKEN", "DOLPHIN_API_TOKEN", "COVE_X__SECRET", "db_password"] {
            assert!(is_secret(secret.as_ref()), "{secret}");
        }
        for plain in ["PATH", "DISPLAY", "HOME", "XAUTHORITY"] {
            assert!(!is_secret(plain.as_ref()), "{plain}");
        }
    }

    #[tokio::test]
    async fn only_the_end_of_the_output_is_kept() {
        let output = Output::default();
        let long = format!("{}\nthe end\n", "é".repeat(MAX_KEPT_OUTPUT_BYTES));
        output.clone().drain(long.as_bytes()).await;
        assert_eq!(output.kept.lock().unwrap().len(), MAX_KEPT_OUTPUT_BYTES);
        let quoted = output.quoted();
        assert!(quoted.ends_with("| the end") && quoted.len() < 1_300, "{quoted}");
    }

    #[tokio::test]
    async fn a_missing_sandbox_gets_a_hint_and_the_bus_is_left_out() {
        let output = Output::default();
        let said = "x:ERROR:dbus/bus.cc:405] no bus\nRunning as root without --no-sandbox is not supported.\n";
        output.clone().drain(said.as_bytes()).await;
        let quoted = output.quoted();
        assert!(quoted.contains("`[browser] sandbox = false`") && !quoted.contains("no bus"), "{quoted}");
        assert_eq!(Output::default().quoted(), "it said nothing");
    }
}
