//! Files that were altered while nobody looked: flipped bytes, cut ends, other files in their place. What
//! opens holds the correct data; everything else is a refusal that says what to do, leaves the file as it
//! is, and is no panic.
//!
//! `FLIPS=n` and `CUTS=n` say how many, `SEED=` which.

use cove::store::{OpenError, Pause, Store, StoreError};

use super::disk::{Disk, Image, Name, Player};
use super::work::{self, Ask, BEGIN, History, Opened, ask, record};
use super::{number, seed};

const GROUPS: usize = 100;
/// redb's header and both of its commit slots.
const HEADER_BYTES: usize = 320;
/// The byte that says which commit slot counts, and its bit.
const WHICH_SLOT: (usize, u8) = (9, 1);

/// What became of a damaged state.
#[derive(Debug)]
enum Outcome {
    /// Everything is as it was.
    Correct,
    /// Everything but the pause, which waits for a human.
    Held(Pause),
    Refused,
}

struct Files {
    history: History,
    /// Closed as a stop closes it.
    closed: Image,
    /// As a kill leaves it.
    killed: Image,
}

impl Files {
    async fn make(dice: &mut fastrand::Rng) -> Self {
        let history = record(work::new_state(), BEGIN, GROUPS, dice).await;
        let last = history.log.iter().rposition(|op| matches!(op, super::disk::Op::Answered { .. })).unwrap();
        let mut player = Player::new(history.begin.clone(), &history.log, &[]);
        player.play_to(last);
        let killed = player.cut(dice);
        player.play_to(history.log.len());
        let closed = player.cut(dice);
        Self { history, closed, killed }
    }

    fn dump(&self) -> &str {
        self.history.dumps.last().unwrap()
    }
}

/// Opens it in a thread of its own, so that a panic anywhere is seen.
fn open(image: &Image, expected: &str) -> Result<Outcome, String> {
    let (image, expected) = (image.clone(), expected.to_owned());
    let ended = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(look(&image, &expected))
    });
    ended.join().unwrap_or_else(|_| Err("a panic".to_owned()))
}

async fn look(image: &Image, expected: &str) -> Result<Outcome, String> {
    let disk = Disk::new(image.clone());
    let opened = match Opened::over(&disk, BEGIN) {
        Ok(opened) => opened,
        Err(error) => return refusal(&error, disk.live() == *image),
    };
    let found = opened.dump().await.map_err(|error| format!("opened, and then: {error}"))?;
    let pause = opened.report.pause.clone();
    let same = found == expected || (pause.is_some() && same_but_for_the_pause(&found, expected));
    let differences = opened.store.check_consistency().await.map_err(|error| error.to_string())?;
    let wrote = ask(&opened.store, Ask::Flow { version: 1_000 }, BEGIN).await;
    opened.close().await;
    if !differences.is_empty() {
        return Err(format!("opened with wrong indexes: {differences:?}"));
    }
    wrote.map_err(|error| format!("opened, and cannot be written: {error}"))?;
    match pause {
        Some(pause @ Pause::Restored { .. }) => Ok(Outcome::Held(pause)),
        _ if !same => Err("opened with other data".to_owned()),
        Some(pause @ Pause::LedgerDamaged { .. }) => Ok(Outcome::Held(pause)),
        _ => Ok(Outcome::Correct),
    }
}

fn same_but_for_the_pause(found: &str, expected: &str) -> bool {
    let rest = |dump: &str| -> Vec<String> {
        dump.lines().filter(|line| !line.starts_with("meta ")).map(str::to_owned).collect()
    };
    rest(found) == rest(expected)
}

fn refusal(error: &OpenError, untouched: bool) -> Result<Outcome, String> {
    let told = error.to_string();
    match error {
        OpenError::NotAStateFile { .. } if told.contains("panic") => Err(told),
        OpenError::NotAStateFile { .. } if !told.contains("cove snapshots restore") => {
            Err(format!("no word of help: {told}"))
        }
        OpenError::NotAStateFile { .. } if !untouched => Err(format!("refused, and altered: {told}")),
        OpenError::NotAStateFile { .. } | OpenError::Store(StoreError::Corrupt(_)) => Ok(Outcome::Refused),
        _ => Err(told),
    }
}

