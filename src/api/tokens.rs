//! Tokens over HTTP: list, make, revoke. For administrators alone, as the table of routes says.
//!
//! Invariants: a token's text is in one answer, that of the request which made it, and nowhere else; the
//! keyring refuses a token before its revocation is committed, so that nothing that is dropped half-way
//! leaves it in use; a revocation is answered when nothing is done for the token any more.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use hyper::{Response, StatusCode};
use serde_json::{Map, Value, json};

use super::Context;
use super::body::{self, Reply};
use super::error::{ApiError, Code};
use super::form::{Walk, optional};
use super::front::Call;
use super::query::Query;
use crate::model::token::MAX_TOKEN_NAME_BYTES;
use crate::model::{Scope, Scopes, Timestamp, Token, TokenId, TokenText};
use crate::store::{CreateTokenError, NewToken};

/// Ten years.
pub const MAX_EXPIRES_IN_SECONDS: i64 = 10 * 366 * 24 * 60 * 60;

pub fn token_json(token: &Token, now: Timestamp) -> Value {
    let scopes: Vec<&str> = token.scopes.iter().map(Scope::name).collect();
    json!({
        "id": token.id,
        "name": token.name,
        "scopes": scopes,
        "state": token.state(now).name(),
        "created_at": token.created_at,
        "expires_at": token.expires_at,
        "last_used_at": token.last_used_at,
        "revoked_at": token.revoked_at,
        "imported": token.imported,
    })
}

/// A fresh token's text.
pub fn random_text() -> Result<TokenText, ApiError> {
    let mut bytes = [0; 128];
    let filled = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty());
    let text = filled.ok().and_then(|filled| TokenText::from_random(&bytes[..filled]));
    text.ok_or_else(|| ApiError::internal(Code::Internal, "the kernel gives no random bytes"))
}

/// What a body asks for.
pub struct Asked {
    name: String,
    scopes: Scopes,
    expires_in: Option<Duration>,
}

fn read_scopes(walk: &mut Walk, fields: &Map<String, Value>) -> Scopes {
    let Some(listed) = walk.required(fields, "", "scopes").and_then(|value| walk.array(value, "/scopes")) else {
        return Scopes::default();
    };
    if listed.is_empty() {
        walk.wrong(Code::InvalidField, "/scopes", "Expected one scope at least: read, submit, locks, sessions, admin.");
    }
    let mut scopes = BTreeSet::new();
    for (number, value) in listed.iter().enumerate() {
        let at = format!("/scopes/{number}");
        match walk.string(value, &at).map(str::parse::<Scope>) {
            Some(Ok(scope)) if scopes.insert(scope) => {}
            Some(Ok(_)) => walk.wrong(Code::InvalidField, at, "This scope stands twice."),
            Some(Err(error)) => walk.wrong(Code::InvalidField, at, format!("Not a scope; {error}.")),
            None => {}
        }
    }
    scopes.into_iter().collect()
}

pub fn read(body: &Value) -> Result<Asked, ApiError> {
    let mut walk = Walk::default();
    let mut asked = Asked { name: String::new(), scopes: Scopes::default(), expires_in: None };
    if let Some(fields) = walk.object(body, "", &["name", "scopes", "expires_in_seconds"]) {
        let name = walk.required(fields, "", "name").and_then(|value| walk.string(value, "/name"));
        name.unwrap_or_default().clone_into(&mut asked.name);
        asked.scopes = read_scopes(&mut walk, fields);
        let seconds = walk.integer(fields, "", "expires_in_seconds", &(1..=MAX_EXPIRES_IN_SECONDS));
        asked.expires_in = seconds.and_then(|seconds| u64::try_from(seconds).ok()).map(Duration::from_secs);
        let named = optional(fields, "name").is_some_and(Value::is_string);
        if named && !is_name(&asked.name) {
            let detail = format!(
                "A name has 1 to {MAX_TOKEN_NAME_BYTES} bytes, no space at its ends and no control characters."
            );
            walk.wrong(Code::InvalidField, "/name", detail);
        }
    }
    walk.finish()?;
    Ok(asked)
}

