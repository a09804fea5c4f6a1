//! Who calls: every token in memory, and what each request may do.
//!
//! The front asks [`Keyring::find`] for a bearer token; the handlers of tokens keep it in step with the
//! store. It is loaded before the first connection is accepted, and nobody else writes tokens while the
//! daemon holds the file. Invariants: a revoked token is refused from the moment its revocation was asked
//! for, before it is committed, and when a revocation is answered nothing that [acts](Keyring::act) for the token is
//! under way; whoever waits for longer is [told](Keyring::revoked); only hashes are held; when a token was last used is
//! written down at most once a minute, all together, and never by a request.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{PoisonError, RwLock};
use std::time::Duration;

use hyper::header::{self, HeaderMap, HeaderValue};
use tokio::sync::{RwLockReadGuard, watch};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::Context;
use super::error::{ApiError, Code};
use crate::model::token::{MAX_TOKEN_BYTES, is_mistyped};
use crate::model::{Scope, Scopes, Timestamp, Token, TokenHash, TokenId, TokenState};

const NOTE_EVERY: Duration = Duration::from_secs(60);
const SCHEME: &str = "Bearer ";

/// On whose behalf a handler works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller {
    pub scopes: Scopes,
    /// None: the socket, or a daemon that asks for no tokens.
    pub token: Option<TokenId>,
    /// That token's, to ask for it again.
    pub hash: Option<TokenHash>,
}

impl Caller {
    pub const ADMIN: Self = Self { scopes: Scopes::ADMIN, token: None, hash: None };
    /// Passed the guards, and no more is known.
    pub const ANYONE: Self = Self { scopes: Scopes::NONE, token: None, hash: None };

    /// 403 for a caller who may not.
    pub fn needs(&self, scope: Scope) -> Result<(), ApiError> {
        if self.scopes.allow(scope) {
            return Ok(());
        }
        let detail = format!("This needs a token with the scope {scope}: `cove tokens create NAME --scope {scope}`.");
        let told = format!("Bearer realm=\"cove\", error=\"insufficient_scope\", scope=\"{scope}\"");
        let told = HeaderValue::from_str(&told).expect("scopes are plain words");
        Err(ApiError::new(Code::MissingScope, detail).with_header(header::WWW_AUTHENTICATE, told))
    }
}

struct Key {
    token: Token,
    last_used_ms: AtomicU64,
}

impl Key {
    fn last_used(&self) -> Option<Timestamp> {
        let ms = self.last_used_ms.load(Ordering::Relaxed);
        (ms > 0).then(|| Timestamp::from_millis(ms))
    }
}

#[derive(Default)]
pub struct Keyring {
    keys: RwLock<HashMap<TokenHash, Key>>,
    /// How many there were.
    revocations: watch::Sender<u64>,
    /// Held for reading by what has to be over before a revocation is answered.
    acting: tokio::sync::RwLock<()>,
}

