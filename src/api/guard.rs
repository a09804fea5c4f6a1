//! What every request has to pass before a route is looked at: Host, Origin, Sec-Fetch-Site, and the
//! request's id.
//!
//! The front calls these in the order of api.md. They see heads alone: no body, no state. Invariant:
//! over TCP only a request whose every Host names this daemon's own loopback address and port goes on
//! (a page that rebinds a name to 127.0.0.1 sends its own name) or a name of the configuration, and nothing
//! comes from another site's page but a person who follows a link. Not here: tokens and scopes (`keyring`).

use std::net::SocketAddr;

use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, header, http::request::Parts};

use super::error::{ApiError, Code};

/// Names that this daemon answers to, with its port.
pub struct OwnNames {
    hosts: Vec<String>,
    /// Those of them that lead to this machine from nowhere else.
    loopback: Vec<String>,
    origins: Vec<String>,
}

const NAMES: [&str; 3] = ["127.0.0.1", "localhost", "[::1]"];
const HTTP_PORT: u16 = 80;
const SEC_FETCH_MODE: HeaderName = HeaderName::from_static("sec-fetch-mode");
const SEC_FETCH_DEST: HeaderName = HeaderName::from_static("sec-fetch-dest");
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
pub const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const MAX_REQUEST_ID_BYTES: usize = 128;

impl OwnNames {
    /// `bound` is the address really bound, `allowed` what the configuration adds.
    pub fn new(bound: SocketAddr, allowed: &[String]) -> Self {
        let port = bound.port();
        let mut names: Vec<String> = NAMES.map(str::to_owned).into();
        let ip = bound.ip().to_canonical();
        let own = if ip.is_ipv6() { format!("[{ip}]") } else { ip.to_string() };
        let mut local = NAMES.map(str::to_owned).to_vec();
        // An address that stands for all of them is nobody's name.
        if !ip.is_unspecified() && !names.contains(&own) {
            if ip.is_loopback() {
                local.push(own.clone());
            }
            names.push(own);
        }
        let mut hosts: Vec<_> = names.iter().map(|name| format!("{name}:{port}")).collect();
        if port == HTTP_PORT {
            hosts.append(&mut names);
        }
        let mut origins: Vec<_> = hosts.iter().map(|host| format!("http://{host}")).collect();
        let loopback =
            hosts.iter().filter(|host| local.iter().any(|name| host.starts_with(name.as_str()))).cloned().collect();
        for host in allowed {
            origins.extend([format!("https://{host}"), format!("http://{host}")]);
            hosts.push(host.clone());
        }
        Self { hosts, loopback, origins }
    }

    /// Whether a head that passed was sent to a name of this machine alone.
    pub fn is_loopback_name(&self, head: &Parts) -> bool {
        let host = head.headers.get(header::HOST).map(HeaderValue::as_bytes);
        host.is_some_and(|host| self.loopback.iter().any(|own| own.as_bytes() == host))
    }

    /// 421 unless every name in the head is our own. For TCP: a unix socket has no names.
    pub fn check_host(&self, head: &Parts) -> Result<(), ApiError> {
        let mut hosts = head.headers.get_all(header::HOST).iter();
        let ours = |host: &[u8]| self.hosts.iter().any(|own| own.as_bytes() == host);
        let header_fits = hosts.next().is_some_and(|host| ours(host.as_bytes())) && hosts.next().is_none();
        let target_fits = head.uri.authority().is_none_or(|name| ours(name.as_str().as_bytes()));
        if header_fits && target_fits {
            return Ok(());
        }
        let own = self.hosts.join(", ");
        Err(ApiError::new(Code::WrongHost, format!("This daemon answers to {own}; send one of these as Host.")))
    }

    /// 403 for whatever was sent by another site's page, save a link that a person followed: its answer is
    /// shown and cannot be read by that page. The Host that came along proves nothing here, so an Origin is
    /// compared with our own names alone.
    pub fn check_site(&self, head: &Parts) -> Result<(), ApiError> {
        let is = |name: &HeaderName, value: &[u8]| {
            let mut values = head.headers.get_all(name).iter();
            values.next().is_some_and(|first| first.as_bytes() == value) && values.next().is_none()
        };
        let same_site = |value: &HeaderValue| matches!(value.as_bytes(), b"same-origin" | b"none");
        let own = |value: &HeaderValue| self.origins.iter().any(|origin| origin.as_bytes() == value.as_bytes());
        let fetch_fits = head.headers.get_all(SEC_FETCH_SITE).iter().all(same_site);
        let origin_fits = head.headers.get_all(header::ORIGIN).iter().all(own);
        if fetch_fits && origin_fits {
            return Ok(());
        }
        let reads = matches!(head.method, Method::GET | Method::HEAD) && !head.headers.contains_key(header::UPGRADE);
        let followed = reads && is(&SEC_FETCH_MODE, b"navigate") && is(&SEC_FETCH_DEST, b"document");
        if followed && !head.headers.contains_key(header::ORIGIN) {
            return Ok(());
        }
        Err(ApiError::new(Code::CrossSite, "A page of another site sent this; only cove's own page may."))
    }
}

