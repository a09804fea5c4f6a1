//! The n-th operation of the disk fails, once or from then on: no space, an I/O error, a half of a write;
//! while work is done, and while the store recovers from a power cut. Nothing has an answer that is not
//! stored, whatever follows: the process starts again on the same files, the power goes, or both.
//!
//! After a sync that failed the kernel may take what it could not write for clean: it can be read by the
//! next process and is never written. `EVERY=n` tries every n-th operation, `SEED=` says which history.

use std::time::Duration;

use cove::store::OpenError;
use futures_util::future::join_all;

use super::disk::{Disk, Fault, Image, Plan, Player};
use super::judge::judge;
use super::work::{self, Ask, BEGIN, History, Opened, ask, record};
use super::{number, seed};

const FAULTS: [Fault; 3] = [Fault::Io, Fault::NoSpace, Fault::Short];
const GROUPS: usize = 30;
/// Power cuts whose recovery is made to fail.
const RECOVERIES: u64 = 4;

/// Does the history's work until something fails; how many operations had their answer.
async fn work_on(disk: &Disk, history: &History) -> Result<usize, String> {
    let opened = match Opened::over(disk, BEGIN) {
        Ok(opened) => opened,
        Err(error) => return calm(&error).map(|()| 0),
    };
    let mut answered = 0;
    for group in &history.groups {
        let calls = group.asks.iter().map(|one| ask(&opened.store, one.clone(), group.now));
        let answers = join_all(calls).await;
        let good = answers.iter().take_while(|answer| answer.is_ok()).count();
        for (place, answer) in answers.iter().enumerate() {
            match answer {
                Ok(_) if place >= good => {
                    return Err(format!("operation {} was answered after a failure", answered + place));
                }
                Ok(answer) if *answer != history.answers[answered + place] => {
                    return Err(format!("operation {}: {answer}", answered + place));
                }
                Err(error) if error.to_string().contains("panic") => return Err(error.to_string()),
                _ => {}
            }
        }
        answered += good;
        if good < answers.len() {
            if ask(&opened.store, Ask::Flow { version: 99 }, group.now).await.is_ok() {
                return Err("something was answered after a failure".to_owned());
            }
            break;
        }
    }
    opened.close().await;
    Ok(answered)
}

/// A refusal is calm: no panic, and nobody else holds the file.
fn calm(error: &OpenError) -> Result<(), String> {
    let told = error.to_string();
    let wild = told.contains("panic") || matches!(error, OpenError::Held(_) | OpenError::NewerSchema { .. });
    if wild { Err(told) } else { Ok(()) }
}

/// What is left when the disk is well again: for the next process, and after a power cut.
async fn judge_what_is_left(
    disk: &Disk,
    begin: &Image,
    history: &History,
    answered: usize,
    dice: &mut fastrand::Rng,
) -> Result<(), String> {
    let told = |what: &'static str| move |wrong: String| format!("{what}: {wrong}");
    disk.mend();
    judge(disk.cut(begin, dice), history, answered).await.map_err(told("the power went with the disk"))?;
    judge(disk.live(), history, answered).await.map_err(told("the process started again"))?;
    let opened = Opened::over(disk, history.time_of(answered)).map_err(|error| error.to_string())?;
    opened.close().await;
    match judge(disk.cut(begin, dice), history, answered).await {
        // A line that the kernel never wrote stands before later ones: a human has to look.
        Err(wrong) if wrong.starts_with("the ledger is damaged") => Ok(()),
        other => other.map_err(told("the process started again, then the power went")),
    }
}

fn plans(at: u64) -> impl Iterator<Item = Plan> {
    let both = move |fault| [false, true].map(|from_then_on| Plan { at, fault, from_then_on });
    FAULTS.into_iter().flat_map(both)
}

