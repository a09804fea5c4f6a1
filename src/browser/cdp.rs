//! One attachment to one session: a tab, calls with deadlines, and the knowledge of whether the browser
//! is still there.
//!
//! The steps call it. The connection (`wire.rs`) ends with the attachment; when it ends first, the browser is gone
//! and every call says so at once. JavaScript dialogs are answered, so that a page cannot hang a step. An attachment
//! costs three round trips after the upgrade, however much it asks for: whoever listens does so first, and what does
//! not need the answer of another is asked together with it. Nothing is sent twice here.

mod origins;
mod watch;
mod wire;

use std::time::Duration;

use chromiumoxide::Command;
use chromiumoxide::cdp::browser_protocol::emulation::SetFocusEmulationEnabledParams;
use chromiumoxide::cdp::browser_protocol::page::{BringToFrontParams, StopLoadingParams};
use chromiumoxide::cdp::browser_protocol::target::{
    AttachToTargetParams, CreateTargetParams, GetTargetsParams, SessionId, TargetId, TargetInfo,
};
use chromiumoxide::cdp::js_protocol::runtime::{
    CallArgument, CallFunctionOnParams, EvaluateParams, RemoteObject, RemoteObjectId,
};
use serde_json::Value;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::Session;
use crate::model::{Failure, FailureCode};
use origins::Guard;
use watch::Crashed;
pub use watch::{Observed, without_query};
use wire::Wire;

/// For one call; a page that does not answer this long hangs.
const CALL_DEADLINE: Duration = Duration::from_secs(15);
/// For what is only good to know.
const SHORT_DEADLINE: Duration = Duration::from_secs(2);
const ATTACH_DEADLINE: Duration = Duration::from_secs(20);
const BLANK: &str = "about:blank";

/// Why a call did not give what it should.
#[derive(Debug)]
pub enum Trouble {
    /// The browser or the tab is gone.
    Lost(String),
    /// No answer in time.
    Slow,
    /// The browser refused the call (often: the element or page is gone meanwhile).
    Refused(String),
    /// The page's JavaScript threw.
    Threw(String),
}

impl std::fmt::Display for Trouble {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Lost(why) => write!(out, "the browser is gone: {why}"),
            Self::Slow => write!(out, "the page did not answer within {} s", CALL_DEADLINE.as_secs()),
            Self::Refused(why) | Self::Threw(why) => out.write_str(why),
        }
    }
}

/// A handle of an object in the page.
#[derive(Clone, Debug)]
pub struct Handle(pub RemoteObjectId);

pub struct Tab {
    wire: Wire,
    /// The page's, on that connection.
    session: SessionId,
    /// Where the flow has origins.
    guard: Option<Guard>,
    lost: CancellationToken,
    crashed: Crashed,
    pub observed: Observed,
    /// Dropping them closes the connection.
    _tasks: JoinSet<()>,
}

impl Tab {
    /// Attaches to an empty tab, or to a new one; `surviving`: to the tab that shows a page. Where there are `origins`,
    /// the tab is kept inside them.
    pub async fn attach(session: &Session, surviving: bool, origins: &[String]) -> Result<Self, Failure> {
        let failed = |why: String| Failure::new(FailureCode::AttachFailed, why);
        match timeout(ATTACH_DEADLINE, Self::try_attach(session, surviving, origins)).await {
            Ok(Ok(tab)) => Ok(tab),
            Ok(Err(error)) => Err(failed(format!("the DevTools port {} of the browser: {error}", session.port))),
            Err(_) => Err(failed(format!("no answer within {} s", ATTACH_DEADLINE.as_secs()))),
        }
    }

    async fn try_attach(session: &Session, surviving: bool, origins: &[String]) -> Result<Self, Trouble> {
        let closed = CancellationToken::new();
        let mut tasks = JoinSet::new();
        let connected = Wire::connect(session.port, &session.ws_url(), &closed, &mut tasks).await;
        let wire = connected.map_err(|error| Trouble::Refused(error.to_string()))?;
        let targets = wire.call(None, GetTargetsParams::default()).await?.target_infos;
        let target = target(&wire, &targets, surviving).await?;
        let mut attach = AttachToTargetParams::new(target.clone());
        attach.flatten = Some(true);
        let page = wire.call(None, attach).await?.session_id;
        // A page that crashed is lost as well, though its browser keeps the connection.
        let (lost, crashed, observed) = (closed.child_token(), Crashed::default(), Observed::default());
        watch::listen(&wire, &page, &observed, &mut tasks);
        watch::listen_for_a_crash(&wire, &page, &crashed, &lost, &mut tasks);
        let guard = (!origins.is_empty()).then(|| {
            let others = targets.iter().filter(|other| is_page(other) && other.target_id != target);
            let others = others.map(|other| other.target_id.inner().clone()).collect();
            Guard::listen(&wire, target.inner(), others, origins, &observed, &mut tasks)
        });
        let guarded = async {
            match &guard {
                Some(_) => origins::enable(&wire).await,
                None => Ok(()),
            }
        };
        tokio::try_join!(
            guarded,
            watch::enable(&wire, &page),
            wire.call(Some(&page), BringToFrontParams::default()),
            wire.call(Some(&page), SetFocusEmulationEnabledParams::new(true)),
        )?;
        Ok(Self { wire, session: page, guard, lost, crashed, observed, _tasks: tasks })
    }

