//! When to try again: full jitter for calls that may be repeated, growing looks for what takes its time.
//!
//! Both are bounded by a deadline from the begin, and never wait beyond it.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::Deadlines;

/// Tries of one call that changes nothing when it is made twice.
pub struct Tries {
    deadline: Instant,
    left: u32,
    ceiling: Duration,
    longest: Duration,
}

impl Tries {
    /// `within` is for all tries together.
    pub fn new(deadlines: &Deadlines, within: Duration) -> Self {
        Self {
            deadline: Instant::now() + within,
            left: deadlines.tries.saturating_sub(1),
            ceiling: deadlines.retry_base,
            longest: deadlines.retry_longest,
        }
    }

    /// The same number of tries, under a deadline from now: somebody else decides how long to wait.
    #[must_use]
    pub fn again_within(mut self, within: Duration) -> Self {
        self.deadline = Instant::now() + within;
        self
    }

    /// What is left of the deadline, for the next try.
    pub fn left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    /// How long to wait before the next try. None: that was the last one.
    pub fn pause(&mut self) -> Option<Duration> {
        self.left = self.left.checked_sub(1)?;
        let pause = self.ceiling.mul_f64(fastrand::f64());
        self.ceiling = (self.ceiling * 2).min(self.longest);
        (pause < self.left()).then_some(pause)
    }
}

/// Looks at something that changes by itself.
pub struct Looks {
    deadline: Instant,
    pause: Duration,
    longest: Duration,
}

impl Looks {
    pub fn new(deadlines: &Deadlines, within: Duration) -> Self {
        Self { deadline: Instant::now() + within, pause: deadlines.first_look, longest: deadlines.longest_look }
    }

    /// Waits for the next look. False: the time is over, and the last look was made at its end.
    pub async fn again(&mut self) -> bool {
        let now = Instant::now();
        if now >= self.deadline {
            return false;
        }
        sleep_until((now + self.pause).min(self.deadline)).await;
        self.pause = (self.pause * 2).min(self.longest);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tries_end_by_their_number_or_their_deadline() {
        let deadlines = Deadlines { tries: 3, ..Deadlines::default() };
        let mut tries = Tries::new(&deadlines, Duration::from_secs(3_600));
        assert!(tries.pause().unwrap() <= deadlines.retry_base);
        assert!(tries.pause().unwrap() <= deadlines.retry_base * 2);
        assert_eq!(tries.pause(), None);
        assert_eq!(Tries::new(&deadlines, Duration::ZERO).pause(), None);
    }

    #[tokio::test]
    async fn looks_grow_and_end_at_the_deadline() {
        let (first_look, longest_look) = (Duration::from_millis(1), Duration::from_millis(20));
        let deadlines = Deadlines { first_look, longest_look, ..Deadlines::default() };
        let (begin, within) = (Instant::now(), Duration::from_millis(100));
        let mut looks = Looks::new(&deadlines, within);
        let mut count = 0;
        while looks.again().await {
            count += 1;
        }
        assert!(begin.elapsed() >= within);
        assert!((2..=10).contains(&count), "{count}");
    }
}
