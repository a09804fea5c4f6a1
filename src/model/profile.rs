//! A profile: a browser identity kept by a provider, and the states it is shown in.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::Timestamp;

/// Longest id and name, in bytes.
pub const MAX_PROFILE_NAME_BYTES: usize = 64;

/// The provider's own name for a profile: opaque to cove. For `chromium` it is the name of the
/// profile's folder, for `dolphin` the profile's number.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub struct ProfileId(Arc<str>);

impl TryFrom<String> for ProfileId {
    type Error = ParseProfileIdError;

    fn try_from(text: String) -> Result<Self, ParseProfileIdError> {
        Self::new(&text)
    }
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a profile id has 1 to {MAX_PROFILE_NAME_BYTES} of the characters a-z A-Z 0-9 _ - and begins with a letter or digit"
)]
pub struct ParseProfileIdError;

impl ProfileId {
    /// # Errors
    /// When `text` could not be the name of a folder of its own.
    pub fn new(text: &str) -> Result<Self, ParseProfileIdError> {
        let fits = (1..=MAX_PROFILE_NAME_BYTES).contains(&text.len());
        let starts = text.starts_with(|c: char| c.is_ascii_alphanumeric());
        let plain = text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
        if fits && starts && plain { Ok(Self(text.into())) } else { Err(ParseProfileIdError) }
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ProfileId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

impl fmt::Debug for ProfileId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

/// What the store keeps of a profile.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Profile {
    pub id: ProfileId,
    /// What people call it; not necessarily unique.
    pub name: String,
    pub created_at: Timestamp,
    /// Why the profile waits for a human, while it does.
    pub parked: Option<Parked>,
    /// The site said that it did too much: it is left alone until then.
    pub rests_until: Option<Timestamp>,
    /// When an attempt in this profile was last armed: spacing counts from here.
    pub last_armed_at: Option<Timestamp>,
}

/// A profile that waits for a human.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parked {
    pub since: Timestamp,
    /// What the site asked for, in the words of the flow or the worker.
    pub message: String,
    /// The item whose attempt met it.
    pub item: Option<super::ItemId>,
}

/// What the end of an attempt means for its profile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProfileEffect {
    /// A human has to look.
    Park(String),
    /// Left alone until then.
    Rest(Timestamp),
}

/// The state a profile is shown in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProfileState {
    Idle,
    Running,
    InUseByOperator,
    NeedsHuman,
}

#[cfg(test)]
mod tests {
    use super::ProfileId;

    #[test]
    fn an_id_is_a_folder_name_and_nothing_else() {
        for good in ["anna", "a", "43499381", "team-2_b"] {
            assert!(ProfileId::new(good).is_ok(), "{good}");
        }
        for bad in ["", ".", "..", "a/b", "-a", "_a", "a b", "å", &"x".repeat(65)] {
            assert!(ProfileId::new(bad).is_err(), "{bad}");
            assert!(serde_json::from_value::<ProfileId>(bad.into()).is_err(), "{bad}");
        }
    }
}
