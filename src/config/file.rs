//! The file: TOML to checked entries, each with the line it stands on.
//!
//! Reads on after a mistake, so that one run tells them all, syntax errors included. Invariant: nothing
//! of the file's text is in an error but the value of a known key that holds no secret.

use std::io::Read as _;
use std::path::Path;

use serde::Deserialize as _;
use toml::Spanned;
use toml::de::{DeTable, DeValue, ValueDeserializer};

use super::error::{ConfigError, nearest_first};
use super::keys::{self, KEYS};
use super::load::{Entries, Entry};

/// A configuration is a few kilobytes; what is larger is some other file.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// Reads and checks `path`; mistakes go to `errors`, what is right is returned all the same.
pub(super) fn read(path: &Path, errors: &mut Vec<ConfigError>) -> Entries {
    match text_of(path) {
        Ok(text) => parse(&text, &path.display().to_string(), errors),
        Err(message) => {
            errors.push(ConfigError::new("the configuration file", path.display().to_string(), message));
            Entries::new()
        }
    }
}

fn text_of(path: &Path) -> Result<String, String> {
    let cannot = |error: std::io::Error| format!("cannot be read: {error}");
    let file = std::fs::File::open(path).map_err(cannot)?;
    let mut bytes = Vec::new();
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes).map_err(cannot)?;
    if u64::try_from(bytes.len()).is_ok_and(|length| length > MAX_FILE_BYTES) {
        return Err(format!("is larger than {MAX_FILE_BYTES} bytes: this is not a configuration of cove"));
    }
    String::from_utf8(bytes).map_err(|_| "is not UTF-8 text".to_owned())
}

fn parse(text: &str, name: &str, errors: &mut Vec<ConfigError>) -> Entries {
    let place = |offset: usize| format!("{name} line {}", line_of(text, offset));
    // With their offsets: the parser sorts by name, and a human reads from the top.
    let mut mistakes: Vec<(usize, ConfigError)> = Vec::new();
    let (document, syntax) = DeTable::parse_recoverable(text);
    for error in syntax {
        let offset = error.span().map_or(0, |span| span.start);
        // The message alone: the parser's own display quotes the line, which may hold a secret.
        mistakes.push((offset, ConfigError::new("syntax", place(offset), error.message())));
    }
    let mut entries = Entries::new();
    for (section, content) in document.into_inner() {
        let offset = section.span().start;
        let section = section.into_inner();
        if !keys::sections().contains(&&*section) {
            mistakes.push((offset, ConfigError::new(&*section, place(offset), unknown_section(&section))));
            continue;
        }
        let DeValue::Table(table) = content.into_inner() else {
            let message = format!("must be a section: [{section}]");
            mistakes.push((offset, ConfigError::new(&*section, place(offset), message)));
            continue;
        };
        for (key, value) in table {
            let offset = key.span().start;
            match checked(&section, &key.into_inner(), value, &place(offset)) {
                Ok((key, entry)) => drop(entries.insert(key, entry)),
                Err(error) => mistakes.push((offset, error)),
            }
        }
    }
    mistakes.sort_by_key(|(offset, _)| *offset);
    errors.extend(mistakes.into_iter().map(|(_, error)| error));
    entries
}

fn checked(
    section: &str,
    name: &str,
    value: Spanned<DeValue<'_>>,
    source: &str,
) -> Result<(String, Entry), ConfigError> {
    let Some(key) = keys::find(section, name) else {
        return Err(ConfigError::new(format!("{section}.{name}"), source, unknown_key(section, name)));
    };
    // Only a number too large for TOML's own integers fails here.
    let value = toml::Value::deserialize(ValueDeserializer::from(value))
        .map_err(|_| ConfigError::new(key.path(), source, format!("allowed is {}", key.rule.allowed())))?;
    let value = key.check(value, source)?;
    Ok((key.path(), Entry { value, source: source.to_owned() }))
}

pub(super) fn unknown_section(name: &str) -> String {
    let homes: Vec<String> =
        KEYS.iter().filter(|key| key.name == name).map(|key| format!("[{}]", key.section)).collect();
    if homes.is_empty() {
        format!("unknown section; allowed is {}", nearest_first(name, keys::sections()))
    } else {
        format!("unknown section; a key of this name belongs under {}", homes.join(" or "))
    }
}

