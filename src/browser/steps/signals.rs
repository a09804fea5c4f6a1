//! What ends a flow beside its steps: a `stopIf` that fires, and a navigation that was kept from leaving the origins.
//!
//! Both are looked at between steps, after a step that failed, and while a step waits or looks for its element, so
//! that a login page costs no time-out. Looking sends the page nothing, and an input that is being dispatched is
//! never interrupted: only waits are ([`Run::looking`]). Which end it makes, the caller decides.

use std::time::Duration;

use tokio::time::{sleep, timeout};

use super::Run;
use crate::browser::cdp::Trouble;
use crate::browser::locate::{self, Wanted};
use crate::model::flow::{Action, StopIf, StopWhen, url_contains};
use crate::model::{Failure, FailureCode};

/// Between two looks while a step waits.
const WATCH_EVERY: Duration = Duration::from_millis(400);
/// For one look. A page that is on its way to another one does not answer, and is looked at again.
const LOOK_DEADLINE: Duration = Duration::from_secs(2);

/// A `stopIf` that is in force.
pub(super) struct Stop {
    when: When,
    failure: Failure,
}

enum When {
    Visible(Wanted),
    UrlContains(String),
}

impl Run<'_> {
    /// Puts a `stopIf` in force to the end of the flow.
    pub(super) fn put_in_force(&mut self, stop: &StopIf) -> Result<(), Failure> {
        let when = match &stop.when {
            StopWhen::Visible(selectors) => When::Visible(Wanted::render(selectors, self.values)?),
            StopWhen::UrlContains(text) => {
                let text = self.render(text)?;
                if !text.contains(char::is_alphanumeric) {
                    let detail = format!("a stopIf whose url is `{text}` would stop at every page");
                    return Err(Failure::new(FailureCode::FlowInvalid, detail));
                }
                When::UrlContains(text)
            }
        };
        let failure = Failure::new(stop.reason.code(), self.render(&stop.message)?);
        self.stops.push(Stop { when, failure });
        Ok(())
    }

    /// The same for every one that stands before `position`: on a page that survived they are in force already.
    pub(super) fn put_in_force_before(&mut self, position: usize) -> Result<(), Failure> {
        let flow = self.flow;
        for step in &flow.steps[..position] {
            if let Action::StopIf(stop) = &step.action {
                self.put_in_force(stop)?;
            }
        }
        Ok(())
    }

    /// A step's own result, or what a look right after it finds.
    pub(super) async fn unless_signaled(&self, done: Result<(), Failure>) -> Result<(), Failure> {
        match done {
            Ok(()) => self.signal().await.map_or(Ok(()), Err),
            Err(failure) => Err(self.signal_or(failure).await),
        }
    }

    /// A signal's word is the better reason for a failure.
    pub(super) async fn signal_or(&self, failure: Failure) -> Failure {
        if failure.code == FailureCode::BrowserLost || self.is_signal(&failure) {
            return failure;
        }
        self.signal().await.unwrap_or(failure)
    }

    /// One look.
    pub(super) async fn signal(&self) -> Option<Failure> {
        if let Some(known) = self.stopped.get() {
            return Some(known.clone());
        }
        if let Some(address) = self.tab.blocked() {
            return Some(self.blocked(&address));
        }
        if self.stops.is_empty() {
            return None;
        }
        match timeout(LOOK_DEADLINE, self.fired()).await {
            Ok(Ok(fired)) => fired.map(|failure| self.stopped.get_or_init(|| failure).clone()),
            Ok(Err(error)) => {
                tracing::debug!(%error, "no page to look at for a stopIf");
                None
            }
            Err(_) => None,
        }
    }

    /// Whether this failure is a signal's, and not a step's own.
    pub(super) fn is_signal(&self, failure: &Failure) -> bool {
        self.stopped.get() == Some(failure)
            || (failure.code == FailureCode::OriginBlocked && self.tab.blocked().is_some())
    }

    fn blocked(&self, address: &str) -> Failure {
        let origins = self.flow.origins.join(", ");
        let detail =
            format!("the page was kept from going to {address}, which is not in the flow's origins: {origins}");
        Failure::new(FailureCode::OriginBlocked, detail)
    }

    /// A wait of a step, ended by a signal.
    pub(super) async fn looking<T>(&self, wait: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
        tokio::select! {
            biased;
            done = wait => done,
            signal = self.signaled() => Err(signal),
        }
    }

    async fn signaled(&self) -> Failure {
        loop {
            tokio::select! {
                address = self.tab.until_blocked() => return self.blocked(&address),
                () = sleep(WATCH_EVERY) => {}
            }
            if let Some(signal) = self.signal().await {
                return signal;
            }
        }
    }

    async fn fired(&self) -> Result<Option<Failure>, Trouble> {
        let wanted: Vec<_> = self.stops.iter().filter_map(Stop::wanted).collect();
        let (url, visible) = locate::visible(self.tab, &wanted).await?;
        let mut visible = visible.into_iter();
        for stop in &self.stops {
            let fires = match &stop.when {
                When::Visible(_) => visible.next() == Some(true),
                When::UrlContains(text) => url_contains(&url, text),
            };
            if fires {
                return Ok(Some(stop.failure.clone()));
            }
        }
        Ok(None)
    }
}

impl Stop {
    const fn wanted(&self) -> Option<&Wanted> {
        match &self.when {
            When::Visible(wanted) => Some(wanted),
            When::UrlContains(_) => None,
        }
    }
}
