//! What a visitor of the practice site sees: the feed, the posts of an account, and the walls before both.
//!
//! A wall is a redirect to a page of its own, as real sites do it; it stands until a human passes it or, for the rate
//! limit, until the switch is off.

use hyper::body::Incoming;
use hyper::{Request, Response, StatusCode};

use super::{Body, Refusal, Shared, State, account, cookie, page, query, redirect, remember};
use crate::cli::practice::board;
use crate::cli::practice::pages::{Frame, View};
use crate::cli::practice::query::{Query, is_account};
use crate::cli::practice::switches::Switch;
use crate::model::Timestamp;

/// Posts shown on one page.
const SHOWN_POSTS: usize = 50;

pub(super) fn feed(shared: &Shared, request: &Request<Incoming>) -> Result<Response<Body>, Refusal> {
    visit(shared, request, |state| View::Feed(state.board.newest(SHOWN_POSTS)))
}

pub(super) fn account_posts(
    shared: &Shared,
    request: &Request<Incoming>,
    name: &str,
) -> Result<Response<Body>, Refusal> {
    if !is_account(name) {
        return Err(Refusal::say(StatusCode::NOT_FOUND, format_args!("There is no account {name:?}.")));
    }
    let since = query(request)?.since.unwrap_or(Timestamp::ZERO);
    visit(shared, request, |state| View::Account {
        name: name.to_owned(),
        posts: state.board.newest_of(name, since, SHOWN_POSTS),
    })
}

/// A page behind the walls.
fn visit(
    shared: &Shared,
    request: &Request<Incoming>,
    view: impl FnOnce(&State) -> View,
) -> Result<Response<Body>, Refusal> {
    let query = query(request)?;
    let account = account(request, &query);
    let banner_accepted = cookie(request, "practice_cookies").is_some();

    let mut state = shared.state();
    if let Some(path) = walled(&mut state, &query, account.as_deref()) {
        let to = account.map_or_else(|| path.to_owned(), |account| format!("{path}?as={account}"));
        return Ok(redirect(&to, None));
    }
    let mut ask = |switch| state.switches.ask(&query.switches, switch, account.as_deref()).is_some();
    let frame = Frame {
        cookie_banner: !banner_accepted && ask(Switch::CookieBanner),
        rename_share: ask(Switch::RenameShare),
        switches: query.switches.to_string(),
        profile: account,
    };
    let view = view(&state);
    drop(state);

    let mut response = page(shared, StatusCode::OK, &frame, &view);
    if let Some(name) = query.account {
        remember(&mut response, &name);
    }
    Ok(response)
}

/// The wall before this visitor, if one stands.
fn walled(state: &mut State, query: &Query, account: Option<&str>) -> Option<&'static str> {
    let State { switches, passed, .. } = state;
    let walls =
        [(Switch::LoginWall, "/login"), (Switch::VerificationPage, "/challenge"), (Switch::RateLimitPage, "/limit")];
    for (switch, path) in walls {
        let let_in = account.is_some_and(|account| passed.contains(&(switch, account.to_owned())));
        let in_force = query.switches.names(switch) || !let_in;
        if in_force && switches.ask(&query.switches, switch, account).is_some() {
            return Some(path);
        }
    }
    None
}

pub(super) fn wall(shared: &Shared, request: &Request<Incoming>, status: StatusCode, view: &View) -> Response<Body> {
    let named = query(request).ok().and_then(|query| query.account);
    page(shared, status, &Frame { profile: named, ..Frame::default() }, view)
}

/// What a human does at a wall: it stays open for this account until the switch is set again.
pub(super) fn let_in(shared: &Shared, request: &Request<Incoming>, switch: Switch) -> Result<Response<Body>, Refusal> {
    let query = query(request)?;
    let name = account(request, &query)
        .ok_or_else(|| Refusal::say(StatusCode::BAD_REQUEST, "Say who: add ?as=NAME to the address."))?;
    let mut state = shared.state();
    if state.passed.len() < board::MAX_CLICKS {
        state.passed.insert((switch, name.clone()));
    }
    drop(state);
    Ok(redirect("/", Some(&name)))
}
