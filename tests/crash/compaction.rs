//! The power goes while a state file is compacted, at every place: it opens and holds what it held.
//!
//! `COMPACTIONS=n` says how many places, spread evenly (0: all). The kills of the real daemon at this work are in
//! `moments`. The negative control is a disk that does not sync.

use super::disk::{Disk, Image, Name, Player};
use super::work::{self, BEGIN, Opened, moment, record};
use super::{number, seed};
use cove::store::Store;

/// A state with a history in it and a good part of it free.
async fn loose(dice: &mut fastrand::Rng) -> Image {
    let history = record(work::new_state(), BEGIN, 40, dice).await;
    let mut player = Player::new(history.begin.clone(), &history.log, &[]);
    player.play_to(history.log.len());
    let disk = Disk::new(player.cut(dice));
    let opened = Opened::over(&disk, BEGIN).unwrap();
    let flows: Vec<String> = (0..40).map(|number| format!("loose-{number}")).collect();
    for name in &flows {
        let json = format!("\"{}\"", name.repeat(2_000)).into_bytes();
        opened.store.put_flow(name.clone(), format!("hash of {name}"), json, BEGIN).await.unwrap();
    }
    // A recording gives way to a short one under its hash; what lies behind the gaps has to move.
    for name in flows.iter().step_by(3).chain(flows.iter().skip(1).step_by(3)) {
        let (again, hash) = (format!("{name} again"), format!("hash of {name}"));
        opened.store.put_flow(again, hash, b"{}".to_vec(), BEGIN).await.unwrap();
    }
    opened.close().await;
    disk.live()
}

async fn held(image: Image) -> Result<String, String> {
    let opened = Opened::over(&Disk::new(image), BEGIN).map_err(|error| error.to_string())?;
    let wrong = opened.store.check_consistency().await.map_err(|error| error.to_string())?;
    let dump = opened.dump().await.map_err(|error| error.to_string());
    opened.close().await;
    if wrong.is_empty() { dump } else { Err(wrong.join("\n")) }
}

/// How many of the places that were tried did not hold what was there before.
async fn lost(stubbed: &[Name], dice: &mut fastrand::Rng) -> (u64, Vec<String>) {
    let begin = loose(dice).await;
    let before = held(begin.clone()).await.unwrap();
    let disk = Disk::new(begin.clone());
    let compacted = Store::open_compacting(|| disk.state(), disk.ledger(), moment(BEGIN)).unwrap();
    let (store, thread, _) = compacted;
    drop(store);
    tokio::task::spawn_blocking(|| thread.join()).await.unwrap();
    let (was, is) = (begin.file(Name::State).len(), disk.live().file(Name::State).len());
    assert!(is * 4 < was * 3, "{was} bytes before and {is} after: nothing was compacted");
    assert_eq!(held(disk.live()).await.unwrap(), before, "it is another state");
    let log = disk.log();
    let places = match number("COMPACTIONS", 150) {
        0 => log.len() as u64,
        wanted => wanted.min(log.len() as u64),
    };
    let mut player = Player::new(begin, &log, stubbed);
    let mut lost = Vec::new();
    for place in 0..=places {
        let at = usize::try_from(place * log.len() as u64 / places).unwrap();
        player.play_to(at);
        match held(player.cut(dice)).await {
            Ok(holds) if holds == before => {}
            Ok(_) => lost.push(format!("cut at {at} of {}: it holds something else", log.len())),
            Err(error) => lost.push(format!("cut at {at} of {}: {error}", log.len())),
        }
    }
    (places + 1, lost)
}

#[tokio::test]
async fn a_power_cut_at_any_place_of_a_compaction_loses_nothing() {
    let seed = seed();
    let mut dice = fastrand::Rng::with_seed(seed + 40);
    let (tried, lost) = lost(&[], &mut dice).await;
    assert!(lost.is_empty(), "SEED={seed}: {}", lost.join("\n"));
    println!("{tried} power cuts of a compaction, 0 answers lost");
}

#[tokio::test]
async fn negative_control_a_compaction_on_a_disk_that_does_not_sync_is_noticed() {
    let mut dice = fastrand::Rng::with_seed(9);
    let (tried, lost) = lost(&[Name::State], &mut dice).await;
    assert!(lost.len() > 10, "only {} of {tried} cuts without a sync were noticed", lost.len());
}
