//! A small bounded map: the oldest entry makes room for a new one.
//!
//! For things that never change under their key (a flow under its content hash). Invariant: never more
//! than `max` entries. Nothing expires and nothing is made here.

use std::borrow::Borrow;
use std::collections::{HashMap, VecDeque};
use std::hash::Hash;
use std::sync::{Mutex, PoisonError};

pub struct Cache<K, V> {
    max: usize,
    inner: Mutex<(HashMap<K, V>, VecDeque<K>)>,
}

impl<K: Clone + Eq + Hash, V: Clone> Cache<K, V> {
    pub fn new(max: usize) -> Self {
        Self { max, inner: Mutex::default() }
    }

    pub fn get<Q: ?Sized + Eq + Hash>(&self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).0.get(key).cloned()
    }

    pub fn insert(&self, key: K, value: V) {
        let mut guard = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let (values, order) = &mut *guard;
        if values.insert(key.clone(), value).is_none() {
            order.push_back(key);
        }
        while values.len() > self.max {
            let Some(oldest) = order.pop_front() else { return };
            values.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Cache;

    #[test]
    fn the_oldest_makes_room() {
        let cache = Cache::new(2);
        for key in ["a", "b", "a", "c"] {
            cache.insert(key.to_owned(), key.len());
        }
        assert_eq!([cache.get("a"), cache.get("b"), cache.get("c")], [None, Some(1), Some(1)]);
    }
}
