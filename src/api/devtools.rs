//! DevTools of a profile that a person opened, through cove: for a machine without a display.
//!
//! `/devtools/{token}/` leads to Chromium's own DevTools page, whose files and WebSocket are passed on to
//! the session's port. The raw port itself stays on loopback and is never shown. Invariants: the secret
//! token of an open profile is the only way in, and it is compared in constant time; only the paths that
//! DevTools needs are passed on, and only to read (a page's WebSocket aside); every wait for the browser
//! is bounded by [`upstream::DEADLINE`], and at most [`MAX_TUNNELS`] of its sockets are open, which end with
//! the browser or with the daemon.

use std::sync::Arc;

use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::upgrade::OnUpgrade;
use hyper::{Response, StatusCode};
use serde_json::Value;

use super::body::{Reply, empty, full};
use super::error::{ApiError, Code};
use super::front::Call;
use super::{Context, upstream};
use crate::engine::View;

pub const MAX_TUNNELS: usize = 32;
/// The link of an open profile; None while there is nothing to show.
pub fn url(token: &str, ready: bool) -> Option<String> {
    (ready && !token.is_empty()).then(|| format!("/devtools/{token}/"))
}

/// Compares without telling by its time how much agrees.
pub fn same(a: &str, b: &str) -> bool {
    let differing = a.bytes().zip(b.bytes()).fold(0, |differing, (a, b)| differing | (a ^ b));
    a.len() == b.len() && differing == 0
}

/// The tokens of the profiles that are open, and the ports they lead to.
fn open_doors(view: &View) -> impl Iterator<Item = (&str, Option<u16>)> {
    view.operators.values().map(|door| (door.token.as_str(), door.session.as_ref().map(|session| session.port)))
}

/// The port of the session that a token opens.
fn port_of<'a>(doors: impl Iterator<Item = (&'a str, Option<u16>)>, token: &str) -> Result<u16, ApiError> {
    let mut found = None;
    for (door, port) in doors.filter(|(door, _)| !door.is_empty()) {
        if same(door, token) {
            found = port;
        }
    }
    found.ok_or_else(|| ApiError::not_found("There is no such path."))
}

/// A path below the token that DevTools needs, as the browser knows it.
fn passed_on(rest: &str, socket: bool) -> Option<String> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-".contains(&byte);
    if !rest.bytes().all(plain) || rest.split('/').any(|part| part.is_empty() || part.starts_with('.')) {
        return None;
    }
    let endpoint = rest.starts_with("devtools/page/") || rest.starts_with("devtools/browser");
    let fits = if socket {
        rest.starts_with("devtools/page/")
    } else {
        (rest.starts_with("devtools/") && !endpoint) || matches!(rest, "json/list" | "json/version" | "json/protocol")
    };
    fits.then(|| format!("/{rest}"))
}

/// Sends a person to the DevTools of the browser's first page.
pub async fn enter(context: Arc<Context>, call: Call) -> Result<Response<Reply>, ApiError> {
    let token = call.params.get("token");
    let port = port_of(open_doors(&context.engine.view()), token)?;
    let answer = upstream::get(port, "/json/list").await?;
    let page = first_page(&answer.body).ok_or_else(|| upstream::unreachable("it shows no page"))?;
    let host = call.host();
    // DevTools' own word for a WebSocket over TLS.
    let ws = if call.secure { "wss" } else { "ws" };
    let to = format!("/devtools/{token}/devtools/inspector.html?{ws}={host}/devtools/{token}/devtools/page/{page}");
    let to = HeaderValue::from_str(&to).map_err(|_| ApiError::not_found("There is no such path."))?;
    let mut response = empty(StatusCode::FOUND);
    response.headers_mut().insert(header::LOCATION, to);
    Ok(response)
}

/// The id of the first page in the browser's list of targets.
fn first_page(list: &[u8]) -> Option<String> {
    let targets: Vec<Value> = serde_json::from_slice(list).ok()?;
    let page = targets.iter().find(|target| target["type"] == "page")?;
    let id = page["id"].as_str()?;
    id.bytes().all(|byte| byte.is_ascii_alphanumeric()).then(|| id.to_owned())
}

pub async fn pass(context: Arc<Context>, mut call: Call) -> Result<Response<Reply>, ApiError> {
    let missing = || ApiError::not_found("There is no such path.");
    let port = port_of(open_doors(&context.engine.view()), call.params.get("token"))?;
    let socket = upstream::wants_socket(&call.head.headers);
    let path = passed_on(call.params.get("rest"), socket).ok_or_else(missing)?;
    if socket {
        let ours = call.head.extensions.remove::<OnUpgrade>();
        let ours = ours.ok_or_else(|| ApiError::internal(Code::Internal, "a WebSocket without its connection"))?;
        return open_socket(&context, port, &path, &call.head.headers, ours).await;
    }
    let answer = upstream::get(port, &path).await?;
    let mut response = Response::new(full(answer.body));
    *response.status_mut() = answer.status;
    let headers = response.headers_mut();
    if let Some(kind) = answer.content_type {
        headers.insert(header::CONTENT_TYPE, kind);
    }
    // Chromium's page brings a policy of its own; a second one would only break it.
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static("frame-ancestors 'self'"));
    Ok(response)
}

async fn open_socket(
    context: &Context,
    port: u16,
    path: &str,
    headers: &HeaderMap,
    ours: OnUpgrade,
) -> Result<Response<Reply>, ApiError> {
    let socket = upstream::socket(port, path, upstream::handshake(headers)).await?;
    let mut response = empty(StatusCode::SWITCHING_PROTOCOLS);
    *response.headers_mut() = socket.headers.clone();
    context.tunnels.add(socket.join(ours))?;
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_token_of_an_open_profile_leads_in() {
        let doors = || [("secret", Some(4_000)), ("", Some(4_001)), ("early", None)].into_iter();
        assert_eq!(port_of(doors(), "secret").unwrap(), 4_000);
        for wrong in ["", "secre", "secrets", "Secret", "early", "x"] {
            assert_eq!(port_of(doors(), wrong).unwrap_err().code(), Code::NotFound, "{wrong}");
        }
        assert_eq!(url("secret", true).as_deref(), Some("/devtools/secret/"));
        assert_eq!((url("secret", false), url("", true)), (None, None));
    }

    #[test]
    fn only_what_devtools_needs_is_passed_on() {
        for good in ["devtools/inspector.html", "devtools/panels/a-b/c_d.js", "json/list", "json/version"] {
            assert_eq!(passed_on(good, false), Some(format!("/{good}")));
        }
        for bad in [
            "json/new",
            "json/close/1",
            "json",
            "devtools/../json/new",
            "devtools/./x",
            "devtools//x",
            "devtools/page/1",
            "devtools/browser/1",
            "devtools/x?y",
            "devtools/%2e%2e/x",
            "",
        ] {
            assert_eq!(passed_on(bad, false), None, "{bad}");
        }
        assert!(passed_on("devtools/page/89DF", true).is_some());
        assert!(passed_on("devtools/browser/89DF", true).is_none(), "one page, not the whole browser");
        assert!(passed_on("devtools/inspector.html", true).is_none());
    }

    #[test]
    fn the_first_page_is_shown() {
        let list = br#"[{"type":"browser_ui","id":"A"},{"type":"page","id":"B1"},{"type":"page","id":"C"}]"#;
        assert_eq!(first_page(list).as_deref(), Some("B1"));
        for bad in [&b"[]"[..], b"{", br#"[{"type":"page","id":"a/b"}]"#, br#"[{"type":"page"}]"#] {
            assert_eq!(first_page(bad), None);
        }
    }
}
