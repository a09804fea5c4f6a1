//! Whether the user that Dolphin's browsers run as can read a file.
//!
//! Called by the provider. That user is the one whose process listens on the port of the Local API: the
//! kernel tells a socket's user to everybody. Where it cannot be told (the port is elsewhere, or nobody
//! listens now), what this daemon can read counts. A look is bounded, and so is their number: one on a dead
//! network share holds a thread.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::browser::processes;
use crate::browser::readable::{self, Reader};
use crate::model::{Failure, FailureCode};

const LOOK_DEADLINE: Duration = Duration::from_secs(5);
const MAX_OPEN_LOOKS: usize = 8;

pub struct Readers {
    looks: Arc<Semaphore>,
}

impl Default for Readers {
    fn default() -> Self {
        Self { looks: Arc::new(Semaphore::new(MAX_OPEN_LOOKS)) }
    }
}

impl Readers {
    pub async fn can_read(&self, api_port: Option<u16>, path: PathBuf) -> Result<bool, Failure> {
        let shown = path.display().to_string();
        let slow = || {
            let detail = format!("{shown} did not open in time; is it on a network share that is away?");
            Failure::new(FailureCode::MediaUnreadable, detail)
        };
        let Ok(Ok(permit)) = timeout(LOOK_DEADLINE, self.looks.clone().acquire_owned()).await else {
            return Err(slow());
        };
        let look = tokio::task::spawn_blocking(move || {
            let readable = match api_port.and_then(reader) {
                Some(reader) => readable::by(&path, &reader),
                None => readable::by_us(&path),
            };
            // Kept by the thread: one that hangs goes on counting after its caller was answered.
            drop(permit);
            readable
        });
        match timeout(LOOK_DEADLINE, look).await {
            Ok(Ok(readable)) => Ok(readable),
            Ok(Err(error)) => Err(Failure::new(FailureCode::Internal, error.to_string())),
            Err(_) => Err(slow()),
        }
    }
}

/// Who listens on the port of the Local API.
fn reader(port: u16) -> Option<Reader> {
    let listener = processes::listener(port)?;
    let of_process = listener.process().and_then(Reader::of_process).filter(|reader| reader.uid == listener.uid);
    of_process.or_else(|| Reader::of_user(listener.uid))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_listens_on_the_port_reads() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("a.mp4");
        std::fs::write(&file, "x").unwrap();
        let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = socket.local_addr().unwrap().port();
        assert_eq!(reader(port).map(|reader| reader.uid), Some(rustix::process::geteuid().as_raw()));
        let readers = Readers::default();
        for port in [Some(port), None] {
            assert_eq!(readers.can_read(port, file.clone()).await, Ok(true));
            assert_eq!(readers.can_read(port, root.path().join("gone")).await, Ok(false));
        }
    }
}
