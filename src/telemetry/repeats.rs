//! What is said over and over is said for a while, then counted, and the count is told.
//!
//! A layer of the log. The template of a message is the place in the source that says it: more than
//! [`PER_MINUTE`] of one in a minute are counted. The maintenance tells the counts ([`Repeats::take`]) each minute,
//! and the end of the process does. Invariants: the first of a minute are always said; each one that is not said
//! is in exactly one count; what was asked for in detail (`debug`, `trace`) is never counted away.
//!
//! Deliberately not here: a clock of its own.

use std::collections::HashMap;
use std::fmt::{Debug, Write as _};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer};

/// Of one template.
pub const PER_MINUTE: u32 = 100;
const MINUTE: Duration = Duration::from_secs(60);
/// Of the message that stands for the others.
const MOST_CHARACTERS: usize = 500;

/// The target, and the place in the source.
type Template = (&'static str, &'static str);

struct Window {
    began: Instant,
    said: u32,
    counted: u64,
    /// Of the first that was counted.
    message: String,
}

/// What was not said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Repeated {
    pub target: &'static str,
    pub times: u64,
    pub message: String,
}

/// Clones share the counts. There are as many as there are places in the source that say something.
#[derive(Clone, Default)]
pub(super) struct Repeats(Arc<Mutex<HashMap<Template, Window>>>);

impl Repeats {
    /// Whether it is said. `message` is asked for once in a count.
    fn admits(&self, template: Template, now: Instant, message: impl FnOnce() -> String) -> bool {
        let mut windows = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let new = || Window { began: now, said: 0, counted: 0, message: String::new() };
        let window = windows.entry(template).or_insert_with(new);
        // One with a count stays until that is told.
        if window.counted == 0 && now.saturating_duration_since(window.began) >= MINUTE {
            *window = new();
        }
        if window.said < PER_MINUTE {
            window.said += 1;
            return true;
        }
        if window.counted == 0 {
            window.message = message();
        }
        window.counted += 1;
        false
    }

    /// The counts of minutes that are over, or all. They begin anew.
    pub fn take(&self, now: Instant, all: bool) -> Vec<Repeated> {
        let mut windows = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut told = Vec::new();
        windows.retain(|(target, _), window| {
            let is_over = all || now.saturating_duration_since(window.began) >= MINUTE;
            if is_over && window.counted > 0 {
                let message = std::mem::take(&mut window.message);
                told.push(Repeated { target, times: window.counted, message });
            }
            !is_over
        });
        told
    }
}

impl<S: Subscriber> Layer<S> for Repeats {
    fn event_enabled(&self, event: &Event<'_>, _context: Context<'_, S>) -> bool {
        let metadata = event.metadata();
        if *metadata.level() > Level::INFO {
            return true;
        }
        self.admits((metadata.target(), metadata.name()), Instant::now(), || {
            let mut message = Message::default();
            event.record(&mut message);
            message.0.chars().take(MOST_CHARACTERS).collect()
        })
    }
}

#[derive(Default)]
struct Message(String);

impl Visit for Message {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if field.name() == "message" {
            write!(self.0, "{value:?}").expect("writing to a String cannot fail");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use tracing_subscriber::layer::SubscriberExt as _;
    use tracing_subscriber::{Registry, fmt};

    use super::{MINUTE, PER_MINUTE, Repeated, Repeats};
    use crate::telemetry::tests::Lines;

    const HERE: super::Template = ("cove::here", "event src/here.rs:1");
    const THERE: super::Template = ("cove::there", "event src/there.rs:1");

    #[test]
    fn the_first_of_a_minute_are_said_and_the_rest_are_told_once_as_a_number() {
        let repeats = Repeats::default();
        let began = Instant::now();
        let say = |template, now| repeats.admits(template, now, || "the disk is slow".to_owned());
        let said = (0..1_000).filter(|_| say(HERE, began)).count();
        assert_eq!(said, PER_MINUTE as usize);
        assert!(say(THERE, began), "another template has its own");
        assert_eq!(repeats.take(began + Duration::from_secs(59), false), []);
        let times = 1_000 - u64::from(PER_MINUTE);
        let told = Repeated { target: HERE.0, times, message: "the disk is slow".to_owned() };
        assert_eq!(repeats.take(began + MINUTE, false), [told]);
        assert_eq!(repeats.take(began + MINUTE, true), [], "once");
        assert!(say(HERE, began + MINUTE));
        // At the end of the process a minute is not waited for.
        let more = (0..PER_MINUTE).filter(|_| !say(HERE, began + MINUTE)).count() as u64;
        assert_eq!(repeats.take(began + MINUTE, true)[0].times, more);
        // A minute without a count makes room for the next.
        let later = began + 10 * MINUTE;
        assert!((0..PER_MINUTE).all(|_| say(HERE, later)) && !say(HERE, later));
        assert!(!say(HERE, later + MINUTE), "what was counted has not been told yet");
    }

    #[test]
    fn a_storm_is_cut_short_and_details_that_were_asked_for_are_not() {
        let (lines, repeats) = (Lines::default(), Repeats::default());
        let writer = lines.clone();
        let layer = fmt::layer().with_writer(move || writer.clone());
        let subscriber = Registry::default().with(layer).with(repeats.clone());
        tracing::subscriber::with_default(subscriber, || {
            for number in 0..500 {
                tracing::warn!(number, "storm {number}");
                tracing::debug!("detail");
            }
        });
        let text = lines.text();
        assert_eq!(text.matches("storm").count(), PER_MINUTE as usize);
        assert_eq!(text.matches("detail").count(), 500);
        let told = repeats.take(Instant::now(), true);
        assert_eq!((told.len(), told[0].times), (1, 500 - u64::from(PER_MINUTE)));
        assert_eq!(told[0].message, format!("storm {PER_MINUTE}"));
    }
}
