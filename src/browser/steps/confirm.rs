//! What confirms a click whose attempt did not live to see it (fence.md rule 15).
//!
//! The page survived a restart of the daemon: it is only looked at, and nothing is dispatched. Since nobody knows any
//! more what the page showed when the click was sent, a wait that was true before it ([`Run::open_waits`], noted right
//! before arming) confirms nothing here.

use std::time::Duration;

use tokio::time::{Instant, sleep_until, timeout};

use super::wait::Look;
use super::{Run, overdue};
use crate::browser::ReplayEnd;
use crate::browser::locate;
use crate::model::flow::{Action, Step};
use crate::model::{Failure, FailureCode};

/// For one look before the click.
const INSTANT: Duration = Duration::from_secs(1);

impl Run<'_> {
    /// Which of the waits in `behind` are true now, by one look each. One that gives no answer may be true.
    pub(super) async fn open_waits(&self, behind: &[Step]) -> Result<Vec<usize>, Failure> {
        let mut open = Vec::new();
        for step in behind {
            let Some(wait) = self.wait_of(&step.action)? else { continue };
            let until = Instant::now() + INSTANT;
            match timeout(INSTANT * 2, wait.look(self.tab, until)).await {
                Ok(Ok(Look::False(_) | Look::Threw(_))) => {}
                Ok(Ok(Look::True | Look::Unclear(_))) | Err(_) => open.push(step.number),
                Ok(Err(failure)) => return Err(failure),
            }
        }
        Ok(open)
    }

    pub(super) async fn confirm_only(&mut self, until: Instant, open_waits: &[usize]) -> ReplayEnd {
        let flow = self.flow;
        let Some(commit) = flow.commit else {
            let failure = Failure::new(FailureCode::RestartedAfterCommit, "the flow has no commit point");
            return self.unknown(&failure).await;
        };
        if let Err(failure) = self.put_in_force_before(commit) {
            return self.unknown(&failure).await;
        }
        let tab = self.tab;
        let last = flow.steps.iter().rposition(|step| step.action.is_wait()).unwrap_or(commit);
        let mut confirmations = 0;
        for (position, step) in flow.steps.iter().enumerate().skip(commit + 1) {
            let evidence = matches!(step.action, Action::Extract { .. } | Action::Screenshot { .. });
            if !step.action.is_wait() && !evidence && !matches!(step.action, Action::StopIf(_)) {
                continue;
            }
            let done = tokio::select! {
                done = self.step(step) => done,
                () = sleep_until(until) => Err(overdue()),
                why = tab.lost() => Err(locate::lost(why)),
            };
            match done {
                Ok(()) => confirmations += u32::from(step.action.is_wait() && !open_waits.contains(&step.number)),
                Err(failure) if evidence && (position > last || !self.is_signal(&failure)) => {
                    self.notes.push(format!("step {}: {failure}", step.number));
                }
                Err(failure) => return self.unknown(&failure).await,
            }
        }
        if confirmations == 0 {
            let detail = "the page that survived cannot confirm it: the flow waits for nothing after its commit point \
                that was not there before it";
            let failure = Failure::new(FailureCode::RestartedAfterCommit, detail);
            return self.unknown(&failure).await;
        }
        self.keep_after().await;
        self.confirmed().await
    }
}
