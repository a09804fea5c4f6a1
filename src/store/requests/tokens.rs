//! What is asked of the store about tokens, and what it answers.

use super::StoreError;
use crate::model::{Scopes, Timestamp, TokenHash};

/// Tokens kept, those that are over included: all of them are in memory while the daemon runs.
pub const MAX_TOKENS: usize = 10_000;

#[derive(Clone, Debug)]
pub struct NewToken {
    pub hash: TokenHash,
    pub name: String,
    pub scopes: Scopes,
    pub expires_at: Option<Timestamp>,
    pub imported: bool,
}

#[derive(Debug, thiserror::Error)]
pub enum CreateTokenError {
    #[error("{MAX_TOKENS} tokens are in use; revoke some")]
    Full,
    /// Two of the same text: a random one is never made twice.
    #[error("there is a token of this text already")]
    Exists,
    #[error(transparent)]
    Store(#[from] StoreError),
}