impl Keyring {
    pub fn new(tokens: Vec<(TokenHash, Token)>) -> Self {
        let keyring = Self::default();
        for (hash, token) in tokens {
            keyring.add(hash, token);
        }
        keyring
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, HashMap<TokenHash, Key>> {
        self.keys.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn add(&self, hash: TokenHash, token: Token) {
        let last_used_ms = AtomicU64::new(token.last_used_at.map_or(0, Timestamp::as_millis));
        self.keys.write().unwrap_or_else(PoisonError::into_inner).insert(hash, Key { token, last_used_ms });
    }

    /// False: there is no such token.
    pub fn revoke(&self, id: TokenId, now: Timestamp) -> bool {
        let mut keys = self.keys.write().unwrap_or_else(PoisonError::into_inner);
        let Some(key) = keys.values_mut().find(|key| key.token.id == id) else { return false };
        key.token.revoked_at.get_or_insert(now);
        drop(keys);
        self.revocations.send_modify(|count| *count += 1);
        true
    }

    /// Comes back when nothing is done any more for a token that was revoked before.
    pub async fn settled(&self) {
        drop(self.acting.write().await);
    }

    /// For a step that must not be taken for a revoked token, in however short a time between look and step: as long
    /// as what this gives is held, no revocation is answered.
    pub async fn act(&self, caller: &Caller, now: Timestamp) -> Result<RwLockReadGuard<'_, ()>, ApiError> {
        let acting = self.acting.read().await;
        self.check(caller, now)?;
        Ok(acting)
    }

    /// Whether a caller who was let in may still go on.
    pub fn check(&self, caller: &Caller, now: Timestamp) -> Result<(), ApiError> {
        let Some(hash) = caller.hash else { return Ok(()) };
        may_be_used(self.read().get(&hash).map_or(TokenState::Revoked, |key| key.token.state(now)))
    }

    pub fn revocations(&self) -> watch::Receiver<u64> {
        self.revocations.subscribe()
    }

    /// 401 where it was; None cannot be.
    pub fn check_revoked(&self, hash: Option<TokenHash>) -> Result<(), ApiError> {
        let is_revoked = |hash| self.read().get(&hash).is_none_or(|key| key.token.revoked_at.is_some());
        if hash.is_some_and(is_revoked) { may_be_used(TokenState::Revoked) } else { Ok(()) }
    }

    /// Comes back when this token is revoked; without one, never.
    pub async fn revoked(&self, hash: Option<TokenHash>) {
        let mut revocations = self.revocations();
        while self.check_revoked(hash).is_ok() {
            if hash.is_none() || revocations.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Whether any token can be used now.
    pub fn has_any(&self, now: Timestamp) -> bool {
        self.read().values().any(|key| key.token.state(now) == TokenState::Active)
    }

    /// Who sent this text.
    pub fn find(&self, text: &str, now: Timestamp) -> Result<Caller, ApiError> {
        if text.len() > MAX_TOKEN_BYTES || is_mistyped(text) {
            return Err(refused(Code::TokenInvalid, "This is no token of cove; a character may be missing or wrong."));
        }
        let (keys, hash) = (self.read(), TokenHash::of(text));
        let Some(key) = keys.get(&hash) else {
            return Err(refused(
                Code::TokenInvalid,
                "Nobody knows this token; `cove tokens list` shows those there are.",
            ));
        };
        may_be_used(key.token.state(now))?;
        key.last_used_ms.fetch_max(now.as_millis(), Ordering::Relaxed);
        Ok(Caller { scopes: key.token.scopes, token: Some(key.token.id), hash: Some(hash) })
    }

    /// Newest first, each with its last use.
    pub fn list(&self) -> Vec<Token> {
        let told = |key: &Key| Token { last_used_at: key.last_used(), ..key.token.clone() };
        let mut tokens: Vec<Token> = self.read().values().map(told).collect();
        tokens.sort_by_key(|token| std::cmp::Reverse(token.id));
        tokens
    }

    /// What was used since it was last written down.
    fn uses(&self) -> Vec<(TokenHash, Timestamp)> {
        let keys = self.read();
        let used = keys.iter().filter_map(|(hash, key)| Some((*hash, key.last_used()?, key.token.last_used_at)));
        used.filter(|(_, at, written)| Some(*at) > *written).map(|(hash, at, _)| (hash, at)).collect()
    }

    fn written(&self, uses: &[(TokenHash, Timestamp)]) {
        let mut keys = self.keys.write().unwrap_or_else(PoisonError::into_inner);
        for (hash, at) in uses {
            if let Some(key) = keys.get_mut(hash) {
                key.token.last_used_at = Some(*at);
            }
        }
    }
}

/// Writes down uses until `stop`, and once more then.
pub async fn note_uses(context: &Context, stop: &CancellationToken) {
    loop {
        let ends = tokio::select! {
            () = stop.cancelled() => true,
            () = sleep(NOTE_EVERY) => false,
        };
        let uses = context.keyring.uses();
        if !uses.is_empty() && context.engine.view().no_disk.is_none() {
            match context.store.note_token_uses(uses.clone()).await {
                Ok(()) => context.keyring.written(&uses),
                Err(error) => tracing::warn!(%error, "when tokens were last used is not written down"),
            }
        }
        if ends {
            return;
        }
    }
}

/// The bearer token of a head; None: it has no Authorization at all.
pub fn bearer(headers: &HeaderMap) -> Option<Result<&str, ApiError>> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let first = values.next()?;
    let only = values.next().is_none();
    let text = first.to_str().ok().filter(|_| only);
    let bearer = text.and_then(|text| {
        let (scheme, token) = text.split_at_checked(SCHEME.len())?;
        scheme.eq_ignore_ascii_case(SCHEME).then(|| token.trim())
    });
    Some(bearer.filter(|token| !token.is_empty()).ok_or_else(|| {
        refused(Code::TokenInvalid, "Send one `Authorization: Bearer TOKEN`; cove knows no other scheme.")
    }))
}

/// 401 for who came without a token.
pub fn missing(any: bool) -> ApiError {
    let detail = if any {
        "Send `Authorization: Bearer TOKEN`, or use the unix socket."
    } else {
        "No token was made yet. Make one on the daemon's machine: `cove tokens create NAME --scope admin`; then send it \
         as `Authorization: Bearer TOKEN`."
    };
    let told = HeaderValue::from_static("Bearer realm=\"cove\"");
    ApiError::new(Code::TokenMissing, detail).with_header(header::WWW_AUTHENTICATE, told)
}

fn may_be_used(state: TokenState) -> Result<(), ApiError> {
    match state {
        TokenState::Active => Ok(()),
        TokenState::Expired => Err(refused(Code::TokenExpired, "The time of this token is over; make another.")),
        TokenState::Revoked => Err(refused(Code::TokenRevoked, "This token was revoked; make another.")),
    }
}

fn refused(code: Code, detail: &str) -> ApiError {
    let told = HeaderValue::from_static("Bearer realm=\"cove\", error=\"invalid_token\"");
    ApiError::new(code, detail).with_header(header::WWW_AUTHENTICATE, told)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_000_000);

    fn token(id: u64, scope: Scope) -> Token {
        Token {
            id: TokenId::new(id),
            name: "n".to_owned(),
            scopes: [scope].into_iter().collect(),
            created_at: NOW,
            expires_at: Some(NOW.plus(Duration::from_secs(1))),
            last_used_at: None,
            revoked_at: None,
            imported: true,
        }
    }

    #[test]
    fn a_token_is_good_until_it_expires_or_is_revoked() {
        let keyring = Keyring::new(vec![(TokenHash::of("old form"), token(7, Scope::Read))]);
        let code = |text: &str, now| keyring.find(text, now).unwrap_err().code();
        let caller = keyring.find("old form", NOW).unwrap();
        assert_eq!(caller.token, Some(TokenId::new(7)));
        assert!(caller.needs(Scope::Read).is_ok());
        assert_eq!(caller.needs(Scope::Submit).unwrap_err().code(), Code::MissingScope);
        assert_eq!(code("old forn", NOW), Code::TokenInvalid);
        assert_eq!(code("cove_typo", NOW), Code::TokenInvalid);
        assert_eq!(code("old form", NOW.plus(Duration::from_secs(1))), Code::TokenExpired);
        assert!(keyring.has_any(NOW) && !keyring.has_any(NOW.plus(Duration::from_secs(1))));
        assert!(keyring.revoke(TokenId::new(7), NOW) && !keyring.revoke(TokenId::new(8), NOW));
        assert_eq!(code("old form", NOW), Code::TokenRevoked);
        assert!(!keyring.has_any(NOW));
    }

    #[tokio::test]
    async fn a_revocation_ends_what_waits_and_waits_for_what_acts() {
        let keyring = Keyring::new(vec![
            (TokenHash::of("a"), token(7, Scope::Read)),
            (TokenHash::of("b"), token(8, Scope::Read)),
        ]);
        let caller = keyring.find("a", NOW).unwrap();
        let other = keyring.find("b", NOW).unwrap();
        let acting = keyring.act(&caller, NOW).await.unwrap();
        let answered = AtomicU64::new(0);
        let revoke = async {
            assert!(keyring.revoke(TokenId::new(7), NOW));
            keyring.settled().await;
            answered.store(1, Ordering::Relaxed);
        };
        let waits = async {
            keyring.revoked(caller.hash).await;
            assert_eq!(answered.load(Ordering::Relaxed), 0, "what it did before is not over");
            drop(acting);
        };
        tokio::join!(waits, revoke);
        assert_eq!(keyring.act(&caller, NOW).await.unwrap_err().code(), Code::TokenRevoked);
        assert_eq!(keyring.check_revoked(caller.hash).unwrap_err().code(), Code::TokenRevoked);
        for goes_on in [other, Caller::ADMIN] {
            assert!(keyring.act(&goes_on, NOW).await.is_ok() && keyring.check_revoked(goes_on.hash).is_ok());
        }
    }

    #[test]
    fn a_use_is_told_once() {
        let keyring = Keyring::new(vec![(TokenHash::of("a"), token(7, Scope::Read))]);
        assert!(keyring.uses().is_empty());
        keyring.find("a", NOW).unwrap();
        assert_eq!(keyring.list()[0].last_used_at, Some(NOW));
        let uses = keyring.uses();
        assert_eq!(uses, [(TokenHash::of("a"), NOW)]);
        keyring.written(&uses);
        assert!(keyring.uses().is_empty());
    }

    #[test]
    fn a_bearer_token_stands_once_under_its_scheme() {
        let heads = |values: &[&'static str]| {
            let pairs = values.iter().map(|value| (header::AUTHORIZATION, HeaderValue::from_static(value)));
            pairs.collect::<HeaderMap>()
        };
        assert!(bearer(&heads(&[])).is_none());
        for good in ["Bearer abc", "bearer abc", "BEARER  abc "] {
            assert_eq!(bearer(&heads(&[good])).unwrap().unwrap(), "abc", "{good}");
        }
        for bad in ["", "Bearer", "Bearer ", "Basic abc", "abc"] {
            assert_eq!(bearer(&heads(&[bad])).unwrap().unwrap_err().code(), Code::TokenInvalid, "{bad}");
        }
        let mut twice = heads(&["Bearer a"]);
        twice.append(header::AUTHORIZATION, HeaderValue::from_static("Bearer a"));
        assert!(bearer(&twice).unwrap().is_err(), "twice");
    }
}
