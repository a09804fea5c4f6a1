//! The tokens that a daemon starts with: those of the store, and those that were made elsewhere.
//!
//! Called once, before anything listens to requests. A token of `WORKER_API_TOKEN` or of `[auth] token_file`
//! is accepted in any form, hashed at once, and lives as long as it is named there. Invariant: beyond
//! loopback nobody is served by a daemon that no token opens.

use std::ffi::OsString;

use super::ServeError;
use crate::config::dolphin::TokenSource;
use crate::config::{Config, ConfigError};
use crate::model::token::MAX_TOKEN_BYTES;
use crate::model::{Scopes, Timestamp, Token, TokenHash, TokenState, TokenText};
use crate::store::{NewToken, Store};

/// The original's.
const VARIABLE: &str = "WORKER_API_TOKEN";
/// One that could be guessed.
const SHORT_BYTES: usize = 16;

pub(super) async fn load(
    config: &Config,
    variable: impl Fn(&str) -> Option<OsString>,
    store: &Store,
    now: Timestamp,
) -> Result<Vec<(TokenHash, Token)>, ServeError> {
    let named = named(config, variable).map_err(ServeError::Config)?;
    let failed = |error| ServeError::Tokens(error);
    for name in store.import_tokens(named, now).await.map_err(failed)? {
        tracing::warn!("the token of {name} was revoked, so it opens nothing; give it another");
    }
    let tokens = store.tokens().await.map_err(failed)?;
    let usable = tokens.iter().any(|(_, token)| token.state(now) == TokenState::Active);
    if config.auth.required && !usable && !config.listens_on_loopback() {
        let message = "no token was made yet, so nobody beyond this machine may be let in: make one first with \
                       `cove tokens create NAME --scope admin`, which works while the daemon does not run";
        let error = ConfigError::new("server.listen", "in effect", message);
        return Err(ServeError::Config(error.with_value(format!("\"{}\"", config.server.listen))));
    }
    if config.auth.required && !usable {
        tracing::warn!("no token was made yet: only the unix socket is open; `cove tokens create NAME --scope admin`");
    }
    Ok(tokens)
}

/// Hashed; no text leaves this function.
fn named(config: &Config, variable: impl Fn(&str) -> Option<OsString>) -> Result<Vec<NewToken>, ConfigError> {
    let mut named = Vec::new();
    let mut add = |text: &str, name: &str| {
        if text.len() < SHORT_BYTES {
            tracing::warn!("the token of {name} is shorter than {SHORT_BYTES} characters and could be guessed");
        }
        let hash = TokenText::imported(text.to_owned()).hash();
        let (name, scopes) = (name.to_owned(), Scopes::ADMIN);
        named.push(NewToken { hash, name, scopes, expires_at: None, imported: true });
    };
    if let Some(text) = variable(VARIABLE).filter(|text| !text.is_empty()) {
        let text = text.to_str().map(str::trim).unwrap_or_default();
        if text.is_empty() || text.len() > MAX_TOKEN_BYTES || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            let message = format!("allowed is one word of at most {MAX_TOKEN_BYTES} plain characters");
            return Err(ConfigError::new(VARIABLE, "the environment", message));
        }
        add(text, VARIABLE);
    }
    if let Some(path) = &config.auth.token_file {
        let token = TokenSource::File(path.clone()).read();
        let token = token.map_err(|why| ConfigError::new("auth.token_file", "in effect", why))?;
        add(token.reveal(), "[auth] token_file");
    }
    Ok(named)
}

#[cfg(test)]
mod tests {
    use super::{Config, named};

    #[test]
    fn tokens_of_any_form_are_taken_over_and_a_wrong_one_is_not_shown() {
        let of =
            |text: &'static str| named(&Config::default(), move |name| (name == super::VARIABLE).then(|| text.into()));
        assert!(of("").unwrap().is_empty());
        let tokens = of(" Old-Token_of.1/ ").unwrap();
        assert_eq!((tokens.len(), tokens[0].name.as_str()), (1, "WORKER_API_TOKEN"));
        assert_eq!(tokens[0].hash, crate::model::TokenHash::of("Old-Token_of.1/"));
        for wrong in ["two words-secret", "\u{e9}-secret", "   "] {
            let error = of(wrong).err().unwrap().to_string();
            assert!(error.starts_with("WORKER_API_TOKEN") && !error.contains("secret"), "{error}");
        }
        let mut config = Config::default();
        config.auth.token_file = Some("/nonexistent/token".into());
        assert!(named(&config, |_| None).err().unwrap().to_string().starts_with("auth.token_file"));
    }
}
