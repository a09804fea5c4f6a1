//! Breakers by name, shared between those who call out and those who show them.
//!
//! A clone is another handle. A breaker is made when its name is first used; of more than [`MAX_BREAKERS`]
//! the one that was longest not used is forgotten, and begins closed when its name comes again. Every move
//! of a breaker is counted, by kind and by where it went, goes to the log once, and is told to whoever plans
//! by it ([`Board::on_move`]). Nothing waits here: the lock is held for a few instructions.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};

pub use super::record::{BreakerView, MAX_TRANSITIONS, Transition};
use super::record::{Record, kind};
use super::{BreakerLimits, BreakerState, Passage};
use crate::model::Timestamp;

/// Breakers remembered.
pub const MAX_BREAKERS: usize = 1_024;

#[derive(Clone)]
pub struct Board {
    limits: BreakerLimits,
    kept: Arc<Mutex<Kept>>,
    listener: Arc<OnceLock<Listener>>,
}

type Listener = Box<dyn Fn() + Send + Sync>;

#[derive(Default)]
struct Kept {
    breakers: HashMap<String, Entry>,
    /// Grows with every use.
    uses: u64,
    /// Moves of all breakers of a kind into a state, those forgotten included.
    moves: BTreeMap<(String, &'static str), u64>,
}

struct Entry {
    record: Record,
    used: u64,
}

/// How many moves breakers of a kind have made into a state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moves {
    pub kind: String,
    pub to: &'static str,
    pub total: u64,
}

/// A move that is to be told when the lock is free again.
struct News {
    moved: Transition,
    view: BreakerView,
}

impl Board {
    #[must_use]
    pub fn new(limits: BreakerLimits) -> Self {
        Self { limits, kept: Arc::default(), listener: Arc::default() }
    }

    /// Calls `listener` after every move that somebody noticed; it must not wait. There is one, the first.
    pub fn on_move(&self, listener: impl Fn() + Send + Sync + 'static) {
        // A second one has no business here.
        let _first = self.listener.set(Box::new(listener));
    }

    /// Whether a call may be made now. Whoever makes it says how it ended, by one of the five below.
    ///
    /// # Errors
    /// When to ask again.
    pub fn admit(&self, name: &str, now: Timestamp) -> Result<(), Timestamp> {
        self.with(name, now, |record| record.breaker.admit(now))
    }

    pub fn succeeded(&self, name: &str, now: Timestamp) {
        self.with(name, now, |record| record.breaker.succeeded());
    }

    /// Of a call of a kind that says nothing of the others that the breaker guards.
    pub fn succeeded_at(&self, name: &str, kind: &'static str, now: Timestamp) {
        self.with(name, now, |record| record.breaker.succeeded_at(kind));
    }

    /// `why` is for a person.
    pub fn failed(&self, name: &str, now: Timestamp, why: &str) {
        self.failed_at(name, "", now, why);
    }

    /// Of a call of a kind.
    pub fn failed_at(&self, name: &str, kind: &'static str, now: Timestamp, why: &str) {
        self.with(name, now, |record| record.failed(kind, now, why));
    }

    /// The call says nothing of what it was made to: it was given up, or something else was in its way.
    pub fn withdrawn(&self, name: &str, now: Timestamp) {
        self.with(name, now, |record| record.breaker.withdrawn());
    }

    /// What a call that goes through all of these breakers would meet now. Asking spends nothing, and makes
    /// no breaker of a name that was not used.
    #[must_use]
    pub fn passage(&self, names: &[&str], now: Timestamp) -> Passage {
        let mut kept = self.lock();
        let news: Vec<_> = names.iter().filter_map(|name| kept.note(name, now)).collect();
        let known = names.iter().filter_map(|name| Some(kept.breakers.get_mut(*name)?.record.breaker.passage(now)));
        let worst = known.max().unwrap_or_default();
        drop(kept);
        self.tell(&news);
        worst
    }

    /// Every breaker that was used, those that are not closed first, then by name.
    #[must_use]
    pub fn view(&self, now: Timestamp) -> Vec<BreakerView> {
        let mut views = Vec::new();
        self.look(now, |name, record| views.push(record.view(name)));
        views.sort_by(|a, b| {
            let rank = |view: &BreakerView| (view.state == BreakerState::Closed, view.name.clone());
            rank(a).cmp(&rank(b))
        });
        views
    }

    /// Names whose calls are refused now, and until when.
    #[must_use]
    pub fn open(&self, now: Timestamp) -> Vec<(String, Timestamp)> {
        let mut open = Vec::new();
        self.look(now, |name, record| {
            if let BreakerState::Open { until } = record.breaker.state(now) {
                open.push((name.to_owned(), until));
            }
        });
        open
    }

