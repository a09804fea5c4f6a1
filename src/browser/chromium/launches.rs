//! Starts of Chromium, one after the other: while one is on its way the next begins a while later.
//!
//! A start takes all processors for a moment; several at once take each other's time, and with it their deadlines. A start that is alone waits for
//! nobody.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::{Instant, sleep_until};

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
    pub async fn turn(&self) -> Launch<'_> {
        self.under_way.fetch_add(1, Ordering::Relaxed);
        let launch = Launch(self);
        let mut next = self.next.lock().await;
        let is_alone = self.under_way.load(Ordering::Relaxed) == 1;
        if let Some(at) = next.filter(|_| !is_alone) {
            sleep_until(at).await;
        }
        *next = Some(Instant::now() + self.gap);
        launch
    }
}

impl Drop for Launch<'_> {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEVER: Duration = Duration::from_hours(1);
    const SOON: Duration = Duration::from_millis(50);

    #[tokio::test]
    async fn several_starts_begin_one_gap_apart() {
        let (launches, began) = (Launches::with_gap(SOON), Instant::now());
        let _launches = tokio::join!(launches.turn(), launches.turn(), launches.turn());
        assert!(began.elapsed() >= SOON * 2);
    }

    #[tokio::test]
    async fn a_lone_start_begins_at_once_and_whoever_gives_up_waiting_takes_no_turn() {
        let launches = Launches::with_gap(NEVER);
        let first = launches.turn().await;
        assert!(tokio::time::timeout(SOON, launches.turn()).await.is_err(), "one is on its way");
        assert_eq!(launches.under_way.load(Ordering::Relaxed), 1);
        drop(first);
        let _second = launches.turn().await;
    }
}
