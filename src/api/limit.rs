//! Rate limits: so many requests of a class per window and client, counted in memory.
//!
//! The front spends and puts the headers on every answer; a handler may give its request back (an
//! idempotent replay spends nothing). Invariants: anybody can come from many addresses, so that at most
//! [`MAX_ADDRESSES`] of their windows are kept, and when all are in use further addresses share one; tokens and
//! users are as many as were made, and share nothing with addresses or with each other; a look keeps no window.
//! Windows follow the monotonic clock and are lost at a
//! restart, which is harmless: they guard against accidents, not against loss.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::config::Limits;
use crate::model::TokenId;

pub const MAX_ADDRESSES: usize = 4_096;
/// So many windows of tokens and users are kept before those that are over are dropped.
const SWEPT_FROM: usize = 4_096;

/// Which limit a route falls under.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    TaskStarts,
    /// By address, whoever asks: what is open to anyone.
    Health,
    Metrics,
    /// Outside programs at work: they take and free locks as often as they work.
    Locks,
    Requests,
    /// What a person's `DevTools` or a program's browser needs: many small files, and upgrades.
    Unlimited,
}

/// Who is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Client {
    Address(IpAddr),
    /// A user of the unix socket; None: the kernel did not say which.
    User(Option<u32>),
    Token(TokenId),
    /// Whatever address came when all their windows were in use.
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

impl Window {
    fn allowance(self, limit: u32, granted: bool, now: Instant) -> Allowance {
        Allowance { limit, remaining: limit.saturating_sub(self.used), reset_in: self.ends - now, granted }
    }
}

type Windows = HashMap<(Class, Client), Window>;

struct Tables {
    limits: Limits,
    addresses: Windows,
    /// Tokens and users of the socket.
    known: Windows,
}

impl Tables {
    /// Where this client is counted, and as whom.
    fn of(&mut self, class: Class, client: Client, now: Instant) -> (&mut Windows, (Class, Client)) {
        let key = (class, client);
        let (table, most) = match client {
            Client::Address(_) | Client::Overflow => (&mut self.addresses, MAX_ADDRESSES),
            Client::User(_) | Client::Token(_) => (&mut self.known, SWEPT_FROM),
        };
        if table.len() < most || table.contains_key(&key) {
            return (table, key);
        }
        table.retain(|_, window| window.ends > now);
        let is_address = matches!(client, Client::Address(_));
        let shared = is_address && table.len() >= MAX_ADDRESSES;
        (table, if shared { (class, Client::Overflow) } else { key })
    }
}

/// A clone is another handle on the same windows.
#[derive(Clone)]
pub struct Limiter(Arc<Mutex<Tables>>);

