//! Keeps a flow's pages inside its origins: a request for a document outside of them is ended before it leaves.
//!
//! Switched on by an attachment whose flow has origins, and by no other: the browser then asks here before it fetches
//! a document, once more for every redirect. Frames within pages, and everything that is no document, pass untouched.
//! A page that was going to leave stays as it is, and whoever watches the attachment is told. A window that a page
//! opened is kept inside as well, and noted; it is no page of the flow, and ends nothing.

use std::collections::HashSet;
use std::time::Duration;

use chromiumoxide::Command;
use chromiumoxide::cdp::browser_protocol::fetch::{
    ContinueRequestParams, EnableParams, EventRequestPaused, FailRequestParams, RequestPattern, RequestStage,
};
use chromiumoxide::cdp::browser_protocol::network::{ErrorReason, ResourceType};
use chromiumoxide::cdp::browser_protocol::target::GetTargetsParams;
use serde_json::json;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::watch::{Observed, bounded, without_query};
use super::wire::Wire;
use super::{Trouble, is_page};
use crate::model::flow::origin_of;

/// A browser that does not answer this long is hung, and so is the page that waits for it.
const ANSWER_DEADLINE: Duration = Duration::from_secs(10);

/// What was kept from leaving.
#[derive(Clone)]
pub struct Guard(watch::Receiver<Option<String>>);

impl Guard {
    /// Answers what the browser asks, once it is told to ask ([`enable`]). `main` is the target of the flow's page;
    /// the others were there before.
    pub(super) fn listen(
        wire: &Wire,
        main: &str,
        others: HashSet<String>,
        origins: &[String],
        observed: &Observed,
        tasks: &mut JoinSet<()>,
    ) -> Self {
        let (told, blocked) = watch::channel(None);
        let mut paused = wire.listen::<EventRequestPaused>(None);
        let watch = Watch {
            wire: wire.clone(),
            origins: origins.to_vec(),
            main: main.to_owned(),
            others,
            told,
            observed: observed.clone(),
        };
        tasks.spawn(async move {
            while let Some(request) = paused.next().await {
                watch.answer(&request).await;
            }
        });
        Self(blocked)
    }

    /// The address to which the page was about to go, without its query.
    pub fn blocked(&self) -> Option<String> {
        self.0.borrow().clone()
    }

    pub async fn until_blocked(&self) -> String {
        let mut blocked = self.0.clone();
        let address = blocked.wait_for(Option::is_some).await.ok().and_then(|address| address.clone());
        match address {
            Some(address) => address,
            // Its task ends with the attachment, and then others tell.
            None => std::future::pending().await,
        }
    }
}

struct Watch {
    wire: Wire,
    origins: Vec<String>,
    /// The main frame of the flow's page, which keeps its name wherever it goes.
    main: String,
    /// Pages that were there before, whose ways are none of the flow's.
    others: HashSet<String>,
    told: watch::Sender<Option<String>>,
    observed: Observed,
}

/// From the answer on no document is fetched that was not asked for here.
pub(super) async fn enable(wire: &Wire) -> Result<(), Trouble> {
    let documents = RequestPattern {
        url_pattern: Some("*".to_owned()),
        resource_type: Some(ResourceType::Document),
        request_stage: Some(RequestStage::Request),
    };
    let asked = EnableParams { patterns: Some(vec![documents]), handle_auth_requests: None };
    wire.call(None, asked).await.map(drop)
}

impl Watch {
    async fn answer(&self, request: &EventRequestPaused) {
        let url = &request.request.url;
        if is_inside(url, &self.origins) {
            return self.send(ContinueRequestParams::new(request.request_id.clone())).await;
        }
        let frame: &str = request.frame_id.as_ref();
        let shown = bounded(without_query(url)).to_owned();
        if frame == self.main {
            self.refuse(request).await;
            self.observed.add(json!({"kind": "blocked", "text": "outside the flow's origins", "url": shown}));
            self.told.send_if_modified(|told| told.is_none().then(|| *told = Some(shown)).is_some());
        } else if self.is_new_page(frame).await {
            self.refuse(request).await;
            let text = "a window of the page, outside the flow's origins";
            self.observed.add(json!({"kind": "blocked", "text": text, "url": shown}));
        } else {
            self.send(ContinueRequestParams::new(request.request_id.clone())).await;
        }
    }

    /// Whether it is the main frame of a page that came since. Of a frame within a page no target has the name.
    async fn is_new_page(&self, frame: &str) -> bool {
        if self.others.contains(frame) {
            return false;
        }
        match timeout(ANSWER_DEADLINE, self.wire.call(None, GetTargetsParams::default())).await {
            Ok(Ok(now)) => now.target_infos.iter().any(|page| is_page(page) && page.target_id.inner() == frame),
            Ok(Err(error)) => {
                tracing::debug!(%error, "whose document it is cannot be told");
                true
            }
            Err(_) => true,
        }
    }

    async fn refuse(&self, request: &EventRequestPaused) {
        self.send(FailRequestParams::new(request.request_id.clone(), ErrorReason::Aborted)).await;
    }

    /// A request that is gone meanwhile needs no answer.
    async fn send<C: Command>(&self, command: C) {
        match timeout(ANSWER_DEADLINE, self.wire.call(None, command)).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => tracing::debug!(%error, "a paused request was not answered"),
            Err(_) => tracing::debug!("the browser does not take the answer to a paused request"),
        }
    }
}

/// Whether a document of this address belongs to the origins, or to nobody.
fn is_inside(url: &str, origins: &[String]) -> bool {
    if url == "about:blank" || url == "about:srcdoc" {
        return true;
    }
    let address = url.strip_prefix("blob:").unwrap_or(url);
    origin_of(address).is_some_and(|origin| origins.contains(&origin))
}

#[cfg(test)]
mod tests {
    use super::is_inside;

    #[test]
    fn a_document_is_inside_by_its_origin_alone() {
        let origins = ["https://example.org".to_owned(), "http://127.0.0.1:8000".to_owned()];
        for inside in [
            "https://example.org/",
            "https://example.org:443/a?to=https://evil.net",
            "http://127.0.0.1:8000/x",
            "blob:https://example.org/1-2",
            "about:blank",
        ] {
            assert!(is_inside(inside, &origins), "{inside}");
        }
        for outside in [
            "https://example.org.evil.net/",
            "https://example.org@evil.net/",
            "http://example.org/",
            "http://127.0.0.1:8001/",
            "blob:https://evil.net/1",
            "data:text/html,x",
            "file:///etc/passwd",
            "about:settings",
        ] {
            assert!(!is_inside(outside, &origins), "{outside}");
        }
    }
}
