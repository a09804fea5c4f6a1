//! What every answer carries, refusals as well: its request's id, what is left of the rate limit, and that it is not
//! to be sniffed, kept, framed or fetched by other sites.
//!
//! The front adds it last. Invariant: a handler's own choice of any of these stays. Answers are many and these headers
//! are most of what they hold, so they are copied as one map, whose first places are then filled in. What most answers
//! have beside them, a content type, has a place there as well: a map that grows is copied once more.

use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};

use super::guard::{RequestId, X_REQUEST_ID};
use super::limit::Allowance;
use crate::model::Timestamp;

const X_RATELIMIT_LIMIT: HeaderName = HeaderName::from_static("x-ratelimit-limit");
const X_RATELIMIT_REMAINING: HeaderName = HeaderName::from_static("x-ratelimit-remaining");
const X_RATELIMIT_RESET: HeaderName = HeaderName::from_static("x-ratelimit-reset");
/// Filled in for each answer, in this order.
const LIMITS: [HeaderName; 3] = [X_RATELIMIT_LIMIT, X_RATELIMIT_REMAINING, X_RATELIMIT_RESET];
const FIXED: [(HeaderName, HeaderValue); 5] = [
    (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
    (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
    (header::CONTENT_SECURITY_POLICY, HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'")),
    (HeaderName::from_static("cross-origin-resource-policy"), HeaderValue::from_static("same-origin")),
];

/// By what has a place in them: the limits, a content type.
pub struct Carried([[HeaderMap; 2]; 2]);

impl Carried {
    pub fn new() -> Self {
        Self([false, true].map(|limited| [false, true].map(|typed| template(limited, typed))))
    }

    pub fn add(&self, headers: &mut HeaderMap, id: RequestId, allowance: Option<Allowance>, now: Timestamp) {
        // Only where it is alone: taken out of several, it would change their order.
        let content_type = if headers.len() == 1 { headers.remove(header::CONTENT_TYPE) } else { None };
        let template = &self.0[usize::from(allowance.is_some())][usize::from(content_type.is_some())];
        let handlers = std::mem::replace(headers, template.clone());
        let limits = allowance.map(|allowance| {
            let reset = now.plus(allowance.reset_in).as_millis().div_ceil(1_000);
            [HeaderValue::from(allowance.limit), allowance.remaining.into(), reset.into()]
        });
        let values = std::iter::once(id.into_value()).chain(limits.into_iter().flatten()).chain(content_type);
        for (place, value) in headers.values_mut().zip(values) {
            *place = value;
        }
        headers.extend(handlers);
    }
}

/// # Panics
/// When a map does not tell its headers in the order in which they were put in, while nothing is taken out.
fn template(limited: bool, typed: bool) -> HeaderMap {
    let limits = LIMITS.into_iter().filter(|_| limited);
    let own = std::iter::once(X_REQUEST_ID).chain(limits).chain(typed.then_some(header::CONTENT_TYPE));
    let unset = own.clone().map(|name| (name, HeaderValue::from_static("")));
    let map: HeaderMap = unset.chain(FIXED).collect();
    assert!(map.keys().zip(own).all(|(there, put)| *there == put), "a map keeps the order of its headers");
    map
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::api::guard::request_id;

    #[test]
    fn every_answer_carries_its_id_and_the_limits() {
        let id = request_id(&HeaderMap::from_iter([(X_REQUEST_ID, HeaderValue::from_static("r1"))]));
        let reset_in = Duration::from_millis(1_500);
        let allowance = Allowance { limit: 5, remaining: 4, reset_in, granted: true };
        let (carried, now) = (Carried::new(), Timestamp::from_millis(1_000_000));
        let added = |handlers: &[(HeaderName, &'static str)], allowance| {
            let handlers = handlers.iter().map(|(name, value)| (name.clone(), HeaderValue::from_static(value)));
            let mut headers: HeaderMap = handlers.collect();
            carried.add(&mut headers, id.clone(), allowance, now);
            headers
        };
        let own = [(header::CACHE_CONTROL, "max-age=60"), (header::ETAG, "\"e\""), (header::VARY, "a")];
        let answer = added(&own, Some(allowance));
        let get = |name: &str| answer[name].to_str().unwrap().to_owned();
        assert_eq!(get("x-request-id"), "r1");
        assert_eq!([get("x-ratelimit-limit"), get("x-ratelimit-remaining")], ["5", "4"]);
        assert_eq!(get("x-ratelimit-reset"), "1002");
        assert_eq!(get("x-content-type-options"), "nosniff");
        assert_eq!(get("cache-control"), "max-age=60", "the handler's own");
        assert_eq!((get("etag"), get("vary"), answer.len()), ("\"e\"".to_owned(), "a".to_owned(), 11));
        for limits in [None, Some(allowance)] {
            let typed = added(&[(header::CONTENT_TYPE, "text/html")], limits);
            assert_eq!(typed["content-type"], "text/html");
            assert_eq!(typed.len(), 7 + 3 * usize::from(limits.is_some()));
            assert_eq!(
                (&typed["x-request-id"], &typed["x-content-type-options"]),
                (&"r1".parse().unwrap(), &"nosniff".parse().unwrap())
            );
        }
        let off = added(&[], None);
        assert_eq!((off.len(), off["x-request-id"].to_str().unwrap()), (6, "r1"), "no limit, nothing to show");
    }
}
