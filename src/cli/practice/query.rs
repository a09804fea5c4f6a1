//! What an address of the practice site asks for: an account, a click, a caption, switches.
//!
//! A name that is not known is refused, so that a misspelt switch in a test is not a well-behaved site.

use percent_encoding::percent_decode_str;

use super::switches::{Asked, Switch, SwitchError};
use crate::model::Timestamp;

/// Longest account name, in bytes.
pub const MAX_ACCOUNT_BYTES: usize = 64;
/// Longest caption, in characters.
pub const MAX_CAPTION_CHARACTERS: usize = 2_200;
const MAX_NONCE_BYTES: usize = 64;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Query {
    pub account: Option<String>,
    pub nonce: Option<String>,
    pub caption: Option<String>,
    /// Posts from this time on.
    pub since: Option<Timestamp>,
    pub switches: Asked,
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum QueryError {
    #[error("the address is not UTF-8 text")]
    NotText,
    #[error("an account is 1 to {MAX_ACCOUNT_BYTES} of the characters a-z A-Z 0-9 . _ -, not {0:?}")]
    Account(String),
    #[error("a nonce is 1 to {MAX_NONCE_BYTES} of the characters a-z A-Z 0-9 -")]
    Nonce,
    #[error("a caption has at most {MAX_CAPTION_CHARACTERS} characters")]
    Caption,
    #[error("since is an RFC 3339 time, such as 2026-12-01T09:00:00Z")]
    Since,
    #[error("{0:?} is neither as, nonce, caption, since nor a switch")]
    Unknown(String),
    #[error(transparent)]
    Switch(#[from] SwitchError),
}

/// Whether `text` can be an account.
pub fn is_account(text: &str) -> bool {
    (1..=MAX_ACCOUNT_BYTES).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
}

impl Query {
    /// Reads the part of an address after `?`.
    pub fn parse(text: &str) -> Result<Self, QueryError> {
        let mut query = Self::default();
        for pair in text.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let (name, value) = (decode(name)?, decode(value)?);
            match name.as_str() {
                "as" if is_account(&value) => query.account = Some(value),
                "as" => return Err(QueryError::Account(value)),
                "nonce" if is_nonce(&value) => query.nonce = Some(value),
                "nonce" => return Err(QueryError::Nonce),
                "caption" if value.chars().count() <= MAX_CAPTION_CHARACTERS => query.caption = Some(value),
                "caption" => return Err(QueryError::Caption),
                "since" => query.since = Some(value.parse().map_err(|_| QueryError::Since)?),
                other => match Switch::parse(other) {
                    Some(switch) => query.switches.add(switch, &value)?,
                    None => return Err(QueryError::Unknown(name)),
                },
            }
        }
        Ok(query)
    }
}

fn is_nonce(text: &str) -> bool {
    (1..=MAX_NONCE_BYTES).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

/// As forms write it: `+` is a space.
fn decode(text: &str) -> Result<String, QueryError> {
    let spaced = text.replace('+', " ");
    percent_decode_str(&spaced).decode_utf8().map(Into::into).map_err(|_| QueryError::NotText)
}

#[cfg(test)]
mod tests {
    use super::{Query, QueryError};

    #[test]
    fn reads_what_a_page_and_a_person_write() {
        let query =
            Query::parse("as=anna&caption=%D0%9F%D1%80%D0%B8%D0%B2%D0%B5%D1%82+%F0%9F%8C%BF%2B1&slow=20").unwrap();
        assert_eq!(query.account.as_deref(), Some("anna"));
        assert_eq!(query.caption.as_deref(), Some("Привет 🌿+1"));
        assert_eq!(query.switches.to_string(), "slow=20");
        assert_eq!(Query::parse(""), Ok(Query::default()));
    }

    #[test]
    fn refuses_what_it_does_not_know() {
        for wrong in ["as=", "as=a/b", "as=%ff", "nonce=a_b", "nonce=", "since=yesterday", "sloow=1", "login_wall=yes"]
        {
            assert!(Query::parse(wrong).is_err(), "{wrong}");
        }
        assert_eq!(Query::parse(&format!("caption={}", "a".repeat(2_201))), Err(QueryError::Caption));
    }
}