/// What a request is called in its answer and in the logs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestId(HeaderValue);

impl RequestId {
    fn fresh() -> Self {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let number = fastrand::u128(..).to_be_bytes();
        let text: [u8; 32] = std::array::from_fn(|at| {
            let byte = number[at / 2];
            DIGITS[usize::from(if at % 2 == 0 { byte >> 4 } else { byte & 0xf })]
        });
        Self(HeaderValue::from_bytes(&text).expect("hexadecimal digits are header text"))
    }

    pub fn as_str(&self) -> &str {
        self.0.to_str().expect("an id is visible ASCII")
    }

    /// As a header's value.
    pub fn into_value(self) -> HeaderValue {
        self.0
    }
}

/// The client's own id where it can be one, else a fresh one.
pub fn request_id(headers: &HeaderMap) -> RequestId {
    let fits = |given: &&HeaderValue| {
        let id = given.as_bytes();
        (1..=MAX_REQUEST_ID_BYTES).contains(&id.len())
            && id.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(byte))
    };
    headers.get(X_REQUEST_ID).filter(fits).map_or_else(RequestId::fresh, |given| RequestId(given.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::Request;

    fn head(method: &str, uri: &str, headers: &[(&str, &str)]) -> Parts {
        let mut request = Request::builder().method(method).uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    #[test]
    fn only_our_own_names_pass() {
        let names = OwnNames::new(([127, 0, 0, 1], 8088).into(), &[]);
        for good in ["127.0.0.1:8088", "localhost:8088", "[::1]:8088"] {
            assert!(names.check_host(&head("GET", "/", &[("host", good)])).is_ok(), "{good}");
        }
        for bad in [
            "evil.com",
            "evil.com:8088",
            "",
            ":8088",
            "127.0.0.1.nip.io",
            "127.0.0.1.nip.io:8088",
            "localhost.evil.com:8088",
            "localhost.:8088",
            "LOCALHOST:8088",
            "[::1]",
            "localhost",
            "[::ffff:127.0.0.1]:8088",
            "0.0.0.0:8088",
            "127.1:8088",
            "2130706433:8088",
            "user@localhost:8088",
            "127.0.0.1:8089",
            "127.0.0.1:80888",
            "127.0.0.1:8088, evil.com",
        ] {
            let error = names.check_host(&head("GET", "/", &[("host", bad)])).expect_err(bad);
            assert_eq!(error.code(), Code::WrongHost);
        }
        assert!(names.check_host(&head("GET", "/", &[])).is_err(), "missing");
        let twice = [("host", "localhost:8088"), ("host", "localhost:8088")];
        assert!(names.check_host(&head("GET", "/", &twice)).is_err(), "twice");
        let own = [("host", "localhost:8088")];
        assert!(names.check_host(&head("GET", "http://evil.com:8088/", &own)).is_err(), "absolute form");
        assert!(names.check_host(&head("GET", "http://user@localhost:8088/", &own)).is_err());
        assert!(names.check_host(&head("GET", "http://localhost:8088/", &own)).is_ok());
        assert!(
            OwnNames::new(([127, 0, 0, 1], 80).into(), &[])
                .check_host(&head("GET", "/", &[("host", "localhost")]))
                .is_ok()
        );
    }

    #[test]
    fn names_of_the_configuration_and_of_the_bound_address_are_added() {
        let allowed = ["cove.example.org".to_owned()];
        let names = OwnNames::new(([192, 168, 0, 2], 8088).into(), &allowed);
        let passes = |host: &str| names.check_host(&head("GET", "/", &[("host", host)])).is_ok();
        for good in ["cove.example.org", "192.168.0.2:8088", "127.0.0.1:8088"] {
            assert!(passes(good), "{good}");
        }
        for bad in ["cove.example.org:8088", "example.org", "a.cove.example.org", "0.0.0.0:8088", "192.168.0.3:8088"] {
            assert!(!passes(bad), "{bad}");
        }
        let local = |host: &str| names.is_loopback_name(&head("GET", "/", &[("host", host)]));
        assert!(local("127.0.0.1:8088") && local("localhost:8088"));
        assert!(!local("cove.example.org") && !local("192.168.0.2:8088"));
        let post = |origin: &str| names.check_site(&head("POST", "/", &[("origin", origin)])).is_ok();
        assert!(
            post("https://cove.example.org") && !post("https://cove.example.org:1") && !post("https://example.org")
        );
    }

    #[test]
    fn the_address_really_bound_is_a_name_where_it_is_one() {
        let passes = |bound: &str, host: &str| {
            let head = head("GET", "/", &[("host", host)]);
            let names = OwnNames::new(bound.parse().unwrap(), &[]);
            (names.check_host(&head).is_ok(), names.is_loopback_name(&head))
        };
        assert_eq!(passes("127.0.0.2:8088", "127.0.0.2:8088"), (true, true));
        assert_eq!(passes("127.0.0.2:8088", "127.0.0.1:8088"), (true, true));
        assert!(!passes("127.0.0.2:8088", "127.0.0.2").0 && !passes("127.0.0.2:8088", "127.0.0.3:8088").0);
        assert!(!passes("127.0.0.1:8088", "127.0.0.2:8088").0);
        assert_eq!(passes("[::1]:8088", "[::1]:8088"), (true, true));
        assert!(!passes("0.0.0.0:8088", "0.0.0.0:8088").0 && !passes("[::]:8088", "[::]:8088").0);
        assert!(!passes("0.0.0.0:8088", "192.168.0.2:8088").0, "it cannot be told which are its own");
    }

    #[test]
    fn another_site_changes_nothing() {
        let names = OwnNames::new(([127, 0, 0, 1], 8088).into(), &[]);
        let passes = |method: &str, headers: &[(&str, &str)]| names.check_site(&head(method, "/", headers)).is_ok();
        assert!(passes("POST", &[]), "no browser");
        assert!(passes("POST", &[("sec-fetch-site", "same-origin"), ("origin", "http://127.0.0.1:8088")]));
        assert!(passes("DELETE", &[("sec-fetch-site", "none")]));
        let link = [("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "document")];
        assert!(passes("GET", &link), "a link may point here");
        assert!(!passes("POST", &link), "a form may not");
        assert!(!passes("GET", &[link[0], link[1], ("sec-fetch-dest", "iframe")]), "nor a frame");
        assert!(!passes("GET", &[link[0], ("sec-fetch-mode", "no-cors"), ("sec-fetch-dest", "script")]));
        assert!(
            !passes("GET", &[("sec-fetch-site", "cross-site")]) && !passes("GET", &[("origin", "http://evil.com")])
        );
        assert!(!passes("GET", &[link[0], link[1], link[2], ("upgrade", "websocket")]));
        assert!(passes("GET", &[("sec-fetch-site", "same-origin"), ("sec-fetch-mode", "cors")]));
        for site in ["cross-site", "same-site", "", "Same-Origin"] {
            assert!(!passes("POST", &[("sec-fetch-site", site)]), "{site}");
        }
        for origin in
            ["http://evil.com", "null", "", "https://127.0.0.1:8088", "http://localhost", "http://localhost:1"]
        {
            assert!(!passes("PUT", &[("origin", origin)]), "{origin}");
        }
        assert!(!passes("POST", &[("origin", "http://localhost:8088"), ("origin", "http://evil.com")]), "twice");
        let socket = [("upgrade", "websocket"), ("origin", "http://evil.com")];
        assert!(!passes("GET", &socket), "a WebSocket is no read");
    }

    #[test]
    fn a_request_id_is_taken_over_or_made() {
        let id = |value: &str| request_id(&head("GET", "/", &[("x-request-id", value)]).headers).as_str().to_owned();
        assert_eq!(id("abc-1_2.3"), "abc-1_2.3");
        for bad in ["", "a b", "a\"b", "é", &"x".repeat(129)] {
            assert_eq!(id(bad).len(), 32, "{bad}");
        }
        let fresh = [request_id(&HeaderMap::new()), request_id(&HeaderMap::new())];
        assert_ne!(fresh[0], fresh[1]);
        assert!(fresh[0].as_str().bytes().all(|byte| byte.is_ascii_hexdigit()));
    }
}
