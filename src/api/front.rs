//! The way of every request, in the order of api.md: Host, Origin and Sec-Fetch, token, scope, rate limit,
//! content type, body, handler; and what every answer carries.
//!
//! The server calls [`Front`] as its [`App`]. Invariant: no handler is reached before the guards have
//! passed, and every answer (refusals as well) names its request, shows the limits and forbids sniffing,
//! caching and framing. Paths are logged as the route's pattern: a link to `DevTools` holds a secret.

use std::future::poll_fn;
use std::net::{IpAddr, SocketAddr};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use hyper::body::Incoming;
use hyper::header::{HeaderMap, HeaderValue};
use hyper::http::request::Parts;
use hyper::{Method, Request, Response, StatusCode, header};
use serde_json::Value;
use tokio::time::{Instant, timeout};
use tracing::Instrument as _;

use super::body::{Reply, RequestBody, is_json, too_large};
use super::carried::Carried;
use super::error::{ApiError, Code, FieldError};
use super::guard::{OwnNames, request_id};
use super::json::parse_json;
use super::keyring::{self, Caller};
use super::limit::{Allowance, Class, Client, Limiter};
use super::peer::{Peer, Trust, User};
use super::routes::{Access, Answer, Found, Params, Route, Router, Takes};
use super::server::App;
use super::{Context, sized, start};

/// For a handler that reads no large body. Hashing media is the longest that one may do.
const HANDLER_DEADLINE: Duration = Duration::from_mins(15);
/// A body where none is expected.
const MAX_STRAY_BODY_BYTES: u64 = 4 * 1024;

/// One request on its way to a handler.
pub struct Call {
    pub head: Parts,
    pub caller: Caller,
    pub params: Params,
    pub body: RequestBody,
    /// Over TLS, as a proxy of ours says.
    pub secure: bool,
    /// The daemon's own.
    address: SocketAddr,
    over_unix: bool,
}

/// Put into an answer's extensions: the request gives back what it spent.
#[derive(Clone, Copy)]
pub struct SpendsNothing;

impl Call {
    /// Host and port under which the caller reached us.
    pub fn host(&self) -> String {
        let named = self.head.headers.get(header::HOST).and_then(|host| host.to_str().ok());
        named.filter(|_| !self.over_unix).map_or_else(|| self.address.to_string(), str::to_owned)
    }

    /// The body as bytes, at most the configured size; empty where none came.
    pub async fn bytes(self, context: &Context) -> Result<Bytes, ApiError> {
        let bytes = self.body.collect(context.config.server.max_body_bytes).await?;
        // It may have come slowly.
        context.keyring.check(&self.caller, context.clock.now())?;
        Ok(bytes)
    }

    /// The body as JSON; None where none came.
    pub async fn json(self, context: &Context) -> Result<Option<Value>, ApiError> {
        let bytes = self.bytes(context).await?;
        if bytes.is_empty() { Ok(None) } else { sized(bytes.len(), move || parse_json(&bytes)).await?.map(Some) }
    }
}

/// Where a request is once it has passed the guards or was refused by them.
enum Stage {
    Ended(Result<Response<Reply>, ApiError>),
    Runs(&'static Route, Answer),
}

/// What came of a request, and who was counted for it.
struct Passed {
    stage: Stage,
    class: Class,
    client: Client,
    allowance: Option<Allowance>,
    /// It was counted.
    spent: bool,
}

pub struct Front {
    context: Arc<Context>,
    router: Router,
    names: OwnNames,
    /// For who comes over the unix socket, which has no name.
    address: SocketAddr,
    limiter: Limiter,
    trust: Trust,
    carried: Carried,
}

impl Front {
    pub fn new(context: Arc<Context>, address: SocketAddr) -> Self {
        let limiter = context.limits();
        let trust = Trust::new(context.config.trusted_networks(), User::own());
        let names = OwnNames::new(address, &context.config.server.allowed_hosts);
        Self { context, router: Router::new(), names, address, limiter, trust, carried: Carried::new() }
    }

