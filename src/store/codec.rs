//! Records as bytes: one byte of format version, then bincode.
//!
//! The only file that knows bincode, so that the encoding can be replaced in a day: a new version gets a
//! new number, and the golden bytes of every released one stay in the tests. Called by the store alone.
//! A record that cannot be read is an error that names the table, never a default.

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::StoreError;

/// Version 1: bincode 2, `standard` configuration (little endian, variable-length integers).
const VERSION: u8 = 1;
/// Far above the longest record. Without a limit a length that was altered asks for as much memory as it says,
/// and a refusal of the allocator ends the process.
const MAX_RECORD_BYTES: usize = 64 * 1024 * 1024;

pub(super) fn encode<T: Serialize>(record: &T) -> Result<Vec<u8>, StoreError> {
    let mut bytes = vec![VERSION];
    bincode::serde::encode_into_std_write(record, &mut bytes, bincode::config::standard())
        .map_err(|error| StoreError::Corrupt(format!("a record cannot be encoded: {error}")))?;
    Ok(bytes)
}

pub(super) fn decode<T: DeserializeOwned>(table: &'static str, bytes: &[u8]) -> Result<T, StoreError> {
    let corrupt = |what: String| StoreError::Corrupt(format!("{table}: {what}"));
    match bytes.split_first() {
        Some((&VERSION, rest)) => {
            let (record, read) =
                bincode::serde::decode_from_slice(rest, bincode::config::standard().with_limit::<MAX_RECORD_BYTES>())
                    .map_err(|error| corrupt(error.to_string()))?;
            if read == rest.len() { Ok(record) } else { Err(corrupt(format!("{} bytes too many", rest.len() - read))) }
        }
        Some((version, _)) => Err(corrupt(format!("unknown record version {version}"))),
        None => Err(corrupt("empty record".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_length_that_was_altered_is_an_error_and_asks_for_no_memory() {
        // A text of 2^60 bytes.
        let bytes = [&[super::VERSION, 253][..], &(1_u64 << 60).to_le_bytes(), b"short"].concat();
        let refused = decode::<String>("items", &bytes).unwrap_err();
        assert!(refused.to_string().contains("items"), "{refused}");
    }

    use super::{decode, encode};
    use crate::model::{
        Baseline, Failure, FailureCode, FileInput, InputValue, Item, ItemId, ItemState, Place, ProfileId, Proofs,
        TaskId, Timestamp, VerifyPlan,
    };

    fn sample() -> Item {
        Item {
            id: ItemId::new((3 << 40) | 7),
            task: TaskId::new((3 << 40) | 6),
            index: 1,
            profile: ProfileId::new("anna").unwrap(),
            inputs: [
                ("caption".to_owned(), InputValue::Text("привет 🌊".to_owned())),
                (
                    "video".to_owned(),
                    InputValue::File(FileInput {
                        path: "/srv/media/1.mp4".into(),
                        sha256: "ab".repeat(32),
                        bytes: 8_000_000,
                        device: 1,
                        inode: 2,
                        mtime_ns: -3,
                    }),
                ),
            ]
            .into(),
            key: Some("spring-1".to_owned()),
            priority: -2,
            not_before: None,
            not_after: Some(Timestamp::from_millis(1_800_000_000_000)),
            created_at: Timestamp::from_millis(1_700_000_000_000),
            state: ItemState::OutcomeUnknown,
            due_at: Timestamp::ZERO,
            place: Place::Off,
            external: Some("studio".to_owned()),
            held_for: None,
            attempts: 1,
            attempts_before: 0,
            fence: None,
            armed_fence: None,
            armed_at: None,
            proofs: Some(Proofs { baseline: Baseline::Clear, open_waits: vec![3] }),
            cleared_fence: None,
            verify: Some(VerifyPlan::beginning(Timestamp::from_millis(1_700_000_000_000))),
            started_at: None,
            finished_at: None,
            url: None,
            result: [("post_url".to_owned(), "http://127.0.0.1/p/1".to_owned())].into(),
            failure: Some(Failure::new(FailureCode::ConfirmationMissing, "nothing came")),
            evidence: Vec::new(),
        }
    }

    #[test]
    fn a_record_comes_back() {
        let item = sample();
        assert_eq!(decode::<Item>("items", &encode(&item).unwrap()).unwrap(), item);
    }

    /// The bytes of version 1 as released: a change here is a change of the file format.
    #[test]
    fn golden_bytes_of_schema_2() {
        use std::fmt::Write as _;
        let hex = encode(&sample()).unwrap().iter().fold(String::new(), |mut hex, byte| {
            write!(hex, "{byte:02x}").unwrap();
            hex
        });
        assert_eq!(hex, include_str!("../../tests/golden/item-v2.hex").trim());
    }

    #[test]
    fn damage_is_named() {
        let bytes = encode(&sample()).unwrap();
        for cut in 0..bytes.len() {
            assert!(decode::<Item>("items", &bytes[..cut]).is_err(), "cut at {cut}");
        }
        let mut newer = bytes.clone();
        newer[0] = 2;
        assert!(decode::<Item>("items", &newer).unwrap_err().to_string().contains("unknown record version 2"));
        let mut longer = bytes;
        longer.push(0);
        assert!(decode::<Item>("items", &longer).is_err());
    }
}