/// One byte of a file, made another one.
fn flipped(image: &Image, name: Name, at: usize, by: u8) -> Image {
    let mut image = image.clone();
    image.file_mut(name)[at] ^= by;
    image
}

/// Half of the places are where something stands, since most of a file may be empty.
fn somewhere(content: &[u8], dice: &mut fastrand::Rng) -> usize {
    let mut at = dice.usize(..content.len());
    while content[at] == 0 && dice.u8(..8) > 0 {
        at = dice.usize(..content.len());
    }
    at
}

#[tokio::test]
async fn a_flipped_byte_of_the_state_file_is_correct_data_or_a_refusal() {
    let seed = seed();
    let mut dice = fastrand::Rng::with_seed(seed + 9);
    let files = Files::make(&mut dice).await;
    let (mut correct, mut refused) = (0, 0);
    let flips = usize::try_from(number("FLIPS", 500)).unwrap();
    // A tenth of them in the header, where a bit says most.
    let mut places = |content: &[u8], flips: usize| -> Vec<(usize, u8)> {
        let slot = (0..8).map(|bit| (WHICH_SLOT.0, 1 << bit));
        let header = slot.chain((8..flips / 10).map(|_| (dice.usize(..HEADER_BYTES), 1 << dice.u8(..8))));
        let header = header.collect::<Vec<_>>();
        let anywhere = (header.len()..flips).map(|_| (somewhere(content, &mut dice), dice.u8(1..))).collect::<Vec<_>>();
        [header, anywhere].concat()
    };
    let of_closed = places(files.closed.file(Name::State), flips);
    let of_killed = places(files.killed.file(Name::State), flips / 2);
    for (kind, image, flips) in [("closed", &files.closed, of_closed), ("killed", &files.killed, of_killed)] {
        for (at, by) in flips {
            // redb cannot tell this from a commit that a kill cut off; after a stop both slots say the same.
            if kind == "killed" && at == WHICH_SLOT.0 && by & WHICH_SLOT.1 != 0 {
                continue;
            }
            match open(&flipped(image, Name::State, at, by), files.dump()) {
                Ok(Outcome::Correct) => correct += 1,
                Ok(Outcome::Refused) => refused += 1,
                Ok(Outcome::Held(pause)) => panic!("SEED={seed}, {kind}, byte {at} by {by:#x}: {pause:?}"),
                Err(wrong) => panic!("SEED={seed}, {kind}, byte {at} by {by:#x}: {wrong}"),
            }
        }
    }
    println!("{} flips: {correct} correct, {refused} refused", correct + refused);
    assert!(correct > 0 && refused > 0);
}

#[tokio::test]
async fn a_cut_state_file_is_refused_or_correct() {
    let seed = seed();
    let mut dice = fastrand::Rng::with_seed(seed + 10);
    let files = Files::make(&mut dice).await;
    let cuts = number("CUTS", 100);
    for (kind, whole) in [("closed", &files.closed), ("killed", &files.killed)] {
        for _ in 0..cuts {
            let mut image = whole.clone();
            let length = image.file(Name::State).len();
            let at = dice.usize(..length);
            image.file_mut(Name::State).truncate(at);
            match open(&image, files.dump()) {
                Ok(Outcome::Refused) => {}
                Ok(_) => panic!("SEED={seed}, {kind}, {at} of {length} bytes were enough"),
                Err(wrong) => panic!("SEED={seed}, {kind}, {at} of {length} bytes: {wrong}"),
            }
        }
    }
    println!("{} cuts, all refused", 2 * cuts);
}

