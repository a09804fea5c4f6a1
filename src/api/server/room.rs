//! Which connections are kept, and who makes room for another: a [`Registry`] for each kind of listener.
//!
//! The server's loop admits and removes; a connection says of itself whether a request is under way. Invariants:
//! never more than `max` entries, and of one [`Origin`] never more than its share; whoever is at work is not cut;
//! a peer that has used up its share makes room among its own connections alone, and never makes others wait.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::config::Network;

/// At a stop, what a connection has for its first request, from when it was accepted. With sockets that stay open over
/// a restart nobody is refused only if those who were just let in are heard.
const FIRST_REQUEST: Duration = Duration::from_millis(500);
/// What a connection has to send its first request before it may make room for others.
const FIRST_CHANCE: Duration = Duration::from_millis(100);
/// Between looks for one that may.
const ROOM_PAUSE: Duration = Duration::from_millis(5);
/// One peer from elsewhere may have this part of all connections.
const PEER_PART: usize = 4;
/// A household or a machine has a whole network of this many bits of IPv6.
const V6_NETWORK_BITS: u32 = 64;

/// Who is counted together where a peer has a share; None: this machine, or a proxy that speaks for many.
pub type Origin = Option<IpAddr>;

/// `proxies`: those that the configuration trusts.
pub fn origin(peer: IpAddr, proxies: &[Network]) -> Origin {
    let peer = peer.to_canonical();
    if peer.is_loopback() || proxies.iter().any(|network| network.holds(peer)) {
        return None;
    }
    Some(match peer {
        IpAddr::V4(_) => peer,
        IpAddr::V6(address) => IpAddr::V6((address.to_bits() & (u128::MAX << (128 - V6_NETWORK_BITS))).into()),
    })
}

/// One connection, as the cap sees it.
pub struct Entry {
    origin: Origin,
    busy: AtomicBool,
    /// The peer does not take what was sent: for that there is another bound.
    stalled: AtomicBool,
    since: Mutex<Instant>,
    /// With the stop, too.
    pub cut: CancellationToken,
    /// The first request has come.
    begun: AtomicBool,
    first: Notify,
}

impl Entry {
    pub fn new(origin: Origin, cut: CancellationToken) -> Self {
        let since = Mutex::new(Instant::now());
        let (busy, stalled, begun) = Default::default();
        Self { origin, busy, stalled, since, cut, begun, first: Notify::new() }
    }