    /// Since the start of the process.
    #[must_use]
    pub fn moves(&self) -> Vec<Moves> {
        let kept = self.lock();
        let moves = kept.moves.iter();
        moves.map(|((kind, to), total)| Moves { kind: kind.clone(), to, total: *total }).collect()
    }

    fn with<T>(&self, name: &str, now: Timestamp, act: impl FnOnce(&mut Record) -> T) -> T {
        let mut kept = self.lock();
        let answer = act(kept.record(name, self.limits, now));
        let news = kept.note(name, now);
        drop(kept);
        self.tell(news.as_slice());
        answer
    }

    fn look(&self, now: Timestamp, mut at: impl FnMut(&str, &Record)) {
        let mut kept = self.lock();
        let names: Vec<String> = kept.breakers.keys().cloned().collect();
        let news: Vec<_> = names.iter().filter_map(|name| kept.note(name, now)).collect();
        for (name, entry) in &kept.breakers {
            at(name, &entry.record);
        }
        drop(kept);
        self.tell(&news);
    }

    /// Without the lock: neither the log nor the listener holds up a call.
    fn tell(&self, news: &[News]) {
        news.iter().for_each(News::log);
        if let Some(listener) = self.listener.get().filter(|_| !news.is_empty()) {
            listener();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().expect("nothing panics while it holds the breakers")
    }
}

impl Kept {
    fn record(&mut self, name: &str, limits: BreakerLimits, now: Timestamp) -> &mut Record {
        self.uses += 1;
        if !self.breakers.contains_key(name) {
            if self.breakers.len() >= MAX_BREAKERS {
                let oldest = self.breakers.iter().min_by_key(|(_, entry)| entry.used);
                let oldest = oldest.map(|(name, _)| name.clone()).expect("a full board is not empty");
                self.breakers.remove(&oldest);
            }
            self.breakers.insert(name.to_owned(), Entry { record: Record::new(limits, now), used: 0 });
        }
        let entry = self.breakers.get_mut(name).expect("it was put in above");
        entry.used = self.uses;
        &mut entry.record
    }

