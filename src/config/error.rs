//! A mistake in the configuration, in one line: what, where, and what is allowed.
//!
//! Built by every file of this room; read by the command line, which prints all of them together.
//! Invariant: a value that may be a secret is never in an error, neither as value nor in the message.
//! So an unknown key has no value (nobody knows what it holds), and nor has a key marked as secret.

use std::fmt;

/// One mistake. All mistakes of one load are reported together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// `section.key`, or what else is at fault (a section, the file).
    pub key: String,
    /// As it was written; `None` where it may be a secret or where there is none.
    pub value: Option<String>,
    /// A file with its line, an environment variable, or an option of the command line.
    pub source: String,
    /// What is allowed, or what to do.
    pub message: String,
}

impl ConfigError {
    pub(crate) fn new(key: impl Into<String>, source: impl Into<String>, message: impl Into<String>) -> Self {
        Self { key: key.into(), value: None, source: source.into(), message: message.into() }
    }

    pub(crate) fn with_value(mut self, value: impl Into<String>) -> Self {
        self.value = Some(value.into());
        self
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, value, source, message } = self;
        let value = value.as_ref().map_or_else(String::new, |value| format!(" = {value}"));
        let line = format!("{key}{value} ({source}): {message}");
        // A value may hold any character; the report keeps to one line per mistake and moves no cursor.
        line.chars()
            .try_for_each(|c| if c.is_control() { write!(f, "{}", c.escape_default()) } else { write!(f, "{c}") })
    }
}

impl std::error::Error for ConfigError {}

/// The allowed names, the most similar one first: one that only goes on longer, then by edits.
pub(super) fn nearest_first<'a>(name: &str, allowed: impl IntoIterator<Item = &'a str>) -> String {
    let mut names: Vec<&str> = allowed.into_iter().collect();
    names.sort_by_key(|candidate| (name.is_empty() || !candidate.starts_with(name), distance(name, candidate)));
    names.join(", ")
}

/// Levenshtein's distance. Bounded: what is longer than any real name is as far away as can be.
fn distance(a: &str, b: &str) -> usize {
    if a.len() > 64 {
        return usize::MAX;
    }
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::{ConfigError, distance, nearest_first};

    #[test]
    fn an_error_is_one_line_with_key_value_place_and_what_is_allowed() {
        let error = ConfigError::new("engine.slots", "/etc/cove/cove.toml line 12", "allowed is 1 to 256");
        assert_eq!(error.to_string(), "engine.slots (/etc/cove/cove.toml line 12): allowed is 1 to 256");
        let error = error.with_value("0");
        assert_eq!(error.to_string(), "engine.slots = 0 (/etc/cove/cove.toml line 12): allowed is 1 to 256");
        let hostile = error.with_value("a\n\u{1b}[2J");
        assert!(!hostile.to_string().contains(['\n', '\u{1b}']), "{hostile}");
    }

    #[test]
    fn the_most_similar_name_comes_first() {
        assert_eq!((distance("slot", "slots"), distance("kitten", "sitting"), distance("", "abc")), (1, 3, 3));
        assert_eq!(nearest_first("slot", ["roots", "max", "slots"]), "slots, roots, max");
        assert_eq!(nearest_first("api_token", ["api_host", "api_token_file"]), "api_token_file, api_host");
        assert_eq!(nearest_first(&"x".repeat(5_000), ["b", "a"]), "b, a");
    }
}
