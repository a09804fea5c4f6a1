//! The way into a lent browser: its CDP endpoint on cove's own address.
//!
//! The secret token in the path is the only way in, compared in constant time; it dies with the lock, and with the token that
//! the session was lent with. After the
//! upgrade bytes are passed on as they come, in both directions, until one side ends or the session does. Also the
//! small document that Playwright's `connect_over_cdp("http://..")` asks for, which leads to the same address
//! and names the browser. These two are the places where a handler waits for a browser to come up, bounded by
//! [`OPEN_WITHIN`]: a client asks for them once and takes a refusal for the end.

use std::sync::Arc;
use std::time::Duration;

use hyper::header::{self, HeaderValue};
use hyper::upgrade::OnUpgrade;
use hyper::{Response, StatusCode};
use serde_json::{Value, json};
use tokio::time::timeout;

use super::super::body::{self, Reply, empty};
use super::super::devtools::same;
use super::super::error::{ApiError, Code};
use super::super::front::Call;
use super::super::{Context, upstream};
use super::{Reached, address, parse_session_id};
use crate::browser::Session;
use crate::engine::{Door, MAX_VISITS};
use crate::model::{Fence, TokenHash};

/// Longer than any provider takes to start a browser, or to say that it cannot.
const OPEN_WITHIN: Duration = Duration::from_secs(120);

/// The session whose secret this is, and with which token it was lent: that is not revoked.
fn door(context: &Context, call: &Call) -> Result<(Fence, Arc<Door>, Option<TokenHash>), ApiError> {
    let token = call.params.get("token");
    let fence = parse_session_id(call.params.get("id"));
    let found = fence.and_then(|fence| Some((fence, context.engine.door(fence)?)));
    let found = found.filter(|(_, door)| !door.token().is_empty() && same(door.token(), token));
    let (fence, door) = found.ok_or_else(|| ApiError::not_found("There is no such path."))?;
    let lender = context.lenders.of(fence);
    context.keyring.check_revoked(lender)?;
    Ok((fence, door, lender))
}

async fn opened(context: &Context, door: &Door, lender: Option<TokenHash>) -> Result<Session, ApiError> {
    let late = |_| ApiError::new(Code::NotReady, "The browser is not up yet; connect again.");
    let opened = tokio::select! {
        () = context.keyring.revoked(lender) => Ok(Err(String::new())),
        opened = timeout(OPEN_WITHIN, door.opened()) => opened,
    };
    context.keyring.check_revoked(lender)?;
    opened.map_err(late)?.map_err(|why| ended(&why))
}

fn ended(why: &str) -> ApiError {
    ApiError::new(Code::SessionEnded, format!("The session ended: {why}."))
}

/// Waits for the browser, and joins the program to it.
pub async fn connect(context: Arc<Context>, mut call: Call) -> Result<Response<Reply>, ApiError> {
    let (_, door, lender) = door(&context, &call)?;
    if let Some(why) = door.why_shut() {
        return Err(ended(&why));
    }
    let ours = call.head.extensions.remove::<OnUpgrade>();
    let Some(ours) = ours.filter(|_| upstream::wants_socket(&call.head.headers)) else {
        let detail = "This is the address of a browser: connect a WebSocket, for example with `connect_over_cdp`.";
        let upgrade = HeaderValue::from_static("websocket");
        return Err(ApiError::new(Code::UpgradeRequired, detail).with_header(header::UPGRADE, upgrade));
    };
    let session = opened(&context, &door, lender).await?;
    let many = || ApiError::new(Code::NotReady, format!("The session has {MAX_VISITS} connections; close one."));
    let visit = door.visit().ok_or_else(many)?;
    let socket = upstream::socket(session.port, &session.ws_path, upstream::handshake(&call.head.headers)).await?;
    let mut response = empty(StatusCode::SWITCHING_PROTOCOLS);
    *response.headers_mut() = socket.headers.clone();
    let keyring = Arc::clone(&context.keyring);
    context.session_tunnels.add(async move {
        tokio::select! {
            () = door.shut() => {}
            () = keyring.revoked(lender) => {}
            () = socket.join(ours) => {}
        }
        drop(visit);
    })?;
    Ok(response)
}

/// What a client that was given an http address asks first. It waits like the upgrade that follows it.
pub async fn version(context: Arc<Context>, call: Call) -> Result<Response<Reply>, ApiError> {
    let (fence, door, lender) = door(&context, &call)?;
    let session = opened(&context, &door, lender).await?;
    let answer = upstream::get(session.port, "/json/version").await?;
    let version: Result<Value, _> = serde_json::from_slice(&answer.body);
    let mut version = version.ok().filter(Value::is_object).ok_or_else(|| upstream::unreachable("no version"))?;
    version["webSocketDebuggerUrl"] = json!(address(fence, &Reached::by(&call), door.token()).1);
    Ok(body::json(StatusCode::OK, &version))
}
