//! Query strings and page cursors.
//!
//! Listing handlers read their parameters here. Invariant: an unknown or repeated parameter is an error
//! and never ignored; an empty one counts as absent. A cursor is opaque to clients, says which listing it
//! belongs to, and is refused by any other.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hyper::Uri;
use percent_encoding::percent_decode_str;
use serde_json::{Value, json};

use super::error::Code;
use super::form::Walk;

pub const DEFAULT_LIMIT: usize = 100;
pub const MAX_LIMIT: usize = 1_000;

/// Which listing a cursor belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listing {
    Tasks,
    Items,
    Events,
    Deliveries,
    Snapshots,
}

impl Listing {
    const fn letter(self) -> char {
        match self {
            Self::Tasks => 't',
            Self::Items => 'i',
            Self::Events => 'e',
            Self::Deliveries => 'h',
            Self::Snapshots => 's',
        }
    }

    /// What `next_cursor` holds.
    pub fn cursor(self, next: Option<u64>) -> Value {
        next.map_or(Value::Null, |number| json!(URL_SAFE_NO_PAD.encode(format!("{}{number}", self.letter()))))
    }

    fn parse(self, cursor: &str) -> Option<u64> {
        let bytes = URL_SAFE_NO_PAD.decode(cursor).ok()?;
        let number = std::str::from_utf8(&bytes).ok()?.strip_prefix(self.letter())?.parse().ok()?;
        (self.cursor(Some(number)) == cursor).then_some(number)
    }
}

/// The parameters of one request.
pub struct Query(Vec<(String, String)>);

impl Query {
    /// Reads all of them; the wrong ones go to `walk` under their names.
    pub fn read(uri: &Uri, known: &[&str], walk: &mut Walk) -> Self {
        let mut pairs: Vec<(String, String)> = Vec::new();
        for pair in uri.query().unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let (Some(name), Some(value)) = (decode(name), decode(value)) else {
                walk.wrong(Code::InvalidField, name, "Not percent-encoded UTF-8.");
                continue;
            };
            if !known.contains(&name.as_str()) {
                let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
                walk.wrong(Code::UnknownField, name, format!("Not a parameter of this path; known: {known}."));
            } else if pairs.iter().any(|(other, _)| *other == name) {
                walk.wrong(Code::InvalidField, name, "Given twice.");
            } else if !value.is_empty() {
                pairs.push((name, value));
            }
        }
        Self(pairs)
    }

    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// A parameter that `parse` understands.
    pub fn parsed<T>(
        &self,
        name: &str,
        walk: &mut Walk,
        expected: &str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Option<T> {
        let parsed = parse(self.get(name)?);
        if parsed.is_none() {
            walk.wrong(Code::InvalidField, name, format!("Expected {expected}."));
        }
        parsed
    }

    pub fn limit(&self, walk: &mut Walk) -> usize {
        let expected = format!("a whole number from 1 to {MAX_LIMIT}");
        let parse = |text: &str| text.parse().ok().filter(|limit| (1..=MAX_LIMIT).contains(limit));
        self.parsed("limit", walk, &expected, parse).unwrap_or(DEFAULT_LIMIT)
    }

    pub fn cursor(&self, listing: Listing, walk: &mut Walk) -> Option<u64> {
        self.parsed("cursor", walk, "the `next_cursor` of an answer to this path", |text| listing.parse(text))
    }
}

fn decode(text: &str) -> Option<String> {
    let spaced = text.replace('+', " ");
    percent_decode_str(&spaced).decode_utf8().ok().map(std::borrow::Cow::into_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(text: &str, known: &[&str]) -> (Query, Walk) {
        let mut walk = Walk::default();
        let query = Query::read(&format!("/x{text}").parse().unwrap(), known, &mut walk);
        (query, walk)
    }

    #[test]
    fn parameters_are_decoded_and_empty_ones_absent() {
        let (query, walk) = query("?flow=a%20b+c&state=&&limit=7", &["flow", "state", "limit"]);
        assert!(walk.is_clean());
        assert_eq!((query.get("flow"), query.get("state"), query.get("limit")), (Some("a b c"), None, Some("7")));
    }

    #[test]
    fn unknown_repeated_and_broken_parameters_are_refused() {
        for bad in ["?other=1", "?flow=1&flow=1", "?flow=%ff", "?flow=1&Flow=2", "?%66oo"] {
            assert!(!query(bad, &["flow"]).1.is_clean(), "{bad}");
        }
        let (_, walk) = query("?a=1", &[]);
        assert_eq!(walk.finish().unwrap_err().code(), Code::UnknownField);
    }

    #[test]
    fn a_limit_is_within_bounds() {
        let limit = |text: &str| {
            let (query, mut walk) = query(text, &["limit"]);
            let limit = query.limit(&mut walk);
            walk.is_clean().then_some(limit)
        };
        assert_eq!(limit(""), Some(100));
        assert_eq!(limit("?limit=1000"), Some(1_000));
        for bad in ["?limit=0", "?limit=1001", "?limit=-1", "?limit=ten"] {
            assert_eq!(limit(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_cursor_goes_round_and_only_to_its_own_listing() {
        let text = |listing: Listing, number| listing.cursor(Some(number)).as_str().unwrap().to_owned();
        for number in [0, 7, u64::MAX] {
            assert_eq!(Listing::Tasks.parse(&text(Listing::Tasks, number)), Some(number));
        }
        assert_eq!(Listing::Tasks.cursor(None), Value::Null);
        assert_eq!(Listing::Items.parse(&text(Listing::Tasks, 7)), None);
        for forged in ["", "7", "t7", "!!!", "dDA3", "dC03"] {
            assert_eq!(Listing::Tasks.parse(forged), None, "{forged}");
        }
    }
}