#[tokio::test]
async fn a_damaged_ledger_holds_everything_or_has_lost_its_last_line() {
    let seed = seed();
    let mut dice = fastrand::Rng::with_seed(seed + 11);
    let files = Files::make(&mut dice).await;
    let whole = &files.closed;
    let content = whole.file(Name::Ledger);
    let last_line = content[..content.len() - 1].iter().rposition(|byte| *byte == b'\n').unwrap() + 1;
    let first_line = content.iter().position(|byte| *byte == b'\n').unwrap() + 1;
    let (flips, cuts) = (number("FLIPS", 500) / 5, number("CUTS", 100));
    for _ in 0..flips {
        let (at, by) = (dice.usize(..content.len()), dice.u8(1..));
        let outcome = open(&flipped(whole, Name::Ledger, at, by), files.dump());
        // A newline in the last line makes two of it, and the first of them is not the last.
        let splits = at >= last_line && content[at] ^ by == b'\n';
        match outcome {
            Ok(Outcome::Held(Pause::LedgerDamaged { .. })) if at < last_line || splits => {}
            Ok(Outcome::Correct) if at >= last_line => {}
            Ok(other) => {
                panic!("SEED={seed}, byte {at} of {}, the last line from {last_line}: {other:?}", content.len())
            }
            Err(wrong) => panic!("SEED={seed}, byte {at}: {wrong}"),
        }
    }
    for _ in 0..cuts {
        let at = dice.usize(..content.len());
        let mut image = whole.clone();
        image.file_mut(Name::Ledger).truncate(at);
        match open(&image, files.dump()) {
            // Without its first line nobody knows what went out.
            Ok(Outcome::Held(Pause::Restored { blind: true, .. })) if at < first_line => {}
            Ok(Outcome::Correct) if at >= first_line => {}
            Ok(_) => panic!("SEED={seed}, cut at {at}"),
            Err(wrong) => panic!("SEED={seed}, cut at {at}: {wrong}"),
        }
    }
    println!("{flips} flips and {cuts} cuts of the ledger, all noticed where they are not its last line");
}

#[tokio::test]
async fn other_files_in_its_place_are_refused() {
    let mut dice = fastrand::Rng::with_seed(3);
    let files = Files::make(&mut dice).await;
    let length = files.closed.file(Name::State).len();
    let noise: Vec<u8> = std::iter::repeat_with(|| dice.u8(..)).take(length).collect();
    let foreign = Disk::new(Image::default());
    drop(redb::Builder::new().create_with_backend(foreign.state()).unwrap());
    let padded = [files.closed.file(Name::State).as_slice(), &[0; 512]].concat();
    let ledger_as_state = files.closed.file(Name::Ledger).clone();
    let others = [
        ("empty", Vec::new()),
        ("zeros", vec![0; length]),
        ("noise", noise),
        ("SQLite", b"SQLite format 3\0".repeat(500)),
        ("one of another program", foreign.live().file(Name::State).clone()),
        ("padded", padded),
        ("the ledger", ledger_as_state),
        ("its first page", files.closed.file(Name::State)[..4_096].to_vec()),
    ];
    for (what, content) in others {
        let mut image = files.closed.clone();
        *image.file_mut(Name::State) = content;
        match open(&image, files.dump()) {
            Ok(Outcome::Refused) => {}
            Ok(_) => panic!("{what}: it was opened"),
            Err(wrong) => panic!("{what}: {wrong}"),
        }
    }
    // Of a newer cove: named, with both ways out.
    let disk = Disk::new(files.closed.clone());
    let schema: redb::TableDefinition<&str, u32> = redb::TableDefinition::new("schema");
    let db = redb::Builder::new().create_with_backend(disk.state()).unwrap();
    let txn = db.begin_write().unwrap();
    txn.open_table(schema).unwrap().insert("version", 999).unwrap();
    txn.commit().unwrap();
    drop(db);
    let before = disk.live();
    let error = Store::open_over(|| disk.state(), disk.ledger(), super::work::moment(BEGIN)).err().unwrap();
    assert!(matches!(error, OpenError::NewerSchema { found: 999, .. }), "{error}");
    assert!(disk.live() == before, "refused, and altered");
}
