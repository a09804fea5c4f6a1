//! Bringing a state file of an older schema up, one transaction a step; called at open alone.
//!
//! The records of an older schema are written down here as they were, since their encoding follows their
//! fields. Whatever an index holds is made anew from the primary tables. A file of every released schema is
//! kept in the tests, and opened by them.

mod from_1;

use redb::WriteTransaction;

use super::StoreError;

/// Brings a file of schema n to n + 1.
pub(super) type Migration = fn(&WriteTransaction) -> Result<(), StoreError>;

/// The first is from 1 to 2.
pub(super) const MIGRATIONS: &[Migration] = &[from_1::migrate];
