//! The two listeners and what tells others about them: `<state dir>/listen` holds `host:port` and a
//! newline, written atomically, removed on stop. A socket file that nobody answers is a leftover and is
//! replaced; one that is answered belongs to another daemon and is left alone. Sockets that were passed are
//! used as they are ([`super::passed`]).

use std::io::Write;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tokio::net::{TcpListener, TcpSocket, UnixListener, UnixStream};

use super::Passed;
use crate::api::peer::{User, service_group};
use crate::config::Config;
use crate::store::ballast::Ballast;

/// Connections that wait to be accepted, in a burst; the kernel takes what it allows of it.
const BACKLOG: u32 = 4_096;

#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    #[error(
        "{address}: the port is in use; stop what listens there (ss -ltnp shows it), or choose another in [server] listen"
    )]
    PortInUse { address: SocketAddr },
    #[error("{address}: {error}")]
    Tcp { address: SocketAddr, error: std::io::Error },
    #[error("{}: another process answers on this socket; stop it, or choose another in [server] socket", .0.display())]
    SocketInUse(PathBuf),
    #[error("{}: {error}", path.display())]
    Unix { path: PathBuf, error: std::io::Error },
    #[error("{}: {error}", path.display())]
    File { path: PathBuf, error: std::io::Error },
}

pub(super) struct Listeners {
    pub tcp: TcpListener,
    pub unix: UnixListener,
    /// The address really bound.
    pub address: SocketAddr,
    /// The file of the unix socket, if it was made here.
    pub socket: Option<PathBuf>,
}

impl Listeners {
    /// Each of the two as it was passed, else bound as it is configured.
    pub async fn open(passed: Passed, config: &Config) -> Result<Self, ListenError> {
        let (address, path) = (config.server.listen, config.socket_path());
        let tcp = match passed.tcp {
            Some(tcp) => TcpListener::from_std(tcp),
            None => bind_tcp(address),
        };
        let tcp = tcp.map_err(|error| match error.kind() {
            std::io::ErrorKind::AddrInUse => ListenError::PortInUse { address },
            _ => ListenError::Tcp { address, error },
        })?;
        let bound = tcp.local_addr().map_err(|error| ListenError::Tcp { address, error })?;
        if bound.ip().to_canonical().is_unspecified() && config.server.allowed_hosts.is_empty() {
            let port = bound.port();
            tracing::warn!(
                "listening on every address, and answering to 127.0.0.1:{port}, localhost:{port} and [::1]:{port} alone: \
                 name the others in server.allowed_hosts"
            );
        }
        let (unix, socket) = match passed.unix {
            Some(unix) => (UnixListener::from_std(unix).map_err(|error| ListenError::Unix { path, error })?, None),
            None => (bind_socket(&path).await?, Some(path)),
        };
        Ok(Self { tcp, unix, address: bound, socket })
    }

    /// The same two for somebody who closes theirs before these are used.
    pub fn again(&self) -> Result<(TcpListener, UnixListener), ListenError> {
        let tcp = || TcpListener::from_std(self.tcp.as_fd().try_clone_to_owned()?.into());
        let unix = || UnixListener::from_std(self.unix.as_fd().try_clone_to_owned()?.into());
        let tcp = tcp().map_err(|error| ListenError::Tcp { address: self.address, error })?;
        let unix =
            unix().map_err(|error| ListenError::Unix { path: self.socket.clone().unwrap_or_default(), error })?;
        Ok((tcp, unix))
    }
}

fn bind_tcp(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // As the runtime's own bind does it: a restart need not wait for old connections.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

async fn bind_socket(path: &Path) -> Result<UnixListener, ListenError> {
    let failed = |error| ListenError::Unix { path: path.to_owned(), error };
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(failed)?;
    }
    if path.exists() {
        if UnixStream::connect(path).await.is_ok() {
            return Err(ListenError::SocketInUse(path.to_owned()));
        }
        std::fs::remove_file(path).map_err(failed)?;
    }
    let listener = UnixListener::bind(path).map_err(failed)?;
    let mode = if service_group(User::own()).is_some() { 0o660 } else { 0o600 };
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).map_err(failed)?;
    Ok(listener)
}

pub(super) fn remove_socket(path: Option<&Path>) {
    let Some(path) = path else { return };
    if let Err(error) = std::fs::remove_file(path) {
        tracing::warn!(path = %path.display(), %error, "the socket file stays behind");
    }
}

pub(super) struct ListenFile {
    path: PathBuf,
}

/// What a daemon that was killed left behind.
pub(super) fn remove_old(state_dir: &Path) {
    let path = state_dir.join("listen");
    if path.exists() {
        ListenFile { path }.remove();
    }
}

impl ListenFile {
    pub fn write(state_dir: &Path, address: SocketAddr) -> Result<Self, ListenError> {
        let path = state_dir.join("listen");
        let ballast = Ballast::of(state_dir);
        let write = || -> std::io::Result<()> {
            let mut file = tempfile::NamedTempFile::new_in(state_dir)?;
            writeln!(file, "{address}")?;
            file.as_file().set_permissions(std::fs::Permissions::from_mode(0o644))?;
            file.persist(&path)?;
            Ok(())
        };
        ballast.make_room(write).map_err(|error| ListenError::File { path: path.clone(), error })?;
        Ok(Self { path })
    }

    pub fn remove(self) {
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "the listen file stays behind");
        }
    }
}
