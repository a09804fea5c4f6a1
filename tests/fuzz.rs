//! Short rounds of fuzzing on a stable toolchain: seven readers of bytes, fed with what nobody would write.
//!
//! Inputs are real ones, cut, spliced and changed at random; what once failed is in the lists of seeds. Each test runs for
//! `FUZZ_SECONDS` (5) and prints its seed and how many it tried; `SEED=n` runs the same again. The long rounds, led by
//! coverage, are `ONLY=fuzz tests/release.sh` (the crate in `tests/fuzz`).

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "fuzz/targets.rs"]
mod targets;

use std::panic::catch_unwind;
use std::path::Path;
use std::time::{Duration, Instant};

use cove::model::{BootId, BootTime, Moment, Timestamp};
use cove::store::readers::{RECORDS, reread_record};
use cove::store::{LEDGER_FILE, STATE_FILE, Store};
use redb::{ReadableDatabase, ReadableTable, TableDefinition, TableHandle};

const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/schema-1");

/// Pieces that mean something to one reader or another.
const WORDS: [&[u8]; 32] = [
    b"null",
    b"true",
    b"\"\"",
    b"{}",
    b"[]",
    b"-1",
    b"0",
    b"1e309",
    b"9007199254740993",
    b"18446744073709551616",
    b"\n",
    b"\r\n",
    b"\0",
    b"\xff",
    b"{{",
    b"}}",
    b"{{ now }}",
    b"\"type\"",
    b"\"steps\"",
    b"\"selectors\"",
    b"\"cove\"",
    b"\"fence\"",
    b"f1",
    b"t1",
    b"../",
    b"%ff",
    b"\\u0000",
    b"\xf0\x9f\x8c\x8a",
    b"[server]",
    b"listen",
    b"Host: ",
    b"Bearer ",
];

fn mutate(random: &mut fastrand::Rng, seeds: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = seeds[random.usize(..seeds.len())].clone();
    for _ in 0..random.usize(0..6) {
        let at = random.usize(..=bytes.len());
        let end = at + random.usize(..=(bytes.len() - at).min(64));
        match random.u8(..7) {
            0 => drop(bytes.drain(at..end)),
            1 => bytes.truncate(at),
            2 if at < bytes.len() => bytes[at] ^= 1 << random.u8(..8),
            3 if at < bytes.len() => bytes[at] = random.u8(..),
            4 => drop(bytes.splice(at..at, WORDS[random.usize(..WORDS.len())].iter().copied())),
            5 => {
                let piece = bytes[at..end].to_vec();
                let to = random.usize(..=bytes.len());
                drop(bytes.splice(to..to, piece));
            }
            _ => {
                let other = &seeds[random.usize(..seeds.len())];
                let from = random.usize(..=other.len());
                bytes.truncate(at);
                bytes.extend_from_slice(&other[from..]);
            }
        }
    }
    bytes
}