#[tokio::test]
async fn an_operation_that_fails_is_never_answered_as_done() {
    let seed = seed();
    let every = number("EVERY", 7);
    let mut dice = fastrand::Rng::with_seed(seed + 5);
    let history = record(work::new_state(), BEGIN, GROUPS, &mut dice).await;
    let well = Disk::new(history.begin.clone());
    assert_eq!(work_on(&well, &history).await.unwrap(), history.answers.len());
    let operations = well.operations();
    let mut tried = 0;
    let mut at = 1 + dice.u64(..every);
    while at <= operations {
        for plan in plans(at) {
            let disk = Disk::failing(history.begin.clone(), plan);
            let result = async {
                let answered = work_on(&disk, &history).await?;
                judge_what_is_left(&disk, &history.begin, &history, answered, &mut dice).await
            };
            if let Err(wrong) = result.await {
                panic!("SEED={seed}, {plan:?} of {operations}: {wrong}");
            }
            tried += 1;
        }
        at += every;
    }
    println!("{tried} failures over {operations} operations, 0 answers lost");
}

#[tokio::test]
async fn a_recovery_that_fails_hurts_nothing() {
    let seed = seed();
    let every = number("EVERY", 7);
    let mut dice = fastrand::Rng::with_seed(seed + 6);
    let history = record(work::new_state(), BEGIN, 4 * GROUPS, &mut dice).await;
    let mut player = Player::new(history.begin.clone(), &history.log, &[]);
    let mut tried = 0;
    for number in 1..=RECOVERIES {
        let length = history.log.len();
        player.play_to(dice.usize(..length / 4) + (usize::try_from(number).unwrap() - 1) * length / 4);
        let answered = player.answered();
        let begin = player.cut(&mut dice);
        let well = Disk::new(begin.clone());
        Opened::over(&well, BEGIN).unwrap().close().await;
        let operations = well.operations();
        let mut at = 1 + dice.u64(..every);
        while at <= operations {
            for plan in plans(at) {
                let disk = Disk::failing(begin.clone(), plan);
                let result = async {
                    match Opened::over(&disk, history.time_of(answered)) {
                        Ok(opened) => opened.close().await,
                        Err(error) => calm(&error)?,
                    }
                    judge_what_is_left(&disk, &begin, &history, answered, &mut dice).await
                };
                if let Err(wrong) = result.await {
                    panic!("SEED={seed}, recovery {number}, {plan:?} of {operations}: {wrong}");
                }
                tried += 1;
            }
            at += every;
        }
    }
    println!("{tried} failures over {RECOVERIES} recoveries, 0 answers lost");
}

/// Whoever asks while the writer ends hears of it, also who came a moment too late to be looked at.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failing_disk_leaves_nobody_waiting() {
    let begin = work::new_state();
    let well = Disk::new(begin.clone());
    let opened = Opened::over(&well, BEGIN).unwrap();
    let of_the_open = well.operations();
    opened.close().await;
    for round in 0..200 {
        let plan = Plan { at: of_the_open + 10 + round % 60, fault: Fault::Io, from_then_on: true };
        let disk = Disk::failing(begin.clone(), plan);
        let opened = Opened::over(&disk, BEGIN).unwrap();
        let mut callers = tokio::task::JoinSet::new();
        for _ in 0..32 {
            let store = opened.store.clone();
            // Errors and all: somebody comes at the very moment when the writer leaves.
            callers.spawn(async move {
                for _ in 0..60 {
                    drop(ask(&store, Ask::Pause, BEGIN).await);
                    drop(ask(&store, Ask::Resume, BEGIN).await);
                }
            });
        }
        let all = async { while callers.join_next().await.is_some() {} };
        tokio::time::timeout(Duration::from_secs(20), all).await.expect("somebody waits for ever");
        opened.close().await;
    }
}

/// A disk that says that it did what it did not is noticed.
#[tokio::test]
async fn negative_control_a_disk_that_lies_is_noticed() {
    let mut dice = fastrand::Rng::with_seed(11);
    let history = record(work::new_state(), BEGIN, GROUPS, &mut dice).await;
    let well = Disk::new(history.begin.clone());
    work_on(&well, &history).await.unwrap();
    let mut noticed = 0;
    for part in 1..20 {
        let plan = Plan { at: well.operations() * part / 20, fault: Fault::Lie, from_then_on: true };
        let disk = Disk::failing(history.begin.clone(), plan);
        let result = async {
            let answered = work_on(&disk, &history).await?;
            judge_what_is_left(&disk, &history.begin, &history, answered, &mut dice).await
        };
        noticed += u32::from(result.await.is_err());
    }
    assert!(noticed > 15, "only {noticed} of 19 lies were noticed");
}
