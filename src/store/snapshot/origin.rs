//! The mark in the state file of a snapshot: it says to the next boot that this is one (fence.md rules 17 to 19).
//!
//! Written into the copy when it is made, read and removed by the boot that opens it, whoever put it back. It
//! is a row of its own beside the store's, so that no live state has it and no record changed its form.

use redb::WriteTransaction;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::model::Timestamp;
use crate::store::ledger::{Line, Position};
use crate::store::media::hex;
use crate::store::tables::META;
use crate::store::{StoreError, codec};

const ORIGIN_KEY: &str = "snapshot";
const MACHINE_ID: &str = "/etc/machine-id";

/// Of which snapshot this state is a copy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::store) struct Origin {
    pub name: String,
    pub created_at: Timestamp,
    /// Where the ledger ended before the state was read.
    pub ledger: Position,
    pub machine: Option<String>,
}

impl Origin {
    /// Nothing tells what went out since: the ledger ends where it did then, is shorter, or is another machine's.
    /// A new epoch alone is the word of another restore, or of this one's boot that was cut off.
    pub fn is_blind(&self, lines: &[Line], epoch: u64, machine: Option<&str>) -> bool {
        let since = usize::try_from(self.ledger.facts).ok().and_then(|facts| lines.get(facts..)).unwrap_or_default();
        let is_word = |line: &Line| !matches!(line, Line::Epoch { epoch: begun, .. } if *begun > epoch);
        self.machine.as_deref() != machine || !since.iter().any(is_word)
    }
}

pub(super) fn put(txn: &WriteTransaction, origin: &Origin) -> Result<(), StoreError> {
    txn.open_table(META)?.insert(ORIGIN_KEY, codec::encode(origin)?.as_slice())?;
    Ok(())
}

/// The mark, which is gone with this transaction.
pub(in crate::store) fn take(txn: &WriteTransaction) -> Result<Option<Origin>, StoreError> {
    let mut meta = txn.open_table(META)?;
    let row = meta.remove(ORIGIN_KEY)?;
    row.map(|row| codec::decode("meta", row.value())).transpose()
}

/// Which machine this is: a hash of its id, which is nobody's business. None: it has none.
#[must_use]
pub fn machine() -> Option<String> {
    let id = std::fs::read_to_string(MACHINE_ID).ok()?;
    let id = id.trim();
    (!id.is_empty()).then(|| hex(&Sha256::digest(format!("cove snapshot of {id}").as_bytes())))
}

#[cfg(test)]
mod tests {
    use super::{Line, Origin, Position};
    use crate::model::{Timestamp, TokenHash};

    fn epoch(epoch: u64, opens: u64) -> Line {
        Line::Epoch { epoch, opens, at: Timestamp::ZERO }
    }

    #[test]
    fn rule_19_blind_is_what_no_ledger_of_this_machine_goes_on_from() {
        let word = Line::TokenRevoked { token: super::hex(&TokenHash([7; 32]).0), at: Timestamp::ZERO };
        let ledger = Position { bytes: 99, facts: 2 };
        let (name, machine) = ("x".to_owned(), Some("m".to_owned()));
        let origin = Origin { name, created_at: Timestamp::ZERO, ledger, machine };
        let blind = |lines: &[Line]| origin.is_blind(lines, 3, Some("m"));
        let before = [epoch(3, 1), word.clone()];
        assert!(blind(&[]) && blind(&before[..1]) && blind(&before), "it ends there, or before");
        assert!(!blind(&[before.to_vec(), vec![word.clone()]].concat()));
        assert!(!blind(&[before.to_vec(), vec![epoch(3, 2)]].concat()), "the state was opened again since");
        assert!(blind(&[before.to_vec(), vec![epoch(4, 2)]].concat()), "a restore that was cut off says nothing");
        let whole = [before.to_vec(), vec![word]].concat();
        assert!(origin.is_blind(&whole, 3, Some("other")) && origin.is_blind(&whole, 3, None));
    }
}
