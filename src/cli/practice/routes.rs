//! The routes of the practice site.
//!
//! | route | what |
//! |---|---|
//! | `GET /?as=NAME&SWITCH=..` | the feed with the composer, signed in as NAME |
//! | `GET /u/NAME?since=TIME` | the posts of one account, from a time on: what a verify looks at |
//! | `GET /login` · `GET /challenge` · `GET /limit` | the walls before both: a login, a verification, a rate limit |
//! | `GET /signin?as=` · `GET /confirm?as=` | what a human does: log in, confirm; back to `/` |
//! | `POST /upload?as=&nonce=&caption=` · `GET /upload/NONCE` | the Share click; how processing stands |
//! | `GET /p/ID` · `GET /p/ID/media` | a post for people; its file |
//! | `GET /posts` | every post as JSON, with the counts of clicks and requests |
//! | `GET`, `POST /admin/switches` | how the site misbehaves |
//!
//! Handlers hold the lock for a moment and never across an await.

mod feed;

use std::collections::HashSet;
use std::convert::Infallible;
use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, Limited, StreamBody};
use hyper::body::{Bytes, Frame as BodyFrame, Incoming};
use hyper::{Method, Request, Response, StatusCode, header};
use serde_json::{Value, json};

use super::board::{Added, Board, Post, Received};
use super::pages::{self, Frame, Pages, View};
use super::switches::{Switch, Switches};
use super::upload::{self, Folders, UploadError};
use super::{SiteOptions, query::Query};
use crate::model::{Clock as _, SystemClock};

const MAX_ADMIN_BODY_BYTES: usize = 64 * 1024;

pub type Body = UnsyncBoxBody<Bytes, std::io::Error>;

/// Ends the connection without an answer.
#[derive(Debug, thiserror::Error)]
#[error("the connection is cut on purpose")]
pub struct Cut;

/// What every connection shares.
pub struct Shared {
    addr: SocketAddr,
    folders: Folders,
    processing_ms: u64,
    max_file_bytes: u64,
    pages: Pages,
    state: Mutex<State>,
}

struct State {
    board: Board,
    switches: Switches,
    /// Accounts whose human passed the login wall or the verification since it was set.
    passed: HashSet<(Switch, String)>,
}

impl Shared {
    pub fn new(addr: SocketAddr, folders: Folders, options: &SiteOptions) -> Self {
        let state = State { board: Board::default(), switches: options.switches.clone(), passed: HashSet::new() };
        Self {
            addr,
            folders,
            processing_ms: options.processing_ms,
            max_file_bytes: options.max_file_bytes,
            pages: Pages::new(),
            state: Mutex::new(state),
        }
    }

    pub fn base_url(&self) -> String {
        format!("http://{}", self.addr)
    }

    pub fn posts(&self) -> Vec<Post> {
        self.state().board.posts()
    }

    pub fn set_switches(&self, change: Switches) {
        let mut state = self.state();
        let named = state.switches.apply(change);
        state.passed.retain(|(switch, _)| !named.contains(switch));
    }

