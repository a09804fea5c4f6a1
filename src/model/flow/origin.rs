//! Addresses: which origin one belongs to, and what is nobody's.

use super::Template;
use super::inputs::is_url;

/// Where a recording begins when it was started in a new tab: the replay's tab is as new.
const NEW_TAB: [&str; 3] = ["about:blank", "chrome://newtab/", "chrome://new-tab-page/"];

/// `scheme://host[:port]` of an absolute URL, without the scheme's own port.
pub fn origin_of(url: &str) -> Option<String> {
    if !is_url(url) {
        return None;
    }
    let (scheme, rest) = url.split_once("://")?;
    let authority = rest.split(['/', '?', '#']).next()?.to_ascii_lowercase();
    if authority.is_empty() || authority.contains('@') {
        return None;
    }
    let own_port = if scheme == "https" { ":443" } else { ":80" };
    Some(format!("{scheme}://{}", authority.strip_suffix(own_port).unwrap_or(&authority)))
}

/// Whether a navigation to it changes nothing in a new tab.
pub fn is_new_tab(url: &str) -> bool {
    NEW_TAB.contains(&url)
}

/// The part of a URL that no value can change, if it reaches beyond the host.
pub(super) fn fixed_part(url: &Template) -> Option<&str> {
    let text = url.as_written();
    match text.find("{{") {
        None => Some(text),
        Some(end) => Some(&text[..end])
            .filter(|part| part.split_once("://").is_some_and(|(_, rest)| rest.contains(['/', '?', '#']))),
    }
}

/// Whether `text`, in which `*` stands for any characters, is somewhere in `url`.
#[must_use]
pub fn url_contains(url: &str, text: &str) -> bool {
    let mut rest = url;
    text.split('*').all(|part| match rest.find(part) {
        Some(at) => {
            rest = &rest[at + part.len()..];
            true
        }
        None => false,
    })
}

#[cfg(test)]
mod tests {
    use super::{origin_of, url_contains};

    #[test]
    fn an_origin_is_written_as_the_browser_writes_it() {
        for (url, origin) in [
            ("https://Example.org:443/a", Some("https://example.org")),
            ("http://x:80", Some("http://x")),
            ("http://x:443?q", Some("http://x:443")),
            ("https://u@x/", None),
            ("ftp://x", None),
        ] {
            assert_eq!(origin_of(url).as_deref(), origin, "{url}");
        }
    }

    #[test]
    fn an_address_contains_a_text_with_stars() {
        let url = "https://example.org/accounts/7/challenge?next=%2Fhome";
        for yes in ["/accounts/", "https://example.org/accounts", "/accounts/*/challenge", "*challenge*", "next=%2F"] {
            assert!(url_contains(url, yes), "{yes}");
        }
        for no in ["/login", "/challenge*/accounts", "/Accounts/", "challenge*challenge"] {
            assert!(!url_contains(url, no), "{no}");
        }
    }
}