    /// Resolves when the browser or its page is gone, and says which.
    pub async fn lost(&self) -> &'static str {
        self.lost.cancelled().await;
        if self.crashed.has() { watch::PAGE_CRASHED } else { "its connection closed" }
    }

    /// Where the page was about to go, outside of the origins.
    pub fn blocked(&self) -> Option<String> {
        self.guard.as_ref().and_then(Guard::blocked)
    }

    /// Resolves when there is such an address.
    pub async fn until_blocked(&self) -> String {
        match &self.guard {
            Some(guard) => guard.until_blocked().await,
            None => std::future::pending().await,
        }
    }

    pub fn is_lost(&self) -> bool {
        self.lost.is_cancelled()
    }

    /// One command, sent once.
    pub async fn call<C: Command>(&self, command: C) -> Result<C::Response, Trouble> {
        tokio::select! {
            biased;
            answer = timeout(CALL_DEADLINE, self.wire.call(Some(&self.session), command)) => {
                answer.unwrap_or(Err(Trouble::Slow))
            }
            why = self.lost() => Err(Trouble::Lost(why.to_owned())),
        }
    }

    /// The value of an expression; promises are awaited.
    pub async fn evaluate(&self, expression: &str) -> Result<Value, Trouble> {
        let mut params = EvaluateParams::new(expression);
        params.await_promise = Some(true);
        params.return_by_value = Some(true);
        params.user_gesture = Some(false);
        let returned = self.call(params).await?;
        match returned.exception_details {
            Some(details) => Err(Trouble::Threw(thrown(&details))),
            None => Ok(returned.result.value.unwrap_or_default()),
        }
    }

    /// A handle of the page's document.
    pub async fn document(&self) -> Result<Handle, Trouble> {
        let returned = self.call(EvaluateParams::new("document")).await?;
        handle(returned.result).ok_or_else(|| Trouble::Refused("the page has no document".to_owned()))
    }

    /// Calls a function with `this` being the handle; its value.
    pub async fn value_of(&self, on: &Handle, function: &str, arguments: &[Value]) -> Result<Value, Trouble> {
        Ok(self.function(on, function, arguments, true).await?.value.unwrap_or_default())
    }

    /// The same, for a function that answers with an object of the page; None for null.
    pub async fn handle_of(&self, on: &Handle, function: &str, arguments: &[Value]) -> Result<Option<Handle>, Trouble> {
        Ok(handle(self.function(on, function, arguments, false).await?))
    }

    async fn function(
        &self,
        on: &Handle,
        function: &str,
        arguments: &[Value],
        by_value: bool,
    ) -> Result<RemoteObject, Trouble> {
        let mut params = CallFunctionOnParams::new(function);
        params.object_id = Some(on.0.clone());
        params.return_by_value = Some(by_value);
        params.await_promise = Some(true);
        let argument = |value: &Value| CallArgument { value: Some(value.clone()), ..CallArgument::default() };
        params.arguments = Some(arguments.iter().map(argument).collect());
        let returned = self.call(params).await?;
        match returned.exception_details {
            Some(details) => Err(Trouble::Threw(thrown(&details))),
            None => Ok(returned.result),
        }
    }

    /// Gives up a navigation that does not come: the browser holds every other call back meanwhile.
    pub async fn stop_loading(&self) {
        match timeout(SHORT_DEADLINE, self.call(StopLoadingParams::default())).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => tracing::debug!(%error, "the page does not stop loading"),
            Err(_) => tracing::debug!("no answer to the wish that the page stop loading"),
        }
    }

    /// The page's address; empty where the page does not answer soon.
    pub async fn url(&self) -> String {
        let url = timeout(SHORT_DEADLINE, self.evaluate("location.href")).await;
        url.ok().and_then(Result::ok).and_then(|url| url.as_str().map(str::to_owned)).unwrap_or_default()
    }
}

/// The browser's own new tab page is of no use either way: it is still loading itself when the browser has just
/// started, and would be taken for the page that a navigation asked for.
async fn target(wire: &Wire, targets: &[TargetInfo], surviving: bool) -> Result<TargetId, Trouble> {
    let wanted = targets.iter().filter(|target| is_page(target)).find(|target| {
        if surviving { target.url != BLANK && !target.url.starts_with("chrome://") } else { target.url == BLANK }
    });
    match wanted {
        Some(target) => Ok(target.target_id.clone()),
        None if surviving => Err(Trouble::Refused("it shows no page any more".to_owned())),
        None => Ok(wire.call(None, CreateTargetParams::new(BLANK)).await?.target_id),
    }
}

fn is_page(target: &TargetInfo) -> bool {
    target.r#type == "page"
}

fn handle(object: RemoteObject) -> Option<Handle> {
    object.object_id.map(Handle)
}

fn thrown(details: &chromiumoxide::cdp::js_protocol::runtime::ExceptionDetails) -> String {
    let described = details.exception.as_ref().and_then(|exception| exception.description.clone());
    described.unwrap_or_else(|| details.text.clone())
}