    /// Everything up to the handler, and which class was counted. `admin`: as a user of the unix socket.
    fn pass(&self, head: Parts, body: RequestBody, peer: Peer, admin: bool, now: Instant) -> Passed {
        let found = self.router.find(&head.method, head.uri.path());
        let (class, spends, access) = match &found {
            Found::Route(route, _) => (route.class, route.spends, route.access),
            _ => (Class::Requests, true, Access::Anyone),
        };
        let place = self.place(peer, &head);
        let host = if peer.is_unix() { Ok(()) } else { self.names.check_host(&head) };
        let framed = check_transfer(&head.headers).and(host);
        let allowed = match framed.and_then(|()| self.names.check_site(&head)) {
            Ok(()) => self.identify(access, peer, &head, admin),
            Err(error) => Err(error),
        };
        let caller = match allowed {
            Ok(caller) => caller,
            Err(error) => {
                let allowance = self.limiter.peek(class, place, now);
                return Passed { stage: Stage::Ended(Err(error)), class, client: place, allowance, spent: false };
            }
        };
        // Health is counted by address: a probe has no token, and a token is no reason to probe more.
        let token = caller.token.filter(|_| class != Class::Health);
        let client = token.map_or(place, Client::Token);
        if let Err(error) = may(&caller, access) {
            let allowance = self.limiter.peek(class, client, now);
            return Passed { stage: Stage::Ended(Err(error)), class, client, allowance, spent: false };
        }
        let allowance =
            if spends { self.limiter.spend(class, client, now) } else { self.limiter.peek(class, client, now) };
        let over = allowance.filter(|allowance| spends && !allowance.granted);
        let started = match found {
            Found::Route(route, params) => {
                let secure = self.trust.is_secure(peer, &head.headers);
                let over_unix = peer.is_unix();
                let call = Call { head, caller, params, body, secure, address: self.address, over_unix };
                let work = match over {
                    None => self.run(route, call),
                    Some(over) => Ok(self.replay(route, call, over)),
                };
                work.map(|work| Stage::Runs(route, work))
            }
            _ if let Some(over) = over => Err(rate_limited(over)),
            Found::WrongMethod(allow) => Err(wrong_method(&allow)),
            Found::Nothing => Err(ApiError::not_found("There is no such path.")),
        };
        let stage = started.unwrap_or_else(|error| Stage::Ended(Err(error)));
        Passed { stage, class, client, allowance, spent: spends && over.is_none() }
    }

    /// Whom to count where there is no token.
    fn place(&self, peer: Peer, head: &Parts) -> Client {
        match peer {
            Peer::Address(address) => Client::Address(self.trust.address(address, &head.headers)),
            Peer::Unix(user) => Client::User(user.map(|user| user.uid)),
        }
    }

    /// Who calls. A token that is sent is the one that counts, also on the socket.
    fn identify(&self, access: Access, peer: Peer, head: &Parts, admin: bool) -> Result<Caller, ApiError> {
        if !self.context.config.auth.required {
            return Ok(Caller::ADMIN);
        }
        if access.scope().is_none() {
            return Ok(Caller::ANYONE);
        }
        let now = self.context.clock.now();
        let keyring = &self.context.keyring;
        if let Some(token) = keyring::bearer(&head.headers) {
            return keyring.find(token?, now);
        }
        let any = || keyring.has_any(now);
        match peer {
            Peer::Unix(_) if admin => Ok(Caller::ADMIN),
            Peer::Address(address) if self.is_open(access, address, head) && any() => Ok(Caller::ANYONE),
            _ => Err(keyring::missing(any())),
        }
    }

    /// Whether the configuration opens this read to programs on this machine.
    fn is_open(&self, access: Access, address: IpAddr, head: &Parts) -> bool {
        let words = &self.context.config.auth.open_on_loopback;
        let open = access.open_word().is_some_and(|word| words.iter().any(|open| open == word));
        open && Trust::is_local(address, &head.headers) && self.names.is_loopback_name(head)
    }

    /// The handler's work, not yet begun.
    fn run(&self, route: &'static Route, mut call: Call) -> Result<Answer, ApiError> {
        // Nobody who may read waits here for what should not come.
        if matches!(call.head.method, Method::GET | Method::HEAD) && !call.body.is_empty() {
            return Err(ApiError::new(Code::UnexpectedBody, "Send this request without a body.")
                .with_header(header::CONNECTION, HeaderValue::from_static("close")));
        }
        check_form(route.takes, &call.head.headers, call.body.is_empty())?;
        let context = Arc::clone(&self.context);
        if route.takes != Takes::Nothing || call.body.is_empty() {
            return Ok((route.run)(context, call));
        }
        let stray = std::mem::take(&mut call.body);
        Ok(Box::pin(async move {
            check_stray(&stray.collect(MAX_STRAY_BODY_BYTES).await?)?;
            (route.run)(context, call).await
        }))
    }

