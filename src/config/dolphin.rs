//! What `[dolphin]` says beyond plain values: the list of profiles, the address as the original wrote it,
//! and where the token is.
//!
//! The check of the keys and the daemon's composition read it. A token is read when it is used, so that a
//! new one in the same file needs no restart. Invariants: a token has no `Debug`, is in no message, and
//! holds nothing that could not stand in a header.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use super::{ConfigError, Dolphin};

/// Where systemd puts what `LoadCredential=dolphin-token:...` names.
const CREDENTIALS_VARIABLE: &str = "CREDENTIALS_DIRECTORY";
const CREDENTIAL: &str = "dolphin-token";
/// The original's.
const TOKEN_VARIABLE: &str = "DOLPHIN_API_TOKEN";
const MAX_TOKEN_BYTES: usize = 8 * 1024;
const DEFAULT_PORT: u16 = 3001;
pub(super) const ALLOWED_PROFILES: &str =
    "a list of profiles, each an id (a number) or \"id=name\", none of them twice";

/// A profile that the configuration names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedProfile {
    pub id: u64,
    pub name: Option<String>,
}

/// A secret: it can be sent, and not be shown.
pub struct Token(String);

impl Token {
    /// For the one header or body that it goes into.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

/// Where the token is.
pub enum TokenSource {
    /// Its first line, read at each use.
    File(PathBuf),
    /// From the environment.
    Given(Token),
}

impl Dolphin {
    /// The profiles of the list. A loaded configuration has no other entries.
    #[must_use]
    pub fn named_profiles(&self) -> Vec<NamedProfile> {
        self.profiles.iter().filter_map(|entry| named_profile(entry)).collect()
    }

    /// `variable` reads the environment. None: there is no token, and the list of profiles is all there is.
    ///
    /// # Errors
    /// When the place that was configured holds no token.
    pub fn token_source(
        &self,
        variable: impl Fn(&str) -> Option<OsString>,
    ) -> Result<Option<TokenSource>, ConfigError> {
        let error = |key: &str, why: String| ConfigError::new(key, "in effect", why);
        if let Some(path) = &self.api_token_file {
            let source = TokenSource::File(path.clone());
            return match source.read() {
                Ok(_) => Ok(Some(source)),
                Err(why) => Err(error("dolphin.api_token_file", why)),
            };
        }
        let credential = variable(CREDENTIALS_VARIABLE).map(|folder| Path::new(&folder).join(CREDENTIAL));
        if let Some(path) = credential.filter(|path| path.exists()) {
            let source = TokenSource::File(path);
            return match source.read() {
                Ok(_) => Ok(Some(source)),
                Err(why) => Err(error("the credential dolphin-token", why)),
            };
        }
        match variable(TOKEN_VARIABLE).filter(|text| !text.is_empty()) {
            Some(text) => match text.to_str().ok_or("is no text").and_then(token) {
                Ok(token) => Ok(Some(TokenSource::Given(token))),
                Err(why) => Err(error(TOKEN_VARIABLE, why.to_owned())),
            },
            None => Ok(None),
        }
    }
}

impl TokenSource {
    /// Blocks for a small file.
    ///
    /// # Errors
    /// Why there is none now; never with anything of the file's content.
    pub fn read(&self) -> Result<Token, String> {
        match self {
            Self::Given(Token(text)) => Ok(Token(text.clone())),
            Self::File(path) => {
                let mut text = Vec::new();
                let limit = u64::try_from(2 * MAX_TOKEN_BYTES).unwrap_or(u64::MAX);
                let read = std::fs::File::open(path).and_then(|file| file.take(limit).read_to_end(&mut text));
                read.map_err(|error| format!("the token's file cannot be read: {error}"))?;
                let text = String::from_utf8(text).map_err(|_| "the token's file is no text".to_owned())?;
                token(text.lines().next().unwrap_or_default()).map_err(|why| format!("the token's file {why}"))
            }
        }
    }
}

fn token(text: &str) -> Result<Token, &'static str> {
    let text = text.trim();
    match text {
        "" => Err("has an empty first line; the token belongs there"),
        _ if text.len() > MAX_TOKEN_BYTES => Err("holds something longer than any token"),
        _ if !text.bytes().all(|byte| byte.is_ascii_graphic()) => {
            Err("holds something that is no token: a token is one word of plain characters")
        }
        _ => Ok(Token(text.to_owned())),
    }
}