/// What is fed, and what came of it.
fn fuzz(name: &str, seeds: &[Vec<u8>], target: fn(&[u8])) {
    let seconds = std::env::var("FUZZ_SECONDS").map_or(5, |seconds| seconds.parse().unwrap());
    let seed = std::env::var("SEED").map_or_else(|_| fastrand::u64(..), |seed| seed.parse().unwrap());
    println!("fuzz {name}: SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let (began, mut tried) = (Instant::now(), 0_u64);
    let mut try_one = |bytes: &[u8]| {
        tried += 1;
        if let Err(panic) = catch_unwind(|| target(bytes)) {
            println!("fuzz {name}: SEED={seed}: after {tried}: b\"{}\"", bytes.escape_ascii());
            std::panic::resume_unwind(panic);
        }
    };
    for seed in seeds {
        try_one(seed);
    }
    while began.elapsed() < Duration::from_secs(seconds) {
        try_one(&mutate(&mut random, seeds));
    }
    println!("fuzz {name}: {tried} inputs");
}

fn texts(texts: &[&str]) -> Vec<Vec<u8>> {
    texts.iter().map(|text| text.as_bytes().to_vec()).collect()
}

#[test]
fn flow() {
    let recordings = [
        include_str!("../packaging/flows/atelier.json"),
        include_str!("../packaging/examples/studio.json"),
        r#"{"title":"a","steps":[{"type":"navigate","url":"http://x/{{ inputs.a }}"},{"type":"customStep","name":"cove","parameters":{"commit":true}}]}"#,
        "{}",
        "[]",
    ];
    fuzz("flow", &texts(&recordings), targets::flow);
}

/// Every record of a released state file that is read as one of a kind.
fn golden_records() -> Vec<Vec<u8>> {
    let folder = tempfile::tempdir().unwrap();
    for file in [STATE_FILE, LEDGER_FILE] {
        std::fs::copy(Path::new(GOLDEN).join(file), folder.path().join(file)).unwrap();
    }
    // It is of an older schema, and brought up to this one by being opened.
    let now = Moment {
        wall: Timestamp::from_millis(1_795_000_100_000),
        boot: BootTime::from_millis(50_000),
        boot_id: BootId::new(7),
    };
    let (store, thread, _) = Store::open(folder.path(), now).unwrap();
    drop(store);
    thread.join();
    let db = redb::Database::open(folder.path().join(STATE_FILE)).unwrap();
    let txn = db.begin_read().unwrap();
    let mut rows: Vec<Vec<u8>> = Vec::new();
    let names: Vec<String> = txn.list_tables().unwrap().map(|table| table.name().to_owned()).collect();
    for name in &names {
        if let Ok(table) = txn.open_table(TableDefinition::<u64, &[u8]>::new(name)) {
            rows.extend(table.iter().unwrap().map(|row| row.unwrap().1.value().to_vec()));
        } else if let Ok(table) = txn.open_table(TableDefinition::<(u64, u64), &[u8]>::new(name)) {
            rows.extend(table.iter().unwrap().map(|row| row.unwrap().1.value().to_vec()));
        } else if let Ok(table) = txn.open_table(TableDefinition::<&str, &[u8]>::new(name)) {
            rows.extend(table.iter().unwrap().map(|row| row.unwrap().1.value().to_vec()));
        }
    }
    let kinds = 0..u8::try_from(RECORDS).unwrap();
    let of_kind =
        |kind: u8| rows.iter().filter(move |row| reread_record(kind.into(), row).is_ok()).map(move |row| (kind, row));
    kinds.flat_map(of_kind).map(|(kind, row)| [&[kind], row.as_slice()].concat()).collect()
}

#[test]
fn codec() {
    let seeds = golden_records();
    assert!(seeds.len() > 2 * RECORDS, "{} records", seeds.len());
    fuzz("codec", &seeds, targets::codec);
}

#[test]
fn config() {
    let default = include_str!("../packaging/cove.toml").replace("\n#", "\n");
    fuzz(
        "config",
        &texts(&[include_str!("../packaging/cove.toml"), &default, "[engine]\nslots = 3\n", ""]),
        targets::config,
    );
}

#[test]
fn body() {
    let bodies = [
        "\0{\"flow\":\"a\",\"items\":[{\"profile\":\"anna\",\"inputs\":{\"a\":1},\"key\":\"k\",\"not_before\":\"2026-12-01T09:00:00Z\"}],\"webhook\":{\"url\":\"https://x\",\"secret\":\"0123456789abcdef\"}}",
        "\0{\"flow\":\"a\",\"profiles\":[\"a\"],\"inputs_list\":[{}],\"distribute\":\"round_robin\",\"priority\":1,\"on_unknown\":\"retry\"}",
        "\x01{\"kinds\":[\"a\"],\"owner\":\"w\",\"ttl_seconds\":5,\"wait_seconds\":0,\"session\":true}",
        "\x02{\"fence\":\"f1\",\"media_sha256\":[\"0\"]}",
        "\x03{\"result\":{\"a\":\"b\"},\"url\":\"http://x\"}",
        "\x04{\"reason\":\"rejected\",\"message\":\"m\"}",
        "\x05{\"outcome\":\"published\",\"url\":\"http://x\",\"note\":\"n\"}",
        "\x06{\"profile\":\"a\",\"ttl_seconds\":5,\"owner\":\"o\",\"headless\":true}",
        "\x07{\"owner\":\"o\",\"dry_run\":true,\"force\":true}",
        "\x08{\"kind\":\"k\",\"key\":\"a\",\"owner\":\"o\"}",
        "\x09{\"name\":\"n\",\"scopes\":[\"read\"],\"expires_in_seconds\":1}",
        "\x0a{\"accept_duplicates\":true,\"headless\":true,\"name\":\"n\"}",
    ];
    fuzz("body", &texts(&bodies), targets::body);
}

#[test]
fn head() {
    let heads = [
        "GET /api/v1/tasks?state=queued&limit=7&cursor=dDEy\nHost: 127.0.0.1:8088\nAuthorization: Bearer cove_0123",
        "POST /api/v1/bulk-upload/start\nHost: [::1]:8088\nOrigin: http://127.0.0.1:8088\nSec-Fetch-Site: same-origin\nIdempotency-Key: a",
        "PUT http://localhost:8088/api/v1/flows/a%20b\nHost: localhost:8088\nX-Request-Id: r",
        "GET /\nHost: cove.example.org",
    ];
    fuzz("head", &texts(&heads), targets::head);
}

#[test]
fn ledger() {
    let line = |json: &str| format!("{:08x} {json}\n", crc32fast::hash(json.as_bytes()));
    let epoch = line(r#"{"kind":"epoch","epoch":1,"opens":1,"at":"2026-11-24T00:00:00Z"}"#);
    let armed = line(
        r#"{"kind":"armed","item":"i12","fence":"f13","key":null,"idempotency":null,"at":"2026-11-24T00:00:00Z"}"#,
    );
    let both = format!("{epoch}{armed}");
    fuzz(
        "ledger",
        &texts(&[&both, &format!("{both}{armed}"), &both[..both.len() - 5], &both.replace('\n', "")]),
        targets::ledger,
    );
}

#[test]
fn protocol() {
    let lines = [
        r#"{"cove_browser_host":1,"pid":7}"#,
        r#"{"error":{"code":"provider_down","detail":"no"}}"#,
        r#"{"id":1,"call":"start","profile":"anna","headless":true}"#,
        r#"{"id":1,"call":"can_read","path":"/srv/media/1.mp4"}"#,
        r#"{"id":1,"ok":[{"port":1}]}"#,
        r#"{"id":1,"error":{"code":"provider_down","detail":"no"}}"#,
    ];
    fuzz("protocol", &texts(&lines), targets::protocol);
}

/// The negative control: a reader with a defect is caught.
#[test]
fn a_reader_that_panics_is_noticed() {
    fn defective(data: &[u8]) {
        assert!(!data.windows(2).any(|pair| pair == b"{{"), "a defect");
    }
    let seeds = texts(&["{\"a\": 1}"]);
    assert!(catch_unwind(move || fuzz("control", &seeds, defective)).is_err());
}