    /// Over the limit there is only what was answered before.
    fn replay(&self, route: &'static Route, call: Call, over: Allowance) -> Answer {
        let context = Arc::clone(&self.context);
        Box::pin(async move { start::replay(&context, route, call).await.ok_or_else(|| rate_limited(over)) })
    }
}

/// A handler's answer, whatever becomes of the handler.
async fn finish(route: &'static Route, work: Answer) -> Result<Response<Reply>, ApiError> {
    let mut work = AssertUnwindSafe(work).catch_unwind();
    // Many are done at once and need no timer.
    let ended = match poll_fn(|cx| Poll::Ready(work.poll_unpin(cx))).await {
        Poll::Ready(ended) => ended,
        // Bounded by the body's own size and pace.
        Poll::Pending if route.takes == Takes::Bytes => work.await,
        Poll::Pending => {
            let late = |_| ApiError::internal(Code::NotReady, format!("{} took too long", route.path));
            timeout(HANDLER_DEADLINE, work).await.map_err(late)?
        }
    };
    ended.unwrap_or_else(|_| Err(ApiError::internal(Code::Internal, format!("{} panicked", route.path))))
}

impl App for Front {
    async fn answer(&self, request: Request<Incoming>, peer: Peer, consumed: &Arc<AtomicBool>) -> Response<Reply> {
        let begun = Instant::now();
        let (head, body) = request.into_parts();
        let id = request_id(&head.headers);
        // Whatever a handler logs says for which request.
        let span = tracing::info_span!("request", request_id = %id.as_str());
        let method = head.method.clone();
        let admin = match peer {
            // A token that is sent is the one that counts.
            Peer::Unix(user) if keyring::bearer(&head.headers).is_none() => self.trust.is_admin(user).await,
            _ => false,
        };
        let body = RequestBody::new(body, Arc::clone(consumed));
        let Passed { stage, class, client, mut allowance, spent } =
            span.in_scope(|| self.pass(head, body, peer, admin, begun));
        let answer = match stage {
            Stage::Ended(answer) => answer,
            Stage::Runs(route, work) => finish(route, work).instrument(span).await,
        };
        let mut response = answer.unwrap_or_else(|error| error.into_response(id.as_str()));
        if spent && response.extensions().get::<SpendsNothing>().is_some() {
            allowance = self.limiter.refund(class, client, Instant::now());
        }
        let took = begun.elapsed();
        self.context.store.meter().request(method.as_str(), response.status().as_u16(), took);
        let milliseconds = took.as_millis();
        let status = response.status().as_u16();
        tracing::debug!(request_id = %id.as_str(), %method, ?class, status, milliseconds);
        self.carried.add(response.headers_mut(), id, allowance, self.context.clock.now());
        if self.context.engine.is_draining() && response.status() != StatusCode::SWITCHING_PROTOCOLS {
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}

/// Whether the scopes of a token that is good are enough. Who was let in without one may.
fn may(caller: &Caller, access: Access) -> Result<(), ApiError> {
    let Some(scope) = access.scope().filter(|_| caller.token.is_some()) else { return Ok(()) };
    if access.other_scope().is_some_and(|other| caller.scopes.allow(other)) { Ok(()) } else { caller.needs(scope) }
}

/// 400 unless a body comes as it is or in chunks: another coding before the chunks would be taken for the body.
fn check_transfer(headers: &HeaderMap) -> Result<(), ApiError> {
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    let plain = codings.next().is_none_or(|only| only.as_bytes().eq_ignore_ascii_case(b"chunked"));
    if plain && codings.next().is_none() {
        return Ok(());
    }
    Err(ApiError::new(Code::UnsupportedTransfer, "Send `Transfer-Encoding: chunked`, or a Content-Length.")
        .with_header(header::CONNECTION, HeaderValue::from_static("close")))
}

/// Whether the body's declared form fits the route.
fn check_form(takes: Takes, headers: &HeaderMap, empty: bool) -> Result<(), ApiError> {
    let identity = |value: &HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"identity");
    if !headers.get_all(header::CONTENT_ENCODING).iter().all(identity) {
        return Err(ApiError::new(Code::UnsupportedEncoding, "Send the body without Content-Encoding.")
            .with_header(header::ACCEPT_ENCODING, HeaderValue::from_static("identity")));
    }
    if takes != Takes::Bytes && !empty && !is_json(headers) {
        return Err(ApiError::new(Code::UnsupportedContentType, "Send `Content-Type: application/json`.")
            .with_header(header::ACCEPT, HeaderValue::from_static("application/json")));
    }
    Ok(())
}

/// A body where none is expected: an empty object is what some clients send for nothing.
fn check_stray(body: &[u8]) -> Result<(), ApiError> {
    let wrong = |name: &str| {
        let detail = "This request takes no fields.";
        FieldError::new(Code::UnknownField, super::form::pointer("", name), detail)
    };
    match parse_json(body)? {
        Value::Null => Ok(()),
        Value::Object(fields) if fields.is_empty() => Ok(()),
        Value::Object(fields) => Err(ApiError::fields(fields.keys().map(|name| wrong(name)).collect())),
        _ => Err(ApiError::field(FieldError::new(Code::InvalidField, "", "This request takes no body."))),
    }
}

fn rate_limited(over: Allowance) -> ApiError {
    let seconds = whole_seconds(over.reset_in);
    let detail = format!("At most {} of these per window; try again in {seconds} seconds.", over.limit);
    ApiError::new(Code::RateLimited, detail).with_header(header::RETRY_AFTER, seconds.into())
}

fn wrong_method(allow: &str) -> ApiError {
    let value = HeaderValue::from_str(allow).expect("method names are header text");
    ApiError::new(Code::MethodNotAllowed, format!("This path knows {allow}.")).with_header(header::ALLOW, value)
}

/// Rounded up: whoever waits so long finds the window over.
fn whole_seconds(duration: Duration) -> u64 {
    duration.as_secs() + u64::from(duration.subsec_nanos() > 0)
}

/// What `Content-Length` says.
pub fn declared_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok())
}

