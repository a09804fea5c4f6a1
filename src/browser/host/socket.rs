//! The socket that a host listens on: handed over by systemd, or made here with mode 0600.
//!
//! Called once at the host's start, while it holds the folder's lock. A socket file is removed only
//! when nobody answers on it. Nothing is accepted here.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;
use std::time::Duration;

use listenfd::ListenFd;
use tokio::net::{UnixListener, UnixStream};
use tokio::time::timeout;

use super::HostError;

const ANSWER_DEADLINE: Duration = Duration::from_secs(1);

/// # Errors
/// When there is none, or somebody else answers on it.
pub async fn listen(path: Option<&Path>) -> Result<UnixListener, HostError> {
    let Some(path) = path else { return handed_over() };
    match timeout(ANSWER_DEADLINE, UnixStream::connect(path)).await {
        Ok(Err(error)) if error.kind() == io::ErrorKind::NotFound => {}
        // So the system answers for the file of a dead listener, and for any file that is no socket.
        Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => {
            if !fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket()) {
                return Err(failed(path, io::Error::other("there is a file that is not a socket")));
            }
        }
        Ok(Err(error)) => return Err(failed(path, error)),
        // A listener that is too busy to accept is a listener.
        Ok(Ok(_)) | Err(_) => return Err(HostError::Answered { path: path.to_owned() }),
    }
    bind(path).map_err(|error| failed(path, error))
}

/// Made in a folder that nobody else can enter, and moved from there: at no moment may another user connect.
fn bind(path: &Path) -> io::Result<UnixListener> {
    let beside = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let private = tempfile::Builder::new().prefix(".").rand_bytes(4).tempdir_in(beside)?;
    let fresh = private.path().join("s");
    let listener = UnixListener::bind(&fresh)?;
    fs::set_permissions(&fresh, fs::Permissions::from_mode(0o600))?;
    fs::rename(&fresh, path)?;
    Ok(listener)
}

fn handed_over() -> Result<UnixListener, HostError> {
    let none = |why: &str| HostError::NoSocket(why.to_owned());
    let listener = ListenFd::from_env()
        .take_unix_listener(0)
        .map_err(|error| HostError::NoSocket(error.to_string()))?
        .ok_or_else(|| none("systemd handed none over"))?;
    listener.set_nonblocking(true).map_err(|error| none(&error.to_string()))?;
    UnixListener::from_std(listener).map_err(|error| none(&error.to_string()))
}

fn failed(path: &Path, error: io::Error) -> HostError {
    HostError::Socket { path: path.to_owned(), error }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::{HostError, listen};

    #[tokio::test]
    async fn a_stale_socket_is_replaced_and_a_living_one_is_not() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("host.sock");
        let first = listen(Some(&path)).await.unwrap();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert!(matches!(listen(Some(&path)).await, Err(HostError::Answered { .. })));
        drop(first);
        assert!(path.exists());
        listen(Some(&path)).await.unwrap();
    }

    #[tokio::test]
    async fn a_file_that_is_no_socket_is_not_removed() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("precious");
        std::fs::write(&path, "x").unwrap();
        assert!(matches!(listen(Some(&path)).await, Err(HostError::Socket { .. })));
        assert!(path.exists());
    }
}