    fn waits_from_now(&self) {
        *self.since.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// Whether the peer keeps a write waiting. Its time for another head begins when it has taken all.
    pub fn set_stalled(&self, stalled: bool) {
        if !stalled {
            self.waits_from_now();
        }
        self.stalled.store(stalled, Ordering::Relaxed);
    }

    pub fn has_begun(&self) -> bool {
        self.begun.load(Ordering::Relaxed)
    }

    /// Comes back with the first request, or when there was time enough for one.
    pub async fn first_request(&self) {
        let first = self.first.notified();
        if self.has_begun() {
            return;
        }
        let left = self.waiting_since().map_or(Duration::ZERO, |since| FIRST_REQUEST.saturating_sub(since.elapsed()));
        // In time or not: what follows is the same.
        let _ = timeout(left, first).await;
    }

    /// Comes back when no head has come for so long. A look now and then, so that a request costs no timer.
    pub async fn silent_for(&self, bound: Duration) {
        loop {
            let waits = self.waiting_since().filter(|_| !self.stalled.load(Ordering::Relaxed));
            let left = waits.map_or(bound, |since| bound.saturating_sub(since.elapsed()));
            if left.is_zero() {
                return;
            }
            sleep(left).await;
        }
    }

    pub fn waiting_since(&self) -> Option<Instant> {
        let idle = !self.busy.load(Ordering::Relaxed);
        idle.then(|| *self.since.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Marks its connection busy from the head to the last byte handed over.
pub struct Busy(Arc<Entry>);

impl Busy {
    pub fn begin(entry: Arc<Entry>) -> Self {
        entry.busy.store(true, Ordering::Relaxed);
        if !entry.has_begun() {
            entry.begun.store(true, Ordering::Relaxed);
            entry.first.notify_waiters();
        }
        Self(entry)
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.waits_from_now();
        self.0.busy.store(false, Ordering::Relaxed);
    }
}

/// Whether one more connection fits.
#[derive(Debug, PartialEq, Eq)]
enum Room {
    Free,
    /// When this one is cut.
    Of(u64),
    /// All that wait have only just come.
    Soon,
    /// All are at work, or the peer has its share.
    None,
}

/// All connections of one kind.
pub struct Registry {
    max: usize,
    stop: CancellationToken,
    entries: HashMap<u64, Arc<Entry>>,
    next: u64,
}

impl Registry {
    /// `stop` cuts, too.
    pub fn new(max: usize, stop: CancellationToken) -> Self {
        Self { max: max.max(1), stop, entries: HashMap::new(), next: 0 }
    }

    /// Who makes room for another.
    fn room(&self, origin: Origin, now: Instant) -> Room {
        let own = |entry: &Entry| origin.is_some() && entry.origin == origin;
        let held = || self.entries.values().filter(|entry| own(entry)).count();
        let has_share = origin.is_some() && held() >= (self.max / PEER_PART).max(1);
        if !has_share && self.entries.len() < self.max {
            return Room::Free;
        }
        let may_go = |entry: &Entry| !has_share || own(entry);
        let waiting = |(id, entry): (&u64, &Arc<Entry>)| {
            entry.waiting_since().filter(|_| may_go(entry)).map(|since| (since, *id))
        };
        match self.entries.iter().filter_map(waiting).min() {
            None => Room::None,
            Some((since, _)) if now.duration_since(since) < FIRST_CHANCE => {
                // Others would wait with the one who brought it about.
                if has_share { Room::None } else { Room::Soon }
            }
            Some((_, longest)) => Room::Of(longest),
        }
    }

    /// None: the cap is reached and every connection has a request under way. A connection that has only just
    /// come is let have its say first: meanwhile others wait in the kernel's queue.
    pub async fn admit(registry: &mut Self, origin: Origin) -> Option<(u64, Arc<Entry>)> {
        let cut = loop {
            match registry.room(origin, Instant::now()) {
                Room::Free => break None,
                Room::Of(longest) => break Some(longest),
                Room::Soon => sleep(ROOM_PAUSE).await,
                Room::None => return None,
            }
        };
        Some(registry.add(origin, cut))
    }

    fn add(&mut self, origin: Origin, cut: Option<u64>) -> (u64, Arc<Entry>) {
        if let Some(entry) = cut.and_then(|longest| self.entries.remove(&longest)) {
            entry.cut.cancel();
        }
        self.next += 1;
        let entry = Arc::new(Entry::new(origin, self.stop.child_token()));
        self.entries.insert(self.next, Arc::clone(&entry));
        (self.next, entry)
    }

    pub fn remove(&mut self, id: u64) {
        self.entries.remove(&id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn this_machine_and_trusted_proxies_have_no_share() {
        let proxies = ["10.0.0.7".parse().unwrap()];
        let of = |text: &str| origin(ip(text), &proxies);
        for many in ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1", "10.0.0.7", "::ffff:10.0.0.7"] {
            assert_eq!(of(many), None, "{many}");
        }
        assert_eq!((of("10.0.0.8"), of("::ffff:10.0.0.8")), (Some(ip("10.0.0.8")), Some(ip("10.0.0.8"))));
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:2"), "one network");
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
    }

    #[test]
    fn a_peer_from_elsewhere_has_a_quarter_and_makes_room_among_its_own() {
        let (near, far, other) = (None, Some(ip("192.0.2.1")), Some(ip("192.0.2.2")));
        let mut registry = Registry::new(8, CancellationToken::new());
        let (_, idle) = registry.add(near, None);
        let later = || Instant::now() + FIRST_CHANCE;
        let mut busy = Vec::new();
        for _ in 0..2 {
            assert_eq!(registry.room(far, later()), Room::Free);
            busy.push(Busy::begin(registry.add(far, None).1));
        }
        assert_eq!(registry.room(far, later()), Room::None, "both at work, and the idle one is not its own");
        assert_eq!((registry.room(other, later()), registry.room(near, later())), (Room::Free, Room::Free));
        let own = Arc::clone(&busy[1].0);
        busy.pop();
        let just_now = own.waiting_since().unwrap();
        assert_eq!(registry.room(far, just_now), Room::None, "nobody waits for it to have its say");
        assert_eq!(registry.room(far, later()), Room::Of(3));
        let (id, _) = registry.add(far, Some(3));
        assert!(own.cut.is_cancelled() && !idle.cut.is_cancelled());
        registry.remove(id);
        assert_eq!(registry.room(far, later()), Room::Free);
        for _ in 0..6 {
            assert_eq!(registry.room(near, later()), Room::Free, "this machine may have all");
            registry.add(near, None);
        }
        assert_eq!(registry.room(near, just_now), Room::Soon);
        assert_eq!(registry.room(near, later()), Room::Of(1));
    }
}
