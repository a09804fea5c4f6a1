//! Whether a recorded history of one lock can be the work of a lock: linearizability, by search.
//!
//! Each call has the time in which it took effect, if it did: from its begin to its answer. The search (Wing
//! and Gong's, with what was tried remembered) looks for an order of all answered calls that keeps these
//! times and in which a lock of one row would have given the very same answers. A call that was
//! never answered may stand in the order or not. Leases end by time, so a state knows how late it is; where an
//! end is not known exactly it is a range, and every use narrows it.

use std::collections::HashSet;

/// Microseconds of the wall clock.
pub type Time = u64;

/// The daemon counts whole milliseconds on two clocks; between them and ours lies less than this.
const SLACK: Time = 1_500;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    Acquire {
        ttl: Time,
    },
    Refresh {
        fence: u64,
        ttl: Time,
    },
    Release {
        fence: u64,
    },
    /// The row in the list.
    Look,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    Acquired {
        fence: u64,
        expires: Time,
    },
    Busy {
        held_by: u8,
        expires: Time,
    },
    Refreshed {
        expires: Time,
    },
    Released,
    StaleFence,
    NotHeld,
    Seen(Option<Row>),
    /// The connection ended first.
    None,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    pub owner: u8,
    pub fence: u64,
    pub expired: bool,
}

#[derive(Clone, Copy, Debug)]
pub struct Call {
    pub key: u8,
    pub owner: u8,
    pub begin: Time,
    pub end: Time,
    pub what: What,
    pub answer: Answer,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Held {
    owner: u8,
    /// None: given by a call that was not answered, and not seen since.
    fence: Option<u64>,
    /// As it was told; None: not told yet.
    expires: Option<Time>,
    /// Not over before, not alive from.
    from: Time,
    to: Time,
}

impl Held {
    fn new(owner: u8, fence: Option<u64>, lease: Lease) -> Self {
        Self { owner, fence, expires: lease.expires, from: lease.from, to: lease.to }
    }

    fn is(&self, owner: u8, fence: u64) -> bool {
        self.owner == owner && self.fence.is_none_or(|held| held == fence)
    }
}

/// When a lease ends: as told, or somewhere in a range.
#[derive(Clone, Copy)]
struct Lease {
    expires: Option<Time>,
    from: Time,
    to: Time,
}

impl Lease {
    fn told(expires: Time) -> Self {
        Self { expires: Some(expires), from: expires - SLACK, to: expires + SLACK }
    }

