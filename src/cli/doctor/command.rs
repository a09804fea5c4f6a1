//! Questions that may never be answered: to programs of the system, and to file systems that are away.
//!
//! Both are bounded in time. A look at a dead network share cannot be taken back: its thread is left behind, and
//! ends with the process.

use std::ffi::OsStr;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::process::Command;
use tokio::time::timeout;

const MAX_ANSWER_BYTES: u64 = 64 * 1024;

/// What a program prints; None where it is not there, fails, or does not end in time (it is killed then).
pub async fn output(program: impl AsRef<OsStr>, arguments: &[&str], within: Duration) -> Option<String> {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true);
    let ask = async {
        let mut child = command.spawn().ok()?;
        let mut answer = Vec::new();
        child.stdout.take()?.take(MAX_ANSWER_BYTES).read_to_end(&mut answer).await.ok()?;
        let ended = child.wait().await.ok()?;
        ended.success().then(|| String::from_utf8_lossy(&answer).trim().to_owned())
    };
    timeout(within, ask).await.ok().flatten()
}

/// What a blocking look finds; None where it does not end in time.
pub async fn bounded<T: Send + 'static>(within: Duration, look: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    timeout(within, tokio::task::spawn_blocking(look)).await.ok()?.ok()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{bounded, output};

    #[tokio::test]
    async fn a_look_that_does_not_end_is_given_up() {
        let (keep, wait) = std::sync::mpsc::channel::<()>();
        assert_eq!(bounded(Duration::from_millis(50), move || wait.recv()).await, None);
        assert_eq!(bounded(Duration::from_secs(10), || 7).await, Some(7));
        drop(keep);
    }

    #[tokio::test]
    async fn an_answer_is_what_was_printed_and_nothing_else_is_one() {
        let within = Duration::from_secs(10);
        assert_eq!(output("sh", &["-c", "echo ' yes '"], within).await.as_deref(), Some("yes"));
        assert_eq!(output("sh", &["-c", "echo yes; exit 1"], within).await, None);
        assert_eq!(output("/nonexistent", &[], within).await, None);
        assert_eq!(output("sleep", &["60"], Duration::from_millis(100)).await, None);
    }
}