/// What a person may call a token.
pub fn is_name(name: &str) -> bool {
    (1..=MAX_TOKEN_NAME_BYTES).contains(&name.len()) && name.trim() == name && !name.chars().any(char::is_control)
}

pub async fn create(context: Arc<Context>, call: Call) -> Result<Response<Reply>, ApiError> {
    let body = call.json(&context).await?.ok_or_else(|| ApiError::new(Code::InvalidJson, "A body is expected."))?;
    let Asked { name, scopes, expires_in } = read(&body)?;
    context.needs_disk()?;
    let now = context.clock.now();
    let text = random_text()?;
    let expires_at = expires_in.map(|time| now.plus(time));
    let new = NewToken { hash: text.hash(), name, scopes, expires_at, imported: false };
    let token = context.store.create_token(new, now).await.map_err(|error| match error {
        CreateTokenError::Store(error) => error.into(),
        CreateTokenError::Full => ApiError::new(Code::TooManyTokens, format!("{error}.")),
        CreateTokenError::Exists => ApiError::internal(Code::Internal, error),
    })?;
    let mut json = token_json(&token, now);
    json["token"] = text.reveal().into();
    tracing::info!(token = %token.id, "a token was made");
    context.keyring.add(text.hash(), token);
    Ok(body::json(StatusCode::CREATED, &json))
}

pub async fn list(context: Arc<Context>, call: Call) -> Result<Response<Reply>, ApiError> {
    let mut walk = Walk::default();
    Query::read(&call.head.uri, &[], &mut walk);
    walk.finish()?;
    let now = context.clock.now();
    let tokens: Vec<Value> = context.keyring.list().iter().map(|token| token_json(token, now)).collect();
    Ok(body::json(StatusCode::OK, &json!({"tokens": tokens, "next_cursor": null})))
}

/// Twice is once.
pub async fn revoke(context: Arc<Context>, call: Call) -> Result<Response<Reply>, ApiError> {
    let missing = || ApiError::not_found("There is no token with this id.");
    let id: TokenId = call.params.get("id").parse().map_err(|_| missing())?;
    let now = context.clock.now();
    if !context.keyring.revoke(id, now) {
        return Err(missing());
    }
    context.store.revoke_token(id, now).await?;
    context.keyring.settled().await;
    tracing::info!(token = %id, "a token was revoked");
    Ok(body::empty(StatusCode::NO_CONTENT))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_wrong_field_of_a_token_is_told() {
        let wrong = |body: Value| read(&body).err().unwrap().code();
        assert_eq!(wrong(json!({"name": "a"})), Code::MissingField);
        assert_eq!(wrong(json!({"name": " a", "scopes": ["read"]})), Code::InvalidField);
        assert_eq!(wrong(json!({"name": "a", "scopes": []})), Code::InvalidField);
        assert_eq!(wrong(json!({"name": "a", "scopes": ["read", "read"]})), Code::InvalidField);
        assert_eq!(wrong(json!({"name": "a", "scopes": ["all"]})), Code::InvalidField);
        assert_eq!(wrong(json!({"name": "a", "scopes": ["read"], "expires_in_seconds": 0})), Code::InvalidField);
        assert_eq!(wrong(json!({"name": "a", "scopes": ["read"], "expires": 9})), Code::UnknownField);
        let asked = read(&json!({"name": "a", "scopes": ["submit", "read"], "expires_in_seconds": 9})).unwrap();
        assert_eq!(asked.scopes.iter().collect::<Vec<_>>(), [Scope::Read, Scope::Submit]);
        assert_eq!((asked.name.as_str(), asked.expires_in), ("a", Some(Duration::from_secs(9))));
    }

    #[test]
    fn a_fresh_token_is_one_and_is_new() {
        let (one, other) = (random_text().unwrap(), random_text().unwrap());
        assert!(!crate::model::token::is_mistyped(one.reveal()));
        assert!(one.hash() != other.hash());
    }
}
