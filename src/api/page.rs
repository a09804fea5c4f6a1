//! `GET /`: a plain page that says what this is and where to go on.
//!
//! It shows no state, runs no script and needs no other file. The page for people is a later piece.

use std::sync::Arc;

use hyper::Response;
use hyper::header::{self, HeaderValue};

use super::Context;
use super::body::{Reply, full};
use super::error::ApiError;
use super::front::Call;

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
    "</ul>\n<p>On the command line: <code>cove --help</code>.</p>\n</body>\n</html>\n"
);

pub async fn home(_: Arc<Context>, _: Call) -> Result<Response<Reply>, ApiError> {
    let mut response = Response::new(full(HOME));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    Ok(response)
}

#[cfg(test)]
mod tests {
    use hyper::Method;

    #[test]
    fn every_link_leads_to_a_route() {
        let router = crate::api::routes::Router::new();
        let links: Vec<&str> = super::HOME.split("href=\"").skip(1).filter_map(|rest| rest.split('"').next()).collect();
        assert!(links.len() > 5);
        for link in links {
            let found = router.find(&Method::GET, link);
            assert!(matches!(found, crate::api::routes::Found::Route(..)), "{link}");
        }
    }
}
