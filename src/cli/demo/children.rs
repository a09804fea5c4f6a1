//! The demo's two child processes: the daemon and the practice site.
//!
//! Each is in a process group of its own, so that Ctrl-C reaches the demo alone and the demo ends them
//! in order. A child that is dropped is killed, save where it was released with [`Child::release`].

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context as _;
use tokio::process::Command;
use tokio::time::Instant;

/// How long a child may take to say where it listens.
const READY: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(50);
/// Lines of its log that are shown when it ends unasked.
const LOG_LINES: usize = 20;
/// Settings of the caller's environment that would change the demo's daemon, beside `COVE_*`.
const FOREIGN_SETTINGS: [&str; 14] = [
    "WORKERS_COUNT",
    "MAX_CONCURRENT_TASKS",
    "WORKER_BASE_PORT",
    "MEMORY_LIMIT_MB",
    "RATE_LIMIT_REQUESTS",
    "RATE_LIMIT_WINDOW",
    "DB_MIN_CONNECTIONS",
    "DB_MAX_CONNECTIONS",
    "HEARTBEAT_INTERVAL_SECS",
    "DOLPHIN_API_HOST",
    "DOLPHIN_API_TOKEN",
    "WORKER_API_TOKEN",
    "LOG_LEVEL",
    "NOTIFY_SOCKET",
];

pub struct Child {
    name: &'static str,
    pub pid: u32,
    log: PathBuf,
    process: tokio::process::Child,
}

impl Child {
    /// Starts `program` with its output in `log`.
    pub fn start(
        name: &'static str,
        program: &Path,
        args: impl IntoIterator<Item = impl AsRef<OsStr>>,
        log: PathBuf,
    ) -> anyhow::Result<Self> {
        let out = std::fs::File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        let mut command = Command::new(program);
        for (key, _) in std::env::vars_os().filter(|(key, _)| is_foreign(key)) {
            command.env_remove(key);
        }
        let process = command
            .args(args)
            .stdin(Stdio::null())
            .stdout(out.try_clone().context("cannot share the log's handle")?)
            .stderr(out)
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start the {name} ({})", program.display()))?;
        let pid = process.id().with_context(|| format!("the {name} ended at once: see {}", log.display()))?;
        Ok(Self { name, pid, log, process })
    }

    /// Waits until `file` holds the address that the child listens on.
    pub async fn address(&mut self, file: &Path) -> anyhow::Result<String> {
        let deadline = Instant::now() + READY;
        loop {
            match tokio::fs::read_to_string(file).await {
                Ok(text) if text.ends_with('\n') => return Ok(text.trim().to_owned()),
                Ok(_) => {}
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(error).with_context(|| format!("cannot read {}", file.display())),
            }
            self.check()?;
            anyhow::ensure!(
                Instant::now() < deadline,
                "the {} was not ready within {} s{}",
                self.name,
                READY.as_secs(),
                self.last_lines()
            );
            tokio::time::sleep(POLL).await;
        }
    }

    /// An error once the child has ended, with the end of its log.
    pub fn check(&mut self) -> anyhow::Result<()> {
        match self.process.try_wait().context("cannot ask after a child")? {
            None => Ok(()),
            Some(status) => anyhow::bail!("the {} ended ({status}){}", self.name, self.last_lines()),
        }
    }

    fn last_lines(&self) -> String {
        let text =
            std::fs::read(&self.log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        let last = lines[lines.len().saturating_sub(LOG_LINES)..].join("\n  ");
        format!("; the end of {}:\n  {last}", self.log.display())
    }

    /// SIGTERM, then at most `patience`, then SIGKILL. Says what was not orderly.
    pub async fn stop(mut self, patience: Duration) -> Option<String> {
        let pid = i32::try_from(self.pid).ok().and_then(rustix::process::Pid::from_raw)?;
        if matches!(self.process.try_wait(), Ok(Some(_))) {
            return None;
        }
        // Not reaped yet, so the number is still its own. A process that is just ending is as good.
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        if tokio::time::timeout(patience, self.process.wait()).await.is_ok() {
            return None;
        }
        let killed = self.process.kill().await;
        let end = killed.map_or_else(|error| format!("could not be killed: {error}"), |()| "was killed".to_owned());
        Some(format!("the {} did not stop within {} s and {end}", self.name, patience.as_secs()))
    }

    /// Leaves it running when this program ends.
    pub fn release(self) {
        // Dropping the handle would kill the process.
        std::mem::forget(self.process);
    }
}

fn is_foreign(key: &OsStr) -> bool {
    let key = key.to_string_lossy();
    key.starts_with("COVE_") || key.starts_with("LISTEN_") || FOREIGN_SETTINGS.contains(&key.as_ref())
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::Duration;

    use super::Child;

    fn shell(dir: &Path, script: &str) -> Child {
        Child::start("helper", Path::new("/bin/sh"), ["-c", script], dir.join("log")).unwrap()
    }

    fn exists(pid: u32) -> bool {
        Path::new(&format!("/proc/{pid}")).exists()
    }

    #[tokio::test]
    async fn an_early_end_is_told_with_the_end_of_the_log() {
        let dir = tempfile::tempdir().unwrap();
        let mut child = shell(dir.path(), "echo no room; exit 3");
        let error = child.address(&dir.path().join("listen")).await.unwrap_err().to_string();
        assert!(error.contains("exit status: 3") && error.contains("no room"), "{error}");
    }

    #[tokio::test]
    async fn the_address_is_read_when_it_is_whole_and_a_stop_reaps() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("listen");
        let script = format!("printf '127.0.0.1:1\\n' > {}; exec sleep 600", file.display());
        let mut child = shell(dir.path(), &script);
        let pid = child.pid;
        assert_eq!(child.address(&file).await.unwrap(), "127.0.0.1:1");
        assert_eq!(child.stop(Duration::from_secs(10)).await, None);
        assert!(!exists(pid));
    }

    #[tokio::test]
    async fn a_child_that_ignores_the_signal_is_killed_and_that_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("listen");
        let script = format!("trap '' TERM; echo 1 > {}; while :; do sleep 1; done", file.display());
        let mut child = shell(dir.path(), &script);
        child.address(&file).await.unwrap();
        let pid = child.pid;
        let said = child.stop(Duration::from_millis(100)).await.unwrap();
        assert!(said.contains("was killed"), "{said}");
        assert!(!exists(pid));
    }
}
