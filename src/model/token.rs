//! Tokens: how their text is made and checked, what one may do, and what is kept of it.
//!
//! A token is `cove_`, 30 characters of base62, and the CRC-32 of both in 6 more: a scanner finds it in
//! what was published by mistake, and a typo is told from a stranger's token without a look at the store.
//! Invariants: the text itself is never stored, has no `Debug` and leaves this process once, in the answer
//! to who made it; everything that is kept names its SHA-256. Random bytes enter as an argument.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{Timestamp, TokenId};

pub const TOKEN_PREFIX: &str = "cove_";
/// Of base62: 178 bits.
pub const TOKEN_RANDOM_CHARACTERS: usize = 30;
const CHECK_CHARACTERS: usize = 6;
/// Longest text that is looked up; an imported token has any form.
pub const MAX_TOKEN_BYTES: usize = 4 * 1024;
pub const MAX_TOKEN_NAME_BYTES: usize = 100;
const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// What a token may do. Each is one thing; `admin` is everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// Look at tasks, items, evidence, profiles, flows, locks, health and figures.
    Read,
    /// Put flows and media, start tasks, and decide about them.
    Submit,
    /// Take and free locks, and do the work of an outside worker.
    Locks,
    /// Drive browsers.
    Sessions,
    /// Everything, tokens included.
    Admin,
}

impl Scope {
    pub const ALL: [Self; 5] = [Self::Read, Self::Submit, Self::Locks, Self::Sessions, Self::Admin];

    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Submit => "submit",
            Self::Locks => "locks",
            Self::Sessions => "sessions",
            Self::Admin => "admin",
        }
    }

    const fn bit(self) -> u8 {
        1 << self as u8
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.name())
    }
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("allowed is read, submit, locks, sessions or admin")]
pub struct UnknownScope;

impl FromStr for Scope {
    type Err = UnknownScope;

    fn from_str(text: &str) -> Result<Self, UnknownScope> {
        Self::ALL.into_iter().find(|scope| scope.name() == text).ok_or(UnknownScope)
    }
}

/// A set of scopes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scopes(u8);

impl Scopes {
    pub const ADMIN: Self = Self(Scope::Admin.bit());
    pub const NONE: Self = Self(0);

    /// Whether this much may be done.
    #[must_use]
    pub const fn allow(self, scope: Scope) -> bool {
        self.0 & (scope.bit() | Scope::Admin.bit()) != 0
    }

    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// As they were given, in the order of [`Scope::ALL`].
    pub fn iter(self) -> impl Iterator<Item = Scope> {
        Scope::ALL.into_iter().filter(move |scope| self.0 & scope.bit() != 0)
    }
}

impl FromIterator<Scope> for Scopes {
    fn from_iter<I: IntoIterator<Item = Scope>>(scopes: I) -> Self {
        Self(scopes.into_iter().fold(0, |bits, scope| bits | scope.bit()))
    }
}

/// SHA-256 of a token's text: all that is kept of it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TokenHash(pub [u8; 32]);

impl TokenHash {
    #[must_use]
    pub fn of(text: &str) -> Self {
        Self(Sha256::digest(text.as_bytes()).into())
    }
}

/// Short: the whole of it is in no log.
impl fmt::Debug for TokenHash {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, ..] = self.0;
        write!(out, "{a:02x}{b:02x}{c:02x}{d:02x}..")
    }
}

/// A token as its holder knows it.
pub struct TokenText(String);

impl TokenText {
    /// None: the random bytes ran out, since those that would favour some digits are thrown away.
    #[must_use]
    pub fn from_random(bytes: &[u8]) -> Option<Self> {
        const FAIR: u8 = 62 * 4;
        let digits = bytes.iter().filter(|byte| **byte < FAIR).map(|byte| char::from(DIGITS[usize::from(byte % 62)]));
        let random: String = digits.take(TOKEN_RANDOM_CHARACTERS).collect();
        if random.len() < TOKEN_RANDOM_CHARACTERS {
            return None;
        }
        let body = format!("{TOKEN_PREFIX}{random}");
        let check = check_of(&body);
        Some(Self(body + &check))
    }

    /// One that was made elsewhere.
    #[must_use]
    pub const fn imported(text: String) -> Self {
        Self(text)
    }

    /// For the one answer that it goes into.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }

    #[must_use]
    pub fn hash(&self) -> TokenHash {
        TokenHash::of(&self.0)
    }
}

/// The CRC-32 of a text in base62, with zeros in front.
fn check_of(body: &str) -> String {
    let mut rest = crc32fast::hash(body.as_bytes()) as usize;
    let mut check = [b'0'; CHECK_CHARACTERS];
    for digit in check.iter_mut().rev() {
        *digit = DIGITS[rest % DIGITS.len()];
        rest /= DIGITS.len();
    }
    check.iter().map(|byte| char::from(*byte)).collect()
}

