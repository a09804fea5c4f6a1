//! Tokens by the hash of their text: made, revoked, and when each was last used.
//!
//! Called by the facade below and at boot. Invariants: no token's text comes here; a revocation is durable in
//! the ledger before it is committed, so that it survives a restore (fence.md rule 18); a token that was
//! revoked never counts again, also one that this state never saw. What a scope allows is the API's.

use redb::{ReadTransaction, ReadableTable};

use super::ledger::Line;
use super::media::hex;
use super::tables::{TOKENS, Tx};
use super::writer::Ran;
use super::{CreateTokenError, MAX_TOKENS, NewToken, Store, StoreError, codec, sure};
use crate::model::{Scopes, Timestamp, Token, TokenHash, TokenId, TokenState};

/// Of a token that only the ledger knows.
const UNKNOWN_NAME: &str = "revoked before the state was restored";

impl Tx<'_> {
    fn token(&self, hash: TokenHash) -> Result<Option<Token>, StoreError> {
        self.tokens.get(&hash.0)?.map(|row| codec::decode("tokens", row.value())).transpose()
    }

    fn put_token(&mut self, hash: TokenHash, token: &Token) -> Result<(), StoreError> {
        self.writes += 1;
        self.tokens.insert(&hash.0, codec::encode(token)?.as_slice())?;
        Ok(())
    }

    fn all_tokens(&self) -> Result<Vec<(TokenHash, Token)>, StoreError> {
        all(&self.tokens)
    }
}

fn all(table: &impl ReadableTable<&'static [u8; 32], &'static [u8]>) -> Result<Vec<(TokenHash, Token)>, StoreError> {
    let row = |row: Result<_, redb::StorageError>| {
        let (hash, row): (redb::AccessGuard<'_, &'static [u8; 32]>, redb::AccessGuard<'_, &'static [u8]>) = row?;
        Ok((TokenHash(*hash.value()), codec::decode("tokens", row.value())?))
    };
    table.iter()?.map(row).collect()
}

fn create(tx: &mut Tx<'_>, new: &NewToken, now: Timestamp) -> Ran<Token, CreateTokenError> {
    if tx.token(new.hash)?.is_some() {
        return Ok(Err(CreateTokenError::Exists));
    }
    let tokens = tx.all_tokens()?;
    if tokens.len() >= MAX_TOKENS {
        // A revoked one is never forgotten: it could be imported again.
        let over = tokens.iter().filter(|(_, token)| token.state(now) == TokenState::Expired);
        let Some((hash, _)) = over.min_by_key(|(_, token)| token.id) else {
            return Ok(Err(CreateTokenError::Full));
        };
        tx.writes += 1;
        tx.tokens.remove(&hash.0)?;
    }
    let NewToken { hash, name, scopes, expires_at, imported } = new.clone();
    let id = TokenId::new(tx.next_number());
    let token = Token { id, name, scopes, created_at: now, expires_at, last_used_at: None, revoked_at: None, imported };
    tx.put_token(hash, &token)?;
    Ok(Ok(token))
}

/// Takes over the tokens that were made elsewhere, and forgets those that are named no more. Says which stay
/// shut, since they were revoked.
fn import(tx: &mut Tx<'_>, named: &[NewToken], now: Timestamp) -> Ran<Vec<String>, std::convert::Infallible> {
    for (hash, token) in tx.all_tokens()? {
        let kept = !token.imported || token.revoked_at.is_some() || named.iter().any(|new| new.hash == hash);
        if !kept {
            tx.writes += 1;
            tx.tokens.remove(&hash.0)?;
        }
    }
    let mut shut = Vec::new();
    for new in named {
        match tx.token(new.hash)? {
            Some(token) if token.revoked_at.is_some() => shut.push(new.name.clone()),
            Some(_) => {}
            None => {
                let (id, NewToken { name, scopes, expires_at, .. }) = (TokenId::new(tx.next_number()), new.clone());
                let (last_used_at, revoked_at) = (None, None);
                let token =
                    Token { id, name, scopes, created_at: now, expires_at, last_used_at, revoked_at, imported: true };
                tx.put_token(new.hash, &token)?;
            }
        }
    }
    Ok(Ok(shut))
}

