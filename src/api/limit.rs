//! Rate limits: so many requests of a class per window and client, counted in memory.
//!
//! The front spends and puts the headers on every answer; a handler may give its request back (an
//! idempotent replay spends nothing). Invariant: at most [`MAX_CLIENTS`] windows are kept; when they
//! are all in use, further clients share one. Windows follow the monotonic clock and are lost at a
//! restart, which is harmless: they guard against accidents, not against loss.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use tokio::time::Instant;

use crate::config::Limits;
use crate::model::TokenId;

pub const MAX_CLIENTS: usize = 4_096;

/// Which limit a route falls under.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    TaskStarts,
    Health,
    Metrics,
    /// Outside programs at work: they take and free locks as often as they work.
    Locks,
    Requests,
    /// A page made of hundreds of small files.
    Unlimited,
}

/// Who is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Client {
    Address(IpAddr),
    /// A user of the unix socket; None: the kernel did not say which.
    User(Option<u32>),
    Token(TokenId),
    /// Whoever came when all windows were in use.
    Overflow,
}

/// What is left, as the headers say it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allowance {
    pub limit: u32,
    pub remaining: u32,
    /// Until the window ends.
    pub reset_in: Duration,
    /// False: this request is over the limit.
    pub granted: bool,
}

#[derive(Clone, Copy)]
struct Window {
    ends: Instant,
    used: u32,
}

/// The limits in force, which a reload of the settings may change; a clone is another handle.
#[derive(Clone)]
pub struct LiveLimits(Arc<RwLock<Limits>>);

