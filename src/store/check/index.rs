//! One index beside what it should hold: every expected row is looked up, and then the rows are counted.
//!
//! Called by the checks beside this file. Invariant: memory does not grow with the state; of many
//! differences the first are told. It knows nothing of what the rows mean.

use redb::{Key, ReadOnlyTable, ReadTransaction, ReadableTableMetadata, TableDefinition, TableHandle, Value};

use crate::store::StoreError;

/// Lines told: a thousand say no more than a hundred.
const MAX_LINES: usize = 100;

/// The differences so far.
#[derive(Default)]
pub(super) struct Found {
    pub lines: Vec<String>,
}

impl Found {
    pub fn tell(&mut self, line: impl FnOnce() -> String) {
        if self.lines.len() < MAX_LINES {
            self.lines.push(line());
        }
    }
}

/// An index, and how many rows of it were expected so far. What is expected has to be different each time.
pub(super) struct Index<K: Key + 'static, V: Value + 'static> {
    name: String,
    table: ReadOnlyTable<K, V>,
    expected: u64,
}

impl<K: Key + 'static, V: Value + 'static> Index<K, V> {
    pub fn open(txn: &ReadTransaction, table: TableDefinition<'static, K, V>) -> Result<Self, StoreError> {
        Ok(Self { name: table.name().to_owned(), table: txn.open_table(table)?, expected: 0 })
    }

    /// It should have this row, with a value that fits.
    #[expect(clippy::needless_pass_by_value, reason = "each caller makes the key for this call")]
    pub fn expect_fitting(
        &mut self,
        key: K::SelfType<'_>,
        fits: impl FnOnce(V::SelfType<'_>) -> bool,
        found: &mut Found,
    ) -> Result<(), StoreError> {
        self.expected += 1;
        match self.table.get_owned(&key)? {
            None => found.tell(|| format!("{}: {key:?} is missing", self.name)),
            Some(row) if !fits(row.value()) => {
                found.tell(|| format!("{}: {key:?} holds {:?}", self.name, row.value()));
            }
            Some(_) => {}
        }
        Ok(())
    }

    /// It should have nothing but what was expected.
    pub fn finish(self, found: &mut Found) -> Result<(), StoreError> {
        let held = self.table.len()?;
        if held != self.expected {
            found.tell(|| format!("{}: it has {held} rows, and should have {}", self.name, self.expected));
        }
        Ok(())
    }
}

impl<K: Key + 'static> Index<K, ()> {
    /// It should have this key.
    pub fn expect(&mut self, key: K::SelfType<'_>, found: &mut Found) -> Result<(), StoreError> {
        self.expect_fitting(key, |()| true, found)
    }
}