/// The token, if there is one; revoking it twice is revoking it once.
fn revoke(tx: &mut Tx<'_>, id: TokenId, now: Timestamp) -> Ran<Option<Token>, std::convert::Infallible> {
    let Some((hash, token)) = tx.all_tokens()?.into_iter().find(|(_, token)| token.id == id) else {
        return Ok(Ok(None));
    };
    if token.revoked_at.is_some() {
        return Ok(Ok(Some(token)));
    }
    let revoked = Token { revoked_at: Some(now), ..token };
    tx.put_token(hash, &revoked)?;
    tx.ledger_before.push(Line::TokenRevoked { token: hex(&hash.0), at: now });
    Ok(Ok(Some(revoked)))
}

/// What was revoked under another state, or in the moment of a crash.
pub(super) fn revoke_known(tx: &mut Tx<'_>, hash: TokenHash, at: Timestamp) -> Result<(), StoreError> {
    let token = match tx.token(hash)? {
        Some(token) if token.revoked_at.is_some() => return Ok(()),
        Some(token) => Token { revoked_at: Some(at), ..token },
        None => Token {
            id: TokenId::new(tx.next_number()),
            name: UNKNOWN_NAME.to_owned(),
            scopes: Scopes::default(),
            created_at: at,
            expires_at: None,
            last_used_at: None,
            revoked_at: Some(at),
            imported: false,
        },
    };
    tx.put_token(hash, &token)
}

pub(super) fn revoke_all(tx: &mut Tx<'_>, now: Timestamp) -> Result<(), StoreError> {
    for (hash, token) in tx.all_tokens()? {
        if token.revoked_at.is_none() {
            tx.put_token(hash, &Token { revoked_at: Some(now), ..token })?;
        }
    }
    Ok(())
}

fn note_uses(tx: &mut Tx<'_>, uses: &[(TokenHash, Timestamp)]) -> Ran<(), std::convert::Infallible> {
    for (hash, at) in uses {
        if let Some(token) = tx.token(*hash)?.filter(|token| token.last_used_at < Some(*at)) {
            tx.put_token(*hash, &Token { last_used_at: Some(*at), ..token })?;
        }
    }
    Ok(Ok(()))
}

fn list(txn: &ReadTransaction) -> Result<Vec<(TokenHash, Token)>, StoreError> {
    all(&txn.open_table(TOKENS)?)
}

/// Tokens.
impl Store {
    pub async fn create_token(&self, new: NewToken, now: Timestamp) -> Result<Token, CreateTokenError> {
        self.writer.submit(move |tx| create(tx, &new, now)).await?
    }

    /// Exactly these are there of tokens that were made elsewhere; the names of those that were revoked.
    pub async fn import_tokens(&self, named: Vec<NewToken>, now: Timestamp) -> Result<Vec<String>, StoreError> {
        sure(self.writer.submit(move |tx| import(tx, &named, now)).await)
    }

    /// None: no such token.
    pub async fn revoke_token(&self, id: TokenId, now: Timestamp) -> Result<Option<Token>, StoreError> {
        sure(self.writer.submit(move |tx| revoke(tx, id, now)).await)
    }

    /// When each was last used.
    pub async fn note_token_uses(&self, uses: Vec<(TokenHash, Timestamp)>) -> Result<(), StoreError> {
        sure(self.writer.submit(move |tx| note_uses(tx, &uses)).await)
    }

    /// All of them, in no order that means anything.
    pub async fn tokens(&self) -> Result<Vec<(TokenHash, Token)>, StoreError> {
        self.read(list).await
    }
}