impl LiveLimits {
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self(Arc::new(RwLock::new(limits)))
    }

    /// From the next request on; a window that runs keeps its end.
    pub fn set(&self, limits: Limits) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = limits;
    }

    fn get(&self) -> Limits {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

pub struct Limiter {
    limits: LiveLimits,
    windows: Mutex<HashMap<(Class, Client), Window>>,
}

impl Limiter {
    pub fn new(limits: LiveLimits) -> Self {
        Self { limits, windows: Mutex::default() }
    }

    const fn limit(limits: &Limits, class: Class) -> u32 {
        match class {
            Class::TaskStarts => limits.task_starts,
            Class::Health => limits.health,
            Class::Metrics => limits.metrics,
            Class::Locks => limits.locks,
            Class::Requests => limits.requests,
            Class::Unlimited => 0,
        }
    }

    /// Takes one of the window's requests. None: this class has no limit.
    pub fn spend(&self, class: Class, client: Client, now: Instant) -> Option<Allowance> {
        self.with_window(class, client, now, |window, limit| {
            let granted = window.used < limit;
            window.used += u32::from(granted);
            granted
        })
    }

    /// Looks without taking.
    pub fn peek(&self, class: Class, client: Client, now: Instant) -> Option<Allowance> {
        self.with_window(class, client, now, |window, limit| window.used < limit)
    }

    /// Gives one back, within the same window.
    pub fn refund(&self, class: Class, client: Client, now: Instant) -> Option<Allowance> {
        self.with_window(class, client, now, |window, _| {
            window.used = window.used.saturating_sub(1);
            true
        })
    }

    fn with_window(
        &self,
        class: Class,
        client: Client,
        now: Instant,
        act: impl FnOnce(&mut Window, u32) -> bool,
    ) -> Option<Allowance> {
        let limits = self.limits.get();
        let limit = Self::limit(&limits, class);
        if limit == 0 {
            return None;
        }
        let length = Duration::from_secs(limits.window_seconds.max(1));
        let mut windows = self.windows.lock().unwrap_or_else(PoisonError::into_inner);
        let mut key = (class, client);
        if !windows.contains_key(&key) && windows.len() >= MAX_CLIENTS {
            windows.retain(|_, window| window.ends > now);
            if windows.len() >= MAX_CLIENTS {
                key.1 = Client::Overflow;
            }
        }
        let window = windows.entry(key).or_insert(Window { ends: now + length, used: 0 });
        if window.ends <= now {
            *window = Window { ends: now + length, used: 0 };
        }
        let granted = act(window, limit);
        let remaining = limit.saturating_sub(window.used);
        Some(Allowance { limit, remaining, reset_in: window.ends - now, granted })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANNA: Client = Client::Address(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST));

    fn limiter() -> Limiter {
        let limits = Limits { window_seconds: 60, task_starts: 2, health: 0, metrics: 1, locks: 3, requests: 1 };
        Limiter::new(LiveLimits::new(limits))
    }

    #[test]
    fn limits_that_are_set_anew_count_at_once_and_forget_nobody() {
        let (limiter, now) = (limiter(), Instant::now());
        assert!(limiter.spend(Class::Requests, ANNA, now).unwrap().granted);
        assert!(!limiter.spend(Class::Requests, ANNA, now).unwrap().granted);
        let limits = Limits { requests: 2, metrics: 0, ..limiter.limits.get() };
        limiter.limits.set(limits);
        let next = limiter.spend(Class::Requests, ANNA, now).unwrap();
        assert_eq!((next.granted, next.limit, next.remaining), (true, 2, 0));
        assert_eq!(limiter.spend(Class::Metrics, ANNA, now), None);
    }

    #[test]
    fn a_window_grants_its_limit_and_begins_anew() {
        let (limiter, now) = (limiter(), Instant::now());
        let spend = |after| limiter.spend(Class::TaskStarts, ANNA, now + Duration::from_secs(after)).unwrap();
        let first = spend(0);
        assert_eq!((first.limit, first.remaining, first.granted), (2, 1, true));
        assert_eq!(first.reset_in, Duration::from_mins(1));
        assert!(spend(1).granted);
        let over = spend(10);
        assert_eq!((over.remaining, over.granted, over.reset_in), (0, false, Duration::from_secs(50)));
        let next = spend(60);
        assert_eq!((next.remaining, next.granted), (1, true));
    }

    #[test]
    fn looking_spends_nothing_and_a_refund_gives_back() {
        let (limiter, now) = (limiter(), Instant::now());
        assert_eq!(limiter.peek(Class::TaskStarts, ANNA, now).unwrap().remaining, 2);
        limiter.spend(Class::TaskStarts, ANNA, now);
        assert_eq!(limiter.refund(Class::TaskStarts, ANNA, now).unwrap().remaining, 2);
        assert_eq!(limiter.refund(Class::TaskStarts, ANNA, now).unwrap().remaining, 2, "never above the limit");
    }

    #[test]
    fn classes_and_clients_are_apart_and_zero_is_off() {
        let (limiter, now) = (limiter(), Instant::now());
        assert!(limiter.spend(Class::Requests, ANNA, now).unwrap().granted);
        assert!(!limiter.spend(Class::Requests, ANNA, now).unwrap().granted);
        for other in
            [Client::User(None), Client::User(Some(0)), Client::Token(TokenId::new(1)), Client::Token(TokenId::new(2))]
        {
            assert!(limiter.spend(Class::Requests, other, now).unwrap().granted);
        }
        assert!(limiter.spend(Class::Metrics, ANNA, now).unwrap().granted);
        assert_eq!(limiter.spend(Class::Locks, ANNA, now).unwrap().limit, 3);
        assert_eq!(limiter.spend(Class::Health, ANNA, now), None);
        assert_eq!(limiter.spend(Class::Unlimited, ANNA, now), None);
    }

    #[test]
    fn windows_are_bounded() {
        let (limiter, now) = (limiter(), Instant::now());
        let client = |n: usize| Client::Address(IpAddr::V6(u128::try_from(n).unwrap().into()));
        for n in 0..MAX_CLIENTS {
            assert!(limiter.spend(Class::Requests, client(n), now).unwrap().granted);
        }
        assert!(limiter.spend(Class::Requests, client(MAX_CLIENTS), now).unwrap().granted);
        assert!(!limiter.spend(Class::Requests, client(MAX_CLIENTS + 1), now).unwrap().granted, "shared");
        assert!(limiter.windows.lock().unwrap().len() <= MAX_CLIENTS + 1);
        let later = now + Duration::from_secs(61);
        assert!(limiter.spend(Class::Requests, client(MAX_CLIENTS + 1), later).unwrap().granted);
        assert_eq!(limiter.windows.lock().unwrap().len(), 1);
    }
}
