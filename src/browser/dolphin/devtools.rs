//! Whether a browser answers on a DevTools port, and which one.
//!
//! Called by the start and the stop of a profile. A port alone says nothing: another browser may have got
//! it since. What tells browsers apart is the id in the path of `/json/version`, new at every start. Quick
//! looks on loopback, without a breaker: what does not answer is an answer here.

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
    /// Somebody listens who is no browser, or one that hangs.
    Silent,
    /// This browser, by its path.
    Browser(String),
}

/// Who answers on `127.0.0.1:port` now.
pub async fn look(http: &Client, port: u16) -> Port {
    match timeout(LOOK_DEADLINE, TcpStream::connect(("127.0.0.1", port))).await {
        Ok(Ok(_)) => {}
        Ok(Err(_)) => return Port::Closed,
        Err(_) => return Port::Silent,
    }
    let request = http.get(format!("http://127.0.0.1:{port}/json/version"));
    match exchange::plain(request, LOOK_DEADLINE).await {
        Ok(found) => answer::browser_path(found.status, &found.body).map_or(Port::Silent, Port::Browser),
        Err(exchange::Trouble::NotSent(_)) => Port::Closed,
        Err(_) => Port::Silent,
    }
}
