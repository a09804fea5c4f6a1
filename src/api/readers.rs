//! The readers of requests, for whoever feeds them with what no client would send: the fuzzer.
//!
//! They are the very functions that the handlers call before they look anything up. Nothing is done with what was
//! read.

use std::net::SocketAddr;
use std::time::Duration;

use hyper::Request;
use serde_json::{Map, Value};

use super::error::ApiError;
use super::form::Walk;
use super::guard::{OwnNames, request_id};
use super::json::parse_json;
use super::query::{Listing, Query};
use super::routes::Router;
use super::start::idempotency_key;
use super::start::request::{Bounds, read as read_start};
use super::{admin, claims, intents, keyring, locks, profiles, sessions, tokens};
use crate::model::Timestamp;

/// Kinds of bodies that [`read_body`] knows, from 0.
pub const BODIES: usize = 11;

fn fields<T>(body: &Value, read: impl FnOnce(&mut Walk, &Map<String, Value>) -> T) -> Result<(), ApiError> {
    let mut walk = Walk::default();
    if let Some(fields) = walk.map(body, "") {
        read(&mut walk, fields);
    }
    walk.finish()
}

/// Reads a body of the kind with this number.
///
/// # Errors
/// What is wrong with it, as the client would be told.
pub fn read_body(kind: usize, body: &[u8]) -> Result<(), ApiError> {
    let body = parse_json(body)?;
    match kind % BODIES {
        0 => {
            let bounds = Bounds {
                max_items: 100,
                default_max_attempts: 3,
                idempotency_key: Some("key".to_owned()),
                now: Timestamp::from_millis(1_800_000_000_000),
            };
            let mut walk = Walk::default();
            read_start(&body, &bounds, &mut walk);
            walk.finish()
        }
        1 => claims::read_claim(&body).map(drop),
        2 => fields(&body, |walk, fields| (claims::read_fence(walk, fields), claims::read_hashes(walk, fields))),
        3 => fields(&body, |walk, fields| (claims::read_result(walk, fields), walk.web_address(fields, "", "url"))),
        4 => fields(&body, claims::read_failure),
        5 => intents::read_resolve(&body).map(drop),
        6 => sessions::read_asked(&body, Duration::from_secs(60), true).map(drop),
        7 => locks::read_cleanup(Some(&body)).map(drop),
        8 => fields(&body, locks::read_named),
        9 => tokens::read(&body).map(drop),
        _ => admin::read_accept_duplicates(Some(&body))
            .and_then(|_| profiles::read_headless(Some(&body), true))
            .and_then(|_| profiles::read_name(&body))
            .map(drop),
    }
}

/// Reads a head of `method target` and lines of headers as the guards and the listings do. None: hyper would not
/// have let it in.
pub fn read_head(text: &str) -> Option<Result<(), ApiError>> {
    let mut lines = text.lines();
    let (method, target) = lines.next()?.split_once(' ')?;
    let mut request = Request::builder().method(method).uri(target);
    for line in lines {
        let (name, value) = line.split_once(':')?;
        request = request.header(name, value.trim());
    }
    let (head, ()) = request.body(()).ok()?.into_parts();
    Some(read_parts(&head))
}

fn read_parts(head: &hyper::http::request::Parts) -> Result<(), ApiError> {
    let names = OwnNames::new(SocketAddr::from(([127, 0, 0, 1], 8_088)), &["cove.example.org".to_owned()]);
    let id = request_id(&head.headers);
    assert!(!id.as_str().is_empty(), "an answer names its request");
    drop(Router::new().find(&head.method, head.uri.path()));
    names.check_host(head)?;
    names.check_site(head)?;
    keyring::bearer(&head.headers).transpose()?;
    idempotency_key(&head.headers)?;
    let mut walk = Walk::default();
    let query = Query::read(&head.uri, &["state", "cursor", "limit"], &mut walk);
    query.limit(&mut walk);
    for listing in [Listing::Tasks, Listing::Items, Listing::Events, Listing::Deliveries] {
        query.cursor(listing, &mut walk);
    }
    locks::parse_cursor(query.get("cursor").unwrap_or_default());
    walk.finish()
}
