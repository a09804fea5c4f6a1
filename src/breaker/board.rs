//! Breakers by name, shared between those who call out and those who show them.
//!
//! A clone is another handle. A breaker is made when its name is first asked for; of more than
//! [`MAX_BREAKERS`] the one that was longest not used is forgotten, and begins closed when its name comes
//! again. Nothing waits here: the lock is held for a few instructions.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};

use super::{Breaker, BreakerLimits, BreakerState};
use crate::model::Timestamp;

/// Breakers remembered.
pub const MAX_BREAKERS: usize = 1_024;

/// One breaker as it is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BreakerView {
    pub name: String,
    pub state: BreakerState,
}

#[derive(Clone)]
pub struct Board {
    limits: BreakerLimits,
    kept: Arc<Mutex<Kept>>,
}

#[derive(Default)]
struct Kept {
    breakers: HashMap<String, Entry>,
    /// Grows with every use.
    uses: u64,
}

struct Entry {
    breaker: Breaker,
    used: u64,
}

impl Board {
    #[must_use]
    pub fn new(limits: BreakerLimits) -> Self {
        Self { limits, kept: Arc::default() }
    }

    /// Whether a call may be made now.
    ///
    /// # Errors
    /// When to ask again.
    pub fn admit(&self, name: &str, now: Timestamp) -> Result<(), Timestamp> {
        self.lock().breaker(name, self.limits).admit(now)
    }

    pub fn succeeded(&self, name: &str) {
        self.lock().breaker(name, self.limits).succeeded();
    }

    pub fn failed(&self, name: &str, now: Timestamp) {
        self.lock().breaker(name, self.limits).failed(now);
    }

    /// Every breaker that was used, those that are not closed first, then by name.
    #[must_use]
    pub fn view(&self, now: Timestamp) -> Vec<BreakerView> {
        let kept = self.lock();
        let show =
            |(name, entry): (&String, &Entry)| BreakerView { name: name.clone(), state: entry.breaker.state(now) };
        let mut views: Vec<_> = kept.breakers.iter().map(show).collect();
        drop(kept);
        views.sort_by(|a, b| {
            let rank = |view: &BreakerView| (view.state == BreakerState::Closed, view.name.clone());
            rank(a).cmp(&rank(b))
        });
        views
    }

    /// Names whose calls are refused now, and until when.
    #[must_use]
    pub fn open(&self, now: Timestamp) -> Vec<(String, Timestamp)> {
        let kept = self.lock();
        let open = kept.breakers.iter().filter_map(|(name, entry)| match entry.breaker.state(now) {
            BreakerState::Open { until } => Some((name.clone(), until)),
            BreakerState::Closed | BreakerState::HalfOpen => None,
        });
        open.collect()
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().expect("nothing panics while it holds the breakers")
    }
}

impl Kept {
    fn breaker(&mut self, name: &str, limits: BreakerLimits) -> &mut Breaker {
        self.uses += 1;
        if !self.breakers.contains_key(name) {
            if self.breakers.len() >= MAX_BREAKERS {
                let oldest = self.breakers.iter().min_by_key(|(_, entry)| entry.used);
                let oldest = oldest.map(|(name, _)| name.clone()).expect("a full board is not empty");
                self.breakers.remove(&oldest);
            }
            self.breakers.insert(name.to_owned(), Entry { breaker: Breaker::new(limits), used: 0 });
        }
        let entry = self.breakers.get_mut(name).expect("it was put in above");
        entry.used = self.uses;
        &mut entry.breaker
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_000_000);

    fn board() -> Board {
        Board::new(BreakerLimits { failures: 2, open: Duration::from_secs(60), trials: 1 })
    }

    #[test]
    fn names_do_not_disturb_each_other_and_the_open_ones_come_first() {
        let board = board();
        for name in ["a", "b", "c"] {
            assert_eq!(board.admit(name, NOW), Ok(()));
        }
        board.failed("b", NOW);
        board.failed("b", NOW);
        board.failed("c", NOW);
        let until = NOW.plus(Duration::from_secs(60));
        assert_eq!((board.admit("a", NOW), board.admit("b", NOW)), (Ok(()), Err(until)));
        assert_eq!(board.open(NOW), [("b".to_owned(), until)]);
        let shown: Vec<_> = board.clone().view(NOW).into_iter().map(|view| (view.name, view.state.name())).collect();
        assert_eq!(shown, [("b", "open"), ("a", "closed"), ("c", "closed")].map(|(n, s)| (n.to_owned(), s)));
    }

    #[test]
    fn the_longest_unused_is_forgotten() {
        let board = board();
        for _ in 0..2 {
            board.failed("0", NOW);
            board.failed("1", NOW);
        }
        assert!(board.admit("0", NOW).is_err(), "used last");
        for number in 2..=MAX_BREAKERS {
            board.succeeded(&number.to_string());
        }
        assert_eq!(board.view(NOW).len(), MAX_BREAKERS);
        assert!(board.admit("0", NOW).is_err());
        assert_eq!(board.admit("1", NOW), Ok(()), "forgotten, so it begins closed");
    }
}
