//! Ids and fences: `epoch << 40 | sequence`, 53 bits, so that they never repeat, not even after a
//! restore (fence.md rule 1). They are made by the store alone, from one sequence, and grow. Which epoch a
//! state is in, and where in it a state without its ledger begins, stands in `store/epoch.rs`.
//!
//! In JSON they are opaque strings: a letter that says what it is (`t` task, `i` item, `f` fence, `h` delivery, `k` token) and
//! the number in decimal. In stored records they are the number.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Bits of the sequence within one epoch: 10^12 ids.
pub const SEQUENCE_BITS: u32 = 40;
/// Largest epoch: ids stay within the 53 bits that a JSON number keeps exactly.
pub const MAX_EPOCH: u64 = (1 << 13) - 1;

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an id of cove: expected `{letter}` and a number")]
pub struct ParseIdError {
    letter: char,
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $letter:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(u64);

        impl $name {
            #[must_use]
            pub const fn new(raw: u64) -> Self {
                Self(raw)
            }

            #[must_use]
            pub const fn raw(self) -> u64 {
                self.0
            }

            #[must_use]
            pub const fn epoch(self) -> u64 {
                self.0 >> SEQUENCE_BITS
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(out, "{}{}", $letter, self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, out)
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;

            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                text.strip_prefix($letter)
                    .filter(|digits| !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()))
                    .and_then(|digits| digits.parse().ok())
                    .map(Self)
                    .ok_or(ParseIdError { letter: $letter })
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                if serializer.is_human_readable() {
                    serializer.collect_str(self)
                } else {
                    serializer.serialize_u64(self.0)
                }
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                if deserializer.is_human_readable() {
                    String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
                } else {
                    u64::deserialize(deserializer).map(Self)
                }
            }
        }
    };
}

id!(
    /// A task.
    TaskId,
    't'
);
id!(
    /// An item of a task.
    ItemId,
    'i'
);
id!(
    /// A number that outdates every smaller one: given to each attempt and each lock.
    Fence,
    'f'
);
id!(
    /// A delivery of a webhook; the same in every try.
    DeliveryId,
    'h'
);
id!(
    /// A token; its text is another thing.
    TokenId,
    'k'
);

#[cfg(test)]
mod tests {
    use super::{ItemId, TaskId};

    #[test]
    fn an_id_says_what_it_is() {
        assert_eq!(TaskId::new(7).to_string(), "t7");
        assert_eq!("i42".parse(), Ok(ItemId::new(42)));
        for wrong in ["42", "t42", "i", "i-1", "i+1", "i99999999999999999999999"] {
            assert!(wrong.parse::<ItemId>().is_err(), "{wrong}");
        }
    }
}
