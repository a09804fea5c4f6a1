//! Snapshots of a store: whole and consistent under full load (row D8), found out when a bit of one is flipped,
//! put back with what fence.md 17 to 19 say, and made before a migration.
//!
//! `SNAPSHOTS=n` makes more of them under load, `FLIPS=n` flips more bits, `CUTS=n` cuts at more places, `SEED=n`
//! repeats what was printed.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "snapshots/damage.rs"]
mod damage;
#[path = "snapshots/load.rs"]
mod load;
#[path = "snapshots/making.rs"]
mod making;
#[path = "snapshots/restores.rs"]
mod restores;
#[path = "snapshots/work.rs"]
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
