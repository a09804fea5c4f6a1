//! The table of routes: method, path, who may come, body, rate class and handler of each, in one place.
//!
//! The front asks [`Router::find`] once a request. Invariant: whatever is served stands in [`ROUTES`],
//! so that a test (or a description of the API) can walk all of it. Paths are matched as they are sent;
//! their variable parts are percent-decoded after that, so an encoded slash never makes a new path.

use std::pin::Pin;
use std::sync::Arc;

use hyper::{Method, Response};
use percent_encoding::percent_decode_str;

use super::body::Reply;
use super::error::ApiError;
use super::front::Call;
use super::limit::Class;
use super::{
    Context, admin, claims, devtools, events, evidence, flows, health, intents, locks, maintenance, metrics, openapi,
    page, profiles, sessions, snapshots, start, tasks, tokens, uploads, webhooks,
};
use crate::model::Scope;

/// A handler's work.
pub type Answer = Pin<Box<dyn Future<Output = Result<Response<Reply>, ApiError>> + Send>>;
type Handler = fn(Arc<Context>, Call) -> Answer;

/// What a route reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Takes {
    /// No body; an empty JSON object passes for none.
    Nothing,
    /// JSON, or no body.
    MaybeJson,
    Json,
    /// Bytes of any content type, as many as a media file may have.
    Bytes,
}

/// Who may come, where tokens are required.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Whoever passes the guards.
    Anyone,
    /// Whoever knows the secret in the path.
    PathSecret,
    Read,
    /// What is asked before a submit.
    ReadOrSubmit,
    Submit,
    Locks,
    Sessions,
    /// `Read`, or `Sessions`: whoever was lent a browser may look at it.
    ReadOrSessions,
    Admin,
    /// `Read`; and on loopback without a token where `[auth] open_on_loopback` has the word.
    OpenHealth,
    OpenMetrics,
    OpenStatus,
    OpenLocks,
}

impl Access {
    /// What a token needs; None: no token is looked at.
    #[must_use]
    pub const fn scope(self) -> Option<Scope> {
        match self {
            Self::Anyone | Self::PathSecret => None,
            Self::Read
            | Self::ReadOrSubmit
            | Self::ReadOrSessions
            | Self::OpenHealth
            | Self::OpenMetrics
            | Self::OpenStatus
            | Self::OpenLocks => Some(Scope::Read),
            Self::Submit => Some(Scope::Submit),
            Self::Locks => Some(Scope::Locks),
            Self::Sessions => Some(Scope::Sessions),
            Self::Admin => Some(Scope::Admin),
        }
    }

    /// A scope that does as well.
    #[must_use]
    pub const fn other_scope(self) -> Option<Scope> {
        match self {
            Self::ReadOrSubmit => Some(Scope::Submit),
            Self::ReadOrSessions => Some(Scope::Sessions),
            _ => None,
        }
    }

    /// The word of `[auth] open_on_loopback`.
    #[must_use]
    pub const fn open_word(self) -> Option<&'static str> {
        match self {
            Self::OpenHealth => Some("health"),
            Self::OpenMetrics => Some("metrics"),
            Self::OpenStatus => Some("status"),
            Self::OpenLocks => Some("locks"),
            _ => None,
        }
    }
}

pub struct Route {
    pub method: Method,
    pub path: &'static str,
    pub access: Access,
    pub takes: Takes,
    pub class: Class,
    /// False: the answer shows what is left and takes nothing.
    pub spends: bool,
    pub run: Handler,
}

impl Route {
    /// It starts tasks, and takes an `Idempotency-Key`.
    #[must_use]
    pub fn is_order(&self) -> bool {
        self.class == Class::TaskStarts && self.takes == Takes::Json
    }
}

macro_rules! routes {
    ($($method:ident $path:literal $access:ident $takes:ident $class:ident $handler:path;)+) => {
        pub static ROUTES: &[Route] = &[$(Route {
            method: Method::$method,
            path: $path,
            access: Access::$access,
            takes: Takes::$takes,
            class: Class::$class,
            // The one HEAD of its own asks for the limits.
            spends: !matches!(Method::$method, Method::HEAD),
            run: |context, call| Box::pin($handler(context, call)),
        }),+];
    };
}

