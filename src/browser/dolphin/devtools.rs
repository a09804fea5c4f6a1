//! Whether a browser answers on a DevTools port, and which one.
//!
//! Called by the start and the stop of a profile. A port alone says nothing: another browser may have got
//! it since. What tells browsers apart is the id in the path of `/json/version`, new at every start. Quick
//! looks on loopback, without a breaker: what does not answer is an answer here. That nobody listens is said only
//! where the system refuses the connection: a look that fails otherwise proves no end.

use std::io;
use std::time::Duration;

use reqwest::Client;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{answer, exchange};

/// For one look.
const LOOK_DEADLINE: Duration = Duration::from_secs(3);

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Port {
    /// Nobody listens.
    Closed,
    /// Somebody listens who is no browser, or one that hangs; or nobody can tell.
    Silent,
    /// This browser, by its path.
    Browser(String),
}

/// Who answers on `127.0.0.1:port` now.
pub async fn look(http: &Client, port: u16) -> Port {
    match timeout(LOOK_DEADLINE, TcpStream::connect(("127.0.0.1", port))).await {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => return unconnected(&error),
        Err(_) => return Port::Silent,
    }
    let request = http.get(format!("http://127.0.0.1:{port}/json/version"));
    match exchange::plain(request, LOOK_DEADLINE).await {
        Ok(found) => answer::browser_path(found.status, &found.body).map_or(Port::Silent, Port::Browser),
        Err(_) => Port::Silent,
    }
}

/// What a connection that did not come about says. Without a free file descriptor, for example, nothing is known.
fn unconnected(error: &io::Error) -> Port {
    if error.kind() == io::ErrorKind::ConnectionRefused { Port::Closed } else { Port::Silent }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_refused_connection_says_that_nobody_listens() {
        assert_eq!(unconnected(&io::ErrorKind::ConnectionRefused.into()), Port::Closed);
        for kind in [io::ErrorKind::TimedOut, io::ErrorKind::ConnectionReset, io::ErrorKind::AddrNotAvailable] {
            assert_eq!(unconnected(&kind.into()), Port::Silent, "{kind}");
        }
        let too_many_files = io::Error::from_raw_os_error(rustix::io::Errno::MFILE.raw_os_error());
        assert_eq!(unconnected(&too_many_files), Port::Silent);
    }
}
