//! Places for requests that wait: listeners to events, and claims that wait for work.
//!
//! Each holds a connection as long as it waits, and none of them can be cut for another. Invariants: those that wait
//! leave a fifth of the connections for questions, and one token has a quarter of them at most, so that no
//! program's long polls shut out the others. A place is free when it is dropped.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::model::TokenId;

/// Of the connections, how many in five may wait.
const FIFTHS: usize = 4;
/// One token may have this part of the connections.
const TOKEN_PART: usize = 4;

#[derive(Default)]
struct Taken {
    all: usize,
    by_token: HashMap<TokenId, usize>,
}

/// A clone is another handle.
#[derive(Clone)]
pub struct Places {
    most: usize,
    most_of_token: usize,
    taken: Arc<Mutex<Taken>>,
}

/// No place was left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    /// So many wait, which is the most.
    All(usize),
    /// So many of this token.
    Token(usize),
}

impl Full {
    /// For the caller.
    pub fn told(self) -> String {
        match self {
            Self::All(most) => format!("{most} requests wait already, which is the most."),
            Self::Token(most) => {
                format!("{most} requests with this token wait already, which is the most for one: end one.")
            }
        }
    }
}

/// One of them.
pub struct Place {
    token: Option<TokenId>,
    taken: Arc<Mutex<Taken>>,
}

impl Places {
    pub fn new(max_connections: u32) -> Self {
        let connections = usize::try_from(max_connections).unwrap_or(usize::MAX);
        let most = (connections / 5 * FIFTHS).max(1);
        Self { most, most_of_token: (connections / TOKEN_PART).max(1), taken: Arc::default() }
    }

    /// `token`: None came without one, and has no bound of its own.
    pub fn take(&self, token: Option<TokenId>) -> Result<Place, Full> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if taken.all >= self.most {
            return Err(Full::All(self.most));
        }
        if let Some(token) = token {
            let own = taken.by_token.get(&token).copied().unwrap_or_default();
            if own >= self.most_of_token {
                return Err(Full::Token(self.most_of_token));
            }
            taken.by_token.insert(token, own + 1);
        }
        taken.all += 1;
        Ok(Place { token, taken: Arc::clone(&self.taken) })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken.all -= 1;
        let Some(token) = self.token else { return };
        let left = taken.by_token.get(&token).map_or(0, |own| own - 1);
        if left == 0 {
            taken.by_token.remove(&token);
        } else {
            taken.by_token.insert(token, left);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_has_a_quarter_and_all_leave_a_fifth() {
        let places = Places::new(20);
        let (one, other) = (Some(TokenId::new(1)), Some(TokenId::new(2)));
        let mut held: Vec<_> = (0..5).map(|_| places.take(one).unwrap()).collect();
        assert_eq!(places.take(one).err(), Some(Full::Token(5)));
        held.extend((0..5).map(|_| places.take(other).unwrap()));
        held.extend((0..6).map(|_| places.take(None).unwrap()));
        assert_eq!(places.take(None).err(), Some(Full::All(16)));
        held.swap_remove(0);
        held.push(places.take(one).unwrap());
        assert_eq!(places.take(other).err(), Some(Full::All(16)));
        drop(held);
        assert!(places.taken.lock().unwrap().by_token.is_empty());
        assert!(places.take(one).is_ok());
    }
}