impl Limiter {
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self(Arc::new(Mutex::new(Tables { limits, addresses: Windows::new(), known: Windows::new() })))
    }

    /// From the next request on; a window that runs keeps its end.
    pub fn set(&self, limits: Limits) {
        self.tables().limits = limits;
    }

    fn tables(&self) -> MutexGuard<'_, Tables> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
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
        let mut tables = self.tables();
        let (limit, length) = Self::terms(&tables.limits, class)?;
        let (windows, key) = tables.of(class, client, now);
        let fresh = Window { ends: now + length, used: 0 };
        let window = windows.entry(key).or_insert(fresh);
        if window.ends <= now {
            *window = fresh;
        }
        let granted = window.used < limit;
        window.used += u32::from(granted);
        Some(window.allowance(limit, granted, now))
    }

    /// Looks without taking, and keeps nothing.
    pub fn peek(&self, class: Class, client: Client, now: Instant) -> Option<Allowance> {
        self.look(class, client, now, |_| {})
    }

    /// Gives one back, within the same window.
    pub fn refund(&self, class: Class, client: Client, now: Instant) -> Option<Allowance> {
        self.look(class, client, now, |window| window.used = window.used.saturating_sub(1))
    }

    fn look(&self, class: Class, client: Client, now: Instant, act: impl FnOnce(&mut Window)) -> Option<Allowance> {
        let mut tables = self.tables();
        let (limit, length) = Self::terms(&tables.limits, class)?;
        let (windows, key) = tables.of(class, client, now);
        let mut fresh = Window { ends: now + length, used: 0 };
        let window = windows.get_mut(&key).filter(|window| window.ends > now).unwrap_or(&mut fresh);
        act(window);
        Some(window.allowance(limit, window.used < limit, now))
    }

    /// How many in a window, and how long it is. None: no limit.
    fn terms(limits: &Limits, class: Class) -> Option<(u32, Duration)> {
        let limit = Self::limit(limits, class);
        (limit > 0).then(|| (limit, Duration::from_secs(limits.window_seconds.max(1))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANNA: Client = Client::Address(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST));

    fn limiter() -> Limiter {
        let limits = Limits { window_seconds: 60, task_starts: 2, health: 0, metrics: 1, locks: 3, requests: 1 };
        Limiter::new(limits)
    }

    #[test]
    fn limits_that_are_set_anew_count_at_once_and_forget_nobody() {
        let (limiter, now) = (limiter(), Instant::now());
        assert!(limiter.spend(Class::Requests, ANNA, now).unwrap().granted);
        assert!(!limiter.spend(Class::Requests, ANNA, now).unwrap().granted);
        let limits = Limits { requests: 2, metrics: 0, ..limiter.tables().limits.clone() };
        limiter.set(limits);
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

    fn address(n: usize) -> Client {
        Client::Address(IpAddr::V6(u128::try_from(n).unwrap().into()))
    }

    #[test]
    fn windows_of_addresses_are_bounded() {
        let (limiter, now) = (limiter(), Instant::now());
        for n in 0..MAX_ADDRESSES {
            assert!(limiter.spend(Class::Requests, address(n), now).unwrap().granted);
        }
        assert!(limiter.spend(Class::Requests, address(MAX_ADDRESSES), now).unwrap().granted);
        assert!(!limiter.spend(Class::Requests, address(MAX_ADDRESSES + 1), now).unwrap().granted, "shared");
        assert_eq!(limiter.peek(Class::Requests, address(MAX_ADDRESSES + 2), now).unwrap().remaining, 0, "as it is");
        assert!(limiter.tables().addresses.len() <= MAX_ADDRESSES + 1);
        let later = now + Duration::from_secs(61);
        assert!(limiter.spend(Class::Requests, address(MAX_ADDRESSES + 1), later).unwrap().granted);
        assert_eq!(limiter.tables().addresses.len(), 1);
    }

    #[test]
    fn a_flood_of_addresses_takes_nothing_from_tokens_and_users() {
        let (limiter, now) = (limiter(), Instant::now());
        for n in 0..MAX_ADDRESSES * 2 {
            limiter.spend(Class::Requests, address(n), now);
        }
        for id in 0..u64::try_from(SWEPT_FROM).unwrap() + 10 {
            for client in [Client::Token(TokenId::new(id)), Client::User(u32::try_from(id).ok())] {
                assert!(limiter.spend(Class::Requests, client, now).unwrap().granted, "{client:?}");
                assert!(!limiter.spend(Class::Requests, client, now).unwrap().granted, "{client:?}: each its own");
            }
        }
        limiter.spend(Class::Requests, Client::User(None), now + Duration::from_secs(61));
        assert_eq!(limiter.tables().known.len(), 1, "what is over is dropped");
    }

    #[test]
    fn a_look_keeps_no_window() {
        let (limiter, now) = (limiter(), Instant::now());
        for n in 0..MAX_ADDRESSES * 2 {
            let seen = limiter.peek(Class::Requests, address(n), now).unwrap();
            assert_eq!((seen.remaining, seen.granted, seen.reset_in), (1, true, Duration::from_mins(1)));
        }
        limiter.refund(Class::Requests, ANNA, now);
        assert!(limiter.tables().addresses.is_empty());
    }
}
