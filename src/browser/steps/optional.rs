//! `optional`: steps for what may or may not come, such as a banner.
//!
//! What is not there when its time is over is skipped, and what goes wrong on the way is given up: both are told in
//! the trace, and neither ends an attempt. Only what the site did otherwise is forgiven; a lost browser, a `stopIf`
//! that fires, and a page outside the flow's origins end it as anywhere else.

use std::time::Duration;

use tokio::time::Instant;

use super::Run;
use crate::model::flow::Step;
use crate::model::{Blame, Failure};

impl Run<'_> {
    pub(super) async fn optional(&mut self, step: &Step, steps: &[Step], appears: Duration) -> Result<(), Failure> {
        let began = Instant::now();
        self.within = Some(step.number);
        let mut skipped = None;
        let mut ended = Ok(());
        for (at, inner) in steps.iter().enumerate() {
            let limit = if at == 0 { appears } else { inner.timeout };
            let Err(failure) = self.single(inner, limit).await else { continue };
            if failure.blame() != Blame::Site || self.is_signal(&failure) {
                ended = Err(failure);
            } else if at == 0 {
                skipped = Some(format!("it did not come: {failure}"));
            } else {
                skipped = Some(format!("given up at its step {at}: {failure}"));
            }
            break;
        }
        self.within = None;
        match (&ended, skipped) {
            (Err(failure), _) => self.trace(step, began, None, failure.code.name(), Some(&failure.detail)).await,
            (Ok(()), Some(why)) => self.trace(step, began, None, "skipped", Some(&why)).await,
            (Ok(()), None) => self.trace(step, began, None, "ok", None).await,
        }
        ended
    }
}
