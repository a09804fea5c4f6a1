//! With which token each session was lent: when that is revoked, nobody gets in any more.
//!
//! In memory alone, like the [doors](crate::engine::Door) that it stands beside: after a restart of the daemon no
//! old address leads anywhere. Invariant: no more is kept than there are doors.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use crate::model::{Fence, TokenHash};

#[derive(Default)]
pub struct Lenders(Mutex<HashMap<Fence, TokenHash>>);

impl Lenders {
    /// `is_known`: whether a session, or what is remembered of it, is still there.
    pub fn note(&self, fence: Fence, token: Option<TokenHash>, is_known: impl Fn(Fence) -> bool) {
        let mut lenders = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        lenders.retain(|fence, _| is_known(*fence));
        if let Some(token) = token {
            lenders.insert(fence, token);
        }
    }

    /// None: it was lent without one.
    pub fn of(&self, fence: Fence) -> Option<TokenHash> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&fence).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_door_is_left_of_is_forgotten() {
        let (lenders, token) = (Lenders::default(), TokenHash::of("t"));
        let fence = Fence::new;
        lenders.note(fence(1), Some(token), |_| true);
        lenders.note(fence(2), None, |_| true);
        assert_eq!((lenders.of(fence(1)), lenders.of(fence(2))), (Some(token), None));
        lenders.note(fence(3), Some(token), |known| known == fence(3));
        assert_eq!((lenders.of(fence(1)), lenders.of(fence(3))), (None, Some(token)));
    }
}