    /// A handler that panicked holding the lock has changed one field at most: the state is whole.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why a request is not answered as it wishes.
enum Refusal {
    Cut,
    Say(StatusCode, String),
}

impl Refusal {
    fn say(status: StatusCode, text: impl fmt::Display) -> Self {
        Self::Say(status, text.to_string())
    }
}

impl From<UploadError> for Refusal {
    fn from(error: UploadError) -> Self {
        let status = match error {
            UploadError::TooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            UploadError::Empty => StatusCode::UNPROCESSABLE_ENTITY,
            UploadError::Slow => StatusCode::REQUEST_TIMEOUT,
            UploadError::Cut(_) => return Self::Cut,
            UploadError::Disk(_) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self::say(status, error)
    }
}

pub async fn answer(shared: Arc<Shared>, request: Request<Incoming>) -> Result<Response<Body>, Cut> {
    let wants_page =
        request.headers().get(header::ACCEPT).is_some_and(|accept| accept.as_bytes().starts_with(b"text/html"));
    match route(&shared, request).await {
        Ok(response) => Ok(response),
        Err(Refusal::Cut) => Err(Cut),
        Err(Refusal::Say(status, text)) if wants_page => {
            let view = View::Message { title: "Sorry", text };
            Ok(page(&shared, status, &Frame::default(), &view))
        }
        Err(Refusal::Say(status, text)) => Ok(as_json(status, &json!({ "error": text }))),
    }
}

async fn route(shared: &Shared, request: Request<Incoming>) -> Result<Response<Body>, Refusal> {
    check_host(shared, &request)?;
    let path = request.uri().path().to_owned();
    let parts: Vec<&str> = path.split('/').skip(1).collect();
    let reads = matches!(*request.method(), Method::GET | Method::HEAD);
    match (reads, parts.as_slice()) {
        (true, [""]) => feed::feed(shared, &request),
        (true, ["u", name]) => feed::account_posts(shared, &request, name),
        (true, ["login"]) => Ok(feed::wall(shared, &request, StatusCode::OK, &View::Login)),
        (true, ["challenge"]) => Ok(feed::wall(shared, &request, StatusCode::OK, &View::Verification)),
        (true, ["limit"]) => Ok(feed::wall(shared, &request, StatusCode::TOO_MANY_REQUESTS, &View::RateLimit)),
        (true, ["signin"]) => feed::let_in(shared, &request, Switch::LoginWall),
        (true, ["confirm"]) => feed::let_in(shared, &request, Switch::VerificationPage),
        (true, ["posts"]) => Ok(posts(shared)),
        (true, ["p", id]) => post(shared, &request, id),
        (true, ["p", id, "media"]) => media(shared, id).await,
        (true, ["upload", nonce]) => progress(shared, nonce),
        (true, ["assets", "site.css"]) => Ok(text("text/css; charset=utf-8", pages::CSS)),
        (true, ["assets", "composer.js"]) => Ok(text("text/javascript; charset=utf-8", pages::SCRIPT)),
        (true, ["admin", "switches"]) => Ok(as_json(StatusCode::OK, &json!(shared.state().switches))),
        (false, ["upload"]) if request.method() == Method::POST => take_upload(shared, request).await,
        (false, ["admin", "switches"]) if request.method() == Method::POST => change_switches(shared, request).await,
        _ => Err(Refusal::say(StatusCode::NOT_FOUND, format_args!("There is no {} {path} here.", request.method()))),
    }
}

/// A page of another site that resolves its name to this machine gets nothing.
fn check_host(shared: &Shared, request: &Request<Incoming>) -> Result<(), Refusal> {
    let port = shared.addr.port();
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    if ["127.0.0.1", "localhost", "[::1]"].iter().any(|name| host == format!("{name}:{port}")) {
        return Ok(());
    }
    let say = format!("This site is http://127.0.0.1:{port} or http://localhost:{port}, not {host:?}.");
    Err(Refusal::Say(StatusCode::MISDIRECTED_REQUEST, say))
}

fn query(request: &Request<Incoming>) -> Result<Query, Refusal> {
    Query::parse(request.uri().query().unwrap_or_default())
        .map_err(|error| Refusal::say(StatusCode::BAD_REQUEST, error))
}

fn cookie(request: &Request<Incoming>, name: &str) -> Option<String> {
    let cookies = request.headers().get_all(header::COOKIE);
    let mut pairs = cookies.iter().filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(';'));
    pairs.find_map(|pair| pair.trim().strip_prefix(name)?.strip_prefix('=').map(str::to_owned))
}

/// Who is signed in: the address says it, or the cookie does.
fn account(request: &Request<Incoming>, query: &Query) -> Option<String> {
    let signed_in = || cookie(request, "practice_profile").filter(|name| super::query::is_account(name));
    query.account.clone().or_else(signed_in)
}

fn posts(shared: &Shared) -> Response<Body> {
    let state = shared.state();
    let (clicks, requests) = state.board.counts();
    as_json(StatusCode::OK, &json!({ "posts": state.board.posts(), "clicks": clicks, "requests": requests }))
}

fn find(shared: &Shared, id: &str) -> Result<Post, Refusal> {
    let found = shared.state().board.post(id);
    found.ok_or_else(|| Refusal::say(StatusCode::NOT_FOUND, format_args!("There is no post {id:?}.")))
}

fn post(shared: &Shared, request: &Request<Incoming>, id: &str) -> Result<Response<Body>, Refusal> {
    let view = View::Post(find(shared, id)?);
    let frame = Frame { profile: account(request, &Query::default()), ..Frame::default() };
    Ok(page(shared, StatusCode::OK, &frame, &view))
}

async fn media(shared: &Shared, id: &str) -> Result<Response<Body>, Refusal> {
    use futures_util::TryStreamExt as _;

    let post = find(shared, id)?;
    let file = tokio::fs::File::open(shared.folders.post(&post.id)).await.map_err(UploadError::Disk)?;
    let stream = tokio_util::io::ReaderStream::new(file).map_ok(BodyFrame::data);
    let mut response = respond(StatusCode::OK, "video/mp4", StreamBody::new(stream).boxed_unsync());
    response.headers_mut().insert(header::CONTENT_LENGTH, post.bytes.into());
    Ok(response)
}

fn progress(shared: &Shared, nonce: &str) -> Result<Response<Body>, Refusal> {
    let progress = shared.state().board.progress(nonce);
    let progress = progress.ok_or_else(|| Refusal::say(StatusCode::NOT_FOUND, "No post came of this click."))?;
    Ok(as_json(StatusCode::OK, &json!(progress)))
}

async fn take_upload(shared: &Shared, request: Request<Incoming>) -> Result<Response<Body>, Refusal> {
    let query = query(&request)?;
    let profile = account(&request, &query)
        .ok_or_else(|| Refusal::say(StatusCode::UNAUTHORIZED, "Nobody is signed in: add as=NAME."))?;
    let nonce = query.nonce.ok_or_else(|| Refusal::say(StatusCode::BAD_REQUEST, "A click has a nonce."))?;
    let fate = {
        let mut state = shared.state();
        let State { board, switches, .. } = &mut *state;
        board
            .arrived(&nonce, &profile, switches, &query.switches, shared.processing_ms)
            .map_err(|full| Refusal::say(StatusCode::INSUFFICIENT_STORAGE, full))?
    };
    let kept = upload::receive(request.into_body(), &shared.folders, shared.max_file_bytes).await?;
    if fate.error {
        return Err(Refusal::say(StatusCode::INTERNAL_SERVER_ERROR, "Something went wrong."));
    }
    let caption = query.caption.unwrap_or_default();
    let received = Received { profile, caption, sha256: kept.sha256.clone(), bytes: kept.bytes };
    {
        let mut state = shared.state();
        if let Added::New(id) = state.board.add(&nonce, received, &shared.base_url(), SystemClock.now()) {
            // A rename within one folder: short enough for the lock, and no one sees a post without its file.
            kept.keep_as(&shared.folders.post(&id))?;
        }
    }
    if fate.cut {
        return Err(Refusal::Cut);
    }
    if fate.challenge {
        return Ok(as_json(StatusCode::FORBIDDEN, &json!({ "error": "Confirm it's you.", "to": "/challenge" })));
    }
    Ok(as_json(StatusCode::ACCEPTED, &json!({ "state": "processing", "progress": format!("/upload/{nonce}") })))
}

async fn change_switches(shared: &Shared, request: Request<Incoming>) -> Result<Response<Body>, Refusal> {
    // A content type that a foreign page can only send after asking first, which nobody here allows.
    let json_type = request
        .headers()
        .get(header::CONTENT_TYPE)
        .is_some_and(|kind| kind.as_bytes().starts_with(b"application/json"));
    if !json_type {
        return Err(Refusal::say(StatusCode::UNSUPPORTED_MEDIA_TYPE, "Send application/json."));
    }
    let body = Limited::new(request.into_body(), MAX_ADMIN_BODY_BYTES);
    let body = tokio::time::timeout(std::time::Duration::from_secs(10), body.collect())
        .await
        .map_err(|_| Refusal::say(StatusCode::REQUEST_TIMEOUT, "The body came too slowly."))?
        .map_err(|error| Refusal::say(StatusCode::BAD_REQUEST, error))?;
    let change: Switches = serde_json::from_slice(&body.to_bytes())
        .map_err(|error| Refusal::say(StatusCode::UNPROCESSABLE_ENTITY, error))?;
    shared.set_switches(change);
    Ok(as_json(StatusCode::OK, &json!(shared.state().switches)))
}

fn page(shared: &Shared, status: StatusCode, frame: &Frame, view: &View) -> Response<Body> {
    let html = "text/html; charset=utf-8";
    match shared.pages.render(frame, view) {
        Ok(text) => respond(status, html, full(text)),
        Err(error) => respond(StatusCode::INTERNAL_SERVER_ERROR, html, full(error.to_string())),
    }
}

fn as_json(status: StatusCode, value: &Value) -> Response<Body> {
    respond(status, "application/json", full(value.to_string()))
}

fn text(kind: &'static str, text: &'static str) -> Response<Body> {
    respond(StatusCode::OK, kind, full(text))
}

fn redirect(to: &str, signed_in: Option<&str>) -> Response<Body> {
    let mut response = respond(StatusCode::SEE_OTHER, "text/plain; charset=utf-8", full(String::new()));
    let to = header::HeaderValue::from_str(to).expect("a path of ours with an account in it is plain ASCII");
    response.headers_mut().insert(header::LOCATION, to);
    if let Some(name) = signed_in {
        remember(&mut response, name);
    }
    response
}

fn remember(response: &mut Response<Body>, account: &str) {
    let cookie = format!("practice_profile={account}; Path=/; Max-Age=31536000; SameSite=Lax; HttpOnly");
    let cookie = header::HeaderValue::from_str(&cookie).expect("an account is plain ASCII");
    response.headers_mut().append(header::SET_COOKIE, cookie);
}

fn full(text: impl Into<Bytes>) -> Body {
    Full::new(text.into()).map_err(|never: Infallible| match never {}).boxed_unsync()
}

fn respond(status: StatusCode, kind: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CONTENT_TYPE, kind),
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CONTENT_SECURITY_POLICY, pages::POLICY),
    ] {
        headers.insert(name, header::HeaderValue::from_static(value));
    }
    response
}
