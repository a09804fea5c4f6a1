//! Whether the user that Dolphin's browsers run as can read a file.
//!
//! Called by the provider. That user is the one whose process listens on the port of the Local API: the
//! kernel tells a socket's user to everybody. Where it cannot be told (the port is elsewhere, or nobody
//! listens now), what this daemon can read counts.

use std::path::{Path, PathBuf};

use crate::browser::processes;
use crate::browser::readable::{self, Looks, Reader};
use crate::model::Failure;

pub async fn can_read(looks: &Looks, api_port: Option<u16>, path: PathBuf) -> Result<bool, Failure> {
    let look = move |path: &Path| match api_port.and_then(reader) {
        Some(reader) => readable::by(path, &reader),
        None => readable::by_us(path),
    };
    looks.look(path, look).await
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
        let looks = Looks::new(std::time::Duration::from_secs(20));
        for port in [Some(port), None] {
            assert_eq!(can_read(&looks, port, file.clone()).await, Ok(true));
            assert_eq!(can_read(&looks, port, root.path().join("gone")).await, Ok(false));
        }
    }
}