routes! {
    GET "/" Anyone Nothing Requests page::home;
    GET "/api/v1/openapi.json" Read Nothing Requests openapi::show;
    GET "/api/v1/docs" Anyone Nothing Health page::docs;
    GET "/api/v1/docs/{file}" Anyone Nothing Health page::docs_file;
    GET "/devtools/{token}/" PathSecret Nothing Unlimited devtools::enter;
    GET "/devtools/{token}/{*rest}" PathSecret Nothing Unlimited devtools::pass;
    HEAD "/api/v1/bulk-upload/start" ReadOrSubmit Nothing TaskStarts start::limits;
    POST "/api/v1/bulk-upload/start" Submit Json TaskStarts start::start;
    GET "/api/v1/tasks" Read Nothing Requests tasks::list_tasks;
    GET "/api/v1/tasks/{id}" Read Nothing Requests tasks::show_task;
    GET "/api/v1/tasks/{id}/items" Read Nothing Requests tasks::list_task_items;
    GET "/api/v1/tasks/{id}/events" Read Nothing Requests tasks::list_events;
    POST "/api/v1/tasks/{id}/cancel" Submit Nothing Requests intents::cancel;
    POST "/api/v1/tasks/{id}/retry" Submit Nothing Requests intents::retry;
    POST "/api/v1/tasks/{id}/pause" Submit Nothing Requests intents::pause;
    POST "/api/v1/tasks/{id}/resume" Submit Nothing Requests intents::resume;
    GET "/api/v1/tasks/{id}/webhooks" Read Nothing Requests webhooks::list;
    POST "/api/v1/tasks/{id}/webhooks/{delivery}/retry" Submit Nothing Requests webhooks::retry;
    GET "/api/v1/items" Read Nothing Requests tasks::list_items;
    GET "/api/v1/items/{id}" Read Nothing Requests tasks::show_item;
    POST "/api/v1/items/{id}/resolve" Submit Json Requests intents::resolve;
    GET "/api/v1/items/{id}/evidence" Read Nothing Requests evidence::list;
    GET "/api/v1/items/{id}/evidence/{file}" Read Nothing Requests evidence::show;
    GET "/api/v1/profiles" Read Nothing Requests profiles::list;
    POST "/api/v1/profiles" Admin Json Requests profiles::create;
    GET "/api/v1/profiles/{id}" Read Nothing Requests profiles::show;
    POST "/api/v1/profiles/{id}/open" Sessions MaybeJson Requests profiles::open;
    POST "/api/v1/profiles/{id}/close" Sessions Nothing Requests profiles::close;
    POST "/api/v1/profiles/{id}/unpark" Submit Nothing Requests intents::unpark;
    GET "/api/v1/locks" OpenLocks Nothing Requests locks::list;
    POST "/api/v1/locks/acquire" Locks Json Locks locks::acquire;
    POST "/api/v1/locks/refresh" Locks Json Locks locks::refresh;
    POST "/api/v1/locks/release" Locks Json Locks locks::release;
    POST "/api/v1/locks/cleanup" Admin MaybeJson Requests locks::clean_up;
    POST "/api/v1/claims" Locks Json Locks claims::claim;
    POST "/api/v1/claims/{id}/refresh" Locks Json Locks claims::refresh;
    POST "/api/v1/claims/{id}/arm" Locks Json Locks claims::arm;
    POST "/api/v1/claims/{id}/complete" Locks Json Locks claims::complete;
    POST "/api/v1/claims/{id}/fail" Locks Json Locks claims::fail;
    POST "/api/v1/sessions" Sessions Json Requests sessions::create;
    GET "/api/v1/sessions" ReadOrSessions Nothing Requests sessions::list;
    GET "/api/v1/sessions/{id}" ReadOrSessions Nothing Requests sessions::show;
    DELETE "/api/v1/sessions/{id}" Sessions Nothing Locks sessions::delete;
    POST "/api/v1/sessions/{id}/refresh" Sessions MaybeJson Locks sessions::refresh;
    GET "/api/v1/sessions/{id}/cdp/{token}" PathSecret Nothing Unlimited sessions::cdp::connect;
    GET "/api/v1/sessions/{id}/cdp/{token}/json/version" PathSecret Nothing Unlimited sessions::cdp::version;
    GET "/api/v1/sessions/{id}/cdp/{token}/json/version/" PathSecret Nothing Unlimited sessions::cdp::version;
    POST "/api/v1/media" Submit Bytes Requests uploads::upload;
    GET "/api/v1/flows" Read Nothing Requests flows::list;
    GET "/api/v1/flows/{name}" Read Nothing Requests flows::show;
    PUT "/api/v1/flows/{name}" Submit Json Requests flows::put;
    DELETE "/api/v1/flows/{name}" Submit Nothing Requests flows::delete;
    POST "/api/v1/flows/{name}/run" Submit Json TaskStarts start::rehearse;
    POST "/api/v1/flows/{name}/check" Read MaybeJson Requests flows::check;
    GET "/api/v1/health/simple" Anyone Nothing Health health::simple;
    GET "/api/v1/health" OpenHealth Nothing Health health::health;
    GET "/api/v1/status" OpenStatus Nothing Requests health::status;
    GET "/api/v1/metrics" OpenMetrics Nothing Metrics metrics::json;
    GET "/api/v1/metrics/history" OpenMetrics Nothing Requests metrics::history::show;
    GET "/metrics" OpenMetrics Nothing Metrics metrics::prometheus;
    GET "/api/v1/snapshots" Read Nothing Requests snapshots::list;
    POST "/api/v1/snapshots" Admin Nothing Requests snapshots::create;
    GET "/api/v1/snapshots/{name}" Admin Nothing Requests snapshots::download;
    POST "/api/v1/snapshots/{name}/verify" Admin Nothing Requests snapshots::verify;
    GET "/api/v1/maintenance" Read Nothing Requests maintenance::list;
    POST "/api/v1/maintenance/{job}/run" Admin Nothing Requests maintenance::run;
    GET "/api/v1/events" Read Nothing Requests events::listen;
    POST "/api/v1/pause" Admin Nothing Requests admin::pause;
    POST "/api/v1/resume" Admin MaybeJson Requests admin::resume;
    GET "/api/v1/tokens" Admin Nothing Requests tokens::list;
    POST "/api/v1/tokens" Admin Json Requests tokens::create;
    DELETE "/api/v1/tokens/{id}" Admin Nothing Requests tokens::revoke;
}

