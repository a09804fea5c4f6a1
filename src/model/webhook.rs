//! A webhook: who is told of a task's outcomes, of which ones, and with which secret.
//!
//! Made by the API from a start request ([`Webhook::new`] is the one way in and checks everything), kept
//! in the task, read by the sender. Invariant: a secret has no `Debug`, and is written out only into
//! stored records; what a person is shown of the address leaves out its query, where people put tokens.
//! What is sent, and when, is not here.

use std::fmt;
use std::ops::RangeInclusive;

use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde::{Deserialize, Serialize, Serializer};
use url::Url;

/// Longest address, in bytes.
pub const MAX_WEBHOOK_URL_BYTES: usize = 2_048;
/// Length of a secret, in bytes.
pub const SECRET_BYTES: RangeInclusive<usize> = 1..=255;
/// A secret that begins so holds its key in base64, as the Standard Webhooks scheme has it.
const KEY_PREFIX: &str = "whsec_";
const MASK: &str = "***";

const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WebhookUrlError {
    #[error("an address has at most {MAX_WEBHOOK_URL_BYTES} bytes")]
    TooLong,
    #[error("expected an absolute http or https address, such as https://host/path")]
    NotHttp,
    #[error("a user or a password in the address is not supported; use `secret`, or put a token into the path")]
    UserInfo,
    #[error("a fragment (`#...`) is never sent; leave it out")]
    Fragment,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SecretError {
    #[error("a secret has {} to {} bytes", SECRET_BYTES.start(), SECRET_BYTES.end())]
    Length,
    #[error("what follows `{KEY_PREFIX}` is not base64, or empty")]
    NotBase64,
}

/// What deliveries are signed with.
#[derive(Clone, PartialEq, Eq, Deserialize)]
pub struct Secret(String);

impl Secret {
    /// # Errors
    /// When it is too short, too long, or says that it is base64 and is not.
    pub fn new(text: &str) -> Result<Self, SecretError> {
        if !SECRET_BYTES.contains(&text.len()) {
            return Err(SecretError::Length);
        }
        match text.strip_prefix(KEY_PREFIX).map(|key| BASE64.decode(key)) {
            None => Ok(Self(text.to_owned())),
            Some(Ok(key)) if !key.is_empty() => Ok(Self(text.to_owned())),
            Some(_) => Err(SecretError::NotBase64),
        }
    }

    /// The key of the signature: what follows `whsec_`, decoded, or else the text itself.
    #[must_use]
    pub fn key(&self) -> Vec<u8> {
        let decoded = self.0.strip_prefix(KEY_PREFIX).and_then(|key| BASE64.decode(key).ok());
        decoded.unwrap_or_else(|| self.0.as_bytes().to_vec())
    }
}

/// Into stored records as it is; into anything that a person may read, masked.
impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let text = if serializer.is_human_readable() { MASK } else { &self.0 };
        serializer.serialize_str(text)
    }
}

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Webhook {
    /// As the address's parser writes it, so that equal targets are equal texts.
    url: String,
    secret: Option<Secret>,
}

impl Webhook {
    /// # Errors
    /// When deliveries could not go to this address.
    pub fn new(url: &str, secret: Option<Secret>) -> Result<Self, WebhookUrlError> {
        if url.len() > MAX_WEBHOOK_URL_BYTES {
            return Err(WebhookUrlError::TooLong);
        }
        if url.contains(|c: char| c.is_whitespace() || c.is_control()) {
            return Err(WebhookUrlError::NotHttp);
        }
        let parsed = Url::parse(url).map_err(|_| WebhookUrlError::NotHttp)?;
        // `http:host` parses, and is never what was meant.
        let written_out = url.split_once("://").is_some_and(|(scheme, _)| scheme.eq_ignore_ascii_case(parsed.scheme()));
        if !matches!(parsed.scheme(), "http" | "https") || !written_out || !parsed.has_host() {
            return Err(WebhookUrlError::NotHttp);
        }
        if !parsed.username().is_empty() || parsed.password().is_some() {
            return Err(WebhookUrlError::UserInfo);
        }
        if parsed.fragment().is_some() {
            return Err(WebhookUrlError::Fragment);
        }
        let url: String = parsed.into();
        if url.len() > MAX_WEBHOOK_URL_BYTES {
            return Err(WebhookUrlError::TooLong);
        }
        Ok(Self { url, secret })
    }

    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    #[must_use]
    pub const fn secret(&self) -> Option<&Secret> {
        self.secret.as_ref()
    }

    /// Scheme, host and port (where it is not the scheme's own): what fails or works as one.
    #[must_use]
    pub fn target(&self) -> &str {
        let host = self.url.find("://").map_or(0, |colon| colon + 3);
        let end = self.url[host..].find('/').map_or(self.url.len(), |slash| host + slash);
        &self.url[..end]
    }

    /// The address for a person, without its query.
    #[must_use]
    pub fn shown_url(&self) -> String {
        match self.url.split_once('?') {
            Some((address, _)) => format!("{address}?{MASK}"),
            None => self.url.clone(),
        }
    }
}

