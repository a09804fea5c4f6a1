//! One attachment to one session: a tab, calls with deadlines, and the knowledge of whether the browser
//! is still there.
//!
//! The steps call it. The stream of chromiumoxide's handler is polled all the time by an owned task that
//! ends with the attachment; when it ends first, the browser is gone and every call says so at once.
//! JavaScript dialogs are answered, so that a page cannot hang a step. Nothing is sent twice here.

mod origins;
mod watch;

use std::sync::Arc;
use std::time::Duration;

use chromiumoxide::cdp::browser_protocol::emulation::SetFocusEmulationEnabledParams;
use chromiumoxide::cdp::browser_protocol::page::{BringToFrontParams, StopLoadingParams};
use chromiumoxide::cdp::browser_protocol::target::{GetTargetsParams, TargetId};
use chromiumoxide::cdp::js_protocol::runtime::{
    CallArgument, CallFunctionOnParams, EvaluateParams, RemoteObject, RemoteObjectId,
};
use chromiumoxide::error::CdpError;
use chromiumoxide::handler::HandlerConfig;
use chromiumoxide::{Browser, Command, Page};
use futures_util::StreamExt;
use serde_json::Value;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::Session;
use crate::model::{Failure, FailureCode};
use origins::Guard;
use watch::Crashed;
pub use watch::{Observed, without_query};

/// For one call; a page that does not answer this long hangs.
const CALL_DEADLINE: Duration = Duration::from_secs(15);
/// For what is only good to know.
const SHORT_DEADLINE: Duration = Duration::from_secs(2);
const ATTACH_DEADLINE: Duration = Duration::from_secs(20);
/// chromiumoxide's own limit; ours is shorter.
const REQUEST_TIMEOUT: Duration = Duration::from_mins(2);
/// Chromium's word for it.
const TARGET_CRASHED: &str = "Target crashed";
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
    page: Page,
    /// Dropping it closes the connection.
    _browser: Arc<Browser>,
    /// Where the flow has origins.
    guard: Option<Guard>,
    lost: CancellationToken,
    crashed: Crashed,
    pub observed: Observed,
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

    async fn try_attach(session: &Session, surviving: bool, origins: &[String]) -> Result<Self, CdpError> {
        let config = HandlerConfig {
            // The page keeps the window's own size unless the recording says otherwise.
            viewport: None,
            ignore_https_errors: false,
            request_timeout: REQUEST_TIMEOUT,
            ..HandlerConfig::default()
        };
        let (browser, mut handler) = Browser::connect_with_config(session.ws_url(), config).await?;
        let lost = CancellationToken::new();
        let gone = lost.clone().drop_guard();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let _gone = gone;
            while let Some(event) = handler.next().await {
                if matches!(event, Err(CdpError::Ws(_) | CdpError::Io(_) | CdpError::NoResponse)) {
                    return;
                }
            }
        });
        // Not `fetch_targets`: it attaches to every target a second time, without `flatten`, and the page may then
        // hold the session id of which the connection knows nothing.
        let targets = browser.execute(GetTargetsParams::default()).await?.result.target_infos;
        // The browser's own new tab page is of no use either way: it is still loading itself when the browser
        // has just started, and would be taken for the page that a navigation asked for.
        let wanted = targets.iter().filter(|target| target.r#type == "page").find(|target| {
            if surviving { target.url != BLANK && !target.url.starts_with("chrome://") } else { target.url == BLANK }
        });
        let page = match wanted {
            Some(target) => found_page(&browser, target.target_id.clone()).await?,
            None if surviving => return Err(CdpError::NotFound),
            None => browser.new_page(BLANK).await?,
        };
        let browser = Arc::new(browser);
        let observed = Observed::default();
        watch::start(&page, &observed, &mut tasks).await?;
        let crashed = Crashed::default();
        watch::crashes(&page, &crashed, &lost, &mut tasks).await?;
        let guard = if origins.is_empty() {
            None
        } else {
            Some(origins::start(&browser, page.target_id().as_ref(), origins, &observed, &mut tasks).await?)
        };
        page.execute(BringToFrontParams::default()).await?;
        page.execute(SetFocusEmulationEnabledParams::new(true)).await?;
        Ok(Self { page, _browser: browser, guard, lost, crashed, observed, _tasks: tasks })
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
        let answer = tokio::select! {
            biased;
            answer = timeout(CALL_DEADLINE, self.page.execute(command)) => answer,
            why = self.lost() => return Err(Trouble::Lost(why.to_owned())),
        };
        match answer {
            Ok(Ok(response)) => Ok(response.result),
            Ok(Err(CdpError::Timeout)) | Err(_) => Err(Trouble::Slow),
            Ok(Err(CdpError::Ws(error))) => Err(Trouble::Lost(error.to_string())),
            Ok(Err(error @ (CdpError::NoResponse | CdpError::ChannelSendError(_) | CdpError::Io(_)))) => {
                Err(Trouble::Lost(error.to_string()))
            }
            // What was under way when the page crashed is answered before the crash is told.
            Ok(Err(CdpError::Chrome(error))) if error.message == TARGET_CRASHED => {
                Err(Trouble::Lost(watch::PAGE_CRASHED.to_owned()))
            }
            Ok(Err(error)) => Err(Trouble::Refused(error.to_string())),
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

/// The handler learns of a target a moment after the browser tells it.
async fn found_page(browser: &Browser, id: TargetId) -> Result<Page, CdpError> {
    loop {
        match browser.get_page(id.clone()).await {
            Ok(page) => return Ok(page),
            // Bounded by the deadline of the whole attachment.
            Err(CdpError::NotFound) => tokio::time::sleep(Duration::from_millis(20)).await,
            Err(error) => return Err(error),
        }
    }
}

fn handle(object: RemoteObject) -> Option<Handle> {
    object.object_id.map(Handle)
}

fn thrown(details: &chromiumoxide::cdp::js_protocol::runtime::ExceptionDetails) -> String {
    let described = details.exception.as_ref().and_then(|exception| exception.description.clone());
    described.unwrap_or_else(|| details.text.clone())
}
