//! What is made for people's eyes: `GET /` and the page that shows the API's description.
//!
//! Fixed files of the program: they show no state, and are read without a token. Invariants: no file asks for anything
//! outside this daemon (its Content-Security-Policy would refuse it); each has an `ETag`, so that it
//! is sent again only after an update. The page for people is a later piece.

use std::collections::BTreeMap;
use std::io::Read;
use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use flate2::read::GzDecoder;
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::{Response, StatusCode};
use sha2::{Digest, Sha256};

use super::Context;
use super::body::{Reply, empty, full};
use super::error::ApiError;
use super::front::Call;
use super::server::is_large_text;

const HTML: &str = "text/html; charset=utf-8";
/// The bundle styles its elements itself; scripts are files of this daemon, and nothing is asked of others.
const DOCS_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; \
                           img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; \
                           frame-ancestors 'none'";

const HOME: &str = concat!(
    "<!doctype html>\n<html lang=\"en\">\n<head><meta charset=\"utf-8\"><title>cove</title></head>\n<body>\n",
    "<h1>cove ",
    env!("CARGO_PKG_VERSION"),
    "</h1>\n<p>This daemon publishes your own media through your own browser profiles, unattended and never twice.</p>\n",
    "<ul>\n",
    "<li><a href=\"/api/v1/status\">status</a>: slots, queue and what is used</li>\n",
    "<li><a href=\"/api/v1/health\">health</a>: each part, and why it is not well</li>\n",
    "<li><a href=\"/api/v1/tasks\">tasks</a>: what was asked</li>\n",
    "<li><a href=\"/api/v1/items\">items</a>: each upload, why it waits and what it left</li>\n",
    "<li><a href=\"/api/v1/profiles\">profiles</a>: the browser identities</li>\n",
    "<li><a href=\"/api/v1/flows\">flows</a>: the recordings that are replayed</li>\n",
    "<li><a href=\"/api/v1/docs\">docs</a>: every call of the API</li>\n",
    "</ul>\n<p>On the command line: <code>cove --help</code>.</p>\n</body>\n</html>\n"
);

/// A file of the program.
pub struct Asset {
    kind: &'static str,
    bytes: Bytes,
    tag: HeaderValue,
    policy: Option<&'static str>,
}

impl Asset {
    pub fn new(kind: &'static str, bytes: impl Into<Bytes>, policy: Option<&'static str>) -> Self {
        let bytes = bytes.into();
        let hash = Sha256::digest(&bytes);
        // Weak: it is the same when it was compressed.
        let tag = format!("W/\"{}\"", crate::store::media::hex(&hash[..12]));
        let tag = HeaderValue::from_str(&tag).expect("hex digits are header text");
        Self { kind, bytes, tag, policy }
    }

    /// The file, or 304 where the caller has it.
    pub fn answer(&self, asked: &HeaderMap) -> Response<Reply> {
        let mut response = if self.is_known(asked) {
            let mut response = empty(StatusCode::NOT_MODIFIED);
            let bytes = u64::try_from(self.bytes.len()).unwrap_or(u64::MAX);
            if is_large_text(self.kind, bytes) {
                // As the compression says it of the file.
                response.headers_mut().insert(header::VARY, HeaderValue::from_static("accept-encoding"));
            }
            response
        } else {
            let mut response = Response::new(full(self.bytes.clone()));
            response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(self.kind));
            response
        };
        let headers = response.headers_mut();
        headers.insert(header::ETAG, self.tag.clone());
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        if let Some(policy) = self.policy {
            headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(policy));
        }
        response
    }

    fn is_known(&self, asked: &HeaderMap) -> bool {
        let weak = |tag: &str| tag.trim().trim_start_matches("W/").to_owned();
        let own = self.tag.to_str().map(weak).unwrap_or_default();
        let known = asked.get_all(header::IF_NONE_MATCH).iter().filter_map(|tags| tags.to_str().ok());
        known.flat_map(|tags| tags.split(',')).any(|tag| tag.trim() == "*" || weak(tag) == own)
    }
}

static HOME_PAGE: LazyLock<Asset> = LazyLock::new(|| Asset::new(HTML, HOME, None));
static DOCS_PAGE: LazyLock<Asset> =
    LazyLock::new(|| Asset::new(HTML, include_str!("page/docs.html"), Some(DOCS_POLICY)));
