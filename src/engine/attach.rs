//! One try to bring up a browser and to attach to it, as the breaker [`CDP_ATTACH`] counts it.
//!
//! Attempts and looks at an unknown outcome begin one right before their start. A failure is a browser
//! that did not come up, or whose `DevTools` did not answer; a success is an attachment. All else (somebody
//! else's browser, an interrupt, a provider that is away) says nothing of it. A browser from before a
//! restart and one that a person opens are not tries of this kind.

use std::future::{Future, pending};
use std::sync::atomic::{AtomicBool, Ordering};

use tokio_util::sync::CancellationToken;

use super::event::Event;
use super::turn::Child;
use crate::breaker::CDP_ATTACH;
use crate::browser::StartGate;
use crate::model::{Failure, FailureCode, Timestamp};

pub(super) struct Attach<'a> {
    child: &'a Child,
    /// Cancelled by whoever attaches when it has.
    attached: CancellationToken,
    told: AtomicBool,
}

impl<'a> Attach<'a> {
    /// # Errors
    /// While too much has failed in a row.
    pub fn begin(child: &'a Child) -> Result<Self, Failure> {
        let now = child.shared.clock.now();
        child.shared.breakers.admit(CDP_ATTACH, now).map_err(shut)?;
        Ok(Self { child, attached: CancellationToken::new(), told: AtomicBool::new(false) })
    }

    /// For whoever attaches.
    pub fn attached(&self) -> CancellationToken {
        self.attached.clone()
    }

    /// Runs what attaches, and says so as soon as it has.
    pub async fn during<T>(&self, work: impl Future<Output = T>) -> T {
        let tell = async {
            self.attached.cancelled().await;
            self.works().await;
            pending().await
        };
        let done = tokio::select! {
            biased;
            done = work => done,
            never = tell => never,
        };
        if self.attached.is_cancelled() {
            self.works().await;
        }
        done
    }

    async fn works(&self) {
        if self.is_first_word() {
            self.child.shared.breakers.succeeded(CDP_ATTACH, self.child.shared.clock.now());
            self.child.tell(Event::Attached { fence: self.child.fence }).await;
        }
    }

    /// How the try ended before anything was attached.
    pub fn failed(&self, failure: &Failure) {
        use FailureCode::{AttachFailed, BrowserStartFailed, DeadlineExceeded};
        if matches!(failure.code, AttachFailed | BrowserStartFailed | DeadlineExceeded) && self.is_first_word() {
            let now = self.child.shared.clock.now();
            self.child.shared.breakers.failed(CDP_ATTACH, now, &failure.to_string());
        }
    }

    fn is_first_word(&self) -> bool {
        !self.told.swap(true, Ordering::Relaxed)
    }
}

/// It was admitted at its beginning; those before it may have opened the breaker while it waited for its turn.
impl StartGate for Attach<'_> {
    fn may_start(&self) -> Result<(), Failure> {
        let open = self.child.shared.breakers.open(self.child.shared.clock.now());
        let ours = open.into_iter().find(|(name, _)| name == CDP_ATTACH);
        ours.map_or(Ok(()), |(_, until)| Err(shut(until)))
    }
}

fn shut(until: Timestamp) -> Failure {
    let detail = format!("browsers come up and do not answer: none is started before {until}");
    Failure::new(FailureCode::BreakerOpen, detail)
}

impl Drop for Attach<'_> {
    fn drop(&mut self) {
        if self.is_first_word() {
            self.child.shared.breakers.withdrawn(CDP_ATTACH, self.child.shared.clock.now());
        }
    }
}