pub struct Router {
    /// Per path, the numbers of its routes.
    paths: matchit::Router<Vec<usize>>,
}

/// What a method and path lead to.
pub enum Found {
    Route(&'static Route, Params),
    /// The methods that the path knows, as `Allow` lists them.
    WrongMethod(String),
    Nothing,
}

/// The variable parts of a path, decoded.
#[derive(Clone, Debug, Default)]
pub struct Params(Vec<(String, String)>);

impl Params {
    /// # Panics
    /// When the route has no such part: the table and the handler disagree.
    pub fn get(&self, name: &str) -> &str {
        let found = self.0.iter().find(|(key, _)| key == name);
        found.map(|(_, value)| value.as_str()).expect("the route's path has this part")
    }
}

impl Router {
    #[expect(clippy::new_without_default, reason = "it reads the one table")]
    pub fn new() -> Self {
        let mut paths: matchit::Router<Vec<usize>> = matchit::Router::new();
        for (number, route) in ROUTES.iter().enumerate() {
            let same = |other: &Route| other.path == route.path;
            if ROUTES.iter().position(same) == Some(number) {
                let all = ROUTES.iter().enumerate().filter(|(_, other)| same(other)).map(|(n, _)| n).collect();
                paths.insert(route.path, all).expect("the table's paths do not contradict each other");
            }
        }
        Self { paths }
    }