static DOCS_FILES: LazyLock<BTreeMap<&'static str, Asset>> = LazyLock::new(docs_files);

/// What the viewer's crate keeps compressed; whoever asks for gzip has it compressed again, as all long answers.
fn unpacked(bytes: &[u8]) -> Vec<u8> {
    let mut text = Vec::new();
    GzDecoder::new(bytes).read_to_end(&mut text).expect("the crate's files are whole: a test reads them");
    text
}

/// The viewer's own files, of all that its crate holds, and what starts it.
fn docs_files() -> BTreeMap<&'static str, Asset> {
    let config = Arc::new(utoipa_swagger_ui::Config::from("openapi.json"));
    let bundled = [("swagger-ui.css", "text/css"), ("swagger-ui-bundle.js", "text/javascript")];
    let mut files: BTreeMap<_, _> = bundled
        .into_iter()
        .filter_map(|(name, kind)| {
            let file = utoipa_swagger_ui::serve(name, Arc::clone(&config)).ok().flatten()?;
            Some((name, Asset::new(kind, unpacked(&file.bytes), None)))
        })
        .collect();
    files.insert("docs.js", Asset::new("text/javascript", include_str!("page/docs.js"), None));
    files.insert("docs.css", Asset::new("text/css", include_str!("page/docs.css"), None));
    files
}

pub async fn home(_: Arc<Context>, call: Call) -> Result<Response<Reply>, ApiError> {
    Ok(HOME_PAGE.answer(&call.head.headers))
}

pub async fn docs(_: Arc<Context>, call: Call) -> Result<Response<Reply>, ApiError> {
    Ok(DOCS_PAGE.answer(&call.head.headers))
}

pub async fn docs_file(_: Arc<Context>, call: Call) -> Result<Response<Reply>, ApiError> {
    let file = DOCS_FILES.get(call.params.get("file"));
    let file = file.ok_or_else(|| ApiError::not_found("The page has no such file."))?;
    Ok(file.answer(&call.head.headers))
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::Method;

    #[test]
    fn every_link_leads_to_a_route() {
        let router = crate::api::routes::Router::new();
        let docs = include_str!("page/docs.html");
        for (page, base, least) in [(HOME, "", 6), (docs, "/api/v1/", 4)] {
            let parts = page.split("href=\"").skip(1).chain(page.split("src=\"").skip(1));
            let links: Vec<&str> = parts.filter_map(|rest| rest.split('"').next()).collect();
            assert!(links.len() >= least, "{links:?}");
            for link in links {
                let found = router.find(&Method::GET, &format!("{base}{link}"));
                assert!(matches!(found, crate::api::routes::Found::Route(..)), "{link}");
                let file = link.strip_prefix("docs/");
                assert!(file.is_none_or(|file| DOCS_FILES.contains_key(file)), "{link}");
            }
        }
    }

    #[test]
    fn the_viewers_files_are_whole_text() {
        for (name, least, part) in
            [("swagger-ui-bundle.js", 1_000_000, "SwaggerUIBundle"), ("swagger-ui.css", 100_000, ".swagger-ui")]
        {
            let text = std::str::from_utf8(&DOCS_FILES[name].bytes).unwrap();
            assert!(text.len() > least && text.contains(part), "{name}: {} bytes", text.len());
        }
    }

    #[test]
    fn who_has_a_file_is_not_sent_it_again() {
        let file = Asset::new("text/css", "a{}", None);
        let asked = |tag: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::IF_NONE_MATCH, HeaderValue::from_str(tag).unwrap());
            file.answer(&headers).status().as_u16()
        };
        let tag = file.answer(&HeaderMap::new()).headers()[header::ETAG].to_str().unwrap().to_owned();
        assert_eq!(file.answer(&HeaderMap::new()).status(), 200);
        for known in [tag.clone(), format!("\"x\", {tag}"), tag.trim_start_matches("W/").to_owned(), "*".to_owned()] {
            assert_eq!(asked(&known), 304, "{known}");
        }
        assert_eq!(asked("\"x\""), 200);
    }
}
