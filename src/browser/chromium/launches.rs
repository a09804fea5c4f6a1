//! Starts of Chromium, one after the other: while one is on its way the next begins a while later.
//!
//! A start takes all processors for a moment; several at once take each other's time, and with it their
//! deadlines. A start that is alone waits for nobody; one that waited asks its gate whether it still may.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::{Instant, sleep_until};

use crate::browser::StartGate;
use crate::model::Failure;

#[derive(Default)]
pub struct Launches {
    gap: Duration,
    /// When the next may begin, if another is on its way then.
    next: Mutex<Option<Instant>>,
    under_way: AtomicUsize,
}

/// A start that waits or is on its way, for as long as it is kept.
pub struct Launch<'a>(&'a Launches);

impl Launches {
    pub fn with_gap(gap: Duration) -> Self {
        Self { gap, ..Self::default() }
    }

    /// Waits for its turn, behind those that came before. Whoever gives up waiting takes no turn.
    ///
    /// # Errors
    /// What `gate` says then: no turn was taken.
    pub async fn turn(&self, gate: &dyn StartGate) -> Result<Launch<'_>, Failure> {
        self.under_way.fetch_add(1, Ordering::Relaxed);
        let launch = Launch(self);
        let mut next = self.next.lock().await;
        let is_alone = self.under_way.load(Ordering::Relaxed) == 1;
        if let Some(at) = next.filter(|_| !is_alone) {
            sleep_until(at).await;
        }
        gate.may_start()?;
        *next = Some(Instant::now() + self.gap);
        Ok(launch)
    }
}

impl Drop for Launch<'_> {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use super::*;
    use crate::browser::Ungated;
    use crate::model::FailureCode;

    const NEVER: Duration = Duration::from_hours(1);
    const SOON: Duration = Duration::from_millis(50);

    #[tokio::test]
    async fn several_starts_begin_one_gap_apart() {
        let (launches, began) = (Launches::with_gap(SOON), Instant::now());
        let _launches = tokio::join!(launches.turn(&Ungated), launches.turn(&Ungated), launches.turn(&Ungated));
        assert!(began.elapsed() >= SOON * 2);
    }

    #[tokio::test]
    async fn a_lone_start_begins_at_once_and_whoever_gives_up_waiting_takes_no_turn() {
        let launches = Launches::with_gap(NEVER);
        let first = launches.turn(&Ungated).await.unwrap();
        assert!(tokio::time::timeout(SOON, launches.turn(&Ungated)).await.is_err(), "one is on its way");
        assert_eq!(launches.under_way.load(Ordering::Relaxed), 1);
        drop(first);
        let _second = launches.turn(&Ungated).await.unwrap();
    }
    struct Door(AtomicBool);

    impl StartGate for Door {
        fn may_start(&self) -> Result<(), Failure> {
            let open = self.0.load(Ordering::Relaxed);
            open.then_some(()).ok_or_else(|| Failure::new(FailureCode::BreakerOpen, "it closed meanwhile"))
        }
    }

    #[tokio::test]
    async fn a_start_whose_gate_closed_while_it_waited_is_refused_and_holds_up_nobody() {
        let launches = Launches::with_gap(Duration::from_millis(200));
        let door = Door(AtomicBool::new(true));
        let first = launches.turn(&door).await.unwrap();
        let close = async { door.0.store(false, Ordering::Relaxed) };
        let began = Instant::now();
        let (second, third, ()) = tokio::join!(launches.turn(&door), launches.turn(&Ungated), close);
        assert_eq!(second.err().map(|failure| failure.code), Some(FailureCode::BreakerOpen));
        assert!(began.elapsed() < Duration::from_millis(350), "the refused start took a turn");
        drop((first, third.unwrap()));
        assert_eq!(launches.under_way.load(Ordering::Relaxed), 0);
    }
}