    pub fn find(&self, method: &Method, path: &str) -> Found {
        let Ok(matched) = self.paths.at(path) else { return Found::Nothing };
        let routes = || matched.value.iter().map(|number| &ROUTES[*number]);
        // Whatever can be read can be asked for without its body.
        let exact = routes().find(|route| route.method == *method);
        let found = exact.or_else(|| routes().find(|route| *method == Method::HEAD && route.method == Method::GET));
        let Some(route) = found else {
            let mut allowed: Vec<&str> = routes().map(|route| route.method.as_str()).collect();
            if allowed.contains(&"GET") && !allowed.contains(&"HEAD") {
                allowed.push("HEAD");
            }
            return Found::WrongMethod(allowed.join(", "));
        };
        let decode = |(key, value): (&str, &str)| {
            let value = percent_decode_str(value).decode_utf8().ok()?;
            Some((key.to_owned(), value.into_owned()))
        };
        match matched.params.iter().map(decode).collect() {
            Some(params) => Found::Route(route, Params(params)),
            None => Found::Nothing,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(method: &Method, path: &str) -> Option<(&'static str, Params)> {
        match Router::new().find(method, path) {
            Found::Route(route, params) => Some((route.path, params)),
            _ => None,
        }
    }

    #[test]
    fn every_route_is_found_by_its_own_path() {
        for route in ROUTES {
            let variable = ["{id}", "{name}", "{file}", "{token}", "{delivery}", "{job}", "{*rest}"];
            let path = variable.iter().fold(route.path.to_owned(), |path, part| path.replace(part, "x1"));
            assert_eq!(found(&route.method, &path).map(|(path, _)| path), Some(route.path));
            let Found::WrongMethod(allow) = Router::new().find(&Method::PATCH, &path) else { panic!("{path}") };
            assert!(allow.split(", ").any(|method| method == route.method.as_str()), "{allow}");
        }
    }

    #[test]
    fn only_these_are_reached_without_a_token() {
        let of = |access| ROUTES.iter().filter(move |route| route.access == access).map(|route| route.path);
        assert_eq!(
            of(Access::Anyone).collect::<Vec<_>>(),
            ["/", "/api/v1/docs", "/api/v1/docs/{file}", "/api/v1/health/simple"]
        );
        assert!(of(Access::PathSecret).all(|path| path.contains("{token}")));
        for route in ROUTES.iter().filter(|route| route.access.open_word().is_some()) {
            assert_eq!(route.method, Method::GET, "{}", route.path);
        }
        let reads = [Method::GET, Method::HEAD];
        for route in ROUTES.iter().filter(|route| !reads.contains(&route.method)) {
            let checks = route.path.ends_with("/check");
            assert!(checks || route.access.scope().is_some_and(|scope| scope != Scope::Read), "{}", route.path);
        }
    }

    #[test]
    fn paths_are_exact() {
        for path in ["/api/v1/tasks/", "//api/v1/tasks", "/api/v1", "/API/v1/tasks", "*", "", "/api/v1/tasks/t1/x"] {
            assert!(matches!(Router::new().find(&Method::GET, path), Found::Nothing), "{path}");
        }
        assert!(matches!(Router::new().find(&Method::GET, "/api/v1/tasks/%ff"), Found::Nothing));
        assert!(matches!(Router::new().find(&Method::OPTIONS, "/"), Found::WrongMethod(allow) if allow == "GET, HEAD"));
        let (_, params) = found(&Method::GET, "/api/v1/items/i1/evidence/..%2f..%2Fa%20b").unwrap();
        assert_eq!((params.get("id"), params.get("file")), ("i1", "../../a b"));
        assert!(found(&Method::GET, "/api/v1/items/i1/evidence/../x").is_none());
    }

    #[test]
    fn head_reads_what_get_reads_and_only_the_start_has_its_own() {
        assert_eq!(found(&Method::HEAD, "/api/v1/tasks").unwrap().0, "/api/v1/tasks");
        assert!(found(&Method::HEAD, "/api/v1/media").is_none());
        let own: Vec<_> = ROUTES.iter().filter(|route| !route.spends).map(|route| route.path).collect();
        assert_eq!(own, ["/api/v1/bulk-upload/start"]);
    }
}