pub(super) fn unknown_key(section: &str, name: &str) -> String {
    let names = KEYS.iter().filter(|key| key.section == section).map(|key| key.name);
    format!("unknown key; allowed in [{section}] is {}", nearest_first(name, names))
}

fn line_of(text: &str, offset: usize) -> usize {
    let before = text.as_bytes().get(..offset).unwrap_or(text.as_bytes());
    before.split(|byte| *byte == b'\n').count()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{MAX_FILE_BYTES, parse, read};

    fn errors_of(text: &str) -> Vec<String> {
        let mut errors = Vec::new();
        parse(text, "f", &mut errors);
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn every_kind_of_mistake_is_told_in_one_run_with_its_line() {
        let errors = errors_of(
            "port = 1\nslots = 3\nlog = 3\n[engin]\na = 1\n[engine]\nslot = 9\nslots = 0\nmax_attempts = \"3\"\n\
             drain_seconds = 99999999999999999999\n[browser]\nprovider = \"firefox\"\n",
        );
        let expected = [
            "port (f line 1): unknown section; allowed is ",
            "slots (f line 2): unknown section; a key of this name belongs under [engine]",
            "log (f line 3): must be a section: [log]",
            "engin (f line 4): unknown section; allowed is engine, ",
            "engine.slot (f line 7): unknown key; allowed in [engine] is slots, ",
            "engine.slots = 0 (f line 8): allowed is 1 to 256",
            "engine.max_attempts = \"3\" (f line 9): allowed is 1 to 100, not a string in TOML",
            "engine.drain_seconds (f line 10): allowed is 0 to 86400",
            "browser.provider = \"firefox\" (f line 12): allowed is chromium, dolphin",
        ];
        assert_eq!(errors.len(), expected.len(), "{}", errors.join("\n"));
        for (error, start) in errors.iter().zip(expected) {
            assert!(error.starts_with(start), "{error}\ndoes not start with\n{start}");
        }
    }

    #[test]
    fn broken_syntax_is_told_beside_other_mistakes_and_quotes_nothing() {
        let errors = errors_of("[engine]\nslots = 0\n[dolphin]\napi_token_file = \"/ey-secret\nprofiles = []\n");
        assert!(errors.iter().any(|error| error.starts_with("syntax (f line 4): ")), "{errors:?}");
        assert!(errors.iter().any(|error| error.starts_with("engine.slots = 0")), "{errors:?}");
        let twice = errors_of("[engine]\nslots = 1\nslots = 2\n");
        assert!(twice.len() == 1 && twice[0].starts_with("syntax (f line 3): "), "{twice:?}");
        assert!(errors.iter().chain(&twice).all(|error| !error.contains("ey-secret")), "{errors:?}");
    }

    #[test]
    fn an_unknown_key_does_not_show_its_value() {
        let errors = errors_of("[dolphin]\napi_token = \"ey-secret\"\n[token]\nvalue = \"ey-secret\"\n");
        assert!(errors.len() == 2 && errors.iter().all(|error| !error.contains("ey-secret")), "{errors:?}");
        assert!(errors.iter().any(|error| error.contains("is api_token_file, ")), "{errors:?}");
    }

    #[test]
    fn what_is_right_is_kept_beside_what_is_wrong() {
        let mut errors = Vec::new();
        let entries = parse("[engine]\nslots = 4\nmax_attempts = 0\n[log]\nlevel = \"debug\"\n", "f", &mut errors);
        assert_eq!(errors.len(), 1);
        assert_eq!(entries.keys().collect::<Vec<_>>(), ["engine.slots", "log.level"]);
        assert_eq!(entries["log.level"].source, "f line 5");
    }

    #[test]
    fn a_file_that_is_missing_or_no_text_or_too_large_is_one_error() {
        let dir = tempfile::tempdir().unwrap();
        let error_of = |path: &Path| {
            let mut errors = Vec::new();
            assert!(read(path, &mut errors).is_empty());
            assert_eq!(errors.len(), 1);
            errors[0].to_string()
        };
        assert!(error_of(&dir.path().join("none.toml")).contains("cannot be read"));
        assert!(error_of(dir.path()).contains("cannot be read"));
        let path = dir.path().join("c.toml");
        std::fs::write(&path, [0xff, 0xfe]).unwrap();
        assert!(error_of(&path).contains("not UTF-8"));
        std::fs::write(&path, vec![b'#'; usize::try_from(MAX_FILE_BYTES + 1).unwrap()]).unwrap();
        assert!(error_of(&path).contains("larger than"));
    }
}