/// `id` or `id=name`.
fn named_profile(entry: &str) -> Option<NamedProfile> {
    let (id, name) = match entry.split_once('=') {
        Some((id, name)) => (id, Some(name.trim())),
        None => (entry, None),
    };
    let id = profile_number(id.trim())?;
    let fits = name.is_none_or(|name| !name.is_empty() && !name.chars().any(char::is_control));
    fits.then(|| NamedProfile { id, name: name.map(str::to_owned) })
}

/// Dolphin's own number of a profile: a positive int64 in plain digits.
#[must_use]
pub fn profile_number(text: &str) -> Option<u64> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit()) && !text.starts_with('0');
    text.parse().ok().filter(|number| plain && is_profile_number(*number))
}

#[must_use]
pub fn is_profile_number(number: u64) -> bool {
    number != 0 && i64::try_from(number).is_ok()
}

pub(super) fn are_profiles<'a>(entries: impl Iterator<Item = &'a str>) -> bool {
    let mut seen = BTreeSet::new();
    entries.into_iter().all(|entry| named_profile(entry).is_some_and(|profile| seen.insert(profile.id)))
}

/// The original's `DOLPHIN_API_HOST`: an address, or only a host with or without its port.
pub(super) fn api_host(text: &str) -> String {
    if text.contains("://") {
        return text.to_owned();
    }
    // Of `[::1]` only what follows the bracket can be a port.
    let has_port = text.rsplit_once(']').map_or(text, |(_, rest)| rest).contains(':');
    if has_port { format!("http://{text}") } else { format!("http://{text}:{DEFAULT_PORT}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_profile_is_an_id_with_or_without_a_name() {
        let named = |id, name: Option<&str>| Some(NamedProfile { id, name: name.map(str::to_owned) });
        assert_eq!(named_profile("43499381"), named(43_499_381, None));
        assert_eq!(named_profile(" 7 = Anna = Ben "), named(7, Some("Anna = Ben")));
        for bad in ["", "0", "07", "-7", "anna", "7=", "7=a\nb", "=x", "9223372036854775808"] {
            assert_eq!(named_profile(bad), None, "{bad}");
        }
        assert!(are_profiles(["1", "2=x"].into_iter()));
        assert!(!are_profiles(["1", "1=x"].into_iter()));
    }

    #[test]
    fn the_originals_host_may_be_bare() {
        for (text, url) in [
            ("localhost", "http://localhost:3001"),
            ("10.0.0.1:3002", "http://10.0.0.1:3002"),
            ("http://127.0.0.1:3001", "http://127.0.0.1:3001"),
            ("[::1]", "http://[::1]:3001"),
            ("[::1]:9", "http://[::1]:9"),
        ] {
            assert_eq!(api_host(text), url);
        }
    }

    #[test]
    fn the_token_comes_from_the_file_then_the_credential_then_the_environment() {
        let folder = tempfile::tempdir().unwrap();
        let (file, credential) = (folder.path().join("t"), folder.path().join(CREDENTIAL));
        let mut dolphin = Dolphin::default();
        let variable = |name: &str| match name {
            CREDENTIALS_VARIABLE => Some(folder.path().into()),
            TOKEN_VARIABLE => Some("of-the-environment".into()),
            _ => None,
        };
        let token = |dolphin: &Dolphin| {
            dolphin.token_source(variable).map(|source| source.unwrap().read().unwrap().reveal().to_owned())
        };
        assert_eq!(token(&dolphin), Ok("of-the-environment".to_owned()));
        std::fs::write(&credential, "of-the-credential\n").unwrap();
        assert_eq!(token(&dolphin), Ok("of-the-credential".to_owned()));
        dolphin.api_token_file = Some(file.clone());
        assert!(token(&dolphin).unwrap_err().to_string().starts_with("dolphin.api_token_file (in effect): "));
        std::fs::write(&file, " of-the-file \nrest").unwrap();
        assert_eq!(token(&dolphin), Ok("of-the-file".to_owned()));
        assert!(Dolphin::default().token_source(|_| None).unwrap().is_none());
    }

    #[test]
    fn what_is_no_token_is_refused_and_never_shown() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t");
        for bad in ["", "\ns3cret", "s3cret s3cret", "s3cr\u{e9}t", &"s3cret".repeat(2_000)] {
            std::fs::write(&path, bad).unwrap();
            let why = TokenSource::File(path.clone()).read().map(|_| ()).unwrap_err();
            assert!(!why.contains("s3cr"), "{why}");
        }
        assert!(Dolphin::default().token_source(|_| Some("a b".into())).is_err());
    }
}
