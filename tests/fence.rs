//! The proof with real browsers: whatever is killed, at whatever moment, nothing is published twice.
//!
//! A daemon, its state file and Chromium are real; the practice site counts the posts from outside. `rounds` kills
//! around the click, `mishaps` breaks the browser and its page (X2), `fleet` kills the daemon under many browsers
//! (X3), `outcomes` and `walls` hold the rules of fence.md that are seen from outside. `ROUNDS=n` makes more of the
//! rounds, `SEED=n` repeats what was printed.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "it/description.rs"]
mod description;
#[path = "fence/fleet.rs"]
mod fleet;
#[path = "fence/judge.rs"]
mod judge;
#[path = "fence/kills.rs"]
mod kills;
#[path = "fence/mishaps.rs"]
mod mishaps;
#[path = "fence/moments.rs"]
mod moments;
#[path = "fence/outcomes.rs"]
mod outcomes;
#[path = "it/rig.rs"]
#[allow(dead_code, reason = "the rig of all tests from outside")]
mod rig;
#[path = "fence/rounds.rs"]
mod rounds;
#[path = "fence/walls.rs"]
mod walls;

fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).ok().map_or(otherwise, |text| text.parse().unwrap())
}

/// Of this run; printed, so that what failed can be repeated.
fn seed(test: &str) -> u64 {
    let seed = number("SEED", fastrand::u64(..1 << 40));
    println!("{test}: SEED={seed}");
    seed
}