    fn note(&mut self, name: &str, now: Timestamp) -> Option<News> {
        let record = &mut self.breakers.get_mut(name)?.record;
        let moved = record.note(now)?;
        let view = record.view(name);
        *self.moves.entry((kind(name).to_owned(), moved.to.name())).or_default() += 1;
        Some(News { moved, view })
    }
}

impl News {
    fn log(&self) {
        let Self { moved, view } = self;
        let (breaker, from, failures) = (&view.name, moved.from.name(), view.failures_in_a_row);
        match moved.to {
            BreakerState::Open { until } => {
                let error = view.last_error.as_deref().unwrap_or_default();
                tracing::warn!(breaker, from, failures, %until, error, "breaker open: it is left alone until then");
            }
            BreakerState::HalfOpen => tracing::info!(breaker, from, "breaker half open: a few calls are tried"),
            BreakerState::Closed => tracing::info!(breaker, from, "breaker closed: it works again"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_000_000);
    const OPEN: Duration = Duration::from_secs(60);

    fn board() -> Board {
        Board::new(BreakerLimits { failures: 2, open: OPEN, trials: 1 })
    }

    fn opened(name: &str) -> Board {
        let board = board();
        board.failed(name, NOW, "no answer");
        board.failed(name, NOW, "no answer");
        board
    }

    #[test]
    fn names_do_not_disturb_each_other_and_the_open_ones_come_first() {
        let board = board();
        for name in ["a", "b", "c"] {
            assert_eq!(board.admit(name, NOW), Ok(()));
        }
        board.failed("b", NOW, "one");
        board.failed("b", NOW, "two");
        board.failed("c", NOW, "three");
        let until = NOW.plus(OPEN);
        assert_eq!((board.admit("a", NOW), board.admit("b", NOW)), (Ok(()), Err(until)));
        assert_eq!(board.open(NOW), [("b".to_owned(), until)]);
        let shown: Vec<_> = board.clone().view(NOW).into_iter().map(|view| (view.name, view.state.name())).collect();
        assert_eq!(shown, [("b", "open"), ("a", "closed"), ("c", "closed")].map(|(n, s)| (n.to_owned(), s)));
    }

    #[test]
    fn the_longest_unused_is_forgotten() {
        let board = board();
        for _ in 0..2 {
            board.failed("0", NOW, "");
            board.failed("1", NOW, "");
        }
        assert!(board.admit("0", NOW).is_err(), "used last");
        for number in 2..=MAX_BREAKERS {
            board.succeeded(&number.to_string(), NOW);
        }
        assert_eq!(board.view(NOW).len(), MAX_BREAKERS);
        assert!(board.admit("0", NOW).is_err());
        assert_eq!(board.admit("1", NOW), Ok(()), "forgotten, so it begins closed");
    }

    #[test]
    fn the_worst_of_several_breakers_is_the_passage_through_them() {
        let board = opened("b");
        let until = NOW.plus(OPEN);
        let passage = |names: &[&str], now| board.passage(names, now);
        assert_eq!(passage(&["a"], NOW), Passage::Free);
        assert_eq!(passage(&["a", "b"], NOW), Passage::Shut { until });
        assert_eq!(board.view(NOW).len(), 1, "asking made a breaker");
        assert_eq!(passage(&["b", "a"], until), Passage::Trial);
        assert_eq!(passage(&["b", "a"], until), Passage::Trial, "asking spent the trial");
        board.admit("b", until).unwrap();
        assert_eq!(passage(&["b"], until), Passage::Shut { until: until.plus(OPEN) });
        board.withdrawn("b", until);
        assert_eq!(passage(&["b"], until), Passage::Trial);
        board.admit("b", until).unwrap();
        board.succeeded("b", until);
        assert_eq!(passage(&["b"], until), Passage::Free);
    }

    #[test]
    fn every_move_is_told_once() {
        use std::sync::atomic::{AtomicU32, Ordering};

        let board = board();
        let told = Arc::new(AtomicU32::new(0));
        let count = told.clone();
        board.on_move(move || _ = count.fetch_add(1, Ordering::Relaxed));
        let times = || told.load(Ordering::Relaxed);
        board.failed("a", NOW, "one");
        board.clone().succeeded("b", NOW);
        assert_eq!(times(), 0, "nothing moved");
        board.failed("a", NOW, "two");
        assert_eq!(times(), 1);
        assert_eq!(board.view(NOW).len(), 2);
        board.failed("a", NOW, "three");
        assert_eq!(times(), 1, "told again");
        assert_eq!(board.passage(&["a"], NOW.plus(OPEN)), Passage::Trial);
        assert_eq!(times(), 2);
        assert_eq!(board.admit("a", NOW.plus(OPEN)), Ok(()));
        board.succeeded("a", NOW.plus(OPEN));
        assert_eq!(times(), 3);
    }

    #[test]
    fn every_move_is_remembered_counted_and_bounded() {
        let board = opened("webhook https://a");
        let until = NOW.plus(OPEN);
        let view = |now| board.view(now).remove(0);
        let opened = view(NOW);
        let open = BreakerState::Open { until };
        let first = Transition { at: NOW, from: BreakerState::Closed, to: open };
        assert_eq!((opened.state, opened.since, opened.transitions), (open, NOW, vec![first]));
        assert_eq!((opened.failures_in_a_row, opened.opened_total), (2, 1));
        assert_eq!(opened.last_error.as_deref(), Some("no answer"));
        let later = until.plus(Duration::from_secs(1));
        let half = view(later);
        assert_eq!((half.state, half.since), (BreakerState::HalfOpen, later));
        assert_eq!(view(later.plus(OPEN)), half, "a second look is no move");
        board.admit("webhook https://a", later).unwrap();
        board.succeeded("webhook https://a", later);
        let closed = view(later);
        let words: Vec<_> = closed.transitions.iter().map(|moved| moved.to.name()).collect();
        assert_eq!((words, closed.failures_in_a_row), (vec!["open", "half_open", "closed"], 0));
        for _ in 0..9 {
            board.failed("webhook https://b", NOW, &"п".repeat(MAX_TRANSITIONS * 1_000));
            board.failed("webhook https://a", later, "again");
            board.failed("webhook https://a", later, "again");
            board.admit("webhook https://a", later.plus(OPEN)).unwrap();
            board.succeeded("webhook https://a", later.plus(OPEN));
        }
        let views = board.view(NOW);
        assert!(views.iter().all(|view| view.kind() == "webhook" && view.transitions.len() <= MAX_TRANSITIONS));
        assert!(views.iter().all(|view| view.last_error.as_ref().unwrap().len() < 400));
        let moves: Vec<_> = board.moves().into_iter().map(|moves| (moves.kind, moves.to, moves.total)).collect();
        let kind = || "webhook".to_owned();
        assert_eq!(moves, [(kind(), "closed", 10), (kind(), "half_open", 10), (kind(), "open", 11)]);
    }
}
