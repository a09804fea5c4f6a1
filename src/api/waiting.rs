//! What is answered while the state file cannot be opened for want of space: health 503 with the reason,
//! 507 to everything else.
//!
//! The daemon serves this in place of the API and ends it when the state is open. The guards are the
//! API's own: another site's page learns nothing here either. Nothing is read and nothing is kept.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use hyper::body::Incoming;
use hyper::header::HeaderValue;
use hyper::http::request::Parts;
use hyper::{Method, Request, Response, StatusCode, header};
use serde_json::json;
use tokio::net::{TcpListener, UnixListener};
use tokio_util::sync::CancellationToken;

use super::body::{self, Reply};
use super::carried::Carried;
use super::error::{ApiError, Code};
use super::guard::{OwnNames, request_id};
use super::peer::Peer;
use super::server::{self, App, Bounds};
use crate::model::Clock;

/// Whoever waits for the daemon asks again; a few at a time are enough.
const MAX_CONNECTIONS: usize = 64;
const RETRY_AFTER_SECONDS: &str = "30";

struct Waiting {
    names: OwnNames,
    why: String,
    clock: Arc<dyn Clock>,
    carried: Carried,
}

/// Serves until `stop`.
pub async fn serve(
    why: String,
    allowed_hosts: Vec<String>,
    clock: Arc<dyn Clock>,
    tcp: TcpListener,
    unix: UnixListener,
    stop: CancellationToken,
) {
    let address = tcp.local_addr().unwrap_or_else(|_| ([127, 0, 0, 1], 0).into());
    let waiting =
        Arc::new(Waiting { names: OwnNames::new(address, &allowed_hosts), why, clock, carried: Carried::new() });
    let bounds = Bounds { max_connections: MAX_CONNECTIONS, proxies: Vec::new() };
    server::run(waiting, tcp, Some(unix), bounds, stop).await;
}

impl Waiting {
    fn pass(&self, head: &Parts, peer: Peer) -> Result<Response<Reply>, ApiError> {
        if !peer.is_unix() {
            self.names.check_host(head)?;
        }
        self.names.check_site(head)?;
        let reads = matches!(head.method, Method::GET | Method::HEAD);
        match head.uri.path() {
            "/api/v1/health/simple" if reads => {
                Ok(body::json(StatusCode::SERVICE_UNAVAILABLE, &json!({"ok": false, "status": "unhealthy"})))
            }
            "/api/v1/health" if reads => Ok(body::json(
                StatusCode::SERVICE_UNAVAILABLE,
                &json!({
                    "ok": false,
                    "status": "unhealthy",
                    "version": env!("CARGO_PKG_VERSION"),
                    "timestamp": self.clock.now(),
                    "parts": {
                        "store": {"status": "unhealthy", "reason": self.why},
                        "engine": {"status": "unhealthy", "reason": "the state file is not open yet"},
                        "disk": {"status": "unhealthy", "reason": self.why},
                    },
                }),
            )),
            _ => Err(ApiError::new(Code::NoDisk, &self.why)
                .with_header(header::RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER_SECONDS))),
        }
    }
}

impl App for Waiting {
    async fn answer(&self, request: Request<Incoming>, peer: Peer, _: &Arc<AtomicBool>) -> Response<Reply> {
        let (head, _) = request.into_parts();
        let id = request_id(&head.headers);
        let mut response = self.pass(&head, peer).unwrap_or_else(|error| error.into_response(id.as_str()));
        self.carried.add(response.headers_mut(), id, None, self.clock.now());
        response
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use hyper::Request;
    use serde_json::Value;

    use super::{Carried, Peer, Waiting};
    use crate::api::body::read_reply;
    use crate::api::guard::OwnNames;
    use crate::model::SystemClock;

    async fn ask(method: &str, path: &str, peer: Peer) -> (u16, Value) {
        let waiting = Waiting {
            names: OwnNames::new(([127, 0, 0, 1], 8088).into(), &[]),
            why: "the disk is full".to_owned(),
            clock: Arc::new(SystemClock),
            carried: Carried::new(),
        };
        let head = Request::builder().method(method).uri(path).header("host", "evil.com").body(()).unwrap();
        let answer = waiting.pass(&head.into_parts().0, peer);
        let response = answer.unwrap_or_else(|error| error.into_response("r"));
        let status = response.status().as_u16();
        (status, serde_json::from_slice(&read_reply(response).await).unwrap())
    }

    #[tokio::test]
    async fn health_tells_the_reason_and_the_rest_has_to_come_again() {
        let (status, json) = ask("GET", "/api/v1/health", Peer::Unix(None)).await;
        assert_eq!((status, json["parts"]["disk"]["reason"].as_str()), (503, Some("the disk is full")));
        assert_eq!(ask("GET", "/api/v1/health/simple", Peer::Unix(None)).await.0, 503);
        for (method, path) in
            [("POST", "/api/v1/bulk-upload/start"), ("GET", "/api/v1/tasks"), ("POST", "/api/v1/health")]
        {
            let (status, json) = ask(method, path, Peer::Unix(None)).await;
            assert_eq!((status, json["code"].as_str()), (507, Some("no_disk")), "{method} {path}");
        }
        let stranger = Peer::Address(std::net::Ipv4Addr::LOCALHOST.into());
        assert_eq!(ask("GET", "/api/v1/health", stranger).await.0, 421);
    }
}
