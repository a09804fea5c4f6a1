//! The state file and the ledger under what a machine does to them: power cuts, failing and full disks,
//! flipped bits, `kill -9`. Whatever had its answer is there afterwards, nothing is half done, nothing that
//! may have been published can be published again, and a damaged file is refused in words.
//!
//! Short rounds by default; `tests/release.sh` runs the long ones. Every random test prints its seed and
//! takes `SEED=`. Each kind of harm has a negative control that must be noticed.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod client;
mod compaction;
mod compare;
mod damage;
#[path = "../it/description.rs"]
mod description;
mod disk;
mod faults;
mod host;
mod judge;
mod kill;
mod moments;
mod power;
mod powercut;
#[expect(dead_code, reason = "it is shared, and not all of it is used here")]
#[path = "../it/rig.rs"]
mod rig;
mod syscalls;
mod work;

/// A knob of the environment.
fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).ok().map_or(otherwise, |text| text.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

fn seed() -> u64 {
    let seed = number("SEED", fastrand::u64(..1 << 40));
    println!("SEED={seed}");
    seed
}
