//! A seeded simulation: the real state machine over the real store, with a made-up world around them.
//!
//! Random submits, cancels, pauses, retries, resolutions, crashes (also between a commit and the act that it
//! allows), outside workers and programs with and without a browser of cove's, lost browsers, sites that ask for a person, provider failures, browsers that do not answer, full disks, machines without room, browsers that take too much,
//! slow commits, clock steps and restores of an older state file, on virtual time. Beside it runs a reference model (`sim/judge.rs`) of
//! what was acknowledged and of what the site saw. After every step all indexes are checked and the judge
//! looks: nothing is posted twice, nothing acknowledged is lost, nothing starts that must not.
//! `SEED=n` runs one seed, `ROUNDS=n` more of them; a failing seed is printed.
//!
//! The negative control switches the fence off in the world: clicks are dispatched without asking, and
//! the judge must notice.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "sim/judge.rs"]
mod judge;
#[path = "sim/world.rs"]
mod world;

use std::path::{Path, PathBuf};

use cove::engine::event::Event;
use cove::store::STATE_FILE;
use world::World;

const STEPS: u32 = 320;

async fn run(seed: u64, fence_off: bool) -> world::Tally {
    let base = if Path::new("/dev/shm").is_dir() { PathBuf::from("/dev/shm") } else { std::env::temp_dir() };
    let folder = tempfile::tempdir_in(base).unwrap();
    let mut world = World::new(folder.path(), seed, fence_off).await;
    let snapshot = folder.path().join("snapshot");
    if world.turn(Event::Recovered(Vec::new())).await.is_err() {
        world.restart().await;
    }
    for _ in 0..STEPS {
        if world.step().await.is_err() {
            world.restart().await;
        }
        match world.dice.u16(..300) {
            0 => {
                world.close().await;
                std::fs::copy(folder.path().join(STATE_FILE), &snapshot).unwrap();
                world.open().await;
            }
            1 if snapshot.exists() => world.restore(&snapshot).await,
            _ => {}
        }
        world.look().await;
    }
    world.nothing_is_left_behind().await;
    world.close().await;
    world.tally()
}

fn in_a_runtime(seed: u64, fence_off: bool) -> std::thread::Result<world::Tally> {
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(run(seed, fence_off))
    })
    .join()
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

#[test]
fn nothing_twice_and_nothing_lost_over_random_histories() {
    let rounds = number("ROUNDS").unwrap_or(25);
    let seeds = number("SEED").map_or_else(
        || {
            let first = fastrand::u64(..1 << 40);
            first..first + rounds
        },
        |seed| seed..seed + 1,
    );
    println!("seeds {seeds:?}, {STEPS} steps each");
    let mut total = world::Tally::default();
    for seed in seeds.clone() {
        let tally = in_a_runtime(seed, false);
        assert!(tally.is_ok(), "run again with SEED={seed}");
        total.add(&tally.unwrap());
    }
    println!("{} histories: {total}; 0 posted twice, 0 lost", seeds.end - seeds.start);
    // Histories in which something never happens prove nothing of it. A few of them may well do without.
    if seeds.end - seeds.start >= 100 {
        for (what, times) in total.parts() {
            assert!(times > 0, "no history had any {what}");
        }
    }
}

#[test]
fn negative_control_without_the_fence_the_judge_notices() {
    let noticed = (0..10).filter(|seed| in_a_runtime(*seed, true).is_err()).count();
    assert!(noticed > 5, "only {noticed} of 10 histories without a fence were noticed");
}
