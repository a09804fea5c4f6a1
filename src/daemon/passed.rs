//! Sockets that were passed to the daemon, as systemd does it for `cove.socket`: they stay open while the daemon
//! is started again, so nobody is refused meanwhile.
//!
//! Taken once by the command line, before the settings are judged. Invariant: afterwards the configuration says
//! where the daemon really listens; what somebody wrote there and differs is a mistake, since it would be
//! silently of no effect. A passed socket is never unlinked: it belongs to whoever passed it.

use std::io;
use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;

use listenfd::ListenFd;

use crate::config::{ConfigError, Loaded};

const SOURCE: &str = "the passed sockets";
const ALLOWED: &str = "allowed are one TCP socket and one unix stream socket that has a path (see cove.socket)";

/// What was passed; without systemd, nothing.
#[derive(Default)]
pub struct Passed {
    pub(super) tcp: Option<TcpListener>,
    pub(super) unix: Option<UnixListener>,
}

impl Passed {
    /// # Errors
    /// Every mistake: sockets of no use here, and settings that differ from them.
    pub fn take(loaded: &mut Loaded) -> Result<Self, Vec<ConfigError>> {
        let mut passed = Self::default();
        let mut errors = passed.sort(&mut ListenFd::from_env());
        passed.settle(loaded, &mut errors);
        if errors.is_empty() { Ok(passed) } else { Err(errors) }
    }

    fn sort(&mut self, fds: &mut ListenFd) -> Vec<ConfigError> {
        let mut errors = Vec::new();
        for index in 0..fds.len() {
            let twice = match (fds.take_tcp_listener(index), fds.take_unix_listener(index)) {
                (Ok(Some(tcp)), _) => self.tcp.replace(tcp).is_some(),
                (_, Ok(Some(unix))) => self.unix.replace(unix).is_some(),
                _ => true,
            };
            if twice {
                let nth = format!("socket {} of {}", index + 1, fds.len());
                errors.push(ConfigError::new("server.listen", SOURCE, ALLOWED).with_value(nth));
            }
        }
        errors
    }

    /// Makes the settings say what was passed.
    fn settle(&self, loaded: &mut Loaded, errors: &mut Vec<ConfigError>) {
        if let Some(tcp) = &self.tcp {
            match ready(tcp.set_nonblocking(true), tcp.local_addr()) {
                Ok(address) => {
                    let wanted = loaded.config.server.listen;
                    // Port 0 asks for any port, and the passed one is one.
                    let same = wanted == address || (wanted.ip() == address.ip() && wanted.port() == 0);
                    if !same && let Some(source) = loaded.set.get("server.listen") {
                        errors.push(differs("server.listen", source, &wanted.to_string(), &address.to_string()));
                    }
                    loaded.config.server.listen = address;
                }
                Err(error) => errors.push(unusable(&error)),
            }
        }
        if let Some(unix) = &self.unix {
            let path = unix.local_addr().map(|address| address.as_pathname().map(PathBuf::from));
            match ready(unix.set_nonblocking(true), path) {
                Ok(Some(path)) => {
                    let wanted = loaded.config.socket_path();
                    if wanted != path
                        && let Some(source) = loaded.set.get("server.socket")
                    {
                        let (wanted, path) = (wanted.display().to_string(), path.display().to_string());
                        errors.push(differs("server.socket", source, &wanted, &path));
                    }
                    loaded.config.server.socket = Some(path);
                }
                Ok(None) => errors.push(ConfigError::new("server.socket", SOURCE, ALLOWED)),
                Err(error) => errors.push(unusable(&error)),
            }
        }
    }
}

fn ready<T>(switched: io::Result<()>, address: io::Result<T>) -> io::Result<T> {
    switched.and(address)
}

fn unusable(error: &io::Error) -> ConfigError {
    ConfigError::new("server.listen", SOURCE, format!("a socket cannot be used ({error}); {ALLOWED}"))
}

fn differs(key: &str, source: &str, wanted: &str, passed: &str) -> ConfigError {
    let message = format!(
        "systemd passed a socket at {passed}, which wins: take this setting out, and choose the address in cove.socket \
         (`systemctl edit cove.socket`: an empty ListenStream=, then your own)"
    );
    ConfigError::new(key, source, message).with_value(format!("\"{wanted}\""))
}