/// 413 at once for a body whose declared length is too large.
pub fn check_length(headers: &HeaderMap, max_bytes: u64) -> Result<(), ApiError> {
    if declared_length(headers).is_some_and(|bytes| bytes > max_bytes) { Err(too_large(max_bytes)) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderName;

    use super::*;

    fn headers(pairs: &[(HeaderName, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.clone(), HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn the_form_is_checked_before_the_body() {
        let none = headers(&[]);
        for takes in [Takes::Nothing, Takes::MaybeJson, Takes::Json, Takes::Bytes] {
            assert!(check_form(takes, &none, true).is_ok(), "no body needs no content type");
            let gzip = headers(&[(header::CONTENT_ENCODING, "gzip")]);
            assert_eq!(check_form(takes, &gzip, false).unwrap_err().code(), Code::UnsupportedEncoding);
        }
        let text = headers(&[(header::CONTENT_TYPE, "text/plain")]);
        for takes in [Takes::Nothing, Takes::MaybeJson, Takes::Json] {
            assert_eq!(check_form(takes, &text, false).unwrap_err().code(), Code::UnsupportedContentType);
            assert_eq!(check_form(takes, &none, false).unwrap_err().code(), Code::UnsupportedContentType);
        }
        assert!(check_form(Takes::Bytes, &text, false).is_ok());
        assert!(check_form(Takes::Bytes, &headers(&[(header::CONTENT_ENCODING, "identity")]), false).is_ok());
    }

    #[test]
    fn a_stray_body_may_only_be_empty() {
        assert!(check_stray(b"{}").is_ok());
        assert!(check_stray(b"null").is_ok());
        assert_eq!(check_stray(b"{\"a\":1}").unwrap_err().code(), Code::UnknownField);
        assert_eq!(check_stray(b"[]").unwrap_err().code(), Code::InvalidField);
        assert_eq!(check_stray(b"{").unwrap_err().code(), Code::InvalidJson);
    }

    #[tokio::test]
    async fn over_the_limit_is_429_with_the_time_to_wait() {
        let over = Allowance { limit: 5, remaining: 0, reset_in: Duration::from_millis(100), granted: false };
        let response = rate_limited(over).into_response("r");
        assert_eq!((response.status().as_u16(), &response.headers()["retry-after"]), (429, &"1".parse().unwrap()));
        let response = wrong_method("GET, HEAD").into_response("r");
        assert_eq!((response.status().as_u16(), &response.headers()["allow"]), (405, &"GET, HEAD".parse().unwrap()));
    }

    #[test]
    fn a_declared_length_over_the_limit_is_refused_at_once() {
        let declared = headers(&[(header::CONTENT_LENGTH, "11")]);
        assert!(check_length(&declared, 11).is_ok());
        assert_eq!(check_length(&declared, 10).unwrap_err().code(), Code::BodyTooLarge);
    }
}
