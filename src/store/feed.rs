//! The feed: the last news of this run, in the order in which they happened.
//!
//! The writer tells every line of a task's log here after its commit and before its caller is answered;
//! [`crate::ops::announce`] tells what no task's log holds. A reader brings the place that it has come to and is given what
//! came after, so that a thousand of them cost a number each. Invariants: at most [`KEPT`] news are held; a reader
//! that fell behind them is told so and never misses one in silence; a place of another run is behind
//! everything. Nothing here is stored: after a restart the lists of the API say what was missed.

use std::collections::VecDeque;
use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use super::EventRow;
use crate::model::{TaskId, Timestamp};

/// News held.
pub const KEPT: usize = 4_096;

/// What happened.
#[derive(Clone, Debug)]
pub enum News {
    /// A line of a task's log.
    Line { task: TaskId, row: EventRow },
    /// The daemon as a whole is in another state.
    Engine { at: Timestamp, state: &'static str },
    /// A breaker moved.
    Breaker { at: Timestamp, name: String, from: &'static str, to: &'static str, last_error: Option<String> },
}

/// A place in the feed: everything up to it has been seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FeedPlace {
    run: u32,
    number: u64,
}

impl fmt::Display for FeedPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}-{}", self.run, self.number)
    }
}

impl FromStr for FeedPlace {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (run, number) = text.split_once('-').ok_or(())?;
        let place = Self { run: u32::from_str_radix(run, 16).map_err(drop)?, number: number.parse().map_err(drop)? };
        // One text for each place: `+1` is none.
        if place.to_string() == text { Ok(place) } else { Err(()) }
    }
}

/// The reader's place is of another run, or older than what is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FellBehind;

#[derive(Default)]
struct Held {
    news: VecDeque<Arc<News>>,
    /// The number of the last of them; the first of a run has 1.
    last: u64,
}

/// A clone is another handle.
#[derive(Clone)]
pub struct Feed {
    run: u32,
    held: Arc<Mutex<Held>>,
    grown: watch::Sender<u64>,
}

impl Feed {
    /// `run` tells this run from others.
    #[must_use]
    pub fn new(run: u32) -> Self {
        Self { run, held: Arc::default(), grown: watch::Sender::new(0) }
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn tell(&self, news: impl IntoIterator<Item = News>) {
        let mut held = self.held();
        let before = held.last;
        for one in news {
            if held.news.len() == KEPT {
                held.news.pop_front();
            }
            held.news.push_back(Arc::new(one));
            held.last += 1;
        }
        let last = held.last;
        drop(held);
        if last > before {
            self.grown.send_replace(last);
        }
    }

    /// Behind the last news.
    #[must_use]
    pub fn end(&self) -> FeedPlace {
        FeedPlace { run: self.run, number: self.held().last }
    }

    /// What came after `place`, at most so many, each with the place behind it.
    ///
    /// # Errors
    /// When some of it is not held any more.
    pub fn after(&self, place: FeedPlace, most: usize) -> Result<Vec<(FeedPlace, Arc<News>)>, FellBehind> {
        let held = self.held();
        let oldest = held.last - held.news.len() as u64;
        if place.run != self.run || place.number < oldest || place.number > held.last {
            return Err(FellBehind);
        }
        let seen = usize::try_from(place.number - oldest).map_err(|_| FellBehind)?;
        let news = held.news.iter().skip(seen).take(most);
        Ok((place.number + 1..).zip(news).map(|(number, news)| (FeedPlace { number, ..place }, news.clone())).collect())
    }

    /// Turns whenever something was told.
    #[must_use]
    pub fn growth(&self) -> watch::Receiver<u64> {
        self.grown.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(number: u64) -> News {
        News::Engine { at: Timestamp::from_millis(number), state: "running" }
    }

    fn times(told: &[(FeedPlace, Arc<News>)]) -> Vec<u64> {
        let time = |news: &News| match news {
            News::Engine { at, .. } => at.as_millis(),
            _ => unreachable!(),
        };
        told.iter().map(|(_, news)| time(news)).collect()
    }

    #[test]
    fn a_reader_gets_everything_after_its_place_once() {
        let feed = Feed::new(7);
        let mut place = feed.end();
        assert!(feed.after(place, 10).unwrap().is_empty());
        feed.tell((1..=5).map(state));
        let mut seen = Vec::new();
        while let told = feed.after(place, 2).unwrap()
            && let Some((last, _)) = told.last()
        {
            place = *last;
            seen.extend(times(&told));
        }
        assert_eq!(seen, [1, 2, 3, 4, 5]);
        assert_eq!((place, place.to_string().as_str()), (feed.end(), "00000007-5"));
    }

    #[test]
    fn who_fell_behind_is_told_so() {
        let feed = Feed::new(7);
        let begin = feed.end();
        feed.tell((0..KEPT as u64).map(state));
        assert_eq!(feed.after(begin, 1).unwrap().len(), 1, "all are held still");
        feed.tell([state(9)]);
        assert_eq!(feed.after(begin, 1).unwrap_err(), FellBehind);
        assert_eq!(feed.held().news.len(), KEPT);
        let other_run = FeedPlace { run: 8, ..feed.end() };
        assert_eq!(feed.after(other_run, 1).unwrap_err(), FellBehind);
        let future = FeedPlace { number: feed.end().number + 1, ..feed.end() };
        assert_eq!(feed.after(future, 1).unwrap_err(), FellBehind);
    }

    #[test]
    fn a_place_has_one_text() {
        let place = FeedPlace { run: 0xab, number: 12 };
        assert_eq!(place.to_string().parse(), Ok(place));
        for bad in ["", "12", "ab-12", "000000ab-012", "000000ab-+12", "000000AB-12", "000000ab-", "0000000ab-12"] {
            assert_eq!(bad.parse::<FeedPlace>(), Err(()), "{bad}");
        }
    }
}