impl fmt::Debug for Webhook {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Webhook")
            .field("url", &self.shown_url())
            .field("signed", &self.secret.is_some())
            .finish_non_exhaustive()
    }
}

/// What a webhook tells of. The order is that of the stored records; do not change it within a schema
/// version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum HookEvent {
    Succeeded,
    Failed,
    OutcomeUnknown,
    /// The item waits because its profile does.
    NeedsHuman,
    TaskFinished,
}

impl HookEvent {
    pub const ALL: [Self; 5] =
        [Self::Succeeded, Self::Failed, Self::OutcomeUnknown, Self::NeedsHuman, Self::TaskFinished];

    /// As the receiver reads it in `type`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Succeeded => "item.succeeded",
            Self::Failed => "item.failed",
            Self::OutcomeUnknown => "item.outcome_unknown",
            Self::NeedsHuman => "item.needs_human",
            Self::TaskFinished => "task.finished",
        }
    }
}

impl fmt::Display for HookEvent {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hook(url: &str) -> Result<Webhook, WebhookUrlError> {
        Webhook::new(url, None)
    }

    #[test]
    fn an_address_is_http_without_a_user_and_bounded() {
        for good in ["https://example.org", "http://127.0.0.1:9/x?y=1", "HTTPS://Example.org:443/", "http://[::1]:8/"] {
            assert!(hook(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "example.org",
            "ftp://x/",
            "file:///etc/passwd",
            "https://",
            "http:x",
            "/x",
            "https://a b/",
            "https://a/\n",
            "data:,x",
            "https:///x y",
        ] {
            assert_eq!(hook(bad).unwrap_err(), WebhookUrlError::NotHttp, "{bad}");
        }
        for bad in ["https://me@host/", "https://me:pass@host/", "https://:pass@host/"] {
            assert_eq!(hook(bad).unwrap_err(), WebhookUrlError::UserInfo, "{bad}");
        }
        assert_eq!(hook("https://host/#x").unwrap_err(), WebhookUrlError::Fragment);
        let longest = format!("https://host/{}", "a".repeat(MAX_WEBHOOK_URL_BYTES - 13));
        assert_eq!(hook(&longest).unwrap().url().len(), MAX_WEBHOOK_URL_BYTES);
        assert_eq!(hook(&format!("{longest}a")).unwrap_err(), WebhookUrlError::TooLong);
        // Longer only after the parser has written it out.
        let wide = format!("https://host/{}", "я".repeat(600));
        assert_eq!(hook(&wide).unwrap_err(), WebhookUrlError::TooLong);
    }

    #[test]
    fn equal_targets_are_equal_texts() {
        for (url, target) in [
            ("HTTPS://Example.org:443/a/b?c=/d", "https://example.org"),
            ("https://example.org", "https://example.org"),
            ("http://example.org:8080/x", "http://example.org:8080"),
            ("http://[::1]:8/x", "http://[::1]:8"),
            ("https://example.org?to=https://other/", "https://example.org"),
        ] {
            assert_eq!(hook(url).unwrap().target(), target, "{url}");
        }
    }

    #[test]
    fn events_are_told_apart_by_name() {
        let names: std::collections::BTreeSet<_> = HookEvent::ALL.into_iter().map(HookEvent::name).collect();
        assert_eq!(names.len(), HookEvent::ALL.len());
        assert!(names.iter().all(|name| name.starts_with("item.") || name.starts_with("task.")));
    }

    #[test]
    fn a_secret_is_its_bytes_or_base64_after_the_prefix() {
        let key = |text: &str| Secret::new(text).map(|secret| secret.key());
        assert_eq!(key("naïve").unwrap(), "naïve".as_bytes());
        assert_eq!(key("whsec_AQID").unwrap(), [1, 2, 3]);
        assert_eq!(key("whsec_AQI=").unwrap(), [1, 2]);
        assert_eq!(key("whsec_AQI").unwrap(), [1, 2]);
        for bad in ["whsec_", "whsec_!", "whsec_A"] {
            assert_eq!(key(bad).unwrap_err(), SecretError::NotBase64, "{bad}");
        }
        assert!(key(&"x".repeat(255)).is_ok());
        for bad in [String::new(), "x".repeat(256)] {
            assert_eq!(key(&bad).unwrap_err(), SecretError::Length);
        }
    }

    #[test]
    fn neither_the_secret_nor_the_query_is_ever_printed() {
        let secret = Secret::new("hush-hush").ok();
        let hook = Webhook::new("https://host/path?token=querytoken", secret).unwrap();
        let shown = [format!("{hook:?}"), hook.shown_url()];
        for text in &shown {
            assert!(text.contains("host/path") && !text.contains("querytoken") && !text.contains("hush"), "{text}");
        }
        assert_eq!(serde_json::to_value(hook.secret()).unwrap(), "***");
    }
}