/// What is wrong with a text that looks like one of cove's own tokens and is none, which needs no look at the store.
/// What looks otherwise may have been imported.
#[must_use]
pub fn why_mistyped(text: &str) -> Option<&'static str> {
    let rest = text.strip_prefix(TOKEN_PREFIX)?;
    if !rest.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return Some("after `cove_` it may only have the letters a-z and A-Z, and digits");
    }
    if rest.len() != TOKEN_RANDOM_CHARACTERS + CHECK_CHARACTERS {
        return Some("after `cove_` it has to have 36 characters");
    }
    let right = |(body, check): (&str, &str)| check_of(body) == check;
    let checked = text.split_at_checked(text.len() - CHECK_CHARACTERS).is_some_and(right);
    (!checked).then_some("its check characters do not fit: one or more of it are wrong")
}

#[must_use]
pub fn is_mistyped(text: &str) -> bool {
    why_mistyped(text).is_some()
}

/// What is kept of a token, beside its hash.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token {
    pub id: TokenId,
    pub name: String,
    pub scopes: Scopes,
    pub created_at: Timestamp,
    pub expires_at: Option<Timestamp>,
    /// To a minute or so.
    pub last_used_at: Option<Timestamp>,
    pub revoked_at: Option<Timestamp>,
    /// Made elsewhere, and taken over from the environment or a file.
    pub imported: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenState {
    Active,
    Expired,
    Revoked,
}

impl TokenState {
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Expired => "expired",
            Self::Revoked => "revoked",
        }
    }
}

impl Token {
    #[must_use]
    pub fn state(&self, now: Timestamp) -> TokenState {
        if self.revoked_at.is_some() {
            TokenState::Revoked
        } else if self.expires_at.is_some_and(|end| end <= now) {
            TokenState::Expired
        } else {
            TokenState::Active
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(seed: u8) -> TokenText {
        let bytes: Vec<u8> = (0..64).map(|n: u8| n.wrapping_mul(37).wrapping_add(seed)).collect();
        TokenText::from_random(&bytes).unwrap()
    }

    #[test]
    fn a_token_has_its_form_and_one_wrong_character_is_found() {
        for seed in 0..50 {
            let token = made(seed);
            let text = token.reveal();
            assert_eq!(text.len(), 41);
            assert!(text.starts_with("cove_") && !is_mistyped(text), "{text}");
            for place in 0..text.len() {
                let mut typo = text.as_bytes().to_vec();
                typo[place] = if typo[place] == b'x' { b'y' } else { b'x' };
                let typo = String::from_utf8(typo).unwrap();
                assert!(is_mistyped(&typo) || !typo.starts_with(TOKEN_PREFIX), "{typo}");
            }
            assert!(is_mistyped(&text[..40]) && is_mistyped(&format!("{text}0")) && is_mistyped("cove_"));
        }
        assert!(!is_mistyped("a token of another make"), "it may have been imported");
        assert!(is_mistyped(&format!("cove_{}é", "a".repeat(34))));
    }

    #[test]
    fn random_bytes_that_favour_digits_are_thrown_away() {
        assert!(TokenText::from_random(&[255; 200]).is_none());
        assert!(TokenText::from_random(&[1; 29]).is_none());
        assert!(TokenText::from_random(&[1; 30]).is_some());
        assert_ne!(made(1).reveal(), made(2).reveal());
    }

    #[test]
    fn admin_is_everything_and_the_others_are_one_thing_each() {
        for scope in Scope::ALL {
            assert!(Scopes::ADMIN.allow(scope));
            assert_eq!(scope.name().parse(), Ok(scope));
            let only: Scopes = [scope].into_iter().collect();
            for other in Scope::ALL {
                assert_eq!(only.allow(other), other == scope || scope == Scope::Admin, "{scope} {other}");
            }
            assert_eq!(only.iter().collect::<Vec<_>>(), [scope]);
        }
        assert_eq!("Admin".parse::<Scope>(), Err(UnknownScope));
        assert!(Scopes::default().is_empty() && !Scopes::default().allow(Scope::Read));
    }

    #[test]
    fn revoked_is_said_before_expired() {
        let at = Timestamp::from_millis;
        let token = Token {
            id: TokenId::new(1),
            name: "n".to_owned(),
            scopes: Scopes::ADMIN,
            created_at: at(0),
            expires_at: Some(at(10)),
            last_used_at: None,
            revoked_at: None,
            imported: false,
        };
        assert_eq!(token.state(at(9)), TokenState::Active);
        assert_eq!(token.state(at(10)), TokenState::Expired);
        assert_eq!(Token { revoked_at: Some(at(1)), ..token }.state(at(10)), TokenState::Revoked);
    }
}
