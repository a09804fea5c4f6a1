//! Which numbers a life of the state may give out: its epoch and where its sequence begins (fence.md rule 1).
//!
//! Called at boot alone. Where the ledger tells what was given out before, a new epoch is one above both, and
//! its sequence begins at zero. A *blind* life (no ledger, or one that cannot be read to its end) cannot
//! know of an earlier one that began from the same old file and took the same epoch: nothing on this
//! machine remembers it but the clock. So its sequence begins where the clock says:
//!
//! `2^38 + (milliseconds since 1970 mod 2^30) * 2^9`
//!
//! Below 2^38 are the lives that had a ledger. A blind one has 512 numbers a millisecond before it could
//! meet one that began later, which is far more than commits that wait for a disk can spend; the clock
//! comes round after 12.4 days, and by then the epoch, which is at least the day, is another one (a store
//! whose epochs run ahead of the calendar has had more restores than days). 2^38 numbers are left above.
//! Where the clock was set back in between, the later life begins below the earlier one: their numbers are
//! still different, until it has spent 512 for each millisecond that the clock lost.

use crate::model::Timestamp;
use crate::model::id::{MAX_EPOCH, SEQUENCE_BITS};

const BLIND_BEGIN: u64 = 1 << (SEQUENCE_BITS - 2);
const BLIND_CLOCK_BITS: u32 = 30;
const BLIND_NUMBERS_BITS: u32 = 9;

/// One above both; without a ledger, a jump to a number that time makes: days since 2026-01-01, which lasts
/// 22 years in 13 bits.
pub(super) fn next_epoch(store: u64, ledger: u64, now: Timestamp) -> u64 {
    const ORIGIN_MS: u64 = 1_767_225_600_000;
    const DAY_MS: u64 = 86_400_000;
    let next = store.max(ledger) + 1;
    let epoch = if ledger == 0 { next.max(now.as_millis().saturating_sub(ORIGIN_MS) / DAY_MS) } else { next };
    assert!(epoch <= MAX_EPOCH, "the 8191 epochs of a state file are used up");
    epoch
}

/// What the sequence of a blind life begins after.
pub(super) const fn blind_sequence(now: Timestamp) -> u64 {
    let clock = now.as_millis() & ((1 << BLIND_CLOCK_BITS) - 1);
    BLIND_BEGIN + (clock << BLIND_NUMBERS_BITS)
}

#[cfg(test)]
mod tests {
    use super::{BLIND_BEGIN, blind_sequence, next_epoch};
    use crate::model::Timestamp;
    use crate::model::id::SEQUENCE_BITS;

    #[test]
    fn rule_1_an_epoch_is_above_both_and_jumps_without_a_ledger() {
        let now: Timestamp = "2026-11-24T00:00:00Z".parse().unwrap();
        assert_eq!(next_epoch(5, 9, now), 10);
        assert_eq!(next_epoch(9, 5, now), 10);
        assert_eq!(next_epoch(0, 0, now), 327);
        assert_eq!(next_epoch(400, 0, now), 401);
    }

    #[test]
    fn rule_1_blind_lives_begin_512_numbers_apart_for_each_millisecond_of_twelve_days() {
        let day_ms = 86_400_000;
        let at = |ms: u64| blind_sequence(Timestamp::from_millis(1_795_000_000_000 + ms));
        for (apart_ms, numbers) in [(1, 512), (1_000, 512_000), (3_600_000, 1_843_200_000)] {
            assert_eq!(at(apart_ms) - at(0), numbers);
        }
        // The same moment of the next day and of every day until the clock comes round.
        for days in 1..=12 {
            assert!(at(days * day_ms).abs_diff(at(0)) >= 512 * day_ms / 3, "{days}");
        }
        assert_eq!(at(1 << 30), at(0));
    }

    #[test]
    fn rule_1_a_blind_life_has_room_above_it() {
        let last = blind_sequence(Timestamp::from_millis((1 << 30) - 1));
        assert!(last < (1 << SEQUENCE_BITS) - BLIND_BEGIN, "{last}");
        assert!(blind_sequence(Timestamp::ZERO) >= BLIND_BEGIN);
    }
}