    fn of_unanswered(call: &Call, ttl: Time) -> Self {
        Self { expires: None, from: call.begin + ttl - SLACK, to: call.end + ttl + SLACK }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct State {
    held: Option<Held>,
    last_fence: u64,
    /// Nothing that follows took effect before.
    now: Time,
}

impl State {
    /// The states in which the lock is held when the call takes effect, at most one.
    fn alive(self, call: &Call) -> Option<(Self, Held)> {
        let now = self.now.max(call.begin);
        let held = self.held?;
        (now <= call.end && now < held.to).then(|| {
            let held = Held { from: held.from.max(now), ..held };
            (Self { held: Some(held), now, ..self }, held)
        })
    }

    /// The same for a lock that is free: never taken, released, or over.
    fn free(self, call: &Call) -> Option<Self> {
        let mut now = self.now.max(call.begin);
        let held = self.held.map(|held| {
            now = now.max(held.from);
            Held { to: held.to.min(now), ..held }
        });
        (now <= call.end).then_some(Self { held, now, ..self })
    }

    fn hold(self, held: Held) -> Self {
        Self { held: Some(held), last_fence: held.fence.unwrap_or(self.last_fence), ..self }
    }

    /// What the state may be after the call, if its answer fits.
    fn after(self, call: &Call) -> Vec<Self> {
        let mut next = Vec::new();
        match (call.what, call.answer) {
            (What::Acquire { .. }, Answer::Acquired { fence, expires }) => {
                let lease = Lease::told(expires);
                let given = Held::new(call.owner, Some(fence), lease);
                next.extend(self.free(call).filter(|free| fence > free.last_fence).map(|free| free.hold(given)));
                let again = self.alive(call).filter(|(state, held)| {
                    held.is(call.owner, fence) && (held.fence.is_some() || fence > state.last_fence)
                });
                next.extend(again.map(|(state, _)| state.hold(given)));
            }
            (What::Acquire { ttl }, Answer::None) => {
                let lease = Lease::of_unanswered(call, ttl);
                next.extend(self.free(call).map(|free| free.hold(Held::new(call.owner, None, lease))));
                let again = self.alive(call).filter(|(_, held)| held.owner == call.owner);
                next.extend(again.map(|(state, held)| state.hold(Held::new(call.owner, held.fence, lease))));
            }
            (What::Acquire { .. }, Answer::Busy { held_by, expires }) => {
                let fits = self.alive(call).filter(|(_, held)| {
                    held.owner == held_by
                        && held_by != call.owner
                        && held.expires.is_none_or(|told| told == expires)
                        && (held.from <= expires + SLACK && expires <= held.to + SLACK)
                });
                next.extend(fits.map(|(state, held)| {
                    let told = Lease::told(expires);
                    let (from, to) = (held.from.max(told.from), held.to.min(told.to));
                    Self { held: Some(Held { expires: Some(expires), from, to, ..held }), ..state }
                }));
            }
            (What::Refresh { fence, .. }, Answer::Refreshed { expires }) => {
                let given = Held::new(call.owner, Some(fence), Lease::told(expires));
                next.extend(self.owned(call, fence).map(|state| state.hold(given)));
            }
            (What::Refresh { fence, ttl }, Answer::None) => {
                let given = Held::new(call.owner, Some(fence), Lease::of_unanswered(call, ttl));
                next.extend(self.owned(call, fence).map(|state| state.hold(given)));
            }
            (What::Release { fence }, Answer::Released | Answer::None) => {
                let owned = self.owned(call, fence);
                next.extend(owned.map(|state| Self { held: None, last_fence: state.last_fence.max(fence), ..state }));
            }
            (What::Refresh { fence, .. } | What::Release { fence }, Answer::StaleFence) => {
                let stale = self.alive(call).filter(|(_, held)| held.owner != call.owner || held.fence != Some(fence));
                next.extend(stale.map(|(state, _)| state));
            }
            // Not in the list: also one that is over, since a cleanup may have come by.
            (What::Refresh { .. } | What::Release { .. }, Answer::NotHeld) | (What::Look, Answer::Seen(None)) => {
                next.extend(self.free(call));
            }
            (What::Look, Answer::Seen(Some(row))) => {
                let state = if row.expired { self.free(call) } else { self.alive(call).map(|(state, _)| state) };
                next.extend(state.filter(|state| state.held.is_some_and(|held| held.is(row.owner, row.fence))));
            }
            (what, answer) => panic!("{answer:?} is no answer to {what:?}"),
        }
        next
    }

    /// The lock is held by the caller under this fence, which is a new one where it was not known yet.
    fn owned(self, call: &Call, fence: u64) -> Option<Self> {
        let fits = |(state, held): &(Self, Held)| {
            held.is(call.owner, fence) && (held.fence.is_some() || fence > state.last_fence)
        };
        self.alive(call).filter(fits).map(|(state, _)| state)
    }
}

/// What is still to be placed, as bits.
type Left = Vec<u64>;

fn has(left: &Left, number: usize) -> bool {
    left[number / 64] & (1 << (number % 64)) != 0
}

struct Search<'a> {
    calls: &'a [Call],
    tried: HashSet<(Left, State)>,
    /// The most calls that an order held, and which were left then.
    best: (usize, Left),
}

impl Search<'_> {
    fn place(&mut self, left: &Left, state: State, placed: usize) -> bool {
        let answered = |number: &usize| has(left, *number) && self.calls[*number].answer != Answer::None;
        let Some(first_end) = (0..self.calls.len()).filter(answered).map(|number| self.calls[number].end).min() else {
            return true;
        };
        if !self.tried.insert((left.clone(), state)) {
            return false;
        }
        if placed > self.best.0 {
            self.best = (placed, left.clone());
        }
        for number in 0..self.calls.len() {
            let call = &self.calls[number];
            if call.begin > first_end {
                // Sorted by begin: no later one can be the next.
                break;
            }
            if !has(left, number) {
                continue;
            }
            for next in state.after(call) {
                let mut rest = left.clone();
                rest[number / 64] &= !(1 << (number % 64));
                if self.place(&rest, next, placed + 1) {
                    return true;
                }
            }
        }
        false
    }
}

/// Whether the calls on one key are those of a lock; where not, the place where every order ends.
fn check_key(calls: &[Call]) -> Result<(), String> {
    let mut calls = calls.to_vec();
    calls.sort_by_key(|call| call.begin);
    let mut left: Left = vec![0; calls.len() / 64 + 1];
    for number in 0..calls.len() {
        left[number / 64] |= 1 << (number % 64);
    }
    let best = (0, left.clone());
    let mut search = Search { calls: &calls, tried: HashSet::new(), best };
    let state = State { held: None, last_fence: 0, now: 0 };
    if search.place(&left, state, 0) {
        return Ok(());
    }
    let (placed, left) = search.best;
    let stuck = (0..calls.len()).find(|number| has(&left, *number) && calls[*number].answer != Answer::None);
    let around = stuck.unwrap_or_default();
    let shown: Vec<String> = (around.saturating_sub(12)..(around + 12).min(calls.len()))
        .map(|number| format!("{} {:?}", if has(&left, number) { "left  " } else { "placed" }, calls[number]))
        .collect();
    Err(format!("no order: {placed} of {} calls fit\n{}", calls.len(), shown.join("\n")))
}

/// The second judge, which knows nothing about orders: what two owners were told at the same time.
fn check_exclusion(calls: &[Call]) -> Result<(), String> {
    let mut surely: Vec<(Time, Time, u8)> = Vec::new();
    for call in calls {
        let (Answer::Acquired { expires, .. } | Answer::Refreshed { expires }) = call.answer else { continue };
        // Until the lease ends, or until somebody of that owner may have ended it or made it shorter.
        let touched = calls.iter().filter(|other| {
            other.owner == call.owner
                && other.end > call.begin
                && other.what != What::Look
                && !std::ptr::eq(*other, call)
        });
        let to = touched.map(|other| other.begin).min().unwrap_or(Time::MAX).min(expires - SLACK);
        if call.end < to {
            surely.push((call.end, to, call.owner));
        }
    }
    surely.sort_unstable();
    for pair in surely.windows(2) {
        let (earlier, later) = (pair[0], pair[1]);
        if later.0 < earlier.1 && later.2 != earlier.2 {
            return Err(format!("two owners at once: {earlier:?} and {later:?}"));
        }
    }
    Ok(())
}

/// Every key's history, and that no fence was given for two keys.
pub fn check(calls: &[Call]) -> Result<(), String> {
    let keys: HashSet<u8> = calls.iter().map(|call| call.key).collect();
    let mut fences = std::collections::HashMap::new();
    for key in keys {
        let of_key: Vec<Call> = calls.iter().filter(|call| call.key == key).copied().collect();
        check_exclusion(&of_key).and_then(|()| check_key(&of_key)).map_err(|error| format!("key {key}: {error}"))?;
        for call in &of_key {
            if let Answer::Acquired { fence, .. } = call.answer
                && let Some(other) = fences.insert(fence, key).filter(|other| *other != key)
            {
                return Err(format!("fence {fence} was given for the keys {other} and {key}"));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Time = 1_000_000;
    const ANNA: u8 = 0;
    const BORIS: u8 = 1;

    /// From `at`, for a tenth of a second.
    fn call(owner: u8, at: Time, what: What, answer: Answer) -> Call {
        let begin = 1_000 * SECOND + at * SECOND / 10;
        Call { key: 0, owner, begin, end: begin + SECOND / 10 - 1, what, answer }
    }

    fn ends(at: Time) -> Time {
        1_000 * SECOND + at * SECOND / 10
    }

    fn acquired(owner: u8, at: Time, fence: u64, tenths: Time) -> Call {
        let answer = Answer::Acquired { fence, expires: ends(at + tenths) };
        call(owner, at, What::Acquire { ttl: tenths * SECOND / 10 }, answer)
    }

    fn busy(owner: u8, at: Time, held_by: u8, until: Time) -> Call {
        call(owner, at, What::Acquire { ttl: SECOND }, Answer::Busy { held_by, expires: ends(until) })
    }

    fn released(owner: u8, at: Time, fence: u64) -> Call {
        call(owner, at, What::Release { fence }, Answer::Released)
    }

    fn refreshed(owner: u8, at: Time, fence: u64, tenths: Time) -> Call {
        let answer = Answer::Refreshed { expires: ends(at + tenths) };
        call(owner, at, What::Refresh { fence, ttl: tenths * SECOND / 10 }, answer)
    }

    fn refused(owner: u8, at: Time, fence: u64, answer: Answer) -> Call {
        call(owner, at, What::Release { fence }, answer)
    }

    #[test]
    fn histories_of_a_lock_pass() {
        let good: [Vec<Call>; 7] = [
            vec![acquired(ANNA, 0, 5, 50), busy(BORIS, 1, ANNA, 50), released(ANNA, 2, 5), acquired(BORIS, 3, 6, 50)],
            // Over by time; its old owner hears of it.
            vec![acquired(ANNA, 0, 5, 10), acquired(BORIS, 11, 6, 50), refused(ANNA, 12, 5, Answer::StaleFence)],
            vec![acquired(ANNA, 0, 5, 10), refused(ANNA, 11, 5, Answer::NotHeld)],
            vec![acquired(ANNA, 0, 5, 10), refreshed(ANNA, 5, 5, 10), busy(BORIS, 12, ANNA, 15)],
            // The same owner again.
            vec![acquired(ANNA, 0, 5, 10), acquired(ANNA, 5, 5, 10), busy(BORIS, 12, ANNA, 15)],
            // Not answered, and it happened: the fence is one that nobody was told.
            vec![
                call(ANNA, 0, What::Acquire { ttl: 5 * SECOND }, Answer::None),
                busy(BORIS, 1, ANNA, 50),
                acquired(ANNA, 2, 7, 10),
            ],
            // Not answered, and it did not.
            vec![call(ANNA, 0, What::Acquire { ttl: 5 * SECOND }, Answer::None), acquired(BORIS, 1, 5, 50)],
        ];
        for (number, history) in good.iter().enumerate() {
            assert_eq!(check(history), Ok(()), "history {number}");
        }
        // At the same time: whoever was first.
        let mut together = vec![acquired(ANNA, 0, 5, 50), released(ANNA, 1, 5), acquired(BORIS, 1, 6, 50)];
        assert_eq!(check(&together), Ok(()));
        together[2].end = together[0].end;
        together[2].begin = together[0].begin;
        assert!(check(&together).is_err(), "it was answered before the release began");
    }

    #[test]
    fn negative_control_what_a_lock_never_does_is_found() {
        let seen = |owner, fence, expired| Answer::Seen(Some(Row { owner, fence, expired }));
        let look = |at, answer| call(9, at, What::Look, answer);
        let bad: [(&str, Vec<Call>); 15] = [
            ("two owners", vec![acquired(ANNA, 0, 5, 50), acquired(BORIS, 1, 6, 50)]),
            ("a fence twice", vec![acquired(ANNA, 0, 5, 50), released(ANNA, 1, 5), acquired(BORIS, 2, 5, 50)]),
            ("an older fence", vec![acquired(ANNA, 0, 5, 50), released(ANNA, 1, 5), acquired(BORIS, 2, 4, 50)]),
            ("a second fence for the same owner", vec![acquired(ANNA, 0, 5, 50), acquired(ANNA, 1, 6, 50)]),
            ("the old fence after the end", vec![acquired(ANNA, 0, 5, 10), acquired(ANNA, 11, 5, 10)]),
            ("a release forgotten", vec![acquired(ANNA, 0, 5, 50), released(ANNA, 1, 5), busy(BORIS, 2, ANNA, 50)]),
            (
                "a refresh forgotten",
                vec![acquired(ANNA, 0, 5, 10), refreshed(ANNA, 5, 5, 50), acquired(BORIS, 12, 6, 10)],
            ),
            ("a lease too long", vec![acquired(ANNA, 0, 5, 10), busy(BORIS, 11, ANNA, 10)]),
            ("a lease too short", vec![acquired(ANNA, 0, 5, 10), refused(ANNA, 5, 5, Answer::NotHeld)]),
            ("stale without a reason", vec![acquired(ANNA, 0, 5, 50), refused(ANNA, 1, 5, Answer::StaleFence)]),
            (
                "a refresh under an old fence",
                vec![acquired(ANNA, 0, 5, 10), acquired(BORIS, 11, 6, 50), refreshed(ANNA, 12, 5, 10)],
            ),
            ("released twice", vec![acquired(ANNA, 0, 5, 50), released(ANNA, 1, 5), released(ANNA, 2, 5)]),
            ("busy with nobody", vec![busy(ANNA, 0, BORIS, 50)]),
            ("a lock that vanished", vec![acquired(ANNA, 0, 5, 50), look(1, Answer::Seen(None))]),
            ("another's row", vec![acquired(ANNA, 0, 5, 50), look(1, seen(BORIS, 5, false))]),
        ];
        for (name, history) in bad {
            assert!(check(&history).is_err(), "{name} was not found");
        }
        let elsewhere = Call { key: 1, ..acquired(BORIS, 0, 5, 50) };
        assert!(check(&[acquired(ANNA, 0, 5, 50), elsewhere]).is_err(), "one fence for two keys");
    }
}
