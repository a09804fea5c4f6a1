//! The power goes, at any place of a history: between the answer to one operation and the next, in the
//! middle of a commit, while the store opens again after an earlier cut.
//!
//! `CUTS=n` and `DOUBLE=n` say how many, `SEED=` which. Negative controls: a disk whose sync does
//! nothing, for the state file and for the ledger, must be noticed.

use std::collections::BTreeSet;

use super::disk::{Disk, Image, Name, Player};
use super::judge::judge;
use super::work::{self, BEGIN, History, Opened, Worth, record};
use super::{number, seed};

/// Groups of operations in one history.
const GROUPS: usize = 130;
/// Places of one history that are tried before the next is made.
const PLACES: u64 = 500;

/// Every place where a history can be cut is behind one of its operations.
fn place(number: u64, of: u64, history: &History, dice: &mut fastrand::Rng) -> usize {
    let length = history.log.len() as u64;
    let (from, to) = (number * length / of, (number + 1) * length / of);
    usize::try_from(dice.u64(from..=to.max(from))).unwrap().min(history.log.len())
}

#[tokio::test]
async fn rule_5_and_7_a_power_cut_loses_nothing_that_had_its_answer_and_no_order_of_store_and_ledger() {
    let seed = seed();
    let cuts = number("CUTS", 1_000);
    // Of their own: how the writer grouped its commits, and so where a cut can be, is not the seed's to say.
    let mut story = fastrand::Rng::with_seed(seed);
    let mut dice = fastrand::Rng::with_seed(seed + 1);
    let mut done = 0;
    let mut worth = Worth::default();
    while done < cuts {
        let history = record(work::new_state(), BEGIN, GROUPS, &mut story).await;
        worth.add(&history);
        let places = PLACES.min(cuts - done);
        let mut player = Player::new(history.begin.clone(), &history.log, &[]);
        for number in 0..places {
            player.play_to(place(number, places, &history, &mut dice));
            let image = player.cut(&mut dice);
            if let Err(wrong) = judge(image, &history, player.answered()).await {
                panic!("SEED={seed} CUTS={cuts}, cut {}: {wrong}", done + number);
            }
        }
        done += places;
    }
    assert!(worth.is_rich(), "histories that try nothing: {worth:?}, SEED={seed}");
    println!("{cuts} power cuts, 0 answers lost; {worth:?}");
}

#[tokio::test]
async fn a_power_cut_while_the_store_recovers_from_one_loses_nothing_either() {
    let seed = seed();
    let cuts = number("DOUBLE", 100);
    let mut dice = fastrand::Rng::with_seed(seed + 2);
    let mut done = 0;
    let mut in_recovery = 0;
    while done < cuts {
        let history = record(work::new_state(), BEGIN, GROUPS, &mut dice).await;
        let mut player = Player::new(history.begin.clone(), &history.log, &[]);
        let first_cuts = (cuts - done).min(50);
        for number in 0..first_cuts {
            player.play_to(place(number, first_cuts, &history, &mut dice));
            let answered = player.answered();
            let image = player.cut(&mut dice);
            let verdict = second_cut(image, &history, answered, &mut dice).await;
            in_recovery += u64::from(verdict.unwrap_or_else(|wrong| {
                panic!("SEED={seed} DOUBLE={cuts}, cut {}: {wrong}", done + number);
            }));
        }
        done += first_cuts;
    }
    println!("{cuts} double power cuts, {in_recovery} of them during the recovery itself, 0 answers lost");
}

/// True: the second cut was in the recovery, before anything was asked again.
async fn second_cut(
    image: Image,
    history: &History,
    answered: usize,
    dice: &mut fastrand::Rng,
) -> Result<bool, String> {
    judge(image.clone(), history, answered).await?;
    let after = record(image, history.time_of(answered), 6, dice).await;
    let during = dice.u8(..10) < 7;
    let place = if during { dice.usize(..=after.opened_at) } else { dice.usize(after.opened_at..=after.log.len()) };
    let mut player = Player::new(after.begin.clone(), &after.log, &[]);
    player.play_to(place);
    let image = player.cut(dice);
    if place <= after.opened_at {
        judge(image, history, answered).await?;
    } else {
        judge(image, &after, player.answered()).await?;
    }
    Ok(during)
}

/// A state that counts an epoch which its ledger does not know would be taken for one whose ledger was lost.
#[tokio::test]
async fn rule_1_a_new_epoch_is_durable_in_the_ledger_before_the_state_counts_it() {
    let seed = seed();
    let mut dice = fastrand::Rng::with_seed(seed);
    let begin = work::new_state();
    let disk = Disk::new(begin.clone());
    Opened::over(&disk, BEGIN).unwrap().close().await;
    let log = disk.log();
    let mut epochs = BTreeSet::new();
    for place in 0..=log.len() {
        let mut player = Player::new(begin.clone(), &log, &[]);
        player.play_to(place);
        for _ in 0..4 {
            let opened = Opened::over(&Disk::new(player.cut(&mut dice)), BEGIN).unwrap();
            assert!(!opened.report.restored, "SEED={seed}, cut at {place} of {}: {:?}", log.len(), opened.report);
            epochs.insert(opened.report.epoch);
            opened.close().await;
        }
    }
    // A cut before its line is durable leaves the first life to be lived, one between its line and the state a second.
    let first = *epochs.first().unwrap();
    assert_eq!(epochs, BTreeSet::from([first, first + 1]), "SEED={seed}");
}

/// How many of 60 cuts are noticed on a disk that does not sync this file.
async fn noticed_without_sync_of(name: Name) -> usize {
    let mut dice = fastrand::Rng::with_seed(7);
    let history = record(work::new_state(), BEGIN, GROUPS, &mut dice).await;
    let mut player = Player::new(history.begin.clone(), &history.log, &[name]);
    let mut noticed = 0;
    for number in 0..60 {
        player.play_to(place(number, 60, &history, &mut dice));
        let image = player.cut(&mut dice);
        noticed += usize::from(judge(image, &history, player.answered()).await.is_err());
    }
    noticed
}

#[tokio::test]
async fn negative_control_a_state_file_that_is_not_synced_is_noticed() {
    let noticed = noticed_without_sync_of(Name::State).await;
    assert!(noticed > 30, "only {noticed} of 60 cuts without a sync were noticed");
}

#[tokio::test]
async fn negative_control_a_ledger_that_is_not_synced_is_noticed() {
    let noticed = noticed_without_sync_of(Name::Ledger).await;
    assert!(noticed > 10, "only {noticed} of 60 cuts without a sync were noticed");
}
